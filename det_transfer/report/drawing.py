"""Objects drawn on images, and images put together: the parts of every picture that we make."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont

__all__ = ["Shape", "annotated", "below", "beside"]

# Eight hues that stay apart for colour-blind eyes. Source: Okabe and Ito 2008, without the yellow
# that vanishes on white, and a grey.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#882255", "#666666")
# Of a family's colour, the share that stays; the rest is black. White words can be read on all.
_SHADES = (1.0, 0.75, 0.55, 0.88, 0.65)
_GAP = 8  # pixels between pictures
_BAR = 20  # pixels of the title above one
_FILLED = 0.35  # of a mask's pixels is its colour


@dataclass(frozen=True)
class Shape:
    """An object on a picture.

    Attributes:
        category: chooses the colour
        box: x, y, width, height in pixels of the picture
        mask: (height, width) bool, of the whole picture; None: the box alone
        outlined: its mask, or box, has a thick white and black edge
        family: None, or the number of a hue, of which the category chooses a shade
    """

    category: int
    name: str
    box: Sequence[float]
    mask: NDArray[np.bool_] | None = None
    outlined: bool = False
    family: int | None = None


def annotated(
    picture: Image.Image, title: str, shapes: Sequence[Shape], scale: float = 1.0
) -> Image.Image:
    """`picture` magnified with a title above, each object with its mask, its box and its name.

    Without a title there is no strip for one.
    """
    bar = _BAR if title else 0
    font = ImageFont.load_default(size=13)
    size = round(picture.width * scale), round(picture.height * scale)
    filled = picture.resize(size)
    for shape in shapes:
        if shape.mask is not None:
            _fill(filled, shape)
    canvas = Image.new("RGB", (size[0], size[1] + bar), "white")
    canvas.paste(filled, (0, bar))
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 2), title, fill="black", font=font)
    for shape in sorted(shapes, key=lambda shape: -shape.box[2] * shape.box[3]):
        x, y, width, height = (scale * side for side in shape.box)
        colour = _colour(shape)
        edges = (x, y + bar, x + width, y + height + bar)
        if shape.outlined and shape.mask is None:
            draw.rectangle(edges, outline="black", width=5)
            draw.rectangle(edges, outline="white", width=3)
        draw.rectangle(edges, outline=colour, width=1 if shape.outlined else 2)
        _label(draw, shape.name, x, y + bar, colour, font, canvas.size, bar)
    return canvas


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """From left to right."""
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    result = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        result.paste(picture, (left, 0))
        left += picture.width + _GAP
    return result


def below(pictures: Sequence[Image.Image]) -> Image.Image:
    """From top to bottom."""
    turned = [picture.transpose(Image.Transpose.TRANSPOSE) for picture in pictures]
    return beside(turned).transpose(Image.Transpose.TRANSPOSE)


def _colour(shape: Shape) -> str:
    if shape.family is None:
        return _COLOURS[shape.category % len(_COLOURS)]
    share = _SHADES[shape.category % len(_SHADES)]
    rgb = ImageColor.getrgb(_COLOURS[shape.family % len(_COLOURS)])
    return "#{:02X}{:02X}{:02X}".format(*(round(share * value) for value in rgb))


def _fill(picture: Image.Image, shape: Shape) -> None:
    mask = Image.fromarray(np.uint8(shape.mask) * 255).resize(picture.size)
    picture.paste(_colour(shape), mask=mask.point(lambda value: value * _FILLED))
    if shape.outlined:
        for colour, reach in (("black", 7), ("white", 5)):
            around = mask.filter(ImageFilter.MaxFilter(reach))
            picture.paste(colour, mask=ImageChops.subtract(around, mask))


def _label(draw, text, left, top, colour, font, size, bar) -> None:
    """The name on a filled strip above the box, moved where it would leave the picture."""
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    width, height = x1 - x0 + 6, y1 - y0 + 6
    left = max(min(left, size[0] - width), 0)
    top = min(max(top - height, bar), size[1] - height)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 3 - x0, top + 3 - y0), text, fill="white", font=font)
