"""What an RDN is worth: made-up networks whose accuracies and costs are known, and every choice made again the obvious way."""

import itertools
from typing import ClassVar

import numpy as np
import pytest
from support.fakes import MADDS, FakeEvidence, FakeRun, fake_base

from rdnlib.calibration.families import OneForAll, calibrate_and_apply
from rdnlib.reproduction.analysis.outcomes import families, split_rows
from rdnlib.reproduction.analysis.statistics import Estimate, difference
from rdnlib.reproduction.analysis.worth import (
    CHOSEN,
    DOES_NOT,
    NARROWER,
    NOTHING,
    OPEN,
    PAYS,
    TRADE,
    Comparison,
    _on_the_line,
    against_the_base,
    chosen,
    comparisons,
    levers,
)

BASE_MADDS = 30_000_000


class Between(FakeEvidence):
    """A base whose accuracy lies between those of N_1 and N_2."""

    accuracy = 0.68

    def run(self, name, seed):
        return fake_base(ids=seed, accuracy=self.accuracy) if name.startswith("base") else super().run(name, seed)


class Strong(Between):
    """A base that is more accurate than any sub-network."""

    accuracy = 0.97


@pytest.fixture(scope="module")
def found():
    return comparisons(Between(), resamples=10)


def estimate(low, high, seeds=3):
    over = (low, high) if seeds > 1 else (np.nan, np.nan)
    return Estimate((low + high) / 2, low, high, seeds, *over)


@pytest.mark.parametrize(
    ("gain", "cost", "verdict"),
    [
        ((0.5, 2), (-30, -20), PAYS),
        ((0.5, 2), (-1, 1), PAYS),
        ((-0.2, 0.3), (-30, -20), PAYS),  # a loss of more than 0.2 points is excluded
        ((-0.3, 0.3), (-30, -20), OPEN),
        ((-0.2, 0.3), (-1, 1), OPEN),
        ((0.5, 2), (10, 20), TRADE),
        ((-2, -0.5), (-30, -20), TRADE),
        ((-0.2, -0.1), (-30, -20), TRADE),
        ((-0.2, 0.3), (10, 20), DOES_NOT),
        ((-2, -0.5), (-1, 1), DOES_NOT),
        ((-2, -0.5), (10, 20), DOES_NOT),
        ((0.04, 2), (10, 20), DOES_NOT),  # it is printed as 0.0
        ((np.nan, np.nan), (10, 20), NOTHING),
    ],
)
def test_what_two_intervals_mean(gain, cost, verdict):
    assert Comparison(estimate(*gain), estimate(*cost)).verdict == verdict
    assert Comparison(estimate(*gain), estimate(*cost), ["it is at chance"]).verdict == NOTHING


def test_the_largest_against_the_base_is_a_paired_difference_and_a_count(found):
    evidence = Between()
    rdn, longer = evidence.together("rdn-reconstruct", "base-longer")
    each = found["N_K", "longer"]
    assert each.gain == difference(rdn, longer)
    assert each.cost.hull == pytest.approx((100 / 3, 100 / 3)) and each.gain.seeds == 3
    assert found["N_1", "N_1 alone"].cost.value == 0


def test_choices_are_made_on_held_out_images_and_judged_on_others(found):
    """The cheapest sub-network that reaches the base's accuracy, again by a loop."""
    gains, costs = [], []
    for rdn, base in zip(*Between().together("rdn-reconstruct", "base-longer"), strict=True):
        held_out, test = (split_rows(rdn, split) for split in ("calibration", "validation"))
        aim = split_rows(base, "calibration")["top1_1"].mean()
        chosen = next(i for i in (1, 2, 3) if held_out[f"top1_{i}"].mean() >= aim)
        gains.append(100 * (test[f"top1_{chosen}"].mean() - split_rows(base, "validation")["top1_1"].mean()))
        costs.append(100 * (MADDS[chosen - 1] / BASE_MADDS - 1))
    each = found["single", "longer"]
    assert each.gain.value == pytest.approx(np.mean(gains)) and each.cost.value == pytest.approx(np.mean(costs))
    assert each.verdict == PAYS and each.missed == 0


@pytest.mark.parametrize("pair", (*CHOSEN, ("mix", "longer")))
def test_what_is_asked_for_alone_is_what_it_is_among_all(found, pair):
    alone = chosen(Between(), [pair], resamples=10)
    assert list(alone) == [pair] and np.isfinite(alone[pair].ends).all()
    assert pair not in found or alone[pair] == found[pair]


def test_the_other_start_is_the_rdn_of_copied_weights_with_its_own_policy(found):
    asked = []

    class Copied(Between):
        def run(self, name, seed):
            asked.append(name)
            return super().run(name, seed)

    copied = comparisons(Copied(better=["rdn-copy"]), "copy", resamples=2)
    assert set(asked) == {"rdn-copy", "policy-copy", "base", "base-longer"}
    assert copied["N_K", "longer"].gain.value > found["N_K", "longer"].gain.value
    assert copied.keys() == {pair for pair in found if "alone" not in pair[1]}


