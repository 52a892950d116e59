"""execute.py: what passes between a candidate's session and its grader, and how a box starts."""
import ctypes
import errno
import json
import marshal
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import execute  # noqa: E402
from data.rows import UserError  # noqa: E402
from data.sandbox import boxes, grading  # noqa: E402
from data.sandbox import zygote as far_side  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def problem(*tests, **more):
    return {"problem_id": "p", "prompt": "write f", "starter_code": "", "entry_point": "f",
            "public_tests": [], "tests": list(tests), "domain": "d", "difficulty": "easy",
            "split": "test", **more}


def call(args, expected):
    return {"type": "call", "args": args, "expected": expected}


def asserts(source, **more):
    return {"type": "assert", "source": source, **more}


def stdin(given, wanted):
    return {"type": "stdin", "input": given, "output": wanted}


@pytest.fixture(scope="module")
def grade():
    """grade(problem, code): the fields that a labelled row adds."""
    cfg = execute.Settings(jobs=1)
    execute.prepare_this_process(cfg)
    pool = execute.Pool(cfg)

    def run(tests, code):
        verdict, _ = pool.grade(tests, textwrap.dedent(code))
        return verdict

    yield run
    pool.close()


REPEAT = """
    def f(text, times):
        return text * times
"""


@pytest.mark.parametrize("size, times", [
    (10, 1),
    (10, 30000),     # answers that fill a socket while requests wait in it
    (300000, 1),     # requests that fill it
    (5000, 60),      # a few requests at a time
])
def test_many_requests_and_answers_of_any_size_get_through(grade, size, times):
    tests = [call([letter * size, times], letter * size * times) for letter in "abcdefghijkl"]
    verdict = grade(problem(*tests), REPEAT)
    assert verdict["status"] == "passed"
    assert verdict["tests_passed"] == 12


def test_tests_that_fail_in_the_middle_do_not_shift_the_others(grade):
    code = """
        def f(n):
            if n % 3 == 0:
                raise ValueError(n)
            return n
    """
    verdict = grade(problem(*[call([n], n) for n in range(1, 13)]), code)
    assert verdict["status"] == "runtime_error"
    assert verdict["tests_passed"] == 8


def test_the_time_limit_is_each_tests_own_where_requests_come_together(grade):
    code = """
        import time
        def f(n):
            time.sleep(0.5)
            return n
    """
    tests = [call([n], n) for n in range(6)]
    assert grade(problem(*tests, time_limit=2.5), code)["status"] == "passed"


def test_a_test_out_of_time_leaves_those_before_it_as_they_are(grade):
    code = """
        import time
        calls = []
        def f(n):
            calls.append(n)
            if len(calls) == 4:
                time.sleep(60)
            return n
    """
    verdict = grade(problem(*[call([n], n) for n in range(8)], time_limit=1), code)
    assert verdict["status"] == "time_limit"
    assert verdict["tests_passed"] == 3


def test_a_program_that_reads_the_requests_for_itself_gains_nothing(grade):
    code = """
        import os
        os.read(3, 1 << 20)
        def f(n):
            return n
    """
    verdict = grade(problem(*[call([n], n) for n in range(8)], time_limit=1), code)
    assert verdict["passed"] is False


@pytest.mark.parametrize("answer, passed", [
    ("[n, 2]", True),
    ("(n, 2)", True),
    ("[n, 2.0]", True),
    ("[n, 3]", False),
    ("[n, '2']", False),
    ("[[n, 2]]", False),
])
def test_an_answer_is_judged_alike_whatever_the_grader_has_seen_before(grade, answer, passed):
    tests = problem(public_tests=[call([n], [n, 2]) for n in range(5)])
    first = grade(tests, "def f(n): return [n, 2]")
    alone = grade({**tests}, f"def f(n): return {answer}")
    grade(tests, "def f(n): return [n, 2]")
    after = grade(tests, f"def f(n): return {answer}")
    assert first["passed"]
    assert after["passed"] is passed
    assert after["output_digest"] == alone["output_digest"]
    assert (after["output_digest"] == first["output_digest"]) is passed


def test_nan_is_no_right_answer_the_second_time_either(grade):
    tests = problem(call([], float("nan")))
    verdicts = [grade(tests, "def f(): return float('nan')")["status"] for _ in range(2)]
    assert verdicts == ["wrong_answer", "wrong_answer"]


def test_a_program_gets_the_usual_recursion_limit_and_no_trace_of_the_rehearsal(grade):
    code = """
        import sys
        before = sorted(name for name in sys.modules if "candidate" in name)
        def f():
            return [before, 1000 <= sys.getrecursionlimit() < 1015]
    """
    assert grade(problem(call([], [["candidate"], True])), code)["status"] == "passed"


@pytest.mark.parametrize("message", [
    {},
    [],
    {"results": [[True, "passed", "", "digest"]]},
    {"results": [[2, "passed", "", "digest"]]},
    {"results": [[1, "passed", "", None]]},
    {"results": [[1, "passed", ""]]},
    {"results": [[1, "passed", "", "digest"]], "wants": "more"},
    {"results": [[1, "machinery", "your disk is broken", "digest"]]},
    {"results": [[1, ["passed"], "", "digest"]]},
    {"lost": ["foo", ""]},
    {"lost": ["gone"]},
    {"lost": ["gone", 1]},
    {"loaded": 1},
    {"results": []},
    {"results": {}},
    {"results": None},
    {"x": 1},
    {"loaded": True, "x": 1},
    ["loaded"],
    "loaded",
    1,
])
def test_what_a_grader_must_not_say_ends_it(message):
    must_end_the_grader(json.dumps(message).encode())


