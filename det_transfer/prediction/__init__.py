"""Detecting in a user's files: images and videos are read one by one, what is found is written."""

from .found import ONE, Found, Named, category_ids, named, writing
from .program import Summary, predict
from .sources import Frame, Reader, Source, find_sources

__all__ = [
    "ONE",
    "Found",
    "Frame",
    "Named",
    "Reader",
    "Source",
    "Summary",
    "category_ids",
    "find_sources",
    "named",
    "predict",
    "writing",
]
