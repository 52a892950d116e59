"""Stage 1: problems -> candidates. A language model writes N programs for each problem.

    python sample.py                                                    the tiny world, both of its policies
    python sample.py --problems P.jsonl --model NAME_OR_PATH --n 8 --out C.jsonl
    python sample.py --benchmark humaneval --problems HumanEval.jsonl.gz --model NAME_OR_PATH --out runs/he/candidates.jsonl
    python sample.py --preset daj-test --api-base http://127.0.0.1:8000/v1 --api-model NAME --out runs/daj/candidates.jsonl
    torchrun --nproc-per-node 8 -- sample.py --problems P.jsonl --model NAME_OR_PATH --n 8 --out C.jsonl; cat C.*-of-8.jsonl > C.jsonl

Reads   problems (problem_id, prompt, starter_code, entry_point, ...; see data/rows.py), or a benchmark: its own files, or
        without --problems those on the hub. Its rows are written to problems.jsonl beside --out.
Writes  candidates (problem_id, candidate_id, policy, text, code, n_tokens, mean_logprob, self_certainty,
        finish_reason, seed, sampling). A server tells no probabilities: its rows have `seconds` in place of those two.

The sampler here (`generate`) is also the one that train_bilevel.py rolls out with: it draws from the exact
softmax of logits / temperature, with no top-k, no top-p and no repetition penalty, so that the probabilities
the trainer scores are those that were sampled from. A checkpoint's own generation defaults are ignored.
A prompt is prefilled once for all of its samples.

Every candidate has its own random stream (seed, problem, candidate), and batches are cut from the whole problem
list before finished ones are skipped or shards take theirs. So a killed run that is started again ends with the same
rows, and so do shards, put together (with the same --n and --batch-size). With a server, as far as it honours seeds.
"""
import argparse
import datetime
import hashlib
import json
import math
import os
import re
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

from data import api
from data.benchmarks import FENCED, LOADERS, PRESETS, SUBSETS, ask, cut, fetch, read_benchmark
from data.flags import run, shard_of
from data.rows import CANDIDATE, ROOT, TINY, Appender, UserError, read_problems, read_rows

transformers_logging.disable_progress_bar()


# ---------------------------------------------------------------- several processes

RANK = int(os.environ.get("RANK", 0))  # these two are set by torchrun
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))


# ---------------------------------------------------------------- models

def load_model(name, device="cpu", dtype="auto", flag="--model"):
    """A causal language model and its tokenizer, from a Hugging Face name, a folder, or a .gguf file.

    dtype "auto" is fp32 on a CPU and the checkpoint's own elsewhere. Raises UserError naming `flag`.
    """
    path, extra = Path(name), {}
    if path.suffix == ".gguf":
        name, extra = str(path.parent), {"gguf_file": path.name}
        if not path.exists():
            raise UserError(f"{flag} {path}: no such file")
    elif (name.startswith((".", "/")) or path.parts[:1] in (("runs",), ("data",))) and not path.exists():
        raise UserError(f"{flag} {name}: no such folder")
    if dtype == "auto":
        dtype = "float32" if str(device) == "cpu" else "auto"
    elif not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"--dtype {dtype}: expected auto, float32, bfloat16 or float16")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **extra)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation="sdpa", **extra)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{flag} {name}: cannot be loaded as a Hugging Face causal LM: {str(error).strip().splitlines()[0]}") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{flag} {name}: its tokenizer has no end token, so no sample would ever end")
    model = model.to(device).eval()
    must_have_plain_logits(model, name, flag)
    return model, tokenizer


@torch.no_grad()
def must_have_plain_logits(model, name, flag="--model"):
    """Sampling and scoring compute logits as softcap(head(hidden)): refuse a model that scales them in some other way."""
    ids = torch.arange(1, 9, device=model.device)[None] % model.config.get_text_config().vocab_size
    theirs, ours = model(input_ids=ids).logits.float(), logits_of(model, model.base_model(input_ids=ids).last_hidden_state)
    if (theirs - ours).abs().max() > 1e-2 * theirs.abs().max():
        raise UserError(f"{flag} {name}: this architecture ({model.config.model_type}) changes its logits after the head, which is not supported")


