"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference."""

from rdnlib.calibration import calibrate
from rdnlib.deployment.deploy import deploy
from rdnlib.madds import describe
from rdnlib.models import register_model
from rdnlib.nn import RDN
from rdnlib.surgery import deepen, to_rdn
from rdnlib.training import train

__all__ = ["RDN", "calibrate", "deepen", "deploy", "describe", "register_model", "to_rdn", "train"]
__version__ = "0.1.0"
