"""The tables, from outcomes of finished experiments: sub-networks, Tables 1 to 5, lengths of training.

Accuracies are per cent, as in the paper.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rdnlib.errors import ConfigError, DataError
from rdnlib.reproduction.analysis.calibrated import calibrated
from rdnlib.reproduction.analysis.outcomes import families, measured, paired_difference, split_rows
from rdnlib.reproduction.analysis.statistics import Evidence, accuracy, difference
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.workspace import Run
from rdnlib.surgery.nest import INITS


def subnetwork_table(run: Run) -> pd.DataFrame:
    """One row per sub-network on validation: subnetwork (1 … K), madds, params, top1, top5 and their 95 % intervals."""
    frame = split_rows(run, "validation")
    rows = [
        {"subnetwork": v, "madds": madds, "params": params} | _accuracies(frame[f"top1_{v}"], frame[f"top5_{v}"])
        for v, (madds, params) in enumerate(zip(run.result["madds"], run.result["params"], strict=True), start=1)
    ]
    return pd.DataFrame(rows)


def every_subnetwork(runs: dict[str, Run]) -> pd.DataFrame:
    """`subnetwork_table` of several runs, one below the other.

    Columns: model (the name given), those of `subnetwork_table`, and top1_before, top5_before: validation accuracy
    straight after surgery, before training (NaN for a base network).
    """
    parts = []
    for name, run in runs.items():
        table = subnetwork_table(run)
        table.insert(0, "model", name)
        before = run.result.get("before_training", {})
        for top in ("top1", "top5"):
            table[f"{top}_before"] = 100 * np.asarray(before.get(top, [np.nan] * len(table)))
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _unfolded(run: Run) -> np.ndarray:
    """MAdds of every sub-network with unfolded heads; a base network has nothing to fold."""
    return np.asarray(run.result.get("madds_unfolded", run.result["madds"]), dtype=np.float64)


def table1(runs: dict[str, Run], dynamic_runs: dict[str, tuple[Run, Run]] | None = None) -> pd.DataFrame:
    """The paper's Table 1 on validation.

    `runs`: model name → run; a row shows its largest network. `dynamic_runs`: name → (RDN run, policy run); two rows show
    sample-adaptive inference at the λ* whose accuracy on the calibration split reaches N_K's there: by the paper's policy (its name
    gets the paper's †) and by the sequential one (‡). Columns: model, params_m ("Avg Mem Used (M)": parameters touched, averaged
    over the images), madds_m (mean, millions), unfolded_m (with heads that are not folded, as the paper counts; NaN for ‡), top1,
    top1_low, top1_high, top5, top5_low, top5_high, integrated_nets, lam (NaN in static rows), note (where no λ reaches the target).
    """
    rows = []
    for name, run in runs.items():
        last, count = subnetwork_table(run).iloc[-1].drop("subnetwork"), len(run.result["madds"])
        cost = {"params_m": last.pop("params") / 1e6, "madds_m": last.pop("madds") / 1e6}
        cost["unfolded_m"] = _unfolded(run)[-1] / 1e6
        nets = "1 full network" if count == 1 else f"{count} sub-networks"
        rows.append({"model": name, **cost, **last, "integrated_nets": nets, "lam": np.nan, "note": ""})
    for name, (rdn_run, policy_run) in (dynamic_runs or {}).items():
        samples = families(rdn_run, policy_run, {}, split="validation")
        target = calibrated(rdn_run, policy_run, {}, names=("dynamic", "sequential"))
        unfolded = {"†": _unfolded(rdn_run) + policy_run.result["policy_madds"]}
        params = {"†": policy_run.result["policy_params"], "‡": policy_run.result["sequential_params"]}
        for mark, policy in (("†", "dynamic"), ("‡", "sequential")):
            outcome = target.outcomes[policy]
            exits = samples[policy].exits(outcome.parameter)
            touched = np.asarray(rdn_run.result["params"])[exits].mean() + params[mark]
            cost = {"params_m": touched / 1e6, "madds_m": outcome.madds.mean() / 1e6}
            cost["unfolded_m"] = unfolded[mark][exits].mean() / 1e6 if mark in unfolded else np.nan
            top5 = measured(samples["dynamic"].top5[np.arange(len(exits)), exits]).columns("top5")
            found = target.measured(policy)[0].columns("top1") | top5
            about = {"integrated_nets": f"{len(rdn_run.result['madds'])} sub-networks", "lam": outcome.parameter}
            rows.append({"model": name + mark, **cost, **found, **about, "note": outcome.note})
    return pd.DataFrame(rows)


def grid_table(run: Run, split: str = "validation") -> pd.DataFrame:
    """Every node of a depth-wise nested network: [width, depth, madds, params, accuracy, low, high], 95 % intervals.

    It is what `order.best_order` reads. Raises DataError when the run is not depth-wise nested.
    """
    if "nodes" not in run.result:
        raise DataError(f"{run.result.get('name', 'this run')} is not nested along its depth: it has no grid")
    frame, rows = split_rows(run, split), []
    costs = zip(run.result["nodes"], run.result["madds"], run.result["params"], strict=True)
    for number, ((width, depth), madds, params) in enumerate(costs, start=1):
        accuracies = (100 * x for x in measured(frame[f"top1_{number}"].to_numpy()))
        rows.append((width, depth, madds, params, *accuracies))
    return pd.DataFrame(rows, columns=["width", "depth", "madds", "params", "accuracy", "low", "high"])


def table2(pairs: dict[str, tuple[Run, Run]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's Table 2 on validation: the largest sub-network, trained with 6 others or with 13.

    pairs: base model → (RDN, the same nested along its depth as well). Returns the table [base_model, integrated_nets,
    madds_m, top1, top1_low, top1_high], and the paired differences 14 − 7, [base_model, difference, low, high] in
    points.
    """
    if not pairs:
        raise ConfigError("Table 2 needs mobilenext or mobilenet_v2, as the profile's model or among its architectures")
    rows, differences = [], []
    for name, runs in pairs.items():
        frames = [split_rows(run, "validation") for run in runs]
        if not np.array_equal(frames[0]["id"], frames[1]["id"]):
            raise DataError(f"{name}: the two networks were not measured on the same images")
        counts = [len(run.result["madds"]) for run in runs]
        correct = [frame[f"top1_{count}"].to_numpy() for frame, count in zip(frames, counts, strict=True)]
        for run, count, outcome in zip(runs, counts, correct, strict=True):
            about = {"base_model": name, "integrated_nets": f"{count} sub-networks"}
            rows.append({**about, "madds_m": run.result["madds"][-1] / 1e6, **measured(outcome).columns("top1")})
        differences.append((name, *(100 * x for x in paired_difference(correct[1], correct[0]))))
    return pd.DataFrame(rows), pd.DataFrame(differences, columns=["base_model", "difference", "low", "high"])


