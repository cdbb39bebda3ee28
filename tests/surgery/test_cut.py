"""Where a network can be cut along its depth."""

import pytest
import torch
from support.networks import NETWORKS, Toy, make
from torch.utils.flop_counter import FlopCounterMode

from rdnlib import to_rdn
from rdnlib.errors import ConfigError
from rdnlib.graph import trace
from rdnlib.surgery.cut import choose_cut, cuts, first_layers


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def flops(function):
    with FlopCounterMode(display=False) as counter:
        result = function()
    return result, counter.get_total_flops() // 2


@pytest.mark.slow
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


@pytest.mark.slow
def test_shares_are_those_of_counting(images):
    """At a size that no stride cuts unevenly."""
    trunk, image = make("mobilenext", images).trunk, torch.zeros(1, 3, 64, 64)
    whole = flops(lambda: trunk(image, 1, 7))[1]
    for cut in cuts(trunk)[::4]:
        front, _ = trunk.split(cut.value)
        assert cut.share == pytest.approx(flops(lambda front=front: front(image, 1, 7))[1] / whole)


def test_a_module_names_the_cut(images):
    rdn = make("resnext50", images)
    assert choose_cut(rdn.trunk, "layer2").value == choose_cut(rdn.trunk, "layer2.3").value
    assert choose_cut(rdn.trunk, "layer2").after == "layer2.3.relu"


def test_the_first_layers_are_those_that_do_a_share_of_the_multiply_adds():
    """The toy's layers cost 108, 32, 72 and 32 for each position: 44, 57, 87 and 100 % are done behind them."""
    shares = {0.0: (), 0.43: (), 0.45: ("stem",), 0.58: ("stem", "up"), 0.9: ("stem", "up", "depthwise")}
    for share, layers in shares.items():
        assert first_layers(trace(Toy()), share) == layers


def test_where_the_nesting_begins_can_be_a_share(images):
    torch.manual_seed(0)
    by_share, by_name = (to_rdn(Toy(), 2, select="identity", plain=plain) for plain in (0.45, ["stem"]))
    assert by_share.config["plain"] == by_name.config["plain"] == ["stem"]
    assert make("mobilenext", images, plain=0.5).trunk.spaces.keys()
    for wrong in (-0.1, 1.0, True, float("nan")):
        with pytest.raises(ConfigError, match="share of the MAdds"):
            to_rdn(Toy(), 2, select="identity", plain=wrong)
