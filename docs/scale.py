"""A bilevel step on paper: memory and time for a judge and a machine of your choice.

    python docs/scale.py                         the tables of docs/RECIPE.md
    python docs/scale.py --group 8 --answer 800  another step (the fields of Step)
    python docs/scale.py --checkpoint-gradients  with layers that are computed twice

For other models and machines add a line below. Standard library only; no GPU was asked. Every
formula stands above the line that computes it. tests/test_scale.py compares the counts of
operations and of kept activations with those of a real step; docs/RECIPE.md compares the split of
the time with a measured one.
"""
import argparse
import math
from dataclasses import dataclass, fields, replace

FP32 = 4              # bytes
READ_AT_ONCE = 65536  # tokens of prompts in one pass, as in sample.py


@dataclass
class Model:
    """A decoder as its config.json describes it, and what follows from that for one token."""
    name: str
    layers: int         # L
    hidden: int         # H
    heads: int          # Q = heads·head_size
    kv_heads: int       # K = kv_heads·head_size
    head_size: int
    inner: int          # I, width of the MLP
    vocabulary: int     # V
    tied: bool = False  # is the head the embedding?
    bytes: int = 2      # of a frozen weight, an activation, a cached key: bf16

    def __post_init__(self):
        H = self.hidden
        I = self.inner
        Q = self.heads * self.head_size
        K = self.kv_heads * self.head_size
        # q, k, v, o, gate, up, down: (in, out) of the linear layers, each of which has an adapter
        shapes = [(H, Q), (H, K), (H, K), (Q, H), (H, I), (H, I), (I, H)]
        self.linear = self.layers * sum(n_in * n_out for n_in, n_out in shapes)  # N
        # of the adapters A: [r, in] and B: [out, r]
        self.per_rank = self.layers * sum(n_in + n_out for n_in, n_out in shapes)
        self.head = self.vocabulary * H
        self.query = self.layers * Q
        # bytes that a token has in the cache: 2·L·K numbers
        self.cache = 2 * self.layers * K * self.bytes
        # Bytes kept by a token for the backward pass, without checkpointing, in each layer:
        #   in fp32 the inputs of seven adapters (3H + Q + 2H + I) and of two norms (2H)
        #   as they are q, k, v (repeated to Q for all heads), o (4Q), gate, silu(gate) and up (3I)
        in_fp32 = 7 * H + Q + I
        as_they_are = 4 * Q + 3 * I
        self.kept_by_layer = FP32 * in_fp32 + self.bytes * as_they_are
        self.input_of_layer = self.bytes * H


@dataclass
class Machine:
    name: str
    flops: float        # peak, a multiplication and an addition are two
    bandwidth: float    # bytes a second
    memory: float       # bytes
    use: float          # share of the peak that forward and backward passes reach
    launch: float       # seconds that a layer of a decoding step takes however little it computes
    link: float         # bytes a second in which a process gathers what the others hold


