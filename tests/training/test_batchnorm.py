"""Batch norm of batches in parts, and statistics estimated afresh; of feature maps and of vectors."""

import torch
from support import shared_run
from torch import nn

from rdnlib.training.batchnorm import RunningStatistics, reestimate_norms


def gradient_of_parts(model, batch, labels, parts):
    """The definition: every part alone, the mean of gradients and of running statistics."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states, model = [], model.train()
    for part in range(parts):
        model.load_state_dict(before)
        (torch.nn.functional.cross_entropy(model(batch[part::parts]), labels[part::parts]) / parts).backward()
        states.append({name: value.clone() for name, value in model.state_dict().items() if "running" in name})
    return {name: sum(state[name] for state in states) / parts for name in states[0]}


def test_parts_move_the_statistics_once_by_their_mean(images):
    labels, slow, fast = torch.arange(12) % 4, shared_run.network(), shared_run.network()
    expected = gradient_of_parts(slow, images, labels, 3)
    statistics = RunningStatistics(fast.train(), 3)
    with statistics.batch():
        for part in range(3):
            with statistics.part():
                loss = torch.nn.functional.cross_entropy(fast(images[part::3]), labels[part::3])
                (loss / 3).backward()
    for name, value in expected.items():
        torch.testing.assert_close(fast.state_dict()[name], value)
    for one, two in zip(slow.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)
    assert {int(value) for name, value in fast.named_buffers() if "tracked" in name} == {1}


def test_reestimated_norms_are_the_statistics_of_the_batches():
    """Of all of them: the statistics of a norm of vectors, behind the pooling, are of the same batches."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4)
    )
    nn.init.constant_(net[4].running_mean, 7.0)
    batches = [torch.randn(8, 3, 5, 5) for _ in range(3)]
    reestimate_norms(net, batches)
    means = torch.stack([net[0](batch).mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(net[1].running_mean, means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net[4].running_mean, torch.zeros(4), rtol=0, atol=1e-5)  # what net[1] makes of them
    assert (net[1].momentum, net[4].momentum) == (0.1, 0.1)
    assert not net.training
