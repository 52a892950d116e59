"""Tests in the candidate's own process: `unittest` tests, and asserts whose values cannot cross.

The tests get a unittest and a namespace that the candidate's code has never seen, what it has
patched is put back, and an operand that brings its own == is refused. What can be forged all the
same stands at the top of execute.py.
"""
import ast
import builtins
import contextlib
import functools
import importlib
import re
import sys
import types
import weakref

from data.sandbox.wire import CONTAINERS, PROGRAM, describe, places


class Refused(BaseException):
    """An operand brings its own ==. A BaseException, so that no `except` in a test swallows it."""


class Inside:
    """Runs tests beside the candidate. Made before the candidate's code has run."""

    def __init__(self, job):
        self.entry_point = job["entry_point"]
        self.prompt = job["inside"]["prompt"]
        for name in job["inside"]["imports"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        self.unittest = {}
        if job["inside"]["unittest"]:
            self.unittest, others = prepare_unittest()
            # logging, for example, must be the same for tests and program
            sys.modules.update(others)
            guard_assertions(self.unittest["unittest"].TestCase, self.fair)
        # What a program may patch: {module: {name: function, class or module}}, and where modules
        # are looked for.
        self.modules = dict(sys.modules)
        self.pristine = {}
        for module in self.modules.values():
            if isinstance(module, types.ModuleType):
                self.pristine[module] = {name: value for name, value in vars(module).items()
                                         if callable(value) or isinstance(value, types.ModuleType)}
        self.finders = [*sys.meta_path], [*sys.path], [*sys.path_hooks]
        self.refused = []

    def put_back(self):
        sys.modules.update(self.modules)
        sys.meta_path[:], sys.path[:], sys.path_hooks[:] = self.finders
        for module, names in self.pristine.items():
            for name, value in names.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)

    def run(self, request, namespace):
        """Returns {"ran": {test: "passed" or what was wrong}, "token": the request's}.

        Perhaps with "fault": what is wrong with the row itself.
        """
        self.put_back()
        theirs = take_modules("unittest")
        sys.modules.update(self.unittest)
        tree = ast.parse(request["source"])
        names = TestNames(namespace, self.entry_point, tree)
        names["__fair__"] = self.fair
        guarded_tree = ast.fix_missing_locations(Guard().visit(tree))
        program = compile(guarded_tree, "<test>", "exec", dont_inherit=True)
        fault = None
        try:
            setup = compile(request["setup"], "<setup>", "exec", dont_inherit=True)
            exec(setup, names)  # its names are the setup's
            names.pop(self.entry_point, None)
            names.bind(names_in_class_bodies(tree))
            exec(program, names)
            for name, value in names.items():  # a program may use what only the test imports
                if name not in namespace and getattr(value, "__module__", None) != "candidate":
                    namespace[name] = value
            tests = None
            if self.unittest:
                tests = find_tests(names, self.unittest["unittest"], namespace)
        except Refused as error:
            return {"ran": {"test": str(error)}, "token": request["token"]}
        except Exception as error:
            ran = {"test": describe(error)}
            return {"ran": ran, "fault": self.fault(error), "token": request["token"]}
        finally:
            take_modules("unittest")
            sys.modules.update(theirs)
        if tests is None:
            ran = {"test": "passed"}
        else:
            ran, fault = run_tests(tests, self.unittest["unittest"], self.fault)
        if self.refused:
            ran["operands"] = "an operand brings its own =="
        return {"ran": ran, "fault": fault, "token": request["token"]}

    def fault(self, error):
        """What is wrong with the test itself: an exception of its own, for a module or a name."""
        if any(file == PROGRAM for file, _ in places(error)):
            return None
        if isinstance(error, ModuleNotFoundError):
            return describe(error)
        if isinstance(error, NameError) and is_unknown(error.name, self.entry_point, self.prompt):
            return describe(error)
        return None

    def fair(self, *operands):
        """Refuse operands whose == or < is a program's own, but for two of that very class."""
        if len(operands) == 2 and operands[0] is operands[1]:
            return operands
        own = [brings_own_comparison(value, self.pristine) for value in operands]
        alike = len(operands) == 2 and type(operands[0]) is type(operands[1])
        if any(own) and not (alike and all(own) and not isinstance(operands[0], CONTAINERS)):
            self.refused.append(operands)
            raise Refused("an operand brings its own ==")
        return operands


