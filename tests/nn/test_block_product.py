"""The product with a matrix most of whose blocks are absent."""

import torch

from rdnlib.nn.block_product import block_product


def test_a_block_product_needs_no_gradient_of_its_input():
    """The first nested layer behind a frozen stem."""
    weights = [torch.randn(2, 2, requires_grad=True), torch.randn(1, 3, requires_grad=True)]
    product = block_product(torch.ones(4, 4), weights, [[(0, 2)], [(0, 1), (2, 4)]])
    torch.testing.assert_close(
        product[0], torch.cat([weight.sum(dim=1) for weight in weights])
    )  # up to the order of the sum
    product.sum().backward()
    assert [weight.grad.tolist() for weight in weights] == [[[4.0, 4.0]] * 2, [[4.0] * 3]]
