"""The trade-off of Section 3.4 from arrays alone: f_λ, its exact curve over all λ, and λ* for a target accuracy."""

from rdnlib.calibration.multiplier import Calibration, calibrate, choose, saved_fraction, sweep

__all__ = ["Calibration", "calibrate", "choose", "saved_fraction", "sweep"]
