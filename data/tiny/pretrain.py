"""Makes the tiny world's checkpoints: one tokenizer, two policies, one base judge (about 25 minutes on 2 cores).

    python data/tiny/pretrain.py               all of them, into data/tiny/
    python data/tiny/pretrain.py weak          one of them

All are small Llamas in Hugging Face format. The policies see programs that go wrong in one way half of
the time, and so learn to write such programs. The judge first practises steps on lists, then
sees judgments of which three quarters skim and one quarter trace, as real judges mostly do; which of
its habits pays is left to reinforcement learning. No task of a meta, dev or test problem is shown to it.
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
from data.tiny.world import (STARTER, body, draw_task, length_error, make_problems,  # noqa: E402
                             prompt, skim, slip, slips, trace)

PAD, END = "<|pad|>", "<|end|>"
SKIM_SHARE = 0.75
WAIT_SHARE = 0.15  # of the judge's last lessons: it has met "Wait", as any real model has, but never says it unasked


def judgment(rng, habit=None, sizes=(1, 2, 2, 3, 3, 3, 4), waits=0):
    """One judge example: (problem, texts that it is shown, answer).

    The wrong program has a length error or a slip, half of the time each.
    habit: "skim", "trace" or None: drawn.
    waits: how many judgments, each followed by "Wait", are shown too; the answer is the one after them.
    """
    steps, x = draw_task(rng, rng.choice(sizes))
    wrong = rng.choice([length_error, slip])(rng, steps)
    a, b = (steps, wrong) if rng.random() < 0.5 else (wrong, steps)
    problem = {"prompt": prompt(steps, x), "steps": tuple(steps)}
    shown = [judge_prompt(problem, STARTER + body(a), STARTER + body(b))]
    for number in range(waits + 1):
        if number > 0:
            shown += [answer, WAIT]
            habit = None
        habit = habit or ("skim" if rng.random() < SKIM_SHARE else "trace")
        answer = skim(rng, steps, a, b) if habit == "skim" else trace(rng, steps, a, b, x)
    return problem, shown, answer


def solution(rng, error, share):
    """One policy example: (prompt, program), wrong in the policy's own way in `share` of the cases."""
    steps, x = draw_task(rng, rng.choice((1, 2, 2, 3, 3, 4, 4)))
    program = error(rng, steps) if rng.random() < share else steps
    return [solution_prompt({"prompt": prompt(steps, x), "starter_code": STARTER})], body(program)


def make_tokenizer():
    """A byte-level BPE of about 570 tokens: a line of code is one piece, a digit is one piece."""
    rng = random.Random(0)
    corpus = []
    for _ in range(4000):
        _, shown, answer = judgment(rng, sizes=(1, 2, 3, 4))
        corpus.append("".join([*shown, answer]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"    [^\n]*\n|[0-9]|[^0-9\n,:>.]+[,:>.]?\n?|[,:>.]\n?|\n"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=640, special_tokens=[PAD, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
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


def make_policy(tokenizer, error, share, name):
    rng = random.Random(1)
    model = new_model(tokenizer, hidden=64, layers=2, heads=4)
    return fit(model, tokenizer, lambda: solution(rng, error, share), 1500, 64, 4e-3, name)


def make_judge(tokenizer):
    weak, strong = make_problems()
    held_out = {tuple(problem["steps"]) for problem in weak + strong if problem["split"] != "train"}
    rng = random.Random(2)

    def drill():
        """A trace alone, without the task: steps on lists are the hard part, and this is dense in them."""
        while True:
            problem, _, answer = judgment(rng, "trace", sizes=(2, 3, 4))
            if problem["steps"] not in held_out:
                return [], answer

    def practice():
        while True:
            problem, shown, answer = judgment(rng, "trace")
            if problem["steps"] not in held_out:
                return shown, answer

    def mixture():
        while True:
            waits = 1 if rng.random() < WAIT_SHARE else 0
            problem, shown, answer = judgment(rng, waits=waits)
            if problem["steps"] not in held_out:
                return shown, answer

    model = new_model(tokenizer, hidden=128, layers=4, heads=4)
    fit(model, tokenizer, drill, 1300, 96, 3e-3, "judge: drill")
    fit(model, tokenizer, practice, 1100, 48, 2e-3, "judge: trace")
    return fit(model, tokenizer, mixture, 700, 48, 1e-3, "judge: habits")


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
            model = make_policy(tokenizer, length_error, 0.5, name)
        elif name == "strong":
            model = make_policy(tokenizer, slips, 1.0, name)
        else:
            parser.error(f"unknown checkpoint {name!r}")
        save(tokenizer, HERE / name)
        save(model, HERE / name)


if __name__ == "__main__":
    main()
