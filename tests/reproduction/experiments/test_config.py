"""A profile is checked when it is read: whatever is wrong with it is one line that names the file, the key and what is allowed."""

import copy
import dataclasses
import functools
import operator
import pickle
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdnlib import models
from rdnlib.errors import ConfigError
from rdnlib.reproduction.experiments import graph
from rdnlib.reproduction.experiments.config import RecipeSettings, load_profile
from rdnlib.reproduction.experiments.workspace import Workspace
from rdnlib.training.recipe import Recipe
from rdnlib.utils.resources import resource

QUICK = yaml.safe_load(resource("notebooks/profiles/quick.yaml").read_text())
ABSENT = object()


@pytest.fixture
def write(tmp_path):
    def write(content) -> str:
        path = tmp_path / "mine.yaml"
        path.write_bytes(
            content
            if isinstance(content, bytes)
            else (content if isinstance(content, str) else yaml.safe_dump(content)).encode()
        )
        return str(path)

    return write


def changed(key: str, value) -> dict:
    """The quick profile with another value, or without one (`ABSENT`), at a dotted key."""
    content = copy.deepcopy(QUICK | {"architectures": {"mobilenet_v2": {"model": {}}}})
    *sections, last = key.split(".")
    section = content
    for name in sections:
        section = section[name]
    if value is ABSENT:
        del section[last]
    else:
        section[last] = value
    return content


