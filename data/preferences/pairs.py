"""Preference pairs in the common form, to train on: RISE, Skywork-Reward-Preference, your own.

Rows: `prompt` (or `question`), `chosen` and `rejected`. Each of these is text or a list of turns
{"role", "content"}. Without a prompt, chosen and rejected are whole conversations that differ in
their last turn alone. A row may add source, category, difficulty, chosen_model and rejected_model.

J1 (2505.11875) trains on RISE (2502.11689), whose published rows are prompts of a judge with
judgments; how their fields are called could not be established. Of such rows take the question and
its two answers.
"""
from data.preferences.fields import conversation, text_of
from data.preferences.scores import accuracy
from data.rows import UserError

TITLE = "pairs"
SOURCE = None
HOME = "wherever your pairs come from"
UNDECIDED = 0.0
OWN = ("source", "category", "difficulty", "chosen_model", "rejected_model")


def describe(row, path):
    own = {name: text_of(row, name) for name in OWN if row.get(name) is not None}
    prompt, chosen, rejected = texts_of_pair(row)
    described = {
        "id": str(row.get("id", path.name)),
        "prompt": prompt,
        "category": own.get("category", "all"),
        "domain": own.get("source", "unknown"),
        "preferred": [(chosen, own.get("chosen_model", "unknown"))],
        "others": [(rejected, own.get("rejected_model", "unknown"))],
    }
    if "difficulty" in own:
        described["difficulty"] = own["difficulty"]
    return described


def texts_of_pair(row):
    """(prompt, preferred answer, other answer)"""
    name = "question" if "question" in row else "prompt"
    if name in row:
        prompt = row[name] if isinstance(row[name], str) else conversation(row[name], name)
        return prompt, last_turn(row, "chosen"), last_turn(row, "rejected")
    chosen = turns_of(row, "chosen")
    rejected = turns_of(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise UserError("without a 'prompt', 'chosen' and 'rejected' must differ "
                        "in their last turn alone")
    return conversation(chosen[:-1], "chosen"), last_turn(row, "chosen"), last_turn(row, "rejected")


def last_turn(row, name):
    """An answer: the field, or the content of its last turn."""
    if isinstance(row[name], str):
        return row[name]
    return text_of(turns_of(row, name)[-1], "content")


def turns_of(row, name):
    turns = row[name]
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        raise UserError(f"field {name!r} must be text or a list of turns")
    return turns


def scores(results):
    return {"right": accuracy(results, UNDECIDED)}
