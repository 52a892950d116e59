"""How a judge did on preference data: the figures from which each benchmark makes its own.

A pair is a preferred answer and another one of the same problem. It is judged in both orders, and
its two outcomes are True (the preferred answer was named), False or None (no verdict).
"""
from collections import defaultdict
from dataclasses import dataclass
from math import nan

from data.tables import passed_of


@dataclass
class Result:
    """How one method judged one problem."""
    problem: dict
    outcomes: dict         # {(preferred, other): its (outcome, outcome) in each draw}
    score: dict            # {candidate_id: share of its judgments that it won, or its rating}
    passed: dict           # {candidate_id: was it preferred?}
    comparable: bool       # do the scores say which of its answers is the best?
    rated: bool = False    # each answer was rated by itself: there are no pairs

    @property
    def pairs(self):
        """The (outcome, outcome) of all pairs and draws."""
        return [pair for draws in self.outcomes.values() for pair in draws]


def result_of(problem, candidates, judgments):
    """A Result of rows of labelled.jsonl and of judgments.jsonl, in both orders.

    Of answers with the same text the first is judged for all (select.py, `programs`): each has its
    share. Shares of more than two answers are comparable if each pair of them was judged once: with
    other rivals, or with one more often, an answer would win another share.
    """
    passed = passed_of(candidates)
    first = {}                   # {text: the answer that is judged}
    for row in candidates:
        first.setdefault(row["code"], row["candidate_id"])
    outcome = {}                 # of (draw, A, B), where one of A and B is preferred
    won = defaultdict(int)
    judged = defaultdict(int)
    met = defaultdict(int)       # {pair of answers: judgments}
    for row in judgments:
        a = row["a"]
        b = row["b"]
        met[frozenset((a, b))] += 1
        judged[a] += 1
        judged[b] += 1
        if row["verdict"] is not None:
            won[a if row["verdict"] == "A" else b] += 1
        if passed[a] != passed[b]:
            right = "A" if passed[a] else "B"
            outcome[row["draw"], a, b] = None if row["verdict"] is None else row["verdict"] == right
    outcomes = defaultdict(list)
    for draw, a, b in outcome:
        if passed[a]:
            outcomes[a, b].append((outcome[draw, a, b], outcome[draw, b, a]))
    share = {}
    for row in candidates:
        twin = first[row["code"]]
        share[row["candidate_id"]] = won[twin] / max(judged[twin], 1)
    every_pair = len(met) == len(first) * (len(first) - 1) // 2
    once = all(count == 2 for count in met.values())     # in both orders
    return Result(problem, dict(outcomes), share, passed, every_pair and (once or len(first) == 2))


def rated_result(problem, candidates, ratings):
    """A Result of a judge that saw each answer alone. ratings: {(problem_id, text): rating}."""
    passed = passed_of(candidates)
    score = {row["candidate_id"]: ratings[row["problem_id"], row["code"]] for row in candidates}
    return Result(problem, {}, score, passed, comparable=True, rated=True)


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


def are_comparable(results):
    return all(result.comparable for result in results)


def best_of_n(results):
    """How often a preferred answer has the highest score; nan if scores are not comparable.

    Where k answers share the first place, each of them is the choice with probability 1/k.
    """
    if not are_comparable(results):
        return nan
    chosen = []
    for result in results:
        most = max(result.score.values())
        first = [name for name, score in result.score.items() if score == most]
        chosen.append(mean(result.passed[name] for name in first))
    return mean(chosen)
