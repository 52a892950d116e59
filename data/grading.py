"""What runs in the boxes: a candidate, and the grader that asks it and compares its answers.

    program   a whole program, from its first line to what Python does after the last       (`stdin` tests)
    session   a candidate's functions, answering requests, a JSON line each                 (all other tests)
    grader    knows the tests; asks a session, compares, runs `assert` tests                one for each candidate

The grader and the candidate are different processes in different boxes: what crosses is data of exact builtin types, so
an object that claims to equal everything, a patched builtin or a forged message gains nothing. The exception is what
runs *inside*, in the candidate's own process: `unittest` tests, asserts that are marked so, and asserts whose values
cannot cross exactly. There the tests get a unittest and a namespace that the candidate's code has never seen, what it
patched is put back, and an operand that brings its own == is refused; execute.py says what can still be forged.
"""
import ast
import atexit
import builtins
import collections
import contextlib
import functools
import gc
import hashlib
import importlib
import importlib.util
import io
import json
import marshal
import os
import random
import re
import reprlib
import socket
import sys
import threading
import types
from decimal import Decimal
from fractions import Fraction

from data.compare import digestible, lines_of, same_text, same_value
from data.sandbox import MAX_OUTPUT, PROGRAM

EXIT_COMPILE = 81  # how a whole program's process says what went wrong; a forged one still fails
EXIT_MEMORY = 82
EXIT_MISSING = 83
MAX_CROSSING = MAX_OUTPUT // 2  # of a value, in bytes of JSON, roughly
DEPTH = 20000  # of Python calls, where values are packed and compared
# Often imported: here an import costs a few pages in every fork, there milliseconds in every run. Fixed, so that no
# program's verdict depends on other rows, and without packages: `import xml` must not find that xml.etree is there.
PRELOADED = "string datetime heapq bisect copy statistics typing array queue itertools math".split()


# ---------------------------------------------------------------- values that cross

class OutputLimit(Exception):
    """A value or a message is too large or too deep."""


class CannotCross(Exception):
    """A value that is not of a builtin type: a test that needs it as it is must run inside."""


class Opaque:
    """Stands for a value that has no plain form. It equals nothing but itself."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name} object>"


SCALARS = (int, float, str, bytes, bytearray, complex)
CONTAINERS = (list, tuple, dict, set, frozenset)
WIDE = 1 << 63  # integers beyond it travel in base 16, which takes no quadratic time


class Packer:
    """Values as JSON: what is no plain JSON value becomes {type: content}.

    exact: what is not of a builtin type raises CannotCross. Else it is read through its builtin base, so that overridden
    methods have no say, or becomes an Opaque.
    """

    def __init__(self, exact=False):
        self.exact = exact
        self.room = MAX_CROSSING

    def spend(self, size):
        self.room -= size
        if self.room < 0:
            raise OutputLimit("the value is too large")

    def pack(self, value):
        kind = type(value)
        if value is None or kind is bool:
            return value
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
        if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():  # == to the Python number
            return self.pack(value.item())
        return {"opaque": str(kind.__name__)}

    def pack_scalar(self, base, value):
        if base is int:
            self.spend(int.bit_length(value) // 4 + 4)
            return int.__pos__(value) if int.bit_length(value) < 64 else {"int": int.__format__(value, "x")}
        if base is float:
            return float.__pos__(value)
        if base is complex:
            return {"complex": [complex.real.__get__(value), complex.imag.__get__(value)]}
        self.spend(2 * base.__len__(value))
        return str.__str__(value) if base is str else {base.__name__: base.hex(value)}

    def pack_container(self, base, value):
        self.spend(4 * base.__len__(value))
        items = list(dict.items(value)) if base is dict else list(base.__iter__(value))
        plain = set(map(type, items)) == {int} and -WIDE < min(items) and max(items) < WIDE  # most lists are
        if base is dict:
            content = [[self.pack(key), self.pack(item)] for key, item in items]
        else:
            content = items if plain else [self.pack(item) for item in items]
        return content if base is list else {base.__name__: content}


def pack(value, exact=False):
    """See Packer. Raises OutputLimit, and with `exact` CannotCross."""
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(max(limit, DEPTH))
        return Packer(exact).pack(value)
    except RecursionError:
        raise OutputLimit("the value is nested too deeply") from None
    finally:
        sys.setrecursionlimit(limit)


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
    if type(wire) is list:
        return wire if {list, dict}.isdisjoint(map(type, wire)) else [unpack(item) for item in wire]
    if type(wire) is not dict:
        return wire
    (tag, content), = wire.items()
    return BUILD[tag](unpack(content))


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
    """One line without addresses, which differ from run to run."""
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", " ".join(text[:4 * most].split()))
    return text if len(text) <= most else text[:most - 3] + "..."


class Short(reprlib.Repr):
    """repr() that does not write out what nobody would read."""
    maxlist = maxtuple = maxdict = maxset = maxfrozenset = 50
    maxstring = maxother = 200

    def repr_int(self, value, level):
        return repr(value) if value.bit_length() < 1000 else f"<integer of {value.bit_length()} bits>"


def shown(value):
    return clean(Short().repr(value), 100)


def missing_module(error):
    """Name of the package that an import did not find: nothing that belongs to Python, and really not there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or not isinstance(error.name, str):
        return None
    package = error.name.partition(".")[0]
    with contextlib.suppress(ImportError, ValueError):
        if package in sys.stdlib_module_names or importlib.util.find_spec(package):
            return None
    return package


