"""What the compiler makes of the log-prob kernels for an H100 (sm_90a), on a machine without one.

    python -m kernels.compiled          # the tables of RESULTS.md, in a minute or less of one core

Triton compiles a launch from the types and alignment of its arguments; no tensor and no GPU is
needed. The numbers are read from the machine code with the tools that Triton ships. They are
counts, not times:

    registers    a thread has at most 255, and a program of 8 warps then fills a processor
    stack        bytes a thread keeps in memory because its registers do not suffice (spilled)
    a step       instructions of the loop over H, for each step of BLOCK_H
    a tile       instructions between the last product of a tile and the first of the next: the
                 shortest way through, without the mask of the last tile and without a target. The
                 tensor cores wait for them.
    all          instructions of the whole program
"""
import contextlib
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from data.flags import run
from data.rows import UserError
from kernels import weighted_logprob


@dataclass
class Launch:
    kernel: object   # the Triton function
    arguments: dict  # by name; tensors are fake


@dataclass
class Binary:
    """A compiled launch."""
    ptx: str
    instructions: list   # of machine code
    shared_bytes: int
    registers: int
    stack_bytes: int
    step: int            # instructions
    tile: int            # None for a vocabulary of one tile


def launches(dtype, n_tokens=8192, n_hidden=2048, n_vocab=151936, bias=False, softcap=None,
             frozen_head=False, statistics=False, keep_exponentials=False, descriptors=True):
    """The launches of a forward and a backward pass at these sizes, noted instead of made.

    `descriptors`: whether the matrices lie at addresses that the copy engine can read.
    """
    noted = []

    def note(kernel, hidden, head, bias, options, exponential, **arguments):
        shared = weighted_logprob.launch_arguments(hidden, head, bias, exponential, options)
        noted.append(Launch(kernel, arguments | shared))

    def rows_are_aligned(x):  # a fake tensor has no address
        described = descriptors and x.dtype in weighted_logprob.DESCRIBED
        return described and x.stride(0) * x.element_size() % 16 == 0

    with (FakeTensorMode(), mock.patch.object(weighted_logprob, "_launch", note),
          mock.patch.object(weighted_logprob, "_can_describe", rows_are_aligned)):
        hidden = torch.empty(n_tokens, n_hidden, dtype=dtype, requires_grad=True)
        head = torch.empty(n_vocab, n_hidden, dtype=dtype, requires_grad=not frozen_head)
        bias = torch.empty(n_vocab, dtype=dtype) if bias else None
        target = torch.empty(n_tokens, dtype=torch.int64)
        options = weighted_logprob.Options("triton", temperature=0.7, softcap=softcap,
                                           statistics=statistics, keep_gradient=frozen_head,
                                           keep_exponentials=keep_exponentials)
        logp = weighted_logprob._TokenLogprob.apply(hidden, head, bias, target, options)[0]
        logp.sum().backward()
    return noted


class HopperWithoutAGPU:
    """What Triton asks of a driver before it compiles."""

    def get_current_device(self):
        return "sm_90"  # a key of Triton's caches, apart from those of real devices

    def get_current_stream(self, device):
        return None

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@contextlib.contextmanager
def compiling_for_hopper():
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(HopperWithoutAGPU())
    try:
        yield
    finally:
        triton.runtime.driver._active = before


def compile_launch(launch, folder):
    """A Launch as a Binary. `folder` is for the machine code while it is read."""
    arguments = {}
    for name, value in launch.arguments.items():
        is_tensor = isinstance(value, torch.Tensor)
        arguments[name] = MockTensor(value.dtype, list(value.shape)) if is_tensor else value
    if arguments["DESCRIPTORS"]:
        arguments = weighted_logprob.with_descriptors(arguments)
    with compiling_for_hopper():
        compiled = launch.kernel.warmup(grid=(1,), **arguments)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = run_tool("cuobjdump", "-res-usage", str(cubin))
    instructions, labels = parse(run_tool("nvdisasm", "-c", str(cubin)))
    start, end = product_loop(instructions, labels)
    return Binary(
        ptx=compiled.asm["ptx"],
        instructions=instructions,
        shared_bytes=compiled.metadata.shared,
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack_bytes=int(re.search(r"STACK:(\d+)", usage)[1]),
        step=end - start,
        tile=shortest_way(instructions, labels, end, start),
    )


