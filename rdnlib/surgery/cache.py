"""Calibration images, and a cache for a network's activations on all of them: in memory while they are few, in files beyond.

Surgery looks at one layer at a time over all batches. What the next layer reads has to wait somewhere, and the memory it waits in
must not grow with the number of images.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError

BATCH = 128  # calibration images that are run at once
MEMORY = 2 << 30  # bytes kept in memory before files are used


def calibration_batches(model: nn.Module, calibration: Tensor | Iterable[Tensor] | None) -> list[Tensor]:
    """Images (B, 3, H, W), or any number of such batches → batches of at most BATCH images on the model's device.

    Raises ConfigError when they are not finite float tensors of images of one size.
    """
    if calibration is None:
        return []
    device = next(model.parameters()).device
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 4 or not batch.is_floating_point() or not len(batch):
            raise ConfigError("calibration must be float tensors of normalised images, shape (B, 3, H, W)")
        if batch.shape[1:] != batches[0].shape[1:]:
            raise ConfigError("calibration batches must hold images of one size")
        if not torch.isfinite(batch).all():
            raise ConfigError("calibration images contain NaN or infinite values")
    return [part.to(device) for batch in batches for part in batch.split(BATCH)]


def some(batches: list[Tensor], images: int) -> list[Tensor]:
    """At most about so many images, evenly spread over all batches."""
    step, start, chosen = max(1, sum(map(len, batches)) // images), 0, []
    for batch in batches:
        chosen.append(batch[-start % step :: step])
        start += len(batch)
    return [batch for batch in chosen if len(batch)]


class ActivationCache:
    """Tensors by (name, batch). Those put into it after `limit` bytes are reached lie in files until they are dropped."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self.used = folder, limit, 0
        self.entries: dict[tuple[str, int], Tensor | Path] = {}

    def put(self, name: str, batch: int, value: Tensor) -> None:
        if self.used + value.nbytes <= self.limit:
            self.entries[name, batch], self.used = value, self.used + value.nbytes
        else:
            path = self.folder / f"{len(self.entries)}-{name}-{batch}.pt"
            torch.save(value.contiguous(), path)
            self.entries[name, batch] = path

    def get(self, name: str, batch: int) -> Tensor:
        entry = self.entries[name, batch]
        return torch.load(entry, weights_only=True) if isinstance(entry, Path) else entry

    def drop(self, name: str) -> None:
        """Free the tensors of all batches."""
        for key in [key for key in self.entries if key[0] == name]:
            entry = self.entries.pop(key)
            if isinstance(entry, Path):
                entry.unlink()
            else:
                self.used -= entry.nbytes


@contextmanager
def activation_cache(limit: int | None = None) -> Iterator[ActivationCache]:
    """An empty cache whose files are gone afterwards; limit: bytes in memory (default: MEMORY)."""
    with tempfile.TemporaryDirectory(prefix="rdn-") as folder:
        yield ActivationCache(Path(folder), MEMORY if limit is None else limit)
