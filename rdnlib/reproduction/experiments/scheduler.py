"""The graph of experiments, run in this process or on a Dask cluster: each experiment is a task that depends on its parents'.

By default the cluster is one of `jobs` processes on this machine, on GPUs one process each; `scheduler` is the address of any
other. On a CPU two processes of one thread each get more done than one process with two threads.
"""

import logging
import multiprocessing
import os
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

import torch

from rdnlib.errors import ConfigError, RdnError
from rdnlib.reproduction.experiments import graph, runners
from rdnlib.reproduction.experiments.workspace import Run, Workspace, finished
from rdnlib.utils import devices

Node = tuple[Workspace, str]  # an experiment at one seed
_SETTINGS = {
    "distributed.worker.daemon": False,  # or it could not start the processes of data loaders
    "distributed.scheduler.allowed-failures": 0,  # what killed a process would kill the next
    "distributed.nanny.pre-spawn-environ": {},  # an experiment sets its number of threads itself
    "distributed.worker.preload": ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"],  # Ctrl-C is ours
}


def ensure(workspace: Workspace, name: str, *, progress: bool = True) -> Run:
    """The finished experiment `name`: found, or run in this process with all that it builds on."""
    if not devices.broadcast(finished(workspace.folder(name))):
        for parent in workspace.experiment(name).parents:
            ensure(workspace, parent, progress=progress)
    return runners.run(workspace, name, progress=progress)


def ensure_all(
    workspace: Workspace,
    names: Iterable[str] | None = None,
    *,
    seeds: int | None = 1,
    jobs: int | None = None,
    scheduler: str | None = None,
    progress: bool = True,
) -> dict[str, list[Run]]:
    """The finished experiments `names` (default: all of the profile) at their seeds, as one graph: name → a run for each seed.

    seeds: see `graph.repeats`. jobs: how many run at once (default: the profile's).
    With one job, or started by torchrun, they run in this process. scheduler: the address of a Dask cluster whose workers see
    the same folders. Raises RdnError, naming the experiment, for the first that fails; the others stop and can be resumed.
    """
    jobs, names = jobs or workspace.profile.jobs, list(workspace.graph if names is None else names)
    repeats = graph.repeats(workspace.profile, seeds)
    replicas = workspace.replicas(max(map(repeats.__getitem__, names), default=1))
    wanted = [[name for name in names if number < repeats[name]] for number in range(len(replicas))]
    if devices.here().num_processes > 1 or (jobs == 1 and scheduler is None):
        for replica, own in zip(replicas, wanted, strict=True):
            for name in own:
                ensure(replica, name, progress=progress)
    elif todo := _unfinished(replicas, wanted):
        jobs = jobs if scheduler else _fitting(workspace, jobs, {name for _, name in todo})
        with _client(min(jobs, len(todo)), scheduler) as client:
            _run_graph(client, todo, progress)
    return {name: [Run(name, replica) for replica in replicas[: repeats[name]]] for name in names}


def _unfinished(replicas: Sequence[Workspace], wanted: Sequence[Iterable[str]]) -> list[Node]:
    """What is to be run for the experiments `wanted` of each seed, parents first, all seeds of an experiment in a row."""
    todo = []
    for replica, own in zip(replicas, wanted, strict=True):
        needed = set(own)
        for name in reversed(replica.graph):  # children first
            if name in needed and not finished(replica.folder(name)):
                needed |= set(replica.graph[name].parents)
                todo.append((replica, name))
    order = {name: position for position, name in enumerate(replicas[0].graph)}
    return sorted(todo, key=lambda node: (order[node[1]], node[0].seed))


