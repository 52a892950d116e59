"""train_bilevel.py, part by part: what a step draws, samples and counts, and what a run reports."""
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sample
import train_bilevel as tb
from data.pairs import Pair
from data.rows import EDGES, UserError
from sample import Completion, stream


# ---------------------------------------------------------------- what is drawn

def test_no_random_stream_is_used_twice(settings, monkeypatch):
    """Neither by training and meta judgments, nor by two steps, evaluations or thoughts.

    (Both orders of a pair share the one that draws their number of Waits.)
    """
    names = []

    def recorded(*name):
        names.append(name)
        return stream(*name)

    def rollout(self, pairs, streams, n):
        return [tb.Group(pair, [], [], [], [None], [0.0] * n) for pair in pairs]

    run = tb.Run(settings(waits=1, reward="consistent"))
    trainer = run.trainer
    monkeypatch.setattr(tb, "stream", recorded)
    monkeypatch.setattr(tb.Judge, "rollout", rollout)
    monkeypatch.setattr(tb, "force_waits", lambda judge, groups, streams, waits: groups)
    monkeypatch.setattr(tb, "trace_row", lambda group, k, cfg: {})
    nothing_said = {"verdict": None, "right": "A", "tokens": 0}
    monkeypatch.setattr(run, "transcript", lambda group: nothing_said)
    tb.make_traces(trainer.judge, list(enumerate(trainer.train_pairs[:6])))
    for run.step in range(3):
        pairs = trainer.in_random_order(torch.arange(4), run.step)
        trainer.judge_pairs(pairs, trainer.draw_meta_pairs(run.step), run.step)
        run.evaluate()
    seeds = [stream(*name).initial_seed() for name in names if name[1] != "waits"]
    assert len(seeds) > 60
    assert len(set(seeds)) == len(seeds)


def test_at_every_visit_a_pair_is_shown_in_an_order_drawn_anew(trainer):
    here = trainer()
    index = torch.arange(len(here.train_pairs))
    orders = []
    for step in range(3):
        orders.append([pair.right for pair in here.in_random_order(index, step)])
        flipped = [right != pair.right for right, pair in zip(orders[-1], here.train_pairs)]
        assert 0.2 < sum(flipped) / len(flipped) < 0.8
    assert orders[0] != orders[1] != orders[2] != orders[0]


# ---------------------------------------------------------------- which step does what

def test_s_is_made_of_the_running_mean_of_v(trainer, monkeypatch, mixed_rewards):
    seen = {"v": [], "asked": []}

    def recorded(*arguments, real=tb.meta_gradient):
        v, importance = real(*arguments)
        seen["v"].append(v)
        return v, importance

    monkeypatch.setattr(tb, "meta_gradient", recorded)
    here = trainer(meta_batch=8, max_new_tokens=24, lr=1e-6)
    transpose = here.adam.jacobian_transpose

    def asked(v):
        seen["asked"].append(v.clone())
        return transpose(v)

    here.adam.jacobian_transpose = asked
    for step in range(2):
        here.train_step(step)
    assert not torch.equal(seen["v"][1], here.v_mean)
    assert torch.equal(seen["asked"][1], here.v_mean)


def test_weights_wait_for_the_first_fifth_of_the_freeze_and_no_longer(trainer, monkeypatch):
    paces = []

    def recorded(self, index, s, mixed, pace):
        paces.append(pace)
        return s, s

    monkeypatch.setattr(tb.DataWeights, "update", recorded)
    here = trainer(freeze_judge_steps=20, steps=21, weight_steps=8)
    here.remember = lambda *_: None
    mixed = torch.tensor([True, True])
    here.move_weights(3, torch.tensor([0, 1]), torch.ones(2), [], mixed)
    assert paces == []
    here.move_weights(4, torch.tensor([0, 1]), torch.ones(2), [], mixed)
    assert paces == [0.5]


def test_a_cold_start_s_steps_are_none_of_the_freeze_nor_of_the_weights(trainer, mixed_rewards):
    here = trainer(cold_start=5, steps=4, freeze_judge_steps=2, weight_steps=3)
    paces = []
    update = here.data_weights.update

    def recorded(index, s, mixed, pace):
        paces.append(pace)
        return update(index, s, mixed, pace)

    here.data_weights.update = recorded
    theta = here.parameters.theta.clone()
    moved = []
    looked = []
    for step in range(5, 9):
        looked.append("meta_reward" in here.train_step(step))
        moved.append(not torch.equal(here.parameters.theta, theta))
    assert moved == [False, False, True, True]
    assert looked == [True, True, True, False]
    assert paces == pytest.approx([2 / 3, 1 / 3])  # the first fifth of the freeze, step 0, settles