@functools.cache
def prepare_unittest():
    """({name: module} of a unittest that no candidate sees, the same of what it has imported).

    Whoever imports unittest later gets another copy. A zygote for such tests calls this once,
    because it takes long.
    """
    before = dict(sys.modules)
    importlib.import_module("unittest.mock")
    taken = {name: module for name, module in sys.modules.items() if name not in before}
    for name in taken:
        del sys.modules[name]
    private = {}
    others = {}
    for name, module in taken.items():
        kind = private if name.partition(".")[0] == "unittest" else others
        kind[name] = module
    return private, others


def take_modules(package):
    """Remove a package's modules, {name: module}: who imports it next gets another copy."""
    names = [name for name in sys.modules if name == package or name.startswith(package + ".")]
    return {name: sys.modules.pop(name) for name in names}


class TestNames(dict):
    """Globals of a test that runs inside: its own names, Python's, then the candidate's of now."""
    __test__ = False

    def __init__(self, namespace, entry_point, tree):
        super().__init__(__name__="candidate", __file__="<test>")
        self.namespace = namespace
        self.entry_point = entry_point
        self.stops = "StopIteration" not in ast.dump(tree)  # if the test asks for one it may come
        self.wrappers = {}

    def bind(self, some):
        """Give these names their values now: Python does not ask __missing__ for them."""
        for name in some:
            with contextlib.suppress(KeyError):
                self[name] = self[name]

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
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.Name):
                    found.add(part.id)
    return found


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
    """Each comparison but `is` first looks at its operands: a == b asks __fair__(a, b)."""

    def visit_Compare(self, node):
        self.generic_visit(node)
        if all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return node
        if len(node.ops) > 1:
            operands = [ast.Subscript(self.fair(operand), ast.Constant(0), ast.Load())
                        for operand in (node.left, *node.comparators)]
            return ast.Compare(operands[0], node.ops, operands[1:])
        # (lambda pair: pair[0] == pair[1])(__fair__(a, b))
        pair = ast.Name("pair", ast.Load())
        left = ast.Subscript(pair, ast.Constant(0), ast.Load())
        right = ast.Subscript(pair, ast.Constant(1), ast.Load())
        parameters = ast.arguments([], [ast.arg("pair")], None, [], [], None, [])
        compare = ast.Lambda(parameters, ast.Compare(left, node.ops, [right]))
        return ast.Call(compare, [self.fair(node.left, *node.comparators)], [])

    @staticmethod
    def fair(*operands):
        return ast.Call(ast.Name("__fair__", ast.Load()), [*operands], [])


COMPARISONS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__")
PLAIN = {int, float, str, bool, type(None), bytes, complex, range}
# These ask any other object's ==.
FORWARD = {
    types.MappingProxyType, weakref.ProxyType, weakref.CallableProxyType, weakref.ReferenceType}
C_METHODS = (types.WrapperDescriptorType, types.MethodDescriptorType, type(None))
HEAP_TYPE = 1 << 9  # a class that is not part of the interpreter
mro_of = type.__dict__["__mro__"].__get__
namespace_of = type.__dict__["__dict__"].__get__


def brings_own_comparison(value, pristine, budget=1000000):
    """Is its ==, <, ... or that of something in it made by the program, not to be believed?"""
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
            methods = [namespace_of(cls)[name] for name in COMPARISONS if name in namespace_of(cls)]
            if methods and not from_library(cls, methods, pristine):
                return True
        for base in CONTAINERS:
            if issubclass(kind, base):
                items = list(base.__iter__(value))
                if not set(map(type, items)) <= PLAIN:
                    todo += items
                if base is dict:
                    todo += dict.values(value)
    return False


