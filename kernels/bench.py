"""Time, memory and error of the fused log-prob loss, beside what else there is, in one process.

    python -m kernels.bench                    full sizes on a GPU, toy sizes on a CPU
    python -m kernels.bench --tokens 8192 --hidden 4096 --json bench.json
    python -m kernels.compiled                 instructions and registers alone, in a minute or less

Every contender computes −log π(target) from hidden [T, H], head [V, H] and target [T], and from it a
loss; the operations are those of the definition:

    forward             2THV   the mean over tokens, no gradient
    frozen              4THV   the mean, with the gradient to hidden
    trained             6THV   the mean, with the gradients to hidden and head
    frozen-weighted     4THV   as frozen, of a sum with a random weight for each token
    trained-weighted    6THV   as trained, of a sum with a random weight for each token

"ours" keeps KEEP_BYTES of a trained head's exponentials for its backward pass, and "ours, all kept"
all of them, which in bfloat16 take as much memory as the logits would.

The weighted modes are what reinforcement learning asks for: contenders that know only a mean fall out.
Extra work (logits computed again) is not counted, so TFLOP/s compare across contenders.

What needs a GPU: times that mean something, peers written in Triton or CuTe, peak memory, and the error
in bfloat16. What does not: a CPU run at toy sizes shows that this script works, and the last table
counts the instructions of our own programs, compiled for an H100 (sm_90a) and not run.

    ms, p20, p80     median and percentiles of the repeats; contenders take turns, L2 flushed before each
    x floor          ms over the time of the operations at --peak TFLOP/s
    % of ceiling     time of the bare matrix products in torch.mm (cuBLAS), nothing between them, over ms
    peak MB          what torch's allocator held at most above the inputs, outputs included (GPU only)
    error            largest relative error, in norm, of the loss and of each gradient, against float32

A contender that is not installed, fails or runs out of memory keeps its row and says so.
"""
import importlib
import importlib.util
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from data.flags import check_bounds, flag, heading, parse, run
from data.rows import UserError
from kernels import weighted_logprob
from kernels.weighted_logprob import resolve_kernel, token_logprob, triton


@dataclass
class Mode:
    products: int        # 2THV operations each
    train_hidden: bool
    train_head: bool
    weighted: bool       # Σ_t w_t · nll_t with random w; else the mean


MODES = {
    "forward": Mode(products=1, train_hidden=False, train_head=False, weighted=False),
    "frozen": Mode(products=2, train_hidden=True, train_head=False, weighted=False),
    "trained": Mode(products=3, train_hidden=True, train_head=True, weighted=False),
    "frozen-weighted": Mode(products=2, train_hidden=True, train_head=False, weighted=True),
    "trained-weighted": Mode(products=3, train_hidden=True, train_head=True, weighted=True),
}
COLUMNS = ("contender", "ms", "p20", "p80", "TFLOP/s", "x floor", "% of ceiling", "peak MB",
           "error", "note")
FULL = {"dtype": "bfloat16", "tokens": [2048, 8192, 16384], "hidden": [2048, 4096], "vocab": 151936,
        "repeats": 20}
TOY = {"dtype": "float32", "tokens": [64], "hidden": [32], "vocab": 1000, "repeats": 3}


@dataclass
class Settings:
    heading("what to measure")
    modes: list = flag(lambda: list(MODES), "which of the modes above", choices=list(MODES))
    tokens: list = flag(list, "sizes T (on a GPU 2048 8192 16384, on a CPU 64)", type=int)
    hidden: list = flag(list, "sizes H (on a GPU 2048 4096, on a CPU 32)", type=int)
    vocab: int = flag(None, "size V (on a GPU 151936, on a CPU 1000)", type=int, least=2)
    skip: list = flag(list, "contenders to leave out; their rows say so")
    no_count: bool = flag(False, "leave out the table of compiled programs")
    heading("how")
    device: str = flag("cuda" if torch.cuda.is_available() else "cpu", "torch device")
    kernel: str = flag("auto", "path of our own row", choices=["auto", "triton", "torch"])
    dtype: str = flag(None, "bfloat16 (default on a GPU) or float32 (default on a CPU)", type=str,
                      choices=["bfloat16", "float32"])
    repeats: int = flag(None, "timed repeats of each row (on a GPU 20, on a CPU 3)", type=int,
                        least=1)
    peak: float = flag(790.0, "TFLOP/s that define the floor (790: the best dense products on an "
                              "H100)", above=0)
    heading("output")
    json: str = flag(None, "also write everything to this file", type=str)

    def __post_init__(self):
        check_bounds(self)
        for name, default in (FULL if self.on_gpu else TOY).items():
            if not getattr(self, name):
                setattr(self, name, default)
        try:
            self.path = resolve_kernel(self.kernel, self.device)
        except ValueError as error:
            raise UserError(str(error)) from None

    @property
    def on_gpu(self):
        return self.device.startswith("cuda")


