"""Tidy tables from the per-sample outputs of finished experiments: Table 1 and intervals (Figure 8: `tradeoff`).

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

from rdnlib.calibration.multiplier import Calibration, calibrate, choose, epsilon_for, saved_fraction
from rdnlib.errors import DataError, InfeasibleError


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
    low, high = wilson(correct.sum() / max(len(correct), 1), len(correct), confidence)
    return Interval(float(low), float(high))


def paired_difference(
    a: np.ndarray, b: np.ndarray, confidence: float = 0.95, *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """Mean of a minus mean of b on the same samples, (N,) outcomes or costs, with a bootstrap percentile interval.

    Resampling N samples is one multinomial draw over the distinct differences: exact, and fast for any N.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise DataError(f"a paired difference needs the same samples on both sides, not {a.shape} and {b.shape}")
    values, counts = np.unique(a - b, return_counts=True)
    means = np.random.default_rng(seed).multinomial(a.size, counts / a.size, size=draws) @ values / a.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(float((a - b).mean()), float(low), float(high))


def subnetwork_table(run: Run) -> pd.DataFrame:
    """One row per sub-network on validation: subnetwork (1 … K), madds, params, top1, top5 and their intervals (%)."""
    frame = split_rows(run, "validation")
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


def dynamic(rdn_run: Run, policy_run: Run, *, split: str, informed: bool = False) -> Dynamic:
    """Join an RDN's outcomes with its policy's probabilities on one split: "calibration", "validation" or "train".

    informed: take the policy that reads N_1's logits too. Raises DataError if an image is missing on either side, is there
    twice, or if the numbers of sub-networks differ.
    """
    policies, prefix = split_rows(policy_run, split), "q" if informed else "p"
    # of the training images, the policy's run alone knows the outcomes
    networks = policies if split == "train" else split_rows(rdn_run, split)
    count = len(rdn_run.result["madds"])
    estimated = sum(name.startswith(f"{prefix}_") for name in policies)
    if estimated != count:
        raise DataError(f"the policy estimates {estimated} sub-networks, the RDN has {count}: fit it again")
    if not np.array_equal(networks["id"], policies["id"]):
        lonely = len(set(networks["id"]) ^ set(policies["id"]))
        raise DataError(f"{lonely} images of the {split} split are not in both the RDN's and the policy's samples")
    madds, costs = np.asarray(rdn_run.result["madds"], dtype=np.float64), policy_run.result
    own = costs["informed_madds" if informed else "policy_madds"]
    return Dynamic(
        ids=networks["id"].to_numpy(),
        p=columns(policies, prefix, count).astype(np.float64),
        correct=columns(networks, "top1", count).astype(bool),
        top5=columns(networks, "top5", count).astype(bool),
        difficulty=networks["difficulty"].to_numpy(),
        saved=saved_fraction(madds),
        madds=madds + own,
        params=np.asarray(rdn_run.result["params"]) + costs["informed_params" if informed else "policy_params"],
    )


def calibrated(samples: Dynamic, gap: float = 0.0) -> tuple[Calibration, str]:
    """λ* for the target "N_K's accuracy on these samples, minus `gap`", and a note.

    If no λ reaches the target, the one of the best reachable accuracy is taken, and the note says so.
    """
    try:
        return calibrate(samples.p, samples.correct, samples.saved, gap, madds=samples.madds, paired=True), ""
    except InfeasibleError as error:
        target, best = samples.correct[:, -1].mean() - gap, error.best
        note = f"target {100 * target:.2f} % not reachable on the calibration split: λ of the best, {100 * best:.2f} %"
        return calibrate(samples.p, samples.correct, samples.saved, epsilon_for(best), madds=samples.madds), note


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


def wilson(accuracy, n: int, confidence: float = 0.95):
    """Low and high end of the Wilson score interval; works on arrays of accuracies."""
    if n < 1:
        raise DataError("an accuracy needs at least one sample")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (accuracy + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (accuracy * (1 - accuracy) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def split_rows(run: Run, split: str) -> pd.DataFrame:
    """The rows of one split, in order of id."""
    samples = run.samples()
    rows = samples[samples["split"] == split]
    label = run.result.get("name", "this run")
    if rows.empty:
        raise DataError(f"{label} has no samples of the {split} split")
    if rows["id"].duplicated().any():
        raise DataError(f"{label} has images of the {split} split more than once")
    return rows.sort_values("id", ignore_index=True)


def columns(frame: pd.DataFrame, prefix: str, count: int) -> np.ndarray:
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
