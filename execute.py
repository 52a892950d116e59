"""Stage 2: run candidate programs in a sandbox and give each a verdict.

    python execute.py                                                   the tiny world
    python execute.py --problems P.jsonl --candidates C.jsonl --out L.jsonl

Reads   problems (their tests) and candidates (their `code`, a whole program).
Writes  labelled rows: the candidate, plus passed (true, false, or null if the machinery failed), status,
        tests_passed, tests_total, detail, seconds, public_passed, output_digest, tests_digest.

A test is one of
    {"type": "call", "args": [...], "kwargs": {...}, "expected": ...}   on the problem's `entry_point`
    {"type": "stdin", "input": "...", "output": "..."}                  a whole program
    {"type": "assert", "source": "..."}                                 lines that call the candidate's functions
    {"type": "unittest", "source": "..."}                               unittest.TestCase classes
A problem may add `setup` (source run before the candidate's), `time_limit` (seconds a test), `libs` (modules its tests
need). Public and hidden tests both count. A `stdin` problem stops at its first hidden failure, so there tests_passed says
how far it came. Calls are made in a shuffled order. When outputs are equal stands in data/compare.py.

Four kinds of process, each started by the one before:

    supervisor   reads and writes rows                                         one
    referee      its fork; knows the expected values, compares                 one for each job slot
    zygote       knows no expected value; shut off from the machine; forks     one for each referee
    candidate    one fresh fork for each type of test (each test, for stdin and unittest)

The first two are in this file; the other two, and the wall around them, in data/sandbox.py. What comes back from a
candidate is data in exact builtin types, rebuilt by the referee from JSON, so an object that claims to equal everything, a
patched builtin or a forged message gains nothing: only right outputs are right. `assert` tests run in the referee as well,
against stand-ins for the candidate's functions.

Weaker: `unittest` tests, and the few asserts marked "inside", run beside the candidate. What it could have patched is put
back first, planted tests must fail, and an operand of assertEqual that brings its own == is refused. This stops careless
cheating, not a program written against this file: an object that fools assertTrue(f(x) == 1), or a candidate that finds
the test's source in its own memory, can still pass. And an assert that calls a helper of the candidate's believes it.

NOT protected against: bugs of the kernel; timing and other side channels; exhausting the machine's memory with many
processes (the limit is per process, 64 processes a run, more without namespaces); reading the Python library and /usr; ports of the private
loopback that one run leaves in TIME_WAIT for the next. The namespaces come together or not at all; without them (see
--self-check, and a warning at the start) a candidate can read and write what the user may.
"""
import argparse
import ast
import builtins
import collections
import contextlib
import functools
import gc
import hashlib
import json
import marshal
import math
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

from data import rows, sandbox
from data.compare import digestible, lines_of, same_text, same_value
from data.flags import run as run_command, shard_of
from data.sandbox import LAYERS, MACHINE, MAX_OUTPUT, Opaque, OutputLimit, clean, describe, unpack

LIMITS = {"call": 6.0, "stdin": 6.0, "assert": 6.0, "unittest": 240.0}  # seconds a test; LiveCodeBench's, BigCodeBench's
MAX_SOURCE = 1 << 20  # bytes of a candidate's code
MAX_REFEREE = 4 << 30  # bytes of address space for comparing, beside the rows
ATTEMPTS = 3  # for the machinery; a candidate gets one
PRELUDE = "string datetime heapq bisect copy statistics operator typing types decimal fractions".split()  # often imported
FAILURES = ("wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit", "compile_error")


# ---------------------------------------------------------------- the referee: asks, compares, decides

class TimeUp(BaseException):
    pass


class Failed(BaseException):
    """The verdict on one test. A BaseException, so that no `except` in a benchmark's test swallows it."""

    def __init__(self, status, detail, over=False, error=None):
        super().__init__(status, detail)
        self.status, self.detail, self.over = status, detail, over  # over: its process is gone, no further test can run
        self.error = error  # name of the exception that the candidate raised, if it did


