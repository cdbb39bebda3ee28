"""Pictures and sentences of the chapters on results: they say what the numbers say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fakes import with_ends

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book import results, style
from rdnlib.reproduction.experiments.config import load_profile


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def equal_cost() -> pd.DataFrame:
    gains = {"gain": [3.0, 0.0, -4.0, 5.0], "gain_low": [1.0, -1.0, -6.0, 2.0], "gain_high": [5.0, 1.0, -2.0, 8.0]}
    return pd.DataFrame({"subnetwork": [2, 3, 4, 5], "spent": [90.0, 95.0, 100.0, 50.0], **gains})


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


NONE, ABOUT = Estimate(0, -1, 1), Estimate(0.0, -1.0, 1.0, 3, -2.0, 2.0)


@pytest.mark.parametrize(
    ("gain", "cost", "text"),
    [
        (
            NONE,
            NONE,
            "is not distinguishable from the cascade, +0.0 (-1.0 to +1.0) points, and is neither clearly cheaper nor clearly more expensive, +0.0",
        ),
        (NONE, Estimate(2, 1, 3), "costs more, +2.0 (+1.0 to +3.0) % of $N_K$'s MAdds: **it loses.**"),
        (Estimate(-2, -3, -1), NONE, "% of $N_K$'s MAdds: **it loses.**"),
        (Estimate(2, 1, 3), NONE, "% of $N_K$'s MAdds: **it wins.**"),
        (Estimate(2, 1, 3), Estimate(2, 1, 3), "is more accurate than the cascade"),
        (ABOUT, Estimate(-2, -3, -1), "It saves computation, and a loss of more than 2.0 points is excluded."),
        (Estimate(2, 1, 3), Estimate(2, -3, -1), "**it wins.**"),
        (
            NONE,
            Estimate(0.02, 0.01, 0.03),
            "is neither clearly cheaper nor clearly more expensive, +0.0 (+0.0 to +0.0)",
        ),
        (Estimate(np.nan, np.nan, np.nan), NONE, "there is nothing to compare"),
    ],
)
def test_a_duel_in_words(gain, cost, text):
    assert text in results.duel_in_words("dynamic", "the cascade", gain, cost)


def test_nothing_follows_from_networks_at_chance():
    text = results.duel_in_words("a", "b", NONE, Estimate(2, 1, 3), judge=False)
    assert "costs more" in text and "loses" not in text


def test_a_trade_neither_wins_nor_loses():
    words = results.duel_in_words("a", "b", Estimate(-2, -3, -1), Estimate(-2, -3, -1))
    assert "**it" not in words and "saves" not in words and words.endswith("% of $N_K$'s MAdds.")


def test_seeds_in_words():
    text = results.seeds_in_words({"base": 3, "copy": 1, "reconstruct": 3})
    assert text.startswith("3 seeds: “base”, “reconstruct”; 1 seed: “copy”. At one seed")
    assert results.seeds_in_words({"base": 3}) == "3 seeds: “base”."


def test_networks_near_chance_are_named():
    assert results.chance_in_words([], 10) == "Every network here is clearly above chance, 10 % for 10 classes."
    assert results.chance_in_words(["a is at chance"], 1000).endswith("chance, 0.1 % for 1000 classes: a is at chance.")
    assert results.chance_in_words(["a", "b", "c", "d"], 10).endswith(": a; b; and 2 more.")


def test_costs_in_words():
    text = results.costs_in_words({"$N_K$": (1.13, 1.2), "† uses": (0.9, 1.0)})
    assert (
        text
        == "Of its base, $N_K$ 113% of the MAdds and 120% of the parameters, † uses 90% of the MAdds and 100% of the parameters."
    )
    assert "nothing" in results.costs_in_words({})


def test_gains_are_grouped_by_what_is_known():
    assert results.gains_in_words(equal_cost()) == (
        "At about equal cost dynamic inference is more accurate than $N_2$, $N_5$; not distinguishable from $N_3$; less accurate "
        "than $N_4$."
    )
    seeds = equal_cost().assign(gain_seeds_low=-9.0, gain_seeds_high=9.0)
    assert "more accurate" not in results.gains_in_words(seeds)
    assert results.gains_in_words(equal_cost()[:0]).startswith("The policy costs more")


def test_a_lever_is_set_against_the_base_trained_equally_long():
    rows = with_ends(gap=[-9.0, -1.0, -5.0, 4.0]).assign(
        variant=["as it is"] * 2 + ["paper"] * 2, subnetwork=[1, 7] * 2
    )
    one, other = results.verdict_on_levers(rows.assign(share=[0.4, 1.1] * 2))
    assert one.startswith(
        "**as it is**: $N_{7}$ is not distinguishable from the base trained equally long (-1.0 points) at 110%"
    )
    assert "$N_{1}$ is less accurate than" in one and "**paper**: $N_{7}$ is more accurate than" in other


def test_who_teaches():
    recipes = [{}, {"distill": 0.0, "teacher": "supernet"}, {"distill": 0.5}, {"distill": 0.5, "teacher": "supernet"}]
    assert [results.taught_by(recipe) for recipe in recipes] == ["nobody", "nobody", "$N_K$", "the super-net"]


def test_n_k_may_be_left_out_of_the_teaching():
    recipe = {"distill": 0.5, "teacher": "supernet", "teach_largest": False}
    assert results.taught_by(recipe) == "the super-net ($N_K$ excepted)"
    assert results.taught_by(recipe | {"teacher": "largest"}) == "$N_K$"
    profile = load_profile("laptop")
    rdn = profile.settings()["rdn"] | {"distill": 0.5, "teach_largest": False}
    text = results.teacher_in_words(profile.like(profile.settings() | {"rdn": rdn}))
    assert text == "the super-net ($N_K$ excepted), with 0.5 of a loss; the bases have none"
    assert results.teacher_in_words(load_profile("pretrained")) == "nobody"


def test_narrower_bases_beside_dynamic_inference():
    table = pd.DataFrame({"model": ["base", "base, width 0.25", "base, width 0.5", "RDN†"], "madds_m": [9.0, 4.0, 8.0, 5.0],
                          "top1": [70.0, 68.0, 69.04, 69.0]})  # fmt: skip
    text = results.narrower_in_words(table, "RDN†")
    assert text.startswith("“base, width 0.25” has 80% of the MAdds of RDN† and is 1.0 points less accurate; ")
    assert "“base, width 0.5” has 160% of the MAdds of RDN† and is as accurate." in text
    assert (
        results.narrower_in_words(table[~table["model"].str.contains("width")], "RDN†") == "This profile trains none."
    )


def test_changes_of_a_variant_in_words():
    changes = {"plain": ["stem", "blocks.0"], "recipe": {"largest": None, "lr": 0.2, "teacher": "largest"}}
    assert results.changes_in_words(changes) == (
        "plain part: stem, blocks.0; share of N_K in the loss: as in the paper; learning rate: 0.2; teacher: $N_K$"
    )
    words = "share of the loss that a teacher gives"
    assert results.changes_in_words({"distill": 0}) == f"{words}: 0"
    assert results.changes_in_words({"distill": 0.5, "teacher": "supernet"}) == f"{words}: 0.5; teacher: the super-net"
    assert (
        results.changes_in_words({"distill": 0.0, "teach_largest": False})
        == f"{words}: 0; the teacher teaches N_K too: no"
    )
    assert results.changes_in_words({}) == "–"


@pytest.mark.parametrize(("oracle", "text"), [(15.0, "the policy cannot be run"), (50.0, "the policy reaches 60.0 %")])
def test_reference_points_are_read_off_at_the_cost_of_the_policy(oracle, text):
    series = ["dynamic", "dynamic", "dynamic, calibrated", "oracle (first correct exit)"]
    frame = pd.DataFrame({"series": series, "madds": [20.0, 60.0, 40.0, oracle], "top1": [60.0, 70.0, 68.0, 90.0]})
    frame["low"], frame["high"] = frame["top1"] - 1, frame["top1"] + 1
    static = pd.DataFrame({"madds": [10.0, 30.0, 50.0, 90.0], "top1": [50.0, 60.0, 70.0, 74.0]})
    practice, best = results.reference_points_in_words(frame, static)
    assert "44% of $N_K$'s MAdds" in practice and "68.0 (67.0–69.0) %" in practice
    assert "59.0 %" in practice and "65.0 %" in practice  # 50 + 24 · 30/80; half-way between 60 and 70
    assert "90.0 % with" in best and text in best


def test_shares_above_the_line_are_said_or_that_there_is_none():
    text = results.shares_above_in_words({"dynamic": 0.25, "sequential": 1.0})
    assert (
        "The dynamic policy is above it over **25%** of the range of their costs, the sequential policy over **100%**."
        in text
    )
    assert "no networks of other costs" in results.shares_above_in_words({"dynamic": 0.25, "sequential": float("nan")})


def test_what_folding_and_the_plain_part_are_in_words():
    assert "costs 110% of its base" in results.folding_in_words(
        1.1, 1.3
    ) and "would be 130%" in results.folding_in_words(1.1, 1.3)
    assert "saves nothing" in results.folding_in_words(1.101, 1.102)
    texts = [results.plain_in_words(plain) for plain in (None, 0.5, ("stem", "blocks.0"))]
    assert texts == ["the paper's two blocks", "the first 50% of the MAdds", "stem, blocks.0"]
