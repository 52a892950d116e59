"""A box for every run. Everything here runs on the far side of execute.py's wall.

    zygote     a fresh Python that shows itself nothing of this machine but its Python and /usr, and
               then forks for every run
    box        one run: new namespaces, a new folder, limits, and no rights. Its process 1 is a
               candidate or the grader of its answers; with its end the kernel ends all others

A candidate's box holds nothing that another run has touched. Where the namespaces cannot be had
there is no box, and execute.py refuses to run; with --unsafe a run is a process with limits and a
folder, no more. What a box does *not* protect against stands once, at the top of execute.py.

    from     to       what
    worker   zygote   "network" or "no network", with files: a socket for the box's message, the
                      job, and what becomes the program's descriptors
    zygote   worker   first {}, or {"refused": why}. Then for each request the box's process number;
                      below 0: why there is none, an errno
    box      worker   the time, when the program starts; with --unsafe, when it has ended, too,
                      and its exit code

The kernel takes a box for a child of the worker (boxes.py), which waits for it and may kill it.
Where the worker dies, the zygote finds its socket closed, and ends the boxes that are left. Nearly
all of a box's cost is the pages that it or its zygote writes to, of which the kernel makes copies
then: what can be done before the fork is done there, and after it the zygote does next to nothing.
"""
import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import marshal
import os
import resource
import select
import signal
import socket
import struct
import sys
import time

from data.sandbox import candidate, grading, inside
from data.sandbox.wire import MAX_OUTPUT

MAX_FILES = 64 << 20  # bytes of all that a run may write: a memory file system of its own
MAX_PROCESSES = 160  # of one run, threads too; honest programs start a hundred
MAX_STACK = 256 << 20  # bytes: recursion through C code needs 1 KB a level
THREAD_STACK = 8 << 20
MAX_SIGNALS = 1000  # that may wait for one zygote's runs
MAX_DESCRIPTORS = 4096  # that the worker may have open: a box closes all numbers below

# ---------------------------------------------------------------- the kernel's names

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
F_SETLEASE = 1024
NO_CAPABILITY = struct.pack("Ii", 0x20080522, 0)  # struct __user_cap_header_struct: version 3

MACHINE = os.uname().machine
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*

# System calls by number: (x86_64, aarch64). -1: there is no such call.
REFUSED = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438), "kcmp": (312, 272), "process_madvise": (440, 440),
    "get_robust_list": (274, 100), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "umount2": (166, 39), "open_tree": (428, 428),
    "open_tree_attr": (467, 467), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "pivot_root": (155, 41), "chroot": (161, 51),
    # large or rarely used parts of the kernel, where its bugs are
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    # memory that no limit counts, and what is counted by user
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180), "inotify_init": (253, -1),
    "inotify_init1": (294, 26), "fanotify_init": (300, 262), "io_setup": (206, 0),
    # the kernel's log, which some machines let everyone read
    "syslog": (103, 116),
    # what writes back the whole machine's files
    "sync": (162, 81), "syncfs": (306, 267),
}
CALLS = REFUSED | {
    "capset": (126, 91), "clone": (56, 220), "clone3": (435, 435), "fcntl": (72, 25),
    "mount": (165, 40), "prctl": (157, 167), "prlimit64": (302, 261), "setsockopt": (54, 208),
    "socket": (41, 198), "socketpair": (53, 199),
}


def number(call):
    """Of a system call, on this machine."""
    return CALLS[call][MACHINE == "aarch64"]


libc = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter's lock across a fork


def system(name, *arguments):
    """Call a function of the C library: small numbers, text and pointers. Raises OSError."""
    plain = [argument.encode() if isinstance(argument, str) else argument for argument in arguments]
    result = getattr(libc, name)(*plain)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def prctl(option, value, argument=0):
    system("prctl", option, value, argument, 0, 0)


# ---------------------------------------------------------------- the zygote's file tree

