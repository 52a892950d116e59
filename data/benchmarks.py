"""Public benchmarks, from their original files to problem rows.

    load_benchmark("humaneval", "HumanEval.jsonl.gz")  ->  [problem, ...]

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
import json
import pickletools
import sys
import warnings
import zlib
from pathlib import Path

from data.rows import RowError

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
    """Problem rows of a benchmark's original file.

    name: humaneval, mbpp, bigcodebench, livecodebench or codecontests. path: JSONL or a JSON array, plain or .gz.
    split: what to write into the rows (a benchmark is a test set unless you say otherwise).
    Raises RowError naming file, line and field.
    """
    if name not in LOADERS:
        raise RowError(f"--benchmark {name}: expected one of {', '.join(LOADERS)}")
    problems, seen = [], set()
    for number, row in original_rows(path):
        place = f"{path}, row {number}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the benchmarks' sources have invalid escapes
                problem = LOADERS[name](row, place)
        except KeyError as missing:
            raise RowError(f"{place}: field {missing} is missing; is this really a file of {name}?") from None
        except (TypeError, ValueError, SyntaxError, AttributeError) as error:
            raise RowError(f"{place}: not as {name} has it ({type(error).__name__}: {error})") from None
        if problem["problem_id"] in seen:
            raise RowError(f"{place}: problem {problem['problem_id']!r} is already in the file")
        seen.add(problem["problem_id"])
        if not problem.get("public_tests") and not problem["tests"]:
            raise RowError(f"{place}: problem {problem['problem_id']!r} has no tests")
        problems.append({"starter_code": "", "entry_point": None, "public_tests": [], "difficulty": "unknown", "date": None,
                         "split": split, "source": name, **problem})
    if not problems:
        raise RowError(f"{path}: no rows in it")
    return problems


def original_rows(path):
    """(number, row) for each line of a JSONL file or item of a JSON array, read as a stream: some are gigabytes."""
    path = Path(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            if path.name.removesuffix(".gz").endswith(".json"):
                yield from enumerate(json.load(file), 1)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json.loads(line)
    except FileNotFoundError:
        raise RowError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RowError(f"{path}: cannot be read as JSON ({error})") from None


# ---------------------------------------------------------------- HumanEval

def humaneval(row, place):
    """The one hidden test is the benchmark's own check(), called on the entry point. There are no public tests."""
    source = f"{row['test']}\n\ncheck({row['entry_point']})\n"
    return {"problem_id": row["task_id"], "prompt": row["prompt"], "starter_code": row["prompt"], "entry_point": row["entry_point"],
            "tests": [{"type": "assert", "source": source}], "domain": "humaneval",
            "canonical_solution": row["prompt"] + row["canonical_solution"]}


# ---------------------------------------------------------------- MBPP, full and sanitized

def mbpp(row, place):
    """The first assert is public (prompts show it, for the function's name), the others are hidden."""
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
    return {"problem_id": f"MBPP/{row['task_id']}", "prompt": f"{text}\n\nYour code should pass this test:\n{asserts[0]}\n", "entry_point": entry_point,
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
        raise RowError(f"{place}: a functional test is not JSON ({error})") from None


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
            raise RowError(f"{place}: private_test_cases unpacks to more than {MAX_UNPACKED} bytes, or is cut off")
        strings = []
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
                strings.append(argument)
            elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"):
                raise RowError(f"{place}: private_test_cases holds the pickle opcode {opcode.name}; a genuine row only spells a string. Do not trust this file")
    except (ValueError, zlib.error) as error:
        raise RowError(f"{place}: private_test_cases is neither JSON nor base64+zlib+pickle ({error})") from None
    if len(strings) != 1:
        raise RowError(f"{place}: private_test_cases holds {len(strings)} strings, expected one")
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
