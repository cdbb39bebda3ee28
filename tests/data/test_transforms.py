"""Batch augmentation against its obvious per-sample form and against torchvision's distribution of boxes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from rdnlib.data import transforms
from rdnlib.errors import ConfigError

SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photographs(count, height, width, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), generator=seeded(seed), dtype=torch.uint8)


def slow_crop(image, box, size):
    """Bilinear interpolation of one image, written out: (C, H, W), four numbers → float (C, size, size)."""
    top, left, height, width = (int(value) for value in box)
    image = image.double().numpy()
    y = (top + (np.arange(size) + 0.5) * height / size - 0.5).clip(0, image.shape[1] - 1)
    x = (left + (np.arange(size) + 0.5) * width / size - 0.5).clip(0, image.shape[2] - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, image.shape[1] - 1), np.minimum(x0 + 1, image.shape[2] - 1)
    v, u = (y - y0)[:, None], x - x0
    upper = image[:, y0][:, :, x0] * (1 - u) + image[:, y0][:, :, x1] * u
    lower = image[:, y1][:, :, x0] * (1 - u) + image[:, y1][:, :, x1] * u
    return torch.from_numpy(upper * (1 - v) + lower * v).float()


@settings(max_examples=30, deadline=None)
@given(height=st.integers(8, 40), width=st.integers(8, 40), size=st.integers(4, 40), seed=st.integers(0, 999))
def test_crop_equals_the_crop_of_each_sample(height, width, size, seed):
    images = photographs(5, height, width, seed)
    boxes = transforms.crop_boxes(5, height, width, scale=SCALE, ratio=RATIO, generator=seeded(seed))
    slow = torch.stack([slow_crop(image, box, size) for image, box in zip(images, boxes, strict=True)])
    torch.testing.assert_close(transforms.crop(images, boxes, size=size), slow, atol=0.02, rtol=0)


def test_crop_equals_cut_and_interpolate_where_the_box_is_shrunk():
    images = photographs(4, 40, 50)
    boxes = torch.tensor([[0, 0, 40, 50], [3, 5, 20, 24], [20, 26, 20, 24], [10, 10, 17, 19]])
    for image, box, fast in zip(images, boxes, transforms.crop(images, boxes, size=16), strict=True):
        top, left, height, width = box.tolist()
        cut = image[None, :, top : top + height, left : left + width].float()
        slow = F.interpolate(cut, (16, 16), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(fast, slow, atol=0.02, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    seed=st.integers(0, 999),
)
def test_boxes_lie_inside_the_image(height, width, low, high, seed):
    scale = (min(low, high), max(low, high))
    boxes = transforms.crop_boxes(50, height, width, scale=scale, ratio=RATIO, generator=seeded(seed))
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 70)])
def test_boxes_are_distributed_like_torchvisions(height, width):
    count = 3000
    ours = transforms.crop_boxes(count, height, width, scale=SCALE, ratio=RATIO, generator=seeded()).double()
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(count)]).double()
    for pick in (lambda box: box, lambda box: box[:, 2:].prod(1, keepdim=True)):  # sides and places; area
        one, other = pick(ours), pick(theirs)
        error = ((one.var(0) + other.var(0)) / count).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 4.5 * error).all()
        torch.testing.assert_close(one.std(0), other.std(0), rtol=0.08, atol=0)


@pytest.mark.parametrize(("height", "width"), [(8, 64), (64, 8), (10, 11)])
def test_the_box_where_none_fits_is_torchvisions(height, width):
    scale = (1.0, 1.0) if height * width < 200 else (0.9, 1.0)
    narrow = (2.0, 2.0)
    ours = transforms.crop_boxes(3, height, width, scale=scale, ratio=narrow, generator=seeded())
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), list(scale), list(narrow))
    assert ours.tolist() == [list(theirs)] * 3


def test_flip_mirrors_the_chosen_images_and_half_are_chosen():
    images, chosen = photographs(3, 2, 3), torch.tensor([True, False, True])
    flipped = transforms.flip(images, chosen)
    assert flipped.dtype == torch.uint8
    for image, mirrored, result in zip(images, chosen, flipped, strict=True):
        assert torch.equal(result, image.flip(-1) if mirrored else image)
    _, drawn = transforms.Augment(16).draw(2000, 20, 20, seeded())
    assert abs(drawn.float().mean() - 0.5) < 4 * math.sqrt(0.25 / 2000)


def test_normalise_is_imagenets():
    images = photographs(3, 4, 5)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    slow = (images.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    fast = transforms.normalise(images)
    assert fast.dtype == torch.float32
    np.testing.assert_allclose(fast.numpy().transpose(0, 2, 3, 1), slow, atol=1e-5)
    torch.testing.assert_close(transforms.normalise(images.float()), fast)


def test_evaluation_keeps_images_of_the_right_size_and_antialiases_others():
    images = photographs(2, 32, 32)
    torch.testing.assert_close(transforms.resize_eval(images, 32), transforms.normalise(images))
    stripes = torch.tensor([255, 0, 0, 0], dtype=torch.uint8).repeat(8).expand(1, 3, 32, 32)
    grey = transforms.normalise(torch.full((1, 3, 8, 4), 255 / 4))
    torch.testing.assert_close(transforms.resize_eval(stripes, 8)[..., 2:6], grey, atol=0.2, rtol=0)


def augmented(images, seed=0, **options):
    augment = transforms.Augment(16, **options)
    return augment.apply(images, *augment.draw(len(images), *images.shape[-2:], seeded(seed)))


def test_augment_is_flip_then_crop_then_normalise():
    images = photographs(6, 20, 20)
    augment = transforms.Augment(16, scale=(0.5, 0.9))
    boxes, mirrored = augment.draw(6, 20, 20, seeded(5))
    out = augment.apply(images, boxes, mirrored)
    flipped = [image.flip(-1) if chosen else image for image, chosen in zip(images, mirrored, strict=True)]
    slow = torch.stack([slow_crop(image, box, 16) for image, box in zip(flipped, boxes, strict=True)])
    assert 0 < mirrored.sum() < 6
    assert out.shape == (6, 3, 16, 16) and out.dtype == torch.float32
    torch.testing.assert_close(out, transforms.normalise(slow), atol=1e-3, rtol=0)


def test_the_same_generator_seed_gives_the_same_batch_and_another_does_not():
    images = photographs(8, 20, 20)
    one, again, other = (augmented(images, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_without_flip_no_image_is_mirrored_and_no_number_is_drawn_for_it():
    boxes, mirrored = transforms.Augment(16, flip=False).draw(8, 20, 20, seeded())
    assert not mirrored.any()
    assert torch.equal(boxes, transforms.crop_boxes(8, 20, 20, scale=SCALE, ratio=RATIO, generator=seeded()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_change_the_result():
    images = photographs(8, 20, 20)
    torch.testing.assert_close(augmented(images.cuda()).cpu(), augmented(images), atol=1e-3, rtol=0)


@pytest.mark.parametrize("bad", [{"size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.9, 0.5)}, {"scale": (0.5, 1.5)}])
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match="augmentation"):
        transforms.Augment(**({"size": 8} | bad))
