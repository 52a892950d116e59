"""The promises of train_bilevel.py as a command: what it refuses, what it writes, and what a killed
run comes to.

That its step is right is the matter of test_grpo_checks.py.
"""
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, StableLmForCausalLM

import train_bilevel as tb
from conftest import start_torchrun, torchrun
from data.flags import parse
from data.judge import WAIT, judge_prompt, parse_verdict
from data.lora import LoRALinear, adapters_of, merge_lora
from data.pairs import Pair, make_pairs, only, read_pairs
from data.rows import ROOT, UserError, own_folder, read_problems, read_rows, write_rows
from kernels.packing import make_packs
from sample import encode, stream


def command(cfg):
    """The flags that give these settings."""
    flags = []
    for name, value in asdict(cfg).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif isinstance(value, list):
            flags += [flag, *map(str, value)] if value else []
        elif value is not False and value != "":
            flags += [flag, str(value)]
    return flags


def strict_rows(path):
    """Rows of a file, where NaN and Infinity, which are not JSON, are errors."""
    def refuse(constant):
        raise ValueError(f"{path}: {constant}")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def metrics_of(folder):
    """The rows of metrics.jsonl, but for their times."""
    rows = strict_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def outcome(folder):
    """All that a finished run leaves behind, but for its times."""
    files = ("weights.jsonl", "transcripts.jsonl", "judge/model.safetensors")
    return metrics_of(folder), [(folder / name).read_bytes() for name in files]


# ---------------------------------------------------------------- bad input

def assert_refused(cfg, *words):
    """The command ends with one line that holds all these words."""
    with pytest.raises(UserError) as stopped:
        tb.main(command(cfg))
    message = str(stopped.value)
    for word in words:
        assert word in message
    assert "\n" not in message.strip()


@pytest.mark.parametrize("split", ["train", "meta", "test"])
def test_a_split_without_problems_is_named(settings, tmp_path, split):
    rows = [row for row in read_rows(settings().problems[0]) if row["split"] != split]
    write_rows(tmp_path / "p.jsonl", rows)
    assert_refused(settings(problems=[str(tmp_path / "p.jsonl")]), repr(split), "0 problems", "their splits: dev, ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("passed", [True, False, None])
def test_no_problem_with_both_verdicts_is_named(settings, tmp_path, passed):
    path = tmp_path / "l.jsonl"
    write_rows(path, [{**row, "passed": passed} for row in read_rows(settings().labelled)])
    assert_refused(settings(labelled=str(path)), str(path), "'train'", "0 have both", "--n")


@pytest.mark.parametrize("line, words", [
    ('{"problem_id": "x"', "not JSON"),
    ("[1]", "expected an object"),
    ('{"problem_id": "x"}', "'candidate_id' is missing"),
    ('{"problem_id": "x", "candidate_id": "y", "policy": "p", "code": "", "passed": "yes", '
     '"status": "passed"}', "'passed' has the wrong type"),
])
def test_a_malformed_row_is_named_with_file_and_line(settings, tmp_path, line, words):
    path = tmp_path / "l.jsonl"
    with open(settings().labelled, encoding="utf-8") as file:
        lines = file.read().splitlines()
    lines[2] = line
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert_refused(settings(labelled=str(path)), f"{path}, line 3", words)


@pytest.mark.parametrize("changes, words", [
    (dict(judge="./no/such/judge"), ["--judge ./no/such/judge"]),
    (dict(problems=["nothing.jsonl"]), ["nothing.jsonl", "no such file"]),
    (dict(labelled="nothing.jsonl"), ["nothing.jsonl", "no such file"]),
    (dict(domain_key=["domain", "colour"]), ["--domain-key", "'colour'"]),
    (dict(train_only=["policy"]), ["--train-only policy", "FIELD=VALUE"]),
    (dict(train_only=["policy=nobody"]), ["--train-only policy=nobody", "no training pair"]),
    (dict(train_only=["policy=nobody"], train_split=["meta"]), ["no training pair"]),
    (dict(train_only=["policy=strong", "policy=weak"]), ["each field once"]),
    (dict(train_only=["colour=red"]), ["--train-only", "'colour'"]),
    (dict(kernel="triton"), ["--kernel triton"]),
    (dict(device="cuda:99"), ["--device cuda:99"]),
    (dict(device="nothing"), ["--device nothing"]),
])
def test_what_is_not_there_is_named_with_its_flag(settings, changes, words):
    assert_refused(settings(**changes), *words)


@pytest.mark.parametrize("flag, value, bound", [
    ("batch", 0, "at least 1"),
    ("group", 1, "at least 2"),
    ("lr", 0.0, "above 0"),
    ("lr", float("nan"), "above 0"),
    ("lr", float("inf"), "finite"),
    ("max_new_tokens", 0, "at least 1"),
    ("micro_tokens", 0, "at least 1"),
    ("clip_grad", -1.0, "at least 0"),
    ("uniform_share", -0.5, "at least 0"),
    ("uniform_share", 1.0, "below 1"),
    ("beta1", 1.0, "below 1"),
    ("seed", -1, "at least 0"),
    ("seed", 10**23, "below 9223372036854775808"),
])
def test_flags_have_bounds(settings, flag, value, bound):
    spelled = f"--{flag.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{spelled} {value}: must be {bound}"):
        settings(**{flag: value})
    with pytest.raises(UserError, match=f"{spelled} {value}: must be {bound}"):
        parse(tb.Settings, tb.__doc__, [spelled, str(value)])


@pytest.mark.parametrize("changes, words", [
    (dict(steps=0), "--steps 0"),
    (dict(steps=4, freeze_judge_steps=4), "--freeze-judge-steps 4: the judge would never move"),
])
def test_runs_in_which_the_judge_would_never_move_are_refused(settings, changes, words):
    with pytest.raises(UserError, match=words):
        settings(**changes)


