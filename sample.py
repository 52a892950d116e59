"""Stage 1: problems -> candidates. A language model writes N programs for each problem.

    python sample.py                                             the world of edge cases, both policies
    python sample.py --problems P.jsonl --model NAME_OR_PATH --n 8 --out C.jsonl
    python sample.py --preset daj-test --api-base http://127.0.0.1:8000/v1 --api-model NAME --out C.jsonl
    torchrun --nproc-per-node 8 -- sample.py --problems P.jsonl --model NAME_OR_PATH --out C.jsonl
    cat C.*-of-8.jsonl > C.jsonl                                 what its eight processes wrote

Reads   problems (data/rows.py has the fields), or a benchmark: its own files, or without --problems
        those on the hub. A benchmark's rows are written to problems.jsonl beside --out.
Writes  candidates, a row for each program (a server's have `seconds` in place of probabilities):
        {"problem_id": "edges/test/3", "candidate_id": "strong-0", "policy": "strong",
         "code": "def f(x):\\n    ...", "text": (what the model wrote), "n_tokens": 4,
         "mean_logprob": -0.178, "self_certainty": 14.7, "finish_reason": "stop", "seed": 0,
         "sampling": {"temperature": 0.7, "max_new_tokens": 512, "model": "c100805a", ...}}

The sampler here (`generate`) is also the one that train_bilevel.py rolls out with: it draws from
the exact softmax of logits / temperature, with no top-k, no top-p and no repetition penalty, so
that the probabilities the trainer scores are those that were sampled from. A checkpoint's own
generation defaults are ignored.

Every candidate has its own random stream (seed, problem, candidate), and batches are cut from the
whole problem list before finished ones are skipped or shards take theirs. So a killed run that is
started again ends with the same rows, and so do shards, put together (with the same --n and
--batch-size). With a server, as far as it honours seeds. With other settings, another model of the
same name or other texts under the same ids it does not go on: rows say what they were made with.
"""
import ctypes
import datetime
import functools
import hashlib
import itertools
import json
import math
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

from data import servers
from data.benchmarks import (BENCHMARKS, PRESETS, extract_code, fetch, mbpp, read_benchmark,
                             solution_prompt)
from data.benchmarks.answers import closes_what_it_did_not_open, thoughts_are_open
from data.fingerprint import fingerprint
from data.flags import check_bounds, flag, flag_of, heading, parse, run, shard_of, stopped
from data.parallel import RANK, WORLD_SIZE
from data.rows import (CANDIDATE, CANDIDATE_KEY, EDGES, EDGES_PROBLEMS, EDGES_RUN, Appender,
                       UserError, read_problems, read_rows)
from data.text import answer_text, decode, encode, in_template
from kernels.packing import make_packs

transformers_logging.disable_progress_bar()
# What a model's forward calls its key-value cache: version 5.24 of transformers has another name
# for it.
VERSION = tuple(map(int, transformers.__version__.split(".")[:2]))
CACHE = "cache" if VERSION >= (5, 24) else "past_key_values"
# Most tokens of prompts in one pass, their padding included. The widest tensor of a pass, in a
# layer's MLP, then has 0.6 GB in bf16 for a model of 0.5 billion parameters, 2.5 GB for one of 7.
READ_AT_ONCE = 65536


# ---------------------------------------------------------------- the sampler

@dataclass
class Completion:
    # Sums are over the sampled tokens: after a Wait with the end token that was taken back, which
    # is no more in ids, and without the forced tokens, which are.
    ids: list                      # generated token ids, the end token included if there was one
    logprob: float                 # Σ log p(token) at temperature 1
    finished: bool                 # ended by an end token (False: cut off at max_new_tokens)
    logprob_sampled: float = 0.0   # Σ log p(token) at the sampling temperature
    self_certainty: float = 0.0    # Σ KL(uniform ‖ p) (2502.18581)
    forced: list = field(default_factory=list)  # positions in ids of tokens that it did not choose

    @property
    def said(self):
        """ids without the end token."""
        return self.ids[:-1] if self.finished else self.ids


@torch.no_grad()
def generate(model, prompts, uniforms, temperature, ends, pad, most_rows=0):
    """Sample n = len(uniforms) / len(prompts) completions of every prompt.

    prompts:   P lists of token ids.
    uniforms:  [P·n, max_new_tokens] in [0, 1), the only randomness: token = inverse CDF at u.
               Row p·n + k is sample k of prompt p. With temperature 0 they are not used (greedy).
    ends:      ids of which any one ends a sample.
    pad:       fills up what is shorter; it is never looked at.
    most_rows: most samples written at once, or the n of one prompt if that is more; 0: all.
               Those of the next prompts take the places of finished ones.
    Returns P·n Completions in that order.
    Raises UserError where a prompt does not fit or the logits are NaN.
    """
    uniforms = uniforms.to(model.device)
    samples, limit = uniforms.shape
    n = samples // len(prompts)
    for prompt in prompts:
        must_fit(model, prompt, limit)
    at_once = max(1, (most_rows or samples) // n)  # prompts
    batch = prefill(model, prompts[:at_once], n, pad)
    waiting = prompts[at_once:]

    # What is known of each of the P·n samples, in their order.
    tokens = torch.full((samples, limit), pad, device=model.device)
    length = torch.zeros(samples, dtype=torch.long, device=model.device)
    finished = torch.zeros(samples, dtype=torch.bool, device=model.device)
    sums = torch.zeros(3, samples, dtype=torch.float64, device=model.device)  # of `measures`
    ends = torch.tensor(ends, device=model.device)

    active = torch.ones_like(batch.sample, dtype=torch.bool)                # [rows]
    while True:
        t = length[batch.sample].clamp(max=limit - 1)                       # [rows]
        logits = logits_of(model, batch.hidden)                             # [rows, V]
        token = draw(logits, temperature, uniforms[batch.sample, t])        # [rows]
        measured = measures(logits, temperature, token)                     # [3, rows]
        wrong = measured[:2].isnan().any(0) & active
        if wrong.any():
            raise UserError(f"the model's logits are NaN at token {int(t[wrong].min()) + 1} of an "
                            f"answer at temperature {temperature}: try --dtype float32, another "
                            "--temperature or another checkpoint")
        # A sample that is over may stay in the batch for a while, but says nothing any more.
        sums[:, batch.sample] += torch.where(active, measured, 0.0)
        tokens[batch.sample, t] = torch.where(active, token, tokens[batch.sample, t])
        finished[batch.sample] |= active & torch.isin(token, ends)
        length[batch.sample] += active

        active = ~finished[batch.sample] & (length[batch.sample] < limit)
        if not waiting and not active.any():
            break
        # Its row costs as much as an active one: drop them whenever they are a quarter of all.
        if int((~active).sum()) * 4 >= len(active):
            batch.keep(active.nonzero()[:, 0])
            token = token[active]
            active = active[active]  # all that are left are
        if len(token):
            step(model, batch, token, active)
        places = at_once * n - len(token)
        if waiting and places >= n:
            count = places // n
            first = samples - n * len(waiting)
            new = prefill(model, waiting[:count], n, pad, first)
            waiting = waiting[count:]
            active = torch.cat([active, torch.ones_like(new.sample, dtype=torch.bool)])
            batch = batch.joined(new) if len(token) else new

    lists = zip(tokens.tolist(), length.tolist(), finished.tolist(), sums.T.tolist())
    return [Completion(ids[:count], logprob, ended, logprob_sampled, self_certainty)
            for ids, count, ended, (logprob, logprob_sampled, self_certainty) in lists]


def draw(logits, temperature, uniform):
    """A token for each row: where the CDF of softmax(logits / temperature) reaches `uniform`.

    logits: [rows, V].   uniform: [rows] in [0, 1).
    """
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).double().cumsum(-1)            # [rows, V]
    reach = uniform[:, None].double() * cdf[:, -1:]  # the last entry is 1 but for rounding
    token = torch.searchsorted(cdf, reach, right=True)[:, 0]
    return token.clamp(max=logits.shape[-1] - 1)


