"""From experiments to a built book: `rdn reproduce` and `rdn book`.

The steps: run (or find) the experiments, execute every notebook with papermill, build the book from the executed copies,
write the manifest. Everything is written below `out`; the project's own files are only read.
"""

import ast
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from rdnlib import ablations, assets
from rdnlib.errors import ConfigError, RdnError
from rdnlib.files import write_json
from rdnlib.profiles import load_profile

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "accelerate",
    "matplotlib",
    "ipywidgets",
    "papermill",
    "jupyter-book",
)
KERNEL = "rdnlib"
_IN_THE_BOOK = {
    "parameters": "hide-input",
    "injected-parameters": "remove-cell",
}  # tag → what jupyter-book does


def reproduce(
    profile: str,
    *,
    data_root: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    seed: int = 0,
    seeds: int | None = None,
    jobs: int | None = None,
    project: str | os.PathLike | None = None,
    fingerprint: str | None = None,
) -> Path:
    """Run the profile's experiments, execute the notebooks, build the book, and return the path of its first page.

    Args:
        profile: name of a profile (`quick`, `laptop`, …).
        data_root: folder with the photographs, for the profiles that need one.
        out: where everything goes; default `build/<profile>`.
        seed: seed of all experiments.
        seeds: how many seeds, from `seed` on, the RDNs and their ablations are run for; default: what the profile says.
        jobs: how many experiments, and then notebooks, run at once; default: what the profile says.
        project: folder with `notebooks/`, `book/` and `_config.yml`; default: the checkout that rdnlib runs from.
        fingerprint: hash of the data used, for the manifest.

    Raises:
        RdnError: naming the experiment, the notebook and cell, or the page that failed. The book of an earlier run is then
            still in place.
    """
    project, out = _project(project), Path(out or Path("build") / profile).absolute()
    data_root = None if data_root is None else Path(data_root).absolute()

    loaded = load_profile(profile)
    first, *more = ablations.seeds_from(loaded, seed, seeds)

    def run_experiments() -> None:
        from rdnlib import experiments

        where = {"profile": profile, "data_root": data_root, "out": out, "jobs": jobs}
        experiments.ensure_all(seed=first, **where)
        for another in more:
            experiments.ensure_all(seed=another, names=ablations.repeated(loaded), **where)

    return _publish(
        run_experiments,
        project=project,
        profile=profile,
        data_root=data_root,
        seed=seed,
        seeds=1 + len(more),
        jobs=jobs or loaded.jobs,
        out=out,
        fingerprint=fingerprint,
    )


def book(
    *,
    profile: str = "quick",
    out: str | os.PathLike | None = None,
    seed: int = 0,
    project: str | os.PathLike | None = None,
) -> Path:
    """As `reproduce`, but from the measured results in `data/published/<profile>`: nothing is trained.

    Raises:
        RdnError: also when no results were published for the profile.
    """
    project, out = _project(project), Path(out or Path("build") / f"book-{profile}").absolute()
    published = project / "data" / "published" / profile / "experiments"

    def use_published() -> None:
        if not published.is_dir():
            raise RdnError(
                f"no published results for profile {profile!r}: run `rdn reproduce --profile {profile}` instead"
            )
        shutil.copytree(published, out / "experiments", dirs_exist_ok=True)

    return _publish(use_published, project=project, profile=profile, data_root=None, seed=seed, out=out)


def _publish(
    prepare,
    *,
    project: Path,
    profile: str,
    data_root: Path | None,
    seed: int,
    out: Path,
    seeds: int | None = None,
    jobs: int = 1,
    fingerprint: str | None = None,
) -> Path:
    seconds: dict[str, float] = {}
    out.mkdir(parents=True, exist_ok=True)
    with _timed("experiments", seconds):
        prepare()
    source = out / "book"
    with _timed("assets", seconds):
        last = f" to {seed + seeds - 1}" if (seeds or 1) > 1 else ""
        _stage(project, source, footer=f"Built with profile <b>{profile}</b>, seed {seed}{last}.")
    parameters = {
        "profile": profile,
        "data_root": None if data_root is None else str(data_root),
        "seed": seed,
        "seeds": seeds,
        "out": str(out),
    }
    notebooks = sorted((project / "notebooks").glob("[0-9]*.ipynb"))
    if not notebooks:
        raise ConfigError(f"no notebooks named NN_….ipynb in {project / 'notebooks'}")
    execute_all(notebooks, source / "notebooks", parameters=parameters, jobs=jobs, seconds=seconds)
    with _timed("book", seconds):
        build(source, out / "html")
    manifest = {
        "profile": profile,
        "seed": seed,
        "seeds": seeds,
        "data_fingerprint": fingerprint,
        "notebooks": [notebook.name for notebook in notebooks],
        "seconds": seconds,
        **provenance(project),
    }
    write_json(out / "manifest.json", manifest)
    index = out / "html" / "index.html"
    print(f"tables: {out / 'tables'}\nbook:   {index}", flush=True)
    return index


