"""One number from several seeds, with its interval over the images and its interval over the seeds; Tables 3, 4 and 5 from those.

A comparison is paired: two networks of one seed have seen the same validation images, so we average the difference image by
image. Seeds that share their validation images (photographs) are averaged on each image first; seeds that drew images of their own
are pooled. All numbers are per cent, or points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import Interval, Run, interval, paired_difference, split_rows


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval over the validation images, and over the seeds (NaN for a single one)."""

    value: float
    low: float
    high: float
    seeds: int = 1
    seeds_low: float = np.nan
    seeds_high: float = np.nan

    @property
    def hull(self) -> Interval:
        """Both intervals together: what lies outside is neither the luck of the images nor that of training."""
        return Interval(float(np.fmin(self.low, self.seeds_low)), float(np.fmax(self.high, self.seeds_high)))

    def text(self, sign: str = "") -> str:
        """For readers: the value and its interval over the images, and if there are several seeds the one over them."""
        number = f"{{:{sign}.1f}}".format
        over = f"; {self.seeds} seeds: {number(self.seeds_low)} to {number(self.seeds_high)}" if self.seeds > 1 else ""
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)}{over})"

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a table: name, name_low, name_high, name_seeds_low, name_seeds_high."""
        ends = {"low": self.low, "high": self.high, "seeds_low": self.seeds_low, "seeds_high": self.seeds_high}
        return {name: self.value, **{f"{name}_{end}": value for end, value in ends.items()}}


@lru_cache
def student(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t: |t| stays below it with probability `confidence`.

    With t = √ν tan θ the density becomes cos^{ν−1} θ on (−π/2, π/2), which is summed by the midpoint rule.
    """
    cells = 200_000
    theta = (np.arange(cells) + 0.5) * (np.pi / 2 / cells)
    share = np.cumsum(np.cos(theta) ** (freedom - 1))
    edge = np.interp(confidence, share / share[-1], theta + np.pi / 4 / cells)
    return float(np.sqrt(freedom) * np.tan(edge))


def estimate(values: Sequence[np.ndarray], *, same_images: bool) -> Estimate:
    """The mean of what each seed gives for each image, `values[s]` (N_s,), in per cent.

    same_images: whether position n is the same image at all seeds. Raises DataError without any image.
    """
    if not values or not all(len(each) for each in values):
        raise DataError("an estimate needs at least one seed, and images of each")
    values = [100 * np.asarray(each, np.float64) for each in values]
    pooled = np.mean(values, axis=0) if same_images else np.concatenate(values)
    _, low, high = paired_difference(pooled, np.zeros_like(pooled))
    means = np.array([each.mean() for each in values])
    if len(means) == 1:
        return Estimate(float(means[0]), low, high)
    reach = student(0.95, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    middle = float(means.mean())
    return Estimate(middle, low, high, len(means), middle - reach, middle + reach)


def accuracy(runs: Sequence[Run], subnetwork: int) -> Estimate:
    """Top-1 accuracy of N_subnetwork (negative: from the largest), one run for each seed."""
    rows = [split_rows(run, "validation") for run in runs]
    right = [_right(run, frame, subnetwork) for run, frame in zip(runs, rows, strict=True)]
    found = estimate(right, same_images=same_images(rows))
    if len(runs) > 1:
        return found
    low, high = interval(right[0])  # of one network alone: exact near 0 and 100 %, where a bootstrap is not
    return Estimate(found.value, 100 * low, 100 * high)


def difference(a: Sequence[Run], b: Sequence[Run], subnetwork: int = -1, other: int | None = None) -> Estimate:
    """Top-1 accuracy of a's N_subnetwork minus that of b's N_other (default: the same), paired by seed and image."""
    rows, values = [], []
    for one, two in zip(a, b, strict=True):
        mine, theirs = split_rows(one, "validation"), split_rows(two, "validation")
        if not np.array_equal(mine["id"], theirs["id"]):
            names = " and ".join(run.result.get("name", "a run") for run in (one, two))
            raise DataError(f"{names} were not evaluated on the same images")
        right = _right(two, theirs, subnetwork if other is None else other)
        rows.append(mine)
        values.append(_right(one, mine, subnetwork).astype(np.float64) - right)
    return estimate(values, same_images=same_images(rows))


def same_images(rows: Sequence[pd.DataFrame]) -> bool:
    """Whether the seeds have the same validation images: the same ids, labels and difficulties."""
    keys = ["id", "label", "difficulty"]
    first = rows[0][keys].reset_index(drop=True)
    return all(first.equals(other[keys].reset_index(drop=True)) for other in rows[1:])


def comparison(rows: dict[str, Sequence[Run]], subnetworks: dict[str, int]) -> pd.DataFrame:
    """Networks one below the other, each against the first: a table of the paper with intervals.

    rows: name → its runs, one for each seed. subnetworks: column → which sub-network (negative: from the largest). Columns: name,
    epochs, seeds, and for each column its accuracy, and as `<column>_gain` what it has more than the first row; each with
    `_low`, `_high`, `_seeds_low`, `_seeds_high`.
    """
    reference, table = next(iter(rows.values())), []
    for name, runs in rows.items():
        row = {"name": name, "epochs": runs[0].result["epochs"], "seeds": len(runs)}
        for column, subnetwork in subnetworks.items():
            row |= accuracy(runs, subnetwork).columns(column)
            row |= difference(runs, reference, subnetwork).columns(f"{column}_gain")
        table.append(row)
    return pd.DataFrame(table)


def _right(run: Run, frame: pd.DataFrame, subnetwork: int) -> np.ndarray:
    count = len(run.result["madds"])
    index = subnetwork if subnetwork > 0 else count + 1 + subnetwork
    return frame[f"top1_{index}"].to_numpy(dtype=bool)