def complaint(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_profile(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"profile {path}: ")
    return message.removeprefix(f"profile {path}: ")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # unknown keys
        ("recipes", {}, "unknown key: choose from data, model, recipe"),
        ("data.nmae", "dolls", "unknown key: choose from name, size"),
        ("recipe.batchsize", 32, "unknown key: choose from epochs, lr"),
        ("rdn.lr.greedy", 0.1, "unknown key: choose from base, copy, reconstruct"),
        ("ablations.length", [1], "unknown key: choose from epochs, lengths"),
        ("architectures.mobilenet_v2.base", {}, "unknown key: choose from model, plain, recipe"),
        ("policy.optimiser", "sgd", "unknown key: choose from hidden"),
        # missing sections and keys
        ("data", ABSENT, "is missing: needed are data, model, recipe, base, rdn, policy"),
        ("rdn", ABSENT, "is missing: needed are data, model, recipe, base, rdn, policy"),
        ("model.name", ABSENT, "is missing: needed are name"),
        ("recipe.size", ABSENT, "is missing: needed are size"),
        ("base.lr", ABSENT, "is missing: needed are epochs, lr"),
        ("rdn.k", ABSENT, "is missing: needed are k, select"),
        ("rdn.lr.copy", ABSENT, "is missing: needed are base, copy, reconstruct"),
        ("ablations.epochs", ABSENT, "is missing: needed are epochs"),
        # wrong types
        ("data", "dolls", "must be a mapping with the keys name, size"),
        ("rdn.lr", 0.1, "must be a mapping with the keys base, copy, reconstruct"),
        ("base.lr", "fast", "must be a valid number, not 'fast'"),
        ("base.epochs", 1.5, "must be a valid integer, not 1.5"),
        ("base.epochs", True, "must be a valid integer, not True"),
        ("recipe.flip", "no", "must be true or false, not 'no'"),
        ("recipe.crop_scale", 0.5, "must be a valid list, not 0.5"),
        ("policy.hidden", 64, "must be a valid list, not 64"),
        ("architectures", ["mobilenet_v2"], "must be a mapping, not"),
        ("jobs", None, "must be a valid integer, not None"),
        ("model.name", 3, "must be a valid string, not 3"),
        ("model.anything", {"deep": 1}, "must be a number, a text, true, false or a list of these"),
        # values out of range
        ("data.name", "cats", "must be 'dolls', 'imagenette'"),
        ("data.size", 4, "must be greater than or equal to 8, not 4"),
        ("data.calibration", 1.0, "must be a share from 0 to 0.9, or a number of images, not 1.0"),
        ("data.calibration", True, "must be a share from 0 to 0.9, or a number of images, not True"),
        ("seeds", {"main": 1, "rest": 3}, "main must not be below ablations or variants, nor these below rest"),
        ("seeds", {"main": 2, "variants": 3}, "main must not be below ablations or variants, nor these below rest"),
        ("seeds", {"main": 3, "ablations": 1, "rest": 2}, "main must not be below ablations or variants, nor these below rest"),
        ("base.epochs", 0, "must be greater than or equal to 1, not 0"),
        ("base.lr", -0.1, "must be greater than 0, not -0.1"),
        ("base.lr", float("nan"), "must be a finite number"),
        ("recipe.precision", "fp16", "must be 'no' or 'bf16', not 'fp16'"),
        ("recipe.momentum", 1, "must be less than 1, not 1"),
        ("recipe.crop_scale", [0.0, 1.0], "must be greater than 0, not 0.0"),
        ("rdn.k", 1, "must be greater than or equal to 2, not 1"),
        ("rdn.select", "best", "must be 'greedy', 'greedy-relative', 'random' or 'identity', not 'best'"),
        ("rdn.lr.copy", 0, "must be greater than 0, not 0"),
        ("ablations.lengths", [0, -1], "must be greater than or equal to 0, not -1"),
        ("ablations.slimmable", [0.5, 2.0], "must be less than or equal to 1, not 2.0"),
        ("rdn.plain", 1.5, "must be a share of the MAdds, from 0 to below 1, a list of layers' names, or null, not 1.5"),
        ("rdn.plain", "stem", "must be a share of the MAdds"),
        ("rdn.largest", 2, "must be less than or equal to 1, not 2"),
        ("variants", {"late": {"init": "warm"}}, "variants.late.init: must be 'copy' or 'reconstruct', not 'warm'"),
        ("variants", {"late": {"base": {}}}, "variants.late.base: unknown key: choose from k, plain, select"),
        ("variants", {"late": {"seeds": 9}}, "variants.late.seeds: must not be above seeds.main"),
        ("alone", [3, 1], "must be in ascending order, nothing twice"),
        ("jobs", 0, "must be greater than or equal to 1, not 0"),
        ("model.width_mult", 0, "must be greater than 0, not 0"),
        # what does not go together
        ("widths", [0.5, 0.25], "must be in ascending order, nothing twice"),
        ("widths", [0.5, 0.5], "must be in ascending order, nothing twice"),
        ("recipe.crop_scale", [1.0, 0.5], "must be in order, low and high, not [1.0, 0.5]"),
        ("recipe.parts", 5, "a batch of 32 cannot be cut into 5 equal parts"),
        ("model.num_classes", 10, "must be left out, not 10"),
        ("model.name", "vgg", "unknown model 'vgg': choose from mobilenext, mobilenet_v2, resnext50, efficientnet_lite0, or package.module:function"),
        ("model.depth", 3, "model 'mobilenext' does not take these options: got an unexpected keyword argument 'depth'"),
        ("model.name", "nowhere:build", "cannot import nowhere"),
        ("architectures.longer", {"model": {"name": "mobilenet_v2"}}, "must be a word of letters"),
        ("architectures.a/b", {"model": {"name": "mobilenet_v2"}}, "must be a word of letters"),
        ("architectures.mobilenext", {"model": {}}, "mobilenext is the profile's model already"),
        ("architectures.vgg", {"model": {}}, "unknown model 'vgg'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_file_key_and_what_is_allowed(write, key, value, expected):
    message = complaint(write(changed(key, value)))
    assert expected in message
    section = key.split(".")[0]
    assert message.startswith(section), (
        message
    )  # in a section that does not fit another, or is not there, that is the key
    named = message.split(": ")[0]
    assert key.startswith(named) or named.startswith(key), message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "must be a mapping with the keys data, model"),
        ("- data", "must be a mapping with the keys data, model"),
        ("quick", "must be a mapping with the keys data, model"),
        ("data: [1", "line 1: expected ',' or ']'"),
        ("jobs: 1\n\tthreads: 2", "line 2: found character '\\t' that cannot start any token"),
        ("jobs: 1\nthreads: 1\njobs: 2", "line 3: jobs: is given twice"),
        ("base: {lr: 0.1, lr: 0.2}", "line 1: lr: is given twice"),
        ("a: !!python/name:os.system", "line 1: could not determine a constructor"),
        ("? [1]\n: 2", "line 1: found unhashable key"),
        ("1: 2", "1: unknown key: choose from data"),
        (b"\xff\xfe", "cannot be read: 'utf-8' codec"),
        ("[" * 9999, "cannot be read"),
    ],
    ids=range(12),
)
def test_what_is_not_a_profile_at_all(write, content, expected):
    assert expected in complaint(write(content))


