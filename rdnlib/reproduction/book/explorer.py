"""The λ explorer: images move between the sub-networks as λ, a target accuracy or a budget is moved (Section 3.4, Figure 8).

One piece of HTML for JupyterLab and for the built book, with its style, its numbers (`analysis.explorer`) and its script inside. Axes and
curves are drawn by matplotlib; the script (explorer.js) only looks up what is stored. Without JavaScript, and in print, it is a
figure with images and a table.
"""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML
from matplotlib.lines import Line2D

from rdnlib.reproduction.analysis.explorer import NONE, explore, explore_paper
from rdnlib.reproduction.analysis.outcomes import Bases, families
from rdnlib.reproduction.book.chapter import doll
from rdnlib.reproduction.book.figures import SERIES
from rdnlib.reproduction.book.style import INK, inline, on, owner_colour, styled
from rdnlib.reproduction.book.thumbnails import thumbnail
from rdnlib.reproduction.experiments import Run, Workspace

SHOWABLE = ("dolls",)  # data sets whose images may be published; others' are replaced by drawn ones
SIZE = (4.6, 3.4)  # of a plane, in inches
SIDE = 48  # pixels of a thumbnail
LOOKS = {**SERIES, "one sub-network": SERIES["sub-networks"], "base networks": SERIES["base networks"]}
LOOKS["oracle"] = SERIES["oracle (first correct exit)"]
COLOURS = {
    key: look["color"].replace(INK, "currentColor") for key, look in LOOKS.items()
}  # outside matplotlib's drawing
BELOW_FULL = 1.0  # points: the first target is N_K's accuracy on the calibration split minus these


def lambda_explorer(
    workspace: Workspace, rdn_run: Run, policy_run: Run, base_runs: Bases, *, photographs: bool = False
) -> HTML:
    """The explorer of one run, beside the numbers that the paper prints.

    photographs: show images of every data set, not only of those that may be published. For a reader's own book.
    """
    splits = (families(rdn_run, policy_run, base_runs, split=split) for split in ("calibration", "validation"))
    run = explore(*splits, sorted(base_runs, key=lambda name: base_runs[name].result["madds"][0]))
    run["pictures"] |= pictures(workspace, run["pictures"]["id"], photographs=photographs)
    run["title"] = f"this run: {workspace.data.name}, profile {workspace.profile.name}, seed {workspace.seed}"
    return HTML(fragment(run, explore_paper() | {"title": "the paper, Table 1 (ImageNet)"}))


def pictures(workspace: Workspace, ids: Sequence[int], *, photographs: bool = False) -> dict[str, list[str]]:
    """`name` and `source` (a data URI) of validation images. Drawn dolls stand for images that may not be published or are not at hand."""
    if not workspace.has_images:
        return {"name": [f"image {number}" for number in ids], "source": [_icon(number) for number in ids]}
    images = workspace.splits.validation
    row_of = {number: row for row, number in enumerate(images.ids.tolist())}
    rows = np.array([row_of[number] for number in ids])
    labels = images.labels[rows].tolist()
    chosen = images.take(np.sort(rows))
    place = np.argsort(np.argsort(rows))
    shown = photographs or workspace.data.name in SHOWABLE
    sources = [
        thumbnail(chosen.images[place[i]], side=SIDE, kind="webp", quality=70) if shown else _icon(label)
        for i, label in enumerate(labels)
    ]
    return {"name": [images.classes[label] for label in labels], "source": sources}


