"""Which experiments a profile asks for: frozen configurations, base → rdn → policy, the variants beside them, and the ablations.

The ablations are the variants of the RDN that Tables 3, 4 and 5, the table of lengths and the slimmable baseline compare. All of
them take the paper's `copy` initialisation and one recipe, with `epochs` of the profile's section `ablations`, so that each
differs from the `reference` in one thing only (an RDN from scratch also has no super-net that could teach it, and N_K trained alone no
teacher where N_K learns from the labels alone). What of a recipe was chosen on what, book/reconstruction.md says. Two
experiments with the same configuration are one, so the reference is also a point of the table of lengths, and the longest of those
are the main runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments.config import Profile
from rdnlib.surgery.nest import INITS

TABLE2 = ("mobilenext", "mobilenet_v2")  # the paper's networks with 7 and 14 sub-networks
SELECTS = ("greedy", "random", "greedy-relative")


@dataclass(frozen=True)
class Experiment:
    """One node of the graph: `config` decides its result, together with its parents and the data."""

    name: str
    kind: str  # "base", "surgery", "rdn", "depth", "policy" or "slimmable"
    config: dict
    parents: tuple[str, ...] = ()


def experiments(profile: Profile, seed: int) -> dict[str, Experiment]:
    """All experiments by name: those without a parent first, and roughly the long before the short, which fill the gaps at the end."""
    common, rdn, model, surgery = profile.recipe.settings(), profile.rdn, profile.model.settings(), _surgery(profile)
    base, extra = common | profile.base.settings(), common | {"epochs": rdn.epochs}
    nodes: dict[str, Experiment] = {}

    def add(name: str, kind: str, *parents: str, **config) -> None:
        node = Experiment(name, kind, {**config, "seed": seed}, parents)
        if nodes.setdefault(name, node) != node:
            raise ConfigError(
                f"profile {profile.name} asks for two experiments {name}: give its variants and architectures other names"
            )

    add("base", "base", model=model, recipe=base)
    for name, architecture in profile.architectures.items():
        recipe = base | architecture.recipe.settings()
        add(f"base-{name}", "base", model=profile.supernet(name).settings(), recipe=recipe)
    for width, name in narrower(profile).items():  # trained as long as base and RDN together
        recipe = base | {"epochs": profile.base.epochs + rdn.epochs}
        add(name, "base", model=model | {"width_mult": width}, recipe=recipe)
    longer = extra | {"lr": rdn.lr["base"]}
    extra |= loss_weights(profile)
    policies = {"one_shot": profile.policy.settings(), "sequential": profile.sequential.settings()}
    for init in INITS:
        add(f"rdn-{init}", "rdn", "base", **surgery, init=init, recipe=extra | {"lr": rdn.lr[init]})
        add(f"policy-{init}", "policy", f"rdn-{init}", **policies)
    add("base-longer", "base", "base", recipe=longer)
    best = surgery | {"init": rdn.init, "recipe": extra | {"lr": rdn.lr[rdn.init]}}
    for label, variant in profile.variants.items():
        changes = variant.changes()
        recipe = best["recipe"] | changes.pop("recipe", {})
        if rdn.teach_largest is not None:
            recipe.setdefault("teach_largest", rdn.teach_largest)
        if not recipe.get("distill") or recipe.get("teach_largest"):  # nobody teaches, or as it is unless said
            recipe.pop("teach_largest", None)
        add(f"rdn-{label}", "rdn", "base", **best | changes | {"recipe": recipe})
    for index in profile.alone:
        recipe = dict(best["recipe"])
        if index < 2 * rdn.k - 1:  # it is taught alone if it is taught among the others
            recipe.pop("teach_largest", None)
        add(alone(index), "rdn", "base", **best | {"recipe": recipe}, trained=[index])
    for name in families(profile):
        config = {**_surgery(profile, name), "init": rdn.init, "recipe": _recipe_of(profile, name)}
        add(f"rdn-{name}", "rdn", _base_of(profile, name), **config)
        add(f"policy-{name}", "policy", f"rdn-{name}", **policies)
    for name in (profile.model.label, *profile.architectures):
        options = _surgery(profile, name) | profile.training_free.settings()
        add(f"surgery-{name}", "surgery", _base_of(profile, name), **options, size=profile.recipe.size)
    _depth_wise(profile, add)
    if profile.ablations:
        _ablations(profile, add)
    return dict(sorted(nodes.items(), key=lambda item: bool(item[1].parents)))


def trained(profile: Profile, init: str, epochs: int) -> str:
    """The experiment that trains an RDN of this initialisation for so many epochs."""
    return f"rdn-{init}" if epochs == profile.rdn.epochs else f"rdn-{init}-{epochs}"


def main_rdn(profile: Profile) -> str:
    """The RDN that the chapters show: its weights start as the profile's `rdn.init` says."""
    return f"rdn-{profile.rdn.init}"


