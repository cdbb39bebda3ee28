"""The Russian Doll Network: one chain of nested layers, one pass for all K sub-networks, and real early exit.

`RDN` is built by `rdnlib.to_rdn`. `rdn(x)` gives the logits of every sub-network from one forward pass;
`start`/`advance` grow from N_1 outwards and compute only what the next sub-network adds (Section 1).
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.tracing import Step, last_uses
from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedHeads


@dataclass(frozen=True)
class State:
    """What `start` and `advance` hand on: sub-network `index` has been executed.

    features (B, C[, H, W]) of groups 1…index; aligned (B, D[, H, W]) is z_index; seen: the inputs of the nested convolutions
    so far, which later groups read again; heads: the RDN's.
    """

    index: int
    features: Tensor
    aligned: Tensor
    seen: dict[str, Tensor]
    heads: NestedHeads

    @cached_property
    def logits(self) -> Tensor:
        """(B, classes) of N_index, computed when they are asked for: only where one stops is the classifier needed."""
        return self.heads.logits(self.aligned[:, None], self.index)[:, 0]

    def take(self, rows: Tensor) -> "State":
        """The state of some of the images only; `rows` is a mask or an index over the batch."""
        seen = {name: value[rows] for name, value in self.seen.items()}
        return replace(self, features=self.features[rows], aligned=self.aligned[rows], seen=seen)


class Trunk(nn.Module):
    """The nested layers in order. `layers` maps a step's name to its module; functions have no module."""

    def __init__(self, steps: list[Step], layers: dict[str, nn.Module], *, image: str, spaces: dict[str, Space]):
        super().__init__()
        self.steps = [replace(step, module=None) for step in steps]  # the layers alone hold parameters
        self.layers = nn.ModuleDict(layers)
        self.image, self.spaces = image, spaces  # spaces: value name → its space
        self.dead_after = last_uses(steps)

    def forward(self, x: Tensor | None, first: int, last: int, seen: dict[str, Tensor] | None = None) -> Tensor:
        """Images (B, 3, H, W) → features of groups first…last, (B, ΣC), or (B, ΣC, H, W) before a spatial align layer.

        Plain steps run when first = 1 only; `x` is not needed later. `seen` (None: not kept) holds the input of every nested
        convolution so far, which the next groups read again.
        """
        values: dict[str, Tensor | None] = {self.image: x}
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if self.spaces[step.name].plain and first > 1:
                output = None  # already part of N_1
            else:
                if seen is not None and isinstance(self._layer(step), NestedConv2d):
                    inputs = [self._with_earlier(step, inputs[0], seen)]
                output = self.execute(step, inputs, first, last)
            values[step.name] = output
            for name in self.dead_after.get(step.name, ()):
                del values[name]
        return output

    def execute(self, step: Step, inputs: list[Tensor], first: int, last: int) -> Tensor:
        """One step for groups first…last; nested convolutions are given groups 1…last, the others first…last."""
        if step.function is not None:
            return step.apply(*inputs)
        layer = self.layers[step.name]
        return layer(*inputs, first, last) if hasattr(layer, "restrict") else layer(*inputs)

    def _layer(self, step: Step) -> nn.Module | None:
        return self.layers[step.name] if step.function is None else None

    @staticmethod
    def _with_earlier(step: Step, x: Tensor | None, seen: dict[str, Tensor]) -> Tensor:
        """The new groups of a convolution's input behind those it has read before; a plain input brings none."""
        earlier = seen.get(step.name)
        seen[step.name] = torch.cat([part for part in (earlier, x) if part is not None], dim=1)
        return seen[step.name]

    def restrict(self, upto: int) -> "Trunk":
        layers = {
            name: layer.restrict(upto) if hasattr(layer, "restrict") else deepcopy(layer)
            for name, layer in self.layers.items()
        }
        spaces = {name: space.restrict(upto) for name, space in self.spaces.items()}
        return Trunk(self.steps, layers, image=self.image, spaces=spaces)

    def split(self, value: str) -> tuple["Trunk", "Trunk"]:
        """The steps up to the one that makes `value`, and those behind it, which read nothing else; both keep these layers."""
        end = 1 + next(index for index, step in enumerate(self.steps) if step.name == value)
        halves = (self.steps[:end], self.image), (self.steps[end:], value)
        return tuple(Trunk(steps, self._layers_of(steps), image=image, spaces=self.spaces) for steps, image in halves)

    def then(self, other: "Trunk") -> "Trunk":
        """Both, one behind the other: `other` reads the value that this one ends with."""
        steps, spaces = [*self.steps, *other.steps], {**self.spaces, **other.spaces}
        layers = {**self._layers_of(self.steps), **other._layers_of(other.steps)}
        return Trunk(steps, layers, image=self.image, spaces=spaces)

    def _layers_of(self, steps: list[Step]) -> dict[str, nn.Module]:
        return {step.name: self.layers[step.name] for step in steps if step.function is None}


