"""Stage 2: run candidate programs in a sandbox and give each a verdict.

    python execute.py                                    the world of edge cases
    python execute.py --problems P.jsonl --candidates C.jsonl --out L.jsonl
    python execute.py --check-problems --problems P.jsonl    can these tests tell right from wrong?
    python execute.py --self-check                       what holds on this machine

Reads problems (their tests) and candidates (their `code`, a whole program). Writes the candidates
with their verdicts:

    {..., "passed": false, "status": "wrong_answer", "tests_passed": 6, "tests_total": 12,
     "detail": "public test 2: expected [0, 8], got [8]", "seconds": 0.0091, "public_passed": false,
     "output_digest": "f648fa71fddb7413", "tests_digest": "a0412324ad50-6cdf"}

Public and hidden tests both count. `passed` is null where nothing can be said about the program:
the machinery failed, the tests cannot run ("broken_test"), or it needs what is not there, most
often a package ("missing_dependency"). A `stdin` problem stops at its first hidden failure, so
there tests_passed says how far it came. data/sandbox/compare.py says which outputs count as
equal, data/rows.py what a row may hold.

A program is judged as plain Python would judge it, but:
- An answer may depend on its question, not on its turn. `call` tests are made in a shuffled order,
  asserts in their own. Where the calls of asserts give other answers in another order, the asserts
  fail, unless the same is true of the problem's canonical_solution.
- A problem's asserts share one process, in which a failed one does not end the others. What ends
  the process (exit, a crash, the time limit) fails one, and those after it are not run.
- Tests that run inside (below) may compare two objects of one class of the program's. Where they
  ask one for `3 in container`, `vector - 1` or `point == (1, 2)`, which a program could make true,
  they fail. Or they give no label, if the canonical_solution brings them to it as well or, where
  there is none, if the problem asks for a class that these tests call.
- There is no /proc, /dev/stdout or /dev/stderr: a program that opens its output by such a name gets
  no label (`passed` is null). Descriptors 0 to 2, /dev/stdin and /dev/fd/0 work.
- The input of a whole program ends with a newline, as contests' files do, though a row's may not.
- Integers may be read and printed at any length; plain Python stops at 4300 digits.
- A program is process 1 of its namespace: a signal that it sends itself (SIGKILL, SIGTERM, an
  alarm) does nothing where it has no handler for it; plain Python would die. Not so with --unsafe.
- SystemExit ends a whole program well, whatever its status, as in LiveCodeBench; but one that exits
  with a status because a package is missing gets no label.
- A test that looks at the order of a set in an answer may see another.
- A test that pickles the program's function, for a Pool of its own, fails; programs may have one.

Three kinds of process, whose files lie in data/sandbox/:

    worker     this one: reads and writes rows; sends jobs to boxes, takes short answers and holds
               the clock
    zygote     a fresh Python that forks a box for every run; one or two for each job slot
    box        new namespaces, folder, limits and no rights, for one run: of the candidate, or of
               the grader, which knows the tests and compares

The candidate and the grader share no memory. What crosses is data of builtin types, so no object
can pretend to equal what is expected. The clock of a test runs from the moment when the candidate
may start, or the test before has its result, until the test has its own. A grader that has only
compared data is used for the next candidate as well.

NOT protected against, even so:
- Tests that run *inside*, in the candidate's process: `unittest` tests, asserts marked so, and
  asserts whose values cannot cross; then `detail` says so, and a program can bring that about.
  Where one of a problem's asserts must, all do: what one leaves in the program, the next ones see.
  Stopped there: functions that it has patched before its tests run, an == of its own in what the
  test compares (a == b, assertEqual, operator.eq, numpy's functions), lying about what ran.
  Not stopped is a program that
    patches while a test calls it, or patches a class of the library,
    puts a class of its own into a module that the test has not imported,
    changes a function, a class's bases or a test's mock in place,
    gives what has an == of its own to a test's match, list.count(), set or dict, or in an iterator,
    reads or changes its tests through stack frames, what they define at their top level, trace or
    audit hooks, gc or ctypes,
    counts its calls, or answers the grader's request itself.
- An assert that evaluates or unpickles an answer, or calls a helper of the candidate's, believes
  it. So does a test that compares two objects of one class of the candidate's, whose == is then the
  program's own.
- A program that imports what does not exist, or ends as if its problem were at fault, to have no
  label rather than a bad one.
- Bugs of the kernel; timing and other side channels; the machine's clock, load, kernel version and
  memory size, which can be read, as can the Python library and /usr.
- Exhausting the machine: memory is limited for each process (160 a run) and in files (64 MB).
  Locks on devices (/dev/null, ...) are the machine's own; where overlays cannot
  be mounted, so are those on files of /usr. An ordinary user's programs share with the user's
  other processes what is counted by user: the size of pipes, signals that wait.
- --unsafe: no namespaces. A program then sees and writes what its user may (where we are root, an
  unprivileged one), what leaves its process group outlives it, and what it took the rights from
  stays in the temporary folder. An ordinary user's program can also stop or kill the processes
  that watch over its run and over others: then nobody clears up, all wait for some minutes, or it
  gets no label.
- Whoever kills this process and its zygotes at the same time: a program that has replaced itself
  from a thread lives on.
"""
import collections
import contextlib
import hashlib
import importlib.util
import itertools
import json
import marshal
import os
import random
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