def logits_of(model, hidden):
    """Next-token logits [..., V] fp32 of hidden states [..., H]."""
    logits, softcap = model.get_output_embeddings()(hidden).float(), getattr(model.config, "final_logit_softcapping", None)
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def context_length(model):
    """Most tokens of a prompt and its answer together."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def end_ids(model, tokenizer):
    """All ids that end an answer: some chat models have several."""
    ids = {tokenizer.eos_token_id}
    for config in (model.config, model.generation_config):
        ids |= set(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    return sorted(ids - {None})


def pad_id(tokenizer, ends):
    """What fills up a batch. It is masked by length, never by its id, so an end token serves as well."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]


def encode(tokenizer, text):
    """Token ids of a prompt: as one user turn where there is a chat template, else as plain text."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(text).input_ids


# ---------------------------------------------------------------- the sampler

class RoomyLayer(DynamicLayer):
    """A key-value cache layer with spare room: a new token is written in place, nothing is concatenated."""

    room = None

    def update(self, key, value, *_, **__):
        if not self.is_initialized:
            self.lazy_initialization(key, value)
        seen, need = self.get_seq_length(), self.get_seq_length() + key.shape[-2]
        if self.room is None or self.room[0].shape[-2] < need:
            room = [x.new_empty(*x.shape[:2], need + need // 2 + 32, x.shape[-1]) for x in (key, value)]
            if seen:
                room[0][:, :, :seen], room[1][:, :, :seen] = self.keys, self.values
            self.room = room
        self.room[0][:, :, seen:need], self.room[1][:, :, seen:need] = key, value
        self.keys, self.values = (x[:, :, :need] for x in self.room)
        return self.keys, self.values

    def select(self, rows):
        self.keys, self.values, self.room = self.keys[rows], self.values[rows], None


@dataclass
class Completion:
    ids: list            # generated token ids, the end token included if there was one
    logprob: float       # sum over ids of log p(token) at temperature 1
    finished: bool       # ended by an end token (False: cut off at max_new_tokens)
    logprob_sampled: float = 0.0       # sum over ids of log p(token) at the sampling temperature
    self_certainty: float = 0.0   # sum over ids of KL(uniform ‖ p): self-certainty (2502.18581)


@torch.no_grad()
def generate(model, prompts, uniforms, temperature, ends, pad):
    """Sample len(uniforms) / len(prompts) completions of every prompt.

    prompts:  P lists of token ids.
    uniforms: [P·n, max_new_tokens] numbers in [0, 1), the only randomness: token = inverse CDF at u.
              Row p·n + k is sample k of prompt p. With temperature 0 they are not used (greedy).
    Returns P·n Completions in that order.
    """
    device, n = model.device, len(uniforms) // len(prompts)
    uniforms, limit = uniforms.to(device), uniforms.shape[1]
    lengths = torch.tensor([len(p) for p in prompts], device=device)
    width = int(lengths.max())
    # Padding is on the right: causal attention hides it from the prompt itself, and the mask from what follows.
    ids = torch.full((len(prompts), width), pad, device=device)
    for row, prompt in enumerate(prompts):
        ids[row, :len(prompt)] = torch.tensor(prompt, device=device)
    cache = DynamicCache()
    cache.layers = [RoomyLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and getattr(model.config.get_text_config(), "use_sliding_window", True) and width + limit > window:
        raise UserError(f"a prompt of {width} tokens and --max-new-tokens {limit} exceed this model's sliding window of {window}, which the "
                       "sampler does not cut: shorten one of them")

    hidden = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    hidden = hidden[torch.arange(len(prompts), device=device), lengths - 1].repeat_interleave(n, 0)  # [P·n, H]
    copies = torch.arange(len(prompts), device=device).repeat_interleave(n)
    for layer in cache.layers:
        layer.select(copies)
    position = lengths.repeat_interleave(n)                                            # [P·n] of the next token
    visible = torch.arange(width, device=device)[None] < position[:, None]             # [P·n, keys]
    alive = torch.arange(len(uniforms), device=device)                                 # rows still in the batch
    tokens = torch.full((len(uniforms), limit), pad, device=device)
    sums = torch.zeros(3, len(uniforms), dtype=torch.float64, device=device)           # logprob, drawn, certainty
    count = torch.full((len(uniforms),), limit, device=device)
    finished = torch.zeros(len(uniforms), dtype=torch.bool, device=device)
    ends = torch.tensor(ends, device=device)
    for t in range(limit):
        logits = logits_of(model, hidden)                                              # [rows, V]
        heated = logits / (temperature or 1.0)
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            cdf = heated.softmax(-1).double().cumsum(-1)
            token = torch.searchsorted(cdf, uniforms[alive, t, None].double() * cdf[:, -1:], right=True)[:, 0]
            token = token.clamp(max=logits.shape[-1] - 1)
        live = ~finished[alive]  # a row that ended stays in the batch for a while, but says nothing any more
        logp, drawn = (x.log_softmax(-1) for x in (logits, heated))
        chosen = [x.gather(-1, token[:, None])[:, 0] for x in (logp, drawn)]
        certainty = -logp.mean(-1) - math.log(logp.shape[-1])                          # KL(U ‖ p) = −log V − mean_v log p_v
        sums[:, alive] += torch.where(live, torch.stack([*chosen, certainty]).double(), 0.0)
        tokens[alive, t] = token
        ended = torch.isin(token, ends) & live
        finished[alive[ended]], count[alive[ended]] = True, t + 1
        done = finished[alive]
        if t + 1 == limit or bool(done.all()):
            break
        # A finished row costs as much as a live one: drop them whenever they are a quarter of the batch.
        if int(done.sum()) * 4 >= len(alive):
            keep = (~done).nonzero()[:, 0]
            alive, token, position, visible = alive[keep], token[keep], position[keep], visible[keep]
            for layer in cache.layers:
                layer.select(keep)
        visible = torch.cat([visible, visible.new_ones(len(alive), 1)], 1)
        hidden = model.base_model(input_ids=token[:, None], position_ids=position[:, None], past_key_values=cache,
                                  attention_mask=visible[:, None, None], use_cache=True).last_hidden_state[:, -1]
        position = position + 1
    rows = zip(tokens.tolist(), count.tolist(), finished.tolist(), sums.T.tolist())
    return [Completion(ids[:k], logprob, ok, drawn, certainty) for ids, k, ok, (logprob, drawn, certainty) in rows]


def stream(seed, *name):
    """A generator for one named purpose: the same numbers whatever else ran before."""
    digest = hashlib.sha256("/".join(map(str, (seed, *name))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


# ---------------------------------------------------------------- prompts and code

ASK = "Write a Python solution to the problem below. Answer with one Python code block and nothing else.\n\n"
# What begins a new top-level thing after a completed function (the stop words of the Codex paper, 2107.03374 §2.2).
STOPS = re.compile(r"\n(?=class |def |#|if |print\(|```|<|@)")


def solution_prompt(problem, chat=False):
    """What the policy is shown: the benchmark's own words, or else the problem and the code that its program must begin with."""
    if words := ask(problem, chat):
        return words
    starter = problem.get("starter_code") or ""
    if not chat:
        return problem["prompt"] if problem["prompt"].endswith(starter) else problem["prompt"] + starter
    if not starter or starter in problem["prompt"]:
        return ASK + problem["prompt"]
    return f"{ASK}{problem['prompt']}\n\nBegin with this code:\n```python\n{starter}\n```"


