"""Least squares for one layer of an RDN, from second moments alone (the arithmetic of `reconstruct`).

Everything a fit needs is in the Gram matrices of a layer's inputs and its targets. They are summed in double precision over any
number of batches, a bounded number of rows at a time, so memory depends on the layer and not on the number of images.
"""

from collections.abc import Iterable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.nn.groups import counterpart, inflate
from rdnlib.nn.heads import NestedHeads, PrivateBatchNorm

RIDGE = 1e-3  # of the mean variance of the inputs; the same everywhere
HEAD_RIDGE = 1e-2  # heads that see one row an image, not one a position
ENTRIES = 1 << 25  # numbers in the largest working array

Pairs = Iterable[tuple[Tensor, Tensor]]  # batches of (what the layer reads, what each of its ΣC_out channels should be)


def ridge(covariance: Tensor, cross: Tensor, strength: float) -> Tensor:
    """Solve (Σ + strength · mean(diag Σ) · I) W = cross; leading dimensions are separate problems."""
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    penalty = strength * diagonal.mean(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.linalg.solve(covariance + torch.diag_embed(penalty.expand_as(diagonal)), cross)


class Moments:
    """Sums of z, z zᵀ and z tᵀ over samples: z (…, F, n), t (…, T, n) hold n of them; leading dimensions are separate problems.

    The products of one piece are taken in its own precision, which is much faster, and summed over the pieces in double.
    """

    def __init__(self) -> None:
        self.rows = self.first = self.target = self.gram = self.cross = 0

    def add(self, z: Tensor, t: Tensor) -> None:
        self.rows += z.shape[-1]
        self.first = self.first + z.sum(dim=-1).double()
        self.target = self.target + t.sum(dim=-1).double()
        self.gram = self.gram + (z @ z.mT).double()
        self.cross = self.cross + (z @ t.mT).double()

    def centred(self, *, offset: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(mean of z, mean of t, covariance of z, covariance of z and t); without `offset`, raw moments and means of 0."""
        mean, target_mean = self.first / self.rows, self.target / self.rows
        if not offset:
            mean, target_mean = torch.zeros_like(mean), torch.zeros_like(target_mean)
        covariance = self.gram / self.rows - mean[..., :, None] * mean[..., None, :]
        cross = self.cross / self.rows - mean[..., :, None] * target_mean[..., None, :]
        return mean, target_mean, covariance, cross


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C); (B, C) stays."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).flatten(0, 2)


def columns_of(x: Tensor) -> Tensor:
    """(B, C[, H, W]) → (C, B·H·W): all positions are samples of one problem."""
    return rows_of(x).mT


def columns_by_group(x: Tensor, groups: int) -> Tensor:
    """(B, G·F, H, W) → (G, F, B·H·W): a problem for each conv-group."""
    return x.flatten(2).unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(2)


def unfold(x: Tensor, conv: NestedConv2d | NestedGroupedConv2d) -> Tensor:
    """(B, C, H, W) → (B, C·kh·kw, H', W'), what the convolution multiplies with its filters; (B, C) stays."""
    if isinstance(conv, NestedLinear):
        return x
    if conv.kernel_size == (1, 1) and conv.padding == (0, 0):
        return x[:, :, :: conv.stride[0], :: conv.stride[1]]
    columns = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    return columns[..., None]  # all positions in one dimension


def in_pieces(x: Tensor, target: Tensor, conv) -> Iterable[tuple[Tensor, Tensor]]:
    """Cut a batch so that the unfolded inputs stay below ENTRIES numbers."""
    positions = target[0, 0].numel()
    images = max(1, ENTRIES // (positions * x.shape[1] * prod(conv.kernel_size)))
    return zip(x.split(images), target.split(images), strict=True)


def fit_dense(conv: NestedConv2d, norm: NestedBatchNorm2d | None, pairs: Pairs, *, k: int, residual=True) -> None:
    """Fit each output group of a convolution or Linear (and the norm after it) from what it may read.

    pairs: batches of (input (B, ΣC_in, H, W), target (B, ΣC_out, H', W')). With `residual`, new group k+m fits what its
    counterpart k−m leaves over of its target, and else the whole of it.
    """
    moments = Moments()
    for batch in pairs:
        for x, target in in_pieces(*batch, conv):
            moments.add(columns_of(unfold(x, conv)), columns_of(target))
    mean, target_mean, covariance, cross = moments.centred(offset=norm is not None or conv.bias is not None)

    offsets, fitted = conv.writes.offsets, {}
    for group, (weight, runs) in enumerate(zip(conv.weight, conv.runs, strict=True), start=1):
        read = torch.cat([torch.arange(a * conv.taps, b * conv.taps) for a, b in runs]).to(cross.device)
        channels = slice(offsets[group - 1], offsets[group])
        wanted, offset = cross[read, channels], target_mean[channels]
        partner = counterpart(group, k)
        if residual and partner != group:
            partner_read, partner_filters, partner_offset = fitted[partner]
            wanted = wanted - covariance[read][:, partner_read] @ partner_filters
            offset = offset - partner_offset
        own = covariance[read][:, read]
        filters = ridge(own, wanted, RIDGE)  # (F_group, C_group)
        fitted[group] = read, filters, offset
        _write(weight.data, conv.bias, norm, channels, filters=filters, mean=mean[read], covariance=own, offset=offset)


def fit_grouped(
    conv: NestedGroupedConv2d, norm: NestedBatchNorm2d | None, pairs: Pairs, *, k: int, residual: bool = True
) -> None:
    """Fit the filters of a grouped or depthwise convolution, every conv-group by itself; arguments as in `fit_dense`."""
    count = sum(conv.reads.sizes) // conv.weight.shape[1]  # conv-groups G
    outputs = len(conv.weight) // count
    sizes = [size // outputs for size in conv.writes.sizes[:k]]  # conv-groups of each original group
    partner = inflate(torch.arange(sum(sizes)).split(sizes))  # (G,) the conv-group that each completes, or itself
    new = slice(sum(sizes), count)
    own, with_partner = Moments(), Moments()
    for batch in pairs:
        for x, target in in_pieces(*batch, conv):
            z = columns_by_group(unfold(x, conv), count)  # (G, inputs·taps, n)
            own.add(z, columns_by_group(target, count))
            if residual:
                with_partner.add(z[new], z[partner[new]])
    has_offset = norm is not None or conv.bias is not None
    mean, offset, covariance, wanted = own.centred(offset=has_offset)
    filters = ridge(covariance, wanted, RIDGE)  # (G, inputs·taps, outputs)
    if residual:
        shared = with_partner.centred(offset=has_offset)[3]  # (new, inputs·taps, those of the partner)
        rest = wanted[new] - shared @ filters[partner[new]]
        filters[new] = ridge(covariance[new], rest, RIDGE)
        offset[new] = offset[new] - offset[partner[new]]
    weight = conv.weight.data.unflatten(0, (count, outputs))  # (G, outputs, inputs, kh, kw)
    _write(weight, conv.bias, norm, slice(None), filters=filters, mean=mean, covariance=covariance, offset=offset)


def _write(
    weight: Tensor, bias, norm, channels: slice, *, filters: Tensor, mean: Tensor, covariance: Tensor, offset: Tensor
) -> None:
    """Store fitted filters (…, F, C) so that the output is filtersᵀ (z − mean) + offset, in the weight and what follows it."""
    response = (mean[..., None, :] @ filters).squeeze(-2)  # (…, C) the filters' mean output
    if norm is None:
        weight.copy_(filters.mT.reshape(weight.shape))
        if bias is not None:
            bias.data[channels] = (offset - response).flatten().to(bias.dtype)
        return
    # Keep each filter's original norm: behind a batch norm only its direction counts, and a small norm means a large step.
    lengths = filters.norm(dim=-2)  # (…, C)
    original = weight.flatten(filters.ndim - 1).norm(dim=-1).double()
    scale = torch.where(lengths > 1e-9, original / lengths.clamp_min(1e-12), 1.0)
    filters = filters * scale[..., None, :]
    weight.copy_(filters.mT.reshape(weight.shape))
    if bias is not None:  # the norm holds the offset
        bias.data[channels] = 0
    variance = (filters * (covariance @ filters)).sum(dim=-2).clamp_min(0)
    _set_norm(norm, channels, mean=response * scale, variance=variance, slope=1 / scale, offset=offset)


def fit_heads(heads: NestedHeads, pairs: Pairs) -> None:
    """Align layers, group by group: each fits what those before leave over of what the classifier (or tail) should get.

    pairs: batches of (the RDN's features (B, ΣC[, H, W]), the target (B, D[, H, W])). Where a batch norm follows, each
    sub-network's own maps its z_i to the batch norm of the target.
    """
    moments = Moments()
    for x, target in pairs:
        moments.add(columns_of(x), columns_of(target))
    strength = RIDGE if x.ndim == 4 else HEAD_RIDGE
    norms = heads.tail.first_norms() if heads.tail is not None else None
    mean, target_mean, covariance, cross = moments.centred(offset=norms is not None or heads.bias is not None)
    left, fits = cross.clone(), []
    for group in range(len(heads.align)):
        channels = slice(heads.space.offsets[group], heads.space.offsets[group + 1])
        fits.append(ridge(covariance[channels, channels], left[channels], strength))  # (C_group, D)
        left = left - covariance[:, channels] @ fits[-1]
    if norms is not None:  # as in `_write`: only the direction of a row counts
        original = torch.cat([align.data for align in heads.align], dim=1).norm(dim=1).double()
        scale = original / torch.cat(fits).norm(dim=0).clamp_min(1e-12)
        fits = [fit * scale for fit in fits]
        _fit_private_norms(norms, torch.cat(fits), heads.space.offsets, mean, target_mean, covariance, cross)
    for align, fit in zip(heads.align, fits, strict=True):
        align.data.copy_(fit.T)
    if heads.bias is not None:
        heads.bias.data.copy_(target_mean - mean @ torch.cat(fits) if norms is None else torch.zeros_like(target_mean))


def _fit_private_norms(norms: PrivateBatchNorm, filters, offsets, mean, target_mean, covariance, cross) -> None:
    """Norm i maps z_i = A_1 x_1 + … + A_i x_i to the best estimate of the super-net's normalised value."""
    for index, norm in enumerate(norms):
        part = slice(0, offsets[index + 1])
        own = filters[part]  # (C_1 + … + C_i, D)
        variance = (own * (covariance[part, part] @ own)).sum(dim=0).clamp_min(1e-12)
        explained = (own * cross[part]).sum(dim=0) / variance  # slope of the target on z_i
        steepness = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        offset = steepness * (target_mean - norm.running_mean.double()) + norm.bias.double()
        slope = steepness * explained
        _set_norm(norm, slice(None), mean=mean[part] @ own, variance=variance, slope=slope, offset=offset)


def _set_norm(norm, channels: slice, *, mean: Tensor, variance: Tensor, slope: Tensor, offset: Tensor) -> None:
    """Make norm(u) = slope · (u − mean) + offset for an input of this mean and variance."""
    scale = slope * (variance + norm.eps).sqrt()
    values = {"running_mean": mean, "running_var": variance, "weight": scale, "bias": offset}
    for name, value in values.items():
        tensor = getattr(norm, name).data
        tensor[channels] = value.flatten().to(tensor.dtype)
