"""Policy networks (Section 3.4, Figure 7) and dynamic inference with real early exit."""

from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork, fit_policy

__all__ = ["DynamicRDN", "PolicyNetwork", "fit_policy"]
