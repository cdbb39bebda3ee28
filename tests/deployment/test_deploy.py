"""The deployed form: the same logits however they are computed, fewer steps, strictly nested, and the original left alone."""

import pytest
import torch
from support.networks import NETWORKS, make
from torch import nn

from rdnlib import deepen, deploy, madds, to_rdn

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def norms(module: nn.Module) -> int:
    return sum(isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d)) for each in module.modules())


@pytest.fixture(params=[*NETWORKS])
def rdn(request, images):
    return make(request.param, images).eval()


@torch.no_grad()
def test_deployed_logits_are_the_same_in_one_pass_step_by_step_and_alone(rdn, images):
    before = {name: value.clone() for name, value in rdn.state_dict().items()}
    wanted, deployed = rdn(images), deploy(rdn)
    scale = wanted.abs().max()
    torch.testing.assert_close(deployed(images) / scale, wanted / scale, **TOLERANCE)
    state = deployed.start(images)
    for index in range(1, rdn.num_subnetworks + 1):
        state = state if index == 1 else deployed.advance(state, index)
        torch.testing.assert_close(state.logits / scale, wanted[:, index - 1] / scale, **TOLERANCE)
    for index in (1, 3, rdn.num_subnetworks):
        torch.testing.assert_close(
            deployed.subnetwork(index)(images) / scale, wanted[:, index - 1] / scale, **TOLERANCE
        )
    assert not deployed.training
    assert all(torch.equal(value, before[name]) for name, value in rdn.state_dict().items())


def test_no_norm_behind_a_convolution_is_left_and_costs_are_those_of_before(rdn, images):
    deployed = deploy(rdn)
    assert norms(deployed.trunk) == 0 < norms(rdn.trunk)
    assert len(deployed.trunk.steps) == len(rdn.trunk.steps) - norms(rdn.trunk)
    size = images.shape[-1]
    columns = ["madds"]
    assert madds.count_subnetworks(deployed, size)[columns].equals(madds.count_subnetworks(rdn, size)[columns])


@torch.no_grad()
def test_what_a_later_group_is_does_not_touch_an_earlier_sub_network(rdn, images):
    deployed = deploy(rdn)
    wanted, owners = deployed(images), deployed.owners()
    for name, parameter in deployed.named_parameters():
        if name in owners:
            parameter[owners[name] > 3] = 7.0
    changed = deployed(images)
    assert torch.equal(changed[:, :3], wanted[:, :3]) and not torch.equal(changed[:, 3:], wanted[:, 3:])


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenext", "resnext50"])
def test_depth_wise_nesting_is_deployed_as_well(name, images):
    grid = deepen(make(name, images)).eval()
    wanted, deployed = grid(images), deploy(grid)
    scale = wanted.abs().max()
    torch.testing.assert_close(deployed(images) / scale, wanted / scale, **TOLERANCE)
    chain = deployed.along([(1, 0), (2, 0), (2, 1), (7, 1)])
    state = chain.advance(chain.start(images), 4)
    torch.testing.assert_close(state.logits / scale, wanted[:, -1] / scale, **TOLERANCE)
    assert norms(deployed.front) == norms(deployed.back) == 0


@torch.no_grad()
def test_a_value_that_others_read_too_is_not_folded(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
            self.norm, self.classifier = nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv(self.stem(x))
            return self.classifier((self.norm(x) + x).mean((2, 3)))

    rdn = to_rdn(Twice(), select="identity", plain=["stem"]).eval()
    deployed = deploy(rdn)
    assert norms(deployed.trunk) == 1
    torch.testing.assert_close(deployed(images), rdn(images), **TOLERANCE)
