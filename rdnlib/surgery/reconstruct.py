"""Reconstruction: initialise an RDN so that it keeps the super-net's function (ours, beyond the paper).

Copied weights describe a network whose violating connections still exist; without those, the function is lost. Instead, go through
the layers in order and, for each nested layer, solve a ridge regression from what its groups may read *in the RDN built so far* to
what the super-net computes there (its value before the activation). New group k+m fits what its counterpart k−m leaves over.
Behind a residual addition the sum is what counts: the last layer of a branch is asked for the super-net's sum minus what
the RDN's other branch already gives, and so repairs that branch's errors.
"""

import torch
from torch import Tensor, nn

from rdnlib.graph.ir import Step, Trace, is_dense, last_readers, readers
from rdnlib.graph.refusals import NORMS, SIGMOIDS
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.groups import inflate
from rdnlib.nn.rdn import RDN
from rdnlib.surgery.cache import ActivationCache, activation_cache
from rdnlib.surgery.layout import Layout
from rdnlib.surgery.ridge import fit_dense, fit_grouped, fit_heads, rows_of

# Operators with y(a·x) = a·y(x), in eval mode
LINEAR = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)
LINEAR_FUNCTIONS = {"flatten", "mean", "adaptive_avg_pool2d"}


@torch.no_grad()
def reconstruct(rdn: RDN, layout: Layout, batches: list[Tensor]) -> None:
    """Refit every nested layer of `rdn` (in place) on batches of images (B, 3, H, W), in one pass over the layers."""
    with activation_cache() as cache:
        reconstruction = _Reconstruction(rdn, layout, cache, len(batches))
        for batch, images in enumerate(batches):
            cache.put(f"supernet-{layout.traced.image}", batch, images)
        for step in layout.traced.steps:
            reconstruction.visit(step)
        reconstruction.fit_heads()


