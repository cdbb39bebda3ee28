"""Where experiments run, and where their results lie.

The folder of a result is `<name>-<key>-<data>`. The key is a hash of everything that decides the result but the images: code
(`SCHEMA`), settings, and the experiments it builds on. The last part is the beginning of the images' fingerprint. Results are per
image (samples.parquet), so that every table and curve is computed from them without running a network again.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from rdnlib import models
from rdnlib.data import datasets
from rdnlib.data.transforms import resize_eval
from rdnlib.deployment import checkpoint
from rdnlib.errors import ConfigError, NotPublishedError
from rdnlib.reproduction.experiments.config import Profile, load_profile
from rdnlib.reproduction.experiments.graph import Experiment, experiments
from rdnlib.utils import devices
from rdnlib.utils.files import read_json
from rdnlib.utils.resources import default_out

SCHEMA = 2  # Raise it in the commit that changes any number of any experiment: results of older code are then run anew.

PUBLISHED = "published.json"  # among the experiments: they are published results, see book/published.py


@dataclass(frozen=True)
class DataSummary:
    """What a caption needs to know of a data set; `images`: how many are in each split."""

    name: str
    classes: list[str]
    images: dict[str, int]
    fingerprint: str


@dataclass(frozen=True)
class Workspace:
    """The profile, data, seed and output folder of a set of experiments."""

    profile: Profile
    data_root: Path | None
    seed: int
    out: Path

    def __getstate__(self) -> dict:
        """What another process gets: the settings, without the images."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def splits(self) -> datasets.Splits:
        with devices.here().main_process_first():  # which makes the cache
            return datasets.load(**self.profile.data.settings(), root=self.data_root, seed=self.seed)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images, labels and ids. Raises DataError without the images."""
        splits = self.splits
        return devices.broadcast(datasets.fingerprint(splits) if devices.here().is_main_process else None)

    @property
    def published(self) -> bool:
        """Whether the results are published ones: there are no networks, and nothing is run that is missing."""
        return (self.out / "experiments" / PUBLISHED).is_file()

    def not_published(self, name: str) -> NotPublishedError:
        return NotPublishedError(f"The published results have no experiment {self.label(name)}.")

    @property
    def has_images(self) -> bool:
        """Whether the images can be read: they are embedded, or a data root is given."""
        return self.data_root is not None or self.profile.data.name == "dolls"

    @cached_property
    def data(self) -> DataSummary:
        """Read from a finished result where there are no images. Raises DataError where there is neither."""
        if not self.has_images and self._data_of_results:
            return next(Run(name, self).data for name in self.graph if finished(self.folder(name)))
        images = {field.name: len(getattr(self.splits, field.name)) for field in fields(self.splits)}
        return DataSummary(self.profile.data.name, [*self.splits.train.classes], images, self.fingerprint)

    @cached_property
    def graph(self) -> dict[str, Experiment]:
        return experiments(self.profile, self.seed)

    def experiment(self, name: str) -> Experiment:
        if name not in self.graph:
            raise ConfigError(f"unknown experiment '{name}': choose from {', '.join(self.graph)}")
        return self.graph[name]

    def key(self, name: str) -> str:
        """Hash of all that decides the result of an experiment, but the images."""
        node = self.experiment(name)
        data, parents = self.profile.data.settings(), [self.key(parent) for parent in node.parents]
        parts = [SCHEMA, node.kind, node.config, data, parents]
        if code := models.source_hash(node.config.get("model", {}).get("name")):
            parts.append(code)  # of a network of the user's own
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def folder(self, name: str) -> Path:
        """Of an experiment's result, finished or not. Without images it is that of the finished results.

        Raises DataError without images and results, ConfigError if there are results from several versions of the images.
        """
        found = [] if self.has_images else self._data_of_results
        if len(found) > 1:
            versions = f"{len(found)} versions of the {self.profile.data.name} images"
            raise ConfigError(f"{self.out} has results from {versions}: say which are meant with --data-root DIR")
        if self.published and not self.has_images and not found:
            raise self.not_published(name)
        data = found[0] if found else self.fingerprint[:8]
        return self.out / "experiments" / f"{name}-{self.key(name)}-{data}"

    @property
    def _data_of_results(self) -> list[str]:
        """The last part of the folders of this workspace's finished results."""
        experiments = self.out / "experiments"
        found = [path for name in self.graph for path in experiments.glob(f"{name}-{self.key(name)}-*/result.json")]
        return sorted({path.parent.name.rpartition("-")[2] for path in found})

    def replicas(self, seeds: int) -> list["Workspace"]:
        """This workspace, and the same at the seeds after its own: so many in all."""
        return [self, *(replace(self, seed=self.seed + further) for further in range(1, seeds))]

    def label(self, name: str) -> str:
        """How messages name an experiment: with its seed, unless that is 0."""
        return f"{name}, seed {self.seed}" if self.seed else name

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

    def calibration_images(self, count: int, size: int) -> Tensor:
        """Training images for surgery, evenly spread over the split (which is ordered by class): (count, 3, size, size)."""
        split = self.splits.train
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(split))[:count])
        return resize_eval(torch.from_numpy(np.ascontiguousarray(split.images[rows])), size)


def open_workspace(
    profile: str, *, data: str | None = None, data_root=None, seed: int = 0, out=None, toy: bool = False
) -> Workspace:
    """Check the arguments that all commands and notebooks share.

    profile: the name of a shipped profile, or the path of a .yaml file; data, toy: see `load_profile`. out: default
    build/<the profile's name>, see `default_out`.
    """
    loaded = load_profile(profile, data=data, toy=toy)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed must be a whole number of at least 0, not {seed!r}")
    if data_root is not None and not Path(data_root).is_dir():
        needed = f"the one that holds the '{loaded.data.name}' data set"
        raise ConfigError(f"data root {data_root} is not a folder; give {needed}")
    root, out = None if data_root is None else Path(data_root).resolve(), Path(out) if out else default_out(loaded.name)
    return Workspace(loaded, root, seed, out.resolve())


class Run:
    """A finished experiment: its folder, and what it left there."""

    def __init__(self, name: str, workspace: Workspace):
        self.name, self.workspace, self.path = name, workspace, workspace.folder(name)

    @cached_property
    def result(self) -> dict:
        return read_json(self.path / "result.json")

    @property
    def data(self) -> DataSummary:
        return DataSummary(**self.result["data"])

    def samples(self) -> pd.DataFrame:
        return pd.read_parquet(self.path / "samples.parquet")

    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.path / "history.csv")

    def model(self) -> nn.Module:
        if self.workspace.published:
            raise NotPublishedError(f"The published results have no networks, such as that of {self.name}.")
        return checkpoint.load(self.path / "model.safetensors")


def finished(folder: Path) -> bool:
    return (folder / "result.json").is_file()


def lock(folder: Path) -> FileLock:
    """The lock of an experiment, not yet held; the operating system lets go of it when the process ends, however it ends."""
    return FileLock(folder.parent / f".{folder.name}.lock")