def test_a_judge_folder_that_holds_no_model_is_named(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as stopped:
        tb.Run(settings(judge=str(tmp_path / "empty")))
    assert f"--judge {tmp_path / 'empty'}" in str(stopped.value)


def test_another_run_in_the_folder_is_left_alone(settings, tmp_path):
    """One with other settings, or with the same settings and other rows in the same file."""
    labelled = tmp_path / "l.jsonl"
    rows = read_rows(settings().labelled)
    write_rows(labelled, rows)
    cfg = settings(steps=1, labelled=str(labelled))
    tb.main(command(cfg))
    before = outcome(tmp_path / "run")
    other = settings(steps=1, labelled=str(labelled), lr=5e-4, seed=7)
    assert_refused(other, "--lr", "--seed", str(tmp_path / "run"), "--out")
    write_rows(labelled, rows[16:])
    assert_refused(cfg, "training pairs", "--out")
    assert outcome(tmp_path / "run") == before


# ---------------------------------------------------------------- numbers that are none

@pytest.mark.parametrize("broken, scope", [
    ("the loss", lambda logp: logp * float("nan")),
    ("the gradient alone", lambda logp: logp + (logp - logp.detach()) * float("inf")),
], ids=["loss", "gradient"])
def test_nan_stops_with_step_and_pairs_and_keeps_the_checkpoint(settings, tmp_path, broken, scope):
    cfg = settings(steps=4)
    run = tb.Run(cfg)
    judge = run.trainer.judge
    score = judge.score_with_entropy

    def breaks_in_the_third_step(pack):
        logp, entropy = score(pack)
        return (scope(logp) if run.step == 2 else logp), entropy

    judge.score_with_entropy = breaks_in_the_third_step
    with pytest.raises(UserError) as stopped:
        run.train()

    message = str(stopped.value)
    assert "step 3" in message  # as metrics count: two have been taken
    assert str(tmp_path / "run/state.pt") in message
    assert "--lr" in message
    index, _ = run.trainer.data_weights.draw(stream(cfg.seed, "draw", 2))
    for i in index:
        assert run.trainer.train_pairs[i].instance_id in message
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["step"] == 2
    assert state["theta"].isfinite().all()
    assert torch.equal(run.trainer.parameters.theta, state["theta"])

    tb.Run(cfg).train()  # what stopped it is gone: it goes on
    assert [row["step"] for row in strict_rows(tmp_path / "run/metrics.jsonl")] == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- the control: the meta set itself

def test_the_meta_set_can_be_trained_on_in_part_or_beside_the_training_set(settings):
    """Its first problems that have pairs; the training pairs stay as they are."""
    (train, meta, _), _ = read_pairs(settings())
    (few, few_meta, _), _ = read_pairs(settings(train_split=["meta"], meta_problems=2))
    (both, _, _), _ = read_pairs(settings(train_split=["train", "meta"]))
    ids = [pair.instance_id for pair in meta]
    problems = list(dict.fromkeys(pair.problem["problem_id"] for pair in meta))
    assert {pair.problem["problem_id"] for pair in few} == set(problems[:2])
    assert [pair.instance_id for pair in few] == [pair.instance_id for pair in few_meta]
    assert [pair.instance_id for pair in both] == [pair.instance_id for pair in train] + ids


def test_what_is_evaluated_cannot_be_trained_on(capsys):
    with pytest.raises(SystemExit):
        parse(tb.Settings, tb.__doc__, ["--train-split", "test"])
    assert "--train-split: invalid choice: 'test'" in capsys.readouterr().err


def test_thinking_longer_gains_where_longer_judgments_are_right():
    rewards = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    tokens = torch.tensor([[30, 10, 30, 10]] * 3)
    gain = tb.length_gain(rewards, tokens)
    assert torch.allclose(gain, torch.tensor([0.25, -0.25, 0.0]))


# ---------------------------------------------------------------- rewards

def test_the_reward_is_one_for_the_right_verdict():
    pair = Pair("p:a>b", {}, {}, {}, "B", "d")
    assert tb.reward(pair, "<best>B</best>") == 1
    assert tb.reward(pair, "<best>A</best>") == 0
    assert tb.reward(pair, "no idea") == 0


REWARDS = {
    "a penalty for no verdict": {"right": 1.0, "wrong": 0.0, "none": -0.1},
    "partial credit": {"right": 1.0, "wrong": 0.25, "none": 0.0},
    "equal for all with a verdict": {"right": 0.5, "wrong": 0.5, "none": -0.1},
}


@pytest.mark.parametrize("earned", REWARDS.values(), ids=REWARDS)
def test_no_other_number_takes_a_reward_for_a_truth_value(settings, monkeypatch, tmp_path, earned):
    """Another `reward` moves the reward, the advantages and which pairs inform. The cold start's
    choice, the parse rate and the evaluation still go by the verdict."""
    def kind_of(pair, text):
        verdict = parse_verdict(text)
        if verdict is None:
            return "none"
        return "right" if verdict == pair.right else "wrong"
    monkeypatch.setattr(tb, "reward", lambda pair, text: earned[kind_of(pair, text)])

    cfg = settings(cold_start=1, steps=2, batch=8, max_new_tokens=14, train_only=["policy=strong"],
                   lr=1e-5)
    run = tb.Run(cfg)
    trainer = run.trainer
    right = {pair.instance_id: pair.right for pair in trainer.train_pairs}
    traces = strict_rows(tmp_path / "run/cold_start.jsonl")
    for row in traces:
        is_right = parse_verdict(row["text"], row["finished"]) == right[row["instance_id"]]
        assert row["kept"] == (is_right and len(row["ids"]) <= 14)
    assert 0 < sum(row["kept"] for row in traces) < len(traces)

    run.one_step()  # the cold start
    index, _ = trainer.data_weights.draw(stream(cfg.seed, "draw", 1))
    groups, _ = trainer.judge_pairs(trainer.in_random_order(index, 1), [], 1)
    kinds = []
    for group in groups:
        texts = [text if completion.finished else "" for text, completion in zip(group.texts, group.completions)]
        kinds.append([kind_of(group.pair, text) for text in texts])
    assert {"right", "wrong", "none"} == {kind for of_pair in kinds for kind in of_pair}

    rewards = torch.tensor([[earned[kind] for kind in of_pair] for of_pair in kinds])
    has_verdict = [kind != "none" for of_pair in kinds for kind in of_pair]
    varied = rewards.amax(1) > rewards.amin(1)
    assert 0 < int(varied.sum())
    run.one_step()
    row = run.metrics[-1]
    assert row["reward"] == pytest.approx(float(rewards.mean()), abs=1e-6)
    assert row["parse_rate"] == pytest.approx(sum(has_verdict) / len(has_verdict))
    assert row["zero_variance"] == pytest.approx(1 - float(varied.double().mean()))
    assert trainer.data_weights.informed.nonzero()[:, 0].tolist() == sorted(index[varied].tolist())

    run.one_step()  # with an evaluation
    transcripts = [row for row in run.transcripts if row["step"] == 3]
    is_right = [row["verdict"] == row["right"] for row in transcripts]
    assert run.metrics[-1]["eval_accuracy"] == sum(is_right) / len(is_right)
    assert 0 < sum(is_right) < len(is_right)


# ---------------------------------------------------------------- what a run writes

STEP_METRICS = {"loss", "reward", "grad_norm", "clipped", "entropy", "exact_entropy", "tokens", "truncated",
                "parse_rate", "zero_variance", "weight", "seconds"}
OUTER_METRICS = {"meta_reward", "meta_grad_norm", "meta_effective_share", "split_half_cosine",
                 "split_half_correlation", "meta_change_predicted", "meta_change_realised"}


@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["uniform", "domain", "instance", "net"])
def test_every_kind_of_weights_runs(settings, tmp_path, capsys, weights, apply):
    cfg = settings(weights=weights, apply=apply, check_hypergradient=1, train_only=["policy=strong"])
    tb.main(command(cfg))
    out = tmp_path / "run"

    rows = strict_rows(out / "weights.jsonl")
    a = [row["weight"] for row in rows]
    assert sum(a) / len(a) == pytest.approx(1, abs=1e-6)
    assert min(a) >= 0
    assert (len(set(a)) > 1) == (weights != "uniform")
    assert sum(row["visits"] for row in rows) == 8
    assert all(row["informed"] <= row["visits"] for row in rows)
    assert all(len(row["candidate_ids"]) == 2 for row in rows)
    assert len({row["instance_id"] for row in rows}) == len(rows)

    metrics = strict_rows(out / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2]
    assert ["eval_accuracy" in row for row in metrics] == [True, False, True]
    for row in metrics[1:]:
        assert STEP_METRICS <= set(row)
        assert (OUTER_METRICS <= set(row)) == (weights != "uniform")
    of_domain = {}
    for row in rows:
        of_domain.setdefault(row["weight_domain"], []).append(row["weight"])
    means = {domain: sum(some) / len(some) for domain, some in of_domain.items()}
    assert metrics[-1]["weight"] == pytest.approx(means)

    assert AutoModelForCausalLM.from_pretrained(out / "judge").num_parameters()
    assert AutoTokenizer.from_pretrained(out / "judge")
    printed = capsys.readouterr().out
    assert f"next: python select.py --problems {cfg.problems[0]} --labelled {cfg.labelled}" in printed
    assert f"--judge {out / 'judge'}" in printed
    never = sum(not row["informed"] for row in rows)
    said = f"{never} of {len(rows)} pairs could never move a weight" in printed
    assert said == (weights != "uniform")


def test_what_belongs_nowhere_is_said(settings, few_rows, tmp_path):
    """A problem of a misspelt split, and candidates whose problem file was left out."""
    problems = read_rows(few_rows / "problems.jsonl")
    labelled = read_rows(few_rows / "labelled.jsonl")
    problems[0]["split"] = problems[0]["split"].title()
    write_rows(tmp_path / "p.jsonl", problems)
    write_rows(tmp_path / "l.jsonl", [*labelled, {**labelled[0], "problem_id": "elsewhere"}])
    cfg = settings(problems=[str(tmp_path / "p.jsonl")], labelled=str(tmp_path / "l.jsonl"))
    _, notes = read_pairs(cfg)
    assert any(note.startswith("note: 1 problems are of none of the splits") for note in notes)
    assert any(f"note: 1 of {len(labelled) + 1} candidates" in note for note in notes)


def test_with_eval_every_0_a_run_is_evaluated_at_its_start_and_end(settings, tmp_path):
    tb.main(command(settings(steps=3, eval_every=0)))
    rows = strict_rows(tmp_path / "run/metrics.jsonl")
    assert ["eval_accuracy" in row for row in rows] == [True, False, False, True]


def test_the_report_counts_looks_that_left_less_than_half(settings, capsys):
    figures = {name: 0.5 for _, name, _ in tb.FIGURES}
    looks = [{"meta_effective_share": share} for share in (0.5, 0.49, 1.0)]
    weight = {"weight_domain": "d", "weight": 1.0, "visits": 1, "informed": 1}
    tb.report(settings(), [figures, *looks, figures], [weight], 3)
    assert "after 1 of 3 looks at the meta pairs" in capsys.readouterr().out


def test_the_next_command_chooses_as_the_judge_was_evaluated(settings, capsys):
    cfg = settings(eval_split="dev", temperature=1.3)
    figures = {name: 0.5 for _, name, _ in tb.FIGURES}
    weight = {"weight_domain": "d", "weight": 1.0, "visits": 1, "informed": 1}
    tb.report(cfg, [figures, figures], [weight], 3)
    next_line = capsys.readouterr().out.splitlines()[-1]
    assert next_line.startswith("next: python select.py --problems")
    assert " --split dev " in next_line
    assert " --temperature 1.3" in next_line


@pytest.mark.parametrize("changed, flags", [
    ({}, []),
    ({"eval_split": "dev"}, ["--split", "dev"]),
    ({"max_new_tokens": 200, "temperature": 0.5},
     ["--max-new-tokens", "200", "--temperature", "0.5"]),
    ({"problems": ["p.jsonl"]}, ["--problems", "p.jsonl"]),
])
def test_so_it_does_in_the_world_of_edge_cases_which_it_needs_not_name(changed, flags):
    cfg = tb.Settings(out="run", **changed)
    assert tb.flags_of_select(cfg) == [*flags, "--judge", "run/judge"]


def test_the_judge_stays_while_it_is_frozen(trainer):
    """--freeze-judge-steps 4: θ is the start's for 4 steps and moves in the fifth; weights learn
    from the second on."""
    here = trainer(freeze_judge_steps=4, steps=9)
    start = here.parameters.theta.clone()
    moved = []
    learned = []
    for step in range(5):
        here.train_step(step)
        moved.append(not torch.equal(here.parameters.theta, start))
        learned.append(bool(here.data_weights.pair_logit.abs().max() > 0))
    assert moved == [False, False, False, False, True]
    assert learned == [False, True, True, True, True]
    assert here.adam.t == 5


def test_weights_learn_in_ever_shorter_steps_and_come_to_rest(trainer, monkeypatch):
    """--weight-steps 3: the fourth step leaves them alone, and asks nothing of the meta pairs."""
    paces = []
    update = tb.DataWeights.update

    def note(self, index, s, varied, pace):
        paces.append(pace)
        return update(self, index, s, varied, pace)
    monkeypatch.setattr(tb.DataWeights, "update", note)
    here = trainer(weight_steps=3)
    rows = [here.train_step(step) for step in range(4)]
    assert paces == pytest.approx([1, 2 / 3, 1 / 3])
    assert ["meta_reward" in row for row in rows] == [True, True, True, False]
    assert rows[3]["weight"] == rows[2]["weight"]


@pytest.mark.parametrize("cold_start", [0, 1])
def test_between_two_looks_at_the_meta_pairs_weights_move_by_the_mean_of_the_last(cold_start, trainer):
    """--meta-every 2: the second step asks nothing of the meta pairs, and its s is made of v̄.

    The first step after a cold start looks.
    """
    here = trainer(meta_every=2, check_hypergradient=3, cold_start=cold_start)
    rows = []
    means = []
    weights = []
    for step in range(cold_start, cold_start + 5):
        rows.append(here.train_step(step))
        means.append(here.v_mean.clone())
        weights.append(here.data_weights.w())
    assert ["meta_reward" in row for row in rows] == [True, False, True, False, True]
    # Steps 0 and 3 are to be checked; in the latter there is nothing to check, so the next one is.
    assert ["split_half_cosine" in row for row in rows] == [True, False, False, False, True]
    assert here.v_count == 3
    assert torch.equal(means[0], means[1]) and not torch.equal(means[1], means[2])
    assert not torch.equal(weights[0], weights[1])


