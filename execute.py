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
A problem may add `setup` (source run before the candidate's), `time_limit` (seconds a test), `libs` (modules
its tests need). Public and hidden tests both count. A `stdin` problem stops at its first hidden failure, so
there tests_passed says how far it came. Calls are made in a shuffled order.

Four kinds of process, each started by the one before:

    supervisor   reads and writes rows                                         one
    referee      knows the expected values, compares                           one for each job slot
    zygote       knows no expected value; shut off from the machine; forks     one for each referee
    candidate    one fresh fork for every candidate (every test, for stdin)

What comes back from a candidate is data in exact builtin types, rebuilt by the referee from JSON, so an object
that claims to equal everything, a patched builtin or a forged message gains nothing: only right outputs are
right. `assert` tests run in the referee as well, against stand-ins for the candidate's functions. The exceptions
are `unittest` tests and the few asserts marked "inside": they run beside the candidate, after the patches that
it could have made are undone and with planted tests that must fail. That stops careless cheating, not a program
written against this file.

NOT protected against: bugs of the kernel; timing and other side channels; exhausting the machine's memory with
many processes (the limit is per process, 64 processes a run); reading the Python library and /usr; and, where
`python execute.py --self-check` says that a layer is missing, what that layer is for.

The semantics of a `call` are those of ==: True == 1 == 1.0, nan equals nothing, integers are exact at any size.
JSON has no tuples, so a tuple returned at the top equals the list of its items, as in LiveCodeBench; nested
ones do not. --compare exact tells types apart; --compare tolerant forgives 1e-6 and nested tuples.
"""
import argparse
import ast
import builtins
import contextlib
import ctypes
import hashlib
import json
import math
import os
import random
import re
import signal
import socket
import struct
import sys
import time
from decimal import Decimal, InvalidOperation

LIMITS = {"call": 6.0, "stdin": 6.0, "assert": 6.0, "unittest": 240.0}  # seconds a test; LiveCodeBench's, BigCodeBench's
MAX_SOURCE = 1 << 20  # bytes of a candidate's code
MAX_OUTPUT = 16 << 20  # bytes of one output
MAX_FILES = "size=64m,nr_inodes=4096"  # what a candidate may write: a memory file system of its own
MAX_PROCESSES = 64
ATTEMPTS = 3  # for the machinery; a candidate gets one
FIELDS = {"call": ("args", "expected"), "stdin": ("input", "output"), "assert": ("source",), "unittest": ("source",)}
FAILURES = ("wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit", "compile_error")
LAYERS = ("user", "net", "ipc", "mount", "pid", "uid", "seccomp")
EXIT_COMPILE, EXIT_MEMORY = 81, 82  # how a stdin program's wrapper says what went wrong; a forged one still fails


# ---------------------------------------------------------------- values and messages between the processes

class OutputLimit(Exception):
    """A value or a message is too large or too deep."""


class Opaque:
    """Stands for a value that is no builtin type. It equals nothing but itself."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<{self.name} object>"


def pack(value, room, depth=0):
    """A value as JSON: builtin types only, what is not a plain JSON value under a tag; room: [bytes left].

    Subclasses are read through their builtin base, so that overridden methods have no say.
    """
    room[0] -= 4
    if room[0] < 0 or depth > 200:
        raise OutputLimit("the value is too large or nested too deeply")
    kind, deeper = type(value), depth + 1
    if value is None or kind is bool:
        return value
    if issubclass(kind, int):
        value = int.__pos__(value)
        room[0] -= value.bit_length() >> 2
        return value if -1 << 63 < value < 1 << 63 else {"int": hex(value)} if room[0] >= 0 else pack(0, room)
    if issubclass(kind, float):
        return float.__pos__(value)
    if issubclass(kind, str):
        value = str.__str__(value)
        room[0] -= len(value)
        return value if room[0] >= 0 else pack(0, room)
    if issubclass(kind, list):
        return [pack(item, room, deeper) for item in list.__iter__(value)]
    if issubclass(kind, dict):
        return {"dict": [[pack(key, room, deeper), pack(item, room, deeper)] for key, item in dict.items(value)]}
    for base in (tuple, set, frozenset):
        if issubclass(kind, base):
            return {base.__name__: [pack(item, room, deeper) for item in base.__iter__(value)]}
    for base in (bytes, bytearray):
        if issubclass(kind, base):
            room[0] -= 2 * base.__len__(value)
            return {base.__name__: base.hex(value)} if room[0] >= 0 else pack(0, room)
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [pack(part, room, deeper) for part in (value.start, value.stop, value.step)]}
    if kind in (type({}.keys()), type({}.values()), type({}.items())):
        return {kind.__name__: [pack(item, room, deeper) for item in value]}
    if hasattr(kind, "__next__"):
        return {"iterator": [pack(item, room, deeper) for item in value]}
    return {"opaque": str(kind.__name__)}


def unpack(wire):
    """The inverse of pack. The sets are filled item by item so that the referee's alarm can interrupt it."""
    if type(wire) is list:
        return [unpack(item) for item in wire]
    if type(wire) is not dict:
        return wire
    (tag, body), = wire.items()
    if tag == "int":
        return int(body, 16)
    if tag in ("tuple", "iterator"):
        return (tuple if tag == "tuple" else iter)([unpack(item) for item in body])
    if tag == "dict":
        return {unpack(key): unpack(item) for key, item in body}
    if tag in ("set", "frozenset"):
        filled = {unpack(item) for item in body}
        return filled if tag == "set" else frozenset(filled)
    if tag in ("bytes", "bytearray"):
        return getattr(builtins, tag).fromhex(body)
    if tag == "complex":
        return complex(*body)
    if tag == "range":
        return range(*map(unpack, body))
    if tag == "dict_keys":
        return {unpack(item): None for item in body}.keys()
    if tag == "dict_values":
        return dict(enumerate(map(unpack, body))).values()
    if tag == "dict_items":
        return dict(map(unpack, body)).items()
    return Opaque(str(body))


def send(sock, message, descriptors=(), most=1 << 30):
    data = json.dumps(message).encode()
    if len(data) > most:
        raise OutputLimit("the answer is too large")
    data = struct.pack("!I", len(data)) + data
    sent = socket.send_fds(sock, [data], descriptors) if descriptors else 0
    sock.sendall(data[sent:])


def receive(sock, most=MAX_OUTPUT, descriptors=None):
    """One message; EOFError at the end. The buffer grows with what arrives, not with what is announced."""
    buffer, size = bytearray(), 4
    while len(buffer) < size:
        wanted = min(size - len(buffer), 1 << 20)
        if descriptors is not None and not buffer:
            data, fds, _, _ = socket.recv_fds(sock, wanted, 8)
            descriptors += fds
        else:
            data = sock.recv(wanted)
        if not data:
            raise EOFError("the other side is gone")
        buffer += data
        if size == 4 and len(buffer) == 4:
            size = 4 + struct.unpack("!I", buffer)[0]
            if size - 4 > most:
                raise OutputLimit("the answer is too large")
    return json.loads(buffer[4:])


def describe(error):
    """One line about an exception, without addresses (they differ from run to run)."""
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
    text = re.sub(r"0x[0-9a-fA-F]{6,}", "0x...", " ".join(text[:4 * most].split()))
    return text if len(text) <= most else text[:most - 3] + "..."


# ---------------------------------------------------------------- the zygote: layers of isolation

libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter's lock across clone()
NEW = {"mount": 0x20000, "ipc": 0x08000000, "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000}  # CLONE_NEW*
MACHINE = os.uname().machine
SYSCALLS = {  # x86_64, aarch64
    "clone": (56, 220), "pivot_root": (155, 41), "socket": (41, 198), "kill": (62, 129), "tkill": (200, 130),
    "tgkill": (234, 131), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "mount_setattr": (442, 442), "clone3": (435, 435), "pidfd_open": (434, 434),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)}
