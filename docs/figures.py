"""The results from the files of reproduce.sh: tables on the terminal, figures in docs/.

    python docs/figures.py runs/results                     the tiny world: its tables, two figures
    python docs/figures.py runs/tiny/selections.jsonl ...   selection.png alone
    python docs/figures.py --edges runs/edges               the world of edge cases, edges.png

The first reads METHOD-SEED/{metrics,transcripts,weights,selections}.jsonl,
waits-JUDGE-SEED/selections.jsonl and size-PROBLEMS-METHOD-SEED/metrics.jsonl; the second what
`python select.py --aggregate rounds round-robin --waits 1 2 4 --n 1 2 4 8` wrote, one file or one
for each seed; the third METHOD-SEED/{settings.json,metrics.jsonl,weights.jsonl,selections.jsonl}
and thinking-JUDGE-SEED.jsonl: it says which runs are missing and makes do with the others.
Needs matplotlib.
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import flags  # noqa: E402
from data.rows import UserError, read_rows  # noqa: E402
from data.tables import waits_name  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = {  # a training method each
    "uniform": "#888888",
    "shuffled": "#bbbbbb",
    "net": "#b07aa1",
    "domain": "#4e79a7",
    "instance": "#e15759",
    "oracle": "#59a14f",
}
METHODS = list(COLOURS)
LEARNED = ("net", "domain", "instance")
JUDGES = {"base": "base", "cold": "cold-started", "rl": "RL-trained (instance)",
          "waiting": "RL-trained with Waits"}   # of the waits
WAITS = (0, 1, 2, 4)
# Student's t for a two-sided 95 % interval, by the number of values (n − 1 degrees of freedom)
T_95 = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


# ---------------------------------------------------------------- numbers

def mean_interval(shares):
    """Mean of shares over seeds with its 95 % t-interval, in percent, as text."""
    values = 100 * np.array(shares)
    if len(values) not in T_95:    # two are too few for an interval
        return f"{values.mean():.1f}"
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


def source(group):
    """Where the pairs of a domain of the tiny world come from."""
    if group.startswith("scraped"):
        return "lying"      # their tests lie
    return "strong" if group.endswith("strong") else "weak"


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


def weights_table(runs):
    """The learned weights by source, and how well they tell the sources apart; means over seeds."""
    rows = []
    for method in LEARNED:
        found = defaultdict(list)   # {column: a number for each seed}
        for run in runs[method]:
            by_source = {name: [] for name in ("weak", "strong", "lying")}
            informed = {"lying": [], "clean": []}
            for row in run["weights"]:
                where = source(row["group"])
                by_source[where].append(row["weight"])
                if row["informed"] >= 3:
                    informed["lying" if where == "lying" else "clean"].append(row["weight"])
            for name, weights in by_source.items():
                found[name].append(np.mean(weights))
            found["like"].append(auc(by_source["strong"], by_source["weak"] + by_source["lying"]))
            if informed["clean"] and informed["lying"]:
                found["clean"].append(auc(informed["clean"], informed["lying"]))
        rows.append({
            "weights": method,
            "mean weight: weak": f"{np.mean(found['weak']):.2f}",
            "strong": f"{np.mean(found['strong']):.2f}",
            "lying": f"{np.mean(found['lying']):.2f}",
            "AUC target-like against the rest": f"{np.mean(found['like']):.2f}",
            "AUC clean against lying, informed ≥ 3 times": f"{np.mean(found['clean']):.2f}",
        })
    return rows


def sizes_table(folder, runs):
    """Target accuracy by the number of meta problems: learned weights, or training on these."""
    names = {
        "instance": "learned weights (instance)",
        "meta": "training on the meta set",
        "both": "training on both, mixed",
    }
    accuracy = defaultdict(list)    # {(problems, method): a share for each seed}
    for path in sorted(folder.glob("size-*-*-*")):
        _, size, method, _ = path.name.split("-")
        metrics = read_rows(path / "metrics.jsonl")
        accuracy[int(size), method].append(evaluations({"metrics": metrics})[-1]["eval_accuracy"])
    all_of_them = max(size for size, _ in accuracy)
    n_seeds = len(accuracy[all_of_them, "meta"])
    for run in runs["instance"][:n_seeds]:
        accuracy[all_of_them, "instance"].append(evaluations(run)[-1]["eval_accuracy"])
    rows = []
    for size in sorted({size for size, _ in accuracy}):
        row = {"meta problems": str(size)}
        for method, name in names.items():
            values = accuracy[size, method]
            each = ", ".join(f"{100 * value:.0f}" for value in values)
            row[name] = f"{mean_interval(values)} ({each})"
        rows.append(row)
    return rows


def waits_table(folder):
    """J1's table: pass@1 on mixed problems for each judge and number of waits, beside the control."""
    runs = {}
    for judge in JUDGES:
        folders = sorted(folder.glob(f"waits-{judge}-*"))
        runs[judge] = [selections(path / "selections.jsonl") for path in folders]
    rows = []
    for count in WAITS:
        row = {"waits": str(count)}
        for judge, name in JUDGES.items():
            thinking = f"judge, trained, {waits_name(count)}" if count else "judge, trained"
            voting = f"judge, trained, tokens of {waits_name(count)}" if count else "judge, trained"
            row[f"{name}: thinking on"] = pass_and_tokens(thinking, runs[judge])
            row[f"{name}: as many tokens in votes"] = pass_and_tokens(voting, runs[judge])
        rows.append(row)
    return rows


