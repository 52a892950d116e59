"""reproduce_gpu.sh at toy size on a CPU: every piece runs, writes its own block, and goes on where
it was cut off."""
import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from data.rows import ROOT, UserError

sys.path.append(str(ROOT / "docs"))
import gpu  # noqa: E402  docs/gpu.py

KERNELS = "kernels/RESULTS.md"
OTHERS = "docs/RESULTS-gpu.md"


def measure(folder, *pieces):
    """Run these pieces of toy size, with everything below this folder."""
    numbers = [str(number) for number in pieces]
    gpu.main(["--size", "toy", "--device", "cpu", "--work", str(folder), "--piece", *numbers])


def block(text, number):
    """What the file says between the markers of a piece that ran here; others may be of a GPU."""
    here = r"a CPU \(\w+\)"
    markers = rf"<!-- piece {number}, {here} -->\n(.*?)<!-- end of piece {number}, {here} -->\n"
    (found,) = re.findall(markers, text, re.S)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder in which all pieces have run."""
    folder = tmp_path_factory.mktemp("gpu")
    measure(folder, *gpu.PIECES)
    return folder


def test_every_block_names_the_day_the_device_and_the_versions(results):
    kernels = (results / KERNELS).read_text()
    others = (results / OTHERS).read_text()
    for number in gpu.PIECES:
        text = kernels if number <= 3 else others
        begins = r"## .*, a CPU \(\w+\)\n\n\d{4}-\d\d-\d\d, torch " + re.escape(version("torch"))
        assert re.match(begins, block(text, number))
        assert "Wrong" not in block(text, number)


def test_what_the_kernels_file_said_before_stays(results):
    before = (ROOT / KERNELS).read_text()
    assert (results / KERNELS).read_text().startswith(before.rstrip())


def test_tests_ran_and_passed(results):
    assert re.search(r"[1-9]\d* passed", block((results / KERNELS).read_text(), 1))


@pytest.mark.parametrize("number, hidden", [(2, 16), (3, 32)])
def test_the_benchmark_has_a_table_for_each_mode(results, number, hidden):
    text = block((results / KERNELS).read_text(), number)
    for mode in gpu.bench.MODES:
        assert f"**{mode}**, T = 16, H = {hidden}, V = 200" in text
    assert text.count("| ours |") == len(gpu.bench.MODES)


def test_the_signal_in_bf16_is_near_that_of_fp32(results):
    text = block((results / OTHERS).read_text(), 4)
    errors = [float(error) for error in re.findall(r"\| ([\d.e-]+) \| \d of \d \|", text)]
    assert len(errors) == 4
    assert 0 < max(errors) < 0.1


def test_every_part_of_a_step_is_timed_and_beside_it_stands_the_paper(results):
    text = block((results / OTHERS).read_text(), 5)
    for variant in gpu.VARIANTS:
        assert re.search(rf"\| {re.escape(variant)} \| \d+ \| 6 \|( [\d.]+ \|){{4}}", text)
        assert f"| {variant}, on paper |" in text


@pytest.mark.parametrize("number", [6, 7])
def test_a_training_run_says_how_its_judge_did(results, number):
    text = block((results / OTHERS).read_text(), number)
    assert re.search(r"\| accuracy \| [\d.]+ \| [\d.]+ \|", text)
    assert "7 steps, seconds each: rollout" in text
    assert str(ROOT) not in text.replace(str(results), "")


def test_one_piece_by_the_shell_replaces_its_own_block_alone(results):
    before = (results / KERNELS).read_text()
    own = block(before, 2)
    old = before.replace(own, "old\n")
    (results / KERNELS).write_text(old)
    python_first = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = {**os.environ, "SIZE": "toy", "WORK": str(results), "PATH": python_first}
    command = ["bash", str(ROOT / "reproduce_gpu.sh"), "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = (results / KERNELS).read_text()
    new = block(after, 2)
    assert new != "old\n"
    assert after.replace(new, "old\n") == old


def test_a_piece_that_was_cut_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    compare = gpu.bench.compare
    measured = []

    def cut_off_after_two(n_tokens, n_hidden, mode, cfg):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(mode)
        return compare(n_tokens, n_hidden, mode, cfg)

    def not_cut_off(n_tokens, n_hidden, mode, cfg):
        measured.append(mode)
        return compare(n_tokens, n_hidden, mode, cfg)

    monkeypatch.setattr(gpu.bench, "compare", cut_off_after_two)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, 2)
    assert not (tmp_path / KERNELS).exists()
    monkeypatch.setattr(gpu.bench, "compare", not_cut_off)
    measure(tmp_path, 2)
    assert measured == list(gpu.bench.MODES)  # each once
    measure(tmp_path, 2)
    assert measured == 2 * list(gpu.bench.MODES)  # a finished piece is measured anew


def test_a_wrong_signal_is_written_down_and_fails(tmp_path, monkeypatch):
    gradients = gpu.SignalOf.gradients

    def wrong_in_bf16(self, groups):
        found = gradients(self, groups)
        return -found if self.judge.model.dtype == torch.bfloat16 else found

    monkeypatch.setattr(gpu.SignalOf, "gradients", wrong_in_bf16)
    with pytest.raises(UserError, match=r"piece 4: ∇ℓ in bf16, ṽ of fp32: relative error 2"):
        measure(tmp_path, 4)
    text = block((tmp_path / OTHERS).read_text(), 4)
    assert "**Wrong: ∇ℓ in bf16" in text
    assert "0 of" in text


# ---------------------------------------------------------------- blocks

def test_a_block_is_added_at_the_end_and_then_replaced(tmp_path):
    path = tmp_path / "R.md"
    path.write_text("# Title\n\ntext\n")
    gpu.write_block(path, "one", "first")
    gpu.write_block(path, "two", "second")
    gpu.write_block(path, "one", "third\n")
    assert path.read_text() == ("# Title\n\ntext\n\n<!-- one -->\nthird\n<!-- end of one -->\n\n"
                                "<!-- two -->\nsecond\n<!-- end of two -->\n")


@pytest.mark.parametrize("broken", [
    "<!-- one -->\n",
    "<!-- end of one -->\n",
    "<!-- end of one -->\n<!-- one -->\n",
    2 * "<!-- one -->\n<!-- end of one -->\n",
])
def test_a_block_without_a_pair_of_markers_is_left_alone(tmp_path, broken):
    path = tmp_path / "R.md"
    path.write_text(broken)
    with pytest.raises(UserError, match="R.md: the markers of the block 'one' are not a pair"):
        gpu.write_block(path, "one", "text")
    assert path.read_text() == broken


# ---------------------------------------------------------------- refused

def test_full_size_needs_a_gpu():
    with pytest.raises(UserError, match="--device cpu: --size 1.5B needs a GPU"):
        gpu.main(["--device", "cpu"])


def test_an_unknown_piece_is_refused():
    with pytest.raises(UserError, match="--piece 9: expected numbers from 1 to 7"):
        gpu.main(["--size", "toy", "--piece", "9"])
