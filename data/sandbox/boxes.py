"""Zygotes, boxes and graders as execute.py sees them: its side of the wall of zygote.py."""
import array
import contextlib
import json
import marshal
import os
import select
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time

from data.rows import ROOT
from data.sandbox.wire import STATUSES

PATIENCE = 120  # seconds in which a box must have started, or ended when told to
CLEAN_UP = 20  # seconds that a zygote has to end, and an unsafe run's keeper for what is left
MOST_POLLED = (1 << 31) - 1  # milliseconds that poll() can wait: 24 days
MAX_MEMORY_OF_GRADER = 3 << 30  # bytes of address space for comparing


class Machinery(Exception):
    """The sandbox has failed, not the candidate."""


def visible_folders(cfg):
    """What candidates may read: this Python, /usr, and with --site-packages what is installed."""
    folders = {sys.base_prefix, "/usr"}
    if cfg.site_packages:
        folders |= {folder for folder in site.getsitepackages() if os.path.isdir(folder)}
    return {os.path.realpath(folder) for folder in folders}


class Zygote:
    """A process that forks boxes. It knows no test and no expected value."""

    def __init__(self, cfg, with_unittest=False):
        """with_unittest: its boxes are for `unittest` tests, and no others have unittest loaded.

        (What a box has must not depend on other rows.)
        """
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.unsafe = cfg.unsafe
        options = {
            "unsafe": cfg.unsafe,
            "unittest": with_unittest,
            "shown": sorted(visible_folders(cfg)),
            "hidden": os.path.realpath(ROOT),
            "scratch": tempfile.gettempdir(),
        }
        # The library's `select` comes first: in the project's folder that name is stage 4, whose
        # imports would be in every box.
        start = ("import select, sys; sys.path.insert(0, sys.argv.pop()); "
                 "from data.sandbox import zygote; zygote.main()")
        # -P and -s rather than -I, which would ignore PYTHONHASHSEED: the order of a candidate's
        # sets would differ
        flags = ["-P", "-s"]
        if not cfg.site_packages:
            flags.append("-S")
        arguments = [str(theirs.fileno()), json.dumps(options), str(ROOT)]
        environment = {
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8:surrogateescape",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "MALLOC_ARENA_MAX": "1",  # else every thread takes 64 MB of address space
        }
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-c", start, *arguments],
            pass_fds=[theirs.fileno()],
            cwd="/",
            env=environment,
            start_new_session=True,  # where Ctrl-C is not heard
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        theirs.close()
        self.sock.settimeout(PATIENCE)
        self.refused = self.hear().get("refused")
        self.boxes = []  # that may not have ended
        self.idle_grader = None

    def hear(self):
        message = self.sock.recv(10000)
        if not message:
            raise Machinery(f"the zygote died (status {self.process.wait()})")
        return json.loads(message)

    def spawn(self, role, job, files, memory, network=False):
        """A new box in which one of zygote.py's ROLES does `job`, with these open files.

        network: it gets a loopback of its own, else it can make no socket.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job = {"role": role, "memory": memory, "code": "", "input": b"", **job}
        job_file = memory_file(marshal.dumps(job))
        request = b"network" if network else b"no network"
        try:
            socket.send_fds(self.sock, [request], [theirs.fileno(), job_file, *files])
            pid = self.hear()
            if pid < 0:
                raise Machinery(f"no box could be made ({os.strerror(-pid)})")
            box = Box(pid, ours, self.unsafe)
        except (Machinery, OSError):
            ours.close()  # a box without one does not start
            raise
        finally:
            os.close(job_file)
            theirs.close()
        self.boxes = [other for other in self.boxes if other.report is None] + [box]
        box.hear_start()
        return box

    def close(self):
        for box in self.boxes:
            with contextlib.suppress(Machinery, OSError, ValueError):
                box.wait(0)
        self.sock.close()  # it ends itself
        try:
            self.process.wait(CLEAN_UP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Box:
    """One run. It ends when its program does, when it is told to, or with this process.

    (Or already with the thread that has started its zygote, whose death the kernel takes for its
    parent's; label() keeps those threads to the end.)
    """

    def __init__(self, pid, sock, unsafe):
        self.pid = pid
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:  # too many open files: a box that cannot be ended later ends now
            sock.close()  # with --unsafe its keeper sees to it
            if not unsafe:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self.sock = sock
        self.unsafe = unsafe
        self.report = None
        self.started = time.monotonic()

    def hear_start(self):
        self.sock.settimeout(PATIENCE)
        if not is_readable(self.sock, PATIENCE):
            self.sock.shutdown(socket.SHUT_RDWR)  # now it cannot start any more
            raise Machinery("a box does not start")
        message = self.sock.recv(100)
        try:
            self.started = float(message)  # from there the clock runs
        except ValueError:  # it has said nothing, or its keeper that it has ended
            raise Machinery("a box broke") from None

    def has_ended(self, seconds):
        """Has its program ended, or will it within so many seconds?"""
        # an unsafe run's keeper says so before it clears up, or closes its socket when it dies
        return is_readable(self.sock if self.unsafe else self.pidfd, max(seconds, 0))

    def wait(self, until):
        """Its report, {"code", "killed", "seconds", "cpu", "preempted"}. wait(0) ends it at once.

        It has until that time.monotonic(); then it is killed. killed: it was. seconds: from its
        program's start, until this process saw that it had ended; with --unsafe, until it had.
        preempted: how often it lost the processor though it would have gone on.
        """
        if self.report is None:
            killed = not self.has_ended(until - time.monotonic())
            if killed:
                self.kill()
            if self.unsafe and not is_readable(self.pidfd, CLEAN_UP):
                self.send(signal.SIGKILL)  # what the program has left behind holds the keeper up
            if not is_readable(self.pidfd, PATIENCE):
                raise Machinery("a box does not end")
            ended = time.monotonic()
            _, code, usage = os.wait4(self.pid, 0)
            code = os.waitstatus_to_exitcode(code)
            last_words = self.unsafe and self.sock.recv(100)
            if last_words:  # no program has killed the keeper
                ended, code = json.loads(last_words)
            self.report = {"code": code, "killed": killed, "seconds": ended - self.started,
                           "cpu": usage.ru_utime + usage.ru_stime,
                           "preempted": usage.ru_nivcsw}
            self.sock.close()
            os.close(self.pidfd)
        return self.report

    def kill(self):
        if self.unsafe:
            self.sock.shutdown(socket.SHUT_WR)  # the keeper ends the run,
            self.send(signal.SIGCONT)  # even if its program has stopped it
        else:
            self.send(signal.SIGKILL)

    def send(self, number):
        signal.pidfd_send_signal(self.pidfd, number)


def is_message(message, positions):
    """Is this what a grader may say (the table in grading.py) while these have no result yet?

    Raises one of the errors that hear() knows where it is not even of that form.
    """
    known = {"loaded", "results", "lost", "wants"}
    if not message or not known.issuperset(message) or not message.get("results", True):
        return False
    if "lost" in message and "wants" not in message:  # that would not be its last word
        return False
    lost_status, lost_detail = message.get("lost", ["gone", ""])
    if lost_status not in STATUSES | {"gone"} or type(lost_detail) is not str:
        return False
    for position, status, detail, digest in message.get("results", []):
        if type(position) is not int or position not in positions or status not in STATUSES:
            return False
        if {str} != {type(detail), type(digest)}:
            return False
    return (message.get("loaded", True) is True
            and message.get("wants", "again") in ("again", "nothing"))


def is_readable(file, seconds):
    """file: a socket, or a number such as a pidfd's."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(min(1000 * seconds, MOST_POLLED)))


def memory_file(content=b""):
    """A file in memory, to be read or written from its start."""
    file = os.memfd_create("file")
    os.pwrite(file, content, 0)
    return file


class Grader:
    """The grader's box, from this side."""

    def __init__(self, zygote):
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.box = zygote.spawn("grader", {}, [theirs.fileno()], MAX_MEMORY_OF_GRADER)
        theirs.close()
        self.buffer = bytearray(1 << 20)
        self.problem = None  # whose tests it has
        self.broken = False

    def ask(self, task, *files):
        # It has died, or has left task after task unread: so will hear() say.
        with contextlib.suppress(ConnectionError, BlockingIOError):
            # not socket.send_fds, which forgets its flags
            rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files)
            self.sock.sendmsg([json.dumps(task).encode()], [rights], socket.MSG_DONTWAIT)

    def hear(self, seconds, positions):
        """Its next message; None if none comes in time, {} if it has died or talks nonsense.

        After either it is of no more use. A test that evaluates an answer can make it say anything.
        Raises Machinery where it was killed, by the kernel for want of memory for example: that
        says nothing about the answer.
        """
        self.broken = True
        if not is_readable(self.sock, max(seconds, 0)):
            return None
        try:
            size = self.sock.recv_into(self.buffer)
        except ConnectionError:
            size = 0
        if not size:
            report = self.box.wait(time.monotonic() + 0.5)  # it may need a moment to end
            if report["code"] == -signal.SIGKILL and not report["killed"]:  # not by wait()
                raise Machinery("a grader was killed")
        try:
            message = json.loads(self.buffer[:size])
            well_formed = is_message(message, positions)
        except (ValueError, TypeError, AttributeError, RecursionError):
            well_formed = False
        self.broken = not well_formed
        return message if well_formed else {}

    def end(self):
        self.sock.close()
        self.box.wait(0)
