"""From predicted probabilities to exits: the exact accuracy/complexity curve in λ, and λ* for a target (Section 3.4).

The Lagrangian of equation 3 is maximised sample by sample: f_λ(x) = argmax_v (r_v + λ) p_v(x). For one sample these
are K lines in λ with intercept r_v p_v and slope p_v, so its exit follows their upper envelope, and since a line with
a higher slope can only overtake from a dearer sub-network, the exit never moves back as λ grows. Collecting the moves
of all samples and sorting them once gives every policy there is; no grid is searched.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rdnlib.calibration.envelope import Walk, lambda_walk, table
from rdnlib.calibration.guarantee import certified, certified_gap
from rdnlib.errors import ConfigError, InfeasibleError

ROUNDING = 1e-12  # so that ε = 1 − accuracy asks for that accuracy, in spite of the two roundings
METHODS = ("first", "bisection")


@dataclass(frozen=True)
class Calibration:
    """λ* and what it gives on the calibration samples: accuracy, mean saved fraction, exit shares (K,), mean MAdds."""

    lam: float
    accuracy: float
    saved: float
    exits: tuple[float, ...]
    madds: float | None = None


def saved_fraction(madds: np.ndarray) -> np.ndarray:
    """r_v = 1 − MAdds_v / MAdds_K: (K,) increasing MAdds → (K,) decreasing to 0."""
    madds = np.asarray(madds, dtype=np.float64)
    return 1 - madds / madds[-1]


def sweep(p, correct, saved, max_points: int | None = None, *, madds=None) -> pd.DataFrame:
    """Every policy f_λ, λ ≥ 0, exactly (equations 2 and 3).

    p: (N, K) estimated probabilities that N_v is right; correct: (N, K) bool; saved: (K,) the r_v, strictly
    decreasing to 0; madds: optional (K,) cost of each exit, policy included. Returns columns lam, accuracy, saved,
    [madds,] exit_1 … exit_K (shares), one row per distinct policy with lam ascending from 0. The row at lam holds
    from lam up to the next row's. Ties go to the cheaper sub-network, so the row begins at the first floating-point
    number above the breakpoint. With `max_points`, that many rows, evenly spread from the first to the last policy,
    each still exact. Raises ConfigError on NaN, probabilities outside [0, 1], shapes that disagree, no samples, r not
    decreasing to 0.
    """
    p, saved, correct, madds = checked(p, saved, correct, madds)
    walk = lambda_walk(p, correct, saved)
    return table(walk, "lam", {"saved": saved, "madds": madds}, max_points)


def choose(p, saved, lam: float) -> np.ndarray:
    """Exit of each sample, (N,) from 0 to K−1: argmax_v (r_v + λ) p_v, ties to the cheaper; λ = ∞ is argmax_v p_v."""
    p, saved, _, _ = checked(p, saved)
    if not lam >= 0:
        raise ConfigError(f"λ must be a number ≥ 0 or infinity, not {lam}")
    return (p if math.isinf(lam) else (saved + lam) * p).argmax(axis=1)


def epsilon_for(target: float) -> float:
    """The ε that asks for a measured accuracy: 1 − target, kept within [0, 1)."""
    return min(max(0.0, 1 - target), 1 - ROUNDING)


def check_target(epsilon: float, delta: float | None = None) -> None:
    """Raise ConfigError for ε outside [0, 1) or δ outside (0, 1)."""
    if not 0 <= epsilon < 1:
        raise ConfigError(f"ε must be in [0, 1), not {epsilon}")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"δ must be strictly between 0 and 1, not {delta}")


def calibrate(
    p, correct, saved, epsilon: float, delta: float | None = None, *, madds=None, method="first", paired=False
) -> Calibration:
    """λ* for the constraint accuracy ≥ 1 − ε of equation 2, or accuracy ≥ N_K's − ε if `paired`; p … as in `sweep`.

    Without `delta`: the smallest λ whose accuracy on these samples reaches the target. On real labels accuracy is not
    monotone in λ: a larger λ may fall below the target again, and it is still the first λ that reaches it which is
    returned, because the exits only move to dearer sub-networks as λ grows and so it saves the most. `choose(p,
    saved, result.lam)` gives exactly the accuracy that is reported. `method="bisection"` is the paper's one-pass binary
    search, here over the distinct policies: it takes accuracy to be monotone, so it finds a λ at which the target
    is reached and just before which it is not, but perhaps a later one; and it gives up if λ = ∞ misses the target.

    With `delta`: a λ whose accuracy on new samples of the same distribution reaches the target with probability ≥ 1 − δ
    over the draw of these (Learn then Test): walk down a fixed grid of λ from ∞ and stop before the first λ for which
    "the target is missed" is not rejected at level δ by an exact binomial test (see `guarantee`). The grid has 100
    values a decade.

    Raises InfeasibleError with the best reachable accuracy (and, with `delta`, the number of samples that would be
    needed), ConfigError as `sweep` does, for ε outside [0, 1), δ outside (0, 1) or an unknown method.
    """
    check_target(epsilon, delta)
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    p, saved, correct, madds = checked(p, saved, correct, madds)
    walk, full = lambda_walk(p, correct, saved), int(correct[:, -1].sum())
    target = (full / len(p) if paired else 1) - epsilon
    if delta is None:
        candidates = reaching(walk, target, method)
    elif paired:
        alone = lambda_walk(p, correct & ~correct[:, -1:], saved)
        candidates = [certified_gap(walk, alone, full, epsilon, delta)]
    else:
        candidates = [certified(walk, target, delta)]
    for lam in candidates:
        exits = choose(p, saved, lam)
        accuracy = float(correct[np.arange(len(p)), exits].mean())
        if accuracy >= target - ROUNDING:
            break
    shares = np.bincount(exits, minlength=len(saved)) / len(p)
    return Calibration(
        lam=float(lam),
        accuracy=accuracy,
        saved=float(shares @ saved),
        exits=tuple(shares.tolist()),
        madds=None if madds is None else float(shares @ madds),
    )


def checked(p, saved, correct=None, madds=None):
    """The arguments as arrays (p as floating point, the others as float64, bool, float64), or ConfigError."""
    p, saved = np.asarray(p), np.asarray(saved, dtype=np.float64)
    if p.ndim != 2 or saved.shape != p.shape[1:]:
        raise ConfigError(f"p must be (samples, K) and saved (K,), not {p.shape} and {saved.shape}")
    if p.size == 0:
        raise ConfigError("there are no samples to calibrate on: give at least one")
    p = p if p.dtype in (np.float32, np.float64) else p.astype(np.float64)
    if not (p.min() >= 0 and p.max() <= 1):  # false for NaN too
        raise ConfigError("p must be probabilities in [0, 1] without NaN")
    if not (np.all(np.diff(saved) < 0) and saved[-1] == 0 and saved[0] <= 1):
        raise ConfigError(f"saved must decrease strictly from at most 1 to 0, not {saved.tolist()}")
    if correct is not None:
        correct = np.asarray(correct)
        if correct.shape != p.shape:
            raise ConfigError(f"correct must have the shape of p, {p.shape}, not {correct.shape}")
        if correct.dtype != bool:
            if not np.isin(correct, (0, 1)).all():
                raise ConfigError("correct must hold only true and false (or 1 and 0)")
            correct = correct.astype(bool)
    if madds is not None:
        madds = np.asarray(madds, dtype=np.float64)
        if madds.shape != saved.shape or not np.isfinite(madds).all():
            raise ConfigError(f"madds must be {len(saved)} finite numbers, one per sub-network")
    return p, saved, correct, madds


def reaching(walk: Walk, target: float, method: str = "first") -> Iterator[float]:
    """The parameters of a walk that reach the target, ascending, each policy's interval from its beginning to its middle.

    Nearly always the first is the answer. But at the beginning of an interval the sample that moved last is still
    almost a tie, and rounding in `choose` may show it at its old exit: then a λ just above is the smallest that
    works. Raises InfeasibleError if there are none.
    """
    values = walk.values()
    accuracy = walk.accuracy(values)
    reached = accuracy >= target - ROUNDING
    if method == "bisection":
        reached = _bisected(reached)
    if not reached.any():
        best = float(accuracy.max())
        if best >= target - ROUNDING:
            raise InfeasibleError(
                f"the binary search begins at λ = ∞, whose accuracy {accuracy[-1]:.4f} misses the target {target:.4f}; "
                f"other λ reach {best:.4f}: use method='first'",
                best=best,
            )
        raise InfeasibleError(
            f"no λ reaches accuracy {target:.4f} on these {walk.samples} samples: the best is {best:.4f}; "
            f"use ε ≥ {math.ceil((1 - best) * 1e4) / 1e4:.4f}",
            best=best,
        )
    ends = np.append(values[1:], 2 * values[-1] + 1)
    for row in np.flatnonzero(reached):
        for step in (0, 2.0**-40, 2.0**-30, 2.0**-20, 2.0**-10, 0.5):
            yield values[row] + (ends[row] - values[row]) * step


def _bisected(reached: np.ndarray) -> np.ndarray:
    """Of the policies that reach the target, (R,) bool, only those from the one that a binary search ends at."""
    low, high = -1, len(reached) - 1
    if reached[high]:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached[middle] else (middle, high)
    return reached & (np.arange(len(reached)) >= high)
