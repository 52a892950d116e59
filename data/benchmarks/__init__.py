"""Public benchmarks: original files as problem rows, prompts to a model, programs in its answers.

    load_benchmark("humaneval", "HumanEval.jsonl.gz")            ->  [problem, ...]
    read_benchmark("livecodebench", fetch("livecodebench"))      the same as a stream, from the hub
    solution_prompt(problem, chat)                               what a model is shown
    extract_code(text, problem, chat)                            the program in its answer

A benchmark is one module of this folder, and all that is particular to it stands there. To add
one, write a module with these six names (codecontests.py is the shortest) and put it into
BENCHMARKS below:

    SOURCES                       {"": Source(...)}: where its files come from (files.py); {} if
                                  they must be fetched by hand. A subset with files of its own has
                                  an entry under its name.
    SUBSETS                       what --subset may name, [] if there is nothing to choose
    describe(row, subset)         an original row -> the fields of its problem row but for the tests
    tests(row)                    an original row -> (public tests, hidden tests); called only for
                                  wanted rows, because LiveCodeBench's tests are gigabytes
    prompt(problem, chat)         the benchmark's own words to a model, or None: the general ones
    extract(text, problem, chat)  the program in an answer by its own rule, or None: the general one

`describe` and `tests` may raise UserError, KeyError, TypeError, ValueError or SyntaxError; file and
row are added here. A problem row's fields are described in data/rows.py. `describe` must give
`problem_id`, `prompt` and `domain`; others that it leaves out have the defaults in
`read_benchmark`. What a candidate's `code` is (and `canonical_solution`, where the benchmark has
one):

    humaneval      the whole program: the prompt (signature and docstring) and what completes it
    mbpp           the whole program, with the functions that the asserts call
    bigcodebench   the whole program: complete_prompt and the completion, or one for instruct_prompt
    livecodebench  functional: a program with `class Solution` (or a function); stdin: a whole one
    codecontests   a program that reads stdin
"""
import contextlib
import warnings

from data.benchmarks import answers, bigcodebench, codecontests, humaneval, livecodebench, mbpp
from data.benchmarks.files import original_rows
from data.benchmarks.files import fetch as fetch_files
from data.rows import PROBLEM, UserError, asks_for_answers, check_fields

BENCHMARKS = {
    "humaneval": humaneval,
    "mbpp": mbpp,
    "bigcodebench": bigcodebench,
    "livecodebench": livecodebench,
    "codecontests": codecontests,
}

# What every stage relies on in a problem row; `tests` comes later, for wanted rows alone.
DESCRIBED = {name: types for name, types in PROBLEM.items() if name != "tests"}

# Splits of the DaJ paper (2601.22230) as flags of sample.py. Days are inclusive.
# `expected` is how many problems the paper has.
PRESETS = {
    "daj-train": {"benchmark": "livecodebench", "until": "2024-07-31", "as_split": "train"},
    "daj-test": {"benchmark": "livecodebench", "since": "2025-02-01", "until": "2025-05-01",
                 "as_split": "test", "expected": 131},
    "daj-bigcodebench-hard": {"benchmark": "bigcodebench", "subset": ["hard", "instruct"],
                              "as_split": "test", "expected": 148},
}

ASK = "Write a Python solution to the problem below. Answer with one Python code block and nothing else.\n\n"


# ---------------------------------------------------------------- rows

def load_benchmark(name, path, split="test"):
    """All problem rows of a benchmark's original file; see read_benchmark."""
    return list(read_benchmark(name, [path], split))


