"""The pages of reference: the library's interface and its docstrings, the glossary, the literature."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from docutils.core import publish_doctree

import rdnlib
from rdnlib.reproduction.book.apidoc import process

BOOK = Path(__file__).resolve().parents[3] / "book"
API = (BOOK / "api.md").read_text()
NAMES = re.findall(r"auto(?:function|class):: (\S+)", API)
MODULES = re.findall(r"automodule:: (\S+)\n   :members:(.*)", API)


def find(name: str):
    """What a dotted name stands for; a package may have a function of the same name as one of its modules."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def documented() -> dict[str, object]:
    """Everything on the page by its name: functions, classes with their members, and members of modules."""
    found = {name: find(name) for name in NAMES}
    for name, members in re.findall(r"autoclass:: (\S+)\n   :members: (.*)", API):
        found |= {f"{name}.{member}": getattr(find(name), member) for member in members.split(", ")}
    for name, members in MODULES:
        module = importlib.import_module(name)
        own = (
            members.strip().split(", ")
            if members.strip()
            else [n for n, _ in inspect.getmembers(module, inspect.isclass)]
        )
        found |= {f"{name}.{member}": getattr(module, member) for member in own}
    return found


def test_the_whole_public_interface_is_on_the_page():
    own = {item for item in documented().values() if inspect.isroutine(item) or inspect.isclass(item)}
    assert [name for name in rdnlib.__all__ if getattr(rdnlib, name) not in own] == []


@pytest.mark.parametrize(("name", "item"), documented().items(), ids=documented())
def test_a_docstring_is_sound_markup(name, item):
    lines = inspect.cleandoc(inspect.getdoc(item) or "").splitlines()
    assert lines, f"{name} has no docstring"
    process(None, "", name, item, None, lines)
    settings = {"report_level": 2, "halt_level": 2}  # a warning is an error, as when the book is built
    tree = publish_doctree("\n".join(lines), settings_overrides=settings)
    assert tree.astext().strip()


@pytest.mark.parametrize("module", [name for name, _ in MODULES])
def test_a_module_s_docstring_is_sound_markup(module):
    publish_doctree(
        inspect.getdoc(importlib.import_module(module)), settings_overrides={"report_level": 2, "halt_level": 2}
    )


def test_parameters_of_to_rdn_are_fields():
    lines = inspect.getdoc(rdnlib.to_rdn).splitlines()
    process(None, "function", "to_rdn", rdnlib.to_rdn, None, lines)
    fields = {line.split(":")[1].removeprefix("param ") for line in lines if line.startswith(":param")}
    assert fields == set(inspect.signature(rdnlib.to_rdn).parameters)


def test_the_glossary_has_the_vocabulary():
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", (BOOK / "glossary.md").read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    terms = [line for line in lines if line and not line.startswith(" ")]
    assert len(terms) == len(set(terms))
    wanted = (
        "super-net,sub-network,group,channel space,violating connection,counterpart,inflation,select,head,align layer,"
    )
    wanted += "shared classifier,nesting order,policy,saved fraction,ε,λ,MAdds,exit,base network"
    assert set(wanted.split(",")) <= set(terms)


def test_works_that_are_cited_are_listed_and_can_be_found():
    entries = re.split(r"\n(?=@)", (BOOK / "references.bib").read_text())
    works = {re.match(r"@\w+\{(\w+)", entry)[1]: re.search(r"doi\s*= \{(10\.[^}]+)\}", entry) for entry in entries}
    page = (BOOK / "references.md").read_text()
    cited = {key for keys in re.findall(r"\{cite(?::t)?\}`([^`]+)`", page) for key in keys.split(",")}
    assert cited == set(works)
    assert [key for key, doi in works.items() if doi is None] == ["jiang2021rdn"]  # whose number we are not sure of
