"""Figures: deterministic, complete, and honest to the numbers they are given."""

import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book import figures as figures_module

SIZES = [8, 8, 8, 8, 8, 8, 8]
ROWS = [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), (4, 5), (3, 4, 6), (2, 3, 4, 7)]  # k = 4, by hand


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "series": ["sub-networks"] * 2 + ["dynamic"] * 3 + ["base"] + ["random mix of N_1 and N_K"] * 2,
            "madds": [20e6, 60e6, 30e6, 40e6, 50e6, 45e6, 20e6, 60e6],
            "top1": [55.0, 72.0, 60.0, 68.0, 71.0, 70.0, 55.0, 72.0],
            "low": [54.0, 71.0, 59.0, 67.0, 70.0, 69.0, np.nan, np.nan],
            "high": [56.0, 73.0, 61.0, 69.0, 72.0, 71.0, np.nan, np.nan],
        }
    )


def figures() -> dict:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"subnetwork": [1, 2], "madds": [1e6, 2e6], "top1": [50.0, 60.0]})
    table["top1_low"], table["top1_high"] = table["top1"] - 1, table["top1"] + 1
    return {
        "figure8": lambda: figures_module.figure8(frame()),
        "subnetwork_curve": lambda: figures_module.subnetwork_curve({"copy": table, "base": table.tail(1)}),
        "block_structure": lambda: figures_module.block_structure(ROWS, k=4, inputs=SIZES, outputs=SIZES),
        "exit_difficulty": lambda: figures_module.exit_difficulty(rng.random(50), rng.integers(1, 4, 50), count=4),
    }


@pytest.mark.parametrize("name", figures())
def test_same_figure_gives_the_same_svg(name):
    one, other = (figures_module.svg(figures()[name]()) for _ in range(2))
    assert one == other
    ElementTree.fromstring(one)


@pytest.mark.parametrize("name", figures())
def test_axes_are_labelled(name):
    for ax in figures()[name]().axes:
        assert ax.get_xlabel() and ax.get_ylabel()


def test_users_own_style_is_left_alone():
    before = dict(plt.rcParams)
    figures_module.figure8(frame())
    figures_module.figure()
    assert dict(plt.rcParams) == before


def test_shown_text_takes_the_colour_of_the_page():
    shown = figures_module.show(figures_module.figure8(frame()), alt='a "curve" & more').data
    assert "currentColor" in shown and figures_module.INK not in shown
    svg = ElementTree.fromstring(shown).find("{http://www.w3.org/2000/svg}svg")
    assert svg.get("aria-label") == 'a "curve" & more' and svg.get("role") == "img"
    assert svg.get("width") is None and svg.get("viewBox")


def test_two_figures_on_a_page_share_no_id():
    def ids(html):
        return {element.get("id") for element in ElementTree.fromstring(html).iter()} - {None}

    one = figures_module.show(figures_module.figure8(frame()), alt="one").data
    other = figures_module.show(figures_module.figure8(frame().head(5)), alt="other").data
    assert ids(one) and not ids(one) & ids(other)
    references = {part.split('"')[0].rstrip(")") for part in one.split("#f")[1:] if "-" in part[:12]}
    assert {f"f{name.split(')')[0]}" for name in references} <= ids(one)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_saved_files_are_identical_and_stand_on_white(tmp_path, suffix):
    for name in ("a", "b"):
        figures_module.save(figures_module.figure8(frame()), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    if suffix == "svg":
        assert "#ffffff" in (tmp_path / "a.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_figure8_draws_every_series_where_it_is():
    ax = figures_module.figure8(frame()).axes[0]
    drawn = {(round(x, 6), round(y, 6)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(row.madds / 1e6, row.top1) for row in frame().itertuples()} <= drawn
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels == ["sub-networks", "dynamic", "base", "random mix of $N_1$ and $N_K$"]


def test_blocks_are_those_of_figure_3():
    ax = figures_module.block_structure(ROWS, k=4, inputs=SIZES, outputs=SIZES).axes[0]
    blocks = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    hatched = [patch for patch in blocks if patch.get_hatch()]
    assert len(blocks) - len(hatched) == 19  # 10 kept, 6 moved, 3 new
    assert len(hatched) == 6
    assert {(patch.get_x() // 8 + 1, patch.get_y() // 8 + 1) for patch in hatched} == {
        (i, j) for j in range(1, 5) for i in range(j + 1, 5)
    }


def test_unequal_groups_are_drawn_to_scale():
    ax = figures_module.block_structure([(1,), (1, 2), (2, 3)], k=2, inputs=[3, 2, 3], outputs=[6, 4, 6]).axes[0]
    last = ax.patches[-1]
    assert (last.get_x(), last.get_y(), last.get_width(), last.get_height()) == (5, 10, 3, 6)


def test_exit_difficulty_plots_the_means():
    rng = np.random.default_rng(1)
    difficulty, exits = rng.random(200), rng.integers(1, 4, 200)
    ax = figures_module.exit_difficulty(difficulty, exits, count=5).axes[0]
    x, y = ax.lines[0].get_data()
    assert list(x) == [1, 2, 3]  # nothing left at exits 4 and 5
    np.testing.assert_allclose(y, [difficulty[exits == v].mean() for v in (1, 2, 3)])


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="top1"):
        figures_module.figure8(frame().drop(columns="top1"))
    with pytest.raises(ConfigError, match="known difficulty"):
        figures_module.exit_difficulty(np.array([0.1, np.nan]), np.array([1, 2]), count=2)
    with pytest.raises(ConfigError, match="output group"):
        figures_module.block_structure(ROWS, k=4, inputs=SIZES[:4], outputs=SIZES)
