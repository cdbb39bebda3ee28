"""RDN and its rivals in one picture: which weights are stored, and which run for an easy image and for a hard one.

Every network is a table of blocks: rows are groups of channels, columns are layers.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from rdnlib.reproduction.book.style import BLUE, INK, ORANGE, SKY, VERMILLION, styled

IDLE, RUN, NEW, AGAIN, LOST, NONE = ".", "#", "+", "x", "-", " "
LOOKS = {  # of a block → label and look
    RUN: ("runs first", {"facecolor": BLUE}),
    NEW: ("runs in addition", {"facecolor": SKY}),
    AGAIN: ("runs a second time", {"facecolor": VERMILLION, "hatch": "////", "edgecolor": "white"}),
    LOST: ("ran, is thrown away", {"facecolor": ORANGE, "hatch": "xxxx", "edgecolor": "white"}),
    IDLE: ("stored, does not run", {"facecolor": "none", "edgecolor": INK}),
}
# name → the blocks for an easy image, and for a hard one, which goes on
RIVALS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "cascade of\nseparate networks": (
        ("######", "      ", "......", "......", "......"),
        ("------", "      ", "++++++", "++++++", "++++++"),
    ),
    "early exits": (
        ("###...", "###...", "###...", "###..."),
        ("###+++", "###+++", "###+++", "###+++"),
    ),
    "slimmable\nnetwork": (
        ("######", "######", "......", "......"),
        ("xxxxxx", "xxxxxx", "++++++", "++++++"),
    ),
    "once-for-all": (
        ("####..", "####..", "####..", "......"),
        ("####..", "####..", "####..", "......"),
    ),
    "layers skipped\nby a controller": (
        ("##..##", "##..##", "##..##", "##..##"),
        ("######", "######", "######", "######"),
    ),
    "Russian Doll\nNetwork": (
        ("######", "......", "......", "......"),
        ("######", "++++++", "++++++", "......"),
    ),
}


@styled
def rivals_figure(rivals: Mapping[str, tuple[Sequence[str], Sequence[str]]] = RIVALS) -> Figure:
    """A row for each rival: its name, and its blocks for an easy image and for a hard one; see `RIVALS`."""
    figure, axes = plt.subplots(
        len(rivals), 3, figsize=(5.0, 1.05 * len(rivals) + 1.2), squeeze=False, width_ratios=(1.1, 1, 1)
    )
    for (label, *places), (name, pictures) in zip(axes, rivals.items(), strict=True):
        label.text(0, 0.5, name, va="center", fontsize=12, transform=label.transAxes)
        for ax, rows in zip(places, pictures, strict=True):
            _draw(ax, rows)
    for ax, title in zip(axes[0, 1:], ("an easy image", "a hard image"), strict=True):
        ax.set_title(title, fontsize=12)
    for ax in axes.flat:
        ax.axis("off")
    handles = [Patch(label=label, **{"edgecolor": INK, **look}) for label, look in LOOKS.values()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=11)
    return figure


def _draw(ax: Axes, rows: Sequence[str]) -> None:
    for look, (_, style) in LOOKS.items():  # all blocks of a look are one shape
        corners = [(x, -y) for y, row in enumerate(rows) for x, block in enumerate(row) if block == look]
        if corners:
            blocks = [
                Path([(x, y), (x + 0.82, y), (x + 0.82, y + 0.78), (x, y + 0.78), (x, y)], closed=True)
                for x, y in corners
            ]
            ax.add_patch(PathPatch(Path.make_compound_path(*blocks), **{"edgecolor": INK, "linewidth": 0.8, **style}))
    ax.set(xlim=(-0.2, len(rows[0])), ylim=(-4.2, 1), aspect="equal")
