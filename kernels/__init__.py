"""The fused per-sample weighted log-prob loss: Triton kernels, a torch twin, and their benchmark; and packed rows."""
from kernels.weighted_logprob import (
    IGNORE,
    Statistics,
    resolve_kernel,
    sum_by_sample,
    token_logprob,
    weighted_logprob_loss,
)

__all__ = ["IGNORE", "Statistics", "resolve_kernel", "sum_by_sample", "token_logprob", "weighted_logprob_loss"]
