"""How sure a comparison is: a paired bootstrap, the exact McNemar test, Holm's correction.

Also the mean of some numbers, and to how many pairs of equal weight some weights amount.
"""
from math import comb

import numpy as np


def mean(values):
    return sum(values) / len(values)


def effective_size(weights):
    """(Σw)²/Σw²: how many pairs of equal weight these amount to."""
    total = sum(weights)
    squares = sum(weight ** 2 for weight in weights)
    return total ** 2 / max(squares, 1e-30)


def bootstrap(score, resampled, seed, draws=2000):
    """Means over problems as other samples would give them, [draws, methods].

    score:     [problems, methods] as it was.
    resampled: [problems, samples, methods] on other candidates and verdicts of each problem.

    A draw takes as many problems, with replacement, and one of its samples for each; all methods
    share these choices. Candidates drawn with replacement hold fewer different ones, which shifts
    the mean, so the draws are centred on that of `score`. They are a little wide, since what varies
    inside a problem varies between problems, too.
    """
    rng = np.random.default_rng(seed)
    problems, samples, _ = resampled.shape
    means = []
    for _ in range(draws):
        problem = rng.integers(0, problems, problems)
        sample = rng.integers(0, samples, problems)
        means.append(resampled[problem, sample].mean(0))
    return np.array(means) - resampled.mean((0, 1)) + score.mean(0)


def interval(samples, least=0.0):
    """(low, high) of the middle 95 % of samples of a share, or of a difference (least = -1)."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return tuple(np.clip([low, high], least, 1.0).tolist())


def mcnemar(a, b):
    """Exact two-sided p of McNemar's test: a, b [problems] say where each of two methods is right.

    On n_a problems only a is right, on n_b only b, and n = n_a + n_b:

        p = min(1, 2 Σ_{k <= min(n_a, n_b)} C(n, k) / 2^n)
    """
    n_a = sum(bool(x) and not y for x, y in zip(a, b))  # of Python's integers: 2^n is large
    n_b = sum(bool(y) and not x for x, y in zip(a, b))
    n = n_a + n_b
    tail = sum(comb(n, k) for k in range(min(n_a, n_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def holm(ps):
    """m p-values, corrected (Holm 1979): in ascending order,

        p_(i) -> max_{j <= i} min(1, (m − j + 1) p_(j))
    """
    ascending = sorted(range(len(ps)), key=ps.__getitem__)
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, k in enumerate(ascending):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[k]))
        corrected[k] = largest
    return corrected