def test_a_visit_is_remembered_by_the_number_of_its_row_in_metrics(trainer, mixed_rewards):
    here = trainer()
    here.train_step(0)
    steps = {visit["step"] for visits in here.moved for visit in visits}
    assert steps == {1}


# ---------------------------------------------------------------- judgments

def test_a_float16_checkpoint_is_refused(settings, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(EDGES / "judge", dtype=torch.float16)
    model.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(EDGES / "judge").save_pretrained(tmp_path / "half")
    with pytest.raises(UserError, match="float16.*add --dtype bfloat16"):
        tb.Judge(str(tmp_path / "half"), settings(dtype="float16", lora_rank=2))


@pytest.mark.parametrize("rank, dtype", [(0, "float32"), (2, "auto")])
def test_a_checkpoint_keeps_its_dtype_below_adapters(rank, dtype, settings, monkeypatch):
    """On a GPU, that is: `load_model` makes "auto" float32 on a CPU."""
    asked = []

    def load_model(name, device, dtype, **more):
        asked.append(dtype)
        raise UserError("enough")

    monkeypatch.setattr(tb, "load_model", load_model)
    with pytest.raises(UserError, match="enough"):
        tb.Judge(str(EDGES / "judge"), settings(lora_rank=rank))
    assert asked == [dtype]


def test_the_embedding_of_the_padding_token_has_a_gradient(trainer):
    """A prompt or an answer may hold the token, and it is looked at there."""
    judge = trainer().judge
    embedding = judge.model.get_input_embeddings()
    embedding(torch.tensor([judge.pad])).sum().backward()
    assert embedding.weight.grad[judge.pad].abs().min() == 1


def test_rows_are_not_kept_for_their_gradients_where_layers_are_computed_twice(trainer):
    learned = {"weights": "instance", "lora_rank": 2}
    assert trainer(**learned).judge.gradients_by_row
    assert not trainer(**learned, checkpoint_gradients=True).judge.gradients_by_row


def test_the_judge_samples_at_the_temperature_of_its_flag(trainer):
    """Cold, all judgments of a pair begin alike; hot, they do not."""
    here = trainer()
    pair = here.train_pairs[0]
    for temperature, kinds in ((1e-4, 1), (3.0, 8)):
        here.judge.cfg = replace(here.cfg, temperature=temperature)
        group, = here.judge.rollout([pair], [stream(0, "r")], 8)
        assert len({tuple(c.ids) for c in group.completions}) == kinds


def test_the_judge_samples_as_many_rows_at_once_as_its_flag_says(trainer, monkeypatch):
    here = trainer(rollout_rows=8)
    largest = []

    def prefill(model, prompts, n, *more):
        largest.append(len(prompts) * n)
        return real_prefill(model, prompts, n, *more)

    real_prefill = sample.prefill
    monkeypatch.setattr(sample, "prefill", prefill)
    pairs = here.train_pairs[:5]
    here.judge.rollout(pairs, [stream(0, "r", k) for k in range(5)], 4)
    assert max(largest) == 8


def test_a_judgment_within_thoughts_that_the_prompt_opened_is_not_right(trainer):
    here = trainer()
    pair = here.train_pairs[0]
    ids = here.judge.tokenizer(f"<best>{pair.right}</best>", add_special_tokens=False).input_ids
    done = Completion([*ids, here.judge.ends[0]], -1.0, True)
    cut_off = Completion(ids, -1.0, False)
    group = here.judge.as_group(pair, [5], [done, cut_off])
    assert group.rewards == [1.0, 0.0]
    assert group.verdicts == [pair.right, None]
    here.judge.begun = "<think>\n"
    assert here.judge.as_group(pair, [5], [done, cut_off]).rewards == [0.0, 0.0]


def test_what_judgments_show_is_counted_exactly():
    """Tokens are those that the judge chose, log-probs those it chose them by.

    The entropy is over tokens.
    """
    pair = Pair("i", {}, {}, {}, "A", "d")
    first = [Completion([5] * 4, -9.0, True, logprob_sampled=-2.0, forced=[1, 2]),
             Completion([5] * 6, -9.0, False, logprob_sampled=-4.0)]
    second = [Completion([5] * 1, -9.0, True, logprob_sampled=-0.5),
              Completion([5] * 1, -9.0, True, logprob_sampled=-0.5)]
    groups = [tb.Group(pair, [7], first, ["", ""], ["A", None], [1.0, 0.0]),
              tb.Group(pair, [7], second, ["", ""], ["A", "B"], [0.0, 0.0])]
    judge = SimpleNamespace(cfg=SimpleNamespace(weights="instance"))
    stats = tb.judgment_statistics(groups, judge)
    assert stats["tokens"].tolist() == [4.0, 1.0]
    assert stats["nll"].tolist() == [0.75, 0.5]
    assert stats["variance"].tolist() == [0.25, 0.0]
    assert stats["zero_variance"].tolist() == [0.0, 1.0]
    assert stats["length_gain"].tolist() == [pytest.approx(-0.25), 0.0]
    assert stats["parse_rate"].tolist() == [0.5, 1.0]
    assert stats["truncated"].tolist() == [0.5, 0.0]
    step = SimpleNamespace(cfg=SimpleNamespace(cold_start=0),
                           adam=SimpleNamespace(grad_norm=0.0, clipped=False))
    metrics = tb.Trainer.step_metrics(step, 0, 0.0, stats)
    assert metrics["entropy"] == pytest.approx((6 + 1) / (8 + 2))


def test_the_log_prob_of_a_verdict_said_at_once_is_that_of_the_right_one(trainer):
    judge = trainer(weights="net").judge
    here = trainer()
    pairs = [here.train_pairs[0], here.train_pairs[0].flipped(), here.train_pairs[1]]
    for pair, found in zip(pairs, judge.verdict_nll(pairs).tolist()):
        prompt = judge.prompt_ids(pair)
        ids = judge.tokenizer(f"<best>{pair.right}</best>", add_special_tokens=False).input_ids
        logits = judge.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1]
        logp = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])
        assert found == pytest.approx(-logp.sum().item(), rel=1e-4)