def measures(logits, temperature, token):
    """What is known of the chosen tokens: [3, rows] fp64.

    log p(token) at temperature 1, the same at the sampling temperature, and KL(uniform ‖ p).
    """
    logp = logits.log_softmax(-1)                                           # [rows, V]
    logp_sampled = (logits / (temperature or 1.0)).log_softmax(-1)
    certainty = -logp.mean(-1) - math.log(logp.shape[-1])  # KL(U ‖ p) = −log V − mean_v log p_v
    of_token = logp.gather(-1, token[:, None])[:, 0]
    of_token_sampled = logp_sampled.gather(-1, token[:, None])[:, 0]
    return torch.stack([of_token, of_token_sampled, certainty]).double()


@dataclass
class Batch:
    """The samples that are being written, one a row, and what the model has to know to write on."""
    sample: torch.Tensor     # [rows] which of the P·n samples it is
    hidden: torch.Tensor     # [rows, H] the last hidden state: its head gives the next token
    position: torch.Tensor   # [rows] of the next token
    visible: torch.Tensor    # [rows, keys] bool: the cached keys that are no padding
    cache: DynamicCache

    def keep(self, rows):
        """Go on with these rows only."""
        self.sample = self.sample[rows]
        self.hidden = self.hidden[rows]
        self.position = self.position[rows]
        self.visible = self.visible[rows]
        for layer in self.cache.layers:
            layer.keep(rows)

    def joined(self, other):
        """These rows and below them those of another batch.

        Padding moves to the end of each row, and columns that are nothing else go. (A key knows its
        position without its column: it has been rotated by it, or its embedding was added.)

            this   p q . a     other   p q r s t     joined   p q a . .
                   p q r b                                    p q r b .
                                                              p q r s t
        """
        used = [int(batch.visible.sum(1).max()) for batch in (self, other)]
        width = max(used)
        for batch in (self, other):
            own = min(width, batch.visible.shape[1])
            first = batch.visible.byte().argsort(dim=1, descending=True, stable=True)[:, :own]
            batch.visible = pad_columns(batch.visible.gather(1, first), width)
            for layer in batch.cache.layers:
                layer.take_columns(first, width)
        for mine, theirs in zip(self.cache.layers, other.cache.layers):
            mine.keys = torch.cat([mine.keys, theirs.keys])
            mine.values = torch.cat([mine.values, theirs.values])
        return Batch(
            sample=torch.cat([self.sample, other.sample]),
            hidden=torch.cat([self.hidden, other.hidden]),
            position=torch.cat([self.position, other.position]),
            visible=torch.cat([self.visible, other.visible]),
            cache=self.cache,
        )


def pad_columns(x, width):
    """x [rows, columns] with zeros behind its columns, so that it has `width` of them."""
    return nn.functional.pad(x, (0, width - x.shape[1]))


def prefill(model, prompts, n, pad, first=0):
    """Read each prompt once, for all of its n samples, which are numbered from `first` on.

    Some prompts at a time: what the layers make of all of them may be more than there is memory.
    """
    batch = None
    for some in pieces_to_read(prompts):
        new = read(model, some, pad)
        batch = batch.joined(new) if batch else new
    prompt_of = torch.arange(len(prompts), device=model.device).repeat_interleave(n)  # [P·n]
    batch.keep(prompt_of)
    batch.sample = torch.arange(first, first + len(prompt_of), device=model.device)
    return batch


def pieces_to_read(prompts):
    """Neighbours that have at most READ_AT_ONCE tokens with their padding, or one prompt each."""
    pieces = []
    width = 0
    for prompt in prompts:
        width = max(width, len(prompt))
        if pieces and (len(pieces[-1]) + 1) * width <= READ_AT_ONCE:
            pieces[-1].append(prompt)
        else:
            pieces.append([prompt])
            width = len(prompt)
    return pieces


