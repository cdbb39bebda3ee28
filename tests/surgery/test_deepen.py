"""Splitting an RDN along its depth, and its early exits."""

import pytest
import torch
from support.networks import NETWORKS, build, fill, make, slim
from torch import nn
from torch.nn import functional as F

from rdnlib import to_rdn
from rdnlib.deployment import checkpoint
from rdnlib.errors import ConfigError
from rdnlib.madds import count_groups, count_subnetworks
from rdnlib.models import mobilenet_v2, mobilenext
from rdnlib.reproduction.analysis import compatibility
from rdnlib.surgery import deepen

CHAIN = [(1, 0), (3, 0), (4, 1), (7, 1)]


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


@pytest.mark.slow
def test_the_deep_nodes_are_the_rdn_that_was_split(name, images):
    rdn = make(name, images)
    for calibration in (None, images):
        deep = deepen(rdn, calibration=calibration)
        with torch.no_grad():
            torch.testing.assert_close(deep(images)[:, 7:], rdn(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_starts_from_a_fitted_exit_nearer_to_the_rdn(images):
    """The fitted early exit resembles N_K's answers more than the random one does."""
    rdn = to_rdn(build("mobilenext", images), 4, select="random", init="reconstruct", calibration=images)
    with torch.no_grad():
        wanted = rdn(images)[:, -1]
        error = [
            F.mse_loss(deepen(rdn, calibration=data)(images)[:, 6], wanted).item() / wanted.var().item()
            for data in (images, None)
        ]
    assert error[0] < 0.5 * error[1]


def test_the_early_exits_are_light():
    """At the paper's size: a few per cent of the network, and every early exit saves something."""
    for builder in (mobilenext, mobilenet_v2):
        rdn = deepen(to_rdn(builder(num_classes=1000), 4, select="identity"))
        early, late = count_subnetworks(rdn, 224)["madds"].to_numpy().reshape(2, 7)
        groups = count_groups(rdn, 224)
        assert 0.4 < rdn.config["depth"]["share"] < 0.6
        assert groups.loc[groups["name"].str.startswith("early_exit"), "madds"].sum() < 0.15 * late[-1]
        assert (early < late).all()


def test_checkpoints_keep_split_and_order(images, tmp_path):
    description = {"model": {"name": "mobilenet_v2", "width_mult": 0.35, "num_classes": 6}}
    rdn = deepen(make("mobilenet_v2", images), split=0.7)
    for network in (rdn, rdn.along(CHAIN)):
        checkpoint.save(tmp_path / "rdn.safetensors", network, {**description, "rdn": network.config})
        loaded = checkpoint.load(tmp_path / "rdn.safetensors")
        assert loaded.nodes == network.nodes
        assert loaded.config == network.config
        with torch.no_grad():
            assert torch.equal(loaded(images), network.eval()(images))


@pytest.mark.slow
@pytest.mark.parametrize("other", ["alexnet", "vgg11_bn", "mobilenet_v3_small", "regnet_x_400mf"])
def test_other_networks_can_be_split_too(other):
    """Flat features behind hidden Linear layers, squeeze-and-excitation, grouped convolution."""
    model, images = compatibility.blank(other), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = slim(model) if compatibility.FAMILY[other] in ("AlexNet", "VGG") else model
    rdn = deepen(to_rdn(fill(model), 4, select="identity", plain=compatibility.PLAIN.get(other, ())))
    with torch.no_grad():
        logits = rdn(images)
        for index in (3, 10):
            alone, together = rdn.subnetwork(index)(images), logits[:, index - 1]
            assert (alone - together).abs().max() <= 1e-4 * together.abs().max()


class Unsplittable(nn.Module):
    """A single residual block: wherever there are layers before and behind, two values are needed."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)
        self.second, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 6)

    def forward(self, x):
        x = self.first(self.stem(x))
        return self.fc((self.second(F.relu(x)) + x).mean((2, 3)))


def test_what_cannot_be_split_is_refused(images):
    with pytest.raises(ConfigError, match="cannot be split along its depth"):
        deepen(to_rdn(Unsplittable(), 2, select="identity"))
    rdn = make("mobilenext", images)
    for wrong in (0, 1, 1.5, True, None):
        with pytest.raises(ConfigError, match="share of the MAdds between 0 and 1"):
            deepen(rdn, wrong)
    with pytest.raises(ConfigError, match=r"no module of the network is named 'nowhere'.*blocks"):
        deepen(rdn, "nowhere")
    with pytest.raises(ConfigError, match=r"behind 'blocks\.0'"):
        deepen(rdn, "blocks.0")  # plain
    with pytest.raises(ConfigError, match="already"):
        deepen(deepen(rdn))
