"""What a profile would take: every experiment with its images, hours, disk and memory, from a few steps timed on this machine.

Nothing is trained. Photographs that are kept decoded are decoded into the user's cache, as the run itself would; nothing else is
written. Each distinct network takes some steps of its recipe on random images; hours are images to train on and to evaluate over
images a second.
"""

import json
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import nn

from rdnlib import models
from rdnlib.data.datasets import IN_FOLDERS
from rdnlib.models.slimmable import Slimmable
from rdnlib.nn.rdn import RDN
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.ablation_nets import SomeSubnetworks
from rdnlib.reproduction.experiments.benchmark import peak_memory, training_step
from rdnlib.reproduction.experiments.graph import Experiment
from rdnlib.reproduction.experiments.workspace import Workspace, finished
from rdnlib.surgery import deepen
from rdnlib.surgery.nest import to_rdn
from rdnlib.training.recipe import Recipe
from rdnlib.utils import devices

TIMED = {"cuda": 2**24, "cpu": 2**19}  # at most so many pixels in a timed step: with more, an image is hardly faster
COPIES = 3  # a training's state: weights, momentum, moving average
FORWARD = 1 / 3  # of a training step's time


def plan(workspace: Workspace, seeds: int | None = None, *, repeats: int = 3) -> pd.DataFrame:
    """One row per experiment that trains, in the order of the graph; checks the data root by reading the splits.

    Columns: name, seeds (how many are to do), after (parents), epochs, images_per_second (while training, on one device), hours (of
    one device, all seeds), disk_mb (what stays, all seeds), state_mb (while it trains), memory_mb (of a step, on each of the processes
    that share its batch).
    """
    times, rows, measured, speeds = graph.repeats(workspace.profile, seeds), [], {}, {}
    images, replicas = workspace.data.images, workspace.replicas(max(times.values(), default=1))
    for name, node in workspace.graph.items():
        if "recipe" not in node.config:
            continue
        recipe = Recipe(**node.config["recipe"])
        todo = sum(not finished(replica.folder(name)) for replica in replicas[: times[name]])
        what = _structure(workspace, node)
        key = json.dumps([what, recipe.size, recipe.batch_size, recipe.parts, recipe.precision])
        if key not in measured:
            with devices.cpu_threads(workspace.threads("base")):
                measured[key] = _measure(_build(what, len(workspace.data.classes)), recipe, repeats)
        speed, parameters, memory = measured[key]
        if recipe.supernet_teaches and node.parents:  # which answers for every image
            speed = 1 / (1 / speed + FORWARD / speeds[node.parents[0]])
        speeds[name] = speed
        trained, seen = recipe.epochs * images["train"], images["calibration"] + images["validation"]
        weights = 4 * parameters / 1e6
        rows.append({
            "name": name, "seeds": todo, "after": ", ".join(node.parents), "epochs": recipe.epochs, "images_per_second": speed,
            "hours": todo * (trained + FORWARD * seen) / speed / 3600, "disk_mb": times[name] * (weights + 2e-5 * seen),
            "state_mb": COPIES * weights, "memory_mb": memory / 1e6,
        })  # fmt: skip
    return pd.DataFrame(rows)


def cache_bytes(workspace: Workspace) -> int:
    """Room that the decoded images take in the user's cache folder."""
    data = workspace.profile.data
    kept = data.name in IN_FOLDERS and data.cached is not False
    return sum(workspace.data.images.values()) * 3 * (data.size or 32) ** 2 if kept else 0


def in_words(workspace: Workspace, table: pd.DataFrame) -> str:
    """The totals in words."""
    on_gpu = torch.cuda.is_available()
    kind, here = ("GPU", torch.cuda.device_count()) if on_gpu else ("process", workspace.profile.jobs)
    threads = "" if on_gpu else f", CPU threads of each: {workspace.threads('base')}"
    hours, images = table["hours"].sum(), workspace.data.images
    lines = [
        f"{workspace.data.name}: {images['train']:,} images to train on, {images['calibration']:,} to calibrate on, "
        f"{images['validation']:,} to validate on, {len(workspace.data.classes)} classes",
        f"{hours:,.1f} hours of one {kind}, {hours / here:,.1f} with {here} of them{threads}",
        f"disk: {table['disk_mb'].sum() / 1e3:,.2f} GB of results, {table['state_mb'].max() / 1e3:,.2f} GB for each training's state, "
        f"{cache_bytes(workspace) / 1e9:,.1f} GB of decoded images",
        "not counted: reading and decoding images, surgery and policies (minutes each), notebooks",
        f"memory of a training step: up to {table['memory_mb'].max() / 1e3:,.1f} GB on each process",
    ]
    return "\n".join(lines)


def shown(table: pd.DataFrame) -> str:
    """The table as text."""
    formats = dict.fromkeys(("images per second", "disk mb", "state mb", "memory mb"), "{:,.0f}".format)
    titled = table.rename(columns=lambda name: name.replace("_", " "))
    return titled.to_string(index=False, formatters=formats | {"hours": "{:,.2f}".format})


def _structure(workspace: Workspace, node: Experiment) -> dict:
    """What of a configuration decides the time of a step."""
    first = node
    while first.parents:
        first = workspace.graph[first.parents[0]]
    options = {key: node.config[key] for key in ("k", "plain", "split", "trained", "widths") if key in node.config}
    return {"kind": node.kind, "model": first.config["model"], **options}


def _build(what: dict, classes: int) -> nn.Module:
    """An untrained network of that structure."""
    options = {option: value for option, value in what["model"].items() if option != "weights"}
    network = models.build(**options, num_classes=classes)
    if what["kind"] == "slimmable":
        return Slimmable(network, what["widths"])
    if what["kind"] == "base":
        return network
    rdn: RDN = to_rdn(network, what["k"], select="identity", plain=what["plain"])
    rdn = deepen(rdn, what["split"]) if "split" in what else rdn
    return SomeSubnetworks(rdn, what["trained"]) if "trained" in what else rdn


@devices.flushing_denormals()
def _measure(network: nn.Module, recipe: Recipe, repeats: int) -> tuple[float, int, float]:
    """Images a second of training on one device, the number of parameters, and bytes of a step on one of its processes."""
    device = devices.here().device
    share = recipe.batch_size // recipe.parts
    count, shape = min(share, max(2, TIMED[device.type] // recipe.size**2)), (3, recipe.size, recipe.size)
    network.to(device, memory_format=torch.channels_last).train()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    images = torch.randn(count, *shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(count, dtype=torch.long, device=device)
    step = training_step(network, images, labels)

    def run() -> None:
        with devices.precision(recipe.precision):
            step()

    run()  # the first is slower
    seconds = sorted(_seconds(run, device) for _ in range(repeats))[repeats // 2]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        memory = torch.cuda.max_memory_allocated()
    else:
        memory = peak_memory(run)
    return count / seconds, parameters, memory * share / count


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