def read_benchmark(name, paths, split="test", subset=(), wanted=lambda problem: True):
    """Yield the problem rows of a benchmark's original files, one at a time.

    name:   of BENCHMARKS.
    paths:  JSONL, a JSON array or parquet, the first two plain or .gz.
    split:  what to write into the rows (a benchmark is a test set unless you say otherwise).
    subset: some of the benchmark's SUBSETS.
    wanted: is asked about each row before its tests are unpacked.
    Raises UserError naming file, row and field.
    """
    benchmark = module_of(name)
    seen = set()
    for path in paths:
        number = 0
        for number, row in original_rows(path):
            place = f"{path}, row {number}"
            with errors_name(place, name):
                description = benchmark.describe(row, subset)
            problem = {
                "starter_code": "",
                "entry_point": None,
                "public_tests": [],
                "difficulty": "unknown",
                "date": None,
                "split": split,
                "source": name,
                **description,
            }
            check_fields(problem, DESCRIBED, place)
            if problem["problem_id"] in seen:
                raise UserError(f"{place}: problem {problem['problem_id']!r} "
                                "is already in the file")
            seen.add(problem["problem_id"])
            if not wanted(problem):
                continue
            with errors_name(place, name):
                problem["public_tests"], problem["tests"] = benchmark.tests(row)
            if not problem["public_tests"] and not problem["tests"]:
                raise UserError(f"{place}: problem {problem['problem_id']!r} has no tests")
            yield problem
        if not number:
            raise UserError(f"{path}: no rows in it")


def fetch(name, subset=(), since=None):
    """Yield local paths of a benchmark's files from the hub, each downloaded when it is its turn.

    subset: some of the benchmark's SUBSETS.
    since:  leave out files in which every problem is older than this day.
    Raises UserError saying which file to fetch by hand where the hub cannot be reached.
    """
    sources = module_of(name).SOURCES
    own_files = [part for part in subset if part in sources]
    key = own_files[0] if own_files else ""
    if key not in sources:
        raise UserError(f"--benchmark {name}: it is not on the hub as one file; "
                        "fetch it by hand and pass it to --problems")
    return fetch_files(sources[key], since, f"--benchmark {' '.join([name, *own_files])}")


def module_of(name):
    if name not in BENCHMARKS:
        raise UserError(f"--benchmark {name}: expected one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


@contextlib.contextmanager
def errors_name(place, name):
    """Whatever goes wrong with an original row becomes an error that names file and row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the benchmarks' sources have invalid escapes
            yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    except KeyError as missing:
        raise UserError(f"{place}: field {missing} is missing; "
                        f"is this really a file of {name}?") from None
    except (TypeError, ValueError, SyntaxError, AttributeError) as error:
        raise UserError(f"{place}: not as {name} has it "
                        f"({type(error).__name__}: {error})") from None


# ---------------------------------------------------------------- prompts and programs

def solution_prompt(problem, chat=False):
    """What the policy is shown: the benchmark's own words, else the problem and its starter code.

    Raises UserError for a problem that does not ask for a program (data/preferences/).
    """
    if asks_for_answers(problem):
        raise UserError(f"problem {problem['problem_id']!r} asks for answers, which came with it: "
                        "there is no program to write")
    benchmark = BENCHMARKS.get(problem.get("source"))
    own = benchmark.prompt(problem, chat) if benchmark else None
    if own is not None:
        return own
    starter = problem.get("starter_code") or ""
    if not chat:
        if problem["prompt"].endswith(starter):
            return problem["prompt"]
        between = "" if problem["prompt"].endswith("\n") else "\n"
        return problem["prompt"] + between + starter
    if not starter or starter in problem["prompt"]:
        return ASK + problem["prompt"]
    return f"{ASK}{problem['prompt']}\n\nBegin with this code:\n```python\n{starter}\n```"


def extract_code(text, problem, chat=False, thoughts_open=False):
    """The program in an answer, by the benchmark's own rule or else the general one (answers.py).

    chat:          did a chat model answer, or did a plain model continue the prompt?
    thoughts_open: did the prompt end within thoughts? (answers.thoughts_are_open)
    Returns "" where there is no answer: one that was cut off within its thoughts gives no program.
    """
    if chat:
        text = answers.without_thoughts(text, thoughts_open)
    benchmark = BENCHMARKS.get(problem.get("source"))
    own = benchmark.extract(text, problem, chat) if benchmark else None
    if own is not None:
        return own
    return answers.from_chat(text, problem) if chat else answers.from_completion(text, problem)