NUMBER = {name: numbers[MACHINE == "aarch64"] for name, numbers in SYSCALLS.items()}
REFUSED = [name for name in SYSCALLS if name not in ("clone", "clone3", "socket", "kill", "tkill", "tgkill")]
PDEATHSIG, DUMPABLE, NO_NEW_PRIVS, SECCOMP, SUBREAPER = 1, 4, 38, 22, 36  # prctl()'s names for them


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), what)
    return result


def prctl(option, value, *more):
    check(libc.prctl(option, ctypes.c_ulong(value), *(more or (0, 0, 0))), f"prctl {option}")


def mount(source, target, kind=None, flags=0, data=None):
    names = [text and text.encode() for text in (source, target, kind)]
    check(libc.mount(*names, ctypes.c_ulong(flags), data and data.encode()), f"mount {target}")


def unshare(*names):
    check(libc.unshare(sum(NEW[name] for name in names)), f"unshare {' '.join(names)}")


def in_child(action):
    """Does a thing in a fork, to see whether it can be done."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def own_user_namespace(proc):
    uid, gid = os.geteuid(), os.getegid()
    unshare("user")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        fd = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(fd, text.encode())
        os.close(fd)


def loopback_up():
    import fcntl
    with socket.socket() as sock:  # SIOCSIFFLAGS with IFF_UP
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))


def private_root():
    """A file tree with the Python library and /usr, read-only, an empty /tmp, and nothing else of this machine."""
    BIND, REC, PRIVATE, NOSUID, NODEV, DETACH = 0x1000, 0x4000, 0x40000, 2, 4, 2
    mount(None, "/", None, REC | PRIVATE)
    new = "/proc"  # any directory that is always there and no longer needed will do as the place to build it
    shown = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, "/usr")}  # without --site-packages, both prefixes are the same
    if any(f"{path}/".startswith("/tmp/") for path in shown):
        raise OSError(0, f"this Python lies in /tmp ({sys.prefix}), where candidates get a folder of their own")
    shown |= {path for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64") if os.path.isdir(path)}
    links = {path: os.readlink(path) for path in shown if os.path.islink(path)}
    mount("tmpfs", new, "tmpfs", NOSUID | NODEV, "mode=755,size=1m")
    for path in sorted(shown - set(links)):
        if not os.path.isdir(new + path):
            os.makedirs(new + path)
            mount(path, new + path, None, BIND | REC)
    for path, target in links.items():
        os.symlink(target, new + path)
    for name in ("null", "zero", "full", "random", "urandom"):
        os.makedirs(new + "/dev", exist_ok=True)
        open(f"{new}/dev/{name}", "w").close()
        mount(f"/dev/{name}", f"{new}/dev/{name}", None, BIND)
    os.makedirs(new + "/tmp", exist_ok=True)
    os.symlink("/tmp", new + "/dev/shm")
    os.makedirs(new + "/etc")
    with open(new + "/etc/passwd", "w") as file:
        file.write(f"nobody:x:{os.geteuid() or 65534}:65534::/tmp:/bin/sh\n")
    with open(new + "/etc/hosts", "w") as file:
        file.write("127.0.0.1 localhost\n")
    here = os.path.dirname(os.path.realpath(__file__))
    if os.path.isdir(new + here):  # the project lies inside of what is shown
        mount("tmpfs", new + here, "tmpfs", NOSUID | NODEV, "mode=755,size=4k")
    os.chdir(new)
    check(libc.syscall(NUMBER["pivot_root"], b".", b"."), "pivot_root")
    check(libc.umount2(b".", DETACH), "umount of the old root")
    os.chdir("/")
    # struct mount_attr: set RDONLY | NOSUID on everything below / (AT_RECURSIVE). /dev's files stay devices.
    attributes = struct.pack("QQQQ", 1 | 2, 0, 0, 0)
    check(libc.syscall(NUMBER["mount_setattr"], -100, b"/", 0x8000, attributes, len(attributes)), "mount_setattr")


def seccomp_filter(layers):
    """A BPF program that refuses what no candidate needs: a small second wall behind the namespaces."""
    LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
    ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[MACHINE]),
            (RETURN, 0, 0, EPERM), (LOAD, 0, 0, 0), (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, EPERM)]
    for name in REFUSED:
        code += [(EQUAL, 0, 1, NUMBER[name]), (RETURN, 0, 0, EPERM)]
    # glibc falls back to clone(), whose flags a filter can see: no new namespaces
    code += [(EQUAL, 0, 1, NUMBER["clone3"]), (RETURN, 0, 0, ENOSYS)]
    code += [(EQUAL, 0, 4, NUMBER["clone"]), (LOAD, 0, 0, 16), (ANY_BIT, 0, 1, sum(NEW.values())), (RETURN, 0, 0, EPERM),
             (RETURN, 0, 0, ALLOW)]
    if layers["net"]:  # no network of its own: only unix sockets
        code += [(EQUAL, 0, 4, NUMBER["socket"]), (LOAD, 0, 0, 16), (EQUAL, 0, 1, socket.AF_UNIX), (RETURN, 0, 0, ALLOW),
                 (RETURN, 0, 0, EPERM)]
    if layers["pid"]:  # it can see other processes: only signals to itself
        for name in ("kill", "tkill", "tgkill"):
            code += [(EQUAL, 0, 4, NUMBER[name]), (LOAD, 0, 0, 16), (EQUAL, 0, 1, os.getpid()), (RETURN, 0, 0, ALLOW),
                     (RETURN, 0, 0, EPERM)]
    code.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def install_filter(program):
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    prctl(SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(header)), 0, 0)


def isolate(without, proc):
    """Shuts this process, and so all of its children, off from the machine.

    Returns {layer: None if it holds, else why not}. proc: the machine's /proc, opened before it disappears.
    """
    layers, root = {}, os.geteuid() == 0

    def layer(name, action, needs=()):
        lost = [need for need in needs if layers[need]]
        try:
            if name in without or lost:
                raise OSError(0, "switched off" if name in without else f"needs the layer '{lost[0]}'")
            action()
            layers[name] = None
        except (OSError, KeyError) as error:
            layers[name] = getattr(error, "strerror", None) or f"not known on {MACHINE}"

    layer("user", lambda: in_child(lambda: unshare("user")))
    if not root and not layers["user"]:
        layer("user", lambda: own_user_namespace(proc))
    needs = () if root else ("user",)
    layer("net", lambda: (unshare("net"), loopback_up()), needs)
    layer("ipc", lambda: unshare("ipc"), needs)
    layer("mount", lambda: (in_child(lambda: (unshare("mount"), private_root())), unshare("mount"), private_root()), needs)
    if root and not layers["user"]:  # as nobody, in a namespace of nobody's own: root outside is out of reach
        readable = lambda: (os.setresuid(65534, 65534, 65534), open(os.__file__).close())
        layer("uid", lambda: in_child(readable))
        if not layers["uid"]:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
        prctl(DUMPABLE, 1)  # for as long as it takes to write the map
        own_user_namespace(proc)
    elif root:  # no user namespace: every candidate becomes a user that nobody else is
        layer("uid", lambda: in_child(lambda: (os.setresuid(65534, 65534, 65534), open(os.__file__).close())))
    else:
        layers["uid"] = None
    layer("pid", lambda: in_child(lambda: unshare("pid")), needs)
    layer("seccomp", lambda: in_child(lambda: (prctl(NO_NEW_PRIVS, 1), install_filter(seccomp_filter({"net": 1, "pid": 1})))))
    prctl(DUMPABLE, 0)
    prctl(PDEATHSIG, signal.SIGKILL)  # changing the user has cleared it
    return layers


def zygote(descriptor, options):
    """Forks for every run that the referee asks for, ends it when told to, and says how it ended."""
    import gc
    import select
    import shutil
    for name in PRELUDE_MODULES:
        __import__(name)
    die_with_parent(options)
    sock = socket.socket(fileno=descriptor)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    prctl(SUBREAPER, 1)
    layers = isolate(options["without"], proc)
    with open(os.open("self/statm", os.O_RDONLY, dir_fd=proc)) as file:
        mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    sandbox = {"layers": layers, "memory": mapped + (options["memory_mb"] << 20), "proc": proc,
               "root": os.geteuid() == 0 and layers["user"], "user": 100000 + os.getpid() % 100000, "processes": MAX_PROCESSES}
    if layers["user"] and not sandbox["root"]:  # NPROC counts all of the user's processes on this machine
        for name in filter(str.isdigit, os.listdir(proc)):
            with contextlib.suppress(OSError):
                sandbox["processes"] += 4 * (os.stat(name, dir_fd=proc).st_uid == os.getuid())  # 4: they may have threads
    builtins.exit = builtins.quit = sys.exit  # as `site` would have it
    if not layers["seccomp"]:  # the same for every run, unless it must name the run's process
        sandbox["filter"] = None if layers["pid"] else seccomp_filter(layers)
    sys.executable = getattr(sys, "_base_executable", sys.executable)  # the virtual environment's is not visible
    gc.collect()
    gc.freeze()
    send(sock, {"layers": layers})
    flags = sum(NEW[name] for name in ("pid", "mount") if not layers[name])
    while True:
        descriptors = []
        try:
            job = receive(sock, 1 << 30, descriptors)
        except EOFError:
            os._exit(0)
        if job.get("kill"):  # it came too late
            continue
        if job.get("find"):
            send(sock, {"missing": [name for name in job["find"] if not importable(name)]})
            continue
        if layers["mount"]:
            job["directory"] = os.path.join(options["scratch"], str(os.getpid()))
            os.mkdir(job["directory"], 0o700)
        reader, alive = os.pipe()  # only the run holds the writing end: end of file means that it is over
        pid = check(libc.syscall(NUMBER["clone"], flags | signal.SIGCHLD, 0, 0, 0, 0), "clone")
        if pid == 0:
            sock.close()
            os.close(reader)
            init(job, descriptors, alive, sandbox)
        for fd in (*descriptors, alive):
            os.close(fd)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(sock, select.POLLIN)
        ready = dict(poll.poll())
        if reader not in ready:
            os.kill(pid, signal.SIGKILL)
        trouble = os.read(reader, 1000).decode(errors="replace")
        os.close(reader)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code < 0 and reader in ready and not layers["pid"]:  # nothing in there can kill its init
            trouble = trouble or f"the run's init was killed by signal {-code}"
        if layers["pid"]:
            sweep(proc)
        if layers["mount"]:
            make_removable(job["directory"])
            shutil.rmtree(job["directory"], ignore_errors=True)
        send(sock, {"trouble": trouble} if trouble else {"code": code if code < 128 else 128 - code})


def sweep(proc):
    """Without a pid namespace, what a candidate left running has become a child of ours: end it all."""
    while True:
        for name in os.listdir(proc):
            if name.isdigit():
                with contextlib.suppress(OSError), open(os.open(f"{name}/stat", os.O_RDONLY, dir_fd=proc)) as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                        os.kill(int(name), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def make_removable(directory):
    for folder, _, _ in os.walk(directory, onerror=None):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)


def init(job, descriptors, alive, sandbox):
    """Process 1 of the run's pid namespace: waits for the candidate. When it ends, the kernel ends all that is left in there."""
    try:
        prctl(PDEATHSIG, signal.SIGKILL)
        if not sandbox["layers"]["mount"]:
            mount("tmpfs", "/tmp", "tmpfs", 2 | 4, MAX_FILES + ",mode=1777")
        child = os.fork()
        if child == 0:
            candidate(job, descriptors, alive, sandbox)
        for fd in descriptors:
            os.close(fd)
        pid, status = os.wait()
        while pid != child:
            pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    except BaseException as error:
        os.write(alive, describe(error).encode())
        os._exit(1)


