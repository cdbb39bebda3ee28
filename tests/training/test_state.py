"""A run that is stopped at any moment goes on to the numbers of an uninterrupted one; what goes wrong leaves its state."""

import errno
import os
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import shared_run
from torch import nn

from rdnlib import to_rdn
from rdnlib.data import datasets
from rdnlib.errors import CheckpointError, ConfigError, DivergedError, StorageError
from rdnlib.training import trainer
from rdnlib.training.recipe import Recipe
from rdnlib.training.state import TrainState
from rdnlib.training.trainer import train
from rdnlib.utils import files

RECIPE = {"epochs": 3, "lr": 0.05, "size": 16, "batch_size": 16, "crop_scale": (0.8, 1.0)}


@pytest.fixture(scope="module")
def dolls():
    return datasets.load("dolls", size=16, train=120, validation=20).train  # 108: six batches an epoch


def network(dropout: bool = False) -> nn.Module:
    return shared_run.network(dropout=dropout, classes=10)


def nested() -> nn.Module:
    return to_rdn(network(), 2, select="random")


class Killed(Exception):
    pass


def dying(monkeypatch, module, name, after):
    """Let the function (or generator of parts) raise Killed at its call (or part) number `after`, counted from now on."""
    whole, calls = getattr(module, name), count()

    def parts(*arguments, **options):
        for part in whole(*arguments, **options):
            if next(calls) == after:
                raise Killed
            yield part

    monkeypatch.setattr(module, name, parts)


CASES = {
    "base": (network, {}),
    "RDN with a teacher": (nested, {"distill": 0.5, "teacher": "supernet"}),
    "RDN with its average as teacher": (nested, {"distill": 0.5, "teacher": "average"}),
    "dropout": (partial(network, dropout=True), {}),
    "in parts": (nested, {"parts": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_anywhere_goes_on_to_the_same_numbers(dolls, tmp_path, monkeypatch, case):
    """Stopped at drawn batches, with a state at drawn moments: bit for bit the same weights, statistics and history."""
    start, options = CASES[case]
    recipe = Recipe(**RECIPE | {"epochs": 2}, **options)
    whole = start()
    expected = train(whole, dolls, recipe, seed=5, teacher=network(), progress=False)
    draw, path, stops = np.random.default_rng(3), tmp_path / "resume.safetensors", 0
    monkeypatch.setattr(TrainState, "due", lambda self: draw.random() < 0.4)
    history = None
    while history is None:
        with monkeypatch.context() as patch:
            if stops < 4:
                dying(patch, trainer, "epoch_parts", draw.integers(1, 9))
            resumed = start()
            torch.manual_seed(draw.integers(1000))  # a new process starts with other generators
            try:
                history = train(resumed, dolls, recipe, seed=5, teacher=network(), resume=path, progress=False)
            except Killed:
                stops += 1
    assert stops >= 2
    for column in expected.columns.drop(["seconds", "waiting"]):
        assert history[column].tolist() == expected[column].tolist(), column
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not list(tmp_path.iterdir())


def test_within_an_epoch_a_state_is_left_whenever_the_time_is_up(dolls, tmp_path, monkeypatch):
    steps, save = [], TrainState.save
    monkeypatch.setattr(TrainState, "save", lambda self, progress: (steps.append(progress.step), save(self, progress)))
    for minutes, expected in (("0", [1, 2, 3, 4, 5, 0]), ("60", [0])):
        steps.clear()
        monkeypatch.setenv("RDN_SAVE_MINUTES", minutes)
        train(network(), dolls, Recipe(**RECIPE | {"epochs": 1}), resume=tmp_path / "r.safetensors", progress=False)
        assert steps == expected
    monkeypatch.setenv("RDN_SAVE_MINUTES", "soon")
    with pytest.raises(ConfigError, match="RDN_SAVE_MINUTES must be a number of at least 0, not 'soon'"):
        train(network(), dolls, Recipe(**RECIPE), progress=False)


def test_a_damaged_state_is_named(dolls, tmp_path):
    path = tmp_path / "resume.safetensors"
    files.write_tensors(path, {"model.x": torch.zeros(1)}, {"progress": "{}", "processes": "1"})
    for damaged in (b"not a checkpoint", path.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"^cannot go on from resume\.safetensors.*delete it") as error:
            train(network(), dolls, Recipe(**RECIPE), resume=path, progress=False)
        assert "\n" not in str(error.value)


def test_a_state_of_another_number_of_processes_is_refused(dolls, tmp_path):
    path = tmp_path / "resume.safetensors"
    files.write_tensors(path, {"model.x": torch.zeros(1)}, {"progress": "{}", "processes": "8"})
    with pytest.raises(CheckpointError, match="left by 8 processes and this run has 1: start as many"):
        train(network(), dolls, Recipe(**RECIPE), resume=path, progress=False)


class Bomb(nn.Module):
    """Its outputs, or with `gradients` only their gradients, are NaN from some call on."""

    def __init__(self, calls: int, gradients: bool = False):
        super().__init__()
        self.net, self.left, self.gradients = network(), calls, gradients

    def forward(self, x):
        self.left -= 1
        y = self.net(x)
        if self.left >= 0:
            return y
        if self.gradients and y.requires_grad:
            y.register_hook(lambda gradient: gradient * float("nan"))
            return y
        return y * float("nan")


@pytest.mark.parametrize("gradients", [False, True])
def test_divergence_stops_at_once_and_keeps_a_sound_state(dolls, tmp_path, monkeypatch, gradients):
    monkeypatch.setenv("RDN_SAVE_MINUTES", "0")
    path, bomb = tmp_path / "resume.safetensors", Bomb(9, gradients)
    with pytest.raises(
        DivergedError, match=r"epoch 2 at lr=0.05 \(batch 4\); use a smaller lr .* state before is kept"
    ):
        train(bomb, dolls, Recipe(**RECIPE), resume=path, progress=False)
    assert all(torch.isfinite(value).all() for value in load_file(path).values())
    sound = Bomb(1000)
    assert len(train(sound, dolls, Recipe(**RECIPE), resume=path, progress=False)) == 3


class Loud(nn.Module):
    """Logits so large that every wrong answer costs a fortune: finite, but hopeless."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return 1e4 * self.net(x)


def test_a_hopeless_loss_stops_too(dolls, tmp_path):
    guessing = f"{np.log(len(dolls.classes)):.2f}"
    with pytest.raises(DivergedError, match=rf"the loss is \S+, and guessing gives {guessing}, in epoch 1 at lr=0.05"):
        train(Loud(), dolls, Recipe(**RECIPE), resume=tmp_path / "resume.safetensors", progress=False)


def no_room(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*arguments, **options):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    ("where", "fails", "message"),
    [
        ("rdnlib.utils.files.Path.write_bytes", no_room, r"no space left on device\): make room, then start again"),
        (
            "rdnlib.utils.files.tempfile.mkstemp",
            read_only,
            r"read-only file system\): choose a folder that you may write to",
        ),
    ],
)
def test_what_cannot_be_written_leaves_the_last_state(dolls, tmp_path, monkeypatch, where, fails, message):
    recipe, path = Recipe(**RECIPE), tmp_path / "resume.safetensors"
    whole = network()
    train(whole, dolls, recipe, progress=False)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, trainer, "epoch_parts", 7)
        train(network(), dolls, recipe, resume=path, progress=False)
    left = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=message) as error:
        patch.setattr(where, fails)
        train(network(), dolls, recipe, resume=path, progress=False)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == left
    assert list(tmp_path.iterdir()) == [path]
    resumed = network()
    train(resumed, dolls, recipe, resume=path, progress=False)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
