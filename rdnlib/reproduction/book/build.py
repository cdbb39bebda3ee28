"""From experiments to a built book: `rdn reproduce` and `rdn book`.

The steps: run (or find) the experiments, execute every notebook with papermill, build the book from the executed copies,
write the manifest. Everything is written below `out`; the project's own files are only read.

What a notebook computes can stand on another page: the notebook writes a fragment (`chapter.write_fragment`), which takes the
place of the file of the same name in `book/_assets` that the page includes. That file stands in where the notebook was not executed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import yaml

from rdnlib.errors import ConfigError, RdnError
from rdnlib.reproduction.book import assets, pages, published
from rdnlib.reproduction.book.chapter import FRAGMENTS
from rdnlib.reproduction.book.execute import execute_all, timed, write_unexecuted
from rdnlib.reproduction.experiments import ensure_all, graph, open_workspace
from rdnlib.reproduction.experiments.config import Profile, load_profile
from rdnlib.utils import devices
from rdnlib.utils.files import write_json, write_text
from rdnlib.utils.provenance import provenance
from rdnlib.utils.resources import default_out, resource

Folder = str | os.PathLike | None


def reproduce(
    profile: str, *, data: str | None = None, data_root: Folder = None, out: Folder = None, seed: int = 0,
    seeds: int | None = None, jobs: int | None = None, scheduler: str | None = None, notebooks: Sequence[str] = (),
    project: Folder = None, fingerprint: str | None = None,
) -> Path:  # fmt: skip
    """Run the profile's experiments, execute the notebooks, build the book, and return the path of its first page.

    Args:
        profile: name of a profile (`quick`, `laptop`, …), or the path of a .yaml file.
        data: another data set than the profile's.
        data_root: folder with the photographs, for the profiles that need one.
        out: where everything goes; default `build/<the profile's name>`.
        seed: seed of all experiments.
        seeds: at how many seeds, from `seed` on, every experiment is run; default: what the profile says of each.
        jobs: how many experiments, and then notebooks, run at once; default: what the profile says.
        scheduler: address of the Dask cluster that runs the experiments; default: processes on this machine.
        notebooks: execute only these, such as "06_lambda", which run the experiments that they need; the others are in the book
            as they are, without outputs.
        project: folder with `notebooks/`, `book/` and `_config.yml`; default: the library's own.
        fingerprint: hash of the data used, for the manifest.

    Raises:
        RdnError: naming the experiment, the notebook and cell, or the page that failed. The book of an earlier run is then
            still in place.
    """
    loaded = load_profile(profile, data=data)
    project, out = _project(project), Path(out or default_out(loaded.name)).absolute()
    data_root = None if data_root is None else str(Path(data_root).absolute())
    source = loaded.source
    if data is not None:  # notebooks read the profile by themselves
        source = str(out / f"{loaded.name}.yaml")
        write_text(source, yaml.safe_dump(loaded.settings(), sort_keys=False))
    most = max(graph.repeats(loaded, seeds).values())

    def run_experiments() -> None:
        if not notebooks:
            workspace = open_workspace(source, data_root=data_root, seed=seed, out=out)
            ensure_all(workspace, seeds=seeds, jobs=jobs, scheduler=scheduler)

    parameters = {"profile": source, "data_root": data_root, "seed": seed, "seeds": seeds, "out": str(out)}
    chosen = notebooks or _executable(project, loaded)
    return _make_book(run_experiments, project, loaded.name, parameters, chosen, jobs or loaded.jobs, fingerprint, most)


def _executable(project: Path, profile: Profile) -> list[str]:
    """The notebooks whose experiments the profile has; a notebook's metadata name the section that it needs."""
    sections, chosen = graph.sections(profile), []
    for notebook in sorted((project / "notebooks").glob("[0-9]*.ipynb")):
        needs = nbformat.read(notebook, as_version=4).metadata.get("rdn", {}).get("needs")
        if needs is None or needs in sections:
            chosen.append(notebook.stem)
        else:
            print(
                f"{notebook.stem} is not executed: profile {profile.name} has no experiments for it ({needs})",
                flush=True,
            )
    return chosen