def main_policy(profile: Profile) -> str:
    """The policy of `main_rdn`."""
    return f"policy-{profile.rdn.init}"


def other_start(profile: Profile) -> str:
    """How the weights of the main RDN's twin start: the RDN of the same structure, `rdn-<start>`, and its policy `policy-<start>`."""
    (other,) = (init for init in INITS if init != profile.rdn.init)
    return other


def alone(index: int) -> str:
    """The experiment that trains N_index of the main RDN by itself."""
    return f"alone-{index}"


def levers(profile: Profile) -> dict[str, str]:
    """What the chapter "What makes a good RDN" compares → experiment."""
    variants = {label: f"rdn-{label}" for label in profile.variants}
    return {
        "as it is": main_rdn(profile),
        **variants,
        **{f"N_{index} alone": alone(index) for index in profile.alone},
    }


def families(profile: Profile) -> list[str]:
    """The further super-nets that have an RDN and a policy of their own: rows of Table 1."""
    return [name for name, architecture in profile.architectures.items() if architecture.rdn]


def narrower(profile: Profile) -> dict[float, str]:
    """Width → the experiment that trains a base of that width as long as base and RDN together."""
    return {width: f"base-x{width}" for width in profile.widths}


def rivals(profile: Profile) -> list[str]:
    """The networks that Figure 8 compares the RDN with: its base, also trained longer or narrower, and sub-networks trained alone."""
    return ["base", "base-longer", *narrower(profile).values(), *map(alone, profile.alone)]


def untrained(profile: Profile) -> str:
    """The experiment that operates on the base and trains nothing."""
    return f"surgery-{profile.model.label}"


def reference(profile: Profile) -> str:
    """What the ablations are compared with."""
    return trained(profile, "copy", _epochs(profile))


def depth_wise(profile: Profile) -> dict[str, tuple[str, str]]:
    """Label of a model → the experiments that train its RDN without and with depth-wise nesting, equally long.

    These are the networks of Table 2 and, where the profile has a section `depth`, its own model.
    """
    main, epochs, pairs = profile.model.label, profile.depth.epochs or profile.rdn.epochs, {}
    own = [main] if "depth" in profile.model_fields_set else []
    other_recipe = set(profile.depth.settings()) - {"epochs"}
    for label in dict.fromkeys([*TABLE2, *own]):
        if label == main:
            seven = f"rdn-{label}-pair" if other_recipe else trained(profile, profile.rdn.init, epochs)
        elif label in profile.architectures:
            seven = f"rdn-{label}-pair" if label in families(profile) and profile.depth.settings() else f"rdn-{label}"
        else:
            continue
        pairs[label] = seven, f"depth-{label}"
    return pairs


def depth_pair(profile: Profile) -> tuple[str, str]:
    """The two experiments of the profile's own model; raises ConfigError where there are none."""
    pairs = depth_wise(profile)
    if profile.model.label not in pairs:
        raise ConfigError(
            f"profile {profile.name} has no depth-wise nesting: give it a section depth, such as {{epochs: 1}}"
        )
    return pairs[profile.model.label]


def table2(profile: Profile) -> dict[str, tuple[str, str]]:
    """Model → its pair of experiments (Table 2): what does depth-wise nesting cost the largest sub-network?"""
    return {label: pair for label, pair in depth_wise(profile).items() if label in TABLE2}


def table3(profile: Profile) -> dict[str, str]:
    """Row of Table 3 → experiment: does it help to start from a trained super-net?"""
    scratch = {"from scratch": "rdn-scratch", "from scratch, as long as both": "rdn-scratch-longer"}
    return {"pre-trained": reference(profile), **scratch}


