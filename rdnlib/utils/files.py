"""Atomic writes: a reader, or a process killed half-way, never sees a half-written file."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from safetensors.torch import save
from torch import Tensor

from rdnlib.errors import ConfigError, StorageError

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room"),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST), "choose a folder that you may write to"
    ),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "see that the disk is there"),
}


def cache_folder() -> Path:
    """Where downloads and decoded images are kept: `RDN_CACHE`, else rdnlib in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RDN_CACHE") or Path(user) / "rdnlib")


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """While open, a full disk or a folder without permission raises a StorageError that says what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES or isinstance(error, StorageError):
            raise
        reason = os.strerror(error.errno).lower()
        raise StorageError(
            f"cannot write {path} ({reason}): {_REMEDIES[error.errno]}, then start again; what is finished is kept"
        ) from error


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """An atomic write: yields a temporary path beside `path`, which it becomes in one step; on error it is removed.

    Raises StorageError where there is no room or no permission.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            os.chmod(temporary, 0o644)  # mkstemp makes private files; results are for everybody
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, which takes the place of whatever is there; on error all stays as it was."""
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as temporary:
            (new := Path(temporary) / "new").mkdir()
            yield new
            if path.exists():
                path.rename(Path(temporary) / "old")
            new.rename(path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` in UTF-8; as all writers here, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused because it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table without its index; the format follows the suffix (.csv or .parquet)."""
    with replacing(path) as temporary:
        if Path(path).suffix == ".parquet":
            # per-image numbers: exponents and mantissas byte by byte compress to two thirds of what they do as numbers;
            # ascending ids as differences to nearly nothing
            encodings = {"f": "BYTE_STREAM_SPLIT", "i": "DELTA_BINARY_PACKED"}
            kinds = {name: table[name].dtype.kind for name in table}
            table.to_parquet(
                temporary, index=False, compression="zstd", compression_level=12,
                column_encoding={name: encodings[kind] for name, kind in kinds.items() if kind in encodings},
                use_dictionary=[name for name, kind in kinds.items() if kind not in encodings],
            )  # fmt: skip
        else:
            table.to_csv(temporary, index=False)


def write_tensors(path: str | os.PathLike, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write tensors by name, and strings beside them, as safetensors."""
    with replacing(path) as temporary:  # `save_file` would raise errors of its own, without errno
        temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, notes))


class _YamlLoader(yaml.SafeLoader):
    """YAML 1.2 where PyYAML does otherwise: 1e-4 is a number, `no` is a word, and a key must not be given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in (earlier.value for earlier in keys[:number]):
                raise yaml.MarkedYAMLError(problem=f"{key.value}: is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_YamlLoader.add_implicit_resolver(_BOOL, re.compile("(true|false)$"), list("tf"))
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_YamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: str | os.PathLike) -> Any:
    """The content of a YAML file; raises ConfigError, one line without the file's name, where it is none."""
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _YamlLoader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or error
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{where}{' '.join(str(problem).split())}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot be read: {' '.join(str(error).split())}") from error
