"""Reading a network: from any CNN, through `torch.fx`, to a list of steps."""

from rdnlib.graph.ir import Step, Trace, is_dense
from rdnlib.graph.tracing import trace

__all__ = ["Step", "Trace", "is_dense", "trace"]
