"""execute.py: tests in the candidate's own process, and whose fault it is that one fails."""
import sys
import textwrap
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import execute  # noqa: E402
from data.rows import UserError  # noqa: E402
from data.sandbox import sources  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.fixture(scope="module")
def grade():
    """grade(a test's source, code): the fields that a labelled row adds."""
    yield from grading()


@pytest.fixture(scope="module")
def grade_with_packages():
    """The same, where programs and tests see what is installed."""
    cfg = execute.Settings(site_packages=True)
    try:
        execute.prepare_this_process(cfg)
    except UserError as error:
        if "lie in /tmp" not in str(error):
            raise
        pytest.skip(str(error))
    folders = execute.visible_folders(cfg)
    if not all(any(Path(package.__file__).resolve().is_relative_to(folder) for folder in folders)
               for package in (numpy, pytest)):
        pytest.skip("numpy or pytest lies where programs do not see it, in PYTHONPATH for example")
    yield from grading(site_packages=True)


def grading(**flags):
    cfg = execute.Settings(jobs=1, **flags)
    execute.prepare_this_process(cfg)
    pool = execute.Pool(cfg)

    def run(source, code, kind="unittest", setup="", canonical=None, prompt="write f"):
        test = {"type": kind, "source": textwrap.dedent(source)}
        problem = {"problem_id": "p", "prompt": prompt, "starter_code": "", "entry_point": "f",
                   "public_tests": [test], "tests": [], "domain": "d", "difficulty": "easy",
                   "split": "test", "setup": textwrap.dedent(setup),
                   "canonical_solution": canonical}
        verdict, _ = pool.grade(problem, textwrap.dedent(code))
        return verdict

    yield run
    pool.close()


def method(*lines):
    """A test method of these lines."""
    body = textwrap.indent("\n".join(lines), " " * 8)
    return f"import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n{body}\n"


# ---------------------------------------------------------------- an == of a program's own

