"""Per-sample outcomes of finished experiments, and intervals over the samples. Nothing here runs a network.

A run is a finished experiment, or anything else with its `.result` (a dict) and `.samples()` (a DataFrame). Intervals
are 95 % over the images. The costs of the dynamic network (MAdds, parameters) always include its policy network; r_v =
1 − MAdds_v / MAdds_K does not, because the policy costs the same at every exit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from rdnlib.calibration.families import ByLambda, ByThreshold, Family, Mix, OneForAll
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.errors import DataError
from rdnlib.policy.sequential import earlier_answers
from rdnlib.reproduction.experiments.workspace import Run

Bases = dict[str, Run]  # base networks by name
_READ: WeakKeyDictionary = WeakKeyDictionary()  # run → split → its rows, as long as somebody has the run


class Interval(NamedTuple):
    low: float
    high: float


class Measured(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float

    def columns(self, name: str, scale: float = 100) -> dict[str, float]:
        """As columns of a table: name, name_low, name_high, in per cent unless another scale is given."""
        return {column: scale * x for column, x in zip((name, f"{name}_low", f"{name}_high"), self, strict=True)}


@dataclass(frozen=True)
class Dynamic(ByLambda):
    """f_λ on one split: the family of its policies, and more about its images and exits; costs include the policy."""

    ids: np.ndarray  # (N,)
    top5: np.ndarray  # (N, K) bool
    difficulty: np.ndarray  # (N,) NaN where unknown
    params: np.ndarray  # (K,) parameters touched
    per_sample = ("p", "correct", "ids", "top5", "difficulty")


@dataclass(frozen=True)
class Alone:
    """One sub-network of an RDN as a run like that of a base network: the only column of its results."""

    run: Run
    index: int

    @property
    def result(self) -> dict:
        costs = {name: [self.run.result[name][self.index - 1]] for name in ("madds", "params")}
        return {**self.run.result, **costs}

    def samples(self) -> pd.DataFrame:
        frame, end = self.run.samples(), f"_{self.index}"
        others = frame.filter(regex=r"^(top1|top5|confidence)_\d+$").columns
        own = [name for name in others if name.endswith(end)]
        alone = frame[own].rename(columns=lambda name: f"{name.removesuffix(end)}_1")
        return frame.drop(columns=others).join(alone)


def interval(correct: np.ndarray, confidence: float = 0.95) -> Interval:
    """Wilson interval of an accuracy from its per-sample outcomes (N,) bool; fractions in [0, 1]."""
    correct = np.asarray(correct, dtype=bool)
    return Interval(*map(float, wilson(correct.sum() / max(len(correct), 1), len(correct), confidence)))


def measured(correct: np.ndarray) -> Measured:
    """An accuracy from its per-sample outcomes (N,) bool, with its Wilson interval."""
    return Measured(float(correct.mean()), *interval(correct))


def wilson(accuracy, n: int, confidence: float = 0.95):
    """Low and high end of the Wilson score interval; works on arrays of accuracies."""
    if n < 1:
        raise DataError("an accuracy needs at least one sample")
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (accuracy + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (accuracy * (1 - accuracy) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def paired_difference(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Measured:
    """Mean of a minus mean of b on the same samples, (N,) outcomes or costs, with a bootstrap percentile interval.

    Resampling N samples is one multinomial draw over the distinct differences: exact, and fast for any N.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or not a.size:
        raise DataError(f"a paired difference needs the same samples on both sides, not {a.shape} and {b.shape}")
    values, counts = np.unique(a - b, return_counts=True)
    means = np.random.default_rng(0).multinomial(a.size, counts / a.size, size=10_000) @ values / a.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Measured(float((a - b).mean()), float(low), float(high))


def dynamic(rdn_run: Run, policy_run: Run, *, split: str, informed: bool = False) -> Dynamic:
    """Join an RDN's outcomes with its policy's probabilities on one split: "calibration", "validation" or "train".

    informed: take the policy that reads N_1's logits too. Raises DataError if an image is missing on either side, is
    there twice, or if the numbers of sub-networks differ.
    """
    policies, prefix = split_rows(policy_run, split), "q" if informed else "p"
    # the outcomes on the training images are in the policy's run only
    networks = policies if split == "train" else split_rows(rdn_run, split)
    count = len(rdn_run.result["madds"])
    estimated = sum(name.startswith(f"{prefix}_") for name in policies)
    if estimated != count:
        raise DataError(f"the policy estimates {estimated} sub-networks, the RDN has {count}: fit it again")
    if not np.array_equal(networks["id"], policies["id"]):
        lonely = len(set(networks["id"]) ^ set(policies["id"]))
        raise DataError(f"{lonely} images of the {split} split are not in both the RDN's and the policy's samples")
    madds, costs = np.asarray(rdn_run.result["madds"], dtype=np.float64), policy_run.result
    kind = "informed" if informed else "policy"
    return Dynamic(
        p=columns(policies, prefix, count).astype(np.float64), saved=saved_fraction(madds),
        correct=columns(networks, "top1", count).astype(bool), top5=columns(networks, "top5", count).astype(bool),
        ids=networks["id"].to_numpy(), difficulty=networks["difficulty"].to_numpy(),
        madds=madds + costs[f"{kind}_madds"], params=np.asarray(rdn_run.result["params"]) + costs[f"{kind}_params"],
    )  # fmt: skip


