"""Nested layers (Section 3.2, equation 1, Figure 3).

A nested feature map holds its groups side by side along the channels, X = [X_1, …, X_K], (B, C_1 + … + C_K, H, W). Every layer takes
`first` and `last` and returns only groups first…last, so the same code computes a whole network (1…K), a sub-network N_i (1…i)
and the increment from N_i to N_j (i+1…j). A channel-wise layer is given just those groups; a nested convolution or Linear is given
groups 1…last of its input, because it reads earlier groups again.
"""

from collections.abc import Sequence
from math import prod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.nn import depthwise
from rdnlib.nn.block_product import block_product
from rdnlib.nn.groups import Space, sources


class NestedLayer:
    """A module whose output channels, in groups as in the space `writes`, are the rows of its parameters.

    `restrict(upto)` gives a copy that holds output groups 1…upto only.
    """

    writes: Space

    def owners(self) -> dict[str, Tensor]:
        """For each parameter and statistic, the group (from 1) that owns each of its rows."""
        return {name: self.writes.owners() for name, tensor in self.state_dict().items() if tensor.ndim}

    def copy_rows(self, other: Self) -> Self:
        """Take over the first rows of another's parameters and statistics; returns itself."""
        tensors = other.state_dict()
        for name, tensor in self.state_dict().items():
            if tensor.ndim:
                tensor.copy_(tensors[name][: len(tensor)])
        return self


class NestedConv2d(NestedLayer, nn.Module):
    """A convolution in which output group j reads only the input groups S(j) = `sources(j)`.

    `weight[j−1]` has shape (C_out_j, Σ C_in_i over i in S(j), kh, kw): the blocks that remain, nothing masked.
    """

    reads_earlier_groups = True  # so a network that grows keeps this layer's input, see `Trunk.forward`

    def __init__(self, conv: nn.Module, *, k: int, reads: Space, writes: Space):
        super().__init__()
        self.k, self.reads, self.writes = k, reads, writes
        self.kernel_size, self.stride, self.padding, self.dilation = _geometry(conv)
        offsets = reads.offsets_for_reading(k)
        self.sources = [sources(j, k, plain_input=reads.plain) for j in range(1, len(writes.sizes) + 1)]
        self.runs = [contiguous_runs(groups, offsets) for groups in self.sources]
        self.weight = nn.ParameterList(
            nn.Parameter(torch.zeros(size, sum(stop - start for start, stop in runs), *self.kernel_size))
            for size, runs in zip(writes.sizes, self.runs, strict=True)
        )
        self.bias = nn.Parameter(torch.zeros(sum(writes.sizes))) if conv.bias is not None else None
        self._positions: Tensor | None = None  # see `dense_weight`

    def forward_by_group(self, x: Tensor, first: int, last: int) -> Tensor:
        """The definition: Y_j = Σ_{i ∈ S(j)} W_{i→j} ∗ X_i + b_j, one convolution per output group j = first…last (equation 1).

        It costs exactly the MAdds of these groups, and no value of a later group can touch an earlier one.
        """
        outputs = []
        for j in range(first, last + 1):
            X = join([channels(x, *run) for run in self.runs[j - 1]])  # X_i of all i in S(j), (B, Σ C_in_i, H, W)
            b = None if self.bias is None else self.bias[self.writes.offsets[j - 1] : self.writes.offsets[j]]
            outputs.append(self._convolve(X, self.weight[j - 1], b))  # Y_j: (B, C_out_j, H', W')
        return join(outputs)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """(B, channels of groups 1…last, H, W) → (B, channels of groups first…last, H', W').

        Where all groups are trained together, a faster way that is equal up to rounding.
        """
        if self.training and (first, last) == (1, len(self.weight)):
            if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
                return self.forward_dense(x)
            if self.taps == 1 and not any(self.padding):
                return self.forward_by_block(x)
        return self.forward_by_group(x, first, last)

    def forward_dense(self, x: Tensor) -> Tensor:
        """All groups as one convolution with zeros for the absent blocks: a GPU, a compiler and bfloat16 prefer one large
        product (49 blocks for the 19 that k = 4 needs) to many small ones."""
        return self._convolve(x, self.dense_weight(), self.bias)

    def forward_by_block(self, x: Tensor) -> Tensor:
        """All groups of a layer without spatial extent as products of matrices: on a CPU the joint step of ResNet-18 takes 1.3
        times its base network's time this way, and 3.4 times group by group."""
        if self.kernel_size:
            x = x[..., :: self.stride[0], :: self.stride[1]].movedim(1, -1)  # (B, H', W', ΣC_in)
        product = block_product(x.reshape(-1, x.shape[-1]), [w.flatten(1) for w in self.weight], self.runs)
        product = product if self.bias is None else product + self.bias
        product = product.view(*x.shape[:-1], -1)
        return product.movedim(-1, 1) if self.kernel_size else product

    @property
    def taps(self) -> int:
        """Weights for each pair of an input and an output channel."""
        return prod(self.kernel_size)

    def dense_weight(self) -> Tensor:
        """(ΣC_out, ΣC_in, kh, kw), with zeros for the absent blocks."""
        shape = (sum(self.writes.sizes), self.reads.channels_nested, *self.kernel_size)
        flat = torch.cat([weight.flatten() for weight in self.weight])
        if (
            self._positions is None or self._positions.device != flat.device
        ):  # of each weight in the flattened dense one
            present = torch.zeros(*shape[:2], self.taps, dtype=torch.bool)
            for rows, runs in zip(present.split(list(self.writes.sizes)), self.runs, strict=True):
                for start, stop in runs:
                    rows[:, start:stop] = True
            self._positions = present.flatten().nonzero().flatten().to(flat.device)
        return flat.new_zeros(prod(shape)).index_copy(0, self._positions, flat).view(shape)

    def restrict(self, upto: int) -> Self:
        spaces = {"reads": self.reads.restrict(upto), "writes": self.writes.restrict(upto)}
        return type(self)(self, k=self.k, **spaces).copy_rows(self)

    def owners(self) -> dict[str, Tensor]:
        owners = {f"weight.{j}": torch.full((size,), j + 1) for j, size in enumerate(self.writes.sizes)}
        return owners if self.bias is None else {**owners, "bias": self.writes.owners()}

    def extra_repr(self) -> str:
        return f"{self.reads.sizes} → {self.writes.sizes}, kernel_size={self.kernel_size}, stride={self.stride}"


