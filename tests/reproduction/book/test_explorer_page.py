"""The explorer in a real browser, by mouse, touch and keys: what it shows and says is compared with the tables behind it."""

import json
import re

import pytest

pytest.importorskip("selenium")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from support.browser import COLOURS, NEEDED, contrast, findings, requests, resize
from support.explorers import presets

from rdnlib.reproduction.book.explorer import fragment

pytestmark = NEEDED
LABEL, CALIBRATED, BUDGET, ACCURACY, MADDS, SHARES, EXITS = range(7)
HEAD = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Explorer</title>'
DARK = "<style>body { background: #121212; color: #eee; }</style>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page with nothing but the explorer, and its numbers."""
    folder, text = tmp_path_factory.mktemp("page"), fragment(*presets())
    for name, style in (("light", ""), ("dark", DARK)):
        content = f"{HEAD}{style}<body><main><h1>Explorer</h1>{text}</main>"
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    stored = re.search(r'<script type="application/json">(.*?)</script>', text, re.S)[1]
    return folder, json.loads(stored)


@pytest.fixture
def run(browser, page):
    """The numbers of the run, with its explorer open in the browser."""
    folder, (run, _) = page
    resize(browser, 1000, 1400)
    browser.get_log("performance"), browser.get_log("browser")
    browser.get((folder / "light.html").as_uri())
    return run


def slider(browser, name):
    return browser.find_element(By.CSS_SELECTOR, f'[data-handle="{name}"] input')


def words(browser) -> str:
    return plain(browser.find_element(By.CSS_SELECTOR, ".rdn-x-words").text)


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def table(browser, preset: int = 0) -> dict[str, list[str]]:
    """Per method the cells of its row."""
    lines = browser.find_elements(By.CSS_SELECTOR, f'.rdn-x-plane[data-preset="{preset}"] tbody tr')
    return {
        line.get_attribute("data-method"): [plain(cell.text) for cell in line.find_elements(By.TAG_NAME, "td")]
        for line in lines
    }


def columns(browser) -> dict[int, int]:
    """Which exit each image stands below."""
    exits = browser.find_elements(By.CSS_SELECTOR, ".rdn-x-images")
    return {
        int(image.get_attribute("data-image")): exit_
        for exit_, column in enumerate(exits)
        for image in column.find_elements(By.CSS_SELECTOR, ".rdn-x-image")
    }


def members(run, handle, position, follow="dynamic"):
    at = run["handles"][follow if handle == "own" else handle]["at"][position]
    return [m["rows"][row] if row >= 0 else None for m, row in zip(run["methods"], at, strict=False)]


def check(browser, run, handle, position, follow="dynamic"):
    """Table, columns, words and spoken value at a position of a handle against the stored numbers."""
    rows, keys = members(run, handle, position, follow), [method["key"] for method in run["methods"]]
    shown, own = table(browser), rows[keys.index(follow)]
    assert int(slider(browser, handle).get_attribute("value")) == position
    for key, row in zip(keys, rows, strict=False):
        if row is None:
            assert shown[key] == ["–", "–", "–"]
            continue
        share = f"{100 * row[MADDS] / run['largest']:.0f} %"
        assert row[LABEL] in shown[key][0]
        assert shown[key][1:] == [f"{row[ACCURACY]:.1f} %", f"{three(row[MADDS] / 1e6)} M ({share})"]
    said = plain(slider(browser, handle).get_attribute("aria-valuetext"))
    if own is None:
        assert said.endswith("out of reach") and f"Not the {run['methods'][keys.index(follow)]['name']}" in words(
            browser
        )
    else:
        assert f"accuracy {own[ACCURACY]:.1f} %" in said and f"{three(own[MADDS] / 1e6)} M MAdds" in said
        assert columns(browser) == {i: int(digit, 36) for i, digit in enumerate(own[EXITS])}
    check_words(words(browser), run, handle, rows, keys)


def check_words(text, run, handle, rows, keys):
    """Who wins, decided here once more: the cheapest for a target, else the most accurate."""
    able = [(row, run["methods"][i]) for i, row in enumerate(rows) if row]
    if not able:
        assert text.startswith("None of the methods shown")
        return
    order = (
        (lambda p: (p[0][MADDS], -p[0][ACCURACY])) if handle == "target" else (lambda p: (-p[0][ACCURACY], p[0][MADDS]))
    )
    best, method = min(able, key=order)
    assert text.startswith("Cheapest for a target of" if handle == "target" else "Most accurate for at most")
    assert (
        f": {method['name']} (" in text.split(", ")[0]
        and f"{best[ACCURACY]:.1f} % accurate" in text.split(". ")[0] + "."
    )


