"""Ridge regression for one layer of an RDN, from second moments alone (the arithmetic of `reconstruct`).

Everything a fit needs is in the Gram matrices of a layer's inputs and its targets. They are summed in double precision over any
number of batches, so memory depends on the layer and not on the number of images. How strong the ridge of an output channel is,
images decide that are not fitted: of several strengths, the one that predicts them best.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.nn.groups import counterpart, inflate
from rdnlib.nn.heads import NestedHeads, PrivateBatchNorm

RIDGE = 1e-2  # of the mean variance of the inputs, where no images are held out
STRENGTHS = (1.0, 0.3, 0.1, 0.03, 1e-2, 3e-3, 1e-3, 1e-4)  # to choose from
WORTH = 0.01  # of what a fit explains: so much more must a weaker ridge explain, which makes larger filters
HELD_OUT = 8  # every so-manieth image is held out
ROWS = 1 << 16  # positions of all images together that a layer is fitted to …
GROUPED_ROWS = 1 << 11  # … and one of conv-groups, each of which has just a few inputs
BLOCK = 64  # images with the same positions

Pairs = Iterable[tuple[Tensor, Tensor]]  # batches of (what the layer reads, what each of its ΣC_out channels should be)


@dataclass(frozen=True)
class Sampling:
    """What a fit takes of its images, and how it chooses the ridge.

    rows: about how many positions of all `images` together, drawn at random (None: all). held_out: every so-manieth image is not fitted
    (0: none). strengths: of the ridge, relative to the mean variance of the inputs; without images held out it is RIDGE.
    """

    rows: int | None = None
    images: int = 1
    held_out: int = HELD_OUT
    strengths: tuple[float, ...] = STRENGTHS

    @property
    def positions(self) -> int | None:
        """Of each image."""
        return None if self.rows is None else max(1, self.rows // max(1, self.images))

    def split(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Masks (count,) of the images to fit and of those held out, for images number first, first + 1, … of all."""
        number = torch.arange(first, first + count)
        held_out = (
            number % self.held_out == self.held_out - 1 if self.held_out else torch.zeros(count, dtype=torch.bool)
        )
        return ~held_out, held_out


def ridge(covariance: Tensor, cross: Tensor, strengths: Iterable[float]) -> Tensor:
    """Solve (Σ + strength · mean(diag Σ) · I) W = cross for each output by the strength that suits it best.

    covariance (P, …, F, F), cross (P, …, F, T): moments of the images to fit and, where P = 2, of those held out, whose squared
    error ‖t − Wᵀz‖² chooses the strength of each of the T outputs: from the first on, the next that lowers it by more than WORTH
    of what is explained already. Large filters are close to the calibration images, and training with them diverges. Where P = 1 the
    strength is RIDGE. Leading dimensions are separate problems. Returns (…, F, T).
    """
    (sigma, target), checks = (covariance[0], cross[0]), len(covariance) > 1
    diagonal = sigma.diagonal(dim1=-2, dim2=-1)
    scale = diagonal.mean(dim=-1, keepdim=True).clamp_min(1e-12)
    best, least = torch.zeros_like(target), torch.full_like(target[..., 0, :], torch.inf)
    for strength in strengths if checks else (RIDGE,):
        penalised = sigma + torch.diag_embed((strength * scale).expand_as(diagonal))
        factor, failed = torch.linalg.cholesky_ex(penalised)  # rounding may have made a small eigenvalue negative
        weights = torch.cholesky_solve(target, factor)
        error = (
            (weights * (covariance[-1] @ weights - 2 * cross[-1])).sum(dim=-2) if checks else torch.zeros_like(least)
        )
        needed = torch.where(least.isfinite(), least - WORTH * least.abs(), least)
        better = (error < needed) & (failed == 0)[..., None] & weights.isfinite().all(dim=-2)
        best = torch.where(better[..., None, :], weights, best)
        least = torch.where(better, error, least)
    return best


