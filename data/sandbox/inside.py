"""Tests in the candidate's own process: `unittest` tests, and asserts whose values cannot cross.

The tests get a unittest and a namespace that the candidate's code has never seen, what it has
patched by then is put back, and an operand that brings its own == is refused. What can be forged
all the same stands at the top of execute.py.
"""
import ast
import builtins
import collections
import collections.abc
import contextlib
import functools
import gc
import importlib
import inspect
import operator
import os
import re
import sys
import types
import weakref
from itertools import chain

from data.sandbox.sources import names_asked_by_classes
from data.sandbox.wire import (
    CONTAINERS, PROGRAM, DeepValues, describe, is_success, missing_module, places)


class Refused(BaseException):
    """An operand brings its own ==. A BaseException, so that no `except` in a test swallows it."""


BRINGS_ITS_OWN = "an operand brings its own =="
# The row's own fault where its canonical solution is refused as well: 3 in a container of its own.
ASKS_FOR_OWN = "the test asks for an ==, `in` or - of the program's own, which is not believed"
EXITS_BY_ITSELF = "the test exits before its end"
# A test that may ask for the program by the name of its module.
ASKS_OTHERWISE = re.compile(r"['\"]candidate|(import|from) (candidate|__main__)|__name__(?!\s*==)"
                            r"|['\"]__main__\.|modules\[['\"]__main__|\btestmod\(\)")


def ignore(*args, **kwargs):
    pass


BUILTINS = vars(builtins)
set_attribute = types.ModuleType.__setattr__  # whatever a module's class has made of it


