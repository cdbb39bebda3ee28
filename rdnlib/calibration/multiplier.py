"""f_λ, its exact curve over all λ, and λ* for a target accuracy (equations 2 and 3, see `rdnlib.calibration`)."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rdnlib.calibration.envelope import ExactCurve, lambda_curve
from rdnlib.calibration.guarantee import certified, certified_gap
from rdnlib.errors import ConfigError, InfeasibleError

ROUNDING = 1e-12  # so that ε = 1 − accuracy asks for that accuracy, in spite of the two roundings
# Shares of an interval between two breakpoints at which λ is tried. At the breakpoint the sample that moves there is
# almost a tie, and rounding in `choose` may leave it at its old exit; a little further on it does not.
INSIDE = (0, 2.0**-40, 2.0**-30, 2.0**-20, 2.0**-10, 0.5)


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


def choose(p, saved, lam: float) -> np.ndarray:
    """f_λ = argmax_v (r_v + λ) p_v, or argmax_v p_v for λ = ∞: exits (N,) from 0 to K−1, ties to the cheaper."""
    p, saved, _, _ = checked(p, saved)
    if not lam >= 0:
        raise ConfigError(f"λ must be a number ≥ 0 or infinity, not {lam}")
    return (p if math.isinf(lam) else (saved + lam) * p).argmax(axis=1)


def sweep(p, correct, saved, max_points: int | None = None, *, madds=None) -> pd.DataFrame:
    """Every policy f_λ, λ ≥ 0, exactly (equations 2 and 3).

    p: (N, K) estimated probabilities that N_v is right; correct: (N, K) bool; saved: (K,) the r_v, strictly decreasing
    to 0; madds: optional (K,) cost of each exit, policy included. Returns columns lam, accuracy, saved, [madds,] exit_1
    … exit_K (shares), one row per distinct policy with lam ascending from 0. The row at lam holds from lam up to the
    next row's. Ties go to the cheaper sub-network, so the row begins at the first floating-point number above the
    breakpoint. With `max_points`, that many rows, evenly spread from the first to the last policy, each still exact.
    Raises ConfigError on NaN, probabilities outside [0, 1], shapes that disagree, no samples, r not decreasing to 0.
    """
    p, saved, correct, madds = checked(p, saved, correct, madds)
    return lambda_curve(p, correct, saved).table("lam", max_points, saved=saved, madds=madds)


def calibrate(
    p, correct, saved, epsilon: float, delta: float | None = None, *, madds=None, method="first", paired=False
) -> Calibration:
    """λ* for the constraint accuracy ≥ 1 − ε of equation 2, or accuracy ≥ N_K's − ε if `paired`; p … as in `sweep`.

    Without `delta`: the smallest λ whose accuracy on these samples reaches the target. On real labels accuracy is not
    monotone in λ: a larger λ may fall below the target again. The first λ that reaches it saves the most, because the
    exits only move to dearer sub-networks as λ grows. `choose(p, saved, result.lam)` gives exactly the accuracy that is
    reported. `method="bisection"` is the paper's one-pass binary search, here over the distinct policies: it takes
    accuracy to be monotone, so it may end at a later λ, at which the target is reached and just before which it is not;
    and it gives up if λ = ∞ misses the target.

    With `delta`: a λ whose accuracy on new samples of the same distribution reaches the target with probability ≥ 1 − δ
    over the draw of these (Learn then Test, see `guarantee`): the smallest of a fixed grid for which, and for all
    larger ones, an exact binomial test rejects "the target is missed" at level δ. The grid has 100 values a decade.

    Raises InfeasibleError with the best reachable accuracy (and, with `delta`, the number of samples that would be
    needed), ConfigError as `sweep` does, for ε outside [0, 1), δ outside (0, 1) or an unknown method.
    """
    check_target(epsilon, delta)
    if method not in ("first", "bisection"):
        raise ConfigError(f"method must be one of first, bisection, not {method!r}")
    p, saved, correct, madds = checked(p, saved, correct, madds)
    curve, full = lambda_curve(p, correct, saved), int(correct[:, -1].sum())
    target = (full / len(p) if paired else 1) - epsilon
    if delta is None:
        intervals = reaching(curve, target, method)
        candidates = (begin + share * (end - begin) for begin, end in intervals for share in INSIDE)
    elif paired:
        alone = lambda_curve(p, correct & ~correct[:, -1:], saved)
        candidates = [certified_gap(curve, alone, full, epsilon, delta)]
    else:
        candidates = [certified(curve, target, delta)]
    for lam in candidates:
        exits = choose(p, saved, lam)
        accuracy = float(correct[np.arange(len(p)), exits].mean())
        if accuracy >= target - ROUNDING:
            break
    shares = np.bincount(exits, minlength=len(saved)) / len(p)
    cost = None if madds is None else float(shares @ madds)
    return Calibration(float(lam), accuracy, float(shares @ saved), tuple(shares.tolist()), cost)


def reaching(curve: ExactCurve, target: float, method: str = "first") -> np.ndarray:
    """Intervals of the parameter that reach the target, ascending, (R, 2). Raises InfeasibleError if none does."""
    begins = curve.breakpoints()
    accuracy = curve.correct(begins) / curve.samples
    reached = accuracy >= target - ROUNDING
    if method == "bisection":
        reached &= np.arange(len(reached)) >= _bisected(reached)
    if not reached.any():
        best = float(accuracy.max())
        problem = f"no λ reaches accuracy {target:.4f} on these {curve.samples} samples: the best is {best:.4f}"
        advice = f"use ε ≥ {math.ceil((1 - best) * 1e4) / 1e4:.4f}"
        if best >= target - ROUNDING:
            last = f"whose accuracy {accuracy[-1]:.4f} misses the target {target:.4f}"
            problem = f"the binary search begins at λ = ∞, {last}"
            advice = f"other λ reach {best:.4f}: use method='first'"
        raise InfeasibleError(f"{problem}; {advice}", best=best)
    ends = np.append(begins[1:], 2 * begins[-1] + 1)
    return np.column_stack([begins, ends])[reached]


def _bisected(reached: np.ndarray) -> int:
    """Where a binary search for the first that reaches the target ends, of R policies in order of λ: (R,) bool."""
    low, high = -1, len(reached) - 1
    while reached[-1] and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached[middle] else (middle, high)
    return high


def check_target(epsilon: float, delta: float | None = None) -> None:
    """Raise ConfigError for ε outside [0, 1) or δ outside (0, 1)."""
    if not 0 <= epsilon < 1:
        raise ConfigError(f"ε must be in [0, 1), not {epsilon}")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"δ must be strictly between 0 and 1, not {delta}")


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
        if correct.dtype != bool and not np.isin(correct, (0, 1)).all():
            raise ConfigError("correct must hold only true and false (or 1 and 0)")
        correct = correct.astype(bool, copy=False)
    if madds is not None:
        madds = np.asarray(madds, dtype=np.float64)
        if madds.shape != saved.shape or not np.isfinite(madds).all():
            raise ConfigError(f"madds must be {len(saved)} finite numbers, one per sub-network")
    return p, saved, correct, madds
