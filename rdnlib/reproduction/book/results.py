"""Pictures and sentences of the chapters on results: Table 1, Figure 8, and what makes a good RDN.

Accuracies are per cent, differences points; `x_low` and `x_high` are the ends of the 95 % interval of column `x`.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book.chapter import comparison, hulls, intervals, with_interval
from rdnlib.reproduction.book.figures import curves
from rdnlib.reproduction.book.style import BLUE, CYCLE, DOTTED, INK, MARKERS, VERMILLION, legend_below, styled


def epochs(count: float) -> str:
    """ "1 epoch", "2 epochs"."""
    return f"{count:.0f} epoch{'' if count == 1 else 's'}"


def with_ends(x: Sequence[float], table: pd.DataFrame, column: str) -> tuple:
    """A series for `figures.curves`: x, then the column and the ends of its intervals."""
    return x, table[column], table[f"{column}_low"], table[f"{column}_high"]


def madds_changes(table: pd.DataFrame, pairs: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Change of the MAdds in %: `nesting`, N_K against its base, and `adapting`, † against N_K; a row for each pair.

    table: Table 1, columns `model` and `madds_m`; the dynamic row is the RDN's name and †. pairs: label → (base, RDN).
    """
    madds = table.set_index("model")["madds_m"]
    changes = [(madds[rdn] / madds[base] - 1, madds[f"{rdn}†"] / madds[rdn] - 1) for base, rdn in pairs.values()]
    return 100 * pd.DataFrame(changes, index=list(pairs), columns=["nesting", "adapting"])


