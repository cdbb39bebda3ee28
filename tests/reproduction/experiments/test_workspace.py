"""The experiment graph: content-addressed, cached, resumable, the same numbers twice; checkpoints; real early exit."""

import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.profiles import TINY, write_profile

from rdnlib import to_rdn
from rdnlib.calibration.envelope import threshold_exits
from rdnlib.calibration.multiplier import choose, saved_fraction
from rdnlib.data.transforms import resize_eval
from rdnlib.deployment import checkpoint
from rdnlib.errors import CheckpointError, ConfigError, DataError, StorageError
from rdnlib.madds import count_subnetworks
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.policy.sequential import SequentialPolicy
from rdnlib.reproduction.analysis import tables
from rdnlib.reproduction.experiments import config, ensure, graph, open_workspace, runners
from rdnlib.reproduction.experiments import workspace as workspace_module
from rdnlib.training.evaluate import evaluate
from rdnlib.utils.hashing import network_hash


@pytest.fixture(scope="module")
def out(copy_of_tiny):
    """All experiments of the profile `tiny`."""
    return copy_of_tiny


def tiny(name, out, **options):
    return ensure(open_workspace(TINY, out=out, **options), name, progress=False)


@pytest.mark.slow
def test_a_finished_experiment_is_not_run_again(out, monkeypatch):
    def must_not_run(*arguments, **options):
        raise AssertionError("ran again")

    monkeypatch.setattr(runners, "_execute", must_not_run)
    run = tiny("policy-reconstruct", out)
    assert run.result["kind"] == "policy"
    with pytest.raises(AssertionError, match="ran again"):
        tiny("policy-reconstruct", out, seed=1)


@pytest.mark.slow
def test_the_same_seed_gives_identical_tables(out, tmp_path):
    again = tiny("policy-reconstruct", tmp_path)
    for name in ("base", "rdn-reconstruct", "policy-reconstruct"):
        pd.testing.assert_frame_equal(tiny(name, out).samples(), tiny(name, tmp_path).samples())
    assert again.path.name == tiny("policy-reconstruct", out).path.name


def test_whatever_decides_a_result_changes_its_key(tmp_path, monkeypatch):
    workspace = open_workspace(TINY)
    other_data = open_workspace(write_profile(tmp_path / "other.yaml", data={"train": 200}))
    names = list(workspace.graph)
    keys = [each.key(name) for each in (workspace, open_workspace(TINY, seed=1), other_data) for name in names]
    monkeypatch.setattr(workspace_module, "SCHEMA", workspace_module.SCHEMA + 1)
    keys += [workspace.key(name) for name in names]
    assert len(set(keys)) == 4 * len(names)
    monkeypatch.undo()
    assert [open_workspace(TINY).key(name) for name in names] == keys[: len(names)]


def test_per_image_outputs(out):
    run = tiny("rdn-reconstruct", out)
    samples, splits = run.samples(), run.workspace.splits
    assert set(samples["split"]) == {"calibration", "validation"}
    assert len(samples) == len(splits.calibration) + len(splits.validation)
    assert not samples.duplicated(["split", "id"]).any()
    assert len(run.result["madds"]) == len(run.result["params"]) == 7
    assert run.result["madds"] == sorted(run.result["madds"])
    for i in range(1, 8):
        assert (samples[f"top5_{i}"] | ~samples[f"top1_{i}"]).all()  # right at first is right among five
    outputs = evaluate(run.model(), splits.validation, size=16)
    stored = samples[samples["split"] == "validation"]
    assert np.array_equal(outputs.top1, stored[[f"top1_{i}" for i in range(1, 8)]].to_numpy())


def test_held_out_images_are_not_trained_on(out):
    splits = tiny("base", out).workspace.splits
    assert not set(splits.train.ids) & set(splits.calibration.ids)


