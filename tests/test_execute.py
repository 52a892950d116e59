"""execute.py: verdicts for its four kinds of test, comparison rules, bad input, faults, and what holds where."""
import contextlib
import importlib.util
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import execute  # noqa: E402
from data.rows import UserError  # noqa: E402
from data.sandbox import wire  # noqa: E402
from data.sandbox.compare import digestible, same_text, same_value  # noqa: E402
from data.sandbox.zygote import number as number_of_call  # noqa: E402

SCRIPT = ROOT / "execute.py"
sys.set_int_max_str_digits(0)  # rows may hold long integers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


# ---------------------------------------------------------------- a run of the command

def problem(name, tests, public=(), **more):
    return {"problem_id": name, "prompt": "write f", "starter_code": "", "entry_point": "f", "public_tests": list(public),
            "tests": tests, "domain": "d", "difficulty": "easy", "split": "test", **more}


def call(args, expected, **kwargs):
    return {"type": "call", "args": args, "kwargs": kwargs, "expected": expected}


def asserts(source, **more):
    return {"type": "assert", "source": textwrap.dedent(source), **more}


def unit(source):
    return {"type": "unittest", "source": textwrap.dedent(source)}


def stdin(given, wanted):
    return {"type": "stdin", "input": given, "output": wanted}


