"""What every chapter of the book needs: its experiments, tables, captions, and numbers with their intervals in words."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, Markdown, display

from rdnlib.reproduction.book.style import STYLE
from rdnlib.reproduction.experiments import Workspace, open_workspace
from rdnlib.utils.files import write_text

FRAGMENTS = "fragments"  # folder below `out`: see `write_fragment`


def open_chapter(profile: str, *, data_root=None, seed: int = 0, out=None) -> Workspace:
    """Set the book's plotting style and return the workspace of the chapter's experiments."""
    plt.rcParams.update(STYLE)
    return open_workspace(profile, data_root=data_root, seed=seed, out=out)


def write_fragment(workspace: Workspace, name: str, text: str) -> None:
    """Keep computed HTML or SVG for a page of the book, which includes it as `_assets/<name>`; see `build`."""
    write_text(workspace.out / FRAGMENTS / name, text)


def with_interval(value: float, *ends: float, signed: bool = False, digits: int = 1) -> str:
    """A number and its 95 % interval: "73.2 (71.8–74.5)", or with signs "+1.2 (−0.3 to +2.7)".

    ends: low and high, and perhaps those of a second interval, over the seeds, which follow after a semicolon unless they are NaN.
    """
    sign, to = ("+", " to ") if signed else ("", "–")
    pairs = zip(ends[::2], ends[1::2], strict=True)
    texts = [f"{low:{sign}z.{digits}f}{to}{high:{sign}z.{digits}f}" for low, high in pairs if low == low]
    return f"{value:{sign}z.{digits}f} ({'; '.join(texts)})"


def intervals(table: pd.DataFrame, column: str, **style) -> list[str]:
    """`with_interval` for every row: columns `column`, `column`_low and `column`_high, and `column`_seeds_… where there are."""
    ends = [name for end in ("low", "high", "seeds_low", "seeds_high") if (name := f"{column}_{end}") in table]
    return [with_interval(*row, **style) for row in table[[column, *ends]].to_numpy()]


def hulls(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Per row the ends `low` and `high` of both intervals of `intervals` together: beyond them is neither luck of images nor of training."""
    low, high = (table.reindex(columns=[f"{column}_{end}", f"{column}_seeds_{end}"]) for end in ("low", "high"))
    return pd.DataFrame({"low": low.min(axis=1), "high": high.max(axis=1)})


def show_table(table: pd.DataFrame, formats=None, *, digits=1, index=False, missing="–", caption=None) -> None:
    """Display a table whose cells do not wrap.

    formats: as of `Styler.format`: one for all columns, or column → format; other numbers get `digits` decimals. index: show the
    row names. missing: the text for NaN.
    """
    style = table.style.format(formats, precision=digits, na_rep=missing)
    style = style.set_table_styles([{"selector": "td, th", "props": "white-space: nowrap"}])
    style = style if index else style.hide(axis="index")
    display(style if caption is None else style.set_caption(caption))


def about_the_run(workspace: Workspace, *, seeds: int = 1, fewest: int | None = None) -> str:
    """The sentence under a table that says what was measured: profile, data, images, and at how many seeds; `fewest` in some rows."""
    data = workspace.data
    count = f"{fewest} to {seeds}" if fewest and fewest < seeds else f"{seeds}"
    return (
        f"Profile {workspace.profile.name}: {data.name}, {len(data.classes)} classes, "
        f"{data.images['train']} training and {data.images['validation']} validation images, "
        f"{count} seed{'s' if seeds > 1 else ''}. In brackets 95 % intervals over the images"
        f"{', then over the seeds' if seeds > 1 else ''}."
    )


def toy_banner(workspace: Workspace) -> HTML | None:
    """The warning at the head of a page of results from drawn images: "illustrates, does not test"; None on photographs."""
    data = workspace.data
    if data.name != "dolls":
        return None
    text = (
        f"These numbers are from the profile {workspace.profile.name}: small networks on {data.images['train']} drawn images, trained "
        "for minutes. They show how the method is judged. They say little about photographs."
    )
    title = "Toy run: illustrates, does not test"
    return HTML(f'<div class="admonition warning"><p class="admonition-title">{title}</p><p>{text}</p></div>')


def bullet_list(lines: Iterable[str], *, intro: str = "") -> Markdown:
    """Markdown: an introduction and one bullet for each line."""
    return Markdown("\n\n".join(filter(None, [intro, "\n".join(f"- {line}" for line in lines)])))


def comparison(low: float, high: float) -> str:
    """What the 95 % interval of a difference in accuracy says, in words."""
    if low > 0:
        return "more accurate than"
    return "less accurate than" if high < 0 else "not distinguishable from"


def doll(index: int) -> str:
    """The name of a sub-network in a table: "N₁"."""
    return f"N{index}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
