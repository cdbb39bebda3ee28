"""The landing page: a result that its numbers decide, and a picture in which every image rests below its exit."""

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.fakes import K, fake_base, fake_runs
from support.profiles import TINY

from rdnlib.calibration.families import calibrate_and_apply
from rdnlib.data.datasets import ImageSet
from rdnlib.reproduction.analysis.outcomes import dynamic
from rdnlib.reproduction.analysis.statistics import Estimate, Evidence
from rdnlib.reproduction.analysis.worth import Comparison
from rdnlib.reproduction.book import landing
from rdnlib.reproduction.book.landing import moving_picture, representative, result_in_words
from rdnlib.reproduction.book.thumbnails import contact_sheet, thumbnail
from rdnlib.reproduction.experiments.config import load_profile


def estimate(value: float, half: float = 0.1, seeds: int = 3) -> Estimate:
    ends = (value - half, value + half)
    return Estimate(value, *ends, seeds, *(ends if seeds > 1 else (np.nan, np.nan)))


def in_words(gain: Estimate, share: Estimate, base: float = 70.0, **more) -> str:
    """share: MAdds, % of the base's."""
    less = {end: getattr(share, end) - 100 for end in ("value", "low", "high", "seeds_low", "seeds_high")}
    return result_in_words(Comparison(gain, replace(share, **less), **more), estimate(base))


@pytest.mark.parametrize(
    ("gain", "share", "says"),
    [
        (estimate(0.0), estimate(80), ("is as accurate", "The RDN is the better choice")),
        (estimate(1.0), estimate(80), ("1.0 points more accurate", "The RDN is the better choice")),
        (estimate(1.0), estimate(120), ("more accurate", "Accuracy is gained for more computation")),
        (estimate(-3.0), estimate(80), ("3.0 points less accurate", "Accuracy is given up for computation")),
        (estimate(-3.0), estimate(120), ("less accurate", "The base network is the better choice")),
        (estimate(-3.0), estimate(97, 5), ("less accurate", "The base network is the better choice")),
        (estimate(0.0), estimate(120), ("is as accurate", "The base network is the better choice")),
        (estimate(0.0, 2), estimate(80), ("cannot be told apart", "may lose accuracy")),
        (estimate(0.0, 2), estimate(100, 5), ("cannot be told apart", "Neither is clearly the better choice")),
        (estimate(1.0), estimate(100, 5), ("more accurate", "The RDN is the better choice")),
    ],
)
def test_the_verdict_follows_from_the_numbers(gain, share, says):
    text = in_words(gain, share, 74.5)
    assert all(part in text for part in says) and f"{share.value:.0f} %" in text and "74.5 %" in text
    assert "3 seeds)" in text and "no λ" not in text
    low, high = gain.hull
    assert f"(95 % interval {low:+z.1f} to {high:+z.1f})" in text
    assert f"multiply-adds</b> ({share.low:.0f} to {share.high:.0f} %) of the base" in text


def test_little_evidence_and_targets_out_of_reach_are_said():
    text = in_words(estimate(-1, seeds=1), estimate(90, seeds=1), missed=1)
    assert "1 seed: an illustration, not a test" in text and "no λ reaches the base’s accuracy; the most" in text
    some = [in_words(estimate(-1), estimate(90), missed=missed) for missed in (2, 3)]
    assert "accuracy at 2 of 3 seeds; the most" in some[0] and "accuracy at any seed; the most" in some[1]
    exact = in_words(estimate(-1), estimate(90, 0))
    assert "multiply-adds</b> of the base" in exact
    text = in_words(estimate(0), estimate(50), obstacles=["N_K is at chance (10 % < 11 %)"])
    assert text.endswith("nothing can be said about accuracy and cost: N_K is at chance (10 % &lt; 11 %).")
    assert "nothing to compare" in in_words(estimate(np.nan), estimate(50))


class Made(Evidence):
    profile = load_profile(TINY)

    def __init__(self, accuracy: float):
        object.__setattr__(self, "accuracy", accuracy)

    def runs(self, name):
        made = [fake_runs(seed=seed) for seed in range(3)]
        if name == "base-longer":
            return [fake_base(ids=seed, accuracy=self.accuracy) for seed in range(3)]
        return [policy if name.startswith("policy") else rdn for rdn, policy in made]


def test_dynamic_inference_is_calibrated_to_the_base():
    reached, longer = landing.at_the_base(Made(0.76))
    assert reached.missed == 0 and longer.value == pytest.approx(76, abs=3)
    assert abs(reached.gain.value) < 4  # about as accurate, as was asked
    own = []
    for rdn, policy, base in zip(*(Made(0.76).runs(name) for name in ("rdn", "policy", "base-longer")), strict=True):
        held_out, test = (dynamic(rdn, policy, split=split) for split in ("calibration", "validation"))
        frame = base.frame.sort_values("id")
        aim = frame["top1_1"][frame["split"] == "calibration"].to_numpy()
        own.append(calibrate_and_apply(held_out, test, aim).madds.mean() / base.result["madds"][0])
    assert reached.cost.value == pytest.approx(100 * np.mean(own) - 100)
    out_of_reach, _ = landing.at_the_base(Made(0.99))
    assert out_of_reach.missed == 3 and out_of_reach.gain.high < 0


