"""Families of policies (Figure 8), all calibrated alike: on one split the cheapest member that reaches a target, on
another what it does. The families: f_λ, thresholds (a confidence cascade, the sequential policy), one network for all
samples, and a random mix of two networks.

The cheapest member that reaches a target on some samples owes part of its accuracy to these very samples, and on new ones falls
short. So, beyond the paper, the aim is set above the target by a margin that cross-fitting finds (`margin`).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import pandas as pd

from rdnlib.calibration.envelope import ExactCurve, lambda_curve, threshold_curve, threshold_exits
from rdnlib.calibration.multiplier import ROUNDING, calibrate, choose, reaching, sweep
from rdnlib.errors import InfeasibleError

FOLDS = 5
MARGINS = np.arange(0, 0.0401, 0.0025)  # of accuracy


class Family(Protocol):
    """Policies for N samples that differ in one parameter."""

    def rows(self, index: np.ndarray) -> "Family":
        """The same policies for some of the samples."""

    def reach(self, target: float) -> object:
        """The parameter of the cheapest member with accuracy ≥ target on these samples. Raises InfeasibleError."""

    def take(self, parameter) -> tuple[np.ndarray, np.ndarray]:
        """What that member does with each sample: is it right, and which MAdds it spends, both (N,)."""


@dataclass(frozen=True)
class Outcome:
    """One calibrated policy on N samples."""

    parameter: object  # λ, a threshold, the index of a network, or (index, index, share) of a mix
    correct: np.ndarray  # (N,) right or not; for a mix the probability of being right
    madds: np.ndarray  # (N,) spent
    note: str  # that the target was not reached; else empty

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


def calibrate_or_best(family: Family, target: float) -> tuple[object, float | None]:
    """The parameter that reaches the target, and None; else that of the best reachable accuracy, and this accuracy."""
    try:
        return family.reach(target), None
    except InfeasibleError as error:
        return family.reach(error.best), error.best


def margin(family: Family, reference: np.ndarray, gap: float, *, folds: int = FOLDS, seed: int = 0) -> float:
    """How far above the accuracy of `reference` minus `gap` to aim on these N samples, so that new ones meet that target.

    reference: (N,) whether N_K is right. The parameter is chosen on all folds but one and judged on that one; of MARGINS this is the
    smallest with which all folds together meet the target, or the largest. 0 where there are fewer than 10 samples a fold.
    """
    if len(reference) < 10 * folds:
        return 0.0
    order = np.random.default_rng(seed).permutation(len(reference))
    curve = family.exact() if isinstance(family, ByExit) else None
    surplus = np.zeros(len(MARGINS))
    for part in np.array_split(order, folds):
        rest = np.setdiff1d(order, part)
        targets = reference[rest].mean() - gap + MARGINS
        if curve is None:
            right = _reached(family.rows(rest), targets, family.rows(part))
        else:
            right = _reached_by_curve(curve.of(rest), targets, curve.of(part))
        surplus += right - (reference[part] - gap).sum()
    enough = surplus >= -ROUNDING * len(reference)
    return float(MARGINS[enough.argmax()] if enough.any() else MARGINS[-1])


def _reached(fitted: Family, targets: np.ndarray, test: Family) -> np.ndarray:
    """How many test samples are right at each target, (T,), the parameter being chosen for it on `fitted`."""
    return np.array([test.take(calibrate_or_best(fitted, target)[0])[0].sum() for target in targets])


def _reached_by_curve(fitted: ExactCurve, targets: np.ndarray, test: ExactCurve) -> np.ndarray:
    """`_reached` for all targets at once, from the two exact curves."""
    begins = fitted.breakpoints()
    accuracy = fitted.correct(begins) / fitted.samples
    best = np.maximum.accumulate(accuracy)
    first = np.minimum(np.searchsorted(best, targets - ROUNDING), accuracy.argmax())
    return test.correct(begins[first])


def calibrate_to(family: Family, reference: np.ndarray, gap: float) -> tuple[object, float | None]:
    """`calibrate_or_best` for the accuracy of `reference` (N,) minus `gap`, and its `margin`.

    The best reachable accuracy is returned only where it misses the target itself.
    """
    target = reference.mean() - gap
    parameter, best = calibrate_or_best(family, target + margin(family, reference, gap))
    return parameter, best if best is not None and best < target - ROUNDING else None


def calibrate_and_apply(calibration: Family, test: Family, reference: np.ndarray, gap: float = 0.0) -> Outcome:
    """Choose the parameter on `calibration` by `calibrate_to`, and apply it to `test`."""
    parameter, best = calibrate_to(calibration, reference, gap)
    note = ""
    if best is not None:
        target = 100 * (reference.mean() - gap)
        note = f"target {target:.2f} % not reachable on the calibration split: the best is {100 * best:.2f} %"
    return Outcome(parameter, *test.take(parameter), note)


class ByExit:
    """Policies whose parameter decides at which exit each sample leaves; they have `exits`, `correct` and `madds`."""

    per_sample: tuple[str, ...]  # names of the arrays with a row for each sample

    def exact(self) -> ExactCurve:
        """All members at once."""
        raise NotImplementedError

    def rows(self, index: np.ndarray) -> "ByExit":
        return replace(self, **{name: getattr(self, name)[index] for name in self.per_sample})

    def joined(self, other: "ByExit") -> "ByExit":
        """The same policies for the samples of both."""
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in self.per_sample}
        return replace(self, **both)

    def take(self, parameter: float) -> tuple[np.ndarray, np.ndarray]:
        exits = self.exits(parameter)
        return self.correct[np.arange(len(exits)), exits], np.asarray(self.madds, dtype=np.float64)[exits]


@dataclass(frozen=True)
class ByLambda(ByExit):
    """f_λ of a policy network: p, correct (N, K), saved (K,) and madds (K,), the policy's own cost included."""

    p: np.ndarray
    correct: np.ndarray
    saved: np.ndarray
    madds: np.ndarray
    per_sample = ("p", "correct")

    def reach(self, target: float) -> float:
        epsilon = min(max(0.0, 1 - target), 1 - ROUNDING)  # within [0, 1)
        return calibrate(self.p, self.correct, self.saved, epsilon).lam

    def exact(self) -> ExactCurve:
        return lambda_curve(self.p, self.correct, self.saved)

    def exits(self, lam: float) -> np.ndarray:
        return choose(self.p, self.saved, lam)

    def curve(self, max_points: int | None = None) -> pd.DataFrame:
        """As `sweep` gives it."""
        return sweep(self.p, self.correct, self.saved, max_points, madds=self.madds)


