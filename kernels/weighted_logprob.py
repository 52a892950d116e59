"""Per-token log-probabilities of a language model's head, without the [T, V] logits: Triton kernel and torch twin.

    token_logprob          log π(target_t) for every token, and its gradient      (the kernel, or its twin)
    sample_logprob         sums over the tokens of each sample                    (torch, deterministic)
    weighted_logprob_loss  ℓ_i for every sample and Σ_i a_i ℓ_i                   (the two together)

One autograd function stands around both paths. `--kernel auto` is Triton on a CUDA device and torch elsewhere.

For the reader of the kernel
----------------------------
*The problem.* log π(v) = y_v − log Σ_u exp(y_u) needs one row of V logits for each token. At T = 8192 and
V = 151936 these are 2.5 GB in bfloat16 and 5 GB in float32, and plain autograd holds several copies.

*The online log-sum-exp.* s = Σ_u exp(y_u − m), with m the largest logit, can be built tile by tile over the
vocabulary: when a tile raises m to m', what was summed so far is multiplied by exp(m − m'). Two numbers for each
token replace its V logits. m starts at −inf, and every exponent is ≤ 0, so nothing overflows. Each program owns
one block of tokens and a range of the vocabulary (a *split*) and writes its (m, s) to its own cell; torch
combines the [splits, T] partials. There are no locks and no atomics, so the bits repeat.

*Why recompute.* ∂logp_t/∂y_v = [v = target_t] − exp(y_v − m_t) / s_t, so the backward pass needs the logits
again. Keeping them costs the memory that this file exists to save; computing them again costs 2THV FLOPs and
brings back the same float32 accumulation that the forward pass saw. (m and s are kept apart for it: m + log s is
rounded at the size of m, which for logits near 100 alone puts Σ_v p_v off by 4e-6.) The backward pass goes over
the vocabulary in chunks. Triton turns each tile of logits into its gradient before it leaves the registers, and
torch.mm does the two products. Chunks of vocabulary rather than of tokens, because each slice of the head's
gradient is then written once instead of read, added to and written for each chunk.

*Why GRPO's mathematics stays outside.* Ratio, clip and KL are a few operations on [T] vectors, and
autograd hands the kernel one number for each token, ∂L/∂logp_t. With the contract "a log-prob and its
gradient", one kernel serves policy, reference, SFT and both points of a finite difference, and there is no
second copy of the loss that could drift from the first.

*FLOPs and bytes* (b bytes an element; n_c = ⌈V/V_c⌉ chunks; n_g groups of GROUP · BLOCK_T tokens):

    pass                        FLOPs    bytes to and from memory, at best
    forward                     2THV     b·TH + n_g·b·VH (head, once for each group) + 8·T·splits
    backward, recompute         2THV     n_c·b·TH + n_g·b·VH + b·TV (gradient of the logits, written)
    backward, hidden gradient   2THV     b·TV + b·VH + n_c·(2b + 8)·TH (partial products, summed in float32)
    backward, head gradient     2THV     b·TV + n_c·b·TH + b·VH; nothing for a frozen head

At T = 8192, H = 2048, V = 151936 in bfloat16 a product is 5.1 TFLOP and the [T, V] traffic of the whole
backward pass 7.5 GB, so a GPU with 800 TFLOP/s and 3 TB/s is bound by arithmetic in every pass.

*The twin* is the same mathematics in plain torch: whole rows for a few tokens at a time in the forward pass,
the same loop over the vocabulary in the backward pass. A problem so small that its logits fit a third of the
workspace keeps them instead of recomputing. In bfloat16 its logits are rounded by torch.mm; the kernel's are not.
"""

import os

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS and Windows: the twin needs none of it
    triton = None

