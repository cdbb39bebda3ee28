"""Terms of the glossary in the text of a chapter."""

import re

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from sphinx.application import Sphinx

from rdnlib.reproduction.book.terms import Term, link_first_uses

GLOSSARY = r"""# Glossary

```{glossary}
RDN
Russian Doll Network
  One network with several inside. It is nested.

sub-network
  $N_i$, one inside an {term}`RDN`: it has a number. Small.

saved fraction
  The formula $r_v = \frac{1}{2}$ says it.

copy
  The paper's initialisation.

λ
  A weight.

λ\*
  The smallest weight.

oracle
  Knows the label.
```
"""
CHAPTER = r"""# An RDN and its oracle

| the oracle | an RDN |
|---|---|
| oracle | 1 |

$$\text{cost of the oracle}$$

`oracle`, [an oracle](x), $\text{oracle}$.

A Russian Doll Network (RDN) has sub-networks, a copy of `sub-network`, λ*, then λ and λ*, a Sub-network, the RDN, a non-RDN
and a saved fraction. The oracle.
"""


@pytest.fixture(scope="module")
def links(tmp_path_factory):
    """(address, title, words) of the links in a chapter that was built beside a glossary."""
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
    link = r'<a class="rdn-term reference internal" href="\.\./glossary\.html#([^"]*)"(?: title="([^"]*)")?>([^<]*)</a>'
    return re.findall(link, (out / "notebooks" / "one.html").read_text())


def test_the_first_use_of_each_term_is_a_link_that_shows_the_definition(links):
    assert [link for link in links if "λ" not in link[2]] == [
        ("term-Russian-Doll-Network", "One network with several inside.", "Russian Doll Network"),  # and not RDN again
        ("term-sub-network", "N_i, one inside an RDN: it has a number.", "sub-networks"),
        ("term-saved-fraction", "", "saved fraction"),
        ("term-oracle", "Knows the label.", "oracle"),  # in no title, table, code, formula or link
    ]
    assert [link[1:] for link in links if "λ" in link[2]] == [("The smallest weight.", "λ*"), ("A weight.", "λ")]


def test_the_text_stays_as_it_was_and_a_longer_term_is_not_taken_for_a_shorter_one():
    text = "The policy network, policies and the policy network.\n\nIts policy, the policy network, a policy."
    document = publish_doctree(text)
    before = document.astext()
    link_first_uses(document, {term: Term(f"#{term}", term) for term in ("policy", "policy network", "absent")})
    assert document.astext() == before
    assert [link.astext() for link in document.findall(nodes.reference)] == ["policy network", "policy"]


def test_outputs_of_cells_have_no_links():
    document = publish_doctree(".. container:: cell_output\n\n   An oracle.\n\nThe oracle.")
    link_first_uses(document, {"oracle": Term("#oracle", "Knows.")})
    (link,) = document.findall(nodes.reference)
    assert "cell_output" not in link.parent.parent.get("classes", ())
