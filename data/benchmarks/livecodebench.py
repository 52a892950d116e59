"""LiveCodeBench (Jain et al., 2403.07974): contest problems with dates.

A program reads stdin, or has a method of `class Solution`.
"""
import base64
import json
import pickletools
import zlib

from data.benchmarks.files import Source
from data.rows import UserError

SOURCES = {"": Source(
    "livecodebench/code_generation_lite",
    ["test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl"],
    # A release cannot hold later contests than itself: the month after its last one, by its README.
    # Saves gigabytes.
    newest={"test.jsonl": "2024-04-30", "test2.jsonl": "2024-06-30", "test3.jsonl": "2024-08-31",
            "test4.jsonl": "2024-10-31", "test5.jsonl": "2025-02-28"})}
SUBSETS = []

# The benchmark runs every program after these imports.
STAR_IMPORTS = ("string re datetime collections heapq bisect copy math random statistics "
                "itertools functools operator io sys json builtins typing").split()
SETUP = "".join(f"from {module} import *\n" for module in STAR_IMPORTS) + """\
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics
import itertools, functools, operator, io, sys, json
sys.setrecursionlimit(50000)
if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(50000)
"""
TIME_LIMIT = 6  # seconds a test, the benchmark's own
MAX_UNPACKED = 1 << 28  # bytes of a row's private tests; the largest genuine ones are below 100 MB


def describe(row, subset):
    return {
        "problem_id": f"{row['platform']}/{row['question_id']}",
        "prompt": row["question_content"],
        "starter_code": row["starter_code"],
        "entry_point": function_name(row),
        "domain": row["platform"],
        "difficulty": row["difficulty"],
        "date": row["contest_date"][:10],
        "title": row["question_title"],
        "setup": SETUP,
        "time_limit": TIME_LIMIT,
        "compare": "livecodebench",
    }


def function_name(row):
    """The method of a functional problem; None where the program reads stdin."""
    return json.loads(row["metadata"] or "{}").get("func_name")


def must_be_of_its_kind(row, tests):
    """A functional problem has a method to call, and no other has: the tests say which it is."""
    kinds = {test.get("testtype") for test in tests} - {None}
    expected = "functional" if function_name(row) else "stdin"
    if kinds - {expected}:
        raise UserError(f"its tests are of the type {', '.join(sorted(kinds))}, and its metadata "
                        f"names {function_name(row) or 'no'} function")


def tests(row):
    convert = functional_test if function_name(row) else stdin_test
    public = json.loads(row["public_test_cases"])
    private = json.loads(private_text(row["private_test_cases"]))
    must_be_of_its_kind(row, public + private)
    return [convert(test) for test in public], [convert(test) for test in private]


def stdin_test(test):
    return {"type": "stdin", "input": test["input"], "output": test["output"]}


def functional_test(test):
    """Arguments are the JSON values on the lines of the input."""
    try:
        args = [json.loads(line) for line in test["input"].split("\n") if line.strip()]
        return {"type": "call", "args": args, "expected": json.loads(test["output"])}
    except json.JSONDecodeError as error:
        raise UserError(f"a functional test is not JSON ({error})") from None


def private_text(text, limit=MAX_UNPACKED):
    """The private tests as JSON text: plain, or base64 of zlib of a pickled str.

    limit: most bytes that a row may unpack to.
    A pickle can run code, so it is not unpickled: its opcodes are walked, and only those that spell
    one string are accepted.
    """
    if text.lstrip().startswith("["):
        return text
    strings = []
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(text, validate=True), limit)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise UserError(f"private_test_cases unpacks to more than {limit} bytes, or is cut off")
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
                strings.append(argument)
            elif opcode.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"):
                raise UserError(f"private_test_cases holds the pickle opcode {opcode.name}; "
                                "a genuine row only spells a string. Do not trust this file")
    except (ValueError, zlib.error) as error:
        raise UserError("private_test_cases is neither JSON nor base64+zlib+pickle "
                        f"({error})") from None
    if len(strings) != 1:
        raise UserError(f"private_test_cases holds {len(strings)} strings, expected one")
    return strings[0]


# The benchmark's own words to a chat model. Its prompt for plain models has a worked example that
# is not in its data.
PROMPT = """\
You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct \
Python program that matches the specification and passes all tests.

### Question:
{question}

### Format: {format}
```python
{starter}
```

### Answer: (use the provided format with backticks)

"""
FORMAT_FUNCTIONAL = ("You will use the following starter code to write the solution to the problem and enclose your "
                     "code within delimiters.")
FORMAT_STDIN = ("Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
                "the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python "
                "program runs, it reads the inputs, runs the algorithm and writes output to STDOUT.")


def prompt(problem, chat):
    if not chat:
        return None
    starter = problem.get("starter_code")
    return PROMPT.format(question=problem["prompt"],
                         format=FORMAT_FUNCTIONAL if starter else FORMAT_STDIN,
                         starter=starter or "# YOUR CODE HERE")


def extract(text, problem, chat):
    """What stands between the last two lines with fences, "" where there are not two."""
    if not chat:
        return None
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return ""
    return "\n".join(lines[fences[-2] + 1:fences[-1]])
