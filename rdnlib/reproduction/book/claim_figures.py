"""Differences and verdicts, drawn and in words: Tables 1 to 5 and the ledger."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.verdicts import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTABLE, REPRODUCED, SEEDS
from rdnlib.reproduction.book.chapter import bullet_list, with_interval
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
    text = f"{claim.ours:+z.1f}" if ends[0] == ends[1] else with_interval(claim.ours, *ends, signed=True)
    if pd.notna(claim.ours_seeds_low):
        text += f"; {claim.ours_seeds_low:+z.1f} to {claim.ours_seeds_high:+z.1f}"
    return text if claim.unit == "points" else f"{text} %"


def verdict_tables(ledger: pd.DataFrame) -> Iterator[Styler]:
    """The ledger for display, one table for each table or figure of the paper; the verdict comes first, where a phone shows it."""
    bounds = ledger["holds_if"].str.replace(r"(\d+\.\d)\d+", r"\1", regex=True)
    shown = ledger[["verdict", "statement"]].rename(columns={"statement": "claim"})
    shown["ours"] = [ours_in_words(claim) for claim in ledger.itertuples()]
    shown["paper"] = ledger["paper"]
    shown["holds if"] = bounds.str.replace("<", "below").str.replace(">", "above")
    corrected = (ledger["corrected"] + " when all claims of this table are judged together").where(
        ledger["corrected"] != ledger["verdict"], ""
    )
    both = (corrected != "") & (ledger["reason"] != "")
    shown["remark"] = corrected + np.where(both, "; ", "") + ledger["reason"]
    for where, part in shown.groupby(ledger["where"], sort=False):
        style = part.style.hide(axis="index").set_caption(where)
        style = style.set_properties(subset=["verdict"], **{"font-weight": "bold"})
        for column, width in {"verdict": 6, "claim": 12, "ours": 8, "paper": 7, "remark": 14}.items():
            style = style.set_properties(subset=[column], **{"min-width": f"{width}em"})
        yield style


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
def forest(table: pd.DataFrame) -> Figure:
    """Claims in points, each below its statement: ours with its intervals, the bound as a tick, the verdict as colour and marker."""
    texts = [textwrap.fill(f"{claim.where}. {claim.statement}", 64) for claim in table.itertuples()]
    tops = np.cumsum([0.0, *(1.4 + 0.6 * text.count("\n") for text in texts)])  # the y of each bar is below its text
    fig, ax = plt.subplots(figsize=(5.6, 1.2 + 0.32 * tops[-1]))
    bound = {"marker": "|", "color": INK, "markersize": 13, "linestyle": "none", "label": "bound"}
    for text, top, end, claim in zip(texts, tops, tops[1:], table.itertuples(), strict=False):
        colour, marker = VERDICTS[claim.verdict]
        ends = (claim.ours_low, claim.ours_high, 1, claim.ours_seeds_low, claim.ours_seeds_high)
        row = -end + 0.5
        bars(ax, row, Estimate(claim.ours, *ends), color=colour, marker=marker)
        ax.plot(float(claim.holds_if[2:]), row, **bound)
        ax.text(0, -top, re.sub(r"N_(\w)", r"$N_\1$", text), transform=ax.get_yaxis_transform(), va="top")
    ax.set(yticks=[], ylim=(-tops[-1], 0.2), xlabel="points")
    ax.spines["left"].set_visible(False)
    ax.grid(False, axis="y")
    found = {name: look for name, look in VERDICTS.items() if name in set(table["verdict"])}
    looks = ({"color": c, "marker": m, "linewidth": 3.5, "label": name} for name, (c, m) in found.items())
    legend_below(fig, *looks, bound)
    return fig


def verdicts_in_words(table: pd.DataFrame) -> Markdown:
    """How many claims have which verdict, and which are not reproduced; of `verdicts.verdict_table`, whose controls are counted apart."""
    controls, table = table[table["control"]], table[~table["control"]]
    text = f"Of {len(table)} claims: **{_counted(table)}**. "
    text += f"Of {len(controls)} controls of ours: {_counted(controls)}. " if len(controls) else ""
    for verdict in (REPRODUCED, NOT_REPRODUCED):
        own, left = (table[column] == verdict for column in ("verdict", "corrected"))
        if own.sum() > left.sum():
            exact = (left & (table["ours_low"] == table["ours_high"])).sum()
            text += f"“{verdict.capitalize()}” when all claims of a table are judged together: {left.sum()} of these {own.sum()}"
            text += f", among them {exact} that no training changes. " if exact else ". "
    unjudged, failed = table["verdict"].str.endswith("illustrates"), table[table["verdict"] == "not reproduced"]
    if unjudged.any():
        ways = table["reason"][unjudged].str.startswith("points").sum()
        text += f"Too few seeds to judge: {unjudged.sum()}, of which {ways} point{'s' if ways == 1 else ''} the paper’s way. "
    text += "Not reproduced:" if len(failed) else "" if unjudged.any() else "None is “not reproduced”."
    return bullet_list([f"{row.where}: {row.statement}." for row in failed.itertuples()], intro=text.strip())


def _counted(table: pd.DataFrame) -> str:
    counts = table["verdict"].value_counts().reindex(VERDICTS).dropna()
    return "; ".join(f"{count:.0f} × {verdict}" for verdict, count in counts.items())
