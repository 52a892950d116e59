"""execute.py: what passes between a candidate's session and its grader, and how a box starts."""
import ctypes
import errno
import json
import marshal
import os
import resource
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import execute  # noqa: E402
from data.sandbox import boxes  # noqa: E402
from data.sandbox import zygote as far_side  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def problem(*tests, **more):
    return {"problem_id": "p", "prompt": "write f", "starter_code": "", "entry_point": "f",
            "public_tests": [], "tests": list(tests), "domain": "d", "difficulty": "easy",
            "split": "test", **more}


def call(args, expected):
    return {"type": "call", "args": args, "expected": expected}


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
