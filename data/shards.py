"""A frozen base model in shards: each process holds its part of every layer (FSDP, 2304.11277).

With --shard-base a layer is gathered from all processes whenever one of them computes it. So all of
them compute equally often: who has less to do makes passes over nothing.
"""
import contextlib

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from data.lora import layers_of
from data.parallel import RANK, WORLD_SIZE, all_sum
from data.rows import UserError

# Architectures whose shards were compared with the whole model (tests/test_shards.py).
SHARDED = (
    "gemma3_text", "llama", "mistral", "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_moe",
    "stablelm",
)


def shard_layers(model, device):
    """The model on a device, with this process's 1/K of the rows of each weight in its layers.

    Embedding, head and last norm are whole everywhere: sampler and kernel ask for them by
    themselves. Adapters, added later, are whole as well.
    Raises UserError for an architecture with which this was not tested.
    """
    kind = model.config.model_type
    if kind not in SHARDED:
        raise UserError(f"--shard-base: it was not tested with this architecture ({kind}), only "
                        f"with {', '.join(SHARDED)}: leave it out, or take another judge")
    model.requires_grad_(False)
    mesh = init_device_mesh(torch.device(device).type, (WORLD_SIZE,))
    whole = set(model.parameters())
    for layer in layers_of(model):
        whole -= set(layer.parameters())
        fully_shard(layer, mesh=mesh)
    # Around the layers, with no weight of its own: it has a layer gathered while the one before
    # is computed.
    fully_shard(model.base_model, mesh=mesh, ignored_params=whole)
    return model.to(device)


def whole_weights(model):
    """{name: weight} of a model. Shards are gathered, one weight at a time, on the CPU of rank 0.

    For all processes to call.
    """
    weights = model.state_dict()
    for name, weight in weights.items():
        if isinstance(weight, DTensor):
            gathered = weight.full_tensor()
            weights[name] = gathered.cpu() if RANK == 0 else None
    return weights


@contextlib.contextmanager
def equal_passes(judge):
    """In here, all processes make the same number of passes without gradients.

    (Those with gradients are made equal by make_batch's empty packs.)

    With --shard-base a layer needs all processes whenever one of them computes it. So each says so
    to the others before a pass, and one that is done makes passes over nothing until no one else
    makes another. An error in one process ends it, and torchrun ends the others.
    """
    if not judge.cfg.shard_base:
        yield
        return
    backbone = judge.model.base_model

    def processes_in_pass(mine):
        return float(all_sum(torch.tensor(mine, device=judge.cfg.device)))

    def announce(*_):
        processes_in_pass(1.0)

    hook = backbone.register_forward_pre_hook(announce)
    yield
    hook.remove()
    nothing = torch.tensor([[judge.pad]], device=judge.cfg.device)
    while processes_in_pass(0.0):
        with torch.no_grad():
            backbone(input_ids=nothing, use_cache=False)
