"""The tables, from outcomes of finished experiments: sub-networks, Tables 1 to 5, lengths of training.

Accuracies are per cent, as in the paper.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rdnlib.errors import ConfigError, DataError
from rdnlib.reproduction.analysis.calibrated import calibrated, over_seeds
from rdnlib.reproduction.analysis.outcomes import families, measured, split_rows, unfolded_madds
from rdnlib.reproduction.analysis.statistics import (
    Estimate,
    Evidence,
    accuracy,
    difference,
    estimate,
    same_images,
)
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.workspace import Run
from rdnlib.surgery.nest import INITS

ADAPTIVE = {"†": "dynamic", "‡": "sequential"}  # the policies of Table 1


def subnetwork_table(run: Run) -> pd.DataFrame:
    """One row per sub-network on validation: subnetwork (1 … K), madds, params, top1, top5 and their 95 % intervals."""
    frame = split_rows(run, "validation")
    rows = [
        {"subnetwork": v, "madds": madds, "params": params} | _accuracies(frame[f"top1_{v}"], frame[f"top5_{v}"])
        for v, (madds, params) in enumerate(zip(run.result["madds"], run.result["params"], strict=True), start=1)
    ]
    return pd.DataFrame(rows)


def every_subnetwork(networks: dict[str, Sequence[Run]]) -> pd.DataFrame:
    """Every sub-network on validation, of several networks, one below the other.

    networks: name → its runs, one for each seed. Columns: model (the name given), subnetwork (1 … K), madds, params; top1 and top5 with
    their intervals (see `Estimate.columns`); top1_before, top5_before: straight after surgery, before training (NaN for a base network).
    """
    rows = []
    for name, runs in networks.items():
        for number in range(1, len(runs[0].result["madds"]) + 1):
            cost = {key: _mean(run.result[key][number - 1] for run in runs) for key in ("madds", "params")}
            row = {"model": name, "subnetwork": number, **cost}
            for top in (1, 5):
                row |= accuracy(runs, number, top=top).columns(f"top{top}")
                before = [run.result.get("before_training", {}).get(f"top{top}") for run in runs]
                row[f"top{top}_before"] = np.nan if None in before else 100 * _mean(each[number - 1] for each in before)
            rows.append(row)
    return pd.DataFrame(rows)


def table1(
    networks: dict[str, Sequence[Run]], adaptive: dict[str, tuple[Sequence[Run], Sequence[Run]]] | None = None
) -> pd.DataFrame:
    """The paper's Table 1 on validation, means over the seeds.

    `networks`: model name → its runs, one for each seed; a row shows the largest network. `adaptive`: name → (RDN's runs, policy's
    runs); two rows show sample-adaptive inference at the λ* whose accuracy on the calibration split reaches N_K's there: by the paper's
    policy (its name gets the paper's †) and by the sequential one (‡). Columns: model, seeds, params_m ("Avg Mem Used (M)": parameters
    touched, averaged over the images), madds_m (mean, millions), unfolded_m (with heads that are not folded, as the paper counts; NaN
    for ‡), top1 and top5 with their intervals (see `Estimate.columns`), integrated_nets, lam (NaN in static rows), note (where no λ
    reaches the target).
    """
    rows = []
    for name, runs in networks.items():
        count = len(runs[0].result["madds"])
        cost = {f"{key}_m": _mean(run.result[key][-1] for run in runs) / 1e6 for key in ("params", "madds")}
        cost["unfolded_m"] = _mean(unfolded_madds(run.result)[-1] for run in runs) / 1e6
        found = accuracy(runs, -1).columns("top1") | accuracy(runs, -1, top=5).columns("top5")
        nets = "1 full network" if count == 1 else f"{count} sub-networks"
        about = {"integrated_nets": nets, "lam": np.nan, "note": ""}
        rows.append({"model": name, "seeds": len(runs), **cost, **found, **about})
    for name, (rdn_runs, policy_runs) in (adaptive or {}).items():
        shared = same_images([split_rows(run, "validation") for run in rdn_runs])
        seeds = [_adaptive_rows(*pair) for pair in zip(rdn_runs, policy_runs, strict=True)]
        for mark, *own in zip("†‡", *seeds, strict=True):
            row = {"model": name + mark, "seeds": len(own)}
            row |= {key: _mean(each[key] for each in own) for key in ("params_m", "madds_m", "unfolded_m")}
            targets, policy = [each["target"] for each in own], ADAPTIVE[mark]
            row |= over_seeds(targets, policy, same_images=shared)[0].columns("top1")
            row |= estimate([each["top5"] for each in own], same_images=shared).columns("top5")
            missed = [each["note"] for each in own if each["note"]]
            notes = "; ".join(dict.fromkeys(missed))
            notes += f" (at {len(missed)} of {len(own)} seeds)" if missed and len(own) > 1 else ""
            nets = f"{len(rdn_runs[0].result['madds'])} sub-networks"
            rows.append(row | {"integrated_nets": nets, "lam": _mean(each["lam"] for each in own), "note": notes})
    return pd.DataFrame(rows)


def gains_by_adapting(rdn_runs: Sequence[Run], policy_runs: Sequence[Run]) -> dict[str, Estimate]:
    """† and ‡ of `table1` → accuracy above N_K, paired by image (points)."""
    shared = same_images([split_rows(run, "validation") for run in rdn_runs])
    pairs = zip(rdn_runs, policy_runs, strict=True)
    targets = [calibrated(*pair, {}, names=tuple(ADAPTIVE.values())) for pair in pairs]
    return {mark: over_seeds(targets, policy, same_images=shared)[1] for mark, policy in ADAPTIVE.items()}


def _adaptive_rows(rdn_run: Run, policy_run: Run) -> list[dict]:
    """What Table 1 shows of † and ‡ at one seed."""
    samples = families(rdn_run, policy_run, {}, split="validation")
    target, rows = calibrated(rdn_run, policy_run, {}, names=tuple(ADAPTIVE.values())), []
    for policy, kind in (("dynamic", "policy"), ("sequential", "sequential")):
        outcome = target.outcomes[policy]
        exits = samples[policy].exits(outcome.parameter)
        touched = np.asarray(rdn_run.result["params"])[exits].mean() + policy_run.result[f"{kind}_params"]
        unfolded = (
            (unfolded_madds(rdn_run.result)[exits] + policy_run.result["policy_madds"]).mean()
            if kind == "policy"
            else np.nan
        )
        cost = {"params_m": touched / 1e6, "madds_m": outcome.madds.mean() / 1e6, "unfolded_m": unfolded / 1e6}
        top5 = samples["dynamic"].top5[np.arange(len(exits)), exits]
        found = {"target": target, "top5": top5, "lam": outcome.parameter, "note": outcome.note}
        rows.append(cost | found)
    return rows


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


def table2(pairs: dict[str, tuple[Sequence[Run], Sequence[Run]]]) -> tuple[pd.DataFrame, dict[str, Estimate]]:
    """The paper's Table 2 on validation: the largest sub-network, trained with 6 others or with 13.

    pairs: base model → (runs of the RDN, runs of the same nested along its depth as well), one for each seed. Returns the table
    [base_model, integrated_nets, seeds, madds_m, top1 with its intervals], and for each base model the points that the largest loses,
    7 − 14, paired by image.
    """
    if not pairs:
        raise ConfigError("Table 2 needs mobilenext or mobilenet_v2, as the profile's model or among its architectures")
    rows = []
    for name, both in pairs.items():
        for runs in both:
            about = {
                "base_model": name,
                "integrated_nets": f"{len(runs[0].result['madds'])} sub-networks",
                "seeds": len(runs),
            }
            cost = {"madds_m": _mean(run.result["madds"][-1] for run in runs) / 1e6}
            rows.append(about | cost | accuracy(runs, -1).columns("top1"))
    return pd.DataFrame(rows), {name: difference(fewer, more) for name, (fewer, more) in pairs.items()}


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
    """What each variant of the profile's main RDN is worth, a row for each of its sub-networks, at all of its seeds.

    Columns: variant ("as it is" for the profile's own, "N_i alone" for one trained by itself), changes (what the profile says of it),
    subnetwork, seeds, share (of the base's MAdds), and with their intervals (see `Estimate.columns`) top1 and gap, which is the accuracy
    minus that of the base trained equally long (points, paired).
    """
    profile, rows = evidence.profile, []
    for variant, name in graph.levers(profile).items():
        base, longer, own = evidence.together("base", "base-longer", name)
        changes = profile.variants[variant].changes() if variant in profile.variants else {}
        for subnetwork in own[0].result["config"].get("trained") or range(1, len(own[0].result["madds"]) + 1):
            about = {"variant": variant, "changes": changes, "subnetwork": subnetwork, "seeds": len(own)}
            rows.append(about | _against(longer, base, own, subnetwork))
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
            names = [graph.trained(profile, init, epochs) for init in INITS]
            runs = dict(zip(INITS, evidence.together(*names), strict=True))
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


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _accuracies(top1, top5) -> dict[str, float]:
    return measured(top1).columns("top1") | measured(top5).columns("top5")
