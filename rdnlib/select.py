"""Which channels go into which group: one permutation per channel space (Algorithm 1 of the paper).

Greedy select fills group 1, 2, …, k−1 in turn, each time with the untaken output channels whose contribution from the input
channels outside the first g groups is smallest: those lose least when the violating connections are cut. The printed line 3
of Algorithm 1 resets the candidates to all channels in every round; read here as "those not yet taken".
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdnlib.errors import ConfigError
from rdnlib.spaces import Space, Step, Trace, is_depthwise, last_uses, split_channels

STRATEGIES = ("greedy", "greedy-relative", "random", "identity")


def select(
    strategy: str, traced: Trace, spaces: dict[int, Space], *, k: int, calibration: Tensor | None, seed: int
) -> dict[int, Tensor]:
    """Choose the channel order of every space: space identifier → permutation (C,) whose parts are groups 1…k.

    strategy: "greedy" (Algorithm 1: mean |Σ_violating W X|), "greedy-relative" (the same, divided by the channel's own
    standard deviation, so that group 1 is not filled with weak channels), "random" (seeded) or "identity".
    calibration: images (B, 3, H, W); needed by the greedy strategies. Raises ConfigError otherwise.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown select strategy '{strategy}': choose from {', '.join(STRATEGIES)}")
    generator = torch.Generator().manual_seed(seed)
    permutations = {identifier: torch.arange(space.channels) for identifier, space in spaces.items()}
    nested = [identifier for identifier, space in spaces.items() if not space.plain]
    if strategy == "random":
        for identifier in nested:
            permutations[identifier] = torch.randperm(spaces[identifier].channels, generator=generator)
    elif strategy.startswith("greedy"):
        if calibration is None:
            raise ConfigError(f"select='{strategy}' needs calibration images: pass calibration=(B, 3, H, W) tensor")
        producers = capture_producers(traced, spaces, calibration)
        _greedy(permutations, producers, traced, spaces, k=k, relative=strategy == "greedy-relative")
    return permutations


@torch.no_grad()
def capture_producers(traced: Trace, spaces: dict[int, Space], calibration: Tensor) -> list[tuple[Step, Tensor]]:
    """One pass of the super-net: (step, input activations) of every convolution that writes a nested space."""
    captured: list[tuple[Step, Tensor]] = []
    for step, inputs in run(traced, calibration):
        writes_nested = not spaces[traced.space_of[step.name]].plain
        if isinstance(step.module, nn.Conv2d) and not is_depthwise(step.module) and writes_nested:
            captured.append((step, inputs[0]))
    return captured


@torch.no_grad()
def run(traced: Trace, images: Tensor) -> Iterator[tuple[Step, list[Tensor]]]:
    """Execute the super-net step by step in eval mode, yielding (step, inputs); values are freed after their last use."""
    values, dead_after = {traced.image: images}, last_uses(traced.steps)
    for step in traced.steps:
        inputs = [values[name] for name in step.inputs]
        values[step.name] = step.apply(*inputs)
        yield step, inputs
        for name in dead_after.get(step.name, ()):
            del values[name]


def violation_scores(conv: nn.Conv2d, x: Tensor, permutation: Tensor, *, k: int, relative: bool) -> Tensor:
    """(k−1, C_out): row g−1 is each output channel's mean |contribution| from the input channels outside groups 1…g.

    The contributions of the k input groups are computed once each and added up from the last group backwards.
    """
    groups = permutation.split(list(split_channels(len(permutation), k)))
    outside = torch.zeros(())
    scores = []
    for channels in reversed(groups):
        outside = outside + F.conv2d(
            x[:, channels], conv.weight[:, channels], None, conv.stride, conv.padding, conv.dilation
        )
        scores.append(outside.abs().mean(dim=(0, 2, 3)))
    # After the loop `outside` is the whole output; its own score (nothing inside) is not one of the k−1 rounds.
    rounds = torch.stack(scores[-2::-1])
    return rounds / outside.std(dim=(0, 2, 3)).clamp_min(1e-12) if relative else rounds


def greedy_permutation(scores: Tensor, *, k: int) -> Tensor:
    """Fill groups 1…k−1 with the untaken channels of the smallest score in that round; the rest are group k."""
    channels = scores.shape[1]
    sizes = split_channels(channels, k)
    taken = torch.zeros(channels, dtype=torch.bool)
    order = []
    for score, size in zip(scores, sizes, strict=False):
        chosen = score.masked_fill(taken, torch.inf).argsort(stable=True)[:size]
        taken[chosen] = True
        order.append(chosen)
    return torch.cat([*order, torch.nonzero(~taken).flatten()])


def _greedy(
    permutations: dict[int, Tensor],
    producers: list[tuple[Step, Tensor]],
    traced: Trace,
    spaces: dict[int, Space],
    *,
    k: int,
    relative: bool,
) -> None:
    """Two sweeps over the spaces, in place.

    A space with several producers (a residual stage) adds their scores. Through the residual, a later producer's input order
    depends on the very space it writes: so the first sweep uses the first producer alone, the second all of them.
    """
    by_space: dict[int, list[tuple[Step, Tensor]]] = {}
    for step, x in producers:
        by_space.setdefault(traced.space_of[step.name], []).append((step, x))

    def score(step: Step, x: Tensor) -> Tensor:
        order = permutations[traced.space_of[step.inputs[0]]]
        return violation_scores(step.module, x, order, k=k, relative=relative)

    shared = any(len(writers) > 1 for writers in by_space.values())
    for sweep in range(1 + shared):
        for identifier, writers in by_space.items():
            used = writers[:1] if shared and sweep == 0 else writers
            permutations[identifier] = greedy_permutation(sum(score(step, x) for step, x in used), k=k)
