"""What two processes do together, for test_devices: `torchrun … tests/support/shared_run.py FOLDER`; helpers for its tests.

Photographs in ImageNet's layout lie in FOLDER/photographs, see `write_photographs`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from rdnlib.data import datasets
from rdnlib.reproduction.experiments import workspace
from rdnlib.training.evaluate import evaluate
from rdnlib.training.recipe import Recipe
from rdnlib.training.state import TrainState
from rdnlib.training.trainer import train
from rdnlib.utils import devices

STEPS = 20
RECIPE = {"epochs": 2, "lr": 0.02, "size": 16, "batch_size": 8, "crop_scale": (0.5, 1.0), "ema_horizon": 0.2}
PROFILE = {
    "data": {"name": "imagenet", "size": 16, "calibration": 0.2, "cached": False},
    "model": {"name": "mobilenext", "width_mult": 0.1, "depth_mult": 0.1, "stem_stride": 1},
    "recipe": {"size": 16, "batch_size": 8, "parts": 2, "crop_scale": [0.8, 1.0]},
    "base": {"epochs": 1, "lr": 0.02},
    "rdn": {
        "k": 2, "select": "greedy-relative", "calibration_images": 32, "epochs": 1,
        "lr": {"base": 0.02, "copy": 0.02, "reconstruct": 0.02},
    },
    "policy": {"hidden": [8], "epochs": 2},
    "sequential": {"hidden": [4], "epochs": 2},
    "threads": 1,
}  # fmt: skip


WAYS = {
    "two parts": {"parts": 2},  # one on each process
    "four parts": {"parts": 4},
}


class Stopped(Exception):
    pass


def network(seed: int = 0, dropout: bool = False, classes: int = 4) -> nn.Module:
    """Plain, depthwise and normalised layers; smooth, so that rounding does not grow from step to step."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8),
        nn.SiLU(), nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.2 if dropout else 0.0), nn.Linear(12, classes),
    )  # fmt: skip


def write_photographs(folder: Path) -> Path:
    """4 classes of 26 images to train on (86 of these 104 are left after calibration) and 6 to validate on (23 in all)."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 26), ("val", 6)):
        for label in range(4):
            class_folder = folder / "photographs" / split / f"n{label:08d}"
            class_folder.mkdir(parents=True)
            for index in range(count - (split == "val" and label == 0)):
                pixels = draw.integers(0, 60, (20, 24, 3)) + 45 * label
                Image.fromarray(pixels.astype(np.uint8)).save(class_folder / f"{index}.JPEG")
    return folder


def photographs(folder: Path) -> datasets.Splits:
    return datasets.load("imagenet", root=folder / "photographs", size=16, calibration=0.2, cached=False)


def keep(path: Path, model: nn.Module, history) -> None:
    if devices.here().is_main_process:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
        history.drop(columns=["seconds", "waiting"]).to_csv(path.with_suffix(".csv"), index=False)


def trained(folder: Path, name: str, **options) -> nn.Module:
    """Train the network on the photographs and keep what comes out."""
    recipe = Recipe(**RECIPE, **options)
    model = network(seed=devices.here().process_index, dropout=True)  # the main process's weights are everybody's
    history = train(model, photographs(folder).train, recipe, progress=False)
    keep(folder / f"{name}.safetensors", model, history)
    return model


def stopped_and_resumed(folder: Path) -> None:
    """As `trained`, but stopped with a state of the tenth step, in the middle of the first epoch's ten."""
    images, recipe, path = photographs(folder).train, Recipe(**RECIPE, parts=2), folder / "resume.safetensors"
    due, save = TrainState.due, TrainState.save

    def save_and_stop(state, progress):
        save(state, progress)
        raise Stopped

    TrainState.due, TrainState.save = lambda self: devices.broadcast(True), save_and_stop
    try:
        train(network(dropout=True), images, recipe, resume=path, progress=False)
    except Stopped:
        TrainState.due, TrainState.save = due, save
    devices.here().wait_for_everyone()
    model = network(seed=7, dropout=True)
    history = train(model, images, recipe, resume=path, progress=False)
    keep(folder / "resumed.safetensors", model, history)


def chain(folder: Path) -> None:
    """Base, RDN and policy through the experiments."""
    if devices.here().is_main_process:
        (folder / "shared.yaml").write_text(json.dumps(PROFILE))  # JSON is YAML
    devices.here().wait_for_everyone()
    options = {
        "profile": str(folder / "shared.yaml"),
        "data_root": folder / "photographs",
        "out": folder / "out",
        "progress": False,
    }
    workspace.ensure("policy-copy", **options)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    assert devices.here().num_processes == 2
    for name, options in WAYS.items():
        model = trained(folder, f"shared {name}", **options)
    stopped_and_resumed(folder)
    outputs = evaluate(model, photographs(folder).validation, size=16, batch_size=3)
    torch.save({name: torch.as_tensor(getattr(outputs, name)) for name in ("top1", "confidence", "guesses")},
               folder / f"outputs-{devices.here().process_index}.pt")  # fmt: skip
    chain(folder)
    devices.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