from data import rows
from data.flags import check_bounds, flag, heading, parse, shard_of
from data.flags import run as run_command
from data.rows import UserError
from data.sandbox.boxes import Grader, Machinery, Zygote, memory_file, visible_folders
from data.sandbox.candidate import EXIT_CODES
from data.sandbox.compare import RULES, without_mark
from data.sandbox.grading import HOLD, text_digest
from data.sandbox.inside import ASKS_FOR_OWN
from data.sandbox.sources import (
    asks_for_a_class, fault_of_test, imports_of, lines_that_assert_nothing, may_change_values,
    names_what_is_nowhere, needs_inside, refuse_long_numbers, to_its_end)
from data.sandbox.wire import MAX_OUTPUT, NO_SOURCE, clean, describe
from data.sandbox.zygote import ARCHITECTURE, MACHINE, MAX_STACK, MAX_DESCRIPTORS

# Seconds a test; LiveCodeBench's and BigCodeBench's.
LIMITS = {"call": 6.0, "stdin": 6.0, "assert": 6.0, "unittest": 240.0}
MAX_SOURCE = 1 << 20  # bytes of a candidate's code
SMALL_OUTPUT = 1 << 16  # bytes: one that is the expected text itself needs no grader
ATTEMPTS = 3  # for the machinery; a candidate's own failure is final, but see label()
# Seconds: if a program that was not killed is seen to have ended more than this after its limit, we
# have looked too late, and it is run again.
LATE = 0.1
# Times that a program loses the processor to others, within one run. One that sleeps loses it a few
# times, one that computes beside others a hundred times a second. The load, an average of a minute,
# does not tell this in time.
OFTEN = 50
# A program gets a network, a loopback of its own, only if it, its setup or its tests name what
# could use one: of Python's own library (with --site-packages always). Else it can make no socket.
# It makes a box cost one and a half times as much.
USES_NETWORK = re.compile(
    "socket|ssl|http|url|rpc|ftp|poplib|imap|nntp|smtp|telnet|async|multiprocessing|concurrent|"
    "logging|wsgi|server|client|"
    "webbrowser|pydoc|ctypes|subprocess|import_module|__import__|exec|eval|system|popen|spawn")
CHECKER_NEVER_ENDS = "its checker crashes or does not end, even of what is expected"
FAILURES = ("wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit",
            "compile_error")
NO_LABEL = ("broken_test", "missing_dependency", "machinery")  # statuses of which `passed` is null


@dataclass
class Settings:
    heading("what to run")
    problems: list = flag(list, "problems (JSONL); without it, those of the world of edge cases")
    candidates: str = flag(None, "candidates (JSONL); without it, runs/edges/candidates.jsonl or, "
                                 "if you have none, the repository's", type=str)
    out: str = flag(None, "labelled rows; a second run adds only what is missing (default: "
                          "labelled.jsonl beside --candidates, or in runs/edges)", type=str)
    split: list = flag(list, "only problems of these splits")
    shard: str = flag("0/1", "only every N-th problem, starting at I; the outputs can be "
                             "concatenated", metavar="I/N")

    heading("limits")
    jobs: int = flag(lambda: len(os.sched_getaffinity(0)), "candidates run at the same time",
                     least=1)
    timeout_scale: float = flag(1.0, "multiply every time limit, for slow machines", above=0)
    memory_mb: int = flag(1024, "address space of each process of a candidate", least=64)

    heading("the sandbox")
    site_packages: bool = flag(False, "candidates may import what is installed here (numpy, ...)")
    unsafe: bool = flag(False, "run where the namespaces cannot be had: programs then see and "
                               "write what their user may")

    heading("checks, instead of running candidates")
    self_check: bool = flag(False, "try to break out; print what holds on this machine")
    check_problems: bool = flag(False, "run canonical solutions and programs that do nothing; "
                                       "print the problems that cannot tell them apart")

    def __post_init__(self):
        check_bounds(self)
        shard_of(self.shard)
        if self.out is None:
            folder = os.path.dirname(self.candidates) if self.candidates else rows.EDGES_RUN
            self.out = os.path.join(folder, "labelled.jsonl")
        if self.candidates and os.path.realpath(self.out) == os.path.realpath(self.candidates):
            raise UserError(f"--out {self.out}: is --candidates as well; give another --out")


# ---------------------------------------------------------------- one candidate's tests

def how_it_ended(code):
    """(status, detail) of a program that ended by itself with this exit code, -n for signal n."""
    if -code in set(signal.Signals):
        return "runtime_error", f"killed by {signal.Signals(-code).name}"
    known = {of_status: status for status, of_status in EXIT_CODES.items()}
    return known.get(code, "runtime_error"), f"exit status {code}"


