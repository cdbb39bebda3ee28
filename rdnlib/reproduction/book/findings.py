"""What was found, in words and in one picture: the sentences say what `analysis.worth` counts, no more.

Words are chosen by the numbers as they are printed, so a reader can check each sentence against its own brackets.
"""

import re
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.verdicts import ENOUGH_SEEDS
from rdnlib.reproduction.analysis.worth import DOES_NOT, NOTHING, OPEN, PAYS, TRADE, Comparison
from rdnlib.reproduction.book.chapter import comparison, hulls, with_interval
from rdnlib.reproduction.book.style import (
    BLUE,
    DOTTED,
    GREEN,
    INK,
    PURPLE,
    VERMILLION,
    legend_below,
    owner_colour,
    styled,
)

Found = Mapping[tuple[str, str], Comparison]
NAMES = {
    "N_K": "$N_K$", "base": "its base", "longer": "the base trained equally long", "single": "one sub-network, chosen for the base’s accuracy,",
    "dynamic at the base": "dynamic inference at the base’s accuracy", "dynamic": "dynamic inference",
    "mix": "the best mix of two sub-networks at its cost", "sequential": "sequential inference",
    "narrower": "what separately trained, narrower networks reach at its cost",
}  # fmt: skip
USES = {  # what somebody may want of an RDN: the rows that decide whether it pays
    ("single", "longer"): "one network serves all images, and the base’s accuracy is wanted",
    ("dynamic at the base", "longer"): "every image may leave at its own exit, and the base’s accuracy is wanted",
    ("dynamic", "N_K"): "the RDN is there, and $N_K$’s accuracy is wanted for less",
    ("dynamic", "mix"): "the RDN is there, and the choice is between adapting and a mix of two sub-networks at that cost",
    ("dynamic", "narrower"): "one budget is given, and the choice is between dynamic inference and narrower networks trained for it",
    ("sequential", "narrower"): "one budget is given, and the choice is between sequential inference and narrower networks trained for it",
}  # fmt: skip
LEADS = {
    PAYS: "**It pays** if", DOES_NOT: "**It does not pay** if", TRADE: "**It is a trade** if", OPEN: "**Whether it pays is open** if",
    NOTHING: "**Nothing can be said** if",
}  # fmt: skip


def name_in_words(name: str) -> str:
    """A name of `worth.comparisons` in a sentence: "N_3 alone" is "$N_3$ alone"."""
    number, space, rest = name.partition(" ")
    return NAMES.get(name) or f"${number}$" + (f" trained {rest}" if space else "")


def cost_in_words(cost: Estimate) -> str:
    """What is known about the cost, by the intervals as they are printed; both NaN-free."""
    low, high = (round(end, 1) for end in cost.hull)
    if low == high == 0:
        return "needs exactly as many MAdds"
    number = f"{cost.value:+z.1f}" if cost.low == cost.high else cost.text("+")
    if low <= 0 <= high:
        return f"which of the two costs less is open, {number} % MAdds"
    return f"needs {'fewer' if high < 0 else 'more'} MAdds, {number} %"


def in_words(what: str, rival: str, found: Comparison) -> str:
    """One comparison in one sentence: accuracy, cost, and how far it can be trusted."""
    name, other = (name_in_words(each) for each in (what, rival))
    if found.verdict == NOTHING:
        return f"**{name}** against {other}: the numbers say nothing, {_why(found)}."
    low, high = found.ends[:2]
    text = f"**{name}** is {comparison(low, high)} {other}, {found.gain.text('+')} points, and {cost_in_words(found.cost)}."
    return text + _missed(found) + _caution(found)


def use_in_words(use: str, found: Comparison) -> str:
    """Whether an RDN pays for one of `USES`, and why."""
    lead = f"{LEADS[found.verdict]} {use}"
    if found.verdict == NOTHING:
        return f"{lead}: {_why(found)}."
    low, high, cheapest, dearest = found.ends
    accuracy = (
        "accuracy is gained" if low > 0 else "accuracy is lost" if high < 0 else "the accuracies cannot be told apart"
    )
    cost = "MAdds are saved" if dearest < 0 else "MAdds are added" if cheapest > 0 else "which costs less is open"
    if cheapest == dearest == 0:
        cost = "the cost is the same"
    reason, loss = (
        f"{accuracy}, and {cost}",
        f"a loss of accuracy of {'more than' if found.verdict == PAYS else 'up to'} {max(0.0, -low):.1f} points",
    )
    if found.verdict == PAYS and low <= 0:
        reason = f"{cost}, and {loss} is excluded"
    elif found.verdict == OPEN:
        reason = f"{cost}, and {loss} is not excluded"
    return f"{lead}: {reason}.{_caution(found)}"


def uses_in_words(found: Found) -> list[str]:
    """`use_in_words` of every use that was compared; those that pay come first."""
    uses = {pair: use for pair, use in USES.items() if pair in found}
    for pair in found:
        if pair[1] == f"{pair[0]} alone":
            uses[pair] = (
                f"one set of weights has to serve several budgets, ${pair[0]}$’s among them (against ${pair[0]}$ trained alone)"
            )
    order = list(LEADS)
    return [
        use_in_words(uses[pair], found[pair])
        for pair in sorted(uses, key=lambda pair: order.index(found[pair].verdict))
    ]


