"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference."""

from rdnlib.madds import describe
from rdnlib.models import register_model
from rdnlib.nn import RDN
from rdnlib.surgery import deepen, to_rdn

__all__ = ["RDN", "deepen", "describe", "register_model", "to_rdn"]
__version__ = "0.1.0"
