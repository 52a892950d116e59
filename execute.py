"""Stage 2: run candidate programs in a sandbox and give each a verdict.

    python execute.py                                                   the tiny world
    python execute.py --problems P.jsonl --candidates C.jsonl --out L.jsonl

Reads   problems (their tests) and candidates (their `code`, a whole program).
Writes  labelled rows: the candidate, plus passed (true, false, or null if the machinery failed), status,
        tests_passed, tests_total, detail, seconds, public_passed, output_digest, tests_digest.

A test is one of
    {"type": "call", "args": [...], "kwargs": {...}, "expected": ...}   on the problem's `entry_point`
    {"type": "stdin", "input": "...", "output": "..."}                  a whole program
    {"type": "assert", "source": "..."}                                 lines that call the candidate's functions
    {"type": "unittest", "source": "..."}                               unittest.TestCase classes
A problem may add `setup` (source run before the candidate's), `time_limit` (seconds a test), `libs` (modules its tests
need). Public and hidden tests both count. A `stdin` problem stops at its first hidden failure, so there tests_passed says
how far it came. Calls are made in a shuffled order. When outputs are equal stands in data/compare.py.

Four kinds of process, each started by the one before:

    supervisor   reads and writes rows                                         one
    referee      its fork; knows the expected values, compares                 one for each job slot
    zygote       knows no expected value; shut off from the machine; forks     one for each referee
    candidate    one fresh fork for every candidate (every test, for stdin)

The zygote enters its namespaces once and is process 1 in there: a run costs a fork, and its end is one kill(-1), which
nothing survives. What comes back from a candidate is data in exact builtin types, rebuilt by the referee from JSON, so an
object that claims to equal everything, a patched builtin or a forged message gains nothing: only right outputs are right.
`assert` tests run in the referee as well, against stand-ins for the candidate's functions.

Weaker: `unittest` tests, and the few asserts marked "inside", run beside the candidate. What it could have patched is put
back first, planted tests must fail, and an operand of assertEqual that brings its own == is refused. This stops careless
cheating, not a program written against this file: an object that fools assertTrue(f(x) == 1), or a candidate that finds
the test's source in its own memory, can still pass.

NOT protected against: bugs of the kernel; timing and other side channels; exhausting the machine's memory with many
processes (the limit is per process, 64 processes a run); reading the Python library and /usr; ports of the private
loopback that one run leaves in TIME_WAIT for the next. The namespaces come together or not at all; without them (see
--self-check, and a warning at the start) a candidate can read and write what the user may, and reach the network.
"""
import argparse
import ast
import builtins
import collections
import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.util
import itertools
import json
import marshal
import math
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import sys
import time
import types

if sys.argv[1:2] != ["--zygote"]:  # it sees nothing of the repository
    from data import rows
    from data.compare import digestible, lines_of, same_text, same_value

LIMITS = {"call": 6.0, "stdin": 6.0, "assert": 6.0, "unittest": 240.0}  # seconds a test; LiveCodeBench's, BigCodeBench's
MAX_SOURCE = 1 << 20  # bytes of a candidate's code
MAX_OUTPUT = 16 << 20  # bytes of one output
MAX_FILES = "size=64m,nr_inodes=4096"  # what a candidate may write: a memory file system of its own
MAX_PROCESSES = 64
ATTEMPTS = 3  # for the machinery; a candidate gets one
FAILURES = ("wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit", "compile_error")
LAYERS = ("namespaces", "uid", "seccomp")
EXIT_COMPILE, EXIT_MEMORY = 81, 82  # how a stdin program's wrapper says what went wrong; a forged one still fails


# ---------------------------------------------------------------- values on the wire

class OutputLimit(Exception):
    """A value or a message is too large or too deep."""


class Opaque:
    """Stands for a value that is no builtin type. It equals nothing but itself."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name} object>"


VIEWS = type({}.keys()), type({}.values()), type({}.items())
BASES = (int, float, str, list, tuple, dict, set, frozenset, bytes, bytearray, range, complex, *VIEWS)
WIDE = 1 << 63  # integers beyond it travel in base 16, which takes no quadratic time


def pack(value, room, depth=0):
    """A value as JSON: builtin types only, what is not a plain JSON value as {type: content}; room: [bytes left].

    Subclasses are read through their builtin base, so that overridden methods have no say.
    """
    def spend(size):
        room[0] -= size
        if room[0] < 0 or depth > 200:
            raise OutputLimit("the value is too large or nested too deeply")

    kind = type(value)
    base = kind if kind in BASES else next((base for base in BASES if issubclass(kind, base)), None)
    if value is None or kind is bool:
        return value
    if base is int:
        spend(int.bit_length(value) // 4)
        return int.__pos__(value) if int.bit_length(value) < 64 else {"int": int.__format__(value, "x")}
    if base is float:
        return float.__pos__(value)
    if base in (str, bytes, bytearray):
        spend(2 * base.__len__(value))
        return str.__str__(value) if base is str else {base.__name__: base.hex(value)}
    if base is None and not hasattr(kind, "__next__"):
        return {"opaque": str(kind.__name__)}
    items = ((value.real, value.imag) if base is complex else (value.start, value.stop, value.step) if base is range else
             map(list, dict.items(value)) if base is dict else map(list, value) if base is VIEWS[2] else
             base.__iter__(value) if base else value)
    items = list(itertools.islice(items, room[0] // 4 + 1))  # an iterator may be endless
    spend(4 * len(items))
    narrow = set(map(type, items)) == {int} and -WIDE < min(items) and max(items) < WIDE  # most lists are: no need to look further
    content = items if narrow else [pack(item, room, depth + 1) for item in items]
    return content if base is list else {base.__name__ if base else "iterator": content}


# Sets and dicts are filled item by item, so that the referee's alarm can interrupt one whose hashes collide.
BUILD = {"int": lambda body: int(body, 16), "tuple": tuple, "iterator": iter, "set": lambda body: {item for item in body},
         "frozenset": lambda body: frozenset({item for item in body}), "dict": lambda body: {key: item for key, item in body},
         "bytes": bytes.fromhex, "bytearray": bytearray.fromhex, "complex": lambda body: complex(*body),
         "range": lambda body: range(*body), "dict_keys": lambda body: {item: None for item in body}.keys(),
         "dict_values": lambda body: dict(enumerate(body)).values(),
         "dict_items": lambda body: {key: item for key, item in body}.items(), "opaque": Opaque}


def unpack(wire):
    """The inverse of pack."""
    if type(wire) is list:
        return wire if {list, dict}.isdisjoint(map(type, wire)) else [unpack(item) for item in wire]
    if type(wire) is not dict:
        return wire
    (tag, body), = wire.items()
    return BUILD[tag](unpack(body))


def describe(error):
    """One line about an exception, with the line of the candidate's code."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:
        text = type(error).__name__
    line, trace = None, getattr(error, "__traceback__", None)
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<code>" else line
        trace = trace.tb_next
    return clean(text + (f" (line {line})" if line else ""))


