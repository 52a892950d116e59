"""What stages 3 and 4 say on the terminal, and the statistics behind it: paired bootstrap, exact McNemar test, Holm's correction.

A method is (choose, judgments): judgments is None, or {problem_id: the rows of judgments.jsonl that it looked at}.
"""
from collections import defaultdict
from math import comb
from pathlib import Path

import numpy as np

from data.rows import ROOT, TINY


# ---------------------------------------------------------------- statistics

def bootstrap(score, resampled, seed, draws=2000):
    """Means over problems on other samples of problems, candidates and verdicts, [draws, methods]; one sample serves all methods.

    score [problems, methods] as it was; resampled [problems, samples, methods] on other candidates and verdicts of each problem.
    Centred on the mean of `score`, since a sample with replacement holds fewer different candidates; a little wide, since what
    varies inside a problem varies between problems too.
    """
    rng, (problems, samples, _) = np.random.default_rng(seed), resampled.shape
    means = [resampled[rng.integers(0, problems, problems), rng.integers(0, samples, problems)].mean(0) for _ in range(draws)]
    return np.array(means) - resampled.mean((0, 1)) + score.mean(0)


def interval(mean, samples, least=0.0):
    """A mean with the middle 95 % of its bootstrap samples, in percent, as text."""
    low, high = np.clip(np.percentile(samples, [2.5, 97.5]), least, 1)
    return f"{100 * mean:5.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"


