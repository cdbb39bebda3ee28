"""Stages: N_1 with its decision and the increments give, in every runtime, what the RDN gives for the exits that were chosen."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.networks import NETWORKS, make, settle_norms
from support.policies import policy_for

from rdnlib import deepen, deploy, models, to_rdn
from rdnlib.deployment import stages
from rdnlib.deployment.runtimes import available, prepare
from rdnlib.deployment.stages import Exits, First, Increment
from rdnlib.errors import ConfigError
from rdnlib.policy.inference import DynamicRDN

LAMS = (0.0, 0.7, math.inf)


def saved_of(rdn) -> np.ndarray:
    return np.linspace(0.6, 0, rdn.num_subnetworks)


def check(rdn, policy, images, exits: Exits) -> set[int]:
    """The exits are the policy's, and the logits those of the sub-networks; returns which were chosen."""
    wanted, chosen = DynamicRDN(rdn, policy, saved_of(rdn), _lam(exits))(images)
    logits, found = exits(images)
    assert torch.equal(found, chosen)
    with torch.no_grad():
        by_definition = rdn(images)[torch.arange(len(images)), found - 1]
    scale = by_definition.abs().max()
    torch.testing.assert_close(logits / scale, by_definition / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits / scale, wanted / scale, rtol=1e-4, atol=1e-4)
    return set(found.tolist())


def _lam(exits: Exits) -> float:
    lam = exits.lam.item()
    return math.inf if lam >= stages.INFINITE else lam


@torch.no_grad()
@pytest.mark.parametrize("name", [*NETWORKS])
def test_an_increment_completes_what_n_1_has_computed(name, images):
    rdn = deploy(make(name, images))
    policy = policy_for(rdn, images)
    first = First(rdn, policy, saved_of(rdn)).eval()
    logits, exits, *state = first(images, torch.tensor([0.7]))
    assert len(state) == len(first.state_names) and len(exits) == len(images)
    wanted = rdn(images)
    scale = wanted.abs().max()
    torch.testing.assert_close(logits / scale, wanted[:, 0] / scale, rtol=1e-4, atol=1e-4)
    for index in (2, 4, 7):
        increment = Increment(rdn, index).eval()
        torch.testing.assert_close(increment(*state) / scale, wanted[:, index - 1] / scale, rtol=1e-4, atol=1e-4)
        plain = {step.name for step in rdn.trunk.steps if rdn.trunk.spaces[step.name].plain}
        assert not plain & {*increment.trunk.layers}  # what N_1 has run is not stored again


@pytest.mark.parametrize("way", ["increment", "whole"])
@pytest.mark.parametrize("logits", [0, 5])
def test_real_exits_are_those_of_the_policy(way, logits, images, monkeypatch):
    rdn = deploy(make("mobilenext", images))
    policy, seen = policy_for(rdn, images, logits=logits), set()
    monkeypatch.setattr(stages, "least_seconds", lambda network, inputs: (len(inputs) > 1) != (way == "increment"))
    built = Exits(rdn, policy, saved_of(rdn), 0.3, images)
    for lam in LAMS:
        exits = built.at(lam)
        assert set(exits.ways.values()) == {way}
        seen |= check(rdn, policy, images, exits)
        check(rdn, policy, images[:1], exits)  # another size of batch
    assert len(seen) > 1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_other_runtimes_take_the_same_exits(runtime, images):
    if runtime not in available():
        pytest.skip(f"{runtime} is not installed: pip install {runtime}")
    rdn = deploy(make("mobilenext", images, k=2))
    policy = policy_for(rdn, images)
    exits = Exits(rdn, policy, saved_of(rdn), 0.7, images, runtime=runtime)
    check(rdn, policy, images, exits)
    check(rdn, policy, images[:1], exits)


@torch.no_grad()
@pytest.mark.slow
def test_what_was_prepared_for_one_image_takes_several():
    """Also where layers stand between the align layers and the classifier, as in EfficientNet-Lite0."""
    images = torch.randn(5, 3, 64, 64)
    supernet = settle_norms(models.build("efficientnet_lite0", num_classes=6), images)
    network = deploy(to_rdn(supernet, 2, select="identity")).subnetwork(2)
    prepared = prepare(network, [images[:1]], "onnxruntime")
    for count in (1, 5):
        wanted = network(images[:count])
        scale = wanted.abs().max()
        torch.testing.assert_close(prepared(images[:count]) / scale, wanted / scale, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_session_leaves_the_arithmetic_of_its_process_as_it_was():
    code = "import torch; from rdnlib.deployment.runtimes import prepare; from rdnlib.utils.devices import flushes_denormals\n"
    code += "prepare(torch.nn.ReLU(), [torch.ones(1, 3)], 'onnxruntime'); assert not flushes_denormals()"
    subprocess.run([sys.executable, "-c", code], check=True)  # only the first session of a process could change it


def test_depth_wise_nesting_and_unknown_runtimes_are_refused(images):
    rdn = make("mobilenext", images, k=2)
    deep = deploy(deepen(rdn, calibration=images))
    with pytest.raises(ConfigError, match="nested in width only"):
        First(deep, policy_for(rdn, images), saved_of(deep))
    with pytest.raises(ConfigError, match=r"runtime must be one of eager, .*, not 'abacus'"):
        prepare(rdn, [images], "abacus")


def test_a_runtime_that_is_not_installed_says_how_to_get_it(images, monkeypatch):
    monkeypatch.setitem(stages.prepare.__globals__["PACKAGES"], "openvino", "no_such_package")
    with pytest.raises(ConfigError, match="openvino is not installed: pip install no_such_package"):
        prepare(torch.nn.Identity(), [images], "openvino")
