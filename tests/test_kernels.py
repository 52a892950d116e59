"""The promises of kernels/: right log-probs and gradients on every path, bounded memory, errors that say what to do.

Every function in CASES runs on the torch twin, on the Triton kernel in Triton's interpreter (one subprocess for all
cases, since TRITON_INTERPRET must be set before the import), and on the kernel on a GPU where there is one.
"""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import traceback
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

from kernels import bench, weighted_logprob as module  # noqa: E402
from kernels import resolve_kernel, sample_logprob, token_logprob, weighted_logprob_loss  # noqa: E402

SMALL_SPLIT = 256  # four tiles of the float32 kernel, so that small vocabularies have several splits
SHAPES = [(1, 16, 17), (7, 32, 50), (64, 64, 257), (130, 96, 1000), (252, 123, 507)]
CASES = {}


def case(name, *arguments, **settings):
    """Registers a check(kernel, device, …) to be run on every path."""

    def register(check):
        CASES[name] = functools.partial(check, *arguments, **settings)
        return check

    return register


def problem(n_tokens, n_hidden, n_vocab, scale=1.0, bias=False, seed=0):
    """float32 hidden, head, target, upstream gradient and bias on the CPU; logits have standard deviation `scale`."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n_tokens, n_hidden, generator=g)
    head = torch.randn(n_vocab, n_hidden, generator=g) * scale / n_hidden**0.5
    target = torch.randint(0, n_vocab, (n_tokens,), generator=g)
    d_logp = torch.randn(n_tokens, generator=g)
    return hidden, head, target, d_logp, torch.randn(n_vocab, generator=g) if bias else None


def plain(hidden, head, target, bias=None, temperature=1.0, softcap=None):
    """The definition, with all logits in memory."""
    y = hidden @ head.T
    y = y if bias is None else y + bias
    y = y if softcap is None else softcap * torch.tanh(y / softcap)
    return torch.log_softmax(y / temperature, 1).gather(1, target[:, None])[:, 0]


def evaluate(function, hidden, head, target, d_logp, bias=None, **settings):
    """logp and the gradients to hidden, head and bias. Views keep their strides."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in (hidden, head, bias)]
    logp = function(leaves[0], leaves[1], target, bias=leaves[2], **settings)
    logp.backward(d_logp.to(logp.dtype))
    return [logp.detach(), *(None if x is None else x.grad for x in leaves)]


def double(*tensors):
    return [x.double().cpu() if x is not None and x.is_floating_point() else None if x is None else x.cpu() for x in tensors]


