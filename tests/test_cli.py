"""The command line: a wrong call is one line and a non-zero exit code, and leaves nothing behind."""

import json
import subprocess
import sys

import pytest


def rdn(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "rdnlib", *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=folder
    )


def test_count_as_table_and_json():
    table = rdn("count", "--model", "mobilenext", "--width", "1.0", "--rdn", "--json")
    rows = json.loads(table.stdout)
    assert [row["subnetwork"] for row in rows] == list(range(1, 8))
    assert rows[-1]["madds"] == pytest.approx(365.9e6, rel=0.005)
    assert rows[-1]["params"] == pytest.approx(6.93e6, rel=0.005)
    base = json.loads(rdn("count", "--width", "1.5", "--json").stdout)[0]
    assert base["madds"] == pytest.approx(674.1e6, rel=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "--model", "vgg"], "unknown model 'vgg'"),
        (["reproduce", "--profile", "huge"], "unknown profile 'huge'"),
        (["reproduce", "--profile", "quick", "--data-root", "nowhere"], "nowhere is not a folder"),
        (["reproduce", "--profile", "laptop"], "imagenette"),
        (["reproduce", "--profile", "laptop", "--data-root", "."], "imagenette"),
        (["reproduce", "--profile", "quick", "--seed", "-3"], "seed must be"),
        (["experiment", "run", "nothing", "--profile", "tiny"], "unknown experiment 'nothing'"),
    ],
)
def test_errors_are_one_line(tmp_path, arguments, message):
    result = rdn(*arguments, folder=tmp_path)
    assert result.returncode != 0
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("arguments", [["nonsense"], ["count", "--width", "wide"], ["reproduce"]])
def test_wrong_usage_is_refused(tmp_path, arguments):
    result = rdn(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_experiment_list_names_the_graph():
    result = rdn("experiment", "list", "--profile", "tiny")
    assert result.returncode == 0
    assert "rdn-reconstruct" in result.stdout
    assert "after base" in result.stdout
