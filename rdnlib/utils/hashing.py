"""Which network this is: a hash of its weights."""

import hashlib

import torch
from torch import nn


def network_hash(network: nn.Module) -> str:
    """A hash of all parameters and statistics, the same on every device: which network this is."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