IGNORE = -100  # target or sample id of a token that is not scored
WORKSPACE_BYTES = 256 * 2**20  # for tiles of logits and of their gradient; see workspace_bytes for the rest
TILES = 4  # vocabulary tiles in a split: fewer make more partials, more leave processors idle at the end
GROUP = 16  # blocks of tokens that walk the vocabulary together, so that the head's tiles are found in the L2 cache


def resolve_kernel(kernel, device):
    """The path that `kernel` (auto, triton or torch) means on `device`: "triton" or "torch".

    `auto` is Triton on a CUDA device (if Triton is installed) and torch elsewhere. `triton` where it cannot
    run is a ValueError rather than a silent fall-back: nobody should measure the other path by mistake.
    """
    device = torch.device(device)
    if kernel not in ("auto", "triton", "torch"):
        raise ValueError(f"--kernel {kernel!r}: expected auto, triton or torch")
    if kernel == "auto":
        return "triton" if device.type == "cuda" and triton is not None else "torch"
    if kernel == "triton" and triton is None:
        raise ValueError("--kernel triton: the package triton is not installed; install it, or use --kernel auto")
    if kernel == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"--kernel triton: needs a CUDA device and the tensors are on {device.type!r}; use --kernel auto "
            "(TRITON_INTERPRET=1, set before Python starts, runs the kernel slowly on a CPU, for tests)"
        )
    return kernel


def token_logprob(hidden, head, target, *, bias=None, temperature=1.0, softcap=None, kernel="auto"):
    """log π(target_t) for every token, in nats, differentiable once.

        z_tv   = hidden_t · head_v + bias_v
        y_tv   = softcap · tanh(z_tv / softcap) / temperature
        logp_t = y_t,target(t) − log Σ_v exp(y_tv)

    hidden: [T, H] and head: [V, H], both bfloat16 or float32 (or float64, always on the torch path);
    target: [T] int64 in [0, V); bias: [V]. Any strides. The dtype computed in is that of the tensors, also
    under autocast. Returns logp: [T] float32 (float64 for float64).
    Gradients go to those of hidden, head and bias that require them; a frozen head costs no product.
    Raises ValueError for anything else, and RuntimeError from a backward pass with create_graph=True.
    """
    _check(hidden, head, target, bias, temperature, softcap)
    path = resolve_kernel(kernel, hidden.device)
    if path == "triton" and hidden.dtype == torch.float64:
        if kernel == "triton":
            raise ValueError("--kernel triton: float64 runs on the torch path only; use float32 or bfloat16")
        path = "torch"
    if path == "triton" and hidden.dtype == torch.bfloat16 and not hidden.is_cuda:
        raise ValueError("--kernel triton: Triton's interpreter multiplies bfloat16 wrongly; use float32")
    if len(hidden) == 0:
        path = "torch"  # Triton cannot launch an empty grid
    settings = float(temperature), None if softcap is None else float(softcap)
    recorded = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, head, bias))
    with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
        return _TokenLogprob.apply(hidden, head, bias, target, settings, path, recorded)


def sample_logprob(logp, sample, n_samples, *, token_weight=None, dtype=None):
    """Σ_t∈i u_t logp_t for every sample i: [n_samples], with the same bits on every run.

    logp: [T]; sample: [T] int64 in [0, n_samples), or IGNORE; token_weight u: [T], default 1.
    dtype: what to sum in; torch.float64 where two nearly equal sums are subtracted, as in a finite difference.
    A sample without tokens sums to 0. Raises ValueError for other sample ids.
    """
    value = logp.to(dtype or logp.dtype)
    if token_weight is not None:
        value = value * token_weight.to(value.dtype)
    kept = (sample != IGNORE).nonzero()[:, 0]
    value, sample = value[kept], sample[kept]
    if len(kept) == 0:
        return value.new_zeros(n_samples) + value.sum()
    if int(sample.min()) < 0 or int(sample.max()) >= n_samples:
        raise ValueError(f"a sample id lies outside [0, {n_samples}) and is not IGNORE ({IGNORE})")
    # One row for each sample, with its tokens in order, summed along the row. Every cell is written by one
    # token, so there is no atomic addition whose order could vary, and one sample's inf stays its own.
    sample, order = torch.sort(sample, stable=True)
    count = torch.bincount(sample, minlength=n_samples)
    column = torch.arange(len(sample), device=sample.device) - (count.cumsum(0) - count)[sample]
    rows = value.new_zeros(n_samples, int(count.max()))
    return rows.index_put((sample, column), value[order]).sum(1)


