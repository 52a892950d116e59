"""docs/thinking.py: what a judge says after forced Waits, in votes, by itself, after one look."""
import sys

import pytest

from data.judge import parse_verdict
from data.pairs import read_pairs
from data.rows import EDGES, ROOT, read_rows
from sample import Completion, stream
from train_bilevel import Judge, Settings

sys.path.insert(0, str(ROOT / "docs"))
import thinking  # noqa: E402

LOOK = "try q 940 -> 160\nA: flip 059 add 160.\nB: flip 059 add 160.\nboth.\n"


def test_every_pair_is_asked_in_both_orders_after_a_wait_and_in_votes(tmp_path):
    out = tmp_path / "thinking.jsonl"
    thinking.main(["--limit", "2", "--waits", "1", "--votes", "1", "--device", "cpu",
                   "--out", str(out)])
    rows = read_rows(out)
    asked = {(row["instance_id"], row["right"]) for row in rows}
    pairs = {pair for pair, _ in asked}
    assert len(rows) == 4
    assert len(pairs) == 2
    assert asked == {(pair, right) for pair in pairs for right in ("A", "B")}
    for row in rows:
        first, second = row["waits"]
        assert second["text"].startswith(first["text"])
        assert second["tokens"] > first["tokens"]
        assert len(row["votes"]) == 1
        assert list(row["examples"]) == ["p", "q", "r", "s"]
        for said in (first, second, *row["votes"], row["natural"], row["cut"]):
            assert said["verdict"] in (parse_verdict(said["text"]), None)


@pytest.fixture(scope="module")
def judge():
    settings = Settings(device="cpu", max_new_tokens=112)
    return Judge(str(EDGES / "judge"), settings)


@pytest.fixture(scope="module")
def prompt(judge):
    (_, _, pairs), _ = read_pairs(judge.cfg)
    return judge.prompt_ids(pairs[0])


def test_a_verdict_that_is_asked_for_after_one_look_is_not_begun_by_the_judge(judge, prompt):
    def ids_of(text):
        return judge.tokenizer(text, add_special_tokens=False).input_ids

    more = Completion(ids_of(LOOK) + ids_of("Wait\n") + ids_of(LOOK), 0.0, False)
    cut, = thinking.cut_after_one_look(judge, [prompt], [more], [stream(0, "test")])
    asked = ids_of("<best>")
    assert judge.decode(cut).startswith(LOOK + "<best>")
    assert [cut.ids[t] for t in cut.forced] == asked
    assert thinking.as_row(judge, cut)["tokens"] == len(cut.ids) - len(asked)


def test_a_judgment_of_one_look_is_not_cut(judge, prompt):
    one = Completion(judge.tokenizer(LOOK, add_special_tokens=False).input_ids, 0.0, False)
    assert thinking.cut_after_one_look(judge, [prompt], [one], [stream(0, "test")]) == [one]