def enter_private_tree(shown, hidden, user):
    """From now on this process and its children see `shown`, a few devices, and nothing else.

    shown:  folders, for example that of this Python.
    hidden: a folder that is out of sight even where it lies inside of a shown one: the project's.
    user:   the candidates' number.
    Root may do this for the asking, others only in a user namespace of their own: full rights over
    what is made in there, none over anything else. All of it is read-only.
    """
    uid = os.geteuid()
    gid = os.getegid()
    own = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
    system("unshare", own | (CLONE_NEWUSER if uid else 0))
    if uid:
        write_text("/proc/self/setgroups", "deny")
        write_text("/proc/self/uid_map", f"{uid} {uid} 1")
        write_text("/proc/self/gid_map", f"{gid} {gid} 1")
    socket.sethostname("box")
    system("mount", None, "/", None, MS_REC | MS_PRIVATE, None)  # what is mounted here stays here
    place = "/proc"  # a directory that is always there, and no longer needed
    system("mount", "tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    root = f"{place}/root"
    os.makedirs(f"{root}/box")
    os.makedirs(f"{root}/etc")
    os.makedirs(f"{root}/dev")
    os.makedirs(f"{place}/empty")
    for path in sorted({*shown, hidden, "/bin", "/sbin", "/lib", "/lib32", "/lib64"}):
        if path == hidden:
            if os.path.isdir(root + path):  # inside of what is shown
                options = "mode=755,size=64k"
                system("mount", "tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV, options)
        elif os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        elif os.path.isdir(path) and (os.path.ismount(path) or not os.path.exists(root + path)):
            os.makedirs(root + path, exist_ok=True)
            show_folder(path, root + path, f"{place}/empty")
    for name in ("null", "zero", "full", "random", "urandom"):
        open(f"{root}/dev/{name}", "w").close()
        system("mount", f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND, None)
    os.symlink("/box/tmp", f"{root}/tmp")
    os.symlink("/box/tmp", f"{root}/dev/shm")
    os.symlink("/box/stdin", f"{root}/dev/stdin")
    os.makedirs(f"{root}/dev/fd")
    os.symlink("/box/stdin", f"{root}/dev/fd/0")
    write_text(f"{root}/etc/passwd", f"nobody:x:{user}:{user}::/tmp:/bin/sh\n")
    write_text(f"{root}/etc/hosts", "127.0.0.1 localhost\n")
    attributes = struct.pack("QQQQ", MS_RDONLY | MS_NOSUID, 0, 0, 0)  # struct mount_attr
    system("syscall", number("mount_setattr"), AT_FDCWD, place, AT_RECURSIVE,
           attributes, len(attributes))
    os.chdir(place)
    system("syscall", number("pivot_root"), ".", ".")
    system("umount2", ".", MNT_DETACH)
    os.chroot("/root")  # in a chroot no user namespace can be made
    os.chdir("/")


def write_text(path, text):
    with open(path, "w") as file:
        file.write(text)


def show_folder(path, target, empty):
    """As an overlay: its files are not this machine's, and a lock or lease stays in here."""
    try:
        system("mount", "overlay", target, "overlay", 0, f"lowerdir={path}:{empty}")
    except OSError:  # an old kernel, or a stack of overlays
        system("mount", path, target, None, MS_BIND | MS_REC, None)


# ---------------------------------------------------------------- a run's own surroundings

# The others are the zygote's: no box can make anything in them.
NAMESPACES = CLONE_NEWPID | CLONE_NEWNS
TCP_MEMORY = "4096 16384 65536"  # bytes of a socket: least, usual, most


def mount_box(job):
    """A memory file system that is this run's own, and goes with its namespace."""
    size = MAX_FILES + 4 * len(job["code"]) + len(job["input"]) + (1 << 20)
    # 555, because where an ordinary user runs this the program is the owner of /box
    options = f"mode=555,size={size},nr_inodes=4100"
    system("mount", "tmpfs", "/box", "tmpfs", MS_NOSUID | MS_NODEV, options)


def furnish(job, folder, user):
    """The program's source, its input as descriptor 0, and an empty folder that it may write to."""
    os.mkdir(f"{folder}/tmp", 0o700)
    os.chown(f"{folder}/tmp", user, -1)
    source = job["code"].encode("utf-8", "replace")
    for name, content in (("program.py", source), ("stdin", job["input"])):
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT, 0o644)
        if os.write(file, content) < len(content):  # of an unsafe run: the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.close(file)
    os.dup2(os.open(f"{folder}/stdin", os.O_RDONLY), 0)


def bring_up_loopback(proc):
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    for name in ("tcp_rmem", "tcp_wmem"):  # a process's memory limit does not count them
        with contextlib.suppress(OSError):
            with open(os.open(f"sys/net/ipv4/{name}", os.O_WRONLY, dir_fd=proc), "w") as file:
                file.write(TCP_MEMORY)


def limit(**limits):
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def give_up_rights(user):
    """Another user where we are root, and no capability."""
    os.setresuid(user, user, user)
    system("syscall", number("capset"), NO_CAPABILITY, bytes(24))


class FilterProgram(ctypes.Structure):
    """struct sock_fprog"""
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


# of a filter's instructions, and what it answers
LOAD = 0x20
EQUAL = 0x15
AT_LEAST = 0x35
ANY_BIT = 0x45
RETURN = 0x06
ALLOW = 0x7FFF0000
REFUSE = 0x00050001  # EPERM
PRETEND = 0x00050000  # success, without effect
NO_SUCH_CALL = 0x00050026  # ENOSYS


def argument(position):
    """Where a filter finds a call's argument."""
    return 16 + 8 * position


def when(test, value, answer):
    """Two steps: return `answer` where what is loaded has that value, or any of those bits."""
    return [(test, 0, 1, value), (RETURN, 0, 0, answer)]


def look_into(name, position, steps, otherwise):
    """For this call: load its argument, go through `steps`, of which each may return."""
    steps = [(LOAD, 0, 0, argument(position)), *steps, (RETURN, 0, 0, otherwise)]
    return [(EQUAL, 0, len(steps), number(name)), *steps]


def make_filter(rules):
    """A BPF program of these steps; what none of them answers is allowed."""
    CALL_NUMBER = 0
    CALL_ARCHITECTURE = 4
    code = [
        # (instruction, steps to skip if true, steps to skip if false, value)
        (LOAD, 0, 0, CALL_ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURE[MACHINE]),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, CALL_NUMBER),
        *when(AT_LEAST, 0x40000000, REFUSE),  # x32
        *rules,
        (RETURN, 0, 0, ALLOW),
    ]
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in code)
    return ctypes.pointer(FilterProgram(len(code), program))