def weighted_logprob_loss(hidden, head, target, sample, weight, *, token_weight=None, dtype=None, **settings):
    """The loss of every sample and the weighted total: ℓ_i = −Σ_t∈i u_t log π(target_t) and L = Σ_i a_i ℓ_i.

    hidden: [T, H]; head: [V, H]; target and sample: [T] int64, IGNORE in either drops the token before any
    work is done on it; weight a: [n_samples]; token_weight u: [T], default 1 (1/length makes ℓ_i a mean);
    dtype: as in sample_logprob; settings: bias, temperature, softcap and kernel of token_logprob.
    Returns (L: [], ℓ: [n_samples]).
    """
    kept = ((target != IGNORE) & (sample != IGNORE)).nonzero()[:, 0]
    if len(kept) < len(target):
        hidden, target, sample = hidden[kept], target[kept], sample[kept]
        token_weight = None if token_weight is None else token_weight[kept]
    logp = token_logprob(hidden, head, target, **settings)
    loss = -sample_logprob(logp, sample, len(weight), token_weight=token_weight, dtype=dtype)
    return (weight.to(loss.dtype) * loss).sum(), loss


def workspace_bytes(hidden, head):
    """The most memory in bytes that forward and backward hold beyond their inputs and outputs, on either path.

    Tiles of logits; two [T, H] buffers for the hidden gradient (a chunk's product, and the running sum in
    float32); two [splits, T] buffers of float32 partials; a few [T] vectors.
    """
    (n_tokens, n_hidden), narrow = hidden.shape, hidden.element_size()
    wide = max(4, narrow)
    splits = _ceil_div(len(head), TILES * _blocks(hidden)[0]["BLOCK_V"])
    return WORKSPACE_BYTES + n_tokens * (n_hidden * (narrow + wide) + 8 * splits + 10 * wide)


def _ceil_div(a, b):
    return -(-a // b)


def _check(hidden, head, target, bias, temperature, softcap):
    if hidden.dim() != 2 or head.dim() != 2 or hidden.shape[1] != head.shape[1] or 0 in head.shape:
        raise ValueError(f"expected hidden [T, H] and head [V, H], got {list(hidden.shape)} and {list(head.shape)}")
    if hidden.dtype != head.dtype or hidden.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(
            f"expected hidden and head in one dtype of bfloat16, float32 and float64, got {hidden.dtype} and "
            f"{head.dtype} (float16 would round the gradient of small weights to zero)"
        )
    if target.shape != hidden.shape[:1] or target.dtype != torch.int64:
        raise ValueError(f"expected target [{len(hidden)}] int64, got {list(target.shape)} {target.dtype}")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"expected bias [{len(head)}], got {list(bias.shape)}")
    if any(x is not None and x.device != hidden.device for x in (head, target, bias)):
        raise ValueError(f"hidden is on {hidden.device}: expected head, target and bias there too")
    if not temperature > 0 or (softcap is not None and not softcap > 0):
        raise ValueError(f"temperature is {temperature} and softcap {softcap}: expected numbers above 0")
    if len(target) and not (0 <= int(target.min()) and int(target.max()) < len(head)):
        raise ValueError(f"a target lies outside [0, {len(head)}); weighted_logprob_loss drops ignored tokens")


