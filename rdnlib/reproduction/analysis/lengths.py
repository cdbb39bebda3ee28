"""`copy` against `reconstruct` at several lengths of training: how much of the training only repairs what the surgery broke."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from rdnlib.reproduction.analysis.ledger import Evidence
from rdnlib.reproduction.analysis.outcomes import Run
from rdnlib.reproduction.analysis.statistics import accuracy, difference
from rdnlib.reproduction.experiments import graph
from rdnlib.surgery.nest import INITS


@dataclass(frozen=True)
class Untrained:
    """What an initialisation can do before any training: a column of a `surgery` experiment, as a run."""

    surgery: Run
    init: str

    @cached_property
    def result(self) -> dict:
        costs = {column: self.surgery.result[column] for column in ("madds", "params")}
        return {"name": f"{self.init}, untrained", "epochs": 0, **costs}

    def samples(self) -> pd.DataFrame:
        frame = self.surgery.samples()
        return frame.rename(columns=lambda name: name.replace(f"{self.init}_", "top1_", 1))


def runs(evidence: Evidence, init: str, epochs: int) -> list[Run]:
    """An initialisation after so many epochs, one run for each seed."""
    profile = evidence.profile
    if epochs:
        return evidence.runs(graph.trained(profile, init, epochs))
    return [Untrained(surgery, init) for surgery in evidence.runs(graph.untrained(profile))]


def length_table(evidence: Evidence) -> pd.DataFrame:
    """A row for each length and sub-network.

    Columns: epochs, subnetwork, then with their intervals (see `Estimate.columns`) copy and reconstruct (top-1, %), and gain, what
    reconstruct has more (points, paired).
    """
    rows = []
    for epochs in graph.lengths(evidence.profile):
        both = {init: runs(evidence, init, epochs) for init in INITS}
        for subnetwork in range(1, len(both["copy"][0].result["madds"]) + 1):
            row = {"epochs": epochs, "subnetwork": subnetwork}
            for init, found in both.items():
                row |= accuracy(found, subnetwork).columns(init)
            rows.append(row | difference(both["reconstruct"], both["copy"], subnetwork).columns("gain"))
    return pd.DataFrame(rows)


def repaired(table: pd.DataFrame) -> pd.DataFrame:
    """For each sub-network: how much of what training gives to `copy` needs no training at all.

    Columns: subnetwork, trained (points that copy gains from the surgery to the longest training), given (points by which
    reconstruct is ahead of copy before any), share (given / trained), epochs (the shortest training after which reconstruct is
    where copy ends; NaN if it never is).
    """
    rows = []
    for subnetwork, part in table.groupby("subnetwork"):
        part = part.sort_values("epochs")
        final, start = part["copy"].iloc[-1], part["copy"].iloc[0]
        given = part["reconstruct"].iloc[0] - start
        there = part["epochs"][part["reconstruct"] >= final]
        share = given / (final - start) if final > start else np.nan
        epochs = there.iloc[0] if len(there) else np.nan
        rows.append((subnetwork, final - start, given, share, epochs))
    return pd.DataFrame(rows, columns=["subnetwork", "trained", "given", "share", "epochs"])
