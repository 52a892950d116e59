"""CodePrefBench (Liu et al., CodeFavor, 2410.03837): pairs of programs that differ in one aspect.

Rows: task_id, instruction, choices (two programs) and gt_choice (the place of the better one). The
aspect is the name of the file: correctness-alignment.jsonl, efficiency-, security- and
human-preference-alignment. The files are for evaluation: their authors ask not to train on them
(CC BY-NC 4.0).

Its rule (codefavor/evaluate.py in the authors' repository): comments and docstrings are taken out
of both programs, or of neither where one cannot be parsed, and stay for human preference; the judge
is told what counts (here in our words, CRITERIA); accuracy in each aspect, where no verdict counts
half; the total is the mean of the four aspects, and without human preference that of three. There
each pair is judged once, as it stands and at temperature 0, here in both orders.
"""
import ast

from data.preferences.fields import text_of, texts_of
from data.preferences.scores import accuracy, by_field, mean
from data.rows import UserError

TITLE = "CodePrefBench"
SOURCE = None
HOME = "https://huggingface.co/datasets/amazon/CodePrefBench"
UNDECIDED = 0.5
CRITERIA = {  # by aspect
    "correctness": "the better program does what was asked, runs, and has no bugs.",
    "efficiency": "the better program is faster and, after that, needs less memory.",
    "security": "the better program is safer against attacks.",
    "human-preference": "the better program is the one that a developer would rather have.",
}


def describe(row, path):
    aspect = path.name.partition("-alignment")[0]
    if aspect not in CRITERIA:
        raise UserError(f"the aspect is the file's name, one of {', '.join(CRITERIA)} "
                        f"before -alignment.jsonl; this is {path.name}")
    choices = texts_of(row, "choices")
    better = row["gt_choice"]
    if len(choices) != 2 or type(better) is not int or better not in (0, 1):
        raise UserError("field 'choices' must be two programs, and 'gt_choice' 0 or 1")
    if aspect != "human-preference":
        choices = without_comments(choices)
    task_id = text_of(row, "task_id")
    return {
        "id": f"{aspect}/{task_id}",
        "prompt": text_of(row, "instruction"),
        "criterion": CRITERIA[aspect],
        "category": aspect,
        "domain": task_id.partition("/")[0],
        "preferred": [(choices[better], "unknown")],
        "others": [(choices[1 - better], "unknown")],
    }


def without_comments(programs):
    """The programs without comments and docstrings; as they are where one cannot be parsed.

    Else comments, and not what the programs do, would tell the two apart.
    """
    try:
        return [bare(program) for program in programs]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return programs


def bare(program):
    """A program without comments and docstrings. Raises what ast.parse and ast.unparse do."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            kept = [line for line in node.body if not is_text(line)]
            empty = [] if isinstance(node, ast.Module) else [ast.Pass()]
            node.body = kept or empty
    return ast.unparse(tree)


def is_text(statement):
    """A docstring, or another constant that stands alone."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def scores(results):
    """Each aspect, the mean of them, and the mean without human preference."""
    found = {}
    for aspect, own in by_field(results, "category").items():
        found[aspect] = accuracy(own, UNDECIDED)
    without_people = [share for aspect, share in found.items() if aspect != "human-preference"]
    found["score"] = mean(list(found.values()))
    found["without human preference"] = mean(without_people)
    return found