# ---------------------------------------------------------------- the zygote's preparations

def forget_this_machine():
    """Import what candidates often do, and let nothing be seen of where this project lies."""
    for name in PRELOADED:
        importlib.import_module(name)
    unpack(json.loads(json.dumps(pack([1, "a", (2.5,), {"warm": {1}}]))))  # Python sets up many things at their first use
    for name in ("data", "data.compare", "data.sandbox", "data.grading"):
        sys.modules.pop(name, None)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path = [folder for folder in sys.path if "site-packages" in folder or folder.startswith(sys.base_prefix)]
    sys.argv = [""]
    sys.orig_argv = ["python"]
    sys.executable = getattr(sys, "_base_executable", sys.executable)  # a virtual environment's is out of sight
    sys.set_int_max_str_digits(0)
    sys.path_importer_cache.clear()
    os.environ.clear()
    os.environ.update(PATH=f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin", USER="nobody", LANG="C.UTF-8", TZ="UTC",
                      HOME="/tmp", TMPDIR="/tmp")
    builtins.exit = builtins.quit = sys.exit  # as `site` would have it
    random.seed(0)  # every run draws the same numbers
    gc.collect()
    gc.freeze()


# ---------------------------------------------------------------- the candidate

class CompileError(Exception):
    pass


def load(job, name):
    """Run setup and code in a fresh module called `name`; returns its namespace."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = PROGRAM
    for label, file in (("setup", "<setup>"), ("code", PROGRAM)):
        try:
            program = compile(job[label], file, "exec", dont_inherit=True)
        except BaseException as error:
            raise CompileError(describe(error)) from None
        exec(program, module.__dict__)
    return vars(sys.modules.get(name, module))


def run_program(job, _files=None):
    """A stdin program, from its first line to what Python does after the last."""
    code = 0
    try:
        load(job, "__main__")
    except SystemExit:
        pass  # a normal end, as in LiveCodeBench
    except BaseException as error:
        code = 1
        if isinstance(error, CompileError):
            code = EXIT_COMPILE
        elif isinstance(error, MemoryError):
            code = EXIT_MEMORY
        elif missing_module(error):
            code = EXIT_MISSING
        with contextlib.suppress(BaseException):
            os.write(2, f"\n{missing_module(error) or describe(error)}".encode())
        del error
    for last in (threading._shutdown, atexit._run_exitfuncs):  # waits for threads, as Python does
        with contextlib.suppress(BaseException):
            last()
    written = [thing for thing in gc.get_objects() if isinstance(thing, (io.TextIOWrapper, io.BufferedWriter))]
    for stream in (sys.stdout, sys.__stdout__, *written):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


class Session:
    """A candidate that answers requests."""

    def __init__(self, job):
        self.entry_point = job["entry_point"]
        self.functions = {}
        self.inside = Inside(job) if "inside" in job else None  # before the candidate's code has run

    def load(self, job):
        self.namespace = load(job, "candidate")
        return {}

    def find(self, name):
        """A function of the candidate's; LeetCode makes a new Solution object for every test."""
        if name not in self.functions:
            solution = self.namespace.get("Solution")
            if name == self.entry_point and hasattr(solution, name):
                self.functions[name] = getattr(solution(), name)
            elif name in self.namespace:
                self.functions[name] = self.namespace[name]
            else:
                raise NameError(f"the program defines no {name!r}")
        return self.functions[name]

    def call(self, request):
        """A `call` test's: the answer in its plain form."""
        self.functions.clear()
        return {"value": pack(self.find(request["call"])(*unpack(request["args"]), **unpack(request["kwargs"])))}

    def call_exactly(self, request):
        """An assert's: the answer, or the exception, if it can cross and the arguments are what they were."""
        if request["fresh"]:
            self.functions.clear()
        function = self.find(request["exactly"])
        args = unpack(request["args"])
        kwargs = unpack(request["kwargs"])
        before = json.dumps([pack(args), pack(kwargs)])
        try:
            answer = {"value": pack(function(*args, **kwargs), exact=True)}
        except (CannotCross, OutputLimit, MemoryError, CompileError):
            raise
        except BaseException as error:
            if missing_module(error):
                raise
            kind = type(error)
            if getattr(builtins, kind.__name__, None) is not kind:
                raise CannotCross(f"a {kind.__name__}") from None
            answer = {"raised": kind.__name__, "with": pack(error.args, exact=True), "detail": describe(error)}
        if json.dumps([pack(args), pack(kwargs)]) != before:
            raise CannotCross("changed arguments")
        return answer

    def look_up(self, request):
        """What a name of a test's stands for here."""
        name = request["name"]
        if name not in self.namespace and name != self.entry_point:
            return {"nothing": True}
        thing = self.find(name)
        if isinstance(thing, types.ModuleType) and thing.__name__ == name:
            return {"module": name}
        if callable(thing) and not isinstance(thing, type):
            return {"function": name}
        return {"value": pack(thing, exact=True)}

    def perform(self, request):
        if "call" in request:
            return self.call(request)
        if "exactly" in request:
            return self.call_exactly(request)
        if "name" in request:
            return self.look_up(request)
        return self.inside.run(request, self.namespace)


