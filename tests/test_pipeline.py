"""The four stages one after another, as the commands that people type; their answers to bad input; the tiny world."""
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
from data.tiny import world

spec = importlib.util.spec_from_file_location("daj_select_in_pipeline", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)

KEY, N = ("problem_id", "candidate_id"), 6
linux = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox needs Linux")


def dump(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def few(split, count):
    rows = [p for p in read_rows(EDGES / "problems_strong.jsonl") if p["split"] == split and p["domain"] == "reviewed"]
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
        assert row["tests_total"] == 8
        assert row["passed"] == (row["tests_passed"] == 8)
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


# ---------------------------------------------------------------- the tiny world

@pytest.fixture(scope="module")
def tiny():
    """The world's problems as they are in the repository: (weak policy's, strong policy's)."""
    return [read_rows(EDGES / f"problems_{name}.jsonl") for name in ("weak", "strong")]


def test_the_problems_in_the_repository_are_what_the_generator_makes(tiny):
    assert list(world.make_problems()) == tiny
    assert world.make_problems(seed=1)[0] != tiny[0]


def test_no_two_problems_take_the_same_steps_so_no_split_knows_another(tiny):
    rows = [row for rows in tiny for row in rows]
    assert len({tuple(row["steps"]) for row in rows}) == len(rows)
    assert len({row["problem_id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"train", "meta", "dev", "test"}
    assert all(row["split"] == row["problem_id"].split("/")[1] for row in rows)
    assert {row["split"] for row in tiny[0]} == {"train"}
    assert {row["split"] for row in rows if row["domain"] == "scraped"} == {"train"}


def test_a_statement_s_example_is_right_and_hidden_tests_go_beyond_it(tiny):
    for row in tiny[0] + tiny[1]:
        x, y = row["prompt"].splitlines()[1].split(" -> ")
        assert world.digits(world.run(row["steps"], [int(digit) for digit in x])[-1]) == y
        tests = row["public_tests"] + row["tests"]
        assert len(tests) == 8
        assert len(row["public_tests"]) == (row["domain"] == "reviewed")
        assert len({str(test["args"]) for test in tests}) >= 6


def test_wrong_programs_are_wrong_in_their_policy_s_own_way():
    rng = world.random.Random(0)
    for _ in range(200):
        steps, _ = world.draw_task(rng, rng.choice((2, 3, 4)))
        assert abs(len(world.length_error(rng, steps)) - len(steps)) == 1
        wrong = world.slip(rng, steps)
        assert sum(a != b for a, b in zip(wrong, steps, strict=True)) == 1


def test_a_traced_verdict_is_right_wherever_the_example_tells_the_programs_apart():
    rng = world.random.Random(0)
    told_apart = 0
    for _ in range(200):
        steps, x = world.draw_task(rng, 3)
        wrong = world.slip(rng, steps)
        if world.run(wrong, x)[-1] != world.run(steps, x)[-1]:
            told_apart += 1
            assert world.trace(rng, steps, wrong, steps, x).endswith("<best>B</best>")
            assert world.trace(rng, steps, steps, wrong, x).endswith("<best>A</best>")
        shorter = steps[1:]
        assert world.skim(rng, steps, shorter, steps).endswith("<best>B</best>")
        assert world.skim(rng, steps, steps, shorter).endswith("<best>A</best>")
    assert told_apart > 100


def lies(problem):
    """Does any test of the problem want something else than the problem's own steps give?"""
    tests = problem["public_tests"] + problem["tests"]
    return any(world.run(problem["steps"], test["args"][0])[-1] != test["expected"] for test in tests)


def test_reviewed_tests_never_lie_and_scraped_ones_all_do(tiny):
    rows = tiny[0] + tiny[1]
    assert {row["domain"] for row in rows} == {"reviewed", "scraped"}
    for row in rows:
        assert lies(row) == (row["domain"] == "scraped")
    assert sum(map(lies, rows)) == 20


@linux
def test_right_programs_pass_unless_the_tests_lie_and_the_labels_in_the_repository_are_real(tiny, stage, tmp_path):
    problems = tiny[0] + tiny[1]
    candidates = [{"problem_id": p["problem_id"], "candidate_id": "right", "policy": "none",
                   "code": world.STARTER + world.body(p["steps"])} for p in problems]
    shipped = read_rows(EDGES / "labelled.jsonl", LABELLED, key=KEY)[::60]
    candidates += [{k: row[k] for k in CANDIDATE} for row in shipped]
    done = stage("execute.py", "--problems", EDGES / "problems_weak.jsonl", EDGES / "problems_strong.jsonl",
                 "--candidates", dump(tmp_path / "c.jsonl", candidates), "--out", tmp_path / "l.jsonl")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "l.jsonl", LABELLED, key=KEY)
    labelled = {(row["problem_id"], row["candidate_id"]): row for row in rows}
    assert len(labelled) == len(candidates)
    for problem in problems:
        assert labelled[problem["problem_id"], "right"]["passed"] is not lies(problem), problem
    verdict = ("passed", "status", "tests_passed", "tests_total", "public_passed", "output_digest", "tests_digest")
    for row in shipped:
        for name in verdict:
            assert labelled[row["problem_id"], row["candidate_id"]][name] == row[name], (row, name)


def by_key(path, fields):
    return {(row["problem_id"], row["candidate_id"]): row for row in read_rows(path, fields, key=KEY)}


def test_the_stage_files_in_the_repository_join(tiny):
    candidates = by_key(EDGES / "candidates.jsonl", CANDIDATE)
    labelled = by_key(EDGES / "labelled.jsonl", LABELLED)
    assert candidates.keys() == labelled.keys()
    assert set(Counter(pid for pid, _ in candidates).values()) == {8}
    policy = {row["problem_id"]: name for name, rows in zip(("weak", "strong"), tiny) for row in rows}
    assert {pid: row["policy"] for (pid, _), row in candidates.items()} == policy
    for key, row in labelled.items():
        assert candidates[key].items() <= row.items()
        assert row["passed"] is not None


@pytest.mark.parametrize("policy, least, most", [("weak", 0.8, 1), ("strong", 0, 0.2)])
def test_counting_lines_finds_the_weak_policy_s_errors_and_not_the_strong_one_s(policy, least, most, tiny):
    """It is what the world is about: a shortcut that is right on the one policy and wrong on the other."""
    reviewed = {row["problem_id"]: row for row in tiny[0] + tiny[1] if row["domain"] == "reviewed"}
    found = []
    for row in read_rows(EDGES / "labelled.jsonl", LABELLED):
        if row["policy"] == policy and not row["passed"] and row["problem_id"] in reviewed:
            lines = row["code"].count("\n") - 2
            found.append(lines != len(reviewed[row["problem_id"]]["steps"]))
    assert least <= sum(found) / len(found) <= most
