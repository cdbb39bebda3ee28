"""The state of a training run in one file: a run that is killed at any moment resumes from it to the same numbers.

It holds the network, its moving average, the optimiser's momentum, the random generators and the progress of the run. The
order of the images and the draws of augmentation follow from seed, epoch and step; they are not stored.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rdnlib.errors import CheckpointError
from rdnlib.utils import devices
from rdnlib.utils.files import write_tensors


@dataclass
class Progress:
    """How far a run has come. history: one row for each finished epoch. Of the current epoch: `step` batches done, seconds
    taken, seconds `waiting` for images, and this process's `sums` (loss, accuracies, count)."""

    history: list[dict] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    sums: Tensor | None = None


class TrainState:
    """Saves and restores a run. Only the main process reads and writes the file `path`; None: nothing is kept."""

    def __init__(self, path: Path | None, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer):
        self.path, self.modules, self.optimiser = path, {"model.": model, "average.": average}, optimiser
        self.parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        self.minutes = devices.setting("RDN_SAVE_MINUTES", 5)  # between two states within an epoch
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether to save now, within an epoch, by the main process's clock. All processes must call this together."""
        overdue = self.path is not None and time.monotonic() - self.saved >= 60 * self.minutes
        return devices.broadcast(overdue)

    def save(self, progress: Progress) -> None:
        """Replace the file in one step. All processes must call this together. Raises StorageError."""
        own = {"cpu": torch.get_rng_state()}  # only dropout and its like draw from the global generators
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state()
        if progress.sums is not None:
            own["sums"] = progress.sums.cpu()
        processes = devices.gather([own])
        if self.path is not None and devices.here().is_main_process:
            tensors = {f"process.{i}.{name}": value for i, own in enumerate(processes) for name, value in own.items()}
            for prefix, module in self.modules.items():
                tensors |= {f"{prefix}{name}": value for name, value in module.state_dict().items()}
            for index, parameter in enumerate(self.parameters):
                if parameter in self.optimiser.state:
                    tensors[f"momentum.{index}"] = self.optimiser.state[parameter]["momentum_buffer"]
            notes = {"progress": json.dumps(asdict(replace(progress, sums=None))), "processes": str(len(processes))}
            write_tensors(self.path, tensors, notes)
        self.saved = time.monotonic()

    def restore(self) -> Progress:
        """Restore the run in all processes and return its progress; that of a new run if there is no file.

        Raises CheckpointError for a damaged file and for one left by another number of processes.
        """
        here = devices.here()
        exists = self.path is not None and here.is_main_process and self.path.exists()
        tensors, notes = devices.broadcast(_read(self.path) if exists else ({}, None))
        if notes is None:
            return Progress()
        if int(notes["processes"]) != here.num_processes:
            counts = f"{notes['processes']} processes and this run has {here.num_processes}"
            advice = "start as many, or delete it to start afresh"
            raise CheckpointError(f"{self.path.name} was left by {counts}: {advice}")
        with _readable(self.path):
            for prefix, module in self.modules.items():
                module.load_state_dict(_with_prefix(tensors, prefix))
            for index, momentum in _with_prefix(tensors, "momentum.").items():
                parameter = self.parameters[int(index)]
                # A fused step goes through memory in order, so a momentum must lie there as its parameter does.
                self.optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
            own = _with_prefix(tensors, f"process.{here.process_index}.")
            torch.set_rng_state(own["cpu"])
            if "cuda" in own and torch.cuda.is_available():
                torch.cuda.set_rng_state(own["cuda"])
            return replace(Progress(**json.loads(notes["progress"])), sums=own.get("sums"))

    def remove(self) -> None:
        if self.path is not None and devices.here().is_main_process:
            self.path.unlink(missing_ok=True)


def peek(path: Path) -> Progress:
    """The progress of the run that left this file. Raises CheckpointError if it is missing or damaged."""
    with _readable(path), safe_open(path, framework="pt") as file:
        return Progress(**json.loads(file.metadata()["progress"]))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _readable(path), safe_open(path, framework="pt") as file:
        notes = {name: file.metadata()[name] for name in ("progress", "processes")}
        return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a missing or damaged file causes becomes a CheckpointError."""
    try:
        yield
    except (SafetensorError, OSError, LookupError, TypeError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"cannot go on from {path.name}: {reason}; delete it to start afresh") from error
