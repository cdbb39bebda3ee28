"""MobileNeXt (Zhou et al., 2020), the variant of the paper's base networks: inverted "sandglass" bottlenecks.

The stage table and the rule for the first block of each stage follow the reconstruction of the design: they give the
paper's parameter counts to the printed digit (3.54 M at width 1.0, 6.88 M at width 1.5 for 1000 classes).
"""

from math import ceil

from torch import Tensor, nn

# [reduction t, output channels c, blocks n, first stride s] of each stage
STAGES = (
    (2, 96, 1, 2),
    (6, 144, 1, 1),
    (6, 192, 3, 2),
    (6, 288, 3, 2),
    (6, 384, 4, 1),
    (6, 576, 4, 2),
    (6, 960, 3, 1),
    (6, 1280, 1, 1),
)


def make_divisible(channels: float, divisor: int) -> int:
    """Round to the nearest multiple of `divisor`, but never below 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, *, stride=1, groups=1, act=False) -> nn.Sequential:
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return nn.Sequential(*layers, nn.ReLU6()) if act else nn.Sequential(*layers)


class Sandglass(nn.Module):
    """Depthwise → reduce → expand → depthwise, (B, in, H, W) → (B, out, H/stride, W/stride).

    The first depthwise convolution and the expansion end in ReLU6; the reduction and the last depthwise convolution are
    linear. `first_of_stage` blocks have no leading depthwise convolution, and a trailing one only when they downsample.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        reduction: int,
        stride: int,
        first_of_stage: bool = False,
        identity: bool = False,
    ):
        super().__init__()
        hidden = in_channels // reduction
        if hidden < out_channels / 6:
            hidden = make_divisible(ceil(out_channels / 6), 16)
        self.identity = identity
        layers: dict[str, nn.Module] = {}
        if not first_of_stage:
            layers["depthwise_in"] = conv_bn(in_channels, in_channels, 3, groups=in_channels, act=True)
        layers["reduce"] = conv_bn(in_channels, hidden, 1)
        layers["expand"] = conv_bn(hidden, out_channels, 1, act=True)
        if not first_of_stage or stride == 2:
            layers["depthwise_out"] = conv_bn(out_channels, out_channels, 3, stride=stride, groups=out_channels)
        self.layers = nn.Sequential()
        for name, layer in layers.items():
            self.layers.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.identity else self.layers(x)


class MobileNeXt(nn.Module):
    """`stem` (3×3, stride `stem_stride`) → `blocks` → average pooling → `classifier`; logits (B, num_classes)."""

    plain_by_default = ("stem", "blocks.0", "blocks.1")  # Section 4.1: stem and first two blocks stay untransformed

    def __init__(
        self,
        *,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        num_classes: int = 1000,
        stem_stride: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        channels = make_divisible(32 * width_mult, 8)
        self.stem = conv_bn(3, channels, 3, stride=stem_stride, act=True)
        self.blocks = nn.Sequential()
        for stage, (reduction, base, repeats, stride) in enumerate(STAGES):
            last = stage == len(STAGES) - 1
            out = max(base, make_divisible(base * width_mult, 8)) if last else make_divisible(base * width_mult, 8)
            for repeat in range(ceil(repeats * depth_mult)):
                # The first stage and the stages of a single stride-1 block keep all four layers, without identity.
                full = reduction == 2 or (repeats == 1 and stride == 1)
                block = Sandglass(
                    channels,
                    out,
                    reduction=reduction,
                    stride=stride if repeat == 0 else 1,
                    first_of_stage=repeat == 0 and not full,
                    identity=repeat > 0,
                )
                self.blocks.append(block)
                channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        return self.classifier(self.dropout(self.flatten(x)))


def mobilenext(
    *,
    width_mult: float = 1.0,
    depth_mult: float = 1.0,
    num_classes: int = 1000,
    stem_stride: int = 2,
    dropout: float = 0.0,
) -> MobileNeXt:
    """MobileNeXt at a width; see `MobileNeXt`.

    For small images: `stem_stride=1` keeps 32 px and less from shrinking to nothing, `depth_mult` < 1 repeats the blocks of
    each stage less often (at least once), which trains in fewer steps. The paper's networks have both at their defaults.
    """
    return MobileNeXt(
        width_mult=width_mult,
        depth_mult=depth_mult,
        num_classes=num_classes,
        stem_stride=stem_stride,
        dropout=dropout,
    )
