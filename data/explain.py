"""Why a training pair counts as much as it does: explained.jsonl, and its words for the terminal.

    {"instance_id": "edges/train/7:weak-0>weak-5", "weight_domain": "reviewed × easy × weak",
     "weight": 5.77, "visits": 32, "informed": 21, (all else of its row of weights.jsonl)
     "right": "B", "fields": {"steps": ["triple", "drop first", "flip"], "source": "edges", ...},
     "failed": "wrong_answer: public test 1: expected [6, 8], got []",
     "moved": [{"step": 10, "s": 2.422, "move": 1.0762, "right": "B",
                "rewards": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
                "best": {"reward": 1.0, "text": "try r 794 -> 27..."},
                "worst": {"reward": 0.0, "text": "skim: steps 3, A 3, B 3..."}}, ...]}

`moved` holds the two visits with the largest |move|, the largest first. s is what the step told the
weight: normalised, within ±3, and positive where learning from these judgments made the judge
better for the meta pairs. move is what that counted for: less the later in the run and the more
often the pair is drawn. All judgments of the visit have a part in it; the best paid one and the
worst paid one are kept: this is what the step would make more likely, and this less.
"""
from data.rows import OPTIONAL, PROBLEM, UserError, read_rows

KEPT_VISITS = 2           # of each pair
MOST_CHARACTERS = 4000    # of a judgment that is kept
SHOWN_PAIRS = 3           # in the terminal, at either end
PRINTED_CHARACTERS = 1000
# What a problem is asked, solved and tested by. Any other field says what kind of problem it is.
KNOWN_FIELDS = {*PROBLEM, *OPTIONAL, "task"}


# ---------------------------------------------------------------- remembered while it trains

def visit_of(step, s, move, right, texts, rewards):
    """One visit of a pair as it is kept.

    right: the right verdict there, "A" or "B": a pair is shown in either order. texts, rewards: of
    its G judgments.
    """
    def judgment(k):
        return {"reward": rewards[k], "text": cut(texts[k], MOST_CHARACTERS)}
    return {
        "step": step,
        "s": round(s, 4),
        "move": round(move, 4),
        "right": right,
        "rewards": rewards,
        "best": judgment(rewards.index(max(rewards))),
        "worst": judgment(rewards.index(min(rewards))),
    }


def keep_largest(visits, visit):
    """`visits` of a pair and a new one, cut to the KEPT_VISITS with the largest |move|.

    Of equals the earlier stays. A visit whose move is 0 is not kept.
    """
    if not visit["move"]:
        return visits
    by_size = sorted([*visits, visit], key=lambda one: (-abs(one["move"]), one["step"]))
    return by_size[:KEPT_VISITS]


def cut(text, most, whole="which was not kept"):
    """The text, or its first and last characters and how many lie between.

    whole: where the whole is.
    """
    if len(text) <= most:
        return text
    half = most // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters of the whole, {whole} …]\n{text[-half:]}"


# ---------------------------------------------------------------- explained.jsonl

def explained_rows(weight_rows, pairs, moved):
    """The rows of explained.jsonl: those of weights.jsonl, with what a pair is and what moved it.

    moved: the kept visits of each pair.
    """
    rows = []
    for row, pair, visits in zip(weight_rows, pairs, moved, strict=True):
        rows.append({
            **row,
            "right": pair.right,
            "fields": other_fields(pair.problem),
            "failed": outcome_of(pair.failed()),
            "moved": visits,
        })
    return rows


def other_fields(problem):
    """The fields of a problem that say what kind it is, such as `steps`, `source`, `date`."""
    return {name: value for name, value in problem.items() if name not in KNOWN_FIELDS}


def outcome_of(candidate):
    """How a candidate ended, in words: its status, and on what."""
    words = [candidate["status"], str(candidate.get("detail") or "")]
    return ": ".join(filter(None, words))


# ---------------------------------------------------------------- in the terminal

def print_explained(out):
    """Print which pairs of the run in the folder `out` count most and which least, and why.

    Raises UserError if no weight was learned there.
    """
    rows = read_rows(out / "explained.jsonl")
    moved = [row for row in rows if row["moved"]]
    if not moved:
        raise UserError(f"{out}: none of its pairs has moved a weight: its weights are uniform, or "
                        "none of its steps could move them (the end of its output says why)")
    moved.sort(key=lambda row: -row["weight"])
    n_shown = min(SHOWN_PAIRS, len(moved) // 2)
    heaviest = moved[:max(n_shown, 1)]
    lightest = moved[len(moved) - n_shown:]
    print(f"{out}: {len(rows)} pairs, of which {len(moved)} have moved a weight; 1 is average\n"
          "s: what a visit told the weight, from -3 (less of this) to +3 (more of this).")
    print("\n==== what counts most")
    for row in heaviest:
        print_row(row)
    print("\n==== what counts least")
    for row in lightest:
        print_row(row)


def print_row(row):
    print(f"\nweight {row['weight']:.2f}  {row['instance_id']}  ({row['weight_domain']}; "
          f"{row['visits']} visits, {row['informed']} of them informed)")
    for name, value in row["fields"].items():
        print(f"  {name}: {in_words(value)}")
    print(f"  the wrong candidate: {row['failed']}")
    for visit in row["moved"]:
        print(f"  step {visit['step']}, s {visit['s']:+.2f}, {visit['right']} is right; "
              f"its judgments earned {in_words(visit['rewards'])}")
        for judgment in (visit["best"], visit["worst"]):
            text = cut(judgment["text"].strip(), PRINTED_CHARACTERS, "which is in explained.jsonl")
            text = text.replace("\n", "\n      ")
            print(f"    earned {judgment['reward']:g}:\n      {text}")


def in_words(value, most=200):
    """A field's value in at most so many characters."""
    if isinstance(value, list):
        text = ", ".join(in_words(item) for item in value)
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        text = str(value)
    return text if len(text) <= most else f"{text[:most]} …"
