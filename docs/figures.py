"""The results from the files of reproduce.sh: tables on the terminal, figures in docs/.

    python docs/figures.py                                runs/results, as reproduce.sh makes it
    python docs/figures.py --runs folder --out folder     other runs, and elsewhere the figures

Reads, in --runs,

    KIND-SEED/{settings.json,metrics.jsonl,weights.jsonl,selections.jsonl}   each kind of weights
    size-N-KIND-SEED/{settings.json,metrics.jsonl}                  with N problems in the meta set
    equal-N-meta-SEED/{settings.json,metrics.jsonl}       the same as size-N-meta, of more judgments
    consistent-SEED/{settings.json,metrics.jsonl}         the oracle's, paid for both orders alone
    thinking-JUDGE-SEED.jsonl                                                  docs/thinking.py
    untrained/selections.jsonl                                                 the judge before

says which of them are missing, and makes do with the others. Writes training.png, where there are
runs of a kind of weights, and waits.png, where there are judges that thought. Needs matplotlib.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import flags  # noqa: E402
from data.flags import flag, heading, parse  # noqa: E402
from data.rows import ROOT, UserError, read_rows  # noqa: E402
from data.tables import waits_name  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE = Path(__file__).resolve().parent
SEEDS = range(5)
WAITS = (0, 1, 2, 4)
# Student's t for a two-sided 95 % interval, by the number of values (n − 1 degrees of freedom)
T_95 = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}

# Kinds of weights: name in the table, colour, marker
METHODS = {
    "uniform": ("uniform", "#888888", "o"),
    "shuffled": ("shuffled: the weights of `instance`, dealt to other pairs", "#bbbbbb", "X"),
    "net": ("net", "#b07aa1", "P"),
    "domain": ("domain", "#4e79a7", "s"),
    "instance": ("instance", "#e15759", "^"),
    "oracle": ("oracle: only the reviewed, hard pairs of the strong policy", "#59a14f", "D"),
    "meta": ("meta: uniform, on the meta set alone", "#edc948", "v"),
    "both": ("both: uniform, on training and meta set", "#f28e2b", "*"),
}
LEARNED = ("net", "domain", "instance")
# What a meta set of any size is good for: name in the table and the figure
WITH_META_SET = {
    "instance": "learned weights: instance",
    "domain": "learned weights: domain",
    "meta": "trained on the meta set alone",
    "both": "trained on both, mixed",
}
SIZES = (4, 8, 16, 0)  # of the meta set, in problems; 0: all
# Trained only, without a choice: on small meta sets with more judgments, and with another reward
CONTROLS = ("equal-4-meta", "equal-8-meta", "consistent")
# Judges that thought: name in the table, colour, marker
JUDGES = {
    "base": ("base", "#888888", "o"),
    "cold": ("cold start alone", "#edc948", "v"),
    "plain": ("RL without Waits in training", "#4e79a7", "s"),
    "oracle": ("RL with room for two looks", "#59a14f", "D"),
    "rl": ("RL with Waits", "#f28e2b", "*"),
    "coldrl": ("cold start, then RL", "#e15759", "^"),
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


@dataclass
class Settings:
    heading("folders")
    runs: Path = flag(ROOT / "runs/results", "folder of the runs")
    out: Path = flag(HERE, "folder of training.png and waits.png")


def main(argv=None):
    """Print the tables of the finished runs, draw the figures, say which runs are missing."""
    cfg = parse(Settings, __doc__, argv)
    runs = finished_runs(cfg.runs)
    sizes = accuracy_by_size(cfg.runs, runs)
    controls = finished_controls(cfg.runs)
    found = thinking(cfg.runs)
    trained = any(runs.values())
    asked = {judge: seeds for judge, seeds in found.items() if seeds}
    if not trained and not asked:
        raise UserError(f"--runs {cfg.runs}: no finished run in it; "
                        "make them with bash reproduce.sh")
    if trained:
        print_markdown(weights_table(cfg.runs, runs))
        print_markdown(sizes_table(sizes))
        print_equal_judgments(controls)
        if controls["consistent"]:
            print_markdown(rewards_table(runs["oracle"], controls["consistent"]))
        draw_training(runs, sizes, cfg.out / "training.png")
    if any(runs[method] for method in LEARNED):
        print_markdown(group_weights(runs))
        print_markdown(signs_table(runs))
    if asked:
        print_markdown(thinking_table(asked))
        print_markdown(second_looks_table(asked))
        print_markdown(looks_table(asked))
        draw_waits(asked, cfg.out / "waits.png")
    print_found_by_waiting(found)
    missing = missing_runs(runs, sizes, controls, found)
    print("\nmissing: " + (", ".join(missing) or "nothing"))


def missing_runs(runs, sizes, controls, found):
    """Names of what reproduce.sh makes and is not there, or not finished."""
    missing = [f"{method}-{seed}" for method in METHODS for seed in SEEDS
               if seed not in runs[method]]
    for size, method in sizes:
        if size:    # where it is 0, the runs are those with all of the meta set
            missing += [f"size-{size}-{method}-{seed}" for seed in SEEDS
                        if seed not in sizes[size, method]]
    missing += [f"{name}-{seed}" for name in CONTROLS for seed in SEEDS
                if seed not in controls[name]]
    missing += [f"thinking-{judge}-{seed}" for judge in JUDGES for seed in SEEDS
                if seed not in found[judge]]
    return missing


# ---------------------------------------------------------------- numbers

def mean_interval(shares):
    """Mean of shares over seeds with its 95 % t-interval, in percent, as text."""
    values = 100 * np.array(shares)
    half = half_interval(values)
    return f"{values.mean():.1f}" if np.isnan(half) else f"{values.mean():.1f} ± {half:.1f}"


def half_interval(values):
    """Half of the 95 % t-interval of the mean; NaN for one or two values, which are too few."""
    if len(values) not in T_95:
        return float("nan")
    return T_95[len(values)] * np.std(values, ddof=1) / np.sqrt(len(values))


def paired_bootstrap(a, b, draws=10000):
    """Mean of a − b, both [seeds, problems], with a 95 % interval over problems, as text.

    Every seed has the same problems, so they are drawn for all seeds at once.
    """
    difference = 100 * (np.array(a) - np.array(b)).mean(0)                # [problems]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(difference), (draws, len(difference)))    # [draws, problems]
    low, high = np.percentile(difference[drawn].mean(1), [2.5, 97.5])
    return f"{difference.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


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


def finished_runs(folder):
    """{method: {seed: run}}, of those that trained to the end and chose; a run is {file: rows}."""
    runs = {method: {} for method in METHODS}
    for method in METHODS:
        for seed in SEEDS:
            path = folder / f"{method}-{seed}"
            run = trained_run(path)
            # The selections are written last.
            if run and (path / "selections.jsonl").exists():
                run["weights"] = read_rows(path / "weights.jsonl")
                run["selections"] = selections(path / "selections.jsonl")
                runs[method][seed] = run
    return runs


def trained_run(path):
    """{"metrics": rows} of a folder whose training came to its last evaluation, else None."""
    if not (path / "metrics.jsonl").exists():
        return None
    run = {"metrics": read_rows(path / "metrics.jsonl")}
    steps = json.loads((path / "settings.json").read_text())["steps"]
    return run if evaluations(run)[-1]["step"] == steps else None


def finished_controls(folder):
    """{name: {seed: run}} of CONTROLS, of those that trained to the end."""
    controls = {name: {} for name in CONTROLS}
    for name in CONTROLS:
        for seed in SEEDS:
            run = trained_run(folder / f"{name}-{seed}")
            if run:
                controls[name][seed] = run
    return controls


def accuracy_by_size(folder, runs):
    """{(size of the meta set, method): {seed: accuracy on target pairs at the end}}"""
    found = {}
    for size in SIZES:
        for method in WITH_META_SET:
            found[size, method] = {}
            for seed in SEEDS:
                if size:
                    run = trained_run(folder / f"size-{size}-{method}-{seed}")
                else:
                    run = runs[method].get(seed)
                if run:
                    found[size, method][seed] = last_accuracy(run)
    return found


def evaluations(run):
    """The rows of metrics.jsonl at which the judge was evaluated, the first before training."""
    return [row for row in run["metrics"] if "eval_accuracy" in row]


def last_accuracy(run):
    """Accuracy on target pairs when the training ended."""
    return evaluations(run)[-1]["eval_accuracy"]


def passed_by(method, rows, problem_ids):
    """pass@1 of a method's choices on these problems, in the order of their ids.

    Raises UserError where it has not chosen on all of them: runs on other data cannot be compared.
    """
    passed = {row["problem_id"]: row["passed"] for row in rows if row["method"] == method}
    missing = set(problem_ids) - passed.keys()
    if missing:
        raise UserError(f"selections of “{method}”: none for {len(missing)} of the problems of "
                        f"other runs (the first: {min(missing)}): make them all from the same data")
    return [passed[problem_id] for problem_id in sorted(problem_ids)]


# ---------------------------------------------------------------- weights

def by_seed(values, spec=".0f"):
    """Values in the order of the seeds, as text; a missing one (NaN) as a dash."""
    return ", ".join("–" if np.isnan(value) else format(value, spec) for value in values)


def with_seeds(name, of_seeds):
    """A row's name, and how many seeds it rests on if they are not all."""
    if len(of_seeds) == len(SEEDS):
        return name
    return f"{name} ({len(of_seeds)} of {len(SEEDS)} seeds)"