def clean(text, most=300):
    """One line without addresses, which differ from run to run."""
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", " ".join(text[:4 * most].split()))
    return text if len(text) <= most else text[:most - 3] + "..."


# ---------------------------------------------------------------- layers of isolation

libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter's lock across fork()
MACHINE = os.uname().machine
NEW = {"mount": 0x20000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}  # CLONE_NEW*
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS, SECCOMP, SUBREAPER = 1, 4, 38, 22, 36  # prctl()'s names for them
SYSCALLS = {  # x86_64, aarch64; all but the first six are refused whatever their arguments are
    "prlimit64": (302, 261), "setpriority": (141, 140), "socket": (41, 198), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "mount": (165, 40), "umount2": (166, 39), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "pivot_root": (155, 41), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)}
NUMBER = {name: numbers[MACHINE == "aarch64"] for name, numbers in SYSCALLS.items()}


def system(name, *arguments):
    """Calls a function of the C library; raises OSError. Text and bytes are passed as such, numbers as longs."""
    plain = [ctypes.c_ulong(a) if isinstance(a, int) else a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*plain) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def prctl(option, value, *more):
    system("prctl", option, value, *(more or (0, 0, 0)))


def in_child(action):
    """Does something in a fork, to see whether it can be done. Raises OSError if not."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code) if code != 255 else "this Python lies in /tmp, which candidates get of their own")


def enter_namespaces(proc, user):
    """Networks, processes, mounts and shared memory of one's own. Root may have them for the asking, others together with a
    user namespace: full rights over what is made in there, none over anything else. proc: the machine's /proc; user: of the candidates."""
    import fcntl
    uid, gid = os.geteuid(), os.getegid()
    system("unshare", sum(NEW.values()) - (NEW["user"] if uid == 0 else 0))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")) if uid else ():
        with open(os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc), "w") as file:
            file.write(text)
    with socket.socket() as sock:  # the loopback is up: SIOCSIFFLAGS with IFF_UP
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))
    private_root(user)


