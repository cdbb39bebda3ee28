"""The processes of a run and their devices: one process alone, or several under `torchrun` or `accelerate launch`.

All processes run the same program, each on its own share of the images. The main process, the first of them, makes the
decisions that must be made once and writes the files. A process that was started alone is the main one of one.
"""

import ctypes
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from rdnlib.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
_TIMEOUT = timedelta(hours=6)  # the others wait while the main process decodes a data set or waits for a lock


@cache
def here() -> PartialState:
    """This process among those of its run: `num_processes`, `process_index`, `is_main_process`, `device`."""
    launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=not torch.cuda.is_available(), **({"timeout": _TIMEOUT} if launched else {}))


def shutdown() -> None:
    """Close the group of processes at the end of a run."""
    if here.cache_info().currsize and here().num_processes > 1:
        here().destroy_process_group()


def broadcast(value):
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0] if here().num_processes > 1 else value


def gather(values: list) -> list:
    """The lists of all processes, one after another, in every process."""
    return gather_object(values) if here().num_processes > 1 else values


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by the main process's."""
    if here().num_processes > 1:
        for tensor in tensors:
            values = tensor.detach().contiguous()
            torch.distributed.broadcast(values, src=0)
            tensor.copy_(values)


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
    """`folder` for the main process; a temporary one for each of the others, which may write there as if it were the main."""
    if here().is_main_process:
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="rdn-") as scratch:
            yield Path(scratch)


def precision(name: str) -> AbstractContextManager:
    """Autocast to bfloat16 for "bf16"; nothing for "no"."""
    return torch.autocast(here().device.type, torch.bfloat16, enabled=name == "bf16")


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Torch computes on so many CPU threads; reset afterwards, as the setting is global."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Denormal numbers, many times slower than others on a CPU, count as zero; as before afterwards: the setting is the thread's."""
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flushes_denormals() -> bool:
    """Whether denormal numbers count as zero in this thread."""
    return sys.float_info.min / 2 == 0


@cache
def keep_freed_memory() -> None:
    """From now on this process keeps the memory that tensors free, for the next ones, as GPU allocators do.

    glibc returns every large block to the system at once and gets it back page by page, each filled with zeros: in training on a CPU
    that may take as long as the arithmetic. Nothing is done where the C library is another one.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)  # no block is mapped by itself
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def most_memory() -> float:
    """Bytes that this process has held at most since it began: of the GPU where it computes on one, else of the machine."""
    if here().device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cores() -> int:
    """CPU cores for each process of this machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def setting(name: str, default: float) -> float:
    """A number of at least 0 from the environment, which may change how a run proceeds but not its result.

    Raises ConfigError for anything else.
    """
    text = os.environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigError(f"{name} must be a number of at least 0, not {text!r}")
    return value
