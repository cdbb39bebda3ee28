"""The command line `rdn`, also `python -m rdnlib`. A user's error is one line on standard error and exit code 1, never a traceback."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from rdnlib.errors import ConfigError, RdnError
from rdnlib.reproduction.commands import JobsOption, SchedulerOption, SeedOption, SeedsOption, experiment, with_shared

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.splitlines()[0]
)
app.add_typer(experiment, name="experiment")

OWN = "package.module:function of your own, which takes num_classes and returns a network"
ModelOption = Annotated[str, Option(help=f"mobilenext, mobilenet_v2, resnext50, efficientnet_lite0, or {OWN}.")]
WidthOption = Annotated[float | None, Option(min=0.05, help="Width multiplier (default: the network's).")]
PixelsOption = Annotated[int, Option(min=1, help="Pixels.")]
ClassesOption = Annotated[int, Option(min=2)]
GroupsOption = Annotated[int, Option(min=2, help="Original groups.")]
PlainOption = Annotated[
    float | None, Option(help="Share of the MAdds that is not nested (default: the paper's layers).")
]
JsonOption = Annotated[bool, Option("--json", help="Machine-readable.")]


@app.command()
@with_shared
def reproduce(
    arguments: dict,
    seeds: SeedsOption = None,
    jobs: JobsOption = None,
    scheduler: SchedulerOption = None,
    notebook: Annotated[
        list[str] | None, Option(help="Execute only this one (06_lambda), with what it needs; may be repeated.")
    ] = None,
    plan: Annotated[
        bool,
        Option("--plan", help="Run nothing: check the data, time a few steps, and say what everything would take."),
    ] = False,
) -> None:
    """Run the experiments, execute every notebook, build the book."""
    from rdnlib.reproduction.book.build import reproduce as run
    from rdnlib.reproduction.experiments import open_workspace
    from rdnlib.utils import devices

    if devices.here().num_processes > 1:
        raise ConfigError(
            "one process makes the book: first `torchrun … -m rdnlib experiment run --all`, then rdn reproduce without torchrun"
        )
    workspace = open_workspace(**arguments)  # wrong arguments end here
    if plan:
        from rdnlib.reproduction.experiments import plan as planning

        table = planning.plan(workspace, seeds)
        print(f"{planning.shown(table)}\n\n{planning.in_words(workspace, table)}")
        return
    fingerprint = workspace.fingerprint  # and missing or damaged data here, before any work
    arguments |= {"data_root": workspace.data_root, "out": workspace.out, "notebooks": notebook or ()}
    run(**arguments, seeds=seeds, jobs=jobs, scheduler=scheduler, fingerprint=fingerprint)


@app.command()
def book(
    profile: Annotated[str, Option(help="Whose published results to show.")] = "laptop",
    results: Annotated[
        Path | None, Option(help="Show these instead: a folder of your own that `rdn publish` made.")
    ] = None,
    out: Annotated[Path | None, Option(help="Where the book goes (default: build/book-<profile>).")] = None,
) -> None:
    """Build the book from published results: no training, no photographs, no network."""
    from rdnlib.reproduction.book.build import book as run

    run(profile=profile, results=results, out=out)


@app.command()
def publish(
    profile: Annotated[str, Option(help="Of which profile: its name, or the path of a .yaml file.")],
    to: Annotated[Path, Option(help="Folder to write, in place of what is there.")],
    seed: SeedOption = 0,
    out: Annotated[
        Path | None, Option(help="Where `rdn reproduce` put the results (default: build/<name of the profile>).")
    ] = None,
    partial: Annotated[
        bool, Option("--partial", help="Although experiments are missing: the part of the profile that is finished.")
    ] = False,
) -> None:
    """Keep of a run what `rdn book` needs: outputs per image, tables, figures of cells that need networks; no photographs."""
    from rdnlib.reproduction.book import published
    from rdnlib.utils.resources import resource

    made = published.publish(profile, to, out=out, seed=seed, partial=partial, project=resource())
    size = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    print(f"{made}: {size / 1e6:.1f} MB; rdn book --results {made}")


def _supernet(model: str, width: float | None, classes: int):
    from rdnlib import models

    models.import_model(model)
    return models.build(model, num_classes=classes, **({} if width is None else {"width_mult": width}))


@app.command()
def count(
    model: ModelOption = "mobilenext",
    width: WidthOption = None,
    input_size: PixelsOption = 224,
    classes: ClassesOption = 1000,
    k: GroupsOption = 4,
    rdn: Annotated[bool, Option("--rdn", help="Every sub-network of the RDN instead of the super-net.")] = False,
    plain: PlainOption = None,
    unfolded: Annotated[bool, Option("--unfolded", help="Heads as the paper counts them.")] = False,
    as_json: JsonOption = False,
) -> None:
    """MAdds and parameters of a super-net, or of every sub-network of its RDN."""
    from rdnlib import madds, to_rdn

    network = _supernet(model, width, classes)
    if rdn:
        nested = to_rdn(network, k, select="identity", plain=plain)
        table = madds.count_subnetworks(nested, input_size, folded=not unfolded)
    else:
        total = madds.count(network, input_size)[["madds", "madds_elementwise", "params"]].sum()
        table = total.to_frame().T.astype(int)
        table.insert(0, "model", model)
    print(json.dumps(table.to_dict("records"), indent=2) if as_json else table.to_string(index=False))


@app.command()
def bench(
    model: ModelOption = "mobilenext",
    width: WidthOption = None,
    input_size: PixelsOption = 224,
    classes: ClassesOption = 1000,
    k: GroupsOption = 4,
    plain: PlainOption = None,
    batch: Annotated[
        list[int] | None, Option(min=1, help="Images at once; may be repeated (default: 1 and 16).")
    ] = None,
    threads: Annotated[int | None, Option(min=1, help="CPU threads (default: torch's).")] = None,
    contiguous: Annotated[bool, Option("--contiguous", help="Channels first in memory instead of last.")] = False,
    untuned: Annotated[
        bool, Option("--untuned", help="Nested convolutions group by group instead of as is fastest.")
    ] = False,
    runtime: Annotated[str, Option(help="eager, compile, onnxruntime or openvino.")] = "eager",
    quick: Annotated[bool, Option("--quick", help="Three turns instead of nine.")] = False,
    preparation: Annotated[
        bool,
        Option("--preparation", help="Also a joint training step, surgery and the sweep over λ, on one CPU thread."),
    ] = False,
    figure: Annotated[Path | None, Option(help="Draw time against MAdds into this .svg or .png file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Time of every sub-network against its base network, beside their multiply-adds, in one process on this machine."""
    from rdnlib.deployment.bench import bench as run

    network = _supernet(model, width, classes)
    tables = [run(
        network.eval(), input_size, k=k, plain=plain, batches=batch or (1, 16), threads=threads, channels_last=not contiguous,
        tuned=not untuned, repeats=3 if quick else 9, runtime=runtime,
    )]  # fmt: skip
    if figure is not None:
        from rdnlib.reproduction.book.style import save
        from rdnlib.reproduction.book.timing import time_against_madds

        save(time_against_madds(tables[0].assign(runtime=runtime)), figure)
    if preparation:
        from rdnlib.reproduction.experiments.benchmark import compare_preparation

        tables.append(compare_preparation(network, k=k, size=input_size, plain=plain))
    for table in tables if not as_json else ():
        titled = table.rename(columns=lambda name: name.replace("_", " "))
        print(titled.to_string(index=False, float_format="{:.3g}".format, na_rep="–"))
    if as_json:
        records = [json.loads(table.to_json(orient="records")) for table in tables]  # NaN is null
        print(json.dumps(records if preparation else records[0], indent=2))


