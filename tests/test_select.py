"""select.py: scripted judges get exactly what they deserve, judgments are paid for once, and a choice can be explained."""
import argparse
import importlib.util
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest

from data.rows import ROOT, TINY, RowError, read_rows
from sample import Completion

spec = importlib.util.spec_from_file_location("daj_select", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)


def candidate(name, passed=False, **more):
    return {"problem_id": "p", "candidate_id": name, "policy": "weak", "code": f"# {name}\n", "passed": passed, "status": "s", **more}


def some(*labels):
    """Candidates c0, c1, ... with these labels and different programs."""
    return [candidate(f"c{k}", passed) for k, passed in enumerate(labels)]


def judged(candidates, judge, rounds=8, calls=None):
    """Rows of judgments as the cache has them; judge(a, b) -> "A", "B" or None on two candidates."""
    rows = {c["candidate_id"]: c for c in candidates}
    calls = calls if calls is not None else select.schedule("p", [c["candidate_id"] for c in select.programs(candidates)], rounds, 0)
    return [{"round": k, "a": a, "b": b, "verdict": judge(rows[a], rows[b]), "text": f"{a} or {b}"} for k, a, b in calls]


def everyone_meets(candidates):
    return [(0, a["candidate_id"], b["candidate_id"]) for a, b in itertools.permutations(candidates, 2)]


def perfect(a, b):
    return "A" if a["passed"] else "B"  # between two of a kind it has nothing to say, and says A or B


def always_a(a, b):
    return "A"


def silent(a, b):
    return None


# ---------------------------------------------------------------- who meets whom

@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_every_round_is_a_perfect_matching_in_both_orders(n):
    ids = [f"c{k}" for k in range(n)]
    calls = select.schedule("p", ids, 8, 0)
    assert len(calls) == 8 * 2 * (n // 2) == len(set(calls))
    for k in range(8):
        met = [(a, b) for r, a, b in calls if r == k]
        assert {(b, a) for a, b in met} == set(met) and all(a != b for a, b in met)  # each pair in both orders
        assert len({frozenset(pair) for pair in met}) == n // 2
        shown = [name for pair in met for name in pair]
        assert all(shown.count(name) in (0, 2) for name in ids)  # nobody meets two rivals in one round
    assert calls[0::2] == [(k, b, a) for k, a, b in calls[1::2]]  # the two orders stand side by side


def test_who_sits_out_is_drawn_anew_in_every_round():
    ids = list("abc")
    out = [set(ids) - {a for r, a, _ in select.schedule("p", ids, 20, 0) if r == k} for k in range(20)]
    assert all(len(names) == 1 for names in out) and set.union(*out) == set(ids)


def test_more_rounds_extend_fewer_and_nothing_else_changes_them():
    ids = [f"c{k}" for k in range(6)]
    long = select.schedule("p", ids, 8, 0)
    for rounds in range(8):
        assert select.schedule("p", ids, rounds, 0) == long[:rounds * 6]
    assert select.schedule("q", ids, 8, 0) != long and select.schedule("p", ids, 8, 1) != long


def test_a_lone_program_meets_nobody():
    assert select.schedule("p", ["c0"], 8, 0) == select.schedule("p", [], 8, 0) == []
    assert select.by_votes(some(True), []).tolist() == [1.0]


def test_equal_programs_are_judged_once_as_the_first_of_them():
    rows = [candidate("c0", code="x"), candidate("c1", code="y"), candidate("c2", code="x"), candidate("c3", code="z"), candidate("c4", code="y")]
    assert {c["candidate_id"] for c in select.programs(rows)} == {"c0", "c1", "c3"}
    p = select.by_votes(rows, judged(rows, always_a))
    assert p == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0])


def test_programs_keep_the_order_of_the_candidates():
    rows = [candidate("c0", code="x"), candidate("c1", code="y"), candidate("c2", code="x")]
    assert [c["candidate_id"] for c in select.programs(rows)] == ["c0", "c1"]


# ---------------------------------------------------------------- judges that are known

@pytest.mark.parametrize("labels", [(1, 0), (1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0, 1), (1, 0, 0, 0, 0, 0, 0, 0)])
@pytest.mark.parametrize("judge", [always_a, silent, lambda a, b: "B"], ids=["always A", "never parses", "always B"])
def test_a_judge_that_does_not_read_chooses_as_chance_does(judge, labels):
    rows = some(*map(bool, labels))
    p = select.by_votes(rows, judged(rows, judge))
    assert p.tolist() == [1 / len(rows)] * len(rows)
    assert float(sum(q * r["passed"] for q, r in zip(p, rows))) == pytest.approx(sum(labels) / len(labels))


