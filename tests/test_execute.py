"""execute.py: verdicts for its four kinds of test, comparison rules, bad input, faults, and missing layers of isolation."""
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SCRIPT = ROOT / "execute.py"
spec = importlib.util.spec_from_file_location("execute_under_test", SCRIPT)
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)
sandbox = execute.sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def problem(name, tests, public=(), **more):
    return {"problem_id": name, "prompt": name, "starter_code": "", "entry_point": "f", "public_tests": list(public), "tests": tests, "domain": "d",
            "difficulty": "easy", "split": "test", **more}


def call(args, expected, **kwargs):
    return {"type": "call", "args": args, "kwargs": kwargs, "expected": expected}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def programs(name, *codes):
    return [{"problem_id": name, "candidate_id": str(number), "policy": "p", "code": code} for number, code in enumerate(codes)]


def command(folder, *flags):
    return [sys.executable, str(SCRIPT), "--problems", str(folder / "p.jsonl"), "--candidates", str(folder / "c.jsonl"), "--out", str(folder / "l.jsonl"), "--jobs", "2", *flags]


def run(folder, problems, candidates, *flags):
    """Returns (finished process, labelled rows)."""
    write(folder / "p.jsonl", problems)
    write(folder / "c.jsonl", candidates)
    supervisor = subprocess.Popen(command(folder, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)
    output, errors = supervisor.communicate(timeout=120)
    done = subprocess.CompletedProcess(supervisor.args, supervisor.returncode, output, errors)
    assert not processes(supervisor.pid, folder)
    assert not [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"judge-execute-{supervisor.pid}-")]
    return done, read(folder / "l.jsonl") if (folder / "l.jsonl").exists() else []


