"""Training depthwise convolutions on small maps on a CPU: the same convolution, with another way to the gradient of its filters.

Where the map is smaller than the kernel, as behind the last strides of a network on small images, the CPU kernels take ten to thirty
times as long for the filters' gradient as for everything else of the layer. The sum over taps below is the definition of that gradient.
With it the joint step of EfficientNet-Lite0's RDN at 96 px takes three quarters of its time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:  # fmt: skip
    """`F.conv2d` with one group a channel: (B, C, H, W), (C, 1, kh, kw) → (B, C, H', W'); the gradients are equal up to rounding."""
    y = _SmallMap.apply(x, weight, stride, padding, dilation)
    return y if bias is None else y + bias[:, None, None]


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `depthwise_conv` is the faster way to train: in full precision on a CPU, on maps smaller than the kernel."""
    plain = not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()
    depthwise = x.shape[1] == len(weight) and weight.shape[1] == 1
    small = x.shape[-2] < weight.shape[-2] or x.shape[-1] < weight.shape[-1]
    return depthwise and small and plain and x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def filter_gradient(
    x: Tensor, gradient: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Tensor:  # fmt: skip
    """dL/dw (C, 1, kh, kw) from the input x (B, C, H, W) and dL/dy (B, C, H', W'): tap by tap, on the positions that it reads:

    dL/dw[c, i, j] = Σ_{b, r, s} dL/dy[b, c, r, s] · x[b, c, r·stride + i·dilation − padding, s·stride + j·dilation − padding]
    """
    x, gradient = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # (B, H, W, C): sums run over contiguous channels
    sizes = zip(kernel, x.shape[1:3], gradient.shape[1:3], stride, padding, dilation, strict=True)
    rows, columns = ([_positions(tap, *others) for tap in range(taps)] for taps, *others in sizes)
    sums = [(x[:, r, s] * gradient[:, p, q]).sum((0, 1, 2)) for r, p in rows for s, q in columns]
    return torch.stack(sums, dim=1).view(-1, 1, *kernel)


def _positions(tap: int, size: int, out: int, stride: int, padding: int, dilation: int) -> tuple[slice, slice]:
    """Along one axis: which inputs a tap reads, and for which outputs; both empty where it reads padding only."""
    offset = tap * dilation - padding
    first = max(0, -(offset // stride))  # the least r with r · stride + offset ≥ 0
    count = max(0, min(out, (size - 1 - offset) // stride + 1) - first)
    start = first * stride + offset
    return slice(start, start + count * stride, stride) if count else slice(0), slice(first, first + count)


class _SmallMap(torch.autograd.Function):
    """The convolution without bias, with `filter_gradient` as the gradient of its filters."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride, padding, dilation) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=len(weight))

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), geometry = ctx.saved_tensors, ctx.geometry
        of_input = of_filters = None
        if ctx.needs_input_grad[0]:
            of_input = torch.nn.grad.conv2d_input(x.shape, weight, gradient, *geometry, groups=len(weight))
        if ctx.needs_input_grad[1]:
            of_filters = filter_gradient(x, gradient, weight.shape[2:], *geometry)
        return of_input, of_filters, None, None, None
