"""Figure 8: accuracy against computation, for the policies and all their rivals, calibrated alike.

Computed from the per-sample outputs of finished experiments, as in `results`; λ, thresholds and shares are chosen on the
calibration split, and everything is judged on the validation split. Every cost is included: the policy networks, and the classifier
at every stop where its answer is needed.
"""

import numpy as np
import pandas as pd

from rdnlib.calibration.families import ByLambda, ByThreshold, Family, Mix, OneForAll, Outcome, chord, oracle, settle
from rdnlib.calibration.multiplier import choose, sweep
from rdnlib.errors import DataError
from rdnlib.policy.sequential import earlier_answers
from rdnlib.reproduction.analysis.outcomes import (
    Run,
    columns,
    dynamic,
    interval,
    paired_difference,
    split_rows,
    subnetwork_table,
    wilson,
)

GAPS = (0.0, 0.005, 0.01)  # targets: N_K's accuracy on the calibration split, minus these


def families(rdn_run: Run, policy_run: Run, base_runs: dict[str, Run], *, split: str) -> dict[str, Family]:
    """Every policy of Figure 8 on one split, "calibration" or "validation", by its name.

    "dynamic" (the paper's), "dynamic, reads N_1's logits", "sequential", "confidence cascade" (N_1, N_2, … until one is sure),
    "one sub-network", "random mix of two" and, if there are any, "base networks".
    """
    seen = dynamic(rdn_run, policy_run, split=split)
    informed = dynamic(rdn_run, policy_run, split=split, informed=True)
    madds, count = np.asarray(rdn_run.result["madds"], dtype=np.float64), len(seen.saved)
    confidence = columns(split_rows(rdn_run, split), "confidence", count)
    above = columns(split_rows(policy_run, split), "above", count - 1)
    answers = earlier_answers(policy_run.result["classifier_madds"], count)  # a cascade needs the answer at every stop
    found = {
        "dynamic": ByLambda(seen.p, seen.correct, seen.saved, seen.madds),
        "dynamic, reads N_1’s logits": ByLambda(informed.p, informed.correct, informed.saved, informed.madds),
        "sequential": ByThreshold(above, seen.correct, madds + policy_run.result["sequential_madds"], "lam"),
        "confidence cascade": ByThreshold(confidence[:, :-1], seen.correct, madds + answers),
        "one sub-network": OneForAll(seen.correct, madds),
        "random mix of two": Mix(seen.correct, madds),
    }
    if base_runs:
        bases = sorted(base_runs.values(), key=lambda run: run.result["madds"][0])
        rows = [split_rows(run, split) for run in bases]
        if any(not np.array_equal(frame["id"], seen.ids) for frame in rows):
            raise DataError(f"the base networks were not run on the RDN's images of the {split} split")
        correct = np.column_stack([frame["top1_1"].to_numpy(bool) for frame in rows])
        found["base networks"] = OneForAll(
            correct, np.array([run.result["madds"][0] for run in bases], dtype=np.float64)
        )
    return found


def settled(
    rdn_run: Run, policy_run: Run, base_runs: dict[str, Run], *, gap: float = 0.0
) -> tuple[dict[str, Outcome], np.ndarray]:
    """What every policy does with the validation images once calibrated to N_K's accuracy minus `gap`; and N_K's (N,)."""
    calibration, validation = (families(rdn_run, policy_run, base_runs, split=s) for s in ("calibration", "validation"))
    target = calibration["one sub-network"].correct[:, -1].mean() - gap
    outcomes = {name: settle(calibration[name], validation[name], target) for name in calibration}
    return outcomes, validation["one sub-network"].correct[:, -1]


def target_table(
    rdn_run: Run, policy_run: Run, base_runs: dict[str, Run], *, gaps: tuple[float, ...] = GAPS
) -> pd.DataFrame:
    """A row per target and policy, on validation.

    Columns: gap (points), policy, parameter (as text), top1, low, high (%, Wilson; none for a mix), to_full, to_full_low,
    to_full_high (points above N_K, paired), madds (mean per image), share, share_low, share_high (of N_K's MAdds, 95 %), note.
    """
    rows, largest = [], rdn_run.result["madds"][-1]
    for gap in gaps:
        outcomes, full = settled(rdn_run, policy_run, base_runs, gap=gap)
        for name, outcome in outcomes.items():
            low, high = interval(outcome.correct) if outcome.correct.dtype == bool else (np.nan, np.nan)
            accuracy = {"top1": 100 * outcome.accuracy, "low": 100 * low, "high": 100 * high}
            difference = paired_difference(outcome.correct, full)
            cost = paired_difference(outcome.madds / largest, np.zeros(len(full)))
            rows.append(
                {"gap": 100 * gap, "policy": name, "parameter": _text(outcome.parameter)}
                | accuracy
                | _three("to_full", difference, 100)
                | {"madds": outcome.madds.mean()}
                | _three("share", cost, 1)
                | {"note": outcome.note}
            )
    return pd.DataFrame(rows)


