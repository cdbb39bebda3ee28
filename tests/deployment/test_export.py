"""ONNX files: the logits of torch, for any batch size; a file that is wrong or cannot be written leaves nothing behind."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from support.networks import describe_model, make

from rdnlib import __main__ as cli
from rdnlib import models
from rdnlib.deployment import checkpoint, export
from rdnlib.errors import CheckpointError, ConfigError, RdnError

PAPERS = ("mobilenext", "mobilenet_v2", "resnext50")


def describe(name, rdn, **more):
    return {"model": describe_model(name), "rdn": rdn.config, **more}


def run(path, images):
    with torch.no_grad():
        return torch.from_numpy(ReferenceEvaluator(onnx.load(path)).run(None, {"images": images.numpy()})[0])


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def saved(images, tmp_path_factory):
    """An RDN and where it is saved; images of 32 pixels."""
    rdn = make("mobilenext", images, k=3)
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    checkpoint.save(path, rdn, describe("mobilenext", rdn))
    return rdn, path


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("index", [1, 4])
def test_a_file_gives_the_logits_of_the_rdn_for_any_batch(name, index, images, tmp_path):
    rdn = make(name, images, k=3)
    checkpoint.save(tmp_path / "model.safetensors", rdn, describe(name, rdn, input_size=32))
    out = tmp_path / "net.onnx"
    _, pixels, deviation = export.export_checkpoint(tmp_path / "model.safetensors", index, out)
    assert pixels == 32 and 0 <= deviation < export.TOLERANCE
    for size in (1, 5):
        with torch.no_grad():
            expected = rdn(images[:size])[:, index - 1]
        torch.testing.assert_close(
            run(out, images[:size]), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item()
        )


def test_any_network_can_be_exported_without_a_checkpoint(images, tmp_path):
    rdn = make("mixed", images)
    export.export(rdn.subnetwork(6), tmp_path / "net.onnx", (32, 32))
    with torch.no_grad():
        expected = rdn(images)[:, 5]
    torch.testing.assert_close(run(tmp_path / "net.onnx", images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_names_shapes_and_nothing_of_later_groups(saved, tmp_path):
    rdn, path = saved
    sizes = []
    for index in (1, 5):
        out = tmp_path / f"{index}.onnx"
        export.export_checkpoint(path, index, out, 32)
        graph = onnx.load(out).graph
        (image,), (logits,) = graph.input, graph.output
        shape = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
        assert (image.name, shape) == ("images", ["batch", 3, 32, 32])
        assert logits.name == "logits" and logits.type.tensor_type.shape.dim[0].dim_param == "batch"
        sizes.append(sum(int(np.prod(value.dims)) for value in graph.initializer))
        alone = rdn.subnetwork(index)
        statistics = sum(b.numel() for n, b in alone.named_buffers() if n.endswith(("running_mean", "running_var")))
        assert sizes[-1] <= sum(p.numel() for p in alone.parameters()) + statistics
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("recorded", "given", "used"), [({}, None, 224), ({"input_size": 48}, None, 48), ({"input_size": 48}, 64, 64)]
)
def test_the_input_size(recorded, given, used, saved, tmp_path, monkeypatch):
    rdn, _ = saved
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, rdn, describe("mobilenext", rdn, **recorded))
    monkeypatch.setattr(export, "export", lambda network, out, size: size)
    assert export.export_checkpoint(path, 1, tmp_path / "net.onnx", given)[1:] == (used, used)


@pytest.mark.slow
def test_exporting_leaves_the_network_as_it_is(saved, tmp_path):
    network = saved[0].subnetwork(2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export.export(network, tmp_path / "net.onnx", 32)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_put_in_place(saved, tmp_path, monkeypatch):
    (tmp_path / "net.onnx").write_text("the last good one")
    write = export.write_onnx

    def write_another(network, images, path, *names):
        with torch.no_grad():
            network.network.heads.bias.add_(0.1)  # of the folded heads
            write(network, images, path, *names)
            network.network.heads.bias.sub_(0.1)

    monkeypatch.setattr(export, "write_onnx", write_another)
    with pytest.raises(RdnError, match="deviate"):
        export.export(saved[0].subnetwork(2), tmp_path / "net.onnx", 32)
    assert leftovers(tmp_path) == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "the last good one"


def test_only_subnetworks_of_an_rdn_are_exported(small, saved, tmp_path):
    with pytest.raises(ConfigError, match=r"rdn.subnetwork\(i\), not a RDN"):
        export.export(saved[0], tmp_path / "net.onnx", 32)
    base = tmp_path / "base.safetensors"
    checkpoint.save(base, small, {"model": {"name": "mobilenext", "width_mult": 0.25, "num_classes": 10}})
    with pytest.raises(CheckpointError, match="holds a MobileNeXt, not an RDN"):
        export.export_checkpoint(base, 1, tmp_path / "net.onnx")


@pytest.mark.slow
def test_a_path_that_cannot_be_written(saved, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "net.onnx", tmp_path):
        with pytest.raises(ConfigError, match="cannot write"):
            export.export_checkpoint(saved[1], 1, out, 32)
    assert leftovers(tmp_path) == ["file"]


def command(monkeypatch, *arguments):
    """The exit code or error line of `rdn export …`."""
    monkeypatch.setattr(sys, "argv", ["rdn", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.slow
def test_the_command(saved, tmp_path, monkeypatch, capsys):
    out = tmp_path / "net.onnx"
    options = ("--checkpoint", saved[1], "--out", out, "--input-size", 32)
    assert not command(monkeypatch, *options, "--subnetwork", 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{out}: N_2 of 5")
    assert lines[1] == "images (batch, 3, 32, 32) → logits (batch, 6)"
    assert out.is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--subnetwork": 6}, "sub-network 6 does not exist: choose from 1 to 5"),
        ({"--subnetwork": 0}, "sub-network 0 does not exist"),
        ({"--checkpoint": "nowhere.safetensors"}, "does not exist"),
        ({"--out": "/dev/null/net.onnx"}, "cannot write /dev/null/net.onnx"),
    ],
)
def test_errors_are_one_line(options, message, saved, tmp_path, monkeypatch):
    options = {"--checkpoint": saved[1], "--subnetwork": 1, "--out": tmp_path / "net.onnx", **options}
    line = command(monkeypatch, *(part for pair in options.items() for part in pair))
    assert line.startswith("error: ") and message in line and "\n" not in line
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_nothing_is_imported_by_a_name_that_a_checkpoint_carries(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "net_of_checkpoint.py").write_text(
        "from pathlib import Path\nfrom rdnlib.models import mobilenext\nPath('imported').touch()\n"
        "def build(**options):\n    return mobilenext(**options)\n"
    )
    path = tmp_path / "model.safetensors"
    checkpoint.save(
        path,
        saved[0],
        describe("mobilenext", saved[0])
        | {"model": describe_model("mobilenext") | {"name": "net_of_checkpoint:build"}},
    )
    options = ("--checkpoint", path, "--out", tmp_path / "net.onnx", "--input-size", 32, "--subnetwork", 1)
    line = command(monkeypatch, *options)
    assert "super-net 'net_of_checkpoint:build' is not known here: rdnlib.register_model it first" in line
    assert "\n" not in line and not (tmp_path / "imported").exists()
    with pytest.raises(CheckpointError, match="not known here"):
        checkpoint.load(path)
    assert not (tmp_path / "imported").exists()
    assert not command(monkeypatch, *options, "--model", "net_of_checkpoint:build")
    assert (tmp_path / "imported").exists() and (tmp_path / "net.onnx").is_file()
    assert isinstance(checkpoint.load(path), type(saved[0]))  # it is registered now