def extract_code(text, problem, chat=False):
    """The program in an answer, cut as its benchmark does it, or else:

    From a chat model: the first fenced block that defines the entry point, else the first block, else the text.
    From a plain model: the text continues the starter code, up to the next top-level statement.
    """
    text = text.rpartition("</think>")[2] if chat else text
    if (code := cut(text, problem, chat)) is not None:
        return code
    starter, entry = problem.get("starter_code") or "", problem.get("entry_point")
    if not chat:
        return starter + STOPS.split(text)[0] if starter else text
    blocks = FENCED.findall(text) or [text]
    if re.findall(r"```\w*", text) == ["```"]:  # the end of a block that began without one, or the start of one that was cut off
        blocks = text.split("```")
    defines = [b for b in blocks if entry and re.search(rf"\bdef {re.escape(entry)}\b", b)]
    code = (defines or blocks)[0]
    if defines or not starter or "class " in code:
        # A block that repeats the signature has usually lost the imports above it.
        signature = re.search(r"^(class |def |async def |@)", starter, re.M)
        return (starter[:signature.start()] if signature else "") + code
    return starter + code


# ---------------------------------------------------------------- the command

def day(text):
    return datetime.date.fromisoformat(text).isoformat()


def parse_args(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--problems", nargs="+", metavar="P.jsonl", help="problem files, or with --benchmark its own files "
                   "(default: the tiny world's two; a benchmark's come from the hub)")
    p.add_argument("--benchmark", choices=list(LOADERS), help="whose problems to take; without --problems they are downloaded")
    p.add_argument("--preset", choices=list(PRESETS), help="a split of the DaJ paper: LiveCodeBench before 2024-08 (for training) or from "
                   "2025-02-01 to 2025-05-01 (131 problems), BigCodeBench-Hard with its instruct prompts (148)")
    p.add_argument("--subset", nargs="+", default=[], help="BigCodeBench: hard (the 148 of BigCodeBench-Hard), instruct (its instruct "
                   "prompts; otherwise chat models too complete the code); MBPP on the hub: sanitized")
    p.add_argument("--from", dest="since", type=day, metavar="DAY", help="only contests on or after this day, as in 2025-02-01")
    p.add_argument("--until", type=day, metavar="DAY", help="only contests on or before this day")
    p.add_argument("--difficulty", nargs="+", help="only these difficulties (LiveCodeBench: easy, medium, hard)")
    p.add_argument("--as-split", choices=["train", "meta", "dev", "test"], help="what a benchmark's problems are to be (default test)")
    p.add_argument("--split", nargs="+", help="only these splits")
    p.add_argument("--limit", type=int, help="only the first so many problems of each file, or of the benchmark")
    p.add_argument("--model", nargs="+", metavar="M", help="causal LM: one for all problem files or one for each, "
                   "in order (default: the tiny world's weak and strong policy)")
    api.add_flags(p)
    p.add_argument("--n", type=int, default=8, help="candidates for each problem (default 8)")
    p.add_argument("--out", type=Path, default=ROOT / "runs/tiny/candidates.jsonl", help="candidates file, appended "
                   "to (default runs/tiny/candidates.jsonl)")
    p.add_argument("--shard", metavar="I/N", help="make only the I-th of N parts, I from 0, into OUT with .I-of-N before its suffix; the "
                   "N files can be concatenated. torchrun's processes do so by themselves")
    p.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default 1.0)")
    p.add_argument("--max-new-tokens", type=int, default=512, help="(default 512)")
    p.add_argument("--batch-size", type=int, default=64, help="sequences at once; lower it where memory runs out "
                   "(default 64)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 (auto: float32 on a CPU)")
    args = p.parse_args(argv)
    args.expected = None
    for name, value in PRESETS[args.preset].items() if args.preset else ():
        if getattr(args, name):
            p.error(f"--preset {args.preset} says what --{name.replace('since', 'from').replace('_', '-')} is: leave out one of them")
        setattr(args, name, value)
    for part in args.subset:
        if part not in SUBSETS.get(args.benchmark, ()):
            p.error(f"--subset {part}: --benchmark {args.benchmark} has {' and '.join(SUBSETS.get(args.benchmark, ())) or 'no subsets'}")
    if args.as_split and not args.benchmark:
        p.error("--as-split is for a --benchmark: other problems have their own splits")
    api.check_flags(p, args)
    if args.api_base:
        if args.model:
            p.error("--model is for models that run here, --api-model for those behind --api-base: name one of them")
        args.model = [args.api_model]
    if args.problems is None and args.model is None and not args.benchmark:
        args.problems = [TINY / "problems_weak.jsonl", TINY / "problems_strong.jsonl"]
        args.model = [str(TINY / "weak"), str(TINY / "strong")]
    if not (args.problems or args.benchmark) or not args.model:
        p.error("--problems and --model go together (or --api-base in its place): name both, or neither for the tiny world")
    if args.benchmark and len(args.model) > 1:
        p.error("--benchmark takes one --model; run it once for each, with the same --out")
    if not args.benchmark and len(args.model) not in (1, len(args.problems)):
        p.error(f"--model names {len(args.model)} models for {len(args.problems)} --problems files: one for all, or one each")
    for flag, value, least in (("--n", args.n, 1), ("--limit", 1 if args.limit is None else args.limit, 1), ("--max-new-tokens", args.max_new_tokens, 1),
                               ("--batch-size", args.batch_size, 1), ("--temperature", args.temperature, 0)):
        if value < least:
            p.error(f"{flag} {value}: must be at least {least}")
    if len({policy_name(name) for name in args.model}) < len(args.model):
        p.error("--model: two models with the same last name would be one policy; put them into folders of different names")
    if args.shard and WORLD_SIZE > 1:
        p.error("--shard: leave it out under torchrun, whose processes are the shards")
    shard = shard_of(args.shard or f"{RANK}/{WORLD_SIZE}")
    args.shard, args.whole = shard, args.out
    if args.shard[1] > 1:
        args.out = args.out.with_name(f"{args.out.stem}.{args.shard[0]}-of-{args.shard[1]}{args.out.suffix}")
    if args.device == "cuda" and "LOCAL_RANK" in os.environ:
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
    return args