def test_a_pair_must_leave_room_for_every_thought(trainer):
    here = trainer(waits=2)
    lengths = sorted(len(here.judge.prompt_ids(pair)) for pair in here.train_pairs)
    here.judge.model.config.max_position_embeddings = lengths[-1] + 3 * here.cfg.max_new_tokens
    assert here.judge.fitting(here.train_pairs, "training") == here.train_pairs
    here.judge.model.config.max_position_embeddings -= 1
    kept = here.judge.fitting(here.train_pairs, "training")
    for pair in here.train_pairs:
        longest = len(here.judge.prompt_ids(pair)) == lengths[-1]
        assert (pair not in kept) == longest


# ---------------------------------------------------------------- Waits and the cold start

def test_a_pair_draws_each_number_of_waits_as_often():
    drawn = [tb.draw_waits(stream(0, k), 2) for k in range(900)]
    for number in range(3):
        assert drawn.count(number) == pytest.approx(300, abs=45)
    assert {tb.draw_waits(stream(0, k), 0) for k in range(5)} == {0}


def test_a_pair_draws_its_number_of_waits_anew_at_every_visit(trainer, monkeypatch):
    drawn = []
    monkeypatch.setattr(tb, "force_waits", lambda judge, groups, streams, waits: drawn.append(waits))
    here = trainer(waits=9, group=2, max_new_tokens=2)
    pairs = list(enumerate(here.train_pairs[:4]))
    for step in (0, 0, 1):
        here.sample_judgments("rollout", pairs, step)
    first, again, next_step = drawn
    assert first == again != next_step
    assert len(set(first)) > 1


@pytest.mark.parametrize("length, kept", [(40, True), (41, False)])
def test_a_trace_is_kept_as_long_as_later_judgments_may_be(length, kept, settings):
    pair = Pair("p:1>2", {}, {}, {}, "A", "d")
    one = Completion([5] * length, -1.0, True, -1.0, 0.0)
    group = tb.Group(pair, [1], [one], [""], ["A"], [1.0])
    assert tb.trace_row(group, 0, settings(max_new_tokens=40))["kept"] == kept


