"""The explorer's numbers are those of the calibrations: every position of every handle recomputed the plain way."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fakes import K, fake_base, fake_runs

from rdnlib.calibration import calibrate, choose
from rdnlib.calibration.families import ByLambda, OneForAll
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.errors import InfeasibleError
from rdnlib.reproduction.analysis import explorer
from rdnlib.reproduction.analysis.claims import printed
from rdnlib.reproduction.analysis.explorer import NONE, POSITIONS, Curve, Points, explore, explore_paper, round_steps
from rdnlib.reproduction.analysis.outcomes import families, paired_difference

BASES = {"small": fake_base(seed=5, madds=9_000_000, accuracy=0.6), "large": fake_base(seed=6, accuracy=0.85)}
LABEL, CALIBRATED, BUDGET, ACCURACY, MADDS, SHARES, EXITS = range(7)


def splits(**options):
    runs = fake_runs(**options)
    return [families(*runs, BASES, split=split) for split in ("calibration", "validation")]


@pytest.fixture(scope="module")
def both():
    return splits()


@pytest.fixture(scope="module")
def data(both):
    return explore(*both, [*BASES])


def rows(data, handle, position):
    """Of each method but the oracle its row at a position, or None."""
    at = data["handles"][handle]["at"][position]
    return {m["key"]: None if row == NONE else m["rows"][row] for m, row in zip(data["methods"], at, strict=False)}


def test_a_target_finds_lambda_star_and_shows_what_it_does_on_validation(data, both):
    own, test = (split["dynamic"] for split in both)
    reached = 0
    for position, target in enumerate(data["handles"]["target"]["values"]):
        row = rows(data, "target", position)["dynamic"]
        try:
            found = calibrate(own.p, own.correct, own.saved, 1 - target / 100, madds=own.madds)
        except InfeasibleError:
            assert row is None
            continue
        reached += 1
        exits = choose(test.p, test.saved, found.lam)
        assert row[CALIBRATED] == pytest.approx(100 * found.accuracy, abs=1e-3)
        assert row[BUDGET] == round(found.madds)
        assert row[ACCURACY] == pytest.approx(
            100 * np.mean([test.correct[i, v] for i, v in enumerate(exits)]), abs=1e-3
        )
        assert row[MADDS] == pytest.approx(np.mean([test.madds[v] for v in exits]), abs=1)
        assert row[SHARES] == [round(1000 * float((exits == v).mean())) for v in range(K)]
        positions = [np.flatnonzero(test.ids == number)[0] for number in data["pictures"]["id"]]
        assert [int(digit, 36) for digit in row[EXITS]] == exits[positions].tolist()
        assert float(row[LABEL]) == pytest.approx(found.lam, rel=0.01)
    assert reached > 10


@pytest.mark.parametrize("key", ["dynamic", "sequential", "confidence cascade"])
def test_a_budget_finds_the_most_accurate_member_that_keeps_it(data, both, key):
    own = both[0][key].curve()
    for position, budget in enumerate(data["handles"]["budget"]["values"]):
        row, affordable = rows(data, "budget", position)[key], own[own["madds"] <= budget + 1e-3]
        assert (row is None) == affordable.empty
        if row:
            best = affordable.loc[affordable["accuracy"].idxmax()]
            assert row[CALIBRATED] == pytest.approx(100 * best["accuracy"], abs=1e-3)
            assert row[BUDGET] == round(best["madds"])


@pytest.mark.parametrize("key", ["dynamic", "sequential", "confidence cascade"])
def test_a_policys_own_handle_goes_through_its_exact_curve_from_end_to_end(data, both, key):
    own, found = both[0][key].curve(), []
    for position in range(len(data["handles"][key]["at"])):
        at = rows(data, key, position)
        row = at[key]
        found.append(row[BUDGET])
        near = own[(own["madds"] - row[BUDGET]).abs() < 1]
        assert any(abs(100 * near["accuracy"] - row[CALIBRATED]) < 1e-3)
        assert all(other is None or other[BUDGET] <= row[BUDGET] + 1 for other in at.values())
    assert found == sorted(found) and 20 < len(found) <= POSITIONS
    assert (found[0], found[-1]) == (round(own["madds"].iloc[0]), round(own["madds"].iloc[-1]))


def test_networks_that_treat_all_images_alike_are_chosen_as_their_family_chooses(data, both):
    for key, names in (("one sub-network", ["N1", "N2", "N3"]), ("base networks", [*BASES])):
        own, test = (split[key] for split in both)
        for position, target in enumerate(data["handles"]["target"]["values"]):
            row = rows(data, "target", position)[key]
            try:
                index = own.reach(target / 100)
            except InfeasibleError:
                assert row is None
                continue
            assert row[LABEL] == names[index]
            assert row[ACCURACY] == pytest.approx(100 * test.correct[:, index].mean(), abs=1e-3)
            assert row[MADDS] == own.madds[index]


def test_halves_are_those_of_the_paired_difference(data, both):
    validation, checked = both[1], 0
    for position, target in enumerate(data["handles"]["target"]["values"]):
        own = {}
        for key, family in both[0].items():
            if key in explorer.METHODS and rows(data, "target", position)[key]:
                own[key] = validation[key].take(family.reach(target / 100))[0]
        keys = [method["key"] for method in data["methods"][:-1]]
        for half, (a, b) in zip(data["handles"]["target"]["half"][position], combinations(keys, 2), strict=True):
            assert (half is None) == (a not in own or b not in own)
            if half:
                low, high = paired_difference(own[a], own[b])[1:]
                assert half == pytest.approx(50 * (high - low), rel=0.1, abs=0.1)
                checked += 1
    assert checked > 20


def test_pictures_are_images_of_the_validation_split(data, both):
    paper, drawn = both[1]["dynamic"], data["pictures"]
    assert len(set(drawn["id"])) == explorer.PICTURES
    for number, p, right in zip(drawn["id"], drawn["p"], drawn["right"], strict=True):
        row = list(paper.ids).index(number)
        assert p == [round(100 * value) for value in paper.p[row].astype(float)]
        assert right == paper.correct[row].astype(int).tolist()


def test_the_oracle_is_last_and_no_rival(data, both):
    oracle, paper = data["methods"][-1], both[1]["dynamic"]
    assert oracle["key"] == "oracle" and len(oracle["rows"]) == 1
    assert oracle["rows"][0][ACCURACY] == pytest.approx(100 * paper.correct.any(axis=1).mean(), abs=1e-3)
    assert all(len(at) == len(data["methods"]) - 1 for handle in data["handles"].values() for at in handle["at"])


def test_numbers_are_few_enough_for_a_page(data):
    assert len(json.dumps(data, separators=(",", ":"))) < 100_000
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize("options", [{"flat": True}, {"n": 40}, {"difficulty": False}])
def test_runs_at_chance_and_with_few_images_are_shown_as_well(options):
    both = [families(*fake_runs(**options), {}, split=split) for split in ("calibration", "validation")]
    data = explore(*both, [])
    assert "base networks" not in [method["key"] for method in data["methods"]]
    assert all(len(handle["at"]) >= 1 for handle in data["handles"].values())
    json.dumps(data, allow_nan=False)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0, 1))
def test_curve_against_trying_every_lambda(seed, n, where):
    """`within` and `reaching` against all policies of a dense list of λ, on a few images."""
    rng = np.random.default_rng(seed)
    madds = np.cumsum(rng.integers(1, 5, 3)).astype(float)
    p, correct = rng.integers(0, 5, (n, 3)) / 4, rng.random((n, 3)) < 0.6
    family = ByLambda(p, correct, saved_fraction(madds), madds)
    curve = Curve(family, family)
    every = [family.take(lam) for lam in [0, *np.geomspace(1e-2, 1e2, 100), np.inf]]
    accuracy = np.array([right.mean() for right, _ in every])
    costs = np.array([spent.mean() for _, spent in every])
    budget = costs.min() + where * (costs.max() - costs.min())
    found = curve.judged(curve.within(budget))
    assert found[1] <= budget + 1e-9
    assert found[0] >= accuracy[costs <= budget - 1e-9].max(initial=0) - 1e-9
    assert curve.within(costs.min() - 0.5) is None
    star = curve.reaching(where)
    if star is None:
        assert accuracy.max() < where
    else:
        assert curve.judged(star)[0] >= where - 1e-9
        assert curve.judged(star)[1] <= costs[accuracy >= where].min(initial=np.inf) + 1e-9


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_points_choose_as_one_for_all(seed, target):
    rng = np.random.default_rng(seed)
    correct, madds = rng.random((8, 4)) < rng.random(4), np.sort(rng.random(4))
    points = Points("abcd", correct.mean(axis=0), madds, correct)
    try:
        assert points.reaching(target) == OneForAll(correct, madds).reach(target)
    except InfeasibleError:
        assert points.reaching(target) is None
    for budget in madds:
        best = max(correct[:, i].mean() for i in range(4) if madds[i] <= budget)
        assert points.accuracy[points.within(budget)] == best and points.costs[points.within(budget)] <= budget
    assert points.within(madds[0] / 2 - 0.1) is None


@given(st.floats(-1e10, 1e10), st.floats(0, 1e10))
def test_round_steps_cover_their_range(low, span):
    steps = np.array(round_steps(low, low + span))
    tolerance = 1e-6 * max(abs(low), abs(low + span), 1)
    assert steps[0] <= low + tolerance and steps[-1] >= low + span - tolerance
    assert 2 <= len(steps) <= POSITIONS and (np.diff(steps) > 0).all()
    np.testing.assert_allclose(np.diff(steps), steps[1] - steps[0], rtol=1e-3)


def test_the_papers_numbers_are_shown_as_printed():
    data, table = explore_paper(), printed(1)
    shown = {row[LABEL]: (row[ACCURACY], row[MADDS]) for method in data["methods"] for row in method["rows"]}
    assert shown == {
        name: (top1, round(madds * 1e6))
        for name, top1, madds in table[["model", "top1", "madds_m"]].itertuples(index=False)
    }
    assert set(data["handles"]) == {"target", "budget"}
    assert all(half is None for handle in data["handles"].values() for each in handle["half"] for half in each)
