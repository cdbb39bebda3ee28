"""Counts: worked out by hand on a toy, against the paper on MobileNeXt, and against torch's own counter; the table of layers."""

import pytest
import torch
from support.networks import NETWORKS, Toy, build, make
from torch.utils.flop_counter import FlopCounterMode

from rdnlib import describe, madds, to_rdn
from rdnlib.errors import ConfigError
from rdnlib.madds import count_groups
from rdnlib.models import mobilenet_v2, mobilenext
from rdnlib.policy.network import PolicyNetwork
from rdnlib.surgery import deepen


def test_toy_by_hand():
    """k = 2, so K = 3 groups of half the channels each. One position (of 16) costs

              stem   up                    depthwise   down                  heads       classifier   folded
    super     108    4·8 = 32              72          8·4 = 32              –           8            –
    N_1       108    4·2 = 8               36          4·2 = 8               4·2 = 8     8            2·2 = 4
    N_2       108    8 + 4·4 = 24          72          8 + 8·2 = 24          16          8            8
    N_3       108    24 + 4·2 = 32         108         24 + (4+4)·2 = 40     24          8            12
    """
    total = madds.count(Toy(), 4)["madds"].sum()
    assert total == 16 * (108 + 32 + 72 + 32) + 8
    rdn = to_rdn(Toy(), 2, select="identity")
    trunk = [16 * (108 + 8 + 36 + 8), 16 * (108 + 24 + 72 + 24), 16 * (108 + 32 + 108 + 40)]
    executed = madds.count_subnetworks(rdn, 4)
    assert executed["madds"].tolist() == [trunk[0] + 4, trunk[1] + 8, trunk[2] + 12]
    assert executed["params"].tolist() == [160 + 4 + 2, 228 + 8 + 2, 288 + 12 + 2]
    counted = madds.count_subnetworks(rdn, 4, folded=False)
    assert counted["madds"].tolist() == [
        16 * (108 + 8 + 36 + 8) + 8 + 8,
        16 * (108 + 24 + 72 + 24) + 16 + 8,
        16 * (108 + 32 + 108 + 40) + 24 + 8,
    ]
    assert (counted["madds_elementwise"] - counted["madds"]).tolist() == [16 * 4, 16 * 8, 16 * 12]
    # The classifier's bias (2) counts as parameters, not as multiply-adds.
    assert counted["params"].tolist() == [
        108 + 8 + 36 + 8 + 8 + 10,
        108 + 24 + 72 + 24 + 16 + 10,
        108 + 32 + 108 + 40 + 24 + 10,
    ]


@pytest.mark.parametrize(
    ("width", "base", "base_params", "nested", "nested_params"),
    [(1.0, 311.3, 3.54, 365.9, 6.93), (1.5, 674.1, 6.88, 787.8, 14.41)],
)
def test_mobilenext_of_the_paper(width, base, base_params, nested, nested_params):
    model = mobilenext(width_mult=width)
    total = madds.count(model, 224).sum(numeric_only=True) / 1e6
    assert total["madds"] == pytest.approx(base, rel=0.005)
    assert total["params"] == pytest.approx(base_params, rel=0.005)
    largest = madds.count_subnetworks(to_rdn(model, 4, select="identity"), 224, folded=False).iloc[-1] / 1e6
    assert largest["madds"] == pytest.approx(nested, rel=0.005)
    assert largest["params"] == pytest.approx(nested_params, rel=0.005)


def test_mobilenet_v2_of_the_paper():
    """Within 5 % of 665 M MAdds and 1.5 % of 7.54 M parameters; the rest is unexplained (see the book)."""
    model = mobilenet_v2(width_mult=1.4)
    rdn = to_rdn(model, 4, select="identity")
    assert madds.count(model, 224)["madds"].sum() / 1e6 == pytest.approx(582.2, rel=0.001)
    assert madds.count(rdn, 224)["madds"].sum() / 1e6 == pytest.approx(665, rel=0.05)
    assert sum(p.numel() for p in rdn.parameters()) / 1e6 == pytest.approx(7.54, rel=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 4])
