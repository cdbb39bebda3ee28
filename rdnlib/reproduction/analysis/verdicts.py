"""How a claim is judged: from an estimate over images and seeds to a verdict, and the reasons why there is none.

A claim says that a quantity is above a bound, mostly that a difference of accuracies is above zero. It is *reproduced* if our whole
interval, over the images and over the seeds, is above the bound, and *not reproduced* if all of it is below. What depends on training
needs at least ENOUGH_SEEDS; with fewer it illustrates. It is *not testable here* where a network that it is about says nothing
(`near_chance`, `far_from_plateau`), or where the interval is wider than the claim; else *inconclusive*.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from rdnlib.reproduction.analysis.outcomes import split_rows
from rdnlib.reproduction.analysis.statistics import Estimate, accuracy, difference
from rdnlib.reproduction.experiments.workspace import Run

ENOUGH_SEEDS = 3
CHANCE = 3.0  # standard errors above chance below which a network has learnt nothing worth comparing
PLATEAU = 3.0  # points that a base gains from more epochs, above which it is not trained to its plateau
LEVEL = 0.05
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTABLE = (
    "reproduced",
    "not reproduced",
    "inconclusive",
    "not testable here",
)
SEEDS = {1: "one seed: illustrates", 2: "two seeds: illustrates"}


@dataclass(frozen=True)
class Claim:
    """It holds if `ours` is on that `side` of `bound`, all in `unit`.

    effect: how far from the bound the paper's own number is; NaN where it prints none. exact: a count, which no seed and no image
    changes. obstacles: reasons why a verdict would mean nothing. control: a comparison that the paper does not make.
    """

    where: str
    statement: str
    paper: str
    ours: Estimate
    bound: float = 0.0
    side: str = ">"
    unit: str = "points"
    effect: float = np.nan
    exact: bool = False
    obstacles: Sequence[str] = ()
    control: bool = False

    @property
    def judgement(self) -> tuple[str, str]:
        """The verdict and its reason, which is empty for a plain one."""
        if np.isnan(self.ours.value):
            return NOT_TESTABLE, "there is nothing to compare"
        if self.obstacles:
            return NOT_TESTABLE, "; ".join(self.obstacles)
        direction = "points" if self._holds(self.ours.value) else "does not point"
        if not self.exact and self.ours.seeds < ENOUGH_SEEDS:
            return SEEDS[self.ours.seeds], f"{direction} the paper’s way"
        low, high = self.ours.hull
        if low > self.bound or high < self.bound:
            return (REPRODUCED if self._holds(self.ours.value) else NOT_REPRODUCED), ""
        half = (high - low) / 2
        if half > self.effect:
            return NOT_TESTABLE, f"the interval, ±{half:.1f}, is wider than the paper’s effect, {self.effect:.2f}"
        return INCONCLUSIVE, ""

    @property
    def verdict(self) -> str:
        return self.judgement[0]

    @property
    def p_value(self) -> float:
        """Two-sided, that the quantity is the bound: the larger of that over the images and that over the seeds.

        NaN where nothing was tested. A claim whose interval came out too wide was tested.
        """
        if self.exact or self.obstacles or np.isnan(self.ours.value) or self.ours.seeds < ENOUGH_SEEDS:
            return np.nan
        distance, n = abs(self.ours.value - self.bound), self.ours.seeds
        images = (self.ours.high - self.ours.low) / (2 * norm.ppf(0.975))
        seeds = (self.ours.seeds_high - self.ours.seeds_low) / (2 * student.ppf(0.975, n - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            tails = norm.sf(distance / images), student.sf(distance / seeds, n - 1)
        return float(2 * np.nan_to_num(tails, nan=0.5).max())

    def sentence(self) -> str:
        """Statement, the paper's numbers, ours and the verdict, in Markdown."""
        verdict, reason = self.judgement
        numbers = f"paper {self.paper}, ours {self.ours.text('+')} {self.unit}"
        return f"{self.statement}: {numbers}. **{verdict[0].upper()}{verdict[1:]}**{f' ({reason})' if reason else ''}."

    def _holds(self, value: float) -> bool:
        return (value > self.bound) == (self.side == ">")


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm's adjustment for a family of claims: p-values above LEVEL no longer count; NaN stays and is not in the family."""
    p = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    adjusted = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(p[order] * factors).clip(max=1)
    return adjusted


def verdict_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row for each claim: where, statement, paper, ours (with its intervals), holds_if, unit, verdict, reason, control, corrected.

    corrected: the verdict that remains when all claims of the same table or figure are judged together (Holm); controls are not among them.
    """
    rows = []
    for claim in claims:
        verdict, reason = claim.judgement
        about = {"where": claim.where, "statement": claim.statement, "paper": claim.paper}
        rows.append(
            about | claim.ours.columns("ours") | {"seeds": claim.ours.seeds, "holds_if": f"{claim.side} {claim.bound:g}"}
            | {"unit": claim.unit, "verdict": verdict, "reason": reason, "control": claim.control, "corrected": verdict, "p": claim.p_value}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    for _, family in table[~table["control"]].groupby("where"):
        lost = family.index[(holm(family["p"]) > LEVEL) & family["verdict"].isin([REPRODUCED, NOT_REPRODUCED])]
        table.loc[lost, "corrected"] = INCONCLUSIVE
    return table.drop(columns="p")


def near_chance(name: str, runs: Sequence[Run], subnetwork: int) -> list[str]:
    """Why a network cannot be compared: its accuracy is within CHANCE standard errors of guessing at some seed; else empty."""
    for run in runs:
        rows, classes = split_rows(run, "validation"), len(run.result.get("data", {}).get("classes", ()))
        if not classes:
            continue
        chance = 1 / classes
        found = accuracy([run], subnetwork).value / 100
        if found <= chance + CHANCE * np.sqrt(chance * (1 - chance) / len(rows)):
            return [f"{name} is at chance ({100 * found:.1f} %; guessing gives {100 * chance:.3g} %)"]
    return []


def far_from_plateau(base: Sequence[Run], longer: Sequence[Run]) -> list[str]:
    """Why claims about a trained super-net cannot be judged: its base still learns; else empty."""
    gain = difference(longer, base).value
    return [f"the base is not trained to its plateau: more epochs bring {gain:+.1f} points"] if gain > PLATEAU else []
