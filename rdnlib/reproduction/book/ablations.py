"""Pictures and sentences of the chapters on what matters: Tables 2 to 5, and the lengths of training.

Accuracies are per cent, differences points; `x_low` and `x_high` are the ends of the 95 % interval of column `x`. A colour is always
that of a sub-network; what else differs has a line and a marker of its own.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rdnlib.reproduction.analysis.statistics import Estimate, accuracy
from rdnlib.reproduction.analysis.verdicts import Claim, near_chance
from rdnlib.reproduction.book.chapter import bullet_list
from rdnlib.reproduction.book.figures import curves, name_subnetworks
from rdnlib.reproduction.book.results import epochs, with_ends
from rdnlib.reproduction.book.style import DOTTED, GREY, INK, STAR, legend_below, owner_colour, styled
from rdnlib.reproduction.experiments.config import Profile
from rdnlib.reproduction.experiments.workspace import Run

LOOKS = (  # of what is compared
    {"color": INK, "linestyle": "-", "marker": "o"},
    {"color": INK, "linestyle": "--", "marker": "s"},
    {"color": GREY, "linestyle": ":", "marker": "D"},
)
INIT_LOOKS = {"copy": {"linestyle": "--", "marker": "s"}, "reconstruct": {"linestyle": "-", "marker": "o"}}


def departures_in_words(profile: Profile) -> str:
    """In what the ablations of a profile differ from the paper's, besides data, network and length."""
    rdn, plain, found = profile.rdn, profile.rdn.plain, []
    if rdn.k != 4:
        found.append(f"$k = {rdn.k}$ instead of 4")
    if rdn.select != "greedy":
        found.append(f"the channels are chosen by `{rdn.select}` instead of `greedy` where nothing else is said")
    if plain is not None:
        where = f"after {plain:.0%} of the MAdds" if isinstance(plain, float) else f"after {', '.join(plain)}"
        found.append(f"nesting begins {where} instead of behind the first two blocks")
    if rdn.largest is not None:
        found.append(f"the loss of $N_K$ has the weight {rdn.largest:g} instead of an equal share")
    if rdn.distill:
        whom = "" if rdn.teach_largest in (None, True) else ", but not $N_K$"
        found.append(
            f"the super-net teaches, with the share {rdn.distill:g} of the loss, whatever does not begin from scratch{whom}"
        )
    if not found:
        return "Besides data, network and length of training, our settings are as the paper's."
    return f"Besides data, network and length of training, our settings differ from the paper's in this: {'; '.join(found)}."


def paper_and_ours(profile: Profile, claims: Sequence[Claim], paper: str) -> Markdown:
    """The section of that name: what became of each claim, and in what the experiments differ; paper: what the paper did."""
    return bullet_list([*(claim.sentence() for claim in claims), departures_in_words(profile), f"The paper: {paper}."])


def signed_list(values: Mapping[str, float], unit: str = "points") -> str:
    """For a description of a figure: "MobileNeXt +1.2 points, MobileNetV2 −0.3 points"."""
    return ", ".join(f"{name} {value:+.1f} {unit}" for name, value in values.items()) or "nothing"


def learned_little(networks: Mapping[str, tuple[Sequence[Run], int]]) -> list[str]:
    """A warning for each network that is at chance, of name → (its runs, which sub-network)."""
    found = [near_chance(name, runs, number) for name, (runs, number) in networks.items()]
    return [f"**{reason}**: a comparison with it says nothing." for reasons in found for reason in reasons]


@styled
def depth_grid(grid: pd.DataFrame, alone: pd.DataFrame) -> Figure:
    """Early exits and full depth of one network against an RDN without exits; `grid_table` and `subnetwork_table`."""
    names = {"accuracy": "top1", "low": "top1_low", "high": "top1_high"}
    early, full = (grid[grid["depth"] == depth].rename(columns=names) for depth in (0, 1))
    return _by_cost({"trained without exits": alone, "trained with exits: full depth": full, "its early exits": early})


@styled
def two_families(rdn: pd.DataFrame, slimmable: pd.DataFrame, base: pd.DataFrame) -> Figure:
    """An RDN, a slimmable network and the super-net of both, as `subnetwork_table`s."""
    return _by_cost({"RDN": rdn, "slimmable": slimmable}, base)