def read(model, prompts, pad):
    """A Batch with a row for each of these prompts, which are few enough for one pass.

    Padding is on the right: causal attention hides it from the prompt itself, and `visible` from
    what follows.

        prompts   p q r     ids   p q r     visible   1 1 1     position of the next token   3
                  s               s . .               1 . .                                  1
    """
    device = model.device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    ids = torch.full((len(prompts), width), pad, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = torch.tensor(prompt, device=device)
    cache = DynamicCache()
    cache.layers = [RoomyLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]

    output = model.base_model(input_ids=ids, use_cache=True, **{CACHE: cache})
    hidden = output.last_hidden_state                                           # [rows, width, H]
    row = torch.arange(len(prompts), device=device)
    return Batch(
        sample=row,  # until `prefill` numbers them
        hidden=hidden[row, lengths - 1],
        position=lengths,
        visible=torch.arange(width, device=device)[None] < lengths[:, None],
        cache=cache,
    )


def step(model, batch, token, active=True):
    """Let the model read one more token [rows] of each row; an active row's position moves on."""
    batch.visible = torch.cat([batch.visible, batch.visible.new_ones(len(token), 1)], 1)
    batch.hidden = model.base_model(
        input_ids=token[:, None],
        position_ids=batch.position[:, None],
        attention_mask=batch.visible[:, None, None],                        # [rows, 1, 1, keys]
        use_cache=True,
        **{CACHE: batch.cache},
    ).last_hidden_state[:, -1]
    batch.position = batch.position + active


class RoomyLayer(DynamicLayer):
    """A key-value cache layer with spare room: a new token is written in place.

    The library's own layer copies all keys for every token. With 32 samples of 400 tokens that
    takes 1.38 times as long.
    """

    room = None  # keys and values [rows, heads, more than are in use, head size]

    def update(self, key, value, *_, **__):
        """Append key and value [rows, heads, new, head size]. Returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key, value)
        seen = self.get_seq_length()
        need = seen + key.shape[-2]
        if self.room is None or self.room[0].shape[-2] < need:
            more = need + need // 2 + 32
            self.room = [x.new_empty(*x.shape[:2], more, x.shape[-1]) for x in (key, value)]
            if seen:
                self.room[0][:, :, :seen] = self.keys
                self.room[1][:, :, :seen] = self.values
        self.room[0][:, :, seen:need] = key
        self.room[1][:, :, seen:need] = value
        self.keys = self.room[0][:, :, :need]
        self.values = self.room[1][:, :, :need]
        return self.keys, self.values

    def keep(self, rows):
        self.keys = self.keys[rows]
        self.values = self.values[rows]
        self.room = None

    def take_columns(self, columns, width):
        """Of each row these columns [rows, columns], and behind them zeros up to `width`."""
        index = columns[:, None, :, None]                                   # [rows, 1, columns, 1]
        behind = (0, 0, 0, width - columns.shape[1])
        self.keys = nn.functional.pad(self.keys.take_along_dim(index, 2), behind)
        self.values = nn.functional.pad(self.values.take_along_dim(index, 2), behind)
        self.room = None


def stream(seed, *name):
    """A generator for one named purpose: the same numbers whatever else ran before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *name))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


# ---------------------------------------------------------------- the command

def day(text):
    return datetime.date.fromisoformat(text).isoformat()


@dataclass
class Settings(servers.ServerFlags):
    heading("problems")
    problems: list = flag(list, "problem files, or with --benchmark its own files (default: the "
                          "two of the world of edge cases; a benchmark's come from the hub)",
                          metavar="P.jsonl")
    benchmark: str = flag(None, "whose problems to take; without --problems they are downloaded "
                                "(not codecontests)", type=str, choices=list(BENCHMARKS))
    preset: str = flag(None, "a split of the DaJ paper: LiveCodeBench before 2024-08 (for "
                       "training) or from 2025-02-01 to 2025-05-01 (131 problems), "
                       "BigCodeBench-Hard with its instruct prompts (148)",
                       type=str, choices=list(PRESETS))
    subset: list = flag(list, "BigCodeBench: hard (the 148 of BigCodeBench-Hard), instruct (its "
                        "instruct prompts; without it chat models, too, are asked to complete "
                        "code); MBPP on the hub: sanitized")
    since: str = flag(None, "only contests on or after this day, as in 2025-02-01", type=day,
                      name="--from", metavar="DAY")
    until: str = flag(None, "only contests on or before this day", type=day, metavar="DAY")
    difficulty: list = flag(list, "only these difficulties (LiveCodeBench: easy, medium, hard)")
    as_split: str = flag(None, "what a benchmark's problems are to be (default test)", type=str,
                         choices=["train", "meta", "dev", "test"])
    split: list = flag(list, "only these splits")
    limit: int = flag(None, "only the first so many problems of each file, or of the benchmark",
                      type=int, least=1)

    heading("a model that runs here")
    model: list = flag(list, "causal LM: one for all problem files or one for each, in order "
                       "(default: the weak and the strong policy of the world of edge cases)",
                       metavar="M")
    batch_size: int = flag(64, "sequences at once; lower it where memory runs out", least=1)
    device: str = flag(lambda: "cuda" if torch.cuda.is_available() else "cpu",
                       "where it runs: cpu, cuda, cuda:1")
    dtype: str = flag("auto", "auto, float32, bfloat16, float16 or float64 (auto: float32 on a "
                              "CPU)")

    heading("sampling")
    n: int = flag(8, "candidates for each problem", least=1)
    temperature: float = flag(0.7, "0 is greedy", least=0)
    max_new_tokens: int = flag(512, "most tokens of a candidate", least=1)
    seed: int = flag(0, "of all random streams", least=0)

    heading("output")
    out: Path = flag(EDGES_RUN / "candidates.jsonl", "candidates file, appended to", type=Path)
    shard: str = flag(f"{RANK}/{WORLD_SIZE}", "make only the I-th of N parts, I from 0, into OUT "
                      "with .I-of-N before its suffix; the N files can be concatenated. torchrun's "
                      "processes do so by themselves", metavar="I/N")

    def __post_init__(self):
        check_bounds(self)
        servers.check_server_flags(self)
        self.take_preset()
        self.check_benchmark()
        self.take_model()
        self.take_shard()

    def take_preset(self):
        preset = PRESETS[self.preset] if self.preset else {}
        for name in preset.keys() - {"expected"}:
            if getattr(self, name):
                raise UserError(f"--preset {self.preset} says what {flag_of(Settings, name)} is: "
                                "leave out one of them")
            setattr(self, name, preset[name])

    def check_benchmark(self):
        subsets = BENCHMARKS[self.benchmark].SUBSETS if self.benchmark else []
        for part in self.subset:
            if part not in subsets:
                known = " and ".join(subsets) or "no subsets"
                raise UserError(f"--subset {part}: --benchmark {self.benchmark} has {known}")
        if self.as_split and not self.benchmark:
            raise UserError("--as-split is for a --benchmark: other problems have their own splits")

    def take_model(self):
        """Problems and models of the world of edge cases, where nothing is named."""
        if self.api_base and self.model:
            raise UserError("--model is for models that run here, --api-model for those behind "
                            "--api-base: name one of them")
        if not (self.problems or self.model or self.benchmark or self.api_base):
            self.problems = list(EDGES_PROBLEMS)
            self.model = [str(EDGES / "weak"), str(EDGES / "strong")]
        if self.api_base:
            self.model = [self.api_model]
        if not (self.problems or self.benchmark) or not self.model:
            raise UserError("--problems and --model go together (or --api-base in its place): "
                            "name both, or neither for the world of edge cases")
        if self.benchmark and len(self.model) > 1:
            raise UserError("--benchmark takes one --model; "
                            "run it once for each, with the same --out")
        if not self.benchmark and len(self.model) not in (1, len(self.problems)):
            raise UserError(f"--model names {len(self.model)} models for {len(self.problems)} "
                            "--problems files: one for all, or one each")
        if len(set(map(policy_name, self.model))) < len(self.model):
            raise UserError("--model: two models with the same last name would be one policy; "
                            "put them into folders of different names")

    def take_shard(self):
        if WORLD_SIZE > 1 and self.shard != f"{RANK}/{WORLD_SIZE}":
            raise UserError("--shard: leave it out under torchrun, whose processes are the shards")
        self.shard_index, self.shard_count = shard_of(self.shard)
        if self.device == "cuda" and "LOCAL_RANK" in os.environ:
            self.device = f"cuda:{os.environ['LOCAL_RANK']}"

    @property
    def my_out(self):
        """The file that this shard writes: --out itself, or C.0-of-2.jsonl for C.jsonl."""
        if self.shard_count == 1:
            return self.out
        shard = f"{self.shard_index}-of-{self.shard_count}"
        return self.out.with_name(f"{self.out.stem}.{shard}{self.out.suffix}")

    def mine(self, parts):
        """This shard's part of a list that all shards have."""
        return parts[self.shard_index::self.shard_count]


