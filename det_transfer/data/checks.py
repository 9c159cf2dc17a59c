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

    Looks at the first entry of each list for the keys and at all entries for the references.
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
        for entry in content[name][:1]:
            absent = [key for key in keys if key not in entry]
            if absent:
                broken = True
                yield f"the entries of {name} have no {', '.join(absent)}"
    if content["images"] and not {"file_name", "coco_url"} & set(content["images"][0]):
        broken = True
        yield "the entries of images have no file_name (COCO) or coco_url (LVIS)"
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
