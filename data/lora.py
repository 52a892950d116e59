"""Low-rank adapters (LoRA, 2106.09685), which hand out the gradient of each row of a batch.

Also here, because it is about a model's layers: gradient checkpointing.
"""
import contextlib
import math
from functools import partial

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from data.rows import UserError


class LoRALinear(nn.Module):
    """y = W₀ x + (α/r) B A x with W₀ frozen (LoRA, 2106.09685, whose letters these are).

    A: [r, in], gaussian of deviation 1/√r; B: [out, r], zero; both fp32.
    """

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        device = linear.weight.device
        a = torch.randn(rank, linear.in_features, generator=generator) / math.sqrt(rank)
        self.a = nn.Parameter(a.to(device))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))
        self.records_rows = False
        self.row_gradients = None  # of the last backward pass

    def forward(self, x):
        y = self.linear(x)
        x = x.to(self.a.dtype)
        low = x @ self.a.T                       # [rows, columns, r]
        adapted = self.scale * (low @ self.b.T)  # [rows, columns, out]
        if self.records_rows and adapted.requires_grad:
            adapted.register_hook(partial(self.record_rows, x.detach(), low.detach()))
        return y + adapted.to(y.dtype)

    def record_rows(self, x, low, d_adapted):
        """∂ℓ/∂A and ∂ℓ/∂B of each row of a batch, as one vector a row.

        They are left in self.row_gradients: [rows, r·in + out·r].
        x: [rows, columns, in], low = A x: [rows, columns, r],
        d_adapted = ∂ℓ/∂(what it adds): [rows, columns, out].
        """
        if x.dim() != 3:
            return  # tokens without their rows
        d = self.scale * d_adapted
        d_low = d @ self.b                       # [rows, columns, r]
        d_a = d_low.transpose(1, 2) @ x          # [rows, r, in]
        d_b = d.transpose(1, 2) @ low            # [rows, out, r]
        self.row_gradients = torch.cat([d_a.flatten(1), d_b.flatten(1)], 1)

    @torch.no_grad()
    def merge(self):
        """Add (α/r) B A to W₀, and round once, to its type.

        Returns ‖(α/r) B A‖² and the square of what rounding has changed.
        """
        weight = self.linear.weight
        added = self.scale * self.b @ self.a
        if isinstance(weight, DTensor):  # with --shard-base: this process's rows of it
            added = distribute_tensor(added, weight.device_mesh, weight.placements,
                                      src_data_rank=None)
        exact = weight.float() + added
        weight.copy_(exact)
        return squared_norm(added), squared_norm(weight.float() - exact)


def squared_norm(x):
    norm = x.norm()
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return float(norm) ** 2


def add_lora(model, rank, alpha, seed):
    """Put an adapter on every nn.Linear below the head; everything else is frozen.

    Returns a note on what has one and what has none.

    Raises UserError for a model without such layers.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    n_adapters = 0
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            # Not a subclass, which may return more than a product: some routers do.
            if type(child) is nn.Linear:
                setattr(parent, name, LoRALinear(child, rank, alpha, generator))
                n_adapters += 1
    if not n_adapters:
        raise UserError(f"--lora-rank {rank}: {type(model).__name__} has no nn.Linear layers to "
                        "adapt; train all of its parameters (--lora-rank 0), or take another judge")
    refuse_bypassed_adapters(model, rank)
    note = f"adapters on {n_adapters} linear layers"
    left_out = without_adapter(model)
    if left_out:
        note += f"; none on {', '.join(left_out)}"
    return note


@torch.no_grad()
def refuse_bypassed_adapters(model, rank):
    """Raise UserError if a layer takes the weight of another's linear layer, past the adapter."""
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    try:
        model.base_model(input_ids=ids, use_cache=False)
    except AttributeError as error:
        raise UserError(f"--lora-rank {rank}: a layer of {type(model).__name__} reads the weight "
                        f"of a linear layer itself ({error}), past an adapter: train all of its "
                        "parameters (--lora-rank 0), or take another judge") from None


def without_adapter(model):
    """Names of the other weights that multiply: a mixture's experts, its router, convolutions."""
    embeddings = set()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        embeddings |= {id(p) for p in module.parameters()}
    names = set()
    for name, p in model.base_model.named_parameters():
        frozen = not p.requires_grad and ".linear." not in name
        if p.dim() > 1 and frozen and id(p) not in embeddings:
            parts = [part for part in name.split(".") if not part.isdigit()]  # all layers as one
            names.add(".".join(parts))
    return sorted(names)


def adapters_of(model):
    """In the order in which model.parameters() has theirs."""
    return [module for module in model.modules() if isinstance(module, LoRALinear)]


