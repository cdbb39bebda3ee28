"""Depth-wise nesting: strict over the grid's partial order, bit for bit; all ways to run a node agree; along a chain it is an RDN."""

import numpy as np
import pytest
import torch
from support.networks import NETWORKS, build, grid_of, make, slim
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from rdnlib import to_rdn
from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.deployment import checkpoint
from rdnlib.deployment.export import export
from rdnlib.errors import ConfigError
from rdnlib.madds import count, count_groups, count_incremental, count_subnetworks
from rdnlib.models import mobilenet_v2, mobilenext
from rdnlib.nn.depthwise import deepen
from rdnlib.order import best_order
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.analysis import compatibility
from rdnlib.reproduction.experiments.policies import fit_policies
from rdnlib.surgery.cut import choose_cut, cuts
from rdnlib.training.evaluate import Outputs
from rdnlib.training.recipe import joint_loss

CHAIN = [(1, 0), (3, 0), (4, 1), (7, 1)]
DEEP = {"front": 0, "light": 0, "light_heads": 0, "back": 1, "heads": 1}  # which parts N_{i,0} does without


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def number(node, rdn) -> int:
    """Of a node, its place in the logits."""
    return rdn.nodes.index(node)


@pytest.mark.parametrize("k", [2, 4])
def test_noise_outside_what_a_node_contains_changes_no_bit_of_it(name, k, images):
    rdn = grid_of(name, images, k=k)
    values = {**dict(rdn.named_parameters()), **dict(rdn.named_buffers())}
    clean = {path: value.clone() for path, value in values.items()}
    owners = rdn.owners()
    with torch.no_grad():
        logits = rdn(images)
        for width, depth in rdn.nodes[::3]:
            for path, groups in owners.items():
                values[path].copy_(clean[path])
                foreign = (groups > width) | (DEEP[path.split(".")[0]] > depth)
                values[path][foreign] = 100 * torch.rand_like(values[path][foreign])
            noisy = rdn(images)
            inside = [number((i, j), rdn) for i, j in rdn.nodes if i <= width and j <= depth]
            outside = [index for index in range(len(rdn.nodes)) if index not in inside]
            assert torch.equal(noisy[:, inside], logits[:, inside])
            for index in outside:  # and only those nodes are spared
                assert not torch.equal(noisy[:, index], logits[:, index])


def test_every_parameter_but_those_that_all_share_has_an_owner(name, images):
    before = make(name, images)
    after = deepen(before)
    shared = [{path for path, _ in rdn.named_parameters()} - set(rdn.owners()) for rdn in (before, after)]
    assert {path.split(".", 1)[1] for path in shared[0]} == {path.split(".", 1)[1] for path in shared[1]}


def test_all_ways_to_run_a_node_agree(name, images):
    rdn, images = grid_of(name, images, fitted=True).double(), images[:2].double()
    chain = rdn.along(CHAIN)
    with torch.no_grad():
        logits = rdn(images)
        assert logits.shape == (len(images), 14, 6)
        same = {"rtol": 1e-5, "atol": 1e-5}
        for index, node in list(enumerate(rdn.nodes, start=1))[::3]:
            torch.testing.assert_close(rdn.subnetwork(index)(images), logits[:, index - 1], **same)
            torch.testing.assert_close(rdn(images, upto=index), logits[:, :index], **same)
            torch.testing.assert_close(rdn.along([node]).start(images).logits, logits[:, index - 1], **same)
        state = chain.start(images)
        for index, node in enumerate(CHAIN, start=1):
            state = state if index == 1 else chain.advance(state, to=index)
            torch.testing.assert_close(state.logits, logits[:, number(node, rdn)], **same)
            jumped = state if index == 1 else chain.advance(chain.start(images), to=index)
            torch.testing.assert_close(jumped.logits, state.logits, **same)


def test_the_deep_nodes_are_the_rdn_that_was_split(name, images):
    rdn = make(name, images)
    for calibration in (None, images):
        deep = deepen(rdn, calibration=calibration)
        with torch.no_grad():
            torch.testing.assert_close(deep(images)[:, 7:], rdn(images), rtol=1e-4, atol=1e-4)


