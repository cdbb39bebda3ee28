"""The words about time say what the numbers say; the pictures show every row."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from rdnlib.reproduction.book import timing


def bench_table() -> pd.DataFrame:
    rows = [
        {"runtime": runtime, "batch": batch, "network": name, "madds_to_base": share, "to_base": time * (1 + batch / 10)}
        for runtime in ("eager", "onnxruntime")
        for batch in (1, 16)
        for name, share, time in (("base", 1, 1), ("N_1", 0.3, 0.6), ("N_2", 0.7, 0.9), ("N_3", 1.2, 1.5), ("all N_i", 1.2, 2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_every_runtime_and_batch_is_drawn_and_said():
    table = bench_table()
    figure = timing.time_against_madds(table)
    assert [ax.get_title() for ax in figure.axes] == ["batch 1", "batch 16"]
    for ax in figure.axes:
        assert [len(line.get_xdata()) for line in ax.lines[:2]] == [3, 3]
    lines = timing.sub_networks_in_words(table)
    assert len(lines) == 4
    assert lines[0] == (
        "eager, batch 1: $N_1$ has 30% of the base's multiply-adds and takes 66% of its time; $N_3$ has 120% and takes 165%."
    )
    plt.close("all")


def test_the_twin_of_figure_8_has_a_point_for_each_network():
    alone = pd.DataFrame({"milliseconds": [1.0, 2.0], "top1": [50.0, 60.0]})
    figure = timing.accuracy_against_time(alone, alone, alone.iloc[1])
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 2 + 2 + 2 + 1
    rates = timing.layer_rates(pd.DataFrame({"batch": [1, 1, 2], "madds": [1e6, 2e6, 1e6], "seconds": [1.0, 2.0, 1.0]}))
    assert len(rates.axes[0].lines) == 2
    plt.close("all")


@given(
    predicted=st.floats(0.05, 1.2), measured=st.floats(0.05, 3), to_base=st.one_of(st.floats(0.1, 3), st.just(np.nan))
)
def test_the_words_never_contradict_the_numbers(predicted, measured, to_base):
    saving = 1 - predicted
    row = {"runtime": "eager", "batch": 1, "predicted": predicted, "measured": measured, "to_base": to_base}
    text = timing.exits_in_words(pd.DataFrame([row | {"realised": (1 - measured) / saving if saving > 0 else np.nan}]))
    assert "nan" not in text
    assert ("nothing is saved" in text) == (saving <= 0.005)
    if saving > 0.005:
        assert ("none of it as time" in text) == (measured >= 1)
        assert ("base network" in text) == (not np.isnan(to_base))


@given(st.lists(st.one_of(st.floats(0.1, 3), st.just(np.nan)), min_size=1, max_size=6))
def test_whether_anything_is_faster_than_the_base(ratios):
    text = timing.answer_in_words(bench_table(), pd.DataFrame({"to_base": ratios}))
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    faster = sum(ratio < 1 for ratio in known)
    lead = "**No.**" if not faster else "**Yes.**" if faster == len(known) else "**Sometimes.**"
    assert "nan" not in text and text.startswith(lead if known else "No exits were timed.")
    if known:
        assert f"base network in {faster} of {len(known)} timed" in text
    alone = "- Alone, eager, batch 1, faster than the base: $N_{1}$ (0.66 of its time), $N_{2}$ (0.99 of its time)."
    assert alone in text
    slow = bench_table().assign(to_base=2.0)
    assert "batch 16, faster than the base: no sub-network." in timing.answer_in_words(
        slow, pd.DataFrame({"to_base": []})
    )


def test_no_rows():
    assert timing.exits_in_words(pd.DataFrame()) == "No exits were timed."
