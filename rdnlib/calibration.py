"""From predicted probabilities to exits: the exact accuracy/complexity curve in λ, and λ* for a target (Section 3.4).

The Lagrangian of equation 3 is maximised sample by sample: f_λ(x) = argmax_v (r_v + λ) p_v(x). For one sample these
are K lines in λ with intercept r_v p_v and slope p_v, so its exit follows their upper envelope, and since a line with
a higher slope can only overtake from a dearer sub-network, the exit never moves back as λ grows. Collecting the moves
of all samples and sorting them once gives every policy there is; no grid is searched.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import bdtrc

from rdnlib.errors import ConfigError, InfeasibleError

CHUNK = 1 << 15  # samples per step: the working arrays stay in cache
ROUNDING = 1e-12  # so that ε = 1 − accuracy asks for that accuracy, in spite of the two roundings
# λ values tried with a guarantee, safest first. They may not depend on the data, or the guarantee is lost.
SAFE_TO_CHEAP = np.concatenate([[np.inf], np.geomspace(1e4, 1e-3, 701), [0.0]])


@dataclass(frozen=True)
class Calibration:
    """λ* and what it gives on the calibration samples: accuracy, mean saved fraction, exit shares (K,), mean MAdds."""

    lam: float
    accuracy: float
    saved: float
    exits: tuple[float, ...]
    madds: float | None = None


@dataclass(frozen=True)
class _Walk:
    """How the exits of N samples move while one parameter (λ, or a confidence threshold) grows, in order."""

    exits: np.ndarray  # (K,) samples per exit before the first move
    hits: int  # correct samples before the first move
    at: np.ndarray  # (M,) ascending: the smallest parameter value at which the move has happened
    source: np.ndarray  # (M,) exit before the move
    target: np.ndarray  # (M,) exit after it
    gain: np.ndarray  # (M,) change in the number of correct samples: −1, 0 or 1

    @property
    def samples(self) -> int:
        return int(self.exits.sum())

    def values(self) -> np.ndarray:
        """Where the policy changes, beginning with 0: (R,)."""
        first = np.flatnonzero(np.diff(self.at, prepend=-np.inf))
        return np.concatenate([[0.0], self.at[first]])

    def accuracy(self, values: np.ndarray) -> np.ndarray:
        """Accuracy of the policy in force at each value: (R,) → (R,)."""
        return (self.hits + self._before(self.gain, values)) / self.samples

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Shares of the exits at each value: (R,) → (R, K)."""
        moved = [
            self._before((self.target == v).astype(np.int8) - (self.source == v), values)
            for v in range(len(self.exits))
        ]
        return (self.exits + np.stack(moved, axis=1)) / self.samples

    def _before(self, change: np.ndarray, values: np.ndarray) -> np.ndarray:
        totals = np.concatenate([[0], np.cumsum(change, dtype=np.int64)])
        return totals[np.searchsorted(self.at, values, side="right")]


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
    p, saved, correct, madds = _checked(p, saved, correct, madds)
    walk = _lambda_walk(p, correct, saved)
    return _table(walk, "lam", {"saved": saved, "madds": madds}, max_points)


def choose(p, saved, lam: float) -> np.ndarray:
    """Exit of each sample, (N,) from 0 to K−1: argmax_v (r_v + λ) p_v, ties to the cheaper; λ = ∞ is argmax_v p_v."""
    p, saved, _, _ = _checked(p, saved)
    if not lam >= 0:
        raise ConfigError(f"λ must be a number ≥ 0 or infinity, not {lam}")
    return (p if math.isinf(lam) else (saved + lam) * p).argmax(axis=1)


def check_target(epsilon: float, delta: float | None = None) -> None:
    """Raise ConfigError for ε outside [0, 1) or δ outside (0, 1)."""
    if not 0 <= epsilon < 1:
        raise ConfigError(f"ε must be in [0, 1), not {epsilon}")
    if delta is not None and not 0 < delta < 1:
        raise ConfigError(f"δ must be strictly between 0 and 1, not {delta}")


