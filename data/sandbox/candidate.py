"""What a candidate's box runs, after its zygote has prepared it.

    run_program       a whole program, from its first line to what Python does after the last;
                      for `stdin` tests
    answer_requests   its functions, answering a grader's requests; for all others
"""
import atexit
import builtins
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import random
import site
import sys
import threading
import types
import weakref

from data.sandbox.inside import Inside
from data.sandbox.wire import (
    MAX_OUTPUT, MUTABLE, PROGRAM, BrokenSetup, CannotCross, CompileError, DeepValues, OutputLimit,
    as_text, describe, has_changed, missing_module, pack, status_of, unpack)

# How a whole program's process says what went wrong; a forged one still fails.
EXIT_CODES = {"compile_error": 81, "memory_limit": 82, "missing_dependency": 83, "broken_test": 84}
MOST_KEPT = 4 << 20  # bytes of text, roughly, of what an assert has passed and got
# Often imported: here an import costs a few pages in every fork, there milliseconds in every run.
# Fixed, so that no program's verdict depends on other rows, and without packages: `import xml` must
# not find that xml.etree is there.
PRELOADED = "string datetime heapq bisect copy statistics typing array queue itertools math".split()


# ---------------------------------------------------------------- the zygote's preparations

def forget_this_machine():
    """Import what candidates often do, and let nothing be seen of where this project lies.

    (But for the file names of the code that calls the candidate, in its traceback's frames.)
    """
    for name in PRELOADED:
        importlib.import_module(name)
    rehearse()
    # a program gets another json than the one that answers for it
    for name in [name for name in sys.modules if name.partition(".")[0] in ("data", "json")]:
        del sys.modules[name]
    importlib.import_module("json")
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path = [folder for folder in sys.path
                if "site-packages" in folder or folder.startswith(sys.base_prefix)]
    sys.argv = [""]
    sys.orig_argv = ["python"]
    # a virtual environment's is out of sight
    sys.executable = getattr(sys, "_base_executable", sys.executable)
    sys.set_int_max_str_digits(0)
    sys.path_importer_cache.clear()
    os.environ.clear()
    path = f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    os.environ.update(PATH=path, USER="nobody", LANG="C.UTF-8", TZ="UTC")
    os.environ.update(HOME="/tmp", TMPDIR="/tmp")
    for set_builtins in (site.setquit, site.setcopyright, site.sethelper):  # exit, help, ...
        set_builtins()
    random.seed(0)  # every run draws the same numbers


def rehearse():
    """Python sets up much at its first use, and makes what it runs often faster: once for all."""
    limit = sys.getrecursionlimit()
    session = Session({"entry_point": "f"})
    session.load({"setup": "", "code": "def f(*values):\n    return values\n"})
    for _ in range(50):
        given = pack([[1, "a", (2.5,), {"b": {1}}, [2, 3]], {}])
        with DeepValues():
            request = json.loads(json.dumps({"call": "f", "given": given}))
        with DeepValues():
            json.dumps(session.perform(request))
    sys.setrecursionlimit(limit)
    del sys.modules["candidate"]


# ---------------------------------------------------------------- the candidate

