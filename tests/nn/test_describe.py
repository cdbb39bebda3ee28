"""The table of layers: readable, and every total that of the counts."""

import pytest
import torch
from support.networks import NETWORKS, Toy, build

from rdnlib import madds, to_rdn


@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_totals_are_the_counts_of_supernet_and_subnetworks(name, k, images):
    model = build(name, images)
    rdn = to_rdn(model, k, select="identity")
    total = rdn.describe(32).sum(numeric_only=True)
    last = rdn.num_subnetworks
    for label, net in {"supernet": model, "N1": rdn.subnetwork(1), f"N{last}": rdn.subnetwork(last)}.items():
        counted = madds.count(net, 32)
        assert total[f"madds_{label}"] == counted["madds"].sum()
        assert total[f"params_{label}"] == counted["params"].sum() == sum(p.numel() for p in net.parameters())


def test_toy_row_by_row():
    table = to_rdn(Toy(), 2, select="identity").describe(4).set_index("layer")
    assert table.index.tolist() == ["stem", "up", "depthwise", "down", "align", "classifier"]
    assert table["kind"].tolist() == ["conv 3×3", "1×1", "depthwise 3×3", "1×1", "align", "linear"]
    assert table["groups"].tolist() == ["plain 4", "2×4 | 1×4", "2×4 | 1×4", "2×2 | 1×2", "2×2 | 1×2", "shared"]
    # `up` reads a plain space: 1 + 2 + 1 blocks; `down` a nested one: 1 + 2 + 2.
    assert table["blocks"].tolist() == ["", "4 → 4", "2 → 3", "4 → 5", "0 → 3", ""]
    assert table["madds_supernet"].tolist() == [16 * 108, 16 * 32, 16 * 72, 16 * 32, 0, 8]
    assert table["madds_N1"].tolist() == [16 * 108, 16 * 8, 16 * 36, 16 * 8, 8, 8]
    assert table["madds_N3"].tolist() == [16 * 108, 16 * 32, 16 * 108, 16 * 40, 24, 8]


def test_a_layer_keeps_its_name_and_takes_its_batch_norm_along(small):
    model, rdn = small, to_rdn(small, 4, select="identity")
    table = rdn.describe()
    assert not [column for column in table if column.startswith("madds")]  # they depend on the input size
    assert (table["kind"] != "norm").all()
    for row in table[~table["layer"].isin(["align", "classifier"])].itertuples():
        conv = model.get_submodule(row.layer)
        assert row.params_supernet == conv.weight.numel() + 2 * conv.out_channels
    assert "19" in table.loc[table["layer"] == "blocks.5.layers.reduce.0", "blocks"].item()


def test_uneven_groups_and_grouped_convolutions_are_named(images):
    mixed = to_rdn(build("mixed", images, width=1.0), 4, select="identity").describe().set_index("layer")
    assert mixed.loc["second.0", ["kind", "groups"]].tolist() == ["conv 3×3", "1×4 + 3×3 | 2×3 + 1×4"]
    assert mixed.loc["third.1", "kind"] == "grouped 3×3"
    assert mixed.loc["hidden", "kind"] == "linear"


def test_describing_leaves_the_network_as_it_was(small):
    rdn = to_rdn(small, 4, select="identity").train()
    before = {name: value.clone() for name, value in rdn.state_dict().items()}
    rdn.describe(32)
    assert rdn.training
    assert all(torch.equal(value, before[name]) for name, value in rdn.state_dict().items())