# ---------------------------------------------------------------- contenders

@dataclass
class Contender:
    """(hidden, head, target) -> loss, its mean and each token's [T]; None where there is none."""
    mean: object = None
    per_token: object = None
    missing: str = ""      # why there is neither
    only_trained: bool = False  # in other modes it would repeat another row

    def loss(self, mode):
        """A function of (hidden, head, target, weight), or a string that says why there is none."""
        if self.missing:
            return self.missing
        if self.only_trained and not mode.train_head:
            return "the same as ours: the head is not trained"
        if mode.weighted:
            if self.per_token is None:
                return "knows only a mean or a sum over tokens"
            return lambda hidden, head, target, weight: (
                weight * self.per_token(hidden, head, target)).sum()
        if self.mean is not None:
            return lambda hidden, head, target, weight: self.mean(hidden, head, target)
        return lambda hidden, head, target, weight: self.per_token(hidden, head, target).mean()


def contenders(kernel):
    """Name -> Contender.

    Peers as in liger-kernel 0.8.5, cut-cross-entropy 25.1.1 and quack-kernels 0.6.5.
    """
    return {
        "eager torch": Contender(mean=eager_mean, per_token=eager_per_token),
        "torch.compile": Contender(mean=torch.compile(eager_mean, dynamic=False),
                                   per_token=torch.compile(eager_per_token, dynamic=False)),
        "torch linear_cross_entropy": torch_linear_cross_entropy(),
        "Liger FLCE": liger_fused_linear_cross_entropy(),
        "Liger scaled CE": liger_scaled_cross_entropy(),
        "Cut Cross-Entropy": cut_cross_entropy(),
        # Its default skips blocks of vocabulary whose gradient is below the dtype's epsilon / 32.
        "Cut Cross-Entropy exact": cut_cross_entropy(filter_eps=None),
        "QuACK": quack(),
        "ours": ours(kernel),
        "ours, all kept": ours(kernel, keep_bytes=2**40, only_trained=True),
    }


def ours(kernel, keep_bytes=weighted_logprob.KEEP_BYTES, **more):
    """With room for so many bytes of a trained head's exponentials."""

    def per_token(hidden, head, target):
        with mock.patch.object(weighted_logprob, "KEEP_BYTES", keep_bytes):
            return -token_logprob(hidden, head, target, kernel=kernel)

    return Contender(per_token=per_token, **more)


def eager_mean(hidden, head, target):
    return F.cross_entropy((hidden @ head.T).float(), target)


def eager_per_token(hidden, head, target):
    return F.cross_entropy((hidden @ head.T).float(), target, reduction="none")


def load(module, name):
    """(what `module` calls `name`, "") or (None, why there is none)."""
    package = module.split(".")[0]
    if importlib.util.find_spec(package) is None:
        distribution = {"quack": "quack-kernels"}.get(package, package.replace("_", "-"))
        return None, f"not installed (pip install {distribution})"
    try:
        return getattr(importlib.import_module(module), name), ""
    except Exception as error:  # a peer whose own dependencies are missing or too new
        return None, f"cannot be imported: {error}"


def torch_linear_cross_entropy():
    if not hasattr(F, "linear_cross_entropy") or not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        return Contender(missing=f"not in torch {torch.__version__}")
    # Without options torch makes all logits, like the eager row.
    options = torch.nn.LinearCrossEntropyOptions()
    return Contender(
        mean=lambda hidden, head, target: F.linear_cross_entropy(
            hidden, head, target, options=options),
        per_token=lambda hidden, head, target: F.linear_cross_entropy(
            hidden, head, target, options=options, reduction="none"),
    )


def liger_fused_linear_cross_entropy():
    loss, missing = load("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")
    return Contender(
        missing=missing,
        mean=lambda hidden, head, target: loss()(head, hidden, target),
        per_token=lambda hidden, head, target: loss(reduction="none")(head, hidden, target),
    )


def liger_scaled_cross_entropy():
    function, missing = load("liger_kernel.ops", "LigerFusedLinearScaledCrossEntropyFunction")
    return Contender(
        missing=missing,
        per_token=lambda hidden, head, target: function.apply(hidden, head, target),
    )


def cut_cross_entropy(**settings):
    function, missing = load("cut_cross_entropy", "linear_cross_entropy")
    return Contender(
        missing=missing,
        mean=lambda hidden, head, target: function(hidden, head, target, **settings),
        per_token=lambda hidden, head, target: function(
            hidden, head, target, reduction="none", **settings),
    )


