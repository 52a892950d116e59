"""The promises of report.html and explained.jsonl: what they say of a run, that nothing a program
or a judgment says becomes part of the page, and that a page stays small.

How it looks and that its script works needs a browser, which no test here has.
"""
import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import train_bilevel as tb
from data import explain, page, page_data
from data.chart import (
    Frame, Line, doubling_ticks, even_ticks, line_chart, spread, step_ticks)
from data.pairs import Pair
from data.rows import ROOT, UserError, read_rows, write_rows

# ---------------------------------------------------------------- a run, made by hand

HARMLESS = "word"
HOSTILE = ('</script><script>alert(1)</script><!--<img src=x onerror="alert(1)">-->&lt;&#60;\'"`'
           "\u2028\u2029\x00 \udc80 ]]> {{7*7}} ${x} \\u003c")


def as_name(said):
    """A lone surrogate can stand in any text but an id."""
    return said.replace("\udc80", "")


def problem(split, k, said):
    return {
        "problem_id": f"{split}/{k}/{as_name(said)}", "split": split, "prompt": f"sort {split} {k} {said}",
        "domain": f"reviewed {said}", "difficulty": ("easy", "hard")[k % 2], "entry_point": "f",
        "public_tests": [], "tests": [], "source": said, "steps": [f"step {k}", said],
    }


def candidate(problem_id, name, passed, said):
    return {
        "problem_id": problem_id, "candidate_id": f"{name} {as_name(said)}", "policy": f"strong {said}",
        "code": f"def f(x):\n    return {name}  # {said}\n", "passed": passed,
        "status": "passed" if passed else "wrong_answer", "detail": said,
    }


def make_run(folder, said=HARMLESS, right_before=0, right_after=4, length=0, weights="instance"):
    """A run on four training and four test pairs, as train_bilevel.py leaves it behind.

    said: what its problems, candidates and judgments say.  length: characters that a judgment has
    beside it.  right_before, right_after: of the four test pairs, those that are judged rightly.
    """
    problems = [problem(split, k, said) for split in ("train", "meta", "test") for k in range(4)]
    labelled = []
    for row in problems:
        labelled.append(candidate(row["problem_id"], "good", True, said))
        labelled.append(candidate(row["problem_id"], "bad", False, said))
    folder.mkdir(exist_ok=True)
    write_rows(folder / "problems.jsonl", problems)
    write_rows(folder / "labelled.jsonl", labelled)
    settings = vars(tb.Settings(
        problems=[str(folder / "problems.jsonl")], labelled=str(folder / "labelled.jsonl"),
        out=str(folder), weights=weights, steps=20, freeze_judge_steps=10, pairs_per_problem=1,
        cold_start=0, seed=0))
    (folder / "settings.json").write_text(json.dumps(settings))
    (train, _, test), _ = page_data.read_pairs(tb.Settings(**settings))

    transcripts = []
    for step, n_right in ((0, right_before), (20, right_after)):
        for k, pair in enumerate(test):
            for shown in (pair, pair.flipped()):
                verdict = shown.right if k < n_right else {"A": "B", "B": "A"}[shown.right]
                text = f"step {step}, {shown.right} is right: {said}{'.' * length}"
                transcripts.append({
                    "step": step, "instance_id": pair.instance_id, "right": shown.right,
                    "verdict": verdict, "tokens": 9, "text": text})
    write_rows(folder / "transcripts.jsonl", transcripts)

    metrics = []
    for step in range(21):
        row = {"step": step, "reward": 0.5, "tokens": 9.0, "meta_reward": 0.5,
               "weight": {pair.domain: 1 + step / 10 for pair in train}}
        if step in (0, 20):
            own = [line for line in transcripts if line["step"] == step]
            figures = tb.accuracy_of(own)
            row |= {f"eval_{name}": value for name, value in figures.items()}
        metrics.append(row)
    write_rows(folder / "metrics.jsonl", metrics)

    rows = []
    moved = []
    for k, pair in enumerate(train):
        rows.append({**pair.description(), "weight": 0.5 + k / 4, "visits": k, "informed": k})
        texts = [f"wrong of {k}: {said}{'.' * length}", f"right of {k}: {said}{'.' * length}"]
        visits = explain.keep_largest([], explain.visit_of(3, k - 1.5, k - 1.5, pair.right, texts, [0.0, 1.0]))
        moved.append(visits if k else [])
    write_rows(folder / "explained.jsonl", explain.explained_rows(rows, train, moved))
    return folder


