"""Quality of estimated probabilities: failure prediction (do they tell right from wrong?) and calibration."""

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from rdnlib.errors import DataError

BINS = 15


def auroc(score, correct) -> float:
    """Probability that a right sample scores higher than a wrong one, ties count half; NaN without both kinds.

    score: (N,) numbers; correct: (N,) bool. It is the Mann–Whitney statistic, over the number of pairs.
    """
    score, correct = _checked(score, correct)
    pairs = int(correct.sum()) * int((~correct).sum())
    if not pairs:
        return float("nan")
    return float(mannwhitneyu(score[correct], score[~correct], method="asymptotic").statistic / pairs)


def risk_coverage(score, correct) -> pd.DataFrame:
    """Error among the most trusted samples, against how many are trusted: columns coverage (ascending, to 1) and risk.

    A tie is trusted as a whole, so there is one row per distinct score.
    """
    score, correct = _checked(score, correct)
    order = np.argsort(-score, kind="stable")
    trusted = np.flatnonzero(np.append(np.diff(score[order]) != 0, True)) + 1  # samples up to the end of each tie
    wrong = np.cumsum(~correct[order])[trusted - 1]
    return pd.DataFrame({"coverage": trusted / len(score), "risk": wrong / trusted})


def risk_coverage_area(score, correct) -> float:
    """Area under the risk–coverage curve: the mean risk when samples are trusted one by one; less is better.

    Within a tie the order is random, and this is the expectation over it.
    """
    frame, n = risk_coverage(score, correct), len(score)
    ends = np.rint(frame["coverage"] * n).to_numpy()
    wrong = frame["risk"].to_numpy() * ends
    samples = np.arange(1, n + 1)
    expected = np.interp(samples, np.append(0, ends), np.append(0.0, wrong))  # errors among the first n, on average
    return float((expected / samples).mean())


def reliability(p, correct, bins: int = BINS) -> pd.DataFrame:
    """Rows of equal size in order of p: count, predicted (mean probability) and observed (share that was right)."""
    p, correct = _checked(p, correct)
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    rows = [(len(part), p[part].mean(), correct[part].mean()) for part in parts]
    return pd.DataFrame(rows, columns=["count", "predicted", "observed"])


def ece(p, correct, bins: int = BINS) -> float:
    """Expected calibration error: the mean of |predicted − observed| over bins of equal size."""
    frame = reliability(p, correct, bins)
    return float(np.average((frame["predicted"] - frame["observed"]).abs(), weights=frame["count"]))


def quality(p, correct) -> pd.DataFrame:
    """One row per sub-network, p and correct (N, K): accuracy, mean of p as `predicted`, and the measures above."""
    p, correct = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=bool)
    if p.ndim != 2 or p.shape != correct.shape:
        raise DataError(f"p and correct must both be (samples, K), not {p.shape} and {correct.shape}")
    names = ["subnetwork", "accuracy", "predicted", "auroc", "risk_coverage_area", "ece", "brier"]
    rows = []
    for v, (p_v, right) in enumerate(zip(p.T, correct.T, strict=True), start=1):
        ranking = auroc(p_v, right), risk_coverage_area(p_v, right)
        rows.append((v, right.mean(), p_v.mean(), *ranking, ece(p_v, right), ((p_v - right) ** 2).mean()))
    return pd.DataFrame(rows, columns=names)


def _checked(score, correct) -> tuple[np.ndarray, np.ndarray]:
    score, correct = np.asarray(score, dtype=np.float64), np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise DataError(f"one score and one outcome per sample are needed, not {score.shape} and {correct.shape}")
    if np.isnan(score).any():
        raise DataError("the scores hold NaN")
    return score, correct