def filter_of_zygote():
    """What neither a zygote nor its boxes need. It is long: set once, it costs a run nothing."""
    rules = []
    for name in REFUSED:
        if number(name) >= 0:
            # nice() does nothing rather than fail: programs do not expect that it can
            answer = PRETEND if name == "setpriority" else REFUSE
            rules += when(EQUAL, number(name), answer)
    # its flags are out of a filter's sight; told that there is no such call, libc uses clone
    rules += when(EQUAL, number("clone3"), NO_SUCH_CALL)
    rules += look_into("fcntl", 1, when(EQUAL, F_SETLEASE, REFUSE), ALLOW)
    rules += look_into("prlimit64", 0, when(EQUAL, 0, ALLOW), REFUSE)  # its own limits
    # for another family the kernel would load a module of its own
    rules += look_into("socketpair", 0, when(EQUAL, socket.AF_UNIX, ALLOW), REFUSE)
    # a socket's buffers stay as large as usual: no limit counts them
    sizes = when(EQUAL, socket.SO_SNDBUF, PRETEND) + when(EQUAL, socket.SO_RCVBUF, PRETEND)
    sizes = [(EQUAL, 0, 5, socket.SOL_SOCKET), (LOAD, 0, 0, argument(2)), *sizes]
    rules += look_into("setsockopt", 1, sizes, ALLOW)
    return make_filter(rules)


def filter_of_box(families):
    """What besides only a zygote needs; families: of the sockets that may be made."""
    # all but CLONE_NEWTIME, whose bit clone() takes for part of a signal's number
    new = NAMESPACES | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWUTS | CLONE_NEWCGROUP
    rules = when(EQUAL, number("mount"), REFUSE)
    rules += look_into("clone", 0, when(ANY_BIT, new, REFUSE), ALLOW)
    rules += look_into("prctl", 0, when(EQUAL, PR_SET_PDEATHSIG, REFUSE), ALLOW)
    kinds = []
    for family in families:
        kinds += when(EQUAL, family, ALLOW)
    if families:  # of the kernel's own messages only those about addresses and routes
        kinds += [(EQUAL, 0, 3, socket.AF_NETLINK), (LOAD, 0, 0, argument(2))]
        kinds += when(EQUAL, 0, ALLOW)
    rules += look_into("socket", 0, kinds, REFUSE)
    return make_filter(rules)


