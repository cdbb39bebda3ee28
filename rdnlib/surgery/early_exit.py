"""The early exits through which N_{i,0} leaves the trunk (Section 3.2, Figure 5: "light blocks").

Depthwise convolutions bring the features at the cut to the resolution of the final ones, and one nested 1×1 convolution to
their channels. What the super-net does to its final features without parameters (activation, pooling) is done to these too.
"""

from collections.abc import Iterable
from copy import deepcopy
from itertools import takewhile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import FLATTEN, Call, Step
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedAlign, PrivateBatchNorm
from rdnlib.nn.rdn import RDN, Trunk
from rdnlib.surgery.cut import reductions
from rdnlib.surgery.ridge import ROWS, Sampling, fit_dense, fit_heads

PREFIX = "early_exit_"  # of the steps, which stand beside the front's in a sub-network
POINTWISE, NORM = f"{PREFIX}pointwise", f"{PREFIX}norm"


def early_exit(trunk: Trunk, cut: str, *, k: int, generator: torch.Generator) -> Trunk:
    """The blocks of all groups from the value `cut` to features shaped like the trunk's, with fresh weights.

    Raises ConfigError when the resolution of the final features is unknown and they are not flat.
    """
    final, suffix = _final(trunk)
    reduced, space, target = reductions(trunk.steps, trunk.image, trunk.layer), trunk.spaces[cut], trunk.spaces[final]
    layers: dict[str, nn.Module] = {}
    spaces: dict[str, Space] = {cut: space}
    steps: list[Step] = []

    def add(name: str, space: Space, module: nn.Module | None = None, function: Call | None = None) -> None:
        source, full_name = steps[-1].name if steps else cut, PREFIX + name
        steps.append(Step(full_name, (source,), f"early_exit.{name}", module, function))
        spaces[full_name] = space
        if module is not None:
            layers[full_name] = module

    pooled = reduced[final] is None
    if pooled and trunk.spaces[trunk.steps[-1].name].channels != target.channels:
        raise ConfigError("this network cannot be split along its depth: the size of its final feature map is unknown")
    for number, stride in enumerate([1] if pooled else _factors(reduced[final] // reduced[cut]), start=1):
        add(f"depthwise_{number}", space, _depthwise(space, stride))
        add(f"depthwise_norm_{number}", space, NestedBatchNorm2d(nn.BatchNorm2d(space.channels), writes=space))
        add(f"activation_{number}", space, nn.ReLU())
    if pooled:
        add("pool", space, nn.AdaptiveAvgPool2d(1))
    add("pointwise", target, _pointwise(space, target, k, generator))
    add("norm", target, NestedBatchNorm2d(nn.BatchNorm2d(target.channels), writes=target))
    for step in suffix:
        add(step.name, trunk.spaces[step.name], deepcopy(trunk.layer(step)), step.function)
    if pooled:
        add("flatten", trunk.spaces[trunk.steps[-1].name], function=FLATTEN)
    return Trunk(steps, layers, image=cut, spaces=spaces)


def early_exit_heads(rdn: RDN) -> NestedAlign:
    """Align layers and tail of the early exits; at first a copy of the trunk's own."""
    heads, bias = rdn.heads, rdn.heads.bias is not None
    align = NestedAlign(space=heads.space, aligned=len(heads.align[0]), bias=bias, tail=deepcopy(heads.tail))
    align.load_state_dict(heads.state_dict(), strict=False)  # all but the classifier
    return align


@torch.no_grad()
def fit_early_exit(
    blocks: Trunk, heads: NestedAlign, *, rdn: RDN, front: Trunk, back: Trunk, batches: Iterable[Tensor]
) -> None:
    """Fit the blocks to the final features of `rdn` itself, group by group, and their heads to what its own give N_K."""
    K, (final, _) = rdn.num_subnetworks, _final(back)
    to_final, _ = back.split(final)
    at_cut = [front(images, 1, K) for images in batches]
    targets = [to_final(x, 1, K) for x in at_cut]
    inputs = at_cut
    for step in takewhile(lambda step: step.name != POINTWISE, blocks.steps):
        layer = blocks.layers[step.name]
        if isinstance(layer, NestedBatchNorm2d):
            _estimate_statistics(layer, inputs, K)
        inputs = [blocks.execute(step, [x], 1, K) for x in inputs]
    maps = (target if target.ndim == 4 else target[:, :, None, None] for target in targets)
    pairs = ((x, F.adaptive_avg_pool2d(target, x.shape[2:])) for x, target in zip(inputs, maps, strict=True))
    sampling = Sampling(ROWS, images=sum(len(x) for x in at_cut))
    fit_dense(blocks.layers[POINTWISE], blocks.layers[NORM], pairs, k=rdn.k, residual=False, sampling=sampling)
    for norms in () if heads.tail is None else heads.tail.values():
        for norm in norms if isinstance(norms, PrivateBatchNorm) else ():
            norm.load_state_dict(norms[-1].state_dict())  # N_K's, whose aligned features are the target
    fit_heads(heads, ((blocks(x, 1, K), rdn.heads(back(x, 1, K), 1, K)[:, -1]) for x in at_cut))


def _estimate_statistics(norm: NestedBatchNorm2d, batches: list[Tensor], last: int) -> None:
    """Give a batch norm the statistics of these features."""
    momentum, norm.momentum = norm.momentum, None  # the mean over all batches
    norm.reset_running_stats()
    norm.train()
    for x in batches:
        norm(x, 1, last)
    norm.eval()
    norm.momentum = momentum


def _final(trunk: Trunk) -> tuple[str, list[Step]]:
    """The last value made by layers with parameters or by an addition, and the steps behind it, which have neither."""
    reads = [name for step in trunk.steps for name in step.inputs]
    first = len(trunk.steps)
    while first:
        step = trunk.steps[first - 1]
        layer = trunk.layer(step)
        bare = len(step.inputs) == 1 and (layer is None or not list(layer.parameters()))
        if not bare or reads.count(step.inputs[0]) > 1:
            break
        first -= 1
    return trunk.steps[first - 1].name, trunk.steps[first:]


def _factors(ratio: int) -> list[int]:
    """Strides of the depthwise convolutions that reduce height and width `ratio` times: its prime factors, or 1."""
    factors, factor = [], 2
    while ratio > 1:
        if ratio % factor:
            factor += 1
        else:
            factors, ratio = [*factors, factor], ratio // factor
    return factors or [1]


def _depthwise(space: Space, stride: int) -> NestedGroupedConv2d:
    """Starts as the mean over a neighbourhood, its filters of norm 1."""
    size = max(3, stride + 1 - stride % 2)
    channels = space.channels
    conv = nn.Conv2d(channels, channels, size, stride, size // 2, groups=channels, bias=False)
    nested = NestedGroupedConv2d(conv, reads=space, writes=space)
    nn.init.constant_(nested.weight, 1 / size)
    return nested


def _pointwise(reads: Space, writes: Space, k: int, generator: torch.Generator) -> NestedConv2d:
    conv = nn.Conv2d(reads.channels, writes.channels, 1, bias=False)
    nested = NestedConv2d(conv, k=k, reads=reads, writes=writes)
    for weight in nested.weight:
        nn.init.kaiming_normal_(weight, generator=generator)
    return nested
