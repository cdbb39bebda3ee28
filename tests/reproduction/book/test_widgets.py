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
from rdnlib.reproduction.book.widgets import _ticks, evenly, lambda_slider

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
    _, slider, stack = box.children
    return slider, stack


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


def test_drawings_are_well_formed_and_stay_inside():
    _, stack = parts(lambda_slider(curve(), subnetworks=SUBNETWORKS))
    for page in stack.children:
        svg = ElementTree.fromstring(re.search("<svg.*?</svg>", page.value, re.S)[0])
        dot = svg.find("circle")
        assert 46 <= float(dot.get("cx")) <= 408 and 12 <= float(dot.get("cy")) <= 226
        assert len(svg.findall("rect")) == 3


def test_a_network_that_has_learned_nothing_is_drawn_all_the_same():
    flat = curve().assign(accuracy=0.1)
    _, stack = parts(lambda_slider(flat, subnetworks=SUBNETWORKS.assign(accuracy=0.1)))
    svg = ElementTree.fromstring(re.search("<svg.*?</svg>", stack.children[0].value, re.S)[0])
    assert 12 < float(svg.find("circle").get("cy")) < 226


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


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_the_range(low, width):
    ticks = _ticks(low, low + width)
    assert ticks[0] <= low + 1e-6 * width and ticks[-1] >= low + width * (1 - 1e-6)
    assert 2 <= len(ticks) <= 8