class Structure(HTMLParser):
    """The tags of a page with the names of their attributes, its scripts, and what is left open."""
    VOID = {"meta", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.values = []   # of attributes
        self.scripts = []
        self.open = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, sorted(name for name, _ in attributes)))
        self.values += [value for _, value in attributes if value]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, sorted(name for name, _ in attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += words


def structure_of(run):
    return Structure(page.write_page(run).read_text(encoding="utf-8"))


def data_of(run):
    """The block of JSON in the page of a run."""
    return json.loads(structure_of(run).scripts[0])


def words_of(run):
    """The text of the page of a run, without tags."""
    text = page.write_page(run).read_text(encoding="utf-8")
    return re.sub(r"<[^>]*>", "", text[:text.index("<script")]).replace(page.NARROW, " ")


# ---------------------------------------------------------------- untrusted text

def test_nothing_that_is_said_becomes_part_of_the_page(tmp_path):
    """A hostile run and a harmless one have the same tags with the same attributes."""
    harmless = structure_of(make_run(tmp_path / "harmless"))
    hostile = structure_of(make_run(tmp_path / "hostile", HOSTILE))
    assert hostile.tags == harmless.tags
    assert len(hostile.scripts) == 2
    assert hostile.scripts[1] == harmless.scripts[1]
    assert not hostile.open


def test_what_is_said_arrives_as_it_was_said(tmp_path):
    data = data_of(make_run(tmp_path / "run", HOSTILE))
    row = data["judged"][0]
    assert row["after"]["text"] == f"step 20, {row['right']} is right: {HOSTILE}"
    assert data["problems"][row["problem"]]["prompt"].endswith(HOSTILE)
    assert HOSTILE in data["candidates"][row["a"]]["text"]
    assert any(HOSTILE in pair["moved"][0]["best"]["text"] for pair in data["training"][:3])
    assert HOSTILE in data["training"][0]["facts"]


def test_a_block_of_json_cannot_end_its_script():
    text = page_data.safe_json({"</script>": ["<!--", "&amp;", "\u2028"]})
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == {"</script>": ["<!--", "&amp;", "\u2028"]}


def test_the_script_of_the_page_only_makes_text():
    script = (ROOT / "data/page.js").read_text()
    for way_in in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                   "Function(", "DOMParser", "srcdoc", "createContextualFragment", "setTimeout"):
        assert way_in not in script


def test_the_policy_of_the_page_lets_its_own_script_run_and_no_other(tmp_path):
    structure = structure_of(make_run(tmp_path / "run"))
    digest = base64.b64encode(hashlib.sha256(structure.scripts[1].encode()).digest()).decode()
    policy = next(value for value in structure.values if "default-src" in value)
    assert policy == ("default-src 'none'; style-src 'unsafe-inline'; "
                      f"script-src 'sha256-{digest}'")


