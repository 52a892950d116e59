"""Stage 4: pick one of N candidates with the judge, beside every simple way of picking one.

    python select.py                                                   the tiny world, after train_bilevel.py
    python select.py --problems P.jsonl --labelled L.jsonl --judge runs/NAME/judge --out S.jsonl
    python select.py --explain PROBLEM_ID                              why the judge chose what it chose

Reads   problems and labelled candidates; a candidate's label is used to score a choice, never to make it.
Writes  selections.jsonl, one row for each problem and method, and judgments.jsonl beside it: every verdict,
        keyed by judge, pair, order and round, so that a killed run goes on, and more --rounds pay only for the new.

The judge's choice is DaJ's (arXiv 2601.22230): R rounds, each pairs the programs at random, and votes decide. Both
orders of a pair are judged, so that a judge that always says "A" gains nothing.

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
    from collections import Counter, defaultdict
    from pathlib import Path

    import numpy as np
    import torch
    from tqdm import tqdm

    from data.rows import LABELLED, ROOT, TINY, Appender, RowError, read_problems, read_rows, stage_input, write_rows
    from sample import end_ids, generate, load_model, pad_id, stream
    from train_bilevel import judge_ids, judge_prompt, parse_verdict


# ---------------------------------------------------------------- judgments

JUDGMENT = ("judge", "settings", "problem_id", "round", "a", "b", "prompt")  # what identifies one in the cache


def programs(candidates):
    """The different programs among a problem's candidates, as their first candidates: equal texts are not compared."""
    first = {}
    for c in candidates:
        first.setdefault(c["code"], c)
    return list(first.values())


def schedule(problem_id, ids, rounds, seed):
    """The judge calls for one problem: (round, id shown as A, id shown as B), each pair in both orders.

    With an odd number of programs one sits out; who does is drawn anew in every round.
    """
    calls = []
    for k in range(rounds if len(ids) > 1 else 0):
        order = torch.randperm(len(ids), generator=stream(seed, "pairing", problem_id, k)).tolist()
        for i, j in zip(order[0::2], order[1::2]):
            calls += [(k, ids[i], ids[j]), (k, ids[j], ids[i])]
    return calls


def fingerprint(name):
    """A judge's name with a digest of what decides its answers, so that a retrained judge in the same folder is another judge."""
    digest = hashlib.sha256()
    for path in sorted(Path(name).glob("*")) if Path(name).is_dir() else []:
        if path.suffix in (".safetensors", ".bin", ".jinja") or path.name in ("config.json", "tokenizer.json"):
            with open(path, "rb") as file:
                digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return f"{name}@{digest.hexdigest()[:8]}"


def prompt_digest(problem, code_a, code_b):
    return hashlib.sha256(judge_prompt(problem, code_a, code_b).encode(errors="backslashreplace")).hexdigest()[:12]


def judge_all(name, problems, candidates, cache, args):
    """Every scheduled judgment of one judge, from the cache where it is there: {problem_id: [rows]}."""
    judge = fingerprint(name)
    plan = {pid: schedule(pid, [c["candidate_id"] for c in programs(candidates[pid])], args.rounds, args.seed) for pid in problems}
    code = {(pid, c["candidate_id"]): c["code"] for pid in problems for c in candidates[pid]}
    plan = {pid: [(k, a, b, prompt_digest(problems[pid], code[pid, a], code[pid, b])) for k, a, b in plan[pid]] for pid in problems}
    calls = [(pid, *call) for pid in problems for call in plan[pid]]
    settings = f"{args.seed}/{args.temperature}/{args.max_new_tokens}"
    missing = [c for c in calls if (judge, settings, *c) not in cache.done]
    if missing:
        model, tokenizer = load_model(name, args.device, args.dtype, flag="--judge")
        ends = end_ids(model, tokenizer)
        pad = pad_id(tokenizer, ends)
        with tqdm(total=len(calls), initial=len(calls) - len(missing), desc=f"judge {name}", unit="judgment") as bar:
            for start in range(0, len(missing), args.batch_size):
                part = missing[start:start + args.batch_size]
                prompts = [judge_ids(tokenizer, problems[pid], code[pid, a], code[pid, b]) for pid, _, a, b, _ in part]
                uniforms = torch.cat([torch.rand(1, args.max_new_tokens, generator=stream(args.seed, "judgment", *c[:4])) for c in part])
                made = generate(model, prompts, uniforms, args.temperature, ends, pad)
                rows = []
                for (pid, k, a, b, prompt), done in zip(part, made):
                    text = tokenizer.decode(done.ids[:-1] if done.finished else done.ids)
                    rows.append({"judge": judge, "settings": settings, "problem_id": pid, "round": k, "a": a, "b": b, "prompt": prompt,
                                 "verdict": parse_verdict(text), "tokens": len(done.ids), "finished": done.finished, "text": text})
                cache.append(*rows)
                bar.update(len(part))
    cached = {cache.key_of(row): row for row in read_rows(cache.path)}
    return {pid: [cached[judge, settings, pid, *call] for call in plan[pid]] for pid in problems}


