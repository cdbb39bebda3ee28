"""Two processes do what one does: the same weights after 20 steps, the same outputs for every image, one set of files.

They are started by torchrun, on the CPU, with photographs in ImageNet's layout that are decoded by workers.
"""

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support import shared_run

from rdnlib import to_rdn
from rdnlib.data import datasets
from rdnlib.errors import ConfigError, DataError
from rdnlib.training.batchnorm import SharedStatistics
from rdnlib.training.evaluate import evaluate
from rdnlib.training.loader import Waiting, epoch_parts, read
from rdnlib.training.recipe import Recipe
from rdnlib.training.trainer import train
from rdnlib.utils import devices

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RDN_WORKERS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """4 classes of 27 images to train on (25 of them in 108 → 86 left after calibration) and 23 to validate on."""
    root, draw = tmp_path_factory.mktemp("shared"), np.random.default_rng(0)
    for split, count in (("train", 26), ("val", 6)):
        for label in range(4):
            place = root / "photographs" / split / f"n{label:08d}"
            place.mkdir(parents=True)
            for index in range(count - (split == "val" and label == 0)):
                pixels = draw.integers(0, 60, (20, 24, 3)) + 45 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.JPEG")
    return root


@pytest.fixture(scope="module")
def together(folder) -> Path:
    """The folder after two processes have worked there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ran = subprocess.run(
        [*command, shared_run.__file__, str(folder)], capture_output=True, text=True, timeout=300, env=ENVIRONMENT
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


def same(folder: Path, first: str, second: str, tolerance: float = 1e-5) -> None:
    one, two = load_file(folder / f"{first}.safetensors"), load_file(folder / f"{second}.safetensors")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    tables = [pd.read_csv(folder / f"{name}.csv") for name in (first, second)]
    pd.testing.assert_frame_equal(*tables, rtol=tolerance, atol=tolerance)
    start = shared_run.network().state_dict()
    assert any((one[name] - start[name]).abs().max() > 100 * tolerance for name in one), (
        "a test of no step shows nothing"
    )


@pytest.mark.parametrize("way", shared_run.WAYS)
def test_two_processes_equal_one_after_twenty_steps(together, way):
    assert 2 * (len(shared_run.photographs(together).train) // 8) == shared_run.STEPS
    shared_run.trained(together, "alone", **shared_run.WAYS[way])
    same(together, f"shared {way}", "alone")


def test_a_shared_run_that_was_stopped_goes_on_to_the_same_numbers(together):
    same(together, "resumed", "shared two parts", 0)
    assert not (together / "resume.safetensors").exists()


def test_shared_evaluation_sees_every_image_once_and_in_order(together):
    model = shared_run.network()
    model.load_state_dict(load_file(together / "shared two common parts.safetensors"))
    images = shared_run.photographs(together).validation
    alone = evaluate(model, images, size=16, batch_size=3)
    assert len(images) == len(alone.top1) == 23
    for process in range(2):
        shared = torch.load(together / f"outputs-{process}.pt")
        for name, values in shared.items():
            assert np.array_equal(values.numpy(), getattr(alone, name)), name


def test_shared_experiments_leave_the_files_of_one(together):
    left = {path.name.rpartition("-")[0]: path for path in (together / "out" / "experiments").glob("[!.]*")}
    assert set(left) == {"base", "rdn-copy", "policy-copy"}
    kept = {"config.json", "result.json", "samples.parquet", "model.json", "model.safetensors"}
    assert {file.name for file in left["base"].iterdir()} == kept | {"history.csv"}
    splits = shared_run.photographs(together)
    for name, wanted in (
        ("rdn-copy", ["calibration", "validation"]),
        ("policy-copy", ["train", "calibration", "validation"]),
    ):
        samples = pd.read_parquet(left[name] / "samples.parquet")
        assert kept <= {file.name for file in left[name].iterdir()}
        assert list(samples["split"].unique()) == wanted
        for split in wanted:
            assert np.array_equal(samples.loc[samples["split"] == split, "id"], getattr(splits, split).ids)


def test_batches_that_cannot_be_cut_or_shared_are_refused():
    for options in ({"batch_size": 9, "parts": 2}, {"batch_size": 4, "parts": 4}, {"parts": 0}):
        with pytest.raises(ConfigError, match=r"cannot be cut into \d equal parts of at least 2"):
            Recipe(epochs=1, lr=0.1, size=16, **options)
    for options in ({}, {"parts": 8}, {"sync_bn": True, "batch_size": 64}):
        with pytest.raises(ConfigError, match=r"3 processes cannot share a batch of \d+ in \d parts equally"):
            Recipe(epochs=1, lr=0.1, size=16, **options).own_rows(0, 3)


@pytest.mark.parametrize("sync_bn", [False, True])
@pytest.mark.parametrize(("parts", "processes"), [(1, 1), (4, 1), (4, 2), (4, 4)])
def test_every_row_of_a_batch_belongs_to_one_part_of_one_process(parts, processes, sync_bn):
    recipe = Recipe(epochs=1, lr=0.1, size=16, batch_size=48, parts=parts, sync_bn=sync_bn)
    shares = [[list(range(48))[rows] for rows in recipe.own_rows(process, processes)] for process in range(processes)]
    assert sorted(row for share in shares for rows in share for row in rows) == list(range(48))
    assert len({len(rows) for share in shares for rows in share}) == 1
    if sync_bn:  # the processes' shares of a part make up the part
        together = [sorted(chain(*rows)) for rows in zip(*shares, strict=True)]
    else:
        together = sorted(rows for share in shares for rows in share)
    assert together == [list(range(part, 48, parts)) for part in range(parts)]


def gradient_of_parts(model, batch, labels, parts):
    """The definition: every part alone, the mean of gradients and of running statistics."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states, model = [], model.train()
    for part in range(parts):
        model.load_state_dict(before)
        (torch.nn.functional.cross_entropy(model(batch[part::parts]), labels[part::parts]) / parts).backward()
        states.append({name: value.clone() for name, value in model.state_dict().items() if "running" in name})
    return {name: sum(state[name] for state in states) / parts for name in states[0]}


