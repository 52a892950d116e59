"""docs/scale.py: what it says on paper about operations and memory is what a real step of the trainer does."""
import importlib.util
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import train_bilevel
from data.pairs import make_pairs
from data.rows import ROOT, TINY, read_problems, read_rows
from sample import stream

spec = importlib.util.spec_from_file_location("daj_scale", ROOT / "docs" / "scale.py")
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)

GROUP, LONGEST, RANK = 4, 40, 4
CPU_ATTENTION = {  # FlopCounterMode knows the GPU's attention only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward:
        lambda g, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(g, q, k, v)}


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """(judge, its rollouts of two training and two meta pairs, advantages, scale.py's Model and Step): random bf16 weights, fp32 adapters."""
    folder, tokenizer = tmp_path_factory.mktemp("bf16"), AutoTokenizer.from_pretrained(TINY / "judge")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=176, num_hidden_layers=6, num_attention_heads=4,
                         num_key_value_heads=2, tie_word_embeddings=False, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
                         pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    s = train_bilevel.Settings(problems=[str(TINY / "problems_strong.jsonl")], labelled=str(TINY / "labelled.jsonl"), judge=str(folder), device="cpu",
                               lora_rank=RANK, max_new_tokens=LONGEST, group=GROUP)
    judge = train_bilevel.Judge(s.judge, s)
    for parameter in judge.model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    pairs = make_pairs(read_problems(s.problems), read_rows(s.labelled), "meta", s)[:4]
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        rollouts = judge.rollout(pairs, GROUP, [stream(0, k) for k in range(4)])
    tokens = [len(c.ids) for c in rollouts.completions]
    model = scale.Model("tiny", 6, 64, 4, 2, 16, 176, len(tokenizer))
    paper = scale.Step(2, 2, GROUP, sum(map(len, rollouts.prompts)) / 4, sum(tokens) / len(tokens), LONGEST, RANK)
    return judge, rollouts, torch.randn(4, GROUP), model, paper, counter.get_total_flops()


def count(judge, batch, backward):
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        for part in train_bilevel.losses(judge, batch) if backward else [train_bilevel.total_losses(judge, batch)]:
            if backward:
                part.sum().backward()
    return counter.get_total_flops()


def test_operations_of_each_part_are_those_that_a_step_is_counted_at(step):
    judge, rollouts, advantage, model, paper, rollout = step
    train, meta = (train_bilevel.make_batch(judge, rollouts.pick(k), advantage[list(k)], judge.s) for k in (range(2), range(2, 4)))
    counted = {"rollout": rollout, "gradient": count(judge, train, True), "outer": count(judge, meta, True) + 2 * count(judge, train, False)}
    assert scale.work(model, paper) == pytest.approx(counted, rel=0.08)


def test_what_a_token_keeps_for_the_backward_pass_is_what_autograd_keeps(step):
    judge, rollouts, advantage, model, paper, _ = step
    batch = train_bilevel.make_batch(judge, rollouts.pick(range(2)), advantage[:2], judge.s)
    weights = {t.untyped_storage().data_ptr() for t in (*judge.model.parameters(), *judge.model.buffers())}
    kept, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # an address is not to be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for _ in train_bilevel.losses(judge, batch):
            pass
    rows, width = batch.packs[0].ids.shape
    assert len(batch.packs) == 1 and rows == 2
    said = rows * width * model.kept + rows * width ** 2 * model.layers * model.bytes
    assert said == pytest.approx(sum(kept.values()), rel=0.08)


def test_adapters_and_cache_are_counted_as_the_trainer_makes_them(step):
    judge, _, _, model, *_ = step
    adapters = sum(p.numel() for p in judge.model.parameters() if p.requires_grad)
    assert model.per_rank * RANK == adapters
    assert model.linear + 2 * model.head == pytest.approx(sum(p.numel() for p in judge.model.parameters()) - adapters, rel=0.01)  # norms are left out
    cache = judge.model.base_model(input_ids=torch.ones(1, 10, dtype=torch.long), use_cache=True).past_key_values
    assert 10 * model.cache == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def test_the_tables_name_the_models_by_their_published_sizes():
    billions = [(m.linear + 2 * m.head) / 1e9 for m in scale.MODELS]
    assert billions == pytest.approx([7.62, 32.8], rel=0.005)


def test_the_numbers_in_the_recipe_are_those_that_the_script_prints(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["scale.py"])
    scale.main()
    said = capsys.readouterr().out.splitlines()
    block = re.search(r"```\nStep\(.*?```", (ROOT / "docs" / "RECIPE.md").read_text(), re.S)[0]
    assert block.splitlines()[1:-1] == said
