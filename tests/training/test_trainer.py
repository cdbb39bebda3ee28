"""Training: what comes out of a run, and what it leaves alone."""

import math

import numpy as np
import pytest
import torch
from support import shared_run
from torch import nn

from rdnlib import to_rdn
from rdnlib.data import datasets
from rdnlib.errors import ConfigError, DataError
from rdnlib.models import mobilenext
from rdnlib.training.recipe import Recipe
from rdnlib.training.trainer import train

RECIPE = Recipe(epochs=3, lr=0.05, size=16, batch_size=32, crop_scale=(0.8, 1.0))


@pytest.fixture(scope="module")
def dolls():
    return datasets.load("dolls", size=16, train=120, validation=20).train


def network(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return mobilenext(width_mult=0.1, num_classes=10, stem_stride=1)


def test_averaging_copies_whole_numbers(dolls):
    """A counter or an index that is averaged like a weight would be rounded down to a neighbour."""
    rdn = to_rdn(network(), 2, select="identity")
    rdn.register_buffer("index", torch.arange(1000, 1100))
    train(rdn, dolls, Recipe(epochs=2, lr=0.01, size=16, batch_size=32, ema_horizon=0.5), progress=False)
    assert torch.equal(rdn.index, torch.arange(1000, 1100))
    counted = [value for name, value in rdn.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(value) for value in counted} == {2 * (len(dolls) // 32)}


@pytest.mark.slow
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


def test_too_few_images_are_refused(dolls):
    with pytest.raises(DataError, match="do not fill one batch"):
        train(network(), dolls.take(np.arange(8)), RECIPE, progress=False)


def test_the_recipes_momentum_is_that_of_every_batch_norm(dolls):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4),
        nn.Linear(4, 10),
    )  # fmt: skip
    train(net, dolls, Recipe(epochs=1, lr=0.01, size=16, batch_size=32, bn_momentum=0.5), progress=False)
    assert (net[1].momentum, net[4].momentum) == (0.5, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["largest", "average", "supernet"])
@pytest.mark.parametrize("whole", [False, True], ids=["RDN", "base"])
def test_distilled_training_changes_the_networks(dolls, teacher, whole):
    if whole and teacher == "largest":
        pytest.skip("a base has no smaller sub-networks that it could teach")
    losses, supernet = [], network(1)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    for distill in (0.0, 0.5):
        student = network() if whole else to_rdn(network(), 2, select="identity")
        recipe = Recipe(epochs=1, lr=0.01, size=16, batch_size=32, distill=distill, teacher=teacher)
        losses.append(train(student, dolls, recipe, teacher=supernet, progress=False)["loss"].item())
    assert math.isfinite(losses[1])
    assert losses[0] != losses[1]
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_a_supernet_as_teacher_must_be_there(dolls):
    recipe = Recipe(epochs=1, lr=0.01, size=16, batch_size=32, distill=0.5, teacher="supernet")
    with pytest.raises(ConfigError, match="the recipe's teacher is the super-net"):
        train(network(), dolls, recipe, progress=False)


class Three(nn.Module):
    """Says 3 whatever it sees."""

    def forward(self, x):
        return 9 * nn.functional.one_hot(torch.full((len(x),), 3), 10).float()


def test_every_subnetwork_learns_what_the_teacher_says(dolls):
    rdn = to_rdn(network(), 2, select="identity")
    recipe = Recipe(epochs=4, lr=0.05, size=16, batch_size=32, distill=1.0, teacher="supernet")
    train(rdn, dolls, recipe, teacher=Three(), progress=False)
    says = rdn(torch.from_numpy(dolls.images[:50]).float()).argmax(dim=-1)
    assert (says == 3).all()


def test_n_k_is_left_alone_where_the_recipe_says_so(dolls):
    """Where only N_K's loss counts, a teacher of the smaller ones changes nothing, and a teacher of all does."""
    trained = []
    for taught in ({}, {"distill": 1.0, "teach_largest": False}, {"distill": 1.0}):
        trained.append(to_rdn(network(), 2, select="identity"))
        recipe = Recipe(epochs=1, lr=0.01, size=16, batch_size=32, teacher="supernet", largest=1.0, **taught)
        train(trained[-1], dolls, recipe, teacher=Three(), progress=False)
    none, smaller, everyone = (torch.cat([w.flatten() for w in rdn.parameters()]) for rdn in trained)
    torch.testing.assert_close(none, smaller)
    assert not torch.allclose(none, everyone)


def test_bf16_trains_in_bf16_and_keeps_float32_weights(dolls):
    dtypes, rdn = set(), to_rdn(shared_run.network(classes=10), 2, select="identity")
    rdn.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    history = train(rdn, dolls, Recipe(epochs=1, lr=0.01, size=16, batch_size=32, precision="bf16"), progress=False)
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in rdn.parameters()} == {torch.float32}
    assert np.isfinite(history["loss"]).all()
    assert history["waiting"].between(0, 1).all()


@pytest.mark.slow
def test_a_compiled_network_is_what_trains(dolls, monkeypatch):
    """`compile` changes who computes, not what: an interpreter in place of the compiler gives the same numbers."""
    compile, compiled = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda net: (compiled.append(net), compile(net, backend="eager"))[1])
    trained = []
    for wanted in (False, True):
        trained.append(to_rdn(shared_run.network(classes=10), 2, select="identity"))
        train(trained[-1], dolls, Recipe(epochs=1, lr=0.01, size=16, batch_size=32, compile=wanted), progress=False)
    assert compiled == [trained[1]]
    for plain, other in zip(*(net.state_dict().values() for net in trained), strict=True):
        torch.testing.assert_close(plain, other)