def families(rdn_run: Run, policy_run: Run, base_runs: Bases, *, split: str) -> dict[str, Family]:
    """Every policy of Figure 8 on one split, "calibration" or "validation", by its name.

    "dynamic" (the paper's), "dynamic, reads N_1's logits", "sequential", "confidence cascade" (N_1, N_2, … until one is
    sure), "one sub-network", "random mix of two" and, if there are any, "base networks".
    """
    paper, informed = (dynamic(rdn_run, policy_run, split=split, informed=flag) for flag in (False, True))
    costs, correct, count = policy_run.result, paper.correct, len(paper.saved)
    madds = np.asarray(rdn_run.result["madds"], dtype=np.float64)
    confidence = columns(split_rows(rdn_run, split), "confidence", count - 1)
    above = columns(split_rows(policy_run, split), "above", count - 1)
    answers = earlier_answers(costs["answer_madds"], count)  # a cascade needs the answer at every stop
    result = {
        "dynamic": paper,
        "dynamic, reads N_1’s logits": informed,
        "sequential": ByThreshold(above, correct, madds + costs["sequential_madds"], "lam"),
        "confidence cascade": ByThreshold(confidence, correct, madds + answers),
        "one sub-network": OneForAll(correct, madds),
        "random mix of two": Mix(correct, madds),
    }
    if base_runs:
        result["base networks"] = separately_trained(base_runs.values(), paper.ids, split=split)
    return result


def separately_trained(runs: Iterable[Run], ids: np.ndarray, *, split: str) -> OneForAll:
    """Base networks as a family, the cheapest first. Raises DataError unless their images are `ids`."""
    bases = sorted(runs, key=lambda run: run.result["madds"][0])
    rows = [split_rows(run, split) for run in bases]
    if any(not np.array_equal(frame["id"], ids) for frame in rows):
        raise DataError(f"the base networks were not run on the RDN's images of the {split} split")
    correct = np.column_stack([frame["top1_1"].to_numpy(bool) for frame in rows])
    return OneForAll(correct, np.array([run.result["madds"][0] for run in bases], dtype=np.float64))


def difficulty_correlation(samples: Dynamic, lam: float) -> float:
    """Whether hard images leave later: Spearman's ρ of difficulty and exit at λ; NaN if one is constant or unknown."""
    frame = pd.DataFrame({"exit": samples.exits(lam), "difficulty": samples.difficulty.astype(np.float64)}).dropna()
    constant = (frame.nunique() < 2).any()
    return np.nan if constant else float(frame["exit"].rank().corr(frame["difficulty"].rank()))  # Pearson of the ranks


def unfolded_madds(result: dict) -> np.ndarray:
    """(K,) MAdds of every sub-network with heads that are not folded, as the paper counts; a base network has nothing to fold."""
    return np.asarray(result.get("madds_unfolded", result["madds"]), dtype=np.float64)


def split_rows(run: Run, split: str) -> pd.DataFrame:
    """The rows of one split, in order of id. Read once for each run, and not to be changed."""
    known = _READ.setdefault(run, {})
    if split not in known:
        known[split] = _read_rows(run, split)
    return known[split]


def _read_rows(run: Run, split: str) -> pd.DataFrame:
    samples = run.samples()
    rows = samples[samples["split"] == split]
    label = run.result.get("name", "this run")
    if rows.empty:
        raise DataError(f"{label} has no samples of the {split} split")
    if rows["id"].duplicated().any():
        raise DataError(f"{label} has images of the {split} split more than once")
    return rows.sort_values("id", ignore_index=True)


def columns(frame: pd.DataFrame, prefix: str, count: int) -> np.ndarray:
    return frame[[f"{prefix}_{v}" for v in range(1, count + 1)]].to_numpy()  # (N, K)
