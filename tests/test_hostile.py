"""Programs that cheat, break or confuse the sandbox, all at once beside a hundred honest ones.

One run of execute.py labels everything. Then there is one test for each program, named after what it does, and one for each
promise about what is left behind. The numbers are those of the forty attacks in which the sandbox's design was thought out.
"""
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 30  # seconds a test, for a busy machine: nothing that is right may wait for so long
SHORT_LIMIT = 0.25  # where the time limit is the promise: on a busy machine it comes all the same

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


# ---------------------------------------------------------------- problems

PROBLEMS = {}


def problem(name, public, hidden, entry_point="f", **more):
    PROBLEMS[name] = {
        "problem_id": name, "prompt": f"write {entry_point}", "starter_code": "", "entry_point": entry_point,
        "public_tests": public, "tests": hidden, "domain": "test", "difficulty": "easy", "split": "test",
        "time_limit": LIMIT, **more}


def calls(function, *inputs):
    return [{"type": "call", "args": [value], "kwargs": {}, "expected": function(value)} for value in inputs]


def lines(*pairs):
    return [{"type": "stdin", "input": given, "output": wanted} for given, wanted in pairs]


def asserts(source, **more):
    return [{"type": "assert", "source": textwrap.dedent(source), **more}]


def square(n):
    return n * n + 1


CHECK = "def check(candidate):\n" + "".join(f"    assert candidate({n}) == {square(n)}\n" for n in (3, 5, 2, 9, 4, 7)) + "\ncheck(f)\n"
CASES = "import unittest\n\nclass TestCases(unittest.TestCase):\n" + "".join(
    f"    def test_{n}(self):\n        self.assertEqual(f({n}), {square(n)})\n" for n in (3, 5, 2))

problem("call", calls(square, 1, 2), calls(square, 3, 7, 5, 9, 4, 8))
problem("stdin", lines(("1 2\n", "3\n")), lines(("3 4\n", "7\n"), ("10 -4\n", "6\n")), None)
problem("check", [], asserts(CHECK))
problem("unittest", [], [{"type": "unittest", "source": CASES}])
problem("inside", [], asserts("assert f(3) == 10", inside=True))
problem("call once", [], calls(square, 3))  # what takes long takes it once
problem("stdin once", [], lines(("1 2\n", "3\n")), None)
problem("sort", calls(sorted, [3, 1, 2]), calls(sorted, [3, 1, 2], [2, 1], [9, 1, 5]))
problem("sort check", [], asserts("""
    given = [3, 1, 2]
    assert f(given) == [1, 2, 3]
    assert f(given) == [1, 2, 3]
    """))
problem("json check", [], asserts("assert json.loads(f(1)) == [2]\nassert json.loads(f(2)) == [5]"))
problem("raises", [], asserts("""
    try:
        f(-1)
        fine = False
    except:
        fine = True
    assert fine
    """))
problem("sum check", [], asserts("assert sum(f(5)) == 10"))
problem("map check", [], asserts("for got, wanted in zip(map(f, [1, 2, 3]), [2, 5, 10]):\n    assert got == wanted"))
problem("near check", [], asserts("assert abs(f(5) - 26) < 1e-6"))
problem("set check", [], asserts("assert set(f(3)) == {4, 5}"))
problem("eval check", [], asserts("assert eval(f(1)) == 0"))
problem("setup check", [], asserts("assert abs(f(2) - 1.41421356) < TOLERANCE"), setup="TOLERANCE = 1e-6\n")
HOLDING = {"deque": "deque([10])", "values": "{1: 10}.values()", "items": "{1: 10}.items()", "slice": "slice(0, 10)",
           "namespace": "SimpleNamespace(a=10)", "proxy": "MappingProxyType({'a': 10})", "path": "Path('10')"}
HOLDERS = "from collections import deque\nfrom pathlib import Path\nfrom types import MappingProxyType, SimpleNamespace\n"
for name, value in HOLDING.items():
    comparison = {"values": "10 in f(3)", "items": "(1, 10) in f(3)"}.get(name, f"f(3) == {value}")
    problem(name, [], asserts(f"{HOLDERS}assert {comparison}", inside=True))
problem("nested", [], [{"type": "unittest", "source": """
import math
import unittest

class TestCases(unittest.TestCase):
    def test_nested(self):
        self.assertEqual(f(3), [[10]])

    def test_close(self):
        self.assertTrue(math.isclose(f(3)[0][0], 10.0))
"""}])
problem("constant", [], lines(("1\n", "yes\n"), ("2\n", "yes\n")), None)
problem("two lines", [], lines(("1 2\n", "1\n2\n"), ("5 6\n", "5\n6\n")), None)
problem("future", [], calls(lambda n: n, 1, 2), setup="from typing import *\nfrom math import *\nfrom string import *\n")
problem("sees", [], [{"type": "call", "args": [], "expected": "nothing"}])
for number, value in enumerate([[1, 2], [[1, 2]], 1, float("nan"), 2 ** 53, {"a": [1]}]):
    problem(f"value {number}", [], [{"type": "call", "args": [], "expected": value}])

# ---------------------------------------------------------------- attacks

FAIL = False
PASS = True
ATTACKS = {}  # name -> (problem, program, verdict, its status or None)


