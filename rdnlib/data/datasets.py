"""Data sets by name: the embedded `dolls`, torchvision's, and folders of photographs of one's own.

A calibration part is held out of the training split: λ is set on images that the network has not seen (Section 3.4; the paper
calibrates on the training split, which is optimistic for a network that over-fits).
"""

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import datasets

from rdnlib.data import dolls, image_folder
from rdnlib.errors import ConfigError, DataError
from rdnlib.utils.files import cache_folder, replacing

_CACHED_BYTES = 10 * 2**20  # of drawn images; fewer are drawn faster than they are read
_DOLLS = {"train": 8000, "validation": 2000}  # images drawn unless the caller says how many
_LEAST = {"train": 2, "validation": 1}  # images a class in a choice of them: one to train on and one to calibrate on
_IMAGENETTE = {160: "imagenette2-160", 320: "imagenette2-320", 1024: "imagenette2"}  # folder by short side
IN_FOLDERS = ("imagenette", "imagenet", "folder")  # data sets of files, which are decoded into a cache


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (N, 3, S, S), labels int64 (N,), ids int64 (N,), difficulty float32 (N,), names of the classes.

    An id is the image's index within its original split. Difficulty is in [0, 1], NaN where it is not known. `images` is an
    array, a memmap or an `image_folder.Rows` or `Files`, which read what they are indexed with: index them batch by batch.
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
    name: str, *, root: str | os.PathLike | None = None, size: int = 32, seed: int = 0,
    train: int | None = None, validation: int | None = None, calibration: float | int = 0.1,
    download: bool = False, cache: str | os.PathLike | None = None, cached: bool = True,
) -> Splits:  # fmt: skip
    """Load a data set at size × size pixels and hold a calibration part out of its training split.

    `calibration` is that part's share of the training images, below 1, stratified by class and drawn by `seed`, the same at every
    size; 0 holds nothing out. Or it is a number of images: of `dolls` they are drawn beyond those to train on, of photographs held
    out, at most a fifth of them. `train` and `validation` bound the number of images of the two original splits: for `dolls`
    how many are drawn (8,000 and 2,000 unless given), for photographs a stratified choice by `seed` (all unless given).

    All but `dolls` lie under `root`: `imagenette`, `cifar10`, `cifar100` and `imagenet` in torchvision's layout; `folder`,
    images of one's own, as root/train/<class>/… and root/val/<class>/…, with the same classes in both, at least one image
    of each, and one more in train, which is held out. `download` fetches what torchvision can. Photographs are cropped to
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
    if not (0 <= calibration <= 0.9 or (isinstance(calibration, int) and calibration >= 1)) or calibration is True:
        raise ConfigError(f"calibration must be a share between 0 and 0.9, or a number of images, not {calibration}")
    if not cached and name not in IN_FOLDERS:
        raise ConfigError(f"{name} is kept in memory: cached=False is for {', '.join(IN_FOLDERS)}")
    cache = Path(cache).expanduser() if cache is not None else cache_folder()
    if name == "dolls":
        train = _DOLLS["train"] if train is None else train
        _check_count("train", train, len(dolls.CLASSES))
        beyond = calibration if calibration >= 1 else 0
        whole = _dolls("train", train + beyond, size, seed, cache)
        final = _dolls("validation", validation, size, seed, cache)
    elif root is None:
        raise DataError(f"{name} needs a data root: give the folder that holds it (root=…, --data-root DIR)")
    else:
        first, second = _PHOTOGRAPHS[name](Path(root).expanduser(), size, download)
        _check_labels(name, first, second)
        whole = _read(first, "train", train, size, seed, cache if cached else None)
        final = _read(second, "validation", validation, size, seed, cache if cached else None)
    if calibration < 1:
        held_out = _held_out(whole, calibration, seed)
    elif name == "dolls":
        held_out = np.arange(len(whole)) >= train  # every ten images in a row hold one of each class
    else:
        held_out = _held_out(whole, min(calibration / len(whole), 0.2), seed)
    return Splits(whole.take(np.flatnonzero(~held_out)), whole.take(np.flatnonzero(held_out)), final)


def fingerprint(splits: Splits) -> str:
    """Short hash of ids, labels and pixels, see `image_folder.checksum`: which data a result comes from."""
    digest = hashlib.sha256()
    for part in (splits.train, splits.calibration, splits.validation):
        digest.update(np.ascontiguousarray(part.ids))
        digest.update(np.ascontiguousarray(part.labels))
        digest.update(image_folder.checksum(part.images).encode())
    return digest.hexdigest()[:16]


def _dolls(split: str, count: int | None, size: int, seed: int, cache: Path) -> ImageSet:
    """Drawn, or read from the cache, where sets that take seconds to draw are kept; a changed generator draws anew."""
    count = _DOLLS[split] if count is None else count
    _check_count(split, count, len(dolls.CLASSES))
    generator = hashlib.sha256(Path(dolls.__file__).read_bytes()).hexdigest()[:8]
    stored = cache / f"dolls-{split}-{count}-{size}-{seed}-{generator}.npz"
    try:
        with np.load(stored) as arrays:  # the format carries checksums
            images, labels, difficulty = arrays["images"], arrays["labels"], arrays["difficulty"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        images, labels, difficulty = dolls.draw(count, size=size, seed=seed, split=split)
        if images.nbytes >= _CACHED_BYTES:
            with suppress(OSError), replacing(stored) as temporary:  # without a cache it only takes longer
                np.savez(temporary, images=images, labels=labels, difficulty=difficulty)
    return ImageSet(images, labels, np.arange(count), difficulty, dolls.CLASSES)


def _photographs(images: np.ndarray | image_folder.Files, labels: np.ndarray, classes: tuple[str, ...]) -> ImageSet:
    unknown = np.full(len(labels), np.nan, np.float32)
    return ImageSet(images, labels, np.arange(len(labels)), unknown, classes)


def _read(source: ImageSet, split: str, count: int | None, size: int, seed: int, cache: Path | None) -> ImageSet:
    """A split, or a stratified choice of `count` of its images, at `size` pixels; files are decoded if there is a cache."""
    if count is not None:
        _check_count(split, count, len(source.classes))
        if count < len(source):
            source = source.take(_stratified(source.labels, count, seed=seed, least=_LEAST[split]))
    if not isinstance(source.images, image_folder.Files):
        return replace(source, images=_resized(source.images, size))
    return source if cache is None else replace(source, images=image_folder.cached(source.images, cache))


def _held_out(images: ImageSet, fraction: float, seed: int) -> np.ndarray:
    """Which images (N,) bool are for calibration: the fraction of every class, at least one, but never its last image."""
    held_out = np.zeros(len(images), bool)
    if fraction:
        spare = np.flatnonzero(np.bincount(images.labels)[images.labels] > 1)
        if not len(spare):
            raise DataError("no class has two train images, so none can be held out for calibration: add one")
        count = min(round(fraction * len(images)), len(images) - len(images.classes))
        held_out[spare[_stratified(images.labels[spare], count, seed=seed, least=1)]] = True
    return held_out


def _stratified(labels: np.ndarray, count: int, *, seed: int, least: int) -> np.ndarray:
    """Choose `count` positions, ascending: every class in proportion, but `least` of it first and its last image last."""
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))  # by class, shuffled within
    sizes = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (rank + 0.5) / sizes[labels]
    share[rank == sizes[labels] - 1] = 2
    share[rank < least] = -1
    return np.sort(np.argsort(share, kind="stable")[: max(count, least * np.count_nonzero(sizes))])


def _check_count(split: str, count: int, classes: int) -> None:
    least = _LEAST[split] * classes
    if count < least:
        raise ConfigError(f"{split} must be at least {least} images ({classes} classes), not {count}")


def _check_labels(name: str, train: ImageSet, validation: ImageSet) -> None:
    if train.classes != validation.classes:
        odd = min(set(train.classes) ^ set(validation.classes))
        raise DataError(f"{name}: class {odd} is in one of train and val only: both need the same class folders")
    for split, images in (("train", train), ("validation", validation)):
        counts = np.bincount(images.labels, minlength=len(images.classes))
        if not counts.min():
            raise DataError(f"{name}: class {images.classes[counts.argmin()]} has no {split} images: add at least one")


def _folders(root: Path, size: int) -> tuple[ImageSet, ImageSet]:
    return tuple(_photographs(*image_folder.find(root / split, size)) for split in ("train", "val"))


def _own_folder(root: Path, size: int, download: bool) -> tuple[ImageSet, ImageSet]:
    if download:
        raise ConfigError("folder is a data set of your own, there is nothing to download: drop that option")
    return _folders(root, size)


def _imagenette(root: Path, size: int, download: bool) -> tuple[ImageSet, ImageSet]:
    """`root` itself where it is the extracted folder, else the smallest copy in it that is not below `size` pixels."""
    if not any((root / split).is_dir() for split in ("train", "val")):
        present = [side for side, name in _IMAGENETTE.items() if (root / name).is_dir()]
        if not present:
            present = [min(side for side in _IMAGENETTE if side >= size)]
            variant = {160: "160px", 320: "320px", 1024: "full"}[present[0]]
            opener = partial(datasets.Imagenette, root, size=variant, download=download)
            _torchvision("imagenette", _IMAGENETTE[present[0]], root, download, opener)
        root = root / _IMAGENETTE[min((side for side in present if side >= size), default=max(present))]
    names = datasets.Imagenette._WNID_TO_CLASS
    sets = _folders(root, size)
    return tuple(replace(s, classes=tuple(names.get(wnid, (wnid,))[0] for wnid in s.classes)) for s in sets)


def _imagenet(root: Path, size: int, download: bool) -> tuple[ImageSet, ImageSet]:
    """Class folders in train/ and val/; where there are none, torchvision unpacks its archives into them."""
    if not all((root / split).is_dir() for split in ("train", "val")):
        if download:
            raise ConfigError("imagenet cannot be downloaded: get its archives from image-net.org")
        for split in ("train", "val"):
            content = "train/ and val/, or the devkit, train and val archives"
            _torchvision("imagenet", content, root, False, partial(datasets.ImageNet, root, split))
    return _folders(root, size)


def _cifar(kind: type[datasets.CIFAR10], root: Path, size: int, download: bool) -> tuple[ImageSet, ImageSet]:
    sets = []
    for train in (True, False):
        opener = partial(kind, root, train=train, download=download)
        source = _torchvision(kind.__name__.lower(), kind.base_folder, root, download, opener)
        sets.append(_photographs(source.data.transpose(0, 3, 1, 2), np.array(source.targets), tuple(source.classes)))
    return tuple(sets)


def _torchvision(name: str, content: str, root: Path, download: bool, opener: Callable):
    """Open one of torchvision's data sets; its many ways to fail become one line."""
    try:
        return opener()
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        if download:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"cannot download {name} to {root} ({reason}): try again later") from error
        hint = f"put {content} there" + ("" if name == "imagenet" else ", or ask for a download")
        raise DataError(f"no intact {name} in {root}: {hint}") from error


def _resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """Images uint8 (N, 3, H, W) as uint8 (N, 3, size, size)."""
    if pixels.shape[-1] == size:
        return np.ascontiguousarray(pixels)
    parts = []
    for part in np.array_split(pixels, max(1, len(pixels) // 1000)):
        images = F.interpolate(torch.from_numpy(part).float(), (size, size), mode="bilinear", antialias=True)
        parts.append(images.round().byte().numpy())
    return np.concatenate(parts)


# Each takes root, size and download, and gives the two original splits.
_PHOTOGRAPHS: dict[str, Callable[[Path, int, bool], tuple[ImageSet, ImageSet]]] = {
    "imagenette": _imagenette,
    "cifar10": partial(_cifar, datasets.CIFAR10),
    "cifar100": partial(_cifar, datasets.CIFAR100),
    "imagenet": _imagenet,
    "folder": _own_folder,
}
