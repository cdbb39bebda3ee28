"""Photographs in folders, decoded once: root/train/<class>/… becomes one uint8 .npy file that is opened as a memmap.

The paper trains on ImageNet photographs (Section 4). Decoding is slow and its result never changes, so it is kept; sets too
large for that are decoded whenever they are read (`Files`), the same pixels every time.
"""

import hashlib
import json
import os
from dataclasses import dataclass
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


class Rows:
    """Some rows of a memmap too large to copy; `rows[index]` reads only what is asked for."""

    def __init__(self, images: np.ndarray, rows: np.ndarray):
        self._images, self._rows = images, rows
        self.shape, self.dtype, self.ndim = (len(rows), *images.shape[1:]), images.dtype, images.ndim

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        return np.asarray(self._images[self._rows[index]])


class Files:
    """Photographs that stay files: `files[index]` decodes those asked for, uint8 (n, 3, size, size). `batches` reads ahead."""

    def __init__(self, split: Path, names: np.ndarray, size: int):
        self.split, self.names, self.size = split, names, size
        self.shape, self.dtype, self.ndim = (len(names), 3, size, size), np.dtype(np.uint8), 4

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index) -> np.ndarray:
        return np.stack([_photograph(self.split / name, self.size) for name in self.names[index]])

    def checksum(self) -> str:
        """Hash of the names and lengths of the files, and the size that they are read at."""
        return _hash([self.size, self.names.tolist(), [_bytes(self.split / name) for name in self.names]])


def take(images: np.ndarray | Rows | Files, rows: np.ndarray) -> np.ndarray | Rows | Files:
    """The images at these distinct, ascending positions: a copy where that fits in memory, else a `Rows` (or `Files`)."""
    if len(rows) == len(images):
        return images
    if isinstance(images, Files):
        return Files(images.split, images.names[rows], images.size)
    small = len(rows) * int(np.prod(images.shape[1:])) <= _IN_MEMORY
    return np.asarray(images[rows]) if small else Rows(images, rows)


def checksum(images: np.ndarray | Rows | Files) -> str:
    """Hash of shape and pixels (uint8); of more than 20,000 images it reads that many, evenly spaced, of `Files` none."""
    if isinstance(images, Files):
        return images.checksum()
    digest = hashlib.sha256(str(images.shape).encode())
    rows = np.linspace(0, len(images) - 1, min(len(images), _CHECKED_ROWS)).astype(np.int64)
    for part in np.array_split(rows, max(1, len(rows) // 500)):
        digest.update(np.ascontiguousarray(images[part]))
    return digest.hexdigest()


@dataclass(frozen=True)
class Folder:
    """The image files of one split: paths and labels in torchvision's order, which gives an image its id."""

    split: Path
    files: np.ndarray  # (N,) str, relative to `split`
    labels: np.ndarray  # (N,) int64
    classes: tuple[str, ...]

    def read(self, rows: np.ndarray, *, size: int, cache: Path | None) -> np.ndarray | Files:
        """Pixels uint8 (len(rows), 3, size, size), a copy-on-write memmap of the cache file, which is made if need be;
        `Files` without a cache.

        Its name changes with folder, size, and the names and lengths of the files. A cache file that is cut short or
        damaged is made again. Processes that make one at the same time each write their own and agree on the result.
        Raises DataError for a damaged image and for a cache folder that cannot be written.
        """
        if cache is None:
            return Files(self.split, self.files[rows], size)
        paths = [self.split / name for name in self.files[rows]]
        lengths = [_bytes(path) for path in paths]
        key = [str(self.split.resolve()), size, self.files[rows].tolist(), lengths]
        stem = f"{self.split.parent.name}-{self.split.name}-{size}-{_hash(key)}"
        stored, note = cache / f"{stem}.npy", cache / f"{stem}.json"
        images = _stored(stored, note)
        if images is None:
            try:
                with replacing(stored) as temporary:
                    digest = _decode(paths, size, temporary, title=f"reading {self.split.name} at {size} px")
                write_json(note, {"folder": str(self.split), "images": len(paths), "sha256": digest})
            except OSError as error:
                message = (
                    f"cannot write the image cache {cache} ({error.strerror or error}): give another folder (cache=…)"
                )
                raise DataError(message) from error
            images = _open(stored)
        return images


def folder(split: Path) -> Folder:
    """List `split`/<class>/… as torchvision's ImageFolder does. Raises DataError if there is no such folder or no image."""
    layout = f"expected {split.parent}/train/<class>/… and {split.parent}/val/<class>/…"
    if not split.is_dir():
        raise DataError(f"there is no folder {split}: {layout}")
    try:
        classes, index = find_classes(str(split))
    except FileNotFoundError:
        raise DataError(f"{split} has no class folders: {layout}") from None
    found = make_dataset(str(split), index, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not found:
        raise DataError(f"{split} holds no images ({', '.join(IMG_EXTENSIONS)}): {layout}")
    files = np.array([os.path.relpath(path, split) for path, _ in found])
    return Folder(split, files, np.array([label for _, label in found], np.int64), tuple(classes))


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot read the image {path} ({error.strerror}): replace or remove it") from error


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _open(stored: Path) -> np.ndarray:
    return np.load(stored, mmap_mode="c")  # copy-on-write: torch wants writable arrays, the file stays as it is


def _stored(stored: Path, note: Path) -> np.ndarray | None:
    """The cached images, or None unless they are whole."""
    try:
        images = _open(stored)
        return images if checksum(images) == read_json(note)["sha256"] else None
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _decode(paths: list[Path], size: int, target: Path, *, title: str) -> str:
    """Decode the files into an .npy file and return its checksum. PIL lets other threads run while it decodes."""
    images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(paths), 3, size, size))

    def store(row: int) -> None:
        images[row] = _photograph(paths[row], size)

    with ThreadPool(os.cpu_count()) as pool:
        stored = pool.imap_unordered(store, range(len(paths)), chunksize=16)
        for _ in tqdm(stored, title, len(paths), unit="image", mininterval=1):
            pass
    images.flush()
    return checksum(images)


def _photograph(path: Path, size: int) -> np.ndarray:
    """The central square of a photograph, resized with antialiasing: uint8 (3, size, size)."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image {path} ({error}): replace or remove it") from error
    return np.asarray(square).transpose(2, 0, 1)
