"""What is wrong with a dataset: the one place that knows.

Training asks only the cheap questions, before it starts.
"""

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

    Looks at all entries, for the keys that everything later relies on and for the references.
    """
    if not isinstance(content, dict):
        yield f"is a json {type(content).__name__}, not the object of COCO or LVIS format"
        return
    missing = [name for name in _REQUIRED if not isinstance(content.get(name), list)]
    if missing:
        found = ", ".join(sorted(map(str, content))[:8]) or "nothing"
        yield f"is not COCO or LVIS format: no list {', '.join(missing)} (found: {found})"
        return
    broken = False
    for name, keys in _REQUIRED.items():
        for index, entry in enumerate(content[name]):
            absent = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if absent:
                broken = True
                yield f"{name}[{index}] has no {', '.join(absent)}"
                break
    if not broken:
        for index, image in enumerate(content["images"]):
            if "file_name" not in image and "coco_url" not in image:
                broken = True
                yield f"images[{index}] has no file_name (COCO) or coco_url (LVIS)"
                break
    if not content["categories"]:
        yield "has no categories"
    if not broken:
        yield from _reference_problems(content)


def _reference_problems(content: dict[str, Any]) -> Iterator[str]:
    for name, key in (("images", "image_id"), ("categories", "category_id")):
        known = {entry["id"] for entry in content[name]}
        if len(known) < len(content[name]):
            yield f"{name} has {len(content[name]) - len(known)} duplicate ids"
        strangers = [a["id"] for a in content["annotations"] if a[key] not in known]
        if strangers:
            yield (
                f"{len(strangers)} annotations name a {key} that is not in {name}, "
                f"the first has id {strangers[0]}"
            )
