"""Public benchmarks, from their original files to problem rows; their own words to a model; and their own cut of its answer.

    load_benchmark("humaneval", "HumanEval.jsonl.gz")              ->  [problem, ...]
    read_benchmark("livecodebench", fetch("livecodebench"))        the same, one row in memory at a time, from the hub
    ask(problem, chat), cut(text, problem, chat)                   what a model is shown, and the program in its answer

What a candidate's `code` is, for each of them, and what the prompt asks a model for:

    humaneval      the whole program: the prompt (signature and docstring) and the completion after it
    mbpp           the whole program, with the functions that the asserts call
    bigcodebench   the whole program: complete_prompt and the completion; or a program that answers instruct_prompt
    livecodebench  functional: a program with `class Solution` (or a plain function); stdin: a whole program
    codecontests   a program that reads stdin

`canonical_solution`, where the benchmark has one, is such a program. Fields beyond those of every problem row:

    setup          source that execute.py runs before the candidate's
    libs           modules outside of the standard library that must be installed for a verdict (BigCodeBench)
    time_limit     seconds for each test, where the benchmark names them
"""
import ast
import base64
import builtins
import gzip
import importlib.util
import json
import pickletools
import re
import sys
import warnings
import zlib
from pathlib import Path

from data.rows import UserError

# Splits of the DaJ paper (2601.22230) as flags of sample.py. Days are inclusive; `expected` is how many problems the paper has.
PRESETS = {
    "daj-train": {"benchmark": "livecodebench", "until": "2024-07-31", "as_split": "train"},
    "daj-test": {"benchmark": "livecodebench", "since": "2025-02-01", "until": "2025-05-01", "as_split": "test", "expected": 131},
    "daj-bigcodebench-hard": {"benchmark": "bigcodebench", "subset": ["hard", "instruct"], "as_split": "test", "expected": 148},
}
SUBSETS = {"bigcodebench": ["hard", "instruct"], "mbpp": ["sanitized"]}  # `instruct` is which prompt, the others which problems

# Where the hub has them, and (for parquet) the same as JSONL for those without pyarrow.
GITHUB = "https://github.com/bigcode-project/bigcodebench-annotation/releases/download/v0.1.4/"
MBPP = "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/"
HUB = {
    "livecodebench": ("livecodebench/code_generation_lite", ["test.jsonl", *(f"test{k}.jsonl" for k in range(2, 7))], None),
    "bigcodebench": ("bigcode/bigcodebench", ["data/v0.1.4-00000-of-00001.parquet"], GITHUB + "BigCodeBench.jsonl.gz"),
    "bigcodebench hard": ("bigcode/bigcodebench-hard", ["data/v0.1.4-00000-of-00001.parquet"], GITHUB + "BigCodeBench-Hard.jsonl.gz"),
    "humaneval": ("openai/openai_humaneval", ["openai_humaneval/test-00000-of-00001.parquet"],
                  "https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz"),
    "mbpp": ("google-research-datasets/mbpp", ["full/test-00000-of-00001.parquet"], MBPP + "mbpp.jsonl"),
    "mbpp sanitized": ("google-research-datasets/mbpp", ["sanitized/test-00000-of-00001.parquet"], MBPP + "sanitized-mbpp.json"),
}
# A release of LiveCodeBench cannot hold later contests than itself: the month after its last one, by its README. Saves gigabytes.
RELEASED = {"test.jsonl": "2024-04-30", "test2.jsonl": "2024-06-30", "test3.jsonl": "2024-08-31", "test4.jsonl": "2024-10-31", "test5.jsonl": "2025-02-28"}

