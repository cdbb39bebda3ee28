"""Reading a network: what is refused and why, work in place, and the align layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rdnlib import to_rdn
from rdnlib.errors import ConfigError, UnsupportedModuleError
from rdnlib.graph import trace
from rdnlib.graph.ir import run
from rdnlib.models import mobilenet_v2, mobilenext


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
    "pad": (lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)), "adds channels"),
    "(pad)": (lambda x: F.pad(x, (0, x.shape[2], 0, 0)), "depends on the image"),
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
    traced = trace(model)
    torch.testing.assert_close(model.classifier(run(traced.steps, {traced.image: x})), model(x))


def test_dropout_in_place_is_followed():
    traced = trace(Net(lambda x: (nn.functional.dropout(x, 0.5, inplace=True), x)[1]))
    dropout = next(step for step in traced.steps if isinstance(step.module, nn.Dropout))
    assert traced.steps[-1].inputs == (dropout.name,)


def test_which_convolution_becomes_the_align_layer():
    traced = trace(mobilenet_v2(num_classes=10))
    assert traced.align.target == "features.18.0"
    assert [step.target for step in traced.tail][:2] == ["features.18.1", "features.18.2"]
    assert trace(mobilenet_v2(num_classes=10), align="insert").align is None
    assert trace(mobilenext(num_classes=10)).align is None
    with pytest.raises(ConfigError, match=r"'features\.0\.0' is not a 1×1 convolution that leads straight"):
        trace(mobilenet_v2(num_classes=10), align="features.0.0")


PADS = {
    "ZeroPad2d": nn.ZeroPad2d((0, 1, 0, 1)),
    "ReflectionPad2d": nn.ReflectionPad2d(1),
    "ReplicationPad2d": nn.ReplicationPad2d((2, 0, 1, 1)),
    "ConstantPad2d": nn.ConstantPad2d((1, 1, 0, 0), 0.5),
    "F.pad": lambda x: F.pad(x, (0, 1, 0, 1)),
    "F.pad by mode": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
}


class Padded(nn.Module):
    """As TensorFlow's networks are: padding in front of strided convolutions, of the image's as well."""

    def __init__(self, pad):
        super().__init__()
        self.pad, self.stem, self.body = pad, nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 24, 3, 2)
        self.classifier = nn.Linear(24, 5)

    def forward(self, x):
        x = self.stem(self.pad(x)).relu()
        return self.classifier(self.body(self.pad(x)).mean((2, 3)))


@pytest.mark.parametrize("name", PADS)
def test_padding_of_positions_keeps_the_groups_apart(name):
    torch.manual_seed(0)
    model, images = Padded(PADS[name]).eval(), torch.randn(40, 3, 16, 16)
    traced = trace(model)
    with torch.no_grad():
        features = run(traced.steps, {traced.image: images})
        torch.testing.assert_close(traced.classifier(features), model(images))
        for init in ("copy", "reconstruct"):
            rdn = to_rdn(model, 3, select="greedy", init=init, calibration=images)
            logits, state = rdn(images), rdn.start(images)
            for index in range(1, rdn.num_subnetworks + 1):
                state = state if index == 1 else rdn.advance(state, to=index)
                torch.testing.assert_close(state.logits, logits[:, index - 1], rtol=1e-4, atol=1e-5)