def test_so_does_what_is_nested_too_deeply_to_read():
    must_end_the_grader(b"[" * 200000)


def must_end_the_grader(packet):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    grader = object.__new__(boxes.Grader)
    grader.sock = ours
    grader.buffer = bytearray(1 << 20)
    theirs.send(packet)
    assert grader.hear(1, [1]) == {}
    assert grader.broken


@pytest.mark.parametrize("message", [
    """b'{"results": []}'""",
    """b'{"results": {}}'""",
    """b'{"x": 1}'""",
    """b'{"loaded": true}'""",
    """b'{"wants": "nothing"}'""",
    """b'{"wants": "again"}'""",
    "b'[' * 100000",
])
def test_a_message_forged_by_an_output_that_a_checker_evaluates_gives_a_label(grade, message):
    test = {"type": "stdin", "input": "", "output": "1\n"}
    checker = "def check(given, answer, expected):\n    return eval(answer)"
    writes = [f"__import__('os').write(3, {packet})"
              for packet in (message, """b'{"wants": "nothing"}'""")]
    tests = problem(test, checker=checker, entry_point=None)
    verdict = grade(tests, f"print({' + '.join(writes)!r})")
    assert verdict["passed"] is False
    assert verdict["status"] == "output_limit"


EVALUATED = {
    "call": problem(call([1], 1),
                    checker="def check(given, answer, expected):\n    return eval(answer)"),
    "assert": problem({"type": "assert", "source": "assert eval(f(1))"}),
}


@pytest.mark.parametrize("kind, message", [
    ("call", """b'{"wants": "again"}'"""),
    ("call", """b'{"wants": "nothing"}'"""),
    ("call", """b'{"results": [[0, "inside", "", ""]], "wants": "nothing"}'"""),
    ("call", """b'{"lost": ["inside", ""], "wants": "nothing"}'"""),
    ("assert", """b'{"wants": "again"}'"""),
    ("assert", """b'{"wants": "nothing"}'"""),
])
def test_a_message_forged_by_an_answer_that_a_test_evaluates_gives_a_label(grade, kind, message):
    written = f"__import__('os').write(3, {message})"
    verdict = grade(EVALUATED[kind], f"def f(x): return {written!r}")
    assert verdict["passed"] is False
    assert verdict["status"] in execute.FAILURES


@pytest.mark.parametrize("message", [
    b'{"results": [' + b", ".join([b'[0, "wrong_answer", "", ""]'] * 2000) + b']}',
    b'{"loaded": true}',
    b'{"lost": ["runtime_error", ""]}',
])
def test_a_grader_that_never_stops_talking_does_not_hold_the_worker_up(grade, message):
    # several at once: the worker never finds that nothing has come
    code = f"""
        def f(x):
            return '''[__import__("os").fork() for _ in range(4)] and [
                __import__("os").write(3, {message!r}) for _ in iter(int, 1)]'''
        """
    verdict = grade(EVALUATED["assert"] | {"time_limit": 2}, code)
    assert verdict["passed"] is False


def test_a_grader_that_never_listens_again_does_not_hold_the_worker_up():
    grader = object.__new__(boxes.Grader)
    grader.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def ask():
        for _ in range(2000):  # more than fit into its socket
            grader.ask({"grade": "stdin", "positions": [0]})

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    theirs.close()


def test_a_limit_of_more_than_poll_can_wait_is_no_limit(grade):
    tests = [asserts(f"assert f({n}) == {n}") for n in range(700)]
    verdict = grade(problem(*tests, time_limit=3600), "def f(n): return n")
    assert verdict["status"] == "passed"


def test_a_fault_that_is_no_text_does_not_break_the_grader(grade):
    code = """
        import json, os
        os.write(3, b"{}\\n")
        token = json.loads(os.read(3, 10000))["token"]
        told = {"ran": {"test": "wrong"}, "token": token, "fault": 5}
        os.write(3, json.dumps(told).encode() + b"\\n")
        """
    verdict = grade(problem(asserts("assert f(1) == 1", inside=True)), code)
    assert verdict["status"] == "wrong_answer"


@pytest.mark.parametrize("test", [
    call([1], 1),
    {"type": "assert", "source": "assert f(1) == 1"},
    {"type": "unittest", "source": "import unittest\nclass T(unittest.TestCase):\n"
                                   "    def test(self): self.assertEqual(f(1), 1)"},
])
def test_a_program_that_says_itself_that_its_test_must_run_inside_fails(grade, test):
    code = """
        import os
        os.write(3, b'{"error": "inside", "detail": "boo"}\\n')
        def f(x): return x
    """
    verdict = grade(problem(test), code)
    assert verdict["passed"] is False
    assert verdict["status"] in execute.FAILURES


def test_a_detail_can_be_printed_whatever_a_program_imports(grade):
    verdict = grade(problem(call([1], 1)), "__import__('\\ud800')\ndef f(x): return x")
    assert verdict["detail"].encode("utf-8")
    assert "ud800" in verdict["detail"]


