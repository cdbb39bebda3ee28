"""Does a calibrated λ keep its promise on images that it was not chosen on? Two experiments, on per-sample outputs alone."""

import numpy as np
import pandas as pd
import torch

from rdnlib.calibration.multiplier import calibrate, choose, epsilon_for
from rdnlib.errors import ConfigError, InfeasibleError
from rdnlib.policy.network import PolicyNetwork, fit_policy
from rdnlib.training.evaluate import Outputs

CHOICES = ("train / train", "train / held-out", "held-out / held-out")  # policy fitted on / λ calibrated on


def coverage(
    p, correct, saved, epsilon: float, delta: float, *, samples: int, repeats: int = 200, seed: int = 0, paired=False
) -> pd.DataFrame:
    """Choose λ on `samples` random images, with and without the guarantee, and see what it gives on the others.

    Arguments as in `calibrate`. Returns, for each of `repeats` random splits and each rule ("measured", "guaranteed"): repeat,
    rule, lam, kept (accuracy on the other images; with `paired` minus N_K's there), overall (the same on all images), promised
    (1 − ε, or −ε), saved (on the other images); NaN where no λ could be promised. Raises ConfigError unless both parts get an
    image.

    The guarantee is about the accuracy on the images' distribution. `kept` measures that with an error of its own, and one that
    is against us: of a finite collection, when one part is lucky the other is not. `overall` takes the collection as the
    distribution; then calibration images are drawn without replacement, which is a little kinder than the theory asks for.
    """
    p, correct, saved = np.asarray(p), np.asarray(correct, dtype=bool), np.asarray(saved, dtype=np.float64)
    if not 0 < samples < len(p):
        raise ConfigError(f"of {len(p)} images, between 1 and {len(p) - 1} can be calibrated on, not {samples}")
    rng, rows = np.random.default_rng(seed), []
    for repeat in range(repeats):
        chosen, others = np.split(rng.permutation(len(p)), [samples])
        for rule, level in (("measured", None), ("guaranteed", delta)):
            row = {"repeat": repeat, "rule": rule} | dict.fromkeys(("lam", "kept", "overall", "saved"), np.nan)
            try:
                row["lam"] = calibrate(p[chosen], correct[chosen], saved, epsilon, level, paired=paired).lam
            except InfeasibleError:
                rows.append(row)
                continue
            exits = choose(p, saved, row["lam"])
            gain = correct[np.arange(len(p)), exits] - (correct[:, -1] * 1.0 if paired else 0.0)
            row |= {"kept": gain[others].mean(), "overall": gain.mean(), "saved": saved[exits[others]].mean()}
            rows.append(row)
    return pd.DataFrame(rows).assign(promised=-epsilon if paired else 1 - epsilon)


def violations(frame: pd.DataFrame) -> pd.DataFrame:
    """Per rule of `coverage`, shares of the splits: violations (on the other images), violations_overall, possible (a λ could be
    promised); and saved, the mean. Nothing is violated where nothing was promised."""
    promised = frame["promised"] - 1e-12
    shares = {
        "violations": frame["kept"] < promised,
        "violations_overall": frame["overall"] < promised,
        "possible": frame["lam"].notna(),
    }
    return frame.assign(**shares).groupby("rule", sort=False)[[*shares, "saved"]].mean().reset_index()


def compare_splits(
    policy: PolicyNetwork,
    train: Outputs,
    held_out: Outputs,
    saved,
    gap: float,
    *,
    repeats: int = 20,
    seed: int = 0,
    **fit,
) -> pd.DataFrame:
    """The three ways to use the splits, judged on held-out images that none of them has seen.

    policy: fitted on `train`, with the settings `fit` of `fit_policy`. Each repeat halves the held-out images at random: one
    half is for fitting and calibrating (where both happen, each gets half of it), the other judges. Returns columns choice (one of
    CHOICES), repeat, promised (the accuracy that λ reaches on its calibration images: N_K's minus `gap`, or the best possible),
    kept (on the judging half), full (N_K's accuracy there), saved (there).
    """
    rng, rows = np.random.default_rng(seed), []
    p_train, p_held = _predict(policy, train.features), _predict(policy, held_out.features)
    lam_train, promised_train = _promise(p_train, train.top1, saved, gap)
    for repeat in range(repeats):
        mine, judges = np.array_split(rng.permutation(len(p_held)), 2)
        fitting, calibrating = np.array_split(mine, 2)
        small = fit_policy(held_out.features[fitting], held_out.top1[fitting], seed=seed, **fit)
        p_small = _predict(small, held_out.features)
        for choice, p, (lam, promised) in (
            (CHOICES[0], p_held, (lam_train, promised_train)),
            (CHOICES[1], p_held, _promise(p_held[mine], held_out.top1[mine], saved, gap)),
            (CHOICES[2], p_small, _promise(p_small[calibrating], held_out.top1[calibrating], saved, gap)),
        ):
            exits = choose(p[judges], saved, lam)
            kept, full = held_out.top1[judges, exits].mean(), held_out.top1[judges, -1].mean()
            rows.append((choice, repeat, promised, kept, full, saved[exits].mean()))
    return pd.DataFrame(rows, columns=["choice", "repeat", "promised", "kept", "full", "saved"])


def promise_error(frame: pd.DataFrame) -> pd.DataFrame:
    """Per choice of `compare_splits`: promised, kept, saved, shortfall (mean of promised − kept), error (its root mean square)."""
    short = frame["promised"] - frame["kept"]
    groups = frame.assign(shortfall=short, error=short**2).groupby("choice", sort=False)
    table = groups[["promised", "kept", "saved", "shortfall", "error"]].mean()
    return table.assign(error=np.sqrt(table["error"])).reset_index()


def _promise(p: np.ndarray, correct: np.ndarray, saved, gap: float) -> tuple[float, float]:
    """λ and the accuracy that it promises."""
    try:
        found = calibrate(p, correct, saved, gap, paired=True)
    except InfeasibleError as error:
        found = calibrate(p, correct, saved, epsilon_for(error.best))
    return found.lam, found.accuracy


def _predict(policy: PolicyNetwork, features: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return policy(torch.from_numpy(features)).numpy()
