"""The project's own files agree with each other."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normal(name): version for name, version in pins}


def test_environment_and_lock_name_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pins = dict(line.split("==") for line in pip if "==" in line)
    assert {normal(name): version for name, version in pins.items()}.items() <= locked().items()
    assert {"torch", "torchvision", "jupyter-book", "papermill", "ipywidgets", "pandas", "matplotlib"} <= set(pins)


def test_every_dependency_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}
    assert names <= set(locked())


def test_the_lock_has_versions_only():
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.+!-]+", line), line


def test_profiles_can_be_read():
    from rdnlib.reproduction.experiments import graph
    from rdnlib.reproduction.experiments.config import load_profile

    names = [path.stem for path in (ROOT / "notebooks" / "profiles").glob("*.yaml")]
    assert {"quick", "laptop"} <= set(names)
    for name in names:
        assert "rdn-reconstruct" in graph.experiments(load_profile(name), 0)