def test_a_box_that_ends_before_it_starts_is_a_failure_of_the_machinery():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    box = object.__new__(boxes.Box)
    box.sock = ours
    theirs.send(b"[79565.8, 1]")  # its keeper's last words
    with pytest.raises(boxes.Machinery, match="a box broke"):
        box.hear_start()


def test_a_program_that_does_not_fit_on_the_disk_is_not_cut_short(tmp_path, monkeypatch):
    monkeypatch.setattr(far_side.os, "write", lambda file, content: len(content) - 1)
    with pytest.raises(OSError, match="No space left"):
        far_side.furnish({"code": "pass", "input": b""}, tmp_path, os.getuid())


def test_ctrl_c_means_the_same_to_a_program_however_execute_was_started(tmp_path):
    code = textwrap.dedent("""
        import os, signal
        def f():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000000):
                    pass
            except KeyboardInterrupt:
                return "interrupted"
    """)
    candidate = {"problem_id": "p", "candidate_id": "0", "policy": "x", "code": code}
    (tmp_path / "p.jsonl").write_text(json.dumps(problem(call([], "interrupted"))) + "\n")
    (tmp_path / "c.jsonl").write_text(json.dumps(candidate) + "\n")
    command = [sys.executable, str(ROOT / "execute.py")]
    for name, flag in (("p", "--problems"), ("c", "--candidates"), ("l", "--out")):
        command += [flag, str(tmp_path / f"{name}.jsonl")]
    # a shell's background job, for which Ctrl-C is ignored
    subprocess.run(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
                   capture_output=True, check=True, timeout=60)
    row = json.loads((tmp_path / "l.jsonl").read_text())
    assert row["status"] == "passed"


# ---------------------------------------------------------------- how a box ends

FOREVER = "import time\nprint('here', flush=True)\ntime.sleep(600)"


@pytest.fixture
def zygote():
    cfg = execute.Settings(jobs=1)
    execute.prepare_this_process(cfg)
    zygote = boxes.Zygote(cfg)
    yield zygote
    zygote.close()


def start(zygote, code):
    """A box with a whole program, and nobody who reads what it prints."""
    files = [boxes.memory_file(), boxes.memory_file()]
    try:
        return zygote.spawn("program", {"setup": "", "code": code}, files, 1 << 30)
    finally:
        for file in files:
            os.close(file)


def test_the_worker_has_no_descriptor_that_a_box_would_not_close(zygote):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft <= far_side.MAX_DESCRIPTORS


def test_a_box_that_cannot_be_watched_is_ended(zygote, monkeypatch):
    pids = []

    def fail(pid):
        pids.append(pid)
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", fail)
        with pytest.raises(OSError):
            start(zygote, FOREVER)
    assert len(pids) == 1
    assert not Path(f"/proc/{pids[0]}").exists()
    assert start(zygote, "pass").has_ended(60)


