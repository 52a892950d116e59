"""What a problem's sources tell without being run. No output and no answer is looked at here.

    fault_of_test                why a test cannot run, whatever the program
    refuse_long_numbers          so long that to read them takes minutes
    to_its_end                   a test's source without the exit at its end
    lines_that_assert_nothing    where it looks as if it asserted something, and does not
    names_what_is_nowhere        has it ended at a name that its sources never define?
    asks_for_a_class             does it call a class that the problem asks for?
    imports_of                   what it imports
    needs_inside                 does it ask for more than the values that functions give?
    may_change_values            may it change one of them in place?
    names_asked_by_classes       what the bodies of its classes ask for
"""
import ast
import contextlib
import functools
import io
import re
import sys
import tokenize

from data.sandbox.wire import NO_SOURCE, describe

# ---------------------------------------------------------------- faults

# What only pytest itself does; here the functions and classes of its style are merely called.
PYTEST_DOES = re.compile(r"(\w+\.)?mark\.(skip|skipif|xfail|parametrize|usefixtures)|autouse=True|"
                         r"pytest\.(skip|xfail|importorskip)")


@functools.lru_cache(64)
def fault_of_test(source):
    """Why a test cannot run, whatever the program; "" where it can."""
    try:
        refuse_long_numbers(source)
        compile(source, "<test>", "exec", dont_inherit=True)
        needed = needs_of_pytest(source)
    except NO_SOURCE as error:
        return f"the test cannot run ({describe(error)})"
    return f"the test needs pytest itself ({needed[0]})" if needed else ""


MOST_DIGITS = 100_000
MANY_DIGITS = re.compile(rf"[0-9][0-9_]{{{MOST_DIGITS},}}")


def refuse_long_numbers(source):
    """Raise ValueError where a source holds a number of more than MOST_DIGITS.

    Python's time to read it grows with the square of its length: a million digits take 15 seconds,
    and a test is read several times. Plain Python refuses those of more than 4300.
    """
    if not MANY_DIGITS.search(source):
        return
    with contextlib.suppress(tokenize.TokenError, SyntaxError):  # it does not compile either
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.NUMBER and MANY_DIGITS.match(token.string):
                raise ValueError(f"a number of {len(token.string)} digits takes too long to read; "
                                 f"the most is {MOST_DIGITS}")


def needs_of_pytest(source):
    """What a source names that only pytest does. Its comments and texts name nothing."""
    imports = imports_of(source)
    if "pytest" not in imports:
        return []
    named = [ast.unparse(node) for node in ast.walk(ast.parse(source))
             if isinstance(node, (ast.Name, ast.Attribute, ast.keyword))]
    named = [f"pytest.{name}" if f"pytest.{name}" in imports else name for name in named]
    return [name for name in named if PYTEST_DOES.fullmatch(name)]


def lines_that_assert_nothing(source):
    """[what is wrong with each of them] in a test's source. Raises what ast.parse does."""
    refuse_long_numbers(source)
    nodes = list(ast.walk(ast.parse(source)))
    # with self.assertRaises(TypeError): f(1) < f("a")   compares to see what is raised
    expected_to_raise = []
    for node in nodes:
        if isinstance(node, ast.With):
            expected_to_raise += node.body
    found = []
    for node in nodes:
        if isinstance(node, ast.Assert) and is_always_true(node.test):
            found.append(f"line {node.lineno} of a test asserts a tuple, which is always true")
        bare = isinstance(node, ast.Expr) and isinstance(node.value, ast.Compare)
        if bare and node not in expected_to_raise:
            found.append(f"line {node.lineno} of a test compares, and asserts nothing")
    return found


def is_always_true(node):
    """Is this a tuple with an item, as in assert (f(1) == 2, "why")?"""
    return isinstance(node, ast.Tuple) and any(not isinstance(e, ast.Starred) for e in node.elts)


def names_what_is_nowhere(detail, *sources):
    """Did a test end at a name that its sources use and never define?"""
    found = re.search(r"NameError: name '(\w+)' is not defined", detail)
    if not found:
        return False
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return found[1] not in map(name_bound_by, nodes)


def asks_for_a_class(source, entry_point, prompt):
    """Does a test make objects of a class that the problem asks for?"""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    if entry_point in called and entry_point[0].isupper():
        return True
    return any(is_called_a_class(name, prompt) for name in called)


def is_called_a_class(name, prompt):
    """Does a prompt say "class Bag", "a class called `Bag`" or "the `Bag` class"?"""
    before = rf"(?i:\bclass)\W{{1,2}}((named|called)\W{{1,2}})?{name}\b"
    behind = rf"\b{name}\W{{1,2}}class\b"
    return bool(re.search(f"{before}|{behind}", prompt))


# ---------------------------------------------------------------- how a test ends

MAY_EXIT = re.compile("exit|quit|SystemExit|main")
EXITS = {"exit", "quit", "sys.exit", "os._exit", "SystemExit", "unittest.main"}
RUNS_TESTS = re.compile("unittest|pytest")  # main() of these would look for the program's tests
IS_MAIN = {"__name__ == '__main__'", "'__main__' == __name__"}


@functools.lru_cache(64)
def to_its_end(source, kind):
    """A test's source as it counts when it is run as a script: its end is no end of the program.

    The exit that stands last becomes `pass`, if it means success; that of a file of unittests in
    any case, for these are run by themselves. What asserts do `if __name__ == "__main__"` is done.
    """
    if not MAY_EXIT.search(source):
        return source
    with contextlib.suppress(*NO_SOURCE):  # or too deep to be looked at
        refuse_long_numbers(source)
        for node, text in endings(ast.parse(source).body, source, kind):
            source = with_text(source, node, text)
    return source