def test_after_a_look_that_is_not_believed_weights_stay_until_the_next(trainer, monkeypatch):
    shares = iter([0.49, 0.5, 0.49, 1.0])
    monkeypatch.setattr(tb, "effective_share", lambda importance, batch: next(shares))
    moved = []
    monkeypatch.setattr(tb.Trainer, "move_weights", lambda self, step, *_: moved.append(step))
    here = trainer(meta_every=2)
    for step in range(8):
        here.train_step(step)
    assert moved == [2, 3, 6, 7]


def test_a_shorter_step_moves_weights_less(settings):
    whole = weights_of(settings(weights="instance"), "ab")
    half = weights_of(settings(weights="instance"), "ab")
    for w, pace in ((whole, 1.0), (half, 0.5)):
        w.update(torch.tensor([0]), torch.ones(1, dtype=torch.float64), torch.tensor([True]), pace)
    assert float(whole.logits()[0]) > 0
    assert float(half.logits()[0]) == pytest.approx(float(whole.logits()[0]) / 2)


def test_without_weight_steps_weights_rest_in_the_last_seventh(settings):
    assert settings(weights="domain", steps=70, weight_steps=0).weight_steps == 60
    assert settings(weights="domain", steps=6, weight_steps=0).weight_steps == 6
    # Under uniform it is no setting, so that a run may go on with other --steps.
    assert settings(weights="uniform", steps=70, weight_steps=0).weight_steps == 0


def test_more_processes_than_pairs_are_refused(settings, monkeypatch):
    monkeypatch.setattr(tb, "WORLD_SIZE", 3)
    tb.refuse_idle_processes(settings(weights="domain"), [None] * 3, [None] * 2)
    tb.refuse_idle_processes(settings(weights="uniform"), [None] * 3, [None])
    with pytest.raises(UserError, match="2 training pairs for 3 processes"):
        tb.refuse_idle_processes(settings(weights="uniform"), [None] * 2, [None] * 2)
    with pytest.raises(UserError, match="2 meta pairs for 3 processes"):
        tb.refuse_idle_processes(settings(weights="domain"), [None] * 3, [None])


def test_weights_stay_where_the_judge_has_moved_too_far_and_the_run_says_so(settings, capsys):
    """θ' so far from θ that the meta judgments, which θ has sampled, say nothing about it."""
    run = tb.Run(settings(lr=0.1, steps=1))
    run.train()
    row = run.metrics[-1]
    assert row["meta_effective_share"] < tb.MIN_EFFECTIVE_SHARE
    assert set(run.trainer.data_weights.w().tolist()) == {1.0}
    assert int(run.trainer.data_weights.informed.sum()) == 0
    printed = capsys.readouterr().out
    assert "step 1: the weights learn nothing" in printed
    assert "after 1 of 1 looks at the meta pairs the weights learned nothing" in printed


def test_the_judge_that_is_written_is_the_judge_that_was_trained(settings, tmp_path):
    run = tb.Run(settings())
    start = run.trainer.parameters.theta.clone()
    run.train()
    assert (run.trainer.parameters.theta - start).abs().max() > 1e-5
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "run/judge")
    for p, q in zip(written.parameters(), run.trainer.judge.model.parameters(), strict=True):
        assert torch.equal(p, q)


    size = (tmp_path / "run/judge/model.safetensors").stat().st_size
    assert size < 4 * len(start) + 10000  # each parameter once


def test_ctrl_c_says_how_to_go_on(settings, monkeypatch, capsys):
    def interrupt(self, step):
        raise KeyboardInterrupt
    monkeypatch.setattr(tb.Trainer, "train_step", interrupt)
    with pytest.raises(SystemExit) as end:
        tb.main(command(settings()))
    assert end.value.code == 130  # as shells have it for a command that was interrupted
    assert "the same command goes on" in capsys.readouterr().err


# ---------------------------------------------------------------- pairs

def test_a_pair_is_one_passed_and_one_failed_program(settings):
    """The same text counts once, no verdict is no label, the side is random, and `right` names the
    one that passed."""
    problem = dict(problem_id="p", prompt="add", domain="d", difficulty="easy", split="train")
    candidates = [("a", "x", True), ("b", "x", True), ("c", "y", False), ("d", "z", None), ("e", "w", False)]
    rows = []
    for name, code, passed in candidates:
        rows.append(dict(problem_id="p", candidate_id=name, policy="w", code=code, passed=passed))
    sides = Counter()
    for seed in range(40):
        pairs = make_pairs({"p": problem}, rows, "train", settings(seed=seed, pairs_per_problem=9))
        assert sorted(pair.instance_id for pair in pairs) == ["p:a>c", "p:a>e"]
        for pair in pairs:
            sides[pair.right] += 1
            passed = {"A": pair.a["passed"], "B": pair.b["passed"]}
            other_side = "B" if pair.right == "A" else "A"
            assert passed == {pair.right: True, other_side: False}
            flipped = pair.flipped()
            assert (flipped.a, flipped.b, flipped.right) == (pair.b, pair.a, other_side)
    assert 20 < sides["A"] < 60
    assert len(make_pairs({"p": problem}, rows, "train", settings(pairs_per_problem=1))) == 1


def test_pairs_of_a_problem_do_not_depend_on_other_problems(settings):
    cfg = settings()
    problems = read_problems(cfg.problems)
    labelled = read_rows(cfg.labelled)
    whole = {pair.instance_id: pair.right for pair in make_pairs(problems, labelled, "train", cfg)}
    train = [name for name, problem in problems.items() if problem["split"] == "train"]
    for name in train[:3]:
        alone = make_pairs({name: problems[name]}, labelled, "train", cfg)
        assert alone
        for pair in alone:
            assert whole[pair.instance_id] == pair.right


def test_a_problem_in_two_splits_is_refused_unless_allowed(settings, tmp_path, capsys):
    """Also where only case, blanks and punctuation differ."""
    path = tmp_path / "p.jsonl"
    rows = read_rows(settings().problems[0])
    train = next(row for row in rows if row["split"] == "train")
    test = next(row for row in rows if row["split"] == "test")
    train["prompt"] = test["prompt"].upper().replace(" ", " \n")
    write_rows(path, rows)
    shared = f"{train['problem_id']} (train), {test['problem_id']} (test)"
    assert_refused(settings(problems=[str(path)]), "1 problems", shared, "--allow-overlap")
    tb.Run(settings(problems=[str(path)], allow_overlap=True))
    assert f"shared by splits: {shared}" in capsys.readouterr().out


def test_policies_that_splits_share_are_listed(settings, capsys):
    tb.Run(settings())
    policies = "dev strong; meta strong; test strong; train strong, weak"
    assert f"splits share 0 problems; policies: {policies}" in capsys.readouterr().out


def test_a_text_that_both_passed_and_failed_is_left_out_and_said(settings, tmp_path):
    labelled = read_rows(settings().labelled)
    twice = next(row for row in labelled if row["passed"])
    path = tmp_path / "labelled.jsonl"
    for rows in ([twice, {**twice, "passed": False}], [{**twice, "passed": False}, twice]):
        first, second = rows
        write_rows(path, [row for row in labelled if row is not twice]
                   + [first, {**second, "candidate_id": "again"}])
        (train, meta, held_out), notes = read_pairs(settings(labelled=str(path), pairs_per_problem=99))
        assert f"note: 1 programs in {path} both passed and failed" in " ".join(notes)
        assert not any(row["code"] == twice["code"] for pair in train + meta + held_out
                       if pair.problem["problem_id"] == twice["problem_id"]
                       for row in (pair.a, pair.b))


def test_train_only_chooses_training_pairs_of_every_split_and_no_others(settings):
    cfg = settings(train_split=["train", "meta", "train"], train_only=["policy=strong"])
    (train, meta, held_out), _ = read_pairs(cfg)
    (all_train, all_meta, all_held_out), _ = read_pairs(settings(train_split=["train", "meta"]))
    strong = [pair for pair in all_train if pair.failed()["policy"] == "strong"]
    assert 0 < len(strong) < len(all_train)
    assert train == strong
    assert {pair.problem["split"] for pair in train} == {"train", "meta"}
    assert (meta, held_out) == (all_meta, all_held_out)
    # Nor where none of the others is of that kind.
    (train, meta, held_out), _ = read_pairs(settings(train_only=["policy=weak"]))
    assert train and (meta, held_out) == (all_meta, all_held_out)


def test_splits_share_no_problem(settings):
    cfg = settings()
    problems = read_problems(cfg.problems)
    labelled = read_rows(cfg.labelled)
    seen = set()
    for split in ("train", "meta", "test"):
        pairs = make_pairs(problems, labelled, split, cfg)
        of_split = {pair.problem["problem_id"] for pair in pairs}
        assert not seen & of_split
        seen |= of_split


def many(n, good=2, bad=2):
    """({problem_id: problem}, candidates): the passed ones are a teacher's, the failed a pupil's."""
    problems = {}
    rows = []
    for p in range(n):
        name = f"p{p}"
        problems[name] = {"problem_id": name, "prompt": name, "domain": "d", "difficulty": "easy",
                          "split": "train"}
        for k in range(good + bad):
            rows.append({"problem_id": name, "candidate_id": f"c{k}", "code": f"x = {k}",
                         "passed": k < good, "policy": "teacher" if k < good else "pupil",
                         "difficulty": "of the candidate"})
    return problems, rows


def test_sides_and_pairs_are_drawn_for_each_problem_by_itself_and_by_the_seed(settings):
    problems, rows = many(60)
    drawn = {}
    for seed in (0, 1):
        pairs = make_pairs(problems, rows, "train", settings(seed=seed, pairs_per_problem=1))
        drawn[seed] = [(pair.right, pair.instance_id) for pair in pairs]
        sides = [right for right, _ in drawn[seed]]
        assert 15 < sides.count("A") < 45
        which = [instance.partition(":")[2] for _, instance in drawn[seed]]
        for some_pair in ("c0>c2", "c0>c3", "c1>c2", "c1>c3"):
            assert which.count(some_pair) > 3
    assert drawn[0] != drawn[1]


def test_a_pair_has_the_fields_of_its_problem_and_the_policy_of_its_failed_program(settings):
    problems, rows = many(6, good=1, bad=1)
    for pair in make_pairs(problems, rows, "train", settings()):
        assert pair.domain == "d × easy × pupil"
        assert pair.description()["policy"] == "pupil"
        assert pair.description()["difficulty"] == "easy"


