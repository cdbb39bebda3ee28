"""Training: the base networks, and all K sub-networks of an RDN jointly from one forward pass (Section 3.1).

The recipe is the paper's (Section 4.1): SGD with Nesterov momentum, cosine schedule, label smoothing, an exponential moving
average of the weights. The loss of an RDN is the mean of its sub-networks' losses. A run is a function of its seed: batches
and augmentation are drawn from (seed, epoch), so a run that was killed goes on from its last epoch to the same numbers.
Beyond the paper, N_K or its moving average may teach the others while all of them are trained (`Recipe.distill`).
"""

import json
import math
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from rdnlib.augment import Augment
from rdnlib.data import ImageSet
from rdnlib.errors import CheckpointError, ConfigError, DataError, DivergedError
from rdnlib.files import replacing


@dataclass(frozen=True)
class Recipe:
    """How to train. `ema_horizon` is the share of the run over which weights are averaged: the paper's decay of 0.9999 over
    its 250,000 steps averages over 4 % of them, and a short run needs the same share, not the same decay. `distill`: the share
    in the loss of N_1 … N_{K−1} of what N_K says, instead of the label (0: the paper); `teacher`: N_K as it is ("largest"), or
    as its moving average has it ("average", one more forward pass)."""

    epochs: int
    lr: float
    size: int
    batch_size: int = 128
    min_lr: float = 1e-5
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    ema_horizon: float = 0.04
    bn_momentum: float = 0.1
    crop_scale: tuple[float, float] = (0.35, 1.0)
    flip: bool = True
    precision: str = "no"
    distill: float = 0.0
    teacher: str = "largest"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError(f"a run needs epochs ≥ 1 and batch_size ≥ 2, not {self.epochs} and {self.batch_size}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ConfigError(f"the learning rate must be positive, not {self.lr}")
        if not 0 <= self.distill <= 1:
            raise ConfigError(f"distill is a share of the loss, from 0 to 1, not {self.distill}")
        if self.teacher not in ("largest", "average"):
            raise ConfigError(f"the teacher must be 'largest' or 'average', not {self.teacher!r}")


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """Linear warm-up, then cosine from `lr` to `min_lr` (Loshchilov and Hutter, 2016)."""
    warmup = min(recipe.warmup_epochs / recipe.epochs, 0.5) * steps
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * done)) / 2


def joint_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, *, distill: float = 0.0, teacher: Tensor | None = None
) -> Tensor:
    """Cross-entropy, averaged over the batch and, for logits (B, K, classes), over the K sub-networks.

    With `distill` = α > 0, N_1 … N_{K−1} have the loss (1 − α) · H(label, N_i) + α · H(teacher, N_i), where the teacher's
    logits (B, classes) are N_K's own unless given. No gradient reaches the teacher, and N_K learns from the labels alone.
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    # (B, K, classes) → (B, classes, K): every sub-network is asked for the same label.
    students, targets = logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1])
    if not distill:
        return F.cross_entropy(students, targets, label_smoothing=label_smoothing)
    loss = F.cross_entropy(students, targets, label_smoothing=label_smoothing, reduction="none")  # (B, K)
    teacher = (logits[:, -1] if teacher is None else teacher).detach().softmax(dim=-1)
    taught = F.cross_entropy(
        students[..., :-1], teacher[..., None].expand_as(students[..., :-1]), reduction="none"
    )  # (B, K−1)
    return torch.cat([(1 - distill) * loss[:, :-1] + distill * taught, loss[:, -1:]], dim=1).mean()


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
    """Train `model` in place; it ends with the averaged weights, in eval mode. Returns one row per epoch.

    resume: a file that receives the state after every epoch; if it exists, training goes on from there. It is removed
        when training ends. Raises DivergedError when the loss is no longer finite, DataError on too few images,
        CheckpointError when `resume` is damaged.
    """
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{len(images)} training images do not fill one batch of {recipe.batch_size}: use a smaller one"
        )
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=not torch.cuda.is_available())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = recipe.bn_momentum
    model.to(accelerator.device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        _parameter_groups(model, recipe.weight_decay), lr=recipe.lr, momentum=recipe.momentum, nesterov=True
    )
    steps_per_epoch = len(images) // recipe.batch_size
    steps = steps_per_epoch * recipe.epochs
    average = AveragedModel(model, multi_avg_fn=_averaging(ema_decay(recipe, steps)), use_buffers=True)
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    history = _load_state(resume, model, average, optimiser) if resume is not None and resume.exists() else []
    average_teaches = recipe.distill > 0 and recipe.teacher == "average"
    augment = Augment(recipe.size, recipe.crop_scale, recipe.flip)
    bar = tqdm(
        total=steps * recipe.batch_size,
        initial=len(history) * steps_per_epoch * recipe.batch_size,
        desc=label,
        unit="img",
        unit_scale=True,
        disable=not progress or not sys.stderr.isatty() or not accelerator.is_main_process,
    )
    for epoch in range(len(history), recipe.epochs):
        started, meter = time.perf_counter(), _Meter()
        wrapped.train()
        torch.manual_seed(_mixed(seed, epoch, accelerator.process_index))
        for index, (batch, labels) in enumerate(
            _batches(images, recipe.batch_size, seed=_mixed(seed, epoch), augment=augment, accelerator=accelerator)
        ):
            step = epoch * steps_per_epoch + index
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            with accelerator.autocast():
                logits = wrapped(batch)
                teacher = _averaged_largest(average, batch) if average_teaches else None
                loss = joint_loss(logits, labels, recipe.label_smoothing, distill=recipe.distill, teacher=teacher)
            accelerator.backward(loss)
            optimiser.step()
            optimiser.zero_grad()
            average.update_parameters(model)
            meter.add(loss, logits, labels)
            bar.update(recipe.batch_size)
            if step % 10 == 0:
                bar.set_postfix_str(meter.text())
        row = {"epoch": epoch + 1, "lr": group["lr"], **meter.means(), "seconds": time.perf_counter() - started}
        if not math.isfinite(row["loss"]):
            raise DivergedError(
                f"{label}: the loss is no longer finite in epoch {epoch + 1} at lr={recipe.lr}; use a smaller lr or a longer "
                "warm-up" + ("" if resume is None else " (the state before this epoch is kept)")
            )
        history.append(row)
        if resume is not None and accelerator.is_main_process:
            _save_state(resume, model, average, optimiser, history)
        if progress and bar.disable and accelerator.is_main_process:  # not a terminal: one line an epoch
            speed = steps_per_epoch * recipe.batch_size / row["seconds"]
            left = row["seconds"] * (recipe.epochs - epoch - 1)
            print(
                f"{label}: epoch {epoch + 1}/{recipe.epochs} {meter.text()} {speed:.0f} img/s {left / 60:.0f} min left",
                flush=True,
            )
    bar.close()
    model.load_state_dict(average.module.state_dict())
    if resume is not None and accelerator.is_main_process:
        resume.unlink(missing_ok=True)
    model.eval()
    return pd.DataFrame(history)


@torch.no_grad()
def _averaged_largest(average: AveragedModel, batch: Tensor) -> Tensor:
    """What the moving average of N_K says of a batch: (B, classes)."""
    return average.module.eval()(batch)[:, -1]


def ema_decay(recipe: Recipe, steps: int) -> float:
    """The decay whose averaging window, 1 / (1 − decay), is `ema_horizon` of the run's steps."""
    return 1 - 1 / max(1.0, recipe.ema_horizon * steps)


