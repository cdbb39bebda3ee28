"""The commands `rdn experiment …`, and the options that they share with the other commands on a profile."""

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from rdnlib.errors import ConfigError

experiment = typer.Typer(no_args_is_help=True, help="The experiment graph, node by node.")

JobsOption = Annotated[
    int | None, Option(min=1, help="Experiments, and then notebooks, at once (default: the profile's).")
]
SchedulerOption = Annotated[
    str | None, Option(help="Address of a Dask cluster that runs the experiments (default: this machine).")
]
SeedOption = Annotated[int, Option(help="Seed of everything random.")]
SeedsOption = Annotated[
    int | None,
    Option(
        min=1, help="So many seeds, from --seed on (default: what the profile says; 1 for experiments given by name)."
    ),
]
DATA = "Another data set than the profile's; `folder`: images of your own, train/<class>/… and val/<class>/… in --data-root."


def _shared(
    profile: Annotated[str, Option(help="quick, laptop, gpu, imagenet, or the path of a .yaml file.")],
    data: Annotated[str | None, Option(help=DATA)] = None,
    data_root: Annotated[Path | None, Option(help="Folder that holds the photographs (not needed for quick).")] = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, Option(help="Where results go (default: build/<name of the profile>).")] = None,
) -> None:
    """The arguments of `open_workspace`."""


def with_shared(command: Callable) -> Callable:
    """A command that takes these arguments, too; it gets them as a mapping, before its own."""
    (_, *own), shared = signature(command).parameters.values(), signature(_shared).parameters

    def call(**given) -> None:
        command({name: given.pop(name) for name in shared}, **given)

    options = [option.replace(kind=option.KEYWORD_ONLY) for option in (*shared.values(), *own)]
    call.__signature__, call.__name__, call.__doc__ = Signature(options), command.__name__, command.__doc__
    return call


@experiment.command("list")
@with_shared
def list_experiments(arguments: dict) -> None:
    """Names of the profile's experiments, what they build on, and whether they are finished."""
    from rdnlib.reproduction.experiments import graph, open_workspace
    from rdnlib.reproduction.experiments.workspace import finished

    workspace = open_workspace(**arguments)
    repeats = graph.repeats(workspace.profile)
    for name, node in workspace.graph.items():
        done = [finished(replica.folder(name)) for replica in workspace.replicas(repeats[name])]
        state = "finished" if all(done) else f"{sum(done)} of {len(done)}" if any(done) else "to do"
        print(f"{name:20s} {state:9s} {'after ' + ', '.join(node.parents) if node.parents else ''}".rstrip())


@experiment.command("run")
@with_shared
def run_experiments(
    arguments: dict,
    names: Annotated[list[str] | None, Argument(help="Experiments, see `rdn experiment list`.")] = None,
    everything: Annotated[bool, Option("--all", help="All of the profile's experiments.")] = False,
    toy: Annotated[bool, Option("--toy", help="On a few images with tiny networks: only to see them run.")] = False,
    seeds: SeedsOption = None,
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Run experiments (and what they build on) unless they are finished. Started by `torchrun`, on many devices."""
    from rdnlib.reproduction.experiments import ensure_all, open_workspace
    from rdnlib.utils import devices

    workspace = open_workspace(**arguments, toy=toy)
    if bool(names) == everything:
        raise ConfigError("say which experiments to run: names from `rdn experiment list`, or --all")
    for name in names or ():
        workspace.experiment(name)
    seeds = 1 if seeds is None and names else seeds  # by name: what is asked for and no more
    for runs in ensure_all(workspace, names or None, seeds=seeds, jobs=jobs, scheduler=scheduler).values():
        for run in runs if devices.here().is_main_process else ():
            print(run.path)
    devices.shutdown()


@experiment.command("status")
@with_shared
def show_status(arguments: dict) -> None:
    """What became of the profile's experiments: finished, running, resumable, or waiting."""
    from rdnlib.reproduction.experiments import open_workspace, store

    table = store.status(open_workspace(**arguments))
    trained = table["epochs"] > 0
    table["epoch"] = (table["epoch"].astype(str) + " of " + table["epochs"].astype(str)).where(trained, "–")
    table["seconds"] = table["seconds"].round().astype(int)
    print(table.drop(columns="epochs").to_string(index=False))


@experiment.command("clean")
@with_shared
def clean(
    arguments: dict,
    unfinished: Annotated[bool, Option("--unfinished", help="Those that were begun and not finished, too.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove experiments that the profile does not ask for (any more), never one that is running."""
    from rdnlib.reproduction.experiments import open_workspace, store

    workspace = open_workspace(**arguments)
    leftovers = store.leftovers(workspace, unfinished=unfinished)
    for leftover in leftovers:
        print(f"{leftover.size / 1e6:8.1f} MB  {leftover.reason:13s}  {leftover.folder}")
    print(f"{sum(leftover.size for leftover in leftovers) / 1e6:8.1f} MB  in {len(leftovers)} folders")
    if leftovers and not dry_run and (yes or typer.confirm("Remove them?")):
        print(f"removed {sum(map(store.remove, leftovers))} of {len(leftovers)} folders")
