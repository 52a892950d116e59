"""What a correct GRPO step must satisfy: nineteen promises, numbered, and the hypergradient against
brute force.

Most checks put the trainer's own functions together on groups made up by hand and a judge of random
weights. Those that are about a whole step run `Trainer.train_step` with the shipped judge.
(There is no number 8, a KL term: the loss has none.)
"""
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import StableLmConfig, StableLmForCausalLM

import train_bilevel as tb
from data.pairs import Pair
from kernels.packing import make_packs
from kernels.weighted_logprob import Statistics
from sample import Completion, end_ids, generate, stream


# ---------------------------------------------------------------- what the tests are made of

VOCABULARY = 632  # of the shipped judge; id 0 pads and id 1 ends
LENGTHS = [[2, 6, 3], [5, 2, 4], [7, 6, 2], [3, 8, 8]]  # tokens of G = 3 judgments of B = 4 pairs
REWARDS = [[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]]
LIMIT = 16              # max_new_tokens of the settings


def made_up(lengths=LENGTHS, rewards=REWARDS, seed=0):
    """Groups of random token ids with these lengths and rewards, both [B][G]."""
    generator = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(2, VOCABULARY, (n,), generator=generator).tolist()

    prompts = [ids(4 + 3 * (i % 3)) for i in range(len(lengths))]
    groups = []
    for prompt, of_pair, earned in zip(prompts, lengths, rewards):
        completions = [Completion(ids(n), 0.0, True) for n in of_pair]
        nothing = [None] * len(of_pair)
        rewards_of_pair = [float(reward) for reward in earned]
        groups.append(tb.Group(None, prompt, completions, texts=nothing, verdicts=nothing, rewards=rewards_of_pair))
    return groups


def answers_of(groups):
    """[(prompt, ids)] of all B·G judgments, in the order in which a Batch numbers them."""
    return [(group.prompt, completion.ids) for group in groups for completion in group.completions]


def forced_of(groups):
    """The positions of forced tokens in all B·G judgments."""
    return [completion.forced for group in groups for completion in group.completions]


class Lab:
    """A judge of random weights, its parameters and optimizer, and one batch of made-up groups."""

    def __init__(self, cfg, groups):
        self.cfg = cfg
        self.groups = groups
        self.judge = tb.Judge(cfg.judge, cfg)
        if cfg.dtype == "float64":
            self.judge.model.double()  # adapters, too
        self.parameters = tb.FlatParameters(self.judge.model)
        self.adam = tb.Adam(self.parameters, cfg)

    @property
    def advantage(self):
        return tb.group_advantage(tb.rewards_of(self.groups))

    def batch(self, micro_tokens=10000, pair_by_pair=False):
        self.judge.cfg = replace(self.cfg, micro_tokens=micro_tokens)
        return tb.make_batch(self.judge, self.groups, self.advantage, pair_by_pair)

    def packs(self, most_tokens=10000):
        """All judgments as packs, those without an advantage, too."""
        prompts = [group.prompt for group in self.groups]
        answers = [ids for _, ids in answers_of(self.groups)]
        return make_packs(
            prompts, answers, self.judge.pad, most_tokens, "cpu", forced=forced_of(self.groups))

    def losses(self, batch=None):
        """ℓ [B]"""
        batch = batch or self.batch()
        losses = torch.zeros(len(self.groups), dtype=torch.float64)
        for pack in batch.packs:
            losses = losses + tb.pair_losses(self.judge, pack, batch)
        return losses

    def gradient(self, a=None, batch=None):
        """g = (1/B) Σ_i a_i ∇ℓ_i [P], of a batch whose packs hold several pairs."""
        a = torch.ones(len(self.groups)) if a is None else a
        tb.batch_gradient(self.judge, self.parameters, batch or self.batch(), a)
        return self.parameters.grad.clone()

    def pair_gradients(self):
        """∇ℓ_i(θ) [B, P] as the trainer keeps them for the hypergradient."""
        batch = self.batch(pair_by_pair=True)
        _, gradients = tb.pair_gradients(self.judge, self.parameters, batch, torch.ones(len(self.groups)))
        return gradients

    def reinforce_loss(self):
        """−Σ A log π / (B · G · limit), by an ordinary forward pass for each judgment. Its gradient
        is g for a = 1."""
        total = 0.0
        for (prompt, ids), advantage in zip(answers_of(self.groups), self.advantage.flatten()):
            total = total - advantage * plain_logprob(self.judge.model, prompt, ids).sum()
        return total / (self.advantage.numel() * LIMIT)

    def reinforce_gradient(self):
        return flat_gradient(self.reinforce_loss(), self.parameters)


def flat_gradient(value, parameters, **how):
    """The gradient of a number as one vector [P], by autograd."""
    parts = torch.autograd.grad(value, parameters.tensors, **how)
    return torch.cat([part.flatten() for part in parts])


def plain_logprob(model, prompt, answer, temperature=1.0):
    """log π of each answer token by one ordinary forward pass of one sequence."""
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1:-1]
    logp = (logits / temperature).log_softmax(-1)
    return logp.gather(1, torch.tensor(answer)[:, None])[:, 0]


def random_like(theta, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(theta), generator=generator, dtype=theta.dtype)


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def random_settings(settings, random_judge):
    """random_settings(**changes): with the judge of random weights, and three judgments of a
    pair."""
    return lambda **changes: settings(**{"judge": str(random_judge), "group": 3, **changes})


@pytest.fixture
def lab(random_settings):
    """lab(groups, **changes): a Lab with these settings."""
    return lambda groups=None, **changes: Lab(random_settings(**changes), groups or made_up())


# ---------------------------------------------------------------- 1 ... 7: the loss

def test_01_aggregation_is_a_constant_denominator(lab):
    """ℓ = −Σ_k A_k·length_k / (G·max_new_tokens) on-policy. Lengths 2 and 6, rewards 1 and 0, limit
    8: −(0.5·2 − 0.5·6) / (2·8) = 1/8, where a sequence mean would give 0 and a token mean 1/4."""
    here = lab(made_up([[2, 6]], [[1, 0]]), max_new_tokens=8, group=2)
    assert here.losses().tolist() == pytest.approx([0.125], abs=1e-7)
    loss = tb.batch_gradient(here.judge, here.parameters, here.batch(), torch.ones(1))
    assert loss == pytest.approx(0.125, abs=1e-7)
    loss, _ = tb.pair_gradients(here.judge, here.parameters, here.batch(pair_by_pair=True), torch.ones(1))
    assert loss == pytest.approx(0.125, abs=1e-7)