def load_problems(args):
    """One list of problems for each --problems file, or one for the benchmark, after the flags that choose among them."""
    def wanted(row):
        if (args.since or args.until) and not row.get("date"):
            raise UserError(f"--from and --until: problem {row['problem_id']!r} has no date")
        return ((not args.split or row["split"] in args.split) and (not args.difficulty or row["difficulty"] in args.difficulty)
                and (not args.since or row["date"] >= args.since) and (not args.until or row["date"] <= args.until))

    if args.benchmark:
        paths = args.problems or fetch(args.benchmark, args.subset, args.since)
        rows = read_benchmark(args.benchmark, paths, args.as_split or "test", args.subset, wanted)
        lists = [write_problems(args.whole.with_name("problems.jsonl"), islice(rows, args.limit))]
        if args.expected and not args.limit and not args.difficulty and len(lists[0]) != args.expected:
            print(f"note: --preset {args.preset} is {args.expected} problems in the paper, {len(lists[0])} here", file=sys.stderr)
    else:
        lists = [list(filter(wanted, read_problems(path).values()))[:args.limit] for path in args.problems]
    if not any(lists):
        flags = {"--split": args.split, "--difficulty": args.difficulty, "--from": args.since and [args.since], "--until": args.until and [args.until]}
        raise UserError(f"{' '.join(map(str, args.problems or [args.benchmark]))}: no problems are left after "
                       + (" ".join(" ".join([flag, *values]) for flag, values in flags.items() if values) or "--split (all)"))
    return lists


