"""JSON Lines between the stages: one object a row, UTF-8, append-only.

Every stage reads rows, works, and appends rows. Three promises are kept here, so that no stage
has to think of them:

* a bad row is an error that names the file, the line and the field;
* a torn last line (the writer was killed in the middle of it) is dropped with a warning, and cut
  off before anything is appended;
* what is already in an output file is known by its key, so that a re-run does only what is missing.
"""
import json
import os
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nothing keeps two writers apart
    fcntl = None

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "data" / "tiny"

# What identifies a row of each kind, and the fields that a reader may rely on, with their types.
PROBLEM = {"problem_id": str, "prompt": str, "entry_point": (str, type(None)), "public_tests": list, "tests": list,
           "domain": str, "difficulty": str, "split": str}
CANDIDATE = {"problem_id": str, "candidate_id": str, "policy": str, "code": str}
LABELLED = {**CANDIDATE, "passed": (bool, type(None)), "status": str}
TESTS = {"call": {"args": list, "expected": object}, "stdin": {"input": str, "output": str}, "assert": {"source": str},
         "unittest": {"source": str}}  # what a test of each type needs


class RowError(SystemExit):
    """A mistake in the input, said in one line. As a SystemExit it ends a command without a traceback."""


def read_rows(path, fields=None, key=None):
    """Rows of one JSONL file, in order.

    path:   file to read.
    fields: {name: type or types} that every row must carry; None checks nothing.
    key:    names of the fields that identify a row; two rows with one key are an error.
    Raises RowError naming file, line and field. A torn last line is dropped with a warning.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RowError(f"{path}: no such file") from None
    except OSError as error:
        raise RowError(f"{path}: cannot be read ({error.strerror})") from None
    lines, rows, seen = raw.split(b"\n"), [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            if number == len(lines):  # no newline after it: its writer was killed
                print(f"warning: {path}, line {number}: torn last line dropped", file=sys.stderr)
                break
            raise RowError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise RowError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        for name, types in (fields or {}).items():
            if name not in row:
                raise RowError(f"{path}, line {number}: field {name!r} is missing")
            if not isinstance(row[name], types):
                raise RowError(f"{path}, line {number}: field {name!r} has the wrong type ({type(row[name]).__name__})")
        if key:
            identity = tuple(row[name] for name in key)
            if identity in seen:
                raise RowError(f"{path}, line {number}: {dict(zip(key, identity))} is already on line {seen[identity]}")
            seen[identity] = number
        rows.append(row)
    return rows


def read_problems(paths):
    """Problems of one or several files as {problem_id: row}; an id in two places is an error."""
    problems = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for row in read_rows(path, PROBLEM, key=("problem_id",)):
            if row["problem_id"] in problems:
                raise RowError(f"{path}: problem {row['problem_id']!r} is already in another --problems file")
            problems[row["problem_id"]] = row
    if not problems:
        raise RowError(f"--problems {' '.join(map(str, paths if isinstance(paths, list) else [paths]))}: no problems in it")
    return problems


def check_tests(problem, where):
    """What running a problem's tests needs. Raises RowError; where: the file, for its message."""
    place = f"{where}: problem {problem['problem_id']!r}"
    if not problem["public_tests"] and not problem["tests"]:
        raise RowError(f"{place} has no tests, public or hidden; without tests there is no verdict: remove it or give it tests")
    for kind in ("public_tests", "tests"):
        for number, test in enumerate(problem[kind], 1):
            at = f"{place}, {kind} number {number}"
            if not isinstance(test, dict) or test.get("type") not in TESTS:
                raise RowError(f"{at}: expected an object with 'type' one of {', '.join(TESTS)}")
            for field, wanted in TESTS[test["type"]].items():
                if field not in test or not isinstance(test[field], wanted):
                    says = {list: "a list", str: "text", object: "any value"}[wanted]
                    raise RowError(f"{at}: a {test['type']!r} test needs {field!r} ({says})")
            if test["type"] == "call" and not problem["entry_point"]:
                raise RowError(f"{at}: a 'call' test needs the problem's 'entry_point'")


class Appender:
    """Appends rows to a JSONL file, each flushed whole, after cutting off a torn last line.

    `done` holds the keys of the rows that were already there: skip those. While it is open no other process may append.
    """

    def __init__(self, path, key):
        self.path, self.key = Path(path), key
        self.open()
        self.done = {self.key_of(row) for row in read_rows(self.path, dict.fromkeys(key, object))}
        whole = self.path.read_bytes()
        if whole and not whole.endswith(b"\n"):
            last = whole[whole.rfind(b"\n") + 1:]
            try:  # a whole row that only lost its newline is kept
                json.loads(last)
                self.file.write("\n")
                self.file.flush()
            except ValueError:
                self.file.truncate(len(whole) - len(last))

    def open(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # a lone surrogate, which a model can write, becomes its JSON escape
            self.file = open(self.path, "a", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise RowError(f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            if fcntl:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RowError(f"{self.path}: another {Path(sys.argv[0]).name} is writing to it; wait for it, or choose another file") from None

    def rewrite(self, rows):
        """Makes these rows the whole of the file."""
        write_rows(self.path, rows)
        self.file.close()
        self.open()
        self.done = set(map(self.key_of, rows))

    def key_of(self, row):
        return tuple(row[name] for name in self.key)

    def append(self, *rows):
        self.file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self.file.flush()
        self.done.update(map(self.key_of, rows))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def replace_file(path, content):
    """Write bytes or text so that a reader sees the old file or the new one, never half of either."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(content if isinstance(content, bytes) else content.encode(errors="backslashreplace"))
    os.replace(aside, path)


def write_rows(path, rows):
    """Write a whole JSONL file at once, atomically."""
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def stage_input(name):
    """Default input of a stage: what you made in runs/tiny, else the copy that comes with the repository."""
    mine = ROOT / "runs" / "tiny" / name
    return mine if mine.exists() else TINY / name
