"""Glossary links: the first use of a term in a chapter leads to its definition, which shows when the pointer rests on it.

A Sphinx extension rather than a role in the text, so that the notebooks show plain words where they are opened themselves.
"""

import re
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

CHAPTERS = "notebooks/"
EVERYDAY = {"copy", "exit", "group", "head", "interval", "points", "profile", "select"}  # too often not the term
APART = (nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.title, nodes.caption, nodes.table)


class GlossaryLinks(SphinxPostTransform):
    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs) -> None:
        chapter, terms = self.env.docname, self.env.get_domain("std").objects
        places = {term: place for (kind, term), place in terms.items() if kind == "term" and term not in EVERYDAY}
        if not chapter.startswith(CHAPTERS) or not places:
            return
        links = {}
        for glossary in {document for document, _ in places.values()}:
            page, meanings = (
                self.app.builder.get_relative_uri(chapter, glossary),
                definitions(self.env.get_doctree(glossary)),
            )
            for term, (document, anchor) in places.items():
                if document == glossary:
                    title = {"reftitle": meanings[anchor]} if anchor in meanings else {}
                    links[term.replace("\\", "").lower()] = {"refuri": f"{page}#{anchor}", **title}
        link_first_uses(self.document, links)


def definitions(glossary: nodes.document) -> dict[str, str]:
    """The anchor of each term → the first sentence of its definition; terms are left out where that needs LaTeX."""
    sentences = {}
    for item in glossary.findall(nodes.definition_list_item):
        paragraph = next(item.findall(nodes.paragraph))
        sentence = re.split(r"(?<=\.) ", " ".join(paragraph.astext().split()))[0]
        if "\\" not in sentence:
            sentences |= {anchor: sentence for term in item.findall(nodes.term) for anchor in term["ids"]}
    return sentences


def link_first_uses(document: nodes.document, links: dict[str, dict[str, str]]) -> None:
    """Make the first use of each term, a key of `links` in small letters, in prose a link with these attributes."""
    links = dict(links)
    for text in [text for text in document.findall(nodes.Text) if _is_prose(text)]:
        if pieces := list(_pieces(text.astext(), links)):
            text.parent.replace(text, pieces)


def _is_prose(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None and not isinstance(node, APART) and "cell_output" not in node.get("classes", ()):
        node = node.parent
    return node is None


def _pieces(text: str, links: dict[str, dict[str, str]]) -> Iterator[nodes.Node]:
    """`text` cut at the terms of `links` that it uses, which are taken out of `links`; nothing where it uses none."""
    if not links:
        return
    longest_first = "|".join(map(re.escape, sorted(links, key=len, reverse=True)))
    cut = 0
    for match in re.finditer(rf"(?<![\w-])({longest_first})(?:s|es)?(?![\w-])", text, re.IGNORECASE):
        if attributes := links.pop(match[1].lower(), None):
            yield nodes.Text(text[cut : match.start()])
            yield nodes.reference("", match[0], internal=True, classes=["rdn-term"], **attributes)
            cut = match.end()
    if cut:
        yield nodes.Text(text[cut:])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(GlossaryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
