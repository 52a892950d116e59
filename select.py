"""Stage 4: pick one of N candidates with the judge, beside every simple way of picking one.

    python select.py                                                   the tiny world, after train_bilevel.py
    python select.py --problems P.jsonl --labelled L.jsonl --judge runs/NAME/judge --out S.jsonl
    python select.py --aggregate rounds round-robin knockout --waits 0 1 2 4 --n 1 2 4 8     all it can compare, minutes
    python select.py --api-base http://127.0.0.1:8000/v1 --api-model NAME                    the judge is on a server
    python select.py --explain PROBLEM_ID                              why the judge chose what it chose

Reads   problems and labelled candidates; a candidate's label is used to score a choice, never to make it.
Writes  selections.jsonl, one row for each problem, method and N, and judgments.jsonl beside it: every verdict, keyed by
        judge, settings, prompt and pair, so that a killed run goes on and every aggregator draws on the same judgments.

The judge's choice is DaJ's (arXiv 2601.22230): R rounds, each pairs the programs at random, and votes decide. Both
orders of a pair are judged, so that a judge that always says "A" gains nothing. `--waits` is J1's simple test-time
scaling (2505.11875): instead of ending, the judge has to think on. Its control is more votes, for as many tokens.

A method is a probability for each candidate (ties share it), so "random" is its exact expectation and no
method's number hangs on how ties were broken.
"""
import sys

if __name__ == "select":
    # This file is named like a module of the standard library. With a Python whose `select` is a shared
    # library, `import subprocess` in any script of this folder looks for `select` on sys.path and finds this
    # file first. So, when imported under that name, it steps aside: the real module is found on the rest of the
    # path (or among the built-in modules) and takes this one's place in sys.modules. Nothing else is imported.
    import importlib.machinery
    import importlib.util
    import os

    _here = os.path.dirname(os.path.abspath(__file__))
    _elsewhere = [entry for entry in sys.path if os.path.abspath(entry or os.getcwd()) != _here]
    _spec = (importlib.machinery.BuiltinImporter.find_spec("select")
             or importlib.machinery.PathFinder.find_spec("select", _elsewhere))
    if _spec is None:
        raise ImportError("the standard library's module 'select' was not found on sys.path outside of " + _here)
    _real = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_real)
    sys.modules["select"] = _real  # `import` hands out what stands here at the end
else:
    import argparse
    import hashlib
    import time
    from collections import Counter, defaultdict
    from dataclasses import asdict
    from functools import partial
    from itertools import combinations
    from pathlib import Path

    import numpy as np
    import torch
    from tqdm import tqdm

    from data import api
    from data.flags import run
    from data.judge import PROTOCOL, WAIT, judge_prompt, parse_verdict, think_on
    from data.pairs import judge_ids
    from data.rows import LABELLED, ROOT, TINY, Appender, UserError, read_problems, read_rows, stage_input, write_rows
    from data.tables import explain, is_mixed, show, show_waits, spent, standing, waits
    from sample import Completion, encode, end_ids, generate, load_model, logits_of, pad_id, stream


# ---------------------------------------------------------------- judgments

# What identifies one in the cache: the `draw`-th time that this judge sees candidate a's program as A and b's as B, after thinking
# on `wait` times. Which aggregator asked is not part of it.
JUDGMENT = ("judge", "settings", "problem_id", "draw", "a", "b", "wait", "prompt")


def programs(candidates):
    """The different programs among a problem's candidates, as their first candidates: equal texts are not compared."""
    first = {}
    for c in candidates:
        first.setdefault(c["code"], c)
    return list(first.values())


def fingerprint(name):
    """A judge's name with a digest of what decides its answers: retrained in the same folder it is another judge."""
    digest = hashlib.sha256()
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else []:
        if path.suffix in (".safetensors", ".bin", ".jinja") or path.name in ("config.json", "tokenizer.json"):
            with open(path, "rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{name}@{digest.hexdigest()[:8]}"


def prompt_digest(problem, code_a, code_b, wait=0):
    text = PROTOCOL + judge_prompt(problem, code_a, code_b or "") + wait * WAIT
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]


