"""JSON Lines between the stages: one object a row, UTF-8, new rows at the end.

The rows of data/edges, shortened:

    problems.jsonl         {"problem_id": "edges/test/3", "split": "test", "domain": "reviewed",
                            "difficulty": "hard", "date": "2025-01-01", "source": "edges",
                            "prompt": "Steps: rotate right, evens.\\np 634 -> 46\\nq 830 -> 08...",
                            "starter_code": "def f(x):\\n", "entry_point": "f",
                            "public_tests": [{"type": "call", "args": [[6, 3, 4]],
                                              "expected": [4, 6]}, ...],
                            "tests": [...]}
      sample.py
    candidates.jsonl       {"problem_id": "edges/test/3", "candidate_id": "strong-0",
                            "policy": "strong",
                            "code": "def f(x):\\n    x = x[-1:] + x[:-1]\\n    x = [v for v in...",
                            "text": (what the model wrote), "n_tokens": 4, "mean_logprob": -0.178,
                            "self_certainty": 14.7, "finish_reason": "stop", "seed": 0,
                            "sampling": {...}}
      execute.py
    labelled.jsonl         {(all of the candidate), "passed": false, "status": "wrong_answer",
                            "tests_passed": 6, "tests_total": 12, "seconds": 0.0091,
                            "detail": "public test 2: expected [0, 8], got [8]",
                            "public_passed": false, "output_digest": "f648fa71fddb7413",
                            "tests_digest": "a0412324ad50-6cdf"}
      train_bilevel.py
    judge/, weights.jsonl  {"instance_id": "edges/train/86:strong-0>strong-1",
                            "problem_id": "edges/train/86", "policy": "strong",
                            "candidate_ids": ["strong-0", "strong-1"],
                            "weight_domain": "reviewed × hard × strong", "weight": 2.35,
                            "visits": 13, "informed": 8}
      select.py
    selections.jsonl       {"problem_id": "edges/test/3", "method": "judge, trained", "n": 8,
                            "candidate_id": "strong-2", "passed": 1.0, "judge_calls": 16,
                            "judge_tokens": 603,
                            "votes": {"strong-0": [1, 16], "strong-2": [15, 16]}}

`passed` is null where nothing can be said about the program (the machinery failed, the tests cannot
run, or it imports what is not installed): never a label, never a reward, always counted and shown.
A problem may add

    task         "answer": it asks for an answer of any kind, and nothing is executed. Its
                 candidates' `code` is the whole answer, `passed` means that it was preferred, and
                 `status` says so: "preferred" or "not_preferred" (data/preferences/ makes such
                 rows). Left out: it asks for a program
    criterion    with that: what makes an answer the better one, for the judge to read
    set          with that: the part of its benchmark that is scored by itself
    category     with that: what the benchmark reports on
    setup        source that runs before the candidate's
    time_limit   seconds a test
    libs         modules outside of the standard library that its tests need (BigCodeBench,
                 HumanEval+)
    compare      when an output is right: "livecodebench" or "codecontests", those benchmarks' own
                 rules (data/sandbox/compare.py)
    checker      source of a function check(given, answer, expected), where several answers are
                 right (there, too)

Its tests, public and hidden, are of four types:

    {"type": "call", "args": [...], "kwargs": {...}, "expected": ...}
        on the problem's `entry_point`
    {"type": "stdin", "input": "...", "output": "..."}
        a whole program
    {"type": "assert", "source": "...", "inside": true}
        lines that call the candidate's functions; inside: they need its classes or objects, too
    {"type": "unittest", "source": "..."}
        unittest.TestCase classes; if it has none, the functions and classes that pytest would find,
        but nothing that needs pytest itself: its fixtures, marks

Three promises are kept here, so that no stage has to think of them: a bad row is an error that
names the file, the line and the field; a torn last line (its writer was killed) is dropped with a
warning, and cut off before anything is appended; what is already in an output file is known by its
key, so that a second run does only what is missing.
"""
import contextlib
import hashlib
import json
import os
import re
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nothing keeps two writers apart
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
EDGES = ROOT / "data" / "edges"
EDGES_RUN = ROOT / "runs" / "edges"  # what the stages make of it
EDGES_PROBLEMS = [str(EDGES / "problems_weak.jsonl"), str(EDGES / "problems_strong.jsonl")]
EDGES_LABELLED = (EDGES / "labelled.jsonl", EDGES_RUN / "labelled.jsonl")  # shipped, or one's own

