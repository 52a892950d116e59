"""Makes the tiny world's checkpoints: one tokenizer, two policies, one base judge (about 30 minutes on 2 cores).

    python data/tiny/pretrain.py               all of them, into data/tiny/
    python data/tiny/pretrain.py weak          one of them

All are small Llamas in Hugging Face format. The policies see programs that go wrong in one way half of
the time, and so learn to write such programs. The judge first practises steps on lists, then sees judgments of which
most skim and some try an example, as real judges mostly do; which of its habits pays is left to reinforcement
learning. No task of a meta, dev or test problem is shown to it.
"""
import argparse
import math
import random
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import torch  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from data.benchmarks import solution_prompt  # noqa: E402
from data.judge import WAIT, judge_prompt  # noqa: E402
from data.tiny.world import (STARTER, STEPS, body, draw_steps, draw_task, edge_of, length_error,  # noqa: E402
                             make_problems, neighbour, prompt, skim, slip, strong_program, trace, verdict,
                             weak_program, LENGTH)

PAD, END = "<|pad|>", "<|end|>"
SKIM_SHARE = 0.75        # of first looks
SKIM_AFTER_WAIT = 0.65   # it has met "Wait", as any real model has, but mostly not to its good
WAIT_UNDECIDED = 0.15    # how often it says "Wait" by itself where an example has not told
WAIT_DECIDED = 0.02      # and where it has


def draw_pair(rng):
    """Steps, examples, and a right and a wrong program as A and B, in random order."""
    hard = rng.random() < 0.65
    steps, examples = draw_task(rng, rng.choice((2, 3)), hard)
    at = edge_of(steps) if hard else rng.randrange(len(steps))
    wrong = slip(steps, at) if rng.random() < (0.75 if hard else 0.2) else length_error(rng, steps)
    a, b = (steps, wrong) if rng.random() < 0.5 else (wrong, steps)
    return steps, examples, a, b


def think(rng, steps, examples, a, b, waits=0, skims=True):
    """A judgment that thinks on `waits` times: [waits + 1] texts, each with a verdict.

    skims: False for practice: always tries examples.
    """
    segments = []
    shown = "both"  # what the last example that was tried has shown; nothing yet
    tried = []
    for number in range(waits + 1):
        share = SKIM_AFTER_WAIT if number else SKIM_SHARE
        text = ""
        if skims and rng.random() < share:
            text, best = skim(rng, steps, a, b)
            segments.append(text + verdict(best))
            continue
        again = True
        while again:
            left = [x for x in examples if x not in tried]
            decided = "only" in shown
            if not left or (decided and rng.random() < 0.5):
                text += f"sure: {shown}.\n"
                break
            x = rng.choice(left)
            tried.append(x)
            more, shown = trace(steps, a, b, x)
            text += more
            wait = WAIT_DECIDED if "only" in shown else WAIT_UNDECIDED
            again = len(left) > 1 and rng.random() < wait
            if again:
                text += "Wait\n"
        best = shown[-1] if "only" in shown else rng.choice("AB")
        segments.append(text + verdict(best))
    return segments


def judgment(rng, skims=True, waits=0):
    """One judge example: (problem, texts that it is shown, answer): the answer is what comes after the waits."""
    steps, examples, a, b = draw_pair(rng)
    problem = {"prompt": prompt(steps, examples), "steps": tuple(steps)}
    segments = think(rng, steps, examples, a, b, waits, skims)
    shown = [judge_prompt(problem, STARTER + body(a), STARTER + body(b))]
    for segment in segments[:-1]:
        shown += [segment, WAIT]
    return problem, shown, segments[-1]


def drill(rng):
    """Traces alone of three lists, without a task: steps on lists are the hard part, and this is dense in them."""
    steps = draw_steps(rng, rng.choice((2, 3)), rng.random() < 0.7)
    at = rng.randrange(len(steps))
    other = slip(steps, at) if rng.random() < 0.7 else length_error(rng, steps)
    a, b = (steps, other) if rng.random() < 0.5 else (other, steps)
    shown = judge_prompt({"prompt": "Drill."}, STARTER + body(a), STARTER + body(b))
    texts = []
    for _ in range(3):
        x = [rng.randrange(10) for _ in range(LENGTH)]
        texts.append(trace(steps, a, b, x)[0])
    return [shown], "".join(texts)


