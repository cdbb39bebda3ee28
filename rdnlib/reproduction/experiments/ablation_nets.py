"""RDNs as the ablations train them: from random weights (Table 3), or with the losses of some sub-networks only (Table 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rdnlib.nn.rdn import RDN


@torch.no_grad()
def reinitialise(rdn: RDN, seed: int) -> None:
    """Draw all weights anew; the nested structure stays.

    Filters by He et al. (2015), each group's by its own fan-in; batch norms as torch begins; biases zero; align layers so that z_K
    is about as large as the features; the classifier as MobileNeXt's.
    """
    torch.manual_seed(seed)
    features = sum(rdn.heads.space.sizes)
    for module in rdn.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()  # and the statistics
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)
            elif module is rdn.heads.align:
                nn.init.normal_(parameter, std=features**-0.5)
            elif module is rdn.heads.classifier:
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.kaiming_normal_(parameter)


class SomeSubnetworks(nn.Module):
    """Some sub-networks of an RDN, numbered from 1, with its parameters: images (B, 3, H, W) → logits (B, n, classes).

    The joint loss is then the mean of these n losses; the other sub-networks learn only what they share.
    """

    def __init__(self, rdn: RDN, chosen: Sequence[int]):
        super().__init__()
        self.rdn, self.chosen = rdn, list(chosen)
        owners = rdn.owners()
        for name, parameter in rdn.named_parameters():  # what no chosen one has is not computed, and has no gradient
            if name in owners and (owners[name] > max(self.chosen)).all():
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.rdn(x, upto=max(self.chosen))[:, [index - 1 for index in self.chosen]]
