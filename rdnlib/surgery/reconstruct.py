"""Reconstruction: initialise an RDN so that it keeps the super-net's function (ours, beyond the paper).

Copied weights describe a network whose violating connections still exist; without those, the function is lost. Instead, go through
the layers in order and, for each nested layer, solve a ridge regression from what its groups may read *in the RDN built so far* to
what the super-net computes there (its value before the activation). New group k+m fits what its counterpart k−m leaves over.
Behind a residual addition the sum is what counts: the last layer of a branch is asked for the super-net's sum minus what
the RDN's other branch already gives, and so repairs that branch's errors.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from rdnlib.graph.ir import Step, Trace, is_dense, last_readers, readers, run
from rdnlib.graph.refusals import NORMS, SIGMOIDS
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.groups import inflate
from rdnlib.nn.rdn import RDN
from rdnlib.surgery.cache import ActivationCache, activation_cache
from rdnlib.surgery.layout import Layout
from rdnlib.surgery.ridge import GROUPED_ROWS, ROWS, Sampling, fit_dense, fit_grouped, fit_heads, rows_of

# Operators with y(a·x) = a·y(x), in eval mode
LINEAR = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)
LINEAR_FUNCTIONS = {"flatten", "mean", "adaptive_avg_pool2d"}


@torch.no_grad()
def reconstruct(rdn: RDN, layout: Layout, batches: list[Tensor]) -> dict[str, list[float]]:
    """Refit every nested layer of `rdn` (in place) on batches of images (B, 3, H, W), in one pass over the layers.

    Returns how often N_1 … N_K say what the super-net says, on the images that were fitted ("fitted") and on those that only chose
    the ridges ("held_out", empty where there are too few images): the difference is what was learnt by heart.
    """
    with activation_cache() as cache:
        reconstruction = _Reconstruction(rdn, layout, cache, batches)
        for segment in reconstruction.segments():
            reconstruction.visit(segment)
        reconstruction.fit_heads()
        return reconstruction.agreement()


class _Reconstruction:
    """Super-net and RDN side by side, one segment of steps at a time over all batches.

    A segment begins with a layer that is fitted, and ends before the next one; only what later segments read is cached.
    """

    def __init__(self, rdn: RDN, layout: Layout, cache: ActivationCache, batches: list[Tensor]):
        self.rdn, self.layout, self.cache, self.batches = rdn, layout, cache, range(len(batches))
        self.traced, self.trunk = layout.traced, rdn.trunk
        self.readers, self.last_reader = readers(self.traced.steps), last_readers(self.traced.steps)
        self.gates = gates(self.traced)
        self.done: set[str] = {self.traced.image}
        self.sizes = [len(images) for images in batches]
        self.sampling = Sampling(ROWS, images=sum(self.sizes))
        self.scale: Tensor | None = None  # of the features, see `balance_groups`
        for batch, images in enumerate(batches):
            cache.put(f"supernet-{self.traced.image}", batch, images)

    def supernet(self, value: str, batch: int) -> Tensor:
        """A value of the super-net."""
        return self.cache.get(f"supernet-{value}", batch)

    def nested(self, value: str, batch: int) -> Tensor:
        """A value of the RDN, all groups; a plain one is the super-net's."""
        return self.cache.get(f"{'supernet' if self.layout.is_plain(value) else 'rdn'}-{value}", batch)

    def _is_fitted(self, step: Step) -> bool:
        layer = self.trunk.layer(step)
        return not self.layout.is_plain(step.name) and isinstance(layer, (NestedConv2d, NestedGroupedConv2d))

    def segments(self) -> list[list[Step]]:
        segments: list[list[Step]] = []
        for step in self.traced.steps:
            if not segments or self._is_fitted(step):
                segments.append([])
            segments[-1].append(step)
        return segments

    def visit(self, segment: list[Step]) -> None:
        """Fit the first layer, and execute the steps of both networks on all batches."""
        if self._is_fitted(segment[0]):
            for batch in self.batches:
                output = segment[0].apply(self.supernet(segment[0].inputs[0], batch))
                self.cache.put(f"supernet-{segment[0].name}", batch, output)
            self._fit(segment[0], self.trunk.layer(segment[0]))
        for batch in self.batches:
            self._execute(segment, batch)
        self.done |= {step.name for step in segment}
        for step in segment:
            for name in {step.name, *step.inputs}:
                if self._is_dead(name):
                    self.cache.drop(f"supernet-{name}")
                    self.cache.drop(f"rdn-{name}")

    def _is_dead(self, value: str) -> bool:
        return value != self.traced.features and self.last_reader.get(value, value) in self.done

    def _execute(self, segment: list[Step], batch: int) -> None:
        """The steps of a segment on one batch; puts into the cache what later segments read."""
        ends = {step.name for step in segment}
        values: dict[str, Tensor] = {}

        def value(name: str) -> Tensor:
            return values[name] if name in values else self.cache.get(name, batch)

        for step in segment:
            key = f"supernet-{step.name}"
            if (key, batch) in self.cache.entries:  # the fitted layer's
                values[key] = self.cache.get(key, batch)
            else:
                values[key] = step.apply(*(value(f"supernet-{name}") for name in step.inputs))
            if not self.layout.is_plain(step.name):
                whose = ("supernet" if self.layout.is_plain(name) else "rdn" for name in step.inputs)
                inputs = [value(f"{side}-{name}") for side, name in zip(whose, step.inputs, strict=True)]
                values[f"rdn-{step.name}"] = self.trunk.execute(step, inputs, 1, self.rdn.num_subnetworks)
            for name in step.inputs:  # not needed any more, so that memory holds few values at once
                if self.last_reader[name] == step.name and name != self.traced.features:
                    values.pop(f"supernet-{name}", None)
                    values.pop(f"rdn-{name}", None)
        for name, tensor in values.items():
            read_later = self.last_reader.get(name.split("-", 1)[1]) not in ends
            if read_later and (name, batch) not in self.cache.entries:
                self.cache.put(name, batch, tensor)

    def _fit(self, step: Step, layer: NestedConv2d | NestedGroupedConv2d) -> None:
        user = _only_reader(self.readers, step.name)
        norm_step = user if user is not None and isinstance(user.module, NORMS) else None
        norm = self.trunk.layers[norm_step.name] if norm_step else None
        fit, sampling = fit_dense, self.sampling
        if isinstance(layer, NestedGroupedConv2d):
            fit, sampling = fit_grouped, replace(sampling, rows=GROUPED_ROWS)
        pairs = ((self.nested(step.inputs[0], batch), self._target(step, norm_step, batch)) for batch in self.batches)
        # A gate multiplies: what a new group adds to its counterpart is decided by the features, so it is gated alike.
        fit(layer, norm, pairs, k=self.rdn.k, residual=step.name not in self.gates, sampling=sampling)
        if norm is not None:
            last = self.rdn.num_subnetworks
            measure_norm(norm, (layer(self.nested(step.inputs[0], batch), 1, last) for batch in self.batches))

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
        if norm_step is not None:
            outputs = [self.nested(features, batch) for batch in self.batches]
            self.scale = balance_groups(self.trunk.layers[norm_step.name], outputs)

        def pair(batch: int) -> tuple[Tensor, Tensor]:
            target = self.supernet(features, batch)
            return self._features(batch), target if self.traced.align is None else self.traced.align.module(target)

        fit_heads(self.rdn.heads, map(pair, self.batches))

    def _features(self, batch: int) -> Tensor:
        """What the RDN's heads read, with the scale that `balance_groups` gave them."""
        x = self.nested(self.traced.features, batch)
        return x if self.scale is None else x * self.scale.view(1, -1, *(1,) * (x.ndim - 2))

    def agreement(self) -> dict[str, list[float]]:
        """See `reconstruct`."""
        same, first = {"fitted": [], "held_out": []}, 0
        for batch, size in enumerate(self.sizes):
            logits = self.rdn.classify(self._features(batch))  # (B, K, classes)
            expected = _answers(self.traced, self.supernet(self.traced.features, batch))  # (B, classes)
            agree = logits.argmax(dim=-1) == expected.argmax(dim=-1, keepdim=True)
            for part, own in zip(same.values(), self.sampling.split(first, size), strict=True):
                part.append(agree[own])
            first += size
        return {name: torch.cat(parts).double().mean(dim=0).nan_to_num(-1).tolist() for name, parts in same.items()}


def _answers(traced: Trace, features: Tensor) -> Tensor:
    """What the super-net makes of its features: (B, classes)."""
    rest = [] if traced.align is None else [traced.align, *traced.tail]
    return traced.classifier(run(rest, {traced.features: features}) if rest else features)


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


def measure_norm(norm: NestedBatchNorm2d, inputs: Iterable[Tensor]) -> None:
    """Give a batch norm the statistics of all its inputs, batches of (B, C, H, W), without changing what it computes in eval mode.

    The fit knows them from some positions only. In training the batch's own statistics count, and what the layers behind are fitted to
    would not be what they get.
    """
    rows = first = second = 0
    for u in inputs:
        u = u.transpose(0, 1).flatten(1).double()
        rows, first, second = rows + u.shape[1], first + u.sum(dim=1), second + u.square().sum(dim=1)
    mean = first / rows
    variance = (second / rows - mean.square()).clamp_min(0)
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    offset = norm.bias.double() + slope * (mean - norm.running_mean.double())
    values = {
        "running_mean": mean,
        "running_var": variance,
        "weight": slope * (variance + norm.eps).sqrt(),
        "bias": offset,
    }
    for name, value in values.items():
        getattr(norm, name).data.copy_(value)


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
