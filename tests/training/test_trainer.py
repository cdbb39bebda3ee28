"""Training: the loss, the schedule, the averaging, what stops a run, and batches that are computed in parts."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rdnlib import to_rdn
from rdnlib.data import datasets
from rdnlib.errors import ConfigError, DataError
from rdnlib.models import mobilenext
from rdnlib.training.trainer import Recipe, ema_decay, joint_loss, learning_rate, reestimate_norms, train

RECIPE = Recipe(epochs=3, lr=0.05, size=16, batch_size=32, crop_scale=(0.8, 1.0))


@pytest.fixture(scope="module")
def dolls():
    return datasets.load("dolls", size=16, train=120, validation=20).train


def network(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return mobilenext(width_mult=0.1, num_classes=10, stem_stride=1)


def test_joint_loss_is_the_mean_of_the_subnetworks_losses():
    logits, labels = torch.randn(5, 3, 4), torch.randint(0, 4, (5,))
    slow = sum(F.cross_entropy(logits[:, i], labels, label_smoothing=0.1) for i in range(3)) / 3
    torch.testing.assert_close(joint_loss(logits, labels, 0.1), slow)
    torch.testing.assert_close(joint_loss(logits[:, 0], labels), F.cross_entropy(logits[:, 0], labels))


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


def test_averaging_copies_whole_numbers(dolls):
    """A counter or an index that is averaged like a weight would be rounded down to a neighbour."""
    rdn = to_rdn(network(), 2, select="identity")
    rdn.register_buffer("index", torch.arange(1000, 1100))
    train(rdn, dolls, Recipe(epochs=2, lr=0.01, size=16, batch_size=32, ema_horizon=0.5), progress=False)
    assert torch.equal(rdn.index, torch.arange(1000, 1100))
    counted = [value for name, value in rdn.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(value) for value in counted} == {2 * (len(dolls) // 32)}


def test_same_seed_same_numbers_and_another_seed_others(dolls):
    histories = []
    for seed in (1, 1, 2):
        histories.append(train(network(), dolls, RECIPE, seed=seed, progress=False)["loss"].tolist())
    assert histories[0] == histories[1] != histories[2]


def test_training_learns():
    """Ten shades of grey: a net that trains at all tells them apart far better than chance (10 %)."""
    labels = np.arange(320) % 10
    noise = np.random.default_rng(0).integers(0, 12, (320, 3, 16, 16))
    images = datasets.ImageSet(
        (20 * labels[:, None, None, None] + noise).astype(np.uint8), labels, np.arange(320),
        np.zeros(320, np.float32), tuple("abcdefghij"),
    )  # fmt: skip
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    history = train(net, images, Recipe(epochs=10, lr=0.1, size=16, batch_size=32), progress=False)
    assert history["accuracy"].iloc[-1] > 0.4


def test_training_leaves_the_processors_arithmetic_alone(dolls):
    train(network(), dolls, Recipe(epochs=1, lr=0.01, size=16, batch_size=32), progress=False)
    assert torch.tensor([1e-40]).mul(1.0).item() > 0  # a denormal number


def test_too_few_images_and_bad_recipes_are_refused(dolls):
    with pytest.raises(DataError, match="do not fill one batch"):
        train(network(), dolls.take(np.arange(8)), RECIPE, progress=False)
    with pytest.raises(ConfigError, match="learning rate"):
        Recipe(epochs=1, lr=math.nan, size=16)
    with pytest.raises(ConfigError, match="epochs"):
        Recipe(epochs=0, lr=0.1, size=16)


def test_reestimated_norms_are_the_statistics_of_the_batches():
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    batches = [torch.randn(8, 3, 5, 5) for _ in range(3)]
    reestimate_norms(net, batches)
    means = torch.stack([net[0](batch).mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(net[1].running_mean, means, rtol=1e-4, atol=1e-5)
    assert net[1].momentum == 0.1
    assert not net.training


def test_in_place_distillation_is_the_mean_of_what_each_subnetwork_is_told():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3, 4, requires_grad=True), torch.randint(0, 4, (5,))
    teacher = torch.randn(5, 4)
    for given in (None, teacher):
        told = (logits[:, -1].detach() if given is None else given).softmax(dim=1)
        slow = F.cross_entropy(logits[:, 2], labels, label_smoothing=0.1)
        for i in (0, 1):
            slow = slow + 0.7 * F.cross_entropy(logits[:, i], labels, label_smoothing=0.1)
            slow = slow - 0.3 * (told * logits[:, i].log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(joint_loss(logits, labels, 0.1, distill=0.3, teacher=given), slow / 3)
    joint_loss(logits, labels, distill=1.0).backward()
    alone = torch.autograd.grad(F.cross_entropy(logits[:, 2], labels) / 3, logits)[0]
    torch.testing.assert_close(logits.grad[:, 2], alone[:, 2])  # the teacher learns from the labels alone


@pytest.mark.parametrize("teacher", ["largest", "average"])
def test_distilled_training_changes_the_smaller_subnetworks(dolls, teacher):
    losses = []
    for distill in (0.0, 0.5):
        rdn = to_rdn(network(), 2, select="identity")
        recipe = Recipe(epochs=1, lr=0.01, size=16, batch_size=32, distill=distill, teacher=teacher)
        losses.append(train(rdn, dolls, recipe, progress=False)["loss"].item())
    assert math.isfinite(losses[1])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("wrong", [{"distill": -0.1}, {"distill": 1.5}, {"distill": math.nan}, {"teacher": "nobody"}])
def test_distillation_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        Recipe(epochs=1, lr=0.1, size=16, **wrong)
