"""Depth-wise nesting: an RDN whose sub-networks form a grid of widths and depths (Section 3.2, Figure 5).

The trunk is cut in two. N_{i,0} runs groups 1…i of the front and leaves through an early exit of its own; N_{i,1} reads the features
that N_{i,0} has computed at the cut, and goes on with groups 1…i of the back, which is the super-net's own rest. N_{i,j} depends on no
(i', j') but i' ≤ i and j' ≤ j. Along a chain of nested nodes, such as `order.best_order` finds, it is an RDN like any other.
"""

from collections.abc import Sequence
from copy import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedAlign
from rdnlib.nn.rdn import RDN, State, SubNetwork, Trunk

Node = tuple[int, int]  # (width i, depth j) of N_{i,j}


class DepthwiseRDN(RDN):
    """2K nested sub-networks N_{i,j} that share all parameters; `nodes` says which of them, (i, j), it speaks of, in this order.

    As `deepen` makes it, these are all: the early exits N_{1,0} … N_{K,0}, then N_{1,1} … N_{K,1}; one pass gives the logits of all.
    `along` restricts it to a chain, in which every node contains the one before; only then is there incremental execution.
    Its parts are `front`, `early_exit`, `early_exit_heads`, `back` and `heads`.
    """

    front: Trunk
    early_exit: Trunk
    early_exit_heads: NestedAlign
    back: Trunk
    new_parts = ("early_exit", "early_exit_heads")

    def __init__(self, *, k: int, config: dict, **parts: nn.Module):
        super().__init__(k=k, config=config, **parts)
        self.nodes: list[Node] = [(width, depth) for depth in (0, 1) for width in range(1, 2 * k)]

    @property
    def num_subnetworks(self) -> int:
        return len(self.nodes)

    def along(self, order: Sequence[Node]) -> "DepthwiseRDN":
        """The same network, sharing all parameters, with the nodes of a nesting order as its sub-networks N_1, N_2, …

        order: (width, depth) of each, every one containing those before. Raises ConfigError otherwise.
        """
        order, widths = [tuple(node) for node in order], range(1, 2 * self.k)
        unknown = [node for node in order if node not in [(i, j) for i in widths for j in (0, 1)]]
        if unknown or not order:
            node = unknown[0] if unknown else ""
            raise ConfigError(f"order: there is no node {node} in this grid of widths 1…{widths[-1]} and depths 0, 1")
        for (i, j), (width, depth) in pairwise(order):
            if not (width >= i and depth >= j and (width, depth) != (i, j)):
                raise ConfigError(f"order: node {(width, depth)} does not contain {(i, j)}, which comes before it")
        chain = copy(self)  # the modules are the same objects
        chain.nodes, chain.config = order, {**self.config, "order": [list(node) for node in order]}
        return chain

    def features(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Images (B, 3, H, W) → features (B, ΣC, H', W') at the cut, of the groups that the first `upto` nodes need."""
        return self.front(x, 1, max(self._widths(upto)))

    def classify(self, features: Tensor, upto: int | None = None) -> Tensor:
        """`features(x, upto)` → logits (B, upto, classes) of the first `upto` nodes."""
        early, deep = self._widths(upto)
        logits = []
        if early:
            logits.append(self.early_logits(features[:, : self._cut.offsets[early]], 1, early))
        if deep:
            final = self.back(features[:, : self._cut.offsets[deep]], 1, deep)
            logits.append(self.heads.logits(self.heads(final, 1, deep), 1))
        columns = [width - 1 + depth * early for width, depth in self.nodes[:upto]]
        return torch.cat(logits, dim=1)[:, columns]

    def early_logits(self, cut: Tensor, first: int, last: int) -> Tensor:
        """Features of groups 1…last at the cut → logits (B, last−first+1, classes) of N_{first,0} … N_{last,0}."""
        z = self.early_exit_heads(self.early_exit(cut, 1, last), 1, last)[:, first - 1 :]
        return self.heads.classifier(self.early_exit_heads.finish(z, first))

    def start(self, x: Tensor) -> State:
        """Execute the first node of the chain on images (B, 3, H, W)."""
        if any(i > width or j > depth for (i, j), (width, depth) in pairwise(self.nodes)):
            raise ConfigError("a grid has no single order of execution: choose one, rdn.along(best_order(…)[0])")
        return super().start(x)

    def _grow(self, x: Tensor | None, state: State, to: int) -> State:
        """Go on to node `to` of the chain, computing only what is new: groups in front of the cut, behind it, or both."""
        early, deep = self._widths(state.index)
        done, (width, depth), seen = max(early, deep), self.nodes[to - 1], dict(state.seen)
        cut, aligned = state.features, state.aligned
        if width > done:
            new = self.front(x, done + 1, width, seen)
            cut = new if cut is None else torch.cat([cut, new], dim=1)
        if depth:
            new = self.back(cut[:, self._cut.offsets[deep] : self._cut.offsets[width]], deep + 1, width, seen)
            aligned = self.heads(new, deep + 1, width, aligned)[:, -1]
        return State(to, cut, aligned, seen, self)

    def answer(self, state: State) -> Tensor:
        width, depth = self.nodes[state.index - 1]
        if depth == 0:
            return self.early_logits(state.features, width, width)[:, 0]
        return self.heads.logits(state.aligned[:, None], width)[:, 0]

    def _folded(self) -> dict[str, NestedAlign]:
        return {**super()._folded(), "early_exit_heads": self.early_exit_heads.fold(self.heads.classifier)}

    def subnetwork(self, index: int) -> SubNetwork:
        """A standalone copy of node number `index` without any weight that it does not need; logits (B, classes)."""
        self._check(index)
        width, depth = self.nodes[index - 1]
        rest, align = (self.back, self.heads) if depth else (self.early_exit, self.early_exit_heads)
        trunk = self.front.restrict(width).then(rest.restrict(width))
        return self._alone(trunk, align.head(width, self.heads.classifier), width)

    @property
    def _cut(self) -> Space:
        """Groups of the features at the cut."""
        return self.back.spaces[self.back.image]

    def _widths(self, count: int | None) -> tuple[int, int]:
        """The largest width of each depth among the first `count` nodes (all), 0 where there is none."""
        return tuple(max((i for i, j in self.nodes[:count] if j == depth), default=0) for depth in (0, 1))

    @property
    def first_channels(self) -> int:
        return self._cut.sizes[0]

    def needs(self, index: int) -> dict[str, int]:
        width, depth = self.nodes[index - 1]
        return {"front": width, **dict.fromkeys(("back", "heads") if depth else self.new_parts, width)}
