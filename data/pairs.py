"""What the judge is asked: pairs of candidates with a known winner, the prompt that shows them, the verdict in its answer.

Training (stage 3) and selection (stage 4) ask in the same words, so the words are here.
"""
import random
import re
from collections import defaultdict
from dataclasses import asdict, dataclass, replace

import torch
from tqdm import tqdm

from data.judge import WAIT, judge_prompt, parse_verdict, think_on
from data.rows import LABELLED, UserError, read_problems, read_rows, write_rows
from sample import RANK, SHARE, encode, gather, generate, say, stream


@dataclass
class Pair:
    """One training instance: two candidates of a problem, one passed and one failed, in random order."""
    instance_id: str
    problem: dict
    a: dict              # candidate row shown as A
    b: dict
    right: str           # "A" or "B": the one that passed
    group: str           # its domain, the values of --domain-key

    def flipped(self):
        """The same two candidates in the other order."""
        return Pair(self.instance_id, self.problem, self.b, self.a, "AB"[self.right == "A"], self.group)

    def prompt(self, tokenizer):
        """The ids that ask a judge about it."""
        return judge_ids(tokenizer, self.problem, self.a["code"], self.b["code"])

    def about(self):
        """What identifies and groups it in weights.jsonl."""
        failed = self.b if self.right == "A" else self.a
        return {"instance_id": self.instance_id, "problem_id": self.problem["problem_id"],
                "candidate_ids": [self.a["candidate_id"], self.b["candidate_id"]], "domain": self.problem["domain"],
                "difficulty": self.problem["difficulty"], "policy": failed["policy"], "group": self.group}


def read_pairs(s):
    """The training, meta and evaluation pairs of a run with these settings, after the audit of its splits. Raises UserError."""
    problems = read_problems(s.problems)
    labelled = read_rows(s.labelled, LABELLED, key=("problem_id", "candidate_id"))
    nulls = sum(row["passed"] is None for row in labelled)
    if nulls:
        say(f"note: {nulls} of {len(labelled)} candidates in {s.labelled} have no verdict and are left out")
    audit(problems, labelled, s.allow_overlap)
    only = [item.partition("=")[::2] for item in s.train_only]
    if any(not value for _, value in only):
        raise UserError(f"--train-only {' '.join(s.train_only)}: expected FIELD=VALUE")
    return [make_pairs(problems, labelled, split, s, only if split == "train" else ()) for split in ("train", "meta", s.eval_split)]


def make_pairs(problems, labelled, split, s, only=()):
    """Up to --pairs-per-problem pairs of each problem of one split that has a passed and a failed candidate.

    Programs that are the same text count once. The policy of a pair is that of its failed program. The pairs depend on the seed
    and the problem alone.
    Raises UserError if there are none.
    """
    by_problem = defaultdict(dict)
    for row in labelled:
        if row["passed"] is not None:  # null: the machinery failed, which says nothing about the program
            by_problem[row["problem_id"]].setdefault(row["code"], row)
    pairs, in_split, mixed = [], 0, 0
    for problem in problems.values():
        if problem["split"] != split:
            continue
        in_split += 1
        rows = list(by_problem.get(problem["problem_id"], {}).values())
        passed, failed = [r for r in rows if r["passed"]], [r for r in rows if not r["passed"]]
        mixed += bool(passed and failed)
        rng = random.Random(f"{s.seed}/{problem['problem_id']}")
        both = [(good, bad) for good in passed for bad in failed]
        for good, bad in rng.sample(both, min(s.pairs_per_problem, len(both))):
            right = rng.choice("AB")
            facts = {**problem, **{k: v for k, v in bad.items() if k not in problem}}
            missing = [k for k in (*s.domain_key, *(k for k, _ in only)) if k not in facts]
            if missing:
                raise UserError(f"--domain-key or --train-only: {problem['problem_id']} has no field {missing[0]!r}")
            if any(str(facts[k]) != v for k, v in only):
                continue
            a, b = (good, bad) if right == "A" else (bad, good)
            pairs.append(Pair(f"{problem['problem_id']}:{good['candidate_id']}>{bad['candidate_id']}", problem, a, b,
                              right, " × ".join(str(facts[k]) for k in s.domain_key)))
    if not pairs:
        raise UserError(f"{s.labelled}: no pairs for split {split!r}: of its {in_split} problems {mixed} have both a passing and "
                       "a failing candidate; sample more candidates (sample.py --n) or check the split")
    return pairs


def shuffled_weights(n, s):
    """--shuffle-weights, a control: the n weights of another run, dealt out to random pairs. As uneven, and knowing nothing."""
    weights = [row["weight"] for row in read_rows(s.shuffle_weights)]
    if len(weights) != n or s.weights != "uniform":
        raise UserError(f"--shuffle-weights {s.shuffle_weights}: {len(weights)} weights for {n} pairs; it goes with --weights uniform "
                       "and the weights.jsonl of a run on the same pairs")
    random.Random(s.seed).shuffle(weights)
    return weights


