"""Which operators of a network can be nested, and why the others cannot (Section 3.2).

Channel-wise operators keep the groups apart; dense layers are what surgery rewrites. Everything else is refused by name, with the
reason and a way out: a layer that mixes channels in another way would let later groups change earlier ones.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from rdnlib.errors import UnsupportedModuleError

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
)
POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)
CHANNELWISE = (nn.Identity, nn.Dropout, nn.Dropout2d, StochasticDepth, *ACTIVATIONS, *POOLS)
DENSE = (nn.Conv2d, nn.Linear)

IN_PLACE = {operator.iadd: operator.add, operator.imul: operator.mul, "add_": "add", "mul_": "mul", "relu_": "relu"}
ADDING = {operator.add, operator.sub, torch.add, torch.sub, "add", "sub"}
MULTIPLYING = {operator.mul, operator.truediv, torch.mul, torch.multiply, "mul"}
CHANNELWISE_FUNCTIONS = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid, F.sigmoid, F.tanh),
    *(F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *(torch.relu, torch.sigmoid, torch.tanh, "relu", "sigmoid", "tanh", "contiguous"),
}  # fmt: skip
# Why the commonest other operators cannot be nested, and what to do about it.
REASONS = {
    "normalisation": "it normalises over channels, so later groups would change earlier ones; train with BatchNorm2d instead",
    "softmax": "every output depends on all channels through the sum; use a sigmoid",
    "attention": "it mixes positions and channels in ways that have no groups; only convolutional networks can be nested",
    "moving": "it moves values between channels, so a channel no longer belongs to one group",
    "size": "it compares or divides, mostly a tensor's size; of sizes only x.view(x.size(0), -1) is understood",
    "joining": "its output joins or cuts channel spaces, which would need groups of their own; use an addition",
    "parameter": "it is a parameter outside a known layer, so its channels are unknown; put it into a supported module",
    "prelu": "its slopes are parameters tied to channels; use nn.LeakyReLU",
}
KINDS_OF_REFUSAL = {
    "normalisation": ("LayerNorm", "LayerNorm2d", "layer_norm", "GroupNorm", "group_norm", "LocalResponseNorm", "normalize", "norm"),
    "softmax": ("Softmax", "Softmax2d", "LogSoftmax", "softmax", "log_softmax"),
    "attention": ("MultiheadAttention", "multi_head_attention_forward", "scaled_dot_product_attention", "matmul", "shifted_window_attention"),
    "moving": ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "permute", "Permute", "transpose", "view", "reshape", "Unflatten", "roll", "_get_relative_position_bias"),
    "size": ("eq", "floordiv", "mod"),
    "joining": ("cat", "concat", "stack", "chunk", "split", "getitem"),
    "prelu": ("PReLU", "prelu"),
}  # fmt: skip


@dataclass(frozen=True)
class Slot:
    """Stands for the index-th input tensor among the arguments of a `Call`."""

    index: int


@dataclass(frozen=True)
class Call:
    """A traced function, or a method by name, with its constant arguments; `call(*tensors)` runs it."""

    target: Callable | str
    args: tuple
    kwargs: dict

    def __call__(self, *tensors: Tensor) -> Tensor:
        args = [tensors[value.index] if isinstance(value, Slot) else value for value in self.args]
        kwargs = {key: tensors[v.index] if isinstance(v, Slot) else v for key, v in self.kwargs.items()}
        return (
            getattr(args[0], self.target)(*args[1:], **kwargs)
            if isinstance(self.target, str)
            else self.target(*args, **kwargs)
        )

    @property
    def multiplies(self) -> bool:
        return self.target in MULTIPLYING

    @property
    def adds(self) -> bool:
        return self.target in ADDING


FLATTEN = Call(torch.flatten, (Slot(0), 1), {})


def refuse(name: str, what: str, reason: str) -> UnsupportedModuleError:
    return UnsupportedModuleError(f"cannot nest '{name}' ({what}): {reason}")


def refuse_kind(name: str, kind: str) -> UnsupportedModuleError:
    for reason, kinds in KINDS_OF_REFUSAL.items():
        if kind in kinds:
            return refuse(name, kind, REASONS[reason])
    return refuse(
        name, kind,
        "it is not known to keep the channels apart; express it with convolutions, batch norm, activations, additions and pooling",
    )  # fmt: skip