def test_a_zygote_says_why_it_can_make_no_box():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far = object.__new__(far_side.Zygote)
    far.unsafe = True
    far.control = theirs
    far.boxes = []
    far.new_box = ctypes.c_int()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # a box would need a descriptor
    try:
        far.spawn(False, [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    near = object.__new__(boxes.Zygote)
    near.unsafe = True
    near.sock = ours
    near.boxes = []
    with pytest.raises(boxes.Machinery, match="no box could be made .Too many open files."):
        start(near, "pass")
    assert near.boxes == far.boxes == []


def test_the_boxes_of_a_dead_zygote_end(zygote):
    running = start(zygote, FOREVER)
    zygote.process.kill()
    with pytest.raises((boxes.Machinery, OSError)):
        start(zygote, FOREVER)
    zygote.close()
    assert running.report["killed"]
    assert not Path(f"/proc/{running.pid}").exists()


def test_a_box_that_fails_to_end_does_not_keep_the_others(zygote):
    def fail(until):
        raise OSError(errno.EIO, "broken")

    broken, running = start(zygote, FOREVER), start(zygote, FOREVER)
    wait = broken.wait
    broken.wait = fail
    zygote.close()
    assert running.report["killed"]
    assert wait(time.monotonic() + 60)["code"] == -9


def look_late(monkeypatch, seconds, until):
    """Each run is looked at by so many seconds too late, and not before until(box)."""
    spawn = boxes.Zygote.spawn

    def spawn_earlier(self, *arguments):
        box = spawn(self, *arguments)
        until(box)
        box.started -= seconds
        return box

    monkeypatch.setattr(boxes.Zygote, "spawn", spawn_earlier)


WHOLE = problem({"type": "stdin", "input": "", "output": "here\n"}, time_limit=30,
                entry_point=None)


def test_a_time_limit_counts_from_the_start_of_the_program(grade, monkeypatch):
    look_late(monkeypatch, 30, lambda box: None)
    before = time.monotonic()
    verdict = grade(WHOLE, FOREVER)
    assert verdict["status"] == "time_limit"
    assert time.monotonic() - before < 25


def test_a_program_whose_end_was_seen_too_late_is_run_again(grade, monkeypatch):
    with monkeypatch.context() as patch:
        look_late(patch, 31, lambda box: box.has_ended(60))
        assert grade(WHOLE, "print('here')")["status"] == "machinery"
    assert grade(WHOLE, "print('here')")["status"] == "passed"


def test_a_program_that_ends_after_its_time_limit_has_not_passed(grade, monkeypatch):
    monkeypatch.setattr(execute, "LATE", 1000)
    look_late(monkeypatch, 31, lambda box: box.has_ended(60))
    assert grade(WHOLE, "print('here')")["status"] == "time_limit"


def test_a_zygote_that_is_alone_ends_its_boxes(zygote):
    ended = start(zygote, "pass")
    assert ended.has_ended(60)
    running = [start(zygote, FOREVER), start(zygote, FOREVER)]
    zygote.sock.close()
    assert running[0].has_ended(60)
    assert running[1].has_ended(60)


def test_a_box_that_is_about_to_start_when_the_worker_goes_ends_too(zygote):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, its_output = os.pipe()
    job = {"role": "program", "memory": 1 << 30, "setup": "", "code": FOREVER, "input": b""}
    files = [theirs.detach(), boxes.memory_file(marshal.dumps(job)), its_output]
    socket.send_fds(zygote.sock, [b"no network"], [*files, its_output])
    zygote.sock.close()
    for file in files:
        os.close(file)
    while boxes.is_readable(output, 60) and os.read(output, 100):
        pass
    assert boxes.is_readable(output, 0)  # it is at its end: nobody is left who could write
    os.close(output)
    ours.close()


# ---------------------------------------------------------------- what a row says

SAME = "def f(n): return n"
RIGHT = call([1], 1)
WRONG = call([1], 2)


@pytest.mark.parametrize("public, hidden, passed", [
    ([RIGHT, RIGHT], [WRONG], True),
    ([RIGHT, WRONG], [RIGHT], False),
    ([WRONG, RIGHT], [RIGHT], False),
    ([], [RIGHT], None),
])
def test_public_passed_is_about_all_public_tests_and_no_other(public, hidden, passed, grade):
    verdict = grade(problem(*hidden, public_tests=public), SAME)
    assert verdict["public_passed"] is passed


def test_an_output_digest_is_of_all_public_tests(grade):
    tests = problem(RIGHT, public_tests=[call([n], n) for n in range(3)])
    codes = [SAME, "def f(n): return n if n < 2 else 9", "def f(n): return n if n else 9"]
    assert len({grade(tests, code)["output_digest"] for code in codes}) == 3


def test_digests_tell_wrong_outputs_from_right_ones_and_from_each_other(grade):
    text = problem(public_tests=[stdin("", "1\n")], entry_point=None)
    found = [grade(text, f"print({n})")["output_digest"] for n in (1, 2, 3)]
    value = problem(public_tests=[call([1], 1)])
    answers = ["1", "2", "'x' * 2000 + 'a'", "'x' * 2000 + 'b'", "{1, 2}", "[1, 2]"]
    found += [grade(value, f"def f(n): return {answer}")["output_digest"] for answer in answers]
    assert len(set(found)) == 9


UNKNOWN = asserts("assert f(1) == unknown")


def test_where_a_test_cannot_be_told_its_status_is_the_row_s(grade):
    """Not that of a test that has failed, and nothing is said of the public tests either."""
    verdict = grade(problem(UNKNOWN, public_tests=[WRONG]), SAME)
    assert (verdict["passed"], verdict["status"]) == (None, "broken_test")
    assert verdict["detail"].startswith("hidden test 1: the test cannot run")
    assert verdict["public_passed"] is None
    assert verdict["output_digest"] is None


def test_whole_programs_go_on_after_a_public_failure_only(grade):
    tests = problem(stdin("3", "9"), stdin("4", "4"), entry_point=None,
                    public_tests=[stdin("1", "9"), stdin("2", "2")])
    assert grade(tests, "print(input())")["tests_passed"] == 1


def test_the_usual_limits_are_the_benchmarks():
    usual = {"call": 6, "stdin": 6, "assert": 6, "unittest": 240}
    cfg = execute.Settings(jobs=1)
    for kind, seconds in usual.items():
        tests = execute.Tests(problem({"type": kind}), "", None, cfg)
        assert tests.limit(0) == seconds


def test_a_source_of_more_than_a_megabyte_is_none(grade):
    assert grade(problem(RIGHT), SAME + " #" + "#" * (1 << 20))["status"] == "compile_error"


@pytest.mark.parametrize("code, test", [
    ("def f(n):\n    bytearray({})\n    return n", RIGHT),
    ("bytearray({})\nprint(1)", stdin("", "1")),
])
def test_memory_is_a_gigabyte_unless_told_otherwise(code, test, grade):
    assert grade(problem(test), code.format(1 << 29))["status"] == "passed"
    assert grade(problem(test), code.format(1 << 30))["status"] == "memory_limit"


def test_an_input_s_bytes_that_are_no_text_are_the_program_s(grade):
    code = "import sys\nprint(sys.stdin.buffer.read() == b'\\xff\\n')"
    tests = problem(stdin("\udcff\n", "True"), entry_point=None)
    assert grade(tests, code)["passed"] is True


def test_an_output_that_only_begins_as_expected_is_wrong(grade):
    """However long what it begins with is."""
    wanted = "x" * execute.SMALL_OUTPUT
    tests = problem(stdin("", wanted), entry_point=None)
    assert grade(tests, f"print({wanted!r}, end='')")["passed"] is True
    assert grade(tests, f"print({wanted!r} + 'y')")["passed"] is False


def test_libraries_are_asked_for_each(grade):
    verdict = grade(problem(RIGHT, libs=["json", "nosuchpackage"]), SAME)
    assert (verdict["status"], verdict["detail"]) == ("missing_dependency",
                                                      "not installed: nosuchpackage")
    assert execute.is_installed("pytest", True)
    assert not execute.is_installed("pytest", False)


# ---------------------------------------------------------------- once more, and when

def test_a_failed_machinery_is_tried_three_times(monkeypatch):
    calls = []

    def run_tests(*arguments):
        calls.append(arguments)
        if len(calls) < 3:
            raise boxes.Machinery("broken")
        return {"status": "passed"}, False

    closed = []
    monkeypatch.setattr(execute, "run_tests", run_tests)
    monkeypatch.setattr(execute, "Zygote", lambda *_: types.SimpleNamespace(
        refused=None, close=lambda: closed.append(True)))
    verdict, _ = execute.Pool(execute.Settings(jobs=1)).grade(problem(RIGHT), "")
    assert verdict["status"] == "passed"
    assert len(calls) == 3
    assert len(closed) == 2  # none that has failed is used again


@pytest.mark.parametrize("computed, preempted, load, starved", [
    (0.99, 1000, 1000, False), (0.5, 3, 0, False), (0.5, 3, 1000, True), (0.5, 200, 0, True),
])
def test_who_has_computed_or_slept_for_its_time_was_not_starved(
        computed, preempted, load, starved, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
    tests = execute.Tests(problem(RIGHT), "", None, execute.Settings(jobs=1))
    tests.out_of_time(1, {"seconds": 1.0, "cpu": computed, "preempted": preempted})
    assert tests.starved is starved


def test_whose_canonical_solution_was_starved_is_tried_again_too(monkeypatch):
    """It has not told what it thinks of the tests."""
    monkeypatch.setattr(execute.Tests, "run_session", lambda tests, *_: setattr(tests, "starved", True))
    tests = execute.Tests(problem(RIGHT), "", None, execute.Settings(jobs=1))
    tests.run_other("", "inside", [0])
    assert tests.starved


def test_a_box_reports_the_time_that_it_has_computed(zygote):
    box = start(zygote, "import time\nwhile time.process_time() < 0.3: pass")
    assert 0.2 < box.wait(box.started + 60)["cpu"]


def test_a_box_reports_how_often_it_lost_the_processor(zygote):
    """Five of its own processes want the only one that they may use: it is process 1 that counts."""
    lines = ("import os", "for _ in range(5):", "    if os.fork() == 0:", "        while True: pass",
             "while os.times().user < 1: pass")
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(zygote.process.pid, {min(processors)})
    computing = start(zygote, "\n".join(lines))
    sleeping = start(zygote, "import time\ntime.sleep(0.5)")
    assert computing.wait(computing.started + 100)["preempted"] > execute.OFTEN
    assert sleeping.wait(sleeping.started + 100)["preempted"] < execute.OFTEN


def test_a_machine_is_loaded_by_others_as_well(monkeypatch):
    for load, loaded in ((0, False), (1000, True)):
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0))
        assert execute.machine_is_loaded(1) is loaded


def test_calls_made_again_have_the_time_of_all_their_tests():
    tests = execute.Tests(problem(*[UNKNOWN] * 3, time_limit=100), "", None,
                          execute.Settings(jobs=1))
    heard = []
    tests.grader = types.SimpleNamespace(
        hear=lambda seconds, positions: heard.append(seconds) or {"wants": "nothing"})
    for kind in ("again", "assert"):
        tests.follow(types.SimpleNamespace(wait=lambda until: None), kind, [0, 1, 2])
    assert 200 < heard[0] < 301
    assert heard[1] < 101


def test_a_grader_that_has_died_while_idle_is_not_asked(zygote):
    cfg = execute.Settings(jobs=1)
    for _ in range(2):
        verdict, _ = execute.run_tests(problem(RIGHT), SAME, zygote, cfg)
        assert verdict["passed"] is True
        zygote.idle_grader.box.kill()
        assert zygote.idle_grader.box.has_ended(60)


@pytest.mark.parametrize("task", [True, False])
def test_a_grader_that_was_killed_is_no_fault_of_the_program_s(task, zygote):
    grader = execute.Grader(zygote)
    if task:  # it dies with this unread
        grader.box.send(signal.SIGSTOP)
        grader.ask({"grade": "call", "positions": [0]})
    grader.box.send(signal.SIGKILL)
    with pytest.raises(execute.Machinery):
        grader.hear(60, [0])
    grader.end()


def test_a_grader_that_ends_itself_is_one_that_has_broken_on_an_answer(zygote):
    grader = execute.Grader(zygote)
    grader.ask({"grade": "no such kind", "positions": [0]})
    assert grader.hear(60, [0]) == {}
    grader.end()


DATA = """
from dataclasses import dataclass

@dataclass
class Point:
    x: "int"
    y: "int" = 0
"""


def test_setups_and_tests_may_make_a_dataclass_whose_fields_are_annotated_by_texts(grade):
    made = "assert f(Point(1)) == 1"
    code = "def f(p):\n    return p.x"
    for row in (problem(asserts(DATA + made)), problem(asserts(made), setup=DATA)):
        assert grade(row, code)["passed"] is True
        assert grade(row, code.replace("x", "y"))["passed"] is False


def test_a_checker_may_make_one_too_and_pickle_it(grade):
    row = problem(stdin("1\n", "1\n"), checker=f"""{DATA}
import pickle

def check(given, answer, expected):
    return pickle.loads(pickle.dumps(Point(int(answer)))) == Point(int(expected))
""")
    assert grade(row, "print('01')")["passed"] is True
    assert grade(row, "print(2)")["passed"] is False


def test_a_grader_keeps_nothing_of_the_problem_before(grade):
    """Neither what was right there nor the arguments."""
    assert grade(problem(RIGHT), SAME)["passed"] is True
    assert grade(problem(WRONG), SAME)["passed"] is False
    assert grade(problem(call([2], 2)), SAME)["passed"] is True


def test_calls_have_the_same_order_each_time(grade):
    tests = problem(public_tests=[call([n], None) for n in range(9)])
    code = "import itertools\nturns = itertools.count()\ndef f(n): return next(turns)"
    assert len({grade(tests, code)["output_digest"] for _ in range(3)}) == 1


SPOILING = "__import__('sys')._getframe(2).f_globals.update(same_value=lambda *_: True) or 1"


def test_a_grader_whose_checker_has_evaluated_an_answer_is_not_used_again(grade):
    checker = "def check(given, answer, expected):\n    return eval(answer)"
    grade(problem(RIGHT, checker=checker), f"def f(n): return {SPOILING!r}")
    assert grade(problem(WRONG), SAME)["passed"] is False


INSIDE = """
    import os, sys
    def f(n):
        frame = sys._getframe()
        while frame:
            if frame.f_code.co_filename == "<test>":
                os._exit(0)
            frame = frame.f_back
        return n
"""


def test_what_has_passed_outside_does_not_count_where_all_must_run_inside(grade):
    sources = ["assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3 and f.x"]
    verdict = grade(problem(*map(asserts, sources)), INSIDE)
    assert verdict["passed"] is False
    assert verdict["tests_passed"] == 0


@pytest.mark.parametrize("more", [{}, {"setup": "import socket"}])
def test_a_program_gets_a_network_where_its_test_or_setup_names_it(more, grade):
    source = "assert f(0) == 1" if more else "import socket\nassert f(0) == 1"
    code = """
        import sys
        def f(n):
            module = sys.modules["soc" "ket"]
            getattr(module, "create_" "ser" "ver")(("127.0.0.1", 0)).close()
            return 1
    """
    assert grade(problem(asserts(source, inside=True), **more), code)["passed"] is True


def test_the_names_that_a_program_is_told_are_in_its_starter_code_as_well(grade):
    tests = problem(asserts("assert f(helper(1)) == 1"), prompt="write it",
                    starter_code="def f(n):\ndef helper(n):\n")
    assert grade(tests, SAME)["passed"] is False


def test_a_program_without_its_function_is_wrong_whatever_the_prompt_says(grade):
    for inside in (False, True):
        tests = problem(asserts("assert f(1) == 1", inside=inside), prompt="write it")
        assert grade(tests, "x = 1")["passed"] is False


# ---------------------------------------------------------------- asserts

ASSERTS = {  # what is asked -> (sources, more of the problem, a right program, a wrong one)
    "two functions with one state": (
        ["push(1)\npush(2)\nassert f() == 2\nassert f() == 1"], {},
        "kept = []\ndef push(n): kept.append(n)\ndef f(): return kept.pop()",
        "kept = []\ndef push(n): kept.append(n)\ndef f(): return kept.pop(0)"),
    "a setup with a function of that name": (
        ["assert f(1) == 1"], {"setup": "def f(n):\n    return 1\n"}, SAME, "def f(n): return 2"),
    "a number that a call changes": (
        ["assert COUNT == 0\nf()\nassert COUNT == 1"], {},
        "COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1", "COUNT = 0\ndef f(): pass"),
    "a function named like one of Python's": (
        ["assert max([3, 1]) == 1"], {"entry_point": "max"},
        "def max(x): return sorted(x)[0]", "def max(x): return sorted(x)[1]"),
    "arguments called name and self": (
        ["assert f(name=1, self=2) == [1, 2]"], {},
        "def f(name, self): return [name, self]", "def f(name, self): return [self, name]"),
    "what it has put into sys": (
        ["import sys\nsys.argv = ['x', '5']\nassert f() == '5'"], {},
        "import sys\ndef f(): return sys.argv[1]", "def f(): return '4'"),
    "what it has put into a module of the setup": (
        ["sys.argv = ['x', '5']\nassert f() == '5'"], {"setup": "import sys"},
        "import sys\ndef f(): return sys.argv[1]", "def f(): return '4'"),
    "its global names": (
        ["globals()['K'] = 5\nassert f() == 5"], {}, "def f(): return K", "def f(): return 4"),
    "a copy that it sorts": (
        ["x = [2, 1]\ny = f(x)\ny.sort()\nassert x == [2, 1]"], {},
        "def f(x): return list(x)", "def f(x): return x"),
    "a copy that it updates": (
        ["x = {1: 1}\ny = f(x)\ny.update({2: 2})\nassert x == {1: 1}"], {},
        "def f(x): return dict(x)", "def f(x): return x"),
    "a loop that a StopIteration would end": (
        ["for got, wanted in zip(map(f, [1, 2]), [1, 2]):\n    assert got == wanted"], {},
        SAME, "def f(n): raise StopIteration"),
}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ASSERTS)
def test_asserts_ask_for(name, inside, grade):
    sources, more, right, wrong = ASSERTS[name]
    tests = problem(*[asserts(source, inside=inside) for source in sources], **more)
    assert grade(tests, right)["passed"] is True
    assert grade(tests, wrong)["passed"] is False


