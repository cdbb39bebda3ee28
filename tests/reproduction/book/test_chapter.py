"""What every chapter shares: its place and style, numbers with intervals, tables, lists and verdicts in words."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from support.profiles import TINY

from rdnlib.reproduction.book import chapter
from rdnlib.reproduction.book.style import STYLE


def test_a_chapter_opens_at_its_experiments_and_in_the_books_style(tmp_path):
    with plt.rc_context():
        place = chapter.open_chapter(TINY, seed=3, out=tmp_path)
        assert plt.rcParams["svg.hashsalt"] == STYLE["svg.hashsalt"]
    assert (place.profile.name, place.seed, place.out) == ("tiny", 3, tmp_path.resolve())


def test_a_number_stands_with_its_interval():
    assert chapter.with_interval(73.21, 71.8, 74.5) == "73.2 (71.8–74.5)"
    assert chapter.with_interval(1.2, -0.3, 2.7, signed=True) == "+1.2 (-0.3 to +2.7)"
    table = pd.DataFrame({"top1": [1.0, 2.0], "top1_low": [0.5, 1.5], "top1_high": [1.5, 2.5]})
    assert chapter.intervals(table, "top1", digits=2) == ["1.00 (0.50–1.50)", "2.00 (1.50–2.50)"]


@pytest.mark.parametrize("index", [False, True])
def test_a_table_is_shown_as_numbers_of_equal_length(monkeypatch, index):
    shown = []
    monkeypatch.setattr(chapter, "display", shown.append)
    table = pd.DataFrame({"name": ["a", "b"], "x": [1.26, 2.0], "y": [0.123, None]}, index=["first", "first"])
    chapter.show_table(table, {"y": "{:.0%}"}, index=index, missing="none", caption="A caption")
    html = shown[0].to_html()
    assert ">1.3<" in html and ">12%<" in html and ">none<" in html and "A caption" in html
    assert (">first<" in html) == index


def test_lists_and_verdicts_are_words():
    assert chapter.bullet_list(["a", "b"], intro="Two:").data == "Two:\n\n- a\n- b"
    assert chapter.bullet_list(["a"]).data == "- a"
    verdicts = [chapter.comparison(*ends) for ends in ((0.1, 2), (-2, -0.1), (-1, 1), (0, 0))]
    assert verdicts == ["more accurate than", "less accurate than"] + 2 * ["not distinguishable from"]
    assert chapter.doll(12) == "N₁₂"
