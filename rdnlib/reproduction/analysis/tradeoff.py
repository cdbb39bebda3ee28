"""Figure 8: accuracy against computation, for the policies and their alternatives, all calibrated alike.

λ, thresholds and shares are chosen on the calibration split, and everything is judged on the validation split. Every
cost is included: the policy networks, and the classifier at every stop where its answer is needed.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from rdnlib.calibration.families import Outcome, calibrate_and_apply
from rdnlib.reproduction.analysis.outcomes import (
    Bases,
    dynamic,
    families,
    interval,
    paired_difference,
    split_rows,
    wilson,
)
from rdnlib.reproduction.analysis.tables import subnetwork_table
from rdnlib.reproduction.experiments.workspace import Run

GAPS = (0.0, 0.005, 0.01)  # targets: N_K's accuracy on the calibration split, minus these
CURVES = ("dynamic", "sequential", "confidence cascade")


def calibrated_outcomes(
    rdn_run: Run, policy_run: Run, base_runs: Bases, *, gap: float = 0.0
) -> tuple[dict[str, Outcome], np.ndarray]:
    """Every policy on the validation images, calibrated to N_K's accuracy minus `gap`; and N_K's outcomes (N,)."""
    calibration, validation = (families(rdn_run, policy_run, base_runs, split=s) for s in ("calibration", "validation"))
    full = calibration["dynamic"].correct[:, -1]
    outcomes = {name: calibrate_and_apply(family, validation[name], full, gap) for name, family in calibration.items()}
    return outcomes, validation["dynamic"].correct[:, -1]


def target_table(rdn_run: Run, policy_run: Run, base_runs: Bases, *, gaps: Iterable[float] = GAPS) -> pd.DataFrame:
    """A row per target and policy, on validation.

    Columns: gap (points), policy, parameter (as text), top1, low, high (%, Wilson; none for a mix), to_full,
    to_full_low, to_full_high (points above N_K, paired), madds (a mean), share, share_low, share_high (of N_K's), note.
    """
    rows, largest = [], rdn_run.result["madds"][-1]
    for gap in gaps:
        outcomes, full = calibrated_outcomes(rdn_run, policy_run, base_runs, gap=gap)
        for name, outcome in outcomes.items():
            low, high = interval(outcome.correct) if outcome.correct.dtype == bool else (np.nan, np.nan)
            row = {"gap": 100 * gap, "policy": name, "parameter": _text(outcome.parameter)}
            row |= {"top1": 100 * outcome.accuracy, "low": 100 * low, "high": 100 * high}
            row |= paired_difference(outcome.correct, full).columns("to_full") | {"madds": outcome.madds.mean()}
            row |= paired_difference(outcome.madds / largest, np.zeros(len(full))).columns("share", 1)
            rows.append(row | {"note": outcome.note})
    return pd.DataFrame(rows)


def duel_table(rdn_run: Run, policy_run: Run, base_runs: Bases, *, gaps: Iterable[float] = GAPS) -> pd.DataFrame:
    """The dynamic and the sequential policy, each against every other at the same target, paired by validation image.

    Columns: gap (points), policy, rival, gain, gain_low, gain_high (accuracy, points), cost, cost_low, cost_high
    (MAdds, points of N_K's): positive where the policy is more accurate, or dearer.
    """
    rows, largest = [], rdn_run.result["madds"][-1]
    for gap in gaps:
        outcomes, _ = calibrated_outcomes(rdn_run, policy_run, base_runs, gap=gap)
        for policy in ("dynamic", "sequential"):
            for rival in (name for name in outcomes if name != policy):
                a, b = outcomes[policy], outcomes[rival]
                gain = paired_difference(a.correct, b.correct).columns("gain")
                cost = paired_difference(a.madds / largest, b.madds / largest).columns("cost")
                rows.append({"gap": 100 * gap, "policy": policy, "rival": rival} | gain | cost)
    return pd.DataFrame(rows)


def adaptive_gains(rdn_run: Run, policy_run: Run) -> np.ndarray:
    """On validation, what adapting gains over each fixed sub-network of about its cost: −1, 0 or 1, (N, K−1), N_2…N_K.

    λ is the largest whose mean cost on the calibration split is not above that of N_i. Where none is that cheap: NaN.
    """
    held_out, samples = (dynamic(rdn_run, policy_run, split=split) for split in ("calibration", "validation"))
    curve = held_out.curve()
    gains = np.full((len(samples.ids), len(samples.saved) - 1), np.nan)
    for column, madds in enumerate(rdn_run.result["madds"][1:]):
        affordable = curve["lam"][curve["madds"] <= madds]
        if len(affordable):
            correct, _ = samples.take(affordable.iloc[-1])
            gains[:, column] = correct.astype(np.float64) - samples.correct[:, column + 1]
    return gains


def figure8(
    rdn_run: Run, policy_run: Run, base_runs: Bases, *, gaps: Sequence[float] = GAPS, max_points: int = 400
) -> pd.DataFrame:
    """Accuracy against MAdds on validation (Figure 8), one row per point.

    Columns: series, name, madds (mean per image), top1, low, high (%), lam, exit_1 … exit_K (shares), note. Series:
    "sub-networks" (each N_i alone), "dynamic", "sequential" and "confidence cascade" (at most `max_points` of each
    exact curve), each of these three again with ", calibrated" (N_K's accuracy minus each of `gaps`, chosen on the
    calibration split), "base networks", "random mix of N_1 and N_K" (no interval: it is computed, not sampled), "oracle
    (first correct exit)". lam and the shares are NaN where there are none.
    """
    calibration, validation = (families(rdn_run, policy_run, base_runs, split=s) for s in ("calibration", "validation"))
    static, full = subnetwork_table(rdn_run), calibration["dynamic"].correct[:, -1]
    n, exits = len(validation["dynamic"].p), [f"exit_{v}" for v in static["subnetwork"]]
    names = [f"N_{v}" for v in static["subnetwork"]]
    parts = [_points("sub-networks", static["madds"], static["top1"] / 100, n, name=names)]
    for series in CURVES:
        curve = validation[series].curve(max_points)
        shares = {name: curve[name] for name in exits}
        parts.append(_points(series, curve["madds"], curve["accuracy"], n, lam=curve.get("lam", np.nan), **shares))
        for gap in gaps:
            outcome = calibrate_and_apply(calibration[series], validation[series], full, gap)
            counts = np.bincount(validation[series].exits(outcome.parameter), minlength=len(exits))
            about = {"lam": outcome.parameter if "lam" in curve else np.nan, "note": outcome.note}
            about["name"] = "target N_K" if gap == 0 else f"target N_K − {100 * gap:g} points"
            about |= zip(exits, counts / n, strict=True)
            parts.append(_points(f"{series}, calibrated", [outcome.madds.mean()], [outcome.accuracy], n, **about))
    for name, run in base_runs.items():
        base, images = subnetwork_table(run), len(split_rows(run, "validation"))
        parts.append(_points("base networks", base["madds"], base["top1"] / 100, images, name=name))
    ends = static.iloc[[0, -1]].reset_index(drop=True)
    parts.append(_points("random mix of N_1 and N_K", ends["madds"], ends["top1"] / 100, None))
    correct = validation["dynamic"].correct
    madds = static["madds"].to_numpy()[correct.argmax(axis=1)]  # an image that none gets right leaves at N_1
    parts.append(_points("oracle (first correct exit)", [madds.mean()], [correct.any(axis=1).mean()], n))
    order = ["series", "name", "madds", "top1", "low", "high", "lam", *exits, "note"]
    return pd.concat(parts, ignore_index=True).reindex(columns=order)


def _text(parameter) -> str:
    """λ or a threshold as a number; networks counted from 1."""
    if isinstance(parameter, tuple):
        a, b, share = parameter
        return f"{1 - share:.0%} of {a + 1}, {share:.0%} of {b + 1}"
    return f"{parameter + 1}" if isinstance(parameter, int) else f"{parameter:.3g}"


def _points(series: str, madds, accuracy, n: int | None, **more) -> pd.DataFrame:
    """Points of Figure 8 from accuracies (fractions) over n images; n = None: without interval."""
    accuracy = np.asarray(accuracy, dtype=np.float64)
    low, high = wilson(accuracy, n) if n else (np.nan, np.nan)
    values = {"series": series, "madds": np.asarray(madds, dtype=np.float64), "top1": 100 * accuracy}
    blank = {"name": "", "lam": np.nan, "note": ""}
    return pd.DataFrame(values | {"low": 100 * low, "high": 100 * high} | blank | more)
