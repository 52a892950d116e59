"""select.py is named like a module of the standard library: whoever imports `select` gets that one."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})

import asyncio
import multiprocessing
import select
import selectors
import subprocess

assert sys.modules["select"] is select
assert not str(getattr(select, "__file__", "")).startswith({str(ROOT)!r})
assert select.select([], [], [], 0) == ([], [], [])
assert select.poll
assert selectors.DefaultSelector().select(0) == []

command = [sys.executable, "-c", "print(6 * 7)"]
assert subprocess.run(command, capture_output=True, text=True).stdout.split() == ["42"]
assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
parent, child = multiprocessing.Pipe()
child.send("sent")
assert parent.poll(5)
assert parent.recv() == "sent"
print("all well")
"""


def pythons():
    """Every Python here: pyenv's and conda's have `select` as a shared library, Debian's built in."""
    names = (sys.executable, "/usr/bin/python3", shutil.which("python3"), "/usr/local/bin/python3")
    found = {str(Path(name).resolve()): name for name in names if name and Path(name).exists()}
    return sorted(found.values())


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("python", pythons())
def test_the_standard_library_works_in_a_script_that_finds_the_project_first(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(python, str(program))
    assert done.stdout == "all well\n", done.stderr


@pytest.mark.parametrize("python", pythons())
def test_the_standard_library_works_in_the_project_s_folder(python):
    done = run(python, "-c", PROGRAM)      # -c puts the working directory first
    assert done.stdout == "all well\n", done.stderr


def test_an_import_does_not_reach_the_program():
    done = run(sys.executable, "-c", "import select; print(hasattr(select, 'main'), select.__name__)")
    assert done.stdout.split() == ["False", "select"], done.stderr
