"""The arithmetic of groups: how channels are cut, and which groups a nested layer may read (Section 3.2, equation 1, Figure 3).

The channels of a space are cut into k original groups. Each of the k−1 new groups k+m completes its counterpart, the original group
k−m, so that there are K = 2k−1 nested groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


def sources(group: int, k: int, *, plain_input: bool) -> tuple[int, ...]:
    """S(j), the input groups (from 1) that output group j of a nested convolution reads (equation 1).

    S(j) = {1, …, j} for the original groups, j ≤ k. S(k+m) = {k−m+1, …, k, k+m}: the violating inputs of the counterpart
    k−m, and the new input group k+m where the input has one (a plain input has only k groups).
    """
    if group <= k:
        return tuple(range(1, group + 1))
    violating = tuple(range(counterpart(group, k) + 1, k + 1))
    return violating if plain_input else (*violating, group)


def counterpart(group: int, k: int) -> int:
    """The original group (from 1) whose violating inputs nested group `group` reads; an original group is its own."""
    return group if group <= k else 2 * k - group


def split_channels(channels: int, k: int) -> tuple[int, ...]:
    """Sizes of k original groups, as even as possible, larger groups first."""
    return tuple(channels // k + (group < channels % k) for group in range(k))


def nested_sizes(channels: int, k: int) -> tuple[int, ...]:
    """Sizes of the K = 2k−1 nested groups: the k original ones, then the completions of k−1, k−2, …, 1."""
    original = split_channels(channels, k)
    return original + original[-2::-1]


def inflate(groups: Sequence[Tensor]) -> Tensor:
    """Groups 1…k and their copies for the new groups, joined: new group k+m repeats its counterpart k−m."""
    k = len(groups)
    return torch.cat([groups[counterpart(group, k) - 1] for group in range(1, 2 * k)])


@dataclass(frozen=True)
class Space:
    """The channels of one value, cut into groups.

    `channels`: how many the super-net has. `sizes`: channels of each of the K groups in the RDN; a plain space is a single group
    that belongs to every sub-network. `width`: channels of a unit, which is never cut; sizes are multiples of it.
    """

    channels: int
    sizes: tuple[int, ...]
    plain: bool
    width: int = 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each group starts, and the total: K+1 numbers."""
        return tuple(accumulate(self.sizes, initial=0))

    @property
    def channels_nested(self) -> int:
        """Channels in the RDN: those of the super-net and, unless plain, the new groups'."""
        return sum(self.sizes)

    def offsets_for_reading(self, k: int) -> tuple[int, ...]:
        """The offsets of the groups as a nested layer reads them: it cuts a plain space into k."""
        parts = [self.width * units for units in split_channels(self.channels // self.width, k)]
        return tuple(accumulate(parts, initial=0)) if self.plain else self.offsets

    def owners(self) -> Tensor:
        """(ΣC,) the group (from 1) of each channel."""
        return torch.repeat_interleave(torch.arange(1, len(self.sizes) + 1), torch.tensor(self.sizes))

    def restrict(self, upto: int) -> "Space":
        """The space of sub-network N_upto: its first groups; a plain space stays whole."""
        return self if self.plain else Space(self.channels, self.sizes[:upto], False, self.width)
