"""Batch normalisation of a batch that is computed in parts, and statistics estimated afresh.

Each part is normalised by its own mean and variance, as in any data-parallel training (the paper uses eight GPUs, Section 4.1).
The running statistics move once per batch, to the mean over all J parts,

    μ ← (1 − m) μ + m · (1/J) Σ_j μ_j        and likewise the variance,

whether the parts are computed on several processes or one after another: the result does not depend on how many there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from rdnlib.utils import devices


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """All batch norms of a network: of feature maps (2-d) and of vectors (1-d, in a classifier's hidden layers)."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def reestimate_norms(model: nn.Module, batches: list[Tensor]) -> None:
    """Replace all batch-norm statistics by their mean over `batches` of normalised images (B, 3, H, W); ends in eval mode."""
    update_bn(batches, model.eval())


class RunningStatistics:
    """The running statistics of all batch norms of `model` while its batches are computed in `parts`, over all processes."""

    def __init__(self, model: nn.Module, parts: int):
        norms = [norm for norm in batch_norms(model) if norm.track_running_stats]
        self.statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.counters = [norm.num_batches_tracked for norm in norms]
        self.active = parts > 1 and bool(norms)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the parts of one batch that this process computes."""
        if not self.active:
            yield
            return
        self.before = [statistic.clone() for statistic in self.statistics]
        self.total = [torch.zeros_like(statistic) for statistic in self.statistics]
        self.computed = 0
        yield
        torch._foreach_copy_(self.statistics, torch._foreach_div(self.total, self.computed))
        torch._foreach_sub_(self.counters, self.computed - 1)
        devices.average(self.statistics)

    @contextmanager
    def part(self) -> Iterator[None]:
        """Around the forward and backward pass of one part: it starts from the statistics before this batch."""
        yield
        if self.active:
            torch._foreach_add_(self.total, self.statistics)
            torch._foreach_copy_(self.statistics, self.before)
            self.computed += 1
