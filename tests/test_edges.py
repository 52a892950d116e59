"""data/edges: the world of edge cases is what its own code and the stages make of it."""
import os
import random
from collections import Counter

import pytest

import sample
from data.edges import pretrain, world
from data.judge import parse_verdict
from data.pairs import read_pairs
from data.rows import (CANDIDATE, CANDIDATE_KEY, EDGES, EDGES_PROBLEMS, LABELLED, read_problems,
                       read_rows, write_rows)
from train_bilevel import Judge, Settings

linux = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox needs Linux")
STEP_OF = {line: step for step, (line, _) in world.STEPS.items()}


@pytest.fixture(scope="module")
def problems():
    """The problems of the repository by their ids."""
    return read_problems(EDGES_PROBLEMS)


def by_key(path, fields):
    return {(row["problem_id"], row["candidate_id"]): row
            for row in read_rows(path, fields, key=CANDIDATE_KEY)}


@pytest.fixture(scope="module")
def labelled():
    """The labelled candidates of the repository by problem and candidate."""
    return by_key(EDGES / "labelled.jsonl", LABELLED)


# ---------------------------------------------------------------- problems

def test_the_problems_are_remade_byte_for_byte(tmp_path):
    for policy, rows in zip(("weak", "strong"), world.make_problems()):
        name = f"problems_{policy}.jsonl"
        write_rows(tmp_path / name, rows)
        assert (tmp_path / name).read_bytes() == (EDGES / name).read_bytes()


def test_another_seed_makes_other_problems(problems):
    weak, strong = world.make_problems(seed=1)
    others = {row["problem_id"]: row for row in weak + strong}
    assert others.keys() == problems.keys()
    assert all(others[name]["tests"] != problem["tests"] for name, problem in problems.items())


