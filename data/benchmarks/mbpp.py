"""MBPP (Austin et al., 2108.07732), full and sanitized: a sentence and a few asserts."""
import ast
import builtins

from data.benchmarks.answers import without_control_tokens
from data.benchmarks.files import Source
from data.rows import UserError

REPOSITORY = "google-research-datasets/mbpp"
GOOGLE = "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/"
SOURCES = {
    "": Source(REPOSITORY, ["full/test-00000-of-00001.parquet"], by_hand=GOOGLE + "mbpp.jsonl"),
    "sanitized": Source(REPOSITORY, ["sanitized/test-00000-of-00001.parquet"],
                        by_hand=GOOGLE + "sanitized-mbpp.json"),
}
SUBSETS = ["sanitized"]
# By the paper; the others are for prompts (1 to 10), validation and training.
TEST_SET = range(11, 511)


def describe(row, subset):
    if "test" in row:
        raise UserError("these are rows of MBPP+, whose further tests (`test`) are not read here: "
                        "take the original MBPP")
    if "sanitized" in subset and "prompt" not in row:
        raise UserError("this is all of MBPP; --subset sanitized wants the file of sanitized MBPP "
                        f"({SOURCES['sanitized'].by_hand})")
    text = row["prompt"] if "prompt" in row else row["text"]  # sanitized, full
    return {
        "problem_id": f"MBPP/{row['task_id']}",
        "prompt": f"{text.strip()} Your code should pass these tests:\n\n{asserts_of(row)[0]}\n",
        "entry_point": entry_point_of(row),
        "domain": "mbpp",
        "canonical_solution": unix_lines(row["code"]),
    }


def tests(row):
    """The first assert is public, the others are hidden.

    The prompt shows the public one, for the function's name; the paper shows them all.
    """
    # The benchmark runs these after the program, whose classes they may use, before the asserts.
    imports = row.get("test_imports") or []
    if not isinstance(imports, list):
        raise UserError("its `test_imports` is no list")
    before = [*imports, unix_lines(row.get("test_setup_code") or "")]
    functions = functions_of(row)
    converted = []
    for line in asserts_of(row):
        test = {"type": "assert", "source": "\n".join([*before, line]).strip()}
        if not only_calls_functions(test["source"], functions):
            test["inside"] = True
        converted.append(test)
    return converted[:1], converted[1:]


def unix_lines(text):
    return text.replace("\r\n", "\n")


def number_of(problem):
    """Of a problem row: its task_id."""
    return int(problem["problem_id"].removeprefix("MBPP/"))


def asserts_of(row):
    asserts = row["test_list"] + (row.get("challenge_test_list") or [])
    if not asserts:
        raise UserError("its `test_list` is empty")
    return [unix_lines(line) for line in asserts]


def functions_of(row):
    """Names of the functions that the reference solution defines."""
    body = ast.parse(unix_lines(row["code"])).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def entry_point_of(row):
    """The first of the reference's functions that the asserts call, or None."""
    functions = functions_of(row)
    for line in asserts_of(row):
        for node in ast.walk(ast.parse(line)):
            if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                    and node.func.id in functions):
                return node.func.id
    return None


# Builtins whose results are plain values: numbers, texts, lists, tuples, sets and dicts of them.
PLAIN = {"abs", "bin", "bool", "bytes", "chr", "complex", "dict", "divmod", "float", "frozenset",
         "hex", "int", "len", "list", "max", "min", "oct", "ord", "pow", "repr", "round", "set",
         "sorted", "str", "sum", "tuple"}


def only_calls_functions(source, functions):
    """Does a test need nothing from the candidate but calls of its functions with plain values?

    Such a test can run apart from the candidate. Others handle objects of the candidate's own
    classes, or pass on what is more than a value (`f([1, "a"], int)`, `f(lambda x: x)`): they must
    run beside it ("inside").
    """
    tree = ast.parse(source)
    known = set(functions)
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Name):
            known.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if not all(name in known or hasattr(builtins, name) for name in used):
        return False
    for node in ast.walk(tree):
        if (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                and node.func.id in functions):
            arguments = node.args + [keyword.value for keyword in node.keywords]
            if not all(is_plain(argument, functions) for argument in arguments):
                return False
    return True


def is_plain(argument, functions):
    """Is the argument of a call surely a plain value, as far as its text says?"""
    called = set()
    for node in ast.walk(argument):
        if isinstance(node, (ast.Lambda, ast.GeneratorExp)):
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if hasattr(builtins, node.func.id) and node.func.id not in PLAIN:
                return False  # map, iter, object, ...
            called.add(node.func)
    names = [node for node in ast.walk(argument)
             if isinstance(node, ast.Name) and node not in called]
    return not any(name.id in functions or hasattr(builtins, name.id) for name in names)


def prompt(problem, chat):
    """The paper's words, without its three worked examples."""
    words = f"You are an expert Python programmer, and here is your task: {problem['prompt']}"
    return words if chat else words + "[BEGIN]\n"


def extract(text, problem, chat):
    """A plain model ends its program with [DONE]."""
    return None if chat else without_control_tokens(text.split("[DONE]")[0])
