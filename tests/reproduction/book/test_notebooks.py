"""The notebooks are committed without outputs, take the common parameters, and run from top to bottom."""

import ast
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from PIL import Image
from support.notebooks import NOTEBOOKS, code_cells, run_here
from support.profiles import TINY, write_profile

from rdnlib.data import dolls
from rdnlib.deployment import bench, tune
from rdnlib.reproduction.analysis import compatibility
from rdnlib.reproduction.book.execute import tags
from rdnlib.reproduction.experiments import benchmark, ensure_all, open_workspace

HIDDEN_LINES = 12
# of chapter 21: networks that RDNs are made of, and refused ones
SOME = ("resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "vit_b_16")
PARAMETERS = {"profile": "quick", "data_root": None, "seed": 0, "out": None}


def test_every_notebook_has_a_number_of_its_own_and_carries_it_in_its_title():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)
    for path in NOTEBOOKS:
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        assert title.startswith(f"# {int(path.name[:2])} · "), title


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_of_a_run_is_committed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in code_cells(path):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_are_in_one_tagged_cell(path):
    tagged = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    found = {line.targets[0].id: ast.literal_eval(line.value) for line in statements}
    assert found in (PARAMETERS, PARAMETERS | {"seeds": None})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_only_title(path):
    cells = nbformat.read(path, as_version=4).cells
    titles = [
        number
        for number, cell in enumerate(cells)
        if cell.cell_type == "markdown" and any(line.startswith("# ") for line in cell.source.splitlines())
    ]
    assert titles == [0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_the_column_of_the_book(path):
    assert max(len(line) for cell in code_cells(path) for line in cell.source.splitlines()) <= 78


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_hidden_cells_are_short(path):
    hidden = [
        c for c in code_cells(path) if any(t.startswith(("hide-", "remove-")) for t in c.metadata.get("tags", []))
    ]
    assert [cell.source for cell in hidden if len(cell.source.splitlines()) > HIDDEN_LINES] == []


def tagged(path: Path, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in code_cells(path) if tag in cell.metadata.get("tags", [])]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_hidden_solution(path):
    exercises, solutions = tagged(path, "exercise"), tagged(path, "solution")
    assert len(exercises) == len(solutions)
    assert all("hide-cell" in cell.metadata.tags for cell in solutions)


def check_exercises(path: Path, ran: list[tuple[nbformat.NotebookNode, str]]) -> None:
    """What is to be solved is not yet right, and its solution is."""
    for cell, printed in ran:
        for tag, says in (("exercise", "Not yet"), ("solution", "Right.")):
            if tag in tags(cell):
                assert printed.splitlines()[-1].startswith(says), f"{path.stem}, {cell.source}: {printed}"


@pytest.mark.slow
def test_all_notebooks_run_and_write_the_results(copy_of_tiny, monkeypatch):
    """With the experiments of the profile `tiny`, every notebook from top to bottom."""
    out = copy_of_tiny
    monkeypatch.setattr(bench, "LEAST", 0.005)  # times are to be measured here, not to be believed
    monkeypatch.setattr(benchmark, "compare", partial(benchmark.compare, repeats=1))
    monkeypatch.setattr(tune, "schemes", lambda network: {"as it is": network.eval()})  # one ONNX file each, not three
    monkeypatch.setattr(compatibility, "FAMILY", {name: compatibility.FAMILY[name] for name in SOME})  # of chapter 21
    parameters = {"profile": TINY, "data_root": None, "seed": 0, "seeds": None, "out": str(out)}
    for path in NOTEBOOKS:
        monkeypatch.chdir(path.parent)
        check_exercises(path, run_here(path, parameters))
    table = pd.read_csv(out / "tables" / "table1.csv")
    assert [*table["model"].str[-1]][4:] == ["†", "‡"] * 2 and not table["model"][:4].str.endswith(("†", "‡")).any()
    assert table["top1"].between(table["top1_low"], table["top1_high"]).all()
    assert list(pd.read_csv(out / "tables" / "table2.csv")["base_model"]) == ["MobileNeXt"] * 2 + ["MobileNetV2"] * 2
    curve = pd.read_csv(out / "figures" / "figure8.csv")
    assert {"sub-networks", "dynamic", "sequential", "confidence cascade", "dynamic, calibrated"} <= set(
        curve["series"]
    )
    for number in (3, 4, 5):
        table = pd.read_csv(out / "tables" / f"table{number}.csv")
        assert len(table) == 3 and table["top1"].between(table["top1_low"], table["top1_high"]).all()
        assert table["paper_top1"].notna().sum() >= 2 and (table["top1_gain"][0] == 0)
    assert set(pd.read_csv(out / "tables" / "lengths.csv")["epochs"]) == {0, 1}
    claims = pd.read_csv(out / "tables" / "ledger.csv")
    definite = claims["verdict"].isin(["reproduced", "not reproduced"])  # one seed: nothing but counts has a verdict
    assert (claims["ours_low"] == claims["ours_high"])[definite].all() and definite.any()
    assert (out / "figures" / "figure8.svg").read_text().lstrip().startswith("<?xml")


def write_photographs(root: Path, *, train: int, validation: int) -> Path:
    """Images of one's own, so many of each of the ten classes, as files of different sizes."""
    for split, folder, count in (("train", "train", train), ("validation", "val", validation)):
        for size in (16, 20):
            images, labels, *_ = dolls.draw(10 * count // 2, size=size, split=split)
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                path = root / folder / f"class{label}" / f"{size}_{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return root


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> dict:
    """Parameters with finished experiments of another k, on images in folders."""
    folder = tmp_path_factory.mktemp("another")
    root = write_photographs(folder / "photographs", train=20, validation=10)
    profile = write_profile(
        folder / "another.yaml", rdn={"k": 3}, architectures={"mobilenet_v2": None},
        data={"name": "folder", "train": None, "validation": None}, recipe={"batch_size": 32},
    )  # fmt: skip
    found = {"profile": profile, "data_root": str(root), "seed": 1, "out": str(folder / "out")}
    ensure_all(open_workspace(profile, data_root=root, seed=1, out=folder / "out"), progress=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name[:2] not in ("08", "21")], ids=lambda path: path.stem)
def test_a_notebook_runs_with_another_k_and_other_images(path, another, monkeypatch):
    """All but the one that measures time, for minutes, and the one whose networks are not the profile's."""
    monkeypatch.setattr(benchmark, "compare", partial(benchmark.compare, repeats=1))
    monkeypatch.chdir(path.parent)
    run_here(path, another)
