"""MBPP (Austin et al., 2108.07732), full and sanitized: a sentence and a few asserts."""
import ast
import builtins

from data.benchmarks.files import Source

REPOSITORY = "google-research-datasets/mbpp"
GOOGLE = "https://raw.githubusercontent.com/google-research/google-research/master/mbpp/"
SOURCES = {
    "": Source(REPOSITORY, ["full/test-00000-of-00001.parquet"], by_hand=GOOGLE + "mbpp.jsonl"),
    "sanitized": Source(REPOSITORY, ["sanitized/test-00000-of-00001.parquet"], by_hand=GOOGLE + "sanitized-mbpp.json"),
}
SUBSETS = ["sanitized"]


def describe(row, subset):
    text = row["prompt"] if "prompt" in row else row["text"]  # sanitized, full
    return {
        "problem_id": f"MBPP/{row['task_id']}",
        "prompt": f"{text.strip()} Your code should pass these tests:\n\n{asserts_of(row)[0]}\n",
        "entry_point": entry_point_of(row),
        "domain": "mbpp",
        "setup": unix_lines(row.get("test_setup_code") or ""),
        "canonical_solution": unix_lines(row["code"]),
    }


def tests(row):
    """The first assert is public (the prompt shows it, for the function's name), the others are hidden.

    The paper shows them all.
    """
    imports = "\n".join(row.get("test_imports") or [])
    converted = []
    for line in asserts_of(row):
        test = {"type": "assert", "source": f"{imports}\n{line}".strip()}
        if not is_about_functions(test["source"], functions_of(row)):
            test["inside"] = True  # the test handles objects of the candidate's own classes
        converted.append(test)
    return converted[:1], converted[1:]


def unix_lines(text):
    return text.replace("\r\n", "\n")


def asserts_of(row):
    return [unix_lines(line) for line in row["test_list"] + (row.get("challenge_test_list") or [])]


def functions_of(row):
    """Names of the functions that the reference solution defines."""
    body = ast.parse(unix_lines(row["code"])).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def entry_point_of(row):
    """The first of the reference's functions that the asserts call, or None."""
    functions = functions_of(row)
    for line in asserts_of(row):
        for node in ast.walk(ast.parse(line)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
                return node.func.id
    return None


def is_about_functions(source, functions):
    """Does a test need nothing from the candidate but calls of its functions?"""
    known = set(functions)
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Name):
            known.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return all(name in known or hasattr(builtins, name) for name in used)


def prompt(problem, chat):
    """The paper's words, without its three worked examples."""
    words = f"You are an expert Python programmer, and here is your task: {problem['prompt']}"
    return words if chat else words + "[BEGIN]\n"


def extract(text, problem, chat):
    """A plain model ends its program with [DONE]."""
    return None if chat else text.split("[DONE]")[0]
