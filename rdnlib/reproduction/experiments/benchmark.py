"""What one training step costs: a base network, its RDN with all sub-networks, and slimmable training of as many widths.

All three in the same process, on one thread and the same batch, in turns, so that other load on the machine affects them alike.
Time is processor time, the median of several steps. Memory is the peak of what torch's CPU allocator hands out during one step,
by torch's profiler, beyond parameters and momentum; scratch memory inside of the kernels is not counted.
"""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rdnlib.calibration.multiplier import sweep
from rdnlib.models.slimmable import Slimmable
from rdnlib.reproduction.experiments.graph import widths
from rdnlib.surgery.nest import to_rdn
from rdnlib.training.loss import joint_loss
from rdnlib.utils.devices import cpu_threads, flushing_denormals


def training_step(network: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One step of SGD on a batch; a slimmable network goes back after each width, so that it holds one pass at a time."""
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True, fused=True)

    def step() -> None:
        if isinstance(network, Slimmable):
            for index in range(len(network.widths)):
                (joint_loss(network.at(images, index), labels) / len(network.widths)).backward()
        else:
            joint_loss(network(images), labels).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


@cpu_threads(1)
@flushing_denormals()
def compare(
    model: nn.Module, *, k: int, size: int, batch_size: int, plain: float | list[str] | None = None,
    slimmed: Sequence[float] = (), repeats: int = 5, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Time and memory of one training step on random images (batch_size, 3, size, size), on the CPU; k, plain: as in `to_rdn`.

    A slimmable network is trained at as many widths as the RDN has sub-networks and, if they are other ones, at those of `slimmed`.
    Columns: network ("base", "RDN", "slimmable, 7 widths", …), answers (how many are trained), seconds (median of `repeats`), ratio (median
    of the quotients to the base's step beside it), peak_mb (10⁶ bytes), peak_ratio.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    networks, answers = (
        {"base": deepcopy(model), "RDN": to_rdn(model, k, select="identity", plain=plain)},
        [1, 2 * k - 1],
    )
    for chosen in filter(None, {tuple(widths(k)): 1, tuple(slimmed): 1}):
        networks[f"slimmable, {len(chosen)} widths"] = Slimmable(model, chosen)
        answers.append(len(chosen))
    steps = {}
    for name, network in networks.items():
        network.cpu().to(memory_format=torch.channels_last).train().requires_grad_(True)
        with torch.no_grad():
            classes = network(images[:2]).shape[-1]
        labels = torch.randint(classes, (batch_size,), generator=generator)
        steps[name] = training_step(network, images, labels)
    for step in steps.values():
        step()  # the first is slower: it makes gradients, momentum and buffers
    seconds = pd.DataFrame([{name: _seconds(step) for name, step in steps.items()} for _ in range(repeats)])
    peaks = pd.Series({name: peak_memory(step) for name, step in steps.items()})
    columns = {"answers": answers, "seconds": seconds.median()}
    columns |= {"ratio": seconds.div(seconds["base"], axis=0).median(), "peak_mb": peaks / 1e6}
    columns |= {"peak_ratio": peaks / peaks["base"]}
    return pd.DataFrame(columns).rename_axis("network").reset_index()


@cpu_threads(1)
@flushing_denormals()
def compare_preparation(
    model: nn.Module, *, k: int, size: int, plain: float | list[str] | None = None, batch_size: int = 16,
    calibration_images: int = 512, samples: int = 10_000, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """What is done before inference, each beside what it is measured by, on random images, on one CPU thread.

    Rows: a joint training step and the base's; surgery (select and reconstruct) and one pass of the base over its calibration images;
    the sweep over all λ for so many samples and one pass of the base over as many images. Columns: what, reference, seconds, ratio (of
    seconds), memory_ratio (NaN where it is not measured).
    """
    generator = torch.Generator().manual_seed(seed)
    steps = compare(model, k=k, size=size, batch_size=batch_size, plain=plain, slimmed=(), repeats=3, seed=seed)
    joint = steps.set_index("network").loc["RDN"]
    rows = [("joint training step", "step of the base", joint["seconds"], joint["ratio"], joint["peak_ratio"])]
    model = deepcopy(model).cpu().eval().to(memory_format=torch.channels_last)
    images = torch.randn(calibration_images, 3, size, size, generator=generator)
    parts = images.contiguous(memory_format=torch.channels_last).split(128)
    with torch.inference_mode():
        model(parts[0])  # and warm
        forward = _seconds(lambda: [model(part) for part in parts])
    surgery = _seconds(
        lambda: to_rdn(model, k, select="greedy", init="reconstruct", calibration=list(parts), plain=plain, seed=seed)
    )
    rows.append(("surgery", f"one pass over its {calibration_images} images", surgery, surgery / forward, np.nan))
    random = np.random.default_rng(seed)
    p, saved = np.sort(random.random((samples, 2 * k - 1)), axis=1), np.linspace(0.6, 0, 2 * k - 1)
    swept = _seconds(lambda: sweep(p, random.random(p.shape) < p, saved))
    every = forward / calibration_images * samples
    rows.append((f"sweep over λ, {samples:,} images", "one pass over as many images", swept, swept / every, np.nan))
    return pd.DataFrame(rows, columns=["what", "reference", "seconds", "ratio", "memory_ratio"])


def peak_memory(step: Callable[[], None]) -> int:
    """The most bytes that torch's CPU allocator had handed out at once while `step` ran, beyond those before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # or it complains where there is no GPU
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*acc_events")  # would make a table of all events, for seconds
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
    events = profiler.profiler.kineto_results.events()
    sizes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return int(np.cumsum([0, *(size for _, size in sizes)]).max())


def _seconds(step: Callable[[], object]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started
