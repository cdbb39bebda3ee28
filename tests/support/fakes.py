"""Finished experiments made up for tests: their per-sample outputs are drawn from known probabilities."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from support.profiles import TINY

from rdnlib.policy.sequential import going_on
from rdnlib.reproduction.analysis.statistics import Evidence
from rdnlib.reproduction.experiments.config import load_profile

K = 3
MADDS, PARAMS = [10_000_000, 20_000_000, 40_000_000], [1_000_000, 2_000_000, 4_000_000]
POLICY_MADDS, POLICY_PARAMS = 500_000, 250_000

POLICY = {
    "name": "policy",
    "policy_madds": POLICY_MADDS,
    "policy_params": POLICY_PARAMS,
    "informed_madds": [POLICY_MADDS, POLICY_MADDS + 100, POLICY_MADDS + 100],
    "informed_params": POLICY_PARAMS,
    "sequential_madds": [1000, 2100, 2200],
    "sequential_params": 40_000,
    "answer_madds": 100,
}


@dataclass(eq=False)
class FakeRun:
    result: dict
    frame: pd.DataFrame

    def samples(self):
        return self.frame.copy()


def fake_runs(n=2000, seed=0, *, difficulty=True, flat=False):
    """An RDN whose accuracy falls with difficulty, and a policy that knows the probabilities (nothing if `flat`)."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n).astype(np.float32)
    p = np.clip(1.05 - hard[:, None] * [0.9, 0.6, 0.4], 0, 1)  # (n, K)
    draw = rng.random((n, 1))
    correct = draw < p
    frame = pd.DataFrame(
        {
            "id": rng.permutation(n),
            "split": np.where(np.arange(n) < n // 2, "calibration", "validation"),
            "label": 0,
            "difficulty": hard if difficulty else np.float32("nan"),
        }
    )
    policy = frame[["id", "split"]].copy()
    for v in range(K):
        frame[f"top1_{v + 1}"] = correct[:, v]
        frame[f"top5_{v + 1}"] = correct[:, v] | (rng.random(n) < 0.5)
        frame[f"confidence_{v + 1}"] = np.clip(p[:, v] + 0.1 * rng.normal(size=n), 0, 1)
        policy[f"p_{v + 1}"] = (0.9 - 0.1 * v if flat else p[:, v].astype(np.float32)) * np.float32(1)
        policy[f"q_{v + 1}"] = p[:, v]
    for v in range(K - 1):  # what the sequential policy would do with the probabilities themselves
        policy[f"above_{v + 1}"] = going_on(p[:, v:], np.array([0.75, 0.5, 0])[v:])
    policy["difficulty"] = frame["difficulty"]
    shuffled = policy.sample(frac=1, random_state=1)
    return (
        FakeRun({"name": "rdn", "kind": "rdn", "madds": MADDS, "params": PARAMS}, frame),
        FakeRun(POLICY, shuffled),
    )


def fake_base(n=2000, seed=5, *, ids=0, madds=30_000_000, accuracy=0.8):
    """A base network; `ids`: the seed of the RDN that it is compared with."""
    ids = fake_runs(n, ids)[0].frame["id"].to_numpy()
    rng = np.random.default_rng(seed)
    outcome = rng.random(n) < accuracy
    split = np.where(np.arange(n) < n // 2, "calibration", "validation")
    columns = {"id": ids, "split": split, "label": 0, "difficulty": np.nan}
    frame = pd.DataFrame(columns | {"top1_1": outcome, "top5_1": True})
    return FakeRun({"name": "base", "kind": "base", "madds": [madds], "params": [3_000_000]}, frame)


class FakeEvidence(Evidence):
    """Runs made up by name: RDNs share one network, in which `better` is more accurate and `worse` less."""

    profile = load_profile(TINY)

    def __init__(self, *, better=(), worse=(), seeds=3):
        object.__setattr__(self, "made", (better, worse, seeds))

    def runs(self, name):
        return [self.run(name, seed) for seed in range(self.made[2])]

    def run(self, name, seed):
        better, worse, _ = self.made
        rdn, policy = fake_runs(seed=seed)
        if name.startswith("policy"):
            return policy
        if name.startswith("base"):
            return fake_base(ids=seed, accuracy=0.95 if "base" in better else 0.6)
        change = np.random.default_rng(1).random(len(rdn.frame)) < (0.7 if name in better else 0.2)
        frame = rdn.frame.copy()
        for index in range(1, K + 1):
            if name in better:
                frame[f"top1_{index}"] |= change
            if name in worse:
                frame[f"top1_{index}"] &= ~change
        return FakeRun(rdn.result, frame)


def with_ends(**columns) -> pd.DataFrame:
    """Columns with the ends of their intervals one below and two above."""
    table = pd.DataFrame(columns)
    return pd.concat([table, table.add_suffix("_low") - 1, table.add_suffix("_high") + 2], axis=1)