@contextlib.contextmanager
def recording_rows(model, wanted=True):
    """In here a backward pass leaves in each adapter the gradient of every row of the batch.

    They are gone at its end. wanted: False records nothing.
    """
    adapters = adapters_of(model)
    for adapter in adapters:
        adapter.records_rows = wanted
    try:
        yield
    finally:
        for adapter in adapters:
            adapter.records_rows = False
            adapter.row_gradients = None


def add_gradients_of_rows(model, pair_of_row, gradients):
    """gradients[pair of row r] += the gradient of row r of the last backward pass, for R rows.

    Within `recording_rows`.

    Their sum is what autograd gives: a linear layer's gradient is a sum over rows, so that a row's
    own costs one more product and no further pass. pair_of_row: [R]; gradients: [B, P], whose
    columns are in the order of model.parameters().
    """
    n_pairs = len(gradients)
    # [B, R], 1 where the row is of the pair. A product, as index_add_ adds in any order on a GPU.
    belongs = nn.functional.one_hot(pair_of_row, n_pairs).T.to(gradients.dtype)
    start = 0
    for adapter in adapters_of(model):
        end = start + adapter.row_gradients.shape[1]
        gradients[:, start:end] += belongs @ adapter.row_gradients
        start = end


@torch.enable_grad()
def can_split_by_row(model, device):
    """Do the adapters see the rows of a batch, so that they can tell their gradients apart?

    Not where a layer sees tokens without their rows, as a router of experts does. So it is tried
    on two rows: the gradient of each must be what it is when the other one has no loss.
    """
    generator = torch.Generator().manual_seed(0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    adapters = adapters_of(model)
    ids = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]], device=device)

    def gradient_of(loss):  # [P]
        of_each = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in of_each])

    def outputs():  # [2] a number for each row; not the sum, which is constant behind a LayerNorm
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # [2, 5, H]
        direction = torch.randn(hidden.shape[-1], generator=torch.Generator().manual_seed(1))
        return hidden[:, -1].float() @ direction.to(device)

    for adapter in adapters:
        # With 0, the gradient of A would be 0.
        b = 1e-3 * torch.randn(adapter.b.shape, generator=generator)
        adapter.b.data.copy_(b)
    recorded = torch.zeros(2, sum(p.numel() for p in parameters), device=device)  # [2, P]
    with recording_rows(model):
        gradient_of(outputs().sum())
        rows = [adapter.row_gradients for adapter in adapters]
        apart = all(gradient is not None and len(gradient) == 2 for gradient in rows)
        if apart:
            add_gradients_of_rows(model, torch.arange(2, device=device), recorded)
    for row in range(2):
        exact = gradient_of(outputs()[row])
        difference = (recorded[row] - exact).norm()
        apart = apart and bool(0 < exact.norm()) and bool(difference <= 0.01 * exact.norm())
    for adapter in adapters:
        nn.init.zeros_(adapter.b)
    return apart


def merge_lora(model):
    """Make the adapters part of the weights.

    Returns what rounding has changed, as a share (of norms) of what the adapters add. In fp32 that
    is next to nothing; bf16 moves in steps of 1/256 of a weight, and a change may be smaller.
    """
    added = 0.0
    rounded = 0.0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                of_layer, by_rounding = child.merge()
                added += of_layer
                rounded += by_rounding
                setattr(parent, name, child.linear)
    return math.sqrt(rounded / added) if added else 0.0


# ---------------------------------------------------------------- gradient checkpointing

def checkpoint_layers(model):
    """Keep only the input of each layer for the backward pass, which computes the layer once more.

    The gradient is the same. Memory falls by about the number of layers, and a forward pass is
    added to each backward pass (Chen et al., 1604.06174).
    Raises UserError for a model that the library cannot do this with.
    """
    layers = layers_of(model)
    if not layers or not model.supports_gradient_checkpointing:
        raise UserError(f"--checkpoint-gradients: {type(model).__name__} has no layers that can be "
                        "computed twice; leave the flag out, or take another judge")
    for layer in layers:
        layer.forward = computed_twice(layer.forward)


def layers_of(model):
    """The modules that the library itself computes as a whole: its decoder layers."""
    modules = model.base_model.modules()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer)]


def computed_twice(forward):
    """A layer's forward pass, checkpointed where there will be a backward pass."""
    def twice(*inputs, **named):
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        # Not reentrant, so under frozen weights it works for inputs that need no gradient, too.
        # There is no dropout, so no random numbers to draw again.
        return checkpoint(
            forward, *inputs, **named, use_reentrant=False, preserve_rng_state=False
        )
    return twice