class Inside:
    """Runs tests beside the candidate. Made before the candidate's code has run."""

    def __init__(self, job):
        self.entry_point = job["entry_point"]
        self.prompt = job["inside"]["prompt"]
        for name in job["inside"]["imports"]:
            with contextlib.suppress(Exception):  # it may not be there, or be a broken package
                importlib.import_module(name)
        self.unittest = {}
        if job["inside"]["unittest"]:
            self.unittest, others = prepare_unittest()
            # logging, for example, must be the same for tests and program
            sys.modules.update(others)
            guard_assertions(self.unittest["unittest"].TestCase, self.look_at_first_two,
                             self.is_own_function)
            self.unittest["unittest"].main = ignore  # its tests are run anyway
        self.names = None  # of the latest test
        self.shared = {}  # the setup's classes, by name
        self.methods = {}  # of each of them {name: method}
        self.remember()

    def share_classes(self, namespace):
        """The classes that the setup has made there are the test's as well.

        A second run of the setup, for the test, would make others: no program could return one of
        the test's.
        """
        for name, value in namespace.items():
            if isinstance(value, type) and value.__module__ == "candidate":
                self.shared[name] = value
                self.methods[value] = methods_of(value)

    def remember(self):
        """What a program may patch, as it is now, for put_back()."""
        self.loaded = sys.modules
        self.modules = dict(sys.modules)
        self.pristine = {}  # {module: {name: function, class, module, text or float}}
        for module in [*self.modules.values(), *self.unittest.values()]:
            if isinstance(module, types.ModuleType):
                self.pristine[module] = {name: value for name, value in vars(module).items()
                                         if is_fixed(name, value)}
        self.kinds = {module: type(module) for module in self.pristine}
        self.classes = {}  # that the tests and their guard are made of: {class: all that it has}
        for module in [*self.unittest.values(), ast, collections, contextlib]:
            for value in vars(module).values():
                if isinstance(value, type) and value.__flags__ & HEAP_TYPE:
                    self.classes[value] = dict(vars(value))
        self.builtins = dict(BUILTINS)
        self.python_builtins = dict(BUILTINS)  # for all but the test
        if self.unittest:
            self.builtins["__import__"] = functools.partial(self.import_for_test, __import__)
        self.environ = dict(vars(ENVIRON))
        # where modules are looked for
        self.finders = [*sys.meta_path], [*sys.path], [*sys.path_hooks]

    def put_back(self):
        BUILTINS.update(self.python_builtins)  # first: what follows uses them
        for cls, methods in self.methods.items():
            restore(cls, methods, methods_of(cls))
        sys.modules = self.loaded
        sys.modules.update(self.modules)
        sys.meta_path[:], sys.path[:], sys.path_hooks[:] = self.finders
        vars(ENVIRON).update(self.environ)
        for module, names in self.pristine.items():
            # a class with a property of a function's name; what loads late becomes a plain module
            if type(module) not in (self.kinds[module], types.ModuleType):
                set_attribute(module, "__class__", self.kinds[module])
            restore(module, names)
        for cls, names in self.classes.items():
            restore(cls, names, vars(cls))

    @contextlib.contextmanager
    def tests_unittest(self):
        """In here who imports unittest gets the tests' own, which no program sees."""
        theirs = take_modules("unittest")
        sys.modules.update(self.unittest)
        try:
            yield
        finally:
            take_modules("unittest")
            sys.modules.update(theirs)

    def run(self, request, namespace):
        """Returns {"ran": {test: "passed" or what was wrong}, "token": the request's}.

        Perhaps with "fault": what is wrong with the row itself; or with "missing": a package.
        """
        self.put_back()
        self.refused = False
        self.missing = None  # the package that the program did not find during the test
        with DeepValues():  # a sum of hundreds is nested as deeply, and more so with its guards
            tree = ast.fix_missing_locations(Guard().visit(ast.parse(request["source"])))
            program = compile(tree, "<test>", "exec", dont_inherit=True)
            asked_by_classes = names_asked_by_classes(tree)
        self.take_names(request["source"], tree, namespace)
        try:
            with self.tests_unittest():
                self.run_setup(request["setup"])
                self.names.bind(asked_by_classes)
                exec(program, self.names)
                for name in list(self.names):  # what a `global` has stored past __setitem__
                    self.names[name] = self.names[name]
                tests = None
                if self.unittest:
                    tests = find_tests(self.names, self.unittest["unittest"], namespace)
        except Refused:
            ran = {"test": BRINGS_ITS_OWN}
            fault = ASKS_FOR_OWN
        except Exception as error:
            ran = {"test": describe(error)}
            fault = self.fault(error)
        except SystemExit as error:
            if not (self.is_own(error) and is_success(error.code)):
                raise
            ran = {"test": describe(error)}
            fault = EXITS_BY_ITSELF
        else:
            ran, fault = self.results_of(tests)
        return {"ran": ran, "fault": fault, "missing": self.missing, "token": request["token"]}

    def take_names(self, source, tree, namespace):
        """The globals of the next test, and no longer those of the one before."""
        if self.names:
            self.names.take_back()
        self.names = TestNames(namespace, self.entry_point, tree)
        self.names["__fair__"] = self.fair
        self.names["__itself__"] = itself
        self.names["__operand__"] = functools.partial(Operand, fair=self.fair)
        self.names["__comparing__"] = self.comparing
        self.patches_builtins = "builtins" in source
        if not self.patches_builtins:
            self.names["__builtins__"] = self.builtins  # which the program cannot patch
        # Else the test patches them itself, mock's open for example, and has to see that.
        self.names.asked = bool(ASKS_OTHERWISE.search(source))

    def run_setup(self, source):
        """Its names are the test's, whatever the program has made of them."""
        tree = ast.parse(source)
        tree.body = [statement for statement in tree.body
                     if not (isinstance(statement, ast.ClassDef) and statement.name in self.shared)]
        self.names.update(self.shared)
        exec(compile(tree, "<setup>", "exec", dont_inherit=True), self.names)
        self.names.pop(self.entry_point, None)

    def results_of(self, tests):
        """({test: outcome}, the row's own fault) of what find_tests has found; None: of asserts."""
        ran = {"test": "passed"}
        fault = None
        if tests is not None:
            ran, fault = run_tests(tests, self.unittest["unittest"], self.fault, self.is_own)
        if not self.names.asked and set(ran.values()) == {"passed"}:
            ran = {"test": "no question"}
            fault = "the test asks nothing of the program"
        if self.refused:
            if all(what == "passed" or BRINGS_ITS_OWN in what for what in ran.values()):
                fault = ASKS_FOR_OWN
            ran["operands"] = BRINGS_ITS_OWN
        return ran, fault

    def import_for_test(self, plain_import, name, *args, **kwargs):
        """A test's `import`: its methods, too, have the unittest that no program sees."""
        if name.partition(".")[0] != "unittest":
            return plain_import(name, *args, **kwargs)
        with self.tests_unittest():
            return plain_import(name, *args, **kwargs)

    def is_own(self, error):
        """Does an exception come from the test itself, through nothing of the program's?"""
        known = {id(self.names), id(globals()), *map(id, map(vars, self.pristine))}
        trace = error.__traceback__
        while trace and id(trace.tb_frame.f_globals) in known:
            trace = trace.tb_next
        return trace is None

    def is_own_function(self, function):
        return getattr(function, "__globals__", None) is self.names

    def fault(self, error):
        """What is wrong with the test itself, if it is (see cannot_run).

        Takes note of what the program itself lacks.
        """
        if any(file == PROGRAM for file, _ in places(error)):
            self.missing = self.missing or missing_module(error)
            return None
        if cannot_run(error, self.names.asked, self.entry_point, self.prompt):
            return f"the test cannot run ({describe(error)})"
        return None

    def fair(self, a, b):
        """(a, b). Refuses them if their ==, < or - is a program's own, but for two of one class.

        (Not two that ask others: a weak reference is what it refers to.)
        """
        if not self.patches_builtins:  # what compares them may be unittest's round() or sorted()
            BUILTINS.update(self.python_builtins)
        a = itself(a)
        b = itself(b)
        if a is b:
            return a, b
        own_of_a = own_classes(a, self.is_trusted)
        own_of_b = own_classes(b, self.is_trusted)
        alike = own_of_a == own_of_b and not own_of_a & FORWARD
        if (own_of_a or own_of_b) and not alike:
            self.refused = True
            raise Refused(BRINGS_ITS_OWN)
        return a, b

    def look_at_first_two(self, operands):
        """Of a function that compares: refuse them as fair() does, where there are two."""
        first_two = operands[:2]
        if len(first_two) == 2:
            self.fair(*first_two)

    def comparing(self, function):
        """A function of a library's that compares its first two arguments: looks at them first.

        One of that name which the test or the program has defined compares what it likes.
        """
        owner = getattr(function, "__globals__", None)
        # globals(): a program's that without_stop_iteration() has wrapped
        if any(owner is own for own in (self.names, self.names.namespace, globals())):
            return function

        def compare(*args, **kwargs):
            self.look_at_first_two([*args, *kwargs.values()])
            return function(*args, **kwargs)
        return compare

    def is_trusted(self, cls, methods):
        """Was a class made, with these methods, by Python, an installed package or the test itself?

        mock.ANY's was, but equals everything.
        """
        if not cls.__flags__ & HEAP_TYPE:
            return True
        if any(cls is one and has_methods(cls, made) for one, made in self.methods.items()):
            return True
        owners = [getattr(method, "__globals__", None) for method in methods]
        if owners and all(owner is self.names for owner in owners):
            return True
        if type(cls.__module__) is str and package_of(cls.__module__) in OF_ARRAYS:
            with contextlib.suppress(Exception):  # numpy.rec is loaded when one asks for it
                importlib.import_module(cls.__module__)
        known = sys.modules | self.unittest
        module = known.get(cls.__module__) if isinstance(cls.__module__, str) else None
        # what Python tests itself with equals everything, too
        if module is None or cls.__module__.partition(".")[0] in ("candidate", "__main__", "test"):
            return False
        for method, owner in zip(methods, owners):
            at_home = owner is vars(module) or is_of_package(owner, cls.__module__, known)
            if not (isinstance(method, C_METHODS) or at_home or is_lent(method)):
                return False
        # as they were before the program could add to them
        names = self.pristine.get(module, vars(module))
        first, *rest = cls.__qualname__.split(".")
        try:
            return functools.reduce(getattr, rest, names[first]) is cls and first != "_ANY"
        except (KeyError, AttributeError):
            return False


