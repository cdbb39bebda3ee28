"""The short form of `make soak`: SIGKILL at random moments of two networks and an RDN. Workers are killed in test_scheduler."""

import pandas as pd
import pytest
from support import soak
from support.profiles import TINY


@pytest.mark.slow
def test_a_killed_run_ends_with_the_numbers_of_one_that_was_left_alone(tmp_path, capsys):
    arguments = ["--profile", TINY, "--experiments", "rdn-copy", "base-mobilenet_v2", "--jobs", "1"]
    arguments += ["--kills", "2", "--save-minutes", "0"]
    assert soak.main([*arguments, "--work", str(tmp_path)]) >= 1
    assert "tables and networks identical" in capsys.readouterr().out
    assert not list((tmp_path / "killed").rglob("*resume*"))


def test_the_comparison_sees_a_changed_number(tmp_path):
    for name, value in (("one", 1.0), ("two", 1.0 + 1e-16), ("three", 1.0 + 1e-15)):
        folder = tmp_path / name / "tables"
        folder.mkdir(parents=True)
        pd.DataFrame({"accuracy": [value], "seconds": [len(name)]}).to_csv(folder / "table1.csv", index=False)
    assert soak.compare(tmp_path / "one", tmp_path / "two") == 1
    with pytest.raises(SystemExit, match=r"table1.csv differs"):
        soak.compare(tmp_path / "one", tmp_path / "three")
    (tmp_path / "two" / "tables" / "table1.csv").unlink()
    with pytest.raises(SystemExit, match="other files"):
        soak.compare(tmp_path / "one", tmp_path / "two")
