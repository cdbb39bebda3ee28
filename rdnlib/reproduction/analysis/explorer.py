"""The numbers behind the λ explorer: every method of Figure 8 at many settings, chosen on the calibration split, judged on the validation split.

A reader moves one of three handles: a policy's own parameter, a target accuracy, or a budget of MAdds. At every position of a
handle each method has one member, found exactly: for a target the λ* (or the threshold, or the network) with the least cost that reaches it;
for a budget the most accurate that keeps it. The page only looks up what is stored here.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from rdnlib.calibration.families import ByExit, Family, OneForAll
from rdnlib.calibration.multiplier import ROUNDING
from rdnlib.errors import ConfigError, InfeasibleError
from rdnlib.reproduction.analysis.claims import printed

METHODS = {  # families as `outcomes.families` names them: what a reader calls it, and its parameter
    "dynamic": ("policy", "λ"),
    "sequential": ("sequential policy", "λ"),
    "confidence cascade": ("confidence cascade", "threshold"),
    "one sub-network": ("one sub-network", ""),
    "base networks": ("separate network", ""),
}
POSITIONS = 60  # of a handle, at most
PICTURES = 24
NONE = -1  # where no member of a method qualifies


class Curve:
    """A family of policies with one parameter, chosen on one split and judged on another."""

    def __init__(self, calibration: ByExit, validation: ByExit):
        self.calibration, self.validation = calibration, validation
        exact = calibration.exact()
        self.begins = exact.breakpoints()
        self.accuracy = exact.correct(self.begins) / exact.samples
        self.costs = exact.shares(self.begins) @ np.asarray(calibration.madds, np.float64)  # ascending

    def positions(self, most: int) -> list[float]:
        """Parameters of at most so many members, evenly spread over the costs; the first and the last are among them."""
        targets = np.linspace(self.costs[0], self.costs[-1], most)
        nearest = np.abs(self.costs[:, None] - targets).argmin(axis=0)
        return [self._inside(index) for index in np.unique([0, *nearest[1:-1], len(self.begins) - 1])]

    def within(self, budget: float) -> float | None:
        """The parameter of the most accurate member that costs no more, the cheapest of equals."""
        affordable = self.costs <= budget * (1 + ROUNDING)  # a beginning of the curve
        return self._inside(self.accuracy[affordable].argmax()) if affordable.any() else None

    def reaching(self, target: float) -> float | None:
        """The parameter of the cheapest member with that accuracy: λ*."""
        try:
            return self.calibration.reach(target)
        except InfeasibleError:
            return None

    def label(self, parameter: float) -> str:
        return "∞" if math.isinf(parameter) else f"{parameter:,.0f}" if parameter >= 100 else f"{parameter:.3g}"

    def judged(self, parameter: float) -> tuple:
        """Accuracy and MAdds on the calibration split, then (N,) right and spent on the validation split."""
        correct, madds = self.calibration.take(parameter)
        return correct.mean(), madds.mean(), *self.validation.take(parameter)

    def _inside(self, index: int) -> float:
        """A parameter between two breakpoints, so that rounding moves no image; ∞ after the last."""
        if index == 0:
            return 0.0
        return math.inf if index == len(self.begins) - 1 else float(self.begins[index : index + 2].mean())


class Points:
    """Networks that treat all images alike; a parameter is a network's number. Accuracies (M,), MAdds (M,) ascending."""

    def __init__(self, names: Sequence[str], accuracy, madds, correct: np.ndarray | None = None):
        self.names, self.accuracy, self.costs = list(names), np.asarray(accuracy), np.asarray(madds, np.float64)
        self.correct = correct  # (N, M) on the validation split, where it is known

    def within(self, budget: float) -> int | None:
        affordable = self.costs <= budget * (1 + ROUNDING)
        return int(np.where(affordable, self.accuracy, -1).argmax()) if affordable.any() else None

    def reaching(self, target: float) -> int | None:
        enough = self.accuracy >= target - ROUNDING
        return int(enough.argmax()) if enough.any() else None

    def label(self, parameter: int) -> str:
        return self.names[parameter]

    def judged(self, parameter: int) -> tuple:
        accuracy, madds = self.accuracy[parameter], self.costs[parameter]
        correct = np.array([accuracy]) if self.correct is None else self.correct[:, parameter]
        return accuracy, madds, correct, np.full(len(correct), madds)