def test_train_only_asks_for_the_policy_of_the_failed_program(settings):
    problems, rows = many(8, good=1, bad=1)
    pairs = make_pairs(problems, rows, "train", settings())
    assert {pair.right for pair in pairs} == {"A", "B"}
    assert only(pairs, settings(train_only=["policy=pupil"])) == pairs
    with pytest.raises(UserError):
        only(pairs, settings(train_only=["policy=teacher"]))


def test_the_first_meta_problems_have_all_of_their_pairs(settings, tmp_path):
    other = {"train": "meta", "meta": "train"}    # the training problems have several pairs
    rows = read_rows(settings().problems[0])
    for row in rows:
        row["split"] = other.get(row["split"], row["split"])
    write_rows(tmp_path / "p.jsonl", rows)
    cfg = settings(problems=[str(tmp_path / "p.jsonl")], pairs_per_problem=9)
    (_, everything, _), _ = read_pairs(cfg)
    names = list(dict.fromkeys(pair.problem["problem_id"] for pair in everything))[:3]
    expected = [pair for pair in everything if pair.problem["problem_id"] in names]
    assert len(expected) > 3
    assert read_pairs(replace(cfg, meta_problems=3))[0][1] == expected


# ---------------------------------------------------------------- data weights

def weights_of(cfg, domains):
    """Data weights of pairs in these domains, a letter each."""
    pairs = [Pair(str(i), {}, {}, {}, "A", domain) for i, domain in enumerate(domains)]
    return tb.DataWeights(pairs, cfg)


@pytest.mark.parametrize("weights", ["domain", "instance", "net"])
def test_a_step_in_which_the_meta_pairs_say_nothing_informs_no_pair(settings, weights):
    w = weights_of(settings(weights=weights), "aabb")
    index = torch.tensor([0, 2])
    mixed = torch.tensor([True, True])
    w.update(index, torch.tensor([1e-3, -1e-3], dtype=torch.float64), mixed, pace=1.0)
    before = w.state()["magnitude"], w.w().clone(), w.informed.clone()
    unit_s, move = w.update(index, torch.zeros(2, dtype=torch.float64), mixed, pace=1.0)
    assert not unit_s.any() and not move.any()
    assert w.magnitude == before[0]
    assert torch.equal(w.w(), before[1])
    assert torch.equal(w.informed, before[2])


def test_the_seed_decides_how_the_network_starts():
    one, same, other = (tb.weight_network(3, seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_network_has_a_weight_for_a_single_pair(settings):
    w = weights_of(settings(weights="net", batch=1), "a")
    w.features += 3.0
    w.update(torch.tensor([0]), torch.tensor([1e-3], dtype=torch.float64), torch.tensor([True]), 1.0)
    assert w.w().tolist() == [1.0]


def test_the_only_informed_pair_of_a_clipped_step_does_not_move(settings):
    """Its gradient's length is what the clip takes away."""
    for clip_grad, n_mixed, moves in ((1e-6, 1, False), (1e-6, 2, True), (0.0, 1, True)):
        trainer = SimpleNamespace(
            cfg=settings(clip_grad=clip_grad),
            adam=SimpleNamespace(clipped=clip_grad > 0),
            data_weights=weights_of(settings(), "aabb"),
            remember=lambda *_: None)
        mixed = torch.tensor([True, n_mixed == 2])
        s = torch.tensor([1e-9, 0.0], dtype=torch.float64)
        tb.Trainer.move_weights(trainer, 5, torch.tensor([0, 2]), s, [], mixed)
        assert trainer.data_weights.pair_logit.any() == moves


@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["domain", "instance"])
def test_logits_that_were_not_visited_do_not_move(settings, weights, apply):
    """Nor do those of visited pairs whose rewards were all equal. (Weights keep their mean of one
    together.)"""
    w = weights_of(settings(weights=weights, apply=apply), "aabbbcc")
    index = torch.tensor([0, 3, 4, 2])
    informed = torch.tensor([True, True, False, True])
    s = torch.tensor([1e-7, -1.3e-7, 5.0, -0.4e-7], dtype=torch.float64)
    for _ in range(3):
        w.update(index, s, informed, pace=1)
    assert w.informed.tolist() == [3, 0, 3, 3, 0, 0, 0]

    domain = w.domain_logit.tolist()
    assert domain[0] > 0 > domain[1]
    assert domain[2] == 0
    own = w.pair_logit.tolist()
    assert [own[i] for i in (1, 4, 5, 6)] == [0.0] * 4
    if weights == "instance":
        assert own[0] > 0 > own[2] > own[3]
    else:
        assert own == [0.0] * 7
    assert max(map(abs, domain + own)) <= w.BOUND

    a = w.w()
    assert float(a.mean()) == pytest.approx(1, abs=1e-6)
    assert a[0] > 1 > a[3]
    assert a[0] > a[5] > a[3]


def test_pairs_of_a_run_that_were_not_informed_do_not_move(trainer):
    here = trainer()
    for step in range(3):
        here.train_step(step)
    own = here.data_weights.pair_logit
    informed = here.data_weights.informed > 0
    assert 0 < int(informed.sum()) < len(own)
    assert own[~informed].abs().max() == 0
    assert own[informed].abs().min() > 0


@pytest.mark.parametrize("weights", ["domain", "instance"])
def test_what_is_drawn_often_does_not_rise_for_that(settings, weights):
    """Pairs that are worth the same move alike over many draws: the chance of a visit times what
    one visit moves is the same for a heavy pair as for a light one."""
    moved_in_the_mean = []
    for i in range(3):
        w = weights_of(settings(weights=weights, batch=1), "abc")
        w.domain_logit[:] = torch.tensor([1.5, -0.5, 0.0])
        start = w.logits().clone()
        a = w.w()
        assert a[0] > 4 * a[1]
        w.update(torch.tensor([i]), torch.ones(1, dtype=torch.float64), torch.tensor([True]), pace=1)
        moved = w.logits() - start
        moved_in_the_mean.append(float(a[i] * moved[i]))
    assert moved_in_the_mean == pytest.approx([moved_in_the_mean[0]] * 3, rel=1e-4)
    assert moved_in_the_mean[0] > 0


@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["uniform", "domain", "instance", "net"])
def test_weights_start_uniform_with_mean_one(settings, weights, apply):
    w = weights_of(settings(weights=weights, apply=apply), "aabbbc")
    assert w.w().tolist() == pytest.approx([1.0] * 6, abs=1e-6)


def test_a_positive_s_raises_the_weight_of_the_network(settings):
    w = weights_of(settings(weights="net"), "aabbbc")
    w.features[:3] = torch.tensor([1.0, 0.2, 0.16, 0.1, 0.5, 0.3, 2.0])
    w.features[3:] = torch.tensor([1.0, 0.8, 0.16, -0.1, 0.1, 0.9, 0.7])
    s = torch.tensor([1.0] * 3 + [-1.0] * 3, dtype=torch.float64)
    for _ in range(20):
        w.update(torch.arange(6), s, torch.ones(6, dtype=torch.bool), pace=1)
    a = w.w()
    assert a[0] > 1.2
    assert a[3] < 0.8
    assert float(a.mean()) == pytest.approx(1, abs=1e-6)


def test_the_network_tells_domains_apart_that_look_alike(settings):
    """And a pair that was never visited gets the weight of its domain."""
    w = weights_of(settings(weights="net"), "aaabbb")
    for _ in range(20):
        s = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
        w.update(torch.tensor([0, 1, 3, 4]), s, torch.ones(4, dtype=torch.bool), pace=1)
    a = w.w()
    assert a[2] > 1.2
    assert a[5] < 0.8


def test_the_network_speaks_only_when_it_is_fitted(settings):
    """What a visit shows does not change the chance that it was drawn with, nor a weight once
    nothing is learned any more."""
    w = weights_of(settings(weights="net"), "aaabbb")
    s = torch.tensor([1.0, -1.0], dtype=torch.float64)
    w.update(torch.tensor([0, 3]), s, torch.ones(2, dtype=torch.bool), pace=1)
    before = w.w().clone()
    assert before.std() > 0
    shown = {name: torch.tensor([3.0, -2.0]) for name in w.FEATURES[1:]}
    w.observe(torch.tensor([0, 3]), shown)
    assert torch.equal(w.w(), before)


def test_a_network_that_says_too_much_can_take_it_back(settings):
    """Its weights are bounded, what it is fitted with is not: so an output beyond the bound has a
    gradient."""
    w = weights_of(settings(weights="net"), "aaabbb")
    with torch.no_grad():
        for linear in (w.net[0], w.net[2]):
            linear.weight.fill_(2.0)
        w.net[0].weight[:, 1] = -2.0
    assert float(w.network_output().detach().abs().max()) > 10
    s = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    w.update(torch.tensor([0, 3]), s, torch.ones(2, dtype=torch.bool), pace=1)
    assert float(w.logits().abs().max()) <= w.BOUND
    before = float(w.network_output().detach().abs().max())
    w.update(torch.tensor([0, 3]), s, torch.ones(2, dtype=torch.bool), pace=1)
    assert float(w.network_output().detach().abs().max()) < before


