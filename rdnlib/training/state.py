"""The state of a run in one file: a run that is killed at any moment goes on from it to the same numbers.

It holds the network, its moving average, the optimiser's momentum, the random generators and the place in the run. The
order of the images and what augmentation draws follow from the seed, the epoch and the step, so they need no room.
"""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rdnlib.errors import CheckpointError
from rdnlib.utils import devices
from rdnlib.utils.files import write_tensors


@dataclass
class Place:
    """Where a run is: `step` batches into the epoch after those in `history`; what this epoch has summed up so far (`sums` is
    each process's own)."""

    history: list[dict] = field(default_factory=list)
    step: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    sums: Tensor | None = None


class State:
    """Saves and restores a run. `path`: the file, which only the main process reads and writes; None: nothing is kept."""

    def __init__(self, path: Path | None, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer):
        self.path, self.model, self.average, self.optimiser = path, model, average, optimiser
        self.minutes = devices.setting("RDN_SAVE_MINUTES", 5)  # between two states within an epoch
        self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for a state within the epoch. The main process's clock counts: all must call this together."""
        overdue = self.path is not None and time.monotonic() - self.saved >= 60 * self.minutes
        return devices.agreed(overdue)

    def save(self, place: Place) -> None:
        """Replace the file in one step. All processes must call this together."""
        own = _generators() if place.sums is None else {**_generators(), "sums": place.sums.cpu()}
        owned = devices.gathered([own])
        if self.path is not None and devices.here().is_main_process:
            tensors = self._tensors() | {f"process.{i}.{n}": t for i, own in enumerate(owned) for n, t in own.items()}
            notes = {"place": json.dumps(asdict(replace(place, sums=None))), "processes": str(len(owned))}
            write_tensors(self.path, tensors, notes)
        self.saved = time.monotonic()

    def restore(self) -> Place:
        """Put everything back as it was saved, in all processes; the start of a run if there is no file."""
        exists = self.path is not None and self.path.exists()
        tensors, notes = devices.agreed(_read(self.path) if exists and devices.here().is_main_process else ({}, None))
        if notes is None:
            return Place()
        processes = devices.here().num_processes
        if int(notes["processes"]) != processes:
            raise CheckpointError(
                f"{self.path.name} was left by {notes['processes']} processes and this run has {processes}: "
                "start as many, or delete it to start afresh"
            )
        try:
            for prefix, module in (("model.", self.model), ("average.", self.average)):
                module.load_state_dict(_part(tensors, prefix))
            state, momenta = self.optimiser.state_dict(), _part(tensors, "momentum.")
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            # A fused step goes through memory in order, so a momentum must lie there as its parameter does.
            state["state"] = {
                int(i): {"momentum_buffer": torch.empty_like(parameters[int(i)]).copy_(momentum)}
                for i, momentum in momenta.items()
            }
            self.optimiser.load_state_dict(state)
            own = _part(tensors, f"process.{devices.here().process_index}.")
            _set_generators(own)
            return replace(Place(**json.loads(notes["place"])), sums=own.get("sums"))
        except (KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from error

    def remove(self) -> None:
        if self.path is not None and devices.here().is_main_process:
            self.path.unlink(missing_ok=True)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        slots = self.optimiser.state_dict()["state"].items()
        return tensors | {f"momentum.{index}": slot["momentum_buffer"] for index, slot in slots}


def peek(path: Path) -> Place:
    """Where the run is that left this file. Raises CheckpointError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return Place(**json.loads(file.metadata()["place"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


def _generators() -> dict[str, Tensor]:
    """What dropout and its like will draw; nothing else draws from the generators of the process."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_generators(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            notes = file.metadata()
            return tensors, {name: notes[name] for name in ("place", "processes")}
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"cannot go on from {path.name}: {reason}; delete it to start afresh")