class Judge:
    """A Hugging Face checkpoint, loaded when the first judgment is missing; or, without a path, the model behind --api-base."""

    def __init__(self, path, args):
        self.path, self.args, self.model = path, args, None
        self.name = fingerprint(path) if path else f"{args.api_model}@{args.api_base}{' plain' * args.api_plain}"
        self.settings = f"{args.seed}/{args.temperature}/{args.max_new_tokens}"

    def answers(self, questions):
        """Yield an answer for each (problem, code A, code B, said before or None, random stream). Without a B: is A correct?"""
        if not self.path:
            bodies = [api.body(self.args, judge_prompt(*shown), rng.initial_seed(), PROTOCOL, "" if said is None else said + WAIT)
                      for *shown, said, rng in questions]
            yield from map(asdict, api.complete(self.args.api_base, bodies, self.args.in_flight))
            return
        if self.model is None:
            self.model, self.tokenizer = load_model(self.path, self.args.device, self.args.dtype, flag="--judge")
        ends = end_ids(self.model, self.tokenizer)
        for start in range(0, len(questions), self.args.batch_size):
            part, begun = questions[start:start + self.args.batch_size], time.monotonic()
            prompts = [self.prompt(*question) for *question, _ in part]
            if part[0][2] is None:
                yield from ({"text": "", "tokens": 0, "finished": True, "seconds": 0.0, "yes": p} for p in self.p_yes(prompts))
                continue
            uniforms = torch.cat([torch.rand(1, self.args.max_new_tokens, generator=rng) for *_, rng in part])
            made = generate(self.model, prompts, uniforms, self.args.temperature, ends, pad_id(self.tokenizer, ends))
            seconds = round((time.monotonic() - begun) / len(part), 4)
            for done in made:
                text = self.tokenizer.decode(done.ids[:-1] if done.finished else done.ids)
                yield {"text": text, "tokens": len(done.ids), "finished": done.finished, "seconds": seconds}

    def prompt(self, problem, code_a, code_b, said):
        """Token ids. A judge that thinks on sees each of its thoughts with WAIT behind it."""
        if code_b is None:
            return encode(self.tokenizer, f"{problem['prompt'].rstrip()}\n{code_a.rstrip()}\nIs this correct? Answer Yes or No.\n")
        ids = judge_ids(self.tokenizer, problem, code_a, code_b)
        for thought in [] if said is None else said.split(WAIT):
            ids = think_on(self.tokenizer, ids, Completion(self.tokenizer(thought, add_special_tokens=False).input_ids, 0.0, False))
        return ids

    def p_yes(self, prompts):
        """P(Yes) / (P(Yes) + P(No)) of the first token of the answer."""
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):  # causal attention hides what stands to the right of a prompt
            ids[row, :len(prompt)] = torch.tensor(prompt)
        with torch.no_grad():
            hidden = self.model.base_model(input_ids=ids.to(self.model.device)).last_hidden_state
            logits = logits_of(self.model, hidden[range(len(prompts)), [len(p) - 1 for p in prompts]])   # [prompts, V]
        yes, no = (self.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("Yes", "No"))
        return torch.sigmoid(logits[:, yes] - logits[:, no]).tolist()


