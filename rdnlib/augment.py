"""Augmentation of whole batches on their own device, without a Python loop over samples.

The usual ImageNet recipe (the paper, Section 4.1, takes it from earlier work): random resized crop, horizontal flip,
normalisation. Random numbers come from a CPU generator, so a seed gives the same batch on every device. Pixel values
are 0…255 until `normalise`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rdnlib.errors import ConfigError

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pixels in [0, 1]
STD = (0.229, 0.224, 0.225)
_ATTEMPTS = 10  # boxes drawn for each sample; the first that fits is used, as in torchvision


def crop_boxes(
    count: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw `count` boxes as torchvision's RandomResizedCrop does: int64 (count, 4) of top, left, height, width.

    The area is uniform in `scale` (of the image), the aspect ratio log-uniform in `ratio`; where no attempt fits, the
    largest central box with the nearest allowed aspect ratio.
    """
    area = height * width * _uniform((_ATTEMPTS, count), *scale, generator)
    aspect = _uniform((_ATTEMPTS, count), math.log(ratio[0]), math.log(ratio[1]), generator).exp()
    widths, heights = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()  # (attempts, count)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.byte().argmax(0, keepdim=True)  # (1, count)
    w, h = widths.gather(0, first)[0], heights.gather(0, first)[0]
    place = torch.rand((2, count), generator=generator, dtype=torch.float64)
    top, left = (place[0] * (height - h + 1)).floor(), (place[1] * (width - w + 1)).floor()

    aspect = min(max(width / height, ratio[0]), ratio[1])
    whole_w, whole_h = min(width, round(height * aspect)), min(height, round(width / aspect))
    centre = torch.tensor([(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w])
    boxes = torch.stack([top, left, h, w], 1).long()  # (count, 4)
    return torch.where(fits.any(0)[:, None], boxes, centre)


def crop(images: torch.Tensor, boxes: torch.Tensor, *, size: int) -> torch.Tensor:
    """Cut a box (top, left, height, width) out of each image and resize it: (B, C, H, W) → float (B, C, size, size).

    All boxes at once, by one affine sampling grid, bilinear and without antialiasing: a box more than about twice as
    large as `size` aliases, so load images not much larger than their crops. Where a box is enlarged, its rim blends
    in the pixels next to it.
    """
    height, width = images.shape[-2:]
    top, left, h, w = boxes.to(images.device, torch.float32).T[..., None]  # (B, 1) each
    steps = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    x, y = (left + w * steps) / width * 2 - 1, (top + h * steps) / height * 2 - 1  # (B, size) in [-1, 1]
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_resized_crop(
    images: torch.Tensor,
    *,
    size: int,
    scale: tuple[float, float] = (0.35, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator,
) -> torch.Tensor:
    """A random box of each image, resized: (B, C, H, W) → float (B, C, size, size). See `crop_boxes` and `crop`."""
    boxes = crop_boxes(len(images), *images.shape[-2:], scale=scale, ratio=ratio, generator=generator)
    return crop(images, boxes, size=size)


def random_flip(images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image left to right with probability 1/2: (B, C, H, W), dtype kept."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(-1), images)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Values 0…255 of any dtype (B, 3, H, W) → float32 with ImageNet's mean 0 and standard deviation 1."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] * 255 for v in (MEAN, STD))
    return (images.float() - mean) / std


def resize_eval(images: torch.Tensor, size: int) -> torch.Tensor:
    """Whole images for evaluation: values 0…255 (B, 3, H, W) → normalised float (B, 3, size, size), antialiased."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return normalise(images)


@dataclass(frozen=True)
class Augment:
    """Random resized crop, flip and normalisation: uint8 (B, 3, S, S) → float (B, 3, size, size).

    `scale` is the range of a crop's share of the image's area. Raises ConfigError where it is not within (0, 1].
    """

    size: int
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augmentation needs size ≥ 1 and 0 < scale ≤ 1, not {self.size} and {self.scale}")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if self.flip:
            images = random_flip(images, generator=generator)
        return normalise(random_resized_crop(images, size=self.size, scale=self.scale, generator=generator))


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