def is_fixed(name, value):
    """Is this, of a module, nothing that its own functions change, as gettext.textdomain() does?"""
    constant = isinstance(value, (str, float)) and not name.startswith("_")
    return constant or callable(value) or isinstance(value, types.ModuleType)


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


def restore(owner, names, now=()):
    """Put these names {name: value} of a module or class back, and remove others of now."""
    for name in set(now) - set(names):
        delattr(owner, name)
    for name, value in names.items():
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)


def methods_of(cls):
    """{name: value} of what a class defines that can be called or looked up: not its data."""
    return {name: value for name, value in vars(cls).items()
            if name not in ("__dict__", "__weakref__")
            and (callable(value) or hasattr(type(value), "__get__"))}


def has_methods(cls, methods):
    """Has a class these methods, {name: value}, themselves, and no others?"""
    now = methods_of(cls)
    return len(now) == len(methods) and all(now.get(name) is methods[name] for name in methods)


class LateNames(dict):
    """Globals of a test that asks for a name of the program's when it needs it, by of_program()."""
    asked = False  # for anything of the program's

    def __init__(self, entry_point, **names):
        super().__init__(names)
        self.entry_point = entry_point

    def __missing__(self, name):
        if hasattr(builtins, name) and name != self.entry_point:  # which may be named like one
            raise KeyError(name)
        self.asked = True
        return self.of_program(name)

    def bind(self, some):
        """Give these names their values now: Python does not ask __missing__ for them."""
        for name in some:
            asked = self.asked
            try:
                dict.__setitem__(self, name, self[name])
            except KeyError:
                self.asked = asked  # it is none of the program's


