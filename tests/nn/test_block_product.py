"""The product with a matrix most of whose blocks are absent."""

import torch

from rdnlib.nn.block_product import block_product


def test_a_block_product_needs_no_gradient_of_its_input():
    """The first nested layer behind a frozen stem."""
    weights = [torch.randint(-9, 9, shape).float().requires_grad_() for shape in ((2, 2), (1, 3))]  # exact sums
    product = block_product(torch.ones(4, 4), weights, [[(0, 2)], [(0, 1), (2, 4)]])
    assert torch.equal(product[0], torch.cat([weight.sum(dim=1) for weight in weights]))
    product.sum().backward()
    assert [weight.grad.tolist() for weight in weights] == [[[4.0, 4.0]] * 2, [[4.0] * 3]]
