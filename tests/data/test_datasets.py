"""Data sets by name: held-out parts, the decoded cache, and one clear line for whatever is missing or damaged."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rdnlib.data import datasets, dolls, image_folder
from rdnlib.errors import ConfigError, DataError


def write_image(path, seed, size=(24, 18)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).save(path)


def write_tree(root, *, classes=("cat", "dog"), train=6, val=2, suffix=".png"):
    for split, count in (("train", train), ("val", val)):
        for number, name in enumerate(classes):
            for index in range(count):
                write_image(root / split / name / f"{index:03}{suffix}", 100 * number + index)
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "pictures")


@pytest.fixture
def load(tree, tmp_path):
    """Load the small tree; keyword arguments as for `data.load`."""
    return lambda **options: datasets.load(
        "folder", **({"root": tree, "cache": tmp_path / "cache", "size": 8} | options)
    )


def decodes(monkeypatch):
    """A list that grows by one path for every photograph that is decoded."""
    paths, decoded = [], image_folder._decoded
    monkeypatch.setattr(image_folder, "_decoded", lambda path, size: (paths.append(path), decoded(path, size))[1])
    return paths


# the embedded set, and what is held out


def test_dolls_are_the_drawn_images():
    splits = datasets.load("dolls", size=8, seed=3, train=100, validation=20)
    images, labels, difficulty = dolls.draw(100, size=8, seed=3)
    for part in (splits.train, splits.calibration):
        np.testing.assert_array_equal(part.images, images[part.ids])
        np.testing.assert_array_equal(part.labels, labels[part.ids])
        np.testing.assert_array_equal(part.difficulty, difficulty[part.ids])
        assert part.classes == dolls.CLASSES
    np.testing.assert_array_equal(splits.validation.images, dolls.draw(20, size=8, seed=3, split="validation")[0])
    assert (len(splits.train), len(splits.calibration), len(splits.validation)) == (90, 10, 20)
    torch.from_numpy(splits.train.images)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=8), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 99)
)
def test_a_stratified_choice_is_in_proportion_and_leaves_some_of_every_class(sizes, fraction, seed):
    sizes = np.array(sizes)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    count = min(round(fraction * len(labels)), len(labels) - len(sizes))
    chosen = datasets._stratified(labels, count, seed=seed, least=1)
    got = np.bincount(labels[chosen], minlength=len(sizes))
    assert len(chosen) == max(count, len(sizes)) == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all()
    assert (got >= 1).all() and (got < sizes).all()
    if count >= 2 * len(sizes):  # enough for proportion to rule: each class within a few images of its share
        assert (np.abs(got - count / len(labels) * sizes) <= 1 + len(sizes) / 2).all()


def test_held_out_images_depend_on_the_seed_not_on_the_size():
    small, large, other = (
        datasets.load("dolls", size=size, seed=seed, train=200, validation=10)
        for size, seed in ((8, 0), (12, 0), (8, 1))
    )
    np.testing.assert_array_equal(small.calibration.ids, large.calibration.ids)
    assert set(small.calibration.ids) != set(other.calibration.ids)
    np.testing.assert_array_equal(np.sort(np.r_[small.train.ids, small.calibration.ids]), np.arange(200))
    np.testing.assert_array_equal(np.bincount(small.calibration.labels), 2)


def test_nothing_is_held_out_when_asked():
    splits = datasets.load("dolls", size=8, train=50, validation=10, calibration=0)
    assert len(splits.train) == 50 and len(splits.calibration) == 0


def test_dolls_are_drawn_to_calibrate_on_beyond_those_to_train_on():
    alone, more = (datasets.load("dolls", size=8, train=50, validation=10, calibration=n) for n in (0, 30))
    np.testing.assert_array_equal(more.train.images, alone.train.images)
    np.testing.assert_array_equal(more.calibration.ids, np.arange(50, 80))
    np.testing.assert_array_equal(np.bincount(more.calibration.labels), 3)
    np.testing.assert_array_equal(more.validation.images, alone.validation.images)


def test_fingerprint_sees_ids_labels_and_pixels():
    def splits(change=None):
        loaded = datasets.load("dolls", size=8, train=40, validation=10)
        if change:
            value = getattr(loaded.calibration, change)
            value.reshape(-1)[0] += 1
        return loaded

    prints = [datasets.fingerprint(splits(change)) for change in (None, "ids", "labels", "images")]
    assert len(set(prints)) == 4
    assert prints[0] == datasets.fingerprint(splits())


# photographs in folders and their cache


def slow_square(path, size):
    """Crop first, then resize. One pass with a box also blends the pixels next to the crop: a grey level or two."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)


