"""docs/figures.py: the tables of what lies in a folder, and no more than that; the two figures."""
import importlib.util
import json

import pytest

from conftest import error
from data.rows import ROOT, write_rows

GROUPS = {
    "reviewed × easy × weak": 0.5,
    "reviewed × easy × strong": 0.5,
    "reviewed × hard × weak": 1.0,
    "reviewed × hard × strong": 2.5,
    "scraped × hard × strong": 0.2,
}


@pytest.fixture(scope="module")
def figures():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("daj_figures", ROOT / "docs" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(path, accuracy, steps=2, asked_for=2):
    """A folder as train_bilevel.py leaves it: `steps` of the `asked_for`, accuracy at the end."""
    path.mkdir(parents=True)
    (path / "settings.json").write_text(json.dumps({"steps": asked_for}))
    evaluation = {"eval_both_orders": 0.25, "eval_tokens": 20.0}
    write_rows(path / "metrics.jsonl", [
        {"step": 0, "eval_accuracy": 0.5, **evaluation},
        {"step": 1, "weight": GROUPS},
        {"step": steps, "weight": GROUPS, "eval_accuracy": accuracy, **evaluation},
    ])
    weights = []
    for group, weight in GROUPS.items():
        domain, difficulty, policy = group.split(" × ")
        weights.append({"weight_domain": group, "domain": domain, "difficulty": difficulty,
                        "policy": policy, "weight": weight})
    write_rows(path / "weights.jsonl", weights)


def chosen(path):
    """A selections.jsonl in which one problem has a passing program and a failing one."""
    passed = {"random": 0.5, "mean log-prob": 0.0, "majority": 0.5, "public tests": 1.0,
              "judge, trained": 1.0, "oracle": 1.0}
    write_rows(path / "selections.jsonl", [
        {"problem_id": "p", "method": method, "n": 8, "passed": share}
        for method, share in passed.items()])


def thought(path, right):
    """A thinking-JUDGE-SEED.jsonl of one pair: right without a Wait or not, always after one."""
    def said(verdict, tokens):
        return {"verdict": verdict, "tokens": tokens, "text": "try p 1 -> 2\n"}
    waits = [said("A" if right else "B", 20)] + [said("A", 40 + 20 * n) for n in range(4)]
    write_rows(path, [{
        "instance_id": "p:a>b", "right": "A", "waits": waits, "votes": [said("A", 20)] * 5,
        "natural": said("A", 30), "cut": said("B", 20), "examples": {"p": True}}])


@pytest.fixture
def runs(tmp_path):
    """A folder of some finished runs and of one that was killed."""
    for seed, accuracy in enumerate((0.7, 0.8, 0.9)):
        trained(tmp_path / f"instance-{seed}", accuracy)
        chosen(tmp_path / f"instance-{seed}")
        trained(tmp_path / f"size-8-meta-{seed}", accuracy - 0.1)
        trained(tmp_path / f"consistent-{seed}", accuracy - 0.2)
    trained(tmp_path / "size-8-instance-0", 0.6)
    trained(tmp_path / "size-4-meta-0", 0.9, steps=1, asked_for=2)
    thought(tmp_path / "thinking-base-0.jsonl", right=False)
    return tmp_path


def cells(printed, first):
    """The cells of the table's row that begins with `first`."""
    line, = [line for line in printed.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_sizes_of_the_meta_set_with_their_intervals_and_without_what_is_missing(
        figures, runs, capsys):
    figures.main(["--runs", str(runs), "--out", str(runs)])
    printed = capsys.readouterr().out
    # 4.30 is Student's t for 3 seeds, which are 10 points apart: 4.30 · 10 / √3 = 24.8.
    assert cells(printed, "8")[1:] == [
        "60.0 (1 of 5 seeds)", "–", "70.0 ± 24.8 (3 of 5 seeds)", "–"]
    assert cells(printed, "all")[1:] == ["80.0 ± 24.8 (3 of 5 seeds)", "–", "–", "–"]
    assert "| 4 |" not in printed     # its only run was killed
    assert "| 16 |" not in printed


def test_the_reward_for_both_orders_has_a_row(figures, runs, capsys):
    figures.main(["--runs", str(runs), "--out", str(runs)])
    assert cells(capsys.readouterr().out, "consistent")[1] == "60.0 ± 24.8 (50, 60, 70)"


def test_what_is_missing_is_said(figures, runs, capsys):
    figures.main(["--runs", str(runs), "--out", str(runs)])
    missing = capsys.readouterr().out.splitlines()[-1].removeprefix("missing: ").split(", ")
    assert "size-4-meta-0" in missing
    assert "instance-3" in missing
    assert "thinking-base-1" in missing
    assert "instance-0" not in missing
    assert "size-8-meta-2" not in missing
    assert "thinking-base-0" not in missing
    assert "consistent-3" in missing
    assert "consistent-2" not in missing


def test_waits_stand_beside_the_votes_of_as_many_tokens(figures, runs, capsys):
    figures.main(["--runs", str(runs), "--out", str(runs)])
    printed = capsys.readouterr().out
    thinking_on = cells(printed, "base (1 of 5 seeds) | thinking on")
    assert thinking_on[2:6] == ["0.0 (20)", "100.0 (40)", "100.0 (60)", "100.0 (100)"]


def test_a_tie_of_votes_counts_half_and_no_verdict_is_wrong(figures):
    votes = [{"verdict": verdict, "tokens": 10} for verdict in (None, "A", "B", "B")]
    shares, tokens = figures.by_votes([{"right": "A", "votes": votes}])
    assert shares.tolist() == [0.0, 1.0, 0.5, 0.0]
    assert tokens.tolist() == [10, 20, 30, 40]


def test_both_figures_are_drawn(figures, runs):
    out = runs / "figures"
    figures.main(["--runs", str(runs), "--out", str(out)])
    for name in ("training.png", "waits.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert (out / name).stat().st_size > 20_000


def test_a_folder_without_runs_is_refused(figures, tmp_path):
    message = error(figures.main, ["--runs", str(tmp_path), "--out", str(tmp_path)])
    assert message.startswith(f"--runs {tmp_path}: no finished run in it")
    assert "bash reproduce.sh" in message