def check(kernel, device, hidden, head, target, d_logp, bias=None, **settings):
    """log-probs within 1e-5 and gradients within 1e-4 of float64."""
    truth = evaluate(plain, *double(hidden, head, target, d_logp, bias), **settings)
    inputs = [None if x is None else x if x.device.type == device else x.to(device) for x in (hidden, head, target, d_logp, bias)]
    found = evaluate(token_logprob, *inputs, kernel=kernel, **settings)
    assert found[0].dtype == torch.float32
    for name, a, b, tolerance in zip(("logp", "hidden", "head", "bias"), found, truth, (1e-5, 1e-4, 1e-4, 1e-4)):
        if b is not None:
            torch.testing.assert_close(a.double().cpu(), b, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    return found


for shape in SHAPES:
    name = "x".join(map(str, shape))

    @case(f"agrees_with_float64-{name}-plain", shape, {}, False)
    @case(f"agrees_with_float64-{name}-bias_temperature_softcap", shape, dict(temperature=0.7, softcap=3.0), True)
    def agrees(shape, settings, bias, kernel, device):
        check(kernel, device, *problem(*shape, bias=bias), **settings)


@case("bias_alone", {}, True)
@case("temperature_alone", {"temperature": 1.7})
@case("softcap_alone", {"softcap": 2.0})
def one_setting(settings, bias=False, *, kernel, device):
    check(kernel, device, *problem(33, 48, 130, scale=2.0, bias=bias), **settings)


@case("targets_in_the_last_partial_tile")
def last_tile(kernel, device):
    hidden, head, _, d_logp, _ = problem(9, 32, 257)
    check(kernel, device, hidden, head, torch.full((9,), 256), d_logp)


@case("logits_times_50")
def large_logits(kernel, device):
    found = check(kernel, device, *problem(20, 32, 300, scale=50.0))
    assert found[0].min() < -50


@case("all_logits_near_minus_100_by_head", False, {})
@case("all_logits_near_minus_100_by_bias", True, {})
@case("all_logits_near_minus_100_under_softcap_and_temperature", True, dict(softcap=200.0, temperature=0.5))
def low_logits(by_bias, settings, kernel, device):
    # Columns past V would count as logits of 0 here and swallow all probability: log-probs near −100 or +100.
    hidden, head, target, d_logp, _ = problem(20, 32, 300)
    if not by_bias:
        hidden[:, 0], head[:, 0] = 1.0, -100.0
    bias = torch.full((300,), -100.0) if by_bias else None
    found = check(kernel, device, hidden, head, target, d_logp, bias, **settings)
    assert -30 < found[0].min() and found[0].max() < 0


@case("a_bias_of_minus_infinity_bans_whole_tiles")
def banned(kernel, device):
    hidden, head, target, d_logp, bias = problem(10, 32, 700, bias=True)
    bias[:300] = -float("inf")  # the whole first split of the interpreter's kernel, and a part of the next
    check(kernel, device, hidden, head, 300 + target % 400, d_logp, bias)


@case("strided_transposed_and_misaligned_inputs")
def strides(kernel, device):
    hidden, head, target, d_logp, bias = (None if x is None else x.to(device) for x in problem(37, 40, 140, bias=True))
    wide = torch.zeros(37, 80, device=device)
    wide[:, ::2] = hidden
    shifted = torch.zeros(140 * 40 + 1, device=device)
    shifted[1:] = head.flatten()
    rare = torch.zeros(280, device=device)
    rare[::2] = bias
    twice = target.repeat_interleave(2)
    expected = check(kernel, device, hidden, head, target, d_logp, bias)
    for h, w in ((wide[:, ::2], head.T.contiguous().T), (hidden.T.contiguous().T, shifted[1:].view(140, 40))):
        found = check(kernel, device, h, w, twice[::2], d_logp.repeat_interleave(2)[::2], rare[::2])
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    check(kernel, device, hidden, head, target, torch.ones((), device=device).expand(37), bias)


@case("offsets_pass_two_to_the_31")
def large_offsets(kernel, device):
    if kernel == "torch":
        return
    stride, rows = 2**25, 66  # the last row begins 65 · 2²⁵ > 2³¹ elements into 8.7 GB of which only 66 rows are touched
    try:
        storage = torch.empty(stride * (rows - 1) + 16, device=device)
    except RuntimeError:
        return  # this machine does not promise so much memory
    hidden, head, target, d_logp, _ = problem(rows, 16, 40)
    far = storage.as_strided((rows, 16), (stride, 1))
    far.copy_(hidden)
    logp = token_logprob(far, head.to(device), target.to(device), kernel=kernel)
    torch.testing.assert_close(logp.cpu(), plain(hidden, head, target), rtol=1e-5, atol=1e-5)


@case("upstream_gradients_of_0_1e3_and_1e-6_all_count")
def weights(kernel, device):
    hidden, head, target, d_logp, _ = problem(12, 32, 100)
    d_logp = torch.tensor([0.0, 1e3, 1e-6]).repeat(4)
    _, d_hidden, d_head, _ = check(kernel, device, hidden, head, target, torch.where(d_logp == 1e3, 1.0, d_logp))
    _, d_hidden, _, _ = [None if x is None else x.cpu() for x in evaluate(
        token_logprob, *(x.to(device) for x in (hidden, head, target, d_logp)), kernel=kernel)]  # fmt: skip
    _, truth, _, _ = evaluate(plain, *double(hidden, head, target, d_logp))
    assert (d_hidden[0::3] == 0).all()
    relative = (d_hidden - truth).norm(dim=1) / truth.norm(dim=1)
    assert relative[1::3].max() < 1e-5 and relative[2::3].max() < 1e-5


@case("many_chunks_change_nothing", {})
@case("many_chunks_change_nothing_with_softcap", {"softcap": 3.0, "temperature": 0.9})
def chunks(settings, kernel, device):
    hidden, head, target, d_logp, bias = problem(70, 32, 300, bias=True)
    before = module.WORKSPACE_BYTES
    try:
        module.WORKSPACE_BYTES = 3 * 4 * 70 * 37  # 37 columns for the twin, 111 for the kernel; 8 tokens forward
        columns = module._vocab_chunk(hidden, head, kernel)
        assert 1 < 300 / columns and 300 % columns
        check(kernel, device, hidden, head, target, d_logp, bias, **settings)
    finally:
        module.WORKSPACE_BYTES = before


@case("token_blocks_in_several_groups")
def groups(kernel, device):
    before = module.GROUP
    try:
        module.GROUP = 3  # the interpreter's kernel cuts 252 tokens into 4 blocks: a full group and a partial one
        check(kernel, device, *problem(252, 16, 300))
    finally:
        module.GROUP = before


@case("a_sample_split_over_chunks_and_an_all_ignored_sample")
def samples(kernel, device):
    hidden, head, target, _, _ = problem(40, 32, 90)
    sample = torch.tensor([0] * 17 + [1] * 9 + [3] * 14)  # sample 2 has no token at all
    target[17:26] = -100  # sample 1 has only ignored ones
    sample[3] = -100
    weight = torch.tensor([0.0, 2.0, 5.0, 1e3])
    token_weight = torch.linspace(0.1, 1, 40)
    leaves = [x.to(device, copy=True).requires_grad_() for x in (hidden, head, weight)]
    before = module.WORKSPACE_BYTES
    try:
        module.WORKSPACE_BYTES = 3 * 4 * 90 * 8  # 8 tokens forward
        total, loss = weighted_logprob_loss(leaves[0], leaves[1], target.to(device), sample.to(device), leaves[2],
                                            token_weight=token_weight.to(device), kernel=kernel)  # fmt: skip
        total.backward()
    finally:
        module.WORKSPACE_BYTES = before
    h, w, a = (x.double().requires_grad_() for x in (hidden, head, weight))
    keep = ((target != -100) & (sample != -100)).nonzero()[:, 0]
    nll = -plain(h[keep], w, target[keep]) * token_weight[keep].double()
    expected = torch.stack([nll[sample[keep] == i].sum() for i in range(4)])
    (a * expected).sum().backward()
    assert loss.shape == (4,) and loss[1] == 0 and loss[2] == 0
    for found, truth in ((loss, expected), (total, (a * expected).sum()), (leaves[2].grad, expected),
                         (leaves[0].grad / 1e3, h.grad / 1e3), (leaves[1].grad / 1e3, w.grad / 1e3)):  # fmt: skip
        torch.testing.assert_close(found.detach().double().cpu(), truth.detach(), rtol=1e-5, atol=1e-5)
    assert (leaves[0].grad[:17] == 0).all()  # weight 0


@case("only_ignored_tokens_give_zero_loss_and_zero_gradients")
def nothing(kernel, device):
    hidden, head, target, _, _ = (None if x is None else x.to(device) for x in problem(5, 16, 20))
    hidden.requires_grad_(), head.requires_grad_()
    total, loss = weighted_logprob_loss(hidden, head, torch.full_like(target, -100), target * 0,
                                        torch.ones(2, device=device), kernel=kernel)  # fmt: skip
    total.backward()
    assert total == 0 and (loss == 0).all() and (hidden.grad == 0).all() and (head.grad == 0).all()


@case("a_frozen_head_costs_no_product")
def frozen(kernel, device):
    hidden, head, target, d_logp, _ = (None if x is None else x.to(device) for x in problem(30, 32, 150))
    product = 2 * 30 * 32 * 150
    truth = check(kernel, device, hidden, head, target, d_logp)
    for train_hidden, train_head in ((True, False), (False, True), (True, True)):
        h, w = hidden.clone().requires_grad_(train_hidden), head.clone().requires_grad_(train_head)
        logp = token_logprob(h, w, target, kernel=kernel)
        with FlopCounterMode(display=False) as flops:
            logp.backward(d_logp)
        # Both recompute the logits, the kernel out of this counter's sight.
        assert flops.get_total_flops() == product * ((kernel == "torch") + train_hidden + train_head)
        assert (h.grad is not None) == train_hidden and (w.grad is not None) == train_head
        for found, expected in ((h.grad, truth[1]), (w.grad, truth[2])):
            assert found is None or torch.equal(found, expected)


@case("a_tied_head_gets_both_gradients")
def tied(kernel, device):
    _, table, target, d_logp, _ = problem(21, 24, 60)
    ids = target.flip(0)
    gradients = []
    for function, cast in ((functools.partial(token_logprob, kernel=kernel), lambda x: x.to(device, copy=True)), (plain, torch.Tensor.double)):
        w = cast(table).requires_grad_()
        function(torch.tanh(w[ids.to(w.device)] * 3), w, target.to(w.device)).backward(d_logp.to(w))
        gradients.append(w.grad.double().cpu())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@case("bits_repeat")
def repeatable(kernel, device):
    inputs = [None if x is None else x.to(device) for x in problem(70, 48, 600, bias=True)]
    first = evaluate(token_logprob, *inputs, kernel=kernel)
    for _ in range(20 if device == "cuda" else 2):
        assert all(torch.equal(a, b) for a, b in zip(first, evaluate(token_logprob, *inputs, kernel=kernel)))


@case("backward_can_run_twice_over_one_graph")
def retained(kernel, device):
    hidden, head, target, d_logp, _ = (None if x is None else x.to(device) for x in problem(10, 16, 40))
    hidden.requires_grad_(), head.requires_grad_()
    logp = token_logprob(hidden, head, target, kernel=kernel)
    first, second = (torch.autograd.grad(logp, (hidden, head), d_logp, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@case("double_backward_is_refused")
def second_order(kernel, device):
    hidden, head, target, d_logp, _ = (None if x is None else x.to(device) for x in problem(5, 16, 20))
    hidden.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(token_logprob(hidden, head, target, kernel=kernel).sum(), hidden, create_graph=True)


@case("autocast_does_not_lower_the_precision")
def autocast(kernel, device):
    inputs = [None if x is None else x.to(device) for x in problem(8, 32, 50)]
    expected = evaluate(token_logprob, *inputs, kernel=kernel)
    with torch.autocast(device, dtype=torch.bfloat16):
        found = evaluate(token_logprob, *inputs, kernel=kernel)
    assert all(torch.equal(a, b) for a, b in zip(found[:3], expected))


def run_all_interpreted(out):
    """In the subprocess: every case on the interpreted kernel; {case: None or its traceback}."""
    report = {}
    module.SPLIT = SMALL_SPLIT
    for name, check_case in CASES.items():
        try:
            report[name] = check_case(kernel="triton", device="cpu") and None
        except BaseException:
            report[name] = traceback.format_exc()
    hidden, head, target, _, _ = problem(4, 16, 20)
    try:
        token_logprob(hidden.bfloat16(), head.bfloat16(), target, kernel="triton")
        report["bfloat16_refused"] = "no error was raised"
    except ValueError as error:
        report["bfloat16_refused"] = None if "bfloat16" in str(error) else str(error)
    Path(out).write_text(json.dumps(report))


if __name__ == "__main__":
    run_all_interpreted(sys.argv[1])
    sys.exit()

needs_triton = pytest.mark.skipif(module.triton is None, reason="the package triton is not installed (Linux only)")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    out = tmp_path_factory.mktemp("interpreter") / "report.json"
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__, str(out)], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and out.exists(), f"the interpreter's process ended with {run.returncode}:\n{run.stderr[-4000:]}"
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", CASES)
def test_torch_twin(name):
    CASES[name](kernel="torch", device="cpu")


@needs_triton
@pytest.mark.parametrize("name", [*CASES, "bfloat16_refused"])
def test_kernel_in_the_interpreter(name, interpreted):
    assert interpreted[name] is None, interpreted[name]


@needs_gpu
@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_kernel_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(module, "SPLIT", SMALL_SPLIT)
    CASES[name](kernel="triton", device="cuda")


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"softcap": 3.0}, {"temperature": 1.3, "softcap": 2.0}], ids=str)
@pytest.mark.parametrize("workspace", [2**28, 700], ids=["one_chunk", "many_chunks"])
def test_gradcheck_of_the_twin_in_float64(settings, workspace, monkeypatch):
    monkeypatch.setattr(module, "WORKSPACE_BYTES", workspace)
    hidden, head, target, _, bias = problem(9, 5, 11, bias=True)
    inputs = [x.double().requires_grad_() for x in (hidden, head, bias)]
    assert (module._vocab_chunk(hidden.double(), head, "torch") < 11) == (workspace == 700)
    assert torch.autograd.gradcheck(lambda h, w, b: token_logprob(h, w, target, bias=b, **settings), inputs)


