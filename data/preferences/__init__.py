"""Public preference data: pairs of answers without tests, as problem and labelled rows.

    read_preferences("rewardbench", ["filtered.parquet"])    yields (problem, [labelled candidate])
    python -m data.preferences --help                        the same as a command that writes both

Here stages 1 and 2 have nothing to do: the answers are in the file, and which one is better was
said by people, models or tests of somebody else's. So `passed` means preferred, `status` is
"preferred" or "not_preferred", and the problem says `"task": "answer"` (data/rows.py). The judge is
then shown other words (data/judge.py), execute.py refuses the rows, and select.py reports what the
benchmark reports.

A format is one module of this folder, and all that is particular to it stands there. To add one,
write a module with these six names and put it into PREFERENCES below; judgebench.py is the
shortest:

    TITLE                 its name in a table
    SOURCE                where its files are on the hub (data/benchmarks/files.py), or None
    HOME                  where they can be fetched by hand
    describe(row, path)   an original row -> the fields of its problem row that are its own (`id`,
                          `prompt`, `category`, `domain`, and more where it has them; `set` where
                          it has several that are scored each by itself), and under `preferred` and
                          `others` the answers, each (text, policy)
    UNDECIDED             what a judgment without a verdict counts: 1 is right, 0 is wrong
    scores(results)       {name: share}, what the benchmark reports (scores.py)

and in its docstring the rule that `scores` follows, with its source. A category is what the
benchmark reports on, a domain a part of it. Where they are needed it has, too,

    NOTE                  what has to be said under its table
    RATED                 True: `scores` also takes ratings of single answers (scores.py, `rated`)
"""
import hashlib
import random
from collections import Counter
from pathlib import Path

from data.benchmarks import errors_name
from data.benchmarks.files import fetch as fetch_files
from data.benchmarks.files import original_rows
from data.pairs import letters_and_digits
from data.preferences import (codejudgebench, codeprefbench, judgebench, pairs, rewardbench,
                              rewardbench2, rmb)
from data.rows import LABELLED, PROBLEM, UserError, check_fields, check_id

PREFERENCES = {
    "rewardbench": rewardbench,
    "rewardbench2": rewardbench2,
    "rmb": rmb,
    "judgebench": judgebench,
    "codejudgebench": codejudgebench,
    "codeprefbench": codeprefbench,
    "pairs": pairs,
}
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")  # of files in a folder
TO_LEARN_FROM = ("train", "meta")  # splits


def read_preferences(name, paths, shares=(("test", 1.0),), left_out=None):
    """Yield (problem, candidates) of a benchmark's original files, one row of theirs at a time.

    name:     of PREFERENCES.
    paths:    JSONL, a JSON array or parquet, the first two plain or .gz, or a folder of such files.
    shares:   ((split, share), ...): each problem falls into one of them by its prompt alone, so two
              with the same prompt never part.
    left_out: a Counter of what could not be asked or need not be learned twice, in words.
    Raises UserError naming file, row and field.
    """
    left_out = Counter() if left_out is None else left_out
    seen = set()     # digests of what rows to train on said
    ids = Counter()
    for path in files_in(paths):
        number = 0
        for number, row in original_rows(path):
            place = f"{path}, row {number}"
            check_fields(row, {}, place)
            with errors_name(place, name):
                item = PREFERENCES[name].describe(row, Path(path))
            split = split_of(item["prompt"], shares)
            if not can_be_asked(item, left_out):
                continue
            # A benchmark counts a row that repeats another, too; to train on, it is no new row.
            if split in TO_LEARN_FROM and is_repeated(item, seen):
                left_out["rows to train on that repeat an earlier one"] += 1
                continue
            problem_id = new_id(f"{name}/{item['id']}", ids)
            check_id(problem_id, f"{place}: the problem's id")
            problem = problem_row(name, problem_id, item, split)
            candidates = candidate_rows(problem_id, item)
            check_fields(problem, PROBLEM, place)
            for candidate in candidates:
                check_fields(candidate, LABELLED, place)
            yield problem, candidates
        if not number:
            raise UserError(f"{path}: no rows in it")


