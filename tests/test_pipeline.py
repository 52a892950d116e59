"""The four stages one after another, as the commands that people type; their answers to bad input."""
import contextlib
import importlib.util
import io
import json
import os
import runpy
import subprocess
import sys
from collections import Counter

import pytest

import sample
import train_bilevel
from data.rows import CANDIDATE, EDGES, LABELLED, ROOT, UserError, read_problems, read_rows

spec = importlib.util.spec_from_file_location("daj_select_in_pipeline", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)

KEY, N = ("problem_id", "candidate_id"), 6
linux = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox needs Linux")


def dump(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def few(split, count):
    kind = {"split": split, "domain": "reviewed", "difficulty": "hard"}
    rows = [p for p in read_rows(EDGES / "problems_strong.jsonl") if kind.items() <= p.items()]
    assert len(rows) >= count
    return rows[:count]


def commands(folder):
    """{stage: (script, flags)}: each reads what the one before wrote."""
    problems = ("--problems", folder / "p.jsonl")
    candidates = folder / "c.jsonl"
    labelled = folder / "l.jsonl"
    return {
        "sample": ("sample.py", *problems, "--model", EDGES / "strong", "--n", N, "--max-new-tokens", 40,
                   "--out", candidates),
        "execute": ("execute.py", *problems, "--candidates", candidates, "--out", labelled),
        "train": ("train_bilevel.py", *problems, "--labelled", labelled, "--judge", EDGES / "judge",
                  "--weights", "instance", "--steps", 2, "--freeze-judge-steps", 1, "--batch", 4, "--meta-batch", 4,
                  "--group", 4, "--eval-every", 0, "--out", folder / "run"),
        "select": ("select.py", *problems, "--labelled", labelled, "--judge", folder / "run" / "judge", "--rounds", 2,
                   "--out", folder / "s.jsonl"),
    }


def run_here(script, *flags):
    """`python SCRIPT FLAGS` within this process, which saves the start of torch: a finished process, as `stage` has it."""
    out = io.StringIO()
    err = io.StringIO()
    argv = sys.argv
    sys.argv = [script, *map(str, flags)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(ROOT / script), run_name="__main__")
        code = None
    except SystemExit as leave:
        code = leave.code
    finally:
        sys.argv = argv
    if isinstance(code, str):  # Python prints it and leaves with status 1
        return subprocess.CompletedProcess(script, 1, out.getvalue(), err.getvalue() + code + "\n")
    return subprocess.CompletedProcess(script, code or 0, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def chain(stage, tmp_path_factory):
    """A folder in which all four stages have run, and what each of them said."""
    folder = tmp_path_factory.mktemp("chain")
    dump(folder / "p.jsonl", few("train", 8) + few("meta", 4) + few("test", 4))
    said = {}
    for name, command in commands(folder).items():
        said[name] = stage(*command) if name == "execute" else run_here(*command)
    return folder, said


@linux
def test_every_stage_ends_well_and_names_the_next_command(chain):
    folder, said = chain
    last_line = {}
    for name, done in said.items():
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, name
        last_line[name] = done.stdout.splitlines()[-1]
    assert f"python execute.py --problems {folder / 'p.jsonl'} --candidates {folder / 'c.jsonl'}" in last_line["sample"]
    assert "python train_bilevel.py" in last_line["execute"]
    assert str(folder / "l.jsonl") in last_line["execute"]
    assert "python select.py" in last_line["train"]
    assert str(folder / "run/judge") in last_line["train"]
    assert "--explain" in last_line["select"]


def test_what_training_s_next_command_leaves_out_is_what_select_takes_by_itself():
    trained = train_bilevel.Settings()
    assert train_bilevel.flags_of_select(trained) == ["--judge", f"{trained.out}/judge"]
    chosen = select.Settings(judge="none")
    assert chosen.problems == trained.problems
    assert str(chosen.labelled) == trained.labelled
    assert chosen.split == trained.eval_split
    assert chosen.max_new_tokens == trained.max_new_tokens
    assert chosen.temperature == trained.temperature


@pytest.fixture(scope="module")
def joined(chain):
    """(problems by id, labelled candidates by key) of the chain."""
    folder, _ = chain
    problems = read_problems(folder / "p.jsonl")
    rows = read_rows(folder / "l.jsonl", LABELLED, key=KEY)
    return problems, {(row["problem_id"], row["candidate_id"]): row for row in rows}


@linux
def test_every_candidate_gets_a_verdict(chain, joined):
    folder, _ = chain
    problems, labelled = joined
    candidates = {(r["problem_id"], r["candidate_id"]): r for r in read_rows(folder / "c.jsonl", CANDIDATE, key=KEY)}
    assert Counter(pid for pid, _ in candidates) == dict.fromkeys(problems, N)
    assert list(labelled) == list(candidates)
    for key, row in labelled.items():
        assert candidates[key].items() <= row.items()  # the candidate, plus its verdict
        problem = problems[key[0]]
        assert row["tests_total"] == len(problem["public_tests"] + problem["tests"])
        assert row["passed"] == (row["tests_passed"] == row["tests_total"])
        assert row["passed"] == (row["status"] == "passed")
    assert {row["passed"] for row in labelled.values()} == {True, False}


@linux
def test_every_weight_is_of_a_pair_of_a_passed_and_a_failed_candidate(chain, joined):
    folder, _ = chain
    problems, labelled = joined
    weights = read_rows(folder / "run" / "weights.jsonl", key=("instance_id",))
    assert sum(w["weight"] for w in weights) == pytest.approx(len(weights))
    assert sum(w["visits"] for w in weights) == 2 * min(4, len(weights))
    for row in weights:
        pair = [labelled[row["problem_id"], cid] for cid in row["candidate_ids"]]
        assert problems[row["problem_id"]]["split"] == "train"
        assert {candidate["passed"] for candidate in pair} == {True, False}
    assert [m["step"] for m in read_rows(folder / "run" / "metrics.jsonl")] == [0, 1, 2]


@linux
def test_every_selection_is_a_candidate_with_its_share_of_the_judgments(chain, joined):
    folder, _ = chain
    problems, labelled = joined
    test = {pid for pid, problem in problems.items() if problem["split"] == "test"}
    rows = read_rows(folder / "s.jsonl", key=("problem_id", "method"))
    selections = {(row["problem_id"], row["method"]): row for row in rows}
    assert set(selections) == {(pid, m) for pid in test for m in (*select.BASELINES, "judge, trained")}
    judgments = Counter()
    for row in read_rows(folder / "judgments.jsonl"):
        assert row["problem_id"] in test
        assert (row["problem_id"], row["a"]) in labelled
        assert (row["problem_id"], row["b"]) in labelled
        judgments[row["problem_id"]] += 1
    for (pid, method), row in selections.items():
        mine = {cid: r for (p, cid), r in labelled.items() if p == pid}
        assert row["candidate_id"] in mine
        if method == "judge, trained":
            assert row["judge_calls"] == judgments[pid]
            assert row["votes"].keys() <= mine.keys()
        if method == "oracle":
            solvable = any(r["passed"] for r in mine.values())
            assert mine[row["candidate_id"]]["passed"] == solvable
            assert row["passed"] == pytest.approx(float(solvable))
        if method == "random":
            assert row["passed"] == pytest.approx(sum(r["passed"] for r in mine.values()) / N)


@linux
def test_the_trained_judge_is_a_checkpoint_that_moved(chain):
    folder, _ = chain
    before, _ = sample.load_model(str(EDGES / "judge"))
    after, tokenizer = sample.load_model(str(folder / "run" / "judge"))
    moved = [float((a - b).detach().abs().max()) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 0.01  # the judge stands still in one step and moves in the other
    assert tokenizer.eos_token_id == after.config.eos_token_id


@linux
def test_a_second_run_of_every_stage_makes_nothing_new(chain, stage, monkeypatch):
    folder, _ = chain
    files = [folder / name for name in ("c.jsonl", "l.jsonl", "s.jsonl", "judgments.jsonl", "run/weights.jsonl", "run/metrics.jsonl")]
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr(sample, "generate", lambda *a, **k: pytest.fail("sampled what was there"))
    monkeypatch.setattr(select, "generate", lambda *a, **k: pytest.fail("judged what was judged"))
    stages = commands(folder)
    for name, module in (("sample", sample), ("train", train_bilevel), ("select", select)):
        module.main([str(flag) for flag in stages[name][1:]])
        assert [path.read_bytes() for path in files] == before, name
    assert stage(*stages["execute"]).returncode == 0
    assert [path.read_bytes() for path in files] == before


# ---------------------------------------------------------------- bad input, stage by stage

def said_by(name, arguments, stage):
    """The last words of a command that must fail. execute.py runs as a process; the others here, to save their start."""
    if name == "execute":
        done = stage("execute.py", *arguments)
        assert done.returncode and "Traceback" not in done.stderr, done.stderr
        return done.stderr.strip()
    module = {"sample": sample, "train": train_bilevel, "select": select}[name]
    with pytest.raises(UserError) as caught:  # anything else would be a traceback
        module.main([str(argument) for argument in arguments])
    return str(caught.value)


@pytest.fixture
def copy(chain, tmp_path):
    """The chain's rows in a folder of their own, to be spoilt: (folder, {stage: flags})."""
    folder, _ = chain
    for name in ("p.jsonl", "c.jsonl", "l.jsonl", "s.jsonl", "judgments.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "judge").symlink_to(folder / "run" / "judge")
    return tmp_path, {name: list(command[1:]) for name, command in commands(tmp_path).items()}


def must_complain(name, copy, stage, *says):
    """The stage fails with one line that says all this, and every file is as it was."""
    folder, flags = copy
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    message = said_by(name, flags[name], stage)
    assert message
    assert "\n" not in message
    for words in says:
        assert str(words) in message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


STAGES = ["sample", "execute", "train", "select"]
READS = {"sample": "p.jsonl", "execute": "c.jsonl", "train": "l.jsonl", "select": "l.jsonl"}


@linux
@pytest.mark.parametrize("name", STAGES)
def test_a_malformed_row_is_named_by_file_line_and_field(name, copy, stage):
    path = copy[0] / READS[name]
    rows = read_rows(path)
    del rows[2]["problem_id"]
    dump(path, rows)
    must_complain(name, copy, stage, f"{path}, line 3", "'problem_id' is missing")
    path.write_text(path.read_text().replace("\n", "\n{broken\n", 1))
    must_complain(name, copy, stage, f"{path}, line 2: not JSON")


@linux
@pytest.mark.parametrize("name, file", [(name, file) for name in STAGES for file in {"p.jsonl", READS[name]}])
def test_a_missing_file_is_named(name, file, copy, stage):
    (copy[0] / file).unlink()
    must_complain(name, copy, stage, f"{copy[0] / file}: no such file")


@linux
def test_a_problem_without_tests_is_named_before_anything_runs(copy, stage):
    rows = read_rows(copy[0] / "p.jsonl")
    rows[1]["tests"] = rows[1]["public_tests"] = []
    dump(copy[0] / "p.jsonl", rows)
    must_complain("execute", copy, stage, copy[0] / "p.jsonl", rows[1]["problem_id"])


@linux
def test_a_candidate_of_an_unknown_problem_is_named(copy, stage):
    gone, *kept = read_rows(copy[0] / "p.jsonl")
    dump(copy[0] / "p.jsonl", kept)
    must_complain("execute", copy, stage, copy[0] / "c.jsonl", gone["problem_id"], "--problems")


@linux
@pytest.mark.parametrize("name, split", [("train", "train"), ("train", "meta"), ("train", "test"), ("select", "test")])
def test_a_split_without_mixed_outcomes_is_an_error_that_says_so(name, split, copy, stage):
    splits = {pid: p["split"] for pid, p in read_problems(copy[0] / "p.jsonl").items()}
    labelled = read_rows(copy[0] / "l.jsonl")
    dump(copy[0] / "l.jsonl", [{**r, "passed": r["passed"] and splits[r["problem_id"]] != split} for r in labelled])
    (copy[0] / "s.jsonl").unlink()  # the baselines' rows may be written
    folder, flags = copy
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "s.jsonl"}
    message = said_by(name, flags[name], stage)
    assert "\n" not in message
    assert str(folder / "l.jsonl") in message
    assert split in message
    assert "both a passing and a failing candidate" in message
    assert all(path.read_bytes().startswith(content) for path, content in before.items())  # judgments may have been added


@linux
@pytest.mark.parametrize("name", ["execute", "train", "select"])
def test_an_empty_split_is_named(name, copy, stage):
    rows = [{**p, "split": "other"} for p in read_rows(copy[0] / "p.jsonl")]
    dump(copy[0] / "p.jsonl", rows)
    if name == "execute":
        copy[1][name] += ["--split", "test"]
    must_complain(name, copy, stage, copy[0] / READS[name], {"execute": "other", "train": "train", "select": "'test'"}[name])


@linux
@pytest.mark.parametrize("name, flag", [("sample", "--model"), ("train", "--judge"), ("select", "--judge")])
def test_a_model_that_is_not_there_is_named_by_its_flag(name, flag, copy, stage):
    folder, flags = copy
    flags[name][flags[name].index(flag) + 1] = folder / "no-such-model"
    if name == "select":
        (folder / "judgments.jsonl").write_bytes(b"")  # nothing of it is in the cache
    else:
        flags[name][flags[name].index("--out") + 1] = folder / "new"
    if name == "sample":
        (folder / "new").write_bytes(b"")  # it makes the file before it loads the model
    must_complain(name, copy, stage, f"{flag} {folder / 'no-such-model'}: no such folder")


@pytest.mark.parametrize("script", ["sample.py", "execute.py", "train_bilevel.py", "select.py"])
def test_a_failing_command_has_an_exit_status_and_one_line_and_no_traceback(script, stage, tmp_path):
    rest = {"sample.py": ("--model", EDGES / "weak"), "select.py": ("--judge", EDGES / "judge")}.get(script, ())
    run = stage if script == "execute.py" else run_here
    done = run(script, "--problems", tmp_path / "none.jsonl", *rest, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path / 'none.jsonl'}: no such file\n"
