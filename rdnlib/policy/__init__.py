"""Policy networks (Section 3.4, Figure 7) and dynamic inference with real early exit."""

from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork, fit_policy, fit_temperature
from rdnlib.policy.sequential import SequentialPolicy, fit_sequential

__all__ = ["DynamicRDN", "PolicyNetwork", "SequentialPolicy", "fit_policy", "fit_sequential", "fit_temperature"]
