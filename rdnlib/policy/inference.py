"""Dynamic inference with real early exit (Section 3.4): a policy chooses an exit for each image, and only images that
go on are computed further. The paper's policy decides once, after N_1; the sequential one after every sub-network.
"""

import math

import torch
from torch import Tensor, nn

from rdnlib.calibration.multiplier import choose
from rdnlib.errors import CheckpointError, ConfigError
from rdnlib.nn.heads import evidence
from rdnlib.nn.rdn import RDN, State
from rdnlib.policy.network import PolicyNetwork
from rdnlib.policy.sequential import SequentialPolicy, going_on
from rdnlib.utils.hashing import network_hash


class DynamicRDN(nn.Module):
    """f_λ: images (B, 3, H, W) → logits (B, classes) and exits (B,) in 1…K.

    Each sub-network's groups run once, on just the images that reach them.
    """

    def __init__(self, rdn: RDN, policy: PolicyNetwork | SequentialPolicy, saved, lam: float):
        """saved: (K,) saved fractions r_v, decreasing to 0; lam: λ ≥ 0, ∞ for the exit likeliest to be right.

        Raises ConfigError if shapes disagree, CheckpointError if the policy was saved for a network with other weights.
        """
        super().__init__()
        config = policy.config()
        if config["num_subnetworks"] != rdn.num_subnetworks:
            raise ConfigError("the policy was fitted for another number of sub-networks than this RDN has")
        if len(saved) != rdn.num_subnetworks:
            raise ConfigError(f"{len(saved)} saved fractions do not fit an RDN of {rdn.num_subnetworks} sub-networks")
        if "in_features" in config and config["in_features"] - config["logits"] != rdn.first_channels:
            raise ConfigError("the policy reads another number of features than this RDN's N_1 has")
        if policy.network is not None and policy.network != network_hash(rdn):
            raise CheckpointError(
                "the policy was fitted for another network: its probabilities and λ mean nothing here"
            )
        if not lam >= 0:
            raise ConfigError(f"λ must be at least 0, not {lam}")
        self.rdn, self.policy, self.saved, self.lam = rdn.fold_heads(), policy, saved, float(lam)

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) → logits (B, classes), each of its image's own exit, and the exits (B,), from 1."""
        state = self.rdn.start(x)
        if isinstance(self.policy, SequentialPolicy):
            return self._sequentially(state)
        exits = self._decide(state)
        rows, parts = torch.arange(len(x), device=x.device), []
        for index in exits.unique().tolist():  # ascending: every exit that some image takes
            if index > state.index:
                state = self.rdn.advance(state, to=index)
            leaving = exits[rows] == index
            parts.append((rows[leaving], state.take(leaving).logits))  # the classifier runs on those that leave
            rows, state = rows[~leaving], state.take(~leaving)
        order = torch.cat([rows for rows, _ in parts]).argsort()
        return torch.cat([logits for _, logits in parts])[order], exits

    def _decide(self, state: State) -> Tensor:
        """Exits (B,) in 1…K from what N_1 has computed."""
        inputs = self.rdn.first_features(state.features)
        if self.policy.from_logits:
            inputs = torch.cat([inputs, evidence(state.logits)], dim=1)
        exits = choose(self.policy(inputs).cpu().numpy(), self.saved, self.lam) + 1
        return torch.from_numpy(exits).to(inputs.device)

    def _sequentially(self, state: State) -> tuple[Tensor, Tensor]:
        logits, rows = state.logits.clone(), torch.arange(len(state.logits), device=state.logits.device)
        exits = torch.full_like(rows, self.rdn.num_subnetworks)
        history = []  # evidence (b, E) and guesses (b,) of every sub-network so far, of the b images that have not left
        while state.index < self.rdn.num_subnetworks and len(rows):
            history.append((evidence(state.logits), state.logits.argmax(dim=1)))
            p = self.policy(*(torch.stack(values, dim=1) for values in zip(*history, strict=True)))
            going = torch.from_numpy(self.lam > going_on(p.cpu(), self.saved[state.index - 1 :])).to(rows.device)
            exits[rows[~going]] = state.index
            rows, state = rows[going], state.take(going)
            history = [(seen[going], guesses[going]) for seen, guesses in history]
            if len(rows):
                state = self.rdn.advance(state, to=state.index + 1)
                logits[rows] = state.logits
        return logits, exits

    def extra_repr(self) -> str:
        return "λ=∞" if math.isinf(self.lam) else f"λ={self.lam:.4g}"
