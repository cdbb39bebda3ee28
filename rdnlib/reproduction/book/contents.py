"""What is in the book: its chapters, read from the table of contents, and the runs of a profile with the chapters that show them.

Which runs a chapter shows is found in its code: experiments named in strings, and the functions of ours that read several.
"""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import pandas as pd
import yaml

from rdnlib.errors import ConfigError
from rdnlib.policy.network import fit_policy
from rdnlib.reproduction.analysis import worth
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import Profile
from rdnlib.reproduction.experiments.graph import Experiment
from rdnlib.surgery.nest import INITS
from rdnlib.utils.resources import resource

TABLES = ("table2", "table3", "table4", "table5")
READERS: dict[str, Callable[[Profile], list[str]]] = {  # functions that chapters call → the experiments behind them
    "main_rdn": lambda profile: [graph.main_rdn(profile)],
    "main_policy": lambda profile: [graph.main_policy(profile)],
    "base_networks": lambda profile: [graph.main_rdn(profile), *graph.rivals(profile)],
    "lever_table": lambda profile: ["base", "base-longer", *graph.levers(profile).values()],
    "comparisons": lambda profile: [
        *(f"{kind}-{init}" for init in INITS for kind in ("rdn", "policy")),
        *graph.rivals(profile),
    ],
    "narrower": lambda profile: [*graph.narrower(profile).values()],
    "against_the_base": lambda profile: [graph.main_rdn(profile), "base", "base-longer"],
    "length_table": lambda profile: [
        graph.untrained(profile),
        *(graph.trained(profile, init, n) for init in INITS for n in graph.lengths(profile) if n),
    ],
    "worth.levers": lambda profile: [name for pair in worth.lever_pairs(profile).values() for name in pair],
    "ledger": lambda profile: (
        ["base", "base-longer"]
        + [name for table in (TABLES if profile.ablations else TABLES[:1]) for name in READERS[table](profile)]
        + [f"{kind}-{name}" for kind in ("rdn", "policy") for name in (*INITS, *graph.families(profile))]
    ),
    "depth_pair": lambda profile: [*graph.depth_pair(profile)],
    "table2": lambda profile: [name for pair in graph.table2(profile).values() for name in pair],
    "table3": lambda profile: [*graph.table3(profile).values()],
    "table4": lambda profile: [*graph.table4(profile).values()],
    "table5": lambda profile: [*graph.table5(profile).values()],
}


class Chapter(NamedTuple):
    """A notebook of the book: the part that it stands in, its file's stem, and its title, "5 · Can a small network …?"."""

    part: str
    name: str
    title: str

    @property
    def number(self) -> int:
        return int(self.title.partition(" · ")[0])

    @property
    def link(self) -> str:
        """In the Markdown of another notebook."""
        return f"[{self.title}]({self.name}.ipynb)"


def chapters() -> list[Chapter]:
    """The notebooks in the order in which they are read."""
    toc = yaml.safe_load(resource("book/_toc.yml").read_text(encoding="utf-8"))
    files = [(part["caption"], chapter["file"]) for part in toc["parts"] for chapter in part["chapters"]]
    names = [(part, file.removeprefix("notebooks/")) for part, file in files if file.startswith("notebooks/")]
    return [Chapter(part, name, "".join(_cells(name)[0]["source"]).splitlines()[0][2:]) for part, name in names]


def runs(profile: Profile, seeds: int | None = None) -> pd.DataFrame:
    """Every experiment of a profile, a row each.

    Columns: run, network (its name and width), px, epochs, lr (of its own training), select, init, seeds (how many), chapters ("1, 3–5").
    NaN or an empty text where a run has none.
    """
    nodes, times, shown = graph.experiments(profile, 0), graph.repeats(profile, seeds), shown_in(profile)
    rows = []
    for name, node in nodes.items():
        model = next(of.config["model"] for of in _line(nodes, node) if "model" in of.config)
        recipe = next(
            of.config.get("recipe", of.config) for of in _line(nodes, node) if {"recipe", "size"} & set(of.config)
        )
        about: dict = {"run": name}
        about["network"] = f"{model['name']} {model.get('width_mult', '')}".strip()
        about |= {"px": recipe["size"], **_training(node)}
        about |= {key: node.config.get(key, "") for key in ("select", "init")}
        rows.append(about | {"seeds": times[name], "chapters": spans(shown.get(name, ()))})
    return pd.DataFrame(rows)


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers with what follows each other joined: "1, 3–5"."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{own[0]}–{own[-1]}" if len(own) > 2 else ", ".join(map(str, own)) for own in groups)


def shown_in(profile: Profile) -> dict[str, list[int]]:
    """Experiment → numbers of the chapters that read it."""
    found: dict[str, list[int]] = {}
    for chapter in chapters():
        for name in dict.fromkeys(_read_by(chapter.name, profile)):
            found.setdefault(name, []).append(chapter.number)
    return found


def _line(nodes: dict[str, Experiment], node: Experiment) -> Iterator[Experiment]:
    """An experiment, what it is made from, and so on."""
    yield node
    for parent in node.parents:
        yield from _line(nodes, nodes[parent])


def _training(node: Experiment) -> dict[str, float]:
    """Epochs and learning rate."""
    if node.kind == "surgery":
        return {"epochs": 0, "lr": float("nan")}
    if node.kind == "policy":
        defaults = inspect.signature(fit_policy).parameters
        return {key: node.config["one_shot"].get(key, defaults[key].default) for key in ("epochs", "lr")}
    return {key: node.config["recipe"][key] for key in ("epochs", "lr")}


def _cells(name: str) -> list[dict]:
    return json.loads(resource(f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def _read_by(name: str, profile: Profile) -> Iterator[str]:
    """The experiments of a profile that a notebook's code names."""
    nodes = graph.experiments(profile, 0)
    for cell in _cells(name):
        if cell["cell_type"] != "code":
            continue
        for part in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                every = part.value == "surgery"  # a kind that is asked for as such
                yield from (of for of, node in nodes.items() if part.value == of or (every and node.kind == part.value))
            elif isinstance(part, ast.JoinedStr):
                yield from (of for of in nodes if _template(part, profile).fullmatch(of))
            elif isinstance(part, ast.Attribute | ast.Name):
                called = part.attr if isinstance(part, ast.Attribute) else part.id
                reader = READERS.get(ast.unparse(part)) or READERS.get(called, lambda profile: [])
                with suppress(ConfigError):  # a section that the profile does not have
                    yield from (of for of in reader(profile) if of in nodes)


def _template(text: ast.JoinedStr, profile: Profile) -> re.Pattern:
    """An f-string as a pattern; what it fills in is an initialisation or a further super-net."""
    words = "|".join(map(re.escape, [*INITS, *profile.architectures]))
    return re.compile(
        "".join(re.escape(part.value) if isinstance(part, ast.Constant) else f"({words})" for part in text.values)
    )