def fragment(run: dict, *others: dict) -> str:
    """The HTML of the explorer: presets as of `analysis.explorer`, each with a `title`; the first one has images."""
    presets = [run, *others]
    for preset in presets:
        most = max(row[2] for method in preset["methods"] for row in method["rows"])
        preset["per"], preset["unit"] = next(u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if most >= u[0])
    run["start"] = _start(run)
    for preset in presets:
        preset["digits"] = 1 if "pictures" in preset else 2  # as printed
    captions = "".join(
        f'<span data-preset="{i}"{" hidden" if i else ""}>{_caption(p)}</span>' for i, p in enumerate(presets)
    )
    planes = "".join(_plane(number, preset) for number, preset in enumerate(presets))
    columns, run["pictures"] = (
        _columns(run),
        {k: v for k, v in run["pictures"].items() if k != "source"},
    )  # once is enough
    stored = json.dumps(presets, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    own = {suffix: Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js")}
    titles = "".join(f'<option value="{i}">{html.escape(p["title"])}</option>' for i, p in enumerate(presets))
    followed = "".join(
        f'<option value="{method["key"]}">{method["name"]}</option>' for method in run["methods"] if _is_curve(method)
    )
    handles = "".join(
        f'<label data-handle="{name}"><span>{label}</span><input type="range" min="0"><output></output></label>'
        for name, label in (("own", "λ"), ("target", "target accuracy"), ("budget", "budget"))
    )
    return (
        f'<figure class="rdn-figure rdn-explorer"><style>{own[".css"]}</style>'
        f'<div class="rdn-x-live rdn-x-top"><label>Numbers <select data-choice="preset">{titles}</select></label>'
        f'<label data-run>Images follow <select data-choice="follow">{followed}</select></label></div>'
        f'<div class="rdn-x-live rdn-x-handles">{handles}</div>'
        f'<p class="rdn-x-live rdn-x-words"></p><div data-run>{columns}'
        f'<p class="rdn-x-note">Crossed out: wrong at its exit. Per cent: of all {run["samples"]["validation"]} validation images.</p>'
        f'<div class="rdn-x-live rdn-x-detail"></div></div>{planes}<figcaption>λ explorer: {captions}</figcaption>'
        f'<script type="application/json">{stored}</script><script>{own[".js"]}</script></figure>'
    )


def _caption(preset: dict) -> str:
    if "pictures" not in preset:
        return "accuracy and MAdds as the paper prints them; it prints neither λ nor intervals."
    samples = preset["samples"]
    return (
        f"{len(preset['pictures']['id'])} validation images drawn at random, each below the sub-network at which it leaves. λ*, "
        f"thresholds and networks are chosen on {samples['calibration']} calibration images; accuracy and MAdds are those on "
        f"{samples['validation']} validation images. ±: half the 95 % interval, paired by image. One seed."
    )


def _start(run: dict) -> dict:
    """Where the explorer opens: the policy at N_K's accuracy minus `BELOW_FULL`, or the nearest target below that it reaches."""
    handle, keys = run["handles"]["target"], [method["key"] for method in run["methods"]]
    own = keys.index("dynamic")
    largest = run["methods"][keys.index("one sub-network")]["rows"][run["k"] - 1][1]
    reached = [i for i, at in enumerate(handle["at"]) if at[own] != NONE]
    wanted = [i for i in reached if handle["values"][i] <= largest - BELOW_FULL]
    return {"follow": "dynamic", "handle": "target", "position": (wanted or reached[:1])[-1]}


def _columns(run: dict) -> str:
    """The images below the sub-networks at which they leave, at the start."""
    at = run["handles"]["target"]["at"][run["start"]["position"]]
    method = next(i for i, method in enumerate(run["methods"]) if method["key"] == "dynamic")
    *_, shares, exits = run["methods"][method]["rows"][at[method]]
    drawn, columns = run["pictures"], []
    for v in range(run["k"]):
        colour, images = owner_colour(v + 1), ""
        for i in (i for i, exit_ in enumerate(exits) if int(exit_, 36) == v):
            name, wrong = html.escape(drawn["name"][i]), "" if drawn["right"][i][v] else " rdn-x-wrong"
            images += f'<button type="button" class="rdn-x-image{wrong}" data-image="{i}" tabindex="-1"'
            images += f' aria-label="{name}"><img class="dark-light" alt="" src="{drawn["source"][i]}"></button>'
        columns.append(
            f'<div class="rdn-x-column"><div class="rdn-x-exit" style="background:{colour};color:{on(colour)}">'
            f'{doll(v + 1)}</div><div class="rdn-x-share">{shares[v] / 10:.0f} %</div><div class="rdn-x-images">{images}</div></div>'
        )
    fullest = max(max(map(row[-1].count, row[-1])) for method in run["methods"][:2] for row in method["rows"])
    style = f"--exits:{run['k']};--images:{fullest}"
    return (
        f'<div class="rdn-x-columns" role="group" aria-label="images by exit" style="{style}">{"".join(columns)}</div>'
    )


def _plane(number: int, preset: dict) -> str:
    """Accuracy against MAdds with a dot for each method, and a table that says the same."""
    at = preset["handles"]["target"]["at"][preset["start"]["position"] if "start" in preset else 0]
    rows = [
        method["rows"][row] if row != NONE else None for method, row in zip(preset["methods"], [*at, 0], strict=False)
    ]
    drawn, preset["plane"] = _drawing(preset)
    (left, across), (top, up) = preset["plane"]
    dots = ""
    for method, row in zip(preset["methods"], rows, strict=True):
        place = f'cx="{left + across * row[4]:.1f}" cy="{top + up * row[3]:.1f}"' if row else 'display="none"'
        dots += f'<circle data-dot="{method["key"]}" r="5" fill="{COLOURS[method["key"]]}" {place}/>'
    label = html.escape(f"Top-1 accuracy against MAdds per image, {preset['title']}; the numbers are in the table")
    drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).replace("</svg>", f"{dots}</svg>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", "chosen", "top-1", "MAdds"))
    body = "".join(_table_row(preset, *pair) for pair in zip(preset["methods"], rows, strict=True))
    return (
        f'<div class="rdn-x-plane" data-preset="{number}"{" hidden" if number else ""}>{drawn}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _table_row(preset: dict, method: dict, row: list | None) -> str:
    colour, values = COLOURS[method["key"]], ["–", "–", "–"]
    dash = {"--": "5 3", "-.": "5 2 1 2"}.get(LOOKS[method["key"]].get("linestyle", "-"), "none")
    line = f'<path d="M0 4H20" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/>'
    mark = line if _is_curve(method) else f'<circle cx="10" cy="4" r="4" fill="{colour}"/>'
    swatch = f'<svg viewBox="0 0 20 8" width="20" height="8" aria-hidden="true">{mark}</svg>'
    if row:
        label, _, _, accuracy, madds, *_ = row
        share = f" ({100 * madds / preset['largest']:.0f}\u00a0%)" if preset.get("largest") else ""
        chosen = f"λ\u00a0=\u00a0{label}" if method["parameter"] == "λ" else label
        values = [
            chosen or "–",
            f"{accuracy:.1f}\u00a0%",
            f"{amount(madds / preset['per'])}\u00a0{preset['unit']}{share}",
        ]
    cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
    return (
        f'<tr data-method="{method["key"]}"><th scope="row"><label><input type="checkbox" checked>{swatch}'
        f"<span>{html.escape(method['name'])}</span></label></th>{cells}</tr>"
    )


def amount(value: float) -> str:
    """A number with three digits, as the script writes it too."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


@styled
def _drawing(preset: dict) -> tuple[str, list[tuple[float, float]]]:
    """The curves as SVG, each with an id ending in its key; and (offset, factor) that place MAdds and % in the drawing."""
    figure, ax = plt.subplots(figsize=SIZE)
    for method in preset["methods"]:
        rows = np.array(sorted((row[4], row[3]) for row in method["rows"])) / (preset["per"], 1)
        look = {"marker": "o", "linestyle": "none", "color": LOOKS[method["key"]]["color"]}
        if _is_curve(method):
            look = LOOKS[method["key"]]
        elif preset.get("largest"):
            look |= {key: LOOKS[method["key"]].get(key, value) for key, value in look.items()}
        ax.add_line(Line2D(*rows.T, gid=f"curve-{method['key']}", **look))
    ax.autoscale_view()
    ax.margins(0.06)
    ax.set(xlabel=f"MAdds per image ({preset['unit']})", ylabel="top-1 accuracy (%)")
    text = inline(figure)
    corners = ax.transData.transform([(0, 0), (1 / preset["per"], 1)]) / figure.bbox.size
    (x, y), (x1, y1) = corners * np.multiply(SIZE, 72)
    return text, [(round(x, 3), x1 - x), (round(72 * SIZE[1] - y, 3), y - y1)]


def _is_curve(method: dict) -> bool:
    return "costs" in method and method["key"] != "oracle"


def _icon(number: int) -> str:
    """A drawn doll in one of the book's colours, with a number, as a data URI."""
    colour = owner_colour(number + 1)
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path fill="{colour}" d="M12 1a5 5 0 0 1 4 8c4 3 4 10 1 14H7C4 19 '
        f'4 12 8 9A5 5 0 0 1 12 1z"/><text x="12" y="19" font-size="8" text-anchor="middle" fill="{on(colour)}">{number}</text></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()
