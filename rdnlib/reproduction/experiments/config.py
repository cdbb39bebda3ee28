"""A profile: data, super-nets and recipes of a book's experiments. Pure data, read from YAML and checked as a whole.

Whatever is wrong with a profile is one line that names its file, the key and what is allowed there. Which experiments a profile
asks for is computed from it in `graph`.
"""

import inspect
import reprlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from rdnlib import models
from rdnlib.data import datasets
from rdnlib.errors import ConfigError
from rdnlib.policy.network import fit_policy
from rdnlib.reproduction.experiments.rules import (
    Ascending,
    Begin,
    Crop,
    Groups,
    Label,
    Plain,
    Rates,
    Shares,
    is_part,
    rule,
    with_keys,
)
from rdnlib.reproduction.experiments.toy import shrink
from rdnlib.surgery.nest import INITS
from rdnlib.surgery.select import STRATEGIES
from rdnlib.training.recipe import Recipe
from rdnlib.utils.files import read_yaml
from rdnlib.utils.ranges import Count, Part, Pixels, Positive, Share
from rdnlib.utils.resources import resource


class Section(BaseModel):
    """A mapping with known keys. What a profile does not give is left to whoever uses it, and is not in `settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    def settings(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        return with_keys(value, cls.model_fields, required, others=cls.model_config["extra"] == "allow")


class DataSettings(Section):
    """Arguments of `rdnlib.data.datasets.load`."""

    name: Literal[tuple(datasets.names())]
    size: Pixels = None
    train: Count = None
    validation: Count = None
    calibration: Annotated[Any, rule("must be a share from 0 to 0.9, or a number of images", is_part)] = None
    download: bool = None
    cached: bool = None


class ModelOptions(Section):
    """Arguments of a super-net's builder, besides the number of classes; a network of the user's own may take others."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain]

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


def _arguments(name: str, of: Callable, types: dict[str, Any]) -> type[Section]:
    """A section of keyword arguments, which may all be left out; `types`: where those of the function's signature are not meant."""
    types = {key: parameter.annotation for key, parameter in inspect.signature(of).parameters.items()} | types
    given = {key: (kind, None) for key, kind in types.items() if kind is not None}
    return create_model(name, __base__=Section, __module__=__name__, **given)


RecipeSettings = _arguments("RecipeSettings", Recipe, {"crop_scale": Crop})
_NOT_SET = dict.fromkeys(("features", "correct", "logits", "seed", "progress"))
PolicySettings = _arguments("PolicySettings", fit_policy, {"hidden": list[Count], **_NOT_SET})


class CommonRecipe(RecipeSettings):
    size: Pixels


class BaseRecipe(RecipeSettings):
    epochs: Count
    lr: Positive


class SurgerySettings(Section):
    """`plain`: what to leave untransformed, as `to_rdn` takes it; not set, or null: the paper's choice for the model."""

    k: Groups = None
    plain: Begin = None
    select: Literal[STRATEGIES] = None
    calibration_images: Count = None


class RdnSettings(SurgerySettings):
    """`init`: how the weights start of the RDN that the chapters show, of those of further super-nets, and of depth-wise nesting."""

    k: Groups
    select: Literal[STRATEGIES]
    calibration_images: Count
    epochs: Count
    lr: Rates
    distill: Share = None  # the super-net’s share of the losses
    teach_largest: bool = None  # of N_K's too
    init: Literal[INITS] = "reconstruct"
    largest: Share = None  # N_K's share of the loss


class Architecture(Section):
    """A further super-net, trained like the base but for its `recipe`; `plain` as in `SurgerySettings`.

    rdn: whether its RDN is trained as long as the profile's own, and gets a policy: rows of Table 1.
    """

    model: ModelOptions
    plain: Begin = None
    recipe: RecipeSettings = RecipeSettings()
    rdn: bool = False


