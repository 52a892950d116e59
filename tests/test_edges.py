"""data/edges: the world of edge cases is what its own code makes of it."""
import random

import pytest

from data.edges import pretrain, world
from data.judge import parse_verdict
from data.pairs import read_pairs
from data.rows import ROOT, read_problems, read_rows, write_rows
from sample import stream
from train_bilevel import Judge, Settings

EDGES = ROOT / "data" / "edges"
PROBLEMS = [str(EDGES / f"problems_{policy}.jsonl") for policy in ("weak", "strong")]
STEP_OF = {line: step for step, (line, _) in world.STEPS.items()}


def test_the_problems_are_remade_byte_for_byte(tmp_path):
    for policy, rows in zip(("weak", "strong"), world.make_problems()):
        name = f"problems_{policy}.jsonl"
        write_rows(tmp_path / name, rows)
        assert (tmp_path / name).read_bytes() == (EDGES / name).read_bytes()


def steps_drawn(held_out, lessons=1000):
    """The tasks of the first lessons of a judge."""
    rng = random.Random("habits/0")
    return {tuple(pretrain.draw_pair(rng, held_out)[0]) for _ in range(lessons)}


def test_no_task_of_a_meta_dev_or_test_problem_is_shown_to_the_judge():
    held_out = pretrain.held_out_tasks()
    assert not steps_drawn(held_out) & held_out


def test_such_tasks_would_be_drawn_if_nothing_held_them_out():
    assert steps_drawn(frozenset()) & pretrain.held_out_tasks()


def test_all_problems_that_are_not_for_training_are_held_out():
    held_out = pretrain.held_out_tasks()
    tasks = [tuple(problem["steps"]) for problem in read_problems(PROBLEMS).values()
             if problem["split"] != "train"]
    assert set(tasks) == held_out
    assert len(tasks) == len(held_out)   # no task twice


def test_every_slip_shows_on_one_or_two_of_the_four_examples_of_a_hard_problem():
    for problem in read_problems(PROBLEMS).values():
        steps = problem["steps"]
        examples = [call["args"][0] for call in problem["public_tests"]]
        if problem["difficulty"] == "hard" and examples:
            wrong = world.slip(steps, world.edge_of(steps))
            told = sum(world.result(steps, tuple(x)) != world.result(wrong, tuple(x))
                       for x in examples)
            assert told in world.TELLING


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
def test_labels_agree_with_the_definition_of_the_steps(domain):
    problems = read_problems(PROBLEMS)
    compared = 0
    for row in read_rows(EDGES / "labelled.jsonl")[::5]:
        problem = problems[row["problem_id"]]
        steps = steps_of(row["code"])
        if problem["domain"] == domain and steps is not None:
            compared += 1
            assert row["passed"] == does_what_its_tests_ask(problem, steps)
    assert compared > 50


def test_the_shipped_judge_gives_a_verdict():
    settings = Settings(problems=PROBLEMS, labelled=str(EDGES / "labelled.jsonl"),
                        judge=str(EDGES / "judge"), max_new_tokens=112, device="cpu")
    (train, _, _), _ = read_pairs(settings)
    judge = Judge(settings.judge, settings)
    group, = judge.rollout(train[:1], [stream(0, "test")], 1)
    completion, = group.completions
    assert parse_verdict(judge.decode(completion), completion.finished) in ("A", "B")
