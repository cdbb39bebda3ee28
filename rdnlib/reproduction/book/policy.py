"""Pictures of policies: the network (Figure 7), how far it can be trusted, and where λ lets the images leave."""

from collections.abc import Mapping
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from rdnlib.errors import ConfigError
from rdnlib.policy.network import PolicyNetwork
from rdnlib.reproduction.book.figures import curves, name_subnetworks
from rdnlib.reproduction.book.style import BLUE, DOTTED, GREY, INK, VERMILLION, legend_below, owner_colour, styled

MOST_UNITS = 9  # drawn of one layer; more are hinted at by dots


@styled
def policy_network(policy: PolicyNetwork) -> Figure:
    """A policy network (Figure 7): N_1's features on the left, one probability for each sub-network on the right."""
    sizes = [policy.config()["in_features"], *policy.config()["hidden"], policy.config()["num_subnetworks"]]
    figure, ax = plt.subplots(figsize=(5.6, 3.2))
    places = [_unit_places(size) for size in sizes]
    for column, (left, right) in enumerate(pairwise(places)):
        for ends in product(left, right):
            ax.plot([column, column + 1], ends, color=GREY, linewidth=0.3, zorder=1)
    last = len(sizes) - 1
    for column, (size, place) in enumerate(zip(sizes, places, strict=True)):
        colours = [owner_colour(v) for v in range(1, size + 1)] if column == last else GREY
        ax.scatter([column] * len(place), place, s=70, c=colours, edgecolors=INK, linewidths=0.6, zorder=2)
        if len(place) < size:
            ax.text(column, 0, "⋮", ha="center", va="center", zorder=3)
        role = "features of $N_1$" if column == 0 else "probabilities" if column == last else "hidden, ReLU"
        ax.text(column, -1.22, f"{size} {role}", ha="center", va="top")
    for v, y in enumerate(places[-1], start=1):
        ax.text(last + 0.08, y, f"$p_{{{v}}}$: is $N_{{{v}}}$ right?", ha="left", va="center")
    ax.set(xlim=(-0.5, last + 0.75), ylim=(-1.45, 1.1))
    ax.axis("off")
    return figure


@styled
def who_is_right(correct: np.ndarray) -> Figure:
    """A row for each sub-network, a column for each image, coloured where it is right; correct: (N, K) bool.

    The images are sorted: further right those that more sub-networks get right.
    """
    correct = correct[np.lexsort([*correct.T, correct.sum(axis=1)])]
    count, k = correct.shape
    pixels = np.empty((k, count, 4))  # RGBA
    pixels[..., :3] = np.array([to_rgb(owner_colour(v)) for v in range(1, k + 1)])[:, None]
    pixels[..., 3] = correct.T
    figure, ax = plt.subplots(figsize=(5.6, 2.6))
    ax.imshow(pixels, aspect="auto", interpolation="none", extent=(0, count, k + 0.5, 0.5))
    name_subnetworks(ax.yaxis, k)
    ax.set(xlabel="images, sorted by how many sub-networks are right")
    ax.grid(False)
    return figure