class Zygote:
    """The referee's end of its zygote, which is a fresh Python with nothing of ours. Every error here is the machinery's."""

    def __init__(self, options):
        self.options = options
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P and -s rather than -I, which would ignore PYTHONHASHSEED: the order of a candidate's sets would differ from run to run
        command = [sys.executable, "-P", "-s", *(() if options["site_packages"] else ("-S",)), "-W", "ignore", sandbox.__file__,
                   str(theirs.fileno()), json.dumps({**options, "parent": os.getpid()})]
        environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8:surrogateescape",
                       "LANG": "C.UTF-8", "TZ": "UTC", "MALLOC_ARENA_MAX": "1"}  # else every thread takes 64 MB of address space
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env=environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        theirs.close()
        self.nothing, self.layers = os.open(os.devnull, os.O_RDWR), self.hear()

    def hear(self):
        message = self.sock.recv(100000)
        if not message:
            raise EOFError(f"the zygote died (status {self.process.wait()})")
        return json.loads(message)

    def start(self, job, *files):
        """Starts a run with these open files as 0, 1, 2, ...; finish() must follow."""
        content = marshal.dumps(job)
        file = memory_file(content)
        socket.send_fds(self.sock, [str(len(content)).encode()], [file, *files])
        os.close(file)

    def finish(self, patience=0.0):
        """Ends the run, after `patience` seconds in which it may end by itself: (exit code, whether it did)."""
        in_time = bool(select.select([self.sock], [], [], patience)[0])
        if not in_time:
            self.sock.send(b"kill")
        code, fit = self.hear()
        if not fit:  # something is left of the run that could not be cleaned up
            self.close()
            self.__init__(self.options)
        return code, in_time

    def close(self):
        self.sock.close()
        os.close(self.nothing)
        self.process.wait()