def test_the_papers_sentence_has_its_numbers():
    assert "78 to 97 %" in landing.paper_in_words() and "-0.13 to +0.13 points" in landing.paper_in_words()


@given(st.lists(st.integers(0, 6), max_size=300), st.integers(0, 40))
def test_every_exit_has_its_share_of_the_images_shown(exits, count):
    exits = np.array(exits, dtype=int)
    rows = representative(exits, count)
    assert len(rows) == min(count, len(exits)) and (np.diff(rows) > 0).all()
    for value in set(exits.tolist()):
        shown = (exits[rows] == value).sum()
        assert abs(shown - len(rows) * (exits == value).mean()) < 1
        assert set(np.flatnonzero(exits == value)[:shown]) <= set(rows)


def picture(count: int, images: int = 24):
    rng = np.random.default_rng(0)
    exits, right = rng.integers(0, count, images), rng.random(images) < 0.5
    shares = np.bincount(exits, minlength=count) / max(1, images)
    pixels = rng.integers(0, 255, (images, 3, 8, 8), dtype=np.uint8)
    text = moving_picture(pixels, exits, right, shares, alt="most leave at N 1 & <N 2>", caption="x")
    root = ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.S)[0])
    return text, root, exits, right


@pytest.mark.parametrize("count", [3, 7, 14])
def test_every_image_rests_below_its_exit(count):
    text, root, exits, right = picture(count)
    width, height = map(float, root.get("viewBox").split()[2:])
    names = [e for e in root.iter("text") if e.find("tspan") is not None]
    centres = [float(e.get("x")) for e in names]
    assert ["".join(e.itertext()) for e in names] == [f"N{v + 1}" for v in range(count)]
    taken = set()
    for group, leaves, good in zip(root.findall("g[@class='image']"), exits, right, strict=True):
        x, y, w, h = (float(group.find("image").get(key)) for key in ("x", "y", "width", "height"))
        assert abs(x + w / 2 - centres[leaves]) <= (centres[1] - centres[0]) / 2
        assert x >= 0 and x + w <= width and y + h <= height
        taken.add((x, y))
        assert (group.find("rect").get("stroke-dasharray") is None) == good
    assert len(taken) == len(exits)
    assert root.get("aria-label") == "most leave at N 1 & <N 2>" and "<script" not in text


@pytest.mark.parametrize("images", [0, 1, 24, 200])
def test_it_is_at_rest_within_five_seconds(images):
    text, root, *_ = picture(3, images)
    step = float(re.search(r"--step:([\d.]+)s", root.get("style"))[1])
    assert step * max(0, images - 1) + landing.FLIGHT < 5
    assert [e.get("style").split(";")[0] for e in root.findall("g[@class='image']")] == [
        f"--n:{n}" for n in range(images)
    ]
    moving = text[text.index("no-preference") : text.index("@media print")]
    assert (
        text.count("animation:rdn-leave ") == moving.count("animation:rdn-leave ") == 1
    )  # only where motion is welcome


def test_the_images_are_those_of_the_policys_rows(monkeypatch):
    rdn, policy = fake_runs()
    held_out, samples = (dynamic(rdn, policy, split=split) for split in ("calibration", "validation"))
    ids = np.random.default_rng(3).permutation(samples.ids)  # the data set has an order of its own
    pixels = np.zeros((len(ids), 3, 8, 8), np.uint8) + (ids % 256).astype(np.uint8)[:, None, None, None]
    images = ImageSet(pixels, np.zeros(len(ids), int), ids, np.zeros(len(ids)), ("x",))
    outcome = calibrate_and_apply(held_out, samples, held_out.correct[:, -1])
    shown = {}
    monkeypatch.setattr(landing, "moving_picture", lambda *given, **words: shown.update(given=given, **words))
    landing.exits_picture(images, samples, outcome)
    pixels, exits, right, shares = shown["given"]
    rows = representative(samples.exits(outcome.parameter), 24)
    assert (pixels[:, 0, 0, 0] == samples.ids[rows] % 256).all()
    assert (right == samples.correct[rows, exits]).all() and len(shares) == K
    used = outcome.madds.mean() / samples.madds[-1]
    assert f"{used:.0%} of the multiply-adds" in shown["caption"] and f"N {np.argmax(shares) + 1} " in shown["alt"]


def test_a_thumbnail_is_the_image():
    image = np.full((3, 20, 30), 40, np.uint8)
    image[0] = 200
    kind, _, data = thumbnail(image).partition(",")
    assert kind == "data:image/jpeg;base64"
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert seen.shape == (20, 30, 3) and np.abs(seen.astype(int) - [200, 40, 40]).max() < 12


def test_a_contact_sheet_names_its_rows():
    sheet = contact_sheet(
        {"a & b": np.zeros((4, 3, 8, 8), np.uint8), "c": np.zeros((2, 3, 8, 8), np.uint8)}, caption="two"
    )
    assert re.findall(r"<span>(.*?)</span>", sheet) == ["a &amp; b", "c"]
    assert [row.count("<img") for row in sheet.split("<span>")[1:]] == [
        4,
        2,
    ] and "<figcaption>two</figcaption>" in sheet
