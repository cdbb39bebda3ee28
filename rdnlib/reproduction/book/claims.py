"""Pictures of differences and verdicts: Tables 3 to 5 and the ledger."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book.style import BLUE, GREEN, INK, ORANGE, VERMILLION, styled

VERDICTS = {
    "reproduced": (GREEN, "o"),
    "inconclusive": (ORANGE, "s"),
    "not reproduced": (VERMILLION, "X"),
}


def bars(ax: Axes, y: float, estimate: Estimate, *, color: str, marker: str = "o") -> None:
    """A value with its interval over the images (thick) and over the seeds (thin), along x."""
    ax.plot([estimate.low, estimate.high], [y, y], color=color, linewidth=3.5, alpha=0.6, solid_capstyle="butt")
    ax.plot([estimate.seeds_low, estimate.seeds_high], [y, y], color=color, linewidth=1)
    ax.plot(estimate.value, y, color=color, marker=marker, linestyle="none", markersize=7)


@styled
def gains(ours: dict[str, Estimate], paper: dict[str, float]) -> Figure:
    """Differences in points, ours with intervals and the paper's beside them; rows of `ours` from top to bottom."""
    fig, ax = plt.subplots(figsize=(5.6, 1.3 + 0.55 * len(ours)))
    for row, (name, estimate) in enumerate(ours.items()):
        bars(ax, -row, estimate, color=VERMILLION)
        if name in paper:
            ax.plot(paper[name], -row - 0.25, color=BLUE, marker="D", linestyle="none")
    ax.axvline(0, color=INK, linestyle=":", linewidth=1)
    ax.set(yticks=-np.arange(len(ours)), yticklabels=list(ours), xlabel="difference (points)")
    ax.set(ylim=(0.5 - len(ours), 0.5))
    handles = [Line2D([], [], color=VERMILLION, marker="o", linewidth=3.5, label="ours")]
    handles.append(Line2D([], [], color=BLUE, marker="D", linestyle="none", label="the paper's"))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


@styled
def forest(table: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Claims of the ledger in points: ours with its intervals, the bound as a tick, the verdict as colour and marker."""
    fig, ax = plt.subplots(figsize=(5.6, 1.2 + 0.36 * len(table)))
    for row, claim in enumerate(table.itertuples()):
        colour, marker = VERDICTS[claim.verdict]
        ends = (claim.ours_low, claim.ours_high, 1, claim.ours_seeds_low, claim.ours_seeds_high)
        bars(ax, -row, Estimate(claim.ours, *ends), color=colour, marker=marker)
        ax.plot(float(claim.holds_if[2:]), -row, marker="|", color=INK, markersize=13, linestyle="none")
    ax.set(yticks=-np.arange(len(table)), yticklabels=list(labels), xlabel="points")
    handles = [Line2D([], [], color=c, marker=m, linewidth=3.5, label=name) for name, (c, m) in VERDICTS.items()]
    handles.append(Line2D([], [], color=INK, marker="|", markersize=13, linestyle="none", label="bound"))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig
