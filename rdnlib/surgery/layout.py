"""The plan of an operation: which channel spaces are nested, and into which groups every one of them is cut (Section 3.2).

One permutation and one split into k groups belong to the whole of a space. Conv-groups are never cut, so a space is split in units:
single channels, or as many as hang together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Trace, is_dense
from rdnlib.graph.refusals import WEIGHTED
from rdnlib.nn.groups import Space, inflate, nested_sizes, split_channels


@dataclass(frozen=True)
class Layout:
    """How every space is cut: `orders[space]` lists its units in the order of groups 1…k, (units,)."""

    traced: Trace
    k: int
    plain: frozenset[int]  # identifiers of the spaces that are left as they are
    orders: dict[int, Tensor]

    def is_plain(self, value: str) -> bool:
        return self.traced.space_of[value] in self.plain

    def space(self, value: str) -> Space:
        """The groups of one value, in its own channels."""
        channels, width = self.traced.channels[value], self.traced.width(value)
        if self.is_plain(value):
            return Space(channels, (channels,), plain=True, width=width)
        sizes = nested_sizes(channels // width, self.k)
        return Space(channels, tuple(width * size for size in sizes), plain=False, width=width)

    def order(self, value: str) -> Tensor:
        """(C,) the super-net's channels of a value in the order of groups 1…k."""
        return torch.cat(self.groups(value))

    def groups(self, value: str) -> list[Tensor]:
        """The super-net's channels of each of the groups 1…k; a plain value is cut evenly, for those that read it."""
        units, width = self.orders[self.traced.space_of[value]], self.traced.width(value)
        channels = units[:, None] * width + torch.arange(width)  # (units, width)
        return [part.flatten() for part in channels.split(list(split_channels(len(units), self.k)))]

    def inflated(self, value: str) -> Tensor:
        """(ΣC,) the super-net's channel behind each channel of the RDN; a new group repeats its counterpart's."""
        return inflate(self.groups(value))


def plan(traced: Trace, *, k: int, plain: tuple[str, ...]) -> Layout:
    """Decide which spaces stay plain, and cut the others evenly, in the super-net's own order.

    A space is plain when it holds the image, when a layer that reads the image or whose name is (under) one of `plain`
    writes it, and when a plain layer reads it. Raises ConfigError when a name matches nothing, when a space
    has fewer than k units, or when nothing is left to nest.
    """
    space_of = traced.space_of
    image = space_of[traced.image]
    connections = [(space_of[s.inputs[0]], space_of[s.name], s) for s in traced.steps if is_dense(s.module)]
    plain_spaces = {image} | {writes for reads, writes, _ in connections if reads == image}
    for prefix in plain:
        weighted = [step for step in traced.steps if isinstance(step.module, WEIGHTED)]
        matched = [step for step in weighted if f"{step.target}.".startswith(f"{prefix}.")]
        if not matched:
            raise ConfigError(f"plain: no convolution is named '{prefix}' or lies under it")
        plain_spaces |= {space_of[step.name] for step in matched}
    # What a plain layer reads must be plain as well.
    while (grown := plain_spaces | {r for r, w, _ in connections if w in plain_spaces}) != plain_spaces:
        plain_spaces = grown
    if space_of[traced.features] in plain_spaces:
        raise ConfigError("nothing is left to nest: the features that the classifier reads are plain")
    # A nested layer cuts the space that it writes into k groups, and the one that it reads, plain or not.
    cut = {space for reads, writes, _ in connections if writes not in plain_spaces for space in (reads, writes)}
    for _, space, step in connections:
        if space in cut and traced.units[space] < k:
            pieces = "channels" if traced.width(step.name) == 1 else "conv-groups"
            problem = f"cannot split the {traced.units[space]} {pieces} that '{step.target}' writes into k={k} groups"
            advice = "use a smaller k, or keep it and the layers before it untransformed with plain=[…]"
            raise ConfigError(f"{problem}: {advice}")
    orders = {space: torch.arange(units) for space, units in traced.units.items()}
    return Layout(traced, k, frozenset(plain_spaces), orders)
