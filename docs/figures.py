"""The results of reproduce.sh: tables on the terminal, three figures in docs/.

    python docs/figures.py runs/results

Reads METHOD-SEED/{metrics,transcripts,weights,selections}.jsonl, meta-SIZE-METHOD-SEED/metrics.jsonl
and thinking-JUDGE-SEED.jsonl. Needs matplotlib.
"""
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import flags  # noqa: E402
from data.rows import UserError, read_rows  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = {  # a training method each
    "uniform": "#888888",
    "shuffled": "#bbbbbb",
    "meta": "#edc948",
    "both": "#f28e2b",
    "net": "#b07aa1",
    "domain": "#4e79a7",
    "instance": "#e15759",
    "oracle": "#59a14f",
}
NAMES = {
    "shuffled": "shuffled: the weights of `instance`, dealt to other pairs",
    "meta": "none: trained on the meta set",
    "both": "none: trained on both, mixed",
    "oracle": "oracle: only the clean, target-like pairs",
}
METHODS = list(COLOURS)
LEARNED = ("net", "domain", "instance")
# What the paper says the weights favour: (name, field, favoured value, other value, what both share)
SIGNS = (
    ("hard above easy", "difficulty", "hard", "easy", {"domain": "reviewed", "policy": "strong"}),
    ("target-like domain above other", "domain", "reviewed", "scraped",
     {"difficulty": "hard", "policy": "strong"}),
    ("deployed policy above cheap one", "policy", "strong", "weak",
     {"difficulty": "hard", "domain": "reviewed"}),
)
JUDGES = {  # of the thinking: name, colour
    "base": ("base", "#888888"),
    "cold": ("cold-started", "#edc948"),
    "plain": ("RL without Waits", "#4e79a7"),
    "rl": ("RL", "#f28e2b"),
    "coldrl": ("cold start, then RL", "#e15759"),
}
# Student's t for a two-sided 95 % interval, by the number of values (n − 1 degrees of freedom)
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


# ---------------------------------------------------------------- numbers

def mean_interval(shares):
    """Mean of shares over seeds with its 95 % t-interval, in percent, as text."""
    values = 100 * np.array(shares)
    half = float("nan")
    if len(values) in T_95:
        half = T_95[len(values)] * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


def paired_bootstrap(a, b, draws=10000):
    """Mean of a − b, both [seeds, problems], with a 95 % interval over problems, as text.

    Every seed has the same problems, so they are drawn for all seeds at once.
    """
    difference = 100 * (np.array(a) - np.array(b)).mean(0)                # [problems]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(difference), (draws, len(difference)))    # [draws, problems]
    low, high = np.percentile(difference[drawn].mean(1), [2.5, 97.5])
    return f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def auc(positive, negative):
    """Area under the ROC curve: how often a positive outranks a negative."""
    p = np.array(positive)[:, None]
    n = np.array(negative)[None]
    return float((p > n).mean() + 0.5 * (p == n).mean())


