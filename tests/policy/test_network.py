import numpy as np
import pytest
import torch

from rdnlib.errors import ConfigError, DataError
from rdnlib.policy.network import PolicyNetwork, fit_policy, fit_temperature


def synthetic(n, seed, *, features=6, k=4):
    """Features on odd scales, one of them constant, and outcomes drawn from probabilities that are known."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    ease = 1.5 * torch.tanh(2 * x[:, 0]) + 0.6 * x[:, 1] * torch.tanh(x[:, 2])  # not linear
    truth = torch.sigmoid(ease[:, None] + torch.linspace(-0.3, 1.0, k))  # (n, k)
    correct = torch.rand(n, k, generator=generator) < truth
    x = 100 * x + 7
    x[:, -1] = 3.0
    return x, truth, correct


def test_the_fitted_probabilities_come_near_the_truth():
    x, _, correct = synthetic(4000, seed=0)
    unseen, truth, _ = synthetic(2000, seed=1)
    policy = fit_policy(x, correct)
    with torch.no_grad():
        p = policy(unseen)
    assert p.shape == truth.shape
    assert (p - truth).abs().mean() <= 0.06
    constant = correct.float().mean(dim=0)
    assert (constant - truth).abs().mean() > 0.15  # the base rates alone would not pass


def test_a_new_value_of_a_constant_feature_does_not_explode():
    x, _, correct = synthetic(500, seed=0)
    policy = fit_policy(x, correct, epochs=2)
    moved = x.clone()
    moved[:, -1] += 0.01
    with torch.no_grad():
        torch.testing.assert_close(policy(moved), policy(x), atol=0.01, rtol=0)


def test_early_stopping_beats_the_last_epoch_where_training_overfits():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 40, generator=generator)
    correct = torch.rand(300, 3, generator=generator) < 0.7  # nothing to learn but the rate
    settings = {"hidden": (64,), "epochs": 40, "weight_decay": 0.0}
    stopped = fit_policy(x, correct, **settings, held_out=0.2)
    last = fit_policy(x, correct, **settings, held_out=0)
    unseen = torch.randn(1000, 40, generator=generator)
    with torch.no_grad():
        assert (stopped(unseen) - 0.7).abs().mean() < 0.5 * (last(unseen) - 0.7).abs().mean()


def test_same_seed_same_weights_and_the_global_state_is_left_alone():
    x, _, correct = synthetic(300, seed=0)
    torch.manual_seed(123)
    first = fit_policy(x, correct, epochs=3, seed=5)
    after = torch.rand(1)
    torch.manual_seed(123)
    assert torch.equal(torch.rand(1), after)
    second = fit_policy(x.numpy(), correct.numpy(), epochs=3, seed=5)
    other = fit_policy(x, correct, epochs=3, seed=6)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 5)])
def test_gradients_reach_every_parameter(hidden):
    torch.manual_seed(0)
    policy = PolicyNetwork(6, 4, hidden)
    policy.logits(torch.randn(64, 6)).square().sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_config_rebuilds_the_network():
    x, _, correct = synthetic(200, seed=0)
    policy = fit_policy(x, correct, hidden=[8, 5], epochs=1)
    copy = PolicyNetwork(**policy.config())
    copy.load_state_dict(policy.state_dict())
    assert torch.equal(copy(x), policy(x))
    assert policy.config() == {"in_features": 6, "num_subnetworks": 4, "hidden": [8, 5], "logits": 0}
    torch.testing.assert_close(policy(x), policy.logits(x).sigmoid())


def test_cost_worked_out_by_hand():
    policy = PolicyNetwork(6, 4, (8, 5))
    assert policy.madds == 6 * 8 + 8 * 5 + 5 * 4
    assert policy.params == 6 * 8 + 8 + 8 * 5 + 5 + 5 * 4 + 4


@pytest.mark.parametrize(
    ("features", "correct", "message"),
    [
        (np.full((4, 2), np.nan), np.ones((4, 3), bool), "NaN"),
        (np.full((4, 2), np.inf), np.ones((4, 3), bool), "infinity"),
        (np.ones((4, 2)), np.full((4, 3), np.nan), "true and false"),
        (np.ones((4, 2)), np.ones((5, 3), bool), "must be"),
        (np.ones((4, 2, 1)), np.ones((4, 3), bool), "must be"),
        (np.ones((0, 2)), np.ones((0, 3), bool), "no samples"),
    ],
)
def test_bad_data_is_refused(features, correct, message):
    with pytest.raises(DataError, match=message):
        fit_policy(features, correct)


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"lr": 0}, {"batch_size": 0}, {"held_out": 1}, {"hidden": (0,)}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError):
        fit_policy(np.random.default_rng(0).random((20, 2)), np.ones((20, 3), bool), **setting)


def test_temperature_repairs_over_confidence_and_keeps_the_order():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 2, generator=generator)
    truth = torch.stack([x[:, 0], 3 * x[:, 1]], dim=1)  # the logits of the true probabilities
    correct = torch.rand(6000, 2, generator=generator) < truth.sigmoid()
    policy = PolicyNetwork(2, 2, ()).eval()
    with torch.no_grad():
        policy.layers[0].weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 1.5]]))  # four times too sure, half as sure
        policy.layers[0].bias.zero_()
    before = policy(x)
    temperature = fit_temperature(policy, x, correct)
    torch.testing.assert_close(temperature, torch.tensor([4.0, 0.5]), rtol=0.15, atol=0)
    after = policy(x)
    assert (
        torch.equal(before.argsort(dim=0), after.argsort(dim=0))
        or (before.argsort(0) != after.argsort(0)).float().mean() < 0.01
    )

    def loss(scale):
        return torch.nn.functional.binary_cross_entropy_with_logits(policy.logits(x) / scale, correct.float())

    assert all(loss(temperature) <= loss(temperature * factor) + 1e-6 for factor in (0.9, 1.1))
    copy = PolicyNetwork(**policy.config())
    copy.load_state_dict(policy.state_dict())
    assert torch.equal(copy(x), after)


def test_all_right_gives_a_finite_temperature():
    policy = PolicyNetwork(2, 2, ())
    assert torch.isfinite(fit_temperature(policy, torch.randn(50, 2), torch.ones(50, 2, dtype=torch.bool))).all()


def test_no_more_logits_than_inputs():
    with pytest.raises(ConfigError, match="cannot come from the logits"):
        PolicyNetwork(4, 3, logits=5)
