"""Makes the checkpoints of the world of edge cases: one tokenizer, two policies, one base judge.

    python data/edges/pretrain.py --device cuda   all of them, into data/edges/
    python data/edges/pretrain.py weak strong     some of them: weak, strong, practice, judge;
                                                  judge goes on from practice, in the same --out

The defaults are the settings of the shipped checkpoints. Those were made on an H200, beside four
other trainings, in four and a half minutes: 70 s for the examples, 60 s for the policies, 135 s for
the judge. One busy CPU core takes 1.5 s for a step of practice, 0.8 s for one of habits and 0.09 s
for one of a policy: about an hour on two free cores, not measured whole. The examples are the same
however many processes draw them; the weights differ a little by device.

All are small Llamas in Hugging Face format. The policies see programs that go wrong as weak_program
and strong_program say (data/edges/world.py), and so learn to write such programs; sampled at
temperature 0.7, as here, the weak one errs in a sixth of its easy programs, not in half. The judge
learns in two phases: *practice* (try examples, one after the other, no verdict; its checkpoint is
not shipped), then *habits* (judgments of which most skim and some try an example, as real judges
mostly do). Which of its habits pays is left to reinforcement learning. No task of a meta, dev or
test problem is shown to it.
"""
import argparse
import math
import multiprocessing
import os
import random
import sys
import time
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM,  # noqa: E402
                          PreTrainedTokenizerFast)

from data.benchmarks import solution_prompt  # noqa: E402
from data.edges.world import (STARTER, body, choose_examples, draw_task, edge_of,  # noqa: E402
                              length_error, make_problems, prompt, skim, slip, strong_program,
                              trace, verdict, weak_program)
from data.judge import WAIT, judge_prompt  # noqa: E402

PAD, END = "<|pad|>", "<|end|>"
SKIM_SHARE = 0.75        # of first looks
SKIM_AFTER_WAIT = 0.65   # it has met "Wait", as any real model has, but mostly not to its good
WAIT_UNDECIDED = 0.15    # how often it says "Wait" by itself where no example has told yet
WAIT_DECIDED = 0.02      # and where one has
POLICY_BATCH = 64
CHUNK = 512              # examples that are drawn from one random stream


# ---------------------------------------------------------------- judgments

def draw_pair(rng, held_out=frozenset()):
    """Steps, examples, and a right and a wrong program as A and B, in random order.

    About one wrong program in fifty does the same as the right one: a line too many or too few
    changed nothing.
    """
    hard = rng.random() < 0.65
    while True:
        steps, shows, hides = draw_task(rng, rng.choice((2, 3, 3)), hard)
        if tuple(steps) not in held_out:
            break
    examples = choose_examples(rng, shows, hides, rng.choice((1, 2, 3)) if hard else 0)
    if rng.random() < (0.75 if hard else 0.2):
        wrong = slip(steps, edge_of(steps) if hard else rng.randrange(len(steps)))
    else:
        wrong = length_error(rng, steps)
    a, b = (steps, wrong) if rng.random() < 0.5 else (wrong, steps)
    return steps, examples, a, b


def think(rng, steps, examples, a, b, waits=0):
    """A judgment that thinks on `waits` times: [waits + 1] texts, each with a verdict."""
    segments = []
    tried = []
    known = None  # the program that an example has shown to be the right one
    for number in range(waits + 1):
        if rng.random() < (SKIM_AFTER_WAIT if number else SKIM_SHARE):
            text, best = skim(rng, steps, a, b)
        else:
            text, known = look(rng, steps, examples, a, b, tried, known)
            best = known or rng.choice("AB")
        segments.append(text + verdict(best))
    return segments


def look(rng, steps, examples, a, b, tried, known):
    """Try examples that were not tried yet: (text, the program known to be right or None)."""
    text = ""
    while True:
        left = [x for x in examples if x not in tried]
        if not left or (known and rng.random() < 0.5):
            return text + (f"sure: only {known}.\n" if known else "sure: both.\n"), known
        x = rng.choice(left)
        tried.append(x)
        more, shown = trace(steps, a, b, examples, x)
        text += more
        known = known or shown
        if rng.random() > (WAIT_DECIDED if known else WAIT_UNDECIDED):
            return text, known
        text += "Wait\n"


def what_is_shown(steps, examples, a, b):
    problem = {"prompt": prompt(steps, examples)}
    return judge_prompt(problem, STARTER + body(a), STARTER + body(b))