class TestNames(LateNames):
    """Globals of a test that runs inside: its own names, Python's, then the candidate's of now.

    The program may use the test's as well, as soon as it has them, but for what it defines itself.
    """
    __test__ = False

    def __init__(self, namespace, entry_point, tree):
        super().__init__(entry_point, __name__="candidate", __file__="<test>")
        self.namespace = namespace
        self.lent = set()
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        # StopIteration may come if the test asks for one, and a function is wrapped (see below)
        # unless the test looks at the function itself
        self.looked_at = {node.value.id for node in ast.walk(tree)
                          if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
        self.wraps = used.isdisjoint({"StopIteration", "inspect", "types"})
        self.wrapped = functools.cache(without_stop_iteration)  # each time the same

    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        if (name not in self.namespace or name in self.lent) and not is_testing(name, value):
            self.namespace[name] = value
            self.lent.add(name)

    def __delitem__(self, name):
        if name in self.lent and self.namespace.get(name) is self[name]:
            del self.namespace[name]
        super().__delitem__(name)

    def take_back(self):
        """The next test has names of its own."""
        for name in self.lent:
            if name in self and self.namespace.get(name) is self[name]:
                del self.namespace[name]

    def of_program(self, name):
        solution = self.namespace.get("Solution")
        if name == self.entry_point and name not in self.namespace and isinstance(solution, type):
            an_object = solution()
            if hasattr(an_object, name):
                return getattr(an_object, name)
        value = self.namespace[name]
        if type(value) is not types.FunctionType or not self.wraps or name in self.looked_at:
            return value
        if value.__code__.co_flags & STOPS_BY_ITSELF:
            return value
        return self.wrapped(value)


def is_testing(name, value):
    """Is it a test, a part of unittest, or Python's own? The program has no business with it."""
    kind = type(value)
    if kind is types.ModuleType:
        homes = [value.__name__]
    elif kind is types.FunctionType:
        homes = [value.__module__]
    else:
        homes = [cls.__module__ for cls in mro_of(value if issubclass(kind, type) else kind)]
    return (name.lower().startswith(("test", "__")) or hasattr(builtins, name)
            or any(str(home).startswith("unittest") for home in homes))


# Of generators and coroutines, out of which Python itself lets no StopIteration.
STOPS_BY_ITSELF = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def without_stop_iteration(function):
    """A StopIteration out of it would end the test's own loop, map() or zip() without a word."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError("the program raised StopIteration") from error
    return call


CODE_OF_WRAPPED = without_stop_iteration(ignore).__code__


def itself(value):
    """A function of the program's, where this is what without_stop_iteration has made of it."""
    if type(value) is types.FunctionType and value.__code__ is CODE_OF_WRAPPED:
        return value.__wrapped__
    return value


class Guard(ast.NodeTransformer):
    """Each comparison but `is` first looks at its operands: a == b asks __fair__(a, b).

    So does each difference: abs(a - b) < 1e-6 is a comparison, too. And a library's function that
    compares its first two arguments. `a is b` compares what stands behind the program's functions:
    __itself__(a) is __itself__(b). (A match is left as it is.)
    """

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if not isinstance(node.op, ast.Sub):
            return node
        difference = ast.BinOp(part_of_pair(0), ast.Sub(), part_of_pair(1))
        return self.on_pair(difference, node.left, node.right)

    def visit_Call(self, node):
        """eq(a, b) becomes __comparing__(eq)(a, b)."""
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", None))
        if name in COMPARING_FUNCTIONS:
            node.func = call_of("__comparing__", node.func)
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            operands = [operand if isinstance(operand, ast.Constant)
                        else call_of("__itself__", operand)
                        for operand in (node.left, *node.comparators)]
            return ast.Compare(operands[0], node.ops, operands[1:])
        if len(node.ops) > 1:
            operands = [self.in_chain(operand, node.ops)
                        for operand in (node.left, *node.comparators)]
            return ast.Compare(operands[0], node.ops, operands[1:])
        comparison = ast.Compare(part_of_pair(0), node.ops, [part_of_pair(1)])
        return self.on_pair(comparison, node.left, *node.comparators)

    def in_chain(self, operand, ops):
        """__operand__(a); where the chain also asks for the very object, __fair__(a, None)[0]."""
        if any(isinstance(op, (ast.Is, ast.IsNot)) for op in ops):
            pair = call_of("__fair__", operand, ast.Constant(None))
            return ast.Subscript(pair, ast.Constant(0), ast.Load())
        return call_of("__operand__", operand)

    def on_pair(self, operation, a, b):
        """(lambda pair: pair[0] == pair[1])(__fair__(a, b))"""
        parameters = ast.arguments([], [ast.arg("pair")], None, [], [], None, [])
        return ast.Call(ast.Lambda(parameters, operation), [call_of("__fair__", a, b)], [])


# Of the library's operator, of numpy, pandas and torch.
COMPARING_FUNCTIONS = set(
    "eq ne lt le gt ge contains countOf indexOf array_equal array_equiv isin in1d assert_equal "
    "equal not_equal less less_equal greater greater_equal isclose allclose "
    "assert_array_equal assert_array_less assert_almost_equal assert_array_almost_equal "
    "assert_allclose assert_approx_equal assert_close "
    "assert_series_equal assert_frame_equal assert_index_equal".split())


def call_of(name, *arguments):
    return ast.Call(ast.Name(name, ast.Load()), [*arguments], [])


def part_of_pair(position):
    return ast.Subscript(ast.Name("pair", ast.Load()), ast.Constant(position), ast.Load())


class Operand:
    """Of a chain of comparisons: which Python evaluates as it should, one pair after the other."""

    def __init__(self, value, fair):
        self.value = value
        self.fair = fair

    def compare(self, operation, other):
        return operation(*self.fair(self.value, other.value))

    __lt__ = functools.partialmethod(compare, operator.lt)
    __le__ = functools.partialmethod(compare, operator.le)
    __eq__ = functools.partialmethod(compare, operator.eq)
    __ne__ = functools.partialmethod(compare, operator.ne)
    __gt__ = functools.partialmethod(compare, operator.gt)
    __ge__ = functools.partialmethod(compare, operator.ge)
    __contains__ = functools.partialmethod(compare, operator.contains)


# By which a value may claim to be another, or to be near it.
CLAIMS = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "__sub__",
          "__rsub__")
