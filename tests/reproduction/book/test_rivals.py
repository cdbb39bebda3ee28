"""The picture of the rivals: its blocks tell one story for the easy and for the hard image."""

import matplotlib.pyplot as plt
import pytest

from rdnlib.reproduction.book.rivals import AGAIN, IDLE, LOOKS, LOST, NEW, NONE, RIVALS, RUN, rivals_figure


@pytest.mark.parametrize("name", RIVALS)
def test_both_images_meet_the_same_network(name):
    easy, hard = ("".join(rows) for rows in RIVALS[name])
    assert set(easy) <= {RUN, IDLE, NONE} and set(hard) <= {*LOOKS, NONE}
    for before, after in zip(easy, hard, strict=True):
        assert (before == NONE) == (after == NONE)
        if after in (AGAIN, LOST):  # what is repeated or thrown away has run
            assert before == RUN
        if after == NEW:
            assert before == IDLE


def test_only_what_keeps_its_features_adds_to_them():
    adding = {
        name for name, (_, hard) in RIVALS.items() if NEW in "".join(hard) and not {AGAIN, LOST} & set("".join(hard))
    }
    assert adding == {"early exits", "Russian Doll\nNetwork"}


def test_every_rival_has_a_row_with_a_shape_for_each_look():
    figure = rivals_figure()
    plt.close(figure)
    rows = [figure.axes[i : i + 3] for i in range(0, len(figure.axes), 3)]
    assert [label.texts[0].get_text() for label, _, _ in rows] == list(RIVALS)
    for (_, *places), pictures in zip(rows, RIVALS.values(), strict=True):
        for ax, picture in zip(places, pictures, strict=True):
            assert len(ax.patches) == len(set("".join(picture)) - {NONE})
            corners = sum(len(patch.get_path().vertices) for patch in ax.patches)
            assert corners == 5 * sum(block != NONE for block in "".join(picture))
