"""The joint loss, against the sum over sub-networks written out."""

import pytest
import torch
import torch.nn.functional as F

from rdnlib.training.loss import joint_loss


def test_joint_loss_is_the_mean_of_the_subnetworks_losses():
    logits, labels = torch.randn(5, 3, 4), torch.randint(0, 4, (5,))
    slow = sum(F.cross_entropy(logits[:, i], labels, label_smoothing=0.1) for i in range(3)) / 3
    torch.testing.assert_close(joint_loss(logits, labels, 0.1), slow)
    torch.testing.assert_close(joint_loss(logits[:, 0], labels), F.cross_entropy(logits[:, 0], labels))


@pytest.mark.parametrize(
    "given", [None, torch.linspace(-3, 3, 20).reshape(5, 4).sin()], ids=["N_K teaches", "a teacher of all"]
)
def test_distillation_is_the_mean_of_what_each_subnetwork_is_told(given):
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3, 4, requires_grad=True), torch.randint(0, 4, (5,))
    told, each = (logits[:, -1].detach() if given is None else given).softmax(dim=1), []
    for i in range(3):
        hard = F.cross_entropy(logits[:, i], labels, label_smoothing=0.1)
        soft = -(told * logits[:, i].log_softmax(dim=1)).sum(dim=1).mean()
        each.append(hard if given is None and i == 2 else 0.7 * hard + 0.3 * soft)
    torch.testing.assert_close(joint_loss(logits, labels, 0.1, distill=0.3, teacher=given), sum(each) / 3)
    alone = joint_loss(logits[:, :1], labels, 0.1, distill=0.3, teacher=given, teach_largest=False)
    torch.testing.assert_close(alone, F.cross_entropy(logits[:, 0], labels, label_smoothing=0.1))  # N_K by itself
    each[2] = F.cross_entropy(logits[:, 2], labels, label_smoothing=0.1)
    smaller = joint_loss(logits, labels, 0.1, distill=0.3, teacher=given, teach_largest=False)
    torch.testing.assert_close(smaller, sum(each) / 3)
    if given is not None:  # a base network, which is one sub-network
        torch.testing.assert_close(joint_loss(logits[:, 0], labels, 0.1, distill=0.3, teacher=given), each[0])


@pytest.mark.parametrize(
    "how", [{}, {"teacher": torch.linspace(-3, 3, 20).reshape(5, 4).sin(), "teach_largest": False}]
)
def test_n_k_learns_from_the_labels_alone_where_it_teaches_or_is_not_taught(how):
    logits, labels = torch.randn(5, 3, 4, requires_grad=True), torch.randint(0, 4, (5,))
    joint_loss(logits, labels, distill=1.0, **how).backward()
    alone = torch.autograd.grad(F.cross_entropy(logits[:, 2], labels) / 3, logits)[0]
    torch.testing.assert_close(logits.grad[:, 2], alone[:, 2])  # the teacher learns from the labels alone


@pytest.mark.parametrize("distill", [0.0, 0.3])
def test_the_largest_subnetworks_share_of_the_loss(distill):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, 5, generator=generator), torch.randint(5, (6,), generator=generator)
    each = []
    for index in range(4):
        hard = F.cross_entropy(logits[:, index], labels, label_smoothing=0.1)
        soft = F.cross_entropy(logits[:, index], logits[:, -1].softmax(-1))
        each.append(hard if index == 3 else (1 - distill) * hard + distill * soft)
    expected = 0.4 * each[3] + 0.6 * sum(each[:3]) / 3
    torch.testing.assert_close(joint_loss(logits, labels, 0.1, distill=distill, largest=0.4), expected)
    equal = joint_loss(logits, labels, 0.1, distill=distill)
    torch.testing.assert_close(joint_loss(logits, labels, 0.1, distill=distill, largest=0.25), equal)
    only = F.cross_entropy(logits[:, 0], labels, label_smoothing=0.1)
    torch.testing.assert_close(joint_loss(logits[:, :1], labels, 0.1, distill=distill, largest=0.4), only)
