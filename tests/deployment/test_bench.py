"""Timing: every network has its turn, ratios are those of times beside each other, and small networks of an RDN are not slower."""

import json

import numpy as np
import pytest
import torch
from support.networks import Toy, settle_norms

from rdnlib import __main__ as cli
from rdnlib import madds, to_rdn
from rdnlib.deployment import bench as module
from rdnlib.deployment.bench import bench
from rdnlib.models import mobilenext
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork


@pytest.fixture
def brief(monkeypatch):
    """Turns too short to be believed, for tests that only ask what is measured."""
    monkeypatch.setattr(module, "LEAST", 0.002)


def test_every_network_is_timed_at_every_batch_with_its_madds(brief):
    model = Toy().eval()
    table = bench(model, 4, k=2, plain=["stem"], batches=(1, 2), repeats=1, threads=1)
    names = ["base", "N_1", "N_2", "N_3", "all N_i"]
    assert list(table["network"]) == names * 2 and list(table["batch"]) == [1] * 5 + [2] * 5
    base = table[table["network"] == "base"]
    assert (base["to_base"] == 1).all() and (base["madds_to_base"] == 1).all()
    first = table[table["network"] == "N_1"].iloc[0]
    costs = madds.count_subnetworks(to_rdn(model, 2, select="identity", plain=["stem"]), 4)["madds"]
    assert first["madds_to_largest"] == pytest.approx(costs[0] / costs.iloc[-1])
    assert (table["milliseconds"] > 0).all()


def test_a_ratio_is_the_median_of_quotients_beside_each_other(monkeypatch):
    turns = {
        "base": [1.0, 2.0, 4.0],
        "N_1": [0.5, 1.5, 1.0],
        "N_2": [1.0, 1.0, 1.0],
        "N_3": [2.0, 4.0, 8.0],
        "all N_i": [3.0] * 3,
    }
    monkeypatch.setattr(module, "_take_turns", lambda *_: module.pd.DataFrame(turns))
    table = bench(Toy().eval(), 4, k=2, plain=["stem"], batches=(1,)).set_index("network")
    assert table.loc["N_1", "to_base"] == 0.5 and table.loc["N_1", "milliseconds"] == 1000
    assert table.loc["N_3", "to_base"] == 2 and table.loc["N_1", "to_largest"] == 0.25


def test_the_base_is_timed_as_it_would_be_deployed(images):
    model = settle_norms(mobilenext(width_mult=0.2, num_classes=6), images)
    networks = module._networks(model, module.deploy(module.to_rdn(model, select="identity")))
    assert not any(isinstance(each, torch.nn.BatchNorm2d) for each in networks["base"].modules())
    with torch.no_grad():
        torch.testing.assert_close(networks["base"](images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_smaller_sub_network_takes_less_time():
    model = mobilenext(width_mult=0.5, num_classes=10).eval()

    def share() -> float:
        return bench(model, 64, batches=(16,), repeats=3, threads=1).set_index("network").loc["N_1", "to_largest"]

    assert any(share() < 0.8 for _ in range(3))  # multiply-adds say 0.24; generous, and thrice, for machines under load


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_real_exits_are_timed_against_the_whole_network_and_the_base(runtime, images, brief):
    model = settle_norms(mobilenext(width_mult=0.2, num_classes=6), images)
    rdn = to_rdn(model, 2, select="identity")
    policy = PolicyNetwork(rdn.first_channels, 3, (4,)).eval()
    costs = np.array([1.0, 2.0, 3.0]) * madds.count_subnetworks(rdn, 32)["madds"].iloc[-1] / 3
    lams = (0.0, np.inf)
    settings = {"base": model, "batches": (3, 2), "runtime": runtime, "threads": 1}
    table = module.bench_exits(rdn, policy, [0.6, 0.3, 0.0], lams, images, costs, **settings)
    assert list(table["batch"]) == [3, 3, 2, 2] and list(table["lam"]) == [*lams, *lams]
    for row in table.to_dict("records"):
        lam = row["lam"]
        _, exits = DynamicRDN(rdn, policy, [0.6, 0.3, 0.0], lam)(images)
        assert row["exits"] == pytest.approx(exits.double().mean().item())
        assert row["predicted"] == pytest.approx(exits.double().mean().item() / 3)
        saving = 1 - row["predicted"]
        assert saving == 0 or row["realised"] == pytest.approx((1 - row["measured"]) / saving)
        assert row["measured"] > 0 and row["to_base"] > 0


@pytest.mark.slow
def test_leaving_early_takes_less_time():
    torch.manual_seed(0)
    rdn, images = (
        to_rdn(mobilenext(width_mult=0.5, num_classes=10).eval(), select="identity"),
        torch.randn(32, 3, 64, 64),
    )
    policy = PolicyNetwork(rdn.first_channels, 7, (4,)).eval()
    arguments = rdn, policy, np.linspace(0.7, 0, 7), [0.0], images, np.arange(1, 8) * 1e6

    def share() -> float:
        table = module.bench_exits(*arguments, batches=[16], threads=1)
        assert table["exits"].item() == 1
        return table["measured"].item()

    assert any(share() < 0.8 for _ in range(3))  # N_1 has 0.24 of the multiply-adds


SMALL = ["bench", "--width", "0.1", "--input-size", "32", "--classes", "5", "--batch", "1", "--quick", "--threads", "1"]


def test_on_the_command_line(capsys, brief):
    cli.app([*SMALL, "--json"], standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)
    assert [row["network"] for row in rows] == ["base", *(f"N_{i}" for i in range(1, 8)), "all N_i"]
    assert all(np.isfinite(row["to_base"]) for row in rows)


@pytest.mark.slow
def test_on_the_command_line_with_a_figure_and_what_comes_before_inference(capsys, tmp_path, brief):
    cli.app([*SMALL, "--preparation", "--figure", str(tmp_path / "bench.svg"), "--json"], standalone_mode=False)
    _, rows = json.loads(capsys.readouterr().out)
    assert [row["what"] for row in rows] == ["joint training step", "surgery", "sweep over λ, 10,000 images"]
    joint, surgery, swept = rows
    assert joint["ratio"] > 1 and joint["memory_ratio"] > 1  # it computes seven answers
    assert surgery["ratio"] > 1 and surgery["memory_ratio"] is None  # it sees the images, and fits
    assert 0 < swept["ratio"] < 1  # far less than to compute the probabilities that it sweeps over
    assert "<svg" in (tmp_path / "bench.svg").read_text()
