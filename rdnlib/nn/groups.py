"""Channel spaces cut into groups, and which groups a nested layer may read (Section 3.2, equation 1, Figure 3).

A space is a set of tied channels; one permutation and one split into K = 2k−1 groups belong to the whole of it. Conv-groups are
never cut, so a space is split in units: single channels, or as many as hang together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdnlib.errors import ConfigError
from rdnlib.graph.operators import DENSE
from rdnlib.graph.tracing import Trace, is_dense


@dataclass(frozen=True)
class Space:
    """The channels of one value, cut into groups.

    `channels`: how many the super-net has. `sizes`: channels of each group in the RDN, K = 2k−1 numbers, where new group
    k+m is as large as its counterpart k−m; a plain space is a single group that every sub-network owns. `width`: channels for
    each unit; sizes are multiples of it.
    """

    channels: int
    sizes: tuple[int, ...]
    plain: bool
    width: int = 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each group starts, and the total: K+1 numbers."""
        return tuple(sum(self.sizes[:group]) for group in range(len(self.sizes) + 1))

    @property
    def channels_nested(self) -> int:
        """Channels in the RDN: those of the super-net and, unless plain, the new groups'."""
        return sum(self.sizes)

    def restrict(self, upto: int) -> "Space":
        """The space of sub-network N_upto: its first groups (a plain space stays whole)."""
        return self if self.plain else Space(self.channels, self.sizes[:upto], False, self.width)


@dataclass(frozen=True)
class Layout:
    """How every space is cut: `orders[space]` lists its units in the order of groups 1…k, (units,)."""

    traced: Trace
    k: int
    plain: frozenset[int]
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
        return expand(self.orders[self.traced.space_of[value]], self.traced.width(value))

    def groups(self, value: str) -> list[Tensor]:
        """The super-net's channels of each of the groups 1…k; a plain value is cut evenly, for those that read it."""
        width = self.traced.width(value)
        units = self.orders[self.traced.space_of[value]]
        return [expand(part, width) for part in units.split(list(split_channels(len(units), self.k)))]

    def inflated(self, value: str) -> Tensor:
        """(ΣC,) the super-net's channel behind each channel of the RDN; a new group repeats its counterpart's."""
        return inflate(self.groups(value))

    def completed(self, value: str) -> Tensor:
        """(ΣC,) the channel of the RDN, in an original group, that each of its channels completes; an original its own."""
        space = self.space(value)
        return inflate(torch.arange(space.channels).split(list(space.sizes[: self.k])))


def inflate(groups: Sequence[Tensor]) -> Tensor:
    """Groups 1…k and their copies for the new groups k+1…2k−1, joined: new group k+m repeats its counterpart k−m."""
    k = len(groups)
    return torch.cat([groups[counterpart(group, k) - 1] for group in range(1, 2 * k)])


def expand(units: Tensor, width: int) -> Tensor:
    """Units (n,) → their channels (n · width,), unit by unit."""
    return (units[:, None] * width + torch.arange(width)).flatten()


def split_channels(channels: int, k: int) -> tuple[int, ...]:
    """Split `channels` into k original groups as evenly as possible, larger groups first."""
    return tuple(channels // k + (group < channels % k) for group in range(k))


def nested_sizes(channels: int, k: int) -> tuple[int, ...]:
    """Sizes of the K = 2k−1 nested groups: the k original ones, then the completions of k−1, k−2, …, 1."""
    original = split_channels(channels, k)
    return original + original[-2::-1]


def counterpart(group: int, k: int) -> int:
    """The original group (1-based) whose violating inputs nested group `group` owns; an original group is its own."""
    return group if group <= k else 2 * k - group


def sources(group: int, k: int, *, plain_input: bool) -> tuple[int, ...]:
    """Input groups (1-based) that output group `group` of a nested convolution reads (equation 1).

    Original group j reads groups 1…j. New group k+m completes counterpart k−m: it reads that group's violating inputs
    k−m+1…k, and its own new input group k+m where the input has one (a plain input has only k groups).
    """
    if group <= k:
        return tuple(range(1, group + 1))
    violating = tuple(range(2 * k - group + 1, k + 1))
    return violating if plain_input else (*violating, group)


def plan(traced: Trace, *, k: int, plain: tuple[str, ...]) -> Layout:
    """Decide which spaces stay plain, and cut the others evenly, in the super-net's own order.

    A space is plain when it holds the image, when a layer that reads the image or whose name is (under) one of `plain`
    writes it, and when a plain layer reads it. Raises ConfigError when a name matches nothing, when a space
    has fewer than k units, or when nothing is left to nest.
    """
    writers = [step for step in traced.steps if is_dense(step.module)]
    of = traced.space_of
    plain_ids = {of[traced.image]} | {of[step.name] for step in writers if of[step.inputs[0]] == of[traced.image]}
    for prefix in plain:
        weighted = [step for step in traced.steps if isinstance(step.module, DENSE)]
        matched = [step for step in weighted if f"{step.target}.".startswith(f"{prefix}.")]
        if not matched:
            raise ConfigError(f"plain: no convolution is named '{prefix}' or lies under it")
        plain_ids |= {of[step.name] for step in matched}
    # What a plain layer reads must be plain as well.
    while (grown := plain_ids | {of[s.inputs[0]] for s in writers if of[s.name] in plain_ids}) != plain_ids:
        plain_ids = grown
    if of[traced.features] in plain_ids:
        raise ConfigError("nothing is left to nest: the features that the classifier reads are plain")
    for step in writers:
        units = traced.units[of[step.name]]
        if units < k and (of[step.name] not in plain_ids or _read_by_nested(step, writers, of, plain_ids)):
            pieces = "channels" if traced.width(step.name) == 1 else "conv-groups"
            raise ConfigError(
                f"cannot split the {units} {pieces} that '{step.target}' writes into k={k} groups: use a smaller k, or keep "
                "it and the layers before it untransformed with plain=[…]"
            )
    orders = {identifier: torch.arange(units) for identifier, units in traced.units.items()}
    return Layout(traced, k, frozenset(plain_ids), orders)


def _read_by_nested(step, writers, of, plain_ids) -> bool:
    """Whether a nested layer reads the (plain) space that `step` writes: it is then cut into k parts for it."""
    return any(of[w.inputs[0]] == of[step.name] and of[w.name] not in plain_ids for w in writers)