@app.command()
@with_shared
def calibrate(
    arguments: dict,
    epsilon: Annotated[float, Option(help="Accepted error: λ* is the smallest λ whose accuracy is at least 1 − ε.")],
    delta: Annotated[float | None, Option(help="Guarantee the target with probability 1 − δ.")] = None,
    init: Annotated[str | None, Option(help="Which RDN: reconstruct or copy (default: the profile's init).")] = None,
) -> None:
    """λ* for a target accuracy, set on the calibration split, and what it gives on the validation split."""
    from rdnlib.calibration import multiplier
    from rdnlib.reproduction.analysis import outcomes
    from rdnlib.reproduction.experiments import ensure, open_workspace

    multiplier.check_target(epsilon, delta)
    workspace = open_workspace(**arguments)
    init = init or workspace.profile.rdn.init
    rdn, policy = (ensure(workspace, f"{kind}-{init}") for kind in ("rdn", "policy"))
    held_out, validation = (outcomes.dynamic(rdn, policy, split=split) for split in ("calibration", "validation"))
    found = multiplier.calibrate(held_out.p, held_out.correct, held_out.saved, epsilon, delta, madds=held_out.madds)
    exits = multiplier.choose(validation.p, validation.saved, found.lam)
    accuracy = validation.correct[range(len(exits)), exits]
    low, high = outcomes.interval(accuracy)
    print(f"λ* = {found.lam:.6g}")
    print(f"calibration: accuracy {found.accuracy:.2%}, MAdds saved {found.saved:.1%}")
    print(
        f"validation:  accuracy {accuracy.mean():.2%} [{low:.2%}, {high:.2%}], MAdds saved {validation.saved[exits].mean():.1%}"
    )


