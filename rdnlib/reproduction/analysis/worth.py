"""When is an RDN worth having (beyond the paper)? Each use of one, against what would serve instead: accuracy and MAdds.

The yardstick is the base trained equally long. Whatever is chosen (λ, a sub-network) is chosen on the calibration split and judged on
the validation split; where something was chosen, the intervals count the noise of both (`statistics.calibrated_estimates`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rdnlib.calibration.families import Family, OneForAll, calibrate_and_apply
from rdnlib.reproduction.analysis.claims import COMPARABLE
from rdnlib.reproduction.analysis.outcomes import families, separately_trained, split_rows
from rdnlib.reproduction.analysis.statistics import (
    RESAMPLES,
    Estimate,
    Evidence,
    accuracy,
    calibrated_estimates,
    difference,
    same_images,
)
from rdnlib.reproduction.analysis.verdicts import ENOUGH_SEEDS, far_from_plateau, near_chance
from rdnlib.reproduction.experiments import Run, graph
from rdnlib.reproduction.experiments.config import Profile

PAYS, DOES_NOT, TRADE, OPEN, NOTHING = "pays", "does not pay", "a trade", "open", "says nothing"
# what is chosen on the calibration split, against what; the names of `_choices`
CHOSEN = (
    ("single", "longer"), ("dynamic at the base", "longer"), ("dynamic", "N_K"), ("dynamic", "mix"),
    ("sequential", "N_K"), ("dynamic", "longer"), ("sequential", "longer"),
)  # fmt: skip

NARROWER = (("dynamic", "narrower"), ("sequential", "narrower"))  # where the profile has narrower bases


@dataclass(frozen=True)
class Comparison:
    """One use of an RDN against a rival: accuracy gained (points) and MAdds (% more than the rival's; below zero: fewer).

    obstacles: why the numbers say nothing; missed: at how many seeds the accuracy aimed at was not reached on the calibration split.
    """

    gain: Estimate
    cost: Estimate
    obstacles: Sequence[str] = ()
    missed: int = 0

    @property
    def illustrates(self) -> bool:
        """Fewer seeds than a verdict on training needs."""
        return self.gain.seeds < ENOUGH_SEEDS

    @property
    def ends(self) -> tuple[float, float, float, float]:
        """The intervals of gain and cost over images and seeds together, rounded as they are printed."""
        return tuple(round(end, 1) + 0.0 for end in (*self.gain.hull, *self.cost.hull))

    @property
    def verdict(self) -> str:
        """PAYS: more accurate at no more MAdds, or fewer MAdds and a loss of more than COMPARABLE excluded. DOES_NOT: more MAdds and
        not clearly more accurate, or less accurate and not clearly cheaper. TRADE: more of one for less of the other. Else OPEN."""
        if self.obstacles or not np.isfinite(self.ends).all():
            return NOTHING
        low, high, cheapest, dearest = self.ends
        better, worse, cheaper, dearer = low > 0, high < 0, dearest < 0, cheapest > 0
        if (better and not dearer) or (cheaper and not worse and low >= -COMPARABLE):
            return PAYS
        if (better and dearer) or (worse and cheaper):
            return TRADE
        return DOES_NOT if dearer or worse else OPEN

    def columns(self) -> dict[str, float | str]:
        """As columns of a table."""
        return {
            **self.gain.columns("gain"),
            **self.cost.columns("cost"),
            "seeds": self.gain.seeds,
            "verdict": self.verdict,
        }


PRETRAINED = "a trained super-net instead of none (equally long in all)"


def comparisons(
    evidence: Evidence, start: str | None = None, *, resamples: int = RESAMPLES
) -> dict[tuple[str, str], Comparison]:
    """(what, rival) → `Comparison`, for the profile's RDN whose weights start so: "reconstruct" or "copy" (default: its main one).

    What and rival are "N_K", "base", "longer" (the base trained equally long), "single" (the cheapest sub-network that reaches the accuracy of
    "longer"), "dynamic" and "sequential" (calibrated to N_K's accuracy), "dynamic at the base" (to that of "longer"), "mix" (of the
    mixes of two sub-networks by a coin the most accurate at the cost of "dynamic"), "narrower" (on the line through "longer" and the profile's
    narrower bases, trained as long, what stands at the cost of the first; at least the cheapest of them), and "N_i" against "N_i alone" for those that the profile trains alone,
    from the same weights as the main RDN.
    """
    main = evidence.profile.rdn.init
    start = start or main
    rdn, base, longer = evidence.together(f"rdn-{start}", "base", "base-longer")
    share = rdn[0].result["madds"][-1] / base[0].result["madds"][0]
    lost = near_chance("N_K", rdn, -1) + near_chance("the base trained as long", longer, 1)
    plateau = far_from_plateau(base, longer)
    found = {
        ("N_K", "base"): Comparison(difference(rdn, base), _exact(100 * (share - 1), len(rdn)), lost + plateau),
        ("N_K", "longer"): Comparison(difference(rdn, longer), _exact(100 * (share - 1), len(rdn)), lost),
    }
    pairs = CHOSEN + (NARROWER if evidence.profile.widths else ())
    found |= chosen(evidence, pairs, start=start, resamples=resamples)
    for index in evidence.profile.alone if start == main else ():
        own, alone = evidence.together(f"rdn-{main}", graph.alone(index))
        lost = near_chance(f"N_{index}", own, index) + near_chance(f"N_{index} alone", alone, index)
        found[f"N_{index}", f"N_{index} alone"] = Comparison(difference(own, alone, index), _exact(0.0, len(own)), lost)
    return found


def chosen(
    evidence: Evidence,
    pairs: Sequence[tuple[str, str]] = CHOSEN,
    *,
    start: str | None = None,
    resamples: int = RESAMPLES,
) -> dict[tuple[str, str], Comparison]:
    """Those of the `comparisons` for which something is chosen on the calibration split, or the named `pairs` of them alone."""
    start = start or evidence.profile.rdn.init
    narrower = [*graph.narrower(evidence.profile).values()] if {*pairs} & {*NARROWER} else []
    rdn, policy, longer, *others = evidence.together(f"rdn-{start}", f"policy-{start}", "base-longer", *narrower)
    lost = near_chance("N_K", rdn, -1) + near_chance("the base trained as long", longer, 1)
    wanted = set().union(*pairs)
    seeds, missed = [], dict.fromkeys(pairs, 0)
    for number, own in enumerate(zip(rdn, policy, longer, strict=True)):
        separate = [longer[number], *(runs[number] for runs in others)] if narrower else []
        held_out, test = (_families(*own, separate, split=split) for split in ("calibration", "validation"))
        notes = _choices(held_out, test, wanted)
        for pair in pairs:
            missed[pair] += bool(notes[pair[0]][2])

        def apply(rows, others, held_out=held_out, test=test) -> list[float]:
            parts = (
                {name: family.rows(index) for name, family in split.items()}
                for split, index in ((held_out, rows), (test, others))
            )
            own, anew = parts
            made = _choices(own, anew, wanted)
            values = []
            for a, b in pairs:
                rival = _on_the_line(anew["separate"], made[a][1]) if b == "narrower" else made[b]
                values += [made[a][0] - rival[0], made[a][1] / rival[1] - 1]
            return values

        sizes = (len(split["dynamic"].correct) for split in (held_out, test))
        seeds.append((*sizes, apply))
    shared = same_images([split_rows(run, "validation") for run in rdn])
    numbers = iter(calibrated_estimates(seeds, same_images=shared, resamples=resamples))
    return {pair: Comparison(next(numbers), next(numbers), lost, missed[pair]) for pair in pairs}


def _families(rdn: Run, policy: Run, longer: Run, separate: Sequence[Run] = (), *, split: str) -> dict[str, Family]:
    """Those of the RDN with "longer" as their base network; "separate": the networks that the line goes through."""
    found = families(rdn, policy, {"longer": longer}, split=split)
    if separate:
        found["separate"] = separately_trained(separate, found["dynamic"].ids, split=split)
    return found


def _on_the_line(networks: OneForAll, madds: float) -> tuple[float, float]:
    """Accuracy and MAdds of a mix by a coin of the two networks whose costs are next to `madds`; the cheapest if that costs more."""
    accuracy = networks.correct.mean(axis=0)
    return float(np.interp(madds, networks.madds, accuracy)), max(madds, networks.madds[0])


def _choices(own: dict[str, Family], test: dict[str, Family], wanted: set[str]) -> dict[str, tuple[float, float, str]]:
    """What `comparisons` names: accuracy and mean MAdds on `test`, chosen on `own`; a note where the aim was not reached."""
    full, yardstick = own["dynamic"].correct[:, -1], own["base networks"].correct[:, 0]
    aims = {
        "single": ("one sub-network", yardstick), "dynamic at the base": ("dynamic", yardstick), "dynamic": ("dynamic", full),
        "sequential": ("sequential", full),
    }  # fmt: skip
    found = {
        "N_K": (test["dynamic"].correct[:, -1].mean(), own["one sub-network"].madds[-1], ""),
        "longer": (test["base networks"].correct.mean(), test["base networks"].madds[0], ""),
    }
    needed = wanted | {"dynamic"} if "mix" in wanted else wanted  # a mix is one at the cost of dynamic inference
    for name in aims.keys() & needed:
        family, aim = aims[name]
        outcome = calibrate_and_apply(own[family], test[family], aim)
        found[name] = (outcome.accuracy, outcome.madds.mean(), outcome.note)
    if "mix" in wanted:
        pair = own["random mix of two"].within(found["dynamic"][1])
        mixed, spent = test["random mix of two"].take(pair)
        found["mix"] = (mixed.mean(), spent.mean(), "")
    return found


def against_the_base(evidence: Evidence) -> pd.DataFrame:
    """Every sub-network against the base trained equally long, and the base before that: for the picture.

    Columns: name ("N_1" … "N_K", "base"), share (of the base's MAdds), params (of the base's), top1 (%), and with their intervals (see
    `Estimate.columns`) gap (points, paired).
    """
    rdn, base, longer = evidence.together(graph.main_rdn(evidence.profile), "base", "base-longer")
    results = {"base": (base, 1)} | {f"N_{i}": (rdn, i) for i in range(1, len(rdn[0].result["madds"]) + 1)}
    rows = []
    for name, (runs, index) in results.items():
        row = {"name": name, "top1": accuracy(runs, index).value}
        for column, key in (("share", "madds"), ("params", "params")):
            row[column] = runs[0].result[key][index - 1] / base[0].result[key][0]
        rows.append(row | difference(runs, longer, index, 1).columns("gap"))
    return pd.DataFrame(rows)


def lever_pairs(profile: Profile) -> dict[str, tuple[str, str]]:
    """A choice → the experiments with and without it."""
    main = graph.main_rdn(profile)
    pairs = {"reconstruct instead of copy": ("rdn-reconstruct", "rdn-copy")}
    pairs |= {f"this book’s choices instead of “{name}”": (main, f"rdn-{name}") for name in profile.variants}
    if profile.ablations:
        own = graph.reference(profile)
        pairs[f"{profile.rdn.select} select instead of random"] = (own, graph.table4(profile)["random"])
        pairs[PRETRAINED] = (own, [*graph.table3(profile).values()][2])
        pairs["training all sub-networks instead of N_K alone"] = (own, [*graph.table5(profile).values()][2])
    return pairs


def levers(evidence: Evidence) -> dict[str, dict[str, Comparison]]:
    """What each choice brings: its name → "N_1" and "N_K" → what the RDN made with it has more than the one without.

    The start of the weights, the profile's variants, and where it has ablations the choice of channels, the trained super-net and (N_K
    alone) joint training.
    """
    profile, found = evidence.profile, {}
    taught = {PRETRAINED: ["the super-net also taught"]} if profile.rdn.distill else {}
    for name, experiments in lever_pairs(profile).items():
        made, without = evidence.together(*experiments)
        both = {"N_1": 1, "N_K": -1} if "alone" not in name else {"N_K": -1}
        found[name] = {
            label: Comparison(
                difference(made, without, index, index), _exact(_cost(made, without, index), len(made)),
                taught.get(name, []) + near_chance(f"{label} with it", made, index) + near_chance(f"{label} without", without, index),
            )
            for label, index in both.items()
        }  # fmt: skip
    return found


def _cost(made: Sequence[Run], without: Sequence[Run], index: int) -> float:
    """% of MAdds that N_index of the first has more."""
    index -= index > 0
    return 100 * (made[0].result["madds"][index] / without[0].result["madds"][index] - 1)


def _exact(value: float, seeds: int) -> Estimate:
    """A count, the same at all seeds."""
    over = (value, value) if seeds > 1 else (np.nan, np.nan)
    return Estimate(value, value, value, seeds, *over)
