"""The promises of kernels/: right log-probs and derivatives on every path, bounded memory, errors that say what to do.

Every function in CASES runs on the torch path, on the Triton kernels in Triton's interpreter (one subprocess for all
cases, since TRITON_INTERPRET must be set before the import), and on the kernels on a GPU where there is one.
"""
import contextlib
import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kernels import IGNORE, bench, resolve_kernel, sum_by_sample, token_logprob, weighted_logprob_loss  # noqa: E402
from kernels import weighted_logprob as module  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SMALL_SPLIT = 256  # four tiles of the float32 kernels, so that small vocabularies have several splits
SHAPES = [(1, 16, 17), (7, 32, 50), (64, 64, 257), (130, 96, 1000), (252, 123, 507)]  # T, H, V
CASES = {}  # name -> check(kernel, device)


def case(check):
    """Registers a check to be run on every path."""
    CASES[check.__name__] = check
    return check


@dataclass
class Problem:
    """Inputs of a head; logits have standard deviation `scale`."""
    hidden: torch.Tensor  # [T, H]
    head: torch.Tensor    # [V, H]
    bias: torch.Tensor    # [V] or None
    target: torch.Tensor  # [T]
    d_logp: torch.Tensor  # [T] the gradient that arrives from above

    def to(self, what):
        """On another device, or in another dtype."""
        changed = {}
        for name, x in vars(self).items():
            whole = x is None or (isinstance(what, torch.dtype) and not x.is_floating_point())
            changed[name] = x if whole else x.to(what)
        return Problem(**changed)


