"""A baseline: slimmable training (Yu et al., 2019). One network at several widths, one pass for each, private batch norms.

A width keeps the first channels of every channel space of the network, so any network that can be traced can be slimmed, and
the width is an argument of the pass, not a state of the network. Unlike in an RDN a wider network changes all that a narrower
one has computed: nothing can be re-used from one width to the next, neither in training nor at inference.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.ir import Step, Trace, is_grouped, run
from rdnlib.graph.refusals import NORMS, WEIGHTED
from rdnlib.graph.tracing import trace


class Slimmable(nn.Module):
    """`model` at each of `widths`, shares of its channels in (0, 1], ascending; filters are shared, batch norms private."""

    def __init__(self, model: nn.Module, widths: Sequence[float]):
        super().__init__()
        if not widths or list(widths) != sorted(set(widths)) or not 0 < widths[0] <= widths[-1] <= 1:
            raise ConfigError(f"widths must be ascending shares of the channels, above 0 and at most 1, not {widths!r}")
        traced = trace(deepcopy(model), align="insert")
        self.widths, self.image, self.features = tuple(widths), traced.image, traced.features
        self.steps = [replace(step, module=None) for step in traced.steps]  # the layers alone hold parameters
        channels = [_channels(traced, width) for width in widths]
        self.channels = {name: [at[name] for at in channels] for name in channels[0]}  # of each value, for each width
        self.layers = nn.ModuleDict({step.name: self._layer(step) for step in traced.steps if step.module is not None})
        self.classifier = traced.classifier
        self.train(model.training)

    def _layer(self, step: Step) -> nn.Module:
        if not isinstance(step.module, NORMS):
            return step.module
        return nn.ModuleList(_narrow_norm(step.module, channels) for channels in self.channels[step.name])

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits (B, widths, classes), width by width."""
        return torch.stack([self.at(x, index) for index in range(len(self.widths))], dim=1)

    def at(self, x: Tensor, index: int) -> Tensor:
        """Images (B, 3, H, W) → logits (B, classes) of `widths[index]`."""

        def call(step: Step, *inputs: Tensor) -> Tensor:
            if step.function is not None:
                return step.apply(*inputs)
            layer = self.layers[step.name]
            if isinstance(layer, WEIGHTED):
                return _first_filters(layer, *inputs, self.channels[step.name][index])
            return layer[index](*inputs) if isinstance(layer, nn.ModuleList) else layer(*inputs)

        x = run(self.steps, {self.image: x}, call)  # (B, C)
        return F.linear(x, self.classifier.weight[:, : x.shape[1]], self.classifier.bias)

    def alone(self, index: int) -> "SlimNetwork":
        """The network of `widths[index]` in plain torch layers, with weights of its own."""
        steps = []
        for step in self.steps:
            layer = None if step.function is not None else self.layers[step.name]
            if isinstance(layer, WEIGHTED):
                layer = _narrow(layer, self.channels[step.inputs[0]][index], self.channels[step.name][index])
            elif layer is not None:
                layer = deepcopy(layer[index] if isinstance(layer, nn.ModuleList) else layer)
            steps.append(replace(step, module=layer))
        classifier = _narrow(self.classifier, self.channels[self.features][index], self.classifier.out_features)
        return SlimNetwork(steps, classifier, image=self.image).train(self.training)


class SlimNetwork(nn.Module):
    """One width, cut out."""

    def __init__(self, steps: list[Step], classifier: nn.Linear, *, image: str):
        super().__init__()
        self.steps, self.classifier, self.image = steps, classifier, image
        self.layers = nn.ModuleDict({step.name: step.module for step in steps if step.module is not None})

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits (B, classes)."""
        return self.classifier(run(self.steps, {self.image: x}))


def _channels(traced: Trace, width: float) -> dict[str, int]:
    """Value name → how many of its channels a width keeps; the image stays whole, and conv-groups are never cut."""
    space_of, units = traced.space_of, traced.units
    slim = {space: max(1, round(width * count)) for space, count in units.items()} | {space_of[traced.image]: 1}
    return {name: slim[space] * traced.width(name) for name, space in space_of.items()}


def _slice(layer: nn.Conv2d | nn.Linear, reads: int, writes: int) -> tuple[Tensor, Tensor | None, int]:
    """The first filters of a layer for the first channels of its input, their bias, and the number of conv-groups."""
    groups = layer.groups * reads // layer.in_channels if is_grouped(layer) else 1
    return layer.weight[:writes, : reads // groups], None if layer.bias is None else layer.bias[:writes], groups


def _first_filters(layer: nn.Conv2d | nn.Linear, x: Tensor, writes: int) -> Tensor:
    """The outputs of the first `writes` filters for an input (B, C, …) that holds the layer's first channels."""
    weight, bias, groups = _slice(layer, x.shape[1], writes)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, groups)


def _narrow(layer: nn.Conv2d | nn.Linear, reads: int, writes: int) -> nn.Conv2d | nn.Linear:
    """A copy of a layer with its first filters for the first channels of its input."""
    weight, bias, groups = _slice(layer, reads, writes)
    slim = deepcopy(layer)
    slim.weight = nn.Parameter(weight.detach().clone())
    slim.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    if isinstance(slim, nn.Linear):
        slim.in_features, slim.out_features = reads, writes
    else:
        slim.in_channels, slim.out_channels, slim.groups = reads, writes, groups
    return slim


def _narrow_norm(norm: nn.Module, channels: int) -> nn.Module:
    """A private copy of a batch norm for its first channels."""
    slim = type(norm)(channels, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
    slim.load_state_dict({name: value[:channels] if value.ndim else value for name, value in norm.state_dict().items()})
    return slim