def pass_and_tokens(method, runs):
    """pass@1 on mixed problems with its interval over seeds, and the judge tokens on all."""
    passed = [np.mean(passed_by(method, rows, mixed_problems(rows))) for rows in runs]
    tokens = [row["judge_tokens"] for rows in runs for row in rows if row["method"] == method]
    return f"{mean_interval(passed)} ({np.mean(tokens):.0f})"


def print_results(folder):
    """Print the tables of the runs in a folder, and draw both figures."""
    runs = load(folder)
    mixed = mixed_problems(runs["uniform"][0]["selections"])
    untrained = selections(folder / "untrained" / "selections.jsonl")

    print(f"{len(runs['uniform'])} seeds; {len(mixed)} test problems with mixed outcomes")
    print_markdown(accuracy_table(runs, untrained, mixed))
    for method in METHODS:
        accuracy = [100 * evaluations(run)[-1]["eval_accuracy"] for run in runs[method]]
        print(f"seeds, {method}: " + " ".join(f"{value:.0f}" for value in accuracy))
    print_markdown(weights_table(runs))

    medians = []
    for method in METHODS:
        steps = [row for run in runs[method] for row in run["metrics"] if "seconds" in row]
        medians.append(f"{method} {np.median([sum(row['seconds'].values()) for row in steps]):.2f}")
    print("\nseconds a step (median): " + ", ".join(medians))

    if list(folder.glob("size-*")):
        print_markdown(sizes_table(folder, runs))
    if list(folder.glob("waits-*")):
        print_markdown(waits_table(folder))
        draw_selection([path / "selections.jsonl" for path in sorted(folder.glob("waits-rl-*"))])
    draw_training(runs)
    print_transcripts(runs["instance"][0])


def print_transcripts(run):
    """One pair before and after: wrong at first by skimming, right at last by tracing."""
    last = max(row["step"] for row in run["transcripts"])
    by_step = defaultdict(dict)     # {(pair, right verdict): {step: row}}
    for row in run["transcripts"]:
        by_step[row["instance_id"], row["right"]][row["step"]] = row
    for (pair, right), rows in by_step.items():
        was_wrong = rows[0]["verdict"] != right
        traces = rows[last]["verdict"] == right and rows[last]["text"].startswith("trace")
        if was_wrong and traces:
            print(f"\n{pair}, right is {right}")
            print(f"--- before\n{rows[0]['text']}")
            print(f"--- after\n{rows[last]['text']}")
            return


# ---------------------------------------------------------------- training.png