class _TokenLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, bias, target, settings, path, recorded):
        ctx.settings, ctx.path = settings, path
        if path == "triton":
            logp, norm, log_p = *_forward_triton(hidden, head, bias, target, *settings), None
        else:
            logp, norm, log_p = _forward_torch(hidden, head, bias, target, *settings, recorded)
        ctx.save_for_backward(hidden, head, bias, target, norm, log_p)
        return logp

    @staticmethod
    def backward(ctx, d_logp):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "token_logprob is differentiable once, and this backward pass was called with create_graph=True; "
                "for second derivatives use torch.log_softmax(hidden @ head.T, -1), which keeps the logits"
            )
        hidden, head, bias, target, norm, log_p = ctx.saved_tensors
        want_hidden, want_head, want_bias = ctx.needs_input_grad[:3]
        d_hidden = None
        d_head = torch.empty_like(head) if want_head else None
        d_bias = torch.empty_like(bias) if want_bias else None
        columns = _vocab_chunk(hidden, head, ctx.path)
        tile = hidden.new_empty(len(hidden), columns) if ctx.path == "triton" else None
        with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
            for v in range(0, len(head), columns):
                chunk = slice(v, min(v + columns, len(head)))
                part = head[chunk], None if bias is None else bias[chunk], target - v
                # ∂L/∂z_tv = ∂L/∂logp_t · ([v = target_t] − exp(y_tv − m_t) / s_t) · ∂y_tv/∂z_tv     d_z: [T, V_c]
                if ctx.path == "triton":
                    d_z = _gradient_triton(hidden, *part, norm, d_logp, *ctx.settings, tile[:, : len(part[0])])
                else:
                    d_z = _gradient_torch(hidden, *part, norm, log_p, d_logp, *ctx.settings)
                if want_bias:
                    d_bias[chunk] = d_z.sum(0, dtype=d_logp.dtype)
                d_z = d_z.to(hidden.dtype)
                if want_hidden:  # ∂L/∂hidden = Σ over chunks of d_z · head, summed in float32
                    product = d_z @ part[0]
                    d_hidden = product.to(d_logp.dtype) if d_hidden is None else d_hidden.add_(product)
                    del product
                if want_head:  # ∂L/∂head_v = Σ_t d_z_tv · hidden_t: complete in this chunk, so written in place
                    torch.mm(d_z.T, hidden, out=d_head[chunk])
                del d_z
        return d_hidden if d_hidden is None else d_hidden.to(hidden.dtype), d_head, d_bias, None, None, None, None


