"""The paper's recipe end to end on a miniature of ImageNet: 1,000 classes, three images of each, two processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from rdnlib.reproduction.analysis.statistics import Evidence
from rdnlib.reproduction.analysis.tables import table1, table2
from rdnlib.reproduction.experiments import graph, open_workspace, plan, store
from rdnlib.reproduction.experiments.toy import shrink
from rdnlib.utils.files import read_yaml
from rdnlib.utils.resources import resource

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]
NAMES = [
    "policy-copy",
    "policy-mobilenext-1.0",
    "depth-mobilenext",
]  # one of each kind; test_store runs all of gpu and pretrained
HANGING = 1800  # seconds; it takes two minutes, and several where the machine is busy


def write_miniature(root) -> None:
    """Two images of each of 1,000 classes to train on and one to validate on: its own colour, with noise."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (1000, 3))
    for split, count in (("train", 2), ("val", 1)):
        for number, colour in enumerate(colours):
            folder = root / split / f"n{number:08d}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = (colour + rng.normal(0, 20, (20, 24, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")


def test_imagenet_in_miniature_from_photographs_to_tables(tmp_path):
    root, own = tmp_path / "photographs", tmp_path / "imagenet.yaml"
    write_miniature(root)
    content = read_yaml(resource("notebooks/profiles/imagenet.yaml"))
    small = shrink(content) | {"data": {**content["data"], "size": 16}}
    small["recipe"]["batch_size"] = 200  # five steps an epoch
    own.write_text(yaml.safe_dump(small))
    workspace = open_workspace(str(own), data_root=root, out=tmp_path / "out")
    assert set(workspace.graph) == set(graph.experiments(open_workspace("imagenet").profile, 0))
    words = plan.in_words(workspace, plan.plan(workspace, repeats=1))
    assert "1,000 images to train on, 1,000 to calibrate on, 1,000 to validate on, 1000 classes" in words
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rdnlib"]
    command += ["experiment", "run", *NAMES, "--profile", own, "--data-root", root, "--out", workspace.out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RDN_WORKERS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    states = store.status(workspace).set_index("name")["state"]
    assert set(states[[*NAMES, "base", "base-mobilenext-1.0"]]) == {"finished"}

    evidence = Evidence(workspace)
    families = ["copy", "mobilenext-1.0"]
    table = table1({}, {name: evidence.together(f"rdn-{name}", f"policy-{name}") for name in families})
    assert table["model"].tolist() == [f"{name}{mark}" for name in families for mark in "†‡"]
    pair = evidence.together(*graph.table2(workspace.profile)["mobilenext"])
    assert table2({"MobileNeXt": pair})[0]["integrated_nets"].tolist() == ["7 sub-networks", "14 sub-networks"]
