"""The README's results from the files of reproduce.sh: tables on the terminal, docs/training.png, docs/selection.png.

    python docs/figures.py runs/results                        training: reads METHOD-SEED/{metrics,transcripts,weights,selections}.jsonl
    python docs/figures.py runs/tiny/selections.jsonl ...      selection: accuracy against N and against judge tokens

The second reads what `python select.py --aggregate rounds round-robin knockout --waits 1 2 4 --n 1 2 4 8` wrote, one file or one
for each seed. Needs matplotlib.
"""
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data.rows import UserError, read_rows  # noqa: E402
from data.tables import waits  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

METHODS = ["uniform", "shuffled", "net", "domain", "instance", "oracle"]
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # Student's t, n − 1 degrees


def mean_interval(values, unit=100):
    """Mean over seeds with its 95 % t-interval, as text."""
    values = unit * np.array(values)
    half = T_95[len(values)] * values.std(ddof=1) / np.sqrt(len(values)) if len(values) in T_95 else float("nan")
    return f"{values.mean():.1f} ± {half:.1f}"


def paired_bootstrap(a, b, draws=10000):
    """Mean of a − b, both [seeds, problems], with a 95 % interval: problems resampled, the same ones in every seed."""
    difference = 100 * (np.array(a) - np.array(b)).mean(0)
    pick = np.random.default_rng(0).integers(0, len(difference), (draws, len(difference)))
    low, high = np.percentile(difference[pick].mean(1), [2.5, 97.5])
    return f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def auc(positive, negative):
    """Area under the ROC curve: how often a positive outranks a negative."""
    p, n = np.array(positive)[:, None], np.array(negative)[None]
    return float((p > n).mean() + 0.5 * (p == n).mean())


def selections(path):
    """Rows of a selections.jsonl that chose among all candidates (select.py --n adds smaller choices)."""
    rows = read_rows(path)
    most = max(row["n"] for row in rows)
    return [row for row in rows if row["n"] == most]


def mixed_problems(rows):
    """Problems of a selections.jsonl with passing and failing candidates."""
    return {r["problem_id"] for r in rows if r["method"] == "oracle" and r["passed"] > 0.5} & \
        {r["problem_id"] for r in rows if r["method"] == "random" and r["passed"] < 1 - 1e-9}


def load(folder):
    runs = defaultdict(list)
    for method in METHODS:
        for path in sorted(p for p in folder.glob(f"{method}-*") if p.is_dir()):
            runs[method].append({name: read_rows(path / f"{name}.jsonl") for name in ("metrics", "transcripts", "weights")}
                                | {"selections": selections(path / "selections.jsonl")})
    if not all(runs[m] for m in METHODS):
        raise UserError(f"{folder}: expected runs of {', '.join(METHODS)}; make them with bash reproduce.sh")
    return runs


def last_look(run):
    """Accuracy on each problem's pairs at the end: {problem: mean over pairs and orders}."""
    last, right = max(t["step"] for t in run["transcripts"]), defaultdict(list)
    for t in run["transcripts"]:
        if t["step"] == last:
            right[t["instance_id"].split(":")[0]].append(t["verdict"] == t["right"])
    return {problem: np.mean(values) for problem, values in sorted(right.items())}


def best_of_n(rows, mixed, method="judge, trained"):
    return {r["problem_id"]: r["passed"] for r in sorted(rows, key=lambda r: r["problem_id"]) if r["method"] == method and r["problem_id"] in mixed}


