"""Where a network can be cut in two along its depth (Section 3.2, Figure 5): behind a step whose output is all that later steps read.

The share of the multiply-adds in front of a cut follows from weights and strides, for any size of image.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, takewhile

from torch import nn

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Call, Step, Trace, readers
from rdnlib.graph.refusals import WEIGHTED
from rdnlib.madds import weights_by_group
from rdnlib.nn.conv import NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.nn.rdn import Trunk

TOLERANCE = 0.1  # how far from the wanted share a cut between larger blocks may be
CONVOLUTIONS = (*WEIGHTED, NestedConv2d, NestedGroupedConv2d)  # and Linear layers


@dataclass(frozen=True)
class Cut:
    """A place to cut: behind the step that makes `value`, the last of module `after`.

    share: of the MAdds, in front of it. level: how many modules, nested in each other, it cuts through.
    """

    value: str
    after: str
    share: float
    level: int


def cuts(trunk: Trunk) -> list[Cut]:
    """All places where the trunk can be cut: just one value is read later, by convolutions or additions; it has positions and
    groups of channels."""
    reduced, users = reductions(trunk.steps, trunk.image, trunk.layer), readers(trunk.steps)
    index_of = {step.name: index for index, step in enumerate(trunk.steps)}
    last_read = {name: index_of[steps[-1].name] for name, steps in users.items()}
    costs = [_cost(trunk.layer(step), reduced[step.name]) for step in trunk.steps]
    places, live, after, done = [], {trunk.image}, "", 0.0
    for index, step in enumerate(trunk.steps):
        live = {name for name in live | {step.name} if last_read.get(name, -1) > index}
        after, done = step.target if step.function is None else after, done + costs[index]
        usable = not trunk.spaces[step.name].plain and reduced[step.name] is not None
        # A block of layers begins there, rather than a norm, activation or pooling that belongs to the one before.
        begin = (isinstance(trunk.layer(user), CONVOLUTIONS) or user.adds for user in users.get(step.name, []))
        if live == {step.name} and usable and all(begin):
            rest = next((later.target for later in trunk.steps[index + 1 :] if later.function is None), "")
            common = takewhile(lambda pair: pair[0] == pair[1], zip(after.split("."), rest.split("."), strict=False))
            places.append(Cut(step.name, after, done / sum(costs), len(list(common))))
    return [cut for cut in places if cut.share < 1]


def choose_cut(trunk: Trunk, split: float | str) -> Cut:
    """The cut at about a share of the MAdds (a number between 0 and 1), or right behind the module of a name.

    Of the cuts within 0.1 of the share, those between the largest blocks come first; of these, the nearest is taken.

    Raises ConfigError when there is no such cut; the message lists those there are.
    """
    possible = cuts(trunk)
    if not possible:
        reason = "nowhere is a single feature map all that the rest reads"
        raise ConfigError(f"this network cannot be split along its depth: {reason}")
    if not isinstance(split, str):
        if isinstance(split, bool) or not isinstance(split, (int, float)) or not 0 < split < 1:
            raise ConfigError(f"split must be a share of the MAdds between 0 and 1, or a module's name, not {split!r}")
        near = [cut for cut in possible if abs(cut.share - split) <= TOLERANCE] or possible
        return min(near, key=lambda cut: (cut.level, abs(cut.share - split)))
    inside = [index for index, step in enumerate(trunk.steps) if f"{step.target}.".startswith(f"{split}.")]
    places = ", ".join(cut.after for cut in possible)
    if not inside:
        raise ConfigError(f"split: no module of the network is named '{split}'; it can be split behind {places}")
    rest = [step.name for step in trunk.steps[inside[-1] :]]
    behind = [cut for cut in possible if cut.value in rest]
    if behind:
        between = trunk.steps[inside[-1] + 1 :][: rest.index(behind[0].value)]
        if not any(isinstance(trunk.layer(step), CONVOLUTIONS) for step in between):
            return behind[0]
    raise ConfigError(f"split: behind '{split}' more than one value, or an untransformed one, is read; choose {places}")


def reductions(steps: list[Step], image: str, layer: Callable[[Step], nn.Module]) -> dict[str, int | None]:
    """For each value, how many times smaller than the image it is in height; None where positions are pooled or flattened away."""
    reduced: dict[str, int | None] = {image: 1}
    for step in steps:
        before = next((reduced[name] for name in step.inputs if reduced[name] is not None), None)
        stride = _stride(step.function or layer(step))
        reduced[step.name] = None if before is None or stride is None else before * stride
    return reduced


def _stride(operator: nn.Module | Call) -> int | None:
    """How many times smaller an operator makes the height; None where it leaves no positions."""
    stride = getattr(operator, "stride", 1)
    if isinstance(operator, Call):
        if operator.name in {"flatten", "view", "reshape", "mean"} or "adaptive" in operator.name:
            return None
        if "pool" in operator.name:
            kwargs, args = operator.kwargs, operator.args
            given = [kwargs.get("stride"), *args[2:3], kwargs.get("kernel_size"), *args[1:2]]
            stride = next(value for value in given if value is not None)
    elif isinstance(operator, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Linear, NestedLinear)):
        return None
    return stride if isinstance(stride, int) else stride[0]


def first_layers(traced: Trace, share: float) -> tuple[str, ...]:
    """The convolutions, from the image on, that do the first `share` of a super-net's multiply-adds."""
    reduced = reductions(traced.steps, traced.image, lambda step: step.module)
    layers = [step for step in traced.steps if isinstance(step.module, CONVOLUTIONS)]
    costs = [_cost(step.module, reduced[step.name]) for step in layers]
    done = accumulate(costs)
    return tuple(step.target for step, cost in zip(layers, done, strict=True) if cost <= share * sum(costs))


def _cost(layer: nn.Module | None, reduction: int | None) -> float:
    """Multiply-adds, in units of the image's positions; where the positions are gone they do not count."""
    if reduction is None or not isinstance(layer, CONVOLUTIONS):
        return 0.0
    return sum(weights_by_group(layer)) / reduction**2
