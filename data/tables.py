"""The tables that stage 4 prints: made as rows, {column: text}, and printed by `print_table`."""
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from data.rows import asks_for_answers
from data.statistics import bootstrap, holm, interval, mcnemar
from data.text import well_formed


@dataclass
class Words:
    """What a table says of right and wrong candidates: programs are executed, answers are not."""
    right: str       # candidates
    wrong: str
    chosen: str      # how often a right one is chosen
    mixed: str       # a problem with both
    where_a: str     # judgments of mixed pairs where A is the right one
    where_b: str


PROGRAMS = Words("passed", "failed", "pass@1", "passing and failing candidates",
                 "where A passed", "where B did")
ANSWERS = Words("preferred", "not preferred", "preferred", "preferred and other answers",
                "where A is preferred", "where B is")


def words_for(problem):
    return ANSWERS if asks_for_answers(problem) else PROGRAMS


def print_table(rows):
    """Print rows of equal keys, {column: text}. The first column is set left, the others right."""
    widths = {}
    for column in rows[0]:
        widths[column] = max(len(text) for text in (column, *(row[column] for row in rows)))
    for row in ({column: column for column in widths}, *rows):
        first, *others = widths
        cells = [row[first].ljust(widths[first])]
        cells += [row[column].rjust(widths[column]) for column in others]
        print("  ".join(cells).rstrip())


def percent(values):
    """The mean of shares, as text; nothing for none."""
    return f"{100 * np.mean(values):.1f}" if len(values) else ""


def with_interval(mean, samples, least=0.0):
    """A share, or a difference of shares, and the middle 95 % of its bootstrap samples, in %."""
    low, high = interval(samples, least)
    return f"{100 * mean:.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"


# ---------------------------------------------------------------- methods

def methods_table(names, score, right, resampled, mixed, against, seed, words=PROGRAMS):
    """A row for each method: pass@1 with intervals, how far over random, p, the gap that it closes.

    score:     [problems, methods] pass@1.
    right:     [problems, methods] whether the one candidate that it takes passed; for the test.
    resampled: [problems, samples, methods] pass@1 on other candidates and verdicts.
    mixed:     [problems] whether a problem has passing and failing candidates.
    against:   the method that p compares the others with.
    """
    on_all = bootstrap(score, resampled, seed)                        # [draws, methods]
    on_mixed = bootstrap(score[mixed], resampled[mixed], seed)        # [draws, methods]
    mean = score[mixed].mean(0)                                       # [methods]
    random = names.index("random")
    oracle = names.index("oracle")
    p = p_values(names, right[mixed], against)

    rows = []
    for k, name in enumerate(names):
        over = mean[k] - mean[random]
        over_samples = on_mixed[:, k] - on_mixed[:, random]
        rows.append({
            "chosen by": name,
            f"all: {words.chosen} %": with_interval(score[:, k].mean(), on_all[:, k]),
            f"mixed: {words.chosen} %": with_interval(mean[k], on_mixed[:, k]),
            "mixed, over random": with_interval(over, over_samples, least=-1),
            "p": p[name],
            "gap closed": f"{over / (mean[oracle] - mean[random]):.0%}",
        })
    return rows


def p_values(names, right, against):
    """{method: p of comparing it with `against`, as text}; right [problems, methods]."""
    others = [name for name in names if name != against]
    ps = []
    for name in others:
        ps.append(mcnemar(right[:, names.index(against)], right[:, names.index(name)]))
    shown = {against: ""}
    for name, p in zip(others, holm(ps)):
        shown[name] = "< .001" if p < 0.001 else f"{p:.3f}"
    return shown


def groups_table(names, score, groups, words=PROGRAMS):
    """A row for each method with its pass@1 in groups of problems.

    score: {(method, problem_id): pass@1}.   groups: {group: problem ids}, see `group_problems`.
    """
    first = f"mixed: {words.chosen} % of"
    rows = [{first: "problems", **{group: str(len(pids)) for group, pids in groups.items()}}]
    for name in names:
        row = {first: name}
        for group, pids in groups.items():
            row[group] = percent([score[name, pid] for pid in pids])
        rows.append(row)
    return rows


def sizes_table(names, rows, words=PROGRAMS):
    """A row for each method with its pass@1 on all problems, by how many candidates it saw.

    rows: of selections.jsonl.
    """
    passed = defaultdict(list)    # {(method, N): pass@1 of each problem}
    for row in rows:
        passed[row["method"], row["n"]].append(row["passed"])
    sizes = sorted({row["n"] for row in rows})
    table = []
    for name in names:
        row = {f"all: {words.chosen} % of": name}
        for n in sizes:
            row[f"the first {n}"] = percent(passed[name, n])
        table.append(row)
    return table


def group_problems(pids, problems, candidates):
    """{"difficulty easy": problem ids, ...} by domain, difficulty and policy where they differ."""
    groups = defaultdict(list)
    for field in ("domain", "difficulty", "policy"):
        value = {}
        for pid in pids:
            if field == "policy":
                policies = {candidate["policy"] for candidate in candidates[pid]}
                value[pid] = "+".join(sorted(policies))
            else:
                value[pid] = problems[pid][field]
        if len(set(value.values())) > 1:
            for pid in pids:
                groups[f"{field} {value[pid]}"].append(pid)
    return groups


# ---------------------------------------------------------------- judges

def tokens_of(judgments):
    """What judgments cost, {problem_id: rows of judgments.jsonl}."""
    return sum(row["tokens"] for rows in judgments.values() for row in rows)