def draw_training(runs, out=HERE / "training.png"):
    """Target accuracy, share of tracing and mean weight by source, step by step.

    A bold line is the mean over seeds, a faint one a seed.
    """
    plt.rcParams.update(STYLE)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2))
    for method in METHODS:
        steps = [row["step"] for row in evaluations(runs[method][0])]
        label = f"{method} (clean, target-like pairs only)" if method == "oracle" else method
        accuracy = []
        for run in runs[method]:
            accuracy.append([100 * row["eval_accuracy"] for row in evaluations(run)])
        draw_seeds(left, steps, accuracy, COLOURS[method], label)
        traces = [tracing(run, steps) for run in runs[method]]
        draw_seeds(middle, steps, traces, COLOURS[method], label)

    sources = {
        "strong": ("target-like (strong policy)", "#e15759"),
        "weak": ("weak policy", "#4e79a7"),
        "lying": ("lying tests", "#888888"),
    }
    for name, (label, colour) in sources.items():
        weights = [weight_of_source(name, run) for run in runs["instance"]]
        draw_seeds(right, range(len(weights[0])), weights, colour, label)

    left.set_title("accuracy on target pairs, %", loc="left")
    middle.set_title("judgments that trace, %", loc="left")
    right.set_title("mean learned weight (instance)", loc="left")
    for axis in (left, middle, right):
        axis.set_xlabel("step")
    left.axhline(50, color="black", lw=0.5, ls=":")
    right.axhline(1, color="black", lw=0.5, ls=":")
    middle.legend(frameon=False, fontsize=7, loc="upper left")
    right.legend(frameon=False, fontsize=7, loc="upper left")
    save(figure, out)


def draw_seeds(axis, x, curves, colour, label, line="-"):
    for curve in curves:
        axis.plot(x, curve, color=colour, alpha=0.2, lw=0.8)
    axis.plot(x, np.mean(curves, 0), color=colour, lw=2, label=label, ls=line)


def tracing(run, steps):
    """The share of judgments that trace the programs, in percent, at each of these steps."""
    traces = defaultdict(list)
    for row in run["transcripts"]:
        traces[row["step"]].append(100 * row["text"].startswith("trace"))
    return [np.mean(traces[step]) for step in steps]


def weight_of_source(name, run):
    """The mean weight of the pairs of a source at each step, from 1 at the start."""
    pairs = defaultdict(int)    # in each domain of this source
    for row in run["weights"]:
        if source(row["group"]) == name:
            pairs[row["group"]] += 1
    curve = [1.0]
    for row in run["metrics"]:
        if "weight" in row:
            total = sum(row["weight"][group] * count for group, count in pairs.items())
            curve.append(total / sum(pairs.values()))
    return curve


def save(figure, path):
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    print(f"\nwrote {path}")


# ---------------------------------------------------------------- selection.png

def selection_curves(rows):
    """Rows of a selections.jsonl as curves of means over problems.

    Returns {method: [(N, pass@1)]} and, for the methods that ask a judge, {method: [(judge tokens,
    pass@1)]} at the largest N: a point for each round where a judge votes in rounds, else one.
    """
    most = max(row["n"] for row in rows)
    cells = defaultdict(list)
    for row in rows:
        cells[row["method"], row["n"]].append(row)
    by_n = defaultdict(list)
    by_tokens = {}
    for (method, n), cell in sorted(cells.items(), key=lambda item: item[0][1]):
        by_n[method].append((n, np.mean([row["passed"] for row in cell])))
        if n == most and "judge_tokens" in cell[0]:
            by_tokens[method] = token_curve(cell, each_round=is_judge(method))
    return by_n, by_tokens


def is_judge(method):
    """"judge, trained" is a judge that votes in rounds, "judge, trained, 1 wait" a variant."""
    return method.count(", ") == 1


def token_curve(rows, each_round):
    """[(judge tokens, pass@1)] after each round, or only at the end; means over the rows."""
    rounds = max(len(row.get("by_round", [])) for row in rows) if each_round else 0
    curves = []
    for row in rows:
        end = (row["judge_tokens"], row["passed"])
        if rounds == 0:
            curves.append([end])
        else:
            # A problem whose programs are all alike has no rounds: nothing is ever spent on it.
            curves.append(row.get("by_round") or [end] * rounds)
    return [tuple(point) for point in np.mean(curves, 0)]