class _Reconstruction:
    """Super-net and RDN side by side, one step at a time over all batches."""

    def __init__(self, rdn: RDN, layout: Layout, cache: ActivationCache, batches: int):
        self.rdn, self.layout, self.cache, self.batches = rdn, layout, cache, range(batches)
        self.traced, self.trunk = layout.traced, rdn.trunk
        self.readers, self.last_reader = readers(self.traced.steps), last_readers(self.traced.steps)
        self.gates = gates(self.traced)
        self.done: set[str] = {self.traced.image}

    def supernet(self, value: str, batch: int) -> Tensor:
        """A value of the super-net."""
        return self.cache.get(f"supernet-{value}", batch)

    def nested(self, value: str, batch: int) -> Tensor:
        """A value of the RDN, all groups; a plain one is the super-net's."""
        return self.cache.get(f"{'supernet' if self.layout.is_plain(value) else 'rdn'}-{value}", batch)

    def visit(self, step: Step) -> None:
        """Execute a step of both networks on all batches, after fitting the RDN's layer."""
        for batch in self.batches:
            inputs = [self.supernet(name, batch) for name in step.inputs]
            self.cache.put(f"supernet-{step.name}", batch, step.apply(*inputs))
        if not self.layout.is_plain(step.name):
            layer = self.trunk.layer(step)
            if isinstance(layer, (NestedConv2d, NestedGroupedConv2d)):
                self._fit(step, layer)
            for batch in self.batches:
                inputs = [self.nested(name, batch) for name in step.inputs]
                output = self.trunk.execute(step, inputs, 1, self.rdn.num_subnetworks)
                self.cache.put(f"rdn-{step.name}", batch, output)
        self.done.add(step.name)
        for name in step.inputs:
            if self.last_reader[name] == step.name and name != self.traced.features:
                self.cache.drop(f"supernet-{name}")
                self.cache.drop(f"rdn-{name}")

    def _fit(self, step: Step, layer: NestedConv2d | NestedGroupedConv2d) -> None:
        user = _only_reader(self.readers, step.name)
        norm_step = user if user is not None and isinstance(user.module, NORMS) else None
        norm = self.trunk.layers[norm_step.name] if norm_step else None
        fit = fit_dense if isinstance(layer, NestedConv2d) else fit_grouped
        pairs = ((self.nested(step.inputs[0], batch), self._target(step, norm_step, batch)) for batch in self.batches)
        # A gate multiplies: what a new group adds to its counterpart is decided by the features, so it is gated alike.
        fit(layer, norm, pairs, k=self.rdn.k, residual=step.name not in self.gates)

    def _target(self, step: Step, norm_step: Step | None, batch: int) -> Tensor:
        """(B, ΣC, …) what each channel of the RDN is asked for, before what its counterpart gives is taken off."""
        output, value = self.supernet(step.name, batch), step.name
        if norm_step is not None:
            output, value = norm_step.module(output), norm_step.name
        target = output[:, self.layout.inflated(step.name)]
        other = self._other_branch(value)
        if other is None:
            return target
        given, originals = self.nested(other, batch), self.trunk.spaces[other].channels
        missing = self.supernet(other, batch)[:, self.layout.order(other)] - given[:, :originals]
        target[:, :originals] += missing
        # A new group completes the same sum as its counterpart, less what its own other branch has given.
        groups = torch.arange(originals).split(list(self.trunk.spaces[other].sizes[: self.rdn.k]))
        partners = inflate(groups)[originals:]
        target[:, originals:] += missing[:, partners] - given[:, originals:]
        return target

    def _other_branch(self, value: str) -> str | None:
        """The other operand of the residual addition that alone reads `value`, where it is known already."""
        user = _only_reader(self.readers, value)
        if user is None or not user.adds:
            return None
        others = [name for name in user.inputs if name != value]
        return others[0] if len(others) == 1 and others[0] in self.done else None

    def fit_heads(self) -> None:
        """Fit the heads to what the super-net's classifier, or its own align layer, makes of its features."""
        features, norm_step = self.traced.features, feature_norm(self.traced)
        scale = None
        if norm_step is not None:
            outputs = [self.nested(features, batch) for batch in self.batches]
            scale = balance_groups(self.trunk.layers[norm_step.name], outputs)

        def pair(batch: int) -> tuple[Tensor, Tensor]:
            x, target = self.nested(features, batch), self.supernet(features, batch)
            x = x if scale is None else x * scale.view(1, -1, *(1,) * (x.ndim - 2))
            return x, target if self.traced.align is None else self.traced.align.module(target)

        fit_heads(self.rdn.heads, map(pair, self.batches))


def gates(traced: Trace) -> set[str]:
    """The layers whose output, through a sigmoid, multiplies other features: the second one of squeeze-and-excitation."""
    users, names = readers(traced.steps), set()
    for step in traced.steps:
        sigmoid = _only_reader(users, step.name) if is_dense(step.module) else None
        product = _only_reader(users, sigmoid.name) if sigmoid is not None and _is_sigmoid(sigmoid) else None
        if product is not None and product.multiplies:
            names.add(step.name)
    return names


def _only_reader(users: dict[str, list[Step]], value: str) -> Step | None:
    return users[value][0] if len(users.get(value, [])) == 1 else None


def _is_sigmoid(step: Step) -> bool:
    if step.function is None:
        return isinstance(step.module, (nn.Sigmoid, nn.Hardsigmoid))
    return step.function.target in SIGMOIDS


def feature_norm(traced: Trace) -> Step | None:
    """The batch norm whose output reaches the heads through pooling and flattening alone; None if there is none."""
    writer, users = {step.name: step for step in traced.steps}, readers(traced.steps)
    name = traced.features
    while name in writer:
        step = writer[name]
        if isinstance(step.module, nn.BatchNorm2d):
            return step
        linear = isinstance(step.module, LINEAR) if step.function is None else step.function.name in LINEAR_FUNCTIONS
        if not linear or len(users[step.inputs[0]]) > 1:
            return None
        name = step.inputs[0]
    return None


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
    sizes = list(norm.writes.sizes)
    scale = torch.cat([part.mean().clamp_min(1e-6).rsqrt().expand(len(part)) for part in variance.split(sizes)])
    norm.weight.mul_(scale)
    norm.bias.mul_(scale)
    return scale
