"""Measured grids of sub-networks, from the per-sample outputs of finished experiments (Figure 6, Table 2). Nothing here runs a network."""

import numpy as np
import pandas as pd

from rdnlib.errors import DataError
from rdnlib.reproduction.analysis.outcomes import Run, interval, paired_difference, split_rows


def grid_table(run: Run, split: str = "validation") -> pd.DataFrame:
    """Every node of a depth-wise nested network: [width, depth, madds, params, accuracy, low, high], accuracies in %, 95 %.

    It is what `order.best_order` reads. Raises DataError when the run is not depth-wise nested.
    """
    if "nodes" not in run.result:
        raise DataError(f"{run.result.get('name', 'this run')} is not nested along its depth: it has no grid")
    frame, rows = split_rows(run, split), []
    costs = zip(run.result["nodes"], run.result["madds"], run.result["params"], strict=True)
    for number, ((width, depth), madds, params) in enumerate(costs, start=1):
        outcome = frame[f"top1_{number}"].to_numpy()
        low, high = interval(outcome)
        row = {"width": width, "depth": depth, "madds": madds, "params": params}
        rows.append(row | {"accuracy": 100 * float(outcome.mean()), "low": 100 * low, "high": 100 * high})
    return pd.DataFrame(rows)


def table2(pairs: dict[str, tuple[Run, Run]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The paper's Table 2 on validation: the largest sub-network, trained with 6 others or with 13.

    pairs: base model → (RDN, the same nested along its depth as well). Returns the table [base_model, integrated_nets, madds_m,
    top1, top1_low, top1_high] (%), and the differences 14 − 7 on the same images, [base_model, difference, low, high] in points.
    """
    rows, differences = [], []
    for name, runs in pairs.items():
        outcomes = []
        for run in runs:
            count = len(run.result["madds"])
            frame = split_rows(run, "validation")
            outcomes.append(frame[["id", f"top1_{count}"]].set_axis(["id", "right"], axis=1))
            right = outcomes[-1]["right"].to_numpy()
            low, high = interval(right)
            rows.append(
                {
                    "base_model": name,
                    "integrated_nets": f"{count} sub-networks",
                    "madds_m": run.result["madds"][-1] / 1e6,
                    "top1": 100 * float(right.mean()),
                    "top1_low": 100 * low,
                    "top1_high": 100 * high,
                }
            )
        seven, fourteen = outcomes
        if not np.array_equal(seven["id"], fourteen["id"]):
            raise DataError(f"{name}: the two networks were not measured on the same images")
        change = paired_difference(fourteen["right"].to_numpy(), seven["right"].to_numpy())
        values = 100 * np.array(change)
        differences.append({"base_model": name, **dict(zip(("difference", "low", "high"), values, strict=True))})
    return pd.DataFrame(rows), pd.DataFrame(differences)