def programs(name, *codes):
    return [{"problem_id": name, "candidate_id": str(number), "policy": "p", "code": textwrap.dedent(code)}
            for number, code in enumerate(codes)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(folder, *flags):
    return [sys.executable, str(SCRIPT), "--problems", str(folder / "p.jsonl"), "--candidates", str(folder / "c.jsonl"),
            "--out", str(folder / "l.jsonl"), "--jobs", "2", *flags]


def run(folder, problems, candidates, *flags):
    """Returns (finished process, labelled rows)."""
    write(folder / "p.jsonl", problems)
    write(folder / "c.jsonl", candidates)
    done = subprocess.run(command(folder, *flags), capture_output=True, text=True, cwd=folder, timeout=120)
    return done, read(folder / "l.jsonl") if (folder / "l.jsonl").exists() else []


def label(folder, problems, candidates, *flags):
    """The labelled rows, by the command's own main() in this process."""
    write(folder / "p.jsonl", problems)
    write(folder / "c.jsonl", candidates)
    assert execute.main(command(folder, *flags)[2:]) == 0
    return read(folder / "l.jsonl")


def verdicts(folder, tests, *codes, flags=(), **more):
    """`passed` of each program on one problem with these hidden tests."""
    rows = label(folder, [problem("p", tests, **more)], programs("p", *codes), *flags)
    return [row["passed"] for row in rows]


# ---------------------------------------------------------------- the row

def test_the_row_is_the_candidate_plus_its_verdict(tmp_path):
    candidate = {**programs("p", "def f(a, b=1):\n    return a + b")[0], "n_tokens": 7, "text": "…"}
    tests = problem("p", [call([1], 2), call([1], 6, b=5), call([2], 0)], [call([3], 4)])
    row, = label(tmp_path, [tests], [candidate])
    assert {name: row[name] for name in candidate} == candidate
    assert row["passed"] is False
    assert row["status"] == "wrong_answer"
    assert row["public_passed"] is True
    assert [row["tests_passed"], row["tests_total"]] == [3, 4]
    assert row["seconds"] > 0


def test_public_tests_count_and_their_values_are_told(tmp_path):
    row, = label(tmp_path, [problem("p", [call([1], 1)], [call([2], 3)])], programs("p", "def f(a):\n    return a"))
    assert row["passed"] is False
    assert row["public_passed"] is False
    assert row["tests_passed"] == 1
    assert row["detail"] == "public test 1: expected 3, got 2"


def test_what_hidden_tests_expect_is_not_told(tmp_path):
    tests = {
        "call": call([3], 1234), "assert": asserts("assert f(3) == 1234, 'f(3) should be 1234'"),
        "unittest": unit("""
            import unittest
            class T(unittest.TestCase):
                def test_a(self):
                    self.assertEqual(f(3), 1234)
            """)}
    problems = [problem(name, [test]) for name, test in tests.items()]
    for row in label(tmp_path, problems, [row for name in tests for row in programs(name, "def f(n):\n    return 0")]):
        assert row["status"] == "wrong_answer"
        assert row["detail"] == "hidden test 1"


def test_equal_outputs_on_public_inputs_have_equal_digests(tmp_path):
    tests = problem("p", [call([5], 0)], [call([1], [1, 2]), call([2], [2, 3])])
    codes = {
        "right": "def f(a):\n    return [a, a + 1]",
        "right as a tuple with a float": "def f(a):\n    return (a, a + 1.0)",
        "right on public inputs": "def f(a):\n    return [a, a + 1] if a < 3 else None",
        "wrong": "def f(a):\n    return [a]",
        "broken": "def f(a):\n    raise ValueError",
        "zero": "def f(a):\n    return [0]",
        "zero in another way": "def f(a):\n    return [a - a]"}
    rows = dict(zip(codes, label(tmp_path, [tests], programs("p", *codes.values()))))
    digest = {name: row["output_digest"] for name, row in rows.items()}
    assert digest["right"] == digest["right as a tuple with a float"]
    assert digest["right"] == digest["right on public inputs"]
    assert digest["zero"] == digest["zero in another way"]
    assert len({digest[name] for name in ("right", "wrong", "broken", "zero")}) == 4


def test_right_answers_are_one_cluster_by_the_rule_that_called_them_right(tmp_path):
    rows = label(tmp_path, [problem("v", [], [call([1], 1)]), problem("t", [], [stdin("1\n", "0.5 2\n")], entry_point=None)],
                 programs("v", "def f(n):\n    return 1", "def f(n):\n    return 1 + 0j") + programs("t", "print(.5, 2)", "print('0.50000001  2')"))
    assert [row["passed"] for row in rows] == [True] * 4
    assert rows[0]["output_digest"] == rows[1]["output_digest"]
    assert rows[2]["output_digest"] == rows[3]["output_digest"]


def test_whole_programs_stop_at_their_first_hidden_failure(tmp_path):
    tests = [stdin(f"{n}\n", f"{n}\n") for n in range(6)]
    code = "n = int(input())\nprint(n if n < 3 else 0)"
    row, = label(tmp_path, [problem("p", tests[1:], tests[:1], entry_point=None)], programs("p", code))
    assert row["passed"] is False
    assert row["detail"] == "hidden test 3"
    assert [row["tests_passed"], row["tests_total"]] == [3, 6]


@pytest.mark.parametrize("end, status", [("while True: pass", "time_limit"), ("os._exit(0)", "runtime_error")])
def test_what_has_passed_before_the_end_of_a_program_counts(end, status, tmp_path):
    code = f"""
        import os
        calls = 0
        def f(a):
            global calls
            calls += 1
            if calls == 4:
                {end}
            return a
        """
    tests = [call([n], n) for n in range(6)]
    row, = label(tmp_path, [problem("p", tests, time_limit=1.5)], programs("p", code))
    assert row["status"] == status
    assert row["tests_passed"] == 3


def test_a_problem_may_mix_all_types_of_test(tmp_path):
    mixed = [call([1], 2), asserts("assert f(2) == 3"), stdin("5", "6"), unit("""
        import unittest
        class TestCases(unittest.TestCase):
            def test_a(self):
                self.assertEqual(f(3), 4)
        """)]
    right = "def f(a):\n    return a + 1\nif __name__ == '__main__':\n    print(f(int(input())))"
    problems = [problem("public first", mixed[1:], mixed[:1]), problem("public last", mixed[:3], mixed[3:])]
    rows = label(tmp_path, problems, [row for p in problems for row in programs(p["problem_id"], right, right.replace("+ 1", "+ 2"))])
    assert [(row["status"], row["tests_passed"]) for row in rows] == [("passed", 4), ("wrong_answer", 0)] * 2


def test_what_else_a_test_has_is_nobodys_business(tmp_path):
    tests = [call([1], 2) | {"input": [1], "output": None, "source": {"from": "a file"}}, asserts("assert f(1) == 2") | {"input": [1], "args": 1}]
    row = problem("p", tests, canonical_solution="def f(n):\n    return n + 1")
    rows = label(tmp_path, [row], programs("p", row["canonical_solution"], "def f(n):\n    return n"))
    assert [row["passed"] for row in rows] == [True, False]
    assert execute.main(["--check-problems", "--problems", str(tmp_path / "p.jsonl")]) == 0


def test_labels_do_not_depend_on_hash_seed_addresses_chance_or_other_rows(tmp_path):
    codes = ["def f(n):\n    return list({'a', 'b', 'c', 'd', str(n)})", "import random\ndef f(n):\n    return random.random()",
             "def f(n):\n    raise KeyError(object())", "def f(n):\n    return hash('x')",
             "import unittest\ndef f(n):\n    return unittest.mock"]
    other = problem("other", [unit("import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        pass\n")])
    results = []
    for turn, more in (("alone", []), ("beside", programs("other", "import unittest.mock"))):
        (tmp_path / turn).mkdir()
        rows = label(tmp_path / turn, [problem("p", [call([1], 0)], [call([2], 0)]), other], more + programs("p", *codes))
        results.append([{name: value for name, value in row.items() if name != "seconds"} for row in rows if row["problem_id"] == "p"])
    assert results[0] == results[1]


# ---------------------------------------------------------------- asserts

ASSERTED = {  # what the test does -> (its source, a right program, a wrong one)
    "expects an exception": ("""
        try:
            f(-1)
            assert False
        except ValueError as error:
            assert str(error) == "too small"
        """, "def f(n):\n    raise ValueError('too small')", "def f(n):\n    raise TypeError('too small')"),
    "looks at an exception's arguments": ("""
        try:
            f("k")
        except KeyError as error:
            assert error.args == ("k",)
        """, "def f(k):\n    return {}[k]", "def f(k):\n    raise KeyError('other')"),
    "expects the program's own exception": ("""
        try:
            f(-1)
            assert False
        except TooSmall:
            pass
        """, "class TooSmall(Exception):\n    pass\ndef f(n):\n    raise TooSmall(n)",
        "class TooSmall(Exception):\n    pass\ndef f(n):\n    return n"),
    "expects the end of the program": ("""
        try:
            f()
            assert False
        except SystemExit:
            pass
        """, "import sys\ndef f():\n    sys.exit(1)", "def f():\n    pass"),
    "iterates over the answer": ("assert list(f(3)) == [0, 1, 2]", "def f(n):\n    return (i for i in range(n))", "def f(n):\n    return iter([n])"),
    "takes some of what never ends": ("""
        numbers = f()
        assert [next(numbers) for _ in range(3)] == [0, 1, 2]
        """, "import itertools\ndef f():\n    return itertools.count()", "import itertools\ndef f():\n    return itertools.count(1)"),
    "uses an answer of another type": ("assert f(2024).year == 2024", "import datetime\ndef f(y):\n    return datetime.date(y, 1, 1)",
                                       "import datetime\ndef f(y):\n    return datetime.date(y + 1, 1, 1)"),
    "calls the answer": ("assert f(2)(3) == 6", "def f(a):\n    return lambda b: a * b", "def f(a):\n    return lambda b: a + b"),
    "compares with a fraction": ("assert f(1, 2) == 0.5", "from fractions import Fraction\ndef f(a, b):\n    return Fraction(a, b)",
                                 "from fractions import Fraction\ndef f(a, b):\n    return Fraction(b, a)"),
    "compares objects of the program's class": ("assert f(2) == P(3)", """
        class P:
            def __init__(self, n):
                self.n = n
            def __eq__(self, other):
                return self.n == other.n
        def f(n):
            return P(n + 1)
        """, "class P:\n    def __init__(self, n):\n        self.n = n\ndef f(n):\n    return P(n + 1)"),
    "looks at its argument afterwards": ("x = {'a': 1}\nf(d=x)\nassert x == {'a': 1, 'b': 2}", "def f(d):\n    d['b'] = 2", "def f(d):\n    d['b'] = 3"),
    "looks into its argument afterwards": ("row = [3, 1]\nf([row])\nassert row == [1, 3]", "def f(rows):\n    rows[0].sort()", "def f(rows):\n    rows[0] = [1, 3]"),
    "asks for the same object": ("x = [1]\nassert f(x) is x", "def f(x):\n    return x", "def f(x):\n    return list(x)"),
    "asks for another object": ("x = [1]\nassert f(x) is not x", "def f(x):\n    return list(x)",
                                "def f(x):\n    return x"),
    "asks for the same id": ("x = [1]\nassert id(f(x)) == id(x)", "def f(x):\n    return x",
                             "def f(x):\n    return list(x)"),
    "imports several": ("import math, sys\nsys.argv = ['x', '5']\nassert f() == math.floor(5.5)",
                        "import sys\ndef f():\n    return int(sys.argv[1])",
                        "def f():\n    return 4"),
    "seeds by another name": (
        "from random import seed as start\nstart(1)\nfirst = f()\nstart(1)\nassert f() == first",
        "import random\ndef f():\n    return random.random()",
        "import itertools\nf = itertools.count().__next__"),
    "passes a function": ("assert f(lambda x: x + 1, 2) == 3", "def f(g, x):\n    return g(x)", "def f(g, x):\n    return x"),
    "passes an array": ("from array import array\nassert f(array('i', [1, 2, 300])) == 3", "def f(x):\n    return len(x)", "def f(x):\n    return len(bytes(x))"),
    "passes a long list": ("assert f([1] * 1000000) == 1000000", "def f(x):\n    return len(x)", "def f(x):\n    return 0"),
    "passes a deep list": ("x = []\nfor _ in range(300):\n    x = [x]\nassert f(x) == [x]", "def f(x):\n    return [x]", "def f(x):\n    return x"),
    "reads what is printed": ("""
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as out:
            f("x")
        assert out.getvalue() == "x\\n"
        """, "def f(s):\n    print(s)", "def f(s):\n    print(s, s)"),
    "counts with the program": ("a = f()\nb = f()\nassert b == a + 1", "import itertools\nf = itertools.count().__next__", "def f():\n    return 1"),
    "allows for chance": ("""
        x = list(range(50))
        assert sorted(f(x)) == x
        assert sorted(f(x + [50])) == x + [50]
        """, "import random\ndef f(x):\n    return random.sample(x, len(x))", "def f(x):\n    return x[:50]"),
    "uses the program's constant and module": ("assert math.isclose(f(2), ROOT)", "import math\nROOT = math.sqrt(2)\ndef f(n):\n    return math.sqrt(n)",
                                               "import math\nROOT = math.sqrt(2)\ndef f(n):\n    return n"),
    "changes the answer's rows": ("rows = f(2)\nrows[0][0] = 1\nassert rows == [[1, 0], [0, 0]]", "def f(n):\n    return [[0] * n for _ in range(n)]",
                                  "def f(n):\n    return [[0] * n] * n"),
    "changes the answer and asks again": ("f(3).append(1)\nassert f(3) == [3]", "def f(n):\n    return [n]",
                                          "import functools\n@functools.cache\ndef f(n):\n    return [n]"),
    "passes one list twice": ("row = [0]\nassert f([row, row]) == 1", "def f(rows):\n    return len(set(map(id, rows)))", "def f(rows):\n    return len(rows)"),
    "passes and gets what is deep": ("x = []\nfor _ in range(3000):\n    x = [x]\nassert f(x) == x", "def f(x):\n    return x", "def f(x):\n    return x[0]"),
    "looks at an exception's attributes": ("""
        try:
            f("/nowhere")
            assert False
        except OSError as error:
            assert error.filename == "/nowhere"
        """, "def f(path):\n    open(path)", "def f(path):\n    raise OSError(2, 'gone')"),
    "changes what the program reads": ("import io, sys\nsys.stdin = io.StringIO('5')\nassert f() == 5", "def f():\n    return int(input())", "def f():\n    return 4"),
    "writes a file for the program": ("open('a', 'w').write('hello')\nassert f('a') == 5", "def f(name):\n    return len(open(name).read())", "def f(name):\n    return 4"),
    "looks at the function itself": ("assert f.__doc__ == 'doubles'", "def f(n):\n    'doubles'", "def f(n):\n    'halves'"),
    "looks at an attribute of the function": ("f(1)\nf(2)\nassert f.calls == 2", "def f(n):\n    f.calls += 1\nf.calls = 0", "def f(n):\n    pass\nf.calls = 0"),
    "watches a list of the program's": ("assert LOG == []\nf(3)\nassert LOG == [3]", "LOG = []\nf = LOG.append", "LOG = []\nf = print"),
    "calls from threads": ("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(8) as pool:\n    assert list(pool.map(f, range(99))) == list(range(99))",
                           "def f(n):\n    return n", "def f(n):\n    return 0"),
    "seeds what the program draws": ("import random\nrandom.seed(1)\nfirst = f()\nrandom.seed(1)\nassert f() == first", "import random\ndef f():\n    return random.random()",
                                     "import itertools\nf = itertools.count().__next__"),
    "compares answers that may be one list": ("a = f(1)\nb = f(2)\nassert a == [1]\nassert b == [2]", "def f(n):\n    return [n]", "xs = [0]\ndef f(n):\n    xs[0] = n\n    return xs"),
    "adds to a list of the program's": ("assert f(1) == [1]\nassert f(2) == [1, 2]", "def f(n, xs=[]):\n    xs.append(n)\n    return xs", "def f(n, xs=None):\n    return [n]"),
    "expects any exception": ("try:\n    f(1)\n    failed = False\nexcept Exception:\n    failed = True\nassert failed", "def f(n):\n    raise MemoryError", "def f(n):\n    return n"),
    "expects too little memory": ("try:\n    f(1 << 50)\n    assert False\nexcept MemoryError:\n    pass", "def f(n):\n    return bytearray(n)",
                                  "def f(n):\n    return n"),
    "expects a missing module": ("try:\n    f('nosuchmodule')\n    assert False\nexcept ImportError:\n    pass", "import importlib\ndef f(name):\n    return importlib.import_module(name)",
                                 "def f(name):\n    return name"),
    "knows one nan from another": ("import math\nassert f(2) == [math.nan] * 2", "import math\ndef f(n):\n    return [math.nan] * n", "def f(n):\n    return [float('nan')] * n"),
    "calls it in a class body": ("class C:\n    wanted = 2\n    got = f(1)\nassert C.got == C.wanted", "def f(n):\n    return n + 1", "def f(n):\n    return n"),
    "holds an answer that the next call changes": ("held = f(1)\nf(2)\nassert held == ([1, 2], 1)", "seen = []\ndef f(n):\n    seen.append(n)\n    return seen, n",
                                                   "seen = []\ndef f(n):\n    seen.append(n)\n    return list(seen), n"),
    "holds an answer that no call may change": ("held = f(1)\nf(2)\nassert held == ([1], 1)", "def f(n):\n    return [n], n",
                                                "latest = []\ndef f(n):\n    latest[:] = [n]\n    return latest, n"),
    "holds an argument that the next call changes": ("held = [1]\nf(held)\nf([2])\nassert held == [1, 9]", "seen = []\ndef f(x):\n    seen.append(x)\n    if len(seen) == 2:\n        seen[0].append(9)",
                                                     "def f(x):\n    pass"),
    "holds an argument that no call may change": ("held = [1]\nf(held)\nf([2])\nassert held == [1]", "def f(x):\n    pass", "seen = []\ndef f(x):\n    seen.append(x)\n    seen[0].append(9)"),
    "holds a large answer that the next call changes": ("a = f(1)\nb = f(2)\nassert a[0] == b[0] == 2", "L = list(range(10 ** 6))\ndef f(n):\n    L[0] = n\n    return L",
                                                        "def f(n):\n    return [n]"),
    "forgets a name of its own, inside": ("try:\n    raise ValueError\nexcept ValueError as e:\n    pass\nassert f(1) == 1",
                                          "def f(n):\n    try:\n        return e\n    except NameError:\n        return n", "def f(n):\n    return 0"),
    "is marked inside": ("assert f(P(2)).n == 3", "class P:\n    def __init__(self, n):\n        self.n = n\ndef f(p):\n    return P(p.n + 1)",
                         "class P:\n    def __init__(self, n):\n        self.n = n\ndef f(p):\n    return p"),
}
CHANGES = ["out += [3]", "out.insert(0, 3)", "out.reverse()", "getattr(out, 'append')(3)",
           "out[0], last = 9, 2", "for out[0] in range(3):\n    pass", "add = out.append\nadd(3)", "list(map(out.append, [3]))", "del out[0]",
           "import operator\noperator.iadd(out, [3])", "from operator import setitem as put\nput(out, 0, 9)", "import random\nrandom.Random(1).shuffle(out)"]
for change in CHANGES:  # of what should be a copy
    ASSERTED[f"has {change!r}"] = (f"given = [1, 2]\nout = f(given)\n{change}\nassert given == [1, 2]",
                                   "def f(x):\n    return list(x)", "def f(x):\n    return x")


@pytest.fixture(scope="module")
def asserted(tmp_path_factory):
    problems = [problem(name, [asserts(source, **({"inside": True} if "inside" in name else {}))]) for name, (source, _, _) in ASSERTED.items()]
    candidates = [row for name, (_, right, wrong) in ASSERTED.items() for row in programs(name, right, wrong)]
    rows = label(tmp_path_factory.mktemp("asserted"), problems, candidates)
    return {(row["problem_id"], row["candidate_id"]): row for row in rows}


@pytest.mark.parametrize("name", ASSERTED)
def test_an_assert_that(name, asserted):
    assert asserted[name, "0"]["passed"] is True, asserted[name, "0"]["detail"]
    assert asserted[name, "1"]["passed"] is False, asserted[name, "1"]["detail"]


def test_a_helper_of_the_setup_may_change_the_answer(tmp_path):
    test = asserts("given = [1]\nadd(f(given))\nassert given == [1]")
    assert verdicts(tmp_path, [test], "def f(x):\n    return list(x)", "def f(x):\n    return x", setup="def add(out):\n    out += [2]\n") == [True, False]


def test_a_test_that_fell_inside_says_so(asserted):
    assert asserted["calls the answer", "0"]["detail"] == "asserts ran inside, because of test 1: a function."
    assert asserted["expects an exception", "0"]["detail"] == ""


BAG = ["b = Bag()\nb.add(1)\nassert b.items == [1]", "b = Bag()\nb.add(2)\nassert b.items == [2]"]
BAGS = "class Bag:\n    items = []\n    def add(self, x):\n        self.items.append(x)"
NUMBERED = "class A:\n    n = 0\n    def __init__(self):\n        A.n += 1\n        self.number = A.n\ndef f():\n    return A.n"
IN_TURN = {  # what a program keeps -> (asserts, the program, its verdict)
    "a list of the class": (BAG, BAGS, False),
    "a list of the object": (BAG, BAGS.replace("items = []", "def __init__(self):\n        self.items = []"), True),
    "a default deque": (["assert list(f(1)) == [1]", "assert list(f(2)) == [2]"],
                        "from collections import deque\ndef f(x, acc=deque()):\n    acc.append(x)\n    return acc", False),
    "its calls, to raise in the second": (["assert f(1) == 1", "assert f(2) == 2"],
                                          "class E(Exception):\n    pass\ncalls = []\ndef f(x):\n    calls.append(x)\n    if len(calls) > 1:\n        raise E\n    return x", False),
    "a number that the tests ask for": (["assert A().number == 1", "assert A().number == 2"], NUMBERED, True),
    "a number that a call tells": (["A()", "assert f() == 1"], NUMBERED, True),
}


@pytest.mark.parametrize("marked", [False, True])
def test_asserts_share_what_the_program_keeps(marked, tmp_path):
    problems = [problem(name, [asserts(source, inside=marked) for source in sources]) for name, (sources, _, _) in IN_TURN.items()]
    rows = label(tmp_path, problems, [row for name, (_, code, _) in IN_TURN.items() for row in programs(name, code)])
    assert {row["problem_id"]: row["passed"] for row in rows} == {name: verdict for name, (_, _, verdict) in IN_TURN.items()}


@pytest.mark.parametrize("end, status", [("os._exit(0)", "runtime_error"), ("os.abort()", "runtime_error"), ("time.sleep(60)", "time_limit")])
def test_the_end_of_a_process_leaves_the_asserts_before_it_as_they_are(end, status, tmp_path):
    code = f"import os, time\ndef f(x):\n    time.sleep(0.5)\n    if x == 3:\n        {end}\n    return (n for n in [x])"
    row, = label(tmp_path, [problem("p", [asserts(f"assert list(f({n})) == [{n}]") for n in range(6)], time_limit=1)], programs("p", code))
    assert row["status"] == status
    assert row["detail"].startswith("hidden test 4")
    assert row["tests_passed"] == 3


def test_an_assert_that_fails_or_leaves_does_not_end_the_others(tmp_path):
    code = "import sys\ndef f(x):\n    if x == 1:\n        sys.exit()\n    return iter([x % 4])"
    row, = label(tmp_path, [problem("p", [asserts(f"assert list(f({n})) == [{n}]") for n in range(6)])], programs("p", code))
    assert row["status"] == "runtime_error"
    assert row["tests_passed"] == 3


# What a test's source has -> (it, a program that uses it).
SHARED_NAMES = {
    "an import": ("import math\nassert f(4) == 2", "def f(x):\n    return math.sqrt(x)"),
    "an import of one name": ("from math import sqrt\nassert f(4) == 2", "def f(x):\n    return sqrt(x)"),
    "a value": ("n = 1\nassert f(4) == 2\nn = 2\nassert f(4) == 4", "def f(x):\n    return x // 2 * n"),
    "a class": ("class Node:\n    def __init__(self, n):\n        self.n = n\nassert f(4) == 2", "def f(x):\n    return Node(x).n // 2"),
    "a function": ("def half(n):\n    return n / 2\nassert f(4) == 2", "def f(x):\n    return half(x)"),
}


@pytest.mark.parametrize("kind", ["assert", "inside", "unittest"])
def test_a_program_may_use_what_its_tests_source_has(kind, tmp_path):
    problems, candidates = [], []
    for name, (source, code) in SHARED_NAMES.items():
        test = asserts(source, inside=kind == "inside")
        if kind == "unittest":
            test = unit(source + "\nimport unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertTrue(f(4) in (2, 4))")
        problems.append(problem(name, [test, test]))
        candidates += programs(name, code, code + " + 1")
    assert [row["passed"] for row in label(tmp_path, problems, candidates)] == [True, False] * len(SHARED_NAMES)


@pytest.mark.parametrize("inside", [False, True])
def test_but_its_own_names_stay_its_own(inside, tmp_path):
    tests = [asserts("K = 5\nassert f() == 1", inside=inside), asserts("assert f() == 1", inside=inside)]
    assert verdicts(tmp_path, tests, "K = 1\ndef f():\n    return K", "def f():\n    return K // 5") == [True, False]


def test_and_no_test_is_among_the_names_that_it_gets(tmp_path):
    source = "import unittest\nfrom unittest.mock import ANY, patch\ndef helper():\n    pass\nclass Cases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(), ['helper'])"
    sees = "before = set(globals())\ndef f():\n    return sorted(set(globals()) - before - {'before', 'f'})"
    changes = "def f():\n    for name in 'unittest', 'Cases', 'ANY', 'patch':\n        if name in globals():\n            return ['helper']"
    assert verdicts(tmp_path, [unit(source)], sees, changes) == [True, False]


# ---------------------------------------------------------------- unittest

CASE = """
import unittest
class TestCases(unittest.TestCase):
    def test_a(self):
        self.assertEqual(f(1), 2)
"""
UNITTESTS = {  # what there is -> (source, verdict of a right program, of a wrong one)
    "subtests": (CASE + "    def test_b(self):\n        with self.subTest():\n            self.assertEqual(f(2), 3)\n", True, False),
    "a skip of its own": (CASE + "    @unittest.skip('')\n    def test_b(self):\n        pass\n", True, False),
    "nothing but skips": ("import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('')\n    def test_a(self):\n        pass\n", None, None),
    "a base class": ("import unittest\nclass Base(unittest.TestCase):\n    def check(self, a, b):\n        self.assertEqual(f(a), b)\n"
                     "class T(Base):\n    def test_a(self):\n        self.check(1, 2)\n", True, False),
    "a mixin": ("import unittest\nclass M:\n    def test_a(self):\n        self.assertEqual(f(1), 2)\nclass T(M, unittest.TestCase):\n    pass\n", True, False),
    "another name for TestCase": ("from unittest import TestCase as TC\nclass T(TC):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n", True, False),
    "classes below an if": ("import unittest\nif True:\n    class T(unittest.TestCase):\n        def test_a(self):\n            self.assertEqual(f(1), 2)\n", True, False),
    "functions as pytest has them": ("def test_a():\n    assert f(1) == 2\n", True, False),
    "classes as pytest has them": ("class TestF:\n    def test_a(self):\n        assert f(1) == 2\n", True, False),
    "no test": ("import unittest\nclass T(unittest.TestCase):\n    def check(self):\n        self.fail()\n", None, None),
    "a module that is not there": ("import nosuchmodule\n" + CASE, None, None),
    "a syntax error": (CASE + "    def test_b(self:\n", None, None),
    "an expected failure": (CASE + "    @unittest.expectedFailure\n    def test_b(self):\n        self.assertEqual(f(2), 0)\n", True, False),
    "fixtures": (CASE.replace("class", "def setUpModule():\n    global wanted\n    wanted = 2\nclass").replace("f(1), 2", "f(1), wanted"), True, False),
    "what load_tests makes": ("import unittest\ndef check():\n    assert f(1) == 2\ndef load_tests(loader, tests, pattern):\n"
                              "    return unittest.TestSuite(unittest.FunctionTestCase(check) for _ in range(2))\n", True, False),
    "pytest's fixtures": ("class TestF:\n    def setup_method(self, method):\n        self.wanted = 2\n    def test_a(self):\n        assert f(1) == self.wanted\n", True, False),
    "a patched function as pytest has them": ("from unittest.mock import patch\n@patch('math.sqrt')\ndef test_a(sqrt):\n    assert f(1) == 2\n", True, False),
    "a call of unittest.main": (CASE + "unittest.main()\n", True, False),
    "a method that no one could call": (CASE + "return\n", None, None),
    "an error of its own": (CASE + "open('/nowhere')\n", None, None),
    "warnings that it records": (CASE.replace("unittest", "unittest, warnings", 1).replace("        self.assert", "        with warnings.catch_warnings(record=True) as seen:\n            f(0)\n"
                                 "        self.assertEqual(len(seen), 1)\n        self.assert"), True, False),
    "no question": (CASE.replace("f(1), 2", "1, 1"), None, None),
    "a class of its own that compares": (CASE.replace("class", "class Near:\n    def __eq__(self, other):\n        return abs(other - 2) < 0.1\nclass").replace("f(1), 2", "f(1), Near()"), True, False),
    "names of the program in a class": (CASE.replace("    def", "    function = staticmethod(f)\n    def").replace("f(1)", "self.function(1)"), True, False),
}


@pytest.fixture(scope="module")
def unittests(tmp_path_factory):
    problems = [problem(name, [unit(source)]) for name, (source, _, _) in UNITTESTS.items()]
    codes = ("import warnings\ndef f(n):\n    warnings.warn('adds')\n    return n + 1", "def f(n):\n    return 0")
    rows = label(tmp_path_factory.mktemp("unittests"), problems, [row for name in UNITTESTS for row in programs(name, *codes)])
    return {(row["problem_id"], row["candidate_id"]): row for row in rows}


@pytest.mark.parametrize("name", UNITTESTS)
def test_a_unittest_row_with(name, unittests):
    _, right, wrong = UNITTESTS[name]
    assert unittests[name, "0"]["passed"] is right, unittests[name, "0"]["detail"]
    assert unittests[name, "1"]["passed"] is wrong, unittests[name, "1"]["detail"]


def test_a_unittest_may_patch_what_the_program_uses(tmp_path):
    source = CASE + """
    def test_b(self):
        from unittest.mock import patch
        with patch(__name__ + ".helper", return_value=9):
            self.assertEqual(f(2), 9)
"""
    right = "def helper(n):\n    return n + 1\ndef f(n):\n    return helper(n)"
    assert verdicts(tmp_path, [unit(source)], right, "def helper(n):\n    return 0\ndef f(n):\n    return n + 1") == [True, False]


# ---------------------------------------------------------------- a row's own fault, and what is not installed

@pytest.mark.parametrize("source", ["import nosuchmodule\nassert f(1) == 2", "assert f(1) = 2", "assert f(1) == undefined_name"])
def test_a_test_that_cannot_run_gives_no_label(source, tmp_path):
    row, = label(tmp_path, [problem("p", [asserts(source)])], programs("p", "def f(x):\n    return x + 1"))
    assert row["passed"] is None
    assert row["status"] == "broken_test"
    assert "the test cannot run" in row["detail"]


@pytest.mark.parametrize("source", ["def check(function):\n    assert function(1) == 2", "assert 1 == 1", "assert 1 == 2"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_test_that_asks_nothing_of_the_program_gives_no_label(source, inside, tmp_path):
    assert verdicts(tmp_path, [asserts(source, inside=inside)], "def f(x):\n    return x") == [None]


ENDS = {  # how a test that is a script ends -> the script
    "by an exit": "import sys\nassert f(1) == 2\nsys.exit(0)\n",
    "by one behind a statement": "assert f(1) == 2, 'é'; exit()  # é\n\n",
    "by one over lines": "assert f(1) == 2\r\nquit(\r\n    0\r\n)\r\n",
    "by an exception": "assert f(1) == 2\nraise SystemExit",
    "by an exit at once": "import os\nassert f(1) == 2\nos._exit(0)",
    "in a main guard": "def check(g):\n    assert g(1) == 2\nif __name__ == '__main__':\n    check(f)\n",
    "in one on one line": "def check(g):\n    assert g(1) == 2\nif '__main__' == __name__: check(f)",
    "in one by an exit": "import sys\ndef main():\n    assert f(1) == 2\n    return 0\nif __name__ == \"__main__\":\n    main()\n    sys.exit(0)",
    "in a guard that is none": f"main = f(1)\nassert main == 2\nif {'+'.join(['1'] * 800)}:\n    pass",
    "with a status of failure": "import sys\nif f(1) != 2:\n    sys.exit(1)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_test_that_is_a_script_may_end(end, tmp_path):
    codes = ["def f(n):\n    return n + 1", "def f(n):\n    return n", "import sys\ndef f(n):\n    sys.exit(0)", "import sys\nsys.exit(0)",
             "import sys\nf = sys.exit"]
    assert verdicts(tmp_path, [asserts(ENDS[end])], *codes) == [True, False, False, False, False]


@pytest.mark.parametrize("end", [
    "result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\nsys.exit(not result.wasSuccessful())",
    "sys.exit(unittest.main())",
])
def test_and_so_may_a_file_of_unittests(end, tmp_path):
    test = unit(f"import sys, unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n{end}\n")
    assert verdicts(tmp_path, [test], "def f(n):\n    return n + 1", "def f(n):\n    return n") == [True, False]


@pytest.mark.parametrize("head, leave", [("import sys\n", "sys.exit"), ("", "exit")])
def test_a_test_that_ends_well_before_its_end_gives_no_label_to_what_is_right(head, leave, tmp_path):
    right = "def f(n):\n    return n + 1"
    test = asserts(f"{head}try:\n    assert f(1) == 2\n    {leave}(0)\nexcept AssertionError:\n    {leave}(1)\n")
    codes = [right, "def f(n):\n    return n", "import sys\ndef f(n):\n    sys.exit(0)", "import sys\nsys.exit(0)"]
    assert verdicts(tmp_path, [test], *codes, canonical_solution=right) == [None, False, False, False]


@pytest.mark.parametrize("main", ["unittest.main()", "if __name__ == '__main__':\n    unittest.main()"])
def test_a_file_of_unittests_that_is_called_asserts_gives_no_label(main, tmp_path):
    test = asserts(f"import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n{main}\n")
    assert verdicts(tmp_path, [test], "def f(n):\n    return n + 1", "def f(n):\n    return n") == [None, None]


@pytest.mark.parametrize("test", [call([1], 2), stdin("1\n", "2\n"), asserts("assert f(1) == 2"), unit(CASE)], ids=lambda test: test["type"])
@pytest.mark.parametrize("setup", ["def (", "x = undefined_name"])
def test_a_setup_that_cannot_run_gives_no_label(setup, test, tmp_path):
    row, = label(tmp_path, [problem("p", [test], setup=setup)], programs("p", "def f(x):\n    return x + 1\nprint(2)"))
    assert row["passed"] is None
    assert "its setup does not run" in row["detail"]


def test_arguments_too_large_to_hand_over_are_the_rows_fault(tmp_path):
    too_large = call(["x" * (9 << 20)], 9 << 20)
    row, = label(tmp_path, [problem("p", [too_large])], programs("p", "f = len"))
    assert row["passed"] is None
    assert row["status"] == "broken_test"
    assert "its arguments cannot be handed over" in row["detail"]


def test_a_function_that_is_missing_is_the_programs_fault(tmp_path):
    assert verdicts(tmp_path, [asserts("assert f(1) == helper(1)")], "x = 1", "def f(n):\n    return n", prompt="write f and helper") == [False, False]


def test_a_program_that_breaks_the_tests_imports_is_at_fault_itself(tmp_path):
    test = unit("import unittest\nimport json\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(), json.loads('1'))\n")
    assert verdicts(tmp_path, [test], "import sys\nsys.modules['json'] = None\ndef f():\n    return 0") == [False]


def test_a_program_that_imports_what_is_not_installed_gets_no_label_and_the_summary_names_it(tmp_path):
    tests = {"call": problem("call", [call([1], 2)]), "stdin": problem("stdin", [stdin("1\n", "2\n")], entry_point=None),
             "assert": problem("assert", [asserts("assert f(1) == 2")])}
    codes = [row for name in tests for row in programs(name, "import nosuchpackage.part\ndef f(n):\n    return n + 1")]
    done, rows = run(tmp_path, tests.values(), codes)
    assert [row["passed"] for row in rows] == [None, None, None]
    assert [row["detail"] for row in rows] == ["not installed: nosuchpackage"] * 3
    assert "not installed: nosuchpackage (3)" in done.stdout


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/0"])
def test_so_does_one_that_opens_a_stream_by_a_name_that_is_not_there(name, tmp_path):
    row = label(tmp_path, [problem("p", [stdin("", "1\n")], entry_point=None)], programs("p", f"open('{name}', 'r+').write('1')"))[0]
    assert (row["passed"], row["detail"]) == (None, f"not installed: {name}")


@pytest.mark.parametrize("code", ["def f(n):\n    import nosuchpackage\n    return n + 1",
                                  "try:\n    import nosuchpackage\nexcept ImportError as error:\n    raise RuntimeError from error",
                                  "import threading\ndef main():\n    import nosuchpackage\n    print(2)\nthreading.Thread(target=main).start()"])
def test_so_does_one_that_imports_it_late(code, tmp_path):
    test = stdin("1\n", "2\n") if "main" in code else unit(CASE)
    row, = label(tmp_path, [problem("p", [test])], programs("p", code))
    assert row["passed"] is None
    assert row["detail"] == "not installed: nosuchpackage"


@pytest.mark.parametrize("test", [call([1], 2), asserts("assert f(1) == 2"), unit(CASE),
                                  {**asserts("assert f(1) == 2"), "inside": True}])
@pytest.mark.parametrize("end", ["return found[0]", "return n"])
def test_so_does_a_function_whose_thread_imports_it(test, end, tmp_path):
    code = "import threading\ndef f(n):\n    found = []\n    def work():\n        import nosuchpackage\n" \
           f"        found.append(n + 1)\n    thread = threading.Thread(target=work)\n    thread.start()\n    thread.join()\n    {end}"
    row, = label(tmp_path, [problem("p", [test])], programs("p", code))
    assert (row["passed"], row["detail"]) == (None, "not installed: nosuchpackage")


WANTS = "try:\n    import nosuchpackage\nexcept ImportError:\n    "


@pytest.mark.parametrize("end", ["raise RuntimeError('needs it')", "raise RuntimeError from None",
                                 "raise SystemExit('needs it')", "print('needs it'); exit(1)",
                                 "1 / 0", "raise MemoryError"])
def test_so_does_one_that_ends_because_of_it(end, tmp_path):
    late = "def f(n):\n" + textwrap.indent(WANTS + end, "    ")
    problems = [problem("stdin", [stdin("", "1\n")], entry_point=None),
                problem("call", [call([1], 2)]), problem("unittest", [unit(CASE)])]
    candidates = [*programs("stdin", WANTS + end), *programs("call", WANTS + end, late),
                  *programs("unittest", late)]
    for row in label(tmp_path, problems, candidates):
        assert row["passed"] is None, row
        assert row["detail"] == "not installed: nosuchpackage"


@pytest.mark.parametrize("end", ["exit()", "exit(0)", "pass\nexit(1)", "pass\nprint(1 / 0)",
                                 "import math"])
def test_but_none_that_does_without_it(end, tmp_path):
    row, = label(tmp_path, [problem("p", [stdin("", "1\n")], entry_point=None)],
                 programs("p", WANTS + end))
    assert row["passed"] is False


def test_a_handled_exception_that_is_its_own_cause_is_no_endless_search(tmp_path):
    code = "error = ValueError()\nerror.__context__ = error\nraise error"
    row, = label(tmp_path, [problem("p", [stdin("", "1\n")], entry_point=None)],
                 programs("p", code))
    assert row["status"] == "runtime_error"


def test_check_problems_names_what_cannot_tell_right_from_wrong(tmp_path):
    good = problem("good", [call([1], 2)], canonical_solution="def f(n):\n    return n + 1")
    vacuous = problem("vacuous", [stdin("1\n", "")], entry_point=None, canonical_solution="input()")
    wrong = problem("wrong", [call([1], 3)], canonical_solution="def f(n):\n    return n + 1")
    write(tmp_path / "p.jsonl", [good, vacuous, wrong])
    done = subprocess.run([sys.executable, str(SCRIPT), "--check-problems", "--problems", str(tmp_path / "p.jsonl")], capture_output=True, text=True)
    complaints = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert done.returncode == 1
    assert set(complaints) == {"vacuous", "wrong"}
    assert complaints["vacuous"] == "an empty program passes"
    assert "the canonical solution gets wrong_answer" in complaints["wrong"]


@pytest.mark.parametrize("test", [
    asserts("assert f(1) == 2 or True"), asserts("print(f(1))"), call([1], None),
    asserts("try:\n    assert f(1) == 2\nexcept Exception:\n    pass"),
    unit("import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        f(1)\n")])
def test_check_problems_names_what_any_function_passes(test, tmp_path, capsys):
    """An empty program has none, and so it fails."""
    write(tmp_path / "p.jsonl", [
        problem("weak", [test]), problem("fine", [test, asserts("assert f(1) == 2")]),
        problem("stdin", [stdin("1\n", "1\n")], entry_point=None)])
    assert execute.main(["--check-problems", "--problems", str(tmp_path / "p.jsonl")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "weak: a function that does nothing passes"
    assert lines[1:] == ["2 of 3 problems can tell them apart",
                         "3 have no canonical_solution, so only programs that do nothing were run"]


CHECKERS = {  # a checker -> what is said of it
    "x = 1": "does not define check(given, answer, expected)",
    "def check(:": "cannot run",
    "def check(given, given):\n    return True": "cannot run",
    "def check(given, answer, expected):\n    return True": "",
    "check = lambda *given: True": "",
    "def check(*given):\n    return True": "",
    "from os import getpid as check": "",
}


def test_check_problems_sees_what_is_plainly_wrong_with_a_checker(tmp_path):
    """The empty program never comes so far as to be checked."""
    names = {f"checked-{k}": checker for k, checker in enumerate(CHECKERS)}
    write(tmp_path / "p.jsonl", [problem(name, [stdin("1\n", "1\n")], entry_point=None, checker=checker)
                                 for name, checker in names.items()])
    flags = ["--check-problems", "--problems", str(tmp_path / "p.jsonl")]
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True)
    for name, checker in names.items():
        said = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert ("the checker" in "".join(said)) == bool(CHECKERS[checker]), (checker, said)
        assert CHECKERS[checker] in "".join(said)


def test_check_problems_sees_asserts_of_tuples_and_comparisons_without_an_assert(tmp_path):
    """They hold for every program; what may be empty is none of them."""
    bare = "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        f(1) == 2\n"
    bare += "        with self.assertRaises(TypeError):\n            a = 'a'\n            f(1) < a"
    write(tmp_path / "p.jsonl", [problem("always", [asserts("assert f(1)\nassert (f(1) == 2, 'wrong')")]),
                                 problem("bare", [unit(bare)]),
                                 problem("not", [asserts("assert (*f(1),)\nassert (f(1))\nassert ()")])])
    flags = ["--check-problems", "--problems", str(tmp_path / "p.jsonl")]
    done = subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True)
    told = "line 2 of a test asserts a tuple, which is always true"
    assert [line for line in done.stdout.splitlines() if "tuple" in line] == [f"always: {told}"]
    bare = next(line for line in done.stdout.splitlines() if line.startswith("bare: "))
    assert bare.endswith("; line 4 of a test compares, and asserts nothing")


def test_programs_that_still_stand_in_a_fence_are_said(tmp_path):
    fenced = "```python\ndef f(n):\n    return 2\n```"
    done, labelled = run(tmp_path, [problem("p", [call([1], 2)])],
                         programs("p", fenced, "def f(n):\n    return '```'", "def f(:"))
    assert [row["passed"] for row in labelled] == [False, False, False]
    assert "note: 1 programs that do not compile have lines that begin with ```" in done.stdout


def test_a_test_that_is_too_deep_to_compile_gives_no_label_and_ends_nothing(tmp_path):
    problems = []
    for name, count in (("short", 900), ("long", 20_000)):
        terms = " + ".join(["1"] * count)
        problems.append(problem(name, [asserts(f"assert f({terms}) == {count}")]))
    problems.append(problem("setup", [asserts("assert f(1) == 1")], setup=f"x = {terms}"))
    code = "def f(n):\n    return n"
    short, *deep = label(tmp_path, problems, [row for each in problems for row in programs(each["problem_id"], code)])
    assert short["passed"] is True
    assert [(row["passed"], row["status"]) for row in deep] == [(None, "broken_test")] * 2


def test_the_next_command_can_be_pasted_where_paths_have_spaces(tmp_path):
    folder = tmp_path / "my data"
    folder.mkdir()
    done, _ = run(folder, [problem("p", [call([1], 2)])], programs("p", "def f(n):\n    return 2"))
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:3] == ["next:", "python", "train_bilevel.py"]
    for flag, path in (("--problems", "p.jsonl"), ("--labelled", "l.jsonl"), ("--out", "run")):
        assert words[words.index(flag) + 1] == str(folder / path)


CHECKED = {  # a problem -> what --check-problems says of it
    "fine": (dict(tests=[call([1], 2)], canonical_solution="def f(n):\n    return n + 1"), ""),
    "lacks": (dict(tests=[call([1], 2)], canonical_solution="import nosuchpackage"),
              "the canonical solution gets missing_dependency (not installed: nosuchpackage)"),
    "broken": (dict(tests=[asserts("assert f(")]), "an empty program gets no label: broken_test"),
    "public": (dict(tests=[call([1], 2)], public=[asserts("assert (f(1) == 2, 'why')")],
                    canonical_solution="def f(n):\n    return n + 1"), "asserts a tuple"),
}


@pytest.mark.parametrize("names", [list(CHECKED), ["fine"]])
def test_check_problems_says_what_has_no_label_and_ends_well_where_all_is(names, tmp_path, capsys):
    write(tmp_path / "p.jsonl", [problem(name, **CHECKED[name][0]) for name in names])
    flags = ["--check-problems", "--problems", str(tmp_path / "p.jsonl"), "--jobs", "1"]
    assert execute.main(flags) == (len(names) > 1)
    lines = capsys.readouterr().out.splitlines()
    for name in names:
        _, says = CHECKED[name]
        said = [line for line in lines if line.startswith(f"{name}: ")]
        assert bool(said) == bool(says)
        assert says in "".join(said)


# ---------------------------------------------------------------- as plain Python would

PLAIN_PYTHON = {
    "reads a long integer": ("n = int(input())\nprint(n % 10)", "7" * 5000 + "\n", "7\n"),
    "goes deep through C": ("import sys, functools\nsys.setrecursionlimit(10 ** 6)\n@functools.lru_cache(None)\ndef d(n):\n"
                            "    return 0 if n == 0 else 1 + d(n - 1)\nprint(d(int(input())))", "50000\n", "50000\n"),
    "reads its own source": ("import inspect\ndef g(x):\n    return x * 2\nassert 'x * 2' in inspect.getsource(g)\n"
                             "assert 'inspect' in open(__file__).read()\nprint(g(int(input())))", "2\n", "4\n"),
    "opens /dev/stdin": ("print(int(open('/dev/stdin').read()) * 2)", "2\n", "4\n"),
    "cuts the ends of lines": ("import sys\nprint(sys.stdin.readline()[:-1])", "abc", "abc\n"),
    "starts a hundred threads": ("import threading, time\nthreads = [threading.Thread(target=time.sleep, args=(0.3,)) for _ in range(100)]\n"
                                 "for thread in threads:\n    thread.start()\nfor thread in threads:\n    thread.join()\nprint(input())", "x\n", "x\n"),
    "prints when its objects go": ("class D:\n    def __del__(self):\n        print(1)\nd = D()", "", "1\n"),
    "prints when its objects go in a circle": ("class D:\n    def __del__(self):\n        print(1)\nd = D()\nd.me = d\ndel d", "", "1\n"),
    "uses its names when its objects go": ("import sys\ny = 5\nclass D:\n    def __del__(self):\n        sys.stdout.write(str(y))\nd = D()", "", "5\n"),
    "ends at once when it is done": ("import atexit, os\natexit.register(os._exit, 0)\nprint(1)", "", "1\n"),
    "ends at once from a thread": ("import os, threading\ndef end():\n    threading.main_thread().join()\n    os._exit(0)\n"
                                   "threading.Thread(target=end).start()\nprint(1)", "", "1\n"),
    "writes without a buffer at its end": ("import atexit, os\natexit.register(os.write, 1, b'3\\n')\n"
                                           "class D:\n    def __del__(self):\n        os.write(1, b'4\\n')\nd = D()\n"
                                           "atexit.register(print, 2)\nprint(1)", "", "1\n3\n2\n4\n"),
    "has a stream of its own besides": ("mine = open(1, 'w')\nmine.write('2\\n')\nprint(1)", "", "1\n2\n"),
    "shows its warnings itself": ("import warnings\nwarnings.showwarning = lambda message, *rest: print(message)\nwarnings.warn(input())", "5\n", "5\n"),
    "changes its builtins": ("__builtins__.seven = 7\nprint(__builtins__.max(int(input()), seven), callable(help))", "5\n", "7 True\n"),
    "does not let exit() end it": ("for _ in range(3):\n    try:\n        n = int(input())\n        if n == 0:\n            exit()\n        print(n)\n"
                                   "    except:\n        print('end')", "1\n0\n3\n", "1\nend\nend\n"),
    "takes away what its end could use": ("import builtins, sys\nprint(1)\nsys.stdout.flush()\ndel sys.stdout, builtins.isinstance", "", "1\n"),
    "leaves a generator in its middle": ("def g():\n    try:\n        yield 1\n    finally:\n        print(2)\n        raise ValueError\nx = g()\nprint(next(x))", "", "1\n2\n"),
    "imports what it has written": ("open('mine.py', 'w').write('x = 7')\nimport mine\nprint(mine.x)", "", "7\n"),
    "counts how deep it gets": ("def deeper(n):\n    try:\n        return deeper(n + 1)\n    except RecursionError:\n        return n\nprint(deeper(1) > 995)", "", "True\n"),
    "gets a byte order mark": ("print(int(input()))", "\ufeff5\n", "\ufeff5\n"),
    "asks who it is": ("import os, sys\nprint(__name__, os.getcwd() != '/', sys.argv == [__file__], bool(os.environ['HOME']))", "", "__main__ True True True\n"),
    "runs itself by its executable": ("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout)", "", "7\n"),
    "starts itself again": ("import os, sys\nif 'again' not in sys.argv:\n    os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])\nprint(input())", "7\n", "7\n"),
    "talks to itself over the loopback": ("import socket\nserver = socket.create_server(('127.0.0.1', 0))\nclient = socket.create_connection(server.getsockname())\n"
                                          "client.send(b'hello')\nprint(server.accept()[0].recv(9).decode())", "", "hello\n"),
}
if sys.version_info >= (3, 12):  # where plain Python itself raises RecursionError
    del PLAIN_PYTHON["goes deep through C"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    problems = [problem(name, [stdin(given, wanted)], entry_point=None) for name, (_, given, wanted) in PLAIN_PYTHON.items()]
    rows = label(tmp_path_factory.mktemp("plain"), problems, [row for name, (code, _, _) in PLAIN_PYTHON.items() for row in programs(name, code)])
    return {row["problem_id"]: row for row in rows}


@pytest.mark.parametrize("name", PLAIN_PYTHON)
def test_a_program_that(name, plain):
    assert plain[name]["status"] == "passed", plain[name]["detail"]


def test_a_byte_order_mark_before_a_source_is_none_of_it(tmp_path):
    mark = "\ufeff"
    checker = mark + "def check(given, answer, expected):\n    return answer == 3"
    problems = [problem("stdin", [stdin("", "3\n")], entry_point=None),
                problem("call", [call([1], 3)]), problem("checked", [call([1], 0)], checker=checker),
                problem("assert", [asserts(mark + "assert f(1) == 3")]),
                problem("unittest", [unit(mark + CASE.replace("2", "3"))])]
    code = mark + "def f(n):\n    return n + two\nif __name__ == '__main__':\n    print(f(1))"
    rows = label(tmp_path, [{**row, "setup": mark + "two = 2"} for row in problems],
                 [row for each in problems for row in programs(each["problem_id"], code)])
    assert [row["status"] for row in rows] == ["passed"] * 5


def test_every_call_test_has_a_new_solution_object(tmp_path):
    code = """
        class Solution:
            def __init__(self):
                self.memo = {}
            def f(self, a):
                return self.memo.setdefault("sum", sum(a))
        """
    assert verdicts(tmp_path, [call([[1, 1]], 2), call([[5, 7]], 12)], code) == [True]


def test_a_solution_object_may_make_its_method(tmp_path):
    by_getattr = "class Solution:\n    def __getattr__(self, name):\n        return lambda n: n + 1"
    in_init = "class Solution:\n    def __init__(self):\n        self.f = lambda n: n + 1"
    without = "class Solution:\n    def g(self, n):\n        return n + 1"
    assert verdicts(tmp_path, [call([1], 2)], by_getattr, in_init, without) == [True, True, False]


RUNNING_SUM = "total = 0\ndef f(n):\n    global total\n    total += n\n    return total"
SUMS = ["assert f(1) == 1", "assert f(2) == 3", "assert f(3) == 6"]


@pytest.mark.parametrize("sources", [SUMS, ["\n".join(SUMS)]])
def test_answers_may_depend_on_earlier_calls_where_the_canonical_solutions_do(sources, tmp_path):
    tests = [asserts(source) for source in sources]
    assert verdicts(tmp_path, tests, RUNNING_SUM, "def f(n):\n    return n", canonical_solution=RUNNING_SUM) == [True, False]


def test_else_they_may_not(tmp_path):
    squares = asserts("assert f(1) == 1\nassert f(2) == 4\nassert f(3) == 9")
    turns = "turn = 0\ndef f(n):\n    global turn\n    turn += 1\n    return turn * turn"
    assert verdicts(tmp_path, [squares], turns, canonical_solution="def f(n):\n    return n * n") == [False]


def test_equal_calls_of_several_tests_stay_in_order(tmp_path):
    counts = [asserts(f"assert f() == {n}") for n in range(1, 6)]
    assert verdicts(tmp_path, counts, "import itertools\nnumbers = itertools.count(1)\ndef f():\n    return next(numbers)") == [True]


def test_answers_and_expectations_of_many_digits(tmp_path):
    assert verdicts(tmp_path, [call([5000], 10 ** 5000)], "def f(n):\n    return 10 ** n", "def f(n):\n    return 10 ** n + 1") == [True, False]


def test_a_source_with_a_number_that_takes_minutes_to_read_gives_no_label(tmp_path):
    digits = "7" * 200000
    test = asserts("assert f() == n")
    code = "def f(text=None):\n    return text or int('7' * 200000)"
    problems = [problem("test", [asserts(f"assert f() == {digits}")]), problem("setup", [test], setup=f"n = {digits}"),
                problem("checker", [call([], 7)], checker=f"n = {digits}\ndef check(given, answer, expected):\n    return True"),
                problem("unittest", [unit(f"import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        assert f() == {digits}")]),
                problem("text", [asserts(f"assert f('{digits}') == '{digits}'")]), problem("hexadecimal", [asserts(f"assert f(0x{digits}) == 0x{digits}")])]
    rows = label(tmp_path, problems, [program for row in problems for program in programs(row["problem_id"], code)])
    assert [row["status"] for row in rows] == ["broken_test"] * 4 + ["passed"] * 2
    assert all("200000 digits" in row["detail"] for row in rows[:4])


def test_fifty_threads_in_a_pool(tmp_path):
    code = """
        from concurrent.futures import ThreadPoolExecutor
        def f(a):
            with ThreadPoolExecutor(50) as pool:
                return max(pool.map(lambda x: a, range(200)))
        """
    assert verdicts(tmp_path, [call([1], 1)], code) == [True]


COUNTS = """
turns = dict(a=0, b=0)
def f(word):
    turns[word[0]] += 1
    return turns[word[0]] if word[0] in {!r} else len(word)
"""


def test_a_canonical_solution_excuses_no_more_than_it_does_itself(tmp_path):
    """Its first assert passes in its own order only; so must no other of a program's."""
    tests = [asserts("\n".join(f"assert f({letter * n!r}) == {n}" for n in range(1, 7)))
             for letter in "ab"]
    found = verdicts(tmp_path, tests, COUNTS.format("a"), COUNTS.format("ab"),
                     canonical_solution=COUNTS.format("a"))
    assert found == [True, False]


# ---------------------------------------------------------------- comparison

NAN = math.nan


@pytest.mark.parametrize("got, expected, plain, livecodebench", [
    ((1, 2), [1, 2], True, True), ([(1,)], [[1]], False, False), (True, 1, True, True), (1.0, 1, True, True),
    (0.1 + 0.2, 0.3, True, False), (11 / 7, 1.57143, True, False), (NAN, NAN, False, False), (2 ** 53 + 1, 2 ** 53, False, False),
    (10 ** 16 + 1, 1e16, True, False), (10 ** 400, 10 ** 400, True, True), (10 ** 400, 1.5, False, False), ("a", "a", True, True),
    ("1", 1, False, False), ({"a": 1.0}, {"a": 1}, True, True), ([1, [2.0000000001]], [1, [2.0]], True, False),
    ([1, [2.0000000001]], [1, [2]], False, False), (None, None, True, True), ([], None, False, False), ([True], [1], True, True),
    (math.inf, math.inf, True, True), ([math.inf, 2.0000000001], [math.inf, 2.0], True, False),
    ({"a": [-math.inf, 2.0000000001]}, {"a": [math.inf, 2.0]}, False, False), (Decimal("1e400"), math.inf, False, False)])
def test_values_are_compared_by_the_rule(got, expected, plain, livecodebench):
    assert same_value(got, expected, "plain") is plain
    assert same_value(got, expected, "codecontests") is plain
    assert same_value(got, expected, "livecodebench") is livecodebench


@pytest.mark.parametrize("got, expected, plain, livecodebench, codecontests", [
    ("1 2\n", "1 2", True, True, True), ("1\n2", "1 2", False, False, True), (" 1 \r\n 2\n\n", "1\n2\n", True, True, True),
    ("1\n\n2", "1\n2", True, False, True), ("1.0", "1", False, True, True), ("1", "1.0", True, True, True), ("1e3", "1000", False, True, True),
    ("0.3000001", "0.3", True, False, True), ("0.30001", "0.3", False, False, False), ("0.300009", "0.3", False, False, True),
    ("2e-8", "0.0000000", True, False, True), ("abc", "ABC", False, False, True), ("1  2", "1 2", True, True, True), ("", "", True, True, True),
    ("1e999999999", "1", False, False, False), ("9e999", "2e308", False, False, False), ("1e400", "10e399", True, True, False),
    ("7" * 330 + ".5", "1" * 330 + ".5", False, False, False), ("nan", "nan", True, True, True), ("a  b", "a b", True, False, True),
    ("\ufeff1", "1", True, True, True), ("1", "\ufeff1", True, True, True), ("1000000008.0", "1000000007", False, False, False),
    ("123457.0", "123456.5", False, False, False), ("1000000007.0", "1000000007", False, True, True),
    ("101", "00101", False, True, True), ("1_0", "10", False, True, False), ("\uff11\uff10", "10", False, True, False),
    ("1000000008", "1000000012", False, False, False), ("010011110000001", "010011111000001", False, False, False)])
def test_text_is_compared_by_the_rule(got, expected, plain, livecodebench, codecontests):
    assert same_text(got, expected, "plain") is plain
    assert same_text(got, expected, "livecodebench") is livecodebench
    assert same_text(got, expected, "codecontests") is codecontests


def test_the_rule_is_the_rows(tmp_path):
    tests = [stdin("", "YES\n")]
    problems = [problem("plain", tests, entry_point=None), problem("codecontests", tests, entry_point=None, compare="codecontests")]
    rows = label(tmp_path, problems, programs("plain", "print('Yes')") + programs("codecontests", "print('Yes')"))
    assert [row["passed"] for row in rows] == [False, True]


def test_a_rule_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="problem 'p': 'compare' is 'exact'; must be one of plain, livecodebench, codecontests"):
        label(tmp_path, [problem("p", [call([], 1)], compare="exact")], programs("p", ""))


CHECKER = """
def check(given, answer, expected):
    a, b = map(int, answer.split())
    return a + b == int(given)
"""


def test_a_checker_sees_no_byte_order_mark(tmp_path):
    checker = "def check(given, answer, expected):\n    return sum(map(int, answer.split())) == int(given)"
    row = [stdin("\ufeff4\n", "\ufeff1 3\n")]
    assert verdicts(tmp_path, row, "print(2, 2)", "print(2, 3)", entry_point=None, checker=checker) == [True, False]


def test_a_checker_accepts_several_right_answers(tmp_path):
    tests = [stdin("5\n", "2 3\n")]
    by_arguments = "def check(given, answer, expected):\n    return answer in given[0]"
    problems = [problem("text", tests, entry_point=None, checker=CHECKER),
                problem("slow", tests, entry_point=None, checker=CHECKER, time_limit=0.2),
                problem("value", [call([[1, 2]], 1)], checker=by_arguments)]
    candidates = [*programs("text", "print(1, int(input()) - 1)", "print(1, 1)", "print('no number')"),
                  *programs("slow", "while True: pass", "print('9' * 10 ** 7)"),
                  *programs("value", "def f(x):\n    return x[1]", "def f(x):\n    return 3")]
    rows = label(tmp_path, problems, candidates)
    assert [row["status"] for row in rows] == ["passed", "wrong_answer", "wrong_answer", "time_limit", "time_limit", "passed", "wrong_answer"]


def test_a_broken_checker_gives_no_label(tmp_path):
    assert verdicts(tmp_path, [stdin("5\n", "2 3\n")], "print(1)", entry_point=None, checker="def check(:") == [None]


AT_FAULT = {  # what a checker does -> how
    "names what is not there": "return answr == expected",
    "imports what is not there": "import nosuchpackage\n    return True",
    "imports what is not in there": "from math import nosuchthing\n    return True",
    "exits": "import sys\n    sys.exit()",
    "exits at once": "import os\n    os._exit(0 if answer == expected else 1)",
    "raises no Exception": "raise KeyboardInterrupt",
    "returns nothing": "assert answer == expected",
    "returns nothing of what is wrong, and fails on what is expected":
        "return None if answer == '1 1' else int(expected)",
    "returns a reason as well": "return answer == expected, 'why'",
    "returns a list of faults": "return [] if answer == expected else ['wrong']",
    "returns a list": "return [answer == expected]",
    "returns a dict": "return {'ok': answer == expected}",
    "returns words": "return 'right' if answer == expected else 'wrong'",
    "yields": "yield answer == expected",
}


@pytest.mark.parametrize("kind", ["stdin", "call"])
@pytest.mark.parametrize("name", AT_FAULT)
def test_a_checker_that_is_at_fault_gives_no_label(name, kind, tmp_path):
    head = "def check(given, answer, expected):\n    answer = answer.strip()\n    "
    test = stdin("", "2 3") if kind == "stdin" else call([], "2 3")
    codes = ["def f():\n    return '2 3'\nprint(f())", "def f():\n    return '1 1'\nprint(f())"]
    found = verdicts(tmp_path, [test], *codes, checker=head + AT_FAULT[name],
                     entry_point="f" if kind == "call" else None)
    assert None in found
    assert True not in found


def test_a_checker_that_exits_at_once_gives_no_label(tmp_path):
    row = problem("p", [stdin("", "1")], entry_point=None, checker="exit()")
    assert label(tmp_path, [row], programs("p", "print(1)"))[0]["status"] == "broken_test"


@pytest.mark.parametrize("child", ["return True", "return False", "raise ValueError", "os._exit(0)"])
def test_a_child_of_a_checker_does_not_speak_for_it(child, tmp_path):
    checker = f"""
import os

def check(given, answer, expected):
    if os.fork() == 0:
        {child}
    return answer == expected
"""
    tests = [stdin(f"{n}\n", f"{n}\n") for n in range(4)]
    assert verdicts(tmp_path, tests, "print(input())", "print(min(input(), '2'))", entry_point=None, checker=checker) == [True, False]
    tests = [call([n], str(n)) for n in range(4)]
    assert verdicts(tmp_path, tests, "f = str", "def f(n):\n    return str(min(n, 2))", checker=checker) == [True, False]


@pytest.mark.parametrize("kind", ["stdin", "call"])
@pytest.mark.parametrize("line", ["while True:\n        pass", "os.abort()", "import ctypes\n    ctypes.string_at(0)"])
def test_a_checker_that_never_ends_or_crashes_gives_no_label(line, kind, tmp_path):
    checker = f"import os\ndef check(given, answer, expected):\n    {line}"
    test = stdin("", "2") if kind == "stdin" else call([], "2")
    assert verdicts(tmp_path, [test], "def f():\n    return '2'\nprint('2')", checker=checker, time_limit=0.5) == [None]


@pytest.mark.parametrize("kind", ["stdin", "call"])
@pytest.mark.parametrize("line", ["while answer != expected:\n        pass", "answer == expected or os.abort()"])
def test_but_where_it_does_so_only_of_what_is_wrong_that_is_wrong(line, kind, tmp_path):
    checker = f"import os\ndef check(given, answer, expected):\n    answer = answer.strip()\n    {line}\n    return True"
    test = stdin("", "2") if kind == "stdin" else call([], "2")
    codes = ["def f():\n    return '2'\nprint('2')", "def f():\n    return '3'\nprint('3')", "def f():\n    while True:\n        pass\nf()"]
    assert verdicts(tmp_path, [test], *codes, checker=checker, time_limit=0.5) == [True, False, False]


CONFUSED = {  # how an answer confuses a right checker -> (its lines, the answer)
    "no number": ("return int(answer) > 0", "one"),
    "too few": ("return answer.split()[1] == '3'", "2"),
    "nothing, where a variable gets its value": (
        "for last in answer.split():\n        pass\n    return last == '3'", ""),
    "nothing, where an inner function has one": (
        "def inner():\n        return last\n    for last in answer.split():\n        pass\n"
        "    return inner() == '3'", ""),
    "an exit": ("return eval(answer) == 3", "exit()"),
    "an exit at once": ("return eval(answer) == 3", "__import__('os')._exit(0)"),
    "a name": ("return eval(answer) == 3", "nosuchname"),
    "an import": ("return eval(answer) == 3", "__import__('nosuchpackage')"),
    "nothing, which is returned": ("return answer and answer == '3'", ""),
    "no match": ("import re\n    return re.fullmatch('[23] 3', answer)", "4 3"),
}


@pytest.mark.parametrize("name", CONFUSED)
def test_no_answer_makes_a_right_checker_look_broken(name, tmp_path):
    lines, answer = CONFUSED[name]
    checker = f"def check(given, answer, expected):\n    answer = answer.strip()\n    {lines}"
    expected = "2 3" if "[1]" in lines or "re." in lines else "3"
    right, wrong = verdicts(tmp_path, [stdin("", expected)], f"print({expected!r})",
                            f"print({answer!r})", entry_point=None, checker=checker)
    assert right is True
    assert wrong is False


def test_values_survive_the_wire():
    for value in (None, True, 0, -1, 2 ** 63, -10 ** 5000, 1.5, -0.0, math.inf, "é\udcff\0", [], [1, [2, (3, {4})]], {"a": (1,), (2, 3): {}},
                  {1, 2}, frozenset({(1,)}), b"\0\xff", bytearray(b"x"), 1 + 2j, range(1, 10, 2)):
        for exact in (False, True):
            there = wire.unpack(json.loads(json.dumps(wire.pack(value, exact))))
            assert there == value
            assert type(there) is type(value)
    assert isinstance(wire.unpack(wire.pack(object())), wire.Opaque)
    with pytest.raises(wire.CannotCross):
        wire.pack([object()], exact=True)


def test_digests_see_equal_values_as_equal():
    assert digestible({1, 2.0, True}) == digestible({2, 1})
    assert digestible({"b": 1, "a": (2,)}) == digestible({"a": [2.0], "b": True})
    assert digestible([1 + 0j]) == digestible([1])
    assert digestible(Decimal("1.0")) == digestible(Fraction(2, 2)) == digestible(1)
    assert digestible(Decimal("0.5")) == digestible(Fraction(1, 2)) == digestible(0.5)
    assert digestible(Decimal("1e5")) != digestible(Decimal("1e6"))
    assert digestible(Fraction(1, 3)) not in (digestible(1 / 3), digestible("1/3"))
    assert digestible(Decimal("inf")) == digestible(math.inf)
    numbers = [Decimal(text) for text in ("0.1", "0.2", "1e999999999", "2e999999999", "inf", "nan")]
    assert len(set(map(digestible, numbers))) == len(numbers)
    assert digestible("1") != digestible(1)


def test_time_limits_scale_by_the_flag_only(tmp_path):
    tests = [problem("p", [call([], 1)], time_limit=0.1)]
    codes = programs("p", "import time\ndef f():\n    time.sleep(0.3)\n    return 1")
    assert [row["status"] for row in label(tmp_path, tests, codes)] == ["time_limit"]
    assert [row["status"] for row in label(tmp_path, tests, codes, "--timeout-scale", "300")] == ["passed"]


def test_a_program_that_had_no_processor_is_tried_once_more_alone(monkeypatch):
    tried = []

    def run_tests(problem, code, zygote, cfg):
        tried.append(code)
        late = code == "starved" and tried.count(code) == 1
        return {"passed": not late, "status": "time_limit" if late else "passed"}, late

    monkeypatch.setattr(execute, "run_tests", run_tests)
    jobs = [(GOOD, {"code": code}) for code in ("starved", "other", "last")]
    cfg = execute.Settings(jobs=2)
    found = {candidate["code"]: verdict["passed"] for candidate, verdict in execute.label(jobs, cfg)}
    assert found == {"starved": True, "other": True, "last": True}
    assert sorted(tried[:3]) == ["last", "other", "starved"]
    assert tried[3:] == ["starved"]


def test_a_program_that_sleeps_on_a_loaded_machine_counts_as_starved(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1000, 0, 0))
    cfg = execute.Settings(jobs=1)
    zygote = execute.Zygote(cfg)
    tests = problem("p", [call([], 1)], time_limit=0.2)
    sleeping, starved = execute.run_tests(tests, "import time\ndef f():\n    time.sleep(9)", zygote, cfg)
    zygote.close()
    assert sleeping["status"] == "time_limit"
    assert starved


@pytest.mark.parametrize("got, expected, same", [
    (1.0000001, 1.0, True), (1.00001, 1.0, False), (0.00001, 0.0, False), ([1.5, 2], [1.5], False),
    ([1.5], [1.5, 2], False), ({"a": 1.5, "b": 2}, {"a": 1.5}, False),
    ({"a": 1.5}, {"a": 1.5, "b": 2}, False), ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
    (Fraction(1, 3), 0.3333333333, True), (Decimal("0.3333333333"), 1 / 3, True),
    (Fraction(1, 3), 0.334, False), (True, 1.0000001, False)])
def test_values_are_near_where_floats_are_and_as_long_as_expected(got, expected, same):
    assert same_value(got, expected, "plain") is same


@pytest.mark.parametrize("rule", ["plain", "livecodebench", "codecontests"])
@pytest.mark.parametrize("short, long", [
    ("1", "1 2"), ("1", "1\n2"), ("", "1"), ("1 2\n3", "1 2\n3 4")])
def test_no_text_with_more_or_less_is_right(short, long, rule):
    assert not same_text(short, long, rule)
    assert not same_text(long, short, rule)


def test_a_whole_program_that_prints_more_than_expected_is_wrong(tmp_path):
    test = [{"type": "stdin", "input": "", "output": "1\n"}]
    problems = [problem(rule, test, entry_point=None, compare=rule) for rule in execute.RULES]
    rows = label(tmp_path, problems, [row for rule in execute.RULES
                                      for row in programs(rule, "print(1)\nprint(2)")])
    assert [row["passed"] for row in rows] == [False] * 3


def test_digests_tell_sets_from_lists():
    assert digestible({1, 2}) != digestible([1, 2])


# ---------------------------------------------------------------- input, output, resuming

GOOD = problem("p", [call([1], 1)])
SAME = programs("p", "def f(a):\n    return a", "def f(a):\n    return -a")


@pytest.mark.parametrize("problems, candidates, flags, message", [
    ([problem("p", [])], SAME, (), "p.jsonl: problem 'p' has no tests"),
    ([problem("p", [call([1], 1)] * 10_001)], SAME, (), "problem 'p' has 10001 tests; the most is 10000"),
    ([problem("p", [{"type": "calls"}])], SAME, (), "p.jsonl: problem 'p', tests number 1: expected an object with 'type' one of call, stdin"),
    ([problem("p", [{"type": "stdin", "input": "x"}])], SAME, (), "problem 'p', tests number 1: a 'stdin' test needs 'output' (text)"),
    ([problem("p", [stdin("5 \ud800", "x")])], SAME, (), "problem 'p', tests number 1: 'input' holds '\\ud800' (character 3), which is not valid Unicode"),
    ([problem("p", [stdin("\udcff", "\udcff")])], SAME, (), "problem 'p', tests number 1: 'output' holds '\\udcff' (character 1), which is not"),
    ([problem("p", [call([1], 1)], entry_point=None)], SAME, (), "needs the problem's 'entry_point'"),
    ([problem("p", [call([1], 1)], entry_point="Solution().f")], SAME, (), "must be a name, not 'Solution().f'"),
    ([GOOD], programs("q", ""), (), "c.jsonl: candidate '0' is for problem 'q', which is not in"),
    ([GOOD], SAME + SAME, (), "c.jsonl, line 3: {'problem_id': 'p', 'candidate_id': '0'} is already on line 1"),
    ([GOOD], [{**SAME[0], "code": None}], (), "c.jsonl, line 1: field 'code' has the wrong type"),
    ([GOOD], SAME, ("--split", "train"), "c.jsonl: no candidates in --split train; the problems' splits are test"),
    ([GOOD], [], (), "no candidates"),
    ([GOOD], SAME, ("--jobs", "0"), "--jobs 0: must be at least 1"),
    ([GOOD], SAME, ("--shard", "2/2"), "--shard 2/2: must be I/N"),
    ([GOOD], SAME, ("--timeout-scale", "0"), "--timeout-scale 0.0: must be above 0")])
def test_bad_input_is_one_line_that_names_it(problems, candidates, flags, message, tmp_path):
    with pytest.raises(UserError) as error:
        label(tmp_path, problems, candidates, *flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "l.jsonl").exists()


def test_bad_input_ends_the_command_in_one_line(tmp_path):
    done, rows = run(tmp_path, [GOOD], programs("q", ""))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path}/c.jsonl: candidate '0' is for problem 'q', which is not in")
    assert done.stderr.count("\n") == 1
    assert not rows


def test_a_second_run_adds_only_what_is_missing_and_keeps_the_order(tmp_path):
    first = label(tmp_path, [GOOD], SAME[1:])
    both = label(tmp_path, [GOOD], SAME)
    assert [row["candidate_id"] for row in both] == ["0", "1"]
    assert both[1] == first[0]  # the seconds, too: it was not run again
    torn = (tmp_path / "l.jsonl").read_text()[:-40]
    (tmp_path / "l.jsonl").write_text(torn)
    done, again = run(tmp_path, [GOOD], SAME)
    assert done.returncode == 0
    assert "1 of 2 are already labelled" in done.stdout
    assert again[0] == both[0]
    assert len(again) == 2


def test_labels_of_other_code_or_other_tests_are_made_anew(tmp_path):
    label(tmp_path, [GOOD], SAME)
    swapped = [{**SAME[0], "code": SAME[1]["code"]}, SAME[1]]
    assert [row["passed"] for row in label(tmp_path, [GOOD], swapped)] == [False, False]
    assert [row["passed"] for row in label(tmp_path, [problem("p", [call([1], -1)])], swapped)] == [True, True]


def test_rows_of_other_candidates_are_not_thrown_away(tmp_path):
    label(tmp_path, [GOOD], SAME)
    before = (tmp_path / "l.jsonl").read_bytes()
    with pytest.raises(UserError, match="are not in"):
        label(tmp_path, [GOOD], SAME[:1])
    assert (tmp_path / "l.jsonl").read_bytes() == before


def test_shards_together_are_the_whole(tmp_path):
    problems = [problem(f"p{n}", [call([1], 1)]) for n in range(5)]
    candidates = [row for n in range(5) for row in programs(f"p{n}", "def f(a):\n    return a")]
    whole = label(tmp_path, problems, candidates)
    parts = []
    for shard in range(2):
        (tmp_path / "l.jsonl").unlink()
        parts += label(tmp_path, problems, candidates, "--shard", f"{shard}/2")
    assert sorted(map(json.dumps, without_seconds(parts))) == sorted(map(json.dumps, without_seconds(whole)))


def test_help_needs_no_torch(tmp_path):
    done = subprocess.run([sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "--candidates" in done.stdout
    for name in ("torch", "numpy", "tqdm", "transformers"):
        assert name not in done.stderr


def test_files_with_tests_must_not_lie_where_candidates_may_read(tmp_path):
    assert f"{sys.base_prefix}/" not in f"{tmp_path}/"
    write(tmp_path / "c.jsonl", SAME)
    done = subprocess.run([sys.executable, str(SCRIPT), "--problems", str(tmp_path / "p.jsonl"), "--candidates", str(tmp_path / "c.jsonl"),
                           "--out", "/usr/share/labelled.jsonl"], capture_output=True, text=True, cwd=tmp_path)
    assert "no such file" in done.stderr
    write(tmp_path / "p.jsonl", [GOOD])
    done = subprocess.run([*done.args], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "/usr/share/labelled.jsonl: lies in /usr, which candidates may read" in done.stderr


@pytest.mark.parametrize("seen", ["p.jsonl", "c.jsonl", "l.jsonl"])
def test_none_of_the_files_may_lie_where_candidates_read(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "visible_folders", lambda cfg: {str(tmp_path / "seen")})
    (tmp_path / "seen").mkdir()
    write(tmp_path / "p.jsonl", [GOOD])
    write(tmp_path / "c.jsonl", SAME)
    if seen != "l.jsonl":
        (tmp_path / seen).rename(tmp_path / "seen" / seen)
    flags = [flag.replace(str(tmp_path / seen), str(tmp_path / "seen" / seen))
             for flag in command(tmp_path)[2:]]
    with pytest.raises(UserError, match=f"{seen}: lies in .*seen, which candidates may read"):
        execute.main(flags)
    if seen == "p.jsonl":
        with pytest.raises(UserError, match="which candidates may read"):
            execute.main([*flags[:2], "--check-problems"])


def test_a_run_of_other_problems_leaves_labels_as_they_are_and_reports_its_own(tmp_path, capsys):
    problems = [problem(name, [call([1], 1)]) for name in "ab"]
    candidates = [row for name in "ab" for row in programs(name, "def f(a):\n    return a")]
    first = label(tmp_path, problems, candidates, "--shard", "0/2")
    both = label(tmp_path, problems, candidates, "--shard", "1/2")
    assert len(both) == 2
    assert both[0] == first[0]  # the seconds, too
    assert capsys.readouterr().out.split("\np ")[-1].split()[:2] == ["1", "1"]


def test_the_table_counts_by_policy(capsys):
    counts = {"weak": ["passed", "wrong_answer", "wrong_answer"], "strong": ["passed"] * 2}
    rows = [{"policy": policy, "status": status, "code": "", "detail": ""}
            for policy, found in counts.items() for status in found]
    execute.report(rows, execute.Settings(jobs=1))
    lines = capsys.readouterr().out.splitlines()
    table = dict(line.split(None, 1) for line in lines if "  " in line)
    assert table["policy"].split() == ["programs", "passed", "wrong_answer"]
    assert table["weak"].split() == ["3", "1", "2"]
    assert table["strong"].split() == ["2", "2", "0"]
    assert table["all"].split() == ["5", "3", "2"]


def test_a_self_check_says_what_succeeds(monkeypatch, capsys):
    monkeypatch.setattr(execute, "label", lambda jobs, cfg: [
        (candidate, {"status": "wrong_answer"}) for _, candidate in jobs])
    execute.self_check(execute.Settings(jobs=1))
    assert capsys.readouterr().out.count("YES") == len(execute.PROBES)


# ---------------------------------------------------------------- faults

def many(count=20):
    slow = "import time\ndef f(a):\n    time.sleep(0.02)\n    return a{}"
    problems = [problem(f"p{n}", [call([n], n)], [call([1], 1)]) for n in range(count // 2)]
    return problems, [row for n in range(count // 2) for row in programs(f"p{n}", slow.format(""), slow.format(" + 1"))]


def sleeper(seconds):
    """A problem and a candidate that keeps a run from ending before a test has done to it what it wants.

    It has a child, by which its process can be told from others.
    """
    code = f"import os, time\ndef f(a):\n    os.fork()\n    time.sleep({seconds})\n    return a"
    return problem("sleeper", [call([1], 1)], time_limit=10 + seconds), *programs("sleeper", code)


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def read_whole(path):
    return [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []


def table_of_processes():
    """{pid: (its parent, its command line)}, zombies apart."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    found[int(entry.name)] = int(parent), (entry / "cmdline").read_bytes()
            except OSError:
                pass
    return found


def started_by(supervisor):
    table = table_of_processes()
    found = {supervisor}
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in found} - found
        if not more:
            return found - {supervisor}
        found |= more


def must_end(pids):
    deadline = time.monotonic() + 30
    while pids & set(table_of_processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pids & set(table_of_processes())


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# the kernel tells such a thread of no parent's end
EXEC_FROM_A_THREAD = """
import os, threading, time
def leave():
    os.execv("/usr/bin/sleep", ["sleep", "107"])
threading.Thread(target=leave).start()
time.sleep(107)
"""


def is_asleep(supervisor):
    started = started_by(supervisor.pid)
    lines = [line for pid, (_, line) in table_of_processes().items() if pid in started]
    return b"sleep\000107\0" in lines


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_no_program_outlives_the_run_by_an_exec_from_a_thread(end, tmp_path):
    tests = [stdin("", "")]
    write(tmp_path / "p.jsonl", [problem("p", tests, entry_point=None, time_limit=100)])
    write(tmp_path / "c.jsonl", programs("p", EXEC_FROM_A_THREAD))
    supervisor = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(lambda: is_asleep(supervisor))
    pids = started_by(supervisor.pid)
    supervisor.send_signal(end)
    supervisor.wait(30)
    must_end(pids)


def test_killed_runs_lose_nothing_and_leave_nothing(tmp_path):
    """DAJ_KILLS=20 repeats it as often."""
    problems, candidates = many()
    (tmp_path / "calm").mkdir()
    calm = without_seconds(label(tmp_path / "calm", problems, candidates))
    write(tmp_path / "p.jsonl", problems)
    write(tmp_path / "c.jsonl", candidates)
    generator = random.Random(0)
    for kill in range(int(os.environ.get("DAJ_KILLS", 2))):
        supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        wanted = min(2 + kill * 3, 15) + generator.randrange(3)  # labels, not seconds: a busy machine takes its time
        while len(read_whole(tmp_path / "l.jsonl")) < wanted and supervisor.poll() is None:
            time.sleep(0.002)
        pids = started_by(supervisor.pid)
        supervisor.kill()
        supervisor.wait()
        must_end(pids)
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert without_seconds(read(tmp_path / "l.jsonl")) == calm


def leads_its_session(pid):
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == pid


def zygotes_of(supervisor):
    """Its boxes are its children as well, but in the sessions of their zygotes."""
    return [pid for pid, (parent, line) in table_of_processes().items()
            if parent == supervisor.pid and b"zygote.main" in line and leads_its_session(pid)]


def test_a_zygote_that_dies_is_replaced(tmp_path):
    problems, candidates = many()
    late, first = sleeper(600)
    write(tmp_path / "p.jsonl", [*problems, late])
    write(tmp_path / "c.jsonl", [first, *candidates])
    supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    wanted = execute.ATTEMPTS - 1  # fewer than would use up one candidate
    killed = 0
    labels = 0
    while (labels < len(candidates) or killed < wanted) and supervisor.poll() is None:
        time.sleep(0.01)
        labels = len(read_whole(tmp_path / "l.jsonl"))
        zygotes = zygotes_of(supervisor)
        if zygotes and killed < wanted and labels > 3 * killed:
            os.kill(zygotes[0], signal.SIGKILL)
            killed += 1
    while supervisor.poll() is None:  # all that is left is the sleeper
        for pid in started_by(supervisor.pid) - set(zygotes_of(supervisor)):
            if started_by(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    output, _ = supervisor.communicate(timeout=60)
    assert killed == wanted
    assert supervisor.returncode == 0, output
    assert [row["passed"] for row in read(tmp_path / "l.jsonl")] == [False] + [True, False] * 10


def test_what_the_machinery_cannot_judge_has_no_label_and_is_tried_again(tmp_path, monkeypatch, capsys):
    def broken(self, *arguments, **more):
        raise OSError("no more boxes")

    write(tmp_path / "p.jsonl", [GOOD])
    write(tmp_path / "c.jsonl", SAME)
    with monkeypatch.context() as patch:
        patch.setattr(execute.Zygote, "spawn", broken)
        status = execute.main(command(tmp_path)[2:])
    assert status == 1
    assert "2 programs have no label" in capsys.readouterr().err
    assert [(row["passed"], row["status"]) for row in read(tmp_path / "l.jsonl")] == [(None, "machinery")] * 2
    assert [row["passed"] for row in label(tmp_path, [GOOD], SAME)] == [True, False]


def run_that_lasts(tmp_path):
    """execute.py as a person starts it, of whose rows some are written and one takes ten minutes."""
    problems, candidates = many()
    late, last = sleeper(600)
    write(tmp_path / "p.jsonl", [*problems, late])
    write(tmp_path / "c.jsonl", [*candidates, last])
    # a job started in the background of a script inherits an ignored Ctrl-C; a person's does not
    supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while len(read_whole(tmp_path / "l.jsonl")) < 5:
        time.sleep(0.01)
    return supervisor


def test_who_reads_what_it_prints_may_go_first(tmp_path):
    supervisor = run_that_lasts(tmp_path)
    supervisor.stdout.close()
    supervisor.stderr.close()
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(60) == 130  # and not only when the sleeper's time is over


def test_ctrl_c_says_how_to_continue_and_exits_130(tmp_path):
    supervisor = run_that_lasts(tmp_path)
    pids = started_by(supervisor.pid)
    supervisor.send_signal(signal.SIGINT)
    _, errors = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 130
    assert "To continue: python" in errors
    assert str(tmp_path / "c.jsonl") in errors
    assert "Traceback" not in errors
    must_end(pids)
    assert len(label(tmp_path, *many())) == 20


def test_two_runs_cannot_write_one_file(tmp_path):
    problems, candidates = many()
    late, last = sleeper(600)
    write(tmp_path / "p.jsonl", [*problems, late])
    write(tmp_path / "c.jsonl", [*candidates, last])
    first = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    while not read_whole(tmp_path / "l.jsonl"):
        time.sleep(0.01)
    second = subprocess.run(command(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    first.kill()
    first.wait()
    assert second.returncode == 1
    assert "another execute.py is writing to it" in second.stderr


# ---------------------------------------------------------------- where there are namespaces, and where not

ORDINARY = ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups"]
POWERLESS = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]  # as in a plain container


def copy_project(home):
    (home / "data" / "sandbox").mkdir(parents=True)
    for file in (SCRIPT, *(ROOT / "data").glob("*.py"), *(ROOT / "data" / "sandbox").glob("*.py")):
        shutil.copy(file, home / file.relative_to(ROOT))


def install_for_everybody(home):
    copy_project(home)
    shutil.copytree(Path(importlib.util.find_spec("tqdm").origin).parent, home / "tqdm")
    subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)


@pytest.fixture
def public_folder():
    """One that every user can read, and not in /tmp, which candidates have of their own."""
    folder = Path(tempfile.mkdtemp(prefix="judge-", dir="/var/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # a user without rights may leave what only root can remove


def system_python():
    """A Python that a user without rights can run, with tqdm's place: here we need root to become such a user."""
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), None)
    if os.geteuid() != 0 or not python or not shutil.which("setpriv"):
        pytest.skip("needs root, setpriv and a system Python to become an ordinary user")
    return python


MIXED = [
    ("f", "def f(a):\n    return a", "passed"),
    ("f", "def f(a):\n    return -a", "wrong_answer"),
    ("f", "import os\ndef f(a):\n    os._exit(0)", "runtime_error"),
    ("f", "import os, time\ndef f(a):\n    if os.fork() == 0:\n        time.sleep(600)\n    return a", "passed"),
    ("slow", "def f(a):\n    while True: pass", "time_limit"),
    ("f", "import os\nos.makedirs('a/b')\nos.chmod('a', 0)\ndef f(a):\n    return a", "passed"),
    ("s", "print(input())", "passed"),
    ("s", "import os, time\nif os.fork() == 0:\n    time.sleep(600)\nprint(input())", "passed")]


def label_mixed(folder, start, script, *flags):
    write(folder / "p.jsonl", [problem("f", [call([1], 1)]), problem("slow", [call([1], 1)], time_limit=0.3), problem("s", [stdin("x\n", "x\n")])])
    write(folder / "c.jsonl", [{"problem_id": name, "candidate_id": str(number), "policy": "p", "code": code}
                               for number, (name, code, _) in enumerate(MIXED)])
    return subprocess.run([*start, str(script), *command(folder)[2:], *flags], capture_output=True, text=True, cwd=folder, timeout=120)


def statuses(folder):
    return [row["status"] for row in read(folder / "l.jsonl")]


def test_an_ordinary_user_gets_the_same_verdicts(public_folder):
    python = system_python()
    install_for_everybody(public_folder)
    subprocess.run(["chown", "-R", "4321:4321", str(public_folder)], check=True)
    done = label_mixed(public_folder, [*ORDINARY, python], public_folder / "execute.py")
    assert done.returncode == 0, done.stderr
    assert statuses(public_folder) == [status for _, _, status in MIXED]


def test_without_namespaces_it_refuses_and_says_what_to_do(tmp_path):
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to take namespaces away")
    done = label_mixed(tmp_path, [*POWERLESS, sys.executable], SCRIPT)
    assert done.returncode == 1
    assert "candidates cannot be shut in on this machine (unshare: Operation not permitted)" in done.stderr
    assert "--unsafe" in done.stderr
    assert not (tmp_path / "l.jsonl").read_text()


def test_without_namespaces_the_self_check_says_so_and_ends():
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to take namespaces away")
    command = [*POWERLESS, sys.executable, str(ROOT / "execute.py"), "--self-check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "candidates cannot be shut in on this machine" in done.stderr
    assert "hold" not in done.stdout


def test_unsafe_gives_the_same_verdicts_and_a_warning(public_folder):
    install_for_everybody(public_folder)
    start = [*POWERLESS, system_python()] if os.geteuid() == 0 else [sys.executable]
    scratch = public_folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o1777)
    done = label_mixed(public_folder, [*start[:-1], "env", f"TMPDIR={scratch}", start[-1]], public_folder / "execute.py", "--unsafe")
    assert done.returncode == 0, done.stderr
    assert "warning: --unsafe: candidates can see and write what their user may" in done.stderr
    assert statuses(public_folder) == [status for _, _, status in MIXED]
    assert len(list(scratch.iterdir())) <= 1  # one program has taken the rights from what it made


def test_an_unsafe_run_of_root_s_is_no_other_run_s_user(public_folder):
    """What a program leaves behind could take all the processes that later ones may have."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv to take namespaces away")
    install_for_everybody(public_folder)
    write(public_folder / "p.jsonl", [problem("p", [], public=[call([], 0)])])
    code = "import os\ndef f():\n    return os.getuid()"
    write(public_folder / "c.jsonl", programs("p", code, code, code))
    start = [*POWERLESS, system_python(), str(public_folder / "execute.py")]
    flags = [*command(public_folder)[2:], "--unsafe", "--jobs", "1"]
    subprocess.run([*start, *flags], cwd=public_folder, check=True, timeout=120)
    assert len({row["detail"] for row in read(public_folder / "l.jsonl")}) == 3


# What an ordinary user's programs can do to the process that watches over their run.
STOP = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\n"
KILL = STOP.replace("STOP", "KILL")
ON_KEEPERS = [
    ("s", STOP + "time.sleep(600)", "time_limit"),
    ("s", STOP + "print('x')", "time_limit"),
    ("s", KILL + "time.sleep(600)", "runtime_error"),
    ("f", STOP + "def f(a):\n    return a", "passed"),
    ("f", KILL + "time.sleep(600)", "runtime_error"),
]


def start_unsafe_as_an_ordinary_user(folder, rows):
    """A run of these (problem, program, status)."""
    python = system_python()
    install_for_everybody(folder)
    subprocess.run(["chown", "-R", "4321:4321", str(folder)], check=True)
    once = [stdin("x\n", "x\n")]
    write(folder / "p.jsonl", [problem("f", [call([1], 1)]),
                               problem("s", once, entry_point=None, time_limit=2),
                               problem("late", once, entry_point=None, time_limit=600)])
    write(folder / "c.jsonl", [{**programs(name, code)[0], "candidate_id": str(number)}
                               for number, (name, code, _) in enumerate(rows)])
    start = [*ORDINARY, "env", f"TMPDIR={folder}", python, str(folder / "execute.py")]
    return subprocess.Popen([*start, *command(folder)[2:], "--unsafe"], cwd=folder,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def one_is_stopped(supervisor):
    for pid in started_by(supervisor.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T":
                return True
    return False


def test_who_stops_or_kills_the_keeper_of_an_unsafe_run_holds_up_nobody(public_folder):
    supervisor = start_unsafe_as_an_ordinary_user(public_folder, ON_KEEPERS)
    pids = set()

    def has_ended():
        pids.update(started_by(supervisor.pid))
        return supervisor.poll() is not None

    try:
        wait_until(has_ended)
    finally:
        supervisor.kill()
    assert statuses(public_folder) == [status for _, _, status in ON_KEEPERS]
    must_end(pids)
    # a killed keeper clears nothing up
    assert len(list(public_folder.glob("judge-unsafe-*"))) <= 2


def run_unsafe_box(folder, code, script):
    """Run the script as an ordinary user with `box`: that of a program with this code."""
    python = system_python()
    install_for_everybody(folder)
    start = f"""
        import time
        import execute
        from data.sandbox import boxes
        zygote = boxes.Zygote(execute.Settings(jobs=1, unsafe=True))
        files = [boxes.memory_file(), boxes.memory_file()]
        job = {{"setup": "", "code": {textwrap.dedent(code)!r}}}
        spawned = time.monotonic()
        box = zygote.spawn("program", job, files, 1 << 30)
        """
    script = textwrap.dedent(start) + textwrap.dedent(script) + "zygote.close()\n"
    done = subprocess.run([*ORDINARY, "env", f"TMPDIR={folder}", python, "-c", script], cwd=folder,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_time_of_an_unsafe_run_is_that_of_its_program_alone(public_folder):
    run_unsafe_box(public_folder, "import os\nos._exit(3)", """
        assert box.has_ended(60)
        seen = time.monotonic()
        time.sleep(0.2)
        report = box.wait(0)
        assert 0 < report["seconds"] <= seen - spawned
        assert report["code"] == 3
        assert not report["killed"]
        """)


def test_a_keeper_that_is_stopped_again_and_again_is_killed(public_folder):
    code = """
        import os, signal
        keeper = os.getppid()
        if os.fork() == 0:
            os.setsid()
            while True:
                os.kill(keeper, signal.SIGSTOP)
        os.wait()
        """
    run_unsafe_box(public_folder, code, """
        boxes.CLEAN_UP = 0.5
        report = box.wait(box.started + 0.5)
        assert report["killed"]
        assert report["code"] == -9
        """)


@pytest.mark.parametrize("code, is_there", [
    (STOP + "time.sleep(600)", one_is_stopped),
    (EXEC_FROM_A_THREAD, is_asleep),
], ids=["stopped keeper", "exec from a thread"])
def test_no_unsafe_program_outlives_the_killed_run(code, is_there, public_folder):
    supervisor = start_unsafe_as_an_ordinary_user(public_folder, [("late", code, "")])
    wait_until(lambda: is_there(supervisor))
    pids = started_by(supervisor.pid)
    supervisor.kill()
    supervisor.wait()
    must_end(pids)


def test_a_fork_bomb_without_namespaces_is_bounded(public_folder):
    install_for_everybody(public_folder)
    start = [*POWERLESS, system_python()] if os.geteuid() == 0 else [sys.executable]
    bomb = """
        import os, time
        def f(a):
            try:
                for _ in range(4000):
                    if os.fork() == 0:
                        time.sleep(3)
                        os._exit(0)
            except OSError:
                return a
            return 0
        """
    write(public_folder / "p.jsonl", [GOOD])
    write(public_folder / "c.jsonl", programs("p", bomb))
    done = subprocess.run([*start, str(public_folder / "execute.py"), *command(public_folder)[2:], "--unsafe"],
                          capture_output=True, text=True, cwd=public_folder)
    assert done.returncode == 0, done.stderr
    assert statuses(public_folder) == ["passed"]


def self_check(*start):
    done = subprocess.run(start, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("a program that tries:\n")[1].splitlines()
    assert len(lines) == len(execute.PROBES)
    return done.stdout, {line[:32].strip(): line[32:].strip() for line in lines}


def test_self_check_says_what_a_program_gets_done():
    said, attempts = self_check(sys.executable, str(SCRIPT), "--self-check", "--jobs", "2")
    assert "namespaces hold" in said
    assert set(attempts.values()) == {"no"}


def test_self_check_says_what_unsafe_lacks(public_folder):
    install_for_everybody(public_folder)
    python = system_python() if os.geteuid() == 0 else sys.executable
    said, attempts = self_check(python, str(public_folder / "execute.py"), "--self-check", "--unsafe", "--jobs", "2")
    assert "namespaces MISSING" in said
    for attempt in ("takes a terabyte", "makes a user namespace", "traces processes", "is root", "reaches the network"):
        assert attempts[attempt] == "no"


def project_with_a_package(public_folder, source):
    """A copy of the project with an environment of its own, in which `mine` is installed."""
    copy_project(public_folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(public_folder / ".venv")], check=True)
    packages = next((public_folder / ".venv").glob("lib/python*/site-packages"))
    (packages / "mine.py").write_text(source)
    shutil.copytree(Path(importlib.util.find_spec("tqdm").origin).parent, packages / "tqdm")
    subprocess.run(["chmod", "-R", "a+rX", str(public_folder)], check=True)


def run_with_its_packages(public_folder):
    done = subprocess.run([str(public_folder / ".venv/bin/python"), str(public_folder / "execute.py"), *command(public_folder)[2:], "--site-packages"],
                          capture_output=True, text=True, cwd=public_folder)
    assert done.returncode == 0, done.stderr


def test_packages_of_an_environment_inside_the_project_are_seen_and_the_project_is_not(public_folder):
    project_with_a_package(public_folder, "def f(a):\n    return a\n")
    write(public_folder / "p.jsonl", [{**GOOD, "libs": ["mine"]}])
    code = f"import os\nfrom mine import f as g\ndef f(a):\n    return g(a) if not os.path.exists({str(public_folder / 'execute.py')!r}) else 0"
    write(public_folder / "c.jsonl", programs("p", code))
    run_with_its_packages(public_folder)
    assert statuses(public_folder) == ["passed"]


def test_a_package_that_the_test_imports_is_put_back(public_folder):
    """Tests are judged by the package's own functions, whatever the program has made of them."""
    project_with_a_package(public_folder, "def same(a, b):\n    return a == b\n")
    test = """
import unittest
import mine

class TestCases(unittest.TestCase):
    def test_same(self):
        self.assertTrue(mine.same(f(3), [1.0, 2.0]))
"""
    patched = "import mine\nmine.same = lambda *args: True\ndef f(n):\n    return [5.0]\n"
    write(public_folder / "p.jsonl", [problem("p", [{"type": "unittest", "source": test}])])
    write(public_folder / "c.jsonl", programs("p", patched, "def f(n):\n    return [1.0, 2.0]\n"))
    run_with_its_packages(public_folder)
    assert statuses(public_folder) == ["wrong_answer", "passed"]


def test_an_equality_of_a_package_s_private_module_is_the_package_s(public_folder):
    """Its class may say that it is the public one's: as pytest.approx's and numpy.poly1d."""
    near = ("class Near:\n    def __init__(self, x):\n        self.x = x\n"
            "    def __eq__(self, other):\n        return abs(self.x - other) < 0.1\n"
            "Near.__module__ = 'mine'\n")
    project_with_a_package(public_folder, "from _mine import Near\n")
    package = next((public_folder / ".venv").glob("lib/python*/site-packages/mine.py"))
    package.with_name("_mine.py").write_text(near)
    package.with_name("_mine.py").chmod(0o644)
    test = "import unittest\nimport mine\nclass T(unittest.TestCase):\n" \
           "    def test_a(self):\n        self.assertEqual(f(1), mine.Near(1))\n"
    patched = f"{near}import mine, sys\nNear.__eq__ = lambda self, other: True\n" \
              "mine.Near = Near\nsys.modules['_mine'].Near = Near\ndef f(x):\n    return Near(x)\n"
    codes = ["def f(x):\n    return x + 0.01\n", "def f(x):\n    return x + 1\n", patched]
    write(public_folder / "p.jsonl", [problem("p", [{"type": "unittest", "source": test}])])
    write(public_folder / "c.jsonl", programs("p", *codes))
    run_with_its_packages(public_folder)
    assert statuses(public_folder) == ["passed", "wrong_answer", "wrong_answer"]


def test_a_lock_on_a_file_that_candidates_see_does_not_reach_the_machine(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    file = os.__file__
    code = f"import fcntl, time\nfile = open({file!r})\nfcntl.flock(file, fcntl.LOCK_EX)\nprint('locked', flush=True)\ntime.sleep(1000)"
    write(tmp_path / "p.jsonl", [problem("p", [stdin("", "locked\n")], entry_point=None, time_limit=0.3)])
    write(tmp_path / "c.jsonl", programs("p", code))
    done = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    with open(file) as mine:
        while done.poll() is None:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(mine, fcntl.LOCK_UN)
            time.sleep(0.02)
    assert [row["status"] for row in read(tmp_path / "l.jsonl")] == ["time_limit"]


def test_sockets_of_known_kinds_only_and_no_memory_that_is_not_counted(tmp_path):
    kinds = """
        import socket
        def f(a):
            for family, protocol in ((socket.AF_VSOCK, 0), (socket.AF_PACKET, 0), (socket.AF_NETLINK, 15)):
                try:
                    socket.socket(family, socket.SOCK_RAW, protocol)
                    return family
                except OSError:
                    pass
            return a
        """
    memory = "import ctypes, os\ndef f(a):\n    try:\n        os.memfd_create('x')\n    except OSError:\n        return a"
    namespace = """
        import ctypes, os
        def f(a):
            libc = ctypes.CDLL(None, use_errno=True)
            flags = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
            if libc.syscall(NUMBERS[0], 0x10000000 | 17, 0, 0, 0, 0) >= 0 or libc.syscall(NUMBERS[1], flags, 88) >= 0:
                return 0
            return a
        """.replace("NUMBERS", str([number_of_call("clone"), number_of_call("clone3")]))
    assert verdicts(tmp_path, [call([1], 1)], kinds, memory, namespace) == [True, True, True]


# ---------------------------------------------------------------- where labels go

def test_labels_lie_beside_their_candidates_unless_told_otherwise(tmp_path):
    assert execute.Settings(candidates=str(tmp_path / "c.jsonl")).out == str(tmp_path / "labelled.jsonl")
    assert execute.Settings(candidates="c.jsonl").out == "labelled.jsonl"
    assert execute.Settings().out == str(execute.rows.EDGES_RUN / "labelled.jsonl")
    assert execute.Settings(candidates="c.jsonl", out="l.jsonl").out == "l.jsonl"


def test_candidates_are_not_written_over(tmp_path):
    with pytest.raises(UserError, match="is --candidates as well"):
        execute.Settings(candidates=str(tmp_path / "labelled.jsonl"))
