"""What a run has cost, as the book tells it."""

import math

import pandas as pd

from rdnlib.reproduction.analysis.cost import PAPER_EPOCHS, PAPER_IMAGES, Extrapolation

_UNITS = {"years": 24 * 365.25, "days": 24, "hours": 1}  # in hours


def duration(hours: float) -> str:
    """Two digits in the largest unit of which there are two: "2.5 hours", "120 days"."""
    name, size = next((unit for unit in _UNITS.items() if hours >= 2 * unit[1]), ("minutes", 1 / 60))
    value = hours / size
    digits = 1 - math.floor(math.log10(value)) if value else 0
    return f"{round(value, digits):,.{max(0, digits)}f} {name}"


def shown(spent: pd.DataFrame) -> pd.DataFrame:
    """`analysis.cost.spent` for readers; the memory only where it was recorded."""
    table = pd.DataFrame({
        "experiment": spent["name"], "seeds": spent["seeds"], "epochs": spent["epochs"].where(spent["epochs"] > 0),
        "images a second": spent["images_per_second"], "minutes": spent["minutes"], "memory (GB)": spent["memory_gb"],
    })  # fmt: skip
    return table.dropna(axis="columns", how="all")


def in_words(spent: pd.DataFrame, paper: Extrapolation | None, machine: str) -> str:
    """The sum, and the paper's setting at the same rate. machine: what it was measured on."""
    if spent.empty:
        return "Nothing was run."
    total = duration(spent["minutes"].sum() / 60)
    text = f"In all, these experiments took **{total}** of one process on {machine}."
    if paper is None:
        return text
    setting = (
        f"MobileNeXt 1.0 and its RDN, {PAPER_EPOCHS} epochs each on ImageNet’s {PAPER_IMAGES:,} images of 224 pixels"
    )
    return (
        f"{text} The paper’s setting, {setting}, has {paper.work:,.0f} times the multiply-adds of this run’s own base and RDN. At the "
        f"same multiply-adds a second, one such process would need **{duration(paper.base)}** for the base and **{duration(paper.rdn)}** "
        "for the RDN. That is an order of magnitude: another network and larger images have another rate."
    )
