"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference."""

from rdnlib.depthwise import deepen
from rdnlib.rdn import RDN
from rdnlib.surgery import to_rdn

__all__ = ["RDN", "deepen", "to_rdn"]
__version__ = "0.1.0"