# By which it has a say in the functions of numpy and torch.
OVERRIDES = ("__array_ufunc__", "__array_function__", "__array_wrap__", "__array_prepare__",
             "__torch_function__")
# == of these packages' values gives one of their class: the rest of a test then asks that class.
OF_ARRAYS = {"numpy", "pandas", "torch"}
# By id: a class may bring a hash of its own, if its metaclass is the program's.
PLAIN = set(map(id, (int, float, str, bool, type(None), bytes, complex, range)))
# These ask another object's ==, which cannot be seen from them.
FORWARD = set(map(id, (weakref.ProxyType, weakref.CallableProxyType, weakref.ReferenceType)))
LOOKED_INTO = (*CONTAINERS, collections.deque, type({}.keys()), type({}.values()), type({}.items()))
OF_PARTS = (slice, types.SimpleNamespace, types.MappingProxyType)
# Their functions stand in for a class's ==, < or `in`, and ask its other methods.
LENDERS = collections.abc.Mapping.__eq__.__globals__, vars(functools)
BARE = {"__module__", "__doc__", "__init__", "__dict__", "__weakref__", "__orig_bases__",
        "__parameters__", "__abstractmethods__", "_abc_impl", "__firstlineno__",
        "__static_attributes__"}  # what changes no method
ENVIRON = os.environ
C_METHODS = (types.WrapperDescriptorType, types.MethodDescriptorType, type(None))
HEAP_TYPE = 1 << 9  # a class that is not part of the interpreter
MOST_LOOKED_AT = 1000000  # values within one operand
mro_of = type.__dict__["__mro__"].__get__
namespace_of = type.__dict__["__dict__"].__get__


