"""Layers of a Russian Doll Network (Section 3.2, equation 1, Figure 3).

A nested feature map holds its groups side by side along the channels: (B, C_1 + … + C_K, H, W). Every layer takes
`first` and `last` and returns only groups first…last, so the same code computes a whole network (1…K), a sub-network
(1…i) and the increment from one to the next (i+1…j). A channel-wise layer is given just those groups; a nested
convolution and the heads are given groups 1…last of their input, because they read earlier groups again.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.spaces import Space, sources, split_channels


def contiguous_runs(groups: Sequence[int], offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Channel ranges [start, stop) covered by `groups` (1-based, ascending), neighbours merged."""
    runs: list[tuple[int, int]] = []
    for group in groups:
        start, stop = offsets[group - 1], offsets[group]
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return runs


class NestedConv2d(nn.Module):
    """A convolution in which output group j reads only the input groups `sources(j)`.

    `weight[j−1]` has shape (C_out_j, Σ C_in_i over the sources i, kh, kw): the blocks that remain, nothing masked.
    """

    def __init__(self, conv: nn.Conv2d, *, k: int, reads: Space, writes: Space):
        super().__init__()
        self.k, self.reads, self.writes = k, reads, writes
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.kernel_size = conv.kernel_size
        offsets = reads.offsets
        if reads.plain:
            parts = split_channels(reads.channels, k)
            offsets = tuple(sum(parts[:group]) for group in range(k + 1))
        self.sources = [sources(j, k, plain_input=reads.plain) for j in range(1, len(writes.sizes) + 1)]
        self.runs = [contiguous_runs(groups, offsets) for groups in self.sources]
        self.weight = nn.ParameterList(
            nn.Parameter(torch.zeros(size, sum(b - a for a, b in runs), *conv.kernel_size))
            for size, runs in zip(writes.sizes, self.runs, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(sum(writes.sizes))) if conv.bias is not None else None
        self.register_buffer("positions", self._positions(), persistent=False)

    def _positions(self) -> Tensor:
        """Where each weight, flattened and concatenated over the groups, lies in the flattened dense weight."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        dense = torch.arange(sum(self.writes.sizes) * self.reads.channels_nested * taps)
        rows = dense.view(-1, self.reads.channels_nested, taps).split(list(self.writes.sizes))
        kept = [torch.cat([row[:, a:b] for a, b in runs], dim=1) for row, runs in zip(rows, self.runs, strict=True)]
        return torch.cat([block.flatten() for block in kept])

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """(B, channels of groups 1…last, H, W) → (B, channels of groups first…last, H', W')."""
        if self.training and (first, last) == (1, len(self.weight)):
            return self._convolve(x, self.dense_weight(), self.bias)
        return self.forward_by_group(x, first, last)

    def forward_by_group(self, x: Tensor, first: int, last: int) -> Tensor:
        """The definition: one convolution per output group over just its sources. Exact MAdds, and no value of a later
        group can touch an earlier one."""
        offsets = self.writes.offsets
        outputs = []
        for group in range(first, last + 1):
            read = [x[:, a:b] for a, b in self.runs[group - 1]]  # each (B, C_i, H, W)
            bias = None if self.bias is None else self.bias[offsets[group - 1] : offsets[group]]
            source = read[0] if len(read) == 1 else torch.cat(read, dim=1)
            outputs.append(self._convolve(source, self.weight[group - 1], bias))
        return torch.cat(outputs, dim=1)

    def dense_weight(self) -> Tensor:
        """All groups as one weight (ΣC_out, ΣC_in, kh, kw) with zeros for absent blocks.

        One large convolution is faster than 2k−1 small ones when everything is computed anyway, as in training.
        """
        flat = torch.cat([weight.flatten() for weight in self.weight])
        shape = (sum(self.writes.sizes), self.reads.channels_nested, *self.kernel_size)
        empty = flat.new_zeros(shape[0] * shape[1] * shape[2] * shape[3])
        return empty.index_copy(0, self.positions, flat).view(shape)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def restrict(self, upto: int) -> "NestedConv2d":
        """A copy that holds output groups 1…upto only."""
        writes = self.writes.restrict(upto)
        copy = NestedConv2d(self, k=self.k, reads=self.reads.restrict(upto), writes=writes)
        for mine, theirs in zip(copy.weight, self.weight, strict=False):
            mine.data.copy_(theirs)
        if self.bias is not None:
            copy.bias.data.copy_(self.bias[: sum(writes.sizes)])
        return copy

    def owners(self) -> dict[str, Tensor]:
        """For each parameter, the group (1-based) that owns each of its rows."""
        owned = {
            f"weight.{group - 1}": torch.full((size,), group) for group, size in enumerate(self.writes.sizes, start=1)
        }
        return owned if self.bias is None else {**owned, "bias": row_owners(self.writes)}

    def extra_repr(self) -> str:
        return f"{self.reads.sizes} → {self.writes.sizes}, kernel_size={self.kernel_size}, stride={self.stride}"


def row_owners(space: Space) -> Tensor:
    """(ΣC,) the 1-based group of each channel of a space."""
    return torch.repeat_interleave(torch.arange(1, len(space.sizes) + 1), torch.tensor(space.sizes))


class NestedDepthwiseConv2d(nn.Module):
    """Inflated depthwise convolution: group k+m starts as a copy of its counterpart."""

    def __init__(self, conv: nn.Conv2d, *, space: Space):
        super().__init__()
        self.space = space
        self.kernel_size, self.stride, self.padding, self.dilation = (
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
        )
        self.weight = nn.Parameter(torch.zeros(sum(space.sizes), 1, *conv.kernel_size))
        self.bias = nn.Parameter(torch.zeros(sum(space.sizes))) if conv.bias is not None else None

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """Groups first…last in, the same groups out."""
        a, b = self.space.offsets[first - 1], self.space.offsets[last]
        bias = None if self.bias is None else self.bias[a:b]
        return F.conv2d(x, self.weight[a:b], bias, self.stride, self.padding, self.dilation, groups=b - a)

    def restrict(self, upto: int) -> "NestedDepthwiseConv2d":
        copy = NestedDepthwiseConv2d(self, space=self.space.restrict(upto))
        copy.weight.data.copy_(self.weight[: len(copy.weight)])
        if self.bias is not None:
            copy.bias.data.copy_(self.bias[: len(copy.bias)])
        return copy

    def owners(self) -> dict[str, Tensor]:
        return {name: row_owners(self.space) for name, _ in self.named_parameters()}

    def extra_repr(self) -> str:
        return f"{self.space.sizes}, kernel_size={self.kernel_size}, stride={self.stride}"


class NestedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over nested groups. A channel's input is the same in every sub-network, so one set of
    statistics serves all of them."""

    def __init__(self, norm: nn.BatchNorm2d, *, space: Space):
        super().__init__(sum(space.sizes), eps=norm.eps, momentum=norm.momentum)
        self.space = space

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """Groups first…last in, the same groups out."""
        part = slice(self.space.offsets[first - 1], self.space.offsets[last])
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # torch's convention: the mean over all batches so far
                momentum = 1 / int(self.num_batches_tracked)
        return F.batch_norm(
            x,
            self.running_mean[part],  # a view: training updates the statistics of just these groups
            self.running_var[part],
            self.weight[part],
            self.bias[part],
            self.training,
            momentum or 0.0,
            self.eps,
        )

    def restrict(self, upto: int) -> "NestedBatchNorm2d":
        copy = NestedBatchNorm2d(self, space=self.space.restrict(upto))
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(copy, name).data.copy_(getattr(self, name)[: copy.num_features])
        return copy

    def owners(self) -> dict[str, Tensor]:
        return {name: row_owners(self.space) for name in ("weight", "bias", "running_mean", "running_var")}


class NestedHeads(nn.Module):
    """Align layers and the shared classifier: z_i = Σ_{j≤i} A_j x_j, logits_i = classifier(z_i).

    `align[j−1]` has shape (D, C_j), D the classifier's input width. Going from N_i to N_{i+1} adds one product.
    """

    def __init__(self, classifier: nn.Linear, *, space: Space):
        super().__init__()
        self.space = space
        self.align = nn.ParameterList(nn.Parameter(torch.zeros(classifier.in_features, size)) for size in space.sizes)
        self.classifier = nn.Linear(classifier.in_features, classifier.out_features, bias=classifier.bias is not None)
        self.classifier.load_state_dict(classifier.state_dict())

    def forward(self, x: Tensor, first: int, last: int, aligned: Tensor | None = None) -> Tensor:
        """Pooled features of groups first…last (B, ΣC) and z_{first−1} → z_first…z_last as (B, last−first+1, D)."""
        parts = x.split(list(self.space.sizes[first - 1 : last]), dim=1)
        z = [] if aligned is None else [aligned]
        for part, align in zip(parts, self.align[first - 1 : last], strict=True):
            step = F.linear(part, align)
            z.append(step if not z else z[-1] + step)
        return torch.stack(z if aligned is None else z[1:], dim=1)

    def restrict(self, upto: int) -> "NestedHeads":
        copy = NestedHeads(self.classifier, space=self.space.restrict(upto))
        for mine, theirs in zip(copy.align, self.align, strict=False):
            mine.data.copy_(theirs)
        return copy

    def owners(self) -> dict[str, Tensor]:
        rows = self.classifier.in_features
        return {f"align.{group}": torch.full((rows,), group + 1) for group in range(len(self.align))}