STATUS_OF = {CompileError: "compile_error", OutputLimit: "output_limit", MemoryError: "memory_limit",
             RecursionError: "runtime_error", CannotCross: "inside"}


def answer_requests(job, files=3):
    """A session, until the grader hangs up."""
    getpid, leave, write, dumps, loads = os.getpid, os._exit, os.write, json.dumps, json.loads  # as they are now
    me = getpid()
    session = Session(job)
    requests = open(3, "rb", closefd=False)

    def answer(action, request):
        try:
            data = dumps(action(request)).encode() + b"\n"
            if len(data) > MAX_OUTPUT:
                raise OutputLimit("the answer is too large")
        except BaseException as error:
            status = STATUS_OF.get(type(error), "runtime_error")
            package = missing_module(error)
            detail = package or (str(error) if status == "inside" else describe(error))
            data = dumps({"error": "missing_dependency" if package else status, "detail": detail}).encode() + b"\n"
        if getpid() != me:  # a fork of the candidate does not get to speak for it
            leave(1)
        while data:
            data = data[write(3, data):]

    answer(session.load, job)
    while True:
        line = requests.readline()
        if not line:
            leave(0)
        answer(session.perform, loads(line))


# ---------------------------------------------------------------- tests inside the candidate's process

class Refused(BaseException):
    """An operand brings its own ==. A BaseException, so that no `except` in a test swallows it."""


class Inside:
    """Runs tests beside the candidate. Made before the candidate's code has run."""

    def __init__(self, job):
        self.entry_point = job["entry_point"]
        for name in job["inside"]["imports"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        self.unittest = {}
        if job["inside"]["unittest"]:
            self.unittest, others = prepare_unittest()
            sys.modules.update(others)  # logging, for example, must be the same for tests and program
            guard_assertions(self.unittest["unittest"].TestCase, self.fair)
        # what a program may patch: {module: {name: function, class or module}}
        self.pristine = {module: {name: value for name, value in vars(module).items()
                                  if callable(value) or isinstance(value, types.ModuleType)}
                         for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)}
        self.refused = []

    def put_back(self):
        for module, names in self.pristine.items():
            for name, value in names.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)

    def run(self, request, namespace):
        """Returns {"ran": {test: "passed" or what was wrong}, "token": the request's}, perhaps with the row's own {"fault"}."""
        self.put_back()
        theirs = take_modules("unittest")
        sys.modules.update(self.unittest)
        tree = ast.parse(request["source"])
        names = TestNames(namespace, self.entry_point, tree)
        names.update(__fair__=self.fair, __in__=lambda item, place: item in place)
        program = compile(ast.fix_missing_locations(Guard().visit(tree)), "<test>", "exec", dont_inherit=True)
        fault = None
        try:
            exec(program, names)
            tests = find_tests(names, self.unittest["unittest"], namespace) if self.unittest else None
        except Refused as error:
            return {"ran": {"test": str(error)}, "token": request["token"]}
        except Exception as error:
            return {"ran": {"test": describe(error)}, "fault": self.fault(error), "token": request["token"]}
        finally:
            take_modules("unittest")
            sys.modules.update(theirs)
        if tests is None:
            ran = {"test": "passed"}
        else:
            ran, fault = run_tests(tests, self.unittest["unittest"])
        if self.refused:
            ran["operands"] = "an operand brings its own =="
        return {"ran": ran, "fault": fault, "token": request["token"]}

    @staticmethod
    def fault(error):
        """What is wrong with the test itself, if an exception speaks for that: a name or a module that is nowhere."""
        if isinstance(error, (NameError, ModuleNotFoundError)) and not any(file == PROGRAM for file, _ in places(error)):
            return describe(error)
        return None

    def fair(self, *operands):
        """Refuse operands whose ==, < or `in` is a program's own, unless it is asked about two objects of that very class."""
        own = [brings_own_comparison(value, self.pristine) for value in operands]
        alike = len(operands) == 2 and type(operands[0]) is type(operands[1])
        if any(own) and not (alike and all(own) and not isinstance(operands[0], CONTAINERS)):
            self.refused.append(operands)
            raise Refused("an operand brings its own ==")
        return operands


