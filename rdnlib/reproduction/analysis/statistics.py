"""One number from several seeds, with its interval over the images and its interval over the seeds.

A comparison is paired: two networks of one seed have seen the same validation images, so the difference is averaged
image by image. Seeds that share their validation images (photographs) are averaged on each image first; seeds that drew
images of their own are pooled. All numbers are per cent, or points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import Interval, interval, paired_difference, split_rows
from rdnlib.reproduction.experiments import Run, Workspace, ensure


@dataclass(frozen=True)
class Evidence:
    """The finished experiments of several seeds, by name."""

    workspaces: Sequence[Workspace]

    def runs(self, name: str, seeds: int | None = None) -> list[Run]:
        """An experiment at all seeds, or at the first few."""
        return [ensure(workspace, name) for workspace in self.workspaces[:seeds]]

    @property
    def profile(self):
        return self.workspaces[0].profile

    def gain(self, a: str, b: str, subnetwork: int = -1) -> "Estimate":
        """Accuracy of a sub-network of experiment a, minus that of experiment b."""
        return difference(self.runs(a), self.runs(b), subnetwork)


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
        ends = ("low", "high", "seeds_low", "seeds_high")
        return {name: self.value, **{f"{name}_{end}": getattr(self, end) for end in ends}}


def estimate(values: Sequence[np.ndarray], *, same_images: bool) -> Estimate:
    """The mean of per-image `values[s]` (N_s,) of each seed s, in per cent.

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
    reach = float(student.ppf(0.975, len(means) - 1)) * means.std(ddof=1) / np.sqrt(len(means))
    middle = float(means.mean())
    return Estimate(middle, low, high, len(means), middle - reach, middle + reach)


def accuracy(runs: Sequence[Run], subnetwork: int) -> Estimate:
    """Top-1 accuracy of N_subnetwork (negative: from the largest), one run for each seed."""
    rows = [split_rows(run, "validation") for run in runs]
    correct = [_correct(run, frame, subnetwork) for run, frame in zip(runs, rows, strict=True)]
    if len(runs) != 1:
        return estimate(correct, same_images=same_images(rows))
    low, high = interval(correct[0])  # of one network alone: exact near 0 and 100 %, where a bootstrap is not
    return Estimate(float((100 * correct[0]).mean()), 100 * low, 100 * high)


def difference(a: Sequence[Run], b: Sequence[Run], subnetwork: int = -1, other: int | None = None) -> Estimate:
    """Top-1 accuracy of a's N_subnetwork minus that of b's N_other (default: the same), paired by seed and image."""
    rows, values = [], []
    for run_a, run_b in zip(a, b, strict=True):
        rows_a, rows_b = split_rows(run_a, "validation"), split_rows(run_b, "validation")
        if not np.array_equal(rows_a["id"], rows_b["id"]):
            names = " and ".join(run.result.get("name", "a run") for run in (run_a, run_b))
            raise DataError(f"{names} were not evaluated on the same images")
        correct_b = _correct(run_b, rows_b, subnetwork if other is None else other)
        rows.append(rows_a)
        values.append(_correct(run_a, rows_a, subnetwork).astype(np.float64) - correct_b)
    return estimate(values, same_images=same_images(rows))


def same_images(rows: Sequence[pd.DataFrame]) -> bool:
    """Whether the seeds have the same validation images: the same ids, labels and difficulties."""
    keys = ["id", "label", "difficulty"]
    first = rows[0][keys].reset_index(drop=True)
    return all(first.equals(other[keys].reset_index(drop=True)) for other in rows[1:])


def _correct(run: Run, rows: pd.DataFrame, subnetwork: int) -> np.ndarray:
    index = subnetwork if subnetwork > 0 else len(run.result["madds"]) + 1 + subnetwork
    return rows[f"top1_{index}"].to_numpy(dtype=bool)