def test_parts_move_the_statistics_once_by_their_mean(images):
    labels, slow, fast = torch.arange(12) % 4, shared_run.network(), shared_run.network()
    expected = gradient_of_parts(slow, images, labels, 3)
    norms = SharedStatistics(fast.train(), 3)
    with norms.batch():
        for part in range(3):
            with norms.part():
                loss = torch.nn.functional.cross_entropy(fast(images[part::3]), labels[part::3])
                (loss / 3).backward()
    for name, value in expected.items():
        torch.testing.assert_close(fast.state_dict()[name], value)
    for one, two in zip(slow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    assert {int(value) for name, value in fast.named_buffers() if "tracked" in name} == {1}


def stream(images, *, skip=0, **options):
    recipe = Recipe(epochs=1, lr=0.1, size=12, batch_size=8, **options)
    return list(epoch_parts(images, recipe, seed=3, skip=skip, waiting=Waiting()))


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


def test_bf16_trains_in_bf16_and_keeps_float32_weights(folder, monkeypatch):
    monkeypatch.setenv("RDN_WORKERS", "0")
    seen, model = set(), to_rdn(shared_run.network(), 2, select="identity")
    model.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    history = train(
        model, shared_run.photographs(folder).train, Recipe(**shared_run.RECIPE, precision="bf16"), progress=False
    )
    assert seen == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert np.isfinite(history["loss"]).all()
    assert history["waiting"].between(0, 1).all()


def test_a_compiled_network_is_what_trains(folder, monkeypatch):
    """`compile` changes who computes, not what: an interpreter in place of the compiler gives the same numbers."""
    monkeypatch.setenv("RDN_WORKERS", "0")
    compile, asked = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda net: (asked.append(net), compile(net, backend="eager"))[1])
    images, ends = shared_run.photographs(folder).train, []
    for wanted in (False, True):
        ends.append(to_rdn(shared_run.network(), 2, select="identity"))
        train(ends[-1], images, Recipe(**shared_run.RECIPE | {"epochs": 1}, compile=wanted), progress=False)
    assert asked == [ends[1]]
    for one, two in zip(ends[0].state_dict().values(), ends[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)


def test_only_photographs_in_folders_can_stay_files():
    with pytest.raises(ConfigError, match="dolls is kept in memory"):
        datasets.load("dolls", cached=False)


def test_read_gives_what_is_asked_for_in_order(folder, monkeypatch):
    monkeypatch.setenv("RDN_WORKERS", "2")
    images = shared_run.photographs(folder).validation
    wanted = [np.array([4, 9]), slice(0, 3), np.array([22])]
    for piece, rows in zip(read(images, wanted), wanted, strict=True):
        assert np.array_equal(piece.numpy(), images.images[rows])
    assert devices.gathered([1]) == [1]
    assert devices.agreed("alone") == "alone"
