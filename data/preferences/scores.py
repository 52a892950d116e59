"""How a judge did on preference data: the figures from which each benchmark makes its own.

A pair is a preferred answer and another one of the same problem. It is judged in both orders, and
its two outcomes are True (the preferred answer was named), False or None (no verdict).
"""
from collections import defaultdict
from dataclasses import dataclass
from math import nan


@dataclass
class Result:
    """How one method judged one problem."""
    problem: dict
    pairs: list      # of (outcome, outcome), one for each pair and draw
    share: dict      # {candidate_id: share of its judgments that it won}, of those that were judged
    passed: dict     # {candidate_id: was it preferred?}


def result_of(problem, candidates, judgments):
    """candidates: rows of labelled.jsonl.   judgments: rows of judgments.jsonl, in both orders."""
    passed = {row["candidate_id"]: row["passed"] for row in candidates}
    outcome = {}                 # of (draw, A, B), where one of A and B is preferred
    won = defaultdict(int)
    judged = defaultdict(int)
    for row in judgments:
        a = row["a"]
        b = row["b"]
        judged[a] += 1
        judged[b] += 1
        if row["verdict"] is not None:
            won[a if row["verdict"] == "A" else b] += 1
        if passed[a] != passed[b]:
            right = "A" if passed[a] else "B"
            outcome[row["draw"], a, b] = None if row["verdict"] is None else row["verdict"] == right
    pairs = []
    for draw, a, b in outcome:
        if passed[a]:
            pairs.append((outcome[draw, a, b], outcome[draw, b, a]))
    share = {candidate_id: won[candidate_id] / judged[candidate_id] for candidate_id in judged}
    return Result(problem, pairs, share, passed)


def by_field(results, field):
    """{value of a field of the problem: results}, in the order of the first of each."""
    groups = defaultdict(list)
    for result in results:
        groups[result.problem.get(field, "unknown")].append(result)
    return dict(groups)


# ---------------------------------------------------------------- shares

def mean(values):
    """The mean; nan of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else nan


def accuracy(results, undecided):
    """Share of right judgments, of both orders alike; one without a verdict counts `undecided`."""
    outcomes = [outcome for result in results for pair in result.pairs for outcome in pair]
    return mean(undecided if outcome is None else float(outcome) for outcome in outcomes)


def share_of_pairs(results, holds):
    """Of how many pairs holds(pair) is true."""
    return mean(holds(pair) for result in results for pair in result.pairs)


def right_in_both(pair):
    return pair == (True, True)


def same_choice(pair):
    """Was the same answer named in both orders?"""
    return None not in pair and pair[0] == pair[1]


def more_right_than_wrong(pair):
    return pair.count(True) > pair.count(False)


def is_tied(pair):
    """As many votes for one answer as for the other: one each, or none."""
    return pair.count(True) == pair.count(False)


def best_of_n(results):
    """How often a preferred answer won the largest share of its judgments.

    Where k answers share the first place, each of them is the choice with probability 1/k.
    """
    chosen = []
    for result in results:
        if result.share:
            most = max(result.share.values())
            first = [name for name, share in result.share.items() if share == most]
            chosen.append(mean(result.passed[name] for name in first))
    return mean(chosen)
