"""CodeJudgeBench (Jiang et al., 2507.10535): a passing and a failing answer to a contest problem.

Rows: question_content, question_id, platform, difficulty, pos_response and neg_response, of
coderepair besides wrong_code and wrong_meta. The model that wrote both answers is the name of the
file (codegen/gemini_2.5_pro-00000-of-00001.parquet). The answers are shown as they are, with all
that the model said around its program, as the authors do. Before them stands what the authors show,
in our words: of codegen the question's content alone, without its starter code, of coderepair
(src/tasks/coderepair.py there) also the wrong program and how it failed. Rows of testgen are
refused: what their judge is asked stands in a file (src/tasks/testgen.py) that we have not seen.

Its rule (src/score.py there): share of right judgments, both orders of each pair alike, by
difficulty and in all, for each task. No verdict is wrong.
"""
from data.benchmarks.files import Source
from data.preferences.fields import one_of, text_of
from data.preferences.scores import accuracy, by_field
from data.rows import UserError

TITLE = "CodeJudgeBench"
MODELS = ["claude_3.7_sonnet", "claude_4_opus", "claude_4_sonnet", "gemini_2.5_flash",
          "gemini_2.5_flash_lite", "gemini_2.5_pro", "qwen3_235b"]
SOURCE = Source("mattymchen/codejudgebench",
                [f"codegen/{model}-00000-of-00001.parquet" for model in MODELS])
HOME = "https://huggingface.co/datasets/mattymchen/codejudgebench"
UNDECIDED = 0.0
CRITERION = "an answer is the better one if its program passes every test of the problem."
DIFFICULTIES = ["easy", "medium", "hard"]
FAILURES = {  # by error_code: what it means, and the fields of wrong_meta that are shown
    -1: ("does not compile", ["error"]),
    -2: ("gives a wrong answer", ["inputs", "output", "expected"]),
    -3: ("exceeds the time limit", ["error", "inputs", "expected"]),
    -4: ("ends with a runtime error", ["inputs", "expected", "error"]),
}


def describe(row, path):
    if "testgen" in path.parts:
        raise UserError("rows of testgen cannot be read: "
                        "what their judge is asked is not known here")
    if "platform" not in row:
        raise UserError("field 'platform' is missing: is it a row of testgen? "
                        "Only codegen and coderepair can be read")
    task = "coderepair" if "wrong_code" in row else "codegen"
    difficulty = one_of(row, "difficulty", DIFFICULTIES)
    policy = path.name.partition(".parquet")[0].partition(".jsonl")[0].partition("-00")[0]
    return {
        "id": f"{task}/{policy}/{text_of(row, 'question_id')}",
        "prompt": prompt_of(row, task),
        "criterion": CRITERION,
        "category": task,
        "domain": text_of(row, "platform"),
        "difficulty": difficulty,
        "preferred": [(text_of(row, "pos_response"), policy)],
        "others": [(text_of(row, "neg_response"), policy)],
    }


def prompt_of(row, task):
    """The problem; for repair also the program that was wrong and what went wrong with it."""
    prompt = text_of(row, "question_content").rstrip()
    if task == "coderepair":
        prompt += f"\n\nRepair this program:\n{text_of(row, 'wrong_code').rstrip()}"
        prompt += f"\n\nIt {failure(row['wrong_meta'])}"
    return prompt


def failure(meta):
    """How the wrong program failed, and a line for each field of `wrong_meta` that tells more.

    A runtime error without inputs has its message alone. Parquet has all fields in all rows: one
    that is null is not there.
    """
    if not isinstance(meta, dict):
        raise UserError(f"field 'wrong_meta' must be an object, found {type(meta).__name__}")
    code = meta["error_code"]
    if code not in FAILURES:
        raise UserError(f"field 'error_code' of 'wrong_meta' is {code!r}; "
                        f"must be one of {', '.join(map(str, FAILURES))}")
    what, fields = FAILURES[code]
    if code == -4 and meta.get("inputs") is None:
        fields = ["error_message"]
    lines = [f"{field}: {meta[field]}" for field in fields if meta.get(field) is not None]
    return "\n".join([f"{what}.", *lines])


def scores(results):
    """Each task, by difficulty and in all."""
    found = {}
    for task, own in by_field(results, "category").items():
        of = by_field(own, "difficulty")
        for difficulty in DIFFICULTIES:
            if difficulty in of:
                found[f"{task}, {difficulty}"] = accuracy(of[difficulty], UNDECIDED)
        found[task] = accuracy(own, UNDECIDED)
    return found
