"""Forty ways to cheat, break or confuse the sandbox, all at once beside 100 honest programs.

One run of execute.py labels everything; then there is one test for each attack, and one for each promise about what
is left behind. An attack that has several forms is several programs under one name.
"""
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 3  # seconds a test

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def problem(name, public, hidden, entry_point="f", **more):
    return {"problem_id": name, "prompt": name, "starter_code": "", "entry_point": entry_point, "public_tests": public, "tests": hidden,
            "domain": "test", "difficulty": "easy", "split": "test", "time_limit": LIMIT, **more}


def calls(function, *inputs):
    return [{"type": "call", "args": [value], "kwargs": {}, "expected": function(value)} for value in inputs]


def lines(pairs):
    return [{"type": "stdin", "input": given, "output": wanted} for given, wanted in pairs]


CHECK = "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {n * n + 1}\n" for n in (3, 5, 2, 9, 4, 7)) + "\ncheck(f)\n"
CASES = ("import unittest\nclass TestCases(unittest.TestCase):\n"
         + "".join(f"    def test_{n}(self):\n        self.assertEqual(f({n}), {n * n + 1})\n" for n in (3, 5, 2)))
PROBLEMS = {row["problem_id"]: row for row in (
    problem("call", calls(lambda n: n * n + 1, 1, 2), calls(lambda n: n * n + 1, 3, 7, 5, 9, 4, 8)),
    problem("stdin", lines([("1 2\n", "3\n")]), lines([("3 4\n", "7\n"), ("10 -4\n", "6\n")]), None),
    problem("constant", [], lines([("1\n", "yes\n"), ("2\n", "yes\n")]), None),
    problem("two lines", [], lines([("1 2\n", "1\n2\n"), ("5 6\n", "5\n6\n")]), None),
    problem("check", [], [{"type": "assert", "source": CHECK}]),
    problem("unittest", [], [{"type": "unittest", "source": CASES}]),
    problem("sort", calls(sorted, [3, 1, 2]), calls(sorted, [3, 1, 2], [2, 1], [9, 1, 5])),
    problem("sort check", [], [{"type": "assert", "source": "given = [3, 1, 2]\nassert f(given) == [1, 2, 3]\nassert f(given) == [1, 2, 3]"}]),
    problem("json check", [], [{"type": "assert", "source": "assert json.loads(f(1)) == [2]\nassert json.loads(f(2)) == [5]"}]),
    problem("raises", [], [{"type": "assert", "source": "try:\n    f(-1)\n    fine = False\nexcept Exception:\n    fine = True\nassert fine"}]),
    problem("sum check", [], [{"type": "assert", "source": "assert sum(f(5)) == 10"}]),
    problem("future", [], calls(lambda n: n, 1, 2), setup="from typing import *\nfrom math import *\nfrom string import *\n"),
    *(problem(f"value {number}", [], [{"type": "call", "args": [], "expected": value}])
      for number, value in enumerate([[1, 2], [[1, 2]], 1, float("nan"), 2 ** 53, {"a": [1]}])))}

