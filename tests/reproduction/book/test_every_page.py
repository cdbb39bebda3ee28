"""What holds for every page of a book: links, requests, errors, accessibility, phones, print.

The book is a miniature with the project's own pages, and, where RDN_BUILT_BOOK names the `html` folder of a real one, that too.
"""

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("selenium")
from support.browser import findings, requests, resize, served, visit

MEGABYTES = 1.5  # of one page's HTML
SMALLEST = 10  # px of text in a figure at 400 px


@pytest.fixture(scope="module", params=["miniature", "RDN_BUILT_BOOK"])
def book(request) -> Path:
    """The folder of a built book."""
    if request.param == "miniature":
        return request.getfixturevalue("site")
    if request.param not in os.environ:
        pytest.skip("no real book is looked at: RDN_BUILT_BOOK, the `html` folder that `make book` made, is not set")
    return Path(os.environ[request.param])


@pytest.fixture(scope="module")
def pages(book) -> list[str]:
    found = sorted(str(path.relative_to(book)) for path in book.rglob("*.html") if "_static" not in path.parts)
    assert {"index.html", "404.html", "search.html", "notebooks/01_nested_convolution.html"} <= set(found)
    return found


class Page(HTMLParser):
    """The ids of a page, and what it links to and loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loaded, self.metas, self.titles = [], [], [], [], []
        self.base, self.words = None, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "base":
            self.base = given["href"]
        elif tag in ("a", "link") and given.get("rel") != "canonical" and "href" in given:
            (self.links if tag == "a" else self.loaded).append(given["href"])
        elif tag == "meta":
            self.metas.append((given.get("name") or given.get("property"), given.get("content")))
        if "src" in given:
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def parsed(book, pages) -> dict[str, Page]:
    return {page: Page(book / page) for page in pages}


def test_every_link_and_anchor_leads_somewhere(book, parsed):
    wrong = []
    for name, page in parsed.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data", "javascript"):
                continue
            target = (book / name).parent / unquote(parts.path) if parts.path else book / name
            other = str(target.resolve().relative_to(book.resolve())) if target.exists() else None
            anchor = unquote(parts.fragment)
            if other is None or (anchor and other in parsed and anchor not in parsed[other].ids):
                wrong.append(f"{name} → {link}")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(parsed):
    loaded = {name: [link for link in page.loaded if urlsplit(link).netloc] for name, page in parsed.items()}
    assert {name: links for name, links in loaded.items() if links} == {}


def test_no_id_is_given_twice(parsed):
    twice = {name: sorted({i for i in page.ids if page.ids.count(i) > 1}) for name, page in parsed.items()}
    assert {name: ids for name, ids in twice.items() if ids} == {}


def test_every_page_has_one_viewport_its_own_title_and_a_description(book, parsed):
    titles = {}
    for name, page in parsed.items():
        names = [key for key, _ in page.metas]
        assert names.count("viewport") == 1, name
        title = re.search(r"<title>(.*?)</title>", (book / name).read_text(encoding="utf-8"))[1]
        parts = re.split(r" &#8212; | - ", title)
        assert len(set(parts)) == len(parts), title
        assert titles.setdefault(title, name) == name, title
        if name not in ("404.html", "genindex.html", "py-modindex.html", "search.html"):
            assert len(dict(page.metas)["og:title"]) > 3
            assert 40 < len(dict(page.metas)["description"]) < 210 and names.count("description") == 1, name


def test_no_path_of_this_machine_is_published(book):
    texts = [path for path in book.rglob("*") if path.suffix in (".html", ".ipynb", ".js", ".md", ".svg")]
    assert [path for path in texts if str(book.parent) in path.read_text(encoding="utf-8", errors="ignore")] == []


def test_pages_are_light(book, pages):
    sizes = {page: (book / page).stat().st_size / 1e6 for page in pages}
    assert {page: size for page, size in sizes.items() if size > MEGABYTES} == {}


@pytest.fixture(scope="module")
def opened(book):
    with served(book) as address:
        yield address


# every table and figure wider than its box, by whether it says so and can be reached
OVERFLOWING = """
const article = document.querySelector(".bd-article, main"), wrong = []; // the search page has no article
for (const element of article.querySelectorAll("table, .rdn-figure svg, pre, img, mjx-container")) {
  if (!element.checkVisibility()) continue;
  const box = element.closest(".rdn-scroll, pre, .output, .math, mjx-container");
  const right = element.getBoundingClientRect().right;
  const marked = element.closest(".rdn-wide")?.dataset.more;
  const reached = box?.tabIndex === 0 && (box.matches("pre, .output") || box.getAttribute("aria-label"));
  const cut = box ? right > box.getBoundingClientRect().right + 1 : right > innerWidth;
  if (cut && !(box.matches("pre") || (marked?.includes("right") && reached)))
    wrong.push(element.outerHTML.slice(0, 120));
}
return wrong;
"""
SMALL_TEXT = """
const wrong = [];
for (const svg of document.querySelectorAll(".rdn-figure svg")) {
  if (!svg.checkVisibility()) continue;
  if (!svg.viewBox.baseVal?.width) continue; // an icon
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  for (const text of svg.querySelectorAll("text")) {
    const sizes = [text, ...text.querySelectorAll("tspan")].filter(e => e.textContent.trim() && !e.querySelector("tspan"));
    const size = scale * Math.max(...sizes.map(e => parseFloat(getComputedStyle(e).fontSize)));
    if (size < arguments[0] - 0.05) wrong.push([text.textContent.trim(), size]);
  }
}
return wrong;
"""


PRINTED = """
const shown = selector => [...document.querySelectorAll(selector)].some(element => element.checkVisibility());
const wrong = [".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", ".prev-next-footer"].filter(shown);
const right = document.querySelector(".bd-article, main").getBoundingClientRect().right;
for (const element of document.querySelectorAll(".bd-article :is(table, .rdn-figure svg, pre, img)"))
  if (element.checkVisibility() && element.getBoundingClientRect().right > right + 2)
    wrong.push(element.outerHTML.slice(0, 120));
