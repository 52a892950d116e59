"""--shard-base by architecture: a judge whose layers are shared out between two processes says and
learns what it does whole, and each process holds half of its layers.

The first test starts this file under torchrun, once for all architectures. (That a whole run with
the flag ends like one of a single process is promised in test_train_bilevel.py.)
"""
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from conftest import torchrun  # under torchrun, too, this makes the stages importable

import train_bilevel as tb
from data.lora import adapters_of, checkpoint_layers, layers_of, merge_lora
from data.parallel import RANK, gather, here, join_processes, part_processes
from data.rows import EDGES, UserError
from data.shards import SHARDED, equal_passes, shard_layers
from sample import generate

OTHERWISE = {  # what these need to be small
    "gemma3_text": {"layer_types": ["full_attention"] * 2},
    "mixtral": {"num_local_experts": 4, "intermediate_size": 48},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
}


def small_judge(kind, folder):
    """Two layers of random weights, of which not all can be halved, and a tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(EDGES / "judge")
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=49, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
        initializer_range=0.2, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id)
    config = CONFIG_MAPPING[kind](**{**sizes, **OTHERWISE.get(kind, {})})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------- in each of the two processes

def compare(folder):
    """What the judge in a folder does in shards, beside what it does whole: {name: found here}."""
    cfg = tb.Settings(
        judge=str(folder), lora_rank=4, max_new_tokens=12, group=2, rollout_rows=2,
        micro_tokens=60, dtype="float32", device="cpu")
    whole = adapted(cfg)
    shards = adapted(replace(cfg, shard_base=True))

    passes = []
    counting = whole.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    # Three prompts in one process and two in the other, of whose rows two fit into a pack.
    prompts = here([[5, 6, 7, 8], [9, 10], [6, 6, 5, 11, 12, 7, 8], [5, 5, 8], [7, 9, 6, 6, 5]])
    completions = sampled(whole, prompts)
    counting.remove()
    groups = []
    for k, prompt in enumerate(prompts):
        groups.append(tb.Group(None, prompt, completions[2 * k:2 * k + 2], [], [], []))
    expected = learned(whole, groups)
    found = {
        "passes": len(passes),
        "packs": len(batch_of(whole, groups).packs),
        "rows come apart": [whole.gradients_by_row, shards.gradients_by_row],
        "same samples": ids_of(sampled(shards, prompts)) == ids_of(completions),
        "shards apart": apart(learned(shards, groups), expected),
        "held": sum(p.to_local().numel() for p in frozen_of_layers(shards)),
        "in all": sum(p.numel() for p in frozen_of_layers(whole)),
    }
    found["frozen gradients"] = sum(p.grad is not None for p in frozen_of_layers(shards))
    checkpoint_layers(shards.model)
    shards.gradients_by_row = False  # as Judge has it then
    found["checkpointed apart"] = apart(learned(shards, groups), expected)
    found["saved apart"] = saved_apart(shards, whole, folder / "saved")
    return found


def adapted(cfg):
    """The judge with adapters that are not 0."""
    judge = tb.Judge(cfg.judge, cfg)
    generator = torch.Generator().manual_seed(1)
    for adapter in adapters_of(judge.model):
        adapter.b.data.copy_(0.1 * torch.randn(adapter.b.shape, generator=generator))
    return judge


def sampled(judge, prompts):
    """Two samples of each prompt: one prompt after the other, as --rollout-rows is 2."""
    generator = torch.Generator().manual_seed(RANK)
    uniforms = torch.rand(2 * len(prompts), 12, generator=generator)
    with equal_passes(judge):
        return generate(judge.model, prompts, uniforms, 1.0, judge.ends, judge.pad, 2)


def ids_of(completions):
    return [completion.ids for completion in completions]


def batch_of(judge, groups):
    advantage = torch.tensor([[1.0, -1.0]] * len(groups))
    return tb.make_batch(judge, groups, advantage, pair_by_pair=not judge.gradients_by_row)


def learned(judge, groups):
    """The gradient of each pair, the log-probs of its judgments and the gradient of the meta loss."""
    parameters = tb.FlatParameters(judge.model)
    batch = batch_of(judge, groups)
    _, gradients = tb.pair_gradients(judge, parameters, batch, torch.ones(batch.n_all))
    logprob = tb.scored_logprob(judge, batch)
    v, _ = tb.meta_gradient(judge, parameters, batch, logprob - 0.1)
    return gradients, logprob, v


def apart(found, expected):
    """The largest relative difference of these tensors."""
    return max(float((x - y).norm() / y.norm()) for x, y in zip(found, expected))


def frozen_of_layers(judge):
    parameters = []
    for layer in layers_of(judge.model):
        parameters += [p for p in layer.parameters() if not p.requires_grad]
    return parameters


def saved_apart(shards, whole, folder):
    """How far the weights in the checkpoint that the shards are saved as are from the merged ones."""
    tb.Run.save_judge(SimpleNamespace(trainer=SimpleNamespace(judge=shards), out=folder))
    merge_lora(whole.model)
    if RANK > 0:
        return 0.0
    saved = AutoModelForCausalLM.from_pretrained(folder / "judge")
    pairs = zip(saved.parameters(), whole.model.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def main(folder):
    join_processes("cpu")
    found = {}
    for kind in SHARDED:
        here = folder / kind
        found[kind] = gather([compare(here)])
    if RANK == 0:
        (folder / "found.json").write_text(json.dumps(found))
    part_processes()


# ---------------------------------------------------------------- the promises

@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{architecture: what each of the two processes has found}."""
    folder = tmp_path_factory.mktemp("shards")
    for kind in SHARDED:
        small_judge(kind, folder / kind)
    torchrun("tests/test_shards.py", str(folder), processes=2)
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("kind", SHARDED)
def test_shards_say_and_learn_what_the_whole_judge_does(found, kind):
    """To fp32's rounding, although the two processes have unequally many passes to make."""
    first, second = found[kind]
    assert first["passes"] != second["passes"]
    assert first["packs"] != second["packs"]
    for process in (first, second):
        assert len(set(process["rows come apart"])) == 1
        assert process["same samples"]
        assert process["shards apart"] < 1e-4
        assert process["frozen gradients"] == 0
        assert process["checkpointed apart"] < 1e-4


@pytest.mark.parametrize("kind", SHARDED)
def test_each_process_holds_its_share_of_the_layers(found, kind):
    """What cannot be halved is one row uneven."""
    first, second = found[kind]
    assert first["held"] + second["held"] == first["in all"]
    assert first["held"] == pytest.approx(first["in all"] / 2, rel=0.05)
    assert second["held"] == pytest.approx(first["in all"] / 2, rel=0.05)


@pytest.mark.parametrize("kind", SHARDED)
def test_a_sharded_judge_is_saved_whole_with_its_adapters_merged(found, kind):
    assert found[kind][0]["saved apart"] < 1e-6


def test_other_architectures_are_refused_in_one_line(tmp_path):
    small_judge("gpt2", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="--shard-base: it was not tested with .* \\(gpt2\\)") as stopped:
        shard_layers(model, "cpu")
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize("rank, processes", [(4, 1), (0, 2)])
def test_shards_go_with_adapters_and_several_processes(monkeypatch, rank, processes):
    monkeypatch.setattr(tb, "WORLD_SIZE", processes)
    with pytest.raises(UserError, match="--shard-base: .* --lora-rank and torchrun"):
        tb.Settings(shard_base=True, lora_rank=rank)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