def label(folder, problems, candidates, *flags):
    done, rows = run(folder, problems, candidates, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return rows


def processes(supervisor, folder):
    """What a supervisor has started, zombies apart: its forks have its command line, which names the test's folder; the
    zygotes' command lines name the supervisor's own folder, which has its number."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                marks, line = (f"judge-execute-{supervisor}-".encode(), bytes(folder) + b"/c.jsonl\0"), (entry / "cmdline").read_bytes()
                if entry.name != str(supervisor) and any(mark in line for mark in marks) and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.add(int(entry.name))
            except OSError:
                pass
    return found


# ---------------------------------------------------------------- verdicts

def test_the_row_is_the_candidate_plus_its_verdict(tmp_path):
    candidate = {**programs("p", "def f(a, b=1):\n    return a + b")[0], "n_tokens": 7, "text": "…"}
    row, = label(tmp_path, [problem("p", [call([1], 2), call([1], 6, b=5), call([2], 0)], [call([3], 4)])], [candidate])
    assert {name: row[name] for name in candidate} == candidate
    assert (row["passed"], row["status"], row["tests_passed"], row["tests_total"], row["public_passed"]) == (False, "wrong_answer", 3, 4, True)
    assert row["detail"] == "hidden test 3" and 0 < row["seconds"] < 60  # what a hidden test expects is not told


def test_public_tests_count_and_their_values_are_told(tmp_path):
    row, = label(tmp_path, [problem("p", [call([1], 1)], [call([2], 3)])], programs("p", "def f(a):\n    return a"))
    assert (row["passed"], row["public_passed"], row["tests_passed"]) == (False, False, 1)
    assert row["detail"] == "public test 1: expected 3, got 2"


def test_equal_outputs_on_public_inputs_have_equal_digests(tmp_path):
    tests = problem("p", [call([5], 0)], [call([1], [1, 2]), call([2], [2, 3])])
    same, alike, other, broken, elsewhere, another, too = label(tmp_path, [tests], programs(
        "p", "def f(a):\n    return [a, a + 1]", "def f(a):\n    x = [a]\n    x.append(a + 1.0)\n    return tuple(x) if a < 3 else 0", "def f(a):\n    return [a]",
        "def f(a):\n    raise ValueError", "def f(a):\n    return [a, a + 1] if a < 3 else None",
        "def f(a):\n    return [0]", "def f(a):\n    return [a - a]"))
    assert same["output_digest"] == alike["output_digest"] == elsewhere["output_digest"]
    assert len({row["output_digest"] for row in (same, other, broken, another)}) == 4  # right or wrong: the outputs, not the verdict
    assert another["output_digest"] == too["output_digest"]


def test_programs_stop_at_their_first_hidden_failure(tmp_path):
    tests = [{"type": "stdin", "input": f"{n}\n", "output": f"{n}\n"} for n in range(6)]
    row, = label(tmp_path, [problem("p", tests[1:], tests[:1], entry_point=None)], programs("p", "n = int(input())\nprint(n if n < 3 else 0)"))
    assert (row["passed"], row["tests_passed"], row["tests_total"], row["detail"]) == (False, 3, 6, "hidden test 3")


def test_unittest_rows_need_every_test_to_run_and_pass(tmp_path):
    head = "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n"
    sources = {"whole": head + "    def test_b(self):\n        with self.subTest():\n            self.assertEqual(f(2), 3)\n", "skips": head + "    @unittest.skip('')\n    def test_b(self):\n        pass\n",
               "patches": head + "    def test_b(self):\n        from unittest.mock import patch\n        with patch(__name__ + '.helper', return_value=9):\n            self.assertEqual(f(2), 9)\n"}
    problems = [problem(name, [{"type": "unittest", "source": source}]) for name, source in sources.items()]
    right, off = "def helper(n):\n    return n + 1\ndef f(n):\n    return helper(n)", "def helper(n):\n    return 2\ndef f(n):\n    return helper(n)"
    rows = label(tmp_path, problems, [row for name in sources for row in programs(name, right, off)])
    assert [row["passed"] for row in rows] == [True, False, False, False, True, True]


def test_asserts_may_expect_exceptions_iterators_and_changed_arguments(tmp_path):
    source = ("try:\n    f(-1)\n    assert False\nexcept ValueError:\n    pass\nassert list(f(3)) == [0, 1, 2]\nx = {'a': 1}\ng(x)\nassert x == {'a': 1, 'b': 2}\n"
              "assert math.isclose(h(2), 1.4142135, rel_tol=1e-6) and h(2) == SQUARE_ROOT")
    right = ("import math\nSQUARE_ROOT = math.sqrt(2)\ndef h(n):\n    return math.sqrt(n)\ndef g(d):\n    d['b'] = 2\n"
             "def f(n):\n    if n < 0:\n        raise ValueError\n    return (i for i in range(n))")
    rows = label(tmp_path, [problem("p", [{"type": "assert", "source": source}])], programs("p", right, right.replace("ValueError", "TypeError"), right.replace("['b'] = 2", "['b'] = 3")))
    assert [(row["passed"], row["status"]) for row in rows] == [(True, "passed"), (False, "runtime_error"), (False, "wrong_answer")]


def test_asserts_inside_see_the_candidates_own_classes(tmp_path):
    test = {"type": "assert", "source": "assert f(P(2)).n == 3", "inside": True}
    code = "class P:\n    def __init__(self, n):\n        self.n = n\ndef f(p):\n    return P(p.n + {})"
    rows = label(tmp_path, [problem("p", [test])], programs("p", code.format(1), code.format(2)))
    assert [row["passed"] for row in rows] == [True, False]


def test_a_problem_may_mix_all_types_of_test(tmp_path):
    mixed = [call([1], 2), {"type": "assert", "source": "assert f(2) == 3"}, {"type": "unittest", "source":
             "import unittest\nclass TestCases(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(3), 4)"}, {"type": "stdin", "input": "5", "output": "6"}]
    right = "def f(a):\n    return a + {}\nif __name__ == '__main__':\n    print(f(int(input())))"
    for tests in (mixed, mixed[::-1]):
        (tmp_path / "l.jsonl").unlink(missing_ok=True)
        rows = label(tmp_path, [problem("p", tests[1:], tests[:1])], programs("p", right.format(1), right.format(2)))
        assert [(row["status"], row["tests_passed"]) for row in rows] == [("passed", 4), ("wrong_answer", 0)], rows


def test_labels_do_not_depend_on_hash_seed_addresses_or_chance(tmp_path):
    codes = ["def f(n):\n    return list({'a', 'b', 'c', 'd', str(n)})", "import random\ndef f(n):\n    return random.random()", "def f(n):\n    raise KeyError(object())",
             "def f(n):\n    return hash('x')"]
    results = []
    for turn in ("one", "two"):
        (tmp_path / turn).mkdir()
        rows = label(tmp_path / turn, [problem("p", [call([1], 0)], [call([2], 0)])], programs("p", *codes))
        results.append([{name: value for name, value in row.items() if name != "seconds"} for row in rows])
    assert results[0] == results[1]


@pytest.mark.parametrize("got, expected, benchmark, exact, tolerant", [
    ((1, 2), [1, 2], True, False, True), ([(1,)], [[1]], False, False, True), (True, 1, True, False, True), (1.0, 1, True, False, True), (0.1 + 0.2, 0.3, False, False, True),
    (math.nan, math.nan, False, False, True), (2 ** 53 + 1, 2 ** 53, False, False, True), (10 ** 400, 10 ** 400, True, True, True), (10 ** 400, 1.5, False, False, False), ("a", "a", True, True, True),
    ("1", 1, False, False, False), ({"a": 1.0}, {"a": 1}, True, False, True), ([1, [2.0000000001]], [1, [2]], False, False, True), (None, None, True, True, True), ([], None, False, False, False),
    ([True], [1], True, False, True), (float("inf"), float("inf"), True, True, True)])
def test_values_are_compared_as_documented(got, expected, benchmark, exact, tolerant):
    assert [execute.same_value(got, expected, mode) for mode in ("benchmark", "exact", "tolerant")] == [benchmark, exact, tolerant]


@pytest.mark.parametrize("got, expected, benchmark, exact, tolerant", [
    ("1 2\n", "1 2", True, True, True), ("1\n2", "1 2", False, False, True), (" 1 \r\n 2\n\n", "1\n2\n", True, False, True), ("1.0", "1", True, False, True), ("1e3", "1000", True, False, True),
    ("0.3000001", "0.3", False, False, True), ("0.30001", "0.3", False, False, False), ("abc", "ABC", False, False, False), ("1  2", "1 2", True, False, True), ("", "", True, True, True),
    ("1e999999999", "1", False, False, False), ("nan", "nan", True, True, True), ("a  b", "a b", False, False, True)])
def test_text_is_compared_as_documented(got, expected, benchmark, exact, tolerant):
    assert [execute.same_text(got, expected, mode) for mode in ("benchmark", "exact", "tolerant")] == [benchmark, exact, tolerant]


def test_values_survive_the_wire():
    for value in (None, True, 0, -1, 2 ** 63, -10 ** 5000, 1.5, -0.0, math.inf, "é\udcff\0", [], [1, [2, (3, {4})]], {"a": (1,), (2, 3): {}}, {1, 2}, frozenset({(1,)}), b"\0\xff",
                  bytearray(b"x"), 1 + 2j, range(1, 10, 2)):
        wire = json.loads(json.dumps(sandbox.pack(value, [1 << 20])))
        assert sandbox.unpack(wire) == value and type(sandbox.unpack(wire)) is type(value)
    assert list(sandbox.unpack(sandbox.pack(iter([1, 2]), [100]))) == [1, 2]
    assert list(sandbox.unpack(sandbox.pack({1: 2}.keys(), [100]))) == [1]
    assert isinstance(sandbox.unpack(sandbox.pack(object(), [100])), sandbox.Opaque)


def test_the_compare_flag_reaches_the_referee(tmp_path):
    tests, codes = [problem("p", [call([], 0.3)])], programs("p", "def f():\n    return 0.1 + 0.2")
    assert [row["passed"] for row in label(tmp_path, tests, codes)] == [False]
    assert [row["passed"] for row in label(tmp_path, tests, codes, "--compare", "tolerant")] == [True]  # and the old label is not taken for done


def test_time_limits_scale_by_the_flag_only(tmp_path):
    tests, codes = [problem("p", [call([], 1)], time_limit=0.5)], programs("p", "import time\ndef f():\n    time.sleep(1.2)\n    return 1")
    assert [row["status"] for row in label(tmp_path, tests, codes)] == ["time_limit"]
    assert [row["status"] for row in label(tmp_path, tests, codes, "--timeout-scale", "10")] == ["passed"]


# ---------------------------------------------------------------- input, output, resuming

GOOD = problem("p", [call([1], 1)])
SAME = programs("p", "def f(a):\n    return a", "def f(a):\n    return -a")


@pytest.mark.parametrize("problems, candidates, flags, message", [
    ([problem("p", [])], SAME, (), "p.jsonl: problem 'p' has no tests"),
    ([problem("p", [{"type": "calls"}])], SAME, (), "p.jsonl: problem 'p', tests number 1: expected an object with 'type' one of call, stdin"),
    ([problem("p", [{"type": "stdin", "input": "x"}])], SAME, (), "problem 'p', tests number 1: a 'stdin' test needs 'output' (text)"),
    ([problem("p", [call([1], 1)], entry_point=None)], SAME, (), "needs the problem's 'entry_point'"),
    ([GOOD], programs("q", ""), (), "c.jsonl: candidate '0' is for problem 'q', which is not in"),
    ([GOOD], SAME + SAME, (), "c.jsonl, line 3: {'problem_id': 'p', 'candidate_id': '0'} is already on line 1"),
    ([GOOD], [{**SAME[0], "code": None}], (), "c.jsonl, line 1: field 'code' has the wrong type"),
    ([GOOD], SAME, ("--split", "train"), "c.jsonl: no candidates in --split train; the problems' splits are test"),
    ([GOOD], [], (), "no candidates"), ([GOOD], SAME, ("--jobs", "0"), "--jobs must be at least 1"), ([GOOD], SAME, ("--shard", "2/2"), "--shard must be I/N"),
    ([GOOD], SAME, ("--timeout-scale", "0"), "--timeout-scale must be above 0")])
def test_bad_input_is_one_line_that_names_it(problems, candidates, flags, message, tmp_path):
    done, rows = run(tmp_path, problems, candidates, *flags)
    assert done.returncode not in (0, None) and message in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not rows


def test_a_second_run_adds_only_what_is_missing_and_keeps_the_order(tmp_path):
    first = label(tmp_path, [GOOD], SAME[1:])
    both = label(tmp_path, [GOOD], SAME)
    assert [row["candidate_id"] for row in both] == ["0", "1"] and both[1] == first[0]  # the seconds, too: it was not run again
    torn = (tmp_path / "l.jsonl").read_text()[:-40]
    (tmp_path / "l.jsonl").write_text(torn)
    done, again = run(tmp_path, [GOOD], SAME)
    assert done.returncode == 0 and "1 of 2 are already labelled" in done.stdout and again[0] == both[0] and len(again) == 2


def test_labels_of_other_code_or_other_tests_are_made_anew(tmp_path):
    label(tmp_path, [GOOD], SAME)
    swapped = [{**SAME[0], "code": SAME[1]["code"]}, SAME[1]]
    assert [row["passed"] for row in label(tmp_path, [GOOD], swapped)] == [False, False]
    assert [row["passed"] for row in label(tmp_path, [problem("p", [call([1], -1)])], swapped)] == [True, True]


def test_rows_of_other_candidates_are_not_thrown_away(tmp_path):
    label(tmp_path, [GOOD], SAME)
    before = (tmp_path / "l.jsonl").read_bytes()
    done, _ = run(tmp_path, [GOOD], SAME[:1])
    assert done.returncode == 1 and "--out" in done.stderr and "are not in" in done.stderr and (tmp_path / "l.jsonl").read_bytes() == before


def test_shards_together_are_the_whole(tmp_path):
    problems = [problem(f"p{n}", [call([1], 1)]) for n in range(5)]
    candidates = [row for n in range(5) for row in programs(f"p{n}", "def f(a):\n    return a")]
    whole = label(tmp_path, problems, candidates)
    parts = []
    for shard in range(2):
        (tmp_path / "l.jsonl").unlink()
        parts += label(tmp_path, problems, candidates, "--shard", f"{shard}/2")
    strip = lambda rows: sorted(json.dumps({**row, "seconds": 0}) for row in rows)
    assert strip(parts) == strip(whole)


def test_help_is_fast_and_no_torch_is_imported():
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-X", "importtime", str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--candidates" in done.stdout and time.perf_counter() - started < 2  # generous: a busy machine
    assert not any(name in done.stderr for name in ("torch", "numpy", "tqdm", "transformers"))


# ---------------------------------------------------------------- faults

def many(count=60):
    slow = "import time\ndef f(a):\n    time.sleep(0.02)\n    return a{}"
    problems = [problem(f"p{n}", [call([n], n)], [call([1], 1)]) for n in range(count // 2)]
    return problems, [row for n in range(count // 2) for row in programs(f"p{n}", slow.format(""), slow.format(" + 1"))]


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_killed_supervisors_lose_nothing_and_leave_nothing(tmp_path):
    """DAJ_KILLS=20 repeats it as often."""
    problems, candidates = many()
    (tmp_path / "calm").mkdir()
    calm = without_seconds(label(tmp_path / "calm", problems, candidates))
    write(tmp_path / "p.jsonl", problems)
    write(tmp_path / "c.jsonl", candidates)
    generator, killed = random.Random(0), 0
    for _ in range(int(os.environ.get("DAJ_KILLS", 4))):
        supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        try:
            supervisor.wait(generator.uniform(0.15, 0.9))
        except subprocess.TimeoutExpired:
            supervisor.kill()
            killed += 1
        supervisor.wait()
        deadline = time.monotonic() + 10
        while processes(supervisor.pid, tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not processes(supervisor.pid, tmp_path)
    assert killed >= 2
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and without_seconds(read(tmp_path / "l.jsonl")) == calm, done.stderr


@pytest.mark.parametrize("role", ["referee", "zygote"])
def test_a_worker_that_dies_is_replaced(role, tmp_path):
    problems, candidates = many()
    write(tmp_path / "p.jsonl", problems)
    write(tmp_path / "c.jsonl", candidates)
    supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    killed = 0
    while supervisor.poll() is None and killed < execute.ATTEMPTS - 1:  # fewer than would use up one candidate
        time.sleep(0.1)
        for pid in processes(supervisor.pid, tmp_path):
            try:
                above = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                is_referee = above == supervisor.pid
                is_zygote = "sandbox.py\0" in Path(f"/proc/{pid}/cmdline").read_text() and "sandbox.py\0" not in Path(f"/proc/{above}/cmdline").read_text()
                if (is_referee if role == "referee" else is_zygote) and len(read_whole(tmp_path / "l.jsonl")) > 5 * killed:
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
                    break
            except OSError:
                pass
    output, _ = supervisor.communicate(timeout=60)
    assert killed and supervisor.returncode == 0, output
    rows = read(tmp_path / "l.jsonl")
    assert [row["passed"] for row in rows] == [True, False] * 30


def read_whole(path):
    return [line for line in path.read_text().splitlines(True) if line.endswith("\n")] if path.exists() else []


def test_what_the_machinery_cannot_judge_has_no_label_and_is_tried_again(tmp_path):
    """A test that kills its own referee stands for a broken sandbox."""
    broken = [{"type": "assert", "source": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"}]
    problems, candidates = [problem("p", broken), problem("q", [call([1], 1)])], programs("p", "x = 1") + programs("q", "def f(a):\n    return a")
    done, rows = run(tmp_path, problems, candidates)
    assert done.returncode == 1 and "1 programs have no label" in done.stderr
    assert [(row["passed"], row["status"]) for row in rows] == [(None, "machinery"), (True, "passed")]
    problems[0]["tests"] = [{"type": "assert", "source": "assert x == 1"}]
    assert [row["passed"] for row in label(tmp_path, problems, candidates)] == [True, True]


def test_leftovers_of_killed_runs_are_removed_and_planted_links_are_not_followed(tmp_path):
    """Whoever can write to the temporary folder can put a link there under the name of a scratch folder."""
    (tmp_path / "dear").write_text("dear")
    leftover, link = (Path(tempfile.gettempdir()) / f"judge-execute-{2 ** 22 + number}-test" for number in (1, 2))  # no such processes
    (leftover / "a" / "b").mkdir(parents=True)
    (leftover / "a").chmod(0)
    link.symlink_to(tmp_path)
    try:
        label(tmp_path, [GOOD], SAME)
        assert not leftover.exists() and link.is_symlink() and (tmp_path / "dear").read_text() == "dear"
    finally:
        link.unlink()


def test_without_namespaces_a_candidate_may_lose_its_folder_but_nobody_elses(tmp_path):
    (tmp_path / "dear").write_text("dear")
    take = f"import os\nplace = os.getcwd()\nos.chdir('/')\nos.rmdir(place)\nos.symlink({str(tmp_path)!r}, place)\ndef f(a):\n    return a"
    note = "def f(a):\n    open('note', 'w').write('x')\n    return a"
    for rights in ((), ("uid",)):  # a Python that only root can read leaves the candidates root
        (tmp_path / "l.jsonl").unlink(missing_ok=True)
        rows = label(tmp_path, [GOOD], programs("p", take, note, note), "--without", "namespaces", *rights)
        assert [row["passed"] for row in rows[1:]] == [True, True] and (tmp_path / "dear").read_text() == "dear"


def test_a_full_memory_file_system_is_not_the_next_candidates(tmp_path):
    """Files that travel in sockets to each other stay until the kernel collects them, some time after their processes are gone."""
    fill = ("import os, socket\ndef f(n):\n    a, b = socket.socketpair()\n    files = []\n    for i in range(4):\n        files.append(os.open(f'big{i}', os.O_CREAT | os.O_RDWR))\n"
            "        os.write(files[-1], b'x' * ((16 << 20) - 1))\n    for s in (a, b):\n        socket.send_fds(s, [b'x'], [a.fileno(), b.fileno(), *files])\n    os._exit(0)")
    note = "def f(a):\n    with open('note', 'w') as file:\n        file.write('x' * 1000)\n    return a"
    rows = label(tmp_path, [GOOD], programs("p", fill, note, fill, note), "--jobs", "1")
    assert [row["status"] for row in rows] == ["runtime_error", "passed"] * 2


def test_a_candidate_that_spoils_its_folder_between_its_own_tests_still_gets_a_verdict(tmp_path):
    tests = [{"type": "stdin", "input": f"{n}\n", "output": f"{n}\n"} for n in range(3)]
    code = "import os\nplace = os.getcwd()\nos.chdir('/')\ntry:\n    os.rmdir(place)\nexcept OSError:\n    pass\nprint(input())"
    rows = label(tmp_path, [problem("p", tests, entry_point=None)], programs("p", code), "--without", "namespaces")
    assert [row["status"] for row in rows] == ["passed"]


@pytest.mark.parametrize("flags", [(), ("--without", "namespaces")])
def test_signals_reach_nobody_outside_by_other_calls_either(flags, tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    code = (f"import ctypes, fcntl, os, signal, socket\ndef f(a):\n    libc, info = ctypes.CDLL(None, use_errno=True), (ctypes.c_int * 32)(15, 0, -1)\n    info[4] = os.getpid()\n"
            f"    for number in {sorted({sandbox.NUMBER[name] for name in ('rt_sigqueueinfo', 'pidfd_send_signal')})}:\n        libc.syscall(number, {other.pid}, 15, info)\n"
            f"    left, right = socket.socketpair()\n    try:\n        fcntl.fcntl(left, fcntl.F_SETOWN, {other.pid})\n        fcntl.fcntl(left, 10, 15)\n"
            "        fcntl.fcntl(left, fcntl.F_SETFL, os.O_ASYNC)\n        right.send(b'x')\n    except OSError:\n        pass\n    return a")
    try:
        assert [row["status"] for row in label(tmp_path, [GOOD], programs("p", code), *flags)] == ["passed"]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_fifty_threads_and_sockets_of_known_kinds_only(tmp_path):
    threads = "from concurrent.futures import ThreadPoolExecutor\ndef f(a):\n    with ThreadPoolExecutor(50) as pool:\n        return max(pool.map(lambda x: a, range(200)))"
    kinds = ("import socket\ndef f(a):\n    for family in (socket.AF_VSOCK, socket.AF_PACKET):\n        try:\n            socket.socket(family, socket.SOCK_STREAM)\n            return 0\n"
             "        except OSError:\n            pass\n    return a")
    memory = "import ctypes, os\ndef f(a):\n    try:\n        os.memfd_create('x')\n    except OSError:\n        return a"
    assert [row["status"] for row in label(tmp_path, [GOOD], programs("p", threads, kinds, memory))] == ["passed"] * 3


def test_packages_of_an_environment_inside_the_project_are_seen_and_the_project_is_not():
    """--site-packages with a virtual environment in the repository's own folder, as many have it; not in /tmp, which is private."""
    home = Path(tempfile.mkdtemp(prefix="judge-", dir="/var/tmp"))
    try:
        for name in ("execute.py", "data/__init__.py", "data/rows.py", "data/compare.py", "data/flags.py", "data/sandbox.py"):
            (home / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, home / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / ".venv")], check=True)
        packages = next((home / ".venv").glob("lib/python*/site-packages"))
        (packages / "mine.py").write_text("def f(a):\n    return a\n")
        shutil.copytree(Path(importlib.util.find_spec("tqdm").origin).parent, packages / "tqdm")
        subprocess.run(["chmod", "-R", "a+rX", str(home)], check=True)
        write(home / "p.jsonl", [{**GOOD, "libs": ["mine"]}])
        write(home / "c.jsonl", programs("p", f"import os\nfrom mine import f as g\ndef f(a):\n    return g(a) if not os.path.exists({str(home / 'execute.py')!r}) else 0"))
        done = subprocess.run([str(home / ".venv/bin/python"), str(home / "execute.py"), *command(home)[2:], "--site-packages"], capture_output=True, text=True, cwd=home)
        assert done.returncode == 0 and [row["status"] for row in read(home / "l.jsonl")] == ["passed"], done.stderr
    finally:
        shutil.rmtree(home)