def mcnemar(a, b):
    """Exact two-sided p of McNemar's test on paired right / wrong outcomes.

    Of n = b + c problems on which only one of the two is right: p = min(1, 2 Σ_{k <= min(b, c)} C(n, k) / 2^n).
    """
    only_a, only_b = sum(x and not y for x, y in zip(a, b)), sum(y and not x for x, y in zip(a, b))
    n = only_a + only_b
    return min(1.0, 2 * sum(comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n)


def holm(ps):
    """Several p, corrected (Holm 1979): in ascending order, p_(i) -> max_{j <= i} min(1, (m − j + 1) p_(j))."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = corrected[k] = max(largest, min(1.0, (len(ps) - rank) * ps[k]))
    return corrected


# ---------------------------------------------------------------- stage 3

def by_group(rows):
    """Rows of weights.jsonl by the domain of their pair."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["group"]].append(row)
    return groups


def show_training(s, metrics, rows, pairs):
    """The judge before and after, the data weights by domain, how good the hypergradient was, and what to run next.

    s: the settings of the run; metrics and rows: those of metrics.jsonl and weights.jsonl; pairs: how many it was judged on.
    """
    looks, checks = ([m for m in metrics if name in m] for name in ("eval_accuracy", "check_cosine"))
    print(f"\njudge on {pairs} {s.eval_split} pairs, both orders{'':14}before   after")
    for name, key, form in (("accuracy", "accuracy", ".1%"), ("right in both orders", "both_orders", ".1%"),
                            ("verdict parsed", "parse_rate", ".1%"), ("tokens a judgment", "tokens", ".1f")):
        before, after = (look[f"eval_{key}"] for look in (looks[0], looks[-1]))
        print(f"  {name:<44}{before:>9{form}}{after:>8{form}}")

    print(f"\n{' × '.join(s.domain_key):<34}pairs  mean weight  effective size  visits  informed")
    means = {name: [np.mean([r[field] for r in members]) for field in ("weight", "visits", "informed")] for name, members in by_group(rows).items()}
    for name, members in sorted(by_group(rows).items(), key=lambda item: -means[item[0]][0]):
        a, (weight, visits, informed) = np.array([r["weight"] for r in members]), means[name]
        print(f"{name:<34}{len(a):>5}  {weight:>11.2f}  {a.sum() ** 2 / max((a * a).sum(), 1e-30):>14.1f}  {visits:>6.1f}  {informed:>8.1f}")

    if checks:
        error, correlation, predicted, realised = (np.mean([m[key] for m in checks]) for key in (
            "check_relative_error", "split_half_correlation", "meta_change_predicted", "meta_change_realised"))
        print(f"hypergradient, {len(checks)} checks: relative error {error:.1e} against separate backward passes, split-half correlation "
              f"{correlation:.2f},\n  change of the meta loss by a step {predicted:+.1e} predicted, {realised:+.1e} realised")
    never = sum(not r["informed"] for r in rows)
    print(f"{never} of {len(rows)} pairs never had judgments of both kinds: nothing of their own was learned about them")
    tiny = s.labelled in (str(TINY / "labelled.jsonl"), str(ROOT / "runs/tiny/labelled.jsonl"))
    files = "" if tiny else f" --problems {' '.join(s.problems)} --labelled {s.labelled} --max-new-tokens {s.max_new_tokens}"
    print(f"\nthe judge, weights.jsonl, metrics.jsonl and transcripts.jsonl are in {Path(s.out)}\n"
          f"next: python select.py{files} --judge {Path(s.out) / 'judge'}")


# ---------------------------------------------------------------- stage 4

def is_mixed(candidates):
    return len({c["passed"] for c in candidates}) == 2


def show(title, methods, problems, candidates, score, took, resampled, against, seed):
    """The table of all methods, pass@1 by group, and each judge's own figures.

    score[method][problem_id]: pass@1; took[method][problem_id]: the one candidate that it takes, for the test.
    resampled [problems, samples, methods]: pass@1 on other candidates and verdicts.
    """
    names, judged = list(methods), {m: judgments for m, (_, judgments) in methods.items() if judgments}
    mixed = [pid for pid in problems if is_mixed(candidates[pid])]
    values, on = np.array([[score[m][pid] for m in names] for pid in problems]), np.isin(list(problems), mixed)
    means, everywhere = values[on].mean(0), bootstrap(values, resampled, seed)
    on_mixed, random_, oracle = bootstrap(values[on], resampled[on], seed), names.index("random"), names.index("oracle")
    others, right = [m for m in names if m != against], {m: [took[m][pid]["passed"] for pid in mixed] for m in names}
    p = dict(zip(others, holm([mcnemar(right[against], right[m]) for m in others])))

    print(f"\n{title}: {len(problems)} problems, {len(mixed)} of them with passing and failing candidates\n")
    print(f"{'chosen by':<34}{'all: pass@1 %':>21}{'mixed: pass@1 %':>22}{'mixed, over random':>22}{'p':>8}{'gap closed':>12}")
    for k, m in enumerate(names):
        gap = (means[k] - means[random_]) / (means[oracle] - means[random_])
        over = interval(means[k] - means[random_], on_mixed[:, k] - on_mixed[:, random_], -1)
        print(f"{m:<34}{interval(values[:, k].mean(), everywhere[:, k]):>21}{interval(means[k], on_mixed[:, k]):>22}{over:>22}"
              f"{'' if m not in p else '< .001' if p[m] < 0.001 else f'{p[m]:.3f}':>8}{gap:>12.0%}")
    print("\nin brackets: 95 % bootstrap intervals over problems, candidates and verdicts\ngap closed: (method − random) / (oracle − random)"
          f"\np: exact McNemar test against “{against}” on one candidate a problem, Holm-corrected for {len(others)} comparisons")

    groups = defaultdict(list)
    for field in ("domain", "difficulty", "policy"):
        found = {pid: "+".join(sorted({c["policy"] for c in candidates[pid]})) if field == "policy" else problems[pid][field] for pid in mixed}
        for pid in mixed if len(set(found.values())) > 1 else ():
            groups[f"{field} {found[pid]}"].append(pid)
    if groups:
        print(f"\n{'mixed: pass@1 % of':<34}" + "".join(f"{group:>{len(group) + 2}}" for group in groups))
        print(f"{'problems':<34}" + "".join(f"{len(pids):>{len(group) + 2}}" for group, pids in groups.items()))
        for m in ["random", *judged, "oracle"]:
            print(f"{m:<34}" + "".join(f"{100 * np.mean([score[m][pid] for pid in pids]):>{len(group) + 2}.1f}" for group, pids in groups.items()))
    for m in judged:
        if any(judged[m].values()):
            print(f"\n{m}: {about(judged[m], candidates)}")


def of_mixed_pairs(judgments, candidates):
    """[(row, the verdict that would be right)] of the judgments between a passing and a failing program."""
    passed = {(pid, c["candidate_id"]): c["passed"] for pid in judgments for c in candidates[pid]}
    return [(row, "A" if passed[pid, row["a"]] else "B") for pid in judgments for row in judgments[pid]
            if passed[pid, row["a"]] != passed[pid, row["b"]]]


def about(judgments, candidates):
    """A judge's own figures, as text. The two orders of a pair stand side by side in its rows."""
    rows, decided = [row for pid in judgments for row in judgments[pid]], of_mixed_pairs(judgments, candidates)
    right, a_passed = np.array([row["verdict"] == want for row, want in decided]), np.array([want == "A" for _, want in decided])
    same = np.mean([{x["verdict"], y["verdict"]} == {"A", "B"} for x, y in zip(rows[0::2], rows[1::2])])
    parsed, cut = np.mean([row["verdict"] is not None for row in rows]), np.mean([not row["finished"] for row in rows])
    calls, tokens, seconds = (x / len(judgments) for x in (len(rows), spent(judgments), sum(row["seconds"] for row in rows)))
    pairs = (f"{right.mean():.1%} of mixed pairs ({right[a_passed].mean():.1%} where A passed, {right[~a_passed].mean():.1%} where B did, "
             f"{(right[0::2] & right[1::2]).mean():.1%} in both orders)") if len(right) else "no mixed pair, for it met none"
    return (f"right on {pairs},\n    same choice in both orders {same:.1%}, verdict parsed {parsed:.1%}, cut off {cut:.1%}; "
            f"{calls:.0f} calls, {tokens:.0f} tokens and {seconds:.2f} seconds a problem")


def spent(judgments):
    """Judge tokens."""
    return sum(row["tokens"] for pid in judgments for row in judgments[pid])


def waits(number):
    return f"{number} wait{'s' * (number > 1)}"


def show_waits(label, numbers, methods, score, candidates):
    """What each Wait changed in the judgments and in the choice, and what more votes for as many tokens make of it (J1's question)."""
    mixed, before, widths = [pid for pid in candidates if is_mixed(candidates[pid])], None, (13, 14, 14, 9, 10, 19, 10)
    heads = ("pairs right", "right->wrong", "wrong->right", "tokens", "pass@1 %", "votes, as many:", "pass@1 %")
    print(f"\n{label + ', thinking on':<34}" + "".join(f"{x:>{w}}" for x, w in zip(heads, widths)))
    for number in numbers:
        name = f"{label}, {waits(number)}" if number else label
        right = np.array([row["verdict"] == want for row, want in of_mixed_pairs(methods[name][1], candidates)])
        line = [right.mean(), *((np.nan, np.nan) if before is None else ((before & ~right).mean(), (~before & right).mean()))]
        line = ["" if np.isnan(x) else f"{x:.1%}" for x in line]
        for m in (name, f"{label}, tokens of {waits(number)}")[:2 if number else 1]:
            line += [f"{spent(methods[m][1]) / len(candidates):.0f}", f"{100 * np.mean([score[m][pid] for pid in mixed]):.1f}"]
        print(f"{waits(number) if number else 'none':<34}" + "".join(f"{x:>{w}}" for x, w in zip(line, widths)))
        before = right
    print("tokens a problem; pass@1 on mixed problems; right->wrong and wrong->right: share of mixed pairs since the line above")


def standing(ids, W, M, judgments):
    """The programs by the share of judgments that they won, {candidate_id: (won, judged)}, and the deciding judgment.

    W, M [n, n]: select.tally. The deciding judgment is the first that the winner won against the best-placed rival that it beat;
    None if it won none.
    """
    counts = {cid: (int(won), int(judged)) for cid, won, judged in zip(ids, W.sum(1), M.sum(1))}
    ranked = sorted(ids, key=lambda cid: -counts[cid][0] / max(counts[cid][1], 1))
    wins = [row for row in judgments if row["verdict"] and row[row["verdict"].lower()] == ranked[0]]
    return ranked, counts, min(wins, key=lambda row: ranked.index(row["b" if row["verdict"] == "A" else "a"]), default=None)


def explain(problem, programs, W, M, judgments, method):
    """Print a problem, its programs with their votes, and the transcript in which the choice beat its strongest rival."""
    row = {c["candidate_id"]: c for c in programs}
    ranked, counts, deciding = standing(list(row), W, M, judgments)
    print(f"{problem['problem_id']}\n\n{problem['prompt']}")
    for cid in ranked:
        won, of = counts[cid]
        print(f"--- {cid}: won {won} of {of} judgments ({method}); {'passed' if row[cid]['passed'] else 'failed'}")
        print(row[cid]["code"].rstrip())
    print("\nno judgment was needed" if deciding is None else
          f"\nthe deciding judgment (A is {deciding['a']}, B is {deciding['b']}):\n{deciding['text']}")
