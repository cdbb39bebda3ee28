"""What a run has cost, by hand."""

import json
import math

import pytest
from support.profiles import TINY

from rdnlib.reproduction.analysis import cost
from rdnlib.reproduction.analysis.statistics import Evidence
from rdnlib.reproduction.experiments import open_workspace

IMAGES = {"train": 100, "calibration": 5, "validation": 10}


@pytest.fixture
def evidence(tmp_path) -> Evidence:
    """The base at two seeds, the RDN at one, and a policy: only what they have cost."""
    found = Evidence(open_workspace(TINY, out=tmp_path), 2)

    def finish(seed: int, name: str, *, seconds: float, **result) -> None:
        folder = found.replicas[seed].folder(name)
        folder.mkdir(parents=True)
        provenance = {"seconds": seconds, **result.pop("provenance", {})}
        record = {"data": {"images": IMAGES}, "provenance": provenance, **result}
        (folder / "result.json").write_text(json.dumps(record))

    finish(0, "base", seconds=60, epochs=4, train_seconds=40, madds=[1000], provenance={"memory_gb": 1.5})
    finish(1, "base", seconds=120, epochs=4, train_seconds=80, madds=[1000], provenance={"memory_gb": 2.5})
    finish(0, "rdn-reconstruct", seconds=30, epochs=2, train_seconds=20, madds=[1, 1200], madds_unfolded=[1, 2000])
    finish(0, "policy-reconstruct", seconds=6)
    finish(0, "rdn-copy", seconds=12, epochs=2, train_seconds=90, madds=[1, 1200], madds_unfolded=[1, 2000])  # went on
    return found


def test_minutes_and_images_a_second_of_what_is_finished(evidence):
    table = cost.spent(evidence).set_index("name")
    assert {*table.index} == {"base", "rdn-copy", "rdn-reconstruct", "policy-reconstruct"}
    assert table.loc["rdn-copy", "minutes"] == 1.5
    assert table.loc["base"].tolist() == [2, 4, 7.5, 3, 2.5]  # 10 and 5 images a second
    assert table.loc["rdn-reconstruct"].tolist()[:4] == [1, 2, 10, 0.5]
    policy = table.loc["policy-reconstruct"]
    assert policy["epochs"] == 0 and math.isnan(policy["images_per_second"]) and math.isnan(policy["memory_gb"])


def test_the_paper_s_setting_at_the_same_multiply_adds_a_second(evidence):
    found = cost.extrapolated(evidence)
    images = 200 * 1_281_167
    assert found.base == pytest.approx(317e6 * images / (1000 * 10) / 3600)  # MAdds of Table 1
    assert found.rdn == pytest.approx(369e6 * images / (2000 * 10) / 3600)
    assert found.work == pytest.approx((317e6 + 369e6) * images / (1000 * 400 + 2000 * 200))


def test_without_a_trained_rdn_there_is_nothing_to_go_by(tmp_path):
    assert cost.extrapolated(Evidence(open_workspace(TINY, out=tmp_path), 1)) is None
    assert cost.spent(Evidence(open_workspace(TINY, out=tmp_path), 1)).empty
