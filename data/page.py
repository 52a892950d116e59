"""A training run as a page to look at: report.html, one file that needs nothing else.

    python -m data.page runs/NAME       makes it again; a training run makes it at its end

Reads   the files of a run (data/page_data.py).
Writes  report.html: whether the judge got better, which data it believed, every training pair with
        what moved its weight, and every evaluated pair with what the judge said before and after.

Programs and judgments may say anything, so nothing of them may become part of the page:

  * What is written here goes through html.escape.
  * What the browser fills in is one block of JSON in which "<", ">" and "&" are escapes, and
    page.js makes nothing of it but text.
  * The page's policy runs the one script whose hash it names, and opens no address.

A page holds a few megabytes at most: of a large run, texts are cut, the middle of the training
pairs is shown without texts, and of the judgments some, evenly spaced. The page says so, and where
all of it is.
"""
import argparse
import base64
import hashlib
from collections import defaultdict
from html import escape
from pathlib import Path

import numpy as np

from data.chart import Frame, Line, doubling_ticks, even_ticks, line_chart
from data.explain import in_words
from data.flags import run as run_command
from data.page_data import first_and_last, payload, read_run, safe_json
from data.rows import write_whole
from data.statistics import effective_size

HERE = Path(__file__).resolve().parent
NARROW = "\u202f"  # a space at which no line breaks
COLOURS = 8  # of kinds of pairs; further ones are grey


# ---------------------------------------------------------------- the page

def write_page(out):
    """Write report.html into the folder of a run, and return its path. Raises UserError."""
    path = Path(out) / "report.html"
    write_whole(path, page_of(read_run(out)))
    return path


def page_of(run):
    """The whole page as text; the same files give the same text."""
    judged = first_and_last(run)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(run.name)}: report</title>
<style>
{style}</style>
</head>
<body>
<main>
{headline(run, judged)}
{charts(run)}
{kinds_section(run)}
{training_section()}
{judged_section(run)}
{settings_section(run)}
</main>
<script type="application/json" id="data">{safe_json(payload(run, judged))}</script>
<script>{script}</script>
</body>
</html>
"""


# ---------------------------------------------------------------- did the judge get better?

def headline(run, judged):
    """The answer in a sentence, and the figures behind it."""
    cfg = run.settings
    evaluations = [row for row in run.metrics if "eval_accuracy" in row]
    first = evaluations[0]
    last = evaluations[-1]
    low, high = change_interval(judged)
    if low > 0:
        answer, mood = "The judge got better", "good"
    elif high < 0:
        answer, mood = "The judge got worse", "bad"
    else:
        answer, mood = "The judge did not clearly change", "even"
    change = 100 * (last["eval_accuracy"] - first["eval_accuracy"])
    figures = (
        ("right in both orders", "eval_both_orders", percent),
        ("verdict given", "eval_parse_rate", percent),
        ("tokens a judgment", "eval_tokens", "{:.1f}".format),
    )
    tiles = [f'<div class="tile"><b>{form(first[name])} → {form(last[name])}</b>{title}</div>'
             for title, name, form in figures]
    return f"""<header>
