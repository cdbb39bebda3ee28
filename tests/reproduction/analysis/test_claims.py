"""The ledger: verdicts from intervals, and claims that turn with the evidence."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.fakes import FakeRun, K, fake_base, fake_runs
from support.profiles import TINY

from rdnlib.reproduction.analysis.claims import CLAIMS, Claim, ledger
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import load_profile


@pytest.mark.parametrize(
    ("low", "high", "seeds", "side", "verdict"),
    [
        (0.1, 2, (), ">", "reproduced"),
        (-2, -0.1, (), ">", "not reproduced"),
        (-0.1, 2, (), ">", "inconclusive"),
        (0.1, 2, (2, -0.1, 3), ">", "inconclusive"),  # the luck of training
        (0.1, 2, (2, 0.2, 1), ">", "reproduced"),
        (0.1, 2, (), "<", "not reproduced"),
        (-2, -0.1, (), "<", "reproduced"),
        (0, 0, (), ">", "inconclusive"),
        (np.nan, np.nan, (), ">", "inconclusive"),
    ],
)
def test_verdicts(low, high, seeds, side, verdict):
    claim = Claim("Table 0", "it is so", "—", Estimate((low + high) / 2, low, high, *seeds), side=side)
    assert claim.verdict == verdict


class FakeEvidence(Evidence):
    """Runs made up by name: RDNs share one network, in which `better` is more accurate and `worse` less."""

    profile = load_profile(TINY)

    def __init__(self, *, better=(), worse=(), seeds=1):
        super().__init__(workspaces=[SimpleNamespace()] * seeds)
        self.better, self.worse = better, worse

    def runs(self, name, seeds=None):
        return [self.run(name, seed) for seed in range(len(self.workspaces))][:seeds]

    def run(self, name, seed):
        rdn, policy = fake_runs(seed=seed)
        if name.startswith("policy"):
            return policy
        if name == "base":
            return fake_base(ids=seed, accuracy=0.95 if "base" in self.better else 0.6)
        change = np.random.default_rng(1).random(len(rdn.frame)) < 0.2
        frame = rdn.frame.copy()
        for index in range(1, K + 1):
            if name in self.better:
                frame[f"top1_{index}"] |= change
            if name in self.worse:
                frame[f"top1_{index}"] &= ~change
        return FakeRun(rdn.result, frame)


def verdicts(evidence, where):
    claims = next(make for make in CLAIMS if make.__name__ == where.replace(" ", "").lower() + "_claims")(evidence)
    return [claim.verdict for claim in claims]


def test_claims_turn_with_the_evidence():
    profile = FakeEvidence.profile
    _, scratch, twice = graph.table3(profile).values()
    _, without, alone = graph.table5(profile).values()
    selects = graph.table4(profile)
    assert verdicts(FakeEvidence(worse=("depth-mobilenext",)), "Table 2") == ["reproduced", "inconclusive"]
    assert verdicts(FakeEvidence(better=("depth-mobilenet_v2",)), "Table 2") == ["inconclusive", "not reproduced"]
    assert verdicts(FakeEvidence(worse=(scratch, twice)), "Table 3") == ["reproduced", "reproduced"]
    assert verdicts(FakeEvidence(worse=(scratch,), better=(twice,)), "Table 3") == ["reproduced", "not reproduced"]
    assert verdicts(FakeEvidence(worse=(selects["random"],)), "Table 4") == ["reproduced"] * 2
    assert verdicts(FakeEvidence(worse=(selects["greedy"],)), "Table 4") == ["not reproduced"] * 2
    assert verdicts(FakeEvidence(better=(alone,)), "Table 5") == ["not reproduced", "reproduced"]
    assert verdicts(FakeEvidence(better=(without,)), "Table 5")[1] == "not reproduced"
    assert verdicts(FakeEvidence(better=("base",)), "Table 1")[0] == "not reproduced"
    assert verdicts(FakeEvidence(), "Table 1")[0] == "reproduced"


def test_the_costs_of_table_1_are_exact():
    table = ledger(FakeEvidence())
    row = table[table["statement"].str.contains("RDN, copy: N_K needs at most")].iloc[0]
    assert row["ours"] == row["ours_low"] == row["ours_high"] == pytest.approx(100 * (40 / 30 - 1))
    assert row["holds_if"] == f"< {100 * (369 / 317 - 1):g}" and row["verdict"] == "not reproduced"
    assert row["paper"] == "+16 / +16 / +11"


def test_every_claim_has_its_numbers():
    table = ledger(FakeEvidence(seeds=2))
    assert set(table["where"]) == {"Table 1", "Figure 8", "Table 2", "Table 3", "Table 4", "Table 5"}
    assert not table["statement"].duplicated().any()
    assert set(table["verdict"]) <= {"reproduced", "not reproduced", "inconclusive"}
    assert (table["paper"].str.len() > 0).all() and table["ours_seeds_low"].notna().any()
    paper = table.set_index("statement")["paper"]
    assert paper["MnXt1.5: 14 sub-networks instead of 7 cost the largest some accuracy"] == "+1.12"
    assert paper["a pre-trained super-net helps"] == "+3.82"
    assert paper["greedy select is better than random for the lightest sub-network"] == "+2.21"
    assert paper["training the lightest as well costs the largest little"] == "-0.06"
