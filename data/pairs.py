"""Training instances: pairs of a passing and a failing candidate of a problem; audit of splits."""
import random
import re
from collections import defaultdict
from dataclasses import dataclass

from data.rows import (CANDIDATE_KEY, LABELLED, SPLITS, UserError, read_problems, read_rows,
                       refuse_old_labels)


@dataclass
class Pair:
    """Two candidates of a problem, one passed and one failed, in random order.

    Of preference data: one that was preferred and one that was not (rows.py, `task`).
    """
    instance_id: str     # "PROBLEM:PASSED>FAILED"
    problem: dict        # its row
    a: dict              # the candidate row shown as A
    b: dict
    right: str           # "A" or "B": the one that passed
    domain: str          # the values of --domain-key, as in "reviewed × hard × weak"

    def flipped(self):
        """The same two candidates in the other order."""
        right = "B" if self.right == "A" else "A"
        return Pair(self.instance_id, self.problem, self.b, self.a, right, self.domain)

    def failed(self):
        return self.b if self.right == "A" else self.a

    def description(self):
        """The fields of weights.jsonl that say which pair this is."""
        failed = self.failed()
        return {
            "instance_id": self.instance_id,
            "problem_id": self.problem["problem_id"],
            "candidate_ids": [self.a["candidate_id"], self.b["candidate_id"]],
            "domain": self.problem["domain"],
            "difficulty": self.problem["difficulty"],
            "policy": failed["policy"],
            "weight_domain": self.domain,
        }


def in_both_orders(pairs):
    """Every pair, and behind it the same flipped: [2·pairs]."""
    both = []
    for pair in pairs:
        both += [pair, pair.flipped()]
    return both


def read_pairs(cfg):
    """The training, meta and evaluation pairs of a run, and what its user should be told.

    cfg: problems, labelled, train_split, meta_problems, eval_split, seed, pairs_per_problem,
    domain_key, train_only and allow_overlap of train_bilevel.Settings.
    Returns ([Pair] × 3, [text]).
    Raises UserError where a split has no pair, or two splits share a problem.
    """
    problems = read_problems(cfg.problems)
    labelled, left_out = read_labelled(cfg.labelled, problems)
    notes = audit(problems, labelled, cfg.allow_overlap)
    strange = [row for row in problems.values() if row["split"] not in SPLITS]
    if strange:
        notes.append(f"note: {len(strange)} problems are of none of the splits "
                     f"{', '.join(SPLITS)}; the first, {strange[0]['problem_id']}, "
                     f"is of {strange[0]['split']!r}")
    notes += left_out
    of_split = {}
    for split in dict.fromkeys((*cfg.train_split, "meta", cfg.eval_split)):  # each once
        of_split[split] = make_pairs(problems, labelled, split, cfg)
    of_split["meta"] = first_problems(of_split["meta"], cfg.meta_problems)
    train = []
    for split in dict.fromkeys(cfg.train_split):
        train += of_split[split]
    return [only(train, cfg), of_split["meta"], of_split[cfg.eval_split]], notes


def read_labelled(path, problems):
    """The rows of a labelled file, and a note on each kind of them that is left out.

    problems: {problem_id: row}. Returns ([row], [text]).
    Raises UserError where other tests than theirs have given the labels.
    """
    labelled = read_rows(path, LABELLED, key=CANDIDATE_KEY)
    refuse_old_labels(labelled, problems, path)
    notes = []
    of_others = sum(row["problem_id"] not in problems for row in labelled)
    if of_others:
        notes.append(f"note: {of_others} of {len(labelled)} candidates in {path} are of problems "
                     "that are not in --problems, and are left out")
    nulls = sum(row["passed"] is None for row in labelled)
    if nulls:
        notes.append(f"note: {nulls} of {len(labelled)} candidates in {path} have no verdict "
                     "and are left out")
    _, n_unclear = programs_of(labelled)
    if n_unclear:
        notes.append(f"note: {n_unclear} programs in {path} both passed and failed, as the same "
                     "text in two candidates of a problem, and are left out")
    return labelled, notes


def programs_of(labelled):
    """({problem_id: {code: row}}, number of texts left out as they have both verdicts).

    Programs that are the same text count once. null is no verdict: the machinery failed, which says
    nothing.
    """
    programs = defaultdict(dict)
    unclear = set()
    for row in labelled:
        if row["passed"] is None:
            continue
        first = programs[row["problem_id"]].setdefault(row["code"], row)
        if first["passed"] != row["passed"]:
            unclear.add((row["problem_id"], row["code"]))
    for problem_id, code in unclear:
        del programs[problem_id][code]
    return programs, len(unclear)


