"""The ablations: which variants of the RDN Tables 3, 4 and 5, the table of lengths and the slimmable baseline compare.

All of them take the paper's `copy` initialisation and one recipe, with `epochs` of the profile's section `ablations`, so that each
differs from the reference (`trained(profile, "copy", epochs)`) in one thing only. The recipes are fixed beforehand: nothing is
chosen on validation data. Two experiments with the same configuration are one, so the reference is also a point of the table of
lengths, and the longest of those are the main runs.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from rdnlib.errors import ConfigError
from rdnlib.surgery.nest import INITS

if TYPE_CHECKING:
    from rdnlib.reproduction.experiments.config import Profile
    from rdnlib.reproduction.experiments.workspace import Workplace

SELECTS = ("greedy", "random", "greedy-relative")


def trained(profile: "Profile", init: str, epochs: int) -> str:
    """The experiment that trains an RDN of this initialisation for so many epochs."""
    return f"rdn-{init}" if epochs == profile.rdn["epochs"] else f"rdn-{init}-{epochs}"


def reference(profile: "Profile") -> str:
    """What the variants are compared with."""
    return trained(profile, "copy", _epochs(profile))


def table3(profile: "Profile") -> dict[str, str]:
    """Row of Table 3 → experiment: does it help to start from a trained super-net?"""
    return {
        "pre-trained": reference(profile),
        "from scratch": "rdn-scratch",
        "from scratch, twice as long": "rdn-scratch-twice",
    }


def table4(profile: "Profile") -> dict[str, str]:
    """Select → experiment: does greedy select help?"""
    own = profile.rdn["select"]
    return {select: reference(profile) if select == own else f"rdn-{select}" for select in SELECTS}


def table5(profile: "Profile") -> dict[str, str]:
    """Row of Table 5 → experiment: what does training the other sub-networks cost the largest, or bring it?"""
    count = 2 * profile.rdn["k"] - 1
    return {
        f"{count} sub-networks": reference(profile),
        f"{count - 1} sub-networks": "rdn-without-lightest",
        "1 sub-network": "rdn-only-largest",
    }


def lengths(profile: "Profile") -> list[int]:
    """Epochs after the surgery at which `copy` and `reconstruct` are compared; 0 is what the surgery alone leaves."""
    return sorted({*profile.ablations.get("lengths", ()), _epochs(profile), profile.rdn["epochs"]})


def widths(k: int) -> list[float]:
    """2k−1 widths in equal steps from that of group 1 to that of the super-net."""
    return [units / (2 * k) for units in range(2, 2 * k + 1)]


def nodes(profile: "Profile", seed: int) -> list[tuple[str, str, dict, tuple[str, ...]]]:
    """(name, kind, configuration, parents) of every experiment that only the ablations need."""
    if not profile.ablations:
        return []
    epochs, k = _epochs(profile), profile.rdn["k"]
    surgery = {key: profile.rdn[key] for key in ("k", "select", "calibration_images")}

    def training(epochs: int = epochs, init: str = "copy") -> dict:
        return {"recipe": profile.recipe | {"epochs": epochs, "lr": profile.rdn["lr"][init]}, "seed": seed}

    def variant(**changes) -> dict:
        return {**surgery, "init": "copy", **training(), **changes}

    made = []
    for name, factor in (("rdn-scratch-twice", 2), ("rdn-scratch", 1)):
        config = {"k": k, "init": "scratch", "model": profile.model, **training(factor * epochs)}
        made.append((name, "rdn", config, ()))
    slim = profile.ablations.get("slimmable", widths(k))
    config = {"widths": slim, "calibration_images": profile.rdn["calibration_images"], **training()}
    made.append(("slimmable", "slimmable", config, ("base",)))
    variants = {name: {"select": select} for select, name in table4(profile).items() if name != reference(profile)}
    variants["rdn-without-lightest"] = {"trained": list(range(2, 2 * k))}
    variants["rdn-only-largest"] = {"trained": [2 * k - 1]}
    made += [(name, "rdn", variant(**changes), ("base",)) for name, changes in variants.items()]
    for length in lengths(profile):
        if length not in (0, profile.rdn["epochs"]):
            for init in INITS:
                config = variant(init=init, **training(length, init))
                made.append((trained(profile, init, length), "rdn", config, ("base",)))
    return made


def seeds_from(profile: "Profile", seed: int, seeds: int | None = None) -> list[int]:
    """So many consecutive seeds, from `seed` on; default: as many as the profile says, else one."""
    seeds = profile.ablations.get("seeds", 1) if seeds is None else seeds
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ConfigError(f"seeds is how many seeds to run, a whole number of at least 1, not {seeds!r}")
    return list(range(seed, seed + seeds))


def replicas(place: "Workplace", seeds: int | None = None) -> "list[Workplace]":
    """The same place at so many consecutive seeds."""
    return [replace(place, seed=seed) for seed in seeds_from(place.profile, place.seed, seeds)]


def repeated(profile: "Profile") -> list[str]:
    """What is run again for every further seed: the base's RDNs, their policies, the variants, and the networks beside them."""
    names: list[str] = []
    for name, node in profile.graph(0).items():  # parents first
        own = node.kind in ("rdn", "policy", "slimmable") and set(node.parents) <= set(names)
        if own or name in ("base", "base-longer", f"surgery-{profile.model['name']}"):
            names.append(name)
    return names


def _epochs(profile: "Profile") -> int:
    if "epochs" not in profile.ablations:
        raise ConfigError(f"profile {profile.name} has no ablations: give it a section with at least `epochs`")
    return profile.ablations["epochs"]
