"""Per-token log-probabilities of a language model's head, without the [T, V] logits.

    token_logprob          log π(target_t) for every token, with its gradient and its tangent
    sum_by_sample          sums over the tokens of each sample, the same bits on every run
    weighted_logprob_loss  the loss ℓ_i of every sample and the weighted total Σ_i a_i ℓ_i

A sample is one answer, here a judgment. GRPO and the meta loss are made of the first two; the third
is for supervised training (the cold start). Symbols are of this file alone: its s_t is not the
s_i of train_bilevel.py.

The mathematics is here twice, in plain torch and as Triton kernels. Read from top to bottom: what
can be called, the two derivatives, the torch path, and last the launches and the two kernels.

The problem
-----------
log π(v) = y_v − log Σ_w exp(y_w) needs a row of V logits for each token. At T = 8192 tokens and
V = 151936 words these are 2.5 GB in bfloat16 and 5 GB in float32, and plain autograd holds several
copies. Here a few tiles exist at a time, and as many kept ones as a declared budget holds.

Forward: the online log-sum-exp
-------------------------------
s_t = Σ_v exp(y_tv − m_t) can be summed tile by tile over the vocabulary, for any reference m_t near
the logits: it keeps exp from overflowing, and log Σ_v exp(y_tv) = m_t + log s_t whatever it is.
When a tile raises m to m', what was summed so far is multiplied by exp(m − m').

Each program owns a block of tokens and a range of the vocabulary (a *split*) and writes its (m, s)
to its own cell. torch combines the [splits, T] partial results. There are no locks and no atomics,
so the bits repeat.

The reference: the target's own logit
-------------------------------------
The usual m is the largest logit, which nobody knows before the last tile. (The torch path, which
has whole rows of logits, takes that.) The kernels take y_t,target(t): one dot product for each
token, made before the pass. So all tiles of a token share their m, and what they store, e_tv =
exp(y_tv − m_t), is the softmax but for one factor for each token, 1 / s_t.
No pass over [T, V] has to bring tiles to a common m or to divide by s: the factor goes to the rows
of a [T, H]. bfloat16 has the exponents of float32, so e keeps its relative precision at any size.

A target may be very unlikely. Where a logit lies above m by more than HEADROOM, m is raised to it
as above, and afterwards the exponentials of that block of tokens are made again with the last m. At
64 factors of 2 this happens to targets with a probability below 1e-19.

Backward: exponentials, kept or made again
------------------------------------------
    ∂logp_t/∂z_tv = −e_tv / s_t          and at the target  −(e_tv − s_t) / s_t

(at temperature 1 and without softcap). In memory e_tv − s_t takes the place of e_tv at the target,
so the gradients are products with e, scaled on the side of [T, H]:

    ∂L/∂hidden_t = f_t · Σ_v e_tv · head_v        ∂L/∂head_v = Σ_t e_tv · (f_t · hidden_t)
    f_t = −∂L/∂logp_t / s_t

torch.mm makes them. The forward kernel keeps e for as many words as KEEP_BYTES holds. For the
others (on the torch path for all) the backward pass multiplies once more, a chunk of the vocabulary
at a time. Words rather than tokens, because each slice of the head's gradient is then written once,
instead of read, added to and written.

A frozen head: nothing twice
----------------------------
If only the hidden states need a gradient, what arrives from above is a factor for each token:
∂L/∂hidden_t = ∂L/∂logp_t · u_t with u_t = ∂logp_t/∂hidden_t. So on the Triton path u [T, H] is
computed in the forward pass, for a few tokens at a time, and the backward pass is one
multiplication. u is also all that forward-mode differentiation needs: the tangent of logp_t is
⟨tangent of hidden_t, u_t⟩.

What it costs
-------------
b bytes an element, n_c chunks of vocabulary, n_g groups of GROUP · BLOCK_T tokens, K kept words:

    pass                        operations       bytes to and from memory, at best
    forward                     2THV             b·TH + n_g·b·VH (the head, once a group)
    e, in the same pass         0                b·TK (written; for a frozen head K = V)
    e, made again               2TH(V − K)       n_c·b·TH + n_g·b·(V − K)H + b·T(V − K)
    hidden gradient             2THV             b·TV + b·VH + n_c·(2b + 8)·TH (summed in float32)
    head gradient, if wanted    2THV             b·TV + n_c·b·TH + b·VH

A frozen head costs 4THV, a trained one 6THV, and 8THV with nothing kept. At T = 8192, H = 2048,
V = 151936 in bfloat16 one product is 5.1e12 operations, 6.5 ms at 790 TFLOP/s. Writing and reading
e once is 5 GB, 1.7 ms at 3 TB/s, much of it beside the products. Arithmetic binds, not memory.

A frozen head is another matter: what WORKSPACE_BYTES holds are the exponentials of 768 tokens, so
the head is read 11 times by the forward kernel and 11 times by the product, 13.7 GB or 4.6 ms.

Why tiles of 128 x 256, in steps of 64
--------------------------------------
The next wall is the L2 cache. A step of 64 along H brings (128 + 256) · 64 · 2 bytes = 48 KiB to a
processor, which does 2 · 128 · 256 · 64 = 4.2e6 operations with them: 85 for each byte. Tiles of
128 x 128 would do 64 for each byte and ask a third more of the cache. A larger tile does not fit:
128 x 256 sums in float32 are 128 registers for each thread of 8 warps, and a thread has 255. Three
steps are under way at once, in 144 of the 227 KiB of shared memory.

So one program fills a processor, and no second one is there to use the tensor cores while the first
turns its tile into exponentials. Every instruction behind the product counts. That is why the
kernels work in base 2 (exp2 is one instruction; exp is a multiplication more), mask only the last
tile, look for a target only where one lies, and leave the gradient at the target to torch. For the
same reason the blocks come by *tensor descriptors* where rows are aligned: a copy engine fetches
them, and no thread computes an address. `python -m kernels.compiled` counts these instructions.

Why GRPO's mathematics stays outside
------------------------------------
Ratio, clip and KL are a few operations on [T] vectors, and autograd hands this file one number for
each token, ∂L/∂logp_t. With the contract "a log-prob and its gradient", one kernel serves policy,
reference and supervised training, and no second copy of the loss can drift from the first.
"""
import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # macOS and Windows: the torch path needs none of it
    triton = None