@dataclass(frozen=True)
class ByThreshold(ByExit):
    """Policies that go on from exit i while a parameter exceeds above[:, i]: (N, K−1); correct (N, K), madds (K,).

    For the usual cascade, which runs N_1, N_2, … until one is sure, `above` are the confidences of all but N_K.
    """

    above: np.ndarray
    correct: np.ndarray
    madds: np.ndarray
    name: str = "threshold"  # of the parameter
    per_sample = ("above", "correct")

    def exact(self) -> ExactCurve:
        return threshold_curve(self.above, self.correct)

    def reach(self, target: float) -> float:
        return float(reaching(self.exact(), target)[0, 0])

    def exits(self, value: float) -> np.ndarray:
        return threshold_exits(self.above, value)

    def curve(self, max_points: int | None = None) -> pd.DataFrame:
        """Columns: the parameter, accuracy, madds, exit_1 … exit_K; one row per distinct policy, as in `sweep`."""
        return self.exact().table(self.name, max_points, madds=self.madds)


@dataclass(frozen=True)
class OneForAll:
    """A single network for all samples, out of several: correct (N, M), madds (M,) ascending."""

    correct: np.ndarray
    madds: np.ndarray

    @cached_property
    def accuracy(self) -> np.ndarray:
        """Of each network, (M,)."""
        return self.correct.mean(axis=0)

    def rows(self, index: np.ndarray) -> "OneForAll":
        return replace(self, correct=self.correct[index])

    def reach(self, target: float) -> int:
        self._check(target)
        return int((self.accuracy >= target - ROUNDING).argmax())

    def take(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.correct[:, index], np.full(len(self.correct), self.madds[index], dtype=np.float64)

    def _check(self, target: float) -> None:
        """InfeasibleError if no network reaches the target."""
        best = float(self.accuracy.max())
        if best < target - ROUNDING:
            raise InfeasibleError(f"no network reaches accuracy {target:.4f}: the best is {best:.4f}", best=best)


class Mix(OneForAll):
    """Two networks out of several, chosen by a coin for each sample (a chord in Figure 8).

    The parameter is the pair and the share of the dearer one; `reach` gives those with the least mean MAdds.
    """

    def reach(self, target: float) -> tuple[int, int, float]:
        self._check(target)
        madds = np.asarray(self.madds, dtype=np.float64)
        low, high = self.accuracy[:, None], self.accuracy[None, :]  # every pair (a, b)
        enough = (high >= target - ROUNDING) & (low <= high)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(low >= target - ROUNDING, 0.0, (target - low) / (high - low)).clip(0, 1)
        cost = np.where(enough, (1 - share) * madds[:, None] + share * madds[None, :], np.inf)
        a, b = np.unravel_index(cost.argmin(), cost.shape)
        return int(a), int(b), float(share[a, b])

    def within(self, budget: float) -> tuple[int, int, float]:
        """The pair and share that are right most often, at mean MAdds of `budget`, or of the nearest network outside of their range."""
        madds = np.asarray(self.madds, dtype=np.float64)
        budget = np.clip(budget, madds.min(), madds.max())
        low, high = madds[:, None], madds[None, :]  # every pair (a, b)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(low < high, (budget - low) / (high - low), 0.0)
        mixed = (1 - share) * self.accuracy[:, None] + share * self.accuracy[None, :]
        a, b = np.unravel_index(np.where((low <= budget) & (budget <= high), mixed, -1).argmax(), mixed.shape)
        return int(a), int(b), float(share[a, b])

    def take(self, pair: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray]:
        a, b, share = pair
        mixed = (1 - share) * self.correct[:, a] + share * self.correct[:, b]
        return mixed, np.full(len(mixed), (1 - share) * self.madds[a] + share * self.madds[b])
