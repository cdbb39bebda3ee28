"""Exercises of the chapters: a check that says what is not yet right, and never stops the notebook."""

import functools
import re
from collections.abc import Callable


def check(examine: Callable[..., None]) -> Callable[..., None]:
    """Turn a function that asserts things about a reader's answer into one that says "Right." or "Not yet: …".

    An answer that is still open raises whatever it raises, TypeError for `...` among it; that, too, is "Not yet".
    """

    @functools.wraps(examine)
    def checked(*answer) -> None:
        try:
            examine(*answer)
        except Exception as error:  # of the reader's code, of any kind
            wrong = isinstance(error, AssertionError)
            still_open = not wrong and re.search(r"ellipsis|NoneType", str(error), re.IGNORECASE)
            reason = "it returns nothing yet" if still_open else str(error) if wrong and str(error) else repr(error)
            print(f"Not yet: {reason}")
        else:
            print("Right.")

    return checked
