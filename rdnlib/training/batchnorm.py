"""Batch normalisation of a batch in parts: on several processes, or one part after another.

Each part is normalised by itself, as in any data-parallel training (the paper uses eight GPUs, Section 4.1). The running
statistics take one step a batch, by the mean over the parts, whether these lie side by side or one after another: so the
number of processes does not show in them. `synchronised` normalises each part over all processes together.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

from rdnlib.utils import devices


class SharedStatistics:
    """The running statistics of all batch norms of `model` while its batches come in several parts."""

    def __init__(self, model: nn.Module, parts: int):
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        norms = [norm for norm in norms if norm.track_running_stats]
        self.statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.counters = [norm.num_batches_tracked for norm in norms]
        self.parts = parts

    @contextmanager
    def batch(self) -> Iterator["SharedStatistics"]:
        """Around the parts of one batch that this process computes."""
        if self.parts == 1 or not self.statistics:
            yield self
            return
        self.before, self.total = [s.clone() for s in self.statistics], [torch.zeros_like(s) for s in self.statistics]
        self.seen = 0
        yield self
        torch._foreach_copy_(self.statistics, torch._foreach_div(self.total, self.seen))
        torch._foreach_sub_(self.counters, self.seen - 1)
        devices.average(self.statistics)

    @contextmanager
    def part(self) -> Iterator[None]:
        """Around one part, forwards and backwards: it starts from the statistics before this batch."""
        yield
        if self.parts > 1 and self.statistics:
            torch._foreach_add_(self.total, self.statistics)
            torch._foreach_copy_(self.statistics, self.before)
            self.seen += 1


def synchronised(wanted: bool) -> AbstractContextManager:
    """While open, every batch norm in training, plain or nested, normalises over the images of all processes."""
    return _Synchronised() if wanted and devices.here().num_processes > 1 else nullcontext()


class _Synchronised(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> Tensor:
    """`F.batch_norm` whose batch lies on all processes in equal shares; the gradient flows through the exchange."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    processes, shape = devices.here().num_processes, (1, -1) + (1,) * (x.ndim - 2)
    over = [0, *range(2, x.ndim)]
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = all_reduce(wide.mean(over)) / processes
        centred = wide - mean.view(shape)
        variance = all_reduce(centred.square().mean(over)) / processes
        if running_mean is not None:
            with torch.no_grad():
                count = processes * x.numel() // x.shape[1]
                running_mean.lerp_(mean, momentum)
                running_var.lerp_(variance * (count / (count - 1)), momentum)
        slope = (variance + eps).rsqrt() * (1 if weight is None else weight)
        y = centred * slope.view(shape) + (0 if bias is None else bias.view(shape))
    return y.to(x.dtype)


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: list[Tensor]) -> None:
    """Recompute all batch-norm statistics as the mean over `batches` of normalised images (B, 3, H, W)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for batch in batches:
        model(batch)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
