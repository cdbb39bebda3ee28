"""Checkpoints: safetensors for the numbers, JSON for how to rebuild the network. Never a pickle."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from rdnlib import models
from rdnlib.errors import CheckpointError, RdnError
from rdnlib.models.slimmable import Slimmable
from rdnlib.policy.network import PolicyNetwork
from rdnlib.policy.sequential import SequentialPolicy
from rdnlib.surgery import deepen, to_rdn
from rdnlib.utils.files import read_json, write_json, write_tensors


def save(path: Path, network: nn.Module, description: dict) -> None:
    """Write `path` (.safetensors) and, beside it, `path` with suffix .json.

    description: what it takes to rebuild the network before its numbers are loaded. Of the super-net `{"model": {"name": …, …}}` with its
        options, with `{"rdn": rdn.config}` for an RDN or `{"slimmable": {"widths": …}}` for a slimmable network; of a policy
        `{"policy": policy.config()}` or `{"sequential": policy.config()}`. Then `{"network": …}`, the `network_hash` of the RDN, makes it refuse
        any other. More may stand beside it: on which split it was fitted and calibrated, ε, δ, λ, the curve.
    """
    write_tensors(path, network.state_dict())
    write_json(path.with_suffix(".json"), description)


def load(path: Path, *, model: str | None = None) -> nn.Module:
    """Rebuild the network saved at `path`, in eval mode. Raises CheckpointError when it is missing or damaged.

    model: the registered super-net to take instead of the one that the checkpoint names. A name in a checkpoint is only looked up
    among the registered ones; nothing is imported by it.
    """
    path, sidecar = Path(path), Path(path).with_suffix(".json")
    for needed in (path, sidecar):
        if not needed.is_file():
            raise CheckpointError(f"no checkpoint: {needed} does not exist")
    try:
        description = read_json(sidecar)
        if model is not None:
            description["model"]["name"] = model
        network = build(description)
        network.load_state_dict(load_file(path))
    except RdnError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"checkpoint {path} is damaged or not one of ours: {reason}") from error
    return network.eval()


def build(description: dict) -> nn.Module:
    """The untrained network of a description, with the names and shapes that `load_state_dict` needs."""
    for kind, policy_class in (("policy", PolicyNetwork), ("sequential", SequentialPolicy)):
        if kind in description:
            policy = policy_class(**description[kind])
            policy.network = description.get("network")
            return policy
    name = description["model"]["name"]
    if name not in models.BUILDERS:
        raise CheckpointError(
            f"the checkpoint's super-net '{name}' is not known here: rdnlib.register_model it first, or name its "
            "builder (rdn export --model package.module:function)"
        )
    # the numbers are the checkpoint's, so published weights need not be at hand
    model = models.build(**{option: value for option, value in description["model"].items() if option != "weights"})
    if "slimmable" in description:
        return Slimmable(model, **description["slimmable"])
    if "rdn" not in description:
        return model
    config = description["rdn"]  # the channel order is in the weights, so none need be chosen
    rdn = to_rdn(model, config["k"], select="identity", init="copy", plain=config["plain"], align=config.get("align"))
    if "depth" in config:
        rdn = deepen(rdn, config["depth"]["split"])
        rdn = rdn.along(config["order"]) if "order" in config else rdn
    rdn.config = config
    return rdn
