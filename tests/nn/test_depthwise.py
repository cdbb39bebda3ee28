"""Training depthwise convolutions on small maps: the same outputs and gradients as torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rdnlib.models import mobilenext
from rdnlib.nn import depthwise
from rdnlib.surgery.nest import to_rdn

SIDE = st.tuples(st.integers(1, 7), st.integers(1, 7))
ONES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(size=SIDE, kernel=SIDE, stride=ONES, dilation=ONES, padding=SIDE, bias=st.booleans())
def test_outputs_and_gradients_are_those_of_torch(size, kernel, stride, dilation, padding, bias):
    if any(s + 2 * p < d * (k - 1) + 1 for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
        return  # no output
    torch.manual_seed(0)
    arguments = [torch.randn(2, 3, *size), torch.randn(3, 1, *kernel), torch.randn(3) if bias else None]
    arguments = [None if each is None else each.double().requires_grad_() for each in arguments]
    ours = depthwise.depthwise_conv(*arguments, stride, padding, dilation)
    theirs = F.conv2d(*arguments, stride, padding, dilation, groups=3)
    torch.testing.assert_close(ours, theirs)
    weights, wanted = torch.randn_like(ours), [each for each in arguments if each is not None]
    for own, other in zip(*(torch.autograd.grad(y, wanted, weights) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    ("shape", "weight", "pays"),
    [
        ((2, 8, 2, 2), (8, 1, 3, 3), True),
        ((2, 8, 4, 2), (8, 1, 3, 3), True),
        ((2, 8, 3, 3), (8, 1, 3, 3), False),  # as large as the kernel
        ((2, 8, 2, 2), (8, 2, 3, 3), False),  # two channels a group
        ((2, 8, 2, 2), (16, 1, 3, 3), False),  # two filters a channel
    ],
)
def test_where_it_pays(shape, weight, pays):
    x, weight = torch.zeros(shape), torch.zeros(weight)
    assert depthwise.pays(x, weight) is pays
    assert not depthwise.pays(x.bfloat16(), weight.bfloat16())


def test_an_rdn_learns_the_same_with_it_and_without(monkeypatch):
    torch.manual_seed(0)
    rdn = to_rdn(mobilenext(width_mult=0.25, num_classes=5), 2, select="identity").train().double()
    images, used = torch.randn(4, 3, 32, 32).double(), []
    gradients = []
    for always in (True, False):
        original = depthwise.depthwise_conv
        with monkeypatch.context() as patch:
            patch.setattr(depthwise, "depthwise_conv", lambda *a, to=original: used.append(1) or to(*a))
            if not always:
                patch.setattr(depthwise, "pays", lambda x, weight: False)
            torch.manual_seed(1)  # dropout
            gradients.append(torch.autograd.grad(rdn(images).square().sum(), list(rdn.parameters())))
    assert used  # the last stages see 1 × 1 pixels
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)
