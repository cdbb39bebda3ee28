"""What is recorded of code and machine."""

import json
import subprocess

from rdnlib.utils.provenance import commit, provenance


def test_the_record_is_json_and_names_the_machine():
    record = provenance()
    assert json.loads(json.dumps(record)) == record
    assert {"torch", "numpy"} <= set(record["versions"])
    assert record["hardware"]["cpu"] and record["hardware"]["memory_gb"] > 0


def test_the_commit_is_of_the_files_themselves(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package, others = tmp_path / "package", tmp_path / "site-packages"
    for folder in (package, others):
        folder.mkdir()
        (folder / "module.py").write_text("x = 1\n")
    assert commit(package) is None
    git("init")
    git("add", "package")
    git("commit", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert commit(package) == head
    assert commit(others) is None  # installed into a repository that is about something else
    (package / "module.py").write_text("x = 2\n")
    assert commit(package) == f"{head}-dirty"
