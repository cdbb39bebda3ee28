"""Pictures and sentences of the chapters on results: Table 1, Figure 8, and what makes a good RDN.

Accuracies are per cent, differences points; `x_low` and `x_high` are the ends of the 95 % interval of column `x`.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book.chapter import comparison, hulls, with_interval
from rdnlib.reproduction.book.style import (
    BLUE,
    CYCLE,
    DOTTED,
    INK,
    MARKERS,
    VERMILLION,
    legend_below,
    owner_colour,
    styled,
)
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import Profile


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


def plain_in_words(plain: float | Sequence[str] | None) -> str:
    """Which layers are not nested, as a profile says it."""
    if plain is None:
        return "the paper's two blocks"
    return f"the first {plain:.0%} of the MAdds" if isinstance(plain, float) else ", ".join(plain)


def folding_in_words(folded: float, unfolded: float) -> str:
    """What N_K costs, as a share of its base's MAdds, as it is executed and with heads that are not folded."""
    text = f"As it is executed, $N_K$ costs {folded:.0%} of its base's MAdds."
    if round(folded, 2) == round(unfolded, 2):
        return f"{text} Folding the heads saves nothing here."
    return (
        f"{text} With heads that are not folded it would be {unfolded:.0%}: align layers do not shrink with the image, and with few "
        "classes they are larger than what they fold into."
    )


def loss_in_words(change: Estimate) -> str:
    """What is known about a loss of accuracy, from the interval of the change in points."""
    low, high = change.hull
    if high < 0:
        return f"some accuracy is lost, at most {-low:.1f} points"
    if low > 0:
        return f"no accuracy is lost, at least {low:.1f} points are gained"
    loss = max(0.0, -low)
    return f"the change of the accuracy may be chance; the interval excludes a loss of more than {loss:.1f} points"


def duel_in_words(name: str, rival: str, gain: Estimate, cost: Estimate, *, judge: bool = True) -> str:
    """One policy against another at the same target: accuracy (points) and cost (% of N_K's MAdds), and what follows.

    The words are chosen by the intervals as they are printed. judge: whether anything may follow; not from networks at chance.
    """
    if np.isnan([*gain.hull, *cost.hull]).any():
        return f"**{name}** against {rival}: there is nothing to compare."
    worst, best, least, most = (round(end, 1) + 0.0 for end in (*gain.hull, *cost.hull))
    price = (
        "costs more"
        if least > 0
        else "costs less"
        if most < 0
        else "is neither clearly cheaper nor clearly more expensive"
    )
    text = f"**{name}** is {comparison(worst, best)} {rival}, {gain.text('+')} points, and {price}, {cost.text('+')} % of $N_K$'s MAdds"
    if not judge:
        return f"{text}."
    if (least > 0 and worst <= 0) or (best < 0 and most >= 0):
        return f"{text}: **it loses.**"
    if worst > 0 and least <= 0:
        return f"{text}: **it wins.**"
    return (
        f"{text}. It saves computation, and a loss of more than {max(0.0, -worst):.1f} points is excluded."
        if most < 0 <= best
        else f"{text}."
    )


def seeds_in_words(seeds: Mapping[str, int]) -> str:
    """At how many seeds each network was trained, and what the intervals of a single one leave out."""
    groups = {}
    for name, count in seeds.items():
        groups.setdefault(count, []).append(f"“{name}”")
    parts = [f"{count} seed{'' if count == 1 else 's'}: {', '.join(names)}" for count, names in groups.items()]
    text = "; ".join(parts) + "."
    return (
        f"{text} At one seed an interval covers the choice of validation images, not training." if 1 in groups else text
    )


def chance_in_words(reasons: Sequence[str], classes: int) -> str:
    """Which networks cannot be told from guessing; reasons: what `verdicts.near_chance` says of each."""
    level = f"chance, {100 / classes:.3g} % for {classes} classes"
    if not reasons:
        return f"Every network here is clearly above {level}."
    few = reasons if len(reasons) <= 3 else [*reasons[:2], f"and {len(reasons) - 2} more"]
    return f"**Differences of these say nothing**, they are close to {level}: {'; '.join(few)}."