def test_ctrl_c_says_how_to_continue_and_exits_130(tmp_path):
    problems, candidates = many(200)
    write(tmp_path / "p.jsonl", problems)
    write(tmp_path / "c.jsonl", candidates)
    # a job started in the background of a script inherits an ignored Ctrl-C; a person's does not
    supervisor = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while len(read_whole(tmp_path / "l.jsonl")) < 5:
        time.sleep(0.05)
    supervisor.send_signal(signal.SIGINT)
    _, errors = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 130 and "To continue: python" in errors and str(tmp_path / "c.jsonl") in errors and "Traceback" not in errors
    time.sleep(0.5)
    assert not processes(supervisor.pid, tmp_path)
    assert len(label(tmp_path, problems, candidates)) == 200


def test_two_runs_cannot_write_one_file(tmp_path):
    problems, candidates = many(200)
    write(tmp_path / "p.jsonl", problems)
    write(tmp_path / "c.jsonl", candidates)
    first = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
    while not read_whole(tmp_path / "l.jsonl"):
        time.sleep(0.05)
    second = subprocess.run(command(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    first.kill()
    first.wait()
    assert second.returncode == 1 and "another execute.py is writing to it" in second.stderr


# ---------------------------------------------------------------- layers

MIXED = [("f", "def f(a):\n    return a", "passed"), ("f", "def f(a):\n    return -a", "wrong_answer"), ("f", "import os\ndef f(a):\n    os._exit(0)", "runtime_error"),
         ("f", "import os\ndef f(a):\n    if os.fork() == 0:\n        os.setsid()\n        import time\n        time.sleep(600)\n    return a", "passed"),
         ("f", "def f(a):\n    while True: pass", "time_limit"), ("f", "import os\nos.makedirs('a/b')\nos.chmod('a', 0)\ndef f(a):\n    return a", "passed"), ("s", "print(input())", "passed"),
         ("s", "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(600)\nprint(input())", "passed")]
WITHOUT = {"nothing missing": (), "namespaces": ("namespaces",), "seccomp": ("seccomp",), "everything": tuple(execute.LAYERS)}


def ordinary_user():
    """A Python that a user without rights can run, and the command that becomes this user."""
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(path).exists()), None)
    if os.geteuid() != 0 or not python or not shutil.which("setpriv"):
        pytest.skip("needs root, setpriv and a system Python to become an ordinary user")
    return ["setpriv", "--reuid", "4321", "--regid", "4321", "--clear-groups", python]