def endings(body, source, kind):
    """Yields (node, the text that takes its place) of a test's last statement, the last first."""
    last = body[-1] if body else None
    guard = None
    if kind == "assert" and isinstance(last, ast.If) and not RUNS_TESTS.search(source):
        if ast.unparse(last.test) in IS_MAIN:
            guard = last
            last = guard.body[-1]
    if is_exit(last, whatever=kind == "unittest"):
        yield last, "pass"
    if guard:  # which stands before it: the places in front of a change stay the same
        yield guard.test, "True"


def is_exit(node, whatever=False):
    """Is this statement an exit with success, or whatever its status: sys.exit(0), exit(), ...?"""
    what = getattr(node, "exc" if isinstance(node, ast.Raise) else "value", None)
    if not isinstance(node, (ast.Raise, ast.Expr)) or what is None:
        return False
    status = []
    if isinstance(what, ast.Call):
        status = [*what.args, *what.keywords]
        what = what.func
    elif isinstance(node, ast.Expr):  # `exit` alone does nothing
        return False
    succeeds = all(isinstance(value, ast.Constant) and value.value in (0, None) for value in status)
    return ast.unparse(what) in EXITS and (whatever or succeeds)


def with_text(source, node, text):
    """A source with this in the place of one node of its tree."""
    lines = source.encode().splitlines(keepends=True)
    before = b"".join(lines[:node.lineno - 1]) + lines[node.lineno - 1][:node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset:] + b"".join(lines[node.end_lineno:])
    return before.decode() + text + after.decode()


# ---------------------------------------------------------------- what a test asks for

@functools.lru_cache(64)
def imports_of(source):
    """Modules that a test's source imports, and names that may be none."""
    found = {"math", "os", "json"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            # names that may be modules, too: from xml.etree import ElementTree
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    # the last two do what one does not expect
    others = {"unittest", "antigravity", "this"}
    return {name for name in found if name.partition(".")[0] not in others}


# With these a test computes. With others (sys, os, io, tempfile, inspect, threading, ...) it may
# look at what a program does beyond its answers, or change the world that the program sees.
COMPUTING = set(
    "bisect cmath collections copy dataclasses datetime enum fractions functools heapq itertools "
    "json math numbers operator random re statistics string time typing".split())
SEEN_INSIDE_ONLY = {"open", "globals", "vars", "id", "setattr", "delattr", "__import__", "seed",
                    "setstate"}


@functools.lru_cache(64)
def needs_inside(source):
    """Does a test ask for more than the values that functions give? Nothing else crosses."""
    used = set()  # names
    bound = set()
    for node in ast.walk(ast.parse(source)):
        bound.add(name_bound_by(node))
        if isinstance(node, ast.Compare) and {ast.Is, ast.IsNot} & set(map(type, node.ops)):
            if ast.Constant not in map(type, (node.left, *node.comparators)):
                return True
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            if node.attr.startswith("__") or node.attr in SEEN_INSIDE_ONLY:
                return True
        elif isinstance(node, ast.Import):
            if not COMPUTING.issuperset(alias.name for alias in node.names):
                return True
        elif isinstance(node, ast.ImportFrom):
            if node.module not in COMPUTING or SEEN_INSIDE_ONLY & {a.name for a in node.names}:
                return True
    modules = (used - bound) & sys.stdlib_module_names
    return not modules <= COMPUTING or not used.isdisjoint(SEEN_INSIDE_ONLY)


# Names of what may change a value in place: methods, functions, what reaches them by a text.
CHANGING = set(
    "append extend insert remove pop popitem clear sort reverse update add discard setdefault "
    "difference_update intersection_update symmetric_difference_update "
    "shuffle heapify heappush heappop heapreplace heappushpop insort insort_left insort_right "
    "setitem delitem iadd iand iconcat imul ior isub ixor methodcaller getattr eval exec".split())


@functools.lru_cache(64)
def may_change_values(source):
    """May this code change a value in place: x.append(1), x[0] = 1, x += [1], del x[0], ...?"""
    try:
        tree = ast.parse(source)
    except NO_SOURCE:  # a setup, which does not run
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign):
            return True
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            return True
        names = {getattr(node, field, None) for field in ("id", "attr", "name")}
        if not names.isdisjoint(CHANGING):
            return True
    return False


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def names_asked_by_classes(tree):
    """Names that class bodies use, but for what the test itself defines outside of functions."""
    return names_in_class_bodies(tree) - bound_outside_functions(tree)


def bound_outside_functions(tree):
    found = set()
    todo = [tree]
    while todo:
        node = todo.pop()
        found.add(name_bound_by(node))
        if not isinstance(node, FUNCTIONS):
            todo += ast.iter_child_nodes(node)
    return found


def name_bound_by(node):
    """The name that this one node of a syntax tree gives a value, or None."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.alias):
        return (node.asname or node.name).partition(".")[0]
    if isinstance(node, ast.arg):
        return node.arg
    return getattr(node, "name", None)  # of a function, a class, an exception, a pattern


def names_in_class_bodies(tree, within=False):
    """But for those in the bodies of methods."""
    if isinstance(tree, ast.Name) and within:
        return {tree.id}
    found = set()
    for name, value in ast.iter_fields(tree):
        if name == "body" and isinstance(tree, FUNCTIONS):
            inner = False
        else:
            inner = within or isinstance(tree, ast.ClassDef)
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST):
                found |= names_in_class_bodies(node, inner)
    return found
