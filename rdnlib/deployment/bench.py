"""What saved multiply-adds are worth in time: every sub-network against its base network, side by side in one process.

All networks take turns, so that other load on the machine meets them alike; a ratio is the median of the quotients of turns beside each
other. Networks are as they are deployed (`deploy`), the base network too: its batch norms are folded. Times are wall time by
`torch.utils.benchmark`, which warms up and sets the number of threads.
"""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.utils.benchmark import Timer

from rdnlib.deployment.deploy import deploy
from rdnlib.deployment.runtimes import ANY_BATCH, Network, prepare
from rdnlib.deployment.stages import Exits
from rdnlib.deployment.tune import fastest_form, forms
from rdnlib.madds import count, count_subnetworks
from rdnlib.nn.rdn import RDN, SubNetwork
from rdnlib.policy.network import PolicyNetwork
from rdnlib.surgery.nest import to_rdn
from rdnlib.utils.devices import cpu_threads, flushing_denormals

LEAST = 0.1  # seconds that a turn lasts at least


def bench(
    model: nn.Module, size: int, *, k: int = 4, plain: float | Sequence[str] | None = None, batches: Iterable[int] = (1, 16),
    repeats: int = 9, threads: int | None = None, channels_last: bool = True, tuned: bool = True, seed: int = 0,
    runtime: str = "eager",
) -> pd.DataFrame:  # fmt: skip
    """Latency of a super-net and of all sub-networks of its RDN on random images (batch, 3, size, size), a row per network and batch.

    k, plain: as `to_rdn` takes them. repeats: turns of each network. threads: default torch's. channels_last: the layout of weights
    and images. tuned: each sub-network's convolutions as they are fastest, by `tune` or, in another runtime than "eager", as the best
    of `schemes`. runtime: of all networks, see `runtimes`. Columns: batch, network ("base", "N_1" … "N_K", and "all N_i" for one pass
    that answers for each of them), milliseconds (median, per batch), to_base and to_largest (ratios of times, N_K the largest), and
    beside each the ratio of the MAdds.
    """
    torch.manual_seed(seed)
    threads = threads or torch.get_num_threads()
    device = next(model.parameters()).device
    rdn = deploy(to_rdn(model, k, select="identity", plain=plain))
    networks, madds = _networks(model, rdn), _madds(model, rdn, size)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for network in networks.values():
        network.to(device, memory_format=layout)
    largest, parts, ways = f"N_{rdn.num_subnetworks}", [], {}
    for batch in batches:
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=layout)
        with cpu_threads(threads):  # the same for tuning and timing
            if not ways or runtime not in ANY_BATCH:
                ways = {
                    name: _forms(each, images, runtime, tuned=tuned, threads=threads) for name, each in networks.items()
                }
            ready = {name: fastest_form(each, images) for name, each in ways.items()}
            seconds = _take_turns(ready, images, repeats, threads)
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


def bench_exits(
    rdn: RDN, policy: PolicyNetwork, saved: Sequence[float], lams: Sequence[float], images: torch.Tensor, madds: Sequence[float], *,
    base: nn.Module | None = None, batches: Iterable[int] = (1,), runtime: str = "eager", threads: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Dynamic inference with real exits against N_K, and against a base network, on real images (N, 3, H, W): a row per batch size and λ.

    For each batch of images all networks take turns. rdn: trained. madds: (K,) cost of each exit, policy included. Columns: batch, lam,
    exits (mean number of the sub-network), predicted (mean MAdds ÷ those of N_K alone), measured (seconds ÷ N_K's), realised (saving
    measured ÷ saving predicted), to_base (seconds ÷ the base's, where one is given).
    """
    threads, rdn, lams = threads or torch.get_num_threads(), deploy(rdn), list(lams)
    largest, name = rdn.subnetwork(rdn.num_subnetworks), f"N_{rdn.num_subnetworks}"
    costs, whole = np.asarray(madds, dtype=float), count_subnetworks(rdn, images.shape[-1])["madds"].iloc[-1]
    rows, exits = [], None
    for batch in batches:
        sample = images[:batch]
        with cpu_threads(threads):
            if exits is None or runtime not in ANY_BATCH:
                ways, others = forms(largest, sample, runtime, threads=threads), {}
                if base is not None:
                    others = {"base": prepare(fuse(deepcopy(base).eval()), [sample], runtime, threads=threads)}
                exits = Exits(rdn, policy, saved, lams[0], sample, runtime=runtime, threads=threads)
            else:
                exits.choose_ways(sample)
            networks = {name: fastest_form(ways, sample), **others}
            dynamic = [exits.at(lam) for lam in lams]
            networks |= {f"exits {number}": each for number, each in enumerate(dynamic)}
            seconds = pd.DataFrame([_once(networks, part, threads) for part in images.split(batch)]).sum()
            chosen = [torch.cat([each(part)[1] for part in images.split(batch)]).numpy() for each in dynamic]
        for number, (lam, left) in enumerate(zip(lams, chosen, strict=True)):
            took = seconds[f"exits {number}"]
            row = {"batch": batch, "lam": lam, "exits": left.mean(), "predicted": costs[left - 1].mean() / whole}
            rows.append(row | {"measured": took / seconds[name], "to_base": took / seconds.get("base", math.nan)})
    table = pd.DataFrame(rows)
    saving = 1 - table["predicted"]
    return table.assign(realised=((1 - table["measured"]) / saving).where(saving > 0))


@flushing_denormals()
def _once(networks: dict[str, Network], images: torch.Tensor, threads: int) -> dict[str, float]:
    """Seconds that each network needs for these images; the timer warms it up."""
    with torch.inference_mode():
        return {name: timer.timeit(2).mean for name, timer in _timers(networks, images, threads).items()}


def _timers(networks: dict[str, Network], images: torch.Tensor, threads: int) -> dict[str, Timer]:
    return {
        name: Timer("network(images)", globals={"network": network, "images": images}, num_threads=threads)
        for name, network in networks.items()
    }


def _forms(network: nn.Module, images: torch.Tensor, runtime: str, *, tuned: bool, threads: int) -> list[Network]:
    if tuned and isinstance(network, SubNetwork):
        return forms(network, images, runtime, threads=threads)
    return [prepare(network, [images], runtime, threads=threads)]


def _madds(model: nn.Module, rdn: RDN, size: int) -> pd.Series:
    costs = count_subnetworks(rdn, size)["madds"].tolist()
    alone = {f"N_{index}": cost for index, cost in enumerate(costs, start=1)}
    return pd.Series({"base": count(model, size)["madds"].sum(), **alone, "all N_i": costs[-1]}, dtype=float)


@flushing_denormals()
def _take_turns(networks: dict[str, Network], images: torch.Tensor, repeats: int, threads: int) -> pd.DataFrame:
    """Seconds of one batch: a column for each network, a row for each turn."""
    with torch.inference_mode():
        timers = _timers(networks, images, threads)
        first = {name: timer.timeit(2).mean for name, timer in timers.items()}  # and warm
        counts = {name: max(1, math.ceil(LEAST / seconds)) for name, seconds in first.items()}
        return pd.DataFrame(
            [{name: timer.timeit(counts[name]).mean for name, timer in timers.items()} for _ in range(repeats)]
        )