# The fields that a reader may rely on, with their types.
PROBLEM = {
    "problem_id": str,
    "prompt": str,
    "entry_point": (str, type(None)),
    "public_tests": list,
    "tests": list,
    "domain": str,
    "difficulty": str,
    "split": str,  # one of SPLITS
}
CANDIDATE = {"problem_id": str, "candidate_id": str, "policy": str, "code": str}
LABELLED = {**CANDIDATE, "passed": (bool, type(None)), "status": str}
SPLITS = ("train", "meta", "dev", "test")
CANDIDATE_KEY = ("problem_id", "candidate_id")  # what identifies a candidate, labelled or not

# Fields that running a problem's tests goes by, where it has them. null is as good as none.
OPTIONAL = {
    "setup": str,
    "checker": str,
    "compare": str,
    "libs": list,
    "time_limit": (int, float),
    "starter_code": str,
    "canonical_solution": str,
}
OF_PROMPTS = ("starter_code", "source")  # what a prompt is made of, where a problem has it
OF_ANSWERS = ("criterion", "set", "category")  # texts that a problem may add that asks for answers
LONGEST_TIME_LIMIT = 3600  # seconds
MOST_TESTS = 10_000  # of a problem
# What a test of each type needs.
TESTS = {
    "call": {"args": list, "expected": object},
    "stdin": {"input": str, "output": str},
    "assert": {"source": str},
    "unittest": {"source": str},
}
MAY_HAVE = {"call": ["kwargs"], "assert": ["inside"]}
IN_WORDS = {list: "a list", str: "text", object: "any value", (int, float): "a number"}


class UserError(Exception):
    """A mistake in a row, a file or a flag, in one line that says what to do.

    A stage ends with it (data/flags.py).
    """


# ---------------------------------------------------------------- reading

GZIP = b"\x1f\x8b"  # how its files begin


def read_rows(path, fields=None, key=None):
    """Rows of one JSONL file, in order.

    path:   file to read.
    fields: {name: type or types} that every row must carry; None checks nothing.
    key:    names of the fields that identify a row; two rows with one key are an error.
    Raises UserError naming file, line and field. A torn last line is dropped with a warning.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if lines[0].startswith(GZIP):
        raise UserError(f"{path}: is packed: gunzip it first")
    rows = []
    first_line = {}  # of each key
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:  # bytes that are no UTF-8, too
            if number == len(lines):  # no newline after it: its writer was killed
                print(f"warning: {place}: torn last line dropped", file=sys.stderr)
                break
            raise UserError(f"{place}: not JSON ({error})") from None
        except RecursionError:
            raise UserError(f"{place}: is nested too deeply") from None
        check_fields(row, fields or {}, place)
        if key:
            identity = tuple(row[name] for name in key)
            for name in key:
                check_id(row[name], f"{place}: field {name!r}")
            if identity in first_line:
                shown = dict(zip(key, identity))
                raise UserError(f"{place}: {shown} is already on line {first_line[identity]}")
            first_line[identity] = number
        rows.append(row)
    return rows


def check_id(value, place):
    """Raise UserError for an id that holds half a character: it could be neither shown nor drawn
    random numbers by.
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise UserError(f"{place} is {value!r}, which is not valid Unicode") from None


def check_fields(row, fields, place):
    """Raise UserError (`place`: ...) unless row is an object with these fields of these types."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object, found {type(row).__name__}")
    for name, types in fields.items():
        if name not in row:
            raise UserError(f"{place}: field {name!r} is missing")
        if not isinstance(row[name], types):
            raise UserError(f"{place}: field {name!r} has the wrong type "
                            f"({type(row[name]).__name__})")


def read_problems(paths):
    """Problems of one or several files as {problem_id: row}; an id in two places is an error."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    problems = {}
    for path in paths:
        for row in read_rows(path, PROBLEM, key=("problem_id",)):
            if row["problem_id"] in problems:
                raise UserError(f"{path}: problem {row['problem_id']!r} is already in another "
                                "--problems file")
            place = f"{path}: problem {row['problem_id']!r}"
            if row.get("task", "answer") != "answer":
                raise UserError(f"{place}: 'task' is {row['task']!r}; must be 'answer', "
                                "or left out")
            may_have = dict.fromkeys(OF_PROMPTS, (str, type(None)))
            if asks_for_answers(row):
                may_have |= dict.fromkeys(OF_ANSWERS, str)
            given = {name: types for name, types in may_have.items() if name in row}
            check_fields(row, given, place)
            problems[row["problem_id"]] = row
    if not problems:
        raise UserError(f"--problems {' '.join(map(str, paths))}: no problems in it")
    return problems