@styled
def madds_bars(ours: pd.DataFrame, paper: pd.DataFrame) -> Figure:
    """What nesting costs and what adapting saves, in % of the MAdds; both tables as `madds_changes` makes them."""
    both = pd.concat([ours, paper])
    colours = [VERMILLION] * len(ours) + [BLUE] * len(paper)
    fig, axes = plt.subplots(2, 1, figsize=(5.6, 5.2), sharey=True)
    titles = {"nesting": "$N_K$ against its base", "adapting": "dynamic inference (†) against $N_K$"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        bars = ax.barh(-np.arange(len(both)), both[column], color=colours)
        ax.bar_label(bars, [f"{value:+.0f} %" for value in both[column]], padding=3)
        ax.axvline(0, color=INK, linewidth=1)
        ax.set(title=title, yticks=-np.arange(len(both)), yticklabels=both.index)
        ax.margins(x=0.2)
    axes[1].set(xlabel="change of the MAdds (%)")
    return fig


def loss_in_words(change: Estimate) -> str:
    """What is known about a loss of accuracy, from the interval of the change in points."""
    low, high = change.hull
    if high < 0:
        return f"some accuracy is lost, at most {-low:.1f} points"
    if low > 0:
        return f"no accuracy is lost, at least {low:.1f} points are gained"
    loss = max(0.0, -low)
    return f"the change of the accuracy may be chance; the interval excludes a loss of more than {loss:.1f} points"


def duels_in_words(duels: pd.DataFrame, rival: str) -> list[str]:
    """A sentence for each policy and target of `tradeoff.duel_table`: accuracy and cost against one rival."""
    rows = duels[duels["rival"] == rival]
    numbers = [intervals(rows, column, signed=True) for column in ("gain", "cost")]
    ends = [hulls(rows, column).itertuples(index=False) for column in ("gain", "cost")]
    lines = []
    for row, gain, price, gained, paid in zip(rows.itertuples(), *numbers, *ends, strict=True):
        target = f"$N_K$ − {row.gap:g} points" if row.gap else "$N_K$"
        cost = "more than" if paid.low > 0 else "less than" if paid.high < 0 else "about as much as"
        lines.append(
            f"target {target}: **{row.policy}** is {comparison(*gained)} the {rival} in accuracy, "
            f"{gain} points, and costs {cost} it, {price} % of $N_K$'s MAdds."
        )
    return lines


def losses_in_words(duels: pd.DataFrame, policy: str, rival: str) -> str:
    """At how many targets a policy costs more than its rival without being clearly more accurate."""
    rows = duels[(duels["policy"] == policy) & (duels["rival"] == rival)]
    lost = ((hulls(rows, "gain")["low"] <= 0) & (hulls(rows, "cost")["low"] > 0)).sum()
    if not lost:
        return f"At no target does the policy “{policy}” lose to the {rival} outright."
    why = "it costs more and is not clearly more accurate"
    return f"The policy “{policy}” **loses to the {rival}** at {lost} of {len(rows)} targets: {why}."


def shares_in_words(share: pd.Series, rival: str) -> list[str]:
    """For each policy, its share of N_K's MAdds (a fraction): is it at most half, and less than the rival's?"""
    return [
        f"{name}: {value:.0%} of $N_K$'s MAdds, {'at most half' if value <= 0.5 else '**more than half**'}, and "
        f"{'less' if value < share[rival] else '**not less**'} than the {rival}'s {share[rival]:.0%}."
        for name, value in share.items()
        if name != rival
    ]


@styled
def gains_at_equal_cost(test: pd.DataFrame) -> Figure:
    """Points that adapting gains instead of each sub-network; columns subnetwork, spent (relative MAdds) and gain."""
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    curves(ax, {"": with_ends(test["subnetwork"], test, "gain")}, colors=[VERMILLION], linestyle="none")
    ax.axhline(0, **DOTTED)
    labels = [f"$N_{row.subnetwork}$\n{row.spent:.0%}" for row in test.itertuples()]
    ax.set(xticks=test["subnetwork"], xticklabels=labels, xlabel="instead of (below: MAdds used, relative to it)")
    ax.set(ylabel="accuracy gained (points)")
    ax.margins(x=0.1)
    return fig


def gains_in_words(test: pd.DataFrame) -> str:
    """The sub-networks of `gains_at_equal_cost` by the outcome of their comparison."""
    verdicts = [comparison(row.gain_low, row.gain_high) for row in test.itertuples()]
    groups = (r"$N_" + test["subnetwork"].astype(str) + "$").groupby(verdicts, sort=False)
    return "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in groups)


def reference_points_in_words(frame: pd.DataFrame, static: pd.DataFrame) -> list[str]:
    """Dynamic inference at λ* beside a random mix at its cost and the oracle; `figure8` and `subnetwork_table`."""
    series = frame.groupby("series")
    practice, oracle = (series.get_group(n).iloc[0] for n in ("dynamic, calibrated", "oracle (first correct exit)"))
    ends, (cost, full) = static.iloc[[0, -1]], static[["madds", "top1"]].iloc[-1]
    coin, neighbours = (np.interp(practice["madds"], table["madds"], table["top1"]) for table in (ends, static))
    dynamic = series.get_group("dynamic")
    affordable = dynamic["top1"][dynamic["madds"] <= oracle["madds"]].tolist()
    costly = "even the cheapest exit of the policy costs more"
    reached = f"the policy reaches {affordable[-1]:.1f} %" if affordable else costly
    return [
        f"With the $\\lambda^*$ for the accuracy of $N_K$, {practice['madds'] / cost:.0%} of its MAdds are used. "
        f"Accuracy: {with_interval(*practice[['top1', 'low', 'high']])} %; that of $N_K$ is {full:.1f} %.",
        f"A random choice would give {coin:.1f} % at that cost between $N_1$ and $N_K$, and {neighbours:.1f} % between "
        "the two sub-networks whose costs are next to it.",
        f"The oracle reaches {oracle['top1']:.1f} % with {oracle['madds'] / cost:.0%} of the MAdds. At that cost, "
        f"{reached}.",
    ]


def shares_above_in_words(shares: Mapping[str, float]) -> str:
    """For each policy, `tradeoff.share_above_base_networks`."""
    if any(np.isnan(share) for share in shares.values()):
        return "This profile has no networks of other costs beside the base to draw a line through."
    parts = " and ".join(f"the {name} policy over **{share:.0%}**" for name, share in shares.items())
    return (
        f"Over how much of the range of costs a curve lies above the line through separately trained networks: {parts}."
    )


def changes_in_words(changes: Mapping) -> str:
    """What a profile says of a variant: "plain: stem, blocks.0; largest: 0.5"."""
    parts = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            parts.append(changes_in_words(value))
        else:
            parts.append(f"{key}: {', '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
    return "; ".join(filter(None, parts)) or "–"


@styled
def lever_figure(levers: pd.DataFrame, base: Estimate) -> Figure:
    """Accuracy against cost of every variant's sub-networks; levers: as `tables.lever_table` makes it. Dotted: the base."""
    figure, ax = plt.subplots(figsize=(5.6, 4.4))
    alone = levers["variant"].str.endswith("alone")
    series = dict(list(levers[~alone].groupby("variant", sort=False)))
    if alone.any():
        series["each trained alone"] = levers[alone]
    styles = zip(series.items(), cycle(CYCLE), cycle(MARKERS), strict=False)
    for (name, rows), colour, marker in styles:
        rows = rows.sort_values("share")
        errors = [rows["top1"] - rows["top1_low"], rows["top1_high"] - rows["top1"]]
        ax.errorbar(
            rows["share"], rows["top1"], errors, color=colour, marker=marker, label=name, lw=1.2, elinewidth=0.7
        )
    ax.axhline(base.value, **DOTTED)
    ax.axvline(1, **DOTTED)
    ax.set(xlabel="MAdds, relative to the base", ylabel="top-1 accuracy (%)")
    legend_below(figure, ncols=3)
    return figure


def verdict_on_levers(levers: pd.DataFrame) -> list[str]:
    """A sentence for each variant: how its largest sub-network stands to the base trained as long, and what its smallest is."""
    lines = []
    for name, rows in levers[~levers["variant"].str.endswith("alone")].groupby("variant", sort=False):
        first, last, ends = rows.iloc[0], rows.iloc[-1], hulls(rows, "gap").iloc[-1]
        place = "on a level with" if ends["low"] <= 0 <= ends["high"] else "above" if last["gap"] > 0 else "below"
        lines.append(
            f"**{name}**: $N_{{{last['subnetwork']}}}$ is {place} the base trained equally long ({last['gap']:+.1f} points) at "
            f"{last['share']:.0%} of its MAdds; $N_1$ is {first['gap']:+.1f} points from it at {first['share']:.0%}."
        )
    return lines