def three(value):
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def test_it_opens_where_it_was_stored_to_open(browser, run):
    check(browser, run, "target", run["start"]["position"])
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert [url for url in requests(browser) if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("handle", ["own", "target", "budget"])
def test_keys_move_every_handle_to_stored_numbers(browser, run, handle):
    last = len(run["handles"]["dynamic" if handle == "own" else handle]["at"]) - 1
    control = slider(browser, handle)
    for key, position in ((Keys.HOME, 0), (Keys.ARROW_RIGHT, 1), (Keys.END, last), (Keys.ARROW_LEFT, last - 1)):
        control.send_keys(key)
        check(browser, run, handle, position)
    for _ in range(4):
        control.send_keys(Keys.PAGE_DOWN)
        check(browser, run, handle, int(control.get_attribute("value")))


@pytest.mark.parametrize("follow", ["sequential", "confidence cascade"])
def test_images_follow_another_policy(browser, run, follow):
    Select(browser.find_element(By.CSS_SELECTOR, '[data-choice="follow"]')).select_by_value(follow)
    check(browser, run, "target", run["start"]["position"], follow)
    control = slider(browser, "own")
    control.send_keys(Keys.END)
    check(browser, run, "own", len(run["handles"][follow]["at"]) - 1, follow)


def test_the_mouse_drags_a_handle(browser, run):
    control = slider(browser, "budget")
    width, middle = control.rect["width"], int(control.get_attribute("max")) // 2
    chain = ActionChains(browser).move_to_element(control).click_and_hold()
    chain.move_by_offset(int(0.3 * width), 0).release().perform()
    position = int(control.get_attribute("value"))
    assert position > 1.3 * middle
    check(browser, run, "budget", position)


def test_a_finger_moves_a_handle(browser, run):
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        control = slider(browser, "target")
        place = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", control)
        y = place["y"] + place["height"] / 2
        for kind, share in (("touchStart", 0.5), ("touchMove", 0.4), ("touchMove", 0.25)):
            points = [{"x": place["x"] + share * place["width"], "y": y}]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        position = int(control.get_attribute("value"))
        assert 0.15 < position / int(control.get_attribute("max")) < 0.35
        check(browser, run, "target", position)
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_the_other_handles_follow(browser, run):
    slider(browser, "own").send_keys(Keys.HOME)
    own = members(run, "own", 0)[0]
    for handle, column in (("target", CALIBRATED), ("budget", BUDGET)):
        values = run["handles"][handle]["values"]
        nearest = min(abs(value - own[column]) for value in values)
        position = int(slider(browser, handle).get_attribute("value"))
        assert abs(values[position] - own[column]) == nearest


def test_an_image_shows_its_probabilities_and_costs(browser, run):
    exits, drawn = columns(browser), run["pictures"]
    for number in (5, 17):
        image = browser.find_element(By.CSS_SELECTOR, f'[data-image="{number}"]')
        image.click()
        assert image.get_attribute("aria-pressed") == "true"
        lines = browser.find_elements(By.CSS_SELECTOR, ".rdn-x-detail tbody tr")
        assert len(lines) == run["k"]
        for v, line in enumerate(lines):
            probability, answer, cost = (plain(cell.text) for cell in line.find_elements(By.TAG_NAME, "td"))
            assert probability == f"{drawn['p'][number][v]} %"
            assert answer == ("right" if drawn["right"][number][v] else "wrong")
            assert cost == f"{three(run['methods'][0]['costs'][v] / 1e6)} M"
            assert ("rdn-x-here" in line.get_attribute("class")) == (v == exits[number])
            bar = line.find_element(By.CSS_SELECTOR, ".rdn-x-bar")
            assert bar.value_of_css_property("width") != "0px" or drawn["p"][number][v] == 0


def test_arrow_keys_go_from_image_to_image(browser, run):
    order = [image.get_attribute("data-image") for image in browser.find_elements(By.CSS_SELECTOR, ".rdn-x-image")]
    browser.find_element(By.CSS_SELECTOR, f'[data-image="{order[3]}"]').click()
    for number in order[4:6]:
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        assert browser.switch_to.active_element.get_attribute("data-image") == number
    inside = browser.find_elements(By.CSS_SELECTOR, '.rdn-x-image[tabindex="0"]')
    assert [image.get_attribute("data-image") for image in inside] == [order[5]]


def test_a_method_that_is_switched_off_is_neither_drawn_nor_compared(browser, run):
    slider(browser, "budget").send_keys(Keys.END)
    rows = members(run, "budget", len(run["handles"]["budget"]["at"]) - 1)
    names = [(row[ACCURACY], method) for row, method in zip(rows, run["methods"], strict=False)]
    best = max(names, key=lambda pair: pair[0])[1]
    assert best["key"] == "base networks"  # and so not dynamic inference
    assert f": {best['name']} (" in words(browser)
    browser.find_element(By.CSS_SELECTOR, f'[data-method="{best["key"]}"] label').click()
    assert best["name"] not in words(browser)
    curve = browser.find_element(By.CSS_SELECTOR, f'.rdn-x-plane [id$="curve-{best["key"]}"]')
    assert not curve.is_displayed()
    rest = max((pair for pair in names if pair[1] is not best), key=lambda pair: pair[0])
    assert f"{rest[0]:.1f} % accurate" in words(browser)
    for method in run["methods"][:-1]:
        if method is not best:
            browser.find_element(By.CSS_SELECTOR, f'[data-method="{method["key"]}"] label').click()
    assert words(browser).startswith("None of the methods shown")


def test_chance_is_named_by_the_stored_interval(browser, run):
    slider(browser, "budget").send_keys(Keys.END)
    position, keys = len(run["handles"]["budget"]["at"]) - 1, [method["key"] for method in run["methods"]]
    rows = members(run, "budget", position)
    count, own, other = len(rows), keys.index("dynamic"), keys.index("base networks")
    pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
    half = run["handles"]["budget"]["half"][position][pairs.index((own, other))]
    gap = rows[own][ACCURACY] - rows[other][ACCURACY]
    assert gap < 0 and f"{-gap:.1f} points less accurate (±{half:.1f}, " in words(browser)
    assert ("more than chance" in words(browser)) == (-gap > half)


def test_the_papers_numbers(browser, page, run):
    paper = page[1][1]
    Select(browser.find_element(By.CSS_SELECTOR, '[data-choice="preset"]')).select_by_index(1)
    assert not slider(browser, "own").is_displayed()
    assert not browser.find_element(By.CSS_SELECTOR, ".rdn-x-columns").is_displayed()
    slider(browser, "budget").send_keys(Keys.END)
    for key, row in zip(table(browser, 1), members(paper, "budget", -1), strict=True):
        assert table(browser, 1)[key] == [row[LABEL], f"{row[ACCURACY]:.2f} %", f"{row[MADDS] / 1e6:.0f} M"]
    assert "±" not in words(browser) and "76.68 % accurate, 660 M MAdds" in words(browser)
    slider(browser, "target").send_keys(Keys.HOME)
    assert "250 M MAdds" in words(browser)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1000])
