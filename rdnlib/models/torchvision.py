"""torchvision's MobileNetV2 and ResNeXt-50 32×4d at any width, with the paper's choice of untransformed layers."""

from urllib.error import URLError

import torchvision.models as tv
from torch import nn
from torchvision.models.resnet import Bottleneck

from rdnlib.errors import CheckpointError, ConfigError
from rdnlib.models.mobilenext import make_divisible

STAGES = (  # of MobileNetV2: expansion t, channels c, repeats n, stride s (Sandler et al., Table 2)
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
CARDINALITY = 32  # conv-groups of ResNeXt-50 32×4d; a width multiplier scales their channels, not their number


class MobileNetV2(tv.MobileNetV2):
    """torchvision's network; its last 1×1 convolution becomes the align layer of an RDN."""

    plain_by_default = ("features.0", "features.1", "features.2")  # Section 4.1: stem and first two blocks


class ResNeXt(tv.ResNet):
    """torchvision's ResNeXt-50 32×4d with all channel counts scaled; at width 1.0 the state dict is torchvision's."""

    plain_by_default = ("conv1", "layer1")  # "a few shallow layers" (Section 4.1): the residual ties all of stage 1

    def __init__(self, *, width_mult: float = 1.0, num_classes: int = 1000):
        super().__init__(Bottleneck, [1, 1, 1, 1], num_classes=1)  # replaced below: its widths are fixed
        # Stage 1 has 32·4·width channels inside; `planes` is the unit from which torchvision derives both widths.
        unit = max(16, make_divisible(64 * width_mult, 16))
        self.groups, self.base_width, self.inplanes = CARDINALITY, 4, unit
        self.conv1 = nn.Conv2d(3, unit, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(unit)
        for stage, blocks in enumerate((3, 4, 6, 3)):
            setattr(self, f"layer{stage + 1}", self._make_layer(Bottleneck, unit * 2**stage, blocks, 1 + (stage > 0)))
        self.fc = nn.Linear(unit * 8 * Bottleneck.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def mobilenet_v2(
    *,
    width_mult: float = 1.0,
    num_classes=1000,
    dropout: float = 0.2,
    depth_mult: float = 1.0,
    weights: str | None = None,
) -> MobileNetV2:
    """torchvision's MobileNetV2 at a width.

    depth_mult: scales how often each block is repeated, at least once (1.0: the paper; less for small images).
    weights: name of torchvision's weights ("IMAGENET1K_V2"), downloaded once; they exist at width 1.0 with 1000 classes.
    """
    stages = [[t, c, max(1, round(n * depth_mult)), s] for t, c, n, s in STAGES]
    model = MobileNetV2(num_classes, width_mult, inverted_residual_setting=stages, dropout=dropout)
    return _pretrained(model, tv.MobileNet_V2_Weights, weights)


def resnext50(*, width_mult: float = 1.0, num_classes: int = 1000, weights: str | None = None) -> ResNeXt:
    """torchvision's ResNeXt-50 32×4d at a width (channels per stage in multiples of 64, 32 conv-groups at every width).

    weights: name of torchvision's weights ("IMAGENET1K_V2"), downloaded once; they exist at width 1.0 with 1000 classes.
    """
    return _pretrained(ResNeXt(width_mult=width_mult, num_classes=num_classes), tv.ResNeXt50_32X4D_Weights, weights)


def _pretrained(model: nn.Module, known: type[tv.WeightsEnum], name: str | None) -> nn.Module:
    if name is None:
        return model
    if name not in known.__members__:
        raise ConfigError(f"unknown weights '{name}': choose from {', '.join(known.__members__)}")
    try:
        state = known[name].get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError) as error:
        reason = f"could not be downloaded ({error}); train your own, or go online"
        raise CheckpointError(f"the weights {name} {reason}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"the weights {name} are for width 1.0 and 1000 classes") from error
    return model
