"""Counting multiply-adds and parameters, in closed form from the shapes of one forward pass.

Convention (the paper's columns): `madds` counts convolutions and fully-connected layers, one per multiply-accumulate;
biases, batch norm (which folds into the convolution) and additions are free. `madds_elementwise` adds one per output
element of an activation. Counted for a single image.

Limitations: only modules are seen, not functions called inside `forward`; a module that runs twice counts twice; anything
that is not convolution, Linear, activation or a layer of ours counts as free.
"""

import pandas as pd
import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.heads import NestedHeads
from rdnlib.nested import NestedConv2d, NestedGroupedConv2d, NestedLinear
from rdnlib.operators import ACTIVATIONS
from rdnlib.rdn import RDN


def _positions(output: Tensor) -> int:
    return output.shape[-2] * output.shape[-1]


def _madds(module: nn.Module, output: Tensor) -> int:
    """MAdds of one layer whose output for one image is `output`."""
    if isinstance(module, nn.Conv2d):  # every weight is used once per output position
        return module.weight.numel() * _positions(output)
    if isinstance(module, NestedLinear):
        return sum(weight.numel() for weight in module.weight)
    if isinstance(module, NestedConv2d):  # the absent blocks are not stored, so this counts what is left
        return sum(weight.numel() for weight in module.weight) * _positions(output)
    if isinstance(module, NestedGroupedConv2d):
        return module.weight.numel() * _positions(output)
    if isinstance(module, nn.Linear):
        return module.weight.numel()
    if isinstance(module, NestedHeads):  # A_1 x_1 + … + A_i x_i; tail and classifier are layers of their own
        return sum(align.numel() for align in module.align) * (_positions(output) if output.ndim == 5 else 1)
    return 0


@torch.no_grad()
def count(module: nn.Module, input_size: int | tuple[int, int]) -> pd.DataFrame:
    """Count `module` layer by layer for one RGB image of `input_size` (pixels, or (height, width)).

    Returns a DataFrame [name, madds, madds_elementwise, params], one row per layer that has any; `.sum()` of a column is the
    total. An RDN is counted as N_K, its largest sub-network, with the classifier applied once.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(height, width) < 1:
        raise ConfigError(f"input size must be positive, not {input_size}")
    if isinstance(module, RDN):
        module = module.subnetwork(module.num_subnetworks)
    rows, hooks = [], []

    def add(name: str, layer: nn.Module, output: Tensor) -> None:
        madds = _madds(layer, output)
        elementwise = output[0].numel() if isinstance(layer, ACTIVATIONS) else 0
        own = layer.parameters() if not isinstance(layer, NestedHeads) else layer.parameters(recurse=False)
        params = sum(parameter.numel() for parameter in own)
        if isinstance(layer, NestedHeads):
            params += sum(align.numel() for align in layer.align)
        if madds or elementwise or params:
            rows.append({"name": name, "madds": madds, "madds_elementwise": madds + elementwise, "params": params})

    for name, layer in module.named_modules():
        if isinstance(layer, NestedHeads) or not list(layer.children()) or isinstance(layer, NestedConv2d):
            hooks.append(layer.register_forward_hook(lambda la, _, out, name=name: add(name, la, out)))
    was_training = module.training
    try:
        first = next(module.parameters())
        module.eval()(torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()
    return pd.DataFrame(rows, columns=["name", "madds", "madds_elementwise", "params"])


def count_subnetworks(rdn: RDN, input_size: int | tuple[int, int]) -> pd.DataFrame:
    """Totals of every sub-network: [subnetwork, madds, madds_elementwise, params], one row for each of N_1…N_K."""
    totals = []
    for index in range(1, rdn.num_subnetworks + 1):
        total = count(rdn.subnetwork(index), input_size)[["madds", "madds_elementwise", "params"]].sum()
        totals.append({"subnetwork": index, **total.astype(int).to_dict()})
    return pd.DataFrame(totals)
