"""The sequential policy: its rule is the paper's at every stage, its costs are counted, and it really stops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rdnlib import to_rdn
from rdnlib.calibration.envelope import threshold_exits
from rdnlib.calibration.multiplier import choose, saved_fraction
from rdnlib.errors import CheckpointError, ConfigError, DataError
from rdnlib.madds import count_subnetworks
from rdnlib.nn.heads import evidence
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.policy.sequential import (
    SequentialPolicy,
    fit_sequential,
    going_on,
    sequential_madds,
    thresholds,
)
from rdnlib.utils.hashing import network_hash


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 7), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 2.0, 50.0]))
def test_an_image_goes_on_exactly_when_the_rule_of_the_paper_prefers_another(k, seed, lam):
    rng = np.random.default_rng(seed)
    p = rng.integers(0, 9, (40, k)) / 8  # ties abound, and floating point is exact
    saved = np.append(np.sort(rng.choice(np.arange(1, 65), k - 1, replace=False))[::-1], 0) / 64
    with np.errstate(divide="ignore"):
        above = going_on(p, saved)
    clear = ~np.isclose(above, lam, rtol=1e-9, atol=0)  # the division is rounded
    assert ((choose(p, saved, lam) > 0) == (lam > above))[clear].all()


def known(n, k=3, seed=0):
    """Sub-networks that are right when they are sure; the later ones are surer."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, 6, generator=generator) * torch.tensor([1.0, 2.0, 3.0])[:k, None]
    sure = logits.softmax(-1).amax(-1)
    return evidence(logits), logits.argmax(-1), torch.rand(n, k, generator=generator) < sure


def test_it_learns_what_is_there_to_learn():
    policy = fit_sequential(*known(3000), hidden=(16,), epochs=20)
    said, guesses, _ = known(1000, seed=1)
    with torch.no_grad():
        for i in (1, 2):
            p = policy(said[:, :i], guesses[:, :i])
            assert p.shape == (1000, 3 - i + 1)
            assert (p[:, 0] - said[:, i - 1, 0].exp()).abs().mean() < 0.05  # the latest: known from its own confidence
    above = thresholds(policy, said, guesses, saved_fraction([1, 2, 4]))
    assert above.shape == (1000, 2)
    exits = threshold_exits(above, 1.0)
    unsure = said[:, 0, 0].exp().numpy()
    assert unsure[exits == 0].mean() > unsure[exits > 0].mean() + 0.1  # the sure ones stay


def test_cost_worked_out_by_hand():
    policy = SequentialPolicy(5, 3, (4,))
    first, second = 5 * 4 + 4 * 3, 11 * 4 + 4 * 2  # stage 2 reads two times five numbers, and one agreement
    np.testing.assert_array_equal(sequential_madds(policy, 100), [first, first + second + 100, first + second + 200])
    assert policy.params == first + 7 + second + 6
    copy = SequentialPolicy(**policy.config())
    copy.load_state_dict(policy.state_dict())


def test_bad_data_is_refused():
    said, guesses, correct = known(20)
    with pytest.raises(DataError, match="needs evidence"):
        fit_sequential(said, guesses[:, :2], correct)
    with pytest.raises(DataError, match="NaN"):
        fit_sequential(said * torch.nan, guesses, correct)
    with pytest.raises(ConfigError, match="at least two"):
        SequentialPolicy(5, 1)


def test_it_stops_for_real_where_the_thresholds_say(small):
    torch.manual_seed(0)
    rdn, pixels = to_rdn(small, 4, select="random").eval(), torch.randn(64, 3, 32, 32)
    saved = saved_fraction(count_subnetworks(rdn, 32)["madds"].to_numpy())
    with torch.no_grad():
        logits = rdn(pixels)
    said, guesses = evidence(logits), logits.argmax(-1)
    policy = fit_sequential(said, guesses, torch.rand(64, 7) < torch.linspace(0.4, 0.8, 7), epochs=40, held_out=0)
    above = thresholds(policy, said, guesses, saved)
    lam = float(np.median(above[np.isfinite(above)]))
    expected = threshold_exits(above, lam) + 1
    assert len(np.unique(expected)) >= 3, "a test of fewer exits shows little"
    computed = []
    for layer in rdn.trunk.layers.values():
        if hasattr(layer, "runs"):
            layer.register_forward_pre_hook(lambda _, inputs: computed.append((inputs[1], len(inputs[0]))))
    found, exits = DynamicRDN(rdn, policy, saved, lam)(pixels)
    assert (exits.numpy() == expected).mean() > 0.95  # but for rounding in the features
    for first, batch in computed:
        assert batch == (exits >= first).sum()
    torch.testing.assert_close(found, logits[torch.arange(64), exits - 1], rtol=1e-4, atol=1e-4)


def test_a_policy_refuses_another_network(small):
    torch.manual_seed(0)
    rdn = to_rdn(small, 2, select="identity").eval()
    policy, saved = PolicyNetwork(rdn.heads.space.sizes[0], 3, (4,)).eval(), saved_fraction([1, 2, 4])
    policy.network = network_hash(rdn)
    DynamicRDN(rdn, policy, saved, 1.0)
    sequential = SequentialPolicy(5, 3)
    sequential.network = policy.network
    DynamicRDN(rdn, sequential, saved, 1.0)
    with torch.no_grad():
        next(rdn.parameters()).flatten()[0] += 1e-3
    for refused in (policy, sequential):
        with pytest.raises(CheckpointError, match="fitted for another network"):
            DynamicRDN(rdn, refused, saved, 1.0)


def test_a_policy_may_read_the_logits_of_n1(small):
    torch.manual_seed(0)
    rdn, pixels = to_rdn(small, 2, select="identity").eval(), torch.randn(8, 3, 32, 32)
    policy = PolicyNetwork(rdn.heads.space.sizes[0] + 5, 3, (4,), logits=5).eval()
    saved = saved_fraction([1, 2, 4])
    with torch.no_grad():
        state = rdn.start(pixels)
        p = policy(torch.cat([state.features, evidence(state.logits)], dim=1)).numpy()
    _, exits = DynamicRDN(rdn, policy, saved, 1.0)(pixels)
    assert (exits.numpy() == choose(p, saved, 1.0) + 1).all()
    with pytest.raises(ConfigError, match="another number of features"):
        DynamicRDN(rdn, PolicyNetwork(rdn.heads.space.sizes[0] + 5, 3, (4,)), saved, 1.0)
