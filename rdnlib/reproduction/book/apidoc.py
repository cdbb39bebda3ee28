"""The API reference of the book: how Sphinx reads the library's docstrings (an extension of `sphinx.ext.autodoc`).

In them a line `name: text`, or `one, other: text`, describes parameters, and indented lines go on with it.
"""

import inspect
import re
from collections.abc import Iterable

PARAMETERS = re.compile(r"(?P<names>\w+(?:, \w+)*)(?: \(.*?\))?: (?P<text>.*)")


def field_list(lines: Iterable[str], parameters: Iterable[str]) -> list[str]:
    """Docstring lines as reStructuredText: `name: text` of a parameter becomes a field, everything else stays."""
    result, parameters, inside = [], set(parameters), False
    for line in lines:
        match = PARAMETERS.fullmatch(line)
        if match and set(match["names"].split(", ")) <= parameters:
            if not inside:
                result.append("")
            result.append(f":param {match['names']}: {match['text']}")
            inside = True
        elif inside and line.strip() and not line.startswith(("Raises ", "Returns ")):
            result.append(f"    {line.strip()}")
        else:
            result += ["", line] if inside else [line]
            inside = False
    return result


def process(app, what: str, name: str, item, options, lines: list[str]) -> None:
    """Sphinx's `autodoc-process-docstring`: rewrite `lines` in place."""
    try:
        parameters = inspect.signature(item).parameters
    except (TypeError, ValueError):  # a module, a constant
        return
    lines[:] = field_list(lines, parameters)


def setup(app) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
