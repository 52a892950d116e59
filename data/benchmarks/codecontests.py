"""CodeContests (Li et al., 2203.07814), as SandboxFusion stores it.

Whole programs, from stdin to stdout.
"""
import json

SOURCES = {}
SUBSETS = []


def describe(row, subset):
    labels = parsed(row["labels"])
    return {
        "problem_id": f"codecontests/{row['id']}",
        "prompt": row["content"],
        "domain": str(labels.get("source", "codecontests")).lower(),
        "difficulty": str(labels.get("difficulty", "unknown")).lower(),
        "compare": "codecontests",
    }


def tests(row):
    """The first test is public."""
    converted = [{"type": "stdin",
                  "input": test["input"]["stdin"],
                  "output": test["output"]["stdout"]} for test in parsed(row["test"])]
    return converted[:1], converted[1:]


def parsed(value):
    """Some files hold these fields as JSON text, others as JSON."""
    return json.loads(value) if isinstance(value, str) else value


def prompt(problem, chat):
    return None


def extract(text, problem, chat):
    return None