def module_with_setup(setup, name):
    """A fresh module called `name`, in which the problem's setup has run."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = PROGRAM
    if name == "__main__":  # as Python does; in all other modules it is a dict
        module.__builtins__ = builtins
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        if missing_module(error):
            raise
        raise BrokenSetup(f"its setup does not run ({describe(error)})") from None
    return module


def run_code(code, module):
    """Run a program in a module; returns its namespace."""
    name = module.__name__  # which the program may change
    try:
        program = compile(code, PROGRAM, "exec", dont_inherit=True)
    except BaseException as error:
        raise CompileError(describe(error)) from None
    # as if these calls, exec's among them, were not below it
    sys.setrecursionlimit(sys.getrecursionlimit() + calls_below() + 1)
    exec(program, module.__dict__)
    return vars(sys.modules.get(name, module))


def calls_below():
    """How many calls are in progress, but for this one."""
    frame = sys._getframe().f_back
    count = 0
    while frame:
        count += 1
        frame = frame.f_back
    return count


def run_program(job):
    """A stdin program, from its first line to what Python does after the last."""
    code = 0
    lost = []  # packages that threads have not found
    sys.argv = [PROGRAM]  # it may start itself again
    sys.path.insert(0, os.getcwd())  # it may import what it has written
    threading.excepthook = functools.partial(note_end_of_thread, lost)
    try:
        run_code(job["code"], module_with_setup(job["setup"], "__main__"))
    except BaseException as error:
        code = exit_code(error)
        if code:
            say(missing_module(error) or describe(error))
        del error
    # as Python does, so that what these write stands below what the program has printed
    for last_act in (flush_stdout, threading._shutdown, atexit._run_exitfuncs, flush_stdout,
                     run_finalizers, flush_stdout, flush_files):
        with contextlib.suppress(BaseException):
            last_act()
    if lost and not code:
        code = EXIT_CODES["missing_dependency"]
        say(lost[0])
    os._exit(code)


def say(text):
    """The last words of a whole program, which the worker reads."""
    with contextlib.suppress(BaseException):
        os.write(2, f"\n{text}".encode())


def exit_code(error):
    """How the process of a program that this exception has ended says so."""
    status = status_of(error)
    if status == "runtime_error" and isinstance(error, SystemExit):
        return 0  # a normal end, as in LiveCodeBench
    return EXIT_CODES.get(status, 1)


def flush_stdout():
    sys.stdout.flush()


def flush_files():
    """Those that the program has left open."""
    written = [thing for thing in gc.get_objects()
               if isinstance(thing, (io.TextIOWrapper, io.BufferedWriter))]
    for stream in (sys.__stdout__, *written):
        with contextlib.suppress(BaseException):
            stream.flush()


def run_finalizers():
    """Python's last act, in which objects may act: the module goes, and all that only it holds."""
    module = weakref.ref(sys.modules.pop("__main__"))
    gc.collect()
    if module():  # something else holds it
        names = vars(module())
        for name in [name for name in names if name != "__builtins__"]:
            names[name] = None
        gc.collect()


def note_end_of_thread(lost, end):
    threading.__excepthook__(end)
    package = missing_module(end.exc_value)
    if package:
        lost.append(package)


