"""Slimmable networks against networks cut out by hand: one set of filters, one pass a width, private batch norms."""

import pytest
import torch
from support.networks import FITTING_WIDTH, build
from torch import nn

from rdnlib.deployment import checkpoint
from rdnlib.errors import ConfigError
from rdnlib.madds import count
from rdnlib.models.slimmable import Slimmable

WIDTHS = [0.25, 0.5, 1.0]


@pytest.fixture(params=FITTING_WIDTH)
def pair(request, images):
    model = build(request.param, images)
    return model, Slimmable(model, WIDTHS)


def test_the_full_width_is_the_network_itself(pair, images):
    model, slimmable = pair
    with torch.no_grad():
        torch.testing.assert_close(slimmable.at(images, 2), model(images), rtol=1e-4, atol=1e-5)
        assert torch.equal(slimmable(images)[:, 2], slimmable.at(images, 2))


@pytest.mark.slow
def test_a_width_alone_says_the_same_and_is_smaller(pair, images):
    model, slimmable = pair
    slimmable.eval()
    alone = [slimmable.alone(index) for index in range(len(WIDTHS))]
    with torch.no_grad():
        for index, network in enumerate(alone):
            torch.testing.assert_close(network(images), slimmable.at(images, index), rtol=1e-4, atol=1e-5)
    totals = [count(network, 32)["madds"].sum() for network in alone]
    assert totals == sorted(set(totals))
    assert totals[-1] == count(model, 32)["madds"].sum()


def test_first_filters_of_two_convolutions_by_hand():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        first = torch.nn.functional.conv2d(x, model[0].weight[:4], model[0].bias[:4]) / (1 + model[1].eps) ** 0.5
        second = torch.nn.functional.conv2d(first.relu(), model[3].weight[:4], model[3].bias[:4], groups=4)
        third = torch.nn.functional.conv2d(second, model[4].weight[:3, :4], model[4].bias[:3]).mean(dim=(2, 3))
        expected = third @ model[7].weight[:, :3].T + model[7].bias
        torch.testing.assert_close(Slimmable(model, [0.5]).eval().at(x, 0), expected)


def test_every_parameter_learns_and_the_norms_are_private(images):
    slimmable = Slimmable(build("mixed", images), WIDTHS).train()
    slimmable.at(images, 0).sum().backward()
    norms = [layer for layer in slimmable.layers.values() if isinstance(layer, nn.ModuleList)]
    assert norms and all(norm[0].num_batches_tracked == norm[1].num_batches_tracked + 1 for norm in norms)
    assert all(norm[1].weight.grad is None for norm in norms)
    slimmable(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in slimmable.parameters())


def test_the_network_given_stays_as_it_was(images):
    model = build("mixed", images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    slimmable = Slimmable(model, WIDTHS).train()
    slimmable(images).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("widths", [[], [0.5, 0.25], [0.0, 1.0], [0.5, 1.5], [0.5, 0.5]])
def test_widths_that_are_none(small, widths):
    with pytest.raises(ConfigError, match="widths must be ascending shares"):
        Slimmable(small, widths)


def test_a_checkpoint_gives_it_back(small, images, tmp_path):
    slimmable = Slimmable(small, WIDTHS)
    model = {"name": "mobilenext", "width_mult": 0.25, "num_classes": 10}
    checkpoint.save(tmp_path / "s.safetensors", slimmable, {"model": model, "slimmable": {"widths": WIDTHS}})
    with torch.no_grad():
        assert torch.equal(checkpoint.load(tmp_path / "s.safetensors")(images), slimmable(images))