def comparison(rows: dict[str, list[Run]], subnetworks: dict[str, int]) -> pd.DataFrame:
    """Networks one below the other, each against the first, with intervals: Tables 3, 4 and 5.

    rows: name → its runs, one for each seed. subnetworks: column → which sub-network (negative: from the largest).
    Columns: name, epochs, seeds, and for each column its accuracy, and as `<column>_gain` what it has more than the
    first row; each with `_low`, `_high`, `_seeds_low`, `_seeds_high`.
    """
    reference, table = next(iter(rows.values())), []
    for name, runs in rows.items():
        row = {"name": name, "epochs": runs[0].result["epochs"], "seeds": len(runs)}
        for column, subnetwork in subnetworks.items():
            row |= accuracy(runs, subnetwork).columns(column)
            row |= difference(runs, reference, subnetwork).columns(f"{column}_gain")
        table.append(row)
    return pd.DataFrame(table)


def lever_table(evidence: Evidence) -> pd.DataFrame:
    """What each variant of the profile's reconstructed RDN is worth, a row for each of its sub-networks.

    Columns: variant ("as it is" for the profile's own, "N_i alone" for one trained by itself), changes (what the profile says of it),
    subnetwork, share (of the base's MAdds), and with their intervals (see `Estimate.columns`) top1 and gap, which is the accuracy
    minus that of the base trained equally long (points, paired).
    """
    profile, rows = evidence.profile, []
    variants = {"as it is": ("rdn-reconstruct", {})}
    variants |= {name: (f"rdn-{name}", variant.settings()) for name, variant in profile.variants.items()}
    base, longer = evidence.runs("base"), evidence.runs("base-longer")
    for variant, (experiment, changes) in variants.items():
        runs = evidence.runs(experiment)
        for subnetwork in range(1, len(runs[0].result["madds"]) + 1):
            about = {"variant": variant, "changes": changes, "subnetwork": subnetwork}
            rows.append(about | _against(longer, base, runs, subnetwork))
    for index in profile.alone:
        runs = evidence.runs(graph.alone(index))
        about = {"variant": f"N_{index} alone", "changes": {}, "subnetwork": index}
        rows.append(about | _against(longer, base, runs, index))
    return pd.DataFrame(rows)