def attack(name, on, verdict, status, program, slow=False):
    """on: one problem or several, each of which is tried with the program.

    slow: it would use up any time limit, so it gets a short one. So does what has to end with "time_limit".
    """
    for kind in on.split(", "):
        key = f"{name}, {kind}"
        assert key not in ATTACKS, key
        if slow or status == "time_limit":
            kind = shortly(kind)
        ATTACKS[key] = kind, textwrap.dedent(program), verdict, status


def shortly(kind):
    """The same problem with a short time limit."""
    name = f"{kind}, shortly"
    PROBLEMS[name] = {**PROBLEMS[kind], "problem_id": name, "time_limit": SHORT_LIMIT}
    return name


RIGHT = "def f(n):\n    return n * n + 1\n"
WRONG = "def f(n):\n    return 0\n"
ADD = "a, b = map(int, input().split())\n"
TRUTHY = """
class Yes:
    def yes(self, *args):
        return True
    __eq__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = yes
    def __ne__(self, other):
        return False
    def __sub__(self, other):
        return self
    __rsub__ = __abs__ = __add__ = __sub__
    def __float__(self):
        return 0.0
    def __hash__(self):
        return 0
"""

ANY = """
class Any:
    def __eq__(self, other):
        return True
def f(n):
    return Any()
"""

attack("01 exits at import", "call, check", FAIL, "runtime_error", RIGHT + "import sys\nsys.exit(0)\n")
attack("02 exits after the right answer", "stdin", PASS, "passed", ADD + "print(a + b)\nimport sys\nsys.exit(0)\n")
attack("02 exits with an error after the right answer", "stdin", PASS, "passed", ADD + "print(a + b)\nexit(1)\n")
attack("03 ends the process", "call, check, raises", FAIL, "runtime_error", """
    import os
    def f(n):
        os._exit(0)
    """)
attack("03 ends the process by atexit", "call", FAIL, "runtime_error", """
    import atexit, os
    atexit.register(os._exit, 0)
    def f(n):
        raise SystemExit
    """)
attack("03 ends the process of a whole program", "stdin", FAIL, "wrong_answer", """
    import atexit, os
    atexit.register(os._exit, 0)
    print(0)
    """)
attack("03 answers what is no answer", "raises", FAIL, "runtime_error", """
    import os
    def f(n):
        os.write(3, b"[]\\n")
    """)
attack("03 raises what is expected", "raises", PASS, "passed", "def f(n):\n    raise KeyError\n")
for error in ("SystemExit(0)", "KeyboardInterrupt"):
    attack(f"04 raises {error}", "call, check, unittest", FAIL, None, f"def f(n):\n    raise {error}\n")
attack("04 StopIteration ends the test's own loop", "map check", FAIL, "runtime_error", "def f(n):\n    raise StopIteration\n")
attack("05 an object that equals everything", "call, check, unittest, inside", FAIL, "wrong_answer", TRUTHY + """
def f(n):
    return Yes()
""")
attack("05 the same, deep in a list", "nested", FAIL, "wrong_answer", TRUTHY + """
def f(n):
    return [[Yes()]]
""")
attack("05 the same, made by exec", "unittest", FAIL, "wrong_answer", """
    exec("class Y:\\n    def __eq__(self, other): return True")
    def f(n):
        return Y()
    """)
attack("05 a library's object with another ==", "unittest, inside", FAIL, "wrong_answer", """
    from collections import Counter
    Counter.__eq__ = lambda self, other: True
    def f(n):
        return Counter()
    """)
attack("05 an == that is no function", "unittest", FAIL, "wrong_answer", """
    class Call:
        def __call__(self, *args):
            return True
    class Y:
        pass
    Y.__eq__ = Call()
    def f(n):
        return Y()
    """)
attack("05 an object without distance to any number", "near check", FAIL, "wrong_answer", """
    class Near:
        def __sub__(self, other):
            return 0.0
    def f(n):
        return Near()
    """)
attack("05 a fraction of numbers that equal everything", "check, unittest, inside", FAIL, "wrong_answer", """
    from fractions import Fraction
    class Any(int):
        def __eq__(self, other):
            return True
        def __mul__(self, other):
            return 0
        __rmul__ = __sub__ = __rsub__ = __mul__
    def f(n):
        fraction = Fraction(1)
        fraction._numerator = fraction._denominator = Any(1)
        return fraction
    """)
attack("05 mock's own object that equals everything", "unittest, inside", FAIL, "wrong_answer", """
    from unittest.mock import _ANY
    def f(n):
        return _ANY()
    """)
attack("05 an object of Python's own tests", "unittest, check, inside", FAIL, None, """
    from test.support import ALWAYS_EQ
    def f(n):
        return ALWAYS_EQ
    """)
attack("05 a class that says that it is int", "unittest, check, inside", FAIL, "wrong_answer", """
    class Meta(type):
        def __hash__(cls):
            return hash(int)
        def __eq__(cls, other):
            return True
    class Any(metaclass=Meta):
        def __eq__(self, other):
            return True
    def f(n):
        return Any()
    """)
for name, value in HOLDING.items():
    attack("05 holds an object that equals everything", name, FAIL, "wrong_answer", ANY.replace("f(n)", "any(n)") + HOLDERS + (
        "def f(n):\n    path = Path('9')\n    path._cached_cparts = any(n)\n    return path\n"
        if name == "path" else f"def f(n):\n    return {value.replace('10', 'any(n)')}\n"))
    attack("05 holds a number", name, PASS, "passed", f"{HOLDERS}def f(n):\n    return {value}\n")