<p class="run">{escape(run.name)} · {escape(cfg.weights)} weights · {last["step"]} steps · \
seed {cfg.seed}</p>
<h1 class="{mood}">{answer}: <span>{percent(first["eval_accuracy"])} → \
{percent(last["eval_accuracy"])}</span> of its verdicts are right</h1>
<p class="believed">{believed(run)}</p>
<p>On {len(judged) // 2} {escape(cfg.eval_split)} pairs, judged once in either order before \
training and after step {last["step"]}: {change:+.1f} points (95{NARROW}% interval over \
problems {100 * low:+.1f} to {100 * high:+.1f}). Guessing is right in 50{NARROW}%.</p>
{turns(judged)}
<div class="tiles">{"".join(tiles)}</div>
</header>"""


def believed(run):
    """Which kind of pairs the run believed most, in a sentence of HTML."""
    weights = run.weights_of_kinds()
    kinds = run.kinds
    if not run.learned:
        return "It learned no weights of its data (--weights uniform)."
    if len(kinds) < 2:
        return "All of its data are of one kind."
    most, least = (f"<b>{escape(kind)}</b> (weight {np.mean(weights[kind]):.2f})"
                   for kind in (kinds[0], kinds[-1]))
    return f"Of its data it believed {most} most and {least} least."


def change_interval(judged):
    """(low, high): the middle 95 % of the change of accuracy when problems are drawn again."""
    by_problem = defaultdict(list)
    for one in judged:
        before, after = one.outcome
        by_problem[one.pair.problem["problem_id"]].append(after - before)
    change = np.array([sum(changes) for changes in by_problem.values()])   # [problems]
    size = np.array([len(changes) for changes in by_problem.values()])     # [problems]
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2000):
        drawn = rng.integers(0, len(size), len(size))
        samples.append(change[drawn].sum() / size[drawn].sum())
    return np.percentile(samples, [2.5, 97.5])


TURNS = {  # (right before, right after)
    "stayed right": (True, True),
    "turned right": (False, True),
    "turned wrong": (True, False),
    "stayed wrong": (False, False),
}


def turns(judged):
    """A bar of judgments that stayed or turned right or wrong; each part leads to the browser."""
    parts = []
    for name, outcome in TURNS.items():
        count = sum(one.outcome == outcome for one in judged)
        if count:
            style = name.replace(" ", "-")
            parts.append(f'<button type="button" class="{style}" data-turn="{name}" '
                         f'style="flex-grow:{count}"><b>{count}</b> {name}</button>')
    return f'<div class="turns" role="group" aria-label="judgments">{"".join(parts)}</div>'


def percent(share):
    return f"{100 * share:.1f}{NARROW}%"


# ---------------------------------------------------------------- by step

def charts(run):
    large = [chart_of_accuracy(run)]
    if run.learned:
        large.append(chart_of_weights(run))
    small = [
        chart_of_metrics(run, "Reward", "of the judgments of each step, on average",
                         {"reward": "of drawn pairs", "meta_reward": "of meta pairs"},
                         "{:.2f}".format),
        chart_of_metrics(run, "Tokens", "of these judgments, on average",
                         {"tokens": "of drawn pairs"}, "{:.0f}".format),
    ]
    return (f'<section class="charts large">{"".join(large)}</section>\n'
            f'<section class="charts small">{"".join(small)}</section>')


def figure(title, note, svg):
    return f"<figure><figcaption><b>{title}</b> {note}</figcaption>\n{svg}\n</figure>"


def chart_of_accuracy(run):
    """Accuracy of all evaluated pairs and of each kind, at every evaluation."""
    points = defaultdict(list)
    for step, rows in by_step(run.transcripts).items():
        right = defaultdict(list)
        for row in rows:
            right[run.pairs[row["instance_id"]].domain].append(row["verdict"] == row["right"])
        for kind, values in right.items():
            points[kind].append((step, float(np.mean(values))))
    overall = [(row["step"], row["eval_accuracy"]) for row in run.metrics if "eval_accuracy" in row]
    kinds = sorted(points, key=lambda kind: -points[kind][-1][1])
    lines = lines_of(run, kinds, points) if len(kinds) > 1 else []
    lines.append(Line("all pairs", overall, "main"))
    values = [0.5] + [value for line in lines for _, value in line.points]
    ticks = even_ticks(min(values), max(values))
    frame = Frame(620, 320, 235, overall[-1][0], ticks)
    svg = line_chart("accuracy by step", lines, frame, "{:.0%}".format, spans_of(run), 0.5)
    note = f"on {escape(run.settings.eval_split)} pairs, by step; dashed: guessing"
    return figure("Accuracy", note, svg)


def by_step(rows):
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["step"]].append(row)
    return grouped


def chart_of_weights(run):
    """The mean weight of each kind of training pairs, by step."""
    points = {kind: [(0, 1.0)] for kind in run.kinds}
    for row in run.metrics:
        for kind, weight in row.get("weight", {}).items():
            points[kind].append((row["step"], max(weight, 1e-3)))
    lines = lines_of(run, run.kinds, points)
    values = [value for line in lines for _, value in line.points]
    last = max(step for line in lines for step, _ in line.points)
    frame = Frame(620, 320, 235, last, doubling_ticks(min(values), max(values)), log=True)
    svg = line_chart("weight by step", lines, frame, "{:.3g}".format, spans_of(run), 1)
    return figure("Mean weight", "of each kind of training pairs, by step; dashed: all alike", svg)


def chart_of_metrics(run, title, note, names, form):
    """A small chart of some numbers of metrics.jsonl. names: {field: what its line is called}."""
    lines = []
    for style, (field, name) in zip(("main", "kind-0"), names.items()):
        points = [(row["step"], row[field]) for row in run.metrics if field in row]
        if points:
            lines.append(Line(name, points, style))
    values = [value for line in lines for _, value in line.points]
    last = max(step for line in lines for step, _ in line.points)
    frame = Frame(620, 190, 145, last, even_ticks(min(values), max(values), most=3))
    return figure(title, note, line_chart(title, lines, frame, form))


def lines_of(run, kinds, points):
    """A line for each of these kinds, grey and without a name for what has no colour."""
    lines = []
    for kind in kinds:
        style = style_of(run, kind)
        lines.append(Line(kind, points[kind], style, labelled=style != "faint"))
    return lines


def style_of(run, kind):
    """A kind's colour, the same all over the page: the heaviest and the lightest have one."""
    kinds = run.kinds
    others = sorted({pair.domain for pair in run.pairs.values()} - set(kinds))
    outer_first = []
    while kinds:
        outer_first.append(kinds.pop(0))
        if kinds:
            outer_first.append(kinds.pop())
    place = (outer_first + others).index(kind)
    return f"kind-{place}" if place < COLOURS else "faint"


def spans_of(run):
    """The steps in which the judge does not learn by GRPO."""
    cfg = run.settings
    spans = []
    if cfg.cold_start:
        spans.append((0, cfg.cold_start, "cold start"))
    if cfg.freeze_judge_steps:
        last = run.metrics[-1]["step"]
        frozen = min(cfg.cold_start + cfg.freeze_judge_steps, last)
        spans.append((min(cfg.cold_start, last), frozen, "judge stands still"))
    return spans


# ---------------------------------------------------------------- which data was believed?

def kinds_section(run):
    """A row for each kind of training pairs, the heaviest first, with its weight as a bar."""
    groups = defaultdict(list)
    for row in run.explained:
        groups[row["weight_domain"]].append(row)
    total = sum(row["weight"] for row in run.explained)
    rows = []
    for kind in run.kinds:
        members = groups[kind]
        weights = np.array([row["weight"] for row in members])
        cells = (
            str(len(members)),
            f"{len(members) / len(run.explained):.0%}",
            f"{weights.sum() / max(total, 1e-30):.0%}",
            f"{effective_size(weights):.1f}",
            f"{np.mean([row['visits'] for row in members]):.1f}",
            f"{np.mean([row['informed'] for row in members]):.1f}",
        )
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        mean = weights.mean()
        name = f'<i class="dot {style_of(run, kind)}"></i>{escape(kind)}'
        rows.append(f'<tr><th scope="row">{name}</th><td>{mean:.2f}</td><td>{bar(mean)}</td>'
                    f"{numbers}</tr>")
    key = escape(" × ".join(run.settings.domain_key))
    return f"""<section>
<h2>Which data was believed</h2>
<p>A pair's weight says how often it is drawn, or how much its loss counts; weights average 1. \
{escape(weights_in_words(run))}</p>
<div class="scroll"><table class="kinds">
<thead><tr><th scope="col">{key}</th><th scope="col" colspan="2">mean weight</th>\
<th scope="col">pairs</th><th scope="col">of all pairs</th><th scope="col">of all weight</th>\
<th scope="col" title="(Σw)²/Σw²: how many pairs of equal weight it amounts to">effective size</th>\
<th scope="col" title="how often a pair was drawn">visits</th>\
<th scope="col" title="visits that could move a weight">informed</th></tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody></table></div>
</section>"""


def weights_in_words(run):
    cfg = run.settings
    if not run.learned:
        return "Here none was learned (--weights uniform)."
    return f"Here they were learned (--weights {cfg.weights} --apply {cfg.apply})."


def bar(weight):
    """A weight as a bar from the middle, which is 1: doublings to the right, halves to the left."""
    width = min(abs(np.log2(max(weight, 1e-3))), 4) * 12.5  # % of the whole: 4 doublings are half
    left = 50.0 if weight >= 1 else 50 - width
    side = "more" if weight >= 1 else "less"
    place = f"left:{left:.1f}%;width:{width:.1f}%"
    return f'<div class="bar"><i class="{side}" style="{place}"></i></div>'


# ---------------------------------------------------------------- what the browser fills in

def training_section():
    """Where page.js puts the table of training pairs."""
    words = ("Open a row to see why it counts: what it is, its two candidates, and the visits that "
             "moved its weight most. There, s is what the visit told the weight, from −3 to +3: "
             "positive where learning from these judgments made the judge better for the meta "
             "pairs.")
    return f"""<section id="training">
<h2>Why a pair counts</h2>
<p>{words}</p>
<noscript><p>This part needs JavaScript; the same is in explained.jsonl.</p></noscript>
</section>"""


def judged_section(run):
    """Where page.js puts the browser of judged pairs."""
    return f"""<section id="judged">
<h2>What the judge says</h2>
<p>Every {escape(run.settings.eval_split)} pair in both orders, judged before and after training. \
The right candidate is marked, and the lines in which the two differ.</p>
<noscript><p>This part needs JavaScript; the same is in transcripts.jsonl.</p></noscript>
</section>"""


def settings_section(run):
    rows = []
    for name, value in vars(run.settings).items():
        rows.append(f"<tr><th scope=\"row\">{escape(name)}</th>"
                    f"<td>{escape(in_words(value, 500))}</td></tr>")
    return (f"<details><summary>All settings of the run</summary>\n"
            f'<div class="scroll"><table class="settings">{"".join(rows)}</table></div></details>')


# ---------------------------------------------------------------- the command

def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    print(write_page(parser.parse_args().run))


if __name__ == "__main__":
    run_command(main)
