"""The recipe: the schedule, the averaging, and what is refused."""

import math

import pytest

from rdnlib.errors import ConfigError
from rdnlib.training.recipe import Recipe, ema_decay, learning_rate


def test_schedule_warms_up_and_ends_at_its_minimum():
    recipe = Recipe(epochs=10, lr=0.1, size=16, warmup_epochs=1)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] < 0.02
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) == 10
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(recipe, 100, 100) == pytest.approx(recipe.min_lr)


def test_ema_window_is_the_papers_share_of_the_run():
    recipe = Recipe(epochs=200, lr=0.1, size=16)
    assert ema_decay(recipe, 250_000) == pytest.approx(0.9999)
    assert ema_decay(recipe, 250) == pytest.approx(0.9)
    assert ema_decay(recipe, 3) == 0  # nothing to average over


@pytest.mark.parametrize("wrong", [{"batch_size": 9, "parts": 2}, {"batch_size": 4, "parts": 4}, {"parts": 0}])
def test_batches_that_cannot_be_cut_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"cannot be cut into \d equal parts of at least 2"):
        Recipe(epochs=1, lr=0.1, size=16, **wrong)


@pytest.mark.parametrize("parts", [1, 8])
def test_parts_that_cannot_be_shared_out_are_refused(parts):
    with pytest.raises(ConfigError, match=r"3 processes cannot share a batch of 128 in \d parts equally"):
        Recipe(epochs=1, lr=0.1, size=16, parts=parts).rows(0, 3)


@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (4, 1), (4, 2), (4, 4)])
def test_every_row_of_a_batch_belongs_to_one_part_of_one_process(parts, processes):
    recipe = Recipe(epochs=1, lr=0.1, size=16, batch_size=48, parts=parts)
    rows = [list(range(48))[rows] for process in range(processes) for rows in recipe.rows(process, processes)]
    assert sorted(rows) == [list(range(part, 48, parts)) for part in range(parts)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": math.nan}, "learning rate"),
        ({"distill": -0.1}, "distill"),
        ({"distill": 1.5}, "distill"),
        ({"distill": math.nan}, "distill"),
        ({"teacher": "nobody"}, "teacher"),
        ({"largest": 1.1}, "largest"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**{"epochs": 1, "lr": 0.1, "size": 16} | wrong)
