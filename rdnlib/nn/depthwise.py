"""Depth-wise nesting: an RDN whose sub-networks form a grid of widths and depths (Section 3.2, Figure 5).

The trunk is cut in two. N_{i,0} runs groups 1…i of the front and leaves through light blocks of its own; N_{i,1} reads the features that
N_{i,0} has computed at the cut, and goes on with groups 1…i of the back, which is the super-net's own rest. N_{i,j} depends on no
(i', j') but i' ≤ i and j' ≤ j. Along a chain of nested nodes, such as `order.best_order` finds, it is an RDN like any other.
"""

from collections.abc import Iterable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.nn.heads import NestedAlign, NestedHeads, restrict_heads
from rdnlib.nn.rdn import RDN, SubNetwork, Trunk
from rdnlib.order import Node
from rdnlib.surgery.cut import choose_cut
from rdnlib.surgery.early_exit import fit_light, light_blocks, light_heads
from rdnlib.surgery.nest import checked_calibration


def deepen(
    rdn: RDN, split: float | str = 0.5, *, calibration: Tensor | Iterable[Tensor] | None = None, seed: int = 0
) -> "DepthwiseRDN":
    """Split an RDN of K sub-networks along its depth, which doubles their number; `rdn` itself is left as it is.

    split: where to cut, as a share of the trunk's multiply-adds (the nearest possible place is taken), or the name of the module
        behind which to cut. Where one feature map is all that the rest of the network reads, it can be cut.
    calibration: images (B, 3, H, W), normalised as in training, or any number of such batches. If given, the light blocks
        are fitted to the final features of `rdn`, and their heads to its answers (as in `rdnlib.surgery.reconstruct`); otherwise
        they start with random weights (of `seed`), and their heads as copies of the others.

    All other parameters are those of `rdn`. Raises ConfigError where the network cannot be cut.
    """
    if isinstance(rdn, DepthwiseRDN):
        raise ConfigError("this RDN has been split along its depth already")
    batches = checked_calibration(rdn, calibration)
    rdn = deepcopy(rdn).eval()
    cut = choose_cut(rdn.trunk, split)
    front, back = rdn.trunk.split(cut.value)
    light = light_blocks(rdn.trunk, cut.value, k=rdn.k, generator=torch.Generator().manual_seed(seed)).eval()
    heads = light_heads(rdn).eval()
    light.to(rdn.heads.classifier.weight)
    if batches:
        fit_light(light, heads, rdn=rdn, front=front, back=back, batches=batches)
    config = {**rdn.config, "depth": {"split": cut.after, "share": cut.share, "seed": seed}}
    return DepthwiseRDN(front, light, back, heads, rdn.heads, k=rdn.k, config=config).eval()


class Features(NamedTuple):
    """What the parts of a `DepthwiseRDN` have computed for its first `count` nodes.

    cut: (B, ΣC, H, W) the groups at the cut; deep: (B, ΣC[, H, W]) those of the final features, None where no node wants any.
    """

    count: int
    cut: Tensor
    deep: Tensor | None


@dataclass(frozen=True)
class DepthwiseState:
    """What `start` and `advance` hand on: node number `index` of the chain has been executed.

    cut (B, ΣC, H, W): its groups at the cut; aligned (B, D[, H, W]): z of the deep head, None before the cut; seen: the inputs
    of nested convolutions, which later groups read again.
    """

    index: int
    cut: Tensor
    aligned: Tensor | None
    seen: dict[str, Tensor]
    rdn: "DepthwiseRDN"

    @property
    def features(self) -> Features:
        return Features(self.index, self.cut, None)

    @cached_property
    def logits(self) -> Tensor:
        """(B, classes), computed when they are asked for: only where one stops are light blocks and classifier needed."""
        width, depth = self.rdn.nodes[self.index - 1]
        if depth == 0:
            return self.rdn.shallow(self.cut, width, width)[:, 0]
        return self.rdn.heads.logits(self.aligned[:, None], width)[:, 0]

    def take(self, rows: Tensor) -> "DepthwiseState":
        """The state of some of the images only; `rows` is a mask or an index over the batch."""
        aligned = None if self.aligned is None else self.aligned[rows]
        seen = {name: value[rows] for name, value in self.seen.items()}
        return replace(self, cut=self.cut[rows], aligned=aligned, seen=seen)