def new_id(wanted, ids):
    """The id, or where a benchmark has several pairs under it, ID/2 for the second.

    ids: a Counter of those so far.
    """
    ids[wanted] += 1
    if ids[wanted] == 1:
        return wanted
    return new_id(f"{wanted}/{ids[wanted]}", ids)


def files_in(paths):
    """The paths, with a folder's files, in the order of their names, in its place.

    Raises UserError where a file comes twice, whose pairs would count twice.
    """
    seen = set()
    for path in each_file(paths):
        if path.resolve() in seen:
            raise UserError(f"{path}: is given twice")
        seen.add(path.resolve())
        yield path


def each_file(paths):
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        found = [file for file in sorted(path.rglob("*")) if file.name.endswith(SUFFIXES)]
        if not found:
            raise UserError(f"{path}: no {', '.join(SUFFIXES)} in this folder")
        for file in found:
            if file.with_name(f"{file.name}.gz") in found:
                raise UserError(f"{file}: lies beside {file.name}.gz, and would be read twice: "
                                "take one of them away")
        yield from found


def can_be_asked(item, left_out):
    """Is there a preferred answer and another? Others with a preferred one's text are taken out.

    What is left out is counted, a row or an answer.
    """
    if not item["preferred"] or not item["others"]:
        left_out["rows with no preferred answer, or with no other"] += 1
        return False
    preferred = {text for text, _ in item["preferred"]}
    different = [(text, policy) for text, policy in item["others"] if text not in preferred]
    if not different:
        left_out["rows that prefer an answer to itself"] += 1
        return False
    if len(different) < len(item["others"]):
        twins = len(item["others"]) - len(different)
        left_out["answers that lost, with the text of a preferred one of their row"] += twins
        item["others"] = different
    return True


def is_repeated(item, seen):
    """Did a row before it say the same? seen: digests of what those said; that of this is added."""
    preferred = sorted({text for text, _ in item["preferred"]})
    others = sorted({text for text, _ in item["others"]})
    said = (item["prompt"], item.get("criterion"), preferred, others)
    digest = hashlib.sha256(repr(said).encode(errors="replace")).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False


def problem_row(name, problem_id, item, split):
    own = {field: value for field, value in item.items()
           if field not in ("id", "preferred", "others")}
    return {
        "problem_id": problem_id,
        "task": "answer",
        "entry_point": None,
        "public_tests": [],
        "tests": [],
        "difficulty": "unknown",
        "split": split,
        "source": name,
        **own,
    }


def candidate_rows(problem_id, item):
    """The answers as labelled rows, shuffled, so that neither place nor id tells the label."""
    answers = [(text, policy, True) for text, policy in item["preferred"]]
    answers += [(text, policy, False) for text, policy in item["others"]]
    random.Random(problem_id).shuffle(answers)
    rows = []
    for k, (text, policy, preferred) in enumerate(answers):
        rows.append({
            "problem_id": problem_id,
            "candidate_id": f"{policy}-{k}",
            "policy": policy,
            "code": text,
            "passed": preferred,
            "status": "preferred" if preferred else "not_preferred",
        })
    return rows


def split_of(prompt, shares):
    """The split that a prompt falls into: its hash, in [0, 1), on the shares laid end to end."""
    digest = hashlib.sha256(letters_and_digits(prompt).encode(errors="replace")).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    end = 0.0
    for split, share in shares:
        end += share
        if u < end:
            return split
    return shares[-1][0]     # where rounding left the sum of the shares below u


def fetch(name):
    """Yield local paths of a benchmark's files from the hub. Raises UserError where it has none."""
    benchmark = PREFERENCES[name]
    if benchmark.SOURCE is None:
        raise UserError(f"--benchmark {name}: it does not come from the hub by itself; "
                        f"fetch its files by hand ({benchmark.HOME}) and pass them to --problems")
    return fetch_files(benchmark.SOURCE, None, f"--benchmark {name}")