RIGHT = "def f(n):\n    return n * n + 1\n"
ADD = "a, b = map(int, input().split())\n"
TRUTHY = """
class Yes:
    def yes(self, *args): return True
    __eq__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = yes
    def __ne__(self, other): return False
    def __sub__(self, other): return self
    __rsub__ = __abs__ = __add__ = __sub__
    def __float__(self): return 0.0
    def __hash__(self): return 0
"""
SPY = """
import gc, os, sys
def found():
    frame = sys._getframe()
    places = gc.get_objects()
    while frame:
        places += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    for place in places:
        if type(place) is dict and "expected" in place:
            return place["expected"]
    for folder in ("/proc/1", "/proc/self", f"/proc/{os.getppid()}", "/tmp", "/var/tmp", REPOSITORY, os.path.expanduser("~")):
        for path, _, files in os.walk(folder):
            for name in files:
                try:
                    text = open(os.path.join(path, name), errors="replace").read(1 << 20)
                except OSError:
                    continue
                if '"expected"' in text:
                    return 1
def f(n):
    answer = found()
    return n * n + 1 if answer is not None else None
"""
FORGE = """
import json, os, struct
def shout():
    for message in ({"passed": True}, {"status": "passed"}, {"value": True}, {"ready": True}, {"code": 0}, "passed",
                    {"ran": {"TestCases.test_2": "ok", "TestCases.test_3": "ok", "TestCases.test_5": "ok"}, "planted": ["failure"] * 4}):
        data = json.dumps(message).encode()
        for fd in range(64):
            for form in (struct.pack("!I", len(data)) + data, data + b"\\n"):
                try:
                    os.write(fd, form)
                except OSError:
                    pass
"""
REPLAY = """
import hashlib, marshal, os, sys, time
frame, job = sys._getframe(), None
while frame:
    job, frame = frame.f_locals.get("job", job) or job, frame.f_back
LINES = [b'{"value": %d, "args": []}\\n' % value for value in (10, 26, 5, 82, 17, 50)]
def f(n):
    if job["requests"]:
        REPLAYED
    with open(3, "rb", closefd=False) as later:
        for line in LINES:
            os.write(3, line)
            marshal.load(later)
"""
CALLS = "count = -1\ndef f(n):\n    global count\n    count += 1\n    return {answers}[count % {total}]\n"