def test_a_test_that_makes_thousands_of_calls_has_the_time_for_them(grade):
    source = "for n in range(50000):\n    assert f(n) == n"
    verdict = grade(problem(asserts(source)), SAME)
    assert verdict["passed"] is True
    assert verdict["detail"].endswith("because of test 1: the tests make thousands of calls.")
    assert grade(problem(asserts(source)), "def f(n): return min(n, 9999)")["passed"] is False


def test_each_assert_draws_the_same_inputs(grade):
    source = "import random\nassert f(random.randrange(10 ** 9)) == 906691059"
    assert grade(problem(asserts(source), asserts(source)), SAME)["passed"] is True


def test_a_program_that_raises_its_own_in_another_order_fails(grade):
    code = """
        class OutOfOrder(Exception):
            pass
        last = 0
        def f(n):
            global last
            if n < last:
                raise OutOfOrder
            last = n
            return n
    """
    tests = problem(asserts("\n".join(f"assert f({n}) == {n}" for n in range(9))))
    assert grade(tests, code)["passed"] is False


def test_each_assert_has_a_new_solution_object(grade):
    code = """
        class Solution:
            def __init__(self):
                self.memo = {}
            def f(self, n):
                return self.memo.setdefault("n", n)
    """
    sources = ["assert f(1) == 1", "assert f(2) == 2"]
    for inside in (False, True):
        tests = problem(*[asserts(source, inside=inside) for source in sources])
        assert grade(tests, code)["passed"] is True