def main(folder):
    runs = load(folder)
    pick = runs["uniform"][0]["selections"]
    mixed = mixed_problems(pick)
    untrained = selections(folder / "untrained" / "selections.jsonl")
    # the evaluation pairs depend on the seed, so problems are compared within a seed; take those that all seeds share
    shared = set.intersection(*(set(last_look(run)) for m in METHODS for run in runs[m]))
    pairs_shared = {m: [[last_look(run)[p] for p in sorted(shared)] for run in runs[m]] for m in METHODS}
    chosen = {m: [list(best_of_n(run["selections"], mixed).values()) for run in runs[m]] for m in METHODS}

    print(f"{len(runs['uniform'])} seeds; {len(mixed)} test problems with mixed outcomes\n")
    print("| weights | target pair accuracy, % | over uniform | Best-of-8, mixed problems, % | over uniform | tokens a judgment |")
    print("|---|---|---|---|---|---|")
    first = [[m for m in run["metrics"] if "eval_accuracy" in m][0] for run in runs["uniform"]]
    before = np.mean(list(best_of_n(untrained, mixed).values()))
    print(f"| untrained | {mean_interval([f['eval_accuracy'] for f in first])} | | {100 * before:.1f} | | {np.mean([f['eval_tokens'] for f in first]):.0f} |")
    for m in METHODS:
        last = [[x for x in run["metrics"] if "eval_accuracy" in x][-1] for run in runs[m]]
        over = ["", ""] if m == "uniform" else [paired_bootstrap(pairs_shared[m], pairs_shared["uniform"]), paired_bootstrap(chosen[m], chosen["uniform"])]
        print(f"| {m} | {mean_interval([x['eval_accuracy'] for x in last])} | {over[0]} | {mean_interval([np.mean(c) for c in chosen[m]])} "
              f"| {over[1]} | {np.mean([x['eval_tokens'] for x in last]):.0f} |")
    for m in METHODS:
        print(f"seeds, {m}: " + " ".join(f"{100 * [x for x in run['metrics'] if 'eval_accuracy' in x][-1]['eval_accuracy']:.0f}" for run in runs[m]))

    print("\n| weights | mean weight: weak | strong | lying | AUC target-like against the rest | AUC clean against lying, informed ≥ 3 times |")
    print("|---|---|---|---|---|---|")
    for m in ("net", "domain", "instance"):
        table = defaultdict(list)
        for run in runs[m]:
            w = [(source(r["group"]), r["weight"], r["informed"]) for r in run["weights"]]
            for name in ("weak", "strong", "lying"):
                table[name].append(np.mean([a for s, a, _ in w if s == name]))
            table["like"].append(auc([a for s, a, _ in w if s == "strong"], [a for s, a, _ in w if s != "strong"]))
            clean, lying = ([a for s, a, k in w if (s == "lying") == lie and k >= 3] for lie in (False, True))
            if clean and lying:
                table["clean"].append(auc(clean, lying))
        print(f"| {m} | " + " | ".join(f"{np.mean(table[k]):.2f}" for k in ("weak", "strong", "lying", "like", "clean")) + " |")

    print("\nseconds a step (median): " + ", ".join(f"{m} {np.median([sum(x['seconds'].values()) for run in runs[m] for x in run['metrics'] if 'seconds' in x]):.2f}" for m in METHODS))
    if list(folder.glob("waits-*")):
        waits_table(folder)
        draw_selection([path / "selections.jsonl" for path in sorted(folder.glob("waits-rl-*"))])
    draw(runs)
    transcripts(runs["instance"][0])


def waits_table(folder):
    """J1's table: pass@1 on mixed problems for each judge and number of waits, beside votes for as many tokens."""
    names = {"base": "base", "cold": "cold-started", "rl": "RL-trained (instance)"}
    table = {}
    for name in names:
        runs = [selections(path / "selections.jsonl") for path in sorted(folder.glob(f"waits-{name}-*"))]
        mixed = [mixed_problems(rows) for rows in runs]
        for count in (0, 1, 2, 4):
            think = f", {waits(count)}" if count else ""
            for way, method in (("think", "judge, trained" + think), ("vote", "judge, trained" + think.replace(", ", ", tokens of "))):
                cells = [[r for r in rows if r["method"] == method] for rows in runs]
                table[name, count, way] = (mean_interval([np.mean([r["passed"] for r in cell if r["problem_id"] in m]) for cell, m in zip(cells, mixed)]),
                                           np.mean([r["judge_tokens"] for cell in cells for r in cell]))
    print(f"\n| waits | {' | '.join(f'{n}: thinking on | {n}: as many tokens in votes' for n in names.values())} |\n" + "|---" * 7 + "|")
    for count in (0, 1, 2, 4):
        cells = (f"{table[name, count, way][0]} ({table[name, count, way][1]:.0f})" for name in names for way in ("think", "vote"))
        print(f"| {count} | " + " | ".join(cells) + " |")


def source(group):
    return "lying" if group.startswith("scraped") else "strong" if group.endswith("strong") else "weak"