def passed_of(candidates):
    """{candidate_id: did it pass?} of a problem's candidates."""
    return {candidate["candidate_id"]: candidate["passed"] for candidate in candidates}


def right_verdicts(judgments, candidates):
    """{(problem_id, draw, a, b): is it right?} of judgments on a passing and a failing program."""
    right = {}
    for pid, rows in judgments.items():
        passed = passed_of(candidates[pid])
        for row in rows:
            if passed[row["a"]] != passed[row["b"]]:
                answer = "A" if passed[row["a"]] else "B"
                right[pid, row["draw"], row["a"], row["b"]] = row["verdict"] == answer
    return right


def same_choices(rows):
    """For each pair that was judged in both orders: is the same program chosen in both?"""
    verdict = {}
    for row in rows:
        verdict[row["problem_id"], row["draw"], row["a"], row["b"]] = row["verdict"]
    same = []
    for pid, draw, a, b in verdict:
        if a < b:   # each pair once
            # "A" of a against b, and "B" of b against a, are the same choice
            same.append({verdict[pid, draw, a, b], verdict[pid, draw, b, a]} == {"A", "B"})
    return same


def judges_table(judged, candidates, words=PROGRAMS):
    """A row for each method that asked a judge, with what the judge said and cost.

    judged: {method: {problem_id: rows of judgments.jsonl}}.
    """
    table = []
    for name, judgments in judged.items():
        rows = [row for rows in judgments.values() for row in rows]
        if not rows:
            continue
        right = right_verdicts(judgments, candidates)
        where_a_passed = []
        where_b_passed = []
        in_both_orders = []
        for (pid, draw, a, b), is_right in right.items():
            if passed_of(candidates[pid])[a]:
                where_a_passed.append(is_right)
                in_both_orders.append(is_right and right[pid, draw, b, a])
            else:
                where_b_passed.append(is_right)
        problems = len(judgments)
        table.append({
            "judgments, %": name,
            "right": percent(list(right.values())),
            words.where_a: percent(where_a_passed),
            words.where_b: percent(where_b_passed),
            "in both orders": percent(in_both_orders),
            "same choice": percent(same_choices(rows)),
            "parsed": percent([row["verdict"] is not None for row in rows]),
            "cut off": percent([not row["finished"] and "refused" not in row for row in rows]),
            "refused": percent(["refused" in row for row in rows]),
            "calls": f"{len(rows) / problems:.0f}",
            "tokens": f"{tokens_of(judgments) / problems:.0f}",
            "seconds": f"{sum(row['seconds'] for row in rows) / problems:.2f}",
        })
    return table


def waits_name(count):
    """How a method that thinks on is called: "1 wait", "2 waits"."""
    return f"{count} wait" if count == 1 else f"{count} waits"


def control_name(count):
    """How its control is called, more rounds for as many tokens: "tokens of 2 waits"."""
    return f"tokens of {waits_name(count)}"


def waits_table(label, counts, judged, score, candidates, mixed, words=PROGRAMS):
    """A row for each number of waits: what they changed, and what votes for as many tokens choose.

    counts: numbers of waits, ascending, from 0.   judged: as in `judges_table`.
    score:  {(method, problem_id): pass@1}.        mixed:  ids of the mixed problems.
    """
    table = []
    before = None
    for count in counts:
        name = f"{label}, {waits_name(count)}" if count else label
        right = right_verdicts(judged[name], candidates)
        row = {
            f"{label}, thinking on": waits_name(count) if count else "none",
            "pairs right": percent(list(right.values())),
            "right->wrong": "",
            "wrong->right": "",
            "tokens": cost(judged[name]),
            f"{words.chosen} %": percent([score[name, pid] for pid in mixed]),
            "votes: tokens": "",
            f"votes: {words.chosen} %": "",
        }
        if count:
            control = f"{label}, {control_name(count)}"
            row["right->wrong"] = percent([before[key] and not right[key] for key in right])
            row["wrong->right"] = percent([right[key] and not before[key] for key in right])
            row["votes: tokens"] = cost(judged[control])
            row[f"votes: {words.chosen} %"] = percent([score[control, pid] for pid in mixed])
        table.append(row)
        before = right
    return table


def cost(judgments):
    return f"{tokens_of(judgments) / len(judgments):.0f}"


def print_explanation(problem, candidates, method, votes, ranked, deciding):
    """Print a problem, its candidates with their votes, and the judgment that decided.

    candidates: {candidate_id: row}.   votes: {candidate_id: (won, judged)}.
    ranked:     candidate ids, the winner first.   deciding: a row of judgments.jsonl, or None.
    """
    words = words_for(problem)
    print(well_formed(f"{problem['problem_id']}\n\n{problem['prompt']}"))
    for candidate_id in ranked:
        won, judged = votes[candidate_id]
        outcome = words.right if candidates[candidate_id]["passed"] else words.wrong
        print(f"--- {candidate_id}: won {won} of {judged} judgments ({method}); {outcome}")
        print(well_formed(candidates[candidate_id]["code"].rstrip()))
    if deciding is None and any(judged for _, judged in votes.values()):
        print("\nno judgment has a verdict for it")
    elif deciding is None:
        print("\nno judgment was needed")
    else:
        print(f"\nthe deciding judgment (A is {deciding['a']}, B is {deciding['b']}):")
        print(well_formed(deciding["text"]))
