"""select.py: known judges get what they deserve, judgments are paid for once, choices are explained."""
import importlib.util
import itertools
import json
import re
import threading
from dataclasses import replace
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data import servers, statistics, tables
from data.judge import PROTOCOL, WAIT
from data.rows import EDGES, ROOT, Appender, UserError, read_problems, read_rows, write_rows
from sample import context_length, stream

spec = importlib.util.spec_from_file_location("daj_select", ROOT / "select.py")
select = importlib.util.module_from_spec(spec)
spec.loader.exec_module(select)

PROBLEM = {"problem_id": "p", "prompt": "Task p\n"}


def candidate(name, passed=False, **more):
    row = {"problem_id": "p", "candidate_id": name, "policy": "weak", "code": f"# {name}\n",
           "passed": passed, "status": "s"}
    return {**row, **more}


def some(*labels):
    """Candidates c0, c1, ... with these labels and different programs."""
    return [candidate(f"c{k}", bool(passed)) for k, passed in enumerate(labels)]


def the_first(a, b):
    """Verdicts of a judge that wants what comes first in the alphabet."""
    return "A" if a["candidate_id"] < b["candidate_id"] else "B"


def in_rounds(candidates, rounds):
    return select.random_rounds(PROBLEM, select.programs(candidates), rounds, seed=0)


def met(calls):
    """[(id shown as A, id shown as B)]."""
    return [(call.a["candidate_id"], call.b["candidate_id"]) for call in calls]


def judged(calls, judge):
    """The rows of these calls, as judgments.jsonl has them; judge(a, b) -> "A", "B" or None."""
    rows = []
    for call in calls:
        a, b = call.a["candidate_id"], call.b["candidate_id"]
        rows.append({"problem_id": "p", "draw": call.draw, "a": a, "b": b, "wait": 0,
                     "text": f"{a} or {b}", "tokens": 10, "finished": True, "seconds": 0.5,
                     "verdict": judge(call.a, call.b)})
    return rows


def perfect(a, b):
    """Between two of a kind it has nothing to say, and says A or B."""
    return "A" if a["passed"] else "B"


def always_a(a, b):
    return "A"


def always_b(a, b):
    return "B"


def silent(a, b):
    return None


def reciting(verdicts):
    """A judge that gives these verdicts one after another."""
    verdicts = iter(verdicts)
    return lambda a, b: next(verdicts)


# ---------------------------------------------------------------- who meets whom