def shares_of_draws(w, draws):
    """(how often each of six pairs is drawn [6], every a_i that came with one), a pair a draw."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(6)
    in_the_loss = []
    for _ in range(draws):
        index, a = w.draw(generator)
        counts[index] += 1
        in_the_loss += a.tolist()
    return counts / draws, in_the_loss


def test_pairs_are_drawn_in_proportion_to_their_weight(settings):
    """Over 4000 draws of one pair. A fifth of the draws stays uniform, and the loss is not scaled
    as well."""
    w = weights_of(settings(weights="instance", apply="draw", batch=1), "aabbbc")
    w.pair_logit[:] = torch.tensor([3.0, 0, 0, 0, 0, -3.0])
    shares, in_the_loss = shares_of_draws(w, 4000)
    assert in_the_loss == [1.0] * 4000
    a = w.w()
    assert torch.allclose(shares, a / 6, atol=0.03)
    assert float(a.min()) >= 0.2


def test_with_scale_pairs_are_drawn_uniformly_and_their_loss_is_weighted(settings):
    w = weights_of(settings(weights="instance", apply="scale", batch=6), "aabbbc")
    w.pair_logit[:] = torch.tensor([3.0, 0, 0, 0, 0, -3.0])
    index, in_the_loss = w.draw(torch.Generator().manual_seed(0))
    assert sorted(index.tolist()) == list(range(6))
    assert torch.equal(in_the_loss, w.w()[index])
    assert in_the_loss.max() > 1.5


def test_shuffled_weights_are_those_of_the_other_run_on_other_pairs(settings, tmp_path):
    path = tmp_path / "w.jsonl"
    other = [0.05 + i / 20 for i in range(40)]
    write_rows(path, [{"weight": weight} for weight in other])
    cfg = settings(weights="uniform", shuffle_weights=str(path))
    a = weights_of(cfg, "d" * 40).w().tolist()
    assert sorted(a) == pytest.approx(other)
    correlation = torch.corrcoef(torch.tensor([a, other]))[0, 1]
    assert abs(correlation) < 0.4
    with pytest.raises(UserError, match="--shuffle-weights"):
        weights_of(cfg, "d" * 39)
    with pytest.raises(UserError, match="--shuffle-weights"):
        weights_of(settings(weights="domain", shuffle_weights=str(path)), "d" * 40)


def test_a_step_never_draws_a_pair_of_weight_0(settings, tmp_path):
    path = tmp_path / "w.jsonl"
    write_rows(path, [{"weight": float(k < 4)} for k in range(9)])
    w = weights_of(settings(weights="uniform", shuffle_weights=str(path), batch=4), "d" * 9)
    index, _ = w.draw(torch.Generator().manual_seed(0))
    assert w.w()[index].min() > 0
    with pytest.raises(UserError, match="only 4 weights are above 0, and a step draws 5"):
        weights_of(settings(weights="uniform", shuffle_weights=str(path), batch=5), "d" * 9)
    # With scale all are drawn alike, whatever their weight.
    weights_of(settings(weights="uniform", shuffle_weights=str(path), batch=5, apply="scale"), "d" * 9)


ONES = torch.ones(3, dtype=torch.float64)


def test_weights_count_as_what_they_round_to(settings, tmp_path):
    """Whole numbers are weights, and what rounds to 0 is never drawn."""
    path = tmp_path / "w.jsonl"
    cfg = settings(weights="uniform", shuffle_weights=str(path), batch=2)
    write_rows(path, [{"weight": weight} for weight in (1, 2, 0)])
    w = weights_of(cfg, "ddd")
    index, _ = w.draw(torch.Generator().manual_seed(0))
    assert sorted(w.w()[index].tolist()) == [1.0, 2.0]
    write_rows(path, [{"weight": weight} for weight in (1.0, 1e-60, 1e-60)])
    with pytest.raises(UserError, match="only 1 weights are above 0"):
        weights_of(cfg, "ddd")


def test_with_scale_a_pair_is_drawn_whatever_its_weight(settings):
    w = weights_of(settings(weights="instance", apply="scale", batch=1), "aabbbc")
    w.pair_logit[:] = torch.tensor([3.0, 0, 0, 0, 0, -3.0])
    shares, _ = shares_of_draws(w, 1200)
    assert torch.allclose(shares, torch.full((6,), 1 / 6), atol=0.04)


def test_what_the_network_sees_of_a_pair_is_the_mean_of_its_visits(settings):
    w = weights_of(settings(weights="net"), "aab")
    for value in (1.0, 2.0, 6.0):
        w.observe(torch.tensor([1]), {name: torch.tensor([value]) for name in w.FEATURES[1:]})
    w.observe(torch.tensor([2]), {name: torch.tensor([5.0]) for name in w.FEATURES[1:]})
    assert w.features.tolist() == [[0.0] * 7, [1.0] + [3.0] * 6, [1.0] + [5.0] * 6]
    assert w.visits.tolist() == [0, 3, 1]


def test_the_network_s_features_are_brought_to_one_scale(settings):
    """Tokens are hundreds and rates below one; a domain's number is 0 or 1."""
    w = weights_of(settings(weights="net"), "ab")
    w.features[:, 5] = torch.tensor([100.0, 900.0])
    seen = []
    w.net.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    w.network_output()
    assert seen[0][:, 2 + 5].tolist() == pytest.approx([-0.7071, 0.7071], abs=1e-3)


def test_s_counts_in_units_of_the_running_mean_magnitude_of_those_that_say_something(settings):
    """0.8 of the mean so far and 0.2 of this step's; pairs of equal rewards are no part of it."""
    w = weights_of(settings(weights="instance"), "abc")
    index = torch.arange(3)
    mixed = torch.tensor([True, True, False])
    unit, _ = w.update(index, torch.tensor([2.0, -4.0, 900.0], dtype=torch.float64), mixed, pace=1)
    assert w.magnitude == pytest.approx(3)
    assert unit.tolist() == pytest.approx([2 / 3, -4 / 3, 0])
    w.update(index, torch.tensor([8.0, 8.0, 0.0], dtype=torch.float64), mixed, pace=1)
    assert w.magnitude == pytest.approx(0.8 * 3 + 0.2 * 8)


def test_one_s_counts_three_times_the_mean_at_most(settings):
    w = weights_of(settings(weights="instance"), "abcdef")
    s = torch.tensor([1e-9, 1e-9, 1e-9, 1e-9, -1e-9, -1.0], dtype=torch.float64)
    unit, _ = w.update(torch.arange(6), s, torch.ones(6).bool(), pace=1)
    assert float(unit[5]) == pytest.approx(-3)


@pytest.mark.parametrize("weights, slope", [
    ("domain", lambda z: 3 * z.softmax(0)),
    ("instance", lambda z: 2 * z.sigmoid() * (1 - z.sigmoid())),
])
def test_with_scale_a_logit_moves_by_the_slope_of_its_weight(settings, weights, slope):
    w = weights_of(settings(weights=weights, apply="scale"), "abc")
    w.domain_logit[:] = torch.tensor([1.0, 0.0, -2.0])
    z = w.logits().clone()
    _, move = w.update(torch.arange(3), ONES, ONES.bool(), 0.5)
    assert move.tolist() == pytest.approx((0.5 * slope(z)).tolist())


def test_domains_add_up_their_pairs_and_each_number_has_its_own_step(settings):
    w = weights_of(settings(weights="instance", domain_lr=0.01, instance_lr=0.03), "aab")
    w.update(torch.arange(3), ONES, ONES.bool(), pace=1)
    assert w.domain_logit.tolist() == pytest.approx([0.02, 0.01])
    assert w.pair_logit.tolist() == pytest.approx([0.03] * 3)


def test_the_table_of_the_network_moves_by_its_own_step(settings):
    w = weights_of(settings(weights="net", net_lr=0.25), "aab")
    w.update(torch.tensor([0]), ONES[:1], torch.tensor([True]), pace=1)
    assert w.pair_logit.tolist() == pytest.approx([0.25, 0, 0])


@pytest.mark.parametrize("weights", ["domain", "net"])
def test_no_learned_number_leaves_its_bounds(settings, weights):
    w = weights_of(settings(weights=weights, domain_lr=50, net_lr=50), "ab")
    s = torch.tensor([1.0, -1.0], dtype=torch.float64)
    w.update(torch.arange(2), s, ONES[:2].bool(), pace=1)
    learned = w.domain_logit if weights == "domain" else w.pair_logit
    assert learned.tolist() == [3.0, -3.0]


# ---------------------------------------------------------------- rewards

def test_a_consistent_reward_pays_only_what_is_right_in_both_orders(trainer):
    """The judgments are those of the plain reward; some that were paid no longer are."""
    plain = trainer(max_new_tokens=40)
    consistent = trainer(max_new_tokens=40, reward="consistent")
    pairs = plain.train_pairs[-8:]    # of these no habit is right in both orders
    groups, _ = plain.judge_pairs(pairs, [], 0)
    paid_twice, _ = consistent.judge_pairs(pairs, [], 0)
    flipped = [pair.flipped() for pair in pairs]
    streams = [stream(plain.cfg.seed, "other order", 0, k) for k in range(len(pairs))]
    others = plain.judge.rollout(flipped, streams, plain.cfg.group)
    for group, both, other in zip(groups, paid_twice, others):
        assert both.texts == group.texts
        there = [verdict == other.pair.right for verdict in other.verdicts]
        here = [verdict == group.pair.right for verdict in group.verdicts]
        assert both.rewards == [float(a and b) for a, b in zip(here, there)]
    assert tb.rewards_of(paid_twice).sum() < tb.rewards_of(groups).sum()


# ---------------------------------------------------------------- Waits

def rolled_out(judge, pairs, n=3):
    streams = [stream(0, "rollout", k) for k in range(len(pairs))]
    return judge.rollout(pairs, streams, n), streams


def test_a_judgment_goes_on_after_a_forced_wait(trainer):
    """The end is taken back, WAIT stands in its place, and both thoughts are the judge's own."""
    here = trainer(max_new_tokens=40)
    judge = here.judge
    pairs = here.train_pairs[:2]
    before, _ = rolled_out(judge, pairs)
    groups, streams = rolled_out(judge, pairs)
    groups = tb.force_waits(judge, groups, streams, waits=[0, 2])
    assert [c.ids for c in groups[0].completions] == [c.ids for c in before[0].completions]
    assert all(not c.forced for c in groups[0].completions)
    wait = judge.tokenizer(WAIT, add_special_tokens=False).input_ids
    for first, whole in zip(before[1].completions, groups[1].completions):
        given = [whole.ids[t] for t in whole.forced]
        assert given == wait + wait
        said = first.ids[:-1] if first.finished else first.ids
        assert whole.ids[:len(said)] == said
        assert whole.forced[0] == len(said)


def test_the_last_verdict_earns_the_reward(trainer):
    here = trainer(max_new_tokens=40)
    groups, streams = rolled_out(here.judge, here.train_pairs[:4])
    groups = tb.force_waits(here.judge, groups, streams, waits=[1] * 4)
    for group in groups:
        for text, completion, earned in zip(group.texts, group.completions, group.rewards):
            last = text.rpartition(WAIT)[2]
            right = parse_verdict(last, completion.finished) == group.pair.right
            assert earned == float(right)


def test_the_meta_gradient_is_a_running_mean(trainer, monkeypatch):
    """Of the first K steps the plain mean, then it moves by a K-th."""
    made = []

    def recorded(*arguments, real=tb.meta_gradient):
        v, importance = real(*arguments)
        made.append(v)
        return v, importance

    monkeypatch.setattr(tb, "meta_gradient", recorded)
    here = trainer(meta_memory=2, steps=3, meta_batch=8, max_new_tokens=40, lr=1e-6)
    for step in range(3):
        here.train_step(step)
    first, second, third = made
    assert float(first.norm()) > 0
    assert torch.allclose(here.v_mean, ((first + second) / 2 + third) / 2, rtol=1e-5, atol=1e-9)