def test_a_hundred_results_and_more_get_through_in_their_order(grade):
    tests = problem(public_tests=[call([n], n) for n in range(120)])
    verdict = grade(tests, "def f(n): return n if n < 99 else -n")
    assert verdict["tests_passed"] == 99
    assert verdict["detail"] == "public test 100: expected 99, got -99"


@pytest.mark.parametrize("end, detail", [
    ("ctypes.string_at(0)", "killed by SIGSEGV"), ("os._exit(3)", "exit status 3"),
    ("os._exit(0)", "")])
def test_how_a_program_ended_is_told(end, detail, grade):
    code = f"import ctypes, os\ndef f(n): {end}"
    told = f" ({detail})" if detail else ""
    verdict = grade(problem(public_tests=[RIGHT]), code)
    assert verdict["detail"] == f"public test 1: the program ended before it answered{told}"


@pytest.mark.parametrize("test, passed", [
    (RIGHT, True),  # as LiveCodeBench, which asks Solution first
    (asserts("assert f(1) == 1"), False),  # as plain Python
    (asserts("assert f(1) == 1", inside=True), False)])
def test_where_a_method_of_solution_has_a_function_s_name(test, passed, grade):
    code = "def f(n): return 0\nclass Solution:\n    def f(self, n): return n"
    assert grade(problem(test), code)["passed"] is passed