# ---------------------------------------------------------------- the candidate's process

PRELUDE_MODULES = """string re datetime collections heapq bisect copy math random statistics itertools functools operator io
sys json builtins typing threading atexit unittest unittest.mock types traceback decimal fractions resource""".split()


def candidate(job, descriptors, alive, sandbox):
    """The last steps of confinement, then the candidate's code. Never returns."""
    try:
        import resource
        os.setsid()
        directory = job.get("directory", "/tmp")
        if sandbox["root"]:
            user = sandbox["user"]
            if not sandbox["layers"]["uid"]:
                if "directory" in job:
                    os.chown(directory, user, user)
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
        os.chdir(directory)
        os.umask(0o077)
        cpu = math.ceil(job["cpu"])
        for name, soft, hard in (("CPU", cpu, cpu + 1), ("AS", sandbox["memory"], None), ("FSIZE", 64 << 20, None), ("CORE", 0, None),
                                 ("NOFILE", 256, None), ("NPROC", sandbox["processes"], None), ("MEMLOCK", 0, None)):
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (soft, soft if hard is None else hard))
        header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
        check(libc.capset(header, nothing), "capset")
        prctl(NO_NEW_PRIVS, 1)
        prctl(PDEATHSIG, signal.SIGKILL)
        if not sandbox["layers"]["seccomp"]:
            install_filter(sandbox["filter"] or seccomp_filter(sandbox["layers"]))
        os.environ.clear()
        os.environ.update(PATH=f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin", HOME=directory, TMPDIR=directory, LANG="C.UTF-8", TZ="UTC", USER="nobody")
        time.tzset()
        random.seed(0)  # a forked generator would repeat itself anyhow; this way it does so in every run
    except BaseException as error:
        os.write(alive, describe(error).encode())
        os._exit(1)
    if job["mode"] == "stdin":
        for target, fd in enumerate(descriptors):
            os.dup2(fd, target)
        os.closerange(3, 4096)
        run_program(job)
    empty = os.open("/dev/null", os.O_RDWR)
    for target in range(3):
        os.dup2(empty, target)
    if descriptors[0] != 3:
        os.dup2(descriptors[0], 3)
    os.closerange(4, 4096)
    converse(job, socket.socket(fileno=3))


class CompileError(Exception):
    pass


def load(job, name):
    """Runs setup and code in a fresh module called `name`; returns its namespace."""
    import types
    module = sys.modules[name] = types.ModuleType(name)
    before = os.getpid()
    for label in ("setup", "code"):
        if job[label]:
            try:
                program = compile(job[label], f"<{label}>", "exec", dont_inherit=True)
            except BaseException as error:
                raise CompileError(describe(error)) from None
            exec(program, module.__dict__)
    if os.getpid() != before:  # a fork of the candidate does not get to speak for it
        os._exit(1)
    return module.__dict__


def run_program(job):
    """A stdin program, from its first line to what Python does after the last."""
    import atexit
    import threading
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = open(number, mode, encoding="utf-8", errors="backslashreplace" if number == 2 else "surrogateescape", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
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
    with contextlib.suppress(BaseException):
        threading._shutdown()  # waits for threads, as Python does
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(code)


def converse(job, sock):
    """A candidate that answers the referee's calls, until the referee hangs up."""
    fork, wait, getpid, leave = os.fork, os.waitpid, os.getpid, os._exit
    pristine = {thing: dict(vars(thing)) for thing in pristine_things()} if job["mode"] == "inside" else {}
    namespace, functions = {}, {}

    def find(name):
        solution = namespace.get("Solution")
        if name not in functions:
            functions[name] = getattr(solution(), name) if name == job["entry_point"] and hasattr(solution, name) else namespace[name]
        return functions[name]

    def kind(name):
        thing = namespace.get(name, Opaque("missing"))
        if isinstance(thing, type(sys)):
            return {"module": thing.__name__}
        return {"function": name} if callable(thing) and not isinstance(thing, type) else {"value": pack(thing, [MAX_OUTPUT // 4])}

    def perform(request):
        if "call" in request:
            args, kwargs = unpack(request["args"]), unpack(request["kwargs"])
            before = getpid()
            if request["call"] == job["entry_point"] and request["call"] not in namespace and not hasattr(namespace.get("Solution"), request["call"]):
                raise NameError(f"the program defines no {request['call']!r}")
            value = find(request["call"])(*args, **kwargs)
            if getpid() != before:
                leave(1)
            answer = {"value": pack(value, [MAX_OUTPUT // 4])}
            if request.get("fork"):
                answer["args"] = pack(args, [MAX_OUTPUT // 4])
            return answer
        if "names" in request:
            return {"kinds": {name: kind(name) for name in request["names"]}}
        return {**run_inside(request, namespace, pristine), "token": request["token"]}

    def answer(action):
        try:
            send(sock, action(), most=MAX_OUTPUT)
        except BaseException as error:
            status = {CompileError: "compile_error", OutputLimit: "output_limit", MemoryError: "memory_limit"}.get(type(error), "runtime_error")
            send(sock, {"error": status, "type": str(type(error).__name__), "detail": describe(error)})
            return False
        return True

    if answer(lambda: namespace.update(load(job, "candidate")) or {"ready": True}):
        if "candidate" in sys.modules:
            namespace = vars(sys.modules["candidate"])
        while True:
            try:
                request = receive(sock, 1 << 30)
            except EOFError:
                break
            if request.get("fork"):  # a fresh copy for each call: nothing is remembered from the one before
                child = fork()
                if child == 0:
                    answer(lambda: perform(request))
                    leave(77)
                if os.waitstatus_to_exitcode(wait(child, 0)[1]) != 77:
                    send(sock, {"error": "runtime_error", "type": "", "detail": "the program ended before it answered"})
            else:
                answer(lambda: perform(request))
    leave(0)


def pristine_things():
    import unittest
    return [builtins, unittest.TestCase, unittest.TestLoader, unittest.TestSuite, unittest.suite.BaseTestSuite, unittest.TestResult,
            unittest.case._Outcome]


def run_inside(request, namespace, pristine):
    """Tests that must run beside the candidate: what it patched is put back, and planted tests must fail."""
    import unittest
    for thing, attributes in pristine.items():
        for name, value in attributes.items():
            if vars(thing).get(name) is not value:
                setattr(thing, name, value)
    if "assert" in request:
        for source in (request["assert"], "assert False, 'planted'"):
            planted = source != request["assert"]
            try:
                exec(compile(source, "<test>", "exec", dont_inherit=True), namespace)
            except AssertionError as error:
                if not planted:
                    return {"ran": {"assert": describe(error)}, "planted": []}
                return {"ran": {"assert": "ok"}, "planted": ["failure"]}
        return {"ran": {}, "planted": []}
    ran = []

    def record(outcome):
        return lambda self, test, *more: ran.append([test.id(), outcome + (" " + describe(more[-1][1]) if more and type(more[-1]) is tuple else "")])

    class Record(unittest.TestResult):
        addSuccess = addExpectedFailure = lambda self, test, error=None: ran.append([test.id(), "ok"])
        addFailure, addError, addSkip, addUnexpectedSuccess = map(record, ("failure", "error", "skipped", "unexpected success"))

        def addSubTest(self, test, subtest, error):
            if error:
                ran.append([test.id(), "failure " + describe(error[1])])

    class Planted(unittest.TestCase):
        def test_equal(self):
            self.assertEqual(1, 2)

        def test_true(self):
            self.assertTrue(False)

        def test_raises(self):
            with self.assertRaises(ValueError):
                pass

        def test_plain(self):
            assert len([1]) == 2

    exec(compile(request["unittest"], "<test>", "exec", dont_inherit=True), namespace)
    suite = unittest.TestSuite()
    for case in [namespace[name] for name in request["classes"]] + [Planted]:
        suite.addTests(unittest.TestLoader().loadTestsFromTestCase(case))
    result = Record()
    suite.run(result)
    planted = [outcome.split()[0] for name, outcome in ran if ".Planted." in name]
    counted = {}
    for name, outcome in ran:
        if ".Planted." not in name:
            name = ".".join(name.split(".")[-2:])
            counted[name] = outcome if name not in counted else "ran twice"
    return {"ran": counted, "planted": planted}


def importable(name):
    import importlib.util
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# ---------------------------------------------------------------- the referee: asks, compares, decides

class Machinery(Exception):
    """The sandbox failed, not the candidate."""


class TimeUp(BaseException):
    pass


class Failed(BaseException):
    """The verdict on one test. A BaseException, so that no `except` in a benchmark's test swallows it."""

    def __init__(self, status, detail, over=False):
        super().__init__(status, detail)
        self.status, self.detail, self.over = status, detail, over  # over: its process is gone, no further test can run


@contextlib.contextmanager
def alarm(seconds):
    """Raises TimeUp in whatever runs longer: the candidate's answer, the comparison, the benchmark's test."""
    def ring(*_):
        raise TimeUp
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Zygote:
    """The referee's end of its zygote."""

    def __init__(self, options):
        ours, theirs = socket.socketpair()
        self.sock, self.process = ours, start_role("zygote", options, theirs)
        theirs.close()
        self.running = False
        self.layers = self.hear()["layers"]

    def hear(self):
        try:
            return receive(self.sock)
        except (EOFError, OSError):
            raise Machinery(f"the zygote died (status {self.process.wait()})") from None

    def ask(self, message, descriptors=()):
        try:
            send(self.sock, message, descriptors)
        except OSError:
            raise Machinery(f"the zygote died (status {self.process.wait()})") from None

    def start(self, job, *descriptors):
        self.ask(job, descriptors)
        self.running = True

    def finish(self, patience=0.0):
        """Ends the run, after `patience` seconds in which it may end by itself. Returns its exit code, -n for signal n."""
        import select
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(patience * 1000):
            self.ask({"kill": True})
        ended, self.running = self.hear(), False
        if "trouble" in ended:
            raise Machinery(f"a run could not be set up: {ended['trouble']}")
        return ended["code"]


def how_it_ended(code):
    if code == -signal.SIGXCPU:
        return "time_limit", "used up its processor time"
    if code < 0:
        with contextlib.suppress(ValueError):
            return "runtime_error", f"killed by {signal.Signals(-code).name}"
    return {EXIT_COMPILE: "compile_error", EXIT_MEMORY: "memory_limit"}.get(code, "runtime_error"), f"exit status {code}"


class Conversation:
    """One candidate's process, as the referee sees it: something that answers calls."""

    def __init__(self, zygote, job, limit):
        self.zygote, self.limit, self.error, self.outputs = zygote, limit, None, []
        self.sock, theirs = socket.socketpair()
        zygote.start(job, theirs.fileno())
        theirs.close()
        try:
            with self.watch():
                self.answer()
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def watch(self):
        """A test's time limit. What the candidate does outside of its role ends the conversation."""
        try:
            with alarm(self.limit):
                yield
        except TimeUp:
            raise Failed("time_limit", f"longer than {self.limit:g} s", True) from None
        except OutputLimit as error:
            raise Failed("output_limit", str(error), True) from None
        except (EOFError, OSError):
            status, detail = how_it_ended(self.zygote.finish(0.5))
            raise Failed(status, "the program ended before it answered" + (f" ({detail})" if detail != "exit status 0" else ""), True) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Failed("runtime_error", f"not an answer ({type(error).__name__})", True) from None

    def answer(self):
        reply = receive(self.sock)
        if "error" in reply:
            self.error = reply
            raise Failed(reply["error"] if reply["error"] in FAILURES else "runtime_error", clean(str(reply["detail"])))
        return reply

    def ask(self, **request):
        send(self.sock, request)
        return self.answer()

    def call(self, name, args, kwargs, fork=False):
        reply = self.ask(call=name, args=pack(args, [1 << 30]), kwargs=pack(kwargs, [1 << 30]), fork=fork)
        return unpack(reply["value"]), reply.get("args")

    def close(self):
        self.sock.close()
        if self.zygote.running:
            self.zygote.finish()


def judge(problem, code, zygote, options):
    """All tests of one problem on one candidate. Returns the fields that a labelled row adds to it."""
    tests = [(True, test) for test in problem["public_tests"]] + [(False, test) for test in problem["tests"]]
    started, results = time.perf_counter(), [None] * len(tests)  # results: (status, detail, output), None where not run
    job = {"setup": problem.get("setup") or "", "code": code, "entry_point": problem["entry_point"]}
    limit = lambda kind: (problem.get("time_limit") or LIMITS[kind]) * options["scale"]
    refused = refuse(code)
    if problem.get("libs"):
        zygote.ask({"find": problem["libs"]})
        missing = zygote.hear()["missing"]
        if missing:
            return verdict(problem, [(None, "", None)] * len(tests), "missing_dependency", f"not installed: {', '.join(missing)}", started)
    groups = {}
    for position, (_, test) in enumerate(tests):
        groups.setdefault(test["type"] + (" inside" if test.get("inside") else ""), []).append(position)
    for kind, positions in groups.items():
        if refused:
            results = [("compile_error", refused, None)] * len(tests)
        elif kind == "stdin":
            for position in positions:
                public, test = tests[position]
                results[position] = judge_program(zygote, job, test, limit("stdin"), options["compare"])
                if results[position][0] != "passed" and not public:
                    break
        elif kind in ("call", "assert"):
            random.Random(problem["problem_id"]).shuffle(positions)  # an answer must depend on the question, not on its turn
            answers(zygote, {**job, "mode": "talk"}, tests, positions, results, limit(kind), problem, options)
        else:
            for position in positions:
                answers(zygote, {**job, "mode": "inside"}, tests, [position], results, limit(kind.split()[0]), problem, options)
    return verdict(problem, results, None, None, started)


def refuse(code):
    try:
        size = len(code.encode())
    except UnicodeEncodeError:
        return "the source is not valid Unicode"
    return f"the source is longer than {MAX_SOURCE} bytes" if size > MAX_SOURCE else None


def answers(zygote, job, tests, positions, results, limit, problem, options):
    """Call, assert and unittest rows: one process, one conversation. Fills in results[position]."""
    try:
        talk = Conversation(zygote, {**job, "cpu": limit * (len(positions) + 1)}, limit)
    except Failed as failed:
        for position in positions:
            results[position] = failed.status, failed.detail, failed.status
        return
    try:
        for position in positions:
            test = tests[position][1]
            talk.outputs, talk.error = [], None
            try:
                with talk.watch():
                    if test["type"] == "call":
                        talk.outputs.append(talk.call(problem["entry_point"], test["args"], test.get("kwargs") or {})[0])
                        if not same_value(talk.outputs[0], test["expected"], options["compare"]):
                            raise Failed("wrong_answer", f"expected {clean(repr(test['expected']), 100)}, got {clean(repr(talk.outputs[0]), 100)}")
                    elif job["mode"] == "talk":
                        run_assert(talk, test["source"], problem["entry_point"])
                    else:
                        judge_inside(talk, test)
                    results[position] = "passed", "", digestible(talk.outputs)
            except Failed as failed:
                results[position] = failed.status, failed.detail, failed.status
                if failed.over:
                    break
    finally:
        talk.close()


def run_assert(talk, source, entry_point):
    """A benchmark's assert lines, run here; every function of the candidate that they name is a stand-in."""
    def stand_in(name):
        def call(*args, **kwargs):
            try:
                value, changed = talk.call(name, list(args), kwargs, fork=True)
            except Failed as failed:
                kind = getattr(builtins, str((talk.error or {}).get("type")), None)
                if failed.over or failed.status != "runtime_error" or not (isinstance(kind, type) and issubclass(kind, Exception)):
                    raise
                talk.raised = kind(failed.detail)  # a test may expect it
                raise talk.raised from None
            talk.outputs.append(value)
            for mine, after in zip(args, unpack(changed)):
                if type(mine) is type(after) and mine != after:  # the call changed its arguments
                    if type(mine) is list:
                        mine[:] = after
                    elif type(mine) in (dict, set):
                        mine.clear()
                        mine.update(after)
            return value
        return call

    program = compile(source, "<test>", "exec", dont_inherit=True)
    namespace, talk.raised = {"__name__": "test"}, None
    wanted = free_names(source, entry_point)
    for name, kind in talk.ask(names=wanted)["kinds"].items():
        if "function" in kind:
            namespace[name] = stand_in(name)
        elif "module" in kind and kind["module"].partition(".")[0] in sys.stdlib_module_names:
            namespace[name] = __import__(kind["module"], fromlist=["_"])
        elif "value" in kind and not isinstance(unpack(kind["value"]), Opaque):
            namespace[name] = unpack(kind["value"])
    try:
        exec(program, namespace)
    except (Failed, TimeUp):
        raise
    except AssertionError as error:
        raise Failed("wrong_answer", describe(error)) from None
    except (EOFError, OSError, OutputLimit) as error:
        if error is talk.raised:
            raise Failed("runtime_error", clean(str(error))) from None
        raise
    except BaseException as error:
        if error is talk.raised:
            raise Failed("runtime_error", clean(str(error))) from None
        raise Failed("wrong_answer", f"the test cannot use the answer ({describe(error)})") from None


def free_names(source, entry_point):
    """Names that a test takes from the candidate: read, never bound, not a builtin (but the entry point may be named like one)."""
    read, bound = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return sorted(name for name in read - bound if name == entry_point or not hasattr(builtins, name))


def judge_inside(talk, test):
    """Tests run beside the candidate: each must have run once and passed, each planted one must have failed."""
    if test["type"] == "assert":
        expected, planted, request = ["assert"], 1, {"assert": test["source"]}
    else:
        classes = {node.name: [item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
                               and item.name.startswith("test")]
                   for node in ast.parse(test["source"]).body
                   if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("TestCase") for base in node.bases)}
        expected = sorted({f"{name}.{method}" for name, methods in classes.items() for method in methods})
        planted, request = 4, {"unittest": test["source"], "classes": list(classes)}
    token = os.urandom(8).hex()  # comes after the candidate's own code has run: an answer prepared there lacks it
    reply = talk.ask(**request, token=token)
    ran = reply["ran"]
    talk.outputs = sorted(map(list, ran.items()))
    for name in expected:
        if ran.get(name) != "ok":
            raise Failed("wrong_answer", f"{name}: {clean(str(ran.get(name, 'did not run')), 200)}")
    if reply["planted"] != ["failure"] * planted or set(ran) != set(expected) or reply["token"] != token:
        raise Failed("runtime_error", "the program interferes with its tests")


def judge_program(zygote, job, test, limit, compare):
    """One run of a whole program. Reads what it prints while it runs, with a cap."""
    import select
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as file:
        file.write(test["input"].encode("utf-8", "surrogateescape"))
    os.lseek(stdin, 0, os.SEEK_SET)
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    zygote.start({**job, "mode": "stdin", "cpu": limit + 1}, stdin, out_end, err_end)
    for fd in (stdin, out_end, err_end):
        os.close(fd)
    deadline, read, failed, code = time.monotonic() + limit, {out: bytearray(), err: bytearray()}, None, None
    poll = select.poll()
    for fd in (out, err, zygote.sock.fileno()):
        poll.register(fd, select.POLLIN)
    try:
        open_ends = {out, err}
        while open_ends or code is None:  # the ends close when the run is over: nobody is left to hold them
            ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
            if code is None and (not ready or zygote.sock.fileno() in ready or failed):
                if not ready:
                    failed = failed or ("time_limit", f"longer than {limit:g} s")
                code = zygote.finish()
                poll.unregister(zygote.sock)
                deadline += 3600
            for fd in open_ends & set(ready):
                data = os.read(fd, 1 << 16)
                if not data:
                    open_ends.remove(fd)
                    poll.unregister(fd)
                elif failed or len(read[out]) + len(read[err]) + len(data) > MAX_OUTPUT:
                    failed = failed or ("output_limit", f"more than {MAX_OUTPUT} bytes")
                else:
                    read[fd] += data
    finally:
        os.close(out)
        os.close(err)
    text = read[out].decode("utf-8", "replace")
    if not failed and code:
        status, detail = how_it_ended(code)
        failed = status, clean((read[err].decode("utf-8", "replace").strip().splitlines() or [detail])[-1])
    if not failed and not same_text(text, test["output"], compare):
        failed = "wrong_answer", f"expected {clean(repr(test['output']), 100)}, got {clean(repr(text), 100)}"
    return (*(failed or ("passed", "")), failed[0] if failed and failed[0] != "wrong_answer" else lines_of(text))


def verdict(problem, results, status, detail, started):
    public, total = len(problem["public_tests"]), len(results)
    passed = [result is not None and result[0] == "passed" for result in results]
    if status is None and not all(passed):
        position = next(index for index, result in enumerate(results) if result and result[0] != "passed")
        status, detail, _ = results[position]
        where = f"public test {position + 1}" if position < public else f"hidden test {position - public + 1}"
        if position >= public and status == "wrong_answer":  # what hidden tests expect stays hidden
            detail = "" if detail.startswith("expected ") else detail
        detail = f"{where}: {detail}".rstrip(": ")
    outputs = json.dumps([result and result[2] for result in results[:public]])
    return {"passed": None if status == "missing_dependency" else all(passed), "status": status or "passed",
            "tests_passed": sum(passed), "tests_total": total, "detail": detail or "",
            "seconds": round(time.perf_counter() - started, 4),
            "public_passed": all(passed[:public]) if public and status != "missing_dependency" else None,
            "output_digest": hashlib.sha256(outputs.encode()).hexdigest()[:16] if public and status != "missing_dependency" else None}


def lines_of(text):
    return [line.strip() for line in text.strip().split("\n")]


def same_text(got, expected, compare=None):
    """LiveCodeBench's rule: the same number of lines, each equal as text or, token by token, as exact decimals.

    exact: the text itself, but for blanks at line ends and blank lines at the end. tolerant: tokens, numbers within 1e-6.
    """
    if compare == "exact":
        return [line.rstrip() for line in got.rstrip().split("\n")] == [line.rstrip() for line in expected.rstrip().split("\n")]
    if compare == "tolerant":
        mine, theirs = got.split(), expected.split()
        return len(mine) == len(theirs) and all(a == b or near(as_float(a), as_float(b)) for a, b in zip(mine, theirs))
    mine, theirs = lines_of(got), lines_of(expected)
    return len(mine) == len(theirs) and all(a == b or same_decimals(a, b) for a, b in zip(mine, theirs))


def same_decimals(mine, theirs):
    mine, theirs = mine.split(), theirs.split()
    try:
        return bool(mine) and len(mine) == len(theirs) and all(Decimal(a) == Decimal(b) for a, b in zip(mine, theirs))
    except InvalidOperation:
        return False


def as_float(token):
    try:
        return float(token)
    except ValueError:
        return None


def near(a, b):
    return a is not None and b is not None and (math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) or a != a and b != b)


def same_value(got, expected, compare=None):
    """The benchmark's own ==, where a tuple at the top is the list of its items. For the others see the docstring above."""
    if compare == "tolerant":
        if isinstance(got, (int, float)) and isinstance(expected, (int, float)):
            return got == expected or near(*(None if abs(number) >= 1e300 else number for number in (got, expected)))
        if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
            return len(got) == len(expected) and all(same_value(a, b, compare) for a, b in zip(got, expected))
        if isinstance(got, dict) and isinstance(expected, dict):
            return got.keys() == expected.keys() and all(same_value(got[key], expected[key], compare) for key in got)
        return got == expected
    if compare == "exact":
        return type(got) is type(expected) and got == expected and digestible(got, exact=True) == digestible(expected, exact=True)
    return (list(got) if type(got) is tuple and type(expected) is list else got) == expected


def digestible(value, exact=False):
    """A text that is the same for equal values, whatever the order of their sets and dicts."""
    if type(value) in (list, tuple):
        return ("(" if exact and type(value) is tuple else "[") + ",".join(digestible(item, exact) for item in value) + "]"
    if type(value) in (set, frozenset):
        return "{" + ",".join(sorted(digestible(item, exact) for item in value)) + "}"
    if type(value) is dict:
        return "{" + ",".join(sorted(f"{digestible(key, exact)}:{digestible(item, exact)}" for key, item in value.items())) + "}"
    if type(value) in (bool, float) and not exact and value == value and abs(value) != math.inf and value == int(value):
        value = int(value)
    if type(value) is int:
        return hex(value)
    return repr(value) if type(value) in (str, bytes, bytearray, float, bool, complex, range, type(None)) else type(value).__name__


def referee(options):
    """Reads jobs, writes verdicts: one JSON line each."""
    die_with_parent(options)
    prctl(DUMPABLE, 0)  # other processes of the same user cannot look into this one
    sys.set_int_max_str_digits(50000)
    answers_to, zygote, problem = os.fdopen(os.dup(1), "w"), None, None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a benchmark's test may print
    for line in sys.stdin:
        message = json.loads(line)
        try:
            problem = message.get("problem") or problem
            if not zygote:
                zygote = Zygote(options)
                missing = [f"{name} ({why})" for name, why in zygote.layers.items() if why and why != "switched off"]
                if missing and options.pop("speak", False):
                    print(f"warning: isolation without {', '.join(missing)}; see --self-check", file=sys.stderr)
            answer = {"layers": zygote.layers}
            if "code" in message:
                answer = judge(problem, message["code"], zygote, options)
        except (Machinery, OSError, OutputLimit, MemoryError) as error:
            if zygote:
                zygote.process.kill()
                zygote.process.wait()
            zygote, answer = None, {"machinery": describe(error)}
        answers_to.write(json.dumps(answer) + "\n")
        answers_to.flush()


def die_with_parent(options):
    prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != options["parent"]:  # it died before we asked
        os._exit(1)


def start_role(role, options, pass_socket=None, **pipes):
    """Starts this file again as a referee or a zygote: empty environment, own session, no site-packages.

    Not `python -I`: that would ignore PYTHONHASHSEED, and the order of a candidate's sets would differ from run to
    run. What -I is for is done by hand: no variables but ours, nothing of this folder on sys.path.
    """
    import subprocess
    boot = ("import sys; del sys.path[0], sys.argv[0]; path = sys.argv[0]; "
            "exec(compile(open(path).read(), path, 'exec'), {'__name__': '__main__', '__file__': path})")
    command = [sys.executable, "-s", "-W", "ignore", *(() if role == "zygote" and options["site_packages"] else ("-S",)), "-c", boot,
               os.path.abspath(__file__), f"--{role}", json.dumps({**options, "parent": os.getpid()})]
    if pass_socket:
        command.append(str(pass_socket.fileno()))
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "pass_fds": [pass_socket.fileno()]}
    environment = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8", "TZ": "UTC"}
    return subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **pipes)


# ---------------------------------------------------------------- the supervisor: rows in, rows out

@contextlib.contextmanager
def slot(options):
    """A referee as a function from a message to its answer. One that dies or stalls is replaced."""
    import subprocess
    import threading
    state = {}

    def ask(message, seconds):
        if "process" not in state:
            state["process"] = start_role("referee", options, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            state["problem"] = None
        process, problem = state["process"], message.get("problem")
        if problem is not None and problem is state["problem"]:
            message = {**message, "problem": None}  # it still has it
        watchdog = threading.Timer(seconds, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            state["problem"] = problem
            return answer
        except (OSError, ValueError):
            stop()
            return {"machinery": "the referee died or stalled"}
        finally:
            watchdog.cancel()

    def stop():
        process = state.pop("process", None)
        if process:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    try:
        yield ask
    finally:
        stop()


def label(jobs, options, workers):
    """Yields (candidate, verdict) for (problem, candidate) pairs, in the order in which they are ready."""
    import queue
    import threading
    waiting, done, lock = iter(jobs), queue.SimpleQueue(), threading.Lock()

    def work(speaks):
        with slot({**options, "speak": speaks}) as ask:  # one of them says what is missing here
            while True:
                with lock:
                    problem, candidate = next(waiting, (None, None))
                if candidate is None:
                    return
                patience = 60 + 3 * options["scale"] * sum(
                    problem.get("time_limit") or LIMITS[test["type"]] for test in problem["public_tests"] + problem["tests"])
                for _ in range(ATTEMPTS):
                    try:
                        answer = ask({"problem": problem, "code": candidate["code"]}, patience)
                    except Exception as error:
                        answer = {"machinery": describe(error)}
                    if "machinery" not in answer:
                        break
                else:
                    answer = {"passed": None, "status": "machinery", "tests_passed": 0, "tests_total": 0, "detail": answer["machinery"],
                              "seconds": 0.0, "public_passed": None, "output_digest": None}
                done.put((candidate, answer))

    threads = [threading.Thread(target=work, args=(number == 0,), daemon=True) for number in range(max(1, min(workers, len(jobs))))]
    for thread in threads:
        thread.start()
    for _ in jobs:
        yield done.get()


def check_tests(problem, where):
    """What execute.py needs from a problem beyond what every reader of rows checks."""
    from data.rows import RowError
    place = f"{where}: problem {problem['problem_id']!r}"
    if not problem["public_tests"] and not problem["tests"]:
        raise RowError(f"{place} has no tests, public or hidden; without tests there is no verdict: remove it or give it tests")
    for kind in ("public_tests", "tests"):
        for number, test in enumerate(problem[kind], 1):
            if not isinstance(test, dict) or test.get("type") not in FIELDS:
                raise RowError(f"{place}, {kind} number {number}: expected an object with 'type' one of {', '.join(FIELDS)}")
            for field in FIELDS[test["type"]]:
                if field not in test or (field != "expected" and not isinstance(test[field], list if field == "args" else str)):
                    raise RowError(f"{place}, {kind} number {number}: a {test['type']!r} test needs {field!r}"
                                   f" ({'a list' if field == 'args' else 'any value' if field == 'expected' else 'text'})")
            if test["type"] == "call" and not problem["entry_point"]:
                raise RowError(f"{place}, {kind} number {number}: a 'call' test needs the problem's 'entry_point'")


def digest_of_tests(problem, options):
    """Changes when the verdict could: a row labelled by other tests or options is not taken for done."""
    judged = [problem.get(name) for name in ("entry_point", "public_tests", "tests", "setup", "libs", "time_limit")]
    judged += [options[name] for name in ("compare", "scale", "memory_mb", "site_packages")]
    return hashlib.sha256(json.dumps(judged, sort_keys=True).encode()).hexdigest()[:12]


class DefaultsWhereThereAreAny(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description="Run candidate programs in a sandbox and label them.",
                                     formatter_class=DefaultsWhereThereAreAny)
    add = parser.add_argument
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
    add("--without", nargs="+", default=[], choices=LAYERS, metavar="LAYER", help=f"switch off layers of isolation ({', '.join(LAYERS)})")
    add("--self-check", action="store_true", help="try to break out; print what holds on this machine")
    add("--benchmark", action="store_true", help="measure executions per second and what each layer costs")
    settings = parser.parse_args(arguments)
    for flag, good in (("jobs", settings.jobs >= 1), ("timeout-scale", settings.timeout_scale > 0), ("memory-mb", settings.memory_mb >= 64)):
        if not good:
            parser.error(f"--{flag} must be {dict(jobs='at least 1', **{'memory-mb': 'at least 64'}).get(flag, 'above 0')}")
    if not re.fullmatch(r"\d+/[1-9]\d*", settings.shard) or eval_shard(settings.shard)[0] >= eval_shard(settings.shard)[1]:
        parser.error("--shard must be I/N with 0 <= I < N, for example 0/4")
    return settings


def eval_shard(text):
    return tuple(map(int, text.split("/")))


def read_inputs(settings):
    """Returns ([(problem, candidate)], all candidates of the file, its path)."""
    from data import rows
    paths = settings.problems or [rows.TINY / "problems_weak.jsonl", rows.TINY / "problems_strong.jsonl"]
    source = settings.candidates or rows.stage_input("candidates.jsonl")
    settings.out = settings.out or str(rows.ROOT / "runs" / "tiny" / "labelled.jsonl")
    problems = rows.read_problems(paths)
    where = " ".join(map(str, paths))
    candidates = rows.read_rows(source, rows.CANDIDATE, key=("problem_id", "candidate_id"))
    print(f"problems:   {where}\ncandidates: {source}\nlabelled:   {settings.out}")
    index, count = eval_shard(settings.shard)
    mine = {name for position, name in enumerate(problems) if position % count == index}
    jobs = []
    for candidate in candidates:
        problem = problems.get(candidate["problem_id"])
        if problem is None:
            raise rows.RowError(f"{source}: candidate {candidate['candidate_id']!r} is for problem {candidate['problem_id']!r}, "
                                f"which is not in {where}; add its file to --problems")
        if (not settings.split or problem["split"] in settings.split) and problem["problem_id"] in mine:
            jobs.append((problem, candidate))
    if not jobs:
        raise rows.RowError(f"{source}: no candidates" + (f" in --split {' '.join(settings.split)}" if settings.split else " to run")
                            + f"; the problems' splits are {', '.join(sorted({problem['split'] for problem in problems.values()}))}")
    for problem in {problem["problem_id"]: problem for problem, _ in jobs}.values():
        check_tests(problem, where)
    return jobs, candidates, source


def main(arguments=None):
    settings = parse_arguments(arguments)
    sys.set_int_max_str_digits(50000)  # as LiveCodeBench: its tests hold long integers
    if sys.platform != "linux" or MACHINE not in ("x86_64", "aarch64"):
        raise SystemExit("execute.py needs Linux on x86_64 or aarch64 (namespaces, seccomp, rlimits); on other systems run it in a Linux container")
    if settings.site_packages and sys.prefix.startswith("/tmp/") and "mount" not in settings.without:
        raise SystemExit(f"--site-packages: the packages of this Python lie in /tmp ({sys.prefix}), where candidates get a folder of their own; "
                         "use a virtual environment elsewhere, or add --without mount")
    options = {"compare": settings.compare, "scale": settings.timeout_scale, "memory_mb": settings.memory_mb,
               "site_packages": settings.site_packages, "without": settings.without}
    with scratch_folder() as options["scratch"]:
        if settings.self_check:
            return self_check(options)
        if settings.benchmark:
            sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "docs"))
            import bench_execute
            return bench_execute.main(options)
        return run(settings, options)


@contextlib.contextmanager
def scratch_folder():
    """A folder for what candidates write where they have no private file tree. Cleans up after killed runs, too."""
    import shutil
    import tempfile
    for name in os.listdir(tempfile.gettempdir()):
        match = re.fullmatch(r"judge-execute-(\d+)-\w+", name)
        if match and not os.path.exists(f"/proc/{match[1]}"):
            make_removable(os.path.join(tempfile.gettempdir(), name))
            shutil.rmtree(os.path.join(tempfile.gettempdir(), name), ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"judge-execute-{os.getpid()}-")
    os.chmod(folder, 0o711)
    try:
        yield folder
    finally:
        make_removable(folder)
        shutil.rmtree(folder, ignore_errors=True)


def run(settings, options):
    import fcntl
    import shlex
    from data import rows
    jobs, candidates, source = read_inputs(settings)
    prctl(DUMPABLE, 0)
    key = ("problem_id", "candidate_id")
    order = {(row["problem_id"], row["candidate_id"]): (position, row) for position, row in enumerate(candidates)}
    digests = {problem["problem_id"]: digest_of_tests(problem, options) for problem, _ in jobs}
    with rows.Appender(settings.out, key) as out:
        try:
            fcntl.flock(out.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise rows.RowError(f"--out {settings.out}: another execute.py is writing to it; wait for it or choose another file") from None
        old = rows.read_rows(settings.out)
        strange = [row for row in old if out.key_of(row) not in order]
        if strange:
            raise rows.RowError(f"--out {settings.out}: {len(strange)} of its rows (the first: {out.key_of(strange[0])}) are not in {source}; "
                                "choose another --out, or remove the file if its labels are no longer wanted")
        # Done is what the same tests have judged on the same candidate; machinery failures get another chance.
        good = [row for row in old if row.get("status") != "machinery" and all(row.get(name) == value for name, value in order[out.key_of(row)][1].items())
                and row.get("tests_digest") == digests.get(row["problem_id"], row.get("tests_digest"))]
        if len(good) < len(old):
            print(f"{len(old) - len(good)} rows of {settings.out} are labelled again: their candidate or its tests have changed, or the machinery failed")
            rows.replace_file(settings.out, as_lines(good))
            out.file.close()
            out.file, out.done = open(settings.out, "a", encoding="utf-8"), {out.key_of(row) for row in good}
        out.file.reconfigure(errors="backslashreplace")  # half a surrogate pair in a program becomes its JSON escape
        todo = [(problem, candidate) for problem, candidate in jobs if out.key_of(candidate) not in out.done]
        if len(todo) < len(jobs):
            print(f"{len(jobs) - len(todo)} of {len(jobs)} are already labelled")
        try:
            from tqdm import tqdm
            counts = {True: 0, False: 0, None: 0}
            with tqdm(total=len(todo), unit="program", disable=not todo, smoothing=0.05) as bar:
                for candidate, answer in label(todo, options, settings.jobs):
                    row = {**candidate, **answer, "tests_digest": digests[candidate["problem_id"]]}
                    out.append(row)
                    counts[row["passed"]] += 1
                    bar.set_postfix(passed=counts[True], failed=counts[False], null=counts[None], refresh=False)
                    bar.update()
        except KeyboardInterrupt:
            print(f"\nstopped; nothing is lost. To continue: python {shlex.join(sys.argv)}", file=sys.stderr)
            return 130
    labelled = rows.read_rows(settings.out)
    arranged = sorted(labelled, key=lambda row: order[out.key_of(row)][0])
    if arranged != labelled:
        rows.replace_file(settings.out, as_lines(arranged))
    wanted = {out.key_of(candidate) for _, candidate in jobs}
    return report([row for row in arranged if out.key_of(row) in wanted], settings)


def as_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")


def report(labelled, settings):
    """A table by policy, and the command to run next. Returns the exit status."""
    names = [name for name in ("passed", *FAILURES, "missing_dependency", "machinery") if any(row["status"] == name for row in labelled)]
    policies = sorted({row["policy"] for row in labelled})
    print(f"\n{'policy':24}{'programs':>10}" + "".join(f"{name:>20}" for name in names))
    for policy in policies + ["all"] * (len(policies) > 1):
        mine = [row for row in labelled if policy in ("all", row["policy"])]
        print(f"{policy:24}{len(mine):10}" + "".join(f"{sum(row['status'] == name for row in mine):20}" for name in names))
    broken = sum(row["status"] == "machinery" for row in labelled)
    missing = sum(row["status"] == "missing_dependency" for row in labelled)
    if missing:
        first = next(row for row in labelled if row["status"] == "missing_dependency")
        print(f"\n{missing} programs have no label: {first['detail']} (--site-packages lets candidates use what is installed here)")
    if broken:
        first = next(row for row in labelled if row["status"] == "machinery")
        print(f"\n{broken} programs have no label, because the sandbox failed ({first['detail']}). Run the same command again to retry them;"
              " python execute.py --self-check says what works here.", file=sys.stderr)
        return 1
    problems = f" --problems {' '.join(settings.problems)}" if settings.problems else ""
    print(f"\nnext: python train_bilevel.py{problems}" + (f" --labelled {settings.out}" if problems else ""))
    return 0


PROBES = '''
import ctypes, os, resource, socket, time

def probe(name, repository, outside, port):
    try:
        return {"reads the repository": lambda: os.listdir(repository) != [],
                "writes outside of its folder": lambda: any(map(writable, ("/", "/usr", "/var/tmp", repository))),
                "signals other processes": lambda: os.kill(outside, 0) is None,
                "reaches the network": lambda: socket.create_connection(("127.0.0.1", port), 1) is not None,
                "traces processes": lambda: ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0,
                "is root": lambda: os.getuid() == 0,
                "takes a terabyte": lambda: len(bytearray(1 << 40)) > 0,
                "raises its limits": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)) is None,
                "starts 1000 processes": lambda: all(sleeper() for _ in range(1000))}[name]()
    except (OSError, MemoryError, ValueError):
        return False

def writable(folder):
    try:
        open(folder + "/judge-probe", "x").close()
        os.remove(folder + "/judge-probe")
        return True
    except OSError:
        return False

def sleeper():
    child = os.fork()
    if child == 0:
        time.sleep(9)
        os._exit(0)
    return child
'''


def self_check(options):
    """Which layers this machine allows, and what a program that tries to break out gets done."""
    meaning = {"user": "user namespace: no rights over anything outside", "net": "network namespace: loopback only",
               "ipc": "IPC namespace", "mount": "private read-only file tree, writable /tmp in memory",
               "pid": "pid namespace: sees and outlives nothing", "uid": "runs as an unprivileged user",
               "seccomp": "system calls such as ptrace, mount, setns, bpf, io_uring refused"}
    with slot(options) as ask, socket.create_server(("127.0.0.1", 0)) as server:
        answer = ask({"layers": True}, 60)
        if "machinery" in answer:
            raise SystemExit(f"the sandbox cannot start: {answer['machinery']}")
        for name in LAYERS:
            lacks = answer["layers"].get(name)
            print(f"{name:8} {'holds  ' if lacks is None else 'MISSING'}  {meaning[name]}" + (f" ({lacks})" if lacks else ""))
        print("rlimits  holds    processor time, memory, file size, open files, processes, core dumps")
        print("\na program that tries:")
        for name in re.findall(r'"([a-z0-9 ]+)": lambda', PROBES):
            args = [name, os.path.dirname(os.path.abspath(__file__)), os.getpid(), server.getsockname()[1]]
            tests = [{"type": "call", "args": args, "expected": False}]
            problem = {"problem_id": "probe", "entry_point": "probe", "public_tests": [], "tests": tests}
            found = ask({"problem": problem, "code": PROBES}, 60)
            print(f"  {name:30} {'no' if found.get('passed') else 'YES' if found.get('status') == 'wrong_answer' else found}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--referee"]:
        referee(json.loads(sys.argv[2]))
    elif sys.argv[1:2] == ["--zygote"]:
        zygote(int(sys.argv[3]), json.loads(sys.argv[2]))
    else:
        sys.exit(main())