def habits(rng, held_out):
    """(texts that the judge is shown, its answer): the answer is what comes after the waits."""
    steps, examples, a, b = draw_pair(rng, held_out)
    segments = think(rng, steps, examples, a, b, waits=rng.choice((0, 0, 0, 0, 1, 2, 3, 4)))
    shown = [what_is_shown(steps, examples, a, b)]
    for segment in segments[:-1]:
        shown += [segment, WAIT]
    return shown, segments[-1]


def practice(rng, held_out):
    """(texts, answer): three examples tried, one after the other, and no verdict.

    Copying an example and running steps on it are the hard part, and this is dense in them.
    """
    steps, examples, a, b = draw_pair(rng, held_out)
    tries = [trace(steps, a, b, examples, x)[0] for x in rng.sample(examples, 3)]
    return [what_is_shown(steps, examples, a, b)], "Wait\n".join(tries)


# ---------------------------------------------------------------- programs

def solution(rng, policy):
    """(texts, answer) for a policy: a program, wrong in the policy's own way."""
    hard = rng.random() < 0.6
    steps, shows, hides = draw_task(rng, rng.choice((2, 3, 3)), hard)
    examples = choose_examples(rng, shows, hides, rng.choice((1, 2, 3)) if hard else 0)
    problem = {"prompt": prompt(steps, examples), "starter_code": STARTER}
    return [solution_prompt(problem)], body(policy(rng, steps))


def weak_solution(rng, _):
    return solution(rng, weak_program)


def strong_solution(rng, _):
    return solution(rng, strong_program)


# ---------------------------------------------------------------- tokens

@lru_cache(maxsize=None)
def the_tokenizer():
    """A byte-level BPE: a line of code, a digit, the letter of an example are one piece each."""
    rng = random.Random("tokenizer")
    corpus = []
    for _ in range(4000):
        for shown, answer in (habits(rng, ()), practice(rng, ())):
            corpus.append("".join([*shown, answer]))
    pieces = Regex(r"    [^\n]*\n|try |[0-9_]|[^0-9_\n,:>.]+[,:>.]?\n?|[,:>.]\n?|\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pieces, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=1000, special_tokens=[PAD, END], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END,
                                   clean_up_tokenization_spaces=False)


@lru_cache(maxsize=200_000)
def line_ids(line):
    return the_tokenizer()(line, add_special_tokens=False).input_ids


def encode(text):
    """Token ids of a text. No piece goes beyond a line, so lines can be encoded one by one."""
    ids = []
    for line in text.splitlines(keepends=True):
        ids += line_ids(line)
    return ids


def draw_chunk(job):
    """CHUNK examples of one random stream: ([token ids], [how many of them are only shown])."""
    draw, number, held_out = job
    rng = random.Random(f"{draw.__name__}/{number}")
    rows = []
    n_shown = []
    for _ in range(CHUNK):
        texts, answer = draw(rng, held_out)
        shown = []
        for text in texts:
            shown += encode(text)  # each by itself, as a model writes them
        ids = shown + encode(answer) + [the_tokenizer().eos_token_id]
        rows.append(np.array(ids, dtype=np.int16))
        n_shown.append(len(shown))
    return rows, n_shown


class Pool:
    """Examples drawn in advance: ids and labels [examples, longest]; labels not scored are -100."""

    def __init__(self, draw, size, workers, held_out=frozenset()):
        jobs = [(draw, number, held_out) for number in range(math.ceil(size / CHUNK))]
        rows = []
        n_shown = []
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            for some, shown in pool.imap(draw_chunk, jobs):
                rows += some
                n_shown += shown
        self.lengths = np.array([len(row) for row in rows])
        self.ids = torch.full((len(rows), int(self.lengths.max())), the_tokenizer().pad_token_id,
                              dtype=torch.int16)
        self.labels = torch.full_like(self.ids, -100)
        for k, (row, shown) in enumerate(zip(rows, n_shown)):
            row = torch.from_numpy(row)
            self.ids[k, :len(row)] = row
            self.labels[k, shown:len(row)] = row[shown:]

    def to(self, device):
        self.ids = self.ids.to(device)
        self.labels = self.labels.to(device)

    def batches(self, batch, rng):
        """Rows of batches without end; those of a batch are about equally long.

        Raises ValueError where there are fewer than 8 batches.
        """
        if len(self.lengths) < 8 * batch:
            raise ValueError(f"--pool: {len(self.lengths)} examples are fewer than 8 batches "
                             f"of {batch}")
        while True:
            order = rng.permutation(len(self.lengths))
            for start in range(0, len(order) - batch * 8 + 1, batch * 8):
                some = order[start:start + batch * 8]
                some = some[np.argsort(self.lengths[some], kind="stable")].reshape(8, batch)
                yield from some[rng.permutation(8)]


