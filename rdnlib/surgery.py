"""Network surgery: from a trained super-net to a Russian Doll Network (Section 3.2, Figures 2–4).

trace → channel spaces → select (one permutation per space) → inflate and nest every layer → heads.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.nested import NestedBatchNorm2d, NestedConv2d, NestedDepthwiseConv2d, NestedHeads
from rdnlib.rdn import RDN, Trunk
from rdnlib.reconstruct import reconstruct
from rdnlib.select import select as select_channels
from rdnlib.spaces import Space, Step, Trace, build_spaces, counterpart, is_depthwise, split_channels, trace

INITS = ("copy", "reconstruct")


def to_rdn(
    model: nn.Module,
    k: int = 4,
    *,
    select: str = "greedy",
    init: str = "copy",
    calibration: Tensor | None = None,
    plain: tuple[str, ...] | list[str] | None = None,
    seed: int = 0,
) -> RDN:
    """Turn a trained CNN into an RDN of K = 2k−1 nested sub-networks; `model` itself is left as it is.

    model: a traceable CNN of (dense or depthwise) convolutions, batch norm, activations, additions and pooling that
        ends in one Linear classifier.
    k: number of original groups, at least 2.
    select: "greedy" (Algorithm 1), "greedy-relative", "random" or "identity"; see `rdnlib.select`.
    init: "copy" (the paper's: weights of the super-net) or "reconstruct" (regressions that keep the super-net's function).
    calibration: images (B, 3, H, W), normalised as in training; needed by the greedy selects and by "reconstruct".
    plain: names of modules to keep untransformed; None is the model's own `plain_by_default`, the paper's choice.
    seed: of the random select.

    Raises UnsupportedModuleError for a module that cannot be nested, ConfigError for a wrong argument.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise ConfigError(f"k must be a whole number of at least 2, not {k!r}")
    if init not in INITS:
        raise ConfigError(f"unknown init '{init}': choose from {', '.join(INITS)}")
    plain = tuple(getattr(model, "plain_by_default", ()) if plain is None else plain)
    calibration = _checked_calibration(model, calibration, needed=init == "reconstruct")
    model = deepcopy(model).eval()
    traced = trace(model)
    spaces = build_spaces(traced, k=k, plain=plain)
    permutations = select_channels(select, traced, spaces, k=k, calibration=calibration, seed=seed)
    config = {"k": k, "select": select, "init": init, "plain": list(plain), "seed": seed}
    rdn = nest(traced, spaces, permutations, k=k, config=config)
    if init == "reconstruct":
        reconstruct(rdn, traced, permutations, calibration)
    return rdn


def _checked_calibration(model: nn.Module, calibration: Tensor | None, *, needed: bool) -> Tensor | None:
    if calibration is None:
        if needed:
            raise ConfigError("init='reconstruct' needs calibration images: pass calibration=(B, 3, H, W) tensor")
        return None
    if not isinstance(calibration, Tensor) or calibration.ndim != 4 or not calibration.is_floating_point():
        raise ConfigError("calibration must be a float tensor of normalised images, shape (B, 3, H, W)")
    if not torch.isfinite(calibration).all():
        raise ConfigError("calibration images contain NaN or infinite values")
    return calibration.to(next(model.parameters()).device)


@torch.no_grad()
def nest(traced: Trace, spaces: dict[int, Space], permutations: dict[int, Tensor], *, k: int, config: dict) -> RDN:
    """Build the RDN with the super-net's weights copied into the blocks that remain ("copy" initialisation)."""
    layers: dict[str, nn.Module] = {}
    for step in traced.steps:
        if step.module is None:
            continue
        writes = traced.space_of[step.name]
        if spaces[writes].plain or not list(step.module.parameters()):
            layers[step.name] = deepcopy(step.module)
        elif isinstance(step.module, nn.Conv2d) and not is_depthwise(step.module):
            reads = traced.space_of[step.inputs[0]]
            layers[step.name] = _nested_conv(
                step.module, k=k, reads=spaces[reads], writes=spaces[writes],
                order_in=permutations[reads], order_out=permutations[writes],
            )  # fmt: skip
        else:
            layers[step.name] = _inflated(
                step, space=spaces[writes], channels=inflated_channels(permutations[writes], k)
            )
    features = traced.space_of[traced.features]
    heads = _heads(traced.classifier, space=spaces[features], channels=inflated_channels(permutations[features], k))
    trunk = Trunk(
        traced.steps,
        layers,
        image=traced.image,
        spaces={name: spaces[identifier] for name, identifier in traced.space_of.items()},
    )
    device = traced.classifier.weight.device
    return RDN(trunk, heads, k=k, config=config).to(device).train(False)


def inflated_channels(permutation: Tensor, k: int) -> Tensor:
    """(ΣC,) the super-net's channel behind each channel of the RDN; a new group repeats its counterpart's."""
    groups = permutation.split(list(split_channels(len(permutation), k)))
    return torch.cat([groups[counterpart(group, k) - 1] for group in range(1, 2 * k)])


def _nested_conv(
    conv: nn.Conv2d, *, k: int, reads: Space, writes: Space, order_in: Tensor, order_out: Tensor
) -> NestedConv2d:
    nested = NestedConv2d(conv, k=k, reads=reads, writes=writes)
    inputs = order_in.split(list(split_channels(len(order_in), k)))
    outputs = order_out.split(list(split_channels(len(order_out), k)))
    for group, (weight, groups) in enumerate(zip(nested.weight, nested.sources, strict=True), start=1):
        columns = torch.cat([inputs[counterpart(source, k) - 1] for source in groups])
        weight.copy_(conv.weight[outputs[counterpart(group, k) - 1]][:, columns])
    if conv.bias is not None:  # a completion adds to its counterpart, so the bias must count once
        nested.bias[: len(order_out)] = conv.bias[order_out]
    return nested


def _inflated(step: Step, *, space: Space, channels: Tensor) -> nn.Module:
    if isinstance(step.module, nn.BatchNorm2d):
        norm = NestedBatchNorm2d(step.module, space=space)
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).copy_(getattr(step.module, name)[channels])
        return norm
    depthwise = NestedDepthwiseConv2d(step.module, space=space)
    depthwise.weight.copy_(step.module.weight[channels])
    if step.module.bias is not None:
        depthwise.bias.copy_(step.module.bias[channels])
    return depthwise


def _heads(classifier: nn.Linear, *, space: Space, channels: Tensor) -> NestedHeads:
    """Align layers that put every channel back where the super-net's classifier expects it."""
    heads = NestedHeads(classifier, space=space)
    for align, group in zip(heads.align, channels.split(list(space.sizes)), strict=True):
        align[group, torch.arange(len(group))] = 1.0
    return heads
