"""Verdicts from intervals: what decides, what only illustrates, what cannot be tested; and Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Claim,
    holm,
    verdict_table,
)


def claim(low, high, seeds=(3, -np.inf, np.inf), **more):
    number, seeds_low, seeds_high = seeds
    middle = (low + high) / 2
    ends = (middle if np.isinf(seeds_low) else seeds_low), (middle if np.isinf(seeds_high) else seeds_high)
    return Claim("Table 0", "it is so", "—", Estimate(middle, low, high, number, *ends), **more)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (claim(0.1, 2), REPRODUCED),
        (claim(-2, -0.1), NOT_REPRODUCED),
        (claim(-0.1, 2), INCONCLUSIVE),
        (claim(0.1, 2, (3, -0.1, 3)), INCONCLUSIVE),  # the luck of training
        (claim(0.1, 2, (3, 0.2, 1)), REPRODUCED),
        (claim(0.1, 2, side="<"), NOT_REPRODUCED),
        (claim(-2, -0.1, side="<"), REPRODUCED),
        (claim(0, 0), INCONCLUSIVE),
        (claim(np.nan, np.nan), NOT_TESTABLE),
        (claim(0.1, 2, (1, np.nan, np.nan)), "one seed: illustrates"),
        (claim(0.1, 2, (2, 0.2, 1)), "two seeds: illustrates"),
        (claim(5, 5, (1, np.nan, np.nan), exact=True), REPRODUCED),
        (claim(0.1, 2, obstacles=["at chance"]), NOT_TESTABLE),
        (claim(-1, 3, effect=1.5), NOT_TESTABLE),  # ±2 cannot see 1.5
        (claim(-1, 3, effect=2.5), INCONCLUSIVE),
        (claim(1, 9, effect=0.5), REPRODUCED),  # wide, but all of it on one side
    ],
)
def test_verdicts(made, verdict):
    assert made.verdict == verdict
    assert made.sentence().endswith(".") and verdict[1:] in made.sentence()


def test_reasons_are_given():
    assert claim(0.1, 2, obstacles=["a", "b"]).judgement[1] == "a; b"
    assert claim(-1, 3, effect=1.5).judgement[1] == "the interval, ±2.0, is wider than the paper’s effect, 1.50"
    assert claim(0.1, 2, (1, np.nan, np.nan)).judgement[1] == "points the paper’s way"
    assert claim(0.1, 2, (1, np.nan, np.nan), side="<").judgement[1] == "does not point the paper’s way"


def test_a_p_value_is_below_5_per_cent_where_the_interval_is_clear_of_the_bound():
    assert claim(0.01, 2, (3, 0.5, 1.5)).p_value < 0.05 < claim(-0.01, 2, (3, 0.5, 1.5)).p_value
    assert claim(0.5, 1.5, (3, 0.01, 2)).p_value < 0.05 < claim(0.5, 1.5, (3, -0.01, 2)).p_value
    assert np.isnan(claim(5, 5, exact=True).p_value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_steps_down_as_in_the_textbook(p_values):
    adjusted, level, order = holm(p_values), 0.05, np.argsort(p_values)
    for rank, index in enumerate(order):  # reject while p ≤ α / (m − rank), stop at the first that is not
        if p_values[index] * (len(p_values) - rank) > level:
            break
        assert adjusted[index] <= level
    else:
        return
    assert all(adjusted[index] > level for index in order[rank:])


def test_holm_leaves_out_what_has_no_p_value():
    np.testing.assert_allclose(holm([np.nan, 0.03, 0.04]), [np.nan, 0.06, 0.06])


def test_the_table_corrects_within_a_table_of_the_paper():
    weak = claim(0.02, 2, (3, 0.9, 1.1))
    table = verdict_table([weak, weak, weak, claim(-5, 5)])
    assert list(table["verdict"]) == [REPRODUCED] * 3 + [INCONCLUSIVE]
    assert list(table["corrected"]) == [INCONCLUSIVE] * 4
    beside = verdict_table([weak, claim(-1, 3, effect=1.5)])  # the second was tested as well
    assert list(beside["verdict"]) == [REPRODUCED, NOT_TESTABLE] and beside["corrected"][0] == INCONCLUSIVE
    alone = verdict_table([weak, claim(5, 5, exact=True)])
    assert list(alone["corrected"]) == [REPRODUCED] * 2
