"""Super-nets: the base networks that the paper turns into Russian Doll Networks, and those that users register."""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from torch import nn

from rdnlib.errors import ConfigError
from rdnlib.models.efficientnet_lite import EfficientNetLite, efficientnet_lite0
from rdnlib.models.mobilenext import MobileNeXt, mobilenext
from rdnlib.models.torchvision import MobileNetV2, ResNeXt, mobilenet_v2, resnext50

Builder = Callable[..., nn.Module]
BUILDERS: dict[str, Builder] = {
    "mobilenext": mobilenext, "mobilenet_v2": mobilenet_v2, "resnext50": resnext50,
    "efficientnet_lite0": efficientnet_lite0,
}  # fmt: skip
_SHIPPED = tuple(BUILDERS)


def register_model(name: str, builder: Builder) -> None:
    """Make a network of one's own known by a name, to profiles and to checkpoints of it.

    builder: called with `num_classes` and the other options of the profile's `model`; returns a network as `to_rdn` takes it.

    A name may be registered again. Raises ConfigError for a name that the library uses, or that cannot be part of a file's name.
    """
    if not re.fullmatch(r"\w[\w.-]*(:\w+)?", name):
        raise ConfigError(f"a model's name is letters, digits, . _ and -, or package.module:function, not {name!r}")
    if name in _SHIPPED:
        raise ConfigError(f"'{name}' is one of the library's own models: choose another name")
    if not callable(builder):
        raise ConfigError(f"the builder of model '{name}' must be a function that returns a network")
    BUILDERS[name] = builder


def import_model(name: str, *folders: str | os.PathLike) -> None:
    """Register `package.module:function` under that name; nothing is done for a name without a colon or one that is registered.

    The module is looked for in the current folder and in `folders`, too. Only for names that a user gave: never call it with one
    from a checkpoint. Raises ConfigError where the module or the function cannot be had.
    """
    module_name, colon, function = name.partition(":")
    if not colon or name in BUILDERS:
        return
    for folder in reversed([os.getcwd(), *map(os.path.abspath, folders)]):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module may raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"model '{name}': cannot import {module_name}: {type(error).__name__}: {reason}") from error
    if not hasattr(module, function):
        raise ConfigError(f"model '{name}': {module.__file__ or module_name} has no function {function}")
    register_model(name, getattr(module, function))


def source_hash(name: str) -> str | None:
    """A hash of the file that a registered network comes from; None for the library's own and for those without a file."""
    if name in _SHIPPED or name not in BUILDERS:
        return None
    try:
        return hashlib.sha256(Path(inspect.getsourcefile(BUILDERS[name])).read_bytes()).hexdigest()[:12]
    except (TypeError, OSError):  # defined in a notebook or at a prompt
        return None


def check(name: str, options: dict) -> Builder:
    """The builder of this name; raises ConfigError for an unknown name, or options that it does not take."""
    if name not in BUILDERS:
        raise ConfigError(f"unknown model '{name}': choose from {', '.join(BUILDERS)}, or package.module:function")
    try:
        inspect.signature(BUILDERS[name]).bind(**options)
    except TypeError as error:
        raise ConfigError(f"model '{name}' does not take these options: {error}") from error
    return BUILDERS[name]


def build(name: str, **options) -> nn.Module:
    """Build a super-net by name; raises ConfigError for an unknown name or an option that its builder does not have."""
    model = check(name, options)(**options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the builder of model '{name}' returns a {type(model).__name__}, not a torch.nn.Module")
    return model


__all__ = [
    "BUILDERS", "EfficientNetLite", "MobileNeXt", "MobileNetV2", "ResNeXt", "build", "check", "efficientnet_lite0", "import_model",
    "mobilenet_v2", "mobilenext", "register_model", "resnext50", "source_hash",
]  # fmt: skip
