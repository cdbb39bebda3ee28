"""An RDN for inference: batch norms folded into the layers before them, heads into one map a group. Nested as before."""

from copy import copy, deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from rdnlib.graph.ir import readers
from rdnlib.nn.conv import NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.rdn import RDN, Trunk

_LINEAR = (NestedConv2d, NestedGroupedConv2d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)  # nested ones are of these classes, too


@torch.no_grad()
def deploy(rdn: RDN) -> RDN:
    """The same network for inference, in evaluation mode; `rdn` itself is left as it is, and later changes of it are not followed.

    A batch norm is a slope and an offset for each channel, so one that alone reads a convolution or Linear layer becomes part of its
    weights and bias; with an align layer and the classifier, see `RDN.fold_heads`. All logits are the same up to rounding, of one pass,
    of `start` and `advance` and of `subnetwork`, and no sub-network has any weight that it had not before.
    """
    parts = {
        name: _fold_norms(part) if isinstance(part, Trunk) else deepcopy(part) for name, part in rdn._modules.items()
    }
    deployed = copy(rdn)
    deployed._modules = parts
    return deployed.fold_heads().eval()


def _fold_norms(trunk: Trunk) -> Trunk:
    """A copy without the batch norms that can be folded; what the norm made is then made by the layer before it."""
    users, made_by = readers(trunk.steps), {step.name: step for step in trunk.steps}
    layers, steps, folded = {}, [], set()
    for step in trunk.steps:
        layer, before = trunk.layer(step), made_by.get(step.inputs[0])
        if _can_fold(layer, before and trunk.layer(before)) and len(users[before.name]) == 1:
            layers[step.name] = _folded(trunk.layer(before), layer)
            folded.add(before.name)
            step = replace(step, inputs=before.inputs, target=before.target)
        elif layer is not None:
            layers[step.name] = deepcopy(layer)
        steps.append(step)
    kept = [step for step in steps if step.name not in folded]
    return Trunk(
        kept,
        {step.name: layers[step.name] for step in kept if step.name in layers},
        image=trunk.image,
        spaces=trunk.spaces,
    )


def _can_fold(norm: nn.Module | None, before: nn.Module | None) -> bool:
    return isinstance(norm, _NORMS) and norm.running_var is not None and isinstance(before, _LINEAR)


def _folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of the layer that does what the layer and then the norm do in evaluation mode."""
    slope = (norm.running_var + norm.eps).rsqrt()
    slope = slope if norm.weight is None else slope * norm.weight
    offset = -norm.running_mean * slope
    offset = offset if norm.bias is None else offset + norm.bias
    folded = deepcopy(layer)
    if isinstance(layer, NestedConv2d):
        for weight, rows in zip(folded.weight, slope.split(list(layer.writes.sizes)), strict=True):
            weight.mul_(_rows(rows, weight))
    else:
        folded.weight.mul_(_rows(slope, folded.weight))
    folded.bias = nn.Parameter(offset if layer.bias is None else offset + slope * layer.bias)
    return folded


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each row of a weight."""
    return values.view(-1, *[1] * (weight.ndim - 1))