class Tests:
    """All tests of one problem on one candidate.

    results: [(status, detail, what the digest is made of)] by the test's position, None where it
    was not run. starved: a test was stopped for its time, though the program had not been computing
    for all of it, and this may be others' doing.
    """

    def __init__(self, problem, code, zygote, cfg):
        self.problem = problem
        self.code = without_mark(code)
        self.zygote = zygote
        self.cfg = cfg
        self.tests = [as_it_runs(test)
                      for test in [*problem["public_tests"], *problem["tests"]]]
        self.n_public = len(problem["public_tests"])
        self.results = [None] * len(self.tests)
        self.setup = without_mark(problem.get("setup") or "")
        self.prompt = f"{problem['prompt']}\n{problem.get('starter_code') or ''}"
        sources = [code, self.setup, *(test["source"] for test in self.tests if "source" in test)]
        self.network = cfg.site_packages or any(USES_NETWORK.search(source) for source in sources)
        self.why_inside = ""  # where the asserts have run there, though none is marked so
        self.grader = None
        self.starved = False

    def run(self):
        """Fill in results."""
        why = self.reason_not_to_run()
        if why:
            self.fail(range(len(self.tests)), *why)
            return
        groups = collections.defaultdict(list)
        for position, test in enumerate(self.tests):
            groups[test["type"]].append(position)
        try:
            if "stdin" in groups:
                self.run_programs(groups["stdin"])
            if "call" in groups:  # an answer must depend on the question, not on its turn
                random.Random(self.problem["problem_id"]).shuffle(groups["call"])
                self.run_session("call", groups["call"])
            if "assert" in groups:
                self.run_asserts(groups["assert"])
            for position in groups["unittest"]:
                self.run_inside([position])
        finally:
            self.dismiss_grader()

    def status(self, position):
        return self.results[position] and self.results[position][0]

    def reason_not_to_run(self):
        """(status, detail) that all tests get, or None."""
        libs = self.problem.get("libs") or []
        missing = [name for name in libs if not is_installed(name, self.cfg.site_packages)]
        if missing:
            return "missing_dependency", f"not installed: {', '.join(missing)}"
        source = self.code.encode("utf-8", "replace")
        if len(source) > MAX_SOURCE or source.decode() != self.code:
            detail = f"the source is longer than {MAX_SOURCE} bytes, or not valid Unicode"
            return "compile_error", detail
        for name in ("setup", "checker"):
            try:
                refuse_long_numbers(self.problem.get(name) or "")
            except ValueError as error:
                return "broken_test", f"its {name}: {describe(error)}"
        for test in self.tests:
            if test["type"] in ("assert", "unittest"):
                fault = fault_of_test(test["source"])
                if fault:
                    return "broken_test", fault
        return None

    def limit(self, position):
        seconds = self.problem.get("time_limit") or LIMITS[self.tests[position]["type"]]
        return seconds * self.cfg.timeout_scale

    def ask_grader(self, task, *files):
        """Give it a task, and before that the tests, if those that it has are another problem's."""
        if self.grader is None:
            idle, self.zygote.idle_grader = self.zygote.idle_grader, None
            self.grader = idle if idle and not idle.box.has_ended(0) else Grader(self.zygote)
        if self.grader.problem is not self.problem:
            self.grader.problem = self.problem
            job = {
                "tests": self.tests,
                "entry_point": self.problem["entry_point"],
                "setup": self.setup,
                "prompt": self.prompt,
                "compare": rule_of(self.problem),
                "checker": without_mark(self.problem.get("checker") or ""),
                "changing": self.changing_asserts(),
            }
            job_file = memory_file(marshal.dumps(job))
            self.grader.ask({"grade": "tests"}, job_file)
            os.close(job_file)
        self.grader.ask(task, *files)

    def changing_asserts(self):
        """Positions of those that may change a value in place that the program holds as well."""
        setup_may = may_change_values(self.setup)
        return [position for position, test in enumerate(self.tests)
                if test["type"] == "assert" and (setup_may or may_change_values(test["source"]))]

    def dismiss_grader(self):
        """One that has run a test's own code may be spoilt; one that has not is used again."""
        if self.grader is None:
            return
        grader, self.grader = self.grader, None
        asserts = any(test["type"] == "assert" and not test.get("inside") for test in self.tests)
        ran_code = asserts or self.problem.get("checker")
        if ran_code or grader.broken or self.zygote.idle_grader:
            grader.end()
        else:
            self.zygote.idle_grader = grader

    # the kinds of test

    def run_programs(self, positions):
        """`stdin` tests: a fresh box for each, until the first hidden failure."""
        for position in positions:
            self.results[position] = self.run_program(position)
            if self.results[position][0] != "passed" and position >= self.n_public:
                break

    def run_program(self, position):
        """(status, detail, digest) of one `stdin` test."""
        limit = self.limit(position)
        given = self.tests[position]["input"]
        if given and not given.endswith("\n"):
            given += "\n"  # as a text file has it: programs cut the last character of every line
        given = given.encode("utf-8", "surrogateescape")
        job = {"setup": self.setup, "code": self.code, "input": given}
        files = [memory_file(), memory_file()]
        try:
            box = self.zygote.spawn("program", job, files, self.cfg.memory_mb << 20, self.network)
            failure = self.failure_of(box.wait(box.started + limit), limit, *files)
            if failure:
                return (*failure, failure[0])
            return self.judge_output(position, files[0])
        finally:
            for file in files:
                os.close(file)

    def failure_of(self, report, limit, out, err):
        """(status, detail) of a whole program that did not end well, or None."""
        said = os.fstat(err).st_size
        if MAX_OUTPUT in (os.fstat(out).st_size, said):
            return "output_limit", f"{MAX_OUTPUT} bytes or more"
        if not report["killed"] and report["seconds"] > limit + LATE:
            raise Machinery("this machine was too busy to see when a program ended")
        if report["seconds"] > limit:
            return self.out_of_time(limit, report)
        if not report["code"]:
            return None
        status, detail = how_it_ended(report["code"])
        last_words = os.pread(err, 10000, max(0, said - 10000)).decode("utf-8", "replace").strip()
        if last_words:
            detail = last_words.splitlines()[-1]
        return status, in_words(status, detail)

    def judge_output(self, position, file):
        """(status, detail, digest) of a whole program's output."""
        expected = self.tests[position]["output"]
        if os.fstat(file).st_size <= SMALL_OUTPUT and not self.problem.get("checker"):
            got = os.pread(file, SMALL_OUTPUT, 0).decode("utf-8", "replace")
            if got.rstrip("\n") == expected.rstrip("\n"):  # right by every rule
                return "passed", "", text_digest(expected)
        self.ask_grader({"grade": "stdin", "positions": [position]}, file)
        message = self.grader.hear(self.limit(position), [position])
        if message and message.get("wants") == "nothing":
            if "results" in message:
                _, status, detail, digest = message["results"][0]
                return *possible("stdin", status, detail), digest
            if "lost" in message:
                status, detail = possible("stdin", *message["lost"])
                return status, detail, status
        self.dismiss_grader()
        if self.checker_never_ends(position):
            return "broken_test", CHECKER_NEVER_ENDS, "broken_test"
        if message is None:
            return "time_limit", "its output takes too long to compare", "time_limit"
        return "output_limit", "its output takes too much memory to compare", "output_limit"

    def checker_never_ends(self, position):
        """Or does it crash, even where the answer is what its test expects?"""
        if not self.problem.get("checker"):
            return False
        self.ask_grader({"grade": "checker", "positions": [position]})
        message = self.grader.hear(self.limit(position), [])
        self.dismiss_grader()
        return not message

    def out_of_time(self, limit, report):
        if report["cpu"] < 0.9 * report["seconds"]:
            self.starved |= report["preempted"] > OFTEN or machine_is_loaded(self.cfg.jobs)
        return "time_limit", f"longer than {limit:g} s"

    def run_asserts(self, positions):
        """All in one process, in their order: outside, or inside if one of them must be there.

        Results of both would not fit together: each process would have seen some of the tests only.
        """
        if not any(self.tests[position].get("inside") for position in positions):
            self.run_outside(positions)
            must = [position for position in positions if self.status(position) == "inside"]
            if not must:
                return
            _, why, _ = self.results[must[0]]
            self.why_inside = f"asserts ran inside, because of test {must[0] + 1}: {why}."
        for position in positions:
            self.results[position] = None
        self.run_inside(positions)

    def run_outside(self, positions):
        """Asserts in their order. Some pass in no other: is that what the problem asks for?"""
        for position in positions:
            if needs_inside(self.tests[position]["source"]):
                self.fail([position], "inside", "the test asks what cannot be seen from outside")
                return
        in_order = self.run_session("assert", positions)
        canonical = self.problem.get("canonical_solution")
        if not in_order or not isinstance(canonical, str):
            return
        _, solution_in_order = self.run_other(canonical, "assert", positions)
        if solution_in_order.keys() >= in_order.keys():
            for position, result in in_order.items():
                self.results[position] = result

    def run_inside(self, positions):
        """Asserts, or one file of unittests, in one process of the candidate's."""
        self.run_session("inside", positions)
        broken = [position for position in positions if self.status(position) == "broken_test"]
        if not broken:
            return
        # really? A program could have brought it about, but not for others
        others = [code for code in ("", self.problem.get("canonical_solution"))
                  if isinstance(code, str)]
        found = [self.run_other(code, "inside", positions)[0] for code in others]
        for position in broken:
            _, detail, _ = self.results[position]
            source = self.tests[position]["source"]
            faulty = any(results[position] == self.results[position] for results in found)
            if len(others) == 1:  # there is no solution to ask
                faulty |= names_what_is_nowhere(detail, self.setup, source)
                asked = asks_for_a_class(source, self.problem["entry_point"], self.prompt)
                faulty |= detail == ASKS_FOR_OWN and asked
            if not faulty:
                self.fail([position], "wrong_answer", detail)

    def run_other(self, code, kind, positions):
        """What these tests say of another program: its results, and what run_session returns."""
        other = Tests(self.problem, code, self.zygote, self.cfg)
        try:
            in_order = other.run_session(kind, positions)
        finally:
            other.dismiss_grader()
        self.starved |= other.starved
        return other.results, in_order

    def run_session(self, kind, positions):
        """One process of the candidate for these tests, perhaps one for their calls reordered.

        Returns {position: result} of those that have passed in their own order only.
        """
        if not self.follow(self.spawn_session(kind, positions), kind, positions):
            return {}
        passed = {position: self.results[position] for position in positions
                  if self.status(position) == "passed"}
        if not passed:  # it has nothing to ask again: only a forged message wants to
            return {}
        again = list(passed)
        self.follow(self.spawn_session("again", again), "again", again)
        return {position: result for position, result in passed.items()
                if self.results[position][2] == "order"}

    def spawn_session(self, kind, positions):
        ours, theirs = socket.socketpair()
        job = {"setup": self.setup, "code": self.code, "entry_point": self.problem["entry_point"]}
        if kind == "inside":
            tests = [self.tests[position] for position in positions]
            imports = {name for test in tests for name in imports_of(test["source"])}
            with contextlib.suppress(*NO_SOURCE):  # a setup that cannot run
                imports |= imports_of(self.setup)
            job["inside"] = {"imports": sorted(imports), "prompt": self.prompt,
                             "unittest": tests[0]["type"] == "unittest"}
        memory = self.cfg.memory_mb << 20
        try:
            self.ask_grader({"grade": kind, "positions": positions}, ours.fileno())
            return self.zygote.spawn("session", job, [theirs.fileno()], memory, self.network)
        finally:
            ours.close()
            theirs.close()

    def follow(self, box, kind, positions):
        """Take the grader's messages about a session (their table: grading.py).

        Returns whether it wants another session.

        What ends the session early counts against the tests at stake: all without a result as long
        as the program is still loading, or while calls are made again; else the one in progress.
        """
        waiting = list(positions)  # for their results
        loaded = False
        limit = self.limit(positions[0]) * (len(positions) if kind == "again" else 1)
        deadline = time.monotonic() + limit + HOLD
        while True:
            message = self.grader.hear(deadline - time.monotonic(), waiting)
            if loaded and message == {"loaded": True}:  # nothing new: nonsense, perhaps for ever
                message = {}
            done_before = len(waiting)
            for position, status, detail, digest in (message or {}).get("results", []):
                self.results[position] = *possible(kind, status, detail), digest
                if position in waiting:
                    waiting.remove(position)
            at_stake = waiting[:1] if loaded and kind != "again" else waiting
            if not message:
                report = box.wait(0)
                self.dismiss_grader()
                ending = "output_limit", "its answers take too much memory to grade"
                if message is None:
                    ending = self.out_of_time(limit, report)
                if loaded and kind == "call" and any(map(self.checker_never_ends, at_stake)):
                    ending = "broken_test", CHECKER_NEVER_ENDS
                self.fail(at_stake, *ending)
                return False
            if "lost" in message:
                status, detail = message["lost"]
                if status == "gone":
                    status, detail = self.how_it_left(box)
                self.fail(at_stake, *possible(kind, status, detail))
            if "wants" in message:
                box.wait(0)
                failed = {self.status(position) for position in positions} - {None, "passed"}
                if waiting and not failed and kind != "again":  # so says only a forged message
                    self.fail(waiting, "runtime_error", "the tests were broken off")
                return message["wants"] == "again"
            if "loaded" in message and not loaded or len(waiting) < done_before:
                loaded = True
                deadline = time.monotonic() + limit + HOLD  # the next test's

    def fail(self, positions, status, detail):
        for position in positions:
            self.results[position] = status, detail, status

    def how_it_left(self, box):
        """(status, detail) of a session's program that has closed its socket."""
        report = box.wait(time.monotonic() + 0.5)  # it may need a moment to end
        if report["killed"]:
            return "runtime_error", "the program does not answer any more"
        status, detail = how_it_ended(report["code"])
        detail = f"the program ended before it answered ({detail})"
        return status, detail.replace(" (exit status 0)", "")

    # the verdict

    def verdict(self, seconds):
        """The fields that a labelled row adds to its candidate."""
        statuses = [self.status(position) for position in range(len(self.tests))]
        passed = [status == "passed" for status in statuses]
        failed = [position for position, status in enumerate(statuses)
                  if status not in (None, "passed")]
        untold = [position for position in failed if statuses[position] in NO_LABEL]
        status = "passed"
        detail = self.why_inside
        if failed:
            status, detail = self.failure_at((untold or failed)[0])
        public_passed = None
        output_digest = None
        if self.n_public and not untold:
            public_passed = all(passed[:self.n_public])
            outputs = json.dumps([result and result[2] for result in self.results[:self.n_public]])
            output_digest = hashlib.sha256(outputs.encode()).hexdigest()[:16]
        return {
            "passed": None if untold else all(passed),
            "status": status,
            "tests_passed": sum(passed),
            "tests_total": len(self.tests),
            "detail": detail,
            "seconds": round(seconds, 4),
            "public_passed": public_passed,
            "output_digest": output_digest,
        }

    def failure_at(self, position):
        """(status, detail) of a test, with its place; what hidden tests expect stays hidden."""
        status, detail, _ = self.results[position]
        if status == "missing_dependency":
            return status, detail
        if position < self.n_public:
            return status, f"public test {position + 1}: {detail}"
        if status == "wrong_answer":
            detail = ""
        return status, f"hidden test {position - self.n_public + 1}: {detail}".rstrip(": ")


