"""The λ slider: drag the trade-off of Section 3.4 and watch accuracy, computation and exits change (Figure 8, alive).

Every position of the slider is a frame computed beforehand from the exact sweep, and the browser alone switches between
them. The same widget therefore works in JupyterLab and in the built book, which has no kernel. The curve itself is drawn
once: it lies under the frames, which hold only a dot and the numbers.
"""

import html

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book.style import BLUE, ORANGE, VERMILLION, inline, styled

SIZE = (4.6, 3.0)  # of the picture, in inches
CURVE_POINTS = 120  # more would not be visible

# The widget carries its style with it: JupyterLab does not read the book's style sheet. Colours follow light and dark.
# Picture and frames are laid out alike, so that a dot's place in a frame is that in the picture below it.
STYLE = f"""<style>
.rdn-frame{{display:flex;flex-wrap:wrap;gap:.5rem 2rem;align-items:flex-start;line-height:1.4;font-size:14px;color:inherit}}
.rdn-frame>svg,.rdn-plot{{flex:1 1 300px;min-width:0;max-width:520px;height:auto;aspect-ratio:{SIZE[0] / SIZE[1]}}}
.rdn-frame>svg,.rdn-frame>svg *{{pointer-events:none}}
.rdn-plot{{position:relative}}
.rdn-plot i{{position:absolute;z-index:1;width:14px;height:14px;margin:-8px;border:2px solid;border-radius:50%;\
background:{ORANGE}}}
.rdn-side{{flex:1 1 230px;min-width:0;max-width:520px}}
.rdn-numbers{{display:grid;grid-template-columns:1fr auto;gap:.15rem 1rem;margin:0 0 .8rem}}
.rdn-numbers b{{text-align:right;font-weight:600;font-variant-numeric:tabular-nums}}
.rdn-exits{{display:grid;grid-template-columns:auto 1fr 3.2em;gap:.2rem .6rem;align-items:center}}
.rdn-exits i{{display:block;height:.8em;background:{BLUE};border-radius:2px}}
.rdn-exits b{{font-weight:normal;text-align:right;font-variant-numeric:tabular-nums}}
</style>"""


def lambda_slider(curve: pd.DataFrame, *, subnetworks: pd.DataFrame, frames: int = 32) -> ipywidgets.VBox:
    """A slider over λ with the accuracy–MAdds curve, its numbers, and the share of images that leave at each exit.

    Args:
        curve: the exact sweep, columns `lam` (ascending), `accuracy` in [0, 1], `madds` (mean multiply-adds per image)
            and `exit_1` … `exit_K` (shares of the images).
        subnetworks: columns `madds` and `accuracy`, one row for each of N_1 … N_K: the static points drawn for
            comparison; its last row is what "of N_K" refers to.
        frames: number of positions, chosen evenly along MAdds; fewer where the curve has fewer distinct ones.
    """
    exits = [column for column in curve if str(column).startswith("exit_")]
    if missing := {"lam", "accuracy", "madds"} - set(curve):
        raise ConfigError(f"the λ curve lacks the columns {', '.join(sorted(missing))}")
    if len(exits) != len(subnetworks):
        raise ConfigError(f"the λ curve has {len(exits)} exits, but there are {len(subnetworks)} sub-networks")
    curve = curve.sort_values("lam", ignore_index=True)
    picked = curve.loc[evenly(curve["madds"].to_numpy(), frames)].reset_index(drop=True)
    largest = float(subnetworks["madds"].iloc[-1])
    unit = next(unit for unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if largest >= unit[0])
    figure = _picture(curve.loc[evenly(curve["madds"].to_numpy(), CURVE_POINTS)], subnetworks, *unit)
    picture = f'<div class="rdn-frame" aria-hidden="true">{inline(figure)}<div class="rdn-side"></div></div>'
    points = figure.axes[0].transData.transform(np.c_[picked["madds"] / unit[0], 100 * picked["accuracy"]])
    places = 100 * np.abs(points / figure.bbox.size - (0, 1))  # in %, from the left and from the top
    # one layout for all frames: a widget's state is saved in full with the page
    layout = ipywidgets.Layout(width="100%", overflow="hidden", grid_area="1 / 1", margin="0")
    pages = [
        ipywidgets.HTML(_frame(row, row[exits].to_numpy(float), place, largest, *unit), layout=layout)
        for (_, row), place in zip(picked.iterrows(), places, strict=True)
    ]
    stack = ipywidgets.Stack(pages, selected_index=0, layout=layout)
    slider = ipywidgets.SelectionSlider(
        options=[(_lam(value), index) for index, value in enumerate(picked["lam"])],
        description="λ",
        tooltip="λ: small saves computation, large buys accuracy",
        layout=ipywidgets.Layout(width="auto", max_width="1070px"),
    )
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    whole = ipywidgets.Layout(width="100%")
    layers = ipywidgets.GridBox([stack, ipywidgets.HTML(picture, layout=layout)], layout=whole)
    box = ipywidgets.VBox([ipywidgets.HTML(STYLE), slider, layers], layout=whole)
    box.add_class("rdn-slider")
    return box


def evenly(madds: np.ndarray, count: int) -> np.ndarray:
    """Ascending row numbers, at most `count`, that cover the range of `madds` as evenly as its values allow.

    `madds` may be in any order. The first and last row are always among them.
    """
    targets = np.linspace(madds.min(), madds.max(), count)
    nearest = np.abs(madds[:, None] - targets).argmin(axis=0)
    return np.unique(np.concatenate([[0], nearest[1:-1], [len(madds) - 1]]))


@styled
def _picture(curve: pd.DataFrame, subnetworks: pd.DataFrame, unit: float, prefix: str) -> Figure:
    """The curve and the static points."""
    figure, ax = plt.subplots(figsize=SIZE)
    ax.plot(subnetworks["madds"] / unit, 100 * subnetworks["accuracy"], "s", color=VERMILLION, fillstyle="none", mew=2)
    ax.plot(curve["madds"] / unit, 100 * curve["accuracy"], color=BLUE)
    ax.set(xlabel=f"MAdds per image ({prefix})", ylabel="top-1 accuracy (%)")
    return figure


def _frame(row: pd.Series, exits: np.ndarray, place: np.ndarray, largest: float, unit: float, prefix: str) -> str:
    shares = 100 * exits / exits.sum()
    accuracy, madds = f"{100 * row['accuracy']:.1f} %", f"{row['madds'] / unit:.4g} {prefix}"
    part = f"{100 * row['madds'] / largest:.0f} %"
    values = {"λ": _lam(row["lam"]), "top-1 accuracy": accuracy, "MAdds per image": madds}
    values[f"of N<sub>{len(shares)}</sub>’s MAdds"] = part
    numbers = "".join(f"<span>{name}</span><b>{value}</b>" for name, value in values.items())
    bars = "".join(
        f'<span>N<sub>{exit_}</sub></span><i style="width:{share:.1f}%"></i><b>{share:.0f} %</b>'
        for exit_, share in enumerate(shares, start=1)
    )
    label = html.escape(f"Accuracy against MAdds; here {accuracy} at {madds}, {part} of the whole network")
    dot = f'<i style="left:{place[0]:.2f}%;top:{place[1]:.2f}%"></i>'
    return (
        f'<div class="rdn-frame"><div class="rdn-plot" role="img" aria-label="{label}">{dot}</div>'
        f'<div class="rdn-side"><div class="rdn-numbers">{numbers}</div>'
        f'<div>images leaving at</div><div class="rdn-exits">{bars}</div></div></div>'
    )


def _lam(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else ("∞" if value > 0 else "−∞")
