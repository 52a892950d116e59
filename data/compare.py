"""When an output counts as the expected one: text as programs print it, values as functions return them, and their digests.

Three ways, by execute.py's --compare:

    benchmark   LiveCodeBench's own. Text: the same number of lines, each equal as text or, token by token, as exact decimals.
                Values: ==, so True == 1 == 1.0, nan equals nothing, integers are exact at any size. JSON has no tuples, so a
                tuple returned at the top equals the list of its items; nested ones do not.
    exact       Text but for blanks at line ends and blank lines at the end; values of the same types throughout.
    tolerant    Tokens, or values of any nesting, with numbers within a relative 1e-6 (or 1e-9), nan equal to nan, tuples to lists.
"""
import functools
import math
import operator
from decimal import Decimal, InvalidOperation


def lines_of(text):
    return [line.strip() for line in text.strip().split("\n")]


def same_text(got, expected, compare=None):
    """Is the text `got` what was expected? See above."""
    if compare != "tolerant" and got.strip().count("\n") != expected.strip().count("\n"):
        return False  # before millions of lines are taken apart
    if compare == "exact":
        return [line.rstrip() for line in got.rstrip().split("\n")] == [line.rstrip() for line in expected.rstrip().split("\n")]

    def same(mine, theirs, number, equal):
        try:
            return len(mine) == len(theirs) and all(equal(number(a), number(b)) for a, b in zip(mine, theirs))
        except (ValueError, InvalidOperation):
            return False

    if compare == "tolerant":
        mine, theirs = got.split(), expected.split()
        return len(mine) == len(theirs) and all(a == b or same([a], [b], float, near) for a, b in zip(mine, theirs))
    mine, theirs = lines_of(got), lines_of(expected)
    return len(mine) == len(theirs) and all(
        a == b or same(a.split(), b.split(), Decimal, operator.eq) for a, b in zip(mine, theirs))


def near(a, b):
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or a != a and b != b


def same_value(got, expected, compare=None):
    """Is the value `got`, of builtin types, what was expected? See above."""
    if compare == "exact":
        return type(got) is type(expected) and got == expected and digestible(got, exact=True) == digestible(expected, exact=True)
    if compare != "tolerant":
        return (list(got) if type(got) is tuple and type(expected) is list else got) == expected
    if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
        huge = abs(got) >= 1e300 or abs(expected) >= 1e300  # no float may hold it
        return got == expected or got != got and expected != expected or not huge and near(got, expected)
    if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(same_value(a, b, compare) for a, b in zip(got, expected))
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(same_value(got[key], expected[key], compare) for key in got)
    return got == expected


def digestible(value, exact=False):
    """A text that is the same for equal values, whatever the order of their sets and dicts."""
    kind, text = type(value), functools.partial(digestible, exact=exact)
    if kind in (list, tuple):
        return ("(" if exact and kind is tuple else "[") + ",".join(map(text, value)) + "]"
    if kind in (set, frozenset):
        return "{" + ",".join(sorted(map(text, value))) + "}"
    if kind is dict:
        return "{" + ",".join(sorted(f"{text(key)}:{text(item)}" for key, item in value.items())) + "}"
    if kind in (bool, float) and not exact and math.isfinite(value) and value == int(value):
        value = int(value)
    if type(value) is int:
        return hex(value)
    return repr(value) if kind in (str, bytes, bytearray, float, bool, complex, range, type(None)) else kind.__name__
