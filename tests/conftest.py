"""Shared fixtures: a small net that trains for real, deterministic single-threaded torch, and deterministic hypothesis.

The same command gives the same result. To look for new counterexamples: HYPOTHESIS_PROFILE=explore python -m pytest tests
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from support.networks import settle_norms
from torch import nn

from rdnlib.models import mobilenext
from rdnlib.utils.devices import flushes_denormals

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # of kernels and commands that tests start: workers share the cores already
torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def small(images) -> nn.Module:
    """MobileNeXt 0.25 with ten classes and settled statistics; tests must not change it."""
    torch.manual_seed(0)
    return settle_norms(mobilenext(width_mult=0.25, num_classes=10), images)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """The same for all workers of pytest-xdist: what one has made there, under a lock, the others find."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny_results(shared_folder) -> Path:
    """All experiments of the profile `tiny`, finished. Not to be written in: see `copy_of_tiny`."""
    from support.profiles import TINY

    from rdnlib.reproduction.experiments import ensure_all, open_workspace

    ensure_all(open_workspace(TINY, out=shared_folder / "tiny"), progress=False)  # which locks each
    return shared_folder / "tiny"


@pytest.fixture(scope="module")
def copy_of_tiny(tiny_results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(tiny_results, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """No test leaves its process changed: denormal numbers counting as zero change what later tests compute, another `__main__`
    keeps multiprocessing from starting the processes of later tests.
    """
    main = sys.modules["__main__"]
    yield
    flushes, other = flushes_denormals(), sys.modules["__main__"] is not main
    torch.set_flush_denormal(False)  # or all later tests would fail as well
    sys.modules["__main__"] = main
    assert not flushes
    assert not other
