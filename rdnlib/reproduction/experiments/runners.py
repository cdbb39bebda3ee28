"""What each kind of experiment does: train, operate, fit, and keep what later ones and the tables need.

An experiment whose result.json exists is never run again; a killed one goes on from its last state. Two commands that want the
same one: one runs it, the other waits for its lock. The processes of one command (`devices`) run it together.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from rdnlib import models
from rdnlib.deployment import checkpoint
from rdnlib.graph import trace
from rdnlib.madds import count, count_incremental, count_subnetworks
from rdnlib.models.slimmable import Slimmable
from rdnlib.nn.rdn import RDN
from rdnlib.reproduction.experiments.ablation_nets import SomeSubnetworks, reinitialise
from rdnlib.reproduction.experiments.graph import Experiment
from rdnlib.reproduction.experiments.policies import fit_policies
from rdnlib.reproduction.experiments.workspace import SCHEMA, Run, Workspace, finished, lock
from rdnlib.surgery import deepen
from rdnlib.surgery.layout import plan
from rdnlib.surgery.nest import INITS, plain_layers, to_rdn
from rdnlib.surgery.select import select
from rdnlib.surgery.violation import violation
from rdnlib.training import Recipe, evaluate, reestimate_norms, train
from rdnlib.training.evaluate import Outputs, sample_table
from rdnlib.utils import devices
from rdnlib.utils.files import read_json, write_json, write_table, writing
from rdnlib.utils.provenance import provenance


@dataclass(frozen=True)
class Job:
    """An experiment that is being run: its node of the graph, its folder and the finished experiments it builds on."""

    workspace: Workspace
    node: Experiment
    folder: Path
    parents: list[Run]
    progress: bool

    def evaluate(self, model: nn.Module, split: str, size: int, note: str | None = None) -> Outputs:
        label = f"{self.workspace.label(self.node.name)}: {note or split}"
        return evaluate(model, getattr(self.workspace.splits, split), size=size, label=label, progress=self.progress)

    def write_samples(self, columns: dict[str, dict]) -> None:
        """Write samples.parquet: split → per-image columns, as `sample_table` takes them."""
        tables = [sample_table(getattr(self.workspace.splits, split), split, each) for split, each in columns.items()]
        write_table(self.folder / "samples.parquet", pd.concat(tables, ignore_index=True))


def run(workspace: Workspace, name: str, *, progress: bool = True) -> Run:
    """The experiment `name`: found, or run now. Those it builds on must be finished.

    Of several processes the main one holds the lock; the others, who must not write there, get folders of their own.
    """
    folder, here = workspace.folder(name), devices.here()
    with ExitStack() as stack:
        todo = here.is_main_process and not finished(folder)
        if todo and workspace.published:
            raise workspace.not_published(name)
        if todo:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(folder))
            todo = not finished(folder)  # another command may have finished it while we waited
        if devices.broadcast(todo):
            node, own_folder = workspace.experiment(name), stack.enter_context(devices.own_folder(folder))
            _execute(Job(workspace, node, own_folder, [Run(parent, workspace) for parent in node.parents], progress))
        here.wait_for_everyone()
    return Run(name, workspace)


def _execute(job: Job) -> None:
    started, clock, node, workspace, folder = (
        datetime.now(UTC),
        time.perf_counter(),
        job.node,
        job.workspace,
        job.folder,
    )
    for half_written in folder.glob(".*"):  # left by a process that was killed
        half_written.unlink()
    write_json(folder / "config.json", {**asdict(node), "data": workspace.profile.data.settings()})
    devices.keep_freed_memory()
    threads = workspace.threads(node.name)
    with devices.cpu_threads(threads):
        measured = RUNNERS[node.kind](job)
    record = {
        "schema": SCHEMA,
        "started": started.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - clock,
    }
    record |= {"threads": threads, "processes": devices.here().num_processes, "memory_gb": devices.most_memory() / 1e9}
    record |= provenance()
    result = {"name": node.name, "kind": node.kind, "config": node.config, **measured, "data": asdict(workspace.data)}
    write_json(folder / "result.json", {**result, "provenance": record})


def _train_and_save(job: Job, model: nn.Module, description: dict, *, trained: nn.Module | None = None) -> dict:
    """Train, save the network and its per-image outputs on the calibration and validation splits.

    trained: what gives the loss, where that is not all outputs of the network.
    """
    recipe = Recipe(**job.node.config["recipe"])
    teacher = job.parents[0].model() if recipe.supernet_teaches and job.parents else None
    history = train(
        model if trained is None else trained, job.workspace.splits.train, recipe, seed=job.node.config["seed"],
        teacher=teacher, resume=job.folder / "resume.safetensors",
        label=job.workspace.label(job.node.name), progress=job.progress,
    )  # fmt: skip
    columns = {}
    for split in ("calibration", "validation"):
        outputs = job.evaluate(model, split, recipe.size)
        columns[split] = {"top1": outputs.top1, "top5": outputs.top5, "confidence": outputs.confidence}
    job.write_samples(columns)
    write_table(job.folder / "history.csv", history)
    checkpoint.save(job.folder / "model.safetensors", model, {**description, "input_size": recipe.size})
    return {"epochs": recipe.epochs, "train_seconds": float(history["seconds"].sum())}


def _supernet(job: Job) -> tuple[nn.Module, dict]:
    """The parent's network, or an untrained one where there is no parent; and its description."""
    if job.parents:
        return job.parents[0].model(), read_json(job.parents[0].path / "model.json")
    torch.manual_seed(job.node.config["seed"])
    description = {"model": {**job.node.config["model"], "num_classes": len(job.workspace.data.classes)}}
    return models.build(**description["model"]), description


