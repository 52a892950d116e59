"""What a training run has left behind, and as much of it as a page can hold. For data/page.py.

Reads settings.json, metrics.jsonl, transcripts.jsonl and explained.jsonl of the run, and the
problems and labelled candidates that its settings name.
"""
import json
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from data.explain import cut, in_words, outcome_of
from data.pairs import read_pairs
from data.rows import UserError, read_rows

MOST_BYTES = 4_000_000  # of the JSON block
# From the best that a page can hold to the least: characters of a text, pairs with their texts.
SIZES = ((8000, 100_000), (4000, 100_000), (2000, 100_000), (1000, 100_000), (1000, 1000),
         (1000, 500), (1000, 200), (1000, 100), (1000, 0))
PAIR_FIELDS = ("domain", "difficulty", "policy", "weight_domain")  # of Pair.description


# ---------------------------------------------------------------- the files of a run

@dataclass
class RunFiles:
    """What a run has left behind."""
    name: str
    settings: SimpleNamespace   # as in train_bilevel.Settings
    metrics: list
    transcripts: list
    explained: list             # rows of explained.jsonl, the heaviest first
    pairs: dict                 # {instance_id: data.pairs.Pair}, training and evaluation pairs

    @property
    def kinds(self):
        """The kinds of training pairs (values of --domain-key), the heaviest first."""
        weights = self.weights_of_kinds()
        return sorted(weights, key=lambda kind: (-np.mean(weights[kind]), kind))

    def weights_of_kinds(self):
        """{kind: weights of its pairs}"""
        weights = defaultdict(list)
        for row in self.explained:
            weights[row["weight_domain"]].append(row["weight"])
        return weights

    @property
    def telling_fields(self):
        """Fields of the training problems, such as `steps`, that differ between them."""
        values = defaultdict(set)
        for row in self.explained:
            for name, value in row["fields"].items():
                values[name].add(json.dumps(value))
        return [name for name in values if len(values[name]) > 1]

    @property
    def learned(self):
        return self.settings.weights != "uniform"


def read_run(out):
    """The files of the run in the folder `out`.

    Raises UserError where one is missing, or where problems and candidates are no longer those of
    the run.
    """
    try:
        settings = SimpleNamespace(**json.loads((out / "settings.json").read_text()))
    except FileNotFoundError:
        raise UserError(f"{out}: has no settings.json; give the folder of a run (--out of "
                        "train_bilevel.py)") from None
    explained = read_rows(out / "explained.jsonl")
    explained.sort(key=lambda row: (-row["weight"], row["instance_id"]))
    transcripts = read_rows(out / "transcripts.jsonl")
    (train, _, evaluated), _ = read_pairs(settings)
    pairs = {pair.instance_id: pair for pair in train + evaluated}
    for row in explained + transcripts:
        if row["instance_id"] not in pairs:
            raise UserError(f"{settings.labelled}: no longer holds {row['instance_id']}, a pair of "
                            f"{out}; put the file back that the run has read")
    metrics = read_rows(out / "metrics.jsonl")
    return RunFiles(out.resolve().name, settings, metrics, transcripts, explained, pairs)


@dataclass
class Judged:
    """An evaluated pair in one order, and what the judge said of it first and last."""
    pair: object   # data.pairs.Pair, in the order in which it was shown
    before: dict   # row of transcripts.jsonl
    after: dict

    @property
    def outcome(self):
        """(right before, right after)"""
        right = self.pair.right
        return self.before["verdict"] == right, self.after["verdict"] == right


def first_and_last(run):
    """[Judged] from the first and the last evaluation of a run.

    Raises UserError while there is only one.
    """
    first = run.transcripts[0]["step"]
    last = run.transcripts[-1]["step"]
    if first == last:
        raise UserError(f"{run.name}: holds one evaluation so far, and the page compares two: "
                        "let the run go on (--eval-every)")
    after = {}
    for row in run.transcripts:
        if row["step"] == last:
            after[row["instance_id"], row["right"]] = row
    judged = []
    for row in run.transcripts:
        if row["step"] == first:
            judged.append(Judged(as_shown(run, row), row, after[row["instance_id"], row["right"]]))
    return judged


def as_shown(run, row):
    """The pair of a transcript, in its order."""
    pair = run.pairs[row["instance_id"]]
    return pair if pair.right == row["right"] else pair.flipped()


# ---------------------------------------------------------------- what the browser fills in