def print_markdown(rows):
    """Print rows of equal keys, {column: text}, as a table of Markdown."""
    columns = list(rows[0])
    print("\n| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(row[column] for column in columns) + " |")


# ---------------------------------------------------------------- reading

def selections(path):
    """Rows of a selections.jsonl that chose among all candidates (--n adds smaller choices)."""
    rows = read_rows(path)
    most = max(row["n"] for row in rows)
    return [row for row in rows if row["n"] == most]


def mixed_problems(rows):
    """Problems of a selections.jsonl with passing and failing candidates."""
    some_pass = set()
    some_fail = set()
    for row in rows:
        if row["method"] == "oracle" and row["passed"] > 0.5:
            some_pass.add(row["problem_id"])
        if row["method"] == "random" and row["passed"] < 1 - 1e-9:
            some_fail.add(row["problem_id"])
    return some_pass & some_fail


def load(folder):
    """{method: its runs, one for each seed}; a run is {file: rows}."""
    runs = defaultdict(list)
    for method in METHODS:
        for path in sorted(folder.glob(f"{method}-*")):
            if path.is_dir():
                run = {"selections": selections(path / "selections.jsonl")}
                for name in ("metrics", "transcripts", "weights"):
                    run[name] = read_rows(path / f"{name}.jsonl")
                runs[method].append(run)
    if not all(runs[method] for method in METHODS):
        raise UserError(f"{folder}: expected runs of {', '.join(METHODS)}; "
                        "make them with bash reproduce.sh")
    return runs


def evaluations(run):
    """The rows of metrics.jsonl at which the judge was evaluated, the first before training."""
    return [row for row in run["metrics"] if "eval_accuracy" in row]


def last_accuracy(run):
    """Accuracy on each problem's pairs at the end: {problem_id: mean over pairs and orders}."""
    last = max(row["step"] for row in run["transcripts"])
    right = defaultdict(list)
    for row in run["transcripts"]:
        if row["step"] == last:
            problem_id = row["instance_id"].split(":")[0]
            right[problem_id].append(row["verdict"] == row["right"])
    return {problem_id: np.mean(values) for problem_id, values in sorted(right.items())}


def passed_by(method, rows, problem_ids):
    """pass@1 of a method's choices on these problems, in the order of their ids."""
    passed = {row["problem_id"]: row["passed"] for row in rows if row["method"] == method}
    return [passed[problem_id] for problem_id in sorted(passed) if problem_id in problem_ids]


# ---------------------------------------------------------------- tables

def accuracy_table(runs, untrained, mixed):
    """Accuracy on target pairs and Best-of-N of every method, and how far over uniform weights."""
    # The evaluation pairs depend on the seed. Problems are compared within a seed: those in all seeds.
    accuracy = {method: [last_accuracy(run) for run in runs[method]] for method in METHODS}
    shared = set.intersection(*(set(run) for of_method in accuracy.values() for run in of_method))
    on_pairs = {}     # {method: [seeds, problems]}
    best_of_n = {}    # {method: [seeds, problems]}
    for method in METHODS:
        on_pairs[method] = [[run[pid] for pid in sorted(shared)] for run in accuracy[method]]
        best_of_n[method] = []
        for run in runs[method]:
            best_of_n[method].append(passed_by("judge, trained", run["selections"], mixed))

    first = [evaluations(run)[0] for run in runs["uniform"]]
    before = passed_by("judge, trained", untrained, mixed)   # named so, for it was given as --judge
    rows = [{
        "weights": "untrained",
        "target pair accuracy, %": mean_interval([row["eval_accuracy"] for row in first]),
        "pairs over uniform": "",
        "Best-of-8, mixed problems, %": f"{100 * np.mean(before):.1f}",
        "Best-of-8 over uniform": "",
        "tokens a judgment": f"{np.mean([row['eval_tokens'] for row in first]):.0f}",
    }]
    for method in METHODS:
        last = [evaluations(run)[-1] for run in runs[method]]
        chosen = [np.mean(passed) for passed in best_of_n[method]]
        row = {
            "weights": method,
            "target pair accuracy, %": mean_interval([row["eval_accuracy"] for row in last]),
            "pairs over uniform": "",
            "Best-of-8, mixed problems, %": mean_interval(chosen),
            "Best-of-8 over uniform": "",
            "tokens a judgment": f"{np.mean([row['eval_tokens'] for row in last]):.0f}",
        }
        if method != "uniform":
            row["pairs over uniform"] = paired_bootstrap(on_pairs[method], on_pairs["uniform"])
            over = paired_bootstrap(best_of_n[method], best_of_n["uniform"])
            row["Best-of-8 over uniform"] = over
        rows.append(row)
    return rows


def signs_table(runs):
    """How many times as heavy the favoured pairs are, all else equal: a number for each seed."""
    rows = []
    for method in LEARNED:
        row = {"weights": method}
        for name, field, favoured, other, shared in SIGNS:
            ratios = []
            for run in runs[method]:
                alike = [pair for pair in run["weights"] if shared.items() <= pair.items()]
                means = {}
                for value in (favoured, other):
                    means[value] = np.mean([p["weight"] for p in alike if p[field] == value])
                ratios.append(means[favoured] / means[other])
            n_held = sum(ratio > 1 for ratio in ratios)
            shown = " ".join(f"{ratio:.1f}" for ratio in ratios)
            row[name] = f"{n_held} of {len(ratios)} (× {shown})"
        rows.append(row)
    return rows


def meta_table(folder, runs):
    """Target accuracy against the number of meta problems: (rows, {method: {size: values}})."""
    curves = {method: defaultdict(list) for method in ("meta", "both", "instance")}
    for path in sorted(folder.glob("meta-*")):
        _, size, method, _ = path.name.split("-")
        curves[method][int(size)].append(final_accuracy(read_rows(path / "metrics.jsonl")))
    rows = []
    for size in sorted(curves["instance"]):
        row = {"meta problems": str(size)}
        for method, by_size in curves.items():
            row[NAMES.get(method, method)] = mean_interval(by_size[size])
        rows.append(row)
    return rows, curves


def final_accuracy(metrics):
    return [row for row in metrics if "eval_accuracy" in row][-1]["eval_accuracy"]


# ---------------------------------------------------------------- thinking

def thinking(folder):
    """{judge: a list of rows for each seed}"""
    found = {}
    for judge in JUDGES:
        paths = sorted(folder.glob(f"thinking-{judge}-*.jsonl"))
        found[judge] = [read_rows(path) for path in paths]
    return found


def after_waits(rows):
    """[waits + 1] shares right, and tokens, after 0, 1, ... forced Waits."""
    right = [[said["verdict"] == row["right"] for said in row["waits"]] for row in rows]
    tokens = [[said["tokens"] for said in row["waits"]] for row in rows]
    return np.mean(right, 0), np.mean(tokens, 0)


def by_votes(rows):
    """[votes] shares right of a majority of 1, 2, ... judgments, a tie counting half; and tokens."""
    shares = []
    tokens = []
    most = len(rows[0]["votes"])
    for n in range(1, most + 1):
        of_row = []
        for row in rows:
            verdicts = [vote["verdict"] for vote in row["votes"][:n]]
            right = verdicts.count(row["right"])
            wrong = sum(verdict not in (row["right"], None) for verdict in verdicts)
            of_row.append(0.5 + 0.5 * np.sign(right - wrong))
        shares.append(np.mean(of_row))
        tokens.append(np.mean([sum(v["tokens"] for v in row["votes"][:n]) for row in rows]))
    return np.array(shares), np.array(tokens)


def votes_for(tokens, shares, costs):
    """Accuracy of votes that cost as much, between two numbers of votes on a straight line."""
    return float(np.interp(tokens, costs, shares))


def thinking_table(found):
    rows = []
    for judge, seeds in found.items():
        row = {"judge": JUDGES[judge][0]}
        curves = [after_waits(rows_of_seed) for rows_of_seed in seeds]
        for n in range(len(curves[0][0])):
            row[f"{n} Waits"] = mean_interval([shares[n] for shares, _ in curves])
        rise = [100 * (shares[2] - shares[0]) for shares, _ in curves]
        row["from 0 to 2, by seed"] = " ".join(f"{value:+.1f}" for value in rise)
        at_equal = []
        for rows_of_seed, (_, tokens) in zip(seeds, curves):
            at_equal.append(votes_for(tokens[2], *by_votes(rows_of_seed)))
        row["votes for the tokens of 2"] = mean_interval(at_equal)
        for name in ("natural", "cut"):
            row[name] = mean_interval([share_right(name, rows_of_seed) for rows_of_seed in seeds])
        rows.append(row)
    return rows


def share_right(name, rows):
    return np.mean([row[name]["verdict"] == row["right"] for row in rows])


def looks_table(found):
    """How a judge looks: skims, examples that it tries, whether the first one tells."""
    rows = []
    for judge, seeds in found.items():
        skims, looks, tells, chance = [], [], [], []
        for rows_of_seed in seeds:
            natural = [row["natural"]["text"] for row in rows_of_seed]
            skims.append(np.mean([text.startswith("skim") for text in natural]))
            looks.append(np.mean([text.count("try ") for text in natural]))
            tells.append(np.mean(first_tells(rows_of_seed)))
            chance.append(np.mean([np.mean(list(row["examples"].values())) for row in rows_of_seed]))
        rows.append({
            "judge": JUDGES[judge][0],
            "skims at first, %": mean_interval(skims),
            "examples tried": f"{np.mean(looks):.2f}",
            "the first one tells, %": mean_interval(tells),
            "of a random one": mean_interval(chance),
        })
    return rows


def first_tells(rows):
    """For each judgment that begins with an example of the statement: does it tell A from B?"""
    told = []
    for row in rows:
        words = row["natural"]["text"].split()
        if words[:1] == ["try"] and words[1] in row["examples"]:
            told.append(row["examples"][words[1]])
    return told


# ---------------------------------------------------------------- all of it

def print_results(folder):
    """Print the tables of the runs in a folder, and draw the figures."""
    runs = load(folder)
    mixed = mixed_problems(runs["uniform"][0]["selections"])
    untrained = selections(folder / "untrained" / "selections.jsonl")

    print(f"{len(runs['uniform'])} seeds; {len(mixed)} test problems with mixed outcomes")
    print_markdown(accuracy_table(runs, untrained, mixed))
    print_markdown(signs_table(runs))
    medians = []
    for method in METHODS:
        steps = [row for run in runs[method] for row in run["metrics"] if "seconds" in row]
        medians.append(f"{method} {np.median([sum(row['seconds'].values()) for row in steps]):.2f}")
    print("\nseconds a step (median): " + ", ".join(medians))
    draw_training(runs)
    print_transcripts(runs["instance"][0])

    rows, curves = meta_table(folder, runs)
    if rows:
        print_markdown(rows)
    found = thinking(folder)
    if all(found.values()):
        print_markdown(thinking_table(found))
        print_markdown(looks_table(found))
        draw_thinking(found)


def print_transcripts(run):
    """One pair before and after: wrong at first by skimming, right at last by trying an example."""
    last = max(row["step"] for row in run["transcripts"])
    by_step = defaultdict(dict)     # {(pair, right verdict): {step: row}}
    for row in run["transcripts"]:
        by_step[row["instance_id"], row["right"]][row["step"]] = row
    for (pair, right), rows in by_step.items():
        was_wrong = rows[0]["verdict"] != right
        tries = rows[last]["verdict"] == right and rows[last]["text"].startswith("try")
        if was_wrong and tries:
            print(f"\n{pair}, right is {right}")
            print(f"--- before\n{rows[0]['text']}")
            print(f"--- after\n{rows[last]['text']}")
            return


# ---------------------------------------------------------------- training.png

def draw_training(runs, out=HERE / "training.png"):
    """Target accuracy, share of judgments that try an example, and mean weights, step by step.

    A bold line is the mean over seeds, a faint one a seed.
    """
    plt.rcParams.update(STYLE)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2))
    for method in ("uniform", "shuffled", "net", "domain", "instance", "oracle"):
        steps = [row["step"] for row in evaluations(runs[method][0])]
        accuracy = []
        for run in runs[method]:
            accuracy.append([100 * row["eval_accuracy"] for row in evaluations(run)])
        draw_seeds(left, steps, accuracy, COLOURS[method], method)
        tries = [share_that_tries(run, steps) for run in runs[method]]
        draw_seeds(middle, steps, tries, COLOURS[method], method)

    groups = sorted(runs["instance"][0]["metrics"][1]["weight"])
    for group, colour in zip(groups, ("#76b7b2", "#4e79a7", "#59a14f", "#e15759", "#888888")):
        weights = [weight_of_group(group, run) for run in runs["instance"]]
        draw_seeds(right, range(len(weights[0])), weights, colour, group)

    left.set_title("accuracy on target pairs, %", loc="left")
    middle.set_title("judgments that try an example, %", loc="left")
    right.set_title("mean learned weight (instance)", loc="left")
    for axis in (left, middle, right):
        axis.set_xlabel("step")
    left.axhline(50, color="black", lw=0.5, ls=":")
    right.axhline(1, color="black", lw=0.5, ls=":")
    middle.legend(frameon=False, fontsize=7, loc="upper left")
    right.legend(frameon=False, fontsize=7, loc="upper left")
    save(figure, out)