def test_folder_holds_the_right_image_for_every_id(load, tree):
    splits = load(calibration=0.3)
    for part, split in ((splits.train, "train"), (splits.calibration, "train"), (splits.validation, "val")):
        files = sorted((tree / split).rglob("*.png"))
        for image, label, index in zip(part.images, part.labels, part.ids, strict=True):
            assert np.abs(image.astype(int) - slow_square(files[index], 8)).max() <= 2
            assert files[index].parent.name == part.classes[label]
        assert np.isnan(part.difficulty).all() and part.images.dtype == np.uint8
    assert len(splits.calibration) == 4
    assert not set(splits.train.ids) & set(splits.calibration.ids)


def test_photographs_are_decoded_once(load, monkeypatch, tmp_path):
    seen = decodes(monkeypatch)
    first = load()
    assert len(seen) == 16
    second = load()
    assert len(seen) == 16
    assert datasets.fingerprint(first) == datasets.fingerprint(second)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".json", ".npy", ".npy"]


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "grown", "size"])
def test_the_cache_follows_the_files(load, tree, monkeypatch, change):
    load()
    seen = decodes(monkeypatch)
    path = tree / "train" / "cat" / "000.png"
    if change == "added":
        write_image(path.with_name("new.png"), 9)
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("zzz.png"))
    elif change == "grown":
        write_image(path, 9, (60, 40))
    load(size=10 if change == "size" else 8)
    assert len(seen) == {"added": 13, "removed": 11, "size": 16}.get(change, 12)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "junk", "note"])