# LiveCodeBench runs every program after these imports.
LIVECODEBENCH_SETUP = "".join(f"from {module} import *\n" for module in (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing").split()) + """import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
sys.setrecursionlimit(50000)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(50000)
"""
MAX_UNPACKED = 1 << 28  # bytes of one row's private tests; the largest genuine ones are below 100 MB


def load_benchmark(name, path, split="test"):
    """All problem rows of a benchmark's original file; see read_benchmark."""
    return list(read_benchmark(name, [path], split))


def read_benchmark(name, paths, split="test", subset=(), wanted=lambda row: True):
    """Yield the problem rows of a benchmark's original files, one at a time.

    name:   humaneval, mbpp, bigcodebench, livecodebench or codecontests.
    paths:  JSONL, a JSON array or parquet, the first two plain or .gz.
    split:  what to write into the rows (a benchmark is a test set unless you say otherwise).
    subset: of SUBSETS[name].
    wanted: is asked for each row. LiveCodeBench's are first shown without their tests, so that only what is wanted is unpacked.
    Raises UserError naming file, row and field.
    """
    if name not in LOADERS:
        raise UserError(f"--benchmark {name}: expected one of {', '.join(LOADERS)}")
    seen = set()
    for path in paths:
        number = 0
        for number, row in original_rows(path):
            place = f"{path}, row {number}"
            try:
                if name == "livecodebench" and not wanted({"problem_id": row["question_id"], "date": row["contest_date"][:10],
                                                           "difficulty": row["difficulty"], "split": split}):
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the benchmarks' sources have invalid escapes
                    problem = LOADERS[name](row, place)
            except KeyError as missing:
                raise UserError(f"{place}: field {missing} is missing; is this really a file of {name}?") from None
            except (TypeError, ValueError, SyntaxError, AttributeError) as error:
                raise UserError(f"{place}: not as {name} has it ({type(error).__name__}: {error})") from None
            if problem["problem_id"] in seen:
                raise UserError(f"{place}: problem {problem['problem_id']!r} is already in the file")
            seen.add(problem["problem_id"])
            if not problem.get("public_tests") and not problem["tests"]:
                raise UserError(f"{place}: problem {problem['problem_id']!r} has no tests")
            if "hard" in subset and problem["problem_id"] == "BigCodeBench/0":  # every hard task has more than its two libraries
                raise UserError(f"{place}: this is all of BigCodeBench; --subset hard wants the file of BigCodeBench-Hard ({HUB['bigcodebench hard'][2]})")
            if "instruct" in subset:
                problem |= {"prompt": problem["instruct_prompt"], "starter_code": ""}
            problem = {"starter_code": "", "entry_point": None, "public_tests": [], "difficulty": "unknown", "date": None,
                       "split": split, "source": name, **problem}
            if wanted(problem):
                yield problem
        if not number:
            raise UserError(f"{path}: no rows in it")


def original_rows(path):
    """(number, row) for each line of a JSONL file, item of a JSON array or row of a parquet file, as a stream: some are gigabytes."""
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            if not importlib.util.find_spec("pyarrow"):
                raise UserError(f"{path}: parquet files want pyarrow (pip install pyarrow); or pass the benchmark's JSON file to --problems")
            from pyarrow.parquet import ParquetFile
            yield from enumerate((row for batch in ParquetFile(path).iter_batches(batch_size=64) for row in batch.to_pylist()), 1)
            return
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from enumerate(json.load(file), 1)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json.loads(line)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {'parquet' if path.suffix == '.parquet' else 'JSON'} ({error})") from None


def fetch(name, subset=(), since=None):
    """Yield local paths of a benchmark's files from the hub, each downloaded (or found in the hub's cache) when it is its turn.

    since: leave out the files of LiveCodeBench that are older than this day.
    Raises UserError saying which file to fetch by hand where the hub cannot be reached.
    """
    name = " ".join([name, *(part for part in subset if part != "instruct")])
    if name not in HUB:
        raise UserError(f"--benchmark {name}: it is not on the hub as one file; fetch it by hand and pass it to --problems")
    repository, files, original = HUB[name]
    for file in files:
        if since and since > RELEASED.get(file, since):
            continue
        by_hand = original or f"https://huggingface.co/datasets/{repository}/resolve/main/{file}"
        by_hand = f"fetch {by_hand} by hand and pass --problems {by_hand.rpartition('/')[2]}"
        if file.endswith(".parquet") and not importlib.util.find_spec("pyarrow"):
            raise UserError(f"--benchmark {name}: the hub has {repository} as parquet, which wants pyarrow: pip install pyarrow, or {by_hand}")
        from huggingface_hub import hf_hub_download
        try:
            yield hf_hub_download(repository, file, repo_type="dataset")
        except Exception as error:  # out of reach, no such file, no room, refused: the classes differ between the hub's versions
            raise UserError(f"--benchmark {name}: {file} of {repository} does not come from the hub ({' '.join(str(error).split())[:200]}); {by_hand}") from None


# ---------------------------------------------------------------- a benchmark's own words, and its own cut

FENCED = re.compile(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:```|\Z)", re.S)


def ask(problem, chat):
    """What the benchmark itself says to a model, as one text, or None where it has no words of its own for this kind of model.

    HumanEval is completed, not asked. LiveCodeBench's prompt for plain models has a worked example, which is not among its data;
    MBPP's has three, left out here.
    """
    source, prompt, starter = problem.get("source"), problem["prompt"], problem.get("starter_code")
    if source == "livecodebench" and chat:
        how = ("You will use the following starter code to write the solution to the problem and enclose your code within delimiters."
               if starter else "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
               "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the inputs, runs the "
               "algorithm and writes output to STDOUT.")
        return ("You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct Python "
                f"program that matches the specification and passes all tests.\n\n### Question:\n{prompt}\n\n### Format: {how}\n```python\n"
                f"{starter or '# YOUR CODE HERE'}\n```\n\n### Answer: (use the provided format with backticks)\n\n")
    if source == "bigcodebench" and not chat and not starter:
        raise UserError("--subset instruct wants a chat model; a plain one completes the code: leave out `instruct`")
    if source == "bigcodebench" and chat:
        shown = f"```\n{prompt.strip()}\n```" if starter else prompt.strip()  # the complete prompt is code, the instruct prompt is not
        return f"Please provide a self-contained Python script that solves the following problem in a markdown code block:\n{shown}\n"
    if source == "mbpp":
        return f"You are an expert Python programmer, and here is your task: {prompt}" + "[BEGIN]\n" * (not chat)


def cut(text, problem, chat):
    """The program in an answer, as the benchmark's own harness cuts it out, or None where that has no rule for this kind of model."""
    source = problem.get("source")
    if source == "livecodebench" and chat:  # what stands between the last two fences
        lines = text.split("\n")
        fences = [k for k, line in enumerate(lines) if "```" in line]
        return "\n".join(lines[fences[-2] + 1:fences[-1]]) if len(fences) > 1 else ""
    if source == "bigcodebench" and chat:
        stub = problem["setup"].removesuffix("    pass\n").strip("\n") + "\n"
        text = text.replace("```python\n    ", f"```python\n{stub}    ")  # an answer that goes on after the signature
        blocks = FENCED.findall(text) + re.findall(r"^```\w*[ \t]*\n(.*?)(?:^```|\Z)", text, re.S | re.M)  # a docstring may hold fences
        programs = [block for block in blocks or [text] if parse(block)]
        return needed(max(programs, key=lambda code: sum(map(bool, map(str.strip, code.split("\n"))))), problem["entry_point"]) if programs else None
    if source == "mbpp" and not chat:
        return text.split("[DONE]")[0]


def parse(code):
    """A program's top-level statements; none if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def needed(code, entry_point):
    """BigCodeBench keeps imports and the top-level classes, functions and names that the entry point leads to, not demonstrations."""
    body, lines = parse(code), code.split("\n")
    names = lambda *trees: {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}  # noqa: E731
    defined = [{node.name} if hasattr(node, "name") else names(*getattr(node, "targets", [getattr(node, "target", None)]))
               if isinstance(node, (ast.Assign, ast.AnnAssign)) else set() for node in body]
    wanted, before = {entry_point}, set()
    while wanted != before:
        before, wanted = wanted, wanted | names(*(node for node, own in zip(body, defined) if own & wanted))
    kept = [node for node, own in zip(body, defined) if isinstance(node, (ast.Import, ast.ImportFrom)) or own & wanted]
    starts = [min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) for node in kept]
    return "\n".join("\n".join(lines[start - 1:node.end_lineno]) for start, node in zip(starts, kept)) + "\n"


# ---------------------------------------------------------------- HumanEval

def humaneval(row, place):
    """The one hidden test is the benchmark's own check(), called on the entry point. There are no public tests."""
    source = f"{row['test']}\n\ncheck({row['entry_point']})\n"
    return {"problem_id": row["task_id"], "prompt": row["prompt"], "starter_code": row["prompt"], "entry_point": row["entry_point"],
            "tests": [{"type": "assert", "source": source}], "domain": "humaneval",
            "canonical_solution": row["prompt"] + row["canonical_solution"]}


# ---------------------------------------------------------------- MBPP, full and sanitized

def mbpp(row, place):
    """The first assert is public (the prompt shows it, for the function's name), the others are hidden. The paper shows them all."""
    text = row["prompt"] if "prompt" in row else row["text"]
    code = row["code"].replace("\r\n", "\n")
    imports = "\n".join(row.get("test_imports") or [])
    setup = (row.get("test_setup_code") or "").replace("\r\n", "\n")
    asserts = [line.replace("\r\n", "\n") for line in row["test_list"] + (row.get("challenge_test_list") or [])]
    defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
    called = [node.func.id for line in asserts for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    entry_point = next((name for name in called if name in defined), None)
    tests = [{"type": "assert", "source": f"{imports}\n{line}".strip()} for line in asserts]
    for test in tests:
        if not is_about_functions(test["source"], defined):
            test["inside"] = True  # the test handles objects of the candidate's own classes
    return {"problem_id": f"MBPP/{row['task_id']}", "prompt": f"{text.strip()} Your code should pass these tests:\n\n{asserts[0]}\n", "entry_point": entry_point,
            "public_tests": tests[:1], "tests": tests[1:], "domain": "mbpp", "setup": setup, "canonical_solution": code}


def is_about_functions(source, defined):
    """Does a test need nothing from the candidate but calls of its functions?"""
    tree = ast.parse(source)
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {(alias.asname or alias.name).partition(".")[0] for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))
              for alias in node.names}
    return all(node.id in bound or node.id in defined or hasattr(builtins, node.id) for node in ast.walk(tree) if isinstance(node, ast.Name))


# ---------------------------------------------------------------- BigCodeBench

def bigcodebench(row, place):
    """One unittest row; the stub of code_prompt comes first, as in the benchmark, so that a missing function fails its tests."""
    libs = set(ast.literal_eval(row["libs"]) if isinstance(row["libs"], str) else row["libs"])
    for source in (row["test"], row["complete_prompt"] + row["canonical_solution"]):  # `libs` forgets what only the tests import
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                libs |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                libs.add(node.module)
    libs = sorted({name.partition(".")[0] for name in libs} - sys.stdlib_module_names)
    return {"problem_id": row["task_id"], "prompt": row["complete_prompt"], "starter_code": row["complete_prompt"], "entry_point": row["entry_point"],
            "tests": [{"type": "unittest", "source": row["test"]}], "domain": "bigcodebench", "libs": libs, "time_limit": 240,
            "setup": row["code_prompt"] + "\n    pass\n", "instruct_prompt": row["instruct_prompt"],
            "canonical_solution": row["complete_prompt"] + row["canonical_solution"]}


# ---------------------------------------------------------------- LiveCodeBench

def livecodebench(row, place):
    name = json.loads(row["metadata"] or "{}").get("func_name")
    public, private = json.loads(row["public_test_cases"]), json.loads(private_text(row["private_test_cases"], place))
    convert = (lambda test: functional_test(test, place)) if name else (
        lambda test: {"type": "stdin", "input": test["input"], "output": test["output"]})
    return {"problem_id": f"{row['platform']}/{row['question_id']}", "prompt": row["question_content"], "starter_code": row["starter_code"], "entry_point": name,
            "public_tests": [convert(test) for test in public], "tests": [convert(test) for test in private],
            "domain": row["platform"], "difficulty": row["difficulty"], "date": row["contest_date"][:10], "title": row["question_title"],
            "setup": LIVECODEBENCH_SETUP, "time_limit": 6}


def functional_test(test, place):
    """Arguments are the JSON values on the lines of the input."""
    try:
        args = [json.loads(line) for line in test["input"].split("\n") if line.strip()]
        return {"type": "call", "args": args, "expected": json.loads(test["output"])}
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: a functional test is not JSON ({error})") from None


def private_text(text, place):
    """The private tests as JSON text: plain, or base64 of zlib of a pickled str.

    A pickle can run code, so it is not unpickled: its opcodes are walked, and only those that spell one string are
    accepted.
    """
    if text.lstrip().startswith("["):
        return text
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), MAX_UNPACKED)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise UserError(f"{place}: private_test_cases unpacks to more than {MAX_UNPACKED} bytes, or is cut off")
        strings = []
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
                strings.append(argument)
            elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"):
                raise UserError(f"{place}: private_test_cases holds the pickle opcode {opcode.name}; a genuine row only spells a string. Do not trust this file")
    except (ValueError, zlib.error) as error:
        raise UserError(f"{place}: private_test_cases is neither JSON nor base64+zlib+pickle ({error})") from None
    if len(strings) != 1:
        raise UserError(f"{place}: private_test_cases holds {len(strings)} strings, expected one")
    return strings[0]


# ---------------------------------------------------------------- CodeContests, as SandboxFusion stores it

def codecontests(row, place):
    """Tests are stdin and stdout; the first is public."""
    labels = json.loads(row["labels"]) if isinstance(row["labels"], str) else row["labels"]
    tests = json.loads(row["test"]) if isinstance(row["test"], str) else row["test"]
    tests = [{"type": "stdin", "input": test["input"]["stdin"], "output": test["output"]["stdout"]} for test in tests]
    return {"problem_id": f"codecontests/{row['id']}", "prompt": row["content"], "public_tests": tests[:1], "tests": tests[1:],
            "domain": str(labels.get("source", "codecontests")).lower(), "difficulty": str(labels.get("difficulty", "unknown")).lower()}


LOADERS = {"humaneval": humaneval, "mbpp": mbpp, "bigcodebench": bigcodebench, "livecodebench": livecodebench, "codecontests": codecontests}
