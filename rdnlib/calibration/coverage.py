"""How often λ, calibrated on some samples, reaches its target accuracy on others, and by how much it misses; from arrays alone."""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from rdnlib.calibration.families import Family, calibrate_or_best, calibrate_to
from rdnlib.calibration.multiplier import calibrate, choose
from rdnlib.errors import ConfigError, InfeasibleError


def coverage(
    p, correct, saved, epsilon: float, delta: float, *, samples: int, repeats: int = 200, seed: int = 0, paired=False
) -> pd.DataFrame:
    """Calibrate λ on `samples` random images, with and without the guarantee, and test it on the others.

    Arguments as in `calibrate`. Returns, for each of `repeats` random splits and each rule ("measured", "guaranteed"):
    repeat, rule, lam, test (accuracy on the other images; with `paired` minus N_K's there), overall (the same on all
    images), saved (on the other images), target (1 − ε, or −ε); NaN where no λ reaches it. Raises ConfigError unless
    both parts get an image.

    The guarantee is about the accuracy on the distribution of the images. `test` estimates that with an error that is
    against us: of a finite collection, when one part is lucky the other is not. `overall` takes the collection as the
    distribution; then calibration images are drawn without replacement, a little kinder than in theory.
    """
    p, correct, saved = np.asarray(p), np.asarray(correct, dtype=bool), np.asarray(saved, dtype=np.float64)
    if not 0 < samples < len(p):
        raise ConfigError(f"of {len(p)} images, between 1 and {len(p) - 1} can be calibrated on, not {samples}")
    rng, rows = np.random.default_rng(seed), []
    for repeat in range(repeats):
        chosen, others = np.split(rng.permutation(len(p)), [samples])
        for rule, level in (("measured", None), ("guaranteed", delta)):
            row = {"repeat": repeat, "rule": rule} | dict.fromkeys(("lam", "test", "overall", "saved"), np.nan)
            rows.append(row)
            try:
                row["lam"] = calibrate(p[chosen], correct[chosen], saved, epsilon, level, paired=paired).lam
            except InfeasibleError:
                continue
            exits = choose(p, saved, row["lam"])
            gain = correct[np.arange(len(p)), exits] - (correct[:, -1] * 1.0 if paired else 0.0)
            row |= {"test": gain[others].mean(), "overall": gain.mean(), "saved": saved[exits[others]].mean()}
    return pd.DataFrame(rows).assign(target=-epsilon if paired else 1 - epsilon)


def shortfall(
    families: Mapping[str, Family], reference, gap: float, *, samples: int, repeats: int = 20, seed: int = 0
) -> pd.DataFrame:
    """By how much calibrated policies miss their target on new images, with the margin of `families.margin` and without.

    families: name → policies for the same N images; reference: (N,) whether N_K is right; the target is its accuracy minus `gap`. Each of
    `repeats` random splits calibrates on `samples` images and tests on the others. Returns policy, rule ("without margin", "with
    margin"), miss (mean of accuracy − target on the test images, negative: too little), spread (its standard deviation over the
    splits), madds (mean). Raises ConfigError unless both parts get an image.
    """
    reference = np.asarray(reference, dtype=np.float64)
    if not 0 < samples < len(reference):
        raise ConfigError(
            f"of {len(reference)} images, between 1 and {len(reference) - 1} can be calibrated on, not {samples}"
        )
    rng, rows = np.random.default_rng(seed), []
    rules = {
        "without margin": lambda family, full: calibrate_or_best(family, full.mean() - gap),
        "with margin": lambda family, full: calibrate_to(family, full, gap),
    }
    for _ in range(repeats):
        chosen, others = np.split(rng.permutation(len(reference)), [samples])
        for (policy, family), (rule, choose_on) in itertools.product(families.items(), rules.items()):
            parameter, _ = choose_on(family.rows(chosen), reference[chosen])
            correct, madds = family.rows(others).take(parameter)
            rows.append((policy, rule, correct.mean() - reference[others].mean() + gap, madds.mean()))
    table = pd.DataFrame(rows, columns=["policy", "rule", "miss", "madds"])
    groups = table.groupby(["policy", "rule"], sort=False)
    return groups.agg(miss=("miss", "mean"), spread=("miss", "std"), madds=("madds", "mean")).reset_index()


def violations(frame: pd.DataFrame) -> pd.DataFrame:
    """Per rule of `coverage`, shares of the splits: violations (on the other images), violations_overall, possible
    (some λ reaches the target); and saved, the mean. Nothing is violated where no λ is possible."""
    target = frame["target"] - 1e-12
    shares = {"violations": frame["test"] < target, "violations_overall": frame["overall"] < target}
    shares["possible"] = frame["lam"].notna()
    return frame.assign(**shares).groupby("rule", sort=False)[[*shares, "saved"]].mean().reset_index()
