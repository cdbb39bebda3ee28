"""Photographs in torchvision's ImageFolder layout, <split>/<class>/<image>, decoded once or whenever they are read.

Decoding is slow and its result never changes, so it is kept: one uint8 .npy file for each split, opened as a memmap. Sets too
large for that stay files (`Files`), which give the same pixels.
"""

import hashlib
import json
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset
from tqdm import tqdm

from rdnlib.errors import DataError
from rdnlib.utils.files import read_json, replacing, write_json

_IN_MEMORY = 2 * 2**30  # bytes: a larger part of a memmap stays on disk
_CHECKED_ROWS = 20_000  # a checksum reads this many rows at most, evenly spaced


class _Lazy:
    """Images that are read when they are indexed: uint8 (n, 3, size, size)."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __len__(self) -> int:
        return self.shape[0]


class Rows(_Lazy):
    """Some rows of a memmap too large to copy."""

    def __init__(self, images: np.ndarray, rows: np.ndarray):
        self.shape, self._images, self._rows = (len(rows), *images.shape[1:]), images, rows

    def __getitem__(self, index) -> np.ndarray:
        return np.asarray(self._images[self._rows[index]])


class Files(_Lazy):
    """Image files `names` (N,), relative to the folder `split`, decoded at `size` pixels."""

    def __init__(self, split: Path, names: np.ndarray, size: int):
        self.shape, self.split, self.names, self.size = (len(names), 3, size, size), split, names, size

    def __getitem__(self, index) -> np.ndarray:
        return np.stack([_decoded(self.split / name, self.size) for name in self.names[index]])

    def lengths(self) -> list[int]:
        """Bytes of each file. Raises DataError for a file that is not there."""
        try:
            return [(path := self.split / name).stat().st_size for name in self.names]
        except OSError as error:
            raise _unreadable(path, error.strerror) from error


def find(split: Path, size: int) -> tuple[Files, np.ndarray, tuple[str, ...]]:
    """The files of `split`/<class>/…, their labels (N,) int64 and the classes, in the order of torchvision's ImageFolder.

    Raises DataError if there is no such folder or no image.
    """
    layout = f"expected {split.parent}/train/<class>/… and {split.parent}/val/<class>/…"
    if not split.is_dir():
        raise DataError(f"there is no folder {split}: {layout}")
    try:
        classes, index = find_classes(str(split))
    except OSError as error:  # torchvision's own FileNotFoundError has no strerror
        raise DataError(f"{split} cannot be used ({error.strerror or 'no class folders'}): {layout}") from None
    found = make_dataset(str(split), index, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not found:
        raise DataError(f"{split} holds no images ({', '.join(IMG_EXTENSIONS)}): {layout}")
    names = np.array([os.path.relpath(path, split) for path, _ in found])
    return Files(split, names, size), np.array([label for _, label in found], np.int64), tuple(classes)


def take(images: np.ndarray | _Lazy, rows: np.ndarray) -> np.ndarray | _Lazy:
    """The images at these distinct, ascending positions: a copy where that fits in memory, else lazy."""
    if len(rows) == len(images):
        return images
    if isinstance(images, Files):
        return Files(images.split, images.names[rows], images.size)
    small = len(rows) * int(np.prod(images.shape[1:])) <= _IN_MEMORY
    return np.asarray(images[rows]) if small else Rows(images, rows)


def checksum(images: np.ndarray | _Lazy) -> str:
    """Hash of shape and pixels; of more than 20,000 images, of that many. Of `Files`: of their names, lengths and size."""
    if isinstance(images, Files):
        return _hash([images.size, images.names.tolist(), images.lengths()])
    digest = hashlib.sha256(str(images.shape).encode())
    rows = np.linspace(0, len(images) - 1, min(len(images), _CHECKED_ROWS)).astype(np.int64)
    for part in np.array_split(rows, max(1, len(rows) // 500)):
        digest.update(np.ascontiguousarray(images[part]))
    return digest.hexdigest()


def cached(files: Files, cache: Path) -> np.ndarray:
    """All of the images, uint8 (N, 3, size, size): a copy-on-write memmap of a file in `cache`, which is made if need be.

    Its name changes with folder, size, and the names and lengths of the files. A damaged one is made again; processes that
    make one at the same time each write their own. Raises DataError for a damaged image and a cache that cannot be written.
    """
    split = files.split
    key = [str(split.resolve()), files.size, files.names.tolist(), files.lengths()]
    array = cache / f"{split.parent.name}-{split.name}-{files.size}-{_hash(key)}.npy"
    note = array.with_suffix(".json")
    try:
        images = np.load(array, mmap_mode="c")  # copy-on-write: torch wants writable arrays, the file stays as it is
        if checksum(images) == read_json(note)["sha256"]:
            return images
    except (OSError, ValueError, KeyError, EOFError):
        pass  # there is none, or it is damaged
    try:
        with replacing(array) as temporary:
            digest = _decode(files, temporary)
        write_json(note, {"folder": str(split), "images": len(files), "sha256": digest})
    except OSError as error:
        message = f"cannot write the image cache {cache} ({error.strerror or error}): give another folder (cache=…)"
        raise DataError(message) from error
    return np.load(array, mmap_mode="c")


def _decode(files: Files, target: Path) -> str:
    """Decode the files into an .npy file and return its checksum. PIL lets other threads run while it decodes."""
    images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=files.shape)

    def store(row: int) -> None:
        images[row] = _decoded(files.split / files.names[row], files.size)

    with ThreadPool(os.cpu_count()) as pool:
        stored = pool.imap_unordered(store, range(len(files)), chunksize=16)
        title = f"reading {files.split.name} at {files.size} px"
        for _ in tqdm(stored, title, len(files), unit="image", mininterval=1):
            pass
    images.flush()
    return checksum(images)


def _decoded(path: Path, size: int) -> np.ndarray:
    """The central square of a photograph, resized with antialiasing: uint8 (3, size, size)."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    return np.asarray(square).transpose(2, 0, 1)


def _unreadable(path: Path, reason) -> DataError:
    return DataError(f"cannot read the image {path} ({reason}): replace or remove it")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
