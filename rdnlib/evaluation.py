"""Evaluation: what every sub-network says about every image. All tables, curves and policies are computed from this."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from rdnlib.augment import resize_eval
from rdnlib.data import ImageSet
from rdnlib.errors import DivergedError
from rdnlib.rdn import RDN
from rdnlib.sequential import evidence


@dataclass(frozen=True)
class Outputs:
    """top1, top5: (N, K) bool, whether N_i's first (first five) guesses hold the label; K = 1 for a base network.

    confidence: (N, K) float32, the largest softmax probability. guesses: (N, K) the class guessed first. For an RDN (else
    None), features: (N, C_1) float32, N_1's pooled features; evidence: (N, K, E) float32, see `sequential.evidence`.
    """

    top1: np.ndarray
    top5: np.ndarray
    confidence: np.ndarray
    guesses: np.ndarray
    features: np.ndarray | None
    evidence: np.ndarray | None


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    *,
    size: int,
    batch_size: int = 256,
    label: str = "evaluating",
    progress: bool = False,
) -> Outputs:
    """Run `model` (RDN, base network or slimmable) on all images in eval mode, at `size` pixels."""
    device = next(model.parameters()).device
    model.eval()
    collected = []
    for start in tqdm(range(0, len(images), batch_size), desc=label, disable=None if progress else True):
        rows = slice(start, min(start + batch_size, len(images)))
        pixels = torch.from_numpy(np.ascontiguousarray(images.images[rows])).to(device)
        x = resize_eval(pixels, size).contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(images.labels[rows]).to(device)
        if isinstance(model, RDN):
            features = model.features(x)
            logits = model.classify(features)  # (B, K, classes)
            first, said = model.first_features(features), evidence(logits)
        else:
            logits, first, said = model(x), None, None
            logits = logits if logits.ndim == 3 else logits[:, None]  # (B, K, classes)
        if not torch.isfinite(logits).all():
            raise DivergedError(f"{label}: the network's outputs are not finite; it has diverged in training")
        guesses = logits.topk(min(5, logits.shape[-1]), dim=-1).indices  # (B, K, 5)
        hits = guesses == labels[:, None, None]
        confidence = logits.softmax(dim=-1).amax(dim=-1)
        collected.append((hits[..., 0], hits.any(dim=-1), confidence, guesses[..., 0], first, said))
    top1, top5, confidence, guesses, first, said = zip(*collected, strict=True)
    return Outputs(
        top1=torch.cat(top1).cpu().numpy(),
        top5=torch.cat(top5).cpu().numpy(),
        confidence=torch.cat(confidence).float().cpu().numpy(),
        guesses=torch.cat(guesses).cpu().numpy(),
        features=None if first[0] is None else torch.cat(first).float().cpu().numpy(),
        evidence=None if said[0] is None else torch.cat(said).float().cpu().numpy(),
    )


def sample_table(images: ImageSet, split: str, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """One row per image: id, split, label, difficulty, and name_1 … name_K for each (N, K) array in `columns`."""
    table = {"id": images.ids, "split": split, "label": images.labels, "difficulty": images.difficulty}
    for name, values in columns.items():
        table |= {f"{name}_{index + 1}": values[:, index] for index in range(values.shape[1])}
    return pd.DataFrame(table)
