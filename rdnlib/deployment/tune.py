"""How a sub-network's nested convolutions are computed at inference: group by group, all at once, or a few neighbours together.

A product for each output group does only the multiply-adds that are there, but many small products are slow; one product for all of them
has zeros where blocks are absent. Between the two lie the products for several neighbouring groups. Which is fastest depends on the
layer, the batch, the machine and its libraries, so it is measured: every run of neighbours once, then the cheapest partition is found.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from rdnlib.deployment.runtimes import Network, prepare
from rdnlib.errors import ConfigError
from rdnlib.nn.conv import NestedConv2d, channels, join
from rdnlib.nn.rdn import SubNetwork
from rdnlib.utils.devices import flushing_denormals
from rdnlib.utils.files import read_json, write_json
from rdnlib.utils.provenance import processor

REPEATS = 3  # measurements of a product, of which the fastest counts: others only disturb
LEAST = 5e-4  # seconds of one measurement, at least


@dataclass(frozen=True)
class Product:
    """Output groups first…last (from 1) as one product with the input channels in `runs`, side by side."""

    first: int
    last: int
    runs: tuple[tuple[int, int], ...]


class PlannedConv(nn.Module):
    """All groups of a nested convolution, or Linear layer, as a few products; zeros stand where blocks are absent."""

    def __init__(self, conv: NestedConv2d, products: Sequence[Product]):
        super().__init__()
        self.products, self._convolve = tuple(products), conv._convolve
        dense, rows = conv.dense_weight().detach(), conv.writes.offsets
        weights = [
            torch.cat([dense[rows[each.first - 1] : rows[each.last], start:stop] for start, stop in each.runs], dim=1)
            for each in products
        ]
        self.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        self.biases = [None if conv.bias is None else (rows[each.first - 1], rows[each.last]) for each in products]
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, ΣC_in, H, W) → (B, ΣC_out, H', W')."""
        outputs = []
        for product, weight, rows in zip(self.products, self.weights, self.biases, strict=True):
            inputs = join([channels(x, *run) for run in product.runs])
            outputs.append(self._convolve(inputs, weight, None if rows is None else self.bias[slice(*rows)]))
        return join(outputs)


@torch.no_grad()
@flushing_denormals()
def tune(network: SubNetwork, images: Tensor, plans: str | PathLike | None = None) -> SubNetwork:
    """A copy for inference on batches like `images` (B, 3, H, W): its nested convolutions as the products that are fastest here.

    plans: a JSON file that keeps what was found, so that a layer of this kind is never measured again for such an input on this
    machine. The same logits up to rounding, for finite activations. Raises ConfigError for anything but `rdn.subnetwork(i)`, and
    for a file that is no plan.
    """
    if not isinstance(network, SubNetwork):
        raise ConfigError(f"tune takes one sub-network, rdn.subnetwork(i), not a {type(network).__name__}")
    known, network = _read(plans), deepcopy(network).eval()
    inputs: dict[str, Tensor] = {}
    nested = {name: layer for name, layer in network.trunk.layers.items() if isinstance(layer, NestedConv2d)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: inputs.update({name: given[0]}))
        for name, layer in nested.items()
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    for name, layer in nested.items():
        x = inputs.pop(name)
        situation = _situation(layer, x)
        if situation not in known:
            known[situation] = fastest(layer, x)
        network.trunk.layers[name] = _planned(layer, known[situation], x)
    if plans is not None:
        write_json(plans, {key: [asdict(each) for each in products] for key, products in known.items()})
    return network


