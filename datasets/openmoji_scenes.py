"""Drawing for prepare_openmoji.py: glyphs, backgrounds, scenes with occlusion.

Needs NumPy and Pillow alone, so that a drawing process starts in a moment. Every random choice
comes from the generator that the caller hands in.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mask_polygons import box
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "BACKGROUNDS",
    "Glyphs",
    "Look",
    "Scene",
    "SceneTooFull",
    "draw_scene",
]

_GLYPH_SIZE = 256  # px; objects are at most 160 px on their short side, so most are scaled down
_SOLID = 128  # alpha from which a pixel belongs to an object
_TRIES = 40  # places tried for an object before the whole scene is drawn smaller
_SHRINK = 0.85
_RESTARTS = 20  # 0.85**20 is 4 %: by then every object has its smallest size


class SceneTooFull(ValueError):
    """The objects of a scene cannot be placed, even at their smallest size."""


@dataclass(frozen=True)
class Look:
    """How scenes are drawn.

    Attributes:
        size: side of the square image, pixels
        short_side: smallest and largest short side of an object's box, pixels
        rotation: largest turn to either side, degrees
        colour: strength of colour changes; 1 turns the hue by up to 20 degrees and changes
            saturation, contrast and brightness by up to a quarter; 0 changes nothing
        occlusion: largest share of an object's own pixels that others may hide
        quality: of the JPEGs
    """

    size: int = 320
    short_side: tuple[int, int] = (20, 160)
    rotation: float = 30.0
    colour: float = 1.0
    occlusion: float = 0.5
    quality: int = 70


@dataclass(frozen=True)
class Scene:
    """A drawn image.

    Attributes:
        jpeg: the file's bytes
        masks: (N, H, W) bool, the visible pixels of each object; disjoint
        whole: (N,) int, pixels of each object before others hid some of it
        family: name of the background's family
    """

    jpeg: bytes
    masks: np.ndarray
    whole: np.ndarray
    family: str


class Glyphs:
    """Colour glyphs of a font as RGBA pictures cut to their outline, each drawn once."""

    def __init__(self, font_file: str | Path):
        self._font = ImageFont.truetype(str(font_file), _GLYPH_SIZE)
        self._cache: dict[int, Image.Image] = {}

    def __getitem__(self, code_point: int) -> Image.Image:
        if code_point not in self._cache:
            self._cache[code_point] = self._draw(chr(code_point))
        return self._cache[code_point]

    def _draw(self, text: str) -> Image.Image:
        left, top, right, bottom = self._font.getbbox(text)
        canvas = Image.new("RGBA", (int(right - left) + 8, int(bottom - top) + 8))
        draw = ImageDraw.Draw(canvas)
        draw.text((4 - left, 4 - top), text, font=self._font, embedded_color=True)
        return canvas.crop(canvas.getchannel("A").getbbox())


# Backgrounds -------------------------------------------------------------------------------------
# A family draws a field (H, W) in [0, 1]; colours are laid over it. The two splits share none.
Field = Callable[[np.random.Generator, int], np.ndarray]


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return x, y


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in pixels along and across a random direction."""
    x, y = _grid(size)
    angle = rng.uniform(0, np.pi)
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return x * c + y * s, y * c - x * s