def safe_json(value):
    """JSON that may stand in a <script>: no character in it can end or open a tag.

    "</script>" -> "\\u003c/script\\u003e", which JSON.parse reads as the same text.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def payload(run, judged):
    """What page.js shows: as much of the run as fits into MOST_BYTES."""
    for most_characters, most_pairs in SIZES:
        content = Payload(run, most_characters, most_pairs).content(judged)
        size = len(safe_json(content).encode("utf-8", "backslashreplace"))
        if size <= MOST_BYTES:
            break
    return content


class Payload:
    """The pairs of a run as page.js reads them; a problem or a candidate stands there once."""

    def __init__(self, run, most_characters, most_pairs):
        self.run = run
        self.most_characters = most_characters
        self.most_pairs = most_pairs  # with their texts, in either list
        self.problems = {}            # {problem_id: (place, row)}
        self.candidates = {}          # {(problem_id, candidate_id): (place, row)}
        self.telling_fields = run.telling_fields
        self.weights = run.weights_of_kinds()

    def content(self, judged):
        explained = self.run.explained
        shown = ends_of(len(explained), self.most_pairs)
        training = [self.training(row, k in shown) for k, row in enumerate(explained)]
        shown = spaced(len(judged), self.most_pairs)
        browser = [self.judged(one) for k, one in enumerate(judged) if k in shown]
        return {
            "training": training,
            "judged": browser,
            "judgedInAll": len(judged),
            "steps": [judged[0].before["step"], judged[0].after["step"]],
            "problems": [row for _, row in self.problems.values()],
            "candidates": [row for _, row in self.candidates.values()],
        }

    def training(self, row, with_texts):
        """A training pair: its row of explained.jsonl, and where its texts stand."""
        names = (*PAIR_FIELDS, "weight", "visits", "informed")
        shown = {
            "id": row["instance_id"],
            **{name: row[name] for name in names},
            "fields": listed(row["fields"], self.telling_fields),
            "s": row["moved"][0]["s"] if row["moved"] else None,
        }
        if not with_texts:
            return shown
        pair = self.run.pairs[row["instance_id"]]
        moved = []
        for visit in row["moved"]:
            judgments = {}
            for which in ("best", "worst"):
                text = self.cut(visit[which]["text"], "explained.jsonl")
                judgments[which] = {**visit[which], "text": text}
            moved.append({**visit, **judgments})
        mean = np.mean(self.weights[row["weight_domain"]])
        facts = listed({row["weight_domain"]: f"mean weight {mean:.2f}", **row["fields"]})
        return {**shown, **self.places_of(pair), "facts": facts, "moved": moved}

    def judged(self, one):
        """An evaluated pair in one order, with the first and the last judgment."""
        pair = one.pair
        description = pair.description()
        judgments = {}
        for when, row in (("before", one.before), ("after", one.after)):
            where = f"step {row['step']} of transcripts.jsonl"
            judgments[when] = {
                "verdict": row["verdict"],
                "tokens": row["tokens"],
                "text": self.cut(row["text"], where),
            }
        return {
            "id": pair.instance_id,
            **{name: description[name] for name in PAIR_FIELDS},
            **self.places_of(pair),
            **judgments,
        }

    def places_of(self, pair):
        return {
            "problem": self.place_of_problem(pair.problem),
            "a": self.place_of_candidate(pair.a),
            "b": self.place_of_candidate(pair.b),
            "right": pair.right,
        }

    def place_of_problem(self, problem):
        key = problem["problem_id"]
        if key not in self.problems:
            prompt = self.cut(problem["prompt"], "the file of problems")
            self.problems[key] = len(self.problems), {"id": key, "prompt": prompt}
        return self.problems[key][0]

    def place_of_candidate(self, candidate):
        key = candidate["problem_id"], candidate["candidate_id"]
        if key not in self.candidates:
            row = {
                "id": candidate["candidate_id"],
                "outcome": in_words(outcome_of(candidate)),
                "text": self.cut(candidate["code"], self.run.settings.labelled),
            }
            self.candidates[key] = len(self.candidates), row
        return self.candidates[key][0]

    def cut(self, text, whole):
        return cut(text, self.most_characters, f"which is in {whole}")


def listed(fields, names=None):
    """Fields in words: {"steps": ["sort", "big"], "slip": "big"} -> "steps: sort, big; slip: big".

    names: those that are wanted; None for all.
    """
    parts = []
    for name, value in fields.items():
        if names is None or name in names:
            parts.append(f"{name}: {in_words(value)}")
    return "; ".join(parts)


def ends_of(n, most):
    """At most so many of n places, from both ends: of ten and four {0, 1, 8, 9}."""
    if n <= most:
        return set(range(n))
    first = most - most // 2
    return set(range(first)) | set(range(n - most // 2, n))


def spaced(n, most):
    """At most so many of n places, evenly spaced and two by two, as the two orders of a pair stand.

    Of twelve and six {0, 1, 4, 5, 8, 9}.
    """
    if n <= most:
        return set(range(n))
    n_pairs = n // 2
    shown = most // 2
    pairs = [k * n_pairs // shown for k in range(shown)]
    return {place for pair in pairs for place in (2 * pair, 2 * pair + 1)}
