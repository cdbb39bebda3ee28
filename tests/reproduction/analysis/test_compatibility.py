"""torchvision's networks: what is accepted nests strictly, what is refused says why, and the counts are torchvision's."""

import pytest
import torch
import torchvision.models as tv
from support.networks import fill, slim

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.madds import count, count_subnetworks
from rdnlib.reproduction.analysis import compatibility

K = 4
REFUSED = {
    "densenet121": "(cat)", "googlenet": "(cat)", "inception_v3": "(cat)", "squeezenet1_0": "(cat)",
    "shufflenet_v2_x1_0": "(cat)", "convnext_tiny": "(LayerNorm2d)", "swin_t": "channel", "vit_b_16": "size", "maxvit_t": "size",
}  # fmt: skip
ACCEPTED = [name for name in compatibility.FAMILY if name not in REFUSED]
LARGE = ("vgg16_bn", "resnet50", "wide_resnet50_2", "efficientnet_b1", "efficientnet_v2_s")


def test_the_survey_is_large_and_both_outcomes_occur():
    assert len(compatibility.FAMILY) >= 28
    assert len(ACCEPTED) >= 20 and len(REFUSED) >= 8
    assert {compatibility.FAMILY[name] for name in ACCEPTED}.isdisjoint(compatibility.FAMILY[name] for name in REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_an_accepted_network_nests_strictly(name):
    """Large noise in all that belongs to later groups leaves the earlier sub-networks as they are, bit for bit."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    model = compatibility.blank(name)
    if compatibility.FAMILY[name] in ("AlexNet", "VGG"):
        model = slim(model)
    rdn = to_rdn(fill(model), K, select="identity", plain=compatibility.PLAIN.get(name, ()))
    kept = (K,) if name in LARGE else (2 * K - 2, K, 1)
    with torch.no_grad():
        clean = rdn(images)  # (2, K, classes)
        assert torch.isfinite(clean).all()
        spread = (clean[0] - clean[1]).abs().amax(dim=1) / clean.abs().amax(dim=(0, 2))
        assert (spread > 0.01).all()  # the features have not died on the way
        for index in (1,) if name in LARGE else kept:
            alone, together = rdn.subnetwork(index)(images), clean[:, index - 1]
            assert (alone - together).abs().max() <= 1e-5 * together.abs().max()
        values = {**dict(rdn.named_parameters()), **dict(rdn.named_buffers())}
        for index in kept:  # more and more of the network becomes noise
            for path, owner in rdn.owners().items():
                later = owner > index
                values[path][later] = 100 * torch.rand_like(values[path][later])
            noisy = rdn(images)
            assert torch.equal(noisy[:, :index], clean[:, :index])
            assert not torch.equal(noisy[:, index:], clean[:, index:])


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_sentence_that_says_why(name):
    row = compatibility.try_model(name)
    assert not row["accepted"]
    assert row["reason"].startswith("cannot nest '") and REFUSED[name] in row["reason"]
    assert "\n" not in row["reason"] and len(row["reason"]) < 250


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_the_networks_are_torchvisions(name):
    """Parameters, and multiply-adds to 1 %, as published with the weights (rounded there to three digits of a billion)."""
    published = tv.get_model_weights(name).DEFAULT
    total = count(compatibility.blank(name), published.transforms().crop_size[0]).sum(numeric_only=True)
    assert total["params"] == published.meta["num_params"]
    assert total["madds"] / 1e9 == pytest.approx(published.meta["_ops"], rel=0.01, abs=6e-4)


@pytest.mark.slow
def test_the_table_counts_without_numbers_what_is_counted_with_them():
    name = "mobilenet_v3_small"
    table = compatibility.survey(["squeezenet1_0", name], k=3, input_size=96)
    assert table["model"].tolist() == [name, "squeezenet1_0"]
    assert table["accepted"].tolist() == [True, False]
    row = table.iloc[0]
    model = fill(compatibility.blank(name))
    counted = count_subnetworks(to_rdn(model, 3, select="identity"), 96)
    assert row[[f"N_{i}" for i in range(1, 6)]].tolist() == pytest.approx(counted["madds"] / 1e6)
    assert row["params_rdn"] == pytest.approx(counted["params"].iloc[-1] / 1e6)
    assert row["madds"] == pytest.approx(count(model, 96)["madds"].sum() / 1e6)
    assert row["N_1"] < row["N_3"] < row["madds"] < row["N_5"]
    assert (row["subnetworks"], row["align"]) == (5, "its own")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "regnet_x_400mf"])
def test_the_full_size_is_accepted(name):
    row = compatibility.try_model(name)
    assert row["accepted"] and row["subnetworks"] == 7 and row["align"] == "new"


@pytest.mark.slow
def test_stages_with_too_few_conv_groups_are_why_some_layers_stay_plain():
    row = compatibility.try_model("regnet_x_400mf", plain=())
    assert not row["accepted"] and "2 conv-groups" in row["reason"]
    assert compatibility.try_model("regnet_x_400mf", k=2, plain=())["accepted"]


def test_an_unknown_network_is_refused():
    with pytest.raises(ConfigError, match="unknown network 'lenet'"):
        compatibility.try_model("lenet")