def own_classes(value, is_trusted):
    """Classes of a value, and of what is in it, of which the ==, <, - ... is not to be believed.

    is_trusted(class, its methods of that kind) -> bool

    A class is given by its id.
    """
    found = set()
    judged = {}  # by a class's id: what judge() says
    seen = {}  # by id; kept, so that no other value gets its id
    todo = [value]
    while todo and len(seen) < MOST_LOOKED_AT:
        value = todo.pop()
        kind = type(value)
        if id(kind) in PLAIN or id(value) in seen:
            continue
        seen[id(value)] = value
        if id(kind) not in judged:
            judged[id(kind)] = judge(kind, is_trusted)
        untrusted, lent, compares_parts, array, bases = judged[id(kind)]
        found |= untrusted
        if lent and has_methods_of_its_own(value):
            found.add(id(kind))
        if lent or compares_parts:
            todo += gc.get_referents(value)
        if array and array.dtype.__get__(value).hasobject:  # a subclass may have others
            todo.append(array.tolist(value))
        for base in bases:
            items = list(base.__iter__(value))
            if not set(map(id, map(type, items))) <= PLAIN:
                todo += items
            if base is dict:
                todo += dict.values(value)
    if todo:  # too many to look at
        found.add(id(object))
    return found


def judge(kind, is_trusted):
    """What own_classes needs to know about a class.

    (ids of itself or its bases if they are not trusted, is a method lent, are parts compared,
    numpy's array if it is one, which of LOOKED_INTO it is)
    """
    bases = [base for base in LOOKED_INTO if issubclass(kind, base)]
    claims = [(cls, claims_of(cls)) for cls in mro_of(kind)]
    lent = any(map(is_lent, chain.from_iterable(methods for _, methods in claims)))
    untrusted = {id(kind)} & FORWARD
    compares_parts = issubclass(kind, OF_PARTS)
    answers = False
    for cls, methods in reversed(claims):  # a class after those that it may change
        asked = methods or any(name in namespace_of(cls) for name in OVERRIDES)
        if (asked or (lent or answers) and not is_bare(cls)) and not is_trusted(cls, methods):
            untrusted.add(id(cls))
        elif types.FunctionType in map(type, methods) and is_of_python(cls):
            # its == asks for that of an object's parts, which a subclass may replace
            lent = compares_parts = not issubclass(kind, type)
        answers |= bool(methods) and package_of(str(cls.__module__)) in OF_ARRAYS
    array = next((cls for cls in mro_of(kind) if not cls.__flags__ & HEAP_TYPE
                  and (cls.__module__, cls.__name__) == ("numpy", "ndarray")), None)
    return untrusted, lent, compares_parts, array, bases


def is_bare(cls):
    return all(type(name) is str and name in BARE for name in namespace_of(cls))


def is_of_python(cls):
    return cls.__module__.partition(".")[0] in sys.stdlib_module_names


def claims_of(cls):
    return [namespace_of(cls)[name] for name in CLAIMS if name in namespace_of(cls)]


def is_of_package(owner, module, known):
    """Are these the globals of a module of the same package as this one, which a class names?

    A package's classes may be given out under another name: numpy's of numpy.lib, pytest's of
    _pytest.
    """
    name = owner.get("__name__") if type(owner) is dict else None
    home = known.get(name) if type(name) is str else None
    if not isinstance(home, types.ModuleType) or vars(home) is not owner:
        return False
    return package_of(name) == package_of(module)


def package_of(module):
    return module.partition(".")[0].lstrip("_")


def is_lent(method):
    """Does an == ask the other methods of its class, the items() of a Mapping for example?"""
    owner = getattr(method, "__globals__", None)
    return any(owner is lender for lender in LENDERS)


def has_methods_of_its_own(value):
    """Does an object of Python's, rather than its class, have what replaces a method?"""
    if type(value) is type(ENVIRON):
        return value is not ENVIRON
    return any(callable(thing) and hasattr(type(value), name)
               for name, thing in getattr(value, "__dict__", {}).items())


COMPARING = re.compile(
    "assert(Not)?(Almost)?(Count|Dict|List|MultiLine|Sequence|Set|Tuple)?Equals?$|"
    "assert(Not)?In$|assert(Greater|Less)(Equal)?$|assertDictContainsSubset$")