# ---------------------------------------------------------------- training

def new_model(hidden, layers, heads, intermediate):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(the_tokenizer()), hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=the_tokenizer().eos_token_id, pad_token_id=the_tokenizer().pad_token_id))


def fit(model, pool, name, steps, batch, lr, device):
    """Next-token training; only the answers are scored."""
    model.to(device).train()
    pool.to(device)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1},
                                   {"params": plain, "weight_decay": 0.0}],
                                  lr=lr, betas=(0.9, 0.98), fused=True)
    batches = pool.batches(batch, np.random.default_rng(0))
    started = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            warm_up = (step + 1) / 100
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = lr * min(warm_up, cosine)
        rows = next(batches)
        width = int(pool.lengths[rows].max())
        at = torch.from_numpy(rows).to(device)
        ids = pool.ids[at, :width].long()        # [batch, width]
        labels = pool.labels[at, :width].long()  # [batch, width]
        # Padding is on the right: causal attention never sees it.
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99 or step == steps - 1:
            print(f"{name} step {step + 1} of {steps}, loss {loss.item():.4f}, "
                  f"{time.time() - started:.0f} s", flush=True)
    return model


def save(model, path):
    the_tokenizer().save_pretrained(path)
    model.cpu().save_pretrained(path)
    print(f"wrote {path}", flush=True)


def held_out_tasks():
    """The steps of every meta, dev and test problem: tasks that the judge must not have seen."""
    weak, strong = make_problems()
    return frozenset(tuple(problem["steps"]) for problem in weak + strong
                     if problem["split"] != "train")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["weak", "strong", "practice", "judge"]
    parser.add_argument("what", nargs="*", default=every, help="checkpoints to make")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="that draw examples")
    parser.add_argument("--hidden", type=int, default=128, help="size of the judge")
    parser.add_argument("--intermediate", type=int, default=384)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64, help="of the judge")
    parser.add_argument("--pool", type=int, default=131_072, help="examples of a phase")
    parser.add_argument("--practice-steps", type=int, default=3000)
    parser.add_argument("--practice-lr", type=float, default=3e-3)
    parser.add_argument("--habits-steps", type=int, default=1500)
    parser.add_argument("--habits-lr", type=float, default=1e-3)
    parser.add_argument("--policy-steps", type=int, default=2500)
    cfg = parser.parse_args()
    if set(cfg.what) - set(every):
        parser.error(f"checkpoints are {', '.join(every)}")
    if "judge" in cfg.what and "practice" not in cfg.what and not (cfg.out / "practice").exists():
        parser.error(f"judge goes on from {cfg.out / 'practice'}, which is not there: "
                     "name practice, too")
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    # Examples first: processes must not be forked once a GPU is in use.
    the_tokenizer()    # once, for all of those processes
    held_out = held_out_tasks()
    draws = {
        "weak": weak_solution,
        "strong": strong_solution,
        "practice": practice,
        "judge": habits,
    }
    pools = {}
    for name in cfg.what:
        started = time.time()
        size = cfg.pool // 4 if name in ("weak", "strong") else cfg.pool
        pools[name] = Pool(draws[name], size, cfg.workers, held_out)
        print(f"{name}: {len(pools[name].lengths)} examples of {pools[name].lengths.mean():.0f} "
              f"tokens, {time.time() - started:.0f} s", flush=True)

    for name in cfg.what:
        if name == "practice":
            model = new_model(cfg.hidden, cfg.layers, cfg.heads, cfg.intermediate)
            steps, batch, lr = cfg.practice_steps, cfg.batch, cfg.practice_lr
        elif name == "judge":
            model = AutoModelForCausalLM.from_pretrained(cfg.out / "practice")
            steps, batch, lr = cfg.habits_steps, cfg.batch, cfg.habits_lr
        else:
            model = new_model(hidden=64, layers=2, heads=4, intermediate=192)
            steps, batch, lr = cfg.policy_steps, POLICY_BATCH, 4e-3
        print(f"{name}: {sum(p.numel() for p in model.parameters())} parameters", flush=True)
        save(fit(model, pools[name], name, steps, batch, lr, cfg.device), cfg.out / name)


if __name__ == "__main__":
    main()
