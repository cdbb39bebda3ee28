"""Channel spaces: which tensors of a network have their channels tied together (Section 3.2).

A convolution maps one space to another. Depthwise convolution, batch normalisation, activation and pooling keep a space;
residual additions and channel-wise multiplications tie two. One permutation and one split into groups therefore
belong to a whole space. The spaces are read off the `torch.fx` graph, not off an architecture's name.
"""

import operator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from rdnlib.errors import ConfigError, UnsupportedModuleError

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
)
POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
CHANNELWISE = (nn.BatchNorm2d, nn.Identity, nn.Dropout, *ACTIVATIONS, *POOLS)
FUNCTIONS = {"add": torch.add, "mul": torch.mul, "flatten": lambda x: torch.flatten(x, 1)}
TYING = {operator.add, operator.iadd, torch.add, operator.mul, operator.imul, torch.mul}


@dataclass(frozen=True)
class Space:
    """A set of tied channels.

    `channels`: how many the super-net has. `sizes`: channels of each group in the RDN, K = 2k−1 numbers, where new group
    k+m is as large as its counterpart k−m; a plain space is a single group that every sub-network owns.
    """

    channels: int
    sizes: tuple[int, ...]
    plain: bool

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
        return self if self.plain else Space(self.channels, self.sizes[:upto], plain=False)


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


@dataclass(frozen=True)
class Step:
    """One operator of the traced network: `target` is a module's name, or "add"/"mul"/"flatten" for a function."""

    name: str
    inputs: tuple[str, ...]
    target: str
    module: nn.Module | None = field(default=None, compare=False)
    function: str | None = None

    def apply(self, *inputs: Tensor) -> Tensor:
        """What the super-net computes here."""
        return self.module(*inputs) if self.function is None else FUNCTIONS[self.function](*inputs)


def last_uses(steps: list[Step]) -> dict[str, list[str]]:
    """Step name → the values that no later step reads, to be freed after it."""
    user = {name: step.name for step in steps for name in step.inputs}
    dead: dict[str, list[str]] = {}
    for value, name in user.items():
        dead.setdefault(name, []).append(value)
    return dead


@dataclass
class Trace:
    """A super-net as a chain of steps from the image to the pooled, flattened features, plus its classifier."""

    steps: list[Step]
    image: str  # name of the input value
    features: str  # name of the value that the classifier reads
    classifier: nn.Linear
    space_of: dict[str, int]  # value name → identifier of its space
    channels: dict[int, int]  # space identifier → channels


class _UnionFind:
    def __init__(self) -> None:
        self.parent: list[int] = []

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return self.parent[-1]

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            item = self.parent[item]
        return item

    def tie(self, a: int, b: int) -> int:
        self.parent[self.find(b)] = self.find(a)
        return self.find(a)


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _refuse(name: str, what: str, reason: str) -> UnsupportedModuleError:
    return UnsupportedModuleError(f"cannot nest '{name}' ({what}): {reason}")


def _function_kind(node: fx.Node) -> str:
    if node.op == "call_function" and node.target in TYING:
        return "mul" if node.target in {operator.mul, operator.imul, torch.mul} else "add"
    if node.target in {torch.flatten, "flatten"} and node.args[1:] in {(1,), (1, -1)}:
        return "flatten"
    raise _refuse(
        node.name,
        getattr(node.target, "__name__", str(node.target)),
        "it is not known to keep the channels apart; express it with convolutions, batch norm, activations, additions "
        "and pooling, or wrap it in a supported module",
    )


