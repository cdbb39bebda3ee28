"""Figures: deterministic, complete, and honest to the numbers they are given."""

import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book import figures as figures_module
from rdnlib.reproduction.book import style


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "series": ["sub-networks"] * 2 + ["dynamic"] * 3 + ["base"] + ["random mix of N_1 and N_K"] * 2,
            "name": ["N_1", "N_2", "", "", "", "base", "", ""],
            "madds": [20e6, 60e6, 30e6, 40e6, 50e6, 45e6, 20e6, 60e6],
            "top1": [55.0, 72.0, 60.0, 68.0, 71.0, 70.0, 55.0, 72.0],
            "low": [54.0, 71.0, 59.0, 67.0, 70.0, 69.0, np.nan, np.nan],
            "high": [56.0, 73.0, 61.0, 69.0, 72.0, 71.0, np.nan, np.nan],
        }
    )


def histories() -> dict[str, pd.DataFrame]:
    base = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "accuracy": [0.2, 0.4]})
    rdn = pd.DataFrame({"epoch": [1, 2, 3], "loss": [1.5, 1.2, 1.1], "accuracy_1": [0.1, 0.2, 0.3], "accuracy_K": 0.5})
    return {"base": base, "rdn": rdn}


def figures() -> dict:
    table = pd.DataFrame({"subnetwork": [1, 2], "madds": [1e6, 2e6], "top1": [50.0, 60.0]})
    table["top1_low"], table["top1_high"] = table["top1"] - 1, table["top1"] + 1
    return {
        "figure8": lambda: figures_module.figure8(frame()),
        "subnetwork_curve": lambda: figures_module.subnetwork_curve({"copy": table, "base": table.tail(1)}),
        "training_curves": lambda: figures_module.training_curves(histories(), colors=(style.INK, style.BLUE)),
    }


@pytest.mark.parametrize("name", figures())
def test_same_figure_gives_the_same_svg(name):
    one, other = (style.svg(figures()[name]()) for _ in range(2))
    assert one == other
    ElementTree.fromstring(one)


@pytest.mark.parametrize("name", figures())
def test_axes_are_labelled(name):
    axes = figures()[name]().axes
    assert axes[-1].get_xlabel() and all(ax.get_ylabel() for ax in axes)


def test_figure8_draws_every_series_where_it_is():
    ax = figures_module.figure8(frame()).axes[0]
    drawn = {(round(x, 6), round(y, 6)) for line in ax.lines for x, y in zip(*line.get_data(), strict=True)}
    assert {(row.madds / 1e6, row.top1) for row in frame().itertuples()} <= drawn
    labels = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert labels == ["sub-networks", "dynamic", "base", "random mix of $N_1$ and $N_K$"]
    low, high = ax.get_ylim()
    assert 70 < low < 71 and 73 < high < 74  # what N_2's interval covers; N_1 is named at the lower edge
    assert [text.get_text() for text in ax.texts] == ["$N_{1}$: 55.0 %", "$N_{2}$"]


def test_curves_are_where_they_should_be_with_their_intervals():
    ax = plt.subplots()[1]
    figures_module.curves(ax, {"a": ([1, 2], [5, 6]), "b": ([1, 2], [5, 6], [4, 6], [7, 6])}, linewidth=3)
    a, b = (line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 3)
    assert [tuple(line.get_ydata()) for line in (a, b)] == [(5, 6), (5, 6)]
    assert a.get_color() != b.get_color() and a.get_marker() != b.get_marker()
    (bars,) = (each for each in ax.containers if isinstance(each, ErrorbarContainer))
    assert [tuple(segment[:, 1]) for segment in bars[2][0].get_segments()] == [(4, 7), (6, 6)]
    assert sorted(ax.get_legend_handles_labels()[1]) == ["a", "b"]


def test_every_cell_of_a_matrix_has_its_text_and_row_1_is_on_top():
    ax = plt.subplots()[1]
    values = np.array([[0.1, np.nan, 0.9], [0.2, 0.3, 0.4]])
    colours = figures_module.matrix(ax, values, np.char.mod("%.1f", values))
    assert colours.get_array().shape == (2, 3) and colours.get_array().mask.sum() == 1
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in ax.texts}
    assert texts[3, 1] == ("0.9", "white") and texts[1, 2] == ("0.2", "black") and texts[2, 1] == ("nan", style.INK)
    assert ax.get_ylim() == (2.5, 0.5)


@pytest.mark.parametrize("horizontal", [False, True])
def test_stacked_bars_add_up(horizontal):
    ax = plt.subplots()[1]
    parts = {"a": [1, 2], "b": pd.Series([3, 4])}
    figures_module.stacked_bars(ax, [0, 1], parts, texts="{:.1f}", horizontal=horizontal)
    a, b = (each for each in ax.containers if isinstance(each, BarContainer))
    ends = [bar.get_bbox().x1 if horizontal else bar.get_bbox().y1 for bars in (a, b) for bar in bars]
    assert ends == [1, 2, 4, 6]
    assert [text.get_text() for text in ax.texts] == ["4.0", "6.0"]


def test_an_axis_names_the_subnetworks():
    ax = plt.subplots()[1]
    figures_module.name_subnetworks(ax.yaxis, 10)
    assert [label.get_text() for label in ax.get_yticklabels()][8:] == ["$N_{9}$", "$N_{10}$"]


def test_images_stand_in_rows():
    rows = {"one": [np.zeros((4, 4, 3)), np.ones((4, 4, 3))], "two": [np.ones((4, 4, 3))] * 3}
    figure = figures_module.image_rows(rows, columns=2)
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 1]
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == ["one", "two"]


def test_training_goes_on_where_the_first_network_ended():
    top, bottom = figures_module.training_curves(histories(), colors=(style.INK, style.BLUE)).axes
    assert {line.get_label(): list(line.get_xdata()) for line in top.lines[:3]} == {
        "base": [1, 2],
        "rdn, $N_1$": [3, 4, 5],
        "rdn, $N_K$": [3, 4, 5],
    }
    assert list(bottom.lines[1].get_ydata()) == [1.5, 1.2, 1.1]
    assert top.lines[-1].get_xdata()[0] == 2.5


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="top1"):
        figures_module.figure8(frame().drop(columns="top1"))
