"""What a judge can do before it is trained, and whether it can learn the task at all.

    python docs/ground.py --problems P.jsonl --labelled L.jsonl --judge NAME_OR_PATH --out runs/ground

Pairs as train_bilevel.py makes them, each asked in both orders. Printed, and written to
OUT/ground.json, for the meta and the test pairs:

    shortest          the shorter program is taken
    pointwise         the program that the judge more likely calls correct, each seen alone
    at once           the verdict that is more likely as the whole answer
    at once, summed   the same, by the sum over both orders: a liking for "A" cancels
    reasoned          the verdict at the end of a sampled judgment of up to --reason tokens

--choose N adds what these ways are worth in the end, as select.py's table: one of N random
programs of each test problem, chosen by P(Yes) or by votes of verdicts at once in --rounds rounds.

Then the first question to ask before any reinforcement learning: --steps supervised steps on
whole answers "<best>A</best>", which need no reasoning. Does accuracy leave 50 %, how fast, and also
for pairs that have to be right in both orders? --teach coin teaches the form of the answer and
nothing else: a judge to start reinforcement learning from where answers are short.

    right      of all judgments, two for each pair
    both       pairs that are right in both orders; two programs of equal length or equal P(Yes) get "B"
               in each order, so they are right in one
    says A     share of verdicts; 50 % without a liking for a position

Intervals: 95 %, bootstrap over problems.
"""
import importlib.util
import json
import math
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch  # noqa: E402

import train_bilevel as tb  # noqa: E402
from data.flags import check_bounds, flag, heading, parse, run  # noqa: E402
from data.judge import VERDICT  # noqa: E402
from data.lora import merge_lora  # noqa: E402
from data.pairs import Pair, in_both_orders, read_pairs  # noqa: E402
from data.rows import EDGES, EDGES_PROBLEMS, ROOT, UserError, read_rows, write_rows  # noqa: E402
from data.tables import print_table  # noqa: E402
from kernels.packing import make_packs  # noqa: E402
from sample import encode, stream  # noqa: E402

SPLITS = ("meta", "test")


