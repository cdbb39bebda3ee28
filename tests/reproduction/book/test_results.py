"""Pictures and sentences of the chapters on results: they say what the numbers say."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book import results, style


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def equal_cost() -> pd.DataFrame:
    gains = {"gain": [3.0, 0.0, -4.0, 5.0], "gain_low": [1.0, -1.0, -6.0, 2.0], "gain_high": [5.0, 1.0, -2.0, 8.0]}
    return pd.DataFrame({"subnetwork": [2, 3, 4, 5], "spent": [0.9, 0.95, 1.0, 0.5], **gains})


def changes() -> pd.DataFrame:
    return pd.DataFrame({"nesting": [541.4], "adapting": [-67.0]}, index=["ours"])


PICTURES = {
    "madds_bars": lambda: results.madds_bars(changes(), changes()),
    "gains_at_equal_cost": lambda: results.gains_at_equal_cost(equal_cost()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_twice_with_labels(name):
    one, other = PICTURES[name](), PICTURES[name]()
    assert style.svg(one) == style.svg(other)
    assert any(ax.get_xlabel() for ax in one.axes)
    assert one.axes[0].get_ylabel() or one.axes[0].get_yticklabels()


@pytest.mark.parametrize(("count", "text"), [(0, "0 epochs"), (1, "1 epoch"), (2.0, "2 epochs")])
def test_epochs_are_counted(count, text):
    assert results.epochs(count) == text


def test_changes_of_the_madds():
    table = pd.DataFrame({"model": ["base", "R", "R†"], "madds_m": [100.0, 150.0, 75.0]})
    found = results.madds_changes(table, {"ours": ("base", "R")})
    pd.testing.assert_frame_equal(found, pd.DataFrame({"nesting": [50.0], "adapting": [-50.0]}, index=["ours"]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Estimate(-3, -5, -1), "some accuracy is lost, at most 5.0 points"),
        (Estimate(-1, -5, 1), "excludes a loss of more than 5.0 points"),
        (Estimate(0, 0, 0), "excludes a loss of more than 0.0 points"),
        (Estimate(3, 1, 5), "no accuracy is lost, at least 1.0 points are gained"),
    ],
)
def test_a_loss_in_words(change, text):
    assert results.loss_in_words(change).endswith(text)


def duels() -> pd.DataFrame:
    rows = [
        {
            "gap": 0.0,
            "policy": "dynamic",
            "gain": 0.0,
            "gain_low": -1.0,
            "gain_high": 1.0,
            "cost": 2.0,
            "cost_low": 1.0,
        },
        {
            "gap": 0.5,
            "policy": "dynamic",
            "gain": 2.0,
            "gain_low": 1.0,
            "gain_high": 3.0,
            "cost": -2.0,
            "cost_low": -3.0,
        },
    ]
    table = pd.DataFrame(rows).assign(rival="cascade")
    table["cost_high"] = [3.0, -1.0]
    return pd.concat([table, table.assign(rival="other")])


def test_duels_in_words():
    equal, ahead = results.duels_in_words(duels(), "cascade")
    assert equal == (
        "target $N_K$: **dynamic** is not distinguishable from the cascade in accuracy, +0.0 (-1.0 to +1.0) points, "
        "and costs more than it, +2.0 (+1.0 to +3.0) % of $N_K$'s MAdds."
    )
    assert ahead.startswith("target $N_K$ − 0.5 points: **dynamic** is more accurate than the cascade")
    assert "costs less than it" in ahead


def test_a_policy_loses_where_it_costs_more_and_is_not_clearly_more_accurate():
    assert "**loses to the cascade** at 1 of 2 targets" in results.losses_in_words(duels(), "dynamic", "cascade")
    assert results.losses_in_words(duels().iloc[[1]], "dynamic", "cascade").startswith("At no target")


def test_shares_against_half_and_the_rival():
    one, other = results.shares_in_words(pd.Series({"dynamic": 0.6, "sequential": 0.4, "cascade": 0.5}), "cascade")
    assert one == "dynamic: 60% of $N_K$'s MAdds, **more than half**, and **not less** than the cascade's 50%."
    assert other == "sequential: 40% of $N_K$'s MAdds, at most half, and less than the cascade's 50%."


def test_gains_are_grouped_by_what_is_known():
    assert results.gains_in_words(equal_cost()).split("; ") == [
        "more accurate than $N_2$, $N_5$",
        "not distinguishable from $N_3$",
        "less accurate than $N_4$",
    ]


@pytest.mark.parametrize(("oracle", "text"), [(15.0, "even the cheapest exit"), (50.0, "the policy reaches 60.0 %")])
def test_reference_points_are_read_off_at_the_cost_of_the_policy(oracle, text):
    series = ["dynamic", "dynamic", "dynamic, calibrated", "oracle (first correct exit)"]
    frame = pd.DataFrame({"series": series, "madds": [20.0, 60.0, 40.0, oracle], "top1": [60.0, 70.0, 68.0, 90.0]})
    frame["low"], frame["high"] = frame["top1"] - 1, frame["top1"] + 1
    static = pd.DataFrame({"madds": [10.0, 30.0, 50.0, 90.0], "top1": [50.0, 60.0, 70.0, 74.0]})
    practice, coin, best = results.reference_points_in_words(frame, static)
    assert "44% of its MAdds" in practice and "68.0 (67.0–69.0) %; that of $N_K$ is 74.0 %" in practice
    assert "59.0 %" in coin and "65.0 %" in coin  # 50 + 24 · 30/80; half-way between 60 and 70
    assert "90.0 % with" in best and text in best


def test_shares_above_the_line_are_said_or_that_there_is_none():
    text = results.shares_above_in_words({"dynamic": 0.25, "sequential": 1.0})
    assert "the dynamic policy over **25%**" in text and "the sequential policy over **100%**" in text
    assert "no networks of other costs" in results.shares_above_in_words({"dynamic": 0.25, "sequential": float("nan")})