def test_ignored_tokens_cost_nothing():
    hidden, head, target, _, _ = problem(400, 32, 512)
    target[:300] = -100
    with FlopCounterMode(display=False) as flops:
        weighted_logprob_loss(hidden, head, target, torch.zeros_like(target), torch.ones(1))
    assert flops.get_total_flops() == 2 * 100 * 32 * 512


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
def test_the_twin_stays_within_its_declared_workspace(dtype, softcap, tmp_path, monkeypatch):
    # At full size the memory test below cannot see what torch's operators hold inside; the allocator can.
    monkeypatch.setattr(module, "WORKSPACE_BYTES", 2**20)
    hidden, head, target, d_logp, bias = problem(600, 16, 3000, bias=True)
    hidden, head = hidden.to(dtype), head.to(dtype)
    outputs = (hidden.numel() + head.numel()) * hidden.element_size() + 4 * (bias.numel() + 600)
    allowed = workspace_bytes(hidden, head) + outputs
    assert allowed < 600 * 3000 * 4 / 3  # far below one copy of the logits
    peak = peak_bytes(lambda: evaluate(token_logprob, hidden, head, target, d_logp, bias, softcap=softcap), tmp_path)
    assert outputs < peak <= 1.05 * allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sample_sums_are_those_of_a_loop(dtype):
    g = torch.Generator().manual_seed(1)
    logp = torch.randn(200, generator=g, dtype=torch.float64).to(dtype)
    sample = torch.randint(0, 9, (200,), generator=g)
    sample[::7] = -100
    sample[sample == 4] = 5
    u = torch.rand(200, generator=g, dtype=torch.float64)
    expected = torch.stack([(logp.double() * u)[sample == i].sum() for i in range(10)])
    found = sample_logprob(logp, sample, 10, token_weight=u, dtype=dtype)
    assert found.dtype == dtype and found[4] == 0 and found[9] == 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, sample_logprob(logp, sample, 10, token_weight=u, dtype=dtype))
    double_logp = logp.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sample_logprob(x, sample, 10, token_weight=u), double_logp)


