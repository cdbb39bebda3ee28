"""The λ slider: every frame tells a row of the exact curve, and all of it fits into a page."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipywidgets import Widget, embed

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book import widgets
from rdnlib.reproduction.book.widgets import evenly, lambda_slider

MADDS = np.array([20e6, 40e6, 60e6])
SUBNETWORKS = pd.DataFrame({"madds": MADDS, "accuracy": [0.5, 0.6, 0.7]})


@pytest.fixture(autouse=True)
def forget_widgets():
    yield
    Widget.close_all()


def curve(rows: int = 300) -> pd.DataFrame:
    exits = np.random.default_rng(0).dirichlet(np.ones(3), rows)
    exits = exits[np.argsort(exits @ MADDS)]
    frame = pd.DataFrame({"lam": np.linspace(0, 3, rows), "accuracy": np.linspace(0.5, 0.71234, rows)})
    frame["madds"] = exits @ MADDS
    frame[["exit_1", "exit_2", "exit_3"]] = exits
    return frame


def parts(box):
    _, slider, layers = box.children
    return slider, layers.children[0]


def numbers(text: str) -> np.ndarray:
    """The numbers of an SVG path or list of points, in pairs."""
    return np.array(re.findall(r"-?[\d.]+", text), float).reshape(-1, 2)


def dots(box) -> np.ndarray:
    """Where the dot of each frame lies, in the units of the picture below it."""
    picture = ElementTree.fromstring(box.children[2].children[1].value)[0]
    pairs = [re.search(r"left:([\d.]+)%;top:([\d.]+)%", page.value).groups() for page in parts(box)[1].children]
    return np.array(pairs, float) / 100 * numbers(picture.get("viewBox"))[1]


@pytest.mark.parametrize(("rows", "frames"), [(300, 32), (300, 5), (7, 32), (1, 32)])
def test_one_option_for_each_frame(rows, frames):
    slider, stack = parts(lambda_slider(curve(rows), subnetworks=SUBNETWORKS, frames=frames))
    assert len(slider.options) == len(stack.children) <= min(rows, frames)
    assert len(stack.children) >= min(rows, frames) // 2 or rows == 1
    assert [index for _, index in slider.options] == list(range(len(stack.children)))


def test_frames_tell_the_rows_of_the_curve():
    whole = curve()
    slider, stack = parts(lambda_slider(whole, subnetworks=SUBNETWORKS))
    for (label, _), page in zip(slider.options, stack.children, strict=True):
        row = whole.iloc[(whole["lam"] - float(label)).abs().argmin()]
        assert f"<b>{label}</b>" in page.value
        assert f"<b>{100 * row['accuracy']:.1f} %</b>" in page.value
        assert f"<b>{row['madds'] / 1e6:.4g} M</b>" in page.value
        assert f"<b>{100 * row['madds'] / 60e6:.0f} %</b>" in page.value
        shown = [int(n) for n in re.findall(r"</i><b>(\d+) %</b>", page.value)]
        np.testing.assert_allclose(shown, 100 * row[["exit_1", "exit_2", "exit_3"]].to_numpy(float), atol=0.51)
    assert stack.children[0].value != stack.children[-1].value


def test_browser_alone_links_slider_and_frames():
    box = lambda_slider(curve(), subnetworks=SUBNETWORKS)
    slider, stack = parts(box)
    state = embed.embed_data([box])["manager_state"]["state"]
    (link,) = [model["state"] for model in state.values() if model["model_name"] == "LinkModel"]
    assert link["source"] == [f"IPY_MODEL_{slider.model_id}", "index"]
    assert link["target"] == [f"IPY_MODEL_{stack.model_id}", "selected_index"]


def test_widget_state_is_below_a_megabyte():
    box = lambda_slider(curve(5000), subnetworks=SUBNETWORKS, frames=40)
    assert len(json.dumps(embed.embed_data([box]))) < 600_000


SVG = "{http://www.w3.org/2000/svg}"


def lines(box) -> tuple[ElementTree.Element, ElementTree.Element]:
    """What the picture holds of the sub-networks and of the curve."""
    ElementTree.fromstring(box.children[0].value)
    drawn = ElementTree.fromstring(box.children[2].children[1].value).iter(f"{SVG}g")
    return tuple(group for group in drawn if re.search(r"-line2d_\d+$", group.get("id", "")))[-2:]


def test_dots_lie_on_the_curve_and_the_subnetworks_are_drawn():
    smooth = curve().assign(accuracy=lambda frame: 0.7 * np.sqrt(frame["madds"] / 60e6))
    box = lambda_slider(smooth, subnetworks=SUBNETWORKS)
    static, line = lines(box)
    assert len(list(static.iter(f"{SVG}use"))) == 3
    drawn = numbers(line.find(f"{SVG}path").get("d"))
    np.testing.assert_allclose(dots(box)[[0, -1]], drawn[[0, -1]], atol=0.05)
    np.testing.assert_allclose(dots(box)[:, 1], np.interp(dots(box)[:, 0], *drawn.T), atol=0.3)


def test_the_picture_is_stored_once_and_every_frame_is_well_formed():
    _, stack = parts(lambda_slider(curve(), subnetworks=SUBNETWORKS))
    for page in stack.children:
        ElementTree.fromstring(page.value)
        assert "<svg" not in page.value and len(page.value) < 1500


def test_a_network_that_has_learned_nothing_is_drawn_all_the_same():
    box = lambda_slider(curve().assign(accuracy=0.1), subnetworks=SUBNETWORKS.assign(accuracy=0.1))
    height = 72 * widgets.SIZE[1]
    assert ((dots(box)[:, 1] > 0.05 * height) & (dots(box)[:, 1] < 0.8 * height)).all()


def test_bad_curves_are_named():
    with pytest.raises(ConfigError, match="madds"):
        lambda_slider(curve().drop(columns="madds"), subnetworks=SUBNETWORKS)
    with pytest.raises(ConfigError, match="3 exits, but there are 2"):
        lambda_slider(curve(), subnetworks=SUBNETWORKS.head(2))


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200), st.integers(2, 40))
def test_evenly_keeps_order_ends_and_count(madds, count):
    picked = evenly(np.sort(madds), count)
    assert picked[0] == 0 and picked[-1] == len(madds) - 1
    assert (np.diff(picked) > 0).all() and len(picked) <= max(count, 2)


def test_evenly_is_even_where_the_values_allow():
    madds = np.concatenate([np.linspace(0, 10, 900), np.linspace(10, 100, 91)])
    assert np.diff(madds[evenly(madds, 11)]).max() <= 11
