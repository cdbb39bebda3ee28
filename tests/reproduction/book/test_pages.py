"""What a page has around its text: addresses, footer, head, downloads, sitemap, and notebooks for Colab."""

import json
import xml.etree.ElementTree as ElementTree

import nbformat
import pytest
from docutils.core import publish_doctree

import rdnlib
from rdnlib.errors import ConfigError
from rdnlib.reproduction.book import colab, pages
from rdnlib.utils.resources import resource


@pytest.fixture(autouse=True)
def no_addresses(monkeypatch):
    for name in ("RDN_REPOSITORY", "RDN_SITE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_repository_there_are_no_buttons():
    config = pages.configured({"repository": {"url": "", "branch": "main"}}, "<p>about</p>")
    assert config["html"] == {"baseurl": "", "extra_footer": "<p>about</p>"}
    assert "launch_buttons" not in config


def test_the_address_stands_in_one_place_and_the_environment_comes_first(monkeypatch):
    settings = {"repository": {"url": "https://github.com/a/b/"}, "html": {"baseurl": "https://a.github.io/b"}}
    config = pages.configured(settings, "")
    assert config["repository"]["url"] == "https://github.com/a/b"
    assert config["html"]["baseurl"] == "https://a.github.io/b/"
    assert config["html"]["use_edit_page_button"] and config["launch_buttons"]["colab_url"]
    monkeypatch.setenv("RDN_REPOSITORY", "https://github.com/c/d")
    monkeypatch.setenv("RDN_SITE", "https://c.github.io/d/")
    config = pages.configured(settings, "")
    assert (config["repository"]["url"], config["html"]["baseurl"]) == (
        "https://github.com/c/d", "https://c.github.io/d/",
    )  # fmt: skip


def test_the_footer_says_when_and_where_the_results_were_made(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "provenance", lambda: {"commit": "0123456789abcdef-dirty"})
    hardware = {"cpu": "Some <CPU>", "cores": 2, "memory_gb": 8.0, "gpus": ["A card"]}
    paths = []
    for day in (3, 1, 2):
        paths.append(tmp_path / f"{day}.json")
        record = {"started": f"2026-01-0{day}T10:00:00+00:00", "hardware": hardware}
        paths[-1].write_text(json.dumps({"provenance": record}))
    text = pages.footer("quick", "seed 0", paths)
    assert "profile <b>quick</b>, seed 0" in text
    assert "Results of 2026-01-01 to 2026-01-03, from Some &lt;CPU&gt;, 2 cores, A card." in text
    assert f"rdnlib {rdnlib.__version__}, commit 0123456789, with changes." in text
    assert "<p>Published results of profile <b>quick</b>, seed 0.</p>" in pages.footer(
        "quick", "seed 0", paths, published=True
    )
    assert "Results of 2026-01-03, from" in pages.footer("quick", "seed 0", paths[:1])
    monkeypatch.setattr(pages, "provenance", lambda: {"commit": None})
    assert pages.footer("quick", "seed 0", []).endswith(f"<p>rdnlib {rdnlib.__version__}.</p>")


def test_a_description_is_the_first_words_without_a_formula_cut_at_a_word():
    text = "Title\n=====\n\nShort.\n\nThis paragraph has a formula :math:`x^2` and is long enough.\n\n"
    assert pages.description(publish_doctree(f"{text}A\nparagraph of words alone, as long as needed here.")) == (
        "A paragraph of words alone, as long as needed here."
    )
    long = pages.description(publish_doctree(f"{text}{'word ' * 100}"))
    assert long.endswith("word …") and len(long) <= pages.DESCRIPTION + 2
    assert pages.description(publish_doctree(text)) == ""


def test_plain_words_of_html():
    assert pages.plain("<p>a &lt; b</p><svg><text>no</text></svg><script>no</script><b>c</b>") == "a < b c"


def test_one_viewport_and_no_script_of_icons_are_left():
    viewport = '<meta name="viewport" content="width=device-width"/>'
    icons = '<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>'
    other = '<script src="../_static/rdn.js"></script>'
    page = f"<head>{viewport}<title>T</title>{icons}{other}\n<meta content='x' name=\"viewport\"></head>"
    assert pages.tidy(page) == f"<head>{viewport}<title>T</title>{other}\n</head>"
    assert pages.tidy("<p>none</p>") == "<p>none</p>"


def test_a_download_has_no_paths_of_this_machine():
    cells = [
        nbformat.v4.new_code_cell("out = None", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("out = '/here'", metadata={"tags": ["injected-parameters", "remove-cell"]}),
        nbformat.v4.new_code_cell("print(out)"),
    ]
    notebook = pages.to_download(nbformat.v4.new_notebook(cells=cells))
    assert [cell.source for cell in notebook.cells] == ["out = None", "print(out)"]


def test_sitemap():
    root = ElementTree.fromstring(pages.sitemap("https://a.io/b/", ["index.html", "x/y&z.html"]).encode())
    assert [place.text for place in root.findall(".//{*}loc")] == [
        "https://a.io/b/index.html",
        "https://a.io/b/x/y&z.html",
    ]


def test_colab_notebooks_first_install_the_library(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="RDN_REPOSITORY"):
        colab.write(tmp_path)
    monkeypatch.setenv("RDN_REPOSITORY", "https://github.com/owner/name")
    written = colab.write(tmp_path)
    own = sorted(resource("notebooks").glob("[0-9]*.ipynb"))
    assert [path.name for path in written] == [path.name for path in own]
    for path, original in zip(written, own, strict=True):
        first, *others = nbformat.read(path, as_version=4).cells
        assert first.source == "%pip install --quiet 'rdnlib @ git+https://github.com/owner/name@main'"
        assert [cell.source for cell in others] == [cell.source for cell in nbformat.read(original, as_version=4).cells]
