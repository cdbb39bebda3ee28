"""Pictures of policies show the numbers they are given."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from rdnlib.calibration.multiplier import choose, sweep
from rdnlib.errors import ConfigError
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.book import policy, style

SAVED = np.array([0.8, 0.5, 0.0])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def outcomes(images: int = 60):
    rng = np.random.default_rng(0)
    p = rng.random((images, 3))
    return p, rng.random((images, 3)) < p


def trials() -> dict[str, pd.DataFrame]:
    nan = np.nan
    made = pd.DataFrame({"rule": ["measured", "guaranteed"] * 2, "test": [0.7, 0.8, 0.6, nan], "target": 0.65})
    return {"accuracy": made, "none possible": made.assign(test=nan)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: policy.accuracy_and_exits(sweep(*outcomes(), SAVED), largest=0.5),
        lambda: policy.promises(trials()),
        lambda: policy.exit_difficulty(np.linspace(0, 1, 50), np.arange(50) % 3 + 1, count=4),
    ],
)
def test_the_same_picture_twice_with_labels(draw):
    one, other = draw(), draw()
    assert style.svg(one) == style.svg(other)
    assert one.axes[-1].get_xlabel() and all(ax.get_ylabel() for ax in one.axes)


@pytest.mark.parametrize("features, hidden, outputs", [(5, [4], 3), (24, [64], 7), (12, [30, 8], 1), (12, [], 3)])
def test_a_policy_network_is_drawn_with_its_sizes(features, hidden, outputs):
    """All units of small layers, a few of large ones; every drawn unit reads every drawn unit before it."""
    figure = policy.policy_network(PolicyNetwork(features, outputs, hidden))
    (ax,) = figure.axes
    sizes = [features, *hidden, outputs]
    drawn = [size if size <= policy.MOST_UNITS else policy.MOST_UNITS - 1 for size in sizes]
    assert [len(units.get_offsets()) for units in ax.collections] == drawn
    assert len(ax.lines) == sum(a * b for a, b in pairwise(drawn))
    written = [text.get_text() for text in ax.texts]
    assert sum(text.startswith(f"{size} ") for size in sizes for text in written) >= len(sizes)
    assert sum("right?" in text for text in written) == outputs


def test_reliability_is_drawn_beside_the_diagonal():
    ax = plt.subplots()[1]
    policy.reliability(ax, {"$N_1$": ([0.2, 0.8], [0.3, 0.7])})
    assert {line.get_label(): tuple(line.get_ydata()) for line in ax.lines} == {
        "$N_1$": (0.3, 0.7),
        "calibrated": (0, 1),
    }


def test_every_outcome_has_a_place_in_the_picture():
    """As many coloured cells as right answers, in the colour of the sub-network, the easiest image last."""
    correct = np.array([[True, True, True], [False, False, False], [True, False, True], [False, False, True]])
    (image,) = policy.who_is_right(correct).axes[0].images
    pixels = image.get_array()
    assert pixels.shape == (3, 4, 4)
    np.testing.assert_array_equal(pixels[..., 3].sum(axis=0), [0, 1, 2, 3])
    np.testing.assert_array_equal(pixels[..., 3].sum(axis=1), correct.sum(axis=0))
    np.testing.assert_allclose(pixels[1, 3, :3], to_rgb(style.owner_colour(2)))


def test_the_envelope_is_where_the_policy_chooses():
    ax, p = plt.subplots()[1], np.array([0.5, 0.7, 0.8])
    policy.value_lines(ax, p, SAVED, up_to=3.0)
    *lines, envelope = (line.get_ydata() for line in ax.lines)
    lam = ax.lines[0].get_xdata()
    np.testing.assert_array_equal(np.max(lines, axis=0), envelope)
    exits = [choose(p[None], SAVED, each)[0] for each in lam]
    np.testing.assert_array_equal(np.argmax(lines, axis=0)[1:-1], exits[1:-1])
    assert envelope[0] == pytest.approx(envelope[-1])


def test_every_policy_and_every_exit_is_drawn():
    curve = sweep(*outcomes(), SAVED)
    top, bottom = policy.accuracy_and_exits(curve, largest=0.5).axes
    np.testing.assert_allclose(top.lines[0].get_ydata(), 100 * curve["accuracy"])
    assert len(bottom.collections) == 3 and bottom.get_ylim() == (0, 100)
    assert top.lines[0].get_xdata()[0] == curve["lam"][1]  # in place of 0


def test_broken_promises_lie_left_of_the_line():
    top, bottom = policy.promises(trials()).axes
    heights = [[patch.get_height() for patch in bars] for bars in top.containers]
    assert [sum(each) for each in heights] == [2, 1]
    broken = sum(patch.get_height() for patch in top.containers[0] if patch.get_x() < 0)
    assert broken == 1
    assert all(patch.get_height() == 0 for bars in bottom.containers for patch in bars)


def test_exit_difficulty_plots_the_means_and_their_intervals():
    rng = np.random.default_rng(1)
    difficulty, exits = rng.random(200), rng.integers(1, 4, 200)
    ax = policy.exit_difficulty(difficulty, exits, count=5).axes[0]
    points = [line for line in ax.lines if line.get_marker() == "o"]
    x, y = np.transpose([np.ravel(line.get_data()) for line in points])
    assert list(x) == [1, 2, 3]  # nothing left at exits 4 and 5
    assert [line.get_color() for line in points] == [style.owner_colour(v) for v in (1, 2, 3)]
    np.testing.assert_allclose(y.astype(float), [difficulty[exits == v].mean() for v in (1, 2, 3)])
    first = difficulty[exits == 1]
    low, high = ax.collections[0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 * 1.96 * first.std(ddof=1) / np.sqrt(len(first)))


def test_an_unknown_difficulty_is_refused():
    with pytest.raises(ConfigError, match="known difficulty"):
        policy.exit_difficulty(np.array([0.1, np.nan]), np.array([1, 2]), count=2)
