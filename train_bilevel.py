"""Stage 3: labelled candidates -> a judge, by GRPO inside and learned data weights outside.

    python train_bilevel.py --weights instance                   the tiny world, minutes on 2 cores
    python train_bilevel.py --problems P.jsonl --labelled L.jsonl --judge NAME_OR_PATH --weights domain \\
        --lora-rank 16 --max-new-tokens 2048 --out runs/NAME

Reads   problems and labelled candidates. An instance is a pair of candidates of one problem, one that passed
        and one that failed; the judge is shown both, reasons, and names the better one. Reward 1 if it is right.
Writes  runs/NAME/judge (a Hugging Face checkpoint), weights.jsonl, metrics.jsonl, transcripts.jsonl, state.pt; with --cold-start
        its judgments, cold_start.jsonl.

One step, in the symbols of DaJ (arXiv 2601.22230) and of the README:

    inner   g  = (1/B) Σ_i a_i ∇ℓ_i(θ)                GRPO over G rollouts of each of B training pairs
            θ' = θ − η U(g)                            Adam, by hand, so that its Jacobian is in plain sight
    outer   v  = ∇L_meta(θ')                           policy gradient on rollouts over meta pairs
            ṽ  = (∂U/∂g)ᵀ v                            through Adam and through an active gradient clip
            s_i = ⟨∇ℓ_i(θ), ṽ⟩                         all B at once, by a central difference
            ω  ← ω + what makes instances of positive s_i count more

s_i > 0: the step that instance i asks for also lowers the meta loss. Nothing second-order passes through the model.

Deviations from plain GRPO and from the papers, on purpose:
  * advantages are r − mean, not divided by the group's standard deviation (that is a hidden weight for each instance);
  * the denominator is a constant (Dr. GRPO, 2503.20783), so that a weight enters linearly and alone;
  * one optimizer step for each batch of rollouts: the ratio ρ is 1, so the *value* of the loss says nothing
    (it is −Σ a·A·length / (B·G·max_new_tokens), whatever the judge does); look at reward, gradient norm and entropy instead;
  * `--apply draw` (default): instances are drawn in proportion to their weight. With a weight in front of the loss, the
    textbook's `--apply scale`, a good instance gains at most a factor of 2 by itself, and rollouts are spent on those that sink;
  * `--weights instance` is a small hierarchy: the logit of a pair is its domain's offset plus its own;
  * meta rollouts come from θ, sampled in one go with the training rollouts, and count π_θ'/π_θ times at θ'.

`torchrun --nproc-per-node N train_bilevel.py ...` shares the batch between N processes: the same global batch,
the same result. `--cold-start N` puts N supervised steps on the judge's own right traces in front (J1, 2505.11875).
"""
import math
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from data.flags import check_bounds, flag, flag_of, heading, parse, run
from data.judge import parse_verdict
from data.pairs import cold_start_rows, read_pairs, shuffled_weights, summary
from data.rows import ROOT, TINY, UserError, read_rows, stage_input, write_rows
from data.tables import by_group, show_training
from kernels import resolve_kernel, sample_logprob, token_logprob
from kernels.packing import make_packs
from sample import RANK, SHARE, WORLD, Completion, all_sum, end_ids, gather, generate, join, load_model, pad_id, say, stream