def duel_table(
    rdn_run: Run,
    policy_run: Run,
    base_runs: dict[str, Run],
    *,
    policies: tuple[str, ...] = ("dynamic", "sequential"),
    gaps: tuple[float, ...] = GAPS,
) -> pd.DataFrame:
    """Each of `policies` against every rival at the same target, paired by validation image.

    Columns: gap (points), policy, rival, gain, gain_low, gain_high (accuracy, points), cost, cost_low, cost_high (MAdds, points
    of N_K's): positive where the policy is more accurate, or dearer.
    """
    rows, largest = [], rdn_run.result["madds"][-1]
    for gap in gaps:
        outcomes, _ = settled(rdn_run, policy_run, base_runs, gap=gap)
        for policy in policies:
            for rival in outcomes:
                if rival == policy:
                    continue
                mine, other = outcomes[policy], outcomes[rival]
                gain = paired_difference(mine.correct, other.correct)
                cost = paired_difference(mine.madds / largest, other.madds / largest)
                names = {"gap": 100 * gap, "policy": policy, "rival": rival}
                rows.append(names | _three("gain", gain, 100) | _three("cost", cost, 100))
    return pd.DataFrame(rows)


def adaptive_gains(rdn_run: Run, policy_run: Run) -> np.ndarray:
    """What adapting gains over each fixed sub-network of about its cost: (N, K−1) for N_2…N_K, on validation, in [−1, 1].

    λ is the largest whose mean cost on the calibration split is not above that of N_i. Where none is that cheap: NaN.
    """
    held_out, samples = (dynamic(rdn_run, policy_run, split=split) for split in ("calibration", "validation"))
    curve = sweep(held_out.p, held_out.correct, held_out.saved, madds=held_out.madds)
    gains = np.full((len(samples.ids), len(samples.saved) - 1), np.nan)
    for column, madds in enumerate(rdn_run.result["madds"][1:]):
        affordable = curve[curve["madds"] <= madds]
        if len(affordable):
            exits = choose(samples.p, samples.saved, affordable["lam"].iloc[-1])
            adapted = samples.correct[np.arange(len(exits)), exits]
            gains[:, column] = adapted.astype(np.float64) - samples.correct[:, column + 1]
    return gains


def figure8(
    rdn_run: Run,
    policy_run: Run,
    base_runs: dict[str, Run],
    *,
    gaps: tuple[float, ...] = GAPS,
    max_points: int = 400,
) -> pd.DataFrame:
    """Accuracy against MAdds on validation (Figure 8), one row per point.

    Columns: series, name, madds (mean per image), top1, low, high (%), lam, exit_1 … exit_K (shares), note. Series:
    "sub-networks" (each N_i alone), "dynamic", "sequential" and "confidence cascade" (at most `max_points` of each exact curve),
    each of these three again with ", calibrated" (N_K's accuracy minus each of `gaps`, chosen on the calibration split),
    "base networks", "random mix of N_1 and N_K" (no interval: it is computed, not sampled), "oracle (first correct exit)".
    lam and the shares are NaN where there are none.
    """
    validation = families(rdn_run, policy_run, base_runs, split="validation")
    calibration = families(rdn_run, policy_run, base_runs, split="calibration")
    static = subnetwork_table(rdn_run)
    n, exits = len(validation["dynamic"].p), [f"exit_{v}" for v in static["subnetwork"]]
    names = [f"N_{v}" for v in static["subnetwork"]]
    parts = [_points("sub-networks", static["madds"], static["top1"] / 100, n, name=names)]
    full = calibration["dynamic"].correct[:, -1].mean()
    for series in ("dynamic", "sequential", "confidence cascade"):
        curve = validation[series].curve(max_points)
        lam = curve.get("lam", np.nan)
        parts.append(pd.concat([_points(series, curve["madds"], curve["accuracy"], n, lam=lam), curve[exits]], axis=1))
        for gap in gaps:
            outcome = settle(calibration[series], validation[series], full - gap)
            places = np.searchsorted(validation[series].madds, outcome.madds)
            shares = pd.DataFrame([np.bincount(places, minlength=len(exits)) / n], columns=exits)
            name = "target N_K" if gap == 0 else f"target N_K − {100 * gap:g} points"
            about = {"name": name, "lam": outcome.parameter if "lam" in curve else np.nan, "note": outcome.note}
            point = _points(f"{series}, calibrated", [outcome.madds.mean()], [outcome.accuracy], n, **about)
            parts.append(pd.concat([point, shares], axis=1))
    for name, run in base_runs.items():
        table = subnetwork_table(run)
        parts.append(
            _points("base networks", table["madds"], table["top1"] / 100, len(split_rows(run, "validation")), name=name)
        )
    ends = static.iloc[[0, -1]]
    (cheap, dear), (low, high) = ends["madds"], ends["top1"] / 100
    mixed = chord(low, cheap, high, dear)
    parts.append(_points("random mix of N_1 and N_K", mixed["madds"], mixed["accuracy"], None))
    accuracy, madds = oracle(validation["dynamic"].correct, rdn_run.result["madds"])
    parts.append(_points("oracle (first correct exit)", [madds], [accuracy], n))
    order = ["series", "name", "madds", "top1", "low", "high", "lam", *exits, "note"]
    return pd.concat(parts, ignore_index=True).reindex(columns=order)


def _three(name: str, difference, scale: float) -> dict[str, float]:
    value, low, high = (scale * number for number in difference)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


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
    columns = {"series": series, "madds": np.asarray(madds, dtype=np.float64), "top1": 100 * accuracy}
    blank = {"name": "", "lam": np.nan, "note": ""}
    return pd.DataFrame(columns | {"low": 100 * low, "high": 100 * high} | blank | more)
