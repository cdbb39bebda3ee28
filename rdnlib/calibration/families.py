"""The policies of Figure 8, all calibrated alike: on one split the cheapest member of a family that reaches a target, on
another what it does.

A family is something with `reach(target)`, the parameter of its cheapest member with that accuracy on its samples (or
InfeasibleError), and `take(parameter)`, what that member does with each sample: whether it is right, and its MAdds. The
families: f_λ, thresholds (the confidence cascade and the sequential policy), one network for all samples, and a random mix of two.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from rdnlib.calibration.envelope import table, threshold_exits, threshold_walk
from rdnlib.calibration.multiplier import (
    ROUNDING,
    calibrate,
    checked,
    choose,
    epsilon_for,
    reaching,
    saved_fraction,
    sweep,
)
from rdnlib.errors import InfeasibleError


class Family(Protocol):
    def reach(self, target: float) -> object: ...

    def take(self, parameter) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Outcome:
    """One calibrated policy on N samples."""

    parameter: object  # λ, a threshold, the index of a network, or (index, index, share) of a mix
    correct: np.ndarray  # (N,) right or not; for a mix the probability of being right
    madds: np.ndarray  # (N,) spent
    note: str  # what to know about it; empty if the target was reached

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def settle(calibration: Family, test: Family, target: float) -> Outcome:
    """Choose the parameter on `calibration` for the target accuracy there, and apply it to `test`.

    A family that cannot reach the target is taken at its best, and the outcome's note says so.
    """
    note = ""
    try:
        parameter = calibration.reach(target)
    except InfeasibleError as error:
        parameter = calibration.reach(error.best)
        note = (
            f"target {100 * target:.2f} % not reachable on the calibration split: the best is {100 * error.best:.2f} %"
        )
    return Outcome(parameter, *test.take(parameter), note)


@dataclass(frozen=True)
class ByLambda:
    """f_λ of a policy network: p, correct (N, K), saved (K,) and madds (K,), the policy's own cost included."""

    p: np.ndarray
    correct: np.ndarray
    saved: np.ndarray
    madds: np.ndarray

    def reach(self, target: float) -> float:
        return calibrate(self.p, self.correct, self.saved, epsilon_for(target)).lam

    def take(self, lam: float) -> tuple[np.ndarray, np.ndarray]:
        return _taken(self.correct, self.madds, choose(self.p, self.saved, lam))

    def curve(self, max_points: int | None = None) -> pd.DataFrame:
        return sweep(self.p, self.correct, self.saved, max_points, madds=self.madds)


@dataclass(frozen=True)
class ByThreshold:
    """Policies that go on from exit i while a parameter exceeds above[:, i]: (N, K−1); correct (N, K), madds (K,)."""

    above: np.ndarray
    correct: np.ndarray
    madds: np.ndarray
    name: str = "threshold"  # of the parameter

    def reach(self, target: float) -> float:
        return float(next(reaching(threshold_walk(self.above, self.correct), target)))

    def take(self, value: float) -> tuple[np.ndarray, np.ndarray]:
        return _taken(self.correct, self.madds, threshold_exits(self.above, value))

    def curve(self, max_points: int | None = None) -> pd.DataFrame:
        return table(threshold_walk(self.above, self.correct), self.name, {"madds": self.madds}, max_points)


@dataclass(frozen=True)
class OneForAll:
    """A single network for all samples, out of several: correct (N, M), madds (M,) ascending."""

    correct: np.ndarray
    madds: np.ndarray

    def reach(self, target: float) -> int:
        accuracy = self.correct.mean(axis=0)
        if accuracy.max() < target - ROUNDING:
            raise _unreachable(accuracy.max(), target)
        return int((accuracy >= target - ROUNDING).argmax())

    def take(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.correct[:, index], np.full(len(self.correct), self.madds[index], dtype=np.float64)


@dataclass(frozen=True)
class Mix:
    """Two networks out of several, chosen by a coin for each sample (a chord in Figure 8): arguments as `OneForAll`.

    `reach` gives the pair and the share of the dearer one for which the mean MAdds are least.
    """

    correct: np.ndarray
    madds: np.ndarray

    def reach(self, target: float) -> tuple[int, int, float]:
        accuracy, madds = self.correct.mean(axis=0), np.asarray(self.madds, dtype=np.float64)
        if accuracy.max() < target - ROUNDING:
            raise _unreachable(accuracy.max(), target)
        low, high = accuracy[:, None], accuracy[None, :]  # every pair (a, b)
        enough = (high >= target - ROUNDING) & (low <= high)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(low >= target - ROUNDING, 0.0, (target - low) / (high - low)).clip(0, 1)
        cost = np.where(enough, (1 - share) * madds[:, None] + share * madds[None, :], np.inf)
        a, b = np.unravel_index(cost.argmin(), cost.shape)
        return int(a), int(b), float(share[a, b])

    def take(self, pair: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray]:
        a, b, share = pair
        mixed = (1 - share) * self.correct[:, a] + share * self.correct[:, b]
        return mixed, np.full(len(mixed), (1 - share) * self.madds[a] + share * self.madds[b])


def cascade(confidence, correct, madds, max_points: int | None = None) -> pd.DataFrame:
    """The usual early exit: run N_1, N_2, … until the confidence of one is ≥ a threshold shared by all (N_K otherwise).

    confidence: (N, K) in [0, 1], e.g. the largest softmax probability (its last column is not used); correct: (N, K)
    bool; madds: (K,) increasing. Returns columns threshold, accuracy, madds, exit_1 … exit_K: one row per distinct
    policy, from threshold 0 (everything leaves at N_1) upward, with the conventions of `sweep`.
    """
    confidence, _, correct, madds = checked(confidence, saved_fraction(madds), correct, madds)
    return ByThreshold(confidence[:, :-1], correct, madds).curve(max_points)


def oracle(correct, madds) -> tuple[float, float]:
    """(accuracy, mean MAdds) of leaving at the first correct sub-network; a sample none gets right leaves at N_1."""
    correct = np.asarray(correct, dtype=bool)  # (N, K)
    exits = correct.argmax(axis=1)  # 0 where the whole row is False
    return float(correct.any(axis=1).mean()), float(np.asarray(madds)[exits].mean())


def chord(accuracy_a: float, madds_a: float, accuracy_b: float, madds_b: float, *, points: int = 2) -> pd.DataFrame:
    """Mixing two networks at random: columns share (of b), accuracy, madds, on `points` equal steps from a to b."""
    share = np.linspace(0, 1, points)
    accuracy = (1 - share) * accuracy_a + share * accuracy_b
    return pd.DataFrame({"share": share, "accuracy": accuracy, "madds": (1 - share) * madds_a + share * madds_b})


def _taken(correct: np.ndarray, madds: np.ndarray, exits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return correct[np.arange(len(exits)), exits], np.asarray(madds, dtype=np.float64)[exits]


def _unreachable(best: float, target: float) -> InfeasibleError:
    return InfeasibleError(f"no network reaches accuracy {target:.4f}: the best is {best:.4f}", best=float(best))
