"""Kill a run at random moments, start it again each time, and compare with one that was left alone: `make soak`.

    python tests/support/soak.py --profile quick --kills 20 [--experiments rdn-copy …] [--seed 0] [--work DIR]

Without --experiments it is `rdn reproduce`, notebooks and book included. Everything that ends in a table is compared: per-image
outputs, weights, histories, tables (columns of times aside). Nothing that was finished may be lost or written again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file

TIMES = r"seconds|waiting|\bms\b|_ms|latency|time|img/s|images/s"


def command(options: argparse.Namespace, out: Path) -> list[str]:
    what = ["experiment", "run", *options.experiments] if options.experiments else ["reproduce"]
    root = ["--data-root", options.data_root] if options.data_root else []
    jobs = ["--jobs", str(options.jobs)] if options.jobs else []
    return [sys.executable, "-m", "rdnlib", *what, "--profile", options.profile, "--out", str(out), *root, *jobs]


def start(options: argparse.Namespace, out: Path) -> subprocess.Popen:
    """In a process group of its own, so that the workers that it starts are killed with it."""
    environment = {**os.environ, "RDN_SAVE_MINUTES": str(options.save_minutes)}
    with (options.work / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(command(options, out), stdout=log, stderr=log, env=environment, start_new_session=True)


def finished(out: Path) -> dict[Path, int]:
    """The results so far and when they were written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("experiments/*/result.json")}


def must_be(kept: bool, what: str) -> None:
    if not kept:
        raise SystemExit(f"soak: {what}")


def locks(out: Path) -> set[tuple[Path, int]]:
    """The locks that experiments have taken, and when."""
    return {(path, path.stat().st_mtime_ns) for path in out.glob("experiments/.*.lock")}


def seconds_to_begin(run: subprocess.Popen, out: Path, before: set, longest: float = float("inf")) -> float:
    """Wait until the run takes its first experiment's lock, ends, or has had `longest` seconds."""
    began = time.monotonic()
    while locks(out) == before and run.poll() is None and time.monotonic() - began < longest:
        time.sleep(0.02)
    return time.monotonic() - began


def left_alone(options: argparse.Namespace, out: Path) -> tuple[float, float]:
    """Seconds that a run takes to begin its first experiment, and then to end."""
    run = start(options, out)
    startup = seconds_to_begin(run, out, set())
    began = time.monotonic()
    must_be(run.wait() == 0, "the run that is left alone failed")
    return startup, time.monotonic() - began


def killed_and_resumed(options: argparse.Namespace, out: Path, startup: float, usual: float) -> int:
    """Run to the end in spite of the kills; how many there were."""
    draw, kills = random.Random(options.seed), 0
    done = finished(out)
    while True:
        before, run = locks(out), start(options, out)
        patience = None
        if kills < options.kills:
            # A share of the work, counted from where the work begins: so that the kills fall on all of its length.
            seconds_to_begin(run, out, before, longest=startup)
            patience = draw.uniform(0.2, 1.8) * usual / (options.kills + 1)
        try:
            code = run.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            kills += 1
            print(f"kill {kills}/{options.kills}, {patience:.1f} s of work: {len(finished(out))} finished", flush=True)
        else:
            must_be(code == 0, f"a run failed, see {options.work / out.name}.log")
        now = finished(out)
        must_be(done.items() <= now.items(), "a finished experiment was lost or run again")
        done = now
        if run.returncode == 0:
            return kills


def table(path: Path) -> pd.DataFrame:
    found = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    return found.drop(columns=found.filter(regex=TIMES).columns)


def compare(one: Path, two: Path) -> int:
    """All tables and weights of both are equal, bit for bit; their number."""
    files = [sorted(p.relative_to(out) for p in out.rglob("*") if kept(p.relative_to(out))) for out in (one, two)]
    must_be(files[0] == files[1], f"other files: {set(files[0]) ^ set(files[1])}")
    for name in files[0]:
        if name.suffix == ".safetensors":
            first, second = load_file(one / name), load_file(two / name)
            same = first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
        else:
            same = table(one / name).equals(table(two / name))
        must_be(same, f"{name} differs")
    return len(files[0])


def kept(path: Path) -> bool:
    if path.name == "training_step.csv":  # times and memory, measured anew whenever the chapter runs
        return False
    return path.parts[0] in ("experiments", "tables") and path.suffix in (".parquet", ".csv", ".safetensors")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--experiments", nargs="*", default=[])
    parser.add_argument("--data-root")
    parser.add_argument("--jobs", type=int, help="experiments at once (default: the profile's)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--save-minutes", type=float, default=0.05)
    parser.add_argument("--work", type=Path, help="where both runs are kept (default: a folder that is thrown away)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        options.work = options.work or Path(scratch)
        options.work.mkdir(parents=True, exist_ok=True)
        startup, usual = left_alone(options, options.work / "alone")
        print(f"left alone it takes {startup:.1f} s to begin and {usual:.1f} s of work", flush=True)
        kills = killed_and_resumed(options, options.work / "killed", startup, usual)
        files = compare(options.work / "alone", options.work / "killed")
    print(f"{kills} kills: {files} tables and networks identical, no finished experiment lost or run again")
    return kills


if __name__ == "__main__":
    main()