def costs_in_words(ratios: Mapping[str, tuple[float, float]]) -> str:
    """MAdds and parameters relative to the base's; ratios: a network with its verb, such as "† uses", → both."""
    parts = [
        f"{name} {madds:.0%} of the MAdds and {params:.0%} of the parameters"
        for name, (madds, params) in ratios.items()
    ]
    return f"Of its base, {', '.join(parts)}." if parts else "There is nothing to compare."


@styled
def gains_at_equal_cost(test: pd.DataFrame) -> Figure:
    """Points that adapting gains instead of each sub-network; test: as of `tradeoff.equal_cost_table`."""
    fig, ax = plt.subplots(figsize=(5.6, 3.6))
    for row, ends in zip(test.itertuples(), hulls(test, "gain").itertuples(), strict=True):
        look = {"color": owner_colour(row.subnetwork), "linewidth": 1}
        ax.plot([row.subnetwork] * 2, [ends.low, ends.high], **look)
        ax.plot([row.subnetwork] * 2, [row.gain_low, row.gain_high], **look | {"linewidth": 4})
        ax.plot(row.subnetwork, row.gain, "o", color=INK)
    ax.axhline(0, **DOTTED)
    labels = [f"$N_{row.subnetwork}$\n{row.spent:.0f} %" for row in test.itertuples()]
    ax.set(xticks=test["subnetwork"], xticklabels=labels, xlabel="compared with (below: MAdds used, in % of its)")
    ax.set(ylabel="accuracy gained (points)")
    ax.margins(x=0.1)
    return fig


def gains_in_words(test: pd.DataFrame) -> str:
    """The sub-networks of `gains_at_equal_cost` by the outcome of their comparison, as a sentence."""
    if test.empty:
        return "The policy costs more than any sub-network that it could be compared with."
    verdicts = [comparison(*ends[1:]) for ends in hulls(test, "gain").itertuples()]
    groups = (r"$N_" + test["subnetwork"].astype(str) + "$").groupby(verdicts, sort=False)
    parts = (f"{verdict} {', '.join(names)}" for verdict, names in groups)
    return f"At about equal cost dynamic inference is {'; '.join(parts)}."


def reference_points_in_words(frame: pd.DataFrame, static: pd.DataFrame) -> list[str]:
    """Dynamic inference as chosen on held-out images beside two random mixes and the oracle; `figure8` and `subnetwork_table`."""
    series = frame.groupby("series")
    practice, oracle = (series.get_group(n).iloc[0] for n in ("dynamic, calibrated", "oracle (first correct exit)"))
    ends, full = static.iloc[[0, -1]], static["madds"].iloc[-1]
    coin, neighbours = (np.interp(practice["madds"], table["madds"], table["top1"]) for table in (ends, static))
    dynamic = series.get_group("dynamic")
    affordable = dynamic["top1"][dynamic["madds"] <= oracle["madds"]].tolist()
    reached = f"the policy reaches {affordable[-1]:.1f} %" if affordable else "the policy cannot be run"
    return [
        f"**Dynamic inference** uses {practice['madds'] / full:.0%} of $N_K$'s MAdds and has an accuracy of "
        f"{with_interval(*practice[['top1', 'low', 'high']])} %. Tossing a coin for each image would give {coin:.1f} % at that "
        f"cost between $N_1$ and $N_K$, and {neighbours:.1f} % between the two sub-networks whose costs are next to it.",
        f"**The oracle** has an accuracy of {oracle['top1']:.1f} % with {oracle['madds'] / full:.0%} of the MAdds. "
        f"At that cost {reached}.",
    ]


def shares_above_in_words(shares: Mapping[str, float]) -> str:
    """For each policy, `tradeoff.share_above_base_networks`."""
    if any(np.isnan(share) for share in shares.values()):
        return "This profile trains no networks of other costs beside the base, so there is no line through them."
    first, *others = (f"the {name} policy {{}}over **{share:.0%}**" for name, share in shares.items())
    parts = [first.format("is above it ") + " of the range of their costs", *(other.format("") for other in others)]
    return f"A line joins the separately trained networks. T{', '.join(parts)[1:]}."


