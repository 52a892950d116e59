"""The pieces of reproduce_gpu.sh: what only a GPU can tell, each in less than ten minutes.

    1  tests     the tests of the kernels that need a GPU
    2  kernels   the kernel benchmark, H = 2048
    3  kernels   the same, H = 4096
    4  signal    the outer signal s of a judge in bf16 beside fp32
    5  step      a bilevel training step of that judge, part by part, beside docs/scale.py
    6  edges     the main job of the world of edge cases on this device
    7  judge     a short training run of the judge, on that world's pairs

    bash reproduce_gpu.sh                 all of them
    python docs/gpu.py --piece 5          one
    python docs/gpu.py --size toy         all of them on a CPU, which shows that they run

A piece writes a block of its own into kernels/RESULTS.md or docs/RESULTS-gpu.md, between two
markers that name the piece and the device. When it runs again it replaces that block and nothing
else. What a piece has measured before it was cut off lies in --work and is not measured again.

The judge is --judge, or one of random weights in the shape of Qwen2.5: its time and memory are
real, its judgments are not.
"""
import contextlib
import datetime
import gc
import importlib.metadata
import json
import platform
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch  # noqa: E402
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM  # noqa: E402

import scale  # noqa: E402  docs/scale.py
import train_bilevel as tb  # noqa: E402
from bench_train import deal_rewards, model_on_paper  # noqa: E402  docs/bench_train.py
from data.flags import check_bounds, flag, heading, parse, run  # noqa: E402
from data.lora import checkpoint_layers  # noqa: E402
from data.pairs import Pair  # noqa: E402
from data.rows import (EDGES, EDGES_PROBLEMS, ROOT, UserError, read_problems,  # noqa: E402
                       read_rows, write_rows, write_whole)
from kernels import bench  # noqa: E402
from sample import stream  # noqa: E402


# ---------------------------------------------------------------- sizes

@dataclass
class Size:
    """How large everything is."""
    shape: dict           # of the random judge: fields of Qwen2Config
    prompt: int           # P: tokens of a judge's prompt, at least
    answer: int           # --max-new-tokens; random weights hardly ever end a judgment before
    batch: int            # B, and M, of the timed step
    group: int            # G
    rank: int             # of the adapters
    micro_tokens: int     # of a pass
    steps: int            # timed
    tests: list = field(default_factory=list)   # flags of pytest that choose tests
    bench: dict = field(default_factory=dict)   # settings of kernels.bench
    hidden: tuple = (2048, 4096)                # H of the kernel benchmark's two pieces
    edges: list = field(default_factory=list)   # more flags of the main job
    judge: list = field(default_factory=list)   # more flags of the judge's run
    test_problems: int = 16                     # of the judge's run


QWEN_0_5B = dict(
    hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
    intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True)
QWEN_1_5B = dict(
    hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
    intermediate_size=8960, vocab_size=151936, tie_word_embeddings=True)
QWEN_TOY = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, vocab_size=1000, tie_word_embeddings=True)
REAL = dict(
    prompt=1400, answer=512, batch=8, group=4, rank=16, micro_tokens=8192, steps=3,
    tests=["-k", "gpu"], bench={"tokens": [8192]},
    edges=["--weights", "instance"],
    judge=["--steps", "20", "--freeze-judge-steps", "6", "--batch", "8", "--meta-batch", "8"],
)
SIZES = {
    "1.5B": Size(shape=QWEN_1_5B, **REAL),
    "0.5B": Size(shape=QWEN_0_5B, **REAL),
    "toy": Size(
        shape=QWEN_TOY, prompt=60, answer=6, batch=2, group=2, rank=2, micro_tokens=8192, steps=1,
        tests=["-k", "sample_sums"],
        bench={"tokens": [16], "vocab": 200, "repeats": 2, "skip": ["torch.compile"]},
        hidden=(16, 32),
        edges=["--steps", "7", "--freeze-judge-steps", "1", "--batch", "2", "--meta-batch", "2",
               "--group", "2", "--max-new-tokens", "16"],
        judge=["--steps", "7", "--freeze-judge-steps", "1", "--batch", "2", "--meta-batch", "2"],
        test_problems=1,
    ),
}


