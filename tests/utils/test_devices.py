"""Two processes do what one does: the same weights after 20 steps, the same outputs for every image, one set of files.

They are started by torchrun, on the CPU, with photographs in ImageNet's layout that are decoded by workers.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support import shared_run

from rdnlib.errors import ConfigError
from rdnlib.training.evaluate import evaluate
from rdnlib.utils import devices

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RDN_WORKERS": "1"}
HANGING = 1800  # seconds; it takes half a minute, and several where the machine is busy


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """A folder of photographs after two processes have worked there."""
    folder = shared_run.write_photographs(tmp_path_factory.mktemp("shared"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [shared_run.__file__, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=ENVIRONMENT)
    assert run.returncode == 0, run.stderr[-3000:]
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


@pytest.mark.torchrun
@pytest.mark.parametrize("way", shared_run.WAYS)
def test_two_processes_equal_one_after_twenty_steps(together, way):
    assert 2 * (len(shared_run.photographs(together).train) // 8) == shared_run.STEPS
    shared_run.trained(together, "alone", **shared_run.WAYS[way])
    same(together, f"shared {way}", "alone")


@pytest.mark.torchrun
def test_a_shared_run_that_was_stopped_goes_on_to_the_same_numbers(together):
    same(together, "resumed", "shared two parts", 0)
    assert not (together / "resume.safetensors").exists()


@pytest.mark.torchrun
def test_shared_evaluation_sees_every_image_once_and_in_order(together):
    model = shared_run.network()
    model.load_state_dict(load_file(together / "shared four parts.safetensors"))
    images = shared_run.photographs(together).validation
    alone = evaluate(model, images, size=16, batch_size=3)
    assert len(images) == len(alone.top1) == 23
    for process in range(2):
        shared = torch.load(together / f"outputs-{process}.pt")
        for name, values in shared.items():
            assert np.array_equal(values.numpy(), getattr(alone, name)), name


@pytest.mark.torchrun
def test_shared_experiments_leave_the_files_of_one(together):
    left = {path.name.rsplit("-", 2)[0]: path for path in (together / "out" / "experiments").glob("[!.]*")}
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


def test_a_process_alone_is_the_main_one():
    assert devices.here().is_main_process and devices.here().num_processes == 1
    assert devices.gather([1]) == [1]
    assert devices.broadcast("alone") == "alone"


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_a_setting_is_a_number_of_at_least_0(monkeypatch, text):
    monkeypatch.setenv("RDN_WORKERS", text)
    with pytest.raises(ConfigError, match=f"RDN_WORKERS must be a number of at least 0, not '{text}'"):
        devices.setting("RDN_WORKERS", 2)


def test_denormals_count_as_zero_only_inside_and_as_before_afterwards():
    assert not devices.flushes_denormals()
    with devices.flushing_denormals():
        with devices.flushing_denormals():
            assert torch.tensor([1e-40]).mul(1.0).item() == 0
        assert devices.flushes_denormals()  # the outer one still holds
    assert not devices.flushes_denormals()
