"""What became of a profile's experiments, and what in its folder nobody asks for any more."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from filelock import Timeout

from rdnlib.errors import CheckpointError
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.workspace import Workspace, finished, lock
from rdnlib.training import state
from rdnlib.utils.files import read_json


def status(workspace: Workspace, seeds: int | None = None) -> pd.DataFrame:
    """One row per experiment and seed (see `graph.repeats`), parents first. Columns: name, seed, state, epoch, epochs, seconds, folder.

    state: finished; running (some process holds its lock); resumable (a state was left); waiting (not begun). epoch of
    epochs are done, 0 of 0 where nothing is trained; seconds: all of a finished one, those of its epochs before.
    """
    repeats = graph.repeats(workspace.profile, seeds)
    replicas = workspace.replicas(max(repeats.values()))
    rows = [_status(replica, name) for name in workspace.graph for replica in replicas[: repeats[name]]]
    return pd.DataFrame(rows)


def _status(workspace: Workspace, name: str) -> dict:
    folder, epochs = workspace.folder(name), workspace.graph[name].config.get("recipe", {}).get("epochs", 0)
    row = {"name": name, "seed": workspace.seed, "state": "waiting", "epoch": 0, "epochs": epochs, "seconds": 0.0}
    if finished(folder):
        seconds = read_json(folder / "result.json")["provenance"]["seconds"]
        row |= {"state": "finished", "epoch": epochs, "seconds": seconds}
    elif folder.is_dir():
        with suppress(CheckpointError):
            progress = state.peek(folder / "resume.safetensors")
            seconds = sum(epoch["seconds"] for epoch in progress.history) + progress.seconds
            row |= {"state": "resumable", "epoch": len(progress.history), "seconds": seconds}
        with _locked(folder) as free:
            row |= {} if free else {"state": "running"}
    return row | {"folder": str(folder)}


@dataclass(frozen=True)
class Leftover:
    """A folder that may go: why, and its bytes."""

    folder: Path
    reason: str
    size: int


def leftovers(workspace: Workspace, *, unfinished: bool = False) -> list[Leftover]:
    """Experiments that the profile does not ask for, with any seed that was ever run here; `unfinished`: and those that were begun
    and have no result. One that somebody is running is never among them.
    """
    folders = sorted(path for path in (workspace.out / "experiments").glob("[!.]*") if path.is_dir())
    wanted: set[Path] = set()
    for seed in {workspace.seed, *map(_seed, folders)} - {None}:
        another = replace(workspace, seed=seed)
        wanted |= {another.folder(name) for name in another.graph}
    unused = []
    for folder in folders:
        reason = "not asked for" if folder not in wanted else "unfinished" if not finished(folder) else ""
        if reason == "not asked for" or (reason and unfinished):
            with _locked(folder) as free:
                if free:
                    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                    unused.append(Leftover(folder, reason, size))
    return unused


def remove(leftover: Leftover) -> bool:
    """Delete the folder unless somebody has begun to run it; whether it is gone."""
    with _locked(leftover.folder) as free:
        if free:
            shutil.rmtree(leftover.folder)
        return free


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of an experiment if nobody else does; whether we do."""
    try:
        with lock(folder).acquire(timeout=0):
            yield True
    except Timeout:
        yield False


def _seed(folder: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        return read_json(folder / "config.json")["config"]["seed"]
    return None