def test_sums_in_float64_keep_what_float32_loses():
    logp, sample = torch.tensor([1e8, 1.0, -1e8]), torch.zeros(3, dtype=torch.int64)
    assert sample_logprob(logp, sample, 1, dtype=torch.float64).item() == 1.0
    assert sample_logprob(logp, sample, 1).item() == 0.0


def test_an_infinite_token_stays_in_its_own_sample():
    sums = sample_logprob(torch.tensor([-float("inf"), -1.0, -2.0]), torch.tensor([0, 1, 1]), 3)
    assert sums.tolist() == [-float("inf"), -3.0, 0.0]


def test_sample_ids_out_of_range_are_an_error():
    for bad in (3, -1):
        with pytest.raises(ValueError, match="sample id"):
            sample_logprob(torch.zeros(2), torch.tensor([0, bad]), 3)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 is set for the whole run")
def test_kernel_choice():
    assert resolve_kernel("auto", "cpu") == resolve_kernel("torch", "cuda") == resolve_kernel("auto", "mps") == "torch"
    assert resolve_kernel("auto", torch.device("cuda")) == ("triton" if module.triton else "torch")
    for device in ("cpu", "mps"):
        with pytest.raises(ValueError, match="--kernel triton: .*(CUDA device|not installed)"):
            resolve_kernel("triton", device)
    with pytest.raises(ValueError, match="expected auto, triton or torch"):
        resolve_kernel("fast", "cpu")


