"""A super-net as a list of steps, read off its `torch.fx` graph, and which channels are tied to which (Section 3.2).

Dense convolutions and Linear layers map one channel space to another. Depthwise and grouped convolution, batch norm, activation,
pooling and flattening keep a space; residual additions and channel-wise multiplications tie two.
"""

import operator
from copy import copy
from dataclasses import dataclass, field
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.graph.operators import (
    ADDING,
    CHANNELWISE,
    CHANNELWISE_FUNCTIONS,
    DENSE,
    FLATTEN,
    IN_PLACE,
    MULTIPLYING,
    NORMS,
    REASONS,
    Call,
    Slot,
    refuse,
    refuse_kind,
)


@dataclass(frozen=True)
class Step:
    """One operator of the traced network; `target` is the module's name, or the function's. Either of the two is set."""

    name: str
    inputs: tuple[str, ...]
    target: str
    module: nn.Module | None = field(default=None, compare=False)
    function: Call | None = None

    def apply(self, *inputs: Tensor) -> Tensor:
        """What the super-net computes here."""
        return self.module(*inputs) if self.function is None else self.function(*inputs)


def last_uses(steps: list[Step]) -> dict[str, list[str]]:
    """Step name → the values that no later step reads, to be freed after it."""
    user = {name: step.name for step in steps for name in step.inputs}
    dead: dict[str, list[str]] = {}
    for value, name in user.items():
        dead.setdefault(name, []).append(value)
    return dead


@dataclass
class Trace:
    """A super-net as steps from the image to `features`, an optional align layer and tail, and its classifier.

    Every value belongs to a channel space. `units[space]` is how many pieces its channels can be cut into without cutting a
    conv-group; a value of that space has `channels[value] / units[space]` channels for each, in the same order everywhere.
    """

    steps: list[Step]
    image: str  # name of the input value
    features: str  # name of the value that the align layers read
    classifier: nn.Linear
    align: Step | None  # the super-net's own last 1×1 convolution, where it serves as align layer
    tail: list[Step]  # what lies between `align` and the classifier: a chain, run for every sub-network
    space_of: dict[str, int]  # value name → identifier of its space
    channels: dict[str, int]  # value name → channels (features, after flattening)
    units: dict[int, int]  # space identifier → units

    def width(self, value: str) -> int:
        """Channels of a value for each unit of its space."""
        return self.channels[value] // self.units[self.space_of[value]]

    def readers(self) -> dict[str, list[Step]]:
        """Value name → the steps that read it."""
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            for name in step.inputs:
                found.setdefault(name, []).append(step)
        return found


def is_dense(module: nn.Module | None) -> bool:
    """A layer that maps one space to another: Linear, or a convolution without conv-groups."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def is_grouped(module: nn.Module | None) -> bool:
    """Depthwise or grouped convolution."""
    return isinstance(module, nn.Conv2d) and module.groups > 1


class _Spaces:
    """Union-find over channel spaces that remembers their units."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.units: list[int] = []

    def new(self, units: int) -> int:
        self.parent.append(len(self.parent))
        self.units.append(units)
        return self.parent[-1]

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def tie(self, a: int, b: int) -> int:
        """Equal blocks of either space that must not be cut leave gcd(units) blocks of both."""
        a, b = self.find(a), self.find(b)
        self.parent[b] = a
        self.coarsen(a, self.units[b])
        return a

    def coarsen(self, item: int, blocks: int) -> None:
        root = self.find(item)
        self.units[root] = gcd(self.units[root], blocks)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (StochasticDepth, nn.LayerNorm)) or super().is_leaf_module(module, name)


