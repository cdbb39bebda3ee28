"""Figure 8: accuracy against computation, for the policies and their alternatives, all calibrated alike.

λ, thresholds and shares are chosen on the calibration split, and everything is judged on the validation split. Every
cost is included: the policy networks, and the classifier at every stop where its answer is needed.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from rdnlib.reproduction.analysis.calibrated import Calibrated, band, dynamic_estimates, over_seeds
from rdnlib.reproduction.analysis.outcomes import (
    Alone,
    Bases,
    Dynamic,
    families,
    split_rows,
    wilson,
)
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence
from rdnlib.reproduction.analysis.tables import subnetwork_table
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.workspace import Run

CURVES = ("dynamic", "sequential", "confidence cascade")


def base_networks(evidence: Evidence, seeds: int | None = None) -> list[Bases]:
    """The networks that Figure 8 compares the RDN with (`graph.rivals`), of each of the first `seeds` seeds (default: all of the RDN's).

    Those that were trained at fewer seeds are left out of all.
    """
    indices = {graph.alone(index): index for index in evidence.profile.alone}
    count = len(evidence.runs(graph.main_rdn(evidence.profile))) if seeds is None else seeds
    found = {name: evidence.runs(name) for name in graph.rivals(evidence.profile)}
    return [
        {
            name: Alone(runs[seed], indices[name]) if name in indices else runs[seed]
            for name, runs in found.items()
            if len(runs) >= count
        }
        for seed in range(count)
    ]


def target_table(targets: Iterable[Sequence[Calibrated]], *, same_images: bool = True) -> pd.DataFrame:
    """A row per target and policy, on validation; each target at one or several seeds, which share their images or do not.

    Columns: gap (points), policy, seeds, parameter (as text, of each seed), and with their intervals (see `Estimate.columns`) top1 (%),
    to_full (points above N_K, paired), share (MAdds, % of N_K's); madds (a mean), note.
    """
    rows = []
    for seeds in targets:
        for name in seeds[0].outcomes:
            each = [target.outcomes[name] for target in seeds]
            row = {"gap": 100 * seeds[0].gap, "policy": name, "seeds": len(seeds)}
            row["parameter"] = ", ".join(_text(outcome.parameter) for outcome in each)
            found = over_seeds(seeds, name, same_images=same_images)
            for column, own in zip(("top1", "to_full", "share"), found, strict=True):
                row |= own.columns(column)
            notes = dict.fromkeys(outcome.note for outcome in each if outcome.note)
            rows.append(
                row | {"madds": float(np.mean([outcome.madds.mean() for outcome in each])), "note": "; ".join(notes)}
            )
    return pd.DataFrame(rows)


def adaptive_gains(held_out: Dynamic, samples: Dynamic, madds: Sequence[float]) -> np.ndarray:
    """What adapting gains over each fixed sub-network of about its cost, N_2 … N_K: mean gain in accuracy and mean MAdds over its, (K−1, 2).

    madds: (K,) of the sub-networks. λ is the largest whose mean cost on `held_out` is not above that of N_i. Where none is that cheap:
    NaN.
    """
    curve, found = held_out.curve(), np.full((len(madds) - 1, 2), np.nan)
    for row, limit in enumerate(madds[1:]):
        affordable = curve["lam"][curve["madds"] <= limit]
        if len(affordable):
            correct, spent = samples.take(affordable.iloc[-1])
            found[row] = correct.mean() - samples.correct[:, row + 1].mean(), spent.mean() / limit
    return found


def equal_cost_table(rdn: Sequence[Run], policy: Sequence[Run]) -> pd.DataFrame:
    """`adaptive_gains` over the seeds, on validation: a row for each sub-network that the policy can run as cheaply as.

    Columns: subnetwork, seeds, spent (MAdds, % of its), and with its intervals (see `Estimate.columns`) gain (points).
    """

    def apply(held_out: Dynamic, samples: Dynamic, result: dict) -> np.ndarray:
        return adaptive_gains(held_out, samples, result["madds"]).ravel()

    found, rows = dynamic_estimates(rdn, policy, apply), []
    for number, (gain, spent) in enumerate(zip(found[::2], found[1::2], strict=True), start=2):
        if np.isfinite(gain.low):  # that cheap on every half of the images
            rows.append({"subnetwork": number, "seeds": gain.seeds, "spent": spent.value} | gain.columns("gain"))
    return pd.DataFrame(rows, columns=["subnetwork", "seeds", "spent", *Estimate(0, 0, 0).columns("gain")])


def figure8(
    rdn_run: Run, policy_run: Run, base_runs: Bases, targets: Sequence[Calibrated], *, max_points: int = 400
) -> pd.DataFrame:
    """Accuracy against MAdds on validation (Figure 8), one row per point.

    Columns: series, name, madds (mean per image), top1, low, high (%), lam, exit_1 … exit_K (shares), note. Series:
    "sub-networks" (each N_i alone), "dynamic", "sequential" and "confidence cascade" (at most `max_points` of each
    exact curve; low and high know the luck of both splits, see `calibrated.band`), each of these three again with ", calibrated" (one for each of `targets`, chosen on the
    calibration split), "base networks", "random mix of N_1 and N_K" (no interval: it is computed, not sampled), "oracle
    (first correct exit)". lam and the shares are NaN where there are none.
    """
    held_out, validation = (families(rdn_run, policy_run, base_runs, split=s) for s in ("calibration", "validation"))
    static = subnetwork_table(rdn_run)
    n, exits = len(validation["dynamic"].p), [f"exit_{v}" for v in static["subnetwork"]]
    names = [f"N_{v}" for v in static["subnetwork"]]
    parts = [_points("sub-networks", static["madds"], static["top1"] / 100, n, name=names)]
    for series in CURVES:
        curve = validation[series].curve(max_points)
        shares = {name: curve[name] for name in exits}
        points = _points(series, curve["madds"], curve["accuracy"], None, lam=curve.get("lam", np.nan), **shares)
        reaches = 100 * band(held_out[series], validation[series], curve["madds"].to_numpy())
        parts.append(points.assign(low=points["top1"] - reaches, high=points["top1"] + reaches))
        for target in targets:
            outcome, gap = target.outcomes[series], target.gap
            counts = np.bincount(validation[series].exits(outcome.parameter), minlength=len(exits))
            about = {"lam": outcome.parameter if "lam" in curve else np.nan, "note": outcome.note}
            about["name"] = "target N_K" if gap == 0 else f"target N_K − {100 * gap:g} points"
            about |= zip(exits, counts / n, strict=True)
            point = _points(f"{series}, calibrated", [outcome.madds.mean()], [outcome.accuracy], None, **about)
            top1 = over_seeds([target], series, same_images=True)[0].columns("top1")
            parts.append(point.assign(low=top1["top1_low"], high=top1["top1_high"]))
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


def share_above_base_networks(frame: pd.DataFrame, series: str, *, points: int = 401) -> float:
    """Over which share of the range of costs a curve of `figure8` lies above the line through the base networks.

    The range is from the cheapest of them to the dearest. At a cost, the curve's accuracy is that of its dearest policy that costs no
    more (0 % where there is none). NaN where all base networks cost the same.
    """
    bases = frame[frame["series"] == "base networks"].groupby("madds")["top1"].max()
    if len(bases) < 2:
        return np.nan
    cost = np.linspace(bases.index[0], bases.index[-1], points)
    curve = frame[frame["series"] == series].sort_values("madds")
    reached = np.append(0.0, curve["top1"])[np.searchsorted(curve["madds"], cost, side="right")]
    return float((reached > np.interp(cost, bases.index, bases)).mean())


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
