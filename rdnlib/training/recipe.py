"""How to train: the paper's recipe (Section 4.1), its schedule, its averaging and the joint loss of all sub-networks.

SGD with Nesterov momentum, cosine schedule, label smoothing, an exponential moving average of the weights. The loss of an
RDN is the mean of its sub-networks' losses. Beyond the paper, N_K or its moving average may teach the others while all of
them are trained (`Recipe.distill`).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rdnlib.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """How to train. `ema_horizon` is the share of the run over which weights are averaged: the paper's decay of 0.9999 over
    its 250,000 steps averages over 4 % of them, and a short run needs the same share, not the same decay. `distill`: the share
    in the loss of N_1 … N_{K−1} of what N_K says, instead of the label (0: the paper); `teacher`: N_K as it is ("largest"), or
    as its moving average has it ("average", one more forward pass).

    A batch is computed in `parts`, side by side on several processes or one after another. Each is normalised by itself, and all of
    them move the running statistics once: so what comes out does not depend on the number of processes. With `sync_bn` the
    processes share every part and normalise it together. `precision`: "no" (float32) or "bf16" (autocast); `compile`: through
    `torch.compile`.
    """

    epochs: int
    lr: float
    size: int
    batch_size: int = 128
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    ema_horizon: float = 0.04
    bn_momentum: float = 0.1
    crop_scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    precision: str = "no"
    distill: float = 0.0
    teacher: str = "largest"
    parts: int = 1
    sync_bn: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError(f"a run needs epochs ≥ 1 and batch_size ≥ 2, not {self.epochs} and {self.batch_size}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"the learning rate must be positive, not {self.lr}")
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"distill is a share of the loss, from 0 to 1, not {self.distill}")
        if self.teacher not in ("largest", "average"):
            raise ConfigError(f"the teacher must be 'largest' or 'average', not {self.teacher!r}")
        if self.precision not in ("no", "bf16"):
            raise ConfigError(f"precision must be 'no' or 'bf16', not {self.precision!r}")
        if self.parts < 1 or self.batch_size % self.parts or self.batch_size // self.parts < 2:
            raise ConfigError(f"a batch of {self.batch_size} cannot be cut into {self.parts} equal parts of at least 2")
        if self.sync_bn and self.compile:
            raise ConfigError("sync_bn and compile do not go together: choose one of them")

    def own_rows(self, process: int, processes: int) -> list[slice]:
        """Which rows of a batch this process computes, part by part; raises ConfigError where they cannot be shared out."""
        if self.sync_bn and self.batch_size % (self.parts * processes) == 0:
            return [slice(part + self.parts * process, None, self.parts * processes) for part in range(self.parts)]
        if self.sync_bn or self.parts % processes:
            raise ConfigError(
                f"{processes} processes cannot share a batch of {self.batch_size} in {self.parts} parts equally: start as many "
                "as divide the parts, or set the recipe's parts (or sync_bn: true, and a batch that they divide)"
            )
        return [slice(part, None, self.parts) for part in range(process, self.parts, processes)]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then cosine from `lr` to `min_lr` (Loshchilov and Hutter, 2016)."""
    warmup = min(recipe.warmup_epochs / recipe.epochs, 0.5) * steps
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * done)) / 2


def ema_decay(recipe: Recipe, steps: int) -> float:
    """The decay whose averaging window, 1 / (1 − decay), is `ema_horizon` of the run's steps."""
    return 1 - 1 / max(1.0, recipe.ema_horizon * steps)


def joint_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, *, distill: float = 0.0, teacher: Tensor | None = None
) -> Tensor:
    """Cross-entropy, averaged over the batch and, for logits (B, K, classes), over the K sub-networks.

    With `distill` = α > 0, N_1 … N_{K−1} have the loss (1 − α) · H(label, N_i) + α · H(teacher, N_i), where the teacher's
    logits (B, classes) are N_K's own unless given. No gradient reaches the teacher, and N_K learns from the labels alone.
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    # (B, K, classes) → (B, classes, K): every sub-network is asked for the same label.
    students, targets = logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1])
    if not distill:
        return F.cross_entropy(students, targets, label_smoothing=label_smoothing)
    loss = F.cross_entropy(students, targets, label_smoothing=label_smoothing, reduction="none")  # (B, K)
    teacher = (logits[:, -1] if teacher is None else teacher).detach().softmax(dim=-1)
    taught = F.cross_entropy(
        students[..., :-1], teacher[..., None].expand_as(students[..., :-1]), reduction="none"
    )  # (B, K−1)
    return torch.cat([(1 - distill) * loss[:, :-1] + distill * taught, loss[:, -1:]], dim=1).mean()
