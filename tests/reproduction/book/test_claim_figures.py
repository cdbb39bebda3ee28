"""Pictures of claims: the same every time, labelled, and at the numbers given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.book import claim_figures, style

OURS = {"a − b": Estimate(1.0, -1.0, 3.0), "a − c": Estimate(2.0, 1.0, 3.0, 2, -4.0, 8.0)}


def table():
    rows = [("> -1", "reproduced"), ("> 0", "inconclusive"), ("< 16.4038", "not reproduced")]
    estimates = [Estimate(1, 0.5, 2), Estimate(1, -1, 3, 3, 0, 2), Estimate(20, 20, 20)]
    made = [e.columns("ours") | {"holds_if": h, "verdict": v} for e, (h, v) in zip(estimates, rows, strict=True)]
    return pd.DataFrame(made).assign(where="Table 1", statement=["one", "two " * 30, "three"])


@pytest.mark.parametrize(
    "draw", [lambda: claim_figures.gains(OURS, {"a − b": -0.5}), lambda: claim_figures.forest(table())]
)
def test_the_same_picture_twice_with_labels(draw):
    one, other = draw(), draw()
    assert style.svg(one) == style.svg(other)
    (ax,) = one.axes
    assert ax.get_xlabel() and len(ax.get_yticklabels()) + len(ax.texts) in (2, 3)
    plt.close("all")


def test_intervals_are_where_they_belong():
    (ax,) = claim_figures.gains(OURS, {"a − b": -0.5}).axes
    drawn = [tuple(line.get_xdata()) for line in ax.lines]
    assert (-1.0, 3.0) in drawn and (-4.0, 8.0) in drawn and (-0.5,) in [tuple(np.atleast_1d(x)) for x in drawn]
    (ax,) = claim_figures.forest(table()).axes
    assert 16.4038 in [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
    plt.close("all")


def test_rows_of_the_paper_alone_come_last():
    (ax,) = claim_figures.gains(OURS, {"paper": 0.5, "a − b": -0.5}).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a − b", "a − c", "paper"]
    points = {tuple(np.ravel(line.get_xydata())) for line in ax.lines if line.get_marker() == "D"}
    assert points == {(-0.5, -0.25), (0.5, -2.0)}
    plt.close("all")


@pytest.mark.parametrize(
    ("estimate", "unit", "text"),
    [
        (Estimate(1, 0.5, 2), "points", "+1.0 (+0.5 to +2.0)"),
        (Estimate(20, 20, 20), "% of the base's", "+20.0 %"),
        (Estimate(1, -1, 3, 3, 0, 2), "points", "+1.0 (-1.0 to +3.0); +0.0 to +2.0"),
    ],
)
def test_our_number_in_words(estimate, unit, text):
    (claim,) = pd.DataFrame([estimate.columns("ours") | {"unit": unit}]).itertuples()
    assert claim_figures.ours_in_words(claim) == text


def test_the_ledger_is_shown_by_table_of_the_paper():
    ledger = table().assign(unit="points", paper="+1", where=["Table 1", "Table 1", "Table 3"])
    ledger = ledger.assign(reason=["", "", "it is so"], corrected=["inconclusive", "inconclusive", "not reproduced"])
    first, second = claim_figures.verdict_tables(ledger)
    assert (first.caption, second.caption) == ("Table 1", "Table 3") and len(first.data) == 2
    assert second.data["holds if"].tolist() == ["below 16.4"] and second.data["remark"].tolist() == ["it is so"]
    assert (
        first.data["remark"].tolist() == ["inconclusive when all claims of this table are judged together", ""]
        and first.columns[0] == "verdict"
    )
    assert "font-weight: bold" in first.to_html()


def test_every_statement_stands_whole_above_its_own_bar():
    (ax,) = claim_figures.forest(table()).axes
    drawn = [" ".join(text.get_text().split()) for text in ax.texts]
    assert drawn == ["Table 1. one", "Table 1. " + "two " * 29 + "two", "Table 1. three"]
    bounds = [line.get_ydata()[0] for line in ax.lines if line.get_marker() == "|"]
    tops = [text.get_position()[1] for text in ax.texts]
    assert all(bar < top for bar, top in zip(bounds, tops, strict=True)) and all(
        top < bar for bar, top in zip(bounds, tops[1:], strict=False)
    )
    plt.close("all")


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        ({"reproduced": 2}, "Of 2 claims: **2 × reproduced**. None is “not reproduced”."),
        ({"reproduced": 1, "not reproduced": 1}, "Not reproduced:\n\n- Table 1: b."),
        ({"one seed: illustrates": 2}, "Too few seeds to judge: 2, of which 1 points the paper’s way."),
        (
            {"reproduced": 2, "inconclusive": 1},
            "“Reproduced” when all claims of a table are judged together: 1 of these 2, among them 1 that no training changes. None is “not reproduced”.",
        ),
    ],
)
def test_verdicts_are_counted_and_failures_named(verdicts, says):
    rows = [verdict for verdict, count in verdicts.items() for _ in range(count)]
    reasons = ["points the paper’s way", "does not point the paper’s way"]
    count = len(rows)
    table = pd.DataFrame(
        {"verdict": rows, "reason": [*reasons, ""][:count], "where": "Table 1", "statement": [*"abc"][:count]}
    )
    table = table.assign(corrected=table["verdict"], ours_low=1.0, ours_high=[1.0, 2.0, 2.0][:count], control=False)
    if "inconclusive" in verdicts:
        table.loc[1, "corrected"] = "inconclusive"
    assert claim_figures.verdicts_in_words(table).data.endswith(says)


def test_controls_are_counted_apart():
    rows = {"verdict": ["reproduced", "not reproduced"], "statement": ["a", "b"], "where": "Table 1", "reason": ""}
    table = pd.DataFrame(rows | {"control": [False, True], "ours_low": 1.0, "ours_high": 2.0})
    text = claim_figures.verdicts_in_words(table.assign(corrected=table["verdict"])).data
    assert "Of 1 claims: **1 × reproduced**. Of 1 controls of ours: 1 × not reproduced." in text
    assert text.endswith("None is “not reproduced”.")
