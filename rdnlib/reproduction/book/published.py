"""Measured results without the photographs and networks that they came from: `rdn publish` writes them, `rdn book` shows them.

A folder of published results belongs to one run of one profile and holds

- `<profile>.yaml`, the settings, and `manifest.json`: seeds, machine, versions, the seconds of every step, and what is missing;
- `experiments/`: of each finished experiment all that tables and figures are computed from, its outputs per image included;
- `recorded/`: what the cells that need networks or images showed when the results were measured (see `needs_network`);
- `tables/`: the tables that the notebooks wrote.
"""

import gzip
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import yaml
from nbformat import NotebookNode

from rdnlib.errors import ConfigError, DataError, NotPublishedError, RdnError
from rdnlib.reproduction.book.execute import check_completed, execute, fold_parameters, tags, write_unexecuted
from rdnlib.reproduction.book.explorer import SHOWABLE
from rdnlib.reproduction.experiments import Workspace, graph, open_workspace
from rdnlib.reproduction.experiments.config import Profile
from rdnlib.reproduction.experiments.workspace import PUBLISHED, finished
from rdnlib.utils.files import read_json, replacing_folder, write_json, write_table, write_text

DEFAULT = "laptop"  # the profile that `rdn book` shows unless told otherwise
KEPT = ("config.json", "result.json", "history.csv", "splits.csv")  # of an experiment, and samples.parquet
MOST_SEEDS = 20  # that are looked for
_PICTURES = re.compile(r"data:image/(?:jpeg|webp)")  # how the book embeds photographs; its plots are SVG and PNG
_ABSENT = (
    "*This cell needs a network or images and has changed since the results were recorded. `rdn reproduce` runs it.*"
)


def publish(
    profile: str, to: Path, *, out: Path | None = None, seed: int = 0, partial: bool = False, project: Path
) -> Path:
    """Write what `rdn book` needs of the results in `out` into the folder `to`, which it replaces, and return `to`.

    partial: publish although experiments are missing: the largest part of the profile of which all are finished, at so many seeds as
    are. project: whose notebooks were executed. Raises RdnError where experiments are missing, and where something would be told
    that is not to be published: a photograph, a path of this machine.
    """
    workspace = open_workspace(profile, seed=seed, out=out)
    wanted = workspace.profile
    replicas = workspace.replicas(MOST_SEEDS)
    part = graph.complete_part(wanted, lambda name: _seeds_of(replicas, name))
    missing = _missing(wanted, part)
    if missing and not partial:
        raise RdnError(f"{workspace.out} has no finished {', '.join(missing)}: rdn experiment run, or --partial")
    workspace, repeats = replace(workspace, profile=part), graph.repeats(part)
    replicas = workspace.replicas(max(repeats.values()))
    policy = graph.main_policy(part)
    asked = {parent for node in workspace.graph.values() if node.kind == "policy" for parent in node.parents}
    with replacing_folder(to) as folder:
        for name in workspace.graph:
            for replica in replicas[: repeats[name]]:
                source = replica.folder(name)
                kept = folder / "experiments" / source.name
                kept.mkdir(parents=True)
                for file in filter(Path.exists, map(source.joinpath, KEPT)):
                    shutil.copy(file, kept)
                samples = pd.read_parquet(source / "samples.parquet")
                # chapters 5 and 6 show what the policy says of training images
                if name != policy or replica is not replicas[0]:
                    samples = samples[samples["split"] != "train"]
                if name not in asked:  # only a confidence cascade, a policy's rival, reads them
                    samples = samples.drop(columns=samples.filter(like="confidence_"))
                write_table(kept / "samples.parquet", samples)
        if (workspace.out / "tables").is_dir():
            shutil.copytree(workspace.out / "tables", folder / "tables")
        recorded = _record_all(workspace, project, folder / "recorded")
        write_text(folder / f"{part.name}.yaml", yaml.safe_dump(part.settings(), sort_keys=False))
        manifest = read_json(workspace.out / "manifest.json")
        manifest |= {"seed": seed, "seeds": None, "missing": missing, "recorded": recorded}
        write_json(folder / "manifest.json", manifest)
        _check(folder, workspace)
    return to


def _seeds_of(replicas: Sequence[Workspace], name: str) -> int:
    """At how many seeds, from the first on, an experiment is finished."""
    for count, replica in enumerate(replicas):
        try:
            if not finished(replica.folder(name)):
                return count
        except DataError:  # nothing at all was run at this seed, and there are no images
            return count
    return len(replicas)


def _missing(wanted: Profile, part: Profile) -> list[str]:
    """What a profile asks for and a part of it has not: names, with "at 3 seeds" where the part has fewer."""
    asked, found = graph.repeats(wanted), graph.repeats(part)
    return [
        name if name not in found else f"{name} at {count} seeds"
        for name, count in asked.items()
        if found.get(name, 0) < count
    ]