def policy_name(model_name):
    return Path(model_name).name.removesuffix(".gguf")


def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    must_be_the_same_settings(cfg)
    lists = load_problems(cfg)
    cfg.model_digest = model_digests(cfg)
    must_be_the_same_questions(lists, cfg)
    with Appender(cfg.my_out, CANDIDATE_KEY) as out:
        try:
            for problems, model_name in zip(lists, cfg.model * len(lists)):
                if cfg.api_base:
                    sample_served(problems, cfg, out)
                else:
                    sample_here(problems, model_name, cfg, out)
        except KeyboardInterrupt:
            stopped(f"{len(out.done)} candidates are kept in {cfg.my_out}: "
                    "the same command goes on from there")
    print(f"{len(out.done)} candidates in {cfg.my_out}")
    say_what_is_next(cfg)


def say_what_is_next(cfg):
    if cfg.shard_count > 1:
        shards = f"{cfg.out.with_suffix('')}.*-of-{cfg.shard_count}{cfg.out.suffix}"
        print(f"when all {cfg.shard_count} shards are done: cat {shards} > {cfg.out}")
    if cfg.out == EDGES_RUN / "candidates.jsonl":
        print("next: python execute.py")
        return
    files = [cfg.out.with_name("problems.jsonl")] if cfg.benchmark else cfg.problems
    flags = ["--problems", *files, "--candidates", cfg.out,
             "--out", cfg.out.with_name("labelled.jsonl")]
    print(f"next: python execute.py {shlex.join(map(str, flags))}")