def _totals(rows: pd.DataFrame | list[pd.Series]) -> dict[str, list[int]]:
    """MAdds and parameters, a row per network, as JSON values."""
    return pd.DataFrame(rows)[["madds", "params"]].astype(int).to_dict("list")


def _costs(rdn: RDN, size: int) -> dict[str, list[int]]:
    """`_totals` of all sub-networks as they are executed, and as the paper counts them."""
    unfolded = _totals(count_subnetworks(rdn, size, folded=False))
    return _totals(count_subnetworks(rdn, size)) | {f"{name}_unfolded": totals for name, totals in unfolded.items()}


def run_base(job: Job) -> dict:
    model, description = _supernet(job)
    measured = _train_and_save(job, model, description)
    return {**measured, **_totals([count(model.cpu(), job.node.config["recipe"]["size"]).sum(numeric_only=True)])}


def _operate(job: Job, supernet: nn.Module) -> RDN:
    """The RDN before training. Of several processes the main one operates, and the others receive its numbers."""
    config, here = job.node.config, devices.here()
    kwargs = {"k": config["k"], "plain": config["plain"]}
    batch = None
    if config["init"] == "scratch" or not here.is_main_process:  # the structure does not depend on images
        rdn = to_rdn(supernet, select="identity", **kwargs)
    else:
        batch = job.workspace.calibration_images(config["calibration_images"], config["recipe"]["size"])
        choices = {key: config[key] for key in ("select", "init", "seed")}
        rdn = to_rdn(supernet, calibration=batch, **kwargs, **choices)
    if "split" in config:
        rdn = deepen(rdn, config["split"], calibration=batch, seed=config["seed"])
    if config["init"] == "scratch":
        reinitialise(rdn, config["seed"])
    elif config["init"] == "copy" and batch is not None:
        reestimate_norms(rdn, list(batch.split(128)))
    rdn.to(here.device)  # where processes exchange tensors
    devices.broadcast_tensors([*rdn.parameters(), *rdn.buffers()])
    rdn.config = devices.broadcast(rdn.config)
    return rdn


