"""The library as a stranger has it: installed from its wheel, used in an empty folder, with a network, images and a profile of their own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TEXT = {"capture_output": True, "text": True}
pytestmark = pytest.mark.slow

NETWORK = """
from torch import nn


def layer(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def build(num_classes, channels=8):
    return nn.Sequential(
        layer(3, channels, 1), layer(channels, 2 * channels, 2), layer(2 * channels, 4 * channels, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, num_classes),
    )
"""
PROFILE = """
data: {name: folder, size: 16, calibration: 0.2}
model: {name: "mynet:build", channels: 8}
recipe: {size: 16, batch_size: 4, crop_scale: [0.8, 1.0], min_lr: 1e-5}
base: {epochs: 2, lr: 0.05}
rdn:
  k: 2
  select: greedy-relative
  calibration_images: 12
  epochs: 1
  lr: {base: 0.02, copy: 0.02, reconstruct: 0.02}
policy: {hidden: [8], epochs: 5}
"""


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of a fresh environment with the wheel in it; everything but rdnlib is this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "heavy.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    where = subprocess.run(
        [python, "-c", "import rdnlib; print(rdnlib.__file__)"], cwd=folder, env=_environment(), **TEXT
    )
    assert Path(where.stdout).is_relative_to(packages), where
    before = sorted(packages.rglob("rdnlib/resources/**/*"))
    assert packages / "rdnlib/resources/book/index.md" in before
    yield python
    assert sorted(packages.rglob("rdnlib/resources/**/*")) == before, "sources are only read"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the stranger brings: two files, and five images of each of three classes."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mynet.py").write_text(NETWORK)
    (folder / "mine.yaml").write_text(PROFILE)
    draw = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 3)):
        for label in ("ant", "bee", "cat"):
            (folder / "photographs" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photographs" / split / label / f"{number}.png")
    return folder


@pytest.fixture
def rdn(python, folder):
    def run(*arguments, fails=False) -> str:
        command = [python.with_name("rdn"), *arguments]
        done = subprocess.run(command, cwd=folder, env=_environment(), **TEXT)
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    return run


def test_a_network_of_ones_own_is_counted(rdn):
    rows = json.loads(rdn("count", "--model", "mynet:build", "--input-size", "16", "--classes", "3", "--rdn", "--json"))
    assert [row["subnetwork"] for row in rows] == list(range(1, 8))


def test_it_is_trained_on_ones_own_images_by_ones_own_profile_and_exported(rdn, folder):
    options = ["--profile", "mine.yaml", "--data-root", "photographs"]
    rdn("experiment", "run", "policy-reconstruct", *options)
    assert list(folder.glob("build/mine/experiments/policy-reconstruct-*/result.json"))
    (network,) = folder.glob("build/mine/experiments/rdn-reconstruct-*/model.safetensors")
    assert "policy-reconstruct   finished" in rdn("experiment", "list", *options)
    call = ["export", "--checkpoint", network, "--subnetwork", "1", "--out", folder / "n1.onnx"]
    refusal = rdn(*call, fails=True)
    assert "super-net 'mynet:build' is not known here" in refusal and len(refusal.splitlines()) == 1
    rdn(*call, "--model", "mynet:build")
    assert (folder / "n1.onnx").is_file()


def test_a_book_of_one_executed_notebook(rdn, folder):
    rdn("reproduce", "--profile", "mine.yaml", "--data-root", "photographs", "--notebook", "01_nested_convolution")
    book = folder / "build" / "mine" / "html"
    assert "profile <b>mine</b>" in (book / "index.html").read_text()
    assert json.loads((folder / "build/mine/manifest.json").read_text())["notebooks"] == ["01_nested_convolution.ipynb"]
