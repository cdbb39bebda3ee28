"""The style: figures that are the same every time, take the page's colours, and leave the reader's own settings alone."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib.pyplot as plt
import pytest

from rdnlib.reproduction.book import style


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@style.styled
def drawn(height: float = 2.0) -> plt.Figure:
    figure, axes = plt.subplots(1, 2)
    for ax in axes:
        ax.plot([0, 1], [0, height], label="line")
        ax.axhline(1, label="level", **style.DOTTED)
    axes[1].bar([0], [1], label="bar")
    style.legend_below(figure)
    return figure


def test_the_same_figure_gives_the_same_svg():
    one, other = style.svg(drawn()), style.svg(drawn())
    assert one == other
    ElementTree.fromstring(one)


def test_users_own_style_is_left_alone():
    before = dict(plt.rcParams)
    drawn()
    assert dict(plt.rcParams) == before


def test_one_legend_names_every_label_once():
    (legend,) = drawn().legends
    assert [text.get_text() for text in legend.get_texts()] == ["line", "level", "bar"]


def test_every_group_has_a_colour():
    assert len({style.owner_colour(group) for group in range(1, 9)}) == 8
    assert style.owner_colour(9) == style.owner_colour(1)


def test_shown_text_takes_the_colour_of_the_page():
    shown = style.show(drawn(), alt='a "curve" & more').data
    assert "currentColor" in shown and style.INK not in shown
    svg = ElementTree.fromstring(shown).find(".//{http://www.w3.org/2000/svg}svg")
    assert svg.get("aria-label") == 'a "curve" & more' and svg.get("role") == "img"
    assert svg.get("width") is None and svg.get("viewBox")


@pytest.mark.parametrize(("size", "narrowest"), [(12, 480), (8, 720), (None, 480)])
def test_a_figure_is_never_so_narrow_that_its_text_is_small(size, narrowest):
    """8 in are 576 pt, and a text of 12 pt has 10 px where they are shown in 480 px; smaller than natural size at most."""
    figure, ax = plt.subplots(figsize=(8, 2))
    ax.set_axis_off()
    ax.text(0, 0, "large $N_1$", fontsize=12)
    if size:
        ax.text(1, 0, "text", fontsize=size)
    assert f"min-width:{narrowest}px" in style.show(figure, alt="text").data


def test_coordinates_have_two_decimals():
    text = style.inline(drawn())
    assert re.search(r' d="[^"]*\.\d\d\b', text) and not re.search(r' d="[^"]*\.\d{3}', text)


def test_two_figures_on_a_page_share_no_id():
    def ids(html):
        return {element.get("id") for element in ElementTree.fromstring(html).iter()} - {None}

    one = style.show(drawn(), alt="one").data
    other = style.show(drawn(3.0), alt="other").data
    assert ids(one) and not ids(one) & ids(other)
    references = {part.split('"')[0].rstrip(")") for part in one.split("#f")[1:] if "-" in part[:12]}
    assert {f"f{name.split(')')[0]}" for name in references} <= ids(one)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_saved_files_are_identical_and_stand_on_white(tmp_path, suffix):
    for name in ("a", "b"):
        style.save(drawn(), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    if suffix == "svg":
        assert "#ffffff" in (tmp_path / "a.svg").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]