def trace(model: nn.Module, align: str | None = None) -> Trace:
    """Trace `model` and find its channel spaces.

    Supported: Conv2d (dense, grouped, depthwise), Linear, BatchNorm, channel-wise modules and functions, residual additions,
    channel-wise multiplications (squeeze-and-excitation), pooling, flattening, and a Linear classifier at the end.
    align: which 1×1 convolution of the super-net becomes the align layer; "insert" for a new one; None chooses the last
        convolution if it is a 1×1 that at least doubles the channels and leads to the classifier by a chain, as in
        MobileNetV2, and else inserts one.

    Raises UnsupportedModuleError naming the module or function, ConfigError for a wrong `align`.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnsupportedModuleError(
            f"cannot trace {type(model).__name__}: {reason}; forward must not branch on tensor values"
        ) from error
    reader = _GraphReader(model)
    for node in graph.nodes:
        reader.read(node)
    return reader.finish(align)


class _GraphReader:
    """Turns the nodes of a graph, in order, into steps, and ties their channels."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.steps: list[Step] = []
        self.spaces, self.space_of, self.channels = _Spaces(), {}, {}
        self.alias: dict[str, str] = {}  # a value overwritten in place → the value that took its place
        self.shapes: dict[str, str] = {}  # node that holds a size → the value whose size it is
        self.image = self.output = None
        self.weighted: set[int] = set()  # modules with parameters that have had their turn

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.image is not None:
                raise refuse(node.name, "second input", "a network must have a single image input")
            self.image = node.name
            self._define(node.name, self.spaces.new(1), 3)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise UnsupportedModuleError(
                    f"{type(self.model).__name__} must return one tensor, the classifier's output"
                )
            self.output = node.args[0].name
        elif node.op == "get_attr":
            raise refuse(str(node.target), "parameter", REASONS["parameter"])
        elif node.op == "call_module":
            self._module(node)
        else:
            self._function(node)

    def _define(self, name: str, space: int, channels: int | None) -> None:
        self.space_of[name], self.channels[name] = space, channels

    def _input(self, node: fx.Node) -> str:
        name = node.name
        while name in self.alias:
            name = self.alias[name]
        if name in self.shapes:
            raise refuse(name, "size", "it computes with a tensor's size; only x.view(x.size(0), -1) is understood")
        return name

    def _keep(self, node: fx.Node, inputs: tuple[str, ...], **made) -> None:
        """A step whose output lies in the space of its (first) input."""
        self.steps.append(Step(node.name, inputs, **made))
        self._define(node.name, self.space_of[inputs[0]], self.channels[inputs[0]])

    def _module(self, node: fx.Node) -> None:
        name, module = str(node.target), self.model.get_submodule(node.target)
        if len(node.all_input_nodes) != 1:
            raise refuse(name, type(module).__name__, "it takes several tensors")
        source = self._input(node.all_input_nodes[0])
        if list(module.parameters()):
            if id(module) in self.weighted:
                raise refuse(name, type(module).__name__, "it is used more than once; give every use its own weights")
            self.weighted.add(id(module))
        if getattr(module, "inplace", False):
            module = copy(module)
            module.inplace = False
            self.alias[source] = node.name
        if isinstance(module, DENSE):
            self._weighted(node, name, module, source)
            return
        if isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise refuse(name, "Flatten", "it must flatten everything but the batch: nn.Flatten()")
            self._flatten(node, source)
            return
        if isinstance(module, NORMS):
            if not module.track_running_stats:
                raise refuse(
                    name, type(module).__name__, "it keeps no running statistics; set track_running_stats=True"
                )
            self._settle(source, module.num_features)
        elif not isinstance(module, CHANNELWISE):
            raise refuse_kind(name, type(module).__name__)
        self._keep(node, (source,), target=name, module=module)

    def _weighted(self, node: fx.Node, name: str, module: nn.Conv2d | nn.Linear, source: str) -> None:
        linear = isinstance(module, nn.Linear)
        reads, writes = (
            (module.in_features, module.out_features) if linear else (module.in_channels, module.out_channels)
        )
        if not linear:
            if module.padding_mode != "zeros":
                raise refuse(name, "Conv2d", f"padding_mode='{module.padding_mode}'; use zeros")
            if isinstance(module.padding, str):
                module = copy(module)
                module.padding = _numeric_padding(name, module)
        if source == self.image:
            self.channels[source] = reads
        self._settle(source, reads)
        self.steps.append(Step(node.name, (source,), target=name, module=module))
        if is_grouped(module):
            self.spaces.coarsen(self.space_of[source], module.groups)
            self._define(node.name, self.space_of[source], writes)
        else:
            self._define(node.name, self.spaces.new(writes), writes)

    def _settle(self, name: str, channels: int) -> None:
        """`name` has this many channels; after a flatten it is only here that one learns how many."""
        by_name = {step.name: step for step in self.steps}
        while self.channels[name] is None:
            self.channels[name] = channels
            step = by_name[name]
            name = step.inputs[0]
            if step.function == FLATTEN:
                if channels % self.channels[name]:
                    raise refuse(
                        step.name, "flatten", f"{channels} features do not come from {self.channels[name]} channels"
                    )
                return
        if self.channels[name] != channels:
            raise refuse(name, "channels", f"a layer expects {channels} channels where there are {self.channels[name]}")

    def _flatten(self, node: fx.Node, source: str) -> None:
        self._keep(node, (source,), target="flatten", function=FLATTEN)
        self.channels[node.name] = None

    def _function(self, node: fx.Node) -> None:
        kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        target = IN_PLACE.get(node.target, node.target)
        if self._is_size(node):
            return
        if target in {torch.flatten, "flatten"}:
            if tuple(node.args[1:]) not in {(1,), (1, -1)} and node.kwargs != {"start_dim": 1}:
                raise refuse(node.name, kind, "it must flatten everything but the batch: torch.flatten(x, 1)")
            return self._flatten(node, self._input(node.args[0]))
        if target in {"view", "reshape", torch.reshape} and self._is_flattening(node):
            return self._flatten(node, self._input(node.args[0]))
        dropout, pooling_mean = target in {F.dropout, F.dropout2d}, self._is_pooling_mean(node, target)
        if not (target in ADDING | MULTIPLYING | CHANNELWISE_FUNCTIONS or dropout or pooling_mean):
            raise refuse_kind(_owner(node), kind)
        inputs = [argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node)]
        names = tuple(self._input(argument) for argument in inputs)
        call = self._call(node, target, inputs)
        if target in ADDING | MULTIPLYING:
            self._elementwise(node, kind, names, call)
        elif dropout:  # a trace in eval mode would leave it out for ever
            p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            self._keep(node, names, target=kind, module=nn.Dropout(p))
        else:
            self._keep(node, names[:1], target=kind, function=call)
            if not isinstance(target, str) and node.kwargs.get("inplace"):
                self.alias[names[0]] = node.name
        if node.target in IN_PLACE:
            self.alias[names[0]] = node.name

    def _call(self, node: fx.Node, target, inputs: list[fx.Node]) -> Call:
        def slot(value):
            return Slot(inputs.index(value)) if isinstance(value, fx.Node) else value

        kwargs = {key: slot(value) for key, value in node.kwargs.items() if key != "inplace"}
        return Call(target, tuple(slot(value) for value in node.args), kwargs)

    def _elementwise(self, node: fx.Node, kind: str, names: tuple[str, ...], call: Call) -> None:
        if len(names) == 2:
            counts = [self.channels[name] for name in names]
            if counts[0] != counts[1]:
                raise refuse(node.name, kind, f"its operands have {counts[0]} and {counts[1]} channels")
            self.spaces.tie(*(self.space_of[name] for name in names))
        elif call.target is operator.truediv and not isinstance(call.args[0], Slot):
            raise refuse(node.name, kind, "it divides by the features")
        self._keep(node, names, target=kind, function=call)

    def _is_size(self, node: fx.Node) -> bool:
        """Note x.size(…), x.shape and x.shape[…]: they are only understood where x is flattened by them."""
        first = node.args[0] if node.args else None
        is_size = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
        is_item = node.target is operator.getitem and isinstance(first, fx.Node) and first.name in self.shapes
        if is_size or is_item:
            self.shapes[node.name] = first.name
        return is_size or is_item

    def _is_flattening(self, node: fx.Node) -> bool:
        """x.view(x.size(0), -1) and the like."""
        sizes = node.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        return len(sizes) == 2 and sizes[1] == -1 and isinstance(sizes[0], fx.Node) and sizes[0].name in self.shapes

    @staticmethod
    def _is_pooling_mean(node: fx.Node, target) -> bool:
        """x.mean((2, 3)): an average over positions."""
        if target not in {torch.mean, "mean"}:
            return False
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dims, (tuple, list)) and set(dims) in ({2, 3}, {-1, -2})

    def finish(self, align: str | None) -> Trace:
        kind = type(self.model).__name__
        last = self.steps[-1] if self.steps else None
        if last is None or last.name != self.output or not isinstance(last.module, nn.Linear):
            raise UnsupportedModuleError(
                f"{kind} must end in one Linear classifier whose output it returns, to be shared between the sub-networks"
            )
        steps = self.steps[:-1]
        chain = self._chain(last)
        cut = self._align_step(chain, align)
        tail = []
        if cut is not None:
            tail = chain[chain.index(cut) + 1 :]
            steps = [step for step in steps if step is not cut and step not in tail]
            kept = {name for step in steps for name in (step.name, *step.inputs)} | {cut.inputs[0]}
            self.space_of = {name: space for name, space in self.space_of.items() if name in kept}
        root = {name: self.spaces.find(space) for name, space in self.space_of.items()}
        return Trace(
            steps=steps,
            image=self.image,
            features=last.inputs[0] if cut is None else cut.inputs[0],
            classifier=last.module,
            align=cut,
            tail=tail,
            space_of=root,
            channels=self.channels,
            units={space: self.spaces.units[space] for space in root.values()},
        )

    def _chain(self, last: Step) -> list[Step]:
        """The steps that lead to the classifier without a branch, from the first to the last of them."""
        by_name = {step.name: step for step in self.steps}
        uses = [name for step in self.steps for name in step.inputs]
        chain, name = [], last.inputs[0]
        while name in by_name and uses.count(name) == 1:
            step = by_name[name]
            chain.insert(0, step)
            if len(step.inputs) != 1:
                break
            name = step.inputs[0]
        return chain

    def _align_step(self, chain: list[Step], align: str | None) -> Step | None:
        pointwise = [
            step
            for step in chain
            if isinstance(step.module, nn.Conv2d)
            and is_dense(step.module)
            and (step.module.kernel_size, step.module.stride, step.module.padding) == ((1, 1), (1, 1), (0, 0))
        ]
        if align == "insert":
            return None
        if align is not None:
            for step in pointwise:
                if step.target == align:
                    return step
            names = ", ".join(step.target for step in pointwise) or "none here"
            raise ConfigError(
                f"align: '{align}' is not a 1×1 convolution that leads straight to the classifier ({names})"
            )
        convolutions = [step for step in chain if isinstance(step.module, nn.Conv2d)]
        if convolutions and convolutions[-1] in pointwise:
            conv = convolutions[-1].module
            if conv.out_channels >= 2 * conv.in_channels:
                return convolutions[-1]
        return None


def _owner(node: fx.Node) -> str:
    """Name of the module whose forward calls a function; in the network's own forward, the function's."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack and stack[-1][0] else node.name


def _numeric_padding(name: str, conv: nn.Conv2d) -> tuple[int, int]:
    if conv.padding == "valid":
        return (0, 0)
    spans = [step * (size - 1) for size, step in zip(conv.kernel_size, conv.dilation, strict=True)]
    if any(span % 2 for span in spans):
        raise refuse(name, "Conv2d", "padding='same' with an even kernel pads unevenly; pad by numbers")
    return tuple(span // 2 for span in spans)
