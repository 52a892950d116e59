"""The judge's words: the prompt that shows two candidates, the verdict in an answer, J1's "Wait".

Training (stage 3) and selection (stage 4) must ask in the same words and read answers in the same
way, so both are here. Other words for a chat model: PROTOCOL. For all models: `judge_prompt`. (The
question about a single candidate, which only selection asks, is select.py's. To think on after a
Wait, training has token ids, `prompt_after_wait`; selection has the text of a file, and its own
`LocalJudge.prompt`.)
"""
import re

from data.benchmarks.answers import CLOSING, OPENING, thoughts_are_open
from data.rows import asks_for_answers
from data.text import encode, encode_behind

VERDICT = "<best>{}</best>"  # how the judge names the better program, A or B

# The judge's protocol (DaJ, arXiv 2601.22230, section 3),
# spelled out for models that follow instructions.
PROTOCOL = f"""You are given a programming problem and two candidate solutions, A and B. Decide which one is more likely to be correct.
Restate what is required. Walk through each candidate and say what it really does. Try edge cases and an example by hand.
Compare the two, then decide. End your answer with {VERDICT.format("A")} or {VERDICT.format("B")}.

"""

# The same for candidates that are answers of any kind (rows.py, `task`), in our words: general
# preference data have no protocol in common. CRITERION is added where a problem says what counts.
ANSWER_PROTOCOL = f"""You are given a request, or a conversation that ends with one, and two answers to it, A and B. Decide which one is better.
Restate what is asked for. Walk through each answer and say what it really does: is it right, does it do what was asked,
is it safe? Check facts, sums and code by hand. Neither length nor order counts.
Compare the two, then decide. End your answer with {VERDICT.format("A")} or {VERDICT.format("B")}.

"""
CRITERION = "What counts here: {}\n\n"

# A line that could be taken for one of judge_prompt's own. Other words there want others here.
LIKE_OURS = re.compile(r"^\s*(?:A:|B:|```)", re.MULTILINE)

# J1 (arXiv 2505.11875): this in place of the answer's end, so that the judge thinks again.
WAIT = "\nWait\n"


def judge_prompt(problem, code_a, code_b, chat=False):
    """What the judge reads: the problem and the two candidates.

    For a chat model the problem stands below a protocol, and the candidates in fences. For others:

        Steps: rotate right, evens.
        p 634 -> 46
        A:
        def f(x): ...
        B:
        def f(x): ...

    A plain model reads no instructions: it must know the task from its training, as the judge of
    the world of edge cases does, pretrained on exactly these words (data/edges/pretrain.py).

    The protocol is PROTOCOL for programs and ANSWER_PROTOCOL where the problem asks for answers.

    No candidate can end its block: a fence is longer than any in the candidates, and where one has
    a line that looks like one of the prompt's own, a plain model sees fences, too.
    """
    answers = asks_for_answers(problem)
    code_a = code_a.rstrip()
    code_b = code_b.rstrip()
    if chat or LIKE_OURS.search(code_a) or LIKE_OURS.search(code_b):
        longest = max(map(len, re.findall("`+", code_a + " " + code_b)), default=0)
        fence = "`" * max(3, longest + 1)
        language = "" if answers else "python"
        code_a = f"{fence}{language}\n{code_a}\n{fence}"
        code_b = f"{fence}{language}\n{code_b}\n{fence}"
    text = f"{problem['prompt'].rstrip()}\nA:\n{code_a}\nB:\n{code_b}\n"
    if answers and problem.get("criterion"):
        text = CRITERION.format(problem["criterion"]) + text
    if not chat:
        return text
    return (ANSWER_PROTOCOL if answers else PROTOCOL) + text


def prompt_after_wait(tokenizer, prompt_ids, completion):
    """Prompt ids under which a judgment goes on: its end token taken back, WAIT in its place."""
    return prompt_ids + completion.said + encode_behind(tokenizer, WAIT)


# ---------------------------------------------------------------- the verdict in an answer

# "A" or "B" between the tags, also as **A**, `a` or "Solution A".
TAG = VERDICT.format(r"[\s*_`'\"(]*(?:(?:candidate|solution|program)\s+)?([AB])[\s*_`'\".)]*")
LAST = re.compile(TAG + r"[\s*_`.!]*\Z", re.IGNORECASE)
# The instruction, not a choice: "<best>A</best> or <best>B</best>",
# "<best>A</best> / <best>B</best>".
BETWEEN = r"(?:[\W_]*\b(?:or|and|else|otherwise)\b(?:[\W_]|with\b|by\b)*|[^\w\n.!?]+)"
EITHER = re.compile(TAG + BETWEEN + LAST.pattern, re.IGNORECASE)
# Words in front of a verdict that make it the one that was not chosen:
# "<best>A</best>, not <best>B</best>".
NOT_CHOSEN = re.compile(r"(\b(not|never|cannot|than|over|nor|neither|instead of|against|unlike"
                        r"|versus|vs\.?|beats|or maybe|or perhaps)|n['’]t)"
                        r"(\s+(be|say|choose|pick|necessarily|really))?[\s*_`'\"“‘(]*\Z",
                        re.IGNORECASE)
BOX = re.compile(r"<\|(?:begin|end)_of_box\|>")  # around a final answer of GLM-V: formatting


def parse_verdict(text, finished=True):
    """"A" or "B", or None: only the verdict that ends a finished answer counts.

    finished: False for an answer that was cut off; it decides nothing, whatever it has said so far.

    So an instruction that is restated, a program that is quoted and a thought on the way are not
    taken for a verdict. Formatting that leaves no doubt does no harm.

        ... so the first is right. <best>A</best>                  A
        ... **<best>b</best>**.                                    B
        ... <best>A</best> No, it fails on []. <best>B</best>      B
        ... end with <best>A</best> or <best>B</best>.             None: both
        ... <best>A</best>, not <best>B</best>.                    None: the last one is not chosen
        ... its comment says `# <best>A</best>`                    None: quoted
        ... <best>A</best> because it sorts.                       None: not at the end
        <think> ... <best>A</best>                                 None: still thinking
    """
    text = BOX.sub("", text)
    last = LAST.search(text)
    if not finished or last is None or is_still_thinking(text):
        return None
    either = EITHER.search(text)
    if either and either[1].upper() != either[2].upper():
        return None
    line = text[:last.start()].rpartition("\n")[2]
    if is_quotation(line) or NOT_CHOSEN.search(line):
        return None
    return last[1].upper()


def opened_thoughts(tokenizer):
    """How every answer has begun: "<think>\\n" if the chat template ends in such a tag, else "".

    Before such thoughts end, nothing is decided, as if the judge had opened them itself.
    """
    prompt = tokenizer.decode(encode(tokenizer, "Which is better?"))
    return "<think>\n" if thoughts_are_open(prompt) else ""


def is_still_thinking(text):
    """Do the last thoughts that open at the beginning of a line never end?"""
    begins = [match.end() for match in OPENING.finditer(text)]
    return bool(begins) and not CLOSING.search(text, begins[-1])


def is_quotation(line):
    """Does what stands before a verdict on its line make it a quotation, say of a comment?"""
    if not line.strip(" \t*_`>"):
        return False       # it stands alone
    in_code = line.count("`") % 2 == 1
    return in_code or line.rstrip().endswith(("#", "//", '"', "'", "“", "‘"))
