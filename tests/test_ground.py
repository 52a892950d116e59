"""docs/ground.py: what a judge can do before it is trained, and whether it can learn the task."""
import importlib.util
import json
import sys

import pytest

from data.pairs import Pair
from data.rows import EDGES, ROOT, read_rows, write_rows

sys.path.insert(0, str(ROOT / "docs"))
spec = importlib.util.spec_from_file_location("daj_ground", ROOT / "docs" / "ground.py")
ground = importlib.util.module_from_spec(spec)
sys.modules["daj_ground"] = ground
spec.loader.exec_module(ground)


def pair(number, right):
    a = {"candidate_id": f"a{number}", "code": "x"}
    b = {"candidate_id": f"b{number}", "code": "xyz"}
    return Pair(str(number), {"problem_id": str(number // 2)}, a, b, right, "")


def test_a_judge_that_always_says_a_is_right_half_of_the_time_and_never_in_both_orders():
    pairs = [pair(k, "AB"[k % 2]) for k in range(8)]
    found = ground.figures(pairs, ["A"] * 16)
    assert found["right"] == [50, 50, 50]
    assert found["both"] == [0, 0, 0]
    assert found["says A"] == 100


def test_no_verdict_is_a_wrong_one():
    pairs = [pair(k, "A") for k in range(4)]
    found = ground.figures(pairs, ["A", None] * 4)
    assert found["right"][0] == 50
    assert found["both"][0] == 0
    assert found["no verdict"] == 50


def test_the_interval_is_over_problems():
    pairs = [pair(k, "A") for k in range(8)]  # two a problem
    right = ["A", "B"] * 2 + ["B", "A"] * 2
    found = ground.figures(pairs, right * 2)
    assert found["both"][:2] == [50, 0]


def test_the_shortest_does_not_depend_on_the_order():
    assert ground.shortest([pair(0, "A")]) == ["A", "B"]


def test_a_program_is_known_by_its_problem_too():
    """Two problems have candidates of one name."""
    row = {"candidate_id": "weak-0"}
    assert ground.program_of(pair(0, "A"), row) != ground.program_of(pair(2, "A"), row)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run of a few supervised steps on few problems."""
    folder = tmp_path_factory.mktemp("ground")
    rows = read_rows(EDGES / "labelled.jsonl")
    few = []
    for split in ("train", "meta", "test"):
        names = sorted({row["problem_id"] for row in rows if f"/{split}/" in row["problem_id"]})
        few += [row for row in rows if row["problem_id"] in names[:6]]
    write_rows(folder / "labelled.jsonl", few)
    ground.main(["--labelled", str(folder / "labelled.jsonl"), "--reason", "8", "--steps", "12",
                 "--lr", "2e-3", "--batch", "8", "--check-every", "6", "--choose", "4", "--device", "cpu",
                 "--out", str(folder)])
    return folder


def test_every_way_to_judge_has_its_row(out):
    rows = json.loads((out / "ground.json").read_text())
    found = {(row["judge"], row["way"]) for row in rows if row["split"] == "test"}
    assert {way for judge, way in found if judge == "untrained"} == {
        "pointwise", "at once", "at once, summed", "reasoned"}
    assert {judge for judge, way in found if way == "at once"} == {"untrained", "6 steps", "12 steps"}


def test_best_of_n_is_chosen_by_the_verdicts_of_the_pairs(out):
    """The one that wins most of its two rounds, each asked in both orders."""
    chosen = {row["method"]: row for row in read_rows(out / "selections.jsonl") if row["n"] == 4}
    assert {"random", "shortest", "judge, untrained", "judge, untrained, pointwise"} <= set(chosen)
    settings = ground.Settings(labelled=str(out / "labelled.jsonl"), device="cpu").training()
    judge = ground.tb.Judge(str(EDGES / "judge"), settings)
    problems = ground.select.read_problems(settings.problems)
    for row in read_rows(out / "judgments.jsonl"):
        if row["b"] is None:
            continue
        texts = {r["candidate_id"]: r for r in read_rows(out / "labelled.jsonl")
                 if r["problem_id"] == row["problem_id"]}
        shown = Pair("", problems[row["problem_id"]], texts[row["a"]], texts[row["b"]], "", "")
        lead = float(ground.lead_of_a(judge, [shown])[0])
        assert row["verdict"] == ("A" if lead > 0 else "B")


def test_pointwise_does_not_depend_on_which_pairs_are_asked_together(out):
    settings = ground.Settings(labelled=str(out / "labelled.jsonl"), device="cpu").training()
    judge = ground.tb.Judge(str(EDGES / "judge"), settings)
    (_, _, test), _ = ground.read_pairs(settings)
    together = ground.pointwise(judge, test[:6])
    alone = [verdict for one in test[:6] for verdict in ground.pointwise(judge, [one])]
    assert together == alone


def logprob_of_verdict(judge, pair):
    """Of "<best>A</best>" as a whole answer."""
    judge = ground.tb.Judge(str(judge), ground.Settings(device="cpu").training())
    answers = [ground.verdict_ids(judge, "A")]
    packs = ground.make_packs([judge.prompt_ids(pair)], answers, judge.pad, 10**6, "cpu")
    with ground.torch.no_grad():
        return float(judge.score(packs[0]).sum())


def test_a_judge_that_was_taught_verdicts_is_saved(out):
    settings = ground.Settings(labelled=str(out / "labelled.jsonl"), device="cpu").training()
    (train, _, _), _ = ground.read_pairs(settings)
    before = logprob_of_verdict(EDGES / "judge", train[0])
    after = logprob_of_verdict(out / "judge", train[0])
    assert after > before + 1