def as_it_runs(test):
    """What a test of its type needs; what else its row has is nobody's business here.

    Source and input begin as Python reads a file, without a byte order mark; a source ends without
    an exit.
    """
    kind = test["type"]
    fields = ["type", *rows.TESTS[kind], *rows.MAY_HAVE.get(kind, [])]
    needed = {name: test[name] for name in fields if name in test}
    for name in ("source", "input"):
        if name in needed:
            needed[name] = without_mark(needed[name])
    if "source" in needed:
        needed["source"] = to_its_end(needed["source"], kind)
    return needed


def rule_of(problem):
    return problem.get("compare") or "plain"


def is_installed(name, site_packages):
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names:
        return True
    return site_packages and importlib.util.find_spec(package) is not None


def possible(kind, status, detail):
    """(status, detail) of a test of this kind. Only asserts can be sent inside."""
    if status == "gone" or status == "inside" and kind != "assert":  # a forged message
        status = "runtime_error"
    return status, in_words(status, detail)


def in_words(status, detail):
    detail = clean(detail)
    return f"not installed: {detail}" if status == "missing_dependency" else detail


def run_tests(problem, code, zygote, cfg):
    """All tests on one candidate: (fields of its labelled row, whether it was starved)."""
    started = time.perf_counter()
    tests = Tests(problem, code, zygote, cfg)
    tests.run()
    return tests.verdict(time.perf_counter() - started), tests.starved


