"""Whether a json is COCO or LVIS format at all."""

import itertools
from collections.abc import Iterator
from typing import Any

__all__ = ["format_problems"]

_REQUIRED = {
    "images": ("id", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


def format_problems(content: Any) -> Iterator[str]:
    """Why `content` is neither COCO nor LVIS format, a line each; nothing where it is one of them.

    Looks at all entries, for the keys that everything later relies on and for ids that can be ids.
    """
    if not isinstance(content, dict):
        yield f"is a json {type(content).__name__}, not the object of COCO or LVIS format"
        return
    missing = [name for name in _REQUIRED if not isinstance(content.get(name), list)]
    if missing:
        found = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        yield f"is not COCO or LVIS format: no list {', '.join(missing)} (found: {found})"
        return
    for name, keys in _REQUIRED.items():
        for index, entry in enumerate(content[name]):
            absent = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if absent:
                yield f"{name}[{index}] has no {', '.join(absent)}"
                break
    for index, image in enumerate(content["images"]):
        if isinstance(image, dict) and not {"file_name", "coco_url"} & set(image):
            yield f"images[{index}] has no file_name (COCO) or coco_url (LVIS)"
            break
    yield from _value_problems(content)
    for name in ("images", "categories"):
        if not content[name]:
            yield f"has no {name}"


def _is_id(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_flag(value: Any) -> bool:
    return value is None or isinstance(value, int)


_FLAG = (_is_flag, "0 or 1")
_ID, _SIDE, _FILE = (_is_id, "a 64-bit integer"), (_is_side, "an integer > 0"), (_is_file, "text")
_IDS = (_is_ids, "a list of integers")
# What nothing later can work without, where the key is there at all.
_VALUES = {
    "images": {
        **{"id": _ID, "height": _SIDE, "width": _SIDE, "file_name": _FILE, "coco_url": _FILE},
        **{"neg_category_ids": _IDS, "not_exhaustive_category_ids": _IDS},
    },
    "categories": {"id": _ID},
    "annotations": {
        **{"id": _ID, "image_id": _ID, "category_id": _ID},
        **{"iscrowd": _FLAG, "ignore": _FLAG},
    },
}


def _value_problems(content: dict[str, Any]) -> Iterator[str]:
    """Ids, sizes and names of a type that nothing later can work with, the first of each list."""
    for name, wanted in _VALUES.items():
        wrong = (
            f"{name}[{index}] has {key} {value!r:.50}, not {what}"
            for index, entry in enumerate(content[name])
            if isinstance(entry, dict)
            for key, (is_right, what) in wanted.items()
            if key in entry and not is_right(value := entry[key])
        )
        yield from itertools.islice(wrong, 1)