def set_filter(program):
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)


# ---------------------------------------------------------------- the zygote and its boxes

class Zygote:
    """Prepares once, says {} or {"refused": why}, and forks a box for each request."""

    def __init__(self, control, options):
        self.control = control
        self.unsafe = options["unsafe"]
        self.with_unittest = options["unittest"]
        self.scratch = options["scratch"]  # where --unsafe makes its folders
        self.boxes = []  # pidfds of those that may not have ended
        self.new_box = ctypes.c_int()  # where the kernel writes the latest one's
        self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self.user = os.geteuid()
        if self.user == 0:
            self.user = user_of_process()
        try:
            self.shut_in(options)
        except OSError as error:
            reason = f"{error.filename or 'Python'}: {error.strerror}"
            control.send(json.dumps({"refused": reason}).encode())
            os._exit(1)
        set_filter(filter_of_zygote())
        families = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]
        # by whether a run has a network
        self.filters = {True: filter_of_box(families), False: filter_of_box([])}

    def shut_in(self, options):
        os.umask(0o022)  # whatever the user's is, candidates shall be able to read the tree
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        if not self.unsafe:
            enter_private_tree(options["shown"], options["hidden"], self.user)
        if os.geteuid() == 0:  # a candidate never runs as root
            os.setgroups([])
            os.setresgid(self.user, self.user, self.user)
            if not readable_by(self.user):
                raise OSError(0, f"other users cannot read it ({os.__file__})")
        # outside of a user namespace an ordinary user's other processes count, too
        factor = 20 if self.unsafe and os.geteuid() else 1
        limit(CORE=0, NOFILE=256, NPROC=MAX_PROCESSES * factor, MEMLOCK=0)
        _, most = resource.getrlimit(resource.RLIMIT_SIGPENDING)
        limit(SIGPENDING=MAX_SIGNALS if most < 0 else min(MAX_SIGNALS, most))  # < 0: no limit
        prctl(PR_SET_DUMPABLE, 0)  # no process of the same user may look into these
        attributes = ctypes.create_string_buffer(256)  # pthread_attr_t
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(THREAD_STACK))
        # else as much as MAX_STACK, which is for the main thread
        libc.pthread_setattr_default_np(attributes)
        # a run in the background may have it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def serve(self):
        gc.collect()
        libc.malloc_trim(0)  # what is free need not be copied
        with open(os.open("self/statm", os.O_RDONLY, dir_fd=self.proc)) as file:
            self.mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
        gc.freeze()  # what is there already is of no interest to the collectors of the boxes
        self.control.send(b"{}")
        try:
            while True:
                message, files, _, _ = socket.recv_fds(self.control, 100, 8)
                if not message:  # the worker is gone
                    break
                self.spawn(message == b"network" and not self.unsafe, files)
        finally:
            self.end_boxes()
        os._exit(0)

    def end_boxes(self):
        for box in self.boxes:
            with contextlib.suppress(OSError):
                # --unsafe: a keeper sees by itself that the worker is gone, unless its program has
                # stopped it
                signal.pidfd_send_signal(box, signal.SIGCONT if self.unsafe else signal.SIGKILL)

    def forget_ended_boxes(self):
        ended, _, _ = select.select(self.boxes, [], [], 0)
        for box in ended:
            self.boxes.remove(box)
            os.close(box)

    def spawn(self, network, files):
        """Fork a box."""
        self.forget_ended_boxes()
        flags = CLONE_PARENT | CLONE_PIDFD
        if not self.unsafe:
            flags |= NAMESPACES | (CLONE_NEWNET if network else 0)
        pid = libc.syscall(number("clone"), flags, 0, ctypes.byref(self.new_box), 0, 0)
        if pid == 0:
            try:
                self.be_a_box(network, *files)
            finally:
                os._exit(1)
        if pid > 0:
            self.boxes.append(self.new_box.value)
        else:
            pid = -ctypes.get_errno()
        self.control.send(str(pid).encode())
        for file in files:
            os.close(file)

    def be_a_box(self, network, worker, job_file, *files):
        """Process 1 of a run, before the program's code runs there."""
        job = marshal.loads(os.read(job_file, os.fstat(job_file).st_size))
        folder = "/box"
        user = self.user
        if self.unsafe:
            if os.geteuid() == 0:  # what other runs have left behind is not this one's
                user = user_of_process()
            folder = keep_unsafely(self.scratch, user, worker)
        else:
            mount_box(job)
        furnish(job, folder, user)
        if network:
            bring_up_loopback(self.proc)
        give_up_rights(user)
        limit(AS=self.mapped + job["memory"], FSIZE=MAX_OUTPUT)
        os.chdir(os.environ["HOME"])  # set by forget_this_machine, or by keep_unsafely
        os.umask(0o077)
        os.setpgid(0, 0)
        # where the worker dies, its zygote ends the boxes; this is for when that is dead already,
        # and with --unsafe for when the keeper is
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        set_filter(self.filters[network])
        os.write(worker, repr(time.monotonic()).encode())
        arrange(files, job["role"])
        ROLES[job["role"]](job)