def run_tool(name, *arguments):
    tool = getattr(triton.knobs.nvidia, name).path
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def parse(listing):
    """nvdisasm's listing as its instructions and {label: index of the instruction behind it}."""
    instructions = []
    labels = {}
    for line in listing.splitlines():
        label = re.match(r"(\.L_x_\d+):", line)
        instruction = re.match(r"\s+/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)
        if label:
            labels[label[1]] = len(instructions)
        elif instruction:
            instructions.append(instruction[1])
    return instructions, labels


def branch_target(instruction, labels):
    """Index of the instruction that a branch may go to, or None."""
    found = re.search(r"\bBRA\b.*`\((\.L_x_\d+)", instruction)
    return labels[found[1]] if found else None


def product_loop(instructions, labels):
    """(start, end) of the innermost loop that multiplies, on tensor cores if there is one."""
    loops = []
    for i, instruction in enumerate(instructions):
        target = branch_target(instruction, labels)
        if target is not None and target < i:
            loops.append((target, i + 1))
    for product in ("HGMMA", "FFMA"):
        having = [(start, end) for start, end in loops
                  if any(product in x for x in instructions[start:end])]
        if having:
            return min(having, key=lambda loop: loop[1] - loop[0])
    raise ValueError("the program has no loop with a product")


def shortest_way(instructions, labels, start, end):
    """Instructions on the shortest way from `start` to `end`; None without a way."""
    distance = {start: 0}
    queue = [start]
    for i in queue:
        if i == end:
            return distance[i]
        instruction = instructions[i]
        target = branch_target(instruction, labels)
        following = [] if re.match(r"(BRA|EXIT)\b", instruction) else [i + 1]
        if target is not None:
            following.append(target)
        for j in following:
            if j not in distance:
                distance[j] = distance[i] + 1
                queue.append(j)
    return None


# ---------------------------------------------------------------- the table

PROGRAMS = {
    "forward": {},
    "forward, with entropy": {"statistics": True},
    "forward, exponentials written": {"frozen_head": True},
    "exponentials again": {},
    "forward, without descriptors": {"descriptors": False},
}


def can_compile():
    """Not where TRITON_INTERPRET=1 has replaced the compiler."""
    return (hasattr(weighted_logprob._forward_kernel, "warmup")
            and not triton.knobs.runtime.interpret)


def count(dtype, **settings):
    """A row {column: number} for each of the programs of this dtype; settings as of `launches`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, own in PROGRAMS.items():
            if "descriptors" in own and dtype not in weighted_logprob.DESCRIBED:
                continue  # as the first
            launch = launches(dtype, **own, **settings)[1 if name == "exponentials again" else 0]
            binary = compile_launch(launch, Path(folder))
            rows.append({
                "program": name,
                "shared memory": f"{binary.shared_bytes / 1024:.0f} KiB",
                "registers": binary.registers,
                "stack": binary.stack_bytes,
                "a step": binary.step,
                "a tile": binary.tile,
                "all": len(binary.instructions),
            })
    return rows


def main():
    print(f"Triton {triton.__version__}, sm_90a; T = 8192, H = 2048, V = 151936. "
          "Compiled and counted, not run.")
    if not can_compile():
        raise UserError("TRITON_INTERPRET=1 replaces the compiler; run this without it")
    for dtype in (torch.bfloat16, torch.float32):
        for title, settings in (("", {}),
                                (" with bias and softcap", {"bias": True, "softcap": 30.0})):
            print(f"\n**{str(dtype).removeprefix('torch.')}{title}**\n")
            rows = count(dtype, **settings)
            print("| " + " | ".join(rows[0]) + " |")
            print("|" + "---|" * len(rows[0]))
            for row in rows:
                print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


if __name__ == "__main__":
    run(main)
