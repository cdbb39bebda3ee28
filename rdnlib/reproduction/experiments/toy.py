"""A profile shrunk to a toy: every one of its experiments, on a few embedded images with networks of a few channels.

It proves in a minute, on any machine, that the experiments of a long profile run; its numbers mean nothing.
"""

from typing import Any

_DATA = {"name": "dolls", "size": 16, "train": 80, "validation": 20, "calibration": 0.2}
_SETTINGS = {  # nothing is to be learned, and a network fitted to so few images diverges easily
    "epochs": 1, "lr": 1e-4, "size": 16, "batch_size": 16, "parts": 2, "precision": "no", "compile": False,
    "crop_scale": [0.8, 1.0], "calibration_images": 32, "hidden": [8], "width_mult": 0.1,
}  # fmt: skip
_MODELS = {"mobilenext": {"stem_stride": 1, "depth_mult": 0.1}, "resnext50": {"width_mult": 0.25}}


_SIZES = {"efficientnet_lite0": 32}  # networks that smaller images do not pass


def shrink(content: dict[str, Any]) -> dict[str, Any]:
    """The same profile with `_SETTINGS` wherever it sets one of them, and few, shallow layers."""
    size = _SIZES.get(content["model"]["name"], _SETTINGS["size"])
    settings = _SETTINGS | {"size": size}
    shrunk = {name: _shrunk(value, settings) for name, value in content.items()}
    shrunk["model"] |= _MODELS.get(content["model"]["name"], {})
    shrunk["rdn"]["epochs"] = 2  # unlike those of the ablations, where they differ: the names hang on it
    if content.get("ablations", {}).get("epochs") == content["rdn"]["epochs"]:
        shrunk["ablations"]["epochs"] = 2
    for name, options in shrunk.get("architectures", {}).items():
        options["model"] |= _MODELS.get(options["model"].get("name", name), {})
    shrunk.pop("seeds", None)
    return shrunk | {"data": _DATA | {"size": size}, "jobs": 2}


def _shrunk(value, settings: dict[str, Any], setting=None):
    """The settings inside a section, however deep; `setting` replaces every value."""
    if isinstance(value, dict):
        return {name: _shrunk(inner, settings, settings.get(name, setting)) for name, inner in value.items()}
    return value if setting is None else setting
