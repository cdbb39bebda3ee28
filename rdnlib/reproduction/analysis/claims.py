"""The ledger: every claim of the paper's tables and Figure 8 as a statement, the paper's numbers, ours, a verdict.

A claim says that a quantity is above a bound, mostly that a difference of accuracies is above zero. It is *reproduced*
if our whole interval, over the images and over the seeds, is above the bound, *not reproduced* if all of it is below,
and else *inconclusive*. The bounds were fixed before the networks were trained. `CLAIMS` lists what makes them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from rdnlib.calibration.families import calibrate_and_apply
from rdnlib.reproduction.analysis.outcomes import dynamic, split_rows
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence, difference, estimate, same_images
from rdnlib.reproduction.analysis.tradeoff import adaptive_gains
from rdnlib.reproduction.experiments import Run, graph
from rdnlib.surgery.nest import INITS
from rdnlib.utils.resources import resource

COMPARABLE = 1.0  # points: the paper calls losses of up to 0.2 comparable; our validation sets cannot resolve that
LARGEST, LIGHTEST = -1, 1
TABLE2_NAMES = {"mobilenext": "MnXt1.5", "mobilenet_v2": "MBv21.4"}


class Claim(NamedTuple):
    """It holds if `ours` is on that `side` of `bound`, all in `unit`; an exact quantity's interval has no width."""

    where: str
    statement: str
    paper: str
    ours: Estimate
    bound: float = 0.0
    side: str = ">"
    unit: str = "points"

    @property
    def verdict(self) -> str:
        low, high = self.ours.hull
        if low > self.bound or high < self.bound:
            return "reproduced" if (low > self.bound) == (self.side == ">") else "not reproduced"
        return "inconclusive"

    def sentence(self) -> str:
        """Statement, the paper's numbers, ours and the verdict, in Markdown."""
        numbers = f"paper {self.paper}, ours {self.ours.text('+')} {self.unit}"
        return f"{self.statement}: {numbers}. **{self.verdict.capitalize()}**."


def printed(table: int) -> pd.DataFrame:
    """A table of the paper, the numbers as printed."""
    return pd.read_csv(resource(f"data/paper/table{table}.csv"))


def table1_claims(evidence: Evidence) -> list[Claim]:
    top1, madds = (printed(1).set_index("model")[column] for column in ("top1", "madds_m"))
    bases = [name for name in top1.index if not name.startswith("RDN")]
    nested = _signed(top1[f"RDN-{base}"] - top1[base] for base in bases)
    adapted = _signed(top1[f"RDN-{base}†"] - top1[f"RDN-{base}"] for base in bases)
    cost = [100 * (madds[f"RDN-{base}"] / madds[base] - 1) for base in bases]
    saved = [100 * (1 - madds[f"RDN-{base}†"] / madds[base]) for base in bases]
    claims, share = [], "% of the base's"
    for init in INITS:
        rdn, policy, base = (evidence.runs(name) for name in (f"rdn-{init}", f"policy-{init}", "base"))
        shared = same_images([split_rows(run, "validation") for run in rdn])
        adaptive = [_adaptive(*pair) for pair in zip(rdn, policy, strict=True)]
        whole = base[0].result["madds"][0]
        more = 100 * (rdn[0].result["madds"][-1] / whole - 1)
        gain = estimate([gain for gain, _ in adaptive], same_images=shared)
        spared = estimate([1 - madds / whole for _, madds in adaptive], same_images=shared)
        claims += [
            (f"RDN, {init}: N_K is about as accurate as its base", nested, difference(rdn, base), -COMPARABLE),
            (f"RDN, {init}: N_K needs at most {max(cost):.0f} % more MAdds than its base, as the paper's",
             _signed(cost, 0), Estimate(more, more, more), max(cost), "<", share),
            (f"RDN, {init}: † is about as accurate as N_K", adapted, gain, -COMPARABLE),
            (f"RDN, {init}: † saves MAdds against its base", _signed(saved, 0), spared, 0.0, ">", share),
        ]  # fmt: skip
    return [Claim("Table 1", *claim) for claim in claims]