# ---------------------------------------------------------------- a pool of workers

class Pool:
    """Idle zygotes of both kinds; one that has failed is not used again."""

    def __init__(self, cfg):
        """Raises UserError where candidates cannot be shut in, and --unsafe is not given."""
        self.cfg = cfg
        first = Zygote(cfg)
        if first.refused:
            if "cannot read" in first.refused:
                advice = ("candidates run as another user than root: use a Python that every user "
                          "can read")
            elif cfg.unsafe:
                advice = "run it as an ordinary user, or as the machine's real root"
            else:
                advice = ("allow user namespaces (sysctl user.max_user_namespaces, or docker run "
                          "--privileged), or give --unsafe if you trust the programs")
            raise UserError(
                f"candidates cannot be shut in on this machine ({first.refused}): {advice}")
        self.idle = {False: collections.deque([first]), True: collections.deque()}

    def grade(self, problem, code):
        """run_tests on an idle zygote or a new one; where the machinery fails, on another."""
        tests = problem["public_tests"] + problem["tests"]
        with_unittest = any(test["type"] == "unittest" for test in tests)
        idle = self.idle[with_unittest]
        for _ in range(ATTEMPTS):
            zygote = None
            try:
                try:
                    zygote = idle.popleft()
                except IndexError:
                    zygote = Zygote(self.cfg, with_unittest)
                if zygote.refused:  # though the first was not
                    raise Machinery(zygote.refused)
                answer = run_tests(problem, code, zygote, self.cfg)
                idle.append(zygote)
                return answer
            except (Machinery, OSError, ValueError) as error:
                reason = describe(error)
                if zygote:
                    zygote.close()
        verdict = {
            "passed": None,
            "status": "machinery",
            "tests_passed": 0,
            "tests_total": 0,
            "detail": reason,
            "seconds": 0.0,
            "public_passed": None,
            "output_digest": None,
        }
        return verdict, False

    def close(self):
        for zygote in self.idle[False] + self.idle[True]:
            zygote.close()


