"""What surgery did to each layer, as a table a person can read: blocks, groups and costs before and after (Section 3.2).

The super-net is gone by then, but a nested layer remembers how many channels it had, so its costs follow from the RDN alone.
"""

from itertools import groupby

import pandas as pd
from torch import nn

from rdnlib.graph.operators import NORMS
from rdnlib.madds import answer_layers, params_by_group, shapes, weights_by_group
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedAlign
from rdnlib.nn.rdn import RDN


def describe(rdn: RDN, input_size: int | tuple[int, int] | None = None) -> pd.DataFrame:
    """One row for each layer with weights; see `RDN.describe`."""
    seen = None if input_size is None else shapes(rdn, input_size)
    rows: list[dict] = []

    def add(module: str, layer: nn.Module, name: str, groups: str) -> None:
        dense, params = (0, 0) if module.split(".")[0] in rdn.new_parts else before_surgery(layer)
        weights, own = weights_by_group(layer), params_by_group(layer)
        counts = {"params": (params, own[0], sum(own))}
        if seen is not None:
            counts["madds"] = [number * seen[module][1] for number in (dense, weights[0], sum(weights))]
        nets = ("supernet", "N1", f"N{2 * rdn.k - 1}")
        cells = {f"{what}_{n}": number for what, row in counts.items() for n, number in zip(nets, row, strict=True)}
        if rows and kind(layer) == "norm":  # it folds into the layer before it
            for column, number in cells.items():
                rows[-1][column] += number
        else:
            rows.append({"layer": name, "kind": kind(layer), "groups": groups, "blocks": blocks(layer, rdn.k), **cells})

    for part, module in rdn.parts().items():
        if isinstance(module, NestedAlign):
            add(part, module, "align", readable(module.space, rdn.k))
            continue
        for step in module.steps:
            layer = None if step.function is not None else module.layers[step.name]
            if layer is not None and any(params_by_group(layer)):
                add(f"{part}.layers.{step.name}", layer, step.target, readable(module.spaces[step.name], rdn.k))
    for module, layer in answer_layers(rdn).items():
        if any(params_by_group(layer)):
            add(module, layer, module.removeprefix("heads.").removeprefix("tail.layers."), "shared")
    return pd.DataFrame(rows)


def kind(layer: nn.Module) -> str:
    """The operator, in the words of the paper."""
    if isinstance(layer, NestedAlign):
        return "align"
    if isinstance(layer, (*NORMS, NestedBatchNorm2d)):
        return "norm"
    size = "×".join(map(str, getattr(layer, "kernel_size", ())))
    if not size:
        return "linear"
    if isinstance(layer, NestedGroupedConv2d) or getattr(layer, "groups", 1) > 1:
        return f"depthwise {size}" if layer.weight.shape[1] == 1 else f"grouped {size}"
    return size if size == "1×1" else f"conv {size}"


def before_surgery(layer: nn.Module) -> tuple[int, int]:
    """Weights used once per output position, and parameters, of the super-net's layer behind a layer of the RDN."""
    if isinstance(layer, NestedBatchNorm2d):
        return 0, 2 * layer.space.channels
    if isinstance(layer, (NestedConv2d, NestedGroupedConv2d)):
        pairs = layer.reads.channels * layer.taps if isinstance(layer, NestedConv2d) else layer.weight[0].numel()
        weights = layer.writes.channels * pairs
        return weights, weights + (0 if layer.bias is None else layer.writes.channels)
    if isinstance(layer, NestedAlign):  # with a tail, the super-net's own last 1×1 convolution; else a new layer
        weights = 0 if layer.tail is None else len(layer.align[0]) * layer.space.channels
        return weights, weights + (0 if layer.bias is None else layer.bias.numel())
    return sum(weights_by_group(layer)), sum(params_by_group(layer))


def blocks(layer: nn.Module, k: int) -> str:
    """Blocks of weights in the super-net → in the RDN; nothing for a plain layer."""
    if isinstance(layer, NestedConv2d):
        return f"{k * k} → {sum(map(len, layer.sources))}"
    if isinstance(layer, NestedGroupedConv2d):  # only the diagonal
        return f"{k} → {2 * k - 1}"
    if isinstance(layer, NestedAlign):
        return f"{0 if layer.tail is None else k} → {2 * k - 1}"
    return ""


def readable(space: Space, k: int) -> str:
    """Group sizes, original | new: "4×24 | 3×24", or "2×13 + 2×12 | 1×12 + 2×13" where they are uneven."""
    if space.plain:
        return f"plain {space.channels}"
    parts = (space.sizes[:k], space.sizes[k:])
    return " | ".join(" + ".join(f"{len(list(same))}×{size}" for size, same in groupby(part)) for part in parts)
