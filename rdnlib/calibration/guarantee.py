"""λ with a finite-sample guarantee: Learn then Test with fixed-sequence testing and exact binomial p-values.

Every λ of a fixed grid stands for a hypothesis "its accuracy on new samples misses the target". They are tested one
after the other, safest first, each at level δ, until one cannot be rejected; the last one before that is safe with
probability 1 − δ. The order is fixed in advance, so the number of tests needs no correction (Angelopoulos et al., 2021).
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cache
from itertools import takewhile

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, gammaln, xlog1py, xlogy

from rdnlib.calibration.envelope import ExactCurve
from rdnlib.errors import InfeasibleError

# λ values in the order of the tests. They may not depend on the data, or the guarantee is lost. 100 values a decade.
SAFE_TO_CHEAP = np.concatenate([[np.inf], np.geomspace(1e4, 1e-3, 701), [0.0]])
NUISANCE = 0.1  # share of δ spent on bounding how often a policy alone is right
SPREAD = 9  # standard deviations of a binomial beyond which its probabilities, below 1e-17, do not matter


def certified(curve: ExactCurve, target: float, delta: float) -> float:
    """The smallest λ of the grid certified, at level δ, to have accuracy ≥ target; InfeasibleError if none is."""
    n, hits = curve.samples, curve.correct(SAFE_TO_CHEAP)
    last = _last_rejected(bdtrc(hits - 1, n, target) <= delta)  # P(Binomial(n, target) ≥ hits)
    if last is None:
        best = hits[0] / n
        remedy = _remedy(lambda m: bdtrc(math.floor(best * m + 1e-9) - 1, m, target) <= delta, best > target)
        raise InfeasibleError(
            f"accuracy {target:.4f} cannot be guaranteed with probability {1 - delta:g}: the safest policy (λ = ∞) "
            f"reaches {best:.4f} on these {n} samples; at that accuracy {remedy}",
            best=float(best),
        )
    return float(SAFE_TO_CHEAP[last])


def certified_gap(curve: ExactCurve, alone: ExactCurve, full: int, gap: float, delta: float) -> float:
    """The smallest λ of the grid certified, at level δ, to lose at most `gap` of N_K's accuracy.

    curve, alone: of the same samples, the latter with "right where N_K is wrong" as outcome; full: N_K's correct ones.
    """
    n, helped = curve.samples, alone.correct(SAFE_TO_CHEAP)
    harmed = full - curve.correct(SAFE_TO_CHEAP) + helped
    rejects = cache(lambda harmed, helped, n: gap_p_value(harmed, helped, n, gap, NUISANCE * delta) <= delta)
    last = _last_rejected(rejects(*pair, n) for pair in zip(harmed.tolist(), helped.tolist(), strict=True))
    if last is None:
        lost, won = harmed[0] / n, helped[0] / n
        remedy = _remedy(lambda m: rejects(round(lost * m), round(won * m), m), lost - won < gap)
        raise InfeasibleError(
            f"a loss of at most {gap:.4f} against N_K cannot be guaranteed with probability {1 - delta:g}: on these {n} "
            f"samples the safest policy (λ = ∞) loses {lost - won:.4f}; at its rates {remedy}",
            best=float((full - harmed[0] + helped[0]) / n),
        )
    return float(SAFE_TO_CHEAP[last])


def gap_p_value(harmed: int, helped: int, n: int, gap: float, beta: float) -> float:
    """p-value of "N_K's accuracy minus the policy's is at least `gap`", for the same n samples.

    harmed: only N_K is right; helped: only the policy is. If the policy alone is right with probability h, and N_K
    alone with probability h + gap at least, the number of samples on which they differ is m ~ Binomial(n, 2h + gap),
    and of these Binomial(m, (h + gap) / (2h + gap)) are harmed: the tail is a sum over m. h is unknown, so the largest
    tail is taken over all h up to an exact upper confidence bound; its level `beta` is added (Berger and Boos, 1994).
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


def _last_rejected(rejected: Iterable[bool]) -> int | None:
    """How far the fixed sequence gets: the index before the first that is not rejected, None for the very first."""
    count = sum(1 for _ in takewhile(bool, rejected))
    return count - 1 if count else None


def _remedy(enough: Callable[[int], bool], possible: bool) -> str:
    """What would help, as text: the least number of samples (within 1 %, up to 10⁹) that is `enough`, or larger ε."""
    n = np.unique(np.ceil(np.geomspace(1, 1e9, 2001)).astype(np.int64)).tolist()
    first = bisect_left(n, True, key=lambda count: bool(enough(count)))  # monotone, but for rounding
    if possible and first < len(n):
        return f"about {n[first]} samples would be needed"
    return "no number of samples would do; use a larger ε"
