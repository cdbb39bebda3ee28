"""Published results: enough to make the book of them without images, networks or training, and nothing that is not to be told."""

import gzip
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from support.notebooks import NOTEBOOKS, about, run_here
from support.profiles import TINY

from rdnlib.errors import ConfigError, NotPublishedError, RdnError
from rdnlib.reproduction.book import published
from rdnlib.reproduction.book.build import _executable, book
from rdnlib.reproduction.book.execute import execute
from rdnlib.reproduction.experiments import Run, ensure, graph, open_workspace
from rdnlib.reproduction.experiments.config import load_profile
from rdnlib.reproduction.experiments.workspace import finished
from rdnlib.utils.files import write_json
from rdnlib.utils.resources import resource

RESULTS = sorted(path for path in resource("data/published").glob("*") if path.is_dir())
MEGABYTES = 10  # of all published results
NAMES = ("rdn-reconstruct", "policy-reconstruct")
SETUP = """
import pandas as pd
from rdnlib.reproduction.book.chapter import open_chapter
from rdnlib.reproduction.experiments import ensure
from rdnlib.utils.files import write_table
workspace = open_chapter(profile, data_root=data_root, seed=seed, out=out)
"""
TABLE = """
samples = ensure(workspace, "rdn-reconstruct").samples()
write_table(workspace.out / "tables" / "right.csv", samples.filter(like="top1").mean().to_frame("share"))
"""
NETWORK = "print(sum(w.numel() for w in ensure(workspace, 'rdn-reconstruct').model().parameters()), 'weights')"


def write_notebook(path: Path, *cells: str, tagged: tuple[int, ...] = (), **about) -> None:
    """tagged: which cells need a network, the setup being the first. about: what the notebook says of itself."""
    made = nbformat.v4.new_notebook(metadata={"rdn": about})
    code = nbformat.v4.new_code_cell
    parameters = code("profile = data_root = seed = out = None", metadata={"tags": ["parameters"]})
    own = [code(text, metadata={"tags": ["network"]} if i in tagged else {}) for i, text in enumerate((SETUP, *cells))]
    made.cells = [nbformat.v4.new_markdown_cell("# A chapter"), parameters, *own]
    for number, cell in enumerate(made.cells):
        cell.id = f"{path.stem}-{number}"
    nbformat.write(made, path)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_results) -> tuple[Path, Path]:
    """A project of three notebooks, and a folder with all experiments but one of the ablations, and the notebooks executed."""
    project, out = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("out")
    for folder in ("notebooks", "book"):
        (project / folder).mkdir()
    (project / "_config.yml").write_text("title: Tiny\n")
    write_notebook(project / "notebooks" / "01_table.ipynb", TABLE, NETWORK, tagged=(2,))
    write_notebook(project / "notebooks" / "02_network.ipynb", NETWORK, network=True)
    write_notebook(project / "notebooks" / "03_table4.ipynb", "ensure(workspace, 'rdn-random').name", needs="ablations")
    shutil.copytree(tiny_results, out, dirs_exist_ok=True)
    shutil.rmtree(open_workspace(TINY, out=out).folder("rdn-random"))
    parameters = {"profile": TINY, "data_root": None, "seed": 0, "out": str(out)}
    for path in sorted((project / "notebooks").glob("0[12]*")):
        execute(path, out / "book" / "notebooks" / path.name, parameters=parameters)
    write_json(out / "manifest.json", {"profile": "tiny", "data_fingerprint": "1234", "seconds": {"base": 1.5}})
    return project, out


@pytest.fixture
def results(measured, tmp_path) -> Path:
    project, out = measured
    return published.publish(TINY, tmp_path / "results", out=out, partial=True, project=project)


def make_book(results: Path, project: Path, out: Path, monkeypatch) -> dict[str, list[nbformat.NotebookNode]]:
    """The cells of the executed notebooks, by the number of the notebook."""
    monkeypatch.setattr(sys.modules["rdnlib.reproduction.book.build"], "build", lambda source, html: None)
    monkeypatch.setattr(sys.modules["rdnlib.reproduction.book.assets"], "install", lambda into: None)
    book(results=results, out=out, project=project)
    executed = sorted((out / "book" / "notebooks").glob("*.ipynb"))
    return {path.name[:2]: nbformat.read(path, as_version=4).cells for path in executed}