class Variant(SurgerySettings):
    """An RDN that differs from the profile's main one in what is said here. seeds: at how many (default: `seeds.variants`)."""

    init: Literal[INITS] = None
    recipe: RecipeSettings = RecipeSettings()
    seeds: Count = None

    def changes(self) -> dict[str, Any]:
        """What differs."""
        return {key: value for key, value in self.settings().items() if key != "seeds"}


class AblationSettings(Section):
    epochs: Count
    lengths: list[Annotated[int, Field(ge=0, le=10**9)]] = []
    slimmable: Shares = None  # None: as many widths as there are sub-networks


class SeedSettings(Section):
    """At how many seeds experiments are run. main: the RDN that the chapters show, its policy and what they are compared with; alone: of
    these the sub-networks that are trained by themselves (default: main); ablations: the RDNs that Tables 4 and 5 compare, variants: the
    RDN of the other start, its policy and the section of that name (default: rest); rest: all others."""

    main: Count = 1
    alone: Count = None
    ablations: Count = None
    variants: Count = None
    rest: Count = 1

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> "SeedSettings":
        if any(not self.rest <= (seeds or self.rest) <= self.main for seeds in (self.ablations, self.variants)):
            raise PydanticCustomError(
                "rule",
                "main must not be below ablations or variants, nor these below rest: what experiments build on has their seeds",
            )
        return self


class Profile(Section):
    """What `notebooks/profiles/<name>.yaml`, or a file of the user's own, says."""

    data: DataSettings
    model: ModelSettings
    recipe: CommonRecipe
    base: BaseRecipe
    rdn: RdnSettings
    policy: PolicySettings
    sequential: PolicySettings = PolicySettings(hidden=[32])  # the policy that looks again
    architectures: dict[Label, Architecture] = {}
    depth: RecipeSettings = RecipeSettings()  # of depth-wise nesting: what differs from the recipe of `rdn`
    training_free: SurgerySettings = SurgerySettings()  # surgery that is not followed by training
    ablations: AblationSettings = None
    seeds: SeedSettings = SeedSettings()
    variants: dict[Label, Variant] = {}  # what makes a good RDN?
    alone: Annotated[list[Count], Ascending] = []  # sub-networks that are also trained by themselves, equally long
    widths: Annotated[list[Positive], Ascending] = []  # of further base networks, the rivals of Figure 8
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

    def like(self, settings: dict[str, Any]) -> "Profile":
        """A profile of the same name and source with other settings."""
        return _validated(settings, _locate(self.source), self.name)

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
        if Path(source).is_file():
            return Path(source)
        raise ConfigError(f"there is no profile {source}: give the path of a .yaml file, or a shipped profile's name")
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
    for label, variant in profile.variants.items():
        with _naming(path, f"variants.{label}.seeds"):
            if (variant.seeds or 1) > profile.seeds.main:
                raise ConfigError(f"must not be above seeds.main, {profile.seeds.main}, at which its base is trained")
    profile._name = name
    profile._source = path.stem if path.parent == resource("notebooks/profiles") else str(path.absolute())
    for key, supernet in profile.supernets().items():
        with _naming(path, key):
            models.import_model(supernet.name, path.absolute().parent)
            models.check(supernet.name, {**supernet.model_dump(exclude={"name"}, exclude_unset=True), "num_classes": 2})
    base, further = profile.base.settings(), profile.architectures.items()
    recipes = {f"architectures.{label}.recipe": base | settings.recipe.settings() for label, settings in further}
    for key, changes in {"recipe": {}, "base": base, "depth": profile.depth.settings(), **recipes}.items():
        with _naming(path, key):
            Recipe(**{"epochs": 1, "lr": 1.0} | profile.recipe.settings() | changes)
    return profile


@contextmanager
def _naming(path: Path, *key: str) -> Iterator[None]:
    """Put file and key before the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(": ".join([f"profile {path}", *key, str(error)])) from error