def calibrate(p, correct, saved, epsilon: float, delta: float | None = None, *, madds=None) -> Calibration:
    """λ* for the constraint accuracy ≥ 1 − ε of equation 2; arguments as in `sweep`.

    Without `delta`: the smallest λ whose accuracy on these samples is ≥ 1 − ε. On real labels accuracy is not
    monotone in λ: a larger λ may fall below the target again, and it is still the first λ that reaches it which is
    returned, because the exits only move to dearer sub-networks as λ grows and so it saves the most. `choose(p,
    saved, result.lam)` gives exactly the accuracy that is reported.

    With `delta`: a λ whose accuracy on new samples of the same distribution is ≥ 1 − ε with probability ≥ 1 − δ over
    the draw of these (Learn then Test): walk down a fixed grid of λ from ∞ and stop before the first λ for which
    "accuracy < 1 − ε" is not rejected at level δ by the exact binomial test. The grid has 100 values a decade.

    Raises InfeasibleError with the best reachable accuracy (and, with `delta`, the number of samples that would be
    needed), ConfigError as `sweep` does and for ε outside [0, 1) or δ outside (0, 1).
    """
    check_target(epsilon, delta)
    p, saved, correct, madds = _checked(p, saved, correct, madds)
    walk = _lambda_walk(p, correct, saved)
    for lam in _reaching(walk, 1 - epsilon) if delta is None else [_certified(walk, 1 - epsilon, delta)]:
        exits = choose(p, saved, lam)
        accuracy = float(correct[np.arange(len(p)), exits].mean())
        if accuracy >= 1 - epsilon - ROUNDING:
            break
    shares = np.bincount(exits, minlength=len(saved)) / len(p)
    return Calibration(
        lam=float(lam),
        accuracy=accuracy,
        saved=float(shares @ saved),
        exits=tuple(shares.tolist()),
        madds=None if madds is None else float(shares @ madds),
    )


def cascade(confidence, correct, madds, max_points: int | None = None) -> pd.DataFrame:
    """The usual early exit: run N_1, N_2, … until the confidence of one is ≥ a threshold shared by all (N_K otherwise).

    confidence: (N, K) in [0, 1], e.g. the largest softmax probability (its last column is not used); correct: (N, K)
    bool; madds: (K,) increasing. Returns columns threshold, accuracy, madds, exit_1 … exit_K: one row per distinct
    policy, from threshold 0 (everything leaves at N_1) upward, with the conventions of `sweep`.
    """
    confidence, _, correct, madds = _checked(confidence, saved_fraction(madds), correct, madds)
    n, k = confidence.shape
    reached = np.maximum.accumulate(
        confidence[:, :-1].astype(np.float64), axis=1
    )  # (N, K−1): the threshold must exceed it to go on
    exits = np.broadcast_to(np.arange(k, dtype=np.int16), (n, k))
    gain = np.diff(correct.astype(np.int8), axis=1)
    start = np.bincount([0], weights=[n], minlength=k).astype(np.int64)
    moves = reached.ravel(), exits[:, :-1].ravel(), exits[:, 1:].ravel(), gain.ravel()
    return _table(_sorted_walk(start, int(correct[:, 0].sum()), *moves), "threshold", {"madds": madds}, max_points)


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


def _checked(p, saved, correct=None, madds=None):
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


def _lambda_walk(p: np.ndarray, correct: np.ndarray, saved: np.ndarray) -> _Walk:
    """Moves of all samples along their upper envelopes, λ from 0 to ∞."""
    exits, hits, moves = np.zeros(len(saved), dtype=np.int64), 0, []
    for begin in range(0, len(p), CHUNK):
        right = np.ascontiguousarray(correct[begin : begin + CHUNK].T)  # (K, n)
        start, found = _envelopes(p[begin : begin + CHUNK].T.astype(np.float64, order="C"), right, saved)
        exits += np.bincount(start, minlength=len(saved))
        hits += int(right[start, np.arange(len(start))].sum())
        moves += found
    return _sorted_walk(exits, hits, *(np.concatenate(column) for column in zip(*moves, strict=True)))


def _envelopes(p: np.ndarray, correct: np.ndarray, saved: np.ndarray):
    """Upper envelopes of the lines (r_v + λ) p_v of n samples, p and correct (K, n).

    Returns the exits at λ = 0, (n,), and a list of moves (breakpoints, exits before, exits after, change in correct).
    """
    k, n = p.shape
    intercept = saved[:, None] * p
    enter, leave = np.full((k, n), -np.inf), np.full((k, n), np.inf)  # where line v is on the envelope
    crossing = np.empty(n)
    for i, j in combinations(range(k), 2):
        rise = p[j] - p[i]
        # A line that is not steeper than a cheaper one never overtakes it: r_i p_i ≥ r_j p_j as well.
        crossing.fill(np.inf)
        np.divide(intercept[i] - intercept[j], rise, out=crossing, where=rise > 0)
        np.maximum(enter[j], crossing, out=enter[j])
        np.minimum(leave[i], crossing, out=leave[i])
    start = intercept.argmax(axis=0)  # the first of equals: the cheaper
    exits = start.copy()
    moves = [(np.empty(0), np.empty(0, np.int16), np.empty(0, np.int16), np.empty(0, np.int8))]
    # Moves ascend in spite of rounding: if v follows u, enter[v] ≥ their crossing ≥ leave[u] > enter[u].
    for v in range(1, k):
        who = np.flatnonzero((enter[v] < leave[v]) & (start < v))
        gain = correct[v, who].astype(np.int8) - correct[exits[who], who]
        moves.append((enter[v, who], exits[who].astype(np.int16), np.full(len(who), v, np.int16), gain))
        exits[who] = v
    return start, moves


