"""The outer signal on the models that users bring: adapters on Llama, Qwen3, Gemma and a mixture of experts.

s_i = ⟨∇ℓ_i(θ), ṽ⟩ in fp32 and in bf16 against float64, with the same weights, judgments and ṽ. And the
importance of meta judgments, whose two log-probs must come from one scorer.
"""
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen3Config,
)

import train_bilevel as tb
from data.lora import add_lora, can_split_by_row
from data.rows import EDGES
from sample import Completion

SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.15,
             bos_token_id=None, eos_token_id=1, pad_token_id=0)
CONFIGS = {
    "Llama": lambda V: LlamaConfig(vocab_size=V, **SHAPE),
    "Qwen3": lambda V: Qwen3Config(vocab_size=V, head_dim=16, **SHAPE),
    "Gemma": lambda V: GemmaConfig(vocab_size=V, head_dim=16, **SHAPE),
    "Mixtral": lambda V: MixtralConfig(vocab_size=V, num_local_experts=4, num_experts_per_tok=2, **SHAPE),
}
N_PAIRS = 12
GROUP = 6


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request, tmp_path_factory):
    """A folder with a model of random weights, large enough that attention and routing matter."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param](len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_groups(n_pairs, seed, vocabulary=500):
    """Judgments of random tokens with random rewards."""
    g = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(2, vocabulary, (n,), generator=g).tolist()

    groups = []
    for i in range(n_pairs):
        lengths = torch.randint(10, 40, (GROUP,), generator=g).tolist()
        completions = [Completion(ids(n), 0.0, True) for n in lengths]
        rewards = torch.rand(GROUP, generator=g).round().tolist()
        groups.append(tb.Group(None, ids(30 + 5 * (i % 3)), completions, [""] * GROUP, [None] * GROUP, rewards))
    return groups


def judge_in(dtype, folder):
    """The checkpoint rounded to bf16, computed in `dtype`, with adapters that say something."""
    cfg = tb.Settings(judge=str(folder), lora_rank=4, group=GROUP, max_new_tokens=64, device="cpu")
    judge = tb.Judge(cfg.judge, cfg)
    judge.model.config._experts_implementation = "eager"  # the grouped product has no float64
    g = torch.Generator().manual_seed(1)
    for name, p in judge.model.named_parameters():
        if name.endswith(".b"):
            p.data = 0.005 * torch.randn(p.shape, generator=g)
        if not p.requires_grad:
            p.data = p.data.to(torch.bfloat16).to(dtype)
        elif dtype == torch.float64:
            p.data = p.data.double()
    return judge


def slopes(judge, v_tilde):
    """s [B], and which pairs are informed [B]."""
    groups = random_groups(N_PAIRS, seed=3)
    advantage = tb.group_advantage(tb.rewards_of(groups))
    parameters = tb.FlatParameters(judge.model)
    batch = tb.make_batch(judge, groups, advantage, pair_by_pair=True)
    _, gradients = tb.pair_gradients(judge, parameters, batch, torch.ones(N_PAIRS))
    return (gradients @ v_tilde.to(gradients)).double(), (advantage != 0).any(1)


class Routing:
    """Which experts a judge's tokens went to, pass by pass, so that another judge can send them the same way.

    Which expert a token goes to is decided in the judge's own precision: where two are nearly equal, bf16 decides
    otherwise than float64. That is no error of s, which is the slope for the routing that there was.
    """

    def __init__(self):
        self.chosen = []

    def record(self, judge):
        for router in self.routers(judge):
            router.register_forward_hook(lambda module, _, output: self.chosen.append(output[2]))

    def replay(self, judge):
        passes = iter(self.chosen)

        def send(module, _, output):
            logits, chosen = output[0], next(passes)
            weights = logits.softmax(-1).gather(-1, chosen)
            return logits, weights / weights.sum(-1, keepdim=True), chosen

        for router in self.routers(judge):
            router.register_forward_hook(send)

    def routers(self, judge):
        return [module for module in judge.model.modules() if type(module).__name__.endswith("TopKRouter")]


def a_direction(judge):
    """A ṽ that the pairs have something to say about: the meta gradient of other judgments, in float64."""
    groups = random_groups(8, seed=4)
    parameters = tb.FlatParameters(judge.model)
    batch = tb.make_batch(judge, groups, tb.leave_one_out(tb.rewards_of(groups)))
    no_change = scored_logprobs(judge, batch)
    v, _ = tb.meta_gradient(judge, parameters, batch, no_change)
    return v


@torch.no_grad()
def scored_logprobs(judge, batch):
    total = torch.zeros(len(batch.advantage), dtype=torch.float64)
    for pack in batch.packs:
        total.index_add_(0, pack.sample, judge.score(pack).double())
    return total


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"])
def test_s_is_that_of_float64(checkpoint, dtype, most):
    exact_judge = judge_in(torch.float64, checkpoint)
    judge = judge_in(dtype, checkpoint)
    v_tilde = a_direction(exact_judge)
    routing = Routing()
    routing.record(judge)
    found, _ = slopes(judge, v_tilde)
    routing.replay(exact_judge)
    exact, informed = slopes(exact_judge, v_tilde)
    error = (found - exact)[informed].norm() / exact[informed].norm()
    print(f"{checkpoint.name}, {dtype}: relative error {error:.1e}")
    assert int(informed.sum()) >= 10
    assert error <= most
    # A pair about which the meta set says next to nothing may fall on either side of 0.
    clear = informed & (exact.abs() > 0.1 * exact[informed].square().mean().sqrt())
    assert int(clear.sum()) >= 8
    assert torch.equal(found[clear].sign(), exact[clear].sign())


def gradients_of(judge, groups, gradients_by_row, **settings):
    """∇ℓ_i(θ) [B, P], the packs, and g [P]."""
    judge.cfg = replace(judge.cfg, **settings)
    advantage = tb.group_advantage(tb.rewards_of(groups))
    parameters = tb.FlatParameters(judge.model)
    batch = tb.make_batch(judge, groups, advantage, pair_by_pair=not gradients_by_row)
    _, gradients = tb.pair_gradients(judge, parameters, batch, torch.ones(len(groups)))
    return gradients, batch.packs, parameters.grad.clone()


@pytest.mark.parametrize("micro_tokens", [16384, 150])  # 150: several rows a pair
def test_the_gradients_of_rows_are_those_of_pairs_one_by_one(checkpoint, micro_tokens):
    judge = judge_in(torch.float32, checkpoint)
    groups = random_groups(6, seed=3)
    exact, one_by_one, exact_g = gradients_of(judge, groups, False, micro_tokens=micro_tokens)
    found, together, g = gradients_of(judge, groups, True, micro_tokens=micro_tokens)
    assert len(together) < len(one_by_one)
    assert (found - exact).norm() < 1e-5 * exact.norm()
    assert (g - exact_g).norm() < 1e-5 * exact_g.norm()


def test_adapters_that_see_rows_are_known(checkpoint):
    assert judge_in(torch.float32, checkpoint).gradients_by_row


def test_a_layer_that_mixes_rows_is_found(checkpoint):
    """Its tokens come as one long row, as those of a router of experts do."""
    judge = judge_in(torch.float32, checkpoint)
    layer = judge.model.model.layers[0].self_attn.o_proj
    forward = layer.forward
    layer.forward = lambda x: forward(x.flatten(0, 1)[None]).view(*x.shape[:2], -1)
    assert not can_split_by_row(judge.model, "cpu")


def test_rows_are_looked_for_behind_a_layer_norm_too():
    """The sum of its outputs is a constant, whatever the adapters do."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                           num_attention_heads=4, max_position_embeddings=64)
    model = AutoModelForCausalLM.from_config(config)
    add_lora(model, 2, 4.0, seed=0)
    assert can_split_by_row(model, "cpu")
    layer = model.base_model.layers[0].attention.dense
    forward = layer.forward
    layer.forward = lambda x: forward(x.flatten(0, 1)[None]).view(*x.shape[:2], -1)
    assert not can_split_by_row(model, "cpu")


