"""ONNX: one sub-network as a file that other runtimes execute, checked against torch before it is put in place.

The file takes images (batch, 3, H, W), normalised as in training, and gives logits (batch, classes); the batch may have any size.
"""

import os
from copy import deepcopy
from pathlib import Path

import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from rdnlib.deployment import checkpoint
from rdnlib.deployment.runtimes import write_onnx
from rdnlib.deployment.stages import answer
from rdnlib.errors import CheckpointError, ConfigError, RdnError
from rdnlib.nn.rdn import RDN, SubNetwork
from rdnlib.utils.files import read_json, replacing

INPUT_SIZE = 224  # pixels, where neither the caller nor the checkpoint says
BATCHES = (1, 3)  # sizes that are compared with torch; neither is the one that the graph is traced with
TOLERANCE = 1e-4  # largest accepted deviation, relative to the largest logit


class _Chain(nn.Module):
    """A sub-network without the axis over sub-networks, of length one here, whose reshaping would fix the batch size."""

    def __init__(self, network: SubNetwork):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) → logits (B, classes)."""
        trunk, heads, last = self.network.trunk, self.network.heads, self.network.index
        return answer(heads, heads(trunk(x, 1, last), 1, last)[:, -1])


def export(network: SubNetwork, path: str | os.PathLike, input_size: int | tuple[int, int] = INPUT_SIZE) -> float:
    """Write a sub-network (`rdn.subnetwork(i)`) as ONNX file `path` for images of `input_size` pixels, or (height, width).

    The file appears only when it agrees with torch; returns the largest deviation of a logit, relative to the largest logit.
    Raises ConfigError when `path` cannot be written, RdnError when the file computes something else.
    """
    if not isinstance(network, SubNetwork):
        raise ConfigError(f"export takes one sub-network, rdn.subnetwork(i), not a {type(network).__name__}")
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    network = deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(size, 3, height, width, generator=generator) for size in (2, *BATCHES)]
    try:
        with replacing(path) as temporary:
            write_onnx(_Chain(network).eval(), images[:1], temporary, ["images"], ["logits"])
            deviation = _deviation(network, images[1:], temporary)
            if not deviation <= TOLERANCE:  # NaN as well
                reason = f"the file's logits would deviate from torch's by {deviation:.1e} of the largest"
                raise RdnError(f"not exported: {reason}")
            return deviation
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


@torch.no_grad()
def _deviation(network: nn.Module, batches: list[Tensor], path: Path) -> float:
    """Run the file by ONNX's own definition of its operators."""
    onnx.checker.check_model(path, full_check=True)
    run, worst = ReferenceEvaluator(onnx.load(path)).run, 0.0
    for images in batches:
        expected = network(images)
        (logits,) = run(None, {"images": images.numpy()})
        if logits.shape != expected.shape:
            shape = tuple(expected.shape)
            raise RdnError(f"not exported: the file gives logits of shape {logits.shape}, torch {shape}")
        scale = expected.abs().max().clamp(min=torch.finfo().tiny)
        worst = max(worst, ((torch.from_numpy(logits) - expected).abs().max() / scale).item())
    return worst


def export_checkpoint(
    path: str | os.PathLike, index: int, out: str | os.PathLike, input_size: int | None = None, *, model=None
) -> tuple[RDN, int, float]:
    """Export N_index of the RDN saved at `path` (see `rdnlib.deployment.checkpoint`) as ONNX file `out`.

    input_size: pixels; None takes the checkpoint's own "input_size", else 224. model: see `checkpoint.load`. Returns the RDN, the input size and the
    deviation, see `export`. Raises CheckpointError when `path` holds no RDN, ConfigError for a wrong index or `out`.
    """
    rdn = checkpoint.load(path, model=model)
    if not isinstance(rdn, RDN):
        kind = type(rdn).__name__
        raise CheckpointError(f"{path} holds a {kind}, not an RDN, so there are no sub-networks to export")
    if input_size is None:
        input_size = read_json(Path(path).with_suffix(".json")).get("input_size", INPUT_SIZE)
    return rdn, input_size, export(rdn.subnetwork(index), out, input_size)