def memory_file(content=b""):
    file = os.memfd_create("file")
    os.write(file, content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def how_it_ended(code):
    if code == -signal.SIGXCPU:
        return "time_limit", "used up its processor time"
    if -code in set(signal.Signals):
        return "runtime_error", f"killed by {signal.Signals(-code).name}"
    return {sandbox.EXIT_COMPILE: "compile_error", sandbox.EXIT_MEMORY: "memory_limit"}.get(code, "runtime_error"), f"exit status {code}"


class Talk:
    """One candidate's process, as the referee sees it: it answers the job's requests in order, then those of ask()."""

    def __init__(self, zygote, job, tests, limit):
        self.zygote, self.limit, self.calls, self.outputs, self.line, self.code = zygote, limit, [], [], b"", None
        self.sock, theirs = socket.socketpair()
        zygote.start({**job, "cpu": math.ceil(limit * (tests + 1))}, *[zygote.nothing] * 3, theirs.fileno())
        theirs.close()
        self.replies = self.sock.makefile("rb")

    def attempt(self, step):
        """One test, step(self), in its time. Raises Failed."""
        self.outputs = []
        try:
            signal.setitimer(signal.ITIMER_REAL, self.limit, 1.0)  # rings in whatever runs longer: the answer, or the comparison
            try:
                return step(self)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (Exception, TimeUp) as error:
            raise self.verdict(error) from None

    def verdict(self, error):
        """The Failed that an error means: the candidate is gone, or out of its role, and the talk is over."""
        if isinstance(error, TimeUp):
            return Failed("time_limit", f"longer than {self.limit:g} s", True)
        if isinstance(error, OutputLimit):
            return Failed("output_limit", str(error), True)
        if isinstance(error, (EOFError, OSError)):
            status, detail = how_it_ended(self.close(0.5))
            return Failed(status, f"the program ended before it answered ({detail})".replace(" (exit status 0)", ""), True)
        return Failed("runtime_error", f"not an answer ({type(error).__name__})", True)

    def reply(self):
        self.line = self.replies.readline(MAX_OUTPUT)
        if not self.line.endswith(b"\n"):
            raise OutputLimit("the answer is too large") if len(self.line) == MAX_OUTPUT else EOFError
        reply = json.loads(self.line)
        if "error" in reply:
            status = reply["error"] if reply["error"] in FAILURES else "runtime_error"
            raise Failed(status, clean(str(reply["detail"])), error=str(reply["type"]))
        return {name: unpack(item) if name in ("value", "args") else item for name, item in reply.items()}

    def ask(self, request=None, **fields):
        """The reply to a request. What goes wrong is a Failed, which no `except` of a test takes for the candidate's error."""
        try:
            self.sock.sendall(request or marshal.dumps(fields))
            return self.reply()
        except Exception as error:
            raise self.verdict(error) from None

    def close(self, patience=0.0):
        if self.zygote:
            zygote, self.zygote = self.zygote, None
            self.replies.close()
            self.sock.close()
            self.code, _ = zygote.finish(patience)
        return self.code


def judge(problem, code, zygote, options):
    """All tests of one problem on one candidate. Returns the fields that a labelled row adds to it."""
    public, started = len(problem["public_tests"]), time.perf_counter()
    tests, groups, missing, why = [*problem["public_tests"], *problem["tests"]], collections.defaultdict(list), [], None
    results = [None] * len(tests)  # (status, detail, what the digest is made of), None where not run
    job = {"setup": problem.get("setup") or "", "code": code, "entry_point": problem["entry_point"]}
    if problem.get("libs"):
        zygote.sock.send(json.dumps(problem["libs"]).encode())
        missing = zygote.hear()
    source = code.encode("utf-8", "replace")
    if missing:
        why = "missing_dependency", f"not installed: {', '.join(missing)}", None
    elif len(source) > MAX_SOURCE or source.decode() != code:
        why = "compile_error", f"the source is longer than {MAX_SOURCE} bytes, or not valid Unicode", None
    for position, test in enumerate(tests):
        results[position] = why
        groups["inside" if test.get("inside") or test["type"] == "unittest" else test["type"]].append(position)
    for kind, positions in groups.items() if not why else ():
        limit = (problem.get("time_limit") or LIMITS[tests[positions[0]]["type"]]) * options["scale"]
        if kind in ("call", "assert"):  # an answer must depend on the question, not on its turn
            random.Random(problem["problem_id"]).shuffle(positions)
        if kind == "stdin":
            for position in positions:
                status, detail, text = judge_program(zygote, job, tests[position], limit, options["compare"])
                answered = position < public and status in ("passed", "wrong_answer")
                results[position] = status, detail, hashlib.sha256("\n".join(lines_of(text)).encode()).hexdigest() if answered else status
                if status != "passed" and position >= public:
                    break
            continue
        step = {"call": functools.partial(judge_call, options["compare"]), "assert": functools.partial(judge_assert, job["entry_point"]),
                "inside": judge_inside}[kind]
        for some in [[position] for position in positions] if kind == "inside" else [positions]:  # a process each, or one for all
            requests = [{"call": job["entry_point"], "args": tests[position]["args"], "kwargs": tests[position].get("kwargs") or {}}
                        for position in some] if kind == "call" else []
            steps = {position: functools.partial(step, tests[position]) for position in some}
            talk = sit(zygote, {**job, "mode": kind, "requests": requests}, steps, limit, results, public)
        if kind == "assert" and any(results[position] and results[position][0] == "passed" for position in positions):
            salt = json.dumps([tests[position]["source"] for position in positions]).encode()
            if not repeats(zygote, job, talk.calls, limit * len(positions), salt):
                for position in positions:
                    results[position] = "wrong_answer", "the answers change with the order of the calls", "order"
    passed = [result is not None and result[0] == "passed" for result in results]
    status, detail = "passed", ""
    if not all(passed):
        position = next(index for index, result in enumerate(results) if result and result[0] != "passed")
        status, detail, _ = results[position]
        if position >= public and detail.startswith("expected "):  # what hidden tests expect stays hidden
            detail = ""
        where = f"public test {position + 1}" if position < public else f"hidden test {position - public + 1}"
        detail = detail if missing else f"{where}: {detail}".rstrip(": ")
    outputs = json.dumps([result and result[2] for result in results[:public]])
    return {"passed": None if missing else all(passed), "status": status, "tests_passed": sum(passed), "tests_total": len(tests),
            "detail": detail, "seconds": round(time.perf_counter() - started, 4),
            "public_passed": all(passed[:public]) if public and not missing else None,
            "output_digest": hashlib.sha256(outputs.encode()).hexdigest()[:16] if public and not missing else None}


def sit(zygote, job, steps, limit, results, public):
    """One process of the candidate for several tests. steps: {position: function of a Talk that raises Failed}.

    Fills in results. Returns the Talk, closed.
    """
    with contextlib.closing(Talk(zygote, job, len(steps), limit)) as talk:
        try:
            talk.attempt(Talk.reply)  # its code has run
        except Failed as failed:
            results[:] = [(failed.status, failed.detail, failed.status) if position in steps else result for position, result in enumerate(results)]
            return talk
        for position, step in steps.items():
            status, detail, over = "passed", "", False
            try:
                talk.attempt(step)
            except Failed as failed:
                status, detail, over = failed.status, failed.detail, failed.over
            answered = position < public and status in ("passed", "wrong_answer")  # right or wrong, equal answers are one cluster
            results[position] = status, detail, digestible(talk.outputs) if answered else status
            if over:
                break
    return talk


def judge_call(compare, test, talk):
    talk.outputs.append(talk.reply()["value"])
    if not same_value(talk.outputs[0], test["expected"], compare):
        raise Failed("wrong_answer", f"expected {clean(repr(test['expected']), 100)}, got {clean(repr(talk.outputs[0]), 100)}")


def repeats(zygote, job, calls, limit, salt):
    """Do the calls, [(request, digest of the reply)], get the same replies in another order? limit: seconds for all of them.

    A counter would answer differently. The order depends on `salt`, which the candidate cannot know.
    """
    order = sorted(calls, key=lambda call: hashlib.sha256(salt + call[1]).digest())
    if order == calls:
        order.reverse()
    if len({answer for _, answer in calls}) < 2:
        return True

    def same(talk):
        talk.reply()  # its code has run
        for _, answer in order:
            with contextlib.suppress(Failed):  # an error may be what was expected
                talk.reply()
            if hashlib.sha256(talk.line).digest() != answer:
                return False
        return True

    job = {**job, "mode": "call", "requests": [marshal.loads(request) for request, _ in order]}
    with contextlib.closing(Talk(zygote, job, 1, limit)) as talk, contextlib.suppress(Failed):
        return talk.attempt(same)
    return False


class Names(dict):
    """Globals of a benchmark's test: a name that neither the test nor Python knows is the candidate's, a function a stand-in."""

    def __init__(self, talk, stand_in, entry_point):
        super().__init__(__name__="test")
        self.talk, self.stand_in, self.entry_point = talk, stand_in, entry_point

    def __missing__(self, name):
        if hasattr(builtins, name) and name != self.entry_point:  # which may be named like one
            raise KeyError(name)
        kind = self.talk.ask(name=name)
        if "function" in kind:
            self[name] = functools.partial(self.stand_in, name)
        elif kind.get("module") == name and name in sys.stdlib_module_names:  # under its own name: an alias may be any module
            self[name] = __import__(name)
        elif "value" in kind and not isinstance(kind["value"], Opaque):
            self[name] = kind["value"]
        else:
            raise KeyError(name)
        return self[name]


program_of = functools.lru_cache(64)(functools.partial(compile, filename="<test>", mode="exec", dont_inherit=True))


def judge_assert(entry_point, test, talk):
    """A benchmark's assert lines, run here against stand-ins for the candidate's functions."""
    raised = []

    def stand_in(name, *args, **kwargs):
        try:
            request = marshal.dumps({"call": name, "args": list(args), "kwargs": kwargs, "back": True})
        except ValueError:
            raise Failed("runtime_error", f'the test passes {name}() what is not of a builtin type: it must be marked "inside"') from None
        try:
            reply = talk.ask(request)
        except Failed as failed:
            kind = getattr(builtins, str(failed.error), None)
            if failed.status != "runtime_error" or not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise
            raised.append(kind(failed.detail))  # a test may expect it
            raise raised[-1] from None
        finally:
            talk.calls.append((request, hashlib.sha256(talk.line).digest()))
        talk.outputs.append(reply["value"])
        for mine, after in zip(args, reply["args"]):
            if type(mine) is type(after) and mine != after and type(mine) in (list, dict, set):  # the call changed its arguments
                mine.clear()
                (mine.extend if type(mine) is list else mine.update)(after)
        return talk.outputs[-1]

    random.seed(0)  # a test may draw its inputs
    try:
        exec(program_of(test["source"]), Names(talk, stand_in, entry_point))
    except AssertionError as error:
        raise Failed("wrong_answer", describe(error)) from None
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if error in raised:
            raise Failed("runtime_error", clean(str(error))) from None
        raise Failed("wrong_answer", f"the test cannot use the answer ({describe(error)})") from None


def judge_inside(test, talk):
    """Tests run beside the candidate: each must have run once and passed, each planted one must have failed."""
    if test["type"] == "assert":
        expected, request = ["Assert.test"], {"assert": test["source"]}
    else:
        classes = [node for node in ast.parse(test["source"]).body
                   if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases)]
        expected = {f"{node.name}.{item.name}" for node in classes for item in node.body
                    if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and item.name.startswith("test")}
        request = {"unittest": test["source"], "classes": [node.name for node in classes]}
    token = os.urandom(8).hex()  # comes after the candidate's own code has run: an answer prepared there lacks it
    reply = talk.ask(**request, token=token)
    (ran, wrong), (_, planted) = reply["ran"], reply["planted"]
    talk.outputs = [sorted(ran), sorted(wrong)]
    for name in sorted(expected):
        if name in wrong or name not in ran:
            raise Failed("wrong_answer", f"{name}: {clean(str(wrong.get(name, 'did not run')), 200)}")
    if len(planted) != 4 or ran != dict.fromkeys(expected, 1) or reply["token"] != token:
        raise Failed("runtime_error", "the program interferes with its tests")


