"""The Russian Doll Network: one chain of nested layers, one pass for all K sub-networks, and real early exit.

`RDN` is built by `rdnlib.to_rdn`. `rdn(x)` gives the logits of every sub-network from one forward pass;
`start`/`advance` grow from N_1 outwards and compute only what the next sub-network adds (Section 1).
"""

from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Step, run
from rdnlib.nn.conv import NestedLayer, join
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedAlign, NestedHeads


class Trunk(nn.Module):
    """Nested layers in order. `layers` maps a step's name to its module; functions have none, and layers of other steps are left out."""

    def __init__(self, steps: list[Step], layers: dict[str, nn.Module], *, image: str, spaces: dict[str, Space]):
        super().__init__()
        self.steps = [replace(step, module=None) for step in steps]  # the layers alone hold parameters
        self.layers = nn.ModuleDict({step.name: layers[step.name] for step in steps if step.function is None})
        self.image, self.spaces = image, spaces  # name of the input value; value name → its space

    def forward(self, x: Tensor | None, first: int, last: int, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Images (B, 3, H, W) → features of groups first…last, (B, ΣC), or (B, ΣC, H, W) before a spatial align layer.

        Plain steps run when first = 1 only; `x` is not needed later. `seen` (None: not wanted) holds the input of every nested
        convolution so far, which the next groups read again.
        """

        def call(step: Step, *inputs: Tensor | None) -> Tensor | None:
            if self.spaces[step.name].plain and first > 1:
                return None  # already part of N_1
            if seen is not None and getattr(self.layer(step), "reads_earlier_groups", False):
                # Its new groups behind those that it has read before; a plain input brings none.
                inputs = [join([part for part in (seen.get(step.name), *inputs) if part is not None])]
                seen[step.name] = inputs[0]
            return self.execute(step, inputs, first, last)

        return run(self.steps, {self.image: x}, call)

    def execute(self, step: Step, inputs: list[Tensor], first: int, last: int) -> Tensor:
        """One step for groups first…last; nested convolutions are given groups 1…last, the others first…last."""
        layer = self.layer(step)
        if layer is None:
            return step.apply(*inputs)
        return layer(*inputs, first, last) if isinstance(layer, NestedLayer) else layer(*inputs)

    def layer(self, step: Step) -> nn.Module | None:
        """The module of a step, None for a function."""
        return self.layers[step.name] if step.function is None else None

    def restrict(self, upto: int) -> "Trunk":
        """A copy for groups 1…upto only."""
        layers = {
            name: layer.restrict(upto) if isinstance(layer, NestedLayer) else deepcopy(layer)
            for name, layer in self.layers.items()
        }
        spaces = {name: space.restrict(upto) for name, space in self.spaces.items()}
        return Trunk(self.steps, layers, image=self.image, spaces=spaces)

    def split(self, value: str) -> tuple["Trunk", "Trunk"]:
        """The steps up to the one that makes `value`, and those behind it, which read nothing else; both share the layers."""
        end = 1 + next(index for index, step in enumerate(self.steps) if step.name == value)
        halves = (self.steps[:end], self.image), (self.steps[end:], value)
        return tuple(Trunk(steps, self.layers, image=image, spaces=self.spaces) for steps, image in halves)

    def then(self, other: "Trunk") -> "Trunk":
        """Both, one behind the other: `other` reads the value that this one ends with."""
        steps, spaces = [*self.steps, *other.steps], {**self.spaces, **other.spaces}
        return Trunk(steps, {**self.layers, **other.layers}, image=self.image, spaces=spaces)


@dataclass(frozen=True)
class State:
    """What `start` and `advance` hand on: sub-network `index` has been executed.

    features (B, C[, H, W]) of the groups so far, with depth-wise nesting those at the cut; aligned (B, D[, H, W]) is z_index, None
    in front of the cut; seen: the inputs of the nested convolutions so far, which later groups read again.
    """

    index: int
    features: Tensor | None
    aligned: Tensor | None
    seen: dict[str, Tensor]
    rdn: "RDN"

    @cached_property
    def logits(self) -> Tensor:
        """(B, classes) of N_index, computed when they are asked for: only where one stops is the classifier needed."""
        return self.rdn.answer(self)

    def take(self, rows: Tensor) -> "State":
        """The state of some of the images only; `rows` is a mask or an index over the batch."""
        aligned = None if self.aligned is None else self.aligned[rows]
        seen = {name: value[rows] for name, value in self.seen.items()}
        return replace(self, features=self.features[rows], aligned=aligned, seen=seen)


class RDN(nn.Module):
    """K nested sub-networks N_1 ⊂ … ⊂ N_K that share all parameters.

    Its children, the `parts`, are trunks and align layers in order of execution: `trunk` and `heads`. `config` says how it was made.
    """

    trunk: Trunk
    heads: NestedHeads
    new_parts: tuple[str, ...] = ()  # early exits: not in the super-net, and not reused by larger sub-networks

    def __init__(self, *, k: int, config: dict, **parts: nn.Module):
        super().__init__()
        self.k, self.config = k, config
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def num_subnetworks(self) -> int:
        """K = 2k − 1."""
        return 2 * self.k - 1

    def forward(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Images (B, 3, H, W) → logits (B, upto, classes) of N_1…N_upto (all K by default) from one pass."""
        upto = self.num_subnetworks if upto is None else upto
        self._check(upto)
        return self.classify(self.features(x, upto), upto)

    def features(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Images (B, 3, H, W) → features (B, ΣC) of groups 1…upto, or (B, ΣC, H, W) before a spatial align layer."""
        return self.trunk(x, 1, self.num_subnetworks if upto is None else upto)

    def classify(self, features: Tensor, upto: int | None = None) -> Tensor:
        """`features(x, upto)` → logits (B, upto, classes)."""
        upto = self.num_subnetworks if upto is None else upto
        return self.heads.logits(self.heads(features, 1, upto), 1)

    def start(self, x: Tensor) -> State:
        """Execute N_1 on images (B, 3, H, W)."""
        return self._grow(x, State(0, None, None, {}, self), 1)

    def advance(self, state: State, to: int) -> State:
        """Go on from N_index to N_to, computing only groups index+1…to. The given state stays valid."""
        self._check(to, above=state.index)
        return self._grow(None, state, to)

    def _grow(self, x: Tensor | None, state: State, to: int) -> State:
        seen = dict(state.seen)
        new = self.trunk(x, state.index + 1, to, seen)
        aligned = self.heads(new, state.index + 1, to, state.aligned)[:, -1]
        features = new if state.features is None else torch.cat([state.features, new], dim=1)
        return State(to, features, aligned, seen, self)

    def answer(self, state: State) -> Tensor:
        """Logits (B, classes) of N_index, see `State`."""
        return self.heads.logits(state.aligned[:, None], state.index)[:, 0]

    def fold_heads(self) -> "RDN":
        """This network for inference: each align layer and the classifier as one map, where that pays (`NestedAlign.fold`).

        All logits are the same, up to rounding. The trunk is shared, the folded heads do not follow later changes of these.
        """
        folded = copy(self)
        folded._modules = {**self._modules, **self._folded()}
        return folded

    def _folded(self) -> dict[str, NestedAlign]:
        return {"heads": self.heads.fold(self.heads.classifier)}

    def subnetwork(self, index: int) -> "SubNetwork":
        """A standalone copy of N_index without any weight of later groups, its head folded; logits (B, classes)."""
        self._check(index)
        return self._alone(self.trunk.restrict(index), self.heads.head(index, self.heads.classifier), index)

    def _alone(self, trunk: Trunk, heads: NestedHeads, index: int) -> "SubNetwork":
        own = self.heads.align[0]
        heads = heads.to(own)
        return SubNetwork(trunk, heads.fold(heads.classifier), index=index).to(own).train(self.training)

    def _check(self, index: int, *, above: int = 0) -> None:
        if not isinstance(index, int) or not above < index <= self.num_subnetworks:
            raise ConfigError(
                f"sub-network {index!r} does not exist: choose from {above + 1} to {self.num_subnetworks}"
            )

    @property
    def first_channels(self) -> int:
        """How many features a policy reads, see `first_features`."""
        return self.heads.space.sizes[0]

    def first_features(self, features: Tensor) -> Tensor:
        """What a policy may see: N_1's share of `features`, averaged over the positions, (B, C_1)."""
        first = features[:, : self.first_channels]
        return first.mean(dim=(2, 3)) if first.ndim == 4 else first

    def needs(self, index: int) -> dict[str, int]:
        """How many groups of each of its parts N_index runs; of parts left out, none."""
        return {"trunk": index, "heads": index}

    def owners(self) -> dict[str, Tensor]:
        """For every parameter and statistic that belongs to groups, the group (1…K) that owns each row (dimension 0).

        Plain layers and the shared classifier belong to every sub-network and are left out.
        """
        return {
            f"{path}.{name}": groups
            for path, module in self.named_modules()
            if hasattr(module, "owners") and module is not self
            for name, groups in module.owners().items()
        }


class SubNetwork(nn.Module):
    """N_index alone, in plain torch operators."""

    def __init__(self, trunk: Trunk, heads: NestedHeads, *, index: int):
        super().__init__()
        self.trunk, self.heads, self.index = trunk, heads, index

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits (B, classes)."""
        features = self.trunk(x, 1, self.index)
        return self.heads.logits(self.heads(features, 1, self.index)[:, -1:], self.index)[:, 0]