def audit(problems, labelled, allow_overlap=False):
    """What the splits share: says the policies of each, and raises UserError if a problem's text (letters and digits of its
    prompt; ids are unique anyway) stands in two of them, unless allowed. A judge must not be tested on what it was trained on."""
    texts, policies = defaultdict(list), defaultdict(set)
    for problem in problems.values():
        texts[re.sub(r"[\W_]+", " ", problem["prompt"]).strip().lower()].append(problem)
    for row in labelled:
        if row["problem_id"] in problems:
            policies[problems[row["problem_id"]]["split"]].add(row["policy"])
    shared = [same for same in texts.values() if len({p["split"] for p in same}) > 1]
    for same in shared:
        say("shared by splits: " + ", ".join(f"{p['problem_id']} ({p['split']})" for p in same))
    if shared and not allow_overlap:
        raise UserError(f"{len(shared)} problems are in more than one split (listed above): remove them from one, or say --allow-overlap")
    say(f"splits share {len(shared)} problems; policies: " + "; ".join(f"{split} {', '.join(sorted(names))}" for split, names in sorted(policies.items())))


def judge_ids(tokenizer, problem, code_a, code_b):
    return encode(tokenizer, judge_prompt(problem, code_a, code_b, chat=bool(tokenizer.chat_template)))


def summary(rows):
    """A judge's accuracy and the like: {name: number}, of rows with right, verdict and tokens, both orders of a pair side by side."""
    right = [row["verdict"] == row["right"] for row in rows]
    return {"accuracy": sum(right) / len(rows), "both_orders": sum(a and b for a, b in zip(right[::2], right[1::2])) / (len(rows) / 2),
            "parse_rate": sum(row["verdict"] is not None for row in rows) / len(rows), "tokens": sum(row["tokens"] for row in rows) / len(rows)}


# ---------------------------------------------------------------- cold start (J1, 2505.11875)

def cold_start_rows(judge, pairs, path, s):
    """G judgments of each training pair by the starting judge, as rows: those in `path`, or new ones, which are written there.

    A finished judgment with the wrong verdict says WAIT and thinks on, so that reflection is in the data (§3). Kept are those whose
    last verdict is right and that are no longer than later judgments may be. judge: train_bilevel.Judge. Raises UserError if none is.
    """
    if path.exists():
        rows = read_rows(path)
    else:
        rows = sum(gather(make_traces(judge, list(enumerate(pairs))[SHARE], s)), [])
        if RANK == 0:
            write_rows(path, rows)
    kept = [row for row in rows if row["kept"]]
    say(f"cold start: {len(kept)} of {len(rows)} judgments are kept, {sum(WAIT in row['text'] for row in kept)} of them with a second thought ({path})")
    if not kept:
        raise UserError("--cold-start: no judgment of the starting judge was right and short enough; raise --max-new-tokens or --group")
    return rows


def make_traces(judge, numbered, s):
    """The rows of these (number, pair)s: a list of G for each."""
    groups, n = [], s.group
    for start in tqdm(range(0, len(numbered), s.batch), desc="cold start: traces", unit="batch", disable=RANK > 0 or None):
        numbers, pairs = zip(*numbered[start:start + s.batch])
        r = judge.rollout(pairs, n, [stream(s.seed, "cold start", i) for i in numbers])
        wrong = [k for k, c in enumerate(r.completions) if c.finished and not r.rewards.flatten()[k]]
        if wrong:
            again = [stream(s.seed, "second thought", i) for i in numbers]
            uniforms = torch.stack([torch.rand(s.max_new_tokens, generator=again[k // n]) for k in wrong])
            prompts = [think_on(judge.tokenizer, r.prompts[k // n], r.completions[k]) for k in wrong]
            for k, prompt, more in zip(wrong, prompts, generate(judge.model, prompts, uniforms, s.temperature, judge.ends, judge.pad)):
                first = r.completions[k]
                r.completions[k] = replace(more, ids=prompt[len(r.prompts[k // n]):] + more.ids, logprob=first.logprob + more.logprob,
                                           drawn=first.drawn + more.drawn, certainty=first.certainty + more.certainty)
            r = judge.read(pairs, r.prompts, r.completions)
        rows = [{"instance_id": pairs[k // n].instance_id, "kept": bool(reward) and len(c.ids) <= s.max_new_tokens, "text": text, **asdict(c)}
                for k, (reward, c, text) in enumerate(zip(r.rewards.flatten(), r.completions, r.texts))]
        groups += [rows[k:k + n] for k in range(0, len(rows), n)]
    return groups