def execute_all(
    notebooks: list[Path], folder: Path, *, parameters: dict[str, Any], jobs: int, seconds: dict[str, float]
) -> None:
    """Execute notebooks into `folder`, up to `jobs` at once, each with those of the parameters that it declares.

    `seconds` receives how long each took. Raises RdnError for the first of them, in their order, that failed.
    """

    def one(number: int, notebook: Path) -> None:
        declared = _declared(notebook)
        own = {name: value for name, value in parameters.items() if name in declared}
        with _timed(notebook.stem, seconds, label=f"[{number}/{len(notebooks)}] notebook {notebook.stem}"):
            execute(notebook, folder / notebook.name, parameters=own)

    with kernel(threads=max(1, (os.cpu_count() or 1) // jobs)), ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, number, notebook) for number, notebook in enumerate(notebooks, start=1)]
        try:
            for done in waiting:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def execute(notebook: Path, result: Path, *, parameters: dict[str, Any]) -> None:
    """Execute one notebook into `result` and check that every one of its code cells completed.

    In the book the cell of the default parameters is folded, and the one that papermill adds is left out: it holds paths of
    this machine. Every page's footer says which profile and seed were used.

    Raises:
        RdnError: naming the notebook, the cell and its error.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            result,
            parameters=parameters,
            kernel_name=KERNEL,
            language="python",
            cwd=notebook.parent,
            progress_bar=False,
        )
    except PapermillExecutionError as error:
        # papermill counts the cell that it put after the one tagged `parameters`; a reader of the notebook does not
        added = 1 + next((i for i, cell in enumerate(_cells(notebook)) if "parameters" in _tags(cell)), -1)
        number = error.cell_index + (error.cell_index < added)
        raise RdnError(
            f"notebook {notebook.name}, cell {number} failed: {error.ename}: {_first_line(error.evalue)} "
            f"(the executed copy is {result})"
        ) from error
    except DeadKernelError as error:
        raise RdnError(f"notebook {notebook.name}: its kernel died, perhaps for lack of memory") from error
    executed = nbformat.read(result, as_version=4)
    check_completed(executed, notebook.name)
    for cell in executed.cells:
        tags = _tags(cell)
        tags += [_IN_THE_BOOK[tag] for tag in tags if tag in _IN_THE_BOOK]
        cell.metadata.pop("papermill", None)
    executed.metadata.pop("papermill", None)
    executed.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(executed, result)


def check_completed(notebook: nbformat.NotebookNode, name: str) -> None:
    """Raise RdnError, naming the cell, unless every code cell that has code was executed without an error output."""
    own = [cell for cell in notebook.cells if "injected-parameters" not in _tags(cell)]
    for number, cell in enumerate(own, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors:
            raise RdnError(f"notebook {name}, cell {number} failed: {errors[0].ename}: {_first_line(errors[0].evalue)}")
        if cell.execution_count is None:
            raise RdnError(f"notebook {name}, cell {number} was not executed")


def build(source: Path, html: Path) -> None:
    """Build the book in `source` with jupyter-book, every warning an error; replace `html` once that has succeeded."""
    with tempfile.TemporaryDirectory(dir=html.parent, prefix=".html-") as folder:
        command = ["build", str(source), "--path-output", folder, "--all", "-W", "-n", "--keep-going"]
        done = subprocess.run(
            [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        )
        built = Path(folder) / "_build" / "html"
        if done.returncode or not (built / "index.html").is_file():
            raise RdnError(f"the book was not built: {_complaints(done.stdout, source)}")
        old = Path(folder) / "old"
        if html.exists():
            html.rename(old)
        built.rename(html)


def provenance(project: Path) -> dict[str, Any]:
    """What a reader needs to judge or repeat a run: versions, machine, commit (None outside a git checkout)."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    try:
        done = subprocess.run(["git", "-C", project, "rev-parse", "HEAD"], capture_output=True, text=True)
        commit = done.stdout.strip() if done.returncode == 0 else None
    except FileNotFoundError:
        commit = None
    return {
        "commit": commit,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def _stage(project: Path, source: Path, *, footer: str) -> None:
    """A fresh copy of the book's pages and configuration, with the front-end files beside our own."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(project / "book", source)
    config = yaml.safe_load((project / "_config.yml").read_text(encoding="utf-8"))
    config.setdefault("html", {})["extra_footer"] = f"<p>{footer}</p>"
    (source / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    assets.install(source / "_assets")


@contextmanager
def kernel(threads: int | None = None) -> Iterator[None]:
    """Offer a kernel that is this very interpreter, so that none needs to be installed; `threads` of its computations."""
    package_parent = str(Path(__file__).resolve().parent.parent)
    search = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    spec = {
        "argv": [
            sys.executable,
            "-Xfrozen_modules=off",
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--log-level=50",
        ],
        "display_name": "Python 3",
        "language": "python",
        "env": {"PYTHONPATH": search, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})},
    }
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels" / KERNEL / "kernel.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(spec))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


@contextmanager
def _timed(step: str, seconds: dict[str, float], label: str | None = None) -> Iterator[None]:
    print(f"{label or step} …", flush=True)
    start = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - start, 1)
    print(f"{label or step}: {seconds[step]:.1f} s", flush=True)


def _complaints(log: str, source: Path) -> str:
    """The warnings and errors of a jupyter-book log in one line, with paths relative to the book."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in log.splitlines()]
    found = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|Error)\b", line)] or lines[-3:]
    return " | ".join(dict.fromkeys(line.replace(f"{source}{os.sep}", "") for line in found))


def _declared(notebook: Path) -> set[str]:
    """The names that a notebook's cell of parameters sets."""
    cells = [cell for cell in _cells(notebook) if "parameters" in _tags(cell)]
    statements = ast.parse(cells[0].source).body if cells else []
    return {name.id for line in statements for name in getattr(line, "targets", ())}


def _cells(notebook: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(notebook, as_version=4).cells


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""


def _project(project: str | os.PathLike | None) -> Path:
    folder = Path(__file__).resolve().parent.parent if project is None else Path(project).absolute()
    if missing := [name for name in ("notebooks", "book", "_config.yml") if not (folder / name).exists()]:
        raise ConfigError(f"{folder} has no {', '.join(missing)}: run rdn from a checkout of the project")
    return folder
