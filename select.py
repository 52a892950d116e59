"""Stage 4: pick one of N candidates with the judge, beside every simple way of picking one.

    python select.py                                     the world of edge cases, after train_bilevel.py
    python select.py --explain PROBLEM_ID                why the judge chose what it chose
    python select.py --problems P.jsonl --labelled L.jsonl --judge runs/NAME/judge --out S.jsonl
    python select.py --api-base http://127.0.0.1:8000/v1 --api-model NAME ...
    python select.py --aggregate rounds round-robin --waits 0 1 2 4 --n 1 2 4 8     all it compares
    python select.py --aggregate round-robin ...         preference data (data/preferences/), too

Reads   problems and labelled candidates. A candidate's label scores a choice; it never makes one.
Writes  selections.jsonl, a row for each problem, method and N:

    {"problem_id": "edges/test/3", "method": "judge, trained", "n": 8, "candidate_id": "strong-2",
     "passed": 1.0, "votes": {"strong-0": [1, 16], "strong-2": [15, 16]}, "judge_calls": 16,
     "judge_tokens": 603, "judge_seconds": 0.2112, "transcript": "try q 830 -> 08...", ...}

        and judgments.jsonl beside it: every judgment, filed under its judge, settings, prompt and
        pair. So a killed run goes on, and all methods draw on the same judgments. What a judge
        cannot read, or its server refuses, counts as no verdict and is shown.

The judge's choice is DaJ's (arXiv 2601.22230): in each of R rounds the programs are paired at
random, and the one that wins the largest share of its judgments is chosen. Both orders of a pair are
judged, so a judge that always says "A" gains nothing. `--waits` is J1's simple test-time scaling
(2505.11875): where its answer ends, the judge has to think on. The control is more rounds, for as
many tokens.

Where the candidates are answers labelled by preference, and no programs that were executed, it also
reports what their benchmark does: accuracy on pairs in both orders, by category.

Every method gives each candidate a probability; those that it cannot tell apart share it. So
"random" is its exact expectation, and no method's number hangs on how ties were broken. (The column p
does: McNemar's test takes one candidate a problem.)
"""
import sys
from dataclasses import dataclass, replace

if __name__ == "select":
    # Whoever imports the standard library's `select` in this folder, as subprocess does, finds this
    # file first. Hand out the real module: an import returns what stands in sys.modules at its end.
    import os
    from importlib import machinery, util

    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [entry for entry in sys.path if os.path.abspath(entry) != here]
    spec = (machinery.BuiltinImporter.find_spec("select")
            or machinery.PathFinder.find_spec("select", elsewhere))
    sys.modules["select"] = util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["select"])
else:
    import hashlib
    import math
    import shlex
    import time
    from collections import Counter, defaultdict
    from functools import partial
    from itertools import combinations
    from pathlib import Path

    import numpy as np
    import torch
    from tqdm import tqdm

    from data import tables
    from data.fingerprint import fingerprint
    from data.flags import check_bounds, flag, heading, parse, run, stopped
    from data.judge import WAIT, judge_prompt, opened_thoughts, parse_verdict
    from data.pairs import programs_of, read_labelled
    from data.preferences.report import print_preferences
    from data.rows import (EDGES, EDGES_LABELLED, EDGES_PROBLEMS, EDGES_RUN, ROOT, Appender,
                           UserError, asks_for_answers, must_hold_only, read_problems, read_rows,
                           stage_input, write_rows)
    from data.servers import ServerFlags, check_server_flags, complete, request_body
    from data.text import answer_text, cut, decode, encode, encode_behind
    from sample import (context_length, end_ids, generate, load_model, logits_of, pad_id, prefill,
                        stream)

    # Settings stands here because it is built from what was imported above.
    @dataclass
    class Settings(ServerFlags):
        heading("candidates")
        problems: list = flag(lambda: list(EDGES_PROBLEMS), "problem files")
        labelled: Path = flag(stage_input("labelled.jsonl"), "labelled candidates")
        split: str = flag("test", "the split to choose on")
        n: list = flag(list, "choose among the first so many candidates, too, as in 1 2 4",
                       type=int, least=1)

        heading("judge")
        judge: str = flag(None, "trained judge, or none: the simple ways alone "
                                "(default runs/edges-instance/judge)", type=str)
        base_judge: str = flag(None, "untrained judge to set beside it, or none "
                                     "(default that of the world of edge cases, for its own "
                                     "files)", type=str)
        temperature: float = flag(1.0, "of the judge", least=0)
        max_new_tokens: int = flag(112, "most tokens of a judgment", least=1)

        heading("choosing")
        aggregate: list = flag(lambda: ["rounds"], "which pairs are judged",
                               choices=["rounds", "round-robin"])
        rounds: int = flag(8, "R: rounds of random pairing", least=1)
        waits: list = flag(lambda: [0], "how often the judge thinks on, as in 0 1 2 4",
                           type=int, least=0)

        heading("output")
        out: Path = flag(None, "selections, judgments beside them (default: beside --labelled; of "
                               "the world of edge cases in runs/edges)", type=Path)
        against: str = flag(None, "the method that p compares the others with "
                                  "(default the judge, else random)", type=str, metavar="METHOD")
        explain: str = flag(None, "print why the judge chose as it did on one problem, no more",
                            type=str, metavar="PROBLEM_ID")

        heading("run")
        seed: int = flag(0, "of pairing, judging and breaking ties", least=0)
        batch_size: int = flag(256, "judgments at once; lower it where memory runs out", least=1)
        device: str = flag("cuda" if torch.cuda.is_available() else "cpu", "cpu, cuda, cuda:1, ...")
        dtype: str = flag("auto", "auto, float32, bfloat16, float16 or float64 (auto: float32 on a "
                                  "CPU)")

        def __post_init__(self):
            check_bounds(self)
            check_server_flags(self)
            if self.out is None:
                of_edges = Path(self.labelled).resolve() in EDGES_LABELLED
                folder = EDGES_RUN if of_edges else Path(self.labelled).parent
                self.out = folder / "selections.jsonl"
            if any(self.waits) and "rounds" not in self.aggregate:
                raise UserError("--waits: thinking on is compared within --aggregate rounds: "
                                "name that, too")


