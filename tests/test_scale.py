"""docs/scale.py: what it says on paper about operations and memory is what a real step of the
trainer does. And what makes a pass smaller, rows that are split, changes no result."""
import copy
import importlib.util
import re
from dataclasses import dataclass, replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import sample
import train_bilevel as tb
from data.pairs import make_pairs
from data.rows import EDGES, ROOT, read_problems, read_rows
from kernels.packing import make_packs
from sample import Completion, stream

spec = importlib.util.spec_from_file_location("daj_scale", ROOT / "docs" / "scale.py")
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)

GROUP = 4
LONGEST = 40
RANK = 4


def flops_of_cpu_attention(q, k, v, *_, out_shape=None, **__):
    return sdpa_flop_count(q, k, v)


def flops_of_cpu_attention_back(gradient, q, k, v, *_, out_shape=None, **__):
    return sdpa_backward_flop_count(gradient, q, k, v)


CPU_ATTENTION = {  # FlopCounterMode knows the GPU's attention only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flops_of_cpu_attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: flops_of_cpu_attention_back,
}


def count_flops(action):
    """(what the action returns, its floating-point operations)"""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        result = action()
    return result, counter.get_total_flops()


@dataclass
class Measured:
    """A real judge and its judgments of two training and two meta pairs, and the same on paper."""
    judge: tb.Judge
    parameters: tb.FlatParameters
    train: list          # [Group]
    meta: list
    rollout_flops: int
    model: scale.Model
    step: scale.Step

    def batch(self, groups, pair_by_pair=False):
        advantage = torch.randn(2, GROUP, generator=torch.Generator().manual_seed(0))
        return tb.make_batch(self.judge, groups, advantage, pair_by_pair)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Random bf16 weights under fp32 adapters."""
    folder = tmp_path_factory.mktemp("bf16")
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cfg = tb.Settings(
        problems=[str(EDGES / "problems_strong.jsonl")], labelled=str(EDGES / "labelled.jsonl"), judge=str(folder),
        device="cpu", dtype="bfloat16", lora_rank=RANK, max_new_tokens=LONGEST, group=GROUP)
    judge = tb.Judge(cfg.judge, cfg)
    pairs = make_pairs(read_problems(cfg.problems), read_rows(cfg.labelled), "meta", cfg)[:4]

    streams = [stream(0, k) for k in range(4)]
    groups, rollout_flops = count_flops(lambda: judge.rollout(pairs, streams, GROUP))
    prompts = [len(group.prompt) for group in groups]
    answers = [len(completion.ids) for group in groups for completion in group.completions]
    model = scale.Model("tiny", 6, 64, 4, 2, 16, 176, len(tokenizer))
    step = scale.Step(2, 2, GROUP, sum(prompts) / 4, sum(answers) / len(answers), LONGEST, RANK)
    parameters = tb.FlatParameters(judge.model)
    return Measured(judge, parameters, groups[:2], groups[2:], rollout_flops, model, step)


@pytest.fixture(scope="module")
def checkpointed(measured):
    """The same with --checkpoint-gradients."""
    cfg = replace(measured.judge.cfg, checkpoint_gradients=True)
    judge = tb.Judge(cfg.judge, cfg)
    step = replace(measured.step, checkpoint_gradients=True)
    return replace(measured, judge=judge, parameters=tb.FlatParameters(judge.model), step=step)


@pytest.fixture(scope="module")
def split(measured):
    """The same with rows of two judgments each."""
    judge = copy.copy(measured.judge)
    judge.cfg = replace(judge.cfg, micro_tokens=150)
    step = replace(measured.step, micro_tokens=150)
    assert step.rows() == 2
    return replace(measured, judge=judge, step=step)


@pytest.mark.parametrize("how", ["measured", "checkpointed", "split"])
def test_operations_of_each_part_are_those_that_a_step_is_counted_at(how, request):
    found = request.getfixturevalue(how)
    judge = found.judge
    parameters = found.parameters
    inner = found.batch(found.train, pair_by_pair=True)
    meta = found.batch(found.meta)
    logprob, scoring = count_flops(lambda: tb.logprob_of_judgments(judge, found.meta, meta))
    (_, gradients), inner_flops = count_flops(lambda: tb.pair_gradients(judge, parameters, inner, torch.ones(2)))
    (v, _), meta_flops = count_flops(lambda: tb.meta_gradient(judge, parameters, meta, logprob))
    _, product = count_flops(lambda: gradients @ v[:, None])
    counted = {"rollout": found.rollout_flops + scoring, "gradient": inner_flops, "outer": meta_flops + product}
    assert scoring > 0
    assert scale.work(found.model, found.step) == pytest.approx(counted, rel=0.08)


def kept_for_the_way_back(measured):
    """(tensors that autograd keeps of a forward pass over two rows, weights aside; the pass's Pack)"""
    model = measured.judge.model
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}  # by address; kept alive, so that none is used again

    def keep(tensor):
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    batch = measured.batch(measured.train)
    (only,) = batch.packs
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tb.pair_losses(measured.judge, only, batch)
    assert len(only.ids) == 2
    return list(kept.values()), only


