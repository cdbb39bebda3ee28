"""Batches for training: shuffled by the seed, read ahead by worker processes, augmented on the device.

Order and augmentation are drawn for the whole batch, whoever computes which part of it. So they depend neither on the number
of processes nor on the number of workers, and a resumed run skips the draws of the batches that it has already seen.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rdnlib.data.datasets import ImageSet
from rdnlib.data.image_folder import Files
from rdnlib.data.transforms import Augment
from rdnlib.errors import DataError
from rdnlib.training.recipe import Recipe
from rdnlib.utils import devices


def derived_seed(*numbers: int) -> int:
    """One seed from several numbers, such that nearby seeds and epochs do not share random streams."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])


def epoch_parts(
    images: ImageSet, recipe: Recipe, *, seed: int, skip: int, timer: "WaitTimer"
) -> Iterator[tuple[Tensor, Tensor]]:
    """The parts of an epoch's batches that this process computes, in order: images (b, 3, size, size) and labels (b,).

    See `Recipe.rows`. skip: the number of batches that an earlier run has already seen.
    """
    here, count = devices.here(), recipe.batch_size
    own_parts = recipe.rows(here.process_index, here.num_processes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
    steps = len(order) // count
    batches = np.sort(order[: steps * count].reshape(steps, count), axis=1)[skip:]  # (steps left, batch), read in order
    augment = Augment(recipe.size, recipe.crop_scale, recipe.flip)
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    extent, labels = images.images.shape[-2:], torch.from_numpy(images.labels)
    for _ in range(skip):
        augment.draw(count, *extent, generator)
    pixels = timer.timed(read(images, [rows[part] for rows in batches for part in own_parts]))
    for rows in batches:
        boxes, mirrored = augment.draw(count, *extent, generator)
        for part in own_parts:
            batch = augment.apply(next(pixels), boxes[part], mirrored[part])
            targets = labels[rows[part]].to(here.device, non_blocking=True)
            yield batch.contiguous(memory_format=torch.channels_last), targets


def read(images: ImageSet, batches: Sequence[np.ndarray | slice]) -> Iterator[Tensor]:
    """The pixels of each of `batches` (positions in the set), uint8 (b, 3, S, S) on the device.

    Photographs that are decoded when they are read are read ahead by worker processes: one for each CPU core, or RDN_WORKERS.
    Raises DataError for a damaged image.
    """
    device = devices.here().device
    ahead = isinstance(images.images, Files) and len(batches) > 1
    workers = int(devices.setting("RDN_WORKERS", devices.cores())) if ahead else 0
    loader = DataLoader(
        batches, batch_size=None, collate_fn=partial(_pixels, images.images), num_workers=min(workers, len(batches)),
        pin_memory=device.type == "cuda", generator=torch.Generator(),  # without it, it draws from the global one
    )  # fmt: skip
    for pixels in loader:
        if isinstance(pixels, DataError):
            raise pixels
        yield pixels.to(device, non_blocking=True)


def _pixels(images, rows: np.ndarray | slice) -> Tensor | DataError:
    """An error is returned: raised in a worker, it would arrive as a page of text."""
    try:
        return torch.from_numpy(np.ascontiguousarray(images[rows]))
    except DataError as error:
        return error


class WaitTimer:
    """Adds up the time that the device waits for images, in seconds.

    A GPU works on while the program fetches the next images. There it is the time on the GPU's own clock from the end of
    its queued work to the images' arrival; the clock is read only when `seconds` is asked for.
    """

    def __init__(self, seconds: float = 0.0):
        self._seconds, self._cuda, self._spans = seconds, devices.here().device.type == "cuda", []

    def timed(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same batches; the time that each takes to arrive is counted."""
        start = self._now()
        for batch in batches:
            self._spans.append((start, self._now()))
            yield batch
            start = self._now()

    def _now(self):
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> float:
        """The sum so far. On a GPU this waits for the work in flight."""
        if self._cuda:
            torch.cuda.synchronize()
        spans, self._spans = self._spans, []
        self._seconds += sum(start.elapsed_time(end) / 1000 if self._cuda else end - start for start, end in spans)
        return self._seconds
