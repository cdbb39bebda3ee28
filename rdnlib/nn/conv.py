"""Layers of a Russian Doll Network (Section 3.2, equation 1, Figure 3).

A nested feature map holds its groups side by side along the channels: (B, C_1 + … + C_K, H, W). Every layer takes
`first` and `last` and returns only groups first…last, so the same code computes a whole network (1…K), a sub-network
(1…i) and the increment from one to the next (i+1…j). A channel-wise layer and the heads are given just those groups; a
nested convolution or Linear is given groups 1…last of its input, because it reads earlier groups again.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.nn.block_product import block_product
from rdnlib.nn.groups import Space, sources, split_channels


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
        self._keep_settings(conv)
        offsets = reads.offsets
        if reads.plain:
            parts = split_channels(reads.channels // reads.width, k)
            offsets = tuple(reads.width * sum(parts[:group]) for group in range(k + 1))
        self.sources = [sources(j, k, plain_input=reads.plain) for j in range(1, len(writes.sizes) + 1)]
        self.runs = [contiguous_runs(groups, offsets) for groups in self.sources]
        self.weight = nn.ParameterList(
            nn.Parameter(torch.zeros(size, sum(b - a for a, b in runs), *self.kernel_size))
            for size, runs in zip(writes.sizes, self.runs, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(sum(writes.sizes))) if conv.bias is not None else None
        self._positions: Tensor | None = None  # made when first needed: only `forward_dense` wants it

    def _keep_settings(self, conv: nn.Module) -> None:
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation

    @property
    def taps(self) -> int:
        """Weights for each pair of an input and an output channel."""
        return prod(self.kernel_size)

    def positions(self) -> Tensor:
        """Where each weight, flattened and concatenated over the groups, lies in the flattened dense weight."""
        taps = self.taps
        dense = torch.arange(sum(self.writes.sizes) * self.reads.channels_nested * taps)
        rows = dense.view(-1, self.reads.channels_nested, taps).split(list(self.writes.sizes))
        kept = [torch.cat([row[:, a:b] for a, b in runs], dim=1) for row, runs in zip(rows, self.runs, strict=True)]
        return torch.cat([block.flatten() for block in kept]).to(self.weight[0].device)

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """(B, channels of groups 1…last, H, W) → (B, channels of groups first…last, H', W')."""
        if self.training and (first, last) == (1, len(self.weight)):
            return self.forward_in_training(x)
        return self.forward_by_group(x, first, last)

    def forward_in_training(self, x: Tensor) -> Tensor:
        """All groups, each way where it is the fastest; equal up to rounding.

        A CPU does just the blocks that remain. A GPU, a compiler, and a CPU in bfloat16 prefer one large convolution.
        """
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return self.forward_dense(x)
        if self.taps == 1 and not any(self.padding):
            return self.forward_by_block(x)
        return self.forward_by_group(x, 1, len(self.weight))

    def forward_by_block(self, x: Tensor) -> Tensor:
        """All groups of a layer without spatial extent: only products of matrices."""
        if self.kernel_size:
            x = x[..., :: self.stride[0], :: self.stride[1]].movedim(1, -1)
        product = block_product(x.reshape(-1, x.shape[-1]), [w.flatten(1) for w in self.weight], self.runs)
        product = product if self.bias is None else product + self.bias
        product = product.view(*x.shape[:-1], -1)
        return product.movedim(-1, 1) if self.kernel_size else product

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

    def forward_dense(self, x: Tensor) -> Tensor:
        """All groups as one large convolution with zeros for the absent blocks: k = 4 computes 49 blocks, and needs 19."""
        return self._convolve(x, self.dense_weight(), self.bias)

    def dense_weight(self) -> Tensor:
        """(ΣC_out, ΣC_in, kh, kw)."""
        flat = torch.cat([weight.flatten() for weight in self.weight])
        if self._positions is None or self._positions.device != flat.device:
            self._positions = self.positions()
        shape = (sum(self.writes.sizes), self.reads.channels_nested, *self.kernel_size)
        empty = flat.new_zeros(prod(shape))
        return empty.index_copy(0, self._positions, flat).view(shape)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def restrict(self, upto: int) -> "NestedConv2d":
        """A copy that holds output groups 1…upto only."""
        writes = self.writes.restrict(upto)
        copy = type(self)(self, k=self.k, reads=self.reads.restrict(upto), writes=writes)
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


class NestedLinear(NestedConv2d):
    """A fully-connected layer in which output group j reads only the input groups `sources(j)`: (B, ΣC_in) → (B, ΣC_out).

    `weight[j−1]` has shape (C_out_j, Σ C_in_i).
    """

    def _keep_settings(self, conv: nn.Module) -> None:
        self.kernel_size = self.padding = ()

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{self.reads.sizes} → {self.writes.sizes}"


def row_owners(space: Space) -> Tensor:
    """(ΣC,) the 1-based group of each channel of a space."""
    return torch.repeat_interleave(torch.arange(1, len(space.sizes) + 1), torch.tensor(space.sizes))


class NestedGroupedConv2d(nn.Module):
    """Inflated grouped (depthwise) convolution: group k+m starts as a copy of its counterpart, conv-groups stay whole.

    `weight` has shape (ΣC_out, inputs per conv-group, kh, kw).
    """

    def __init__(self, conv: nn.Module, *, reads: Space, writes: Space):
        super().__init__()
        self.reads, self.writes = reads, writes
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.padding, self.dilation = conv.padding, conv.dilation
        self.inputs_per_group = conv.weight.shape[1]
        self.weight = nn.Parameter(torch.zeros(sum(writes.sizes), *conv.weight.shape[1:]))
        self.bias = nn.Parameter(torch.zeros(sum(writes.sizes))) if conv.bias is not None else None

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """Groups first…last in, the same groups out."""
        a, b = self.writes.offsets[first - 1], self.writes.offsets[last]
        bias = None if self.bias is None else self.bias[a:b]
        conv_groups = x.shape[1] // self.inputs_per_group
        return F.conv2d(x, self.weight[a:b], bias, self.stride, self.padding, self.dilation, groups=conv_groups)

    def restrict(self, upto: int) -> "NestedGroupedConv2d":
        copy = NestedGroupedConv2d(self, reads=self.reads.restrict(upto), writes=self.writes.restrict(upto))
        copy.weight.data.copy_(self.weight[: len(copy.weight)])
        if self.bias is not None:
            copy.bias.data.copy_(self.bias[: len(copy.bias)])
        return copy

    def owners(self) -> dict[str, Tensor]:
        return {name: row_owners(self.writes) for name, _ in self.named_parameters()}

    def extra_repr(self) -> str:
        return f"{self.reads.sizes} → {self.writes.sizes}, kernel_size={self.kernel_size}, stride={self.stride}"


class NestedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over nested groups, of feature maps or of flat features. A channel's input is the same in every
    sub-network, so one set of statistics serves all of them. Always with a slope and an offset for each channel."""

    def __init__(self, norm: nn.Module, *, space: Space):
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