def label(jobs, cfg):
    """Yields (candidate, verdict) for (problem, candidate) pairs, as they become ready.

    A program that was out of time without having had the processor, on a loaded machine or because
    it lost it to others, is tried once more, alone.
    """
    pool = Pool(cfg)
    # not in a `with`, which would wait for them after Ctrl-C
    workers = ThreadPoolExecutor(cfg.jobs)
    starved = []
    waiting = iter(jobs)
    running = {}
    while True:
        for problem, candidate in itertools.islice(waiting, 2 * cfg.jobs - len(running)):
            running[workers.submit(pool.grade, problem, candidate["code"])] = problem, candidate
        if not running:
            break
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            problem, candidate = running.pop(done)
            verdict, was_starved = done.result()
            if was_starved:
                starved.append((problem, candidate))
            else:
                yield candidate, verdict
    for problem, candidate in starved:
        verdict, _ = pool.grade(problem, candidate["code"])
        yield candidate, verdict
    workers.shutdown()
    pool.close()


def machine_is_loaded(jobs):
    processors = len(os.sched_getaffinity(0))
    return jobs > processors or os.getloadavg()[0] > processors + 0.5


def prepare_this_process(cfg):
    """Raise UserError where boxes cannot work; give them a large stack; warn of --unsafe."""
    if sys.platform != "linux" or MACHINE not in ARCHITECTURE:
        raise UserError("execute.py needs Linux on x86_64 or aarch64; on other systems run it in a "
                        "Linux container")
    for folder in visible_folders(cfg):
        if f"{folder}/".startswith("/tmp/") and not cfg.unsafe:
            raise UserError(f"this Python or its packages lie in /tmp ({folder}), where candidates "
                            "get a folder of their own; use a Python elsewhere, or --unsafe")
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    most = MAX_STACK if hard == resource.RLIM_INFINITY else min(MAX_STACK, hard)
    warnings.simplefilter("ignore", SyntaxWarning)  # of the tests' sources
    # zygotes inherit it; it counts when a program is started
    resource.setrlimit(resource.RLIMIT_STACK, (most, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # a job slot takes some ten
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_DESCRIPTORS, hard), hard))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no child could be waited for
    if cfg.unsafe:
        print("warning: --unsafe: candidates can see and write what their user may",
              file=sys.stderr)


# ---------------------------------------------------------------- rows in, rows out

def digest_of_tests(problem, cfg):
    """Changes when the verdict could: a row labelled by other tests is not taken for done.

    Two digests and a "-" between them: of the problem, which later stages compare with theirs, and
    of the flags.
    """
    flags = [cfg.timeout_scale, cfg.memory_mb, cfg.site_packages, cfg.unsafe]
    of_flags = hashlib.sha256(json.dumps(flags).encode()).hexdigest()[:4]
    return f"{rows.digest_of_tests(problem)}-{of_flags}"


def read_problems(cfg):
    """Returns ({problem_id: problem} of this shard and these splits, all problems, their files)."""
    paths = cfg.problems or rows.EDGES_PROBLEMS
    problems = rows.read_problems(paths)
    index, count = shard_of(cfg.shard)
    mine = {name: problems[name] for name in list(problems)[index::count]
            if not cfg.split or problems[name]["split"] in cfg.split}
    where = " ".join(map(str, paths))
    for problem in mine.values():
        if rule_of(problem) not in RULES:
            raise UserError(f"{where}: problem {problem['problem_id']!r}: 'compare' is "
                            f"{rule_of(problem)!r}; must be one of {', '.join(RULES)}")
    return mine, problems, paths


def must_be_out_of_sight(cfg, *paths):
    """What holds tests must not lie where candidates may read."""
    repository = os.path.realpath(rows.ROOT) + "/"  # hidden from candidates, wherever it lies
    for path in map(os.path.realpath, paths):
        for folder in visible_folders(cfg):
            if path.startswith(folder + "/") and not path.startswith(repository) and not cfg.unsafe:
                raise UserError(
                    f"{path}: lies in {folder}, which candidates may read; move it elsewhere")