IGNORE = -100  # target or sample id of a token that is not scored

# The most memory for tiles that are used at once. With T = 8192 tokens in bfloat16, a chunk of the
# kernels' backward pass has 256 MiB / (2 bytes · 8192) = 16384 words: 10 chunks for V = 151936.
# The torch path holds up to three float32 tiles: 256 MiB / (12 bytes · 8192) = 2730 words, or 2560.
WORKSPACE_BYTES = 256 * 2**20

# The most memory for exponentials of a trained head, which each call keeps until its backward pass.
# A word that does not fit is multiplied once more: 2TH operations. With T = 8192 in bfloat16, 65536
# words fit; all of V = 151936 would need 2.5 GB. 0 keeps none.
KEEP_BYTES = 2**30

# How far, in base 2, a logit may lie above the reference: 2^64 · V is far from float32's largest.
HEADROOM = 64.0

TABLE_CELLS = 2**24  # of sum_by_sample's tables: 64 MiB in float32

# Words of the vocabulary in a split.
# Fewer make more partial results, more leave processors idle at the end.
SPLIT = 1024
# Blocks of tokens that walk the vocabulary together,
# so that the head's tiles are found in the L2 cache.
GROUP = 16

# Chosen here and not by autotuning:
# the bits of a result must not depend on a race between configurations.
BLOCKS = {
    torch.bfloat16: {"BLOCK_T": 128, "BLOCK_V": 256, "BLOCK_H": 64,
                     "num_warps": 8, "num_stages": 3},
    # Exact products, which the tensor cores do not have.
    torch.float32: {"BLOCK_T": 64, "BLOCK_V": 64, "BLOCK_H": 32,
                    "num_warps": 4, "num_stages": 2},
}

# Matrices of these dtypes are read by tensor descriptors. float32's exact products take numbers
# from registers, not from the shared memory that the copy engine fills: a thread would spill
# 460 bytes.
DESCRIBED = {torch.bfloat16}

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # stands for −inf where it is multiplied by 0


# ---------------------------------------------------------------- what can be called

class Statistics(NamedTuple):
    """Of the whole distribution that a token was drawn from; without gradients."""
    entropy: torch.Tensor          # [T] −Σ_v π(v) log π(v), in nats
    top_probability: torch.Tensor  # [T] max_v π(v)


def resolve_kernel(kernel, device):
    """The path that `kernel` (auto, triton or torch) means on `device`: "triton" or "torch".

    auto is Triton on a CUDA device (if installed) and torch elsewhere. triton where it cannot run
    is a ValueError rather than a silent fall-back: nobody should measure the other path by mistake.
    """
    device = torch.device(device).type
    if kernel not in ("auto", "triton", "torch"):
        raise ValueError(f"--kernel {kernel!r}: expected auto, triton or torch")
    if kernel == "triton" and triton is None:
        raise ValueError("--kernel triton: the package triton is not installed; install it, "
                         "or use auto")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if kernel == "triton" and device != "cuda" and not interpreted:
        raise ValueError(f"--kernel triton: needs a CUDA device and the tensors are on {device!r}; "
                         "use auto (TRITON_INTERPRET=1, set before Python starts, "
                         "runs it slowly on a CPU, for tests)")
    if kernel != "auto":
        return kernel
    if device == "cuda" and triton is not None:
        return "triton"
    return "torch"


def token_logprob(hidden, head, target, *, bias=None, temperature=1.0, softcap=None, kernel="auto",
                  statistics=False):
    """log π(target_t) for every token, in nats: [T] float32 (float64 for float64).

        z_tv   = hidden_t · head_v + bias_v
        y_tv   = softcap · tanh(z_tv / softcap) / temperature
        logp_t = y_t,target(t) − log Σ_v exp(y_tv)

    hidden: [T, H] and head: [V, H], any strides, both bfloat16 or float32 (or float64, always on
    the torch path); target: [T] int64 in [0, V); bias: [V]. The dtype computed in is theirs, also
    under autocast; autocast's own is used only where hidden and head differ, as it would be in a
    linear layer. With statistics=True the result is (logp, Statistics), from the same pass over the
    logits.

    Gradients go to those of hidden, head and bias that require them, and tangents (torch.func.jvp,
    forward_ad) come from those that have them. Each once: a gradient of a gradient is a
    RuntimeError. Beyond its outputs it holds WORKSPACE_BYTES, two [T, H] (a float32 sum and a
    product), and a few numbers for each token; the kernels with a trained head also KEEP_BYTES,
    until the backward pass is over. Raises ValueError for arguments that do not fit.
    """
    path = resolve_kernel(kernel, hidden.device)
    if hidden.dtype != head.dtype and torch.is_autocast_enabled(hidden.device.type):
        autocast_dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden = hidden.to(autocast_dtype)
        head = head.to(autocast_dtype)
    temperature = float(temperature)
    softcap = None if softcap is None else float(softcap)
    _check(hidden, head, target, bias, temperature, softcap, kernel)
    if hidden.dtype == torch.float64 or len(hidden) == 0:  # Triton cannot launch an empty grid
        path = "torch"

    frozen_head = not (_has_derivative(head) or _has_derivative(bias))
    # The torch path computes its logits again for a gradient, so that its bits stay as they were.
    pays = _has_tangent(hidden) or (path == "triton" and _has_derivative(hidden))
    options = Options(path, temperature, softcap, statistics, keep_gradient=frozen_head and pays,
                      keep_exponentials=path == "triton" and not frozen_head)

    # The kernels' loads run along rows: a transposed matrix is copied first.
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    head = head if head.stride(1) == 1 else head.contiguous()
    bias = None if bias is None else bias.contiguous()
    with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
        output = Output(*_TokenLogprob.apply(hidden, head, bias, target.contiguous(), options))
    if statistics:
        return output.logp, Statistics(output.entropy, output.top_probability)
    return output.logp


