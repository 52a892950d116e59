"""The promises of train_bilevel.py as a command: what it refuses, what it writes, and what a killed run comes to.

That its step is right is the matter of test_grpo_checks.py.
"""
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import train_bilevel as tb
from data.judge import WAIT, parse_verdict
from data.pairs import Pair, make_pairs
from data.rows import ROOT, TINY, UserError, read_problems, read_rows, write_rows
from kernels.packing import make_packs
from sample import stream

TIMES = {"seconds"}


def command(s):
    """The flags that give these settings."""
    flags = []
    for name, value in vars(s).items():
        if value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not False and value != []:
            flags += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def strict(path):
    """Rows of a file, where NaN and Infinity, which are not JSON, are errors."""
    def refuse(constant):
        raise ValueError(f"{path}: {constant}")
    return [json.loads(line, parse_constant=refuse) for line in open(path, encoding="utf-8")]


def outcome(folder):
    """All that a run leaves behind, but for its times."""
    metrics = [{k: v for k, v in row.items() if k not in TIMES} for row in strict(folder / "metrics.jsonl")]
    return metrics, *((folder / name).read_bytes() for name in ("weights.jsonl", "transcripts.jsonl", "judge/model.safetensors"))


def coin(text):
    """A verdict for texts that have none, so that rewards vary."""
    return random.Random(text).choice(["A", "B", None])


@pytest.fixture
def tiny(settings):
    """Settings with the tiny world's own judge, whose short verdicts fit into 16 tokens."""
    return lambda **changes: settings(**{"judge": str(TINY / "judge"), "batch": 4, "group": 4, "lr": 1e-4, **changes})


# ---------------------------------------------------------------- bad input

def refused(s, *words):
    with pytest.raises(UserError) as stopped:
        tb.main(command(s))
    for word in words:
        assert word in str(stopped.value)
    assert "\n" not in str(stopped.value).strip()


@pytest.mark.parametrize("split", ["train", "meta", "test"])
def test_a_split_without_problems_is_named(settings, tmp_path, split):
    rows = [r for r in read_rows(settings().problems[0]) if r["split"] != split]
    write_rows(tmp_path / "p.jsonl", rows)
    refused(settings(problems=[str(tmp_path / "p.jsonl")]), repr(split), "0 problems")
    assert not (tmp_path / "run").exists()


def test_no_problem_with_both_verdicts_is_named(settings, tmp_path):
    rows = read_rows(settings().labelled)
    for value in (True, False, None):
        write_rows(tmp_path / "l.jsonl", [{**r, "passed": value} for r in rows])
        refused(settings(labelled=str(tmp_path / "l.jsonl")), str(tmp_path / "l.jsonl"), "'train'", "0 have both", "--n")


@pytest.mark.parametrize("line, words", [
    ('{"problem_id": "x"', ["not JSON"]), ("[1]", ["expected an object"]), ('{"problem_id": "x"}', ["'candidate_id' is missing"]),
    ('{"problem_id": "x", "candidate_id": "y", "policy": "p", "code": "", "passed": "yes", "status": "passed"}', ["'passed' has the wrong type"]),
])
def test_a_malformed_row_is_named_with_file_and_line(settings, tmp_path, line, words):
    lines = (tmp_path / "l.jsonl", open(settings().labelled).read().splitlines())
    lines[1][2] = line
    lines[0].write_text("\n".join(lines[1]) + "\n")
    refused(settings(labelled=str(lines[0])), f"{lines[0]}, line 3", *words)


@pytest.mark.parametrize("changes, words", [
    (dict(judge="./no/such/judge"), ["--judge ./no/such/judge"]),
    (dict(problems=["nothing.jsonl"]), ["nothing.jsonl", "no such file"]),
    (dict(labelled="nothing.jsonl"), ["nothing.jsonl", "no such file"]),
    (dict(domain_key=["domain", "colour"]), ["--domain-key", "'colour'"]),
    (dict(train_only=["policy"]), ["--train-only policy", "FIELD=VALUE"]),
    (dict(train_only=["policy=nobody"]), ["'train'"]),
    (dict(kernel="triton"), ["--kernel triton"]),
])
def test_what_is_not_there_is_named_with_its_flag(settings, changes, words):
    refused(settings(**changes), *words)


