"""Network surgery: from a trained super-net to a Russian Doll Network (Section 3.2, Figures 2–4).

trace → layout of the channel spaces → select (one permutation per space) → inflate and nest every layer → heads.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Step, Trace, is_dense, is_grouped
from rdnlib.graph.refusals import NORMS
from rdnlib.graph.tracing import trace
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLayer, NestedLinear
from rdnlib.nn.groups import counterpart
from rdnlib.nn.heads import Function, NestedHeads, PrivateBatchNorm, Tail
from rdnlib.nn.rdn import RDN, Trunk
from rdnlib.surgery.cache import calibration_batches, some
from rdnlib.surgery.cut import first_layers
from rdnlib.surgery.layout import Layout, plan
from rdnlib.surgery.reconstruct import reconstruct
from rdnlib.surgery.select import select as select_channels
from rdnlib.utils.devices import keep_freed_memory

INITS = ("copy", "reconstruct")
SCORED = 512  # calibration images that a greedy select looks at; the mean contributions of channels need no more


def to_rdn(
    model: nn.Module, k: int = 4, *, select: str = "greedy", init: str = "copy",
    calibration: Tensor | Iterable[Tensor] | None = None, plain: float | Sequence[str] | None = None,
    seed: int = 0, align: str | None = None,
) -> RDN:  # fmt: skip
    """Turn a trained CNN into an RDN of K = 2k−1 nested sub-networks; `model` itself is left as it is.

    model: a traceable CNN that ends in one Linear classifier; `rdnlib.graph.trace` lists what it may be made of.
    k: number of original groups, at least 2.
    select: "greedy" (Algorithm 1), "greedy-relative", "random" or "identity"; see `rdnlib.surgery.select`.
    init: "copy" (the paper: weights of the super-net) or "reconstruct" (regressions that keep the super-net's function).
    calibration: images (B, 3, H, W), normalised as in training, or any number of such batches; needed by the greedy selects
        and by "reconstruct".
    plain: what to keep untransformed: names of modules, or a share of the multiply-adds, counted from the image on; None is the
        model's own `plain_by_default`, the paper's choice.
    seed: of the random select.
    align: the super-net's 1×1 convolution that serves as align layer, "insert" for a new one, or None to find out; see
        `rdnlib.graph.trace`.

    Raises UnsupportedModuleError for a module that cannot be nested, ConfigError for a wrong argument.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise ConfigError(f"k must be a whole number of at least 2, not {k!r}")
    if init not in INITS:
        raise ConfigError(f"unknown init '{init}': choose from {', '.join(INITS)}")
    batches = calibration_batches(model, calibration)
    keep_freed_memory()
    if init == "reconstruct" and not batches:
        raise ConfigError("init='reconstruct' needs calibration images: pass calibration=(B, 3, H, W) tensor")
    traced = trace(deepcopy(model).eval(), align)
    plain = plain_layers(model, traced, plain)
    layout = plan(traced, k=k, plain=plain)
    layout = replace(layout, orders=select_channels(select, layout, some(batches, SCORED), seed=seed))
    config = {"k": k, "select": select, "init": init, "plain": list(plain), "seed": seed, "align": align}
    rdn = nest(layout, config=config)
    if init == "reconstruct":
        rdn.config["agreement"] = reconstruct(rdn, layout, batches)
    return rdn


def plain_layers(model: nn.Module, traced: Trace, plain: float | Sequence[str] | None) -> tuple[str, ...]:
    """Names of the modules that are kept untransformed, see `to_rdn`. Raises ConfigError for a share out of range."""
    if isinstance(plain, (int, float)):
        if isinstance(plain, bool) or not 0 <= plain < 1:
            raise ConfigError(
                f"plain must be names of modules, or a share of the MAdds from 0 to below 1, not {plain!r}"
            )
        return first_layers(traced, plain)
    return tuple(getattr(model, "plain_by_default", ()) if plain is None else plain)


@torch.no_grad()
def nest(layout: Layout, *, config: dict) -> RDN:
    """Build the RDN with the super-net's weights copied into the blocks that remain ("copy" initialisation)."""
    traced = layout.traced
    layers = {step.name: _nested(step, layout) for step in traced.steps if step.module is not None}
    spaces = {name: layout.space(name) for step in traced.steps for name in (*step.inputs, step.name)}
    trunk = Trunk(traced.steps, layers, image=traced.image, spaces=spaces)
    rdn = RDN(trunk=trunk, heads=_heads(layout), k=layout.k, config=config)
    return rdn.to(traced.classifier.weight.device).eval()


def _nested(step: Step, layout: Layout) -> nn.Module:
    """The layer of the RDN for a layer of the super-net."""
    if layout.is_plain(step.name) or not list(step.module.parameters()):
        return deepcopy(step.module)
    return _dense(step, layout) if is_dense(step.module) else _inflated(step, layout)


def _dense(step: Step, layout: Layout) -> NestedConv2d:
    """Convolution or Linear: the blocks that do not violate the nesting, and the others as completions of their counterparts."""
    layer, source, k = step.module, step.inputs[0], layout.k
    kind = NestedLinear if isinstance(layer, nn.Linear) else NestedConv2d
    nested = kind(layer, k=k, reads=layout.space(source), writes=layout.space(step.name))
    inputs, outputs = layout.groups(source), layout.groups(step.name)
    for j, (weight, groups) in enumerate(zip(nested.weight, nested.sources, strict=True), start=1):
        columns = torch.cat([inputs[counterpart(i, k) - 1] for i in groups])
        weight.copy_(layer.weight[outputs[counterpart(j, k) - 1]][:, columns])
    if layer.bias is not None:  # a completion adds to its counterpart, so the bias must count once
        nested.bias[: len(layer.bias)] = layer.bias[layout.order(step.name)]
    return nested


def _inflated(step: Step, layout: Layout) -> NestedLayer:
    """Depthwise or grouped convolution, or batch norm: a new group starts as a copy of its counterpart."""
    writes, channels = layout.space(step.name), layout.inflated(step.name)
    if is_grouped(step.module):
        nested = NestedGroupedConv2d(step.module, reads=layout.space(step.inputs[0]), writes=writes)
    else:
        nested = NestedBatchNorm2d(step.module, writes=writes)
    tensors, source = nested.state_dict(), step.module.state_dict()
    for name in tensors.keys() & source.keys():  # a norm without slope and offset has ones and zeros
        if tensors[name].ndim:
            tensors[name].copy_(source[name][channels])
    return nested


def _heads(layout: Layout) -> NestedHeads:
    """The super-net's own align layer in blocks; or new ones that put every channel back where the classifier expects it."""
    traced, space = layout.traced, layout.space(layout.traced.features)
    conv = None if traced.align is None else traced.align.module
    weight = torch.eye(space.channels) if conv is None else conv.weight[:, :, 0, 0]  # (D, C)
    bias = None if conv is None else conv.bias
    tail = None if conv is None else Tail({step.name: _tail_layer(step, len(space.sizes)) for step in traced.tail})
    heads = NestedHeads(traced.classifier, space=space, aligned=len(weight), bias=bias is not None, tail=tail)
    for align, channels in zip(heads.align, layout.inflated(traced.features).split(list(space.sizes)), strict=True):
        align.copy_(weight[:, channels])
    if bias is not None:
        heads.bias.copy_(bias)
    return heads


def _tail_layer(step: Step, subnetworks: int) -> nn.Module:
    if step.function is not None:
        return Function(step.function)
    if isinstance(step.module, NORMS):
        return PrivateBatchNorm([deepcopy(step.module) for _ in range(subnetworks)])
    return deepcopy(step.module)
