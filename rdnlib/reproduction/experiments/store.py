"""What became of a profile's experiments, and what in its folder nobody asks for any more."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rdnlib.errors import CheckpointError
from rdnlib.reproduction.experiments.workspace import Workplace, finished, locked
from rdnlib.training import state
from rdnlib.utils.files import read_json


def status(place: Workplace) -> pd.DataFrame:
    """One row per experiment, parents first. Columns: name, state, epoch, epochs, seconds, folder.

    state: finished; running (some process holds its lock); resumable (a state was left); waiting (not begun). epoch of
    epochs are done, 0 of 0 where nothing is trained; seconds: all of a finished one, those of its epochs before.
    """
    rows = []
    for name, node in place.graph.items():
        folder, epochs = place.folder(name), node.config.get("recipe", {}).get("epochs", 0)
        row = {"name": name, "state": "waiting", "epoch": 0, "epochs": epochs, "seconds": 0.0, "folder": str(folder)}
        if finished(folder):
            spent = read_json(folder / "result.json")["seconds"]
            spent = sum(spent.values()) if isinstance(spent, dict) else spent  # surgery tells it by parts
            row |= {"state": "finished", "epoch": epochs, "seconds": spent}
        elif folder.is_dir():
            at = _left(folder)
            if at is not None:
                seconds = sum(epoch["seconds"] for epoch in at.history) + at.seconds
                row |= {"state": "resumable", "epoch": len(at.history), "seconds": seconds}
            with _held(folder) as ours:
                row |= {} if ours else {"state": "running"}
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Leftover:
    """A folder that may go: why, and its bytes."""

    folder: Path
    reason: str
    size: int


def leftovers(place: Workplace, *, unfinished: bool = False) -> list[Leftover]:
    """Experiments that the profile does not ask for, with any seed that was ever run here; `unfinished`: and those that were begun
    and have no result. One that somebody is running is never among them.
    """
    here = place.out / "experiments"
    folders = sorted(path for path in here.glob("[!.]*") if path.is_dir()) if here.is_dir() else []
    wanted: set[Path] = set()
    for seed in {place.seed, *filter(None, map(_seed, folders))}:
        again = replace(place, seed=seed)
        wanted |= {again.folder(name) for name in again.graph}
    found = []
    for folder in folders:
        reason = "not asked for" if folder not in wanted else "unfinished" if not finished(folder) else ""
        if reason == "not asked for" or (reason and unfinished):
            with _held(folder) as ours:
                if ours:
                    found.append(
                        Leftover(folder, reason, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()))
                    )
    return found


def remove(leftover: Leftover) -> bool:
    """Delete the folder unless somebody has begun to run it; whether it is gone."""
    with _held(leftover.folder) as ours:
        if ours:
            shutil.rmtree(leftover.folder)
        return ours


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Try to hold the lock of an experiment; whether we do."""
    lock = locked(folder, wait=False)
    try:
        lock.__enter__()
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        lock.__exit__(None, None, None)


def _left(folder: Path) -> state.Progress | None:
    with suppress(CheckpointError):
        return state.peek(folder / "resume.safetensors")
    return None


def _seed(folder: Path) -> int | None:
    with suppress(OSError, ValueError, KeyError):
        return read_json(folder / "config.json")["config"]["seed"]
    return None