def test_judgments_that_do_not_fit_leave_the_running_mean_alone(trainer, monkeypatch, capsys):
    monkeypatch.setattr(tb, "effective_share", lambda *_: 0.3)
    here = trainer(steps=1)
    here.train_step(0)
    assert not here.v_mean.any()
    assert here.data_weights.w().tolist() == pytest.approx([1.0] * len(here.train_pairs))
    assert "effective share 0.30" in capsys.readouterr().out


def test_meta_pairs_are_judged_in_both_orders(trainer):
    here = trainer(meta_batch=4)
    pairs = here.draw_meta_pairs(0)
    orders = {(pair.instance_id, pair.right) for pair in pairs}
    assert len(pairs) == 4
    assert len(orders) == 4
    assert len({pair.instance_id for pair in pairs}) == 2


# ---------------------------------------------------------------- LoRA

def some_pack(judge):
    answers = [[8, 9, 10, 1], [11, 12], [22, 1], [23] * 9]
    (pack,) = make_packs([[5, 6, 7], [20, 21]], answers, judge.pad, 10000, "cpu")
    return pack


def test_adapters_start_as_no_change_and_alone_are_trained(settings, random_judge):
    cfg = settings(judge=str(random_judge), lora_rank=4)
    judge = tb.Judge(cfg.judge, cfg)
    without = tb.Judge(cfg.judge, settings(judge=str(random_judge)))
    pack = some_pack(judge)
    assert torch.equal(judge.score(pack), without.score(pack))
    assert len(adapters_of(judge.model)) == 2 * 7  # layers, linear modules in each
    assert sum(p.requires_grad for p in judge.model.parameters()) == 2 * 2 * 7


@torch.no_grad()
def test_merged_and_unmerged_logprobs_agree(settings, random_judge):
    cfg = settings(judge=str(random_judge), lora_rank=4)
    judge = tb.Judge(cfg.judge, cfg)
    pack = some_pack(judge)
    start = judge.score(pack)
    generator = torch.Generator().manual_seed(0)
    for adapter in adapters_of(judge.model):
        adapter.b.copy_(0.1 * torch.randn(adapter.b.shape, generator=generator))
    adapted = judge.score(pack)
    assert (adapted - start).abs().max() > 0.05
    merge_lora(judge.model)
    assert not adapters_of(judge.model)
    assert torch.allclose(judge.score(pack), adapted, atol=1e-4, rtol=0)


