"""Read a network off its `torch.fx` graph: its steps, and which channels are tied to which (Section 3.2).

Dense convolutions and Linear layers map one channel space to another. Depthwise and grouped convolution, batch norm, activation,
pooling and flattening keep a space; residual additions and channel-wise multiplications tie two.
"""

import operator
from copy import copy
from math import gcd

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import StochasticDepth

from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.graph.ir import FLATTEN, Call, Slot, Step, Trace, is_dense, is_grouped
from rdnlib.graph.refusals import CHANNELWISE, CHANNELWISE_FUNCTIONS, ELEMENTWISE, IN_PLACE, NORMS, WEIGHTED, refusal


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
        message = f"cannot trace {type(model).__name__}: {reason}; forward must not branch on tensor values"
        raise UnsupportedModuleError(message) from error
    reader = _GraphReader(model)
    for node in graph.nodes:
        reader.read(node)
    return reader.finish(align)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (StochasticDepth, nn.LayerNorm)) or super().is_leaf_module(module, name)


class _GraphReader:
    """Turns the nodes of a graph, in order, into steps, and ties their channels."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.steps: dict[str, Step] = {}  # by name, in order
        self.space_of, self.channels = {}, {}  # of each value
        self.units: list[int] = []  # of each space: into how many pieces its channels can be cut
        self.replaced_by: dict[str, str] = {}  # a value overwritten in place → the value that took its place
        self.size_of: dict[str, str] = {}  # node that holds a size → the value whose size it is
        self.image = self.output = None
        self.parametrised: set[int] = set()  # identities of the modules with parameters that have been read

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.image is not None:
                raise refusal(node.name, "second input", "a network must have a single image input")
            self.image = node.name
            self.channels[node.name] = 3
            self._new_space(node.name, units=1)
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                model = type(self.model).__name__
                raise UnsupportedModuleError(f"{model} must return one tensor, the classifier's output")
            self.output = node.args[0].name
        elif node.op == "get_attr":
            where = "it is a parameter outside a known layer, so its channels are unknown"
            raise refusal(str(node.target), "parameter", f"{where}; put it into a supported module")
        elif node.op == "call_module":
            self._read_module(node)
        else:
            self._read_function(node)

    def _value(self, node: fx.Node) -> str:
        """Name of the value that a node stands for when it is read now."""
        name = node.name
        while name in self.replaced_by:
            name = self.replaced_by[name]
        if name in self.size_of:
            raise refusal(name, "size", "it computes with a tensor's size; only x.view(x.size(0), -1) is understood")
        return name

    def _add(self, node: fx.Node, inputs: tuple[str, ...], **settings) -> None:
        """A step whose output lies in the space of its (first) input."""
        self.steps[node.name] = Step(node.name, inputs, **settings)
        self.space_of[node.name], self.channels[node.name] = self.space_of[inputs[0]], self.channels[inputs[0]]

    def _new_space(self, value: str, units: int) -> None:
        self.space_of[value] = len(self.units)
        self.units.append(units)

    def _coarsen(self, space: int, units: int) -> None:
        """Equal pieces by two divisions, neither of which may be cut, leave gcd(units) pieces."""
        self.units[space] = gcd(self.units[space], units)

    def _read_module(self, node: fx.Node) -> None:
        name, module = str(node.target), self.model.get_submodule(node.target)
        kind = type(module).__name__
        if len(node.all_input_nodes) != 1:
            raise refusal(name, kind, "it takes several tensors")
        source = self._value(node.all_input_nodes[0])
        if list(module.parameters()):
            if id(module) in self.parametrised:
                raise refusal(name, kind, "it is used more than once; give every use its own weights")
            self.parametrised.add(id(module))
        if getattr(module, "inplace", False):
            module = copy(module)
            module.inplace = False
            self.replaced_by[source] = node.name
        if isinstance(module, WEIGHTED):
            return self._add_layer(node, module, source)
        if isinstance(module, nn.Flatten):
            if (module.start_dim, module.end_dim) != (1, -1):
                raise refusal(name, "Flatten", "it must flatten everything but the batch: nn.Flatten()")
            return self._add_flatten(node, source)
        if isinstance(module, NORMS):
            if not module.track_running_stats:
                raise refusal(name, kind, "it keeps no running statistics; set track_running_stats=True")
            self._expect_channels(source, module.num_features)
        elif not isinstance(module, CHANNELWISE):
            raise refusal(name, kind)
        return self._add(node, (source,), target=name, module=module)

    def _add_layer(self, node: fx.Node, module: nn.Conv2d | nn.Linear, source: str) -> None:
        """A convolution or Linear layer, which writes a new space unless it has conv-groups."""
        if isinstance(module, nn.Linear):
            reads, writes = module.in_features, module.out_features
        else:
            reads, writes = module.in_channels, module.out_channels
            if module.padding_mode != "zeros":
                raise refusal(str(node.target), "Conv2d", f"padding_mode='{module.padding_mode}'; use zeros")
            if isinstance(module.padding, str):
                module = copy(module)
                module.padding = _numeric_padding(str(node.target), module)
        if source == self.image:
            self.channels[source] = reads
        self._expect_channels(source, reads)
        self._add(node, (source,), target=str(node.target), module=module)
        self.channels[node.name] = writes
        if is_grouped(module):
            self._coarsen(self.space_of[source], module.groups)
        else:
            self._new_space(node.name, units=writes)

    def _expect_channels(self, name: str, channels: int) -> None:
        """A layer reads this many channels of `name`. Only this tells how many there are behind a flattening."""
        while self.channels[name] is None:
            self.channels[name] = channels
            step = self.steps[name]
            name = step.inputs[0]
            if step.function == FLATTEN:
                if channels % self.channels[name]:
                    reason = f"{channels} features do not come from {self.channels[name]} channels"
                    raise refusal(step.name, "flatten", reason)
                return
        if self.channels[name] != channels:
            reason = f"a layer expects {channels} channels where there are {self.channels[name]}"
            raise refusal(name, "channels", reason)

    def _add_flatten(self, node: fx.Node, source: str) -> None:
        self._add(node, (source,), target="flatten", function=FLATTEN)
        self.channels[node.name] = None  # unknown before the next layer

    def _read_function(self, node: fx.Node) -> None:
        kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        target = IN_PLACE.get(node.target, node.target)
        if self._is_size(node):
            return
        if target in {torch.flatten, "flatten"}:
            if tuple(node.args[1:]) not in {(1,), (1, -1)} and node.kwargs != {"start_dim": 1}:
                raise refusal(node.name, kind, "it must flatten everything but the batch: torch.flatten(x, 1)")
            return self._add_flatten(node, self._value(node.args[0]))
        if target in {"view", "reshape", torch.reshape} and self._is_flattening(node):
            return self._add_flatten(node, self._value(node.args[0]))
        dropout, elementwise = target in {F.dropout, F.dropout2d}, target in ELEMENTWISE
        known = target in CHANNELWISE_FUNCTIONS or _is_pooling_mean(node, target) or _is_padding(node, target)
        if not (dropout or elementwise or known):
            raise refusal(_owner(node), kind)
        inputs = [argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node)]
        names = tuple(self._value(argument) for argument in inputs)
        if dropout:  # a trace in eval mode would leave it out for ever
            p = node.kwargs.get("p", node.args[1] if len(node.args) > 1 else 0.5)
            self._add(node, names, target=kind, module=nn.Dropout(p))
        else:
            function = _call(node, target, inputs)
            if elementwise:
                self._tie_operands(node, kind, names, function)
            self._add(node, names if elementwise else names[:1], target=kind, function=function)
        if node.target in IN_PLACE or node.kwargs.get("inplace"):
            self.replaced_by[names[0]] = node.name

    def _tie_operands(self, node: fx.Node, kind: str, names: tuple[str, ...], function: Call) -> None:
        if len(names) == 2:
            counts = [self.channels[name] for name in names]
            if counts[0] != counts[1]:
                raise refusal(node.name, kind, f"its operands have {counts[0]} and {counts[1]} channels")
            a, b = (self.space_of[name] for name in names)
            self._coarsen(a, self.units[b])
            self.space_of = {name: a if space == b else space for name, space in self.space_of.items()}
        elif function.target is operator.truediv and not isinstance(function.args[0], Slot):
            raise refusal(node.name, kind, "it divides by the features")

    def _is_size(self, node: fx.Node) -> bool:
        """Note x.size(…), x.shape and x.shape[…]: they are only understood where x is flattened by them."""
        first = node.args[0] if node.args else None
        is_size = node.target == "size" or (node.target is getattr and node.args[1] == "shape")
        is_item = node.target is operator.getitem and isinstance(first, fx.Node) and first.name in self.size_of
        if is_size or is_item:
            self.size_of[node.name] = first.name
        return is_size or is_item

    def _is_flattening(self, node: fx.Node) -> bool:
        """Whether a view is x.view(x.size(0), -1) or the like."""
        sizes = node.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        return len(sizes) == 2 and sizes[1] == -1 and isinstance(sizes[0], fx.Node) and sizes[0].name in self.size_of

    def finish(self, align: str | None) -> Trace:
        """Set the classifier, and the align layer and tail if there are any, apart from the other steps."""
        *steps, last = self.steps.values() or [None]
        if last is None or last.name != self.output or not isinstance(last.module, nn.Linear):
            demand = "must end in one Linear classifier whose output it returns, to be shared between the sub-networks"
            raise UnsupportedModuleError(f"{type(self.model).__name__} {demand}")
        chain = self._chain(last)
        align_step, tail = _align_step(chain, align), []
        features = last.inputs[0]
        if align_step is not None:
            features, tail = align_step.inputs[0], chain[chain.index(align_step) + 1 :]
            steps = [step for step in steps if step is not align_step and step not in tail]
            names = {name for step in steps for name in (step.name, *step.inputs)} | {features}
            self.space_of = {name: space for name, space in self.space_of.items() if name in names}
        units = {space: self.units[space] for space in self.space_of.values()}
        return Trace(
            steps=steps, image=self.image, features=features, classifier=last.module, align=align_step, tail=tail,
            space_of=self.space_of, channels=self.channels, units=units,
        )  # fmt: skip

    def _chain(self, last: Step) -> list[Step]:
        """The steps that lead to the classifier without a branch, from the first to the last of them."""
        reads = [name for step in self.steps.values() for name in step.inputs]
        chain, name = [], last.inputs[0]
        while name in self.steps and reads.count(name) == 1:
            step = self.steps[name]
            chain.insert(0, step)
            if len(step.inputs) != 1:
                break
            name = step.inputs[0]
        return chain


def _align_step(chain: list[Step], align: str | None) -> Step | None:
    """The 1×1 convolution of the chain that becomes the align layer, see `trace`; None for a new one."""
    convolutions = [step for step in chain if isinstance(step.module, nn.Conv2d)]
    shape = operator.attrgetter("kernel_size", "stride", "padding")
    pointwise = [s for s in convolutions if is_dense(s.module) and shape(s.module) == ((1, 1), (1, 1), (0, 0))]
    if align == "insert":
        return None
    if align is not None:
        for step in pointwise:
            if step.target == align:
                return step
        names = ", ".join(step.target for step in pointwise) or "none here"
        raise ConfigError(f"align: '{align}' is not a 1×1 convolution that leads straight to the classifier ({names})")
    last = convolutions[-1] if convolutions else None
    return last if last in pointwise and last.module.out_channels >= 2 * last.module.in_channels else None


def _call(node: fx.Node, target, inputs: list[fx.Node]) -> Call:
    """The function of a node, its arguments that are tensors replaced by slots."""

    def slot(value):
        return Slot(inputs.index(value)) if isinstance(value, fx.Node) else value

    kwargs = {key: slot(value) for key, value in node.kwargs.items() if key != "inplace"}
    return Call(target, tuple(slot(value) for value in node.args), kwargs)


def _is_pooling_mean(node: fx.Node, target) -> bool:
    """Whether a function is x.mean((2, 3)), an average over positions."""
    if target not in {torch.mean, "mean"}:
        return False
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return isinstance(dims, (tuple, list)) and set(dims) in ({2, 3}, {-1, -2})


def _is_padding(node: fx.Node, target) -> bool:
    """Whether a function is F.pad with fixed numbers, of positions alone."""
    if target is not F.pad:
        return False
    pad = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    if not isinstance(pad, (tuple, list)) or not all(isinstance(side, int) for side in pad):
        raise refusal(node.name, "pad", "its padding depends on the image; pad by fixed numbers, as nn.ZeroPad2d does")
    if len(pad) > 4:
        raise refusal(node.name, "pad", "it adds channels, which would belong to no group")
    return True


def _owner(node: fx.Node) -> str:
    """Name of the module whose forward calls a function; in the network's own forward, the function's."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return stack[-1][0] if stack and stack[-1][0] else node.name


def _numeric_padding(name: str, conv: nn.Conv2d) -> tuple[int, int]:
    if conv.padding == "valid":
        return (0, 0)
    spans = [step * (size - 1) for size, step in zip(conv.kernel_size, conv.dilation, strict=True)]
    if any(span % 2 for span in spans):
        raise refusal(name, "Conv2d", "padding='same' with an even kernel pads unevenly; pad by numbers")
    return tuple(span // 2 for span in spans)