def marker_of(method):
    for word, marker in (("tokens of", "x"), ("wait", "s"), ("round-robin", "D")):
        if word in method:
            return marker
    return None


def draw_selection(paths, out=HERE / "selection.png"):
    """pass@1 against N for every way of choosing, and against judge tokens: more rounds, waits."""
    runs = [selection_curves(read_rows(path)) for path in paths]
    first_by_n, first_by_tokens = runs[0]
    judges = sorted({method for _, by_tokens in runs for method in by_tokens if is_judge(method)})
    colours = dict(zip(judges, ("#4e79a7", "#e15759", "#59a14f")))

    plt.rcParams.update(STYLE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    shown = [method for method in first_by_n if method in judges or method not in first_by_tokens]
    greys = iter(plt.cm.viridis(np.linspace(0, 0.9, len(shown))))
    for method in shown:
        curve = np.mean([by_n[method] for by_n, _ in runs], 0)      # [sizes, 2]
        if method in judges:
            line = {"color": colours[method], "lw": 2, "ls": "-"}
        else:
            line = {"color": next(greys), "lw": 1, "ls": "--"}
        left.plot(curve[:, 0], 100 * curve[:, 1], marker=".", label=method, **line)
    for method in first_by_tokens:
        curve = np.mean([by_tokens[method] for _, by_tokens in runs], 0)    # [points, 2]
        judge = next(judge for judge in judges if method.startswith(judge))
        marker = marker_of(method)
        label = method if marker else f"{method}, 1 to R rounds"
        right.plot(curve[:, 0], 100 * curve[:, 1], color=colours[judge], marker=marker or ".",
                   ls="" if marker else "-", label=label)

    left.set_title("pass@1, %, choosing among N", loc="left")
    left.set_xlabel("N")
    left.set_xscale("log", base=2)
    sizes = [n for n, _ in first_by_n["random"]]
    left.set_xticks(sizes, labels=sizes)
    right.set_title("pass@1, %, by what the judge spends", loc="left")
    right.set_xlabel("judge tokens a problem")
    right.set_xscale("log")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=6)
    save(figure, out)


# ---------------------------------------------------------------- the world of edge cases

SEEDS = range(5)
EDGES_METHODS = {  # name in the table, colour
    "uniform": ("uniform", "#888888"),
    "shuffled": ("shuffled: the weights of `instance`, dealt to other pairs", "#bbbbbb"),
    "net": ("net", "#b07aa1"),
    "domain": ("domain", "#4e79a7"),
    "instance": ("instance", "#e15759"),
    "oracle": ("oracle: only the reviewed, hard pairs of the strong policy", "#59a14f"),
    "meta": ("uniform, on the meta set alone", "#edc948"),
    "both": ("uniform, on training and meta set", "#f28e2b"),
}
EDGES_JUDGES = {  # whose thinking: name in the table, colour
    "base": ("base", "#888888"),
    "cold": ("cold start alone", "#edc948"),
    "plain": ("RL without Waits in training", "#4e79a7"),
    "oracle": ("RL with room for two looks", "#59a14f"),
    "rl": ("RL with Waits", "#f28e2b"),
    "coldrl": ("cold start, then RL", "#e15759"),
}
REVIEWED = {"domain": "reviewed"}
STRONG = {"policy": "strong"}
WEAK = {"policy": "weak"}
HARD = {"difficulty": "hard"}
EASY = {"difficulty": "easy"}
SCRAPED = {"domain": "scraped"}
# Signs of the weights: (pairs that are expected to weigh more, pairs that are to weigh less).
# Scraped pairs are all hard and the strong policy's: they stand aside where these are compared.
SIGNS = {
    "hard above easy": (REVIEWED | HARD, REVIEWED | EASY),
    "hard above easy, strong policy alone": (REVIEWED | HARD | STRONG, REVIEWED | EASY | STRONG),
    "strong above weak": (REVIEWED | STRONG, REVIEWED | WEAK),
    "strong above weak, hard alone": (REVIEWED | HARD | STRONG, REVIEWED | HARD | WEAK),
    "reviewed above scraped": (REVIEWED, SCRAPED),
    "reviewed above scraped, hard and strong alone": (
        REVIEWED | HARD | STRONG, SCRAPED | HARD | STRONG),
}