def test_02_gradient_does_not_depend_on_micro_batches(lab):
    """--micro-tokens cuts the batch into a pack for each judgment, or into 3, 2 or 1, ragged ones
    among them: one gradient, one set of ℓ_i."""
    here = lab()
    a = torch.tensor([0.5, 2.0, 1.0, 0.25])
    batches = [here.batch(micro_tokens=limit) for limit in (1, 40, 75, 10000)]
    assert [len(batch.packs) for batch in batches] == [12, 3, 2, 1]
    whole = here.gradient(a, batches[-1])
    losses = here.losses(batches[-1])
    for batch in batches[:-1]:
        assert error(here.gradient(a, batch), whole) < 1e-5
        assert torch.allclose(here.losses(batch), losses, rtol=1e-5)


def test_02_nor_on_whether_the_gradients_of_pairs_are_kept_apart(lab):
    here = lab()
    a = torch.tensor([0.5, 2.0, 1.0, 0.25])
    together = here.gradient(a)
    loss = tb.batch_gradient(here.judge, here.parameters, here.batch(), a)
    apart, gradients = tb.pair_gradients(here.judge, here.parameters, here.batch(pair_by_pair=True), a)
    assert apart == pytest.approx(loss, rel=1e-5)
    assert error(here.parameters.grad, together) < 1e-5
    assert error(a @ gradients / 4, together) < 1e-5


@pytest.mark.parametrize("weights", ["uniform", "instance"])
def test_02_nor_does_a_whole_step(trainer, weights):
    small = trainer(micro_tokens=1, weights=weights)
    large = trainer(micro_tokens=10000, weights=weights)
    loss_of_small = small.train_step(0)["loss"]
    loss_of_large = large.train_step(0)["loss"]
    assert error(small.adam.raw_grad, large.adam.raw_grad) < 1e-5
    assert loss_of_small == pytest.approx(loss_of_large, rel=1e-4)


def test_03_one_mask_and_nothing_left_is_zero(lab):
    """Judgments without an advantage are not scored, and where none has one the loss is 0 and the
    gradient 0, not NaN."""
    here = lab(made_up(rewards=[[1, 1, 1]] * 4))
    batch = here.batch()
    assert batch.packs == []
    assert tb.batch_gradient(here.judge, here.parameters, batch, torch.ones(4)) == 0
    assert here.parameters.grad.abs().max() == 0
    assert here.pair_gradients().abs().max() == 0
    v, importance = tb.meta_gradient(here.judge, here.parameters, batch, torch.zeros(12, dtype=torch.float64))
    assert v.abs().max() == 0
    assert tb.effective_share(importance, batch) == 1

    scored = sum(len(pack.target) for pack in lab().batch().packs)
    assert scored == sum(map(sum, LENGTHS))  # nor is padding


def test_03_a_step_of_equal_rewards_changes_nothing(trainer, monkeypatch):
    monkeypatch.setattr(tb, "reward", lambda pair, text: 1.0)
    here = trainer(check_hypergradient=1)
    theta = here.parameters.theta.clone()
    row = here.train_step(0)
    assert row["loss"] == 0
    assert row["grad_norm"] == 0
    assert row["zero_variance"] == 1
    for name, value in row.items():
        assert not isinstance(value, float) or math.isfinite(value), name
    assert torch.equal(here.parameters.theta, theta)
    assert here.data_weights.w().tolist() == pytest.approx([1.0] * len(here.train_pairs), abs=1e-6)
    assert int(here.data_weights.visits.sum()) == 4
    assert int(here.data_weights.informed.sum()) == 0


def test_04_losses_come_home_to_their_pairs(lab):
    """Packs are sorted by width, so neighbours in a pack are not neighbours in the batch."""
    together = lab()
    alone = []
    for group in together.groups:
        here = lab([group])
        alone.append(float(here.losses()[0]))
    assert len(set(alone)) == 4
    for limit in (1, 40, 10000):
        losses = together.losses(together.batch(micro_tokens=limit))
        assert losses.tolist() == pytest.approx(alone, rel=1e-6)


def test_04_advantages_are_relative_to_the_group(lab):
    rewards = torch.tensor([[1.0, 0, 0, 0]])
    assert tb.group_advantage(rewards).tolist() == [[0.75, -0.25, -0.25, -0.25]]
    # The meta loss: r − the others' mean.
    assert tb.leave_one_out(rewards)[0].tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


def test_05_equal_rewards_have_no_advantage_whatever_their_mean_rounds_to():
    """Seven rewards of 0.1 have a mean that is not 0.1 in fp32; their advantage is 0 all the
    same."""
    rewards = torch.full((1, 7), 0.1)
    assert (rewards - rewards.mean(1, keepdim=True)).abs().max() > 0
    assert tb.group_advantage(rewards).tolist() == [[0.0] * 7]


def test_05_groups_of_equal_rewards_are_counted_and_do_not_inform(trainer):
    here = trainer(batch=8)
    index, _ = here.data_weights.draw(stream(here.cfg.seed, "draw", 0))
    groups, _ = here.judge_pairs(here.in_random_order(index, 0), [], 0)
    varied = torch.tensor([len(set(group.rewards)) > 1 for group in groups])
    assert 0 < int(varied.sum()) < 8
    row = here.train_step(0)
    assert row["zero_variance"] == 1 - float(varied.double().mean())
    assert here.data_weights.informed.nonzero()[:, 0].tolist() == sorted(index[varied].tolist())
    assert here.data_weights.visits.nonzero()[:, 0].tolist() == sorted(index.tolist())


@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.9, 1.0, 1.2, 1.27, 1.29, 2.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_06_clip_in_four_quadrants(ratio, sign):
    """−min(ρA, clip(ρ)A): no gradient only for ρ > 1.28 with A > 0, and for ρ < 0.8 with A < 0."""
    logp = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    old_logp = torch.zeros(1, dtype=torch.float64)
    loss = tb.token_loss(logp, old_logp, torch.tensor([3 * sign], dtype=torch.float64))
    loss.sum().backward()
    if sign > 0:
        effective = min(ratio, 1.28)
    else:
        effective = max(ratio, 0.8)
    assert loss.item() == pytest.approx(-3 * sign * effective)
    slope = -3 * sign * ratio if effective == ratio else 0.0
    assert float(logp.grad) == pytest.approx(slope)


def test_07_on_policy_gradient_is_reinforce(lab):
    here = lab()
    assert error(here.gradient(), here.reinforce_gradient()) < 1e-5


def test_07_a_step_goes_downhill(lab):
    here = lab(lr=1e-4)
    before = here.reinforce_loss()
    here.gradient()
    here.adam.step()
    assert here.reinforce_loss() < before - 1e-5


# ---------------------------------------------------------------- 9 ... 15: tokens, sampling, precision

def assert_scores_are_those_of_separate_sequences(here, packs):
    """Every token's log-prob is that of an ordinary forward pass of its own sequence, and no token
    is missing."""
    answers = answers_of(here.groups)
    forced = forced_of(here.groups)
    seen = []
    for pack in packs:
        logp = here.judge.score(pack).detach()
        for k in pack.sample.unique().tolist():
            alone = plain_logprob(here.judge.model, *answers[k]).detach()
            own = [t for t in range(len(alone)) if t not in forced[k]]
            alone = alone[own]
            assert torch.allclose(logp[pack.sample == k], alone, atol=1e-5, rtol=0)
            seen.append(k)
    assert sorted(seen) == list(range(len(answers)))


