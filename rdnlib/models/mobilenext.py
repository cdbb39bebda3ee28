"""MobileNeXt (Zhou et al., 2020), the variant of the paper's base networks: inverted "sandglass" bottlenecks.

The stage table and the rule for the first block of each stage follow the reconstruction of the design: they give the
paper's parameter counts to the printed digit (3.54 M at width 1.0, 6.88 M at width 1.5 for 1000 classes).
"""

import inspect
from collections import OrderedDict
from math import ceil

from torch import Tensor, nn

# [reduction t, output channels c, blocks n, first stride s] of each stage
STAGES = (
    (2, 96, 1, 2), (6, 144, 1, 1), (6, 192, 3, 2), (6, 288, 3, 2),
    (6, 384, 4, 1), (6, 576, 4, 2), (6, 960, 3, 1), (6, 1280, 1, 1),
)  # fmt: skip


def make_divisible(channels: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, but never below 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, *, stride=1, groups=1, act=False) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([nn.ReLU6()] if act else []))


class Sandglass(nn.Module):
    """Depthwise → reduce → expand → depthwise, (B, inputs, H, W) → (B, outputs, H/stride, W/stride).

    The first depthwise convolution and the expansion end in ReLU6; the reduction and the last depthwise convolution are
    linear. `first_of_stage` blocks have no leading depthwise convolution, and a trailing one only when they downsample.
    """

    def __init__(self, inputs: int, outputs: int, *, reduction: int, stride: int, first_of_stage: bool, identity: bool):
        super().__init__()
        self.identity, hidden = identity, inputs // reduction
        if hidden < outputs / 6:
            hidden = make_divisible(ceil(outputs / 6), 16)
        layers: dict[str, nn.Module] = {}
        if not first_of_stage:
            layers["depthwise_in"] = conv_bn(inputs, inputs, 3, groups=inputs, act=True)
        layers["reduce"] = conv_bn(inputs, hidden, 1)
        layers["expand"] = conv_bn(hidden, outputs, 1, act=True)
        if not first_of_stage or stride == 2:
            layers["depthwise_out"] = conv_bn(outputs, outputs, 3, stride=stride, groups=outputs)
        self.layers = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.identity else self.layers(x)


class MobileNeXt(nn.Module):
    """`stem` (3×3, stride `stem_stride`) → `blocks` → average pooling → `classifier`; logits (B, num_classes)."""

    plain_by_default = ("stem", "blocks.0", "blocks.1")  # Section 4.1: stem and first two blocks stay untransformed

    def __init__(
        self, *, width_mult: float = 1.0, depth_mult: float = 1.0, num_classes=1000, stem_stride=2, dropout: float = 0.0
    ):
        super().__init__()
        channels = make_divisible(32 * width_mult, 8)
        self.stem = conv_bn(3, channels, 3, stride=stem_stride, act=True)
        self.blocks = nn.Sequential()
        for stage, (reduction, base, repeats, stride) in enumerate(STAGES):
            last = stage == len(STAGES) - 1
            out = max(base if last else 0, make_divisible(base * width_mult, 8))
            # The first stage and the stages of a single stride-1 block keep all four layers, without identity.
            full = reduction == 2 or (repeats == 1 and stride == 1)
            for repeat in range(ceil(repeats * depth_mult)):
                first, shape = repeat == 0, {"reduction": reduction, "stride": 1 if repeat else stride}
                block = Sandglass(channels, out, **shape, first_of_stage=first and not full, identity=not first)
                self.blocks.append(block)
                channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        return self.classifier(self.dropout(self.flatten(x)))


def mobilenext(**options) -> MobileNeXt:
    """MobileNeXt at a width; its arguments are those of `MobileNeXt`.

    For small images: `stem_stride=1` keeps 32 px and less from shrinking to nothing, `depth_mult` < 1 repeats the blocks of
    each stage less often (at least once), which trains in fewer steps. The paper's networks have both at their defaults.
    """
    return MobileNeXt(**options)


mobilenext.__signature__ = inspect.signature(MobileNeXt)