# ---------------------------------------------------------------- ways of choosing: candidates -> probabilities

def best(scores):
    """Probability 1 shared by the highest scores."""
    top = max(scores)
    return share([score == top for score in scores])


def share(chosen):
    """Probability 1 shared by the chosen; by all if none is."""
    chosen = np.array(chosen, dtype=float)
    return chosen / chosen.sum() if chosen.any() else np.full(len(chosen), 1 / len(chosen))


def majority(candidates):
    """The largest cluster of programs whose outputs agree on the public inputs."""
    digests = [c.get("output_digest") for c in candidates]
    size = Counter(d for d in digests if d is not None)
    return best([size[d] for d in digests])  # a program without outputs has a cluster of size 0


def votes(candidates, judgments):
    """Share of its judgments that each candidate won: {candidate_id: (won, judged)}. No verdict, no vote."""
    tally = defaultdict(lambda: [0, 0])
    for row in judgments:
        for name, cid in (("A", row["a"]), ("B", row["b"])):
            tally[cid][0] += row["verdict"] == name
            tally[cid][1] += 1
    return {cid: tuple(count) for cid, count in tally.items()}


def by_votes(candidates, judgments):
    """Highest share of judgments won. A lone program, or equal texts, need no judge."""
    tally = votes(candidates, judgments)
    if not tally:
        return share([True] * len(candidates))
    return best([tally[c["candidate_id"]][0] / tally[c["candidate_id"]][1] if c["candidate_id"] in tally else -1 for c in candidates])


BASELINES = {} if __name__ == "select" else {
    "random": lambda cs: share([True] * len(cs)),
    "first": lambda cs: share([i == 0 for i in range(len(cs))]),
    "shortest": lambda cs: best([-len(c["code"]) for c in cs]),
    "mean log-prob": lambda cs: best([c.get("mean_logprob", float("-inf")) for c in cs]),
    "public tests": lambda cs: share([bool(c.get("public_passed")) for c in cs]),
    "majority": majority,
    "oracle": lambda cs: share([bool(c["passed"]) for c in cs]),
}


# ---------------------------------------------------------------- numbers

def interval(values, seed, draws=2000):
    """Mean and 95 % bootstrap interval over problems (resampled with replacement), in percent."""
    values = np.asarray(values, dtype=float)
    pick = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[pick].mean(1), [2.5, 97.5])
    return f"{100 * values.mean():5.1f} [{100 * low:5.1f}, {100 * high:5.1f}]"


def mixed_problems(problems, candidates):
    return [pid for pid in problems if len({c["passed"] for c in candidates[pid]}) == 2]


