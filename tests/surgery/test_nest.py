"""Network surgery keeps what it should: permutations alone change nothing, and completions add up to the super-net."""

from dataclasses import replace

import pytest
import torch
from support.networks import NETWORKS, Mixed, build, settle_norms
from torch import nn

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.graph.tracing import trace
from rdnlib.models import mobilenext
from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.groups import inflate, plan, split_channels
from rdnlib.surgery import cache as shelf_module
from rdnlib.surgery.nest import nest
from rdnlib.surgery.select import greedy_permutation, select, violation, violation_scores


class Linear(nn.Module):
    """1×1 and 3×3 convolutions without activation: here counterpart + completion must give the super-net exactly."""

    def __init__(self, depth: int):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, 1, 1, bias=False) for _ in range(depth)))
        self.pool, self.flatten, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)

    def forward(self, x):
        return self.classifier(self.flatten(self.pool(self.body(self.stem(x)))))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("select", ["identity", "random", "greedy"])
def test_one_nested_layer_of_a_linear_net_collapses_to_the_super_net(images, k, select):
    """Behind a plain input nothing is lost: counterpart and completion read all inputs between them."""
    torch.manual_seed(1)
    model = Linear(1).eval()
    rdn = to_rdn(model, k, select=select, calibration=images)
    torch.testing.assert_close(rdn(images)[:, -1], model(images), rtol=1e-5, atol=1e-5)


def test_what_copy_loses_in_a_deep_linear_net_is_what_the_paper_cuts(images):
    """Two nested layers lose the products of a completion with blocks it does not own: the copy is not exact."""
    torch.manual_seed(1)
    model = Linear(2).eval()
    rdn = to_rdn(model, 4, select="identity")
    assert (rdn(images)[:, -1] - model(images)).abs().max() > 1e-3


def test_reconstruct_recovers_a_linear_net_exactly(images):
    """All channels of a linear 1×1 layer are in reach of N_K's regression, so N_K must be the super-net."""
    torch.manual_seed(1)
    model = Linear(1).eval()
    rdn = to_rdn(model, 4, select="identity", init="reconstruct", calibration=images.repeat(8, 1, 1, 1))
    error = (rdn(images)[:, -1] - model(images)).abs().mean() / model(images).std()
    assert error < 0.05


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


def test_the_super_net_is_left_alone(images, small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    to_rdn(small, 4, select="greedy", init="reconstruct", calibration=images)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def slow_scores(conv, x, permutation, k):
    """Algorithm 1's |Σ_violating W X| by its definition: zero the inputs of the first g groups, convolve."""
    sizes = split_channels(len(permutation), k)
    rows = []
    for g in range(1, k):
        outside = x.clone()
        outside[:, permutation[: sum(sizes[:g])]] = 0
        y = nn.functional.conv2d(outside, conv.weight, None, conv.stride, conv.padding)
        rows.append(y.abs().mean(dim=(0, 2, 3)))
    return torch.stack(rows)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_violation_scores_equal_their_definition(k):
    torch.manual_seed(k)
    conv, x, order = nn.Conv2d(10, 14, 3, 1, 1), torch.randn(3, 10, 5, 5), torch.randperm(10)
    groups = order.split(list(split_channels(10, k)))
    fast = violation_scores(conv, [x[:2], x[2:]], groups, relative=False).float()
    torch.testing.assert_close(fast, slow_scores(conv, x, order, k), rtol=1e-4, atol=1e-5)


def slow_greedy(scores, k):
    """Algorithm 1 channel by channel."""
    left, order = list(range(scores.shape[1])), []
    for g, size in enumerate(split_channels(scores.shape[1], k)[:-1]):
        for _ in range(size):
            best = min(left, key=lambda channel: scores[g, channel].item())
            left.remove(best)
            order.append(best)
    return order + left


@pytest.mark.parametrize("k", [2, 3, 5])
def test_greedy_equals_the_algorithm_channel_by_channel(k):
    scores = torch.rand(k - 1, 17, generator=torch.Generator().manual_seed(k))
    assert greedy_permutation(scores, k=k).tolist() == slow_greedy(scores, k)


@pytest.mark.parametrize("name", NETWORKS)
def test_greedy_cuts_less_than_random(images, name):
    """On the sum that it minimises, over all nested layers of the net."""
    model = build(name, images)
    layout = plan(trace(model), k=4, plain=getattr(model, "plain_by_default", ()))
    cut = {
        strategy: violation(replace(layout, orders=select(strategy, layout, [images], seed=3)), [images])["cut"].sum()
        for strategy in ("greedy", "random")
    }
    assert cut["greedy"] < 0.97 * cut["random"]


def test_random_select_follows_its_seed(images, small):
    weights = [
        to_rdn(small, 4, select="random", seed=seed).trunk.layers["blocks_2_layers_reduce_0"].weight[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


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
    from rdnlib.surgery.reconstruct import feature_norm

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


@pytest.mark.parametrize("name", NETWORKS)
def test_calibration_in_batches_and_on_disk_changes_nothing(images, name, monkeypatch):
    """Any number of batches, and values that wait in files: the same RDN."""
    model = build(name, images)
    whole = to_rdn(model, 2, select="greedy-relative", init="reconstruct", calibration=images)
    monkeypatch.setattr(shelf_module, "MEMORY", 0)
    parts = to_rdn(model, 2, select="greedy-relative", init="reconstruct", calibration=images.split(5))
    with torch.no_grad():
        a, b = whole(images), parts(images)
    assert (a - b).square().mean() < 1e-3 * a.var()


def test_groups_that_multiply_are_fitted_to_the_whole_and_not_to_what_is_left():
    from rdnlib.surgery.reconstruct import gates

    found = gates(trace(Mixed()))
    assert found == {"gate_3", "excite_fc2"}


def test_a_batch_norm_without_slope_and_offset_is_taken_as_ones_and_zeros(images):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    rdn = to_rdn(net, 2, select="random")
    torch.testing.assert_close(collapsed(rdn, images), net(images), rtol=1e-4, atol=1e-4)
