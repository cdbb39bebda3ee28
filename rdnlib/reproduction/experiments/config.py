"""A profile: data, super-nets and recipes of a book's experiments. Pure data, read from YAML and checked as a whole.

Whatever is wrong with a profile is one line that names its file, the key and what is allowed there. Which experiments a profile
asks for is computed from it in `graph`.
"""

import itertools
import math
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from rdnlib import models
from rdnlib.data import datasets
from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments.toy import shrink
from rdnlib.surgery.nest import INITS
from rdnlib.surgery.select import STRATEGIES
from rdnlib.training.recipe import Recipe
from rdnlib.utils.files import read_yaml
from rdnlib.utils.resources import resource

RATES = ["base", *INITS]  # what is trained on after the base: the base itself, and RDNs by their initialisation


def _with_keys(value: Any, known: list[str], required: list[str], *, others: bool = False) -> Any:
    """Refuse all but a mapping with these keys, and say which they are."""
    if not isinstance(value, dict):
        raise PydanticCustomError("keys", "must be a mapping with the keys {known}", {"known": ", ".join(known)})
    for key in value:
        if not isinstance(key, str) or not (others or key in known):
            known = ", ".join(known)
            raise PydanticCustomError("keys", "unknown key: choose from {known}", {"known": known, "key": str(key)})
    for key in required:
        if key not in value:
            needed = ", ".join(required)
            raise PydanticCustomError("keys", "is missing: needed are {needed}", {"needed": needed, "key": key})
    return value


def _ascending(values: list[float]) -> list[float]:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise PydanticCustomError("order", "must be in ascending order, nothing twice")
    return values


def _low_high(values: list[float]) -> list[float]:
    if values != sorted(values):
        raise PydanticCustomError("order", "must be in order, low and high")
    return values


def _plain(value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if all(type(v) in (str, bool, int) or (type(v) is float and math.isfinite(v)) for v in values):
        return value
    raise PydanticCustomError("plain", "must be a number, a text, true, false or a list of these")


def _label(value: str) -> str:
    if not re.fullmatch(
        r"(?!longer$|x[\d.]+$)\w[\w.-]*", value
    ):  # what it must not be is how other experiments are named
        raise PydanticCustomError("label", "must be a word of letters, digits, . _ and -, and neither longer nor x0.5")
    return value


Count = Annotated[int, Field(ge=1, le=10**9)]
Pixels = Annotated[int, Field(ge=8, le=1024)]
Groups = Annotated[int, Field(ge=2, le=64)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Widths = Annotated[list[Positive], AfterValidator(_ascending)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1), AfterValidator(_ascending)]
Crop = Annotated[  # shares of an image's area
    list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=2, max_length=2), AfterValidator(_low_high)
]
Rates = Annotated[dict[str, Positive], BeforeValidator(lambda value: _with_keys(value, RATES, RATES))]


class Section(BaseModel):
    """A mapping with known keys. What a profile does not give is left to whoever uses it, and is not in `settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def settings(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        return _with_keys(value, list(cls.model_fields), required, others=cls.model_config["extra"] == "allow")


class DataSettings(Section):
    """Arguments of `rdnlib.data.datasets.load`."""

    name: Literal[tuple(datasets.names())]
    size: Pixels = None
    train: Count = None
    validation: Count = None
    calibration: Annotated[float, Field(ge=0, le=0.9)] = None
    download: bool = None
    cached: bool = None


class ModelOptions(Section):
    """Arguments of a super-net's builder, besides the number of classes; a network of the user's own may take others."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_plain)]]

    name: str = None
    width_mult: Positive = None
    depth_mult: Positive = None
    stem_stride: Count = None
    dropout: Part = None
    weights: str = None
    num_classes: None = None  # follows from the data set


class ModelSettings(ModelOptions):
    name: str

    @property
    def label(self) -> str:
        """The name as part of experiments' names."""
        return self.name.replace(":", ".")


class RecipeSettings(Section):
    """Settings of `rdnlib.training.recipe.Recipe`."""

    epochs: Count = None
    lr: Positive = None
    size: Pixels = None
    batch_size: Annotated[int, Field(ge=2, le=10**9)] = None
    min_lr: NotNegative = None
    warmup_epochs: NotNegative = None
    momentum: Part = None
    weight_decay: NotNegative = None
    label_smoothing: Share = None
    ema_horizon: Share = None
    bn_momentum: Share = None
    crop_scale: Crop = None
    flip: bool = None
    precision: Literal["no", "bf16"] = None
    distill: Share = None
    teacher: Literal["largest", "average"] = None
    parts: Count = None
    compile: bool = None


class CommonRecipe(RecipeSettings):
    size: Pixels


class BaseRecipe(RecipeSettings):
    epochs: Count
    lr: Positive


class SurgerySettings(Section):
    k: Groups = None
    select: Literal[STRATEGIES] = None
    calibration_images: Count = None


class RdnSettings(SurgerySettings):
    k: Groups
    select: Literal[STRATEGIES]
    calibration_images: Count
    epochs: Count
    lr: Rates
    distill: Share = None


class PolicySettings(Section):
    """Settings of `rdnlib.policy.network.fit_policy`."""

    hidden: list[Count] = None
    epochs: Count = None
    lr: Positive = None
    weight_decay: NotNegative = None
    batch_size: Count = None
    held_out: Part = None


