"""The ledger: every claim of the paper's tables and Figure 8 as a statement, the paper's numbers, ours, a verdict (`verdicts`).

Bounds are the paper's own: where it calls accuracies comparable, it prints losses of up to 0.2 points of top-1, so that is the
bound. Whether our images and seeds can resolve so much, the verdict says. `CLAIMS` lists what makes the claims.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from rdnlib.calibration.families import calibrate_and_apply
from rdnlib.reproduction.analysis.calibrated import dynamic_estimates
from rdnlib.reproduction.analysis.outcomes import Dynamic, unfolded_madds
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence, contrast, difference
from rdnlib.reproduction.analysis.tradeoff import adaptive_gains
from rdnlib.reproduction.analysis.verdicts import Claim, far_from_plateau, near_chance, verdict_table
from rdnlib.reproduction.experiments import Run, graph
from rdnlib.surgery.nest import INITS
from rdnlib.utils.resources import resource

COMPARABLE = 0.2  # points: the largest loss of top-1 that the paper's Table 1 calls comparable
TOLERANCE = 2.0  # % of the base's MAdds: what conventions (with or without activations) and rounding change in the paper's own ratios
LARGEST, LIGHTEST = -1, 1
# The paper's rows; ours are smaller networks of the same kind
TABLE2_NAMES = {"mobilenext": "MnXt1.5", "mobilenet_v2": "MBv21.4"}  # in the paper
SOURCES = {"imagenet": "ImageNet"}  # of a profile's weights
NETWORKS = {"mobilenext": "MobileNeXt", "mobilenet_v2": "MobileNetV2"}


def printed(table: int) -> pd.DataFrame:
    """A table of the paper, the numbers as printed."""
    return pd.read_csv(resource(f"data/paper/table{table}.csv"))


def table1_claims(evidence: Evidence) -> list[Claim]:
    paper = printed(1).set_index("model")
    bases = [name for name in paper.index if not name.startswith("RDN")]
    rows = paper.loc[bases], paper.loc[[f"RDN-{base}" for base in bases]], paper.loc[[f"RDN-{base}†" for base in bases]]
    top1, top5, madds, memory = (
        tuple(part[column].to_numpy() for part in rows) for column in ("top1", "top5", "madds_m", "params_m")
    )
    nested, adapted = top1[1] - top1[0], top1[2] - top1[1]
    cost = 100 * (madds[1] / madds[0] - 1)
    claims, share, limit = [], "% of the base's", max(cost) + TOLERANCE
    networks = {init: ["base", f"rdn-{init}", f"policy-{init}", "base-longer"] for init in INITS}
    networks |= {name: [f"base-{name}", f"rdn-{name}", f"policy-{name}"] for name in graph.families(evidence.profile)}
    for name, names in networks.items():
        base, rdn, policy, *longer = evidence.together(*names)
        about, lost = f"RDN, {name}", near_chance("the base", base, 1) + near_chance("N_K", rdn, LARGEST)
        doubts = far_from_plateau(base, *longer) if longer else ["whether its base is at its plateau was not tried"]
        unready, whole = lost + doubts, base[0].result["madds"][0]
        more, executed = (
            100 * (madds[-1] / whole - 1) for madds in (unfolded_madds(rdn[0].result), rdn[0].result["madds"])
        )
        gain, spared, less, touched, in_fact = adaptive_estimates(rdn, policy, whole)
        claims.append(
            _claim(
                f"{about}: N_K is about as accurate as its base",
                nested,
                difference(rdn, base),
                -COMPARABLE,
                obstacles=unready,
            )
        )
        if longer:
            statement = f"{about}: N_K is about as accurate as its base trained as long (a control of ours)"
            doubts, gap = lost + near_chance("the base trained as long", *longer, 1), difference(rdn, *longer)
            claims.append(_claim(statement, nested, gap, -COMPARABLE, obstacles=doubts, control=True))
        claims += [
            Claim("", f"{about}: N_K is about as accurate as its base in top-5", _signed(top5[1] - top5[0]), difference(rdn, base, top=5), -COMPARABLE,
                  obstacles=unready),
            Claim("", f"{about}: N_K needs at most {limit:.0f} % more MAdds than its base (the paper's {max(cost):.0f} and {TOLERANCE:g} for the way of counting)",
                  _signed(cost, 0), Estimate(more, more, more), limit, "<", share, exact=True),
            _claim(f"{about}: † is about as accurate as N_K", adapted, gain, -COMPARABLE, obstacles=lost),
            _claim(f"{about}: † saves MAdds against its base", 100 * (1 - madds[2] / madds[0]), spared, unit=share, obstacles=lost),
            _claim(f"{about}: † saves MAdds against N_K", 100 * (1 - madds[2] / madds[1]), less, unit="% of N_K's", obstacles=lost),
            _claim(f"{about}: † touches fewer parameters than N_K", 100 * (1 - memory[2] / memory[1]), touched,
                   unit="% of N_K's", obstacles=lost),
        ]  # fmt: skip
        if executed != more:
            claims += [
                Claim("", f"{about}: as executed, with folded heads, N_K needs at most {limit:.0f} % more MAdds than its base (a control of ours)",
                      _signed(cost, 0), Estimate(executed, executed, executed), limit, "<", share, exact=True, control=True),
                _claim(f"{about}: as executed, † saves MAdds against its base (a control of ours)", 100 * (1 - madds[2] / madds[0]), in_fact,
                       unit=share, obstacles=lost, control=True),
            ]  # fmt: skip
    return _of("Table 1", claims)


def adaptive_estimates(rdn: Sequence[Run], policy: Sequence[Run], base_madds: float) -> list[Estimate]:
    """† by the paper's policy on validation, with the noise of λ* in the intervals.

    Accuracy gained over N_K (points); MAdds saved against `base_madds` and against N_K (%), with heads that are not folded, as the paper
    counts; parameters not touched (% of N_K's); and MAdds saved against `base_madds` as executed.
    """

    def apply(held_out: Dynamic, samples: Dynamic, result: dict) -> tuple[float, ...]:
        outcome = calibrate_and_apply(held_out, samples, held_out.correct[:, -1])
        exits, unfolded = samples.exits(outcome.parameter), unfolded_madds(result)
        policy_madds = samples.madds[-1] - result["madds"][-1]
        madds, params = unfolded[exits].mean() + policy_madds, samples.params[exits].mean()
        return (
            outcome.accuracy - samples.correct[:, -1].mean(), 1 - madds / base_madds, 1 - madds / unfolded[-1],
            1 - params / result["params"][-1], 1 - outcome.madds.mean() / base_madds,
        )  # fmt: skip

    return dynamic_estimates(rdn, policy, apply)


def figure8_claims(evidence: Evidence) -> list[Claim]:
    def apply(held_out: Dynamic, samples: Dynamic, result: dict) -> tuple[float, float]:
        gains = adaptive_gains(held_out, samples, result["madds"])[:, 0]  # (K−1,)
        half = len(gains) // 2
        low, high = _mean(gains[:half]), _mean(gains[half:])
        return low, low - high

    claims = []
    for init in INITS:
        rdn, policy = evidence.together(f"rdn-{init}", f"policy-{init}")
        low, differ = dynamic_estimates(rdn, policy, apply)
        lost = near_chance("N_2", rdn, 2)
        claims += [
            Claim("", f"RDN, {init}: adapting beats the smaller sub-networks at their cost", "“clearly improves”", low, obstacles=lost),
            Claim("", f"RDN, {init}: it gains more at low cost than at high", "“particularly at lower MACs”", differ, obstacles=lost),
        ]  # fmt: skip
    return _of("Figure 8", claims)


def table2_claims(evidence: Evidence) -> list[Claim]:
    paper = printed(2).set_index(["integrated_nets", "base_model"])["top1"]
    claims = []
    for model, names in graph.table2(evidence.profile).items():
        row = TABLE2_NAMES[model]
        fewer, more = evidence.together(*names)
        lost = near_chance("the network with 7", fewer, LARGEST) + near_chance("the one with 14", more, LARGEST)
        lead = [paper["7 sub-networks", row] - paper["14 sub-networks", row]]
        statement = (
            f"{NETWORKS[model]}: 14 sub-networks instead of 7 cost the largest some accuracy (the paper's {row})"
        )
        claims.append(_claim(statement, lead, difference(fewer, more), obstacles=lost))
    return _of("Table 2", claims)


def table3_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(3)["top1"], list(graph.table3(evidence.profile).values())
    statements = (
        "a pre-trained super-net helps",
        "it still helps when training from scratch takes as long as both together",
    )
    claims = []
    for statement, name, other in zip(statements, names[1:], paper[1:], strict=True):
        trained, scratch = evidence.together(names[0], name)
        lost = near_chance("the pre-trained RDN", trained, LARGEST) + near_chance(
            "the one from scratch", scratch, LARGEST
        )
        if source := evidence.profile.model.weights:
            whose = SOURCES.get(source, source)
            lost.append(f"the super-net began with weights from {whose}, a training that no row from scratch has had")
        if evidence.profile.rdn.distill:
            lost.append("the super-net also taught the pre-trained RDN, and the one from scratch had no teacher")
        claims.append(_claim(statement, [paper[0] - other], difference(trained, scratch), obstacles=lost))
    return _of("Table 3", claims)


def table4_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(4), graph.table4(evidence.profile)
    greedy, chance = evidence.together(names["greedy"], names["random"])
    gains = {
        index: [paper[column][0] - paper[column][1]] for index, column in ((LIGHTEST, "top1_light"), (LARGEST, "top1"))
    }
    lost = {
        index: near_chance("greedy", greedy, index) + near_chance("random", chance, index)
        for index in (LIGHTEST, LARGEST)
    }
    claims = [
        _claim(f"greedy select is better than random for the {what} sub-network", gains[index], difference(greedy, chance, index),
               obstacles=lost[index])
        for index, what in ((LIGHTEST, "lightest"), (LARGEST, "largest"))
    ]  # fmt: skip
    more = [gains[LIGHTEST][0] - gains[LARGEST][0]]
    ours = contrast(greedy, chance, LIGHTEST, LARGEST)
    obstacles = list(dict.fromkeys(lost[LIGHTEST] + lost[LARGEST]))
    claims.append(_claim("it helps the lightest sub-network more than the largest", more, ours, obstacles=obstacles))
    return _of("Table 4", claims)


def table5_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(5)["top1"], list(graph.table5(evidence.profile).values())
    everything, without, alone = evidence.together(*names)
    lost = near_chance("the largest sub-network", everything, LARGEST)
    return _of("Table 5", [
        _claim("training all sub-networks makes the largest more accurate than training it alone", [paper[0] - paper[2]],
               difference(everything, alone), obstacles=lost + near_chance("the largest alone", alone, LARGEST)),
        _claim("training the lightest as well costs the largest little", [paper[0] - paper[1]],
               difference(everything, without), -COMPARABLE,
               obstacles=lost + near_chance("the largest without the lightest", without, LARGEST)),
    ])  # fmt: skip


CLAIMS = [table1_claims, figure8_claims, table2_claims, table3_claims, table4_claims, table5_claims]


def ledger(evidence: Evidence) -> pd.DataFrame:
    """`verdict_table` of every claim that the profile has experiments for."""
    testable = CLAIMS if evidence.profile.ablations else CLAIMS[:3]
    return verdict_table([claim for make in testable for claim in make(evidence)])


def _claim(statement: str, printed: Sequence[float], ours: Estimate, bound: float = 0.0, **more) -> Claim:
    """A claim "above the bound" with the paper's numbers, whose mean is its effect."""
    return Claim("", statement, _signed(printed, 2 if more.get("unit") is None else 0), ours, bound,
                 effect=abs(float(np.mean(printed)) - bound), **more)  # fmt: skip


def _of(where: str, claims: Iterable[Claim]) -> list[Claim]:
    return [replace(claim, where=where) for claim in claims]


def _mean(gains: np.ndarray) -> float:
    """Over the sub-networks whose cost can be met; NaN where there are none."""
    met = gains[~np.isnan(gains)]
    return float(met.mean()) if met.size else np.nan


def _signed(values: Iterable[float], digits: int = 2) -> str:
    return " / ".join(f"{value:+.{digits}f}" for value in values)