@dataclass
class Settings:
    heading("what to measure")
    piece: list = flag(lambda: list(PIECES), "numbers of pieces", type=int)
    size: str = flag("1.5B", "shape of a random judge, and all other sizes", choices=list(SIZES))
    judge: str = flag("", "folder of a judge of 0.5 to 1.5 billion parameters (default: random)")
    device: str = flag(tb.DEVICE, "torch device")
    heading("output")
    results: str = flag("", "folder above kernels/RESULTS.md and docs/RESULTS-gpu.md (default: the "
                            "repository; toy: --work)")
    work: str = flag("", "folder for what is kept between calls (default runs/gpu-SIZE)")

    def __post_init__(self):
        check_bounds(self)
        self.work = Path(self.work or ROOT / f"runs/gpu-{self.size}")
        if not self.results:
            self.results = self.work if self.size == "toy" else ROOT
        self.results = Path(self.results)
        self.sizes = SIZES[self.size]
        for number in self.piece:
            if number not in PIECES:
                raise UserError(f"--piece {number}: expected numbers from 1 to {len(PIECES)}")
        if self.size != "toy" and not self.on_gpu:
            raise UserError(f"--device {self.device}: --size {self.size} needs a GPU; "
                            "--size toy runs on a CPU")

    @property
    def on_gpu(self):
        return self.device.startswith("cuda")

    def device_name(self):
        if self.on_gpu:
            return torch.cuda.get_device_name(self.device)
        return f"a CPU ({platform.machine()})"


@dataclass
class Block:
    """What a piece found: Markdown for one of the two files."""
    file: str
    text: str
    wrong: str = ""  # what is not as it should be


KERNEL_RESULTS = "kernels/RESULTS.md"
GPU_RESULTS = "docs/RESULTS-gpu.md"


# ---------------------------------------------------------------- 1: tests