def solution(rng, policy):
    """One policy example: (prompt, program), wrong in the policy's own way."""
    steps, examples = draw_task(rng, rng.choice((2, 3)), rng.random() < 0.6)
    shown = solution_prompt({"prompt": prompt(steps, examples), "starter_code": STARTER})
    return [shown], body(policy(rng, steps))


def make_tokenizer():
    """A byte-level BPE of about 600 tokens: a line of code is one piece, a digit is one piece."""
    rng = random.Random(0)
    corpus = []
    for _ in range(4000):
        _, shown, answer = judgment(rng, waits=1)
        corpus.append("".join([*shown, answer]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"    [^\n]*\n|[0-9]|[^0-9\n,:>.]+[,:>.]?\n?|[,:>.]\n?|\n"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=900, special_tokens=[PAD, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END,
                                   clean_up_tokenization_spaces=False)


def new_model(tokenizer, hidden, layers, heads):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024,
        tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))


def encode(tokenizer, texts):
    """Token ids of texts, one after the other, each encoded by itself as a model writes them."""
    ids = []
    for text in texts:
        ids += tokenizer(text, add_special_tokens=False).input_ids
    return ids


def fit(model, tokenizer, draw, steps, batch, lr, name):
    """Next-token training on (texts shown, answer) pairs from draw(); only the answers are scored."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": plain, "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98))
    end = tokenizer.eos_token_id
    started = time.time()
    bar = tqdm(range(steps), desc=name, disable=None)
    for step in bar:
        for group in optimizer.param_groups:
            warm_up = (step + 1) / 50
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = lr * min(warm_up, cosine)
        pairs = [draw() for _ in range(batch)]
        prompts = [encode(tokenizer, shown) for shown, _ in pairs]
        answers = [encode(tokenizer, [answer]) + [end] for _, answer in pairs]
        width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers))
        # Padding is on the right: causal attention never sees it.
        ids = torch.full((batch, width), tokenizer.pad_token_id)  # [batch, width]
        scored = torch.zeros((batch, width), dtype=torch.bool)  # [batch, width]
        for row, (shown_ids, answer_ids) in enumerate(zip(prompts, answers)):
            length = len(shown_ids) + len(answer_ids)
            ids[row, :length] = torch.tensor(shown_ids + answer_ids)
            scored[row, len(shown_ids):length] = True
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state[scored[:, 1:]]  # [scored tokens, hidden]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][scored[:, 1:]])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            print(f"{name} step {step + 1} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
    return model


def make_policy(tokenizer, policy, name):
    rng = random.Random(1)
    model = new_model(tokenizer, hidden=64, layers=2, heads=4)
    return fit(model, tokenizer, lambda: solution(rng, policy), 1500, 64, 4e-3, name)


def make_judge(tokenizer):
    weak, strong = make_problems()
    held_out = {tuple(problem["steps"]) for problem in weak + strong if problem["split"] != "train"}
    rng = random.Random(2)

    def lessons(skims, waits):
        """A draw() of judgments, none of them of a task that is held out. waits: how many, drawn from these."""
        def draw():
            while True:
                problem, shown, answer = judgment(rng, skims, rng.choice(waits))
                if problem["steps"] not in held_out:
                    return shown, answer
        return draw

    model = new_model(tokenizer, hidden=128, layers=4, heads=4)
    fit(model, tokenizer, lambda: drill(rng), 800, 48, 3e-3, "judge: drill")
    fit(model, tokenizer, lessons(False, (0, 0, 1, 2)), 700, 40, 2e-3, "judge: tries")
    return fit(model, tokenizer, lessons(True, (0, 0, 1, 2, 3, 4)), 600, 40, 1e-3, "judge: habits")


def save(what, path):
    what.save_pretrained(path)
    print(f"wrote {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["weak", "strong", "judge"],
                        help="checkpoints to make: weak, strong, judge")
    what = parser.parse_args().what
    tokenizer = make_tokenizer()
    for name in what:
        if name == "judge":
            model = make_judge(tokenizer)
        elif name == "weak":
            model = make_policy(tokenizer, weak_program, name)
        elif name == "strong":
            model = make_policy(tokenizer, strong_program, name)
        else:
            parser.error(f"unknown checkpoint {name!r}")
        save(tokenizer, HERE / name)
        save(model, HERE / name)


if __name__ == "__main__":
    main()