def read_jobs(cfg):
    """Returns ([(problem, candidate)], all candidates of the file, its path)."""
    source = cfg.candidates or rows.stage_input("candidates.jsonl")
    mine, problems, paths = read_problems(cfg)
    where = " ".join(map(str, paths))
    candidates = rows.read_rows(source, rows.CANDIDATE, key=rows.CANDIDATE_KEY)
    print(f"problems:   {where}\ncandidates: {source}\nlabelled:   {cfg.out}")
    must_be_out_of_sight(cfg, *paths, source, cfg.out)
    jobs = []
    for candidate in candidates:
        name = candidate["problem_id"]
        if name not in problems:
            raise UserError(f"{source}: candidate {candidate['candidate_id']!r} is for problem "
                            f"{name!r}, which is not in {where}; add its file to --problems")
        if name in mine:
            jobs.append((mine[name], candidate))
    if not jobs:
        splits = ", ".join(sorted({problem["split"] for problem in problems.values()}))
        chosen = f"in --split {' '.join(cfg.split)}" if cfg.split else "to run"
        raise UserError(f"{source}: no candidates {chosen}; the problems' splits are {splits}")
    for problem in {problem["problem_id"]: problem for problem, _ in jobs}.values():
        rows.check_tests(problem, where)
    return jobs, candidates, source


def label_file(cfg):
    """Labels what is not labelled yet, reports, and returns the exit status."""
    jobs, candidates, source = read_jobs(cfg)
    prepare_this_process(cfg)
    problems = {problem["problem_id"]: problem for problem, _ in jobs}
    digests = {name: digest_of_tests(problem, cfg) for name, problem in problems.items()}
    with rows.Appender(cfg.out, rows.CANDIDATE_KEY) as out:
        candidate_at = {out.key_of(row): row for row in candidates}
        order = {key: position for position, key in enumerate(candidate_at)}
        old = rows.read_rows(cfg.out)
        strange = [row for row in old if out.key_of(row) not in order]
        if strange:
            raise UserError(
                f"--out {cfg.out}: {len(strange)} of its rows (the first: "
                f"{out.key_of(strange[0])}) are not in {source}; choose another --out, or remove "
                "the file if its labels are no longer wanted")
        good = [row for row in old if is_done(row, candidate_at[out.key_of(row)], digests)]
        if len(good) < len(old):
            out.rewrite(good)
            print(f"{len(old) - len(good)} rows of {cfg.out} are labelled again: their candidate, "
                  "its tests, the flags or the form of tests_digest have changed, or the machinery "
                  "failed")
        todo = [job for job in jobs if out.key_of(job[1]) not in out.done]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are already labelled")
        for candidate, verdict in with_progress(label(todo, cfg), len(todo)):
            tests_digest = digests[candidate["problem_id"]]
            out.append({**candidate, **verdict, "tests_digest": tests_digest})
        labelled = rows.read_rows(cfg.out)
        arranged = sorted(labelled, key=lambda row: order[out.key_of(row)])
        if arranged != labelled:
            out.rewrite(arranged)
    wanted = {out.key_of(candidate) for _, candidate in jobs}
    return report([row for row in arranged if out.key_of(row) in wanted], cfg)


def is_done(row, candidate, digests):
    """Have the same tests judged the same candidate? Failed machinery gets another chance."""
    tests_digest = row.get("tests_digest")
    return (row.get("status") != "machinery"
            and candidate.items() <= row.items()
            and tests_digest == digests.get(row["problem_id"], tests_digest))


def with_progress(verdicts, total):
    from tqdm import tqdm
    tqdm.monitor_interval = 0
    counts = collections.Counter()
    with tqdm(total=total, unit="program", disable=not total, smoothing=0.05) as bar:
        for candidate, verdict in verdicts:
            yield candidate, verdict
            counts[verdict["passed"]] += 1
            bar.set_postfix(passed=counts[True], failed=counts[False], null=counts[None],
                            refresh=False)
            bar.update()


def report(labelled, cfg):
    """A table by policy, what has no label and why, the next command. Returns the exit status."""
    count = collections.Counter(row["status"] for row in labelled)
    names = [name for name in ("passed", *FAILURES, *NO_LABEL) if count[name]]
    policies = sorted({row["policy"] for row in labelled})
    print(f"\n{'policy':24}{'programs':>10}" + "".join(f"{name:>20}" for name in names))
    for policy in policies + ["all"] * (len(policies) > 1):
        mine = collections.Counter(row["status"] for row in labelled
                                   if policy in ("all", row["policy"]))
        print(f"{policy:24}{mine.total():10}" + "".join(f"{mine[name]:20}" for name in names))
    advice_on = {
        "missing_dependency": "--site-packages lets candidates use what is installed here",
        "broken_test": "--check-problems looks at a file's tests",
    }
    for status, advice in advice_on.items():
        details = collections.Counter(row["detail"] for row in labelled if row["status"] == status)
        if details:
            reasons = "; ".join(f"{detail} ({times})" for detail, times in details.most_common(5))
            print(f"\n{count[status]} programs have no label: {reasons} ({advice})")
    fenced = sum(row["status"] == "compile_error" and "\n```" in f"\n{row['code']}"
                 for row in labelled)
    if fenced:
        print(f"\nnote: {fenced} programs that do not compile have lines that begin with ```: "
              "`code` must be the program alone")
    if count["machinery"]:
        first = next(row["detail"] for row in labelled if row["status"] == "machinery")
        print(f"\n{count['machinery']} programs have no label, because the sandbox failed "
              f"({first}). Run the same command again to retry them; "
              "python execute.py --self-check says what works here.", file=sys.stderr)
        return 1
    next_stage = ["train_bilevel.py"]
    if cfg.problems:
        folder = os.path.join(os.path.dirname(cfg.out), "run")
        next_stage += ["--problems", *cfg.problems, "--labelled", cfg.out]
        next_stage += ["--judge", "NAME_OR_PATH", "--out", folder]
    print(f"\nnext: python {shlex.join(next_stage)}")
    return 0


# ---------------------------------------------------------------- --check-problems and --self-check