def test_subnetworks_agree_with_torchs_counter_and_with_their_own_parameters(small, k):
    rdn = to_rdn(small, k, select="identity")
    counted = madds.count_subnetworks(rdn, 32)
    for index, row in zip(counted["subnetwork"], counted.itertuples(), strict=True):
        sub = rdn.subnetwork(index)
        with FlopCounterMode(display=False) as counter:
            sub(torch.zeros(1, 3, 32, 32))
        assert counter.get_total_flops() == 2 * row.madds
        assert sum(p.numel() for p in sub.parameters()) == row.params
    assert counted["madds"].is_monotonic_increasing


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_counting_by_group_equals_counting_every_subnetwork(name, images):
    rdn = to_rdn(build(name, images), 3, select="identity")
    counted = madds.count_subnetworks(rdn, 32).set_index("subnetwork")
    for index in range(1, rdn.num_subnetworks + 1):
        assert counted.loc[index].to_dict() == madds.count(rdn.subnetwork(index), 32)[madds.COUNTS].sum().to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_incremental_execution_computes_nothing_twice(name, images, folded):
    """torch counts what start and advance really do, through all sub-networks and in one leap."""
    rdn = to_rdn(build(name, images), 3, select="identity")
    last = rdn.num_subnetworks
    table = madds.count_incremental(rdn, 32, folded=folded).set_index("subnetwork")
    whole = madds.count_subnetworks(rdn, 32, folded=folded).iloc[-1]
    rdn = rdn.fold_heads() if folded else rdn
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        first = state = rdn.start(images[:1])
    assert counter.get_total_flops() == 2 * table.loc[1, "groups"]
    with torch.no_grad(), counter:
        state.logits  # noqa: B018  computed when asked for, and once
        state.logits  # noqa: B018
    assert counter.get_total_flops() == 2 * table.loc[1, "answer"]
    for index in range(2, last + 1):
        with torch.no_grad(), counter:
            state = rdn.advance(state, to=index)
        assert counter.get_total_flops() == 2 * table.loc[index, "groups"]
    with torch.no_grad(), counter:
        rdn.advance(first, to=last).logits  # noqa: B018
    assert counter.get_total_flops() == 2 * (table.loc[2:, "groups"].sum() + table.loc[last, "answer"])
    assert table["groups"].sum() + table.loc[last, "answer"] == whole["madds"]
    assert table["params"].sum() == whole["params"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_training_computes_the_blocks_that_remain_and_no_others(name, images):
    """On a CPU: all groups and all answers, each once. torch's counter does not know of sums that are added in place."""
    rdn = to_rdn(build(name, images), 3, select="identity").train()
    table = madds.count_incremental(rdn, 32, folded=False).set_index("subnetwork")
    added = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=added) as counter:
        rdn(images[:2])
    assert counter.get_total_flops() == 2 * 2 * (table["groups"].sum() + table["answer"].sum())


def test_the_average_weighs_subnetworks_by_their_exits_and_adds_the_policy():
    counts = madds.count_subnetworks(to_rdn(Toy(), 2, select="identity"), 4)
    mean = madds.average(counts, [0.5, 0.0, 0.5])
    assert mean["madds"] == counts["madds"].iloc[[0, 2]].mean()
    assert mean["params"] == counts["params"].iloc[[0, 2]].mean()
    with_policy = madds.average(counts, [0.5, 0.0, 0.5], PolicyNetwork(2, 3, hidden=(5,)))
    assert (with_policy - mean).tolist() == [2 * 5 + 5 * 3, 2 * 5 + 5 * 3, 2 * 5 + 5 + 5 * 3 + 3]
    for shares in ([0.5, 0.5], [0.5, 0.4, 0.0], [1.5, 0.0, -0.5]):
        with pytest.raises(ConfigError, match="3 shares"):
            madds.average(counts, shares)


def test_counting_leaves_the_network_as_it_was(small):
    small.train()
    before = small.stem[1].running_mean.clone()
    madds.count(small, 32)
    assert small.training
    assert torch.equal(small.stem[1].running_mean, before)
    assert not small.stem[0]._forward_hooks
    small.eval()


def test_wrong_sizes_are_refused(small):
    with pytest.raises(ConfigError, match="positive"):
        madds.count(small, 0)


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_totals_of_the_table_are_the_counts_of_supernet_and_subnetworks(name, k, images):
    model = build(name, images)
    rdn = to_rdn(model, k, select="identity")
    total = describe(rdn, 32).sum(numeric_only=True)
    nested, columns = madds.count_subnetworks(rdn, 32, folded=False), ["madds", "params"]
    counts = {
        "N1": nested.iloc[0],
        f"N{rdn.num_subnetworks}": nested.iloc[-1],
        "supernet": madds.count(model, 32).sum(),
    }
    for label, counted in counts.items():
        assert total[[f"{column}_{label}" for column in columns]].tolist() == counted[columns].tolist()


def test_the_table_of_the_toy_row_by_row():
    table = describe(to_rdn(Toy(), 2, select="identity"), 4).set_index("layer")
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
    table = describe(rdn)
    assert not [column for column in table if column.startswith("madds")]  # they depend on the input size
    assert (table["kind"] != "norm").all()
    for row in table[~table["layer"].isin(["align", "classifier"])].itertuples():
        conv = model.get_submodule(row.layer)
        assert row.params_supernet == conv.weight.numel() + 2 * conv.out_channels
    assert "19" in table.loc[table["layer"] == "blocks.5.layers.reduce.0", "blocks"].item()


def test_uneven_groups_and_grouped_convolutions_are_named(images):
    mixed = describe(to_rdn(build("mixed", images, width=1.0), 4, select="identity")).set_index("layer")
    assert mixed.loc["second.0", ["kind", "groups"]].tolist() == ["conv 3×3", "1×4 + 3×3 | 2×3 + 1×4"]
    assert mixed.loc["third.1", "kind"] == "grouped 3×3"
    assert mixed.loc["hidden", "kind"] == "linear"


def test_describing_leaves_the_network_as_it_was(small):
    rdn = to_rdn(small, 4, select="identity").train()
    before = {name: value.clone() for name, value in rdn.state_dict().items()}
    describe(rdn, 32)
    assert rdn.training
    assert all(torch.equal(value, before[name]) for name, value in rdn.state_dict().items())


def test_the_description_has_every_part_and_no_early_exits_in_the_supernet(images):
    before = make("mobilenext", images)
    rdn = deepen(before)
    table, counts, original = describe(rdn, 32), count_groups(rdn, 32, folded=False), describe(before, 32)
    for column in ("params", "madds"):
        assert table[f"{column}_N7"].sum() == counts[column].sum()
        assert table[f"{column}_N1"].sum() == counts.loc[counts["group"] < 2, column].sum()
        assert table[f"{column}_supernet"].sum() == original[f"{column}_supernet"].sum()
