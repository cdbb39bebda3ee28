"""The plan of an operation: which channels are tied, and which spaces stay plain."""

import pytest
from torch import nn

from rdnlib.errors import ConfigError
from rdnlib.graph import is_dense, trace
from rdnlib.models import mobilenet_v2, mobilenext, resnext50
from rdnlib.surgery.layout import plan


def test_spaces_of_mobilenext():
    model = mobilenext(width_mult=0.5, num_classes=10)
    traced = trace(model)
    layout = plan(traced, k=4, plain=model.plain_by_default)
    name = {step.target: step.name for step in traced.steps}
    assert layout.is_plain(name["stem.0"])
    assert layout.is_plain(name["blocks.1.layers.depthwise_out.0"])
    assert not layout.is_plain(name["blocks.2.layers.reduce.0"])
    # The blocks of a stage are tied by their residual additions, the hidden layers are not.
    identifier = {step.target: traced.space_of[step.name] for step in traced.steps}
    assert identifier["blocks.2.layers.expand.0"] == identifier["blocks.4.layers.depthwise_out.0"]
    assert identifier["blocks.3.layers.reduce.0"] != identifier["blocks.4.layers.reduce.0"]
    assert identifier["blocks.2.layers.expand.0"] != identifier["blocks.5.layers.expand.0"]


def test_what_is_tied_to_a_plain_layer_stays_plain_and_so_does_what_it_reads():
    """MobileNetV2's third block writes into the residual stage of the second, so it must not be nested either."""
    model = mobilenet_v2(num_classes=10)
    traced = trace(model)
    layout = plan(traced, k=4, plain=model.plain_by_default)
    plain = [step.target for step in traced.steps if is_dense(step.module) and layout.is_plain(step.name)]
    assert plain[-1] == "features.3.conv.2"
    assert all(target.startswith(("features.0.", "features.1.", "features.2.", "features.3.")) for target in plain)
    model = resnext50(width_mult=0.25, num_classes=10)
    layout = plan(trace(model), k=4, plain=("conv1", "layer1.0"))  # the residual ties all of stage 1
    assert layout.is_plain("layer1_2_conv2")
    assert not layout.is_plain("layer2_0_conv1")


def test_conv_groups_are_never_cut():
    """Two grouped convolutions on one space, of 6 and 4 conv-groups: what neither cuts is gcd(6, 4) = 2 units of 12 channels."""
    net = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.Conv2d(5, 24, 1), nn.Conv2d(24, 24, 3, groups=6), nn.Conv2d(24, 48, 3, groups=4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip
    traced = trace(net)
    assert traced.units[traced.space_of["_3"]] == 2
    assert (traced.width("_1"), traced.width("_2"), traced.width("_3")) == (12, 12, 24)
    layout = plan(traced, k=2, plain=())
    assert layout.space("_3").sizes == (24, 24, 24)
    assert layout.space(traced.features).sizes == (24, 24, 24)
    with pytest.raises(ConfigError, match="the 2 conv-groups that '1' writes into k=3"):
        plan(traced, k=3, plain=())


def test_wrong_plain_layers_are_refused():
    model = mobilenext(width_mult=0.25, num_classes=10)
    traced = trace(model)
    with pytest.raises(ConfigError, match="no convolution is named 'stm'"):
        plan(traced, k=4, plain=("stm",))
    with pytest.raises(ConfigError, match="nothing is left to nest"):
        plan(traced, k=4, plain=("blocks",))
    with pytest.raises(ConfigError, match=r"channels that 'blocks\.2\.layers\.reduce\.0' writes into k=30 groups"):
        plan(traced, k=30, plain=model.plain_by_default)
