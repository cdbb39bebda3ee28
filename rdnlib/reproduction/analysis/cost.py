"""What a run has cost: seconds, images a second and memory of its experiments, and what the paper's setting would cost at that rate."""

from typing import NamedTuple

import pandas as pd

from rdnlib.reproduction.analysis.claims import printed
from rdnlib.reproduction.analysis.statistics import Evidence
from rdnlib.reproduction.experiments import Run, graph
from rdnlib.reproduction.experiments.workspace import finished

PAPER_IMAGES, PAPER_EPOCHS = (
    1_281_167,
    200,
)  # ImageNet's training images; Section 4.1: 200 epochs for the base, 200 for the RDN
PAPER_NETWORKS = "MobileNeXt-multi1.0", "RDN-MobileNeXt-multi1.0"  # of Table 1


class Extrapolation(NamedTuple):
    """base, rdn: hours of one process for 200 epochs on ImageNet; work: how many times the multiply-adds of this run's own trainings."""

    base: float
    rdn: float
    work: float


def spent(evidence: Evidence) -> pd.DataFrame:
    """One row per finished experiment, in the order of the graph.

    Columns: name, seeds, epochs (0 where nothing is trained), images_per_second (while training, mean over the seeds; NaN), minutes (of
    one process, all seeds, evaluation and surgery included), memory_gb (the most that the process held; NaN where it was not recorded).
    """
    rows = []
    for name in evidence.workspace.graph:
        runs = _finished(evidence, name)
        if runs:
            memory = [run.result["provenance"].get("memory_gb", float("nan")) for run in runs]
            rows.append({
                "name": name, "seeds": len(runs), "epochs": runs[0].result.get("epochs", 0),
                "images_per_second": sum(map(images_per_second, runs)) / len(runs),
                "minutes": sum(map(_seconds, runs)) / 60, "memory_gb": max(memory),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _seconds(run: Run) -> float:
    """Of all of it; of one that was stopped and went on only the training is known of the time before."""
    return max(run.result["provenance"]["seconds"], run.result.get("train_seconds", 0))


def images_per_second(run: Run) -> float:
    """Of training, without evaluation; NaN where nothing was trained."""
    result = run.result
    if not result.get("train_seconds"):
        return float("nan")
    return result["epochs"] * result["data"]["images"]["train"] / result["train_seconds"]


def extrapolated(evidence: Evidence) -> Extrapolation | None:
    """The paper's 200 epochs on ImageNet for MobileNeXt 1.0 and its RDN, at as many multiply-adds a second as here.

    An order of magnitude: another network, larger images and another batch have another rate. None where either was not trained here.
    """
    networks = printed(1).set_index("model")["madds_m"]
    hours, own, theirs = [], 0.0, 0.0
    for name, network in zip(("base", graph.main_rdn(evidence.profile)), PAPER_NETWORKS, strict=True):
        runs = [run for run in _finished(evidence, name) if run.result.get("train_seconds")]
        if not runs:
            return None
        result = runs[0].result
        madds = result.get("madds_unfolded", result["madds"])[-1]  # heads are folded after the training
        wanted = 1e6 * float(networks[network]) * PAPER_IMAGES * PAPER_EPOCHS
        hours.append(wanted / (madds * images_per_second(runs[0])) / 3600)
        own += madds * result["epochs"] * result["data"]["images"]["train"]
        theirs += wanted
    return Extrapolation(*hours, theirs / own)


def _finished(evidence: Evidence, name: str) -> list[Run]:
    return [
        Run(name, replica)
        for replica in evidence.replicas[: evidence.repeats[name]]
        if finished(replica.folder(name))
    ]  # fmt: skip
