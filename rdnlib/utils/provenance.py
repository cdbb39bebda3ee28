"""What a reader needs to judge or repeat a result: commit, versions and machine."""

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import torch

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "pandas", "accelerate", "distributed", "matplotlib", "ipywidgets",
    "papermill", "jupyter-book",
)  # fmt: skip


@cache
def provenance() -> dict:
    """commit, python, platform, hardware (cpu, cores, memory in GB, gpus) and versions, as JSON values."""
    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "commit": commit(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "versions": versions,
    }


def commit(folder: Path) -> str | None:
    """The commit whose files lie in `folder`, with "-dirty" if they were changed; None if git does not track them."""
    with suppress(OSError, subprocess.CalledProcessError):
        for arguments in (
            ("ls-files", "--error-unmatch", "."),
            ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"),
        ):
            done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return None


def processor() -> str:
    """The processor's model, which Linux knows better than Python."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
