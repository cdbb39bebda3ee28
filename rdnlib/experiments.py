"""The experiments of the book: base → rdn → policy, each run once and kept.

An experiment is a frozen configuration; its folder is named by a hash of everything that decides its result: settings, data
and the experiments it builds on. A finished one (its result.json exists) is never run again; a killed one goes on from its last
epoch. Two processes that want the same experiment: one runs it, the other waits. Results are per image
(samples.parquet), so that every table and curve is computed from them without running a network again.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from torch import nn

from rdnlib import checkpoint, data
from rdnlib.augment import resize_eval
from rdnlib.errors import ConfigError, RdnError
from rdnlib.files import read_json, write_json

PROJECT = Path(__file__).resolve().parent.parent
PROFILES = PROJECT / "notebooks" / "profiles"
INITS = ("copy", "reconstruct")


@dataclass(frozen=True)
class Experiment:
    """One node of the graph: `config` decides its result, together with its parents and the data."""

    name: str
    kind: str  # "base", "surgery", "rdn" or "policy"
    config: dict
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What `notebooks/profiles/<name>.yaml` says: data, super-net, recipes, and how many experiments run at once."""

    name: str
    data: dict
    model: dict
    recipe: dict
    base: dict
    rdn: dict
    policy: dict
    architectures: dict = field(default_factory=dict)  # further super-nets: {name: {model: …, recipe: …}}
    training_free: dict = field(default_factory=dict)  # settings of surgery that is not followed by training
    sequential: dict = field(default_factory=lambda: {"hidden": [32]})  # the policy that looks again
    widths: tuple[float, ...] = ()  # of further base networks, the rivals of Figure 8
    jobs: int = 1

    def graph(self, seed: int) -> dict[str, Experiment]:
        """All experiments by name, parents first."""
        extra = self.recipe | {"epochs": self.rdn["epochs"]}
        nodes = [Experiment("base", "base", {"model": self.model, "recipe": self.recipe | self.base, "seed": seed})]
        for name, options in self.architectures.items():
            model, recipe = {"name": name, **options["model"]}, self.recipe | self.base | options.get("recipe", {})
            nodes.append(Experiment(f"base-{name}", "base", {"model": model, "recipe": recipe, "seed": seed}))
        for width in self.widths:  # trained as long as base and RDN together
            model, epochs = {**self.model, "width_mult": width}, self.base["epochs"] + self.rdn["epochs"]
            config = {"model": model, "recipe": self.recipe | self.base | {"epochs": epochs}, "seed": seed}
            nodes.append(Experiment(f"base-x{width}", "base", config))
        surgery = {key: self.rdn[key] for key in ("k", "select", "calibration_images")}
        for init in INITS:
            config = {**surgery, "init": init, "recipe": extra | {"lr": self.rdn["lr"][init]}, "seed": seed}
            nodes.append(Experiment(f"rdn-{init}", "rdn", config, ("base",)))
            config = {"one_shot": self.policy, "sequential": self.sequential, "seed": seed}
            nodes.append(Experiment(f"policy-{init}", "policy", config, (f"rdn-{init}",)))
        if self.rdn.get("distill"):  # beyond the paper: N_K teaches the others
            taught = {"lr": self.rdn["lr"]["reconstruct"], "distill": self.rdn["distill"]}
            config = {**surgery, "init": "reconstruct", "recipe": extra | taught, "seed": seed}
            nodes.append(Experiment("rdn-distilled", "rdn", config, ("base",)))
        for name in (self.model["name"], *self.architectures):
            parent = "base" if name == self.model["name"] else f"base-{name}"
            config = {**surgery, **self.training_free, "size": self.recipe["size"], "seed": seed}
            nodes.append(Experiment(f"surgery-{name}", "surgery", config, (parent,)))
        longer = {"recipe": extra | {"lr": self.rdn["lr"]["base"]}, "seed": seed}
        nodes.append(Experiment("base-longer", "base", longer, ("base",)))  # the shortest last: it fills the gap
        return {node.name: node for node in nodes}


def load_profile(name: str) -> Profile:
    """Read a profile; raises ConfigError for an unknown one or one that lacks a section."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise ConfigError(f"unknown profile '{name}': choose from {known}")
    try:
        return Profile(name=name, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"profile {path.name} cannot be read: {error}") from error


@dataclass(frozen=True)
class Workplace:
    """Where and on what experiments run."""

    profile: Profile
    data_root: Path | None
    seed: int
    out: Path

    @cached_property
    def splits(self) -> data.Splits:
        return data.load(**self.profile.data, root=self.data_root, seed=self.seed)

    @cached_property
    def fingerprint(self) -> str:
        return data.fingerprint(self.splits)

    @cached_property
    def graph(self) -> dict[str, Experiment]:
        return self.profile.graph(self.seed)

    def experiment(self, name: str) -> Experiment:
        if name not in self.graph:
            raise ConfigError(f"unknown experiment '{name}': choose from {', '.join(self.graph)}")
        return self.graph[name]

    def key(self, name: str) -> str:
        """Hash of all that decides the result of an experiment."""
        node = self.experiment(name)
        parts = [node.kind, node.config, self.fingerprint, [self.key(parent) for parent in node.parents]]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def depth(self, name: str) -> int:
        """How many experiments in a row come before this one."""
        return max((1 + self.depth(parent) for parent in self.experiment(name).parents), default=0)

    def threads(self, name: str) -> int:
        """CPU threads of an experiment: the cores, shared with those of the same depth that the profile runs beside it.

        It does not depend on who starts it: another number of threads adds in another order, and the numbers differ.
        """
        alongside = sum(self.depth(other) == self.depth(name) for other in self.graph)
        return max(1, (os.cpu_count() or 1) // min(self.profile.jobs, alongside))

    def folder(self, name: str) -> Path:
        return self.out / "experiments" / f"{name}-{self.key(name)}"


def workplace(profile: str, *, data_root=None, seed: int = 0, out=None) -> Workplace:
    """Check the arguments that all commands and notebooks share; `out` defaults to the project's build/<profile>."""
    loaded = load_profile(profile)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, not {seed!r}")
    if data_root is not None and not Path(data_root).is_dir():
        raise ConfigError(
            f"data root {data_root} is not a folder; give the one that holds the '{loaded.data['name']}' data set"
        )
    out = Path(out) if out else PROJECT / "build" / profile  # the same for a notebook, wherever its kernel starts
    return Workplace(loaded, None if data_root is None else Path(data_root), seed, out.resolve())