def sum_by_sample(logp, sample, n_samples, *, token_weight=None, dtype=None):
    """Σ_t∈i c_t logp_t for every sample i: [n_samples], with the same bits on every run.

        logp    −1 −2 −3 −4 −5
        sample   0  0  2  0  2      ->  [−7, 0, −8]

    logp: [T]; sample: [T] int64 in [0, n_samples), or IGNORE; token_weight c: [T] or one number,
    default 1; dtype: what to sum in, torch.float64 where two nearly equal sums are to be
    subtracted. A sample without tokens sums to 0. Raises ValueError for other shapes and other
    sample ids.
    """
    if logp.dim() != 1 or sample.shape != logp.shape:
        raise ValueError(f"expected logp and sample [T], "
                         f"got {list(logp.shape)} and {list(sample.shape)}")
    value = logp.to(dtype or logp.dtype)                                    # [T]
    if token_weight is not None:
        value = value * _per_token(token_weight, logp).to(value.dtype)
    kept = (sample != IGNORE).nonzero()[:, 0]
    value = value[kept]
    sample = sample[kept]
    if len(sample) == 0:
        return value.new_zeros(n_samples) + value.sum()  # 0 that backward() can go through
    if not (0 <= int(sample.min()) and int(sample.max()) < n_samples):
        raise ValueError(f"a sample id lies outside [0, {n_samples}) and is not IGNORE ({IGNORE})")

    # A row for each sample that has tokens, its tokens in order, summed along the row. Every cell
    # is written by one token: there is no atomic addition whose order could vary, and one
    # sample's inf stays its own.
    order = torch.argsort(sample, stable=True)
    value = value[order]
    present, lengths = torch.unique_consecutive(sample[order], return_counts=True)
    width = int(lengths.max())
    sums = []
    start = 0
    rows_at_once = max(1, TABLE_CELLS // width)  # usually all of them
    for length in lengths.split(rows_at_once):                              # [R]
        row = torch.arange(len(length), device=length.device).repeat_interleave(length)
        first_token = length.cumsum(0) - length                             # [R]
        column = torch.arange(len(row), device=length.device) - first_token[row]
        cells = value[start:start + len(row)]
        table = value.new_zeros(len(length), width)                         # [R, width]
        sums.append(table.index_put((row, column), cells).sum(1))
        start += len(row)
    return value.new_zeros(n_samples).index_put((present,), torch.cat(sums))


def weighted_logprob_loss(hidden, head, target, sample, weight, *, token_weight=None, bias=None,
                          temperature=1.0, softcap=None, kernel="auto"):
    """The weighted total and the loss of every sample.

        L = Σ_i a_i ℓ_i     ℓ_i = −Σ_t∈i c_t log π(target_t)

    hidden: [T, H]; head: [V, H]; target and sample: [T] int64; weight a: [n_samples];
    token_weight c: [T] or one number, a constant, default 1 (1 / length makes ℓ_i a mean).
    A token costs nothing if its target or sample is IGNORE or its c is 0. A sample of weight 0 adds
    nothing to L even if its ℓ_i is infinite. The rest as in token_logprob.
    Returns (L: [], ℓ: [n_samples]). Raises ValueError for other shapes.
    """
    if weight.dim() != 1:
        raise ValueError(f"expected weight [n_samples], got {list(weight.shape)}")
    if sample.shape != target.shape:
        raise ValueError(f"expected target and sample [T], "
                         f"got {list(target.shape)} and {list(sample.shape)}")
    scored = (target != IGNORE) & (sample != IGNORE)                        # [T] bool
    if token_weight is not None:
        token_weight = _per_token(token_weight, target)
        scored &= token_weight != 0
    kept = scored.nonzero()[:, 0]
    if len(kept) < len(target):
        hidden = hidden[kept]
        target = target[kept]
        sample = sample[kept]
        token_weight = None if token_weight is None else token_weight[kept]

    logp = token_logprob(hidden, head, target, bias=bias, temperature=temperature, softcap=softcap,
                         kernel=kernel)                                     # [T]
    loss = -sum_by_sample(logp, sample, len(weight), token_weight=token_weight)  # [n_samples]
    weight = weight.to(loss.dtype)
    counted = loss.masked_fill((weight == 0) & loss.isinf(), 0)  # 0 · inf would be NaN
    return (weight * counted).sum(), loss


def _per_token(token_weight, tokens):
    """A weight for each of the tokens, [T], from [T] or from one number."""
    token_weight = torch.as_tensor(token_weight, device=tokens.device)
    if token_weight.dim() == 0:
        return token_weight.expand(tokens.shape)
    if token_weight.shape != tokens.shape:
        raise ValueError(f"expected token_weight [{len(tokens)}] or one number, "
                         f"got {list(token_weight.shape)}")
    return token_weight


def _has_tangent(x):
    return x is not None and forward_ad.unpack_dual(x).tangent is not None


def _has_derivative(x):
    return x is not None and ((x.requires_grad and torch.is_grad_enabled()) or _has_tangent(x))


def _check(hidden, head, target, bias, temperature, softcap, kernel):
    two_matrices = hidden.dim() == 2 and head.dim() == 2
    if not two_matrices or hidden.shape[1] != head.shape[1] or 0 in head.shape:
        raise ValueError("expected hidden [T, H] and head [V, H], "
                         f"got {list(hidden.shape)} and {list(head.shape)}")
    if hidden.dtype != head.dtype:
        raise ValueError("expected hidden and head in one dtype, "
                         f"got {hidden.dtype} and {head.dtype}")
    if hidden.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"expected bfloat16, float32 or float64, got {hidden.dtype}; load the "
                         "model in bfloat16 or float32 (float16 would round the gradient of small "
                         "weights to zero)")
    if target.shape != hidden.shape[:1] or target.dtype != torch.int64:
        raise ValueError(f"expected target [{len(hidden)}] int64, "
                         f"got {list(target.shape)} {target.dtype}")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"expected bias [{len(head)}], got {list(bias.shape)}")
    for name, number in (("temperature", temperature), ("softcap", softcap)):
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} is {number}: expected a finite number above 0")
    if len(target) and not (0 <= int(target.min()) and int(target.max()) < len(head)):
        raise ValueError(f"a target lies outside [0, {len(head)}); "
                         "weighted_logprob_loss drops ignored tokens")
    triton_dtypes = [torch.float32, torch.bfloat16] if hidden.is_cuda else [torch.float32]
    if kernel == "triton" and hidden.dtype not in triton_dtypes:
        raise ValueError("--kernel triton: expected float32, or bfloat16 on a GPU, "
                         f"got {hidden.dtype}; use auto")


