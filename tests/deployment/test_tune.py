"""Nested convolutions as a few products: every partition of the groups gives what the definition gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import NETWORKS, make
from torch import nn

from rdnlib import deploy
from rdnlib.deployment import tune as module
from rdnlib.deployment.tune import PlannedConv, candidates, fastest, schemes, tune
from rdnlib.errors import ConfigError
from rdnlib.nn.conv import NestedConv2d, NestedLinear
from rdnlib.nn.groups import Space, nested_sizes
from rdnlib.surgery.nest import to_rdn


def nested(
    k: int, channels: int, *, plain: bool, kernel: int, bias: bool, upto: int, linear: bool = False
) -> NestedConv2d:
    generator = torch.Generator().manual_seed(channels + k)
    reads = Space(channels, (channels,), True) if plain else Space(channels, nested_sizes(channels, k), False)
    writes = Space(channels + 2, nested_sizes(channels + 2, k), False)
    layer = nn.Linear(1, 1, bias=bias) if linear else nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=bias)
    conv = (NestedLinear if linear else NestedConv2d)(layer, k=k, reads=reads, writes=writes)
    for parameter in conv.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return conv.eval().restrict(upto)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), k=st.integers(2, 5), plain=st.booleans(), kernel=st.sampled_from([1, 3]), bias=st.booleans(),
    linear=st.booleans(),
)  # fmt: skip
@torch.no_grad()
def test_any_partition_into_products_is_the_definition(data, k, plain, kernel, bias, linear):
    upto = data.draw(st.integers(1, 2 * k - 1))
    conv = nested(k, data.draw(st.integers(2 * k, 20)), plain=plain, kernel=kernel, bias=bias, upto=upto, linear=linear)
    x = torch.randn(2, conv.reads.channels_nested, *(() if linear else (5, 4)))
    products, first = [], 1
    while first <= upto:
        last = data.draw(st.integers(first, upto))
        products.append(data.draw(st.sampled_from(candidates(conv, first, last))))
        first = last + 1
    torch.testing.assert_close(PlannedConv(conv, products)(x), conv.forward_by_group(x, 1, upto), rtol=1e-4, atol=1e-4)


def test_what_was_found_is_kept_and_not_measured_again(small, images, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    network, measured, plans = to_rdn(small, 2, select="identity").subnetwork(3), [], tmp_path / "plans.json"
    monkeypatch.setattr(module, "fastest", lambda conv, x: measured.append(conv) or fastest(conv, x))
    first = tune(network, images, plans)
    nested = [layer for layer in network.trunk.layers.values() if isinstance(layer, NestedConv2d)]
    assert 0 < len(measured) < len(nested)  # layers of a kind once
    count = len(measured)
    second = tune(network, images, plans)
    assert len(measured) == count
    for name, layer in first.trunk.layers.items():
        if isinstance(layer, PlannedConv):
            assert layer.products == second.trunk.layers[name].products
    tune(network, images[:3], plans)
    assert len(measured) == 2 * count  # another batch size may want others; what is kept stays
    tune(network, images, plans)
    assert len(measured) == 2 * count


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [{"first": 1}]}'])
def test_another_file_is_no_plan(small, images, tmp_path, text):
    (plans := tmp_path / "plans.json").write_text(text)
    with pytest.raises(ConfigError, match=r"plans\.json is no file of plans"):
        tune(to_rdn(small, 2, select="identity").subnetwork(1), images, plans)
    assert plans.read_text() == text


@torch.no_grad()
@pytest.mark.parametrize("name", [*NETWORKS])
def test_a_tuned_sub_network_gives_the_same_logits(name, images, monkeypatch):
    monkeypatch.setattr(module, "REPEATS", 1)
    rdn = deploy(make(name, images))
    for index in (1, 7):
        network = rdn.subnetwork(index)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        tuned = tune(network, images)
        wanted = network(images)
        scale = wanted.abs().max()
        torch.testing.assert_close(tuned(images) / scale, wanted / scale, rtol=1e-4, atol=1e-4)
        assert not any(isinstance(layer, NestedConv2d) for layer in tuned.trunk.layers.values())
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_cheapest_partition_is_chosen(monkeypatch):
    conv = nested(3, 9, plain=False, kernel=1, bias=False, upto=5)
    prices = {(1, 3): 2.0, (4, 5): 1.0}

    def seconds(conv, products, x):
        return sum(prices.get((each.first, each.last), 10.0) for each in products)

    monkeypatch.setattr(module, "_seconds", seconds)
    assert [(each.first, each.last) for each in fastest(conv, torch.zeros(1))] == [(1, 3), (4, 5)]
    prices |= {(1, 5): 2.5}  # putting parts together costs something, too
    assert [(each.first, each.last) for each in fastest(conv, torch.zeros(1))] == [(1, 5)]


@torch.no_grad()
@pytest.mark.parametrize("index", [1, 3, 7])
def test_every_scheme_gives_the_same_logits(index, images):
    network = deploy(make("mobilenext", images)).subnetwork(index)
    wanted = network(images)
    for name, merged in schemes(network).items():
        torch.testing.assert_close(merged(images), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item(), msg=name)
        assert not any(isinstance(layer, NestedConv2d) for layer in merged.trunk.layers.values())


@pytest.mark.parametrize(
    ("k", "count", "runs"),
    [(4, 7, [(1, 2), (3, 4), (5, 5), (6, 6), (7, 7)]), (4, 3, [(1, 2), (3, 3)]), (3, 1, [(1, 1)]), (2, 3, [(1, 1), (2, 2), (3, 3)])],
)  # fmt: skip
def test_halves(k, count, runs):
    assert module._halves(k, count) == runs


def test_only_sub_networks_are_tuned(images):
    with pytest.raises(ConfigError, match=r"takes one sub-network, rdn\.subnetwork\(i\), not a RDN"):
        tune(make("mobilenext", images), images)
