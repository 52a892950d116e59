"""A bilevel step on paper: memory and time for a judge and a machine of your choice. Standard library only; no GPU was asked.

    python docs/scale.py                         the tables of docs/RECIPE.md
    python docs/scale.py --group 8 --answer 800  another step (the fields of Step); for other models and machines add a line below

Every formula stands above the line that computes it. tests/test_scale.py compares the counts of operations and of kept activations
with those of a real step; docs/RECIPE.md compares the split of the time with a measured one.
"""
import argparse
from dataclasses import dataclass, fields, replace


@dataclass
class Model:
    name: str
    layers: int         # L
    hidden: int         # H
    heads: int          # Q = heads·head_size, K = kv_heads·head_size
    kv_heads: int
    head_size: int
    inner: int          # I, width of the MLP
    vocabulary: int     # V
    tied: bool = False  # is the head the embedding?
    bytes: int = 2      # of a frozen weight, an activation, a cached key: bf16

    def __post_init__(self):
        H, I, Q, K = self.hidden, self.inner, self.heads * self.head_size, self.kv_heads * self.head_size
        shapes = [(H, Q), (H, K), (H, K), (Q, H), (H, I), (H, I), (I, H)]              # q, k, v, o, gate, up, down: each has an adapter
        self.query, self.linear, self.head = self.layers * Q, self.layers * sum(i * o for i, o in shapes), self.vocabulary * H
        self.per_rank = self.layers * sum(i + o for i, o in shapes)                    # A: [r, in], B: [out, r]
        # 2·L·K numbers
        self.cache = 2 * self.layers * K * self.bytes
        # kept by a token for the backward pass, without checkpointing: in each layer, fp32, the inputs of seven adapters (3H + Q + 2H + I)
        # and of two norms (2H), for their own sake; and as they are q, k, v (repeated to Q for all heads), o (4Q), gate, silu(gate), up (3I)
        self.kept = self.layers * (4 * (7 * H + Q + I) + self.bytes * (4 * Q + 3 * I))


@dataclass
class Machine:
    name: str
    flops: float        # peak, a multiplication and an addition are two
    bandwidth: float    # bytes a second
    memory: float       # bytes
    use: float          # share of the peak that forward and backward passes reach
    launch: float       # seconds that a layer of a decoding step takes however little it computes


@dataclass
class Step:
    batch: float = 32      # B: training pairs
    meta_batch: float = 32  # M: meta pairs
    group: int = 4         # G: rollouts of each
    prompt: float = 1400   # P: tokens of the problem, two programs and the protocol
    answer: float = 500    # A: tokens of a judgment, on average
    longest: int = 1024    # --max-new-tokens, which the slowest judgment of a step takes
    rank: int = 16         # r: --lora-rank
    scored: float = 1.0    # share of pairs whose judgments have an advantage; the others are not scored

    def row(self):         # W = P + G·A: a prompt and its judgments share a row
        return self.prompt + self.group * self.answer


def work(model, step):
    """Floating-point operations of each part of a step: {part: number}."""
    adapters = model.per_rank * step.rank
    pairs, params = step.batch + step.meta_batch, model.linear + adapters
    # a token that sees C tokens:  2(N + adapters) + 4·L·Q·C,  and 2·V·H where it meets the head
    rollout = pairs * step.prompt * (2 * params + 4 * model.query * step.prompt)
    rollout += pairs * step.group * step.answer * (2 * params + 4 * model.query * (step.prompt + step.answer / 2) + 2 * model.head)
    # a row: every token sees all W (the mask hides, it does not save), G·A tokens meet the head
    attention, head = 4 * model.query * step.row() ** 2, 2 * model.head * step.group * step.answer
    forward = 2 * params * step.row() + attention + head
    # back: frozen weights pass the gradient on and get none, adapters do both; attention and head make their scores again
    backward = 2 * (params + adapters) * step.row() + 2.5 * attention + 2 * head
    # gradient: B rows there and back.  outer: M rows there and back for v, B rows forward twice for s
    return {"rollout": rollout, "gradient": step.scored * step.batch * (forward + backward),
            "outer": step.scored * (step.meta_batch * (forward + backward) + 2 * step.batch * forward)}


def seconds(model, machine, step):
    """{part: seconds}."""
    # a decoding step reads the weights and the cache of all samples:  longest · (L·launch + (N + V·H + cache) / bandwidth)
    samples = (step.batch + step.meta_batch) * step.group
    read = (model.linear + model.head) * model.bytes + samples * (step.prompt + step.answer / 2) * model.cache
    decode = step.longest * (model.layers * machine.launch + read / machine.bandwidth)
    # and everything computes:  work / (use · peak)
    return {part: flops / (machine.use * machine.flops) + decode * (part == "rollout") for part, flops in work(model, step).items()}


def memory(model, step):
    """{what for: bytes} in one process. Of rollout and gradient the larger counts: they are not there at the same time."""
    weights = (model.linear + (1 if model.tied else 2) * model.head) * model.bytes
    adam = 4 * 10 * model.per_rank * step.rank   # fp32: θ, g, m, n; θ before the step, the clipped g and its direction, v, ṽ, θ' put aside
    # the cache has spare room, up to a half; next-token logits [samples, V]: five times in fp32, twice in fp64
    samples = (step.batch + step.meta_batch) * step.group
    rollout = samples * (1.5 * (step.prompt + step.longest) * model.cache + model.vocabulary * (5 * 4 + 2 * 8))
    # one row is the least that is differentiated at once; its mask is [1, 1, W, W] bool, and each layer keeps it as numbers
    gradient = step.row() * model.kept + step.row() ** 2 * (1 + model.layers * model.bytes)
    return {"weights": weights, "adapters": adam, "rollout": rollout, "one row": gradient, "peak": weights + adam + max(rollout, gradient)}


MODELS = [Model("7B", 28, 3584, 28, 4, 128, 18944, 152064), Model("32B", 64, 5120, 40, 8, 128, 27648, 152064)]  # Qwen2.5 and Qwen2.5-Coder
H100 = Machine("H100 SXM", 989e12, 3.35e12, 80e9, use=0.3, launch=0.4e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Step):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=f.type, default=f.default)
    whole = Step(**vars(parser.parse_args()))
    print(f"{whole}\n{H100}\n")
    for model in MODELS:
        for gpus in (1, 8):
            step = replace(whole, batch=whole.batch / gpus, meta_batch=whole.meta_batch / gpus)
            m, t, graphs = memory(model, step), seconds(model, H100, step), seconds(model, replace(H100, launch=0), step)
            print(f"{model.name:>4} on {gpus}   GB: " + ", ".join(f"{name} {value / 1e9:.1f}" for name, value in m.items())
                  + "\n             seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in t.items())
                  + f", step {sum(t.values()):.0f}; without launches rollout {graphs['rollout']:.1f}, step {sum(graphs.values()):.0f}")


if __name__ == "__main__":
    main()