@functools.cache
def prepare_unittest():
    """({name: module} of a unittest that no candidate sees, the same of what it has imported).

    Whoever imports unittest later gets another copy. A zygote for such tests calls this once, because it takes long.
    """
    before = dict(sys.modules)
    importlib.import_module("unittest.mock")
    taken = {name: module for name, module in sys.modules.items() if name not in before}
    for name in taken:
        del sys.modules[name]
    private = {name: module for name, module in taken.items() if name.partition(".")[0] == "unittest"}
    return private, {name: module for name, module in taken.items() if name not in private}


def take_modules(package):
    """Remove a package from what is imported: whoever imports it next gets another copy. Returns {name: module}."""
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


class TestNames(dict):
    """Globals of a test that runs inside: its own names, then Python's, then the candidate's, as they are at the moment."""
    __test__ = False

    def __init__(self, namespace, entry_point, tree):
        super().__init__(__name__="candidate", __file__="<test>")
        self.namespace = namespace
        self.entry_point = entry_point
        self.stops = "StopIteration" not in ast.dump(tree)  # if the test asks for one it may come
        self.wrappers = {}
        for name in names_in_class_bodies(tree):  # Python does not ask __missing__ for them
            with contextlib.suppress(KeyError):
                self[name] = self.__missing__(name)

    def __missing__(self, name):
        solution = self.namespace.get("Solution")
        if name == self.entry_point and hasattr(solution, name) and name not in self.namespace:
            return getattr(solution(), name)
        if hasattr(builtins, name) and name != self.entry_point:
            raise KeyError(name)
        value = self.namespace[name]
        if type(value) is not types.FunctionType or not self.stops:
            return value
        if self.wrappers.get(name, (None,))[0] is not value:
            self.wrappers[name] = value, without_stop_iteration(value)
        return self.wrappers[name][1]


def names_in_class_bodies(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.Name):
                    yield part.id


def without_stop_iteration(function):
    """A StopIteration out of it would end the test's own loop, map() or zip() without a word."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("the program raised StopIteration") from error
    return call


class Guard(ast.NodeTransformer):
    """a == b becomes __fair__(a, b)[0] == ..., for each comparison but `is`: both operands are looked at first."""

    def visit_Compare(self, node):
        self.generic_visit(node)
        if all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return node
        if len(node.ops) > 1:
            operands = [self.one(operand) for operand in (node.left, *node.comparators)]
            return ast.Compare(operands[0], node.ops, operands[1:])
        # (lambda pair: pair[0] == pair[1])(__fair__(a, b))
        pair = ast.Name("pair", ast.Load())
        left = ast.Subscript(pair, ast.Constant(0), ast.Load())
        right = ast.Subscript(pair, ast.Constant(1), ast.Load())
        parameters = ast.arguments([], [ast.arg("pair")], None, [], [], None, [])
        compare = ast.Lambda(parameters, ast.Compare(left, node.ops, [right]))
        return ast.Call(compare, [ast.Call(ast.Name("__fair__", ast.Load()), [node.left, *node.comparators], [])], [])

    @staticmethod
    def one(operand):
        return ast.Subscript(ast.Call(ast.Name("__fair__", ast.Load()), [operand], []), ast.Constant(0), ast.Load())


COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
PLAIN = {int, float, str, bool, type(None), bytes, complex, range}
FORWARD = {types.MappingProxyType, *(getattr(importlib.import_module("weakref"), name)
                                     for name in ("ProxyType", "CallableProxyType", "ReferenceType"))}
HEAP_TYPE = 1 << 9  # a class that is not part of the interpreter
mro_of = type.__dict__["__mro__"].__get__
namespace_of = type.__dict__["__dict__"].__get__


def brings_own_comparison(value, pristine, budget=1000000):
    """Is its ==, <, ... or that of something in it made by the program, and so not to be believed?"""
    todo = [value]
    while todo and budget > 0:
        value = todo.pop()
        kind = type(value)
        budget -= 1
        if kind in PLAIN:
            continue
        if kind in FORWARD:
            return True
        for cls in mro_of(kind):
            if any(name in namespace_of(cls) for name in COMPARISONS) and not from_library(cls, pristine):
                return True
        for base in CONTAINERS:
            if issubclass(kind, base):
                items = list(base.__iter__(value))
                if not set(map(type, items)) <= PLAIN:
                    todo += items
                if base is dict:
                    todo += dict.values(value)
    return False


def from_library(cls, pristine):
    """Was a class made by Python or an installed package? mock.ANY's was, but equals everything."""
    if not cls.__flags__ & HEAP_TYPE:
        return True
    module = sys.modules.get(cls.__module__) if isinstance(cls.__module__, str) else None
    if module is None or cls.__module__ in ("candidate", "__main__") or cls.__qualname__ == "_ANY":
        return False
    names = pristine.get(module, vars(module))  # as they were before the program could add to them
    first, *rest = cls.__qualname__.split(".")
    try:
        return functools.reduce(getattr, rest, names[first]) is cls
    except (KeyError, AttributeError):
        return False


