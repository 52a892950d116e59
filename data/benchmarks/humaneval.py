"""HumanEval (Chen et al., 2107.03374): complete a function from its signature and docstring."""
from data.benchmarks.files import Source
from data.rows import UserError

SOURCES = {"": Source("openai/openai_humaneval", ["openai_humaneval/test-00000-of-00001.parquet"],
                      by_hand="https://github.com/openai/human-eval/raw/master/data/HumanEval.jsonl.gz")}
SUBSETS = []


def describe(row, subset):
    if "plus_input" in row:
        raise UserError("these are rows of HumanEval+ as EvalPlus keeps them, "
                        "whose `test` is still HumanEval's own and whose further tests "
                        "(`plus_input`) are not read here: take those of evalplus/humanevalplus "
                        "on the hub, whose `test` has them all")
    problem = {
        "problem_id": row["task_id"],
        "prompt": row["prompt"],
        "starter_code": row["prompt"],
        "entry_point": row["entry_point"],
        "domain": "humaneval",
        "canonical_solution": row["prompt"] + row["canonical_solution"],
    }
    if "import numpy" in row["test"]:  # HumanEval+ compares with it
        problem["libs"] = ["numpy"]
    return problem


def tests(row):
    """The one hidden test is the benchmark's check(), called on the entry point; none is public."""
    source = f"{row['test']}\n\ncheck({row['entry_point']})\n"
    return [], [{"type": "assert", "source": source}]


def prompt(problem, chat):
    """HumanEval is completed, not asked: it has no words for a chat model."""
    return None


def extract(text, problem, chat):
    return None