def judge_program(zygote, job, test, limit, compare):
    """One run of a whole program: (status, detail, what it printed). Its outputs are files in memory, whose size its limits bound."""
    files = [memory_file(test["input"].encode("utf-8", "surrogateescape")), memory_file(), memory_file()]
    zygote.start({**job, "mode": "stdin", "cpu": math.ceil(limit) + 1}, *files)
    code, in_time = zygote.finish(limit)
    out, err = (os.pread(file, MAX_OUTPUT, 0) for file in files[1:])
    for file in files:
        os.close(file)
    text, failed = out.decode("utf-8", "replace"), ("passed", "")
    if MAX_OUTPUT in (len(out), len(err)):
        failed = "output_limit", f"more than {MAX_OUTPUT} bytes"
    elif not in_time:
        failed = "time_limit", f"longer than {limit:g} s"
    elif code:
        status, detail = how_it_ended(code)
        failed = status, clean((err.decode("utf-8", "replace").strip().splitlines() or [detail])[-1])
    elif not same_text(text, test["output"], compare):
        failed = "wrong_answer", f"expected {clean(repr(test['output']), 100)}, got {clean(repr(text), 100)}"
    return *failed, text


# ---------------------------------------------------------------- the supervisor: rows in, rows out

def work(sock, jobs, options, parent):
    """A referee: the number of a job in, its verdict out, until the supervisor hangs up. Never returns."""
    def ring(*_):
        raise TimeUp

    sandbox.die_with(parent)
    sandbox.prctl(sandbox.DUMPABLE, 0)  # other processes of the same user cannot look into this one
    gc.freeze()  # what the supervisor left behind must not be collected here: it would close files by numbers that are ours now
    os.setsid()  # Ctrl-C is the supervisor's business
    with open("/proc/self/statm") as file:
        most = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE") + MAX_REFEREE
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    os.dup2(sock.detach(), 3)
    os.closerange(4, 4096)
    sock = socket.socket(fileno=3)
    signal.signal(signal.SIGALRM, ring)
    try:
        zygote = Zygote(options)
        os.dup2(zygote.nothing, 0)
        os.dup2(zygote.nothing, 1)  # a benchmark's test may print
        missing = [f"{name} ({why})" for name, why in zygote.layers.items() if why and why != "switched off"]
        if missing and options["speak"]:
            os.write(2, f"warning: isolation without {', '.join(missing)}; see --self-check\n".encode())
        while number := sock.recv(100):
            problem, candidate = jobs[int(number)]
            sock.send(json.dumps(judge(problem, candidate["code"], zygote, options)).encode())
        zygote.close()
    except Exception as error:  # the machinery's: the supervisor starts another referee
        sock.send(json.dumps({"machinery": describe(error)}).encode())
    os._exit(0)