@pytest.mark.parametrize("missing", WITHOUT)
def test_verdicts_are_the_same_with_layers_missing(missing, tmp_path):
    stdin = problem("s", [{"type": "stdin", "input": "x\n", "output": "x\n"}], time_limit=2)
    candidates = [{"problem_id": name, "candidate_id": str(number), "policy": "p", "code": code} for number, (name, code, _) in enumerate(MIXED)]
    flags = ("--without", *WITHOUT[missing]) if WITHOUT[missing] else ()
    rows = label(tmp_path, [problem("f", [call([1], 1)], time_limit=2), stdin], candidates, *flags)
    assert [row["status"] for row in rows] == [status for _, _, status in MIXED], [row["detail"] for row in rows]


@pytest.mark.parametrize("missing", ["nothing missing", "namespaces"])
@pytest.mark.parametrize("who", ["as we are", "ordinary user"])
def test_self_check_says_which_layers_hold(who, missing, tmp_path):
    script = SCRIPT
    start = [sys.executable]
    if who == "ordinary user":
        start, script = ordinary_user(), Path(tempfile.mkdtemp(prefix="self-check-")) / "execute.py"
        for folder in ("docs", "data"):
            (script.parent / folder).mkdir()
        for name in ("execute.py", "docs/bench_execute.py", "data/__init__.py", "data/rows.py", "data/compare.py", "data/flags.py", "data/sandbox.py"):
            shutil.copy(ROOT / name, script.parent / name)
        subprocess.run(["chmod", "-R", "a+rX", script.parent], check=True)
    try:
        flags = ("--without", *WITHOUT[missing]) if WITHOUT[missing] else ()
        done = subprocess.run([*start, str(script), "--self-check", *flags], capture_output=True, text=True, cwd="/", timeout=120)
    finally:
        if script != SCRIPT:
            shutil.rmtree(script.parent)
    assert done.returncode == 0, done.stderr
    layers = dict(line.split()[:2] for line in done.stdout.split("\n\n")[0].splitlines())
    attempts = {line[:32].strip(): line[32:].strip() for line in done.stdout.split("a program that tries:\n")[1].splitlines()}
    assert set(layers) == {*execute.LAYERS, "rlimits"} and set(attempts.values()) <= {"no", "YES"} and len(attempts) == 9
    assert attempts["takes a terabyte"] == attempts["raises its limits"] == "no"
    for layer, attempt in (("namespaces", "reads the repository"), ("namespaces", "signals other processes"), ("namespaces", "reaches the network"),
                           ("seccomp", "traces processes"), ("uid", "is root")):
        assert layers[layer] == "MISSING" or attempts[attempt] == "no", done.stdout
    if missing == "namespaces":
        assert layers["namespaces"] == "MISSING" and "switched off" in done.stdout