def first_problems(pairs, count):
    """The pairs of the first `count` problems among them; of all where count is 0."""
    problem_ids = list(dict.fromkeys(pair.problem["problem_id"] for pair in pairs))
    wanted = problem_ids[:count or None]
    return [pair for pair in pairs if pair.problem["problem_id"] in wanted]


def make_pairs(problems, labelled, split, cfg):
    """Up to --pairs-per-problem pairs of each problem of a split that has both kinds of candidates.

    The pairs of a problem depend on the seed and on its own candidates alone.
    Raises UserError if there are none.
    """
    programs, _ = programs_of(labelled)
    pairs = []
    n_problems = 0
    n_mixed = 0
    for problem_id, problem in problems.items():
        if problem["split"] != split:
            continue
        rows = programs[problem_id].values()
        passed = [row for row in rows if row["passed"]]
        failed = [row for row in rows if not row["passed"]]
        n_problems += 1
        n_mixed += bool(passed and failed)
        rng = random.Random(f"{cfg.seed}/{problem_id}")
        every_pair = [(good, bad) for good in passed for bad in failed]
        for good, bad in rng.sample(every_pair, min(cfg.pairs_per_problem, len(every_pair))):
            right = rng.choice("AB")
            values = [field_of(name, problem, bad, "--domain-key") for name in cfg.domain_key]
            pairs.append(Pair(
                instance_id=f"{problem_id}:{good['candidate_id']}>{bad['candidate_id']}",
                problem=problem,
                a=good if right == "A" else bad,
                b=bad if right == "A" else good,
                right=right,
                domain=" × ".join(values),
            ))
    if not n_problems:
        splits = ", ".join(sorted({problem["split"] for problem in problems.values()}))
        files = " ".join(map(str, cfg.problems))
        raise UserError(f"{cfg.labelled}: no pairs for split {split!r}: 0 problems of it in "
                        f"{files}; their splits: {splits}")
    if not pairs:
        raise UserError(f"{cfg.labelled}: no pairs for split {split!r}: of its {n_problems} "
                        f"problems {n_mixed} have both a passing and a failing candidate (or a "
                        "preferred one and another) whose verdict is clear; sample more candidates "
                        "(sample.py --n) or check the split")
    return pairs


def field_of(name, problem, failed, flag):
    """A field of a pair, as text.

    Its problem's, or that of its failed program, whose policy is the pair's.
    """
    fields = {**failed, **problem}
    if name not in fields:
        raise UserError(f"{flag}: {problem['problem_id']} has no field {name!r}")
    return str(fields[name])


def only(pairs, cfg):
    """Those of them that --train-only FIELD=VALUE ... asks for. UserError if there are none."""
    words = f"--train-only {' '.join(cfg.train_only)}"
    required = {}
    for item in cfg.train_only:
        name, _, value = item.partition("=")
        if not value or name in required:
            raise UserError(f"{words}: expected FIELD=VALUE, each field once")
        required[name] = value
    kept = []
    for pair in pairs:
        values = [field_of(name, pair.problem, pair.failed(), "--train-only") for name in required]
        if values == list(required.values()):
            kept.append(pair)
    if not kept:
        raise UserError(f"{words}: no training pair is of that kind")
    return kept


def letters_and_digits(prompt):
    """Those of a prompt, by which it is known: where they are equal, two prompts are the same."""
    return re.sub(r"[\W_]+", " ", prompt).strip().lower()


def audit(problems, labelled, allow_overlap=False):
    """What the splits share, as notes: a judge must not be tested on what it was trained on.

    Two problems are the same if letters and digits of their prompts are. Raises UserError if one
    stands in two splits, unless allowed. That splits share policies is no mistake; they are listed.
    """
    by_text = defaultdict(list)
    for problem in problems.values():
        by_text[letters_and_digits(problem["prompt"])].append(problem)
    overlaps = [group for group in by_text.values() if len({p["split"] for p in group}) > 1]
    shown = []
    for group in overlaps[:5]:
        shown.append(", ".join(f"{p['problem_id']} ({p['split']})" for p in group))
    listed = "; ".join(shown)
    if len(overlaps) > 5:
        listed += f"; and {len(overlaps) - 5} more"
    if overlaps and not allow_overlap:
        raise UserError(f"{len(overlaps)} problems are in more than one split ({listed}): "
                        "remove them from one, or say --allow-overlap")

    policies = defaultdict(set)
    for row in labelled:
        if row["problem_id"] in problems:
            policies[problems[row["problem_id"]]["split"]].add(row["policy"])
    by_split = [f"{split} {', '.join(sorted(names))}" for split, names in sorted(policies.items())]
    notes = [f"splits share {len(overlaps)} problems; policies: {'; '.join(by_split)}"]
    if overlaps:
        notes.insert(0, f"shared by splits: {listed}")
    return notes