def print_edges(folder):
    """Print the tables of the finished runs in a folder, say which are missing, draw edges.png."""
    runs = finished_runs(folder)
    found = thinking(folder)
    if not any(runs.values()) and not any(found.values()):
        raise UserError(f"{folder}: no finished run of the world of edge cases; "
                        "make them with bash reproduce.sh edges")
    if any(runs.values()):
        print_markdown(edges_table(folder, runs))
    if any(runs[method] for method in LEARNED):
        print_markdown(group_weights(runs))
        print_markdown(signs_table(runs))
    asked = {judge: seeds for judge, seeds in found.items() if seeds}
    if asked:
        print_markdown(thinking_table(asked))
        print_markdown(second_looks_table(asked))
        print_markdown(looks_table(asked))
    draw_edges(runs, asked)
    print_found_by_waiting(found)

    missing = [f"{method}-{seed}" for method in EDGES_METHODS
               for seed in SEEDS if seed not in runs[method]]
    missing += [f"thinking-{judge}-{seed}" for judge in EDGES_JUDGES
                for seed in SEEDS if seed not in found[judge]]
    print("\nmissing: " + (", ".join(missing) or "nothing"))


def finished_runs(folder):
    """{method: {seed: run}}, of those that trained to the end and chose; a run is {file: rows}."""
    runs = {method: {} for method in EDGES_METHODS}
    for method in EDGES_METHODS:
        for seed in SEEDS:
            path = folder / f"{method}-{seed}"
            if not (path / "selections.jsonl").exists():
                continue    # it is written last
            run = {name: read_rows(path / f"{name}.jsonl") for name in ("metrics", "weights")}
            run["selections"] = selections(path / "selections.jsonl")
            steps = json.loads((path / "settings.json").read_text())["steps"]
            if evaluations(run)[-1]["step"] == steps:
                runs[method][seed] = run
    return runs


def by_seed(values, spec=".0f"):
    """Values in the order of the seeds, as text; a missing one (NaN) as a dash."""
    return ", ".join("–" if np.isnan(value) else format(value, spec) for value in values)


def with_seeds(name, of_seeds):
    """A row's name, and how many seeds it rests on if they are not all."""
    if len(of_seeds) == len(SEEDS):
        return name
    return f"{name} ({len(of_seeds)} of {len(SEEDS)} seeds)"


def edges_table(folder, runs):
    """Target pairs and Best-of-8 of every method that has finished runs."""
    every = [seeds for seeds in runs.values() if seeds]
    some = next(iter(every[0].values()))["selections"]
    mixed = mixed_problems(some)
    first = {}    # {seed: the evaluation before training}, the same for all methods of a seed
    for seeds in every:
        for seed, run in seeds.items():
            first[seed] = evaluations(run)[0]
    before = folder / "untrained" / "selections.jsonl"
    chosen = "–"
    if before.exists():
        passed = passed_by("judge, trained", selections(before), mixed)
        chosen = f"{100 * np.mean(passed):.1f}"
    rows = [edges_row(with_seeds("untrained", first), list(first.values()), chosen, "")]
    of_uniform = {}    # {seed: [problems]}
    for seed, run in runs["uniform"].items():
        of_uniform[seed] = passed_by("judge, trained", run["selections"], mixed)
    for method, seeds in runs.items():
        if not seeds:
            continue
        passed = {}    # {seed: [problems]}
        for seed, run in seeds.items():
            passed[seed] = passed_by("judge, trained", run["selections"], mixed)
        over = ""
        shared = sorted(passed.keys() & of_uniform.keys())
        if method != "uniform" and shared:
            over = paired_bootstrap([passed[s] for s in shared], [of_uniform[s] for s in shared])
        last = [evaluations(run)[-1] for run in seeds.values()]
        chosen = mean_interval([np.mean(values) for values in passed.values()])
        name = with_seeds(EDGES_METHODS[method][0], seeds)
        rows.append(edges_row(name, last, chosen, over))
    simple = {}
    for method in ("random", "mean log-prob", "majority", "public tests"):
        simple[method] = 100 * np.mean(passed_by(method, some, mixed))
    print(f"{len(mixed)} test problems with passing and failing programs: "
          + ", ".join(f"{method} {value:.1f}" for method, value in simple.items()))
    return rows


