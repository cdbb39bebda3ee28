"""The notebooks, and a way to run one in this process: a kernel for each, with its imports, takes most of the time."""

import gc
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import nbformat
from IPython.core.interactiveshell import InteractiveShell

from rdnlib.reproduction.book.execute import tags
from rdnlib.reproduction.book.published import needs_network

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("[0-9]*.ipynb"))


def about(path: Path) -> dict:
    """What a notebook says of itself: see `execute_all` and `reproduce`."""
    return nbformat.read(path, as_version=4).metadata.get("rdn", {})


def code_cells(path: Path, *, networks: bool = True) -> list[nbformat.NotebookNode]:
    """networks: with those that need a network or images."""
    notebook = nbformat.read(path, as_version=4)
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and (networks or not needs_network(notebook, cell))
    ]  # fmt: skip


def run_here(path: Path, parameters: dict, *, networks: bool = True) -> list[tuple[nbformat.NotebookNode, str]]:
    """Run a notebook's cells in this process, with other values of its parameters; each cell with what it printed."""
    # a module of its own: `__main__` stays this process's, which tests that start other processes need
    shell = InteractiveShell.instance(user_module=ModuleType("notebook"))
    gc.freeze()  # `reset` collects garbage: not among all that is imported, which takes a second each time
    shell.reset(new_session=False)
    cells = []
    with plt.rc_context():
        for number, cell in enumerate(code_cells(path, networks=networks), start=1):
            with redirect_stdout(StringIO()) as printed:
                done = shell.run_cell(cell.source, silent=True)
            assert done.success, f"{path.name}, code cell {number}: {done.error_in_exec or done.error_before_exec!r}"
            cells.append((cell, printed.getvalue()))
            if "parameters" in tags(cell):
                shell.push({name: value for name, value in parameters.items() if name in shell.user_ns})
    plt.close("all")
    return cells
