"""What crosses between candidate and grader: values of builtin types as JSON, errors in words."""
import contextlib
import importlib.util
import json
import re
import reprlib
import sys
from decimal import Decimal
from fractions import Fraction

MAX_OUTPUT = 16 << 20  # bytes of one output, or of one file
MAX_CROSSING = MAX_OUTPUT // 2  # of a value, in bytes of JSON, roughly
DEPTH = 20000  # of Python calls, where values are packed and compared
PROGRAM = "/box/program.py"  # where a program finds its own source
# What Python raises of a source that it cannot read or compile.
NO_SOURCE = (SyntaxError, ValueError, RecursionError, MemoryError)

# ---------------------------------------------------------------- values that cross

class OutputLimit(Exception):
    """A value or a message is too large or too deep."""


class CannotCross(Exception):
    """A value that is not of a builtin type: a test that needs it as it is must run inside."""


class CompileError(Exception):
    """The candidate's source is no program."""


class BrokenSetup(Exception):
    """The problem's own setup does not run."""


# What a test may end with; "inside": it must run there.
STATUSES = {"passed", "wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit",
            "compile_error", "broken_test", "missing_dependency", "inside"}
# By what a candidate's process raises; see status_of().
STATUS_OF = {
    BrokenSetup: "broken_test",
    CompileError: "compile_error",
    OutputLimit: "output_limit",
    MemoryError: "memory_limit",
    CannotCross: "inside",
}


class Opaque:
    """Stands for a value that has no plain form. It equals nothing but itself."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name} object>"


SCALARS = (int, float, str, bytes, bytearray, complex)
CONTAINERS = (list, tuple, dict, set, frozenset)
MUTABLE = {list, dict, set, bytearray}
WIDE = 1 << 63  # integers beyond it travel in base 16, which takes no quadratic time


class Packer:
    """Values as JSON: what is no plain JSON value becomes {type: content}.

    exact: what is not of a builtin type, or a list or the like that occurs twice, raises
    CannotCross: over there it would be two lists. So does a nan, which equals itself and no other
    within a list. Else a value is read through its builtin base, so that overridden methods have no
    say, or becomes an Opaque.
    """

    def __init__(self, exact=False):
        self.exact = exact
        self.room = MAX_CROSSING
        self.seen = set()  # which mutable values, by id

    def spend(self, size):
        self.room -= size
        if self.room < 0:
            raise OutputLimit("the value is too large")

    def pack(self, value):
        kind = type(value)
        if value is None or kind is bool:
            return value
        if self.exact and kind in MUTABLE:
            if id(value) in self.seen:
                raise CannotCross(f"a {kind.__name__} that occurs twice")
            self.seen.add(id(value))
        for base in SCALARS:
            if kind is base or not self.exact and issubclass(kind, base):
                return self.pack_scalar(base, value)
        for base in CONTAINERS:
            if kind is base or not self.exact and issubclass(kind, base):
                return self.pack_container(base, value)
        if kind is range:
            return {"range": [value.start, value.stop, value.step]}
        if self.exact:
            raise CannotCross(f"a {kind.__name__}")
        if kind is Fraction:
            return {"fraction": self.pack([value.numerator, value.denominator])}
        if kind is Decimal:
            return {"decimal": str(value)}
        # == to the Python number
        if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
            return self.pack(value.item())
        return {"opaque": str(kind.__name__)}

    def pack_scalar(self, base, value):
        if base is int:
            self.spend(int.bit_length(value) // 4 + 4)
            if int.bit_length(value) >= 64:
                return {"int": int.__format__(value, "x")}
            return int.__pos__(value)
        if base is float:
            if self.exact and value != value:
                raise CannotCross("a nan")
            return float.__pos__(value)
        if base is complex:
            return {"complex": [complex.real.__get__(value), complex.imag.__get__(value)]}
        self.spend(2 * base.__len__(value))
        return str.__str__(value) if base is str else {base.__name__: base.hex(value)}

    def pack_container(self, base, value):
        self.spend(4 * base.__len__(value))
        if base is dict:
            return {"dict": [[self.pack(key), self.pack(item)]
                             for key, item in list(dict.items(value))]}
        content = list(base.__iter__(value))
        plain = set(map(type, content)) == {int} and -WIDE < min(content) and max(content) < WIDE
        if not plain:  # most lists are
            content = [self.pack(item) for item in content]
        return content if base is list else {base.__name__: content}


class DeepValues:
    """Within, values may be nested deeply, whatever a program's own recursion limit is."""

    def __enter__(self):
        self.limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(self.limit, DEPTH))

    def __exit__(self, kind, error, trace):
        sys.setrecursionlimit(self.limit)
        if kind is RecursionError:
            raise OutputLimit("the value is nested too deeply") from None


