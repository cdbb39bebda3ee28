"""What saved multiply-adds are worth in time: every sub-network against its base network, side by side in one process.

All networks take turns, so that other load on the machine meets them alike; a ratio is the median of the quotients of turns beside each
other. Networks are as they are deployed (`deploy`), the base network too: its batch norms are folded. Times are wall time by
`torch.utils.benchmark`, which warms up and sets the number of threads.
"""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy

import pandas as pd
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.utils.benchmark import Timer

from rdnlib.deployment.deploy import deploy
from rdnlib.deployment.tune import tune
from rdnlib.madds import count, count_subnetworks
from rdnlib.nn.rdn import RDN, SubNetwork
from rdnlib.surgery.nest import to_rdn
from rdnlib.utils.devices import cpu_threads, flushing_denormals

LEAST = 0.1  # seconds that a turn lasts at least


def bench(
    model: nn.Module, size: int, *, k: int = 4, plain: float | Sequence[str] | None = None, batches: Iterable[int] = (1, 16),
    repeats: int = 9, threads: int | None = None, channels_last: bool = True, tuned: bool = True, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Latency of a super-net and of all sub-networks of its RDN on random images (batch, 3, size, size), a row per network and batch.

    k, plain: as `to_rdn` takes them. repeats: turns of each network. threads: default torch's. channels_last: the layout of weights
    and images. tuned: each sub-network's convolutions as `tune` finds them fastest. Columns: batch, network ("base", "N_1" … "N_K", and "all N_i" for one pass that answers for each of them),
    milliseconds (median, per batch), to_base and to_largest (ratios of times, N_K the largest), and beside each the ratio of the MAdds.
    """
    torch.manual_seed(seed)
    threads = threads or torch.get_num_threads()
    device = next(model.parameters()).device
    rdn = deploy(to_rdn(model, k, select="identity", plain=plain))
    networks, madds = _networks(model, rdn), _madds(model, rdn, size)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for network in networks.values():
        network.to(device, memory_format=layout)
    largest, parts = f"N_{rdn.num_subnetworks}", []
    for batch in batches:
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
        with cpu_threads(threads):  # the same for tuning and timing
            seconds = _take_turns(_tuned(networks, images) if tuned else networks, images, repeats, threads)
        table = pd.DataFrame({"milliseconds": 1e3 * seconds.median()})
        for reference, name in (("base", "base"), (largest, "largest")):
            table[f"to_{name}"] = seconds.div(seconds[reference], axis=0).median()
            table[f"madds_to_{name}"] = madds / madds[reference]
        parts.append(table.rename_axis("network").reset_index().assign(batch=batch))
    columns = ["batch", "network", "milliseconds", "to_base", "madds_to_base", "to_largest", "madds_to_largest"]
    return pd.concat(parts, ignore_index=True)[columns]


def _networks(model: nn.Module, rdn: RDN) -> dict[str, nn.Module]:
    alone = {f"N_{index}": rdn.subnetwork(index) for index in range(1, rdn.num_subnetworks + 1)}
    return {"base": fuse(deepcopy(model).eval()), **alone, "all N_i": rdn}


def _tuned(networks: dict[str, nn.Module], images: torch.Tensor) -> dict[str, nn.Module]:
    return {name: tune(each, images) if isinstance(each, SubNetwork) else each for name, each in networks.items()}


def _madds(model: nn.Module, rdn: RDN, size: int) -> pd.Series:
    costs = count_subnetworks(rdn, size)["madds"].tolist()
    alone = {f"N_{index}": cost for index, cost in enumerate(costs, start=1)}
    return pd.Series({"base": count(model, size)["madds"].sum(), **alone, "all N_i": costs[-1]}, dtype=float)


@flushing_denormals()
def _take_turns(networks: dict[str, nn.Module], images: torch.Tensor, repeats: int, threads: int) -> pd.DataFrame:
    """Seconds of one batch: a column for each network, a row for each turn."""
    with torch.inference_mode():
        timers = {
            name: Timer("network(images)", globals={"network": network, "images": images}, num_threads=threads)
            for name, network in networks.items()
        }
        first = {name: timer.timeit(2).mean for name, timer in timers.items()}  # and warm
        counts = {name: max(1, math.ceil(LEAST / seconds)) for name, seconds in first.items()}
        return pd.DataFrame(
            [{name: timer.timeit(counts[name]).mean for name, timer in timers.items()} for _ in range(repeats)]
        )
