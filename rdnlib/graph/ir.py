"""A network as a list of steps, and the one interpreter of such lists.

A `Step` is one operator, a module or a function, that makes a value, named like the step, from earlier values. `run` executes
super-nets, the trunks of RDNs and slimmable networks; they differ in what they do for a step.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rdnlib.graph.refusals import ADDING, MULTIPLYING


@dataclass(frozen=True)
class Slot:
    """Stands for the index-th input tensor among the arguments of a `Call`."""

    index: int


@dataclass(frozen=True)
class Call:
    """A traced function, or a method by name, with its constant arguments; `call(*tensors)` executes it."""

    target: Callable | str
    args: tuple
    kwargs: dict

    def __call__(self, *tensors: Tensor) -> Tensor:
        args = [tensors[value.index] if isinstance(value, Slot) else value for value in self.args]
        kwargs = {key: tensors[v.index] if isinstance(v, Slot) else v for key, v in self.kwargs.items()}
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)

    @property
    def name(self) -> str:
        """Name of the function or method."""
        return self.target if isinstance(self.target, str) else getattr(self.target, "__name__", str(self.target))


FLATTEN = Call(torch.flatten, (Slot(0), 1), {})


@dataclass(frozen=True)
class Step:
    """One operator: `module` is set, or `function`. `target` is the module's name in the network, or the function's."""

    name: str
    inputs: tuple[str, ...]
    target: str
    module: nn.Module | None = field(default=None, compare=False)
    function: Call | None = None

    @property
    def multiplies(self) -> bool:
        return self.function is not None and self.function.target in MULTIPLYING

    @property
    def adds(self) -> bool:
        return self.function is not None and self.function.target in ADDING

    def apply(self, *inputs: Tensor) -> Tensor:
        """What the traced network computes here."""
        return self.module(*inputs) if self.function is None else self.function(*inputs)


def run(steps: Iterable[Step], values: Mapping[str, Tensor], call: Callable[..., Tensor] = Step.apply) -> Tensor:
    """Execute `steps` in order on the given input values by name, and return the last output.

    call(step, *inputs) computes one step; by default the step itself does. Every value is freed after its last use.
    """
    values, last_reader = dict(values), last_readers(steps)
    output = None
    for step in steps:
        output = values[step.name] = call(step, *(values[name] for name in step.inputs))
        for name in step.inputs:
            if last_reader[name] == step.name:
                values.pop(name, None)  # an operand may stand twice
    return output


def last_readers(steps: Iterable[Step]) -> dict[str, str]:
    """Value → name of the last step that reads it."""
    return {value: step.name for step in steps for value in step.inputs}


def readers(steps: Iterable[Step]) -> dict[str, list[Step]]:
    """Value → the steps that read it, in order."""
    users: dict[str, list[Step]] = {}
    for step in steps:
        for value in step.inputs:
            users.setdefault(value, []).append(step)
    return users


def is_dense(module: nn.Module | None) -> bool:
    """Whether a layer maps one channel space to another: Linear, or a convolution without conv-groups."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def is_grouped(module: nn.Module | None) -> bool:
    """Whether a layer is a depthwise or grouped convolution."""
    return isinstance(module, nn.Conv2d) and module.groups > 1


@dataclass
class Trace:
    """A super-net as steps from the image to `features`, an optional align layer and tail, and its classifier.

    Every value belongs to a channel space, a set of tied channels. `units[space]` is how many pieces its channels can be cut into
    without cutting a conv-group; a value of that space has `channels[value] / units[space]` channels for each, in the same order.
    """

    steps: list[Step]
    image: str  # name of the input value
    features: str  # name of the value that the align layers read
    classifier: nn.Linear
    align: Step | None  # the super-net's own last 1×1 convolution, where it serves as align layer
    tail: list[Step]  # what lies between `align` and the classifier: a chain, executed for every sub-network
    space_of: dict[str, int]  # value name → identifier of its space
    channels: dict[str, int]  # value name → channels (features, after flattening)
    units: dict[int, int]  # space identifier → units

    def width(self, value: str) -> int:
        """Channels of a value for each unit of its space."""
        return self.channels[value] // self.units[self.space_of[value]]