@dataclass
class Step:
    batch: float = 32       # B: training pairs
    meta_batch: float = 32  # M: meta pairs
    group: int = 4          # G: rollouts of each
    prompt: float = 1400    # P: tokens of the problem, two programs and the protocol
    answer: float = 500     # A: tokens of a judgment, on average
    longest: int = 1024     # --max-new-tokens, which the slowest judgment of a step takes
    rank: int = 16          # r: --lora-rank
    scored: float = 1.0     # share of pairs with an advantage; the others are not scored
    micro_tokens: float = 5120  # of one pass; a pair whose row is wider has several rows
    checkpoint_gradients: bool = False
    rollout_rows: float = 0  # judgments that are sampled at once; 0: all

    def in_a_row(self):
        """Judgments that share a row with their prompt: all G, or as many as fit."""
        fitting = (self.micro_tokens - self.prompt) // self.answer
        return min(self.group, max(1, fitting))

    def rows(self):
        """Rows of a pair."""
        return math.ceil(self.group / self.in_a_row())

    def row(self):
        """Tokens of a row, on average: W = P + A·G/rows."""
        return self.prompt + self.answer * self.group / self.rows()

    def widest_row(self):
        return self.prompt + self.answer * self.in_a_row()

    def rows_of_a_pass(self):
        """Rows that are there and back together."""
        return max(1, self.micro_tokens // self.widest_row())

    def samples(self):
        return (self.batch + self.meta_batch) * self.group

    def samples_at_once(self):
        return min(self.rollout_rows or self.samples(), self.samples())

    def turns(self):
        """Of the decoding loop: the slowest judgment's, and A each time that places are taken."""
        taken = self.samples() / self.samples_at_once() - 1
        return self.longest + taken * self.answer


def work(model, step):
    """Floating-point operations of each part of a step: {part: number}."""
    adapters = model.per_rank * step.rank
    params = model.linear + adapters
    answers = step.group * step.answer

    # A token that sees C tokens: 2(N + adapters) + 4·L·Q·C operations, and 2·V·H where it
    # meets the head. In a rollout a prompt token sees P others (the mask hides, it does not
    # save), an answer's P + A/2.
    prefill = step.prompt * (2 * params + 4 * model.query * step.prompt)
    seen = step.prompt + step.answer / 2
    decode = answers * (2 * params + 4 * model.query * seen + 2 * model.head)
    rollout = (step.batch + step.meta_batch) * (prefill + decode)

    # The rows of a pair there: every token sees all W, and G·A tokens meet the head.
    tokens = step.rows() * step.row()
    attention = 4 * model.query * step.rows() * step.row() ** 2
    head = 2 * model.head * answers
    layers = 2 * params * tokens + attention
    forward = layers + head
    # And back: frozen weights pass the gradient on and get none, adapters do both;
    # attention (2.5 = 5 products for 2) and head (2) make their scores again.
    backward = 2 * (params + adapters) * tokens + 2.5 * attention + 2 * head
    if step.checkpoint_gradients:
        backward += layers

    # Rollout also scores M pairs for log π_θ, if the judge is in half precision.
    # Gradient: B pairs there and back.  Outer: M pairs there and back for v, and s = [B, adapters]
    # times ṽ.
    if model.bytes < FP32:
        rollout += step.scored * step.meta_batch * forward
    return {
        "rollout": rollout,
        "gradient": step.scored * step.batch * (forward + backward),
        "outer": step.scored * step.meta_batch * (forward + backward) + 2 * step.batch * adapters,
    }


def seconds(model, machine, step, shards=1):
    """{part: seconds}. shards: between so many processes the frozen layers are shared out."""
    # Everything computes: work / (use · peak)
    reached = machine.use * machine.flops
    parts = {part: flops / reached for part, flops in work(model, step).items()}
    # and a turn of the decoding loop reads the weights and the cache of all samples:
    # turns · (L·launch + (N + V·H + cache) / bandwidth)
    weights = (model.linear + model.head) * model.bytes
    cache = step.samples_at_once() * (step.prompt + step.answer / 2) * model.cache
    turn = model.layers * machine.launch + (weights + cache) / machine.bandwidth
    parts["rollout"] += step.turns() * turn
    if shards > 1:
        # Every pass gathers all layers, there and back, and as if nothing were computed meanwhile:
        #   N·((1 − 1/shards)/link + 3/bandwidth)   written as they arrive, read, written in place
        layers = model.linear * model.bytes
        gathering = layers * ((1 - 1 / shards) / machine.link + 3 / machine.bandwidth)
        packs = math.ceil(step.batch * step.rows() / step.rows_of_a_pass())
        meta_packs = math.ceil(step.meta_batch * step.rows() / step.rows_of_a_pass())
        parts["rollout"] += (step.turns() + meta_packs) * gathering
        parts["gradient"] += 2 * packs * gathering
        parts["outer"] += 2 * meta_packs * gathering
    return parts


def memory(model, step, shards=1):
    """{what for: bytes} in one process. Of rollout and gradient the larger counts: they take
    turns. shards: between so many processes the frozen layers are shared out."""
    embeddings = 1 if model.tied else 2
    weights = (model.linear / shards + embeddings * model.head) * model.bytes
    if shards > 1:
        # and three layers whole: as it is computed, as it arrived, and the next as it arrives
        weights += 3 * model.linear / model.layers * model.bytes
    # fp32, eleven times: θ, g before and after the clip, Adam's two averages and its step, θ before
    # the step, v, v̄, ṽ and θ' put aside. And B times: the gradients of the pairs.
    adapters = FP32 * (11 + step.batch) * model.per_rank * step.rank
    # Prompts are read in passes of limited size, in which an MLP holds gate, silu(gate) and up.
    prompt_tokens = step.samples_at_once() / step.group * step.prompt
    tokens_of_a_pass = min(prompt_tokens, READ_AT_ONCE)
    reading = prompt_tokens * model.cache + tokens_of_a_pass * 3 * model.inner * model.bytes
    # Then answers are written. The cache has spare room, up to a half. Next-token logits
    # [samples, V]: five times in fp32, twice in fp64.
    cache = 1.5 * (step.prompt + step.longest) * model.cache
    writing = step.samples_at_once() * (cache + model.vocabulary * (5 * 4 + 2 * 8))
    rollout = max(reading, writing)
    gradient = kept_by_a_pass(model, step)
    peak = weights + adapters + max(rollout, gradient)
    return {
        "weights": weights,
        "adapters": adapters,
        "rollout": rollout,
        "one pass": gradient,
        "peak": peak,
    }


def kept_by_a_pass(model, step):
    """Bytes that a forward pass of the largest rows keeps for its way back."""
    rows = step.rows_of_a_pass()
    width = step.widest_row()
    # Every layer keeps what is in it. Or each keeps its input, and the one that is being computed
    # once more what is in it.
    if step.checkpoint_gradients:
        whole_layers = 1
        inputs = model.layers * model.input_of_layer
    else:
        whole_layers = model.layers
        inputs = 0
    tokens = rows * width * (inputs + whole_layers * model.kept_by_layer)
    # The mask is [rows, 1, W, W] bool, and a layer keeps it as numbers.
    mask = rows * width ** 2 * (1 + whole_layers * model.bytes)
    return tokens + mask


MODELS = [  # Qwen2.5 and Qwen2.5-Coder
    Model("7B", 28, 3584, 28, 4, 128, 18944, 152064),
    Model("32B", 64, 5120, 40, 8, 128, 27648, 152064),
]
H100 = Machine("H100 SXM", 989e12, 3.35e12, 80e9, use=0.3, launch=0.4e-3, link=400e9)


def table(model, gpus, step):
    """What each of these GPUs holds, how long a step takes, and both with checkpointed layers."""
    share = replace(step, batch=step.batch / gpus, meta_batch=step.meta_batch / gpus)
    checkpointed = replace(share, checkpoint_gradients=True)
    taken = seconds(model, H100, share)
    without_launches = seconds(model, replace(H100, launch=0), share)
    held_then = memory(model, checkpointed)
    taken_then = seconds(model, H100, checkpointed)
    gigabytes = [f"{name} {size / 1e9:.1f}" for name, size in memory(model, share).items()]
    times = [f"{name} {value:.1f}" for name, value in taken.items()]
    return (f"{model.name:>4} on {gpus}   GB: {', '.join(gigabytes)}\n"
            f"             seconds: {', '.join(times)}, step {sum(taken.values()):.0f}; "
            f"without launches rollout {without_launches['rollout']:.1f}, "
            f"step {sum(without_launches.values()):.0f}\n"
            f"             --checkpoint-gradients: one pass {held_then['one pass'] / 1e9:.1f} GB, "
            f"peak {held_then['peak'] / 1e9:.1f} GB, step {sum(taken_then.values()):.0f} s")


def sharded_table(model, gpus, step):
    """The same with --shard-base and --checkpoint-gradients, with at least a pair for each GPU."""
    batch = max(step.batch, gpus)
    meta_batch = max(step.meta_batch, gpus)
    share = replace(
        step, batch=batch / gpus, meta_batch=meta_batch / gpus, checkpoint_gradients=True)
    held = [f"{name} {size / 1e9:.1f}" for name, size in memory(model, share, gpus).items()]
    taken = seconds(model, H100, share, gpus)
    times = [f"{name} {value:.1f}" for name, value in taken.items()]
    return (f"{model.name:>4} on {gpus}, --shard-base --checkpoint-gradients, batch {batch:g}\n"
            f"             GB: {', '.join(held)}\n"
            f"             seconds: {', '.join(times)}, step {sum(taken.values()):.0f}")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Step):
        name = f"--{field.name.replace('_', '-')}"
        if field.type is bool:
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name, type=field.type, default=field.default)
    step = Step(**vars(parser.parse_args(argv)))
    print(f"{step}\n{H100}\n")
    for model in MODELS:
        for gpus in (1, 8):
            print(table(model, gpus, step))
    for gpus in (8, 64):
        print(sharded_table(MODELS[-1], gpus, step))


if __name__ == "__main__":
    main()
