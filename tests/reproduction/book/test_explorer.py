"""The explorer's HTML says what its numbers say, loads nothing, and shows no image that may not be published."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.explorers import data, presets

from rdnlib.data import datasets
from rdnlib.reproduction.analysis.explorer import NONE
from rdnlib.reproduction.book.explorer import amount, fragment, pictures


@pytest.fixture(scope="module")
def page():
    return fragment(*presets())


def stored(page):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])


def test_the_page_stands_alone(page):
    assert not re.search(r'(src|href)="(?!data:|#|\$)|url\((?!#)|@import|fetch\(|import\(', page)
    assert len(page.encode()) < 250_000
    assert {"unit": "M", "per": 1e6}.items() <= stored(page)[0].items()


def test_without_a_script_images_stand_where_the_table_says(page):
    run = stored(page)[0]
    at = run["handles"]["target"]["at"][run["start"]["position"]][0]
    exits = [int(digit, 36) for digit in run["methods"][0]["rows"][at][-1]]
    columns = re.findall(r'<div class="rdn-x-column">(.*?)</div></div>', page, re.S)
    assert len(columns) == run["k"]
    for v, column in enumerate(columns):
        placed = [int(number) for number in re.findall(r'data-image="(\d+)"', column)]
        assert placed == [i for i, exit_ in enumerate(exits) if exit_ == v]
        wrong = re.findall(r'rdn-x-wrong" data-image="(\d+)"', column)
        assert [int(number) for number in wrong] == [i for i in placed if not run["pictures"]["right"][i][v]]


def test_the_start_is_a_target_below_the_largest_sub_networks_accuracy(page):
    run = stored(page)[0]
    target = run["handles"]["target"]["values"][run["start"]["position"]]
    largest = next(m for m in run["methods"] if m["key"] == "one sub-network")["rows"][run["k"] - 1][1]
    assert target <= largest - 1 < target + 1.5
    assert run["handles"]["target"]["at"][run["start"]["position"]][0] != NONE


def test_dots_lie_on_their_curves(page):
    """The plane's factors against where matplotlib put the markers of the single sub-networks."""
    run = stored(page)[0]
    (left, across), (top, up) = run["plane"]
    svg = re.search(r'<svg role="img".*?</svg>', page, re.S)[0]
    group = re.search(r'<g id="\w+-curve-one sub-network">(.*?)</g>\s*</g>', svg, re.S)[1]
    drawn = np.array(re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', group), float)
    rows = next(m for m in run["methods"] if m["key"] == "one sub-network")["rows"]
    wanted = sorted((left + across * row[4], top + up * row[3]) for row in rows)
    np.testing.assert_allclose(drawn, wanted, atol=0.1)
    dot = re.search(r'data-dot="dynamic"[^>]*cx="([\d.]+)" cy="([\d.]+)"', svg).groups()
    row = run["methods"][0]["rows"][run["handles"]["target"]["at"][run["start"]["position"]][0]]
    np.testing.assert_allclose(np.array(dot, float), (left + across * row[4], top + up * row[3]), atol=0.1)


def test_names_of_classes_cannot_end_the_script():
    run, paper = presets()
    run["pictures"]["name"][0] = "</script><b>"
    page = fragment(run, paper)
    assert page.count("</script>") == 2 and 'aria-label="&lt;/script&gt;&lt;b&gt;"' in page


def test_amounts_have_three_digits():
    assert [amount(value) for value in (1.234, 12.34, 123.4, 0.5)] == ["1.23", "12.3", "123", "0.50"]


@pytest.mark.parametrize(
    ("name", "photographs", "kind"),
    [("dolls", False, "webp"), ("imagenette", False, "svg+xml"), ("imagenette", True, "webp")],
)
def test_only_images_that_may_be_published_are_shown(name, photographs, kind):
    split = datasets.load("dolls", size=16, train=20, validation=30, calibration=10).validation
    place = np.random.default_rng(0).permutation(30)
    split = replace(split.take(place), ids=place)
    workspace = SimpleNamespace(
        has_images=True, data=SimpleNamespace(name=name), splits=SimpleNamespace(validation=split)
    )
    found = pictures(workspace, [7, 3, 29], photographs=photographs)
    assert found["name"] == [split.classes[split.labels[list(place).index(number)]] for number in (7, 3, 29)]
    assert all(source.startswith(f"data:image/{kind};base64,") for source in found["source"])
    assert len(set(found["source"])) == 3 or kind == "svg+xml"


def test_without_images_dolls_are_drawn():
    found = pictures(SimpleNamespace(has_images=False), [4, 8])
    assert found["name"] == ["image 4", "image 8"] and len(set(found["source"])) == 2


def test_a_run_without_base_networks_is_shown():
    assert "base network" not in re.search("<tbody>.*?</tbody>", fragment(data(bases=False)), re.S)[0]