for base, value in (("int", 0), ("str", "'x'"), ("float", 0.5)):
    attack(f"06 a subclass of {base} with its own ==", "call, check, inside", FAIL, "wrong_answer", f"""
        class Fake({base}):
            def __eq__(self, other):
                return True
            def __ne__(self, other):
                return False
            __hash__ = None
        def f(n):
            return Fake({value})
        """)
attack("07 patches builtins and math", "call, check, unittest, nested", FAIL, None, """
    import builtins, json, math
    def yes(*args, **kwargs):
        return True
    builtins.all = builtins.abs = builtins.len = builtins.isinstance = builtins.sorted = yes
    math.isclose = json.loads = yes
    def f(n):
        return 0
    """)
attack("07 puts another module in the place of math", "nested", FAIL, "wrong_answer", """
    import sys, types
    sys.modules["math"] = types.SimpleNamespace(isclose=lambda *args: True)
    def f(n):
        return [[10]] if n == 30 else [[0]]
    """)
attack("07 patches what guards a test", "check, unittest, inside", FAIL, "wrong_answer", "import ast\nast.NodeVisitor.visit = lambda self, node: node\n" + ANY)
attack("07 patches a class by which a test could be told as passed", "unittest, inside", FAIL, "wrong_answer", """
    import json
    encode = json.JSONEncoder.encode
    def encode_better(self, value):
        if isinstance(value, dict) and "ran" in value:
            value["ran"] = dict.fromkeys(value["ran"], "passed")
        return encode(self, value)
    json.JSONEncoder.encode = encode_better
    def f(n):
        return 0
    """)
attack("07 patches what swallows exceptions", "unittest", FAIL, "wrong_answer", """
    import contextlib
    kept = []
    contextlib._GeneratorContextManager.__exit__ = lambda self, *error: kept.append(self.gen) or True
    def f(n):
        return 0
    """)
attack("07 puts a copy in the place of sys.modules", "unittest", FAIL, "wrong_answer", """
    import sys, types
    fake = types.ModuleType("unittest")
    class TestCase:
        def __getattr__(self, name):
            return lambda *args: None
    fake.TestCase = TestCase
    sys.modules["unittest"] = fake
    sys.modules = dict(sys.modules)
    def f(n):
        return 0
    """)
attack("07 shadows a builtin that the test uses", "sum check", FAIL, "wrong_answer", """
    class Sum(list):
        pass
    def sum(items):
        return 10
    def f(n):
        return Sum()
    """)
for name, patch in {
    "the run of a test": "unittest.TestCase.run = lambda self, result=None: result.addSuccess(self)",
    "assertEqual": "unittest.TestCase.assertEqual = lambda *a, **k: None",
    "what assertEqual calls": "unittest.TestCase._baseAssertEqual = unittest.TestCase.failureException = lambda *a, **k: None",
    "the loader": "unittest.TestLoader.loadTestsFromTestCase = lambda *a: unittest.TestSuite()",
    "the suite": "unittest.TestSuite.run = lambda self, result, debug=False: result",
    "the result": "unittest.TestResult.addFailure = lambda *a: None",
    "all subclasses": "unittest.TestCase.__init_subclass__ = classmethod(lambda cls: "
                      "[setattr(cls, n, lambda s: None) for n in dir(cls) if n.startswith('test')])",
    "expected failures": "unittest.TestCase.__unittest_expecting_failure__ = True",
    "skipping": "unittest.TestCase.__unittest_skip__ = True",
    "the lookup of attributes": "unittest.TestCase.__getattribute__ = lambda self, name: "
                                "(lambda *a, **k: None) if name.startswith('assert') else object.__getattribute__(self, name)",
}.items():
    attack(f"08 patches {name} of unittest", "unittest", FAIL, None, f"import unittest\n{patch}\n{WRONG}")
attack("08 patches every class that asserts", "unittest", FAIL, None, """
    def f(n):
        return 0
    for cls in object.__subclasses__():
        for name in [name for name in vars(cls) if name.startswith("assert")]:
            setattr(cls, name, lambda *args, **kwargs: None)
    """)
attack("08 patches unittest when it is called", "unittest", FAIL, None, """
    def f(n):
        import unittest
        unittest.TestCase.assertEqual = lambda *args, **kwargs: None
        return 0
    """)
attack("08 skips the tests", "unittest", FAIL, None, "import unittest\ndef f(n):\n    raise unittest.SkipTest('no')\n")
attack("08 raises what unittest swallows", "unittest", FAIL, None, """
    import unittest.case
    def f(n):
        raise unittest.case._ShouldStop
    """)
attack("08 brings fixtures for the module", "unittest", FAIL, None, """
    import unittest
    def f(n):
        return 0
    def setUpModule():
        unittest.TestCase.assertEqual = lambda *args, **kwargs: None
    """)
attack("08 brings a unittest of its own", "unittest", FAIL, None, """
    import sys, types, unittest
    class TestCase(unittest.TestCase):
        def run(self, result=None):
            result.startTest(self)
            result.addSuccess(self)
            return result
    fake = types.ModuleType("unittest")
    fake.__dict__.update(vars(unittest))
    fake.TestCase = TestCase
    sys.modules["unittest"] = fake
    def f(n):
        return 0
    """)
