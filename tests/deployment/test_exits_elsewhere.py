"""Real exits as ONNX files, executed by a program that is not Python: the same exits and logits."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import describe_model, make
from support.policies import policy_for

from rdnlib import __main__ as cli
from rdnlib import deploy
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.deployment import checkpoint, export
from rdnlib.errors import CheckpointError, ConfigError, RdnError
from rdnlib.madds import count_incremental
from rdnlib.policy.inference import DynamicRDN
from rdnlib.utils.files import cache_folder
from rdnlib.utils.hashing import network_hash

RUNTIME = "onnxruntime-node@1.30.0"
PROGRAM = Path(__file__).resolve().parents[2] / "book" / "exits.mjs"


@pytest.fixture(scope="module")
def saved(images, tmp_path_factory):
    """An RDN, a policy that was fitted for it, and where both are saved."""
    folder = tmp_path_factory.mktemp("saved")
    rdn = make("mobilenext", images, k=2)
    policy = policy_for(deploy(rdn), images)
    model = describe_model("mobilenext")
    checkpoint.save(folder / "rdn.safetensors", rdn, {"model": model, "rdn": rdn.config, "input_size": 32})
    about = {"policy": policy.config(), "network": network_hash(rdn)}
    checkpoint.save(folder / "policy.safetensors", policy, about)
    return rdn, policy, folder


@pytest.fixture(scope="module")
def exported(saved):
    folder = saved[2]
    arguments = ["export", "--checkpoint", f"{folder}/rdn.safetensors", "--policy", f"{folder}/policy.safetensors"]
    cli.app([*arguments, "--out", f"{folder}/stages"], standalone_mode=False)
    return folder / "stages"


def test_the_folder_holds_what_it_says(exported):
    about = json.loads((exported / "stages.json").read_text())
    assert about["subnetworks"] == 3 and about["size"] == [32, 32] and about["state"][0] == "state_0"
    names = sorted(path.name for path in exported.iterdir())
    assert names == ["first.onnx", "stages.json", "to_2.onnx", "to_3.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.7, 5.0])
def test_a_program_in_javascript_takes_the_same_exits(saved, exported, images, lam, node_modules, tmp_path):
    rdn, policy, _ = saved
    shutil.copy(PROGRAM, node_modules.parent / PROGRAM.name)
    images.numpy().astype("<f4").tofile(tmp_path / "images.bin")
    command = ["node", PROGRAM.name, str(exported), str(tmp_path / "images.bin"), str(lam)]
    done = subprocess.run(command, cwd=node_modules.parent, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    share = saved_fraction(count_incremental(rdn, 32)["total"])
    logits, exits = DynamicRDN(rdn, policy, share, lam)(images)
    assert [line["exit"] for line in lines] == exits.tolist()
    assert [line["label"] for line in lines] == logits.argmax(dim=1).tolist()
    np.testing.assert_allclose(
        [line["logits"] for line in lines], logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item()
    )


@pytest.fixture(scope="module")
def node_modules():
    """ONNX Runtime for Node.js, from the npm registry once, then from the cache."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node.js with npm: apt-get install nodejs npm")
    folder = cache_folder() / "npm" / RUNTIME.replace("@", "-")
    if not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), RUNTIME]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"{RUNTIME} could not be had from the npm registry")
    return folder / "node_modules"


def test_a_file_that_computes_something_else_is_not_put_in_place(saved, tmp_path, monkeypatch):
    rdn, policy, _ = saved
    monkeypatch.setattr(export, "_deviation", lambda *_: 0.5)
    with pytest.raises(RdnError, match=r"first.onnx would deviate from torch by 5.0e-01"):
        export.export_stages(rdn, policy, [0.5, 0.2, 0.0], tmp_path / "stages", 32)
    assert not list((tmp_path / "stages").iterdir())


def test_exits_that_differ_are_infinitely_far(saved, tmp_path):
    rdn, policy, _ = saved
    first = export.First(deploy(rdn), policy, [0.5, 0.2, 0.0]).eval()
    inputs = {"images": torch.randn(2, 3, 32, 32), "lambda": torch.ones(1)}
    names = [f"state_{number}" for number in range(len(first.state_names))]
    export.write_onnx(first, inputs.values(), tmp_path / "f.onnx", [*inputs], ["logits", "exits", *names])
    with torch.no_grad():
        assert export._deviation(first, [inputs], tmp_path / "f.onnx") < 1e-4
        first.saved.copy_(torch.tensor([0.0, 0.0, 100.0]))  # all leave at N_3 now
        assert export._deviation(first, [inputs], tmp_path / "f.onnx") == float("inf")


def test_what_is_not_a_number_is_infinitely_far(tmp_path):
    network, inputs = torch.nn.Linear(2, 2).eval(), {"images": torch.ones(2, 2)}
    export.write_onnx(network, inputs.values(), tmp_path / "f.onnx", ["images"], ["logits"])
    assert export._deviation(network, [inputs], tmp_path / "f.onnx") < 1e-6
    with torch.no_grad():
        network.bias.fill_(float("nan"))
    assert export._deviation(network, [inputs], tmp_path / "f.onnx") == float("inf")


def test_what_cannot_be_exported_is_refused(saved, tmp_path):
    _, _, folder = saved
    command = ["export", "--checkpoint", f"{folder}/rdn.safetensors", "--out", str(tmp_path / "stages")]
    with pytest.raises(ConfigError, match="say what to export"):
        cli.app(command, standalone_mode=False)
    with pytest.raises(CheckpointError, match="stages need the policy that decides after N_1"):
        cli.app([*command, "--policy", f"{folder}/rdn.safetensors"], standalone_mode=False)
