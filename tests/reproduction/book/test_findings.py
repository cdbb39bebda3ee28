"""Sentences about what was found never contradict the numbers that they print: numbers are read back from the text and judged again."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdnlib.reproduction.analysis.claims import printed
from rdnlib.reproduction.analysis.statistics import Estimate
from rdnlib.reproduction.analysis.worth import DOES_NOT, NOTHING, OPEN, PAYS, TRADE, Comparison
from rdnlib.reproduction.book import findings, style

NUMBER = r"[+-]\d+\.\d"
INTERVAL = re.compile(rf"({NUMBER})(?: \(({NUMBER}) to ({NUMBER})(?:; \d+ seeds: ({NUMBER}) to ({NUMBER}))?\))?")
finite = st.floats(-60, 60)
NAN = Estimate(np.nan, np.nan, np.nan)


@st.composite
def estimates(draw):
    """Any value inside of its intervals; exact ones, and ends that round to zero, among them."""
    value, small = draw(finite), draw(st.sampled_from([1.0, 0.01, 0.0]))
    below, above, less, more = (small * abs(draw(finite)) for _ in range(4))
    seeds = draw(st.integers(1, 4))
    over = (value - less, value + more) if seeds > 1 else (np.nan, np.nan)
    return Estimate(value, value - below, value + above, seeds, *over)


any_comparison = st.builds(
    Comparison, estimates() | st.just(NAN), estimates() | st.just(NAN),
    st.sampled_from([(), ("N_K is at chance (10.1 %; guessing gives 10 %)",)]), st.integers(0, 3),
)  # fmt: skip
pairs = st.sampled_from([*findings.USES, ("N_K", "longer"), ("N_3", "N_3 alone"), ("sequential", "N_K")])


def read(text: str) -> list[tuple[float, float]]:
    """All numbers with a sign in a sentence, each as the ends of what is in its brackets."""
    found = []
    for match in INTERVAL.finditer(text):
        ends = [float(end) for end in match.groups()[1:] if end] or [float(match[1])] * 2
        found.append((min(ends), max(ends)))
    return found


@given(pairs, any_comparison)
def test_a_comparison_says_what_its_numbers_say(pair, each):
    text = findings.in_words(*pair, each)
    assert "nan" not in text and "-0.0" not in text
    if "say nothing" in text:
        assert each.verdict == NOTHING and not read(text)
        assert each.obstacles or any(np.isnan(e.value) for e in (each.gain, each.cost))
        return
    (low, high), *cost = read(text)
    assert ("is more accurate than" in text) == (low > 0)
    assert ("is less accurate than" in text) == (high < 0)
    assert ("is not distinguishable from" in text) == (low <= 0 <= high)
    if not cost:
        assert "exactly as many MAdds" in text
        return
    ((cheapest, dearest),) = cost
    assert ("needs fewer MAdds" in text) == (dearest < 0)
    assert ("needs more MAdds" in text) == (cheapest > 0)
    assert ("which of the two costs less is open" in text) == (cheapest <= 0 <= dearest)
    assert (" only.)" in text) == (each.gain.seeds < 3)
    assert ("out of reach" in text) == bool(each.missed)


@given(pairs, any_comparison)
def test_whether_it_pays_agrees_with_the_printed_numbers(pair, each):
    said = findings.use_in_words("it is used", each)
    text = findings.in_words(*pair, each)
    (low, high), *cost = read(text) or [(np.nan, np.nan)]
    cheapest, dearest = cost[0] if cost else (0.0, 0.0)
    if said.startswith("**It pays**"):
        assert high > 0 or low >= -0.2
        assert cheapest <= 0 and (low > 0 or dearest < 0)
    elif said.startswith("**It does not pay**"):
        assert low <= 0 and dearest >= 0 and (cheapest > 0 or high < 0)
    elif said.startswith("**It is a trade**"):
        assert (low > 0 and cheapest > 0) or (high < 0 and dearest < 0)
    elif said.startswith("**Whether it pays is open**"):
        assert low <= 0 <= high and cheapest <= 0
    else:
        assert said.startswith("**Nothing can be said**") and "say nothing" in text
    assert ("accuracy is gained" in said) <= (low > 0) and ("accuracy is lost" in said) <= (high < 0)
    assert ("MAdds are saved" in said) <= (dearest < 0) and ("MAdds are added" in said) <= (cheapest > 0)
    if loss := re.search(r"loss of accuracy of (?:more than|up to) (\d+\.\d) points", said):
        assert float(loss[1]) == max(0.0, -low)


@given(any_comparison, st.floats(0, 5), st.floats(0, 5))
def test_what_pays_still_pays_when_it_gets_better_and_cheaper(each, more, less):
    def shifted(e, by):
        return Estimate(e.value + by, e.low + by, e.high + by, e.seeds, e.seeds_low + by, e.seeds_high + by)

    better = Comparison(shifted(each.gain, more), shifted(each.cost, -less), each.obstacles)
    if each.verdict == PAYS:
        assert better.verdict == PAYS
    if better.verdict == DOES_NOT:
        assert each.verdict in (DOES_NOT, TRADE)


@given(st.dictionaries(pairs, any_comparison))
def test_the_headline_counts_the_bullets(found):
    bullets, text = findings.uses_in_words(found), findings.headline(found)
    if not bullets:
        assert text == "No use of an RDN was compared."
        return
    if len(bullets) > 1 and all("is open**" in line for line in bullets):
        assert text.startswith(f"For none of the {len(bullets)} uses")
        return
    assert text.startswith(f"Of {len(bullets)} use")
    says = {
        PAYS: "it pays in|, pays in",
        DOES_NOT: "does not pay in",
        TRADE: "is a trade in",
        OPEN: "is undecided in",
        NOTHING: "cannot be judged in",
    }
    for verdict, lead in findings.LEADS.items():
        count = sum(line.startswith(lead) for line in bullets)
        said = re.search(rf"(?:{says[verdict]}) (\d+)", text)
        assert count == (int(said[1]) if said else 0)
    assert all("**It pays**" in line for line in bullets[: sum("**It pays**" in line for line in bullets)])


levers = st.dictionaries(
    st.sampled_from(["reconstruct instead of copy", "this", "that", "training all instead of N_K alone"]),
    st.dictionaries(st.sampled_from(["N_1", "N_K"]), any_comparison, min_size=1),
)


@given(levers)
def test_what_mattered_most_is_clear_and_the_largest(found):
    lines = findings.levers_in_words(found)
    assert len(lines) == len(found) and not any("nan" in line or "-0.0" in line for line in lines)
    for line, both in zip(lines, found.values(), strict=True):
        ends = [each.ends[:2] for each in both.values() if each.verdict != NOTHING]
        assert line.count(" gains,") == sum(low > 0 for low, _ in ends)
        assert line.count(" loses,") == sum(high < 0 for _, high in ends)
        assert "exactly as many" not in line
    text = findings.what_mattered(found)
    for label in ("N_1", "N_K"):
        rows = [both[label] for both in found.values() if label in both and both[label].verdict != NOTHING]
        clear = [row.gain.value for row in rows if row.ends[0] > 0 or row.ends[1] < 0]
        if not clear:
            assert f"No choice has a clear effect on ${label}$" in text
        else:
            assert f"points of ${label}$" in text or f"For ${label}$ it was" in text
            assert f"{max(clear, key=abs):+z.1f} (" in text


def networks(count=3) -> pd.DataFrame:
    rows = [
        {"name": name, "share": share, "params": share, "top1": 50.0 + 10 * share}
        | Estimate(10 * share - 10, 10 * share - 12, 10 * share - 8).columns("gap")
        for name, share in [("base", 1.0), *((f"N_{i}", 0.4 * i) for i in range(1, count + 1))]
    ]
    return pd.DataFrame(rows)


def test_what_one_set_of_weights_offers():
    text = findings.budgets_in_words(networks())
    assert "offers 3 costs, from 40% to 120%" in text and "from 54.0 % to 62.0 %" in text
    assert "1.2 times the base’s parameters" in text and "would have 2.4 times" in text


def test_the_paper_in_words():
    static, adaptive = findings.paper_in_words(printed(1))
    assert "points of top-1 at +" in static and "against the base" in adaptive
    one = pd.DataFrame({"model": ["A", "RDN-A", "RDN-A†"], "top1": [70.0, 71.0, 70.5], "madds_m": [100.0, 120.0, 60.0]})
    assert findings.paper_in_words(one) == [
        "$N_K$ against its base: +1.00 points of top-1 at +20 % MAdds.",
        "Dynamic inference (†) against $N_K$: -0.50 points at -50 % MAdds; against the base: +0.50 points at -40 %.",
    ]


@pytest.mark.parametrize(
    "found",
    [
        {},
        {("dynamic", "longer"): Comparison(Estimate(1, -1, 3, 3, -2, 4), Estimate(-20, -25, -15))},
        {("dynamic at the base", "longer"): Comparison(NAN, NAN)},
    ],
)
def test_the_same_picture_twice_and_points_where_they_belong(found):
    one, other = findings.picture(networks(), found), findings.picture(networks(), found)
    assert style.svg(one) == style.svg(other)
    (ax,) = one.axes
    points = {tuple(line.get_xydata()[0].round(6)) for line in ax.lines if line.get_marker() not in ("None", None)}
    assert {(1.0, 0.0), (0.4, -6.0), (1.2, 2.0)} <= points
    assert ((0.8, 1.0) in points) == (("dynamic", "longer") in found)
    assert "dynamic inference" in findings.alt_text(found).lower()
    plt.close("all")


def test_names():
    assert findings.name_in_words("N_3 alone") == "$N_3$ trained alone" and findings.name_in_words("N_3") == "$N_3$"


@given(st.dictionaries(pairs, any_comparison, min_size=1))
def test_the_table_has_the_numbers_of_the_sentences(found):
    rows = findings.shown(findings.table(found))
    assert list(rows["verdict"]) == [each.verdict for each in found.values()]
    for row, each in zip(rows.itertuples(index=False), found.values(), strict=True):
        if each.verdict != NOTHING:
            assert read(row[2]) == [each.ends[:2]] and read(row[3]) == [each.ends[2:]]