def write_problems(path, problems):
    """Write a benchmark's rows one by one, and return them without their tests: LiveCodeBench's are gigabytes."""
    aside, kept = path.with_name(f"{path.name}.{os.getpid()}.new"), []  # the shards may write theirs at the same time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8", errors="backslashreplace") as file:
            for problem in problems:
                file.write(json.dumps(problem, ensure_ascii=False) + "\n")
                kept.append({name: value for name, value in problem.items() if name not in ("tests", "public_tests")})
        if kept:
            os.replace(aside, path)
            print(f"problems: {path}")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        if aside.exists():
            aside.unlink()
    return kept


def policy_name(model_name):
    return Path(model_name).name.removesuffix(".gguf")


def must_be_the_same_settings(args):
    """Rows are known by problem and candidate: a file made with another seed or other settings is not to be continued."""
    now = {"seed": args.seed, "temperature": args.temperature, "max_new_tokens": args.max_new_tokens}
    for row in read_rows(args.out, CANDIDATE) if args.out.exists() else []:
        then = {"seed": row.get("seed"), **row.get("sampling", {})}
        for name, value in now.items():
            if then.get(name) != value:
                raise UserError(f"{args.out}: it was made with --{name.replace('_', '-')} {then.get(name)}, not {value}: give another --out, or delete it")


def candidate(problem, cid, text, chat, tokens, finished, args, **measured):
    """A row; `tokens` were generated, the end token included."""
    return {"problem_id": problem["problem_id"], "candidate_id": cid, "policy": cid.rpartition("-")[0],
            "text": text, "code": extract_code(text, problem, chat), "n_tokens": tokens, **measured,
            "finish_reason": "stop" if finished else "length", "seed": args.seed,
            "sampling": {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens}}


