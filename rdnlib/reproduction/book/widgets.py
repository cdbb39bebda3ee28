"""The λ slider: drag the trade-off of Section 3.4 and watch accuracy, computation and exits change (Figure 8, alive).

Every position of the slider is a frame computed beforehand from the exact sweep, and the browser alone switches between
them. The same widget therefore works in JupyterLab and in the built book, which has no kernel.
"""

import html

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from rdnlib.errors import ConfigError

WIDTH, HEIGHT = 420, 270  # of the curve's drawing, in SVG units; text is 13 units high
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44  # margins around the plotted area
CURVE_POINTS = 120  # more would not be visible

# The widget carries its style with it: JupyterLab does not read the book's style sheet. Colours follow light and dark.
STYLE = """<style>
.rdn-frame{display:flex;flex-wrap:wrap;gap:.5rem 2rem;line-height:1.4;font-size:14px;color:inherit}
.rdn-frame>svg{flex:1 1 300px;min-width:0;max-width:520px;height:auto;color:inherit}
.rdn-frame svg text{fill:currentColor;font-size:13px}
.rdn-side{flex:1 1 230px;min-width:0;max-width:520px}
.rdn-numbers{display:grid;grid-template-columns:1fr auto;gap:.15rem 1rem;margin:0 0 .8rem}
.rdn-numbers b{text-align:right;font-weight:600;font-variant-numeric:tabular-nums}
.rdn-exits{display:grid;grid-template-columns:auto 1fr 3.2em;gap:.2rem .6rem;align-items:center}
.rdn-exits i{display:block;height:.8em;background:#0072B2;border-radius:2px}
.rdn-exits b{font-weight:normal;text-align:right;font-variant-numeric:tabular-nums}
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
    drawing = _Drawing(curve, subnetworks)
    # one layout for all frames: a widget's state is saved in full with the page
    layout = ipywidgets.Layout(width="100%", overflow="hidden")
    pages = [
        ipywidgets.HTML(_frame(row, drawing, [row[name] for name in exits]), layout=layout)
        for _, row in picked.iterrows()
    ]
    stack = ipywidgets.Stack(pages, selected_index=0, layout=layout)
    slider = ipywidgets.SelectionSlider(
        options=[(_lam(value), index) for index, value in enumerate(picked["lam"])],
        description="λ",
        tooltip="λ: small saves computation, large buys accuracy",
        continuous_update=True,
        layout=ipywidgets.Layout(width="auto", max_width="1070px"),
    )
    ipywidgets.jslink((slider, "index"), (stack, "selected_index"))
    box = ipywidgets.VBox([ipywidgets.HTML(STYLE), slider, stack], layout=ipywidgets.Layout(width="100%"))
    box.add_class("rdn-slider")
    return box


def evenly(madds: np.ndarray, count: int) -> np.ndarray:
    """Ascending row numbers, at most `count`, that cover the range of `madds` as evenly as its values allow.

    `madds` may be in any order. The first and last row are always among them.
    """
    targets = np.linspace(madds.min(), madds.max(), count)
    nearest = np.abs(madds[:, None] - targets).argmin(axis=0)
    return np.unique(np.concatenate([[0], nearest[1:-1], [len(madds) - 1]]))


class _Drawing:
    """The curve and the static points, drawn once; a frame adds only its own dot."""

    def __init__(self, curve: pd.DataFrame, subnetworks: pd.DataFrame):
        madds = np.concatenate([curve["madds"], subnetworks["madds"]])
        accuracy = np.concatenate([curve["accuracy"], subnetworks["accuracy"]])
        self.largest = float(subnetworks["madds"].iloc[-1])
        self.unit, self.unit_name = next(
            (unit, name) for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if self.largest >= unit
        )
        self.x, self.y = (
            _ticks(madds.min() / self.unit, madds.max() / self.unit),
            _ticks(accuracy.min() * 100, accuracy.max() * 100),
        )
        line = curve.loc[evenly(curve["madds"].to_numpy(), CURVE_POINTS)]
        path = " ".join(self.at(*point) for point in zip(line["madds"], line["accuracy"], strict=True))
        static = [self.at(*p).split(",") for p in zip(subnetworks["madds"], subnetworks["accuracy"], strict=True)]
        self.parts = [
            *self._axes(),
            *(
                f'<rect x="{float(x) - 3.5:.1f}" y="{float(y) - 3.5:.1f}" width="7" height="7" fill="none" '
                f'stroke="#D55E00" stroke-width="2"/>'
                for x, y in static
            ),
            f'<polyline points="{path}" fill="none" stroke="#0072B2" stroke-width="2"/>',
        ]

    def at(self, madds: float, accuracy: float) -> str:
        x0, x1, y0, y1 = self.x[0], self.x[-1], self.y[0], self.y[-1]
        x = LEFT + (madds / self.unit - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        y = TOP + (y1 - 100 * accuracy) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f},{y:.1f}"

    def _axes(self) -> list[str]:
        parts, bottom, right = [], HEIGHT - BOTTOM, WIDTH - RIGHT
        for value in self.y:
            y = self.at(0, value / 100).split(",")[1]
            grid = f'<path d="M{LEFT} {y}H{right}" stroke="currentColor" stroke-opacity=".2"/>'
            parts.append(f'{grid}<text x="{LEFT - 6}" y="{float(y) + 4.5:.1f}" text-anchor="end">{value:g}</text>')
        for value in self.x:
            x = self.at(value * self.unit, 0).split(",")[0]
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{value:g}</text>')
        middle = (LEFT + right) / 2
        parts.append(
            f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">MAdds per image ({self.unit_name})</text>'
        )
        upright = f"translate(11 {(TOP + bottom) / 2:.0f}) rotate(-90)"
        parts.append(f'<text transform="{upright}" text-anchor="middle">top-1 accuracy (%)</text>')
        return parts

    def with_dot(self, madds: float, accuracy: float, label: str) -> str:
        x, y = self.at(madds, accuracy).split(",")
        dot = f'<circle cx="{x}" cy="{y}" r="7" fill="#E69F00" stroke="currentColor" stroke-width="2"/>'
        opening = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        return "".join([opening, *self.parts, dot, "</svg>"])


def _frame(row: pd.Series, drawing: _Drawing, exits: list[float]) -> str:
    shares = np.asarray(exits, float)
    shares = shares / shares.sum()
    accuracy, madds = (
        f"{100 * row['accuracy']:.1f} %",
        f"{row['madds'] / drawing.unit:.4g} {drawing.unit_name}",
    )
    part = f"{100 * row['madds'] / drawing.largest:.0f} %"
    count = len(shares)
    numbers = "".join(
        f"<span>{name}</span><b>{value}</b>"
        for name, value in (
            ("λ", _lam(row["lam"])),
            ("top-1 accuracy", accuracy),
            ("MAdds per image", madds),
            (f"of N<sub>{count}</sub>’s MAdds", part),
        )
    )
    bars = "".join(
        f'<span>N<sub>{exit_}</sub></span><i style="width:{100 * share:.1f}%"></i><b>{100 * share:.0f} %</b>'
        for exit_, share in enumerate(shares, start=1)
    )
    picture = drawing.with_dot(
        row["madds"],
        row["accuracy"],
        f"Accuracy against MAdds; here {accuracy} at {madds}, {part} of the whole network",
    )
    return (
        f'<div class="rdn-frame">{picture}<div class="rdn-side"><div class="rdn-numbers">{numbers}</div>'
        f'<div>images leaving at</div><div class="rdn-exits">{bars}</div></div></div>'
    )


def _lam(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else ("∞" if value > 0 else "−∞")


def _ticks(low: float, high: float) -> np.ndarray:
    """About five round numbers that enclose [low, high], some room around it where it is a single value."""
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        low, high = low - 1, high + 1
    return MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