def test_a_page_needs_nothing_else(tmp_path):
    structure = structure_of(make_run(tmp_path / "run"))
    names = {name for _, attributes in structure.tags for name in attributes}
    assert not names & {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
    tags = {tag for tag, _ in structure.tags}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base"}
    style = (ROOT / "data/page.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


# ---------------------------------------------------------------- what it says

@pytest.mark.parametrize("before, after, answer", [
    (0, 4, "The judge got better: 0.0 % → 100.0 %"),
    (4, 0, "The judge got worse: 100.0 % → 0.0 %"),
    (2, 2, "The judge did not clearly change: 50.0 % → 50.0 %"),
    (1, 2, "The judge did not clearly change: 25.0 % → 50.0 %"),  # one problem of four
])
def test_the_first_line_says_whether_the_judge_got_better(tmp_path, before, after, answer):
    run = make_run(tmp_path / "run", right_before=before, right_after=after)
    assert answer in words_of(run)


def test_judgments_that_turned_are_counted(tmp_path):
    words = words_of(make_run(tmp_path / "run", right_before=1, right_after=3))
    assert "2 stayed right4 turned right2 stayed wrong" in words


def test_the_page_names_the_data_that_was_believed_most_and_least(tmp_path):
    words = words_of(make_run(tmp_path / "run"))
    assert "it believed reviewed word × hard × strong word (weight 1.00) most" in words
    assert "reviewed word × easy × strong word (weight 0.75) least" in words


def test_a_run_without_learned_weights_says_so(tmp_path):
    words = words_of(make_run(tmp_path / "run", weights="uniform"))
    assert "It learned no weights of its data (--weights uniform)." in words
    assert "Mean weight of each kind" not in words


@pytest.mark.parametrize("weights", ["instance", "domain", "net"])
def test_a_run_with_learned_weights_shows_them(tmp_path, weights):
    words = words_of(make_run(tmp_path / "run", weights=weights))
    assert "It learned no weights" not in words
    assert "Mean weight of each kind" in words


def test_before_is_the_first_evaluation_and_after_the_last_of_the_same_pair_and_order(tmp_path):
    data = data_of(make_run(tmp_path / "run", right_before=1, right_after=3))
    assert data["steps"] == [0, 20]
    assert len(data["judged"]) == 8
    assert {(row["id"], row["right"]) for row in data["judged"]} == {
        (row["instance_id"], row["right"]) for row in read_rows(tmp_path / "run/transcripts.jsonl")}
    for row in data["judged"]:
        assert row["before"]["text"].startswith(f"step 0, {row['right']} is right")
        assert row["after"]["text"].startswith(f"step 20, {row['right']} is right")
        passed = row["a"] if row["right"] == "A" else row["b"]
        assert data["candidates"][passed]["id"].startswith("good")


def test_every_training_pair_is_there_with_what_moved_it(tmp_path):
    data = data_of(make_run(tmp_path / "run"))
    assert [pair["weight"] for pair in data["training"]] == [1.25, 1.0, 0.75, 0.5]
    assert [pair["s"] for pair in data["training"]] == [1.5, 0.5, -0.5, None]
    heaviest = data["training"][0]
    assert heaviest["moved"][0]["best"] == {"reward": 1.0, "text": "right of 3: word"}
    assert heaviest["moved"][0]["worst"] == {"reward": 0.0, "text": "wrong of 3: word"}
    assert heaviest["fields"] == "steps: step 3, word"  # the source is the same for all
    assert "source: word; steps: step 3, word" in heaviest["facts"]
    assert data["training"][-1]["moved"] == []


def test_of_a_pair_s_visits_the_list_shows_what_the_one_with_the_largest_move_told(tmp_path):
    run = make_run(tmp_path / "run")
    visits = []
    for step, s, move in ((2, 2.5, 0.5), (9, -1.5, -2.0)):
        one = explain.visit_of(step, s, move, "A", ["x", "y"], [0.0, 1.0])
        visits = explain.keep_largest(visits, one)
    changed(run, "explained.jsonl", lambda row: {**row, "moved": visits})
    assert [pair["s"] for pair in data_of(run)["training"]] == [-1.5] * 4


def changed(run, name, change):
    """Rewrite a file of a run; change: row -> row."""
    write_rows(run / name, [change(row) for row in read_rows(run / name)])


def cells_of(run):
    """{kind: cells of its row in the table of kinds}"""
    text = page.write_page(run).read_text(encoding="utf-8")
    table = text[text.index('<table class="kinds">'):]
    table = table[table.index("<tbody>"):table.index("</tbody>")]
    found = {}
    for row in re.findall("<tr>.*?</tr>", table):
        kind, *cells = (re.sub("<[^>]*>", "", cell)
                        for cell in re.findall(r"<t[hd].*?</t[hd]>", row))
        found[kind] = cells
    return found


def test_a_kind_s_numbers_are_those_of_its_pairs(tmp_path):
    """Easy ones: weights 0.5 and 1, visited 0 and 2 times. Hard ones: 0.75 and 1.25."""
    run = make_run(tmp_path / "run")
    changed(run, "explained.jsonl", lambda row: {**row, "informed": row["visits"] // 2})
    easy = cells_of(run)["reviewed word × easy × strong word"]
    #               mean, bar, pairs, of pairs, of weight, effective, visits, informed
    assert easy == ["0.75", "", "2", "50%", "43%", "1.8", "1.0", "0.5"]


def test_a_share_of_the_pairs_is_not_one_of_the_kinds(tmp_path):
    run = make_run(tmp_path / "run")
    rows = read_rows(run / "explained.jsonl")
    write_rows(run / "explained.jsonl", rows[1:])
    assert [cells[3] for cells in cells_of(run).values()] == ["33%", "67%"]


def test_a_mean_is_what_makes_a_kind_the_heaviest_and_not_its_number_of_pairs(tmp_path):
    run = make_run(tmp_path / "run")
    rows = [row for row in read_rows(run / "explained.jsonl") if row["weight"] != 0.75]
    write_rows(run / "explained.jsonl", rows)     # easy: 0.5 and 1.0; hard: 1.25
    assert next(iter(cells_of(run))) == "reviewed word × hard × strong word"


@pytest.mark.parametrize("weight, side, left, width", [
    (2, "more", 50, 12.5), (0.5, "less", 37.5, 12.5), (1, "more", 50, 0), (64, "more", 50, 50)])
def test_a_bar_is_doublings_to_the_right_and_halves_to_the_left(weight, side, left, width):
    assert f'class="{side}" style="left:{left:.1f}%;width:{width:.1f}%"' in page.bar(weight)


def test_each_tile_says_what_its_own_figure_was_first_and_last(tmp_path):
    run = make_run(tmp_path / "run")
    figures = {0: dict(eval_both_orders=0.1, eval_parse_rate=0.3, eval_tokens=5.0),
               20: dict(eval_both_orders=0.2, eval_parse_rate=0.4, eval_tokens=6.0)}
    changed(run, "metrics.jsonl", lambda row: {**row, **figures.get(row["step"], {})})
    words = words_of(run)
    assert "10.0 % → 20.0 %right in both orders" in words
    assert "30.0 % → 40.0 %verdict given" in words
    assert "5.0 → 6.0tokens a judgment" in words


def test_the_headline_counts_pairs_and_says_the_change_in_points(tmp_path):
    run = make_run(tmp_path / "run", right_before=1, right_after=2)
    words = words_of(run)
    assert "On 4 test pairs" in words
    assert "after step 20: +25.0 points" in words


def judged_by_problem(changes):
    """Judgments of which these turned right (1), stayed (0) or turned wrong (-1), by problem."""
    judged = []
    for name, own in changes.items():
        pair = SimpleNamespace(problem={"problem_id": name})
        for change in own:
            judged.append(SimpleNamespace(pair=pair, outcome=(change < 0, change > 0)))
    return judged


def test_the_interval_is_the_middle_95_percent_over_problems():
    low, high = page.change_interval(judged_by_problem({k: [k % 2] * 8 for k in range(8)}))
    assert low == pytest.approx(1 / 8, abs=0.01)     # binomial(8, 1/2) / 8: 1 and 7 of 8
    assert high == pytest.approx(7 / 8, abs=0.01)


def charts_of(run, monkeypatch):
    """{title: {line: points}}"""
    drawn = {}

    def record(title, lines, *rest):
        drawn[title] = {line.name: line.points for line in lines}
        return ""

    monkeypatch.setattr(page, "line_chart", record)
    page.charts(page_data.read_run(run))
    return drawn


def test_the_chart_of_accuracy_counts_right_verdicts_by_kind(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", right_before=0, right_after=4)
    changed(run, "metrics.jsonl",
            lambda row: {**row, "eval_both_orders": 0.5} if "eval_accuracy" in row else row)
    drawn = charts_of(run, monkeypatch)
    for name in ("all pairs", "reviewed word × easy × strong word",
                 "reviewed word × hard × strong word"):
        assert drawn["accuracy by step"][name] == [(0, 0.0), (20, 1.0)]
    assert drawn["weight by step"]["reviewed word × easy × strong word"][:2] == [(0, 1.0), (0, 1.0)]


def test_reward_and_meta_reward_are_told_apart(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    changed(run, "metrics.jsonl", lambda row: {**row, "meta_reward": 0.25})
    drawn = charts_of(run, monkeypatch)
    assert {value for _, value in drawn["Reward"]["of drawn pairs"]} == {0.5}
    assert {value for _, value in drawn["Reward"]["of meta pairs"]} == {0.25}


def test_first_and_last_have_their_own_verdicts_and_tokens_also_with_one_between(tmp_path):
    run = make_run(tmp_path / "run", right_before=0, right_after=4)
    rows = read_rows(run / "transcripts.jsonl")
    middle = [{**row, "step": 10, "tokens": 3, "verdict": None} for row in rows if row["step"] == 0]
    rows = ([row for row in rows if row["step"] == 0] + middle
            + [{**row, "tokens": 12} for row in rows if row["step"] == 20])
    write_rows(run / "transcripts.jsonl", rows)
    data = data_of(run)
    assert data["steps"] == [0, 20]
    for row in data["judged"]:
        wrong = {"A": "B", "B": "A"}[row["right"]]
        assert (row["before"]["verdict"], row["before"]["tokens"]) == (wrong, 9)
        assert (row["after"]["verdict"], row["after"]["tokens"]) == (row["right"], 12)


def test_candidates_say_how_they_ended_and_pairs_what_their_kind_weighs(tmp_path):
    data = data_of(make_run(tmp_path / "run"))
    outcomes = {row["id"]: row["outcome"] for row in data["candidates"]}
    assert outcomes == {"good word": "passed: word", "bad word": "wrong_answer: word"}
    assert len(data["candidates"]) == 16     # two of each of eight problems, all of the same names
    facts = data["training"][0]["facts"]
    assert facts.startswith("reviewed word × hard × strong word: mean weight 1.00; ")


# ---------------------------------------------------------------- made again, made small

def test_the_same_files_give_the_same_page_without_torch(tmp_path):
    """By hand, in a process of its own, where it must not wait for torch."""
    run = make_run(tmp_path / "run", HOSTILE)
    page.write_page(run)
    first = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    program = ("import sys; from data.page import main; main(); "
               "assert not {'torch', 'transformers'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program, str(run)], cwd=ROOT, check=True)
    assert (run / "report.html").read_bytes() == first


def test_a_large_run_makes_a_small_page_that_says_what_it_leaves_out(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", length=50_000)
    whole = data_of(run)
    said = whole["judged"][0]["before"]["text"]
    assert re.search("42,0.. characters of the whole, which is in step 0 of transcripts", said)
    assert said.startswith("step 0, ")
    assert len(said) < 8100

    monkeypatch.setattr(page_data, "MOST_BYTES", 20_000)
    monkeypatch.setattr(page_data, "SIZES", ((8000, 100), (1000, 100), (1000, 3)))
    cut = data_of(run)
    assert len(page_data.safe_json(cut)) < 20_000
    assert len(cut["training"]) == 4
    assert ["moved" in pair for pair in cut["training"]] == [True, True, False, True]
    assert len(cut["judged"]) == 2
    assert cut["judgedInAll"] == 8


def test_what_is_left_out_is_the_middle_of_the_weights_and_every_other_judged_pair():
    assert page_data.ends_of(10, 4) == {0, 1, 8, 9}
    assert page_data.ends_of(10, 3) == {0, 1, 9}
    assert page_data.ends_of(3, 4) == {0, 1, 2}
    assert page_data.ends_of(10, 0) == set()
    assert page_data.spaced(12, 6) == {0, 1, 4, 5, 8, 9}
    assert page_data.spaced(12, 12) == set(range(12))
    assert page_data.spaced(12, 0) == set()


def assert_refused(run, *words):
    with pytest.raises(UserError) as stopped:
        page.write_page(run)
    for word in words:
        assert word in str(stopped.value)
    assert not (run / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert_refused(tmp_path, str(tmp_path), "settings.json")


def test_candidates_that_are_no_longer_those_of_the_run_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    rows = read_rows(run / "labelled.jsonl")
    for row in rows:
        row["candidate_id"] += " of today"
    write_rows(run / "labelled.jsonl", rows)
    assert_refused(run, str(run / "labelled.jsonl"), "no longer holds")


def test_a_run_with_one_evaluation_has_nothing_to_compare(tmp_path):
    run = make_run(tmp_path / "run")
    rows = read_rows(run / "transcripts.jsonl")
    write_rows(run / "transcripts.jsonl", [row for row in rows if row["step"] == 0])
    assert_refused(run, "one evaluation")


# ---------------------------------------------------------------- charts

@pytest.mark.parametrize("low, high", [
    (0.5, 0.698), (0, 1), (0.3, 0.3), (0, 0), (-2.5, 7), (7000, 7099), (1e-6, 2e-6)])
def test_even_ticks_hold_the_values_between_them(low, high):
    ticks = even_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize("low, high", [(1, 1), (0.2, 9.1), (1e-3, 40), (0.5, 2), (3, 9)])
def test_doubling_ticks_hold_the_values_and_one_between_them(low, high):
    ticks = doubling_ticks(low, high)
    assert ticks[0] <= min(low, 1)
    assert ticks[-1] >= max(high, 1)
    assert len(ticks) <= 9


def test_step_ticks_begin_at_0_and_end_within_the_run():
    assert step_ticks(60) == [0, 10, 20, 30, 40, 50, 60]
    assert step_ticks(24) == [0, 5, 10, 15, 20]
    assert step_ticks(12) == [0, 2, 4, 6, 8, 10, 12]
    assert step_ticks(1) == [0, 1]


def test_names_of_lines_do_not_stand_on_each_other():
    assert spread([10, 12, 60], 0, 100) == [10, 25, 60]
    assert spread([99, 98, 10], 0, 100) == [100, 85, 10]


# Step s stands at x = 50 + 10 s, the lowest tick at y = 216 and the highest at y = 16.
FRAME = dict(width=400, height=242, right_margin=150, last_step=20)
SHARES = Frame(**FRAME, ticks=[0, 0.5, 1])


def drawn_by(lines, frame=SHARES, **more):
    """line_chart's SVG, as elements."""
    return ElementTree.fromstring(line_chart("t", lines, frame, "{:.0%}".format, **more))


def elements(svg, style):
    """[(its attributes, its text)] of the elements of a class."""
    return [(one.attrib, one.text) for one in svg.iter() if one.get("class") == style]


RISING = Line("rising", [(0, 0.0), (5, 0.25), (20, 1.0)], "c0")


def test_a_line_goes_through_its_values_at_its_steps():
    svg = drawn_by([RISING])
    assert svg.find(".//polyline").get("points") == "50.0,216.0 100.0,166.0 250.0,16.0"
    dots = [(dot.get("cx"), dot.get("cy"), dot.find("title").text) for dot in svg.iter("circle")]
    assert dots == [
        ("50.0", "216.0", "rising, step 0: 0%"), ("100.0", "166.0", "rising, step 5: 25%"),
        ("250.0", "16.0", "rising, step 20: 100%")]
    assert svg.find(".//g/title").text == "rising: 0% → 100%"


def test_in_a_chart_of_factors_doublings_are_equally_high():
    line = Line("weight", [(0, 1.0), (10, 2.0), (20, 0.25)], "c0")
    svg = drawn_by([line], Frame(**FRAME, ticks=[0.25, 0.5, 1, 2, 4], log=True))
    assert svg.find(".//polyline").get("points") == "50.0,116.0 150.0,66.0 250.0,216.0"


def test_ticks_and_the_reference_stand_where_they_say():
    svg = drawn_by([RISING], Frame(**FRAME, ticks=[-1, 0, 1]), reference=0)
    values = [(at["y"], words) for at, words in elements(svg, "tick end")]
    assert values == [("220.0", "-100%"), ("120.0", "0%"), ("20.0", "100%")]
    steps = [(at["x"], words) for at, words in elements(svg, "tick middle")]
    assert steps == [(f"{50 + 10 * step}.0", str(step)) for step in (0, 5, 10, 15, 20)]
    lines = [(line["y1"], line["y2"]) for line, _ in elements(svg, "grid")]
    assert lines == [("216.0", "216.0"), ("116.0", "116.0"), ("16.0", "16.0")]
    (dashed, _), = elements(svg, "reference")
    assert (dashed["x1"], dashed["x2"], dashed["y1"], dashed["y2"]) == ("50", "250", "116.0", "116.0")


def test_a_period_is_shaded_from_its_first_step_to_its_last():
    svg = drawn_by([RISING], spans=[(0, 5, "one"), (5, 20, "two")])
    assert [(at["x"], at["width"]) for at, _ in elements(svg, "span")] == [
        ("50.0", "50.0"), ("100.0", "150.0")]
    assert [(at["x"], words) for at, words in elements(svg, "span-name")] == [
        ("55.0", "one"), ("105.0", "two")]


def test_at_the_end_of_a_line_stand_its_last_value_and_its_name():
    unnamed = Line("unnamed", [(0, 1.0), (20, 0.0)], "c1", labelled=False)
    falling = Line("falling " + 30 * "x", [(0, 1.0), (20, 0.25)], "c2")
    svg = drawn_by([unnamed, RISING, falling])
    (rising, words), = elements(svg, "name c0")
    assert (rising["x"], rising["y"], words) == ("258.0", "20.0", "100% rising")
    (below, words), = elements(svg, "name c2")
    assert (below["y"], words) == ("170.0", "25% falling " + 19 * "x" + "…")
    assert not elements(svg, "name c1")
    assert len(svg.findall(".//polyline")) == 3


def test_a_line_of_many_points_has_no_dots():
    assert not drawn_by([Line("x", [(k / 2, 0.5) for k in range(31)], "c0")]).findall(".//circle")


# ---------------------------------------------------------------- explained

def visit(step, move):
    return explain.visit_of(step, 3.0, move, "A", ["a", "b", "c"], [0.5, 1.0, 0.0])


def test_the_two_visits_that_moved_most_are_kept():
    visits = []
    for step, move in enumerate([0.3, -2.0, 0.0, 1.0, 0.5, 1.5]):
        visits = explain.keep_largest(visits, visit(step, move))
    assert [(one["step"], one["move"]) for one in visits] == [(1, -2.0), (5, 1.5)]


def test_of_visits_with_equal_moves_the_earlier_is_kept():
    visits = []
    for step in (4, 7, 9):
        visits = explain.keep_largest(visits, visit(step, 3.0))
    assert [one["step"] for one in visits] == [4, 7]


def test_a_visit_that_moved_nothing_is_not_kept():
    assert explain.keep_largest([], visit(1, 0.0)) == []


def test_of_a_visit_the_best_and_the_worst_paid_judgment_are_kept():
    kept = visit(1, 2.0)
    assert kept["best"] == {"reward": 1.0, "text": "b"}
    assert kept["worst"] == {"reward": 0.0, "text": "c"}
    assert kept["rewards"] == [0.5, 1.0, 0.0]


def test_a_long_text_keeps_its_ends_and_says_what_is_missing():
    assert explain.cut("abcdef", 6) == "abcdef"
    assert explain.cut("abcdefgh", 4, "which is in x") == (
        "ab\n[… 4 characters of the whole, which is in x …]\ngh")


def test_any_other_field_of_a_problem_says_what_kind_it_is():
    row = {**problem("train", 1, "x"), "slip": "sort", "time_limit": 3, "date": None,
           "canonical_solution": "def f(): ...", "task": "code",
           "starter_code": "", "setup": "", "libs": [], "compare": "floats", "checker": "check = 1"}
    assert explain.other_fields(row) == {
        "source": "x", "steps": ["step 1", "x"], "slip": "sort", "date": None}


def test_the_failed_program_is_explained_whichever_side_it_stood_on():
    good = candidate("p", "good", True, "")
    bad = candidate("p", "bad", False, "test 3")
    for pair in (Pair("p", {}, good, bad, "A", ""), Pair("p", {}, bad, good, "B", "")):
        row, = explain.explained_rows([{}], [pair], [[]])
        assert row["failed"] == "wrong_answer: test 3"
        assert row["right"] == pair.right
    assert explain.outcome_of({"status": "wrong_answer", "detail": None}) == "wrong_answer"


def test_a_visit_says_what_it_told_and_what_that_counted_for_apart():
    kept = explain.visit_of(3, 2.0, 0.5, "B", ["a", "b", "c"], [1.0, 0.0, 0.5])
    assert (kept["s"], kept["move"]) == (2.0, 0.5)
    assert kept["worst"] == {"reward": 0.0, "text": "b"}


@pytest.fixture
def learning(settings, tmp_path):
    """learning(name, steps): a finished run of that many steps that learns weights."""
    def train(name, steps):
        cfg = settings(
            weights="instance", steps=steps, batch=6, group=4, max_new_tokens=40, eval_every=0,
            save_every=1, out=str(tmp_path / name))
        run = tb.Run(cfg)
        run.train()
        return tmp_path / name
    return train


def test_explained_holds_what_moved_the_weights_of_a_run(learning, monkeypatch):
    """As the updates of the weights have it, for every pair and all of its visits."""
    told = {}  # {pair number: [move of each visit]}
    update = tb.DataWeights.update

    def note(self, index, s, mixed, pace):
        unit_s, move = update(self, index, s, mixed, pace)
        for i, one in zip(index.tolist(), move.tolist()):
            told.setdefault(i, []).append(one)
        return unit_s, move
    monkeypatch.setattr(tb.DataWeights, "update", note)
    run = learning("run", steps=8)

    rows = read_rows(run / "explained.jsonl")
    assert sum(len(row["moved"]) for row in rows) > 4
    assert any(len(values) > 2 for values in told.values())
    for i, row in enumerate(rows):
        values = [value for value in told.get(i, []) if value]
        largest = sorted(map(abs, values), reverse=True)[:2]
        assert [abs(one["move"]) for one in row["moved"]] == pytest.approx(largest, abs=1e-4)
        for one in row["moved"]:
            assert one["best"]["reward"] == max(one["rewards"]) == 1
            assert one["worst"]["reward"] == min(one["rewards"]) == 0
    assert [row["weight"] for row in rows] == [
        row["weight"] for row in read_rows(run / "weights.jsonl")]
    assert (run / "report.html").exists()


def test_a_continued_run_explains_like_an_undisturbed_one(learning):
    learning("continued", steps=3)
    continued = learning("continued", steps=6)
    whole = learning("whole", steps=6)
    assert (continued / "explained.jsonl").read_bytes() == (whole / "explained.jsonl").read_bytes()
    assert any(row["moved"] for row in read_rows(whole / "explained.jsonl"))


def test_explain_weights_prints_the_heaviest_and_the_lightest_and_trains_nothing(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    before = sorted(path.name for path in run.iterdir())
    tb.main(["--explain-weights", "--out", str(run)])
    printed = capsys.readouterr().out
    most, least = printed.split("==== what counts least")
    assert "weight 1.25  train/3/word" in most
    assert "weight 0.75  train/1/word" in least
    assert "steps: step 3, word" in most
    assert "step 3, s +1.50" in most
    assert "earned 1:\n      right of 3: word" in most
    assert "weight 0.50" not in printed  # no visit has moved it
    assert sorted(path.name for path in run.iterdir()) == before


def write_explained(folder, weights, unmoved=0):
    """explained.jsonl with a pair for each of these weights, and pairs that no visit has moved."""
    visit = explain.visit_of(5, 1.25, -2.5, "B", ["low", "high\nest", "mid"], [0.25, 1.0, 0.5])
    rows = []
    for k, weight in enumerate([*weights, *[1.0] * unmoved]):
        rows.append({
            "instance_id": f"p{k}", "weight_domain": "kind", "weight": weight, "visits": 9,
            "informed": 3, "right": "A", "fields": {"share": 0.125, "steps": ["sort", "big"]},
            "failed": "time_limit", "moved": [visit] if k < len(weights) else []})
    write_rows(folder / "explained.jsonl", rows)


def test_explain_weights_says_of_a_pair_what_its_row_holds(tmp_path, capsys):
    """The only pair that moved counts most; none counts least."""
    write_explained(tmp_path, [2.0], unmoved=2)
    explain.print_explained(tmp_path)
    head, _, told = capsys.readouterr().out.partition("\n\n")
    assert head.startswith(f"{tmp_path}: 3 pairs, of which 1 have moved a weight; 1 is average\n")
    assert told == """\
==== what counts most

weight 2.00  p0  (kind; 9 visits, 3 of them informed)
  share: 0.125
  steps: sort, big
  the wrong candidate: time_limit
  step 5, s +1.25, B is right; its judgments earned 0.25, 1, 0.5
    earned 1:
      high
      est
    earned 0.25:
      low

==== what counts least
"""


@pytest.mark.parametrize("weights, most, least", [
    ([1, 7, 2, 4, 3, 0.5, 6], [7, 6, 4], [2, 1, 0.5]), ([1, 5, 2, 4, 3], [5, 4], [2, 1])])
def test_explain_weights_prints_no_pair_at_both_ends(weights, most, least, tmp_path, capsys):
    write_explained(tmp_path, weights)
    explain.print_explained(tmp_path)
    ends = capsys.readouterr().out.split("==== what counts ")[1:]
    printed = [re.findall("^weight (.+?) ", end, re.M) for end in ends]
    assert [[float(weight) for weight in weights] for weights in printed] == [most, least]


def test_a_long_value_is_cut_in_words():
    assert explain.in_words("x" * 200) == "x" * 200
    assert explain.in_words(["x" * 150, "y" * 150]) == "x" * 150 + ", " + "y" * 48 + " …"


def test_explain_weights_says_where_no_weight_was_learned(tmp_path):
    run = make_run(tmp_path / "run")
    rows = read_rows(run / "explained.jsonl")
    write_rows(run / "explained.jsonl", [{**row, "moved": []} for row in rows])
    with pytest.raises(UserError, match="its weights are uniform, or none of its steps"):
        tb.main(["--explain-weights", "--out", str(run)])
