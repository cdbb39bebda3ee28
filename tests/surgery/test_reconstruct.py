"""Reconstruction keeps the function of the super-net."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import LinearNet, Mixed, settle_norms
from torch import nn

from rdnlib import to_rdn
from rdnlib.graph import trace
from rdnlib.models import mobilenext
from rdnlib.nn.conv import NestedBatchNorm2d
from rdnlib.nn.groups import Space, nested_sizes
from rdnlib.surgery.reconstruct import feature_norm, gates, measure_norm


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


class Damaged(nn.Module):
    """A small trained network's worst channels: dead filters, constants, twins, tiny scales, a norm that never varied."""

    def __init__(self, damages):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)
        self.depthwise, self.second = nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.project, self.third = nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.fourth = nn.Conv2d(12, 12, 3, 2, 1)
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
        self.damages = damages

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.third(self.project(self.second(self.depthwise(x)).relu()))
        return self.classifier(self.flatten(self.pool(self.fourth(x).relu())))

    @torch.no_grad()
    def damage(self):
        for channel, kind in enumerate(self.damages):
            for conv, norm in ((self.stem, self.norm), (self.depthwise, self.second), (self.project, self.third)):
                if kind == "dead":  # weight decay drives them to zero, and their variance with them
                    conv.weight[channel], norm.running_var[channel], norm.running_mean[channel] = 0, 0, 0
                elif kind == "constant":
                    norm.weight[channel] = 0
                elif kind == "never":  # behind the ReLU always 0
                    norm.bias[channel] = -100
                elif kind == "tiny":
                    conv.weight[channel] *= 1e-12
                elif kind == "twin":
                    conv.weight[channel] = conv.weight[channel - 1]


@pytest.mark.slow
@given(
    damages=st.lists(st.sampled_from(["dead", "constant", "never", "tiny", "twin", "sound"]), min_size=12, max_size=12),
    k=st.integers(2, 5), select=st.sampled_from(["greedy", "greedy-relative", "identity"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_surgery_is_finite_and_no_worse_than_copy_whatever_a_network_has_gone_through(damages, k, select, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    many, new = (torch.randn(192, 3, 8, 8, generator=generator) for _ in range(2))
    model = settle_norms(Damaged(damages), many)
    model.damage()
    with torch.no_grad():
        wanted, gaps = model(new), {}
        for init in ("copy", "reconstruct"):
            rdn = to_rdn(model, k, select=select, init=init, calibration=many)
            assert all(value.isfinite().all() for value in rdn.state_dict().values())
            gaps[init] = (rdn(new)[:, -1] - wanted).square().mean().item()
    assert gaps["reconstruct"] <= gaps["copy"] + 0.02 * wanted.var().item() + 1e-6


def test_surgery_says_how_much_of_its_fit_generalises(images):
    """Learnt by heart: more inputs than images, so that on new images the network says something else."""
    torch.manual_seed(0)
    few = torch.randn(64, 3, 16, 16)
    model = settle_norms(mobilenext(width_mult=0.25, num_classes=6), few)
    rdn = to_rdn(model, 3, init="reconstruct", calibration=few)
    fitted, held_out = rdn.config["agreement"]["fitted"], rdn.config["agreement"]["held_out"]
    with torch.no_grad():
        same = rdn(few).argmax(dim=-1) == model(few).argmax(dim=-1, keepdim=True)
    rows = torch.arange(64) % 8 == 7
    one_tie = {"abs": 0.126}, {"abs": 0.018}  # of 8 and of 56 images, where two classes are equal up to rounding
    assert held_out == pytest.approx(same[rows].double().mean(dim=0).tolist(), **one_tie[0])
    assert fitted == pytest.approx(same[~rows].double().mean(dim=0).tolist(), **one_tie[1])
    assert sum(held_out) < sum(fitted)
    assert "agreement" not in to_rdn(model, 3, calibration=few).config


def test_the_agreement_is_that_of_the_network_that_is_returned(small, images):
    """Also where the features are rescaled: these are tiny, so that without their scale the classifier's bias decides alone."""
    model = deepcopy(small)
    norm = feature_norm(trace(model)).module
    with torch.no_grad():
        norm.weight.mul_(0.01)
        norm.bias.mul_(0.01)
        spread = (model(images) - model.classifier.bias).std()
        model.classifier.weight.div_(spread)
        model.classifier.bias.copy_(torch.linspace(0, 1, 10))
        rdn = to_rdn(model, 4, init="reconstruct", calibration=images)
        same = (rdn(images).argmax(dim=-1) == model(images).argmax(dim=-1, keepdim=True)).double()
    held_out = torch.arange(len(images)) % 8 == 7
    for name, rows in (("fitted", ~held_out), ("held_out", held_out)):
        expected = same[rows].mean(dim=0).tolist() if rows.any() else [-1] * 7
        assert rdn.config["agreement"][name] == pytest.approx(expected, abs=1.5 / max(1, int(rows.sum())))


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


def test_measuring_a_norm_changes_its_statistics_and_not_what_it_computes():
    space = Space(6, nested_sizes(6, 2), plain=False)
    norm = NestedBatchNorm2d(nn.BatchNorm2d(6), writes=space).eval()
    for tensor in norm.state_dict().values():
        if tensor.ndim:
            nn.init.uniform_(tensor, 0.5, 2.0)
    batches = [3 + 2 * torch.randn(16, 9, 5, 5) for _ in range(3)]
    whole = torch.cat(batches)
    before = norm(whole, 1, 3)
    measure_norm(norm, batches)
    torch.testing.assert_close(norm(whole, 1, 3), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_mean, whole.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, whole.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.train()(whole, 1, 3), before, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_training_begins_where_the_surgery_ended():
    """In training mode the statistics of the batch count: the answers must be about those of evaluation."""
    torch.manual_seed(0)
    many = torch.randn(320, 3, 32, 32)
    model = settle_norms(mobilenext(width_mult=0.25, num_classes=6), many)
    rdn = to_rdn(model, 4, select="greedy-relative", init="reconstruct", calibration=many)
    with torch.no_grad():
        wanted, started = rdn(many), rdn.train()(many)
    assert (started - wanted).square().mean() < 0.2 * wanted.var()