def collect(judge, wanted, problems, candidates, cache):
    """Judge until nothing that is wanted is missing: {problem_id: rows}, in the order of the calls.

    wanted(problem_id, ids, known) -> calls (draw, a, b, wait). It is asked again after every batch, with known = {call: row} so
    far: what a knockout wants next, and what can think on, depends on what was said.
    """
    code = {pid: {None: None, **{c["candidate_id"]: c["code"] for c in candidates[pid]}} for pid in problems}
    ids, known = {pid: [c["candidate_id"] for c in programs(candidates[pid])] for pid in problems}, {pid: {} for pid in problems}

    def key(pid, call):
        digest = prompt_digest(problems[pid], code[pid][call[1]], code[pid][call[2]], call[3])
        return judge.name, judge.settings, pid, *call, digest

    with tqdm(total=0, desc=f"judge {judge.name.split('@')[0]}", unit="judgment", delay=0.5) as bar:
        while True:
            calls = {pid: wanted(pid, ids[pid], known[pid]) for pid in problems}
            new = [(pid, call) for pid in problems for call in calls[pid] if call not in known[pid]]
            if not new:
                return {pid: [known[pid][call] for call in calls[pid]] for pid in problems}
            missing, questions, before = [(pid, call) for pid, call in new if key(pid, call) not in cache.rows], [], []
            for pid, (draw, a, b, wait) in missing:
                before.append(known[pid][draw, a, b, wait - 1] if wait else {"tokens": 0, "seconds": 0.0})
                questions.append((problems[pid], code[pid][a], code[pid][b], before[-1].get("text"),
                                  stream(judge.args.seed, "judgment", pid, draw, a, b, wait)))
            bar.total += len(missing)
            for (pid, call), first, said in zip(missing, before, judge.answers(questions) if missing else ()):
                text = first["text"] + WAIT + said["text"] if "text" in first else said["text"]
                row = dict(zip(JUDGMENT, key(pid, call)), **said) | {"text": text, "verdict": parse_verdict(text)}
                row |= {"tokens": first["tokens"] + said["tokens"], "seconds": round(first["seconds"] + said["seconds"], 4)}
                cache.append(row)
                cache.rows[key(pid, call)] = row
                bar.update()
            for pid, call in new:
                known[pid][call] = cache.rows[key(pid, call)]


# ---------------------------------------------------------------- aggregators: which judgments, and what follows from them

def schedule(problem_id, ids, rounds, seed):
    """DaJ's calls, (draw, id shown as A, id shown as B, 0): in each round a program has one rival, in both orders.

    With an odd number of programs one sits out; who does is drawn anew in every round.
    """
    calls, met = [], Counter()
    for k in range(rounds if len(ids) > 1 else 0):
        order = torch.randperm(len(ids), generator=stream(seed, "pairing", problem_id, k)).tolist()
        for i, j in zip(order[0::2], order[1::2]):
            draw = met[frozenset((i, j))]
            met[frozenset((i, j))] += 1
            calls += [(draw, ids[i], ids[j], 0), (draw, ids[j], ids[i], 0)]
    return calls


def want_rounds(rounds, seed, wait=0):
    """R rounds of random pairing; a judgment thinks on `wait` times, each time after the one before."""
    return lambda pid, ids, known: [(draw, a, b, k) for draw, a, b, _ in schedule(pid, ids, rounds, seed) for k in range(wait + 1)
                                    if k == 0 or (draw, a, b, k - 1) in known]


def want_every_pair(pid, ids, known):
    """Round-robin: every pair once, in both orders."""
    return [(0, *order, 0) for pair in combinations(ids, 2) for order in (pair, pair[::-1])]


def want_knockout(seed):
    """The pairs that can meet in the knockout, as far as it has come: each once, in both orders."""
    def wanted(pid, ids, known):
        knockout(*tally(ids, known.values()), bracket(pid, len(ids), seed), pairs := [])
        return [(0, ids[i], ids[j], 0) for pair in pairs for i, j in (pair, pair[::-1])]
    return wanted


def tally(ids, judgments):
    """W, M [n, n]: W[i, j] is how many judgments between i and j program i won, M[i, j] how many there are. No verdict, no vote."""
    place, W, M = {cid: k for k, cid in enumerate(ids)}, np.zeros((len(ids),) * 2, int), np.zeros((len(ids),) * 2, int)
    for row in judgments:
        a, b = place[row["a"]], place[row["b"]]
        M[[a, b], [b, a]] += 1
        if row["verdict"]:
            W[(a, b) if row["verdict"] == "A" else (b, a)] += 1
    return W, M


def by_share(W, M, order):
    """The highest share of its judgments won, Σ_j W_ij / Σ_j M_ij, of the programs in `order` -> probabilities [n]."""
    won, judged = (X[np.ix_(order, order)].sum(1) for X in (W, M))
    p = np.zeros(len(W))
    p[order] = best(np.where(judged > 0, won / np.maximum(judged, 1), -1))  # one that nobody judged: behind all that were
    return p


def by_knockout(W, M, order):
    wins = knockout(W, np.ones_like(M), order, [])
    return np.array([wins.get(i, 0.0) for i in range(len(W))])