def _vocab_chunk(hidden, head, path):
    """Columns at a time: the twin holds up to three float32 (float64) tiles, the kernel one of hidden's dtype."""
    wide = hidden.element_size() if path == "triton" else 3 * max(4, hidden.element_size())
    columns = max(1, WORKSPACE_BYTES // (wide * max(1, len(hidden))))
    if columns >= len(head):
        return len(head)
    return columns - columns % 256 if columns > 256 else columns  # whole tiles, and aligned rows


# ---------------------------------------------------------------- the torch twin


def _logits_torch(hidden, head, bias, temperature, softcap):
    """y: [T', V'], float32 or float64, in a tensor that its caller may overwrite."""
    y = (hidden @ head.T).to(torch.promote_types(hidden.dtype, torch.float32))
    if bias is not None:
        y += bias
    if softcap is not None:
        y.div_(softcap).tanh_().mul_(softcap)
    return y if temperature == 1.0 else y.div_(temperature)


def _forward_torch(hidden, head, bias, target, temperature, softcap, recorded):
    """logp: [T], (m, s): [2, T] or None, and log-probabilities [T, V] or None: kept where they are small and wanted."""
    # With a softcap the gradient needs the logits too, so it recomputes.
    keep = recorded and softcap is None and _vocab_chunk(hidden, head, "torch") == len(head)
    rows = max(1, WORKSPACE_BYTES // (3 * max(4, hidden.element_size()) * len(head)))
    logp, norm, log_p = [], [], None
    for h, t in zip(hidden.split(rows), target.split(rows)):
        y = _logits_torch(h, head, bias, temperature, softcap)
        top, at = y.max(1, keepdim=True) if recorded and not keep else (None, None)
        # In place where the order of reads and writes is known to allow it, which spares a second tile.
        log_p = torch.log_softmax(y, 1, out=None if y.device.type == "mps" else y)
        logp.append(log_p.gather(1, t[:, None])[:, 0])
        if top is not None:  # at the largest logit m, log p = −log s
            norm.append(torch.cat([top, log_p.gather(1, at).neg_().exp_()], 1).T)
    return torch.cat(logp), torch.cat(norm, 1) if norm else None, log_p if keep else None


def _gradient_torch(hidden, head, bias, target, norm, log_p, d_logp, temperature, softcap):
    """∂L/∂z: [T, V_c] for the head's slice; a target outside the slice is negative or too large."""
    scale = d_logp / temperature
    slope = None
    if log_p is not None:
        d_z = log_p.exp()  # a copy: what was saved must serve another backward pass
        d_z.mul_(-scale[:, None])
    else:
        d_z = _logits_torch(hidden, head, bias, temperature, softcap)
        if softcap is not None:  # ∂y/∂z = (1 − tanh²(z / softcap)) / temperature
            slope = (d_z * (temperature / softcap)).square_().neg_().add_(1)
        d_z.sub_(norm[0][:, None]).exp_().mul_((-scale / norm[1])[:, None])
    row = ((target >= 0) & (target < len(head))).nonzero()[:, 0]
    d_z[row, target[row]] += scale[row]
    return d_z if slope is None else d_z.mul_(slope)


# ---------------------------------------------------------------- the Triton kernel


def _blocks(hidden):
    """Block sizes (tokens, vocabulary, hidden) and launch settings. Chosen here, not by autotuning: the bits of a
    result must not depend on a race between configurations."""
    if not hidden.is_cuda:  # Triton's interpreter: its cost is the number of programs
        return dict(BLOCK_T=64, BLOCK_V=64, BLOCK_H=64), {}
    if hidden.dtype == torch.float32:  # exact float32 products run without tensor cores
        return dict(BLOCK_T=64, BLOCK_V=64, BLOCK_H=32), dict(num_warps=4, num_stages=2)
    shared = getattr(torch.cuda.get_device_properties(hidden.device), "shared_memory_per_block_optin", 0)
    if shared >= 160 * 2**10:  # A100, H100 and later data-centre GPUs hold three stages of 48 KiB
        return dict(BLOCK_T=128, BLOCK_V=256, BLOCK_H=64), dict(num_warps=8, num_stages=3)
    return dict(BLOCK_T=64, BLOCK_V=128, BLOCK_H=32), dict(num_warps=4, num_stages=3)


def _arguments(hidden, head, bias, target, temperature, softcap):
    """What both kernels begin with. A None pointer is never read: the flags are compile-time constants."""
    tensors = (hidden, head, bias, target.contiguous())
    sizes = (*hidden.shape, len(head), *hidden.stride(), *head.stride(), 0 if bias is None else bias.stride(0))
    flags = dict(HAS_BIAS=bias is not None, HAS_SOFTCAP=softcap is not None, GROUP=GROUP)
    return (*tensors, *sizes, 1.0 / temperature, softcap or 1.0), flags


def _forward_triton(hidden, head, bias, target, temperature, softcap):
    n_tokens, n_vocab = len(hidden), len(head)
    arguments, flags = _arguments(hidden, head, bias, target, temperature, softcap)
    blocks, launch = _blocks(hidden)
    splits = _ceil_div(n_vocab, TILES * blocks["BLOCK_V"])
    partial = torch.empty(2, splits, n_tokens, dtype=torch.float32, device=hidden.device)  # (maximum, sum)
    y_target = torch.empty(n_tokens, dtype=torch.float32, device=hidden.device)
    grid = (_ceil_div(n_tokens, blocks["BLOCK_T"]) * splits,)
    outputs = partial[0], partial[1], y_target
    _forward_kernel[grid](*arguments, *outputs, splits, TILES=TILES, **flags, **blocks, **launch)
    # m = max_k m_k        s = Σ_k s_k exp(m_k − m)        logp = y_target − m − log s
    m = partial[0].amax(0)
    s = partial[0].sub_(m).exp_().mul_(partial[1]).sum(0)
    return y_target - m - s.log(), torch.stack([m, s])


def _gradient_triton(hidden, head, bias, target, norm, d_logp, temperature, softcap, d_z):
    arguments, flags = _arguments(hidden, head, bias, target, temperature, softcap)
    blocks, launch = _blocks(hidden)
    splits = _ceil_div(len(head), blocks["BLOCK_V"])
    grid = (_ceil_div(len(hidden), blocks["BLOCK_T"]) * splits,)
    tensors = norm[0], norm[1], d_logp.contiguous(), d_z
    _gradient_kernel[grid](*arguments, *tensors, d_z.stride(0), splits, **flags, **blocks, **launch)
    return d_z


if triton is not None:

    @triton.jit
    def _place(n_tokens, splits, GROUP: tl.constexpr, BLOCK_T: tl.constexpr):
        """Which block of tokens and which split this program owns. Neighbours in time share a tile of the head."""
        program = tl.program_id(0)
        first = program // (GROUP * splits) * GROUP
        size = tl.minimum(tl.cdiv(n_tokens, BLOCK_T) - first, GROUP)
        within = program % (GROUP * splits)
        return (first + within % size) * BLOCK_T + tl.arange(0, BLOCK_T), within // size

    @triton.jit
    def _logits(hidden, head, bias, n_tokens, n_hidden, n_vocab, hidden_t, hidden_h, head_v, head_h, bias_v,
                inverse_temperature, softcap, row, col,
                HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
                BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):  # fmt: skip
        """y: [BLOCK_T, BLOCK_V] float32, −inf where col ≥ V."""
        # Rows and columns past the end read the last one, which is cheaper than a mask in the loop.
        # int64: row · stride passes 2³¹ for long batches, col · stride for large heads.
        r = tl.minimum(row, n_tokens - 1).to(tl.int64)
        c = tl.minimum(col, n_vocab - 1).to(tl.int64)
        k = tl.arange(0, BLOCK_H)
        hidden += r[:, None] * hidden_t + k[None, :] * hidden_h
        head += c[None, :] * head_v + k[:, None] * head_h
        z = tl.zeros([BLOCK_T, BLOCK_V], dtype=tl.float32)
        for start in range(0, n_hidden, BLOCK_H):
            a = tl.load(hidden, mask=(start + k < n_hidden)[None, :], other=0.0)
            b = tl.load(head, mask=(start + k < n_hidden)[:, None], other=0.0)
            z = tl.dot(a, b, z, input_precision="ieee")
            hidden += BLOCK_H * hidden_h
            head += BLOCK_H * head_h
        if HAS_BIAS:
            z += tl.load(bias + c * bias_v).to(tl.float32)[None, :]
        if HAS_SOFTCAP:  # tanh(x) = 2σ(2x) − 1, which every backend and the interpreter have
            z = softcap * (2 * tl.sigmoid(2 / softcap * z) - 1)
        # The mask comes last: a bias, a softcap or a temperature would turn −inf back into a number.
        return tl.where((col < n_vocab)[None, :], z * inverse_temperature, -float("inf"))

    @triton.jit
    def _forward_kernel(hidden, head, bias, target, n_tokens, n_hidden, n_vocab, hidden_t, hidden_h, head_v, head_h,
                        bias_v, inverse_temperature, softcap, partial_max, partial_sum, y_target, splits,
                        HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr,
                        BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):  # fmt: skip
        """(max, Σ exp) of one block of tokens over one split, and the target's logit if it lies in this split."""
        row, split = _place(n_tokens, splits, GROUP, BLOCK_T)
        inside = row < n_tokens
        wanted = tl.load(target + row, mask=inside, other=-1)
        m = tl.full([BLOCK_T], -float("inf"), dtype=tl.float32)
        s = tl.zeros([BLOCK_T], dtype=tl.float32)
        found = tl.zeros([BLOCK_T], dtype=tl.float32)
        last = tl.minimum((split + 1) * TILES, tl.cdiv(n_vocab, BLOCK_V))
        for tile in range(split * TILES, last):
            col = tile * BLOCK_V + tl.arange(0, BLOCK_V)
            y = _logits(hidden, head, bias, n_tokens, n_hidden, n_vocab, hidden_t, hidden_h, head_v, head_h, bias_v,
                        inverse_temperature, softcap, row, col,
                        HAS_BIAS, HAS_SOFTCAP, BLOCK_T, BLOCK_V, BLOCK_H)  # fmt: skip
            # m' = max(m, max_v y_v)        s' = s · exp(m − m') + Σ_v exp(y_v − m')
            higher = tl.maximum(m, tl.max(y, 1))
            safe = tl.where(higher == -float("inf"), 0.0, higher)  # all of it −inf so far: −inf − (−inf) is NaN
            s = s * tl.exp(m - safe) + tl.sum(tl.exp(y - safe[:, None]), 1)
            m = higher
            found += tl.sum(tl.where(col[None, :] == wanted[:, None], y, 0.0), 1)
        out = split.to(tl.int64) * n_tokens + row
        tl.store(partial_max + out, m, mask=inside)
        tl.store(partial_sum + out, s, mask=inside)
        # A target lies in one split, so one program writes it.
        tl.store(y_target + row, found, mask=inside & (wanted // (TILES * BLOCK_V) == split))

    @triton.jit
    def _gradient_kernel(hidden, head, bias, target, n_tokens, n_hidden, n_vocab, hidden_t, hidden_h, head_v, head_h,
                         bias_v, inverse_temperature, softcap, row_max, row_sum, d_logp, d_z, d_z_t, splits,
                         HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, GROUP: tl.constexpr,
                         BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr):  # fmt: skip
        """∂L/∂z of one tile: the logits are recomputed, turned into their gradient in registers, and stored."""
        row, tile = _place(n_tokens, splits, GROUP, BLOCK_T)
        col = tile * BLOCK_V + tl.arange(0, BLOCK_V)
        y = _logits(hidden, head, bias, n_tokens, n_hidden, n_vocab, hidden_t, hidden_h, head_v, head_h, bias_v,
                    inverse_temperature, softcap, row, col,
                    HAS_BIAS, HAS_SOFTCAP, BLOCK_T, BLOCK_V, BLOCK_H)  # fmt: skip
        inside = row < n_tokens
        wanted = tl.load(target + row, mask=inside, other=-1)
        m = tl.load(row_max + row, mask=inside, other=0.0)
        s = tl.load(row_sum + row, mask=inside, other=1.0)
        p = tl.exp(y - m[:, None]) * (1 / s)[:, None]
        # ∂L/∂z = ∂L/∂logp · ([v = target] − p) · (1 − tanh²(z / softcap)) / temperature
        scale = tl.load(d_logp + row, mask=inside, other=0.0) * inverse_temperature
        d = scale[:, None] * (tl.where(col[None, :] == wanted[:, None], 1.0, 0.0) - p)
        if HAS_SOFTCAP:
            tanh = y / (inverse_temperature * softcap)
            d *= 1 - tanh * tanh
        address = d_z + row.to(tl.int64)[:, None] * d_z_t + col[None, :]
        tl.store(address, d.to(d_z.dtype.element_ty), mask=inside[:, None] & (col < n_vocab)[None, :])
