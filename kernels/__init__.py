"""Log-probs without [T, V] logits: Triton kernels, a torch twin, their benchmark; packed rows."""
from kernels.weighted_logprob import (
    IGNORE,
    Statistics,
    resolve_kernel,
    sum_by_sample,
    token_logprob,
    weighted_logprob_loss,
)

__all__ = [
    "IGNORE",
    "Statistics",
    "resolve_kernel",
    "sum_by_sample",
    "token_logprob",
    "weighted_logprob_loss",
]
