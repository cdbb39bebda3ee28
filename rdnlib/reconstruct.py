"""Reconstruction: initialise an RDN so that it keeps the super-net's function (ours, beyond the paper).

Copied weights describe a network whose violating connections still exist; without those, the function is lost. Instead, walk the
layers in order and, for each nested layer, solve a ridge regression from what its groups may read *in the RDN built so far* to
what the super-net computes there (its value before the activation). New group k+m fits what its counterpart k−m leaves over.
Everything needed is in the second moments of a layer's input and target, summed in double precision over batches.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.nested import NestedBatchNorm2d, NestedConv2d, NestedDepthwiseConv2d, NestedHeads
from rdnlib.rdn import RDN
from rdnlib.spaces import Step, Trace, counterpart

BATCH = 128
RIDGE = 1e-3  # of the mean variance of the inputs; the same everywhere
LINEAR = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)  # y(a·x) = a·y(x), in eval mode
HEAD_RIDGE = 1e-2  # the heads see one row an image, not one a position


@torch.no_grad()
def reconstruct(rdn: RDN, traced: Trace, permutations: dict[int, Tensor], calibration: Tensor) -> None:
    """Refit every nested layer of `rdn` (in place) on calibration images (N, 3, H, W), in one pass over the layers."""
    batches = list(calibration.split(BATCH))
    before: dict[str, list[Tensor]] = {traced.image: batches}  # values of the super-net
    after: dict[str, list[Tensor]] = {traced.image: batches}  # values of the RDN, all groups
    trunk, last = rdn.trunk, rdn.num_subnetworks
    norm_of = following_norms(traced)
    for step in traced.steps:
        before[step.name] = [
            step.apply(*inputs) for inputs in zip(*(before[name] for name in step.inputs), strict=True)
        ]
        if trunk.spaces[step.name].plain:
            after[step.name] = before[step.name]
        else:
            layer = trunk.layers[step.name] if step.module is not None else None
            norm_step = norm_of.get(step.name)
            norm = trunk.layers[norm_step.name] if norm_step else None
            if isinstance(layer, (NestedConv2d, NestedDepthwiseConv2d)):
                order = permutations[traced.space_of[step.name]]
                wanted = (t if norm_step is None else norm_step.module(t) for t in before[step.name])
                targets = (target[:, order] for target in wanted)
                fit = fit_conv if isinstance(layer, NestedConv2d) else fit_depthwise
                fit(layer, norm, zip(after[step.inputs[0]], targets, strict=True), k=rdn.k)
            after[step.name] = [
                trunk.execute(step, list(inputs), 1, last)
                for inputs in zip(*(after[name] for name in step.inputs), strict=True)
            ]
        for name in trunk.dead_after.get(step.name, ()):
            del before[name], after[name]
    features = after[traced.features]
    norm_step = feature_norm(traced)
    if norm_step is not None:
        scale = balance_groups(trunk.layers[norm_step.name], features)
        features = [x * scale for x in features]
    fit_heads(rdn.heads, zip(features, before[traced.features], strict=True))


def following_norms(traced: Trace) -> dict[str, Step]:
    """Convolution step → the batch norm that alone reads it; only such a pair can be rescaled freely."""
    readers: dict[str, list[Step]] = {}
    for step in traced.steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    return {
        name: users[0]
        for name, users in readers.items()
        if len(users) == 1 and isinstance(users[0].module, nn.BatchNorm2d)
    }


def feature_norm(traced: Trace) -> Step | None:
    """The batch norm whose output reaches the classifier through pooling and flattening alone; None if there is none."""
    writer = {step.name: step for step in traced.steps}
    readers = [name for step in traced.steps for name in step.inputs]
    name = traced.features
    while name in writer:
        step = writer[name]
        if isinstance(step.module, nn.BatchNorm2d):
            return step
        if not (isinstance(step.module, LINEAR) or step.function == "flatten") or readers.count(step.inputs[0]) > 1:
            return None
        name = step.inputs[0]
    return None


def balance_groups(norm: NestedBatchNorm2d, features: list[Tensor]) -> Tensor:
    """Rescale the features (B, ΣC) of each group to unit variance, in `norm`; returns the scale of each channel (ΣC,).

    The heads are fitted afterwards, so the function stays the same; the steps of training do not. Features whose deviation
    is a few hundredths need a head with weights of a few dozens, and a step in the features' mean is then multiplied by
    them twice, in its gradient and in its effect: such a network diverges at learning rates that the super-net likes.
    """
    variance = torch.cat(features).var(dim=0)
    sizes = list(norm.space.sizes)
    scale = torch.cat([part.mean().clamp_min(1e-6).rsqrt().expand(len(part)) for part in variance.split(sizes)])
    norm.weight.mul_(scale)
    norm.bias.mul_(scale)
    return scale


def unfold(x: Tensor, conv: NestedConv2d) -> Tensor:
    """(B, C, H, W) → (B·positions, C·kh·kw), the rows that the convolution multiplies with its filters."""
    if conv.kernel_size == (1, 1):
        x = x[:, :, :: conv.stride[0], :: conv.stride[1]]
        return x.permute(0, 2, 3, 1).flatten(0, 2)
    columns = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)  # (B, C·kh·kw, positions)
    return columns.transpose(1, 2).flatten(0, 1)


def fit_conv(
    conv: NestedConv2d, norm: NestedBatchNorm2d | None, pairs: Iterable[tuple[Tensor, Tensor]], *, k: int
) -> None:
    """Fit each output group of `conv` (and the norm after it) to the targets of its original channels.

    pairs: batches of (input (B, ΣC_in, H, W), target (B, C_out, H', W') with channels in the order of groups 1…k).
    """
    rows = gram = cross = 0
    for x, target in pairs:
        features = unfold(x, conv).double()
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        rows += len(features)
        gram = gram + features.T @ features
        cross = cross + features.T @ target.permute(0, 2, 3, 1).flatten(0, 2).double()
    mean, target_mean = gram[-1, :-1] / rows, cross[-1] / rows
    if norm is None and conv.bias is None:  # nothing could hold an offset: fit the raw moments
        mean, target_mean = torch.zeros_like(mean), torch.zeros_like(target_mean)
    covariance = gram[:-1, :-1] / rows - mean.outer(mean)  # (F, F)
    cross = cross[:-1] / rows - mean.outer(target_mean)  # (F, C_out)

    taps = conv.kernel_size[0] * conv.kernel_size[1]
    offsets, fitted = conv.writes.offsets, {}
    for group, (weight, runs) in enumerate(zip(conv.weight, conv.runs, strict=True), start=1):
        read = torch.cat([torch.arange(a * taps, b * taps) for a, b in runs])
        partner = counterpart(group, k)
        wanted = cross[read, offsets[partner - 1] : offsets[partner]]
        offset = target_mean[offsets[partner - 1] : offsets[partner]]
        if partner != group:  # the residual of the counterpart, which already has the right mean
            partner_read, partner_filters = fitted[partner]
            wanted = wanted - covariance[read][:, partner_read] @ partner_filters
            offset = torch.zeros_like(offset)
        filters = ridge(covariance[read][:, read], wanted, RIDGE)  # (F_group, C_group)
        fitted[group] = read, filters
        channels = slice(offsets[group - 1], offsets[group])
        if norm is None:
            weight.copy_(filters.T.reshape(weight.shape))
            if conv.bias is not None:
                conv.bias[channels] = (offset - mean[read] @ filters).to(conv.bias.dtype)
            continue
        # Keep each filter's original norm: behind a batch norm only its direction counts, and a small norm means a large step.
        lengths = filters.norm(dim=0)
        scale = weight.flatten(1).norm(dim=1).double() / lengths.clamp_min(1e-12)
        scale = torch.where(lengths > 1e-9, scale, 1.0)
        filters = filters * scale
        weight.copy_(filters.T.reshape(weight.shape))
        variance = (filters * (covariance[read][:, read] @ filters)).sum(dim=0).clamp_min(0)
        _set_norm(norm, channels, mean=mean[read] @ filters, variance=variance, slope=1 / scale, offset=offset)


def fit_depthwise(
    conv: NestedDepthwiseConv2d, norm: NestedBatchNorm2d | None, pairs: Iterable[tuple[Tensor, Tensor]], *, k: int
) -> None:
    """Keep the filters and refit a slope and an offset per channel; a new group fits what its counterpart leaves over."""
    if norm is None:
        return
    sizes, last = conv.space.sizes, len(conv.space.sizes)
    of_original = torch.arange(sum(sizes[:k])).split(list(sizes[:k]))
    partner = torch.cat([of_original[counterpart(group, k) - 1] for group in range(1, last + 1)])  # (ΣC,)
    rows = moments = 0
    for x, target in pairs:
        u = conv(x, 1, last).double()  # (B, ΣC, H', W')
        t = target.double()[:, partner]
        u0 = u[:, partner]
        products = (u, t, u * u, u * t, u * u0)
        moments = moments + torch.stack([value.sum(dim=(0, 2, 3)) for value in products])
        rows += u.numel() // u.shape[1]
    mean, target_mean, square, with_target, with_partner = moments / rows
    variance = (square - mean**2).clamp_min(1e-12)
    slope = (with_target - mean * target_mean) / variance
    residual = with_target - mean * target_mean - slope[partner] * (with_partner - mean * mean[partner])
    new = torch.arange(len(mean)) >= sum(sizes[:k])
    slope = torch.where(new, residual / variance, slope)
    offset = torch.where(new, torch.zeros_like(target_mean), target_mean)
    _set_norm(norm, slice(None), mean=mean, variance=variance, slope=slope, offset=offset)


def fit_heads(heads: NestedHeads, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Align layers, group by group: each fits what those before leave over of the super-net's pooled features.

    pairs: batches of (the RDN's pooled features (B, ΣC), the super-net's (B, D)).
    """
    rows = gram = left = 0
    for x, target in pairs:
        x, target = x.double(), target.double()
        rows, gram, left = rows + len(x), gram + x.T @ x, left + x.T @ target
    gram, left = gram / rows, left / rows
    for group, align in enumerate(heads.align, start=1):
        channels = slice(heads.space.offsets[group - 1], heads.space.offsets[group])
        fit = ridge(gram[channels, channels], left[channels], HEAD_RIDGE)  # (C_group, D)
        align.copy_(fit.T)
        left = left - gram[:, channels] @ fit


def ridge(covariance: Tensor, cross: Tensor, strength: float) -> Tensor:
    """Solve (Σ + strength · mean(diag Σ) · I) W = cross."""
    penalty = strength * covariance.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve(covariance + penalty * torch.eye(len(covariance), dtype=covariance.dtype), cross)


def _set_norm(
    norm: NestedBatchNorm2d, channels: slice, *, mean: Tensor, variance: Tensor, slope: Tensor, offset: Tensor
) -> None:
    """Make norm(u) = slope · (u − mean) + offset for an input of this mean and variance."""
    norm.running_mean[channels] = mean.to(norm.running_mean.dtype)
    norm.running_var[channels] = variance.to(norm.running_var.dtype)
    norm.weight[channels] = (slope * (variance + norm.eps).sqrt()).to(norm.weight.dtype)
    norm.bias[channels] = offset.to(norm.bias.dtype)
