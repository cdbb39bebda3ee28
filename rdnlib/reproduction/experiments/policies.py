"""The policies of one RDN, fitted and calibrated: the paper's, one that also reads N_1's logits, and the sequential one.

All are fitted on the training images and calibrated on held-out ones (`compare_splits` asks whether that is wise). Each comes
with its provenance: which network it belongs to, on what it was fitted and calibrated, ε, λ, and the curve.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from rdnlib.calibration.coverage import compare_splits
from rdnlib.calibration.families import ByLambda, ByThreshold
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.errors import InfeasibleError
from rdnlib.nn.rdn import RDN
from rdnlib.policy.network import fit_policy
from rdnlib.policy.sequential import fit_sequential, sequential_madds, thresholds
from rdnlib.training.evaluate import Outputs
from rdnlib.utils.hashing import network_hash

GAPS = (0.0, 0.005, 0.01, 0.02)  # targets: N_K's accuracy on the calibration images, minus these
CURVE_POINTS = 200  # of the curve that is kept with a policy


@dataclass(frozen=True)
class Fitted:
    """columns: split → per-image columns for `sample_table`: p (features), q (features and N_1's logits), above (`thresholds`
    of the sequential policy), top1, top5. policies: file name → network and its description, for `checkpoint.save`.
    splits: as `compare_splits` gives it. costs: MAdds and parameters, plain numbers."""

    columns: dict[str, dict[str, np.ndarray]]
    policies: dict[str, tuple[nn.Module, dict]]
    splits: pd.DataFrame
    costs: dict


def fit_policies(
    rdn: RDN, outputs: dict[str, Outputs], madds, *, one_shot: dict, sequential: dict, seed: int, answers=None
) -> Fitted:
    """outputs: of `rdn` on "train", "calibration" and other splits; madds: (K,) of its sub-networks; the settings of
    `fit_policy` for the two policies that decide at once, and of `fit_sequential`. answers: (K,) MAdds of each sub-network's
    answer (`madds.count_incremental`); None where it is the classifier alone."""
    train, held_out = outputs["train"], outputs["calibration"]
    saved, madds = saved_fraction(madds), np.asarray(madds, dtype=np.float64)
    read = train.evidence.shape[2]
    paper = fit_policy(train.features, train.top1, seed=seed, **one_shot)
    informed = fit_policy(_with_logits(train), train.top1, seed=seed, logits=read, **one_shot)
    looking = fit_sequential(train.evidence, train.guesses, train.top1, seed=seed, **sequential)
    columns = {}
    for split, seen in outputs.items():
        with torch.inference_mode():
            p = paper(torch.from_numpy(seen.features)).numpy()
            q = informed(torch.from_numpy(_with_logits(seen))).numpy()
        above = thresholds(looking, seen.evidence, seen.guesses, saved)
        columns[split] = {"p": p, "q": q, "above": above, "top1": seen.top1, "top5": seen.top5}

    classifier = sum(weight.numel() for weight in rdn.heads.classifier.parameters() if weight.ndim > 1)
    answers = classifier if answers is None else np.asarray(answers)
    costs = {
        "policy_madds": paper.madds,
        "policy_params": paper.params,
        "informed_madds": informed_madds(informed.madds, answers, len(madds)).tolist(),
        "informed_params": informed.params,
        "sequential_madds": sequential_madds(looking, answers).tolist(),
        "sequential_params": looking.params,
        "classifier_madds": answers if np.ndim(answers) == 0 else answers.tolist(),
    }
    held, correct = columns["calibration"], held_out.top1
    families = {
        "model": ByLambda(held["p"], correct, saved, madds + costs["policy_madds"]),
        "informed": ByLambda(held["q"], correct, saved, madds + costs["informed_madds"]),
        "sequential": ByThreshold(held["above"], correct, madds + costs["sequential_madds"], "lam"),
    }
    kinds = {"model": ("policy", paper), "informed": ("policy", informed), "sequential": ("sequential", looking)}
    about = {
        "network": network_hash(rdn),
        "fitted_on": "train",
        "calibrated_on": "calibration",
        "saved": saved.tolist(),
    }
    policies = {
        name: (policy, {kind: policy.config(), **about, **calibration_record(families[name], correct)})
        for name, (kind, policy) in kinds.items()
    }
    splits = compare_splits(paper, train, held_out, saved, GAPS[2], seed=seed, **one_shot)
    return Fitted(columns, policies, splits, costs)


def informed_madds(policy: int, answers, count: int) -> np.ndarray:
    """(count,) extra MAdds of a policy that reads N_1's logits: images that leave later have had N_1's answer in addition."""
    return policy + np.broadcast_to(answers, count)[0] * (np.arange(count) > 0)


def calibration_record(family, correct: np.ndarray) -> dict:
    """How λ was found, for the description of a saved policy: targets with ε, δ (none), λ and accuracy; the exact curve, thinned."""
    full, targets = float(correct[:, -1].mean()), []
    for gap in GAPS:
        target = {"gap": gap, "epsilon": 1 - full + gap, "delta": None}
        try:
            lam = family.reach(full - gap)
        except InfeasibleError as error:
            targets.append({**target, "lam": None, "best": error.best})
            continue
        right, spent = family.take(lam)
        targets.append({**target, "lam": lam, "accuracy": float(right.mean()), "madds": float(spent.mean())})
    curve = family.curve(CURVE_POINTS)
    return {"calibration_images": len(correct), "targets": targets, "curve": curve.to_dict("list")}


def _with_logits(outputs: Outputs) -> np.ndarray:
    """N_1's features and what its logits say: (N, C_1 + E)."""
    return np.concatenate([outputs.features, outputs.evidence[:, 0]], axis=1)