class Session:
    """A candidate that answers requests."""

    def __init__(self, job):
        self.entry_point = job["entry_point"]
        self.functions = {}
        self.test = None  # whose functions these are
        self.kept = []  # (arguments or answer of that test, their text then)
        self.room = MOST_KEPT
        self.lost = []  # packages that its threads have not found
        threading.excepthook = functools.partial(note_end_of_thread, self.lost)
        self.inside = None
        if "inside" in job:  # before the candidate's code has run
            self.inside = Inside(job)

    def load(self, job):
        module = module_with_setup(job["setup"], "candidate")
        if self.inside:  # what its tests share with the program, before the code has run
            self.inside.share_classes(vars(module))
            # a test may patch "__main__.helper": of one file, program and test
            self.inside.modules["__main__"] = sys.modules["__main__"] = module
        self.namespace = run_code(job["code"], module)
        return {}

    def find(self, name):
        """What an assert's name stands for: the module's, as in plain Python, or a method."""
        if name not in self.functions:
            if name in self.namespace:
                self.functions[name] = self.namespace[name]
            else:
                self.functions[name] = self.method(name)
        return self.functions[name]

    def method(self, name):
        """LeetCode's entry point is one of Solution, of a new object for every test."""
        solution = self.namespace.get("Solution")
        if name != self.entry_point or not isinstance(solution, type):
            raise NameError(f"the program defines no {name!r}")
        return getattr(solution(), name)  # an object may have what its class has not

    def call(self, request):
        """A `call` test's: the answer in its plain form."""
        name = request["call"]
        if name in self.namespace and not hasattr(self.namespace.get("Solution"), name):
            function = self.namespace[name]
        else:  # LiveCodeBench asks Solution first
            function = self.method(name)
        args, kwargs = unpack(request["given"])
        return {"value": pack(function(*args, **kwargs))}

    def call_exactly(self, request):
        """An assert's: the answer or exception, if it can cross and left the arguments alone."""
        if request["test"] != self.test:
            self.functions.clear()
            self.kept.clear()
            self.room = MOST_KEPT
            self.test = request["test"]
        function = self.find(request["exactly"])
        args, kwargs = unpack(request["given"])
        before = as_text([args, kwargs])
        try:
            value = function(*args, **kwargs)
            answer = {"value": pack(value, exact=True)}
        except (CannotCross, OutputLimit, MemoryError):
            raise
        except BaseException as error:
            if missing_module(error):
                raise
            kind = type(error)
            if getattr(builtins, kind.__name__, None) is not kind:
                raise CannotCross(f"a {kind.__name__}") from None
            arguments = pack(error.args, exact=True)
            answer = {"raised": kind.__name__, "with": arguments, "detail": describe(error)}
            answer["whole"] = is_whole(error)
            if kind is NameError:
                answer["lacks"] = str(error.name)
        else:
            if type(value) in MUTABLE or type(value) is tuple:
                self.keep(value, as_text(value))
        if has_changed([args, kwargs], before):
            raise CannotCross("changed arguments")
        self.keep([args, kwargs], before)
        return answer

    def keep(self, value, text):
        """The test may still hold a copy; look_back() asks about no more than MOST_KEPT bytes."""
        self.room -= len(text) + 100
        if self.room > 0:
            self.kept.append((value, text))

    def look_back(self, _request):
        """An assert has made its calls: are its copies of what it passed and got still right?"""
        if self.room <= 0:
            raise CannotCross("more values than can be looked at again")
        if any(has_changed(value, text) for value, text in self.kept):
            raise CannotCross("a value that a later call has changed")
        return {"value": None}

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
        try:
            reply = self.reply_to(request)
        finally:
            if self.lost and "source" not in request:  # whatever came of it
                raise ModuleNotFoundError(name=self.lost[0])
        if self.lost:  # inside, where what has passed counts
            reply["missing"] = reply.get("missing") or self.lost[0]
        return reply

    def reply_to(self, request):
        if "call" in request:
            return self.call(request)
        if "exactly" in request:
            return self.call_exactly(request)
        if "name" in request:
            return self.look_up(request)
        if "kept" in request:
            return self.look_back(request)
        return self.inside.run(request, self.namespace)


def is_whole(error):
    """Do its class and its arguments make just such an exception again?"""
    try:
        again = type(error)(*error.args)
    except Exception:
        return False
    attributes = [name for name in dir(error) if not name.startswith("_")]
    alike = all(getattr(again, name, None) == getattr(error, name, None)
                for name in attributes if not callable(getattr(error, name, None)))
    return alike and error.__cause__ is None and not hasattr(error, "__notes__")


def answer_requests(job):
    """A session, until the grader hangs up."""
    # as they are before the candidate's code has run
    getpid, leave, write = os.getpid, os._exit, os.write
    dumps, loads = json.dumps, json.loads
    me = getpid()
    session = Session(job)
    requests = open(3, "rb", closefd=False)

    def answer(action, request):
        try:
            reply = action(request)
            with DeepValues():
                data = dumps(reply).encode() + b"\n"
            if len(data) > MAX_OUTPUT:
                raise OutputLimit("the answer is too large")
        except BaseException as error:
            status = status_of(error)
            if status == "missing_dependency":
                detail = missing_module(error)
            else:
                detail = str(error) if status == "inside" else describe(error)
            data = dumps({"error": status, "detail": detail}).encode() + b"\n"
        if getpid() != me:  # a fork of the candidate does not get to speak for it
            leave(1)
        while data:
            data = data[write(3, data):]

    answer(session.load, job)
    while True:
        line = requests.readline()
        if not line:
            leave(0)
        with DeepValues():
            request = loads(line.decode())
        answer(session.perform, request)