def explore(
    calibration: Mapping[str, Family],
    validation: Mapping[str, Family],
    bases: Sequence[str],
    *,
    pictures: int = PICTURES,
) -> dict:
    """The explorer's numbers for one run, fit for JSON; see `_preset`. Accuracies in %, MAdds per image.

    calibration, validation: as of `outcomes.families`; bases: the names of the base networks in the order of their cost. Beside what
    `_preset` returns: `k`; `largest` (MAdds of N_K); `samples` (of each split); `pictures`: of images drawn at random from the validation
    split the `id`, `p` (K, in %) and `right` (K). The oracle, the last method, is no rival: it knows the answers.
    """
    paper, found = validation["dynamic"], {}
    n, k = paper.correct.shape
    for key in (name for name in METHODS if name in validation):
        own, test = calibration[key], validation[key]
        if isinstance(own, OneForAll):
            names = [_spoken(base) for base in bases] if key == "base networks" else [f"N{v}" for v in range(1, k + 1)]
            found[key] = Points(names, own.correct.mean(axis=0), own.madds, test.correct)
        else:
            found[key] = Curve(own, test)
    rows = np.sort(np.random.default_rng(0).permutation(n)[:pictures])
    alone = np.asarray(validation["one sub-network"].madds, np.float64)
    first = [split["dynamic"].correct for split in (calibration, validation)]
    oracle = [100 * float(right.any(axis=1).mean()) for right in first]
    spent = [float(alone[right.argmax(axis=1)].mean()) for right in first]
    exits = first[1].argmax(axis=1)
    preset = _preset(found, {key: METHODS[key] for key in found}, rows)
    preset["methods"].append(
        {"key": "oracle", "name": "oracle (knows the answers)", "parameter": "", "costs": alone.tolist()}
        | {"rows": [["", oracle[0], round(spent[0]), oracle[1], round(spent[1]), *_left(exits, k, rows)]]}
    )
    images = {"id": paper.ids[rows].tolist(), "p": (100 * paper.p[rows]).round().astype(int).tolist()}
    images["right"] = paper.correct[rows].astype(int).tolist()
    sizes = {"calibration": len(first[0]), "validation": n}
    return preset | {"k": k, "largest": float(alone[-1]), "samples": sizes, "pictures": images}


def _spoken(base: str) -> str:
    """An experiment of `graph.rivals` as the page names it: "N4 alone" for alone-4."""
    return re.sub(r"^alone-(\d+)$", r"N\1 alone", base)


def explore_paper() -> dict:
    """The same of the networks of the paper's Table 1, as printed: no λ, no images, no intervals."""
    table = printed(1).sort_values("madds_m", kind="stable")
    rdn, adapted = table["model"].str.startswith("RDN-"), table["model"].str.endswith("†")
    kinds = {"base networks": ~rdn, "one sub-network": rdn & ~adapted, "dynamic": adapted}
    names = {"base networks": "base network", "one sub-network": "largest sub-network", "dynamic": "dynamic inference"}
    found = {
        key: Points(table["model"][kind], table["top1"][kind] / 100, table["madds_m"][kind] * 1e6)
        for key, kind in kinds.items()
    }
    return _preset(found, {key: (names[key], "") for key in found}) | {"largest": None}


