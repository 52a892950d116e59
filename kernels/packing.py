"""Prompts and their answers as rows of a forward pass: what answers share is computed once.

A group of G judgments shares its prompt, and often its first words. One row holds the prompt once
and behind it a tree of answers; a mask keeps each answer from seeing the others, so the log-probs
are those of separate sequences. With a judge of 0.9 million parameters on a CPU, a step takes 2.5
times as long with a padded row for each answer, and a quarter longer with rows that hold the
answers one behind the other, without sharing their first words.

Two answers, "a b c" and "a b d", to the prompt "p q". A token is scored where it is *predicted*: at
the one before it. The last token of an answer predicts nothing, so it needs no column.

    column      0  1  2  3           a is predicted at column 1, b at 2,
    token       p  q  a  b           c at 3 (answer 0) and d at 3 (answer 1)
    position    0  1  2  3

Now "a b c" and "a x d": they part after a, so the second answer's x is a branch that hangs on
column 2.

    column      0  1  2  3  4        x stands in column 4, behind b, and must not see it:
    token       p  q  a  b  x        row 4 of the mask is row 2 (what a sees) and itself
    position    0  1  2  3  3        b and x are both predicted at 2, c at 3, d at 4

    mask        p  q  a  b  x
      p         1
      q         1  1
      a         1  1  1
      b         1  1  1  1
      x         1  1  1  .  1

A row that is too wide for one forward pass is split between two answers, and the prompt repeated.
With `most_tokens` 4 the same two answers take two rows, of the same log-probs:

    row 0       p  q  a  b           c is predicted at column 3
    row 1       p  q  a  x           d is predicted at column 3
"""
from dataclasses import dataclass

import torch

# Tokens of padding that cost about as much as one more pass: on a CPU for a judge of 0.9 million
# parameters; on an H200 a pass of a judge of half a billion parameters takes 0.17 s for 64 tokens
# and for 6,400, most of it the launching of its 6,300 kernels (docs/RESULTS-gpu.md).
PADDING = {"cpu": 64, "cuda": 2048}


@dataclass
class Pack:
    """R rows of width W with T scored answer tokens; token t is predicted at row[t], column[t]."""
    ids: torch.Tensor         # [R, W]
    position: torch.Tensor    # [R, W]
    mask: torch.Tensor        # [R, 1, W, W] bool: who sees whom
    row: torch.Tensor         # [T]
    column: torch.Tensor      # [T]
    target: torch.Tensor      # [T] the token itself
    sample: torch.Tensor      # [T] index of its answer among all B·G


def make_packs(prompts, answers, pad, most_tokens, device, keep=None, forced=None, one_row=False):
    """Packs of at most `most_tokens` tokens, padding included, rows of like width together.

    Only a row with a single answer may have more: an answer is never split.

    prompts: B lists of token ids.
    answers: B·G lists of token ids, those of prompt i at i·G ... i·G + G − 1.
    keep:    [B, G] bool, the answers that are scored at all (default all).
    forced:  B·G lists of positions in the answers whose tokens are seen but not scored (default
             none).
    one_row: a pack holds a single row, and so answers to one prompt.
    Raises ValueError where the answers do not go round, or a prompt is empty.
    """
    if len(answers) % len(prompts) or not all(prompts):
        raise ValueError(f"{len(answers)} answers to {len(prompts)} prompts: expected as many for "
                         "each, and no empty prompt")
    group = len(answers) // len(prompts)
    forced = forced or [[]] * len(answers)
    keep = [True] * len(answers) if keep is None else keep.flatten().tolist()
    trees = []
    for i, prompt in enumerate(prompts):
        scored = {j: answers[j] for j in range(i * group, (i + 1) * group) if keep[j]}
        trees += trees_of(prompt, scored, forced, most_tokens)

    most_padding = PADDING.get(torch.device(device).type, PADDING["cpu"])
    packs = []
    rows = []
    for tree in sorted(trees, key=len):
        tokens = (len(rows) + 1) * len(tree)  # this tree is the widest so far
        padding = tokens - len(tree) - sum(map(len, rows))
        if rows and (one_row or tokens > most_tokens or padding > most_padding):
            packs.append(pack_rows(rows, pad, device))
            rows = []
        rows.append(tree)
    if rows:
        packs.append(pack_rows(rows, pad, device))
    return packs