# ---------------------------------------------------------------- a choice: probabilities

def best(scores):
    """Probabilities [N]: 1, shared by the highest scores."""
    return shared(np.asarray(scores) == max(scores))


def shared(chosen):
    """Probabilities [N]: 1, shared by the chosen; by all if none is."""
    chosen = np.array(chosen, dtype=float)
    if not chosen.any():
        chosen[:] = 1
    return chosen / chosen.sum()


# ---------------------------------------------------------------- the judge's choice: votes

@dataclass
class Call:
    """One judgment that is wanted."""
    problem: dict
    a: dict                # the candidate shown as A
    b: dict                # shown as B; None: candidate a is judged alone
    draw: int = 0          # how often this pair was judged before, in this order
    before: dict = None    # the judgment that is thought on from, a row of judgments.jsonl

    @property
    def wait(self):
        """How often the judge has been made to think on."""
        return self.before["wait"] + 1 if self.before else 0

    @property
    def key(self):
        """What tells it from the other calls of a judge."""
        b = self.b["candidate_id"] if self.b else None
        return self.problem["problem_id"], self.draw, self.a["candidate_id"], b, self.wait


def programs(candidates):
    """The different programs among a problem's candidates, each as the first candidate that has it.

    Only these are judged: between equal texts there is nothing to decide.
    """
    first = {}
    for candidate in candidates:
        first.setdefault(candidate["code"], candidate)
    return list(first.values())


def random_rounds(problem, contenders, rounds, seed):
    """DaJ's calls: in each round every program meets one rival, drawn at random, in both orders.

    With an odd number of programs one, drawn anew, sits out. Two rounds of x, y and z may be

        x-z  z-x   y-z  z-y

    More rounds begin with the same calls, so they pay only for the new ones.
    """
    calls = []
    meetings = Counter()
    for number in range(rounds):
        rng = stream(seed, "pairing", problem["problem_id"], number)
        order = torch.randperm(len(contenders), generator=rng).tolist()
        for i, j in zip(order[0::2], order[1::2]):
            pair = frozenset((i, j))
            calls += both_orders(problem, contenders[i], contenders[j], draw=meetings[pair])
            meetings[pair] += 1
    return calls


def every_pair(problem, contenders):
    """Round-robin's calls: every pair once, in both orders."""
    calls = []
    for a, b in combinations(contenders, 2):
        calls += both_orders(problem, a, b)
    return calls


def both_orders(problem, a, b, draw=0):
    return [Call(problem, a, b, draw), Call(problem, b, a, draw)]


def tally(contenders, judgments):
    """W, M [n, n]: of M[i, j] judgments between programs i and j, W[i, j] were for i.

    One without a verdict is for neither. Two programs, x and y, and three judgments:

        A is x, B is y: "A"              W = [[0, 2],     M = [[0, 3],
        A is y, B is x: "B"                   [0, 0]]          [3, 0]]
        A is x, B is y: no verdict
    """
    place = {candidate["candidate_id"]: k for k, candidate in enumerate(contenders)}
    W = np.zeros((len(place), len(place)), int)
    M = np.zeros((len(place), len(place)), int)
    for row in judgments:
        a = place[row["a"]]
        b = place[row["b"]]
        M[a, b] += 1
        M[b, a] += 1
        if row["verdict"] == "A":
            W[a, b] += 1
        elif row["verdict"] == "B":
            W[b, a] += 1
    return W, M


def most_votes(W, M, present=None):
    """Probabilities [n]: 1, shared by the programs that won the largest share of their judgments,

        Σ_j W_ij / Σ_j M_ij

    over the programs that are `present` [n] (all, if None). A share, not a count, for a program
    that sat out has fewer judgments. One that was never judged comes after all that were.
    """
    if present is None:
        present = np.full(len(W), True)
    won = W[:, present].sum(1)        # [n]
    judged = M[:, present].sum(1)     # [n]
    share = np.where(judged > 0, won / np.maximum(judged, 1), -1)
    return best(np.where(present, share, -np.inf))


def by_votes(candidates, judgments):
    """Probabilities of the candidates [N]; equal programs are chosen as the first of them."""
    contenders = programs(candidates)
    p = most_votes(*tally(contenders, judgments))
    p_of = {candidate["candidate_id"]: p_i for candidate, p_i in zip(contenders, p)}
    return np.array([p_of.get(candidate["candidate_id"], 0.0) for candidate in candidates])


# ---------------------------------------------------------------- the simple ways
# Each is a function of a problem's candidates: the probabilities [N] with which it chooses them.

def everyone(candidates):
    return shared([True] * len(candidates))


def the_first(candidates):
    return shared([k == 0 for k in range(len(candidates))])


def the_shortest(candidates):
    return best([-len(candidate["code"]) for candidate in candidates])


def highest(candidates, field):
    """The highest value of a field; a candidate without it comes last."""
    values = [candidate.get(field) for candidate in candidates]
    return best([-np.inf if value is None else value for value in values])


def highest_logprob(candidates):
    return highest(candidates, "mean_logprob")


def highest_certainty(candidates):
    """The highest mean KL(uniform ‖ π) over a program's tokens (Kang et al., 2502.18581)."""
    return highest(candidates, "self_certainty")


def public_tests(candidates):
    return shared([bool(candidate.get("public_passed")) for candidate in candidates])


def majority(candidates):
    """The largest cluster of programs whose outputs agree on the public inputs."""
    digests = [candidate.get("output_digest") for candidate in candidates]
    size = Counter(digest for digest in digests if digest is not None)
    return best([size[digest] for digest in digests])  # without outputs: a cluster of size 0