def guard_assertions(TestCase, fair):
    """assertEqual and its kin look at their operands first, and do not ask the test's object, which can be tampered with."""
    judge = TestCase()
    for name, method in list(vars(TestCase).items()):
        if name.startswith("assert") and isinstance(method, types.FunctionType):
            setattr(TestCase, name, guarded(method, judge, fair))


def guarded(method, judge, fair):
    @functools.wraps(method)
    def check(self, *args, **kwargs):
        if "Raises" in method.__name__ or "Warns" in method.__name__ or "Logs" in method.__name__:
            return method(self, *args, **kwargs)
        named = [kwargs[name] for name in ("first", "second", "member", "container") if name in kwargs]
        fair(*[*args, *named][:2])
        return method(judge, *args, **kwargs)
    return check


def find_tests(names, unittest, namespace):
    """The test's own: TestCases, and what pytest would find, functions and classes whose names begin with test."""
    loader = unittest.TestLoader()
    suite = unittest.TestSuite()
    for hook in ("setUpModule", "tearDownModule"):  # unittest looks for them in the candidate's module
        namespace.pop(hook, None)
        if hook in names:
            namespace[hook] = names[hook]
    for name, thing in list(names.items()):
        if isinstance(thing, type) and issubclass(thing, unittest.TestCase) and thing.__module__ == "candidate":
            suite.addTests(loader.loadTestsFromTestCase(thing))
        elif isinstance(thing, type) and name.startswith("Test") and thing.__module__ == "candidate":
            for method in sorted(dir(thing)):
                if method.startswith("test") and callable(getattr(thing, method)):
                    suite.addTest(as_test_case(unittest, thing, method))
        elif isinstance(thing, types.FunctionType) and name.startswith("test") and thing.__code__.co_filename == "<test>":
            suite.addTest(unittest.FunctionTestCase(thing, description=name))
    return suite


def as_test_case(unittest, cls, method):
    item = cls()
    set_up = functools.partial(getattr(item, "setup_method", None) or (lambda: None))
    return unittest.FunctionTestCase(getattr(item, method), setUp=set_up, description=f"{cls.__name__}.{method}")


def run_tests(suite, unittest):
    """{test: "passed" or what was wrong}, and the row's own fault. Only what reported its success has passed."""
    cases = list(flat(suite, unittest))
    outcome = dict.fromkeys(map(name_of, cases), "did not run")
    skipped = set()
    fault = []

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            if getattr(getattr(test, "_outcome", None), "expectedFailure", None):  # the program has made it expected
                outcome[name_of(test)] = "failed"
            elif outcome.get(name_of(test)) == "did not run":
                outcome[name_of(test)] = "passed"

        def failed(self, test, error):
            outcome[name_of(getattr(test, "test_case", test))] = describe(error[1])
            fault.append(Inside.fault(error[1]))

        addError = addFailure = failed

        def addSubTest(self, test, subtest, error):
            if error:
                self.failed(test, error)

        def addSkip(self, test, reason):
            error = sys.exc_info()[1]
            if error is None or not any(file == PROGRAM for file, _ in places(error)):  # the test's own, not the program's
                skipped.add(name_of(test))
            outcome[name_of(test)] = "skipped"

        def addExpectedFailure(self, test, error):
            method = getattr(test, getattr(test, "_testMethodName", ""), None)
            expected = getattr(method, "__unittest_expecting_failure__", False)
            outcome[name_of(test)] = "passed" if expected else describe(error[1])

        def addUnexpectedSuccess(self, test):
            outcome[name_of(test)] = "succeeded unexpectedly"

    suite.run(Result())
    for name in skipped:
        outcome.pop(name, None)
    if not outcome:
        return {"test": "no test"}, "its source has no test that runs"
    return outcome, next(filter(None, fault), None)


def flat(suite, unittest):
    for item in suite:
        if isinstance(item, unittest.BaseTestSuite):
            yield from flat(item, unittest)
        else:
            yield item


