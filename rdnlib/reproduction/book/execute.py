"""Notebooks executed by papermill in kernels that are this very interpreter, several at once, every cell checked."""

import ast
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from rdnlib.errors import NotPublishedError, RdnError

_IN_THE_BOOK = {"parameters": "hide-input", "injected-parameters": "remove-cell"}  # tag → what jupyter-book does


def execute_all(
    notebooks: list[Path], folder: Path, *, parameters: dict[str, Any], jobs: int, seconds: dict[str, float],
    how: Callable[..., None] | None = None,
) -> None:  # fmt: skip
    """Execute notebooks into `folder`, up to `jobs` at once, each with those of the parameters that it declares.

    The longest texts come first, so that a short one is the last to end; those that measure time (`rdn: {alone: true}` in their
    metadata) come at the end, one at a time. `seconds` receives how long each took; `how`: instead of `execute`. Raises RdnError for the first that failed.
    """
    notebooks = sorted(notebooks, key=lambda notebook: -notebook.stat().st_size)
    threads = max(1, (os.cpu_count() or 1) // jobs)

    def one(number: int, notebook: Path) -> None:
        declared = _declared(notebook)
        own = {name: value for name, value in parameters.items() if name in declared}
        with timed(notebook.stem, seconds, label=f"[{number}/{len(notebooks)}] notebook {notebook.stem}"):
            (how or execute)(notebook, folder / notebook.name, parameters=own, threads=threads)

    notebooks.sort(key=_alone)
    together = [notebook for notebook in notebooks if not _alone(notebook)]
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, number, notebook) for number, notebook in enumerate(together, start=1)]
        try:
            for done in waiting:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for number, notebook in enumerate(notebooks[len(together) :], start=len(together) + 1):
        one(number, notebook)


def execute(notebook: Path, result: Path, *, parameters: dict[str, Any], threads: int | None = None) -> None:
    """Execute one notebook into `result`, with so many threads, and check that every one of its code cells completed.

    In the book the cell of the default parameters is folded, and the one that papermill adds is left out: it holds paths of
    this machine. Every page's footer says which profile and seed were used. Raises RdnError, naming notebook, cell and error.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook, result, parameters=parameters, kernel_name="python3", language="python", cwd=notebook.parent,
            progress_bar=False, kernel_manager_class=_kernel(threads),
        )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == NotPublishedError.__name__:
            raise NotPublishedError(error.evalue) from error
        # papermill counts the cell that it put after the one tagged `parameters`; a reader of the notebook does not
        added = 1 + next((i for i, cell in enumerate(_cells(notebook)) if "parameters" in tags(cell)), -1)
        number = error.cell_index + (error.cell_index < added)
        raise RdnError(f"{_failed(notebook.name, number, error)} (the executed copy is {result})") from error
    except DeadKernelError as error:
        raise RdnError(f"notebook {notebook.name}: its kernel died, perhaps for lack of memory") from error
    executed = nbformat.read(result, as_version=4)
    check_completed(executed, notebook.name)
    fold_parameters(executed)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
    executed.metadata.pop("papermill", None)
    executed.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(executed, result)


def write_unexecuted(notebook: Path, result: Path, reason: str) -> None:
    """Write a notebook as it is, with a note below its title that says why it has no results."""
    whole = nbformat.read(notebook, as_version=4)
    note = f":::{{admonition}} This chapter has no results here\n:class: warning\n{reason} The code below was not run.\n:::"
    whole.cells.insert(1, nbformat.v4.new_markdown_cell(note))
    fold_parameters(whole)
    nbformat.write(whole, result)


def fold_parameters(notebook: NotebookNode) -> None:
    """Tag the cells of parameters with what the book does with them."""
    for cell in notebook.cells:
        own = tags(cell)
        own += [_IN_THE_BOOK[tag] for tag in own if tag in _IN_THE_BOOK and _IN_THE_BOOK[tag] not in own]


def check_completed(notebook: NotebookNode, name: str) -> None:
    """Raise RdnError, naming the cell, unless every code cell that has code was executed without an error output."""
    own = [cell for cell in notebook.cells if "injected-parameters" not in tags(cell)]
    for number, cell in enumerate(own, start=1):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        for error in (output for output in cell.outputs if output.output_type == "error"):
            raise RdnError(_failed(name, number, error))
        if cell.execution_count is None:
            raise RdnError(f"notebook {name}, cell {number} was not executed")


def _kernel(threads: int | None) -> type[AsyncKernelManager]:
    """A kernel that is this very interpreter, so that none needs to be installed; `threads` of its computations."""
    argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher"]
    argv += ["-f", "{connection_file}", "--log-level=50"]
    env = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    env["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))  # what can be imported here can be there
    return type("Kernel", (AsyncKernelManager,), {"kernel_spec": KernelSpec(argv=argv, env=env, language="python")})


@contextmanager
def timed(step: str, seconds: dict[str, float], label: str | None = None) -> Iterator[None]:
    print(f"{label or step} …", flush=True)
    start = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - start, 1)
    print(f"{label or step}: {seconds[step]:.1f} s", flush=True)


def _declared(notebook: Path) -> set[str]:
    """The names that a notebook's cell of parameters sets."""
    cells = [cell for cell in _cells(notebook) if "parameters" in tags(cell)]
    statements = ast.parse(cells[0].source).body if cells else []
    return {name.id for line in statements for name in getattr(line, "targets", ())}


def _alone(notebook: Path) -> bool:
    """Whether nothing else may run beside it."""
    return bool(nbformat.read(notebook, as_version=4).metadata.get("rdn", {}).get("alone"))


def _cells(notebook: Path) -> list[NotebookNode]:
    return nbformat.read(notebook, as_version=4).cells


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _failed(name: str, number: int, error) -> str:
    first_line, *_ = error.evalue.strip().split("\n")
    return f"notebook {name}, cell {number} failed: {error.ename}: {first_line}"
