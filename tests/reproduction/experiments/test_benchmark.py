"""What a training step costs: the memory of known allocations, and a table that compares like with like."""

import pytest
import torch
from support.networks import build

from rdnlib.models import mobilenext
from rdnlib.models.slimmable import Slimmable
from rdnlib.reproduction.experiments import benchmark
from rdnlib.reproduction.experiments.benchmark import compare, peak_memory, training_step


def test_peak_of_known_allocations():
    def step():
        first, second = torch.zeros(1_000_000), torch.zeros(500_000)  # 4 MB and 2 MB
        del first
        third = torch.zeros(250_000)
        del second, third

    assert peak_memory(step) == pytest.approx(6e6, rel=0.01)


def test_the_layers_that_stay_plain_can_be_chosen(monkeypatch):
    """More plain layers, fewer of them doubled: the RDN that is timed has fewer parameters."""
    model, made = mobilenext(width_mult=0.2, depth_mult=0.1, num_classes=10), []

    def remembered(*args, surgery=benchmark.to_rdn, **settings):
        made.append(surgery(*args, **settings))
        return made[-1]

    monkeypatch.setattr(benchmark, "to_rdn", remembered)
    for plain in (0.1, 0.6):
        compare(model, k=2, size=16, batch_size=2, plain=plain, repeats=1)
    few, many = (sum(p.numel() for p in rdn.parameters()) for rdn in made)
    assert many < few


def test_a_slimmable_step_is_the_joint_step_in_parts(images):
    """Going back width by width changes the weights as going back from the mean of all losses does."""
    model, labels = build("mixed", images).train(), torch.arange(len(images)) % 6
    parts, joint = (Slimmable(model, [0.25, 0.5, 1.0]) for _ in range(2))
    training_step(parts, images, labels)()
    optimiser = torch.optim.SGD(joint.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    torch.nn.functional.cross_entropy(joint(images).transpose(1, 2), labels[:, None].expand(-1, 3)).backward()
    optimiser.step()
    for one, other in zip(parts.parameters(), joint.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_table():
    model, threads = mobilenext(width_mult=0.2, depth_mult=0.1, num_classes=10), torch.get_num_threads()
    before = model.classifier.weight.clone()
    table = compare(model, k=4, size=32, batch_size=16, slimmed=[0.5, 1.0], repeats=1).set_index("network")
    assert list(table["answers"].items()) == [
        ("base", 1), ("RDN", 7), ("slimmable, 7 widths", 7), ("slimmable, 2 widths", 2),
    ]  # fmt: skip
    assert table["ratio"]["base"] == table["peak_ratio"]["base"] == 1
    assert table["peak_mb"]["RDN"] > table["peak_mb"]["base"] > 0
    assert table["ratio"]["slimmable, 7 widths"] > 1  # seven passes
    assert torch.equal(model.classifier.weight, before) and torch.get_num_threads() == threads


def test_a_slimmable_network_of_the_same_widths_is_timed_once():
    model = mobilenext(width_mult=0.2, depth_mult=0.1, num_classes=10)
    table = compare(model, k=2, size=16, batch_size=2, slimmed=[0.5, 0.75, 1.0], repeats=1)
    assert list(table["network"]) == ["base", "RDN", "slimmable, 3 widths"]
