"""What the landing page shows of a run: one sentence of result, and a picture in which images move to their exits.

Both are HTML fragments that the chapter "Why" computes (`chapter.write_fragment`).
"""

import html
from collections.abc import Sequence

import numpy as np

from rdnlib.calibration.families import Outcome
from rdnlib.data.datasets import ImageSet
from rdnlib.reproduction.analysis import worth
from rdnlib.reproduction.analysis.claims import COMPARABLE, printed
from rdnlib.reproduction.analysis.outcomes import Dynamic
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence, accuracy
from rdnlib.reproduction.analysis.worth import Comparison
from rdnlib.reproduction.book.style import GREEN, VERMILLION, owner_colour
from rdnlib.reproduction.book.thumbnails import thumbnail


def at_the_base(evidence: Evidence) -> tuple[Comparison, Estimate]:
    """Dynamic inference, λ chosen for the accuracy of the base trained equally long, against that base; and its accuracy (%).

    Of the profile's main RDN with the paper's policy.
    """
    pair = ("dynamic at the base", "longer")
    return worth.chosen(evidence, [pair])[pair], accuracy(evidence.together("base-longer")[0], 1)


def result_in_words(found: Comparison, base: Estimate) -> str:
    """Cost, accuracy and a verdict that the numbers decide, as HTML, and how many seeds they rest on.

    found: dynamic inference against the base; base: accuracy of the base (%).
    """
    if found.verdict == worth.NOTHING:
        reason = html.escape("; ".join(found.obstacles)) or "there is nothing to compare"
        return f"In this run nothing can be said about accuracy and cost: {reason}."
    low, high, cheapest, dearest = found.ends
    points = f"{abs(found.gain.value):.1f} points"
    around = f"95 % interval {low:+z.1f} to {high:+z.1f}"
    if low > 0:
        gained = f"is {points} more accurate ({around})"
    elif high < 0:
        gained = f"is {points} less accurate ({around})"
    else:
        gained = "is as accurate" if low >= -COMPARABLE else "cannot be told apart from it in accuracy"
        gained += f": {found.gain.value:+z.1f} points ({around})"
    share = f"{100 + found.cost.value:.0f} % of the multiply-adds</b>"
    share += f" ({100 + cheapest:.0f} to {100 + dearest:.0f} %)" if cheapest < dearest else ""
    better = {True: "The RDN is the better choice", False: "The base network is the better choice"}
    if high < 0:
        verdict = "Accuracy is given up for computation" if dearest < 0 else better[False]
    elif dearest < 0:
        verdict = better[True] if low >= -COMPARABLE else "The RDN saves computation, but may lose accuracy"
    elif cheapest > 0:
        verdict = "Accuracy is gained for more computation" if low > 0 else better[False]
    else:
        verdict = better[True] if low > 0 else "Neither is clearly the better choice"
    seeds = f"{found.gain.seeds} seed{'' if found.gain.seeds == 1 else 's'}"
    caution = ": an illustration, not a test" if found.illustrates else ""
    where = " at any seed" if found.missed == found.gain.seeds else f" at {found.missed} of {seeds}"
    where = where if found.gain.seeds > 1 else ""
    missed = ""
    if found.missed:
        missed = f" On the held-out images no λ reaches the base’s accuracy{where}; the most accurate λ stands for it."
    return (
        f"In this run ({seeds}{caution}), dynamic inference uses <b>{share} of the base "
        f"network that was trained equally long (accuracy {base.value:.1f} %), and {gained}.{missed} <b>{verdict}.</b>"
    )


def paper_in_words() -> str:
    """What the paper prints of the same comparison (Table 1): dynamic inference against its base networks, on ImageNet."""
    table = printed(1).set_index("model")
    bases = [name for name in table.index if not name.startswith("RDN")]
    base, adapted = table.loc[bases], table.loc[[f"RDN-{name}†" for name in bases]]
    share = 100 * adapted["madds_m"].to_numpy() / base["madds_m"].to_numpy()
    gain = adapted["top1"].to_numpy() - base["top1"].to_numpy()
    return (
        f"The paper, which does not fold its heads, reports {share.min():.0f} to {share.max():.0f} % of the base networks’ multiply-adds on ImageNet, and accuracies "
        f"{gain.min():+.2f} to {gain.max():+.2f} points from theirs."
    )


def representative(exits: np.ndarray, count: int) -> np.ndarray:
    """Ascending rows of `count` images, or of all if there are fewer, of which every exit has its share; of each exit the first.

    exits: (N,). Shares are rounded by largest remainder.
    """
    values, numbers = np.unique(exits, return_counts=True)
    quota = min(count, len(exits)) * numbers / max(1, len(exits))
    chosen = np.floor(quota).astype(int)
    missing = round(quota.sum()) - chosen.sum()
    chosen[np.argsort(chosen - quota, kind="stable")[:missing]] += 1
    rows = [np.flatnonzero(exits == value)[:number] for value, number in zip(values, chosen, strict=True)]
    return np.sort(np.concatenate(rows)) if rows else np.empty(0, int)