def test_09_packed_and_padded_logprobs_are_those_of_separate_sequences(lab):
    """Padding is on the right, and a prompt shares a row with its completions behind a block mask.
    A pad id in the text is a token like any other."""
    here = lab()
    pad = here.judge.pad
    middles = (here.groups[1].prompt, here.groups[1].completions[1].ids, here.groups[2].completions[2].ids)
    for ids in middles:
        ids[len(ids) // 2] = pad
    here.groups[3].prompt[0] = pad
    here.groups[0].completions[1].ids[-1] = pad
    for limit in (1, 75, 10000):
        assert_scores_are_those_of_separate_sequences(here, here.packs(limit))


def test_09_forced_tokens_are_seen_but_not_scored(lab):
    """A Wait that was put into a judgment is what its later tokens go on from, and no token of it."""
    here = lab()
    here.groups[0].completions[1].forced = [1, 2]
    here.groups[1].completions[1].forced = [0]
    here.groups[1].completions[2].forced = [1, 3]
    packs = here.packs()
    assert_scores_are_those_of_separate_sequences(here, packs)
    n_tokens = sum(len(ids) for _, ids in answers_of(here.groups))
    assert sum(len(pack.target) for pack in packs) == n_tokens - 5


def groups_with_equal_beginnings():
    groups = made_up([[6, 6, 4], [5, 5, 5], [100, 8, 8], [3, 7, 3]])
    first, second, third, fourth = (group.completions for group in groups)
    first[1] = first[0]
    second[1] = second[0]
    second[2] = second[0]
    third[2] = third[1]
    fourth[2] = fourth[0]
    for completions, k, original, common in ((first, 2, 0, 3), (third, 1, 0, 8), (fourth, 1, 0, 2)):
        completions[k].ids[:common] = completions[original].ids[:common]
    return groups


def test_09_equal_beginnings_are_computed_once_and_scored_each(lab):
    """What answers have in common stands in a row once; log-probs, ℓ_i and ∇ℓ are those of answers
    computed one by one. Rows of unlike width do not share a pack once they need more padding than a
    forward pass costs."""
    here = lab(groups_with_equal_beginnings())
    packs = here.packs()
    widths = []
    for group in here.groups:
        beginnings = {tuple(c.ids[:t]) for c in group.completions for t in range(1, len(c.ids))}
        widths.append(len(group.prompt) + len(beginnings))
    widths.sort()
    assert [list(pack.ids.shape) for pack in packs] == [[3, widths[2]], [1, widths[3]]]
    assert_scores_are_those_of_separate_sequences(here, packs)

    lengths = torch.tensor([[len(c.ids) for c in group.completions] for group in here.groups])
    expected = -(here.advantage * lengths).sum(1) / (3 * LIMIT)
    assert torch.allclose(here.losses(), expected.double(), atol=1e-6)
    assert error(here.gradient(), here.reinforce_gradient()) < 1e-5


def test_09_a_pad_id_in_the_text_has_a_gradient(lab):
    """An input embedding with a padding index would leave its row out of ∇ℓ: where pad = eos, and
    chat prompts hold it, the gradient would not be that of the loss."""
    here = lab(dtype="float64")
    for group in here.groups:
        group.prompt[1] = here.judge.pad
    row = slice(here.judge.pad * 32, here.judge.pad * 32 + 32)  # the embedding is the first parameter
    direction = torch.zeros_like(here.parameters.theta)
    direction[row] = random_like(direction[row], seed=0)
    theta = here.parameters.theta.clone()
    h = 1e-6
    value = {}
    for side in (-1, 1):
        here.parameters.set(theta + side * h * direction)
        value[side] = here.reinforce_loss().item()
    here.parameters.set(theta)
    slope = (value[1] - value[-1]) / (2 * h)
    assert abs(slope) > 1e-4
    assert float(here.gradient() @ direction) == pytest.approx(slope, rel=1e-4)


def test_10_the_first_end_token_counts(lab):
    """It is the last token of the completion, whichever of the end ids it is and also where padding
    has the same id."""
    judge = lab().judge
    prompts = [[5, 6, 7], [8, 9]]
    uniforms = torch.rand(8, 24, generator=torch.Generator().manual_seed(0))
    endless = generate(judge.model, prompts, uniforms, 1.0, [-1], 0)
    assert all(len(c.ids) == 24 for c in endless)
    assert not any(c.finished for c in endless)

    ends = [endless[0].ids[3], endless[5].ids[10], endless[2].ids[23]]
    assert len(set(ends)) == 3
    for pad in (0, ends[0]):
        for k, completion in enumerate(generate(judge.model, prompts, uniforms, 1.0, ends, pad)):
            whole = endless[k].ids
            at = [t for t, token in enumerate(whole) if token in ends]
            assert completion.finished == bool(at)
            assert completion.ids == (whole[:at[0] + 1] if at else whole)
            alone = plain_logprob(judge.model, prompts[k // 4], completion.ids).sum().item()
            assert completion.logprob == pytest.approx(alone, abs=1e-4)


def test_10_a_model_may_have_several_end_ids(lab):
    judge = lab().judge
    judge.model.generation_config.eos_token_id = [7, 9]
    assert end_ids(judge.model, judge.tokenizer) == sorted({judge.tokenizer.eos_token_id, 7, 9})


def test_11_a_judgment_without_an_end_token_counts_like_any_other(lab):
    finished = lab()
    truncated = lab()
    for group in truncated.groups:
        group.completions[1].finished = False
    assert torch.equal(truncated.losses(), finished.losses())


def test_11_the_share_of_truncated_judgments_is_reported(trainer):
    here = trainer(weights="uniform")
    index, _ = here.data_weights.draw(stream(here.cfg.seed, "draw", 0))
    groups, _ = here.judge_pairs(here.in_random_order(index, 0), [], 0)
    cut_off = [not completion.finished for group in groups for completion in group.completions]
    assert 0 < sum(cut_off) < len(cut_off)
    row = here.train_step(0)
    assert row["truncated"] == pytest.approx(sum(cut_off) / len(cut_off))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_12_sampler_and_scorer_are_one_distribution(lab, temperature):
    """20 000 first tokens against softmax(logits / T), by the chi-square of all tokens expected
    five times or more. The checkpoint's own generation defaults change nothing, and the scorer
    divides by the same T."""
    here = lab(temperature=temperature)
    judge = here.judge
    with torch.no_grad():
        for p in judge.model.parameters():
            p.mul_(0.6 if p.dim() == 2 else 1)  # flatter: many tokens in play
    defaults = judge.model.generation_config
    defaults.do_sample = True
    defaults.top_k = 1
    defaults.top_p = 0.1
    defaults.temperature = 0.2
    defaults.repetition_penalty = 5.0

    prompt = [5, 6, 7, 8]
    n = 20000
    uniforms = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    completions = generate(judge.model, [prompt], uniforms, temperature, judge.ends, judge.pad)
    logits = judge.model(input_ids=torch.tensor([prompt])).logits[0, -1].detach().double()
    expected = n * (logits / temperature).softmax(0)
    first_tokens = torch.tensor([completion.ids[0] for completion in completions])
    found = torch.bincount(first_tokens, minlength=len(expected)).double()
    often = expected >= 5
    degrees = int(often.sum())
    assert degrees > 50
    chi_square = float(((found - expected)[often] ** 2 / expected[often]).sum())
    assert abs(chi_square - degrees) < 5 * (2 * degrees) ** 0.5  # five standard deviations

    prompts = [prompt, [9, 10]]
    uniforms = torch.rand(6, 12, generator=torch.Generator().manual_seed(1))
    completions = generate(judge.model, prompts, uniforms, temperature, judge.ends, judge.pad)
    answers = [completion.ids for completion in completions]
    (pack,) = make_packs(prompts, answers, judge.pad, 10000, "cpu")
    scored = judge.score(pack).detach()
    for k, completion in enumerate(completions):
        mine = scored[pack.sample == k]
        alone = plain_logprob(judge.model, prompts[k // 3], completion.ids, temperature)
        assert torch.allclose(mine, alone, atol=1e-5)
        assert completion.logprob_sampled == pytest.approx(float(mine.sum()), abs=1e-4)


def test_13_generated_ids_are_trained_on(trainer):
    """Ids that re-encoding their own text would change reach the loss unchanged, each predicted
    from the id before it."""
    here = trainer(group=2)
    judge = here.judge
    letters = [judge.tokenizer(letter).input_ids[-1] for letter in "skim: steps"]
    assert judge.tokenizer(judge.tokenizer.decode(letters)).input_ids != letters

    groups = []
    for pair in here.train_pairs[:2]:
        completions = [Completion(letters, -1.0, False), Completion(letters[:4], -1.0, False)]
        groups.append(judge.as_group(pair, judge.prompt_ids(pair), completions))
    batch = tb.make_batch(judge, groups, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    seen = 0
    for pack in batch.packs:
        for k in pack.sample.unique().tolist():
            mine = pack.sample == k
            expected = letters if k % 2 == 0 else letters[:4]
            assert pack.target[mine].tolist() == expected
            before = pack.ids[pack.row, pack.column][mine].tolist()
            assert before == [groups[k // 2].prompt[-1], *expected[:-1]]
            seen += 1
    assert seen == 4


@pytest.fixture
def half_judge(random_judge, tmp_path):
    """The judge of random weights, saved in bf16."""
    folder = tmp_path / "half"
    StableLmForCausalLM.from_pretrained(random_judge, dtype=torch.bfloat16).save_pretrained(folder)
    tb.load_model(str(random_judge))[1].save_pretrained(folder)
    return str(folder)


def halve_frozen_weights(model):
    """To bf16, as a GPU keeps them under adapters; a CPU loads a judge in fp32."""
    for p in model.parameters():
        if not p.requires_grad:
            p.data = p.data.bfloat16()


def test_14_a_half_precision_checkpoint_is_trained_in_fp32(lab, half_judge):
    here = lab(judge=half_judge)
    assert {p.dtype for p in here.judge.model.parameters()} == {torch.float32}


def test_14_adapters_are_fp32_on_a_half_precision_judge(lab, half_judge):
    here = lab(judge=half_judge, lora_rank=2)
    halve_frozen_weights(here.judge.model)
    assert here.parameters.theta.dtype == torch.float32
    assert here.adam.exp_avg.dtype == torch.float32
    assert here.adam.exp_avg_sq.dtype == torch.float32
    (pack,) = here.packs()
    assert here.judge.score(pack).dtype == torch.float32


def test_15_old_and_new_log_probs_are_scored_without_dropout(lab, random_judge, tmp_path):
    config = StableLmConfig.from_pretrained(random_judge, attention_dropout=0.5, hidden_dropout=0.5)
    StableLmForCausalLM.from_pretrained(random_judge, config=config).save_pretrained(tmp_path / "dropout")
    tb.load_model(str(random_judge))[1].save_pretrained(tmp_path / "dropout")
    here = lab(judge=str(tmp_path / "dropout"))
    assert here.judge.model.config.attention_dropout == 0.5
    for pack in here.packs():
        assert torch.equal(here.judge.score(pack), here.judge.score(pack))


def test_09_an_answer_may_leave_a_later_column_than_one_before_it_did(lab):
    """The third leaves the first after two tokens, the second has left it after one.

        7 8 9 10
        . 20 21
        . . 30 31
    """
    groups = made_up([[4, 3, 4]], [[1, 0, 0]])
    first, second, third = groups[0].completions
    first.ids = [7, 8, 9, 10]
    second.ids = [7, 20, 21]
    third.ids = [7, 8, 30, 31]
    here = lab(groups)
    (pack,) = here.packs()
    assert pack.ids.shape == (1, len(groups[0].prompt) + 5)
    assert_scores_are_those_of_separate_sequences(here, [pack])


@pytest.mark.parametrize("most_tokens, widths", [(4, [4, 4]), (5, [5])], ids=str)
def test_09_a_row_takes_answers_until_it_is_full(most_tokens, widths):
    """The third answer needs no column of its own: its last token is predicted at x."""
    p, q, a, b, c, d, x, z = range(2, 10)
    answers = [[a, b, c], [a, x, d], [a, x, z]]
    packs = make_packs([[p, q]], answers, 0, most_tokens, "cpu")
    assert [pack.ids.shape[1] for pack in packs] == widths


def test_09_rows_share_a_pack_while_their_padding_costs_less_than_a_pass():
    """A row of 40 beside one of 104 has 64 tokens of padding, the most there may be on a CPU."""
    for longest, n_packs in ((104, 1), (105, 2)):
        packs = make_packs([[5] * 40, [6] * longest], [[1], [1]], 0, 10000, "cpu")
        assert len(packs) == n_packs


@pytest.mark.parametrize("prompts, answers", [
    ([[5], [6]], [[1], [1], [1]]),
    ([[5], []], [[1], [1]]),
], ids=["an answer too few", "an empty prompt"])
def test_answers_that_do_not_go_round_and_empty_prompts_are_refused(prompts, answers):
    with pytest.raises(ValueError, match="expected as many for each, and no empty prompt"):
        make_packs(prompts, answers, 0, 10000, "cpu")


def test_forced_tokens_are_not_part_of_the_loss(lab):
    here = lab()
    here.groups[0].completions[1].forced = [1, 2]
    here.groups[2].completions[0].forced = [0]
    targets = sum(len(pack.target) for pack in here.batch().packs)
    assert targets == sum(len(c.ids) for group in here.groups for c in group.completions) - 3


def test_log_probs_of_judgments_are_the_sampler_s_at_its_temperature(lab):
    here = lab(temperature=0.6)
    for group in here.groups:
        for completion in group.completions:
            completion.logprob = -1.0
            completion.logprob_sampled = -2.0
    assert tb.logprob_of_judgments(here.judge, here.groups, here.batch()).tolist() == [-2.0] * 12


def test_with_waits_log_probs_of_judgments_are_the_scorer_s(lab):
    here = lab(waits=1)   # the sampler's sums, 0 here, hold end tokens that were taken back
    batch = here.batch()
    found = tb.logprob_of_judgments(here.judge, here.groups, batch)
    assert torch.equal(found, tb.scored_logprob(here.judge, batch))
    assert found.max() < 0


def test_the_scorer_has_the_head_s_bias_and_the_model_s_softcap(lab):
    """As in the sampler."""
    here = lab(lora_rank=2)
    head = here.judge.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.linspace(-3, 3, head.out_features), requires_grad=False)
    here.judge.model.config.final_logit_softcapping = 2.0
    (pack,) = here.packs()
    hidden, weight, _ = here.judge.last_hidden(pack)
    logits = hidden @ weight.T + head.bias
    expected = (2 * torch.tanh(logits / 2)).log_softmax(-1).gather(1, pack.target[:, None])[:, 0]
    assert torch.allclose(here.judge.score(pack), expected, atol=1e-5)


def test_a_step_reports_the_exact_entropy_of_what_it_scored(lab):
    """Of the tokens of judgments with an advantage, at the sampling temperature, whatever the packs."""
    means = []
    for micro_tokens in (10000, 1):
        here = lab(temperature=0.7)
        batch = here.batch(micro_tokens)
        entropies = []
        for pack in batch.packs:
            hidden, head, _ = here.judge.last_hidden(pack)
            logp = (hidden @ head.T / 0.7).log_softmax(-1).detach()
            entropies.append(-(logp.exp() * logp).sum(-1))
        losses = [tb.pair_losses(here.judge, pack, batch) for pack in batch.packs]
        assert all(loss.requires_grad for loss in losses)
        assert not any(entropy.requires_grad for entropy in batch.entropies)
        means.append(tb.mean_entropy(batch))
        assert means[-1] == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-5)
        scored = sum(map(len, entropies))
        judgments = [c for group in here.groups for c in group.completions]
        with_advantage = here.advantage.flatten() != 0
        assert scored == sum(len(c.ids) for c, scores in zip(judgments, with_advantage) if scores)
    assert means[0] == pytest.approx(means[1], rel=1e-5)


def test_where_nothing_is_scored_there_is_no_exact_entropy(lab):
    here = lab()
    batch = tb.make_batch(here.judge, here.groups, torch.zeros_like(here.advantage))
    assert tb.mean_entropy(batch) is None


def test_weights_scale_the_supervised_loss_too(lab):
    here = lab(lora_rank=2)
    batch = here.batch()
    batch.advantage = (batch.advantage > 0).float()

    def gradient(a):
        tb.supervised_gradient(here.judge, here.parameters, batch, torch.tensor(a))
        return here.parameters.grad.clone()

    each = [gradient([float(i == k) for i in range(4)]) for k in range(4)]
    a = [0.5, 3.0, 0.25, 1.5]
    found = gradient(a)
    assert (found - sum(x * g for x, g in zip(a, each))).norm() < 1e-5 * found.norm()
    assert (found - gradient([1.0] * 4)).norm() > 0.1 * found.norm()


def test_a_restart_forgets_both_averages(lab):
    here = lab()
    here.gradient()
    here.adam.step()
    here.adam.restart()
    assert here.adam.t == 0
    assert not here.adam.exp_avg.any()
    assert not here.adam.exp_avg_sq.any()


# ---------------------------------------------------------------- 16, 17: resume and weights

def without_times(metrics):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in metrics]


def leaves(state):
    """All values in nested dicts and lists."""
    if not isinstance(state, (dict, list)):
        return [state]
    values = state.values() if isinstance(state, dict) else state
    return [leaf for value in values for leaf in leaves(value)]


@pytest.mark.parametrize("weights", ["instance", "net"])
def test_16_two_and_two_steps_are_four(settings, tmp_path, weights):
    """Model, Adam's moments, draws, data weights and every row written: the same bits as without
    the interruption."""
    def train(name, steps):
        run = tb.Run(settings(weights=weights, out=str(tmp_path / name), steps=steps))
        run.train()
        return run
    once = train("once", 4)
    train("twice", 2)
    twice = train("twice", 4)
    assert torch.equal(once.trainer.parameters.theta, twice.trainer.parameters.theta)
    assert torch.equal(once.trainer.adam.exp_avg, twice.trainer.adam.exp_avg)
    assert torch.equal(once.trainer.adam.exp_avg_sq, twice.trainer.adam.exp_avg_sq)
    assert once.trainer.adam.t == twice.trainer.adam.t == 4

    assert int(once.trainer.data_weights.informed.sum()) > 3
    assert once.trainer.data_weights.w().std() > 0
    states = (leaves(once.trainer.data_weights.state()), leaves(twice.trainer.data_weights.state()))
    for x, y in zip(*states, strict=True):
        assert torch.equal(x, y) if torch.is_tensor(x) else x == y

    assert without_times(once.metrics) == without_times(twice.metrics)
    for name in ("weights.jsonl", "transcripts.jsonl"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()


def test_17_weights_enter_linearly_and_ones_are_plain_grpo(trainer):
    """g(a) of whole steps from the same start: ones = the unweighted step to the bit, twice the
    weights = twice g to the bit (no denominator depends on them), and any a gives Σ a_i g(e_i)."""
    here = trainer(weights="uniform", clip_grad=0.0)
    start = here.parameters.theta.clone()
    index, ones = here.data_weights.draw(stream(here.cfg.seed, "draw", 0))
    assert ones.tolist() == [1.0] * 4

    def gradient(a=None, **changes):
        """The gradient of a first step whose pairs have these weights, or those that the trainer
        gives them."""
        here.cfg = here.data_weights.cfg = replace(here.cfg, **changes)
        here.parameters.set(start)
        here.adam.restart()
        draw = here.data_weights.draw
        if a is not None:
            here.data_weights.draw = lambda generator: (index, torch.tensor(a))
        here.train_step(0)
        here.data_weights.draw = draw
        return here.adam.raw_grad.clone()

    plain = gradient()
    assert torch.equal(gradient([1.0] * 4), plain)
    assert torch.equal(gradient(apply="scale"), plain)
    assert torch.equal(gradient([2.0] * 4), 2 * plain)
    one = [gradient([float(i == j) for j in range(4)]) for i in range(4)]
    assert sum(bool(g.norm() > 0) for g in one) >= 2
    a = [0.5, 3.0, 0.25, 1.5]
    assert error(gradient(a), sum(x * g for x, g in zip(a, one))) < 1e-6


# ---------------------------------------------------------------- 18: the hypergradient
# In fp64, on made-up groups: the trainer's v, ṽ and s against formulas written down here once more.

OPTIMIZERS = {
    # name: (settings, steps before this one, size of a nudge: as large as the curvature of U allows)
    "SGD": (dict(beta1=0.0, adam_eps=1e4, lr=1e2, clip_grad=0.0), 0, 1e-4),  # ε drowns |g|
    "Adam, t = 1": (dict(adam_eps=1e-6, clip_grad=0.0), 0, 5e-6),
    "Adam, t = 1, active clip": (dict(adam_eps=1e-6, clip_grad=0.02), 0, 5e-6),
    "Adam, t = 3": (dict(adam_eps=1e-8, clip_grad=0.0), 2, 5e-5),
    "Adam, t = 3, active clip": (dict(adam_eps=1e-8, clip_grad=0.02), 2, 5e-5),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)
full_or_lora = pytest.mark.parametrize("lora", [0, 2], ids=["full", "LoRA"])


def judgment_logprobs(judge, batch):
    """log π of each whole judgment [M·G], at the parameters as they are; 0 for those without
    advantage."""
    total = torch.zeros(len(batch.advantage), dtype=torch.float64)
    for pack in batch.packs:
        total = total.index_add(0, pack.sample, judge.score(pack).double())
    return total


def meta_loss(judge, batch, sampled):
    """L_meta = −(1/M) Σ_i Σ_k A_k π(k)/π_θ(k) / (G · limit). sampled: log π_θ(k) [M·G]."""
    ratio = (judgment_logprobs(judge, batch) - sampled).exp()
    return -(batch.advantage * ratio).sum() * batch.scale.double() / batch.n_pairs


def adam_direction(g, exp_avg, exp_avg_sq, t, cfg, q=None):
    """U(g) of step t, from the averages before it; with q given, q does not depend on g."""
    if 0 < cfg.clip_grad < g.norm():
        g = g * cfg.clip_grad / g.norm()
    m = cfg.beta1 * exp_avg + (1 - cfg.beta1) * g
    n = cfg.beta2 * exp_avg_sq + (1 - cfg.beta2) * g ** 2
    if q is None:
        n = torch.where(n > 0, n, 1.0)  # √ has no slope at 0, and there m is 0 as well
        q = (n / (1 - cfg.beta2 ** t)).sqrt()
    return m / (1 - cfg.beta1 ** t) / (q + cfg.adam_eps)


def nudge(i, size):
    """What is added to the weights [B] to nudge weight i."""
    vector = torch.zeros(4, dtype=torch.float64)
    vector[i] = size
    return vector


class Bilevel(Lab):
    """One step θ → θ' with the trainer's v, ṽ and s, and all that stays fixed while a weight is
    nudged."""

    def __init__(self, cfg, steps_before):
        super().__init__(cfg, made_up())
        judge = self.judge
        parameters = self.parameters
        if cfg.lora_rank:  # with B = 0 the gradient of A is exactly zero: start where both matter
            parameters.theta.add_(0.1 * random_like(parameters.theta, seed=2))
        for k in range(steps_before):
            self.groups = made_up(seed=10 + k)
            self.gradient()
            self.adam.step()
        self.groups = made_up()
        self.inner = self.batch()
        self.a = torch.tensor([1.3, 0.7, 0.4, 1.6], dtype=torch.float64)

        # θ, what Adam remembers, and the meta judgments, which θ has sampled
        self.theta = parameters.theta.clone()
        self.averages = (self.adam.exp_avg.clone(), self.adam.exp_avg_sq.clone())
        meta_groups = made_up([[3, 5, 2], [4, 4, 6], [1, 7, 5]], [[1, 0, 0], [0, 1, 1], [1, 1, 0]], seed=5)
        self.meta = tb.make_batch(judge, meta_groups, tb.leave_one_out(tb.rewards_of(meta_groups)))
        with torch.no_grad():
            self.sampled = judgment_logprobs(judge, self.meta)

        gradients = self.pair_gradients()
        g = self.gradient(self.a)
        self.adam.step()
        self.theta_next = parameters.theta.clone()
        self.v, _ = tb.meta_gradient(judge, parameters, self.meta, self.sampled)
        self.v_tilde = self.adam.jacobian_transpose(self.v)
        self.s = gradients @ self.v_tilde
        self.hypergradient = -cfg.lr / 4 * self.s

        self.frozen_q = self.adam.q()
        expected = -cfg.lr * adam_direction(g, *self.averages, self.adam.t, cfg)
        assert error(self.theta_next - self.theta, expected) < 1e-9

    def meta_loss_after(self, a, q=None):
        """L_meta(θ'(a)), from the state before the step. q: a preconditioner that a does not
        move."""
        self.parameters.set(self.theta)
        g = self.gradient(a, self.inner)
        direction = adam_direction(g, *self.averages, self.adam.t, self.cfg, q)
        self.parameters.set(self.theta - self.cfg.lr * direction)
        with torch.no_grad():
            return float(meta_loss(self.judge, self.meta, self.sampled))

    def brute_force(self, h, q=None):
        """∂L_meta(θ'(a)) / ∂a_i from four nudges of each a_i (fourth order in h)."""
        slopes = []
        for i in range(4):
            value = {k: self.meta_loss_after(self.a + nudge(i, k * h), q) for k in (-2, -1, 1, 2)}
            slopes.append((8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * h))
        return torch.tensor(slopes, dtype=torch.float64)


@pytest.fixture
def bilevel(random_settings):
    def make(optimizer, lora=0, **changes):
        flags, steps_before, _ = OPTIMIZERS[optimizer]
        fixed = dict(dtype="float64", jacobian="exact", lora_rank=lora, lora_alpha=4.0, lr=1e-3)
        here = Bilevel(random_settings(**{**fixed, **flags, **changes}), steps_before)
        assert here.adam.clipped == ("clip" in optimizer)
        return here
    return make


@full_or_lora
@every_optimizer
def test_18_hypergradient_is_that_of_brute_force(bilevel, optimizer, lora):
    """−(η/B)·s_i against nudging a_i, stepping again and measuring the meta loss again."""
    here = bilevel(optimizer, lora)
    _, _, size = OPTIMIZERS[optimizer]
    found = error(here.hypergradient, here.brute_force(size))
    print(f"brute force, {optimizer}, LoRA {lora}: {found:.1e}")
    assert found < 1e-6


@every_optimizer
def test_18_frozen_jacobian_is_that_of_a_held_preconditioner(bilevel, optimizer):
    """--jacobian frozen is exact for a step whose q the nudge is not allowed to move."""
    here = bilevel(optimizer, jacobian="frozen")
    found = error(here.hypergradient, here.brute_force(1e-4, here.frozen_q))
    print(f"frozen, {optimizer}: {found:.1e}")
    assert found < 1e-6


def test_18_v_is_the_gradient_of_the_meta_loss(bilevel):
    """∇L_meta(θ') by autograd, importance and all."""
    here = bilevel("Adam, t = 3")
    loss = meta_loss(here.judge, here.meta, here.sampled)
    assert error(here.v, flat_gradient(loss, here.parameters)) < 1e-9


@pytest.fixture
def differentiable_twice(monkeypatch):
    """Log-probs and attention that can be differentiated as often as one likes; the fast ones
    cannot."""
    def plain(hidden, head, target, bias=None, temperature=1.0, statistics=False, **_):
        logp = (hidden @ head.T / temperature).log_softmax(-1)
        found = logp.gather(1, target[:, None])[:, 0]
        return (found, Statistics(found.detach(), None)) if statistics else found
    monkeypatch.setattr(tb, "token_logprob", plain)
    with sdpa_kernel(SDPBackend.MATH):
        yield


@full_or_lora
@every_optimizer
def test_18_hypergradient_is_that_of_double_backward(bilevel, optimizer, lora, differentiable_twice):
    """∂/∂a_i of ⟨U(g(a)), v⟩ by autograd through the gradient, the clip and Adam is s_i / B."""
    here = bilevel(optimizer, lora)
    here.parameters.set(here.theta)
    a = here.a.clone().requires_grad_()
    loss = (a * here.losses(here.inner)).sum() / 4
    g = flat_gradient(loss, here.parameters, create_graph=True)
    direction = adam_direction(g, *here.averages, here.adam.t, here.cfg)
    (slopes,) = torch.autograd.grad(direction @ here.v, a)
    found = error(here.s / 4, slopes)
    print(f"double backward, {optimizer}, LoRA {lora}: {found:.1e}")
    assert found < 1e-6


class LossesOfModel(torch.nn.Module):
    """θ -> ℓ(θ) as a module, for torch.func."""

    def __init__(self, here):
        super().__init__()
        self.model = here.judge.model
        self.here = here

    def forward(self):
        return self.here.losses(self.here.inner)


def test_18_hypergradient_is_that_of_forward_mode(bilevel, differentiable_twice):
    """s_i = dℓ_i(θ + xṽ)/dx at 0 by a Jacobian-vector product."""
    here = bilevel("Adam, t = 3, active clip")
    here.parameters.set(here.theta)
    names = [f"model.{name}" for name, _ in here.judge.model.named_parameters()]
    shapes = [p.shape for p in here.parameters.tensors]
    sizes = [shape.numel() for shape in shapes]
    parts = [part.view(shape) for part, shape in zip(here.theta.split(sizes), shapes)]
    tangents = [part.view(shape) for part, shape in zip(here.v_tilde.split(sizes), shapes)]
    module = LossesOfModel(here)

    def losses_at(theta):
        return torch.func.functional_call(module, theta, ())
    theta = dict(zip(names, parts, strict=True))
    tangent = dict(zip(names, tangents, strict=True))
    _, slopes = torch.func.jvp(losses_at, (theta,), (tangent,))
    found = error(here.s, slopes)
    print(f"forward mode: {found:.1e}")
    assert found < 1e-6


def test_18_coordinates_that_no_gradient_has_reached_are_no_part_of_the_direction(lab):
    """LoRA's A while B is 0: there 1/ε times v would be all of it."""
    here = lab(lora_rank=2)
    here.gradient()
    here.adam.step()
    never = here.adam.exp_avg_sq == 0
    assert 0 < int(never.sum()) < len(never)
    v_tilde = here.adam.jacobian_transpose(torch.ones_like(here.parameters.theta))
    assert v_tilde[never].abs().max() == 0
    assert v_tilde[~never].abs().min() > 0


def test_18_meta_judgments_of_a_half_precision_judge_count_once_at_theta(lab, half_judge):
    """Where θ' = θ their importance is exactly 1: log π_θ is the scorer's. The sampler rounds in
    another order."""
    here = lab(judge=half_judge, lora_rank=2)
    halve_frozen_weights(here.judge.model)
    batch = here.batch()
    sampled = tb.logprob_of_judgments(here.judge, here.groups, batch)
    _, importance = tb.meta_gradient(here.judge, here.parameters, batch, sampled)
    assert importance.tolist() == [1.0] * 12


@pytest.mark.parametrize("importance, share", [
    ([1.0, 1.0, 1.0], 1.0),
    ([1.0, 1.0, 0.0], 2 / 3),
    ([1.2, 0.8, 1.0], 9 / (3 * 3.08)),
    ([0.1, 0.1, 0.1], 0.1),
    ([1e-200, 0.0, 0.0], 0.0),
    ([0.0, 0.0, 0.0], 0.0),
    ([float("inf"), 1.0, 1.0], 0.0),
])
def test_18_effective_share_of_the_meta_judgments(lab, importance, share):
    """(Σw)² / (n Σw²) over judgments with an advantage, or the mean w where that is less; those
    without count for nothing."""
    batch = lab(made_up([[2, 3, 4], [2, 3, 4]], [[1, 0, 0], [1, 1, 1]])).batch()
    w = torch.tensor([*importance, 0.0, 0.0, 5.0], dtype=torch.float64)
    assert tb.effective_share(w, batch) == pytest.approx(share)


def recorded_updates(here):
    """Everything that the data weights of this trainer are told from now on: [(index, s,
    informed)]."""
    told = []
    update = here.data_weights.update

    def record(index, s, informed, pace):
        told.append((index, s, informed))
        return update(index, s, informed, pace)
    here.data_weights.update = record
    return told


@pytest.fixture
def exact_trainer(trainer, random_judge):
    """exact_trainer(**changes): a Trainer in fp64. Its judge is never right, so rewards are dealt out by
    the parity of its token ids."""
    def make(**changes):
        here = trainer(judge=str(random_judge), dtype="float64", group=6, check_hypergradient=1, **changes)
        judge_pairs = here.judge_pairs

        def judge_pairs_with_rewards(*arguments):
            train, meta = judge_pairs(*arguments)
            for group in train + meta:
                group.rewards = [float(sum(completion.ids) % 2) for completion in group.completions]
            return train, meta
        here.judge_pairs = judge_pairs_with_rewards
        return here
    return make


def test_18_a_whole_step_is_wired_that_way(exact_trainer):
    """The s that train_step hands to the data weights, on its own judgments, against brute force.

    And what it reports: the step's effect on the meta loss, and whether two halves of the meta
    pairs agree.
    """
    here = exact_trainer(apply="scale", jacobian="exact", adam_eps=1e-4, clip_grad=0.02, lr=1e-3)
    told = recorded_updates(here)
    judge = here.judge
    parameters = here.parameters
    cfg = here.cfg
    theta = parameters.theta.clone()
    index, a = here.data_weights.draw(stream(cfg.seed, "draw", 0))
    groups, meta_groups = here.judge_pairs(here.in_random_order(index, 0), here.draw_meta_pairs(0), 0)
    assert {group.pair.problem["split"] for group in groups} == {"train"}
    assert {group.pair.problem["split"] for group in meta_groups} == {"meta"}
    inner = tb.make_batch(judge, groups, tb.group_advantage(tb.rewards_of(groups)))
    meta = tb.make_batch(judge, meta_groups, tb.leave_one_out(tb.rewards_of(meta_groups)))
    with torch.no_grad():
        sampled = judgment_logprobs(judge, meta)
        before = float(meta_loss(judge, meta, sampled))

    row = here.train_step(0)
    assert here.adam.clipped
    ((told_index, s, informed),) = told
    assert told_index.tolist() == index.tolist()
    assert informed.tolist() == [len(set(group.rewards)) > 1 for group in groups]
    assert s.count_nonzero() >= 3

    zero = torch.zeros_like(theta)

    def meta_loss_after(a):
        parameters.set(theta)
        tb.batch_gradient(judge, parameters, inner, a)
        direction = adam_direction(parameters.grad, zero, zero, 1, cfg)
        parameters.set(theta - cfg.lr * direction)
        with torch.no_grad():
            return float(meta_loss(judge, meta, sampled))

    h = 1e-5
    slopes = []
    for i in range(4):
        slopes.append((meta_loss_after(a + nudge(i, h)) - meta_loss_after(a - nudge(i, h))) / (2 * h))
    found = error(-cfg.lr / 4 * s, torch.tensor(slopes, dtype=torch.float64))
    print(f"a whole step: {found:.1e}")
    assert found < 1e-4

    assert row["meta_change_realised"] == pytest.approx(meta_loss_after(a) - before, rel=1e-4)
    first, second = slopes_by_halves(here, theta, inner, meta, sampled)
    assert error((first + second) / 2, s) < 1e-4
    cosine = torch.nn.functional.cosine_similarity(first, second, dim=0)
    assert row["split_half_cosine"] == pytest.approx(float(cosine), abs=1e-4)


def slopes_by_halves(here, theta, inner, meta, sampled):
    """s [2, B] from every other meta pair, in both of its orders, and from the rest. The parameters
    are θ'."""
    pair = torch.arange(len(meta.advantage)) // here.cfg.group
    directions = []
    for half in (0, 1):
        own = torch.where(pair // 2 % 2 == half, 2 * meta.advantage, 0.0)
        loss = meta_loss(here.judge, replace(meta, advantage=own), sampled)
        directions.append(here.adam.jacobian_transpose(flat_gradient(loss, here.parameters)))
    here.parameters.set(theta)
    losses = sum(tb.pair_losses(here.judge, pack, inner) for pack in inner.packs)
    gradients = [flat_gradient(loss, here.parameters, retain_graph=True) for loss in losses]
    return torch.stack(directions) @ torch.stack(gradients).T


def test_18_a_small_step_changes_the_meta_loss_as_predicted(exact_trainer):
    row = exact_trainer(lr=1e-8).train_step(0)
    assert row["meta_change_realised"] != 0
    assert row["meta_change_predicted"] == pytest.approx(row["meta_change_realised"], rel=1e-3)


# ---------------------------------------------------------------- 19, 20: planted noise, and the loss that is 0

def area(score, label):
    """Area under the ROC curve: the chance that a true one scores above a false one."""
    higher = score[label][:, None] - score[~label][None]
    return float((higher > 0).double().mean() + (higher == 0).double().mean() / 2)


def test_19_a_flipped_label_turns_its_s(lab):
    """r → 1 − r turns the advantages, the gradient and so s_i of that pair, and leaves the others
    alone."""
    here = lab(dtype="float64")
    direction = random_like(here.parameters.theta, seed=0)
    clean = here.pair_gradients() @ direction
    here.groups[1].rewards = [1 - reward for reward in here.groups[1].rewards]
    flipped = here.pair_gradients() @ direction
    assert flipped[[0, 2, 3]].equal(clean[[0, 2, 3]])
    assert float(flipped[1]) == pytest.approx(-float(clean[1]), rel=1e-6)


def learned_under_noise(cfg, clean, signal, seed):
    """Data weights after 80 steps in which s is ±signal, by `clean` [N], under noise of deviation
    1."""
    pairs = [Pair(str(i), {}, {}, {}, "A", "one domain") for i in range(len(clean))]
    weights = tb.DataWeights(pairs, cfg)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(80):
        index, _ = weights.draw(generator)
        sign = torch.where(clean[index], 1.0, -1.0)
        s = signal * sign + torch.randn(8, generator=generator)
        weights.update(index, 1e-6 * s.double(), torch.ones(8, dtype=torch.bool), pace=1)
    return weights


@pytest.mark.parametrize("apply", ["draw", "scale"])
def test_19_planted_noise_is_weighted_down(settings, apply):
    """A third of 60 pairs of one domain have their s turned, under noise as large as the signal:
    what is learned tells them apart (AUC over 0.9 among those informed three times). From noise
    alone it does not."""
    cfg = settings(weights="instance", apply=apply, batch=8)
    clean = torch.arange(60) % 3 != 0
    areas = {1.0: [], 0.0: []}
    for signal in areas:
        for seed in range(4):
            weights = learned_under_noise(cfg, clean, signal, seed)
            known = weights.informed >= 3
            assert int(known.sum()) > 30
            assert float(weights.w().mean()) == pytest.approx(1, abs=1e-6)
            areas[signal].append(area(weights.w()[known], clean[known]))
    print(apply, areas)
    assert min(areas[1.0]) > 0.9
    assert 0.4 < sum(areas[0.0]) / 4 < 0.6


@pytest.mark.parametrize("lengths", [LENGTHS, [[4] * 3] * 4], ids=["of all lengths", "of equal length"])
def test_20_the_loss_says_nothing_on_policy(lab, lengths):
    """Its value is −Σ A·length / (B·G·limit), whatever the judge is, and 0 where lengths are equal;
    the gradient is not."""
    here = lab(made_up(lengths))
    expected = -float((here.advantage * torch.tensor(lengths)).sum()) / (4 * 3 * LIMIT)
    assert float(here.losses().mean()) == pytest.approx(expected, abs=1e-7)
    here.parameters.theta.mul_(1.5)
    assert float(here.losses().mean()) == pytest.approx(expected, abs=1e-7)
    assert float(here.gradient().norm()) > 1e-3


def test_20_a_step_reports_what_does_say_something(trainer):
    row = trainer().train_step(0)
    assert 0 < row["reward"] < 1
    assert row["grad_norm"] > 0
    assert row["entropy"] > 0
    assert row["exact_entropy"] > 0