def draw_seeds(axis, x, curves, colour, label):
    for curve in curves:
        axis.plot(x, curve, color=colour, alpha=0.2, lw=0.8)
    axis.plot(x, np.mean(curves, 0), color=colour, lw=2, label=label)


def share_that_tries(run, steps):
    """The share of judgments that try an example, in percent, at each of these steps."""
    tries = defaultdict(list)
    for row in run["transcripts"]:
        tries[row["step"]].append(100 * ("try " in row["text"]))
    return [np.mean(tries[step]) for step in steps]


def weight_of_group(group, run):
    """The mean weight of a group of pairs at each step, from 1 at the start."""
    return [1.0] + [row["weight"][group] for row in run["metrics"] if "weight" in row]


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    print(f"\nwrote {path}")


# ---------------------------------------------------------------- thinking.png

def draw_thinking(found, out=HERE / "thinking.png"):
    """Accuracy by tokens, Waits and votes; and which example a judge tries first."""
    plt.rcParams.update(STYLE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 1))
    for judge, seeds in found.items():
        name, colour = JUDGES[judge]
        waits = np.mean([after_waits(rows) for rows in seeds], 0)    # [2, waits + 1]
        votes = np.mean([by_votes(rows) for rows in seeds], 0)       # [2, votes]
        left.plot(waits[1], 100 * waits[0], color=colour, marker="o", lw=2, label=name)
        left.plot(votes[1], 100 * votes[0], color=colour, lw=1, ls=":")
    left.set_title("accuracy on target pairs, %: forced Waits (dots: 0 to 4) and votes (dotted)",
                   loc="left")
    left.set_xlabel("tokens of the judge a pair")
    left.set_xlim(0, 260)
    left.axhline(50, color="black", lw=0.5, ls=":")
    left.legend(frameon=False, fontsize=7)

    names = []
    tells = []
    chance = []
    for judge, seeds in found.items():
        names.append(JUDGES[judge][0])
        tells.append(100 * np.mean([np.mean(first_tells(rows)) for rows in seeds]))
        for rows in seeds:
            chance += [np.mean(list(row["examples"].values())) for row in rows]
    right.barh(names, tells, color=[colour for _, colour in JUDGES.values()])
    right.axvline(100 * np.mean(chance), color="black", lw=0.8, ls=":")
    right.invert_yaxis()
    right.set_title("the first example tried tells A from B, %\n(dotted: a random one)", loc="left")
    save(figure, out)


def main():
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    print_results(Path(sys.argv[1]))


if __name__ == "__main__":
    flags.run(main)
