"""λ with a finite-sample guarantee: Learn then Test with fixed-sequence testing and exact binomial p-values.

Every λ of a fixed grid stands for a hypothesis "its accuracy on new samples misses the target". They are tested one after the
other, safest first, each at level δ, until one cannot be rejected; the last one before that is safe with probability 1 − δ.
That needs no correction for the number of tests, because the order does not depend on the data (Angelopoulos and others, 2021).
"""

import math
from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, gammaln, xlog1py, xlogy

from rdnlib.calibration.envelope import Walk
from rdnlib.errors import InfeasibleError

# λ values in the order of the tests. They may not depend on the data, or the guarantee is lost. 100 values a decade.
SAFE_TO_CHEAP = np.concatenate([[np.inf], np.geomspace(1e4, 1e-3, 701), [0.0]])
NUISANCE = 0.1  # share of δ spent on bounding how often a policy alone is right
SPREAD = 9  # standard deviations of a binomial beyond which its probabilities, below 1e-17, do not matter


def certified(walk: Walk, target: float, delta: float) -> float:
    """The smallest λ of the grid certified, at level δ, to have accuracy ≥ target; InfeasibleError if none is."""
    n, hits = walk.samples, walk.right(SAFE_TO_CHEAP)
    found = _last_rejected(bdtrc(hits - 1, n, target) <= delta)  # P(Binomial(n, target) ≥ hits)
    if found is None:
        best = hits[0] / n
        needed = _samples_needed(
            lambda n: bdtrc(math.floor(best * n + 1e-9) - 1, n, target) <= delta, possible=best > target
        )
        raise InfeasibleError(
            f"accuracy {target:.4f} cannot be guaranteed with probability {1 - delta:g}: the safest policy (λ = ∞) "
            f"reaches {best:.4f} on these {n} samples; at that accuracy {_remedy(needed)}",
            best=float(best),
        )
    return float(SAFE_TO_CHEAP[found])


def certified_gap(walk: Walk, alone: Walk, full: int, gap: float, delta: float) -> float:
    """The smallest λ of the grid certified, at level δ, to lose at most `gap` of N_K's accuracy.

    walk, alone: the same samples, once with their outcomes and once with "right where N_K is wrong" as outcome; full: samples
    that N_K has right.
    """
    n, helped = walk.samples, alone.right(SAFE_TO_CHEAP)
    harmed = full - walk.right(SAFE_TO_CHEAP) + helped
    found, known = None, {}
    for row, pair in enumerate(zip(harmed.tolist(), helped.tolist(), strict=True)):
        if pair not in known:
            known[pair] = gap_p_value(*pair, n, gap, NUISANCE * delta) <= delta
        if not known[pair]:
            break
        found = row
    if found is None:
        lost, won = harmed[0] / n, helped[0] / n

        needed = _samples_needed(
            lambda n: gap_p_value(round(lost * n), round(won * n), n, gap, NUISANCE * delta) <= delta,
            possible=lost - won < gap,
        )
        raise InfeasibleError(
            f"a loss of at most {gap:.4f} against N_K cannot be guaranteed with probability {1 - delta:g}: on these {n} samples "
            f"the safest policy (λ = ∞) loses {lost - won:.4f}; at its rates {_remedy(needed)}",
            best=float((full - harmed[0] + helped[0]) / n),
        )
    return float(SAFE_TO_CHEAP[found])


def gap_p_value(harmed: int, helped: int, n: int, gap: float, beta: float) -> float:
    """p-value of "N_K's accuracy minus the policy's is at least `gap`", for the same n samples.

    harmed: only N_K is right; helped: only the policy is. If the policy alone is right with probability h, and N_K alone with
    probability h + gap at least, the number of samples on which they differ is m ~ Binomial(n, 2h + gap), and of these
    Binomial(m, (h + gap) / (2h + gap)) are harmed: the tail is a sum over m. h is unknown, so the largest tail is taken over
    all h up to an exact upper confidence bound, which fails with probability `beta`; that is added (Berger and Boos, 1994).
    """
    upper = 1.0 if helped == n else float(betaincinv(helped + 1, n - helped, 1 - beta))  # Clopper and Pearson
    upper = min(upper, (1 - gap) / 2)
    tails = [_tail(harmed - helped, n, h, gap) for h in np.linspace(0, upper, 5)]
    return min(1.0, max(tails) + beta)


def _tail(difference: int, n: int, h: float, gap: float) -> float:
    """P(harmed − helped ≤ difference) over n samples, at probabilities h + gap and h."""
    differ = 2 * h + gap
    if differ == 0:
        return float(difference >= 0)
    reach = SPREAD * math.sqrt(n * differ) + 40  # the 40 is for a small mean, where the tail is that of a Poisson
    m = np.arange(max(0, math.floor(n * differ - reach)), min(n, math.ceil(n * differ + reach)) + 1)
    most = np.minimum(np.floor((difference + m) / 2), m)  # harmed − (m − harmed) ≤ difference
    below = np.where(most < 0, 0.0, bdtr(np.maximum(most, 0), m, (h + gap) / differ))
    log_weight = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1) + xlogy(m, differ) + xlog1py(n - m, -differ)
    return float(np.exp(log_weight) @ below)  # Binomial(n, differ) at m


def _last_rejected(rejected: np.ndarray) -> int | None:
    """How far the fixed sequence gets: the index before the first that is not rejected."""
    first = len(rejected) if rejected.all() else int((~rejected).argmax())
    return first - 1 if first else None


def _samples_needed(enough: Callable[[int], bool], possible: bool) -> int | None:
    """About the smallest n (within 1 %) that is `enough`; None if it is not possible, or 10⁹ samples are too few."""
    n = np.unique(np.ceil(np.geomspace(1, 1e9, 2001)).astype(np.int64))
    first = bisect_left(
        n, True, key=lambda count: bool(enough(int(count)))
    )  # more samples are never worse, but for rounding
    return int(n[first]) if possible and first < len(n) else None


def _remedy(needed: int | None) -> str:
    return f"about {needed} samples would be needed" if needed else "no number of samples would do; use a larger ε"