attack("08 brings builtins of its own", "unittest", FAIL, None, """
    import builtins
    fake = dict(vars(builtins))
    def build(function, name, *bases, **more):
        made = builtins.__build_class__(function, name, *bases, **more)
        for key in dir(made):
            if key.startswith("test"):
                setattr(made, key, lambda self: None)
        return made
    fake["__build_class__"] = build
    __builtins__ = fake
    def f(n):
        return 0
    """)
attack("09 looks for the expected value", "call, check", FAIL, "wrong_answer", """
    import gc, os, sys
    WORD = "expect" + "ed"
    def found():
        frame = sys._getframe()
        places = gc.get_objects()
        while frame:
            places += [frame.f_locals, frame.f_globals]
            frame = frame.f_back
        for place in places:
            if type(place) is dict and WORD in place:
                return place[WORD]
        for folder in ("/proc/1", "/proc/self", "/tmp", "/box", "/var/tmp", REPOSITORY, os.path.expanduser("~")):
            for path, _, files in os.walk(folder):
                for name in files:
                    try:
                        text = open(os.path.join(path, name), errors="replace").read(1 << 20)
                    except OSError:
                        continue
                    if f'"{WORD}"' in text:
                        return 1
    def f(n):
        answer = found()
        return n * n + 1 if answer is not None else None
    """)
FORGE = """
import json, os, struct
def shout():
    ran = {"TestCases.test_2": "passed", "TestCases.test_3": "passed", "TestCases.test_5": "passed"}
    messages = [{"passed": True}, {"status": "passed"}, {"value": True}, {"started": 0}, {"code": 0, "killed": False},
                {"results": [[0, "passed", "", ""]]}, {"done": True}, "passed", {"ran": ran, "token": ""}]
    for message in messages:
        data = json.dumps(message).encode()
        for fd in range(64):
            for form in (struct.pack("!I", len(data)) + data, data + b"\\n"):
                try:
                    os.write(fd, form)
                except OSError:
                    pass
"""
attack("10 forges a verdict at once", "call, check, unittest", FAIL, None, FORGE + "shout()\n" + WRONG)
attack("10 forges a verdict when called", "call, check, unittest", FAIL, None, FORGE + "def f(n):\n    shout()\n    return 0\n")
attack("10 forges a verdict and leaves", "call, check, unittest", FAIL, None, FORGE + "def f(n):\n    shout()\n    os._exit(0)\n")
attack("10 forges a verdict in its output", "stdin", FAIL, None, FORGE + "shout()\n")
attack("10 calls pickle json", "json check", FAIL, "wrong_answer", """
    import pickle as json
    def f(n):
        return b"cunittest.mock\\nANY\\n."
    """)
attack("10 and the test may use its json", "json check", PASS, "passed", """
    import json
    def f(n):
        return json.dumps([n * n + 1])
    """)
attack("10 redefines a name of the setup", "setup check", FAIL, "wrong_answer", "TOLERANCE = 1e9\ndef f(n):\n    return 0\n")
attack("11 a forked child answers", "call, check", FAIL, "runtime_error", """
    import os, time
    def f(n):
        if os.fork():
            os._exit(0)
        time.sleep(0.2)
        return n * n + 1
    """)
attack("11 a forked child raises", "call, check, unittest", PASS, "passed", """
    import os
    def f(n):
        if os.fork() == 0:
            raise OSError
        os.wait()
        return n * n + 1
    """)
attack("12 kills all that it can", "call", PASS, "passed", """
    import os
    def f(n):
        for pid in (os.getppid(), -1, 1):
            try:
                os.kill(pid, 9)
            except OSError:
                pass
        return n * n + 1
    """)
attack("12 traces", "call", FAIL, "runtime_error", """
    import ctypes, os
    def f(n):
        libc = ctypes.CDLL(None)
        if libc.ptrace(16, os.getppid(), 0, 0) and libc.ptrace(0, 0, 0, 0):
            raise OSError
        return n * n + 1
    """)
attack("12 leaves at the end of its time", "check", FAIL, None, f"""
    import os, time
    def f(n):
        time.sleep({SHORT_LIMIT - 0.1})
        os.close(3)
        time.sleep(100)
    """, slow=True)
attack("12 dies at the end of its time", "check, unittest", FAIL, None, f"""
    import os, signal, time
    def f(n):
        time.sleep({SHORT_LIMIT} - 0.001)
        os.kill(os.getpid(), signal.SIGSEGV)
    """, slow=True)
attack("13 knows the visible samples by heart", "call", FAIL, "wrong_answer", "def f(n):\n    return {1: 2, 2: 5}.get(n)\n")
attack("13 knows the visible input by heart", "stdin", FAIL, "wrong_answer", "print({'1 2': 3}.get(input()))\n")
attack("14 prints every possible answer", "stdin", FAIL, "wrong_answer", "for n in range(100):\n    print(n)\n")
attack("15 fork bomb", "call once, check", FAIL, None, """
    import os
    def f(n):
        while True:
            os.fork()
    """, slow=True)
attack("15 patient fork bomb", "stdin once", FAIL, "time_limit", """
    import os
    while True:
        try:
            os.fork()
        except OSError:
            pass
    """)