# attack -> [(problem, program, verdict, statuses or None)]
FAIL, PASS = False, True
ATTACKS = {
    "01 exits at import": [("call", RIGHT + "import sys; sys.exit(0)", FAIL, "runtime_error"), ("check", RIGHT + "exit()", FAIL, "runtime_error")],
    "02 exits after the right answer": [("stdin", ADD + "print(a + b)\nimport sys\nsys.exit(0)", PASS, "passed"), ("stdin", ADD + "print(a + b)\nexit(1)", PASS, "passed")],
    "03 ends the process": [
        ("call", "import os\ndef f(n):\n    os._exit(0)", FAIL, "runtime_error"),
        ("call", "import atexit, os\natexit.register(os._exit, 0)\ndef f(n):\n    raise SystemExit", FAIL, "runtime_error"),
        ("check", "import os\ndef f(n):\n    os._exit(0)", FAIL, "runtime_error"), ("raises", "import os\ndef f(n):\n    os._exit(0)", FAIL, "runtime_error"),
        ("raises", "import os\ndef f(n):\n    os.write(3, b'[]\\n')", FAIL, "runtime_error"), ("raises", "def f(n):\n    raise KeyError", PASS, "passed"), ("unittest", "import os\ndef f(n):\n    os._exit(0)", FAIL, "runtime_error"),
        ("stdin", "import atexit, os\natexit.register(os._exit, 0)\nprint(0)", FAIL, "wrong_answer")],
    "04 raises what is no Exception": [
        (kind, f"def f(n):\n    raise {error}", FAIL, "runtime_error wrong_answer") for kind in ("call", "check", "unittest") for error in ("SystemExit(0)", "KeyboardInterrupt")],
    "05 answers an object that equals everything": [(kind, TRUTHY + "def f(n):\n    return Yes()", FAIL, "wrong_answer") for kind in ("call", "check")],
    "06 answers a subclass with its own eq": [
        (kind, f"class Fake({base}):\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n    __hash__ = None\n"
         f"def f(n):\n    return Fake({value})", FAIL, "wrong_answer")
        for kind, base, value in (("call", "int", 0), ("check", "int", 0), ("call", "str", "'x'"), ("sort", "list", "[0]"), ("call", "float", 0.5))],
    "07 patches builtins": [
        (kind, "import builtins, math, json\nyes = lambda *a, **k: True\n"
         "builtins.all = builtins.abs = builtins.len = builtins.isinstance = builtins.sorted = yes\nmath.isclose = json.loads = yes\n"
         "def f(n):\n    return 0", FAIL, None) for kind in ("call", "check", "unittest")],
    "08 patches unittest": [
        ("unittest", code + "\ndef f(n):\n    return 0", FAIL, None) for code in (
            "import unittest\nunittest.TestCase.run = lambda self, result=None: result.addSuccess(self)",
            "import unittest\nunittest.TestCase.assertEqual = lambda *a, **k: None",
            "import unittest\nunittest.TestCase._baseAssertEqual = unittest.TestCase.failureException = lambda *a, **k: None",
            "import unittest\nunittest.TestLoader.loadTestsFromTestCase = lambda *a: unittest.TestSuite()",
            "import unittest\nunittest.TestSuite.run = lambda self, result, debug=False: result",
            "import unittest\nunittest.TestResult.addFailure = lambda *a: None", "import unittest\nraise unittest.SkipTest('no')",
            "import unittest\nunittest.TestCase.__init_subclass__ = classmethod(lambda cls: [setattr(cls, n, lambda s: None) for n in dir(cls) if n.startswith('test')])")]
    + [("unittest", "import unittest\ndef f(n):\n    raise unittest.SkipTest('no')", FAIL, None)],
    "09 looks for the expected value": [(kind, f"REPOSITORY = {str(ROOT)!r}" + SPY, FAIL, "wrong_answer") for kind in ("call", "check")],
    "10 forges a verdict": [
        (kind, FORGE + code, FAIL, None) for kind in ("call", "check", "unittest")
        for code in ("shout()\ndef f(n):\n    return 0", "def f(n):\n    shout()\n    return 0", "def f(n):\n    shout()\n    os._exit(0)")]
    + [("stdin", FORGE + "shout()", FAIL, None), ("json check", "import pickle as json\ndef f(n):\n    return b'cunittest.mock\\nANY\\n.'", FAIL, "wrong_answer"),
       ("json check", "import json\ndef f(n):\n    return json.dumps([n * n + 1])", PASS, "passed")],
    "11 a forked child answers": [
        (kind, "import os, time\ndef f(n):\n    if os.fork():\n        os._exit(0)\n    time.sleep(0.2)\n    return n * n + 1", FAIL, "runtime_error") for kind in ("call", "check")]
    + [(kind, "import os\ndef f(n):\n    if os.fork() == 0:\n        raise OSError\n    os.wait()\n    return n * n + 1", PASS, "passed") for kind in ("call", "check", "unittest")],
    "12 signals and traces the others": [
        ("call", "import os\ndef f(n):\n    for pid in (os.getppid(), -1):\n        os.kill(pid, 9)\n    os.killpg(0, 9)\n    return n * n + 1", FAIL, "runtime_error"),
        ("stdin", "import os\nos.kill(-1, 9)\nos.killpg(0, 9)", FAIL, "runtime_error"),
        ("call", "import ctypes, os\ndef f(n):\n    libc = ctypes.CDLL(None)\n    if libc.ptrace(16, os.getppid(), 0, 0) and libc.ptrace(0, 0, 0, 0):\n"
         "        raise OSError\n    return n * n + 1", FAIL, "runtime_error")],
    "13 knows the visible samples by heart": [("call", "def f(n):\n    return {1: 2, 2: 5}.get(n)", FAIL, "wrong_answer"), ("stdin", "print({'1 2': 3}.get(input()))", FAIL, "wrong_answer")],
    "14 prints every possible answer": [("stdin", "for n in range(100): print(n)", FAIL, "wrong_answer")],
    "15 fork bomb": [(kind, "import os\ndef f(n):\n    while True:\n        os.fork()", FAIL, None) for kind in ("call", "check")]
    + [("stdin", "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass", FAIL, "time_limit")],
    "16 takes all memory": [
        ("call", "def f(n):\n    return len(bytearray(1 << 40))", FAIL, "memory_limit"), ("stdin", "bytearray(1 << 40)", FAIL, "memory_limit"),
        ("call", "def f(n):\n    x = []\n    while True:\n        x.append('x' * 10000000)", FAIL, "memory_limit")],
    "17 floods its outputs": [("stdin", f"import os\nwhile True: os.write({fd}, b'x' * 65536)", FAIL, "output_limit") for fd in (1, 2)],
    "18 never ends": [
        ("call", "import time\ndef f(n):\n    time.sleep(1000)", FAIL, "time_limit"), ("call", "while True: pass", FAIL, "time_limit"),
        ("stdin", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
         "while True:\n    try:\n        while True: pass\n    except BaseException: pass", FAIL, "time_limit"),
        ("stdin", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", FAIL, "time_limit")],
    "19 hangs in C": [("call", "def f(n):\n    return 10 ** 10 ** 8 % 7", FAIL, "time_limit"),
                      ("check", "import re\ndef f(n):\n    return re.match('(a+)+b', 'a' * 50)", FAIL, "time_limit")],
    "20 daemon that holds stdout": [
        ("stdin", ADD + "print(a + b, flush=True)\nimport os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(600)\n    os._exit(0)", PASS, "passed")],
    "21 thread that is not joined": [("stdin", "import threading, time\n" + ADD + "threading.Thread(target=lambda: (time.sleep(0.1), print(a + b))).start()", PASS, "passed")],
    "22 endless thread": [("stdin", "import threading, time\n" + ADD + "print(a + b, flush=True)\nthreading.Thread(target=lambda: time.sleep(600)).start()", FAIL, "time_limit")],
    "23 crashes": [
        ("call", "import ctypes\ndef f(n):\n    ctypes.string_at(0)", FAIL, "runtime_error"), ("stdin", "import ctypes\nctypes.string_at(0)", FAIL, "runtime_error"),
        ("call", "import os\ndef f(n):\n    os.abort()", FAIL, "runtime_error"), ("call", "def f(n):\n    return f(n)", FAIL, "runtime_error")],
    "24 litters": [
        ("call", "def f(n):\n    with open('big', 'wb') as file:\n        while True: file.write(b'x' * 1000000)", FAIL, "runtime_error"),
        ("call", "def f(n):\n    for i in range(1000000): open(f'file{i}', 'w').close()", FAIL, "runtime_error"),
        ("call", "import os\ndef f(n):\n    os.symlink('/', 'out')\n    os.makedirs('a/b')\n    os.chmod('a/b', 0)\n    os.chmod('a', 0)\n    raise OSError", FAIL, "runtime_error"),
        ("call", "import os\ndef f(n):\n    os.mkfifo('pipe')\n    open('pipe').read()", FAIL, "time_limit")],
    "25 network": [
        ("call", "import socket\ndef f(n):\n    socket.create_connection(('127.0.0.1', PORT), 1).send(b'x')\n    return n * n + 1", FAIL, "runtime_error"),
        ("call", "import socket\ndef f(n):\n    s = socket.socket(socket.AF_UNIX)\n    s.connect('\\0' + ABSTRACT)\n    return n * n + 1", FAIL, "runtime_error")],
    "26 ignores stdin": [("constant", "print('yes')", PASS, "passed")],
    "27 reads and writes in other ways": [
        ("stdin", "import sys\na, b = map(int, sys.stdin.buffer.read().split())\nsys.stdout.buffer.write(b'%d\\n' % (a + b))", PASS, "passed"),
        ("stdin", "import os\na, b = map(int, open(0).read().split())\nos.write(1, str(a + b).encode())", PASS, "passed"),
        ("stdin", "import sys\na, b = map(int, next(iter(sys.stdin)).split())\nsys.stdout.write(str(a + b))", PASS, "passed")]
    + [("stdin", "import io, os, sys\n" + ADD + code, PASS, "passed") for code in (
        "out = open(1, 'w')\nout.write(str(a + b))", "print(a + b)\nsys.stdout = open(os.devnull, 'w')", "print(a + b)\nsys.stdout = None",
        "out, sys.stdout = sys.stdout, io.StringIO()\nprint(a + b)\nout.write(sys.stdout.getvalue())", "if os.fork() == 0: print(a + b)\nelse: os.wait()")],
    "28 blanks and line ends": [
        ("two lines", ADD + "print(a, end=' \\r\\n'); print(b, end='')", PASS, "passed"), ("two lines", ADD + "print(f'{a}   \\n{b}\\n\\n\\n')", PASS, "passed")],
    "29 bytes that are no text": [("stdin", "import os\nos.write(1, bytes(range(256)))", FAIL, "wrong_answer"), ("stdin", ADD + "print(chr(0), a + b)", FAIL, "wrong_answer"),
                                 ("call", "def f(n):\n    return '\\udcff\\0'", FAIL, "wrong_answer")],
    "30 counts the calls": [("call", CALLS.format(answers=[2, 5, 10, 50, 26, 82, 17, 65], total=8), FAIL, "wrong_answer"),
                            ("check", CALLS.format(answers=[10, 26, 5, 82, 17, 50], total=6), FAIL, "wrong_answer")]
    + [("check", REPLAY.replace("REPLAYED", code), FAIL, "wrong_answer") for code in (
        "os.write(3, b''.join(sorted(LINES, key=lambda line: hashlib.sha256(line).digest()))); os._exit(0)", "time.sleep(2.8)")],
    "31 changes its arguments": [("sort", "def f(x):\n    y = sorted(x)\n    x.clear()\n    return y", PASS, "passed"),
                                 ("sort check", "def f(x):\n    y = sorted(x)\n    x.sort()\n    return y", PASS, "passed"),
                                 ("sort check", "def f(x):\n    y = sorted(x)\n    x.clear()\n    return y", FAIL, "wrong_answer")],
    "32 values that look alike": [
        (f"value {number}", f"def f():\n    return {value}", verdict, None) for number, value, verdict in (
            (0, "(1, 2)", PASS), (1, "[(1, 2)]", FAIL), (1, "([1, 2],)", PASS), (2, "True", PASS), (2, "1.0", PASS), (2, "'1'", FAIL),
            (3, "float('nan')", FAIL), (4, "2 ** 53 + 1", FAIL), (4, "2.0 ** 53", PASS), (5, "{'a': [1]}", PASS), (5, "{'a': (1,)}", FAIL))],
    "33 poisons imports": [
        ("call", "import os, sys\ndef f(n):\n    for folder in ['.', '/tmp', os.path.dirname(os.__file__), *filter(None, sys.path)]:\n"
         "        for name in ('json.py', 'decimal.py', 'x.pth', '__pycache__/json.cpython-311.pyc'):\n            try:\n"
         "                open(os.path.join(folder, name), 'w').write('raise SystemExit')\n            except OSError: pass\n    return 0", FAIL, "wrong_answer")],
    "34 source that does not compile": [(kind, code, FAIL, "compile_error") for kind in ("call", "stdin", "check", "unittest")
                                        for code in ("def f(n:", RIGHT + "\0", "\ufeff" + RIGHT, "(" * 10000, RIGHT + "\udcff")]
    + [("call", RIGHT + "#" * (10 << 20), FAIL, "compile_error")],
    "35 future import": [("future", "from __future__ import annotations\ndef f(n: Missing) -> Nothing:\n    return floor(n)", PASS, "passed")],
    "36 deep or huge answer": [(kind, f"def f(n):\n    {code}", FAIL, "output_limit") for kind in ("call", "check") for code in (
        "x = []\n    for _ in range(100000): x = [x]\n    return x", "return 'x' * 100000000", "return [0] * 10000000", "return 1 << 10 ** 9")]
    + [("sum check", "def f(n):\n    return range(10 ** 13)", FAIL, "output_limit"), ("sum check", "def f(n):\n    return range(n)", PASS, "passed"),
       ("call", "class C(complex):\n    real = 10 ** 400\ndef f(n):\n    return C(1)", FAIL, "runtime_error"),
       ("call", "import os\ndef f(n):\n    os.write(3, b'{\"value\": ' + b'[' * 480 + b']' * 480 + b'}\\n')", FAIL, "output_limit")],
    "37 redefines check": [("check", "def f(n):\n    return 0\ndef check(candidate):\n    pass", FAIL, "wrong_answer"),
                           ("check", "class f:\n    def __new__(cls, n): return 0\ncheck = print", FAIL, None)],
    "38 closes descriptors": [
        ("call", "import os\ndef f(n):\n    os.closerange(0, 64)\n    return n * n + 1", FAIL, "runtime_error"),
        ("call", "import os\ndef f(n):\n    for fd in range(64): os.dup2(0, fd)\n    return n * n + 1", FAIL, "runtime_error"),
        ("stdin", ADD + "print(a + b, flush=True)\nimport os\nos.closerange(0, 64)", PASS, "passed")],
    "39 reads and writes what is not its own": [
        ("call", "import os\ndef f(n):\n    seen = [p for p in (REPOSITORY, REPOSITORY + '/execute.py', *FILES) if os.path.exists(p)]\n"
         "    for path in ('/etc/passwd', HOME + '/hostile', REPOSITORY + '/hostile', '/usr/hostile', '/hostile'):\n        try:\n"
         "            open(path, 'a').write('hostile')\n            seen.append(path)\n        except OSError: pass\n    return n * n + 1 if seen else None", FAIL, "wrong_answer")],
    "40 changes its surroundings": [
        ("call", "import locale, os, resource, signal, sys\ndef f(n):\n    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))\n"
         "    os.nice(19)\n    os.umask(0o777)\n    os.chdir('/')\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    sys.setrecursionlimit(50)\n"
         "    os.environ['LANG'] = 'x'\n    return n * n + 1", PASS, "passed")]
    + [(kind, "import os\nos.chmod('.', 0)\n" + code, PASS, "passed") for kind, code in (("call", RIGHT), ("check", RIGHT), ("stdin", ADD + "print(a + b)"))]
    + [("call", "import os, resource\ndef f(n):\n    for step in (lambda: resource.prlimit(1, resource.RLIMIT_NPROC, (0, 0)), lambda: resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1)),\n"
         "                 lambda: os.setpriority(os.PRIO_USER, 0, 19), lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19), lambda: os.sched_setaffinity(1, {0}),\n"
         "                 lambda: os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0)), lambda: os.kill(1, 2), lambda: os.kill(os.getppid(), 19)):\n"
         "        try:\n            step()\n            done = True\n        except OSError:\n            done = False\n"
         "        if done and (os.getpriority(os.PRIO_PROCESS, os.getppid()) or os.sched_getscheduler(os.getppid())):\n            return None\n"
         "    return n * n + 1", PASS, "passed")]}

HONEST = [
    ("call", RIGHT), ("call", "import json\ndef f(n):\n    return json.loads(json.dumps(n * n + 1))"), ("call", "def f(n):\n    return sum(n for _ in range(n)) + 1"),
    ("stdin", ADD + "print(a + b)"), ("stdin", "import sys, decimal\nprint(sum(map(decimal.Decimal, sys.stdin.read().split())))"), ("check", RIGHT),
    ("check", "def f(n):\n    open('note', 'w').write('mine')\n    return n ** 2 + 1"), ("unittest", RIGHT), ("sort", "def f(x):\n    x.sort()\n    return x"),
    ("stdin", "from concurrent.futures import ThreadPoolExecutor\n" + ADD + "with ThreadPoolExecutor(4) as pool: print(sum(pool.map(int, [a, b])))")]
WRONG = [(name, code.replace("+ 1", "+ 2").replace("a + b", "a - b").replace("sum(", "max(").replace("x.sort()", "x.sort(reverse=True)")) for name, code in HONEST]


def rows(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def own_processes(supervisor, folder):
    """What a supervisor has started: its forks have its command line, which names the test's folder; the zygotes' command
    lines name the supervisor's own folder, which has its number."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
                if entry.name != str(supervisor) and (f"judge-execute-{supervisor}-".encode() in line or bytes(folder) in line):
                    found.add(int(entry.name))
            except OSError:
                pass
    return found


def high_water(pid):
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024
    except (OSError, TypeError):
        return 0


def surroundings():
    """What should be the same afterwards; other runs of execute.py on this machine are none of our business."""
    home = Path.home()
    return {"mounts": Path("/proc/self/mountinfo").read_text(), "passwd": Path("/etc/passwd").read_bytes(),
            "home": (home / "hostile").exists(), "repository": (ROOT / "hostile").exists(), "root": Path("/hostile").exists()}


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"hostile-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        files = [str(path) for path in Path.home().iterdir() if path.is_file()]
        head = f"PORT, ABSTRACT, REPOSITORY, HOME, FILES = {server.getsockname()[1]}, {name!r}, {str(ROOT)!r}, {str(Path.home())!r}, {files!r}\n"
        hostile = [{"problem_id": row[0], "candidate_id": f"{attack} {number}", "policy": "hostile",
                    "code": (head if "REPOSITORY" in row[1] or "PORT" in row[1] or "ABSTRACT" in row[1] else "") + row[1]}
                   for attack, forms in ATTACKS.items() for number, row in enumerate(forms)]
        honest = [{"problem_id": name, "candidate_id": f"{kind} {number}", "policy": "honest", "code": code}
                  for number in range(5) for kind, programs in (("right", HONEST), ("wrong", WRONG)) for number, (name, code) in
                  enumerate(programs, number * len(HONEST))]
        share = len(hostile) // len(honest) + 1  # spread the honest ones between the attacks
        mixed = []
        while hostile or honest:
            mixed += hostile[:share] + honest[:1]
            del hostile[:share], honest[:1]
        (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS.values()))
        (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mixed))
        before, memory = surroundings(), {}
        command = [sys.executable, str(ROOT / "execute.py"), "--problems", str(folder / "problems.jsonl"), "--candidates",
                   str(folder / "candidates.jsonl"), "--out", str(folder / "labelled.jsonl"), "--jobs", "6", "--memory-mb", "256"]
        started = time.monotonic()
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)

        def watch():
            while supervisor.poll() is None:
                for pid in own_processes(supervisor.pid, folder) | {supervisor.pid}:
                    try:
                        if b"sandbox.py" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                            memory[pid] = max(memory.get(pid, 0), high_water(pid))
                    except OSError:
                        pass
                time.sleep(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            output, _ = supervisor.communicate(timeout=240)
        finally:
            supervisor.kill()
            watcher.join()
        visitors = 0
        for listener in (server, abstract):
            listener.setblocking(False)
            try:
                listener.accept()
                visitors += 1
            except BlockingIOError:
                pass
    labelled = rows(folder / "labelled.jsonl") if (folder / "labelled.jsonl").exists() else []
    return {"rows": {row["candidate_id"]: row for row in labelled}, "output": output, "status": supervisor.returncode, "before": before, "after": surroundings(),
            "left": own_processes(supervisor.pid, folder),
            "files": [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"judge-execute-{supervisor.pid}-")], "memory": memory, "visitors": visitors, "seconds": time.monotonic() - started,
            "order": [row["candidate_id"] for row in labelled] == [row["candidate_id"] for row in mixed]}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_gets_its_verdict(everything, attack):
    assert everything["status"] == 0, everything["output"][-3000:]
    for number, (name, code, passed, statuses) in enumerate(ATTACKS[attack]):
        row = everything["rows"][f"{attack} {number}"]
        assert row["passed"] is passed and (statuses is None or row["status"] in statuses.split()), (number, name, code[-300:], row["status"], row["detail"])


def test_honest_programs_are_judged_as_if_alone(everything):
    honest = [row for row in everything["rows"].values() if row["policy"] == "honest"]
    assert len(honest) == 100
    for row in honest:
        assert row["passed"] is row["candidate_id"].startswith("right") and row["status"] in ("passed", "wrong_answer"), (row["code"], row["status"], row["detail"])


def test_nothing_is_left_behind(everything):
    assert not everything["left"] and not everything["files"]
    assert everything["before"] == everything["after"]


def test_nobody_came_out_over_the_network(everything):
    assert everything["visitors"] == 0


def test_memory_of_the_trusted_processes_stays_bounded(everything):
    assert len(everything["memory"]) >= 2, "the watcher saw no supervisor and referee"
    assert max(everything["memory"].values()) < 300, everything["memory"]


def test_rows_are_in_the_order_of_the_candidates(everything):
    assert everything["order"]


def test_there_are_forty_attacks():
    assert [attack[:2] for attack in ATTACKS] == [f"{number:02}" for number in range(1, 41)]
