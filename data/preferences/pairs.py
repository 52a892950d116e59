"""Preference pairs in the common form, to train on: RISE, Skywork-Reward-Preference, your own.

Rows: `prompt` (or `question`), `chosen` and `rejected`. Each of these is text or a list of turns
{"role", "content"}. Where chosen and rejected have more than one turn, they are whole conversations
that differ in their last, which is the assistant's. A prompt beside them may be left out, or must
be the text of that conversation. A row may add source, category, difficulty, chosen_model and
rejected_model.

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
        "id": path.name if row.get("id") is None else str(row["id"]),
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
    prompt = prompt_of(row)
    before, chosen = turns_and_answer(row, "chosen")
    before_other, rejected = turns_and_answer(row, "rejected")
    if before != before_other:
        raise UserError("'chosen' and 'rejected' must differ in their last turn alone")
    if not before:
        if prompt is None:
            raise UserError("field 'prompt' (or 'question') is missing")
        return prompt, chosen, rejected
    before = conversation(before, "chosen")
    if prompt is not None and prompt.strip() != before.strip():
        raise UserError("the prompt is not the text of the conversation in 'chosen' "
                        "before its last turn: leave it out")
    return before, chosen, rejected


def prompt_of(row):
    """The prompt beside the answers, as text; None where there is none."""
    names = [name for name in ("question", "prompt") if row.get(name) is not None]
    if len(names) == 2:
        raise UserError("has both 'question' and 'prompt': leave one out")
    for name in names:
        return row[name] if isinstance(row[name], str) else conversation(row[name], name)


def turns_and_answer(row, name):
    """(turns before the answer, answer): the field, or its last turn, which is the assistant's."""
    if isinstance(row[name], str):
        return [], row[name]
    turns = row[name]
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        raise UserError(f"field {name!r} must be text or a list of turns")
    role = text_of(turns[-1], "role")
    if role != "assistant":
        raise UserError(f"field {name!r}: its last turn must be the assistant's, found {role!r}")
    return turns[:-1], text_of(turns[-1], "content")


def scores(results):
    return {"right": accuracy(results, UNDECIDED)}
