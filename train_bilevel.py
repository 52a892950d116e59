"""Stage 3: labelled candidates -> a judge. GRPO, and around it a gradient for the weights of its data.

    python train_bilevel.py --weights instance          the world of edge cases, a minute
    python train_bilevel.py --problems P.jsonl --labelled L.jsonl --judge NAME_OR_PATH \\
        --weights domain --lora-rank 16 --max-new-tokens 2048 --out runs/NAME

Reads   problems and labelled candidates. A training instance is a pair of candidates of one
        problem, one that passed and one that failed. The judge is shown both, reasons, and names
        the better one. Reward 1 if it is right.
Writes  into runs/NAME:
        judge              a Hugging Face checkpoint
        report.html        the run, to look at
        metrics.jsonl      a row for each step
        transcripts.jsonl  judgments, as they were written
        explained.jsonl    of each pair the visits that moved it most; --explain-weights prints it
        cold_start.jsonl   with --cold-start: the judgments that it imitates
        settings.json, state.pt    to go on from
        weights.jsonl      a row for each training pair:

    {"instance_id": "edges/train/86:strong-0>strong-1", "weight_domain": "reviewed × hard × strong",
     "weight": 2.35, "visits": 13, "informed": 8, ...}    informed: visits that could move it

The method (DaJ, arXiv 2601.22230)
----------------------------------
θ is the judge, ℓ_i(θ) the GRPO loss of training pair i of N, a_i ≥ 0 the factor in front of it, B
the number of pairs in a step, U(g) the direction that Adam, its clip included, makes of a gradient
g, and η the step size. One training step is a function of the factors a:

    g(a)  = (1/B) Σ_i a_i ∇ℓ_i(θ)              inner gradient
    θ'(a) = θ − η U(g(a))                      inner step

L_meta(θ'(a)) says how good that step was: the loss of the stepped judge on a small meta set that
looks like the target. How does it change with each factor? We look one step ahead and no further:
θ, the judgments and Adam's averages from before the step do not depend on a.

    ∂L_meta/∂a_i = ⟨∂θ'/∂a_i, v⟩               chain rule, with v = ∇L_meta(θ')
                 = −η ⟨(∂U/∂g) ∇ℓ_i(θ)/B, v⟩   since ∂g/∂a_i = ∇ℓ_i(θ)/B
                 = −(η/B) ⟨∇ℓ_i(θ), ṽ⟩         with ṽ = (∂U/∂g)ᵀ v
                 = −(η/B) s_i                  with s_i = ⟨∇ℓ_i(θ), ṽ⟩

η/B is positive and the same for every pair, so we keep s_i alone: where s_i > 0, a larger factor
would have made the step better for the meta set, so more of this pair is wanted.

By default the learned weight w_i of a pair is not that factor. It says how often the pair is drawn,
as a multiple of the average, and a_i = 1 for the pairs of a step. (We differentiate by a_i to
learn whether it helped to have drawn the pair.) What is learned is a logit z_i, made of numbers ω,
one for each pair or each domain of pairs, with a step size α:

    w_i = N p_i,  p_i = (1−γ) softmax(z)_i + γ/N     a share γ of the draws stays uniform
    z_i ← z_i + α s_i / w_i                          s in units of its running mean magnitude

s_i, which says to first order how much pair i helped, is the payoff for having drawn it. A pair
with a large w_i is also measured w_i times as often, so each time counts 1/w_i. (A sum in z is a
product in softmax(z): but for this 1/w_i it is the exponentiated gradient.) A number that several
pairs share, a domain's, adds up what they ask for:

    ω ← ω + α Σ_i (s_i / w_i) ∂z_i/∂ω                over the B pairs of the step

(--weights net moves a table with a number for each pair, and fits a network to it: DataWeights.)

The "hypergradient" s costs the judgments of the meta pairs, a backward pass over them, which is v,
and a backward pass for each training pair instead of one for all: a plain step needs only the sum
of the ∇ℓ_i(θ), here each is kept, a row of a matrix [B, P] for P trained parameters. (With adapters
one backward pass is enough: the gradient of each row is a product of what went into the adapter and
what came back.) g is a weighted sum of these rows, and s is the matrix times ṽ. Adam works
coordinate by coordinate, so, but for its clip, ∂U/∂g is a vector of factors. Nothing second-order
passes through the model. tests/test_grpo_checks.py (test_18_...) compares s, made of v, with brute
force: nudge a weight, step again, measure L_meta again. The two agree with --jacobian exact, and by
default (frozen) if the repeated step holds Adam's denominator.

What deviates, on purpose
-------------------------
from GRPO (2402.03300):
  * Advantages are r − mean. Dividing them by the group's standard deviation would be a hidden
    weight for each pair.
  * The loss is divided by the constant G·max_new_tokens, not by lengths (Dr. GRPO, 2503.20783), so
    a weight enters linearly and alone.
  * One optimizer step for each batch of judgments. So the ratio ρ = π_θ/π_old is 1, and the *value*
    of the loss says nothing: it is −Σ a·A·length / (B·G·max_new_tokens) for judgments of advantage A,
    whatever the judge does. Look at reward, gradient norm and entropy instead.
  * No KL term.
from the textbook's bilevel step (how DaJ's own code takes it is not known here):
  * The judge stands still for --freeze-judge-steps (by default steps 1 to 30 of 70): θ' is only
    computed for the hypergradient, and θ put back. In the first fifth of these (steps 1 to 6) only
    averages move, Adam's and v̄: they are too young to mean much. Then the weights learn, too.
    Without this pause, training on bad pairs has taught the judge not to reason before the weights
    can favour the good ones. Under `uniform` it stands still as long, and only Adam's averages move,
    so that all kinds of weights begin to move the judge alike, and move it equally often.
  * --apply draw (default): with the textbook's weight in front of the loss (--apply scale) many
    judgments are spent on pairs whose weight is near 0. With γ, --uniform-share, no pair is lost
    for good. (The B pairs of a step are all different, so p_i is the chance of the first draw
    alone.)
  * s_i / w_i is as in EXP3 (Auer et al. 2002): a weight grows by what its pair is worth, not by how
    often it came up. Without that, whatever leads by luck is drawn, measured and raised again.
  * α falls linearly to 0 at --weight-steps (60 of 70): late steps, when there is less left to
    learn from the pairs that mattered, would undo what early ones have found.
  * s, in units of its running mean magnitude, is clamped to ±3 before it is divided by w_i. Every
    learned number stays within ±3: a domain's logit, a pair's own, the output of `net`. (1/w_i is
    at most 1/γ, 5 by default: once weights have spread, one visit of a pair that is rarely drawn
    can move its logit by several.)
  * --weights instance is a small hierarchy: the logit of a pair is its domain's plus its own, each
    with an α of its own (--domain-lr, --instance-lr).
  * s is made of v̄, a running mean of v that goes back some --meta-memory looks at meta pairs, as in
    momentum methods for bilevel problems (Khanduri et al., 2102.07367). What L_meta asks for changes
    slowly, and what a few judgments say of it is noise for the most part. --meta-memory 1 has v
    itself.
  * --meta-every 2 (off by default) looks at meta pairs in every second step only. In between s is
    made of v̄ as it stands. In the small world that takes a third off what the outer loop costs.
  * The meta judgments are θ's, in one go with the training judgments. At θ' each of them counts
    π_θ'/π_θ times. If that leaves less than half of them as an effective sample, v̄ and the weights
    stay where they are until the next look at meta pairs, and the run says so.
  * ∂U/∂g takes Adam's preconditioner as given. That it moves with g, too, changes s little (cosine
    of the two 0.92 to 1.00 in the first twelve steps of a run); --jacobian exact has it.
  * --weights net sees a pair's domain and what its visits showed, in the mean. DaJ feeds it the
    loss, which says nothing here (see above). It is fitted to the table of what all visits so far
    have added up to; a gradient step by each s, which is noisy, would hardly move it.
  * Every visit shows a pair in a random order, and meta pairs are judged in both: else a liking
    for "A" looks like progress, and v points there.
from J1 (2505.11875):
  * --cold-start 20 (off by default) puts 20 supervised steps on the judge's own right judgments in
    front.
  * --waits 2 (off by default): the paper forces Waits in tests and does not say whether in
    training. Here a pair draws at each visit how often its judgments go on after a forced Wait, 0
    to 2. The verdict of the last thought earns the reward, one without a verdict nothing; all
    thoughts are scored, the forced tokens are not.

Axes: B training pairs in a step, M meta pairs (M/2 different ones, each in both orders), G judgments
of each, N training pairs in all, D domains (groups of pairs, by default those whose problem has the
same `domain` and difficulty, and whose failing program the same policy), P trained parameters, T
answer tokens in a pack of R rows of W columns (kernels/packing.py), H hidden, V vocabulary.

`torchrun --nproc-per-node 8 -- train_bilevel.py ...` shares the batch between eight processes; the
result is the same. What is drawn and learned (index, a, s, statistics) is there of all processes.
What is sampled and scored (groups, advantages, gradients) is of one: in the shapes of these B and M
are its own share. here(x) is this process's share of x, gather(x) undoes that, and all_sum(x) adds
up over processes. In a single process the three do nothing. With --shard-base the processes share
the frozen weights under the adapters, too.
"""
import contextlib
import hashlib
import json
import math
import random
import shlex
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from data.explain import explained_rows, keep_largest, print_explained, visit_of
from data.fingerprint import fingerprint
from data.flags import check_bounds, flag, flag_of, heading, parse, run, stopped
from data.judge import (VERDICT, WAIT, judge_prompt, opened_thoughts, parse_verdict,
                        prompt_after_wait)
from data.lora import (add_gradients_of_rows, add_lora, can_split_by_row, checkpoint_layers,
                       merge_lora, recording_rows)
from data.page import write_page
from data.pairs import Pair, in_both_orders, read_pairs
from data.parallel import (RANK, WORLD_SIZE, all_sum, gather, here, join_processes, part_processes,
                           print0)
from data.rows import (EDGES, EDGES_PROBLEMS, ROOT, UserError, own_folder, read_rows, stage_input,
                       write_rows, write_whole)
from data.shards import equal_passes, shard_layers, whole_weights
from data.statistics import effective_size, mean
from data.text import decode, encode
from kernels import resolve_kernel, sum_by_sample, token_logprob, weighted_logprob_loss
from kernels.packing import empty_pack, make_packs
from sample import (Completion, context_length, end_ids, generate, load_model, pad_id, reason_of,
                    softcap_of, stream)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MIN_EFFECTIVE_SHARE = 0.5  # of the meta judgments; below it θ' is too far from θ for θ's judgments
SETTLING = 0.2  # of --freeze-judge-steps: the first of them, in which only averages move
ROUNDING = 0.05  # of what adapters have learned: a checkpoint that loses more says so
# Settings that may change when a killed run goes on.
MAY_CHANGE = (
    "out", "steps", "save_every", "micro_tokens", "checkpoint_gradients", "rollout_rows",
    "shard_base", "device",
)