def label(jobs, options, workers):
    """Yields (candidate, verdict) for (problem, candidate) pairs, in the order in which they are ready."""
    waiting, tries, parent = collections.deque(range(len(jobs))), collections.Counter(), os.getpid()
    team = {}  # {socket: [the referee's process, number of its job, deadline]}
    problems = {id(problem): problem for problem, _ in jobs}.values()
    kinds = {test["type"] for problem in problems for test in problem["public_tests"] + problem["tests"]}
    sources = {problem.get("setup") or "" for problem in problems} | {candidate["code"] for _, candidate in jobs}
    # An import costs milliseconds in every run, or a few pages in every fork: the zygote has what is named anywhere.
    preload = [name for name in PRELUDE if any(name in source for source in sources)]
    options = {**options, "preload": preload + ["unittest", "unittest.mock"] * ("unittest" in kinds), "speak": True}

    def hire():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                work(theirs, jobs, options, parent)
            finally:
                os._exit(1)
        theirs.close()
        team[ours], options["speak"] = [pid, None, None], False
        begin(ours)

    def begin(sock):
        number = waiting.popleft()
        problem = jobs[number][0]
        times = [problem.get("time_limit") or LIMITS[test["type"]] for test in problem["public_tests"] + problem["tests"]]
        team[sock][1:] = number, time.monotonic() + 60 + 6 * options["scale"] * sum(times)
        with contextlib.suppress(OSError):  # it has died: its answer will be the end of file
            sock.send(str(number).encode())

    def dismiss(sock, kill):
        pid, _, _ = team.pop(sock)
        if kill:
            os.kill(pid, signal.SIGKILL)
        sock.close()
        os.waitpid(pid, 0)

    try:
        while waiting or team:
            while waiting and len(team) < workers:
                hire()
            ready = select.select(list(team), [], [], 1.0)[0]
            for sock in [sock for sock in team if sock in ready or team[sock][2] < time.monotonic()]:
                number, answer = team[sock][1], {"machinery": "the referee died or stalled"}
                if sock in ready:
                    with contextlib.suppress(OSError, ValueError):
                        answer = json.loads(sock.recv(1 << 20))
                if "machinery" in answer:
                    dismiss(sock, True)
                    tries[number] += 1
                    if tries[number] < ATTEMPTS:
                        waiting.appendleft(number)
                        continue
                    answer = {"passed": None, "status": "machinery", "tests_passed": 0, "tests_total": 0,
                              "detail": answer["machinery"], "seconds": 0.0, "public_passed": None, "output_digest": None}
                elif waiting:
                    begin(sock)
                else:
                    dismiss(sock, False)
                yield jobs[number][1], answer
    finally:
        for sock in list(team):
            dismiss(sock, True)


