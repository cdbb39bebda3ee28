"""Network surgery: from a trained super-net to a Russian Doll Network (Section 3.2, Figures 2–4).

trace → channel spaces → select (one permutation per space) → inflate and nest every layer → heads.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.operators import NORMS
from rdnlib.graph.tracing import Step, is_dense, is_grouped, trace
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.nn.groups import Layout, counterpart, plan
from rdnlib.nn.heads import NestedHeads, PrivateBatchNorm, Tail
from rdnlib.nn.rdn import RDN, Trunk
from rdnlib.surgery.reconstruct import reconstruct
from rdnlib.surgery.select import select as select_channels

INITS = ("copy", "reconstruct")
BATCH = 128  # images of the calibration set that are run at once


def to_rdn(
    model: nn.Module,
    k: int = 4,
    *,
    select: str = "greedy",
    init: str = "copy",
    calibration: Tensor | Iterable[Tensor] | None = None,
    plain: tuple[str, ...] | list[str] | None = None,
    seed: int = 0,
    align: str | None = None,
) -> RDN:
    """Turn a trained CNN into an RDN of K = 2k−1 nested sub-networks; `model` itself is left as it is.

    model: a traceable CNN that ends in one Linear classifier; `rdnlib.graph.tracing.trace` lists what it may be made of.
    k: number of original groups, at least 2.
    select: "greedy" (Algorithm 1), "greedy-relative", "random" or "identity"; see `rdnlib.surgery.select`.
    init: "copy" (the paper: weights of the super-net) or "reconstruct" (regressions that keep the super-net's function).
    calibration: images (B, 3, H, W), normalised as in training, or any number of such batches; needed by the greedy selects
        and by "reconstruct".
    plain: names of modules to keep untransformed; None is the model's own `plain_by_default`, the paper's choice.
    seed: of the random select.
    align: the super-net's 1×1 convolution that serves as align layer, "insert" for a new one, or None to find out; see
        `rdnlib.graph.tracing.trace`.

    Raises UnsupportedModuleError for a module that cannot be nested, ConfigError for a wrong argument.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise ConfigError(f"k must be a whole number of at least 2, not {k!r}")
    if init not in INITS:
        raise ConfigError(f"unknown init '{init}': choose from {', '.join(INITS)}")
    plain = tuple(getattr(model, "plain_by_default", ()) if plain is None else plain)
    batches = checked_calibration(model, calibration)
    if init == "reconstruct" and not batches:
        raise ConfigError("init='reconstruct' needs calibration images: pass calibration=(B, 3, H, W) tensor")
    model = deepcopy(model).eval()
    traced = trace(model, align)
    layout = plan(traced, k=k, plain=plain)
    layout = replace(layout, orders=select_channels(select, layout, batches, seed=seed))
    config = {"k": k, "select": select, "init": init, "plain": list(plain), "seed": seed, "align": align}
    rdn = nest(layout, config=config)
    if init == "reconstruct":
        reconstruct(rdn, layout, batches)
    return rdn


def checked_calibration(model: nn.Module, calibration: Tensor | Iterable[Tensor] | None) -> list[Tensor]:
    """Batches of at most BATCH images on the model's device."""
    if calibration is None:
        return []
    device = next(model.parameters()).device
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.ndim != 4 or not batch.is_floating_point() or not len(batch):
            raise ConfigError("calibration must be float tensors of normalised images, shape (B, 3, H, W)")
        if batch.shape[1:] != batches[0].shape[1:]:
            raise ConfigError("calibration batches must hold images of one size")
        if not torch.isfinite(batch).all():
            raise ConfigError("calibration images contain NaN or infinite values")
    return [part.to(device) for batch in batches for part in batch.split(BATCH)]


@torch.no_grad()
def nest(layout: Layout, *, config: dict) -> RDN:
    """Build the RDN with the super-net's weights copied into the blocks that remain ("copy" initialisation)."""
    traced = layout.traced
    layers: dict[str, nn.Module] = {}
    for step in traced.steps:
        if step.module is None:
            continue
        if layout.is_plain(step.name) or not list(step.module.parameters()):
            layers[step.name] = deepcopy(step.module)
        elif is_dense(step.module):
            layers[step.name] = _nested_dense(step, layout)
        elif is_grouped(step.module):
            layers[step.name] = _inflated_conv(step, layout)
        else:
            layers[step.name] = _inflated_norm(step, layout)
    names = dict.fromkeys(name for step in traced.steps for name in (*step.inputs, step.name))
    spaces = {name: layout.space(name) for name in names}
    trunk = Trunk(traced.steps, layers, image=traced.image, spaces=spaces)
    device = traced.classifier.weight.device
    return RDN(trunk, _heads(layout), k=layout.k, config=config).to(device).train(False)


def _nested_dense(step: Step, layout: Layout) -> NestedConv2d:
    """Convolution or Linear without its violating blocks."""
    layer, source, k = step.module, step.inputs[0], layout.k
    kind = NestedLinear if isinstance(layer, nn.Linear) else NestedConv2d
    nested = kind(layer, k=k, reads=layout.space(source), writes=layout.space(step.name))
    inputs, outputs = layout.groups(source), layout.groups(step.name)
    for group, (weight, groups) in enumerate(zip(nested.weight, nested.sources, strict=True), start=1):
        columns = torch.cat([inputs[counterpart(source, k) - 1] for source in groups])
        weight.copy_(layer.weight[outputs[counterpart(group, k) - 1]][:, columns])
    if layer.bias is not None:  # a completion adds to its counterpart, so the bias must count once
        nested.bias[: len(layer.bias)] = layer.bias[layout.order(step.name)]
    return nested


def _inflated_norm(step: Step, layout: Layout) -> NestedBatchNorm2d:
    norm, channels = NestedBatchNorm2d(step.module, space=layout.space(step.name)), layout.inflated(step.name)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(step.module, name) is not None:  # without slope and offset it has ones and zeros
            getattr(norm, name).copy_(getattr(step.module, name)[channels])
    return norm


def _inflated_conv(step: Step, layout: Layout) -> NestedGroupedConv2d:
    conv, channels = step.module, layout.inflated(step.name)
    nested = NestedGroupedConv2d(conv, reads=layout.space(step.inputs[0]), writes=layout.space(step.name))
    nested.weight.copy_(conv.weight[channels])
    if conv.bias is not None:
        nested.bias.copy_(conv.bias[channels])
    return nested


def _heads(layout: Layout) -> NestedHeads:
    """The super-net's own align layer in blocks; or new ones that put every channel back where the classifier expects it."""
    traced = layout.traced
    space, channels = layout.space(traced.features), layout.inflated(traced.features)
    parts = channels.split(list(space.sizes))
    if traced.align is None:
        heads = NestedHeads(traced.classifier, space=space)
        for align, group in zip(heads.align, parts, strict=True):
            align[group, torch.arange(len(group))] = 1.0
        return heads
    conv = traced.align.module
    tail = Tail({step.name: _tail_layer(step, len(space.sizes)) for step in traced.tail})
    heads = NestedHeads(
        traced.classifier, space=space, aligned=conv.out_channels, bias=conv.bias is not None, tail=tail
    )
    for align, group in zip(heads.align, parts, strict=True):
        align.copy_(conv.weight[:, group, 0, 0])
    if conv.bias is not None:
        heads.bias.copy_(conv.bias)
    return heads


def _tail_layer(step: Step, last: int):
    if step.function is not None:
        return step.function
    if isinstance(step.module, NORMS):
        return PrivateBatchNorm([deepcopy(step.module) for _ in range(last)])
    return deepcopy(step.module)
