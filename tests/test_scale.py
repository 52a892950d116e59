"""docs/scale.py: what it says on paper about operations and memory is what a real step of the
trainer does."""
import importlib.util
import re
from dataclasses import dataclass

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import train_bilevel as tb
from data.pairs import make_pairs
from data.rows import ROOT, TINY, read_problems, read_rows
from sample import stream

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
    tokenizer = AutoTokenizer.from_pretrained(TINY / "judge")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cfg = tb.Settings(
        problems=[str(TINY / "problems_strong.jsonl")], labelled=str(TINY / "labelled.jsonl"), judge=str(folder),
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


def test_operations_of_each_part_are_those_that_a_step_is_counted_at(measured):
    judge = measured.judge
    parameters = measured.parameters
    inner = measured.batch(measured.train, pair_by_pair=True)
    meta = measured.batch(measured.meta)
    logprob, scoring = count_flops(lambda: tb.logprob_of_judgments(judge, measured.meta, meta))
    (_, gradients), inner_flops = count_flops(lambda: tb.pair_gradients(judge, parameters, inner, torch.ones(2)))
    (v, _), meta_flops = count_flops(lambda: tb.meta_gradient(judge, parameters, meta, logprob))
    _, product = count_flops(lambda: gradients @ v[:, None])
    counted = {"rollout": measured.rollout_flops + scoring, "gradient": inner_flops, "outer": meta_flops + product}
    assert scoring > 0
    assert scale.work(measured.model, measured.step) == pytest.approx(counted, rel=0.08)


def test_what_a_token_keeps_for_the_backward_pass_is_what_autograd_keeps(measured):
    judge = measured.judge
    model = measured.model
    weights = {t.untyped_storage().data_ptr() for t in (*judge.model.parameters(), *judge.model.buffers())}
    kept = {}
    alive = []  # an address is not to be used again

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    batch = measured.batch(measured.train)
    (only,) = batch.packs
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        tb.pair_losses(judge, only, batch)
    rows, width = only.ids.shape
    assert rows == 2
    mask = rows * width ** 2 * model.layers * model.bytes
    assert rows * width * model.kept + mask == pytest.approx(sum(kept.values()), rel=0.08)


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


def test_the_tables_name_the_models_by_their_published_sizes():
    billions = [(model.linear + 2 * model.head) / 1e9 for model in scale.MODELS]
    assert billions == pytest.approx([7.62, 32.8], rel=0.005)


def test_the_numbers_in_the_recipe_are_those_that_the_script_prints(capsys):
    scale.main([])
    printed = capsys.readouterr().out.splitlines()
    recipe = (ROOT / "docs" / "RECIPE.md").read_text(encoding="utf-8")
    block = re.search(r"```\nStep\(.*?```", recipe, re.S)[0]
    assert block.splitlines()[1:-1] == printed
