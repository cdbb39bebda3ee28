"""Reconstruction: initialise an RDN so that it keeps the super-net's function (ours, beyond the paper).

Copied weights describe a network whose violating connections still exist; without those, the function is lost. Instead, walk the
layers in order and, for each nested layer, solve a ridge regression from what its groups may read *in the RDN built so far* to
what the super-net computes there (its value before the activation). New group k+m fits what its counterpart k−m leaves over.
Behind a residual addition the sum is what counts: the last layer of a branch is asked for the super-net's sum minus what
the RDN's other branch already gives, and so repairs that branch's errors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.graph.operators import NORMS
from rdnlib.graph.tracing import Step, Trace, is_dense
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.groups import Layout
from rdnlib.nn.rdn import RDN
from rdnlib.surgery.cache import Shelf, shelf
from rdnlib.surgery.ridge import fit_dense, fit_grouped, fit_heads, rows_of

LINEAR = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)  # y(a·x) = a·y(x), in eval mode


@torch.no_grad()
def reconstruct(rdn: RDN, layout: Layout, calibration: list[Tensor]) -> None:
    """Refit every nested layer of `rdn` (in place) on batches of images (B, 3, H, W), in one pass over the layers."""
    with shelf() as values:
        walk = _Walk(rdn, layout, values, len(calibration))
        for batch, images in enumerate(calibration):
            values.put(_before(layout.traced.image), batch, images)
        for step in layout.traced.steps:
            walk.visit(step)
        walk.finish()


def _before(name: str) -> str:
    return f"before-{name}"


def _after(name: str) -> str:
    return f"after-{name}"


class _Walk:
    """Super-net and RDN side by side, one step at a time over all batches."""

    def __init__(self, rdn: RDN, layout: Layout, values: Shelf, batches: int):
        self.rdn, self.layout, self.values, self.batches = rdn, layout, values, range(batches)
        self.trunk, self.readers = rdn.trunk, layout.traced.readers()
        self.gates = gates(layout.traced)
        self.done: set[str] = {layout.traced.image}

    def before(self, name: str, batch: int) -> Tensor:
        """A value of the super-net."""
        return self.values.get(_before(name), batch)

    def after(self, name: str, batch: int) -> Tensor:
        """A value of the RDN, all groups."""
        return self.values.get(_before(name) if self.trunk.spaces[name].plain else _after(name), batch)

    def visit(self, step: Step) -> None:
        for batch in self.batches:
            inputs = [self.before(name, batch) for name in step.inputs]
            self.values.put(_before(step.name), batch, step.apply(*inputs))
        if not self.trunk.spaces[step.name].plain:
            layer = self.trunk.layers[step.name] if step.module is not None else None
            if isinstance(layer, (NestedConv2d, NestedGroupedConv2d)):
                self._fit(step, layer)
            for batch in self.batches:
                inputs = [self.after(name, batch) for name in step.inputs]
                output = self.trunk.execute(step, inputs, 1, self.rdn.num_subnetworks)
                self.values.put(_after(step.name), batch, output)
        self.done.add(step.name)
        for name in self.trunk.dead_after.get(step.name, ()):
            if name != self.layout.traced.features:
                self.values.drop(_before(name))
                self.values.drop(_after(name))

    def _fit(self, step: Step, layer: NestedConv2d | NestedGroupedConv2d) -> None:
        norm_step = self._only_reader(step.name, NORMS)
        norm = self.trunk.layers[norm_step.name] if norm_step else None
        fit = fit_dense if isinstance(layer, NestedConv2d) else fit_grouped
        pairs = ((self.after(step.inputs[0], batch), self._target(step, norm_step, batch)) for batch in self.batches)
        # A gate multiplies: what a new group adds to its counterpart is decided by the features, so it is gated alike.
        fit(layer, norm, pairs, k=self.rdn.k, residual=step.name not in self.gates)

    def _target(self, step: Step, norm_step: Step | None, batch: int) -> Tensor:
        """(B, ΣC, …) what each channel of the RDN is asked for, before what its counterpart gives is taken off."""
        wanted, written = self.before(step.name, batch), step.name
        if norm_step is not None:
            wanted, written = norm_step.module(wanted), norm_step.name
        target = wanted[:, self.layout.inflated(step.name)]
        other = self._other_branch(written)
        if other is None:
            return target
        given, originals = self.after(other, batch), self.trunk.spaces[other].channels
        missing = self.before(other, batch)[:, self.layout.order(other)] - given[:, :originals]
        target[:, :originals] += missing
        # A new group completes the same sum as its counterpart, less what its own other branch has given.
        partners = self.layout.completed(other)[originals:]
        target[:, originals:] += missing[:, partners] - given[:, originals:]
        return target

    def _other_branch(self, name: str) -> str | None:
        """The other operand of the residual addition that alone reads `name`, where it is known already."""
        users = self.readers.get(name, [])
        if len(users) != 1 or users[0].function is None or not users[0].function.adds:
            return None
        others = [value for value in users[0].inputs if value != name]
        return others[0] if len(others) == 1 and others[0] in self.done else None

    def _only_reader(self, name: str, kinds: tuple[type, ...]) -> Step | None:
        users = self.readers.get(name, [])
        return users[0] if len(users) == 1 and isinstance(users[0].module, kinds) else None

    def finish(self) -> None:
        """Fit the heads to what the super-net's classifier, or its own align layer, makes of its features."""
        traced = self.layout.traced
        norm_step, scale = feature_norm(traced), None
        if norm_step is not None:
            features = [self.after(traced.features, batch) for batch in self.batches]
            scale = balance_groups(self.trunk.layers[norm_step.name], features)
        pairs = (
            (self._scaled(self.after(traced.features, batch), scale), self._head_target(batch))
            for batch in self.batches
        )
        fit_heads(self.rdn.heads, pairs)

    @staticmethod
    def _scaled(x: Tensor, scale: Tensor | None) -> Tensor:
        return x if scale is None else x * scale.view(1, -1, *(1,) * (x.ndim - 2))

    def _head_target(self, batch: int) -> Tensor:
        features, align = self.before(self.layout.traced.features, batch), self.layout.traced.align
        return features if align is None else align.module(features)


