"""Processes that run experiments beside each other, for `experiments.ensure_all`.

A worker is `rdn experiment run -`: it takes names from its standard input until that ends. To start a process and load the data
costs seconds, more than a small experiment does.
"""

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from rdnlib.errors import RdnError

if TYPE_CHECKING:
    from rdnlib.reproduction.experiments.workspace import Workplace


class Worker:
    """One process; `run` waits for an experiment, `stop` ends the process whatever it is doing."""

    def __init__(self, place: "Workplace", *, progress: bool) -> None:
        command = [sys.executable, "-m", "rdnlib", "experiment", "run", "-", "--profile", place.profile.source]
        command += ["--seed", str(place.seed), "--out", str(place.out)]
        command += ["--data-root", str(place.data_root)] if place.data_root else []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.place, self.progress, self.complaints = place, progress, []
        self.reader = threading.Thread(target=lambda: self.complaints.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def run(self, name: str) -> None:
        """Run one experiment; raises RdnError with the process's last words when it fails. A worker that failed is of no use."""
        try:
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: its last words follow
        for line in self.process.stdout:
            if line.rstrip() == str(self.place.folder(name)):
                return
            if self.progress and ": epoch " in line:
                print(line, end="", flush=True)
        self.process.wait()
        self.reader.join()
        said = [line.strip() for line in self.complaints if line.strip()]
        reason = said[-1] if said else f"exit code {self.process.returncode}"
        raise RdnError(f"experiment {name} failed: {reason.removeprefix('error: ')}")

    def stop(self) -> None:
        """End the process; an experiment that it was running keeps its last checkpoint, and goes on from there next time."""
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()
        self.reader.join()
        self.process.stderr.close()