class CopiedFirst(Between):
    """The main RDN has copied weights."""

    profile = Between.profile.like(
        Between.profile.settings() | {"rdn": Between.profile.settings()["rdn"] | {"init": "copy"}}
    )


def test_the_main_rdn_is_judged_unless_another_start_is_named():
    evidence = CopiedFirst(better=["rdn-copy"])
    rdn, other, longer = evidence.together("rdn-copy", "rdn-reconstruct", "base-longer")
    main, twin = (comparisons(evidence, start, resamples=2) for start in (None, "reconstruct"))
    assert main["N_K", "longer"].gain == difference(rdn, longer)
    assert twin["N_K", "longer"].gain == difference(other, longer) != difference(rdn, longer)
    assert main["N_1", "N_1 alone"].gain == difference(rdn, evidence.runs("alone-1"), 1)
    assert not [pair for pair in twin if "alone" in pair[1]]
    networks = against_the_base(evidence).set_index("name")
    assert networks.loc["N_3", "gap"] == pytest.approx(difference(rdn, longer).value)


class Narrow(Between):
    """Beside the base, a network of half of its cost and, above what adapting costs, a wider one."""

    profile = Between.profile.like(Between.profile.settings() | {"widths": [0.2, 2.0]})
    narrow: ClassVar = {"base-x0.2": (15_000_000, 0.6), "base-x2.0": (50_000_000, 0.8)}

    def run(self, name, seed):
        if name not in self.narrow:
            return super().run(name, seed)
        madds, accuracy = self.narrow[name]
        run = fake_base(ids=seed, accuracy=accuracy)
        return FakeRun({**run.result, "madds": [madds]}, run.frame)


def test_narrower_networks_are_compared_at_the_cost_of_adapting(found):
    """The line between the two networks whose costs are next to it, again by a loop."""
    evidence = Narrow()
    both = comparisons(evidence, resamples=10)
    assert not any("narrower" in pair for pair in found) and {*NARROWER} == both.keys() - found.keys()
    gains = []
    for rdn, policy, longer, *narrow in zip(
        *evidence.together("rdn-reconstruct", "policy-reconstruct", "base-longer", *Narrow.narrow), strict=True
    ):
        held_out, test = (families(rdn, policy, {}, split=split)["dynamic"] for split in ("calibration", "validation"))
        outcome = calibrate_and_apply(held_out, test, held_out.correct[:, -1])
        networks = (narrow[0], longer, narrow[1])  # in ascending order
        points = [(run.result["madds"][0], split_rows(run, "validation")["top1_1"].mean()) for run in networks]
        cost = outcome.madds.mean()
        (x0, y0), (x1, y1) = next(ends for ends in itertools.pairwise(points) if ends[0][0] <= cost <= ends[1][0])
        gains.append(100 * (outcome.accuracy - (y0 + (y1 - y0) * (cost - x0) / (x1 - x0))))
    each = both["dynamic", "narrower"]
    assert each.gain.value == pytest.approx(np.mean(gains)) and each.cost.hull == pytest.approx((0, 0))


def test_no_narrower_network_is_cheaper_than_the_cheapest():
    networks = OneForAll(np.array([[True, True], [False, True]]), np.array([10.0, 20.0]))
    assert _on_the_line(networks, 5.0) == (0.5, 10.0) and _on_the_line(networks, 15.0) == (0.75, 15.0)
    assert _on_the_line(networks, 30.0) == (1.0, 30.0)


def test_the_mix_costs_what_adapting_does(found):
    assert found["dynamic", "mix"].cost.hull == pytest.approx((0, 0))
    assert found["dynamic", "N_K"].cost.hull.high < 0
    assert found["dynamic", "mix"].gain.value > found["dynamic", "N_K"].gain.value


def test_an_accuracy_out_of_reach_is_counted():
    found = comparisons(Strong(), resamples=2)
    assert found["single", "longer"].missed == found["dynamic at the base", "longer"].missed == 3
    assert found["N_K", "longer"].verdict == DOES_NOT and found["dynamic", "N_K"].missed == 0


def test_one_seed_illustrates():
    assert all(each.illustrates for each in comparisons(Between(seeds=1), resamples=2).values())


def test_what_a_choice_brings():
    found = levers(FakeEvidence(worse=("rdn-copy",), better=("rdn-random",)))
    start, select = found["reconstruct instead of copy"], found["greedy-relative select instead of random"]
    assert set(start) == {"N_1", "N_K"} and all(each.ends[0] > 0 for each in start.values())
    assert all(each.ends[1] < 0 for each in select.values())
    assert all(each.cost.value == 0 for both in found.values() for each in both.values())
    assert set(found["training all sub-networks instead of N_K alone"]) == {"N_K"}


def test_sub_networks_against_the_base():
    table = against_the_base(FakeEvidence()).set_index("name")
    assert list(table.index) == ["base", "N_1", "N_2", "N_3"]
    np.testing.assert_allclose(table["share"], [1, 1 / 3, 2 / 3, 4 / 3])
    np.testing.assert_allclose(table["params"], [1, 1 / 3, 2 / 3, 4 / 3])
    assert table.loc["base", "gap"] == 0 and table.loc[["N_1", "N_2", "N_3"], "gap"].is_monotonic_increasing
