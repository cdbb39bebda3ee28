"""The hash by which a policy knows the network that it was fitted to."""

import hashlib

import torch
from torch import nn


def network_hash(network: nn.Module) -> str:
    """SHA-256 (hex) of all parameters and buffers with their names, types and shapes; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