def digest_of_tests(problem, options):
    """Changes when the verdict could: a row labelled by other tests or options is not taken for done."""
    judged = [problem.get(name) for name in ("entry_point", "public_tests", "tests", "setup", "libs", "time_limit")]
    judged += [options[name] for name in ("compare", "scale", "memory_mb", "site_packages")]
    return hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:12]


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Run candidate programs in a sandbox and label them.")

    def add(flag, help, default=None, **more):
        parser.add_argument(flag, default=default, help=help + (f" (default: {default})" if default else ""), **more)

    add("--problems", nargs="+", help="problems (JSONL); without it, those of the tiny world")
    add("--candidates", help="candidates (JSONL); without it, runs/tiny/candidates.jsonl or, if you have none, the repository's")
    add("--out", help="labelled rows, without it runs/tiny/labelled.jsonl; a second run adds only what is missing")
    add("--split", nargs="+", help="only problems of these splits")
    add("--shard", default="0/1", metavar="I/N", help="only every N-th problem, starting at I; the outputs can be concatenated")
    add("--jobs", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(), help="candidates run at the same time")
    add("--timeout-scale", type=float, default=1.0, help="multiply every time limit, for slow machines")
    add("--memory-mb", type=int, default=1024, help="address space of each process of a candidate")
    add("--compare", choices=("benchmark", "exact", "tolerant"), default="benchmark", help="how outputs are compared")
    add("--site-packages", action="store_true", help="candidates may import what is installed here (numpy, ...)")
    add("--without", f"switch off layers of isolation ({', '.join(LAYERS)})", [], nargs="+", choices=LAYERS, metavar="LAYER")
    add("--self-check", action="store_true", help="try to break out; print what holds on this machine")
    add("--benchmark", action="store_true", help="measure executions per second and what each layer costs")
    settings = parser.parse_args(arguments)
    shard = shard_of(settings.shard)
    for good, complaint in (
            (settings.jobs >= 1, "--jobs must be at least 1"), (settings.timeout_scale > 0, "--timeout-scale must be above 0"),
            (settings.memory_mb >= 64, "--memory-mb must be at least 64")):
        if not good:
            parser.error(complaint)
    settings.shard = shard
    return settings