class Moments:
    """Sums of z, t, z zᵀ and z tᵀ over samples: z (…, F, n), t (…, T, n) hold n of them; leading dimensions are separate problems.

    The products of one piece are taken in its own precision, which is much faster, and summed over the pieces in double. So that a
    small variance about a large mean survives that, all values are taken less the means of the first piece.
    """

    def __init__(self) -> None:
        self.rows = self.first = self.target = self.gram = self.cross = 0
        self.origin: tuple[Tensor, Tensor] | None = None

    def add(self, z: Tensor, t: Tensor) -> None:
        if self.origin is None:
            self.origin = z.mean(dim=-1), t.mean(dim=-1)
        z, t = (value - origin[..., None] for value, origin in zip((z, t), self.origin, strict=True))
        self.rows += z.shape[-1]
        self.first = self.first + z.sum(dim=-1).double()
        self.target = self.target + t.sum(dim=-1).double()
        self.gram = self.gram + (z @ z.mT).double()
        self.cross = self.cross + (z @ t.mT).double()

    def means(self, *, offset: bool = True) -> tuple[Tensor, Tensor]:
        """Of z and of t; without `offset`, zeros."""
        own, target = (
            origin.double() + mean / self.rows
            for origin, mean in zip(self.origin, (self.first, self.target), strict=True)
        )
        return (own, target) if offset else (torch.zeros_like(own), torch.zeros_like(target))

    def about(self, mean: Tensor, target_mean: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (z − mean)(z − mean)ᵀ and (z − mean)(t − target_mean)ᵀ."""
        own, other = mean - self.origin[0], target_mean - self.origin[1]
        first, target = self.first / self.rows, self.target / self.rows
        column, shifted = own[..., :, None], (first - own)[..., :, None]
        gram = self.gram / self.rows - column * first[..., None, :] - shifted * own[..., None, :]
        cross = self.cross / self.rows - column * target[..., None, :] - shifted * other[..., None, :]
        return gram, cross


class SplitMoments:
    """Moments of the images to fit, and of those held out to choose the ridge."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self.images = sampling, 0
        self.parts = Moments(), Moments()

    def pieces(self, x: Tensor, target: Tensor, conv) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor]]]:
        """`samples` of the next images and the masks of `Sampling.split`; they do not depend on how the images come in batches."""
        start, end = self.images, self.images + len(x)
        self.images = end
        edges = [start, *range(start - start % BLOCK + BLOCK, end, BLOCK), end]
        for first, last in pairwise(edges):
            generator = torch.Generator().manual_seed(first // BLOCK)
            own = slice(first - start, last - start)
            z, t = samples(x[own], target[own], conv, self.sampling.positions, generator)
            yield z, t, self.sampling.split(first, last - first)

    def add(self, pairs: Pairs, layer) -> None:
        """All positions and images as samples of one problem."""
        for batch in pairs:
            for z, t, masks in self.pieces(*batch, layer):
                for part, own in zip(self.parts, masks, strict=True):
                    if own.any():
                        part.add(columns_of(z[own]), columns_of(t[own]))

    def centred(self, *, offset: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(means of z and t over the images to fit, moments about them (P, …): of z, of z and t), P as `ridge` takes it."""
        means = self.parts[0].means(offset=offset)
        moments = [part.about(*means) for part in self.parts if part.rows]
        return *means, *(torch.stack(same) for same in zip(*moments, strict=True))


def rows_of(x: Tensor) -> Tensor:
    """(B, C, H, W) → (B·H·W, C); (B, C) stays."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).flatten(0, 2)


def columns_of(x: Tensor) -> Tensor:
    """(B, C[, H, W]) → (C, B·H·W): all positions are samples of one problem."""
    return rows_of(x).mT


def columns_by_group(x: Tensor, groups: int) -> Tensor:
    """(B, G·F, H, W) → (G, F, B·H·W): a problem for each conv-group."""
    return x.flatten(2).unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(2)


def samples(
    x: Tensor,
    target: Tensor,
    conv: NestedConv2d | NestedGroupedConv2d,
    positions: int | None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """What a convolution multiplies with its filters, and its target, at random positions, the same in all images.

    x (B, C, H, W), target (B, T, H', W') → (B, C·kh·kw, P, 1) and (B, T, P, 1); for a Linear or align layer all of them.
    """
    if not isinstance(conv, (NestedConv2d, NestedGroupedConv2d)) or isinstance(conv, NestedLinear):
        return x, target
    height, width = target.shape[2:]
    chosen = torch.arange(height * width)
    if positions is not None and positions < len(chosen):
        chosen = torch.randperm(len(chosen), generator=generator)[:positions].sort().values
    rows, columns = chosen // width, chosen % width
    offsets = [torch.arange(size) * step for size, step in zip(conv.kernel_size, conv.dilation, strict=True)]
    y = (rows * conv.stride[0])[None] + offsets[0].repeat_interleave(len(offsets[1]))[:, None]  # (kh·kw, P)
    z = (columns * conv.stride[1])[None] + offsets[1].repeat(len(offsets[0]))[:, None]
    padded = F.pad(x, (conv.padding[1],) * 2 + (conv.padding[0],) * 2) if any(conv.padding) else x
    where = (y * padded.shape[3] + z).flatten().to(x.device)
    taps = padded.flatten(2).index_select(2, where).unflatten(2, y.shape)  # (B, C, kh·kw, P)
    return taps.flatten(1, 2)[..., None], target.flatten(2).index_select(2, chosen.to(x.device))[..., None]


def fit_dense(
    conv: NestedConv2d,
    norm: NestedBatchNorm2d | None,
    pairs: Pairs,
    *,
    k: int,
    residual=True,
    sampling: Sampling | None = None,
) -> None:
    """Fit each output group of a convolution or Linear (and the norm after it) from what it may read.

    pairs: batches of (input (B, ΣC_in, H, W), target (B, ΣC_out, H', W')). With `residual`, new group k+m fits what its
    counterpart k−m leaves over of its target, and else the whole of it.
    """
    sampling = Sampling() if sampling is None else sampling
    moments = SplitMoments(sampling)
    moments.add(pairs, conv)
    mean, target_mean, covariance, cross = moments.centred(offset=norm is not None or conv.bias is not None)

    offsets, fitted = conv.writes.offsets, {}
    for group, (weight, runs) in enumerate(zip(conv.weight, conv.runs, strict=True), start=1):
        read = torch.cat([torch.arange(a * conv.taps, b * conv.taps) for a, b in runs]).to(cross.device)
        channels = slice(offsets[group - 1], offsets[group])
        wanted, offset = cross[:, read, channels], target_mean[channels]
        partner = counterpart(group, k)
        if residual and partner != group:
            partner_read, partner_filters, partner_offset = fitted[partner]
            wanted = wanted - covariance[:, read][:, :, partner_read] @ partner_filters
            offset = offset - partner_offset
        own = covariance[:, read][:, :, read]
        filters = ridge(own, wanted, sampling.strengths)  # (F_group, C_group)
        fitted[group] = read, filters, offset
        _write(
            weight.data, conv.bias, norm, channels, filters=filters, mean=mean[read], covariance=own[0], offset=offset
        )


def fit_grouped(
    conv: NestedGroupedConv2d, norm: NestedBatchNorm2d | None, pairs: Pairs, *, k: int, residual: bool = True,
    sampling: Sampling | None = None,
) -> None:  # fmt: skip
    """Fit the filters of a grouped or depthwise convolution, every conv-group by itself; arguments as in `fit_dense`."""
    count = sum(conv.reads.sizes) // conv.weight.shape[1]  # conv-groups G
    outputs = len(conv.weight) // count
    sizes = [size // outputs for size in conv.writes.sizes[:k]]  # conv-groups of each original group
    partner = inflate(torch.arange(sum(sizes)).split(sizes))  # (G,) the conv-group that each completes, or itself
    new = slice(sum(sizes), count)
    sampling = Sampling() if sampling is None else sampling
    own, with_partner = SplitMoments(sampling), SplitMoments(sampling)
    for batch in pairs:
        for *sampled, masks in own.pieces(*batch, conv):
            for part, shared, images in zip(own.parts, with_partner.parts, masks, strict=True):
                if images.any():
                    z, t = (columns_by_group(value[images], count) for value in sampled)  # (G, inputs·taps, n)
                    part.add(z, t)
                    if residual:
                        shared.add(z[new], z[partner[new]])
    has_offset = norm is not None or conv.bias is not None
    mean, offset, covariance, wanted = own.centred(offset=has_offset)
    filters = ridge(covariance, wanted, sampling.strengths)  # (G, inputs·taps, outputs)
    if residual:
        between = with_partner.centred(offset=has_offset)[3]  # (P, new, inputs·taps, those of the partner)
        rest = wanted[:, new] - between @ filters[partner[new]]
        filters[new] = ridge(covariance[:, new], rest, sampling.strengths)
        offset[new] = offset[new] - offset[partner[new]]
    weight = conv.weight.data.unflatten(0, (count, outputs))  # (G, outputs, inputs, kh, kw)
    _write(weight, conv.bias, norm, slice(None), filters=filters, mean=mean, covariance=covariance[0], offset=offset)


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
    scale = _rescaling(filters, weight.flatten(filters.ndim - 1).norm(dim=-1).double())  # (…, C)
    filters = filters * scale[..., None, :]
    weight.copy_(filters.mT.reshape(weight.shape))
    if bias is not None:  # the norm holds the offset
        bias.data[channels] = 0
    variance = (filters * (covariance @ filters)).sum(dim=-2).clamp_min(0)
    _set_norm(norm, channels, mean=response * scale, variance=variance, slope=1 / scale, offset=offset)


def _rescaling(filters: Tensor, original: Tensor) -> Tensor:
    """The factors (…, C) that give filters (…, F, C) the lengths (…, C) of the super-net's.

    Behind a batch norm only a filter's direction counts, and a short one is turned far by a step of training. A filter that weight
    decay has driven to zero is no measure: then it is a tenth of the layer's median that counts.
    """
    lengths = filters.norm(dim=-2)
    alive = original[original > 0]
    least = 0.1 * alive.median() if len(alive) else original.new_ones(())
    return torch.where(lengths > 1e-9, original.clamp_min(least) / lengths.clamp_min(1e-9), 1.0)


def fit_heads(heads: NestedHeads, pairs: Pairs, *, sampling: Sampling | None = None) -> None:
    """Align layers, group by group: each fits what those before leave over of what the classifier (or tail) should get.

    pairs: batches of (the RDN's features (B, ΣC[, H, W]), the target (B, D[, H, W])). Where a batch norm follows, each
    sub-network's own maps its z_i to the batch norm of the target.
    """
    sampling = Sampling() if sampling is None else sampling
    moments = SplitMoments(sampling)
    moments.add(pairs, heads)
    norms = heads.tail.first_norms() if heads.tail is not None else None
    mean, target_mean, covariance, cross = moments.centred(offset=norms is not None or heads.bias is not None)
    left, fits = cross.clone(), []
    for group in range(len(heads.align)):
        channels = slice(heads.space.offsets[group], heads.space.offsets[group + 1])
        fits.append(ridge(covariance[:, channels, channels], left[:, channels], sampling.strengths))  # (C_group, D)
        left = left - covariance[:, :, channels] @ fits[-1]
    if norms is not None:  # as in `_write`: only the direction of a row counts
        original = torch.cat([align.data for align in heads.align], dim=1).norm(dim=1).double()
        scale = _rescaling(torch.cat(fits), original)
        fits = [fit * scale for fit in fits]
        _fit_private_norms(norms, torch.cat(fits), heads.space.offsets, mean, target_mean, covariance[0], cross[0])
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
