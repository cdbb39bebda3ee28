"""RDNs as the ablations train them: from random weights (Table 3), or with the losses of some sub-networks only (Table 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.nn.rdn import RDN


@torch.no_grad()
def reinitialise(rdn: RDN, seed: int) -> None:
    """Forget all that the RDN learned: the nested structure stays, the weights are drawn anew.

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
    """An RDN that shows training just some of its sub-networks: images (B, 3, H, W) → logits (B, n, classes).

    It shares the RDN's parameters. The joint loss is then the mean of these n losses, and the others learn nothing but what they
    share.
    """

    def __init__(self, rdn: RDN, chosen: Sequence[int]):
        super().__init__()
        known = range(1, rdn.num_subnetworks + 1)
        if not chosen or sorted(set(chosen)) != list(chosen) or not set(chosen) <= set(known):
            raise ConfigError(
                f"trained must list sub-networks from 1 to {rdn.num_subnetworks} in order, not {chosen!r}"
            )
        self.rdn, self.chosen = rdn, list(chosen)

    def forward(self, x: Tensor) -> Tensor:
        return self.rdn(x)[:, [index - 1 for index in self.chosen]]
