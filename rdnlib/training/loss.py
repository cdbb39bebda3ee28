"""The joint loss of all sub-networks (Section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def joint_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, *, distill: float = 0.0, teacher: Tensor | None = None,
    largest: float | None = None,
) -> Tensor:  # fmt: skip
    """The mean over sub-networks and batch of the cross-entropy H(y, N_i(x)), Section 3.1; a scalar.

        L = 1/K · Σ_i H(y, N_i(x))

    With `distill` = α > 0 the smaller ones also learn from a teacher T, whose logits (B, classes) are N_K's unless given:

        L = 1/K · ( Σ_{i<K} [(1 − α) H(y, N_i(x)) + α H(T(x), N_i(x))] + H(y, N_K(x)) )

    With `largest` = w the loss of N_K has the weight w instead of 1/K, and the others share 1 − w equally. No gradient reaches
    the teacher. logits: (B, K, classes), or (B, classes) for a base network; labels: (B,).
    """
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    students = logits.transpose(1, 2)  # (B, classes, K)
    targets = labels[:, None].expand(-1, logits.shape[1])  # (B, K): all sub-networks have the same label
    if not distill and largest is None:
        return F.cross_entropy(students, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(students, targets, label_smoothing=label_smoothing, reduction="none")  # (B, K)
    smaller, last = losses[:, :-1], losses[:, -1:]
    if distill:
        teacher = (logits[:, -1] if teacher is None else teacher).detach().softmax(dim=-1)  # (B, classes)
        taught = students[..., :-1]  # (B, classes, K − 1)
        soft = F.cross_entropy(taught, teacher[..., None].expand_as(taught), reduction="none")  # (B, K − 1)
        smaller = (1 - distill) * smaller + distill * soft
    if largest is None or not smaller.numel():
        return torch.cat([smaller, last], dim=1).mean()
    return (1 - largest) * smaller.mean() + largest * last.mean()