def test_a_damaged_cache_is_made_again(load, tmp_path, monkeypatch, damage):
    expected = datasets.fingerprint(load())
    stored = next((tmp_path / "cache").glob("*train*.npy"))
    content = bytearray(stored.read_bytes())
    content[-100] ^= 255
    if damage == "note":
        stored.with_suffix(".json").write_text("{")
    else:
        damaged = {"truncate": content[: len(content) // 2], "flip": content, "empty": b"", "junk": b"junk" * 99}
        stored.write_bytes(damaged[damage])
    seen = decodes(monkeypatch)
    assert datasets.fingerprint(load()) == expected
    assert len(seen) == 12


def test_two_at_once_do_no_harm(load):
    with ThreadPoolExecutor(4) as pool:
        prints = {datasets.fingerprint(splits) for splits in pool.map(lambda _: load(), range(4))}
    assert prints == {datasets.fingerprint(load())}


def test_changing_loaded_images_leaves_the_cache_alone(load):
    expected = datasets.fingerprint(load())
    load().validation.images[:] = 0
    assert datasets.fingerprint(load()) == expected


def test_a_damaged_image_is_named_and_leaves_nothing_behind(load, tree, tmp_path):
    path = tree / "train" / "dog" / "003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"003\.png"):
        load()
    assert not list((tmp_path / "cache").iterdir())


def test_every_colour_mode_becomes_rgb(load, tree):
    for index, mode in enumerate(("L", "RGBA", "P", "CMYK")):
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.new("RGB", (20, 20), (10, 200, 30)).convert(mode).save(tree / "val" / "cat" / f"{index}{mode}.{suffix}")
    assert load().validation.images.shape == (8, 3, 8, 8)


def test_a_cap_is_stratified_and_decodes_only_what_it_needs(load, monkeypatch):
    seen = decodes(monkeypatch)
    splits = load(train=6, validation=2, calibration=0.34)
    assert len(seen) == 8
    np.testing.assert_array_equal(np.bincount(np.r_[splits.train.labels, splits.calibration.labels]), 3)
    np.testing.assert_array_equal(np.bincount(splits.validation.labels), 1)
    everything = len(load(calibration=0).train)
    assert len(load(calibration=2).calibration) == 2
    assert len(load(calibration=1000).calibration) == max(2, round(everything / 5))  # and never more of photographs
    full = load(calibration=0).train
    np.testing.assert_array_equal(splits.train.images, full.images[splits.train.ids])


def test_a_large_part_of_a_memmap_is_read_lazily(load, monkeypatch):
    expected = load()
    monkeypatch.setattr(image_folder, "_IN_MEMORY", 100)
    splits = load()
    assert isinstance(splits.train.images, image_folder.Rows)
    assert splits.train.images.shape == expected.train.images.shape
    np.testing.assert_array_equal(splits.train.images[[3, 1]], expected.train.images[[3, 1]])
    np.testing.assert_array_equal(splits.train.images[:], expected.train.images)
    assert datasets.fingerprint(splits) == datasets.fingerprint(expected)


# everything that can be missing or wrong


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnist"}, "unknown data set 'mnist'.*dolls, imagenette"),
        ({"size": 4}, "image size"),
        ({"size": 5000}, "image size"),
        ({"calibration": 1.5}, "calibration"),
        ({"calibration": 1.0}, "calibration"),
        ({"calibration": -0.1}, "calibration"),
        ({"calibration": float("nan")}, "calibration"),
        ({"seed": -1}, "seed"),
        ({"train": 19}, "train must be at least 20 images"),
        ({"validation": 0}, "validation must be at least 10 images"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ConfigError, match=message) as error:
        datasets.load(**({"name": "dolls", "size": 8} | options))
    assert one_line(error)


@pytest.mark.parametrize("name", [name for name in datasets.names() if name != "dolls"])
@pytest.mark.parametrize("root", [None, "nowhere", "empty"])
def test_missing_photographs(name, root, tmp_path):
    (tmp_path / "empty").mkdir()
    where = None if root is None else tmp_path / root
    with pytest.raises(DataError, match="data root" if root is None else str(where)) as error:
        datasets.load(name, root=where, cache=tmp_path / "cache")
    assert one_line(error)
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_downloaded_says_so(tmp_path):
    for name in ("imagenet", "folder"):
        with pytest.raises(ConfigError, match="download"):
            datasets.load(name, root=tmp_path, download=True)


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr("torchvision.datasets.imagenette.download_and_extract_archive", offline)
    with pytest.raises(DataError, match=r"cannot download imagenette.*unreachable") as error:
        datasets.load("imagenette", root=tmp_path, download=True)
    assert one_line(error)


def remove_class_folder(tree):
    for path in (tree / "val" / "dog").iterdir():
        path.unlink()
    (tree / "val" / "dog").rmdir()


def leave(count):
    def change(tree):
        for path in sorted((tree / "train" / "dog").iterdir())[count:]:
            path.unlink()

    return change


def remove_images(tree):
    for path in (tree / "val").rglob("*.png"):
        path.rename(path.with_suffix(".txt"))


def remove_split(tree):
    (tree / "val").rename(tree / "test")


def remove_train(tree):
    (tree / "train").rename(tree / "training")


def flatten(tree):
    for path in (tree / "val").rglob("*.png"):
        path.rename(tree / "val" / f"{path.parent.name}-{path.name}")
    for folder in (tree / "val" / "cat", tree / "val" / "dog"):
        folder.rmdir()


def spoil(tree):
    (tree / "train" / "dog" / "003.png").write_text("not an image")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_split, "no folder .*val"),
        (remove_images, "holds no images"),
        (remove_class_folder, "class dog is in one of"),
        (leave(0), "class dog has no train images: add at least one"),
        (remove_train, r"no folder .*train: expected .*train/<class>/… and .*val/<class>/…"),
        (flatten, "val cannot be used \\(no class folders\\): expected"),
        (spoil, r"cannot read the image .*003\.png.*: replace or remove it"),
    ],
)
def test_a_folder_that_is_not_a_data_set(load, tree, change, message):
    change(tree)
    with pytest.raises(DataError, match=message) as error:
        load()
    assert one_line(error)


def test_five_images_suffice(tmp_path):
    """One of each class to train on and one to validate on, and one more to calibrate on."""
    for index, name in enumerate(("train/cat/a", "train/cat/b", "train/dog/a", "val/cat/a", "val/dog/a")):
        write_image(tmp_path / f"{name}.png", index)
    for cached in (True, False):
        splits = datasets.load("folder", root=tmp_path, size=8, cache=tmp_path / "cache", cached=cached)
        assert [len(part) for part in (splits.train, splits.calibration, splits.validation)] == [2, 1, 2]
        assert splits.train.labels.tolist() == [0, 1]
        assert splits.calibration.classes == ("cat", "dog")
        assert splits.train.images[:].shape == (2, 3, 8, 8)
    (tmp_path / "train/cat/b.png").unlink()
    with pytest.raises(DataError, match="none can be held out for calibration: add one") as error:
        datasets.load("folder", root=tmp_path, size=8, cache=tmp_path / "cache")
    assert one_line(error)
    assert len(datasets.load("folder", root=tmp_path, size=8, cache=tmp_path / "cache", calibration=0).train) == 2