def weights_table(folder, runs):
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
    rows = [weights_row(with_seeds("untrained", first), list(first.values()), chosen, "")]
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
        name = with_seeds(METHODS[method][0], seeds)
        rows.append(weights_row(name, last, chosen, over))
    simple = {}
    for method in ("random", "mean log-prob", "majority", "public tests"):
        simple[method] = 100 * np.mean(passed_by(method, some, mixed))
    print(f"{len(mixed)} test problems with passing and failing programs: "
          + ", ".join(f"{method} {value:.1f}" for method, value in simple.items()))
    return rows


def print_equal_judgments(controls):
    """What small meta sets alone are good for with as many judgments a step as all others have."""
    for size in (4, 8):
        shares = [last_accuracy(run) for run in controls[f"equal-{size}-meta"].values()]
        if shares:
            print(f"\ntrained on {size} meta problems alone, as many judgments a step: "
                  f"{mean_interval(shares)} ({by_seed(100 * np.array(shares))})")


def rewards_table(plain, consistent):
    """The oracle's runs {seed: run} beside those with --reward consistent."""
    rows = []
    for reward, seeds in (("right", plain), ("consistent", consistent)):
        if not seeds:
            continue
        last = [evaluations(run)[-1] for run in seeds.values()]
        row = {"--reward": reward}
        for column, name in (("target pairs right, %", "eval_accuracy"),
                             ("right in both orders, %", "eval_both_orders")):
            shares = [evaluation[name] for evaluation in last]
            row[column] = f"{mean_interval(shares)} ({by_seed(100 * np.array(shares))})"
        rows.append(row)
    return rows


