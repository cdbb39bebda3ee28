"""The check of an exercise says what is wrong, whatever the reader wrote."""

import pytest

from rdnlib.reproduction.book.exercises import check


@check
def check_square(square):
    assert square(3) == 9, "the square of 3 is 9"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: x * x, "Right."),
        (lambda x: 2 * x, "Not yet: the square of 3 is 9"),
        (lambda x: x / 0, "Not yet: ZeroDivisionError"),
        (lambda x: None, "Not yet: the square of 3 is 9"),  # None may be an answer
        (lambda x: None.size, "Not yet: AttributeError"),  # an error of its own
        (..., "Not yet: it returns nothing yet"),
        (None, "Not yet: it returns nothing yet"),
    ],
)
def test_right_and_not_yet(capsys, answer, says):
    assert check_square(answer) is None  # a notebook would show any value
    assert capsys.readouterr().out.startswith(says)


def test_one_of_two_answers_is_still_open(capsys):
    check(lambda first, second: first + second)(None, 1)
    assert capsys.readouterr().out == "Not yet: it returns nothing yet\n"


def test_nothing_returned_where_the_check_goes_on_with_it(capsys):
    check(lambda answer: answer(1) + 1)(lambda x: None)
    assert capsys.readouterr().out == "Not yet: it returns nothing yet\n"


def test_an_assertion_without_words_is_named(capsys):
    @check
    def silent(answer):
        if not answer:
            raise AssertionError

    silent(False)
    assert capsys.readouterr().out == "Not yet: AssertionError()\n"
