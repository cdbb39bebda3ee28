"""Policies calibrated on one split and judged on another, with the noise of both in every interval.

λ* is chosen on the images of the calibration split, and other images would give another: beside the luck of the validation images that is
part of what is not known. So everything is calibrated anew on random halves of both splits (`statistics.halves`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rdnlib.calibration.families import ByExit, Outcome, calibrate_and_apply
from rdnlib.reproduction.analysis.outcomes import Bases, dynamic, families, split_rows
from rdnlib.reproduction.analysis.statistics import (
    RESAMPLES,
    Estimate,
    calibrated_estimates,
    halves,
    reach,
    resampled,
    same_images,
)
from rdnlib.reproduction.experiments.workspace import Run


@dataclass(frozen=True)
class Calibrated:
    """Every policy on the validation images, calibrated to N_K's accuracy minus `gap`, and what calibrating anew on halves gives."""

    gap: float
    outcomes: dict[str, Outcome]
    full: np.ndarray  # (N,) whether N_K is right
    madds: float  # of N_K
    anew: dict[str, np.ndarray]  # (B, 3): accuracy, accuracy above N_K's, mean MAdds over those of N_K

    def values(self, name: str) -> np.ndarray:
        """(3,) as in `anew`."""
        outcome = self.outcomes[name]
        return np.array([outcome.accuracy, outcome.accuracy - self.full.mean(), outcome.madds.mean() / self.madds])


def over_seeds(
    seeds: Sequence[Calibrated], name: str, rival: str | None = None, *, same_images: bool
) -> list[Estimate]:
    """The three numbers of `Calibrated.values`, or their differences to a rival's, in per cent: means over one or several seeds, with
    intervals that know the noise of both splits."""
    values = np.array([one.values(name) for one in seeds])  # (S, 3)
    anew = np.array([one.anew[name] for one in seeds])  # (S, B, 3)
    if rival is not None:
        values = values - [one.values(rival) for one in seeds]
        anew = anew - [one.anew[rival] for one in seeds]
    return resampled(100 * values, 100 * anew, same_images=same_images)


def calibrated(
    rdn_run: Run,
    policy_run: Run,
    base_runs: Bases,
    *,
    gap: float = 0.0,
    names: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> Calibrated:
    """Calibrate the policies of `families` (all, or those named) on the calibration split, and apply them to the validation split."""
    calibration, validation = (families(rdn_run, policy_run, base_runs, split=s) for s in ("calibration", "validation"))
    reference, full = (split["dynamic"].correct[:, -1] for split in (calibration, validation))
    largest = rdn_run.result["madds"][-1]
    names = names or list(calibration)
    outcomes = {name: calibrate_and_apply(calibration[name], validation[name], reference, gap) for name in names}
    anew = {name: np.empty((resamples, 3)) for name in names}
    for number, (own, test) in enumerate(halves((len(reference), len(full)), resamples)):
        for name in names:
            outcome = calibrate_and_apply(calibration[name].rows(own), validation[name].rows(test), reference[own], gap)
            gain = outcome.accuracy - full[test].mean()
            anew[name][number] = outcome.accuracy, gain, outcome.madds.mean() / largest
    return Calibrated(gap, outcomes, full, largest, anew)


def dynamic_estimates(rdn: Sequence[Run], policy: Sequence[Run], apply: Callable) -> list[Estimate]:
    """`calibrated_estimates` of apply(held-out images, validation images, the RDN's result), over the seeds."""
    seeds = []
    for rdn_run, policy_run in zip(rdn, policy, strict=True):
        held_out, samples = (dynamic(rdn_run, policy_run, split=split) for split in ("calibration", "validation"))

        def on_rows(own, test, held_out=held_out, samples=samples, result=rdn_run.result):
            return apply(held_out.rows(own), samples.rows(test), result)

        seeds.append((len(held_out.ids), len(samples.ids), on_rows))
    return calibrated_estimates(seeds, same_images=same_images([split_rows(run, "validation") for run in rdn]))


def accuracy_at_cost(calibration: ByExit, validation: ByExit, budgets: np.ndarray) -> np.ndarray:
    """Accuracy on validation, for mean MAdds of at most each budget on the calibration images: (T,) → (T,), fractions.

    Of each budget the dearest policy that keeps it; the cheapest of all where none does.
    """
    curve = calibration.exact()
    begins = curve.breakpoints()
    costs = curve.shares(begins) @ np.asarray(calibration.madds, np.float64)  # ascending
    chosen = (np.searchsorted(costs, budgets, side="right") - 1).clip(0)
    found = validation.exact()
    return found.correct(begins[chosen]) / found.samples


def band(calibration: ByExit, validation: ByExit, budgets: np.ndarray, *, resamples: int = RESAMPLES) -> np.ndarray:
    """How far the 95 % interval of `accuracy_at_cost` reaches to each side, with the noise of both splits: (T,)."""
    whole = accuracy_at_cost(calibration, validation, budgets)
    pairs = halves((len(calibration.correct), len(validation.correct)), resamples)
    anew = [accuracy_at_cost(calibration.rows(own), validation.rows(test), budgets) for own, test in pairs]
    return reach(np.array(anew) - whole)