def show(title, problems, candidates, score, judged, seed):
    """The table: each method on all problems and on those with mixed outcomes, and the judges' own figures."""
    mixed = mixed_problems(problems, candidates)
    print(f"\n{title}: {len(problems)} problems, {len(mixed)} of them with passing and failing candidates\n")
    print(f"{'chosen by':<28}{'all: pass@1 %':>22}{'mixed: pass@1 %':>24}{'mixed, over random':>24}{'gap closed':>12}")
    random_, oracle = (np.array([score[m][pid] for pid in mixed]) for m in ("random", "oracle"))
    for method in score:
        on_mixed = np.array([score[method][pid] for pid in mixed])
        gap = (on_mixed.mean() - random_.mean()) / (oracle.mean() - random_.mean())
        print(f"{method:<28}{interval([score[method][pid] for pid in problems], seed):>22}{interval(on_mixed, seed):>24}"
              f"{interval(on_mixed - random_, seed):>24}{gap:>12.0%}")
    print("\nin brackets: 95 % bootstrap intervals over problems; gap closed = (method − random) / (oracle − random)")
    for method, judgments in judged.items():
        rows = [row for pid in problems for row in judgments[pid]]
        if not rows:
            continue
        label = {(pid, c["candidate_id"]): c["passed"] for pid in problems for c in candidates[pid]}
        decided = [row["verdict"] == ("A" if label[row["problem_id"], row["a"]] else "B") for row in rows
                   if label[row["problem_id"], row["a"]] != label[row["problem_id"], row["b"]]]
        pairs = zip(rows[0::2], rows[1::2])  # the two orders of a pair stand side by side
        same = np.mean([{x["verdict"], y["verdict"]} == {"A", "B"} for x, y in pairs])
        print(f"{method}: right on {np.mean(decided):.1%} of mixed pairs, same choice in both orders {same:.1%}, verdict parsed "
              f"{np.mean([row['verdict'] is not None for row in rows]):.1%}, {len(rows) / len(problems):.0f} calls and "
              f"{sum(row['tokens'] for row in rows) / len(problems):.0f} tokens a problem")


def explain(problem, candidates, judgments, method):
    """Print a problem, its programs with their votes, and the transcript in which the choice beat its strongest rival."""
    tally = votes(candidates, judgments)
    print(f"{problem['problem_id']}\n\n{problem['prompt']}")
    ranked = by_rank(candidates, tally)
    for c in ranked:
        won, of = tally.get(c["candidate_id"], (0, 0))
        print(f"--- {c['candidate_id']}: won {won} of {of} judgments ({method}); {'passed' if c['passed'] else 'failed'}\n{c['code'].rstrip()}")
    row = deciding(ranked, judgments)
    print("\nno judgment was needed" if row is None else f"\nthe deciding judgment (A is {row['a']}, B is {row['b']}):\n{row['text']}")


def by_rank(candidates, tally):
    """The programs by the share of judgments that they won, the earlier candidate first where it is equal."""
    def lost(c):
        won, of = tally.get(c["candidate_id"], (0, 1))
        return -won / of
    return sorted(programs(candidates), key=lost)


def deciding(ranked, judgments):
    """The first judgment that the winner won against the best-placed rival it met; None if there is none."""
    if not ranked:
        return None
    place, winner = {c["candidate_id"]: i for i, c in enumerate(ranked)}, ranked[0]["candidate_id"]
    won = [row for row in judgments if row["verdict"] and row["a" if row["verdict"] == "A" else "b"] == winner]
    return min(won, key=lambda row: place[row["b" if row["verdict"] == "A" else "a"]], default=None)


# ---------------------------------------------------------------- the command

