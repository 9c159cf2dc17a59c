"""Detecting in a user's files: images and videos are read one by one, what is found is written."""

from .found import Found, category_ids, writing
from .sources import Frame, Reader, Source, find_sources

__all__ = ["Found", "Frame", "Reader", "Source", "category_ids", "find_sources", "writing"]
