"""Batches for training: shuffled by the seed, read ahead where that pays, augmented on the device.

Order and augmentation are drawn for the whole batch, whoever computes which part of it: so they depend neither on the number
of processes nor on that of the workers that read images, and a run goes on in the middle of an epoch by skipping its draws.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rdnlib.data.datasets import ImageSet
from rdnlib.data.image_folder import Files
from rdnlib.data.transforms import Augment
from rdnlib.errors import RdnError
from rdnlib.training.recipe import Recipe
from rdnlib.utils import devices


def mixed(*numbers: int) -> int:
    """One seed from several numbers; nearby seeds and epochs do not share batches."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])


def epoch_parts(
    images: ImageSet, recipe: Recipe, *, seed: int, skip: int, waiting: "Waiting"
) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of an epoch's batches that this process computes, in order: images (b, 3, size, size) and labels (b,).

    See `Recipe.own_rows`. `skip`: batches that are not wanted any more.
    """
    here, count = devices.here(), recipe.batch_size
    mine = recipe.own_rows(here.process_index, here.num_processes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
    steps = len(order) // count
    whole = np.sort(order[: steps * count].reshape(steps, count), axis=1)[skip:]  # (steps left, batch): reads in order
    augment = Augment(recipe.size, recipe.crop_scale, recipe.flip)
    generator = torch.Generator().manual_seed(mixed(seed, 0))
    extent, labels = images.images.shape[-2:], torch.from_numpy(images.labels)
    for _ in range(skip):
        augment.draw(count, *extent, generator)
    pixels = waiting.measured(read(images, [rows[part] for rows in whole for part in mine]))
    for rows in whole:
        drawn = augment.draw(count, *extent, generator)
        for part in mine:
            batch = augment.apply(next(pixels), drawn[part]).contiguous(memory_format=torch.channels_last)
            yield batch, labels[rows[part]].to(here.device, non_blocking=True)


def read(images: ImageSet, wanted: Sequence[np.ndarray | slice]) -> Iterator[Tensor]:
    """The pixels of these rows of the set, uint8 (b, 3, S, S) on the device, one tensor for each element of `wanted`.

    Images that are decoded when they are asked for are read ahead by worker processes: as many as there are CPU cores,
    or RDN_WORKERS. A worker that fails raises its RdnError here.
    """
    cuda = devices.here().device.type == "cuda"
    workers = int(devices.setting("RDN_WORKERS", devices.cores())) if isinstance(images.images, Files) else 0
    if workers and len(wanted) > 1:
        pieces = DataLoader(
            _Pieces(images.images, wanted), batch_size=None, num_workers=min(workers, len(wanted)),
            pin_memory=cuda, generator=torch.Generator(),  # without its own it would draw from the process's generator
        )  # fmt: skip
    else:
        found = (torch.from_numpy(np.ascontiguousarray(images.images[rows])) for rows in wanted)
        pieces = (piece.pin_memory() if cuda else piece for piece in found)
    for piece in pieces:
        if isinstance(piece, RdnError):
            raise piece
        yield piece.to(devices.here().device, non_blocking=True)


class _Pieces(Dataset):
    """Rows of images by position. An error travels as a value: raised in a worker, it would arrive as a page of text."""

    def __init__(self, images, wanted: Sequence[np.ndarray | slice]):
        self.images, self.wanted = images, wanted

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> Tensor | RdnError:
        try:
            return torch.from_numpy(np.ascontiguousarray(self.images[self.wanted[index]]))
        except RdnError as error:
            return error


class Waiting:
    """How long the device has waited for images, in seconds.

    A GPU works on while the program asks for the next images: there it is the time on the GPU's own clock from the end of
    its work so far to their arrival, read when somebody wants to know it.
    """

    def __init__(self, seconds: float = 0.0):
        self._seconds, self._cuda, self._marks = seconds, devices.here().device.type == "cuda", []

    def measured(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same pieces, while the time taken for each is added up."""
        start = self._now()
        for piece in pieces:
            end = self._now()
            if self._cuda:
                self._marks.append((start, end))
            else:
                self._seconds += end - start
            yield piece
            start = self._now()

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """So far. On a GPU it waits for the work in flight."""
        if self._marks:
            torch.cuda.synchronize()
            self._seconds += sum(start.elapsed_time(end) for start, end in self._marks) / 1000
            self._marks.clear()
        return self._seconds