@pytest.mark.parametrize("says", [("A", "B"), ("A", "B", None)], ids=["always parsed", "sometimes parsed"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_noise_chooses_as_chance_does_on_average_over_all_it_could_say(n, says):
    """Exact: one round is played in all its possible ways, the one who sits out is any."""
    rows, total, cases = some(*[False] * n), [Fraction(0)] * n, 0
    for order in itertools.permutations(range(n)):
        calls = [(0, f"c{i}", f"c{j}") for x, y in zip(order[0::2], order[1::2]) for i, j in ((x, y), (y, x))]
        for verdicts in itertools.product(says, repeat=len(calls)):
            said = iter(verdicts)
            for k, p in enumerate(select.by_votes(rows, judged(rows, lambda a, b: next(said), calls=calls))):
                total[k] += Fraction(float(p)).limit_denominator(1000)
            cases += 1
    assert [t / cases for t in total] == [Fraction(1, n)] * n


def test_noise_is_counted_exactly():
    rows, said = some(False, False, True, False), iter(["A", "A", "B", None, "A", "B", "B", "A"])
    calls = [(0, "c0", "c1"), (0, "c1", "c0"), (0, "c2", "c3"), (0, "c3", "c2"), (1, "c0", "c2"), (1, "c2", "c0"), (1, "c1", "c3"), (1, "c3", "c1")]
    rows_judged = judged(rows, lambda a, b: next(said), calls=calls)
    # won: c0, c1, c3, nobody, then c0, c0, c3, c3
    assert select.votes(rows, rows_judged) == {"c0": (3, 4), "c1": (1, 4), "c2": (0, 4), "c3": (3, 4)}
    assert select.by_votes(rows, rows_judged).tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize("labels", [labels for n in (2, 3, 4, 5) for labels in itertools.product((False, True), repeat=n)])
def test_a_perfect_judge_that_saw_every_pair_chooses_like_the_oracle(labels):
    rows = some(*labels)
    p = select.by_votes(rows, judged(rows, perfect, calls=everyone_meets(rows)))
    assert p.tolist() == select.BASELINES["oracle"](rows).tolist()


@pytest.mark.parametrize("n", [2, 4, 6, 8])
def test_a_perfect_judge_finds_the_only_good_program_in_one_round(n):
    rows = some(*[k == n - 1 for k in range(n)])
    assert select.by_votes(rows, judged(rows, perfect, rounds=1)).tolist() == [0.0] * (n - 1) + [1.0]
    worst = select.by_votes(rows, judged(rows, lambda a, b: "B" if a["passed"] else "A", rounds=1))
    assert worst[-1] == 0 and sum(worst) == pytest.approx(1)


def test_in_one_round_even_a_perfect_judge_misses_a_good_program_that_met_only_good_ones():
    rows = some(True, True, False, False)
    calls = [(0, "c0", "c1"), (0, "c1", "c0"), (0, "c2", "c3"), (0, "c3", "c2")]
    assert select.by_votes(rows, judged(rows, perfect, calls=calls)).tolist() == [0.25] * 4


def test_a_program_nobody_judged_is_not_chosen_before_one_that_was():
    rows = some(True, False, False)
    calls = [(0, "c1", "c2"), (0, "c2", "c1")]
    assert select.by_votes(rows, judged(rows, silent, calls=calls)).tolist() == [0, 0.5, 0.5]


def test_shares_are_compared_not_counts():
    rows = some(False, False, False)  # c0 wins 2 of 4, c1 wins 1 of 2, c2 wins 1 of 2: all share
    calls = [(0, "c0", "c1"), (0, "c1", "c0"), (1, "c0", "c2"), (1, "c2", "c0")]
    assert select.by_votes(rows, judged(rows, always_a, calls=calls)).tolist() == [1 / 3] * 3


# ---------------------------------------------------------------- the simple ways

def test_baselines_choose_what_they_say():
    rows = [candidate("c0", False, code="x" * 9, mean_logprob=-0.5, public_passed=True, output_digest="u"),
            candidate("c1", True, code="x" * 4, mean_logprob=-0.1, public_passed=True, output_digest="v"),
            candidate("c2", True, code="y" * 4, mean_logprob=-0.9, public_passed=False, output_digest="v"),
            candidate("c3", False, code="x" * 7, mean_logprob=-0.1, public_passed=None, output_digest="u"),
            candidate("c4", False, code="x" * 8, mean_logprob=-2.0, public_passed=False, output_digest=None)]
    expected = {"random": [.2] * 5, "first": [1, 0, 0, 0, 0], "shortest": [0, .5, .5, 0, 0], "mean log-prob": [0, .5, 0, .5, 0],
                "public tests": [.5, .5, 0, 0, 0], "majority": [.25, .25, .25, .25, 0], "oracle": [0, .5, .5, 0, 0]}
    assert expected.keys() == select.BASELINES.keys()
    for method, p in expected.items():
        assert select.BASELINES[method](rows).tolist() == p, method


def test_majority_takes_the_largest_cluster_and_programs_without_output_are_none():
    digests = ["u", "v", "v", None, None, None]
    assert select.majority([candidate(str(k), output_digest=d) for k, d in enumerate(digests)]).tolist() == [0, .5, .5, 0, 0, 0]


@pytest.mark.parametrize("method", ["random", "shortest", "mean log-prob", "public tests", "majority", "oracle"])
def test_where_a_way_of_choosing_sees_no_difference_all_share(method):
    rows = [candidate(f"c{k}", False, code="x") for k in range(4)]  # none passes, nothing else is known
    assert select.BASELINES[method](rows).tolist() == [.25] * 4


def test_an_interval_holds_its_mean_and_is_empty_only_for_equal_values():
    assert select.interval([1.0] * 9, 0) == "100.0 [100.0, 100.0]"
    mean, low, high = (float(x) for x in select.interval([0, 1] * 50, 0).replace("[", "").replace("]", "").replace(",", "").split())
    assert mean == 50 and 50 - 12 < low < 50 - 8 and 50 + 8 < high < 50 + 12  # ± 1.96 · sqrt(p(1−p)/n) is ± 9.8


# ---------------------------------------------------------------- the command, with scripted judges

LABELS = {"t/0": (1, 0), "t/1": (1, 0, 0), "t/2": (0, 1, 1, 0), "t/3": (0, 0), "t/4": (1, 1, 1)}


class Scripted:
    """Stands in for a judge: `says(good_a, good_b)` is its answer. Counts what it is asked."""
    tokens = {"A": [1, 2, 3], "B": [1, 2], None: [4]}
    texts = {(1, 2, 3): "thought, <best>A</best>", (1, 2): "thought, <best>B</best>", (4,): "no idea"}
    chat_template, pad_token_id = None, 0

    def __init__(self, says):
        self.says, self.asked, self.stop_after = says, [], None

    def decode(self, ids):
        return self.texts[tuple(ids)]

    def generate(self, model, prompts, uniforms, *_):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        assert len(uniforms) == len(prompts)
        self.asked += prompts
        return [Completion(self.tokens[self.says(*prompt)] + [0], -1.0, True) for prompt in prompts]

    def install(self, monkeypatch):
        monkeypatch.setattr(select, "load_model", lambda *a, **k: (None, self))
        monkeypatch.setattr(select, "end_ids", lambda *a: [0])
        monkeypatch.setattr(select, "judge_ids", lambda tokenizer, problem, a, b: ("good" in a, "good" in b))
        monkeypatch.setattr(select, "generate", self.generate)
        return self


def good_over_bad(a, b):
    return "A" if a else "B"


def dump(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def world(tmp_path):
    """Flags of the command on a few problems; each is judged in 8 rounds by a judge called "scripted"."""
    problems = [{"problem_id": pid, "prompt": f"Task {pid}\n", "entry_point": "f", "public_tests": [], "tests": [], "domain": "d",
                 "difficulty": "easy", "split": "test"} for pid in LABELS]
    rows = [{**candidate(f"c{k}", bool(good)), "problem_id": pid, "code": f"# {'good' if good else 'bad'} {k}\n", "mean_logprob": -1.0}
            for pid, labels in LABELS.items() for k, good in enumerate(labels)]
    return ["--problems", str(dump(tmp_path / "p.jsonl", problems)), "--labelled", str(dump(tmp_path / "l.jsonl", rows)),
            "--judge", "scripted", "--out", str(tmp_path / "s.jsonl")]


def scores(folder, method):
    return {row["problem_id"]: row["passed"] for row in read_rows(folder / "s.jsonl") if row["method"] == method}


def calls(rounds):
    return sum(2 * (len(labels) // 2) * rounds for labels in LABELS.values())


CHANCE = {pid: sum(labels) / len(labels) for pid, labels in LABELS.items()}


@pytest.mark.parametrize("says, expected", [
    (lambda a, b: "A", CHANCE), (lambda a, b: None, CHANCE),
    (good_over_bad, {pid: float(any(labels)) for pid, labels in LABELS.items()})], ids=["always A", "never parses", "perfect"])
def test_known_judges_score_exactly_what_they_must(says, expected, world, tmp_path, monkeypatch, capsys):
    judge = Scripted(says).install(monkeypatch)
    select.main(world)
    assert scores(tmp_path, "judge, trained") == pytest.approx(expected)
    assert scores(tmp_path, "random") == pytest.approx(CHANCE)
    assert scores(tmp_path, "oracle") == {pid: float(any(labels)) for pid, labels in LABELS.items()}
    assert len(judge.asked) == calls(8) == len(read_rows(tmp_path / "judgments.jsonl"))
    table = capsys.readouterr().out
    mixed = [pid for pid in LABELS if len(set(LABELS[pid])) == 2]
    line, = (row for row in table.splitlines() if row.startswith("judge, trained  "))
    assert f"{100 * np.mean(list(expected.values())):.1f}" in line and f"{100 * np.mean([expected[pid] for pid in mixed]):.1f}" in line
    assert line.split()[-1] == ("0%" if expected is CHANCE else "100%") and "5 problems, 3 of them with passing and failing" in table


def test_selections_hold_a_row_for_each_problem_and_method_with_what_it_cost(world, tmp_path, monkeypatch):
    Scripted(good_over_bad).install(monkeypatch)
    select.main(world)
    rows = read_rows(tmp_path / "s.jsonl", key=("problem_id", "method"))
    assert {(r["problem_id"], r["method"]) for r in rows} == set(itertools.product(LABELS, [*select.BASELINES, "judge, trained"]))
    row, = (r for r in rows if r["problem_id"] == "t/2" and r["method"] == "judge, trained")
    assert row["candidate_id"] in ("c1", "c2") and row["judge_calls"] == 32 == sum(won for won, _ in row["votes"].values())
    assert 32 * 3 <= row["judge_tokens"] <= 32 * 4 and "<best>" in row["transcript"]


def test_more_rounds_pay_only_for_the_new_ones(world, tmp_path, monkeypatch):
    judge = Scripted(good_over_bad).install(monkeypatch)
    select.main([*world, "--rounds", "3"])
    before = (tmp_path / "judgments.jsonl").read_text()
    assert len(judge.asked) == calls(3)
    select.main([*world, "--rounds", "5"])
    assert len(judge.asked) == calls(5) and (tmp_path / "judgments.jsonl").read_text().startswith(before)
    monkeypatch.setattr(select, "load_model", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    select.main([*world, "--rounds", "5"])
    select.main([*world, "--rounds", "2"])
    assert len(judge.asked) == calls(5)


@pytest.mark.parametrize("change", [["--seed", "1"], ["--temperature", "0.5"], ["--max-new-tokens", "9"], ["--judge", "another"]])
def test_another_setting_or_judge_is_judged_anew(change, world, tmp_path, monkeypatch):
    judge = Scripted(good_over_bad).install(monkeypatch)
    select.main([*world, "--rounds", "1"])
    select.main([*world, "--rounds", "1", *change])
    assert len(judge.asked) == 2 * calls(1)


def test_stopped_and_started_again_is_as_undisturbed(world, tmp_path, monkeypatch):
    noise = lambda: (lambda a, b, said=itertools.cycle("ABBAB"): next(said))  # noqa: E731
    judge = Scripted(noise()).install(monkeypatch)
    select.main([*world, "--batch-size", "5"])
    whole = [(tmp_path / name).read_text() for name in ("s.jsonl", "judgments.jsonl")]
    for name in ("s.jsonl", "judgments.jsonl"):
        (tmp_path / name).unlink()
    judge = Scripted(noise()).install(monkeypatch)
    judge.stop_after = 20
    with pytest.raises(SystemExit, match="20 judgments are kept in .*judgments.jsonl"):
        select.main([*world, "--batch-size", "5"])
    cache = tmp_path / "judgments.jsonl"
    cache.write_bytes(cache.read_bytes()[:-40])  # and a kill in the middle of the last row
    judge.says, judge.stop_after = (lambda a, b, said=itertools.islice(itertools.cycle("ABBAB"), 19, None): next(said)), None
    select.main([*world, "--batch-size", "5"])
    assert [(tmp_path / name).read_text() for name in ("s.jsonl", "judgments.jsonl")] == whole


def test_a_real_judge_goes_on_with_the_judgments_it_would_have_made(tmp_path):
    problems = {p["problem_id"]: p for p in read_rows(TINY / "problems_strong.jsonl") if p["split"] == "test"}
    problems = {pid: problems[pid] for pid in sorted(problems)[:2]}
    code = ["def f(x):\n    return x\n", "def f(x):\n    x = sorted(x)\n    return x\n", "def f(x):\n    x = x[1:]\n    return x\n"]
    rows = {pid: [candidate(f"c{k}", code=c) for k, c in enumerate(code)] for pid in problems}
    args = argparse.Namespace(rounds=3, seed=0, temperature=1.0, max_new_tokens=72, batch_size=4, device="cpu", dtype="auto")
    made = []
    for keep in (0, 5):
        path = tmp_path / f"{keep}.jsonl"
        path.write_bytes(b"".join((tmp_path / "0.jsonl").read_bytes().splitlines(True)[:keep]) if keep else b"")
        with select.Appender(path, select.JUDGMENT) as cache:
            made.append(select.judge_all(str(TINY / "judge"), problems, rows, cache, args))
    assert made[0] == made[1] and all(len(judgments) == 6 for judgments in made[0].values())
    assert any(row["verdict"] in ("A", "B") for judgments in made[0].values() for row in judgments)


def test_candidates_without_a_verdict_are_left_out_and_counted(world, tmp_path, monkeypatch, capsys):
    judge = Scripted(good_over_bad).install(monkeypatch)
    rows = read_rows(tmp_path / "l.jsonl")
    rows[0]["passed"] = None  # the good one of t/0
    dump(tmp_path / "l.jsonl", rows)
    select.main(world)
    assert "1 of 14 candidates" in capsys.readouterr().out
    assert scores(tmp_path, "oracle")["t/0"] == 0 and len(judge.asked) == calls(8) - 16


def test_explain_prints_problem_programs_votes_and_the_deciding_judgment(world, monkeypatch, capsys):
    judge = Scripted(good_over_bad).install(monkeypatch)
    select.main([*world, "--explain", "t/1"])
    said = capsys.readouterr().out
    assert len(judge.asked) == 16  # only this problem is judged
    assert "t/1" in said and "Task t/1" in said and all(f"--- c{k}: won" in said for k in range(3)) and "# good 0" in said
    assert said.index("--- c0") < said.index("--- c1") and "judgments (judge, trained); passed" in said
    won, of = (int(word) for word in said[said.index("--- c0: won"):].split()[3:6:2])
    assert won == of > 0
    deciding = said[said.index("the deciding judgment"):]
    assert "c0" in deciding and "<best>" in deciding


def test_explain_says_so_where_no_judgment_was_needed(world, tmp_path, monkeypatch, capsys):
    Scripted(good_over_bad).install(monkeypatch)
    rows = [{**row, "code": "# the same\n"} if row["problem_id"] == "t/3" else row for row in read_rows(tmp_path / "l.jsonl")]
    dump(tmp_path / "l.jsonl", rows)
    select.main([*world, "--explain", "t/3"])
    assert "no judgment was needed" in capsys.readouterr().out


def test_explain_without_a_judge_is_not_silent(world, capsys):
    with pytest.raises(SystemExit):
        select.main([*world, "--judge", "none", "--explain", "t/1"])


def test_the_table_needs_no_judge(world, tmp_path, monkeypatch):
    monkeypatch.setattr(select, "load_model", lambda *a, **k: pytest.fail("loaded a model for nothing"))
    select.main([*world, "--judge", "none"])
    assert {row["method"] for row in read_rows(tmp_path / "s.jsonl")} == set(select.BASELINES)


def test_the_untrained_judge_can_be_left_out(world, monkeypatch):
    names = []
    judge = Scripted(good_over_bad).install(monkeypatch)
    monkeypatch.setattr(select, "load_model", lambda name, *a, **k: (names.append(name), judge))
    select.main([*world, "--base-judge", "none"])
    assert names == ["scripted"]


# ---------------------------------------------------------------- what a judgment is filed under

def test_a_judge_retrained_in_its_folder_is_another_judge(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    first = select.fingerprint(str(tmp_path))
    assert first == select.fingerprint(str(tmp_path)) and first.startswith(f"{tmp_path}@")
    (tmp_path / "model.safetensors").write_bytes(b"b" * 100)
    assert select.fingerprint(str(tmp_path)) != first
    assert select.fingerprint("owner/name").startswith("owner/name@")


def test_two_large_checkpoints_that_begin_alike_are_two_judges(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(5 << 20) + b"one")
    first = select.fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(bytes(5 << 20) + b"two")
    assert select.fingerprint(str(tmp_path)) != first


def test_a_judge_saved_again_from_the_same_weights_is_the_same_judge(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    (tmp_path / "tokenizer_config.json").write_text('{"local_files_only": true}')
    first = select.fingerprint(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"local_files_only": false}')
    assert select.fingerprint(str(tmp_path)) == first


def test_other_programs_under_the_same_names_are_judged_anew(world, tmp_path, monkeypatch):
    judge = Scripted(good_over_bad).install(monkeypatch)
    select.main([*world, "--rounds", "1"])
    rows = [{**row, "code": row["code"] + "# sampled again\n"} for row in read_rows(tmp_path / "l.jsonl")]
    dump(tmp_path / "l.jsonl", rows)
    select.main([*world, "--rounds", "1"])
    assert len(judge.asked) == 2 * calls(1)


# ---------------------------------------------------------------- mistakes

def failure(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        select.main(arguments)
    code = caught.value.code
    message = capsys.readouterr().err.splitlines()[-1] if isinstance(code, int) else str(code)
    assert code and "\n" not in message
    return message


def test_a_test_set_without_mixed_outcomes_is_an_error_that_says_what_to_do(world, tmp_path, monkeypatch, capsys):
    Scripted(good_over_bad).install(monkeypatch)
    rows = [{**row, "passed": row["problem_id"] == "t/4"} for row in read_rows(tmp_path / "l.jsonl")]
    dump(tmp_path / "l.jsonl", rows)
    message = failure(world, capsys)
    assert str(tmp_path / "l.jsonl") in message and "no problem has both a passing and a failing candidate" in message and "--n" in message


def test_a_test_set_without_mixed_outcomes_is_noticed_before_the_judge_works(world, tmp_path, monkeypatch, capsys):
    judge = Scripted(good_over_bad).install(monkeypatch)
    dump(tmp_path / "l.jsonl", [{**row, "passed": True} for row in read_rows(tmp_path / "l.jsonl")])
    failure(world, capsys)
    assert not judge.asked


@pytest.mark.parametrize("change, says", [
    (["--judge", "runs/no-such-run/judge"], "--judge runs/no-such-run/judge: no such folder"), (["--split", "dev"], "split 'dev'"),
    (["--rounds", "0"], "--rounds 0: must be at least 1"), (["--explain", "t/99"], "--explain t/99"),
    (["--labelled", "/no/such.jsonl"], "/no/such.jsonl: no such file"), (["--problems", "/no/such.jsonl"], "/no/such.jsonl: no such file")])
def test_a_wrong_flag_is_named(change, says, world, capsys):
    assert says in failure([*world, *change], capsys)


@pytest.mark.parametrize("change", [["--batch-size", "0"], ["--max-new-tokens", "0"], ["--temperature", "-1"]])
def test_a_number_that_makes_no_sense_is_named(change, world, monkeypatch, capsys):
    Scripted(good_over_bad).install(monkeypatch)
    assert change[0] in failure([*world, *change], capsys)


def test_without_a_trained_judge_the_message_says_how_to_get_one(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(select, "ROOT", tmp_path)
    flags = [flag for flag in world if flag not in ("--judge", "scripted")]
    message = failure(flags, capsys)
    assert "--judge" in message and "train_bilevel.py" in message and "--judge none" in message


def test_a_bad_row_stops_it_before_any_judgment_and_keeps_those_that_are_there(world, tmp_path, monkeypatch, capsys):
    judge = Scripted(good_over_bad).install(monkeypatch)
    select.main([*world, "--rounds", "1"])
    kept, asked = (tmp_path / "judgments.jsonl").read_bytes(), len(judge.asked)
    with open(tmp_path / "l.jsonl", "a") as file:
        file.write(json.dumps({**candidate("c9"), "problem_id": "t/0", "passed": "yes"}) + "\n")
    assert f"{tmp_path / 'l.jsonl'}, line 15: field 'passed' has the wrong type" in failure(world, capsys)
    assert (tmp_path / "judgments.jsonl").read_bytes() == kept and len(judge.asked) == asked
