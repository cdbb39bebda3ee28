"""Which channels go into which group: one permutation per channel space (Algorithm 1).

Greedy select fills group 1, 2, …, k−1 in turn, each time with the untaken output channels whose contribution from the input
channels outside the first g groups is smallest: those lose least when the violating connections are cut. The printed line 3
of Algorithm 1 resets the candidates to all channels in every round; read here as "those not yet taken". Conv-groups are taken
whole: their score is the sum over their channels.
"""

from dataclasses import replace

import torch
from torch import Tensor

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Step
from rdnlib.nn.groups import split_channels
from rdnlib.surgery.cache import activation_cache
from rdnlib.surgery.layout import Layout
from rdnlib.surgery.violation import cache_inputs, producers, violation_scores

STRATEGIES = ("greedy", "greedy-relative", "random", "identity")


@torch.no_grad()
def select(strategy: str, layout: Layout, batches: list[Tensor], *, seed: int) -> dict[int, Tensor]:
    """Choose the order of every space: space identifier → permutation (units,) whose parts are groups 1…k.

    strategy: "greedy" (Algorithm 1: mean |Σ_violating W X|), "greedy-relative" (the same, divided by the channel's own
    standard deviation, so that group 1 is not filled with weak channels), "random" (seeded) or "identity".
    batches: calibration images (B, 3, H, W); needed by the greedy strategies. Raises ConfigError otherwise.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown select strategy '{strategy}': choose from {', '.join(STRATEGIES)}")
    orders = dict(layout.orders)
    if strategy == "random":
        generator = torch.Generator().manual_seed(seed)
        for space in sorted(orders.keys() - layout.plain):
            orders[space] = torch.randperm(len(orders[space]), generator=generator)
    elif strategy.startswith("greedy"):
        if not batches:
            raise ConfigError(f"select='{strategy}' needs calibration images: pass calibration=(B, 3, H, W) tensor")
        _greedy(orders, layout, batches, relative=strategy == "greedy-relative")
    return orders


def greedy_permutation(scores: Tensor, *, k: int) -> Tensor:
    """Algorithm 1 for one space: fill groups 1…k−1 with the untaken units of the smallest score in that round (k−1, units); the
    rest are group k. Returns a permutation (units,)."""
    units = scores.shape[1]
    taken = torch.zeros(units, dtype=torch.bool)
    order = []
    for score, size in zip(scores.cpu(), split_channels(units, k), strict=False):
        chosen = score.masked_fill(taken, torch.inf).argsort(stable=True)[:size]
        taken[chosen] = True
        order.append(chosen)
    return torch.cat([*order, torch.nonzero(~taken).flatten()])


def _greedy(orders: dict[int, Tensor], layout: Layout, batches: list[Tensor], *, relative: bool) -> None:
    """Algorithm 1 for every space, in place, in two sweeps.

    A space with several producers (a residual stage) adds their scores. Through the residual, a later producer's input order
    depends on the very space it writes: so the first sweep uses the first producer alone, the second all of them.
    """
    current = replace(layout, orders=orders)  # sees the orders as they change
    writers: dict[int, list[Step]] = {}
    for step in producers(layout):
        writers.setdefault(layout.traced.space_of[step.name], []).append(step)
    shared = any(len(steps) > 1 for steps in writers.values())
    with activation_cache() as inputs:
        cache_inputs(layout, batches, inputs)

        def score(step: Step) -> Tensor:
            """(k−1, units) violation scores of the units that a layer writes, for the present order of its input."""
            x = [inputs.get(step.inputs[0], batch) for batch in range(len(batches))]
            scores = violation_scores(step.module, x, current.groups(step.inputs[0]), relative=relative)
            return scores.unflatten(1, (-1, layout.traced.width(step.name))).sum(dim=2)

        for sweep in range(1 + shared):
            for space, steps in writers.items():
                used = steps[:1] if shared and sweep == 0 else steps
                orders[space] = greedy_permutation(sum(score(step) for step in used), k=layout.k)
