"""The command line: a wrong call is one line and a non-zero exit code, and leaves nothing behind."""

import json
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from support.profiles import TINY

from rdnlib.__main__ import main


def process(*arguments, folder=None):
    return subprocess.run(
        [sys.executable, "-m", "rdnlib", *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=folder
    )


def rdn(*arguments, folder="."):
    """As `process`, in this one, where everything is imported already."""
    with (
        redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err, chdir(folder),
        patch.object(sys, "argv", ["rdn", *map(str, arguments)]), pytest.raises(SystemExit) as end,
    ):  # fmt: skip
        main()
    code, said = end.value.code, ""
    if isinstance(code, str):  # Python prints it
        code, said = 1, f"{code}\n"
    return SimpleNamespace(returncode=code or 0, stdout=out.getvalue(), stderr=err.getvalue() + said)


@pytest.mark.slow
def test_count_as_table_and_json():
    executed = json.loads(rdn("count", "--model", "mobilenext", "--width", "1.0", "--rdn", "--json").stdout)
    assert executed[-1]["madds"] == pytest.approx(363.9e6, rel=0.001)
    table = rdn("count", "--model", "mobilenext", "--width", "1.0", "--rdn", "--unfolded", "--json")
    rows = json.loads(table.stdout)
    assert [row["subnetwork"] for row in rows] == list(range(1, 8))
    assert rows[-1]["madds"] == pytest.approx(365.9e6, rel=0.005)
    assert rows[-1]["params"] == pytest.approx(6.93e6, rel=0.005)
    base = json.loads(rdn("count", "--width", "1.5", "--json").stdout)[0]
    assert base["madds"] == pytest.approx(674.1e6, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["count", "--model", "vgg"], "unknown model 'vgg'"),
        (["reproduce", "--profile", "huge"], "unknown profile 'huge'"),
        (["reproduce", "--profile", "quick", "--data-root", "nowhere"], "nowhere is not a folder"),
        (["reproduce", "--profile", "laptop"], "imagenette"),
        (["reproduce", "--profile", "laptop", "--data-root", "."], "imagenette"),
        (["reproduce", "--profile", "quick", "--seed", "-3"], "seed must be"),
        (["experiment", "run", "nothing", "--profile", TINY], "unknown experiment 'nothing'"),
        (["calibrate", "--profile", TINY, "--epsilon", "1.5"], "ε must be in [0, 1)"),
        (["calibrate", "--profile", TINY, "--epsilon", "0.2", "--delta", "0"], "δ must be strictly between 0 and 1"),
        (["calibrate", "--profile", TINY, "--epsilon", "0.2", "--init", "magic"], "unknown experiment 'rdn-magic'"),
        (["book", "--profile", "nowhere", "--out", "book"], "no published results in"),
        (
            ["publish", "--profile", TINY, "--to", "results", "--out", "."],
            "not finished, though every book needs them: base",
        ),
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


@pytest.mark.slow
def test_an_empty_data_set_is_one_line(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "imagenette2-160" / split / "n01440764").mkdir(parents=True)
    result = rdn(
        "reproduce", "--profile", "laptop", "--data-root", tmp_path, "--out", tmp_path / "out", folder=tmp_path
    )
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "imagenette" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_one_line_and_calibrate_works_once_it_is_replaced(tmp_path):
    call = ["calibrate", "--profile", TINY, "--out", tmp_path]
    assert rdn("experiment", "run", "rdn-copy", "--profile", TINY, "--out", tmp_path).returncode == 0
    (path,) = tmp_path.glob("experiments/rdn-copy-*/model.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:5000])
    result = rdn(*call, "--epsilon", "0.95", "--init", "copy")
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "damaged" in result.stderr
    assert not list(tmp_path.glob("experiments/policy-copy-*/result.json"))
    path.write_bytes(good)
    found = rdn(*call, "--epsilon", "0.95", "--init", "copy")
    assert found.returncode == 0, found.stderr
    assert "λ* =" in found.stdout
    infeasible = rdn(*call, "--epsilon", "0", "--init", "copy")
    assert infeasible.returncode == 1
    assert len(infeasible.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["nonsense"], ["count", "--width", "wide"], ["reproduce"]])
def test_wrong_usage_is_refused(tmp_path, arguments):
    result = rdn(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_without_arguments_there_is_help():
    result = process()
    assert result.returncode == 2
    assert "reproduce" in result.stdout
    assert rdn("--help").returncode == 0


@pytest.mark.slow
def test_a_process_ends_like_that(tmp_path):
    for arguments in (["count", "--model", "vgg"], ["nonsense"], ["experiment", "list", "--profile", TINY]):
        alone, here = process(*arguments, folder=tmp_path), rdn(*arguments, folder=tmp_path)
        assert (alone.returncode, alone.stdout, alone.stderr) == (here.returncode, here.stdout, here.stderr)


@pytest.mark.slow
def test_experiment_list_names_the_graph():
    result = rdn("experiment", "list", "--profile", TINY)
    assert result.returncode == 0
    assert "rdn-reconstruct" in result.stdout
    assert "after base" in result.stdout
