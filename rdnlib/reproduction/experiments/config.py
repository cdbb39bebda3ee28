"""Which experiments a profile asks for: a graph of frozen configurations, base → rdn → policy and the variants beside it."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments import ablations
from rdnlib.surgery.nest import INITS

PROJECT = Path(__file__).resolve().parents[3]
PROFILES = PROJECT / "notebooks" / "profiles"
TABLE2 = ("mobilenext", "mobilenet_v2")  # the paper's networks with 7 and 14 sub-networks


@dataclass(frozen=True)
class Experiment:
    """One node of the graph: `config` decides its result, together with its parents and the data."""

    name: str
    kind: str  # "base", "surgery", "rdn", "depth", "policy" or "slimmable"
    config: dict
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What `notebooks/profiles/<name>.yaml` says: data, super-net, recipes, and how many experiments run at once."""

    name: str
    data: dict
    model: dict
    recipe: dict
    base: dict
    rdn: dict
    policy: dict
    architectures: dict = field(default_factory=dict)  # further super-nets: {name: {model: …, recipe: …}}
    depth: dict = field(default_factory=dict)  # of depth-wise nesting: what differs from the recipe of `rdn`
    training_free: dict = field(default_factory=dict)  # settings of surgery that is not followed by training
    sequential: dict = field(default_factory=lambda: {"hidden": [32]})  # the policy that looks again
    ablations: dict = field(default_factory=dict)  # epochs, lengths, seeds, slimmable: see `ablations`
    widths: tuple[float, ...] = ()  # of further base networks, the rivals of Figure 8
    jobs: int = 1
    threads: int | None = None  # CPU threads of an experiment; None: its share of the cores

    def graph(self, seed: int) -> dict[str, Experiment]:
        """All experiments by name, parents first; roughly, the long ones before the short, which fill the gaps at the end."""
        extra = self.recipe | {"epochs": self.rdn["epochs"]}
        nodes = [Experiment("base", "base", {"model": self.model, "recipe": self.recipe | self.base, "seed": seed})]
        for name, options in self.architectures.items():
            model, recipe = {"name": name, **options["model"]}, self.recipe | self.base | options.get("recipe", {})
            nodes.append(Experiment(f"base-{name}", "base", {"model": model, "recipe": recipe, "seed": seed}))
        for width in self.widths:  # trained as long as base and RDN together
            model, epochs = {**self.model, "width_mult": width}, self.base["epochs"] + self.rdn["epochs"]
            config = {"model": model, "recipe": self.recipe | self.base | {"epochs": epochs}, "seed": seed}
            nodes.append(Experiment(f"base-x{width}", "base", config))
        surgery = {key: self.rdn[key] for key in ("k", "select", "calibration_images")}
        for init in INITS:
            config = {**surgery, "init": init, "recipe": extra | {"lr": self.rdn["lr"][init]}, "seed": seed}
            nodes.append(Experiment(f"rdn-{init}", "rdn", config, ("base",)))
            config = {"one_shot": self.policy, "sequential": self.sequential, "seed": seed}
            nodes.append(Experiment(f"policy-{init}", "policy", config, (f"rdn-{init}",)))
        longer = {"recipe": extra | {"lr": self.rdn["lr"]["base"]}, "seed": seed}
        nodes.append(Experiment("base-longer", "base", longer, ("base",)))
        if self.rdn.get("distill"):  # beyond the paper: N_K teaches the others
            taught = {"lr": self.rdn["lr"]["reconstruct"], "distill": self.rdn["distill"]}
            config = {**surgery, "init": "reconstruct", "recipe": extra | taught, "seed": seed}
            nodes.append(Experiment("rdn-distilled", "rdn", config, ("base",)))
        for name in (self.model["name"], *self.architectures):
            parent = "base" if name == self.model["name"] else f"base-{name}"
            config = {**surgery, **self.training_free, "size": self.recipe["size"], "seed": seed}
            nodes.append(Experiment(f"surgery-{name}", "surgery", config, (parent,)))
        nodes += self._depth_nodes(surgery, seed)
        nodes += [Experiment(*node) for node in ablations.nodes(self, seed)]
        return {node.name: node for node in nodes}

    def table2(self) -> dict[str, tuple[str, str]]:
        """Model → the experiments that train its RDN without and with depth-wise nesting (Table 2), equally long."""
        epochs, pairs = self.depth.get("epochs", self.rdn["epochs"]), {}
        for name in TABLE2:
            if name == self.model["name"]:
                pairs[name] = ablations.trained(self, "reconstruct", epochs), f"depth-{name}"
            elif name in self.architectures:
                pairs[name] = f"rdn-{name}", f"depth-{name}"
        return pairs

    def _depth_nodes(self, surgery: dict, seed: int) -> list[Experiment]:
        nodes, lr = [], self.rdn["lr"]["reconstruct"]
        for name, (seven, fourteen) in self.table2().items():
            own = (
                self.architectures.get(name, {}).get("recipe", {}).get("lr", lr)
            )  # its base's: no larger steps than that learnt with
            recipe = {"epochs": self.rdn["epochs"], "lr": min(lr, own), **self.depth}
            parents = ("base" if name == self.model["name"] else f"base-{name}",)
            config = {**surgery, "init": "reconstruct", "recipe": self.recipe | recipe, "seed": seed}
            nodes.append(Experiment(seven, "rdn", config, parents))
            nodes.append(Experiment(fourteen, "depth", {**config, "split": 0.5}, parents))
        return nodes


def load_profile(name: str) -> Profile:
    """Read a profile; raises ConfigError for an unknown one or one that lacks a section."""
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PROFILES.glob("*.yaml")))
        raise ConfigError(f"unknown profile '{name}': choose from {known}")
    try:
        return Profile(name=name, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"profile {path.name} cannot be read: {error}") from error
