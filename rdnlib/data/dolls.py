"""`dolls`: a small image-classification set drawn by numpy, so that every notebook runs without a download.

Ten classes of Russian-doll figures (two silhouettes × five bellies). Each image has a known difficulty, which the
paper's data sets lack: it lets the book show that easy images leave the network early (Sections 1 and 3.4).
"""

import numpy as np

from rdnlib.errors import ConfigError

FIGURES = ("doll", "bear")
BELLIES = ("one doll inside", "two dolls inside", "two buttons", "three buttons", "stripes")
CLASSES = tuple(f"{figure}, {belly}" for figure in FIGURES for belly in BELLIES)
SPLITS = ("train", "validation")

_BLOCK = 50  # images drawn together from one random stream; a multiple of the number of classes
_CLUTTER, _OCCLUDERS = 8, 2  # most shapes behind and in front of the figure


def draw(count: int, *, size: int = 32, seed: int = 0, split: str = "train") -> tuple[np.ndarray, ...]:
    """Draw the first `count` images of a split.

    Image n depends on (seed, split, n) only: fewer images are a prefix of more, and another size shows the same scene.
    Every ten images in a row hold one of each class. Difficulty is uniform in [0, 1]: with it the figure gets smaller,
    contrast falls, and clutter, occlusion and noise grow; colour, position and rotation do not depend on it.

    Returns images uint8 (count, 3, size, size), labels int64 (count,) into `CLASSES`, difficulty float32 (count,).
    Raises ConfigError for an unknown split, or a count, size or seed that is out of range.
    """
    if split not in SPLITS:
        raise ConfigError(f"dolls has no split {split!r}; choose one of {', '.join(SPLITS)}")
    if count < 1 or size < 8 or seed < 0:
        raise ConfigError(f"dolls needs count ≥ 1, size ≥ 8 and seed ≥ 0, not {count}, {size} and {seed}")
    images = np.empty((count, 3, size, size), np.uint8)
    labels = np.empty(count, np.int64)
    difficulty = np.empty(count, np.float32)
    for start in range(0, count, _BLOCK):
        rng = np.random.default_rng([seed, SPLITS.index(split), start // _BLOCK])
        rows = slice(start, min(start + _BLOCK, count))
        block, wanted = _Block(rng, size), slice(rows.stop - start)
        images[rows], labels[rows], difficulty[rows] = block.image[wanted], block.labels[wanted], block.level[wanted]
    return images, labels, difficulty


class _Block:
    """One block of images. The scene is drawn from `rng` first and the noise, which alone needs `size`, last."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.pixel = rng, 2 / size  # the image spans [-1, 1], so a pixel is 2 / size wide
        classes = np.tile(np.arange(len(CLASSES)), (_BLOCK // len(CLASSES), 1))
        self.labels = rng.permuted(classes, axis=1).ravel()
        self.level = rng.random(_BLOCK, np.float32)
        centres = (np.arange(size, dtype=np.float32) + 0.5) * self.pixel - 1
        self.x, self.y = centres[None, None, :], centres[None, :, None]  # (1, 1, S), (1, S, 1)

        self._background(size)
        self._figure()
        self._occluders()
        contrast = 1 - 0.6 * self._nuisance()[:, None]  # (B, 1, 1, 1)
        noise = 0.01 + 0.055 * self._nuisance()[:, None]
        self.canvas = 0.5 + contrast * (self.canvas - 0.5)
        self.canvas += noise * rng.standard_normal(self.canvas.shape, np.float32)
        self.image = (self.canvas.clip(0, 1) * 255).round().astype(np.uint8)

    def _uniform(self, low: float = 0, high: float = 1) -> np.ndarray:
        """One number for each image, (B, 1, 1)."""
        return self.rng.uniform(low, high, (_BLOCK, 1, 1)).astype(np.float32)

    def _nuisance(self) -> np.ndarray:
        """The strength of one nuisance, (B, 1, 1) in [0, 1]: the difficulty, with an offset drawn for each nuisance."""
        return (self.level[:, None, None] + self._uniform(-0.15, 0.15)).clip(0, 1)

    def _colour(self, luminance: np.ndarray) -> np.ndarray:
        """Any hue at a given luminance (B, 1, 1): RGB (B, 3, 1, 1)."""
        turns = self._uniform() + np.arange(3, dtype=np.float32)[:, None] / 3  # (B, 3, 1)
        return (luminance + self._uniform(0.03, 0.22) * np.cos(2 * np.pi * turns))[..., None]

    def _paint(self, distance: np.ndarray, colour: np.ndarray, opacity: np.ndarray | float = 1.0) -> None:
        """Blend a colour into the canvas wherever a signed distance (B, S, S) is negative; the edge is antialiased."""
        cover = opacity * (0.5 - distance / self.pixel).clip(0, 1)
        self.canvas += cover[:, None] * (colour - self.canvas)

    def _blob(self, radius: np.ndarray) -> np.ndarray:
        """Signed distance to an ellipse or bar of random position and rotation, (B, S, S)."""
        u, v = _rotated(self.x - self._uniform(-1, 1), self.y - self._uniform(-1, 1), self._uniform(0, 2 * np.pi))
        flat = self._uniform(0.3, 1)
        bar = np.maximum(np.abs(u) - radius, np.abs(v) - 0.6 * flat * radius)
        return np.where(self._uniform() < 0.5, bar, _ellipse(u, v, radius, flat * radius))

    def _background(self, size: int) -> None:
        self.dark = self._uniform(0.3, 0.7)  # luminance of the background
        self.canvas = np.empty((_BLOCK, 3, size, size), np.float32)
        self.canvas[:] = self._colour(self.dark)
        u, v = _rotated(self.x, self.y, self._uniform(0, 2 * np.pi))
        waves = np.sin(self._uniform(2, 9) * u + self._uniform(0, 6)) * np.sin(self._uniform(1, 6) * v)
        self.canvas += (self._uniform(0.02, 0.1) * u + 0.12 * self._nuisance() * waves)[:, None]
        shown = self._nuisance() * _CLUTTER
        for number in range(_CLUTTER):
            colour = self._colour(self.dark + self._uniform(-0.25, 0.25))
            self._paint(self._blob(self._uniform(0.1, 0.35)), colour, (shown - number).clip(0, 1))

    def _figure(self) -> None:
        """The doll itself, in its own frame: v runs from -1 (top of the head) to 1 (feet)."""
        scale = 0.92 - 0.36 * self._nuisance() - self._uniform(0, 0.08)
        room = 1 - 0.95 * scale  # how far it may stand from the centre
        self.scale, self.at = scale, (self._uniform(-1, 1) * room, self._uniform(-1, 1) * room)
        u, v = _rotated(self.x - self.at[0], self.y - self.at[1], self._uniform(-1.6, 1.6))
        u, v = u / (scale * self._uniform(0.9, 1.15)), v / scale
        figure, belly = np.divmod(self.labels[:, None, None], len(BELLIES))

        lighter = np.where(self._uniform() < (1 - self.dark), 1, -1).astype(np.float32)
        skin = self.dark + lighter * self._uniform(0.2, 0.35)
        body, marks = self._colour(skin), self._colour(skin - lighter * self._uniform(0.3, 0.45))

        silhouette = _doll(u, v)
        ears = np.minimum(_disc(u - 0.34, v + 0.84, 0.22), _disc(u + 0.34, v + 0.84, 0.22))
        silhouette = np.where(figure == 1, np.minimum(silhouette, ears), silhouette)
        self._paint(silhouette * scale, body)
        eyes = np.minimum(_disc(u - 0.14, v + 0.6, 0.06), _disc(u + 0.14, v + 0.6, 0.06))
        self._paint(eyes * scale, marks)

        # distances of the five bellies; an inner doll is the silhouette again, in `inner` of its size
        middle, inner = v - self._uniform(0.3, 0.4), self._uniform(0.46, 0.54)
        outer = _doll(u / inner, middle / inner) * inner
        core = _doll(u / inner**2, (middle - 0.04) / inner**2) * inner**2
        step, radius = self._uniform(0.27, 0.33), self._uniform(0.1, 0.13)
        pair = np.minimum(_disc(u, middle + step / 2, radius), _disc(u, middle - step / 2, radius))
        triple = np.minimum(_disc(u, middle, radius), _disc(u, np.abs(middle) - step, radius))
        stripes = np.maximum(silhouette + 0.06, np.abs(np.abs(middle) - step / 2) - 0.6 * radius)
        chosen = np.choose(belly, [outer, np.maximum(outer, -core), pair, triple, stripes])
        self._paint(chosen * scale, marks)

    def _occluders(self) -> None:
        """Rectangles over the rim of the figure, so that little of what tells the class is lost."""
        for _ in range(_OCCLUDERS):
            radius = 0.3 * self.scale * self._nuisance()
            away = self._uniform(0, 2 * np.pi)
            x = self.at[0] + 0.6 * self.scale * np.cos(away)
            y = self.at[1] + 0.8 * self.scale * np.sin(away)
            u, v = _rotated(self.x - x, self.y - y, self._uniform(0, np.pi))
            distance = np.maximum(np.abs(u) - radius, np.abs(v) - 0.7 * radius)
            self._paint(distance, self._colour(self.dark + self._uniform(-0.25, 0.25)))


def _rotated(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _length(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v)  # np.hypot guards against overflow and is several times slower


def _disc(u: np.ndarray, v: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    return _length(u, v) - radius


def _ellipse(u: np.ndarray, v: np.ndarray, a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    """First-order signed distance: the level function over the length of its gradient."""
    level = _length(u / a, v / b)
    return level * (level - 1) / np.maximum(_length(u / a**2, v / b**2), 1e-6)


def _doll(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A head upon a body, about [-0.6, 0.6] × [-1, 1]."""
    return np.minimum(_disc(u, v + 0.6, 0.38), _ellipse(u, v - 0.35, 0.6, 0.65))
