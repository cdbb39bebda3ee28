"""Atomic writes, and one line for what cannot be written."""

import math
import resource

import pytest
import torch
from safetensors.torch import load_file

from rdnlib.errors import StorageError
from rdnlib.utils import files


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"value": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"value": math.nan})
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert files.read_json(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back_with_their_layout_undone(tmp_path):
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    files.write_tensors(tmp_path / "x.safetensors", {"x": x}, {"note": "kept"})
    assert torch.equal(load_file(tmp_path / "x.safetensors")["x"], x)


def test_a_limit_that_the_system_sets_is_told(tmp_path):
    """A write that really fails: files may not grow beyond some length."""
    path = tmp_path / "tensors.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*tensors.safetensors \(file too large\): make room"):
            files.write_tensors(path, {"x": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write .*\): choose a folder that you may write to.*kept$"):
        files.write_text(tmp_path / "file" / "text", "")
