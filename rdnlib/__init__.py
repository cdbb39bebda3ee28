"""Russian Doll Networks: nested sub-networks, network surgery and sample-adaptive dynamic inference.

Where things live, in the order in which data flows:

- images: `data`, `dolls`, `photographs`, `augment`, `batches`
- super-nets: `models`, `zoo`
- surgery: `tracing` (with `operators`) → `spaces` → `select` → `surgery`, `reconstruct` (with `regression`, `shelf`)
- the nested network: `rdn`, made of `nested` (with `blocks`) and `heads`; `describe`, `madds`, `export`
- width and depth: `depthwise` (with `split`, `light`), `order`, `grids`
- training: `recipe`, `training`, `resume`, `devices`, `norms`; `evaluation`, `checkpoint`
- dynamic inference: `policy`, `sequential`, `policies` → `calibration` (with `walk`, `guarantee`), `promise`, `reliability` → `inference`
- comparisons: `rivals`, `tradeoff`, `slimmable`, `variants`, `benchmark`
- experiments: `profiles` (with `ablations`, `toy`) → `experiments` (with `runners`, `workers`, `inventory`) → `results`, `seeds`, `lengths`, `ledger`
- the book: `plots`, `structure_plots`, `order_plots`, `claim_plots`, `widgets` → `execution`, `assets` → `reproduce`; `cli`
"""

from rdnlib.depthwise import deepen
from rdnlib.rdn import RDN
from rdnlib.surgery import to_rdn

__all__ = ["RDN", "deepen", "to_rdn"]
__version__ = "0.1.0"