LEVERS = {
    "plain": "plain part", "init": "initialisation", "lr": "learning rate", "largest": "share of N_K in the loss", "k": "original groups",
    "distill": "share of the loss that a teacher gives", "teacher": "teacher", "teach_largest": "the teacher teaches N_K too",
}  # fmt: skip
TEACHERS = {"largest": "$N_K$", "average": "the moving average of $N_K$", "supernet": "the super-net"}


def taught_by(recipe: Mapping) -> str:
    """Who teaches by this recipe, besides the labels."""
    teacher = recipe.get("teacher", "largest")
    some = "" if teacher == "largest" or recipe.get("teach_largest", True) else " ($N_K$ excepted)"
    return f"{TEACHERS[teacher]}{some}" if recipe.get("distill") else "nobody"


def teacher_in_words(profile: Profile) -> str:
    """Who teaches the profile's RDNs, with which share of a loss."""
    choices = own_choices(profile)
    who = taught_by(choices)
    return f"{who}, with {choices['distill']:g} of a loss; the bases have none" if choices.get("distill") else who


def narrower_in_words(table: pd.DataFrame, adapted: str) -> str:
    """How the narrower bases of Table 1, if there are any, stand to one of its dynamic rows: cost and accuracy, without intervals."""
    rows = table.set_index("model")
    narrow, own = rows[rows.index.str.startswith("base, width")], rows.loc[adapted]
    parts = []
    for name, row in narrow.iterrows():
        gap = round(row["top1"] - own["top1"], 1)
        stands = f"{abs(gap):.1f} points {'more' if gap > 0 else 'less'} accurate" if gap else "as accurate"
        parts.append(f"“{name}” has {row['madds_m'] / own['madds_m']:.0%} of the MAdds of {adapted} and is {stands}")
    if not parts:
        return "This profile trains none."
    return f"{'; '.join(parts)}. [What did we find?](20_found.ipynb) compares at one cost, with intervals."


def own_choices(profile: Profile) -> dict[str, Any]:
    """What the profile says of its main RDN, as of a variant."""
    return profile.rdn.model_dump(include={"k", "plain", "largest", "init"}) | graph.loss_weights(profile)


def changes_in_words(changes: Mapping) -> str:
    """What a profile says of a variant: "plain part: stem, blocks.0; share of N_K in the loss: 0.5"."""
    parts = []
    for key, value in changes.items():
        if isinstance(value, Mapping):
            parts.append(changes_in_words(value))
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else _setting(value)
            parts.append(f"{LEVERS.get(key, key)}: {'as in the paper' if value is None else text}")
    return "; ".join(filter(None, parts)) or "–"


def _setting(value: Any) -> str:
    """A value of a profile as readers know it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else TEACHERS.get(value, str(value))


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
    ax.axhline(base.value, label="base, trained equally long", **DOTTED)
    ax.axvline(1, **DOTTED)
    ax.set(xlabel="MAdds, relative to the base", ylabel="top-1 accuracy (%)")
    legend_below(figure)
    return figure


def verdict_on_levers(levers: pd.DataFrame) -> list[str]:
    """A sentence for each variant: how its largest and its smallest sub-network stand to the base trained equally long."""
    rows, lines = (
        levers[~levers["variant"].str.endswith("alone")].assign(**hulls(levers, "gap").add_prefix("hull_")),
        [],
    )
    for name, variant in rows.groupby("variant", sort=False):
        first, last = (
            (row, comparison(row["hull_low"], row["hull_high"])) for _, row in variant.iloc[[0, -1]].iterrows()
        )
        parts = [
            f"$N_{{{row['subnetwork']}}}$ is {verdict} the base trained equally long ({row['gap']:+z.1f} points) at {row['share']:.0%} of "
            "its MAdds"
            for row, verdict in (last, first)
        ]
        lines.append(f"**{name}**: {'; '.join(parts)}.")
    return lines