OPERANDS = ("first", "second", "member", "container")  # what unittest calls them


def guard_assertions(TestCase, look_at, is_own_function):
    """assertEqual and its kin look at their operands first.

    They do not ask the test's object, which can be tampered with, but for what the test has added
    by addTypeEqualityFunc.
    """
    judge = TestCase()
    usual = dict(judge._type_equality_funcs)

    def judge_for(test):
        own = {kind: function for kind, function in test._type_equality_funcs.items()
               if is_own_function(function)}
        judge._type_equality_funcs = usual | own
        return judge

    for name, method in list(vars(TestCase).items()):
        if COMPARING.match(name):
            setattr(TestCase, name, guarded(method, judge_for, look_at))
    for name in ("assertIs", "assertIsNot"):
        setattr(TestCase, name, guarded(getattr(TestCase, name), lambda test: test, ignore))


def guarded(method, judge_for, look_at):
    @functools.wraps(method)
    def check(self, *args, **kwargs):
        named = [kwargs[name] for name in OPERANDS if name in kwargs]
        look_at([*args, *named])
        kwargs = {name: itself(value) for name, value in kwargs.items()}
        return method(judge_for(self), *map(itself, args), **kwargs)
    return check


def find_tests(names, unittest, namespace):
    """The test's own TestCases; where it has none, what pytest would find by its name."""
    own = {name: thing for name, thing in names.items()
           if isinstance(thing, (type, types.FunctionType)) and thing.__module__ == "candidate"
           and thing is not namespace.get(name)}  # none that the program has called so
    cases = [thing for thing in own.values()
             if isinstance(thing, type) and issubclass(thing, unittest.TestCase)]
    loader = unittest.TestLoader()
    hooks = {name: names.get(name) for name in ("setUpModule", "tearDownModule")}
    if cases:
        suite = unittest.TestSuite(loader.loadTestsFromTestCase(case) for case in cases
                                   if getattr(case, "__test__", True))
    else:
        module = types.SimpleNamespace(**names)
        suite = unittest.TestSuite(pytest_suites(own, module, unittest))
        hooks["setUpModule"] = functools.partial(call_hook, module, "setup_module", module)
        hooks["tearDownModule"] = functools.partial(call_hook, module, "teardown_module", module)
    # unittest looks for them in the candidate's module
    for name, hook in hooks.items():
        namespace.pop(name, None)
        if hook:
            namespace[name] = hook
    if "load_tests" in names:
        suite = names["load_tests"](loader, suite, None)
    return suite


class NeedsPytest(Exception):
    """A test that only pytest could run."""


def pytest_suites(own, module, unittest):
    """Yields the module's functions test..., then class by class its methods, as unittest's."""
    tests = {name: thing for name, thing in own.items()
             if is_called_test(name, thing, "test") and not isinstance(thing, type)}
    yield as_suite(unittest, module, "function", lambda: module, tests)
    todo = [*own.items()]
    for name, cls in todo:
        if not isinstance(cls, type) or not is_called_test(name, cls, "Test"):
            continue
        if issubclass(cls, unittest.TestCase):  # within another class
            yield unittest.TestLoader().loadTestsFromTestCase(cls)
            continue
        if needs_arguments(cls):  # a helper
            continue
        item = cls.__new__(cls)
        defined = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
        tests = {name: getattr(item, name) for name in defined
                 if is_called_test(name, getattr(cls, name), "test")}
        yield as_suite(unittest, cls, "method", cls, tests)
        todo += vars(cls).items()


def is_called_test(name, thing, prefix):
    return name.startswith(prefix) and callable(thing) and getattr(thing, "__test__", True)


def needs_arguments(function):
    """But for those that a decorator hands over, as mock's patch does."""
    try:
        inspect.signature(function, follow_wrapped=False).bind()
    except TypeError:
        return True
    except ValueError:  # a builtin that does not say
        return False
    return False