def _fitting(workspace: Workspace, jobs: int, todo: Iterable[str]) -> int:
    """At most `jobs` at once, such that on a CPU their threads have a core each, but no fewer than the profile asks for.

    Threads that wait for a core spin, and all are slower. How many threads an experiment has, the profile decides, since its numbers
    depend on it.
    """
    if torch.cuda.is_available():
        return jobs
    threads = max(map(workspace.threads, todo))
    fitting = min(jobs, max(1, workspace.profile.jobs, devices.cores() // threads))
    if fitting < jobs:
        print(
            f"{fitting} at once instead of {jobs}: with {threads} threads each they would need {jobs * threads} cores of "
            f"{devices.cores()}; `jobs: {jobs}` in the profile makes them share the cores",
            flush=True,
        )
    return fitting


def _run_graph(client, todo: list[Node], progress: bool) -> None:
    """Run experiments, parents first, each as soon as it can; of those that can, the first in the list."""
    from distributed import CancelledError, KilledWorker, as_completed

    client.wait_for_workers(1)
    gpus = any("GPU" in worker["resources"] for worker in client.scheduler_info()["workers"].values())
    todo[0][0].out.mkdir(parents=True, exist_ok=True)
    tasks, labels = {}, {}
    for position, (workspace, name) in enumerate(todo):
        seed = workspace.seed
        parents = [tasks[seed, parent] for parent in workspace.graph[name].parents if (seed, parent) in tasks]
        tasks[seed, name] = client.submit(
            _task, workspace, name, workspace.fingerprint, progress, parents, key=f"{name}-{seed}-{uuid.uuid4().hex}",
            priority=-position, resources={"GPU": 1} if gpus else None,
        )  # fmt: skip
        labels[tasks[seed, name].key] = workspace.label(name)
    try:
        for task in as_completed(tasks.values()):
            task.result()
            if progress:
                print(f"{labels[task.key]}: finished", flush=True)
    except KilledWorker as error:
        reason = "its process was killed, perhaps for lack of memory"
        raise RdnError(f"experiment {labels[error.task]} failed: {reason}") from error
    except CancelledError as error:
        raise RdnError("the Dask scheduler is gone; the same command goes on from here") from error
    finally:
        if client.cluster is None:  # a cluster that goes on without us
            with suppress(OSError):
                busy = [worker for worker, keys in client.processing().items() if labels.keys() & set(keys)]
                client.cancel(list(tasks.values()))
                client.restart_workers(busy, raise_for_error=False)


# What runs in a worker. It keeps the last workspaces, because to read the images takes longer than a small experiment.
_KEPT = 3
_workspaces: list[Workspace] = []


def _task(workspace: Workspace, name: str, fingerprint: str, progress: bool, parents: list[None]) -> None:
    from distributed import get_worker

    if get_worker().state.nthreads > 1 or multiprocessing.current_process().daemon:
        raise ConfigError("start Dask workers with --nthreads 1 and DASK_DISTRIBUTED__WORKER__DAEMON=False")
    workspace = next((kept for kept in _workspaces if kept == workspace), workspace)
    _workspaces[:] = [workspace, *(kept for kept in _workspaces if kept is not workspace)][:_KEPT]
    if not workspace.out.is_dir() or workspace.fingerprint != fingerprint:
        worker = get_worker().address
        raise ConfigError(f"the worker {worker} does not see the same images and the same {workspace.out}")
    try:
        runners.run(workspace, name, progress=progress)
    except RdnError as error:
        raise RdnError(f"experiment {workspace.label(name)} failed: {error}") from error


@contextmanager
def _client(jobs: int, scheduler: str | None) -> Iterator:
    """A client of the cluster at the address `scheduler`, or of one with `jobs` processes on this machine."""
    import dask
    from distributed import Client

    patient = {} if scheduler else {"distributed.comm.timeouts.connect": "5 minutes"}  # the machine may be busy
    with (
        dask.config.set(_SETTINGS | patient),
        nullcontext(scheduler) if scheduler else _local_cluster(jobs) as cluster,
    ):
        try:
            client = Client(cluster)
        except (OSError, ValueError) as error:
            raise ConfigError(f"there is no Dask scheduler at {scheduler}: {error}") from error
        with client:
            print(f"experiments run on {client.scheduler.address}, dashboard: {client.dashboard_link}", flush=True)
            yield client


def _local_cluster(jobs: int):
    """Processes on this machine, each with one of its GPUs if there are any."""
    from distributed import Nanny, Scheduler, SpecCluster

    sys.warnoptions.append("ignore:resource_tracker")  # it removes the semaphores of a killed worker, without a word
    local, quiet = {"host": "127.0.0.1"}, logging.CRITICAL
    worker = {**local, "nthreads": 1, "memory_limit": None, "silence_logs": quiet}
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    workers = {}
    for index in range(jobs):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]}
        own = {"resources": {"GPU": 1}, "env": gpu} if torch.cuda.is_available() else {}
        workers[index] = {"cls": Nanny, "options": worker | own}
    main = {"cls": Scheduler, "options": {**local, "port": 0, "dashboard_address": "127.0.0.1:0"}}
    try:
        return SpecCluster(workers, main, silence_logs=quiet)
    except RuntimeError as error:
        reasons = [error]
        while cause := reasons[-1].__cause__ or reasons[-1].__context__:
            reasons.append(cause)
        told = " ← ".join(f"{type(each).__name__}: {each}" for each in reasons)
        raise RdnError(f"the processes for the experiments could not be started: {told}") from error