def sample_file(problems, model_name, args, out):
    """All candidates of one problem file from one model, or this shard's batches of them, appended to `out`."""
    if not problems:
        return
    policy = policy_name(model_name)
    cids = [f"{policy}-{k}" for k in range(args.n)]
    if all((problem["problem_id"], cid) in out.done for problem in problems for cid in cids):
        print(f"{policy}: all {len(problems)} x {args.n} candidates are already in {args.out}")
        return
    model, tokenizer = load_model(model_name, args.device, args.dtype)
    chat, ends = bool(tokenizer.chat_template), end_ids(model, tokenizer)
    pad = pad_id(tokenizer, ends)
    prompts = {p["problem_id"]: encode(tokenizer, solution_prompt(p, chat)) for p in problems}
    ordered = sorted(problems, key=lambda p: -len(prompts[p["problem_id"]]))  # like lengths together: little padding
    size = max(1, args.batch_size // args.n)
    batches = [ordered[start:start + size] for start in range(0, len(ordered), size)][args.shard[0]::args.shard[1]]
    with tqdm(total=sum(map(len, batches)) * args.n, desc=policy, unit="candidate", disable=RANK > 0) as bar:
        for batch in batches:
            jobs = [(problem, cid) for problem in batch for cid in cids]
            missing = [(problem["problem_id"], cid) not in out.done for problem, cid in jobs]
            if any(missing):
                uniforms = torch.stack([torch.rand(args.max_new_tokens, generator=stream(args.seed, problem["problem_id"], cid)) for problem, cid in jobs])
                made = generate(model, [prompts[problem["problem_id"]] for problem in batch], uniforms, args.temperature, ends, pad)
                out.append(*(candidate(problem, cid, tokenizer.decode(done.ids[:-1] if done.finished else done.ids), chat, len(done.ids), done.finished,
                                       args, mean_logprob=done.logprob / len(done.ids), self_certainty=done.self_certainty / len(done.ids))
                             for (problem, cid), done, new in zip(jobs, made, missing) if new))
            bar.update(len(jobs))


def sample_served(problems, args, out):
    """All candidates from the model behind --api-base, or this shard's problems of them; each is kept as it comes."""
    chat, policy = not args.api_plain, policy_name(args.api_model)
    jobs = [(problem, f"{policy}-{k}") for problem in problems[args.shard[0]::args.shard[1]] for k in range(args.n)]
    missing = [(problem, cid) for problem, cid in jobs if (problem["problem_id"], cid) not in out.done]
    bodies = [api.body(args, solution_prompt(problem, chat), stream(args.seed, problem["problem_id"], cid).initial_seed()) for problem, cid in missing]
    answers = api.complete(args.api_base, bodies, args.in_flight)
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=policy, unit="candidate", disable=RANK > 0) as bar:
        for (problem, cid), answer in zip(missing, answers):
            out.append(candidate(problem, cid, answer.text, chat, answer.tokens, answer.finished, args, seconds=answer.seconds))
            bar.update()


def main(argv=None):
    args = parse_args(argv)
    lists = load_problems(args)
    must_be_the_same_settings(args)
    with Appender(args.out, ("problem_id", "candidate_id")) as out:
        try:
            for problems, model_name in zip(lists, args.model * len(lists)):
                sample_served(problems, args, out) if args.api_base else sample_file(problems, model_name, args, out)
        except KeyboardInterrupt:
            sys.exit(f"\nstopped; {len(out.done)} candidates are kept in {args.out}: the same command goes on from there")
    print(f"{len(out.done)} candidates in {args.out}")
    if args.shard[1] > 1:
        print(f"when all {args.shard[1]} shards are done: cat {args.whole.with_suffix('')}.*-of-{args.shard[1]}{args.whole.suffix} > {args.whole}")
    files = " ".join(map(str, [args.whole.with_name("problems.jsonl")] if args.benchmark else args.problems))
    print("next: python execute.py" if args.whole == ROOT / "runs/tiny/candidates.jsonl" else
          f"next: python execute.py --problems {files} --candidates {args.whole} --out {args.whole.with_name('labelled.jsonl')}")


if __name__ == "__main__":
    run(main)
