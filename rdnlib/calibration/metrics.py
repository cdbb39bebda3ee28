"""How good a policy network is: can it tell right from wrong (failure prediction), and are its probabilities honest?"""

import numpy as np
import pandas as pd

from rdnlib.errors import DataError

BINS = 15


def auroc(score, correct) -> float:
    """Probability that a right sample scores higher than a wrong one, ties counting half; NaN if all are right or wrong.

    score: (N,) numbers; correct: (N,) bool. From the ranks: the Mann–Whitney statistic.
    """
    score, correct = _checked(score, correct)
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return float("nan")
    ranks = pd.Series(score).rank().to_numpy()  # ties share their mean rank
    return float((ranks[correct].sum() - right * (right + 1) / 2) / (right * wrong))


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
    score, correct = _checked(score, correct)
    frame = risk_coverage(score, correct)
    ends = np.rint(frame["coverage"] * len(score)).astype(np.int64).to_numpy()
    wrong = frame["risk"].to_numpy() * ends
    samples = np.arange(1, len(score) + 1)
    expected = np.interp(samples, np.append(0, ends), np.append(0.0, wrong))  # errors among the first n, on average
    return float((expected / samples).mean())


def reliability(p, correct, bins: int = BINS) -> pd.DataFrame:
    """Rows of equal size in order of p: count, said (mean probability) and right (share that was right)."""
    p, correct = _checked(p, correct)
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    rows = [(len(part), p[part].mean(), correct[part].mean()) for part in parts]
    return pd.DataFrame(rows, columns=["count", "said", "right"])


def ece(p, correct, bins: int = BINS) -> float:
    """Expected calibration error: the mean of |said − right| over bins of equal size."""
    frame = reliability(p, correct, bins)
    return float(np.average((frame["said"] - frame["right"]).abs(), weights=frame["count"]))


def quality(p, correct) -> pd.DataFrame:
    """One row per sub-network, p and correct (N, K): subnetwork, accuracy, said, auroc, risk_coverage_area, ece, brier."""
    p, correct = np.asarray(p, dtype=np.float64), np.asarray(correct, dtype=bool)
    if p.ndim != 2 or p.shape != correct.shape:
        raise DataError(f"p and correct must both be (samples, K), not {p.shape} and {correct.shape}")
    rows = [
        {
            "subnetwork": v + 1,
            "accuracy": right.mean(),
            "said": said.mean(),
            "auroc": auroc(said, right),
            "risk_coverage_area": risk_coverage_area(said, right),
            "ece": ece(said, right),
            "brier": ((said - right) ** 2).mean(),
        }
        for v, (said, right) in enumerate(zip(p.T, correct.T, strict=True))
    ]
    return pd.DataFrame(rows)


def _checked(score, correct) -> tuple[np.ndarray, np.ndarray]:
    score, correct = np.asarray(score, dtype=np.float64), np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise DataError(f"one score and one outcome per sample are needed, not {score.shape} and {correct.shape}")
    if np.isnan(score).any():
        raise DataError("the scores hold NaN")
    return score, correct