def private_root(user):
    """A file tree with the Python library and /usr, read-only, an empty /tmp, and nothing else of this machine."""
    BIND, REC, PRIVATE, NOSUID, NODEV, DETACH, RECURSIVE = 0x1000, 0x4000, 0x40000, 2, 4, 2, 0x8000
    devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    shown = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, "/usr")}
    if any(f"{path}/".startswith("/tmp/") for path in shown):
        raise OSError(255, "")
    system("mount", None, "/", None, REC | PRIVATE, None)
    new = "/proc"  # any directory that is always there and no longer needed will do as the place to build it
    system("mount", "tmpfs", new, "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    root = new + "/root"
    for path in ("/dev", "/etc", "/tmp"):
        os.makedirs(root + path)
    for path in sorted(shown | devices | set(filter(os.path.exists, ("/bin", "/sbin", "/lib", "/lib32", "/lib64")))):
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif not os.path.exists(root + path):
            open(root + path, "w").close() if path in devices else os.makedirs(root + path)
            system("mount", path, root + path, None, BIND | REC, None)
    os.symlink("/tmp", root + "/dev/shm")
    for name, text in (("passwd", f"nobody:x:{user}:65534::/tmp:/bin/sh\n"), ("hosts", "127.0.0.1 localhost\n")):
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    here = os.path.dirname(os.path.realpath(__file__))
    if os.path.isdir(root + here):  # the project lies inside of what is shown
        system("mount", "tmpfs", root + here, "tmpfs", NOSUID | NODEV, "mode=755,size=4k")
    # struct mount_attr: set RDONLY | NOSUID on everything below. /dev's files stay devices.
    system("syscall", NUMBER["mount_setattr"], -100, new, RECURSIVE, struct.pack("QQQQ", 1 | NOSUID, 0, 0, 0), 32)
    system("mount", "tmpfs", root + "/tmp", "tmpfs", NOSUID | NODEV, f"{MAX_FILES},mode=700")
    os.chdir(new)
    system("syscall", NUMBER["pivot_root"], ".", ".")
    system("umount2", ".", DETACH)
    os.chroot("/root")  # in a chroot no user namespace can be made, and without one no other
    os.chdir("/")


def install_filter(process=None):
    """A BPF program that refuses what no candidate needs: a small second wall behind the namespaces.

    process: the number of a candidate that has no namespaces: it gets no network, and may send signals only to itself.
    """
    LOAD, EQUAL, AT_LEAST, RETURN, ALLOW, EPERM = 0x20, 0x15, 0x35, 0x06, 0x7FFF0000, 0x50001
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[MACHINE]), (RETURN, 0, 0, EPERM),
            (LOAD, 0, 0, 0), (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, EPERM)]  # nor another architecture's calls
    for name in list(SYSCALLS)[6:]:
        code += [(EQUAL, 0, 1, NUMBER[name]), (RETURN, 0, 0, EPERM)]

    def only(name, *wanted):  # refuse the call unless its first arguments are these
        code.append((EQUAL, 0, 2 * len(wanted) + 2, NUMBER[name]))
        for index, value in enumerate(wanted):
            code.extend([(LOAD, 0, 0, 16 + 8 * index), (EQUAL, 0, 2 * (len(wanted) - index) - 1, value)])
        code.extend([(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)])

    only("prlimit64", 0)  # limits and priority of itself, not of the zygote, which the next run would inherit
    only("setpriority", 0, 0)
    if process:
        only("socket", socket.AF_UNIX)
        for name in ("kill", "tkill", "tgkill"):
            only(name, process)
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in [*code, (RETURN, 0, 0, ALLOW)])
    address = ctypes.cast(program, ctypes.c_void_p).value
    prctl(SECCOMP, 2, struct.pack("HxxxxxxQ", len(program) // 8, address), 0, 0)


def become(user):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def die_with(parent):
    prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def isolate(options):
    """Shuts this process, and so all of its children, off from the machine; a layer that cannot be had is left out.

    Returns ({layer: None if it holds, else why not}, the candidates' folder, the machine's /proc or None if out of sight).
    """
    root, proc, layers = os.geteuid() == 0, os.open("/proc", os.O_RDONLY | os.O_DIRECTORY), {}
    user = 100000 + os.getpid() % 100000 if root else os.geteuid()  # as root, one that nobody else is

    def layer(name, action):
        try:
            if name in options["without"]:
                raise OSError(0, "switched off")
            in_child(action)  # tried out: half of it would be worse than nothing
            layers[name] = None
        except OSError as error:
            layers[name] = error.strerror

    prctl(NO_NEW_PRIVS, 1)
    layer("namespaces", lambda: enter_namespaces(proc, user))
    layer("seccomp", install_filter)
    with open(os.open("self/statm", os.O_RDONLY, dir_fd=proc)) as file:
        memory = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE") + (options["memory_mb"] << 20)
    processes, folder = MAX_PROCESSES, "/tmp"
    if layers["namespaces"]:
        folder = os.path.join(options["scratch"], str(os.getpid()))
        os.mkdir(folder, 0o700)
        for name in filter(str.isdigit, os.listdir(proc)):  # here NPROC counts what else an ordinary user runs, and its threads
            with contextlib.suppress(OSError):
                processes += 4 * (os.stat(name, dir_fd=proc).st_uid == user)
    else:
        enter_namespaces(proc, user)
        os.close(proc)
        proc, child = None, os.fork()  # the first to be born after the unshare is process 1 in there
        if child:
            os.waitpid(child, 0)
            os._exit(0)
    layer("uid", lambda: root and (become(user), open(os.__file__).close()))  # nobody may be unable to read this Python
    for name, value in {"AS": memory, "FSIZE": MAX_OUTPUT, "CORE": 0, "NOFILE": 256, "NPROC": processes, "MEMLOCK": 0}.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    if root and not layers["uid"]:
        os.chown(folder, user, -1)
        become(user)
    system("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    prctl(DUMPABLE, 0)
    prctl(PDEATHSIG, signal.SIGKILL)
    prctl(SUBREAPER, 1)
    if not layers["namespaces"] and not layers["seccomp"]:
        install_filter()
    return layers, folder, proc


# ---------------------------------------------------------------- the zygote: one fork for every run

PRELUDE = "string datetime heapq bisect copy statistics operator typing threading atexit types decimal".split()  # LiveCodeBench's


def zygote(control, options):
    """Forks for every run that the referee asks for, ends it when told to, and says how it ended."""
    for name in PRELUDE + options["preload"]:
        __import__(name)
    die_with(options["parent"])
    sys.argv[1:] = []
    layers, folder, proc = isolate(options)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(PATH=f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin", HOME=folder, TMPDIR=folder, USER="nobody",
                      LANG="C.UTF-8", TZ="UTC")
    builtins.exit = builtins.quit = sys.exit  # as `site` would have it
    sys.executable = getattr(sys, "_base_executable", sys.executable)  # the virtual environment's is not visible
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a candidate may send it
    random.seed(0)  # every run draws the same numbers
    unpack(json.loads(json.dumps(pack([1, "a", (2.5,), {"warm": {1}}], [1000]))))  # Python sets up many things at their first use
    load({"setup": "import json", "code": "def f(x, y=1):\n    return [z + y for z in range(x)]\nf(3)\n"}, "candidate")
    gc.collect()
    gc.freeze()
    control.send(json.dumps(layers).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 10000, 5)
        if not message:  # the referee is gone
            os._exit(0)
        if not descriptors:
            if message != b"kill":  # else it came too late
                control.send(json.dumps([name for name in json.loads(message) if not importlib.util.find_spec(name)]).encode())
            continue
        pid = libc.fork()  # os.fork() would tidy up for threads, which we have not, in half of the time that a fork takes
        if pid == 0:
            try:
                if layers["namespaces"]:
                    prctl(PDEATHSIG, signal.SIGKILL)
                    if not layers["seccomp"]:
                        install_filter(os.getpid())
                candidate(descriptors, int(message))
            finally:
                os._exit(1)
        for fd in descriptors:
            os.close(fd)
        ended, poll = os.pidfd_open(pid), select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(control, select.POLLIN)
        poll.poll()
        os.close(ended)
        code = end(pid, proc)
        empty(folder)
        with contextlib.suppress(BrokenPipeError):
            control.send(str(code).encode())


def end(run, proc):
    """Ends a run with all that it has started, and returns its exit code, -n for signal n.

    In the pid namespace kill(-1) reaches everything at once: a fork that races with it fails. Without (proc given), what
    a candidate left running has become a child of ours: look for children until there are none.
    """
    code = None
    while True:
        with contextlib.suppress(ProcessLookupError):
            for pid in [-1] if proc is None else children(proc):
                os.kill(pid, signal.SIGKILL)
        try:
            pid = -1
            while pid:
                pid, status = os.waitpid(-1, 0 if proc is None else os.WNOHANG)
                code = os.waitstatus_to_exitcode(status) if pid == run else code
        except ChildProcessError:
            return code


def children(proc):
    for name in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError), open(os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc)) as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(name)


def empty(folder):
    """rm -r of what is in a folder, also where a candidate took the rights from its folders or made paths too long to name."""
    os.chmod(folder, 0o700)
    with contextlib.suppress(OSError):
        for name in os.listxattr(folder):
            os.removexattr(folder, name)
    todo = [folder]
    while todo:
        place = todo.pop()
        for entry in list(os.scandir(place)):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                todo.append(f"{folder}/{os.urandom(8).hex()}")
                os.rename(entry.path, todo[-1])
            else:
                os.unlink(entry.path)
        if place != folder:
            os.rmdir(place)


# ---------------------------------------------------------------- the candidate's process

def candidate(descriptors, size):
    """The candidate's code, as the job (size bytes in the first file) says; the other files become 0, 1, 2, ... Never returns."""
    os.setpgid(0, 0)  # its own group is enough: the zygote's session has no terminal, and setsid() takes milliseconds
    job = marshal.loads(os.read(descriptors[0], size))
    resource.setrlimit(resource.RLIMIT_CPU, (job["cpu"], job["cpu"] + 1))
    for target, fd in enumerate(descriptors[1:]):
        os.dup2(fd, target)
    os.closerange(len(descriptors) - 1, 4096)
    run_program(job) if job["mode"] == "stdin" else converse(job, 3)


class CompileError(Exception):
    pass


def load(job, name):
    """Runs setup and code in a fresh module called `name`; returns its namespace."""
    module, before = types.ModuleType(name), os.getpid()
    sys.modules[name] = module
    for label in ("setup", "code"):
        if job[label]:
            try:
                program = compile(job[label], f"<{label}>", "exec", dont_inherit=True)
            except BaseException as error:
                raise CompileError(describe(error)) from None
            exec(program, module.__dict__)
    if os.getpid() != before:  # a fork of the candidate does not get to speak for it
        os._exit(1)
    return vars(sys.modules.get(name, module))


def run_program(job):
    """A stdin program, from its first line to what Python does after the last."""
    import atexit
    import threading
    code = 0
    try:
        load(job, "__main__")
    except SystemExit:
        pass  # a normal end, as in LiveCodeBench
    except BaseException as error:
        code = EXIT_COMPILE if isinstance(error, CompileError) else EXIT_MEMORY if isinstance(error, MemoryError) else 1
        with contextlib.suppress(BaseException):
            os.write(2, f"\n{describe(error)}".encode())
        del error
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush):  # waits for threads, as Python does
        with contextlib.suppress(BaseException):
            last()
    os._exit(code)