attack("16 takes all memory at once", "call", FAIL, "memory_limit", "def f(n):\n    return len(bytearray(1 << 40))\n")
attack("16 takes all memory in a program", "stdin", FAIL, "memory_limit", "bytearray(1 << 40)\n")
attack("16 takes all memory by and by", "call once", FAIL, None, """
    def f(n):
        x = []
        while True:
            x.append("x" * 10000000)
    """)
attack("16 takes memory that no limit counts", "sees", PASS, "passed", """
    import ctypes, os, signal, socket
    libc = ctypes.CDLL(None)
    def grows(option):
        end, _ = socket.socketpair()
        usual = end.getsockopt(socket.SOL_SOCKET, option)
        end.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        return end.getsockopt(socket.SOL_SOCKET, option) > usual
    def waiting_signals():
        signal.pthread_sigmask(signal.SIG_BLOCK, [40])
        for sent in range(2000):
            if libc.sigqueue(os.getpid(), 40, None):
                return False
        return True
    def f():
        had = {
            "a large buffer to send": grows(socket.SO_SNDBUF),
            "a large buffer to receive": grows(socket.SO_RCVBUF),
            "2000 signals that wait": waiting_signals(),
            "what io_setup makes": libc.syscall(IO_SETUP, 1, ctypes.byref(ctypes.c_ulong())) == 0,
        }
        return " ".join(name for name, one in had.items() if one) or "nothing"
    """.replace("IO_SETUP", str({"x86_64": 206}.get(os.uname().machine, 0))))
for fd in (1, 2):
    attack(f"17 floods output {fd}", "stdin once", FAIL, "output_limit", f"import os\nwhile True:\n    os.write({fd}, b'x' * 65536)\n")
attack("18 sleeps", "call", FAIL, "time_limit", "import time\ndef f(n):\n    time.sleep(1000)\n")
attack("18 never gets to its end", "call", FAIL, "time_limit", "while True:\n    pass\n")
attack("18 ignores all signals and errors", "stdin once", FAIL, "time_limit", """
    import signal
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
    """)
attack("18 stops a child and waits for it", "stdin once", FAIL, "time_limit", """
    import os, signal
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.wait()
    """)
attack("19 hangs in arithmetic", "call", FAIL, "time_limit", "def f(n):\n    return 10 ** 10 ** 8 % 7\n")
attack("19 hangs in a regular expression", "check", FAIL, "time_limit", """
    import re
    def f(n):
        return re.match("(a+)+b", "a" * 50)
    """)
attack("19 makes the test hang in C", "set check", FAIL, "time_limit", """
    def f(n):
        return [k * (2 ** 61 - 1) for k in range(60000)]  # one hash for all
    """)
attack("19 makes the test sum for ever", "sum check", FAIL, "time_limit", "def f(n):\n    return range(10 ** 13)\n")
attack("19 a range that can be summed", "sum check", PASS, "passed", "def f(n):\n    return range(n)\n")
attack("19 makes the test run its code", "eval check", FAIL, None, f"""
    def f(n):
        return "open({str(Path(tempfile.gettempdir()) / 'hostile')!r}, 'w').write('x') and open('/hostile', 'w').write('x')"
    """)
attack("20 a daemon holds stdout", "stdin", PASS, "passed", ADD + textwrap.dedent("""
    print(a + b, flush=True)
    import os, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    """))
attack("21 a thread that is not joined", "stdin", PASS, "passed", ADD + textwrap.dedent("""
    import threading, time
    def late():
        time.sleep(0.1)
        print(a + b)
    threading.Thread(target=late).start()
    """))
attack("22 an endless thread", "stdin once", FAIL, "time_limit", ADD + textwrap.dedent("""
    import threading, time
    print(a + b, flush=True)
    threading.Thread(target=time.sleep, args=(600,)).start()
    """))
attack("23 reads where there is nothing", "call, stdin", FAIL, "runtime_error", """
    import ctypes
    def f(n):
        ctypes.string_at(0)
    if __name__ == "__main__":
        f(1)
    """)
attack("23 aborts", "call", FAIL, "runtime_error", "import os\ndef f(n):\n    os.abort()\n")
attack("23 calls itself for ever", "call", FAIL, "runtime_error", "def f(n):\n    return f(n)\n")
attack("24 writes a huge file", "call once", FAIL, "runtime_error", """
    def f(n):
        with open("big", "wb") as file:
            while True:
                file.write(b"x" * 1000000)
    """)
attack("24 writes a million files", "call once", FAIL, "runtime_error", """
    def f(n):
        for i in range(1000000):
            open(f"file{i}", "w").close()
    """)
attack("24 makes what is hard to remove", "call", FAIL, "runtime_error", """
    import os
    def f(n):
        os.symlink("/", "out")
        os.makedirs("a/b")
        os.chmod("a/b", 0)
        os.chmod("a", 0)
        raise OSError
    """)
attack("24 waits for a pipe", "call", FAIL, "time_limit", """
    import os
    def f(n):
        os.mkfifo("pipe")
        open("pipe").read()
    """)
attack("25 connects to the machine", "call", FAIL, "runtime_error", """
    import socket
    def f(n):
        socket.create_connection(("127.0.0.1", PORT), 1).send(b"x")
        return n * n + 1
    """)