def headline(found: Found) -> str:
    """One sentence: for how many of the uses an RDN pays."""
    pairs = [pair for pair in found if pair in USES or pair[1] == f"{pair[0]} alone"]
    if not pairs:
        return "No use of an RDN was compared."
    counts = {verdict: sum(found[pair].verdict == verdict for pair in pairs) for verdict in LEADS}
    fewest = min((found[pair] for pair in pairs), key=lambda each: each.gain.seeds)
    caution = f" Fewer than {ENOUGH_SEEDS} seeds illustrate; they do not test." if fewest.illustrates else ""
    if counts[OPEN] == len(pairs) > 1:
        return (
            f"For none of the {len(pairs)} uses that we compared do the intervals decide whether an RDN pays.{caution}"
        )
    says = {
        PAYS: "pays in",
        DOES_NOT: "does not pay in",
        TRADE: "is a trade in",
        OPEN: "is undecided in",
        NOTHING: "cannot be judged in",
    }
    parts = [f"{says[verdict]} {count}" for verdict, count in counts.items() if count]
    return f"Of {len(pairs)} use{'s' * (len(pairs) > 1)} of an RDN that we compared, it {', '.join(parts)}.{caution}"


def levers_in_words(levers: Mapping[str, Mapping[str, Comparison]]) -> list[str]:
    """What each of `worth.levers` brings; the cost only where it differs."""
    lines = []
    for name, both in levers.items():
        parts = []
        for label, each in both.items():
            if each.verdict == NOTHING:
                parts.append(f"${label}$ says nothing, {_why(each)}")
                continue
            low, high = each.ends[:2]
            word = "gains" if low > 0 else "loses" if high < 0 else "does not change clearly"
            cost = "" if each.ends[2:] == (0, 0) else f", and {cost_in_words(each.cost)}"
            parts.append(f"${label}$ {word}, {each.gain.text('+')} points{cost}")
        lines.append(f"**{_typeset(name)}**: {'; '.join(parts)}.{_caution(next(iter(both.values())))}")
    return lines


def what_mattered(levers: Mapping[str, Mapping[str, Comparison]]) -> str:
    """For N_1 and N_K the lever with the largest effect, among those whose interval does not contain zero."""
    lines = []
    for label in ("N_1", "N_K"):
        clear = {
            name: both[label]
            for name, both in levers.items()
            if label in both and both[label].verdict != NOTHING and not both[label].ends[0] <= 0 <= both[label].ends[1]
        }
        if not clear:
            lines.append(f"No choice has a clear effect on ${label}$.")
            continue
        name = max(clear, key=lambda each: abs(clear[each].gain.value))
        lines.append(
            f"For ${label}$ it was **{_typeset(name)}** that mattered most, {clear[name].gain.text('+')} points.{_caution(clear[name])}"
        )
    return " ".join(lines)


def budgets_in_words(table: pd.DataFrame) -> str:
    """What one set of weights offers: `worth.against_the_base`."""
    own = table[table["name"] != "base"]
    first, last = own.iloc[0], own.iloc[-1]
    return (
        f"One set of weights offers {len(own)} costs, from {first['share']:.0%} to {last['share']:.0%} of the base’s MAdds, with accuracies "
        f"from {own['top1'].min():.1f} % to {own['top1'].max():.1f} %. It has {last['params']:.1f} times the base’s parameters; its "
        f"{len(own)} sub-networks stored one by one would have {own['params'].sum():.1f} times as many as the base."
    )


def paper_in_words(paper: pd.DataFrame) -> list[str]:
    """The paper's claim, from its Table 1 as printed (columns model, top1, madds_m)."""
    rows = paper.set_index("model")
    bases = [name for name in rows.index if not name.startswith("RDN")]
    parts = [
        rows.loc[[f"{before}{name}{after}" for name in bases]]
        for before, after in (("", ""), ("RDN-", ""), ("RDN-", "†"))
    ]
    (base, nested, adapted), (b, n, a) = ([part[key].to_numpy(float) for part in parts] for key in ("top1", "madds_m"))

    def over(values: np.ndarray, unit: str, digits: int = 0) -> str:
        texts = list(dict.fromkeys(f"{end:+z.{digits}f}" for end in (values.min(), values.max())))
        return f"{' to '.join(texts)} {unit}"

    return [
        f"$N_K$ against its base: {over(nested - base, 'points', 2)} of top-1 at {over(100 * (n / b - 1), '%')} MAdds.",
        f"Dynamic inference (†) against $N_K$: {over(adapted - nested, 'points', 2)} at {over(100 * (a / n - 1), '%')} MAdds; "
        f"against the base: {over(adapted - base, 'points', 2)} at {over(100 * (a / b - 1), '%')}.",
    ]


def table(found: Found) -> pd.DataFrame:
    """A row for each comparison: what, against, gain and cost with their intervals, seeds, verdict."""
    return pd.DataFrame([{"what": a, "against": b, **each.columns()} for (a, b), each in found.items()])


