"""The exact curve of a family of policies with one parameter: λ (Section 3.4), or the threshold of a cascade.

Of one sample, (r_v + λ) p_v are K lines in λ, with intercept r_v p_v and slope p_v. Its exit argmax_v (r_v + λ) p_v
follows their upper envelope, and only a dearer sub-network's line can overtake: as λ grows, the exit never moves back.
The moves of all samples, sorted once, give every policy of the family with its accuracy and costs. No grid is searched.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from rdnlib.errors import ConfigError


@dataclass(frozen=True)
class ExactCurve:
    """How N samples move from exit to exit while the parameter grows from 0."""

    start: np.ndarray  # (N,) exit before the first move
    right: np.ndarray  # (N,) whether the sample is correct there
    at: np.ndarray  # (M,) ascending: the smallest parameter value at which the move has happened
    sample: np.ndarray  # (M,) which sample moves, from 0 to N−1
    source: np.ndarray  # (M,) exit before the move
    target: np.ndarray  # (M,) exit after it
    gain: np.ndarray  # (M,) change in the number of correct samples: −1, 0 or 1
    count: int  # of exits, K

    @property
    def samples(self) -> int:
        return len(self.start)

    def of(self, rows: np.ndarray) -> "ExactCurve":
        """The curve of some of the samples, by their numbers, each at most once: nothing is computed or sorted again."""
        number = np.full(self.samples, -1)
        number[rows] = np.arange(len(rows))
        kept = number[self.sample] >= 0
        moves = {name: getattr(self, name)[kept] for name in ("at", "source", "target", "gain")}
        sample = number[self.sample[kept]]
        return ExactCurve(self.start[rows], self.right[rows], sample=sample, count=self.count, **moves)

    def breakpoints(self) -> np.ndarray:
        """Where the policy changes, beginning with 0: (R,)."""
        first = np.flatnonzero(np.diff(self.at, prepend=-np.inf))
        return np.concatenate([[0.0], self.at[first]])

    def correct(self, values: np.ndarray) -> np.ndarray:
        """Number of correct samples at each parameter value: (R,) → (R,)."""
        return self.right.sum() + self._total(self.gain, values)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Shares of the exits at each parameter value: (R,) → (R, K)."""
        changes = [(self.target == v).astype(np.int8) - (self.source == v) for v in range(self.count)]
        moved = np.stack([self._total(change, values) for change in changes], axis=1)
        return (np.bincount(self.start, minlength=self.count) + moved) / self.samples

    def table(self, parameter: str, max_points: int | None = None, **per_exit) -> pd.DataFrame:
        """One row per distinct policy: parameter, accuracy, means of `per_exit`, exit_1 … exit_K (shares).

        max_points: thin to that many rows; per_exit: name → cost of each exit, (K,) or None for no column.
        """
        values = self.breakpoints()
        if max_points is not None:
            if max_points < 1:
                raise ConfigError(f"max_points must be at least 1, not {max_points}")
            if len(values) > max_points:
                values = values[np.linspace(0, len(values) - 1, max_points).round().astype(np.int64)]
        shares = self.shares(values)
        columns = {parameter: values, "accuracy": self.correct(values) / self.samples}
        columns |= {name: shares @ cost for name, cost in per_exit.items() if cost is not None}
        return pd.DataFrame(columns | {f"exit_{v + 1}": shares[:, v] for v in range(shares.shape[1])})

    def _total(self, change: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Sum of `change` (M,) over the moves that have happened at each value."""
        totals = np.concatenate([[0], np.cumsum(change, dtype=np.int64)])
        return totals[np.searchsorted(self.at, values, side="right")]


def lambda_curve(p: np.ndarray, correct: np.ndarray, saved: np.ndarray) -> ExactCurve:
    """The curve of f_λ, λ from 0 to ∞: p, correct (N, K) and saved (K,)."""
    p, correct = p.T.astype(np.float64, order="C"), np.ascontiguousarray(correct.T)  # (K, N)
    k, n = p.shape
    intercept = saved[:, None] * p
    enter, leave = np.full((k, n), -np.inf), np.full((k, n), np.inf)  # between which λ line v is the upper envelope
    for i, j in combinations(range(k), 2):
        rise = p[j] - p[i]
        # A line that is not steeper than a cheaper one never overtakes it: r_i p_i ≥ r_j p_j as well.
        crossing = np.divide(intercept[i] - intercept[j], rise, out=np.full(n, np.inf), where=rise > 0)
        np.maximum(enter[j], crossing, out=enter[j])
        np.minimum(leave[i], crossing, out=leave[i])
    start = intercept.argmax(axis=0)  # the first of equals: the cheaper
    exits, moves = start.copy(), []
    # Moves ascend in spite of rounding: if v follows u, enter[v] ≥ their crossing ≥ leave[u] > enter[u].
    for v in range(k):
        rows = np.flatnonzero((enter[v] < leave[v]) & (start < v))
        gain = correct[v, rows].astype(np.int8) - correct[exits[rows], rows]
        moves.append((enter[v, rows], rows, exits[rows].astype(np.int16), np.full(len(rows), v, np.int16), gain))
        exits[rows] = v
    return _sorted(start, correct[start, np.arange(n)], k, *map(np.concatenate, zip(*moves, strict=True)))


def threshold_curve(above: np.ndarray, correct: np.ndarray) -> ExactCurve:
    """The curve of samples that go on from exit i to i + 1 as soon as the parameter exceeds above[:, i].

    above: (N, K−1), not NaN; ∞ never goes on, a negative value goes on at parameter 0 already; correct: (N, K) bool.
    """
    n, k = correct.shape
    reached = np.maximum.accumulate(above.astype(np.float64), axis=1)  # to go on, every earlier exit must be passed
    start = (reached < 0).sum(axis=1)
    moves = (reached >= 0) & np.isfinite(reached)
    sample, source = moves.nonzero()
    source = source.astype(np.int16)
    gain = np.diff(correct.astype(np.int8), axis=1)[moves]
    right = correct[np.arange(n), start]
    return _sorted(start, right, k, reached[moves], sample, source, source + 1, gain)


def threshold_exits(above: np.ndarray, value: float) -> np.ndarray:
    """Exits (N,) from 0 to K−1 at one value of the parameter; `above` as in `threshold_curve`."""
    stays = np.column_stack([above.astype(np.float64) >= value, np.ones(len(above), bool)])
    return stays.argmax(axis=1)  # the first exit that is not passed


def _sorted(start, right, count: int, breakpoints, sample, source, target, gain) -> ExactCurve:
    order = np.argsort(breakpoints)
    at = np.nextafter(breakpoints[order], np.inf)  # at the breakpoint itself the tie goes to the cheaper
    return ExactCurve(start, right, at, sample[order], source[order], target[order], gain[order], count)