def trees_of(prompt, answers, forced, most_tokens):
    """A prompt and its answers {index: ids} as trees of at most `most_tokens` columns.

    No answer is split, so a tree of a single one may have more.
    """
    trees = []
    for index, answer in answers.items():
        if not trees or len(trees[-1]) + trees[-1].n_new(answer) > most_tokens:
            trees.append(Tree(prompt))
        trees[-1].add(index, answer, forced[index])
    return trees


class Tree:
    """One row: a prompt and its answers, a token a column; equal beginnings share their columns."""

    def __init__(self, prompt):
        self.root = len(prompt) - 1  # the prompt's last token predicts the first of each answer
        self.ids = list(prompt)
        self.position = list(range(len(prompt)))
        # {answer: [(the column at which one of its tokens is predicted, the token)]}
        self.targets = {}
        # (start, parent): the columns from `start` on continue what stands in column `parent`
        self.branches = []
        # {(column, token): the column in which this token continues that one}
        self.child = {}

    def n_new(self, answer):
        """How many columns `add` would make for this answer."""
        column = self.root
        for n_shared, token in enumerate(answer[:-1]):
            if (column, token) not in self.child:
                return len(answer) - 1 - n_shared
            column = self.child[column, token]
        return 0

    def add(self, index, answer, forced):
        """Make those columns of an answer that no earlier answer has made.

        Its targets are all of its tokens but the forced.
        """
        start = len(self.ids)
        path = [self.root]  # the column at which each token is predicted
        for token in answer[:-1]:
            parent = path[-1]
            if (parent, token) not in self.child:
                if len(self.ids) == start:  # here the answer leaves the earlier ones
                    self.branches.append((start, parent))
                self.child[parent, token] = len(self.ids)
                self.ids.append(token)
                self.position.append(self.position[parent] + 1)
            path.append(self.child[parent, token])
        own = [t for t in range(len(answer)) if t not in forced]
        self.targets[index] = [(path[t], answer[t]) for t in own]

    def __len__(self):
        return len(self.ids)


def pack_rows(trees, pad, device):
    """Trees as the rows of one Pack."""
    width = max(map(len, trees))
    ids = torch.full((len(trees), width), pad)
    position = torch.zeros(len(trees), width, dtype=torch.long)
    mask = torch.ones(len(trees), width, width, dtype=torch.bool).tril()
    row, column, target, sample = [], [], [], []
    for r, tree in enumerate(trees):
        ids[r, :len(tree)] = torch.tensor(tree.ids)
        position[r, :len(tree)] = torch.tensor(tree.position)
        for start, parent in tree.branches:
            # From `start` on, see of the columns before only what `parent` sees; a later branch
            # overwrites its own rows.
            mask[r, start:, :start] = mask[r, parent, :start]
        for index, targets in tree.targets.items():
            for at, token in targets:
                row.append(r)
                column.append(at)
                target.append(token)
                sample.append(index)
    return Pack(
        ids=ids.to(device),
        position=position.to(device),
        mask=mask[:, None].to(device),
        row=torch.tensor(row, dtype=torch.long, device=device),
        column=torch.tensor(column, dtype=torch.long, device=device),
        target=torch.tensor(target, dtype=torch.long, device=device),
        sample=torch.tensor(sample, dtype=torch.long, device=device),
    )


def empty_pack(pad, device):
    """A pack of a single token, in which nothing is scored: a pass over it is one over nothing."""
    return pack_rows([Tree([pad])], pad, device)
