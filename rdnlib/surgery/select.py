"""Which channels go into which group: one permutation per channel space (Algorithm 1 of the paper).

Greedy select fills group 1, 2, …, k−1 in turn, each time with the untaken output channels whose contribution from the input
channels outside the first g groups is smallest: those lose least when the violating connections are cut. The printed line 3
of Algorithm 1 resets the candidates to all channels in every round; read here as "those not yet taken". Conv-groups are taken
whole: their score is the sum over their channels.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.tracing import Step, Trace, is_dense, last_uses
from rdnlib.nn.groups import Layout, split_channels
from rdnlib.surgery.cache import Shelf, shelf

STRATEGIES = ("greedy", "greedy-relative", "random", "identity")


@torch.no_grad()
def select(strategy: str, layout: Layout, calibration: list[Tensor], *, seed: int) -> dict[int, Tensor]:
    """Choose the order of every space: space identifier → permutation (units,) whose parts are groups 1…k.

    strategy: "greedy" (Algorithm 1: mean |Σ_violating W X|), "greedy-relative" (the same, divided by the channel's own
    standard deviation, so that group 1 is not filled with weak channels), "random" (seeded) or "identity".
    calibration: batches of images (B, 3, H, W); needed by the greedy strategies. Raises ConfigError otherwise.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown select strategy '{strategy}': choose from {', '.join(STRATEGIES)}")
    orders = dict(layout.orders)
    if strategy == "random":
        generator = torch.Generator().manual_seed(seed)
        for identifier in sorted(orders.keys() - layout.plain):
            orders[identifier] = torch.randperm(len(orders[identifier]), generator=generator)
    elif strategy.startswith("greedy"):
        if not calibration:
            raise ConfigError(f"select='{strategy}' needs calibration images: pass calibration=(B, 3, H, W) tensor")
        with shelf() as inputs:
            producers = capture_producers(layout, calibration, inputs)
            _greedy(orders, producers, inputs, layout, len(calibration), relative=strategy == "greedy-relative")
    return orders


def producers_of(layout: Layout) -> list[Step]:
    """The layers whose violating connections are cut: dense ones that write a nested space."""
    return [step for step in layout.traced.steps if is_dense(step.module) and not layout.is_plain(step.name)]


@torch.no_grad()
def capture_producers(layout: Layout, calibration: list[Tensor], inputs: Shelf) -> list[Step]:
    """One pass of the super-net that puts the input of every producer on the shelf, under the name of its input value."""
    producers = producers_of(layout)
    wanted = {step.inputs[0] for step in producers}
    for index, batch in enumerate(calibration):
        for name, value in run(layout.traced, batch):
            if name in wanted:
                inputs.put(name, index, value)
    return producers


@torch.no_grad()
def run(traced: Trace, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Execute the super-net step by step, yielding every value by name; values are freed after their last use."""
    values, dead_after = {traced.image: images}, last_uses(traced.steps)
    yield traced.image, images
    for step in traced.steps:
        values[step.name] = step.apply(*(values[name] for name in step.inputs))
        yield step.name, values[step.name]
        for name in dead_after.get(step.name, ()):
            del values[name]


def violation_scores(layer: nn.Module, batches: list[Tensor], groups: list[Tensor], *, relative: bool) -> Tensor:
    """(k−1, C_out): row g−1 is each output channel's mean |contribution| from the input channels outside groups 1…g.

    groups: the input channels of each of the k groups. Their contributions are computed once each and added up from the
    last group backwards, so that all rounds together cost one application of the layer.
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


@torch.no_grad()
def violation(layout: Layout, calibration: list[Tensor]) -> pd.DataFrame:
    """What a choice of groups cuts away, layer by layer: the quantity that greedy select minimises.

    Columns: layer; cut, the sum over groups g = 1…k−1 and their channels of mean |contribution from the inputs outside groups
    1…g|; and whole, the mean |output| summed over the same channels.
    """
    rows = []
    with shelf() as inputs:
        for step in capture_producers(layout, calibration, inputs):
            values = [inputs.get(step.inputs[0], batch) for batch in range(len(calibration))]
            groups = layout.groups(step.inputs[0])
            scores = violation_scores(step.module, values, groups, relative=False)
            outputs = [next(accumulated(step.module, x, [torch.cat(groups)])) for x in values]
            whole = sum(output.abs().mean(dim=(0, 2)) for output in outputs)
            members = layout.groups(step.name)[:-1]
            cut = sum(score[channels].sum().item() for score, channels in zip(scores, members, strict=True))
            rows.append(
                {"layer": step.target, "cut": cut, "whole": (whole / len(values))[torch.cat(members)].sum().item()}
            )
    return pd.DataFrame(rows)


def greedy_permutation(scores: Tensor, *, k: int) -> Tensor:
    """Fill groups 1…k−1 with the untaken units of the smallest score in that round; the rest are group k."""
    units = scores.shape[1]
    taken = torch.zeros(units, dtype=torch.bool)
    order = []
    for score, size in zip(scores.cpu(), split_channels(units, k), strict=False):
        chosen = score.masked_fill(taken, torch.inf).argsort(stable=True)[:size]
        taken[chosen] = True
        order.append(chosen)
    return torch.cat([*order, torch.nonzero(~taken).flatten()])


def _greedy(
    orders: dict[int, Tensor], producers: list[Step], inputs: Shelf, layout: Layout, batches: int, *, relative: bool
) -> None:
    """Two sweeps over the spaces, in place.

    A space with several producers (a residual stage) adds their scores. Through the residual, a later producer's input order
    depends on the very space it writes: so the first sweep uses the first producer alone, the second all of them.
    """
    traced, k = layout.traced, layout.k
    current = replace(layout, orders=orders)  # reads the orders as they change
    by_space: dict[int, list[Step]] = {}
    for step in producers:
        by_space.setdefault(traced.space_of[step.name], []).append(step)

    def score(step: Step) -> Tensor:
        source = step.inputs[0]
        values = [inputs.get(source, batch) for batch in range(batches)]
        scores = violation_scores(step.module, values, current.groups(source), relative=relative)
        return scores.unflatten(1, (-1, traced.width(step.name))).sum(dim=2)  # (k−1, units)

    shared = any(len(writers) > 1 for writers in by_space.values())
    for sweep in range(1 + shared):
        for identifier, writers in by_space.items():
            used = writers[:1] if shared and sweep == 0 else writers
            orders[identifier] = greedy_permutation(sum(score(step) for step in used), k=k)
