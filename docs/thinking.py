"""What a judge of the world of edge cases thinks: after forced Waits, in votes, by itself.

    python docs/thinking.py --judge runs/results/rl-0/judge --out runs/results/thinking-rl-0.jsonl

Writes a row for each pair of the split in each order:

    {"instance_id": "edges/test/2:strong-2>strong-0", "right": "B",
     "waits":    [{"verdict": "B", "tokens": 36, "text": "try p 790 -> 84\\n..."}, ...],
     "votes":    [{"verdict": "B", "tokens": 13, "text": ...}, ...],
     "natural":  {"verdict": "A", "tokens": 63, "text": "try r 629 -> 8\\n..."},
     "cut":      {"verdict": "A", "tokens": 28, "text": ...},
     "examples": {"p": false, "q": false, "r": false, "s": true}, ...}

waits:    thought on 0, 1, ... times; tokens and text are those of all its looks.
votes:    judgments that do not know of each other.
natural:  as long as the judge likes; cut: the same, cut after one look, and a verdict asked for.
examples: of the statement: does it tell A from B?

Tokens are those that the judge chose itself: neither a forced Wait nor the "<best>" that asks for a
verdict is among them.

docs/figures.py makes tables and figures of these files.
"""
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from data import flags  # noqa: E402
from data.flags import check_bounds, flag, heading, parse  # noqa: E402
from data.judge import VERDICT, parse_verdict  # noqa: E402
from data.pairs import in_both_orders, read_pairs  # noqa: E402
from data.rows import EDGES, write_rows  # noqa: E402
from data.edges import world  # noqa: E402
from sample import generate, stream  # noqa: E402
from train_bilevel import DEVICE, Judge, continue_after_wait  # noqa: E402
from train_bilevel import Settings as TrainSettings  # noqa: E402

AT_ONCE = 64  # judgments in one batch
STEP_OF = {line: step for step, (line, _) in world.STEPS.items()}


@dataclass
class Settings:
    heading("what to ask")
    judge: str = flag(str(EDGES / "judge"), "folder of the judge")
    out: str = flag("runs/results/thinking.jsonl", "rows, one for each pair and order")
    split: str = flag("test", "split of the pairs")
    limit: int = flag(None, "only the first so many pairs", type=int, least=1)
    waits: int = flag(4, "most forced Waits", least=0)
    votes: int = flag(5, "judgments of their own", least=1)
    max_new_tokens: int = flag(56, "most tokens of a thought", least=1)
    natural_tokens: int = flag(224, "most tokens where it may think as long as it likes", least=1)
    seed: int = flag(0, "of the judgments")
    device: str = flag(DEVICE, "torch device")

    def __post_init__(self):
        check_bounds(self)


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    settings = TrainSettings(judge=cfg.judge, labelled=str(EDGES / "labelled.jsonl"), seed=0,
                             eval_split=cfg.split, max_new_tokens=cfg.max_new_tokens,
                             device=cfg.device)
    (_, _, pairs), _ = read_pairs(settings)
    judge = Judge(cfg.judge, settings)
    both_orders = in_both_orders(pairs[:cfg.limit])
    rows = []
    for start in tqdm(range(0, len(both_orders), AT_ONCE), desc=cfg.judge, disable=None):
        some = both_orders[start:start + AT_ONCE]
        columns = [
            thoughts_of(judge, some, cfg, start),
            votes_of(judge, some, cfg, start),
            natural_and_cut(judge, some, cfg, start),
        ]
        for pair, waits, votes, (natural, cut) in zip(some, *columns):
            rows.append({
                "instance_id": pair.instance_id,
                "right": pair.right,
                "edge_case": pair.problem["edge_case"],
                "waits": waits,
                "votes": votes,
                "natural": natural,
                "cut": cut,
                "examples": telling_examples(pair),
            })
    write_rows(Path(cfg.out), rows)


def thoughts_of(judge, pairs, cfg, start):
    """For each pair what the judge says after 0, 1, ... forced Waits."""
    streams = [stream(cfg.seed, "waits", start + k) for k in range(len(pairs))]
    groups = judge.rollout(pairs, streams, 1)
    said = [[as_row(judge, group.completions[0])] for group in groups]
    for _ in range(cfg.waits):
        continue_after_wait(judge, [(group, 0, generator)
                                    for group, generator in zip(groups, streams)])
        for rows, group in zip(said, groups):
            rows.append(as_row(judge, group.completions[0]))
    return said


def votes_of(judge, pairs, cfg, start):
    """For each pair a number of judgments that do not know of each other."""
    streams = [stream(cfg.seed, "votes", start + k) for k in range(len(pairs))]
    groups = judge.rollout(pairs, streams, cfg.votes)
    return [[as_row(judge, completion) for completion in group.completions] for group in groups]


def natural_and_cut(judge, pairs, cfg, start):
    """For each pair a judgment as long as the judge likes, and the same cut after one look."""
    prompts = [judge.prompt_ids(pair) for pair in pairs]
    streams = [stream(cfg.seed, "natural", start + k) for k in range(len(pairs))]
    uniforms = torch.stack([torch.rand(cfg.natural_tokens, generator=g) for g in streams])
    natural = generate(judge.model, prompts, uniforms, 1.0, judge.ends, judge.pad)
    cut = cut_after_one_look(judge, prompts, natural, streams)
    return [(as_row(judge, whole), as_row(judge, one)) for whole, one in zip(natural, cut)]


def cut_after_one_look(judge, prompts, completions, streams):
    """The completions, cut where the judge says "Wait" first, and made to give a verdict there.

    One without a Wait stays as it is.
    """
    begin_verdict = judge.tokenizer(VERDICT.split("{")[0], add_special_tokens=False).input_ids
    waits = [token for token in judge.tokenizer.get_vocab().values()
             if judge.tokenizer.decode([token]) == "Wait\n"]
    looks = {}    # {number of a completion: its first look}
    for k, completion in enumerate(completions):
        at = [t for t, token in enumerate(completion.ids) if token in waits]
        if at:
            looks[k] = completion.ids[:at[0]]
    cut = list(completions)
    if looks:
        thought = [prompts[k] + look + begin_verdict for k, look in looks.items()]
        uniforms = torch.stack([torch.rand(4, generator=streams[k]) for k in looks])
        ends = generate(judge.model, thought, uniforms, 1.0, judge.ends, judge.pad)
        for (k, look), end in zip(looks.items(), ends):
            own_again = len(look) + len(begin_verdict)
            cut[k] = replace(end, ids=look + begin_verdict + end.ids,
                             forced=list(range(len(look), own_again)))
    return cut


def as_row(judge, completion):
    text = judge.decode(completion)
    return {
        "verdict": parse_verdict(text, completion.finished),
        "tokens": len(completion.ids) - len(completion.forced),
        "text": text,
    }


def telling_examples(pair):
    """{letter of an example of the statement: does it tell the two programs apart?}"""
    a, b = (steps_of(candidate["code"]) for candidate in (pair.a, pair.b))
    told = {}
    for line in pair.problem["prompt"].splitlines()[1:]:
        name, shown = line.partition(" ->")[0].split()
        x = tuple(int(digit) for digit in shown)
        told[name] = world.result(a, x) != world.result(b, x)
    return told


def steps_of(code):
    """The steps that a program takes; lines that the world does not know are left out."""
    lines = [line.strip() for line in code.splitlines()]
    return [STEP_OF[line] for line in lines if line in STEP_OF]


if __name__ == "__main__":
    flags.run(main)