def minimum_bayes_risk(candidates):
    """argmax_y Σ_y' p(y') [y and y' agree on the public inputs], over the different programs y'.

    A row has one digest of all outputs, so agreement is 0 or 1. With p(y') a program's share of the
    samples (Shi et al., 2204.11454) this is the majority. Here p(y') ∝ Π_t π(y'_t), the policy's
    own probability (model-based MBR, 2311.05263).
    """
    logp = {}      # of each program text
    digest = {}
    for candidate in candidates:
        if all(candidate.get(field) is not None for field in NEEDS["MBR"]):
            logp[candidate["code"]] = candidate["mean_logprob"] * candidate["n_tokens"]
            digest[candidate["code"]] = candidate["output_digest"]
    mass = Counter()
    for code in logp:
        # relative to the likeliest program: exp of a long program's log-prob would be 0
        mass[digest[code]] += np.exp(logp[code] - max(logp.values()))
    return best([mass[digest.get(candidate["code"])] for candidate in candidates])


def oracle(candidates):
    return shared([bool(candidate["passed"]) for candidate in candidates])


BASELINES = {
    "random": everyone,
    "first": the_first,
    "shortest": the_shortest,
    "mean log-prob": highest_logprob,
    "self-certainty": highest_certainty,
    "public tests": public_tests,
    "majority": majority,
    "MBR": minimum_bayes_risk,
    "oracle": oracle,
}
NEEDS = {  # a candidate without these fields is not chosen so
    "mean log-prob": ["mean_logprob"],
    "self-certainty": ["self_certainty"],
    "public tests": ["public_passed"],
    "majority": ["output_digest"],
    "MBR": ["output_digest", "mean_logprob", "n_tokens"],
}


# ---------------------------------------------------------------- judges

class LocalJudge:
    """A checkpoint that judges in this process. It is loaded when it is first asked."""

    def __init__(self, path, cfg, flag="--judge"):
        """flag: what names it, for an error message."""
        self.path = path
        self.cfg = cfg
        self.flag = flag
        self.model = None
        self.name = fingerprint(path)
        self.settings = sampling_settings(cfg)
        if cfg.dtype != "float32" and not (cfg.dtype == "auto" and cfg.device == "cpu"):
            self.settings += f"/{cfg.dtype}"

    def load(self):
        if self.model is None:
            cfg = self.cfg
            self.model, self.tokenizer = load_model(self.path, cfg.device, cfg.dtype, self.flag)
            self.ends = end_ids(self.model, self.tokenizer)
            self.begun = opened_thoughts(self.tokenizer)    # how each of its answers has begun

    def compare(self, calls):
        """Yield an answer to "A or B?" for each call: {"text", "tokens", "finished", "seconds"}.

        That of a pair that the model cannot read has, besides, "refused": the reason.
        """
        self.load()
        for start in range(0, len(calls), self.cfg.batch_size):
            yield from self.compare_batch(calls[start:start + self.cfg.batch_size])

    def compare_batch(self, calls):
        start = time.monotonic()
        prompts = [self.prompt(call) for call in calls]
        answers = [self.refusal(prompt, self.cfg.max_new_tokens) for prompt in prompts]
        fitting = [k for k, answer in enumerate(answers) if answer is None]
        completions = []
        if fitting:
            completions = self.sample([prompts[k] for k in fitting], [calls[k] for k in fitting])
        seconds = round((time.monotonic() - start) / len(calls), 4)
        for k, completion in zip(fitting, completions):
            text = answer_text(self.tokenizer, prompts[k], completion)
            answers[k] = {"text": text, "tokens": len(completion.ids),
                          "finished": completion.finished, "seconds": seconds}
            if self.begun:
                answers[k]["begun"] = self.begun
        return answers

    def refusal(self, prompt, new_tokens):
        """The answer to a prompt that does not fit into the model's context; None if it does."""
        context = context_length(self.model)
        if len(prompt) + new_tokens <= context:
            return None
        return refused(f"a prompt of {len(prompt)} tokens and {new_tokens} new ones exceed the "
                       f"model's context of {context}")

    def sample(self, prompts, calls):
        """A Completion of each prompt, with the random numbers of its call."""
        uniforms = []
        for call in calls:
            rng = random_stream(call, self.cfg.seed)
            uniforms.append(torch.rand(self.cfg.max_new_tokens, generator=rng))
        pad = pad_id(self.tokenizer, self.ends)
        uniforms = torch.stack(uniforms)     # [prompts, max_new_tokens]
        return generate(self.model, prompts, uniforms, self.cfg.temperature, self.ends, pad)

    def prompt(self, call):
        """Token ids that ask for a judgment; to think on, with all that was said before."""
        chat = bool(self.tokenizer.chat_template)
        text = judge_prompt(call.problem, call.a["code"], call.b["code"], chat)
        ids = encode(self.tokenizer, text)
        if call.before:
            # An end token in its words, where it quotes a program, stays text.
            ends = [decode(self.tokenizer, [end]) for end in self.ends]
            # Thought by thought: a tokenizer might join the end of one with the WAIT behind it.
            for thought in call.before["text"].split(WAIT):
                for piece in (*cut(thought, ends), WAIT):
                    ids = ids + encode_behind(self.tokenizer, piece)
        return ids

    def rate(self, calls):
        """Yield an answer to "Is A correct?" for each call: as `compare`, with P(Yes) as "yes"."""
        self.load()
        for start in range(0, len(calls), self.cfg.batch_size):
            yield from self.rate_batch(calls[start:start + self.cfg.batch_size])

    def rate_batch(self, calls):
        yes = self.tokenizer("Yes", add_special_tokens=False).input_ids[0]
        no = self.tokenizer("No", add_special_tokens=False).input_ids[0]
        if yes == no:
            reason = 'its "Yes" and its "No" begin with one and the same token'
            return [refused(reason) for _ in calls]
        prompts = []
        for call in calls:
            prompts.append(encode(self.tokenizer, pointwise_prompt(call)))
        answers = [self.refusal(prompt, new_tokens=0) for prompt in prompts]
        fitting = [k for k, answer in enumerate(answers) if answer is None]
        if fitting:
            for k, p in zip(fitting, self.p_yes([prompts[k] for k in fitting], yes, no)):
                answers[k] = {"text": "", "tokens": 0, "finished": True, "seconds": 0.0, "yes": p}
        return answers

    def p_yes(self, prompts, yes, no):
        """P(yes) / (P(yes) + P(no)) of the token after each prompt, a list of ids."""
        # fp64, where sure judgments do not all round to 1
        return torch.sigmoid(lead_of_yes(self.model, prompts, yes, no).double()).tolist()


