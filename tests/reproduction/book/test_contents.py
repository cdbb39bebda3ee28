"""The chapters as the table of contents has them, and the runs with the chapters whose code reads them."""

import json

import numpy as np
import pytest
import yaml

from rdnlib.reproduction.book import contents
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import load_profile
from rdnlib.utils.resources import resource

PROFILES = ("quick", "laptop", "pretrained", "gpu", "imagenet")


def test_chapters_are_the_notebooks_in_order():
    chapters = contents.chapters()
    assert {chapter.name for chapter in chapters} == {path.stem for path in resource("notebooks").glob("[0-9]*.ipynb")}
    assert [chapter.number for chapter in chapters] == [int(chapter.name[:2]) for chapter in chapters]
    assert chapters[0].link == "[0 · Why should a network adapt to its image?](00_why.ipynb)"


def test_the_landing_page_links_to_every_page():
    toc = yaml.safe_load(resource("book/_toc.yml").read_text(encoding="utf-8"))
    index = resource("book/index.md").read_text(encoding="utf-8")
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [file for file in files if f"{{doc}}`{file}`" not in index] == []


@pytest.mark.parametrize("ablations", [True, False])
@pytest.mark.parametrize("name", PROFILES)
def test_every_run_is_in_the_table_and_in_a_chapter(name, ablations):
    profile = load_profile(name)
    if not ablations:  # as what is published of a run may be
        profile = profile.like({key: value for key, value in profile.settings().items() if key != "ablations"})
    table = contents.runs(profile)
    assert list(table["run"]) == list(graph.experiments(profile, 0))
    assert list(table["run"][table["chapters"] == ""]) == []
    assert (table["px"] == profile.recipe.size).all()


def test_a_run_has_its_own_settings_and_the_network_of_its_base():
    profile = load_profile("quick")
    rows = contents.runs(profile, seeds=2).set_index("run")
    assert rows["seeds"].eq(2).all() and contents.runs(profile)["seeds"].max() == profile.seeds.main
    width = profile.model.width_mult
    assert rows.loc[["base", "base-longer", "policy-copy"], "network"].eq(f"mobilenext {width}").all()
    base, longer, copy = (rows.loc[name] for name in ("base", "base-longer", "rdn-copy"))
    assert (base["epochs"], base["lr"]) == (profile.base.epochs, profile.base.lr)
    assert (longer["epochs"], longer["lr"]) == (profile.rdn.epochs, profile.rdn.lr["base"])
    assert (copy["select"], copy["init"], copy["lr"]) == (profile.rdn.select, "copy", profile.rdn.lr["copy"])
    assert (rows.loc["rdn-scratch", "select"], rows.loc["rdn-scratch", "init"]) == ("", "scratch")
    surgery = rows.loc["surgery-mobilenext"]
    assert surgery["epochs"] == 0 and np.isnan(surgery["lr"])


def test_what_a_chapter_reads_is_found_in_its_code(tmp_path, monkeypatch):
    code = 'runs = ensure(w, "base"), [ensure(w, f"policy-{init}") for init in INITS]\nnames = graph.table4(profile)\nx = "rdn-"'
    cells = [("markdown", "# 7 · Why `rdn-scratch`?"), ("code", code)]
    notebook = {"cells": [{"cell_type": kind, "source": [text]} for kind, text in cells]}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks" / "07_x.ipynb").write_text(json.dumps(notebook))
    toc = {"parts": [{"caption": "P", "chapters": [{"file": "notebooks/07_x"}, {"file": "references"}]}]}
    (tmp_path / "book" / "_toc.yml").write_text(yaml.safe_dump(toc))
    monkeypatch.setattr(contents, "resource", tmp_path.joinpath)
    profile = load_profile("quick")
    assert contents.chapters() == [("P", "07_x", "7 · Why `rdn-scratch`?")]
    expected = {"base", "policy-copy", "policy-reconstruct", "rdn-greedy", "rdn-random", graph.reference(profile)}
    assert contents.shown_in(profile) == {name: [7] for name in expected}
    # a section that the profile has not
    assert set(contents.shown_in(profile.model_copy(update={"ablations": None}))) == {
        "base",
        "policy-copy",
        "policy-reconstruct",
    }


def test_a_reader_is_known_by_its_module_where_its_name_is_a_common_one(tmp_path, monkeypatch):
    profile = load_profile("quick")
    cells = {
        "levers = lever_table(e)": {"base"},
        "levers = worth.levers(e)": {"rdn-random", "rdn-only-largest", "rdn-paper"},
    }
    for code, names in cells.items():
        monkeypatch.setattr(contents, "_cells", lambda name, code=code: [{"cell_type": "code", "source": [code]}])
        found = {*contents._read_by("x", profile)}
        assert names <= found and ("rdn-random" in found) == ("rdn-random" in names)


def test_numbers_that_follow_each_other_are_joined():
    assert contents.spans([1, 3, 4, 5, 7, 8]) == "1, 3–5, 7, 8"
    assert contents.spans([]) == ""