def test_an_interrupted_experiment_leaves_no_result(out, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(runners, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny("base", tmp_path)
    assert not list(tmp_path.glob("experiments/*/result.json"))
    monkeypatch.undo()
    assert tiny("base", tmp_path).result["provenance"]["seconds"] > 0


def test_dynamic_inference_exits_for_real(small):
    """DynamicRDN gives each image the logits of the exit its policy chooses, computing later groups for fewer images."""
    torch.manual_seed(0)
    rdn, pixels = to_rdn(small, 4, select="random"), torch.randn(64, 3, 32, 32)
    saved = saved_fraction(count_subnetworks(rdn, 32)["madds"].to_numpy())
    policy = PolicyNetwork(rdn.heads.space.sizes[0], 7, (16,)).eval()  # untrained and erratic: all kinds of exits
    with torch.no_grad():
        features = rdn.start(pixels).features
        policy.mean.copy_(features.mean(dim=0))
        policy.std.copy_(features.std(dim=0).clamp_min(1e-6))
        policy.layers[-1].weight.mul_(10)
        expected = choose(policy(features).numpy(), saved, 1.0) + 1
    assert len(np.unique(expected)) >= 3, "a test of fewer exits shows little"
    computed = []
    for layer in rdn.trunk.layers.values():
        if hasattr(layer, "runs"):
            layer.register_forward_pre_hook(lambda _, inputs: computed.append((inputs[1], len(inputs[0]))))
    logits, exits = DynamicRDN(rdn, policy, saved, 1.0)(pixels)
    assert (exits.numpy() == expected).all()
    assert {first for first, _ in computed} > {1}
    for first, batch in computed:  # groups from `first` on run for the images that go at least that far
        assert batch == (expected >= first).sum()
    with torch.no_grad():
        whole = rdn(pixels)[torch.arange(len(pixels)), exits - 1]
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", ["truncate", "text", "missing", "sidecar", "swap"])
def test_damaged_checkpoints_are_refused(out, tmp_path, damage):
    source = tiny("rdn-copy", out).path
    path = tmp_path / "model.safetensors"
    for suffix in (".safetensors", ".json"):
        shutil.copy(source / f"model{suffix}", path.with_suffix(suffix))
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "missing":
        path.unlink()
    elif damage == "sidecar":
        path.with_suffix(".json").write_text("{")
    else:  # weights of another network
        shutil.copy(tiny("base", out).path / "model.safetensors", path)
    with pytest.raises(CheckpointError):
        checkpoint.load(path)


def test_checkpoints_come_back_the_same(out):
    model = tiny("rdn-copy", out).model()
    assert not model.training
    assert model.config["select"] == "greedy-relative"
    assert json.loads((tiny("rdn-copy", out).path / "model.json").read_text())["rdn"] == model.config


@pytest.mark.slow
def test_policies_are_kept_with_their_provenance(out):
    rdn, run = tiny("rdn-reconstruct", out), tiny("policy-reconstruct", out)
    samples = run.samples()
    assert set(samples["split"]) == {"train", "calibration", "validation"}
    for name, policy_class in (("model", PolicyNetwork), ("informed", PolicyNetwork), ("sequential", SequentialPolicy)):
        policy = checkpoint.load(run.path / f"{name}.safetensors")
        assert isinstance(policy, policy_class)
        assert policy.network == network_hash(rdn.model())
        about = json.loads((run.path / f"{name}.json").read_text())
        assert (about["fitted_on"], about["calibrated_on"]) == ("train", "calibration")
        assert about["calibration_images"] == (samples["split"] == "calibration").sum()
        assert about["images"] == run.workspace.fingerprint
        assert [target["gap"] for target in about["targets"]] == [0, 0.005, 0.01, 0.02]
        assert {"epsilon", "delta", "lam"} <= set(about["targets"][0])
        assert len(about["curve"]["lam"]) == len(about["curve"]["accuracy"]) > 0
        DynamicRDN(rdn.model(), policy, about["saved"], 1.0)
        with pytest.raises(CheckpointError, match="another network"):
            DynamicRDN(tiny("rdn-copy", out).model(), policy, about["saved"], 1.0)


def test_the_policy_that_decides_on_the_way_does_so_for_real(out):
    rdn, run = tiny("rdn-reconstruct", out), tiny("policy-reconstruct", out)
    images = run.workspace.splits.validation
    frame = run.samples().query("split == 'validation'").reset_index(drop=True)
    above, saved = frame[[f"above_{i}" for i in range(1, 7)]].to_numpy(), saved_fraction(rdn.result["madds"])
    lam = float(np.median(above[np.isfinite(above)]))
    network = DynamicRDN(rdn.model(), checkpoint.load(run.path / "sequential.safetensors"), saved, lam)
    _, exits = network(resize_eval(torch.from_numpy(images.images), 16))
    assert (exits.numpy() - 1 == threshold_exits(above, lam)).mean() > 0.98


def test_rivals_and_the_distilled_network_are_in_the_graph_where_the_profile_has_them():
    nodes = graph.experiments(config.load_profile("laptop"), 0)
    base, rival = (nodes[name].config for name in ("base", "base-x0.25"))
    assert rival["model"] == {**base["model"], "width_mult": 0.25}
    assert rival["recipe"]["epochs"] == base["recipe"]["epochs"] + nodes["rdn-copy"].config["recipe"]["epochs"]
    recipes = {name: node.config["recipe"] for name, node in nodes.items() if "recipe" in node.config}
    shares = {
        name: recipe.get("distill") if recipe.get("teacher") == "supernet" else None for name, recipe in recipes.items()
    }
    trained_from = {name for name in recipes if nodes[name].parents} - {"base-longer"}
    assert {name for name, share in shares.items() if share} == trained_from - {
        "rdn-paper",
        "rdn-untaught",
        "rdn-distilled",
    }
    assert recipes["rdn-distilled"] == {**recipes["rdn-reconstruct"], "teacher": "largest"}
    plain = graph.experiments(config.load_profile(TINY), 0)["rdn-reconstruct"].config["recipe"]
    assert "distill" not in plain  # a new setting at its default changes no folder


def test_the_teacher_of_an_rdn_is_the_supernet_that_it_was_made_from(tmp_path, monkeypatch):
    teachers, train = {}, runners.train

    def watched(model, *arguments, teacher, label, **options):
        teachers[label] = teacher
        return train(model, *arguments, teacher=teacher, label=label, **options)

    monkeypatch.setattr(runners, "train", watched)
    profile = write_profile(tmp_path / "taught.yaml", rdn={"distill": 0.5})
    workspace = open_workspace(profile, out=tmp_path / "out")
    base, _ = (ensure(workspace, name, progress=False) for name in ("base", "rdn-copy"))
    assert teachers["base"] is None
    expected, found = base.model().state_dict(), teachers["rdn-copy"].state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="unknown profile 'huge': choose from"):
        open_workspace("huge")
    with pytest.raises(ConfigError, match="is not a folder"):
        open_workspace("laptop", data_root=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="unknown experiment 'bas'"):
        tiny("bas", tmp_path)
    with pytest.raises(ConfigError, match="seed"):
        open_workspace(TINY, seed=-1)
    with pytest.raises(DataError, match="needs a data root"):
        ensure(open_workspace("laptop", out=tmp_path), "base", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_result_says_where_it_comes_from(out):
    run = tiny("policy-copy", out)
    record = run.result["provenance"]
    assert record["schema"] == workspace_module.SCHEMA
    assert datetime.fromisoformat(record["started"]) < datetime.now(UTC)
    assert (record["threads"], record["processes"]) == (1, 1) and record["seconds"] > 0
    assert record["python"] == platform.python_version()
    assert record["versions"]["torch"] == importlib.metadata.version("torch")
    assert record["hardware"]["cores"] == os.cpu_count() and record["hardware"]["memory_gb"] > 0
    splits = run.workspace.splits
    assert run.data == run.workspace.data
    assert run.data.images == {name: len(getattr(splits, name)) for name in ("train", "calibration", "validation")}
    assert (run.data.name, tuple(run.data.classes)) == ("dolls", splits.train.classes)
    assert run.path.name.endswith(f"-{run.data.fingerprint[:8]}")


@pytest.fixture
def photographs(tmp_path):
    """Five images of a class in a folder."""
    for split, count in (("train", 5), ("val", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photographs" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng(index + (label == "dog")).integers(0, 255, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "photographs"


def test_policies_of_five_images(photographs, tmp_path, monkeypatch):
    for name in ("train/cat/2", "train/cat/3", "train/cat/4", "train/dog/1", "train/dog/2", "train/dog/3", "train/dog/4",
                 "val/cat/1", "val/dog/1"):  # fmt: skip
        (photographs / f"{name}.png").unlink()
    own = {"data": {"name": "folder", "train": None, "validation": None}, "recipe": {"batch_size": 2}}
    monkeypatch.setenv("RDN_CACHE", str(tmp_path / "cache"))
    workspace = open_workspace(write_profile(tmp_path / "own.yaml", **own), data_root=photographs, out=tmp_path / "out")
    run = ensure(workspace, "policy-copy", progress=False)
    assert sum(run.data.images.values()) == 5
    assert pd.read_csv(run.path / "splits.csv").empty
    assert (run.path / "model.safetensors").is_file()


def test_a_finished_result_is_found_without_the_photographs(photographs, tmp_path, monkeypatch):
    own = {"data": {"name": "folder", "train": None, "validation": None}, "recipe": {"batch_size": 2}}
    profile = write_profile(tmp_path / "own.yaml", **own)
    monkeypatch.setenv("RDN_CACHE", str(tmp_path / "cache"))
    there = open_workspace(profile, data_root=photographs, out=tmp_path / "out")
    gone = replace(there, data_root=None)
    with pytest.raises(DataError, match="folder needs a data root"):
        gone.folder("base")
    run = ensure(there, "base", progress=False)
    again = ensure(replace(gone), "base", progress=False)
    assert again.path == run.path and again.samples().equals(run.samples())
    assert gone.data == there.data and gone.data.classes == ["cat", "dog"]
    with pytest.raises(DataError, match="folder needs a data root"):  # to run one that is not finished
        ensure(gone, "base-longer", progress=False)
    (photographs / "val" / "cat" / "0.png").unlink()
    changed = replace(there)
    assert changed.folder("base") != run.path and changed.key("base") == there.key("base")
    ensure(changed, "base", progress=False)
    with pytest.raises(ConfigError, match=r"results from 2 versions of the folder images: .*--data-root DIR"):
        gone.folder("base")
    assert ensure(replace(there), "base", progress=False).path == changed.folder("base")


@pytest.mark.photographs
def test_the_chain_on_photographs(tmp_path, monkeypatch):
    """Base, surgery, joint training and policy on some of Imagenette, through a profile of its own."""
    root = os.environ.get("RDN_DATA_ROOT")
    if not root:
        pytest.skip("needs photographs: set RDN_DATA_ROOT to the folder that holds imagenette2-160")
    data = {"name": "imagenette", "size": 32, "train": 300, "validation": 100}
    profile = write_profile(tmp_path / "own.yaml", data=data, recipe={"size": 24, "crop_scale": [0.5, 1.0]})
    monkeypatch.setenv("RDN_CACHE", str(tmp_path / "cache"))
    workspace = open_workspace(profile, data_root=root, out=tmp_path / "out")
    rdn, policy = (ensure(workspace, f"{kind}-reconstruct", progress=False) for kind in ("rdn", "policy"))
    table = tables.table1({"rdn": [rdn]}, {"rdn": ([rdn], [policy])})
    assert table["top1"].between(0, 100).all()
    assert workspace.splits.train.images.shape[1:] == (3, 32, 32)
    assert rdn.data.images["validation"] == 100


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write .*\): choose a folder that you may write to.*kept$"):
        tiny("base", tmp_path / "file")
