"""The processes of a run and their devices: one process alone, or several under `torchrun` or `accelerate launch`.

Every process of a run does the same, each with its own share of the images; the first of them, the main one, decides what
has to be decided once and writes files. A process that was started alone is the main one of one.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import Tensor

from rdnlib.errors import ConfigError

_PATIENCE = timedelta(hours=6)  # the others wait while the main process decodes a data set or waits for a lock


@cache
def here() -> PartialState:
    """This process among those of its run: `num_processes`, `process_index`, `is_main_process`, `device`."""
    launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=not torch.cuda.is_available(), **({"timeout": _PATIENCE} if launched else {}))


def leave() -> None:
    """At the end of a run of several processes, part in good order."""
    if here.cache_info().currsize and here().num_processes > 1:
        here().destroy_process_group()


def agreed(value):
    """What the main process says, in every process."""
    return broadcast_object_list([value])[0] if here().num_processes > 1 else value


def gathered(values: list) -> list:
    """The lists of all processes, one after another, in every process."""
    return gather_object(values) if here().num_processes > 1 else values


@torch.no_grad()
def share(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by the main process's."""
    if here().num_processes > 1:
        for tensor in tensors:
            tensor.copy_(broadcast(tensor.detach().contiguous()))


def average(tensors: list[Tensor]) -> None:
    """Replace each tensor (floating point) by its mean over the processes."""
    processes = here().num_processes
    if processes > 1 and tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors]).div_(processes)
        torch.distributed.all_reduce(flat)
        means = flat.split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [mean.view_as(tensor) for mean, tensor in zip(means, tensors, strict=True)])


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """`folder` for the main process; for each of the others one to throw away, where it may write as if it were the main."""
    if here().is_main_process:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="rdn-") as scratch:
            yield Path(scratch)


def precision(name: str) -> AbstractContextManager:
    """Autocast to bfloat16 for "bf16"; nothing for "no"."""
    return torch.autocast(here().device.type, torch.bfloat16, enabled=name == "bf16")


def cores() -> int:
    """CPU cores for each process of this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def setting(name: str, default: float) -> float:
    """A number of at least 0 from the environment: how to run, never what comes out."""
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigError(f"{name} must be a number of at least 0, not {text!r}")
    return value
