"""Channel spaces: the group arithmetic of a nested convolution, and what the graph says is tied."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.graph.tracing import is_dense, trace
from rdnlib.models import mobilenet_v2, mobilenext, resnext50
from rdnlib.nn.groups import counterpart, nested_sizes, plan, sources, split_channels
from rdnlib.surgery.select import run


@given(st.integers(2, 9), st.data())
def test_every_connection_of_the_super_net_is_kept_exactly_once(k, draw):
    """With a plain input, an original group and its completion together read all k input groups, none twice."""
    original = draw.draw(st.integers(1, k))
    readers = [group for group in range(1, 2 * k) if counterpart(group, k) == original]
    read = [source for group in readers for source in sources(group, k, plain_input=True)]
    assert sorted(read) == list(range(1, k + 1))


@given(st.integers(2, 9))
def test_no_group_reads_a_later_one(k):
    for plain in (True, False):
        for group in range(1, 2 * k):
            assert max(sources(group, k, plain_input=plain)) <= group


def test_block_count_of_the_paper():
    """k = 4: 10 + 6 + 3 = 19 blocks, 16 behind a plain input."""
    assert sum(len(sources(g, 4, plain_input=False)) for g in range(1, 8)) == 19
    assert sum(len(sources(g, 4, plain_input=True)) for g in range(1, 8)) == 16
    assert sources(5, 4, plain_input=False) == (4, 5)
    assert sources(7, 4, plain_input=False) == (2, 3, 4, 7)


@given(st.integers(2, 9), st.integers(9, 200))
def test_sizes(k, channels):
    assert sum(split_channels(channels, k)) == channels
    sizes = nested_sizes(channels, k)
    assert len(sizes) == 2 * k - 1
    assert all(sizes[g - 1] == sizes[counterpart(g, k) - 1] for g in range(1, 2 * k))


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


class Net(nn.Module):
    """A stem, a body to vary (a module or a function), and a classifier."""

    def __init__(self, body, channels: int = 16):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), body
        self.classifier = nn.Linear(channels, 5)

    def forward(self, x):
        return self.classifier(self.body(self.stem(x)).mean((2, 3)))


REFUSED = {
    "Softmax": (nn.Softmax(dim=1), "use a sigmoid"),
    "GroupNorm": (nn.GroupNorm(4, 16), "train with BatchNorm2d"),
    "LayerNorm": (nn.LayerNorm([16, 8, 8]), "train with BatchNorm2d"),
    "PixelShuffle": (nn.PixelShuffle(2), "moves values between channels"),
    "ChannelShuffle": (nn.ChannelShuffle(2), "moves values between channels"),
    "PReLU": (nn.PReLU(16), "LeakyReLU"),
    "MultiheadAttention": (nn.MultiheadAttention(8, 2), "several tensors|attention|positions"),
    "ConvTranspose2d": (nn.ConvTranspose2d(16, 16, 3), "not known to keep the channels apart"),
    "padding_mode": (nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), "use zeros"),
    "running statistics": (nn.BatchNorm2d(16, track_running_stats=False), "track_running_stats=True"),
    "softmax": (lambda x: x.softmax(dim=1), "use a sigmoid"),
    "normalize": (lambda x: nn.functional.normalize(x, dim=1), "train with BatchNorm2d"),
    "cat": (lambda x: torch.cat([x, x], dim=1), "use an addition"),
    "getitem": (lambda x: x[:, :8], "use an addition"),
    "permute": (lambda x: x.permute(0, 2, 3, 1), "moves values between channels"),
    "view": (lambda x: x.view(x.size(0), 2, 8, 64), "moves values between channels"),
    "matmul": (lambda x: torch.matmul(x, x), "only convolutional networks"),
    "mean": (lambda x: x.mean(1, keepdim=True) + x, "not known to keep the channels apart"),
    "size": (lambda x: x * x.size(1), "computes with a tensor's size"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_couples_channels_is_refused_by_name_with_a_way_out(name):
    body, advice = REFUSED[name]
    with pytest.raises(UnsupportedModuleError, match=advice) as caught:
        trace(Net(body))
    message = str(caught.value)
    assert name in message
    if isinstance(body, nn.Module):
        assert "'body'" in message


def test_operands_of_different_widths_are_refused():
    class Attention(Net):
        def forward(self, x):
            x = self.stem(x)
            return self.classifier((x * self.body(x)).mean((2, 3)))

    with pytest.raises(UnsupportedModuleError, match="16 and 1 channels"):
        trace(Attention(nn.Conv2d(16, 1, 1)))


def test_a_shared_layer_is_refused():
    conv = nn.Conv2d(16, 16, 1)
    with pytest.raises(UnsupportedModuleError, match="used more than once"):
        trace(Net(nn.Sequential(conv, nn.ReLU(), conv)))


def test_parameters_outside_layers_are_refused():
    class Scaled(Net):
        def __init__(self):
            super().__init__(nn.Identity())
            self.scale = nn.Parameter(torch.ones(1, 16, 1, 1))

        def forward(self, x):
            return self.classifier((self.stem(x) * self.scale).mean((2, 3)))

    with pytest.raises(UnsupportedModuleError, match="'scale'"):
        trace(Scaled())


def test_nets_without_a_classifier_or_with_control_flow_are_refused():
    with pytest.raises(UnsupportedModuleError, match="Linear classifier"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3)))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModuleError, match="cannot trace Branching"):
        trace(Branching())


def test_work_in_place_is_followed():
    """`y` is overwritten by the ReLU, so the addition reads what the ReLU made of it."""

    class InPlace(Net):
        def forward(self, x):
            y = self.stem(x)
            z = self.body(y)
            y += z
            return self.classifier(y.mean((2, 3)))

    torch.manual_seed(0)
    model, x = InPlace(nn.ReLU(inplace=True)).eval(), torch.randn(2, 3, 8, 8)
    values = dict(run(trace(model), x))
    torch.testing.assert_close(model.classifier(values[trace(model).features]), model(x))


def test_which_convolution_becomes_the_align_layer():
    traced = trace(mobilenet_v2(num_classes=10))
    assert traced.align.target == "features.18.0"
    assert [step.target for step in traced.tail][:2] == ["features.18.1", "features.18.2"]
    assert trace(mobilenet_v2(num_classes=10), align="insert").align is None
    assert trace(mobilenext(num_classes=10)).align is None
    with pytest.raises(ConfigError, match=r"'features\.0\.0' is not a 1×1 convolution that leads straight"):
        trace(mobilenet_v2(num_classes=10), align="features.0.0")


def test_wrong_plain_layers_are_refused():
    model = mobilenext(width_mult=0.25, num_classes=10)
    traced = trace(model)
    with pytest.raises(ConfigError, match="no convolution is named 'stm'"):
        plan(traced, k=4, plain=("stm",))
    with pytest.raises(ConfigError, match="nothing is left to nest"):
        plan(traced, k=4, plain=("blocks",))
    with pytest.raises(ConfigError, match=r"channels that 'blocks\.2\.layers\.reduce\.0' writes into k=30 groups"):
        plan(traced, k=30, plain=model.plain_by_default)