def test_it_fits_and_can_be_read_and_hit(browser, page, axe, theme, width):
    resize(browser, width, 1400)
    browser.get((page[0] / f"{theme}.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in (".rdn-x-image", ".rdn-x-plane[data-preset='0'] label", ".rdn-x-handles input", "select"):
        for element in browser.find_elements(By.CSS_SELECTOR, selector):
            assert min(element.rect["width"], element.rect["height"]) >= 24, selector
    for selector in (".rdn-x-words", ".rdn-x-share", "figcaption", "output", "td", ".rdn-x-plane text"):
        element = browser.find_element(By.CSS_SELECTOR, selector)
        assert contrast(*browser.execute_script(COLOURS, element)) >= 4.5, selector
    smallest = "return Math.min(...[...document.querySelectorAll('.rdn-x-plane:not([hidden]) svg text')].map(t => t.getBoundingClientRect().height))"
    assert browser.execute_script(smallest) >= 10
    browser.execute_script(axe)
    assert findings(browser) == []


def test_without_a_script_it_is_a_figure_with_a_table(browser, page):
    folder, (run, _) = page
    resize(browser, 400, 1400)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((folder / "light.html").as_uri())
        for selector in ("input", "select", ".rdn-x-words", ".rdn-x-detail"):
            assert not any(e.is_displayed() for e in browser.find_elements(By.CSS_SELECTOR, selector)), selector
        rows = members(run, "target", run["start"]["position"])
        assert table(browser)["dynamic"][1] == f"{rows[0][ACCURACY]:.1f} %"
        assert len(columns(browser)) == len(run["pictures"]["id"])
        assert browser.find_element(By.CSS_SELECTOR, ".rdn-x-plane svg").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_print_shows_what_is_on_the_screen(browser, run):
    slider(browser, "budget").send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element(By.CSS_SELECTOR, "select").is_displayed()
        assert not slider(browser, "budget").is_displayed()
        output = browser.find_element(By.CSS_SELECTOR, '[data-handle="budget"] output')
        assert plain(output.text) == f"{three(run['handles']['budget']['values'][1] / 1e6)} M"
        assert words(browser) and len(table(browser)) == len(run["methods"])
        for selector in (".rdn-x-columns", ".rdn-x-detail .rdn-x-bar", ".rdn-x-plane svg"):
            assert browser.find_element(By.CSS_SELECTOR, selector).is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