def table4(profile: Profile) -> dict[str, str]:
    """Select → experiment: does greedy select help?"""
    own = profile.rdn.select
    return {select: reference(profile) if select == own else f"rdn-{select}" for select in SELECTS}


def table5(profile: Profile) -> dict[str, str]:
    """Row of Table 5 → experiment: what does training the other sub-networks cost the largest, or bring it?"""
    count = 2 * profile.rdn.k - 1
    fewer = {f"{count - 1} sub-networks": "rdn-without-lightest", "1 sub-network": "rdn-only-largest"}
    return {f"{count} sub-networks": reference(profile), **fewer}


def sections(profile: Profile) -> set[str]:
    """What a profile has experiments for, of "ablations" (Tables 3 to 5), "depth" (of its own model) and "table2"."""
    has = {
        "ablations": profile.ablations,
        "depth": profile.model.label in depth_wise(profile),
        "table2": table2(profile),
    }
    return {name for name, there in has.items() if there}


def lengths(profile: Profile) -> list[int]:
    """Epochs after the surgery at which `copy` and `reconstruct` are compared; 0 is what the surgery alone leaves."""
    return sorted({_epochs(profile), profile.rdn.epochs, *profile.ablations.lengths})


def widths(k: int) -> list[float]:
    """2k−1 widths in equal steps from that of group 1 to that of the super-net."""
    return [units / (2 * k) for units in range(2, 2 * k + 1)]


def repeats(profile: Profile, seeds: int | None = None) -> dict[str, int]:
    """Experiment → at how many consecutive seeds it is run: `seeds`, or what the profile says of it."""
    if seeds is not None and (isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1):
        raise ConfigError(f"seeds is how many seeds to run, a whole number of at least 1, not {seeds!r}")
    counts, groups = profile.seeds, _seed_groups(profile)
    own = dict.fromkeys(experiments(profile, 0), counts.rest)
    own |= dict.fromkeys(groups["variants"], counts.variants or counts.rest)
    own |= {f"rdn-{label}": variant.seeds for label, variant in profile.variants.items() if variant.seeds}
    own |= dict.fromkeys(groups["ablations"], counts.ablations or counts.rest)
    own |= dict.fromkeys(groups["main"], counts.main) | dict.fromkeys(groups["alone"], counts.alone or counts.main)
    return own if seeds is None else dict.fromkeys(own, seeds)


def _seed_groups(profile: Profile) -> dict[str, set[str]]:
    """The experiments whose number of seeds each entry of `seeds` gives, "rest" aside."""
    singly = {*map(alone, profile.alone)}
    # what an RDN is worth is judged by the main ones
    main = {main_rdn(profile), main_policy(profile), *rivals(profile)} - singly
    compared = {*table4(profile).values(), *table5(profile).values()} if profile.ablations else set()
    other = other_start(profile)
    variants = {f"rdn-{other}", f"policy-{other}", *(f"rdn-{label}" for label in profile.variants)}
    return {"main": main, "alone": singly, "ablations": compared - main, "variants": variants}


def complete_part(profile: Profile, finished: Callable[[str], int]) -> Profile:
    """The profile without the sections of which experiments are missing, and at so many seeds as are finished.

    finished: experiment → at how many seeds, from the first on, it is finished. Raises ConfigError, naming them, where experiments are
    missing that every profile has.
    """
    for section in ("ablations", "depth", "variants", "alone", "widths", "architectures"):
        for entry in [None] if section in ("ablations", "depth") else list(getattr(profile, section)):
            smaller = _without(profile, section, entry)
            if not all(map(finished, experiments(profile, 0).keys() - experiments(smaller, 0).keys())):
                profile = smaller
    counts = {name: finished(name) for name in experiments(profile, 0)}
    if missing := [name for name, count in counts.items() if not count]:
        raise ConfigError(f"not finished, though every book needs them: {', '.join(missing)}")
    groups = _seed_groups(profile)
    most = min(counts[name] for name in groups["main"])
    own = {label: min(most, counts[f"rdn-{label}"]) for label, variant in profile.variants.items() if variant.seeds}
    singly = {f"rdn-{label}" for label in own}
    seeds = {group: min(most, *(counts[name] for name in names - singly)) for group, names in groups.items() if names}
    others = counts.keys() - set().union(*groups.values())
    shared = (seeds.get(group, most) for group in ("ablations", "variants"))
    seeds["rest"] = min(most, *shared, *(counts[name] for name in others))
    settings = profile.settings()
    for label, count in own.items():
        settings["variants"][label]["seeds"] = count
    return profile.like(settings | {"seeds": seeds})


