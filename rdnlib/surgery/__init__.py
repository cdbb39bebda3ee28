"""Network surgery: from a trained network to an RDN (Sections 3.2 and 3.3)."""

from rdnlib.surgery.deepen import deepen
from rdnlib.surgery.nest import to_rdn

__all__ = ["deepen", "to_rdn"]
