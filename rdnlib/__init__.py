"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference."""

from rdnlib.nn.depthwise import deepen
from rdnlib.nn.rdn import RDN
from rdnlib.surgery.nest import to_rdn

__all__ = ["RDN", "deepen", "to_rdn"]
__version__ = "0.1.0"