def test_what_a_token_keeps_for_the_backward_pass_is_what_autograd_keeps(measured):
    kept, pack = kept_for_the_way_back(measured)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept)
    width = pack.ids.shape[1]
    step = replace(measured.step, prompt=width - GROUP, answer=1, micro_tokens=2 * width)
    mask_itself = pack.mask.nbytes
    assert scale.kept_by_a_pass(measured.model, step) - mask_itself == pytest.approx(found, rel=0.08)


def test_a_checkpointed_layer_keeps_its_input_alone(checkpointed):
    kept, pack = kept_for_the_way_back(checkpointed)
    model = checkpointed.model
    of_layers = [tensor for tensor in kept if tensor.dtype == torch.bfloat16]
    found = sum(tensor.untyped_storage().nbytes() for tensor in of_layers)
    head = len(pack.target) * model.bytes * model.hidden
    assert found - head == pack.ids.numel() * model.layers * model.input_of_layer


def test_adapters_and_cache_are_counted_as_the_trainer_makes_them(measured):
    judge = measured.judge
    model = measured.model
    sizes = [p.numel() for p in judge.model.parameters()]
    adapters = len(measured.parameters.theta)
    assert model.per_rank * RANK == adapters
    assert model.linear + 2 * model.head == pytest.approx(sum(sizes) - adapters, rel=0.01)  # without norms
    ids = torch.ones(1, 10, dtype=torch.long)
    cache = judge.model.base_model(input_ids=ids, use_cache=True).past_key_values
    assert 10 * model.cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_reading_prompts_counts_where_it_takes_more_than_writing_answers():
    assert scale.READ_AT_ONCE == sample.READ_AT_ONCE
    model = scale.MODELS[0]
    short = scale.Step(batch=8, meta_batch=0, group=1, prompt=4000, longest=1)
    mlp = 8 * 4000 * 3 * 18944 * 2
    cache_of_prompts = 8 * 4000 * model.cache
    assert scale.memory(model, short)["rollout"] == mlp + cache_of_prompts
    many = replace(short, batch=40)
    assert scale.memory(model, many)["rollout"] == 65536 * 3 * 18944 * 2 + 5 * cache_of_prompts


def test_the_tables_name_the_models_by_their_published_sizes():
    billions = [(model.linear + 2 * model.head) / 1e9 for model in scale.MODELS]
    assert billions == pytest.approx([7.62, 32.8], rel=0.005)


def test_the_numbers_in_the_recipe_are_those_that_the_script_prints(capsys):
    scale.main([])
    printed = capsys.readouterr().out.splitlines()
    recipe = (ROOT / "docs" / "RECIPE.md").read_text(encoding="utf-8")
    block = re.search(r"```\nStep\(.*?```", recipe, re.S)[0]
    assert block.splitlines()[1:-1] == printed


# ---------------------------------------------------------------- rows that are split

PROMPTS = [[5, 6, 7, 8], [9, 10]]
ANSWERS = [
    [20, 21, 22, 23, 24, 1], [20, 21, 30, 31, 1], [40, 1], [20, 21, 22, 50, 51, 52, 53, 54, 55, 1],
    [60, 61, 1], [62, 63, 64, 65, 66, 67, 68, 69, 1], [60, 61, 70, 1], [1],
]
FORCED = [[], [1, 2], [], [4], [], [], [0], []]


def packed(most_tokens, **how):
    return make_packs(PROMPTS, ANSWERS, 0, most_tokens, "cpu", forced=FORCED, **how)


