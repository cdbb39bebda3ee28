"""The style of the book's figures: Okabe–Ito colours, labelled axes, and SVG that is identical from run to run.

`show` puts a figure into a page as inline SVG whose text and axes take the colour of the page, so that it reads equally
well in light and dark mode; `save` writes a stand-alone file on white.
"""

import hashlib
import html
import io
import os
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rdnlib.utils.files import replacing

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, YELLOW, GREY = "#56B4E9", "#E69F00", "#F0E442", "#999999"
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE)  # Okabe–Ito, strongest on both backgrounds first
MARKERS = "osD^vP"
OWNERS = (BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE, GREY, YELLOW)  # yellow is faint on white: last
INK = "#24292f"  # text, axes and grid; `show` turns exactly this colour into the page's own
STAR = {"marker": "*", "markersize": 11, "linestyle": "none"}  # one network alone
SMALLEST = 10  # px of text on the narrowest screen: a figure whose text would be smaller scrolls
DOTTED = {"color": INK, "linestyle": ":", "linewidth": 1}  # a line to compare with

STYLE = {
    "figure.figsize": (5.6, 3.5),  # about 540 px: still legible when a phone shrinks it to 360 px
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "font.family": "sans-serif", "font.size": 11, "legend.fontsize": 10.5,
    "axes.titlesize": 11, "axes.labelsize": 11,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": INK, "grid.alpha": 0.15,
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 5.5, "errorbar.capsize": 2.5,
    "hatch.linewidth": 1.2,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and selected
    "svg.hashsalt": "rdn",
}  # fmt: skip


styled = plt.rc_context(STYLE)  # decorates a function that draws; the user's own settings stay as they are


def owner_colour(group: int) -> str:
    """Colour of the sub-network that owns a group (from 1), as in Figure 2 of the paper."""
    return OWNERS[(group - 1) % len(OWNERS)]


def on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour."""
    linear = np.array(to_rgb(colour)) ** 2.2
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.18 else "white"


def legend_below(figure: Figure, *looks: dict, ncols: int = 2, **style) -> None:
    """One legend under the figure for all of its axes; of entries with the same label the first is shown.

    looks: lines to show instead of those drawn, each as options of `Line2D`, `label` among them.
    """
    handles = {look["label"]: Line2D([], [], **look) for look in looks}
    for ax in () if looks else figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols, **style)


def svg(figure: Figure) -> str:
    """The figure as SVG text; the same figure always gives the same text."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline(figure: Figure) -> str:
    """Close the figure and return it as an SVG element for a page: in the page's colours, and as wide as it is given room."""
    plt.close(figure)
    text = svg(figure)
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # ids are unique within a figure only: prefix them, so that two figures of a page cannot mix up their clip paths
    text = re.sub(r'(?<= d=)"[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)  # to 1/100 pt
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)


def show(figure: Figure, *, alt: str, caption: str | None = None) -> HTML:
    """Close the figure and return it for display.

    alt: what it shows, for those who cannot see it. caption: HTML below the figure; the page's style puts "Figure n" before it.
    """
    picture, full = inline(figure), 96 * figure.get_figwidth()
    narrow = min(full, 72 * figure.get_figwidth() * SMALLEST / smallest_text(picture))
    style = f"width:100%;min-width:{narrow:.0f}px;max-width:{full:.0f}px;height:auto;color:inherit"
    label = f'<svg role="img" aria-label="{html.escape(alt)}" style="{style}"'
    below = "" if caption is None else f"<figcaption>{caption}</figcaption>"
    box = f'<div class="rdn-scroll">{picture.replace("<svg", label, 1)}</div>'
    return HTML(f'<figure class="rdn-figure">{box}{below}</figure>')


def smallest_text(picture: str) -> float:
    """Size of the smallest text of an SVG, in its own units; of a formula that of its letters, not of its indices."""
    size = re.compile(r"\bfont(?:-size)?:[^;\"]*?([\d.]+)px")
    texts = [[float(found) for found in size.findall(text)] for text in re.findall(r"(?s)<text\b.*?</text>", picture)]
    return min((max(sizes) for sizes in texts if sizes), default=STYLE["font.size"])


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write the figure as a file that stands alone, on white, atomically; the format follows the suffix."""
    suffix = Path(path).suffix.lstrip(".")
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else None
    with replacing(path) as temporary, plt.rc_context(STYLE):
        figure.savefig(temporary, format=suffix, facecolor="white", metadata=metadata, dpi=150)
