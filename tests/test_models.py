"""MobileNeXt: shapes, and the parameter counts that identify the paper's variant."""

import pytest
import torch

from rdnlib import models
from rdnlib.errors import ConfigError
from rdnlib.models.mobilenext import make_divisible


@pytest.mark.parametrize(("width", "millions"), [(1.0, 3.54), (1.5, 6.88)])
def test_parameters_match_the_paper(width, millions):
    model = models.mobilenext(width_mult=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("width", [0.1, 0.35, 1.0])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_shapes_and_gradients(width, stem_stride):
    model = models.mobilenext(width_mult=width, num_classes=7, stem_stride=stem_stride)
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_narrow_nets_keep_the_last_stage_wide():
    assert models.mobilenext(width_mult=0.5).classifier.in_features == 1280
    assert models.mobilenext(width_mult=1.5).classifier.in_features == 1920


def test_rounding_never_loses_more_than_a_tenth():
    for channels in range(1, 400):
        rounded = make_divisible(channels, 8)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * channels


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match="unknown model 'vgg'"):
        models.build("vgg")
    with pytest.raises(ConfigError, match="does not take"):
        models.build("mobilenext", depth=3)
