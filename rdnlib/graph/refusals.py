"""Which operators of a network can be nested, which cannot, and why (Section 3.2).

Channel-wise operators keep the groups apart; convolutions and Linear layers are what surgery rewrites. Everything else is refused by
name, with the reason and a way out: a layer that mixes channels in another way would let later groups change earlier ones.
"""

import operator

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from rdnlib.errors import UnsupportedModuleError

# ── supported modules ──
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh),
)
POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)  # of positions, never of channels
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)
CHANNELWISE = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth, *ACTIVATIONS, *POOLS, *PADS)
WEIGHTED = (nn.Conv2d, nn.Linear)

# ── supported functions, and methods by name ──
IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul, "add_": "add", "mul_": "mul", "relu_": "relu"}
ADDING = {operator.add, operator.sub, torch.add, torch.sub, "add", "sub"}
MULTIPLYING = {operator.mul, operator.truediv, torch.mul, torch.multiply, "mul"}
ELEMENTWISE = ADDING | MULTIPLYING  # of two values, or of one and a number
SIGMOIDS = {torch.sigmoid, F.sigmoid, F.hardsigmoid, "sigmoid"}
CHANNELWISE_FUNCTIONS = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.tanh, *SIGMOIDS),
    *(F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *(torch.relu, torch.tanh, "relu", "tanh", "contiguous"),
}

# ── refused: the reason and what to do about it → the commonest operators it applies to ──
REFUSED = {
    "it normalises over channels, so later groups would change earlier ones; train with BatchNorm2d instead":
        ("LayerNorm", "LayerNorm2d", "layer_norm", "GroupNorm", "group_norm", "LocalResponseNorm", "normalize", "norm"),
    "every output depends on all channels through the sum; use a sigmoid":
        ("Softmax", "Softmax2d", "LogSoftmax", "softmax", "log_softmax"),
    "it mixes positions and channels in ways that have no groups; only convolutional networks can be nested":
        ("MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention", "matmul", "shifted_window_attention"),
    "it moves values between channels, so a channel no longer belongs to one group":
        ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "permute", "Permute", "transpose", "view", "reshape", "Unflatten", "roll",
         "_get_relative_position_bias"),
    "it compares or divides, mostly a tensor's size; of sizes only x.view(x.size(0), -1) is understood":
        ("eq", "floordiv", "mod"),
    "its output joins or cuts channel spaces, which would need groups of their own; use an addition":
        ("cat", "concat", "stack", "chunk", "split", "getitem"),
    "its slopes are parameters tied to channels; use nn.LeakyReLU": ("PReLU", "prelu"),
}  # fmt: skip
UNKNOWN = "it is not known to keep the channels apart; express it with convolutions, batch norm, activations, additions and pooling"


def refusal(name: str, kind: str, reason: str | None = None) -> UnsupportedModuleError:
    """The error for the operator `name` of type `kind`; without a reason, the one in the table."""
    if reason is None:
        reason = next((reason for reason, kinds in REFUSED.items() if kind in kinds), UNKNOWN)
    return UnsupportedModuleError(f"cannot nest '{name}' ({kind}): {reason}")
