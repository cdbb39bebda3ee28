"""Words about what a run has cost."""

import pandas as pd
import pytest

from rdnlib.reproduction.analysis.cost import Extrapolation
from rdnlib.reproduction.book.cost import duration, in_words, shown

SPENT = pd.DataFrame({
    "name": ["base", "policy"], "seeds": [2, 1], "epochs": [4, 0], "images_per_second": [7.5, float("nan")],
    "minutes": [100.0, 20.0], "memory_gb": [float("nan")] * 2,
})  # fmt: skip


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0, "0 minutes"), (0.5, "30 minutes"), (1.99, "120 minutes"), (2, "2.0 hours"), (47, "47 hours"), (48, "2.0 days"),
        (24 * 123, "120 days"), (24 * 365.25 * 2.04, "2.0 years"), (24 * 365.25 * 1234, "1,200 years"),
    ],
)  # fmt: skip
def test_a_duration_has_two_digits_in_a_unit_that_fits(hours, text):
    assert duration(hours) == text


def test_memory_is_a_column_where_it_was_recorded():
    assert "memory (GB)" not in shown(SPENT) and list(shown(SPENT)["minutes"]) == [100, 20]
    assert shown(SPENT)["epochs"].isna().tolist() == [False, True]
    assert list(shown(SPENT.assign(memory_gb=[1.5, 0.5]))["memory (GB)"]) == [1.5, 0.5]


def test_the_sum_and_the_paper_s_setting():
    text = in_words(SPENT, Extrapolation(48, 24 * 365.25 * 3, 1234.4), "a processor, 2 cores")
    assert "took **2.0 hours** of one process on a processor, 2 cores." in text
    assert (
        "has 1,234 times the multiply-adds" in text
        and "**2.0 days** for the base and **3.0 years** for the RDN" in text
    )
    assert in_words(SPENT, None, "a machine").endswith("on a machine.")
    assert in_words(SPENT[:0], None, "a machine") == "Nothing was run."
