"""What the library reads is found beside it in a checkout; where results go."""

from pathlib import Path

import pandas as pd

from rdnlib.utils import resources


def test_a_checkout_has_its_resources_beside_the_library(tmp_path, monkeypatch):
    project = resources.checkout()
    assert (project / "rdnlib" / "utils" / "resources.py").samefile(resources.__file__)
    for name in ("notebooks/profiles/quick.yaml", "book/_toc.yml", "_config.yml"):
        assert resources.resource(name) == project / name
        assert resources.resource(name).is_file()
    assert len(pd.read_csv(resources.resource("data/paper/table1.csv")))
    (tmp_path / "resources").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path)  # as it is installed
    assert resources.checkout() is None
    assert resources.resource("book/index.md") == tmp_path / "resources" / "book" / "index.md"


def test_results_go_below_the_current_folder_and_those_of_notebooks_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.default_out("mine") == tmp_path / "build" / "mine"
    project: Path = resources.checkout()
    monkeypatch.chdir(project / "notebooks")
    assert resources.default_out("mine") == project / "build" / "mine"
    monkeypatch.chdir(project / "tests")
    assert resources.default_out("mine") == project / "tests" / "build" / "mine"