def quack():
    function, missing = load("quack.linear_cross_entropy", "chunked_linear_cross_entropy")
    return Contender(
        missing=missing,
        mean=lambda hidden, head, target: function(hidden, head, target),
    )


def ceiling(hidden, head, mode):
    """The matrix products of a mode and nothing else, as a function to time."""
    logits = torch.empty(len(hidden), len(head), dtype=hidden.dtype, device=hidden.device)
    d_hidden = torch.empty_like(hidden)
    d_head = torch.empty_like(head)

    def products():
        torch.mm(hidden, head.T, out=logits)
        if mode.train_hidden:
            torch.mm(logits, head, out=d_hidden)
        if mode.train_head:
            torch.mm(logits.T, hidden, out=d_head)

    return products


# ---------------------------------------------------------------- one table

@dataclass
class Inputs:
    hidden: torch.Tensor   # [T, H]
    head: torch.Tensor     # [V, H]
    target: torch.Tensor   # [T]
    weight: torch.Tensor   # [T] of the weighted modes

    def trained(self):
        return [x for x in (self.hidden, self.head) if x.requires_grad]


def make_inputs(n_tokens, n_hidden, n_vocab, mode, cfg):
    """Logits of standard deviation 3, a target among the likely tokens: as of a trained model."""
    device = torch.device(cfg.device)
    dtype = getattr(torch, cfg.dtype)
    g = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(n_tokens, n_hidden, generator=g, device=device).to(dtype)
    head = (torch.randn(n_vocab, n_hidden, generator=g, device=device)
            * (3 / n_hidden**0.5)).to(dtype)
    targets = []
    for h in hidden.split(512):
        likely = torch.softmax(2 * (h @ head.T).float(), 1)                             # [512, V]
        targets.append(likely.multinomial(1, generator=g)[:, 0])
    return Inputs(
        hidden=hidden.requires_grad_(mode.train_hidden),
        head=head.requires_grad_(mode.train_head),
        target=torch.cat(targets),
        weight=torch.randn(n_tokens, generator=g, device=device) / n_tokens,
    )


def reference(inputs, mode, rows=512):
    """[loss, gradients...] in float32 from autograd over plain logits, a few tokens at a time."""
    hidden = inputs.hidden.detach().float().requires_grad_(mode.train_hidden)
    head = inputs.head.detach().float().requires_grad_(mode.train_head)
    n_tokens = len(hidden)
    weight = inputs.weight if mode.weighted else torch.full_like(inputs.weight, 1 / n_tokens)
    total = torch.zeros((), device=hidden.device)
    for start in range(0, n_tokens, rows):
        part = slice(start, start + rows)
        loss = (weight[part] * eager_per_token(hidden[part], head, inputs.target[part])).sum()
        if mode.train_hidden:
            loss.backward()
        total += loss.detach()
    return [total] + [x.grad for x in (hidden, head) if x.requires_grad]


def step(loss, inputs):
    """[loss, gradients...] of a contender."""
    value = loss(inputs.hidden, inputs.head, inputs.target, inputs.weight)
    trained = inputs.trained()
    gradients = torch.autograd.grad(value, trained) if trained else []
    return [value.detach(), *gradients]


def relative_error(results, truth):
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(results, truth))