def read_jobs(settings):
    """Returns ([(problem, candidate)], all candidates of the file, its path)."""
    paths = settings.problems or [rows.TINY / "problems_weak.jsonl", rows.TINY / "problems_strong.jsonl"]
    source = settings.candidates or rows.stage_input("candidates.jsonl")
    settings.out = settings.out or str(rows.ROOT / "runs" / "tiny" / "labelled.jsonl")
    problems, where = rows.read_problems(paths), " ".join(map(str, paths))
    candidates = rows.read_rows(source, rows.CANDIDATE, key=("problem_id", "candidate_id"))
    print(f"problems:   {where}\ncandidates: {source}\nlabelled:   {settings.out}")
    mine, jobs = set(list(problems)[settings.shard[0]::settings.shard[1]]), []
    for candidate in candidates:
        problem = problems.get(candidate["problem_id"])
        if problem is None:
            raise rows.UserError(f"{source}: candidate {candidate['candidate_id']!r} is for problem {candidate['problem_id']!r}, "
                                f"which is not in {where}; add its file to --problems")
        if (not settings.split or problem["split"] in settings.split) and problem["problem_id"] in mine:
            jobs.append((problem, candidate))
    if not jobs:
        splits = ", ".join(sorted({problem["split"] for problem in problems.values()}))
        chosen = f"in --split {' '.join(settings.split)}" if settings.split else "to run"
        raise rows.UserError(f"{source}: no candidates {chosen}; the problems' splits are {splits}")
    for problem in {problem["problem_id"]: problem for problem, _ in jobs}.values():
        rows.check_tests(problem, where)
    return jobs, candidates, source