EMPTY = "an empty program"
CANONICAL = "the canonical solution"
IDLE = "a function that does nothing"


def check_problems(cfg):
    """Name the problems that cannot tell their canonical solution from a program that does nothing.

    Such are an empty one, and one that defines the entry point alone. Returns the exit status.
    """
    mine, _, paths = read_problems(cfg)
    must_be_out_of_sight(cfg, *paths)
    prepare_this_process(cfg)
    jobs = []
    for name, problem in mine.items():
        rows.check_tests(problem, " ".join(map(str, paths)))
        programs = {EMPTY: ""}
        if isinstance(problem.get("canonical_solution"), str):
            programs[CANONICAL] = problem["canonical_solution"]
        if (problem["entry_point"] or "").isidentifier():
            programs[IDLE] = f"def {problem['entry_point']}(*args, **kwargs):\n    pass\n"
        jobs += [(problem, {"problem_id": name, "kind": kind, "code": code})
                 for kind, code in programs.items()]
    complaints = {name: faults_seen(problem) for name, problem in mine.items()}
    for candidate, verdict in with_progress(label(jobs, cfg), len(jobs)):
        kind = candidate["kind"]
        found = complaints[candidate["problem_id"]]
        told = f"{verdict['status']} ({verdict['detail']})"
        if kind == CANONICAL and verdict["passed"] is not True:
            found.append(f"{kind} gets {told}")
        elif kind != CANONICAL and verdict["passed"]:
            found.append(f"{kind} passes")
        elif kind == EMPTY and verdict["passed"] is None:
            found.append(f"{kind} gets no label: {told}")
    for name, found in complaints.items():
        if found:
            print(f"{name}: {'; '.join(sorted(found))}")
    n_fine = sum(not found for found in complaints.values())
    print(f"{n_fine} of {len(mine)} problems can tell them apart")
    without = len(mine) - sum(candidate["kind"] == CANONICAL for _, candidate in jobs)
    if without:
        print(f"{without} have no canonical_solution, so only programs that do nothing were run")
    return 0 if n_fine == len(mine) else 1


def faults_seen(problem):
    """[what is plainly wrong with a problem's sources], seen without running them."""
    found = []
    for test in [*problem["public_tests"], *problem["tests"]]:
        with contextlib.suppress(*NO_SOURCE):
            if test["type"] in ("assert", "unittest"):
                found += lines_that_assert_nothing(test["source"])
    checker = without_mark(problem.get("checker") or "")
    try:
        refuse_long_numbers(checker)
        compile(checker, "<checker>", "exec", dont_inherit=True)
        if checker and not re.search(r"\bcheck\b", checker):
            found.append("the checker does not define check(given, answer, expected)")
    except NO_SOURCE as error:
        found.append(f"the checker cannot run ({describe(error)})")
    return found


PROBES = {  # what a program tries -> how
    "reads the repository": "os.listdir(repository) != []",
    "writes outside of its folder": "any(map(writable, ('/', '/usr', '/var/tmp', repository)))",
    "signals other processes": "os.kill(outside, 0) is None",
    "reaches the network": "socket.create_connection(('127.0.0.1', port), 1) is not None",
    "traces processes": "ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "makes a user namespace": "ctypes.CDLL(None).unshare(0x10000000) == 0",
    "is root": "os.getuid() == 0",
    "takes a terabyte": "len(bytearray(1 << 40)) > 0",
    "raises its limits": "resource.setrlimit(resource.RLIMIT_CORE, (1, 1)) is None",
    "starts 1000 processes": "all(sleeper() for _ in range(1000))",
}
PROBE = '''
import ctypes, os, resource, socket, time

def probe(attempt, repository, outside, port):
    try:
        return bool(eval(attempt, {**globals(), **locals()}))
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


def self_check(cfg):
    """Can candidates be shut in here, and what does a program that tries to break out get done?

    Raises UserError where they cannot be, unless --unsafe is given.
    """
    prepare_this_process(cfg)
    outside = subprocess.Popen(["sleep", "600"])  # a process that no candidate should reach
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            _, port = server.getsockname()
            jobs = [probe_job(name, [attempt, str(rows.ROOT), outside.pid, port])
                    for name, attempt in PROBES.items()]
            found = {candidate["name"]: answer for candidate, answer in label(jobs, cfg)}
    finally:
        outside.kill()
        outside.wait()
    print("namespaces MISSING  (--unsafe)" if cfg.unsafe else "namespaces hold")
    print("\na program that tries:")
    words = {"passed": "no", "wrong_answer": "YES"}
    for name in PROBES:
        print(f"  {name:30} {words.get(found[name]['status'], found[name])}")
    return 0


def probe_job(name, args):
    """(a problem whose test expects that an attempt fails, the program that makes it)."""
    problem = {
        "problem_id": name,
        "prompt": "",
        "entry_point": "probe",
        "public_tests": [],
        "tests": [{"type": "call", "args": args, "expected": False}],
        "time_limit": 60,
    }
    return problem, {"name": name, "code": PROBE}


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    sys.set_int_max_str_digits(0)  # tests hold long integers
    try:
        if cfg.self_check:
            return self_check(cfg)
        if cfg.check_problems:
            return check_problems(cfg)
        return label_file(cfg)
    except (KeyboardInterrupt, BrokenPipeError):  # or tee, which reads this, has heard it first
        with contextlib.suppress(OSError):
            print(f"\nstopped; nothing is lost. To continue: python {shlex.join(sys.argv)}",
                  file=sys.stderr, flush=True)
        os._exit(130)  # at once, and with this process all boxes


if __name__ == "__main__":
    run_command(main)