def test_every_parameter_gets_a_gradient_from_the_joint_loss(name, images):
    rdn = grid_of(name, images).train()
    joint_loss(rdn(images), torch.arange(len(images)) % 6).backward()
    assert [n for n, p in rdn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_one_pass_serves_all_nodes(images):
    rdn, calls = grid_of("mobilenext", images), []
    for part in (rdn.front, rdn.light, rdn.back):
        for layer in part.layers.values():
            layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    rdn(images)
    assert len(calls) == len(set(calls)) == sum(len(part.layers) for part in (rdn.front, rdn.light, rdn.back))


def flops(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return result, counter.get_total_flops() // 2


def test_counts_are_those_of_the_extracted_subnetworks(name, images):
    rdn, one = grid_of(name, images), images[:1]
    table = count_subnetworks(rdn, 32)
    for row in table.iloc[:: 1 if name == "mobilenext" else 4].itertuples():
        alone = rdn.subnetwork(row.subnetwork)
        assert row.madds == flops(lambda alone=alone: alone(one))[1]
        assert row.params == sum(p.numel() for p in alone.parameters())
        if row.subnetwork in (1, 13):
            total = count(alone, 32).sum(numeric_only=True)
            assert (row.madds, row.madds_elementwise) == (total["madds"], total["madds_elementwise"])


def test_advancing_computes_only_what_is_new(name, images):
    rdn, one = grid_of(name, images).along(CHAIN), images[:1]
    expected, state = count_incremental(rdn, 32), None
    assert expected["total"].tolist() == count_subnetworks(rdn, 32)["madds"].tolist()
    for row in expected.itertuples():
        step = (lambda: rdn.start(one)) if state is None else lambda s=state, i=row.subnetwork: rdn.advance(s, to=i)
        state, spent = flops(step)
        assert spent == row.groups
        assert flops(lambda state=state: state.logits)[1] == row.answer
    if rdn.heads.tail is not None:
        return  # of private batch norms a table counts one sub-network's
    used = {path: value.numel() for path, value in rdn.named_parameters()}
    for path, groups in rdn.owners().items():
        if path.startswith("light") and path in used:  # no early exit of CHAIN runs the light blocks of later groups
            used[path] -= dict(rdn.named_parameters())[path][groups > 3].numel()
    assert expected["params"].sum() == sum(used.values())


def test_training_starts_from_a_fitted_exit_nearer_to_the_rdn(images):
    """The fitted light exit resembles N_K's answers more than the random one does."""
    rdn = to_rdn(build("mobilenext", images), 4, select="random", init="reconstruct", calibration=images)
    with torch.no_grad():
        wanted = rdn(images)[:, -1]
        error = [
            F.mse_loss(deepen(rdn, calibration=data)(images)[:, 6], wanted).item() / wanted.var().item()
            for data in (images, None)
        ]
    assert error[0] < 0.5 * error[1]


def test_the_light_blocks_are_light():
    """At the paper's size: a few per cent of the network, and every early exit saves something."""
    for builder in (mobilenext, mobilenet_v2):
        rdn = deepen(to_rdn(builder(num_classes=1000), 4, select="identity"))
        early, late = count_subnetworks(rdn, 224)["madds"].to_numpy().reshape(2, 7)
        groups = count_groups(rdn, 224)
        assert 0.4 < rdn.config["depth"]["share"] < 0.6
        assert groups.loc[groups["name"].str.startswith("light"), "madds"].sum() < 0.15 * late[-1]
        assert (early < late).all()


class Erratic(PolicyNetwork):
    """Sends images to all exits."""

    def forward(self, features):
        assert features.shape[1] == self.config()["in_features"]
        return torch.rand(len(features), 4, generator=torch.Generator().manual_seed(0))


def test_along_a_chain_images_leave_early_for_real(images):
    rdn = grid_of("mobilenet_v2", images).along(CHAIN)
    policy = Erratic(rdn.first_channels, 4, (16,)).eval()
    saved = saved_fraction(count_subnetworks(rdn, 32)["madds"])
    with torch.no_grad():
        logits, exits = DynamicRDN(rdn, policy, saved, float("inf"))(images)
        whole = rdn(images)
    assert len(exits.unique()) > 2
    torch.testing.assert_close(logits, whole[torch.arange(len(images)), exits - 1], rtol=1e-4, atol=1e-4)


def test_policies_are_fitted_along_a_chain(images):
    rdn = grid_of("mobilenext", images).along(CHAIN)
    rng = np.random.default_rng(0)
    outputs = {
        split: Outputs(
            top1=rng.random((80, 4)) < 0.7, top5=np.ones((80, 4), bool), confidence=np.ones((80, 4)),
            guesses=rng.integers(0, 6, (80, 4)), features=rng.random((80, rdn.first_channels), dtype=np.float32),
            evidence=rng.random((80, 4, 5), dtype=np.float32),
        ) for split in ("train", "calibration")
    }  # fmt: skip
    counts = count_incremental(rdn, 32)
    settings = {"hidden": [4], "epochs": 2}
    fitted = fit_policies(
        rdn, outputs, counts["total"], answers=counts["answer"], one_shot=settings, sequential=settings, seed=0
    )
    extra = np.array(fitted.costs["informed_madds"]) - fitted.costs["informed_madds"][0]
    assert extra.tolist() == [0, *[counts["answer"][0]] * 3]  # an early exit is dearer than a classifier
    stops = np.diff(np.array(fitted.costs["sequential_madds"]))[-1]
    assert stops == counts["answer"][2]


def test_a_node_can_be_exported(images, tmp_path):
    rdn = grid_of("mobilenet_v2", images).along(CHAIN)
    assert export(rdn.subnetwork(1), tmp_path / "early.onnx", 32) < 1e-4


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


def test_the_order_of_a_measured_grid_can_be_executed(images):
    rdn = grid_of("mobilenext", images)
    table = count_subnetworks(rdn, 32).assign(accuracy=np.random.default_rng(0).random(14))
    table[["width", "depth"]] = rdn.nodes
    order, _ = best_order(table)
    assert rdn.along(order).num_subnetworks == len(order)
    rdn.along(order).start(images)


def test_the_description_has_every_part_and_no_light_blocks_in_the_supernet(images):
    before = make("mobilenext", images)
    rdn = deepen(before)
    table, counts, original = rdn.describe(32), count_groups(rdn, 32), before.describe(32)
    for column in ("params", "madds"):
        assert table[f"{column}_N7"].sum() == counts[column].sum()
        assert table[f"{column}_N1"].sum() == counts.loc[counts["group"] < 2, column].sum()
        assert table[f"{column}_supernet"].sum() == original[f"{column}_supernet"].sum()


@pytest.mark.parametrize("other", ["alexnet", "vgg11_bn", "mobilenet_v3_small", "regnet_x_400mf"])
def test_other_networks_can_be_split_too(other):
    """Flat features behind hidden Linear layers, squeeze-and-excitation, grouped convolution."""
    model, images = compatibility.blank(other), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = slim(model) if compatibility.FAMILY[other] in ("AlexNet", "VGG") else model
    rdn = deepen(to_rdn(compatibility.fill(model), 4, select="identity", plain=compatibility.PLAIN.get(other, ())))
    with torch.no_grad():
        logits = rdn(images)
        for index in (3, 10):
            alone, together = rdn.subnetwork(index)(images), logits[:, index - 1]
            assert (alone - together).abs().max() <= 1e-4 * together.abs().max()


def test_cuts_leave_one_value(name, images):
    """The obvious way: cut, and see that the second half runs on the first half's output alone."""
    rdn = make(name, images)
    possible = cuts(rdn.trunk)
    with torch.no_grad():
        whole = rdn.features(images)
        for cut in possible:
            front, back = rdn.trunk.split(cut.value)
            torch.testing.assert_close(back(front(images, 1, 7), 1, 7), whole)
    assert [cut.share for cut in possible] == sorted(cut.share for cut in possible)


def test_shares_are_those_of_counting(images):
    """At a size that no stride cuts unevenly."""
    trunk, image = make("mobilenext", images).trunk, torch.zeros(1, 3, 64, 64)
    whole = flops(lambda: trunk(image, 1, 7))[1]
    for cut in cuts(trunk)[::4]:
        front, _ = trunk.split(cut.value)
        assert cut.share == pytest.approx(flops(lambda front=front: front(image, 1, 7))[1] / whole)


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


def test_a_module_names_the_cut(images):
    rdn = make("resnext50", images)
    assert choose_cut(rdn.trunk, "layer2").value == choose_cut(rdn.trunk, "layer2.3").value
    assert choose_cut(rdn.trunk, "layer2").after == "layer2.3.relu"


def test_orders_that_are_no_chains_are_refused(images):
    rdn = grid_of("mobilenext", images)
    for wrong, message in [
        ([(2, 0), (1, 1)], r"\(1, 1\) does not contain \(2, 0\)"),
        ([(1, 0), (1, 0)], r"\(1, 0\) does not contain \(1, 0\)"),
        ([(1, 0), (8, 1)], r"no node \(8, 1\)"),
        ([], "no node"),
    ]:
        with pytest.raises(ConfigError, match=message):
            rdn.along(wrong)
    with pytest.raises(ConfigError, match="choose one"):
        rdn.start(images)
    chain = rdn.along(CHAIN)
    with pytest.raises(ConfigError, match="choose from 3 to 4"):
        chain.advance(chain.advance(chain.start(images), to=2), to=2)