# ---------------------------------------------------------------- the function and its derivatives

@dataclass(frozen=True)
class Options:
    path: str                # "triton" or "torch"
    temperature: float
    softcap: float           # or None
    statistics: bool         # whether the entropy is wanted
    keep_gradient: bool      # whether ∂logp/∂hidden is computed in the forward pass
    keep_exponentials: bool  # whether some wait for the backward pass


class Output(NamedTuple):
    """What a forward pass makes. Only logp has derivatives."""
    logp: torch.Tensor             # [T]
    numbers: torch.Tensor          # [3, T] e at the target, m (Triton: in base 2), s
    entropy: torch.Tensor          # [T] or None
    top_probability: torch.Tensor  # [T] or None
    dlogp_dhidden: torch.Tensor    # [T, H] or None: u
    exponentials: torch.Tensor     # [T, K] or None: e of the first K words


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(hidden, head, bias, target, options):
        if options.path == "triton":
            return _forward_triton(hidden, head, bias, target, options)
        return _forward_torch(hidden, head, bias, target, options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        hidden, head, bias, target, ctx.options = inputs
        output = Output(*output)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[x for x in output[1:] if x is not None])
        saved = (hidden, head, bias, target, output.numbers, output.exponentials,
                 output.dlogp_dhidden)
        ctx.save_for_forward(*saved)  # until jvp, which follows at once
        if output.dlogp_dhidden is not None:  # all that the backward pass will need
            saved = (None, None, None, None, None, None, output.dlogp_dhidden)
        ctx.save_for_backward(*saved)

    @staticmethod
    def backward(ctx, d_logp, *_):
        if torch.is_grad_enabled():
            raise RuntimeError("token_logprob is differentiable once, and this backward pass has "
                               "create_graph=True (as torch.func.grad has); "
                               "use torch.log_softmax(hidden @ head.T, -1) instead")
        if d_logp is None:  # nothing above depends on logp
            return None, None, None, None, None
        hidden, head, bias, target, numbers, kept, dlogp_dhidden = ctx.saved_tensors
        if dlogp_dhidden is not None:  # ∂L/∂hidden_t = ∂L/∂logp_t · ∂logp_t/∂hidden_t
            return _scale_rows(dlogp_dhidden, d_logp), None, None, None, None

        wants_hidden, wants_head, wants_bias = ctx.needs_input_grad[:3]
        d_head = torch.empty_like(head) if wants_head else None             # [V, H]
        d_bias = torch.empty_like(bias) if wants_bias else None             # [V]
        # ∂L/∂z_tv = factor_t · e_tv: the factor goes to the side of [T, H], and e stays as it is.
        factor = d_logp * _dlogp_dz_over_e(numbers, ctx.options)            # [T]
        scaled = _scale_rows(hidden, factor) if wants_head else None        # [T, H]
        total = torch.zeros_like(hidden, dtype=numbers.dtype) if wants_hidden else None  # [T, H]
        with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
            for chunk in _vocab_chunks(hidden, head, kept, ctx.options.path):
                e = _exponentials(hidden, head, bias, target, numbers, kept, chunk,
                                  ctx.options)                              # [T, C]
                if wants_bias:    # ∂L/∂bias_v = Σ_t factor_t · e_tv
                    d_bias[chunk] = e.T @ factor.to(e.dtype)
                e = e.to(hidden.dtype)
                if wants_hidden:  # Σ over chunks of e · head, summed in float32
                    total += e @ head[chunk]
                if wants_head:    # ∂L/∂head_v = Σ_t e_tv · factor_t · hidden_t, whole in its chunk
                    torch.mm(e.T, scaled, out=d_head[chunk])
                del e  # before the next one is made: the workspace holds one chunk
        d_hidden = None
        if wants_hidden:
            d_hidden = total.mul_(factor[:, None]).to(hidden.dtype)         # [T, H]
        return d_hidden, d_head, d_bias, None, None

    @staticmethod
    def jvp(ctx, hidden_tangent, head_tangent, bias_tangent, *_):
        moves = (hidden_tangent, head_tangent, bias_tangent)
        tangent = _Tangent.apply(*ctx.saved_tensors, *moves, ctx.options)   # [T]
        return tangent, *[None] * (len(Output._fields) - 1)


class _Tangent(torch.autograd.Function):
    """The tangent of logp [T]. Asking for its gradient is an error rather than silently nothing.

    No stage of the pipeline uses it; a test of the hypergradient does, in forward mode.
    """

    @staticmethod
    def forward(hidden, head, bias, target, numbers, kept, dlogp_dhidden,
                hidden_tangent, head_tangent, bias_tangent, options):
        if dlogp_dhidden is not None:  # ⟨hidden_tangent_t, u_t⟩
            return _row_products(hidden_tangent, dlogp_dhidden)

        # Σ_v ∂logp_t/∂z_tv · (⟨hidden̊_t, head_v⟩ + ⟨hidden_t, head̊_v⟩ + bias̊_v), chunk by chunk
        tangent = torch.zeros_like(numbers[0])                              # [T]
        with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
            for chunk in _vocab_chunks(hidden, head, kept, options.path):
                e = _exponentials(hidden, head, bias, target, numbers, kept, chunk,
                                  options)                                  # [T, C]
                if bias_tangent is not None:
                    tangent += e @ bias_tangent[chunk].to(e.dtype)
                e = e.to(hidden.dtype)
                if hidden_tangent is not None:
                    tangent += _row_products(hidden_tangent, e @ head[chunk])
                if head_tangent is not None:
                    tangent += _row_products(hidden, e @ head_tangent[chunk])
                del e  # before the next one is made
        return tangent * _dlogp_dz_over_e(numbers, options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, _):
        raise RuntimeError("token_logprob is differentiable once, and this is the gradient of its "
                           "tangent; use torch.log_softmax(hidden @ head.T, -1) instead")


