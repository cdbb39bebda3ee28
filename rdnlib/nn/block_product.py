"""A product with a matrix most of whose blocks are absent: what a nested 1×1 convolution or Linear computes in training on a CPU.

Every block that remains is one BLAS call on columns of the operands where they lie; nothing is masked, copied or gathered. For k = 4
that is 19 blocks instead of the 49 of the dense product.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Runs = Sequence[Sequence[tuple[int, int]]]  # for each group of outputs, the column ranges [start, stop) that it reads


def block_product(x: Tensor, weights: Sequence[Tensor], runs: Runs) -> Tensor:
    """(M, ΣC_in) → (M, ΣC_out): group j is the columns `runs[j]` of x, side by side, times the transpose of weights[j].

    weights[j]: (C_out_j, columns in runs[j]); runs[j] is not empty. Floating point, on the CPU; differentiable once.
    """
    return _BlockProduct.apply(x, runs, *weights)


class _BlockProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, runs: Runs, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.runs = runs
        sizes = [len(weight) for weight in weights]
        product = x.new_empty(len(x), sum(sizes))
        for output, weight, ranges in zip(product.split(sizes, dim=1), weights, runs, strict=True):
            for index, (columns, block) in enumerate(_blocks(x, weight, ranges)):
                output.addmm_(columns, block.t(), beta=min(index, 1))  # the first block overwrites what is there
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple:
        x, *weights = ctx.saved_tensors
        grad_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        grad_weights = [torch.empty_like(weight) for weight in weights]
        parts = grad.split([len(weight) for weight in weights], dim=1)
        for part, weight, grad_weight, ranges in zip(parts, weights, grad_weights, ctx.runs, strict=True):
            for columns, block in _blocks(x, grad_weight, ranges):
                torch.mm(part.t(), columns, out=block)
            if grad_x is not None:
                for columns, block in _blocks(grad_x, weight, ranges):
                    columns.addmm_(part, block)
        return grad_x, None, *grad_weights


def _blocks(x: Tensor, weight: Tensor, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the columns of x in each range, and of the columns of the weight that belong to them."""
    blocks = weight.split([stop - start for start, stop in ranges], dim=1)
    for (start, stop), block in zip(ranges, blocks, strict=True):
        yield x[:, start:stop], block