def tests(cfg):
    """In a process of their own: a test that breaks the device leaves this one alone."""
    flags = ["-q", "-rfE", "-p", "no:cacheprovider", "tests/test_kernels.py", *cfg.sizes.tests]
    command = [sys.executable, "-m", "pytest", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    said = done.stdout.splitlines() or ["pytest said nothing"]
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    lines = [f"`pytest {' '.join(flags)}`", "", "```", *failed, said[-1], "```"]
    return Block(KERNEL_RESULTS, "\n".join(lines), wrong=said[-1] if done.returncode else "")


# ---------------------------------------------------------------- 2 and 3: kernel benchmark

def kernels_narrow(cfg):
    return kernel_benchmark(cfg, cfg.sizes.hidden[0])


def kernels_wide(cfg):
    return kernel_benchmark(cfg, cfg.sizes.hidden[1])


def kernel_benchmark(cfg, n_hidden):
    """The tables of kernels.bench for one H."""
    settings = bench.Settings(device=cfg.device, hidden=[n_hidden], **cfg.sizes.bench)
    (n_tokens,) = settings.tokens
    tables = ["`python -m kernels.bench --help` says what the columns mean.\n"]
    for mode in settings.modes:
        name = f"{mode}-{n_hidden}"
        result = part(cfg, name, lambda: bench.compare(n_tokens, n_hidden, mode, settings))
        title = (f"**{mode}**, T = {n_tokens}, H = {n_hidden}, V = {settings.vocab}, "
                 f"{settings.dtype}; "
                 f"floor {result['floor ms']:.3g} ms at {settings.peak:.0f} TFLOP/s")
        tables.append(f"{title}\n\n{bench.markdown(bench.COLUMNS, result['rows'])}")
        print(tables[-1], flush=True)
    return Block(KERNEL_RESULTS, "\n".join(tables))


# ---------------------------------------------------------------- the judge, and real prompts

def judge_folder(cfg):
    """--judge, or a folder with random weights, made at the first call."""
    if cfg.judge:
        return cfg.judge
    folder = cfg.work / "judge"
    if folder.exists():
        return str(folder)
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    torch.manual_seed(0)
    config = Qwen2Config(
        **cfg.sizes.shape, max_position_embeddings=32768, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    with torch.device(cfg.device):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    unfinished = folder.with_name("judge.new")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(folder)
    return str(folder)


def judge_in_words(cfg):
    if cfg.judge:
        return f"Judge {Path(cfg.judge).name}"
    return f"Judge of random weights in the shape of Qwen2.5-{cfg.size}"


def settings_of(cfg, **changes):
    """Of a bilevel step with this judge: adapters, all pairs in every step, tiny step sizes."""
    sizes = cfg.sizes
    usual = dict(
        judge=judge_folder(cfg),
        device=cfg.device,
        dtype="bfloat16",
        lora_rank=sizes.rank,
        batch=sizes.batch,
        meta_batch=sizes.batch,
        group=sizes.group,
        max_new_tokens=sizes.answer,
        micro_tokens=sizes.micro_tokens,
        freeze_judge_steps=0,
        check_hypergradient=0,
        lr=1e-6,
        domain_lr=0.0,
        instance_lr=0.0,
        seed=0,
    )
    return tb.Settings(**{**usual, **changes})


def long_pairs(cfg, count):
    """Pairs of two "programs" that have at least P tokens together: lines of execute.py."""
    tokenizer = AutoTokenizer.from_pretrained(judge_folder(cfg))
    lines = (ROOT / "execute.py").read_text(encoding="utf-8").splitlines()
    pairs = []
    for k in range(count):
        own = lines[7 * k:]
        n = 1
        while len(tokenizer("\n".join(own[:n])).input_ids) < cfg.sizes.prompt:
            n += 1
        first = {"code": "\n".join(own[:n // 2]), "policy": "none"}
        second = {"code": "\n".join(own[n // 2:n]), "policy": "none"}
        problem = {"problem_id": f"long/{k}", "prompt": "Which is better?"}
        pairs.append(Pair(f"long/{k}:first>second", problem, first, second, "A", "long"))
    return pairs


# ---------------------------------------------------------------- 4: the outer signal in bf16

MOST_ERROR = 0.1  # of s in bf16


def signal(cfg):
    """s_i = ⟨∇ℓ_i(θ), ṽ⟩ in bf16 against fp32: the same weights and the same judgments.

    ṽ is ∇L_meta(θ) of other judgments here: Adam's factors are fp32 in both. Rewards are dealt out,
    so that every pair has something to say.
    """
    sizes = cfg.sizes
    pairs = long_pairs(cfg, 2 * sizes.batch)
    rounded = SignalOf(cfg, "bfloat16")
    streams = [stream(0, "signal", k) for k in range(len(pairs))]
    groups = rounded.judge.rollout(pairs, streams, sizes.group)
    for k, group in enumerate(groups):
        group.rewards = [float((j + k) % 2) for j in range(sizes.group)]
    train = groups[:sizes.batch]
    meta = groups[sizes.batch:]

    exact = SignalOf(cfg, "float32")
    exact_v, _ = exact.v(meta)                              # [P]
    exact_s = exact.gradients(train) @ exact_v              # [B]
    del exact
    free_memory(cfg)

    own_v, importance = rounded.v(meta)
    gradients = rounded.gradients(train)                    # [B, P]
    found = {
        "∇ℓ in bf16, ṽ of fp32": gradients @ exact_v,
        "∇ℓ and ṽ in bf16": gradients @ own_v,
    }
    # Half of the judgments in a row, then every layer computed twice, too.
    prompt = max(len(group.prompt) for group in train)
    half_a_row = prompt + sizes.answer * sizes.group // 2
    rounded.judge.cfg = settings_of(cfg, micro_tokens=half_a_row)
    found["as the first, rows split"] = rounded.gradients(train) @ exact_v
    checkpoint_layers(rounded.judge.model)
    found["as the first, rows split, layers checkpointed"] = rounded.gradients(train) @ exact_v

    rows = [compare_signals(name, s, exact_s) for name, s in found.items()]
    unmoved = float((importance - 1).abs().max())
    wrong = []
    for row in rows:
        if row[""] != "∇ℓ and ṽ in bf16" and not row["relative error of s"] < MOST_ERROR:
            wrong.append(f"{row['']}: relative error {row['relative error of s']:.2g}, "
                         f"at most {MOST_ERROR} is expected")
    if not unmoved < 0.01:
        wrong.append(f"meta judgments of a judge that has not moved count 1 ± {unmoved:.2g}")
    text = (f"{judge_in_words(cfg)}; {len(train)} pairs, {sizes.group} judgments of each, rewards "
            f"dealt out; adapters of rank {sizes.rank} with B ~ N(0, 0.005). Signs: of the s_i "
            "above a tenth of their root mean square.\n\n"
            f"{bench.markdown(list(rows[0]), rows)}\n"
            f"Meta judgments of a judge that has not moved count 1 ± {unmoved:.1g}.")
    return Block(GPU_RESULTS, text, wrong="; ".join(wrong))


def compare_signals(name, s, exact):
    """A row of the table. s, exact: [B]."""
    clear = exact.abs() > 0.1 * exact.square().mean().sqrt()
    right = (s.sign() == exact.sign()) & clear
    error = float((s - exact).norm() / exact.norm())
    signs = f"{int(right.sum())} of {int(clear.sum())}"
    return {"": name, "relative error of s": error, "signs right": signs}


class SignalOf:
    """A judge in one precision, its weights rounded to bf16 in any, and what s is made of."""

    def __init__(self, cfg, dtype):
        self.judge = tb.Judge(judge_folder(cfg), settings_of(cfg, dtype=dtype))
        generator = torch.Generator().manual_seed(1)
        for name, p in self.judge.model.named_parameters():
            if name.endswith(".b"):
                p.data = 0.005 * torch.randn(p.shape, generator=generator).to(p.device)
            elif not p.requires_grad:
                p.data = p.data.to(torch.bfloat16).to(p.dtype)
        self.parameters = tb.FlatParameters(self.judge.model)

    def gradients(self, groups):
        """∇ℓ_i(θ) [B, P]"""
        advantage = tb.group_advantage(tb.rewards_of(groups))
        batch = tb.make_batch(self.judge, groups, advantage, pair_by_pair=True)
        ones = torch.ones(len(groups))
        _, gradients = tb.pair_gradients(self.judge, self.parameters, batch, ones)
        return gradients

    def v(self, groups):
        """∇L_meta(θ) [P], and the importance of the scored judgments, 1 but for rounding."""
        batch = tb.make_batch(self.judge, groups, tb.leave_one_out(tb.rewards_of(groups)))
        logprob = tb.scored_logprob(self.judge, batch)
        v, importance = tb.meta_gradient(self.judge, self.parameters, batch, logprob)
        return v, importance[batch.advantage != 0]


# ---------------------------------------------------------------- 5: a training step

VARIANTS = {
    "as it is": {},
    "--checkpoint-gradients": {"checkpoint_gradients": True},
    "--kernel torch": {"kernel": "torch"},
}
PARTS = ("rollout", "gradient", "outer")
STEP_COLUMNS = ("", "prompt", "judgment", *PARTS, "a turn, ms", "peak GB")


def step(cfg):
    """Seconds of each part of a step and the memory it takes, measured and on paper."""
    sizes = cfg.sizes
    pairs = long_pairs(cfg, 2 * sizes.batch)
    rows = []
    for name, changes in VARIANTS.items():
        rows += part(cfg, f"step {name}", lambda: timed_steps(cfg, name, changes, pairs))
        print(bench.markdown(STEP_COLUMNS, rows), flush=True)
    text = (f"{judge_in_words(cfg)}; B = M = {sizes.batch}, G = {sizes.group}, adapters of rank "
            f"{sizes.rank}, at most {sizes.micro_tokens} tokens in a pass, rewards dealt out. Mean "
            f"tokens of a prompt and of a judgment; seconds, medians of {sizes.steps} steps after "
            f"one that warms up; a turn is the rollout's time over the {sizes.answer} tokens that "
            "it decodes one by one. *On paper* is docs/scale.py for an H100.\n\n"
            f"{bench.markdown(STEP_COLUMNS, rows)}")
    return Block(GPU_RESULTS, text)


def timed_steps(cfg, name, changes, pairs):
    """Two rows of the table: a step with these settings, and the same on paper."""
    row = dict.fromkeys(STEP_COLUMNS) | {"": name}
    free_memory(cfg)  # of the variant before
    settings = settings_of(cfg, weights="instance", **changes)
    half = len(pairs) // 2
    taken = []
    try:
        trainer = tb.Trainer(settings, pairs[:half], pairs[half:])
        lengths = deal_rewards(trainer)
        for turn in range(cfg.sizes.steps + 1):
            if cfg.on_gpu:
                torch.cuda.reset_peak_memory_stats(cfg.device)
            taken.append(trainer.train_step(turn)["seconds"])
    except torch.OutOfMemoryError:
        return [row | {"": f"{name}: out of memory"}]

    prompt, answer = lengths[-1]
    row["prompt"] = round(prompt)
    row["judgment"] = round(answer)
    for key in PARTS:
        row[key] = statistics.median(seconds[key] for seconds in taken[1:])
    row["a turn, ms"] = 1e3 * row["rollout"] / cfg.sizes.answer
    if cfg.on_gpu:
        row["peak GB"] = torch.cuda.max_memory_allocated(cfg.device) / 1e9

    model = model_on_paper(name, trainer.judge.model)
    on_paper = scale.Step(
        batch=half,
        meta_batch=half,
        group=settings.group,
        prompt=prompt,
        answer=answer,
        longest=settings.max_new_tokens,
        rank=settings.lora_rank,
        micro_tokens=settings.micro_tokens,
        checkpoint_gradients=settings.checkpoint_gradients,
    )
    expected = dict.fromkeys(STEP_COLUMNS) | {"": f"{name}, on paper"}
    expected |= scale.seconds(model, scale.H100, on_paper)
    expected["a turn, ms"] = 1e3 * expected["rollout"] / cfg.sizes.answer
    expected["peak GB"] = scale.memory(model, on_paper)["peak"] / 1e9
    return [row, expected]


# ---------------------------------------------------------------- 6 and 7: training runs

def edges(cfg):
    """The main job of the world of edge cases, with its own judge."""
    labelled = EDGES / "labelled.jsonl"
    if cfg.size == "toy":
        labelled = with_few_test_problems(cfg)
    return training_run(cfg, "edges", ["--labelled", str(labelled), *cfg.sizes.edges])


def short_run(cfg):
    """A few steps of the real judge."""
    sizes = cfg.sizes
    flags = {
        "--labelled": with_few_test_problems(cfg),
        "--judge": judge_folder(cfg),
        "--dtype": "bfloat16",
        "--lora-rank": sizes.rank,
        "--lr": 2e-5,
        "--group": sizes.group,
        "--max-new-tokens": sizes.answer,
        "--micro-tokens": sizes.micro_tokens,
        "--eval-every": 0,
    }
    argv = [str(word) for name_and_value in flags.items() for word in name_and_value]
    return training_run(cfg, "short", argv + sizes.judge)


def with_few_test_problems(cfg):
    """The labelled candidates, with few of those test problems that have a pair.

    Returns the file's path.
    """
    problems = read_problems(EDGES_PROBLEMS)
    rows = read_rows(EDGES / "labelled.jsonl")
    verdicts = defaultdict(set)
    for row in rows:
        verdicts[row["problem_id"]].add(row["passed"])
    of_test = [name for name, row in problems.items() if row["split"] == "test"]
    with_a_pair = [name for name in of_test if {True, False} <= verdicts[name]]
    left_out = set(with_a_pair[cfg.sizes.test_problems:])
    path = cfg.work / "labelled.jsonl"
    write_rows(path, [row for row in rows if row["problem_id"] not in left_out])
    return path


def training_run(cfg, name, flags):
    """train_bilevel.py with these flags; goes on where an earlier call was cut off."""
    out = cfg.work / name
    tb.main([*flags, "--device", cfg.device, "--out", str(out)])
    metrics = read_rows(out / "metrics.jsonl")
    evaluations = [row for row in metrics if "eval_accuracy" in row]
    rows = []
    for title, figure, _ in tb.FIGURES:
        before = evaluations[0][figure]
        after = evaluations[-1][figure]
        rows.append({"judge": title, "before": before, "after": after})
    steps = [row for row in metrics if "seconds" in row]
    means = {key: statistics.mean(row["seconds"][key] for row in steps) for key in PARTS}
    parts = ", ".join(f"{key} {value:.2f}" for key, value in means.items())
    shares = [row["meta_effective_share"] for row in steps if "meta_effective_share" in row]
    command = " ".join(["train_bilevel.py", *flags]).replace(f"{ROOT}/", "")
    text = (f"`{command}`\n\n{bench.markdown(list(rows[0]), rows)}\n"
            f"{len(steps)} steps, seconds each: {parts}; least effective share of the meta "
            f"judgments {min(shares):.2f}.")
    (out / "state.pt").unlink()  # the next call is a new run
    return Block(GPU_RESULTS, text)


# ---------------------------------------------------------------- what the pieces share

def part(cfg, name, make):
    """What `make` returns, or what it returned before this piece was cut off."""
    path = parts_folder(cfg) / f"{name.replace(' ', '_')}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found = make()
    write_whole(path, json.dumps(found))
    return found


def parts_folder(cfg):
    return cfg.work / f"parts-of-{cfg.number}"


def free_memory(cfg):
    gc.collect()
    if cfg.on_gpu:
        torch.cuda.empty_cache()


def versions():
    """Of everything that a number here may depend on."""
    found = []
    for name in ("torch", "triton", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(found)


def write_block(path, name, text):
    """Put a text between the two markers of this name; all else in the file stays as it is.

    Without such markers the block is added at the end.
    Raises UserError where the markers are no pair.
    """
    begins = f"<!-- {name} -->\n"
    ends = f"<!-- end of {name} -->\n"
    block = f"{begins}{text.strip()}\n{ends}"
    old = path.read_text(encoding="utf-8") if path.exists() else "# Results on GPUs\n"
    markers = (old.count(begins), old.count(ends))
    if markers == (0, 0):
        new = f"{old.rstrip()}\n\n{block}"
    elif markers == (1, 1) and old.index(begins) < old.index(ends):
        before, _, rest = old.partition(begins)
        _, _, after = rest.partition(ends)
        new = before + block + after
    else:
        raise UserError(f"{path}: the markers of the block '{name}' are not a pair: "
                        "mend or delete them")
    write_whole(path, new)


PIECES = {
    1: (tests, "Kernel tests"),
    2: (kernels_narrow, "Kernel benchmark, narrow"),
    3: (kernels_wide, "Kernel benchmark, wide"),
    4: (signal, "The outer signal in bf16"),
    5: (step, "A training step, part by part"),
    6: (edges, "The world of edge cases"),
    7: (short_run, "A short run"),
}


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    cfg.work.mkdir(parents=True, exist_ok=True)
    wrong = []
    for number in cfg.piece:
        cfg.number = number
        measure, title = PIECES[number]
        print(f"piece {number}: {title}", flush=True)
        block = measure(cfg)
        path = publish(cfg, title, block)
        print(f"piece {number}: written into {path}", flush=True)
        shutil.rmtree(parts_folder(cfg), ignore_errors=True)  # the next call measures anew
        if block.wrong:
            wrong.append(f"piece {number}: {block.wrong}")
    if wrong:
        raise UserError("\n".join(wrong))


def publish(cfg, title, block):
    """Write what a piece found into its file. Returns the file."""
    path = cfg.results / block.file
    original = ROOT / block.file
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() and original.exists():
        shutil.copy(original, path)
    device = cfg.device_name()
    text = f"## {title}, {device}\n\n{datetime.date.today()}, {versions()}. {block.text}"
    if block.wrong:
        text += f"\n\n**Wrong: {block.wrong}**"
    write_block(path, f"piece {cfg.number}, {device}", text)
    return path


if __name__ == "__main__":
    run(main)
