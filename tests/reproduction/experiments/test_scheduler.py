"""Experiments on Dask: the same numbers as in this process, one line for what fails, and nothing lost where something is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import dask
import pandas as pd
import psutil
import pytest
from distributed import Client
from support.profiles import TINY, write_profile

from rdnlib.errors import ConfigError, RdnError
from rdnlib.reproduction.experiments import ensure_all, graph, open_workspace, scheduler, store
from rdnlib.reproduction.experiments.config import SeedSettings, load_profile
from rdnlib.reproduction.experiments.workspace import finished

pytestmark = pytest.mark.slow
NAMES = ("base-longer", "policy-copy")  # and what they build on: base and rdn-copy


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The runs in this process."""
    return ensure_all(open_workspace(TINY, out=tmp_path_factory.mktemp("alone")), NAMES, seeds=2, progress=False)


def same(runs, expected):
    for name, own in expected.items():
        for ours, theirs in zip(runs[name], own, strict=True):
            pd.testing.assert_frame_equal(ours.samples(), theirs.samples())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a scheduler with two workers, each a process of its own."""
    environment = os.environ | {"DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
    folder = tmp_path_factory.mktemp("cluster")
    started, scheduler_file = [], folder / "scheduler.json"

    def start(*command):
        with (folder / f"dask-{len(started)}.log").open("w") as log:
            arguments = [sys.executable, "-m", "dask", *command, "--scheduler-file", scheduler_file]
            started.append(subprocess.Popen(arguments, stdout=log, stderr=log, env=environment))

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    while not scheduler_file.exists():
        assert started[0].poll() is None, (folder / "dask-0.log").read_text()
        time.sleep(0.1)
    for _ in range(2):
        start("worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard")
    with Client(scheduler_file=str(scheduler_file)) as client:
        client.wait_for_workers(2)
        yield client.scheduler.address
    for process in reversed(started):
        process.terminate()
        process.wait()


def test_two_workers_on_this_machine_give_the_same_numbers(expected, tmp_path, capfd):
    runs = ensure_all(open_workspace(TINY, out=tmp_path), NAMES, seeds=2, jobs=2)
    same(runs, expected)
    printed = capfd.readouterr().out
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/status", printed)
    assert "base: epoch 1/1" in printed and "policy-copy, seed 1: finished" in printed
    assert "base, seed 1: epoch 1/1" in printed


def test_a_cluster_of_two_processes_gives_the_same_numbers(expected, tmp_path, cluster):
    same(ensure_all(open_workspace(TINY, out=tmp_path), NAMES, seeds=2, scheduler=cluster, progress=False), expected)


def test_seeds_are_one_graph_and_each_runs_what_is_asked_of_it(tmp_path):
    profile = load_profile(TINY)
    profile = profile.model_copy(update={"seeds": SeedSettings(main=3, rest=2)})
    workspace = replace(open_workspace(TINY, out=tmp_path), profile=profile)
    repeats = graph.repeats(profile)
    replicas = workspace.replicas(3)
    wanted = [{name for name in workspace.graph if number < repeats[name]} for number in range(3)]
    todo = scheduler._unfinished(replicas, wanted)
    counts = Counter(name for _, name in todo)
    assert counts == repeats and counts["rdn-reconstruct"] == 3 and counts["rdn-copy"] == 2
    place = {(replica.seed, name): position for position, (replica, name) in enumerate(todo)}
    for replica, name in todo:
        for parent in replica.graph[name].parents:
            assert place[replica.seed, parent] < place[replica.seed, name]
    assert [replica.seed for replica, name in todo if name == "base"] == [0, 1, 2]


def test_a_failure_is_one_line_that_names_the_experiment_and_stops_the_others(tmp_path, cluster):
    lr = {"base": 0.02, "copy": 1e30, "reconstruct": 0.02}
    workspace = open_workspace(write_profile(tmp_path / "wild.yaml", rdn={"lr": lr}), out=tmp_path)
    with pytest.raises(RdnError, match=r"^experiment rdn-copy failed: .*no longer finite") as error:
        ensure_all(workspace, NAMES, scheduler=cluster, progress=False)
    assert "\n" not in str(error.value)
    assert finished(workspace.folder("base")) and not finished(workspace.folder("policy-copy"))
    assert "running" not in set(store.status(workspace)["state"])


def test_an_address_without_a_scheduler_is_one_line(tmp_path):
    patience = dask.config.set({"distributed.comm.timeouts.connect": "2s"})
    with patience, pytest.raises(ConfigError, match=r"there is no Dask scheduler at tcp://127\.0\.0\.1:9") as error:
        ensure_all(open_workspace(TINY, out=tmp_path), NAMES, scheduler="tcp://127.0.0.1:9")
    assert "\n" not in str(error.value)


@pytest.fixture
def long(tmp_path):
    """A profile whose experiments do not end before they are killed."""
    return write_profile(tmp_path / "long.yaml", base={"epochs": 500})


def begin(profile, out):
    """Start a run and wait until it has left a state of `base`; the main process and all the others."""
    command = [sys.executable, "-m", "rdnlib", "experiment", "run", "base", "base-mobilenet_v2", "--profile", profile]
    (state,) = [open_workspace(profile, out=out).folder("base") / "resume.safetensors"]
    before = state.stat().st_mtime_ns if state.exists() else 0
    with out.with_suffix(".log").open("w") as log:
        main = psutil.Popen(
            [*command, "--out", str(out), "--jobs", "2"], stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"RDN_SAVE_MINUTES": "0"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a shell runs in the background
        )  # fmt: skip
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert main.poll() is None, out.with_suffix(".log").read_text()
        time.sleep(0.05)
    return main, main.children(recursive=True)


def end(profile, out, main, children):
    """Wait until a run has stopped; its last line. None of its processes is left, and `base` can go on."""
    main.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    states = store.status(open_workspace(profile, out=out)).set_index("name")["state"]
    assert states["base"] == "resumable" and "running" not in set(states)
    return out.with_suffix(".log").read_text().splitlines()[-1]


def test_what_is_killed_leaves_no_process_and_can_go_on(long, tmp_path):
    """A worker is killed; then the main process is; then somebody presses Ctrl-C, which all processes get."""
    out = tmp_path / "out"
    main, children = begin(long, out)
    worker = next(child for child in children if "spawn_main" in " ".join(child.cmdline()))
    worker.kill()
    last = end(long, out, main, children)
    assert re.fullmatch(r"error: experiment base\S* failed: its process was killed, perhaps for lack of memory", last)
    main, children = begin(long, out)
    main.kill()
    end(long, out, main, children)
    main, children = begin(long, out)
    os.killpg(main.pid, signal.SIGINT)
    assert end(long, out, main, children) == "stopped; the same command goes on from here"


def test_no_more_experiments_at_once_than_have_a_core_for_each_thread(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(scheduler.devices, "cores", lambda: 4)
    monkeypatch.setattr(scheduler.torch.cuda, "is_available", lambda: False)
    profile = load_profile(TINY)
    for threads, jobs, fitting in ((1, 2, 2), (2, 2, 2), (2, 3, 2), (4, 2, 1), (8, 2, 1)):
        workspace = replace(open_workspace(TINY, out=tmp_path), profile=profile.model_copy(update={"threads": threads}))
        assert scheduler._fitting(workspace, jobs, ["base"]) == fitting
        said = capfd.readouterr().out
        assert (f"{fitting} at once instead of {jobs}" in said) == (fitting < jobs)
