"""The joint loss of all sub-networks (Section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def joint_loss(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, *, distill: float = 0.0, teacher: Tensor | None = None,
    largest: float | None = None, teach_largest: bool = True,
) -> Tensor:  # fmt: skip
    """The mean over sub-networks and batch of the cross-entropy H(y, N_i(x)), Section 3.1; a scalar.

        L = 1/K · Σ_i H(y, N_i(x))

    With `distill` = α > 0 they also learn from a teacher T, whose logits are given, (B, classes):

        L = 1/K · Σ_i [(1 − α) H(y, N_i(x)) + α H(softmax T(x), N_i(x))]

    Where none is given, N_K teaches the smaller ones. It then learns from the labels alone, and unless `teach_largest` also where a
    teacher is given. With `largest` = w the loss of N_K has the weight w instead of 1/K, and the others share 1 − w equally. N_K is the
    last of the columns, whichever they are. No gradient reaches the teacher. logits: (B, K, classes), or (B, classes) for a base
    network; labels: (B,).
    """
    if logits.ndim == 2 and not distill:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    logits = logits[:, None] if logits.ndim == 2 else logits
    students, count = logits.transpose(1, 2), logits.shape[1]  # (B, classes, K)
    targets = labels[:, None].expand(-1, count)  # (B, K): all sub-networks have the same label
    if not distill and largest is None:
        return F.cross_entropy(students, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(students, targets, label_smoothing=label_smoothing, reduction="none")  # (B, K)
    if distill:
        learners = count if teacher is not None and teach_largest else count - 1
        probabilities = (logits[:, -1] if teacher is None else teacher).detach().softmax(dim=-1)[..., None]
        soft = F.cross_entropy(students[..., :learners], probabilities.expand(-1, -1, learners), reduction="none")
        losses = torch.cat([(1 - distill) * losses[:, :learners] + distill * soft, losses[:, learners:]], dim=1)
    if largest is None or count == 1:
        return losses.mean()
    return (1 - largest) * losses[:, :-1].mean() + largest * losses[:, -1].mean()