def _sorted_walk(exits: np.ndarray, hits: int, breakpoints, source, target, gain) -> _Walk:
    order = np.argsort(breakpoints)
    at = np.nextafter(breakpoints[order], np.inf)  # at the breakpoint itself the tie goes to the cheaper
    return _Walk(exits, hits, at, source[order], target[order], gain[order])


def _table(walk: _Walk, parameter: str, means: dict, max_points: int | None) -> pd.DataFrame:
    """One row per distinct policy (thinned to `max_points`), with the mean of each per-exit quantity in `means`."""
    values = walk.values()
    if max_points is not None:
        if max_points < 1:
            raise ConfigError(f"max_points must be at least 1, not {max_points}")
        if len(values) > max_points:
            values = values[np.linspace(0, len(values) - 1, max_points).round().astype(np.int64)]
    shares = walk.shares(values)
    columns = {parameter: values, "accuracy": walk.accuracy(values)}
    columns |= {name: shares @ value for name, value in means.items() if value is not None}
    return pd.DataFrame(columns | {f"exit_{v + 1}": shares[:, v] for v in range(shares.shape[1])})


def _reaching(walk: _Walk, target: float) -> Iterator[float]:
    """The λ that reach the target, ascending, each interval from its beginning to its middle.

    Nearly always the first is the answer. But at the beginning of an interval the sample that moved last is still
    almost a tie, and rounding in `choose` may show it at its old exit: then a λ just above is the smallest that
    works.
    """
    values = walk.values()
    accuracy = walk.accuracy(values)
    if accuracy.max() < target - ROUNDING:
        raise InfeasibleError(
            f"no λ reaches accuracy {target:.4f} on these {walk.samples} samples: the best is {accuracy.max():.4f}; "
            f"use ε ≥ {math.ceil((1 - accuracy.max()) * 1e4) / 1e4:.4f}"
        )
    ends = np.append(values[1:], 2 * values[-1] + 1)
    for row in np.flatnonzero(accuracy >= target - ROUNDING):
        for step in (0, 2.0**-40, 2.0**-30, 2.0**-20, 2.0**-10, 0.5):
            yield values[row] + (ends[row] - values[row]) * step


def _certified(walk: _Walk, target: float, delta: float) -> float:
    """The smallest λ of the grid that fixed-sequence testing certifies at level δ."""
    n = walk.samples
    hits = np.rint(walk.accuracy(SAFE_TO_CHEAP) * n)
    refused = bdtrc(hits - 1, n, target) > delta  # P(Binomial(n, target) ≥ hits)
    certified = int(refused.argmax()) if refused.any() else len(refused)
    if certified == 0:
        best = hits[0] / n
        needed = _samples_needed(best, target, delta)
        remedy = (
            f"about {needed} samples would be needed" if needed else "no number of samples would do; use a larger ε"
        )
        raise InfeasibleError(
            f"accuracy {target:.4f} cannot be guaranteed with probability {1 - delta:g}: the safest policy (λ = ∞) "
            f"reaches {best:.4f} on these {n} samples; at that accuracy {remedy}"
        )
    return float(SAFE_TO_CHEAP[certified - 1])


def _samples_needed(accuracy: float, target: float, delta: float) -> int | None:
    """Smallest n (to about 1 %) at which `accuracy` on n samples certifies `target`; None if none below 10⁹ does."""
    if accuracy <= target:
        return None
    n = np.unique(np.ceil(np.geomspace(1, 1e9, 2001)).astype(np.int64))
    enough = np.flatnonzero(bdtrc(np.floor(accuracy * n + 1e-9) - 1, n, target) <= delta)
    return int(n[enough[0]]) if len(enough) else None
