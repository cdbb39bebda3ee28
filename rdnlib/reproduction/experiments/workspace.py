"""The experiments of the book: base → rdn → policy, each run once and kept.

An experiment is a frozen configuration; its folder is named by a hash of everything that decides its result: settings, data
and the experiments it builds on. A finished one (its result.json exists) is never run again; a killed one goes on from its last
state. Two commands that want the same experiment: one runs it, the other waits; the processes of one command (`devices`)
run it together. Results are per image (samples.parquet), so that every table and curve is computed from them without
running a network again.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from rdnlib.data import datasets
from rdnlib.data.transforms import resize_eval
from rdnlib.deployment import checkpoint
from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments.config import Profile, load_profile
from rdnlib.reproduction.experiments.graph import Experiment, experiments, seeds_from
from rdnlib.reproduction.experiments.scheduler import Worker
from rdnlib.utils import devices
from rdnlib.utils.files import read_json, write_json, writing
from rdnlib.utils.resources import default_out


@dataclass(frozen=True)
class Workplace:
    """Where and on what experiments run."""

    profile: Profile
    data_root: Path | None
    seed: int
    out: Path

    @cached_property
    def splits(self) -> datasets.Splits:
        with devices.here().main_process_first():  # which makes the cache
            return datasets.load(**self.profile.data.settings(), root=self.data_root, seed=self.seed)

    @cached_property
    def fingerprint(self) -> str:
        splits = self.splits
        return devices.broadcast(datasets.fingerprint(splits) if devices.here().is_main_process else None)

    @cached_property
    def graph(self) -> dict[str, Experiment]:
        return experiments(self.profile, self.seed)

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
        if self.profile.threads:
            return self.profile.threads
        alongside = sum(self.depth(other) == self.depth(name) for other in self.graph)
        processes = min(self.profile.jobs, alongside) * devices.here().num_processes
        return max(1, (os.cpu_count() or 1) // processes)

    def folder(self, name: str) -> Path:
        return self.out / "experiments" / f"{name}-{self.key(name)}"


def workplace(
    profile: str, *, data: str | None = None, data_root=None, seed: int = 0, out=None, toy: bool = False
) -> Workplace:
    """Check the arguments that all commands and notebooks share.

    profile: the name of a shipped profile, or the path of a .yaml file; data, toy: see `load_profile`. out: default
    build/<the profile's name>, see `default_out`.
    """
    loaded = load_profile(profile, data=data, toy=toy)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, not {seed!r}")
    if data_root is not None and not Path(data_root).is_dir():
        raise ConfigError(
            f"data root {data_root} is not a folder; give the one that holds the '{loaded.data.name}' data set"
        )
    out = Path(out) if out else default_out(loaded.name)
    return Workplace(loaded, None if data_root is None else Path(data_root), seed, out.resolve())


def replicas(place: Workplace, seeds: int | None = None) -> list[Workplace]:
    """The same place at so many consecutive seeds; default: as many as the profile says."""
    return [replace(place, seed=seed) for seed in seeds_from(place.profile, place.seed, seeds)]


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

    def data(self) -> datasets.Splits:
        return self.place.splits


def ensure(name: str, *, profile: str, data_root=None, seed: int = 0, out=None, progress: bool = True) -> Run:
    """The finished experiment `name`: from its folder, or run now (with all it builds on)."""
    return ensure_in(workplace(profile, data_root=data_root, seed=seed, out=out), name, progress=progress)


def ensure_in(place: Workplace, name: str, *, progress: bool = True) -> Run:
    parents = [ensure_in(place, parent, progress=progress) for parent in place.experiment(name).parents]
    with _claimed(place.folder(name)) as folder:
        if folder is not None:
            _execute(place, name, folder, parents, progress=progress)
    return Run(name, place)


def finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def ensure_all(
    *,
    profile: str,
    data_root=None,
    seed: int = 0,
    out=None,
    jobs: int | None = None,
    progress: bool = True,
    names: Iterable[str] | None = None,
) -> dict[str, Run]:
    """Run every experiment of the profile, up to `jobs` (default: the profile's) at once, each in its own process.

    names: run just these, which must hold all that they build on.

    On a CPU two processes of one thread each get more done than one process with two threads.
    """
    place = workplace(profile, data_root=data_root, seed=seed, out=out)
    jobs, names = jobs or place.profile.jobs, list(place.graph if names is None else names)
    if jobs == 1 or devices.here().num_processes > 1:
        return {name: ensure_in(place, name, progress=progress) for name in names}
    place.fingerprint  # noqa: B018  reads, checks and caches the data before any process starts
    waiting = [name for name in names if not finished(place.folder(name))]
    workers = [Worker(place, progress=progress) for _ in range(min(jobs, len(waiting)))]
    idle, running = list(workers), {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                busy = set(waiting) | {name for name, _ in running.values()}
                for name in [n for n in waiting if not busy & set(place.graph[n].parents)][: len(idle)]:
                    waiting.remove(name)
                    worker = idle.pop()
                    running[pool.submit(worker.run, name)] = name, worker
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    idle.append(running.pop(future)[1])
                    future.result()
        finally:
            for worker in workers:  # what they keep of an unfinished experiment is its last state
                worker.stop()
    return {name: Run(name, place) for name in names}


@contextmanager
def _claimed(folder: Path) -> Iterator[Path | None]:
    """The folder to run an experiment in, ours alone while the context is open; None if it is finished already.

    Of several processes the main one holds the lock; the others, who must not write there, get folders of their own.
    """
    main = devices.here().is_main_process
    with ExitStack() as stack:
        todo = main and not finished(folder)
        if todo:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            todo = not finished(folder)  # another command may have finished it while we waited
        todo = devices.broadcast(todo)
        yield stack.enter_context(devices.own_folder(folder)) if todo else None
        devices.here().wait_for_everyone()


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the exclusive lock of an experiment; the operating system lets go of it when the process ends, however it ends.

    Without `wait`, raises BlockingIOError if somebody holds it.
    """
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _execute(place: Workplace, name: str, folder: Path, parents: list[Run], *, progress: bool) -> None:
    from rdnlib.reproduction.experiments.runners import KINDS  # which need what is defined here

    started = time.perf_counter()
    node = place.experiment(name)
    for half_written in folder.glob(".*"):  # by a process that was killed
        half_written.unlink()
    write_json(
        folder / "config.json",
        {**asdict(node), "data": place.profile.data.settings(), "fingerprint": place.fingerprint},
    )
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
