"""Counting multiply-adds and parameters, in closed form from the shapes of one forward pass, and the table of layers.

Convention (the paper's columns): `madds` counts convolutions and fully-connected layers, one per multiply-accumulate;
biases, batch norm (which folds into the convolution) and additions are free. `madds_elementwise` adds one per output
element of an activation. Counted for a single image, as it is executed at inference: align layers and classifier are one map
where nothing stands between them (`RDN.fold_heads`); `folded=False` counts them one by one, as the paper and training do.
`count` measures any network; `count_groups` says what each group of
an RDN adds, from which follow its sub-networks, incremental execution and averages over exits; `describe` says what surgery did.

Limitations: only modules are seen, not functions called inside `forward`; a module that runs twice counts twice; anything
that is not convolution, Linear, activation or a layer of ours counts as free.
"""

from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.graph.refusals import ACTIVATIONS, NORMS, WEIGHTED
from rdnlib.nn.conv import NestedBatchNorm2d, NestedConv2d, NestedGroupedConv2d, NestedLayer
from rdnlib.nn.depth_nesting import DepthwiseRDN
from rdnlib.nn.groups import Space
from rdnlib.nn.heads import NestedAlign, PrivateBatchNorm
from rdnlib.nn.rdn import RDN

COUNTS = ["madds", "madds_elementwise", "params"]


def _positions(output: Tensor) -> int:
    """Pixels of a feature map (…, C, H, W); features without positions have one."""
    return output.shape[-2] * output.shape[-1] if output.ndim >= 4 else 1


def weights_by_group(layer: nn.Module) -> list[int]:
    """Weights that are used once per output position, for each group; a plain layer is a single group.

    The absent blocks of a nested layer are not stored, so this counts what is left.
    """
    if isinstance(layer, NestedConv2d):
        return [weight.numel() for weight in layer.weight]
    if isinstance(layer, NestedGroupedConv2d):
        return [size * layer.weight[0].numel() for size in layer.writes.sizes]
    if isinstance(layer, NestedAlign):  # A_1 x_1 + … + A_K x_K; tail and classifier are layers of their own
        return [align.numel() for align in layer.align]
    if isinstance(layer, NestedBatchNorm2d):
        return [0] * len(layer.writes.sizes)
    return [layer.weight.numel() if isinstance(layer, WEIGHTED) else 0]


def params_by_group(layer: nn.Module) -> list[int]:
    """Parameters of each group; a plain layer is a single group."""
    weights = weights_by_group(layer)
    if isinstance(layer, NestedLayer):
        each = 2 if isinstance(layer, NestedBatchNorm2d) else int(layer.bias is not None)  # a channel, beside weights
        return [weight + each * size for weight, size in zip(weights, layer.writes.sizes, strict=True)]
    if isinstance(layer, NestedAlign):  # the bias of the align layer is N_1's
        return [weights[0] + (0 if layer.bias is None else layer.bias.numel()), *weights[1:]]
    return [sum(parameter.numel() for parameter in layer.parameters())]


@torch.no_grad()
def count(module: nn.Module, input_size: int | tuple[int, int]) -> pd.DataFrame:
    """Count `module` layer by layer for one RGB image of `input_size` (pixels, or (height, width)).

    Returns a DataFrame [name, madds, madds_elementwise, params], one row per layer that has any; `.sum()` of a column is the
    total. An RDN is counted as N_K, its largest sub-network.
    """
    if isinstance(module, RDN):
        module = module.subnetwork(module.num_subnetworks)
    rows = []

    def see(name: str, layer: nn.Module, output: Tensor) -> None:
        positions = 1 if isinstance(layer, nn.Linear) else _positions(output)
        madds = sum(weights_by_group(layer)) * positions
        elementwise = output[0].numel() if isinstance(layer, ACTIVATIONS) else 0
        params = sum(params_by_group(layer))
        if madds or elementwise or params:
            rows.append({"name": name, "madds": madds, "madds_elementwise": madds + elementwise, "params": params})

    _run_once(module, module, input_size, see)
    return pd.DataFrame(rows, columns=["name", *COUNTS])