def test_without_triton_the_package_imports_and_the_twin_runs():
    program = """
import sys; sys.modules["triton"] = None
import torch
from kernels import resolve_kernel, token_logprob
assert resolve_kernel("auto", "cuda") == "torch"
print(token_logprob(torch.zeros(3, 4), torch.zeros(5, 4), torch.tensor([0, 1, 4])).exp().sum().item())
try: resolve_kernel("triton", "cuda")
except ValueError as error: print(error)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert abs(float(run.stdout.split()[0]) - 3 / 5) < 1e-6 and "triton is not installed" in run.stdout


BAD_ARGUMENTS = {
    "head_of_another_width": (dict(head=torch.zeros(20, 15)), r"got \[4, 16\] and \[20, 15\]"),
    "head_of_another_dtype": (dict(head=torch.zeros(20, 16).bfloat16()), "one dtype"),
    "float16": (dict(hidden=torch.zeros(4, 16).half(), head=torch.zeros(20, 16).half()), "small weights"),
    "target_past_the_vocabulary": (dict(target=torch.tensor([0, 1, 2, 20])), r"outside \[0, 20\)"),
    "ignored_target": (dict(target=torch.tensor([0, 1, 2, -100])), "drops ignored tokens"),
    "int32_target": (dict(target=torch.zeros(4, dtype=torch.int32)), "int64"),
    "bias_of_another_length": (dict(bias=torch.zeros(19)), r"bias \[20\]"),
    "temperature_0": (dict(temperature=0.0), "temperature is 0.0"),
    "softcap_0": (dict(softcap=0.0), "softcap 0.0"),
    "float64_on_triton": (dict(hidden=torch.zeros(4, 16).double(), head=torch.zeros(20, 16).double(), kernel="triton"), "--kernel triton"),
    "unknown_kernel": (dict(kernel="cuda"), "expected auto, triton or torch"),
}


@pytest.mark.parametrize("change, message", [pytest.param(*v, id=k) for k, v in BAD_ARGUMENTS.items()])
def test_bad_arguments_are_named(change, message):
    arguments = dict(hidden=torch.zeros(4, 16), head=torch.zeros(20, 16), target=torch.zeros(4, dtype=torch.int64)) | change
    with pytest.raises(ValueError, match=message):
        token_logprob(arguments.pop("hidden"), arguments.pop("head"), arguments.pop("target"), **arguments)


class Launches:
    """Stands in for the kernel and notes the arguments of every launch."""

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        return lambda *arguments, **constants: self.calls.append((arguments, constants))


def full_size(path, dtype, bias=False, softcap=None, frozen=False, inside=contextlib.nullcontext, sizes=(8192, 2048, 151936)):
    """Forward and backward at full size without storage or arithmetic. Returns hidden, head and bias."""
    n_tokens, n_hidden, n_vocab = sizes
    with FakeTensorMode():
        hidden = torch.empty(n_tokens, n_hidden, dtype=dtype, requires_grad=True)
        head = torch.empty(n_vocab, n_hidden, dtype=dtype, requires_grad=not frozen)
        bias = torch.empty(n_vocab, dtype=dtype, requires_grad=True) if bias else None
        target, d_logp = torch.empty(n_tokens, dtype=torch.int64), torch.empty(n_tokens)
        with inside():
            module._TokenLogprob.apply(hidden, head, bias, target, 0.7, softcap, path).backward(d_logp)
    return hidden, head, bias


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside this mode held at once."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        for x in tree_leaves(result):
            storage = x.untyped_storage() if isinstance(x, torch.Tensor) else None
            if storage is not None and storage._cdata not in known:
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


@pytest.mark.parametrize("frozen", [False, True], ids=["trained_head", "frozen_head"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("path", ["triton", "torch"])
def test_memory_at_full_size_is_outputs_and_declared_workspace_by_construction(path, dtype, frozen, monkeypatch):
    # T = 8192, H = 2048, V = 151936. A kernel writes only to tensors that it is given, so torch's own are all there are.
    monkeypatch.setattr(module, "_launch", lambda *arguments, **tensors: None)
    peak = Peak()
    hidden, head, bias = full_size(path, dtype, bias=True, softcap=30.0, frozen=frozen, inside=lambda: peak)
    outputs = sum(x.grad.nbytes for x in (hidden, head, bias) if x.grad is not None) + 4 * len(hidden)
    assert (head.grad is None) == frozen
    assert outputs + module.WORKSPACE_BYTES / 2 < peak.peak <= 1.05 * (outputs + workspace_bytes(hidden, head))
    assert workspace_bytes(hidden, head) < 8192 * 151936 * 2 / 5  # far below one copy of the logits in bfloat16


VARIANTS = {
    "bfloat16": (torch.bfloat16, False, None),
    "bfloat16_bias_softcap": (torch.bfloat16, True, 30.0),
    "float32_bias_softcap": (torch.float32, True, 30.0),
}


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 replaces the compiler")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_launch_compiles_for_hopper_without_a_gpu(variant, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not ptxas.exists():
        pytest.skip(f"this build of triton has no ptxas ({ptxas})")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, launches = module._kernel, Launches()
    monkeypatch.setattr(module, "_kernel", launches)
    full_size("triton", *VARIANTS[variant])
    assert len(launches.calls) == 1 + -(-151936 // (16384 if "bf" in variant else 8192))  # one forward, a chunk each backward
    for is_forward, (arguments, constants) in zip((True, False), launches.calls):
        options = {k: constants.pop(k) for k in ("num_warps", "num_stages")}
        signature, constexprs, attributes = {}, {}, {}
        # What Triton makes of a call: None and 1 are constants, and divisibility by 16 widens the loads.
        for i, (name, x) in enumerate((dict(zip(kernel.arg_names, arguments)) | constants).items()):
            if x is None or name in constants or (isinstance(x, int) and x == 1):
                signature[name], constexprs[i,] = "constexpr", x
            elif isinstance(x, float):
                signature[name] = "fp32"
            else:
                types = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}
                signature[name] = types[x.dtype] if isinstance(x, torch.Tensor) else "i32"
                if isinstance(x, torch.Tensor) or x % 16 == 0:
                    attributes[i,] = [["tt.divisibility", 16]]
        source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
        compiled = compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        (tmp_path / "kernel.ptx").write_text(compiled.asm["ptx"])
        command = [ptxas, "-v", "--gpu-name=sm_90a", "kernel.ptx", "-o", "kernel.cubin"]
        report = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stderr
        registers, spilled = (int(re.search(p, report)[1]) for p in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
        print(f"{variant} {'forward' if is_forward else 'backward'}: {compiled.metadata.shared / 1024:.0f} KiB shared memory, "
              f"{registers} registers, {spilled} bytes spilled")  # fmt: skip
        assert compiled.metadata.shared <= 227 * 1024  # what a block of an H100 can have
        assert ("wgmma.mma_async" in compiled.asm["ptx"]) == ("bf" in variant) and "cp.async" in compiled.asm["ptx"]
        assert spilled <= (0 if is_forward else 512)  # backward spills only in its epilogue, once for each tile


def test_the_benchmark_runs_at_toy_sizes_and_names_what_is_missing(tmp_path, capsys):
    out = tmp_path / "bench.json"
    sizes = ["--tokens", "16", "--vocab", "200", "--repeats", "2"]
    bench.main(["--device", "cpu", *sizes, "--skip", "torch.compile", "--json", str(out)])
    printed = capsys.readouterr().out
    assert "say nothing about the kernel" in printed
    report = json.loads(out.read_text())
    assert report["on_gpu"] is False and report["kernel"] == "torch"
    assert [r["mode"] for r in report["results"]] == list(bench.MODES)
    for result in report["results"]:
        rows = {row["contender"]: row for row in result["rows"]}
        assert list(rows) == ["eager torch", "torch.compile", "torch linear_cross_entropy", "Liger FLCE",
                              "Cut Cross-Entropy", "Cut Cross-Entropy exact", "ours", "ceiling"]  # fmt: skip
        assert all(row["ms"] or row["note"] for row in rows.values()) and "--skip" in rows["torch.compile"]["note"]
        assert rows["ours"]["error"] < 1e-5 and rows["ours"]["ms"] > 0
        assert rows["ceiling"]["% of ceiling"] == 100 and len(result["ms"]["ours"]) == 2


# ---------------------------------------------------------------- only a GPU can tell


@needs_gpu
@needs_triton
def test_gpu_bfloat16_error_is_at_most_twice_that_of_torch():
    hidden, head, target, d_logp, _ = (None if x is None else x.cuda() for x in problem(512, 1024, 32003, scale=3.0))
    hidden, head = hidden.bfloat16(), head.bfloat16()
    truth = evaluate(plain, hidden.float(), head.float(), target, d_logp)
    eager = lambda h, w, t, bias: -F.cross_entropy((h @ w.T).float(), t, reduction="none")  # noqa: E731
    theirs = evaluate(eager, hidden, head, target, d_logp)
    found = evaluate(token_logprob, hidden, head, target, d_logp, kernel="triton")
    for name, a, b, c in zip(("logp", "hidden", "head"), found, theirs, truth):
        assert (a.float() - c).norm() <= 2 * (b.float() - c).norm(), name


@needs_gpu
@needs_triton
def test_gpu_bfloat16_bits_repeat_20_times():
    hidden, head, target, d_logp, _ = (None if x is None else x.cuda() for x in problem(1000, 512, 50257))
    inputs = hidden.bfloat16(), head.bfloat16(), target, d_logp
    first = evaluate(token_logprob, *inputs, kernel="triton")
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first[:3], evaluate(token_logprob, *inputs, kernel="triton")))


@needs_gpu
@needs_triton
def test_gpu_more_than_two_to_the_31_logits():
    hidden, head, target, d_logp, _ = (None if x is None else x.cuda() for x in problem(16384, 256, 151936))
    hidden, head = hidden.bfloat16(), head.bfloat16()
    logp, d_hidden, d_head, _ = evaluate(token_logprob, hidden, head, target, d_logp, kernel="triton")
    last = slice(16384 - 128, None)
    truth = evaluate(plain, hidden[last].float(), head.float(), target[last], d_logp[last])
    torch.testing.assert_close(logp[last], truth[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(d_hidden[last].float(), truth[1], rtol=2e-2, atol=2e-2)
    # Σ_v ∂L/∂head_v = Σ_t Σ_v d_z_tv hidden_t = 0, since every row of d_z sums to 0.
    assert d_head.float().sum(0).abs().max() < 1e-2 * d_head.float().norm()


@needs_gpu
@needs_triton
def test_gpu_peak_memory_is_outputs_and_declared_workspace():
    hidden = torch.randn(8192, 2048, device="cuda").bfloat16()
    head = (torch.randn(151936, 2048, device="cuda") * 0.05).bfloat16()
    target = torch.randint(0, 151936, (8192,), device="cuda")
    inputs = hidden, head, target, torch.randn(8192, device="cuda")
    # Once at a small size first: cuBLAS allocates its own buffers in its first call.
    evaluate(token_logprob, hidden[:128], head[:512], target[:128] % 512, inputs[3][:128], kernel="triton")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    evaluate(token_logprob, *inputs, kernel="triton")
    torch.cuda.synchronize()
    outputs = 2 * (hidden.numel() + head.numel()) + 4 * 8192
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * (outputs + workspace_bytes(hidden, head))