def test_a_memory_error_of_any_class_is_one(grade):
    code = "class Mine(MemoryError): pass\ndef f(n): raise Mine"
    assert grade(problem(RIGHT), code)["status"] == "memory_limit"
    whole = problem(stdin("", "1"), entry_point=None)
    assert grade(whole, f"{code}\nf(1)")["status"] == "memory_limit"


# ---------------------------------------------------------------- what a box has

def test_a_run_leaves_no_descriptor_open(grade):
    source = "assert f(1) == 1"
    tests = [problem(RIGHT), problem(stdin("", "1"), entry_point=None), problem(asserts(source)),
             problem(asserts(source, inside=True))]
    counts = []
    for _ in range(3):
        for one in tests:
            grade({**one}, SAME)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[1] == counts[2]


@pytest.mark.parametrize("content", [b"1\n", b"2\n"])
def test_a_grader_closes_the_outputs_that_it_has_judged(content, monkeypatch):
    grader = object.__new__(grading.Grader)
    grader.tests, grader.checker, grader.rule = [stdin("", "1\n")], "", "plain"
    found = []
    monkeypatch.setattr(grader, "result", lambda *told, **_: found.append(told), raising=False)
    file = boxes.memory_file(content)
    grader.grade_text(0, file)
    assert found[0][1] == ("passed" if content == b"1\n" else "wrong_answer")
    with pytest.raises(OSError):
        os.fstat(file)


def test_a_program_has_no_descriptor_but_its_own(grade):
    code = """
        import os
        def opened():
            found = []
            for number in range(4096):
                try:
                    os.fstat(number)
                    found.append(number)
                except OSError:
                    pass
            return found
        def f():
            return opened()
        print(opened())
    """
    assert grade(problem(call([], [0, 1, 2, 3])), code)["passed"] is True
    assert grade(problem(stdin("", "[0, 1, 2]"), entry_point=None), code)["passed"] is True


def test_a_program_sees_no_installed_packages_unless_told_to(grade):
    code = "import sys\ndef f(): return [path for path in sys.path if '-packages' in path]"
    assert grade(problem(call([], [])), code)["passed"] is True


