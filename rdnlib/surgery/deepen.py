"""Split an RDN along its depth, which doubles the number of its sub-networks (Section 3.2, Figure 5)."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor

from rdnlib.errors import ConfigError
from rdnlib.nn.depth_nesting import DepthwiseRDN
from rdnlib.nn.rdn import RDN
from rdnlib.surgery.cache import calibration_batches
from rdnlib.surgery.cut import choose_cut
from rdnlib.surgery.early_exit import early_exit, early_exit_heads, fit_early_exit


def deepen(
    rdn: RDN, split: float | str = 0.5, *, calibration: Tensor | Iterable[Tensor] | None = None, seed: int = 0
) -> DepthwiseRDN:
    """Split an RDN of K sub-networks along its depth, which doubles their number; `rdn` itself is left as it is.

    split: where to cut, as a share of the trunk's multiply-adds (the nearest possible place is taken), or the name of the module
        behind which to cut. Where one feature map is all that the rest of the network reads, it can be cut.
    calibration: images (B, 3, H, W), normalised as in training, or any number of such batches. If given, the early exits are fitted
        to the final features of `rdn`, and their heads to its answers (as in `rdnlib.surgery.reconstruct`); otherwise
        they start with random weights (of `seed`), and their heads as copies of the others.

    All other parameters are those of `rdn`. Raises ConfigError where the network cannot be cut.
    """
    if isinstance(rdn, DepthwiseRDN):
        raise ConfigError("this RDN has been split along its depth already")
    batches = calibration_batches(rdn, calibration)
    rdn = deepcopy(rdn).eval()
    cut = choose_cut(rdn.trunk, split)
    front, back = rdn.trunk.split(cut.value)
    blocks = early_exit(rdn.trunk, cut.value, k=rdn.k, generator=torch.Generator().manual_seed(seed)).eval()
    blocks.to(rdn.heads.classifier.weight)
    heads = early_exit_heads(rdn).eval()
    if batches:
        fit_early_exit(blocks, heads, rdn=rdn, front=front, back=back, batches=batches)
    config = {**rdn.config, "depth": {"split": cut.after, "share": cut.share, "seed": seed}}
    parts = {"front": front, "early_exit": blocks, "early_exit_heads": heads, "back": back, "heads": rdn.heads}
    return DepthwiseRDN(**parts, k=rdn.k, config=config).eval()