def weights_row(name, evaluated, chosen, over):
    """A row of weights_table. evaluated: a row of metrics.jsonl for each seed."""
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
            for group in sorted({pair["weight_domain"] for pair in run["weights"]}):
                row[group] = f"{mean_weight(run, {'weight_domain': group}):.2f}"
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
    groups = {row["weight_domain"] for row in run["weights"] if row["domain"] != "scraped"}
    lowest = min(mean_weight(run, {"weight_domain": group}) for group in groups)
    return mean_weight(run, SCRAPED) < lowest


# ---------------------------------------------------------------- size of the meta set

def size_name(size):
    return str(size) if size else "all"


def sizes_table(sizes):
    """Accuracy on target pairs by the number of meta problems. Sizes without runs are left out."""
    rows = []
    for size in SIZES:
        row = {"size of the meta set": size_name(size)}
        for method, name in WITH_META_SET.items():
            accuracy = list(sizes[size, method].values())
            row[name] = with_seeds(mean_interval(accuracy), accuracy) if accuracy else "–"
        if any(sizes[size, method] for method in WITH_META_SET):
            rows.append(row)
    return rows


# ---------------------------------------------------------------- Waits, votes, looks

def thinking(folder):
    """{judge: {seed: rows of docs/thinking.py}}"""
    found = {judge: {} for judge in JUDGES}
    for judge in JUDGES:
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
    """[votes] shares right of the majority of 1, 2, ... judgments, and their tokens.

    A tie counts half. No verdict at all is wrong, as it is everywhere else.
    """
    shares = []
    tokens = []
    for n in range(1, len(rows[0]["votes"]) + 1):
        outcomes = []
        spent = []
        for row in rows:
            votes = row["votes"][:n]
            right = sum(vote["verdict"] == row["right"] for vote in votes)
            wrong = sum(vote["verdict"] not in (row["right"], None) for vote in votes)
            has_verdict = right + wrong > 0
            outcomes.append(has_verdict * (0.5 + 0.5 * np.sign(right - wrong)))
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
        thought = {"judge": with_seeds(JUDGES[judge][0], seeds), "": "thinking on"}
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
            "judge": with_seeds(JUDGES[judge][0], seeds),
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
            "judge": with_seeds(JUDGES[judge][0], seeds),
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
        print(f"--- {JUDGES[judge][0]}, one Wait\n{after['waits'][1]['text']}")


