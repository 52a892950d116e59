"""The fused per-sample weighted log-prob loss: Triton kernel, torch twin, benchmark (`python -m kernels.bench`)."""

from kernels.weighted_logprob import (
    IGNORE,
    resolve_kernel,
    sample_logprob,
    token_logprob,
    weighted_logprob_loss,
    workspace_bytes,
)

__all__ = ["IGNORE", "resolve_kernel", "sample_logprob", "token_logprob", "weighted_logprob_loss", "workspace_bytes"]