def from_library(cls, methods, pristine):
    """Was a class made, with its methods, by Python or an installed package?

    mock.ANY's was, but equals everything.
    """
    if not cls.__flags__ & HEAP_TYPE:
        return True
    module = sys.modules.get(cls.__module__) if isinstance(cls.__module__, str) else None
    if module is None or cls.__module__ in ("candidate", "__main__") or cls.__qualname__ == "_ANY":
        return False
    for method in methods:
        its_globals = getattr(method, "__globals__", None)
        if not isinstance(method, C_METHODS) and its_globals is not vars(module):
            return False
    names = pristine.get(module, vars(module))  # as they were before the program could add to them
    first, *rest = cls.__qualname__.split(".")
    try:
        return functools.reduce(getattr, rest, names[first]) is cls
    except (KeyError, AttributeError):
        return False


COMPARING = re.compile(
    "assert(Not)?(Almost)?(Count|Dict|List|MultiLine|Sequence|Set|Tuple)?Equals?$|"
    "assert(Not)?In$|assert(Greater|Less)(Equal)?$|assertDictContainsSubset$")
OPERANDS = ("first", "second", "member", "container")  # what unittest calls them


def guard_assertions(TestCase, fair):
    """assertEqual and its kin look at their operands first.

    They do not ask the test's object, which can be tampered with.
    """
    judge = TestCase()
    for name, method in list(vars(TestCase).items()):
        if COMPARING.match(name):
            setattr(TestCase, name, guarded(method, judge, fair))


def guarded(method, judge, fair):
    @functools.wraps(method)
    def check(self, *args, **kwargs):
        named = [kwargs[name] for name in OPERANDS if name in kwargs]
        fair(*[*args, *named][:2])
        return method(judge, *args, **kwargs)
    return check


def find_tests(names, unittest, namespace):
    """The test's own TestCases, and what pytest would find by its name, test... or Test..."""
    loader = unittest.TestLoader()
    suite = unittest.TestSuite()
    # unittest looks for them in the candidate's module
    for hook in ("setUpModule", "tearDownModule"):
        namespace.pop(hook, None)
        if hook in names:
            namespace[hook] = names[hook]
    for name, thing in list(names.items()):
        if isinstance(thing, type) and thing.__module__ == "candidate":
            if issubclass(thing, unittest.TestCase):
                suite.addTests(loader.loadTestsFromTestCase(thing))
            elif name.startswith("Test"):
                for method in sorted(dir(thing)):
                    if method.startswith("test") and callable(getattr(thing, method)):
                        suite.addTest(as_test_case(unittest, thing, method))
        elif name.startswith("test") and isinstance(thing, types.FunctionType):
            if thing.__code__.co_filename == "<test>":
                suite.addTest(unittest.FunctionTestCase(thing, description=name))
    return suite


def as_test_case(unittest, cls, method):
    item = cls()
    set_up = getattr(item, "setup_method", None)
    return unittest.FunctionTestCase(
        getattr(item, method), setUp=set_up, description=f"{cls.__name__}.{method}")


def run_tests(suite, unittest, fault_of):
    """{test: "passed" or what was wrong}, and the row's own fault.

    Only what reported its success has passed.
    """
    cases = list(flat(suite, unittest))
    outcome = dict.fromkeys(map(name_of, cases), "did not run")
    skipped = set()
    fault = []

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            # the program has made it expected
            if getattr(getattr(test, "_outcome", None), "expectedFailure", None):
                outcome[name_of(test)] = "failed"
            elif outcome.get(name_of(test)) == "did not run":
                outcome[name_of(test)] = "passed"

        def failed(self, test, error):
            outcome[name_of(getattr(test, "test_case", test))] = describe(error[1])
            fault.append(fault_of(error[1]))

        addError = addFailure = failed

        def addSubTest(self, test, subtest, error):
            if error:
                self.failed(test, error)

        def addSkip(self, test, reason):
            error = sys.exc_info()[1]
            if error is None or not any(file == PROGRAM for file, _ in places(error)):
                skipped.add(name_of(test))  # by the test itself, not by the program
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


def is_unknown(name, entry_point, prompt):
    """Is a name that a test asks for none that a program was told to define?"""
    return bool(name) and name != entry_point and not re.search(rf"\b{re.escape(name)}\b", prompt)