def pack(value, exact=False):
    """See Packer. Raises OutputLimit, and with `exact` CannotCross."""
    with DeepValues():
        return Packer(exact).pack(value)


def as_text(value, exact=False):
    """A value as it travels; two are equal when they are so down to the types."""
    with DeepValues():
        return json.dumps(Packer(exact).pack(value))


def has_changed(value, text):
    """Is a value no longer what it was when as_text() gave this text?"""
    try:
        return as_text(value) != text
    except OutputLimit:  # it has grown
        return True


BUILD = {
    "int": lambda content: int(content, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": lambda content: complex(*content),
    "range": lambda content: range(*content),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "fraction": lambda content: Fraction(*content),
    "decimal": Decimal,
    "opaque": Opaque,
}


def unpack(wire):
    """The inverse of pack."""
    with DeepValues():
        return build(wire)


def build(wire):
    if type(wire) is list:
        return wire if {list, dict}.isdisjoint(map(type, wire)) else [build(item) for item in wire]
    if type(wire) is not dict:
        return wire
    (tag, content), = wire.items()
    return BUILD[tag](build(content))


# ---------------------------------------------------------------- what went wrong, in words

def describe(error):
    """One line about an exception, with the line of the candidate's code."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    lines = [line for file, line in places(error) if file == PROGRAM]
    return clean(text + (f" (line {lines[-1]})" if lines else ""))


def places(error):
    """[(file, line)] of an exception's traceback, the innermost last."""
    found = []
    trace = getattr(error, "__traceback__", None)
    while trace:
        found.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return found


def clean(text, most=300):
    """One line that can be printed, without addresses, which differ from run to run."""
    text = text.encode("utf-8", "backslashreplace").decode()  # no lone surrogates
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", " ".join(text[:4 * most].split()))
    # what moves a terminal's cursor is written as Python would write it
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if len(text) <= most else text[:most - 3] + "..."


class Short(reprlib.Repr):
    """repr() that does not write out what nobody would read."""
    maxlist = maxtuple = maxdict = maxset = maxfrozenset = 50
    maxstring = maxother = 200

    def repr_int(self, value, level):
        if value.bit_length() < 1000:
            return repr(value)
        return f"<integer of {value.bit_length()} bits>"


def shown(value):
    return clean(Short().repr(value), 100)


def status_of(error):
    """What a test ends with where the candidate's process has raised this."""
    if missing_module(error):
        return "missing_dependency"
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            return status
    return "runtime_error"


STREAM = re.compile("/dev/stdout|/dev/stderr|/dev/fd/[12]|/proc/self/fd/[012]")


def missing_module(error):
    """Name of the package that an import did not find, if it is really not there, nor Python's.

    Or that of a standard stream, under one of its names that a box does not have. Or what an
    earlier exception lacked, in whose handler this one was raised, as by sys.exit(1).
    """
    seen = set()
    while isinstance(error, BaseException) and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, SystemExit) and is_success(error.code):  # it means to end so
            return None
        if isinstance(error, OSError) and STREAM.fullmatch(str(error.filename)):
            return error.filename
        if isinstance(error, ModuleNotFoundError) and is_missing(error.name):
            return error.name.partition(".")[0]
        error = error.__cause__ or error.__context__
    return None


def is_success(status):
    """Of sys.exit(status), which may be any object of the program's."""
    return status is None or type(status) in (int, bool) and status == 0


def is_missing(name):
    """Is a module neither here nor one of Python's own?"""
    package = name.partition(".")[0] if isinstance(name, str) else ""
    if not package or package in sys.stdlib_module_names:
        return False
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(package) is None
    return True
