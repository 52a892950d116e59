"""Several processes, under torchrun: who has which pairs.

Each process samples and scores a share of the pairs. Gradients are summed, everything by pair is
gathered. What is drawn and learned is then the same in all of them. In a single process `here`,
`gather` and `all_sum` do nothing.
"""
import os
import sys

import torch
from torch import distributed

# Which process this is, and how many there are.
RANK = int(os.environ.get("RANK", 0))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))


def join_processes(device):
    """Meet torchrun's other processes, if there are any. Returns this one's device."""
    if WORLD_SIZE > 1:
        cuda = device.startswith("cuda")
        if cuda:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if cuda else "gloo")
    return device


def part_processes():
    """Wait for the one that writes, then end together: who leaves early may be aborted.

    All is written by then. So the process ends at once, without Python's and C++'s last clean-up:
    in that a thread of PyTorch's that still runs has now and then aborted it.
    """
    if WORLD_SIZE > 1:
        distributed.barrier()
        distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def here(items):
    """This process's share of a list or tensor that is the same everywhere.

    With two processes, of five items: 0, 2, 4 on rank 0 and 1, 3 on rank 1.
    """
    return items[RANK::WORLD_SIZE]


def gather(items):
    """The shares of all processes back in the common order: undoes `here`.

    A list, or a tensor along its first dimension; from several processes it comes back on the CPU.
    """
    if WORLD_SIZE == 1:
        return items
    if torch.is_tensor(items):
        return torch.tensor(gather(items.tolist()), dtype=items.dtype)
    shares = [None] * WORLD_SIZE
    distributed.all_gather_object(shares, items)
    whole = [None] * sum(map(len, shares))
    for rank, share in enumerate(shares):
        whole[rank::WORLD_SIZE] = share
    return whole


def all_sum(x):
    """The sum of a tensor over all processes, in place."""
    if WORLD_SIZE > 1:
        distributed.all_reduce(x)
    return x


def print0(text):
    """Print in one process only."""
    if RANK == 0:
        print(text)