def _without(profile: Profile, section: str, entry: str | float | None) -> Profile:
    """The profile without a section, or without one entry of it."""
    settings = profile.settings()
    own = settings.pop(section, None)
    if entry is not None:
        left = [each for each in own if each != entry]
        settings[section] = {name: own[name] for name in left} if isinstance(own, dict) else left
    return profile.like(settings)


def _surgery(profile: Profile, name: str | None = None) -> dict:
    """How the profile's model, or one of its `architectures`, is operated on."""
    settings = profile.rdn.model_dump(include={"k", "select", "calibration_images"})
    further = profile.architectures.get(name)
    return settings | {"plain": profile.rdn.plain if further is None else further.plain}


def loss_weights(profile: Profile, *, trained_supernet: bool = True) -> dict:
    """Options of a recipe: how the losses of the sub-networks are weighted and what the super-net teaches, where the profile says it."""
    rdn = profile.rdn
    weights = {} if rdn.largest is None else {"largest": rdn.largest}
    if rdn.distill and trained_supernet:
        weights |= {"distill": rdn.distill, "teacher": "supernet"}
        weights |= {} if rdn.teach_largest is None else {"teach_largest": rdn.teach_largest}
    return weights


def _base_of(profile: Profile, name: str) -> str:
    return "base" if name == profile.model.label else f"base-{name}"


def _depth_wise(profile: Profile, add: Callable) -> None:
    for name, (seven, fourteen) in depth_wise(profile).items():
        recipe = _recipe_of(profile, name) | profile.depth.settings()
        config = {**_surgery(profile, name), "init": profile.rdn.init, "recipe": recipe}
        add(seven, "rdn", _base_of(profile, name), **config)
        add(fourteen, "depth", _base_of(profile, name), **config, split=0.5)


def _recipe_of(profile: Profile, name: str) -> dict:
    """The recipe of an RDN made from one of the super-nets: no larger steps than that learnt with."""
    lr = profile.rdn.lr[profile.rdn.init]
    own = profile.architectures[name].recipe.lr if name in profile.architectures else None
    return profile.recipe.settings() | loss_weights(profile) | {"epochs": profile.rdn.epochs, "lr": min(lr, own or lr)}


def _ablations(profile: Profile, add: Callable) -> None:
    """Every experiment that only the ablations need."""
    epochs, k, surgery = _epochs(profile), profile.rdn.k, _surgery(profile)

    def recipe(epochs: int = epochs, init: str = "copy", *, trained_supernet: bool = True) -> dict:
        weights = loss_weights(profile, trained_supernet=trained_supernet)
        return profile.recipe.settings() | {"epochs": epochs, "lr": profile.rdn.lr[init]} | weights

    def variant(name: str, **changes) -> None:
        add(name, "rdn", "base", **{**surgery, "init": "copy", "recipe": recipe(), **changes})

    without_weights = {option: value for option, value in profile.model.settings().items() if option != "weights"}
    scratch = {"k": k, "plain": surgery["plain"], "init": "scratch", "model": without_weights}
    both = profile.base.epochs + epochs  # the paper's 400 are its 200 of pre-training and 200 after the surgery
    for name, length in (("rdn-scratch-longer", both), ("rdn-scratch", epochs)):
        add(name, "rdn", **scratch, recipe=recipe(length, trained_supernet=False))
    slim = {"widths": profile.ablations.slimmable or widths(k), "calibration_images": surgery["calibration_images"]}
    add("slimmable", "slimmable", "base", **slim, recipe=recipe())
    for select, name in table4(profile).items():
        if name != reference(profile):
            variant(name, select=select)
    variant("rdn-without-lightest", trained=list(range(2, 2 * k)))
    variant("rdn-only-largest", trained=[2 * k - 1])
    for length in lengths(profile):
        for init in INITS if length not in (0, profile.rdn.epochs) else ():
            variant(trained(profile, init, length), init=init, recipe=recipe(length, init))


def _epochs(profile: Profile) -> int:
    if not profile.ablations:
        raise ConfigError(f"profile {profile.name} has no ablations: give it a section with at least `epochs`")
    return profile.ablations.epochs
