"""Nested convolutions: every fast way equals the loop over groups."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rdnlib.nn.conv import NestedConv2d, NestedLinear, contiguous_runs
from rdnlib.nn.groups import Space, nested_sizes


def same_with_gradients(layer: NestedConv2d, x: torch.Tensor) -> None:
    """All ways give the same, and so do their gradients for the input and every parameter; the first is the oracle."""
    groups = (1, len(layer.weight))
    ways = {
        "by group": lambda x: layer.forward_by_group(x, *groups),
        "dense": layer.forward_dense,
        "in training": lambda x: layer(x, *groups),
    }
    if layer.taps == 1:
        ways["by block"] = layer.forward_by_block
    x.requires_grad_(True)
    results = []
    for way in ways.values():
        result = way(x)
        upstream = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
        results.append([result, *torch.autograd.grad(result, [x, *layer.parameters()], upstream)])
    for name, values in zip(ways, results, strict=True):
        for value, oracle in zip(values, results[0], strict=True):
            torch.testing.assert_close(
                value, oracle, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )


@given(
    k=st.integers(2, 5), c_in=st.integers(5, 19), c_out=st.integers(5, 19), plain=st.booleans(), bias=st.booleans(),
    kernel=st.sampled_from([1, 3]), stride=st.integers(1, 2), last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_way_of_training_a_convolution_equals_the_loop_over_groups(
    k, c_in, c_out, plain, bias, kernel, stride, last, seed
):
    torch.manual_seed(seed)
    reads = Space(c_in, (c_in,) if plain else nested_sizes(c_in, k), plain)
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)
    nested = NestedConv2d(conv, k=k, reads=reads, writes=Space(c_out, nested_sizes(c_out, k), False)).double().train()
    for parameter in nested.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, sum(reads.sizes), 6, 6, dtype=torch.double)
    same_with_gradients(nested, x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))


@given(k=st.integers(2, 5), c_in=st.integers(5, 19), c_out=st.integers(5, 19), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_every_way_of_training_a_linear_layer_equals_the_loop_over_groups(k, c_in, c_out, seed):
    torch.manual_seed(seed)
    reads, writes = (Space(channels, nested_sizes(channels, k), False) for channels in (c_in, c_out))
    nested = NestedLinear(nn.Linear(c_in, c_out), k=k, reads=reads, writes=writes).double().train()
    for parameter in nested.parameters():
        nn.init.normal_(parameter)
    same_with_gradients(nested, torch.randn(3, sum(reads.sizes), dtype=torch.double))


def test_contiguous_runs():
    assert contiguous_runs((1, 2, 4), (0, 3, 5, 9, 10)) == [(0, 5), (9, 10)]