def edges_row(name, evaluated, chosen, over):
    """A row of edges_table. evaluated: a row of metrics.jsonl for each seed."""
    right = [row["eval_accuracy"] for row in evaluated]
    both = [row["eval_both_orders"] for row in evaluated]
    return {
        "weights": name,
        "target pairs right, %": f"{mean_interval(right)} ({by_seed(100 * np.array(right))})",
        "right in both orders, %": mean_interval(both),
        "Best-of-8, %": chosen,
        "Best-of-8 over uniform": over,
        "tokens a judgment": f"{np.mean([row['eval_tokens'] for row in evaluated]):.0f}",
    }


def mean_weight(run, kind):
    """The mean weight of the pairs with these fields, {"difficulty": "hard"} for example."""
    return np.mean([row["weight"] for row in run["weights"] if kind.items() <= row.items()])


def group_weights(runs):
    """The mean weight of each domain × difficulty × policy, for every seed and learned kind."""
    rows = []
    for method in LEARNED:
        for seed, run in runs[method].items():
            row = {"weights": method, "seed": str(seed)}
            for group in sorted({pair["group"] for pair in run["weights"]}):
                row[group] = f"{mean_weight(run, {'group': group}):.2f}"
            rows.append(row)
    return rows


def signs_table(runs):
    """On how many seeds a sign holds, and how many times as heavy the favoured pairs are."""
    learned = [method for method in LEARNED if runs[method]]
    rows = []
    for sign, (favoured, other) in SIGNS.items():
        row = {"sign": sign}
        for method in learned:
            ratios = []
            for run in runs[method].values():
                ratios.append(mean_weight(run, favoured) / mean_weight(run, other))
            held = sum(ratio > 1 for ratio in ratios)
            row[method] = f"{held} of {len(ratios)} (× {by_seed(ratios, '.2f')})"
        rows.append(row)
    row = {"sign": "lying labels at the bottom"}
    for method in learned:
        held = sum(lying_at_the_bottom(run) for run in runs[method].values())
        row[method] = f"{held} of {len(runs[method])}"
    return rows + [row]


def lying_at_the_bottom(run):
    """Is the mean weight of the scraped pairs below that of every other group?"""
    groups = {row["group"] for row in run["weights"] if row["domain"] != "scraped"}
    lowest = min(mean_weight(run, {"group": group}) for group in groups)
    return mean_weight(run, SCRAPED) < lowest


# ---------------------------------------------------------------- Waits, votes, looks

def thinking(folder):
    """{judge: {seed: rows of docs/thinking.py}}"""
    found = {judge: {} for judge in EDGES_JUDGES}
    for judge in EDGES_JUDGES:
        for seed in SEEDS:
            path = folder / f"thinking-{judge}-{seed}.jsonl"
            if path.exists():
                found[judge][seed] = read_rows(path)
    return found


def after_waits(rows):
    """[waits + 1] shares right, and mean tokens, after 0, 1, ... forced Waits."""
    right = [[said["verdict"] == row["right"] for said in row["waits"]] for row in rows]
    tokens = [[said["tokens"] for said in row["waits"]] for row in rows]
    return np.mean(right, 0), np.mean(tokens, 0)


