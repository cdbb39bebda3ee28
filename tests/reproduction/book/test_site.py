"""The built book in a real browser, with the network closed: its explorer, colours, and pages opened from the disk."""

import pytest

pytest.importorskip("selenium")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from support.browser import COLOURS, NEEDED, contrast, requests, visit

pytestmark = NEEDED


def test_first_visit_logs_no_error(browser, address):
    visit(browser, f"{address}/index.html")
    browser.execute_script("localStorage.clear()")
    browser.get(f"{address}/index.html")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_formulas_are_typeset(browser, address):
    visit(browser, f"{address}/reconstruction.html")
    WebDriverWait(browser, 20).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "mjx-container")) > 10)


@pytest.mark.parametrize("page", ["index", "notebooks/10_figure8"])
def test_the_explorer_lives_in_its_chapter_and_on_the_landing_page(browser, address, page):
    visit(browser, f"{address}/{page}.html")
    handle = browser.find_element(By.CSS_SELECTOR, '[data-handle="target"] input')
    before = handle.get_attribute("aria-valuetext")
    handle.send_keys(Keys.ARROW_LEFT)
    assert "accuracy" in before and handle.get_attribute("aria-valuetext") != before
    assert handle.aria_role == "slider" and handle.accessible_name.startswith("target accuracy")


TEXTS = {
    "10_figure8": [
        ".rdn-x-words",
        ".rdn-x-share",
        ".rdn-x-detail td",
        ".rdn-x-plane td",
        ".rdn-x-plane svg text",
        "figcaption span",
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
    handle = browser.find_element(By.CSS_SELECTOR, '[data-handle="own"] input')
    before = handle.get_attribute("value")
    handle.send_keys(Keys.ARROW_RIGHT)
    assert handle.get_attribute("value") != before


def test_no_path_of_this_machine_is_published(site):
    text = "".join(p.read_text(errors="ignore") for p in site.rglob("*.html"))
    assert str(site.parent) not in text