def test_a_lora_run_writes_a_plain_checkpoint(settings, tmp_path):
    """transformers loads it without knowing of adapters, it is the trained judge, and what was
    frozen has not moved."""
    cfg = settings(lora_rank=4, lr=1e-2)
    run = tb.Run(cfg)
    run.train()
    start = AutoModelForCausalLM.from_pretrained(cfg.judge)
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "run/judge")
    before = dict(start.named_parameters())
    after = dict(written.named_parameters())
    assert {name: p.shape for name, p in after.items()} == {name: p.shape for name, p in before.items()}
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved
    assert all("proj" in name for name in moved)

    again = tb.Run(cfg).trainer.judge  # from state.pt, where the adapters are apart
    pack = some_pack(again)
    adapted = again.score(pack)
    again.model = written
    assert torch.allclose(again.score(pack), adapted, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size, says", [(1e-4, True), (1.0, False)], ids=["tiny", "large"])
def test_a_checkpoint_whose_type_loses_what_adapters_have_learned_says_so(
        settings, random_judge, tmp_path, capsys, size, says):
    """Beside weights of about 0.02, whose bfloat16 steps are about 1e-4."""
    cfg = settings(judge=str(random_judge), lora_rank=4, dtype="bfloat16")
    judge = tb.Judge(cfg.judge, cfg)
    generator = torch.Generator().manual_seed(0)
    added = 0.0
    rounded = 0.0
    for adapter in adapters_of(judge.model):
        adapter.b.copy_(size * torch.randn(adapter.b.shape, generator=generator))
        exact = adapter.linear.weight.double() + adapter.scale * (adapter.b @ adapter.a).double()
        added += float((exact - adapter.linear.weight).square().sum())
        rounded += float((exact - exact.bfloat16()).square().sum())
    share = (rounded / added) ** 0.5
    assert (share > 0.05) == says
    capsys.readouterr()
    tb.Run.save_judge(SimpleNamespace(trainer=SimpleNamespace(judge=judge), out=tmp_path))
    said = capsys.readouterr().out
    assert (f"rounding is {share:.0%} of what the adapters have learned" in said) == says


def test_adapters_start_with_a_of_deviation_one_over_the_root_of_the_rank():
    for rank, n_in in ((4, 400), (16, 100)):
        layer = LoRALinear(nn.Linear(n_in, 3), rank, 32.0, torch.Generator().manual_seed(0))
        assert layer.a.std().item() == pytest.approx(rank ** -0.5, rel=0.1)
        assert not layer.b.any()


@torch.no_grad()
def test_an_adapter_adds_alpha_over_the_rank_times_b_a_x():
    layer = LoRALinear(nn.Linear(5, 3), 4, 32.0, torch.Generator().manual_seed(0))
    layer.b.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    x = torch.ones(2, 5)
    expected = layer.linear(x) + 8 * (x @ layer.a.T @ layer.b.T)
    assert torch.allclose(layer(x), expected, atol=1e-6)


# ---------------------------------------------------------------- killed and continued

@pytest.mark.parametrize("blocked", ["", "/below"])
def test_an_out_that_cannot_be_a_folder_is_refused(settings, tmp_path, blocked):
    file = tmp_path / "file"
    file.write_text("dear to me")
    assert_refused(settings(out=f"{file}{blocked}"), f"--out {file}{blocked}", "cannot be made")
    assert file.read_text() == "dear to me"


def test_two_runs_do_not_write_to_one_folder(settings, tmp_path):
    with own_folder(tmp_path / "run"):
        assert_refused(settings(), f"--out {tmp_path / 'run'}", "another run is writing")


def finished_run(settings, **changes):
    tb.Run(settings(**changes)).train()


def test_a_run_does_not_go_on_with_other_data_under_the_same_ids(settings, few_rows, tmp_path):
    finished_run(settings)
    labelled = read_rows(settings().labelled)
    problems = read_rows(settings().problems[0])
    other_code = tmp_path / "labelled.jsonl"
    write_rows(other_code, [{**row, "code": row["code"] + "\n# more"} for row in labelled])
    assert_refused(settings(labelled=str(other_code), steps=3), "labelled")  # its name, to begin with
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    for changed in ("labelled", "problems"):
        path = tmp_path / f"{changed}.jsonl"
        if changed == "labelled":
            rows, name = [{**row, "code": row["code"] + "\n# more"} for row in labelled], str(path)
        else:
            rows, name = [{**row, "prompt": "Look. " + row["prompt"]} for row in problems], [str(path)]
        write_rows(path, rows)
        state["settings"] = asdict(settings(steps=2, **{changed: name}))
        torch.save(state, tmp_path / "run/state.pt")
        assert_refused(settings(steps=2, **{changed: name}), "the training pairs", "the meta pairs")


def test_a_finished_run_is_not_taken_for_a_shorter_one(settings):
    finished_run(settings)
    assert_refused(settings(steps=1, weight_steps=2000), "2 steps already, more than 1")


def test_a_killed_run_that_goes_on_with_fewer_steps_is_evaluated_at_its_end(settings, tmp_path):
    """Not before: its report would show the judge of an earlier step as the one afterwards."""
    def make(name, steps):
        return tb.Run(settings(
            steps=steps, weights="uniform", eval_every=0, out=str(tmp_path / name)))
    run = make("killed", 4)
    run.metrics.append({"step": 0, **run.evaluate()})
    for _ in range(2):
        run.one_step()
    make("killed", 2).train()
    make("whole", 2).train()
    assert "eval_accuracy" in metrics_of(tmp_path / "killed")[-1]
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_run_goes_on_wherever_its_folder_lies_and_however_that_is_written(settings, tmp_path):
    finished_run(settings, steps=1)
    finished_run(settings, out=f"{tmp_path}/run/")  # as a shell completes it
    (tmp_path / "run").rename(tmp_path / "moved")
    run = tb.Run(settings(out=str(tmp_path / "moved")))
    assert run.step == 2


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK", b"hello"])
def test_a_damaged_checkpoint_is_named(settings, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/state.pt").write_bytes(content)
    assert_refused(settings(), "state.pt: cannot be read")


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_last_one_stays(settings, tmp_path, monkeypatch):
    finished_run(settings, steps=1)
    kept = (tmp_path / "run/state.pt").read_bytes()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert_refused(settings(), "state.pt: cannot be written (no space left on device)")
    assert (tmp_path / "run/state.pt").read_bytes() == kept


@pytest.mark.parametrize("content", [[1], {"model": 1}])
def test_a_checkpoint_of_something_else_is_named(settings, tmp_path, content):
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run/state.pt")
    assert_refused(settings(), "state.pt: is not the state of a run")


def test_a_run_does_not_go_on_with_a_judge_of_another_size(settings, tmp_path):
    finished_run(settings, steps=1)
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    torch.save({**state, "theta": state["theta"][:-1]}, tmp_path / "run/state.pt")
    assert_refused(settings(), "holds a run of a judge of another size")


@pytest.mark.parametrize("name", ["metrics.jsonl", "transcripts.jsonl"])
@pytest.mark.parametrize("lost", [1, None])
def test_a_run_that_has_lost_rows_does_not_go_on_without_them(settings, tmp_path, name, lost):
    finished_run(settings, steps=1)
    rows = read_rows(tmp_path / "run" / name)
    write_rows(tmp_path / "run" / name, rows[lost:] if lost else [])
    assert_refused(settings(), f"{name}: lacks rows of the 1 steps")


@pytest.mark.parametrize("weights, words", [
    ([-1.0, 2.0], "negative"), ([0.0, 0.0], "all are 0"), ([float("nan"), 1.0], "not finite"),
    (["1", 1.0], "wrong type"), ([None, 1.0], "wrong type"),
])
def test_weights_that_are_none_are_refused(settings, tmp_path, weights, words):
    path = tmp_path / "weights.jsonl"
    path.write_text("".join(json.dumps({"weight": weight}) + "\n" for weight in weights))
    assert_refused(settings(weights="uniform", shuffle_weights=str(path)), str(path), words)


def test_traces_of_other_pairs_are_refused(settings, tmp_path):
    cfg = settings(cold_start=1, steps=0, weights="uniform", group=6, max_new_tokens=40)
    tb.Run(cfg)  # stops after its traces
    path = tmp_path / "run/cold_start.jsonl"
    rows = read_rows(path)
    for changed in (rows[1:], rows + rows[:1], rows[cfg.group:] + rows[:cfg.group]):
        write_rows(path, changed)
        assert_refused(cfg, str(path), "not those of this run")
    write_rows(path, [{**rows[0], "kept": None}, *rows[1:]])
    assert_refused(cfg, f"{path}, line 1: field 'kept' has the wrong type")


@pytest.mark.parametrize("changes, words", [
    (dict(eval_split="train"), "trained on it"),
    (dict(eval_split="meta", weights="uniform", train_split=["meta"]), "trained on it"),
    (dict(eval_split="meta"), "learned on it"),
])
def test_a_judge_is_not_tested_on_what_it_has_learned_from(settings, changes, words):
    with pytest.raises(UserError, match=words):
        settings(**changes)


def test_a_cold_start_alone_learns_no_weights_on_the_meta_set(settings):
    assert settings(eval_split="meta", steps=0, cold_start=1).eval_split == "meta"


def test_a_killed_run_ends_like_an_undisturbed_one(settings, tmp_path):
    """SIGKILL at a random moment after the first checkpoint, then the same command: the same rows
    and the same judge.

    The run that is killed would take a thousand steps, so that it never ends before it is killed.
    """
    def flags(name, steps):
        return command(settings(steps=steps, save_every=2, eval_every=5, out=str(tmp_path / name)))
    seed = random.randrange(10**6)
    print(f"seed of the moment: {seed}")
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train_bilevel.py"), *flags("killed", 1000)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    try:
        deadline = time.monotonic() + 300
        while not (killed / "state.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 0.3))
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "judge").exists()

    last = torch.load(killed / "state.pt", weights_only=True)["step"] + 3
    tb.main(flags("killed", last))
    tb.main(flags("whole", last))
    assert outcome(killed) == outcome(tmp_path / "whole")


class Killed(BaseException):
    """What a kill looks like from inside: nothing is caught and nothing is tidied up."""


@contextlib.contextmanager
def killed_at_file(monkeypatch, number, counts=lambda: True):
    """In here a run is killed when it would write file `number`, from 0, of those that count.

    Every file of a checkpoint comes into its place by os.replace.
    """
    replace = os.replace
    written = []

    def replace_or_die(source, target):
        if counts():
            if len(written) == number:
                raise Killed
            written.append(target)
        replace(source, target)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        with pytest.raises(Killed):
            yield


def test_killed_within_a_save_is_no_worse(settings, monkeypatch, tmp_path):
    """Rows are written before the state: whichever files a kill leaves behind, the rest is made
    again, the same."""
    def make(name):
        return tb.Run(settings(steps=3, eval_every=2, out=str(tmp_path / name)))
    make("whole").train()
    expected = outcome(tmp_path / "whole")

    # that the second step's save still writes, of transcripts, metrics, weights, explained,
    # settings and state
    for files in (1, 3, 5):
        run = make(f"killed{files}")
        with killed_at_file(monkeypatch, files, lambda: run.step == 2):
            run.train()
        again = make(f"killed{files}")
        assert again.step == 1
        again.train()
        assert outcome(tmp_path / f"killed{files}") == expected


def test_killed_while_the_judge_is_written_is_no_worse(settings, monkeypatch, tmp_path):
    cfg = settings()
    run = tb.Run(cfg)

    def die(folder, **more):
        raise Killed
    monkeypatch.setattr(run.trainer.judge.model, "save_pretrained", die)
    with pytest.raises(Killed):
        run.train()
    again = tb.Run(cfg)
    assert again.step == 2
    again.train()
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "run/judge")
    for p, q in zip(written.parameters(), run.trainer.judge.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_run_killed_between_two_looks_goes_on_by_the_last(settings, tmp_path, mixed_rewards):
    def run(name, *parts):
        for steps in parts:
            last = tb.Run(settings(meta_every=2, steps=steps, pairs_per_problem=1, eval_every=0,
                                   out=str(tmp_path / name)))
            last.train()
        return last.trainer

    whole = run("whole", 2)
    parted = run("parted", 1, 2)
    assert whole.look_is_usable and whole.moved == parted.moved
    assert torch.equal(whole.data_weights.w(), parted.data_weights.w())


def test_a_run_that_goes_on_knows_whether_the_last_look_was_believed(settings):
    run = tb.Run(settings())
    for usable in (True, False):
        run.trainer.look_is_usable = usable
        run.save()
        assert tb.Run(run.cfg).trainer.look_is_usable == usable


def test_a_run_from_before_a_flag_goes_on_with_its_default(settings):
    run = tb.Run(settings())
    run.save()
    state = torch.load(run.out / "state.pt", weights_only=True)
    del state["settings"]["waits"]
    torch.save(state, run.out / "state.pt")
    assert tb.Run(run.cfg).step == 0
    with pytest.raises(UserError, match="--waits 0 there"):
        tb.Run(settings(waits=1))


def test_a_run_that_goes_on_remembers_what_moved_its_pairs(settings, tmp_path, mixed_rewards):
    tb.Run(settings(steps=1, eval_every=0)).train()
    first = read_rows(tmp_path / "run/explained.jsonl")
    assert any(row["moved"] for row in first)
    again = tb.Run(settings(steps=2, eval_every=0))
    assert again.trainer.moved == [row["moved"] for row in first]


@pytest.mark.parametrize("change", ["right", "domain", "criterion"])
def test_digests_of_pairs_hold_all_that_decides(settings, change):
    run = SimpleNamespace(cfg=settings(), eval_pairs=[])
    pair = Pair("i", {"prompt": "p"}, {"code": "x"}, {"code": "y"}, "A", "d")
    run.trainer = SimpleNamespace(train_pairs=[pair], meta_pairs=[])
    before = tb.Run.digests(run)
    if change == "criterion":
        pair.problem = {"prompt": "p", "criterion": "speed"}
    else:
        setattr(pair, change, "B")
    assert tb.Run.digests(run)["training pairs"] != before["training pairs"]
    assert tb.Run.digests(run)["meta pairs"] == before["meta pairs"]


def test_a_lora_run_does_not_go_on_from_another_judge(settings, tmp_path, monkeypatch):
    tb.Run(settings(lora_rank=2, steps=1, eval_every=0)).train()
    monkeypatch.setattr(tb, "fingerprint", lambda name: "judge@another")
    assert_refused(settings(lora_rank=2, eval_every=0), "the files of --judge")


def test_shuffled_weights_of_another_file_are_refused(settings, tmp_path):
    path = tmp_path / "w.jsonl"
    cfg = settings(weights="uniform", shuffle_weights=str(path), steps=1, eval_every=0)
    n = len(read_pairs(cfg)[0][0])
    write_rows(path, [{"weight": 1.0}] * n)
    tb.Run(cfg).train()
    write_rows(path, [{"weight": 1.0 + k % 2} for k in range(n)])
    assert_refused(replace(cfg, steps=2), "the weights of --shuffle-weights")


# ---------------------------------------------------------------- cold start

@pytest.fixture
def cold_settings(settings):
    """A cold start on fourteen pairs, with room for a second thought."""
    def make(**changes):
        small = dict(cold_start=3, steps=0, max_new_tokens=40, weights="uniform", train_only=["policy=strong"])
        return settings(**{**small, **changes})
    return make


def test_cold_start_traces_are_right_and_some_think_twice(cold_settings, tmp_path):
    """J1: what is kept has the right last verdict and fits; second thoughts follow a forced WAIT,
    and only a wrong verdict."""
    cfg = cold_settings(group=6)
    pairs = tb.Run(cfg).trainer.train_pairs
    rows = strict_rows(tmp_path / "run/cold_start.jsonl")
    assert [row["instance_id"] for row in rows] == [pair.instance_id for pair in pairs for _ in range(6)]
    right = {pair.instance_id: pair.right for pair in pairs}
    kept_with_second_thought = 0
    for row in rows:
        verdict = right[row["instance_id"]]
        is_right = parse_verdict(row["text"], row["finished"]) == verdict
        assert row["kept"] == (is_right and len(row["ids"]) <= 40)
        assert WAIT in row["text"] or not row["forced"]
        first_thought, wait, _ = row["text"].partition(WAIT)
        if wait:
            assert parse_verdict(first_thought) != verdict
            kept_with_second_thought += row["kept"]
    assert kept_with_second_thought > 0
    assert any(row["forced"] for row in rows)
    assert sum(row["kept"] for row in rows) > len(rows) / 4


def test_a_cold_start_step_raises_the_log_prob_of_what_is_kept(cold_settings, tmp_path):
    """Its gradient is that of −Σ log π / (G · limit) over kept traces, and nothing else is
    scored."""
    cfg = cold_settings(cold_start=1, clip_grad=0.0, pairs_per_problem=1)
    run = tb.Run(cfg)
    trainer = run.trainer
    start = trainer.parameters.theta.clone()
    index, _ = trainer.data_weights.draw(stream(cfg.seed, "draw", 0))
    row = run.cold_start.step(0)
    assert row["cold"]
    found = trainer.adam.raw_grad.clone()

    rows = strict_rows(tmp_path / "run/cold_start.jsonl")
    trainer.parameters.set(start)
    total = 0.0
    n_kept = 0
    for i in index.tolist():
        prompt = trainer.judge.prompt_ids(trainer.train_pairs[i])
        for row in rows[i * cfg.group:(i + 1) * cfg.group]:
            if row["kept"]:
                ids = torch.tensor([prompt + row["ids"]])
                logits = trainer.judge.model(input_ids=ids).logits[0, len(prompt) - 1:-1]
                logp = logits.log_softmax(-1).gather(1, ids[0, len(prompt):, None])
                total = total - logp.sum() / (cfg.group * cfg.max_new_tokens * len(index))
                n_kept += 1
    assert 0 < n_kept < cfg.batch * cfg.group
    parts = torch.autograd.grad(total, trainer.parameters.tensors)
    expected = torch.cat([part.flatten() for part in parts])
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_a_cold_start_goes_over_into_grpo_and_resumes(cold_settings, tmp_path):
    """With the same metrics and the same judge whether it stops between the two or not."""
    def train(name, steps):
        run = tb.Run(cold_settings(
            cold_start=2, steps=steps, max_new_tokens=24, weights="instance", pairs_per_problem=1,
            eval_every=0, out=str(tmp_path / name)))
        run.train()
        return run.trainer
    once = train("once", 2)
    rows = metrics_of(tmp_path / "once")
    assert [row.get("cold") for row in rows] == [None, True, True, False, False]
    assert ["meta_reward" in row for row in rows] == [False, False, False, True, True]
    assert ["eval_accuracy" in row for row in rows] == [True, False, True, False, True]
    assert once.adam.t == 2  # it starts anew with GRPO

    train("twice", 0)
    twice = train("twice", 2)
    assert metrics_of(tmp_path / "twice") == rows
    assert torch.equal(twice.parameters.theta, once.parameters.theta)


def test_traces_of_the_cold_start_are_bound_to_their_settings(cold_settings, tmp_path):
    """Killed between the traces and the first checkpoint, a run with another seed must not take
    them for its own."""
    cfg = cold_settings(max_new_tokens=24, pairs_per_problem=1)
    tb.Run(cfg)
    traces = (tmp_path / "run/cold_start.jsonl").read_bytes()
    assert_refused(cold_settings(max_new_tokens=24, pairs_per_problem=1, seed=1), "--seed", "--out")
    tb.Run(cfg)
    assert (tmp_path / "run/cold_start.jsonl").read_bytes() == traces


@pytest.mark.parametrize("files", [1, 2])
def test_killed_within_the_first_save_after_a_cold_start_is_no_worse(
        cold_settings, monkeypatch, tmp_path, files):
    """Its checkpoint of before the first evaluation goes on with that evaluation: once, and with
    its transcripts."""
    def make(name):
        return tb.Run(cold_settings(
            cold_start=1, max_new_tokens=24, pairs_per_problem=1, out=str(tmp_path / name)))
    make("whole").train()
    run = make("killed")
    with killed_at_file(monkeypatch, files):
        run.train()
    again = make("killed")
    assert again.step == 0
    again.train()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_cold_start_that_has_begun_does_not_make_its_traces_again(cold_settings, tmp_path):
    """They would be those of a judge that has learned from the first ones."""
    cfg = cold_settings(cold_start=2, max_new_tokens=24, pairs_per_problem=1)
    run = tb.Run(cfg)
    run.metrics.append({"step": 0, **run.evaluate()})
    run.one_step()
    traces = tmp_path / "run/cold_start.jsonl"
    traces.unlink()
    assert_refused(cfg, str(traces), "--out")
    assert not traces.exists()


def test_a_cold_start_without_a_right_judgment_says_so(cold_settings, random_judge):
    cfg = cold_settings(judge=str(random_judge), max_new_tokens=4, pairs_per_problem=1)
    assert_refused(cfg, "--cold-start", "--group")


# ---------------------------------------------------------------- several processes

@pytest.fixture
def guessing_judge(random_judge, few_rows, settings, tmp_path):
    """A folder with the small StableLM after it has learned to answer with a verdict: A or B, as it
    likes."""
    tokenizer = AutoTokenizer.from_pretrained(random_judge)
    model = StableLmForCausalLM.from_pretrained(random_judge)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.2 if p.dim() == 2 else 1)  # learns sooner
    cfg = settings()
    pairs = make_pairs(read_problems(cfg.problems), read_rows(cfg.labelled), "train", cfg)
    answers = []
    for letter in "AB":
        ids = tokenizer(f"<best>{letter}</best>", add_special_tokens=False).input_ids
        answers.append(ids + [tokenizer.eos_token_id])
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    rng = random.Random(0)
    for _ in range(40):
        pair = rng.choice(pairs)
        prompt = encode(tokenizer, judge_prompt(pair.problem, pair.a["code"], pair.b["code"]))[-40:]
        loss = 0.0
        for answer in answers:
            ids = torch.tensor([prompt + answer])
            labels = torch.tensor([[-100] * len(prompt) + answer])
            loss = loss + model(input_ids=ids, labels=labels).loss
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.save_pretrained(tmp_path / "guessing")
    tokenizer.save_pretrained(tmp_path / "guessing")
    return str(tmp_path / "guessing")


def test_two_processes_give_the_result_of_one(settings, guessing_judge, tmp_path):
    """The same global batch under torchrun (gloo): parameters, moments and data weights to 1e-5,
    the same rows.

    In fp64, because Adam's first steps make much of gradients that are nothing but rounding.
    """
    def flags(out):
        return command(settings(
            judge=guessing_judge, cold_start=1, steps=3, batch=5, group=6, check_hypergradient=2,
            dtype="float64", lr=1e-3, adam_eps=1e-6, clip_grad=0.01, out=str(out)))
    one = tmp_path / "one"
    two = tmp_path / "two"
    tb.main(flags(one))
    printed = torchrun("train_bilevel.py", *flags(two), processes=2)
    assert printed.count("training, ") == 1  # one of them speaks
    assert_same_run(one, two)


def assert_same_run(one, two):
    """The runs in these folders: parameters, moments and data weights to 1e-5, and the same rows."""
    state_of_one = torch.load(one / "state.pt", weights_only=True)
    state_of_two = torch.load(two / "state.pt", weights_only=True)
    for name in ("theta", "exp_avg", "exp_avg_sq"):
        assert torch.allclose(state_of_one[name], state_of_two[name], atol=1e-5, rtol=0), name

    rows_of_one = strict_rows(one / "weights.jsonl")
    rows_of_two = strict_rows(two / "weights.jsonl")
    weights_of_one = [row.pop("weight") for row in rows_of_one]
    weights_of_two = [row.pop("weight") for row in rows_of_two]
    assert weights_of_two == pytest.approx(weights_of_one, abs=1e-5)
    assert len(set(weights_of_one)) > 2
    assert rows_of_two == rows_of_one
    for name in ("cold_start.jsonl", "transcripts.jsonl"):
        texts_of_one = [row["text"] for row in strict_rows(one / name)]
        assert [row["text"] for row in strict_rows(two / name)] == texts_of_one

    def moved(folder):
        visits = sum([row["moved"] for row in strict_rows(folder / "explained.jsonl")], [])
        return [(visit["step"], visit["best"], visit["worst"]) for visit in visits]
    assert moved(two) == moved(one) != []

    for x, y in zip(metrics_of(one), metrics_of(two), strict=True):
        assert y.keys() == x.keys()
        for name in x.keys() - {"weight"}:
            same = x[name] if x[name] is None else pytest.approx(x[name], rel=1e-3, abs=1e-6)
            assert y[name] == same, name


def killed_by_torchrun(folder, *flags):
    """A run of two processes, of which one is killed some time after its first step."""
    process = start_torchrun("train_bilevel.py", *flags, processes=2)
    deadline = time.monotonic() + 300
    try:
        while not (folder / "metrics.jsonl").exists() or len(strict_rows(folder / "metrics.jsonl")) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[-1]), signal.SIGKILL)
    except BaseException:
        process.kill()
        raise
    process.communicate(timeout=300)  # torchrun ends the other one, too
    assert process.returncode != 0
    assert not (folder / "judge").exists()