def _row_products(a, b):
    """⟨a_t, b_t⟩ for every row, at least in float32: [T]."""
    wide = torch.promote_types(a.dtype, torch.float32)
    return (a.to(wide) * b).sum(1)


def _scale_rows(x, factor):
    """x_t · factor_t for every row, multiplied in float32 and rounded once: [T, H]."""
    return torch.mul(x, factor[:, None], out=torch.empty_like(x))


def _dlogp_dz_over_e(numbers, options):
    """∂logp_t/∂z_tv divided by e_tv, the same for every v: −1 / (s_t · temperature), [T]."""
    _, _, s = numbers                                                       # each [T]
    return -1 / (s * options.temperature)


def _vocab_chunks(hidden, head, kept, path):
    """Slices of the vocabulary: the words that are kept, then such as fit into WORKSPACE_BYTES."""
    if path == "triton":
        bytes_per_cell = hidden.element_size()
    else:
        bytes_per_cell = 3 * max(4, hidden.element_size())
    bytes_per_column = bytes_per_cell * max(1, len(hidden))
    columns = max(1, WORKSPACE_BYTES // bytes_per_column)
    columns = columns // 256 * 256 or columns  # whole tiles and aligned rows, where there is room
    first = 0 if kept is None else min(kept.shape[1], len(head))
    chunks = [] if kept is None else [slice(0, first)]
    for v in range(first, len(head), columns):
        chunks.append(slice(v, min(v + columns, len(head))))
    return chunks


def _exponentials(hidden, head, bias, target, numbers, kept, chunk, options):
    """e [T, C] for a chunk of v, kept or made again; ∂logp_t/∂z_tv = −e_tv / (s_t · temperature).

        e_tv = (exp(y_tv − m_t) − [v = target_t] · s_t) · ∂y_tv/∂z_tv · temperature

    float32 (float64) on the torch path, and hidden's dtype from the kernel.
    """
    if kept is not None and chunk.start == 0:
        return kept[:, :chunk.stop]
    head = head[chunk]
    bias = None if bias is None else bias[chunk]
    e_target, m, _ = numbers                                                # each [T]
    if options.path == "triton":
        e = hidden.new_empty(len(hidden), _whole_tiles(head))               # [T, tiles · BLOCK_V]
        nothing = torch.full_like(m, -math.inf)
        _launch(_exponential_kernel, hidden, head, bias, options, exponential=e, reference=m,
                made_with=nothing)
        e = e[:, :len(head)]
    else:
        y = _logits_torch(hidden, head, bias, options)
        shifted = y.sub_(m[:, None]) if options.softcap is None else y - m[:, None]
        e = _times_slope(shifted.exp_(), y, options)
    _write_targets(e, target - chunk.start, e_target)
    return e


def _write_targets(e, target, e_target):
    """e at the targets that lie in these columns; others are negative or too large.

    e_target comes from float32: where the model is sure of the target, bfloat16 would make it 0.
    """
    row = torch.arange(len(target), device=target.device)
    column = target.clamp(0, e.shape[1] - 1)
    e[row, column] = torch.where(column == target, e_target.to(e.dtype), e[row, column])


def _times_slope(e, y, options):
    """e · ∂y/∂z · temperature = e · (1 − tanh²(z / softcap)), in place; y does not survive."""
    if options.softcap is None:
        return e
    tanh = y.mul_(options.temperature / options.softcap)
    return e.mul_(tanh.square_().neg_().add_(1))


# ---------------------------------------------------------------- the torch path

def _forward_torch(hidden, head, bias, target, options):
    """Whole rows of logits, a few tokens at a time.

    In bfloat16 torch.mm rounds them; the kernel's stay float32.
    """
    rows = max(1, WORKSPACE_BYTES // (3 * max(4, hidden.element_size()) * len(head)))
    parts = []
    gradients = []
    for h, t in zip(hidden.split(rows), target.split(rows)):
        y = _logits_torch(h, head, bias, options)                           # [rows, V]
        y_target = y.gather(1, t[:, None])[:, 0]                            # [rows]
        m = y.amax(1)                                                       # [rows]
        needed_again = options.statistics or options.keep_gradient
        shifted = y - m[:, None] if needed_again else y.sub_(m[:, None])    # [rows, V]
        e = shifted.exp_()                                                  # [rows, V]
        s = e.sum(1)                                                        # [rows]
        below = torch.zeros_like(s)                                         # [rows] Σ_v e (y_v − m)
        if options.statistics:
            depth = (y - m[:, None]).clamp_(min=LOWEST)                     # [rows, V]
            below = depth.mul_(e).sum(1)
            del depth
        e_target = _times_slope((y_target - m).exp_() - s, y_target.clone(), options)  # [rows]
        parts.append(torch.stack([y_target, e_target, m, s, below]))        # [5, rows]
        if options.keep_gradient:
            e = _times_slope(e, y, options)
            _write_targets(e, t, e_target)
            factor = _dlogp_dz_over_e(parts[-1][1:4], options)              # [rows]
            gradients.append(_scale_rows(e.to(head.dtype) @ head, factor))  # [rows, H]
        del e, shifted, y
    y_target, e_target, m, s, below = torch.cat(parts, 1)                   # each [T]
    log_s = s.log()                                                         # [T]
    return Output(
        logp=y_target - m - log_s,
        numbers=torch.stack([e_target, m, s]),
        entropy=log_s - below / s if options.statistics else None,    # −Σ p (y − m − log s)
        top_probability=1 / s if options.statistics else None,        # exp(m − m) / s
        dlogp_dhidden=torch.cat(gradients) if options.keep_gradient else None,
        exponentials=None,
    )


def _logits_torch(hidden, head, bias, options):
    """y: [rows, V'], float32 or float64."""
    z = (hidden @ head.T).to(torch.promote_types(hidden.dtype, torch.float32))
    return _logits_of_products(z, bias, options)


def _logits_of_products(z, bias, options):
    """y in place of the products hidden · head."""
    if bias is not None:
        z += bias
    if options.softcap is not None:
        z.div_(options.softcap).tanh_().mul_(options.softcap)
    if options.temperature != 1:
        z.div_(options.temperature)
    return z


# ---------------------------------------------------------------- the Triton path: launches

def _forward_triton(hidden, head, bias, target, options):
    """Where ∂logp/∂hidden is kept, for as many tokens at a time as have room for exponentials."""
    rows = len(hidden)
    width = 0
    if options.keep_gradient:
        # 256 MiB / (2 bytes · 594 tiles · 256 words) = 882 tokens, cut to 6 blocks of 128.
        block_t = BLOCKS[hidden.dtype]["BLOCK_T"]
        width = _whole_tiles(head)
        rows = max(1, WORKSPACE_BYTES // (hidden.element_size() * width))
        rows = rows // block_t * block_t or rows
    elif options.keep_exponentials:
        width = _kept_words(hidden, head)
    reference = _target_logits(hidden, head, bias, target, options)         # [T]
    parts = []
    gradients = []
    for h, t, m in zip(hidden.split(rows), target.split(rows), reference.split(rows)):
        e = h.new_empty(len(h), width) if width else None                   # [rows, K]
        part = _forward_rows(h, head, bias, t, m, e, options)               # [6, rows]
        parts.append(part)
        if options.keep_gradient:
            factor = _dlogp_dz_over_e(part[1:4], options)                   # [rows]
            gradients.append(_scale_rows(e[:, :len(head)] @ head, factor))  # [rows, H]
            e = None  # before the next one is made: the workspace holds one
    y_target, e_target, m, s, below, highest = torch.cat(parts, 1)          # each [T], in base 2
    log_s = s.log2()                                                        # [T]
    return Output(
        logp=(y_target - m - log_s) / LOG2_E,
        numbers=torch.stack([e_target, m, s]),
        entropy=(log_s - below / s) / LOG2_E if options.statistics else None,
        top_probability=(highest - m).exp2_() / s if options.statistics else None,
        dlogp_dhidden=torch.cat(gradients) if options.keep_gradient else None,
        exponentials=e,
    )


def _whole_tiles(head):
    """Words of the vocabulary, and what its last tile lacks.

    For V = 50257, say, rows of that length would begin at odd addresses: a store could write one
    number at a time, not eight.
    """
    block_v = BLOCKS[head.dtype]["BLOCK_V"]
    return -(-len(head) // block_v) * block_v


def _kept_words(hidden, head):
    """For how many words KEEP_BYTES hold the exponentials of all tokens, in whole tiles."""
    block_v = BLOCKS[hidden.dtype]["BLOCK_V"]
    words = KEEP_BYTES // (hidden.element_size() * len(hidden)) // block_v * block_v
    return min(words, _whole_tiles(head))


def _target_logits(hidden, head, bias, target, options):
    """The reference of every token: y_target in base 2, [T], or LOWEST for −inf.

    It need not have the bits of the kernel's: any number near the logits would do.
    """
    products = head[target].to(torch.float32).mul_(hidden).sum(1)           # [T] float32
    bias = None if bias is None else bias[target]
    y = _logits_of_products(products, bias, options)
    return y.mul_(LOG2_E).clamp_(min=LOWEST)


def _forward_rows(hidden, head, bias, target, reference, e, options):
    """(y_target, e_target, m, s, below, highest) of C tokens, [6, C]; fills e, if there is one."""
    splits = -(-len(head) // SPLIT)
    quantities = 4 if options.statistics else 2
    partial = reference.new_empty(splits, quantities, len(hidden))          # [splits, 2 or 4, C]
    y_target = torch.empty_like(reference)                                  # [C]
    _launch(_forward_kernel, hidden, head, bias, options, exponential=e, reference=reference,
            target=target, partial=partial, y_target=y_target, STATISTICS=options.statistics)
    m, s, below, highest = _combine(partial)                                # each [C]
    e_target = _times_slope((y_target - m).exp2_() - s, y_target / LOG2_E, options)  # [C]
    if e is not None:
        words = min(e.shape[1], len(head))
        bias = None if bias is None else bias[:words]
        # Where a logit lay far above the reference, some exponentials were made with another one.
        _launch(_exponential_kernel, hidden, head[:words], bias, options, exponential=e,
                reference=m, made_with=reference)
        _write_targets(e, target, e_target)
    return torch.stack([y_target, e_target, m, s, below, highest])


def _combine(partial):
    """(m, s, below, highest) [C] of the vocabulary from those of its splits [splits, 2 or 4, C].

        m     = max_k m_k
        s     = Σ_k s_k · 2^(m_k − m)
        below = Σ_v 2^(y_v − m) · (y_v − m) = Σ_k (below_k + s_k · (m_k − m)) · 2^(m_k − m)
    """
    m_k = partial[:, 0]                                                     # [splits, C]
    s_k = partial[:, 1]                                                     # [splits, C]
    m = m_k.amax(0)                                                         # [C]
    drop = m_k - m                                                          # [splits, C]
    factor = drop.exp2()                                                    # [splits, C]
    s = (s_k * factor).sum(0)
    if partial.shape[1] == 2:
        return m, s, torch.zeros_like(s), m
    below_k = partial[:, 2]                                                 # [splits, C]
    below = ((below_k + s_k * drop) * factor).sum(0)
    return m, s, below, partial[:, 3].amax(0)


def _launch(kernel, hidden, head, bias, options, exponential, **arguments):
    """Run a kernel with a program for each block of tokens and each split of the vocabulary."""
    arguments |= launch_arguments(hidden, head, bias, exponential, options)
    if arguments["DESCRIPTORS"]:
        arguments = with_descriptors(arguments)
    programs = -(-len(hidden) // arguments["BLOCK_T"]) * -(-len(head) // SPLIT)
    kernel[programs,](**arguments)


def launch_arguments(hidden, head, bias, exponential, options):
    """What both kernels take. Names in capitals are constants of the compiled program.

    So are temperature and softcap: as run-time numbers torch.compile would make them float64.
    """
    return {
        "hidden": hidden, "hidden_row": hidden.stride(0),
        "head": head, "head_row": head.stride(0),
        "bias": bias,
        "exponential": exponential, "n_kept": 0 if exponential is None else exponential.shape[1],
        "n_tokens": len(hidden), "n_hidden": hidden.shape[1], "n_vocab": len(head),
        "SCALE": LOG2_E / options.temperature, "SOFTCAP": options.softcap,
        "DESCRIPTORS": _can_describe(hidden) and _can_describe(head),
        "GROUP": GROUP, "SPLIT": SPLIT,
        **BLOCKS[hidden.dtype],
    }


def _can_describe(x):
    """Whether the copy engine of a Hopper GPU or a later one can read x: rows begin at 16 bytes.

    torch.compile cannot ask for an address and gets kernels that read by pointers.
    """
    if x.dtype not in DESCRIBED or torch.compiler.is_compiling():
        return False
    if x.is_cuda and torch.cuda.get_device_capability(x.device)[0] < 9:
        return False
    return x.stride(0) * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0


def with_descriptors(arguments):
    """The matrices as (address, sizes, strides, block): the copy engine then moves whole blocks.

    The threads then compute no addresses, and what lies outside of a matrix reads as 0.
    """
    described = dict(arguments)
    blocks = {"hidden": ("BLOCK_T", "BLOCK_H"), "head": ("BLOCK_V", "BLOCK_H"),
              "exponential": ("BLOCK_T", "BLOCK_V")}
    for name, (rows, columns) in blocks.items():
        if arguments[name] is not None:
            block = [arguments[rows], arguments[columns]]
            described[name] = TensorDescriptor.from_tensor(arguments[name], block)
    return described


# ---------------------------------------------------------------- the Triton path: kernels

if triton is not None:
    KERNEL_LOG2_E = tl.constexpr(LOG2_E)  # the kernels see no other globals
    KERNEL_HEADROOM = tl.constexpr(HEADROOM)

    @triton.jit
    def _place(n_tokens, n_vocab, GROUP: tl.constexpr, SPLIT: tl.constexpr, BLOCK_T: tl.constexpr):
        """Which block of tokens and which split of the vocabulary this program has.

        GROUP blocks walk the splits together, so programs that run at once share the head's tiles.
        The order for 4 blocks, 3 splits and GROUP = 2:

                      split 0   1   2
            block 0         0   2   4
            block 1         1   3   5
            block 2         6   8  10
            block 3         7   9  11
        """
        splits = tl.cdiv(n_vocab, SPLIT)
        blocks = tl.cdiv(n_tokens, BLOCK_T)
        program = tl.program_id(0)
        first = program // (GROUP * splits) * GROUP         # block of this group
        size = tl.minimum(blocks - first, GROUP)            # the last group may be smaller
        place = program % (GROUP * splits)                  # in this group
        return first + place % size, place // size

    @triton.jit
    def _logits_tile(hidden, head, bias, block, tile,
                     n_tokens, n_hidden, n_vocab, hidden_row, head_row,
                     SCALE: tl.constexpr, SOFTCAP: tl.constexpr, DESCRIPTORS: tl.constexpr,
                     BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):
        """y · log₂e of the tokens from `block` and the words from `tile` on: [BLOCK_T, BLOCK_V]."""
        c = tl.minimum(tile + tl.arange(0, BLOCK_V), n_vocab - 1)           # [BLOCK_V]
        z = tl.zeros([BLOCK_T, BLOCK_V], dtype=tl.float32)                  # [BLOCK_T, BLOCK_V]
        if DESCRIPTORS:
            for start in range(0, n_hidden, BLOCK_H):
                h = hidden.load([block, start])                             # [BLOCK_T, BLOCK_H]
                w = head.load([tile, start])                                # [BLOCK_V, BLOCK_H]
                z = tl.dot(h, w.T, z, input_precision="ieee")
        else:
            # Rows and columns past the end read the last one: cheaper than a mask in the loop.
            # int64: row · stride passes 2³¹ for long batches, column · stride for large heads.
            r = tl.minimum(block + tl.arange(0, BLOCK_T), n_tokens - 1).to(tl.int64)  # [BLOCK_T]
            k = tl.arange(0, BLOCK_H)                                       # [BLOCK_H]
            a = hidden + r[:, None] * hidden_row + k[None, :]               # [BLOCK_T, BLOCK_H]
            b = head + c.to(tl.int64)[None, :] * head_row + k[:, None]      # [BLOCK_H, BLOCK_V]
            for start in range(0, n_hidden, BLOCK_H):
                inside = start + k < n_hidden                               # [BLOCK_H]
                h = tl.load(a, mask=inside[None, :], other=0.0)             # [BLOCK_T, BLOCK_H]
                w = tl.load(b, mask=inside[:, None], other=0.0)             # [BLOCK_H, BLOCK_V]
                z = tl.dot(h, w, z, input_precision="ieee")
                a += BLOCK_H
                b += BLOCK_H
        if bias is not None:
            z += tl.load(bias + c).to(tl.float32)[None, :]
        if SOFTCAP is not None:
            # tanh x = 1 − 2 / (1 + exp(2x)); not all backends have a tanh
            z = SOFTCAP - 2 * SOFTCAP / (1 + tl.exp2(z * (2 * KERNEL_LOG2_E / SOFTCAP)))
        return z * SCALE

    @triton.jit
    def _store(exponential, e, y, block, tile, n_tokens, n_kept,
               SCALE: tl.constexpr, SOFTCAP: tl.constexpr, DESCRIPTORS: tl.constexpr,
               BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr):
        """A tile of e · (1 − tanh²(z / softcap)) to its place in [T, n_kept]."""
        if SOFTCAP is not None:
            tanh = y / (SCALE * SOFTCAP)
            e *= 1 - tanh * tanh
        if DESCRIPTORS:
            exponential.store([block, tile], e.to(exponential.dtype))
        else:
            row = block + tl.arange(0, BLOCK_T)                             # [BLOCK_T]
            col = tile + tl.arange(0, BLOCK_V)                              # [BLOCK_V]
            cell = exponential + row.to(tl.int64)[:, None] * n_kept + col[None, :]
            tl.store(cell, e.to(exponential.dtype.element_ty), mask=(row < n_tokens)[:, None])

    @triton.jit
    def _forward_kernel(hidden, head, bias, target, reference,  # read
                        partial, y_target,                      # written: [splits, 2 or 4, T], [T]
                        exponential,                            # written, or None: [T, n_kept]
                        n_kept, n_tokens, n_hidden, n_vocab, hidden_row, head_row,
                        SCALE: tl.constexpr, SOFTCAP: tl.constexpr, STATISTICS: tl.constexpr,
                        DESCRIPTORS: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr,
                        BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):
        """(m, s) and perhaps (below, highest) of one split, the target's logit if it lies there,
        and the exponentials of the words before n_kept."""
        tl.static_assert(SPLIT % BLOCK_V == 0, "a tile must not reach into the next split")
        block, split = _place(n_tokens, n_vocab, GROUP, SPLIT, BLOCK_T)
        block *= BLOCK_T
        row = block + tl.arange(0, BLOCK_T)                                 # [BLOCK_T]
        target_id = tl.load(target + row, mask=row < n_tokens, other=-1).to(tl.int32)  # [BLOCK_T]
        m = tl.load(reference + row, mask=row < n_tokens, other=0.0)        # [BLOCK_T]
        s = tl.zeros([BLOCK_T], dtype=tl.float32)                           # [BLOCK_T]
        # Σ 2^(y − m) (y − m)
        below = tl.zeros([BLOCK_T], dtype=tl.float32)                       # [BLOCK_T]
        highest = tl.full([BLOCK_T], -float("inf"), dtype=tl.float32)       # [BLOCK_T]
        y_found = tl.zeros([BLOCK_T], dtype=tl.float32)                     # [BLOCK_T]
        for tile in range(split * SPLIT, tl.minimum((split + 1) * SPLIT, n_vocab), BLOCK_V):
            y = _logits_tile(hidden, head, bias, block, tile,
                             n_tokens, n_hidden, n_vocab, hidden_row, head_row,
                             SCALE, SOFTCAP, DESCRIPTORS, BLOCK_T, BLOCK_V, BLOCK_H)
            col = tile + tl.arange(0, BLOCK_V)                              # [BLOCK_V]
            if tile + BLOCK_V > n_vocab:
                # After bias, softcap and temperature: they would turn −inf back into a number.
                y = tl.where((col < n_vocab)[None, :], y, -float("inf"))

            # Before the exponentials: both tiles at once would not fit into the registers.
            target_is_here = (target_id >= tile) & (target_id < tile + BLOCK_V)  # [BLOCK_T]
            if tl.max(target_is_here.to(tl.int32), 0) > 0:
                y_found += tl.sum(tl.where(col[None, :] == target_id[:, None], y, 0.0), 1)

            # m' = max_v y_v if that is far above m, else m
            # s' = s · 2^(m − m') + Σ_v 2^(y_v − m')
            top = tl.max(y, 1)                                              # [BLOCK_T]
            m_new = tl.where(top > m + KERNEL_HEADROOM, top, m)             # [BLOCK_T]
            shrink = tl.exp2(m - m_new)                                     # [BLOCK_T]
            e = tl.exp2(y - m_new[:, None])                                 # [BLOCK_T, BLOCK_V]
            if STATISTICS:
                # 0 · −inf would be NaN, so distances end at −1e30.
                depth = tl.maximum(y - m_new[:, None], -1e30)               # [BLOCK_T, BLOCK_V]
                below = (below + s * (m - m_new)) * shrink + tl.sum(e * depth, 1)
                highest = tl.maximum(highest, top)
            s = s * shrink + tl.sum(e, 1)
            m = m_new
            if exponential is not None:
                if tile < n_kept:
                    _store(exponential, e, y, block, tile, n_tokens, n_kept,
                           SCALE, SOFTCAP, DESCRIPTORS, BLOCK_T, BLOCK_V)

        quantities: tl.constexpr = 4 if STATISTICS else 2
        cell = partial + split.to(tl.int64) * quantities * n_tokens + row
        tl.store(cell, m, mask=row < n_tokens)
        tl.store(cell + n_tokens, s, mask=row < n_tokens)
        if STATISTICS:
            tl.store(cell + 2 * n_tokens, below, mask=row < n_tokens)
            tl.store(cell + 3 * n_tokens, highest, mask=row < n_tokens)
        # A target lies in one split, so one program writes it.
        tl.store(y_target + row, y_found, mask=(row < n_tokens) & (target_id // SPLIT == split))

    @triton.jit
    def _exponential_kernel(hidden, head, bias, reference, made_with,  # read
                            exponential,                               # written: [T, n_kept]
                            n_kept, n_tokens, n_hidden, n_vocab, hidden_row, head_row,
                            SCALE: tl.constexpr, SOFTCAP: tl.constexpr,
                            DESCRIPTORS: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr,
                            BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):
        """2^(y − reference) · (1 − tanh²(z / softcap)), unless this block has them already."""
        tl.static_assert(SPLIT % BLOCK_V == 0, "a tile must not reach into the next split")
        block, split = _place(n_tokens, n_vocab, GROUP, SPLIT, BLOCK_T)
        block *= BLOCK_T
        token = tl.minimum(block + tl.arange(0, BLOCK_T), n_tokens - 1)     # [BLOCK_T]
        m = tl.load(reference + token)                                      # [BLOCK_T]
        differs = m != tl.load(made_with + token)                           # [BLOCK_T]
        if tl.max(differs.to(tl.int32), 0) == 0:
            return
        for tile in range(split * SPLIT, tl.minimum((split + 1) * SPLIT, n_vocab), BLOCK_V):
            y = _logits_tile(hidden, head, bias, block, tile,
                             n_tokens, n_hidden, n_vocab, hidden_row, head_row,
                             SCALE, SOFTCAP, DESCRIPTORS, BLOCK_T, BLOCK_V, BLOCK_H)
            e = tl.exp2(y - m[:, None])                                     # [BLOCK_T, BLOCK_V]
            # Columns past the vocabulary are written too: there is room, and nobody reads them.
            _store(exponential, e, y, block, tile, n_tokens, n_kept,
                   SCALE, SOFTCAP, DESCRIPTORS, BLOCK_T, BLOCK_V)
