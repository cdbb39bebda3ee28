"""A miniature of the project, built by the real code, and a browser to look at it."""

import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from filelock import FileLock

from rdnlib.errors import RdnError
from rdnlib.reproduction.book.build import reproduce

PROJECT = Path(__file__).resolve().parents[3]
REPOSITORY, SITE = "https://github.com/owner/name", "https://owner.github.io/name"
PARAMETERS = "profile = 'quick'\ndata_root = None\nseed = 0\nout = 'build'"
EXPLORER = """
from pathlib import Path
from IPython.display import HTML
from support.explorers import presets
from rdnlib.reproduction.book.explorer import fragment
from rdnlib.utils.files import write_text
text = fragment(*presets())
write_text(Path(out) / "fragments" / "explorer.html", text)
HTML(text)
"""
FIGURE = """
from rdnlib.nn.groups import sources
from rdnlib.reproduction.book import figures, structure, style
rows = [sources(j, 4, plain_input=False) for j in range(1, 8)]
sizes = [24, 24, 24, 24, 24, 24, 24]
style.show(structure.weight_blocks(rows, k=4, inputs=sizes, outputs=sizes), alt="which group reads which")
"""
CURVE = """
import pandas as pd
nan = float("nan")
frame = pd.DataFrame({
    "series": ["sub-networks"] * 5 + ["dynamic"] * 4 + ["dynamic, calibrated"] * 2 + ["MobileNeXt", "MobileNeXt, longer"]
        + ["random mix of N_1 and N_K"] * 2 + ["oracle (first correct exit)"],
    "madds": [21e6, 33e6, 44e6, 52e6, 60e6, 25e6, 32e6, 40e6, 50e6, 34e6, 48e6, 48e6, 48e6, 21e6, 60e6, 29e6],
    "top1": [55, 64, 69, 71, 72, 60, 66, 70, 72, 67, 71.5, 70.5, 71.5, 55, 72, 78],
})
frame["low"], frame["high"] = frame["top1"] - 1, frame["top1"] + 1
frame["name"] = [f"N_{i}" for i in range(1, 6)] + [""] * (len(frame) - 5)
style.show(figures.figure8(frame), alt="accuracy against MAdds")
"""
WIDE = """
import pandas as pd
from rdnlib.reproduction.book.chapter import show_table
columns = [f"a long name of column {number}" for number in range(12)]
show_table(pd.DataFrame([range(12)] * 3, columns=columns, index=["one", "two", "three"]), index=True, caption="Wide")
"""
TABLE = "pd.DataFrame({'network': ['N1', 'N2'], 'top-1 (%)': [55.0, 64.0]}).style.hide()"
FRAME = "pd.DataFrame({'network': ['N1', 'N2'], 'top-1 (%)': [55.0, 64.0]})"


def notebook(title: str, *cells: str) -> nbformat.NotebookNode:
    language = {"name": "python", "pygments_lexer": "ipython3"}
    made = nbformat.v4.new_notebook(metadata={"language_info": language})
    made.cells = [
        nbformat.v4.new_markdown_cell(
            f"# {title}\n\nWhat this page is about, in a sentence of words alone.\n\nA formula: $f_\\lambda(x) = \\arg\\max_v$."
        ),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(cell.strip()) for cell in cells),
    ]
    return made


@pytest.fixture(scope="session")
def site(shared_folder, tmp_path_factory) -> Path:
    """The folder of a book with the project's own pages and configuration, and tiny notebooks of the real names."""
    out = shared_folder / "site"
    with FileLock(shared_folder / "site.lock"):
        if not (out / "manifest.json").is_file():
            _build_site(tmp_path_factory.mktemp("project"), out)
    return out / "html"


def _build_site(project: Path, out: Path) -> None:
    shutil.copytree(PROJECT / "book", project / "book")
    shutil.copy(PROJECT / "_config.yml", project)
    (project / "notebooks").mkdir()
    toc = yaml.safe_load((PROJECT / "book" / "_toc.yml").read_text())
    chapters = [Path(c["file"]) for part in toc["parts"] for c in part["chapters"] if "/" in c["file"]]
    code = {
        "10_figure8": (EXPLORER, "from rdnlib.reproduction.book import figures, style", CURVE),
        "01_nested_convolution": (FIGURE,),
        "09_table1": ("import pandas as pd", TABLE),
        "05_policy": ("import pandas as pd", FRAME),
        "06_lambda": (WIDE,),
    }
    for chapter in chapters:  # those without code are not executed
        cells = code.get(chapter.name, ("print('nothing here')",))
        nbformat.write(notebook(chapter.name, *cells), project / "notebooks" / f"{chapter.name}.ipynb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDN_REPOSITORY", REPOSITORY)
        patch.setenv("RDN_SITE", SITE)
        patch.setattr(sys.modules["rdnlib.reproduction.book.build"], "ensure_all", lambda *_, **__: None)
        index = reproduce("quick", notebooks=list(code), out=out, project=project)
    assert index == out / "html" / "index.html"


@pytest.fixture(scope="module")
def address(site):
    """The site on a local server."""
    from support.browser import served

    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from support.browser import chromium

    driver = chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def axe() -> str:
    from support.browser import axe_script

    try:
        return axe_script()
    except RdnError as error:
        pytest.skip(str(error))
