"""The nesting order against brute force: every chain from the smallest node to the largest, tried one by one."""

import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdnlib.errors import DataError
from rdnlib.order import best_chain, best_order, convex_hull, order_table


def make_grid(madds, accuracy) -> pd.DataFrame:
    """(W, D) arrays → rows in no particular order."""
    shape = np.shape(madds)
    i, j = np.indices(shape)
    columns = {"width": i.ravel() + 1, "depth": j.ravel(), "madds": np.ravel(madds), "accuracy": np.ravel(accuracy)}
    return pd.DataFrame(columns).sample(frac=1, random_state=0)


@st.composite
def arrays(draw, size=4):
    """Costs that grow along both axes, and accuracies: small whole numbers, so that there are ties and no rounding."""
    shape = draw(st.integers(1, size)), draw(st.integers(1, size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    madds = rng.integers(0, draw(st.integers(2, 6)), shape).cumsum(axis=0).cumsum(axis=1).astype(float)
    return madds, rng.integers(0, draw(st.integers(1, 12)), shape).astype(float)


@cache
def all_chains(shape, start=(0, 0)):
    """Every chain of nested places from `start` to the last: 252 in a 4 × 4 grid."""
    chains = [] if start != (shape[0] - 1, shape[1] - 1) else [[start]]
    for place in np.ndindex(shape):
        if place != start and place[0] >= start[0] and place[1] >= start[1]:
            chains += [[start, *rest] for rest in all_chains(shape, place)]
    return chains


def area_of(chain, madds, accuracy) -> float:
    x, y = (values[tuple(np.transpose(chain))] for values in (madds, accuracy))
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


@pytest.mark.slow
@given(arrays=arrays())
@settings(max_examples=2000)
def test_the_best_chain_is_that_of_brute_force(arrays):
    """Whole numbers: areas are exact, and so are ties, of which the chain that goes on to the cheaper node is taken."""
    madds, accuracy = arrays
    chains = all_chains(madds.shape)
    areas = [area_of(chain, madds, accuracy) for chain in chains]
    best = max(areas)
    equal = [chain for chain, area in zip(chains, areas, strict=True) if area == best]
    path, area = best_chain(madds, accuracy)
    assert area == best
    assert path == min(equal, key=lambda chain: [(madds[place], place) for place in chain])


@given(arrays=arrays())
@settings(max_examples=100)
def test_the_best_order_names_the_nodes_of_the_best_chain(arrays):
    path, area = best_order(make_grid(*arrays))
    chain, expected = best_chain(*arrays)
    assert (path, area) == ([(i + 1, j) for i, j in chain], expected)


@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 5), depth=st.integers(1, 5))
@settings(max_examples=100)
def test_rescaling_changes_nothing_but_the_area(seed, width, depth):
    rng = np.random.default_rng(seed)
    madds = rng.random((width, depth)).cumsum(axis=0).cumsum(axis=1)
    accuracy = rng.random((width, depth))
    path, area = best_order(make_grid(madds, accuracy))
    scaled, larger = best_order(make_grid(3e8 * madds, 100 * accuracy))
    assert scaled == path
    assert larger == pytest.approx(3e10 * area)


def test_a_grid_worked_out_by_hand():
    """2 widths × 2 depths: (1, 1) is better and dearer than (2, 0), and no chain has both."""
    grid = make_grid([[10, 30], [20, 40]], [[50, 80], [60, 90]])
    path, area = best_order(grid)
    assert path == [(1, 0), (1, 1), (2, 1)]
    assert area == 20 * 65 + 10 * 85
    table = order_table(grid).set_index(["width", "depth"])
    assert table["place"].to_dict() == {(1, 0): 1, (2, 0): 0, (1, 1): 2, (2, 1): 3}
    assert list(table.index[table["hull"]]) == [(1, 0), (1, 1), (2, 1)]


def test_a_node_below_the_line_is_skipped_and_one_on_it_is_not():
    path, _ = best_order(make_grid([[10], [20], [30], [40]], [[10], [11], [30], [40]]))
    assert path == [(1, 0), (3, 0), (4, 0)]


def test_a_large_grid_takes_less_than_a_second():
    rng = np.random.default_rng(0)
    madds = rng.random((64, 16)).cumsum(axis=0).cumsum(axis=1)
    accuracy = rng.random((64, 16))
    grid = make_grid(madds, accuracy)
    started = time.perf_counter()
    path, area = best_order(grid)
    assert time.perf_counter() - started < 1
    assert area == pytest.approx(area_of([(i - 1, j) for i, j in path], madds, accuracy))


@given(points=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
@settings(max_examples=200)
def test_nothing_lies_above_the_convex_hull(points):
    x, y = np.array(points, dtype=float).T
    corners = convex_hull(x, y)
    assert (np.diff(x[corners]) > 0).all()
    assert (y <= np.interp(x, x[corners], y[corners]) + 1e-9).all()
    for drop in range(1, len(corners) - 1):  # and none of its corners can be spared
        rest = np.delete(corners, drop)
        assert y[corners[drop]] > np.interp(x[corners[drop]], x[rest], y[rest])


@pytest.mark.slow
@given(arrays=arrays())
@settings(max_examples=100)
def test_no_order_beats_the_convex_hull(arrays):
    grid = make_grid(*arrays)
    path, area = best_order(grid)
    table = order_table(grid)
    assert sorted(table["place"]) == [0] * (len(table) - len(path)) + list(range(1, len(path) + 1))
    hull = table[table["hull"]]
    assert area <= np.trapezoid(hull["accuracy"], hull["madds"]) + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: g.assign(accuracy=g["accuracy"].where(g["madds"] != 50)),
            r"accuracy of node \(width 2, depth 1\) is nan",
        ),
        (
            lambda g: g.assign(madds=g["madds"].where(g["madds"] != 50, np.inf)),
            r"madds of node \(width 2, depth 1\) is inf",
        ),
        (lambda g: g[g["madds"] != 50], r"node \(width 2, depth 1\) is missing"),
        (lambda g: pd.concat([g, g[g["madds"] == 50]]), r"node \(width 2, depth 1\) is there more than once"),
        (
            lambda g: g.assign(madds=g["madds"].replace(50, 25)),
            r"no monotone path: node \(width 2, depth 1\) .* less than node \(width 1, depth 1\)",
        ),
        (lambda g: g.drop(columns="madds"), "madds is missing"),
        (lambda g: g[:0], "empty"),
    ],
)
def test_a_bad_grid_is_refused_by_naming_the_node(change, message):
    grid = make_grid([[10, 30], [20, 50], [40, 60]], [[50, 60], [55, 65], [60, 70]])
    with pytest.raises(DataError, match=message):
        best_order(change(grid))
