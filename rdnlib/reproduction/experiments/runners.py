"""What each kind of experiment does: train, operate, fit, and keep what later ones and the tables need.

Every runner takes the workplace, its node of the graph, its folder, its finished parents and whether to show progress; it returns what
goes into result.json beside name, kind, configuration and time.
"""

import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from rdnlib import models
from rdnlib.deployment import checkpoint
from rdnlib.graph import trace
from rdnlib.madds import count, count_subnetworks
from rdnlib.models.slimmable import Slimmable
from rdnlib.reproduction.experiments.ablation_nets import SomeSubnetworks, reinitialise
from rdnlib.reproduction.experiments.graph import Experiment
from rdnlib.reproduction.experiments.policies import fit_policies
from rdnlib.reproduction.experiments.workspace import Run, Workplace, calibration_batch
from rdnlib.surgery import deepen
from rdnlib.surgery.layout import plan
from rdnlib.surgery.nest import INITS, to_rdn
from rdnlib.surgery.select import select
from rdnlib.surgery.violation import violation
from rdnlib.training import Recipe, evaluate, reestimate_norms, train
from rdnlib.training.evaluate import sample_table
from rdnlib.utils.files import read_json, write_table


def _train_and_keep(
    place: Workplace,
    node: Experiment,
    folder: Path,
    model: nn.Module,
    description: dict,
    progress: bool,
    *,
    trained: nn.Module | None = None,
) -> dict:
    """Train, save the network and its per-image outputs on the calibration and validation splits.

    trained: what gives the loss, where that is not all that the network says.
    """
    recipe = Recipe(**node.config["recipe"])
    history = train(
        model if trained is None else trained, place.splits.train, recipe, seed=node.config["seed"],
        resume=folder / "resume.safetensors", label=node.name, progress=progress,
    )  # fmt: skip
    tables = []
    for split in ("calibration", "validation"):
        images = getattr(place.splits, split)
        outputs = evaluate(model, images, size=recipe.size, label=f"{node.name}: {split}", progress=progress)
        columns = {"top1": outputs.top1, "top5": outputs.top5, "confidence": outputs.confidence}
        tables.append(sample_table(images, split, columns))
    write_table(folder / "samples.parquet", pd.concat(tables, ignore_index=True))
    write_table(folder / "history.csv", history)
    checkpoint.save(folder / "model.safetensors", model, {**description, "input_size": recipe.size})
    return {"epochs": recipe.epochs, "train_seconds": float(history["seconds"].sum())}


def _supernet(place: Workplace, node: Experiment, parents: list[Run]) -> tuple[nn.Module, dict]:
    """The parent's network, or an untrained one where there is no parent; and its description."""
    if parents:
        return parents[0].model(), read_json(parents[0].path / "model.json")
    torch.manual_seed(node.config["seed"])
    description = {"model": {**node.config["model"], "num_classes": len(place.splits.train.classes)}}
    return models.build(**description["model"]), description


def run_base(place: Workplace, node: Experiment, folder: Path, parents: list[Run], progress: bool) -> dict:
    model, description = _supernet(place, node, parents)
    kept = _train_and_keep(place, node, folder, model, description, progress)
    total = count(model.cpu(), node.config["recipe"]["size"]).sum(numeric_only=True)
    return {**kept, "madds": [int(total["madds"])], "params": [int(total["params"])]}


def run_rdn(place: Workplace, node: Experiment, folder: Path, parents: list[Run], progress: bool) -> dict:
    config, size = node.config, node.config["recipe"]["size"]
    supernet, description = _supernet(place, node, parents)
    started = time.perf_counter()
    if config["init"] == "scratch":
        rdn = to_rdn(supernet, config["k"], select="identity")
        reinitialise(rdn, config["seed"])
    else:
        batch = calibration_batch(place, config["calibration_images"], size, config["seed"])
        choices = {key: config[key] for key in ("select", "init", "seed")}
        rdn = to_rdn(supernet, config["k"], calibration=batch, **choices)
    if "split" in config:
        rdn = deepen(rdn, config["split"], calibration=batch, seed=config["seed"])
    surgery_seconds = time.perf_counter() - started
    if config["init"] == "copy":
        reestimate_norms(rdn, list(batch.split(128)))
    before = evaluate(rdn, place.splits.validation, size=size, label=f"{node.name}: before training", progress=progress)
    some = SomeSubnetworks(rdn, config["trained"]) if "trained" in config else None
    kept = _train_and_keep(place, node, folder, rdn, {**description, "rdn": rdn.config}, progress, trained=some)
    totals = count_subnetworks(rdn.cpu(), size)
    return {
        **kept,
        "surgery_seconds": surgery_seconds,
        "madds": totals["madds"].tolist(),
        "params": totals["params"].tolist(),
        "before_training": {"top1": before.top1.mean(axis=0).tolist(), "top5": before.top5.mean(axis=0).tolist()},
        **({"nodes": rdn.nodes, **rdn.config["depth"]} if "split" in config else {}),
    }