def as_suite(unittest, owner, kind, make, tests):
    """Tests of pytest's style, {name: function}, of a class or the module: each on a new make()."""
    class Case(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            call_hook(owner, "setup_class", owner)

        @classmethod
        def tearDownClass(cls):
            call_hook(owner, "teardown_class", owner)

        def setUp(self):
            self.item = make()
            call_hook(self.item, f"setup_{kind}", getattr(self.item, self._testMethodName))

        def tearDown(self):
            call_hook(self.item, f"teardown_{kind}", getattr(self.item, self._testMethodName))

    for name, function in tests.items():
        if needs_arguments(function) or inspect.iscoroutinefunction(function):
            raise NeedsPytest(f"{name}{inspect.signature(function)}")
        setattr(Case, name, lambda self, name=name: getattr(self.item, name)())
    Case.__module__ = "candidate"
    Case.__qualname__ = getattr(owner, "__qualname__", "functions")
    return unittest.TestSuite(map(Case, tests))


def call_hook(owner, name, argument):
    """Call what pytest does before or after its tests, with or without what it may ask for."""
    hook = getattr(owner, name, None)
    if hook:
        hook(*[argument][:len(inspect.signature(hook).parameters)])


NOT_RUN = "did not run"
SKIPPED = "skipped"


def run_tests(suite, unittest, fault_of, is_own):
    """{test: "passed" or what was wrong}, and the row's own fault.

    Only what reported its success has passed. What the test itself skips does not count; of a test
    that skips some of its subtests, the others do.
    """
    cases = list(flat(suite, unittest))
    names = {}
    for case in cases:
        name = name_of(case)
        names[id(case)] = f"{name} {len(names)}" if name in names.values() else name
    outcome = dict.fromkeys(names.values(), NOT_RUN)
    in_part = set()  # tests of which a subtest has passed
    fault = []

    class Result(unittest.TestResult):
        def addSuccess(self, test):
            # the program has made it expected
            if getattr(getattr(test, "_outcome", None), "expectedFailure", None):
                self.note(test, "failed")
            elif outcome.get(names.get(id(test))) == NOT_RUN:
                self.note(test, "passed")

        def note(self, test, what):
            outcome[names.get(id(test)) or name_of(test)] = what

        def failed(self, test, error):
            self.note(getattr(test, "test_case", test), describe(error[1]))
            fault.append(fault_of(error[1]))

        addError = addFailure = failed

        def addSubTest(self, test, subtest, error):
            if error:
                self.failed(test, error)
            else:
                in_part.add(names.get(id(test)))

        def addSkip(self, test, reason):
            test = getattr(test, "test_case", test)
            error = sys.exc_info()[1]
            if error is not None and not is_own(error):
                self.note(test, "skipped by the program")
                return
            for case in prepared_by(test, cases):
                if outcome.get(names.get(id(case))) == NOT_RUN:
                    self.note(case, SKIPPED)

        def addExpectedFailure(self, test, error):
            method = getattr(test, getattr(test, "_testMethodName", ""), None)
            expected = any(getattr(marked, "__unittest_expecting_failure__", False)
                           for marked in (method, type(test)))
            self.note(test, "passed" if expected else describe(error[1]))

        def addUnexpectedSuccess(self, test):
            self.note(test, "succeeded unexpectedly")

    suite.run(Result())
    for name in [name for name, what in outcome.items() if what == SKIPPED]:
        if name in in_part:
            outcome[name] = "passed"
        else:
            del outcome[name]
    if not outcome:
        return {"test": "no test"}, "its source has no test that runs"
    return outcome, next(filter(None, fault), None)


def prepared_by(test, cases):
    """The tests of a class or module whose setUpClass or setUpModule this is; else just itself."""
    fixture = re.fullmatch(r"setUp(?:Class|Module) \((.+)\)", test.id())
    if not fixture:
        return [test]
    return [case for case in cases
            if f"{type(case).__module__}.{type(case).__qualname__}.".startswith(f"{fixture[1]}.")]


def flat(suite, unittest):
    for item in suite:
        if isinstance(item, unittest.BaseTestSuite):
            yield from flat(item, unittest)
        else:
            yield item


def name_of(test):
    return getattr(test, "_description", None) or ".".join(test.id().split(".")[-2:])


def cannot_run(error, asked, entry_point, prompt):
    """Did a test end for a reason of its own: a module, a name, or what came before the program?

    asked: had the test asked for anything of the program's by then?
    """
    if not asked or isinstance(error, (ModuleNotFoundError, NeedsPytest)):
        return True
    return isinstance(error, NameError) and is_unknown(error.name, entry_point, prompt)


def is_unknown(name, entry_point, prompt):
    """Is a name that a test asks for none that a program was told to define?"""
    return bool(name) and name != entry_point and not re.search(rf"\b{re.escape(name)}\b", prompt)
