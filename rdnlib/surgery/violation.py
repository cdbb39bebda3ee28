"""What a choice of groups cuts away: the contributions through violating connections, from later input groups (Section 3.2)."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.graph.ir import Step, is_dense, run
from rdnlib.surgery.cache import ActivationCache, activation_cache
from rdnlib.surgery.layout import Layout


def violation_scores(layer: nn.Module, batches: list[Tensor], groups: list[Tensor], *, relative: bool) -> Tensor:
    """(k−1, C_out): row g−1 is each output channel's mean |Σ W X| over the input channels outside groups 1…g.

    batches: inputs of the layer. groups: the input channels of each of the k groups. relative: divide by the standard deviation of
    the output channel. The groups' contributions are computed once each and added up from the last group backwards, so that all
    rounds together cost one application of the layer.
    """
    totals = 0
    for x in batches:
        sums = []
        for outside in accumulated(layer, x, groups[::-1]):  # (B, C_out, positions)
            sums.append(torch.linalg.vector_norm(outside, ord=1, dim=(0, 2)))
        if relative:
            sums += [outside.sum(dim=(0, 2)), outside.square().sum(dim=(0, 2))]
        totals = totals + torch.stack([*sums, torch.full_like(sums[0], outside[:, 0].numel())]).double()
    # The last `outside` is the whole output; its own score (nothing inside) is not one of the k−1 rounds.
    rounds = totals[: len(groups) - 1].flip(0) / totals[-1]
    if not relative:
        return rounds
    first, second = totals[-3:-1] / totals[-1]
    return rounds / (second - first.square()).clamp_min(0).sqrt().clamp_min(1e-12)


def accumulated(layer: nn.Module, x: Tensor, groups: list[Tensor]) -> Iterator[Tensor]:
    """The layer's output, without bias, from the first 1, 2, … groups of input channels: each (B, C_out, positions).

    One array is yielded again and again, with more added to it.
    """
    order, stops = torch.cat(groups), torch.tensor([0, *map(len, groups)]).cumsum(0).tolist()
    x, weight = x[:, order], layer.weight[:, order]
    pointwise = isinstance(layer, nn.Linear) or (layer.kernel_size == (1, 1) and layer.padding == (0, 0))
    if pointwise:  # as a product of matrices, for which slices of channels need not be copied
        x = x[..., None] if x.ndim == 2 else x[:, :, :: layer.stride[0], :: layer.stride[1]].flatten(2)
        weight = weight.flatten(1).expand(len(x), -1, -1)
        total = x.new_zeros(len(x), weight.shape[1], x.shape[2])
    for index, (a, b) in enumerate(pairwise(stops)):
        if pointwise:
            total.baddbmm_(weight[:, :, a:b], x[:, a:b])
        else:
            part = F.conv2d(x[:, a:b], weight[:, a:b], None, layer.stride, layer.padding, layer.dilation).flatten(2)
            total = part if index == 0 else total.add_(part)
        yield total


def producers(layout: Layout) -> list[Step]:
    """The layers whose violating connections are cut: dense ones that write a nested space."""
    return [step for step in layout.traced.steps if is_dense(step.module) and not layout.is_plain(step.name)]


@torch.no_grad()
def cache_inputs(layout: Layout, batches: list[Tensor], cache: ActivationCache) -> None:
    """One pass of the super-net over the images that caches the input of every producer, under the name of its input value."""
    reader = {step.inputs[0]: step.name for step in producers(layout)}  # one for each value

    def call(batch: int, step: Step, *inputs: Tensor) -> Tensor:
        if reader.get(step.inputs[0]) == step.name:
            cache.put(step.inputs[0], batch, inputs[0])
        return step.apply(*inputs)

    for batch, images in enumerate(batches):
        run(layout.traced.steps, {layout.traced.image: images}, partial(call, batch))


@torch.no_grad()
def violation(layout: Layout, batches: list[Tensor]) -> pd.DataFrame:
    """What a choice of groups cuts away, layer by layer: the quantity that greedy select minimises.

    Columns: layer; cut, the sum over groups g = 1…k−1 and their channels of mean |contribution from the inputs outside groups
    1…g|; and whole, the mean |output| summed over the same channels.
    """
    rows = []
    with activation_cache() as cache:
        cache_inputs(layout, batches, cache)
        for step in producers(layout):
            inputs = [cache.get(step.inputs[0], batch) for batch in range(len(batches))]
            groups = layout.groups(step.inputs[0])
            scores = violation_scores(step.module, inputs, groups, relative=False)
            outputs = [next(accumulated(step.module, x, [torch.cat(groups)])) for x in inputs]
            whole = sum(output.abs().mean(dim=(0, 2)) for output in outputs) / len(outputs)
            channels = layout.groups(step.name)[:-1]
            cut = sum(score[group].sum().item() for score, group in zip(scores, channels, strict=True))
            rows.append({"layer": step.target, "cut": cut, "whole": whole[torch.cat(channels)].sum().item()})
    return pd.DataFrame(rows)
