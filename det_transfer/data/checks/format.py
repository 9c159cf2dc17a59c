"""Whether a json is COCO or LVIS format at all."""

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
    if not content["categories"]:
        yield "has no categories"


def _value_problems(content: dict[str, Any]) -> Iterator[str]:
    """Ids and sizes of a type that nothing later can work with."""
    wanted = {
        "images": {"id": int, "height": int, "width": int},
        "categories": {"id": int},
        "annotations": {"id": int, "image_id": int, "category_id": int},
    }
    for name, types in wanted.items():
        for index, entry in enumerate(content[name]):
            for key, kind in types.items():
                value = entry.get(key, 0) if isinstance(entry, dict) else 0
                if type(value) is not kind:
                    yield f"{name}[{index}] has {key} {value!r}, not an integer"
                    break
            else:
                continue
            break