CALLS = "def f(function):\n    function(1)\n    function(2, a=3)"
CALLS_WRONG = "def f(function):\n    function(1)\n    function(2)"
MOCK = "from unittest import mock\nfrom unittest.mock import Mock, call\n"
V = """
class V:
    def __init__(self, x):
        self.x = x
    def __lt__(self, other):
        return self.x < other.x
    def __le__(self, other):
        return self.x {} other.x
"""
HONEST = {  # what is compared -> (test, right program, wrong one)
    "the calls of a mock": (
        MOCK + method("m = Mock()", "f(m)",
                      "self.assertEqual(m.mock_calls, [call(1), call(2, a=3)])",
                      "self.assertTrue(m.call_args == call(2, a=3))"), CALLS, CALLS_WRONG),
    "one call of a mock": (
        MOCK + method("m = Mock()", "f(m)", "self.assertIn(call(2, a=3), m.mock_calls)"),
        CALLS, CALLS_WRONG),
    "the environment": (
        method("import os", "f('NEW')", "self.assertIn('NEW', os.environ)"),
        "import os\ndef f(name):\n    os.environ[name] = '1'", "def f(name):\n    pass"),
    "a configuration": (
        method("self.assertIn('b', f('[b]\\nc = 1'))"),
        "import configparser\ndef f(text):\n    parser = configparser.ConfigParser()\n"
        "    parser.read_string(text)\n    return parser",
        "import configparser\ndef f(text):\n    return configparser.ConfigParser()"),
    "a network": (
        "import ipaddress\n" + method("self.assertIn(f(), ipaddress.ip_network('10.0.0.0/8'))",
                                      "self.assertEqual(f(), ipaddress.ip_address('10.0.0.1'))",
                                      "self.assertLess(f(), ipaddress.ip_address('10.0.0.2'))"),
        "import ipaddress\ndef f():\n    return ipaddress.ip_address('10.0.0.1')",
        "import ipaddress\ndef f():\n    return ipaddress.ip_address('10.0.0.3')"),
    "a UserDict": (
        method("self.assertEqual(f(), {'a': 1})"),
        "from collections import UserDict\nclass D(UserDict):\n    pass\n"
        "def f():\n    return D(a=1)",
        "from collections import UserDict\ndef f():\n    return UserDict(a=2)"),
    "a UserList": (
        method("self.assertEqual(f(), [1])", "self.assertIn(1, f())"),
        "from collections import UserList\ndef f():\n    return UserList([1])",
        "from collections import UserList\ndef f():\n    return UserList([2])"),
    "a UserString": (
        method("self.assertEqual(f(), 'ab')", "self.assertIn('a', f())"),
        "from collections import UserString\ndef f():\n    return UserString('ab')",
        "from collections import UserString\ndef f():\n    return UserString('b')"),
    "a ChainMap": (
        method("self.assertEqual(f(), {'a': 1, 'b': 2})"),
        "from collections import ChainMap\ndef f():\n    return ChainMap({'a': 1}, {'b': 2})",
        "from collections import ChainMap\ndef f():\n    return ChainMap({'a': 1})"),
    "a chain of the program's objects": (
        method("self.assertTrue(V(1) < V(2) <= V(2))", "self.assertFalse(V(2) < V(1) < nothing)"),
        V.format("<="), V.format("<")),
    "a chain with `is` and `in`": (
        method("self.assertTrue(None is f(None) == None != 2)",
               "self.assertTrue(1 in [f(1)] in [[1]])", "self.assertTrue(0 < f(1) < 2)"),
        "def f(x):\n    return x", "def f(x):\n    return 2"),
    "objects of two classes with one ==": (
        method("self.assertEqual(A(1), B(1))"),
        "class V:\n    def __init__(self, x):\n        self.x = x\n    def __eq__(self, other):\n"
        "        return self.x == other.x\nclass A(V):\n    pass\nclass B(V):\n    pass",
        "class A:\n    def __init__(self, x):\n        self.x = x\nclass B(A):\n    pass"),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_may_be_compared(name, grade):
    source, right, wrong = HONEST[name]
    verdict = grade(source, right)
    assert verdict["passed"] is True, verdict["detail"]
    assert grade(source, wrong)["passed"] is False


ANY = "class Any:\n    def __eq__(self, other):\n        return True\n    def __hash__(self):\n" \
      "        return hash('a')\n"
FORGED = {  # what a program returns for {"a": 1}, or for a container of "a"
    "a mapping of its own":
        "from collections.abc import Mapping\nclass M(Mapping):\n    def __getitem__(self, key):\n"
        "        return Any()\n    def __iter__(self):\n        return iter('a')\n"
        "    def __len__(self):\n        return 1\ndef f():\n    return M()",
    "a UserDict with other items":
        "from collections import UserDict\nclass D(UserDict):\n    def items(self):\n"
        "        return [('a', Any())]\ndef f():\n    return D(a=2)",
    "a UserDict that makes its data":
        "from collections import UserDict\nclass D(UserDict):\n    count = 0\n    @property\n"
        "    def data(self):\n        return {'a': Any()}\n    @data.setter\n"
        "    def data(self, value):\n        pass\ndef f():\n    return D()",
    "a UserDict with items() of this object alone":
        "from collections import UserDict\ndef f():\n    d = UserDict()\n"
        "    d.items = lambda: [('a', Any())]\n    return d",
    "a UserDict of what equals everything":
        "from collections import UserDict\ndef f():\n    return UserDict(a=Any())",
    "a ChainMap of what equals everything":
        "from collections import ChainMap\ndef f():\n    return ChainMap({'a': Any()})",
    "a ChainMap with other items":
        "from collections import ChainMap\nclass M(ChainMap):\n    def __iter__(self):\n"
        "        return iter('a')\n    def __getitem__(self, key):\n        return Any()\n"
        "def f():\n    return M()",
}


@pytest.mark.parametrize("name", FORGED)
def test_what_may_not(name, grade):
    for line in ("self.assertEqual(f(), {'a': 1})", "self.assertEqual([f()], [{'a': 1}])",
                 "self.assertTrue(f() == {'a': 1} != 0)"):
        assert grade(method(line), ANY + FORGED[name])["passed"] is False


def test_nor_a_chain_of_what_equals_everything(grade):
    code = ANY + "def f():\n    return Any()"
    for line in ("f() == 1 == 1", "1 == 1 == f()", "1 == f() == 1", "None is not f() == 2"):
        assert grade(method(f"self.assertTrue({line})"), code)["passed"] is False


LYING_PARTS = """
from fractions import Fraction
from collections import Counter
class Any:
    def __eq__(self, other):
        return True
class F(Fraction):
    _numerator = property(lambda self: Any())
    _denominator = 1
class C(Counter):
    def __missing__(self, key):
        return Any()
def f(n):
    return {}
"""


@pytest.mark.parametrize("made, right", [("object.__new__(F)", "3"), ("C()", "Counter('ab')")])
def test_nor_what_replaces_the_parts_that_python_s_own_compares(made, right, grade):
    test = "from collections import Counter\n" + method(f"self.assertEqual(f(1), {right})")
    assert grade(test, LYING_PARTS.format(made))["passed"] is False


@pytest.mark.parametrize("made", [
    "os.environ.encodekey = lambda key: b'PATH'\nf = lambda: os.environ",
    "f = lambda: os._Environ({b'a': b''}, lambda key: b'a', str, str, str)",
])
def test_nor_an_environment_whose_keys_are_the_programs(made, grade):
    code = f"import os\n{made}"
    assert grade(method("self.assertIn('NEW', f())"), code)["passed"] is False


def test_nor_a_mock_s_any(grade):
    code = "from unittest.mock import ANY\ndef f():\n    return [ANY]"
    assert grade(method("self.assertEqual(f(), [1])"), code)["passed"] is False
    source = MOCK + method("m = Mock()", "f(m)", "self.assertEqual(m.call_args, call(1))")
    code = "from unittest.mock import ANY\ndef f(function):\n    function(ANY)"
    assert grade(source, code)["passed"] is False


NOTHING = "class Any:\n    {}\n    __hash__ = lambda self: 0\ndef f():\n    return Any()"
YES = "lambda self, other: True"
CLAIMED = {  # what a class of the program's has -> what it would make true
    f"__contains__ = {YES}": "1 in f()",
    "__rsub__ = lambda self, other: 0": "abs(1 - f()) < 1e-6",
    f"__ge__ = {YES}": "f() >= 1",
    f"__gt__ = {YES}": "f() > 1",
    f"__le__ = {YES}": "f() <= 1",
    f"__lt__ = {YES}": "f() < 1",
    f"__ne__ = {YES}": "f() != 1",
}


@pytest.mark.parametrize("claim", CLAIMED)
def test_nor_what_claims_one_thing_only(claim, grade):
    code = NOTHING.format(claim)
    assert grade(method(f"self.assertTrue({CLAIMED[claim]})"), code)["passed"] is False


ALL_TRUE = "class Any:\n    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = " \
    "lambda self, other: True\n    __contains__ = __eq__\n    __hash__ = lambda self: 1\n" \
    "    __sub__ = lambda self, other: 0\n    __abs__ = __sub__\n    __iter__ = lambda self: " \
    "iter([self])\nanything = Any()\ndef f():\n    return "


@pytest.mark.parametrize("line", [
    "assertEqual(f(), 1)", "assertEqual(first=f(), second=1)", "assertEqual(1, second=f())",
    "assertNotEqual(f(), 0)", "assertAlmostEqual(f(), 1)", "assertIn(1, f())",
    "assertIn(member=f(), container=[1])", "assertGreater(f(), 1)", "assertGreaterEqual(f(), 1)",
    "assertLess(f(), 1)", "assertLessEqual(f(), 1)", "assertCountEqual([f()], [1])",
    "assertListEqual([f()], [1])", "assertSequenceEqual([f()], [1])",
    "assertTupleEqual((f(),), (1,))", "assertDictEqual({1: f()}, {1: 1})",
])
def test_nor_what_a_method_of_unittest_would_believe(line, grade):
    assert grade(method(f"self.{line}"), f"{ALL_TRUE}anything")["passed"] is False


@pytest.mark.parametrize("asked", [
    "eq(f(), 7)", "contains([7], f())", "eq(*[f(), 7])", "contains(*([7], f()))"])
def test_nor_a_function_of_a_library_that_compares(asked, grade):
    source = "import operator\n" + method(f"self.assertTrue(operator.{asked})")
    assert grade(source, "def f():\n    return 7")["passed"] is True
    assert grade(source, f"{ALL_TRUE}anything")["passed"] is False


POINT = "class P:\n    def __init__(self, x):\n        self.x = x\n" \
        "    def __eq__(self, other):\n        return self.x == other.x\n"


@pytest.mark.parametrize("line", [
    "self.assertTrue(Box().contains(P(1), 2))", "self.assertTrue(lt(P(1), 2))",
    "assert_equal(P(1), 1)", "self.assert_equal(P(1), 1)",
])
def test_but_functions_of_such_names_that_test_or_program_define_are_theirs(line, grade):
    helpers = "def assert_equal(got, x):\n    assert got.x == x\n"
    of_class = textwrap.indent(helpers.replace("(got", "(self, got"), " " * 4)
    source = helpers + method(line) + of_class
    code = POINT + ("def lt(p, x):\n    return p.x < x\n"
                    "class Box:\n    contains = staticmethod(lt)\n")
    assert grade(source, code)["passed"] is True
    assert grade(source, code.replace("self.x = x", "self.x = x + 1"))["passed"] is False


@pytest.mark.parametrize("line, made", [
    ("(f() == np.array([7, 7])).all()", "np.array([{0}, {0}])"),
    ("np.array_equal(f(), [[7]])", "np.array([[{0}]])"),
    ("f() == 7", "np.array({0})"),
    ("np.testing.assert_array_equal(f(), [7]) is None", "[{0}]"),
    ("(f() == np.array([7, 7])).all()",
     "np.array([{0}, {0}]).view(type('A', (np.ndarray,), dict(tolist=lambda self: [7])))"),
    ("(f() == np.array([7, 7])).all()",
     "np.array([{0}, {0}]).view(type('A', (np.ndarray,), dict(dtype=np.dtype(int))))"),
    ("np.equal(f(), 7)", "{0}"), ("np.isin(7, f()).all()", "[{0}]"),
])
def test_nor_an_array_of_what_equals_everything(line, made, grade_with_packages):
    source = "import numpy as np\n" + method(f"self.assertTrue({line})")
    code = f"import numpy as np\n{ALL_TRUE}{made}"
    # one of a class of the program's own is not believed, whatever is in it
    assert grade_with_packages(source, code.format("7"))["passed"] is ("type('A'" not in made)
    assert grade_with_packages(source, code.format("anything"))["passed"] is False


NEVER_WRONG = {  # what a program's array brings -> its class
    "a say in functions": "__array_function__ = lambda self, *_: True",
    "a say in operators": "__array_ufunc__ = lambda self, *_, **__: np.True_",
    "a say in results": "__array_wrap__ = lambda self, result, *_: np.ones(result.shape, bool)",
    "a hand in results": "__array_finalize__ = lambda self, _: self.dtype == bool and self.fill(1)",
    "a method of its own": "all = lambda *_, **__: True",
}
COMPARED = ["np.allclose(f(), [7])", "np.isclose(a=f(), b=[7]).all()", "np.array_equal(f(), [7])",
            "(f() == np.array([7])).all()", "abs(f() - np.array([7])).all() < 1"]


@pytest.mark.parametrize("brings", NEVER_WRONG)
@pytest.mark.parametrize("line", COMPARED)
def test_nor_an_array_of_its_own_class(line, brings, grade_with_packages):
    source = "import numpy as np\n" + method(f"self.assertTrue({line})")
    own = f"import numpy as np\nclass A(np.ndarray):\n    {NEVER_WRONG[brings]}\ndef f():\n    return "
    assert grade_with_packages(source, own + "np.zeros(1).view(A)")["passed"] is False
    if "say in" in brings:
        own = own.replace("np.ndarray", "object")
        assert grade_with_packages(source, own + "A()")["passed"] is False


@pytest.mark.parametrize("line", COMPARED)
@pytest.mark.parametrize("made", ["np.array([{}])", "np.ma.array([{}])", "np.memmap('a', int, 'w+', shape=1) + {}",
                                  "np.array([{}]).view(np.recarray)"])
def test_but_any_array_of_the_library_s(made, line, grade_with_packages):
    source = "import numpy as np\n" + method(f"self.assertTrue({line})")
    code = f"import numpy as np\ndef f():\n    return {made}"
    assert grade_with_packages(source, code.format(7))["passed"] is True
    assert grade_with_packages(source, code.format(9))["passed"] is False


@pytest.mark.parametrize("made, line", [
    ("weakref.proxy(anything)", "self.assertEqual(f(), 1)"),
    ("{anything: 1}.keys()", "self.assertIn(1, f())"),
    ("{anything: 1}.items()", "self.assertIn((1, 1), f())"),
])
def test_nor_what_asks_another_object(made, line, grade):
    assert grade(method(line), f"import weakref\n{ALL_TRUE}{made}")["passed"] is False


def test_nor_where_the_test_swallows_every_exception(grade):
    source = "try:\n    fine = f() == 1\nexcept:\n    fine = True\nassert fine"
    assert grade(method(*source.splitlines()), f"{ALL_TRUE}anything")["passed"] is False


def test_nor_a_failure_that_the_program_expects(grade):
    code = "def f(n, test):\n    test._outcome.expecting_failure = True\n    return 0"
    assert grade(method("self.assertEqual(f(1, self), 1)"), code)["passed"] is False


@pytest.mark.parametrize("imports", [
    "from xml.etree import ElementTree", "import xml.etree.ElementTree as ElementTree",
])
def test_nor_a_function_of_a_submodule_that_the_test_imports(imports, grade):
    source = f"{imports}\n" + method("self.assertEqual(f(), ElementTree.fromstring('<a>1</a>').text)")
    patched = "import xml.etree.ElementTree as tree\ntree.fromstring = lambda text: tree\ntree.text = '2'\n"
    assert grade(source, patched + "def f():\n    return '1'")["passed"] is True
    assert grade(source, patched + "def f():\n    return '2'")["passed"] is False


def test_nor_a_module_of_its_own_for_the_test(grade):
    source = "import colorsys\n" + method("self.assertEqual(colorsys.rgb_to_hsv(*f()), (0, 0, 1))")
    finder = """
import sys
from importlib.machinery import ModuleSpec
class Fake:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "colorsys" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.rgb_to_hsv = lambda *color: (0, 0, 1)
sys.meta_path.insert(0, Fake())
del sys.modules["colorsys"]
def f():
    return {}
"""
    assert grade(source, finder.format("1, 1, 1"))["passed"] is True
    assert grade(source, finder.format("1, 0, 1"))["passed"] is False


KINDS = """
import types

def add(a, b):
    return a + b

{0} def slow(n):
    return n

def numbers():
    {1} 1

@types.coroutine
def old():
    yield

def find(name):
    return globals()[name]

class Shelf:
    def __init__(self, *kept):
        self.kept = [*kept]
"""


@pytest.mark.parametrize("line", [
    "assertTrue(asyncio.iscoroutinefunction(slow))", "assertTrue(isgeneratorfunction(numbers))",
    "assertTrue(iscoroutinefunction(slow) and find('slow') is slow)",
    "assertIs(find('slow'), slow)", "assertEqual(slow, find('slow'))",
])
def test_functions_are_of_the_kind_that_the_program_gave_them(line, grade):
    source = "import asyncio\nfrom inspect import iscoroutinefunction, isgeneratorfunction\n" + method(f"self.{line}")
    assert grade(source, KINDS.format("async", "yield"))["passed"] is True
    wrong = KINDS.format("", "return") + "def find(name):\n    return add\n"
    assert grade(source, wrong)["passed"] is False


@pytest.mark.parametrize("line, right", [
    ("assertTrue(find('add') is add)", True), ("assertTrue(find('old') is not add)", True),
    ("assertIs(find('add'), add)", True), ("assertIs(expr1=add, expr2=find('add'))", True),
    ("assertIsNot(find('old'), add)", True), ("assertEqual(find('add'), add)", True),
    ("assertTrue(add == find('add') is not None)", True), ("assertNotEqual(find('old'), add)", True),
    ("assertIs(Shelf(add).kept[0], add)", True), ("assertEqual(Shelf(add).kept, [add])", True),
    ("assertIsNot(find('add'), add)", False), ("assertNotEqual(find('add'), add)", False),
    ("assertIs(find('old'), add)", False), ("assertTrue(find('add') is not add)", False),
])
def test_and_themselves(line, right, grade):
    assert grade(method(f"self.{line}"), KINDS.format("async", "yield"))["passed"] is right


def test_a_module_of_python_s_that_is_not_here_is_no_missing_package(grade):
    verdict = grade(method("self.assertEqual(f(), 1)"), "def f():\n    import winreg\n    return 1")
    assert (verdict["passed"], verdict["status"]) == (False, "wrong_answer")


def test_an_error_is_told_with_the_innermost_line_of_the_program(grade):
    code = "def g():\n    raise ValueError('no')\ndef f():\n    return g()"
    verdict = grade("assert f() == 1", code, "assert")
    assert verdict["detail"] == "public test 1: ValueError: no (line 2)"


@pytest.mark.parametrize("kind", ["ref", "proxy"])
def test_nor_a_reference_to_what_equals_everything(kind, grade):
    source = "import weakref\nclass N:\n    pass\n" + method(
        "node = N()", f"self.assertEqual(f(node), weakref.{kind}(node))")
    code = f"import weakref\n{ANY}anything = Any()\ndef f(node):\n    return weakref.{kind}("
    assert grade(source, code + "node)")["passed"] is True
    assert grade(source, code + "anything)")["passed"] is False


# ---------------------------------------------------------------- skips and expected failures

NEXT = "def f(n):\n    return n + 1"
CASE = method("self.assertEqual(f(1), 2)")
LOOP = ("for n in range(3):", "    with self.subTest(n):")
OUTCOMES = {  # what there is -> (test, `passed` of a right program, of a wrong one)
    "a class that skips itself": (CASE + """
class Other(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise unittest.SkipTest("not here")
    def test_b(self):
        self.fail()
""", True, False),
    "a module that skips itself": (CASE + """
def setUpModule():
    raise unittest.SkipTest("not here")
""", None, None),
    "a skip in setUp": (CASE + """
class Other(unittest.TestCase):
    def setUp(self):
        self.skipTest("not here")
    def test_b(self):
        self.fail()
""", True, False),
    "a skip when a class has been tested": (CASE + """
    @classmethod
    def tearDownClass(cls):
        raise unittest.SkipTest("what for?")
""", True, False),
    "a skipped subtest": (method(*LOOP, "        if n == 1:", "            self.skipTest('odd')",
                                 "        self.assertEqual(f(n), n + 1)"), True, False),
    "a failure before a skipped subtest": (
        method(*LOOP, "        if n == 1:", "            self.skipTest('odd')",
               "        self.assertEqual(f(n), n or 9)"), False, False),
    "a failure after one": (
        method(*LOOP, "        if n == 0:", "            self.skipTest('even')",
               "        self.assertEqual(f(n), n)"), False, False),
    "a failure beside one": (
        method(*LOOP, "        if n == 0:", "            self.skipTest('even')",
               "self.assertEqual(f(1), 3)"), False, False),
    "skipped subtests only": (method(*LOOP, "        self.skipTest('all')"), None, None),
    "unittest in a method": (
        CASE + "    def test_b(self):\n        import unittest\n"
               "        raise unittest.SkipTest('not here')\n", True, False),
    "unittest.case in a method": (
        CASE + "    def test_b(self):\n        from unittest.case import SkipTest\n"
               "        raise SkipTest('not here')\n", True, False),
    "a class that is expected to fail": (CASE + """
@unittest.expectedFailure
class Other(unittest.TestCase):
    def test_b(self):
        self.assertEqual(f(1), 3)
""", True, False),
    "a class that does not fail as expected": (
        CASE.replace("class", "@unittest.expectedFailure\nclass"), False, True),
    "an == for its types": (CASE.replace("2", "12").replace("def test_a", """def setUp(self):
        self.addTypeEqualityFunc(int, self.same_digit)
    def same_digit(self, a, b, msg=None):
        if a % 10 != b % 10:
            raise self.failureException(msg)
    def test_a"""), True, False),
}


OUTCOMES |= {
    "a mixin named like pytest's": ("""
import unittest
class TestMixin:
    def test_a(self):
        self.assertEqual(f(self.given), 2)
class T(TestMixin, unittest.TestCase):
    given = 1
""", True, False),
    "a helper named like pytest's": (
        "def test_pair(case, a, b):\n    case.assertEqual(f(a), b)\n" + CASE
        + "        test_pair(self, 2, 3)\n", True, False),
    "a class of data named like pytest's": (
        "class TestData:\n    def __init__(self, a):\n        self.a = a\n"
        "    def test_value(self):\n        return self.a\n"
        + CASE.replace("f(1)", "f(TestData(1).test_value())"), True, False),
    "such a class beside pytest's tests": (
        "class TestData:\n    def __init__(self, a):\n        self.a = a\n"
        "    def test_value(self):\n        return self.a\n"
        "def test_a():\n    assert f(TestData(1).test_value()) == 2\n", True, False),
    "pytest's fixtures": ("def test_a(tmp_path):\n    assert f(1) == 2\n", None, None),
    "pytest's fixtures of a method": (
        "class TestF:\n    def test_a(self):\n        assert f(1) == 2\n"
        "    def test_b(self, tmp_path):\n        assert f(1) == 2\n", None, None),
    "functions for an event loop": (
        "def test_a():\n    assert f(1) == 2\nasync def test_b():\n    assert f(1) == 3\n",
        None, None),
    "what is said to be no test": ("""
import unittest
class Base(unittest.TestCase):
    __test__ = False
    def test_a(self):
        self.assertEqual(f(self.given), 2)
class T(Base):
    __test__ = True
    given = 1
""", True, False),
    "what is said to be no test of pytest's": ("""
def test_b():
    assert f(1) == 3
test_b.__test__ = False
class TestA:
    __test__ = False
    def test_a(self):
        assert f(1) == 3
class TestB(TestA):
    __test__ = True
    def test_a(self):
        assert f(1) == 2
""", True, False),
    "what pytest calls before and after": ("""
log = []
def setup_module(module):
    log.append("module")
def teardown_module():
    assert log.count("module") == 1 and log[-1] == "class ends"
def setup_function(function):
    log.append(function.__name__)
def teardown_function():
    log.append("function ends")
def test_b():
    assert log == ["module", "test_b"]
    assert f(1) == 2
def test_a():
    assert log == ["module", "test_b", "function ends", "test_a"]
class TestA:
    @classmethod
    def setup_class(cls):
        log.append("class")
    def teardown_class(cls):
        log.append("class ends")
    def setup_method(self):
        self.given = 1
        log.append("method")
    def teardown_method(self, method):
        log.append(method.__name__)
    def test_b(self):
        assert log[-2:] == ["class", "method"]
        assert f(self.given) == 2
    def test_a(self):
        assert log[-2:] == ["test_b", "method"]
""", True, False),
    "a class within a class": (
        "class TestA:\n    class TestB:\n        def test_a(self):\n            assert f(1) == 2\n",
        True, False),
    "a failure after the tests": (
        "def test_a():\n    assert f(1) == 2\ndef teardown_module():\n    assert f(2) == 4\n",
        False, False),
}


PYTESTS_OWN = {  # what only pytest would do -> the test above a right one of its style
    "a mark": "@pytest.mark.xfail\ndef test_b():\n    assert f(1) == 3\n",
    "an imported mark": "from pytest import mark\n@mark.skipif(True, reason='no')\n"
                        "def test_b():\n    assert f(1) == 3\n",
    "a mark of all": "pytestmark = pytest.mark.skip\ndef test_b():\n    assert f(1) == 3\n",
    "a parameter that has a default": "@pytest.mark.parametrize('n', [1, 2])\n"
                                      "def test_b(n=1):\n    assert f(n) == n + 1\n",
    "a fixture that nobody asks for": "given = []\n@pytest.fixture(autouse=True)\ndef prepare():\n"
                                      "    given.append(1)\n"
                                      "def test_b():\n    assert f(given[0]) == 2\n",
    "a fixture of a TestCase": CASE.replace("    def test_a", "    @pytest.fixture(autouse=True)\n"
                                            "    def prepare(self):\n        self.n = 1\n"
                                            "    def test_a").replace("f(1)", "f(self.n)"),
    "a fixture that is named": "@pytest.mark.usefixtures('prepared')\n"
                               "def test_b():\n    assert f(1) == 2\n",
    "an expected failure": "def test_b():\n    pytest.xfail('not yet')\n",
    "a package that is needed": "pytest.importorskip('nosuchpackage')\n",
    "a skip": "def test_b():\n    pytest.skip('not here')\n",
    "an imported skip": "from pytest import skip\ndef test_b():\n    skip('not here')\n",
}


@pytest.mark.parametrize("name", PYTESTS_OWN)
def test_what_only_pytest_would_do_gives_no_label(name, grade_with_packages):
    right = "def test_a():\n    assert f(1) == 2\n"
    verdict = grade_with_packages(f"import pytest\n{PYTESTS_OWN[name]}{right}", NEXT)
    assert verdict["passed"] is None
    assert verdict["detail"].startswith("public test 1: the test needs pytest itself (")


LOOK_SO = [
    "import pytest\n@pytest.mark.slow\ndef test_a():\n    assert f(1) == pytest.approx(2)\n",
    "import pytest\n" + CASE + "    @unittest.skip('not here')\n    def test_b(self):\n        f()\n",
    "class mark:\n    skip = staticmethod(f)\ndef test_a():\n    assert mark.skip(1) == 2\n",
    "mark = skip = f\ndef test_a():\n    assert skip(1) == 2\n",
    "import pytest\ndef skip(n):\n    return f(n)\ndef test_a():\n    assert skip(1) == 2\n",
    "import pytest\n# @pytest.mark.skip\ndef test_a():\n    'no pytest.skip()'\n    assert f(1) == 2\n",
]


@pytest.mark.parametrize("source", LOOK_SO)
def test_but_what_looks_so_does(source, grade_with_packages):
    assert grade_with_packages(source, NEXT)["passed"] is True
    assert grade_with_packages(source, "def f(n):\n    return 0")["passed"] is False


def test_what_only_pytest_would_do_is_told_by_the_names_of_a_test():
    assert all(sources.needs_of_pytest(f"import pytest\n{source}") for source in PYTESTS_OWN.values())
    assert not any(map(sources.needs_of_pytest, LOOK_SO))


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_unittest_with(name, grade):
    source, right, wrong = OUTCOMES[name]
    for code, wanted in ((NEXT, right), ("def f(n):\n    return 0", wrong)):
        verdict = grade(source, code)
        assert verdict["passed"] is wanted, verdict


SKIPPING = {  # how a program might skip its tests
    "by its own unittest": "import unittest\ndef f(*args):\n    raise unittest.SkipTest('no')",
    "by the unittest there is": "def f(*args):\n    import unittest\n    raise unittest.SkipTest",
    "by the test that it is given":
        "def f(n, test=None):\n    test.skipTest('no')",
    "by that test, from another file":
        "exec(compile(\"def f(n, test=None):\\n    test.skipTest('no')\", '<test>', 'exec'))",
}


@pytest.mark.parametrize("sign", "+-")
@pytest.mark.parametrize("kind", ["unittest", "assert"])
def test_a_test_may_be_nested_as_deeply_as_python_takes_it(kind, sign, grade):
    value = f" {sign} ".join(["1"] * 900)
    source = method(f"self.assertEqual(f(), {value})")
    if kind == "assert":
        source = f"class A:\n    value = {value}\nassert f() is f or f() == A.value"
    for code, passed in ((f"def f(): return {eval(value)}", True), ("def f(): return 0", False)):
        assert grade(source, code, kind)["passed"] is passed


@pytest.mark.parametrize("name", SKIPPING)
@pytest.mark.parametrize("lines", [
    ["self.assertEqual(f(1, self), 2)"],
    ["with self.subTest():", "    self.assertEqual(1, 1)",
     "with self.subTest():", "    f(1, self)"],
    ["import unittest", "self.assertEqual(f(1, self), 2)"],
])
def test_no_program_skips_its_tests(name, lines, grade):
    source = CASE.replace("f(1)", "1 + 1").replace("test_a", "test_b") + \
        method(*lines).replace("class T", "class S")
    assert grade(source, SKIPPING[name])["passed"] is False


def test_nor_in_a_fixture(grade):
    source = CASE + "def setUpModule():\n    f(1)\n"
    assert grade(source, SKIPPING["by its own unittest"])["passed"] is False


MODULE = "class M(types.ModuleType):\n    isclose = property(lambda self: lambda *values: True)\n"


@pytest.mark.parametrize("patch, line, wrong, right", [
    ("math.pi = 0", "self.assertEqual(f(), 2 * math.pi)", "0", "2 * 3.141592653589793"),
    ("string.digits = 'ab'", "self.assertIn(f(), string.digits)", "'b'", "'7'"),
    (f"{MODULE}math.__class__ = M", "self.assertTrue(math.isclose(f(), 3))", "0", "3"),
    (f"{MODULE}    __setattr__ = print\nmath.__class__ = M",
     "self.assertTrue(math.isclose(f(), 3))", "0", "3"),
], ids=["float", "text", "class", "class that cannot be set"])
def test_nor_a_module_s_constants_or_its_class(patch, line, wrong, right, grade):
    source = "import math, string\n" + method(line)
    code = f"import math, string, types\n{patch}\ndef f():\n    return "
    assert grade(source, code + right)["passed"] is True
    assert grade(source, code + wrong)["passed"] is False


@pytest.mark.parametrize("imported, name", [
    ("import colorsys", "colorsys.ONE_SIXTH"), ("import colorsys as c", "c.ONE_SIXTH"),
    ("from colorsys import ONE_SIXTH", "ONE_SIXTH"),
])
@pytest.mark.parametrize("by", ["test", "setup"])
def test_nor_those_of_a_module_however_it_is_imported(imported, name, by, grade):
    """One that nothing else loads."""
    test = method(f"self.assertEqual(f(), {name})")
    source, setup = (f"{imported}\n{test}", "") if by == "test" else (test, imported)
    code = "import colorsys\ncolorsys.ONE_SIXTH = 0\ndef f():\n    return "
    assert grade(source, f"{code}1.0 / 6.0", setup=setup)["passed"] is True
    assert grade(source, f"{code}0", setup=setup)["passed"] is False


def test_but_what_a_module_s_own_function_has_set_stays(grade):
    code = "import gettext\ngettext.textdomain('x')\ndef f():\n    return gettext.textdomain()"
    source = "import gettext\n" + method("self.assertEqual(f(), 'x')")
    assert grade(source, code)["passed"] is True
    assert grade(source, code.replace("'x'", "'y'"))["passed"] is False


def test_no_program_brings_an_equality_for_types(grade):
    code = "def f(n, test):\n    test.addTypeEqualityFunc(int, lambda a, b, msg=None: None)"
    source = method("f(1, self)", "self.assertEqual(1, 2)")
    assert grade(source, code)["passed"] is False


def test_nor_by_builtins_patched_while_it_is_called(grade):
    test = method("self.assertAlmostEqual(f(3), 10.0)")
    code = "import builtins\ndef f(n):\n    builtins.round = lambda *a: 0\n    return {}"
    assert grade(test, code.format("0.0"))["passed"] is False
    assert grade(test, code.format("10.0"))["passed"] is True


@pytest.mark.parametrize("patch", ["vars = lambda *a: {}", "setattr = lambda *a: None", "set = lambda *a: ()"])
def test_nor_by_builtins_that_its_guard_uses(patch, grade):
    test = method("self.assertAlmostEqual(f(3), 10.0)")
    code = ("import builtins\ndef f(n):\n    builtins.round = lambda *a: 0\n    return 0.0\n"
            f"builtins.round = lambda *a: 0\nbuiltins.{patch}\n")
    within = code + f"plain = f\ndef f(n):\n    builtins.{patch}\n    return plain(n)\n"
    assert grade(test, code)["passed"] is False
    assert grade(test, within)["passed"] is False


# ---------------------------------------------------------------- names of the test's

def test_a_test_case_within_a_class_is_prepared_like_others(grade):
    test = """
        import unittest
        class TestOuter:
            class TestInner(unittest.TestCase):
                def setUp(self):
                    self.right = 1
                def test_a(self):
                    self.assertEqual(f(0), self.right)
        """
    assert grade(test, "def f(n):\n    return 1")["passed"] is True
    assert grade(test, "def f(n):\n    return 2")["passed"] is False


def test_a_name_that_a_test_declares_global_is_lent_too(grade):
    test = """
        import unittest
        import math
        class T(unittest.TestCase):
            def test_a(self):
                global math
                self.assertEqual(f(4), 2)
        """
    assert grade(test, "def f(n):\n    return math.sqrt(n)")["passed"] is True


@pytest.mark.parametrize("source", [
    MOCK + CASE + "    @mock.patch('__main__.step', 5)\n    def test_b(self):\n"
                  "        self.assertEqual(f(1), 6)\n",
    method("from __main__ import f", "self.assertEqual(f(1), 2)"),
    method("import sys", "self.assertEqual(sys.modules['__main__'].f(1), 2)"),
    method("import __main__", "self.assertEqual(__main__.step, 1)"),
])
def test_a_test_may_call_the_program_main(source, grade):
    """They are run as one file elsewhere, whose name that is."""
    assert grade(source, "step = 1\ndef f(n):\n    return n + step")["passed"] is True
    assert grade(source, "step = 2\ndef f(n):\n    return n + step")["passed"] is False
    assert grade(source, "def f(n):\n    return n + 2")["passed"] is False


def test_and_so_may_doctest(grade):
    source = method("import doctest", "self.assertEqual(doctest.testmod(), (0, 1))")
    code = "def f(n):\n    '>>> f(1)\\n2'\n    return n + {}"
    assert grade(source, code.format(1))["passed"] is True
    assert grade(source, code.format(2))["passed"] is False


def test_so_may_the_program_itself_before_and_while_it_is_tested(grade):
    source = method("self.assertEqual(f(1), 2)")
    code = ("import __main__\n__main__.step = {}\ndef f(n):\n    import __main__ as main\n"
            "    return n + main.step if main is __main__ else None")
    assert grade(source, code.format(1))["passed"] is True
    assert grade(source, code.format(2))["passed"] is False


def test_a_class_body_that_asks_for_its_own_names_asks_nothing_of_the_program(grade):
    test = method("self.assertEqual(1, 1)") + "class Q:\n    n = 1\n    m = n\n"
    assert grade(test, "n = 5\ndef f(x):\n    return x")["passed"] is None


# ---------------------------------------------------------------- classes of the setup's

NODE = """
    class Node:
        made = 0
        def __init__(self, n):
            self.n = n
            Node.made += 1
        def __eq__(self, other):
            return self.n == other.n
    FIRST = Node(1)
    """
OF_NODES = {  # kind of test -> its source
    "assert": "assert isinstance(f(Node(3)), Node)\nassert f(Node(3)) == Node(4)\nassert f(FIRST) == Node(2)",
    "unittest": method("self.assertIsInstance(f(Node(3)), Node)", "self.assertEqual(f(Node(3)), Node(4))",
                       "self.assertEqual(f(FIRST), Node(2))"),
}
ALL_ALIKE = "def f(node):\n    return Node(9)\n"


@pytest.mark.parametrize("kind", OF_NODES)
def test_program_and_test_share_the_classes_of_the_setup(kind, grade):
    def passed(code):
        return grade(OF_NODES[kind], code, kind, NODE)["passed"]
    assert passed("def f(node):\n    return Node(node.n + 1)") is True
    assert passed("def f(node):\n    return node") is False
    assert passed("import copy\ndef f(node):\n    Node.made = 0\n    node = copy.copy(node)\n    node.n += 1\n    return node") is True


@pytest.mark.parametrize("patch", [
    "Node.__eq__ = lambda self, other: True",
    "Node.__init__ = lambda self, n: setattr(self, 'n', 0)",
    "Node.__getattribute__ = lambda self, name: 0",
    "class Any:\n    def __eq__(self, other):\n        return True\nNode.n = Any()\nNode.__init__ = lambda self, n: None",
    "class Node(Node):\n    def __eq__(self, other):\n        return True",
], ids=range(5))
@pytest.mark.parametrize("kind", OF_NODES)
def test_but_no_program_makes_them_equal(kind, patch, grade):
    assert grade(OF_NODES[kind], f"{ALL_ALIKE}{patch}", kind, NODE)["passed"] is False


# ---------------------------------------------------------------- whose fault it is

def test_what_no_program_could_pass_is_the_row_s_own_fault(grade):
    """Even where an empty program fails earlier: the canonical solution ends in the same way."""
    test = method("self.assertEqual(f(1), 1)", "self.assertEqual(f(2), unknown)")
    right = "def f(n):\n    return n"
    assert grade(test, right, canonical="def f(x):\n    return x")["passed"] is None
    assert grade(test, "def f(n):\n    return 0", canonical="def f(x):\n    return x")["passed"] is False


@pytest.mark.parametrize("kind, source", [
    ("unittest", method("self.assertEqual(f(1), unknown(1))")),
    ("assert", "import sys\nassert f(1) == unknown"),
    ("assert", "import sys\nassert dict(unknown=f(1)) == {'unknown': unknown}"),
])
def test_so_is_a_name_that_is_nowhere_without_a_canonical_solution(kind, source, grade):
    right = "def f(n):\n    return n"
    assert grade(source, right, kind)["passed"] is None
    assert grade(source, "def f(n):\n    raise ValueError", kind)["passed"] is False
    assert grade(source, right, kind, setup="unknown = 1\ndel unknown")["passed"] is False
    solution = f"{right}\nunknown = 1 if {kind == 'assert'} else f"
    assert grade(source, right, kind, canonical=solution)["passed"] is False


def test_but_no_name_that_the_test_itself_gives_to_what_is_right(grade):
    source = "import sys\nif f(1) == 1:\n    known = 1\nassert f(1) == known"
    assert grade(source, "def f(n):\n    return n", "assert")["passed"] is True
    assert grade(source, "def f(n):\n    return 2", "assert")["passed"] is False


BAG = """
class Bag:
    def __init__(self, items):
        self.items = items
    def __contains__(self, item):
        return item in self.items
    def __sub__(self, item):
        return Bag([other for other in self.items if other != item])
    def __eq__(self, other):
        return self.items == getattr(other, "items", other)
"""


@pytest.mark.parametrize("kind, source", [
    ("unittest", method("self.assertIn(1, Bag([1]))")),
    ("unittest", method("self.assertEqual((Bag([1, 2]) - 2).items, [1])")),
    ("unittest", method("try:", "    self.assertNotEqual(Bag([1]), 'Bag')", "except:", "    pass")),
    ("assert", "assert Bag([1]) == [1]"),
    ("assert", "assert (Bag([1, 2]) - 2).items == [1]"),
])
def test_a_test_that_asks_for_an_equality_of_the_programs_own_gives_no_label(kind, source, grade):
    """No wrong one: the canonical solution is not believed, either. Its other tests count."""
    verdict = grade(source, BAG, kind, canonical=BAG)
    assert (verdict["passed"], verdict["status"]) == (None, "broken_test")
    assert "of the program's own" in verdict["detail"]
    assert grade(source, BAG, kind, canonical="class Bag(list):\n    pass")["passed"] is False
    if kind == "unittest":
        source += "    def test_b(self):\n        self.assertEqual(len(Bag([1]).items), 1)\n"
        assert grade(source, BAG, prompt="Write a class `Bag`.")["passed"] is None
        assert grade(source, BAG, prompt="Write a function that fills a Bag.")["passed"] is False
        wrong = BAG.replace("= items", "= items * 2")
        assert grade(source, wrong, canonical=BAG)["passed"] is False


@pytest.mark.parametrize("prompt, passed", [
    ("Write a class called `Bag`.", None), ("Write a class named Bag.", None),
    ("Implement the `Bag` class.", None), ("Class Bag: a list.", None),
    ("Write a class. Bags are lists.", False), ("Fill a Bag; no class is needed.", False),
])
def test_a_problem_names_a_class_in_many_ways(prompt, passed, grade):
    assert grade(method("self.assertIn(1, Bag([1]))"), BAG, prompt=prompt)["passed"] is passed


def test_what_a_program_brings_about_alone_is_its_own_fault(grade):
    test = method("self.assertEqual(f(1), 1)")
    code = "def f(n):\n    raise ModuleNotFoundError('No module named json', name='json')"
    assert grade(test, code, canonical="def f(x):\n    return x")["passed"] is False