def test_a_cap_too_small_for_the_classes(load):
    with pytest.raises(ConfigError, match="train must be at least 4 images"):
        load(train=3)


def test_a_cache_that_cannot_be_written(load, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write the image cache") as error:
        load(cache=tmp_path / "file")
    assert one_line(error)


# torchvision's layouts


@pytest.mark.parametrize("inner", [".", "imagenette2-160", "imagenette2-320", "imagenette2"])
def test_imagenette_layouts(tmp_path, inner):
    write_tree(tmp_path / inner, classes=("n01440764", "n02102040"))
    splits = datasets.load("imagenette", root=tmp_path, size=8, cache=tmp_path / "cache")
    assert splits.train.classes == ("tench", "English springer")


@pytest.mark.parametrize(("size", "inner"), [(64, "imagenette2-160"), (160, "imagenette2-160"), (200, "imagenette2")])
def test_imagenette_takes_the_smallest_copy_that_is_large_enough(tmp_path, size, inner):
    for count, name in ((6, "imagenette2-160"), (7, "imagenette2")):
        write_tree(tmp_path / name, train=count)
    splits = datasets.load("imagenette", root=tmp_path, size=size, calibration=0, cache=tmp_path / "cache")
    assert len(splits.train) == (12 if inner == "imagenette2-160" else 14)


def test_imagenet_of_class_folders(tmp_path):
    write_tree(tmp_path, classes=("n01440764", "n02102040"))
    assert len(datasets.load("imagenet", root=tmp_path, size=8, cache=tmp_path / "cache").validation) == 4


def write_cifar(root, monkeypatch, per_batch=20):
    """CIFAR-10's files with a few random images; torchvision's checksums are set aside."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for index, name in enumerate(
        ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
    ):
        pixels = np.random.default_rng(index).integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [number % 10 for number in range(per_batch)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return folder


def test_cifar_images_keep_their_pixels_and_are_resized_when_asked(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    splits = datasets.load("cifar10", root=tmp_path, size=32, calibration=0)
    first = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8).reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(splits.train.images[:20], first)
    assert (len(splits.train), len(splits.validation)) == (100, 20) and splits.train.classes[3] == "class 3"
    small = datasets.load("cifar10", root=tmp_path, size=16, calibration=0, train=30).train
    assert small.images.shape == (30, 3, 16, 16) and small.images.dtype == np.uint8
    coarse = splits.train.images[small.ids].reshape(30, 3, 16, 2, 16, 2).mean((3, 5))
    assert np.abs(small.images - coarse).mean() < 20  # noise of standard deviation 37 were they unrelated


@pytest.mark.photographs
def test_real_photographs(tmp_path):
    if "RDN_DATA_ROOT" not in os.environ:
        pytest.skip("set RDN_DATA_ROOT to a folder that holds imagenette2-160/ to test real photographs")
    root = Path(os.environ["RDN_DATA_ROOT"])
    splits = datasets.load("imagenette", root=root, size=32, train=100, validation=50, cache=tmp_path)
    assert splits.train.classes == (
        "tench",
        "English springer",
        "cassette player",
        "chain saw",
        "church",
        "French horn",
        "garbage truck",
        "gas pump",
        "golf ball",
        "parachute",
    )
    assert (len(splits.train), len(splits.calibration), len(splits.validation)) == (90, 10, 50)
    assert splits.train.images.std() > 30 and len(np.unique(splits.train.images, axis=0)) == 90


def test_large_draws_are_kept_and_a_damaged_copy_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_CACHED_BYTES", 1000)
    options = {"size": 16, "train": 40, "validation": 20, "cache": tmp_path}
    first = datasets.load("dolls", **options)
    (stored,) = tmp_path.glob("dolls-train-40-16-0-*.npz")
    monkeypatch.setattr(datasets.dolls, "draw", lambda *_, **__: pytest.fail("drawn again"))
    again = datasets.load("dolls", **options)
    assert datasets.fingerprint(again) == datasets.fingerprint(first)
    monkeypatch.undo()
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 255
    stored.write_bytes(content)
    assert datasets.fingerprint(datasets.load("dolls", **options)) == datasets.fingerprint(first)


def test_only_photographs_in_folders_can_stay_files():
    with pytest.raises(ConfigError, match="dolls is kept in memory"):
        datasets.load("dolls", cached=False)