attack("25 connects to an abstract socket", "call", FAIL, "runtime_error", """
    import socket
    def f(n):
        socket.socket(socket.AF_UNIX).connect("\\0" + ABSTRACT)
        return n * n + 1
    """)
attack("26 ignores its input", "constant", PASS, "passed", "print('yes')\n")
for number, program in enumerate((
        "import sys\na, b = map(int, sys.stdin.buffer.read().split())\nsys.stdout.buffer.write(b'%d\\n' % (a + b))\n",
        "import os\na, b = map(int, open(0).read().split())\nos.write(1, str(a + b).encode())\n",
        "a, b = map(int, open('/dev/stdin').read().split())\nprint(a + b)\n",
        "import sys\na, b = map(int, next(iter(sys.stdin)).split())\nsys.stdout.write(str(a + b))\n",
        ADD + "out = open(1, 'w')\nout.write(str(a + b))\n",
        ADD + "import os, sys\nprint(a + b)\nsys.stdout = open(os.devnull, 'w')\n",
        ADD + "import sys\nprint(a + b)\nsys.stdout = None\n",
        ADD + "import io, sys\nout, sys.stdout = sys.stdout, io.StringIO()\nprint(a + b)\nout.write(sys.stdout.getvalue())\n",
        ADD + "import os\nif os.fork() == 0:\n    print(a + b)\nelse:\n    os.wait()\n")):
    attack(f"27 reads and writes in way {number}", "stdin", PASS, "passed", program)
attack("28 blanks at the ends of lines", "two lines", PASS, "passed", ADD + "print(a, end=' \\r\\n')\nprint(b, end='')\n")
attack("28 empty lines at the end", "two lines", PASS, "passed", ADD + "print(f'{a}   \\n{b}\\n\\n\\n')\n")
attack("29 bytes that are no text", "stdin", FAIL, "wrong_answer", "import os\nos.write(1, bytes(range(256)))\n")
attack("29 a zero byte", "stdin", FAIL, "wrong_answer", ADD + "print(chr(0), a + b)\n")
attack("29 half a character", "call", FAIL, "wrong_answer", "def f(n):\n    return '\\udcff\\0'\n")
COUNT = """
count = -1
def f(n):
    global count
    count += 1
    return ANSWERS[count % len(ANSWERS)]
"""
attack("29 moves the cursor", "call", FAIL, "runtime_error", "def f(n):\n    raise ValueError('\\x1b]0;mine\\x07\\x1b[2J')\n")
attack("30 counts the calls", "call", FAIL, "wrong_answer", COUNT.replace("ANSWERS", "[2, 5, 10, 50, 26, 82, 17, 65]"))
attack("30 counts the calls of an assert", "check", FAIL, "wrong_answer", COUNT.replace("ANSWERS", "[10, 26, 5, 82, 17, 50]"))
attack("31 empties its argument", "sort", PASS, "passed", "def f(x):\n    y = sorted(x)\n    x.clear()\n    return y\n")
attack("31 sorts the test's own list", "sort check", PASS, "passed", "def f(x):\n    y = sorted(x)\n    x.sort()\n    return y\n")
attack("31 empties the test's own list", "sort check", FAIL, "wrong_answer", "def f(x):\n    y = sorted(x)\n    x.clear()\n    return y\n")
for number, value, verdict in (
        (0, "(1, 2)", PASS), (1, "[(1, 2)]", FAIL), (1, "([1, 2],)", PASS), (2, "True", PASS), (2, "1.0", PASS),
        (2, "'1'", FAIL), (3, "float('nan')", FAIL), (4, "2 ** 53 + 1", FAIL), (4, "2.0 ** 53", PASS),
        (5, "{'a': [1]}", PASS), (5, "{'a': (1,)}", FAIL)):
    attack(f"32 {value} looks like it", f"value {number}", verdict, None, f"def f():\n    return {value}\n")
attack("32 a number that no == accepts", "call", FAIL, "wrong_answer", """
    from decimal import Decimal
    def f(n):
        return Decimal("sNaN")
    """)
attack("33 poisons imports", "call", FAIL, "wrong_answer", """
    import os, sys
    def f(n):
        for folder in [".", "/tmp", os.path.dirname(os.__file__), *filter(None, sys.path)]:
            for name in ("json.py", "decimal.py", "x.pth", "__pycache__/json.cpython-311.pyc"):
                try:
                    open(os.path.join(folder, name), "w").write("raise SystemExit")
                except OSError:
                    pass
        return 0
    """)
for name, program in {"breaks off": "def f(n:", "has a zero byte": RIGHT + "\0",
                      "has many brackets": "(" * 10000, "has half a character": RIGHT + "\udcff"}.items():
    attack(f"34 its source {name}", "call, stdin, check, unittest", FAIL, "compile_error", program)
attack("34 its source has a byte order mark", "call, check, unittest", PASS, "passed", "\ufeff" + RIGHT)
attack("34 its source is long", "call", FAIL, "compile_error", RIGHT + "#" * (10 << 20))
attack("35 an import from the future", "future", PASS, "passed", """\
    from __future__ import annotations
    def f(n: Missing) -> Nothing:
        return floor(n)
    """)
