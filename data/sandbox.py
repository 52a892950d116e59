"""The other side of execute.py's wall: everything here runs where a candidate can see it, and knows no expected value.

    zygote      a fresh Python that shuts itself off from the machine, once, and then forks for every run
    candidate   one fork: runs a program, or answers requests about it

What holds a candidate, from the outside in: namespaces of its own with a read-only file tree, an unprivileged user, a filter
of system calls, resource limits, an environment of six harmless variables. A run costs a fork, and its end is one kill(-1), which nothing
survives, since the zygote is process 1 of its pid namespace. A layer that this machine does not allow is reported, never
silently missing. What is *not* protected against stands in execute.py.

The referee (execute.py) sends jobs by marshal, which is exact and fast, and never reads any: what comes back is JSON.
"""
import atexit
import builtins
import collections
import contextlib
import ctypes
import gc
import importlib.util
import io
import itertools
import json
import marshal
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
import types

MAX_OUTPUT = 16 << 20  # bytes of one output
MAX_FILES = "size=64m,nr_inodes=4096"  # what a candidate may write: a memory file system of its own
MAX_PROCESSES = 64
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
        scalar = kind.__module__ == "numpy" and value.shape == ()  # which is == to the Python number
        return pack(value.item(), room, depth + 1) if scalar else {"opaque": str(kind.__name__)}
    items = ((value.real, value.imag) if base is complex else (value.start, value.stop, value.step) if base is range else
             map(list, dict.items(value)) if base is dict else map(list, value) if base is VIEWS[2] else
             base.__iter__(value) if base else value)
    items = list(itertools.islice(items, room[0] // 4 + 1))  # an iterator may be endless
    spend(4 * len(items))
    narrow = set(map(type, items)) == {int} and -WIDE < min(items) and max(items) < WIDE  # most lists are: no need to look further
    content = items if narrow else [pack(item, room, depth + 1) for item in items]
    return content if base is list else {base.__name__ if base else "iterator": content}


def short_range(body):
    if len(range(*body)) > 1 << 20:  # sum() of a longer one would hold up the referee, deaf to its alarm
        raise OutputLimit("the range is too long")
    return range(*body)


# Sets and dicts are filled item by item, so that the referee's alarm can interrupt one whose hashes collide.
BUILD = {"int": lambda body: int(body, 16), "tuple": tuple, "iterator": iter, "set": lambda body: {item for item in body},
         "frozenset": lambda body: frozenset({item for item in body}), "dict": lambda body: {key: item for key, item in body},
         "bytes": bytes.fromhex, "bytearray": bytearray.fromhex, "complex": lambda body: complex(*body),
         "range": short_range, "dict_keys": lambda body: {item: None for item in body}.keys(),
         "dict_values": lambda body: dict(enumerate(body)).values(),
         "dict_items": lambda body: {key: item for key, item in body}.items(), "opaque": Opaque}


def unpack(wire, depth=0):
    """The inverse of pack."""
    if depth > 400:
        raise OutputLimit("the value is nested too deeply")
    if type(wire) is list:
        return wire if {list, dict}.isdisjoint(map(type, wire)) else [unpack(item, depth + 1) for item in wire]
    if type(wire) is not dict:
        return wire
    (tag, body), = wire.items()
    return BUILD[tag](unpack(body, depth + 1))


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
SYSCALLS = {  # x86_64, aarch64; the first seven are looked into (five of them only without namespaces), the others refused
    "prlimit64": (302, 261), "socket": (41, 198), "fcntl": (72, 25), "ioctl": (16, 29), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "setsid": (112, 157), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "mount": (165, 40), "umount2": (166, 39), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438), "unshare": (272, 97),
    "setns": (308, 268), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "open_tree": (428, 428), "open_tree_attr": (467, 467), "move_mount": (429, 429),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "pivot_root": (155, 41), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "setpriority": (141, 140)}
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
    """A network, processes, mounts and shared memory of one's own, from here on.

    Root has them for the asking, others only together with a user namespace: full rights over what is made in there, none
    over anything else. proc: the machine's /proc; user: the candidates' number.
    """
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
    here = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    for path in sorted({here} | shown | devices | set(filter(os.path.exists, ("/bin", "/sbin", "/lib", "/lib32", "/lib64")))):
        if path == here and path not in shown:
            if os.path.isdir(root + path):  # the project lies inside of what is shown
                system("mount", "tmpfs", root + path, "tmpfs", NOSUID | NODEV, "mode=755,size=64k")
        elif os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif not os.path.exists(root + path):
            open(root + path, "w").close() if path in devices else os.makedirs(root + path)
            system("mount", path, root + path, None, BIND | REC, None)
    os.symlink("/tmp", root + "/dev/shm")
    for name, text in (("passwd", f"nobody:x:{user}:65534::/tmp:/bin/sh\n"), ("hosts", "127.0.0.1 localhost\n")):
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
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
    LOAD, EQUAL, AT_LEAST, RETURN, ALLOW, EPERM, PRETEND = 0x20, 0x15, 0x35, 0x06, 0x7FFF0000, 0x50001, 0x50000
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[MACHINE]), (RETURN, 0, 0, EPERM),
            (LOAD, 0, 0, 0), (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, EPERM)]  # nor another architecture's calls

    def when(name, argument, values, then, otherwise):
        checks = [step for value in values for step in ((EQUAL, 0, 1, value), (RETURN, 0, 0, then))]
        code.extend([(EQUAL, 0, len(checks) + 2, NUMBER[name]), (LOAD, 0, 0, 16 + 8 * argument), *checks, (RETURN, 0, 0, otherwise)])

    for name in list(SYSCALLS)[7:]:  # nice() does nothing: the zygote's priority is the next candidate's
        code += [(EQUAL, 0, 1, NUMBER[name]), (RETURN, 0, 0, PRETEND if name == "setpriority" else EPERM)]
    when("prlimit64", 0, [0], ALLOW, EPERM)  # limits of itself
    when("socket", 0, [socket.AF_UNIX] if process else [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK], ALLOW, EPERM)
    if process:
        for name in ("kill", "tkill", "tgkill"):
            when(name, 0, [process], ALLOW, EPERM)
        when("fcntl", 1, [8, 15], EPERM, ALLOW)  # F_SETOWN, F_SETOWN_EX and FIOSETOWN, SIOCSPGRP: who gets a file's signals
        when("ioctl", 1, [0x8901, 0x8902], EPERM, ALLOW)
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

    os.umask(0o022)  # whatever the user's is, candidates shall be able to read the tree
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

