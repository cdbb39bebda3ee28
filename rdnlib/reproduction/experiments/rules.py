"""What the values of a profile may be: types that pydantic checks, and says in one line what is allowed."""

import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from rdnlib.surgery.nest import INITS
from rdnlib.utils.ranges import Positive


def with_keys(value: Any, known: Iterable[str], required: Iterable[str], *, others: bool = False) -> Any:
    """Refuse all but a mapping with these keys, and say which they are."""
    context = {"known": ", ".join(known), "needed": ", ".join(required)}
    if not isinstance(value, dict):
        raise PydanticCustomError("keys", "must be a mapping with the keys {known}", context)
    for key in value:
        if not isinstance(key, str) or not (others or key in known):
            raise PydanticCustomError("keys", "unknown key: choose from {known}", {**context, "key": str(key)})
    for key in required:
        if key not in value:
            raise PydanticCustomError("keys", "is missing: needed are {needed}", {**context, "key": key})
    return value


def rule(message: str, holds: Callable[[Any], Any]) -> AfterValidator:
    """Refuse values for which `holds` is not true."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise PydanticCustomError("rule", message)
        return value

    return AfterValidator(check)


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(type(v) in (str, bool, int) or (type(v) is float and math.isfinite(v)) for v in values)


def _is_begin(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return value is None or (type(value) in (int, float) and 0 <= value < 1)


def is_part(value: Any) -> bool:
    return type(value) in (int, float) and (0 <= value <= 0.9 or (type(value) is int and value >= 1))


Groups = Annotated[int, Field(ge=2, le=64)]
AboveZero = Annotated[float, Field(gt=0, le=1)]  # a share
Ascending = rule("must be in ascending order, nothing twice", lambda v: all(a < b for a, b in itertools.pairwise(v)))
Shares = Annotated[list[AboveZero], Field(min_length=1), Ascending]
LowHigh = rule("must be in order, low and high", lambda v: v == sorted(v))
Crop = Annotated[list[AboveZero], Field(min_length=2, max_length=2), LowHigh]  # shares of an image's area
_BEGIN = "must be a share of the MAdds, from 0 to below 1, a list of layers' names, or null"
Begin = Annotated[Any, rule(_BEGIN, _is_begin)]  # of the nesting
Plain = Annotated[Any, rule("must be a number, a text, true, false or a list of these", _is_plain)]
_RATES = ["base", *INITS]  # what is trained on after the base: the base itself, and RDNs by their initialisation
Rates = Annotated[dict[str, Positive], BeforeValidator(lambda value: with_keys(value, _RATES, _RATES))]
_LABEL = re.compile(r"(?!longer$|x[\d.]+$)\w[\w.-]*")  # what it must not be is how other experiments are named
_WORD = "must be a word of letters, digits, . _ and -, and neither longer nor x0.5"
Label = Annotated[str, rule(_WORD, _LABEL.fullmatch)]
