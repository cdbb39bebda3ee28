"""The table of lengths: what each initialisation knows untrained and trained, and how much of the training was repair."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.fakes import MADDS, PARAMS, FakeRun, K, fake_runs

from rdnlib.reproduction.analysis.ledger import Evidence
from rdnlib.reproduction.analysis.lengths import Untrained, length_table, repaired
from rdnlib.reproduction.experiments.config import load_profile


def surgery(seed):
    rdn, _ = fake_runs(seed=seed)
    frame = rdn.frame.query("split == 'validation'")
    renamed = {f"top1_{v}": f"reconstruct_{v}" for v in range(1, K + 1)}
    frame = frame.rename(columns=renamed).assign(**{f"copy_{v}": False for v in range(1, K + 1)}, supernet_1=True)
    return FakeRun({"name": "surgery", "madds": MADDS, "params": PARAMS}, frame)


class FakeEvidence(Evidence):
    profile = load_profile("laptop")  # lengths 0, 1, 4 and 16

    def runs(self, name):
        return [surgery(0) if name.startswith("surgery") else fake_runs(seed=0)[0]]


def test_untrained_is_a_run_like_any_other():
    right = fake_runs()[0].frame.query("split == 'validation'").set_index("id").sort_index()
    for init, expected in (("reconstruct", right["top1_2"]), ("copy", np.zeros(len(right)))):
        samples = Untrained(surgery(0), init).samples().set_index("id").sort_index()
        assert np.array_equal(samples["top1_2"], expected)
    assert Untrained(surgery(0), "copy").result["epochs"] == 0


def test_a_row_for_each_length_and_sub_network():
    table = length_table(FakeEvidence(places=[SimpleNamespace()]))
    assert sorted(table["epochs"].unique()) == [0, 1, 4, 16] and len(table) == 4 * K
    start = table[table["epochs"] == 0]
    assert (start["copy"] == 0).all() and (start["gain"] == start["reconstruct"]).all()
    assert (table[table["epochs"] > 0]["gain"] == 0).all()


def test_what_was_repair_by_hand():
    columns = ["epochs", "subnetwork", "copy", "reconstruct"]
    rows = [(0, 1, 10, 40), (4, 1, 50, 60), (16, 1, 70, 75), (0, 2, 10, 5), (4, 2, 20, 15), (16, 2, 30, 25)]
    found = repaired(pd.DataFrame(rows, columns=columns)).set_index("subnetwork")
    assert found.loc[1].to_dict() == pytest.approx({"trained": 60, "given": 30, "share": 0.5, "epochs": 16})
    assert found["given"][2] == -5 and np.isnan(found["epochs"][2])