def run(settings, options):
    """Labels what is not labelled yet, reports, and returns the exit status."""
    import shlex
    jobs, candidates, source = read_jobs(settings)
    sandbox.prctl(sandbox.DUMPABLE, 0)
    order = {(row["problem_id"], row["candidate_id"]): (position, row) for position, row in enumerate(candidates)}
    digests = {problem["problem_id"]: digest_of_tests(problem, options) for problem, _ in jobs}

    def is_done(row):  # the same tests have judged the same candidate; machinery failures get another chance
        return (row.get("status") != "machinery" and order[out.key_of(row)][1].items() <= row.items()
                and row.get("tests_digest") == digests.get(row["problem_id"], row.get("tests_digest")))

    with rows.Appender(settings.out, ("problem_id", "candidate_id")) as out:
        old = rows.read_rows(settings.out)
        strange = [row for row in old if out.key_of(row) not in order]
        if strange:
            raise rows.UserError(f"--out {settings.out}: {len(strange)} of its rows (the first: {out.key_of(strange[0])}) are not in "
                                f"{source}; choose another --out, or remove the file if its labels are no longer wanted")
        good = [row for row in old if is_done(row)]
        if len(good) < len(old):
            out.rewrite(good)
            print(f"{len(old) - len(good)} rows of {settings.out} are labelled again: their candidate or its tests have changed, or the machinery failed")
        todo = [(problem, candidate) for problem, candidate in jobs if out.key_of(candidate) not in out.done]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are already labelled")
        try:
            from tqdm import tqdm
            tqdm.monitor_interval, counts = 0, collections.Counter()  # no thread: we fork
            with tqdm(total=len(todo), unit="program", disable=not todo, smoothing=0.05) as bar:
                for candidate, answer in label(todo, options, settings.jobs):
                    out.append({**candidate, **answer, "tests_digest": digests[candidate["problem_id"]]})
                    counts[answer["passed"]] += 1
                    bar.set_postfix(passed=counts[True], failed=counts[False], null=counts[None], refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            print(f"\nstopped; nothing is lost. To continue: python {shlex.join(sys.argv)}", file=sys.stderr)
            return 130
        labelled = rows.read_rows(settings.out)
        arranged = sorted(labelled, key=lambda row: order[out.key_of(row)][0])
        if arranged != labelled:
            out.rewrite(arranged)
    wanted = {out.key_of(candidate) for _, candidate in jobs}
    return report([row for row in arranged if out.key_of(row) in wanted], settings)


def report(labelled, settings):
    """A table by policy, and the command to run next. Returns the exit status."""
    count, firsts = collections.Counter(row["status"] for row in labelled), {row["status"]: row["detail"] for row in labelled[::-1]}
    names = [name for name in ("passed", *FAILURES, "missing_dependency", "machinery") if count[name]]
    policies = sorted({row["policy"] for row in labelled})
    print(f"\n{'policy':24}{'programs':>10}" + "".join(f"{name:>20}" for name in names))
    for policy in policies + ["all"] * (len(policies) > 1):
        mine = [row for row in labelled if policy in ("all", row["policy"])]
        print(f"{policy:24}{len(mine):10}" + "".join(f"{sum(row['status'] == name for row in mine):20}" for name in names))
    if count["missing_dependency"]:
        print(f"\n{count['missing_dependency']} programs have no label: {firsts['missing_dependency']} "
              "(--site-packages lets candidates use what is installed here)")
    if count["machinery"]:
        print(f"\n{count['machinery']} programs have no label, because the sandbox failed ({firsts['machinery']}). Run the same command "
              "again to retry them; python execute.py --self-check says what works here.", file=sys.stderr)
        return 1
    problems = f" --problems {' '.join(settings.problems)}" if settings.problems else ""
    print(f"\nnext: python train_bilevel.py{problems}" + (f" --labelled {settings.out}" if problems else ""))
    return 0


@contextlib.contextmanager
def scratch_folder():
    """A folder for what candidates write where they have no private file tree. Cleans up after killed runs, too."""
    folder = tempfile.mkdtemp(prefix=f"judge-execute-{os.getpid()}-")
    os.chmod(folder, 0o711)
    try:
        yield folder
    finally:
        for entry in os.scandir(tempfile.gettempdir()):
            run = re.fullmatch(r"judge-execute-(\d+)-\w+", entry.name)
            over = run and (entry.path == folder or not os.path.exists(f"/proc/{run[1]}"))
            # a real folder of our own: somebody else's link of that name may point to what is dear to us
            if over and entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                with contextlib.suppress(OSError):
                    sandbox.empty(entry.path)
                    os.rmdir(entry.path)


def main(arguments=None):
    settings = parse_arguments(arguments)
    sys.set_int_max_str_digits(50000)  # as LiveCodeBench: its tests hold long integers
    if sys.platform != "linux" or MACHINE not in ("x86_64", "aarch64"):
        raise SystemExit("execute.py needs Linux on x86_64 or aarch64; on other systems run it in a Linux container")
    if settings.site_packages and sys.prefix.startswith("/tmp/") and "namespaces" not in settings.without:
        raise SystemExit(f"--site-packages: the packages of this Python lie in /tmp ({sys.prefix}), where candidates get a folder of "
                         "their own; use a virtual environment elsewhere, or add --without namespaces")
    options = {"compare": settings.compare, "scale": settings.timeout_scale, "memory_mb": settings.memory_mb,
               "site_packages": bool(settings.site_packages), "without": settings.without}
    with scratch_folder() as options["scratch"]:
        if settings.self_check or settings.benchmark:
            sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "docs"))
            import bench_execute
            return (bench_execute.self_check if settings.self_check else bench_execute.benchmark)(options)
        return run(settings, options)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of a set in a benchmark's test must not differ from run to run
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    run_command(main)