def _record_all(workspace: Workspace, project: Path, folder: Path) -> list[str]:
    """Write what cells that need a network have shown, a file for each notebook; the notebooks' names."""
    folder.mkdir()
    names = []
    for path in sorted((project / "notebooks").glob("[0-9]*.ipynb")):
        executed = workspace.out / "book" / "notebooks" / path.name
        notebook = nbformat.read(path, as_version=4)
        wanted = {cell.id: cell.source for cell in _cells_with_networks(notebook)}
        if not wanted or not executed.is_file():
            continue
        cells = nbformat.read(executed, as_version=4).cells
        shown = {
            cell.id: {"source": cell.source, "outputs": cell.outputs}
            for cell in cells
            if cell.cell_type == "code" and cell.execution_count and wanted.get(cell.id) == cell.source
        }
        if shown:
            names.append(path.stem)
            content = json.dumps(shown, sort_keys=True).encode()
            (folder / f"{path.stem}.json.gz").write_bytes(gzip.compress(content, mtime=0))  # the same bytes every time
    return names


def _check(folder: Path, workspace: Workspace) -> None:
    """Raise RdnError for photographs, and for paths of this machine."""
    roots = {str(Path.home()), str(workspace.out)} - {"/"}
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.suffix == ".parquet":
            continue
        text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        if found := [root for root in roots if root in text]:
            raise RdnError(f"{path.name} would publish the path {found[0]}")
        if workspace.profile.data.name not in SHOWABLE and _PICTURES.search(text):
            raise RdnError(f"{path.name} would publish images of {workspace.profile.data.name}")


def install(results: Path, out: Path) -> tuple[str, dict]:
    """Copy published results to where a book is made of them, and return the path of their profile, and their manifest.

    Raises ConfigError where `results` holds none.
    """
    profiles = sorted(results.glob("*.yaml"))
    if len(profiles) != 1 or not (results / "manifest.json").is_file():
        raise ConfigError(f"no published results in {results}: `rdn publish` makes them of those of `rdn reproduce`")
    shutil.rmtree(out / "experiments", ignore_errors=True)
    shutil.copytree(results / "experiments", out / "experiments")
    if (results / "tables").is_dir():
        shutil.copytree(results / "tables", out / "tables", dirs_exist_ok=True)
    shutil.copy(results / "manifest.json", out / "experiments" / PUBLISHED)
    return str(shutil.copy(profiles[0], out)), read_json(results / "manifest.json")


def needs_network(notebook: NotebookNode, cell: NotebookNode) -> bool:
    """Whether a code cell needs a network or images: it is tagged `network`, or its notebook is (`rdn: {network: true}`).

    A book of published results shows what was recorded of these cells. The other cells must run without them.
    """
    whole = notebook.metadata.get("rdn", {}).get("network", False)
    return cell.cell_type == "code" and (whole or "network" in tags(cell))


def _cells_with_networks(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if needs_network(notebook, cell)]


def execute_without_networks(notebook: Path, result: Path, recorded: Path, **how) -> None:
    """As `execute`, but cells that need networks or images get the outputs in `recorded`, and are not run.

    Where the notebook needs an experiment that is not published, it stands in the book as it is, with a note.
    """
    whole = nbformat.read(notebook, as_version=4)
    left = [cell for cell in whole.cells if not needs_network(whole, cell)]
    ran: dict[str, NotebookNode] = {}
    if any(cell.cell_type == "code" for cell in left):
        nbformat.write(nbformat.from_dict({**whole, "cells": left}), result)
        try:
            execute(result, result, **how)
        except NotPublishedError as error:
            write_unexecuted(notebook, result, str(error))
            return
        ran = {cell.id: cell for cell in nbformat.read(result, as_version=4).cells}
    file = recorded / f"{notebook.stem}.json.gz"
    shown = json.loads(gzip.decompress(file.read_bytes())) if file.is_file() else {}
    for number, cell in enumerate(whole.cells):
        if not needs_network(whole, cell):
            whole.cells[number] = ran.get(cell.id, cell)
            continue
        known = shown.get(cell.id, {})
        found = known.get("source") == cell.source
        cell.outputs = [nbformat.from_dict(output) for output in known["outputs"]] if found else [_note_output()]
        cell.execution_count = 1
    check_completed(whole, notebook.name)
    fold_parameters(whole)
    nbformat.write(whole, result)


def _note_output() -> NotebookNode:
    return nbformat.v4.new_output("display_data", data={"text/markdown": _ABSENT, "text/plain": _ABSENT})
