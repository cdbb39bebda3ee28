"""Violation scores against their definition."""

from dataclasses import replace

import pytest
import torch
from support.networks import NETWORKS, build
from torch import nn

from rdnlib.graph import trace
from rdnlib.nn.groups import split_channels
from rdnlib.surgery.layout import plan
from rdnlib.surgery.select import select
from rdnlib.surgery.violation import violation, violation_scores


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