def user_of_process():
    """The number of a user that nobody else is."""
    return 100000 + os.getpid() % 100000


def readable_by(user):
    """Can this user read this Python?"""
    child = os.fork()
    if child == 0:
        os.setresuid(user, user, user)
        os._exit(not os.access(os.__file__, os.R_OK, effective_ids=True))
    return os.waitpid(child, 0)[1] == 0


def arrange(files, role):
    """The program's descriptors: 0, 1, 2 and, but for a whole program, 3: its socket. No others.

    A whole program's 0, its input, is open already. The zygote's 0 to 2 are, too, so none of
    `files` is one of them.
    """
    if role == "program":
        first = 1
    else:
        first = 0
        nothing = os.open(os.devnull, os.O_RDWR)
        files = [nothing, nothing, nothing, *files]
    for target, file in enumerate(files, first):
        os.dup2(file, target)
    os.closerange(first + len(files), MAX_DESCRIPTORS)


# --unsafe: what is left of all this without namespaces

def keep_unsafely(scratch, user, worker):
    """Make a folder, fork, and go on in the child, with the folder; the parent is its keeper."""
    folder = f"{scratch}/judge-unsafe-{os.urandom(8).hex()}"
    os.mkdir(folder, 0o700)
    os.chown(folder, user, -1)
    os.environ.update(HOME=f"{folder}/tmp", TMPDIR=f"{folder}/tmp")
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what outlives the run becomes a child of this process
    run = os.fork()
    if run == 0:
        return folder
    watch_over(run, folder, user, worker)


def watch_over(run, folder, user, worker):
    """End a run when told to; tell the worker when it ended and with which code; clear up; end.

    An ordinary user's programs can stop or kill this process.
    """
    pidfd = os.pidfd_open(run)
    low, high = sorted([pidfd, worker])
    os.closerange(0, low)
    os.closerange(low + 1, high)
    os.closerange(high + 1, MAX_DESCRIPTORS)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(worker, select.POLLIN)  # it will not wait any longer, or is gone
    poll.poll()
    ended = time.monotonic()
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError):
            kill(run, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    with contextlib.suppress(OSError):  # the worker is gone
        os.write(worker, json.dumps([ended, code]).encode())
    with contextlib.suppress(ChildProcessError):
        while True:  # until none of its group is left: they count against its user's limit
            os.waitpid(-run, 0)
    os.setresuid(user, user, user)
    import shutil  # here, because what is imported above costs every fork its share
    shutil.rmtree(folder, ignore_errors=True)  # by descriptors
    os._exit(0)


ROLES = {
    "program": candidate.run_program,
    "session": candidate.answer_requests,
    "grader": grading.grade,
}


def main():
    """A zygote: the number of its socket and its options are the arguments."""
    with contextlib.suppress(ConnectionError):  # the worker is gone
        zygote = Zygote(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
        candidate.forget_this_machine()
        if zygote.with_unittest:
            inside.prepare_unittest()
        zygote.serve()
