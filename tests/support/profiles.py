"""Profiles for tests: `tiny` with other settings."""

from pathlib import Path

import yaml

TINY = str(Path(__file__).with_name("tiny.yaml"))  # its numbers mean nothing


def write_profile(path: Path, **changes: dict) -> str:
    """Write the profile `tiny` with other settings in its sections (None: without one) to a file; its path."""
    profile = yaml.safe_load(Path(TINY).read_text())
    for section, settings in changes.items():
        changed = {**profile.get(section, {}), **settings}
        profile[section] = {name: value for name, value in changed.items() if value is not None}
    path.write_text(yaml.safe_dump(profile))
    return str(path)
