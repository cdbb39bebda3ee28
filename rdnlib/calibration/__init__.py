"""λ* from arrays alone (Section 3.4): p (N, K), estimated probabilities that N_v is right; correct (N, K); saved (K,).

    saved fraction   r_v = 1 − MAdds_v / MAdds_K
    equation 2       maximise the mean of r_v(x) over policies v(x), subject to Pr(N_v(x) is right) ≥ 1 − ε
    equation 3       its Lagrangian, maximised sample by sample: f_λ(x) = argmax_v (r_v + λ) p_v(x)
    λ*               the smallest λ ≥ 0 at which f_λ meets the constraint

`choose` is f_λ, `sweep` its exact curve over all λ, and `calibrate` gives λ*.
"""

from rdnlib.calibration.multiplier import Calibration, calibrate, choose, saved_fraction, sweep

__all__ = ["Calibration", "calibrate", "choose", "saved_fraction", "sweep"]
