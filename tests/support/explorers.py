"""An explorer of made-up experiments, for tests and for the pages that they look at."""

from types import SimpleNamespace

from support.fakes import fake_base, fake_runs

from rdnlib.reproduction.analysis.explorer import explore, explore_paper
from rdnlib.reproduction.analysis.outcomes import families
from rdnlib.reproduction.book.explorer import pictures


def data(*, bases: bool = True) -> dict:
    base_runs = {"base": fake_base(seed=6, madds=30_000_000, accuracy=0.93)} if bases else {}
    splits = (families(*fake_runs(), base_runs, split=split) for split in ("calibration", "validation"))
    run = explore(*splits, [*base_runs]) | {"title": "this run"}
    run["pictures"] |= pictures(SimpleNamespace(has_images=False), run["pictures"]["id"])
    return run


def presets() -> list[dict]:
    return [data(), explore_paper() | {"title": "the paper"}]
