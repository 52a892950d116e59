"""CodeJudgeBench (Jiang et al., 2507.10535): a passing and a failing answer to a contest problem.

Rows: question_content, question_id, platform, difficulty, starter_code, pos_response and
neg_response, of coderepair besides wrong_code and wrong_meta. The model that wrote both answers is
the name of the file (codegen/gemini_2.5_pro-00000-of-00001.parquet). The answers are shown as they
are, with all that the model said around its program, as the authors do. Rows of testgen are
refused: what else a judge is shown of them could not be established.

Its rule (src/score.py there): share of right judgments, both orders of each pair alike, by
difficulty and in all, for each task. No verdict is wrong.
"""
from data.benchmarks.files import Source
from data.preferences.fields import text_of
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


def describe(row, path):
    if "platform" not in row:
        raise UserError("field 'platform' is missing: only codegen and coderepair can be read")
    task = "coderepair" if "wrong_code" in row else "codegen"
    policy = path.name.partition(".parquet")[0].partition(".jsonl")[0].partition("-00")[0]
    return {
        "id": f"{task}/{policy}/{text_of(row, 'question_id')}",
        "prompt": prompt_of(row, task),
        "criterion": CRITERION,
        "category": task,
        "domain": text_of(row, "platform"),
        "difficulty": text_of(row, "difficulty"),
        "preferred": [(text_of(row, "pos_response"), policy)],
        "others": [(text_of(row, "neg_response"), policy)],
    }


def prompt_of(row, task):
    """The problem; for repair also the program that was wrong and what went wrong with it."""
    prompt = text_of(row, "question_content").rstrip()
    starter = row.get("starter_code")
    if starter:
        prompt += f"\n\nBegin with this code:\n{starter}"
    if task == "coderepair":
        prompt += f"\n\nRepair this program:\n{text_of(row, 'wrong_code').rstrip()}"
        prompt += f"\n\nIt fails:\n{failure(row['wrong_meta'])}"
    return prompt


def failure(meta):
    """What went wrong: the fields of `wrong_meta` that say something, a line each."""
    if not isinstance(meta, dict):
        raise UserError(f"field 'wrong_meta' must be an object, found {type(meta).__name__}")
    lines = []
    for field in ("error_message", "error", "inputs", "output", "expected"):
        if meta.get(field) is not None:
            lines.append(f"{field}: {meta[field]}")
    return "\n".join(lines)


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