attack("36 a deep answer", "call once, check", FAIL, "output_limit", """
    def f(n):
        x = []
        for _ in range(100000):
            x = [x]
        return x
    """)
for name, value in {"text": "'x' * 50000000", "list": "[0] * 10000000", "number": "1 << 10 ** 9"}.items():
    attack(f"36 a huge {name}", "call once, check", FAIL, "output_limit", f"def f(n):\n    return {value}\n")
attack("36 a complex number that is none", "call", FAIL, "wrong_answer", """
    class C(complex):
        real = 10 ** 400
    def f(n):
        return C(1)
    """)
for depth in (150, 480, 20000):
    attack(f"36 writes an answer {depth} deep itself", "call", FAIL, None, f"""
        import os, time
        os.write(3, b'{{}}\\n' + b'{{"value": ' + b'{{"tuple": [' * {depth} + b']}}' * {depth} + b'}}\\n')
        time.sleep(0.1)
        os._exit(0)
        """)
attack("37 redefines check", "check", FAIL, "wrong_answer", "def f(n):\n    return 0\ndef check(candidate):\n    pass\n")
attack("37 makes check print", "check", FAIL, None, "class f:\n    def __new__(cls, n):\n        return 0\ncheck = print\n")
attack("38 closes all descriptors", "call", FAIL, "runtime_error", """
    import os
    def f(n):
        os.closerange(0, 64)
        return n * n + 1
    """)
attack("38 puts another over all descriptors", "call", FAIL, "runtime_error", """
    import os
    def f(n):
        for fd in range(64):
            os.dup2(0, fd)
        return n * n + 1
    """)
attack("38 closes all descriptors after its output", "stdin", PASS, "passed", ADD + textwrap.dedent("""
    print(a + b, flush=True)
    import os
    os.closerange(0, 64)
    """))
attack("39 reads and writes what is not its own", "call", FAIL, "wrong_answer", """
    import os
    def f(n):
        seen = [path for path in (REPOSITORY, REPOSITORY + "/execute.py", *FILES) if os.path.exists(path)]
        for path in ("/etc/passwd", HOME + "/hostile", REPOSITORY + "/hostile", "/usr/hostile", "/hostile", "/box/hostile"):
            try:
                open(path, "a").write("hostile")
                seen.append(path)
            except OSError:
                pass
        return n * n + 1 if seen else None
    """)
attack("40 changes its surroundings", "call", PASS, "passed", """
    import os, resource, signal, sys
    def f(n):
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
        os.nice(19)
        os.umask(0o777)
        os.chdir("/")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.setrecursionlimit(50)
        os.environ["LANG"] = "x"
        return n * n + 1
    """)
attack("40 takes the rights from its folder", "call, check", PASS, "passed", "import os\nos.chmod('.', 0)\n" + RIGHT)
attack("40 leaves marks", "call", PASS, "passed", """
    import fcntl, os, signal, struct
    def f(n):
        folder = os.open(".", os.O_RDONLY)
        try:
            fcntl.ioctl(folder, 0x40086602, struct.pack("l", 0x40))  # FS_IOC_SETFLAGS: not to be dumped
        except OSError:
            pass
        os.chmod(".", 0o1777)
        fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)
        for _ in range(5):
            if os.fork() == 0:
                os._exit(0)
            os.wait()
        return n * n + 1
    """)
attack("40 sees marks", "sees", PASS, "passed", """
    import fcntl, os, struct
    def f():
        folder = os.open(".", os.O_RDONLY)
        flags = struct.unpack("l", fcntl.ioctl(folder, 0x80086601, bytes(8)))[0]
        marks = {
            "flags of the folder": flags & 0x40,
            "rights of the folder": os.stat(".").st_mode & 0o7777 != 0o700,
            "files": os.listdir(".") != [],
            "flags of stdin": fcntl.fcntl(0, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND),
            "number of the process": os.getpid() != 1,
        }
        return " ".join(name for name, seen in marks.items() if seen) or "nothing"
    """)
attack("40 harms its zygote", "call", PASS, "passed", """
    import os, resource
    STEPS = [
        lambda: resource.prlimit(1, resource.RLIMIT_NPROC, (0, 0)) if os.getpid() != 1 else None,
        lambda: resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1)),
        lambda: os.setpriority(os.PRIO_USER, 0, 19),
        lambda: os.sched_setaffinity(0, {0}),
        lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)),
        lambda: os.kill(os.getppid(), 19),
    ]
    def f(n):
        for step in STEPS:
            try:
                step()
            except OSError:
                pass
        return n * n + 1
    """)

HONEST = [
    ("call", RIGHT), ("call", "import json\ndef f(n):\n    return json.loads(json.dumps(n * n + 1))\n"),
    ("call", "def f(n):\n    return sum(n for _ in range(n)) + 1\n"), ("stdin", ADD + "print(a + b)\n"),
    ("stdin", "import sys, decimal\nprint(sum(map(decimal.Decimal, sys.stdin.read().split())))\n"), ("check", RIGHT),
    ("check", "def f(n):\n    open('note', 'w').write('mine')\n    return n ** 2 + 1\n"), ("unittest", RIGHT),
    ("sort", "def f(x):\n    x.sort()\n    return x\n"),
    ("stdin", "from concurrent.futures import ThreadPoolExecutor\n" + ADD
     + "with ThreadPoolExecutor(4) as pool:\n    print(sum(pool.map(int, [a, b])))\n")]
