"""A place for a network's values over a whole calibration set: in memory while they are few, in temporary files beyond.

Surgery looks at one layer at a time over all batches. What the next layer reads has to wait somewhere, and the memory it waits in
must not grow with the number of images.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

MEMORY = 2 << 30  # bytes kept in memory before files are used


class Shelf:
    """Tensors by (name, batch). Those put on it after `limit` bytes are reached lie in files until they are dropped."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self.used = folder, limit, 0
        self.held: dict[tuple[str, int], Tensor | Path] = {}

    def put(self, name: str, batch: int, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if self.used + size <= self.limit:
            self.held[name, batch], self.used = value, self.used + size
        else:
            path = self.folder / f"{len(self.held)}-{name}-{batch}.pt"
            torch.save(value.contiguous(), path)
            self.held[name, batch] = path

    def get(self, name: str, batch: int) -> Tensor:
        value = self.held[name, batch]
        return torch.load(value, weights_only=True) if isinstance(value, Path) else value

    def drop(self, name: str) -> None:
        for key in [key for key in self.held if key[0] == name]:
            value = self.held.pop(key)
            if isinstance(value, Path):
                value.unlink()
            else:
                self.used -= value.numel() * value.element_size()


@contextmanager
def shelf(limit: int | None = None) -> Iterator[Shelf]:
    """A shelf whose files are gone afterwards; limit: bytes in memory (default: MEMORY)."""
    with tempfile.TemporaryDirectory(prefix="rdn-") as folder:
        yield Shelf(Path(folder), MEMORY if limit is None else limit)