def run_rdn(job: Job) -> dict:
    config, size = job.node.config, job.node.config["recipe"]["size"]
    supernet, description = _supernet(job)
    started = time.perf_counter()
    rdn = _operate(job, supernet)
    surgery_seconds = time.perf_counter() - started
    before = job.evaluate(rdn, "validation", size, "before training")
    some = SomeSubnetworks(rdn, config["trained"]) if "trained" in config else None
    measured = _train_and_save(job, rdn, {**description, "rdn": rdn.config}, trained=some)
    measured |= {"surgery_seconds": surgery_seconds, **_costs(rdn.cpu(), size)}
    measured |= {"agreement": rdn.config.get("agreement")}
    measured |= {"before_training": {name: getattr(before, name).mean(axis=0).tolist() for name in ("top1", "top5")}}
    return measured | ({"nodes": rdn.nodes, **rdn.config["depth"]} if "split" in config else {})


def run_slimmable(job: Job) -> dict:
    """The parent's network at several widths, each with batch norms of its own, trained together."""
    config, size = job.node.config, job.node.config["recipe"]["size"]
    supernet, description = _supernet(job)
    slimmable = Slimmable(supernet, config["widths"])
    reestimate_norms(slimmable, list(job.workspace.calibration_images(config["calibration_images"], size).split(128)))
    measured = _train_and_save(job, slimmable, {**description, "slimmable": {"widths": config["widths"]}})
    alone = [slimmable.cpu().alone(index) for index in range(len(config["widths"]))]
    return {**measured, **_totals([count(network, size).sum(numeric_only=True) for network in alone])}


def run_surgery(job: Job) -> dict:
    """What an RDN knows before any training, by either initialisation, and what the selects cut away."""
    config, supernet = job.node.config, job.parents[0].model()
    k, seed, size, plain = config["k"], config["seed"], config["size"], config["plain"]
    batches = list(job.workspace.calibration_images(config["calibration_images"], size).split(128))
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            supernet(batch)
    seconds = {"forward": time.perf_counter() - started}
    columns = {"supernet": job.evaluate(supernet, "validation", size).top1}
    for init in INITS:
        started = time.perf_counter()
        rdn = to_rdn(supernet, k, select=config["select"], init=init, calibration=batches, plain=plain, seed=seed)
        seconds[init] = time.perf_counter() - started
        if init == "copy":
            reestimate_norms(rdn, batches)
        columns[init] = job.evaluate(rdn, "validation", size, init).top1
    job.write_samples({"validation": columns})
    return {
        "supernet": float(columns["supernet"].mean()),
        "accuracy": {init: columns[init].mean(axis=0).tolist() for init in INITS},
        "agreement": rdn.config["agreement"],
        "seconds": seconds,
        "violation": _violations(supernet, batches[0], k=k, plain=plain, seed=seed),
        **_costs(rdn, size),
    }


def _violations(supernet: nn.Module, images, *, k: int, plain: float | list[str] | None, seed: int) -> dict[str, float]:
    """What each select cuts away from all layers together, and the whole that it is a part of."""
    traced = trace(supernet)
    layout = plan(traced, k=k, plain=plain_layers(supernet, traced, plain))
    violations = {}
    for strategy in ("greedy", "greedy-relative", "random"):
        cut = violation(replace(layout, orders=select(strategy, layout, [images], seed=seed)), [images])
        violations[strategy] = float(cut["cut"].sum())
    return {**violations, "whole": float(cut["whole"].sum())}


def run_policy(job: Job) -> dict:
    """Fit the policies on the training split's outcomes, and record their outputs for every image."""
    rdn, size = job.parents[0].model(), job.parents[0].result["config"]["recipe"]["size"]
    rdn.to(memory_format=torch.channels_last)
    outputs = {split: job.evaluate(rdn, split, size) for split in ("train", "calibration", "validation")}
    costs = count_incremental(rdn.cpu(), size)
    fitted = fit_policies(rdn, outputs, costs["total"], answers=costs["answer"], **job.node.config)
    job.write_samples(fitted.columns)
    write_table(job.folder / "splits.csv", fitted.splits)
    for name, (policy, description) in fitted.policies.items():
        description["images"] = job.workspace.fingerprint
        checkpoint.save(job.folder / f"{name}.safetensors", policy, description)
    return fitted.costs


RUNNERS = {
    "base": run_base, "surgery": run_surgery, "rdn": run_rdn, "depth": run_rdn, "policy": run_policy,
    "slimmable": run_slimmable,
}  # fmt: skip
