"""The notebooks are committed without outputs, take the common parameters, and run from top to bottom."""

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from support.profiles import TINY, write_profile

from rdnlib.data import dolls
from rdnlib.reproduction.book.execute import execute
from rdnlib.reproduction.experiments import ensure_all, open_workspace

HIDDEN_LINES = 12
NOTEBOOKS = sorted((Path(__file__).resolve().parents[3] / "notebooks").glob("[0-9]*.ipynb"))
PARAMETERS = {"profile": "quick", "data_root": None, "seed": 0, "out": None}


def about(path: Path) -> dict:
    """What a notebook says of itself: see `execute_all` and `reproduce`."""
    return nbformat.read(path, as_version=4).metadata.get("rdn", {})


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


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


def check_exercises(executed: Path) -> None:
    """What is to be solved is not yet right, and its solution is."""
    for tag, says in (("exercise", "Not yet"), ("solution", "Right.")):
        for cell in tagged(executed, tag):
            text = "".join(output.get("text", "") for output in cell.outputs)
            assert text.splitlines()[-1].startswith(says), f"{executed.stem}, {cell.source}: {text}"


@pytest.mark.slow
def test_all_notebooks_run_and_write_the_results(tmp_path):
    """The longest test: the experiments of the profile `tiny`, then a kernel for each notebook."""
    out = tmp_path / "out"
    ensure_all(open_workspace(TINY, out=out), progress=False)
    parameters = {"profile": TINY, "data_root": None, "seed": 0, "out": str(out)}
    for path in NOTEBOOKS:
        execute(path, tmp_path / "executed" / path.name, parameters=parameters)
        check_exercises(tmp_path / "executed" / path.name)
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


def run_here(path: Path, parameters: dict) -> None:
    """Run a notebook's cells in this process, where everything is imported already, with other values of its parameters."""
    shell = InteractiveShell.instance()
    shell.reset(new_session=False)
    for number, cell in enumerate(code_cells(path), start=1):
        done = shell.run_cell(cell.source, silent=True)
        assert done.success, f"{path.name}, code cell {number}: {done.error_in_exec or done.error_before_exec!r}"
        if "parameters" in cell.metadata.get("tags", []):
            shell.push({name: value for name, value in parameters.items() if name in shell.user_ns})


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
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if "alone" not in about(path)], ids=lambda path: path.stem)
def test_a_notebook_runs_with_another_k_and_other_images(path, another, monkeypatch):
    """All but the one that measures time, for minutes; nothing that a notebook sets is left behind."""
    monkeypatch.chdir(path.parent)
    with plt.rc_context():
        run_here(path, another)
    plt.close("all")