@pytest.mark.parametrize("flags, words", [(["--batch", "0"], "--batch 0"), (["--group", "1"], "--group 1"), (["--lr", "0"], "--lr 0"),
                                          (["--lr", "nan"], "--lr nan"), (["--max-new-tokens", "0"], "--max-new-tokens 0")])
def test_impossible_settings_are_named(flags, words):
    with pytest.raises(UserError, match=words):
        tb.parse(tb.Settings, tb.__doc__, flags)


def test_a_judge_folder_that_holds_no_model_is_named(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as stopped:
        tb.Run(settings(judge=str(tmp_path / "empty")))
    assert f"--judge {tmp_path / 'empty'}" in str(stopped.value)


def test_another_run_in_the_folder_is_left_alone(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(tb, "parse_verdict", coin)
    tb.main(command(settings(steps=1)))
    before = outcome(tmp_path / "run")
    refused(settings(steps=1, lr=5e-4, seed=7), "--lr", "--seed", str(tmp_path / "run"), "--out")
    rows = read_rows(settings().labelled)
    write_rows(tmp_path / "l.jsonl", rows[16:])
    monkeypatch.setattr(tb, "asdict", lambda s: {k: v for k, v in vars(s).items() if k != "labelled"})
    refused(settings(steps=1, labelled=str(tmp_path / "l.jsonl")), "training pairs")
    assert outcome(tmp_path / "run") == before


# ---------------------------------------------------------------- numbers that are none

@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_with_step_and_instances_and_keeps_the_checkpoint(settings, monkeypatch, tmp_path, what):
    monkeypatch.setattr(tb, "parse_verdict", coin)
    run = tb.Run(settings(steps=4, save_every=1))
    true, drawn = tb.losses, []

    def losses(judge, batch, *arguments, **how):
        for part in true(judge, batch, *arguments, **how):
            if run.step != 2:
                yield part
            else:
                yield part * float("nan") if what == "loss" else part + (part - part.detach()) * float("inf")

    draw = run.weights.draw
    monkeypatch.setattr(run.weights, "draw", lambda g: drawn.append(draw(g)) or drawn[-1])
    monkeypatch.setattr(tb, "losses", losses)
    with pytest.raises(UserError) as stopped:
        run.go()
    message = str(stopped.value)
    assert "step 2" in message and str(tmp_path / "run/state.pt") in message and "--lr" in message
    assert all(run.train[i].instance_id in message for i in drawn[-1][0])
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["step"] in (1, 2) and state["theta"].isfinite().all() and run.flat.theta.isfinite().all()
    monkeypatch.setattr(tb, "losses", true)
    tb.Run(settings(steps=4, save_every=1)).go()  # what stopped it is gone: it goes on
    assert [row["step"] for row in strict(tmp_path / "run/metrics.jsonl")] == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- what a run writes

@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["uniform", "domain", "instance", "net"])
def test_every_kind_of_weights_runs(tiny, tmp_path, capsys, weights, apply):
    s = tiny(weights=weights, apply=apply, check_hypergradient=1, train_only=["policy=strong"])
    tb.main(command(s))
    out = tmp_path / "run"
    rows, metrics = strict(out / "weights.jsonl"), strict(out / "metrics.jsonl")
    a = [row["weight"] for row in rows]
    assert abs(sum(a) / len(a) - 1) < 1e-6 and min(a) >= 0
    assert (len(set(a)) > 1) == (weights != "uniform")
    assert sum(row["visits"] for row in rows) == 8 and all(row["informed"] <= row["visits"] for row in rows)
    assert len({row["instance_id"] for row in rows}) == len(rows) and all(len(row["candidate_ids"]) == 2 for row in rows)
    assert [row["step"] for row in metrics] == [0, 1, 2] and "eval_accuracy" in metrics[0] and "eval_accuracy" in metrics[2]
    for row in metrics[1:]:
        assert {"reward", "grad_norm", "entropy", "tokens", "truncated", "parse_rate", "zero_variance", "weight", "seconds"} <= set(row)
        if weights != "uniform":
            assert {"meta_reward", "check_relative_error", "split_half_cosine", "meta_change_predicted", "meta_change_realised"} <= set(row)
    mean = {g: sum(r["weight"] for r in rows if r["group"] == g) / n for g, n in Counter(r["group"] for r in rows).items()}
    assert metrics[-1]["weight"] == pytest.approx(mean)
    assert AutoModelForCausalLM.from_pretrained(out / "judge").num_parameters() and AutoTokenizer.from_pretrained(out / "judge")
    said = capsys.readouterr().out
    assert f"next: python select.py --problems {s.problems[0]} --labelled {s.labelled}" in said and f"--judge {out / 'judge'}" in said
    never = sum(not row["informed"] for row in rows)
    assert f"{never} of {len(rows)} pairs never had judgments of both kinds" in said


def test_the_judge_stays_while_it_looks_ahead(settings, monkeypatch):
    """--look-ahead 4: θ is the start's for 4 steps and moves in the fifth; the weights learn from the third on."""
    monkeypatch.setattr(tb, "parse_verdict", coin)
    run = tb.Run(settings(look_ahead=4, steps=9, group=6))
    start, moved, learned = run.flat.theta.clone(), [], []
    for run.step in range(5):
        run.train_step()
        moved.append(not torch.equal(run.flat.theta, start))
        learned.append(bool(run.weights.table["instance"].abs().max() > 0))
    assert moved == [False, False, False, False, True] and learned == [False, False, True, True, True]


def test_the_judge_that_is_written_is_the_judge_that_was_trained(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(tb, "parse_verdict", coin)
    run = tb.Run(settings(group=6))
    start = run.flat.theta.clone()
    run.go()
    assert (run.flat.theta - start).abs().max() > 1e-4
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "run/judge")
    for (name, p), q in zip(written.named_parameters(), run.judge.model.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert (tmp_path / "run/judge/model.safetensors").stat().st_size < 4 * len(start) + 10000  # each parameter once


def test_ctrl_c_says_how_to_go_on(settings, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt
    monkeypatch.setattr(tb.Run, "train_step", interrupt)
    with pytest.raises(SystemExit, match="the same command goes on"):
        tb.main(command(settings()))


# ---------------------------------------------------------------- pairs

def world(*rows, split="train"):
    problem = {"problem_id": "p", "prompt": "add", "domain": "d", "difficulty": "easy", "split": split}
    return {"p": problem}, [{"problem_id": "p", "candidate_id": name, "policy": "w", "code": code, "passed": passed} for name, code, passed in rows]


def test_a_pair_is_one_passed_and_one_failed_program(settings):
    """The same text counts once, no verdict is no label, the side is random, and `right` names the one that passed."""
    problems, rows = world(("a", "x", True), ("b", "x", True), ("c", "y", False), ("d", "z", None), ("e", "w", False))
    sides = Counter()
    for seed in range(40):
        pairs = make_pairs(problems, rows, "train", settings(seed=seed, pairs_per_problem=9))
        assert sorted(p.instance_id for p in pairs) == ["p:a>c", "p:a>e"]
        for pair in pairs:
            sides[pair.right] += 1
            assert {"A": pair.a, "B": pair.b}[pair.right]["passed"] and pair.a["passed"] != pair.b["passed"]
            other = pair.flipped()
            assert (other.a, other.b, other.right) == (pair.b, pair.a, "AB".replace(pair.right, ""))
    assert 20 < sides["A"] < 60
    assert len(make_pairs(problems, rows, "train", settings(pairs_per_problem=1))) == 1


def test_pairs_of_a_problem_do_not_depend_on_other_problems(settings):
    s = settings()
    problems, labelled = read_problems(s.problems), read_rows(s.labelled)
    whole = {p.instance_id: p.right for p in make_pairs(problems, labelled, "train", s)}
    for name in [n for n, p in problems.items() if p["split"] == "train"][:3]:
        alone = make_pairs({name: problems[name]}, labelled, "train", s)
        assert alone and all(whole[p.instance_id] == p.right for p in alone)


def test_a_problem_in_two_splits_is_refused_unless_allowed(settings, tmp_path, capsys):
    """Also where only case, blanks and punctuation differ. Shared policies are no error; they are listed."""
    s = settings(problems=[str(tmp_path / "p.jsonl")])
    rows = read_rows(settings().problems[0])
    write_rows(tmp_path / "p.jsonl", rows)
    tb.Run(s)
    assert "splits share 0 problems; policies: dev strong; meta strong; test strong; train strong, weak" in capsys.readouterr().out
    train, test = (next(r for r in rows if r["split"] == split) for split in ("train", "test"))
    write_rows(tmp_path / "p.jsonl", [{**r, "prompt": test["prompt"].upper().replace(" ", " \n")} if r is train else r for r in rows])
    refused(s, "1 problems", "--allow-overlap")
    assert f"{train['problem_id']} (train), {test['problem_id']} (test)" in capsys.readouterr().out
    s.allow_overlap = True
    tb.Run(s)


def test_splits_share_no_problem(settings):
    s = settings()
    problems, labelled = read_problems(s.problems), read_rows(s.labelled)
    seen = [{p.problem["problem_id"] for p in make_pairs(problems, labelled, split, s)} for split in ("train", "meta", "test")]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


@pytest.mark.parametrize("text, verdict", [("<best>A</best>", "A"), ("<best>A</best> Wait <best> B </best>", "B"), ("A", None),
                                           ("<best>C</best>", None), ("<best>A</best> <best>", "A"), ("", None)])
def test_the_last_verdict_counts(text, verdict):
    assert tb.parse_verdict(text) == verdict


# ---------------------------------------------------------------- data weights

def weights_of(s, groups="aabbbc"):
    return tb.DataWeights([Pair(str(i), {}, {}, {}, "A", g) for i, g in enumerate(groups)], s)


@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["domain", "instance"])
def test_rows_that_were_not_visited_do_not_move(settings, weights, apply):
    """Nor do visited ones whose rewards were all equal. Logits, that is: weights keep their mean of one together."""
    w = weights_of(settings(weights=weights, apply=apply), "aabbbcc")
    index, informed = torch.tensor([0, 3, 4, 2]), torch.tensor([True, True, False, True])
    for _ in range(3):
        w.update(index, torch.tensor([1e-7, -1.3e-7, 5.0, -0.4e-7], dtype=torch.float64), informed)
    domain, own = w.table["domain"].tolist(), w.table["instance"].tolist()
    assert domain[0] > 0 > domain[1] and domain[2] == 0
    assert own[1] == own[4] == own[5] == own[6] == 0
    assert (own[0] > own[2] > own[3] and own[0] > 0 > own[3]) if weights == "instance" else own == [0.0] * 7
    assert max(map(abs, domain + own)) <= w.BOUND
    a = w.weights()
    assert float(a.mean()) == pytest.approx(1, abs=1e-6) and a[0] > 1 > a[3] and a[0] > a[5] > a[3]
    assert w.informed.tolist() == [3, 0, 3, 3, 0, 0, 0]


def test_rows_of_a_run_that_were_not_informed_do_not_move(settings, monkeypatch):
    monkeypatch.setattr(tb, "parse_verdict", coin)
    run = tb.Run(settings(steps=3, group=6))
    for run.step in range(3):
        run.train_step()
    own, moved = run.weights.table["instance"], run.weights.informed > 0
    assert own[~moved].abs().max() == 0 and own[moved].abs().min() > 0 and 0 < int(moved.sum()) < len(own)


@pytest.mark.parametrize("apply", ["draw", "scale"])
@pytest.mark.parametrize("weights", ["uniform", "domain", "instance", "net"])
def test_weights_start_uniform_with_mean_one(settings, weights, apply):
    assert weights_of(settings(weights=weights, apply=apply)).weights().tolist() == pytest.approx([1.0] * 6, abs=1e-6)


def test_a_positive_s_raises_the_weight_of_the_network(settings):
    w = weights_of(settings(weights="net"))
    w.features[:3] = torch.tensor([1.0, 0.2, 0.16, 0.5, 0.3, 2.0])
    w.features[3:] = torch.tensor([1.0, 0.8, 0.16, 0.1, 0.9, 0.7])
    for _ in range(20):
        w.update(torch.arange(6), torch.tensor([1.0] * 3 + [-1.0] * 3, dtype=torch.float64), torch.ones(6, dtype=torch.bool))
    assert w.weights()[0] > 1.2 and w.weights()[3] < 0.8 and float(w.weights().mean()) == pytest.approx(1, abs=1e-6)


def test_instances_are_drawn_in_proportion_to_their_weight(settings):
    """The first of each draw, over 4000 draws; a fifth of the draws stays uniform, and the loss is not scaled as well."""
    w = weights_of(settings(weights="instance", apply="draw", batch=1))
    w.table["instance"].data = torch.tensor([3.0, 0, 0, 0, 0, -3.0])
    g = torch.Generator().manual_seed(0)
    drawn = [w.draw(g) for _ in range(4000)]
    share = torch.bincount(torch.cat([index for index, _ in drawn]), minlength=6) / 4000
    a = w.weights()
    assert torch.allclose(share, a / 6, atol=0.03) and float(a.min()) >= 0.2 and all(x.tolist() == [1.0] for _, x in drawn)
    w.s.apply, w.s.batch = "scale", 6
    index, a = w.draw(g)
    assert sorted(index.tolist()) == list(range(6)) and torch.equal(a, w.weights()[index]) and a.max() > 1.5


# ---------------------------------------------------------------- LoRA

def lora_judge(s):
    """A judge whose adapters say something, and a pack to score."""
    judge, g = tb.Judge(s.judge, s), torch.Generator().manual_seed(0)
    for adapter in judge.adapters:
        adapter.b.data = 0.1 * torch.randn(adapter.b.shape, generator=g)
    (pack,) = make_packs([[5, 6, 7], [20, 21]], [[8, 9, 10, 1], [11, 12], [22, 1], [23] * 9], judge.pad, 10000, "cpu")
    return judge, pack


def test_the_adapter_switched_off_is_the_starting_judge(settings):
    s = settings(lora_rank=4)
    judge, pack = lora_judge(s)
    base = tb.Judge(s.judge, settings()).score(pack)
    assert torch.equal(judge.reference(pack), base)
    assert (judge.score(pack) - base).abs().max() > 0.05  # and it is on again
    fresh = tb.Judge(s.judge, s)
    assert torch.equal(fresh.score(pack), base)  # B = 0 at the start
    assert len(judge.adapters) == 2 * 7 and sum(p.requires_grad for p in judge.model.parameters()) == 2 * 14


def test_merged_and_unmerged_logprobs_agree(settings):
    judge, pack = lora_judge(settings(lora_rank=4))
    with torch.no_grad():
        before = judge.score(pack)
        tb.merge_lora(judge.model)
        assert not any(isinstance(m, tb.LoRALinear) for m in judge.model.modules())
        assert torch.allclose(judge.score(pack), before, atol=1e-4, rtol=0)


def test_a_lora_run_writes_a_plain_checkpoint(settings, monkeypatch, tmp_path):
    """transformers loads it without knowing of adapters, it is the trained judge, and what was frozen has not moved."""
    monkeypatch.setattr(tb, "parse_verdict", coin)
    s = settings(lora_rank=4, lr=1e-2, group=6, kl=0.01)
    _, pack = lora_judge(s)
    run = tb.Run(s)
    run.go()
    start, written = (AutoModelForCausalLM.from_pretrained(path) for path in (s.judge, tmp_path / "run/judge"))
    assert {n: p.shape for n, p in written.named_parameters()} == {n: p.shape for n, p in start.named_parameters()}
    moved = {n for (n, p), q in zip(start.named_parameters(), written.parameters()) if not torch.equal(p, q)}
    assert moved and all("proj" in name for name in moved)
    run.judge.model = written
    after = run.judge.score(pack)
    again = tb.Run(s)  # from state.pt, where the adapters are apart
    assert torch.allclose(again.judge.score(pack), after, atol=1e-4, rtol=0)


# ---------------------------------------------------------------- killed and continued

def test_a_killed_run_ends_like_an_undisturbed_one(tiny, tmp_path):
    """SIGKILL at a random moment after the first checkpoint, then the same command again: the same rows and the same judge."""
    def flags(name):
        return command(tiny(steps=10, save_every=2, eval_every=5, out=str(tmp_path / name), weights="instance", train_only=["policy=strong"]))
    tb.main(flags("whole"))
    seed = random.randrange(10**6)
    print(f"seed of the moment: {seed}")
    child = subprocess.Popen([sys.executable, str(ROOT / "train_bilevel.py"), *flags("killed")], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
    try:
        waited = time.monotonic() + 60
        while not (tmp_path / "killed/state.pt").exists():
            assert child.poll() is None and time.monotonic() < waited
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 0.3))
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (tmp_path / "killed/judge").exists()
    tb.main(flags("killed"))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["write_rows", "torch.save", "replace", "save_pretrained"])