@dataclass
class Settings:
    """Every flag, its default and what it does."""

    heading("data and files")
    problems: list = flag(lambda: list(EDGES_PROBLEMS), "problem files")
    labelled: str = flag(lambda: str(stage_input("labelled.jsonl")), "labelled candidates")
    judge: str = flag(str(EDGES / "judge"), "causal LM to start from: a name or a folder")
    out: str = flag("", "folder of this run (default runs/edges-WEIGHTS)")
    pairs_per_problem: int = flag(2, "most pairs made of one problem", least=1)
    allow_overlap: bool = flag(False, "train although splits share problems")

    heading("data weights (outer problem)")
    weights: str = flag(
        "instance",
        "what is learned: nothing, a number for each domain or pair, or a network",
        choices=["uniform", "domain", "instance", "net"],
    )
    apply: str = flag(
        "draw", "draw pairs by weight, or scale their loss", choices=["draw", "scale"]
    )
    domain_key: list = flag(lambda: ["domain", "difficulty", "policy"], "fields that make a domain")
    meta_batch: int = flag(
        6, "M: meta pairs in a step, half of them in the other order", least=WORLD_SIZE
    )
    meta_every: int = flag(
        1, "steps from one look at the meta pairs to the next; in between the running mean of the "
        "meta gradient stays as it is", least=1
    )
    meta_memory: int = flag(
        10, "K: about so many looks at the meta pairs does the running mean of the meta gradient "
        "go back; 1: the last alone", least=1
    )
    domain_lr: float = flag(0.2, "step of a domain's logit for one visit of normalised s", least=0)
    instance_lr: float = flag(
        0.5, "step of a pair's own logit for one visit of normalised s", least=0
    )
    net_lr: float = flag(
        2.0, "step of a pair's logit that the weight network is fitted to, for one visit of "
        "normalised s", least=0
    )
    weight_steps: int = flag(
        0, "GRPO steps in which weights are learned; the three step sizes above fall linearly to 0 "
        "over them; 0: all but the last seventh of --steps (a run that goes on with other --steps "
        "must say the number it began with)", least=0
    )
    uniform_share: float = flag(0.2, "share of the draws that stays uniform", least=0, below=1)
    freeze_judge_steps: int = flag(
        30, "first steps, after each of which the judge is put back; in all but the first fifth of "
        "them weights are learned", least=0
    )

    heading("GRPO (inner problem)")
    steps: int = flag(70, "GRPO steps", least=0)
    batch: int = flag(16, "B: training pairs in a step", least=WORLD_SIZE)
    group: int = flag(6, "G: judgments of each pair", least=2)
    max_new_tokens: int = flag(
        112, "most tokens of a judgment, with --waits of each of its thoughts; also the constant "
        "denominator", least=1
    )
    temperature: float = flag(1.0, "of the judge, when it samples and when it is scored", above=0)
    reward: str = flag(
        "right",
        "what pays: a right verdict, or only one that is right in both orders (2505.10320); a cold "
        "start keeps right verdicts either way",
        choices=["right", "consistent"],
    )
    waits: int = flag(
        0, "most forced Waits in a judgment (J1): each pair draws 0 to so many at every visit; "
        "evaluations have none",
        least=0,
    )
    cold_start: int = flag(
        0, "supervised steps in front, on the judge's own right judgments", least=0
    )

    heading("optimizer")
    lr: float = flag(2e-4, "η of the judge", above=0)
    beta1: float = flag(0.9, "β₁ of Adam", least=0, below=1)
    beta2: float = flag(0.99, "β₂ of Adam", least=0, below=1)
    adam_eps: float = flag(1e-8, "ε of Adam", above=0)
    clip_grad: float = flag(1.0, "C: largest global norm of g; 0 is no clip", least=0)
    lora_rank: int = flag(0, "rank of LoRA adapters; 0 trains all parameters", least=0)
    lora_alpha: float = flag(32.0, "LoRA scale is alpha / rank", above=0)

    heading("hypergradient")
    jacobian: str = flag(
        "frozen", "∂U/∂g of Adam: frozen preconditioner or exact", choices=["frozen", "exact"]
    )
    check_hypergradient: int = flag(20, "steps between checks of how noisy s is; 0 never", least=0)

    heading("controls of the evidence")
    train_split: list = flag(
        lambda: ["train"], "splits whose pairs are trained on", choices=["train", "meta"]
    )
    meta_problems: int = flag(
        0, "use the first so many of the meta problems that have pairs; 0: all", least=0
    )
    train_only: list = flag(
        list, "train only on pairs with these FIELD=VALUE, such as policy=strong"
    )
    shuffle_weights: str = flag(
        "", "keep the weights of this other run's weights.jsonl, dealt out to random pairs"
    )

    heading("evaluation and checkpoints")
    eval_split: str = flag("test", "split of the evaluation pairs; nothing is chosen by it")
    eval_every: int = flag(
        20,
        "steps between evaluations; 0: only at the start, after a cold start and at the end",
        least=0,
    )
    save_every: int = flag(5, "steps between checkpoints that a killed run continues from", least=1)
    explain_weights: bool = flag(
        False, "train nothing: print which pairs of the run in --out count most and least, and why"
    )

    heading("machine")
    micro_tokens: int = flag(
        16384, "most tokens in one forward pass; lower it where memory runs out", least=1
    )
    rollout_rows: int = flag(
        0, "most judgments that are sampled at once; 0: all of a step; lower it where the cache of "
        "keys and values runs out of memory", least=0
    )
    checkpoint_gradients: bool = flag(
        False, "compute each layer once more for the way back instead of keeping what is in it"
    )
    shard_base: bool = flag(
        False, "under torchrun with --lora-rank, for a judge that is too large for one GPU: each "
        "process keeps its part of every layer's frozen weights, and a layer is gathered while it "
        "is computed"
    )
    kernel: str = flag("auto", "log-prob kernel", choices=["auto", "triton", "torch"])
    dtype: str = flag(
        "auto",
        "of the judge; auto: fp32, and under adapters on a GPU the checkpoint's own",
        choices=["auto", "float32", "bfloat16", "float64"],
    )
    seed: int = flag(0, "of pairs, batches and judgments", least=0, below=2**63)
    device: str = flag(DEVICE, "torch device")

    def __post_init__(self):
        check_bounds(self)
        if not self.out:
            self.out = str(ROOT / f"runs/edges-{self.weights}")
        if self.weights != "uniform" and not self.weight_steps:
            self.weight_steps = self.steps - self.steps // 7
        if not self.steps and not self.cold_start:
            raise UserError("--steps 0: nothing to do; give a number of steps, or --cold-start")
        if self.dtype == "bfloat16" and not self.lora_rank:
            raise UserError("--dtype bfloat16: what is trained must be fp32, "
                            "so it goes with --lora-rank, whose adapters are")
        if self.shard_base and not (self.lora_rank and WORLD_SIZE > 1):
            raise UserError("--shard-base: what is frozen is shared out between processes, so it "
                            "goes with --lora-rank and torchrun --nproc-per-node 2 or more")
        if self.meta_batch % 2:
            raise UserError(f"--meta-batch {self.meta_batch}: must be even, "
                            "as each meta pair is judged in both orders")
        if self.eval_split in self.train_split:
            raise UserError(f"--eval-split {self.eval_split}: the judge is trained on it")
        if self.eval_split == "meta" and self.weights != "uniform" and self.steps:
            raise UserError("--eval-split meta: the weights are learned on it")
        if self.steps and self.freeze_judge_steps >= self.steps:
            raise UserError(f"--freeze-judge-steps {self.freeze_judge_steps}: "
                            f"the judge would never move in --steps {self.steps}")


# ---------------------------------------------------------------- one step