def gates(traced: Trace) -> set[str]:
    """The layers whose output, through a sigmoid, multiplies other features: the second one of squeeze-and-excitation."""
    readers = traced.readers()

    def only_reader(step: Step) -> Step | None:
        users = readers.get(step.name, [])
        return users[0] if len(users) == 1 else None

    found = set()
    for step in traced.steps:
        sigmoid = only_reader(step) if is_dense(step.module) else None
        product = only_reader(sigmoid) if sigmoid is not None and _is_sigmoid(sigmoid) else None
        if product is not None and product.function is not None and product.function.multiplies:
            found.add(step.name)
    return found


def _is_sigmoid(step: Step) -> bool:
    if step.function is None:
        return isinstance(step.module, (nn.Sigmoid, nn.Hardsigmoid))
    return step.function.target in {torch.sigmoid, F.sigmoid, F.hardsigmoid, "sigmoid"}


def feature_norm(traced: Trace) -> Step | None:
    """The batch norm whose output reaches the heads through pooling and flattening alone; None if there is none."""
    writer, readers = {step.name: step for step in traced.steps}, traced.readers()
    name = traced.features
    while name in writer:
        step = writer[name]
        if isinstance(step.module, nn.BatchNorm2d):
            return step
        if not (isinstance(step.module, LINEAR) or _is_linear(step)) or len(readers[step.inputs[0]]) > 1:
            return None
        name = step.inputs[0]
    return None


def _is_linear(step: Step) -> bool:
    return step.function is not None and getattr(step.function.target, "__name__", step.function.target) in {
        "flatten",
        "mean",
        "adaptive_avg_pool2d",
    }


def balance_groups(norm: NestedBatchNorm2d, features: list[Tensor]) -> Tensor:
    """Rescale the features (B, ΣC[, H, W]) of each group to unit variance, in `norm`; returns each channel's scale (ΣC,).

    The heads are fitted afterwards, so the function stays the same; the steps of training do not. Features whose deviation
    is a few hundredths need a head with weights of a few dozens, and a step in the features' mean is then multiplied by
    them twice, in its gradient and in its effect: such a network diverges at learning rates that the super-net likes.
    """
    rows = sum(rows_of(x).shape[0] for x in features)
    first = sum(rows_of(x).double().sum(dim=0) for x in features) / rows
    second = sum(rows_of(x).double().square().sum(dim=0) for x in features) / rows
    variance = (second - first.square()).to(norm.weight.dtype)
    sizes = list(norm.space.sizes)
    scale = torch.cat([part.mean().clamp_min(1e-6).rsqrt().expand(len(part)) for part in variance.split(sizes)])
    norm.weight.mul_(scale)
    norm.bias.mul_(scale)
    return scale