def stage_four():
    """The module select.py, whose name belongs to the standard library."""
    spec = importlib.util.spec_from_file_location("stage_four", ROOT / "select.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["stage_four"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


select = stage_four()


@dataclass
class Settings:
    heading("data and files")
    problems: list = flag(lambda: list(EDGES_PROBLEMS), "problem files")
    labelled: str = flag(str(EDGES / "labelled.jsonl"), "labelled candidates")
    judge: str = flag(str(EDGES / "judge"), "causal LM: a name or a folder")
    out: Path = flag(ROOT / "runs/ground", "folder of ground.json and of the taught judge")
    pairs_per_problem: int = flag(4, "most pairs made of one problem", least=1)
    heading("before training")
    reason: int = flag(256, "most tokens of a sampled judgment; 0: none are sampled", least=0)
    choose: int = flag(0, "choose among so many random programs of each test problem; 0: do not",
                       least=0)
    rounds: int = flag(2, "rounds of random pairing that --choose votes in", least=1)
    heading("supervised steps")
    steps: int = flag(100, "how many", least=0)
    teach: str = flag("verdict", "the right verdict, or one by a coin",
                      choices=["verdict", "coin"])
    batch: int = flag(32, "pairs in a step", least=1)
    lr: float = flag(1e-4, "step size of Adam", above=0)
    lora_rank: int = flag(16, "rank of LoRA adapters; 0 trains all parameters", least=0)
    check_every: int = flag(20, "steps between evaluations", least=1)
    heading("machine")
    micro_tokens: int = flag(16384, "most tokens in one forward pass", least=1)
    dtype: str = flag("auto", "of the judge")
    seed: int = flag(0, "of pairs, order and steps")
    device: str = flag(tb.DEVICE, "torch device")

    def __post_init__(self):
        check_bounds(self)
        self.out = Path(self.out)

    def training(self):
        """The settings of the same judge and pairs in train_bilevel.py."""
        return tb.Settings(
            problems=self.problems,
            labelled=self.labelled,
            judge=self.judge,
            pairs_per_problem=self.pairs_per_problem,
            max_new_tokens=self.reason or 1,
            weights="uniform",
            lr=self.lr,
            beta2=0.999,
            lora_rank=self.lora_rank,
            micro_tokens=self.micro_tokens,
            dtype=self.dtype,
            seed=self.seed,
            device=self.device,
        )


# ---------------------------------------------------------------- ways to judge

@torch.no_grad()
def lead_of_a(judge, pairs):
    """log π("<best>A</best>") − log π("<best>B</best>"), each as a whole answer: [pairs]."""
    answers = [verdict_ids(judge, name) for name in "AB"]
    lead = []
    for start in range(0, len(pairs), 64):
        some = pairs[start:start + 64]
        prompts = [judge.prompt_ids(pair) for pair in some]
        total = torch.zeros(2 * len(some), dtype=torch.float64)
        packs = make_packs(prompts, answers * len(some), judge.pad, judge.cfg.micro_tokens,
                           judge.cfg.device)
        for pack in packs:
            total += judge.judgment_logprobs(pack, len(total)).cpu()
        a, b = total.view(-1, 2).T
        lead.append(a - b)
    return torch.cat(lead)


def verdict_ids(judge, name):
    """A whole answer that is nothing but a verdict, with its end token."""
    ids = judge.tokenizer(VERDICT.format(name), add_special_tokens=False).input_ids
    return ids + judge.ends[:1]


def at_once(judge, pairs):
    """{way: verdicts [2·pairs]}"""
    lead = lead_of_a(judge, in_both_orders(pairs))
    verdicts = ["A" if value > 0 else "B" for value in lead.tolist()]
    of_first = lead[0::2] - lead[1::2]  # of the pair's own A over its own B
    summed = []
    for value in of_first.tolist():
        summed += ["A", "B"] if value > 0 else ["B", "A"]
    return {"at once": verdicts, "at once, summed": summed}


def pointwise(judge, pairs):
    """Verdicts by P(Yes), each program seen alone."""
    yes, no = (judge.tokenizer(word, add_special_tokens=False).input_ids[0]
               for word in ("Yes", "No"))
    asked = {}
    for pair in pairs:
        for row in (pair.a, pair.b):
            call = select.Call(pair.problem, row, None)
            asked[program_of(pair, row)] = encode(judge.tokenizer, select.pointwise_prompt(call))
    names = sorted(asked, key=lambda name: len(asked[name]))
    leads = {}  # log P(Yes) − log P(No)
    for start in range(0, len(names), 32):
        some = [asked[name] for name in names[start:start + 32]]
        lead = select.lead_of_yes(judge.model, some, yes, no).tolist()
        leads |= dict(zip(names[start:start + 32], lead))
    verdicts = []
    for pair in in_both_orders(pairs):
        a = leads[program_of(pair, pair.a)]
        b = leads[program_of(pair, pair.b)]
        verdicts.append("A" if a > b else "B")
    return verdicts


def program_of(pair, row):
    """What names a candidate: ids are unique in a problem only."""
    return pair.problem["problem_id"], row["candidate_id"]


def reasoned(judge, pairs, seed):
    """One sampled judgment for each order: its verdict, or None; and texts."""
    shown = in_both_orders(pairs)
    verdicts = []
    texts = []
    for start in range(0, len(shown), 256):
        some = shown[start:start + 256]
        streams = [stream(seed, "ground", start + k) for k in range(len(some))]
        for group in judge.rollout(some, streams, 1):
            verdicts += group.verdicts
            texts += group.texts
    return verdicts, texts


def shortest(pairs):
    verdicts = []
    for pair in in_both_orders(pairs):
        verdicts.append("A" if len(pair.a["code"]) < len(pair.b["code"]) else "B")
    return verdicts


# ---------------------------------------------------------------- Best-of-N

class AtOnce(select.LocalJudge):
    """A judge for select.py that gives the more likely verdict as its whole answer."""

    def __init__(self, judge, cfg):
        """cfg: select.Settings"""
        super().__init__(cfg.judge, cfg)
        self.judge = judge
        self.model = judge.model
        self.tokenizer = judge.tokenizer
        self.settings = f"at once/{cfg.dtype}"

    def compare_batch(self, calls):
        pairs = [Pair("", call.problem, call.a, call.b, "", "") for call in calls]
        answers = []
        for lead in lead_of_a(self.judge, pairs).tolist():
            text = VERDICT.format("A" if lead > 0 else "B")
            answers.append({"text": text, "tokens": 0, "finished": True, "seconds": 0.0})
        return answers


def choose(judge, cfg):
    """select.py on the test problems, with verdicts at once, on --choose programs of each."""
    of_problem = defaultdict(list)
    for row in read_rows(cfg.labelled):
        of_problem[row["problem_id"]].append(row)
    rng = random.Random(cfg.seed)
    chosen = []
    for rows in of_problem.values():
        chosen += rng.sample(rows, min(cfg.choose, len(rows)))
    labelled = cfg.out / "choose.jsonl"
    write_rows(labelled, chosen)
    flags = ["--problems", *cfg.problems, "--labelled", labelled, "--judge", cfg.judge,
             "--rounds", cfg.rounds, "--batch-size", 64, "--seed", cfg.seed,
             "--device", cfg.device, "--dtype", cfg.dtype, "--out", cfg.out / "selections.jsonl"]
    flags = [str(flag) for flag in flags]
    settings = parse(select.Settings, select.__doc__, flags)
    select.main(flags, {"judge, untrained": AtOnce(judge, settings)})


# ---------------------------------------------------------------- figures

def figures(pairs, verdicts, seed=0):
    """{right, both, says A, no verdict} in %, the first two with intervals [low, high]."""
    both = in_both_orders(pairs)
    right = np.array([verdict == pair.right for pair, verdict in zip(both, verdicts)], dtype=float)
    of_pair = {"right": right.reshape(-1, 2).mean(1), "both": right.reshape(-1, 2).min(1)}
    problems = defaultdict(list)
    for k, pair in enumerate(pairs):
        problems[pair.problem["problem_id"]].append(k)
    groups = [np.array(group) for group in problems.values()]
    rng = np.random.default_rng(seed)
    draws = defaultdict(list)
    for _ in range(1000):
        chosen = np.concatenate([groups[k] for k in rng.integers(0, len(groups), len(groups))])
        for name, values in of_pair.items():
            draws[name].append(values[chosen].mean())
    found = {}
    for name, values in of_pair.items():
        low, high = np.percentile(draws[name], [2.5, 97.5])
        found[name] = [100 * values.mean(), 100 * low, 100 * high]
    given = [verdict for verdict in verdicts if verdict]
    found["says A"] = 100 * given.count("A") / len(given) if given else float("nan")
    found["no verdict"] = 100 * verdicts.count(None) / len(verdicts)
    return found


def table_row(judge, split, way, found):
    row = {"judge": judge, "pairs": split, "way": way}
    for name in ("right", "both"):
        mean, low, high = found[name]
        row[name] = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    row["says A"] = "-" if math.isnan(found["says A"]) else f"{found['says A']:.0f}"
    row["no verdict"] = f"{found['no verdict']:.0f}"
    return row


# ---------------------------------------------------------------- supervised steps

def teach(judge, train_pairs, cfg, check):
    """--steps supervised steps on whole answers; `check(step)` after every --check-every."""
    parameters = tb.FlatParameters(judge.model)
    adam = tb.Adam(parameters, judge.cfg)
    rng = random.Random(cfg.seed)
    order = []
    for step in range(1, cfg.steps + 1):
        while len(order) < cfg.batch:
            order += rng.sample(train_pairs, len(train_pairs))
        pairs = [rng.choice((pair, pair.flipped())) for pair in order[:cfg.batch]]
        order = order[cfg.batch:]
        taught = [pair.right if cfg.teach == "verdict" else rng.choice("AB") for pair in pairs]
        prompts = [judge.prompt_ids(pair) for pair in pairs]
        answers = [verdict_ids(judge, name) for name in taught]
        packs = make_packs(prompts, answers, judge.pad, judge.cfg.micro_tokens, judge.cfg.device)
        weight = torch.full((len(pairs),), 1 / len(pairs), device=judge.cfg.device)
        loss = tb.gradient_of_sum(
            parameters, (judge.weighted_loss(pack, weight, None) for pack in packs))
        if not math.isfinite(loss + float(parameters.grad.norm())):
            raise UserError(f"step {step}: the loss or its gradient is not finite; "
                            "try a smaller --lr")
        adam.step()
        print(f"step {step}: loss {loss:.3f}", flush=True)
        if step % cfg.check_every == 0 or step == cfg.steps:
            check(step)


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    cfg.out.mkdir(parents=True, exist_ok=True)
    training = cfg.training()
    (train, meta, test), notes = read_pairs(training)
    print(*notes, sep="\n")
    judge = tb.Judge(cfg.judge, training)
    train = judge.fitting(train, "training")
    pairs_of = {split: judge.fitting(pairs, split) for split, pairs in zip(SPLITS, (meta, test))}
    print(f"{len(train)} training, "
          + ", ".join(f"{len(p)} {s} pairs" for s, p in pairs_of.items()))
    rows = []
    record = []

    def note(name, split, way, verdicts):
        found = figures(pairs_of[split], verdicts)
        record.append({"judge": name, "split": split, "way": way, **found})
        rows.append(table_row(name, split, way, found))
        print_table(rows[-1:])
        (cfg.out / "ground.json").write_text(json.dumps(record, indent=1))

    for split, pairs in pairs_of.items():
        note("none", split, "shortest", shortest(pairs))
        note("untrained", split, "pointwise", pointwise(judge, pairs))
        for way, verdicts in at_once(judge, pairs).items():
            note("untrained", split, way, verdicts)
        if cfg.reason:
            verdicts, texts = reasoned(judge, pairs, cfg.seed)
            (cfg.out / f"reasoned-{split}.json").write_text(json.dumps(texts, indent=1))
            note("untrained", split, "reasoned", verdicts)

    if cfg.choose:
        choose(judge, cfg)

    def check(step):
        for split, pairs in pairs_of.items():
            for way, verdicts in at_once(judge, pairs).items():
                note(f"{step} steps", split, way, verdicts)

    if cfg.steps:
        teach(judge, train, cfg, check)
        merge_lora(judge.model)
        judge.model.save_pretrained(cfg.out / "judge")
        judge.tokenizer.save_pretrained(cfg.out / "judge")
    print_table(rows)


if __name__ == "__main__":
    run(main)