def _situation(conv: NestedConv2d, x: Tensor) -> str:
    """All that decides which products are fastest: the layer, its input, the machine and the library."""
    sizes = f"k={conv.k} {'plain ' * conv.reads.plain}{conv.reads.sizes}→{conv.writes.sizes}"
    layer = f"{type(conv).__name__} {sizes} {conv.kernel_size} {conv.stride} {conv.padding} {conv.dilation} bias={conv.bias is not None}"
    device = torch.cuda.get_device_name(x.device) if x.device.type == "cuda" else processor()
    return f"{layer} on {tuple(x.shape)} {x.stride()} {x.dtype}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _read(plans: str | PathLike | None) -> dict[str, list[Product]]:
    if plans is None or not Path(plans).exists():
        return {}
    try:
        return {
            key: [Product(each["first"], each["last"], tuple(map(tuple, each["runs"]))) for each in products]
            for key, products in read_json(plans).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{plans} is no file of plans that `tune` has written ({error}): name another one") from None


def schemes(network: SubNetwork) -> dict[str, SubNetwork]:
    """Copies of a sub-network whose nested convolutions are all merged alike; a runtime that plans whole graphs is timed on each.

    "one product": a dense convolution with zeros. "by group": none. "halves": the original k groups as two products, as which they have
    12 of 16 blocks at k = 4, and each new group alone.
    """
    ways = {
        "one product": lambda conv, count: [(1, count)],
        "by group": lambda conv, count: [(j, j) for j in range(1, count + 1)],
        "halves": lambda conv, count: _halves(conv.k, count),
    }
    copies = {name: deepcopy(network).eval() for name in (ways if network.index > 1 else ["one product"])}
    for name, merged in copies.items():
        for step, layer in merged.trunk.layers.items():
            if isinstance(layer, NestedConv2d):
                runs = ways[name](layer, len(layer.weight))
                merged.trunk.layers[step] = PlannedConv(layer, [candidates(layer, *run)[-1] for run in runs])
    return copies


def forms(network: SubNetwork, images: Tensor, runtime: str = "eager", *, threads: int = 1) -> list[Network]:
    """A sub-network in the forms among which the fastest is to be found, see `fastest_form`: by `tune` for batches like `images`, or,
    where a runtime plans whole graphs, as each of `schemes`."""
    if runtime == "eager":
        return [prepare(tune(network, images), [images])]
    return [prepare(each, [images], runtime, threads=threads) for each in schemes(network).values()]


def fastest_form(ways: Sequence[Network], images: Tensor) -> Network:
    """The one that takes batches like `images` in the least time."""
    return min(ways, key=lambda way: least_seconds(way, [images])) if len(ways) > 1 else ways[0]


@torch.inference_mode()
def least_seconds(network: Network, inputs: Sequence[Tensor], lasting: float = 0.02) -> float:
    """The least mean time of a call, of a few turns that last so many seconds each: others only disturb."""
    network(*inputs)
    found = []
    for _ in range(REPEATS):
        started, calls = time.perf_counter(), 0
        while calls == 0 or time.perf_counter() - started < lasting:
            network(*inputs)
            _wait(inputs[0])
            calls += 1
        found.append((time.perf_counter() - started) / calls)
    return min(found)


def _halves(k: int, count: int) -> list[tuple[int, int]]:
    """Groups 1…count as runs: the two halves of the first k, then each alone."""
    half = (k + 1) // 2
    runs = [(1, min(half, count)), (half + 1, min(k, count)), *((j, j) for j in range(k + 1, count + 1))]
    return [(first, last) for first, last in runs if first <= last]


def fastest(conv: NestedConv2d, x: Tensor) -> list[Product]:
    """The products that compute all groups of `conv` for an input x (B, ΣC_in, H, W) in the least time, by measurement."""
    count = len(conv.weight)
    costs = {
        (first, last): min(
            ((_seconds(conv, [each], x), each) for each in candidates(conv, first, last)), key=lambda pair: pair[0]
        )
        for first in range(1, count + 1)
        for last in range(first, count + 1)
    }

    @cache
    def best(first: int) -> tuple[float, tuple[Product, ...]]:
        """The cheapest partition of groups first…count."""
        if first > count:
            return 0.0, ()
        ways = []
        for last in range(first, count + 1):
            (own, product), (rest, others) = costs[first, last], best(last + 1)
            ways.append((own + rest, (product, *others)))
        return min(ways, key=lambda way: way[0])

    # What it costs to put the parts together is in none of them, so the winner has to beat one product for all.
    whole, several = [costs[1, count][1]], list(best(1)[1])
    return several if _seconds(conv, several, x) < _seconds(conv, whole, x) else whole


def candidates(conv: NestedConv2d, first: int, last: int) -> list[Product]:
    """Ways to compute groups first…last as one product: from all channels between the first and the last that they read, or, of a
    group alone that reads with gaps, from just those that it reads."""
    runs = [run for j in range(first, last + 1) for run in conv.runs[j - 1]]
    cover = (min(start for start, _ in runs), max(stop for _, stop in runs))
    ways = [Product(first, last, (cover,))]
    if first == last and len(runs) > 1:
        ways.append(Product(first, last, tuple(runs)))
    return ways


def _planned(conv: NestedConv2d, products: Sequence[Product], x: Tensor) -> PlannedConv:
    """With weights in the memory layout of the input."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    planned = PlannedConv(conv, products)
    return planned.to(memory_format=torch.channels_last) if last else planned


def _seconds(conv: NestedConv2d, products: Sequence[Product], x: Tensor) -> float:
    planned = _planned(conv, products, x)
    started = time.perf_counter()
    planned(x)  # and warm
    _wait(x)
    times = max(1, int(LEAST / (time.perf_counter() - started)))
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(times):
            planned(x)
        _wait(x)
        found.append((time.perf_counter() - started) / times)
    return min(found)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
