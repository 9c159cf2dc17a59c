"""What numbers were measured on and with, as it stands beside them in a json of results.

Such a file is committed: no path of this machine gets into it.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..machine import cpu_name

__all__ = ["Said", "machine", "relative", "shown", "versions"]


@dataclass(frozen=True)
class Said:
    """What stands in a json of results beside its numbers.

    Attributes:
        notes: paragraphs of Markdown for the page
        machine: what the runs were made on, where it is not this machine
        command: what is run to make the same content
    """

    title: str
    question: str
    notes: Sequence[str] = ()
    machine: str = ""
    command: str = ""

    def head(
        self, records: Sequence[Mapping[str, Any]], root: Path, folders: Iterable[str | Path]
    ) -> dict[str, Any]:
        """The first keys of the json, with what the runs were made with.

        Args:
            records: ``run.json`` of each
            root: the checkout; paths are written relative to it
            folders: that the command names
        """
        return {
            "title": self.title,
            "question": self.question,
            "notes": list(self.notes),
            "machine": machine(self.machine, records),
            "versions": versions(record["versions"] for record in records),
            "measured": max(record["ended"] for record in records)[:10],
            "collected_by": relative(self.command, root, [str(folder) for folder in folders]),
        }


def machine(told: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """This machine, or the one that is `told`, and the devices that the runs name."""
    devices = list(dict.fromkeys(record["device"] for record in records))
    if told:
        return {"cpu": told, "devices": devices}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "devices": devices}


def versions(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Package -> version; several where runs or sets of them differ."""
    found: dict[str, dict[str, None]] = {}
    for known in several:
        for name, version in known.items():
            found.setdefault(name, {}).update(dict.fromkeys(version.split(", ")))
    return {name: ", ".join(names) for name, names in found.items()}


def shown(folder: Path, root: Path) -> str:
    """A run folder as it is written: relative to the checkout.

    From elsewhere it is shown from the last folder "output" on, which plans write to; without one
    it is its name alone.
    """
    absolute = folder.resolve()
    if absolute.is_relative_to(root):
        return absolute.relative_to(root).as_posix()
    _, found, inside = absolute.as_posix().rpartition("/output/")
    return f"output/{inside if found else absolute.name}"


def relative(text: str, root: Path, folders: Iterable[str] = ()) -> str:
    """`text` without absolute paths: relative to the checkout or beside it, else the last part.

    Args:
        folders: run folders, written as :func:`shown` writes them
    """
    instead_of = {path: shown(Path(path), root) for path in folders if os.path.isabs(path)}
    instead_of |= {f"{root}/": ""}
    if root.parent != root.parent.parent:
        instead_of |= {f"{root.parent}/": "../"}
    for path, instead in instead_of.items():
        # A whole path, not the end or the start of another one.
        end = "" if path.endswith("/") else r"(?![\w.-])"
        text = re.sub(rf"(?<![\w.~-]){re.escape(path)}{end}", instead, text)
    return re.sub(r"(?<![\w.~:/*-])/(?=[\w.])(?:[\w.+-]+/)*", "", text)
