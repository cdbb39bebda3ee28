"""The heads: sums of products, one more for each sub-network, and the evidence that policies read."""

import pytest
import torch
from torch import nn

from rdnlib.nn.groups import Space, nested_sizes
from rdnlib.nn.heads import NestedHeads, PrivateBatchNorm, Tail, evidence


def heads_of(tail=None, bias=False):
    torch.manual_seed(0)
    space = Space(6, nested_sizes(6, 2), plain=False)
    heads = NestedHeads(nn.Linear(5, 4), space=space, bias=bias, tail=tail)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    return heads.eval()


@pytest.mark.parametrize("bias", [False, True])
def test_aligned_features_are_the_sums_of_the_groups_products(bias):
    heads, x = heads_of(bias=bias), torch.randn(2, 9)
    z = heads(x, 1, 3)  # (B, K, D)
    products = [part @ align.T for part, align in zip(x.split(heads.space.sizes, dim=1), heads.align, strict=True)]
    first = products[0] + (heads.bias if bias else 0)
    torch.testing.assert_close(z, torch.stack([first, first + products[1], first + products[1] + products[2]], dim=1))
    torch.testing.assert_close(heads(x[:, 6:], 3, 3, z[:, 1]), z[:, 2:])  # goes on from N_2


def test_a_head_alone_gives_the_logits_of_its_subnetwork():
    norms = PrivateBatchNorm([nn.BatchNorm1d(5) for _ in range(3)])
    for index, norm in enumerate(norms):
        nn.init.constant_(norm.running_mean, index)
    heads = heads_of(Tail({"norm": norms, "activation": nn.ReLU()}), bias=True)
    x = torch.randn(2, 9)
    logits = heads.logits(heads(x, 1, 3), 1)
    for index, stop in enumerate((3, 6, 9), start=1):
        alone = heads.head(index, heads.classifier).eval()
        z = alone(x[:, :stop], 1, index)[:, -1:]
        torch.testing.assert_close(alone.logits(z, index)[:, 0], logits[:, index - 1])


def test_evidence_is_sorted_and_does_not_care_about_the_order_of_classes():
    logits = torch.randn(6, 3, 10)
    values = evidence(logits)
    assert values.shape == (6, 3, 5)
    torch.testing.assert_close(values, evidence(logits[..., torch.randperm(10)]))
    torch.testing.assert_close(values[..., 0], logits.softmax(-1).amax(-1).log())
    assert (values.diff(dim=-1) <= 0).all()
    assert evidence(logits[..., :3]).shape == (6, 3, 3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("classifier_bias", [False, True])
def test_folded_heads_give_the_same_logits_from_one_map_a_group(bias, classifier_bias):
    heads, x = heads_of(bias=bias).double(), torch.randn(2, 9, dtype=torch.float64)
    if not classifier_bias:
        heads.classifier.bias = None
    folded = heads.fold(heads.classifier)
    assert [tuple(align.shape) for align in folded.align] == [(4, size) for size in heads.space.sizes]
    logits = heads.logits(heads(x, 1, 3), 1)
    torch.testing.assert_close(folded.logits(folded(x, 1, 3), 1), logits)
    first = folded(x[:, :3], 1, 1)[:, 0]
    torch.testing.assert_close(folded.logits(folded(x[:, 3:], 2, 3, first), 2), logits[:, 1:])  # goes on from N_1
    assert folded.fold(folded.classifier) is folded


def test_heads_are_not_folded_over_a_tail_or_where_one_map_costs_more():
    assert heads_of(Tail({"activation": nn.ReLU()})).fold(nn.Linear(5, 4)).align[0].shape == (5, 3)
    heads = heads_of()  # 9 channels, 5 aligned: 9·c ≤ 9·5 + 5·c up to c = 11
    assert heads.fold(nn.Linear(5, 11)) is not heads
    assert heads.fold(nn.Linear(5, 12)) is heads