def asks_for_answers(problem):
    """Does it ask for an answer, labelled by preference, and not for a program that can be run?"""
    return problem.get("task") == "answer"


def check_tests(problem, where):
    """What running a problem's tests needs. Raises UserError; where: the file, for its message."""
    place = f"{where}: problem {problem['problem_id']!r}"
    if asks_for_answers(problem):
        raise UserError(f"{place} asks for answers, which are labelled by preference: "
                        "there is nothing to execute; leave its file out")
    if not problem["public_tests"] and not problem["tests"]:
        raise UserError(f"{place} has no tests, public or hidden; "
                        "without tests there is no verdict: remove it or give it tests")
    check_optional(problem, place)
    count = len(problem["public_tests"]) + len(problem["tests"])
    if count > MOST_TESTS:
        raise UserError(f"{place} has {count} tests; the most is {MOST_TESTS}: leave some out")
    for kind in ("public_tests", "tests"):
        for number, test in enumerate(problem[kind], 1):
            check_test(test, problem["entry_point"], f"{place}, {kind} number {number}")


def check_optional(problem, place):
    for field, wanted in OPTIONAL.items():
        value = problem.get(field)
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise UserError(f"{place}: field {field!r} is {value!r}; expected {IN_WORDS[wanted]}")
    if not all(isinstance(name, str) for name in problem.get("libs") or []):
        raise UserError(f"{place}: field 'libs' is {problem['libs']!r}; "
                        "expected a list of modules' names")
    seconds = problem.get("time_limit")
    if seconds is not None and not 0 <= seconds <= LONGEST_TIME_LIMIT:  # 0 is as good as none
        raise UserError(f"{place}: field 'time_limit' is {seconds}; expected seconds, at most "
                        f"{LONGEST_TIME_LIMIT}")


def check_test(test, entry_point, place):
    if not isinstance(test, dict) or test.get("type") not in list(TESTS):  # it may be a list
        raise UserError(f"{place}: expected an object with 'type' one of {', '.join(TESTS)}")
    for field, wanted in TESTS[test["type"]].items():
        if field not in test or not isinstance(test[field], wanted):
            raise UserError(f"{place}: a {test['type']!r} test needs {field!r} "
                            f"({IN_WORDS[wanted]})")
    if test["type"] == "stdin":
        must_be_text(test, "input", "surrogateescape", place)  # it may hold bytes that are no UTF-8
        must_be_text(test, "output", "strict", place)
    if not isinstance(test.get("kwargs"), (dict, type(None))):
        raise UserError(f"{place}: 'kwargs' is {test['kwargs']!r}; expected an object")
    if test["type"] == "call" and not entry_point:
        raise UserError(f"{place}: a 'call' test needs the problem's 'entry_point'")
    if test["type"] == "call" and not entry_point.isidentifier():
        raise UserError(f"{place}: a 'call' test calls the problem's 'entry_point', which must be "
                        f"a name, not {entry_point!r}: a method of Solution goes by its own")


def must_be_text(test, field, errors, place):
    """Raise UserError, beginning with `place`, for a field of a test that holds half a character.

    Such a lone surrogate can neither be read nor printed.
    """
    try:
        test[field].encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: {field!r} holds {test[field][error.start]!r} (character "
                        f"{error.start + 1}), which is not valid Unicode") from None


DIGEST_OF_TESTS = re.compile("([0-9a-f]{12})-[0-9a-f]{4}")  # tests_digest: of the problem, of flags


def digest_of_tests(problem):
    """Changes when the verdict on a program could, as far as that lies with the problem."""
    fields = ["entry_point", "public_tests", "tests",
              "setup", "libs", "time_limit", "compare", "checker"]
    tests = problem["public_tests"] + problem["tests"]
    if any(isinstance(test, dict) and test.get("type") in ("assert", "unittest") for test in tests):
        fields += ["canonical_solution", "prompt", "starter_code"]
    judged = [problem.get(name) or None for name in fields]  # an empty one is as good as none
    return hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:12]


