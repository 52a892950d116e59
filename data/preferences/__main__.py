"""Preference data -> problems and labelled answers, ready for stages 3 and 4.

    python -m data.preferences --benchmark rewardbench --out runs/rb/labelled.jsonl
    python -m data.preferences --benchmark rmb --problems RMB_dataset/ --out runs/rmb/labelled.jsonl
    python -m data.preferences --benchmark pairs --problems RISE.jsonl \\
        --as-split train=0.9 meta=0.05 dev=0.05 --out runs/rise/labelled.jsonl

It takes the place of sample.py and execute.py: no model writes, nothing is executed. An answer that
was preferred is labelled "passed": true and "status": "preferred". problems.jsonl is written beside
--out.
"""
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.flags import flag, heading, parse, run
from data.preferences import PREFERENCES, fetch, read_preferences
from data.rows import ROOT, SPLITS, UserError, asks_for_answers, must_hold_only, write_rows


@dataclass
class Settings:
    heading("preferences")
    benchmark: str = flag(None, "whose format the files have", type=str, choices=list(PREFERENCES))
    problems: list = flag(list, "its own files, or folders of them (default: those on the hub, "
                          "where they are known to be)", metavar="FILE")
    as_split: list = flag(lambda: ["test"], "what the problems are to be: train, meta, dev or test;"
                          " or shares of these, by a hash of the prompt, as in train=0.9 meta=0.1",
                          metavar="SPLIT")

    heading("output")
    out: Path = flag(ROOT / "runs/preferences/labelled.jsonl",
                     "labelled answers, problems.jsonl beside them", type=Path)

    def __post_init__(self):
        if self.benchmark is None:
            raise UserError(f"--benchmark: name one of {', '.join(PREFERENCES)}")
        self.shares = shares_of(self.as_split)


def shares_of(words):
    """((split, share), ...) of --as-split."""
    asked = f"--as-split {' '.join(words)}"
    shares = []
    for word in words:
        split, equals, share = word.partition("=")
        if split not in SPLITS:
            raise UserError(f"{asked}: {split!r} must be one of {', '.join(SPLITS)}")
        try:
            shares.append((split, float(share) if equals else 1.0))
        except ValueError:
            raise UserError(f"{asked}: {share!r} is no number") from None
    parts = [share for _, share in shares]
    all_different = len({split for split, _ in shares}) == len(shares)
    adds_up = abs(sum(parts) - 1) <= 1e-6       # which nan does not
    if not all_different or min(parts) < 0 or not adds_up:
        raise UserError(f"{asked}: name one split, or different ones with shares that add up to 1")
    return tuple(shares)


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    problems_file = cfg.out.with_name("problems.jsonl")
    must_hold_only(problems_file, asks_for_answers, "preferences")
    must_hold_only(cfg.out, is_labelled_by_preference, "preferences")

    left_out = Counter()
    problems = []
    labelled = []
    paths = cfg.problems or fetch(cfg.benchmark)
    for problem, candidates in read_preferences(cfg.benchmark, paths, cfg.shares, left_out):
        problems.append(problem)
        labelled += candidates
    if not problems:
        raise UserError(f"--problems {' '.join(cfg.problems)}: no row has two answers to compare")
    write_rows(problems_file, problems)
    write_rows(cfg.out, labelled)
    report(problems, labelled, left_out, problems_file, cfg)


def is_labelled_by_preference(row):
    return row.get("status") in ("preferred", "not_preferred")


def report(problems, labelled, left_out, problems_file, cfg):
    count = Counter(problem["split"] for problem in problems)
    by_split = ", ".join(f"{count[split]} {split}" for split, _ in cfg.shares)
    print(f"{len(problems)} problems ({by_split}) with {len(labelled)} answers, "
          "labelled by preference; nothing was executed")
    for what, number in left_out.items():
        print(f"note: left out: {number} {what}")
    print(f"problems: {problems_file}\nlabelled: {cfg.out}")
    held_out = [split for split in ("test", "dev") if count[split]]
    if count["train"] and count["meta"] and held_out:
        stage = f"train_bilevel.py --lora-rank 16 --eval-split {held_out[0]}"
    else:
        stage = f"select.py --split {cfg.shares[0][0]} --aggregate round-robin"
        if count["train"]:
            print("note: to train a judge with learned weights, make some of train, some of meta, "
                  "and some of test or dev (--as-split)")
    files = shlex.join(["--problems", str(problems_file), "--labelled", str(cfg.out)])
    print(f"next: python {stage} {files} --max-new-tokens 1024 --judge NAME_OR_PATH")


if __name__ == "__main__":
    run(main)
