"""Glossary links: the first use of a term in a chapter leads to its definition, which shows when the pointer rests on it.

A Sphinx extension rather than a role in the text, so that the notebooks show plain words where they are opened themselves.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

CHAPTERS = "notebooks/"
# words that chapters also use in another sense
AMBIGUOUS = {
    "base network", "copy", "exit", "group", "head", "interval", "points", "profile", "select", "trained equally long",
}  # fmt: skip
NOT_PROSE = (
    nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment,
    nodes.title, nodes.caption, nodes.table,
)  # fmt: skip


@dataclass(frozen=True)
class Term:
    """Where a term leads, relative to the chapter, and its definition; terms of one definition are synonyms."""

    address: str
    definition: str


class GlossaryLinks(SphinxPostTransform):
    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs) -> None:
        chapter, objects = self.env.docname, self.env.get_domain("std").objects
        places = {term: place for (kind, term), place in objects.items() if kind == "term" and term not in AMBIGUOUS}
        if not chapter.startswith(CHAPTERS) or not places:
            return
        glossaries = {document: definitions(self.env.get_doctree(document)) for document, _ in places.values()}
        link_first_uses(self.document, {
            term.replace("\\", "").lower(): Term(
                f"{self.app.builder.get_relative_uri(chapter, document)}#{anchor}", glossaries[document][anchor]
            )
            for term, (document, anchor) in places.items()
        })  # fmt: skip


def definitions(glossary: nodes.document) -> dict[str, str]:
    """The anchor of each term → the first sentence of its definition."""
    found = {}
    for item in glossary.findall(nodes.definition_list_item):
        text = " ".join(next(item.findall(nodes.paragraph)).astext().split())
        sentence = re.split(r"(?<=\.) ", text)[0]
        found |= {anchor: sentence for term in item.findall(nodes.term) for anchor in term["ids"]}
    return found


def link_first_uses(document: nodes.document, terms: dict[str, Term]) -> None:
    """Make the first use in prose of each definition's terms, the keys of `terms` in small letters, a link."""
    longest_first = "|".join(map(re.escape, sorted(terms, key=len, reverse=True)))
    pattern = re.compile(rf"(?<![\w-])({longest_first})(?:s|es)?(?![\w*-])", re.IGNORECASE)
    used: set[str] = set()
    for text in [text for text in document.findall(nodes.Text) if _is_prose(text)]:
        text.parent.replace(text, list(_pieces(text.astext(), pattern, terms, used)))


def _is_prose(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None and not isinstance(node, NOT_PROSE) and "cell_output" not in node.get("classes", ()):
        node = node.parent
    return node is None


def _pieces(text: str, pattern: re.Pattern, terms: dict[str, Term], used: set[str]) -> Iterator[nodes.Node]:
    """`text` cut at the terms in it whose definitions are not in `used`, which gets them."""
    cut = 0
    for match in pattern.finditer(text):
        term = terms[match[1].lower()]
        if term.definition not in used:
            used.add(term.definition)
            title = {} if "\\" in term.definition else {"reftitle": term.definition}  # LaTeX does not read well
            yield nodes.Text(text[cut : match.start()])
            yield nodes.reference("", match[0], internal=True, classes=["rdn-term"], refuri=term.address, **title)
            cut = match.end()
    yield nodes.Text(text[cut:])


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(GlossaryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