def log_probs(judge, packs):
    """{answer: log π of its scored tokens}"""
    found = {}
    for pack in packs:
        logp = judge.score(pack).detach()
        for k in pack.sample.unique().tolist():
            assert k not in found  # an answer is whole
            found[k] = logp[pack.sample == k]
    return found


@pytest.fixture
def small_judge(settings, random_judge):
    cfg = settings(judge=str(random_judge), group=4)
    return tb.Judge(cfg.judge, cfg)


@pytest.mark.parametrize("prompts, answers", [([[1], [2], [3]], [[4]] * 4), ([[1], []], [[4]] * 2)])
def test_answers_that_do_not_go_round_are_refused(prompts, answers):
    with pytest.raises(ValueError, match="answers to"):
        make_packs(prompts, answers, 0, 100, "cpu")


@pytest.mark.parametrize("limit", [1, 8, 12, 16, 10000])
def test_rows_that_are_split_have_the_same_log_probs(small_judge, limit):
    whole = log_probs(small_judge, packed(10000))
    found = log_probs(small_judge, packed(limit))
    assert sorted(found) == list(range(8))
    for k, logp in found.items():
        assert torch.allclose(logp, whole[k], atol=1e-6)


@pytest.mark.parametrize("limit", [1, 8, 12, 16])
def test_a_pack_is_no_larger_than_its_limit_unless_it_holds_a_single_answer(limit):
    packs = packed(limit)
    for pack in packs:
        assert pack.ids.numel() <= limit or len(pack.sample.unique()) == 1
    assert len(packs) > len(packed(10000))


def test_a_row_that_fits_is_not_split_and_no_row_is_split_more_than_it_must():
    widths = [pack.ids.shape[1] for pack in packed(10000, one_row=True)]
    assert [pack.ids.shape[1] for pack in packed(max(widths), one_row=True)] == widths
    # of the first prompt (4 tokens, answers that need 5, 2, 1 and 6 more columns) three answers fit
    assert len(packed(max(widths) - 1, one_row=True)) == 3


def test_a_pair_in_several_packs_has_the_same_gradient(small_judge):
    completions = [Completion(ids, 0.0, True, forced=forced) for ids, forced in zip(ANSWERS, FORCED)]
    groups = []
    for i, prompt in enumerate(PROMPTS):
        own = completions[4 * i:4 * i + 4]
        groups.append(tb.Group(None, prompt, own, [""] * 4, [None] * 4, [0.0] * 4))
    advantage = torch.tensor([[1.0, -0.5, 2.0, -1.0], [0.5, 0.0, -1.0, 3.0]])
    parameters = tb.FlatParameters(small_judge.model)
    a = torch.tensor([0.5, 2.0])
    results = []
    for limit in (10000, 12, 1):
        small_judge.cfg = replace(small_judge.cfg, micro_tokens=limit)
        batch = tb.make_batch(small_judge, groups, advantage, pair_by_pair=True)
        for pack in batch.packs:
            assert len((pack.sample // 4).unique()) == 1
        loss, gradients = tb.pair_gradients(small_judge, parameters, batch, a)
        results.append((len(batch.packs), loss, gradients, parameters.grad.clone()))
    _, loss, gradients, g = results[0]
    assert [n_packs for n_packs, _, _, _ in results] == [2, 3, 7]
    for _, found_loss, found, found_g in results[1:]:
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(found, gradients, atol=1e-5 * float(gradients.norm()))
        assert torch.allclose(found_g, g, atol=1e-5 * float(g.norm()))


# ---------------------------------------------------------------- flags that save memory

@pytest.mark.parametrize("flags", [
    {"checkpoint_gradients": True}, {"rollout_rows": 5}, {"micro_tokens": 80},
], ids=str)
def test_a_flag_that_saves_memory_changes_no_step(trainer, flags):
    plain = trainer(weights="instance")
    saving = trainer(weights="instance", **flags)
    expected = plain.train_step(0)
    found = saving.train_step(0)
    assert found["reward"] == expected["reward"]
    assert found["tokens"] == expected["tokens"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    norm = float(plain.adam.raw_grad.norm())
    assert norm > 0
    assert torch.allclose(saving.adam.raw_grad, plain.adam.raw_grad, atol=1e-5 * norm)
    assert found["meta_grad_norm"] == pytest.approx(expected["meta_grad_norm"], rel=1e-3)
