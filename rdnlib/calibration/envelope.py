"""How the exits of many samples move while one parameter grows: the exact curve of a policy (Section 3.4).

The parameter is λ, or the threshold of a cascade. Every sample moves to a dearer exit at a few values of it. Sorting the
moves of all samples once, and adding them up, gives every policy of the family with its accuracy and its costs.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from rdnlib.errors import ConfigError

CHUNK = 1 << 15  # samples per step: the working arrays stay in cache


@dataclass(frozen=True)
class Walk:
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
        return self.right(values) / self.samples

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Shares of the exits at each value: (R,) → (R, K)."""
        moved = [
            self._before((self.target == v).astype(np.int8) - (self.source == v), values)
            for v in range(len(self.exits))
        ]
        return (self.exits + np.stack(moved, axis=1)) / self.samples

    def right(self, values: np.ndarray) -> np.ndarray:
        """Number of correct samples at each value: (R,) → (R,)."""
        return self.hits + self._before(self.gain, values)

    def _before(self, change: np.ndarray, values: np.ndarray) -> np.ndarray:
        totals = np.concatenate([[0], np.cumsum(change, dtype=np.int64)])
        return totals[np.searchsorted(self.at, values, side="right")]


def lambda_walk(p: np.ndarray, correct: np.ndarray, saved: np.ndarray) -> Walk:
    """Moves of all samples along their upper envelopes, λ from 0 to ∞."""
    exits, hits, moves = np.zeros(len(saved), dtype=np.int64), 0, []
    for begin in range(0, len(p), CHUNK):
        right = np.ascontiguousarray(correct[begin : begin + CHUNK].T)  # (K, n)
        start, found = _envelopes(p[begin : begin + CHUNK].T.astype(np.float64, order="C"), right, saved)
        exits += np.bincount(start, minlength=len(saved))
        hits += int(right[start, np.arange(len(start))].sum())
        moves += found
    return _sorted_walk(exits, hits, *(np.concatenate(column) for column in zip(*moves, strict=True)))


def threshold_walk(above: np.ndarray, correct: np.ndarray) -> Walk:
    """Moves of samples that go on from exit i as soon as the parameter exceeds above[:, i], and so reach i + 1.

    above: (N, K−1), not NaN; ∞ never goes on, a negative value goes on at parameter 0 already; correct: (N, K) bool.
    """
    n, k = correct.shape
    reached = np.maximum.accumulate(above.astype(np.float64), axis=1)  # to go on, every earlier exit must be passed
    start = (reached < 0).sum(axis=1)
    moves = (reached >= 0) & np.isfinite(reached)
    source = np.broadcast_to(np.arange(k - 1, dtype=np.int16), moves.shape)[moves]
    gain = np.diff(correct.astype(np.int8), axis=1)[moves]
    hits = int(correct[np.arange(n), start].sum())
    return _sorted_walk(np.bincount(start, minlength=k), hits, reached[moves], source, source + 1, gain)


def threshold_exits(above: np.ndarray, value: float) -> np.ndarray:
    """Exits (N,) from 0 to K−1 at one value of the parameter; `above` as in `threshold_walk`."""
    stays = np.column_stack([above.astype(np.float64) >= value, np.ones(len(above), bool)])
    return stays.argmax(axis=1)  # the first exit that is not passed


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


def _sorted_walk(exits: np.ndarray, hits: int, breakpoints, source, target, gain) -> Walk:
    order = np.argsort(breakpoints)
    at = np.nextafter(breakpoints[order], np.inf)  # at the breakpoint itself the tie goes to the cheaper
    return Walk(exits, hits, at, source[order], target[order], gain[order])


def table(walk: Walk, parameter: str, means: dict, max_points: int | None) -> pd.DataFrame:
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
