"""A policy that learns on the way (beyond the paper): it looks again after every sub-network that has been executed.

The paper's policy decides once, from the features of N_1. This one has a small stage network per sub-network i < K that reads
the answers of N_1 … N_i and estimates p_v for all v ≥ i. The rule is the paper's, applied again at each stage: stay if no later v
has a larger (r_v + λ) p_v. Line v overtakes line i at one λ, and the smallest of these is the λ above which the image goes on. So
the whole policy is K − 1 numbers per image, and its curve is as exact as that of f_λ.
"""

import numpy as np
import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError, DataError
from rdnlib.policy.network import PolicyNetwork, fit_policy


def going_on(p: Tensor | np.ndarray, saved) -> np.ndarray:
    """λ above which an image goes on from the first of K exits: p (N, K), saved (K,) decreasing → (N,), ∞ for never.

    Line v overtakes line 1 at λ = (r_1 p_1 − r_v p_v) / (p_v − p_1) if it is the steeper one, and never otherwise.
    """
    p, saved = np.asarray(p, dtype=np.float64), np.asarray(saved, dtype=np.float64)
    first, rise = p[:, :1], p[:, 1:] - p[:, :1]
    crossing = np.full(rise.shape, np.inf)
    np.divide(saved[0] * first - saved[1:] * p[:, 1:], rise, out=crossing, where=rise > 0)
    return crossing.min(axis=1)


class SequentialPolicy(nn.Module):
    """K − 1 stage networks. Stage i reads `evidence` (B, i, E) and guessed classes (B, i) of N_1 … N_i, i from 1."""

    def __init__(self, in_evidence: int, num_subnetworks: int, hidden=(32,)) -> None:
        super().__init__()
        if num_subnetworks < 2:
            raise ConfigError("a sequential policy needs at least two sub-networks")
        self.in_evidence, self.num_subnetworks, self.hidden = in_evidence, num_subnetworks, list(hidden)
        self.network: str | None = None  # hash of the network it was fitted for, if known
        self.stages = nn.ModuleList(
            PolicyNetwork(i * in_evidence + i - 1, num_subnetworks - i + 1, hidden) for i in range(1, num_subnetworks)
        )

    def config(self) -> dict:
        """The arguments that rebuild this policy; plain numbers, fit for JSON."""
        return {"in_evidence": self.in_evidence, "num_subnetworks": self.num_subnetworks, "hidden": self.hidden}

    @property
    def params(self) -> int:
        """Learned parameters of all stages."""
        return sum(stage.params for stage in self.stages)

    def forward(self, evidence: Tensor, guesses: Tensor) -> Tensor:
        """What stage i thinks: (B, i, E) and (B, i) → p_i … p_K, (B, K − i + 1)."""
        return self.stages[evidence.shape[1] - 1](_inputs(evidence, guesses))


def fit_sequential(evidence, guesses, correct, *, hidden=(32,), **settings) -> SequentialPolicy:
    """Fit every stage by `fit_policy`, whose settings these are, on all samples.

    evidence: (N, K, E) as `evidence` gives it; guesses: (N, K) the classes guessed; correct: (N, K) bool. Raises DataError on
    shapes that disagree, and what `fit_policy` raises.
    """
    evidence, guesses, correct = torch.as_tensor(evidence), torch.as_tensor(guesses), torch.as_tensor(correct)
    if evidence.ndim != 3 or not evidence.shape[:2] == guesses.shape == correct.shape:
        shapes = ", ".join(str(tuple(value.shape)) for value in (evidence, guesses, correct))
        raise DataError(f"a sequential policy needs evidence (N, K, E), guesses and correct (N, K), not {shapes}")
    policy = SequentialPolicy(evidence.shape[2], correct.shape[1], hidden)
    for i in range(1, correct.shape[1]):
        inputs = _inputs(evidence[:, :i], guesses[:, :i])
        policy.stages[i - 1] = fit_policy(inputs, correct[:, i - 1 :], hidden=hidden, **settings)
    return policy.eval()


@torch.no_grad()
def thresholds(policy: SequentialPolicy, evidence, guesses, saved) -> np.ndarray:
    """For each image and stage the λ above which it goes on: evidence (N, K, E), guesses (N, K), saved (K,) → (N, K−1)."""
    evidence, guesses = torch.as_tensor(evidence), torch.as_tensor(guesses)
    columns = [
        going_on(policy(evidence[:, :i], guesses[:, :i]).cpu(), saved[i - 1 :])
        for i in range(1, policy.num_subnetworks)
    ]
    return np.stack(columns, axis=1)


def sequential_madds(policy: SequentialPolicy, answers) -> np.ndarray:
    """What leaving at exit i costs beside N_i itself, (K,): stages 1 … min(i, K−1), and the answers at all earlier stops."""
    stages = np.cumsum([stage.madds for stage in policy.stages])
    return np.append(stages, stages[-1]) + earlier_answers(answers, policy.num_subnetworks)


def earlier_answers(answers, count: int) -> np.ndarray:
    """MAdds of the answers at all stops before each of `count` exits; answers: of one exit, or (count,) of each."""
    return np.concatenate([[0], np.broadcast_to(answers, count).cumsum()[:-1]])


def _inputs(evidence: Tensor, guesses: Tensor) -> Tensor:
    """(B, i, E) and (B, i) → (B, i·E + i − 1): all evidence, and which earlier guesses agree with the latest."""
    agree = guesses[:, :-1] == guesses[:, -1:]
    return torch.cat([evidence.flatten(1), agree.to(evidence.dtype)], dim=1)