class RDN(nn.Module):
    """K nested sub-networks N_1 ⊂ … ⊂ N_K that share all parameters."""

    def __init__(self, trunk: Trunk, heads: NestedHeads, *, k: int, config: dict):
        super().__init__()
        self.trunk, self.heads, self.k, self.config = trunk, heads, k, config

    @property
    def num_subnetworks(self) -> int:
        return 2 * self.k - 1

    @property
    def first_channels(self) -> int:
        """How many features the policy reads, see `first_features`."""
        return self.heads.space.sizes[0]

    def parts(self) -> dict[str, nn.Module]:
        """Trunks and align layers by name, in order of execution."""
        return {"trunk": self.trunk, "heads": self.heads}

    def needs(self, index: int) -> dict[str, int]:
        """How many groups of each of its parts N_index runs; the parts left out, none."""
        return {"trunk": index, "heads": index}

    new_parts: tuple[str, ...] = ()  # those of which the super-net has nothing

    def exits(self, index: int) -> tuple[str, ...]:
        """The parts that N_index runs for its answer only, so that no larger one reuses them."""
        return ()

    def narrowest(self, x: Tensor) -> Tensor:
        """Logits (B, n, classes) of so few sub-networks that every layer runs just once, for its first group."""
        return self(x, upto=1)

    def _check(self, index: int, *, above: int = 0) -> None:
        if not isinstance(index, int) or not above < index <= self.num_subnetworks:
            raise ConfigError(
                f"sub-network {index!r} does not exist: choose from {above + 1} to {self.num_subnetworks}"
            )

    def forward(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Images (B, 3, H, W) → logits (B, upto, classes) of N_1…N_upto (all K by default) from one pass."""
        upto = self.num_subnetworks if upto is None else upto
        self._check(upto)
        return self.classify(self.features(x, upto))

    def features(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Images (B, 3, H, W) → features (B, ΣC) of groups 1…upto, or (B, ΣC, H, W) before a spatial align layer."""
        return self.trunk(x, 1, self.num_subnetworks if upto is None else upto)

    def first_features(self, features: Tensor) -> Tensor:
        """What the policy may see: N_1's share of `features`, averaged over the positions, (B, C_1)."""
        first = features[:, : self.heads.space.sizes[0]]
        return first.mean(dim=(2, 3)) if first.ndim == 4 else first

    def classify(self, features: Tensor) -> Tensor:
        """Features of groups 1…i (B, ΣC[, H, W]) → logits (B, i, classes)."""
        upto = self.heads.space.offsets.index(features.shape[1])
        return self.heads.logits(self.heads(features, 1, upto), 1)

    def start(self, x: Tensor) -> State:
        """Execute N_1 on images (B, 3, H, W)."""
        seen: dict[str, Tensor] = {}
        features = self.trunk(x, 1, 1, seen)
        return State(1, features, self.heads(features, 1, 1)[:, -1], seen, self.heads)

    def advance(self, state: State, to: int) -> State:
        """Go on from N_index to N_to, computing only groups index+1…to. The given state stays valid."""
        self._check(to, above=state.index)
        seen = dict(state.seen)
        new = self.trunk(None, state.index + 1, to, seen)
        aligned = self.heads(new, state.index + 1, to, state.aligned)
        return State(to, torch.cat([state.features, new], dim=1), aligned[:, -1], seen, self.heads)

    def subnetwork(self, index: int) -> "SubNetwork":
        """A standalone copy of N_index without any weight of later groups; logits (B, classes)."""
        self._check(index)
        alone = SubNetwork(self.trunk.restrict(index), self.heads.restrict(index), index=index)
        return alone.to(self.heads.classifier.weight).train(self.training)

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

    def describe(self, input_size: int | tuple[int, int] | None = None) -> pd.DataFrame:
        """What surgery did, layer by layer: one row for each layer with weights, in execution order, and then the heads.

        layer: its name in the super-net; kind: "conv 3×3", "1×1", "depthwise 3×3", "grouped 3×3", "linear", "align".
        groups: of the channels that it writes, original | new, such as "4×24 | 3×24". blocks: how many weight blocks the
        super-net's layer has, and how many remain in all groups together. params_supernet, params_N1, params_N<K>, and with
        `input_size` (pixels, or (height, width)) the same for madds; their sums are the totals. A batch norm counts with the
        layer before it. With depth-wise nesting N_i stands for N_{i,0} and N_{i,1} together.
        """
        from rdnlib.nn.describe import describe  # it counts, and counting knows this class

        return describe(self, input_size)


class SubNetwork(nn.Module):
    """N_index alone, in plain torch operators."""

    def __init__(self, trunk: Trunk, heads: NestedHeads, *, index: int):
        super().__init__()
        self.trunk, self.heads, self.index = trunk, heads, index

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits (B, classes)."""
        features = self.trunk(x, 1, self.index)
        return self.heads.logits(self.heads(features, 1, self.index)[:, -1:], self.index)[:, 0]
