"""What the library reads and does not compute: notebooks, profiles, pages of the book, tables of the paper.

They lie beside `rdnlib/` in a checkout, and in `rdnlib/resources/` where the library was installed from a wheel.
"""

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("rdnlib")))


def checkout() -> Path | None:
    """The folder of the project that `rdnlib` runs from; None where it was installed."""
    return None if (_PACKAGE / "resources").is_dir() else _PACKAGE.parent


def resource(name: str = "") -> Path:
    """A file or folder by its path in the project, such as "data/paper/table1.csv"; without a name the folder of all."""
    return (checkout() or _PACKAGE / "resources") / name


def default_out(name: str) -> Path:
    """Where results go unless the user says where: `build/<name>` in the current folder.

    The notebooks of a checkout use the checkout's `build`, so that they find what its commands have computed.
    """
    here, project = Path.cwd(), checkout()
    return (project if project and here.is_relative_to(project / "notebooks") else here) / "build" / name