def _noise(rng: np.random.Generator, size: int, coarsest: int, octaves: int) -> np.ndarray:
    """Value noise of several octaves; `coarsest` is the number of cells a side in the first."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        cells = rng.random((coarsest * 2**octave + 1,) * 2, dtype=np.float32)
        layer = Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(layer) / 2**octave
    return _stretched(total)


def _stretched(field: np.ndarray) -> np.ndarray:
    low, high = field.min(), field.max()
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    along, _ = _turned(rng, size)
    return _stretched(_stretched(along) + 0.3 * _noise(rng, size, 3, 3))


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    return _noise(rng, size, int(rng.integers(2, 6)), 4)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    along, _ = _turned(rng, size)
    wobble = 12 * _noise(rng, size, 3, 2)
    return 0.5 + 0.5 * np.sin((along + wobble) * (2 * np.pi / rng.uniform(14, 60)))


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    along, across = _turned(rng, size)
    side = rng.uniform(20, 60)
    return np.float32(0.6) * ((along // side + across // side) % 2) + 0.4 * _noise(rng, size, 6, 2)


def _blobs(rng: np.random.Generator, size: int) -> np.ndarray:
    centres = rng.uniform(0, size, (2, int(rng.integers(8, 25)), 1))
    widths = rng.uniform(0.03, 0.12, centres.shape[1:]) * size
    x, y = np.exp(-((np.arange(size) - centres) ** 2) / (2 * widths**2)).astype(np.float32)
    return _stretched(np.minimum(y.T @ x, np.float32(1.2)))


def _rings(rng: np.random.Generator, size: int) -> np.ndarray:
    x, y = _grid(size)
    cx, cy = rng.uniform(-0.3 * size, 1.3 * size, 2)
    radius = np.hypot(x - cx, (y - cy) * rng.uniform(0.6, 1.6))
    return 0.5 + 0.5 * np.sin(radius * (2 * np.pi / rng.uniform(18, 70)))


def _cells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Distance to the nearest of scattered points: pebbles, scales."""
    x, y = _grid(size)
    nearest = np.full((size, size), np.inf, np.float32)
    for cx, cy in rng.uniform(0, size, (int(rng.integers(15, 45)), 2)):
        nearest = np.minimum(nearest, (x - cx) ** 2 + (y - cy) ** 2)
    return _stretched(np.sqrt(nearest))


def _weave(rng: np.random.Generator, size: int) -> np.ndarray:
    along, across = _turned(rng, size)
    a, b = rng.uniform(0.1, 0.35, 2)
    return 0.5 + 0.25 * np.sin(along * a) + 0.25 * np.sin(across * b)


def _marble(rng: np.random.Generator, size: int) -> np.ndarray:
    along, _ = _turned(rng, size)
    veins = along * (2 * np.pi / rng.uniform(60, 140)) + 9 * _noise(rng, size, 4, 4)
    return np.abs(np.sin(veins)).astype(np.float32)


BACKGROUNDS: dict[str, dict[str, Field]] = {
    "train": {
        "gradient": _gradient,
        "clouds": _clouds,
        "stripes": _stripes,
        "checks": _checks,
        "blobs": _blobs,
    },
    "val": {"rings": _rings, "cells": _cells, "weave": _weave, "marble": _marble},
}


def _background(rng: np.random.Generator, size: int, field: Field) -> np.ndarray:
    """(H, W, 3) float32 in 0..255: a field between two colours, with a fine grain."""
    first, second = rng.uniform(30, 235, (2, 1, 1, 3)).astype(np.float32)
    share = np.asarray(field(rng, size), np.float32)[..., None]
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0, 1.5))
    return first + (second - first) * share + grain


# Objects -----------------------------------------------------------------------------------------
# Luma and two axes of colour. Source: NTSC's YIQ.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _recoloured(rgb: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Turn the hue; change saturation, contrast and brightness. (..., 3) float32 in 0..255."""
    turn, saturation, contrast, brightness = rng.uniform(-1, 1, 4) * strength
    angle = np.deg2rad(20 * turn)
    c, s = np.cos(angle) * (1 + saturation / 4), np.sin(angle) * (1 + saturation / 4)
    matrix = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _YIQ
    matrix = (matrix * (1 + contrast / 4)).astype(np.float32)
    # 16 is an eighth of the half range: together with the contrast about a quarter.
    return rgb @ matrix.T + np.float32(16 * brightness - 32 * contrast)