def exits_picture(images: ImageSet, samples: Dynamic, outcome: Outcome, *, count: int = 24) -> str:
    """The `moving_picture` of some of the images of a split: where a calibrated policy lets them leave.

    samples: the policy's on that split; outcome: what the calibrated member does with it.
    """
    exits = samples.exits(outcome.parameter)
    shares = np.bincount(exits, minlength=len(samples.saved)) / len(exits)
    rows, order = representative(exits, count), np.argsort(images.ids)
    places = order[np.searchsorted(images.ids, samples.ids[rows], sorter=order)]
    used = f"{outcome.madds.mean() / samples.madds[-1]:.0%} of the multiply-adds that they would need at "
    accuracies = f"accuracy {outcome.accuracy:.1%} instead of {samples.correct[:, -1].mean():.1%}"
    busiest = f"most leave at N {shares.argmax() + 1} ({shares.max():.0%})"
    caption = (
        f"{len(rows)} of {len(exits)} validation images, and the share of all that leaves at each sub-network. All {len(exits)} together use "
        f"{used}N<sub>{len(shares)}</sub>; {accuracies}. Solid frames: right answers; dashed: wrong."
    )
    alt = f"Images enter the smallest of {len(shares)} nested networks and leave at different ones: {busiest}."
    return moving_picture(
        images.take(places).images, exits[rows], outcome.correct[rows], shares, alt=alt, caption=caption
    )


WIDTH, LEFT, LANE, TRAY, SIZE, PITCH = (
    640,
    44,
    56,
    160,
    24,
    26,
)  # of the picture, in its own units; a tray lies below its exit
STEP, FLIGHT = (
    0.11,
    1.9,
)  # seconds: from one image to the next, and of each; all together below five, after which pages must be at rest
FRAMES = "0%{transform:translate(var(--x),var(--y));opacity:0}10%{opacity:1}70%{transform:translate(0,var(--y))}100%{transform:none}"
STYLE = f"""<style>
.rdn-exits svg{{display:block;width:100%;height:auto}}
.rdn-exits label{{display:inline-flex;align-items:center;gap:.4rem;min-height:28px;cursor:pointer}}
.rdn-exits input{{width:20px;height:20px}}
@media (prefers-reduced-motion:reduce){{.rdn-exits label{{display:none}}}}
@media (prefers-reduced-motion:no-preference){{
.rdn-exits g.image{{animation:rdn-leave {FLIGHT}s ease-in-out both;animation-delay:calc(var(--step)*var(--n))}}
.rdn-exits:has(input:checked) g.image{{animation-name:rdn-leave-again}}}}
@media print{{.rdn-exits g.image{{animation:none!important}}.rdn-exits label{{display:none}}}}
@keyframes rdn-leave{{{FRAMES}}}
@keyframes rdn-leave-again{{{FRAMES}}}
</style>"""


def moving_picture(
    images: np.ndarray, exits: np.ndarray, right: np.ndarray, shares: Sequence[float], *, alt: str, caption: str = ""
) -> str:
    """HTML of a picture in which images enter N_1 and leave where the policy says; at rest every image lies below its exit.

    images: uint8 (M, 3, S, S); exits: (M,) from 0; right: (M,) bool, whether the answer there is right; shares: (K,) of all images
    that leave at N_1 … N_K. alt: what it shows, for those who cannot see it. It needs no script, moves for less than five seconds, and
    is still where the reader prefers less motion.
    """
    count = len(shares)
    column = (WIDTH - LEFT) / count
    across = max(1, int(column // PITCH))
    taken, parts, rows = np.zeros(count, int), [], 0
    for number, (image, leaves, good) in enumerate(zip(images, exits, right, strict=True)):
        row, place = divmod(int(taken[leaves]), across)
        taken[leaves], rows = taken[leaves] + 1, max(rows, row + 1)
        x, y = LEFT + leaves * column + 2 + place * PITCH, TRAY + row * PITCH
        edge = f'stroke="{GREEN}"' if good else f'stroke="{VERMILLION}" stroke-dasharray="5 3"'
        parts.append(
            f'<g class="image" style="--n:{number};--x:{2 - x:.0f}px;--y:{LANE - SIZE / 2 - y:.0f}px">'
            f'<image href="{thumbnail(image)}" x="{x:.0f}" y="{y}" width="{SIZE}" height="{SIZE}"/>'
            f'<rect x="{x:.0f}" y="{y}" width="{SIZE}" height="{SIZE}" fill="none" stroke-width="2" {edge}/></g>'
        )
    height = TRAY + max(1, rows) * PITCH + 4
    step = min(STEP, (4.9 - FLIGHT) / max(1, len(images)))
    svg = f'<svg viewBox="0 0 {WIDTH} {height}" style="--step:{step:.3f}s" role="img" aria-label="{html.escape(alt)}">'
    return (
        f'<figure class="rdn-figure rdn-exits">{STYLE}{svg}'
        f"{_networks(count, column, shares)}{''.join(parts)}</svg>"
        f'<label><input type="checkbox">Play again</label><figcaption>{caption}</figcaption></figure>'
    )


def _networks(count: int, column: float, shares: Sequence[float]) -> str:
    """The nested boxes with an arrow into them, the names of the exits, and the shares of the images that leave."""
    inset, boxes, texts = 34 / count, [], []
    for index in reversed(range(count)):
        space, colour = inset * index, owner_colour(index + 1)
        x, y, w = LEFT - space / 2, 36 - space, (index + 1) * column + space / 2 - 3
        look = f'stroke="{colour}" stroke-width="2.5" fill="{colour}" fill-opacity=".1"'
        boxes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{40 + 2 * space:.1f}" rx="9" {look}/>')
    for index, share in enumerate(shares):
        x = LEFT + (index + 0.5) * column - 2
        name = f'<tspan font-style="italic">N</tspan><tspan font-size="14" dy="4">{index + 1}</tspan>'
        texts.append(f'<text x="{x:.1f}" y="{LANE + 6}">{name}</text><text x="{x:.1f}" y="144">{share:.0%}</text>')
    arrow = f'<path d="M4 {LANE}h{LEFT - 16}m-8-6 8 6-8 6" stroke="currentColor" stroke-width="2" fill="none"/>'
    return f'{"".join(boxes)}{arrow}<g fill="currentColor" font-size="19" text-anchor="middle">{"".join(texts)}</g>'
