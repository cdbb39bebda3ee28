"""The project's central claim: strict nesting, bit for bit; and that all ways to run a sub-network agree."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.networks import NETWORKS, make
from torch.utils.flop_counter import FlopCounterMode

from rdnlib.errors import ConfigError
from rdnlib.training.loss import joint_loss

SELECTS = ("greedy", "greedy-relative", "random", "identity")


@st.composite
def settings_of(draw, name):
    """Everything that decides the shape of an RDN of this network."""
    _, widths, plains = NETWORKS[name]
    width, plain = draw(st.sampled_from(widths)), draw(st.sampled_from(plains))
    four_channels = (
        name == "mobilenext" and plain == () and width < 0.35
    )  # in its first bottleneck: not to be cut in five
    return {
        "k": draw(st.integers(2, 4 if four_channels else 5)),
        "select": draw(st.sampled_from(SELECTS)),
        "init": draw(st.sampled_from(["copy", "reconstruct"])),
        "width": width,
        "plain": plain,
        "align": draw(st.sampled_from([None, "insert"])),
        "seed": draw(st.integers(0, 1000)),
    }


def cases(test):
    """Run a test on drawn settings of every network."""
    few = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    return pytest.mark.parametrize("name", NETWORKS)(few(given(draw=st.data())(test)))


@pytest.mark.slow
@cases
def test_noise_in_later_groups_changes_no_bit(images, name, draw):
    rdn = make(name, images, **draw.draw(settings_of(name)))
    with torch.no_grad():
        clean, owners = rdn(images), rdn.owners()
        values = {**dict(rdn.named_parameters()), **dict(rdn.named_buffers())}
        for keep in reversed(range(1, rdn.num_subnetworks)):  # more and more of the network becomes noise
            for path, groups in owners.items():
                later = groups > keep
                values[path][later] = 100 * torch.rand_like(values[path][later])
            noisy = rdn(images)
            assert torch.equal(noisy[:, :keep], clean[:, :keep])
            assert not torch.equal(noisy[:, keep:], clean[:, keep:])


@pytest.mark.slow
@cases
def test_even_nan_in_later_groups_cannot_leak(images, name, draw):
    rdn = make(name, images, **draw.draw(settings_of(name)))
    values = {**dict(rdn.named_parameters()), **dict(rdn.named_buffers())}
    with torch.no_grad():
        clean = rdn(images)
        for path, groups in rdn.owners().items():
            values[path][groups > rdn.k] = torch.nan
        assert torch.equal(rdn(images)[:, : rdn.k], clean[:, : rdn.k])


def test_owners_cover_everything_but_plain_layers_and_the_classifier(images):
    rdn = make("mobilenext", images)
    owners = rdn.owners()
    for name, parameter in rdn.named_parameters():
        if name in owners:
            assert len(owners[name]) == len(parameter)
        else:
            assert name.startswith(
                ("trunk.layers.stem", "trunk.layers.blocks_0_", "trunk.layers.blocks_1_", "heads.classifier")
            )


@pytest.mark.slow
@cases
def test_all_ways_to_run_a_subnetwork_agree(images, name, draw):
    """In double precision: fits to twelve images can give logits of hundreds, and rounding grows with them."""
    rdn, images = make(name, images, **draw.draw(settings_of(name))).double(), images.double()
    with torch.no_grad():
        logits = rdn(images)  # (B, K, classes)
        state = rdn.start(images)
        for index in range(1, rdn.num_subnetworks + 1):
            torch.testing.assert_close(rdn.subnetwork(index)(images), logits[:, index - 1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rdn(images, upto=index), logits[:, :index], rtol=1e-5, atol=1e-5)
            if index > 1:
                state = rdn.advance(state, to=index)
            torch.testing.assert_close(state.logits, logits[:, index - 1], rtol=1e-5, atol=1e-5)
        jumped = rdn.advance(rdn.start(images), to=rdn.num_subnetworks)
        torch.testing.assert_close(jumped.logits, logits[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@cases
def test_every_parameter_gets_a_gradient_from_the_joint_loss(images, name, draw):
    rdn = make(name, images, **draw.draw(settings_of(name))).train()
    logits = rdn(images)
    assert logits.shape == (len(images), rdn.num_subnetworks, 6)
    joint_loss(logits, torch.arange(len(images)) % 6).backward()
    without = [n for n, p in rdn.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in rdn.parameters())


def test_one_pass_serves_all_heads(images):
    rdn, calls = make("mobilenext", images), []
    for name, layer in rdn.trunk.layers.items():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    rdn(images)
    assert sorted(calls) == sorted(rdn.trunk.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_advance_runs_the_new_groups_only(images, name):
    """Count what the convolutions compute: N_1, then every increment, add up to N_K exactly."""
    rdn = make(name, images).fold_heads()

    def flops(function):
        with FlopCounterMode(display=False) as counter:
            result = function()
        return result, counter.get_total_flops()

    state, total = flops(lambda: rdn.start(images))
    for index in range(2, rdn.num_subnetworks + 1):
        state, more = flops(lambda state=state, index=index: rdn.advance(state, to=index))
        total += more
    total += flops(lambda: state.logits)[1]  # the classifier is applied where one stops
    _, whole = flops(lambda: rdn.subnetwork(rdn.num_subnetworks)(images))
    assert total == whole


def test_a_state_can_be_advanced_twice(images):
    rdn = make("mobilenext", images)
    with torch.no_grad():
        start = rdn.start(images)
        first, second = rdn.advance(start, to=4), rdn.advance(start, to=4)
    assert torch.equal(first.logits, second.logits)
    assert start.index == 1


def test_a_subnetwork_has_the_precision_and_device_of_its_rdn(images):
    rdn = make("mobilenet_v2", images).double()
    sub = rdn.subnetwork(2)
    assert {p.dtype for p in sub.parameters()} == {torch.float64}
    with torch.no_grad():
        torch.testing.assert_close(sub(images.double()), rdn(images.double())[:, 1], rtol=1e-9, atol=1e-9)


def test_subnetworks_do_not_share_memory_with_the_rdn(images):
    rdn = make("mobilenext", images)
    sub = rdn.subnetwork(3)
    addresses = {p.data_ptr() for p in rdn.parameters()}
    assert not any(p.data_ptr() in addresses for p in sub.parameters())


def test_wrong_indices_are_refused(images):
    rdn = make("mobilenext", images)
    for wrong in (0, 8, -1, 2.0, "3"):
        with pytest.raises(ConfigError, match="does not exist"):
            rdn.subnetwork(wrong)
    with pytest.raises(ConfigError, match="choose from 1 to 7"):
        rdn(images, upto=9)
    with pytest.raises(ConfigError, match="choose from 4 to 7"):
        rdn.advance(rdn.advance(rdn.start(images), to=3), to=3)


def test_bfloat16_on_the_cpu_trains_too(images):
    rdn = make("mobilenext", images).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = rdn(images)
    logits.float().sum().backward()
    assert all(p.grad is not None for p in rdn.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_heads_change_no_answer_however_it_is_computed(images, name):
    rdn = make(name, images, k=3)
    folded = rdn.fold_heads()
    with torch.no_grad():
        logits, state = rdn(images), folded.start(images)
        torch.testing.assert_close(folded(images), logits, rtol=1e-5, atol=1e-5)
        for index in range(1, rdn.num_subnetworks + 1):
            state = state if index == 1 else folded.advance(state, to=index)
            torch.testing.assert_close(state.logits, logits[:, index - 1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(rdn.subnetwork(index)(images), logits[:, index - 1], rtol=1e-5, atol=1e-5)
    assert rdn.heads.tail is not None or isinstance(folded.heads.classifier, torch.nn.Identity)
    assert isinstance(rdn.heads.classifier, torch.nn.Linear)  # the network for training is as it was
    assert folded.trunk is rdn.trunk