def lead_of_yes(model, prompts, yes, no):
    """log P(yes) − log P(no) of the token after each prompt, a list of ids: [prompts]."""
    with torch.no_grad():
        hidden = prefill(model, prompts, n=1, pad=0).hidden                 # [prompts, H]
        logits = logits_of(model, hidden)                                   # [prompts, V]
    return logits[:, yes] - logits[:, no]


class ServedJudge:
    """The model behind --api-base."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.name = f"{cfg.api_model}@{cfg.api_base}"
        if cfg.api_plain:
            self.name += " plain"
        self.settings = sampling_settings(cfg)

    def compare(self, calls):
        """As LocalJudge.compare."""
        bodies = []
        for call in calls:
            chat = not self.cfg.api_plain
            text = judge_prompt(call.problem, call.a["code"], call.b["code"], chat)
            begun = call.before["text"] + WAIT if call.before else ""
            seed = random_stream(call, self.cfg.seed).initial_seed()
            bodies.append(request_body(self.cfg, text, seed, begun))
        for answer in complete(self.cfg.api_base, bodies, self.cfg.in_flight):
            if answer.error:
                yield refused(answer.error)
            else:
                yield {"text": answer.text, "tokens": answer.tokens,
                       "finished": answer.finished, "seconds": answer.seconds}


IS_CORRECT = "Is this correct? Answer Yes or No.\n"
IS_GOOD = "Is this a good answer? Answer Yes or No.\n"


def pointwise_prompt(call):
    """What a judge reads that rates one candidate without a rival."""
    question = IS_GOOD if asks_for_answers(call.problem) else IS_CORRECT
    return "\n".join([call.problem["prompt"].rstrip(), call.a["code"].rstrip(), question])


def refused(reason):
    """The answer of a judge that cannot judge this."""
    return {"text": "", "tokens": 0, "finished": False, "seconds": 0.0, "refused": reason}


def random_stream(call, seed):
    """A judgment's own random numbers: the same in any batch, and in a run that goes on."""
    return stream(seed, "judgment", *call.key)


def sampling_settings(cfg):
    return f"{cfg.seed}/{cfg.temperature}/{cfg.max_new_tokens}"


# ---------------------------------------------------------------- judgments.jsonl

JUDGMENT_KEY = ("judge", "settings", "problem_id", "draw", "a", "b", "wait", "prompt")
JUDGMENT = {"text": str, "tokens": int, "finished": bool, "seconds": (int, float)}


def judgment_key(judge, call):
    """What a judgment is filed under. Which method wants it is not part of it."""
    if call.b is None:
        text = pointwise_prompt(call)
    else:
        # The words, so that judgments made in other words are not taken for these. chat=True: those
        # words hold the protocol. The last part is whatever "Wait" is called.
        text = (judge_prompt(call.problem, call.a["code"], call.b["code"], chat=True)
                + WAIT * call.wait)
    prompt = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12]
    return judge.name, judge.settings, *call.key, prompt


class Judgments:
    """The rows of judgments.jsonl, by key. What is there is not judged again."""

    def __init__(self, file):
        self.file = file      # an open Appender
        self.rows = {file.key_of(row): row for row in read_rows(file.path, JUDGMENT)}

    def collect(self, judge, answers_to, calls):
        """A row for each call, in their order.

        answers_to: judge.compare or judge.rate, which is asked about the calls that are missing.
        Each row is kept as soon as it is there.
        """
        keys = [judgment_key(judge, call) for call in calls]
        for key, call in zip(keys, calls):
            if call.before and "refused" in call.before:     # there is nothing to think on from
                self.rows[key] = {**call.before, "wait": call.wait}
        missing = [call for key, call in zip(keys, calls) if key not in self.rows]
        if missing:
            self.fill(judge, answers_to, missing)
        rows = [self.rows[key] for key in keys]
        for row in rows:
            row["verdict"] = verdict_of(row)    # by today's rule, whoever wrote the row
        return rows

    def fill(self, judge, answers_to, calls):
        """Judge these calls. What is refused is not written, so the next run asks again."""
        answers = tqdm(answers_to(calls), f"judge {judge.name.split('@')[0]}", len(calls),
                       unit="judgment", delay=0.5)
        refusals = []
        for call, answer in zip(calls, answers):
            key = judgment_key(judge, call)
            row = {**dict(zip(JUDGMENT_KEY, key)), **judgment(call, answer)}
            self.rows[key] = row
            if "refused" in row:
                refusals.append(row)
            else:
                self.file.append(row)
        if refusals:
            print(f"note: {len(refusals)} of {len(calls)} judgments of {judge.name} were refused "
                  f"and count as no verdict; the first, on {refusals[0]['problem_id']}: "
                  f"{refusals[0]['refused']}")


def judgment(call, answer):
    """What a row says of an answer. Where it thinks on from another, text and costs are of both."""
    row = dict(answer)
    if call.before:
        row["text"] = call.before["text"] + WAIT + answer["text"]
        row["tokens"] = call.before["tokens"] + answer["tokens"]
        row["seconds"] = round(call.before["seconds"] + answer["seconds"], 4)
    row["verdict"] = verdict_of(row)
    return row