def figure8_claims(evidence: Evidence) -> list[Claim]:
    claims = []
    for init in INITS:
        rdn, policy = evidence.runs(f"rdn-{init}"), evidence.runs(f"policy-{init}")
        gains = [adaptive_gains(*pair) for pair in zip(rdn, policy, strict=True)]  # each (N, K−1)
        half = gains[0].shape[1] // 2
        low, high = [_mean(each[:, :half]) for each in gains], [_mean(each[:, half:]) for each in gains]
        shared = same_images([split_rows(run, "validation") for run in rdn])
        contrast = estimate([a - b for a, b in zip(low, high, strict=True)], same_images=shared)
        claims += [
            (f"RDN, {init}: adapting beats the smaller sub-networks at their cost",
             "“clearly improves”", estimate(low, same_images=shared)),
            (f"RDN, {init}: it gains more at low cost than at high", "“particularly at lower MACs”", contrast),
        ]  # fmt: skip
    return [Claim("Figure 8", *claim) for claim in claims]


def table2_claims(evidence: Evidence) -> list[Claim]:
    paper = printed(2).set_index(["integrated_nets", "base_model"])["top1"]
    claims = []
    for model, (seven, fourteen) in graph.table2(evidence.profile).items():
        name = TABLE2_NAMES[model]
        statement = f"{name}: 14 sub-networks instead of 7 cost the largest some accuracy"
        number = _signed([paper["7 sub-networks", name] - paper["14 sub-networks", name]])
        ours = difference(evidence.runs(seven, 1), evidence.runs(fourteen, 1))  # other seeds repeat none of these pairs
        claims.append(Claim("Table 2", statement, number, ours))
    return claims


def table3_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(3)["top1"], list(graph.table3(evidence.profile).values())
    statements = "a pre-trained super-net helps", "it still helps when training from scratch takes twice as long"
    return [
        Claim("Table 3", statement, _signed([paper[0] - other]), evidence.gain(names[0], name))
        for statement, name, other in zip(statements, names[1:], paper[1:], strict=True)
    ]


def table4_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(4), graph.table4(evidence.profile)
    claims = []
    for subnetwork, what, column in ((LIGHTEST, "lightest", "top1_light"), (LARGEST, "largest", "top1")):
        statement = f"greedy select is better than random for the {what} sub-network"
        number = _signed([paper[column][0] - paper[column][1]])
        claims.append(Claim("Table 4", statement, number, evidence.gain(names["greedy"], names["random"], subnetwork)))
    return claims


def table5_claims(evidence: Evidence) -> list[Claim]:
    paper, names = printed(5)["top1"], list(graph.table5(evidence.profile).values())
    return [
        Claim("Table 5", "training all sub-networks makes the largest more accurate than training it alone",
              _signed([paper[0] - paper[2]]), evidence.gain(names[0], names[2])),
        Claim("Table 5", "training the lightest as well costs the largest little",
              _signed([paper[0] - paper[1]]), evidence.gain(names[0], names[1]), -COMPARABLE),
    ]  # fmt: skip


CLAIMS = [table1_claims, figure8_claims, table2_claims, table3_claims, table4_claims, table5_claims]


def ledger(evidence: Evidence) -> pd.DataFrame:
    """One row for each claim that the profile has experiments for: where, statement, paper, ours (with its intervals), holds_if, unit, verdict."""
    testable = CLAIMS if evidence.profile.ablations else CLAIMS[:3]
    claims = [claim for make in testable for claim in make(evidence)]
    rows = []
    for claim in claims:
        ours, holds_if = claim.ours.columns("ours"), f"{claim.side} {claim.bound:g}"
        rows.append((*claim[:3], *ours.values(), holds_if, claim.unit, claim.verdict))
    return pd.DataFrame(rows, columns=["where", "statement", "paper", *ours, "holds_if", "unit", "verdict"])


def _adaptive(rdn: Run, policy: Run) -> tuple[np.ndarray, np.ndarray]:
    """Of each validation image: what † gains over N_K (−1, 0 or 1), and its MAdds; λ* is set on held-out images."""
    held_out, samples = (dynamic(rdn, policy, split=split) for split in ("calibration", "validation"))
    outcome = calibrate_and_apply(held_out, samples, held_out.correct[:, -1])
    return outcome.correct.astype(np.float64) - samples.correct[:, -1], outcome.madds


def _mean(gains: np.ndarray) -> np.ndarray:
    """(N,) mean over the sub-networks whose cost can be met; NaN where there are none."""
    met = gains[:, ~np.isnan(gains).any(axis=0)]
    return met.mean(axis=1) if met.size else np.full(len(gains), np.nan)


def _signed(values: Iterable[float], digits: int = 2) -> str:
    return " / ".join(f"{value:+.{digits}f}" for value in values)
