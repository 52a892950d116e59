"""The judge's words: the prompt that shows it two programs, the verdict in its answer, and J1's "Wait".

Training (stage 3) and selection (stage 4) must ask in the same words and read answers in the same way, so both are here.
"""
import re

VERDICT = "<best>{}</best>"  # how the judge names the better program, A or B

# The judge's protocol (DaJ, arXiv 2601.22230, section 3), spelled out for models that follow instructions.
PROTOCOL = f"""You are given a programming problem and two candidate solutions, A and B. Decide which one is more likely to be correct.
Restate what is required. Walk through each candidate and say what it really does. Try edge cases and an example by hand.
Compare the two, then decide. End your answer with {VERDICT.format("A")} or {VERDICT.format("B")}.

"""

# J1 (arXiv 2505.11875): this in place of the answer's end, so that the judge thinks again.
WAIT = "\nWait\n"


def judge_prompt(problem, code_a, code_b, chat=False):
    """What the judge reads: the problem and the two programs, for a chat model below PROTOCOL.

        Steps: sort down, add one.
        8186 -> 9972
        A:
        def f(x): ...
        B:
        def f(x): ...
    """
    text = f"{problem['prompt'].rstrip()}\nA:\n{code_a.rstrip()}\nB:\n{code_b.rstrip()}\n"
    return PROTOCOL + text if chat else text


def think_on(tokenizer, prompt_ids, completion):
    """Prompt ids under which a judgment goes on: its end token taken back, WAIT in its place."""
    said = completion.ids[:-1] if completion.finished else completion.ids
    return prompt_ids + said + tokenizer(WAIT, add_special_tokens=False).input_ids


def parse_verdict(text):
    """"A", "B", or None if the text names neither. The last verdict counts."""
    found = re.findall(VERDICT.format(r"\s*([AB])\s*"), text)
    return found[-1] if found else None