def test_a_second_thought_is_sampled_at_the_temperature_of_the_flag(trainer):
    here = trainer()
    here.judge.cfg = replace(here.cfg, temperature=1e-4)
    groups = here.judge.rollout([here.train_pairs[0]], [stream(0, "r")], 8)
    groups = tb.force_waits(here.judge, groups, [stream(0, "s")], [1])
    assert len({tuple(c.ids) for c in groups[0].completions}) == 1


def judged_alone(judge, prompt, ids):
    logits = judge.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1:-1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


def test_the_log_prob_of_a_judgment_is_of_all_its_thoughts(trainer):
    here = trainer(max_new_tokens=24)
    judge = here.judge
    pairs = here.train_pairs[:1]
    before = judge.rollout(pairs, [stream(0, "r")], 3)[0].completions
    group, = tb.force_waits(judge, judge.rollout(pairs, [stream(0, "r")], 3), [stream(0, "w")], [1])
    for first, whole in zip(before, group.completions):
        own = [t for t in range(len(whole.ids)) if t not in whole.forced]
        ids = torch.tensor([group.prompt + whole.ids])
        logp = judge.model(input_ids=ids).logits[0, len(group.prompt) - 1:-1].log_softmax(-1)
        logp = logp.gather(1, torch.tensor(whole.ids)[:, None])[own, 0].sum().item()
        taken_back = 0.0  # the end token of a first thought
        if first.finished:
            taken_back = first.logprob_sampled - judged_alone(judge, group.prompt, first.said)
        assert whole.logprob_sampled == pytest.approx(logp + taken_back, abs=1e-3)


def test_what_leaves_no_room_for_a_second_thought_stays_as_it_is(trainer):
    here = trainer(max_new_tokens=8)
    judge = here.judge
    pairs = here.train_pairs[:1]
    group, = judge.rollout(pairs, [stream(0, "r")], 2)
    before = [list(c.ids) for c in group.completions]
    length = max(len(tb.prompt_after_wait(judge.tokenizer, group.prompt, completion))
                 for completion in group.completions)
    judge.model.config.max_position_embeddings = length + 7
    group, = tb.force_waits(judge, [group], [stream(0, "w")], [1])
    changed = [c.ids != ids for c, ids in zip(group.completions, before)]
    assert not all(changed)


def test_a_cold_start_lets_only_finished_judgments_think_on(trainer, monkeypatch):
    here = trainer()
    pair = here.train_pairs[0]
    wrong = "B" if pair.right == "A" else "A"
    completions = [Completion([5], 0.0, finished) for finished in (True, False, True)]
    group = tb.Group(pair, [5], completions, [""] * 3, [wrong, None, pair.right], [0.0, 0.0, 1.0])
    chosen = []

    def recorded(judge, wrong):
        chosen.extend(k for _, k, _ in wrong)

    monkeypatch.setattr(tb, "continue_after_wait", recorded)
    tb.wait_where_wrong(here.judge, [group], [None])
    assert chosen == [0]


# ---------------------------------------------------------------- evaluations and the report

def test_an_evaluation_shows_each_pair_in_both_orders(settings):
    run = tb.Run(settings())
    run.evaluate()
    shown = [(row["instance_id"], row["right"]) for row in run.transcripts]
    expected = []
    for pair in run.eval_pairs:
        expected += [(pair.instance_id, pair.right), (pair.instance_id, pair.flipped().right)]
    assert shown == expected


def test_figures_of_an_evaluation_are_counted_exactly():
    def row(verdict, right, tokens):
        return {"verdict": verdict, "right": right, "tokens": tokens}

    rows = [row("A", "A", 4), row("B", "B", 4),
            row("A", "A", 6), row("A", "B", 6),
            row("A", "B", 5), row(None, "A", 5)]
    figures = tb.accuracy_of(rows)
    assert figures == {"accuracy": 3 / 6, "both_orders": 1 / 3, "parse_rate": 5 / 6, "tokens": 5.0}


def test_the_report_has_the_first_and_the_last_evaluation(settings, capsys):
    def row(step, x):
        return {"step": step, "eval_accuracy": x, "eval_both_orders": x, "eval_parse_rate": x,
                "eval_tokens": 100 * x}

    tb.report(settings(), [row(0, 0.25), row(1, 0.5), row(2, 0.75)], [], 3)
    printed = capsys.readouterr().out.splitlines()
    line = next(line for line in printed if line.startswith("  accuracy"))
    assert line.split()[-2:] == ["25.0%", "75.0%"]