def trace(model: nn.Module) -> Trace:
    """Trace `model` and find its channel spaces.

    Supported: (grouped = 1 or depthwise) Conv2d, channel-wise modules, residual add, channel-wise mul, pooling to 1×1,
    flatten, and one Linear classifier at the end. Anything else raises UnsupportedModuleError naming the module.
    """
    try:
        graph_module = fx.symbolic_trace(model)
    except Exception as error:
        raise UnsupportedModuleError(
            f"cannot trace {type(model).__name__}: {error}; forward must not branch on tensor values"
        ) from error
    steps: list[Step] = []
    ties, space_of, channels = _UnionFind(), {}, {}
    image = classifier = features = None
    for node in graph_module.graph.nodes:
        inputs = tuple(argument.name for argument in node.all_input_nodes)
        if node.op == "placeholder":
            if image is not None:
                raise _refuse(node.name, "second input", "a network must have a single image input")
            image, space_of[node.name] = node.name, ties.new()
            continue
        if node.op == "output":
            if classifier is None or inputs != (classifier[0],):
                raise UnsupportedModuleError(
                    f"{type(model).__name__} must end in one nn.Linear classifier whose output it returns"
                )
            continue
        if classifier is not None:
            raise _refuse(
                node.name, str(node.target), "it comes after a Linear layer; only the classifier may be Linear"
            )
        module = graph_module.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            classifier, features = (node.name, module), inputs[0]
            continue
        if isinstance(module, nn.Conv2d) and module.groups == 1:
            space_of[node.name] = ties.new()
            channels[space_of[node.name]] = module.out_channels
        elif is_depthwise(module) or isinstance(module, (*CHANNELWISE, nn.Flatten)):
            space_of[node.name] = space_of[inputs[0]]
        elif module is not None:
            kind = type(module).__name__
            why = (
                f"groups={module.groups} is neither 1 nor depthwise"
                if isinstance(module, nn.Conv2d)
                else "it couples channels or is not known to keep them apart"
            )
            raise _refuse(
                str(node.target), kind, why + "; replace it, or keep it in the layers before the nesting starts"
            )
        else:
            kind = _function_kind(node)
            if kind != "flatten" and len(inputs) != 2:
                raise _refuse(node.name, kind, "both operands must be feature maps")
            space_of[node.name] = (
                ties.tie(*(space_of[name] for name in inputs)) if len(inputs) == 2 else space_of[inputs[0]]
            )
            steps.append(Step(node.name, inputs, kind, function=kind))
            continue
        steps.append(Step(node.name, inputs, str(node.target), module=module))
    if classifier is None:
        raise UnsupportedModuleError(f"{type(model).__name__} has no Linear classifier to share between sub-networks")
    roots = {ties.find(space): count for space, count in channels.items()}
    return Trace(
        steps=steps,
        image=image,
        features=features,
        classifier=classifier[1],
        space_of={name: ties.find(space) for name, space in space_of.items()},
        channels=roots,
    )


def build_spaces(traced: Trace, *, k: int, plain: tuple[str, ...]) -> dict[int, Space]:
    """Decide which spaces stay plain and split the others into K = 2k−1 groups.

    A space is plain when a convolution whose name is (under) one of `plain` writes it, or one that reads the image.
    Raises ConfigError when a name matches nothing, when a space has fewer than k channels, or when a plain convolution
    would read nested features.
    """
    convolutions = [step for step in traced.steps if isinstance(step.module, nn.Conv2d)]
    plain_ids = {traced.space_of[traced.image]}
    plain_ids |= {traced.space_of[step.name] for step in convolutions if step.inputs == (traced.image,)}
    for prefix in plain:
        matched = [step for step in convolutions if f"{step.target}.".startswith(f"{prefix}.")]
        if not matched:
            raise ConfigError(f"plain: no convolution is named '{prefix}' or lies under it")
        plain_ids |= {traced.space_of[step.name] for step in matched}
    spaces = {traced.space_of[traced.image]: Space(channels=0, sizes=(0,), plain=True)}
    for identifier, channels in traced.channels.items():
        is_plain = identifier in plain_ids
        if not is_plain and channels < k:
            raise ConfigError(f"cannot split {channels} channels into k={k} groups; use a smaller k or keep them plain")
        sizes = (channels,) if is_plain else nested_sizes(channels, k)
        spaces[identifier] = Space(channels=channels, sizes=sizes, plain=is_plain)
    for step in convolutions:
        reads, writes = spaces[traced.space_of[step.inputs[0]]], spaces[traced.space_of[step.name]]
        if writes.plain and not reads.plain:
            raise ConfigError(
                f"'{step.target}' cannot stay plain: it reads nested features; name the layers before it too"
            )
    if spaces[traced.space_of[traced.features]].plain:
        raise ConfigError("nothing is left to nest: the features that the classifier reads are plain")
    return spaces