class NestedLinear(NestedConv2d):
    """The same for a fully-connected layer, (B, ΣC_in) → (B, ΣC_out); `weight[j−1]` has shape (C_out_j, Σ C_in_i)."""

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class NestedGroupedConv2d(NestedLayer, nn.Module):
    """Inflated grouped (depthwise) convolution: group k+m starts as a copy of its counterpart, conv-groups stay whole.

    `weight` has shape (ΣC_out, inputs per conv-group, kh, kw).
    """

    def __init__(self, conv: nn.Module, *, reads: Space, writes: Space):
        super().__init__()
        self.reads, self.writes = reads, writes
        self.kernel_size, self.stride, self.padding, self.dilation = _geometry(conv)
        self.weight = nn.Parameter(torch.zeros(sum(writes.sizes), *conv.weight.shape[1:]))
        self.bias = nn.Parameter(torch.zeros(sum(writes.sizes))) if conv.bias is not None else None

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """Groups first…last in, the same groups out."""
        rows = slice(self.writes.offsets[first - 1], self.writes.offsets[last])
        bias = None if self.bias is None else self.bias[rows]
        weight, geometry = self.weight[rows], (self.stride, self.padding, self.dilation)
        if self.training and depthwise.pays(x, weight):
            return depthwise.depthwise_conv(x, weight, bias, *geometry)
        return F.conv2d(x, weight, bias, *geometry, groups=x.shape[1] // weight.shape[1])

    def restrict(self, upto: int) -> Self:
        spaces = {"reads": self.reads.restrict(upto), "writes": self.writes.restrict(upto)}
        return NestedGroupedConv2d(self, **spaces).copy_rows(self)

    def extra_repr(self) -> str:
        return f"{self.reads.sizes} → {self.writes.sizes}, kernel_size={self.kernel_size}, stride={self.stride}"


class NestedBatchNorm2d(NestedLayer, nn.BatchNorm2d):
    """Batch normalisation over nested groups, of feature maps or of flat features. A channel's input is the same in every
    sub-network, so one set of statistics serves all of them. Always with a slope and an offset for each channel."""

    def __init__(self, norm: nn.Module, *, writes: Space):
        super().__init__(sum(writes.sizes), eps=norm.eps, momentum=norm.momentum)
        self.writes = writes

    def forward(self, x: Tensor, first: int, last: int) -> Tensor:
        """Groups first…last in, the same groups out."""
        rows = slice(self.writes.offsets[first - 1], self.writes.offsets[last])
        momentum = self.momentum
        if self.training:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # torch's convention: the mean over all batches so far
                momentum = 1 / int(self.num_batches_tracked)
        statistics = self.running_mean[rows], self.running_var[rows]  # views: training updates those of these groups
        weight, bias = self.weight[rows], self.bias[rows]
        return F.batch_norm(x, *statistics, weight, bias, self.training, momentum or 0.0, self.eps)

    def restrict(self, upto: int) -> Self:
        return NestedBatchNorm2d(self, writes=self.writes.restrict(upto)).copy_rows(self)


def channels(x: Tensor, start: int, stop: int) -> Tensor:
    """x[:, start:stop]; x itself where that is all of it, so that no runtime copies it."""
    return x if (start, stop) == (0, x.shape[1]) else x[:, start:stop]


def join(parts: Sequence[Tensor]) -> Tensor:
    """Groups side by side along the channels; one alone is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=1)


def contiguous_runs(groups: Sequence[int], offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Channel ranges [start, stop) covered by `groups` (from 1, ascending), neighbours merged."""
    runs: list[tuple[int, int]] = []
    for group in groups:
        start, stop = offsets[group - 1], offsets[group]
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return runs


def _geometry(conv: nn.Module) -> list[tuple[int, ...]]:
    """Kernel size, stride, padding and dilation; of a Linear layer nothing."""
    return [getattr(conv, name, ()) for name in ("kernel_size", "stride", "padding", "dilation")]