def book(
    *, profile: str = published.DEFAULT, results: Folder = None, out: Folder = None, project: Folder = None
) -> Path:
    """As `reproduce`, but from published results: nothing is trained, no photographs are needed, nothing is loaded.

    results: a folder that `rdn publish` made; default: the library's own of the profile, `data/published/<profile>`.
    Raises ConfigError where there are none.
    """
    project = _project(project)
    results = Path(results or project / "data" / "published" / profile)
    out = Path(out or Path("build") / f"book-{results.name}").absolute()
    source, manifest = published.install(results, out)
    parameters = {
        "profile": source,
        "data_root": None,
        "out": str(out),
        **{name: manifest[name] for name in ("seed", "seeds")},
    }
    loaded = load_profile(source)
    most = max(graph.repeats(loaded, manifest["seeds"]).values())
    how = partial(published.execute_without_networks, recorded=results / "recorded")
    return _make_book(
        lambda: None, project, loaded.name, parameters, _executable(project, loaded), devices.cores(),
        manifest["data_fingerprint"], most, how,
    )  # fmt: skip


def _make_book(
    prepare: Callable[[], None], project: Path, name: str, parameters: dict[str, Any], only: Sequence[str] = (),
    jobs: int = 1, fingerprint: str | None = None, seeds: int = 1, how: Callable[..., None] | None = None,
) -> Path:  # fmt: skip
    """Prepare the experiments, then make the book of `reproduce`; parameters: what the notebooks are told; seeds: the most of any;
    how: to execute a notebook, see `execute_all`."""
    seconds: dict[str, float] = {}
    seed, out = parameters["seed"], Path(parameters["out"])
    folder = project / "notebooks"
    notebooks = sorted(folder.glob("[0-9]*.ipynb"))
    chosen = [notebook for notebook in notebooks if not only or notebook.stem in only]
    if not chosen or set(only) - {notebook.stem for notebook in chosen}:
        known = ", ".join(notebook.stem for notebook in notebooks)
        raise ConfigError(f"notebooks are named {known or 'NN_….ipynb'} in {folder}, not {', '.join(only)}")
    out.mkdir(parents=True, exist_ok=True)
    with timed("experiments", seconds):
        prepare()
    source, fragments = out / "book", out / FRAGMENTS
    with timed(
        "assets", seconds
    ):  # a fresh copy of the pages and configuration, with the front-end files beside our own
        shutil.rmtree(source, ignore_errors=True)
        # of an earlier run, perhaps by notebooks that are not executed now
        shutil.rmtree(fragments, ignore_errors=True)
        shutil.copytree(project / "book", source)
        config = yaml.safe_load((project / "_config.yml").read_text(encoding="utf-8"))
        numbers = f"seeds {seed} to {seed + seeds - 1}" if seeds > 1 else f"seed {seed}"
        about = pages.footer(name, numbers, sorted(out.glob("experiments/*/result.json")), published=how is not None)
        config = pages.configured(config, about)
        (source / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        assets.install(source / "_assets")
    (source / "notebooks").mkdir()
    for notebook in notebooks:
        if notebook not in chosen:
            reason = f"The run of profile {name} that this book shows does not include it."
            write_unexecuted(notebook, source / "notebooks" / notebook.name, reason)
    execute_all(chosen, source / "notebooks", parameters=parameters, jobs=jobs, seconds=seconds, how=how)
    if fragments.is_dir():
        shutil.copytree(fragments, source / "_assets", dirs_exist_ok=True)
    with timed("book", seconds):
        build(source, out / "html")
    manifest = {"profile": name, "seed": seed, "seeds": seeds, "data_fingerprint": fingerprint}
    manifest |= {"notebooks": [notebook.name for notebook in chosen], "seconds": seconds, **provenance()}
    write_json(out / "manifest.json", manifest)
    index = out / "html" / "index.html"
    print(f"tables: {out / 'tables'}\nbook:   {index}", flush=True)
    return index


def build(source: Path, html: Path) -> None:
    """Build the book in `source` with jupyter-book, every warning an error; replace `html` once that has succeeded."""
    with tempfile.TemporaryDirectory(dir=html.parent, prefix=".html-") as folder:
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
        command += ["--path-output", folder, "--all", "-W", "-n", "--keep-going"]
        plain = {**os.environ, "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=plain)
        built = Path(folder) / "_build" / "html"
        if done.returncode or not (built / "index.html").is_file():
            # the warnings and errors of the log in one line, with paths relative to the book
            lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in done.stdout.splitlines()]
            wrong = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL|Error)\b", line)] or lines[-3:]
            reasons = " | ".join(dict.fromkeys(line.replace(f"{source}{os.sep}", "") for line in wrong))
            raise RdnError(f"the book was not built: {reasons}")
        if html.exists():
            html.rename(Path(folder) / "old")
        built.rename(html)


def _project(project: Folder) -> Path:
    folder = resource() if project is None else Path(project).absolute()
    if missing := [name for name in ("notebooks", "book", "_config.yml") if not (folder / name).exists()]:
        raise ConfigError(f"{folder} has no {', '.join(missing)}, which a book needs")
    return folder