def test_killed_within_a_save_is_no_worse(settings, monkeypatch, tmp_path, moment):
    """Rows are written before the state: whichever of them a kill leaves behind, the rest is made again, the same."""
    monkeypatch.setattr(tb, "parse_verdict", coin)
    def make(name):
        return tb.Run(settings(steps=4, save_every=1, eval_every=2, out=str(tmp_path / name)))
    make("whole").go()
    run = make("killed")

    class Killed(BaseException):
        pass

    def after(true, ready):
        def call(*arguments, **how):
            if ready():
                raise Killed
            return true(*arguments, **how)
        return call

    with monkeypatch.context() as m:
        if moment == "write_rows":  # metrics of step 3 are out, nothing else of it
            calls = iter(range(1000))
            m.setattr(tb, "write_rows", after(write_rows, lambda: next(calls) == 7))
        elif moment == "torch.save":
            m.setattr(torch, "save", after(torch.save, lambda: run.step == 3))
        elif moment == "replace":
            m.setattr(tb.Path, "replace", after(tb.Path.replace, lambda: run.step == 3))
        else:
            m.setattr(run.judge.model, "save_pretrained", after(None, lambda: True))
        with pytest.raises(Killed):
            run.go()
    again = make("killed")
    assert again.step == (4 if moment == "save_pretrained" else 2)
    again.go()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