def problem(n_tokens, n_hidden, n_vocab, scale=1.0, bias=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Problem(
        hidden=torch.randn(n_tokens, n_hidden, generator=g),
        head=torch.randn(n_vocab, n_hidden, generator=g) * scale / n_hidden**0.5,
        target=torch.randint(0, n_vocab, (n_tokens,), generator=g),
        d_logp=torch.randn(n_tokens, generator=g),
        bias=torch.randn(n_vocab, generator=g) if bias else None,
    )


def plain_logits(hidden, head, bias=None, temperature=1.0, softcap=None):
    y = hidden @ head.T
    if bias is not None:
        y = y + bias
    if softcap is not None:
        y = softcap * torch.tanh(y / softcap)
    return y / temperature


def plain(hidden, head, target, **settings):
    """The definition, with all logits in memory."""
    return torch.log_softmax(plain_logits(hidden, head, **settings), 1).gather(1, target[:, None])[:, 0]


def evaluate(function, p, frozen_head=False, **settings):
    """{logp, hidden, head, bias}: log-probs and gradients. Views keep their strides."""
    hidden = p.hidden.detach().requires_grad_()
    head = p.head.detach().requires_grad_(not frozen_head)
    bias = None
    if p.bias is not None:
        bias = p.bias.detach().requires_grad_(not frozen_head)
        settings["bias"] = bias
    logp = function(hidden, head, p.target, **settings)
    logp.backward(p.d_logp.to(logp.dtype))
    found = {"logp": logp.detach(), "hidden": hidden.grad}
    if not frozen_head:
        found["head"] = head.grad
        if bias is not None:
            found["bias"] = bias.grad
    return found


def check(kernel, device, p, **settings):
    """log-probs within 1e-5 (or roundings of large logits) and gradients within 1e-4 of float64."""
    truth = evaluate(plain, p.to("cpu").to(torch.float64), **settings)
    found = evaluate(token_logprob, p.to(device), kernel=kernel, **settings)
    assert found["logp"].dtype == torch.float32
    assert found.keys() == truth.keys()
    for name, expected in truth.items():
        if name == "logp":
            atol = max(1e-5, roundings(p, **settings))
            assert_close(found[name], expected, 1e-5, name, atol=atol)
        else:
            assert_close(found[name], expected, 1e-4, name)
    return found


def roundings(p, frozen_head=False, **settings):
    """Four steps of float32 at the size of the largest logit.

    y and log Σ exp(y) are of that size, and logp, their difference, keeps their errors. y is
    rounded as a sum of products, at the softcap and at the temperature, and the logarithm once more.
    At 185 a step is 2.2e-5.
    """
    exact = p.to("cpu").to(torch.float64)
    largest = plain_logits(exact.hidden, exact.head, exact.bias, **settings).abs()
    return 4 * torch.finfo(torch.float32).eps * float(largest[largest.isfinite()].max())


def assert_close(found, expected, tolerance, name="result", atol=None):
    torch.testing.assert_close(found.detach().double().cpu(), expected.detach().double().cpu(), rtol=tolerance,
                               atol=atol or tolerance, msg=lambda message: f"{name}: {message}")


def assert_same(found, expected):
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


@contextlib.contextmanager
def constants(**changed):
    """Constants of the module while the block runs (this file also runs without pytest and its monkeypatch)."""
    before = {name: getattr(module, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


# ---------------------------------------------------------------- on every path: log-probs and gradients

@case
def log_probs_and_gradients_agree_with_float64(kernel, device):
    for shape in SHAPES:
        check(kernel, device, problem(*shape))
        check(kernel, device, problem(*shape, bias=True), temperature=0.7, softcap=3.0)


@case
def a_frozen_heads_gradients_agree_with_float64(kernel, device):
    for shape in SHAPES[:4]:
        check(kernel, device, problem(*shape), frozen_head=True)
        check(kernel, device, problem(*shape, bias=True), frozen_head=True, temperature=0.7, softcap=3.0)


@case
def bias_temperature_and_softcap_each_alone(kernel, device):
    check(kernel, device, problem(33, 48, 130, scale=2.0, bias=True))
    check(kernel, device, problem(33, 48, 130, scale=2.0), temperature=1.7)
    check(kernel, device, problem(33, 48, 130, scale=2.0), softcap=2.0)


@case
def numbers_may_be_tensors(kernel, device):
    p = problem(5, 16, 40)
    expected = evaluate(token_logprob, p.to(device), kernel=kernel, temperature=0.5, softcap=3.0)
    found = evaluate(token_logprob, p.to(device), kernel=kernel, temperature=torch.tensor(0.5),
                     softcap=torch.tensor(3.0))
    assert_same(found, expected)


@case
def a_softcap_is_as_exact_as_float32_allows(kernel, device):
    p = problem(20, 32, 300)
    found = token_logprob(p.hidden.to(device), p.head.to(device), p.target.to(device), softcap=30.0, kernel=kernel)
    exact = plain(p.hidden.double(), p.head.double(), p.target, softcap=30.0)
    assert (found.cpu() - exact).abs().max() < 5e-6  # float32 has steps of 1.9e-6 at 30


@case
def targets_in_the_last_partial_tile(kernel, device):
    for n_vocab in (257, 319):  # with a single word in the last tile, and with all but one
        p = problem(9, 32, n_vocab)
        p.target[:] = n_vocab - 1
        check(kernel, device, p)
        check(kernel, device, p, frozen_head=True)


@case
def logits_times_50(kernel, device):
    found = check(kernel, device, problem(20, 32, 300, scale=50.0))
    assert found["logp"].min() < -50
    check(kernel, device, problem(20, 32, 300, scale=50.0), frozen_head=True)


@case
def all_logits_near_minus_100(kernel, device):
    # Columns past V would count as logits of 0 here and swallow all probability: log-probs near −100 or +100.
    by_bias = problem(20, 32, 300, bias=True)
    by_bias.bias[:] = -100.0
    by_head = problem(20, 32, 300)
    by_head.hidden[:, 0] = 10.0  # not 1 · −100: a gradient would be a difference of such sums
    by_head.head[:, 0] = -10.0
    for p, settings in ((by_bias, {}), (by_head, {}), (by_head, {"softcap": 200.0, "temperature": 0.5})):
        for frozen_head in (False, True):
            found = check(kernel, device, p, frozen_head=frozen_head, **settings)
            assert found["logp"].min() > -30
            assert found["logp"].max() < 0


@case
def a_bias_of_minus_infinity_bans_whole_tiles(kernel, device):
    p = problem(10, 32, 700, bias=True)
    p.bias[:300] = -float("inf")  # the whole first split of the interpreter's kernel, and a part of the next
    p.target = 300 + p.target % 400
    p.target[0] = 3  # banned itself: its reference is not −inf, or 2^(−inf + inf) would be NaN
    check(kernel, device, p)
    check(kernel, device, p, frozen_head=True)
    q = p.to(device)
    _, found = token_logprob(q.hidden, q.head, q.target, bias=q.bias, kernel=kernel, statistics=True)
    assert found.entropy.isfinite().all()
    p.bias[300:] = -200.0  # far below the 0 that stands in for the largest logit of a banned tile
    check(kernel, device, p, frozen_head=True)


@case
def a_banned_target_is_minus_infinity_and_nan_stays_in_its_row(kernel, device):
    p = problem(6, 16, 40, bias=True)
    p.target[0] = 3
    p.target[1:] = 20
    p.bias[3] = -float("inf")
    p.hidden[2] = float("nan")
    p = p.to(device)
    for statistics in (False, True):
        logp = token_logprob(p.hidden, p.head, p.target, bias=p.bias, kernel=kernel, statistics=statistics)
        logp = logp[0] if statistics else logp
        assert logp[0] == -float("inf")
        assert logp.isnan().tolist() == [False, False, True, False, False, False]


@case
def strided_transposed_and_misaligned_inputs(kernel, device):
    p = problem(37, 40, 140, bias=True).to(device)
    expected = check(kernel, device, p)
    every_other = torch.zeros(37, 80, device=device)
    every_other[:, ::2] = p.hidden
    misaligned = torch.zeros(140 * 40 + 1, device=device)
    misaligned[1:] = p.head.flatten()
    spread = Problem(
        hidden=every_other[:, ::2],
        head=p.head.T.contiguous().T,
        bias=p.bias.repeat_interleave(2)[::2],
        target=p.target.repeat_interleave(2)[::2],
        d_logp=p.d_logp.repeat_interleave(2)[::2],
    )
    other = replace(spread, hidden=p.hidden.T.contiguous().T, head=misaligned[1:].view(140, 40))
    for strange in (spread, other):
        found = check(kernel, device, strange)
        for name in expected:
            assert_close(found[name], expected[name], 1e-5, name)
    expanded = torch.ones((), device=device).expand(37)
    for frozen_head in (False, True):
        check(kernel, device, replace(p, d_logp=expanded), frozen_head=frozen_head)


@case
def offsets_pass_two_to_the_31(kernel, device):
    if kernel == "torch":
        return
    stride, rows = 2**25, 66  # the last row begins 65 · 2²⁵ > 2³¹ elements into 8.7 GB of which only 66 rows are touched
    try:
        storage = torch.empty(stride * (rows - 1) + 16, device=device)
    except RuntimeError:
        return  # this machine does not promise so much memory
    p = problem(rows, 16, 40)
    far = storage.as_strided((rows, 16), (stride, 1))
    far.copy_(p.hidden)
    logp = token_logprob(far, p.head.to(device), p.target.to(device), kernel=kernel)
    assert_close(logp, plain(p.hidden, p.head, p.target), 1e-5)


@case
def upstream_gradients_of_0_and_1e3_and_1e_minus_6_all_count(kernel, device):
    p = problem(12, 32, 100)
    p.d_logp = torch.tensor([0.0, 1e3, 1e-6]).repeat(4)
    truth = evaluate(plain, p.to(torch.float64))["hidden"]
    for frozen_head in (False, True):
        found = evaluate(token_logprob, p.to(device), frozen_head, kernel=kernel)["hidden"].cpu()
        assert (found[0::3] == 0).all()
        relative = (found - truth).norm(dim=1) / truth.norm(dim=1)
        assert relative[1::3].max() < 1e-5
        assert relative[2::3].max() < 1e-5


@case
def many_chunks_change_nothing(kernel, device):
    p = problem(70, 32, 300, bias=True)
    with constants(WORKSPACE_BYTES=3 * 4 * 70 * 37, KEEP_BYTES=0):
        # 37 words at a time for the torch path, 111 for the kernel; 8 tokens forward, 27 where gradients are kept
        columns = module._vocab_chunks(p.hidden, p.head, None, kernel)[0].stop
        assert 1 < columns < 300
        assert 300 % columns != 0
        for frozen_head in (False, True):
            check(kernel, device, p, frozen_head=frozen_head)
            check(kernel, device, p, frozen_head=frozen_head, softcap=3.0, temperature=0.9)


@case
def exponentials_kept_and_made_again_give_the_same(kernel, device):
    p = problem(70, 32, 700, bias=True)
    tile = module.BLOCKS[torch.float32]["BLOCK_V"]
    of_a_tile = 4 * 70 * tile
    results = []
    # Nothing, one byte short of a tile, one tile, one byte short of all, all.
    for keep in (0, of_a_tile - 1, of_a_tile, 11 * of_a_tile - 1, 11 * of_a_tile):
        with constants(KEEP_BYTES=keep):
            results.append(check(kernel, device, p, softcap=3.0, temperature=0.9))
            words = module._kept_words(p.hidden, p.head)
            assert words == keep // of_a_tile * tile
    with constants(KEEP_BYTES=of_a_tile, DESCRIBED=set()):  # pointers can pass a row's end
        results.append(check(kernel, device, p, softcap=3.0, temperature=0.9))
    for found in results:
        for name, expected in results[0].items():
            assert_close(found[name], expected, 1e-5, name)


@case
def unlikely_targets_move_the_reference(kernel, device):
    # Logits of 0 and 300: a target at 0 has e = 1, and exp(300) would be infinite.
    p = problem(70, 32, 700)
    p.hidden[:, 0] = 1.0
    p.head[:, 0] = 0.0
    p.head[400:420, 0] = 300.0
    p.target[:] = p.target % 400
    p.target[3::7] = 410           # likely targets in the same block
    p.head[650:, 0] = 150.0        # raised later and less in another split
    for keep in (0, 4 * 70 * 448, 2**28):
        with constants(KEEP_BYTES=keep, WORKSPACE_BYTES=4 * 70 * 256):
            found = check(kernel, device, p)
            assert found["logp"].min() < -290
            check(kernel, device, p, frozen_head=True)
    q = p.to(device)
    _, found = token_logprob(q.hidden, q.head, q.target, kernel=kernel, statistics=True)
    log_p = torch.log_softmax(plain_logits(p.hidden.double(), p.head.double()), 1)
    # float32 has steps of 3e-5 at 300.
    assert_close(found.entropy, -(log_p.exp() * log_p).sum(1), 1e-4)
    assert_close(found.top_probability, log_p.exp().amax(1), 1e-4)


@case
def entropy_counts_the_tiles_before_the_one_that_moves_the_reference(kernel, device):
    # Above the targets' logits the second tile lies less than HEADROOM (64 · ln 2 = 44.4), the third
    # more: it moves the reference, and has only e² times the probability of the second.
    p = problem(20, 32, 192, scale=0.1)
    p.hidden[:, 0] = 1.0
    p.head[:, 0] = torch.tensor([0.0, 43.0, 45.0]).repeat_interleave(64)
    p.target[:] = p.target % 64
    log_p = torch.log_softmax(plain_logits(p.hidden.double(), p.head.double()), 1)
    q = p.to(device)
    _, found = token_logprob(q.hidden, q.head, q.target, kernel=kernel, statistics=True)
    assert_close(found.entropy, -(log_p.exp() * log_p).sum(1), 1e-4)


@case
def descriptors_and_pointers_give_the_same(kernel, device):
    # H, V and T end within a block: the copy engine fills up with 0.
    p = problem(70, 36, 300, bias=True)
    too_old = device == "cuda" and torch.cuda.get_device_capability()[0] < 9
    for frozen_head in (False, True):
        results = []
        for described in ({torch.float32}, set()):
            with constants(DESCRIBED=described):
                q = p.to(device)
                if kernel == "triton" and not too_old:
                    assert module._can_describe(q.head) == (described != set())
                results.append(check(kernel, device, p, frozen_head=frozen_head, softcap=3.0))
        for name, expected in results[1].items():
            assert_close(results[0][name], expected, 1e-5, name)


@case
def token_blocks_in_several_groups(kernel, device):
    with constants(GROUP=3):  # the interpreter's kernel cuts 252 tokens into 4 blocks: a full group and a partial one
        check(kernel, device, problem(252, 16, 300))


@case
def a_frozen_head_costs_no_product_of_its_own(kernel, device):
    p = problem(30, 32, 150).to(device)
    product = 2 * 30 * 32 * 150
    truth = check(kernel, device, p)
    for train_hidden, train_head in ((True, False), (False, True), (True, True)):
        hidden = p.hidden.clone().requires_grad_(train_hidden)
        head = p.head.clone().requires_grad_(train_head)
        with FlopCounterMode(display=False) as forward:
            logp = token_logprob(hidden, head, p.target, kernel=kernel)
        with FlopCounterMode(display=False) as backward:
            logp.backward(p.d_logp)
        # The logits' own product is out of this counter's sight in the kernels.
        logits = product * (kernel == "torch")
        if kernel == "triton" and not train_head:
            assert forward.get_total_flops() == product  # ∂logp/∂hidden, while the logits are there
            assert backward.get_total_flops() == 0
        else:
            assert forward.get_total_flops() == logits
            assert backward.get_total_flops() == logits + product * (train_hidden + train_head)
        assert (hidden.grad is not None) == train_hidden
        assert (head.grad is not None) == train_head
        if train_hidden:
            assert_close(hidden.grad, truth["hidden"], 1e-5)
        if train_head:
            assert_close(head.grad, truth["head"], 1e-5)


@case
def a_tied_head_gets_both_gradients(kernel, device):
    p = problem(21, 24, 60)

    def gradient(function, table, **settings):
        table = table.clone().requires_grad_()
        ids = p.target.flip(0).to(table.device)
        logp = function(torch.tanh(table[ids] * 3), table, p.target.to(table.device), **settings)
        logp.backward(p.d_logp.to(logp))
        return table.grad

    found = gradient(token_logprob, p.head.to(device), kernel=kernel)
    assert_close(found, gradient(plain, p.head.double()), 1e-4)


@case
def bits_repeat(kernel, device):
    p = problem(70, 48, 300, bias=True).to(device)
    for frozen_head in (False, True):
        first = evaluate(token_logprob, p, frozen_head, kernel=kernel)
        for _ in range(20 if device == "cuda" else 1):
            assert_same(evaluate(token_logprob, p, frozen_head, kernel=kernel), first)


@case
def no_tokens_are_no_error(kernel, device):
    p = problem(0, 16, 20).to(device)
    found = evaluate(token_logprob, p, kernel=kernel)
    assert found["logp"].shape == (0,)
    assert (found["head"] == 0).all()


@case
def backward_can_run_twice_over_one_graph(kernel, device):
    p = problem(10, 16, 40).to(device)
    p.hidden.requires_grad_()
    for frozen_head in (False, True):
        logp = token_logprob(p.hidden, p.head.requires_grad_(not frozen_head), p.target, kernel=kernel)
        inputs = [p.hidden] if frozen_head else [p.hidden, p.head]
        first = torch.autograd.grad(logp, inputs, p.d_logp, retain_graph=True)
        second = torch.autograd.grad(logp, inputs, p.d_logp)
        for a, b in zip(first, second):
            assert torch.equal(a, b)


@case
def double_backward_is_refused(kernel, device):
    p = problem(5, 16, 20).to(device)
    p.hidden.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        logp = token_logprob(p.hidden, p.head, p.target, kernel=kernel)
        torch.autograd.grad(logp.sum(), p.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.func.grad(lambda h: token_logprob(h, p.head, p.target, kernel=kernel).sum())(p.hidden.detach())


@case
def autocast_does_not_lower_the_precision(kernel, device):
    p = problem(8, 32, 50).to(device)
    expected = evaluate(token_logprob, p, kernel=kernel)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = evaluate(token_logprob, p, kernel=kernel)
    assert_same(found, expected)


# ---------------------------------------------------------------- on every path: tangents and statistics

def tangents_of(function, p, moved, directions, **settings):
    """logp and its tangent when the tensors named in `moved` move along their directions."""

    def logp(*tensors):
        inputs = {"hidden": p.hidden, "head": p.head, "bias": p.bias} | dict(zip(moved, tensors))
        return function(inputs["hidden"], inputs["head"], p.target, bias=inputs["bias"], **settings)

    primals = tuple(getattr(p, name) for name in moved)
    return torch.func.jvp(logp, primals, tuple(directions[name] for name in moved))


@case
def tangents_agree_with_float64(kernel, device):
    p = problem(21, 32, 300, bias=True)
    directions = vars(problem(21, 32, 300, bias=True, seed=1))
    exact_directions = {name: directions[name].double() for name in ("hidden", "head", "bias")}
    own_directions = {name: directions[name].to(device) for name in ("hidden", "head", "bias")}
    settings = {"temperature": 0.7, "softcap": 3.0}
    for moved in (["hidden"], ["head"], ["bias"], ["hidden", "head"], ["hidden", "head", "bias"]):
        truth = tangents_of(plain, p.to(torch.float64), moved, exact_directions, **settings)
        # One chunk; many, of which the first is kept.
        for workspace, keep in ((2**28, 2**28), (3 * 4 * 21 * 37, 4 * 21 * 100)):
            with constants(WORKSPACE_BYTES=workspace, KEEP_BYTES=keep):
                found = tangents_of(token_logprob, p.to(device), moved, own_directions, kernel=kernel, **settings)
            assert_close(found[0], truth[0], 1e-5, "logp")
            assert_close(found[1], truth[1], 1e-5, f"tangent of {moved}")


@case
def a_tangent_needs_no_gradients_and_hinders_none(kernel, device):
    p = problem(9, 16, 40).to(device)
    direction = torch.ones_like(p.hidden)
    expected = evaluate(token_logprob, p, frozen_head=True, kernel=kernel)["hidden"]
    slope = (expected / p.d_logp[:, None]).sum(1)  # ⟨1, ∂logp_t/∂hidden_t⟩
    forward_ad = torch.autograd.forward_ad
    for grad_enabled in (False, True):
        hidden = p.hidden.clone().requires_grad_(grad_enabled)
        with forward_ad.dual_level(), torch.set_grad_enabled(grad_enabled):
            dual = forward_ad.make_dual(hidden, direction)
            logp, tangent = forward_ad.unpack_dual(token_logprob(dual, p.head, p.target, kernel=kernel))
        assert_close(tangent, slope, 1e-4)
        if grad_enabled:
            logp.backward(p.d_logp)
            assert_close(hidden.grad, expected, 1e-5)
            with pytest.raises(RuntimeError, match="gradient of its tangent"):
                tangent.sum().backward()


@case
def a_tangent_through_a_frozen_head_costs_two_products(kernel, device):
    p = problem(30, 32, 150).to(device)
    product = 2 * 30 * 32 * 150
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        tangents_of(token_logprob, p, ["hidden"], {"hidden": torch.ones_like(p.hidden)}, kernel=kernel)
    in_sight = 2 if kernel == "torch" else 1  # of this counter: the kernel's logits are not
    assert flops.get_total_flops() == in_sight * product


@case
def entropy_and_top_probability_agree_with_float64(kernel, device):
    for scale in (1.0, 20.0):
        p = problem(33, 48, 700, scale=scale, bias=True)
        settings = {"temperature": 0.7, "softcap": 30.0}
        logits = plain_logits(p.hidden.double(), p.head.double(), p.bias.double(), **settings)
        log_p = torch.log_softmax(logits, 1)
        q = p.to(device)
        for train_hidden in (False, True):  # as it is, and beside a gradient that is kept
            hidden = q.hidden.clone().requires_grad_(train_hidden)
            alone = token_logprob(hidden, q.head, q.target, bias=q.bias, kernel=kernel, **settings)
            logp, found = token_logprob(hidden, q.head, q.target, bias=q.bias, kernel=kernel, statistics=True, **settings)
            assert torch.equal(logp, alone)
            assert_close(found.entropy, -(log_p.exp() * log_p).sum(1), 1e-5)
            assert_close(found.top_probability, log_p.exp().amax(1), 1e-5)
            assert not found.entropy.requires_grad


# ---------------------------------------------------------------- on every path: the weighted loss

@case
def the_weighted_loss_and_its_gradients_agree_with_float64(kernel, device):
    p = problem(40, 32, 90, bias=True)
    sample = torch.tensor([0] * 17 + [1] * 9 + [3] * 14)  # sample 2 has no token at all
    sample[3] = IGNORE
    p.target[17:26] = IGNORE                              # sample 1 has only ignored ones
    weight = torch.tensor([0.0, 2.0, 5.0, 1e3])
    token_weight = torch.linspace(0.1, 1, 40)

    hidden, head, bias, a = (x.to(device, copy=True).requires_grad_() for x in (p.hidden, p.head, p.bias, weight))
    with constants(WORKSPACE_BYTES=3 * 4 * 90 * 8):  # 8 tokens at a time: samples are split over chunks
        total, loss = weighted_logprob_loss(hidden, head, p.target.to(device), sample.to(device), a, bias=bias,
                                            temperature=0.7, token_weight=token_weight.to(device), kernel=kernel)
        total.backward()

    exact = [x.double().requires_grad_() for x in (p.hidden, p.head, p.bias, weight)]
    kept = ((p.target != IGNORE) & (sample != IGNORE)).nonzero()[:, 0]
    logp = plain(exact[0][kept], exact[1], p.target[kept], bias=exact[2], temperature=0.7)
    nll = -logp * token_weight[kept].double()
    expected = torch.stack([nll[sample[kept] == i].sum() for i in range(4)])
    (exact[3] * expected).sum().backward()

    assert loss.shape == (4,)
    assert loss[1] == 0
    assert loss[2] == 0
    assert_close(loss, expected, 1e-5, "loss")
    assert_close(total, (exact[3] * expected).sum(), 1e-5, "total")
    assert_close(a.grad, exact[3].grad, 1e-5, "weight")
    for name, x, truth in zip(("hidden", "head", "bias"), (hidden, head, bias), exact):
        assert_close(x.grad / 1e3, truth.grad / 1e3, 1e-5, name)
    assert (hidden.grad[:17] == 0).all()  # weight 0


@case
def a_weight_of_0_silences_an_infinite_loss(kernel, device):
    p = problem(6, 16, 20, bias=True)
    p.target[:] = torch.tensor([7, 1, 2, 7, 3, 4])
    p.bias[7] = -float("inf")  # tokens 0 and 3 can never be said
    p = p.to(device)
    p.hidden.requires_grad_()
    sample = torch.tensor([0, 0, 0, 1, 1, 1], device=device)
    token_weight = torch.tensor([0.0, 1, 1, 1, 1, 1], device=device)  # token 0
    weight = torch.tensor([1.0, 0.0], device=device)                  # the sample of token 3
    total, loss = weighted_logprob_loss(p.hidden, p.head, p.target, sample, weight, token_weight=token_weight,
                                        bias=p.bias, kernel=kernel)
    total.backward()
    assert total.isfinite()
    assert torch.equal(total, loss[0])
    assert loss[1] == float("inf")
    assert p.hidden.grad.isfinite().all()
    assert (p.hidden.grad[1:3] != 0).any()
    assert (p.hidden.grad[3:] == 0).all()


@case
def only_ignored_tokens_give_zero_loss_and_zero_gradients(kernel, device):
    p = problem(5, 16, 20).to(device)
    p.hidden.requires_grad_()
    p.head.requires_grad_()
    ignored = torch.full_like(p.target, IGNORE)
    total, loss = weighted_logprob_loss(p.hidden, p.head, ignored, torch.zeros_like(p.target),
                                        torch.ones(2, device=device), kernel=kernel)
    total.backward()
    assert total == 0
    assert loss.tolist() == [0, 0]
    assert (p.hidden.grad == 0).all()
    assert (p.head.grad == 0).all()


# ---------------------------------------------------------------- running the cases

def run_all_interpreted(out):
    """In the subprocess: every case on the interpreted kernels; {case: None or its traceback}."""
    report = {}
    module.SPLIT = SMALL_SPLIT
    module.DESCRIBED = {torch.float32}  # as bfloat16 on a GPU, which cannot be interpreted
    for name, check_case in CASES.items():
        try:
            check_case(kernel="triton", device="cpu")
            report[name] = None
        except BaseException:
            report[name] = traceback.format_exc()
    Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    run_all_interpreted(sys.argv[1])
    sys.exit()

needs_triton = pytest.mark.skipif(module.triton is None, reason="the package triton is not installed (Linux only)")
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 replaces the compiler")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    out = tmp_path_factory.mktemp("interpreter") / "report.json"
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(out)]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", CASES)
def test_torch_path(name):
    CASES[name](kernel="torch", device="cpu")


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_in_the_interpreter(name, interpreted):
    assert interpreted[name] is None, interpreted[name]


@needs_gpu
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(module, "SPLIT", SMALL_SPLIT)
    CASES[name](kernel="triton", device="cuda")


# ---------------------------------------------------------------- derivatives of the torch path, exactly

SETTINGS = [{}, {"temperature": 0.7}, {"softcap": 3.0}, {"temperature": 1.3, "softcap": 2.0}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("workspace", [2**28, 700], ids=["one_chunk", "many_chunks"])
def test_gradients_and_tangents_are_those_of_small_differences_in_float64(settings, workspace, monkeypatch):
    monkeypatch.setattr(module, "WORKSPACE_BYTES", workspace)
    p = problem(9, 5, 11, bias=True).to(torch.float64)
    inputs = [x.requires_grad_() for x in (p.hidden, p.head, p.bias)]
    chunks = module._vocab_chunks(p.hidden, p.head, None, "torch")
    assert (len(chunks) > 1) == (workspace == 700)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logprob(h, w, p.target, bias=b, **settings), inputs,
                                    check_forward_ad=True)


def test_torch_compile_over_a_caller_changes_nothing():
    p = problem(9, 16, 50)

    def mean(hidden, head):
        return token_logprob(hidden, head, p.target, temperature=0.7).mean()

    results = []
    for function in (mean, torch.compile(mean, backend="aot_eager")):
        hidden = p.hidden.clone().requires_grad_()
        head = p.head.clone().requires_grad_()
        function(hidden, head).backward()
        results.append((hidden.grad, head.grad))
    for found, expected in zip(*results):
        assert_close(found, expected, 1e-6)


@pytest.mark.parametrize("frozen_head", [False, True])
def test_bfloat16_on_the_torch_path_is_as_exact_as_plain_torch(frozen_head, monkeypatch):
    """Logits become float32 at once, and a gradient's chunks are summed in float32."""
    def eager(hidden, head, target):
        return -F.cross_entropy((hidden @ head.T).float(), target, reduction="none")

    p = problem(64, 32, 4000, scale=3.0).to(torch.bfloat16)
    truth = evaluate(plain, p.to(torch.float64), frozen_head)
    theirs = evaluate(eager, p, frozen_head)
    monkeypatch.setattr(module, "WORKSPACE_BYTES", 3 * 4 * 64 * 20)
    assert len(module._vocab_chunks(p.hidden, p.head, None, "torch")) == 200
    found = evaluate(token_logprob, p, frozen_head, kernel="torch")
    assert found["logp"].dtype == torch.float32
    for name, exact in truth.items():
        error = (found[name].double() - exact).norm()
        assert error <= 1.5 * (theirs[name].double() - exact).norm(), name


def test_a_tangent_of_bfloat16_is_summed_in_float32():
    p = problem(64, 512, 50, scale=3.0).to(torch.bfloat16)
    directions = vars(problem(64, 512, 50, seed=1).to(torch.bfloat16))
    exact_directions = {"hidden": directions["hidden"].double()}
    _, truth = tangents_of(plain, p.to(torch.float64), ["hidden"], exact_directions)
    _, found = tangents_of(token_logprob, p, ["hidden"], directions, kernel="torch")
    assert found.dtype == torch.float32
    assert (found - truth).norm() < 0.01 * truth.norm()


@pytest.mark.parametrize("hidden_dtype, head_dtype", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_autocast_brings_mixed_dtypes_to_its_own(hidden_dtype, head_dtype):
    p = problem(8, 32, 50)
    hidden = p.hidden.to(getattr(torch, hidden_dtype)).requires_grad_()
    head = p.head.to(getattr(torch, head_dtype)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logprob(hidden, head, p.target)
    found.sum().backward()
    assert torch.equal(found, token_logprob(hidden.bfloat16(), head.bfloat16(), p.target))
    assert hidden.grad.dtype == hidden.dtype
    assert head.grad.dtype == head.dtype
    with pytest.raises(ValueError, match="one dtype"):
        token_logprob(hidden, head, p.target)


# ---------------------------------------------------------------- sums by sample

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cells", [2**24, 30], ids=["one_table", "many_tables"])
def test_sample_sums_are_those_of_a_loop(dtype, cells, monkeypatch):
    monkeypatch.setattr(module, "TABLE_CELLS", cells)
    g = torch.Generator().manual_seed(1)
    logp = torch.randn(200, generator=g, dtype=torch.float64).to(dtype)
    sample = torch.randint(0, 9, (200,), generator=g)
    sample[::7] = IGNORE
    sample[sample == 4] = 5
    u = torch.rand(200, generator=g, dtype=torch.float64)
    expected = torch.stack([(logp.double() * u)[sample == i].sum() for i in range(10)])
    found = sum_by_sample(logp, sample, 10, token_weight=u, dtype=dtype)
    assert found.dtype == dtype
    assert found[4] == 0
    assert found[9] == 0
    assert_close(found, expected, 1e-5)
    assert torch.equal(found, sum_by_sample(logp, sample, 10, token_weight=u, dtype=dtype))
    inputs = logp.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sum_by_sample(x, sample, 10, token_weight=u), inputs,
                                    check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: sum_by_sample(x * x, sample, 10), inputs)


def test_the_number_and_size_of_tables_do_not_change_the_bits(monkeypatch):
    g = torch.Generator().manual_seed(2)
    logp = torch.randn(3000, generator=g)
    sample = torch.randint(0, 40, (3000,), generator=g)
    one = sum_by_sample(logp, sample, 40)
    monkeypatch.setattr(module, "TABLE_CELLS", 1)
    assert torch.equal(sum_by_sample(logp, sample, 40), one)


def test_samples_without_tokens_cost_a_number_each(tmp_path):
    logp = torch.randn(8192)
    sample = torch.zeros(8192, dtype=torch.int64)
    peak = peak_bytes(lambda: sum_by_sample(logp, sample, 100_000), tmp_path)
    assert peak < 2 * 2**20  # a [100000, 8192] table would be 3.3 GB


def test_one_long_sample_does_not_widen_the_rows_of_all(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TABLE_CELLS", 2**16)
    logp = torch.randn(8192)
    sample = torch.arange(8192).clamp(min=4095)  # sample 4095 has half of the tokens
    peak = peak_bytes(lambda: sum_by_sample(logp, sample, 8192), tmp_path)
    assert peak < 4 * 2**20  # a [4097, 4096] table would be 67 MB


def test_sums_in_float64_keep_what_float32_loses():
    logp = torch.tensor([1e8, 1.0, -1e8])
    sample = torch.zeros(3, dtype=torch.int64)
    assert sum_by_sample(logp, sample, 1, dtype=torch.float64).item() == 1.0
    assert sum_by_sample(logp, sample, 1).item() == 0.0


def test_an_infinite_token_stays_in_its_own_sample():
    logp = torch.tensor([-float("inf"), -1.0, -2.0])
    sums = sum_by_sample(logp, torch.tensor([0, 1, 1]), 3)
    assert sums.tolist() == [-float("inf"), -3.0, 0.0]


def test_no_tokens_sum_to_zero():
    none = torch.zeros(0)
    no_ids = torch.zeros(0, dtype=torch.int64)
    assert sum_by_sample(none, no_ids, 3).tolist() == [0, 0, 0]
    assert sum_by_sample(none, no_ids, 0).tolist() == []
    ignored = torch.full((2,), IGNORE)
    logp = torch.ones(2, requires_grad=True)
    sum_by_sample(logp, ignored, 3).sum().backward()
    assert logp.grad.tolist() == [0, 0]


@pytest.mark.parametrize("token_weight", [0.5, torch.tensor(0.5), torch.full((4,), 0.5)], ids=str)
@pytest.mark.parametrize("ignored", [False, True])
def test_a_token_weight_may_be_one_number_for_all(token_weight, ignored):
    logp = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    sample = torch.tensor([0, 1, 1, IGNORE if ignored else 1])
    found = sum_by_sample(logp, sample, 2, token_weight=token_weight)
    assert found.tolist() == [-0.5, -2.5 if ignored else -4.5]


def test_a_negative_token_weight_counts():
    p = problem(5, 16, 20)
    sample = torch.tensor([0, 0, 1, 1, 1])
    u = torch.tensor([1.0, -2.0, 3.0, -4.0, 0.0])
    _, loss = weighted_logprob_loss(p.hidden, p.head, p.target, sample, torch.ones(2),
                                    token_weight=u)
    cost = -u * token_logprob(p.hidden, p.head, p.target)
    assert_close(loss, torch.stack([cost[:2].sum(), cost[2:].sum()]), 1e-6)


def test_an_infinite_loss_that_counts_makes_the_total_infinite():
    p = problem(2, 16, 20, bias=True)
    p.bias[p.target[1]] = -float("inf")
    total, loss = weighted_logprob_loss(p.hidden, p.head, p.target, torch.tensor([0, 1]),
                                        torch.tensor([0.0, 0.5]), bias=p.bias)
    assert loss.tolist()[1] == float("inf")
    assert total == float("inf")


WRONG_LENGTHS = {
    "sample_too_short": {"sample": torch.zeros(3, dtype=torch.int64)},
    "one_sample_for_all": {"sample": torch.zeros(1, dtype=torch.int64)},
    "token_weight_too_long": {"token_weight": torch.ones(6)},
    "token_weight_of_length_1": {"token_weight": torch.ones(1)},
}


@pytest.mark.parametrize("change", WRONG_LENGTHS.values(), ids=WRONG_LENGTHS)
def test_lengths_that_do_not_fit_are_an_error(change):
    p = problem(5, 16, 20)
    arguments = {"sample": torch.zeros(5, dtype=torch.int64), "token_weight": None} | change
    with pytest.raises(ValueError, match="expected"):
        sum_by_sample(torch.zeros(5), arguments["sample"], 2, token_weight=arguments["token_weight"])
    with pytest.raises(ValueError, match="expected"):
        weighted_logprob_loss(p.hidden, p.head, p.target, arguments["sample"], torch.ones(2),
                              token_weight=arguments["token_weight"])


@pytest.mark.parametrize("shape", [(), (2, 1)])  # [2, 1] times [2] would be a table
def test_weights_that_are_no_vector_are_an_error(shape):
    p = problem(5, 16, 20)
    sample = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected weight \[n_samples\]"):
        weighted_logprob_loss(p.hidden, p.head, p.target, sample, torch.ones(shape))


@pytest.mark.parametrize("bad", [3, -1])
def test_sample_ids_out_of_range_are_an_error(bad):
    with pytest.raises(ValueError, match="sample id"):
        sum_by_sample(torch.zeros(2), torch.tensor([0, bad]), 3)


# ---------------------------------------------------------------- choices and errors

@pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 is set for the whole run")
def test_kernel_choice():
    assert resolve_kernel("auto", "cpu") == "torch"
    assert resolve_kernel("torch", "cuda") == "torch"
    assert resolve_kernel("auto", "mps") == "torch"
    assert resolve_kernel("auto", torch.device("cuda")) == ("triton" if module.triton else "torch")
    for device in ("cpu", "mps"):
        with pytest.raises(ValueError, match="--kernel triton: .*(CUDA device|not installed)"):
            resolve_kernel("triton", device)
    with pytest.raises(ValueError, match="expected auto, triton or torch"):
        resolve_kernel("fast", "cpu")


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from kernels import resolve_kernel, token_logprob

assert resolve_kernel("auto", "cuda") == "torch"
logp = token_logprob(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 4]))
print(logp.exp().sum().item())
try:
    resolve_kernel("triton", "cuda")
except ValueError as error:
    print(error)
"""


def test_without_triton_the_package_imports_and_the_torch_path_runs():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    total, message = run.stdout.splitlines()
    assert abs(float(total) - 3 / 5) < 1e-6
    assert "triton is not installed" in message


BAD_ARGUMENTS = {
    "head_of_another_width": ({"head": torch.zeros(20, 15)}, r"got \[4, 16\] and \[20, 15\]"),
    "head_of_another_dtype": ({"head": torch.zeros(20, 16).bfloat16()}, "one dtype"),
    "float16": ({"hidden": torch.zeros(4, 16).half(), "head": torch.zeros(20, 16).half()}, "small weights"),
    "target_past_the_vocabulary": ({"target": torch.tensor([0, 1, 2, 20])}, r"outside \[0, 20\)"),
    "ignored_target": ({"target": torch.tensor([0, 1, 2, IGNORE])}, "drops ignored tokens"),
    "int32_target": ({"target": torch.zeros(4, dtype=torch.int32)}, "int64"),
    "bias_of_another_length": ({"bias": torch.zeros(19)}, r"bias \[20\]"),
    "bias_too_long": ({"bias": torch.zeros(21)}, r"bias \[20\]"),
    "temperature_0": ({"temperature": 0.0}, "temperature is 0.0"),
    "temperature_nan": ({"temperature": float("nan")}, "temperature is nan"),
    "softcap_0": ({"softcap": 0.0}, "softcap is 0.0"),
    "softcap_infinite": ({"softcap": float("inf")}, "softcap is inf"),
    "float64_on_triton": (
        {"hidden": torch.zeros(4, 16).double(), "head": torch.zeros(20, 16).double(), "kernel": "triton"},
        "--kernel triton",
    ),
    "unknown_kernel": ({"kernel": "cuda"}, "expected auto, triton or torch"),
}


@pytest.mark.parametrize("change, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_named(change, message):
    arguments = {"hidden": torch.zeros(4, 16), "head": torch.zeros(20, 16), "target": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        token_logprob(**(arguments | change))


@needs_triton
def test_bfloat16_is_refused_by_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # its bfloat16 products are wrong without a word
    p = problem(4, 16, 20).to(torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16"):
        token_logprob(p.hidden, p.head, p.target, kernel="triton")


# ---------------------------------------------------------------- memory

def test_ignored_tokens_cost_nothing():
    p = problem(400, 32, 512)
    p.target[:150] = IGNORE
    sample = torch.zeros(400, dtype=torch.int64)
    sample[150:200] = IGNORE
    token_weight = torch.ones(400)
    token_weight[200:300] = 0
    with FlopCounterMode(display=False) as flops:
        weighted_logprob_loss(p.hidden, p.head, p.target, sample, torch.ones(1),
                              token_weight=token_weight)
    assert flops.get_total_flops() == 2 * 100 * 32 * 512


def promised_bytes(hidden, head, outputs):
    """token_logprob's docstring: outputs, workspace, [T, H] in float32 and once more as it is, numbers for each token.

    Without KEEP_BYTES, of which the kernels have use where the head is trained.
    """
    n_tokens, n_hidden = hidden.shape
    numbers = 20 + 3 * -(-len(head) // module.SPLIT)
    wide = max(4, hidden.element_size())
    return outputs + module.WORKSPACE_BYTES + n_tokens * (n_hidden * (wide + hidden.element_size()) + wide * numbers)


def peak_bytes(function, folder):
    """The most that torch's CPU allocator held at once during function(), over what it held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = [e for e in json.loads((folder / "trace.json").read_text())["traceEvents"] if e["name"] == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_torch_path_stays_within_its_workspace(dtype, softcap, tmp_path, monkeypatch):
    # At full size the memory test below cannot see what torch's operators hold inside; the allocator can.
    monkeypatch.setattr(module, "WORKSPACE_BYTES", 2**20)
    p = problem(600, 16, 3000, bias=True).to(dtype)
    outputs = (p.hidden.numel() + p.head.numel() + p.bias.numel()) * p.hidden.element_size() + 4 * 600
    promised = promised_bytes(p.hidden, p.head, outputs)
    assert promised < 600 * 3000 * 4 / 3  # far below one copy of the logits
    peak = peak_bytes(lambda: evaluate(token_logprob, p, softcap=softcap), tmp_path)
    assert outputs < peak
    assert peak <= promised


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside this mode held at once."""

    def __init__(self):
        super().__init__()
        self.alive = {}  # storage -> (weak reference, bytes)
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        self.alive = {key: value for key, value in self.alive.items() if not value[0].expired()}
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in known:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("frozen_head", [False, True], ids=["trained_head", "frozen_head"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("path", ["triton", "torch"])
def test_memory_at_full_size_is_outputs_and_workspace(path, dtype, frozen_head, monkeypatch):
    # A kernel writes only to tensors that it is given, so the tensors that torch makes are all there are. They have
    # sizes here and no storage.
    monkeypatch.setattr(module, "_launch", lambda *tensors, **more: None)
    options = module.Options(path, temperature=0.7, softcap=30.0, statistics=False,
                             keep_gradient=frozen_head,
                             keep_exponentials=path == "triton" and not frozen_head)
    with FakeTensorMode():
        hidden = torch.empty(8192, 2048, dtype=dtype, requires_grad=True)
        head = torch.empty(151936, 2048, dtype=dtype, requires_grad=not frozen_head)
        bias = torch.empty(151936, dtype=dtype, requires_grad=not frozen_head)
        target = torch.empty(8192, dtype=torch.int64)
        with Peak() as memory:
            logp = module._TokenLogprob.apply(hidden, head, bias, target, options)[0]
            logp.sum().backward()
    outputs = 4 * 8192 + hidden.nbytes
    if not frozen_head:
        outputs += head.nbytes + bias.nbytes
    kept = module.KEEP_BYTES if path == "triton" and not frozen_head else 0
    assert (head.grad is None) == frozen_head
    assert memory.peak > outputs + kept + module.WORKSPACE_BYTES / 2
    assert memory.peak <= promised_bytes(hidden, head, outputs) + kept
    assert promised_bytes(hidden, head, 0) < 8192 * 151936 * 2 / 5  # far below one copy of the logits in bfloat16


# ---------------------------------------------------------------- what the compiler makes of the kernels

@pytest.fixture
def hopper(tmp_path, monkeypatch):
    """compile(settings of compiled.launches): the programs of a forward and a backward pass, for an H100."""
    pytest.importorskip("triton", reason="the package triton is not installed (Linux only)")
    from kernels import compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))

    def compile_pass(*which, **settings):
        launches = compiled.launches(**settings)
        return [compiled.compile_launch(launches[i], tmp_path) for i in which or (0, 1)]

    return compile_pass


@needs_compiler
@pytest.mark.parametrize("more", [{}, {"bias": True, "softcap": 30.0}], ids=["plain", "bias_softcap"])
def test_bfloat16_programs_fit_a_hopper_processor_without_spilling(hopper, more):
    programs = hopper(dtype=torch.bfloat16, **more)
    for program in programs:
        assert program.shared_bytes <= 227 * 1024  # what a block of an H100 can have
        assert program.stack_bytes == 0
        assert "wgmma.mma_async" in program.ptx
        assert "cp.async.bulk.tensor" in program.ptx
    if not more:
        forward, again = programs
        assert forward.step < 110  # 129 and more by pointers
        assert forward.tile < 1200  # from one tile's products to the next's
        assert again.tile < 800


@needs_compiler
def test_matrices_that_are_not_aligned_are_read_by_pointers(hopper):
    for program in hopper(dtype=torch.bfloat16, descriptors=False):
        assert program.stack_bytes == 0
        assert "wgmma.mma_async" in program.ptx
        assert "cp.async.cg" in program.ptx
        assert "cp.async.bulk.tensor" not in program.ptx


@needs_compiler
def test_float32_programs_compile_and_use_no_tensor_cores(hopper):
    for program in hopper(dtype=torch.float32, bias=True, softcap=30.0):
        assert program.stack_bytes == 0
        assert "wgmma" not in program.ptx


@needs_compiler
@pytest.mark.parametrize("how", [{"frozen_head": True}, {"keep_exponentials": True}], ids=str)
def test_writing_exponentials_spills_nothing(hopper, how):
    [program] = hopper(0, dtype=torch.bfloat16, **how)
    assert program.shared_bytes <= 227 * 1024
    assert program.stack_bytes == 0


@needs_compiler
def test_an_odd_vocabulary_is_stored_in_rows_of_whole_tiles(hopper):
    [program] = hopper(1, dtype=torch.bfloat16, n_tokens=2048, n_vocab=50257, descriptors=False)
    stores = [x for x in program.instructions if "STG" in x]
    assert stores
    assert all("STG.E.128" in x for x in stores)
    assert program.stack_bytes == 0


@needs_triton
@needs_compiler
def test_no_number_of_a_launch_is_a_run_time_float():
    # torch.compile would make it float64: a compiler error in one kernel, slow double precision in the other.
    from kernels import compiled

    for launch in compiled.launches(dtype=torch.bfloat16, softcap=30.0, statistics=True):
        at_run_time = [p.name for p in launch.kernel.params if not p.is_constexpr]
        assert "hidden" in at_run_time
        assert not [name for name in at_run_time if isinstance(launch.arguments[name], float)]


@needs_triton
@needs_compiler
@pytest.mark.parametrize("more, said", [
    ({}, {}),
    ({"bias": True}, {"bias": (500,)}),
    ({"softcap": 30.0}, {"SOFTCAP": 30.0}),
    ({"statistics": True}, {"STATISTICS": True}),
    ({"frozen_head": True}, {"exponential": (64, 512)}),
    ({"keep_exponentials": True}, {"exponential": (64, 512)}),
    ({"descriptors": False}, {"DESCRIPTORS": False}),
    ({"n_hidden": 36}, {"DESCRIPTORS": False}),   # rows of 72 bytes, no multiple of 16
], ids=str)
def test_a_launch_is_that_of_its_settings(more, said):
    from kernels import compiled

    settings = {"dtype": torch.bfloat16, "n_tokens": 64, "n_hidden": 32, "n_vocab": 500, **more}
    forward, _ = compiled.launches(**settings)
    plain = {"bias": None, "SOFTCAP": None, "STATISTICS": False, "exponential": None,
             "DESCRIPTORS": True}
    found = {name: forward.arguments[name] for name in plain}
    shapes = {name: getattr(value, "shape", value) for name, value in found.items()}
    assert shapes == {**plain, **said}


# Two loops, one within the other, with a product on tensor cores, and a shorter one without.
LISTING = """
.text.kernel:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   MUFU.EX2 R1, R2 ;
.L_x_0:
        /*0020*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR4], R24 ;
        /*0030*/                   IADD3 R3, R3, 0x1, RZ ;
        /*0040*/              @!P0 BRA `(.L_x_0) ;
        /*0050*/                   FADD R4, R4, R5 ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
        /*0070*/                   FSEL R4, R4, -INF, P2 ;
        /*0080*/                   FSEL R5, R5, -INF, P2 ;
.L_x_2:
        /*0090*/               @P3 EXIT ;
        /*00a0*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*00b0*/                   FFMA R6, R6, R7, R8 ;
        /*00c0*/               @P4 BRA `(.L_x_3) ;
        /*00d0*/                   EXIT ;
.L_x_4:
        /*00e0*/                   BRA `(.L_x_4) ;
"""


@needs_triton
def test_steps_and_tiles_are_counted_in_the_machine_code():
    from kernels import compiled

    instructions, labels = compiled.parse(LISTING)
    assert len(instructions) == 15
    assert instructions[2].startswith("HGMMA")
    assert labels == {".L_x_1": 1, ".L_x_0": 2, ".L_x_2": 9, ".L_x_3": 11, ".L_x_4": 14}
    assert compiled.product_loop(instructions, labels) == (2, 5)
    # FADD, the branch past the mask, EXIT for others, BRA, MUFU
    assert compiled.shortest_way(instructions, labels, 5, 2) == 5
    assert compiled.shortest_way(instructions, labels, 11, 2) is None
    without = [x.replace("HGMMA", "HMMA") for x in instructions]
    assert compiled.product_loop(without, labels) == (11, 13)
    with pytest.raises(ValueError, match="no loop with a product"):
        compiled.product_loop(instructions[5:11], {".L_x_1": 0, ".L_x_2": 4})


@needs_compiler
def test_sizes_of_1_compile(hopper):
    hopper(dtype=torch.float32, n_tokens=1, n_hidden=1, n_vocab=1)  # the compiler takes a 1 for a constant


# ---------------------------------------------------------------- the benchmark

NAMES = ["eager torch", "torch.compile", "torch linear_cross_entropy", "Liger FLCE", "Liger scaled CE",
         "Cut Cross-Entropy", "Cut Cross-Entropy exact", "QuACK", "ours", "ours, all kept",
         "ceiling"]


def test_the_benchmark_runs_at_toy_sizes_and_names_what_is_missing(tmp_path, capsys):
    out = tmp_path / "bench.json"
    sizes = ["--tokens", "16", "--vocab", "200", "--repeats", "2", "--no-count"]
    bench.main(["--device", "cpu", *sizes, "--skip", "torch.compile", "--json", str(out)])
    assert "say nothing about the kernel" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert report["on_gpu"] is False
    assert report["kernel"] == "torch"
    assert [result["mode"] for result in report["results"]] == list(bench.MODES)
    for result in report["results"]:
        rows = {row["contender"]: row for row in result["rows"]}
        assert list(rows) == NAMES
        for row in rows.values():
            assert row["ms"] or row["note"]
        assert "--skip" in rows["torch.compile"]["note"]
        assert rows["ours"]["error"] < 1e-5
        assert rows["ours"]["ms"] > 0
        assert rows["ceiling"]["% of ceiling"] == 100
        assert len(result["ms"]["ours"]) == 2


def test_a_peer_that_knows_only_a_mean_falls_out_under_weights():
    only_mean = bench.Contender(mean=bench.eager_mean)
    assert callable(only_mean.loss(bench.MODES["trained"]))
    assert "only a mean" in only_mean.loss(bench.MODES["trained-weighted"])


@needs_triton
@needs_compiler
def test_the_benchmark_counts_our_programs(tmp_path, monkeypatch):
    from kernels import compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "PROGRAMS", {"exponentials again": {}})
    [row] = bench.count_programs(2048, bench.Settings(device="cpu", dtype="float32", vocab=5000))
    launch = compiled.launches(torch.float32, n_hidden=2048, n_vocab=5000)[1]
    binary = compiled.compile_launch(launch, tmp_path)
    assert row == {
        "program": "exponentials again",
        "shared memory": f"{binary.shared_bytes // 1024} KiB",
        "registers": binary.registers,
        "stack": binary.stack_bytes,
        "a step": binary.step,
        "a tile": binary.tile,
        "all": len(binary.instructions),
    }
    assert 0 < row["registers"] <= 255
    assert row["a tile"] < row["all"]


@needs_triton
@needs_compiler
def test_what_has_no_descriptors_is_not_counted_once_more_without(monkeypatch):
    from kernels import compiled

    without = {"forward, without descriptors": {"descriptors": False}}
    monkeypatch.setattr(compiled, "PROGRAMS", without)
    assert compiled.count(torch.float32) == []


def test_an_unknown_contender_is_an_error():
    with pytest.raises(bench.UserError, match="--skip 'nobody'"):
        bench.main(["--skip", "nobody"])


# ---------------------------------------------------------------- only a GPU can tell

@needs_gpu
@needs_triton
def test_gpu_bfloat16_error_is_at_most_twice_that_of_torch():
    def eager(hidden, head, target):
        return -F.cross_entropy((hidden @ head.T).float(), target, reduction="none")

    p = problem(512, 1024, 32003, scale=3.0).to("cuda").to(torch.bfloat16)
    for frozen_head in (False, True):
        truth = evaluate(plain, p.to(torch.float32), frozen_head)
        theirs = evaluate(eager, p, frozen_head)
        found = evaluate(token_logprob, p, frozen_head, kernel="triton")
        for name, exact in truth.items():
            error = (found[name].float() - exact).norm()
            assert error <= 2 * (theirs[name].float() - exact).norm(), name


@needs_gpu
@needs_triton
def test_gpu_bfloat16_bits_repeat_20_times():
    p = problem(1000, 512, 50257).to("cuda").to(torch.bfloat16)
    for frozen_head in (False, True):
        first = evaluate(token_logprob, p, frozen_head, kernel="triton")
        for _ in range(20):
            assert_same(evaluate(token_logprob, p, frozen_head, kernel="triton"), first)


@needs_gpu
@needs_triton
def test_gpu_more_than_two_to_the_31_logits():
    p = problem(16384, 256, 151936).to("cuda").to(torch.bfloat16)
    found = evaluate(token_logprob, p, kernel="triton")
    last = slice(16384 - 128, None)
    end = replace(p, hidden=p.hidden[last], target=p.target[last], d_logp=p.d_logp[last])
    truth = evaluate(plain, end.to(torch.float32))
    assert_close(found["logp"][last], truth["logp"], 1e-4)
    assert_close(found["hidden"][last], truth["hidden"], 2e-2)
    # Σ_v ∂L/∂head_v = Σ_t Σ_v d_z_tv hidden_t = 0, since every row of d_z sums to 0.
    assert found["head"].float().sum(0).abs().max() < 1e-2 * found["head"].float().norm()


@needs_gpu
@needs_triton
@pytest.mark.parametrize("frozen_head", [False, True], ids=["trained_head", "frozen_head"])
def test_gpu_peak_memory_is_outputs_and_workspace(frozen_head):
    p = problem(128, 2048, 512).to("cuda").to(torch.bfloat16)
    evaluate(token_logprob, p, frozen_head, kernel="triton")  # cuBLAS allocates its own buffers in its first call
    p = problem(8192, 2048, 151936).to("cuda").to(torch.bfloat16)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evaluate(token_logprob, p, frozen_head, kernel="triton")
    torch.cuda.synchronize()
    outputs = 4 * 8192 + p.hidden.nbytes + (0 if frozen_head else p.head.nbytes + module.KEEP_BYTES)
    assert torch.cuda.max_memory_allocated() - before <= promised_bytes(p.hidden, p.head, outputs)


@needs_gpu
@needs_triton
def test_gpu_bfloat16_is_the_same_by_descriptors_and_pointers_kept_and_made_again(monkeypatch):
    p = problem(300, 520, 5003).to("cuda").to(torch.bfloat16)
    results = []
    bfloat16 = {torch.bfloat16}
    for described, keep in ((bfloat16, 2**30), (set(), 2**30), (bfloat16, 2 * 300 * 2048)):
        monkeypatch.setattr(module, "DESCRIBED", described)
        monkeypatch.setattr(module, "KEEP_BYTES", keep)
        results.append(evaluate(token_logprob, p, kernel="triton"))
    for found in results[1:]:
        assert_close(found["logp"], results[0]["logp"], 1e-5)
        for name in ("hidden", "head"):
            # Each rounds to bfloat16 in places of its own and lies 0.3 % from the truth.
            error = (found[name].float() - results[0][name].float()).norm()
            assert error < 6e-3 * results[0][name].float().norm()