def draw(runs):
    """Target accuracy, share of tracing and mean weight by source over the steps: a line for the mean, one for each seed."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2))
    colours = {"uniform": "#888888", "shuffled": "#bbbbbb", "net": "#b07aa1", "domain": "#4e79a7", "instance": "#e15759", "oracle": "#59a14f"}
    for method in METHODS:
        accuracy, traced = [], []
        for run in runs[method]:
            looks = [m for m in run["metrics"] if "eval_accuracy" in m]
            steps = [m["step"] for m in looks]
            accuracy.append([100 * m["eval_accuracy"] for m in looks])
            share = defaultdict(list)
            for t in run["transcripts"]:
                share[t["step"]].append(100 * t["text"].startswith("trace"))
            traced.append([np.mean(share[s]) for s in steps])
        for axis, lines in ((left, accuracy), (middle, traced)):
            for line in lines:
                axis.plot(steps, line, color=colours[method], alpha=0.2, lw=0.8)
            axis.plot(steps, np.mean(lines, 0), color=colours[method], lw=2, label=method + (" (clean, target-like pairs only)" if method == "oracle" else ""))
    by_source = {"strong": "target-like (strong policy)", "weak": "weak policy", "lying": "lying tests"}
    for name, colour in zip(by_source, ("#e15759", "#4e79a7", "#888888")):
        lines = []
        for run in runs["instance"]:
            counts = defaultdict(int)
            for r in run["weights"]:
                counts[r["group"]] += 1
            rows = [m["weight"] for m in run["metrics"] if "weight" in m]
            mine = [g for g in counts if source(g) == name]
            lines.append([1.0] + [sum(w[g] * counts[g] for g in mine) / sum(counts[g] for g in mine) for w in rows])
        for line in lines:
            right.plot(line, color=colour, alpha=0.2, lw=0.8)
        right.plot(np.mean(lines, 0), color=colour, lw=2, label=by_source[name])
    for axis, title in ((left, "accuracy on target pairs, %"), (middle, "judgments that trace, %"), (right, "mean learned weight (instance)")):
        axis.set_title(title, loc="left")
        axis.set_xlabel("step")
    left.axhline(50, color="black", lw=0.5, ls=":")
    right.axhline(1, color="black", lw=0.5, ls=":")
    middle.legend(frameon=False, fontsize=7, loc="upper left")
    right.legend(frameon=False, fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("training.png"), dpi=130)
    print(f"\nwrote {Path(__file__).with_name('training.png')}")


def selection_curves(rows):
    """Rows of selections.jsonl -> ({method: [(N, pass@1)]}, {method: [(judge tokens, pass@1)]}), means over problems.

    With a judge that votes in rounds the second holds a point for each number of rounds, else one; it is of the largest N.
    """
    cells, most = defaultdict(list), max(row["n"] for row in rows)
    for row in rows:
        cells[row["method"], row["n"]].append(row)
    by_n, by_tokens = defaultdict(list), {}
    for (method, n), group in sorted(cells.items(), key=lambda cell: cell[0][1]):
        by_n[method].append((n, np.mean([row["passed"] for row in group])))
        if n == most and "judge_tokens" in group[0]:
            ends = [(row["judge_tokens"], row["passed"]) for row in group]
            rounds = max(len(row.get("by_round", [])) for row in group) if method.count(", ") == 1 else 0
            # a problem whose programs are all alike has no rounds: nothing is spent on it, however much on the others
            curves = [row.get("by_round") or [end] * rounds for row, end in zip(group, ends)] if rounds else [[end] for end in ends]
            by_tokens[method] = [tuple(np.mean([curve[k] for curve in curves], 0)) for k in range(max(rounds, 1))]
    return by_n, by_tokens


def draw_selection(paths, out=Path(__file__).with_name("selection.png")):
    """pass@1 against N for every way of choosing, and against judge tokens: more rounds, more thought, other aggregators."""
    runs = [selection_curves(read_rows(path)) for path in paths]
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    judges = sorted({m for _, by_tokens in runs for m in by_tokens if m.count(", ") == 1})
    colours = dict(zip(judges, ("#4e79a7", "#e15759", "#59a14f")))
    names = [m for m in runs[0][0] if m in judges or m not in runs[0][1]]
    greys = iter(plt.cm.viridis(np.linspace(0, 0.9, len(names))))
    for m in names:
        curve = np.mean([by_n[m] for by_n, _ in runs], 0)
        left.plot(curve[:, 0], 100 * curve[:, 1], color=colours.get(m) or next(greys), lw=2 if m in judges else 1, marker=".",
                  ls="-" if m in judges else "--", label=m)
    marks = {"wait": "s", "tokens of": "x", "round-robin": "D", "knockout": "^"}
    for m in runs[0][1]:
        curve, judge = np.mean([by_tokens[m] for _, by_tokens in runs], 0), next(j for j in judges if m.startswith(j))
        mark = next((mark for word, mark in marks.items() if word in m and (word != "wait" or "tokens" not in m)), None)
        right.plot(curve[:, 0], 100 * curve[:, 1], color=colours[judge], marker=mark or ".", ls="-" if mark is None else "",
                   label=m + (", 1 to R rounds" if mark is None else ""))
    for axis, title, label in ((left, "pass@1, %, choosing among N", "N"), (right, "pass@1, %, by what the judge spends", "judge tokens a problem")):
        axis.set_title(title, loc="left")
        axis.set_xlabel(label)
        axis.legend(frameon=False, fontsize=6)
    left.set_xscale("log", base=2)
    sizes = [n for n, _ in runs[0][0]["random"]]
    left.set_xticks(sizes, labels=sizes)
    right.set_xscale("log")
    figure.tight_layout()
    figure.savefig(out, dpi=130)
    print(f"wrote {out}")


def transcripts(run):
    """One pair before and after: wrong at first by skimming, right at last by tracing."""
    rows, last = defaultdict(dict), max(t["step"] for t in run["transcripts"])
    for t in run["transcripts"]:
        rows[t["instance_id"], t["right"]][t["step"]] = t
    for (pair, right), looks in rows.items():
        if looks[0]["verdict"] != right and looks[last]["verdict"] == right and looks[last]["text"].startswith("trace"):
            print(f"\n{pair}, right is {right}\n--- before\n{looks[0]['text']}\n--- after\n{looks[last]['text']}")
            return


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if Path(sys.argv[1]).is_dir():
        main(Path(sys.argv[1]))
    else:
        draw_selection(sys.argv[1:])
