"""Exercises of the chapters: a check that says what is not yet right, and never stops the notebook."""

import functools
import inspect
from collections.abc import Callable


def check(examine: Callable[..., None]) -> Callable[..., None]:
    """Turn a function that asserts things about a reader's answer into one that says "Right." or "Not yet: …".

    An answer that is still open raises whatever it raises, TypeError for `...` among it; that, too, is "Not yet".
    """

    @functools.wraps(examine)
    def checked(*answer) -> None:
        values, returned = [each for each in answer if not inspect.isfunction(each)], []
        try:
            examine(*(_watched(each, returned) if inspect.isfunction(each) else each for each in answer))
        except Exception as error:  # of the reader's code, of any kind
            wrong = isinstance(error, AssertionError)
            still_open = not wrong and any(value is None or value is ... for value in values + returned[-1:])
            reason = "it returns nothing yet" if still_open else str(error) if wrong and str(error) else repr(error)
            print(f"Not yet: {reason}")
        else:
            print("Right.")

    return checked


def _watched(answer: Callable, returned: list) -> Callable:
    """The reader's function; what it returns is noted, and False where it raises."""

    @functools.wraps(answer)
    def watched(*args, **kwargs):
        returned.append(False)
        returned[-1] = answer(*args, **kwargs)
        return returned[-1]

    return watched