def text_of(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") or output.get("data", {}).get("text/markdown", "") for output in cell.outputs)


@pytest.mark.slow
def test_what_is_published_is_all_but_networks(measured, results):
    project, out = measured
    kept = {path.suffix for path in results.rglob("*") if path.is_file()}
    assert kept <= {".json", ".csv", ".parquet", ".gz", ".yaml"}
    workspace = open_workspace(str(results / "tiny.yaml"), out=results)
    for name in ("base", *NAMES):
        original, copy = Run(name, open_workspace(TINY, out=out)), Run(name, workspace)
        # a policy chooses among the sub-networks of rdn-reconstruct alone
        left_out = [] if name == "rdn-reconstruct" else [*original.samples().filter(like="confidence_")]
        pd.testing.assert_frame_equal(original.samples().drop(columns=left_out), copy.samples())
        assert original.result == copy.result
    original, copy = (Run("policy-copy", space).samples() for space in (open_workspace(TINY, out=out), workspace))
    new = original[original["split"] != "train"].reset_index(drop=True)
    assert len(new) < len(original)  # no chapter shows what this policy says of the training images
    pd.testing.assert_frame_equal(new, copy)
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["seconds"] == {"base": 1.5} and manifest["recorded"] == ["01_table", "02_network"]
    assert "rdn-random" in manifest["missing"] and not {"base", *NAMES} & set(manifest["missing"])
    assert workspace.profile.ablations is None and workspace.profile.variants.keys() == {"late", "larger"}
    recorded = json.loads(gzip.decompress((results / "recorded" / "01_table.json.gz").read_bytes()))
    assert [*recorded] == ["01_table-4"]
    with pytest.raises(RdnError, match=r"no finished .*rdn-random.*--partial"):
        published.publish(TINY, results, out=out, project=project)
    assert (results / "manifest.json").is_file()  # what was there is still there


@pytest.mark.slow
def test_a_book_is_made_of_it_and_nothing_is_run(measured, results, tmp_path, monkeypatch):
    (project, out), made = measured, tmp_path / "book"
    cells = make_book(results, project, made, monkeypatch)
    weights = text_of(nbformat.read(out / "book" / "notebooks" / "02_network.ipynb", as_version=4).cells[-1])
    assert weights.endswith("weights\n") and text_of(cells["01"][-1]) == text_of(cells["02"][-1]) == weights
    assert "no results here" in cells["03"][1].source and "does not include it" in cells["03"][1].source
    assert not any(cell.get("outputs") for cell in cells["03"])
    assert (made / "tables" / "right.csv").read_bytes() == (out / "tables" / "right.csv").read_bytes()
    workspace = open_workspace(str(made / "tiny.yaml"), out=made)
    assert workspace.published and not list(made.rglob("*.safetensors"))
    shutil.rmtree(workspace.folder("rdn-copy"))
    with pytest.raises(NotPublishedError, match="no experiment rdn-copy"):
        ensure(workspace, "rdn-copy")
    with pytest.raises(NotPublishedError, match="no networks"):
        ensure(workspace, "base").model()


@pytest.mark.slow
def test_a_cell_that_has_changed_since_shows_no_old_output(measured, results, tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(measured[0], project)
    write_notebook(project / "notebooks" / "01_table.ipynb", TABLE, f"{NETWORK}  # changed", tagged=(2,))
    cells = make_book(results, project, tmp_path / "book", monkeypatch)
    assert "has changed since" in text_of(cells["01"][-1]) and "weights" not in text_of(cells["01"][-1])
    assert "weights" in text_of(cells["02"][-1])


@pytest.mark.slow
def test_paths_and_photographs_are_refused(measured, tmp_path):
    _, out = measured
    workspace = open_workspace(TINY, out=out)
    data = workspace.profile.data
    photographs = replace(
        workspace, profile=workspace.profile.model_copy(update={"data": data.model_copy(update={"name": "imagenette"})})
    )
    (page := tmp_path / "a.json").write_text('"data:image/jpeg;base64,xyz"')
    published._check(tmp_path, workspace)
    with pytest.raises(RdnError, match=r"a\.json would publish images of imagenette"):
        published._check(tmp_path, photographs)
    page.write_text(json.dumps({"folder": str(out)}))
    with pytest.raises(RdnError, match=r"a\.json would publish the path"):
        published._check(tmp_path, workspace)


def test_a_folder_without_results_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"no published results in .*nothing: `rdn publish`"):
        book(results=tmp_path / "nothing", out=tmp_path / "out")


# --- what this repository publishes


def test_the_repository_publishes_little_and_no_image_and_no_network():
    files = [path for folder in RESULTS for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".csv", ".parquet", ".gz", ".yaml"}
    assert sum(path.stat().st_size for path in files) <= MEGABYTES * 1e6
    for folder in RESULTS:
        published._check(folder, open_workspace(str(folder / f"{folder.name}.yaml"), out=folder))


@pytest.fixture(scope="module", params=RESULTS, ids=lambda path: path.name)
def shown(request, tmp_path_factory) -> tuple[dict, Path]:
    """The parameters that notebooks get for published results, and where these are."""
    out = tmp_path_factory.mktemp(request.param.name)
    profile, manifest = published.install(request.param, out)
    shutil.rmtree(out / "tables")
    own = {name: manifest[name] for name in ("seed", "seeds")}
    return {"profile": profile, "data_root": None, "out": str(out), **own}, request.param


def runs_of(parameters: dict) -> list[Run]:
    workspace = open_workspace(parameters["profile"], out=parameters["out"])
    repeats = graph.repeats(workspace.profile)
    replicas = workspace.replicas(max(repeats.values()))
    runs = [Run(name, replica) for name in workspace.graph for replica in replicas[: repeats[name]]]
    assert all(finished(run.path) for run in runs)
    return runs


def test_published_results_are_those_of_the_profile_as_it_is(shown):
    """Keys hold all settings and the version of the code's numbers: results of other ones would not be found."""
    parameters, folder = shown
    runs = runs_of(parameters)
    assert {path.name for path in (folder / "experiments").iterdir()} == {run.path.name for run in runs}
    for run in runs:
        shipped = open_workspace(folder.name, seed=run.workspace.seed, out=parameters["out"])
        assert shipped.key(run.name) == run.workspace.key(run.name)


def test_published_accuracies_are_those_of_the_outputs_per_image(shown):
    """The slow way: image by image, then a mean over the seeds."""
    parameters, folder = shown
    shares: dict[tuple[str, int], list[float]] = {}
    for run in runs_of(parameters):
        samples = run.samples()
        assert not samples.duplicated(["split", "id"]).any()
        validation = samples[samples["split"] == "validation"]
        assert len(validation) == run.data.images["validation"]
        for number in range(1, 1 + validation.columns.str.match(r"top1_\d").sum()):
            hits = sum(bool(value) for value in validation[f"top1_{number}"])
            shares.setdefault((run.name, number), []).append(100 * hits / len(validation))
    names = {
        "base": "base",
        "base, longer": "base-longer",
        "RDN, copy": "rdn-copy",
        "RDN, reconstruct": "rdn-reconstruct",
    }
    told = pd.read_csv(folder / "tables" / "subnetworks.csv")
    told = told[told["model"].isin(names)]
    assert set(told["model"]) == set(names)
    for row in told.itertuples():
        assert np.isclose(row.top1, np.mean(shares[names[row.model], row.subnetwork])), (row.model, row.subnetwork)


@pytest.mark.slow
def test_every_published_table_is_computed_again_from_the_outputs_per_image(shown, monkeypatch):
    """By the notebooks, without their cells that need networks; those measure time, and their tables are only shown."""
    parameters, folder = shown
    chosen = _executable(resource(), load_profile(parameters["profile"]))
    for path in NOTEBOOKS:
        if path.stem in chosen and not about(path).get("network") and "write_table(" in path.read_text():
            monkeypatch.chdir(path.parent)
            run_here(path, parameters, networks=False)
    tables = Path(parameters["out"]) / "tables"
    made = {path.name for path in tables.glob("*.csv")}
    assert {"table1.csv", "subnetworks.csv", "findings.csv", "targets.csv", "equal_cost.csv"} <= made
    measured_times = {"latency.csv", "exits.csv", "training_step.csv"}
    assert {path.name for path in (folder / "tables").glob("*.csv")} - measured_times == made
    if folder.name == published.DEFAULT:
        picture = Path(parameters["out"]) / "figures" / "figure8.svg"
        assert picture.read_bytes() == resource("book/_assets/measured_figure8.svg").read_bytes()  # the README's
    for name in sorted(made):
        pd.testing.assert_frame_equal(pd.read_csv(folder / "tables" / name), pd.read_csv(tables / name), rtol=1e-9)


@pytest.mark.parametrize("profile", [published.DEFAULT, "pretrained"])
def test_the_readme_says_what_was_published(profile):
    """Its first picture is captioned with one row of a published table, and a sentence has that row of another."""
    table = pd.read_csv(resource(f"data/published/{profile}/tables/findings.csv")).set_index(["what", "against"])
    row = table.loc[("dynamic at the base", "longer")]
    cost, low, high = (100 + row[f"cost{end}"] for end in ("", "_low", "_high"))
    text = " ".join((resource() / "README.md").read_text(encoding="utf-8").split())
    networks = pd.read_csv(resource(f"data/published/{profile}/tables/subnetworks.csv")).set_index("model")
    assert f"below its {networks.loc['base, longer', 'top1']:.1f} %" in text
    assert f"needs {cost:.0f} % ({low:.0f} to {high:.0f}) of the multiply-adds of the base" in text
    low, high = (f"{row[f'gain_{end}']:+.1f}".replace("-", "−") for end in ("low", "high"))
    assert f"{-row['gain']:.1f} points (95 % interval {low} to {high}) below" in text


def test_the_readme_says_what_laptop_gave():
    table = pd.read_csv(resource("data/published/laptop/tables/table1.csv")).set_index("model")
    networks = pd.read_csv(resource("data/published/laptop/tables/subnetworks.csv")).set_index(["model", "subnetwork"])
    own, copied = (
        pd.read_csv(resource(f"data/published/laptop/tables/findings{name}.csv")).set_index(["what", "against"])
        for name in ("", "_copy")
    )
    text = " ".join((resource() / "README.md").read_text(encoding="utf-8").split())

    def percent(top1: float, madds_m: float) -> str:
        return f"{top1:.1f} % at {100 * madds_m / table.loc['base, longer', 'madds_m']:.0f} %"

    def gain(row: pd.Series) -> list[str]:
        return [f"{row[f'gain{end}']:+z.1f}".replace("-", "−") for end in ("", "_low", "_high")]

    row = own.loc[("sequential", "longer")]
    cost, low, high = (100 + row[f"cost{end}"] for end in ("", "_low", "_high"))
    assert (
        f"needs {cost:.0f} % ({low:.0f} to {high:.0f}), {{}} points ({{}} to {{}}) from the base".format(*gain(row))
        in text
    )
    row = own.loc[("N_K", "longer")]
    assert f"costs {100 + row['cost']:.0f} % and stands {{}} points ({{}} to {{}}) from it".format(*gain(row)) in text
    copies = [networks.loc[("RDN, copy", number)] for number in (1, 2, 7)]
    first, second, _ = (percent(row["top1"], row["madds"] / 1e6) for row in copies)
    last, sequential = copies[-1]["top1"], percent(*table.loc["RDN, copy‡", ["top1", "madds_m"]])
    assert f"copied weights has {first} of the base's multiply-adds, N_2 {second}, N_7 {last:.1f} %" in text
    assert f"the sequential policy has {sequential}." in text
    narrow = [table.loc[f"base, width {width}"] for width in (0.35, 0.25)]
    rivals = [percent(row["top1"], row["madds_m"]) for row in narrow]
    assert f"one for each budget: {', and '.join(rivals)}." in text
    assert all(row["seeds"] == 3 for row in (*narrow, table.loc["RDN, copy‡"], table.loc["base, longer"]))
    line, other = (gain(found.loc[("sequential", "narrower")]) for found in (own, copied))
    assert "the sequential policy is {} points (95 % interval {} to {})".format(*line) in text
    assert "from copied weights {} ({} to {}).".format(*other) in text
