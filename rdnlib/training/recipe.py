"""The recipe that networks are trained with (Section 4.1).

SGD with Nesterov momentum, a cosine schedule, label smoothing and an exponential moving average of the weights. Beyond the
paper, the trained super-net, N_K or its moving average may teach the sub-networks (`Recipe.distill`), and the loss of N_K may
weigh more than theirs (`Recipe.largest`).
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from rdnlib.errors import ConfigError
from rdnlib.utils.ranges import Count, NotNegative, Part, Pixels, Positive, Share


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises ConfigError for a value out of range.

    epochs, lr, batch_size, momentum, weight_decay, label_smoothing: as in SGD. min_lr, warmup_epochs: see `learning_rate`.
    size: pixels of a training image. crop_scale, flip: see `transforms.Augment`. bn_momentum: of all batch norms.
    ema_horizon: the share of the run over which weights are averaged, see `ema_decay`.
    distill, largest, teach_largest: see `joint_loss`. teacher: N_K ("largest"), its moving average ("average") or the network that
    training began with ("supernet"), which cost one more forward pass.
    parts: equal parts that a batch is computed in, on one process or several; see `batchnorm`.
    precision: "no" (float32) or "bf16" (autocast). compile: through `torch.compile`.
    """

    epochs: Count
    lr: Positive
    size: Pixels
    batch_size: Annotated[int, Field(ge=2, le=10**9)] = 128
    min_lr: NotNegative = 1e-5
    warmup_epochs: NotNegative = 1.0
    momentum: Part = 0.9
    weight_decay: NotNegative = 1e-4
    label_smoothing: Share = 0.1
    ema_horizon: Share = 0.04
    bn_momentum: Share = 0.1
    crop_scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    precision: Literal["no", "bf16"] = "no"
    distill: Share = 0.0
    largest: Share | None = None
    teacher: Literal["largest", "average", "supernet"] = "largest"
    teach_largest: bool = True
    parts: Count = 1
    compile: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError(f"a run needs epochs ≥ 1 and batch_size ≥ 2, not {self.epochs} and {self.batch_size}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"the learning rate must be positive, not {self.lr}")
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"distill is a share of the loss, from 0 to 1, not {self.distill}")
        if self.largest is not None and not 0 <= self.largest <= 1:
            raise ConfigError(f"largest is N_K's share of the loss, from 0 to 1, not {self.largest}")
        if self.teacher not in ("largest", "average", "supernet"):
            raise ConfigError(f"the teacher must be 'largest', 'average' or 'supernet', not {self.teacher!r}")
        if self.precision not in ("no", "bf16"):
            raise ConfigError(f"precision must be 'no' or 'bf16', not {self.precision!r}")
        if self.parts < 1 or self.batch_size % self.parts or self.batch_size // self.parts < 2:
            raise ConfigError(f"a batch of {self.batch_size} cannot be cut into {self.parts} equal parts of at least 2")

    @property
    def supernet_teaches(self) -> bool:
        return self.distill > 0 and self.teacher == "supernet"

    def rows(self, process: int, processes: int) -> list[slice]:
        """The rows of a batch that a process computes, part by part. Raises ConfigError unless the parts can be shared out."""
        if self.parts % processes:
            problem = f"{processes} processes cannot share a batch of {self.batch_size} in {self.parts} parts equally"
            raise ConfigError(f"{problem}: start as many as divide the parts, or set the recipe's parts")
        return [slice(part, None, self.parts) for part in range(process, self.parts, processes)]


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then cosine from `lr` to `min_lr` (Loshchilov and Hutter, 2016)."""
    warmup = min(recipe.warmup_epochs / recipe.epochs, 0.5) * steps
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * done)) / 2


def ema_decay(recipe: Recipe, steps: int) -> float:
    """The decay whose averaging window, 1 / (1 − decay), is `ema_horizon` of the run's steps.

    The paper's 0.9999 over 250,000 steps averages over 4 % of them; a short run needs the same share, not the same decay.
    """
    return 1 - 1 / max(1.0, recipe.ema_horizon * steps)
