"""Network surgery keeps what it should: permutations alone change nothing, and completions add up to the super-net."""

from dataclasses import replace

import pytest
import torch
from support.networks import NETWORKS, LinearNet, build
from torch import nn

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.graph import trace
from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.groups import inflate
from rdnlib.surgery.layout import plan
from rdnlib.surgery.nest import nest
from rdnlib.surgery.select import select


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("select", ["identity", "random", "greedy"])
def test_one_nested_layer_of_a_linear_net_collapses_to_the_super_net(images, k, select):
    """Behind a plain input nothing is lost: counterpart and completion read all inputs between them."""
    torch.manual_seed(1)
    model = LinearNet(1).eval()
    rdn = to_rdn(model, k, select=select, calibration=images)
    torch.testing.assert_close(rdn(images)[:, -1], model(images), rtol=1e-5, atol=1e-5)


def test_what_copy_loses_in_a_deep_linear_net_is_what_the_paper_cuts(images):
    """Two nested layers lose the products of a completion with blocks it does not own: the copy is not exact."""
    torch.manual_seed(1)
    model = LinearNet(2).eval()
    rdn = to_rdn(model, 4, select="identity")
    assert (rdn(images)[:, -1] - model(images)).abs().max() > 1e-3


@pytest.mark.slow
def test_the_super_net_is_left_alone(images, small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    to_rdn(small, 4, select="greedy", init="reconstruct", calibration=images)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 1}, "at least 2"),
        ({"k": 2.5}, "whole number"),
        ({"select": "best"}, "unknown select"),
        ({"init": "magic"}, "unknown init"),
        ({"select": "greedy"}, "needs calibration"),
        ({"select": "identity", "init": "reconstruct"}, "needs calibration"),
        ({"calibration": torch.zeros(3, 32, 32)}, r"\(B, 3, H, W\)"),
        ({"calibration": torch.full((1, 3, 32, 32), torch.nan)}, "NaN"),
        ({"select": "identity", "plain": ["nowhere"]}, "no convolution is named 'nowhere'"),
    ],
)
def test_wrong_arguments_are_refused(small, arguments, message):
    with pytest.raises(ConfigError, match=message):
        to_rdn(small, **arguments)


def collapsed(rdn, images):
    """Run the RDN, but add every new group to its counterpart behind each dense layer, so that nothing is left of it."""
    trunk, k, last = rdn.trunk, rdn.k, rdn.num_subnetworks
    values = {trunk.image: images}
    for step in trunk.steps:
        inputs = [values[name] for name in step.inputs]
        layer = trunk.layers[step.name] if step.function is None else None
        if not isinstance(layer, NestedConv2d):
            values[step.name] = trunk.execute(step, inputs, 1, k)
            continue
        x, reads, writes = inputs[0], layer.reads, layer.writes
        if not reads.plain:  # the new groups' inputs are gone
            x = torch.cat([x, x.new_zeros(len(x), sum(reads.sizes) - reads.channels, *x.shape[2:])], dim=1)
        y = layer(x, 1, last)
        partner = inflate(torch.arange(writes.channels).split(list(writes.sizes[:k])))
        values[step.name] = y.new_zeros(len(y), writes.channels, *y.shape[2:]).index_add(1, partner, y)
    return rdn.heads.logits(rdn.heads(values[step.name], 1, k)[:, -1:], k)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("select", ["identity", "random", "greedy"])
def test_collapsing_the_groups_gives_back_the_super_net(images, name, k, select):
    """No weight is lost, doubled or misplaced: behind each layer, counterparts and completions add up to what it was."""
    model = build(name, images)
    rdn = to_rdn(model, k, select=select, calibration=images, seed=k)
    with torch.no_grad():
        wanted = model(images)
        torch.testing.assert_close(collapsed(rdn, images), wanted, rtol=1e-4, atol=1e-4 * wanted.std().item())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("align", [None, "insert"])
def test_permuting_channels_alone_changes_nothing(images, name, align):
    """k = 1: one group, nothing nested, but every space in another order and nothing but the image plain."""
    model = build(name, images)
    layout = plan(trace(model, align), k=1, plain=())
    layout = replace(layout, orders=select("random", layout, [], seed=5))
    assert sum(not torch.equal(order, order.sort().values) for order in layout.orders.values()) > 3
    rdn = nest(layout, config={})
    with torch.no_grad():
        wanted = model(images)
        torch.testing.assert_close(rdn(images)[:, 0], wanted, rtol=1e-4, atol=1e-4 * wanted.std().item())


def test_a_batch_norm_without_slope_and_offset_is_taken_as_ones_and_zeros(images):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    rdn = to_rdn(net, 2, select="random")
    torch.testing.assert_close(collapsed(rdn, images), net(images), rtol=1e-4, atol=1e-4)
