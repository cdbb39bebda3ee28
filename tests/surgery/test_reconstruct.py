"""Reconstruction keeps the function of the super-net."""

import pytest
import torch
from support.networks import LinearNet, Mixed, settle_norms
from torch import nn

from rdnlib import to_rdn
from rdnlib.graph import trace
from rdnlib.models import mobilenext
from rdnlib.surgery.reconstruct import feature_norm, gates


def test_reconstruct_recovers_a_linear_net_exactly(images):
    """All channels of a linear 1×1 layer are in reach of N_K's regression, so N_K must be the super-net."""
    torch.manual_seed(1)
    model = LinearNet(1).eval()
    rdn = to_rdn(model, 4, select="identity", init="reconstruct", calibration=images.repeat(8, 1, 1, 1))
    error = (rdn(images)[:, -1] - model(images)).abs().mean() / model(images).std()
    assert error < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: mobilenext(width_mult=0.25, num_classes=6), Mixed])
def test_reconstruct_is_closer_to_the_super_net_than_copy(images, make):
    torch.manual_seed(0)
    many = torch.randn(256, 3, 32, 32)
    model = settle_norms(make(), many)
    with torch.no_grad():
        wanted = model(many)
        copy, fitted = (
            to_rdn(model, 4, select="greedy-relative", init=init, calibration=many)(many)
            for init in ("copy", "reconstruct")
        )
    gap = [(logits[:, -1] - wanted).pow(2).mean().item() for logits in (copy, fitted)]
    assert gap[1] < 0.7 * gap[0]
    improvement = (fitted - wanted[:, None]).pow(2).mean(dim=(0, 2))
    assert improvement[-1] < improvement[0]


@pytest.mark.slow
def test_reconstruct_gives_every_group_features_of_unit_variance(images, small):
    """Heads on tiny features need huge weights, and training then diverges (see `balance_groups`)."""
    many = torch.randn(256, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    rdn = to_rdn(small, 4, select="greedy-relative", init="reconstruct", calibration=many)
    with torch.no_grad():
        groups = rdn.features(many).split(list(rdn.heads.space.sizes), dim=1)
    for group in groups:
        assert group.var(dim=0).mean() == pytest.approx(1, rel=0.05)


def test_balancing_is_left_out_where_an_activation_follows_the_norm(images):
    """ReLU6 is not linear: rescaling before it would change the function. So the features keep their scale."""

    def net(*tail):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 8, 1),
            nn.BatchNorm2d(8),
            *tail,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        )

    assert feature_norm(trace(net())) is not None
    assert feature_norm(trace(net(nn.ReLU6()))) is None
    assert feature_norm(trace(net(nn.Dropout(0.2)))).target == "2"


def test_groups_that_multiply_are_fitted_to_the_whole_and_not_to_what_is_left():
    assert gates(trace(Mixed())) == {"gate_3", "excite_fc2"}