def sample_here(problems, model_name, cfg, out):
    """All candidates of a list of problems from one model, or this shard's, appended to `out`."""
    if not problems:
        return
    policy = policy_name(model_name)
    candidate_ids = [f"{policy}-{k}" for k in range(cfg.n)]
    wanted = {(problem["problem_id"], cid) for problem in problems for cid in candidate_ids}
    if wanted <= out.done:
        print(f"{policy}: all {len(problems)} x {cfg.n} candidates are already in {cfg.my_out}")
        return
    model, tokenizer = load_model(model_name, cfg.device, cfg.dtype)
    chat = bool(tokenizer.chat_template)
    ends = end_ids(model, tokenizer)
    pad = pad_id(tokenizer, ends)
    prompts = {}
    for problem in problems:
        pid = problem["problem_id"]
        prompts[pid] = encode(tokenizer, solution_prompt(problem, chat))
        if not prompts[pid]:
            raise UserError(f"problem {pid!r}: its prompt has no tokens at all: there is nothing "
                            "to go on from")
    problems = those_that_fit(problems, prompts, model, cfg)

    # Prompts of like lengths together: little padding.
    ordered = sorted(problems, key=lambda problem: -len(prompts[problem["problem_id"]]))
    size = max(1, cfg.batch_size // cfg.n)
    batches = cfg.mine([ordered[start:start + size] for start in range(0, len(ordered), size)])
    total = sum(map(len, batches)) * cfg.n
    with tqdm(total=total, desc=policy, unit="candidate", disable=RANK > 0) as bar:
        for batch in batches:
            jobs = [(problem, cid) for problem in batch for cid in candidate_ids]
            keys = [(problem["problem_id"], cid) for problem, cid in jobs]
            # If a row is missing, its batch is made whole: in other company the last digit differs.
            if not out.done.issuperset(keys):
                uniforms = torch.stack([
                    torch.rand(cfg.max_new_tokens, generator=stream(cfg.seed, *key))
                    for key in keys])
                batch_prompts = [prompts[problem["problem_id"]] for problem in batch]
                completions = generate(model, batch_prompts, uniforms, cfg.temperature, ends, pad)
                rows = []
                for (problem, cid), key, completion in zip(jobs, keys, completions):
                    if key not in out.done:
                        prompt = prompts[problem["problem_id"]]
                        text = answer_text(tokenizer, prompt, completion)
                        thinking = thoughts_are_open(tokenizer.decode(prompt))
                        code = extract_code(text, problem, chat, thoughts_open=thinking)
                        rows.append(local_candidate(problem, cid, text, code, completion, cfg))
                out.append(*rows)
            bar.update(len(keys))


def those_that_fit(problems, prompts, model, cfg):
    """The problems whose prompts leave room for --max-new-tokens; says which do not."""
    room = context_length(model) - cfg.max_new_tokens
    too_long = {pid: len(ids) for pid, ids in prompts.items() if len(ids) > room}
    if not too_long:
        return problems
    longest = max(too_long, key=too_long.get)
    words = (f"with --max-new-tokens {cfg.max_new_tokens}, {len(too_long)} of {len(problems)} "
             f"problems do not fit into this model's context of {context_length(model)} tokens "
             f"(problem {longest!r} has {too_long[longest]})")
    if len(too_long) == len(problems):
        raise UserError(f"{words}: lower it, or take another model")
    print(f"note: {words}: they are left out: {' '.join(too_long)}", file=sys.stderr)
    return [problem for problem in problems if problem["problem_id"] not in too_long]


def local_candidate(problem, candidate_id, text, code, completion, cfg):
    """The row of a program that a model wrote here."""
    count = len(completion.ids)
    return candidate(problem, candidate_id, text, code, count, completion.finished, cfg,
                     mean_logprob=completion.logprob / count,
                     self_certainty=completion.self_certainty / count)


def sample_served(problems, cfg, out):
    """All candidates from the model behind --api-base, or this shard's, each kept as it comes."""
    chat = not cfg.api_plain
    policy = policy_name(cfg.api_model)
    jobs = [(problem, f"{policy}-{k}") for problem in cfg.mine(problems) for k in range(cfg.n)]
    missing = [job for job in jobs if (job[0]["problem_id"], job[1]) not in out.done]
    bodies = []
    for problem, cid in missing:
        seed = stream(cfg.seed, problem["problem_id"], cid).initial_seed()
        bodies.append(servers.request_body(cfg, solution_prompt(problem, chat), seed))
    answers = servers.complete(cfg.api_base, bodies, cfg.in_flight)
    refused = []
    in_thoughts = False
    done = len(jobs) - len(missing)
    with tqdm(total=len(jobs), initial=done, desc=policy, unit="candidate",
              disable=RANK > 0) as bar:
        for (problem, cid), answer in zip(missing, answers):
            if answer.error:
                refused.append(f"problem {problem['problem_id']!r}: {answer.error}")
            else:
                code = extract_code(answer.text, problem, chat)
                in_thoughts |= chat and closes_what_it_did_not_open(answer.text)
                out.append(candidate(problem, cid, answer.text, code, answer.tokens,
                                     answer.finished, cfg, seconds=answer.seconds))
            bar.update()
    if in_thoughts:
        print("note: answers of this server begin within thoughts, so one that was cut off may be "
              "nothing else, and a draft in it counts as its program: let the server take thoughts "
              "out (vLLM: --reasoning-parser)", file=sys.stderr)
    if refused and not out.done:
        raise UserError(f"all {len(refused)} requests were refused, the first for {refused[0]}")
    if refused:
        print(f"note: {len(refused)} of {len(missing)} requests were refused and have no "
              f"candidate, the first for {refused[0]}", file=sys.stderr)


def candidate(problem, candidate_id, text, code, tokens, finished, cfg, **measured):
    """A row; `tokens` were generated, the end token included."""
    return {
        "problem_id": problem["problem_id"],
        "candidate_id": candidate_id,
        "policy": candidate_id.rpartition("-")[0],
        "text": text,
        "code": code,
        "n_tokens": tokens,
        **measured,
        "finish_reason": "stop" if finished else "length",
        "seed": cfg.seed,
        "sampling": {
            "temperature": cfg.temperature,
            "max_new_tokens": cfg.max_new_tokens,
            "model": cfg.model_digest[candidate_id.rpartition("-")[0]],
            "problem": problem_digest(problem),
        },
    }


def model_digests(cfg):
    """{policy: what tells its model from another of the same name}.

    A digest of a model's files; of one behind a server its name and how it is asked.
    """
    if cfg.api_base:
        asked = " (plain)" if cfg.api_plain else ""
        return {policy_name(cfg.api_model): f"{cfg.api_model}{asked}"}
    return {policy_name(name): fingerprint(name).rpartition("@")[2] for name in cfg.model}


def problem_digest(problem):
    """Of what a model is shown of it."""
    shown = json.dumps([problem["prompt"], problem.get("starter_code"), problem.get("source")])
    return hashlib.sha256(shown.encode()).hexdigest()[:8]


def must_be_the_same_settings(cfg):
    """Refuse to continue a file made with other settings: rows are known by their keys alone."""
    now = {"seed": cfg.seed, "temperature": cfg.temperature, "max_new_tokens": cfg.max_new_tokens}
    for row in rows_so_far(cfg):
        then = {"seed": row.get("seed"), **sampling_of(row)}
        for name, value in now.items():
            if then.get(name) != value:
                raise UserError(f"{cfg.my_out}: it was made with {flag_of(Settings, name)} "
                                f"{then.get(name)}, not {value}: give another --out, or delete it")


def must_be_the_same_questions(lists, cfg):
    """Refuse to continue a file made by another model of the same name, or of other problems."""
    digest_of = {}
    seen = set()
    for problems, model_name in zip(lists, cfg.model * len(lists)):
        for problem in problems:
            name = problem["problem_id"]
            digest = problem_digest(problem)
            if (name, model_name) in seen or digest_of.get(name, digest) != digest:
                raise UserError(f"problem {name!r} is in two of the --problems files")
            seen.add((name, model_name))
            digest_of[name] = digest
    for row in rows_so_far(cfg):
        then = sampling_of(row)
        model = cfg.model_digest.get(row["policy"])
        problem = digest_of.get(row["problem_id"])
        if model not in (None, "not-found") and then.get("model", model) != model:
            raise UserError(f"{cfg.my_out}: its candidates of {row['policy']} are of another model "
                            f"of that name ({then['model']}, not {model}): give another --out, "
                            "or delete it")
        if model and problem and then.get("problem", problem) != problem:
            raise UserError(f"{cfg.my_out}: its candidates for problem {row['problem_id']!r} are "
                            "of another text (other files, another --subset?): give another --out, "
                            "or delete it")


def sampling_of(row):
    """What a candidate says of how it was made; nothing, if it is of other making."""
    sampling = row.get("sampling")
    return sampling if isinstance(sampling, dict) else {}


def rows_so_far(cfg):
    return read_rows(cfg.my_out, CANDIDATE) if cfg.my_out.exists() else []


# ---------------------------------------------------------------- the problems

def load_problems(cfg):
    """One list for each --problems file, or one for the benchmark, of those the flags choose."""
    if cfg.benchmark:
        must_not_be_a_file_of_the_user(cfg)
        paths = cfg.problems or fetch(cfg.benchmark, cfg.subset, cfg.since)
        rows = read_benchmark(cfg.benchmark, paths, cfg.as_split or "test", cfg.subset,
                              lambda row: is_wanted(row, cfg))
        lists = [write_problems(cfg.out.with_name("problems.jsonl"),
                                itertools.islice(rows, cfg.limit))]
        say_if_it_is_not_the_papers_number(len(lists[0]), cfg)
        say_if_they_are_not_of_the_test_set(lists[0], cfg)
    else:
        lists = []
        for path in cfg.problems:
            wanted = [row for row in read_problems(path).values() if is_wanted(row, cfg)]
            lists.append(wanted[:cfg.limit])
    if not any(lists):
        where = " ".join(map(str, cfg.problems or [cfg.benchmark]))
        raise UserError(f"{where}: no problems are left after {choosing_flags(cfg)}")
    return lists


def is_wanted(row, cfg):
    """Is this one of the problems that the flags choose?"""
    date = date_of(row) if cfg.since or cfg.until else None
    if cfg.split and row["split"] not in cfg.split:
        return False
    if cfg.difficulty and row["difficulty"] not in cfg.difficulty:
        return False
    if cfg.since and date < cfg.since:
        return False
    return not (cfg.until and date > cfg.until)


def date_of(row):
    """As in 2025-02-01, which sorts as text."""
    words = f"--from and --until: problem {row['problem_id']!r}"
    if not row.get("date"):
        raise UserError(f"{words} has no date")
    try:
        return day(row["date"][:10])
    except (TypeError, ValueError):
        raise UserError(f"{words} has the date {row['date']!r}: "
                        "expected one as in 2025-02-01") from None


def choosing_flags(cfg):
    """Those flags that choose problems, as they were given."""
    given = []
    for name in ("split", "difficulty", "since", "until"):
        value = getattr(cfg, name)
        if value:
            values = value if isinstance(value, list) else [value]
            given.append(" ".join([flag_of(Settings, name), *values]))
    return " ".join(given) or "--split (all)"


def say_if_it_is_not_the_papers_number(number, cfg):
    expected = PRESETS[cfg.preset].get("expected") if cfg.preset else None
    if expected and number != expected and not cfg.limit and not cfg.difficulty:
        print(f"note: --preset {cfg.preset} is {expected} problems in the paper, {number} here",
              file=sys.stderr)


def say_if_they_are_not_of_the_test_set(problems, cfg):
    if cfg.benchmark == "mbpp" and cfg.as_split in (None, "test"):
        others = [row for row in problems if mbpp.number_of(row) not in mbpp.TEST_SET]
        if others:
            print(f"note: {len(others)} of {len(problems)} problems are none of MBPP's test set "
                  f"({mbpp.TEST_SET.start} to {mbpp.TEST_SET.stop - 1}): its others are for "
                  "training, validation and prompts", file=sys.stderr)


def must_not_be_a_file_of_the_user(cfg):
    """problems.jsonl beside --out, where a benchmark's rows are written."""
    path = cfg.out.with_name("problems.jsonl").resolve()
    if path == cfg.out.resolve() or path in [Path(given).resolve() for given in cfg.problems]:
        raise UserError(f"{path}: the benchmark's problems are written there, and it is --out or "
                        "one of --problems: give an --out in another folder")


def must_hold_no_others(path, problems):
    """Refuse to replace a file of problems by one that lacks some of them, or has another text."""
    if not path.exists():
        return
    kept = {row["problem_id"]: problem_digest(row) for row in problems}
    lost = []
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
                name = row["problem_id"]
                digest = problem_digest(row)
            except (ValueError, TypeError, KeyError):
                name = "a line that is no problem"
                digest = None
            if digest is None or kept.get(name) != digest:
                lost.append(name)
    if lost:
        raise UserError(f"{path}: holds {len(lost)} problems that are not chosen now (the first: "
                        f"{lost[0]!r}): give an --out in another folder, or delete the file")


def write_problems(path, problems):
    """Write a benchmark's rows one by one, and return them without their tests.

    LiveCodeBench's tests are gigabytes.
    """
    # Under a name of its own: the shards may write theirs at the same time.
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    kept = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8", errors="backslashreplace") as file:
            for problem in problems:
                file.write(json.dumps(problem, ensure_ascii=False) + "\n")
                shown = problem.keys() - {"tests", "public_tests"}
                kept.append({name: problem[name] for name in problem if name in shown})
        if kept:
            must_hold_no_others(path, kept)
            os.replace(aside, path)
            print(f"problems: {path}")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if aside.exists():
            aside.unlink()
    return kept


# ---------------------------------------------------------------- what a model must be

DTYPES = ("float32", "bfloat16", "float16", "float64")


def load_model(name, device="cpu", dtype="auto", flag="--model", place=nn.Module.to):
    """A causal language model and its tokenizer, by a Hugging Face name, a folder or a .gguf file.

    dtype "auto" is fp32 on a CPU and the checkpoint's own elsewhere. place(model, device) brings
    the model to its device.
    Raises UserError naming `flag`, also for a model that check_model or check_tokenizer refuses.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device here, or a PyTorch without it
        raise UserError(f"--device {device}: cannot be used: {first_line(error)}") from None
    path = Path(name)
    gguf = {}
    if path.suffix == ".gguf":
        if not path.exists():
            raise UserError(f"{flag} {path}: no such file")
        name = str(path.parent)
        gguf = {"gguf_file": path.name}
    elif looks_like_a_folder(name) and not path.exists():
        raise UserError(f"{flag} {name}: no such folder")
    elif (path / "judge/config.json").exists() and not (path / "config.json").exists():
        raise UserError(f"{flag} {name}: is the folder of a training run; "
                        f"its judge is {path / 'judge'}")
    elif (path / "adapter_config.json").exists():
        raise UserError(f"{flag} {name}: holds an adapter (adapter_config.json), which would be "
                        "left out: merge it into its model first")
    if dtype == "auto":
        dtype = "float32" if str(device) == "cpu" else "auto"
    elif dtype not in DTYPES:
        raise UserError(f"--dtype {dtype}: expected auto, {', '.join(DTYPES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **gguf)
        model, found = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="sdpa", output_loading_info=True, **gguf)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a broken file makes the libraries raise whatever it is
        raise UserError(f"{flag} {name}: cannot be loaded as a Hugging Face causal LM: "
                        f"{reason_of(error)}") from None
    check_weights(found, f"{flag} {name}")
    model = place(model, device).eval()
    # For the whole process: cuDNN's attention has returned NaN gradients under packed rows, and it
    # makes a plan for every new length, which takes longer than the pass (docs/RESULTS-gpu.md).
    torch.backends.cuda.enable_cudnn_sdp(False)
    if model.device.type == "cpu":
        keep_freed_memory()
    check_model(model, f"{flag} {name}")
    check_tokenizer(tokenizer, model, f"{flag} {name}")
    return model, tokenizer


def keep_freed_memory():
    """Let this process keep what it frees, for its next tensors.

    The C library hands large pieces back to the kernel, which faults them in again page by page:
    a seventh of a training step of the small world. For glibc; others have no such setting.
    """
    M_TRIM_THRESHOLD = -1
    M_MMAP_MAX = -4
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(M_MMAP_MAX, 0)
            library.mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)


def looks_like_a_folder(name):
    """Is this meant as a folder, and not as a name on the hub?"""
    return name.startswith((".", "/")) or Path(name).parts[:1] in (("runs",), ("data",))


def check_weights(found, name):
    """Refuse a checkpoint that lacks weights of its model: they would be random numbers.

    found: what the library says of its weights.   name: the model's, for the message.
    """
    for kind in ("missing_keys", "mismatched_keys"):
        lacking = sorted(map(str, found.get(kind) or ()))
        if lacking:
            raise UserError(f"{name}: its checkpoint lacks {len(lacking)} weights of the model "
                            f"that its config.json describes, the first: {lacking[0]}")
    unknown = sorted(map(str, found.get("unexpected_keys") or ()))
    if unknown:
        print(f"note: {name}: {len(unknown)} weights of its checkpoint have no place in the model "
              f"and are left out, the first: {unknown[0]}", file=sys.stderr)


# A program in which much can be lost: indentation, tabs, line ends, case, spaces side by side,
# letters beyond ASCII, and a wide "<", of which some tokenizers make "<", and so control tokens.
PROGRAM = "def f(x):\n    if x == 1:\n        return  [x]\n\n\tñ = '語＜'\n    return Ab"


def check_tokenizer(tokenizer, model, name):
    """Refuse a tokenizer with which this model cannot be sampled, or does not see what it is shown.

    name: the model's, for the message.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no end token, so no sample would ever end")
    try:
        ids = encode(tokenizer, PROGRAM)
    except Exception as error:  # a template may raise anything
        reason = first_line(error)
        raise UserError(f"{name}: its chat template cannot be applied: {reason}") from None
    ends = end_ids(model, tokenizer)
    embedding = model.get_input_embeddings().weight                             # [V, H]
    largest = max(*ids, *ends, pad_id(tokenizer, ends))
    if largest >= len(embedding):
        raise UserError(f"{name}: its tokenizer uses id {largest}, but the model embeds "
                        f"{len(embedding)} ids only: resize its embeddings, or give the tokenizer "
                        "another pad token")
    shown = in_template(tokenizer, PROGRAM) if tokenizer.chat_template else PROGRAM
    if PROGRAM in shown:
        shown = decode(tokenizer, ids)
    if PROGRAM not in shown:
        raise UserError(f"{name}: its tokenizer or chat template changes or drops what it is "
                        f"shown: of {PROGRAM!r} is left {shown[-200:]!r}")
    for token in ids:
        if not embedding[token].any():
            raise UserError(f"{name}: {decode(tokenizer, [token])!r} in its prompts is embedded as "
                            "zeros: some models lose the embedding of their pad token when they "
                            "are loaded")
    if ids[-1] in ends:
        raise UserError(f"{name}: its chat template ends a prompt with the end token, "
                        "so the model would begin behind its own end")
    if len(tokenizer.eos_token.strip()) < 2:
        raise UserError(f"{name}: its end token is {tokenizer.eos_token!r}, "
                        "which may stand in any text")


def check_model(model, name):
    """Refuse a model whose sampler, scorer and plain forward pass would not be one distribution.

    The sampler reads prompts of unequal lengths into a cache and then token by token; the trainer
    scores packed rows under a mask of their own (kernels/packing.py). Models with another state
    than keys and values, positions that are not rotations or embeddings, windows, or logits changed
    behind the head are wrong in one of these, often without a word. So both ways are tried here on
    a few tokens and compared with a plain forward pass. name: for the message.
    """
    kind = f"{name}: this architecture ({model.config.model_type})"
    try:
        wrong = first_difference(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's code raises at what it does not expect
        raise UserError(f"{kind} does not run with the key-value cache and the masks of sampling "
                        f"and scoring, so it is not supported ({type(error).__name__}: "
                        f"{first_line(error)})") from None
    if wrong:
        raise UserError(f"{kind} {wrong}, so it is not supported")


@torch.no_grad()
def first_difference(model):
    """In which way of computing them a model's logits are not a plain forward pass's, or None.

    Two sequences of random tokens that begin alike. 48 tokens are enough for windows, states and
    positions to show.
    """
    length = min(48, context_length(model))
    half = length // 2
    short = max(1, length // 6)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, length), generator=generator).to(model.device)
    ids[1, :half + 2] = ids[0, :half + 2]
    first, second = ids.tolist()
    plain = log_chances(model(input_ids=ids, use_cache=False).logits.float())   # [2, length, V]
    if plain.isnan().any():
        return "has logits that are NaN"

    exact = model.dtype in (torch.float32, torch.float64)
    spread = None if exact else plain.std()

    # From the same hidden states even bf16 rounds alike, but for a soft cap.
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    by_head = distance(logits_of(model, hidden), plain).flatten()
    if differ(by_head, spread if softcap_of(model) else None):
        return "does not compute its logits as the head of its last hidden state"

    # As `generate` does it: a long and a short prompt, then three more tokens of each, with the
    # rows changing places.
    batch = prefill(model, [first[:length - 3], first[:short]], n=1, pad=0)
    distances = []  # [2] of each token
    for t in range(3):
        at = batch.position
        now = distance(logits_of(model, batch.hidden), plain[0, at - 1])
        distances.append(now[batch.sample])  # in the order of the prompts, as a swap undoes itself
        batch.keep(torch.tensor([1, 0], device=model.device))
        step(model, batch, ids[0, batch.position])
    if any(differ(row, spread) for row in torch.stack(distances, 1)):
        return "gives other logits with a key-value cache than without"

    # As the trainer does it: two answers that part after two tokens behind one prompt, and a
    # shorter row that is padded.
    answers = [first[half:], second[half:], first[short:short + 2], second[short:short + 2]]
    for pack in make_packs([first[:half], first[:short]], answers, 0, 10**6, model.device):
        output = model.base_model(input_ids=pack.ids, position_ids=pack.position,
                                  attention_mask=pack.mask, use_cache=False)
        hidden = output.last_hidden_state[pack.row, pack.column]
        at = pack.position[pack.row, pack.column]
        now = distance(logits_of(model, hidden), plain[pack.sample % 2, at])
        if any(differ(now[pack.sample == k], spread) for k in pack.sample.unique()):
            return "gives other logits in packed rows than in rows of their own"
    return None


ROUNDING = 1e-3  # nats


def log_chances(logits):
    """Log-probs of logits [..., V]; what is less likely than e⁻³⁰ counts as that."""
    return logits.log_softmax(-1).clamp(min=-30)


def distance(logits, plain):
    """The largest difference between logits' and these log-probs [..., V]: [...], in nats."""
    return (log_chances(logits) - plain).abs().amax(-1)


def differ(distances, spread=None):
    """Is one row more than rounding away from a plain pass?   distances: [tokens]

    spread: in half precision, the standard deviation of the log-probs. A row then passes if its
    median distance is at most half of that: rounding sends some tokens to another expert of a
    mixture.
    """
    if spread is None:
        return not bool((distances <= ROUNDING).all())  # a NaN is a difference
    return not bool(distances.median() <= 0.5 * spread)


def reason_of(error):
    """An error of a library in one sentence; where its words may say too little, with its name."""
    words = first_line(error)
    if words.endswith(":"):
        words = " ".join(str(error).split())[:200]
    words = words.partition(". ")[0]
    if isinstance(error, (OSError, ValueError, ImportError, RuntimeError)) and words:
        return words
    return f"{type(error).__name__}: {words}".removesuffix(": ")


def first_line(error):
    return (str(error).strip().splitlines() or [""])[0][:200]


# What limits how many tokens a model can look back on, by the names that its config may have for
# it.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length",
             "max_target_positions")
WINDOWS = ("sliding_window", "attention_chunk_size", "attention_window_size", "keep_window_size",
           "local_attention", "window_size", "index_topk")


def context_limits(model):
    """{name: tokens} of all that limits a prompt and its answer together.

    Windows are limits here, because a mask of our own takes the place of the model's. So is the
    length at which dynamic and longrope scaling change the angles of all positions: behind it,
    cached keys have other angles than new ones.
    """
    config = model.config.get_text_config()
    limits = {name: getattr(config, name, None) for name in (*POSITIONS, *WINDOWS)}
    limits = {name: value for name, value in limits.items() if isinstance(value, int) and value > 0}
    if has_no_window(config):
        limits.pop("sliding_window", None)
    name = "original_max_position_embeddings"
    for rope in ropes_of(config):
        original = rope.get(name) or getattr(config, name, None)
        kind = rope.get("rope_type", rope.get("type"))
        if kind == "yarn" and original and rope.get("factor"):
            extended = int(original * rope["factor"])
            said = limits.get("max_position_embeddings", 0)
            limits["max_position_embeddings"] = max(extended, said)
        if kind in ("dynamic", "longrope", "su") and original:
            limits[f"length before {kind} scaling"] = original
    return limits


def has_no_window(config):
    """Does its config say that a model does without its sliding window?

    Only where models of its kind read what says so: a config keeps whatever stands in config.json.
    """
    known = default_config(type(config))
    if hasattr(known, "layer_types") and set(config.layer_types or ()) == {"full_attention"}:
        return True
    return hasattr(known, "use_sliding_window") and not config.use_sliding_window


@functools.cache
def default_config(Config):
    """What a config of this class has where config.json says nothing."""
    return Config()


def ropes_of(config):
    """The settings of a model's rotary positions; some models have several, by kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


def context_length(model):
    """Most tokens of a prompt and its answer together."""
    return min(context_limits(model).values(), default=sys.maxsize)


def must_fit(model, prompt, limit):
    """Refuse a prompt that leaves no room for `limit` new tokens, or that the model cannot read."""
    if not prompt:
        raise UserError("a prompt has no tokens at all: there is nothing to go on from")
    limits = context_limits(model)
    name = min(limits, key=limits.get, default=None)
    if name and len(prompt) + limit > limits[name]:
        raise UserError(f"a prompt of {len(prompt)} tokens and --max-new-tokens {limit} exceed "
                        f"this model's {name.replace('_', ' ')} of {limits[name]}: "
                        "shorten one of them")
    embedded = model.get_input_embeddings().weight.shape[0]
    if max(prompt) >= embedded:
        raise UserError(f"a prompt has token {max(prompt)}, but the model embeds {embedded} ids "
                        "only: its tokenizer is not the model's")


def logits_of(model, hidden):
    """Next-token logits [..., V] fp32 of hidden states [..., H]."""
    logits = model.get_output_embeddings()(hidden).float()
    softcap = softcap_of(model)
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def softcap_of(model):
    """The c of c·tanh(logits / c) that some models apply to their logits, or None."""
    return getattr(model.config, "final_logit_softcapping", None)


def end_ids(model, tokenizer):
    """All ids that end an answer: some chat models have several.

    The tokenizer's and generation_config.json's. Where that has none, those of config.json which
    are control tokens: what the library takes in their place may be an ordinary token, such as "!".
    """
    found = ends_in(model.generation_config)
    if not found:
        control = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
        found = control & (ends_in(model.config) | ends_in(model.config.get_text_config()))
    return sorted(found | {tokenizer.eos_token_id})


def ends_in(config):
    """The end ids in a config: a set."""
    found = getattr(config, "eos_token_id", None)
    found = found if isinstance(found, list) else [found]
    wrong = [end for end in found if type(end) not in (int, type(None))]
    if wrong:
        raise UserError(f"eos_token_id in config.json or generation_config.json: {wrong[0]!r} is "
                        "no token id: expected a number, or a list of them")
    return {end for end in found if end is not None and end >= 0}


def pad_id(tokenizer, ends):
    """What fills up a batch.

    It is masked by length, never by its id, so an end token serves as well.
    """
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]


if __name__ == "__main__":
    run(main)
