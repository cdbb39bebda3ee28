"""Tidy tables from the per-sample outputs of finished experiments: Table 1, Figure 8 and their intervals.

Nothing here runs a network. A run is anything with `.result` (a dict) and `.samples()` (a DataFrame), as
`experiments` returns. Accuracies in tables are per cent, as in the paper; intervals are 95 % over the validation
images. The costs of the dynamic network (MAdds, parameters) always include its policy network; r_v = 1 − MAdds_v /
MAdds_K does not, because the policy costs the same whatever it decides.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from rdnlib.calibration import Calibration, calibrate, choose, saved_fraction, sweep
from rdnlib.errors import DataError, InfeasibleError
from rdnlib.rivals import chord, oracle


class Run(Protocol):
    """A finished experiment."""

    result: dict

    def samples(self) -> pd.DataFrame: ...


class Interval(NamedTuple):
    low: float
    high: float


class Difference(NamedTuple):
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dynamic:
    """What the dynamic network needs to know of one split: N images, K exits."""

    ids: np.ndarray  # (N,)
    p: np.ndarray  # (N, K) policy probabilities
    correct: np.ndarray  # (N, K) bool, top-1
    top5: np.ndarray  # (N, K) bool
    difficulty: np.ndarray  # (N,) NaN where unknown
    saved: np.ndarray  # (K,) r_v
    madds: np.ndarray  # (K,) MAdds of leaving at each exit, policy included
    params: np.ndarray  # (K,) parameters touched, policy included


def interval(correct: np.ndarray, confidence: float = 0.95) -> Interval:
    """Wilson interval of an accuracy from its per-sample outcomes (N,) bool; fractions in [0, 1]."""
    correct = np.asarray(correct, dtype=bool)
    low, high = _wilson(correct.sum() / max(len(correct), 1), len(correct), confidence)
    return Interval(float(low), float(high))


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """Accuracy of a minus accuracy of b on the same samples, (N,) bool each, with a bootstrap percentile interval.

    A sample contributes −1, 0 or 1, so resampling N of them is one multinomial draw: exact, and fast for any N.
    """
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape != b.shape or not a.size:
        raise DataError(f"a paired difference needs the same samples on both sides, not {a.shape} and {b.shape}")
    worse, better = (~a & b).mean(), (a & ~b).mean()
    counts = np.random.default_rng(seed).multinomial(a.size, [worse, better, 1 - worse - better], size=draws)
    tail = (1 - confidence) / 2
    low, high = np.quantile((counts[:, 1] - counts[:, 0]) / a.size, [tail, 1 - tail])
    return Difference(float(better - worse), float(low), float(high))


def subnetwork_table(run: Run) -> pd.DataFrame:
    """One row per sub-network on validation: subnetwork (1 … K), madds, params, top1, top5 and their intervals (%)."""
    frame = _split(run, "validation")
    rows = [
        {"subnetwork": v, "madds": madds, "params": params} | _accuracies(frame[f"top1_{v}"], frame[f"top5_{v}"])
        for v, (madds, params) in enumerate(zip(run.result["madds"], run.result["params"], strict=True), start=1)
    ]
    return pd.DataFrame(rows)


def every_subnetwork(runs: dict[str, Run]) -> pd.DataFrame:
    """`subnetwork_table` of several runs, one below the other.

    Columns: model (the name given), those of `subnetwork_table`, and top1_before, top5_before: validation accuracy (%) straight
    after surgery, before training (NaN for a base network).
    """
    parts = []
    for name, run in runs.items():
        table = subnetwork_table(run)
        before = run.result.get("before_training", {})
        for top in ("top1", "top5"):
            table[f"{top}_before"] = 100 * np.asarray(before.get(top, [np.nan] * len(table)))
        parts.append(table.assign(model=name))
    joined = pd.concat(parts, ignore_index=True)
    return joined[["model", *joined.columns.drop("model")]]


def dynamic(rdn_run: Run, policy_run: Run, *, split: str) -> Dynamic:
    """Join an RDN's outcomes with its policy's probabilities on one split, "calibration" or "validation".

    Raises DataError if an image is missing on either side, is there twice, or if the numbers of sub-networks differ.
    """
    networks, policies = _split(rdn_run, split), _split(policy_run, split)
    count = len(rdn_run.result["madds"])
    probabilities = [name for name in policies if name.startswith("p_")]
    if len(probabilities) != count:
        raise DataError(f"the policy estimates {len(probabilities)} sub-networks, the RDN has {count}: fit it again")
    if set(networks["id"]) != set(policies["id"]):
        lonely = len(set(networks["id"]) ^ set(policies["id"]))
        raise DataError(f"{lonely} images of the {split} split are not in both the RDN's and the policy's samples")
    joined = networks.merge(policies[["id", "split", *probabilities]], on=["id", "split"])
    madds = np.asarray(rdn_run.result["madds"], dtype=np.float64)
    return Dynamic(
        ids=joined["id"].to_numpy(),
        p=_columns(joined, "p", count).astype(np.float64),
        correct=_columns(joined, "top1", count).astype(bool),
        top5=_columns(joined, "top5", count).astype(bool),
        difficulty=joined["difficulty"].to_numpy(),
        saved=saved_fraction(madds),
        madds=madds + policy_run.result["policy_madds"],
        params=np.asarray(rdn_run.result["params"]) + policy_run.result["policy_params"],
    )


def calibrated(samples: Dynamic, gap: float = 0.0) -> tuple[Calibration, str]:
    """λ* for the target "N_K's accuracy on these samples, minus `gap`", and a note.

    If no λ reaches the target, the one of the best reachable accuracy is taken, and the note says so.
    """
    target = samples.correct[:, -1].mean() - gap
    try:
        return calibrate(samples.p, samples.correct, samples.saved, 1 - target, madds=samples.madds), ""
    except InfeasibleError:
        best = sweep(samples.p, samples.correct, samples.saved)["accuracy"].max()
        note = f"target {100 * target:.2f} % not reachable on the calibration split: λ of the best, {100 * best:.2f} %"
        return calibrate(samples.p, samples.correct, samples.saved, 1 - best, madds=samples.madds), note


def table1(runs: dict[str, Run], dynamic_runs: dict[str, tuple[Run, Run]] | None = None) -> pd.DataFrame:
    """The paper's Table 1 on validation.

    `runs`: model name → run; a row shows its largest network. `dynamic_runs`: name → (RDN run, policy run); a row
    (its name gets the paper's †) shows sample-adaptive inference at the λ* whose accuracy on the calibration split
    reaches N_K's there. Columns: model, params_m ("Avg Mem Used (M)": parameters touched, averaged over the images),
    madds_m (mean, millions), top1, top1_low, top1_high, top5, top5_low, top5_high (%), integrated_nets, lam (NaN in
    static rows), note.
    """
    rows = []
    for name, run in runs.items():
        last = subnetwork_table(run).iloc[-1]
        cost = {"params_m": last["params"] / 1e6, "madds_m": last["madds"] / 1e6}
        accuracies = last.drop(["subnetwork", "madds", "params"]).to_dict()
        count = len(run.result["madds"])
        nets = "1 full network" if count == 1 else f"{count} sub-networks"
        about = {"integrated_nets": nets, "lam": np.nan, "note": ""}
        rows.append({"model": name} | cost | accuracies | about)
    for name, (rdn_run, policy_run) in (dynamic_runs or {}).items():
        found, note = calibrated(dynamic(rdn_run, policy_run, split="calibration"))
        samples = dynamic(rdn_run, policy_run, split="validation")
        exits = choose(samples.p, samples.saved, found.lam)
        cost = {"params_m": samples.params[exits].mean() / 1e6, "madds_m": samples.madds[exits].mean() / 1e6}
        top1, top5 = _taken(samples.correct, exits), _taken(samples.top5, exits)
        nets = f"{len(samples.saved)} sub-networks"
        about = {"integrated_nets": nets, "lam": found.lam, "note": note}
        rows.append({"model": f"{name}†"} | cost | _accuracies(top1, top5) | about)
    return pd.DataFrame(rows)


def figure8(
    rdn_run: Run,
    policy_run: Run,
    base_runs: dict[str, Run],
    *,
    gaps: tuple[float, ...] = (0.0, 0.005, 0.01, 0.02),
    max_points: int = 400,
) -> pd.DataFrame:
    """Accuracy against MAdds on validation (Figure 8), one row per point.

    Columns: series, name, madds (mean per image), top1, low, high (%), lam, exit_1 … exit_K (shares), note. Series:
    "sub-networks" (each N_i alone), "dynamic" (every λ, at most `max_points` of the exact curve), "dynamic, λ*
    calibrated" (λ* for N_K's accuracy minus each of `gaps`, chosen on the calibration split), one per base run by its
    name, "random mix of N_1 and N_K" (no interval: it is computed, not sampled), "oracle (first correct exit)". MAdds
    of both dynamic series include the policy. lam and the shares are NaN where there are none.
    """
    samples = dynamic(rdn_run, policy_run, split="validation")
    n, exits = len(samples.p), [f"exit_{v + 1}" for v in range(len(samples.saved))]
    static = subnetwork_table(rdn_run)
    names = [f"N_{v}" for v in static["subnetwork"]]
    parts = [_points("sub-networks", static["madds"], static["top1"] / 100, n, name=names)]

    curve = sweep(samples.p, samples.correct, samples.saved, max_points, madds=samples.madds)
    points = _points("dynamic", curve["madds"], curve["accuracy"], n, lam=curve["lam"])
    parts.append(pd.concat([points, curve[exits]], axis=1))

    calibration = dynamic(rdn_run, policy_run, split="calibration")
    for gap in gaps:
        found, note = calibrated(calibration, gap)
        taken = choose(samples.p, samples.saved, found.lam)
        shares = pd.DataFrame([np.bincount(taken, minlength=len(exits)) / n], columns=exits)
        accuracy = _taken(samples.correct, taken).mean()
        name = "target N_K" if gap == 0 else f"target N_K − {100 * gap:g} points"
        about = {"name": name, "lam": found.lam, "note": note}
        point = _points("dynamic, λ* calibrated", [samples.madds[taken].mean()], [accuracy], n, **about)
        parts.append(pd.concat([point, shares], axis=1))

    for name, run in base_runs.items():
        table = subnetwork_table(run)
        parts.append(_points(name, table["madds"], table["top1"] / 100, len(_split(run, "validation")), name=name))

    ends = static.iloc[[0, -1]]
    (cheap, dear), (low, high) = ends["madds"], ends["top1"] / 100
    mixed = chord(low, cheap, high, dear)
    parts.append(_points("random mix of N_1 and N_K", mixed["madds"], mixed["accuracy"], None))
    accuracy, madds = oracle(samples.correct, rdn_run.result["madds"])
    parts.append(_points("oracle (first correct exit)", [madds], [accuracy], n))
    columns = ["series", "name", "madds", "top1", "low", "high", "lam", *exits, "note"]
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def exit_difficulty(samples: Dynamic, lam: float) -> tuple[float, pd.DataFrame]:
    """Whether hard images leave later: Spearman's ρ between difficulty and exit index at λ, and a row per exit.

    Columns: exit (1 … K), share, difficulty (mean). ρ and means are NaN where the difficulty is unknown, where
    nothing leaves, or (ρ) where all images leave together.
    """
    exits = choose(samples.p, samples.saved, lam) + 1
    frame = pd.DataFrame({"exit": exits, "difficulty": samples.difficulty.astype(np.float64)})
    known = frame.dropna()
    constant = known["exit"].nunique() < 2 or known["difficulty"].nunique() < 2
    rho = np.nan if constant else known["exit"].rank().corr(known["difficulty"].rank())  # Pearson of the ranks
    every = pd.RangeIndex(1, len(samples.saved) + 1, name="exit")
    groups = frame.groupby("exit")["difficulty"]
    share = (groups.size() / len(frame)).reindex(every, fill_value=0.0)
    table = pd.DataFrame({"share": share, "difficulty": groups.mean().reindex(every)}).reset_index()
    return float(rho), table


def _wilson(accuracy, n: int, confidence: float = 0.95):
    """Low and high end of the Wilson score interval; works on arrays of accuracies."""
    if n < 1:
        raise DataError("an accuracy needs at least one sample")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (accuracy + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (accuracy * (1 - accuracy) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def _split(run: Run, split: str) -> pd.DataFrame:
    """The rows of one split, in order of id."""
    samples = run.samples()
    rows = samples[samples["split"] == split]
    label = run.result.get("name", "this run")
    if rows.empty:
        raise DataError(f"{label} has no samples of the {split} split")
    if rows["id"].duplicated().any():
        raise DataError(f"{label} has images of the {split} split more than once")
    return rows.sort_values("id", ignore_index=True)


def _columns(frame: pd.DataFrame, prefix: str, count: int) -> np.ndarray:
    return frame[[f"{prefix}_{v}" for v in range(1, count + 1)]].to_numpy()  # (N, K)


def _taken(values: np.ndarray, exits: np.ndarray) -> np.ndarray:
    """Values (N, K) at the exits taken (N,)."""
    return values[np.arange(len(exits)), exits]


def _accuracies(top1, top5) -> dict[str, float]:
    row = {}
    for name, outcome in (("top1", top1), ("top5", top5)):
        low, high = interval(outcome)
        row |= {name: 100 * float(outcome.mean()), f"{name}_low": 100 * low, f"{name}_high": 100 * high}
    return row


def _points(series: str, madds, accuracy, n: int | None, **more) -> pd.DataFrame:
    """Points of Figure 8 from accuracies (fractions) over n images; n = None: without interval."""
    accuracy = np.asarray(accuracy, dtype=np.float64)
    low, high = _wilson(accuracy, n) if n else (np.nan, np.nan)
    columns = {"series": series, "madds": np.asarray(madds, dtype=np.float64), "top1": 100 * accuracy}
    blank = {"name": "", "lam": np.nan, "note": ""}
    return pd.DataFrame(columns | {"low": 100 * low, "high": 100 * high} | blank | more)