@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
def test_in_a_round_every_program_meets_one_rival_in_both_orders(n):
    candidates = some(*[0] * n)
    a_round = 2 * (n // 2)
    calls = met(in_rounds(candidates, 8))
    assert len(calls) == 8 * a_round
    for start in range(0, len(calls), a_round):
        pairs = calls[start:start + a_round]
        assert set(pairs) == {(b, a) for a, b in pairs}
        shown = [name for pair in pairs for name in pair]
        assert sorted(shown) == sorted(2 * list(set(shown)))      # each in one pair, in two orders
        assert len(set(shown)) == a_round


def test_a_pair_never_meets_itself():
    assert all(a != b for a, b in met(in_rounds(some(0, 0, 0, 0, 0), 20)))


def test_a_pair_that_meets_again_does_so_under_another_draw():
    draws = {}
    for call in in_rounds(some(0, 0, 0, 0), 30):
        draws.setdefault((call.a["candidate_id"], call.b["candidate_id"]), []).append(call.draw)
    assert len(draws) == 12
    for found in draws.values():
        assert found == list(range(len(found)))


def test_who_sits_out_is_drawn_anew_in_every_round():
    calls = met(in_rounds(some(0, 0, 0), 20))
    out = [{"c0", "c1", "c2"} - set(calls[k]) for k in range(0, 40, 2)]
    assert set.union(*out) == {"c0", "c1", "c2"}


@pytest.mark.parametrize("rounds", range(8))
def test_fewer_rounds_are_the_beginning_of_more(rounds):
    candidates = some(*[0] * 6)
    assert in_rounds(candidates, rounds) == in_rounds(candidates, 8)[:rounds * 6]


def test_pairing_depends_on_the_problem_and_on_the_seed():
    candidates = some(*[0] * 6)
    pairs = met(in_rounds(candidates, 8))
    assert met(select.random_rounds({"problem_id": "q"}, candidates, 8, seed=0)) != pairs
    assert met(select.random_rounds(PROBLEM, candidates, 8, seed=1)) != pairs


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_round_robin_is_every_pair_once_in_both_orders(n):
    calls = met(select.every_pair(PROBLEM, some(*[0] * n)))
    assert sorted(calls) == sorted(itertools.permutations([f"c{k}" for k in range(n)], 2))


def test_a_lone_program_meets_nobody_and_is_chosen():
    assert in_rounds(some(1), 8) == []
    assert in_rounds([], 8) == []
    assert select.by_votes(some(1), []).tolist() == [1.0]


def test_equal_programs_are_judged_once_as_the_first_of_them_in_the_order_of_the_candidates():
    codes = {"c0": "x", "c1": "y", "c2": "x", "c3": "z", "c4": "y"}
    rows = [candidate(name, code=code) for name, code in codes.items()]
    assert [row["candidate_id"] for row in select.programs(rows)] == ["c0", "c1", "c3"]
    p = select.by_votes(rows, judged(in_rounds(rows, 8), always_a))
    assert p.tolist() == [1 / 3, 1 / 3, 0, 1 / 3, 0]


# ---------------------------------------------------------------- votes of judges that are known

@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("judge", [always_a, always_b, silent])
def test_a_judge_that_does_not_read_chooses_as_chance_does(judge, n):
    rows = some(*[0] * n)
    chance = [1 / n] * n
    assert select.by_votes(rows, judged(in_rounds(rows, 8), judge)).tolist() == chance
    assert select.by_votes(rows, judged(select.every_pair(PROBLEM, rows), judge)).tolist() == chance


@pytest.mark.parametrize("says", [("A", "B"), ("A", "B", None)], ids=["always parsed", "sometimes parsed"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_noise_chooses_as_chance_does_on_average_over_all_it_could_say(n, says):
    """Exact: one round is played in all its possible ways; who sits out is any."""
    rows = some(*[0] * n)
    total = [Fraction(0)] * n
    cases = 0
    for order in itertools.permutations(rows):
        calls = []
        for a, b in zip(order[0::2], order[1::2]):
            calls += select.both_orders(PROBLEM, a, b)
        for verdicts in itertools.product(says, repeat=len(calls)):
            p = select.by_votes(rows, judged(calls, reciting(verdicts)))
            for k in range(n):
                total[k] += Fraction(float(p[k])).limit_denominator(1000)
            cases += 1
    assert [t / cases for t in total] == [Fraction(1, n)] * n


def test_votes_are_counted_exactly():
    c0, c1, c2, c3 = rows = some(0, 0, 1, 0)
    pairs = [(c0, c1), (c1, c0), (c2, c3), (c3, c2), (c0, c2), (c2, c0), (c1, c3), (c3, c1)]
    verdicts = ["A", "A", "B", None, "A", "B", "B", "A"]     # for c0, c1, c3, nobody, c0, c0, c3, c3
    judgments = judged([select.Call(PROBLEM, a, b) for a, b in pairs], reciting(verdicts))
    W, M = select.tally(rows, judgments)
    assert W.tolist() == [[0, 1, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 2, 1, 0]]
    assert M.tolist() == [[0, 2, 2, 0], [2, 0, 0, 2], [2, 0, 0, 2], [0, 2, 2, 0]]
    assert select.by_votes(rows, judgments).tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_a_perfect_judge_that_saw_every_pair_chooses_like_the_oracle(n):
    for labels in itertools.product((0, 1), repeat=n):
        rows = some(*labels)
        p = select.by_votes(rows, judged(select.every_pair(PROBLEM, rows), perfect))
        assert p.tolist() == select.oracle(rows).tolist()


@pytest.mark.parametrize("n", [2, 4, 6, 8])
def test_a_perfect_judge_finds_the_only_good_program_in_one_round(n):
    rows = some(*[0] * (n - 1), 1)
    p = select.by_votes(rows, judged(in_rounds(rows, 1), perfect))
    assert p.tolist() == [0.0] * (n - 1) + [1.0]


@pytest.mark.parametrize("n", [2, 4, 6, 8])
def test_a_judge_that_is_always_wrong_never_chooses_the_only_good_program(n):
    rows = some(*[0] * (n - 1), 1)
    p = select.by_votes(rows, judged(in_rounds(rows, 1), lambda a, b: "B" if a["passed"] else "A"))
    assert p[-1] == 0
    assert sum(p) == pytest.approx(1)


def test_in_one_round_even_a_perfect_judge_misses_a_good_program_that_met_only_good_ones():
    c0, c1, c2, c3 = rows = some(1, 1, 0, 0)
    calls = select.both_orders(PROBLEM, c0, c1) + select.both_orders(PROBLEM, c2, c3)
    assert select.by_votes(rows, judged(calls, perfect)).tolist() == [0.25] * 4


def test_a_program_nobody_judged_is_not_chosen_before_one_that_was():
    c0, c1, c2 = rows = some(1, 0, 0)
    judgments = judged(select.both_orders(PROBLEM, c1, c2), silent)
    assert select.by_votes(rows, judgments).tolist() == [0, 0.5, 0.5]


def test_shares_are_compared_not_counts():
    c0, c1, c2 = rows = some(0, 0, 0)
    calls = select.both_orders(PROBLEM, c0, c1) + select.both_orders(PROBLEM, c0, c2)
    # c0 wins 2 of 4, c1 wins 1 of 2, c2 wins 1 of 2
    assert select.by_votes(rows, judged(calls, always_a)).tolist() == [1 / 3] * 3


def test_a_round_is_two_judgments_of_each_pair_of_different_programs():
    rows = [candidate(f"c{k}", code=code) for k, code in enumerate("xyxzy")]
    judgments = judged(in_rounds(rows, 3), always_a)
    found = select.after_each_round(rows, judgments)
    assert [tokens for tokens, _ in found] == [20, 40, 60]


def test_the_deciding_judgment_is_over_the_best_rival_that_was_beaten():
    rows = some(0, 0, 0)
    said = judged(select.every_pair(PROBLEM, rows), the_first)
    votes = select.vote_counts(rows, said)
    assert votes == {"c0": (4, 4), "c1": (2, 4), "c2": (0, 4)}
    for order in (said, said[::-1]):
        deciding = select.deciding_judgment(votes, order, "c0")
        assert (select.winner(deciding), select.loser(deciding)) == ("c0", "c1")


def test_every_judgment_has_random_numbers_of_its_own():
    a, b = some(0, 0)
    first = {"wait": 0}
    calls = [
        select.Call(PROBLEM, a, b),
        select.Call(PROBLEM, b, a),
        select.Call(PROBLEM, a, b, draw=1),
        select.Call(PROBLEM, a, b, before=first),
        select.Call({**PROBLEM, "problem_id": "q"}, a, b),
    ]
    seeds = {select.random_stream(call, seed).initial_seed() for call in calls for seed in (0, 1)}
    assert len(seeds) == 10


# ---------------------------------------------------------------- the simple ways

FIVE = [
    candidate("c0", False, code="x" * 9, mean_logprob=-0.5, n_tokens=4, self_certainty=2.0,
              public_passed=True, output_digest="u"),
    candidate("c1", True, code="x" * 4, mean_logprob=-0.1, n_tokens=90, self_certainty=3.0,
              public_passed=True, output_digest="v"),
    candidate("c2", True, code="y" * 4, mean_logprob=-0.9, n_tokens=3, self_certainty=1.0,
              public_passed=False, output_digest="v"),
    candidate("c3", False, code="x" * 7, mean_logprob=-0.1, n_tokens=20,
              public_passed=None, output_digest="u"),
    candidate("c4", False, code="x" * 8, mean_logprob=-2.0, n_tokens=1, self_certainty=3.0,
              public_passed=False, output_digest=None),
]
CHOICES = {
    "random": [.2, .2, .2, .2, .2],
    "first": [1, 0, 0, 0, 0],
    "shortest": [0, .5, .5, 0, 0],
    "mean log-prob": [0, .5, 0, .5, 0],
    "self-certainty": [0, .5, 0, 0, .5],
    "public tests": [.5, .5, 0, 0, 0],
    "majority": [.25, .25, .25, .25, 0],
    "MBR": [.5, 0, 0, .5, 0],      # exp(−2) + exp(−2) against exp(−9) + exp(−2.7)
    "oracle": [0, .5, .5, 0, 0],
}


@pytest.mark.parametrize("method", select.BASELINES)
def test_a_simple_way_chooses_what_it_says(method):
    assert select.BASELINES[method](FIVE).tolist() == CHOICES[method]


@pytest.mark.parametrize("method", [method for method in select.BASELINES if method != "first"])
def test_where_a_simple_way_sees_no_difference_all_share(method):
    rows = [candidate(f"c{k}", code="x") for k in range(4)]   # none passes, nothing else is known
    assert select.BASELINES[method](rows).tolist() == [.25] * 4


def test_majority_counts_samples_and_mbr_a_text_once_with_its_probability():
    unlikely = {"code": "often", "mean_logprob": -3.0, "n_tokens": 1, "output_digest": "u"}
    often = [candidate(f"c{k}", **unlikely) for k in range(3)]
    sure = candidate("c3", code="sure", mean_logprob=-0.5, n_tokens=1, output_digest="v")
    assert select.majority([*often, sure]).tolist() == [1 / 3, 1 / 3, 1 / 3, 0]
    assert select.minimum_bayes_risk([*often, sure]).tolist() == [0, 0, 0, 1]
    as_likely = {**sure, "mean_logprob": -3.0}
    assert select.minimum_bayes_risk([*often, as_likely]).tolist() == [.25] * 4


def test_programs_without_outputs_are_no_cluster():
    digests = ["u", "v", "v", None, None, None]
    rows = [candidate(str(k), output_digest=digest) for k, digest in enumerate(digests)]
    assert select.majority(rows).tolist() == [0, .5, .5, 0, 0, 0]


def test_mbr_goes_by_the_probability_of_whole_programs():
    """Long programs of likely tokens are less likely than a short one of unlikely tokens."""
    rows = [candidate("c0", mean_logprob=-0.5, n_tokens=100, output_digest="u"),
            candidate("c1", mean_logprob=-0.6, n_tokens=100, output_digest="u"),
            candidate("c2", mean_logprob=-2.0, n_tokens=3, output_digest="v")]
    assert select.minimum_bayes_risk(rows).tolist() == [0, 0, 1]


def test_ties_are_broken_by_a_number_of_each_problem():
    rows = [[{**row, "problem_id": f"p{k}"} for row in some(0, 0, 0, 0)] for k in range(60)]
    p = np.array([0, .5, .25, .25])
    taken = [select.take_one(p, candidates, seed=0)["candidate_id"] for candidates in rows]
    assert [taken.count(f"c{k}") for k in range(4)] == pytest.approx([0, 30, 15, 15], abs=9)
    assert taken.count("c0") == 0
    for k, candidates in enumerate(rows[:5]):
        u = float(torch.rand((), generator=stream(0, "tie", f"p{k}"), dtype=torch.float64))
        assert taken[k] == ("c1" if u < 0.5 else "c2" if u < 0.75 else "c3")


# ---------------------------------------------------------------- statistics

def without_samples(values):
    """score and resampled of problems whose candidates leave nothing to chance, for one method."""
    score = np.array(values, dtype=float)[:, None]
    return score, score[:, None]


def test_equal_values_have_an_interval_of_no_width():
    samples = statistics.bootstrap(*without_samples([1.0] * 9), seed=0)
    assert statistics.interval(samples) == (1, 1)


def test_an_interval_is_as_wide_as_theory_says():
    samples = statistics.bootstrap(*without_samples([0, 1] * 50), seed=0)
    low, high = statistics.interval(samples)
    half = 1.96 * (0.5 * 0.5 / 100) ** 0.5      # 0.098
    assert low == pytest.approx(0.5 - half, abs=0.015)
    assert high == pytest.approx(0.5 + half, abs=0.015)


@pytest.fixture
def two_equal_methods():
    """(score, what stands still in each problem, what moves there), of 60 problems and 2 methods."""
    rng = np.random.default_rng(0)
    score = rng.random((60, 1)) @ np.ones((1, 2))
    moving = score[:, None] + rng.normal(0.3, 0.5, (60, 20, 1))   # off by 0.3, as fewer candidates may be
    return score, score[:, None], moving


def test_the_bootstrap_is_paired(two_equal_methods):
    score, _, moving = two_equal_methods
    samples = statistics.bootstrap(score, moving, seed=0)
    assert np.allclose(samples[:, 0], samples[:, 1])


def test_the_bootstrap_is_centred_on_the_score(two_equal_methods):
    score, _, moving = two_equal_methods
    assert statistics.bootstrap(score, moving, seed=0).mean() == pytest.approx(score.mean(), abs=0.02)


def test_the_bootstrap_centres_each_method_on_its_own_score(two_equal_methods):
    score, _, moving = two_equal_methods
    apart = np.array([0.0, 0.5])   # the second does worse on samples, too
    samples = statistics.bootstrap(score - apart, moving - 2 * apart, seed=0)
    assert samples.mean(0) == pytest.approx(score.mean(0) - apart, abs=0.02)


def test_the_bootstrap_draws_every_problem():
    samples = statistics.bootstrap(*without_samples([0, 1]), seed=0)
    assert set(samples[:, 0]) == {0, 0.5, 1}


def test_the_bootstrap_is_wider_with_what_varies_inside_a_problem(two_equal_methods):
    score, still, moving = two_equal_methods
    narrow = statistics.bootstrap(score, still, seed=0).std()
    wide = statistics.bootstrap(score, moving, seed=0).std()
    assert wide > 1.3 * narrow


ONE_OF_FOUR = some(1, 0, 0, 0)
RANDOM = select.Method("random", select.everyone)


def test_what_a_sample_cannot_change_is_not_changed():
    judgments = {"p": judged(select.every_pair(PROBLEM, ONE_OF_FOUR), perfect)}
    methods = [select.Method("oracle", select.oracle), select.Method("perfect", judgments=judgments)]
    assert (select.resample(ONE_OF_FOUR, methods, seed=0, draws=100) == 1).all()


def test_resampling_draws_candidates_and_leaves_a_mixed_problem_mixed():
    found = select.resample(ONE_OF_FOUR, [RANDOM], seed=0, draws=400)[:, 0]
    assert set(found) == {.25, .5, .75}
    # Of 4 drawn with replacement k ~ Binomial(4, 1/4) pass; given 1 <= k <= 3, k is 1, 2 and 3 in 108, 54
    # and 12 of 174 cases.
    assert found.mean() == pytest.approx((108 * .25 + 54 * .5 + 12 * .75) / 174, abs=0.03)


def test_resampling_draws_verdicts():
    calls = 2 * select.every_pair(PROBLEM, ONE_OF_FOUR)
    unsure = {"p": judged(calls, reciting(itertools.cycle("AAB")))}
    found = select.resample(ONE_OF_FOUR, [select.Method("unsure", judgments=unsure)], seed=0, draws=100)
    assert len(set(found[:, 0])) > 1


def test_resampled_verdicts_are_as_many_and_on_average_the_same():
    # Of 12 judgments 6 are for the first, 2 for the second, 4 for neither.
    W = np.array([[0, 6], [2, 0]])
    M = np.array([[0, 12], [12, 0]])
    rng = np.random.default_rng(0)
    found = np.array([select.resample_votes(W, M, rng) for _ in range(2000)])
    assert (found.sum((1, 2)) <= 12).all()
    assert found.mean(0) == pytest.approx(W, abs=0.15)


def test_a_problem_that_is_not_mixed_is_not_resampled():
    assert (select.resample(some(1, 1), [RANDOM], seed=0, draws=3) == 1).all()
    assert (select.resample(some(0, 0), [RANDOM], seed=0, draws=3) == 0).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Worlds of 40 problems whose candidates pass with a known probability, 0.5 in the mean."""
    rng = np.random.default_rng(0)
    covered = []
    for world in range(40):
        problems = []
        for k in range(40):
            passed = rng.random(6) < rng.choice([0.3, 0.7])
            problems.append([{**row, "problem_id": str(k)} for row in some(*passed)])
        score = np.array([[np.mean([row["passed"] for row in rows])] for rows in problems])
        resampled = np.array([select.resample(rows, [RANDOM], world, draws=15) for rows in problems])
        low, high = statistics.interval(statistics.bootstrap(score, resampled, world, draws=300))
        covered.append(low <= 0.5 <= high)
    assert np.mean(covered) >= 0.9


def test_mcnemar_is_the_two_sided_binomial_tail_of_the_problems_on_which_they_differ():
    a = [1] * 9 + [0] * 1 + [1] * 20 + [0] * 5
    b = [0] * 9 + [1] * 1 + [1] * 20 + [0] * 5
    assert statistics.mcnemar(a, b) == pytest.approx(2 * (1 + 10) / 2**10)
    assert statistics.mcnemar(b, a) == statistics.mcnemar(a, b)
    assert statistics.mcnemar([1] * 6, [0] * 6) == pytest.approx(2 / 2**6)


def test_mcnemar_counts_beyond_64_bits():
    """A comparison of arrays gives numpy's numbers, of which 2^100 would be 0."""
    a = np.arange(101) < 100
    b = np.zeros(101, dtype=bool)
    assert statistics.mcnemar(a, b) == pytest.approx(2 / 2**100)


def test_mcnemar_is_at_most_one():
    assert statistics.mcnemar([1, 0], [1, 0]) == 1
    assert statistics.mcnemar([1], [0]) == 1


def test_holm_steps_down():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


def test_a_draw_takes_a_sample_of_each_problem_by_itself():
    """Each problem's samples are 0 or 1, as often: means of 50 problems vary by 0.5/√50, not by 0.5."""
    resampled = np.tile(np.array([0.0, 1.0])[None, :, None], (50, 1, 1))
    samples = statistics.bootstrap(np.full((50, 1), 0.5), resampled, seed=0)
    assert samples.std() == pytest.approx(0.5 / 50 ** 0.5, rel=0.1)


def test_the_effective_size_of_weights():
    assert statistics.effective_size([2.0, 2.0, 2.0]) == pytest.approx(3)
    assert statistics.effective_size([3.0, 1.0]) == pytest.approx(1.6)
    assert statistics.effective_size([5.0, 0.0]) == pytest.approx(1)
    assert statistics.effective_size([0.1, 0.1]) == pytest.approx(2)
    assert statistics.effective_size([0.0]) == 0


def test_other_problems_are_resampled_by_other_numbers():
    twins = [[{**row, "problem_id": pid} for row in some(1, 0, 0, 0)] for pid in "pq"]
    random = select.Method("random", select.everyone)
    p, q = (select.resample(rows, [random], seed=0) for rows in twins)
    assert (p != q).any()


def test_a_sample_is_chosen_from_by_votes_among_the_programs_in_it():
    """The judge wants c0; in a sample without it the next, c1, which failed."""
    rows = some(1, 0, 1)
    method = select.Method("m", judgments={"p": judged(select.every_pair(PROBLEM, rows), the_first)})
    found = select.resample(rows, [method], seed=0, draws=200)[:, 0]
    assert set(found) == {0.0, 1.0}


# ---------------------------------------------------------------- tables

def test_a_table_is_as_wide_as_its_widest_cell(capsys):
    tables.print_table([{"name": "a", "x": "1.5"}, {"name": "longer", "x": ""}])
    assert capsys.readouterr().out == "name      x\na       1.5\nlonger\n"
    tables.print_table([{"name": "a", "x": "1.5", "seconds": "2"}])
    assert capsys.readouterr().out == "name    x  seconds\na     1.5        2\n"


def test_a_share_is_said_with_the_ends_of_its_interval():
    samples = np.linspace(-0.2, 0.8, 1001)
    assert tables.with_interval(0.3, samples, least=-1) == "30.0 [-17.5,  77.5]"
    assert tables.with_interval(0.3, samples) == "30.0 [  0.0,  77.5]"


def test_the_figures_of_a_judge_do_not_depend_on_the_order_of_its_rows():
    rows = some(1, 0, 0)
    judgments = judged(in_rounds(rows, 8), reciting(itertools.cycle("AABAB")))
    table = tables.judges_table({"m": {"p": judgments}}, {"p": rows})
    assert tables.judges_table({"m": {"p": judgments[::-1]}}, {"p": rows}) == table


def test_the_figures_of_a_judge_that_always_says_a():
    rows = some(1, 0)
    figures, = tables.judges_table({"m": {"p": judged(in_rounds(rows, 4), always_a)}}, {"p": rows})
    assert figures["right"] == "50.0"
    assert figures["where A passed"] == "100.0"
    assert figures["where B did"] == "0.0"
    assert figures["in both orders"] == "0.0"
    assert figures["same choice"] == "0.0"
    assert figures["parsed"] == "100.0"
    assert figures["calls"] == "8"
    assert figures["tokens"] == "80"


def test_the_figures_of_a_perfect_judge():
    rows = some(1, 0)
    figures, = tables.judges_table({"m": {"p": judged(in_rounds(rows, 4), perfect)}}, {"p": rows})
    assert figures["right"] == "100.0"
    assert figures["in both orders"] == "100.0"
    assert figures["same choice"] == "100.0"


def test_a_judge_that_met_no_mixed_pair_is_right_on_nothing():
    rows = some(0, 0)
    figures, = tables.judges_table({"m": {"p": judged(in_rounds(rows, 1), always_a)}}, {"p": rows})
    assert figures["right"] == ""


def test_groups_are_shown_only_where_they_differ():
    problems = {"p": {"domain": "d", "difficulty": "easy"}, "q": {"domain": "d", "difficulty": "hard"}}
    candidates = {"p": some(1, 0), "q": some(0, 1)}
    groups = tables.group_problems(["p", "q"], problems, candidates)
    assert groups == {"difficulty easy": ["p"], "difficulty hard": ["q"]}


def test_groups_are_by_every_field_that_differs():
    problems = {pid: {"domain": domain, "difficulty": "easy"} for pid, domain in zip("pqr", "dee")}
    both = [candidate("c0", policy="weak"), candidate("c1", policy="strong")]
    candidates = {"p": both, "q": [candidate("c0", policy="weak")], "r": both[::-1]}
    assert tables.group_problems(["p", "q", "r"], problems, candidates) == {
        "domain d": ["p"], "domain e": ["q", "r"],
        "policy strong+weak": ["p", "r"], "policy weak": ["q"]}


def test_the_table_of_sizes_cell_by_cell():
    passed = [("x", 2, 1.0), ("x", 2, 0.5), ("x", 4, 0.25), ("y", 4, 1.0), ("x", 4, 0.0)]
    rows = [dict(zip(("method", "n", "passed"), values)) for values in passed]
    x, y = tables.sizes_table(["x", "y"], rows)
    assert x == {"all: pass@1 % of": "x", "the first 2": "75.0", "the first 4": "12.5"}
    assert y == {"all: pass@1 % of": "y", "the first 2": "", "the first 4": "100.0"}


def test_the_same_choice_is_that_of_one_draw_of_one_problem():
    """Two problems and two draws, each with another pair of verdicts; None is no choice."""
    rows = []
    for pid, draw, verdicts in (("p", 0, "AB"), ("p", 1, "BA"), ("q", 0, "AA"), ("q", 1, "BB"),
                                ("r", 0, ("A", None)), ("r", 1, (None, None))):
        for (a, b), verdict in zip((("c0", "c1"), ("c1", "c0")), verdicts):
            rows.append({"problem_id": pid, "draw": draw, "a": a, "b": b, "verdict": verdict})
    assert tables.same_choices(rows) == [True, True, False, False, False, False]


def test_the_table_of_methods_cell_by_cell():
    """Six problems, of which four are mixed; "bad" is worse than random."""
    names = ["random", "bad", "judge", "oracle"]
    score = np.array([
        [0.50, 0, 1, 1],
        [0.50, 0, 1, 1],
        [0.25, 1, 0, 1],
        [0.50, 0, 1, 1],
        [1.00, 1, 1, 1],
        [0.00, 0, 0, 0],
    ])
    mixed = np.array([True, True, True, True, False, False])
    rng = np.random.default_rng(0)
    resampled = np.clip(score[:, None] + rng.normal(0, .2, (6, 5, 4)), 0, 1)
    rows = tables.methods_table(names, score, score > 0.4, resampled, mixed, "judge", seed=3)
    on_all = statistics.bootstrap(score, resampled, 3)
    on_mixed = statistics.bootstrap(score[:4], resampled[:4], 3)
    assert [row["chosen by"] for row in rows] == names
    for k, row in enumerate(rows):
        over = score[:4, k].mean() - 1.75 / 4
        gain = on_mixed[:, k] - on_mixed[:, 0]
        assert row["all: pass@1 %"] == tables.with_interval(score[:, k].mean(), on_all[:, k])
        assert row["mixed: pass@1 %"] == tables.with_interval(score[:4, k].mean(), on_mixed[:, k])
        assert row["mixed, over random"] == tables.with_interval(over, gain, least=-1)
        assert row["gap closed"] == f"{over / (1 - 1.75 / 4):.0%}"
    assert rows[0]["mixed, over random"] == "0.0 [  0.0,   0.0]"
    low = float(rows[1]["mixed, over random"].split("[")[1].split(",")[0])
    assert low < -20
    # against "judge", which is right on three of four: random is right there, too; bad on the other one
    assert [row["p"] for row in rows] == ["1.000", "1.000", "", "1.000"]


def test_p_values_of_a_table_are_corrected():
    right = np.zeros((12, 4), bool)
    right[:, 0] = True    # the judge is right on all 12, and where a, b and c are not: 12, 6 and 0
    right[6:, 2] = True
    right[:, 3] = True
    shown = tables.p_values(["judge", "a", "b", "c"], right, "judge")
    assert statistics.mcnemar(right[:, 0], right[:, 2]) == pytest.approx(0.03125)
    assert shown == {"judge": "", "a": "0.001", "b": "0.062", "c": "1.000"}
    certain = np.array([[True, False]] * 12)
    assert tables.p_values(["judge", "a"], certain, "judge") == {"judge": "", "a": "< .001"}


def test_the_table_of_judges_cell_by_cell():
    rows = some(1, 0)
    said = judged(in_rounds(rows, 4), lambda a, b: "A" if a["passed"] else None)
    said[0]["finished"] = False
    said[1].update(finished=False, refused="long")
    said[3]["finished"] = False
    table, = tables.judges_table({"m": {"p": said, "q": []}}, {"p": rows, "q": some(0)})
    expected = {
        "right": "50.0",
        "where A passed": "100.0",
        "where B did": "0.0",
        "in both orders": "0.0",
        "same choice": "0.0",
        "parsed": "50.0",
        "cut off": "25.0",
        "refused": "12.5",
        "calls": "4",
        "tokens": "40",
        "seconds": "2.00",
    }
    assert {name: table[name] for name in expected} == expected


def test_the_table_of_waits_sets_each_line_beside_the_one_above():
    """Three judgments of a mixed pair in which A is right, and what they say after each Wait."""
    def said(verdicts, tokens):
        rows = []
        for k, verdict in enumerate(verdicts):
            rows.append({"problem_id": "p", "draw": k, "a": "c0", "b": "c1", "verdict": verdict,
                         "tokens": tokens})
        return {"p": rows}

    judged_by = {
        "j": said("AAB", 1),
        "j, 1 wait": said("ABB", 2),
        "j, 2 waits": said("BBA", 3),
        "j, tokens of 1 wait": said("AABAAB", 1),
        "j, tokens of 2 waits": said("AAB" * 4, 1),
    }
    score = {(name, "p"): k / 10 for k, name in enumerate(judged_by)}
    table = tables.waits_table("j", [0, 1, 2], judged_by, score, {"p": some(1, 0)}, ["p"])
    cells = [list(row.values()) for row in table]
    assert cells == [
        ["none", "66.7", "", "", "3", "0.0", "", ""],
        ["1 wait", "33.3", "33.3", "0.0", "6", "10.0", "6", "30.0"],
        ["2 waits", "33.3", "33.3", "33.3", "9", "20.0", "12", "40.0"],
    ]


def test_a_cost_is_tokens_by_problem():
    assert tables.cost({"p": [{"tokens": 5}, {"tokens": 7}], "q": [], "r": [{"tokens": 3}]}) == "5"


def test_a_group_s_row_is_of_its_own_method_and_problems():
    score = {("x", "p"): 0.25, ("x", "q"): 1.0, ("y", "p"): 0.5, ("y", "q"): 0.0}
    head, x, y = tables.groups_table(["x", "y"], score, {"easy": ["p"], "both": ["p", "q"]})
    assert list(head.values())[1:] == ["1", "2"]
    assert list(x.values()) == ["x", "25.0", "62.5"]
    assert list(y.values()) == ["y", "50.0", "25.0"]


# ---------------------------------------------------------------- the command, with scripted judges

LABELS = {"t/0": (1, 0), "t/1": (1, 0, 0), "t/2": (0, 1, 1, 0), "t/3": (0, 0), "t/4": (1, 1, 1)}
CHANCE = {pid: sum(labels) / len(labels) for pid, labels in LABELS.items()}
ORACLE = {pid: float(any(labels)) for pid, labels in LABELS.items()}
JUDGE = "judge, trained"


class Scripted:
    """A judge whose verdicts are says(A is good, B is good), or None. Notes what it is asked."""

    name = "scripted@0"
    settings = "0/1.0/112"

    def __init__(self, says, stop_after=None):
        self.says = says
        self.asked = []
        self.stop_after = stop_after

    def compare(self, calls):
        for call in calls:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(call)
            verdict = self.verdict(call)
            text = f"thought, <best>{verdict}</best>" if verdict else "no idea"
            tokens = {"A": 4, "B": 3, None: 2}[verdict]
            yield {"text": text, "tokens": tokens, "finished": True, "seconds": 0.1}

    def verdict(self, call):
        return self.says("good" in call.a["code"], "good" in call.b["code"])

    def rate(self, calls):
        for call in calls:
            self.asked.append(call)
            p = 0.8 if "good" in call.a["code"] else 0.3
            yield {"text": "", "tokens": 0, "finished": True, "seconds": 0.0, "yes": p}


class SecondThoughts(Scripted):
    """Says B; after one Wait it says A, after two it says nothing new."""

    def __init__(self, stop_after=None):
        super().__init__(None, stop_after)

    def verdict(self, call):
        return ("B", "A", None)[call.wait]


def good_over_bad(a, b):
    return "A" if a else "B"


def noise(start=0):
    """A judge of the command that recites verdicts without end, from the one of this number on."""
    return reciting(itertools.islice(itertools.cycle("ABBAB"), start, None))


def dump(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def world(tmp_path):
    """Flags of the command on a few problems, whose rows are in l.jsonl, its output in s.jsonl."""
    problems = []
    rows = []
    for pid, labels in LABELS.items():
        problems.append({"problem_id": pid, "prompt": f"Task {pid}\n", "entry_point": "f",
                         "public_tests": [], "tests": [], "domain": "d", "difficulty": "easy",
                         "split": "test"})
        for k, good in enumerate(labels):
            code = f"# {'good' if good else 'bad'} {k}\n"
            rows.append(candidate(f"c{k}", bool(good), problem_id=pid, code=code, mean_logprob=-1.0,
                                  n_tokens=3, self_certainty=1.0, public_passed=True,
                                  output_digest="u"))
    return ["--problems", str(dump(tmp_path / "p.jsonl", problems)),
            "--labelled", str(dump(tmp_path / "l.jsonl", rows)),
            "--judge", "none", "--out", str(tmp_path / "s.jsonl")]


def run(world, judge, *flags):
    """The command with a judge in place of --judge."""
    select.main([*world, *flags], {JUDGE: judge})


def selections(folder):
    rows = read_rows(folder / "s.jsonl", key=("problem_id", "method", "n"))
    return {(row["problem_id"], row["method"], row["n"]): row for row in rows}


def scores(folder, method):
    rows = read_rows(folder / "s.jsonl")
    return {row["problem_id"]: row["passed"] for row in rows if row["method"] == method}


def timeless(path):
    """The rows of a file without what a clock has measured."""
    rows = read_rows(path)
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def judgments_of(rounds):
    """How many judgments R rounds are in the world."""
    return sum(2 * (len(labels) // 2) * rounds for labels in LABELS.values())


@pytest.mark.parametrize("says, expected, gap", [
    (lambda a, b: "A", CHANCE, "0%"),
    (lambda a, b: None, CHANCE, "0%"),
    (good_over_bad, ORACLE, "100%"),
], ids=["always A", "never parses", "perfect"])
def test_known_judges_score_exactly_what_they_must(says, expected, gap, world, tmp_path, capsys):
    run(world, Scripted(says))
    assert scores(tmp_path, JUDGE) == pytest.approx(expected)
    table = capsys.readouterr().out
    line, = (line for line in table.splitlines() if line.startswith(JUDGE) and "%" in line)
    assert f"{100 * np.mean(list(expected.values())):.1f} [" in line
    mixed = [expected[pid] for pid in ("t/0", "t/1", "t/2")]
    assert f"{100 * np.mean(mixed):.1f} [" in line
    assert line.split()[-1] == gap
    assert "5 problems, 3 of them with passing and failing" in table


def test_random_and_oracle_score_what_they_must(world, tmp_path):
    run(world, Scripted(good_over_bad))
    assert scores(tmp_path, "random") == pytest.approx(CHANCE)
    assert scores(tmp_path, "oracle") == ORACLE


def test_selections_hold_a_row_for_each_problem_and_method_with_what_it_cost(world, tmp_path):
    judge = Scripted(good_over_bad)
    run(world, judge)
    rows = selections(tmp_path)
    methods = [*select.BASELINES, JUDGE]
    assert {(pid, method) for pid, method, _ in rows} == set(itertools.product(LABELS, methods))
    row = rows["t/2", JUDGE, 4]
    assert row["candidate_id"] in ("c1", "c2")
    assert row["judge_calls"] == 32
    assert sum(won for won, _ in row["votes"].values()) == 32
    assert 32 * 3 <= row["judge_tokens"] <= 32 * 4
    assert "<best>" in row["transcript"]
    assert len(judge.asked) == judgments_of(8)


def test_more_rounds_pay_only_for_the_new_ones(world, tmp_path):
    judge = Scripted(good_over_bad)
    run(world, judge, "--rounds", "3")
    assert len(judge.asked) == judgments_of(3)
    before = (tmp_path / "judgments.jsonl").read_text()
    run(world, judge, "--rounds", "5")
    assert len(judge.asked) == judgments_of(5)
    assert (tmp_path / "judgments.jsonl").read_text().startswith(before)


def test_fewer_rounds_pay_nothing(world):
    run(world, Scripted(good_over_bad), "--rounds", "3")
    fresh = Scripted(good_over_bad)
    run(world, fresh, "--rounds", "2")
    assert not fresh.asked


@pytest.mark.parametrize("name, value", [("name", "another@0"), ("settings", "1/1.0/112")])
def test_another_judge_or_setting_is_judged_anew(name, value, world):
    run(world, Scripted(good_over_bad), "--rounds", "1")
    another = Scripted(good_over_bad)
    setattr(another, name, value)
    run(world, another, "--rounds", "1")
    assert len(another.asked) == judgments_of(1)


@pytest.mark.parametrize("change", [{"seed": 1}, {"temperature": 0.5}, {"max_new_tokens": 9}])
def test_what_decides_a_judgment_is_among_its_settings(change):
    changed = select.sampling_settings(select.Settings(**change))
    assert changed != select.sampling_settings(select.Settings())


def test_other_programs_under_the_same_names_are_judged_anew(world, tmp_path):
    judge = Scripted(good_over_bad)
    run(world, judge, "--rounds", "1")
    rows = read_rows(tmp_path / "l.jsonl")
    dump(tmp_path / "l.jsonl", [{**row, "code": row["code"] + "# sampled again\n"} for row in rows])
    run(world, judge, "--rounds", "1")
    assert len(judge.asked) == 2 * judgments_of(1)


def test_stopped_and_started_again_is_as_undisturbed(world, tmp_path, capsys):
    run(world, Scripted(noise()))
    whole = [timeless(tmp_path / name) for name in ("s.jsonl", "judgments.jsonl")]
    (tmp_path / "s.jsonl").unlink()
    cache = tmp_path / "judgments.jsonl"
    cache.unlink()
    with pytest.raises(SystemExit):
        run(world, Scripted(noise(), stop_after=20))
    assert f"20 judgments are kept in {cache}" in capsys.readouterr().err
    cache.write_bytes(cache.read_bytes()[:-40])    # and a kill in the middle of the last row: 19 are left
    run(world, Scripted(noise(start=19)))
    assert [timeless(tmp_path / name) for name in ("s.jsonl", "judgments.jsonl")] == whole


def test_candidates_without_a_verdict_are_left_out_and_counted(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    rows[0]["passed"] = None      # the good one of t/0
    dump(tmp_path / "l.jsonl", rows)
    judge = Scripted(good_over_bad)
    run(world, judge)
    assert "1 of 14 candidates" in capsys.readouterr().out
    assert scores(tmp_path, "oracle")["t/0"] == 0
    assert len(judge.asked) == judgments_of(8) - 16


def test_the_simple_ways_need_no_judge(world, tmp_path):
    select.main(world)
    assert {method for _, method, _ in selections(tmp_path)} == set(select.BASELINES)


def test_the_untrained_judge_can_be_set_beside_the_trained_one_or_left_out():
    both = select.Settings(judge="j", base_judge="b")
    assert list(select.judges_of(both)) == ["judge, untrained", "judge, trained"]
    one = select.Settings(judge="j", base_judge="none")
    assert list(select.judges_of(one)) == ["judge, trained"]


def test_the_world_of_edge_cases_brings_its_untrained_judge():
    judges = select.judges_of(select.Settings(judge="j", labelled=EDGES / "labelled.jsonl"))
    assert judges["judge, untrained"].path == str(EDGES / "judge")
    other = select.judges_of(select.Settings(judge="j", labelled="other.jsonl"))
    assert "judge, untrained" not in other


def test_round_robin_and_rounds_draw_on_the_same_judgments(world, tmp_path):
    judge = Scripted(good_over_bad)
    run(world, judge, "--aggregate", "round-robin")
    assert len(judge.asked) == sum(len(labels) * (len(labels) - 1) for labels in LABELS.values())
    fresh = Scripted(good_over_bad)
    run(world, fresh, "--aggregate", "round-robin", "rounds", "--rounds", "1")
    assert not fresh.asked
    assert scores(tmp_path, f"{JUDGE}, round-robin") == ORACLE
    rows = selections(tmp_path)
    assert rows["t/2", JUDGE, 4]["judge_calls"] == 4
    assert rows["t/2", f"{JUDGE}, round-robin", 4]["judge_calls"] == 12
    assert "by_round" not in rows["t/2", f"{JUDGE}, round-robin", 4]


def test_what_fewer_rounds_would_have_chosen_is_in_the_row(world, tmp_path):
    run(world, Scripted(noise()), "--rounds", "3")
    three = selections(tmp_path)
    run(world, Scripted(noise()), "--rounds", "2")
    for key, row in selections(tmp_path).items():
        if key[1] == JUDGE:
            by_round = three[key]["by_round"]
            assert len(by_round) == 3
            assert by_round[1] == [row["judge_tokens"], row["passed"]]
            assert by_round[:2] == row["by_round"]


def test_the_first_n_candidates_are_a_smaller_choice(world, tmp_path, capsys):
    judge = Scripted(good_over_bad)
    run(world, judge, "--n", "2", "1", "9")
    rows = selections(tmp_path)
    assert {n for _, _, n in rows} == {1, 2, 4}
    for pid, labels in LABELS.items():
        for n in (1, 2, 4):
            assert rows[pid, "random", n]["passed"] == pytest.approx(np.mean(labels[:n]))
            assert rows[pid, "first", n]["passed"] == labels[0]
            assert rows[pid, JUDGE, n]["passed"] == float(any(labels[:n]))
        assert rows[pid, JUDGE, 1]["judge_calls"] == 0
    printed = capsys.readouterr().out
    assert "5 problems, 3 of them" in printed      # the other tables are of all candidates
    table = printed[printed.index("all: pass@1 % of"):].splitlines()
    shown = {}
    for line in table[1:]:
        method, *cells = re.split(" {2,}", line)
        shown[method] = cells
    for method in ("random", "first", JUDGE, "oracle"):
        means = [np.mean([rows[pid, method, n]["passed"] for pid in LABELS]) for n in (1, 2, 4)]
        assert shown[method] == [f"{100 * mean:.1f}" for mean in means]


def test_pairs_judged_for_a_smaller_choice_are_not_judged_again(world, tmp_path):
    judge = Scripted(good_over_bad)
    run(world, judge, "--n", "2")
    read_rows(tmp_path / "judgments.jsonl", key=select.JUDGMENT_KEY)     # no key twice
    assert len(judge.asked) == len(read_rows(tmp_path / "judgments.jsonl"))


def test_ties_take_the_same_candidate_for_all_methods(world, tmp_path):
    select.main(world)
    rows = selections(tmp_path)
    for (pid, method, n), row in rows.items():
        if method in ("majority", "MBR", "self-certainty"):       # which see no difference in this world
            assert row["candidate_id"] == rows[pid, "random", n]["candidate_id"]


def test_each_program_is_judged_alone_by_the_untrained_judge_and_only_once(world, tmp_path):
    judge = Scripted(good_over_bad)
    for _ in range(2):
        select.main(world, {"judge, untrained": judge})
        assert scores(tmp_path, "judge, untrained, pointwise") == ORACLE
        alone = [call for call in judge.asked if call.b is None]
        assert len(alone) == sum(map(len, LABELS.values()))


def test_a_way_whose_field_nobody_has_is_left_out(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    for row in rows:
        del row["self_certainty"]
    dump(tmp_path / "l.jsonl", rows)
    select.main(world)
    assert {method for _, method, _ in selections(tmp_path)} == {*select.BASELINES} - {"self-certainty"}
    lack = f"self_certainty, which 14 of 14 candidates of {tmp_path / 'l.jsonl'} lack; it is left out"
    assert lack in capsys.readouterr().out


def test_a_field_that_some_lack_is_said(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    rows[0]["mean_logprob"] = rows[1]["mean_logprob"] = None
    dump(tmp_path / "l.jsonl", rows)
    select.main(world)
    assert "mean log-prob" in {method for _, method, _ in selections(tmp_path)}
    assert "“mean log-prob” needs mean_logprob, which 2 of 14" in capsys.readouterr().out


@pytest.mark.parametrize("flags, against", [([], JUDGE), (["--against", "majority"], "majority")])
def test_p_compares_with_the_judge_or_the_method_that_is_named(flags, against, world, capsys):
    run(world, Scripted(good_over_bad), *flags)
    table = capsys.readouterr().out
    assert f"McNemar test against “{against}”" in table
    line = next(line for line in table.splitlines() if line.startswith(against))
    assert len(line.split("]")[-1].split()) == 1       # no p against itself, only the gap


def test_p_may_compare_with_a_way_whose_field_the_first_candidates_lack(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    first = [{**row, "self_certainty": None} for row in rows if row["candidate_id"] == "c0"]
    dump(tmp_path / "l.jsonl", [*first, *(row for row in rows if row["candidate_id"] != "c0")])
    run(world, Scripted(good_over_bad), "--n", "1", "2", "--against", "self-certainty")
    assert "against “self-certainty”" in capsys.readouterr().out


def test_tables_are_of_the_largest_choice(world, capsys):
    run(world, Scripted(lambda a, b: "A" if a else "B"), "--n", "1")
    printed = capsys.readouterr().out
    random = next(line for line in printed.splitlines() if line.startswith("random"))
    assert random.split()[1] == f"{100 * np.mean([1/2, 1/3, 2/4, 0, 1]):.1f}"


# ---------------------------------------------------------------- thinking on

def test_after_a_wait_only_what_the_last_thought_says_counts(world, tmp_path):
    run(world, SecondThoughts(), "--rounds", "2", "--waits", "0", "1", "2")
    for row in read_rows(tmp_path / "judgments.jsonl"):
        assert row["verdict"] == ("B", "A", None)[row["wait"]]    # the last has none, as in training


def test_a_judgment_that_is_thought_on_holds_the_text_and_the_tokens_of_both(world, tmp_path):
    run(world, SecondThoughts(), "--rounds", "2", "--waits", "2")
    rows = {}
    for row in read_rows(tmp_path / "judgments.jsonl"):
        rows[row["problem_id"], row["draw"], row["a"], row["b"], row["wait"]] = row
    said = {1: "thought, <best>A</best>", 2: "no idea"}
    tokens = {1: 4, 2: 2}
    for (*call, wait), row in rows.items():
        if wait:
            before = rows[(*call, wait - 1)]
            assert row["text"] == before["text"] + WAIT + said[wait]
            assert row["tokens"] == before["tokens"] + tokens[wait]


def test_an_end_token_that_a_judgment_quotes_stays_text_when_it_is_thought_on():
    judge = select.LocalJudge(str(EDGES / "judge"), select.Settings(judge="none", device="cpu"))
    judge.load()
    problem = read_rows(EDGES / "problems_weak.jsonl")[0]
    a, b = some(0, 0)
    asked = judge.prompt(select.Call(problem, a, b))
    said = "A prints <|end|> at 9.<|end|>" + WAIT + "no"
    ids = judge.prompt(select.Call(problem, a, b, before={"text": said}))
    assert ids[:len(asked)] == asked
    assert judge.tokenizer.eos_token_id not in ids
    assert judge.tokenizer.decode(ids[len(asked):]) == said + WAIT


def test_the_table_of_waits_counts_what_each_changed(world, capsys):
    run(world, SecondThoughts(), "--rounds", "2", "--waits", "0", "1", "2")
    printed = capsys.readouterr().out
    none, one, two = (line.split() for line in printed[printed.index("thinking on"):].splitlines()[1:4])
    # In half of the orders the good program is B: saying B is right in half, A in the other half.
    assert none[:2] == ["none", "50.0"]
    assert one[:5] == ["1", "wait", "50.0", "50.0", "50.0"]
    assert two[:5] == ["2", "waits", "0.0", "50.0", "0.0"]    # it says nothing, which is wrong


def test_the_control_of_thinking_on_is_votes_for_as_many_tokens(world, tmp_path):
    run(world, SecondThoughts(), "--rounds", "4", "--waits", "1", "2")
    a_round = 3 * judgments_of(1)      # tokens: it says B, which is 3
    total = {}
    for (_, method, _), row in selections(tmp_path).items():
        total[method] = total.get(method, 0) + row.get("judge_tokens", 0)
    assert total[JUDGE] == 4 * a_round
    assert total[f"{JUDGE}, 1 wait"] == 4 * (3 + 4) * judgments_of(1)
    for name in ("1 wait", "2 waits"):
        thought = total[f"{JUDGE}, {name}"]
        voted = total[f"{JUDGE}, tokens of {name}"]
        assert thought <= voted
        assert voted < thought + a_round
        assert voted % a_round == 0


class RefusesMoreVotes(SecondThoughts):
    """A judge that thinks on, but has no further judgments to give: its quota is used up."""

    def compare(self, calls):
        for call, answer in zip(calls, super().compare(calls)):
            assert len(self.asked) < 1000, "it is asked without end"
            more = call.wait == 0 and call.draw > 0
            yield select.refused("used up") if more else answer


def test_votes_that_are_all_refused_are_not_asked_for_without_end(world, tmp_path, capsys):
    run(world, RefusesMoreVotes(), "--rounds", "1", "--waits", "1")
    control = f"{JUDGE}, tokens of 1 wait"
    assert f"“{control}” has fewer tokens" in capsys.readouterr().out
    assert selections(tmp_path)["t/0", control, 4]["judge_tokens"] > 0


def test_a_run_killed_between_waits_goes_on(world, tmp_path, capsys):
    flags = ["--rounds", "2", "--waits", "2"]
    run(world, SecondThoughts(), *flags)
    whole = timeless(tmp_path / "judgments.jsonl")
    (tmp_path / "judgments.jsonl").unlink()
    with pytest.raises(SystemExit):
        run(world, SecondThoughts(stop_after=judgments_of(2) + 6), *flags)
    assert "judgments are kept" in capsys.readouterr().err
    run(world, SecondThoughts(), *flags)
    assert timeless(tmp_path / "judgments.jsonl") == whole


# ---------------------------------------------------------------- --explain

def test_explain_judges_one_problem_and_prints_its_programs_from_the_winner_on(world, capsys):
    judge = Scripted(good_over_bad)
    run(world, judge, "--explain", "t/1")
    assert {call.problem["problem_id"] for call in judge.asked} == {"t/1"}
    printed = capsys.readouterr().out
    assert "Task t/1" in printed
    assert "# good 0" in printed
    shown = [line for line in printed.splitlines() if line.startswith("--- c")]
    assert len(shown) == 3
    won, judged_ = (int(word) for word in shown[0].split()[3:6:2])
    assert shown[0] == f"--- c0: won {won} of {won} judgments (judge, trained); passed"
    assert judged_ > 0


def test_explain_prints_the_judgment_of_the_winner_over_the_best_rival_that_it_beat(world, capsys):
    run(world, Scripted(good_over_bad), "--explain", "t/1")
    printed = capsys.readouterr().out
    deciding = printed[printed.index("the deciding judgment"):]
    assert "c0" in deciding
    assert "<best>" in deciding


def test_where_programs_tie_the_judgment_is_for_the_one_that_is_taken(world, tmp_path, capsys):
    """A judge that always says "A" ties all. The tie breaks anew in each problem."""
    class AlwaysA(Scripted):
        def compare(self, calls):
            for call, answer in zip(calls, super().compare(calls)):
                yield {**answer, "text": f"{call.a['candidate_id']}: {answer['text']}"}

    judge = AlwaysA(lambda a, b: "A")
    run(world, judge)
    taken = {}
    for (pid, method, _), row in selections(tmp_path).items():
        if method == JUDGE:
            taken[pid] = row["candidate_id"]
            assert row["transcript"].startswith(f"{taken[pid]}: ")
    assert set(taken.values()) != {"c0"}
    capsys.readouterr()
    for pid in LABELS:
        run(world, judge, "--explain", pid)
        printed = capsys.readouterr().out
        assert printed[printed.index("--- "):].startswith(f"--- {taken[pid]}: ")
        assert f"(A is {taken[pid]}, " in printed


@pytest.mark.parametrize("kind, right, wrong", [
    ({"entry_point": "f"}, "passed", "failed"),
    ({"task": "answer"}, "preferred", "not preferred")])
def test_an_explanation_says_what_was_won_and_what_is_right(kind, right, wrong, capsys):
    candidates = {row["candidate_id"]: row for row in some(0, 1)}
    deciding = {"a": "c1", "b": "c0", "text": "c1 is better \udc80"}
    votes = {"c0": (1, 4), "c1": (3, 4)}
    ranked = ["c1", "c0"]
    tables.print_explanation({**PROBLEM, **kind}, candidates, "judge", votes, ranked, deciding)
    assert capsys.readouterr().out == (
        "p\n\nTask p\n\n"
        f"--- c1: won 3 of 4 judgments (judge); {right}\n# c1\n"
        f"--- c0: won 1 of 4 judgments (judge); {wrong}\n# c0\n"
        "\nthe deciding judgment (A is c1, B is c0):\nc1 is better \ufffd\n")


def test_an_explanation_tells_no_verdict_from_no_judgment(capsys):
    candidates = {row["candidate_id"]: row for row in some(0, 1)}
    for judged_, words in ((4, "no judgment has a verdict for it"), (0, "no judgment was needed")):
        votes = {name: (0, judged_) for name in candidates}
        tables.print_explanation(PROBLEM, candidates, "judge", votes, ["c0", "c1"], None)
        assert capsys.readouterr().out.endswith(f"\n\n{words}\n")


def test_explain_says_so_where_no_judgment_was_needed(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    for row in rows:
        if row["problem_id"] == "t/3":
            row["code"] = "# the same\n"
    dump(tmp_path / "l.jsonl", rows)
    run(world, Scripted(good_over_bad), "--explain", "t/3")
    assert "no judgment was needed" in capsys.readouterr().out


# ---------------------------------------------------------------- a judge that is a checkpoint

@pytest.fixture(scope="module")
def shipped_judge():
    """The judge of the repository on the CPU, loaded."""
    cfg = select.Settings(judge="none", batch_size=4, device="cpu")
    judge = select.LocalJudge(str(EDGES / "judge"), cfg)
    judge.load()
    return judge


@pytest.fixture(scope="module")
def three_programs():
    """({problem_id: problem} of two test problems, three candidates of each)."""
    problems = read_problems(EDGES / "problems_strong.jsonl")
    two = [pid for pid in sorted(problems) if problems[pid]["split"] == "test"][:2]
    codes = ["def f(x):\n    x = x[1:]\n    return x\n",
             "def f(x):\n    x = sorted(x)\n    x = x[1:]\n    return x\n",
             "def f(x):\n    x = sorted(set(x))\n    x = x[1:]\n    return x\n"]
    candidates = {}
    for pid in two:
        candidates[pid] = [candidate(f"c{k}", problem_id=pid, code=code) for k, code in enumerate(codes)]
    return {pid: problems[pid] for pid in two}, candidates


def two_rounds_with_a_wait(judge, problems, candidates, path):
    """{problem_id: rows} of both waits, 0 and 1."""
    found = {}
    with Appender(path, select.JUDGMENT_KEY) as file:
        cache = select.Judgments(file)
        for wait in (0, 1):
            found[wait] = select.judge_in_rounds(judge, problems, candidates, cache, 2, seed=0, wait=wait)
    return found


def test_a_checkpoint_goes_on_with_the_judgments_it_would_have_made(shipped_judge, three_programs, tmp_path):
    two_rounds_with_a_wait(shipped_judge, *three_programs, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(True)
    assert len(lines) == 2 * 2 * 2 * 2
    (tmp_path / "killed.jsonl").write_text("".join(lines[:5]))
    two_rounds_with_a_wait(shipped_judge, *three_programs, tmp_path / "killed.jsonl")
    assert timeless(tmp_path / "killed.jsonl") == timeless(tmp_path / "whole.jsonl")


def test_a_checkpoint_thinks_on_from_what_it_said(shipped_judge, three_programs, tmp_path):
    found = two_rounds_with_a_wait(shipped_judge, *three_programs, tmp_path / "j.jsonl")
    for pid in found[0]:
        for first, second in zip(found[0][pid], found[1][pid]):
            assert second["text"].startswith(first["text"] + WAIT)
            assert second["tokens"] > first["tokens"]
            assert first["verdict"] in ("A", "B")


def test_a_checkpoint_is_not_loaded_where_all_is_known(three_programs, tmp_path):
    cfg = select.Settings(judge="none", batch_size=64, device="cpu")
    judge = select.LocalJudge(str(EDGES / "judge"), cfg)
    assert judge.model is None      # it is loaded when it is first asked
    two_rounds_with_a_wait(judge, *three_programs, tmp_path / "j.jsonl")
    assert judge.model is not None
    again = select.LocalJudge(str(EDGES / "judge"), cfg)
    two_rounds_with_a_wait(again, *three_programs, tmp_path / "j.jsonl")
    assert again.model is None


def test_p_yes_is_that_of_the_first_token_whatever_stands_beside_it(shipped_judge):
    tokenizer = shipped_judge.tokenizer
    prompts = [tokenizer(text).input_ids
               for text in ("Steps: sort.\n", "Steps: sort, double, drop last.\np 577 -> 041\n")]
    yes, no = (tokenizer(word).input_ids[0] for word in ("Yes", "No"))
    assert yes != no
    for prompt, p in zip(prompts, shipped_judge.p_yes(prompts, yes, no)):
        logits = shipped_judge.model(select.torch.tensor([prompt])).logits[0, -1]
        assert p == pytest.approx(logits[[yes, no]].softmax(0)[0].item(), abs=1e-4)


@pytest.mark.parametrize("cfg, other", [
    ({"device": "cpu", "dtype": "auto"}, {"device": "cpu", "dtype": "bfloat16"}),
    ({"device": "cpu", "dtype": "auto"}, {"device": "cuda", "dtype": "auto"}),
])
def test_another_precision_is_another_setting(cfg, other):
    name = str(EDGES / "judge")
    here = select.LocalJudge(name, select.Settings(judge="none", **cfg))
    there = select.LocalJudge(name, select.Settings(judge="none", **other))
    assert here.settings != there.settings


def test_a_local_judge_samples_at_the_temperature_of_its_flag(shipped_judge, three_programs):
    problems, candidates = three_programs
    pid = next(iter(problems))
    calls = [select.Call(problems[pid], *candidates[pid][:2], draw=draw) for draw in range(6)]
    texts = {}
    cfg = shipped_judge.cfg
    try:
        for temperature in (0.0, 3.0):
            shipped_judge.cfg = replace(cfg, temperature=temperature)
            texts[temperature] = {answer["text"] for answer in shipped_judge.compare(calls)}
    finally:
        shipped_judge.cfg = cfg
    assert len(texts[0.0]) == 1
    assert len(texts[3.0]) > 3


def test_a_judgment_must_fit_with_all_its_new_tokens(shipped_judge):
    context = context_length(shipped_judge.model)
    assert shipped_judge.refusal([5] * (context - 112), 112) is None
    assert "exceed" in shipped_judge.refusal([5] * (context - 111), 112)["refused"]


# ---------------------------------------------------------------- what cannot be judged

LONG = "def f(x):\n" + "    x = sorted(x)\n" * 2000 + "    return x\n"


def test_a_pair_that_does_not_fit_the_context_costs_its_own_judgments(
        shipped_judge, three_programs, tmp_path, capsys):
    problems, candidates = three_programs
    first, second = candidates
    longer = {first: candidates[first], second: candidates[second][:2] + [candidate("c2", code=LONG)]}
    path = tmp_path / "j.jsonl"
    with Appender(path, select.JUDGMENT_KEY) as file:
        cache = select.Judgments(file)
        found = select.judge_every_pair(shipped_judge, problems, longer, cache)
    refused = [row for row in found[second] if "c2" in (row["a"], row["b"])]
    assert len(refused) == 4
    assert all(row["verdict"] is None for row in refused)
    assert all("exceed the model's context of 1024" in row["refused"] for row in refused)
    assert len(read_rows(path)) == 6 + 6 - 4         # what was refused is not kept
    note = capsys.readouterr().out
    assert "4 of 12 judgments" in note
    assert second in note


def test_yes_and_no_that_begin_with_the_same_token_are_refused(shipped_judge, three_programs):
    class Prefixing:
        """A tokenizer that begins every word with one and the same token, as SentencePiece may."""
        def __call__(self, text, add_special_tokens):
            return SimpleNamespace(input_ids=[1, *map(ord, text)])

    judge = select.LocalJudge(shipped_judge.path, shipped_judge.cfg)
    judge.model, judge.tokenizer = shipped_judge.model, Prefixing()
    problems, candidates = three_programs
    pid = next(iter(problems))
    answer, = judge.rate([select.Call(problems[pid], candidates[pid][0], None)])
    assert "one and the same token" in answer["refused"]
    assert "yes" not in answer


class Refusing(Scripted):
    """A judge that cannot read the program c1 of t/2, nor rate any program."""

    def compare(self, calls):
        for call, answer in zip(calls, super().compare(calls)):
            of_t2 = call.problem["problem_id"] == "t/2"
            if of_t2 and "c1" in (call.a["candidate_id"], call.b["candidate_id"]):
                answer = select.refused("too long")
            yield answer

    def rate(self, calls):
        return [select.refused("no such question") for _ in calls]


def test_what_is_refused_is_no_verdict_and_is_counted_and_shown(world, tmp_path, capsys):
    run(world, Refusing(good_over_bad))
    row = selections(tmp_path)["t/2", JUDGE, 4]
    assert row["votes"]["c1"][0] == 0
    assert row["candidate_id"] == "c2"
    printed = capsys.readouterr().out
    assert f"of {judgments_of(8)} judgments of scripted@0 were refused and count as no verdict" in printed
    assert "the first, on t/2: too long" in printed


def test_what_is_refused_is_asked_again_by_the_next_run_alone(world, tmp_path):
    judge = Refusing(good_over_bad)
    run(world, judge, "--n", "3", "4")
    kept = len(read_rows(tmp_path / "judgments.jsonl"))
    refused = len(judge.asked) - kept
    assert refused > 0
    again = Scripted(good_over_bad)
    run(world, again, "--n", "3", "4")
    assert len(again.asked) == refused
    assert len(read_rows(tmp_path / "judgments.jsonl")) == kept + refused


def test_nothing_is_thought_on_from_what_was_refused(world):
    judge = Refusing(good_over_bad)
    run(world, judge, "--waits", "1", "--rounds", "2")
    thought_on = [call for call in judge.asked if call.before]
    assert thought_on
    assert not any("refused" in call.before for call in thought_on)


def test_a_judge_that_cannot_rate_a_program_is_not_chosen_by_that(world, tmp_path, capsys):
    select.main(world, {"judge, untrained": Refusing(good_over_bad)})
    methods = {method for _, method, _ in selections(tmp_path)}
    assert "judge, untrained, pointwise" not in methods
    assert "judge, untrained" in methods
    assert "“judge, untrained, pointwise” is left out" in capsys.readouterr().out


@pytest.mark.parametrize("field, value", [("text", None), ("tokens", "5"), ("finished", 1), ("seconds", None),
                                          ("draw", [0])])
def test_a_kept_judgment_with_a_broken_field_is_named(field, value, world, tmp_path):
    run(world, Scripted(good_over_bad))
    rows = read_rows(tmp_path / "judgments.jsonl")
    dump(tmp_path / "judgments.jsonl", [{**rows[0], field: value}, *rows[1:]])
    with pytest.raises(UserError, match=f"judgments.jsonl, line 1: field '{field}' has the wrong type"):
        run(world, Scripted(good_over_bad))


# ---------------------------------------------------------------- verdicts that are read again

@pytest.mark.parametrize("text, finished, verdict", [
    ("I restate: <best>A</best> or <best>B</best>. First", False, None),
    ("Its comment says <best>A</best>", False, None),
    ("<best>A</best>, then", True, None),
    ("<best>B</best>", True, "B"),
])
def test_kept_judgments_are_read_by_the_rule_of_today(text, finished, verdict, tmp_path):
    judge = Scripted(good_over_bad)
    call = select.Call(PROBLEM, *some(1, 0))
    row = {"text": text, "tokens": 9, "finished": finished, "seconds": 0.1, "verdict": "A"}
    key = dict(zip(select.JUDGMENT_KEY, select.judgment_key(judge, call)))
    with Appender(dump(tmp_path / "j.jsonl", [{**key, **row}]), select.JUDGMENT_KEY) as file:
        found, = select.Judgments(file).collect(judge, judge.compare, [call])
    assert not judge.asked
    assert found["verdict"] == verdict


def test_a_kept_judgment_within_thoughts_that_its_prompt_opened_has_no_verdict():
    row = {"text": "A sorts. <best>A</best>", "finished": True}
    assert select.verdict_of(row) == "A"
    assert select.verdict_of({**row, "begun": "<think>\n"}) is None
    assert select.verdict_of({**row, "begun": "<think>\n", "text": "hm</think>" + row["text"]}) == "A"
    assert select.verdict_of({**row, "refused": "too long"}) is None


# ---------------------------------------------------------------- a judge behind a server

class Handler(BaseHTTPRequestHandler):
    """Answers with the server's says(body), or with the status that status(body) or `failures` name."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append((self.path, body, self.headers.get("Authorization")))
            status = server.status(body) or next(server.failures, 200)
        if status == 200:
            text = server.says(body)
            choice = {"message": {"content": text}} if "messages" in body else {"text": text}
            choice["finish_reason"] = server.finish_reason
            answer = {"choices": [choice], "usage": {"completion_tokens": 3}}
        else:
            answer = {"error": {"message": f"sorry, {status}"}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def reads(body):
    """A perfect judge that reads the prompt: which of A and B is the good program?"""
    text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    a, b = text[text.index("\nA:\n"):].split("\nB:\n")
    return f"I see. <best>{'A' if 'good' in a else 'B'}</best>"


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock = threading.Lock()
    server.asked = []          # (path, body, key)
    server.failures = iter(())
    server.says = reads
    server.finish_reason = "stop"
    server.status = lambda body: None
    server.base = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(world, server):
    """Flags of the command with the judge behind the server, one request at a time."""
    return [*world, "--api-base", server.base, "--api-model", "m", "--in-flight", "1"]


def test_a_served_judge_chooses_what_its_verdicts_say(served, server, tmp_path):
    select.main([*served, "--in-flight", "4"])
    assert scores(tmp_path, "judge, served") == ORACLE
    assert len(server.asked) == judgments_of(8)
    assert len(read_rows(tmp_path / "judgments.jsonl")) == judgments_of(8)


def test_a_served_chat_judge_gets_one_message_with_the_protocol_the_key_and_a_seed_of_its_own(
        served, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    select.main([*served, "--rounds", "2"])
    seeds = set()
    for path, body, key in server.asked:
        message, = body["messages"]
        assert path == "/v1/chat/completions"
        assert key == "Bearer secret"
        assert message["role"] == "user"
        assert message["content"].startswith(PROTOCOL)
        assert body["model"] == "m"
        assert body["max_tokens"] == select.Settings().max_new_tokens
        assert 0 <= body["seed"] < 2**31
        seeds.add(body["seed"])
    assert len(seeds) == judgments_of(2)


def test_a_served_run_goes_on_where_it_stopped_and_asks_in_the_same_words(
        served, server, tmp_path, capsys):
    select.main(served)
    whole = timeless(tmp_path / "judgments.jsonl")
    (tmp_path / "judgments.jsonl").unlink()
    asked_at_once = [body for _, body, _ in server.asked]
    server.asked.clear()
    server.failures = iter([200] * 30 + [401])
    with pytest.raises(UserError, match="sorry, 401"):
        select.main(served)
    assert len(read_rows(tmp_path / "judgments.jsonl")) == 30
    capsys.readouterr()
    select.main(served)
    assert f"note: 30 judgments of m@{server.base} in" in capsys.readouterr().out
    assert timeless(tmp_path / "judgments.jsonl") == whole
    assert all(body in asked_at_once for _, body, _ in server.asked)
    assert len(server.asked) <= judgments_of(8) + 2    # the one that failed, and one that was on its way


def thinking_on(server):
    """The requests that ask for a second thought."""
    waiting = json.dumps(WAIT).strip('"')
    return [body for _, body, _ in server.asked if waiting in json.dumps(body)]


def test_a_served_plain_judge_thinks_on_from_what_it_said(served, server):
    select.main([*served, "--rounds", "1", "--waits", "1", "--api-plain"])
    again = thinking_on(server)
    assert len(again) == judgments_of(1)
    for body in again:
        assert body["prompt"].endswith("</best>" + WAIT)
        assert not body["prompt"].startswith(PROTOCOL)


def test_a_served_chat_judge_thinks_on_from_what_it_said(served, server):
    select.main([*served, "--rounds", "1", "--waits", "1"])
    again = thinking_on(server)
    assert len(again) == judgments_of(1)
    for body in again:
        assert body["messages"][1] == {"role": "assistant", "content": reads(body) + WAIT}
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False


def test_a_request_that_the_server_refuses_costs_one_judgment(served, server, tmp_path, capsys):
    server.status = lambda body: 400 if "Task t/0" in json.dumps(body) else None
    select.main(served)
    assert scores(tmp_path, "judge, served") == {**ORACLE, "t/0": CHANCE["t/0"]}
    assert len(read_rows(tmp_path / "judgments.jsonl")) == judgments_of(8) - 16
    printed = capsys.readouterr().out
    assert f"note: 16 of {judgments_of(8)} judgments" in printed
    assert "sorry, 400" in printed


def test_answers_that_were_cut_off_after_a_restated_instruction_are_no_votes(served, server, tmp_path):
    server.says = lambda body: "It must end with <best>A</best> or <best>B</best>. First,"
    server.finish_reason = "length"
    select.main([*served, "--rounds", "1"])
    assert {row["verdict"] for row in read_rows(tmp_path / "judgments.jsonl")} == {None}


def test_a_server_that_cannot_go_on_is_said_plainly(served, server):
    server.failures = iter([200] * judgments_of(1) + [422] * 99)
    with pytest.raises(UserError, match="422.*--waits needs --api-plain or a local --judge"):
        select.main([*served, "--rounds", "1", "--waits", "1"])


def test_a_served_judge_is_another_with_plain_prompts():
    server = {"api_base": "http://x/v1", "api_model": "m"}
    chat = select.ServedJudge(select.Settings(**server))
    plain = select.ServedJudge(select.Settings(**server, api_plain=True))
    assert chat.name != plain.name


def test_transformers_serve_gives_the_verdicts_that_the_checkpoint_gives(
        three_programs, tmp_path, transformers_serve):
    """Greedy, so that both must agree; a plain model, so /completions; then it thinks on."""
    name = str(EDGES / "judge")
    with transformers_serve(name) as base:
        cfg = select.Settings(judge="none", temperature=0.0, batch_size=64, device="cpu",
                              api_base=base, api_model=name, api_plain=True, in_flight=4)
        local = select.LocalJudge(name, cfg)
        ours = two_rounds_with_a_wait(local, *three_programs, tmp_path / "ours.jsonl")
        remote = select.ServedJudge(cfg)
        theirs = two_rounds_with_a_wait(remote, *three_programs, tmp_path / "theirs.jsonl")
        for wait in (0, 1):
            for pid in ours[wait]:
                for here, there in zip(ours[wait][pid], theirs[wait][pid]):
                    assert there["text"] == here["text"]
                    assert there["verdict"] == here["verdict"]
                    assert there["finished"]
        chat = [{"model": name, "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}]
        with pytest.raises(servers.ApiError, match="a model without a chat template wants --api-plain"):
            list(servers.complete(base, chat, tries=1))


# ---------------------------------------------------------------- mistakes

def test_a_test_set_without_mixed_outcomes_is_noticed_before_the_judge_works(world, tmp_path):
    rows = read_rows(tmp_path / "l.jsonl")
    dump(tmp_path / "l.jsonl", [{**row, "passed": row["problem_id"] == "t/4"} for row in rows])
    judge = Scripted(good_over_bad)
    with pytest.raises(UserError) as caught:
        run(world, judge)
    where = f"{tmp_path / 'l.jsonl'}, split 'test': "
    what = "no problem has both a passing and a failing candidate"
    assert str(caught.value).startswith(where + what)
    assert "(sample.py --n)" in str(caught.value)
    assert not judge.asked


@pytest.mark.parametrize("flags, message", [
    (["--judge", "runs/no-such-run/judge"], "--judge runs/no-such-run/judge: no such folder"),
    (["--judge", str(EDGES / "judge"), "--base-judge", "./nowhere"], "--base-judge ./nowhere: no such folder"),
    (["--split", "dev"], "no candidates for split 'dev' of .* (--split)"),
    (["--rounds", "0"], "--rounds 0: must be at least 1"),
    (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    (["--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1"),
    (["--temperature", "-1"], "--temperature -1.0: must be at least 0"),
    (["--n", "4", "0"], "--n 0: must be at least 1"),
    (["--waits", "1", "-1"], "--waits -1: must be at least 0"),
    (["--waits", "1", "--aggregate", "round-robin"], "--waits: thinking on .* --aggregate rounds"),
    (["--judge", "x", "--explain", "t/99"], "--explain t/99: not among the 5 problems of split 'test'"),
    (["--explain", "t/1"], "--explain: there is nothing to explain without a --judge"),
    (["--against", "best"], "--against best: expected one of: random; first"),
    (["--labelled", "/no/such.jsonl"], "/no/such.jsonl: no such file"),
    (["--problems", "/no/such.jsonl"], "/no/such.jsonl: no such file"),
    (["--api-base", "127.0.0.1:80", "--api-model", "m"], "--api-base 127.0.0.1:80: expected an address"),
    (["--api-model", "m"], "--api-base and --api-model go together"),
])
def test_a_mistake_is_named_in_one_line(flags, message, world):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        select.main([*world, *flags])
    assert "\n" not in str(caught.value)


def test_without_a_trained_judge_the_message_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(select, "ROOT", tmp_path)
    with pytest.raises(UserError) as caught:
        select.judges_of(select.Settings())
    for word in ("--judge: ", "python train_bilevel.py", "--judge none"):
        assert word in str(caught.value)


def test_a_bad_row_stops_it_before_any_judgment_and_keeps_those_that_are_there(world, tmp_path):
    run(world, Scripted(good_over_bad), "--rounds", "1")
    kept = (tmp_path / "judgments.jsonl").read_bytes()
    with open(tmp_path / "l.jsonl", "a") as file:
        file.write(json.dumps(candidate("c9", problem_id="t/0", passed="yes")) + "\n")
    judge = Scripted(good_over_bad)
    with pytest.raises(UserError, match="l.jsonl, line 15: field 'passed' has the wrong type"):
        run(world, judge)
    assert not judge.asked
    assert (tmp_path / "judgments.jsonl").read_bytes() == kept


# ---------------------------------------------------------------- where selections go

def test_selections_lie_beside_the_candidates_unless_told_otherwise(tmp_path):
    assert select.Settings(labelled=str(tmp_path / "l.jsonl")).out == tmp_path / "selections.jsonl"
    for labelled in select.EDGES_LABELLED:
        assert select.Settings(labelled=str(labelled)).out == select.EDGES_RUN / "selections.jsonl"
    out = tmp_path / "s.jsonl"
    assert select.Settings(labelled=str(tmp_path / "l.jsonl"), out=out).out == out


# ---------------------------------------------------------------- what is not chosen among

def problem_and_candidates(tmp_path, rows, ids=("p",)):
    """load_candidates on these rows, for problems with these ids."""
    problem = {**PROBLEM, "split": "test", "domain": "d", "difficulty": "easy", "entry_point": None,
               "public_tests": [], "tests": []}
    write_rows(tmp_path / "p.jsonl", [{**problem, "problem_id": pid} for pid in ids])
    write_rows(tmp_path / "l.jsonl", rows)
    return select.load_candidates(select.Settings(problems=[tmp_path / "p.jsonl"], labelled=tmp_path / "l.jsonl"))


def test_a_text_that_both_passed_and_failed_is_not_chosen_among(tmp_path, capsys):
    same = candidate("s", True)
    rows = [same, {**same, "candidate_id": "t", "passed": False}, candidate("a", True), candidate("b", False)]
    for some_order in (rows, rows[::-1]):
        _, candidates = problem_and_candidates(tmp_path, some_order)
        assert {row["candidate_id"] for row in candidates["p"]} == {"a", "b"}
        assert "1 programs" in capsys.readouterr().out


def test_a_candidate_without_a_verdict_is_left_out_though_its_text_has_one(tmp_path, capsys):
    twin = candidate("a", True)
    _, candidates = problem_and_candidates(
        tmp_path, [twin, {**twin, "candidate_id": "n", "passed": None}, candidate("b", False)])
    assert [row["candidate_id"] for row in candidates["p"]] == ["a", "b"]
    assert "1 of 3 candidates" in capsys.readouterr().out


def test_problems_without_candidates_are_said(tmp_path, capsys):
    problems, _ = problem_and_candidates(tmp_path, some(1, 0), ids=("p", "q", "r"))
    assert list(problems) == ["p"]
    assert "2 of 3 problems of split 'test' have no candidate with a verdict" in capsys.readouterr().out


@pytest.mark.parametrize("field, value", [
    ("mean_logprob", float("nan")), ("mean_logprob", "-0.1"), ("self_certainty", float("inf")), ("n_tokens", True),
    ("n_tokens", 10**400),
    ("public_passed", "false"), ("output_digest", ["x"]),
])
def test_a_field_of_another_kind_is_named(tmp_path, field, value):
    rows = [candidate("a", True, **{field: value}), candidate("b", False)]
    with pytest.raises(UserError, match=f"l.jsonl: candidate 'a' of problem 'p': '{field}' is "):
        problem_and_candidates(tmp_path, rows)


def test_mbr_chooses_no_candidate_that_lacks_what_it_needs():
    sure = candidate("a", output_digest="x", mean_logprob=-0.1, n_tokens=3)
    for field in select.NEEDS["MBR"]:
        lacks = {**candidate("b", output_digest="x", mean_logprob=-0.1, n_tokens=3), field: None}
        assert select.minimum_bayes_risk([lacks, sure]).tolist() == [0, 1]


def test_no_interval_ends_outside_of_what_a_share_can_be():
    assert statistics.interval([1.1, 1.2, 1.3]) == (1.0, 1.0)
    assert statistics.interval([-0.3, -0.2, -0.1]) == (0.0, 0.0)
    assert statistics.interval([-0.3, -0.3], least=-1) == (-0.3, -0.3)


def test_a_judge_without_any_verdict_is_not_said_to_be_unneeded(capsys):
    rows = {row["candidate_id"]: row for row in some(1, 0)}
    for judged, words in ((2, "no judgment has a verdict for it"), (0, "no judgment was needed")):
        votes = dict.fromkeys(rows, (0, judged))
        tables.print_explanation(PROBLEM, rows, "judge", votes, list(rows), None)
        assert words in capsys.readouterr().out


# ---------------------------------------------------------------- what is written over, and what is not of this run

@pytest.mark.parametrize("name", ["l.jsonl", "p.jsonl", "c.jsonl", "judgments.jsonl"])
def test_only_selections_are_written_over(name, world, tmp_path):
    dump(tmp_path / "c.jsonl", [{"problem_id": "t/0", "candidate_id": "c0"}])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=f"--out .*{name}: "):
        select.main([*world, "--out", str(tmp_path / name)])
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    select.main(world)
    select.main(world)  # selections are


def test_a_folder_cannot_be_the_file_of_selections(world, tmp_path):
    with pytest.raises(UserError, match="expected a file for the selections"):
        select.main([*world, "--out", str(tmp_path)])


def test_candidates_of_other_problems_are_said(world, tmp_path, capsys):
    rows = read_rows(tmp_path / "l.jsonl")
    dump(tmp_path / "l.jsonl", [*rows, {**rows[0], "problem_id": "elsewhere"}])
    select.main(world)
    printed = capsys.readouterr().out
    assert f"note: 1 of {len(rows) + 1} candidates" in printed
    assert "are of problems that are not in --problems" in printed


def test_labels_of_other_tests_are_refused(world, tmp_path):
    rows = read_rows(tmp_path / "l.jsonl")
    dump(tmp_path / "l.jsonl", [{**rows[0], "tests_digest": "0123456789ab-0123"}, *rows[1:]])
    with pytest.raises(UserError, match="were labelled by other tests .*: run execute.py again"):
        select.main(world)
