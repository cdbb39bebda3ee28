"""Greedy select against Algorithm 1 channel by channel."""

import pytest
import torch

from rdnlib import to_rdn
from rdnlib.nn.groups import split_channels
from rdnlib.surgery.select import greedy_permutation


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


def test_random_select_follows_its_seed(images, small):
    weights = [
        to_rdn(small, 4, select="random", seed=seed).trunk.layers["blocks_2_layers_reduce_0"].weight[0]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
