"""Depth-wise nesting: strict over the grid's partial order, bit for bit; all ways to run a node agree; along a chain it is an RDN."""

import numpy as np
import pytest
import torch
from support.networks import NETWORKS, grid_of, make
from torch.utils.flop_counter import FlopCounterMode

from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.deployment.export import export
from rdnlib.errors import ConfigError
from rdnlib.madds import count, count_incremental, count_subnetworks
from rdnlib.order import best_order
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.experiments.policies import fit_policies
from rdnlib.surgery import deepen
from rdnlib.training.evaluate import Outputs
from rdnlib.training.loss import joint_loss

CHAIN = [(1, 0), (3, 0), (4, 1), (7, 1)]

DEEP = {"front": 0, "early_exit": 0, "early_exit_heads": 0, "back": 1, "heads": 1}  # which parts N_{i,0} does without


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def number(node, rdn) -> int:
    """Of a node, its place in the logits."""
    return rdn.nodes.index(node)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_every_parameter_gets_a_gradient_from_the_joint_loss(name, images):
    rdn = grid_of(name, images).train()
    joint_loss(rdn(images), torch.arange(len(images)) % 6).backward()
    assert [n for n, p in rdn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_one_pass_serves_all_nodes(images):
    rdn, calls = grid_of("mobilenext", images), []
    for part in (rdn.front, rdn.early_exit, rdn.back):
        for layer in part.layers.values():
            layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    rdn(images)
    assert len(calls) == len(set(calls)) == sum(len(part.layers) for part in (rdn.front, rdn.early_exit, rdn.back))


def flops(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return result, counter.get_total_flops() // 2


@pytest.mark.slow
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


@pytest.mark.slow
def test_advancing_computes_only_what_is_new(name, images):
    rdn, one = grid_of(name, images).along(CHAIN), images[:1]
    expected, state = count_incremental(rdn, 32), None
    assert expected["total"].tolist() == count_subnetworks(rdn, 32)["madds"].tolist()
    rdn = rdn.fold_heads()
    for row in expected.itertuples():
        step = (lambda: rdn.start(one)) if state is None else lambda s=state, i=row.subnetwork: rdn.advance(s, to=i)
        state, spent = flops(step)
        assert spent == row.groups
        assert flops(lambda state=state: state.logits)[1] == row.answer
    if rdn.heads.tail is not None:
        return  # of private batch norms a table counts one sub-network's
    used = {path: value.numel() for path, value in rdn.named_parameters()}
    for path, groups in rdn.owners().items():
        if path.startswith("early_exit") and path in used:  # no early exit of CHAIN runs those of later groups
            used[path] -= dict(rdn.named_parameters())[path][groups > 3].numel()
    assert expected["params"].sum() == sum(used.values())


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


def test_the_order_of_a_measured_grid_can_be_executed(images):
    rdn = grid_of("mobilenext", images)
    table = count_subnetworks(rdn, 32).assign(accuracy=np.random.default_rng(0).random(14))
    table[["width", "depth"]] = rdn.nodes
    order, _ = best_order(table)
    assert rdn.along(order).num_subnetworks == len(order)
    rdn.along(order).start(images)


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


def test_folded_heads_change_no_answer_of_the_grid(name, images):
    rdn = grid_of(name, images)
    folded, chain = rdn.fold_heads(), rdn.along(CHAIN).fold_heads()
    with torch.no_grad():
        logits, state = rdn(images), chain.start(images)
        torch.testing.assert_close(folded(images), logits, rtol=1e-5, atol=1e-5)
        for index, node in enumerate(CHAIN, start=1):
            state = state if index == 1 else chain.advance(state, to=index)
            torch.testing.assert_close(state.logits, logits[:, number(node, rdn)], rtol=1e-5, atol=1e-5)