def verdict_of(row):
    """The verdict of a judgment: that of its last thought, as training rewards it.

    Where the prompt has opened the judge's thoughts, the row says so (begun).
    """
    if "refused" in row:
        return None
    return parse_verdict(row.get("begun", "") + row["text"], row["finished"])


# ---------------------------------------------------------------- methods

@dataclass
class Method:
    """A way of choosing: by a function of the candidates, or by the votes of judgments."""
    name: str
    choose: callable = None            # a problem's candidates -> probabilities [N]
    judgments: dict = None             # {problem_id: rows of judgments.jsonl}
    ratings: dict = None               # what `choose` goes by: {(problem_id, program text): P(Yes)}
    in_rounds: bool = False            # the judgments came in rounds of random pairing

    def probabilities(self, candidates):
        """The probabilities [N] with which each of a problem's candidates is chosen."""
        if self.judgments is None:
            return self.choose(candidates)
        return by_votes(candidates, self.judgments[candidates[0]["problem_id"]])


def simple_methods(lacking, n_candidates):
    """The simple ways, but for those whose fields all candidates lack; see `lacking_fields`."""
    methods = []
    for name, choose in BASELINES.items():
        if lacking.get(name) != n_candidates:
            methods.append(Method(name, choose))
    return methods


def judge_methods(label, judge, problems, candidates, cache, cfg):
    """The ways to choose by one judge's votes. All of them draw on the same judgments."""
    methods = []
    for aggregate in dict.fromkeys(cfg.aggregate):
        if aggregate == "rounds":
            judgments = judge_in_rounds(judge, problems, candidates, cache, cfg.rounds, cfg.seed)
            methods.append(Method(label, judgments=judgments, in_rounds=True))
        else:
            judgments = judge_every_pair(judge, problems, candidates, cache)
            methods.append(Method(f"{label}, {aggregate}", judgments=judgments))

    for wait in sorted(set(cfg.waits) - {0}):
        thought_on = judge_in_rounds(judge, problems, candidates, cache, cfg.rounds, cfg.seed, wait)
        # The control: no wait, but as many rounds as cost at least as many tokens.
        wanted = tables.tokens_of(thought_on)
        rounds = cfg.rounds
        control = judge_in_rounds(judge, problems, candidates, cache, rounds, cfg.seed)
        before = 0
        spent = tables.tokens_of(control)
        while before < spent < wanted:
            rounds = max(rounds + 1, rounds * wanted // spent)
            control = judge_in_rounds(judge, problems, candidates, cache, rounds, cfg.seed)
            before = spent
            spent = tables.tokens_of(control)
        if 0 < before == spent:  # a server refuses whatever is new
            print(f"note: “{label}, {tables.control_name(wait)}” has fewer tokens than that: "
                  "further judgments cost none")
        name = f"{label}, {tables.waits_name(wait)}"
        methods.append(Method(name, judgments=thought_on, in_rounds=True))
        name = f"{label}, {tables.control_name(wait)}"
        methods.append(Method(name, judgments=control, in_rounds=True))
    return methods


def judge_in_rounds(judge, problems, candidates, cache, rounds, seed, wait=0):
    """{problem_id: judgments} of R rounds of random pairing, each thought on `wait` times."""
    calls = []
    for pid, problem in problems.items():
        calls += random_rounds(problem, programs(candidates[pid]), rounds, seed)
    rows = cache.collect(judge, judge.compare, calls)
    for _ in range(wait):
        calls = [replace(call, before=row) for call, row in zip(calls, rows)]
        rows = cache.collect(judge, judge.compare, calls)
    return by_problem(rows, problems)


def judge_every_pair(judge, problems, candidates, cache):
    """{problem_id: judgments} of all pairs."""
    calls = []
    for pid, problem in problems.items():
        calls += every_pair(problem, programs(candidates[pid]))
    return by_problem(cache.collect(judge, judge.compare, calls), problems)


def by_problem(rows, problems):
    found = {pid: [] for pid in problems}
    for row in rows:
        found[row["problem_id"]].append(row)
    return found


def pointwise(label, judge, problems, candidates, cache):
    """[the method that chooses by the judge's P(Yes) for each program alone]; [] if it has none."""
    calls = []
    for pid, problem in problems.items():
        calls += [Call(problem, program, None) for program in programs(candidates[pid])]
    p_yes = {}   # {(problem_id, program text): P(Yes)}
    for call, row in zip(calls, cache.collect(judge, judge.rate, calls)):
        if "refused" in row:
            print(f"note: “{label}, pointwise” is left out")
            return []
        p_yes[row["problem_id"], call.a["code"]] = row["yes"]
    return [Method(f"{label}, pointwise", partial(highest_p_yes, p_yes), ratings=p_yes)]


def highest_p_yes(p_yes, candidates):
    return best([p_yes[candidate["problem_id"], candidate["code"]] for candidate in candidates])


# ---------------------------------------------------------------- what a method is worth

def is_mixed(candidates):
    """Do some of the candidates pass and some fail? Else every way of choosing is the same."""
    return len({candidate["passed"] for candidate in candidates}) == 2


def pass_at_1(p, candidates):
    """Σ_c p_c [c passed]: how often a choice with these probabilities [N] passes."""
    return float(sum(p_c for p_c, candidate in zip(p, candidates) if candidate["passed"]))


def take_one(p, candidates, seed):
    """One candidate, drawn from p [N] by a number u that all methods share on a problem."""
    rng = stream(seed, "tie", candidates[0]["problem_id"])
    u = float(torch.rand((), generator=rng, dtype=torch.float64))
    drawn = np.searchsorted(np.cumsum(p), u, side="right")
    last = np.flatnonzero(p)[-1]      # where rounding left the sum of p below u
    return candidates[min(drawn, last)]


def selection_row(method, candidates, n, seed):
    """The row of selections.jsonl for a method's choice among a problem's candidates."""
    p = method.probabilities(candidates)
    pid = candidates[0]["problem_id"]
    taken = take_one(p, candidates, seed)["candidate_id"]
    row = {
        "problem_id": pid,
        "method": method.name,
        "n": n,
        "candidate_id": taken,
        "passed": pass_at_1(p, candidates),
    }
    if method.judgments is None:
        return row
    judgments = method.judgments[pid]
    votes = vote_counts(candidates, judgments)
    deciding = deciding_judgment(votes, judgments, taken)
    row["votes"] = votes
    row["judge_calls"] = len(judgments)
    row["judge_tokens"] = sum(judgment["tokens"] for judgment in judgments)
    row["judge_seconds"] = round(sum(judgment["seconds"] for judgment in judgments), 4)
    row["transcript"] = deciding["text"] if deciding else None
    if method.in_rounds and judgments:
        row["by_round"] = after_each_round(candidates, judgments)
    return row


def vote_counts(candidates, judgments):
    """{candidate_id: (judgments won, judgments)} of a problem's programs."""
    contenders = programs(candidates)
    W, M = tally(contenders, judgments)
    counts = zip(W.sum(1).tolist(), M.sum(1).tolist())
    return {candidate["candidate_id"]: count for candidate, count in zip(contenders, counts)}


def ranking(votes, taken):
    """Candidate ids by the share of judgments that they won, the one taken before its equals."""
    def place(candidate_id):
        won, judged = votes[candidate_id]
        return won / max(judged, 1), candidate_id == taken
    return sorted(votes, key=place, reverse=True)


def deciding_judgment(votes, judgments, taken):
    """The first for the one taken over the best-placed rival that it beat; None if it won none."""
    ranked = ranking(votes, taken)
    won = [row for row in judgments if winner(row) == taken]
    return min(won, key=lambda row: ranked.index(loser(row)), default=None)


def winner(judgment):
    """The id of the program that a judgment is for; None if it has no verdict."""
    return {"A": judgment["a"], "B": judgment["b"], None: None}[judgment["verdict"]]


def loser(judgment):
    return {"A": judgment["b"], "B": judgment["a"], None: None}[judgment["verdict"]]


def after_each_round(candidates, judgments):
    """[(judge tokens, pass@1)] after 1, 2, ... R rounds: what fewer rounds cost, what they choose.

    judgments: round after round, each with the same number of judgments.
    """
    a_round = 2 * (len(programs(candidates)) // 2)    # n // 2 pairs, in both orders
    found = []
    for end in range(a_round, len(judgments) + 1, a_round):
        so_far = judgments[:end]
        tokens = sum(row["tokens"] for row in so_far)
        found.append((tokens, pass_at_1(by_votes(candidates, so_far), candidates)))
    return found


# ---------------------------------------------------------------- how sure that is

def resample(candidates, methods, seed, draws=40):
    """pass@1 of each method on other samples of one problem, [draws, methods].

    A sample is as many candidates, drawn with replacement (and again, until some pass and some
    fail), which all methods share. For each judge its verdicts on each pair of programs are drawn
    anew, as many and with replacement, too.
    """
    if not is_mixed(candidates):
        return np.full((draws, len(methods)), float(candidates[0]["passed"]))
    pid = candidates[0]["problem_id"]
    rng = np.random.default_rng([seed, *pid.encode(errors="replace")])
    contenders = programs(candidates)
    tallies = {}
    for method in methods:
        if method.judgments is not None:
            tallies[method.name] = tally(contenders, method.judgments[pid])

    scores = []
    while len(scores) < draws:
        sample = [candidates[k] for k in rng.integers(0, len(candidates), len(candidates))]
        if not is_mixed(sample):
            continue
        texts = {candidate["code"] for candidate in sample}
        present = np.array([candidate["code"] in texts for candidate in contenders])    # [n]
        score = []
        for method in methods:
            if method.judgments is None:
                score.append(pass_at_1(method.choose(sample), sample))
            else:
                W, M = tallies[method.name]
                p = most_votes(resample_votes(W, M, rng), M, present)
                score.append(pass_at_1(p, contenders))
        scores.append(score)
    return np.array(scores)


def resample_votes(W, M, rng):
    """W [n, n] as other verdicts would make it: those of each pair drawn anew, with replacement.

    Of the M_ij judgments of a pair W_ij are for i, W_ji for j and the rest for neither. So the new
    ones are a multinomial draw: M_ij judgments, each for i, for j or for neither with these shares.
    """
    i, j = np.triu_indices(len(W), 1)                                    # [pairs], i < j
    judged = M[i, j]                                                     # [pairs]
    neither = judged - W[i, j] - W[j, i]
    outcomes = np.stack([W[i, j], W[j, i], neither], axis=1)             # [pairs, 3]
    shares = outcomes / np.maximum(judged, 1)[:, None]
    shares[judged == 0] = [0, 0, 1]                                      # nothing is drawn from it
    drawn = rng.multinomial(judged, shares)                              # [pairs, 3]
    resampled = np.zeros_like(W)
    resampled[i, j] = drawn[:, 0]
    resampled[j, i] = drawn[:, 1]
    return resampled


# ---------------------------------------------------------------- the command

def judges_of(cfg):
    """{label: judge} of those that the flags name. Raises UserError if the default is missing."""
    trained = cfg.judge
    if trained is None and not cfg.api_base:
        trained = str(ROOT / "runs/edges-instance/judge")
        if not Path(trained).exists():
            raise UserError(f"--judge: {trained} is not there yet: run `python train_bilevel.py "
                            "--weights instance` first, or name a judge (--judge none shows the "
                            "simple ways alone)")
    untrained = cfg.base_judge
    if untrained is None and trained != "none" and Path(cfg.labelled).resolve() in EDGES_LABELLED:
        untrained = str(EDGES / "judge")

    judges = {}
    if untrained not in (None, "none"):
        judges["judge, untrained"] = LocalJudge(untrained, cfg, "--base-judge")
    if trained not in (None, "none"):
        judges["judge, trained"] = LocalJudge(trained, cfg)
    if cfg.api_base:
        judges["judge, served"] = ServedJudge(cfg)
    return judges


def load_candidates(cfg):
    """(problems of the split, {problem_id: candidates with a verdict}).

    Raises UserError where there is nothing to choose.
    """
    candidates = defaultdict(list)
    all_problems = read_problems(cfg.problems)
    rows, notes = read_labelled(cfg.labelled, all_problems)
    for note in notes:
        print(note)
    texts, _ = programs_of(rows)
    for row in rows:
        check_optional_fields(row, cfg.labelled)
        if row["passed"] is not None and row["code"] in texts[row["problem_id"]]:
            candidates[row["problem_id"]].append(row)

    problems = {}
    n_problems = 0
    for pid, problem in all_problems.items():
        if problem["split"] == cfg.split:
            n_problems += 1
            if pid in candidates:
                problems[pid] = problem
    if 0 < len(problems) < n_problems:
        print(f"note: {n_problems - len(problems)} of {n_problems} problems of split {cfg.split!r} "
              f"have no candidate with a verdict in {cfg.labelled} and are left out")
    if not problems:
        files = " ".join(map(str, cfg.problems))
        raise UserError(f"{cfg.labelled}: no candidates for split {cfg.split!r} of {files} "
                        "(--split)")
    if len({asks_for_answers(problem) for problem in problems.values()}) == 2:
        raise UserError(f"{cfg.labelled}, split {cfg.split!r}: has programs that were executed and "
                        "answers that were preferred: choose among each in a run of its own")
    if not any(is_mixed(candidates[pid]) for pid in problems):
        raise UserError(f"{cfg.labelled}, split {cfg.split!r}: no problem has both a passing and a "
                        "failing candidate (or a preferred one and another), so every way of "
                        "choosing is the same: sample more candidates (sample.py --n), or take "
                        "other problems")
    if cfg.explain and cfg.explain not in problems:
        raise UserError(f"--explain {cfg.explain}: not among the {len(problems)} problems of split "
                        f"{cfg.split!r} in {cfg.labelled}")
    return problems, candidates


def check_optional_fields(row, path):
    """What the simple ways go by, where a candidate has it. Raises UserError."""
    place = f"{path}: candidate {row['candidate_id']!r} of problem {row['problem_id']!r}"
    for name in ("mean_logprob", "self_certainty", "n_tokens"):
        value = row.get(name)
        if value is not None and not is_number(value):
            raise UserError(f"{place}: {name!r} is no number but {value!r}")
    for name, kind in (("public_passed", bool), ("output_digest", str)):
        if not isinstance(row.get(name), (kind, type(None))):
            raise UserError(f"{place}: {name!r} is {row[name]!r}: expected a {kind.__name__}")


def is_number(value):
    """Is it one that can be computed with? JSON may have integers that no float reaches."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def lacking_fields(candidates):
    """{method: how many of the candidates [N] lack a field that it needs}."""
    lacking = {}
    for name, fields in NEEDS.items():
        lacking[name] = sum(any(row.get(field) is None for field in fields) for row in candidates)
    return lacking


def all_methods(judges, problems, candidates, lacking, cache, cfg):
    """Every method that is compared, the oracle last. The judges judge here."""
    n_candidates = sum(len(candidates[pid]) for pid in problems)
    *simple, perfect = simple_methods(lacking, n_candidates)     # the oracle, as in BASELINES
    rated = []
    voted = []
    for label, judge in judges.items():
        voted += judge_methods(label, judge, problems, candidates, cache, cfg)
        if label == "judge, untrained":
            rated += pointwise(label, judge, problems, candidates, cache)
    return [*simple, *rated, *voted, perfect]


def compare_methods(judges, problems, all_candidates, cache, cfg):
    """Choose among the first n candidates of each problem, for each n; write and print it.

    All tables but one are of the largest n.
    """
    most = max(len(all_candidates[pid]) for pid in problems)
    sizes = sorted({min(n, most) for n in [*cfg.n, most]})
    rows = []
    for n in sizes:
        candidates = {pid: all_candidates[pid][:n] for pid in problems}
        shown = [candidate for pid in problems for candidate in candidates[pid]]
        lacking = lacking_fields(shown)
        methods = all_methods(judges, problems, candidates, lacking, cache, cfg)
        names = [method.name for method in methods]
        # What the first few candidates lack, others may have: p is of the largest n.
        comparable = names if n == most else [*names, *NEEDS]
        if cfg.against and cfg.against not in comparable:
            raise UserError(f"--against {cfg.against}: expected one of: {'; '.join(names)}")
        for method in methods:
            rows += [selection_row(method, candidates[pid], n, cfg.seed) for pid in problems]
    write_rows(cfg.out, rows)

    # what the last round of the loop has made is of the largest n
    of_largest = [row for row in rows if row["n"] == most]
    resampled = np.stack([resample(candidates[pid], methods, cfg.seed) for pid in problems])
    report(of_largest, resampled, methods, judges, problems, candidates, cfg)
    first = next(iter(problems.values()))
    if len(sizes) > 1:
        print()
        tables.print_table(tables.sizes_table(names, rows, tables.words_for(first)))
    preferences = asks_for_answers(first)
    for name, count in lacking.items():
        if count and not preferences:    # the table of preferences has them as "-"
            left_out = "" if name in names else "; it is left out"
            fields = " and ".join(NEEDS[name])
            print(f"note: “{name}” needs {fields}, which {count} of {len(shown)} candidates of "
                  f"{cfg.labelled} lack{left_out}")
    print(f"\nselections: {cfg.out}\njudgments:  {cache.file.path}")
    if judges:
        print(f"next: the same command with --explain {shlex.quote(next(iter(problems)))}")


def report(rows, resampled, methods, judges, problems, candidates, cfg):
    """Print the tables.

    rows: of selections.jsonl.   resampled: [problems, samples, methods] pass@1 on other samples.
    """
    judged = {method.name: method.judgments for method in methods if method.judgments is not None}
    mixed = [pid for pid in problems if is_mixed(candidates[pid])]
    score = {(row["method"], row["problem_id"]): row["passed"] for row in rows}  # pass@1
    first = next(iter(problems.values()))
    words = tables.words_for(first)

    sizes = sorted({len(candidates[pid]) for pid in problems})
    setting = f"N = {sizes[-1]}" if len(sizes) == 1 else f"N = {sizes[0]} to {sizes[-1]}"
    if judges and "rounds" in cfg.aggregate:
        setting += f", R = {cfg.rounds}"
    print(f"\n{cfg.labelled}, split {cfg.split}, {setting}: {len(problems)} problems, "
          f"{len(mixed)} of them with {words.mixed}\n")
    names = [method.name for method in methods]
    against = cfg.against or next((name for name in judged if "untrained" not in name), "random")
    print_methods(names, score, taken_ones(rows, candidates), resampled, mixed, against, problems,
                  cfg.seed)

    groups = tables.group_problems(mixed, problems, candidates)
    if groups and not asks_for_answers(first):    # whose groups are the rows of a table below
        print()
        shown = ["random", *judged, "oracle"]
        tables.print_table(tables.groups_table(shown, score, groups, words))

    about_judges = tables.judges_table(judged, candidates, words)
    if about_judges:
        print()
        tables.print_table(about_judges)
        print("right: of mixed pairs; same choice: in both orders of a pair; "
              "calls, tokens and seconds a problem")

    if any(cfg.waits):
        waits = sorted({0, *cfg.waits})
        for label in judges:
            print()
            tables.print_table(tables.waits_table(label, waits, judged, score, candidates, mixed,
                                                  words))
        print(f"tokens a problem; {words.chosen} on mixed problems; right->wrong and wrong->right: "
              "share of mixed pairs since the line above")
    if asks_for_answers(first):
        rated = {method.name: method.ratings for method in methods if method.ratings is not None}
        print_preferences(problems, candidates, judged, rated)


def taken_ones(rows, candidates):
    """{(method, problem_id): did the one candidate that it takes pass?}"""
    right = {}
    for row in rows:
        pid = row["problem_id"]
        right[row["method"], pid] = tables.passed_of(candidates[pid])[row["candidate_id"]]
    return right


def print_methods(names, score, right, resampled, mixed, against, problems, seed):
    """The main table: a row for each method, and what its columns mean.

    score, right: by (method, problem_id).
    """
    first = next(iter(problems.values()))
    table = tables.methods_table(
        names,
        np.array([[score[name, pid] for name in names] for pid in problems]),
        np.array([[right[name, pid] for name in names] for pid in problems]),
        resampled,
        np.isin(list(problems), mixed),
        against,
        seed,
        tables.words_for(first),
    )
    if asks_for_answers(first):
        for name in NEEDS:
            if name not in names:
                table.append({**dict.fromkeys(table[0], "-"), "chosen by": name})
    tables.print_table(table)
    print("\nin brackets: 95 % bootstrap intervals over problems, candidates and verdicts\n"
          "gap closed: (method − random) / (oracle − random)\n"
          f"p: exact McNemar test against “{against}” on one candidate a problem, "
          f"Holm-corrected for {len(names) - 1} comparisons")


def explain(judges, problems, candidates, cache, cfg):
    """Print why each judge chose as it did on the one problem that is asked about."""
    problem = problems[cfg.explain]
    rows = candidates[cfg.explain]
    for label, judge in judges.items():
        for method in judge_methods(label, judge, {cfg.explain: problem}, candidates, cache, cfg):
            judgments = method.judgments[cfg.explain]
            votes = vote_counts(rows, judgments)
            taken = take_one(method.probabilities(rows), rows, cfg.seed)["candidate_id"]
            by_id = {candidate["candidate_id"]: candidate for candidate in rows}
            tables.print_explanation(problem, by_id, method.name, votes, ranking(votes, taken),
                                     deciding_judgment(votes, judgments, taken))


def must_be_selections(path):
    """May the selections be written there? Raises UserError."""
    if path.is_dir() or path.name == "judgments.jsonl":
        raise UserError(f"--out {path}: expected a file for the selections; judgments.jsonl will "
                        "lie beside it")
    must_hold_only(path, lambda row: "method" in row, "selections", "--out ")


def note_served_judgments(judges, cache):
    """A local judge is known by its weights, a served one by its name alone."""
    for judge in judges.values():
        if not isinstance(judge, ServedJudge):
            continue
        kept = sum((row["judge"], row["settings"]) == (judge.name, judge.settings)
                   for row in cache.rows.values())
        if kept:
            print(f"note: {kept} judgments of {judge.name} in {cache.file.path} are used again; "
                  "if the server has another model under that name now, delete them")


def main(argv=None, judges=None):
    """Run the stage. judges: {label: judge}; by default those that the flags name."""
    cfg = parse(Settings, __doc__, argv)
    if not cfg.explain:
        must_be_selections(cfg.out)
    if judges is None:
        judges = judges_of(cfg)
    if cfg.explain and not judges:
        raise UserError("--explain: there is nothing to explain without a --judge")
    problems, candidates = load_candidates(cfg)
    with Appender(cfg.out.with_name("judgments.jsonl"), JUDGMENT_KEY) as file:
        cache = Judgments(file)
        note_served_judgments(judges, cache)
        try:
            if cfg.explain:
                explain(judges, problems, candidates, cache, cfg)
            else:
                compare_methods(judges, problems, candidates, cache, cfg)
        except KeyboardInterrupt:
            stopped(f"{len(file.done)} judgments are kept in {file.path}: "
                    "the same command goes on from there")


if __name__ == "__main__":
    run(main)