def _object(glyph: Image.Image, short: float, look: Look, rng: np.random.Generator) -> np.ndarray:
    """A glyph turned, scaled and recoloured; (h, w, 4) float32 in 0..255.

    The short side of the box of its solid pixels is about `short` pixels, less where the long side
    would leave the image, and never below the smallest one where the image has the room.
    """
    angle = rng.uniform(-look.rotation, look.rotation)
    # Turning costs by the pixel: most of them are left out first.
    smaller = glyph.reduce(max(1, int(min(glyph.size) / short)))
    turned = smaller.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    turned = turned.crop(box(_solid(np.asarray(turned))))
    for extra in range(_TRIES):  # thin ends fade when scaled down, and the box shrinks with them
        scale = min((short + extra) / min(turned.size), look.size / max(turned.size))
        sides = [max(1, round(side * scale)) for side in turned.size]
        method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
        pixels = np.asarray(turned.resize(sides, method), np.float32).copy()
        if _short_side(_solid(pixels)) >= look.short_side[0]:
            break
    pixels[..., :3] = np.clip(_recoloured(pixels[..., :3], rng, look.colour), 0, 255)
    return pixels


def _solid(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 3] >= _SOLID


def _short_side(mask: np.ndarray) -> int:
    left, top, right, bottom = box(mask)
    return min(right - left, bottom - top)


class _Canvas:
    """An image in the making: colours, which object owns a pixel, how large each was whole."""

    def __init__(self, background: np.ndarray, look: Look):
        self.colours = background.copy()
        self.owner = np.full(background.shape[:2], -1, np.int16)
        self.whole: list[int] = []
        self._look = look

    def place(self, pixels: np.ndarray, rng: np.random.Generator) -> bool:
        """Lay an object on top, where it hides no other too much; False where no place is found."""
        solid = _solid(pixels)
        if _short_side(solid) < self._look.short_side[0]:
            return False
        room = np.array(self.owner.shape) - solid.shape
        for _ in range(_TRIES):
            y, x = rng.integers(0, room + 1)
            area = np.s_[y : y + solid.shape[0], x : x + solid.shape[1]]
            owner = self.owner.copy()
            owner[area][solid] = len(self.whole)
            if self._sound(owner, np.unique(self.owner[area][solid])):
                self.owner = owner
                self.whole.append(int(solid.sum()))
                alpha = pixels[..., 3:] / 255
                self.colours[area] += (pixels[..., :3] - self.colours[area]) * alpha
                return True
        return False

    def _sound(self, owner: np.ndarray, touched: np.ndarray) -> bool:
        """Whether every object that lost pixels stays visible and large enough."""
        for index in touched[touched >= 0]:
            visible = owner == index
            if visible.sum() < (1 - self._look.occlusion) * self.whole[index]:
                return False
            if _short_side(visible) < self._look.short_side[0]:
                return False
        return True


def draw_scene(
    glyphs: Sequence[Image.Image], split: str, look: Look, rng: np.random.Generator
) -> Scene:
    """Draw one image with one object a glyph, each wholly inside the image.

    The short sides are drawn from a triangular distribution of their logarithm, so that most
    objects are of medium size.

    Args:
        glyphs: RGBA pictures; later ones lie on top of earlier ones
        split: ``"train"`` or ``"val"``: which families of backgrounds to choose from
    Raises:
        SceneTooFull: the objects have no room even at their smallest size
    """
    families = BACKGROUNDS[split]
    family = list(families)[rng.integers(len(families))]
    background = _background(rng, look.size, families[family])
    low, high = np.log(look.short_side)
    middle = (low + high) / 2
    sizes = [rng.triangular(low, middle, high) if high > low else low for _ in glyphs]
    for restart in range(_RESTARTS):
        canvas = _Canvas(background, look)
        shorts = np.exp(np.maximum(np.array(sizes) + restart * np.log(_SHRINK), low))
        if all(
            canvas.place(_object(glyph, short, look, rng), rng)
            for glyph, short in zip(glyphs, shorts, strict=True)
        ):
            break
    else:
        raise SceneTooFull(
            f"{len(glyphs)} objects of at least {look.short_side[0]} px do not fit into "
            f"{look.size} x {look.size} px"
        )
    image = Image.fromarray(np.clip(canvas.colours, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=look.quality, optimize=True)
    masks = canvas.owner == np.arange(len(glyphs), dtype=np.int16)[:, None, None]
    return Scene(buffer.getvalue(), masks, np.array(canvas.whole), family)
