"""Pictures and words of the chapter on time: what saved multiply-adds are worth in milliseconds."""

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from rdnlib.reproduction.book.style import BLUE, CYCLE, DOTTED, INK, MARKERS, STAR, legend_below, owner_colour, styled


@styled
def time_against_madds(table: pd.DataFrame) -> Figure:
    """Time of each sub-network against its MAdds, both as a share of the base network's; a panel for each batch size.

    table: of `bench`, a column `runtime` beside its own.
    """
    batches = sorted(table["batch"].unique())
    figure, axes = plt.subplots(1, len(batches), squeeze=False, sharey=True, figsize=(5.6, 3.4))
    for ax, batch in zip(axes[0], batches, strict=True):
        for number, runtime in enumerate(table["runtime"].unique()):
            rows = table[
                (table["runtime"] == runtime) & (table["batch"] == batch) & table["network"].str.startswith("N_")
            ]
            ax.plot(rows["madds_to_base"], rows["to_base"], color=CYCLE[number], marker=MARKERS[number], label=runtime)
        end = table["madds_to_base"].max()
        ax.plot([0, end], [0, end], label="time in proportion to MAdds", **DOTTED)
        ax.axhline(1, color=INK, linewidth=0.8)
        ax.set(xlabel="MAdds / base", title=f"batch {batch}", xlim=(0, None), ylim=(0, None))
    axes[0, 0].set_ylabel("time / base")
    legend_below(figure)
    return figure


@styled
def accuracy_against_time(subnetworks: pd.DataFrame, exits: pd.DataFrame, base: pd.Series) -> Figure:
    """The twin of Figure 8: accuracy against measured milliseconds per image.

    subnetworks and exits: columns milliseconds, top1 (per cent); base: the same of the base network.
    """
    figure, ax = plt.subplots()
    ax.plot(subnetworks["milliseconds"], subnetworks["top1"], color=INK, linewidth=1, zorder=1)
    for index, row in enumerate(subnetworks.itertuples(), start=1):
        ax.plot(
            row.milliseconds,
            row.top1,
            "o",
            color=owner_colour(index),
            label="sub-networks, each alone" if index == 1 else None,
        )
    ax.plot(exits["milliseconds"], exits["top1"], color=BLUE, marker="D", label="real exits, by λ")
    ax.plot(base["milliseconds"], base["top1"], color=INK, label="base network", **STAR)
    ax.set(xlabel="milliseconds per image", ylabel="top-1 accuracy (%)", xlim=(0, None))
    legend_below(figure)
    return figure


def layer_rates(seconds: pd.DataFrame) -> Figure:
    """Multiply-adds per second of single layers against their size; columns channels, madds, seconds, one line for each of `batch`."""
    figure, ax = plt.subplots()
    for number, (batch, rows) in enumerate(seconds.groupby("batch")):
        rate = rows["madds"] / rows["seconds"] / 1e9
        ax.plot(rows["madds"] / 1e6, rate, color=CYCLE[number], marker=MARKERS[number], label=f"batch {batch}")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="multiply-adds of the layer (millions)",
        ylabel="billion multiply-adds per second",
    )
    ax.legend()
    return figure


def sub_networks_in_words(table: pd.DataFrame) -> list[str]:
    """One sentence for each runtime and batch: how far N_1 and N_K are from time in proportion to MAdds. table: as above."""
    lines = []
    for (runtime, batch), rows in table.groupby(["runtime", "batch"], sort=False):
        alone = rows[rows["network"].str.fullmatch(r"N_\d+")]
        first, last = alone.iloc[0], alone.iloc[-1]
        lines.append(
            f"{runtime}, batch {batch}: $N_1$ has {first['madds_to_base']:.0%} of the base's multiply-adds and takes "
            f"{first['to_base']:.0%} of its time; ${last['network']}$ has {last['madds_to_base']:.0%} and takes {last['to_base']:.0%}."
        )
    return lines


def answer_in_words(timed: pd.DataFrame, exits: pd.DataFrame) -> str:
    """Whether anything is faster than the base network: real exits, and sub-networks alone; tables as above."""
    ratios, lines = exits["to_base"].dropna(), ["No exits were timed."]
    faster = int((ratios < 1).sum())
    if len(ratios):
        lead = "No." if not faster else "Yes." if faster == len(ratios) else "Sometimes."
        lines = [
            f"**{lead}** Real exits took less time than the base network in {faster} of {len(ratios)} timed settings of λ and batch: "
            f"{ratios.min():.2f} to {ratios.max():.2f} of its time."
        ]
    for (runtime, batch), rows in timed.groupby(["runtime", "batch"], sort=False):
        alone = rows[rows["network"].str.fullmatch(r"N_\d+") & (rows["to_base"] < 1)]
        found = zip(alone["network"].str[2:], alone["to_base"], strict=True)
        names = ", ".join(f"$N_{{{number}}}$ ({ratio:.2f} of its time)" for number, ratio in found)
        lines.append(f"- Alone, {runtime}, batch {batch}, faster than the base: {names or 'no sub-network'}.")
    return "\n".join([lines[0], "", *lines[1:]])


def exits_in_words(table: pd.DataFrame) -> str:
    """What real exits save at one λ. table: rows of `bench_exits` with columns `runtime` and `batch`; of no row, says so."""
    if not len(table):
        return "No exits were timed."
    lines = []
    for row in table.to_dict("records"):
        saves = 1 - row["predicted"]
        where = f"{row['runtime']}, batch {row['batch']}"
        if saves <= 0.005:
            lines.append(f"{where}: at this λ the multiply-adds say that nothing is saved, so no time can be.")
            continue
        time = 1 - row["measured"]
        kept = f"{row['realised']:.0%} of it as time" if time > 0 else "none of it as time"
        than = "" if np.isnan(row["to_base"]) else f", and takes {row['to_base']:.2f} times as long as the base network"
        lines.append(f"{where}: saves {saves:.0%} of $N_K$'s multiply-adds and realises {kept}{than}.")
    return "\n".join(f"- {line}" for line in lines)
