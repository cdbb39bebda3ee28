"""The paper's recipe end to end on a miniature of ImageNet: 1,000 classes, three images of each, two processes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from rdnlib.reproduction.analysis.claims import ledger
from rdnlib.reproduction.analysis.statistics import Evidence
from rdnlib.reproduction.analysis.tables import table1, table2
from rdnlib.reproduction.experiments import graph, open_workspace, plan, store
from rdnlib.reproduction.experiments.toy import shrink
from rdnlib.utils.files import read_yaml
from rdnlib.utils.resources import resource

pytestmark = [pytest.mark.slow, pytest.mark.torchrun]
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


def test_imagenet_in_miniature_from_photographs_to_ledger(tmp_path):
    root, own = tmp_path / "photographs", tmp_path / "imagenet.yaml"
    write_miniature(root)
    content = read_yaml(resource("notebooks/profiles/imagenet.yaml"))
    own.write_text(yaml.safe_dump(shrink(content) | {"data": {**content["data"], "size": 16}}))
    workspace = open_workspace(str(own), data_root=root, out=tmp_path / "out")
    assert set(workspace.graph) == set(graph.experiments(open_workspace("imagenet").profile, 0))
    words = plan.in_words(workspace, plan.plan(workspace, repeats=1))
    assert "1,000 images to train on, 1,000 to calibrate on, 1,000 to validate on, 1000 classes" in words
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "rdnlib"]
    command += ["experiment", "run", "--all", "--profile", own, "--data-root", root, "--out", workspace.out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RDN_WORKERS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGING, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(store.status(workspace)["state"]) == {"finished"}

    evidence = Evidence(workspace)
    families = ["copy", *graph.families(workspace.profile)]
    table = table1({}, {name: evidence.together(f"rdn-{name}", f"policy-{name}") for name in families})
    assert table["model"].tolist() == [f"{name}{mark}" for name in families for mark in "†‡"]
    pairs = {name: evidence.together(*names) for name, names in graph.table2(workspace.profile).items()}
    assert len(table2(pairs)[0]) == 4
    verdicts = ledger(evidence)
    assert set(verdicts["where"]) == {"Table 1", "Figure 8", *(f"Table {number}" for number in range(2, 6))}
    assert verdicts["statement"].str.contains("mobilenext-1.0").sum() == 7