def name_of(test):
    return getattr(test, "_description", None) or ".".join(test.id().split(".")[-2:])


# ---------------------------------------------------------------- the grader

class Verdict(BaseException):
    """The end of a test: it has failed, or cannot be told. No `except` in a test can hide it: the grader keeps it, too."""

    def __init__(self, status, detail="", over=False):
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.over = over  # the session is at its end, no further test can run


class Grader:
    """Grades what the worker sends it: {"grade": kind, "positions": [...]} with a session's socket, or a program's output.

    To the worker it says {"result": [position, status, detail, digest]} for each test, {"gone": true} when the
    candidate's process has left, {"again": true} when it wants another session, and {"done": true}.
    """

    def __init__(self):
        self.worker = socket.socket(fileno=3)
        sys.setrecursionlimit(DEPTH)

    def take(self, file):
        """The tests of the next candidate."""
        with open(file, "rb") as reader:
            job = marshal.loads(reader.read())
        self.tests = job["tests"]
        self.entry_point = job["entry_point"]
        self.setup = job["setup"]
        self.prompt = job["prompt"]
        self.rule = job["compare"]
        self.checker = job["checker"]

    def say(self, **message):
        self.worker.send(json.dumps(message).encode())

    def result(self, position, status, detail, outputs):
        """outputs: what the digest is made of; right or wrong, equal answers are one cluster."""
        digest = status
        if status in ("passed", "wrong_answer"):
            try:
                digest = outputs if isinstance(outputs, str) else digestible(outputs)
            except (RecursionError, OverflowError, ValueError):
                pass
        if len(digest) > 1000:
            digest = hashlib.sha256(digest.encode("utf-8", "replace")).hexdigest()
        self.say(result=[position, status, clean(detail), digest])

    def serve(self):
        while True:
            message, files, _, _ = socket.recv_fds(self.worker, 100000, 1)
            if not message:
                os._exit(0)
            task = json.loads(message)
            if task["grade"] == "nothing yet":
                self.take(files[0])
                continue
            if task["grade"] == "stdin":
                try:
                    self.grade_text(task["position"], files[0])
                except Verdict as verdict:
                    self.say(all=[verdict.status, clean(verdict.detail)])
            else:
                self.session = socket.socket(fileno=files[0])
                self.replies = self.session.makefile("rb")
                self.verdict = None
                try:
                    self.reply()  # its code has run
                    self.say(loaded=True)
                    {"call": self.grade_calls, "assert": self.grade_asserts, "again": self.grade_again,
                     "inside": self.grade_inside}[task["grade"]](task)
                except Verdict as verdict:
                    self.say(**({"gone": True} if verdict.status == "gone" else {"all": [verdict.status, clean(verdict.detail)]}))
                self.replies.close()
                self.session.close()
            self.say(done=True)

    # a session

    def ask(self, **request):
        try:
            self.session.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            self.stop("gone", "", True)
        return self.reply()

    def reply(self):
        self.line = b""
        with contextlib.suppress(OSError):
            self.line = self.replies.readline(MAX_OUTPUT)
        if not self.line.endswith(b"\n"):
            if len(self.line) == MAX_OUTPUT:
                self.stop("output_limit", "the answer is too large", True)
            self.stop("gone", "", True)
        try:
            reply = dict(json.loads(self.line))
            if "error" in reply:
                known = set(STATUS_OF.values()) | {"missing_dependency"}
                self.stop(reply["error"] if reply["error"] in known else "runtime_error", clean(str(reply["detail"])))
            for name in ("value", "with"):
                if name in reply:
                    reply[name] = unpack(reply[name])
        except RecursionError:
            self.stop("output_limit", "the answer is nested too deeply", True)
        except Exception as error:
            self.stop("runtime_error", f"not an answer ({type(error).__name__})", True)
        return reply

    def stop(self, status, detail, over=False):
        self.verdict = Verdict(status, detail, over)
        raise self.verdict

    # `stdin` and `call` tests

    def grade_text(self, position, file):
        test = self.tests[position]
        got = os.pread(file, MAX_OUTPUT, 0).decode("utf-8", "replace")
        os.close(file)
        if self.is_right(test["input"], got, test["output"], same_text):
            self.result(position, "passed", "", text_digest(test["output"]))
        else:
            detail = f"expected {shown(test['output'])}, got {shown(got)}"
            self.result(position, "wrong_answer", detail, text_digest(got))

    def grade_calls(self, task):
        for position in task["positions"]:
            test = self.tests[position]
            try:
                reply = self.ask(call=self.entry_point, args=pack(test["args"]), kwargs=pack(test.get("kwargs") or {}))
            except Verdict as verdict:
                if verdict.over:
                    raise
                self.result(position, verdict.status, verdict.detail, "")
                continue
            if "value" not in reply:
                self.stop("runtime_error", "not an answer", True)
            got = reply["value"]
            if self.is_right(test["args"], got, test["expected"], same_value):
                self.result(position, "passed", "", [test["expected"]])
            else:
                detail = f"expected {shown(test['expected'])}, got {shown(got)}"
                self.result(position, "wrong_answer", detail, [got])

    def is_right(self, given, got, expected, same):
        if not self.checker:
            return same(got, expected, self.rule)
        names = {"__name__": "checker"}
        try:
            exec(compile(self.checker, "<checker>", "exec", dont_inherit=True), names)
        except Exception as error:
            self.stop("broken_test", f"its checker: {describe(error)}")
        try:
            return bool(names["check"](given, got, expected))
        except Exception:  # of an answer that it did not think of
            return False

    # `assert` tests

    def grade_asserts(self, task):
        """A benchmark's assert lines, run here against stand-ins for the candidate's functions."""
        self.calls = []  # (test, request, reply's line)
        passed = []
        for position in task["positions"]:
            verdict, outputs = self.run_assert(position, self.call_session)
            if verdict.over and verdict.status == "gone":
                raise verdict
            self.result(position, verdict.status, verdict.detail, outputs)
            if verdict.over:
                return
            if verdict.status == "passed":
                passed.append(position)
        functions = {request["exactly"] for _, request, _ in self.calls}
        asked = {(request["args"], request["kwargs"]) for _, request, _ in self.calls}
        if passed and len(functions) == 1 and len(asked) > 1:
            self.passed = passed
            self.say(again=True)

    def run_assert(self, position, call):
        """(Verdict, outputs) of one test; call(position, request) -> reply."""
        self.verdict = None
        self.asked = 0
        called = []
        outputs = []
        raised = []
        random.seed(0)  # a test may draw its inputs

        def stand_in(name, *args, **kwargs):
            self.asked += 1
            called.append(name)
            try:
                packed = [json.dumps(pack(args, exact=True)), json.dumps(pack(kwargs, exact=True))]
            except (CannotCross, OutputLimit) as error:
                self.stop("inside", f"the test passes {error}")
            request = {"exactly": name, "args": packed[0], "kwargs": packed[1], "fresh": len(called) == 1}
            reply = call(position, request)
            if "raised" in reply:
                raised.append(make_exception(reply, may_stop))
                raise raised[-1]
            if "value" not in reply:
                self.stop("runtime_error", "not an answer", True)
            outputs.append(reply["value"])
            return reply["value"]

        source = self.tests[position]["source"]
        try:
            tree = ast.parse(source)
            may_stop = "StopIteration" in source
            if needs_inside(tree):
                self.stop("inside", "the test asks what cannot be seen from outside")
            names = Names(self, stand_in)
            exec(compile(self.setup, "<setup>", "exec", dont_inherit=True), names)
            names.pop(self.entry_point, None)
            exec(compile(tree, "<test>", "exec", dont_inherit=True), names)
            verdict = Verdict("passed")
        except Verdict as stopped:
            verdict = stopped
        except AssertionError as error:
            verdict = Verdict("wrong_answer", describe(error))
        except BaseException as error:
            verdict = self.judge_error(error, raised)
        return self.verdict or verdict, outputs

    def judge_error(self, error, raised):
        """A test that ended with another exception than AssertionError."""
        if any(error is one for one in raised):
            return Verdict("runtime_error", getattr(error, "detail", describe(error)))
        if not self.asked or isinstance(error, ModuleNotFoundError):
            return Verdict("broken_test", f"the test cannot run ({describe(error)})")
        if isinstance(error, NameError) and error.name and error.name != self.entry_point:
            if not re.search(rf"\b{re.escape(error.name)}\b", self.prompt):
                return Verdict("broken_test", f"the test cannot run ({describe(error)})")
        return Verdict("wrong_answer", f"the test cannot use the answer ({describe(error)})")

    def call_session(self, position, request):
        try:
            reply = self.ask(**{**request, "args": json.loads(request["args"]), "kwargs": json.loads(request["kwargs"])})
        except Verdict as verdict:
            if verdict.status in ("runtime_error", "memory_limit") and not verdict.over:
                verdict.over = False
            raise
        self.calls.append((position, request, self.line))
        return reply

    def grade_again(self, task):
        """The same calls in another order: a program that counts its calls would now give other answers.

        The order depends on the replies, which the program cannot know beforehand. Answers may differ (a shuffle, the
        time): but the tests must pass with these as well.
        """
        order = sorted(range(len(self.calls)), key=lambda n: hashlib.sha256(self.calls[n][2] + str(self.calls).encode()).digest())
        if order == sorted(order):
            order.reverse()
        same_requests = collections.defaultdict(list)
        for number in order:
            same_requests[self.key(self.calls[number])].append(number)
        turn = {}  # equal requests keep their order among themselves
        for numbers in same_requests.values():
            turn.update(zip(numbers, sorted(numbers)))
        replies = collections.defaultdict(list)
        different = False
        for number in (turn[number] for number in order):
            position, request, line = self.calls[number]
            reply = {}
            with contextlib.suppress(Verdict):
                reply = self.ask(**{**request, "args": json.loads(request["args"]), "kwargs": json.loads(request["kwargs"])})
            replies[self.key(self.calls[number])].append((number, reply))
            different |= self.line != line
        if not different:
            return
        for answers in replies.values():
            answers.sort(key=lambda answer: -answer[0])  # to be popped from the end

        def from_table(position, request):
            answers = replies.get(self.key((position, request)))
            if not answers:
                self.stop("unknown", "the test has asked something else")
            return answers.pop()[1] or self.stop("wrong_answer", "")

        for position in self.passed:
            verdict, _ = self.run_assert(position, from_table)
            if verdict.status not in ("passed", "unknown"):
                self.result(position, "wrong_answer", "the answers change with the order of the calls", "order")

    @staticmethod
    def key(call):
        return call[0], call[1]["args"], call[1]["kwargs"]

    # tests inside

    def grade_inside(self, task):
        """Each test must have run and passed, and the reply must come from after the candidate's code has run."""
        position = task["positions"][0]
        test = self.tests[position]
        token = os.urandom(8).hex()
        reply = self.ask(source=test["source"], token=token)
        try:
            ran = {str(name): str(outcome) for name, outcome in reply["ran"].items()}
            genuine = reply["token"] == token
            fault = reply.get("fault")
        except (KeyError, TypeError, AttributeError):
            ran, genuine, fault = {}, False, None
        wrong = {name: outcome for name, outcome in ran.items() if outcome != "passed"}
        outputs = [sorted(ran), sorted(wrong)]
        if not ran or not genuine:
            self.result(position, "runtime_error", "the program interferes with its tests", outputs)
        elif wrong:
            name = min(wrong)
            status = "broken_test" if fault else "wrong_answer"
            self.result(position, status, clean(fault or f"{name}: {wrong[name]}"), outputs)
        else:
            self.result(position, "passed", "", outputs)