def by_votes(rows):
    """[votes] shares right of the majority of 1, 2, ... judgments, a tie counting half; tokens."""
    shares = []
    tokens = []
    for n in range(1, len(rows[0]["votes"]) + 1):
        outcomes = []
        spent = []
        for row in rows:
            votes = row["votes"][:n]
            right = sum(vote["verdict"] == row["right"] for vote in votes)
            wrong = sum(vote["verdict"] not in (row["right"], None) for vote in votes)
            outcomes.append(0.5 + 0.5 * np.sign(right - wrong))
            spent.append(sum(vote["tokens"] for vote in votes))
        shares.append(np.mean(outcomes))
        tokens.append(np.mean(spent))
    return np.array(shares), np.array(tokens)


def votes_at(tokens, rows):
    """Share right of votes that cost as many tokens, on the line between two numbers of votes.

    All votes stand for up to 5 % more tokens than they cost; NaN beyond.
    """
    shares, costs = by_votes(rows)
    if tokens > 1.05 * costs[-1]:
        return float("nan")
    return float(np.interp(tokens, costs, shares))


def interval_or_none(shares):
    return "–" if np.isnan(shares).any() else mean_interval(shares)


def thinking_table(found):
    """J1's table: accuracy on target pairs (tokens) after Waits, beside votes at equal tokens."""
    rows = []
    for judge, seeds in found.items():
        thought = {"judge": with_seeds(EDGES_JUDGES[judge][0], seeds), "": "thinking on"}
        voted = {"judge": "", "": "as many tokens in votes"}
        curves = [after_waits(of_seed) for of_seed in seeds.values()]
        for n in WAITS:
            column = waits_name(n) if n else "0 waits"
            tokens = np.mean([tokens[n] for _, tokens in curves])
            thought[column] = f"{mean_interval([right[n] for right, _ in curves])} ({tokens:.0f})"
            equal = []
            for of_seed, (_, tokens) in zip(seeds.values(), curves):
                equal.append(votes_at(tokens[n], of_seed))
            voted[column] = interval_or_none(equal)
        for kind, name in (("natural", "as long as it likes"), ("cut", "that, cut after one look")):
            right, tokens = said_right(kind, seeds)
            thought[name] = f"{mean_interval(right)} ({np.mean(tokens):.0f})"
            voted[name] = ""
        rows += [thought, voted]
    return rows


def said_right(kind, seeds):
    """([seeds] shares right, [seeds] mean tokens) of the judgments "natural" or "cut"."""
    right = []
    tokens = []
    for rows in seeds.values():
        right.append(np.mean([row[kind]["verdict"] == row["right"] for row in rows]))
        tokens.append(np.mean([row[kind]["tokens"] for row in rows]))
    return right, tokens


def second_looks_table(found):
    """For each seed what two Waits change, and how far that is above votes at equal tokens."""
    rows = []
    for judge, seeds in found.items():
        rise = []
        over_votes = []
        for of_seed in seeds.values():
            right, tokens = after_waits(of_seed)
            rise.append(100 * (right[2] - right[0]))
            over_votes.append(100 * (right[2] - votes_at(tokens[2], of_seed)))
        above = "–"
        if not np.isnan(over_votes).any():
            above = f"{sum(value >= 0 for value in over_votes)} of {len(seeds)}"
        rows.append({
            "judge": with_seeds(EDGES_JUDGES[judge][0], seeds),
            "two Waits over none, points, by seed": by_seed(rise, "+.1f"),
            "≥ 5": f"{sum(value >= 5 for value in rise)} of {len(seeds)}",
            "two Waits over votes at equal tokens": by_seed(over_votes, "+.1f"),
            "no worse": above,
        })
    return rows