@dataclass
class Settings:
    """Every flag, its default and what it does."""
    heading("settings")
    problems: list = flag(lambda: [str(TINY / "problems_weak.jsonl"), str(TINY / "problems_strong.jsonl")], "problem files")
    labelled: str = flag(lambda: str(stage_input("labelled.jsonl")), "labelled candidates")
    judge: str = flag(str(TINY / "judge"), "causal LM to start from: a name or a folder")
    out: str = flag("", "folder of this run (default runs/tiny-WEIGHTS)")
    weights: str = flag("instance", "what is learned: nothing, a weight for each domain or pair, or a network", choices=["uniform", "domain", "instance", "net"])
    apply: str = flag("draw", "draw instances by weight, or scale their loss", choices=["draw", "scale"])
    domain_key: list = flag(lambda: ["domain", "difficulty", "policy"], "fields that make a domain")
    train_only: list = flag(list, "train only on pairs with these FIELD=VALUE, such as policy=strong")
    shuffle_weights: str = flag("", "control: start from the weights.jsonl of another run, dealt out to random pairs, and keep them")
    allow_overlap: bool = flag(False, "train although splits share problems")
    pairs_per_problem: int = flag(2, "most pairs made of one problem", least=1)
    steps: int = flag(60, "GRPO steps", least=0)
    cold_start: int = flag(0, "supervised steps before them, on the judge's own right traces", least=0)
    cold_start_weights: bool = flag(False, "learn data weights in the cold start, too")
    batch: int = flag(16, "B: training pairs in a step", least=WORLD)
    meta_batch: int = flag(48, "meta pairs in a step", least=WORLD)
    group: int = flag(6, "G: rollouts of each pair", least=2)
    max_new_tokens: int = flag(72, "most tokens of a judgment; also the constant denominator", least=1)
    temperature: float = flag(1.0, "of the judge, when it samples and when it is scored", above=0)
    lr: float = flag(1e-4, "η of the judge", above=0)
    look_ahead: int = flag(30, "first GRPO steps in which the judge looks ahead but stays; the weights learn from the second half of them on", least=0)
    beta1: float = flag(0.9, "β₁ of Adam", least=0, below=1)
    beta2: float = flag(0.99, "β₂ of Adam", least=0, below=1)
    adam_eps: float = flag(1e-8, "ε of Adam")
    clip_grad: float = flag(1.0, "C: largest global norm of g; 0 is no clip", least=0)
    kl: float = flag(0.0, "β of the KL term to the starting judge", least=0)
    normalize_std: bool = flag(False, "divide advantages by the group's standard deviation")
    drop_truncated: bool = flag(False, "leave cut-off judgments out of the loss (after the group mean)")
    jacobian: str = flag("frozen", "∂U/∂g of Adam: frozen preconditioner or exact", choices=["frozen", "exact"])
    rho: float = flag(0.0, "size of the central difference: ‖hṽ‖ = rho·‖θ‖; 0 is 1e-3, and with adapters, which move the model more, 1e-5", least=0)
    domain_lr: float = flag(0.2, "step of a domain's logit for one visit of unit s", least=0)
    instance_lr: float = flag(0.5, "step of an instance's own logit for one visit of unit s", least=0)
    net_lr: float = flag(0.1, "Adam step of the weight network")
    floor: float = flag(0.2, "share of the draws that stays uniform", least=0, below=1)
    lora_rank: int = flag(0, "rank of LoRA adapters; 0 trains all parameters", least=0)
    lora_alpha: float = flag(32.0, "LoRA scale is alpha / rank")
    check_hypergradient: int = flag(20, "every so many steps compare s with B separate backward passes; 0 never", least=0)
    eval_every: int = flag(10, "judge the evaluation pairs every so many steps; 0: only at the start, after a cold start and at the end", least=0)
    eval_split: str = flag("test", "split of the evaluation pairs; nothing is chosen by it")
    save_every: int = flag(5, "steps between checkpoints that a killed run continues from", least=1)
    micro_tokens: int = flag(16384, "most tokens in one forward pass; lower it where memory runs out", least=1)
    kernel: str = flag("auto", "log-prob kernel", choices=["auto", "triton", "torch"])
    dtype: str = flag("float32", "of a judge without adapters; float64 is for checks", choices=["float32", "float64"])
    seed: int = flag(0, "of pairs, batches and rollouts")
    device: str = flag("cuda" if torch.cuda.is_available() else "cpu", "torch device")

    def __post_init__(self):
        self.out = self.out or str(ROOT / f"runs/tiny-{self.weights}")
        check_bounds(self)
        self.rho = self.rho or (1e-5 if self.lora_rank else 1e-3)
        if not self.steps and not self.cold_start:
            raise UserError("--steps 0: must be at least 1")
        if self.steps and self.look_ahead >= self.steps:
            raise UserError(f"--look-ahead {self.look_ahead}: the judge would never move in --steps {self.steps}")


# ---------------------------------------------------------------- rollouts

@dataclass
class Rollouts:
    """G judgments of each of B pairs; sample i·G + k is judgment k of pair i."""
    prompts: list        # B lists of ids
    completions: list    # B·G sample.Completion
    texts: list          # B·G
    rewards: torch.Tensor     # [B, G]
    parsed: torch.Tensor      # [B, G] bool
    truncated: torch.Tensor   # [B, G] bool

    def pick(self, which):
        """The judgments of some of the pairs."""
        which, n = list(which), self.rewards.shape[1]
        samples = [i * n + k for i in which for k in range(n)]
        return Rollouts([self.prompts[i] for i in which], [self.completions[j] for j in samples], [self.texts[j] for j in samples],
                        self.rewards[which], self.parsed[which], self.truncated[which])