class Run:
    """A finished experiment: its folder, and what it left there."""

    def __init__(self, name: str, place: Workplace):
        self.name, self.place, self.path = name, place, place.folder(name)

    @cached_property
    def result(self) -> dict:
        return read_json(self.path / "result.json")

    def samples(self) -> pd.DataFrame:
        return pd.read_parquet(self.path / "samples.parquet")

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")

    def model(self) -> nn.Module:
        return checkpoint.load(self.path / "model.safetensors")

    def data(self) -> data.Splits:
        return self.place.splits


def ensure(name: str, *, profile: str, data_root=None, seed: int = 0, out=None, progress: bool = True) -> Run:
    """The finished experiment `name`: from its folder, or run now (with all it builds on)."""
    return ensure_in(workplace(profile, data_root=data_root, seed=seed, out=out), name, progress=progress)


def ensure_in(place: Workplace, name: str, *, progress: bool = True) -> Run:
    parents = [ensure_in(place, parent, progress=progress) for parent in place.experiment(name).parents]
    folder = place.folder(name)
    if not finished(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock"):
            if not finished(folder):  # another process may have finished it while we waited
                _execute(place, name, folder, parents, progress=progress)
    return Run(name, place)


def finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def ensure_all(
    *, profile: str, data_root=None, seed: int = 0, out=None, jobs: int | None = None, progress: bool = True
) -> dict[str, Run]:
    """Run every experiment of the profile, up to `jobs` (default: the profile's) at once, each in its own process.

    On a CPU two processes of one thread each get more done than one process with two threads.
    """
    place = workplace(profile, data_root=data_root, seed=seed, out=out)
    jobs = jobs or place.profile.jobs
    if jobs == 1:
        return {name: ensure_in(place, name, progress=progress) for name in place.graph}
    place.fingerprint  # noqa: B018  reads, checks and caches the data before any process starts
    waiting = [name for name in place.graph if not finished(place.folder(name))]
    running: dict = {}
    children: list[subprocess.Popen] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                busy = set(waiting) | set(running.values())
                for name in [n for n in waiting if not busy & set(place.graph[n].parents)][: jobs - len(running)]:
                    waiting.remove(name)
                    running[pool.submit(_run_in_process, place, name, progress, children)] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    running.pop(future)
                    future.result()
        except BaseException:
            for child in children:  # they keep their last epoch, and go on from there next time
                child.terminate()
            raise
    return {name: Run(name, place) for name in place.graph}


def _run_in_process(place: Workplace, name: str, progress: bool, children: list[subprocess.Popen]) -> None:
    command = [sys.executable, "-m", "rdnlib", "experiment", "run", name, "--profile", place.profile.name]
    command += ["--seed", str(place.seed), "--out", str(place.out)]
    command += ["--data-root", str(place.data_root)] if place.data_root else []
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    children.append(child)
    complaints: list[str] = []
    reader = threading.Thread(target=lambda: complaints.extend(child.stderr), daemon=True)
    reader.start()
    for line in child.stdout:
        if progress and ": epoch " in line:
            print(line, end="", flush=True)
    child.wait()
    reader.join()
    if child.returncode:
        reason = next((line.strip() for line in reversed(complaints) if line.strip()), f"exit code {child.returncode}")
        raise RdnError(f"experiment {name} failed: {reason.removeprefix('error: ')}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the operating system lets go of it when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _execute(place: Workplace, name: str, folder: Path, parents: list[Run], *, progress: bool) -> None:
    from rdnlib.runners import KINDS  # which need what is defined here

    started = time.perf_counter()
    node = place.experiment(name)
    write_json(folder / "config.json", {**asdict(node), "data": place.profile.data, "fingerprint": place.fingerprint})
    threads_before = torch.get_num_threads()
    torch.set_num_threads(place.threads(name))
    try:
        result = KINDS[node.kind](place, node, folder, parents, progress)
    finally:
        torch.set_num_threads(threads_before)
    seconds = time.perf_counter() - started
    write_json(
        folder / "result.json", {"name": name, "kind": node.kind, "config": node.config, "seconds": seconds, **result}
    )


def calibration_batch(place: Workplace, images: int, size: int, seed: int):
    """Training images for surgery, evenly spread over the split (which is ordered by class): (B, 3, size, size)."""
    split = place.splits.train
    rows = np.sort(np.random.default_rng(seed).permutation(len(split))[:images])
    return resize_eval(torch.from_numpy(np.ascontiguousarray(split.images[rows])), size)
