"""Fields of original rows, checked: a wrong one is named before it becomes one of ours."""
from data.rows import UserError


def text_of(row, name):
    """A field that must be text. Raises KeyError if it is missing, UserError if it is no text."""
    value = row[name]
    if not isinstance(value, str):
        raise UserError(f"field {name!r} must be text, found {type(value).__name__}")
    return value


def one_of(row, name, known):
    """A field that must be one of the known names: another would change a score without a word."""
    value = text_of(row, name)
    if value not in known:
        raise UserError(f"field {name!r} is {value!r}; must be one of {', '.join(known)}")
    return value


def texts_of(row, name):
    """A field that must be a list of texts."""
    value = row[name]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise UserError(f"field {name!r} must be a list of texts")
    return value


def conversation(turns, name):
    """A list of turns {"role", "content"} as one text; that of a single turn is its content.

        User:
        Hello!

        Assistant:
        How can I help?

        User:
        Tell me a joke.
    """
    if not isinstance(turns, list) or not turns:
        raise UserError(f"field {name!r} must be a list of turns")
    shown = []
    for turn in turns:
        if not isinstance(turn, dict):
            found = type(turn).__name__
            raise UserError(f"field {name!r}: a turn must be an object, found {found}")
        shown.append(f"{text_of(turn, 'role').capitalize()}:\n{text_of(turn, 'content').strip()}")
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(shown)