def _by_cost(families: Mapping[str, pd.DataFrame], base: pd.DataFrame | None = None) -> Figure:
    """Accuracy against MAdds; the points of a family of as many as the first has sub-networks have their colours."""
    figure, ax = plt.subplots(figsize=(5.6, 4.0))
    count = len(next(iter(families.values())))
    for (name, rows), look in zip(families.items(), LOOKS, strict=False):
        x = rows["madds"].to_numpy() / 1e6
        curves(ax, {name: with_ends(x, rows, "top1")}, colors=[look["color"]], **_without_colour(look))
        for number, point in enumerate(zip(x, rows["top1"], strict=True), start=1) if len(rows) == count else ():
            ax.plot(*point, color=owner_colour(number), marker=look["marker"], linestyle="none", zorder=3)
    if base is not None:
        curves(ax, {"super-net": with_ends(base["madds"] / 1e6, base, "top1")}, colors=[INK], **STAR)
    ax.set(xlabel="MAdds per image (millions)", ylabel="top-1 accuracy (%)")
    legend_below(figure, ncols=1 if base is None else 3)
    return figure


def training_path(run: Run, supernet: Run | None = None) -> tuple[Sequence[float], Sequence[float]]:
    """Accuracy of N_K on the images trained on (%) by epochs of training in all, those of the super-net first.

    Of an RDN from random weights the path begins at 0 epochs, with its accuracy on validation.
    """
    after = run.history()
    if supernet is None:
        x, y = [0, *after["epoch"]], [run.result["before_training"]["top1"][-1], *after["accuracy_K"]]
    else:
        before = supernet.history()
        x, y = [*before["epoch"], *(after["epoch"] + len(before))], [*before["accuracy"], *after["accuracy_K"]]
    return x, 100 * np.asarray(y)