def keys_of(content: dict, prefix: str = "") -> list[str]:
    keys = [f"{prefix}{name}" for name in content]
    return keys + [
        k for name, inner in content.items() if isinstance(inner, dict) for k in keys_of(inner, f"{prefix}{name}.")
    ]


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(keys_of(QUICK)),
    value=st.sampled_from([ABSENT, "renamed"])
    | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
def test_a_damaged_profile_is_read_or_refused_in_one_line_that_names_a_key(write, key, value):
    content = changed(key, ABSENT if value == "renamed" else value)
    if value == "renamed":
        *sections, _ = key.split(".")
        functools.reduce(operator.getitem, sections, content)["renamed"] = functools.reduce(
            operator.getitem, key.split("."), QUICK
        )
    path = write(content)
    try:
        graph.experiments(load_profile(path), 0)
    except ConfigError as error:
        message = str(error).removeprefix(f"profile {path}: ")
        assert "\n" not in message and message != str(error)
        named = message.split(": ")[0]
        assert key.split(".")[0] == named.split(".")[0] or named in ("renamed", "recipe"), message


def test_numbers_are_numbers_and_words_are_words(write):
    text = yaml.safe_dump(QUICK).replace(
        "warmup_epochs: 0.5", "min_lr: 1e-4\n  weight_decay: 5E-5\n  precision: no\n  flip: false"
    )
    recipe = load_profile(write(text)).recipe
    assert (recipe.min_lr, recipe.weight_decay, recipe.precision, recipe.flip) == (1e-4, 5e-5, "no", False)
    assert "warmup_epochs" not in recipe.settings()


def test_a_profile_has_the_settings_of_a_recipe():
    assert set(RecipeSettings.model_fields) == {field.name for field in dataclasses.fields(Recipe)}


def test_a_profile_is_named_by_its_file_and_found_again_from_elsewhere(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(QUICK)
    profile = load_profile("mine.yaml")
    assert (profile.name, profile.source) == ("mine", str(tmp_path / "mine.yaml"))
    assert graph.experiments(profile, 0) == graph.experiments(load_profile("quick"), 0)
    assert (load_profile("quick").name, load_profile("quick").source) == ("quick", "quick")
    assert load_profile("mine.yaml", toy=True).name == "mine-toy"
    for wrong in ("other.yaml", "folder/other", "mine"):
        with pytest.raises(ConfigError, match=r"no profile|unknown profile"):
            load_profile(wrong)


def test_another_data_set(write):
    profile = load_profile(write(QUICK), data="folder")
    assert profile.data.settings() == QUICK["data"] | {"name": "folder"}
    with pytest.raises(ConfigError, match=r"data\.name: must be 'dolls'.*not 'cats'"):
        load_profile(write(QUICK), data="cats")


NETWORK = "from torch import nn\n\ndef build(num_classes, channels=8):\n    return nn.Linear(channels, num_classes)\n"


def test_a_network_beside_the_profile_is_known_wherever_the_profile_comes(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(models, "BUILDERS", dict(models.BUILDERS))
    (tmp_path / "net_beside_profile.py").write_text(NETWORK)
    content = changed("model", {"name": "net_beside_profile:build", "channels": 4})
    profile = load_profile(write(content))
    assert models.build("net_beside_profile:build", num_classes=3, channels=4).out_features == 3
    assert "surgery-net_beside_profile.build" in graph.experiments(profile, 0)
    keys = {name: Workspace(profile, None, 0, tmp_path).key(name) for name in ("base", "rdn-copy")}
    (tmp_path / "net_beside_profile.py").write_text(NETWORK + "# changed\n")
    assert all(Workspace(profile, None, 0, tmp_path).key(name) != key for name, key in keys.items())
    sent = pickle.dumps(profile)
    del models.BUILDERS["net_beside_profile:build"]
    assert pickle.loads(sent) == profile
    assert "net_beside_profile:build" in models.BUILDERS
    content["model"]["colour"] = "red"
    assert "model 'net_beside_profile:build' does not take these options" in complaint(write(content))
    content["model"]["name"] = "net_beside_profile:nothing"
    assert "has no function nothing" in complaint(write(content))