@app.command()
def export(
    checkpoint: Annotated[Path, Option(help="An RDN's model.safetensors, its .json beside it.")],
    out: Annotated[Path, Option(help="The ONNX file to write; with --policy, the folder.")],
    subnetwork: Annotated[int | None, Option(help="i of N_i, from 1 to K.")] = None,
    policy: Annotated[
        Path | None, Option(help="A policy's model.safetensors: write N_1 with its decision, and the increments.")
    ] = None,
    input_size: Annotated[
        int | None, Option(min=1, help="Pixels (default: what the checkpoint says, else 224).")
    ] = None,
    model: Annotated[str | None, Option(help=f"The super-net, where the checkpoint is of {OWN}.")] = None,
) -> None:
    """One sub-network as ONNX file, or with --policy real exits as a folder of files; checked against torch."""
    from rdnlib import models
    from rdnlib.deployment import export as exporting

    if (subnetwork is None) == (policy is None):
        raise ConfigError("say what to export: --subnetwork i, or --policy FILE for real exits")
    if model is not None:
        models.import_model(model)
    if policy is not None:
        rdn, pixels, deviation = exporting.export_exits(checkpoint, policy, out, input_size, model=model)
        print(f"{out}: first.onnx and to_2.onnx … to_{rdn.num_subnetworks}.onnx, for images of {pixels} pixels")
    else:
        rdn, pixels, deviation = exporting.export_checkpoint(checkpoint, subnetwork, out, input_size, model=model)
        print(f"{out}: N_{subnetwork} of {rdn.num_subnetworks}, {out.stat().st_size / 1e6:.1f} MB")
        print(f"images (batch, 3, {pixels}, {pixels}) → logits (batch, {rdn.heads.classifier.out_features})")
    print(f"largest deviation from torch: {deviation:.1e} of the largest value")


UsageError = typer.BadParameter.__base__  # of the click that typer carries with it


def main() -> None:
    interrupted = 130  # what typer makes of Ctrl-C
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        message = error.format_message()
        if message:  # none where a bare command has shown its help
            print(f"error: {message.splitlines()[0]} (see rdn --help)", file=sys.stderr)
        code = 2
    except RdnError as error:
        sys.exit(f"error: {error}")
    except (typer.Abort, KeyboardInterrupt):
        code = interrupted
    if code == interrupted:
        print("stopped; the same command goes on from here", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
