"""Notebooks that install what they need: `python -m rdnlib.reproduction.book.colab FOLDER`, for the branch that Colab opens.

The repository's own notebooks say nothing of an address; these copies begin with one more cell, which installs the library, with
profiles and pages, from the repository of `_config.yml` (or RDN_REPOSITORY).
"""

import os
import sys
from pathlib import Path

import nbformat
import yaml

from rdnlib.errors import ConfigError
from rdnlib.reproduction.book.pages import configured
from rdnlib.utils.resources import resource


def write(folder: str | os.PathLike) -> list[Path]:
    """Write the notebooks into `folder`/notebooks and return their paths.

    Raises:
        ConfigError: where no repository is named.
    """
    config = configured(yaml.safe_load(resource("_config.yml").read_text(encoding="utf-8")), "")
    repository = config["repository"]
    if not repository["url"]:
        raise ConfigError("no repository to install from: name it in _config.yml or by RDN_REPOSITORY")
    source = f"%pip install --quiet 'rdnlib @ git+{repository['url']}@{repository['branch']}'"
    written = []
    for path in sorted(resource("notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(source, id="install"))
        target = Path(folder, "notebooks", path.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
        written.append(target)
    return written


if __name__ == "__main__":
    print(f"{len(write(sys.argv[1]))} notebooks in {sys.argv[1]}")