def looks_table(found):
    """How a judge looks when it thinks as long as it likes, and after two forced Waits."""
    rows = []
    for judge, seeds in found.items():
        skims = []
        tries = []
        tried_later = []
        tells = []
        chance = []
        for of_seed in seeds.values():
            natural = [row["natural"]["text"] for row in of_seed]
            skims.append(np.mean([text.startswith("skim") for text in natural]))
            tries.append(np.mean([text.count("try ") for text in natural]))
            later = [row["waits"][2]["text"].count("try ") for row in of_seed]
            tried_later.append(np.mean(later))
            tells.append(np.mean(first_tells(of_seed)))
            chance.append(np.mean([np.mean(list(row["examples"].values())) for row in of_seed]))
        rows.append({
            "judge": with_seeds(EDGES_JUDGES[judge][0], seeds),
            "skims at first, %": mean_interval(skims),
            "examples it tries unasked": f"{np.mean(tries):.2f}",
            "with two Waits": f"{np.mean(tried_later):.2f}",
            "the first one tells A from B, %": mean_interval(tells),
            "a random one": f"{100 * np.mean(chance):.1f}",
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


def print_found_by_waiting(found, most=4):
    """Pairs that the base judge gets wrong to the end, and on which a Wait helps a trained one.

    The trained judge's first look tells nothing; an example that it tries after a Wait does.
    """
    helped = []    # (judge, seed, row of the base judge, row of this one)
    for judge in ("coldrl", "rl"):
        for seed in sorted(found[judge].keys() & found["base"].keys()):
            for before, after in zip(found["base"][seed], found[judge][seed]):
                was_wrong = before["waits"][1]["verdict"] not in (after["right"], None)
                if was_wrong and waits_help(after):
                    helped.append((judge, seed, before, after))
    for judge, seed, before, after in helped[:most]:
        print(f"\n{after['instance_id']}, right is {after['right']}, seed {seed}")
        print(f"--- base, one Wait\n{before['waits'][1]['text']}")
        print(f"--- {EDGES_JUDGES[judge][0]}, one Wait\n{after['waits'][1]['text']}")


def waits_help(row):
    """Wrong without a Wait, right after one, for it tried an example that tells A from B."""
    first = row["waits"][0]
    second = row["waits"][1]
    more = second["text"].removeprefix(first["text"])
    tried = [line.split()[1] for line in more.splitlines() if line.startswith("try ")]
    told = any(row["examples"].get(name) for name in tried) and f"only {row['right']}." in more
    return first["verdict"] != row["right"] and second["verdict"] == row["right"] and told


# ---------------------------------------------------------------- edges.png

def draw_edges(runs, found, out=HERE / "edges.png"):
    """Left: accuracy by tokens, Waits and votes. Right: accuracy by step under all weights."""
    plt.rcParams.update(STYLE)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(5, 4))
    for judge, seeds in found.items():
        name, colour = EDGES_JUDGES[judge]
        waits = np.mean([after_waits(rows) for rows in seeds.values()], 0)    # [2, waits + 1]
        votes = np.mean([by_votes(rows) for rows in seeds.values()], 0)       # [2, votes]
        left.plot(waits[1], 100 * waits[0], color=colour, marker="o", lw=2,
                  label=with_seeds(name, seeds))
        left.plot(votes[1], 100 * votes[0], color=colour, lw=1, ls=":")
    for method, seeds in runs.items():
        if not seeds:
            continue
        name, colour = EDGES_METHODS[method]
        steps = [row["step"] for row in evaluations(next(iter(seeds.values())))]
        curves = []
        for run in seeds.values():
            curves.append([100 * row["eval_accuracy"] for row in evaluations(run)])
        line = "--" if method in ("meta", "both") else "-"
        draw_seeds(right, steps, curves, colour, with_seeds(name.partition(":")[0], seeds), line)

    left.set_title("target pairs right, %: 0 to 4 Waits (dots), 1 to 5 votes (dotted)", loc="left")
    left.set_xlabel("tokens of the judge a pair and order")
    right.set_title("target pairs right, %", loc="left")
    right.set_xlabel("step")
    for axis in (left, right):
        axis.axhline(50, color="black", lw=0.5, ls=":")
    left.legend(frameon=False, fontsize=7, loc="lower right")
    right.legend(frameon=False, fontsize=7, loc="upper left")
    save(figure, out)



def main():
    paths = sys.argv[1:]
    if paths in ([], ["--edges"]):
        sys.exit(__doc__)
    if paths[0] == "--edges":
        print_edges(Path(paths[1]))
    elif Path(paths[0]).is_dir():
        print_results(Path(paths[0]))
    else:
        draw_selection(paths)


if __name__ == "__main__":
    flags.run(main)