def by_votes(candidates, judgments, choose=by_share, problem_id="", seed=0):
    """Probabilities of the candidates [N]; equal texts stand behind the first of them. A lone program needs no judge."""
    ids = [c["candidate_id"] for c in programs(candidates)]
    p = dict(zip(ids, choose(*tally(ids, judgments), bracket(problem_id, len(ids), seed))))
    return np.array([p.get(c["candidate_id"], 0.0) for c in candidates])


def bracket(problem_id, n, seed):
    return torch.randperm(n, generator=stream(seed, "bracket", problem_id)).tolist()


def knockout(W, M, order, pairs):
    """Single elimination: both halves of `order` send a winner, and who wins more judgments between the two goes on; if that is
    equal, each does half the time. Returns {program: P(it wins)}, {} while a judgment is missing; adds to `pairs` who can meet.
    """
    if len(order) == 1:
        return {order[0]: 1.0}
    left, right = (knockout(W, M, half, pairs) for half in (order[:len(order) // 2], order[len(order) // 2:]))
    wins, here = defaultdict(float), [(i, j) for i in left for j in right]
    for i, j in here:
        beats = 0.5 + 0.5 * np.sign(W[i, j] - W[j, i])  # P(i goes on)
        wins[i] += left[i] * right[j] * beats
        wins[j] += left[i] * right[j] * (1 - beats)
    pairs += here
    return {i: p for i, p in wins.items() if p > 0} if all(M[pair] for pair in here) else {}


# ---------------------------------------------------------------- the simple ways: candidates -> probabilities

def best(scores):
    """Probability 1 shared by the highest scores."""
    return share(np.asarray(scores) == max(scores))


def share(chosen):
    """Probability 1 shared by the chosen; by all if none is."""
    chosen = np.array(chosen, dtype=float)
    return chosen / chosen.sum() if chosen.any() else np.full(len(chosen), 1 / len(chosen))


def highest(field):
    return lambda cs: best([-np.inf if c.get(field) is None else c[field] for c in cs])


def majority(candidates):
    """The largest cluster of programs whose outputs agree on the public inputs."""
    digests = [c.get("output_digest") for c in candidates]
    size = Counter(d for d in digests if d is not None)
    return best([size[d] for d in digests])  # a program without outputs has a cluster of size 0


def minimum_bayes_risk(candidates):
    """argmax_y Σ_y' p(y') [y and y' agree on the public inputs], over the different programs y'.

    A row has one digest of all outputs, so agreement is 0 or 1; with p a program's share of the samples (Shi et al., 2204.11454) this
    would be the majority. Here p(y') ∝ Π_t π(y'_t), the policy's own probability (model-based MBR, 2311.05263).
    """
    logp, mass = {c["code"]: (c["mean_logprob"] * c["n_tokens"], c["output_digest"]) for c in candidates
                  if c.get("mean_logprob") is not None and c.get("output_digest") is not None}, Counter()
    for value, digest in logp.values():
        mass[digest] += np.exp(value - max(logp.values())[0])  # relative to the likeliest: exp of a long program's log-prob is 0
    return best([mass[c.get("output_digest")] for c in candidates])


BASELINES = {
    "random": lambda cs: share([True] * len(cs)),
    "first": lambda cs: share([i == 0 for i in range(len(cs))]),
    "shortest": lambda cs: best([-len(c["code"]) for c in cs]),
    "mean log-prob": highest("mean_logprob"),
    "self-certainty": highest("self_certainty"),  # mean KL(uniform ‖ π) over the tokens (Kang et al., 2502.18581)
    "public tests": lambda cs: share([bool(c.get("public_passed")) for c in cs]),
    "majority": majority,
    "MBR": minimum_bayes_risk,
    "oracle": lambda cs: share([bool(c["passed"]) for c in cs]),
}
NEEDS = {"mean log-prob": ["mean_logprob"], "self-certainty": ["self_certainty"], "public tests": ["public_passed"],
         "majority": ["output_digest"], "MBR": ["output_digest", "mean_logprob"]}  # without them a candidate is not chosen so


# ---------------------------------------------------------------- what a method is worth
# A method is (choose, judgments or None): with judgments, choose is an aggregator's.

def expected(p, candidates):
    """pass@1 of a choice: Σ_c p_c [c passed]."""
    return float(sum(q for q, c in zip(p, candidates) if c["passed"]))


def resample(pid, candidates, methods, seed, draws=40):
    """pass@1 of each method on other samples of a problem's candidates and verdicts, [draws, methods]; a sample serves all methods.

    Candidates are drawn with replacement, so that a mixed problem stays mixed; verdicts within each pair of programs.
    """
    if not is_mixed(candidates):
        return np.full((draws, len(methods)), float(candidates[0]["passed"]))
    rng, rows, found = np.random.default_rng([seed, *pid.encode(errors="replace")]), programs(candidates), []
    ids = [c["candidate_id"] for c in rows]
    tallies = {m: tally(ids, judgments[pid]) for m, (_, judgments) in methods.items() if judgments}
    i, j = np.triu_indices(len(rows), 1)  # all pairs of programs
    while len(found) < draws:
        drawn = [candidates[k] for k in rng.integers(0, len(candidates), len(candidates))]
        if not is_mixed(drawn):
            continue
        there, found = {c["code"] for c in drawn}, found + [[]]
        order = [k for k in bracket(pid, len(rows), seed) if rows[k]["code"] in there]
        for m, (choose, _) in methods.items():
            if m not in tallies:
                found[-1].append(expected(choose(drawn), drawn))
                continue
            (W, M), V = tallies[m], np.zeros_like(tallies[m][0])
            said = np.stack([W[i, j], W[j, i], M[i, j] - W[i, j] - W[j, i]], 1) / np.maximum(M[i, j], 1)[:, None]
            said[M[i, j] == 0] = 0, 0, 1
            V[i, j], V[j, i], _ = rng.multinomial(M[i, j], said).T
            found[-1].append(expected(choose(V, M, order), rows))
    return np.array(found)


def choice(name, method, pid, candidates, seed):
    """(pass@1 of a method on one problem, the candidate that it takes, its row for selections.jsonl)."""
    choose, judgments = method
    p = choose(candidates) if judgments is None else by_votes(candidates, judgments[pid], choose, pid, seed)
    u = float(torch.rand((), generator=stream(seed, "tie", pid), dtype=torch.float64))  # the same for all methods
    took = candidates[min(int(np.searchsorted(np.cumsum(p), u, side="right")), int(np.flatnonzero(p)[-1]))]
    row = {"candidate_id": took["candidate_id"], "passed": expected(p, candidates)}
    if judgments is not None:
        rows, ids = judgments[pid], [c["candidate_id"] for c in programs(candidates)]
        _, counts, deciding = standing(ids, *tally(ids, rows), rows)
        row |= {"votes": counts, "judge_calls": len(rows), "judge_tokens": sum(r["tokens"] for r in rows),
                "judge_seconds": round(sum(r["seconds"] for r in rows), 4), "transcript": (deciding or {}).get("text")}
        if choose is by_share and "round-robin" not in name and rows:  # what fewer rounds cost, and what they would have chosen
            ends = range(a_round := 2 * (len(ids) // 2), len(rows) + 1, a_round)
            row["by_round"] = [(sum(r["tokens"] for r in rows[:k]), expected(by_votes(candidates, rows[:k]), candidates)) for k in ends]
    return row["passed"], took, row


# ---------------------------------------------------------------- the command

def parse_args(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--problems", nargs="+", default=[TINY / "problems_weak.jsonl", TINY / "problems_strong.jsonl"],
                   help="problem files (default: the tiny world's two)")
    p.add_argument("--labelled", default=stage_input("labelled.jsonl"), help="labelled candidates (default: runs/tiny/labelled.jsonl "
                   "if you made it, else the copy in data/tiny)")
    p.add_argument("--judge", default=None, help="trained judge (default runs/tiny-instance/judge), or none: only the baselines")
    p.add_argument("--base-judge", default=None, help="untrained judge to set beside it (default: the tiny world's, for its own files)")
    api.add_flags(p)
    p.add_argument("--split", default="test", help="split to select on (default test)")
    p.add_argument("--n", type=int, nargs="+", default=[], help="choose among only the first so many candidates, too (default: all)")
    p.add_argument("--aggregate", nargs="+", choices=["rounds", "round-robin", "knockout"], default=["rounds"], help="default rounds")
    p.add_argument("--rounds", type=int, default=8, help="R: rounds of random pairing (default 8)")
    p.add_argument("--waits", type=int, nargs="+", default=[0], help="how often the judge thinks on, as in 0 1 2 4 (default 0)")
    p.add_argument("--against", metavar="METHOD", help="the method that p compares the others with (default: the judge, else random)")
    p.add_argument("--out", type=Path, default=ROOT / "runs/tiny/selections.jsonl", help="(default runs/tiny/selections.jsonl)")
    p.add_argument("--explain", metavar="PROBLEM_ID", help="print why the judge chose as it did on one problem")
    p.add_argument("--temperature", type=float, default=1.0, help="of the judge (default 1.0)")
    p.add_argument("--max-new-tokens", type=int, default=72, help="most tokens of a judgment (default 72)")
    p.add_argument("--batch-size", type=int, default=256, help="judgments at once; lower it where memory runs out (default 256)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 (auto: float32 on a CPU)")
    args = p.parse_args(argv)
    least = {"rounds": 1, "batch_size": 1, "max_new_tokens": 1, "temperature": 0, "waits": 0, "n": 1}
    for flag, value in [(name, value) for name in least for value in np.atleast_1d(getattr(args, name))]:
        if value < least[flag]:
            p.error(f"--{flag.replace('_', '-')} {value}: must be at least {least[flag]}")
    api.check_flags(p, args)
    if args.judge is None and not args.api_base:
        trained = ROOT / "runs/tiny-instance/judge"
        if not trained.exists():
            p.error(f"--judge: {trained} is not there yet: run `python train_bilevel.py --weights instance` first, or name a judge "
                    "(--judge none shows the baselines alone)")
        args.judge = str(trained)
    its_own = TINY / "labelled.jsonl", ROOT / "runs/tiny/labelled.jsonl"
    if args.base_judge is None and args.judge != "none" and Path(args.labelled).resolve() in its_own:
        args.base_judge = str(TINY / "judge")
    named = {"judge, untrained": args.base_judge, "judge, trained": args.judge, "judge, served": "" if args.api_base else None}
    args.judges = {label: path for label, path in named.items() if path not in (None, "none")}
    if args.explain and not args.judges:
        p.error("--explain: there is nothing to explain without a --judge")
    if max(args.waits) and "rounds" not in args.aggregate:
        p.error("--waits: thinking on is compared within --aggregate rounds: name that, too")
    return args


def load_candidates(args):
    """(problems of the split, {problem_id: candidates with a verdict})."""
    problems = {pid: p for pid, p in read_problems(args.problems).items() if p["split"] == args.split}
    candidates = defaultdict(list)
    rows = read_rows(args.labelled, LABELLED, key=("problem_id", "candidate_id"))
    for row in rows:
        if row["passed"] is not None:
            candidates[row["problem_id"]].append(row)
    nulls = sum(row["passed"] is None for row in rows)
    if nulls:
        print(f"note: {nulls} of {len(rows)} candidates in {args.labelled} have no verdict and are left out")
    problems = {pid: p for pid, p in problems.items() if pid in candidates}
    if not problems:
        raise UserError(f"{args.labelled}: no candidates for split {args.split!r} of {' '.join(map(str, args.problems))} (--split)")
    if not any(is_mixed(candidates[pid]) for pid in problems):
        raise UserError(f"{args.labelled}, split {args.split!r}: no problem has both a passing and a failing candidate, so every way of "
                       "choosing is the same: sample more candidates (sample.py --n), or take other problems")
    if args.explain and args.explain not in problems:
        raise UserError(f"--explain {args.explain}: not among the {len(problems)} problems of split {args.split!r} in {args.labelled}")
    return problems, candidates


def judge_methods(label, judge, problems, candidates, cache, args):
    """{method: (choose, judgments)} of one judge. All of them draw on the same judgments."""
    ask = partial(collect, judge, problems=problems, candidates=candidates, cache=cache)
    wanted = {"rounds": want_rounds(args.rounds, args.seed), "round-robin": want_every_pair, "knockout": want_knockout(args.seed)}
    methods = {}
    for name in args.aggregate:
        methods[label if name == "rounds" else f"{label}, {name}"] = by_knockout if name == "knockout" else by_share, ask(wanted[name])
    for number in sorted(set(args.waits) - {0}):
        rows = ask(want_rounds(args.rounds, args.seed, number))
        rows = {pid: [row for row in rows[pid] if row["wait"] == number] for pid in rows}
        rounds, instead = args.rounds, ask(wanted["rounds"])
        while spent(instead) < spent(rows):  # the control: more rounds until as many tokens are spent
            rounds = max(rounds + 1, rounds * spent(rows) // spent(instead))
            instead = ask(want_rounds(rounds, args.seed))
        methods |= {f"{label}, {waits(number)}": (by_share, rows), f"{label}, tokens of {waits(number)}": (by_share, instead)}
    return methods


def pointwise(judge, problems, candidates, cache):
    """The judge's P(Yes) for each program without a rival, as a way of choosing."""
    code = {(pid, c["candidate_id"]): c["code"] for pid in problems for c in candidates[pid]}
    rows = collect(judge, lambda pid, ids, known: [(0, a, None, 0) for a in ids], problems, candidates, cache)
    yes = {(pid, code[pid, row["a"]]): row["yes"] for pid in problems for row in rows[pid]}
    return lambda cs: best([yes[c["problem_id"], c["code"]] for c in cs])


def main(argv=None):
    args = parse_args(argv)
    problems, everyone = load_candidates(args)
    if args.explain:
        problems = {args.explain: problems[args.explain]}
    rows, most = [], max(len(everyone[pid]) for pid in problems)
    with Appender(args.out.with_name("judgments.jsonl"), JUDGMENT) as cache:
        cache.rows = {cache.key_of(row): row for row in read_rows(cache.path)}
        judges = {label: Judge(path, args) for label, path in args.judges.items()}
        for n in sorted({min(n, most) for n in [*([] if args.explain else args.n), most]}):
            candidates, judged, alone = {pid: everyone[pid][:n] for pid in problems}, {}, {}
            try:
                for label, judge in judges.items():
                    judged |= judge_methods(label, judge, problems, candidates, cache, args)
                    if label == "judge, untrained" and not args.explain:
                        alone = {"judge, untrained, pointwise": pointwise(judge, problems, candidates, cache)}
            except KeyboardInterrupt:
                sys.exit(f"\nstopped; {len(cache.done)} judgments are kept in {cache.path}: the same command goes on from there")
            if args.explain:
                shown = programs(candidates[args.explain])
                for m, (_, judgments) in judged.items():
                    explain(problems[args.explain], shown, *tally([c["candidate_id"] for c in shown], judgments[args.explain]),
                            judgments[args.explain], m)
                return
            shown = [c for pid in problems for c in candidates[pid]]
            lack = {m: sum(any(c.get(field) is None for field in fields) for c in shown) for m, fields in NEEDS.items()}
            methods = {m: (choose, None) for m, choose in (BASELINES | alone).items() if lack.get(m) != len(shown)} | judged
            methods["oracle"] = methods.pop("oracle")  # last
            if args.against and args.against not in methods:
                raise UserError(f"--against {args.against}: expected one of: {'; '.join(methods)}")
            score, took = defaultdict(dict), defaultdict(dict)
            for m in methods:
                for pid in problems:
                    score[m][pid], took[m][pid], row = choice(m, methods[m], pid, candidates[pid], args.seed)
                    rows.append({"problem_id": pid, "method": m, "n": n, **row})
    write_rows(args.out, rows)
    resampled = np.array([resample(pid, candidates[pid], methods, args.seed) for pid in problems])
    show(f"{args.labelled}, split {args.split}, R = {args.rounds}", methods, problems, candidates, score, took, resampled,
         args.against or next((m for m in judged if "untrained" not in m), "random"), args.seed)
    for label in args.judges if max(args.waits) else ():
        show_waits(label, sorted({0, *args.waits}), methods, score, candidates)
    for m in (m for m in lack if lack[m]):
        print(f"note: “{m}” needs {' and '.join(NEEDS[m])}, which {lack[m]} of {len(shown)} candidates of {args.labelled} lack"
              + ("" if m in methods else "; it is left out"))
    print(f"\nselections: {args.out}\njudgments:  {cache.path}")
    if judged:
        print(f"next: the same command with --explain {next(iter(problems))}")


if __name__ == "__main__":
    run(main)