def _preset(found: Mapping[str, Curve | Points], names: Mapping[str, tuple[str, str]], pictures=()) -> dict:
    """`methods` and `handles`.

    A method: key, name, parameter, and of a curve its `costs` (K,), MAdds of each exit; its rows are its members: label of the
    parameter, accuracy and MAdds on the calibration split, accuracy and MAdds on the validation split, and of a curve the shares of
    the exits (K, in per mille) and the exits of the pictures (a digit each, base 36, from 0).

    handles: "target" (values: %) and "budget" (values: MAdds), and one under the key of each curve. `at`, per position: the row of
    each method, or NONE; `half`: half the 95 % interval of the difference in accuracy (points, paired by image) for every pair
    of methods, in the order of `combinations`, None where there is none.
    """
    if not found:
        raise ConfigError("the explorer needs at least one method")
    members = {key: {} for key in found}  # parameter → number of its row
    for key, method in found.items():
        members[key] |= {number: number for number in range(len(getattr(method, "names", ())))}

    def place(choose) -> list[int]:
        chosen = {key: choose(key) for key in found}
        return [
            NONE if parameter is None else members[key].setdefault(parameter, len(members[key]))
            for key, parameter in chosen.items()
        ]

    curves = [key for key, method in found.items() if isinstance(method, Curve)]
    least = min(method.costs.min() for method in found.values())
    most = max(method.costs.max() for method in found.values())
    accuracies = np.concatenate([method.accuracy for method in found.values()])
    targets, budgets = round_steps(100 * accuracies.min(), 100 * accuracies.max()), round_steps(least, most)
    handles = {"target": {"values": targets}, "budget": {"values": budgets}}
    handles["target"]["at"] = [place(lambda key, t=t / 100: found[key].reaching(t)) for t in targets]
    handles["budget"]["at"] = [place(lambda key, b=b: found[key].within(b)) for b in budgets]
    for own in curves:
        positions = found[own].positions(POSITIONS)
        budget = {parameter: found[own].judged(parameter)[1] for parameter in positions}
        handles[own] = {
            "at": [
                place(lambda key, p=p, own=own, budget=budget: p if key == own else found[key].within(budget[p]))
                for p in positions
            ]
        }
    methods, right = [], []
    for key, method in found.items():
        name, parameter = names[key]
        rows, own_right = [], []
        for value in members[key]:
            accuracy, cost, correct, madds = method.judged(value)
            row = [method.label(value), _percent(accuracy), round(cost), _percent(correct.mean()), round(madds.mean())]
            if key in curves:
                row += _left(method.validation.exits(value), len(method.validation.madds), pictures)
            rows.append(row)
            own_right.append(correct.astype(np.float32))
        methods.append({"key": key, "name": name, "parameter": parameter, "rows": rows})
        if key in curves:
            methods[-1]["costs"] = np.asarray(method.validation.madds, np.float64).tolist()
        right.append(own_right)
    for handle in handles.values():
        handle["half"] = [_halves(right, at) for at in handle["at"]]
    return {"methods": methods, "handles": handles}


def round_steps(low: float, high: float, most: int = POSITIONS) -> list[float]:
    """Ascending round numbers, from at most `low` to at least `high`, at most `most` of them and at least two."""
    span = max(high - low, 1e-3 * abs(high), 1e-9)
    power = 10.0 ** math.floor(math.log10(span / (most - 2)))
    step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= most - 2 - ROUNDING)
    first, last = math.floor(low / step + ROUNDING), math.ceil(high / step - ROUNDING)
    return [float(f"{step * number:.12g}") for number in range(first, max(last, first + 1) + 1)]


def _halves(right: list[list[np.ndarray]], at: list[int]) -> list[float | None]:
    chosen = [own[row] if row != NONE and len(own[row]) > 1 else None for own, row in zip(right, at, strict=True)]
    return [
        None if a is None or b is None else round(float(196 * (a - b).std() / math.sqrt(len(a))), 2)
        for a, b in combinations(chosen, 2)
    ]


def _left(exits: np.ndarray, count: int, pictures) -> list:
    """Shares of the exits in per mille, and the exits of the pictures."""
    shares = (1000 * np.bincount(exits, minlength=count) / len(exits)).round().astype(int)
    return [shares.tolist(), "".join(np.base_repr(v, 36).lower() for v in exits[list(pictures)])]


def _percent(share: float) -> float:
    return round(100 * float(share), 3)