def test_looking_for_rows_leaves_the_adapters_as_they_are(checkpoint):
    judge = judge_in(torch.float32, checkpoint)
    fresh = tb.Judge(judge.cfg.judge, judge.cfg)
    assert all(p.grad is None for p in fresh.model.parameters())
    assert all(not p.any() for name, p in fresh.model.named_parameters() if name.endswith(".b"))


def test_a_judge_that_has_not_moved_counts_every_meta_judgment_once(checkpoint):
    """In bf16 the sampler rounds otherwise than the scorer; its sums are far off, and must not be used."""
    judge = judge_in(torch.bfloat16, checkpoint)
    groups = random_groups(8, seed=4)
    for group in groups:
        for completion in group.completions:
            completion.logprob_sampled = -1000.0
    parameters = tb.FlatParameters(judge.model)
    batch = tb.make_batch(judge, groups, tb.leave_one_out(tb.rewards_of(groups)))
    logprob = tb.logprob_of_judgments(judge, groups, batch)
    _, importance = tb.meta_gradient(judge, parameters, batch, logprob)
    assert torch.allclose(importance[batch.advantage != 0], torch.ones((), dtype=torch.float64), atol=1e-6)
    assert tb.effective_share(importance, batch) == pytest.approx(1.0)


def test_a_run_says_when_its_weights_learn_nothing(settings, capsys, monkeypatch):
    """A step so large that θ' judges nothing as θ does."""
    monkeypatch.setattr(tb, "reward", lambda pair, text: float(len(text) % 2))
    run = tb.Run(settings(lr=1.0, weights="instance", group=6, steps=1, adam_eps=1e-3))
    row = run.trainer.train_step(0)
    assert row["meta_effective_share"] < tb.MIN_EFFECTIVE_SHARE
    assert "step 1: the weights learn nothing" in capsys.readouterr().out
    assert run.trainer.data_weights.w().std() == 0


def test_a_layer_that_sees_the_rows_in_another_order_is_found(checkpoint):
    judge = judge_in(torch.float32, checkpoint)
    layer = judge.model.model.layers[0].self_attn.o_proj
    forward = layer.forward
    layer.forward = lambda x: forward(x.flip(0)).flip(0)
    assert not can_split_by_row(judge.model, "cpu")