@styled
def training_paths(rows: Mapping[str, tuple[Sequence[float], Sequence[float]]], surgery: float) -> Figure:
    """Each name's `training_path`; surgery: after which epoch the pre-trained RDN was made."""
    figure, ax = plt.subplots(figsize=(5.6, 3.5))
    for (name, path), look in zip(rows.items(), LOOKS, strict=False):
        ax.plot(*path, label=name, **look, markersize=4)
    ax.axvline(surgery + 0.5, **DOTTED, label="the surgery")
    ax.set(xlabel="epochs of training, the super-net’s included", ylabel="training accuracy (%)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure)
    return figure


@styled
def scores(values: Sequence[float], chosen: Sequence[int]) -> Figure:
    """Scores of channels in ascending order; those `chosen` for group 1 are filled with its colour."""
    figure, ax = plt.subplots(figsize=(5.6, 3.0))
    values = np.asarray(values)
    order = np.argsort(values)
    colours = [owner_colour(1) if channel in set(map(int, chosen)) else "none" for channel in order]
    ax.bar(range(len(order)), values[order], color=colours, edgecolor=INK)
    ax.set(xticks=range(len(order)), xticklabels=order, xlabel="output channel", ylabel="violating input")
    return figure


@styled
def accuracies_by_subnetwork(rows: Mapping[str, Sequence[Run]]) -> Figure:
    """Accuracy of every sub-network, one series for each name; its runs are one for each seed."""
    fig, ax = plt.subplots(figsize=(5.6, 3.4))
    numbers = np.arange(1, len(next(iter(rows.values()))[0].result["madds"]) + 1)
    shifts = 0.15 * (np.arange(len(rows)) - (len(rows) - 1) / 2)  # the bars lie beside each other
    for (name, runs), shift, look in zip(rows.items(), shifts, LOOKS, strict=False):
        table = pd.DataFrame([accuracy(runs, int(number)).columns("top1") for number in numbers])
        series = {name: with_ends(numbers + shift, table, "top1")}
        curves(ax, series, colors=[look["color"]], **_without_colour(look))
    name_subnetworks(ax.xaxis, len(numbers))
    ax.set(xlabel="sub-network", ylabel="top-1 (%)")
    legend_below(fig, ncols=len(rows))
    return fig


@styled
def cosines(values: Sequence[float]) -> Figure:
    """Between the gradient of every sub-network and that of N_K."""
    figure, ax = plt.subplots(figsize=(5.6, 3.0))
    numbers = range(1, 1 + len(values))
    ax.bar(numbers, values, color=[owner_colour(number) for number in numbers])
    ax.axhline(0, color=INK, linewidth=1)
    name_subnetworks(ax.xaxis, len(values))
    ax.set(xlabel="sub-network", ylabel="cosine with $N_K$'s gradient")
    return figure


def gains_most(light: Estimate, full: Estimate, more: Estimate) -> str:
    """Which of two sub-networks a select helps, and whether it helps the lightest more: from gains and their difference."""
    words = {
        name: "is better than with a random order" if gain.hull.low > 0
        else "is worse than with a random order" if gain.hull.high < 0 else "cannot be told from that with a random order"
        for name, gain in (("$N_1$", light), ("$N_K$", full))
    }  # fmt: skip
    ahead = more.text("+")
    if more.hull.low > 0:
        last = f"the lightest gains more, by {ahead} points"
    elif more.hull.high < 0:
        last = f"the largest gains more; the difference is {ahead} points"
    else:
        last = f"which of the two gains more is open: the gain of $N_1$ less that of $N_K$ is {ahead} points"
    return f"{'; '.join(f'{name} {text}' for name, text in words.items())}; {last}."


def widths_in_words(slimmable: pd.DataFrame, rdn: pd.DataFrame) -> list[str]:
    """Each width of a slimmable network beside the RDN at its cost, interpolated between sub-networks.

    Widths outside the costs of N_1 … N_K are named, not compared. Both are `subnetwork_table`s, `slimmable` with a column `width`.
    """
    lines, (low, high) = [], (rdn["madds"].min(), rdn["madds"].max())
    for row in slimmable.itertuples():
        about = f"width {row.width:g}: {row.madds / 1e6:.1f} M MAdds, {row.top1:.1f} %"
        if not low <= row.madds <= high:
            which = "less than $N_1$" if row.madds < low else "more than $N_K$"
            lines.append(f"{about}; it costs {which}, so nothing stands beside it.")
            continue
        there = float(np.interp(row.madds, rdn["madds"], rdn["top1"]))
        lines.append(
            f"{about}; the RDN has {there:.1f} % at that cost, a difference of {row.top1 - there:+.1f} points."
        )
    return lines


def length_axis(ax: Axes, table: pd.DataFrame, number: int, columns: Mapping[str, tuple[str, dict]]) -> None:
    """Columns of a length table, of one sub-network, by epochs: from 0 on, equal ratios at equal distances.

    columns: column → its name in the legend and its look.
    """
    part, lengths = table[table["subnetwork"] == number].sort_values("epochs"), sorted(set(table["epochs"]))
    for column, (label, look) in columns.items():
        curves(ax, {label: with_ends(part["epochs"], part, column)}, colors=[owner_colour(number)], **look)
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xticks=lengths, xticklabels=lengths, xlabel="epochs after the surgery")
    ax.minorticks_off()


@styled
def length_curves(table: pd.DataFrame, supernet: Estimate) -> Figure:
    """Accuracy of N_1 and N_K by length of training, for both initialisations; table of `tables.length_table`."""
    fig, axes = plt.subplots(1, 2, figsize=(5.6, 3.6), sharey=True)
    for ax, number in zip(axes, (1, table["subnetwork"].max()), strict=True):
        length_axis(ax, table, number, {init: (init, look) for init, look in INIT_LOOKS.items()})
        ax.axhline(supernet.value, **DOTTED, label="super-net")
        ax.set(title=f"$N_{number}$")
    axes[0].set(ylabel="top-1 (%)")
    looks = [{"color": INK, "label": init, **look} for init, look in INIT_LOOKS.items()]
    legend_below(fig, *looks, {**DOTTED, "label": "super-net"}, ncols=3)
    return fig


@styled
def lead_by_length(table: pd.DataFrame) -> Figure:
    """Points by which `reconstruct` leads, of N_1 and N_K by length of training."""
    fig, ax = plt.subplots(figsize=(5.6, 3.2))
    for number, marker in ((1, "o"), (table["subnetwork"].max(), "s")):
        length_axis(ax, table, number, {"gain": (f"$N_{number}$", {"marker": marker})})
    ax.axhline(0, **DOTTED)
    ax.set(ylabel="reconstruct − copy (points)")
    ax.legend()
    return fig


