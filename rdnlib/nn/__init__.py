"""Nested layers and the networks made of them: groups and equation 1, convolutions, heads, the RDN, its grid of depths."""

from rdnlib.nn.conv import NestedConv2d
from rdnlib.nn.depth_nesting import DepthwiseRDN
from rdnlib.nn.groups import Space, sources
from rdnlib.nn.rdn import RDN

__all__ = ["RDN", "DepthwiseRDN", "NestedConv2d", "Space", "sources"]