def run_slimmable(place: Workplace, node: Experiment, folder: Path, parents: list[Run], progress: bool) -> dict:
    """The parent's network at several widths, each with batch norms of its own, trained together."""
    config, size = node.config, node.config["recipe"]["size"]
    supernet, description = _supernet(place, node, parents)
    slimmable = Slimmable(supernet, config["widths"])
    batch = calibration_batch(place, config["calibration_images"], size, config["seed"])
    reestimate_norms(slimmable, list(batch.split(128)))
    description = {**description, "slimmable": {"widths": config["widths"]}}
    kept = _train_and_keep(place, node, folder, slimmable, description, progress)
    slimmable.cpu()
    totals = [count(slimmable.alone(index), size).sum(numeric_only=True) for index in range(len(config["widths"]))]
    return {**kept, **{column: [int(total[column]) for total in totals] for column in ("madds", "params")}}


def run_surgery(place: Workplace, node: Experiment, folder: Path, parents: list[Run], progress: bool) -> dict:
    """What an RDN knows before any training, by either initialisation, and what the selects cut away."""
    config, supernet, validation = node.config, parents[0].model(), place.splits.validation
    k, seed, size = config["k"], config["seed"], config["size"]
    batches = list(calibration_batch(place, config["calibration_images"], size, seed).split(128))
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            supernet(batch)
    seconds = {"forward": time.perf_counter() - started}
    columns = {"supernet": evaluate(supernet, validation, size=size).top1}
    for init in INITS:
        started = time.perf_counter()
        rdn = to_rdn(supernet, k, select=config["select"], init=init, calibration=batches, seed=seed)
        seconds[init] = time.perf_counter() - started
        if init == "copy":
            reestimate_norms(rdn, batches)
        columns[init] = evaluate(rdn, validation, size=size, label=f"{node.name}: {init}", progress=progress).top1
    write_table(folder / "samples.parquet", sample_table(validation, "validation", columns))
    totals = count_subnetworks(rdn, size)
    return {
        "supernet": float(columns["supernet"].mean()),
        "accuracy": {init: columns[init].mean(axis=0).tolist() for init in INITS},
        "seconds": seconds,
        "violation": _violations(supernet, batches[0], k=k, seed=seed),
        "madds": totals["madds"].tolist(),
        "params": totals["params"].tolist(),
    }


def _violations(supernet: nn.Module, images, *, k: int, seed: int) -> dict[str, float]:
    """What each select cuts away from all layers together, and the whole that it is a part of."""
    layout = plan(trace(supernet), k=k, plain=getattr(supernet, "plain_by_default", ()))
    found = {}
    for strategy in ("greedy", "greedy-relative", "random"):
        cut = violation(replace(layout, orders=select(strategy, layout, [images], seed=seed)), [images])
        found[strategy] = float(cut["cut"].sum())
    return {**found, "whole": float(cut["whole"].sum())}


def run_policy(place: Workplace, node: Experiment, folder: Path, parents: list[Run], progress: bool) -> dict:
    """Fit the policies on the training split's outcomes, and record what they say of every image."""
    rdn, size = parents[0].model(), parents[0].result["config"]["recipe"]["size"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rdn.to(device, memory_format=torch.channels_last)
    outputs = {
        split: evaluate(rdn, getattr(place.splits, split), size=size, label=f"{node.name}: {split}", progress=progress)
        for split in ("train", "calibration", "validation")
    }
    fitted = fit_policies(rdn.cpu(), outputs, parents[0].result["madds"], **node.config)
    tables = [sample_table(getattr(place.splits, split), split, columns) for split, columns in fitted.columns.items()]
    write_table(folder / "samples.parquet", pd.concat(tables, ignore_index=True))
    write_table(folder / "splits.csv", fitted.splits)
    for name, (policy, description) in fitted.policies.items():
        checkpoint.save(folder / f"{name}.safetensors", policy, {**description, "images": place.fingerprint})
    return fitted.costs


KINDS = {
    "base": run_base,
    "surgery": run_surgery,
    "rdn": run_rdn,
    "depth": run_rdn,
    "policy": run_policy,
    "slimmable": run_slimmable,
}
