"""Training of base networks, and of all K sub-networks of an RDN jointly from one forward pass (Sections 3.1 and 4.1).

A run is a function of its seed: order and augmentation are drawn from (seed, epoch), so a run that was killed resumes from its
last state to the same numbers. Several processes share one run (`devices`): each computes its parts of every batch, and
gradients, running statistics and sums are averaged.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rdnlib.data.datasets import ImageSet
from rdnlib.errors import ConfigError, DataError, DivergedError
from rdnlib.training.batchnorm import RunningStatistics, batch_norms
from rdnlib.training.loader import WaitTimer, derived_seed, epoch_parts
from rdnlib.training.loss import joint_loss
from rdnlib.training.recipe import Recipe, ema_decay, learning_rate
from rdnlib.training.state import Progress, TrainState
from rdnlib.utils import devices

_NOT_FINITE = "no longer finite"
_HOPELESS = 20  # times the loss of guessing: a run with such a loss does not recover
_CHECK_EVERY = 10  # steps between two checks of loss and clock where they make a GPU or other processes wait


@devices.flushing_denormals()
def train(
    model: nn.Module, images: ImageSet, recipe: Recipe, *,
    teacher: nn.Module | None = None, seed: int = 0, resume: Path | None = None, label: str = "training",
    progress: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Train `model` in place; it ends with the averaged weights, in eval mode.

    Returns one row per epoch: epoch, lr, the means of loss and accuracy (accuracy_1 and accuracy_K for an RDN), seconds, and
    waiting, the share of them that the device waited for images.

    teacher: the trained super-net, image → logits (B, classes), where the recipe says that it teaches; its weights stay.
    resume: a file for the state of the run, written after every epoch and every RDN_SAVE_MINUTES (5) within a longer one. If
    it exists, training goes on from there; it is removed when training ends. Raises DivergedError when the loss is no longer
    finite, ConfigError where the teacher is missing, DataError for too few or damaged images, CheckpointError for a damaged
    `resume`, StorageError when it cannot be written; the last state is kept.
    """
    devices.keep_freed_memory()
    trainer = _Trainer(model, images, recipe, teacher, seed=seed, resume=resume, label=label)
    done, main = trainer.state.restore(), devices.here().is_main_process
    bar = tqdm(
        total=trainer.steps * recipe.batch_size,
        initial=(len(done.history) * trainer.steps_per_epoch + done.step) * recipe.batch_size,
        desc=label, unit="img", unit_scale=True, disable=not progress or not sys.stderr.isatty() or not main,
    )  # fmt: skip
    for epoch in range(len(done.history), recipe.epochs):
        row, summary = trainer.epoch(done, bar)
        done = Progress([*done.history, row])
        trainer.state.save(done)
        if progress and bar.disable and main:  # not a terminal: one line an epoch
            speed = trainer.steps_per_epoch * recipe.batch_size / row["seconds"]
            left = f"{row['seconds'] * (recipe.epochs - epoch - 1) / 60:.0f} min left"
            print(f"{label}: epoch {epoch + 1}/{recipe.epochs} {summary} {speed:.0f} img/s {left}", flush=True)
    bar.close()
    model.load_state_dict(trainer.average.module.state_dict())
    trainer.state.remove()
    model.eval()
    return pd.DataFrame(done.history)


