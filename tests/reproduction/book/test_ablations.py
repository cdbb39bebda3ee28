"""Pictures and sentences of the chapters on what matters: they say what the numbers say, also where those are odd."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fakes import with_ends
from support.profiles import TINY, write_profile

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.verdicts import Claim
from rdnlib.reproduction.book import ablations, style
from rdnlib.reproduction.experiments.config import load_profile


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class Finished:
    """A run of three sub-networks on four images of `classes`: N_1 has one right, N_2 two, N_3 three."""

    def __init__(self, classes=()):
        self.result = {"name": "run", "madds": [1.0, 2.0, 3.0], "data": {"classes": classes}}
        self.result["before_training"] = {"top1": [0.1, 0.2, 0.3]}

    def samples(self):
        right = {f"top1_{v}": np.arange(4) < v for v in (1, 2, 3)}
        return pd.DataFrame({"split": "validation", "id": range(4), "label": 0, "difficulty": np.nan, **right})

    def history(self):
        return pd.DataFrame({"epoch": [1, 2], "accuracy": [0.5, 0.6], "accuracy_K": [0.7, 0.8]})


def length_table() -> pd.DataFrame:
    numbers = pd.DataFrame({"epochs": [0, 0, 4, 4], "subnetwork": [1, 3, 1, 3]})
    values = with_ends(copy=[10.0, 20.0, 30.0, 40.0], reconstruct=[36.0, 35.0, 31.0, 41.0], gain=[5.0, 15.0, 1.0, 1.0])
    return pd.concat([numbers, values], axis=1)


def repaired(**last) -> pd.DataFrame:
    row = {"subnetwork": 3, "trained": 20.0, "given": 15.0, "share": 0.75, "epochs": 4.0}
    return pd.DataFrame([row | {"subnetwork": 1}, row | last])


def by_cost(count: int = 3) -> pd.DataFrame:
    return pd.concat([pd.DataFrame({"madds": 1e6 * np.arange(1, 1 + count)}), with_ends(top1=[50.0] * count)], axis=1)


def grid() -> pd.DataFrame:
    nodes = pd.DataFrame({"width": [1, 1, 2, 2], "depth": [0, 1, 0, 1], "madds": [1e6, 2e6, 2e6, 3e6]})
    return nodes.assign(accuracy=[40.0, 50.0, 45.0, 60.0], low=39.0, high=61.0)


STEPS = {0.0: np.array([50.0, 55, 60]), 0.1: np.array([10.0, 20, 65])}
PICTURES = {
    "accuracies_by_subnetwork": lambda: ablations.accuracies_by_subnetwork({"a": [Finished()], "b": [Finished()]}),
    "length_curves": lambda: ablations.length_curves(length_table(), Estimate(50, 45, 55)),
    "lead_by_length": lambda: ablations.lead_by_length(length_table()),
    "repaired_bars": lambda: ablations.repaired_bars(repaired()),
    "depth_grid": lambda: ablations.depth_grid(grid(), by_cost(2)),
    "two_families": lambda: ablations.two_families(by_cost(), by_cost(2), by_cost(1)),
    "scores": lambda: ablations.scores([0.3, 0.1, 0.2], [1]),
    "cosines": lambda: ablations.cosines([-0.5, 1.0]),
    "first_steps": lambda: ablations.first_steps(STEPS),
    "training_paths": lambda: ablations.training_paths({"a": ([0, 1], [10.0, 20.0])}, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_twice_with_labels(name):
    one, other = PICTURES[name](), PICTURES[name]()
    assert style.svg(one) == style.svg(other)
    assert one.axes[0].get_xlabel() and one.axes[0].get_ylabel()


def test_intervals_are_drawn_where_they_end():
    (ax,) = ablations.lead_by_length(length_table()).axes
    first = ax.containers[0]  # of N_1
    np.testing.assert_array_equal(first[0].get_xydata(), [(0, 5), (4, 1)])
    ends = [tuple(segment[:, 1]) for segment in first[2][0].get_segments()]
    assert ends == [(4, 7), (0, 3)]


def test_accuracies_of_each_series_lie_beside_each_other():
    (ax,) = ablations.accuracies_by_subnetwork({"a": [Finished()], "b": [Finished()]}).axes
    for container, shift in zip(ax.containers, (-0.075, 0.075), strict=True):
        np.testing.assert_allclose(container[0].get_xydata(), [(1 + shift, 25), (2 + shift, 50), (3 + shift, 75)])


def test_lengths_are_ticks_from_zero_on():
    for ax in ablations.length_curves(length_table(), Estimate(50, 45, 55)).axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "4"] and ax.get_xscale() == "symlog"


def test_a_colour_is_a_subnetwork():
    (ax,) = ablations.cosines([0.5, 0.2, 1.0]).axes
    assert [bar.get_facecolor() for bar in ax.patches] == [
        plt.matplotlib.colors.to_rgba(style.owner_colour(number)) for number in (1, 2, 3)
    ]
    _, largest = ablations.length_curves(length_table(), Estimate(50, 45, 55)).axes
    assert {line.get_color() for line in largest.lines} - {style.INK} == {style.owner_colour(3)}


def test_a_path_of_training_begins_with_the_super_net():
    x, y = ablations.training_path(Finished(), Finished())
    assert [*x] == [1, 2, 3, 4] and [*y] == [50, 60, 70, 80]
    x, y = ablations.training_path(Finished())
    assert [*x] == [0, 1, 2] and [*y] == [30, 70, 80]


def test_only_networks_at_chance_are_warned_of():
    networks = {"N_1": ([Finished("abcd")], 1), "N_3": ([Finished("abcdefghijkl" * 9)], 3)}
    assert ablations.learned_little(networks) == [
        "**N_1 is at chance (25.0 %; guessing gives 25 %)**: a comparison with it says nothing."
    ]


def test_departures_from_the_paper(tmp_path):
    as_printed = {"k": 4, "select": "greedy", "plain": None, "largest": None}
    profile = load_profile(write_profile(tmp_path / "a.yaml", rdn=as_printed))
    assert "as the paper's" in ablations.departures_in_words(profile)
    other = {"k": 3, "select": "random", "plain": 0.5, "largest": 0.4, "distill": 0.7}
    text = ablations.departures_in_words(load_profile(write_profile(tmp_path / "b.yaml", rdn=other)))
    assert "$k = 3$ instead of 4" in text and "`random`" in text and "after 50% of the MAdds" in text and "0.4" in text
    assert "the super-net teaches, with the share 0.7 of the loss" in text
    assert "`greedy-relative`" in ablations.departures_in_words(load_profile(TINY))


def test_what_became_of_the_claims_beside_the_settings():
    claim = Claim("Table 3", "it helps", "+1.00", Estimate(-0.5, -1, 0))
    lines = ablations.paper_and_ours(load_profile(TINY), [claim], "ImageNet").data.splitlines()
    assert lines[0].startswith("- it helps: paper +1.00, ours -0.5") and lines[-1] == "- The paper: ImageNet."


def test_signed_lists():
    assert ablations.signed_list({"a": 1.25, "b": -0.04}) == "a +1.2 points, b -0.0 points"
    assert ablations.signed_list({}) == "nothing"


@pytest.mark.parametrize(
    ("light", "full", "more", "texts"),
    [
        ((4, 1, 7), (0, -1, 1), (4, 1, 7), ("$N_1$ is better", "$N_K$ cannot be told", "the lightest gains more")),
        ((-4, -7, -1), (2, 1, 3), (-6, -9, -3), ("$N_1$ is worse", "$N_K$ is better", "the largest gains more")),
        ((1, -1, 3), (1, -1, 3), (0, -2, 2), ("$N_1$ cannot be told", "$N_K$ cannot be told", "is open")),
    ],
)
def test_whom_a_select_helps(light, full, more, texts):
    found = ablations.gains_most(*(Estimate(*each) for each in (light, full, more)))
    assert all(text in found for text in texts)


def test_widths_are_compared_inside_of_the_rdn_only():
    rdn = pd.DataFrame({"madds": [20e6, 40e6], "top1": [50.0, 60.0]})
    slimmable = pd.DataFrame({"width": [0.1, 0.5, 1.0], "madds": [10e6, 30e6, 50e6], "top1": [40.0, 58.0, 70.0]})
    below, inside, above = ablations.widths_in_words(slimmable, rdn)
    assert "less than $N_1$" in below and "more than $N_K$" in above and "points" not in below + above
    assert inside == "width 0.5: 30.0 M MAdds, 58.0 %; the RDN has 55.0 % at that cost, a difference of +3.0 points."


def test_repair_in_words():
    text = ablations.repaired_in_words(repaired(), 16)
    assert text.startswith("After 16 epochs of training $N_K$ of `copy` has changed by +20.0 points.")
    assert "15.0 points ahead of untrained `copy`, which is **75%**" in text and text.endswith(
        "final accuracy of `copy` after 4 epochs."
    )
    assert ablations.repaired_in_words(repaired(), 4).endswith("only after as many epochs.")
    none = ablations.repaired_in_words(repaired(trained=-2.0, given=-1.0, share=np.nan, epochs=np.nan), 1)
    assert "After 1 epoch of" in none and "1.0 points behind untrained `copy`" in none and "**" not in none
    assert none.startswith("After 1 epoch of training $N_K$ of `copy` has changed by -2.0")
    assert "**all** of what" in ablations.repaired_in_words(repaired(share=1.2, epochs=0.0), 1)
    assert ablations.repaired_in_words(repaired(share=1.2, epochs=0.0), 1).endswith("without any training.")


def test_dips_are_named_where_the_intervals_are_apart():
    copy, reconstruct = ablations.dips_in_words(length_table())
    assert copy == "`copy`: no sub-network is clearly less accurate after 4 epochs than before."
    assert reconstruct == "`reconstruct`: after 4 epochs these are less accurate than before: $N_1$ by 5.0 points."
    assert ablations.dips_in_words(length_table()[:2]) == []


def test_steps_in_words_name_both_directions():
    assert ablations.steps_in_words(STEPS) == (
        "At the learning rate 0.1, $N_1$ has 40 points less and $N_K$ has 5 points more than at 0, after as many steps."
    )
