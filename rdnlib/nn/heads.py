"""The heads of an RDN: one align layer a group, and a classifier that all sub-networks share.

The align layers bring the features of the first i groups to the width that the super-net's classifier expects, and each sub-network
adds its product to those before: N_{i+1} reuses what N_i has computed. Without a tail between them both are linear, and for
inference they are folded into one map a group: logits_i = W Σ_{j≤i} A_j x_j + b = Σ_{j≤i} (W A_j) x_j + b.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.graph.ir import Call
from rdnlib.nn.groups import Space

TOP = 5  # log-probabilities of each sub-network that a policy may read


class NestedAlign(nn.Module):
    """The align layers: z_i = Σ_{j≤i} A_j x_j, and the tail between them and the classifier.

    `align[j−1]` has shape (D, C_j). Going from N_i to N_{i+1} adds one product. x_j and z_i may have positions (H, W): then the
    align layers are 1×1 convolutions, which is how the super-net's own last convolution becomes one. A bias is N_1's.
    """

    def __init__(self, *, space: Space, aligned: int, bias: bool = False, tail: "Tail | None" = None):
        super().__init__()
        self.space = space
        self.align = nn.ParameterList(nn.Parameter(torch.zeros(aligned, size)) for size in space.sizes)
        self.bias = nn.Parameter(torch.zeros(aligned)) if bias else None
        self.tail = tail

    def forward(self, x: Tensor, first: int, last: int, aligned: Tensor | None = None) -> Tensor:
        """Features of groups first…last (B, ΣC[, H, W]) and z_{first−1} → z_first…z_last as (B, last−first+1, D[, H, W])."""
        groups = x.split(list(self.space.sizes[first - 1 : last]), dim=1)
        z, sums = aligned, []
        for x_j, A_j in zip(groups, self.align[first - 1 : last], strict=True):
            z = self._product(x_j, A_j, self.bias) if z is None else z + self._product(x_j, A_j)
            sums.append(z)
        return torch.stack(sums, dim=1)

    @staticmethod
    def _product(x: Tensor, align: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, align, bias) if x.ndim == 2 else F.conv2d(x, align[:, :, None, None], bias)

    def finish(self, z: Tensor, first: int) -> Tensor:
        """z_first, z_first+1, … as (B, n, D[, H, W]) → what the classifier reads, (B, n, features)."""
        return z if self.tail is None else self.tail(z, first)

    def head(self, upto: int, classifier: nn.Linear) -> "NestedHeads":
        """The head of N_upto alone: a copy of its align layers and of a classifier."""
        tail, bias = None if self.tail is None else self.tail.restrict(upto), self.bias is not None
        space, aligned = self.space.restrict(upto), len(self.align[0])
        head = NestedHeads(classifier, space=space, aligned=aligned, bias=bias, tail=tail)
        head.load_state_dict(self.state_dict(), strict=False)  # later groups and their batch norms have no place in it
        return head

    @torch.no_grad()
    def fold(self, classifier: nn.Module) -> "NestedAlign":
        """The same logits from one linear map a group, W A_j (classes, C_j), and bias W a + b: heads whose z_i are the logits.

        These align layers themselves where something stands between them and the classifier, or where there are so many more
        classes than aligned features that one map would cost N_K more than the two do.
        """
        if self.tail is not None or not isinstance(classifier, nn.Linear):
            return self
        aligned, classes, channels = classifier.in_features, classifier.out_features, sum(self.space.sizes)
        if channels * classes > channels * aligned + aligned * classes:
            return self
        folded = NestedHeads(nn.Identity(), space=self.space, aligned=classes, bias=True).to(classifier.weight)
        for product, align in zip(folded.align, self.align, strict=True):
            product.copy_(classifier.weight @ align)
        bias = 0 if self.bias is None else classifier.weight @ self.bias
        folded.bias.copy_(bias if classifier.bias is None else bias + classifier.bias)
        return folded.train(self.training)

    def owners(self) -> dict[str, Tensor]:
        """For each parameter that belongs to a group, the group (from 1) that owns each of its rows."""
        owners = {f"align.{j}": torch.full((len(align),), j + 1) for j, align in enumerate(self.align)}
        return owners if self.bias is None else {**owners, "bias": torch.ones(len(self.bias), dtype=torch.long)}


class NestedHeads(NestedAlign):
    """Align layers, and the classifier that all sub-networks share: logits_i = classifier(tail(z_i))."""

    def __init__(self, classifier: nn.Module, *, space: Space, aligned: int | None = None, **settings):
        super().__init__(space=space, aligned=classifier.in_features if aligned is None else aligned, **settings)
        self.classifier = deepcopy(classifier)

    def logits(self, z: Tensor, first: int) -> Tensor:
        """z_first, z_first+1, … as (B, n, D[, H, W]) → (B, n, classes)."""
        return self.classifier(self.finish(z, first))


class PrivateBatchNorm(nn.ModuleList):
    """One batch norm for each sub-network: behind the align layers every sub-network has features of its own."""

    def forward(self, z: Tensor, first: int) -> Tensor:
        """z_first, z_first+1, … as (B, n, D, …) → the same shape."""
        return torch.stack([self[first - 1 + i](z[:, i]) for i in range(z.shape[1])], dim=1)

    def owners(self) -> dict[str, Tensor]:
        """For each parameter and statistic, the sub-network (from 1) that owns it."""
        tensors = {name: tensor for name, tensor in self.state_dict().items() if tensor.ndim}  # names are "index.…"
        return {name: torch.full(tensor.shape, int(name.split(".")[0]) + 1) for name, tensor in tensors.items()}


class Tail(nn.ModuleDict):
    """What the super-net has between its align layer and its classifier: shared by all sub-networks, but for batch norm."""

    def forward(self, z: Tensor, first: int) -> Tensor:
        """z_first, z_first+1, … as (B, n, D, …) → (B, n, features of the classifier)."""
        for layer in self.values():
            if isinstance(layer, PrivateBatchNorm):
                z = layer(z, first)
            else:
                z = layer(z.flatten(0, 1)).unflatten(0, (-1, z.shape[1]))  # (B · n, D, …) and back; any B when exported
        return z

    def first_norms(self) -> PrivateBatchNorm | None:
        """The batch norms that read z directly, if any."""
        first = next(iter(self.values()), None)
        return first if isinstance(first, PrivateBatchNorm) else None

    def restrict(self, upto: int) -> "Tail":
        """The tail of N_upto alone: of the private batch norms only its own."""
        own = {n: layer[upto - 1] if isinstance(layer, PrivateBatchNorm) else layer for n, layer in self.items()}
        return Tail(deepcopy(own))


class Function(nn.Module):
    """A traced function as a layer of a `Tail`."""

    def __init__(self, call: Call):
        super().__init__()
        self.call = call

    def forward(self, z: Tensor) -> Tensor:
        return self.call(z)


def evidence(logits: Tensor) -> Tensor:
    """The five largest log-probabilities (fewer if there are fewer classes), descending: (…, classes) → (…, ≤ 5).

    Sorted, so that a policy sees how sure a network is, and need not learn it for every class anew.
    """
    return logits.log_softmax(dim=-1).topk(min(TOP, logits.shape[-1]), dim=-1).values
