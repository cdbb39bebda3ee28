"""What `rdn experiment status` and `clean` say and do, and that whole profiles run as toys."""

import shutil

import pytest
import torch
from support.profiles import TINY

from rdnlib import __main__ as cli
from rdnlib.reproduction.experiments import config, ensure, ensure_all, graph, open_workspace, store
from rdnlib.reproduction.experiments.workspace import lock
from rdnlib.training.recipe import Recipe, ema_decay
from rdnlib.training.state import TrainState
from rdnlib.utils.files import write_json, write_tensors


def tiny(out, seed=0):
    return open_workspace(TINY, out=out, seed=seed)


def begin(out, name, seed=0):
    """The folder of an experiment that somebody has begun."""
    workspace = tiny(out, seed)
    folder = workspace.folder(name)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"config": workspace.experiment(name).config})
    return folder


def finish(out, name, seed=0):
    folder = begin(out, name, seed)
    write_json(folder / "result.json", {"provenance": {"seconds": 12.5}})
    return folder


def states(out):
    return dict(store.status(tiny(out)).set_index("name")["state"])


def test_status_follows_an_experiment(tmp_path, monkeypatch):
    assert set(states(tmp_path).values()) == {"waiting"}
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(TrainState, "due", lambda self: True)
    seen, save = [], TrainState.save

    def save_and_look(state, at):
        save(state, at)
        with pytest.MonkeyPatch.context() as patch:  # looking takes a lock of its own
            patch.setattr(TrainState, "due", lambda self: False)
            seen.append(states(tmp_path)["base"])
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainState, "save", save_and_look)
    with pytest.raises(KeyboardInterrupt):
        ensure(tiny(tmp_path), "base", progress=False)
    assert seen == ["running"]
    table = store.status(tiny(tmp_path)).set_index("name")
    assert table.loc["base", ["state", "epoch", "epochs"]].tolist() == ["resumable", 0, 1]
    assert table.loc["base", "seconds"] > 0
    monkeypatch.setattr(TrainState, "save", save)
    monkeypatch.undo()
    ensure(tiny(tmp_path), "base", progress=False)
    table = store.status(tiny(tmp_path)).set_index("name")
    assert table.loc["base", ["state", "epoch", "epochs"]].tolist() == ["finished", 1, 1]
    assert table.loc["rdn-copy", "state"] == "waiting"


def test_a_damaged_state_does_not_stop_the_status(tmp_path):
    folder = begin(tmp_path, "base")
    (folder / "resume.safetensors").write_bytes(b"half")
    assert states(tmp_path)["base"] == "waiting"
    write_tensors(folder / "resume.safetensors", {"x": torch.zeros(1)}, {"progress": "{}", "processes": "1"})
    assert states(tmp_path)["base"] == "resumable"


def test_clean_removes_what_nobody_asks_for(tmp_path):
    wanted, begun, other = finish(tmp_path, "base"), begin(tmp_path, "rdn-copy"), finish(tmp_path, "base", seed=3)
    old = wanted.with_name("base-0123456789ab-01234567")
    shutil.copytree(wanted, old)
    found = store.leftovers(tiny(tmp_path))
    assert [(leftover.folder, leftover.reason) for leftover in found] == [(old, "not asked for")]
    assert found[0].size == sum(file.stat().st_size for file in wanted.iterdir())
    assert {leftover.folder for leftover in store.leftovers(tiny(tmp_path), unfinished=True)} == {old, begun}
    with lock(old):
        assert store.leftovers(tiny(tmp_path)) == []
        assert not store.remove(found[0])
    assert old.is_dir()
    assert store.remove(found[0])
    assert not old.exists()
    assert wanted.is_dir()
    assert other.is_dir()
    assert begun.is_dir()


def test_clean_on_the_command_line(tmp_path, capsys, monkeypatch):
    old = finish(tmp_path, "base").rename(tmp_path / "experiments" / "base-0123456789ab-01234567")

    def call(*options, command="clean"):
        cli.app(["experiment", command, "--profile", TINY, "--out", str(tmp_path), *options], standalone_mode=False)
        return capsys.readouterr().out

    assert "MB  in 1 folders" in call("--dry-run")
    monkeypatch.setattr(cli.typer, "confirm", lambda question: False)
    assert str(old) in call()
    assert old.is_dir()
    assert "removed 1 of 1 folders" in call("--yes")
    assert not old.exists()
    assert "waiting" in call(command="status")


def test_leftovers_of_a_killed_process_go_when_the_experiment_is_run(tmp_path):
    half_written = begin(tmp_path, "base") / ".resume.safetensors.x.safetensors"
    half_written.write_bytes(b"half")
    ensure(tiny(tmp_path), "base", progress=False)
    assert not half_written.exists()


@pytest.mark.slow
def test_every_experiment_of_a_long_profile_runs_as_a_toy(tmp_path):
    toy = open_workspace("gpu", out=tmp_path, toy=True)  # of imagenet, some of each kind do in test_imagenet
    assert set(toy.graph) == set(graph.experiments(config.load_profile("gpu"), 0))
    for (run,) in ensure_all(toy, jobs=1, progress=False).values():
        assert (run.path / "samples.parquet").is_file()
    assert set(store.status(toy)["state"]) == {"finished"}


@pytest.mark.slow
def test_what_no_other_profile_has_runs_as_a_toy(tmp_path):
    """Networks with weights from elsewhere and from scratch instead, RDNs of other groups that teach themselves, sub-networks alone, a
    slimmable network."""
    names = ["policy-reconstruct", "rdn-scratch", "rdn-earlier", "rdn-halves", "rdn-paper", "alone-1", "slimmable"]
    toy = open_workspace("pretrained", out=tmp_path, toy=True)
    assert set(toy.graph) == set(graph.experiments(config.load_profile("pretrained"), 0))
    for (run,) in ensure_all(toy, names, jobs=1, progress=False).values():
        assert (run.path / "samples.parquet").is_file()


def test_the_papers_recipe_is_imagenets():
    """Section 4.1, and the decay of the moving average that follows from it."""
    nodes = graph.experiments(config.load_profile("imagenet"), 0)
    recipe = Recipe(**nodes["rdn-copy"].config["recipe"])
    assert (recipe.epochs, recipe.lr, recipe.batch_size, recipe.size) == (200, 0.1, 1024, 224)
    assert (recipe.momentum, recipe.weight_decay, recipe.min_lr, recipe.bn_momentum) == (0.9, 1e-4, 1e-5, 0.01)
    steps = 200 * (1_281_167 // 1024)
    assert ema_decay(recipe, steps) == pytest.approx(0.9999, abs=1e-6)
    (rows,) = recipe.rows(7, 8)
    assert len(range(1024)[rows]) == 128  # images on each GPU


def test_names_or_all(capsys):
    for arguments in (["--profile", TINY], ["base", "--all", "--profile", TINY]):
        with pytest.raises(cli.ConfigError, match="names from `rdn experiment list`, or --all"):
            cli.app(["experiment", "run", *arguments], standalone_mode=False)