REFUSED = dict(  # on x86_64; another list than zygote.py's, from which one may be lost
    ptrace=101, process_vm_readv=310, process_vm_writev=311, pidfd_getfd=438, kcmp=312,
    process_madvise=440, get_robust_list=274, move_pages=279, migrate_pages=256, ioprio_set=251,
    sched_setaffinity=203, sched_setscheduler=144, sched_setparam=142, sched_setattr=314,
    unshare=272, setns=308, umount2=166, open_tree=428, open_tree_attr=467, move_mount=429,
    fsopen=430, mount_setattr=442, pivot_root=155, chroot=161, add_key=248, request_key=249,
    keyctl=250, bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425,
    memfd_create=319, memfd_secret=447, shmget=29, semget=64, msgget=68, mq_open=240,
    inotify_init=253, inotify_init1=294, fanotify_init=300, io_setup=206,
    sync=162, syncfs=306, syslog=103)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_every_refused_call_is_refused(grade):
    code = f"""
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def f():
            allowed = []
            for name, number in {REFUSED}.items():
                ctypes.set_errno(0)
                if libc.syscall(number, 0, 0, 0, 0, 0, 0) >= 0 or ctypes.get_errno() != 1:
                    allowed.append(name)
            return allowed
    """
    verdict = grade(problem(public_tests=[call([], [])]), code)
    assert verdict["passed"] is True, verdict["detail"]


def test_some_calls_are_refused_by_their_arguments(grade):
    code = f"""
        import ctypes, fcntl, os, resource, signal
        libc = ctypes.CDLL(None, use_errno=True)
        def error(name, *arguments):
            ctypes.set_errno(0)
            libc[name](*arguments)
            return ctypes.get_errno()
        def f():
            with open("file", "w") as file:
                lease = error("fcntl", file.fileno(), 1024, 1)
            child = os.fork()
            if child == 0:
                signal.pause()
            old = ctypes.create_string_buffer(16)
            limits = error("prlimit", child, resource.RLIMIT_CORE, 0, old)
            os.kill(child, 9)
            parent = error("prctl", 1, 0)
            clone3 = error("syscall", {far_side.number("clone3")}, 0, 0)
            bluetooth = error("socketpair", 31, 1, 0, old)
            return [lease, limits, parent, clone3, bluetooth]
    """
    verdict = grade(problem(public_tests=[call([], [1, 1, 1, 38, 1])]), code)
    assert verdict["passed"] is True, verdict["detail"]


def test_without_a_network_no_socket_can_be_made(grade):
    code = """
        import sys
        from importlib.machinery import BuiltinImporter, PathFinder
        name = "_soc" "ket"
        def f():
            spec = BuiltinImporter.find_spec(name) or PathFinder.find_spec(name)
            found = spec.loader.load_module(name)
            try:
                getattr(found, name[1:])()
            except PermissionError:
                return "refused"
    """
    assert not execute.USES_NETWORK.search(code)
    verdict = grade(problem(public_tests=[call([], "refused")]), code)
    assert verdict["passed"] is True, verdict["detail"]


def test_a_program_s_limits(grade):
    code = """
        import resource
        def f():
            return [resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1]
                    for name in ("CORE", "NOFILE", "NPROC", "MEMLOCK", "FSIZE")]
    """
    wanted = [0, 256, 160, 0, 16 << 20]
    verdict = grade(problem(public_tests=[call([], wanted)]), code)
    assert verdict["passed"] is True, verdict["detail"]


def test_a_run_s_files_are_of_64_mb_and_4096_names_in_all(grade):
    code = """
        import os
        def f(count, size):
            written = 0
            try:
                for number in range(count):
                    with open(f"file{number}", "wb") as file:
                        file.write(bytes(size))
                    written += 1
            except OSError:
                pass
            return written
    """
    for count, size, passed in ((4, 15 << 20, True), (5, 15 << 20, False), (4000, 0, True),
                                (4200, 0, False)):
        assert grade(problem(call([count, size], count)), code)["passed"] is passed


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into a zygote")


@only_root
def test_a_zygote_keeps_no_descriptor_of_its_boxes(zygote):
    counts = []
    for _ in range(4):
        assert start(zygote, "pass").wait(time.monotonic() + 60)["code"] == 0
        counts.append(len(os.listdir(f"/proc/{zygote.process.pid}/fd")))
    assert counts[1] == counts[3]


@only_root
def test_a_box_s_mounts_go_with_it(zygote):
    start(zygote, "pass").wait(0)
    mounts = Path(f"/proc/{zygote.process.pid}/mountinfo").read_text()
    assert " /box " not in mounts


def test_children_can_be_waited_for_where_their_ends_were_ignored():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        execute.prepare_this_process(execute.Settings(jobs=1))
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_python_in_tmp_is_refused(monkeypatch):
    monkeypatch.setattr(execute, "visible_folders", lambda cfg: {"/tmp/python"})
    with pytest.raises(UserError, match="lie in /tmp"):
        execute.prepare_this_process(execute.Settings(jobs=1))
    execute.prepare_this_process(execute.Settings(jobs=1, unsafe=True))


def test_a_row_s_digest_is_of_the_flags_that_could_turn_its_verdict():
    flags = [{}, {"timeout_scale": 2.0}, {"memory_mb": 512}, {"site_packages": True},
             {"unsafe": True}]
    found = {execute.digest_of_tests(problem(RIGHT), execute.Settings(jobs=1, **more))
             for more in flags}
    assert len(found) == len(flags)