class DepthwiseRDN(RDN):
    """2K nested sub-networks N_{i,j} that share all parameters; `nodes` says which of them, (i, j), it speaks of, in this order.

    As `deepen` makes it, these are all: the early exits N_{1,0} … N_{K,0}, then N_{1,1} … N_{K,1}; one pass gives the logits of all.
    `along` restricts it to a chain, in which every node contains the one before; only then is there incremental execution.
    """

    new_parts = ("light", "light_heads")

    def __init__(
        self,
        front: Trunk,
        light: Trunk,
        back: Trunk,
        light_heads: NestedAlign,
        heads: NestedHeads,
        *,
        k: int,
        config: dict,
    ):
        nn.Module.__init__(self)
        self.front, self.light, self.back = front, light, back
        self.light_heads, self.heads, self.k, self.config = light_heads, heads, k, config
        self.nodes: list[Node] = [(width, depth) for depth in (0, 1) for width in range(1, 2 * k)]

    @property
    def num_subnetworks(self) -> int:
        return len(self.nodes)

    @property
    def first_channels(self) -> int:
        return self._space.sizes[0]

    @property
    def _space(self):
        """Groups of the features at the cut."""
        return self.back.spaces[self.back.image]

    def along(self, order: Sequence[Node]) -> "DepthwiseRDN":
        """The same network, sharing all parameters, with the nodes of a nesting order as its sub-networks N_1, N_2, …

        order: (width, depth) of each, every one containing those before. Raises ConfigError otherwise.
        """
        order = [tuple(node) for node in order]
        unknown = [node for node in order if node not in [(i, j) for i in range(1, 2 * self.k) for j in (0, 1)]]
        if unknown or not order:
            raise ConfigError(
                f"order: there is no node {unknown[0] if unknown else ''} in this grid of widths 1…{2 * self.k - 1} and depths 0, 1"
            )
        for (i, j), (width, depth) in pairwise(order):
            if not (width >= i and depth >= j and (width, depth) != (i, j)):
                raise ConfigError(f"order: node {(width, depth)} does not contain {(i, j)}, which comes before it")
        chain = copy(self)  # the modules are the same objects
        chain.nodes, chain.config = order, {**self.config, "order": [list(node) for node in order]}
        return chain

    def features(self, x: Tensor, upto: int | None = None) -> Features:
        """Images (B, 3, H, W) → what the first `upto` nodes need from front and back."""
        count = self.num_subnetworks if upto is None else upto
        widest, deepest = self._widths(count)
        cut = self.front(x, 1, max(widest, deepest))
        deep = self.back(cut[:, : self._space.offsets[deepest]], 1, deepest) if deepest else None
        return Features(count, cut, deep)

    def classify(self, features: Features) -> Tensor:
        """→ logits (B, count, classes) of the first `count` nodes."""
        widest, deepest = self._widths(features.count)
        answers = []
        if widest:
            answers.append(self.shallow(features.cut[:, : self._space.offsets[widest]], 1, widest))
        if deepest:
            answers.append(self.heads.logits(self.heads(features.deep, 1, deepest), 1))
        rows = [width - 1 + depth * widest for width, depth in self.nodes[: features.count]]
        return torch.cat(answers, dim=1)[:, rows]

    def shallow(self, cut: Tensor, first: int, last: int) -> Tensor:
        """Features of groups 1…last at the cut → logits (B, last−first+1, classes) of N_{first,0} … N_{last,0}."""
        z = self.light_heads(self.light(cut, 1, last), 1, last)[:, first - 1 :]
        return self.heads.classifier(self.light_heads.finish(z, first))

    def _widths(self, count: int) -> tuple[int, int]:
        """The largest width of each depth among the first `count` nodes, 0 where there is none."""
        return tuple(max((i for i, j in self.nodes[:count] if j == depth), default=0) for depth in (0, 1))

    def first_features(self, features: Features) -> Tensor:
        """What the policy may see: the first group at the cut, averaged over the positions, (B, C_1)."""
        return features.cut[:, : self.first_channels].mean(dim=(2, 3))

    def start(self, x: Tensor) -> DepthwiseState:
        """Execute the first node of the chain on images (B, 3, H, W)."""
        if any(i > width or j > depth for (i, j), (width, depth) in pairwise(self.nodes)):
            raise ConfigError("a grid has no single order of execution: choose one, rdn.along(best_order(…)[0])")
        return self._grow(x, DepthwiseState(0, None, None, {}, self), 1)

    def advance(self, state: DepthwiseState, to: int) -> DepthwiseState:
        """Go on to node `to` of the chain, computing only what is new: groups in front of the cut, behind it, or both."""
        self._check(to, above=state.index)
        return self._grow(None, state, to)

    def _grow(self, x: Tensor | None, state: DepthwiseState, to: int) -> DepthwiseState:
        before, deep_before = self._widths(state.index)
        done, (width, depth), seen = max(before, deep_before), self.nodes[to - 1], dict(state.seen)
        cut, aligned = state.cut, state.aligned
        if width > done:
            new = self.front(x, done + 1, width, seen)
            cut = new if cut is None else torch.cat([cut, new], dim=1)
        if depth:
            groups = cut[:, self._space.offsets[deep_before] : self._space.offsets[width]]
            new = self.back(groups, deep_before + 1, width, seen)
            aligned = self.heads(new, deep_before + 1, width, aligned)[:, -1]
        return DepthwiseState(to, cut, aligned, seen, self)

    def subnetwork(self, index: int) -> SubNetwork:
        """A standalone copy of node number `index` without any weight that it does not need; logits (B, classes)."""
        self._check(index)
        width, depth = self.nodes[index - 1]
        rest, align = (self.back, self.heads) if depth else (self.light, self.light_heads)
        trunk = self.front.restrict(width).then(rest.restrict(width))
        alone = SubNetwork(trunk, restrict_heads(align, self.heads.classifier, width), index=width)
        return alone.to(self.heads.classifier.weight).train(self.training)

    def parts(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in ("front", "light", "light_heads", "back", "heads")}

    def needs(self, index: int) -> dict[str, int]:
        width, depth = self.nodes[index - 1]
        return {"front": width, **dict.fromkeys(("back", "heads") if depth else self.new_parts, width)}

    def exits(self, index: int) -> tuple[str, ...]:
        return () if self.nodes[index - 1][1] else self.new_parts

    def narrowest(self, x: Tensor) -> Tensor:
        return self.along([(1, 0), (1, 1)])(x)
