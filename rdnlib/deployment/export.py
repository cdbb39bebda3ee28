"""ONNX: one sub-network as a file that other runtimes execute, or real exits as files that a program chains; checked against torch.

The file takes images (batch, 3, H, W), normalised as in training, and gives logits (batch, classes); the batch may have any size.
"""

import math
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from rdnlib.calibration.multiplier import saved_fraction
from rdnlib.deployment import checkpoint
from rdnlib.deployment.deploy import deploy
from rdnlib.deployment.runtimes import write_onnx
from rdnlib.deployment.stages import First, Increment, answer
from rdnlib.errors import CheckpointError, ConfigError, RdnError
from rdnlib.madds import count_incremental
from rdnlib.nn.rdn import RDN, SubNetwork
from rdnlib.policy.inference import DynamicRDN
from rdnlib.policy.network import PolicyNetwork
from rdnlib.utils.files import read_json, replacing, write_json

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
            deviation = _deviation(network, [{"images": batch} for batch in images[1:]], temporary)
            if deviation > TOLERANCE:
                reason = f"the file's logits would deviate from torch's by {deviation:.1e} of the largest"
                raise RdnError(f"not exported: {reason}")
            return deviation
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


@torch.no_grad()
def export_stages(
    rdn: RDN, policy: PolicyNetwork, saved: Sequence[float], folder: str | os.PathLike, input_size: int | tuple[int, int] = INPUT_SIZE
) -> float:  # fmt: skip
    """Write real exits as ONNX files that any program can chain: `first.onnx`, `to_2.onnx` … `to_K.onnx`, and `stages.json`.

    first: images (batch, 3, H, W) and lambda (1,) → logits (batch, classes) of N_1, exits (batch,) in 1…K, and the state, one tensor for
    each name of "state" in stages.json. to_i: the state → logits of N_i, for images whose exit is i. saved: (K,) saved fractions r_v.
    Every file is compared with torch before it appears; returns the largest deviation, relative to the largest logit. Raises ConfigError
    for depth-wise nesting and where `folder` cannot be written, RdnError when a file computes something else.
    """
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    rdn, folder, lam = deploy(rdn).cpu(), Path(folder), torch.ones(1)
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    first = First(rdn, policy, saved).cpu().eval()
    state = [f"state_{number}" for number in range(len(first.state_names))]
    stages = {"first": (first, (images, lam), ["images", "lambda"], ["logits", "exits", *state])}
    given = first(images, lam)[2:]
    for index in range(2, rdn.num_subnetworks + 1):
        stages[f"to_{index}"] = (Increment(rdn, index).eval(), given, state, ["logits"])
    worst = 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, (network, inputs, names, outputs) in stages.items():
            with replacing(folder / f"{name}.onnx") as temporary:
                write_onnx(network, inputs, temporary, names, outputs)
                one = [each if name == "lambda" else each[:1] for name, each in zip(names, inputs, strict=True)]
                batches = [
                    dict(zip(names, some, strict=True)) for some in (inputs, one)
                ]  # it was traced with the first
                worst = max(worst, _deviation(network, batches, temporary))
                if worst > TOLERANCE:
                    raise RdnError(
                        f"not exported: {name}.onnx would deviate from torch by {worst:.1e} of the largest value"
                    )
        write_json(folder / "stages.json", {"subnetworks": rdn.num_subnetworks, "size": list(size), "state": state})
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    return worst


@torch.no_grad()
def _deviation(network: nn.Module, batches: list[dict[str, Tensor]], path: Path) -> float:
    """The file run by ONNX's own definition of its operators: the largest deviation from the module, relative to the largest value.

    batches: input's name → values. Whole numbers, the exits, are equal or infinitely far; so is NaN.
    """
    onnx.checker.check_model(path, full_check=True)
    run, worst = ReferenceEvaluator(onnx.load(path)).run, 0.0
    for inputs in batches:
        wanted = network(*inputs.values())
        found = run(None, {name: each.numpy() for name, each in inputs.items()})
        for expected, array in zip(wanted if isinstance(wanted, tuple) else (wanted,), found, strict=True):
            if array.shape != expected.shape:
                raise RdnError(f"not exported: the file gives shape {array.shape}, torch {tuple(expected.shape)}")
            if expected.is_floating_point():
                scale = expected.abs().max().clamp(min=torch.finfo().tiny)
                apart = ((torch.from_numpy(array) - expected).abs().max() / scale).item()
            else:
                apart = 0.0 if torch.equal(torch.from_numpy(array), expected) else math.inf
            worst = max(worst, math.inf if math.isnan(apart) else apart)
    return worst


def export_checkpoint(
    path: str | os.PathLike, index: int, out: str | os.PathLike, input_size: int | None = None, *, model=None
) -> tuple[RDN, int, float]:
    """Export N_index of the RDN saved at `path` (see `rdnlib.deployment.checkpoint`) as ONNX file `out`.

    input_size: pixels; None takes the checkpoint's own "input_size", else 224. model: see `checkpoint.load`. Returns the RDN, the input size and the
    deviation, see `export`. Raises CheckpointError when `path` holds no RDN, ConfigError for a wrong index or `out`.
    """
    rdn, input_size = _load_rdn(path, input_size, model)
    return rdn, input_size, export(rdn.subnetwork(index), out, input_size)


def export_exits(
    path: str | os.PathLike, policy: str | os.PathLike, folder: str | os.PathLike, input_size: int | None = None, *, model=None
) -> tuple[RDN, int, float]:  # fmt: skip
    """`export_stages` of the RDN saved at `path` with the policy saved at `policy`; the rest as in `export_checkpoint`.

    Raises CheckpointError also when `policy` is not the paper's policy, or was fitted for another network.
    """
    rdn, input_size = _load_rdn(path, input_size, model)
    network = checkpoint.load(Path(policy))
    if not isinstance(network, PolicyNetwork):
        raise CheckpointError(
            f"{policy} holds a {type(network).__name__}; stages need the policy that decides after N_1"
        )
    costs = count_incremental(rdn, input_size)["total"]
    saved = saved_fraction(costs)
    DynamicRDN(rdn, network, saved, 0.0)  # raises where they do not belong together
    return rdn, input_size, export_stages(rdn, network, saved, folder, input_size)


def _load_rdn(path: str | os.PathLike, input_size: int | None, model: str | None) -> tuple[RDN, int]:
    rdn = checkpoint.load(path, model=model)
    if not isinstance(rdn, RDN):
        kind = type(rdn).__name__
        raise CheckpointError(f"{path} holds a {kind}, not an RDN, so there are no sub-networks to export")
    if input_size is None:
        input_size = read_json(Path(path).with_suffix(".json")).get("input_size", INPUT_SIZE)
    return rdn, input_size
