"""A page as data, and its way into one HTML file that needs nothing else.

The file has no script and asks for nothing outside itself: its Content-Security-Policy forbids it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = [
    "Cell",
    "Code",
    "Figure",
    "Page",
    "Picture",
    "Section",
    "Table",
    "Tile",
    "heat",
    "number",
    "render",
]

NONE = "-"


@dataclass(frozen=True)
class Cell:
    """Attributes:
    share: 0 to 1, how strongly it is coloured
    """

    text: str
    share: float = 0.0


@dataclass
class Table:
    """Attributes:
    head: its first column is words, the others are numbers
    title: where it is folded away, what is on the fold
    words: numbers of the columns, beside the first, that are words too
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    folded: bool = False
    words: Sequence[int] = ()
    kind: str = "table"

    def is_word(self, column: int) -> bool:
        return column == 0 or column in self.words


@dataclass
class Figure:
    """A drawing and the same as numbers."""

    title: str
    svg: str
    table: Table
    note: str = ""
    kind: str = "figure"


@dataclass
class Picture:
    """Attributes:
    images: (data URI, what it shows, width, height in pixels) beside one another
    """

    title: str
    images: Sequence[tuple[str, str, int, int]]
    note: str = ""
    kind: str = "picture"


@dataclass(frozen=True)
class Code:
    text: str
    kind: str = "code"


@dataclass
class Section:
    """Attributes:
    parts: tables, figures, pictures, sentences
    """

    title: str
    parts: list[Any] = field(default_factory=list)
    lead: str = ""

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())

    def groups(self) -> list[tuple[str, list[Any]]]:
        """The parts, those of one kind that follow one another together."""
        by_kind = itertools.groupby(self.parts, key=lambda part: getattr(part, "kind", "text"))
        return [(kind, list(parts)) for kind, parts in by_kind]


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str = ""


@dataclass
class Page:
    """Attributes:
    lead: the sentence that a reader takes away
    missing: sentences about what could not be shown
    footer: how the page was made
    """

    title: str
    subtitle: str
    lead: str
    tiles: list[Tile] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    footer: str = ""


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number for a reader; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def heat(text: str, share: float) -> Cell:
    """A cell that is the stronger coloured the larger its share."""
    return Cell(text, min(max(share, 0.0), 1.0))


def render(page: Page) -> str:
    """The whole file. Half a surrogate pair, which json can hold and UTF-8 cannot, becomes "?"."""
    environment = Environment(
        loader=PackageLoader("det_transfer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["text"] = lambda part: isinstance(part, str)
    environment.tests["cell"] = lambda value: isinstance(value, Cell)
    text = environment.get_template("page.html").render(page=page)
    return text.encode("utf-8", "replace").decode("utf-8")
