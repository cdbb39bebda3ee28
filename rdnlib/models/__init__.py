"""Super-nets: the base networks that the paper turns into Russian Doll Networks."""

from collections.abc import Callable

from torch import nn

from rdnlib.errors import ConfigError
from rdnlib.models.mobilenext import MobileNeXt, mobilenext
from rdnlib.models.torchvision import MobileNetV2, ResNeXt, mobilenet_v2, resnext50

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mobilenext": mobilenext,
    "mobilenet_v2": mobilenet_v2,
    "resnext50": resnext50,
}


def build(name: str, **options) -> nn.Module:
    """Build a super-net by name; raises ConfigError for an unknown name or a bad option."""
    if name not in BUILDERS:
        raise ConfigError(f"unknown model '{name}': choose from {', '.join(BUILDERS)}")
    try:
        return BUILDERS[name](**options)
    except TypeError as error:
        raise ConfigError(f"model '{name}' does not take these options: {error}") from error


__all__ = ["BUILDERS", "MobileNeXt", "MobileNetV2", "ResNeXt", "build", "mobilenet_v2", "mobilenext", "resnext50"]