def test_a_sharded_base_gives_the_result_of_one_process(settings, guessing_judge, tmp_path):
    """With --shard-base, killed and continued: parameters, moments and data weights of one process
    that holds all, to 1e-5, and the same rows.

    What differs is the order in which gradients of pairs are added up. Five pairs between two
    processes, drawn Waits, both orders and narrow passes: one of them always has more to do.
    The run that is killed would take a thousand steps, so that it never ends before it is killed.
    """
    def flags(out, steps):
        return command(settings(
            judge=guessing_judge, cold_start=1, steps=steps, batch=5, meta_batch=6, lora_rank=4,
            lora_alpha=8.0, waits=1, reward="consistent", weights="net", micro_tokens=300,
            rollout_rows=7, checkpoint_gradients=True, check_hypergradient=2, dtype="float64",
            lr=1e-3, adam_eps=1e-6, clip_grad=0.01, out=str(out)))
    one = tmp_path / "one"
    two = tmp_path / "two"
    killed_by_torchrun(two, *flags(two, 1000), "--shard-base")
    steps = torch.load(two / "state.pt", weights_only=True)["step"] + 1
    printed = torchrun("train_bilevel.py", *flags(two, steps), "--shard-base", processes=2)
    assert "going on from step" in printed
    tb.main(flags(one, steps))
    assert_same_run(one, two)

    judge_of_one = AutoModelForCausalLM.from_pretrained(one / "judge")
    judge_of_two = AutoModelForCausalLM.from_pretrained(two / "judge")
    for p, q in zip(judge_of_one.parameters(), judge_of_two.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5, rtol=0)


# ---------------------------------------------------------------- a judge's context

def judge_with_context(folder, tokens, tmp_path):
    """The judge in `folder` with room for so many tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.max_position_embeddings = tokens
    model.save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "short")
    return str(tmp_path / "short")


def test_pairs_that_do_not_fit_the_context_are_left_out_by_name(settings, random_judge, tmp_path, capsys):
    cfg = settings()
    lengths = sorted(len(tb.Judge(cfg.judge, cfg).prompt_ids(pair)) for pair in tb.Run(cfg).trainer.train_pairs)
    middle = lengths[len(lengths) // 2]
    context = middle + cfg.max_new_tokens
    run = tb.Run(settings(judge=judge_with_context(random_judge, context, tmp_path)))
    kept = run.trainer.train_pairs
    assert len(kept) == sum(length <= middle for length in lengths)
    assert max(len(run.trainer.judge.prompt_ids(pair)) for pair in kept) == middle
    assert f"{len(lengths) - len(kept)} of {len(lengths)} training pairs do not fit" in capsys.readouterr().out
    run.train()
    assert run.step == cfg.steps


def test_a_context_without_room_for_any_pair_is_refused(settings, random_judge, tmp_path):
    cfg = settings(judge=judge_with_context(random_judge, 30, tmp_path))
    with pytest.raises(UserError, match="do not fit into the judge's context of 30 tokens"):
        tb.Run(cfg)
