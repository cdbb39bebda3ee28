"""Training: the base networks, and all K sub-networks of an RDN jointly from one forward pass (Section 3.1).

A run is a function of its seed: order and augmentation are drawn from (seed, epoch), so a run that was killed goes on from its
last state (`resume`) to the same numbers. Several processes share the work of one run (`devices`): each takes its part
of every batch, and gradients, running statistics and sums are averaged.
"""

import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rdnlib.data.datasets import ImageSet
from rdnlib.errors import DataError, DivergedError
from rdnlib.training.batchnorm import SharedStatistics, reestimate_norms, synchronised
from rdnlib.training.loader import Waiting, epoch_parts, mixed
from rdnlib.training.recipe import Recipe, ema_decay, joint_loss, learning_rate
from rdnlib.training.state import Place, State
from rdnlib.utils import devices

__all__ = ["Recipe", "ema_decay", "joint_loss", "learning_rate", "reestimate_norms", "train"]

_NOT_FINITE = "no longer finite"
_HOPELESS = 20  # times the loss of guessing: a run that has come to this does not come back
_PULSE = 10  # steps between two looks at the loss and the clock where looking makes a GPU or other processes wait


@contextmanager
def flushing_denormals():
    """A CPU computes with denormal numbers many times slower than with zeros. The state is the process's: put it back."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@flushing_denormals()
def train(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    *,
    seed: int = 0,
    resume: Path | None = None,
    label: str = "training",
    progress: bool = True,
) -> pd.DataFrame:
    """Train `model` in place; it ends with the averaged weights, in eval mode. Returns one row per epoch: epoch, lr, the means
    of loss and accuracy (accuracy_1 and accuracy_K for an RDN), seconds, and the share of them that the device was waiting
    for images.

    resume: a file that receives the state after every epoch, and every RDN_SAVE_MINUTES (5) within a longer one; if it exists,
        training goes on from there. It is removed when training ends. Raises DivergedError when the loss is no longer
        finite, DataError on too few or damaged images, CheckpointError when `resume` is damaged, StorageError when
        it cannot be written; the last state is kept.
    """
    run = _Run(model, images, recipe, seed=seed, resume=resume, label=label)
    place, main = run.state.restore(), devices.here().is_main_process
    bar = tqdm(
        total=run.steps * recipe.batch_size,
        initial=(len(place.history) * run.steps_per_epoch + place.step) * recipe.batch_size,
        desc=label,
        unit="img",
        unit_scale=True,
        disable=not progress or not sys.stderr.isatty() or not main,
    )
    for epoch in range(len(place.history), recipe.epochs):
        row, said = run.epoch(place, bar)
        place = Place([*place.history, row])
        run.state.save(place)
        if progress and bar.disable and main:  # not a terminal: one line an epoch
            speed = run.steps_per_epoch * recipe.batch_size / row["seconds"]
            left = row["seconds"] * (recipe.epochs - epoch - 1)
            print(
                f"{label}: epoch {epoch + 1}/{recipe.epochs} {said} {speed:.0f} img/s {left / 60:.0f} min left",
                flush=True,
            )
    bar.close()
    model.load_state_dict(run.average.module.state_dict())
    run.state.remove()
    model.eval()
    return pd.DataFrame(place.history)


class _Run:
    """One call of `train`: all that it changes (network, moving average, optimiser), its data and its recipe."""

    def __init__(
        self, model: nn.Module, images: ImageSet, recipe: Recipe, *, seed: int, resume: Path | None, label: str
    ):
        here = devices.here()
        self.parts = len(recipe.own_rows(here.process_index, here.num_processes))  # those of this process
        self.steps_per_epoch = len(images) // recipe.batch_size
        if not self.steps_per_epoch:
            raise DataError(
                f"{len(images)} training images do not fill one batch of {recipe.batch_size}: use a smaller one"
            )
        self.steps = self.steps_per_epoch * recipe.epochs
        self.model, self.images, self.recipe = model, images, recipe
        self.seed, self.resume, self.label = seed, resume, label
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = recipe.bn_momentum
        model.to(here.device, memory_format=torch.channels_last)
        devices.share([*model.parameters(), *model.buffers()])
        self.optimiser = torch.optim.SGD(
            _parameter_groups(model, recipe.weight_decay),
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=True,
            fused=True,  # small layers: their step would take longer to start than to do
        )
        decay = ema_decay(recipe, self.steps)
        self.average = AveragedModel(model, multi_avg_fn=_averaging(decay), use_buffers=True)
        self.state = State(resume, model, self.average, self.optimiser)
        self.network = _prepared(model, recipe)
        self.norms = SharedStatistics(model, recipe.parts)
        self.average_teaches = recipe.distill > 0 and recipe.teacher == "average"
        self.pulse = 1 if here.device.type == "cpu" and here.num_processes == 1 else _PULSE

    def epoch(self, place: Place, bar: tqdm) -> tuple[dict, str]:
        """The epoch that `place` is in, from its step on: a row of the history, and what to tell of it."""
        epoch, recipe = len(place.history), self.recipe
        meter, waiting = _Meter(place.sums, devices.here().device), Waiting(place.waiting)
        started = time.perf_counter() - place.seconds
        self.network.train()
        if not place.step:
            torch.manual_seed(mixed(self.seed, epoch, devices.here().process_index))
        stream = epoch_parts(self.images, recipe, seed=mixed(self.seed, epoch), skip=place.step, waiting=waiting)
        for index in range(place.step, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            self._step(epoch, index, stream, meter)
            bar.update(recipe.batch_size)
            if step % 10 == 0:
                bar.set_postfix_str(meter.text())
            if step % self.pulse == 0:
                self._check(meter.trouble(), epoch, index)
                if index + 1 < self.steps_per_epoch and self.state.due():
                    self._check(_trouble(self.model), epoch, index)
                    seconds = time.perf_counter() - started
                    self.state.save(Place(place.history, index + 1, seconds, waiting.seconds(), meter.sums))
        meter.average()
        means = meter.means()  # waits for the device, so the time is taken after it
        seconds = time.perf_counter() - started
        self._check(meter.trouble() or _trouble(self.model), epoch, index)
        lr, waited = self.optimiser.param_groups[0]["lr"], waiting.seconds() / seconds
        return {"epoch": epoch + 1, "lr": lr, **means, "seconds": seconds, "waiting": waited}, meter.text()

    def _step(self, epoch: int, index: int, stream: Iterator[tuple[Tensor, Tensor]], meter: "_Meter") -> None:
        """Learn from one batch, this process's parts of it one after another."""
        here, recipe = devices.here(), self.recipe
        lr = learning_rate(recipe, epoch * self.steps_per_epoch + index, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        with self.norms.batch():
            for part in range(self.parts):
                batch, labels = next(stream)
                if recipe.parts > 1:  # what dropout draws belongs to a part, whoever computes it
                    torch.manual_seed(mixed(self.seed, epoch, index, part * here.num_processes + here.process_index))
                with _own_gradients(self.network, part == self.parts - 1), self.norms.part():
                    with devices.precision(recipe.precision), synchronised(recipe.sync_bn):
                        logits = self.network(batch)
                        teacher = _averaged_largest(self.average, batch) if self.average_teaches else None
                        loss = joint_loss(
                            logits, labels, recipe.label_smoothing, distill=recipe.distill, teacher=teacher
                        )
                    meter.add(loss, logits, labels)
                    (loss / self.parts).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update_parameters(self.model)

    def _check(self, trouble: str, epoch: int, index: int) -> None:
        """Stop a run that cannot come back, before its state is kept."""
        if trouble:
            raise DivergedError(
                f"{self.label}: the loss is {trouble} in epoch {epoch + 1} at lr={self.recipe.lr} (batch {index + 1}); use a "
                "smaller lr or a longer warm-up" + ("" if self.resume is None else "; the last state before is kept")
            )


def _prepared(model: nn.Module, recipe: Recipe) -> nn.Module:
    """What is called in training: `model` itself, or what shares it among processes and compiles it."""
    here, network = devices.here(), model
    if here.num_processes > 1:  # `norms` looks after the running statistics
        # A depthwise filter has one input channel, so two descriptions of the same layout: nothing to warn of.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device_ids = [here.device] if here.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids, broadcast_buffers=False)
    return torch.compile(network) if recipe.compile else network


def _own_gradients(network: nn.Module, last: bool):
    """Only the gradients of a batch's last part are exchanged: they hold the sum over the parts."""
    return nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync()


def _trouble(model: nn.Module) -> str:
    """What is wrong with the weights, if anything: a last step may have spoilt them after a loss that was still finite."""
    norms = torch._foreach_norm([parameter.detach() for parameter in model.parameters()])
    return "" if torch.stack(norms).isfinite().all() else _NOT_FINITE


@torch.no_grad()
def _averaged_largest(average: AveragedModel, batch: Tensor) -> Tensor:
    """What the moving average of N_K says of a batch: (B, classes)."""
    return average.module.eval()(batch)[:, -1]


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for filters only, not for biases and the scales of batch norm."""
    filters = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": filters, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _averaging(decay: float):
    """The moving average for a list of tensors of one type; whole-number buffers are counters or indices and are copied."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    return update


class _Meter:
    """Running means over an epoch: loss, accuracy of the first and of the last sub-network (one for a base network).

    sums: those of an epoch so far, and last the number of parts they come from.
    """

    def __init__(self, sums: Tensor | None, device: torch.device) -> None:
        self.sums = torch.zeros((), device=device) if sums is None else sums.to(device)
        self.guessing = math.inf

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.guessing = math.log(max(2, logits.shape[-1]))  # the loss of saying the same of all classes
        heads = logits.detach().unsqueeze(1) if logits.ndim == 2 else logits.detach()[:, [0, -1]]
        hits = (heads.argmax(dim=-1) == labels[:, None]).float().mean(dim=0)
        self.sums = self.sums + torch.cat([loss.detach()[None], hits, torch.ones_like(hits[:1])])

    def trouble(self) -> str:
        """What is wrong with the mean loss of the epoch so far, if anything."""
        loss = (self.sums[0] / self.sums[-1]).item()
        if not math.isfinite(loss):
            return _NOT_FINITE
        return f"{loss:.3g}, and guessing gives {self.guessing:.2f}," if loss > _HOPELESS * self.guessing else ""

    def average(self) -> None:
        devices.average([self.sums])

    def means(self) -> dict[str, float]:
        loss, *hits = (self.sums[:-1] / self.sums[-1]).tolist()
        return {
            "loss": loss,
            **({"accuracy": hits[0]} if len(hits) == 1 else {"accuracy_1": hits[0], "accuracy_K": hits[1]}),
        }

    def text(self) -> str:
        names = {"loss": "loss", "accuracy": "acc", "accuracy_1": "N_1", "accuracy_K": "N_K"}
        return " ".join(f"{names[name]} {value:.3f}" for name, value in self.means().items())