def _unit_places(size: int) -> np.ndarray:
    """Heights of a layer's units, from the top; of a large layer the first and last few, with a gap for the dots."""
    places = np.linspace(1, -1, max(2, min(size, MOST_UNITS)))[: max(1, size)]
    return places if size <= MOST_UNITS else np.delete(places, MOST_UNITS // 2)


def reliability(ax: Axes, points: Mapping[str, tuple], **style) -> None:
    """How often answers are right (y, perhaps with low and high) against the probability given for it (x); see `curves`."""
    curves(ax, points, **style)
    ax.plot([0, 1], [0, 1], label="calibrated", **DOTTED)
    ax.set(xlabel="probability that the policy gives", ylabel="share that was right")


def value_lines(ax: Axes, p: np.ndarray, saved: np.ndarray, *, up_to: float) -> None:
    """What leaving at each sub-network is worth for one image, (r_v + λ) p_v, for λ from 0 to `up_to`, and the envelope.

    The same multiple of λ is subtracted from all lines, so that the envelope begins and ends at the same height. p, saved: (K,).
    """
    lam = np.linspace(0, up_to, 300)[:, None]
    value = (saved + lam) * p  # (λ, K)
    best = value.max(axis=1)
    value -= lam * (best[-1] - best[0]) / up_to
    envelope = value.max(axis=1)
    for v in range(1, len(p) + 1):
        ax.plot(lam, value[:, v - 1], linewidth=1.5, color=owner_colour(v), label=f"$N_{{{v}}}$")
    ax.plot(lam, envelope, linewidth=5, color=INK, alpha=0.3, label="envelope")
    low, high = envelope.min(), envelope.max() + 1e-3
    margin = 1.2 * (high - low)
    ax.set(xlim=(0, up_to), ylim=(low - margin, high + margin), ylabel="value − multiple of λ")


@styled
def accuracy_and_exits(curve: pd.DataFrame, *, largest: float) -> Figure:
    """Accuracy of every policy of a `sweep`, and where the images leave, against λ; `largest`: the accuracy of N_K."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.6, 5.2), sharex=True)
    lam, shares = curve["lam"].clip(lower=curve["lam"][1]), 100 * curve.filter(like="exit_")  # 0 has no logarithm
    top.step(lam, 100 * curve["accuracy"], where="post", color=VERMILLION)
    top.axhline(100 * largest, **DOTTED)
    top.set(ylabel="top-1 accuracy (%)")
    exits = range(1, shares.shape[1] + 1)
    names, colours = [f"$N_{{{v}}}$" for v in exits], [owner_colour(v) for v in exits]
    bottom.stackplot(lam, shares.T, colors=colours, labels=names, step="post")
    bottom.set(ylabel="images leaving (%)", ylim=(0, 100), xscale="log", xlabel="λ", xlim=(lam.min(), lam.max()))
    bottom.grid(False)
    legend_below(figure, ncols=4)
    return figure


@styled
def promises(trials: Mapping[str, pd.DataFrame]) -> Figure:
    """How far the accuracy lies from the target in each split, with the guarantee and without; `trials`: as of `coverage`."""
    figure, axes = plt.subplots(len(trials), 1, figsize=(5.6, 2.5 * len(trials)), sharex=True, squeeze=False)
    beyond = {name: 100 * (trial["test"] - trial["target"]).dropna() for name, trial in trials.items()}
    every = pd.concat(beyond.values())
    bins = np.arange(np.floor(every.min()), np.ceil(every.max()) + 1, 0.5) if len(every) else 1
    for ax, (name, trial) in zip(axes.flat, trials.items(), strict=True):
        for rule, colour, label in (("measured", VERMILLION, "λ*"), ("guaranteed", BLUE, "guaranteed λ")):
            ax.hist(beyond[name][trial["rule"] == rule], bins=bins, color=colour, alpha=0.6, label=label)
        ax.axvline(0, **DOTTED)
        ax.set(ylabel="splits", title=f"target: {name}")
    ax.set(xlabel="accuracy on other images minus target (points)")
    axes[0, 0].legend(loc="upper right")
    return figure


@styled
def exit_difficulty(difficulty: np.ndarray, exits: np.ndarray, *, count: int) -> Figure:
    """Mean difficulty of the images that leave at each exit, with its 95 % interval and their share of all images.

    difficulty: (N,) known, of each image, in [0, 1]. exits: (N,) the sub-network, 1…count, that it left at. count: K.
    """
    difficulty, exits = np.asarray(difficulty, float), np.asarray(exits, int)
    if difficulty.shape != exits.shape or np.isnan(difficulty).any():
        raise ConfigError("exit_difficulty needs one known difficulty and one exit per image")
    groups = pd.Series(difficulty).groupby(exits)
    n, mean = groups.size(), groups.mean()
    error = 1.96 * groups.std(ddof=0) / np.sqrt(np.maximum(n - 1, 1))  # normal approximation
    figure, ax = plt.subplots()
    for exit_, middle in mean.items():
        ax.errorbar(exit_, middle, error[exit_], color=owner_colour(exit_), marker="o")
    for exit_, top in (mean + error).items():
        text = f"{100 * n[exit_] / n.sum():.0f} %"
        ax.annotate(text, (exit_, top), xytext=(0, 5), textcoords="offset points", ha="center")
    ax.axhline(difficulty.mean(), label="mean over all images", **DOTTED)
    name_subnetworks(ax.xaxis, count)
    ax.set(xlim=(0.5, count + 0.5), xlabel="exit taken (above: share of the images)")
    ax.set_ylabel("mean difficulty (0 easy – 1 hard)")
    ax.margins(y=0.15)
    ax.legend(loc="best")
    return figure
