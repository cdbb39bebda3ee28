"""The built book in a real browser, with the network closed: its slider, colours, and pages opened from the disk."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support.browser import COLOURS, NEEDED, contrast, requests, visit

pytestmark = NEEDED


def shown(browser) -> dict[str, str]:
    """The numbers beside the curve, as the reader sees them."""
    frame = next(f for f in browser.find_elements(By.CSS_SELECTOR, ".rdn-frame") if f.is_displayed())
    names, values = (frame.find_elements(By.CSS_SELECTOR, f".rdn-numbers {tag}") for tag in ("span", "b"))
    return {name.text: value.text for name, value in zip(names, values, strict=True)}


def test_first_visit_logs_no_error(browser, address):
    visit(browser, f"{address}/index.html")
    browser.execute_script("localStorage.clear()")
    browser.get(f"{address}/index.html")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_formulas_are_typeset(browser, address):
    visit(browser, f"{address}/reconstruction.html")
    WebDriverWait(browser, 20).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "mjx-container")) > 10)


def test_arrow_keys_change_the_numbers_to_the_next_frame(browser, address, site):
    visit(browser, f"{address}/notebooks/10_figure8.html")
    frames = stored_frames(site)
    handle = browser.find_element(By.CSS_SELECTOR, ".noUi-handle")
    assert shown(browser) == frames[0]
    for expected in frames[1:4]:
        handle.send_keys(Keys.ARROW_RIGHT)
        WebDriverWait(browser, 5).until(lambda b, e=expected: shown(b) == e)
        assert handle.get_attribute("aria-valuetext") == expected["λ"]
    handle.send_keys(Keys.ARROW_LEFT)
    WebDriverWait(browser, 5).until(lambda b: shown(b) == frames[2])
    handle.send_keys(Keys.END)
    WebDriverWait(browser, 5).until(lambda b: shown(b) == frames[-1])


def stored_frames(site: Path) -> list[dict[str, str]]:
    """The numbers of all frames, read from the widget state in the page's source, in the slider's order."""
    page = (site / "notebooks" / "10_figure8.html").read_text()
    state = json.loads(re.search(r'widget-state\+json">(.*?)</script>', page, re.S)[1])["state"]
    stack = next(model["state"] for model in state.values() if model["model_name"] == "StackModel")
    bodies = [state[child.removeprefix("IPY_MODEL_")]["state"]["value"] for child in stack["children"]]
    numbers = [re.search(r'rdn-numbers">(.*?)</div>', body)[1] for body in bodies]
    pattern = r"<span>(.*?)</span><b>(.*?)</b>"
    return [{re.sub("<.*?>", "", k): v for k, v in re.findall(pattern, text)} for text in numbers]


def test_dragging_the_handle_changes_the_numbers(browser, address, site):
    visit(browser, f"{address}/notebooks/10_figure8.html")
    handle = browser.find_element(By.CSS_SELECTOR, ".noUi-handle")
    frames = stored_frames(site)
    before = shown(browser)
    ActionChains(browser).click_and_hold(handle).move_by_offset(150, 0).release().perform()
    WebDriverWait(browser, 5).until(lambda b: shown(b) != before)
    assert shown(browser) in frames


@pytest.mark.parametrize("width", [390, 1280])
def test_the_dots_plane_lies_on_the_picture(browser, address, width):
    visit(browser, f"{address}/notebooks/10_figure8.html", width=width)
    plane, picture = (
        next(e.rect for e in browser.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed())
        for selector in (".rdn-frame .rdn-plot", ".rdn-frame > svg")
    )
    assert plane == pytest.approx(picture, abs=0.5)


def test_the_handle_has_a_name(browser, address):
    visit(browser, f"{address}/notebooks/10_figure8.html")
    handle = browser.find_element(By.CSS_SELECTOR, ".noUi-handle")
    assert "λ" in handle.accessible_name and "accuracy" in handle.accessible_name
    assert handle.aria_role == "slider"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_slider_is_as_wide_as_the_window_allows(browser, address, width):
    visit(browser, f"{address}/notebooks/10_figure8.html", width=width)
    for selector in (".rdn-frame", ".rdn-slider .widget-hslider"):
        for element in browser.find_elements(By.CSS_SELECTOR, selector):
            if element.is_displayed():
                assert element.rect["x"] >= 0 and element.rect["x"] + element.rect["width"] <= width
                assert element.rect["width"] >= 250


TEXTS = {
    "10_figure8": [
        ".rdn-numbers b",
        ".rdn-exits span",
        ".rdn-frame svg text",
        ".widget-slider .widget-label",
        ".widget-slider .widget-readout",
        ".rdn-figure svg text",
    ],
    "01_nested_convolution": [".rdn-figure svg text"],
    "09_table1": ["table td", "table th"],
    "05_policy": ["table.dataframe td", "table.dataframe th"],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", TEXTS)
def test_text_stands_out_from_its_background(browser, address, page, theme):
    visit(browser, f"{address}/notebooks/{page}.html", theme=theme)
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    for selector in TEXTS[page]:
        element = next(e for e in browser.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed())
        ink, paper = browser.execute_script(COLOURS, element)
        assert contrast(ink, paper) >= 4.5, selector


def test_pages_work_from_the_disk(browser, site):
    visit(browser, (site / "notebooks" / "10_figure8.html").as_uri())
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:", "blob:"))] == []
    before = shown(browser)
    browser.find_element(By.CSS_SELECTOR, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(browser, 5).until(lambda b: shown(b) != before)


def test_widget_state_is_small(site):
    assert (site / "notebooks" / "10_figure8.html").stat().st_size < 1_000_000


def test_no_path_of_this_machine_is_published(site):
    text = "".join(p.read_text(errors="ignore") for p in site.rglob("*.html"))
    assert str(site.parent) not in text
