"""The group arithmetic of a nested convolution."""

from hypothesis import given
from hypothesis import strategies as st

from rdnlib.nn.groups import counterpart, nested_sizes, sources, split_channels


@given(st.integers(2, 9), st.data())
def test_every_connection_of_the_super_net_is_kept_exactly_once(k, draw):
    """With a plain input, an original group and its completion together read all k input groups, none twice."""
    original = draw.draw(st.integers(1, k))
    readers = [group for group in range(1, 2 * k) if counterpart(group, k) == original]
    read = [source for group in readers for source in sources(group, k, plain_input=True)]
    assert sorted(read) == list(range(1, k + 1))


@given(st.integers(2, 9))
def test_no_group_reads_a_later_one(k):
    for plain in (True, False):
        for group in range(1, 2 * k):
            assert max(sources(group, k, plain_input=plain)) <= group


def test_block_count_of_the_paper():
    """k = 4: 10 + 6 + 3 = 19 blocks, 16 behind a plain input."""
    assert sum(len(sources(g, 4, plain_input=False)) for g in range(1, 8)) == 19
    assert sum(len(sources(g, 4, plain_input=True)) for g in range(1, 8)) == 16
    assert sources(5, 4, plain_input=False) == (4, 5)
    assert sources(7, 4, plain_input=False) == (2, 3, 4, 7)


@given(st.integers(2, 9), st.integers(9, 200))
def test_sizes(k, channels):
    assert sum(split_channels(channels, k)) == channels
    sizes = nested_sizes(channels, k)
    assert len(sizes) == 2 * k - 1
    assert all(sizes[g - 1] == sizes[counterpart(g, k) - 1] for g in range(1, 2 * k))