def text_digest(text):
    return hashlib.sha256("\n".join(lines_of(text)).encode("utf-8", "replace")).hexdigest()


def make_exception(reply, may_stop):
    """The candidate's builtin exception, once more. StopIteration would end the test's own loop without a word."""
    name = reply["raised"] if isinstance(reply["raised"], str) else ""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)) or kind is StopIteration and not may_stop:
        kind = RuntimeError
    try:
        error = kind(*reply["with"])
    except Exception:
        error = RuntimeError(name)
    error.detail = clean(str(reply.get("detail")))
    return error


SEEN_INSIDE_ONLY = {"stdout", "stderr", "stdin", "redirect_stdout", "redirect_stderr", "patch", "mock", "settrace", "globals"}


def needs_inside(tree):
    """Does a test ask for identity, or for what a program writes or imports? That does not cross."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            if not any(isinstance(operand, ast.Constant) for operand in (node.left, *node.comparators)):
                return True
        if isinstance(node, ast.Name) and node.id in SEEN_INSIDE_ONLY:
            return True
        if isinstance(node, ast.Attribute) and node.attr in SEEN_INSIDE_ONLY:
            return True
    return False


def imports_of(source):
    """Modules of the standard library that a test's source imports."""
    found = {"math", "os", "json"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return sorted(name for name in found if name.partition(".")[0] in sys.stdlib_module_names - {"unittest", "antigravity", "this"})


class Names(dict):
    """Globals of an assert test in the grader: what neither test, setup nor Python knows is the candidate's."""

    def __init__(self, grader, stand_in):
        super().__init__(__name__="test")
        self.grader = grader
        self.stand_in = stand_in

    def __missing__(self, name):
        if hasattr(builtins, name) and name != self.grader.entry_point:  # which may be named like one
            raise KeyError(name)
        self.grader.asked += 1
        kind = self.grader.ask(name=name)
        if "nothing" in kind:
            raise KeyError(name)
        if "function" in kind:
            self[name] = functools.partial(self.stand_in, name)
        elif "module" in kind and name in sys.stdlib_module_names:  # under its own name: an alias may be any module
            self[name] = importlib.import_module(name)
        elif "module" in kind:
            self.grader.stop("inside", f"the test uses the program's {name}")
        elif "value" in kind:
            self[name] = kind["value"]
        else:
            self.grader.stop("runtime_error", "not an answer", True)
        return self[name]


def grade(job, files=3):
    Grader().serve()


ROLES = {"program": run_program, "session": answer_requests, "grader": grade}
