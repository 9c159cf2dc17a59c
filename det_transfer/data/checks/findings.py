"""The kinds of things that are wrong with datasets, how bad each is, and what to do about it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

__all__ = ["KINDS", "Finding", "Kind", "Severity", "findings_of", "format_findings", "worst_first"]

_EXAMPLES = 3


class Severity(IntEnum):
    """Worst first."""

    FATAL = 0  # training or evaluation would fail, or learn something else than was meant
    SKIPPED = 1  # training leaves it out and counts it
    WARNING = 2  # training goes on; results may suffer


@dataclass(frozen=True)
class Kind:
    severity: Severity
    what: str  # before the count: "images missing: 3"
    way_out: str


_F, _S, _W = Severity

# A new kind is a new entry; the functions that look for it name it.
KINDS: dict[str, Kind] = {
    "image id twice": Kind(_F, "image ids that are there twice", "give every image its own"),
    "annotation id twice": Kind(
        _F, "annotation ids that are there twice", "number anew: evaluation goes by id"
    ),
    "category id twice": Kind(_F, "category ids that are there twice", "merge or renumber"),
    "unknown image": Kind(
        _F, "annotations of an image that is not in images", "remove them or add the image"
    ),
    "unknown category": Kind(
        _F, "ids of a category that is not in categories", "add the category or correct the id"
    ),
    "no image left": Kind(_F, "datasets without an image to train on", "see what is skipped"),
    "no object left": Kind(
        _F, "datasets without an object to train on", "crowds are none, nor is what is skipped"
    ),
    "missing image": Kind(_S, "images missing", "copy them, or mend file_name"),
    "broken image": Kind(_S, "images that cannot be decoded whole", "get them again"),
    "oversized image": Kind(
        _S, "images larger than Pillow decodes (179 million pixels)", "make them smaller"
    ),
    "other size": Kind(
        _S, "images of another size than the json says", "mend width and height, and the boxes"
    ),
    "turned by EXIF": Kind(
        _S,
        "images turned by their EXIF data, with the size before in the json",
        "turn the pixels and drop the tag, or annotate the upright image",
    ),
    "box not of numbers": Kind(_S, "boxes that are not four finite numbers", "mend them"),
    "box without area": Kind(_S, "boxes without area", "mend or remove them"),
    "box outside": Kind(_S, "boxes outside of their image", "mend or remove them"),
    "no mask": Kind(
        _S,
        "objects without a mask",
        "add masks, or train without: MODEL.MASK_ON False (and INPUT.COPY_PASTE.BOXES True, where "
        "objects are pasted)",
    ),
    "bad polygon": Kind(
        _S,
        "masks without a polygon of six or more finite numbers, even in number, near the image",
        "mend or remove them",
    ),
    "bad run-length code": Kind(
        _S, "masks that are no run-length code of all pixels of their image", "mend or remove them"
    ),
    "same picture in both": Kind(
        _W, "images with a picture that the other set has too", "results on it mean little"
    ),
    "same picture twice": Kind(_W, "images with a picture that is there twice", "keep one of them"),
    "file twice": Kind(_W, "files that two images name", "merge their annotations"),
    "box over the edge": Kind(
        _W, "boxes that reach out of their image and will be cut", "mend them"
    ),
    "polygon dropped": Kind(
        _W,
        "masks that lose a polygon of less than six, an odd number of, or impossible values",
        "mend them",
    ),
    "turned unseen": Kind(
        _W,
        "images turned or mirrored by their EXIF data, at the size that they have without",
        "see that the boxes are of the upright image, which training reads",
    ),
    "other mode": Kind(
        _W,
        "images that lose on becoming 8 bits of red, green and blue, as they are read",
        "convert them as you want them seen",
    ),
    "class without images": Kind(_W, "classes in no image", "remove them, or add images"),
    "class of crowds": Kind(_W, "classes with crowds only: nothing to train on", "add objects"),
    "class name twice": Kind(_W, "class names that are there twice", "merge or rename them"),
    "blank class name": Kind(_W, "class names that are blank or no text", "name them"),
    "frequency": Kind(
        _W,
        "classes whose frequency is not their image_count's (LVIS: r to 10, c to 100, f)",
        "mend frequency: APr, APc and APf go by it",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One kind of trouble, how often it is there, and the first places where."""

    kind: str
    count: int
    examples: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def __str__(self) -> str:
        kind = KINDS[self.kind]
        places = "; ".join(filter(None, self.examples))
        more = "; ..." if self.count > len(self.examples) else ""
        places = f" ({places}{more})" if places else ""
        return f"{kind.what}: {self.count}{places}; {kind.way_out}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity.name.lower(), "line": str(self)}


def findings_of(places: Mapping[str, Sequence[str]]) -> list[Finding]:
    """From kind -> all places where it is to findings with a count and a few of them."""
    return worst_first(
        Finding(kind, len(where), tuple(where[:_EXAMPLES]))
        for kind, where in places.items()
        if where
    )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    order = list(KINDS)
    return sorted(findings, key=lambda f: (f.severity, order.index(f.kind)))


def format_findings(findings: Iterable[Finding]) -> str:
    """A line each, worst first."""
    return "\n".join(f"{f.severity.name.lower():8} {f}" for f in worst_first(findings))