def waits_help(row):
    """Wrong without a Wait, right after one, for it tried an example that tells A from B."""
    first = row["waits"][0]
    second = row["waits"][1]
    more = second["text"].removeprefix(first["text"])
    tried = [line.split()[1] for line in more.splitlines() if line.startswith("try ")]
    told = any(row["examples"].get(name) for name in tried) and f"only {row['right']}." in more
    return first["verdict"] != row["right"] and second["verdict"] == row["right"] and told


# ---------------------------------------------------------------- training.png

STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
         "legend.fontsize": 8, "legend.frameon": False}
# Kinds of pairs: colour by where their labels come from, line by difficulty
PAIRS = {
    "reviewed × hard × strong": ("hard, strong (the target)", "#e15759", "-"),
    "reviewed × easy × strong": ("easy, strong", "#e15759", ":"),
    "reviewed × hard × weak": ("hard, weak", "#4e79a7", "-"),
    "reviewed × easy × weak": ("easy, weak", "#4e79a7", ":"),
    "scraped × hard × strong": ("lying labels", "#888888", "-"),
}


def draw_training(runs, sizes, path):
    """Accuracy by step, weights by step under `instance`, accuracy by size of the meta set."""
    plt.rcParams.update(STYLE)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.5, 4.6))
    draw_accuracy_by_step(left, runs)
    draw_weights_by_step(middle, runs["instance"])
    draw_accuracy_by_size(right, sizes)
    right.sharey(left)
    for axis in (left, right):
        axis.set_ylabel("target pairs right, %")
        axis.axhline(50, color="black", lw=0.5, ls=":")
    save(figure, path)


def draw_accuracy_by_step(axis, runs):
    """A line for each kind of weights: mean over seeds, and a thin one for each seed."""
    for method, seeds in runs.items():
        if not seeds:
            continue
        name, colour, marker = METHODS[method]
        steps = [row["step"] for row in evaluations(next(iter(seeds.values())))]
        curves = []
        for run in seeds.values():
            curves.append([100 * row["eval_accuracy"] for row in evaluations(run)])
        label = with_seeds(name.partition(":")[0], seeds)
        draw_seeds(axis, steps, curves, colour, label=label, ls=line_of(method), marker=marker)
    axis.set_title("accuracy by kind of weights", loc="left")
    axis.set_xlabel("training step")
    legend_below(axis)