def try_out(loss, inputs, truth, cfg):
    """{peak MB, error} of a contender's second call; the first compiles."""
    found = {}
    for _ in range(2):
        if cfg.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        results = step(loss, inputs)
    if cfg.on_gpu:
        torch.cuda.synchronize()
        found["peak MB"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    found["error"] = relative_error(results, truth)
    return found


def milliseconds(function, cfg, flush):
    """Of one call, behind a flush of the L2 cache."""
    if not cfg.on_gpu:
        start = time.perf_counter()
        function()
        return 1e3 * (time.perf_counter() - start)
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    flush.zero_()
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def compare(n_tokens, n_hidden, mode_name, cfg):
    """One table: a row for each contender."""
    mode = MODES[mode_name]
    # After 8 recompilations torch.compile would run eagerly, and say so only in a log.
    torch.compiler.reset()
    inputs = make_inputs(n_tokens, n_hidden, cfg.vocab, mode, cfg)
    truth = reference(inputs, mode)
    rows = {}
    running = {}  # name -> function to time
    for name, contender in contenders(cfg.kernel).items():
        rows[name] = dict.fromkeys(COLUMNS) | {"contender": name}
        loss = "left out with --skip" if name in cfg.skip else contender.loss(mode)
        if isinstance(loss, str):
            rows[name]["note"] = loss
            continue
        try:
            rows[name] |= try_out(loss, inputs, truth, cfg)
            running[name] = lambda loss=loss: step(loss, inputs)
        except Exception as error:  # a peer may fail in its own way: its row says so, others go on
            if name == "ours":
                raise
            where = "" if cfg.on_gpu else "cannot run on a CPU: "
            rows[name]["note"] = (where + f"{type(error).__name__}: {error}".splitlines()[0])[:100]
        if cfg.on_gpu:
            torch.cuda.empty_cache()
    rows["ceiling"] = dict.fromkeys(COLUMNS) | {"contender": "ceiling",
                                                "note": "torch.mm alone (on a GPU: cuBLAS)"}
    running["ceiling"] = ceiling(inputs.hidden.detach(), inputs.head.detach(), mode)
    running["ceiling"]()

    flush = torch.empty(256 * 2**20, dtype=torch.int8, device=cfg.device) if cfg.on_gpu else None
    times = {name: [] for name in running}
    for _ in range(cfg.repeats):
        for name, function in running.items():
            times[name].append(milliseconds(function, cfg, flush))

    operations = mode.products * 2 * n_tokens * n_hidden * cfg.vocab
    floor = operations / (cfg.peak * 1e9)  # ms
    fastest = statistics.median(times["ceiling"])
    for name, ms in times.items():
        ms.sort()
        median = statistics.median(ms)
        rows[name] |= {
            "ms": median,
            "p20": ms[len(ms) // 5],
            "p80": ms[-1 - len(ms) // 5],
            "TFLOP/s": operations / median / 1e9,
            "x floor": median / floor if cfg.on_gpu else None,
            "% of ceiling": 100 * fastest / median,
        }
    return {"T": n_tokens, "H": n_hidden, "V": cfg.vocab, "mode": mode_name, "floor ms": floor,
            "rows": list(rows.values()), "ms": times}


def count_programs(n_hidden, cfg):
    """Rows of kernels.compiled for our programs of this dtype and H, or why there are none."""
    if triton is None:
        return "the package triton is not installed"
    from kernels import compiled

    if not compiled.can_compile():
        return "TRITON_INTERPRET=1 replaces the compiler"
    return compiled.count(getattr(torch, cfg.dtype), n_hidden=n_hidden, n_vocab=cfg.vocab)


# ---------------------------------------------------------------- all tables

def markdown(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(cell(row[column]) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def cell(value):
    if value in (None, ""):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    unknown = set(cfg.skip) - set(contenders(cfg.kernel))
    if unknown:
        raise UserError(f"--skip {sorted(unknown)[0]!r}: expected names from "
                        f"{', '.join(contenders(cfg.kernel))}")
    if cfg.on_gpu:
        device = torch.cuda.get_device_name(cfg.device)
    else:
        device = platform.processor() or platform.machine()
    report = {
        "device": device, "on_gpu": cfg.on_gpu, "kernel": cfg.path, "torch": torch.__version__,
        "triton": getattr(triton, "__version__", None), "settings": asdict(cfg),
        "results": [], "programs": [],
    }
    print(f"device: {device}; torch {torch.__version__}; "
          f"triton {report['triton'] or 'not installed'}; {cfg.dtype}; kernel: {cfg.path}\n")
    if not cfg.on_gpu:
        print("No GPU: these are times of a CPU. They show that this script runs and say nothing "
              "about the kernel.\n")

    for n_hidden in cfg.hidden:
        for n_tokens in cfg.tokens:
            for mode_name in cfg.modes:
                result = compare(n_tokens, n_hidden, mode_name, cfg)
                print(f"**{mode_name}**, T = {n_tokens}, H = {n_hidden}, V = {cfg.vocab}; "
                      f"floor {result['floor ms']:.3g} ms at {cfg.peak:.0f} TFLOP/s\n")
                print(markdown(COLUMNS, result["rows"]), flush=True)
                report["results"].append(result)
                write(report, cfg.json)
        if not cfg.no_count:
            programs = count_programs(n_hidden, cfg)
            print(f"**our programs**, {cfg.dtype}, H = {n_hidden}, V = {cfg.vocab}: "
                  "compiled for sm_90a and counted, not run\n")
            if isinstance(programs, str):
                print(programs + "\n")
            else:
                print(markdown(list(programs[0]), programs), flush=True)
            report["programs"].append({"H": n_hidden, "rows": programs})
            write(report, cfg.json)
    if cfg.json:
        print(f"written: {cfg.json}")


def write(report, path):
    if path:
        Path(path).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
