"""Image sets by name: the embedded `dolls`, and photographs that are decoded once into a uint8 cache.

A calibration part is held out of the training split: λ is set on images the network has not seen (Section 3.4; the paper
calibrates on the training split, which is optimistic for a network that over-fits).
"""

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import datasets

from rdnlib.data import dolls, image_folder
from rdnlib.errors import ConfigError, DataError
from rdnlib.utils.files import cache_folder, replacing

_WORTH_KEEPING = 10 * 2**20  # bytes of drawn images
_DOLLS = {"train": 8000, "validation": 2000}  # images drawn unless the caller says how many
_LEAST = {"train": 2, "validation": 1}  # images a class: one to train on and one to calibrate on
_IMAGENETTE = {160: "imagenette2-160", 320: "imagenette2-320", 1024: "imagenette2"}  # folder by short side
_IN_FOLDERS = ("imagenette", "imagenet", "folder")
_IMAGENETTE_CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (N, 3, S, S), labels int64 (N,), ids int64 (N,), difficulty float32 (N,), names of the classes.

    An id is the image's index within its original split. Difficulty is in [0, 1], NaN where it is not known.
    `images` is an array or memmap; a part of a memmap above 2 GiB is a `photographs.Rows`, photographs without a cache are
    `photographs.Files`: index them, batch by batch.
    """

    images: np.ndarray | image_folder.Rows | image_folder.Files
    labels: np.ndarray
    ids: np.ndarray
    difficulty: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "ImageSet":
        """The images at these positions (not ids)."""
        images = image_folder.take(self.images, rows)
        return ImageSet(images, self.labels[rows], self.ids[rows], self.difficulty[rows], self.classes)


@dataclass(frozen=True)
class Splits:
    """What a network is trained on, what λ is set on, and what is looked at once, at the end."""

    train: ImageSet
    calibration: ImageSet
    validation: ImageSet


def names() -> list[str]:
    """The names `load` knows."""
    return ["dolls", *_PHOTOGRAPHS]


def load(
    name: str,
    *,
    root: str | os.PathLike | None = None,
    size: int = 32,
    seed: int = 0,
    train: int | None = None,
    validation: int | None = None,
    calibration: float = 0.1,
    download: bool = False,
    cache: str | os.PathLike | None = None,
    cached: bool = True,
) -> Splits:
    """Load a data set at size × size pixels and hold a calibration part out of its training split.

    `calibration` is that part's share of the training images, stratified by class and drawn by `seed`, the same at every
    size; 0 holds nothing out. `train` and `validation` bound the number of images of the two original splits: for `dolls`
    how many are drawn (8,000 and 2,000 unless given), for photographs a stratified choice by `seed` (all unless given).

    Photographs lie under `root`: `imagenette`, `cifar10`, `cifar100`, `imagenet` in torchvision's layout, `folder`
    as root/train/<class>/… and root/val/<class>/…; `download` fetches what torchvision can. They are cropped to
    the central square, resized with antialiasing, and kept under `cache` (default: a folder in the user's cache). Where that
    takes too much room (ImageNet at 256 pixels: 250 GB), `cached=False` leaves them files, decoded whenever they are read.

    Raises ConfigError for a bad argument, DataError for data that are missing, empty or damaged.
    """
    if name not in names():
        raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join(names())}")
    if not 8 <= size <= 1024:
        raise ConfigError(f"image size must be between 8 and 1024 pixels, not {size}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, but is {seed}")
    if not 0 <= calibration <= 0.9:
        raise ConfigError(f"calibration must be a fraction between 0 and 0.9, not {calibration}")
    if not cached and name not in _IN_FOLDERS:
        raise ConfigError(f"{name} is kept in memory: cached=False is for {', '.join(_IN_FOLDERS)}")
    folder = Path(cache).expanduser() if cache is not None else cache_folder()
    if name == "dolls":
        whole = _dolls("train", train, size, seed, folder)
        final = _dolls("validation", validation, size, seed, folder)
    elif root is None:
        raise DataError(f"{name} needs a data root: give the folder that holds it (root=…, --data-root DIR)")
    else:
        first, second = _PHOTOGRAPHS[name](_Place(Path(root).expanduser(), folder if cached else None, size, download))
        _check_labels(name, first, second)
        whole, final = _read(first, "train", train, seed), _read(second, "validation", validation, seed)
    held = np.zeros(len(whole), bool)
    if calibration:
        count = min(round(calibration * len(whole)), len(whole) - len(whole.classes))
        held[_stratified(whole.labels, count, seed=seed, least=1)] = True
    return Splits(whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held)), final)


def fingerprint(splits: Splits) -> str:
    """Short hash of ids, labels and pixels, for the manifest; of very many images it reads a part, of photographs that are
    not cached names and lengths (`photographs.checksum`)."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.calibration, splits.validation):
        digest.update(np.ascontiguousarray(part.ids))
        digest.update(np.ascontiguousarray(part.labels))
        digest.update(image_folder.checksum(part.images).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class _Place:
    """Where photographs come from and what is asked of them."""

    root: Path
    cache: Path | None  # None: they are decoded whenever they are read
    size: int
    download: bool


@dataclass(frozen=True)
class _Source:
    """A split whose pixels have not been read: labels (N,), class names, and `pixels(rows)` that reads some of them."""

    labels: np.ndarray
    classes: tuple[str, ...]
    pixels: Callable[[np.ndarray], np.ndarray | image_folder.Files]


def _dolls(split: str, count: int | None, size: int, seed: int, cache: Path) -> ImageSet:
    """Drawn, or found in the cache, where sets that take seconds to draw are kept; a changed generator draws anew."""
    count = _DOLLS[split] if count is None else count
    _check_count(split, count, len(dolls.CLASSES))
    generator = hashlib.sha256(Path(dolls.__file__).read_bytes()).hexdigest()[:8]
    stored = cache / f"dolls-{split}-{count}-{size}-{seed}-{generator}.npz"
    try:
        with np.load(stored) as kept:  # the format carries checksums
            images, labels, difficulty = kept["images"], kept["labels"], kept["difficulty"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        images, labels, difficulty = dolls.draw(count, size=size, seed=seed, split=split)
        if images.nbytes >= _WORTH_KEEPING:
            with suppress(OSError), replacing(stored) as temporary:  # without a cache it only takes longer
                np.savez(temporary, images=images, labels=labels, difficulty=difficulty)
    return ImageSet(images, labels, np.arange(count), difficulty, dolls.CLASSES)


def _read(source: _Source, split: str, count: int | None, seed: int) -> ImageSet:
    """Read a split, or a stratified choice of `count` of its images."""
    ids = np.arange(len(source.labels))
    if count is not None:
        _check_count(split, count, len(source.classes))
        if count < len(ids):
            ids = _stratified(source.labels, count, seed=seed, least=_LEAST[split])
    unknown = np.full(len(ids), np.nan, np.float32)
    return ImageSet(source.pixels(ids), source.labels[ids], ids, unknown, source.classes)


def _stratified(labels: np.ndarray, count: int, *, seed: int, least: int) -> np.ndarray:
    """Choose `count` positions, ascending: every class in proportion, but `least` of it first and its last image last."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))  # by class, shuffled within
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (rank + 0.5) / sizes[labels]
    share[rank == sizes[labels] - 1] = 2
    share[rank < least] = -1
    return np.sort(np.argsort(share, kind="stable")[: max(count, least * len(sizes))])


def _check_count(split: str, count: int, classes: int) -> None:
    if count < _LEAST[split] * classes:
        least = _LEAST[split] * classes
        raise ConfigError(f"{split} must be at least {least} images ({classes} classes), not {count}")


def _check_labels(name: str, train: _Source, validation: _Source) -> None:
    if train.classes != validation.classes:
        odd = min(set(train.classes) ^ set(validation.classes))
        raise DataError(f"{name}: class {odd} is in one of train and val only: both need the same class folders")
    for split, source in (("train", train), ("validation", validation)):
        counts = np.bincount(source.labels, minlength=len(source.classes))
        if counts.min() < _LEAST[split]:
            rare, least = source.classes[counts.argmin()], _LEAST[split]
            raise DataError(f"{name}: class {rare} has {counts.min()} {split} images: add some, at least {least}")


def _folders(place: _Place, root: Path) -> tuple[_Source, _Source]:
    def source(split: str) -> _Source:
        found = image_folder.folder(root / split)
        classes = tuple(_IMAGENETTE_CLASSES.get(name, name) for name in found.classes)
        return _Source(found.labels, classes, partial(found.read, size=place.size, cache=place.cache))

    return source("train"), source("val")


def _any_folder(place: _Place) -> tuple[_Source, _Source]:
    if place.download:
        raise ConfigError("folder is a data set of your own, there is nothing to download: drop that option")
    if not place.root.is_dir():
        raise DataError(f"there is no folder {place.root}: give one that holds train/<class>/… and val/<class>/…")
    return _folders(place, place.root)


def _imagenette(place: _Place) -> tuple[_Source, _Source]:
    """`root` itself where it is the extracted folder, else the smallest copy in it that is not below `size` pixels."""
    if (place.root / "train").is_dir() or (place.root / "val").is_dir():
        return _folders(place, place.root)
    present = [side for side, name in _IMAGENETTE.items() if (place.root / name).is_dir()]
    if not present:
        present = [min(side for side in _IMAGENETTE if side >= place.size)]
        variant = {160: "160px", 320: "320px", 1024: "full"}[present[0]]
        _torchvision("imagenette", _IMAGENETTE[present[0]], place, partial(datasets.Imagenette, size=variant))
    side = min((side for side in present if side >= place.size), default=max(present))
    return _folders(place, place.root / _IMAGENETTE[side])


def _imagenet(place: _Place) -> tuple[_Source, _Source]:
    """Class folders in train/ and val/; where there are none, torchvision unpacks its archives into them."""
    if not all((place.root / split).is_dir() for split in ("train", "val")):
        if place.download:
            raise ConfigError("imagenet cannot be downloaded: get its archives from image-net.org")
        for split in ("train", "val"):
            what = "train/ and val/, or the devkit, train and val archives"
            _torchvision("imagenet", what, place, lambda root, download, split=split: datasets.ImageNet(root, split))
    return _folders(place, place.root)


def _cifar(place: _Place, *, name: str, kind: type[datasets.CIFAR10]) -> tuple[_Source, _Source]:
    def source(train: bool) -> _Source:
        found = _torchvision(name, kind.base_folder, place, partial(kind, train=train))
        labels = np.array(found.targets, np.int64)
        return _Source(labels, tuple(found.classes), partial(_resized, found.data, size=place.size))

    return source(True), source(False)


def _torchvision(name: str, what: str, place: _Place, open_set: Callable):
    """Open one of torchvision's data sets; its many ways to fail become one line."""
    try:
        return open_set(root=place.root, download=place.download)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        if place.download:
            raise DataError(
                f"cannot download {name} to {place.root} ({_first_line(error)}): try again later"
            ) from error
        hint = f"put {what} there" + ("" if name == "imagenet" else ", or ask for a download")
        raise DataError(f"no intact {name} in {place.root}: {hint}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _resized(pixels: np.ndarray, rows: np.ndarray, *, size: int) -> np.ndarray:
    """Rows of uint8 (N, H, W, 3) as uint8 (len(rows), 3, size, size)."""
    parts = []
    for part in np.array_split(rows, max(1, len(rows) // 1000)):
        images = torch.from_numpy(pixels[part]).permute(0, 3, 1, 2)  # (n, 3, H, W)
        if images.shape[-1] != size:
            images = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).round().byte()
        parts.append(images.numpy())
    return np.concatenate(parts)


_PHOTOGRAPHS: dict[str, Callable[[_Place], tuple[_Source, _Source]]] = {
    "imagenette": _imagenette,
    "cifar10": partial(_cifar, name="cifar10", kind=datasets.CIFAR10),
    "cifar100": partial(_cifar, name="cifar100", kind=datasets.CIFAR100),
    "imagenet": _imagenet,
    "folder": _any_folder,
}
