"""Which policy keeps its promise, and at what cost (beyond the paper): compared on the calibration split alone, by cross-fitting.

λ, and where there is one the recalibration of p, are found on all folds but one and judged on that one, in turn. No validation image
is looked at, so the comparison may decide what the book uses by default.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.optimize import isotonic_regression

from rdnlib.calibration.families import FOLDS, ByLambda, Family, calibrate_or_best, calibrate_to
from rdnlib.calibration.multiplier import ROUNDING, calibrate
from rdnlib.errors import InfeasibleError
from rdnlib.policy.network import best_temperature
from rdnlib.reproduction.analysis.outcomes import families
from rdnlib.reproduction.experiments.workspace import Run

DELTA = 0.1  # of the guarantee
POLICIES = ("dynamic", "dynamic, reads N_1’s logits", "sequential", "confidence cascade")
KEPT = 0.3  # points by which a policy may miss its target on average
Change = Callable[[Family], Family]
Rule = Callable[[Family, np.ndarray, float], tuple[Change, object]]


def policy_comparison(
    rdn_runs: Sequence[Run], policy_runs: Sequence[Run], *, gap: float, base_madds: float
) -> pd.DataFrame:
    """Every policy and way of calibrating it, over several seeds; the target is N_K's accuracy minus `gap`.

    Columns: policy, way ("plain": λ meets the target on the images it is chosen on; "margin"; "temperature" and "isotonic": p
    recalibrated on one half of the images, λ chosen as with "margin" on the other; "guarantee": see `calibration.guarantee`, δ =
    DELTA), seeds, miss (accuracy − target on the images left out, points), miss_spread (over the seeds), share (of `base_madds`).
    """
    rows = []
    for rdn_run, policy_run in zip(rdn_runs, policy_runs, strict=True):
        own = families(rdn_run, policy_run, {}, split="calibration")
        reference = own["dynamic"].correct[:, -1]
        for name in POLICIES:
            for way, rule in ways(own[name]).items():
                correct, madds = cross_fitted(own[name], rule, reference, gap)
                miss = 100 * (correct.mean() - reference.mean() + gap)
                rows.append((name, way, miss, madds.mean() / base_madds))
    groups = pd.DataFrame(rows, columns=["policy", "way", "miss", "share"]).groupby(["policy", "way"], sort=False)
    columns = {
        "seeds": ("miss", "size"),
        "miss": ("miss", "mean"),
        "miss_spread": ("miss", "std"),
        "share": ("share", "mean"),
    }
    return groups.agg(**columns).reset_index()


def best_way(table: pd.DataFrame) -> pd.Series:
    """The row of `policy_comparison` that costs least among those that miss by at most KEPT points on average, else that misses least."""
    kept = table[table["miss"] >= -KEPT]
    return table.loc[kept["share"].idxmin() if len(kept) else table["miss"].idxmax()]


def ways(family: Family) -> dict[str, Rule]:
    """How a policy can be calibrated: name → (family, reference, gap) ↦ (what to make of a family first, the parameter)."""
    result: dict[str, Rule] = {
        "plain": lambda own, full, gap: (unchanged, calibrate_or_best(own, full.mean() - gap)[0]),
        "margin": lambda own, full, gap: (unchanged, calibrate_to(own, full, gap)[0]),
    }
    if isinstance(family, ByLambda):
        result |= {
            "temperature": _recalibrating(temperature),
            "isotonic": _recalibrating(isotonic),
            "guarantee": _guaranteed,
        }
    return result


def cross_fitted(
    family: Family, rule: Rule, reference: np.ndarray, gap: float, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """What a policy does with samples that its rule has not seen: right or not, and MAdds, both (N,)."""
    order = np.random.default_rng(seed).permutation(len(reference))
    correct, madds = np.empty(len(order)), np.empty(len(order))
    for part in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, part)
        change, parameter = rule(family.rows(rest), reference[rest], gap)
        correct[part], madds[part] = change(family.rows(part)).take(parameter)
    return correct, madds


def unchanged(family: Family) -> Family:
    return family


def temperature(p: np.ndarray, correct: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """p (N, K) ↦ sigmoid(logit(p) / T) with the T (K,) that suits these outcomes best."""
    by = best_temperature(_logit(p), torch.from_numpy(correct)).numpy()
    return lambda new: (_logit(new) / torch.from_numpy(by)).sigmoid().numpy()


def isotonic(p: np.ndarray, correct: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """p (N, K) ↦ the ascending function of each column that suits these outcomes best, linear in between."""
    orders = p.argsort(axis=0, kind="stable")
    knots = np.take_along_axis(p, orders, axis=0)
    outcomes = np.take_along_axis(correct.astype(np.float64), orders, axis=0)
    levels = np.stack([isotonic_regression(column).x for column in outcomes.T], axis=1)
    columns = range(p.shape[1])
    return lambda new: np.stack([np.interp(new[:, v], knots[:, v], levels[:, v]) for v in columns], axis=1)


def _recalibrating(fit: Callable) -> Rule:
    def rule(own: ByLambda, full: np.ndarray, gap: float):
        first, second = np.arange(0, len(full), 2), np.arange(1, len(full), 2)
        mapping = fit(own.p[first], own.correct[first])

        def change(family: ByLambda) -> ByLambda:
            return replace(family, p=mapping(family.p).clip(0, 1))

        return change, calibrate_to(change(own.rows(second)), full[second], gap)[0]

    return rule


def _guaranteed(own: ByLambda, full: np.ndarray, gap: float):
    try:
        return unchanged, calibrate(own.p, own.correct, own.saved, max(gap, ROUNDING), DELTA, paired=True).lam
    except InfeasibleError:  # nothing can be promised: N_K for all
        return unchanged, np.inf


def _logit(p: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(p, dtype=np.float64)).clamp(1e-9, 1 - 1e-9).logit()
