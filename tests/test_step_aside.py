"""select.py is named like a module of the standard library. Whoever imports `select` must get that one."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import json, sys
sys.path.insert(0, {root!r})
import subprocess, selectors, asyncio, multiprocessing, select
from importlib.machinery import BuiltinImporter, PathFinder
builtin = BuiltinImporter.find_spec("select") is not None
assert sys.modules["select"] is select and select.poll and select.select([], [], [], 0) == ([], [], [])
assert not str(getattr(select, "__file__", "")).startswith({root!r})
assert subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout == "42\\n"
assert asyncio.run(asyncio.sleep(0, "slept")) == "slept"
parent, child = multiprocessing.Pipe()
child.send("sent")
assert parent.poll(5) and parent.recv() == "sent"
assert selectors.DefaultSelector().select(0) == []
print(json.dumps(builtin))
"""


def pythons():
    """Every Python here, by its real path: pyenv's and conda's have `select` as a shared library, Debian's built in."""
    found = {str(Path(path).resolve()): path for path in (sys.executable, "/usr/bin/python3", shutil.which("python3"), "/usr/local/bin/python3") if path and Path(path).exists()}
    return sorted(found.values())


@pytest.mark.parametrize("python", pythons())
@pytest.mark.parametrize("start", ["script", "folder"])
def test_standard_library_works_from_the_project_root(python, start, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT)))
    command = [python, str(program)] if start == "script" else [python, "-c", PROGRAM.format(root=str(ROOT))]  # -c puts the working directory first
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) in (True, False)


def test_nothing_else_of_the_file_runs(tmp_path):
    """Below the part that steps aside stands the program; an import must not reach its names."""
    done = subprocess.run([sys.executable, "-c", "import select; print(hasattr(select, 'main'), select.__name__)"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "select"], done.stderr
