"""Headless Chromium with the network closed, and what tests ask it about a page."""

import functools
import http.server
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver

from rdnlib.reproduction.book import assets

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NEEDED = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs a browser: apt-get install chromium chromium-driver"),
]
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


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a local server of the folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def chromium(profile: Path) -> webdriver.Chrome:
    """A new browser; `profile` is the folder of its own files."""
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
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def resize(browser, width: int, height: int = 900) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def visit(browser, url: str, *, width: int = 1280, theme: str = "light") -> None:
    resize(browser, width)
    browser.get(url)
    browser.execute_script(
        "localStorage.setItem('mode', arguments[0]); localStorage.setItem('theme', arguments[0])", theme
    )
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(url)


def requests(browser) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


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


def axe_script() -> str:
    """The accessibility checker, kept in the same cache as the book's own front-end files."""
    with tarfile.open(assets.fetch(AXE)) as package:
        return package.extractfile("package/axe.min.js").read().decode()


def findings(browser) -> list:
    """What the accessibility checker, whose script the page has, finds wrong."""
    return browser.execute_async_script(AUDIT)
