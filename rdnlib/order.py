"""The nesting order: which of the sub-networks on a width × depth grid to visit, and in which order (Section 3.3, Figure 6).

A node (i, j) contains every node (i' ≤ i, j' ≤ j). An order is a chain from the smallest node to the largest, each node containing the
one before; it may skip nodes. Its worth is the area under its accuracy–MAdds curve.
"""

import numpy as np
import pandas as pd

from rdnlib.errors import DataError

COLUMNS = ["width", "depth", "madds", "accuracy"]
TIE = 1e-12  # of the largest area possible: areas that differ by less are equal but for rounding

Node = tuple[int, int]


def best_order(grid: pd.DataFrame) -> tuple[list[Node], float]:
    """The chain of nodes with the largest area under the accuracy–MAdds curve: ([(width, depth), …], area).

    grid: [width, depth, madds, accuracy], one row for each node of a complete grid; `madds` is what everything the node
    needs costs. Accuracies may rise and fall; MAdds may not fall along width or depth.

    The area is that of the trapezoids below the line through the chain's nodes, ∫ accuracy d MAdds, in units of the two columns:
    as under an ROC curve, every point of the line is had on average, by stopping at one end for a share of the images. So a
    node below the line is better skipped, and the best chain would be the upper convex hull if any two nodes could follow
    each other. All chains lead from the smallest node to the largest, and so are compared over the same range of MAdds.
    Of chains with equal areas the first whose next node is the cheaper is taken (of equal costs, the narrower).

    Exact, by dynamic programming from the largest node backwards over all pairs of nested nodes: O(nodes²). Raises DataError,
    naming the node, for values that are not finite, missing or duplicate nodes, or MAdds that fall along the grid.
    """
    widths, depths, madds, accuracy = _arrays(grid)
    places, area = best_chain(madds, accuracy)
    return [(widths[i], depths[j]) for i, j in places], area


def best_chain(madds: np.ndarray, accuracy: np.ndarray) -> tuple[list[tuple[int, int]], float]:
    """`best_order` of arrays (widths, depths): the places of the chain, and its area."""
    shape = madds.shape
    value, follower = np.zeros(shape), {}
    tie = TIE * (madds[-1, -1] - madds[0, 0]) * max(np.abs(accuracy).max(), TIE)
    for i, j in reversed(list(np.ndindex(shape))[:-1]):
        later = np.s_[i:, j:]
        area = (madds[later] - madds[i, j]) * (accuracy[later] + accuracy[i, j]) / 2 + value[later]
        area[0, 0] = -np.inf  # itself
        equal = np.flatnonzero(area >= area.max() - tie)
        chosen = equal[np.argmin(madds[later].flat[equal])]
        down, right = divmod(int(chosen), area.shape[1])
        value[i, j], follower[i, j] = area[down, right], (i + down, j + right)
    places = [(0, 0)]
    while places[-1] in follower:
        places.append(follower[places[-1]])
    return places, float(value[0, 0])


def order_table(grid: pd.DataFrame) -> pd.DataFrame:
    """What `best_order` makes of each node: `grid` sorted by MAdds, with [place, hull].

    place: from 1 along the order, 0 for a node that it skips. hull: whether the node is a corner of the upper convex hull of all
    nodes between the smallest and the largest, which no chain can exceed.
    """
    path, _ = best_order(grid)
    table = grid.sort_values(["madds", "accuracy"], ascending=[True, False], ignore_index=True)
    place = {node: number for number, node in enumerate(path, start=1)}
    nodes = list(zip(table["width"], table["depth"], strict=True))
    ends = table["madds"].iloc[[nodes.index(path[0]), nodes.index(path[-1])]]
    inside = table[table["madds"].between(*ends)]
    corners = inside.index[convex_hull(inside["madds"].to_numpy(), inside["accuracy"].to_numpy())]
    return table.assign(place=[place.get(node, 0) for node in nodes], hull=table.index.isin(corners))


def convex_hull(madds: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Which points (N,) are corners of the upper convex hull, from the cheapest to the dearest: their indices, ascending MAdds."""
    corners: list[int] = []
    for index in np.lexsort((-accuracy, madds)):
        if corners and madds[index] == madds[corners[-1]]:
            continue  # not above the one before
        while len(corners) > 1 and _above(madds, accuracy, *corners[-2:], index) <= 0:
            corners.pop()
        corners.append(int(index))
    return np.array(corners)


def _above(x: np.ndarray, y: np.ndarray, a: int, b: int, c: int) -> float:
    """Positive where point b lies above the line from a to c."""
    return (y[b] - y[a]) * (x[c] - x[a]) - (y[c] - y[a]) * (x[b] - x[a])


def _arrays(grid: pd.DataFrame) -> tuple[list, list, np.ndarray, np.ndarray]:
    """Widths, depths (ascending), and MAdds and accuracy as (widths, depths), checked."""
    if missing := [column for column in COLUMNS if column not in grid]:
        raise DataError(
            f"a grid of sub-networks needs the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing"
        )
    if grid.empty:
        raise DataError("the grid of sub-networks is empty")
    grid = grid[COLUMNS].reset_index(drop=True)
    finite = np.isfinite(grid.astype(np.float64))
    if not finite.to_numpy().all():
        row = finite.all(axis=1).idxmin()
        wrong = finite.columns[~finite.loc[row]][0]
        raise DataError(f"the {wrong} of node {_name(grid, row)} is {grid[wrong][row]}: measure it again")
    twice = grid.duplicated(["width", "depth"])
    if twice.any():
        raise DataError(f"node {_name(grid, twice.idxmax())} is there more than once")
    widths, row = np.unique(grid["width"], return_inverse=True)
    depths, column = np.unique(grid["depth"], return_inverse=True)
    madds, accuracy = np.full((2, len(widths), len(depths)), np.nan)
    madds[row, column], accuracy[row, column] = grid["madds"], grid["accuracy"]
    widths, depths = widths.tolist(), depths.tolist()
    if np.isnan(madds).any():
        i, j = np.argwhere(np.isnan(madds))[0]
        raise DataError(f"node (width {widths[i]}, depth {depths[j]}) is missing from the grid")
    for axis in (0, 1):
        falling = np.argwhere(np.diff(madds, axis=axis) < 0)
        if len(falling):
            i, j = falling[0]
            larger = (i + 1, j) if axis == 0 else (i, j + 1)
            names = [f"(width {widths[p]}, depth {depths[q]})" for p, q in (larger, (i, j))]
            raise DataError(
                f"no monotone path: node {names[0]} costs {madds[larger]:g} MAdds, less than node {names[1]}, which it "
                f"contains and which costs {madds[i, j]:g}"
            )
    return widths, depths, madds, accuracy


def _name(grid: pd.DataFrame, row: int) -> str:
    return f"(width {grid['width'][row]}, depth {grid['depth'][row]})"
