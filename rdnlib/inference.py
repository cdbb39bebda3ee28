"""Dynamic inference with real early exit (Section 3.4): the policy reads N_1's features, chooses for each image how far to
go, and only the images that go on are computed further."""

import math

import torch
from torch import Tensor, nn

from rdnlib.calibration import choose
from rdnlib.errors import ConfigError
from rdnlib.policy import PolicyNetwork
from rdnlib.rdn import RDN, State


class DynamicRDN(nn.Module):
    """f_λ: images (B, 3, H, W) → logits (B, classes) and exits (B,) in 1…K.

    Each sub-network's groups run once, on just the images that reach them.
    """

    def __init__(self, rdn: RDN, policy: PolicyNetwork, saved, lam: float):
        """saved: (K,) saved fractions r_v, decreasing to 0; lam: λ ≥ 0, may be infinite (always the likeliest to be right)."""
        super().__init__()
        if policy.config()["num_subnetworks"] != rdn.num_subnetworks:
            raise ConfigError("the policy was fitted for another number of sub-networks than this RDN has")
        if policy.config()["in_features"] != rdn.heads.space.sizes[0]:
            raise ConfigError("the policy reads another number of features than this RDN's N_1 has")
        if not lam >= 0:
            raise ConfigError(f"λ must be at least 0, not {lam}")
        self.rdn, self.policy, self.saved, self.lam = rdn, policy, saved, float(lam)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.rdn.start(x)
        p = self.policy(self.rdn.first_features(state.features))
        exits = torch.from_numpy(choose(p.cpu().numpy(), self.saved, self.lam) + 1).to(x.device)
        logits, rows = state.logits.clone(), torch.arange(len(x), device=x.device)
        for index in exits.unique().tolist():  # ascending: every stop that some image makes
            going = exits[rows] >= index
            rows, state = rows[going], select_rows(state, going)
            if index > state.index:
                state = self.rdn.advance(state, to=index)
            leaving = exits[rows] == index
            logits[rows[leaving]] = state.logits[leaving]
        return logits, exits

    def extra_repr(self) -> str:
        return "λ=∞" if math.isinf(self.lam) else f"λ={self.lam:.4g}"


def select_rows(state: State, rows: Tensor) -> State:
    """The state of some of the images only; `rows` is a mask or an index over the batch."""
    return State(
        state.index,
        state.logits[rows],
        state.features[rows],
        state.aligned[rows],
        {name: value[rows] for name, value in state.seen.items()},
    )