# ---------------------------------------------------------------- cold start, several processes, the shuffled control

def test_cold_start_traces_are_right_and_some_think_twice(tiny, tmp_path):
    """J1: what is kept has the right last verdict and fits; second thoughts follow a forced WAIT; a wrong one is never kept."""
    s = tiny(cold_start=3, steps=0, max_new_tokens=60, weights="uniform")
    run = tb.Run(s)
    rows = strict(tmp_path / "run/cold_start.jsonl")
    assert [row["instance_id"] for row in rows] == [p.instance_id for p in run.train for _ in range(s.group)]
    right, twice = {p.instance_id: p.right for p in run.train}, 0
    for row in rows:
        first, verdict = row["text"].split(WAIT)[0], right[row["instance_id"]]
        assert WAIT not in row["text"] or parse_verdict(first) != verdict
        assert row["kept"] == (parse_verdict(row["text"]) == verdict and len(row["ids"]) <= 60)
        twice += row["kept"] and WAIT in row["text"]
    assert twice > 0 and sum(row["kept"] for row in rows) > len(rows) / 4


def test_a_cold_start_step_raises_the_log_prob_of_what_is_kept(tiny):
    """Its gradient is that of −Σ log π / (G · limit) over kept traces, and nothing else is scored."""
    s = tiny(cold_start=3, steps=0, max_new_tokens=60, weights="uniform", clip_grad=0.0)
    run = tb.Run(s)
    index = run.weights.draw(stream(s.seed, "draw", 0))[0].tolist()
    r, model = run.traces.pick(index), run.judge.model
    run.train_step()
    g, total = run.flat.g.clone(), 0.0
    kept = r.rewards.flatten().bool().tolist()
    fresh = tb.Run(tiny(steps=1, out=s.out + "2", weights="uniform"))
    for k, c in enumerate(r.completions):
        if kept[k]:
            prompt = r.prompts[k // s.group]
            logits = fresh.judge.model(input_ids=torch.tensor([prompt + c.ids])).logits[0, len(prompt) - 1:-1]
            total = total - logits.log_softmax(-1).gather(1, torch.tensor(c.ids)[:, None]).sum() / (s.group * s.max_new_tokens) / len(index)
    fresh.flat.grad.zero_()
    total.backward()
    assert (g - fresh.flat.grad).norm() < 1e-4 * g.norm() and 0 < sum(kept) < len(kept)
    assert model is run.judge.model


@pytest.mark.parametrize("learn", [False, True])
def test_a_cold_start_goes_over_into_grpo_and_resumes(tiny, tmp_path, learn):
    def go(name, *stops):
        for steps in stops:
            s = tiny(cold_start=2, steps=steps, max_new_tokens=40, weights="instance", cold_start_weights=learn, out=str(tmp_path / name))
            run = tb.Run(s)
            run.go()
        return run
    run = go("once", 2)
    rows = strict(tmp_path / "once/metrics.jsonl")
    assert [row.get("cold") for row in rows] == [None, True, True, False, False]
    assert [("meta_reward" in row) for row in rows[1:]] == [learn, learn, True, True]
    assert run.flat.t == 2  # Adam starts anew with GRPO
    go("twice", 0, 2)
    same = [{k: v for k, v in row.items() if k not in TIMES} for row in strict(tmp_path / "twice/metrics.jsonl")]
    assert [r for r in same if not r["step"] == 2] == [{k: v for k, v in r.items() if k not in TIMES} for r in rows if not r["step"] == 2]
    assert torch.equal(torch.load(tmp_path / "twice/state.pt")["theta"], run.flat.theta)


DRIVER = """
import random, sys
sys.path.insert(0, {root!r})
import train_bilevel as tb
tb.parse_verdict = lambda text: random.Random(text).choice(["A", "B", None])  # so that rewards vary
tb.main(sys.argv[1:])
"""


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_two_processes_give_the_result_of_one(settings, tmp_path, dtype):
    """The same global batch under torchrun (gloo): parameters, moments and data weights to 1e-5, the same rows.

    The central difference magnifies fp32's rounding, so there data weights agree as well as it is exact: to 1e-3. GPT-2,
    because Llama's norm rounds to fp32 whatever the parameters are."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY / "judge")
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2,
                               eos_token_id=tokenizer.eos_token_id, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    (tmp_path / "driver.py").write_text(DRIVER.format(root=str(ROOT)))
    outputs = {}
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        flags = command(settings(weights="instance", cold_start=1, steps=3, batch=5, group=6, max_new_tokens=24, check_hypergradient=2, dtype=dtype, adam_eps=1e-6,
                                 clip_grad=0.01, judge=str(tmp_path / "gpt"), out=str(tmp_path / name)))
        done = subprocess.run([sys.executable, *launcher, str(tmp_path / "driver.py"), *flags], capture_output=True, text=True, timeout=300,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
        outputs[name] = done.stdout
    one, two = (torch.load(tmp_path / name / "state.pt") for name in ("one", "two"))
    for name in ("theta", "m", "n"):
        assert torch.allclose(one[name], two[name], atol=1e-5, rtol=0), name
    rows = [strict(tmp_path / name / "weights.jsonl") for name in ("one", "two")]
    assert [r["weight"] for r in rows[1]] == pytest.approx([r["weight"] for r in rows[0]], abs=1e-5 if dtype == "float64" else 1e-3)
    assert len({r["weight"] for r in rows[0]}) > 2
    assert [(r["instance_id"], r["visits"], r["informed"]) for r in rows[0]] == [(r["instance_id"], r["visits"], r["informed"]) for r in rows[1]]
    texts = [[r["text"] for r in strict(tmp_path / name / "transcripts.jsonl")] for name in ("one", "two")]
    assert texts[0] == texts[1]
    metrics = [strict(tmp_path / name / "metrics.jsonl")[-1] for name in ("one", "two")]
    for name in ("loss", "grad_norm", "reward", "entropy", "tokens", "meta_reward", "meta_grad_norm"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-3, abs=1e-6), name
    assert outputs["two"].count("training, ") == 1  # one of them speaks


def test_shuffled_weights_are_those_of_the_other_run_on_other_pairs(settings, tmp_path):
    pairs = [Pair(str(i), {}, {}, {}, "A", "d") for i in range(40)]
    write_rows(tmp_path / "w.jsonl", [{"weight": 0.05 + i / 20} for i in range(40)])
    w = tb.DataWeights(pairs, settings(weights="uniform", shuffle_weights=str(tmp_path / "w.jsonl")))
    a, other = w.weights().tolist(), [0.05 + i / 20 for i in range(40)]
    assert sorted(a) == pytest.approx(other) and a != pytest.approx(other) and abs(torch.corrcoef(torch.tensor([a, other]))[0, 1]) < 0.4
    for wrong in (dict(weights="domain"), dict(weights="uniform", pairs=39)):
        with pytest.raises(UserError, match="--shuffle-weights"):
            tb.DataWeights(pairs[:wrong.pop("pairs", 40)], settings(shuffle_weights=str(tmp_path / "w.jsonl"), **wrong))


@pytest.mark.parametrize("look_ahead", [0, 3])
def test_the_central_difference_is_right_for_adapters_from_their_first_step_on(look_ahead, tmp_path):
    """LoRA's A has no gradient while B is 0, but v has a part there: 1/ε times it must not be the direction. On the tiny judge."""
    s = tb.Settings(labelled=str(TINY / "labelled.jsonl"), out=str(tmp_path / "run"), lora_rank=4, steps=4, look_ahead=look_ahead, check_hypergradient=1,
                    batch=8, meta_batch=8, eval_every=0)
    run = tb.Run(s)
    for _ in range(4):
        row = run.train_step()
        run.step += 1
        assert row["check_cosine"] > 0.999 and row["check_relative_error"] < 0.02 and row["check_signs"] == 1, row


def test_traces_of_the_cold_start_are_bound_to_their_settings(settings, monkeypatch, tmp_path):
    """Killed between the traces and the first checkpoint, a run with another seed must not take them for its own."""
    monkeypatch.setattr(tb, "parse_verdict", coin)
    monkeypatch.setattr("data.pairs.parse_verdict", coin)
    tb.Run(settings(cold_start=3, seed=0))
    assert (tmp_path / "run" / "cold_start.jsonl").exists()
    refused(settings(cold_start=3, seed=1), "--seed", "--out")
    tb.Run(settings(cold_start=3, seed=0))


@pytest.mark.parametrize("flag, value, bound", [("clip_grad", -1.0, "at least 0"), ("floor", -0.5, "at least 0"), ("beta1", 1.0, "below 1"), ("kl", -1.0, "at least 0"),
                                                ("micro_tokens", 0, "at least 1"), ("floor", 1.0, "below 1")])
def test_flags_have_bounds(settings, flag, value, bound):
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')} {value}: must be {bound}"):
        settings(**{flag: value})
