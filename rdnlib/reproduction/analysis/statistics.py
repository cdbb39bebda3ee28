"""One number from several seeds, with its interval over the images and its interval over the seeds.

A comparison is paired: two networks of one seed have seen the same validation images, so the difference is averaged
image by image. Seeds that share their validation images (photographs) are averaged on each image first; seeds that drew
images of their own are pooled. All numbers are per cent, or points.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import Interval, interval, paired_difference, split_rows
from rdnlib.reproduction.experiments import Run, Workspace, ensure, graph
from rdnlib.reproduction.experiments.config import Profile

RESAMPLES = 50  # halves of the images; a deviation is then known to a tenth


@dataclass(frozen=True)
class Evidence:
    """The finished experiments of a workspace, by name, each at its seeds; `seeds`: see `graph.repeats`."""

    workspace: Workspace
    seeds: int | None = None

    @property
    def profile(self) -> Profile:
        return self.workspace.profile

    @cached_property
    def repeats(self) -> dict[str, int]:
        return graph.repeats(self.profile, self.seeds)

    @cached_property
    def replicas(self) -> list[Workspace]:
        return self.workspace.replicas(max(self.repeats.values()))

    def runs(self, name: str) -> list[Run]:
        """An experiment at all of its seeds."""
        self.workspace.experiment(name)
        if name not in self._found:
            self._found[name] = [ensure(workspace, name) for workspace in self.replicas[: self.repeats[name]]]
        return [*self._found[name]]

    @cached_property
    def _found(self) -> dict[str, list[Run]]:
        """What `runs` gave so far: the same objects again, whose rows have been read."""
        return {}

    def together(self, *names: str) -> list[list[Run]]:
        """Experiments that are compared: each at the seeds that all of them have."""
        runs = [self.runs(name) for name in names]
        return [own[: min(map(len, runs))] for own in runs]


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
        number = f"{{:{sign}z.1f}}".format  # z: no "-0.0"
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
    return _over_seeds(np.array([each.mean() for each in values]), low, high)


def _over_seeds(means: np.ndarray, low: float, high: float) -> Estimate:
    """The mean of one number per seed, with Student's interval where there are several."""
    middle = float(means.mean())
    if len(means) == 1:
        return Estimate(middle, float(low), float(high))
    reach = float(student.ppf(0.975, len(means) - 1)) * means.std(ddof=1) / np.sqrt(len(means))
    return Estimate(middle, float(low), float(high), len(means), middle - reach, middle + reach)


def accuracy(runs: Sequence[Run], subnetwork: int, *, top: int = 1) -> Estimate:
    """Accuracy (top: 1 or 5) of N_subnetwork (negative: from the largest), one run for each seed."""
    rows = [split_rows(run, "validation") for run in runs]
    correct = [_correct(run, frame, subnetwork, top) for run, frame in zip(runs, rows, strict=True)]
    if len(runs) != 1:
        return estimate(correct, same_images=same_images(rows))
    low, high = interval(correct[0])  # of one network alone: holds near 0 and 100 %, where a bootstrap does not
    return Estimate(float((100 * correct[0]).mean()), 100 * low, 100 * high)


def difference(
    a: Sequence[Run], b: Sequence[Run], subnetwork: int = -1, other: int | None = None, *, top: int = 1
) -> Estimate:
    """Accuracy of a's N_subnetwork minus that of b's N_other (default: the same), paired by seed and image; top: 1 or 5."""
    rows, values = _differences(a, b, subnetwork, subnetwork if other is None else other, top)
    return estimate(values, same_images=same_images(rows))


def contrast(a: Sequence[Run], b: Sequence[Run], first: int, second: int) -> Estimate:
    """By how much more N_first of a is ahead of b's than N_second is, paired by seed and image."""
    (rows, ahead), (_, less) = (_differences(a, b, index, index, 1) for index in (first, second))
    return estimate([x - y for x, y in zip(ahead, less, strict=True)], same_images=same_images(rows))


def calibrated_estimates(
    seeds: Sequence[tuple[int, int, Callable]], *, same_images: bool, resamples: int = RESAMPLES
) -> list[Estimate]:
    """What a policy that is calibrated on some images does on others, with the noise of both: several numbers at once, in per cent.

    seeds: of each seed the numbers of calibration and of validation images, and f(rows of the first, rows of the second) → (M,) numbers,
    which calibrates and applies anew. The interval's deviation is found on random halves of both splits: half of the images, drawn
    without repeating any, deviate from all of them as these do from the truth. Returns M estimates.
    """
    values, deviating = [], []
    for number, (calibration, validation, apply) in enumerate(seeds):
        values.append(100 * np.asarray(apply(np.arange(calibration), np.arange(validation)), np.float64))
        pairs = halves((calibration, validation), resamples, seed=0 if same_images else number)
        deviating.append([100 * np.asarray(apply(*pair), np.float64) for pair in pairs])
    return resampled(np.array(values), np.array(deviating), same_images=same_images)


def resampled(values: np.ndarray, anew: np.ndarray, *, same_images: bool) -> list[Estimate]:
    """M numbers of S seeds, (S, M), and the same from B random halves of their images, (S, B, M) → M estimates.

    same_images: whether the seeds share their images and their halves; else the seeds are independent.
    """
    off = anew - values[:, None]
    if same_images:
        reaches = reach(off.mean(axis=0))
    else:
        reaches = np.linalg.norm([reach(own) for own in off], axis=0) / len(values)
    return [_over_seeds(own, own.mean() - r, own.mean() + r) for own, r in zip(values.T, reaches, strict=True)]


def reach(off: np.ndarray) -> np.ndarray:
    """How far a 95 % interval reaches to each side (Student), from how far B resamples are off: (B, M) → (M,)."""
    return student.ppf(0.975, len(off)) * np.sqrt(np.square(off).mean(axis=0))


def halves(sizes: Sequence[int], resamples: int = RESAMPLES, *, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Random halves of each of several splits, as row numbers, so many times."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield [rng.permutation(n)[: max(1, n // 2)] for n in sizes]


def same_images(rows: Sequence[pd.DataFrame]) -> bool:
    """Whether the seeds have the same validation images: the same ids, labels and difficulties."""
    keys = ["id", "label", "difficulty"]
    first = rows[0][keys].reset_index(drop=True)
    return all(first.equals(other[keys].reset_index(drop=True)) for other in rows[1:])


def _differences(a: Sequence[Run], b: Sequence[Run], subnetwork: int, other: int, top: int) -> tuple[list, list]:
    """The validation rows of each seed, and per image a's outcome minus b's."""
    rows, values = [], []
    for run_a, run_b in zip(a, b, strict=True):
        rows_a, rows_b = split_rows(run_a, "validation"), split_rows(run_b, "validation")
        if not np.array_equal(rows_a["id"], rows_b["id"]):
            names = " and ".join(run.result.get("name", "a run") for run in (run_a, run_b))
            raise DataError(f"{names} were not evaluated on the same images")
        rows.append(rows_a)
        values.append(_correct(run_a, rows_a, subnetwork, top).astype(np.float64) - _correct(run_b, rows_b, other, top))
    return rows, values


def _correct(run: Run, rows: pd.DataFrame, subnetwork: int, top: int = 1) -> np.ndarray:
    index = subnetwork if subnetwork > 0 else len(run.result["madds"]) + 1 + subnetwork
    return rows[f"top{top}_{index}"].to_numpy(dtype=bool)
