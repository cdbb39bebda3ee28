"""Augmentation of whole batches on their own device, without a Python loop over samples.

The usual ImageNet recipe (the paper, Section 4.1, takes it from earlier work): random resized crop, horizontal flip,
normalisation. torchvision's transforms draw one crop for a whole batch; here each image has its own. Random numbers come
from a CPU generator, so a seed gives the same batch on every device. Pixel values are 0…255 until `normalise`.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rdnlib.errors import ConfigError

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pixels in [0, 1]
STD = (0.229, 0.224, 0.225)
RATIO = (3 / 4, 4 / 3)  # the range of a crop's aspect ratio
_ATTEMPTS = 10  # boxes drawn for each sample; the first that fits is used, as in torchvision


def crop_boxes(
    count: int, height: int, width: int, *, scale: tuple[float, float], ratio: tuple[float, float], generator: Generator
) -> Tensor:
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
    position = torch.rand((2, count), generator=generator, dtype=torch.float64)
    top, left = (position[0] * (height - h + 1)).floor(), (position[1] * (width - w + 1)).floor()

    aspect = min(max(width / height, ratio[0]), ratio[1])
    whole_w, whole_h = min(width, round(height * aspect)), min(height, round(width / aspect))
    centre = torch.tensor([(height - whole_h) // 2, (width - whole_w) // 2, whole_h, whole_w])
    boxes = torch.stack([top, left, h, w], 1).long()  # (count, 4)
    return torch.where(fits.any(0)[:, None], boxes, centre)


def crop(images: Tensor, boxes: Tensor, *, size: int) -> Tensor:
    """Cut a box (top, left, height, width) out of each image and resize it: (B, C, H, W) → float (B, C, size, size).

    All boxes at once, by one affine sampling grid, bilinear and without antialiasing: a box more than about twice as
    large as `size` aliases, so load images not much larger than their crops. Where a box is enlarged, its rim blends
    in the pixels next to it.
    """
    height, width = images.shape[-2:]
    top, left, h, w = boxes.to(torch.float32).to(images.device, non_blocking=True).T[..., None]  # (B, 1) each
    steps = (torch.arange(size, device=images.device, dtype=torch.float32) + 0.5) / size
    x, y = (left + w * steps) / width * 2 - 1, (top + h * steps) / height * 2 - 1  # (B, size) in [-1, 1]
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen (B,) of the images (B, C, H, W) left to right, dtype kept."""
    return torch.where(chosen.to(images.device, non_blocking=True)[:, None, None, None], images.flip(-1), images)


def normalise(images: Tensor) -> Tensor:
    """Values 0…255 of any dtype (B, 3, H, W) → float32 with ImageNet's mean 0 and standard deviation 1."""
    mean, std = _statistics(images.device)
    return (images.float() - mean) / std


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels 0…255, (3, 1, 1) each: sent to a device once, not with every batch."""
    with torch.inference_mode(False):  # the cached tensors must also be usable in training
        return tuple(torch.tensor(values, device=device)[:, None, None] * 255 for values in (MEAN, STD))


def resize_eval(images: Tensor, size: int) -> Tensor:
    """Whole images for evaluation: values 0…255 (B, 3, H, W) → normalised float (B, 3, size, size), antialiased."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
    return normalise(images)


@dataclass(frozen=True)
class Augment:
    """Random resized crop, flip and normalisation: uint8 (B, 3, S, S) → float (B, 3, size, size).

    scale: the range of a crop's share of the image's area. To draw for a whole batch and to apply the draws to its parts
    gives the images of the whole. Raises ConfigError where `scale` is not within (0, 1].
    """

    size: int
    scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augmentation needs size ≥ 1 and 0 < scale ≤ 1, not {self.size} and {self.scale}")

    def draw(self, count: int, height: int, width: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """For `count` images of height × width pixels: boxes (count, 4), see `crop_boxes`, and which are mirrored, (count,)."""
        mirrored = torch.rand(count, generator=generator) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool)
        return crop_boxes(count, height, width, scale=self.scale, ratio=RATIO, generator=generator), mirrored

    def apply(self, images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
        """Augment images (B, 3, H, W) by what was drawn for them."""
        return normalise(crop(flip(images, mirrored), boxes, size=self.size))


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
