"""Real exits in any runtime: N_1 with its policy as one graph, and for each larger sub-network one graph that adds what it lacks.

The paper's policy decides once, after N_1 (Section 3.4). So an image needs at most two graphs: `First`, and `Increment` to the
sub-network that was chosen, which reads what `First` has computed. Both are plain modules of tensors: they can be compiled, or exported
and executed by another program. `Exits` runs a batch with them: the images that chose the same sub-network go on together.
"""

import math
from collections.abc import Sequence
from copy import copy, deepcopy

import torch
from torch import Tensor, nn

from rdnlib.deployment.runtimes import prepare
from rdnlib.deployment.tune import fastest_form, forms, least_seconds
from rdnlib.errors import ConfigError
from rdnlib.nn.heads import evidence
from rdnlib.nn.rdn import RDN
from rdnlib.policy.network import PolicyNetwork

INFINITE = 1e30  # stands for λ = ∞ in single precision: (r + λ) p then orders as p does


class First(nn.Module):
    """N_1, the policy and its decision: images (B, 3, H, W) and λ (1,) → logits (B, classes), exits (B,) in 1…K, and the state.

    The state is z_1 and the inputs of N_1's nested convolutions, in the order of `state_names`; `Increment` reads it.
    """

    def __init__(self, rdn: RDN, policy: PolicyNetwork, saved: Sequence[float]):
        """rdn: as `deploy` gives it. saved: (K,) saved fractions r_v. Raises ConfigError for depth-wise nesting."""
        super().__init__()
        self.trunk, self.heads = _parts(rdn, 1)
        self.policy = deepcopy(policy)
        self.register_buffer("saved", torch.as_tensor(saved, dtype=torch.float32))

    @property
    def state_names(self) -> list[str]:
        return ["aligned", *(step.name for step in self.trunk.steps if _reads_again(self.trunk, step))]

    def forward(self, images: Tensor, lam: Tensor) -> tuple[Tensor, ...]:
        seen: dict[str, Tensor] = {}
        features = self.trunk(images, 1, 1, seen)
        z = self.heads(features, 1, 1)[:, -1]
        logits = answer(self.heads, z)
        read = features.mean(dim=(2, 3)) if features.ndim == 4 else features
        read = torch.cat([read, evidence(logits)], dim=1) if self.policy.from_logits else read
        exits = ((self.saved + lam) * self.policy(read)).argmax(dim=1) + 1
        return logits, exits, z, *(seen[name] for name in self.state_names[1:])


class Increment(nn.Module):
    """From N_1's state to N_index: groups 2…index in one pass, (z_1, inputs of N_1's nested convolutions …) → logits (B, classes)."""

    def __init__(self, rdn: RDN, index: int):
        super().__init__()
        self.trunk, self.heads = _parts(rdn, index)
        self.index = index
        self.names = [step.name for step in self.trunk.steps if _reads_again(self.trunk, step)]
        for step in self.trunk.steps:  # N_1 has run them
            if step.name in self.trunk.layers and self.trunk.spaces[step.name].plain:
                del self.trunk.layers[step.name]

    def forward(self, z: Tensor, *seen: Tensor) -> Tensor:
        new = self.trunk(None, 2, self.index, dict(zip(self.names, seen, strict=True)))
        z = self.heads(new, 2, self.index, z)[:, -1]
        return answer(self.heads, z)


class Exits:
    """f_λ with real exits: images (B, 3, H, W) → logits (B, classes) and exits (B,) in 1…K, in the order of the images.

    `First` runs on the batch; then, for each sub-network that some images chose, these images go on together: by its `Increment`,
    or by the whole of N_i from the pixels where that was measured to be faster (`ways`).
    """

    def __init__(
        self, rdn: RDN, policy: PolicyNetwork, saved: Sequence[float], lam: float, images: Tensor, *,
        runtime: str = "eager", threads: int = 1,
    ):  # fmt: skip
        """rdn: as `deploy` gives it. images: a batch of the size that is to come, on which the two ways are timed."""
        self.lam = _as_tensor(lam)
        first = First(rdn, policy, saved)
        self.first = prepare(first, (images, self.lam), runtime, threads=threads)
        part = _part(images)
        with torch.inference_mode():
            _, _, *state = first(part, self.lam)
            self._increments, self._wholes = {}, {}
            for index in range(2, rdn.num_subnetworks + 1):
                self._increments[index] = prepare(Increment(rdn, index), state, runtime, threads=threads)
                self._wholes[index] = forms(rdn.subnetwork(index), part, runtime, threads=threads)
        self.choose_ways(images)

    @torch.inference_mode()
    def choose_ways(self, images: Tensor) -> None:
        """Time the two ways again, on a batch of another size; "eager" and "compile" want to be made for that size."""
        part = _part(images)
        _, _, *state = self.first(part, self.lam)
        self.ways, self._go_on = {}, {}
        for index, increment in self._increments.items():
            whole = fastest_form(self._wholes[index], part)
            faster = least_seconds(increment, state) < least_seconds(whole, [part])
            self.ways[index], self._go_on[index] = ("increment", increment) if faster else ("whole", whole)

    def at(self, lam: float) -> "Exits":
        """The same networks with another λ."""
        other = copy(self)
        other.lam = _as_tensor(lam)
        return other

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, exits, *state = self.first(images, self.lam)
        chosen = exits.unique().tolist()  # at most K, however many images; the one time that a GPU is waited for
        if chosen == [1]:
            return logits, exits
        logits = logits.clone()
        for index in chosen:
            if index > 1:
                rows = slice(None) if len(chosen) == 1 else exits == index
                given = [each[rows] for each in (state if self.ways[index] == "increment" else [images])]
                logits[rows] = self._go_on[index](*given)
        return logits, exits


def _part(images: Tensor) -> Tensor:
    """So many of a batch's images as are taken to choose the same sub-network."""
    return images[: max(1, len(images) // 4)]


def _as_tensor(lam: float) -> Tensor:
    return torch.tensor([lam if math.isfinite(lam) else INFINITE], dtype=torch.float32)


def answer(heads: nn.Module, z: Tensor) -> Tensor:
    """z_i (B, D[, H, W]) → logits (B, classes), by the heads of N_i alone; without an axis over sub-networks, whose reshaping would fix
    the batch size of an exported graph."""
    for layer in () if heads.tail is None else heads.tail.values():
        z = layer(z)
    return heads.classifier(z)


def _parts(rdn: RDN, index: int) -> tuple[nn.Module, nn.Module]:
    """Trunk and heads of groups 1…index, on their own."""
    if set(dict(rdn.named_children())) != {"trunk", "heads"}:
        raise ConfigError("stages are of RDNs that are nested in width only; use DynamicRDN for depth-wise nesting")
    alone = rdn.subnetwork(index)
    return alone.trunk, alone.heads


def _reads_again(trunk: nn.Module, step) -> bool:
    return getattr(trunk.layer(step), "reads_earlier_groups", False)
