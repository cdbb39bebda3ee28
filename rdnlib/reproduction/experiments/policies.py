"""The policies of one RDN, fitted and calibrated: the paper's, one that also reads N_1's logits, the sequential one.

All are fitted on the training images and calibrated on held-out ones (`compare_splits` tests this choice). Each is
described by the network it belongs to, on what it was fitted and calibrated, its targets with ε and λ, and its curve.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from rdnlib.calibration.families import ByLambda, ByThreshold, calibrate_or_best, calibrate_to
from rdnlib.calibration.multiplier import choose, saved_fraction
from rdnlib.nn.rdn import RDN
from rdnlib.policy.network import PolicyNetwork, fit_policy
from rdnlib.policy.sequential import fit_sequential, sequential_madds, thresholds
from rdnlib.training.evaluate import Outputs
from rdnlib.utils.hashing import network_hash

GAPS = (0.0, 0.005, 0.01, 0.02)  # targets: N_K's accuracy on the calibration images, minus these
BITS = 16  # of a probability as it is kept: further digits decide nothing, and do not compress
CURVE_POINTS = 200  # of the curve that is stored with a policy
CHOICES = ("train / train", "train / held-out", "held-out / held-out")  # policy fitted on / λ calibrated on


@dataclass(frozen=True)
class Fitted:
    """columns: split → per-image columns for `sample_table`: p (features), q (features and N_1's logits), above
    (`thresholds` of the sequential policy), top1, top5. policies: file name → network and its description, for
    `checkpoint.save`. splits: as `compare_splits` gives it. costs: MAdds and parameters, plain numbers."""

    columns: dict[str, dict[str, np.ndarray]]
    policies: dict[str, tuple[nn.Module, dict]]
    splits: pd.DataFrame
    costs: dict


def fit_policies(
    rdn: RDN, outputs: dict[str, Outputs], madds, *, answers, one_shot: dict, sequential: dict, seed: int
) -> Fitted:
    """Fit, apply and describe the three policies.

    outputs: of `rdn` on "train", "calibration" and other splits. madds, answers: (K,) of its sub-networks, and of what each runs
    for its logits alone (`madds.count_incremental`: total and answer). one_shot, sequential: the settings of `fit_policy` for the
    two policies that decide at once, and of `fit_sequential`.
    """
    train, held_out, saved = outputs["train"], outputs["calibration"], saved_fraction(madds)
    paper = fit_policy(train.features, train.top1, seed=seed, **one_shot)
    reads = train.evidence.shape[2]
    informed = fit_policy(_with_logits(train), train.top1, seed=seed, logits=reads, **one_shot)
    repeated = fit_sequential(train.evidence, train.guesses, train.top1, seed=seed, **sequential)
    columns = {
        split: {
            "p": predict(paper, output.features),
            "q": predict(informed, _with_logits(output)),
            "above": thresholds(repeated, output.evidence, output.guesses, saved).astype(np.float32),
            "top1": output.top1,
            "top5": output.top5,
        }
        for split, output in outputs.items()
    }
    n1_logits = np.broadcast_to(answers, len(saved))[0] * (np.arange(len(saved)) > 0)  # on top, for all that go on
    costs = {
        "policy_madds": paper.madds,
        "policy_params": paper.params,
        "informed_madds": (informed.madds + n1_logits).tolist(),
        "informed_params": informed.params,
        "sequential_madds": sequential_madds(repeated, answers).tolist(),
        "sequential_params": repeated.params,
        "answer_madds": np.asarray(answers).tolist(),
    }
    rows, correct, madds = columns["calibration"], held_out.top1, np.asarray(madds, dtype=np.float64)
    thresholded = ByThreshold(rows["above"], correct, madds + costs["sequential_madds"], "lam")
    fitted = {
        "model": ("policy", paper, ByLambda(rows["p"], correct, saved, madds + costs["policy_madds"])),
        "informed": ("policy", informed, ByLambda(rows["q"], correct, saved, madds + costs["informed_madds"])),
        "sequential": ("sequential", repeated, thresholded),
    }
    provenance = {"network": network_hash(rdn), "fitted_on": "train", "calibrated_on": "calibration"}
    policies = {
        name: (policy, {kind: policy.config(), **provenance, "saved": saved.tolist(), **calibration_record(family)})
        for name, (kind, policy, family) in fitted.items()
    }
    splits = [(output.features, output.top1) for output in (train, held_out)]
    return Fitted(columns, policies, compare_splits(paper, *splits, saved, GAPS[2], seed=seed, **one_shot), costs)


def calibration_record(family: ByLambda | ByThreshold) -> dict:
    """How λ was found, to describe a policy: targets with ε, δ (none), λ and accuracy; the exact curve, thinned."""
    largest, targets = family.correct[:, -1], []
    full = float(largest.mean())
    for gap in GAPS:
        lam, best = calibrate_to(family, largest, gap)
        correct, spent = family.take(lam)
        found = {"lam": lam, "accuracy": float(correct.mean()), "madds": float(spent.mean())}
        if best is not None:
            found = {"lam": None, "best": best}
        targets.append({"gap": gap, "epsilon": 1 - full + gap, "delta": None, **found})
    curve = family.curve(CURVE_POINTS).to_dict("list")
    return {"calibration_images": len(family.correct), "targets": targets, "curve": curve}


def compare_splits(
    policy: PolicyNetwork, train, held_out, saved, gap: float, *, repeats: int = 20, seed: int = 0, **settings
) -> pd.DataFrame:
    """The three ways to use the splits, tested on held-out images that none of them has seen.

    policy: fitted on `train`, with these `settings` of `fit_policy`. train, held_out: pairs of features (N, C) and
    correct (N, K). Each repeat halves the held-out images at random: one half is for fitting and calibrating (where
    both happen, each gets half of it), the other is the test. Returns columns choice (one of CHOICES), repeat,
    calibration (the accuracy of λ on its calibration images, whose target is N_K's minus `gap`, or the best possible),
    test (on the test half), full (N_K's accuracy there), saved (there); no rows for fewer than three held-out images.
    """
    rng, rows, (features, correct) = np.random.default_rng(seed), [], held_out
    p_held = predict(policy, features)
    on_train = _calibrated(predict(policy, train[0]), train[1], saved, gap)
    for repeat in range(repeats if len(p_held) > 2 else 0):  # else nothing is left to calibrate on, or to test
        own, test = np.array_split(rng.permutation(len(p_held)), 2)
        fitting, calibrating = np.array_split(own, 2)
        small = fit_policy(features[fitting], correct[fitting], seed=seed, **settings)
        p_small = predict(small, features)
        ways = (
            (p_held, on_train),
            (p_held, _calibrated(p_held[own], correct[own], saved, gap)),
            (p_small, _calibrated(p_small[calibrating], correct[calibrating], saved, gap)),
        )
        for choice, (p, (lam, accuracy)) in zip(CHOICES, ways, strict=True):
            exits = choose(p[test], saved, lam)
            outcome, full = correct[test, exits].mean(), correct[test, -1].mean()
            rows.append((choice, repeat, accuracy, outcome, full, saved[exits].mean()))
    return pd.DataFrame(rows, columns=["choice", "repeat", "calibration", "test", "full", "saved"])


def split_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Means per choice of `compare_splits`: calibration, test, saved, shortfall (of test), error (root mean square)."""
    short = frame["calibration"] - frame["test"]
    groups = frame.assign(shortfall=short, error=short**2).groupby("choice", sort=False)
    table = groups[["calibration", "test", "saved", "shortfall", "error"]].mean()
    return table.assign(error=np.sqrt(table["error"])).reset_index()


@torch.inference_mode()
def predict(policy: PolicyNetwork, features: np.ndarray) -> np.ndarray:
    """Features (N, C) → probabilities (N, K), rounded to `BITS` bits."""
    p = policy(torch.from_numpy(features))
    return ((p * 2**BITS).round() / 2**BITS).numpy()


def _calibrated(p: np.ndarray, correct: np.ndarray, saved: np.ndarray, gap: float) -> tuple[float, float]:
    """λ for N_K's accuracy minus `gap`, or the best reachable, and its accuracy on these images."""
    family = ByLambda(p, correct, saved, 1 - saved)
    lam, _ = calibrate_or_best(family, correct[:, -1].mean() - gap)
    return lam, family.take(lam)[0].mean()


def _with_logits(outputs: Outputs) -> np.ndarray:
    """N_1's features and what its logits say: (N, C_1 + E)."""
    return np.concatenate([outputs.features, outputs.evidence[:, 0]], axis=1)
