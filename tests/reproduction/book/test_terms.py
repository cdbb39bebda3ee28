"""Terms of the glossary in the text of a chapter."""

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from sphinx.application import Sphinx

from rdnlib.reproduction.book.terms import link_first_uses

GLOSSARY = """# Glossary

```{glossary}
RDN
Russian Doll Network
  One network with several inside. It is nested.

sub-network
  $N_i$, one inside an {term}`RDN`: it has a number. Small.

saved fraction
  The formula $r_v = \\frac{1}{2}$ says it.

copy
  The paper's initialisation.
```
"""
CHAPTER = """# An RDN

An RDN (Russian Doll Network) has sub-networks, a copy of `sub-network`, a [sub-network](x), then a Sub-network, the RDN,
a non-RDN and a saved fraction.
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """HTML of a chapter that was built beside a glossary."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "notebooks").mkdir()
    (folder / "conf.py").write_text(
        'extensions = ["rdnlib.reproduction.book.terms", "myst_parser"]\nmyst_enable_extensions = ["dollarmath"]\n'
        "suppress_warnings = ['toc', 'myst']\n"
    )
    (folder / "index.md").write_text("# Book\n\nAn RDN.\n\n```{toctree}\nglossary\nnotebooks/one\n```\n")
    (folder / "glossary.md").write_text(GLOSSARY)
    (folder / "notebooks" / "one.md").write_text(CHAPTER)
    out = folder / "out"
    Sphinx(folder, folder, out, folder / "cache", "html", status=None, warning=None).build()
    assert "rdn-term" not in (out / "index.html").read_text() + (out / "glossary.html").read_text()
    return (out / "notebooks" / "one.html").read_text()


def test_the_first_use_of_each_term_is_a_link_that_shows_the_definition(page):
    link = '<a class="rdn-term reference internal" href="../glossary.html#term-{}" title="{}">{}</a>'
    for anchor, title, words in (
        ("RDN", "One network with several inside.", "RDN"),
        ("Russian-Doll-Network", "One network with several inside.", "Russian Doll Network"),
        ("sub-network", "N_i, one inside an RDN: it has a number.", "sub-networks"),
    ):
        assert page.count(link.format(anchor, title, words)) == 1
    assert (
        '<a class="rdn-term reference internal" href="../glossary.html#term-saved-fraction">saved fraction</a>' in page
    )
    assert page.count("rdn-term") == 4  # no other use, no title, no code, no word of everyday


def test_the_text_stays_as_it_was():
    text = "A policy, policies, the policy network and its policy.\n\nThe policy network."
    document = publish_doctree(text)
    before = document.astext()
    link_first_uses(document, {term: {"refuri": f"#{term}"} for term in ("policy", "policy network", "absent")})
    assert document.astext() == before
    assert [link.astext() for link in document.findall(nodes.reference)] == ["policy", "policy network"]