def shown(rows: pd.DataFrame) -> pd.DataFrame:
    """`table` for display, the verdict first; in brackets both intervals together, none where a number is exact."""

    def number(column: str) -> list[str]:
        ends = zip(rows[column], *hulls(rows, column).to_numpy().T, strict=True)
        return [
            f"{value:+z.1f}" if low == high else with_interval(value, low, high, signed=True)
            for value, low, high in ends
        ]

    both = (rows["what"] + "<br>against " + rows["against"]).str.replace("longer", "base, longer")
    both = both.str.replace(r"N_(\w)", r"N<sub>\1</sub>", regex=True)
    return pd.DataFrame(
        {"verdict": rows["verdict"], "what": both, "points": number("gain"), "MAdds (%)": number("cost")}
    )


@styled
def picture(networks: pd.DataFrame, found: Found) -> Figure:
    """Accuracy against cost, both relative to the base trained equally long; networks: `worth.against_the_base`.

    Upper left of the cross an RDN is cheaper and more accurate than the base. Thick: interval over the images; thin: over the seeds.
    """
    fig, ax = plt.subplots(figsize=(5.6, 4.6))
    for row in networks.itertuples():
        gap = Estimate(row.gap, row.gap_low, row.gap_high, 1, row.gap_seeds_low, row.gap_seeds_high)
        if row.name == "base":
            _point(ax, row.share, gap, color=INK, marker="X", label="base, before more epochs")
            continue
        _point(ax, row.share, gap, color=owner_colour(int(row.name[2:])), marker="o")
        ax.annotate(f"${row.name}$", (row.share, row.gap), xytext=(6, -11), textcoords="offset points")
    for name, (label, colour, marker) in {
        "dynamic": ("dynamic, for $N_K$’s accuracy", VERMILLION, "D"),
        "dynamic at the base": ("dynamic, for the base’s accuracy", BLUE, "P"),
        "sequential": ("sequential, for $N_K$’s accuracy", PURPLE, "v"),
    }.items():
        each = found.get((name, "longer"))
        if each is not None:
            _point(ax, 1 + each.cost.value / 100, each.gain, color=colour, marker=marker, label=label)
    ax.plot(1, 0, color=INK, marker="*", markersize=13, linestyle="none", label="base, trained equally long")
    ax.axhline(0, **DOTTED)
    ax.axvline(1, **DOTTED)
    left, top, bottom = (
        min(ax.get_xlim()[0], 0.9),
        max(1.0, networks["gap_high"].max()),
        min(-1.0, networks["gap"].min()),
    )
    bottom, top = bottom - 0.15 * (top - bottom), top + 0.1 * (top - bottom)  # bars over few seeds may end outside
    ax.fill_between([left, 1], 0, top, color=GREEN, alpha=0.15, linewidth=0, label="pays: cheaper, more accurate")
    ax.set(xlim=(left, None), ylim=(bottom, top))
    ax.set(xlabel="MAdds, relative to the base", ylabel="accuracy above the base’s,\ntrained equally long (points)")
    legend_below(fig, ncols=2)
    return fig


def _point(ax: Axes, x: float, gap: Estimate, *, label: str | None = None, **look) -> None:
    """A value with its interval over the images (thick) and over the seeds (thin)."""
    ax.plot([x, x], [gap.low, gap.high], color=look["color"], linewidth=3.5, alpha=0.6, solid_capstyle="butt")
    ax.plot([x, x], [gap.seeds_low, gap.seeds_high], color=look["color"], linewidth=1)
    ax.plot(x, gap.value, linestyle="none", markersize=8, label=label, **look)


def alt_text(found: Found) -> str:
    """The finding of `picture`."""
    each = found.get(("dynamic at the base", "longer"))
    if each is None or each.verdict == NOTHING:
        return "Accuracy against cost, relative to the base trained equally long; nothing can be said about dynamic inference."
    low, high, cheapest, dearest = each.ends
    known = "it needs fewer MAdds" if dearest < 0 else "it needs more MAdds"
    cost = "which needs fewer MAdds is open" if cheapest <= 0 <= dearest else known
    return f"Dynamic inference is {comparison(low, high)} the base trained equally long, and {cost}."


def _typeset(name: str) -> str:
    return name.replace("N_K", "$N_K$").replace("reconstruct instead of copy", "`reconstruct` instead of `copy`")


def _why(found: Comparison) -> str:
    return re.sub(r"N_(\w)", r"$N_\1$", "; ".join(found.obstacles)) or "there is nothing to compare"


def _missed(found: Comparison) -> str:
    if not found.missed:
        return ""
    where = f" at {found.missed} of {found.gain.seeds} seeds" if found.gain.seeds > 1 else ""
    return f" On the held-out images the accuracy aimed at was out of reach{where}; the most accurate choice stands for it."


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _caution(found: Comparison) -> str:
    return f" ({_seeds(found.gain.seeds)} only.)" if found.illustrates and found.verdict != NOTHING else ""
