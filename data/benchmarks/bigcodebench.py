"""BigCodeBench (Zhuo et al., 2406.15877): functions over many libraries, judged by unittest."""
import ast
import sys

from data.benchmarks.answers import defines, without_control_tokens
from data.benchmarks.files import Source
from data.benchmarks.markdown import bare_programs, fenced_blocks, lines_of, parse
from data.rows import UserError

PARQUET = ["data/v0.1.4-00000-of-00001.parquet"]
GITHUB = "https://github.com/bigcode-project/bigcodebench-annotation/releases/download/v0.1.4/"
SOURCES = {
    "": Source("bigcode/bigcodebench", PARQUET, by_hand=GITHUB + "BigCodeBench.jsonl.gz"),
    "hard": Source("bigcode/bigcodebench-hard", PARQUET,
                   by_hand=GITHUB + "BigCodeBench-Hard.jsonl.gz"),
}
SUBSETS = ["hard", "instruct"]  # which problems; which prompt
TIME_LIMIT = 240  # seconds a test, the benchmark's own
STUB_BODY = "\n    pass\n"


def describe(row, subset):
    """With the subset `instruct` a model is asked in words, else it is shown code to complete."""
    # Problem 0 uses two libraries only, and every hard one more: it marks the whole benchmark.
    if "hard" in subset and row["task_id"] == "BigCodeBench/0":
        raise UserError("this is all of BigCodeBench; --subset hard wants the file of "
                        f"BigCodeBench-Hard ({SOURCES['hard'].by_hand})")
    instruct = "instruct" in subset
    return {
        "problem_id": row["task_id"],
        "prompt": row["instruct_prompt"] if instruct else row["complete_prompt"],
        "starter_code": "" if instruct else row["complete_prompt"],
        "entry_point": row["entry_point"],
        "domain": "bigcodebench",
        "libs": libraries_of(row),
        "time_limit": TIME_LIMIT,
        # As in the benchmark the stub of code_prompt comes first: a missing function fails tests.
        "setup": row["code_prompt"] + STUB_BODY,
        "canonical_solution": row["complete_prompt"] + row["canonical_solution"],
    }


def libraries_of(row):
    """Modules outside of the standard library that a verdict needs."""
    modules = set(ast.literal_eval(row["libs"]) if isinstance(row["libs"], str) else row["libs"])
    # `libs` forgets what only the tests import.
    for source in (row["test"], row["complete_prompt"] + row["canonical_solution"]):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module)
    packages = {module.partition(".")[0] for module in modules}
    return sorted(packages - sys.stdlib_module_names)


def tests(row):
    if not may_hold_tests(row["test"]):
        raise UserError("`test` holds no test methods in a class of unittest.TestCase: "
                        "every program would pass")
    return [], [{"type": "unittest", "source": row["test"]}]


def may_hold_tests(source):
    """Could unittest find a test?

    It takes methods called test* of classes with a base, not functions as pytest does.
    """
    nodes = list(ast.walk(ast.parse(source)))
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = [node for owner in classes for node in ast.walk(owner)
               if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
               and node.name.startswith("test")]
    return bool(methods) and any(owner.bases for owner in classes)


def prompt(problem, chat):
    starter = problem.get("starter_code")
    if not chat and not starter:
        raise UserError("--subset instruct wants a chat model; a plain one completes the code: "
                        "leave out `instruct`")
    if not chat:
        return None
    shown = problem["prompt"].strip()
    if starter:  # the complete prompt is code, the instruct prompt is not
        shown = f"```\n{shown}\n```"
    return ("Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
            f"{shown}\n")


def extract(text, problem, chat):
    """The longest block that is Python, reduced to what its function needs."""
    if not chat:
        return None
    text = without_control_tokens(text.replace("\r\n", "\n"))
    stub = problem["setup"].removesuffix("    pass\n").strip("\n") + "\n"
    # An answer may go on after the signature.
    text = text.replace("```python\n    ", f"```python\n{stub}    ")
    programs = [block.code for block in fenced_blocks(text) if parse(block.code)]
    if not programs:
        programs = [run for run in bare_programs(text)
                    if parse(run) and defines(run, problem["entry_point"])]
    if not programs:
        return None
    return needed(max(programs, key=written_lines), problem["entry_point"])


def written_lines(code):
    return sum(bool(line.strip()) for line in code.split("\n"))


def needed(code, entry_point):
    """A program's imports and the definitions that the entry point leads to: no demonstrations."""
    statements = parse(code)
    reached = {entry_point}  # names that the entry point leads to, itself included
    while True:
        used = set()  # names in the statements that define a reached one
        for statement in statements:
            if defined_by(statement) & reached:
                used |= names_in(statement)
        if used <= reached:
            break
        reached |= used

    lines = code.split("\n")
    kept = []
    for statement in statements:
        is_import = isinstance(statement, (ast.Import, ast.ImportFrom))
        if is_import or defined_by(statement) & reached:
            first, last = lines_of(statement)
            kept += lines[first - 1:last]
    return "\n".join(kept) + "\n"


def defined_by(statement):
    """The names that a top-level statement defines, imports aside."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return set().union(*map(names_in, statement.targets))
    if isinstance(statement, ast.AnnAssign):
        return names_in(statement.target)
    return set()


def names_in(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
