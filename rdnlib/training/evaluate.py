"""Evaluation: the outputs of every sub-network for every image. All tables, curves and policies are computed from them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rdnlib.data.datasets import ImageSet
from rdnlib.data.transforms import resize_eval
from rdnlib.errors import DivergedError
from rdnlib.nn.heads import evidence
from rdnlib.nn.rdn import RDN
from rdnlib.training.loader import read
from rdnlib.utils import devices


@dataclass(frozen=True)
class Outputs:
    """Outputs for N images of K sub-networks (K = 1 for a base network).

    top1, top5: (N, K) bool, whether N_i's first (first five) predictions hold the label. confidence: (N, K) float32, the
    largest softmax probability. guesses: (N, K), the class predicted first. For an RDN, else None: features, (N, C_1) float32,
    N_1's pooled features; evidence, (N, K, E) float32, see `nn.heads.evidence`.
    """

    top1: np.ndarray
    top5: np.ndarray
    confidence: np.ndarray
    guesses: np.ndarray
    features: np.ndarray | None
    evidence: np.ndarray | None


@torch.inference_mode()
def evaluate(
    model: nn.Module, images: ImageSet, *,
    size: int, batch_size: int = 256, label: str = "evaluating", progress: bool = False,
) -> Outputs:  # fmt: skip
    """Run `model` (RDN, base network or slimmable) on all images in eval mode, at `size` pixels; it stays on its device.

    Several processes share the batches: each image is evaluated once, and every process returns the outputs for all of them.
    Raises DivergedError where the outputs are not finite.
    """
    here, home = devices.here(), next(model.parameters()).device
    model.eval().to(here.device)
    batches = [slice(start, min(start + batch_size, len(images))) for start in range(0, len(images), batch_size)]
    own = range(here.process_index, len(batches), here.num_processes)
    hidden = not (progress and here.is_main_process) or None  # None: shown on a terminal
    stream = tqdm(read(images, [batches[index] for index in own]), label, len(own), disable=hidden)
    outputs = []
    for index, pixels in zip(own, stream, strict=True):
        x = resize_eval(pixels, size).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(images.labels[batches[index]]).to(here.device)
        outputs.append((index, _outputs(model, x, labels, label)))
    model.to(home)
    parts = [vars(part).values() for _, part in sorted(devices.gather(outputs), key=lambda pair: pair[0])]
    return Outputs(*(None if field[0] is None else np.concatenate(field) for field in zip(*parts, strict=True)))


def _outputs(model: nn.Module, x: Tensor, labels: Tensor, label: str) -> Outputs:
    """Outputs for one batch of normalised images (B, 3, size, size)."""
    if isinstance(model, RDN):
        features = model.features(x)
        logits = model.classify(features)  # (B, K, classes)
        extra = model.first_features(features).float(), evidence(logits).float()
    else:
        logits, extra = model(x), (None, None)
        logits = logits if logits.ndim == 3 else logits[:, None]  # (B, K, classes)
    if not torch.isfinite(logits).all():
        raise DivergedError(f"{label}: the network's outputs are not finite; it has diverged in training")
    guesses = logits.topk(min(5, logits.shape[-1]), dim=-1).indices  # (B, K, 5)
    hits = guesses == labels[:, None, None]
    confidence = logits.softmax(dim=-1).amax(dim=-1).float()
    fields = hits[..., 0], hits.any(dim=-1), confidence, guesses[..., 0], *extra
    return Outputs(*(None if value is None else value.cpu().numpy() for value in fields))


def sample_table(images: ImageSet, split: str, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per image: id, split, label, difficulty, and name_1 … name_K for each (N, K) array in `columns`."""
    table = {"id": images.ids, "split": split, "label": images.labels, "difficulty": images.difficulty}
    for name, values in columns.items():
        table |= {f"{name}_{index + 1}": values[:, index] for index in range(values.shape[1])}
    return pd.DataFrame(table)