def test_no_two_problems_take_the_same_steps_so_no_split_knows_another(problems):
    rows = list(problems.values())
    assert len({tuple(row["steps"]) for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"train", "meta", "dev", "test"}
    assert all(row["split"] == row["problem_id"].split("/")[1] for row in rows)


def test_what_is_not_like_the_target_is_for_training_alone(problems):
    weak = read_rows(EDGES / "problems_weak.jsonl")
    scraped = [row for row in problems.values() if row["domain"] == "scraped"]
    easy = [row for row in problems.values() if row["difficulty"] == "easy"]
    assert {row["split"] for row in weak + scraped + easy} == {"train"}


def test_a_statement_s_examples_are_right_and_hidden_tests_go_beyond_them(problems):
    for row in problems.values():
        shown = row["prompt"].splitlines()[1:]
        assert len(shown) == world.EXAMPLES
        for line in shown:
            _, x, _, y = line.split()
            assert world.digits(world.result(row["steps"], tuple(map(int, x)))) == y
        inputs = [test["args"][0] for test in row["public_tests"]]
        assert len(inputs) == (0 if row["domain"] == "scraped" else world.EXAMPLES)
        hidden = [test["args"][0] for test in row["tests"]]
        assert len(hidden) == 8
        assert all(x not in inputs for x in hidden)


def test_every_slip_shows_on_one_or_two_of_the_four_examples_of_a_hard_problem(problems):
    for problem in problems.values():
        steps = problem["steps"]
        examples = [call["args"][0] for call in problem["public_tests"]]
        if problem["difficulty"] == "hard" and examples:
            wrong = world.slip(steps, world.edge_of(steps))
            told = sum(world.result(steps, tuple(x)) != world.result(wrong, tuple(x))
                       for x in examples)
            assert told in world.TELLING


def lies(problem):
    """Does any test of the problem want something else than the problem's own steps give?"""
    tests = problem["public_tests"] + problem["tests"]
    return any(list(world.result(problem["steps"], tuple(test["args"][0]))) != test["expected"]
               for test in tests)


def test_reviewed_tests_never_lie_and_scraped_ones_all_do(problems):
    assert {row["domain"] for row in problems.values()} == {"reviewed", "scraped"}
    for row in problems.values():
        assert lies(row) == (row["domain"] == "scraped")


# ---------------------------------------------------------------- programs and judgments

def test_wrong_programs_are_wrong_in_one_of_two_ways():
    rng = random.Random(0)
    for _ in range(200):
        steps, _, _ = world.draw_task(rng, rng.choice((2, 3)), hard=True)
        assert abs(len(world.length_error(rng, steps)) - len(steps)) == 1
        at = world.edge_of(steps)
        wrong = world.slip(steps, at)
        assert [k for k, step in enumerate(wrong) if step != steps[k]] == [at]
        assert wrong[at] in world.EDGE
        assert world.slip(wrong, at) == steps


def test_trying_an_example_finds_the_right_program_where_it_tells_the_two_apart():
    rng = random.Random(0)
    for _ in range(100):
        steps, shows, hides = world.draw_task(rng, 3, hard=True)
        examples = world.choose_examples(rng, shows, hides, telling=2)
        wrong = world.slip(steps, world.edge_of(steps))
        for x in examples:
            text, known = world.trace(steps, wrong, steps, examples, x)
            told = x in shows
            assert known == ("B" if told else None)
            assert text.endswith("only B.\n" if told else "both.\n")
            _, known = world.trace(steps, steps, wrong, examples, x)
            assert known == ("A" if told else None)


def test_skimming_finds_the_program_of_the_right_length():
    rng = random.Random(0)
    steps = ["flip", "add one", "sort"]
    assert world.skim(rng, steps, steps[1:], steps)[1] == "B"
    assert world.skim(rng, steps, steps, steps[1:])[1] == "A"
    slipped = world.slip(steps, 1)
    assert {world.skim(rng, steps, steps, slipped)[1] for _ in range(50)} == {"A", "B"}


def steps_drawn(held_out, lessons=1000):
    """The tasks of the first lessons of a judge."""
    rng = random.Random("habits/0")
    return {tuple(pretrain.draw_pair(rng, held_out)[0]) for _ in range(lessons)}


def test_no_task_of_a_meta_dev_or_test_problem_is_shown_to_the_judge():
    held_out = pretrain.held_out_tasks()
    assert not steps_drawn(held_out) & held_out


def test_such_tasks_would_be_drawn_if_nothing_held_them_out():
    assert steps_drawn(frozenset()) & pretrain.held_out_tasks()


def test_all_problems_that_are_not_for_training_are_held_out(problems):
    held_out = pretrain.held_out_tasks()
    tasks = [tuple(problem["steps"]) for problem in problems.values()
             if problem["split"] != "train"]
    assert set(tasks) == held_out
    assert len(tasks) == len(held_out)   # no task twice


def test_the_shipped_judge_gives_a_verdict():
    settings = Settings(labelled=str(EDGES / "labelled.jsonl"), device="cpu")
    (train, _, _), _ = read_pairs(settings)
    judge = Judge(settings.judge, settings)
    group, = judge.rollout(train[:1], [sample.stream(0, "test")], 1)
    completion, = group.completions
    assert parse_verdict(judge.decode(completion), completion.finished) in ("A", "B")


# ---------------------------------------------------------------- candidates and labels

def test_the_stage_files_join(problems, labelled):
    candidates = by_key(EDGES / "candidates.jsonl", CANDIDATE)
    assert candidates.keys() == labelled.keys()
    assert Counter(problem_id for problem_id, _ in candidates) == dict.fromkeys(problems, 8)
    for key, row in labelled.items():
        assert candidates[key].items() <= row.items()
        assert row["passed"] is not None


def test_each_policy_wrote_the_programs_of_its_own_problems(labelled):
    for policy in ("weak", "strong"):
        own = {row["problem_id"] for row in read_rows(EDGES / f"problems_{policy}.jsonl")}
        wrote = {row["problem_id"] for row in labelled.values() if row["policy"] == policy}
        assert wrote == own


def test_the_candidates_are_those_of_sample_py_with_no_flags(tmp_path):
    """Rounding differs between machines: it may show in the probabilities, not in the programs."""
    out = tmp_path / "candidates.jsonl"
    sample.main(["--limit", "8", "--device", "cpu", "--out", str(out)])
    shipped = by_key(EDGES / "candidates.jsonl", CANDIDATE)
    made = by_key(out, CANDIDATE)
    assert len(made) == 2 * 8 * 8
    rounded = ("mean_logprob", "self_certainty")
    for key, row in made.items():
        for name in row.keys() - set(rounded):
            assert row[name] == shipped[key][name]
        for name in rounded:
            assert row[name] == pytest.approx(shipped[key][name], rel=1e-3)


@linux
def test_right_programs_pass_unless_the_tests_lie_and_the_labels_are_real(
        problems, labelled, stage, tmp_path):
    right = [{"problem_id": name, "candidate_id": "right", "policy": "none",
              "code": world.STARTER + world.body(problem["steps"])}
             for name, problem in problems.items()]
    shipped = list(labelled.values())[::80]
    candidates = [{name: row[name] for name in CANDIDATE} for row in shipped]
    write_rows(tmp_path / "c.jsonl", right + candidates)
    done = stage("execute.py", "--candidates", tmp_path / "c.jsonl", "--out", tmp_path / "l.jsonl")
    assert done.returncode == 0, done.stderr
    again = by_key(tmp_path / "l.jsonl", LABELLED)
    assert len(again) == len(right) + len(candidates)
    for name, problem in problems.items():
        assert again[name, "right"]["passed"] is not lies(problem)
    verdict = ("passed", "status", "tests_passed", "tests_total", "public_passed", "output_digest",
               "tests_digest")
    for row in shipped:
        for name in verdict:
            assert again[row["problem_id"], row["candidate_id"]][name] == row[name]


def does_what_its_tests_ask(problem, steps):
    """By the world's own definition of steps. A scraped problem's tests ask for the slip."""
    asked = problem["steps"]
    if problem["domain"] == "scraped":
        asked = world.slip(asked, world.edge_of(asked))
    inputs = [tuple(call["args"][0]) for call in problem["tests"] + problem["public_tests"]]
    return all(world.result(steps, x) == world.result(asked, x) for x in inputs)


def steps_of(code):
    """The steps of a program, or None if a line of it is none of the world's."""
    lines = [line.strip() for line in code.splitlines()[1:]]
    if not lines or lines.pop() != "return x" or not set(lines) <= STEP_OF.keys():
        return None
    return [STEP_OF[line] for line in lines]


@pytest.mark.parametrize("domain", ["reviewed", "scraped"])
def test_labels_agree_with_the_definition_of_the_steps(domain, problems, labelled):
    compared = 0
    for row in list(labelled.values())[::5]:
        problem = problems[row["problem_id"]]
        steps = steps_of(row["code"])
        if problem["domain"] == domain and steps is not None:
            compared += 1
            assert row["passed"] == does_what_its_tests_ask(problem, steps)
    assert compared > 50


@pytest.mark.parametrize("policy, difficulty, least, most", [
    ("weak", "easy", 0.8, 1), ("strong", "easy", 0.8, 1), ("strong", "hard", 0, 0.2)])
def test_counting_lines_finds_errors_in_easy_programs_and_not_those_at_edge_cases(
        policy, difficulty, least, most, problems, labelled):
    """What the world is about: a shortcut that is right where it is easy, wrong on the target."""
    found = []
    for row in labelled.values():
        problem = problems[row["problem_id"]]
        if (row["policy"] == policy and problem["difficulty"] == difficulty
                and problem["domain"] == "reviewed" and not row["passed"]):
            lines = row["code"].count("\n") - 2
            found.append(lines != len(problem["steps"]))
    assert len(found) > 20
    assert least <= sum(found) / len(found) <= most