@torch.no_grad()
def reestimate_norms(model: nn.Module, batches: list[Tensor]) -> None:
    """Recompute all batch-norm statistics as the mean over `batches` of normalised images (B, 3, H, W)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    for batch in batches:
        model(batch)
    model.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _mixed(*numbers: int) -> int:
    """One seed from several numbers; nearby seeds and epochs do not share batches."""
    return int(np.random.SeedSequence([abs(number) for number in numbers]).generate_state(1)[0])


def _batches(images: ImageSet, batch_size: int, *, seed: int, augment: Augment, accelerator: Accelerator):
    """Shuffled, augmented batches on the device; of each global batch a process takes its own rows."""
    generator = torch.Generator().manual_seed(_mixed(seed, accelerator.process_index))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).numpy()
    labels = torch.from_numpy(images.labels)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        rows = np.sort(order[start : start + batch_size][accelerator.process_index :: accelerator.num_processes])
        pixels = torch.from_numpy(np.ascontiguousarray(images.images[rows])).to(accelerator.device)
        batch = augment(pixels, generator).contiguous(memory_format=torch.channels_last)
        yield batch, labels[rows].to(accelerator.device)


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
    """Running means over an epoch: loss, accuracy of the first and of the last sub-network."""

    def __init__(self) -> None:
        self.sums, self.count = 0, 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        heads = logits.detach().unsqueeze(1) if logits.ndim == 2 else logits.detach()[:, [0, -1]]
        hits = (heads.argmax(dim=-1) == labels[:, None]).float().mean(dim=0)
        self.sums = self.sums + torch.cat([loss.detach()[None], hits])
        self.count += 1

    def means(self) -> dict[str, float]:
        loss, *hits = (self.sums / self.count).tolist()
        return {
            "loss": loss,
            **({"accuracy": hits[0]} if len(hits) == 1 else {"accuracy_1": hits[0], "accuracy_K": hits[1]}),
        }

    def text(self) -> str:
        names = {"loss": "loss", "accuracy": "acc", "accuracy_1": "N_1", "accuracy_K": "N_K"}
        return " ".join(f"{names[name]} {value:.3f}" for name, value in self.means().items())


def _save_state(path: Path, model: nn.Module, average: nn.Module, optimiser, history: list[dict]) -> None:
    """Everything a run needs to go on, in one file, replaced in one step."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, slot in optimiser.state_dict()["state"].items():
        tensors[f"momentum.{index}"] = slot["momentum_buffer"]
    with replacing(path) as temporary:
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, temporary, {"history": json.dumps(history)}
        )


def _load_state(path: Path, model: nn.Module, average: nn.Module, optimiser) -> list[dict]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            history = json.loads(file.metadata()["history"])
        for prefix, module in (("model.", model), ("average.", average)):
            module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot go on from {path.name}: {error}; delete it to start afresh") from error
    state = optimiser.state_dict()
    state["state"] = {
        int(name.removeprefix("momentum.")): {"momentum_buffer": tensor}
        for name, tensor in tensors.items()
        if name.startswith("momentum.")
    }
    optimiser.load_state_dict(state)
    return history