def converse(job, wire):
    """A candidate that answers requests, a JSON line each: those of the job and, but for `call` tests, what comes after them."""
    getpid, leave, write, dumps, pristine, functions = os.getpid, os._exit, os.write, json.dumps, {}, {}
    if job["mode"] == "inside":
        from unittest import TestCase, TestLoader, TestResult, TestSuite, case, suite
        pristine = {thing: dict(vars(thing)) for thing in
                    (builtins, TestCase, TestLoader, TestSuite, suite.BaseTestSuite, TestResult, case._Outcome)}

    def find(name):
        solution = namespace.get("Solution")
        if name == job["entry_point"] and hasattr(solution, name):
            return getattr(solution(), name)
        if name not in namespace:
            raise NameError(f"the program defines no {name!r}")
        return namespace[name]

    def kind(name):
        thing = namespace.get(name, Opaque("missing"))
        if isinstance(thing, type(sys)):
            return {"module": thing.__name__}
        if callable(thing) and not isinstance(thing, type):
            return {"function": name}
        return {"value": pack(thing, [MAX_OUTPUT // 4])}

    def perform(request):
        if "names" in request:
            return {name: kind(name) for name in request["names"]}
        if "token" in request:
            return run_inside(request, namespace, pristine)
        name, args, before = request["call"], request["args"], getpid()
        if name not in functions:
            functions[name] = find(name)
        value = functions[name](*args, **request["kwargs"])
        if getpid() != before:  # a fork of the candidate does not get to speak for it
            leave(1)
        changed = {"args": pack(args, [MAX_OUTPUT // 4])} if "back" in request else {}
        return {"value": pack(value, [MAX_OUTPUT // 4]), **changed}

    def answer(action, *arguments):
        try:
            value = action(*arguments)
            data = dumps({} if action is load else value).encode() + b"\n"
            if len(data) > MAX_OUTPUT:
                raise OutputLimit("the answer is too large")
        except BaseException as error:
            value, status = None, {CompileError: "compile_error", OutputLimit: "output_limit", MemoryError: "memory_limit"}
            status = status.get(type(error), "runtime_error")
            data = dumps({"error": status, "type": str(type(error).__name__), "detail": describe(error)}).encode() + b"\n"
        while data:
            data = data[write(wire, data):]
        return value

    namespace = answer(load, job, "candidate")
    for request in job["requests"] if namespace is not None else ():
        answer(perform, request)
    if job["mode"] == "call" or namespace is None:
        leave(0)
    with open(wire, "rb") as later:
        while True:  # until the referee hangs up: EOFError
            answer(perform, marshal.load(later))


def run_inside(request, namespace, pristine):
    """Tests that must run beside the candidate: what it patched is put back, and planted tests must fail."""
    import unittest
    from unittest.mock import ANY
    for thing, attributes in pristine.items():
        for name, value in attributes.items():
            if vars(thing).get(name) is not value:
                setattr(thing, name, value)
    planted = type("Planted", (unittest.TestCase,), {
        "test_equal": lambda self: self.assertEqual(1, 2), "test_true": lambda self: self.assertTrue(False),
        "test_raises": lambda self: self.assertRaises(ValueError, int), "test_plain": lambda self: exec("assert len([1]) == 2")})

    def assert_equal(self, first, second, msg=None):
        for value in (first, second):  # its == may not be a function of the candidate's, or mock's, that always says yes
            items = value if type(value) in (list, tuple) else value.values() if type(value) is dict else ()
            for item in (value, *itertools.islice(items, 1000)):
                code = getattr(getattr(type(item), "__eq__", None), "__code__", None)
                if item is ANY or code and code.co_filename in ("<code>", "<setup>"):
                    raise self.failureException("an operand brings its own ==")
        equal(self, first, second, msg)

    def run(*cases):
        """({test: how often it ran}, {test: what was wrong})"""
        result, ran = unittest.TestResult(), collections.Counter()
        name = lambda test: ".".join(getattr(test, "test_case", test).id().split(".")[-2:])
        result.startTest = lambda test: ran.update([name(test)])
        unittest.TestSuite(map(unittest.TestLoader().loadTestsFromTestCase, cases)).run(result)
        wrong = [*result.failures, *result.errors, *result.skipped, *zip(result.unexpectedSuccesses, itertools.repeat("succeeded"))]
        return ran, {name(test): (text.strip().splitlines() or ["skipped"])[-1] for test, text in wrong}

    if "assert" in request:
        program = compile(request["assert"], "<test>", "exec", dont_inherit=True)
        classes = [type("Assert", (unittest.TestCase,), {"test": lambda self: exec(program, namespace)})]
    else:
        equal, unittest.TestCase.assertEqual = unittest.TestCase.assertEqual, assert_equal
        exec(compile(request["unittest"], "<test>", "exec", dont_inherit=True), namespace)
        classes = [namespace[name] for name in request["classes"]]
    return {"ran": run(*classes), "planted": run(planted), "token": request["token"]}


# ---------------------------------------------------------------- the referee: asks, compares, decides

class TimeUp(BaseException):
    pass


class Failed(BaseException):
    """The verdict on one test. A BaseException, so that no `except` in a benchmark's test swallows it."""

    def __init__(self, status, detail, over=False):
        super().__init__(status, detail)
        self.status, self.detail, self.over = status, detail, over  # over: its process is gone, no further test can run


class Zygote:
    """The referee's end of its zygote, which is a fresh Python with nothing of ours. Every error here is the machinery's."""

    def __init__(self, options):
        import subprocess
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P and -s rather than -I, which would ignore PYTHONHASHSEED: the order of a candidate's sets would differ from run to run
        command = [sys.executable, "-P", "-s", *(() if options["site_packages"] else ("-S",)), "-W", "ignore", os.path.abspath(__file__),
                   "--zygote", str(theirs.fileno()), json.dumps({**options, "parent": os.getpid()})]
        environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8:surrogateescape", "LANG": "C.UTF-8", "TZ": "UTC"}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env=environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        theirs.close()
        self.nothing, self.layers = os.open(os.devnull, os.O_RDWR), self.hear()

    def hear(self):
        message = self.sock.recv(100000)
        if not message:
            raise EOFError(f"the zygote died (status {self.process.wait()})")
        return json.loads(message)

    def start(self, job, *files):
        """Starts a run with these open files as 0, 1, 2, ...; finish() must follow."""
        content = marshal.dumps(job)
        file = memory_file(content)
        socket.send_fds(self.sock, [str(len(content)).encode()], [file, *files])
        os.close(file)

    def finish(self, patience=0.0):
        """Ends the run, after `patience` seconds in which it may end by itself: (exit code, whether it did)."""
        in_time = bool(select.select([self.sock], [], [], patience)[0])
        if not in_time:
            self.sock.send(b"kill")
        return self.hear(), in_time

    def close(self):
        self.sock.close()
        self.process.wait()


def memory_file(content=b""):
    file = os.memfd_create("file")
    with open(file, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def how_it_ended(code):
    if code == -signal.SIGXCPU:
        return "time_limit", "used up its processor time"
    if -code in set(signal.Signals):
        return "runtime_error", f"killed by {signal.Signals(-code).name}"
    return {EXIT_COMPILE: "compile_error", EXIT_MEMORY: "memory_limit"}.get(code, "runtime_error"), f"exit status {code}"


class Talk:
    """One candidate's process, as the referee sees it: it answers the job's requests in order, then those of ask()."""

    def __init__(self, zygote, job, tests, limit):
        self.zygote, self.limit, self.calls = zygote, limit, []
        self.sock, theirs = socket.socketpair()
        zygote.start({**job, "cpu": math.ceil(limit * (tests + 1))}, *[zygote.nothing] * 3, theirs.fileno())
        theirs.close()
        self.replies = self.sock.makefile("rb")

    def attempt(self, step):
        """One test, step(self), in its time; what the candidate does outside of its role ends the talk. Raises Failed."""
        try:
            signal.setitimer(signal.ITIMER_REAL, self.limit)  # rings in whatever runs longer: the answer, or the comparison
            try:
                return step(self)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except TimeUp:
            raise Failed("time_limit", f"longer than {self.limit:g} s", True) from None
        except OutputLimit as error:
            raise Failed("output_limit", str(error), True) from None
        except (EOFError, OSError):
            status, detail = how_it_ended(self.close(0.5))
            detail = f"the program ended before it answered ({detail})".replace(" (exit status 0)", "")
            raise Failed(status, detail, True) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Failed("runtime_error", f"not an answer ({type(error).__name__})", True) from None

    def reply(self):
        self.line = self.replies.readline(MAX_OUTPUT)
        if not self.line.endswith(b"\n"):
            raise OutputLimit("the answer is too large") if len(self.line) == MAX_OUTPUT else EOFError
        reply = json.loads(self.line)
        if "error" in reply:
            self.error = str(reply.get("type"))
            raise Failed(reply["error"] if reply["error"] in FAILURES else "runtime_error", clean(str(reply["detail"])))
        return reply

    def ask(self, **request):
        self.sock.sendall(marshal.dumps(request))
        return self.reply()

    def close(self, patience=0.0):
        if self.zygote:
            zygote, self.zygote = self.zygote, None
            self.replies.close()
            self.sock.close()
            self.code, _ = zygote.finish(patience)
        return self.code


def judge(problem, code, zygote, options):
    """All tests of one problem on one candidate. Returns the fields that a labelled row adds to it."""
    public, started = len(problem["public_tests"]), time.perf_counter()
    tests, groups, missing, why = [*problem["public_tests"], *problem["tests"]], collections.defaultdict(list), [], None
    results = [None] * len(tests)  # (status, detail, what the digest is made of), None where not run
    job = {"setup": problem.get("setup") or "", "code": code, "entry_point": problem["entry_point"], "mode": "call", "requests": []}
    if problem.get("libs"):
        zygote.sock.send(json.dumps(problem["libs"]).encode())
        missing = zygote.hear()
    source = code.encode("utf-8", "replace")
    if missing:
        why = "missing_dependency", f"not installed: {', '.join(missing)}", None
    elif len(source) > MAX_SOURCE or source.decode() != code:
        why = "compile_error", f"the source is longer than {MAX_SOURCE} bytes, or not valid Unicode", None
    for position, test in enumerate(tests):
        results[position] = why
        groups["inside" if test.get("inside") or test["type"] == "unittest" else test["type"]].append(position)
    for kind, positions in groups.items() if not why else ():
        limit = (problem.get("time_limit") or LIMITS[tests[positions[0]]["type"]]) * options["scale"]
        if kind in ("call", "assert"):  # an answer must depend on the question, not on its turn
            random.Random(problem["problem_id"]).shuffle(positions)
        if kind == "stdin":
            for position in positions:
                results[position] = judge_program(zygote, job, tests[position], limit, options["compare"])
                if results[position][0] != "passed" and position >= public:
                    break
        elif kind == "call":
            job["requests"] = [{"call": problem["entry_point"], "args": tests[position]["args"], "kwargs": tests[position].get("kwargs") or {}}
                               for position in positions]
            steps = {position: functools.partial(judge_call, tests[position], options["compare"]) for position in positions}
            sit(zygote, job, steps, limit, results, public)
        elif kind == "assert":
            talking = {**job, "mode": "assert", "requests": []}
            steps = {position: functools.partial(run_assert, tests[position]["source"], problem["entry_point"]) for position in positions}
            calls = sit(zygote, talking, steps, limit, results, public).calls
            if any(results[position] and results[position][0] == "passed" for position in positions) and not repeats(zygote, job, calls, limit):
                for position in positions:
                    results[position] = "wrong_answer", "the answers change with the order of the calls", "order"
        else:
            for position in positions:  # a process each
                step = {position: functools.partial(judge_inside, tests[position])}
                sit(zygote, {**job, "mode": "inside", "requests": []}, step, limit, results, public)
    passed = [result is not None and result[0] == "passed" for result in results]
    status, detail = "passed", ""
    if not all(passed):
        position = next(index for index, result in enumerate(results) if result and result[0] != "passed")
        status, detail, _ = results[position]
        if position >= public and detail.startswith("expected "):  # what hidden tests expect stays hidden
            detail = ""
        where = f"public test {position + 1}" if position < public else f"hidden test {position - public + 1}"
        detail = detail if missing else f"{where}: {detail}".rstrip(": ")
    outputs = json.dumps([result and result[2] for result in results[:public]])
    return {"passed": None if missing else all(passed), "status": status, "tests_passed": sum(passed), "tests_total": len(tests),
            "detail": detail, "seconds": round(time.perf_counter() - started, 4),
            "public_passed": all(passed[:public]) if public and not missing else None,
            "output_digest": hashlib.sha256(outputs.encode()).hexdigest()[:16] if public and not missing else None}


def sit(zygote, job, steps, limit, results, public):
    """One process of the candidate for several tests. steps: {position: function of a Talk that returns outputs or raises Failed}.

    Fills in results. Returns the Talk, closed.
    """
    with contextlib.closing(Talk(zygote, job, len(steps), limit)) as talk:
        try:
            talk.attempt(Talk.reply)  # its code has run
        except Failed as failed:
            results[:] = [(failed.status, failed.detail, failed.status) if position in steps else result for position, result in enumerate(results)]
            return talk
        for position, step in steps.items():
            try:
                outputs = talk.attempt(step)
                results[position] = "passed", "", digestible(outputs) if position < public else None
            except Failed as failed:
                results[position] = failed.status, failed.detail, failed.status
                if failed.over:
                    break
    return talk


def judge_call(test, compare, talk):
    output = unpack(talk.reply()["value"])
    if not same_value(output, test["expected"], compare):
        raise Failed("wrong_answer", f"expected {clean(repr(test['expected']), 100)}, got {clean(repr(output), 100)}")
    return [output]


def repeats(zygote, job, calls, limit):
    """Do the calls, [(request, digest of the reply)], get the same replies in an order in which a counter would not give them?"""
    order = sorted(calls, key=lambda call: call[1])
    if order == calls:
        order.reverse()
    if len({answer for _, answer in calls}) < 2:
        return True

    def same(answer, talk):
        with contextlib.suppress(Failed):  # an error may be what was expected
            talk.reply()
        return hashlib.sha256(talk.line).digest() == answer

    with contextlib.closing(Talk(zygote, {**job, "requests": [request for request, _ in order]}, len(order), limit)) as talk:
        with contextlib.suppress(Failed):
            talk.attempt(Talk.reply)
            return all(talk.attempt(functools.partial(same, answer)) for _, answer in order)
    return False


@functools.lru_cache(64)
def prepare(source, entry_point):
    """A test's program and the names that it takes from the candidate: read, never bound, not a builtin (but the entry
    point may be named like one)."""
    read, bound = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.arg, ast.FunctionDef, ast.ClassDef)):
            bound.add(node.arg if isinstance(node, ast.arg) else node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    names = sorted(name for name in read - bound if name == entry_point or not hasattr(builtins, name))
    return compile(source, "<test>", "exec", dont_inherit=True), names


def run_assert(source, entry_point, talk):
    """A benchmark's assert lines, run here; every function of the candidate that they name is a stand-in. Returns what it answered."""
    raised, outputs = [], []

    def stand_in(name, *args, **kwargs):
        request = {"call": name, "args": list(args), "kwargs": kwargs, "back": True}
        request = marshal.loads(marshal.dumps(request))  # a copy: the test may change them later
        try:
            reply = talk.ask(**request)
        except Failed as failed:
            kind = getattr(builtins, talk.error, None)
            if failed.status != "runtime_error" or not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise
            raised.append(kind(failed.detail))  # a test may expect it
            raise raised[-1] from None
        finally:
            talk.calls.append((request, hashlib.sha256(talk.line).digest()))
        outputs.append(unpack(reply["value"]))
        for mine, after in zip(args, unpack(reply["args"])):
            if type(mine) is type(after) and mine != after and type(mine) in (list, dict, set):  # the call changed its arguments
                mine.clear()
                (mine.extend if type(mine) is list else mine.update)(after)
        return outputs[-1]

    program, names = prepare(source, entry_point)
    namespace = {"__name__": "test"}
    for name, kind in talk.ask(names=names).items():
        if "function" in kind:
            namespace[name] = functools.partial(stand_in, name)
        elif "module" in kind and kind["module"].partition(".")[0] in sys.stdlib_module_names:
            namespace[name] = __import__(kind["module"], fromlist=["_"])
        elif "value" in kind and not isinstance(unpack(kind["value"]), Opaque):
            namespace[name] = unpack(kind["value"])
    random.seed(0)  # a test may draw its inputs
    try:
        exec(program, namespace)
    except AssertionError as error:
        raise Failed("wrong_answer", describe(error)) from None
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if error in raised:
            raise Failed("runtime_error", clean(str(error))) from None
        if isinstance(error, (EOFError, OSError, OutputLimit)):
            raise
        raise Failed("wrong_answer", f"the test cannot use the answer ({describe(error)})") from None
    return outputs


def judge_inside(test, talk):
    """Tests run beside the candidate: each must have run once and passed, each planted one must have failed."""
    if test["type"] == "assert":
        expected, request = ["Assert.test"], {"assert": test["source"]}
    else:
        classes = [node for node in ast.parse(test["source"]).body
                   if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases)]
        expected = {f"{node.name}.{item.name}" for node in classes for item in node.body
                    if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and item.name.startswith("test")}
        request = {"unittest": test["source"], "classes": [node.name for node in classes]}
    token = os.urandom(8).hex()  # comes after the candidate's own code has run: an answer prepared there lacks it
    reply = talk.ask(**request, token=token)
    (ran, wrong), (_, planted) = reply["ran"], reply["planted"]
    for name in sorted(expected):
        if name in wrong or name not in ran:
            raise Failed("wrong_answer", f"{name}: {clean(str(wrong.get(name, 'did not run')), 200)}")
    if len(planted) != 4 or ran != dict.fromkeys(expected, 1) or reply["token"] != token:
        raise Failed("runtime_error", "the program interferes with its tests")
    return [sorted(ran), sorted(wrong)]


def judge_program(zygote, job, test, limit, compare):
    """One run of a whole program. Its outputs are files in memory, whose size a limit of the process bounds."""
    files = [memory_file(test["input"].encode("utf-8", "surrogateescape")), memory_file(), memory_file()]
    zygote.start({**job, "mode": "stdin", "cpu": math.ceil(limit) + 1}, *files)
    code, in_time = zygote.finish(limit)
    out, err = (os.pread(file, MAX_OUTPUT, 0) for file in files[1:])
    for file in files:
        os.close(file)
    text, failed = out.decode("utf-8", "replace"), None
    if MAX_OUTPUT in (len(out), len(err)):
        failed = "output_limit", f"more than {MAX_OUTPUT} bytes"
    elif not in_time:
        failed = "time_limit", f"longer than {limit:g} s"
    elif code:
        status, detail = how_it_ended(code)
        failed = status, clean((err.decode("utf-8", "replace").strip().splitlines() or [detail])[-1])
    elif not same_text(text, test["output"], compare):
        failed = "wrong_answer", f"expected {clean(repr(test['output']), 100)}, got {clean(repr(text), 100)}"
    return (*(failed or ("passed", "")), failed[0] if failed and failed[0] != "wrong_answer" else lines_of(text))


# ---------------------------------------------------------------- the supervisor: rows in, rows out

def work(sock, jobs, options, parent):
    """A referee: the number of a job in, its verdict out, until the supervisor hangs up. Never returns."""
    def ring(*_):
        raise TimeUp

    die_with(parent)
    prctl(DUMPABLE, 0)  # other processes of the same user cannot look into this one
    gc.freeze()  # what the supervisor left behind must not be collected here: it would close files by numbers that are ours now
    os.setsid()  # Ctrl-C is the supervisor's business
    os.dup2(sock.detach(), 3)
    os.closerange(4, 4096)
    sock = socket.socket(fileno=3)
    signal.signal(signal.SIGALRM, ring)
    try:
        zygote = Zygote(options)
        os.dup2(zygote.nothing, 0)
        os.dup2(zygote.nothing, 1)  # a benchmark's test may print
        missing = [f"{name} ({why})" for name, why in zygote.layers.items() if why and why != "switched off"]
        if missing and options["speak"]:
            os.write(2, f"warning: isolation without {', '.join(missing)}; see --self-check\n".encode())
        while number := sock.recv(100):
            problem, candidate = jobs[int(number)]
            sock.send(json.dumps(judge(problem, candidate["code"], zygote, options)).encode())
        zygote.close()
    except Exception as error:  # the machinery's: the supervisor starts another referee
        sock.send(json.dumps({"machinery": describe(error)}).encode())
    os._exit(0)


def label(jobs, options, workers):
    """Yields (candidate, verdict) for (problem, candidate) pairs, in the order in which they are ready."""
    waiting, tries, parent = collections.deque(range(len(jobs))), collections.Counter(), os.getpid()
    team = {}  # {socket: [the referee's process, number of its job, deadline]}
    kinds = {test["type"] for problem in {id(problem): problem for problem, _ in jobs}.values()
             for test in problem["public_tests"] + problem["tests"]}
    options = {**options, "preload": ["unittest", "unittest.mock"] if "unittest" in kinds else [], "speak": True}

    def hire():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                work(theirs, jobs, options, parent)
            finally:
                os._exit(1)
        theirs.close()
        team[ours], options["speak"] = [pid, None, None], False
        begin(ours)

    def begin(sock):
        number = waiting.popleft()
        problem = jobs[number][0]
        times = [problem.get("time_limit") or LIMITS[test["type"]] for test in problem["public_tests"] + problem["tests"]]
        team[sock][1:] = number, time.monotonic() + 60 + 6 * options["scale"] * sum(times)
        with contextlib.suppress(OSError):  # it has died: its answer will be the end of file
            sock.send(str(number).encode())

    def dismiss(sock, kill):
        pid, _, _ = team.pop(sock)
        if kill:
            os.kill(pid, signal.SIGKILL)
        sock.close()
        os.waitpid(pid, 0)

    try:
        while waiting or team:
            while waiting and len(team) < workers:
                hire()
            ready = select.select(list(team), [], [], 1.0)[0]
            for sock in [sock for sock in team if sock in ready or team[sock][2] < time.monotonic()]:
                number, answer = team[sock][1], {"machinery": "the referee died or stalled"}
                if sock in ready:
                    with contextlib.suppress(OSError, ValueError):
                        answer = json.loads(sock.recv(1 << 20))
                if "machinery" in answer:
                    dismiss(sock, True)
                    tries[number] += 1
                    if tries[number] < ATTEMPTS:
                        waiting.appendleft(number)
                        continue
                    answer = {"passed": None, "status": "machinery", "tests_passed": 0, "tests_total": 0,
                              "detail": answer["machinery"], "seconds": 0.0, "public_passed": None, "output_digest": None}
                elif waiting:
                    begin(sock)
                else:
                    dismiss(sock, False)
                yield jobs[number][1], answer
    finally:
        for sock in list(team):
            dismiss(sock, True)


def digest_of_tests(problem, options):
    """Changes when the verdict could: a row labelled by other tests or options is not taken for done."""
    judged = [problem.get(name) for name in ("entry_point", "public_tests", "tests", "setup", "libs", "time_limit")]
    judged += [options[name] for name in ("compare", "scale", "memory_mb", "site_packages")]
    return hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:12]


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Run candidate programs in a sandbox and label them.")

    def add(flag, help, default=None, **more):
        parser.add_argument(flag, default=default, help=help + (f" (default: {default})" if default else ""), **more)

    add("--problems", nargs="+", help="problems (JSONL); without it, those of the tiny world")
    add("--candidates", help="candidates (JSONL); without it, runs/tiny/candidates.jsonl or, if you have none, the repository's")
    add("--out", help="labelled rows, without it runs/tiny/labelled.jsonl; a second run adds only what is missing")
    add("--split", nargs="+", help="only problems of these splits")
    add("--shard", default="0/1", metavar="I/N", help="only every N-th problem, starting at I; the outputs can be concatenated")
    add("--jobs", type=int, default=os.cpu_count(), help="candidates run at the same time")
    add("--timeout-scale", type=float, default=1.0, help="multiply every time limit, for slow machines")
    add("--memory-mb", type=int, default=1024, help="address space of each process of a candidate")
    add("--compare", choices=("benchmark", "exact", "tolerant"), default="benchmark", help="how outputs are compared")
    add("--site-packages", action="store_true", help="candidates may import what is installed here (numpy, ...)")
    add("--without", f"switch off layers of isolation ({', '.join(LAYERS)})", [], nargs="+", choices=LAYERS, metavar="LAYER")
    add("--self-check", action="store_true", help="try to break out; print what holds on this machine")
    add("--benchmark", action="store_true", help="measure executions per second and what each layer costs")
    settings = parser.parse_args(arguments)
    shard = re.fullmatch(r"(\d+)/([1-9]\d*)", settings.shard)
    for good, complaint in (
            (settings.jobs >= 1, "--jobs must be at least 1"), (settings.timeout_scale > 0, "--timeout-scale must be above 0"),
            (settings.memory_mb >= 64, "--memory-mb must be at least 64"),
            (shard and int(shard[1]) < int(shard[2]), "--shard must be I/N with 0 <= I < N, for example 0/4")):
        if not good:
            parser.error(complaint)
    settings.shard = int(shard[1]), int(shard[2])
    return settings


def read_jobs(settings):
    """Returns ([(problem, candidate)], all candidates of the file, its path)."""
    paths = settings.problems or [rows.TINY / "problems_weak.jsonl", rows.TINY / "problems_strong.jsonl"]
    source = settings.candidates or rows.stage_input("candidates.jsonl")
    settings.out = settings.out or str(rows.ROOT / "runs" / "tiny" / "labelled.jsonl")
    problems, where = rows.read_problems(paths), " ".join(map(str, paths))
    candidates = rows.read_rows(source, rows.CANDIDATE, key=("problem_id", "candidate_id"))
    print(f"problems:   {where}\ncandidates: {source}\nlabelled:   {settings.out}")
    mine, jobs = set(list(problems)[settings.shard[0]::settings.shard[1]]), []
    for candidate in candidates:
        problem = problems.get(candidate["problem_id"])
        if problem is None:
            raise rows.RowError(f"{source}: candidate {candidate['candidate_id']!r} is for problem {candidate['problem_id']!r}, "
                                f"which is not in {where}; add its file to --problems")
        if (not settings.split or problem["split"] in settings.split) and problem["problem_id"] in mine:
            jobs.append((problem, candidate))
    if not jobs:
        splits = ", ".join(sorted({problem["split"] for problem in problems.values()}))
        chosen = f"in --split {' '.join(settings.split)}" if settings.split else "to run"
        raise rows.RowError(f"{source}: no candidates {chosen}; the problems' splits are {splits}")
    for problem in {problem["problem_id"]: problem for problem, _ in jobs}.values():
        rows.check_tests(problem, where)
    return jobs, candidates, source


def run(settings, options):
    """Labels what is not labelled yet, reports, and returns the exit status."""
    import shlex
    jobs, candidates, source = read_jobs(settings)
    prctl(DUMPABLE, 0)
    order = {(row["problem_id"], row["candidate_id"]): (position, row) for position, row in enumerate(candidates)}
    digests = {problem["problem_id"]: digest_of_tests(problem, options) for problem, _ in jobs}

    def is_done(row):  # the same tests have judged the same candidate; machinery failures get another chance
        return (row.get("status") != "machinery" and order[out.key_of(row)][1].items() <= row.items()
                and row.get("tests_digest") == digests.get(row["problem_id"], row.get("tests_digest")))

    with rows.Appender(settings.out, ("problem_id", "candidate_id")) as out:
        old = rows.read_rows(settings.out)
        strange = [row for row in old if out.key_of(row) not in order]
        if strange:
            raise rows.RowError(f"--out {settings.out}: {len(strange)} of its rows (the first: {out.key_of(strange[0])}) are not in "
                                f"{source}; choose another --out, or remove the file if its labels are no longer wanted")
        if stale := out.keep(is_done):
            print(f"{stale} rows of {settings.out} are labelled again: their candidate or its tests have changed, or the machinery failed")
        todo = [(problem, candidate) for problem, candidate in jobs if out.key_of(candidate) not in out.done]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are already labelled")
        try:
            from tqdm import tqdm
            tqdm.monitor_interval, counts = 0, collections.Counter()  # no thread: we fork
            with tqdm(total=len(todo), unit="program", disable=not todo, smoothing=0.05) as bar:
                for candidate, answer in label(todo, options, settings.jobs):
                    out.append({**candidate, **answer, "tests_digest": digests[candidate["problem_id"]]})
                    counts[answer["passed"]] += 1
                    bar.set_postfix(passed=counts[True], failed=counts[False], null=counts[None], refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            print(f"\nstopped; nothing is lost. To continue: python {shlex.join(sys.argv)}", file=sys.stderr)
            return 130
    labelled = sorted(rows.read_rows(settings.out), key=lambda row: order[out.key_of(row)][0])
    rows.write_rows(settings.out, labelled)
    wanted = {out.key_of(candidate) for _, candidate in jobs}
    return report([row for row in labelled if out.key_of(row) in wanted], settings)


def report(labelled, settings):
    """A table by policy, and the command to run next. Returns the exit status."""
    count, firsts = collections.Counter(row["status"] for row in labelled), {row["status"]: row["detail"] for row in labelled[::-1]}
    names = [name for name in ("passed", *FAILURES, "missing_dependency", "machinery") if count[name]]
    policies = sorted({row["policy"] for row in labelled})
    print(f"\n{'policy':24}{'programs':>10}" + "".join(f"{name:>20}" for name in names))
    for policy in policies + ["all"] * (len(policies) > 1):
        mine = [row for row in labelled if policy in ("all", row["policy"])]
        print(f"{policy:24}{len(mine):10}" + "".join(f"{sum(row['status'] == name for row in mine):20}" for name in names))
    if count["missing_dependency"]:
        print(f"\n{count['missing_dependency']} programs have no label: {firsts['missing_dependency']} "
              "(--site-packages lets candidates use what is installed here)")
    if count["machinery"]:
        print(f"\n{count['machinery']} programs have no label, because the sandbox failed ({firsts['machinery']}). Run the same command "
              "again to retry them; python execute.py --self-check says what works here.", file=sys.stderr)
        return 1
    problems = f" --problems {' '.join(settings.problems)}" if settings.problems else ""
    print(f"\nnext: python train_bilevel.py{problems}" + (f" --labelled {settings.out}" if problems else ""))
    return 0


@contextlib.contextmanager
def scratch_folder():
    """A folder for what candidates write where they have no private file tree. Cleans up after killed runs, too."""
    import tempfile

    def remove(path):
        with contextlib.suppress(OSError):
            empty(path)
            os.rmdir(path)

    for entry in os.scandir(tempfile.gettempdir()):
        match = re.fullmatch(r"judge-execute-(\d+)-\w+", entry.name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            remove(entry.path)
    folder = tempfile.mkdtemp(prefix=f"judge-execute-{os.getpid()}-")
    os.chmod(folder, 0o711)
    try:
        yield folder
    finally:
        remove(folder)


def main(arguments=None):
    settings = parse_arguments(arguments)
    sys.set_int_max_str_digits(50000)  # as LiveCodeBench: its tests hold long integers
    if sys.platform != "linux" or MACHINE not in ("x86_64", "aarch64"):
        raise SystemExit("execute.py needs Linux on x86_64 or aarch64; on other systems run it in a Linux container")
    if settings.site_packages and sys.prefix.startswith("/tmp/") and "namespaces" not in settings.without:
        raise SystemExit(f"--site-packages: the packages of this Python lie in /tmp ({sys.prefix}), where candidates get a folder of "
                         "their own; use a virtual environment elsewhere, or add --without namespaces")
    options = {"compare": settings.compare, "scale": settings.timeout_scale, "memory_mb": settings.memory_mb,
               "site_packages": bool(settings.site_packages), "without": settings.without}
    with scratch_folder() as options["scratch"]:
        if settings.self_check or settings.benchmark:
            sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "docs"))
            import bench_execute
            return (bench_execute.self_check if settings.self_check else bench_execute.benchmark)(options)
        return run(settings, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--zygote"]:
        zygote(socket.socket(fileno=int(sys.argv[2])), json.loads(sys.argv[3]))
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of a set in a benchmark's test must not differ from run to run
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