def draw_weights_by_step(axis, seeds):
    """A line for each kind of pairs: the mean weight over its pairs and over seeds."""
    for group, (name, colour, line) in PAIRS.items():
        curves = [weight_by_step(run, group) for run in seeds.values()]
        if curves:
            draw_seeds(axis, range(len(curves[0])), curves, colour, label=name, ls=line)
    axis.axhline(1, color="black", lw=0.5, ls=":")
    axis.set_title("weights that instance learns", loc="left")
    axis.set_xlabel("training step")
    axis.set_ylabel("mean weight of the pairs")
    legend_below(axis)


def weight_by_step(run, group):
    """The mean weight of a group of pairs at each step, from 1 at the start."""
    return [1.0] + [row["weight"][group] for row in run["metrics"] if "weight" in row]


def draw_accuracy_by_size(axis, sizes):
    """A line for each way to use a meta set; bars are 95 % intervals, where there are 3 seeds."""
    for number, (method, name) in enumerate(WITH_META_SET.items()):
        _, colour, marker = METHODS[method]
        points = []    # [position, mean, half of the interval]
        for position, size in enumerate(SIZES):
            accuracy = 100 * np.array(list(sizes[size, method].values()))
            if len(accuracy):
                beside = 0.06 * (number - 1.5)    # so that bars do not hide each other
                points.append([position + beside, accuracy.mean(), half_interval(accuracy)])
        if points:
            x, mean, half = np.transpose(points)
            axis.errorbar(x, mean, half, color=colour, marker=marker, ls=line_of(method), lw=2,
                          capsize=3, elinewidth=1, label=name)
    axis.set_xticks(range(len(SIZES)), labels=[size_name(size) for size in SIZES])
    axis.set_title("accuracy after training", loc="left")
    axis.set_xlabel("problems in the meta set")
    legend_below(axis)


def line_of(method):
    """Dashed where the meta set itself is trained on."""
    return "--" if method in ("meta", "both") else "-"


def draw_seeds(axis, x, curves, colour, **line):
    """The mean of curves [seeds, len(x)] as a line, each of them as a faint one."""
    for curve in curves:
        axis.plot(x, curve, color=colour, alpha=0.25, lw=0.7)
    axis.plot(x, np.mean(curves, 0), color=colour, lw=2, **line)


def legend_below(axis):
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, columnspacing=1)


def save(figure, path):
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"\nwrote {path}")


# ---------------------------------------------------------------- waits.png

def draw_waits(found, path):
    """Accuracy by tokens: each judge after 0 to 4 Waits, and in 1 to 5 votes."""
    plt.rcParams.update(STYLE)
    figure, axis = plt.subplots(figsize=(9, 4.2))
    for judge, seeds in found.items():
        name, colour, marker = JUDGES[judge]
        waits = np.mean([after_waits(rows) for rows in seeds.values()], 0)    # [2, waits + 1]
        votes = np.mean([by_votes(rows) for rows in seeds.values()], 0)       # [2, votes]
        axis.plot(waits[1], 100 * waits[0], color=colour, marker=marker, lw=2,
                  label=with_seeds(name, seeds))
        axis.plot(votes[1], 100 * votes[0], color=colour, marker=".", lw=1, ls=":")
    axis.plot([], [], color="black", lw=1, ls=":", marker=".", label="each in 1, 2, ... votes")
    axis.axhline(50, color="black", lw=0.5, ls=":")
    axis.set_title("accuracy after 0, 1, ... forced Waits (thick lines), and in votes (dotted)",
                   loc="left")
    axis.set_xlabel("tokens of the judge for a pair in one order")
    axis.set_ylabel("target pairs right, %")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


if __name__ == "__main__":
    flags.run(main)
