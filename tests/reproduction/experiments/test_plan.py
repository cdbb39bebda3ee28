"""What a profile would take: counted as the experiments would be run, and nothing is written."""

import pytest
import torch
from support.profiles import TINY, write_profile

from rdnlib import __main__ as cli
from rdnlib.errors import DataError
from rdnlib.reproduction.experiments import ensure, graph, open_workspace, plan


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    workspace = open_workspace(TINY, out=tmp_path_factory.mktemp("plan") / "out")
    return workspace, plan.plan(workspace, repeats=1).set_index("name")


def test_every_experiment_that_trains_is_in_the_plan_and_nothing_is_written(planned):
    workspace, table = planned
    nodes = workspace.graph
    assert list(table.index) == [name for name, node in nodes.items() if "recipe" in node.config]
    assert not workspace.out.exists()
    assert (table["seeds"] == 1).all() and (table["images_per_second"] > 0).all() and (table["memory_mb"] > 0).all()
    for name, row in table.iterrows():
        assert row["epochs"] == nodes[name].config["recipe"]["epochs"]
        images = row["epochs"] * 320 + (80 + 200) / 3  # the forward passes of calibration and validation
        assert row["hours"] == pytest.approx(images / row["images_per_second"] / 3600)
    assert table.loc["rdn-copy", "after"] == "base" and table.loc["base", "after"] == ""
    assert table.loc["rdn-copy", "images_per_second"] == table.loc["rdn-greedy", "images_per_second"]  # one structure
    said = plan.in_words(workspace, table.reset_index())
    assert "320 images to train on, 80 to calibrate on, 200 to validate on, 10 classes" in said
    assert f"{table['hours'].sum():,.1f} hours of one" in said and "0.0 GB of decoded images" in said


@pytest.fixture
def cheap(monkeypatch):
    """Nothing is built and timed: 100 images a second, a million parameters."""
    monkeypatch.setattr(plan, "_build", lambda *_: None)
    monkeypatch.setattr(plan, "_measure", lambda *_: (100.0, 10**6, 1e9))


def test_disk_is_that_of_the_files(planned, cheap):
    workspace, table = planned
    folder = ensure(workspace, "base", progress=False).path
    kept = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    assert kept / 3 < table.loc["base", "disk_mb"] < 3 * kept
    assert plan.plan(workspace, repeats=1).set_index("name").loc["base", ["seeds", "hours"]].tolist() == [0, 0]


def test_further_seeds_take_further_hours(planned, cheap):
    workspace, _ = planned
    table = plan.plan(workspace).set_index("name")
    more = plan.plan(workspace, seeds=3, repeats=1).set_index("name")
    assert more.loc["rdn-copy", "seeds"] == 3
    assert more.loc["rdn-copy", "disk_mb"] == pytest.approx(3 * table.loc["rdn-copy", "disk_mb"])


def test_a_teacher_takes_the_time_of_a_forward_pass(cheap, tmp_path):
    path = write_profile(tmp_path / "taught.yaml", rdn={"distill": 0.5})
    table = plan.plan(open_workspace(path, out=tmp_path / "out")).set_index("name")
    assert table.loc["base", "images_per_second"] == table.loc["rdn-scratch", "images_per_second"] == 100
    assert table.loc["rdn-copy", "images_per_second"] == pytest.approx(75)  # a third of a step more


@pytest.mark.parametrize("name", ["quick", "gpu", "pretrained"])  # imagenet: test_imagenet
def test_every_structure_of_a_profile_can_be_built(name):
    workspace = open_workspace(name, toy=True)
    whats = {
        str(what): what
        for node in workspace.graph.values()
        if "recipe" in node.config
        for what in [plan._structure(workspace, node)]
    }
    images = torch.randn(2, 3, workspace.profile.recipe.size, workspace.profile.recipe.size)
    for what in whats.values():
        assert plan._build(what, 5).eval()(images).shape[-1] == 5
    assert set(graph.repeats(workspace.profile).values()) == {1}


def test_on_the_command_line(tmp_path, capsys, cheap):
    out = tmp_path / "out"
    cli.app(["reproduce", "--profile", TINY, "--out", str(out), "--plan"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "images per second" in printed and "rdn-copy" in printed and "GB of results" in printed
    assert not out.exists()
    folder = write_profile(tmp_path / "own.yaml", data={"name": "folder"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        cli.app(
            ["reproduce", "--profile", folder, "--data-root", str(tmp_path / "empty"), "--plan"], standalone_mode=False
        )