def _run_once(module: nn.Module, run: Callable, input_size: int | tuple[int, int], see: Callable) -> None:
    """Call `run` on one blank image in eval mode, and see(name, layer, output) for every layer that it executes."""
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(height, width) < 1:
        raise ConfigError(f"input size must be positive, not {input_size}")
    was_training, first = module.training, next(module.parameters())
    hooks = [
        layer.register_forward_hook(lambda layer, _, output, name=name: see(name, layer, output))
        for name, layer in module.named_modules()
        if isinstance(layer, (NestedAlign, NestedConv2d)) or not list(layer.children())
    ]
    module.eval()
    try:
        run(torch.zeros(1, 3, height, width, device=first.device, dtype=first.dtype))
    finally:
        module.train(was_training)
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def shapes(rdn: RDN, input_size: int | tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Name of each module that runs for the first group → channels of its output, and positions, which are the same in all groups."""
    sizes: dict[str, tuple[int, int]] = {}

    def see(name: str, _: nn.Module, output: Tensor) -> None:
        sizes[name] = (output.shape[1], _positions(output))

    # Every layer runs just once, for its first group.
    narrowest = rdn.along([(1, 0), (1, 1)]) if isinstance(rdn, DepthwiseRDN) else lambda x: rdn(x, upto=1)
    _run_once(rdn, narrowest, input_size, see)
    return sizes


def _layers(rdn: RDN) -> dict[str, tuple[nn.Module, str, Space | None]]:
    """All layers of trunks and heads by module name, in order of execution: (layer, its name in the super-net, its space).

    What runs for every answer, behind the align layers, has no space; of private batch norms it is N_1's.
    """
    layers, answers = {}, {}
    for part, module in rdn.named_children():
        if not isinstance(module, NestedAlign):
            own = ((step, module.layers[step.name]) for step in module.steps if step.function is None)
            layers |= {f"{part}.layers.{s.name}": (layer, s.target, module.spaces[s.name]) for s, layer in own}
            continue
        layers[part] = module, "align", module.space
        for name, layer in module.tail.items() if module.tail is not None else ():
            path, private = f"{part}.tail.{name}", isinstance(layer, PrivateBatchNorm)
            path, layer = (f"{path}.0", layer[0]) if private else (path, layer)
            answers[path] = layer, path.removeprefix("heads.tail."), None
    return {**layers, **answers, "heads.classifier": (rdn.heads.classifier, "classifier", None)}


def count_groups(rdn: RDN, input_size: int | tuple[int, int], *, folded: bool = True) -> pd.DataFrame:
    """What every layer costs for each group: [name, group, madds, madds_elementwise, params], one row for each that has any.

    Groups count from 1; plain layers belong to group 1. Group 0 is what an answer costs, whichever sub-network gives it: the
    classifier and what lies between it and the align layers (of private batch norms just its own). N_i costs groups 0…i. With
    depth-wise nesting that holds within each part of the network, by which the names begin (see `RDN.needs`).
    """
    rdn = rdn.fold_heads() if folded else rdn
    sizes, rows = shapes(rdn, input_size), []
    for name, (layer, _, space) in _layers(rdn).items():
        channels, first = (sizes[name][:1], 0) if space is None else (space.sizes, 1)
        elements = channels if isinstance(layer, ACTIVATIONS) else ()
        by_group = zip_longest(weights_by_group(layer), elements, params_by_group(layer), fillvalue=0)
        for group, (weights, elements, params) in enumerate(by_group, start=first):
            madds, elementwise = weights * sizes[name][1], elements * sizes[name][1]
            if madds or elementwise or params:
                rows.append((name, group, madds, madds + elementwise, params))
    return pd.DataFrame(rows, columns=["name", "group", *COUNTS])


def count_incremental(rdn: RDN, input_size: int | tuple[int, int], *, folded: bool = True) -> pd.DataFrame:
    """What `start` and each `advance` by one sub-network execute: [subnetwork, groups, answer, total, params], multiply-adds.

    groups: the new groups' layers and align product, which never run again. answer: the classifier, unless it is folded, and
    what else only the exit needs; once for each stop. total: N_i alone, which is all `groups` up to it and one answer. params: of the new
    groups, and of the answers where they are first needed.
    """
    by_part, networks = _by_part(count_groups(rdn, input_size, folded=folded)), range(1, rdn.num_subnetworks + 1)
    totals = _sums(by_part, [_runs(rdn, index) for index in networks])
    answers = _sums(by_part, [_runs(rdn, index, answer=True) for index in networks])
    groups = totals["madds"] - answers["madds"]
    touched = [frozenset().union(*(_runs(rdn, i) for i in range(1, index + 1))) for index in networks]
    params = _sums(by_part, touched)["params"]
    table = {"groups": groups.diff().fillna(groups), "answer": answers["madds"], "total": totals["madds"]}
    table |= {"params": params.diff().fillna(params)}
    return pd.DataFrame(table).astype(int).rename_axis("subnetwork").reset_index()


def count_subnetworks(rdn: RDN, input_size: int | tuple[int, int], *, folded: bool = True) -> pd.DataFrame:
    """Totals of every sub-network: [subnetwork, madds, madds_elementwise, params], one row for each of N_1…N_K."""
    by_part = _by_part(count_groups(rdn, input_size, folded=folded))
    totals = _sums(by_part, [_runs(rdn, index) for index in range(1, rdn.num_subnetworks + 1)])
    return totals.rename_axis("subnetwork").reset_index()


def _by_part(groups: pd.DataFrame) -> pd.DataFrame:
    """Sums by (part, group); the classifier, which every sub-network needs, is a part of its own."""
    part = groups["name"].str.split(".").str[0].mask(groups["name"] == "heads.classifier", "classifier")
    return groups.groupby([part, "group"])[COUNTS].sum()


def _runs(rdn: RDN, index: int, *, answer: bool = False) -> frozenset[tuple[str, int]]:
    """The (part, group) pairs that N_index runs, or those of its answer alone. Group 0 of a part belongs to the answer."""
    groups = {(part, group) for part, last in rdn.needs(index).items() for group in range(last + 1)}
    return frozenset({("classifier", 0)} | {g for g in groups if not answer or g[1] == 0 or g[0] in rdn.new_parts})


def _sums(by_part: pd.DataFrame, runs: Sequence[frozenset]) -> pd.DataFrame:
    """What each set of (part, group) pairs costs together, numbered from 1."""
    return pd.DataFrame([by_part[by_part.index.isin(run)].sum() for run in runs], index=range(1, len(runs) + 1))


def average(counts: pd.DataFrame, exits: Sequence[float], policy: nn.Module | None = None) -> pd.Series:
    """Mean cost per image when a share `exits[i−1]` of the images leaves at N_i, by sample-adaptive inference (Table 1).

    counts: as `count_subnetworks` makes them. The mean of `params` is the paper's "Avg Mem Used": parameters touched. `policy`
    (with `.madds` and `.params`) is run for every image. Raises ConfigError unless there is one share for each sub-network, and they sum to 1.
    """
    exits = np.asarray(exits, float)
    if exits.shape != (len(counts),) or not (exits >= 0).all() or not np.isclose(exits.sum(), 1):
        raise ConfigError(f"exits must be {len(counts)} shares, one for each sub-network, that sum to 1")
    mean = pd.Series(exits @ counts[COUNTS].to_numpy(), index=COUNTS)
    if policy is not None:
        mean += pd.Series([policy.madds, policy.madds, policy.params], index=COUNTS)
    return mean


def describe(rdn: RDN, input_size: int | tuple[int, int] | None = None) -> pd.DataFrame:
    """What surgery did, layer by layer: one row for each layer with weights, in execution order, and then the heads.

    layer: its name in the super-net; kind: "conv 3×3", "1×1", "depthwise 3×3", "grouped 3×3", "linear", "align".
    groups: of the channels that it writes, original | new, such as "4×24 | 3×24". blocks: how many weight blocks the
    super-net's layer has, and how many remain in all groups together. params_supernet, params_N1, params_N<K>, and with
    `input_size` (pixels, or (height, width)) the same for madds; their sums are the totals. A batch norm counts with the
    layer before it. With depth-wise nesting N_i stands for N_{i,0} and N_{i,1} together. The heads are shown as surgery makes
    them and training uses them, not folded.
    """
    sizes, nets = None if input_size is None else shapes(rdn, input_size), ("supernet", "N1", f"N{2 * rdn.k - 1}")
    rows: list[dict] = []
    for module, (layer, name, space) in _layers(rdn).items():
        weights, params = weights_by_group(layer), params_by_group(layer)
        if not any(params):
            continue
        before = (0, 0) if module.split(".")[0] in rdn.new_parts else _before_surgery(layer)
        counts = {"params": (before[1], params[0], sum(params))}
        if sizes is not None:
            counts["madds"] = [number * sizes[module][1] for number in (before[0], weights[0], sum(weights))]
        cells = {f"{what}_{net}": number for what, row in counts.items() for net, number in zip(nets, row, strict=True)}
        if rows and kind(layer) == "norm":  # it folds into the layer before it
            rows[-1] |= {column: rows[-1][column] + number for column, number in cells.items()}
        else:
            groups = "shared" if space is None else _readable(space, rdn.k)
            about = {"layer": name, "kind": kind(layer), "groups": groups, "blocks": _blocks(layer, rdn.k)}
            rows.append(about | cells)
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


def _before_surgery(layer: nn.Module) -> tuple[int, int]:
    """Weights used once per output position, and parameters, of the super-net's layer behind a layer of the RDN."""
    if isinstance(layer, NestedBatchNorm2d):
        return 0, 2 * layer.writes.channels
    if isinstance(layer, NestedLayer):
        pairs = layer.reads.channels * layer.taps if isinstance(layer, NestedConv2d) else layer.weight[0].numel()
        weights = layer.writes.channels * pairs
        return weights, weights + (0 if layer.bias is None else layer.writes.channels)
    if isinstance(layer, NestedAlign):  # with a tail, the super-net's own last 1×1 convolution; else a new layer
        weights = 0 if layer.tail is None else len(layer.align[0]) * layer.space.channels
        return weights, weights + (0 if layer.bias is None else layer.bias.numel())
    return sum(weights_by_group(layer)), sum(params_by_group(layer))


def _blocks(layer: nn.Module, k: int) -> str:
    """Blocks of weights in the super-net → in the RDN; nothing for a plain layer."""
    if isinstance(layer, NestedConv2d):
        return f"{k * k} → {sum(map(len, layer.sources))}"
    if isinstance(layer, NestedGroupedConv2d):  # only the diagonal
        return f"{k} → {2 * k - 1}"
    if isinstance(layer, NestedAlign):
        return f"{0 if layer.tail is None else k} → {2 * k - 1}"
    return ""


def _readable(space: Space, k: int) -> str:
    """Group sizes, original | new: "4×24 | 3×24", or "2×13 + 2×12 | 1×12 + 2×13" where they are uneven."""
    if space.plain:
        return f"plain {space.channels}"
    parts = (space.sizes[:k], space.sizes[k:])
    return " | ".join(" + ".join(f"{len(list(same))}×{size}" for size, same in groupby(part)) for part in parts)