class _Trainer:
    """One call of `train`: what it changes (network, moving average, optimiser), its data and its recipe."""

    def __init__(
        self, model: nn.Module, images: ImageSet, recipe: Recipe, teacher: nn.Module | None, seed: int,
        resume: Path | None, label: str,
    ) -> None:  # fmt: skip
        here = devices.here()
        self.own_parts = len(recipe.rows(here.process_index, here.num_processes))
        self.steps_per_epoch = len(images) // recipe.batch_size
        if not self.steps_per_epoch:
            shortage = f"{len(images)} training images do not fill one batch of {recipe.batch_size}"
            raise DataError(f"{shortage}: use a smaller one")
        self.steps = self.steps_per_epoch * recipe.epochs
        self.model, self.images, self.recipe = model, images, recipe
        self.seed, self.resume, self.label = seed, resume, label
        for norm in batch_norms(model):
            norm.momentum = recipe.bn_momentum
        model.to(here.device, memory_format=torch.channels_last)
        devices.broadcast_tensors([*model.parameters(), *model.buffers()])
        self.optimiser = torch.optim.SGD(
            _parameter_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum, nesterov=True,
            fused=True,  # a small layer's step would take longer to start than to do
        )  # fmt: skip
        average = _moving_average(ema_decay(recipe, self.steps))
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.state = TrainState(resume, model, self.average, self.optimiser)
        self.network = _wrapped(model, recipe)
        self.statistics = RunningStatistics(model, recipe.parts)
        self.teach = self._teacher(teacher)
        self.check_every = 1 if here.device.type == "cpu" and here.num_processes == 1 else _CHECK_EVERY

    def _teacher(self, supernet: nn.Module | None) -> Callable[[Tensor], Tensor | None]:
        """A batch → what it is taught, logits (B, classes), unless N_K teaches or nobody does."""
        if not self.recipe.supernet_teaches:
            averaged = self.recipe.distill > 0 and self.recipe.teacher == "average"
            return self._average_logits if averaged else lambda batch: None
        if supernet is None:
            raise ConfigError(
                f"{self.label}: the recipe's teacher is the super-net, and training did not begin with one"
            )
        return supernet.to(devices.here().device, memory_format=torch.channels_last).eval()

    def _average_logits(self, batch: Tensor) -> Tensor:
        logits = self.average.module.eval()(batch)
        return logits[:, -1] if logits.ndim == 3 else logits

    def epoch(self, done: Progress, bar: tqdm) -> tuple[dict, str]:
        """The current epoch, from step `done.step` on: its row of the history, and a summary for the terminal."""
        epoch, recipe = len(done.history), self.recipe
        meter, timer = _Meter(done.sums, devices.here().device), WaitTimer(done.waiting)
        started = time.perf_counter() - done.seconds
        self.network.train()
        if not done.step:
            torch.manual_seed(derived_seed(self.seed, epoch, devices.here().process_index))
        parts = epoch_parts(self.images, recipe, seed=derived_seed(self.seed, epoch), skip=done.step, timer=timer)
        for index in range(done.step, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + index
            self._step(epoch, index, parts, meter)
            bar.update(recipe.batch_size)
            if step % 10 == 0:
                bar.set_postfix_str(meter.text())
            if step % self.check_every == 0:
                self._check(meter.problem(), epoch, index)
                if index + 1 < self.steps_per_epoch and self.state.due():
                    self._check(_problem(self.model), epoch, index)
                    seconds = time.perf_counter() - started
                    self.state.save(Progress(done.history, index + 1, seconds, timer.seconds(), meter.sums))
        devices.average([meter.sums])
        means = meter.means()  # waits for the device, so the time is taken after it
        seconds = time.perf_counter() - started
        self._check(meter.problem() or _problem(self.model), epoch, index)
        lr, waiting = self.optimiser.param_groups[0]["lr"], timer.seconds() / seconds
        return {"epoch": epoch + 1, "lr": lr, **means, "seconds": seconds, "waiting": waiting}, meter.text()

    def _step(self, epoch: int, index: int, parts: Iterator[tuple[Tensor, Tensor]], meter: "_Meter") -> None:
        """One step of SGD on the mean loss of a batch; this process computes its own parts one after another."""
        here, recipe, smoothing = devices.here(), self.recipe, self.recipe.label_smoothing
        lr = learning_rate(recipe, epoch * self.steps_per_epoch + index, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        with self.statistics.batch():
            for part in range(self.own_parts):
                batch, labels = next(parts)
                if recipe.parts > 1:  # dropout's draws belong to a part, whoever computes it
                    number = part * here.num_processes + here.process_index
                    torch.manual_seed(derived_seed(self.seed, epoch, index, number))
                # Gradients are exchanged with a batch's last part only: by then they hold the sum over the parts.
                alone = isinstance(self.network, DistributedDataParallel) and part < self.own_parts - 1
                with self.network.no_sync() if alone else nullcontext(), self.statistics.part():
                    with devices.precision(recipe.precision):
                        logits = self.network(batch)
                        with torch.no_grad():
                            teacher = self.teach(batch)
                        loss = joint_loss(
                            logits, labels, smoothing, distill=recipe.distill, teacher=teacher, largest=recipe.largest,
                            teach_largest=recipe.teach_largest,
                        )  # fmt: skip
                    meter.add(loss, logits, labels)
                    (loss / self.own_parts).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update_parameters(self.model)

    def _check(self, problem: str, epoch: int, index: int) -> None:
        """Stop a run that cannot recover before its state is saved."""
        if problem:
            kept = "" if self.resume is None else "; the last state before is kept"
            where = f"in epoch {epoch + 1} at lr={self.recipe.lr} (batch {index + 1})"
            advice = f"use a smaller lr or a longer warm-up{kept}"
            raise DivergedError(f"{self.label}: the loss is {problem} {where}; {advice}")


def _wrapped(model: nn.Module, recipe: Recipe) -> nn.Module:
    """`model` as it is called in training: shared among the processes, and compiled where the recipe asks for it."""
    here, network = devices.here(), model
    if here.num_processes > 1:  # buffers are not broadcast: `RunningStatistics` averages them
        # A depthwise filter has one input channel, so two descriptions of the same layout: nothing to warn of.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device_ids = [here.device] if here.device.type == "cuda" else None
        network = DistributedDataParallel(network, device_ids, broadcast_buffers=False)
    return torch.compile(network) if recipe.compile else network


def _problem(model: nn.Module) -> str:
    """What is wrong with the weights, if anything: the last step may have made them infinite after a finite loss."""
    norms = torch._foreach_norm([parameter.detach() for parameter in model.parameters()])
    return "" if torch.stack(norms).isfinite().all() else _NOT_FINITE


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for filters only, not for biases and the scales of batch norm."""
    filters = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": filters, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _moving_average(decay: float):
    """As torch's `get_ema_multi_avg_fn`, but integer buffers, which are counters or indices, are copied."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], _: Tensor) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:
            torch._foreach_copy_(averaged, current)

    return update


class _Meter:
    """Means over an epoch so far: of the loss, and of the accuracy of the first and the last sub-network.

    sums: loss, accuracy (two of an RDN, one of a base network), and the number of parts that they come from.
    """

    def __init__(self, sums: Tensor | None, device: torch.device) -> None:
        self.sums = torch.zeros((), device=device) if sums is None else sums.to(device)
        self.guessing = math.inf

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.guessing = math.log(max(2, logits.shape[-1]))  # the loss of uniform probabilities
        heads = logits.detach().unsqueeze(1) if logits.ndim == 2 else logits.detach()[:, [0, -1]]
        hits = (heads.argmax(dim=-1) == labels[:, None]).float().mean(dim=0)
        self.sums = self.sums + torch.cat([loss.detach()[None], hits, torch.ones_like(hits[:1])])

    def problem(self) -> str:
        """What is wrong with the mean loss, if anything."""
        loss = (self.sums[0] / self.sums[-1]).item()
        if not math.isfinite(loss):
            return _NOT_FINITE
        return f"{loss:.3g}, and guessing gives {self.guessing:.2f}," if loss > _HOPELESS * self.guessing else ""

    def means(self) -> dict[str, float]:
        values = (self.sums[:-1] / self.sums[-1]).tolist()
        names = ("loss", "accuracy") if len(values) == 2 else ("loss", "accuracy_1", "accuracy_K")
        return dict(zip(names, values, strict=True))

    def text(self) -> str:
        names = {"loss": "loss", "accuracy": "acc", "accuracy_1": "N_1", "accuracy_K": "N_K"}
        return " ".join(f"{names[name]} {value:.3f}" for name, value in self.means().items())
