"""The built book in a real browser, with the network closed: a miniature of the project, built by the real code."""

import functools
import http.server
import json
import re
import shutil
import sys
import tarfile
import threading
from pathlib import Path

import nbformat
import pytest
import yaml

selenium = pytest.importorskip("selenium")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from rdnlib.errors import RdnError  # noqa: E402
from rdnlib.reproduction.book import assets  # noqa: E402
from rdnlib.reproduction.book.build import reproduce  # noqa: E402

PROJECT = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"),
]

PARAMETERS = "profile = 'quick'\ndata_root = None\nseed = 0\nout = 'build'"
SLIDER = """
import numpy as np, pandas as pd
from rdnlib.reproduction.book.widgets import lambda_slider
madds = np.array([21e6, 33e6, 44e6, 52e6, 60e6])
accuracy = np.array([0.55, 0.64, 0.69, 0.71, 0.72])
t = np.linspace(0, 1, 200)
lam = 10.0 ** (4 * t - 3)
exits = np.stack([np.exp(-((t * 4 - k) ** 2)) for k in range(5)], axis=1)
exits /= exits.sum(axis=1, keepdims=True)
curve = pd.DataFrame({"lam": lam, "accuracy": 0.57 + 0.16 * t**0.6, "madds": exits @ madds})
curve[[f"exit_{k}" for k in range(1, 6)]] = exits
lambda_slider(curve, subnetworks=pd.DataFrame({"madds": madds, "accuracy": accuracy}))
"""
FIGURE = """
from rdnlib.nn.groups import sources
from rdnlib.reproduction.book import figures, structure, style
rows = [sources(j, 4, plain_input=False) for j in range(1, 8)]
sizes = [24, 24, 24, 24, 24, 24, 24]
style.show(structure.weight_blocks(rows, k=4, inputs=sizes, outputs=sizes), alt="which group reads which")
"""
CURVE = """
import pandas as pd
nan = float("nan")
frame = pd.DataFrame({
    "series": ["sub-networks"] * 5 + ["dynamic"] * 4 + ["dynamic, λ* calibrated"] * 2 + ["MobileNeXt", "MobileNeXt, longer"]
        + ["random mix of N_1 and N_K"] * 2 + ["oracle (first correct exit)"],
    "madds": [21e6, 33e6, 44e6, 52e6, 60e6, 25e6, 32e6, 40e6, 50e6, 34e6, 48e6, 48e6, 48e6, 21e6, 60e6, 29e6],
    "top1": [55, 64, 69, 71, 72, 60, 66, 70, 72, 67, 71.5, 70.5, 71.5, 55, 72, 78],
})
frame["low"], frame["high"] = frame["top1"] - 1, frame["top1"] + 1
style.show(figures.figure8(frame), alt="accuracy against MAdds")
"""
TABLE = "pd.DataFrame({'network': ['N1', 'N2'], 'top-1 (%)': [55.0, 64.0]}).style.hide()"
FRAME = "pd.DataFrame({'network': ['N1', 'N2'], 'top-1 (%)': [55.0, 64.0]})"


def notebook(title: str, *cells: str) -> nbformat.NotebookNode:
    made = nbformat.v4.new_notebook()
    made.cells = [
        nbformat.v4.new_markdown_cell(f"# {title}\n\nSome words and a formula: $f_\\lambda(x) = \\arg\\max_v$."),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(cell.strip()) for cell in cells),
    ]
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of a book with the project's own pages and configuration, and tiny notebooks of the real names."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "book", project / "book")
    shutil.copy(PROJECT / "_config.yml", project)
    (project / "notebooks").mkdir()
    toc = yaml.safe_load((PROJECT / "book" / "_toc.yml").read_text())
    chapters = [Path(c["file"]) for part in toc["parts"] for c in part["chapters"] if "/" in c["file"]]
    for chapter in chapters:
        cells = {
            "10_figure8": (SLIDER, "from rdnlib.reproduction.book import figures, style", CURVE),
            "01_nested_convolution": (FIGURE,),
            "09_table1": ("import pandas as pd", TABLE),
            "05_policy": ("import pandas as pd", FRAME),
        }.get(chapter.name, ("print('nothing here')",))
        nbformat.write(notebook(chapter.name, *cells), project / "notebooks" / f"{chapter.name}.ipynb")
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["rdnlib.reproduction.book.build"], "ensure_all", lambda *_, **__: None)
        index = reproduce("quick", out=out, project=project)
    assert index == out / "html" / "index.html"
    return index.parent


@pytest.fixture(scope="module")
def address(site):
    """The site on a local server."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visit(browser, url: str, *, width: int = 1280, theme: str = "light") -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(url)
    browser.execute_script(
        "localStorage.setItem('mode', arguments[0]); localStorage.setItem('theme', arguments[0])", theme
    )
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(url)
    if "10_figure8" in url:
        WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".noUi-handle[aria-label]"))


def requests(browser) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def shown(browser) -> dict[str, str]:
    """The numbers beside the curve, as the reader sees them."""
    frame = next(f for f in browser.find_elements(By.CSS_SELECTOR, ".rdn-frame") if f.is_displayed())
    names, values = (frame.find_elements(By.CSS_SELECTOR, f".rdn-numbers {tag}") for tag in ("span", "b"))
    return {name.text: value.text for name, value in zip(names, values, strict=True)}


PAGES = (
    "index",
    "notebooks/01_nested_convolution",
    "notebooks/09_table1",
    "notebooks/10_figure8",
    "reconstruction",
)


@pytest.mark.parametrize("page", PAGES)
def test_no_external_request_and_no_console_error(browser, address, page):
    visit(browser, f"{address}/{page}.html")
    urls = requests(browser)
    assert any(page in url for url in urls)
    assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


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
@pytest.mark.parametrize("page", PAGES)
def test_no_page_is_wider_than_the_window(browser, address, page, width):
    visit(browser, f"{address}/{page}.html", width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in (".rdn-figure svg", ".rdn-frame", ".rdn-slider .widget-hslider"):
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


# the colour of an element's text, and the first opaque background behind it
COLOURS = """
const parse = c => c.match(/[\\d.]+/g).map(Number);
const style = getComputedStyle(arguments[0]);
const ink = parse(arguments[0] instanceof SVGElement ? style.fill : style.color).slice(0, 3);
for (let e = arguments[0]; e; e = e.parentElement) {
  const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0.99) return [ink, c.slice(0, 3)];
}
return [ink, [255, 255, 255]];
"""


def contrast(one: list[float], other: list[float]) -> float:
    """The contrast ratio of two sRGB colours, as WCAG 2 defines it."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


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


AXE = assets.Package(
    name="axe-core",
    version="4.14.1",
    sha512="FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    root=".",
    files=(),
)
AUDIT = """
const done = arguments[0];
axe.run(document).then(report => done(report.violations.map(v => [v.id, v.nodes.map(n => n.html)])));
"""


@pytest.fixture(scope="module")
def axe() -> str:
    """The accessibility checker, kept in the same cache as the book's own front-end files."""
    try:
        archive = assets.fetch(AXE)
    except RdnError as error:
        pytest.skip(str(error))
    with tarfile.open(archive) as package:
        return package.extractfile("package/axe.min.js").read().decode()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_accessibility_checker_finds_nothing(browser, address, axe, page, theme):
    visit(browser, f"{address}/{page}.html", theme=theme)
    browser.execute_script(axe)
    assert browser.execute_async_script(AUDIT) == []