def _against(longer: list[Run], base: list[Run], runs: list[Run], subnetwork: int) -> dict:
    """Cost and accuracy of a sub-network against the base's."""
    share = runs[0].result["madds"][subnetwork - 1] / base[0].result["madds"][0]
    gap = difference(runs, longer, subnetwork, 1).columns("gap")
    return {"share": share} | accuracy(runs, subnetwork).columns("top1") | gap


@dataclass(frozen=True)
class Untrained:
    """An initialisation before any training, as a run: its columns of a `surgery` experiment."""

    surgery: Run
    init: str

    @property
    def result(self) -> dict:
        return {**self.surgery.result, "name": f"{self.init}, untrained", "epochs": 0}

    def samples(self) -> pd.DataFrame:
        return self.surgery.samples().rename(columns=lambda name: name.replace(f"{self.init}_", "top1_", 1))


def length_table(evidence: Evidence) -> pd.DataFrame:
    """`copy` against `reconstruct`, a row for each length of training and sub-network.

    Columns: epochs, subnetwork, then with their intervals (see `Estimate.columns`) copy and reconstruct (top-1), and
    gain, what reconstruct has more (points, paired).
    """
    rows, profile = [], evidence.profile
    for epochs in graph.lengths(profile):
        if epochs:
            runs = {init: evidence.runs(graph.trained(profile, init, epochs)) for init in INITS}
        else:
            surgeries = evidence.runs(graph.untrained(profile))
            runs = {init: [Untrained(surgery, init) for surgery in surgeries] for init in INITS}
        for subnetwork in range(1, len(runs["copy"][0].result["madds"]) + 1):
            row = {"epochs": epochs, "subnetwork": subnetwork}
            for init in INITS:
                row |= accuracy(runs[init], subnetwork).columns(init)
            rows.append(row | difference(runs["reconstruct"], runs["copy"], subnetwork).columns("gain"))
    return pd.DataFrame(rows)


def repaired(lengths: pd.DataFrame) -> pd.DataFrame:
    """For each sub-network: how much of what training gives to `copy` needs no training at all; from `length_table`.

    Columns: subnetwork, trained (points that copy gains from the surgery to the longest training), given (points by
    which reconstruct is ahead of copy before any), share (given / trained), epochs (the shortest training after which
    reconstruct is where copy ends; NaN if it never is).
    """
    rows = []
    for subnetwork, part in lengths.groupby("subnetwork"):
        part = part.sort_values("epochs")
        final, start = part["copy"].iloc[-1], part["copy"].iloc[0]
        given = part["reconstruct"].iloc[0] - start
        share = given / (final - start) if final > start else np.nan
        epochs = part["epochs"][part["reconstruct"] >= final].min()  # NaN of none
        rows.append((subnetwork, final - start, given, share, epochs))
    return pd.DataFrame(rows, columns=["subnetwork", "trained", "given", "share", "epochs"])


def _accuracies(top1, top5) -> dict[str, float]:
    return measured(top1).columns("top1") | measured(top5).columns("top5")
