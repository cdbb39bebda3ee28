"""Docstrings of this library as Sphinx gets them."""

from rdnlib.reproduction.book.apidoc import field_list, process

LINES = """Do it.

model, k: two of them,
    described on two lines
size: pixels
Raises ConfigError for a wrong one.

columns: is no parameter: stays.
""".splitlines()


def test_lines_that_name_parameters_become_fields_and_the_rest_stays():
    assert field_list(LINES, ["model", "k", "size"]) == [
        "Do it.", "", "", ":param model, k: two of them,", "    described on two lines", ":param size: pixels", "",
        "Raises ConfigError for a wrong one.", "", "columns: is no parameter: stays.",
    ]  # fmt: skip


def test_the_parameters_are_those_of_the_signature():
    def function(size):
        pass

    lines = list(LINES)
    process(None, "function", "function", function, None, lines)
    assert lines == field_list(LINES, ["size"])
    lines = list(LINES)
    process(None, "module", "module", 3, None, lines)
    assert lines == LINES
