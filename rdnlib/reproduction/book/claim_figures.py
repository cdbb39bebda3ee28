"""Differences and verdicts, drawn and in words: Tables 1 to 5 and the ledger."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, SEEDS
from rdnlib.reproduction.book.chapter import with_interval
from rdnlib.reproduction.book.style import BLUE, DOTTED, GREEN, GREY, INK, ORANGE, VERMILLION, legend_below, styled

VERDICTS = {
    REPRODUCED: (GREEN, "o"),
    INCONCLUSIVE: (ORANGE, "s"),
    NOT_REPRODUCED: (VERMILLION, "X"),
    NOT_TESTABLE: (GREY, "v"),
    **dict.fromkeys(SEEDS.values(), (BLUE, "d")),
}

PRINTED = {"color": INK, "marker": "D", "markerfacecolor": "none", "linestyle": "none"}  # a number of the paper


def ours_in_words(claim) -> str:
    """Our number in a row of the ledger, its interval over the images (if it is not exact) and that over the seeds."""
    ends = claim.ours_low, claim.ours_high
    text = f"{claim.ours:+.1f}" if ends[0] == ends[1] else with_interval(claim.ours, *ends, signed=True)
    if pd.notna(claim.ours_seeds_low):
        text += f"; {claim.ours_seeds_low:+.1f} to {claim.ours_seeds_high:+.1f}"
    return text if claim.unit == "points" else f"{text} %"


def verdict_tables(ledger: pd.DataFrame) -> Iterator[Styler]:
    """The ledger for display, one table for each table or figure of the paper."""
    bounds = ledger["holds_if"].str.replace(r"(\d+\.\d)\d+", r"\1", regex=True)
    shown = ledger[["statement", "paper", "verdict"]].rename(columns={"statement": "claim"})
    shown.insert(2, "ours", [ours_in_words(claim) for claim in ledger.itertuples()])
    shown.insert(3, "holds if", bounds.str.replace("<", "below").str.replace(">", "above"))
    corrected = "; " + ledger["corrected"] + " among all of these"
    notes = corrected.where(ledger["corrected"] != ledger["verdict"], "") + ("; " + ledger["reason"]).where(
        ledger["reason"] != "", ""
    )
    shown["verdict"] += notes
    for where, part in shown.groupby(ledger["where"], sort=False):
        style = part.style.hide(axis="index").set_caption(where)
        style = style.set_properties(subset=["verdict"], **{"font-weight": "bold"})
        yield style.set_properties(subset=["claim"], **{"min-width": "14em"})


def bars(ax: Axes, y: float, estimate: Estimate, *, color: str, marker: str = "o") -> None:
    """A value with its interval over the images (thick) and over the seeds (thin), along x."""
    ax.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=3.5, alpha=0.6, solid_capstyle="butt")
    ax.plot([estimate.seeds_low, estimate.seeds_high], [y, y], color=color, linewidth=1)
    ax.plot(estimate.value, y, color=color, marker=marker, linestyle="none", markersize=7)


@styled
def gains(
    ours: dict[str, Estimate], paper: dict[str, float], colours: Mapping[str, str] = MappingProxyType({})
) -> Figure:
    """Differences in points from top to bottom, ours with intervals; the paper's are in the same row if named alike.

    colours: name → that of the sub-network it is about.
    """
    names = list(dict.fromkeys([*ours, *paper]))
    fig, ax = plt.subplots(figsize=(5.6, 1.3 + (0.55 if len(names) < 6 else 0.36) * len(names)))
    for row, name in enumerate(names):
        if name in ours:
            bars(ax, -row, ours[name], color=colours.get(name, INK))
        if name in paper:
            ax.plot(paper[name], -row - 0.25 * (name in ours), **PRINTED)
    ax.axvline(0, **DOTTED)
    ax.set(yticks=-np.arange(len(names)), yticklabels=names, xlabel="difference (points)")
    ax.set(ylim=(0.5 - len(names), 0.5))
    legend_below(
        fig, {"color": INK, "marker": "o", "linewidth": 3.5, "label": "ours"}, {**PRINTED, "label": "the paper's"}
    )
    return fig


@styled
def forest(table: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Claims in points: ours with its intervals, the bound as a tick, the verdict as colour and marker."""
    fig, ax = plt.subplots(figsize=(5.6, 1.2 + 0.36 * len(table)))
    bound = {"marker": "|", "color": INK, "markersize": 13, "linestyle": "none", "label": "bound"}
    for row, claim in enumerate(table.itertuples()):
        colour, marker = VERDICTS[claim.verdict]
        ends = (claim.ours_low, claim.ours_high, 1, claim.ours_seeds_low, claim.ours_seeds_high)
        bars(ax, -row, Estimate(claim.ours, *ends), color=colour, marker=marker)
        ax.plot(float(claim.holds_if[2:]), -row, **bound)
    ax.set(yticks=-np.arange(len(table)), yticklabels=list(labels), xlabel="points")
    found = {name: look for name, look in VERDICTS.items() if name in set(table["verdict"])}
    looks = ({"color": c, "marker": m, "linewidth": 3.5, "label": name} for name, (c, m) in found.items())
    legend_below(fig, *looks, bound)
    return fig