class Architecture(Section):
    """A further super-net, trained like the base but for its `recipe`."""

    model: ModelOptions
    recipe: RecipeSettings = RecipeSettings()


class AblationSettings(Section):
    epochs: Count
    lengths: list[Annotated[int, Field(ge=0, le=10**9)]] = []
    seeds: Count = 1
    slimmable: Shares = None  # None: as many widths as there are sub-networks


class Profile(Section):
    """What `notebooks/profiles/<name>.yaml`, or a file of the user's own, says."""

    data: DataSettings
    model: ModelSettings
    recipe: CommonRecipe
    base: BaseRecipe
    rdn: RdnSettings
    policy: PolicySettings
    sequential: PolicySettings = PolicySettings(hidden=[32])  # the policy that looks again
    architectures: dict[Annotated[str, AfterValidator(_label)], Architecture] = {}
    depth: RecipeSettings = RecipeSettings()  # of depth-wise nesting: what differs from the recipe of `rdn`
    training_free: SurgerySettings = SurgerySettings()  # surgery that is not followed by training
    ablations: AblationSettings = None
    widths: Widths = []  # of further base networks, the rivals of Figure 8
    jobs: Count = 1  # experiments at once
    threads: Count = None  # CPU threads of an experiment; None: its share of the cores

    _name: str = pydantic.PrivateAttr("")
    _source: str = pydantic.PrivateAttr("")

    @property
    def name(self) -> str:
        """How results are labelled: the stem of its file."""
        return self._name

    @property
    def source(self) -> str:
        """Where it can be read from, in whatever folder: the name of a shipped profile, or an absolute path."""
        return self._source

    def import_models(self) -> None:
        """Register the networks that are named as package.module:function; they may lie beside the profile's file."""
        for supernet in self.supernets().values():
            models.import_model(supernet.name, Path(self.source).absolute().parent)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.import_models()  # in whatever process the profile was sent to

    def supernet(self, label: str) -> ModelSettings:
        """The model of one of the `architectures`; it has their name unless it says another."""
        return ModelSettings(**{"name": label, **self.architectures[label].model.settings()})

    def supernets(self) -> dict[str, ModelSettings]:
        """All models, by their dotted keys."""
        further = {f"architectures.{label}.model": self.supernet(label) for label in self.architectures}
        return {"model": self.model, **further}


def load_profile(source: str, *, data: str | None = None, toy: bool = False) -> Profile:
    """Read and check a profile; networks that it names as package.module:function are imported.

    source: the name of a shipped profile, or the path of a .yaml file. data: take this data set instead of the profile's.
    toy: shrink it, see `toy`. Raises ConfigError, one line, for whatever is wrong with it.
    """
    path = _locate(str(source))
    with _naming(path):
        content = read_yaml(path)
    profile = _validated(content, path, path.stem)
    if data is not None:
        content = {**content, "data": {**content["data"], "name": data}}
        profile = _validated(content, path, path.stem)
    return _validated(shrink(content), path, f"{path.stem}-toy") if toy else profile


def _locate(source: str) -> Path:
    if source.endswith((".yaml", ".yml")) or Path(source).name != source:
        if not Path(source).is_file():
            raise ConfigError(
                f"there is no profile {source}: give the path of a .yaml file, or a shipped profile's name"
            )
        return Path(source)
    path = resource(f"notebooks/profiles/{source}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ConfigError(f"unknown profile '{source}': choose from {known}, or give the path of a .yaml file")
    return path


def _validated(content: Any, path: Path, name: str) -> Profile:
    try:
        profile = Profile.model_validate(content)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        keys = [*(str(key) for key in first["loc"] if key != "[key]"), first.get("ctx", {}).get("key")]
        message = first["msg"].replace("Input should be", "must be").replace("must be None", "must be left out")
        message = message.replace("a valid boolean", "true or false").replace("a valid dictionary", "a mapping")
        given = "" if first["type"] == "keys" else f", not {reprlib.repr(first['input'])}"
        raise ConfigError(f"profile {path}: {'.'.join(filter(None, keys))}: {message}{given}") from error
    with _naming(path, "architectures"):
        if profile.model.label in profile.architectures:
            raise ConfigError(f"{profile.model.label} is the profile's model already")
    profile._name = name
    profile._source = path.stem if path.parent == resource("notebooks/profiles") else str(path.absolute())
    for key, supernet in profile.supernets().items():
        with _naming(path, key):
            models.import_model(supernet.name, path.absolute().parent)
            models.check(supernet.name, {**supernet.model_dump(exclude={"name"}, exclude_unset=True), "num_classes": 2})
    common, base = profile.recipe.settings(), profile.base.settings()
    recipes = {
        f"architectures.{label}.recipe": base | a.recipe.settings() for label, a in profile.architectures.items()
    }
    for key, changes in {"recipe": {}, "base": base, "depth": profile.depth.settings(), **recipes}.items():
        with _naming(path, key):
            Recipe(**{"epochs": 1, "lr": 1.0} | common | changes)
    return profile


@contextmanager
def _naming(path: Path, *key: str) -> Iterator[None]:
    """Put file and key before the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(": ".join([f"profile {path}", *key, str(error)])) from error
