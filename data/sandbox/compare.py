"""When an output counts as the expected one, and the digest by which equal outputs are one cluster.

A problem's `compare` names its rule; its loader sets it.

    plain          (where there is none) Text: token by token, line by line but for blank lines.
                   Where a token is written with a point or an exponent, a number within 1e-6,
                   relative or absolute, will do; else the text must be equal. Values: ==, with the
                   same tolerance where the expected number is a float.
    livecodebench  LiveCodeBench's own. Text: the same number of lines, each equal as text or, token
                   by token, as exact decimals. Values: ==.
    codecontests   CodeContests' own. Text: token by token, without regard to case and lines,
                   numbers less than 1e-5 apart (not relative: "8.0" is no "7"). Values: as plain.

In all of them True == 1 == 1.0, nan equals nothing, and integers are exact at any size. JSON has no
tuples, so a tuple returned at the top equals the list of its items; nested ones do not. A byte
order mark before a text, which its file's editor has left, is none of it.

A problem with several right answers brings a `checker` instead: Python source that defines

    def check(given, answer, expected):   # given: the input text, or the list of arguments
        return ...                        # true if the answer is right

What it raises of an answer makes the answer wrong. It is at fault itself, and no program gets a
label by it, where it has no `check`, names or imports what is not there, exits, or returns None,
crashes or never ends even of the expected answer; or returns a list, a dict, a text or the like,
which are true whatever they say.
"""
import math
import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

RULES = ("plain", "livecodebench", "codecontests")
INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def same_text(got, expected, rule="plain"):
    """Is the text `got` what was expected, by this rule?"""
    if got == expected:
        return True
    if rule == "codecontests":
        mine = without_mark(got).lower().split()
        theirs = without_mark(expected).lower().split()
        return len(mine) == len(theirs) and all(map(same_token_roughly, mine, theirs))
    mine = lines_of(got)
    theirs = lines_of(expected)
    if rule == "plain":
        mine = [line for line in mine if line]
        theirs = [line for line in theirs if line]
    same_line = same_decimals if rule == "livecodebench" else same_line_plainly
    return len(mine) == len(theirs) and all(map(same_line, mine, theirs))


def lines_of(text):
    return [line.strip() for line in without_mark(text).strip().split("\n")]


def without_mark(text):
    """A text without its byte order mark."""
    return text.removeprefix("\ufeff")


def same_decimals(mine, theirs):
    """LiveCodeBench's rule for a line: "1.0 2" is "1 2", and so is "1_0" "10"."""
    if mine == theirs:
        return True
    try:
        mine = [Decimal(token) for token in mine.split()]
        theirs = [Decimal(token) for token in theirs.split()]
        return mine == theirs
    except (ValueError, InvalidOperation):
        return False


def same_line_plainly(mine, theirs):
    mine = mine.split()
    theirs = theirs.split()
    return len(mine) == len(theirs) and all(map(same_token, mine, theirs))


def same_token(mine, theirs):
    """Equal text, or near a number that is written as a float: 0.333 (expected) and .3330000001."""
    if mine == theirs:
        return True
    if INTEGER.fullmatch(theirs) or not (NUMBER.fullmatch(theirs) and NUMBER.fullmatch(mine)):
        return False
    return near(float(mine), float(theirs)) or Decimal(mine) == Decimal(theirs)


def same_token_roughly(mine, theirs):
    """CodeContests' rule: integers are compared as such, other numbers by their difference."""
    if mine == theirs:
        return True
    if not (NUMBER.fullmatch(mine) and NUMBER.fullmatch(theirs)):
        return False
    if INTEGER.fullmatch(mine) and INTEGER.fullmatch(theirs):
        return int(mine) == int(theirs)
    return abs(float(mine) - float(theirs)) < 1e-5


def near(a, b):
    """Within 1e-6, relative or absolute; what is too large for a float (inf) is near nothing."""
    return math.isfinite(a) and math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6)


def same_value(got, expected, rule="plain"):
    """Is the value `got`, of builtin types, what was expected, by this rule?"""
    if type(got) is tuple and type(expected) is list:
        got = list(got)
    if got == expected:
        return True
    return rule != "livecodebench" and near_values(got, expected)


def near_values(got, expected):
    """Equal but for floats within the tolerance, at any depth of lists and dicts."""
    if type(expected) is float and type(got) in (int, float, Fraction, Decimal):
        try:
            return got == expected or near(float(got), expected)
        except (OverflowError, ValueError):  # too large for a float, or no number
            return False
    if type(expected) is list and type(got) is list:
        return len(got) == len(expected) and all(map(near_values, got, expected))
    if type(expected) is dict and type(got) is dict:
        return (got.keys() == expected.keys()
                and all(near_values(got[key], expected[key]) for key in expected))
    return got == expected


def digestible(value):
    """A text that is the same for equal values, whatever the order of their sets and dicts."""
    kind = type(value)
    if kind in (list, tuple):
        return "[" + ",".join(map(digestible, value)) + "]"
    if kind in (set, frozenset):
        return "{" + ",".join(sorted(map(digestible, value))) + "}"
    if kind is dict:
        items = [f"{digestible(key)}:{digestible(item)}" for key, item in value.items()]
        return "{" + ",".join(sorted(items)) + "}"
    if kind is complex and value.imag == 0:
        return digestible(value.real)
    if kind in (Decimal, Fraction):
        value = plain_number(value)
        return value if type(value) is str else digestible(value)
    if kind in (bool, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if type(value) is int:
        return hex(value)
    plain = kind in (str, bytes, bytearray, float, complex, range, type(None))
    return repr(value) if plain else kind.__name__


def plain_number(value):
    """A Decimal or Fraction as the int or float that it equals, else as a text like 1/3."""
    if type(value) is Decimal and value.is_infinite():
        return float(value)
    if type(value) is Decimal and value.is_nan():
        return str(value)
    if type(value) is Decimal and abs(value.adjusted()) > 5000:  # 1e999999999 would take its time
        return str(value)
    exact = Fraction(value)
    if exact.denominator == 1:
        return exact.numerator
    near_it = float(exact) if abs(exact) < 2 ** 1000 else math.inf
    return near_it if near_it == exact else str(exact)