def parse_args(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--problems", nargs="+", default=[TINY / "problems_weak.jsonl", TINY / "problems_strong.jsonl"],
                   help="problem files (default: the tiny world's two)")
    p.add_argument("--labelled", default=stage_input("labelled.jsonl"), help="labelled candidates (default: runs/tiny/labelled.jsonl "
                   "if you made it, else the copy in data/tiny)")
    p.add_argument("--judge", default=None, help="trained judge (default runs/tiny-instance/judge), or none: only the baselines")
    p.add_argument("--base-judge", default=None, help="untrained judge to set beside it (default: the tiny world's, for its own files)")
    p.add_argument("--split", default="test", help="split to select on (default test)")
    p.add_argument("--rounds", type=int, default=8, help="R: rounds of random pairing (default 8)")
    p.add_argument("--out", type=Path, default=ROOT / "runs/tiny/selections.jsonl", help="(default runs/tiny/selections.jsonl)")
    p.add_argument("--explain", metavar="PROBLEM_ID", help="print why the judge chose as it did on one problem")
    p.add_argument("--temperature", type=float, default=1.0, help="of the judge (default 1.0)")
    p.add_argument("--max-new-tokens", type=int, default=72, help="most tokens of a judgment (default 72)")
    p.add_argument("--batch-size", type=int, default=256, help="judgments at once; lower it where memory runs out (default 256)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 (auto: float32 on a CPU)")
    args = p.parse_args(argv)
    for flag, value, least in (("--rounds", args.rounds, 1), ("--batch-size", args.batch_size, 1), ("--max-new-tokens", args.max_new_tokens, 1),
                               ("--temperature", args.temperature, 0)):
        if value < least:
            p.error(f"{flag} {value}: must be at least {least}")
    if args.judge is None:
        trained = ROOT / "runs/tiny-instance/judge"
        if not trained.exists():
            p.error(f"--judge: {trained} is not there yet: run `python train_bilevel.py --weights instance` first, or name a judge "
                    "(--judge none shows the baselines alone)")
        args.judge = str(trained)
    if args.explain and args.judge == "none":
        p.error("--explain: there is nothing to explain without a --judge")
    if args.base_judge is None and args.judge != "none" and Path(args.labelled).resolve() in (TINY / "labelled.jsonl", ROOT / "runs/tiny/labelled.jsonl"):
        args.base_judge = str(TINY / "judge")
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
        raise RowError(f"{args.labelled}: no candidates for split {args.split!r} of {' '.join(map(str, args.problems))} (--split)")
    if not mixed_problems(problems, candidates):
        raise RowError(f"{args.labelled}, split {args.split!r}: no problem has both a passing and a failing candidate, so every way of "
                       "choosing is the same: sample more candidates (sample.py --n), or take other problems")
    return problems, candidates


def main(argv=None):
    args = parse_args(argv)
    problems, candidates = load_candidates(args)
    if args.explain and args.explain not in problems:
        raise RowError(f"--explain {args.explain}: not among the {len(problems)} problems of split {args.split!r} in {args.labelled}")
    named = {"judge, untrained": None if args.base_judge == "none" else args.base_judge, "judge, trained": None if args.judge == "none" else args.judge}
    judged = {}
    with Appender(args.out.with_name("judgments.jsonl"), JUDGMENT) as cache:
        try:
            for method, name in named.items():
                if name:
                    wanted = {args.explain: problems[args.explain]} if args.explain else problems
                    judged[method] = judge_all(name, wanted, candidates, cache, args)
        except KeyboardInterrupt:
            sys.exit(f"\nstopped; {len(cache.done)} judgments are kept in {cache.path}: the same command goes on from there")
    if args.explain:
        for method, judgments in judged.items():
            explain(problems[args.explain], candidates[args.explain], judgments[args.explain], method)
        return
    chosen = {m: {pid: choose(candidates[pid]) for pid in problems} for m, choose in BASELINES.items() if m != "oracle"}
    chosen |= {m: {pid: by_votes(candidates[pid], judged[m][pid]) for pid in problems} for m in judged}
    chosen["oracle"] = {pid: BASELINES["oracle"](candidates[pid]) for pid in problems}
    score = {m: {pid: float(sum(p * c["passed"] for p, c in zip(chosen[m][pid], candidates[pid]))) for pid in problems} for m in chosen}
    rows = []
    for method in chosen:
        for pid in problems:
            row = {"problem_id": pid, "method": method, "passed": score[method][pid],
                   "candidate_id": candidates[pid][int(np.argmax(chosen[method][pid]))]["candidate_id"]}
            if method in judged:
                js, tally = judged[method][pid], votes(candidates[pid], judged[method][pid])
                ranked = by_rank(candidates[pid], tally)
                row |= {"votes": tally, "judge_calls": len(js), "judge_tokens": sum(j["tokens"] for j in js),
                        "transcript": (deciding(ranked, js) or {}).get("text")}
            rows.append(row)
    write_rows(args.out, rows)
    show(f"{args.labelled}, split {args.split}, R = {args.rounds}", list(problems), candidates, score, judged, args.seed)
    print(f"\nselections: {args.out}\njudgments:  {cache.path}")
    if judged:
        print(f"next: the same command with --explain {next(iter(problems))}")


if __name__ == "__main__":
    main()
