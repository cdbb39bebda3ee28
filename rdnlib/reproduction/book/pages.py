"""What the theme leaves undone on a page: its head, its way back to the repository, the footer, and what a site has beside its pages.

A Sphinx extension, named in `_config.yml`. The address of the repository and that of the site are set there, once each, or by
the environment variables RDN_REPOSITORY and RDN_SITE; where they are empty the book has no links to them.
"""

import html
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

import rdnlib
from rdnlib.utils.files import read_json, write_text
from rdnlib.utils.provenance import provenance

BUTTONS = ("use_repository_button", "use_edit_page_button", "use_issues_button")
LAUNCH = {
    "notebook_interface": "jupyterlab",
    "binderhub_url": "https://mybinder.org",
    "colab_url": "https://colab.research.google.com",
}
COLAB_BRANCH = "colab"  # its notebooks install what they need, see colab.py
NOT_FOUND = """<section><h1>Page not found</h1>
<p>The book has no page of this name. <a href="index.html">Begin at its first page</a>, or <a href="search.html">search it</a>.</p></section>"""
DESCRIPTION = 200  # characters of it that search engines show


def configured(config: dict[str, Any], about: str) -> dict[str, Any]:
    """The settings of `_config.yml` with the footer `about`, the addresses, and buttons where there is a repository."""
    repository, page = config.setdefault("repository", {}), config.setdefault("html", {})
    repository["url"] = (os.environ.get("RDN_REPOSITORY") or repository.get("url") or "").rstrip("/")
    site = (os.environ.get("RDN_SITE") or page.get("baseurl") or "").rstrip("/")
    page |= {"baseurl": f"{site}/" if site else "", "extra_footer": about}
    if repository["url"]:
        page |= dict.fromkeys(BUTTONS, True)
        config["launch_buttons"] = LAUNCH
    return config


def footer(profile: str, numbers: str, results: Iterable[Path], *, published: bool = False) -> str:
    """HTML: what the book was built from. results: the `result.json` of its experiments, which say when and where they ran."""
    records = [read_json(path)["provenance"] for path in results]
    days = sorted({record["started"][:10] for record in records})
    machines = sorted({machine(record["hardware"]) for record in records})
    revision = provenance()["commit"]
    built = "Published results of profile" if published else "Built with profile"
    lines = [f"{built} <b>{html.escape(profile)}</b>, {numbers}."]
    if days:
        lines.append(
            f"Results of {' to '.join(dict.fromkeys((days[0], days[-1])))}, from {html.escape('; '.join(machines))}."
        )
    lines.append(f"rdnlib {rdnlib.__version__}{f', commit {short(revision)}' if revision else ''}.")
    return "".join(f"<p>{line}</p>" for line in lines)


def machine(hardware: dict[str, Any]) -> str:
    """Processor, cores and graphics cards in words."""
    cores = f"{hardware['cores']} core{'s' if hardware['cores'] != 1 else ''}"
    return ", ".join([hardware["cpu"], cores, *hardware["gpus"]])


def short(revision: str) -> str:
    """A commit in ten digits, and whether files were changed since."""
    return revision[:10] + (", with changes" if revision.endswith("-dirty") else "")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", _head)
    app.connect("html-page-context", _open_in_colab, priority=502)  # after the theme has made its buttons
    app.connect(
        "html-collect-pages", lambda app: [("404", {"title": "Page not found", "body": NOT_FOUND}, "page.html")]
    )
    app.connect("build-finished", _finish)
    app.rdn_texts = {}
    return {"parallel_read_safe": True, "parallel_write_safe": False}


def _head(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    title, book, tags = plain(context.get("title", "")), app.config.html_title, []
    if doctree is not None:
        app.rdn_texts[name] = plain(context["body"])
        tags += [
            ("property", "og:type", "article"),
            ("property", "og:title", title),
            ("property", "og:site_name", book),
        ]
        if text := description(doctree):
            tags += [("name", "description", text), ("property", "og:description", text)]
        if app.config.html_baseurl:
            tags.append(("property", "og:url", context["pageurl"]))
    head = "\n".join(f'<meta {kind}="{key}" content="{html.escape(value)}"/>' for kind, key, value in tags)
    if name == "404" and app.config.html_baseurl:  # it is shown in place of a page of any folder
        head = f'<base href="{html.escape(app.config.html_baseurl)}"/>'
    context["metatags"] = context.get("metatags", "") + head
    if title == plain(book):
        context["docstitle"] = ""
    context["doc_path"] = (
        "" if name.startswith("notebooks/") else "book"
    )  # folder of the page's source in the repository


def description(doctree: nodes.document) -> str:
    """A page's first paragraph of words alone, as far as search engines show it."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) > 40 and not any(paragraph.findall(lambda node: isinstance(node, nodes.math | nodes.pending))):
            return text if len(text) <= DESCRIPTION else text[: text.rindex(" ", 0, DESCRIPTION)] + " …"
    return ""


def plain(markup: str) -> str:
    """The words of HTML."""
    markup = re.sub(r"(?s)<(script|style|svg)\b.*?</\1>|<[^>]+>", " ", markup)
    return " ".join(html.unescape(markup).split())


def _open_in_colab(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    branch = app.config.html_theme_options.get("repository_branch", "")
    for group in context.get("header_buttons", ()):
        for button in group.get("buttons", ()):
            if button["text"] == "Colab":
                button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{COLAB_BRANCH}/")


def _finish(app: Sphinx, failed: Exception | None) -> None:
    if failed is not None:
        return
    folder, site = Path(app.outdir), app.config.html_baseurl
    for page in folder.rglob("*.html"):
        write_text(page, tidy(page.read_text(encoding="utf-8")))
    for notebook in (folder / "_sources").rglob("*.ipynb"):
        nbformat.write(to_download(nbformat.read(notebook, as_version=4)), notebook)
    texts = {f"{name}.html": text for name, text in sorted(app.rdn_texts.items())}
    write_text(folder / "_static" / "searchtexts.js", f"window.rdnTexts = {json.dumps(texts, ensure_ascii=False)};\n")
    for unused in [*(folder / "_static").rglob("*.map"), folder / "_static" / "scripts" / "fontawesome.js"]:
        unused.unlink(missing_ok=True)
    if site:
        write_text(folder / "sitemap.xml", sitemap(site, texts))


def tidy(page: str) -> str:
    """A page with one viewport, and without the 1.5 MB script of icons that the theme's style sheet draws as well."""
    page = re.sub(r"<script[^>]*/fontawesome\.js[^>]*></script>", "", page)
    viewports = re.compile(r'<meta\b[^>]*\bname="viewport"[^>]*>')
    first = viewports.search(page)
    return page if first is None else page[: first.end()] + viewports.sub("", page[first.end() :])


def to_download(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The executed notebook without the cell of this run's parameters: its paths exist on this machine only."""
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    return notebook


def sitemap(site: str, pages: Iterable[str]) -> str:
    """A sitemap of the pages, whose paths are relative to `site`."""
    places = "".join(f"  <url><loc>{html.escape(site + page)}</loc></url>\n" for page in pages)
    head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    return f"{head}{places}</urlset>\n"
