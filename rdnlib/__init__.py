"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference."""

from rdnlib.madds import describe
from rdnlib.nn import RDN
from rdnlib.surgery import deepen, to_rdn

__all__ = ["RDN", "deepen", "describe", "to_rdn"]
__version__ = "0.1.0"
