"""Channel spaces: the group arithmetic of a nested convolution, and what the graph says is tied."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.models import mobilenext
from rdnlib.spaces import build_spaces, counterpart, nested_sizes, sources, split_channels, trace


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
    spaces = build_spaces(traced, k=4, plain=model.plain_by_default)
    of = {step.target: spaces[traced.space_of[step.name]] for step in traced.steps}
    assert of["stem.0"].plain
    assert of["blocks.1.layers.depthwise_out.0"].plain
    assert not of["blocks.2.layers.reduce.0"].plain
    # The blocks of a stage are tied by their residual additions, the hidden layers are not.
    identifier = {step.target: traced.space_of[step.name] for step in traced.steps}
    assert identifier["blocks.2.layers.expand.0"] == identifier["blocks.4.layers.depthwise_out.0"]
    assert identifier["blocks.3.layers.reduce.0"] != identifier["blocks.4.layers.reduce.0"]
    assert identifier["blocks.2.layers.expand.0"] != identifier["blocks.5.layers.expand.0"]


class Net(nn.Module):
    """A stem, a body to vary, and a classifier."""

    def __init__(self, body: nn.Module, channels: int = 16):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), body
        self.classifier = nn.Linear(channels, 5)

    def forward(self, x):
        return self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(self.body(self.stem(x)), 1), 1))


class ModuleNet(Net):
    def forward(self, x):
        return self.classifier(self.body(self.stem(x)).mean((2, 3)))


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Softmax(dim=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(16, 5)

    def forward(self, x):
        return self.classifier(self.layers(x))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Softmax(dim=1), "Softmax"),
        (nn.GroupNorm(4, 16), "GroupNorm"),
        (nn.Conv2d(16, 16, 3, padding=1, groups=4), "groups=4"),
        (nn.PixelShuffle(2), "PixelShuffle"),
        (nn.Linear(8, 8), "Linear"),
    ],
)
def test_what_couples_channels_is_refused_by_name(module, name):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    with pytest.raises(UnsupportedModuleError, match=name) as caught:
        trace(net)
    assert "'1'" in str(caught.value) or name == "Linear"


def test_unknown_functions_are_refused():
    with pytest.raises(UnsupportedModuleError, match="adaptive_avg_pool2d"):
        trace(Net(nn.Identity()))


def test_nets_without_a_classifier_or_with_control_flow_are_refused():
    with pytest.raises(UnsupportedModuleError, match="Linear classifier"):
        trace(nn.Sequential(nn.Conv2d(3, 8, 3)))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedModuleError, match="cannot trace Branching"):
        trace(Branching())


def test_wrong_plain_layers_are_refused():
    model = mobilenext(width_mult=0.25, num_classes=10)
    traced = trace(model)
    with pytest.raises(ConfigError, match="no convolution is named 'stm'"):
        build_spaces(traced, k=4, plain=("stm",))
    with pytest.raises(ConfigError, match="reads nested features"):
        build_spaces(traced, k=4, plain=("stem", "blocks.5"))
    with pytest.raises(ConfigError, match="nothing is left to nest"):
        build_spaces(traced, k=4, plain=("stem", "blocks"))
    with pytest.raises(ConfigError, match="into k=30 groups"):
        build_spaces(traced, k=30, plain=("stem", "blocks.0", "blocks.1"))