class Trainer:
    """The judge, its optimizer and the data weights, and the step that moves all three."""

    def __init__(self, cfg, train_pairs, meta_pairs):
        self.cfg = cfg
        self.judge = Judge(cfg.judge, cfg)
        self.train_pairs = self.judge.fitting(train_pairs, "training")
        self.meta_pairs = self.judge.fitting(meta_pairs, "meta")
        refuse_idle_processes(cfg, self.train_pairs, self.meta_pairs)
        self.parameters = FlatParameters(self.judge.model)
        self.adam = Adam(self.parameters, cfg)
        self.data_weights = DataWeights(self.train_pairs, cfg)
        self.v_mean = torch.zeros_like(self.parameters.theta)  # v̄, the running mean of v
        self.v_count = 0                                       # of how many looks at meta pairs
        # Was there such a look, and did the last one leave an effective sample?
        self.look_is_usable = False
        self.moved = [[] for _ in self.train_pairs]  # of each pair the visits that moved it most

    def train_step(self, step):
        """One inner and one outer step. step: how many were taken before. Returns its metrics."""
        cfg = self.cfg
        judge = self.judge
        parameters = self.parameters
        grpo_step = step - cfg.cold_start
        learns = cfg.weights != "uniform" and grpo_step < cfg.weight_steps
        looks = learns and grpo_step % cfg.meta_every == 0  # at meta pairs
        timer = Timer()

        # 1. Draw and judge: B training pairs by their weights, M meta pairs, and G judgments of
        #    each by the judge at θ.
        index, a = self.data_weights.draw(stream(cfg.seed, "draw", step))  # [B] pairs, [B] a_i
        pairs = self.in_random_order(index, step)                          # B
        meta_pairs = self.draw_meta_pairs(step) if looks else []           # M
        groups, meta_groups = self.judge_pairs(pairs, meta_pairs, step)
        advantage = group_advantage(rewards_of(groups))                    # [B, G]
        stats = judgment_statistics(groups, judge)                         # {name: [B]}
        varied = stats["zero_variance"] == 0  # [B] did a pair's judgments earn different rewards?
        self.data_weights.observe(index, stats)  # counts visits; what --weights net goes by
        meta = MetaJudgments.of(judge, meta_groups) if looks else None
        timer.lap("rollout")

        # 2. Inner step: g = (1/B) Σ_i a_i ∇ℓ_i(θ) and θ' = θ − η U(g).
        theta = parameters.theta.clone()
        pair_by_pair = learns and not judge.gradients_by_row
        batch = make_batch(judge, groups, advantage, pair_by_pair)
        if learns:
            # ∇ℓ_i(θ) [B, P]; leaves g in parameters.grad
            loss, gradients = pair_gradients(judge, parameters, batch, a)
        else:
            loss = batch_gradient(judge, parameters, batch, a)  # the same g, without its parts
        self.must_be_finite(step, index, loss, float(parameters.grad.norm()))
        self.adam.step()  # from here on the parameters are θ'
        timer.lap("gradient")

        # 3. Outer step: would a larger weight of pair i have made θ' better for the meta pairs?
        outer = {}
        if learns:
            outer = self.outer_step(step, theta, index, groups, varied, gradients, meta)

        # 4. While the judge is to stand still, it has only looked at θ' and goes back to θ.
        if grpo_step < cfg.freeze_judge_steps:
            parameters.set(theta)
        timer.lap("outer")

        metrics = self.step_metrics(step, loss, stats)
        metrics["exact_entropy"] = mean_entropy(batch)
        return {**metrics, **outer, **self.weight_metrics(), "seconds": timer.laps}

    def outer_step(self, step, theta, index, groups, varied, gradients, meta):
        """The hypergradient s of the weights of this step's pairs, and their move by it.

        theta: θ [P], while the parameters are θ'. index: [B] the pairs. varied: [B] those whose
        judgments earned different rewards; s of the others is 0. gradients: ∇ℓ_i(θ) [B, P].
        meta: MetaJudgments, or None between two looks at the meta pairs.
        Returns its metrics.
        """
        metrics = {}
        if meta:
            # v = ∇L_meta(θ') [P]
            v, importance = meta_gradient(self.judge, self.parameters, meta.batch, meta.logprob)
            metrics = {
                "meta_reward": meta.reward,
                "meta_grad_norm": float(v.norm()),
                "meta_effective_share": effective_share(importance, meta.batch),
            }
            self.must_be_finite(step, index, metrics["meta_grad_norm"], theta=theta)
            self.look_is_usable = metrics["meta_effective_share"] >= MIN_EFFECTIVE_SHARE
            if self.look_is_usable:
                # v̄ ← v̄ + (v − v̄)/K [P] with K = --meta-memory; at first it is the plain mean
                self.v_count += 1
                self.v_mean += (v - self.v_mean) / min(self.v_count, self.cfg.meta_memory)
            else:
                warn_of_small_share(step, metrics["meta_effective_share"])

        if self.look_is_usable:
            # ṽ = (∂U/∂g)ᵀ v̄ [P],  s_i = ⟨∇ℓ_i(θ), ṽ⟩ [B]
            v_tilde = self.adam.jacobian_transpose(self.v_mean)
            s = gather(gradients @ v_tilde).cpu()  # of the pairs of all processes
            self.must_be_finite(step, index, float(s.sum()), theta=theta)
            self.move_weights(step, index, s, groups, varied)

        every = self.cfg.check_hypergradient
        grpo_step = step - self.cfg.cold_start
        # Every so many steps, or at the first look at meta pairs after that.
        if meta and every and grpo_step % every < self.cfg.meta_every:
            metrics |= check_hypergradient(self, theta, v, meta, gradients, varied)
        return metrics

    def move_weights(self, step, index, s, groups, varied):
        """Pairs with s_i > 0 count more from now on, once the averages have settled."""
        grpo_step = step - self.cfg.cold_start
        if grpo_step < SETTLING * self.cfg.freeze_judge_steps:
            return
        if self.adam.clipped and int(varied.sum()) == 1:
            return  # g is that pair's alone, and the clip gives it one length, whatever its weight
        pace = 1 - grpo_step / self.cfg.weight_steps
        unit_s, move = self.data_weights.update(index, s, varied, pace)
        self.remember(step, index, unit_s, move, groups)

    def in_random_order(self, index, step):
        """The pairs with these indices [B], each in a random order, so that "A" is no answer."""
        flip = torch.rand(len(index), generator=stream(self.cfg.seed, "order", step)) < 0.5
        pairs = []
        for i, flipped in zip(index, flip):
            pair = self.train_pairs[i]
            pairs.append(pair.flipped() if flipped else pair)
        return pairs

    def draw_meta_pairs(self, step):
        """M meta pairs: M/2 different ones, each in both orders.

        So a judge gains nothing by a liking for "A", and v does not point there.
        """
        generator = stream(self.cfg.seed, "meta", step)
        order = torch.randperm(len(self.meta_pairs), generator=generator)
        half = order[:self.cfg.meta_batch // 2]
        return in_both_orders([self.meta_pairs[i] for i in half])

    def judge_pairs(self, pairs, meta_pairs, step):
        """G judgments of each of these pairs: [Group] of the training and of the meta pairs.

        Only of the pairs of this process. In one go: decoding a batch twice as large costs less
        than decoding twice. Every pair has a random stream of its own.
        """
        train = here(list(enumerate(pairs)))
        meta = here([(f"meta {k}", pair) for k, pair in enumerate(meta_pairs)])
        named = train + meta  # (name of the random stream, Pair)
        with equal_passes(self.judge):
            groups = self.sample_judgments("rollout", named, step)
            if self.cfg.reward == "consistent":
                groups = self.rewarded_in_both_orders(groups, named, step)
        n_train = len(train)
        return groups[:n_train], groups[n_train:]

    def sample_judgments(self, purpose, named, step):
        """G judgments of each (name, Pair), with the Waits that its name draws at this step."""
        cfg = self.cfg
        streams = [stream(cfg.seed, purpose, step, name) for name, _ in named]
        waits = [draw_waits(stream(cfg.seed, "waits", step, name), cfg.waits) for name, _ in named]
        groups = self.judge.rollout([pair for _, pair in named], streams, cfg.group)
        return force_waits(self.judge, groups, streams, waits)

    def rewarded_in_both_orders(self, groups, named, step):
        """The groups, paying judgment k only if judgment k of the other order is right as well.

        The judgments of the other order are only asked for; those of this order are trained on,
        and which order that is changes from visit to visit.
        """
        flipped = [(name, pair.flipped()) for name, pair in named]
        others = self.sample_judgments("other order", flipped, step)
        rewarded = []
        for group, other in zip(groups, others):
            both = [min(this, that) for this, that in zip(group.rewards, other.rewards)]
            rewarded.append(replace(group, rewards=both))
        return rewarded

    def remember(self, step, index, unit_s, move, groups):
        """Keep, of each of these pairs [B], the visits and judgments that moved its weight most."""
        visits = []
        for s_i, move_i, group in zip(here(unit_s).tolist(), here(move).tolist(), groups):
            right = group.pair.right
            visits.append(visit_of(step + 1, s_i, move_i, right, group.texts, group.rewards))
        for i, visit in zip(index.tolist(), gather(visits)):
            self.moved[i] = keep_largest(self.moved[i], visit)

    def step_metrics(self, step, loss, stats):
        """What every step, supervised or not, writes to metrics.jsonl."""
        metrics = {
            "step": step + 1,
            "cold": step < self.cfg.cold_start,
            "loss": loss,
            "grad_norm": self.adam.grad_norm,
            "clipped": self.adam.clipped,
        }
        for name in ("reward", "parse_rate", "truncated", "zero_variance", "tokens"):
            metrics[name] = float(stats[name].mean())
        # The mean of −log π over sampled tokens estimates the entropy without bias, over all
        # judgments. (Not for a cold start's older ones, and with --waits the ends that were taken
        # back are in the sum.)
        tokens = stats["tokens"]
        nll = (stats["nll"] * tokens).sum()
        metrics["entropy"] = float(nll / tokens.sum())
        return metrics

    def weight_metrics(self):
        """The mean weight of each domain."""
        means = self.data_weights.domain_means()
        return {"weight": dict(zip(self.data_weights.domains, means))}

    def must_be_finite(self, step, index, *values, theta=None):
        """Stop where the step has made NaN or infinity; θ is put back first, where it has moved."""
        if all(map(math.isfinite, values)):
            return
        if theta is not None:
            self.parameters.set(theta)
        pairs = ", ".join(self.train_pairs[i].instance_id for i in index)
        checkpoint = Path(self.cfg.out) / "state.pt"
        raise UserError(
            f"step {step + 1}: the loss, its gradient or the hypergradient is not finite, on "
            f"{pairs}; the last good checkpoint, if there is one, is {checkpoint}: "
            "try a smaller --lr or --clip-grad"
        )


def refuse_idle_processes(cfg, train_pairs, meta_pairs):
    """Raise UserError if a step has fewer pairs than processes: each needs one of either kind."""
    pairs = {"training": min(cfg.batch, len(train_pairs))}
    if cfg.weights != "uniform":
        pairs["meta"] = min(cfg.meta_batch, 2 * len(meta_pairs))
    for name, most in pairs.items():
        if most < WORLD_SIZE:
            raise UserError(f"a step has {most} {name} pairs for {WORLD_SIZE} processes: "
                            "start fewer, or bring more problems")


def warn_of_small_share(step, share):
    if RANK == 0:
        tqdm.write(
            f"step {step + 1}: the weights learn nothing, θ' judges too differently from θ "
            f"(effective share {share:.2f} of the meta judgments, "
            f"less than {MIN_EFFECTIVE_SHARE}); if this goes on, try a smaller --lr"
        )


# ---------------------------------------------------------------- reward and advantage

def reward(pair, text):
    """What a judgment earns: 1 if its verdict names the program that passed.

    Else 0, also for one without a verdict.

    text: the judgment; "" for one that was cut off before its end.
    This is the place for another reward. Any number will do: partial credit, a penalty.
    """
    return 1.0 if parse_verdict(text) == pair.right else 0.0


def rewards_of(groups):
    """[B, G]"""
    return torch.tensor([group.rewards for group in groups], dtype=torch.float32)


def group_advantage(rewards):
    """A = r − mean over the group [B, G].

    Exactly 0 for a group of equal rewards, whatever the mean rounds to.
    """
    highest = rewards.amax(1, keepdim=True)
    lowest = rewards.amin(1, keepdim=True)
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred.masked_fill(highest == lowest, 0.0)


def leave_one_out(rewards):
    """A_k = r_k − mean of the others' rewards [M, G].

    An unbiased baseline for the meta loss (2402.14740).
    """
    G = rewards.shape[1]
    # r_k − (Σ r − r_k) / (G − 1)  =  G / (G − 1) · (r_k − mean)
    return group_advantage(rewards) * G / (G - 1)


# ---------------------------------------------------------------- the GRPO loss
# GRPO is 2402.03300; the loss is as in Dr. GRPO, 2503.20783.

@dataclass
class Batch:
    """The judgments of B pairs as they are scored. Judgment k of pair i is sample i·G + k."""
    packs: list                 # kernels.packing.Pack, T answer tokens each
    n_pairs: int                # B, of this process
    n_all: int                  # of all processes
    group: int                  # G
    advantage: torch.Tensor     # [B·G]
    scale: torch.Tensor         # [] 1 / (G · max_new_tokens)
    # [tokens] of each pack that `pair_losses` has scored: the entropy of π at each token
    entropies: list = field(default_factory=list)


def make_batch(judge, groups, advantage, pair_by_pair=False):
    """Groups and their advantages [B, G] as a Batch.

    A judgment without advantage has no gradient: it is not scored.
    pair_by_pair: no pack holds judgments of two pairs.
    """
    cfg = judge.cfg
    prompts = [group.prompt for group in groups]
    completions = [completion for group in groups for completion in group.completions]
    packs = make_packs(
        prompts,
        [completion.ids for completion in completions],
        judge.pad,
        most_tokens=cfg.micro_tokens,
        device=cfg.device,
        one_row=pair_by_pair,
        keep=advantage != 0,
        forced=[completion.forced for completion in completions],
    )
    if cfg.shard_base:  # as many in all processes
        most = max(gather([len(packs)]))
        packs += [empty_pack(judge.pad, cfg.device)] * (most - len(packs))
    n_judgments = advantage.shape[1]
    scale = 1 / (n_judgments * cfg.max_new_tokens)
    return Batch(
        packs=packs,
        n_pairs=len(groups),
        n_all=sum(gather([len(groups)])),
        group=n_judgments,
        advantage=advantage.flatten().to(cfg.device),
        scale=torch.tensor(scale, device=cfg.device),
    )


def token_loss(logp, old_logp, advantage, clip=(0.2, 0.28)):
    """The GRPO loss of each token [T].

        f = −min(ρA, clip(ρ, 1 − ε_low, 1 + ε_high) A),  ρ = π_θ / π_old

    with the two bounds of DAPO (2503.14476). They would come into play where a batch serves more
    than one optimizer step. Here ρ is always 1; they stand here because the paper's loss has them.

    logp, old_logp: [T] log-probs of the tokens; advantage: [T] of the judgments that they are
    part of.
    """
    epsilon_low, epsilon_high = clip
    ratio = (logp - old_logp).exp()
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def pair_losses(judge, pack, batch):
    """What one pack adds to ℓ [B].

        ℓ_i = Σ_k Σ_t f_t / (G · max_new_tokens),  k over judgments and t over their tokens

    There is one optimizer step for each batch, so the judge that sampled is the judge that is
    scored, and ρ = 1. The ratio stands in the loss because its gradient is the policy gradient:
    ∇f = −A ∇log π. The entropies at its tokens are added to those of the batch.
    """
    n = len(batch.advantage)  # B·G judgments
    logp, entropy = judge.score_with_entropy(pack)                            # [T], [T]
    batch.entropies.append(entropy)
    f = token_loss(logp, logp.detach(), batch.advantage[pack.sample])         # [T]
    by_judgment = sum_by_sample(f, pack.sample, n, token_weight=batch.scale)  # [B·G]
    return by_judgment.view(batch.n_pairs, -1).sum(1)


def mean_entropy(batch):
    """The entropy of π in nats, exact, in the mean over the tokens that all processes have scored.

    Those are of judgments with an advantage. None if there was none.
    """
    total = torch.zeros(2, dtype=torch.float64, device=batch.advantage.device)  # its sum, tokens
    for entropy in batch.entropies:
        total[0] += entropy.sum()
        total[1] += len(entropy)
    total, tokens = all_sum(total).tolist()
    return total / tokens if tokens else None


def pair_gradients(judge, parameters, batch, a):
    """The loss, and ∇ℓ_i(θ) of each pair of this process [B, P].

    Leaves g = (1/B) Σ_i a_i ∇ℓ_i(θ) in parameters.grad.

    batch: made pair by pair, unless Judge.gradients_by_row.
    a: [B] the factors a_i of the pairs of all processes.

    A backward pass for each pair instead of one for many, or a few products more in it, and B·P
    numbers kept: that is all that the hypergradient costs at θ.
    """
    a_here = here(a).to(parameters.theta)  # of its dtype and on its device
    losses = torch.zeros_like(a_here)
    gradients = parameters.theta.new_zeros(batch.n_pairs, len(parameters.theta))
    for pack in batch.packs:
        pair_of_row = pairs_of_rows(pack, batch)  # [R]; a pair may have several rows, and packs
        parameters.grad.zero_()
        with recording_rows(judge.model, len(pair_of_row) > 1):
            of_pack = pair_losses(judge, pack, batch)  # [B]
            of_pack.sum().backward()
            losses += of_pack.detach()
            if len(pair_of_row) == 1:
                gradients[pair_of_row[0]] += parameters.grad
            else:
                add_gradients_of_rows(judge.model, pair_of_row, gradients)
    parameters.grad.copy_(a_here @ gradients / batch.n_all)
    all_sum(parameters.grad)
    total = all_sum(a_here @ losses / batch.n_all)
    return float(total), gradients


def pairs_of_rows(pack, batch):
    """Which pair, of this process, the judgments in each row of a pack are of: [R]."""
    pair_of_row = torch.zeros(len(pack.ids), dtype=torch.long, device=pack.row.device)
    pair_of_row[pack.row] = pack.sample // batch.group  # all tokens of a row say the same
    return pair_of_row


def batch_gradient(judge, parameters, batch, a):
    """g = (1/B) Σ_i a_i ∇ℓ_i(θ), left in parameters.grad. Returns the loss.

    a: [B] the factors a_i of the pairs of all processes.
    """
    a_here = here(a).to(parameters.theta)

    def losses():
        for pack in batch.packs:
            yield (a_here * pair_losses(judge, pack, batch)).sum() / batch.n_all

    return gradient_of_sum(parameters, losses())


def gradient_of_sum(parameters, losses):
    """The sum of some losses, over all processes; leaves its gradient in parameters.grad.

    losses: a generator, so that one graph is gone before the next is made.
    """
    total = parameters.theta.new_zeros(1)
    parameters.grad.zero_()
    for loss in losses:
        loss.backward()
        total += loss.detach()
    all_sum(parameters.grad)
    return float(all_sum(total))


# ---------------------------------------------------------------- the meta loss and its gradient v

@dataclass
class MetaJudgments:
    """Judgments of meta pairs by the judge at θ. At θ' each of them counts by π_θ'/π_θ."""
    batch: Batch           # with leave-one-out advantages
    logprob: torch.Tensor  # log π_θ [M·G]
    reward: float          # their mean, of all processes

    @classmethod
    def of(cls, judge, groups):
        rewards = rewards_of(groups)                            # [M, G]
        batch = make_batch(judge, groups, leave_one_out(rewards))
        logprob = logprob_of_judgments(judge, groups, batch)    # [M·G]
        reward = mean(gather(rewards.mean(1)).tolist())
        return cls(batch, logprob, reward)


def meta_loss_of_pack(judge, pack, batch, logprob):
    """What one pack adds to L_meta, and the importance ρ [M·G] of its judgments.

        L_meta(θ') = −(1/M) Σ_i Σ_k ρ_ik A_ik / (G · max_new_tokens)
        ρ_ik = π_θ'(judgment k of pair i) / π_θ(judgment k of pair i)

    Minus the expected reward of the judge at θ', but for a baseline (A is r − that) and the factor
    1/max_new_tokens, estimated from judgments of θ: ρ, here of whole judgments, makes up for who
    has sampled them. The gradient is the policy gradient, ∇ρ = ρ ∇log π.

    logprob: [M·G] log π_θ of whole judgments. Of judgments in other packs ρ is given as 0.
    """
    now = judge.judgment_logprobs(pack, len(logprob))  # [M·G]
    importance = torch.zeros_like(now)
    scored = pack.sample.unique()
    importance[scored] = (now - logprob)[scored].exp()
    loss = -(importance * batch.advantage).sum() * batch.scale / batch.n_all
    return loss, importance.detach()


def meta_gradient(judge, parameters, batch, logprob):
    """v = ∇L_meta(θ') [P] at the parameters as they are, and the judgments' importance [M·G]."""
    importance = torch.zeros_like(logprob)
    parameters.grad.zero_()
    for pack in batch.packs:
        loss, of_pack = meta_loss_of_pack(judge, pack, batch, logprob)
        loss.backward()
        importance += of_pack
    return all_sum(parameters.grad).clone(), importance


def logprob_of_judgments(judge, groups, batch):
    """log π_θ of each whole judgment, [M·G] fp64.

    The sampler has summed it up. In fp32 its sums agree with the scorer's to 1e-5 (test_12) and
    save a forward pass. In half precision they do not: over 1,024 tokens the difference alone would
    halve the effective sample. So there, and with --waits, the judgments are scored once more.
    """
    exact = judge.model.dtype in (torch.float32, torch.float64)
    if exact and not judge.cfg.waits:  # the sampler's sums hold end tokens that were taken back
        completions = [completion for group in groups for completion in group.completions]
        sampled = [completion.logprob_sampled for completion in completions]
        return torch.tensor(sampled, dtype=torch.float64, device=batch.advantage.device)
    return scored_logprob(judge, batch)


@torch.no_grad()
def scored_logprob(judge, batch):
    """log π of each whole judgment of a batch by a forward pass, [M·G] fp64; 0 if not scored."""
    total = torch.zeros_like(batch.advantage, dtype=torch.float64)
    for pack in batch.packs:
        total += judge.judgment_logprobs(pack, len(total))
    return total


def effective_share(importance, batch):
    """Effective sample size of the n scored meta judgments by their number, (Σρ)² / (n Σρ²).

    But no more than their mean ρ, which is 1 where they still are a sample of what θ' says. So it
    is 1 if θ' judges as θ does, and 0 if it would give none of these judgments any more. Of all
    processes. importance: ρ [M·G].
    """
    rho = importance[batch.advantage != 0]
    sums = torch.stack([rho.sum(), (rho ** 2).sum(), torch.ones_like(rho).sum()])
    total, squares, n = all_sum(sums).tolist()
    if n == 0:
        return 1.0
    if not 0 < squares < math.inf:
        return 0.0
    return min(total ** 2 / (n * squares), total / n)


# ---------------------------------------------------------------- Adam, and its Jacobian

class FlatParameters:
    """The trainable parameters as one vector θ, and their gradient as another.

    The model's own parameters are views into `theta`, and their .grad into `grad`: to set θ is to
    set the model.
    """

    def __init__(self, model):
        self.tensors = [p for p in model.parameters() if p.requires_grad]
        self.theta = torch.cat([p.data.flatten() for p in self.tensors])
        self.grad = torch.zeros_like(self.theta)
        start = 0
        for p in self.tensors:
            end = start + p.numel()
            p.data = self.theta[start:end].view_as(p)
            p.grad = self.grad[start:end].view_as(p)
            start = end

    def set(self, theta):
        self.theta.copy_(theta)


class Adam:
    """Adam with a clip of the gradient's norm, by hand, so that its Jacobian is in plain sight.

        g ← g · min(1, C/‖g‖)
        m₁ ← β₁m₁ + (1−β₁)g         m₂ ← β₂m₂ + (1−β₂)g²          (exp_avg, exp_avg_sq)
        U(g) = (m₁/c₁) / (q + ε)    with q = √(m₂/c₂) and the bias corrections c_k = 1 − β_kᵗ
    """

    def __init__(self, parameters, cfg):
        self.parameters = parameters
        self.cfg = cfg
        self.exp_avg = torch.zeros_like(parameters.theta)
        self.exp_avg_sq = torch.zeros_like(parameters.theta)
        self.t = 0
        self.raw_grad = torch.zeros_like(parameters.theta)  # of the last step, before the clip
        self.grad_norm = 0.0                                # its norm
        self.clipped = False

    def restart(self):
        self.exp_avg.zero_()
        self.exp_avg_sq.zero_()
        self.t = 0

    def step(self):
        """θ' = θ − η U(g), with the gradient that is in parameters.grad."""
        cfg = self.cfg
        self.raw_grad.copy_(self.parameters.grad)
        self.grad_norm = float(self.raw_grad.norm())
        self.clipped = cfg.clip_grad > 0 and self.grad_norm > cfg.clip_grad
        self.t += 1
        g = self.clipped_grad()
        self.exp_avg.mul_(cfg.beta1).add_(g, alpha=1 - cfg.beta1)
        self.exp_avg_sq.mul_(cfg.beta2).addcmul_(g, g, value=1 - cfg.beta2)
        c1, _ = self.bias_corrections()
        numerator = self.exp_avg / c1
        denominator = self.q() + cfg.adam_eps
        self.parameters.theta.sub_(cfg.lr * numerator / denominator)

    def clipped_grad(self):
        if not self.clipped:
            return self.raw_grad
        return self.raw_grad * (self.cfg.clip_grad / self.grad_norm)

    def bias_corrections(self):
        c1 = 1 - self.cfg.beta1 ** self.t
        c2 = 1 - self.cfg.beta2 ** self.t
        return c1, c2

    def q(self):
        _, c2 = self.bias_corrections()
        return (self.exp_avg_sq / c2).sqrt()

    def jacobian_transpose(self, v):
        """ṽ = (∂U/∂g)ᵀ v at the step just taken.

        Adam works by coordinate, so its Jacobian is a diagonal J and its transpose the same:

            frozen    J = (1−β₁) / (c₁(q+ε))                     preconditioner q taken as given
            exact     J = the same − m₁(1−β₂)g / (c₁c₂ q(q+ε)²)  q moves with g, too
            an active clip, which comes first in U and so last here:
                      ṽ ← (C/‖g‖) (ṽ − ĝ⟨ĝ, ṽ⟩)                  ĝ = g/‖g‖ before the clip
        """
        cfg = self.cfg
        c1, c2 = self.bias_corrections()
        q = self.q()
        denominator = q + cfg.adam_eps  # of U
        J = (1 - cfg.beta1) / (c1 * denominator)  # [P]
        if cfg.jacobian == "exact":
            q_moves = self.exp_avg * (1 - cfg.beta2) * self.clipped_grad()
            J = J - q_moves / (c1 * c2 * q * denominator ** 2)
        # Where q = 0 no gradient has arrived yet (LoRA's A while B = 0): ∇ℓ_i is 0 there and adds
        # nothing to s, but the exact J would be 0/0.
        v_tilde = torch.where(q > 0, J * v, 0.0)
        if self.clipped:
            shrink = cfg.clip_grad / self.grad_norm
            unit = self.raw_grad / self.grad_norm
            along = unit @ v_tilde
            v_tilde = shrink * (v_tilde - unit * along)
        return v_tilde


# ---------------------------------------------------------------- data weights

class DataWeights:
    """The learned weights w_i(ω) ≥ 0 of N training pairs, with mean one over the training set.

        uniform    w_i = 1
        domain     z_i = ω_domain(i)          a number for each domain
        instance   z_i = ω_domain(i) + ω_i    pooled evidence first, a pair's own as it comes in
        net        z_i = MLP(domain of i, what the visits of i showed), fitted to a table ω_i

        draw       w_i = N·p_i,  p_i = (1−γ)·softmax(z)_i + γ/N   p_i is the chance of being drawn
                                                                  first; a_i in the loss is 1
        scale      w_i = N·softmax(z)_i (domain), or              all are drawn alike, and a_i = w_i
                   2σ(z_i) over its mean (instance, net)

    with γ = --uniform-share. They start uniform. Every learned number ω, and for net the output,
    stays within ±BOUND. A pair's or a domain's own number ω moves only where it is visited. (With
    --shuffle-weights, the weights of another run take the place of w_i = 1.)
    """
    BOUND = 3.0      # of each number ω: but for γ, a pair is at most e⁶ times as likely as one of
                     # another domain, under `instance`, where two of them add up, e¹²
    MEMORY = 0.8     # of the running mean of |s|: about five steps
    OUTLIER = 3.0    # times that mean is all that one s may count
    # Adam steps that fit the network after each step, and their size. Its table has moved little,
    # so a few short ones from where it was are enough.
    FIT_STEPS = 20
    FIT_LR = 0.01
    # What the network sees of a pair besides its domain: whether it was visited, and what its
    # visits showed (judgment_statistics).
    SHOWN = ("reward", "variance", "length_gain", "nll", "tokens", "verdict_nll")
    FEATURES = ("visited", *SHOWN)

    def __init__(self, pairs, cfg):
        self.cfg = cfg
        self.domains = sorted({pair.domain for pair in pairs})
        number = {domain: k for k, domain in enumerate(self.domains)}
        n = len(pairs)
        n_features = len(self.FEATURES)
        n_inputs = len(self.domains) + n_features
        self.domain_id = torch.tensor([number[pair.domain] for pair in pairs])    # [N]
        self.domain_logit = torch.zeros(len(self.domains))                        # [D]
        self.pair_logit = torch.zeros(n)                                          # [N]
        self.features = torch.zeros(n, n_features)                                # [N, features]
        self.net = weight_network(n_inputs, cfg.seed)
        self.net_logit = torch.zeros(n)                                           # [N]
        self.net_adam = torch.optim.Adam(self.net.parameters(), lr=self.FIT_LR)
        self.magnitude = 0.0  # running mean of |s|
        self.visits = torch.zeros(n, dtype=torch.long)
        self.informed = torch.zeros(n, dtype=torch.long)  # visits that could move ω
        self.fixed = torch.ones(n)
        if cfg.shuffle_weights:
            self.fixed = shuffled_weights(n, cfg)

    def logits(self):
        """z(ω) [N]"""
        if self.cfg.weights == "net":
            return self.net_logit
        z = self.domain_logit[self.domain_id]
        if self.cfg.weights == "instance":
            z = z + self.pair_logit
        return z

    @torch.no_grad()
    def w(self):
        """w [N], mean one."""
        cfg = self.cfg
        n = len(self.domain_id)
        if cfg.weights == "uniform":
            return self.fixed
        z = self.logits()
        if cfg.apply == "draw":
            return (1 - cfg.uniform_share) * n * z.softmax(0) + cfg.uniform_share
        if cfg.weights == "domain":
            w = n * z.softmax(0)
        else:
            w = 2 * z.sigmoid()
        return w / w.mean()

    def domain_means(self):
        """The mean weight of each domain, in the order of `domains`."""
        total = torch.bincount(self.domain_id, self.w().double())
        n_pairs = torch.bincount(self.domain_id)
        return (total / n_pairs).tolist()

    def draw(self, generator):
        """B different pairs [B], and the factor a of each in the loss [B].

        Where pairs are drawn by weight, it is 1.
        """
        w = self.w()
        size = min(self.cfg.batch, len(w))
        if self.cfg.apply == "draw":
            index = torch.multinomial(w, size, generator=generator)
            return index, torch.ones(size)
        index = torch.multinomial(torch.ones_like(w), size, generator=generator)
        return index, w[index]

    def observe(self, index, stats):
        """Remember what a visit of these pairs [B] showed.

        Detached: the judge cannot move its weights through it.
        """
        visited = torch.ones(len(index))
        shown = torch.stack([visited, *(stats[name] for name in self.SHOWN)], 1)
        # The mean over a pair's visits: one visit of G judgments says little.
        self.visits[index] += 1
        n_visits = self.visits[index, None]
        self.features[index] += (shown - self.features[index]) / n_visits

    def update(self, index, s, varied, pace):
        """Move ω so that pairs with s_i > 0 count more.

        index, s, varied: [B] the pairs of the step, their s, and which of them had judgments of
        different rewards. The others have advantage 0, so their s is 0 and says nothing about them.
        (Neither does an s that is 0 for all of them, because no meta pair had such judgments.)
        pace: what the step sizes are multiplied by, 1 − GRPO steps taken / --weight-steps.

        Only the sign and the relative size of s are trusted: it is divided by its running mean
        magnitude and clamped to ±3. Then every logit z_i is to move, but for the step size, by

            draw     s_i, for all N pairs. But s_i is known only for the B that were drawn, and pair
                     i is drawn about w_i = N·p_i times as often as at random. So by s_i / w_i if it
                     was drawn, else by 0: in the mean over draws that is right. (The B pairs are
                     all different, so heavy ones are drawn somewhat less often.)
            scale    s_i ∂w_i/∂z_i, which climbs Σ_i s_i w_i (with the sum of the softmax held
                     fixed, and for 2σ without its mean)

        A domain's logit adds up the moves of its pairs, so a large domain moves faster.

        Returns s as it was trusted, and by how much the logits were to move: [B], [B].
        """
        if not s[varied].any():
            return torch.zeros(len(index)), torch.zeros(len(index))
        self.informed[index[varied]] += 1
        size = float(s[varied].abs().mean())
        if self.magnitude:
            self.magnitude = self.MEMORY * self.magnitude + (1 - self.MEMORY) * size
        else:
            self.magnitude = size
        unit_s = s / max(self.magnitude, 1e-30)                   # [B]
        unit_s = unit_s.clamp(-self.OUTLIER, self.OUTLIER)
        unit_s = unit_s.float() * varied                          # [B]
        move = torch.zeros(len(self.domain_id))                   # of z [N]
        # s_i / w_i, and what α falls by; α itself is --domain-lr and --instance-lr in move_tables
        move[index] = pace * unit_s * self.move_for_one(index)
        if self.cfg.weights == "net":
            self.fit_network(move)
        else:
            self.move_tables(move)
        return unit_s, move[index]

    @torch.no_grad()
    def move_for_one(self, index):
        """By how much the logits of these pairs [B] move for an s of one [B]."""
        if self.cfg.apply == "draw":
            return 1 / self.w()[index]
        z = self.logits()
        if self.cfg.weights == "domain":
            slope = len(z) * z.softmax(0)       # ∂/∂z of N·softmax(z), the normaliser held fixed
        else:
            sigmoid = z.sigmoid()
            slope = 2 * sigmoid * (1 - sigmoid)  # ∂/∂z of 2σ(z)
        return slope[index]

    def move_tables(self, move):
        """ω ← ω + α · Σ_i move_i ∂z_i/∂ω, where ∂z_i/∂ω is 1 or 0.   move: [N]"""
        cfg = self.cfg
        by_domain = torch.zeros_like(self.domain_logit)
        by_domain.index_add_(0, self.domain_id, move)
        self.domain_logit.add_(cfg.domain_lr * by_domain)
        self.domain_logit.clamp_(-self.BOUND, self.BOUND)
        if cfg.weights == "instance":
            self.pair_logit.add_(cfg.instance_lr * move)
            self.pair_logit.clamp_(-self.BOUND, self.BOUND)

    def fit_network(self, move):
        """Move the table ω_i by move [N], and fit the network to it, by least squares.

        Pairs that look alike to the network share what each of them is worth, and most of the noise
        of a few visits goes. It is fitted to the whole table, not led along by the last step alone:
        what pairs look like changes as the judge learns, and so would what the network says. (A
        pair that was never visited has ω_i = 0 there, and counts like any other.)
        """
        self.pair_logit.add_(self.cfg.net_lr * move)
        self.pair_logit.clamp_(-self.BOUND, self.BOUND)
        target = self.pair_logit - self.pair_logit.mean()    # [N]
        for _ in range(self.FIT_STEPS):
            error = self.network_output() - target
            self.net_adam.zero_grad()
            error.square().mean().backward()
            self.net_adam.step()
        self.net_logit = self.network_output().detach().clamp(-self.BOUND, self.BOUND)

    def network_output(self):
        """What the network makes of each pair [N]; differentiable in its parameters."""
        # Features are nats, tokens and rates: bring them to one scale.
        centred = self.features - self.features.mean(0)
        n = len(self.features)
        deviation = self.features.std(0) if n > 1 else 0.0                 # [features]
        shown = centred / (deviation + 1e-3)                               # [N, features]
        domain = nn.functional.one_hot(self.domain_id, len(self.domains))  # [N, D]
        z = self.net(torch.cat([domain, shown], 1))[:, 0]
        return z - z.mean()

    def state(self):
        return {
            "domain_logit": self.domain_logit,
            "pair_logit": self.pair_logit,
            "features": self.features,
            "net": self.net.state_dict(),
            "net_adam": self.net_adam.state_dict(),
            "net_logit": self.net_logit,
            "magnitude": self.magnitude,
            "visits": self.visits,
            "informed": self.informed,
        }

    def load(self, state):
        self.net.load_state_dict(state["net"])
        self.net_adam.load_state_dict(state["net_adam"])
        for name in ("domain_logit", "pair_logit", "net_logit", "features", "magnitude", "visits",
                     "informed"):
            setattr(self, name, state[name])


def weight_network(n_inputs, seed):
    """A small MLP whose output starts at 0, so that weights start uniform.

    Its start depends on nothing but the seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(n_inputs, 16),
            nn.Tanh(),
            nn.Linear(16, 1),
        )
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    return net


def shuffled_weights(n, cfg):
    """--shuffle-weights: the n weights of another run, dealt out to random pairs [n].

    As uneven, and knowing nothing.
    """
    rows = read_rows(cfg.shuffle_weights, {"weight": (int, float)})
    # As they are drawn by: 1 is a number like any other, and what rounds to 0 is 0.
    weights = torch.tensor([float(row["weight"]) for row in rows]).tolist()
    if not (all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0):
        raise UserError(f"--shuffle-weights {cfg.shuffle_weights}: a weight is negative or not "
                        "finite, or all are 0")
    if len(weights) != n or cfg.weights != "uniform":
        raise UserError(
            f"--shuffle-weights {cfg.shuffle_weights}: {len(weights)} weights for {n} pairs; "
            "it goes with --weights uniform and the weights.jsonl of a run on the same pairs"
        )
    drawable = sum(weight > 0 for weight in weights)
    if cfg.apply == "draw" and drawable < min(cfg.batch, n):
        raise UserError(f"--shuffle-weights {cfg.shuffle_weights}: only {drawable} weights are "
                        f"above 0, and a step draws {cfg.batch} different pairs; lower --batch")
    random.Random(cfg.seed).shuffle(weights)
    return torch.tensor(weights)


# ---------------------------------------------------------------- the judge

@dataclass
class Group:
    """G judgments of one pair."""
    pair: Pair
    prompt: list         # token ids
    completions: list    # G sample.Completion
    texts: list          # G
    verdicts: list       # G: "A", "B", or None
    rewards: list        # G numbers


class Judge:
    """A language model with everything that sampling from it and scoring it needs."""

    def __init__(self, name, cfg):
        self.cfg = cfg
        dtype = cfg.dtype
        if dtype == "auto" and not cfg.lora_rank:
            dtype = "float32"
        place = shard_layers if cfg.shard_base else nn.Module.to
        self.model, self.tokenizer = load_model(
            name, cfg.device, dtype, flag="--judge", place=place
        )
        if self.model.dtype == torch.float16:
            raise UserError(f"--judge {name}: a float16 checkpoint, "
                            "whose small gradients would be 0: add --dtype bfloat16")
        # An embedding with a padding index leaves that row out of its gradient; prompts and answers
        # may hold the token. (Some models have a further embedding in each layer.)
        for module in self.model.modules():
            if isinstance(module, nn.Embedding):
                module.padding_idx = None
        self.ends = end_ids(self.model, self.tokenizer)
        self.pad = pad_id(self.tokenizer, self.ends)
        self.begun = opened_thoughts(self.tokenizer)
        try:
            self.kernel = resolve_kernel(cfg.kernel, cfg.device)
        except ValueError as error:
            raise UserError(str(error)) from None
        if cfg.lora_rank:
            print0(add_lora(self.model, cfg.lora_rank, cfg.lora_alpha, cfg.seed))
        # Does one backward pass give the gradient of each of its rows? (Not asked where layers are
        # computed twice: what the rows keep is what that saves.)
        self.gradients_by_row = False
        if cfg.lora_rank and cfg.weights != "uniform" and not cfg.checkpoint_gradients:
            self.gradients_by_row = can_split_by_row(self.model, cfg.device)
            if not self.gradients_by_row:
                print0("note: its adapters cannot tell the rows of a batch apart: "
                       "a backward pass for each pair")
        if cfg.checkpoint_gradients:
            checkpoint_layers(self.model)

    def prompt_ids(self, pair):
        chat = bool(self.tokenizer.chat_template)
        prompt = judge_prompt(pair.problem, pair.a["code"], pair.b["code"], chat)
        return encode(self.tokenizer, prompt)

    def fitting(self, pairs, split):
        """The pairs whose prompt and judgment fit into the model's context.

        Says which do not. Raises UserError if none does.
        """
        context = context_length(self.model)
        room = context - self.cfg.max_new_tokens * (self.cfg.waits + 1)
        too_long = [pair.instance_id for pair in pairs if len(self.prompt_ids(pair)) > room]
        if not too_long:
            return pairs
        waits = f" and --waits {self.cfg.waits}" if self.cfg.waits else ""
        words = (f"{len(too_long)} of {len(pairs)} {split} pairs do not fit into the judge's "
                 f"context of {context} tokens with --max-new-tokens "
                 f"{self.cfg.max_new_tokens}{waits}")
        if len(too_long) == len(pairs):
            raise UserError(f"{words}: lower it, or take another --judge")
        print0(f"note: {words}, and are left out: {', '.join(too_long)}")
        return [pair for pair in pairs if pair.instance_id not in too_long]

    def rollout(self, pairs, streams, n):
        """n sampled judgments of each pair, as [Group].

        streams: a generator for each pair, so that its judgments are its own.
        """
        prompts = [self.prompt_ids(pair) for pair in pairs]
        shape = (n, self.cfg.max_new_tokens)
        uniforms = [torch.rand(shape, generator=generator) for generator in streams]
        completions = generate(
            self.model,
            prompts,
            torch.cat(uniforms),  # [B·n, max_new_tokens]
            self.cfg.temperature,
            self.ends,
            self.pad,
            self.cfg.rollout_rows,
        )
        groups = []
        for k, (pair, prompt) in enumerate(zip(pairs, prompts)):
            own = completions[k * n:(k + 1) * n]
            groups.append(self.as_group(pair, prompt, own))
        return groups

    def as_group(self, pair, prompt, completions):
        texts = [self.decode(completion) for completion in completions]
        decided = []  # what counts: nothing of a judgment that was cut off
        for text, completion in zip(texts, completions):
            decided.append(self.begun + text if completion.finished else "")
        verdicts = [parse_verdict(text) for text in decided]
        rewards = [float(reward(pair, text)) for text in decided]
        return Group(pair, prompt, completions, texts, verdicts, rewards)

    def decode(self, completion):
        """Its text, without the end token."""
        return decode(self.tokenizer, completion.said)

    def score(self, pack):
        """log π(token) at the sampling temperature, [T] fp32, for the answer tokens of one Pack."""
        hidden, head, settings = self.last_hidden(pack)
        return token_logprob(hidden, head, pack.target, **settings)

    def score_with_entropy(self, pack):
        """As `score`, and the entropy of π at these tokens, without a gradient: [T], [T]."""
        hidden, head, settings = self.last_hidden(pack)
        logp, statistics = token_logprob(hidden, head, pack.target, statistics=True, **settings)
        return logp, statistics.entropy

    def judgment_logprobs(self, pack, n):
        """log π of each whole judgment in one Pack, of n in all: [n] fp64, 0 for the others."""
        return sum_by_sample(self.score(pack), pack.sample, n, dtype=torch.float64)

    def weighted_loss(self, pack, weight, token_weight):
        """Σ_k a_k ℓ_k, with ℓ_k = −token_weight · log π(judgment k).

        For supervised training: ℓ_k is of one judgment, not the GRPO loss of a pair.
        weight: a [samples].
        """
        hidden, head, settings = self.last_hidden(pack)
        loss, _ = weighted_logprob_loss(
            hidden,
            head,
            pack.target,
            pack.sample,
            weight,
            token_weight=token_weight,
            **settings,
        )
        return loss

    def last_hidden(self, pack):
        """What a log-prob is made of: hidden states, the head, and its settings.

        Hidden states [T, H] are those where each token is predicted; the head is [V, H].
        """
        inputs = {
            "input_ids": pack.ids,
            "position_ids": pack.position,
            "attention_mask": pack.mask,
        }
        outputs = self.model.base_model(**inputs, use_cache=False)
        hidden = outputs.last_hidden_state  # [R, W, H]
        head = self.model.get_output_embeddings()
        settings = {
            "bias": head.bias,
            "temperature": self.cfg.temperature,
            "softcap": softcap_of(self.model),
            "kernel": self.kernel,
        }
        return hidden[pack.row, pack.column], head.weight, settings

    @torch.no_grad()
    def verdict_nll(self, pairs):
        """−log π of the right verdict said at once, without a judgment: [B].

        A feature of the weight network.
        """
        cfg = self.cfg
        prompts = [self.prompt_ids(pair) for pair in pairs]
        verdicts = []
        for pair in pairs:
            encoded = self.tokenizer(VERDICT.format(pair.right), add_special_tokens=False)
            verdicts.append(encoded.input_ids)
        total = torch.zeros(len(pairs))
        with equal_passes(self):
            for pack in make_packs(prompts, verdicts, self.pad, cfg.micro_tokens, cfg.device):
                logp = self.score(pack)
                total -= sum_by_sample(logp, pack.sample, len(pairs)).cpu()
        return total


def judgment_statistics(groups, judge):
    """What the judgments of each pair show: {name: [B]}, of all processes.

    Metrics, and features of the weight network: reward and variance are those of the judgments,
    length_gain says whether longer ones earned more, nll is −log π of a token, and verdict_nll that
    of the right verdict without any reasoning.
    """
    tokens = []
    logprob = []
    truncated = []
    has_verdict = []
    for group in groups:
        tokens.append([len(one.ids) - len(one.forced) for one in group.completions])
        logprob.append([completion.logprob_sampled for completion in group.completions])
        truncated.append([not completion.finished for completion in group.completions])
        has_verdict.append([verdict is not None for verdict in group.verdicts])
    rewards = rewards_of(groups)                         # [B, G]
    n = rewards.shape[1]
    n_tokens = torch.tensor(tokens).double().sum(1)      # [B]
    nll = -torch.tensor(logprob).double().sum(1)         # [B]
    verdict_nll = torch.zeros(len(groups))               # [B]
    if judge.cfg.weights == "net":
        verdict_nll = judge.verdict_nll([group.pair for group in groups])
    stats = {
        "reward": rewards.mean(1),
        "variance": rewards.var(1, correction=0),
        "length_gain": length_gain(rewards, torch.tensor(tokens)),
        "parse_rate": torch.tensor(has_verdict).float().mean(1),
        "truncated": torch.tensor(truncated).float().mean(1),
        "zero_variance": (rewards.amax(1) == rewards.amin(1)).float(),
        "nll": nll / n_tokens,
        "tokens": n_tokens / n,
        "verdict_nll": verdict_nll,
    }
    return {name: gather(values.double()).float() for name, values in stats.items()}


def length_gain(rewards, tokens):
    """Did it pay to think longer? [B]

    The covariance of reward and length over the judgments of a pair, in units of its mean length.
    rewards, tokens: [B, G].
    """
    tokens = tokens.float()
    longer = tokens / tokens.mean(1, keepdim=True) - 1
    return (rewards * longer).mean(1)


# ---------------------------------------------------------------- Waits (J1, 2505.11875)

def draw_waits(generator, most):
    """How often the judgments of a pair think on at this visit: 0 to `most`, each as likely."""
    return int(torch.randint(most + 1, (1,), generator=generator))


def force_waits(judge, groups, streams, waits):
    """The groups [B], in which all judgments of group i have gone on after a WAIT waits[i] times.

    They go on whether they had ended or were cut off, as under select.py --waits. Each thought may
    have --max-new-tokens. The verdict of the last thought is that of the judgment, and earns the
    reward of all its thoughts.
    """
    if not any(waits):
        return groups
    for number in range(max(waits)):
        chosen = []
        for group, generator, n_waits in zip(groups, streams, waits):
            if number < n_waits:
                chosen += [(group, k, generator) for k in range(len(group.completions))]
        continue_after_wait(judge, chosen)
    return [judge.as_group(group.pair, group.prompt, group.completions) for group in groups]


def continue_after_wait(judge, chosen):
    """Let judgments think on, in place: the end token is taken back and WAIT put there instead.

        said      skim: ... <best>B</best> [end]
        now       skim: ... <best>B</best> [Wait] try p 291 -> 1 ... <best>A</best> [end]

    WAIT is not the judge's own, and the end that it had written is taken back: neither is scored.
    chosen: [(group, k, generator)], judgment k of a group and where its random numbers come from.
    What no longer fits into the context stays as it is.
    """
    cfg = judge.cfg
    room = context_length(judge.model) - cfg.max_new_tokens
    fitting = []   # of `chosen`
    prompts = []   # the prompt, what was said, WAIT
    uniforms = []
    for group, k, generator in chosen:
        prompt = prompt_after_wait(judge.tokenizer, group.prompt, group.completions[k])
        if len(prompt) <= room:
            fitting.append((group, k))
            prompts.append(prompt)
            uniforms.append(torch.rand(cfg.max_new_tokens, generator=generator))
    if not fitting:
        return
    more = generate(
        judge.model,
        prompts,
        torch.stack(uniforms),
        cfg.temperature,
        judge.ends,
        judge.pad,
        cfg.rollout_rows,
    )
    for (group, k), prompt, second in zip(fitting, prompts, more):
        first = group.completions[k]
        wait_begins = len(first.ids) - int(first.finished)
        second_begins = len(prompt) - len(group.prompt)
        group.completions[k] = replace(
            second,
            ids=prompt[len(group.prompt):] + second.ids,
            logprob=first.logprob + second.logprob,
            logprob_sampled=first.logprob_sampled + second.logprob_sampled,
            self_certainty=first.self_certainty + second.self_certainty,
            forced=first.forced + list(range(wait_begins, second_begins)),
        )


# ---------------------------------------------------------------- checks of the hypergradient

def check_hypergradient(trainer, theta, v, meta, gradients, varied):
    """Is s signal, and does v point downhill? For metrics.jsonl. Of this step alone: v, not v̄.

    split_half_cosine         s from one half of the meta pairs against s from the other
    split_half_correlation    the same, without the means
    meta_change_predicted     ⟨v, θ' − θ⟩
    meta_change_realised      L_meta(θ') − L_meta(θ)

    The first two are over the training pairs whose judgments had different rewards (varied: [B]),
    as the others' s is 0. They are None for fewer than three such pairs, or where a half says
    nothing. The halves are of meta pairs with both their orders: of the default's three, two and
    one. The parameters are θ', and are so again at the end.
    """
    judge = trainer.judge
    parameters = trainer.parameters
    s_of_half = []
    number = here(torch.arange(meta.batch.n_all, device=theta.device))  # of the pairs here
    number = number.repeat_interleave(meta.batch.group)                 # of their judgments' pairs
    for half in (0, 1):
        in_half = number // 2 % 2 == half  # both orders of a pair in one half
        half_batch = replace(meta.batch, advantage=meta.batch.advantage * in_half)
        v_half, _ = meta_gradient(judge, parameters, half_batch, meta.logprob)
        v_tilde = trainer.adam.jacobian_transpose(v_half)
        s_of_half.append(gather(gradients @ v_tilde).cpu()[varied])
    first, second = s_of_half
    cosine = None
    correlation = None
    if len(first) >= 3 and first.any() and second.any():
        cosine = float(nn.functional.cosine_similarity(first, second, dim=0))
        # The cosine of what is left without the mean; unlike corrcoef it is 0, not NaN, where
        # nothing varies.
        correlation = float(nn.functional.cosine_similarity(
            first - first.mean(), second - second.mean(), dim=0
        ))

    theta_next = parameters.theta.clone()
    after = meta_loss(judge, meta.batch, meta.logprob)
    parameters.set(theta)
    before = meta_loss(judge, meta.batch, meta.logprob)
    parameters.set(theta_next)
    return {
        "split_half_cosine": cosine,
        "split_half_correlation": correlation,
        "meta_change_predicted": float(v @ (theta_next - theta)),
        "meta_change_realised": after - before,
    }


@torch.no_grad()
def meta_loss(judge, batch, logprob):
    """L_meta at the parameters as they are."""
    total = torch.zeros(1, dtype=torch.float64, device=logprob.device)
    for pack in batch.packs:
        loss, _ = meta_loss_of_pack(judge, pack, batch, logprob)
        total += loss
    return float(all_sum(total))


# ---------------------------------------------------------------- cold start (J1, 2505.11875)

class ColdStart:
    """Supervised steps in front of GRPO, on judgments of the starting judge that came out right."""

    def __init__(self, trainer, path):
        self.trainer = trainer
        self.groups, self.kept = read_or_make_traces(trainer, path)  # N groups, [N, G] bool

    def step(self, step):
        """One step, like GRPO's inner step with advantage 1 for every kept judgment.

        Returns its metrics.
        """
        trainer = self.trainer
        timer = Timer()
        generator = stream(trainer.cfg.seed, "draw", step)
        index, a = trainer.data_weights.draw(generator)               # both [B]
        groups = [self.groups[i] for i in here(index)]
        kept = self.kept[here(index)].float()                    # [B, G]
        stats = judgment_statistics(groups, trainer.judge)
        trainer.data_weights.observe(index, stats)
        timer.lap("rollout")
        batch = make_batch(trainer.judge, groups, advantage=kept)
        loss = supervised_gradient(trainer.judge, trainer.parameters, batch, a)
        grad_norm = float(trainer.parameters.grad.norm())
        trainer.must_be_finite(step, index, loss, grad_norm)
        trainer.adam.step()
        timer.lap("gradient")
        metrics = trainer.step_metrics(step, loss, stats)
        return {**metrics, **trainer.weight_metrics(), "seconds": timer.laps}


def supervised_gradient(judge, parameters, batch, a):
    """Leaves the gradient of the supervised loss in parameters.grad, and returns that loss:

        (1/B) Σ_i a_i Σ_k kept_ik · (−log π(judgment k)) / (G · max_new_tokens)

    batch: its advantages are 1 for kept judgments and 0 for the others; a: [B] of all processes.
    """
    a_here = here(a).to(batch.advantage.device)
    weight = a_here.repeat_interleave(batch.group) * batch.advantage  # [B·G]

    def losses():
        for pack in batch.packs:
            yield judge.weighted_loss(pack, weight, batch.scale) / batch.n_all

    return gradient_of_sum(parameters, losses())


# Fields of a row of cold_start.jsonl, with their types.
TRACE = {"instance_id": str, "kept": bool, "text": str, "ids": list, "finished": bool,
         "logprob": float, "logprob_sampled": float, "self_certainty": float}


def read_or_make_traces(trainer, path):
    """G judgments of each training pair by the starting judge, and which of them are kept.

    Returns [Group] × N and [N, G] bool. From `path` (cold_start.jsonl) if a run has already written
    them there. Kept are judgments whose last verdict is right and that are no longer than later
    judgments may be. Raises UserError if there is none.
    """
    cfg = trainer.cfg
    judge = trainer.judge
    if path.exists():
        rows = read_rows(path, TRACE)
    else:
        numbered = list(enumerate(trainer.train_pairs))
        with equal_passes(judge):
            rows_of_pairs = make_traces(judge, here(numbered))
        rows = sum(gather(rows_of_pairs), [])
        if RANK == 0:
            write_rows(path, rows)
    wanted = [pair.instance_id for pair in trainer.train_pairs for _ in range(cfg.group)]
    if [row["instance_id"] for row in rows] != wanted:
        raise UserError(f"{path}: its judgments are not those of this run, {cfg.group} of each "
                        "training pair in their order: delete the file to make them again")
    groups = []
    for k, pair in enumerate(trainer.train_pairs):
        own = rows[k * cfg.group:(k + 1) * cfg.group]
        completions = [completion_of(row) for row in own]
        groups.append(judge.as_group(pair, judge.prompt_ids(pair), completions))
    kept_rows = [row for row in rows if row["kept"]]
    n_second = sum(WAIT in row["text"] for row in kept_rows)
    print0(f"cold start: {len(kept_rows)} of {len(rows)} judgments are kept, "
           f"{n_second} of them with a second thought ({path})")
    if not kept_rows:
        raise UserError("--cold-start: no judgment of the starting judge was right and short "
                        "enough; raise --max-new-tokens or --group")
    kept = torch.tensor([row["kept"] for row in rows]).view(-1, cfg.group)
    return groups, kept


def completion_of(row):
    """The completion of a row of cold_start.jsonl. All of it is taught, the forced WAIT too."""
    return Completion(
        ids=row["ids"],
        logprob=row["logprob"],
        finished=row["finished"],
        logprob_sampled=row["logprob_sampled"],
        self_certainty=row["self_certainty"],
    )


def make_traces(judge, numbered_pairs):
    """The rows of cold_start.jsonl for these (number, Pair): a list of G for each pair."""
    cfg = judge.cfg
    rows = []
    starts = range(0, len(numbered_pairs), cfg.batch)
    for start in tqdm(starts, desc="cold start: judgments", unit="batch", disable=RANK > 0 or None):
        some = numbered_pairs[start:start + cfg.batch]
        pairs = [pair for _, pair in some]
        streams = [stream(cfg.seed, "cold start", number) for number, _ in some]
        groups = judge.rollout(pairs, streams, cfg.group)
        streams = [stream(cfg.seed, "second thought", number) for number, _ in some]
        for group in wait_where_wrong(judge, groups, streams):
            own = [trace_row(group, k, cfg) for k in range(cfg.group)]
            rows.append(own)
    return rows


def trace_row(group, k, cfg):
    """Judgment k of a group as a row of cold_start.jsonl."""
    completion = group.completions[k]
    right = group.verdicts[k] == group.pair.right
    short = len(completion.ids) <= cfg.max_new_tokens
    return {
        "instance_id": group.pair.instance_id,
        "kept": right and short,
        "text": group.texts[k],
        **asdict(completion),
    }


def wait_where_wrong(judge, groups, streams):
    """The groups, in which every finished judgment that is not right has gone on after a WAIT.

    That is one with a wrong verdict, or with none. So reflection is in the data (J1, section 3).
    """
    wrong = []
    for group, generator in zip(groups, streams):
        for k, completion in enumerate(group.completions):
            if completion.finished and group.verdicts[k] != group.pair.right:
                wrong.append((group, k, generator))
    continue_after_wait(judge, wrong)
    return [judge.as_group(group.pair, group.prompt, group.completions) for group in groups]


# ---------------------------------------------------------------- a run: folder, evaluations, loop

class Run:
    """A training run in its folder.

    A killed run goes on from state.pt, and from the rows in metrics.jsonl and transcripts.jsonl up
    to there; one that was killed in its cold start also from cold_start.jsonl.
    """

    def __init__(self, cfg):
        self.cfg = cfg
        self.out = Path(cfg.out)
        (train_pairs, meta_pairs, eval_pairs), notes = read_pairs(cfg)
        for note in notes:
            print0(note)
        self.trainer = Trainer(cfg, train_pairs, meta_pairs)
        self.eval_pairs = self.trainer.judge.fitting(eval_pairs, cfg.eval_split)
        # One process reads the files, and all have what it found.
        [self.made_of] = gather([self.digests()] if RANK == 0 else [])
        self.step = 0          # steps taken, those of a cold start included
        self.metrics = []      # rows of metrics.jsonl
        self.transcripts = []  # rows of transcripts.jsonl
        if (self.out / "state.pt").exists():
            self.resume()
        elif cfg.cold_start:
            self.save()  # so that its judgments are known by their settings
        self.cold_start = None
        if self.step < cfg.cold_start:
            traces = self.out / "cold_start.jsonl"
            if self.step and not traces.exists():
                raise UserError(f"{traces}: no such file, and after {self.step} steps the judge is "
                                "no longer the starting one, which made it: give another --out, or "
                                "delete the folder")
            self.cold_start = ColdStart(self.trainer, traces)
        self.print_size()

    def print_size(self):
        """How many pairs and parameters, and on what."""
        cfg = self.cfg
        trainer = self.trainer
        n_train = len(trainer.train_pairs)
        n_meta = len(trainer.meta_pairs)
        n_eval = len(self.eval_pairs)
        n_parameters = len(trainer.parameters.theta)
        if cfg.weights == "domain" and len(trainer.data_weights.domains) == 1:
            only = trainer.data_weights.domains[0]
            print0(f"note: --weights domain: all training pairs are of one domain, {only!r}, so "
                   "there is nothing to learn: name other fields in --domain-key")
        if cfg.batch > n_train:
            print0(f"note: --batch {cfg.batch}: a step has all {n_train} training pairs, no more")
        if cfg.weights != "uniform" and cfg.meta_batch > 2 * n_meta:
            print0(f"note: --meta-batch {cfg.meta_batch}: a step has all {n_meta} meta pairs, "
                   "each in both orders, no more")
        print0(f"{n_train} training, {n_meta} meta and {n_eval} {cfg.eval_split} pairs "
               f"from {cfg.labelled}; {n_parameters:,} trainable parameters; "
               f"kernel {trainer.judge.kernel}; device {cfg.device}")

    def train(self):
        """Every step that is left, then the judge and the report."""
        cfg = self.cfg
        last = cfg.cold_start + cfg.steps
        if not self.metrics:
            self.metrics.append({"step": 0, **self.evaluate()})
        bar = tqdm(
            total=last,
            initial=self.step,
            desc=f"{cfg.weights}, seed {cfg.seed}",
            unit="step",
            smoothing=0.1,
            disable=RANK > 0,
        )
        with bar:
            while self.step < last:
                self.one_step()
                bar.set_postfix(self.progress(), refresh=False)
                bar.update()
        if "eval_accuracy" not in self.metrics[-1]:  # a killed run goes on with fewer --steps
            self.metrics[-1] |= self.evaluate()
            self.save()
        self.save_judge()
        if RANK == 0:
            report(cfg, self.metrics, self.weight_rows(), len(self.eval_pairs))
            write_page(self.out)

    def one_step(self):
        """A step, what is measured after it, and a checkpoint if it is time."""
        cfg = self.cfg
        last = cfg.cold_start + cfg.steps
        if self.step < cfg.cold_start:
            row = self.cold_start.step(self.step)
        else:
            if self.step == cfg.cold_start:
                self.trainer.adam.restart()
            row = self.trainer.train_step(self.step)
        self.step += 1
        due = cfg.eval_every and self.step % cfg.eval_every == 0
        if due or self.step in (cfg.cold_start, last):
            row |= self.evaluate()
        self.metrics.append(row)
        if self.step == last or self.step % cfg.save_every == 0:
            self.save()

    def progress(self):
        """The numbers beside the progress bar."""
        row = self.metrics[-1]
        accuracy = [m["eval_accuracy"] for m in self.metrics if "eval_accuracy" in m]
        return {
            "reward": f"{row['reward']:.2f}",
            "tokens": f"{row['tokens']:.0f}",
            self.cfg.eval_split: f"{accuracy[0]:.2f} → {accuracy[-1]:.2f}",
        }

    def evaluate(self):
        """The judge on held-out pairs, each in both orders, one sampled judgment an order.

        The transcripts are kept.
        """
        cfg = self.cfg
        judge = self.trainer.judge
        numbered = here(list(enumerate(in_both_orders(self.eval_pairs))))
        of_a_step = (cfg.batch + cfg.meta_batch) * cfg.group // WORLD_SIZE
        size = cfg.rollout_rows or of_a_step  # judgments at once
        rows = []
        with equal_passes(judge):
            for start in range(0, len(numbered), size):
                some = numbered[start:start + size]
                pairs = [pair for _, pair in some]
                streams = [stream(cfg.seed, "evaluate", self.step, number) for number, _ in some]
                for group in judge.rollout(pairs, streams, 1):
                    rows.append(self.transcript(group))
        rows = gather(rows)
        self.transcripts += rows
        figures = accuracy_of(rows)
        return {f"eval_{name}": value for name, value in figures.items()}

    def transcript(self, group):
        return {
            "step": self.step,
            "instance_id": group.pair.instance_id,
            "right": group.pair.right,
            "verdict": group.verdicts[0],
            "tokens": len(group.completions[0].ids),
            "text": group.texts[0],
        }

    def weight_rows(self):
        """The rows of weights.jsonl."""
        data_weights = self.trainer.data_weights
        w = data_weights.w().tolist()
        visits = data_weights.visits.tolist()
        informed = data_weights.informed.tolist()
        rows = []
        for i, pair in enumerate(self.trainer.train_pairs):
            learned = {"weight": w[i], "visits": visits[i], "informed": informed[i]}
            rows.append({**pair.description(), **learned})
        return rows

    def save(self):
        """Everything so far.

        state.pt comes last and appears at once, so that a kill leaves the old or the new state.
        """
        trainer = self.trainer
        if RANK > 0:
            return
        weight_rows = self.weight_rows()
        explained = explained_rows(weight_rows, trainer.train_pairs, trainer.moved)
        write_rows(self.out / "transcripts.jsonl", self.transcripts)
        write_rows(self.out / "metrics.jsonl", self.metrics)  # whose evaluations have theirs by now
        write_rows(self.out / "weights.jsonl", weight_rows)
        write_rows(self.out / "explained.jsonl", explained)
        write_whole(self.out / "settings.json", json.dumps(asdict(self.cfg), indent=1))
        state = {
            "settings": asdict(self.cfg),
            "data": self.made_of,
            "step": self.step,
            "theta": trainer.parameters.theta,
            "exp_avg": trainer.adam.exp_avg,
            "exp_avg_sq": trainer.adam.exp_avg_sq,
            "t": trainer.adam.t,
            "weights": trainer.data_weights.state(),
            "v_mean": trainer.v_mean,
            "v_count": trainer.v_count,
            "look_is_usable": trainer.look_is_usable,
            "moved": trainer.moved,
        }
        try:
            torch.save(state, self.out / "state.new")
            (self.out / "state.new").replace(self.out / "state.pt")
        except (OSError, RuntimeError) as error:  # say, a full disk
            raise UserError(f"{self.out / 'state.pt'}: cannot be written ({reason_of(error)}); the "
                            "same command goes on from the last one") from None

    def resume(self):
        """Go on from state.pt. Raises UserError if its run had other settings or other pairs."""
        state = self.read_state()
        differs = []
        was = {f.name: f.default for f in fields(Settings)} | state["settings"]  # a flag may be new
        for name, value in asdict(self.cfg).items():
            if name not in MAY_CHANGE and was[name] != value:
                differs.append(f"{flag_of(Settings, name)} {was[name]} there")
        for name, digest in self.made_of.items():
            if state.get("data", {}).get(name) != digest:
                differs.append(f"the {name}")
        if differs:
            raise UserError(f"{self.out} holds a run with other settings ({', '.join(differs)}): "
                            "give another --out, or delete the folder")
        last = self.cfg.cold_start + self.cfg.steps
        if state["step"] > last:
            raise UserError(f"{self.out} holds a run that has taken {state['step']} steps already, "
                            f"more than {last}: give another --out, or delete the folder")
        trainer = self.trainer
        if state["theta"].shape != trainer.parameters.theta.shape:
            raise UserError(f"{self.out} holds a run of a judge of another size: give another "
                            "--out, or delete the folder")
        self.step = state["step"]
        trainer.parameters.set(state["theta"])
        trainer.adam.exp_avg.copy_(state["exp_avg"])
        trainer.adam.exp_avg_sq.copy_(state["exp_avg_sq"])
        trainer.adam.t = state["t"]
        trainer.data_weights.load(state["weights"])
        trainer.v_mean.copy_(state["v_mean"])
        trainer.v_count = state["v_count"]
        trainer.look_is_usable = state.get("look_is_usable", False)  # the next look will say
        trainer.moved = state["moved"]
        # Rows after the checkpoint will be made again, the same.
        metrics = read_rows(self.out / "metrics.jsonl", {"step": int})
        transcripts = read_rows(self.out / "transcripts.jsonl", {"step": int})
        self.metrics = [row for row in metrics if row["step"] <= self.step]
        evaluated = [row["step"] for row in self.metrics if "eval_accuracy" in row]
        self.transcripts = [row for row in transcripts if row["step"] in evaluated]
        self.must_have_all_rows(evaluated)
        print0(f"{self.out}: going on from step {self.step} (flags and pairs are those of the run; "
               "changes of the code are not noticed: after one, give another --out)")

    def read_state(self):
        """What state.pt holds. Raises UserError if it is none of a run."""
        path = self.out / "state.pt"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken file makes the library raise whatever it is
            raise UserError(f"{path}: cannot be read ({reason_of(error)}): give another --out, "
                            "or delete the folder") from None
        if not isinstance(state, dict) or not {"settings", "step", "theta"} <= state.keys():
            raise UserError(f"{path}: is not the state of a run: give another --out, or delete "
                            "the folder")
        return state

    def must_have_all_rows(self, evaluated):
        """Raise UserError if files beside state.pt lack rows of steps that it has taken.

        The report would take a later evaluation for the one before training.
        evaluated: steps after which there was an evaluation.
        """
        steps = [row["step"] for row in self.metrics]
        before_all = not steps and self.step == 0
        rows_of = Counter(row["step"] for row in self.transcripts)
        wanted = dict.fromkeys(evaluated, 2 * len(self.eval_pairs))  # in both orders
        if not before_all and steps != list(range(self.step + 1)):
            name = "metrics.jsonl"
        elif rows_of != wanted:
            name = "transcripts.jsonl"
        else:
            return
        raise UserError(f"{self.out / name}: lacks rows of the {self.step} steps that state.pt has "
                        "taken: give another --out, or delete the folder")

    def digests(self):
        """{what the run is made of: its digest}. A run that goes on must find the same."""
        splits = {
            "training": self.trainer.train_pairs,
            "meta": self.trainer.meta_pairs,
            self.cfg.eval_split: self.eval_pairs,
        }
        content = {}
        for name, pairs in splits.items():
            content[f"{name} pairs"] = [
                [pair.instance_id, pair.problem["prompt"], pair.a["code"], pair.b["code"],
                 pair.right, pair.domain, pair.problem.get("criterion")] for pair in pairs]
        if self.cfg.shuffle_weights:
            content["weights of --shuffle-weights"] = self.trainer.data_weights.fixed.tolist()
        digests = {}
        for name, value in content.items():
            digests[name] = hashlib.sha256(json.dumps(value).encode()).hexdigest()
        if self.cfg.lora_rank:  # without adapters θ, which is in state.pt, is all of the judge
            digests["files of --judge"] = fingerprint(self.cfg.judge)
        return digests

    def save_judge(self):
        """A plain checkpoint: adapters become part of the weights, and shards whole again."""
        judge = self.trainer.judge
        rounding = merge_lora(judge.model)
        weights = whole_weights(judge.model)
        if RANK == 0:
            if rounding > ROUNDING:
                print(f"note: the checkpoint's judge is not quite the trained one: in "
                      f"{judge.model.dtype} rounding is {rounding:.0%} of what the adapters have "
                      "learned; --dtype float32 keeps all of it")
            judge.model.save_pretrained(self.out / "judge", state_dict=weights)
            judge.tokenizer.save_pretrained(self.out / "judge")


class Timer:
    """Seconds of each part of a step, for metrics.jsonl."""

    def __init__(self):
        self.last = time.time()
        self.laps = {"rollout": 0.0, "gradient": 0.0, "outer": 0.0}

    def lap(self, name):
        now = time.time()
        self.laps[name] = round(now - self.last, 3)
        self.last = now


def accuracy_of(rows):
    """A judge's figures {name: number} from transcripts.

    The two orders of a pair stand side by side there.
    """
    right = [row["verdict"] == row["right"] for row in rows]
    in_both_orders = zip(right[0::2], right[1::2])
    both = [first and second for first, second in in_both_orders]
    has_verdict = [row["verdict"] is not None for row in rows]
    tokens = [row["tokens"] for row in rows]
    return {
        "accuracy": mean(right),
        "both_orders": mean(both),
        "parse_rate": mean(has_verdict),
        "tokens": mean(tokens),
    }


# ---------------------------------------------------------------- the report

FIGURES = (  # of an evaluation: title, name in metrics.jsonl, how it is printed
    ("accuracy", "eval_accuracy", ".1%"),
    ("right in both orders", "eval_both_orders", ".1%"),
    ("verdict parsed", "eval_parse_rate", ".1%"),
    ("tokens a judgment", "eval_tokens", ".1f"),
)


def report(cfg, metrics, weight_rows, n_pairs):
    """Print how the run went, and what to run next.

    The judge before and after, the weights by domain, and how good the hypergradient was.
    """
    evaluations = [row for row in metrics if "eval_accuracy" in row]
    checks = [row for row in metrics if "split_half_cosine" in row]
    print(f"\njudge on {n_pairs} {cfg.eval_split} pairs, both orders{'':14}before   after")
    for title, name, form in FIGURES:
        before = evaluations[0][name]
        after = evaluations[-1][name]
        print(f"  {title:<44}{before:>9{form}}{after:>8{form}}")
    report_weights(cfg, weight_rows)
    if checks:
        report_checks(checks)
    shares = [row["meta_effective_share"] for row in metrics if "meta_effective_share" in row]
    n_closed = sum(share < MIN_EFFECTIVE_SHARE for share in shares)
    if n_closed:
        print(f"after {n_closed} of {len(shares)} looks at the meta pairs the weights learned "
              "nothing: θ' judged too differently from θ")
    never = sum(not row["informed"] for row in weight_rows)
    if cfg.weights != "uniform" and cfg.steps:
        print(f"{never} of {len(weight_rows)} pairs could never move a weight: not drawn while "
              "weights are learned, or all of their judgments earned the same, or all of each meta "
              "pair did (docs/RESULTS.md, Reading metrics.jsonl, has rarer reasons)")

    out = Path(cfg.out)
    print(f"\nthe judge, weights.jsonl, metrics.jsonl and transcripts.jsonl are in {out}")
    print(f"look at the run in a browser: {out / 'report.html'}; "
          "--explain-weights prints why pairs count")
    print(f"next: python select.py {shlex.join(flags_of_select(cfg))}")


def flags_of_select(cfg):
    """What select.py must be told to choose with the judge as it was evaluated here.

    Left out is what it would take by itself.
    """
    settings = {  # flag: what it must be, select.py's own default
        "--problems": (cfg.problems, EDGES_PROBLEMS),
        "--labelled": ([cfg.labelled], [str(stage_input("labelled.jsonl"))]),
        "--split": ([cfg.eval_split], ["test"]),
        "--max-new-tokens": ([str(cfg.max_new_tokens)], ["112"]),
        "--temperature": ([str(cfg.temperature)], ["1.0"]),
    }
    flags = []
    for name, (wanted, default) in settings.items():
        if wanted != default:
            flags += [name, *wanted]
    return [*flags, "--judge", str(Path(cfg.out) / "judge")]


def report_weights(cfg, weight_rows):
    """A line for each domain, the heaviest first."""
    by_domain = {}
    for row in weight_rows:
        by_domain.setdefault(row["weight_domain"], []).append(row)

    def mean_of(rows, field):
        return mean([row[field] for row in rows])

    heaviest_first = sorted(by_domain, key=lambda name: -mean_of(by_domain[name], "weight"))
    print(f"\n{' × '.join(cfg.domain_key):<34}pairs  mean weight  effective size  visits  informed")
    for name in heaviest_first:
        rows = by_domain[name]
        size = effective_size([row["weight"] for row in rows])
        weight = mean_of(rows, "weight")
        visits = mean_of(rows, "visits")
        informed = mean_of(rows, "informed")
        print(f"{name:<34}{len(rows):>5}  {weight:>11.2f}  {size:>14.1f}  "
              f"{visits:>6.1f}  {informed:>8.1f}")


def report_checks(checks):
    correlations = [row["split_half_correlation"] for row in checks
                    if row["split_half_correlation"] is not None]
    correlation = f"{mean(correlations):.2f}" if correlations else "unknown"
    predicted = mean([row["meta_change_predicted"] for row in checks])
    realised = mean([row["meta_change_realised"] for row in checks])
    print(f"hypergradient, {len(checks)} checks, each of its step's v alone: split-half "
          f"correlation {correlation}; change of the meta loss by a step {predicted:+.1e} "
          f"predicted, {realised:+.1e} realised")


# ---------------------------------------------------------------- the command

def main(argv=None):
    cfg = parse(Settings, __doc__, argv)
    if cfg.explain_weights:
        print_explained(Path(cfg.out))
        return
    cfg.device = join_processes(cfg.device)
    try:
        with own_folder(cfg.out) if RANK == 0 else contextlib.nullcontext():
            Run(cfg).train()
    except KeyboardInterrupt:
        stopped(f"the same command goes on from the last checkpoint in {cfg.out} "
                f"(every {cfg.save_every} steps)")
    part_processes()


if __name__ == "__main__":
    run(main)