TURNED = {"+ 1": "+ 2", "a + b": "a - b", "sum(": "max(", "x.sort()": "x.sort(reverse=True)"}


def turned_wrong(program):
    for right, wrong in TURNED.items():
        program = program.replace(right, wrong)
    return program


# ---------------------------------------------------------------- one run for all

def started_by(supervisor):
    """The processes below a supervisor."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            except OSError:
                pass
    found = {supervisor}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {supervisor}
        found |= more


def high_water(pid):
    """MB of memory that a process has ever used."""
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) // 1024
    except (OSError, TypeError):
        return 0


def traces():
    """Traces of attacks, and of the sandbox's mounts, which nobody outside of it should see."""
    files = [Path.home() / "hostile", ROOT / "hostile", Path("/hostile"), Path(tempfile.gettempdir()) / "hostile"]
    found = [str(file) for file in files if file.exists()]
    if b"hostile" in Path("/etc/passwd").read_bytes():
        found.append("/etc/passwd")
    return found + [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " /box " in line]


def candidates(head):
    """Attacks and honest programs, mixed."""
    hostile = []
    for name, (kind, program, _, _) in ATTACKS.items():
        needs_head = re.search("REPOSITORY|PORT|ABSTRACT", program)
        hostile.append({"problem_id": kind, "candidate_id": name, "policy": "hostile", "code": (head if needs_head else "") + program})
    honest = []
    for number in range(5):
        for kind, change in (("right", str), ("wrong", turned_wrong)):
            for position, (name, program) in enumerate(HONEST):
                honest.append({"problem_id": name, "candidate_id": f"{kind} {number} {position}", "policy": "honest", "code": change(program)})
    share = len(hostile) // len(honest) + 1
    mixed = []
    while hostile or honest:
        mixed += hostile[:share] + honest[:1]
        del hostile[:share], honest[:1]
    return mixed


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def visited(listener):
    listener.setblocking(False)
    try:
        listener.accept()
        return True
    except BlockingIOError:
        return False


@pytest.fixture(scope="session")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0hostile-{os.getpid()}")
        abstract.listen()
        files = [str(path) for path in Path.home().iterdir() if path.is_file()]
        head = "".join(f"{name} = {value!r}\n" for name, value in (
            ("PORT", server.getsockname()[1]), ("ABSTRACT", f"hostile-{os.getpid()}"), ("REPOSITORY", str(ROOT)),
            ("HOME", str(Path.home())), ("FILES", files)))
        mixed = candidates(head)
        write_rows(folder / "problems.jsonl", PROBLEMS.values())
        write_rows(folder / "candidates.jsonl", mixed)
        command = [sys.executable, str(ROOT / "execute.py"), "--problems", str(folder / "problems.jsonl"),
                   "--candidates", str(folder / "candidates.jsonl"), "--out", str(folder / "labelled.jsonl"),
                   "--jobs", "3", "--memory-mb", "256"]
        supervisor = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder)
        memory = []
        started = set()

        def watch():
            while supervisor.poll() is None:
                memory.append(high_water(supervisor.pid))
                started.update(started_by(supervisor.pid))
                time.sleep(0.1)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            output, _ = supervisor.communicate(timeout=400)
        finally:
            supervisor.kill()
            watcher.join()
        visitors = [visited(server), visited(abstract)]
    path = folder / "labelled.jsonl"
    labelled = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {"rows": {row["candidate_id"]: row for row in labelled}, "output": output, "status": supervisor.returncode,
            "traces": traces(), "started": started, "memory": memory, "visitors": visitors,
            "order": [row["candidate_id"] for row in labelled], "given": [row["candidate_id"] for row in mixed]}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_gets_its_verdict(everything, name):
    assert everything["status"] == 0, everything["output"][-3000:]
    _, _, passed, status = ATTACKS[name]
    row = everything["rows"][name]
    assert row["passed"] is passed, (row["status"], row["detail"])
    assert status in (None, row["status"]), row["detail"]


def test_honest_programs_are_judged_as_if_alone(everything):
    honest = [row for row in everything["rows"].values() if row["policy"] == "honest"]
    assert len(honest) == 100
    for row in honest:
        expected = "passed" if row["candidate_id"].startswith("right") else "wrong_answer"
        assert row["status"] == expected, (row["code"], row["detail"])


def test_no_process_is_left_behind(everything):
    assert len(everything["started"]) > 3
    assert not [pid for pid in everything["started"] if Path(f"/proc/{pid}").exists() and high_water(pid)]


def test_no_file_and_no_mount_is_left_behind(everything):
    assert everything["traces"] == []


def test_nobody_came_out_over_the_network(everything):
    assert everything["visitors"] == [False, False]


def test_memory_of_the_trusted_process_stays_bounded(everything):
    assert max(everything["memory"]) < 400


def test_what_programs_say_is_printed_as_one_line(everything):
    assert [row["detail"] for row in everything["rows"].values() if not row["detail"].isprintable()] == []


def test_rows_are_in_the_order_of_the_candidates(everything):
    assert everything["order"] == everything["given"]


def test_all_forty_attacks_are_there():
    assert {name[:2] for name in ATTACKS} == {f"{number:02}" for number in range(1, 41)}