@styled
def repaired_bars(share: pd.DataFrame) -> Figure:
    """What training gives to `copy` and what `reconstruct` has without any; table of `tables.repaired`."""
    fig, ax = plt.subplots(figsize=(5.6, 3.2))
    numbers, colours = share["subnetwork"], [owner_colour(number) for number in share["subnetwork"]]
    ax.bar(numbers, share["trained"], color="none", edgecolor=colours, linewidth=1.5)
    ax.bar(numbers, share["given"], width=0.4, color=colours)
    ax.axhline(0, color=INK, linewidth=1)
    name_subnetworks(ax.xaxis, len(share))
    ax.set(xlabel="sub-network", ylabel="points above copy")
    frame, block = (
        {"marker": "s", "markersize": 9, "linestyle": "none", "color": INK},
        {"label": "reconstruct, without training"},
    )
    legend_below(
        fig, {**frame, "markerfacecolor": "none", "label": "copy, after the longest training"}, frame | block, ncols=1
    )
    return fig


def repaired_in_words(share: pd.DataFrame, longest: int) -> str:
    """The row of N_K, for a longest training of so many epochs."""
    last = share.iloc[-1]
    text = f"After {epochs(longest)} of training $N_K$ of `copy` has changed by {last['trained']:+.1f} points. "
    text += f"Before any training `reconstruct` is {abs(last['given']):.1f} points "
    text += "ahead of untrained `copy`" if last["given"] >= 0 else "behind untrained `copy`"
    if last["share"] > 0:
        part = f"{last['share']:.0%}" if last["share"] < 1 else "all"
        text += f", which is **{part}** of what training gives to `copy`, from regressions on some images alone"
    if np.isnan(last["epochs"]):
        return f"{text}. At none of our lengths does `reconstruct` reach the final accuracy of `copy`."
    if not last["epochs"]:
        return f"{text}. So `reconstruct` has the final accuracy of `copy` without any training."
    if last["epochs"] >= longest:
        return f"{text}. `reconstruct` reaches the final accuracy of `copy` only after as many epochs."
    return f"{text}. `reconstruct` reaches the final accuracy of `copy` after {epochs(last['epochs'])}."


def dips_in_words(table: pd.DataFrame) -> list[str]:
    """For both initialisations the sub-networks that are less accurate after the shortest training than before; of `length_table`."""
    lengths = sorted(set(table["epochs"]))
    if len(lengths) < 2:
        return []
    before, after = (table[table["epochs"] == length].set_index("subnetwork") for length in lengths[:2])
    lines = []
    for init in INIT_LOOKS:
        change = after[init] - before[init]
        lost = change[after[f"{init}_high"] < before[f"{init}_low"]]
        if lost.empty:
            lines.append(f"`{init}`: no sub-network is clearly less accurate after {epochs(lengths[1])} than before.")
            continue
        parts = ", ".join(f"$N_{number}$ by {-points:.1f} points" for number, points in lost.items())
        lines.append(f"`{init}`: after {epochs(lengths[1])} these are less accurate than before: {parts}.")
    return lines


@styled
def first_steps(accuracies: Mapping[float, np.ndarray]) -> Figure:
    """Accuracy of N_1 and N_K after a few steps from the same weights: learning rate → (K,) accuracies in per cent."""
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    places, values = np.arange(len(accuracies)), np.array(list(accuracies.values()))  # (rates, K)
    for number, name, marker in ((1, "$N_1$", "o"), (values.shape[1], "$N_K$", "s")):
        ax.plot(places, values[:, number - 1], color=owner_colour(number), marker=marker, label=name)
    ax.set(xticks=places, xticklabels=[f"{rate:g}" for rate in accuracies], xlabel="learning rate of the steps")
    ax.set(ylabel="top-1 (%)")
    legend_below(figure)
    return figure


def steps_in_words(accuracies: Mapping[float, np.ndarray]) -> str:
    """What the largest of the learning rates costs N_1 and N_K against the smallest; as `first_steps`."""
    rates = sorted(accuracies)
    lost = accuracies[rates[0]] - accuracies[rates[-1]]  # (K,)
    parts = [
        f"{name} has {abs(points):.0f} points {'less' if points > 0 else 'more'}"
        for name, points in (("$N_1$", lost[0]), ("$N_K$", lost[-1]))
    ]
    return f"At the learning rate {rates[-1]:g}, {' and '.join(parts)} than at {rates[0]:g}, after as many steps."


def _without_colour(look: Mapping) -> dict:
    return {name: value for name, value in look.items() if name != "color"}