def refuse_old_labels(labelled, problems, path):
    """A label holds for the tests that have given it.

    Rows of other making need not name theirs, and of an older execute.py's only the rows know.

    labelled: rows. problems: {problem_id: row}. path: of the labelled file, for the message.
    """
    of_problem = {}
    old = []
    for row in labelled:
        problem = problems.get(row["problem_id"])
        named = DIGEST_OF_TESTS.fullmatch(str(row.get("tests_digest")))
        if not problem or not named:
            continue
        if row["problem_id"] not in of_problem:
            of_problem[row["problem_id"]] = digest_of_tests(problem)
        if named[1] != of_problem[row["problem_id"]]:
            old.append(row)
    if old:
        raise UserError(f"{path}: {len(old)} of {len(labelled)} candidates were labelled by other "
                        f"tests than --problems has (the first: {old[0]['candidate_id']!r} of "
                        f"problem {old[0]['problem_id']!r}): run execute.py again, or, to keep "
                        "these labels all the same, leave tests_digest out of the rows")


def stage_input(name):
    """Default input of a stage: your own in runs/edges, else the copy shipped in data/edges."""
    mine = EDGES_RUN / name
    return mine if mine.exists() else EDGES / name


# ---------------------------------------------------------------- writing

def must_hold_only(path, is_own, kind, flag=""):
    """Nothing but one's own rows is written over: labels and judgments cost more. Raises UserError.

    is_own: row -> bool. kind: what such rows are, and flag: what names the file, for the message.
    """
    if path.exists() and not all(map(is_own, read_rows(path))):
        raise UserError(f"{flag}{path}: holds rows that are no {kind}; give another --out")


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextlib.contextmanager
def own_folder(path):
    """Make a folder, and keep out other runs that ask for it meanwhile. Raises UserError.

    A folder that this has made and that is still empty in the end is removed again.
    """
    path = Path(path)
    is_new = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made or opened ({error.strerror})") from None
    try:
        if fcntl:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise UserError(f"--out {path}: another run is writing to it; "
                        "wait for it, or choose another folder") from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it is not empty
            if is_new:
                path.rmdir()
        if fcntl:
            os.close(folder)


class Appender:
    """Appends rows to a JSONL file, each flushed whole, after cutting off a torn last line.

    `done` holds the keys of the rows that were already there: skip those. While it is open no other
    process may append.
    """

    def __init__(self, path, key):
        self.path = Path(path)
        self.key = key
        self.open()
        keys = dict.fromkeys(key, (str, int, type(None)))
        self.done = {self.key_of(row) for row in read_rows(self.path, keys)}
        self.mend_last_line()

    def open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # a lone surrogate, which a model can write, becomes its JSON escape
            self.file = open(self.path, "a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            if fcntl:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.path}: another {Path(sys.argv[0]).name} is writing to it; "
                            "wait for it, or choose another file") from None

    def mend_last_line(self):
        """Cut off half a row; give a whole row that only lost its newline a new one."""
        content = self.path.read_bytes()
        if not content or content.endswith(b"\n"):
            return
        last = content[content.rfind(b"\n") + 1:]
        try:
            json.loads(last)
            self.file.write("\n")
            self.file.flush()
        except ValueError:
            self.file.truncate(len(content) - len(last))

    def rewrite(self, rows):
        """Makes these rows the whole of the file."""
        write_rows(self.path, rows)
        self.file.close()
        self.open()
        self.done = set(map(self.key_of, rows))

    def key_of(self, row):
        return tuple(row[name] for name in self.key)

    def append(self, *rows):
        try:
            self.file.write(as_lines(rows))
            self.file.flush()
        except OSError as error:  # say, a full disk
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); the same command "
                            "goes on from what it holds") from None
        self.done.update(map(self.key_of, rows))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # what could not be written has been said
            self.file.close()


def write_rows(path, rows):
    """Write a whole JSONL file, as write_whole does."""
    write_whole(path, as_lines(rows))


def write_whole(path, text):
    """Write a text file at once: a reader sees the old or the new one, never half of it.

    Raises UserError if it cannot be written.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(aside, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