return wrong;
"""
A4 = 688  # px between the margins


# colours change at once
STILL = "document.head.append(Object.assign(document.createElement('style'), {textContent: '*{transition:none!important}'}))"


@pytest.fixture(scope="module")
def seen(browser, opened, book, pages, axe) -> dict[str, dict[str, list]]:
    """What is wrong: aspect → page → problems. Every page is loaded once and looked at in every way, but for the miniature's chapters
    with nothing in them, and an error page that takes its styles from the address where the book will be published."""
    left_out = re.compile("nothing here|<base ")
    pages = [page for page in pages if not left_out.search((book / page).read_text(encoding="utf-8"))]
    wrong = {
        aspect: {} for aspect in ("requests", "errors", "light", "dark", "phone", "sideways", "cut", "small", "print")
    }
    visit(browser, f"{opened}/index.html")
    for page in pages:
        look = {aspect: found.setdefault(page, []) for aspect, found in wrong.items()}
        browser.get(f"{opened}/{page}")
        look["requests"] += [url for url in requests(browser) if not url.startswith((opened, "data:", "blob:"))]
        look["errors"] += [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        browser.execute_script(axe)
        browser.execute_script(STILL)
        for theme in ("dark", "light"):
            browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
            look[theme] += findings(browser)
        for width in (1280, 400):
            resize(browser, width)
            settle(browser)
            sideways = browser.execute_script("return document.documentElement.scrollWidth") - width
            look["sideways"] += [f"by {sideways} at {width} px"] * (sideways > 0)
            look["cut"] += browser.execute_script(OVERFLOWING)
        look["phone"] += findings(browser)
        look["small"] += browser.execute_script(SMALL_TEXT, SMALLEST)
        resize(browser, A4)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        settle(browser)
        look["print"] += browser.execute_script(PRINTED)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        resize(browser, 1280)
    return {aspect: {page: found for page, found in by_page.items() if found} for aspect, by_page in wrong.items()}


def settle(browser) -> None:
    """Wait until the page has noticed its new size; the theme does after 300 ms."""
    browser.execute_async_script("setTimeout(() => requestAnimationFrame(arguments[0]), 400)")


@pytest.mark.slow
@pytest.mark.parametrize("aspect", ["requests", "errors"])
def test_no_request_leaves_and_no_error_is_logged(seen, aspect):
    assert seen[aspect] == {}


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_accessibility_checker_finds_nothing(seen, look):
    assert seen[look] == {}


@pytest.mark.slow
def test_no_page_scrolls_sideways(seen):
    assert seen["sideways"] == {}


@pytest.mark.slow
def test_what_is_wider_than_the_page_says_so_and_can_be_reached_by_keyboard(seen):
    assert seen["cut"] == {}


@pytest.mark.slow
def test_figures_can_be_read_on_a_phone(seen):
    assert seen["small"] == {}


@pytest.mark.slow
def test_on_paper_there_is_the_article_alone_and_nothing_is_cut_off(browser, opened, seen):
    assert seen["print"] == {}
    browser.get(f"{opened}/index.html")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
