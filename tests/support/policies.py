"""Made-up policies: probabilities with outcomes, and what exits give, computed the obvious way."""

import numpy as np
import torch
from hypothesis import strategies as st

from rdnlib.nn.heads import evidence
from rdnlib.policy.network import PolicyNetwork


def exits_of(frame):
    return frame.filter(like="exit_").to_numpy()


def measured(exits, correct, saved):
    """Accuracy, saved fraction and exit shares of given exits, the obvious way."""
    share = np.bincount(exits, minlength=len(saved)) / len(exits)
    return correct[np.arange(len(exits)), exits].mean(), saved[exits].mean(), share


@st.composite
def any_floats(draw):
    k, n = draw(st.integers(1, 9)), draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = rng.random((n, k)) ** draw(st.sampled_from([0.1, 1, 10]))
    p[rng.random((n, k)) < draw(st.sampled_from([0, 0.2]))] = 0
    p[rng.random((n, k)) < draw(st.sampled_from([0, 0.2]))] = 1
    if draw(st.booleans()):
        p = np.sort(p, axis=1)
    p = p[rng.integers(0, n, n)]  # duplicates
    if draw(st.booleans()):
        p = p.astype(np.float32)
    saved = np.append(np.sort(rng.random(k - 1))[::-1], 0)
    return p, rng.random((n, k)) < 0.6, saved


@torch.no_grad()
def policy_for(rdn, images, *, logits: int = 0) -> PolicyNetwork:
    """One that chooses different exits for different images."""
    torch.manual_seed(3)
    policy = PolicyNetwork(rdn.first_channels + logits, rdn.num_subnetworks, (8,), logits=logits).eval()
    state = rdn.start(images)
    inputs = torch.cat([rdn.first_features(state.features), evidence(state.logits)[:, :logits]], dim=1)
    policy.mean.copy_(inputs.mean(dim=0))
    policy.std.copy_(inputs.std(dim=0) + 1e-6)
    policy.layers[-1].weight.mul_(4)
    return policy
