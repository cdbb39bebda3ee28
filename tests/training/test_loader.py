"""Batches: the same whoever reads them, in how many parts and from where on; photographs that vanish."""

import numpy as np
import pytest
import torch
from support import shared_run

from rdnlib.data import datasets
from rdnlib.errors import DataError
from rdnlib.training.loader import WaitTimer, epoch_parts, read
from rdnlib.training.recipe import Recipe
from rdnlib.training.trainer import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shared_run.write_photographs(tmp_path_factory.mktemp("photographs"))


def stream(images, *, skip=0, **options):
    recipe = Recipe(epochs=1, lr=0.1, size=12, batch_size=8, **options)
    return list(epoch_parts(images, recipe, seed=3, skip=skip, timer=WaitTimer()))


def test_workers_parts_and_skipping_change_no_batch(folder, monkeypatch):
    images = shared_run.photographs(folder).train
    found = {}
    for workers in ("0", "1", "2"):
        monkeypatch.setenv("RDN_WORKERS", workers)
        before = torch.get_rng_state()
        found[workers] = stream(images)
        assert torch.equal(before, torch.get_rng_state())  # what dropout draws is nobody else's
    cached = datasets.load(
        "imagenet", root=folder / "photographs", size=16, calibration=0.2, cache=folder / "cache"
    ).train
    found["cached"] = stream(cached)
    for other in found.values():
        assert len(other) == len(images) // 8
        for (one, labels), (two, their_labels) in zip(found["0"], other, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(labels, their_labels)
    for (one, labels), (two, their_labels) in zip(found["0"][4:], stream(images, skip=4), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(labels, their_labels)
    halves = stream(images, parts=2)
    for index, (one, _) in enumerate(found["0"]):
        assert torch.equal(one[0::2], halves[2 * index][0])
        assert torch.equal(one[1::2], halves[2 * index + 1][0])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_photographs_that_vanish_end_a_run_in_one_line_and_it_goes_on_when_they_are_back(
    folder, tmp_path, monkeypatch, workers
):
    monkeypatch.setenv("RDN_WORKERS", workers)
    monkeypatch.setenv("RDN_SAVE_MINUTES", "0")
    images, recipe, path = shared_run.photographs(folder).train, Recipe(**shared_run.RECIPE), tmp_path / "r.safetensors"
    whole = shared_run.network()
    expected = train(whole, images, recipe, progress=False)
    victim = images.images.split / images.images.names[5]
    image = victim.read_bytes()
    victim.unlink()
    try:
        with pytest.raises(DataError, match=r"^cannot read the image .*JPEG.*: replace or remove it$") as error:
            train(shared_run.network(), images, recipe, resume=path, progress=False)
    finally:
        victim.write_bytes(image)
    assert "\n" not in str(error.value)
    model = shared_run.network(seed=1)
    history = train(model, images, recipe, resume=path, progress=False)
    assert history["loss"].tolist() == expected["loss"].tolist()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


def test_read_gives_what_is_asked_for_in_order(folder, monkeypatch):
    monkeypatch.setenv("RDN_WORKERS", "2")
    images = shared_run.photographs(folder).validation
    wanted = [np.array([4, 9]), slice(0, 3), np.array([22])]
    for piece, rows in zip(read(images, wanted), wanted, strict=True):
        assert np.array_equal(piece.numpy(), images.images[rows])