def zygote(control, options):
    """Forks for every run that the referee asks for, ends it when told to, and says how it ended."""
    for name in options["preload"]:
        __import__(name)
    die_with(options["parent"])
    sys.argv[1:] = []
    layers, folder, proc = isolate(options)
    os.chdir(folder)
    place = os.open(".", os.O_RDONLY)
    room = os.statvfs(place).f_bfree
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
                control.send(json.dumps([name for name in json.loads(message) if not importlib.util.find_spec(name.partition(".")[0])]).encode())
            continue
        pid = libc.fork()  # os.fork() would spend half as much again on tidying up after threads, of which there are none
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
        os.fchmod(place, 0o700)
        empty(".")
        if layers["namespaces"]:  # a candidate can take the folder away
            fit = os.path.lexists(folder) and os.path.samestat(os.fstat(place), os.lstat(folder))
        else:  # files that travel in sockets stay a while, and fill it
            fit = os.statvfs(place).f_bfree >= room
        control.send(json.dumps([code, fit]).encode())
        if not fit:  # the next candidate gets another zygote
            while control.recv(100):  # a "kill" that came too late, left unread, would reset the socket: the answer would be lost
                pass
            os._exit(0)


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
    """rm -r of what is in a folder, also where a candidate took the rights from its folders or made paths too long to name.

    A folder in a folder is moved up before it is emptied, so no path grows; no link is followed.
    """
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
    module = sys.modules[name] = types.ModuleType(name)
    for label in ("setup", "code"):
        if job[label]:
            try:
                program = compile(job[label], f"<{label}>", "exec", dont_inherit=True)
            except BaseException as error:
                raise CompileError(describe(error)) from None
            exec(program, module.__dict__)
    return vars(sys.modules.get(name, module))


def run_program(job):
    """A stdin program, from its first line to what Python does after the last."""
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
    for last in (threading._shutdown, atexit._run_exitfuncs):  # waits for threads, as Python does
        with contextlib.suppress(BaseException):
            last()
    for stream in (sys.stdout, sys.__stdout__, *(thing for thing in gc.get_objects() if isinstance(thing, (io.TextIOWrapper, io.BufferedWriter)))):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def converse(job, wire):
    """A candidate that answers requests, a JSON line each: those of the job and, but for `call` tests, what comes after them."""
    getpid, leave, write, dumps, me, pristine, functions = os.getpid, os._exit, os.write, json.dumps, os.getpid(), {}, {}
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
        if isinstance(thing, types.ModuleType):
            return {"module": thing.__name__}
        if callable(thing) and not isinstance(thing, type):
            return {"function": name}
        return {"value": pack(thing, [MAX_OUTPUT // 4])}

    def perform(request):
        if "name" in request:
            return kind(request["name"])
        if "token" in request:
            return run_inside(request, namespace, pristine)
        name, args = request["call"], request["args"]
        if name not in functions:
            functions[name] = find(name)
        value = functions[name](*args, **request["kwargs"])
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
        if getpid() != me:  # a fork of the candidate does not get to speak for it
            leave(1)
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


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):  # the referee is gone
        zygote(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
