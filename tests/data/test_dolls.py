"""`dolls`: images depend on (seed, split, index) only, classes are balanced, and difficulty means what it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdnlib.data import dolls
from rdnlib.errors import ConfigError


def test_shapes_types_and_ranges():
    images, labels, difficulty = dolls.draw(30, size=20)
    assert images.shape == (30, 3, 20, 20) and images.dtype == np.uint8
    assert labels.shape == (30,) and labels.dtype == np.int64
    assert difficulty.shape == (30,) and difficulty.dtype == np.float32
    assert difficulty.min() >= 0 and difficulty.max() <= 1
    assert len(dolls.CLASSES) == len(set(dolls.CLASSES)) == 10


@settings(max_examples=5, deadline=None)
@given(few=st.integers(1, 260), many=st.integers(260, 520), seed=st.integers(0, 2**32))
def test_fewer_images_are_a_prefix_of_more(few, many, seed):
    for one, other in zip(dolls.draw(few, size=8, seed=seed), dolls.draw(many, size=8, seed=seed), strict=True):
        np.testing.assert_array_equal(one, other[:few])


def test_seed_split_and_block_change_the_images():
    first = dolls.draw(500, size=8)[0]
    assert (first[:250] != first[250:]).any(axis=(1, 2, 3)).all()
    for other in (dolls.draw(500, size=8, seed=1), dolls.draw(500, size=8, split="validation")):
        assert (first != other[0]).any(axis=(1, 2, 3)).all()


@given(count=st.integers(1, 26))
@settings(max_examples=5, deadline=None)
def test_every_ten_images_hold_one_of_each_class(count):
    labels = dolls.draw(10 * count, size=8)[1]
    np.testing.assert_array_equal(np.sort(labels.reshape(count, 10)), np.tile(np.arange(10), (count, 1)))


def test_difficulty_is_uniform_and_independent_of_the_class():
    _, labels, difficulty = dolls.draw(5000, size=8)
    quantiles = np.quantile(difficulty, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(quantiles, [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.03)
    means = np.array([difficulty[labels == label].mean() for label in range(10)])
    np.testing.assert_allclose(means, 0.5, atol=0.06)


def test_another_size_shows_the_same_scene():
    small, labels, difficulty = dolls.draw(60, size=16)
    large, same_labels, same_difficulty = dolls.draw(60, size=64)
    np.testing.assert_array_equal(labels, same_labels)
    np.testing.assert_array_equal(difficulty, same_difficulty)
    shrunk = large.reshape(60, 3, 16, 4, 16, 4).mean((3, 5))
    easy = difficulty < 0.3
    assert np.abs(small - shrunk)[easy].mean() < 8  # grey levels, of 255


def test_contrast_falls_and_noise_grows_with_difficulty():
    images, _, difficulty = dolls.draw(1000, size=32)
    spread = images.std((1, 2, 3))
    rough = np.abs(np.diff(images.astype(float), n=2)).mean((1, 2, 3)) / spread  # next to contrast, noise
    assert np.corrcoef(difficulty, spread)[0, 1] < -0.3
    assert np.corrcoef(difficulty, rough)[0, 1] > 0.5


def test_the_classes_differ_in_the_figure_not_in_colour():
    """Mean colour tells nothing: the classes' means lie within a few standard errors of each other."""
    images, labels, _ = dolls.draw(3000, size=8)
    colour = images.mean((2, 3))  # (N, 3)
    for channel in colour.T:
        means = np.array([channel[labels == label].mean() for label in range(10)])
        assert np.ptp(means) < 6 * channel.std() / np.sqrt(300)


def test_a_class_is_its_figure_which_gets_smaller_with_difficulty():
    """Draw with the same random numbers and other labels: only the figure may change."""
    plain = [dolls._Block(np.random.default_rng(seed), 32) for seed in range(6)]
    other = [dolls._Block(_Relabelled(np.random.default_rng(seed)), 32) for seed in range(6)]
    level = np.concatenate([block.level for block in plain])
    pairs = zip(plain, other, strict=True)
    changed = np.concatenate([(a.image != b.image).any(1) for a, b in pairs])  # (N, S, S)
    assert changed[level < 0.5].any((1, 2)).all()
    assert changed.mean() < 0.3
    height = changed.any(2).sum(1)  # rows in which anything changed
    assert height[level < 0.3].mean() > 1.25 * height[level > 0.7].mean()


class _Relabelled:
    """A generator whose class labels are moved on by one and whose other numbers are the original's."""

    def __init__(self, rng):
        self._rng = rng

    def permuted(self, classes, axis):
        return (self._rng.permuted(classes, axis=axis) + 1) % len(dolls.CLASSES)

    def __getattr__(self, name):
        return getattr(self._rng, name)


@pytest.mark.parametrize("bad", [{"count": 0}, {"size": 4}, {"seed": -1}, {"split": "test"}])
def test_bad_arguments(bad):
    with pytest.raises(ConfigError, match="dolls"):
        dolls.draw(**({"count": 10} | bad))
