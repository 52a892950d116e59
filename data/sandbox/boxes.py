"""Zygotes, boxes and graders as execute.py sees them: its side of the wall of zygote.py."""
import contextlib
import json
import marshal
import os
import select
import site
import socket
import subprocess
import sys
import tempfile

from data.rows import ROOT

PATIENCE = 120  # seconds in which a box must have started, or ended when told to
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
        options = {
            "unsafe": cfg.unsafe,
            "unittest": with_unittest,
            "shown": sorted(visible_folders(cfg)),
            "hidden": os.path.realpath(ROOT),
            "scratch": tempfile.gettempdir(),
        }
        # `select` comes first: in the project's folder that name is a stage, and what this one
        # imports would be in every box.
        start = ("import select, sys; sys.path.insert(0, sys.argv.pop()); "
                 "from data.sandbox import zygote; zygote.main()")
        # -P and -s rather than -I, which would ignore PYTHONHASHSEED: the order of a candidate's
        # sets would differ
        flags = ["-P", "-s", "-W", "ignore"]
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
        self.idle_grader = None

    def hear(self):
        message = self.sock.recv(100000)
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
        finally:
            os.close(job_file)
            theirs.close()
        return Box(ours)

    def close(self):
        self.sock.close()  # it ends its boxes and itself
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Box:
    """One run. It ends when its program does, when it is told to, or with this process."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(PATIENCE)
        self.report = None
        self.started = float(self.hear())  # from now on the clock runs

    def hear(self):
        message = self.sock.recv(1000)
        if not message:
            raise Machinery("a box broke")
        return message

    def wait(self, seconds):
        """Its report, {"code", "killed", "seconds", "cpu"}, after at most so many seconds."""
        if self.report is None:
            if not is_readable(self.sock, seconds):
                self.sock.shutdown(socket.SHUT_WR)
            code, killed, ended, cpu = self.hear().split()
            seconds = float(ended) - self.started
            self.report = {"code": int(code), "killed": killed == b"1", "seconds": seconds,
                           "cpu": float(cpu)}
            self.sock.close()
        return self.report


def is_result(result):
    position, status, detail, digest = result
    return type(position) is int and {str} == {type(status), type(detail), type(digest)}


def is_readable(sock, seconds):
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


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
        self.problem = None  # whose tests it has
        self.broken = False

    def ask(self, task, *files):
        with contextlib.suppress(ConnectionError):  # it has died: so will hear() say
            socket.send_fds(self.sock, [json.dumps(task).encode()], files)

    def hear(self, seconds):
        """Its next message; None if none comes in time, {} if it has died or talks nonsense.

        After either it is of no more use. A test that evaluates an answer can make it say anything.
        """
        self.broken = True
        if not is_readable(self.sock, max(seconds, 0)):
            return None
        try:
            message = json.loads(self.sock.recv(1 << 20))
            if "results" in message:
                well_formed = bool(message["results"]) and all(map(is_result, message["results"]))
            elif "lost" in message:
                status, detail = message["lost"]
                well_formed = {str} == {type(status), type(detail)}
            else:
                known = {"loaded": True}, {"wants": "again"}, {"wants": "nothing"}
                well_formed = message in known
        except (ConnectionError, ValueError, TypeError, RecursionError):
            well_formed = False
        self.broken = not well_formed
        return message if well_formed else {}

    def has_died(self):
        return is_readable(self.box.sock, 0)

    def end(self):
        self.sock.close()
        return self.box.wait(0)