class Judge:
    """A language model with everything that sampling from it and scoring it needs."""

    def __init__(self, name, s):
        self.s = s
        self.model, self.tokenizer = load_model(name, s.device, "auto" if s.lora_rank else s.dtype, flag="--judge")
        # An embedding with a padding index leaves that row out of the gradient; prompts and answers may hold the token.
        self.model.get_input_embeddings().padding_idx = None
        self.ends = end_ids(self.model, self.tokenizer)
        self.pad = pad_id(self.tokenizer, self.ends)
        try:
            self.kernel = resolve_kernel(s.kernel, s.device)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.adapters = add_lora(self.model, s.lora_rank, s.lora_alpha, s.seed) if s.lora_rank else []
        # all-parameter training with a KL term needs a copy of where it began
        self.start = load_model(name, s.device, s.dtype)[0].requires_grad_(False) if s.kl and not s.lora_rank else None

    def rollout(self, pairs, n, streams):
        """n judgments of each pair. streams: a generator for each pair, so that a pair's judgments are its own."""
        prompts = [p.prompt(self.tokenizer) for p in pairs]
        uniforms = torch.cat([torch.rand(n, self.s.max_new_tokens, generator=g) for g in streams])
        completions = generate(self.model, prompts, uniforms, self.s.temperature, self.ends, self.pad)
        return self.read(pairs, prompts, completions)

    def read(self, pairs, prompts, completions):
        """Completions as Rollouts: texts, verdicts and rewards."""
        texts = [self.tokenizer.decode(c.ids[:-1] if c.finished else c.ids) for c in completions]
        verdicts, shape = [parse_verdict(t) for t in texts], (len(pairs), -1)
        return Rollouts(prompts, completions, texts,
                        torch.tensor([v == pairs[i * len(pairs) // len(texts)].right for i, v in enumerate(verdicts)]).float().view(shape),
                        torch.tensor([v is not None for v in verdicts]).view(shape),
                        torch.tensor([not c.finished for c in completions]).view(shape))

    @torch.no_grad()
    def verdict_nll(self, pairs):
        """−log π of the right verdict said at once, without a judgment: [B]. A feature of the weight network."""
        said = [self.tokenizer(f"<best>{p.right}</best>", add_special_tokens=False).input_ids for p in pairs]
        total = torch.zeros(len(pairs))
        for pack in make_packs([p.prompt(self.tokenizer) for p in pairs], said, self.pad, self.s.micro_tokens, self.s.device):
            total -= sample_logprob(self.score(pack), pack.sample, len(pairs)).cpu()
        return total

    def score(self, pack, model=None):
        """log π(token) at the sampling temperature: [T] fp32, for the completion tokens of one sample.Pack."""
        model = model or self.model
        hidden = model.base_model(input_ids=pack.ids, position_ids=pack.position, attention_mask=pack.mask,
                                  use_cache=False).last_hidden_state[pack.row, pack.column]       # [T, H]
        head = model.get_output_embeddings()
        return token_logprob(hidden, head.weight, pack.target, bias=head.bias, temperature=self.s.temperature,
                             softcap=getattr(model.config, "final_logit_softcapping", None), kernel=self.kernel)

    @torch.no_grad()
    def reference(self, pack):
        """The starting judge's log-probs [T]: the kept copy, or the adapters switched off."""
        for adapter in self.adapters:
            adapter.on = False
        logp = self.score(pack, self.start)
        for adapter in self.adapters:
            adapter.on = True
        return logp


# ---------------------------------------------------------------- GRPO (2402.03300), as in Dr. GRPO (2503.20783)

def advantages(rewards, normalize_std=False):
    """A = r − mean over the group [B, G]; exactly 0 for a group of equal rewards. Std, if asked for, has ddof 0."""
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    a = rewards - rewards.mean(1, keepdim=True)
    if normalize_std:
        a = a / (rewards.std(1, keepdim=True, correction=0) + 1e-6)
    return a.masked_fill(equal, 0.0)


def leave_one_out(rewards):
    """A_k = r_k − mean of the others' rewards [B, G]: an unbiased baseline (2402.14740)."""
    n = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * n / (n - 1)


def token_loss(logp, old, advantage, ref=None, beta=0.0, clip=(0.2, 0.28)):
    """The per-token GRPO loss [T].

        f_t = −min(ρ_t A, clip(ρ_t, 1−ε_low, 1+ε_high) A) + β (e^d − d − 1),   ρ_t = π_θ/π_old,  d = log π_ref − log π_θ

    clip None is f without the clip, for the central difference: there the perturbed ρ must be allowed to move.
    """
    ratio = (logp - old).exp()
    objective = ratio * advantage
    if clip:
        objective = torch.minimum(objective, ratio.clamp(1 - clip[0], 1 + clip[1]) * advantage)
    if not beta:
        return -objective
    d = ref - logp
    return -objective + beta * (d.exp() - d - 1)


@dataclass
class Batch:
    """What a step knows about its rollouts when it comes to the loss."""
    packs: list               # of the judgments that have a gradient
    n: int                    # B
    advantage: torch.Tensor   # [B·G]
    scale: torch.Tensor       # [] 1 / (G · max_new_tokens)
    beta: float               # of the KL term
    ref: list                 # for each pack, log π_ref [T] or None
    old: list                 # for each pack, log π of the rollout policy [T], frozen (None until first scored)
    drawn: torch.Tensor       # [B·G] log π of whole judgments under an earlier policy that they come from, or None
    ratio: torch.Tensor       # [B·G] π/π_drawn, the importance of a judgment; 1 without `drawn`


def make_batch(judge, rollouts, advantage, s, beta=0.0, off_policy=False):
    """rollouts and their advantages [B, G] as a Batch. A judgment without advantage has no gradient: it is not scored."""
    dropped = rollouts.truncated & s.drop_truncated
    keep = ((advantage != 0) | bool(beta)) & ~dropped
    packs = make_packs(rollouts.prompts, [c.ids for c in rollouts.completions], judge.pad, s.micro_tokens, s.device, keep)
    ref = [judge.reference(p) if beta else None for p in packs]
    drawn = torch.tensor([c.drawn for c in rollouts.completions], dtype=torch.float64, device=s.device) if off_policy else None
    advantage, scale = advantage.flatten().to(s.device), torch.tensor(1 / (advantage.shape[1] * s.max_new_tokens), device=s.device)
    return Batch(packs, len(rollouts.prompts), advantage, scale, beta, ref, [None] * len(packs), drawn, torch.ones_like(advantage))


def losses(judge, batch, clip=(0.2, 0.28), dtype=None):
    """Yields, pack by pack, what it adds to ℓ [B]:   ℓ_i = Σ_k Σ_t f_t / (G · max_new_tokens)."""
    for j, pack in enumerate(batch.packs):
        logp = judge.score(pack)
        if batch.old[j] is None:  # the first look at these rollouts
            batch.old[j] = logp.detach()
            if batch.drawn is not None:  # they come from another θ: each counts π_θ/π_drawn times, as a whole and unclipped
                here = pack.sample.unique()
                total = sample_logprob(logp.detach(), pack.sample, len(batch.ratio), dtype=torch.float64)
                batch.ratio[here] = (total - batch.drawn)[here].exp().to(batch.ratio)
        f = token_loss(logp, batch.old[j], (batch.ratio * batch.advantage)[pack.sample], batch.ref[j], batch.beta, clip)
        per_sample = sample_logprob(f, pack.sample, len(batch.ratio), token_weight=batch.scale, dtype=dtype)
        yield per_sample.view(batch.n, -1).sum(1)


def total_losses(judge, batch):
    """ℓ [B] in fp64, without the clip and without gradients."""
    with torch.no_grad():
        return sum(losses(judge, batch, None, torch.float64), torch.zeros(batch.n, dtype=torch.float64, device=batch.ratio.device))


# ---------------------------------------------------------------- Adam, its Jacobian, and the hypergradient

class FlatAdam:
    """The trainable parameters as one vector θ, and Adam on it.

        m ← β₁m + (1−β₁)g    n ← β₂n + (1−β₂)g²    U(g) = (m/c₁) / (q + ε),  q = √(n/c₂),  c_k = 1 − β_kᵗ
    """

    def __init__(self, parameters, s):
        self.s, self.t = s, 0
        self.parameters = [p for p in parameters if p.requires_grad]
        self.theta = torch.cat([p.data.flatten() for p in self.parameters])
        self.grad, self.m, self.n = (torch.zeros_like(self.theta) for _ in range(3))
        at = 0
        for p in self.parameters:  # parameters and gradients become views: a step on θ is a step of the model
            p.data = self.theta[at:at + p.numel()].view_as(p)
            p.grad = self.grad[at:at + p.numel()].view_as(p)
            at += p.numel()

    def step(self):
        """θ' = θ − η U(g) with g clipped to norm C; self.norm is ‖g‖ before the clip."""
        s, g = self.s, self.grad
        self.norm = float(g.norm())
        self.clipped = bool(s.clip_grad) and self.norm > s.clip_grad
        if self.clipped:
            self.unit = g / self.norm
            g = g * (s.clip_grad / self.norm)
        self.g, self.t = g.clone(), self.t + 1
        self.m.mul_(s.beta1).add_(g, alpha=1 - s.beta1)
        self.n.mul_(s.beta2).addcmul_(g, g, value=1 - s.beta2)
        c1, c2 = 1 - s.beta1 ** self.t, 1 - s.beta2 ** self.t
        self.theta.sub_(s.lr * (self.m / c1) / ((self.n / c2).sqrt() + s.adam_eps))

    def jacobian_transpose(self, v):
        """ṽ = (∂U/∂g)ᵀ v at the step just taken.

            frozen  D₀ = (1−β₁) / (c₁(q+ε))                              the preconditioner taken as given
            exact   D  = D₀ − m(1−β₂)g / (c₁c₂ q(q+ε)²)
            an active clip:  ṽ ← (C/‖g‖)(ṽ − ĝ⟨ĝ,ṽ⟩),  ĝ = g/‖g‖
        """
        s = self.s
        c1, c2 = 1 - s.beta1 ** self.t, 1 - s.beta2 ** self.t
        q = (self.n / c2).sqrt()
        d = (1 - s.beta1) / (c1 * (q + s.adam_eps))
        if s.jacobian == "exact":
            second = self.m * (1 - s.beta2) * self.g / (c1 * c2 * q * (q + s.adam_eps) ** 2)
            d = d - second
        # q = 0: no gradient has ever reached this parameter, so no ∇ℓ_i has a part in it; v may have (of LoRA's A, at the first
        # steps), and times 1/ε it would be all of the direction
        v = torch.where(q > 0, d * v, 0.0)
        if self.clipped:
            v = (s.clip_grad / self.norm) * (v - self.unit * (self.unit @ v))
        return v


def central_difference(judge, flat, theta, direction, batch, s):
    """s_i = [ℓ_i(θ+hṽ) − ℓ_i(θ−hṽ)] / 2h for all i at once [B] fp64, ‖hṽ‖ = rho·‖θ‖. Leaves θ' as it was.

    Two forward passes without gradients. θ comes back from a copy: adding and subtracting hṽ would not restore it.
    """
    norm = direction.norm()
    if not norm > 0:
        return torch.zeros(batch.n, dtype=torch.float64)
    h, stepped, ends = float(s.rho * theta.norm() / norm), flat.theta.clone(), []
    for sign in (1, -1):
        flat.theta.copy_(theta + sign * h * direction)
        ends.append(total_losses(judge, batch))
    flat.theta.copy_(stepped)
    return ((ends[0] - ends[1]) / (2 * h)).cpu()


def separate_backward(judge, flat, theta, directions, rollouts, advantage, s):
    """⟨∇ℓ_i(θ), ṽ⟩ by one backward pass for each instance, for several ṽ: [len(directions), B]. The exact, slow way."""
    stepped, found = flat.theta.clone(), torch.zeros(len(directions), len(advantage), dtype=torch.float64)
    flat.theta.copy_(theta)
    batch = make_batch(judge, rollouts, advantage, replace(s, micro_tokens=1), s.kl)  # one instance a pack
    for pack, part in zip(batch.packs, losses(judge, batch, clip=None)):
        flat.grad.zero_()
        part.sum().backward()
        for row, direction in zip(found, directions):
            row[int(pack.sample[0]) // advantage.shape[1]] = float(flat.grad.double() @ direction.double())
    flat.theta.copy_(stepped)
    return found


# ---------------------------------------------------------------- data weights

class DataWeights:
    """a_i(ω) ≥ 0 with mean one over the training set; they start uniform.

        uniform   a_i = 1
        domain    z_i = ω_d(i)                      one number for each domain
        instance  z_i = ω_d(i) + ω_i                pooled evidence first, individual evidence as it comes in
        net       z_i = MLP(what the last visit of i showed)
        draw      p_i = (1−f)·softmax(z)_i + f/N,   a_i = N p_i      chance of being drawn; the loss is not scaled
        scale     a_i = N·softmax(z)_i (domain) or 2σ(z_i), normalised (instance, net)     in front of the loss

    Every number of a table stays within ±3. The tables are updated only in the rows that were visited.
    """
    BOUND = 3.0
    FEATURES = ("visited", "reward", "variance", "nll", "tokens", "verdict_nll")

    def __init__(self, pairs, s):
        self.s, n = s, len(pairs)
        names = sorted({p.group for p in pairs})
        self.domain = torch.tensor([names.index(p.group) for p in pairs])
        self.table = nn.ParameterDict({"domain": torch.zeros(len(names)), "instance": torch.zeros(n)})
        self.features = torch.zeros(n, len(self.FEATURES))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.seed)
            self.net = nn.Sequential(nn.Linear(len(self.FEATURES), 16), nn.Tanh(), nn.Linear(16, 1))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)
        self.net_adam = torch.optim.Adam(self.net.parameters(), lr=s.net_lr)
        self.visits, self.informed = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
        self.magnitude = 0.0  # running mean of |s|
        self.fixed = torch.tensor(shuffled_weights(n, s)) if s.shuffle_weights else torch.ones(n)  # of `uniform`

    def logits(self):
        """z(ω) [N], differentiable."""
        if self.s.weights == "net":
            x = self.features  # nats, tokens and rates: brought to one scale
            z = self.net((x - x.mean(0)) / (x.std(0) + 1e-3))[:, 0]
            return (z - z.mean()).clamp(-self.BOUND, self.BOUND)
        z = self.table["domain"][self.domain]
        return z + self.table["instance"] if self.s.weights == "instance" else z

    @torch.no_grad()
    def weights(self):
        """a [N], mean one."""
        z, n = self.logits(), len(self.domain)
        if self.s.weights == "uniform":
            return self.fixed
        if self.s.apply == "draw":
            return (1 - self.s.floor) * n * z.softmax(0) + self.s.floor
        a = n * z.softmax(0) if self.s.weights == "domain" else 2 * z.sigmoid()
        return a / a.mean()

    def draw(self, generator):
        """Indices of a batch [B], no instance twice, and the weight of each in the loss."""
        a = self.weights()
        chance = a if self.s.apply == "draw" else torch.ones_like(a)
        index = torch.multinomial(chance, min(self.s.batch, len(a)), generator=generator)
        return index, (torch.ones(len(index)) if self.s.apply == "draw" else a[index])

    def observe(self, index, facts):
        """Remember what a visit showed: the features of `net`, detached by construction."""
        self.features[index] = torch.stack([torch.ones(len(index)), *(facts[name] for name in self.FEATURES[1:])], 1)
        self.visits[index] += 1

    def update(self, index, s_i, informed):
        """Move ω so that instances with s_i > 0 count more.

        s is divided by its running mean magnitude and clamped to ±3: only its sign and relative size are trusted.
        draw:   ∂E_{i~p}[s_i]/∂ω = E[s_i ∂log p_i/∂ω], of which a visit of i is one sample: each visited logit moves by s_i
                (p without its floor and, for tables, without its normaliser)
        scale:  J(ω) = Σ_i a_i(ω)·stopgrad(s_i), the normaliser of a held fixed so that unvisited rows stay where they are
        """
        self.informed[index[informed]] += 1
        if self.s.weights == "uniform" or not bool(informed.any()):
            return
        now = float(s_i[informed].abs().mean())
        self.magnitude = 0.8 * self.magnitude + 0.2 * now if self.magnitude else now
        unit = (s_i / max(self.magnitude, 1e-30)).clamp(-3, 3).float() * informed
        z = self.logits()
        if self.s.apply == "scale":
            gain = z.exp() * (len(z) / z.exp().sum()).detach() if self.s.weights == "domain" else 2 * z.sigmoid()
        else:  # a table leaves out the softmax's normaliser, which moves every row: only visited rows shall move
            gain = z.log_softmax(0) if self.s.weights == "net" else z
        loss = -(unit * gain[index]).sum()
        loss.backward()
        if self.s.weights == "net":
            self.net_adam.step()
            self.net_adam.zero_grad()
        with torch.no_grad():
            for name, lr in (("domain", self.s.domain_lr), ("instance", self.s.instance_lr)):
                table = self.table[name]
                if table.grad is not None:  # it is part of these weights
                    table.sub_(lr * table.grad).clamp_(-self.BOUND, self.BOUND)
                    table.grad = None

    def state(self):
        return {"table": self.table.state_dict(), "net": self.net.state_dict(), "net_adam": self.net_adam.state_dict(),
                "features": self.features, "visits": self.visits, "informed": self.informed, "magnitude": self.magnitude}

    def load(self, state):
        for name in ("table", "net", "net_adam"):
            getattr(self, name).load_state_dict(state[name])
        self.features, self.visits, self.informed = state["features"], state["visits"], state["informed"]
        self.magnitude = state["magnitude"]


# ---------------------------------------------------------------- LoRA (2106.09685)

class LoRALinear(nn.Module):
    """y = W x + (α/r) B A x, with W frozen. A: [r, in] gaussian of deviation 1/√r, B: [out, r] zero, both fp32."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.linear, self.scale, self.on = linear.requires_grad_(False), alpha / rank, True
        self.a = nn.Parameter((torch.randn(rank, linear.in_features, generator=generator) / math.sqrt(rank)).to(linear.weight.device))
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank, device=linear.weight.device))

    def forward(self, x):
        y = self.linear(x)
        return y + (self.scale * (x.to(self.a.dtype) @ self.a.T @ self.b.T)).to(y.dtype) if self.on else y

    @torch.no_grad()
    def merge(self):
        """W + (α/r) B A as a plain linear layer."""
        self.linear.weight += (self.scale * self.b @ self.a).to(self.linear.weight.dtype)
        return self.linear


def add_lora(model, rank, alpha, seed):
    """Put an adapter on every linear layer below the head; everything else is frozen. Returns the adapters."""
    model.requires_grad_(False)
    generator, adapters = torch.Generator().manual_seed(seed), []
    for parent in list(model.base_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                adapters.append(LoRALinear(child, rank, alpha, generator))
                setattr(parent, name, adapters[-1])
    return adapters


def merge_lora(model):
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, name, child.merge())


# ---------------------------------------------------------------- the run

class Run:
    """One training run and its folder: everything that a killed run needs to go on is in state.pt."""

    def __init__(self, s):
        self.s, self.out = s, Path(s.out)
        self.train, self.meta, self.test = read_pairs(s)
        self.judge = Judge(s.judge, s)
        self.flat = FlatAdam(self.judge.model.parameters(), s)
        self.weights = DataWeights(self.train, s)
        self.step, self.metrics, self.transcripts = 0, [], []
        if (self.out / "state.pt").exists():
            self.resume()
        elif s.cold_start:
            self.save()  # so that its traces are known by their settings
        self.traces = self.cold_start_traces() if s.cold_start and self.step <= s.cold_start else None
        say(f"{len(self.train)} training, {len(self.meta)} meta and {len(self.test)} {s.eval_split} pairs from {s.labelled}; "
            f"{len(self.flat.theta):,} trainable parameters; kernel {self.judge.kernel}; device {s.device}")

    def resume(self):
        s, state = self.s, torch.load(self.out / "state.pt", map_location="cpu", weights_only=True)
        changed = [k for k, v in asdict(s).items() if k not in ("steps", "save_every", "micro_tokens", "device") and state["settings"].get(k) != v]
        other = [name for name, then, now in zip(("training", "meta", s.eval_split), state["pairs"], self.pair_ids()) if then != now]
        if changed or other:
            what = ", ".join([*(flag_of(Settings, name) for name in changed), *(f"the {name} pairs" for name in other)])
            raise UserError(f"{self.out} holds a run with other settings ({what}): give another --out, or delete the folder")
        self.step, self.flat.t = state["step"], state["t"]
        for name in ("theta", "m", "n"):
            getattr(self.flat, name).copy_(state[name])
        self.weights.load(state["weights"])
        for name in ("metrics", "transcripts"):  # rows after the checkpoint will be made again, the same
            setattr(self, name, [r for r in read_rows(self.out / f"{name}.jsonl") if r["step"] <= self.step])
        say(f"{self.out}: going on from step {self.step}")

    def save(self):
        if RANK:
            return
        write_rows(self.out / "metrics.jsonl", self.metrics)
        write_rows(self.out / "transcripts.jsonl", self.transcripts)
        write_rows(self.out / "weights.jsonl", self.weight_rows())
        state = {"settings": asdict(self.s), "pairs": self.pair_ids(), "step": self.step, "t": self.flat.t,
                 "theta": self.flat.theta, "m": self.flat.m, "n": self.flat.n, "weights": self.weights.state()}
        torch.save(state, self.out / "state.new")
        (self.out / "state.new").replace(self.out / "state.pt")

    def pair_ids(self):
        return [[p.instance_id for p in pairs] for pairs in (self.train, self.meta, self.test)]

    def weight_rows(self):
        a, visits, informed = (x.tolist() for x in (self.weights.weights(), self.weights.visits, self.weights.informed))
        return [{**pair.about(), "weight": a[i], "visits": visits[i], "informed": informed[i]} for i, pair in enumerate(self.train)]

    def look(self):
        """The judge on held-out pairs, each in both orders, one sampled judgment an order. The transcripts are kept."""
        s, rows = self.s, []
        both = [q for p in self.test for q in (p, p.flipped())]
        mine, size = list(enumerate(both))[SHARE], max(1, 4096 // s.max_new_tokens)
        for start in range(0, len(mine), size):
            numbers, pairs = zip(*mine[start:start + size])
            r = self.judge.rollout(pairs, 1, [stream(s.seed, "evaluate", self.step, k) for k in numbers])
            rows += [{"step": self.step, "instance_id": p.instance_id, "right": p.right, "verdict": parse_verdict(text),
                      "tokens": len(c.ids), "text": text} for p, text, c in zip(pairs, r.texts, r.completions)]
        rows = gather(rows)
        self.transcripts += rows
        return {f"eval_{name}": value for name, value in summary(rows).items()}

    def cold_start_traces(self):
        """J1's cold start: Rollouts of the starting judge on all training pairs, with reward 1 where they are kept."""
        rows, judge = cold_start_rows(self.judge, self.train, self.out / "cold_start.jsonl", self.s), self.judge
        completions = [Completion(**{f.name: row[f.name] for f in fields(Completion)}) for row in rows]
        traces = judge.read(self.train, [p.prompt(judge.tokenizer) for p in self.train], completions)
        traces.rewards = torch.tensor([row["kept"] for row in rows]).float().view(traces.rewards.shape)
        return traces

    def train_step(self):
        """One inner and one outer step. Returns its metrics."""
        s, judge, flat, clock = self.s, self.judge, self.flat, [time.time()]
        cold, step = self.step < s.cold_start, self.step - s.cold_start
        if step == 0:  # Adam starts anew with GRPO
            flat.t, flat.m[:], flat.n[:] = 0, 0, 0
        index, a = self.weights.draw(stream(s.seed, "draw", self.step))
        learns = s.weights != "uniform" and (not cold or s.cold_start_weights)
        meta = torch.randperm(len(self.meta), generator=stream(s.seed, "meta", self.step))[:s.meta_batch if learns else 0]
        # Training and meta judgments in one go: decoding twice the batch costs less than decoding twice.
        pairs = [self.train[i] for i in index]
        asked = [] if cold else list(enumerate(pairs))[SHARE]
        n = len(asked)
        asked += [(f"meta {k}", self.meta[i]) for k, i in enumerate(meta)][SHARE]
        made = asked and judge.rollout([p for _, p in asked], s.group, [stream(s.seed, "rollout", self.step, k) for k, _ in asked])
        rollouts = self.traces.pick(index[SHARE].tolist()) if cold else made.pick(range(n))
        meta_rollouts = made and made.pick(range(n, len(asked)))
        facts = self.facts(rollouts, pairs[SHARE])
        clock.append(time.time())

        # g = (1/B) Σ_i a_i ∇ℓ_i(θ), with advantage 1 for every kept trace of the cold start
        advantage = rollouts.rewards if cold else advantages(rollouts.rewards, s.normalize_std)
        batch = make_batch(judge, rollouts, advantage, s, s.kl)
        flat.grad.zero_()
        total = torch.zeros(1, device=s.device)
        for part in losses(judge, batch):
            loss = (a[SHARE].to(part) * part).sum() / len(pairs)
            loss.backward()
            total += loss.detach()
        all_sum(flat.grad)
        theta, total = flat.theta.clone(), float(all_sum(total))
        self.must_be_finite(total + float(flat.grad.norm()), theta, pairs)
        if self.step and self.step % s.save_every == 0:
            self.save()  # here, because only now is θ known to give a finite loss and gradient
        flat.step()                                                            # θ' = θ − η U(g)
        clock.append(time.time())

        row = {"step": self.step + 1, "cold": cold, "loss": total, "grad_norm": flat.norm, "clipped": flat.clipped,
               **{name: float(facts[name].mean()) for name in ("reward", "parse_rate", "truncated", "zero_variance", "tokens")},
               # the mean of −log π over sampled tokens: an unbiased estimate of the entropy, but for the cold start's older judgments
               "entropy": float((facts["nll"] * facts["tokens"]).sum() / facts["tokens"].sum())}
        informed = gather((advantage != 0).any(1))
        self.weights.observe(index, facts)
        if learns:
            s_i, more = self.hypergradient(theta, batch, rollouts, advantage, meta_rollouts)
            row |= more
            self.must_be_finite(float(s_i.sum()), theta, pairs)
            if cold or 2 * step >= s.look_ahead:  # before that, Adam's averages are too young for D₀ to mean much
                self.weights.update(index, s_i, informed & bool(s_i.any()))
        if 0 <= step < s.look_ahead:
            flat.theta.copy_(theta)
        clock.append(time.time())

        row["weight"] = {name: sum(r["weight"] for r in rows) / len(rows) for name, rows in sorted(by_group(self.weight_rows()).items())}
        row["seconds"] = dict(zip(("rollout", "gradient", "outer"), (round(y - x, 3) for x, y in zip(clock, clock[1:]))))
        return row

    def facts(self, r, pairs):
        """What the judgments show, by pair: {name: [B]}, the same in every process."""
        n = r.rewards.shape[1]
        tokens = torch.tensor([len(c.ids) for c in r.completions]).view(-1, n).double().sum(1)
        nll = -torch.tensor([c.drawn for c in r.completions]).view(-1, n).double().sum(1)
        facts = {"reward": r.rewards.mean(1), "variance": r.rewards.var(1, correction=0), "parse_rate": r.parsed.float().mean(1),
                 "truncated": r.truncated.float().mean(1), "zero_variance": (r.rewards.amax(1) == r.rewards.amin(1)).float(),
                 "nll": nll / tokens, "tokens": tokens / n,
                 "verdict_nll": self.judge.verdict_nll(pairs) if self.s.weights == "net" else torch.zeros(len(pairs))}
        return dict(zip(facts, gather(torch.stack([x.double() for x in facts.values()], 1)).float().T))

    def must_be_finite(self, value, theta, pairs):
        """Stop, with θ as it was before the step, where the step made NaN or infinity."""
        if math.isfinite(value):
            return
        self.flat.theta.copy_(theta)
        raise UserError(f"step {self.step}: the loss, its gradient or the log-probs after the step are not finite, on "
                       f"{', '.join(p.instance_id for p in pairs)}; the last good checkpoint, if there is one, is {self.out / 'state.pt'}: "
                       "try a smaller --lr, --clip-grad or --rho")

    def hypergradient(self, theta, batch, rollouts, advantage, meta_rollouts):
        """s [B] at θ for the step to θ' just taken, and metrics."""
        s, judge, flat, count = self.s, self.judge, self.flat, min(self.s.meta_batch, len(self.meta))
        # v = ∇L_meta(θ'): plain rewards, leave-one-out baseline; the judgments are θ's, so each counts π_θ'/π_θ times
        meta = make_batch(judge, meta_rollouts, leave_one_out(meta_rollouts.rewards), s, off_policy=True)

        def gradient(first, every):
            """Of the mean loss of every second, or every, meta pair."""
            flat.grad.zero_()
            for part in losses(judge, meta):
                (part[first::every].sum() * every / count).backward()
            return all_sum(flat.grad).clone()

        v = gradient(0, 1)
        direction = flat.jacobian_transpose(v)
        ratio = meta.ratio[meta.advantage != 0]
        share = float(ratio.sum() ** 2 / (ratio ** 2).sum() / len(ratio)) if len(ratio) else 1.0  # effective sample size by the number of samples
        row = {"meta_reward": sum(gather(meta_rollouts.rewards.mean(1).tolist())) / count, "meta_grad_norm": float(v.norm()),
               "meta_effective_share": min(gather([share]))}
        if row["meta_effective_share"] < 0.5:  # θ' is too far from θ for θ's judgments: say nothing
            return torch.zeros(len(advantage), dtype=torch.float64), row
        s_i = gather(central_difference(judge, flat, theta, direction, batch, s))
        if s.check_hypergradient and self.step % s.check_hypergradient == 0 and bool(s_i.any()):
            halves = [flat.jacobian_transpose(gradient(k, 2)) for k in (0, 1)]
            exact, one, two = gather(separate_backward(judge, flat, theta, [direction, *halves], rollouts, advantage, s).T).T
            stepped, values = flat.theta.clone(), []
            for at in (theta, stepped):
                flat.theta.copy_(at)
                values.append(float(all_sum(total_losses(judge, meta)).sum()) / count)
            cosine = nn.functional.cosine_similarity
            row |= {"check_relative_error": float((s_i - exact).norm() / exact.norm()), "check_cosine": float(cosine(s_i, exact, 0)),
                    "check_signs": float((s_i.sign() == exact.sign()).double().mean()),
                    "split_half_cosine": float(cosine(one, two, 0)), "split_half_correlation": float(torch.corrcoef(torch.stack([one, two]))[0, 1]),
                    "meta_change_predicted": float(v @ (stepped - theta)), "meta_change_realised": values[1] - values[0]}
        return s_i, row

    def go(self):
        s = self.s
        if not self.metrics:
            self.metrics.append({"step": 0, **self.look()})
        last = s.cold_start + s.steps
        with tqdm(total=last, initial=self.step, desc=f"{s.weights}, seed {s.seed}", unit="step", smoothing=0.1, disable=RANK > 0) as bar:
            while self.step < last:
                row = self.train_step()
                self.step += 1
                if (s.eval_every and self.step % s.eval_every == 0) or self.step in (s.cold_start, last):
                    row |= self.look()
                self.metrics.append(row)
                if self.step == last:
                    self.save()
                seen = [m["eval_accuracy"] for m in self.metrics if "eval_accuracy" in m]
                bar.set_postfix({"reward": f"{row['reward']:.2f}", "tokens": f"{row['tokens']:.0f}",
                                 s.eval_split: f"{seen[0]:.2f} → {seen[-1]:.2f}"}, refresh=False)
                bar.update()
        if RANK == 0:
            merge_lora(self.judge.model)
            self.judge.model.save_pretrained(self.out / "judge")
            self.judge.tokenizer.save_pretrained(self.out / "judge")
            show_training(s, self.metrics, self.weight_rows(), len(self.test))


def main(argv=None):
    s = parse(Settings, __doc__, argv)
    s.device = join(s.device)
    try:
        Run(s).go()
    except KeyboardInterrupt:
        sys.exit(f"\nstopped; the same command goes on from the last checkpoint in {s.out} (every {s.save_every} steps)")


if __name__ == "__main__":
    run(main)
