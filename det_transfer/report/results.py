"""The page of results and the tables in other pages, from the json files in ``docs/results``.

Nobody types a measured number: :func:`render` gives every file that the json files make, and
:func:`stale` says which of them are not what lies in the checkout.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError, raise_all
from ..run_folder import read_json, replacing
from . import transferability
from .collect import KIND
from .curve import loss_curve, same_drawing, transfer_curve
from .growth_results import GROWTH
from .page import page, relations_table, tables

__all__ = ["FOLDER", "copy_pictures", "render", "stale", "write"]

FOLDER = Path("docs/results")
_PICTURES = "pictures"
_PICTURE_BYTES = 60_000  # pages are read over a network, and a repository keeps every version
_PICTURE_WIDTH = 1000  # pixels

# Kind of json -> what its drawing shows, and how it is drawn.
_DRAWINGS = {
    KIND: ("loss", lambda content: loss_curve(content["runs"])),
    transferability.KIND: ("differences", transfer_curve),
}

RELATIONS = "growth_relations"  # the marker's name for what follows from several json files
_MARKED = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)


def render(root: str | Path) -> dict[Path, bytes]:
    """All files that follow from the json files, by path relative to the checkout `root`.

    These are the page, a drawing for each set of runs and each experiment, and README.md and
    docs/*.md where they have ``<!-- results:NAME -->`` and ``<!-- /results -->``, each on a line of
    its own: between them stands a table. NAME is that of a json, or growth_relations: what all
    tables of "Growing a Brain" say together.

    Raises:
        UserError: a json file that is broken, a marker with a name that has no json, a picture
            that is missing
    """
    root = Path(root)
    contents = _read_all(root / FOLDER)
    raise_all(
        f"{FOLDER / name}.json shows {picture}, which is missing: collect it again"
        for name, content in contents.items()
        for picture in content.get("pictures", ())
        if not (root / FOLDER / picture).is_file()
    )
    drawn = {name: content for name, content in contents.items() if _kind(content) in _DRAWINGS}
    curves = {name: f"{_PICTURES}/{name}_{_DRAWINGS[_kind(c)][0]}.svg" for name, c in drawn.items()}
    files = {FOLDER / "README.md": page(contents, curves).encode()}
    for name, path in curves.items():
        files[FOLDER / path] = _DRAWINGS[_kind(drawn[name])][1](drawn[name])
    for path in [root / "README.md", *sorted(root.glob("docs/*.md"))]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if _MARKED.search(text):
            where = path.relative_to(root)
            files[where] = _fill(text, where, contents).encode()
    return files


def write(root: str | Path) -> list[Path]:
    """Write what :func:`render` gives; returns the paths of what was not up to date."""
    files = render(root)
    changed = stale(root, files)
    for path in changed:
        with replacing(Path(root) / path) as temporary:
            temporary.write_bytes(files[path])
    return changed


def stale(root: str | Path, files: Mapping[Path, bytes]) -> list[Path]:
    """Which of `files` (of :func:`render`) are not what lies under `root`."""
    return [path for path, content in files.items() if not _same(Path(root) / path, content)]


def _same(path: Path, content: bytes) -> bool:
    if not path.is_file():
        return False
    found = path.read_bytes()
    return same_drawing(found, content) if path.suffix == ".svg" else found == content


def _read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """The json files by name: sets of runs first, then experiments, then everything else."""
    contents = {}
    for path in sorted(folder.glob("*.json")):
        contents[path.stem] = read_json(path)
        if not isinstance(contents[path.stem], dict):
            raise UserError(f"{path} is no json object, as a file of results is")
    order = [*_DRAWINGS, None]
    return dict(sorted(contents.items(), key=lambda item: order.index(_kind(item[1]))))


def _kind(content: Mapping[str, Any]) -> str | None:
    """None of what has no kind of its own."""
    kind = content.get("kind")
    return kind if kind in _DRAWINGS else None


def _fill(text: str, path: Path, contents: Mapping[str, Mapping[str, Any]]) -> str:
    """`text` of `path` with the tables between its markers."""

    def table(match: re.Match) -> str:
        opening, name, _, closing = match.groups()
        link = (FOLDER / "README.md").relative_to(path.parent).as_posix()
        if name == RELATIONS:
            grown = [c for c in contents.values() if c.get("kind") == GROWTH]
            return f"{opening}{relations_table(grown)}\n\n[Commands and runs]({link})\n{closing}"
        if name not in contents:
            raise UserError(
                f"{path} asks for the results {name}, but {FOLDER} has no {name}.json "
                f"(there are: {', '.join(contents) or 'none'})"
            )
        return f"{opening}{tables(contents[name])} [Commands and curves]({link})\n{closing}"

    return _MARKED.sub(table, text)


def copy_pictures(name: str, run: str | Path, count: int, root: str | Path) -> list[str]:
    """Copy pictures of a run beside the page, made small enough; earlier ones of `name` go.

    Args:
        name: the set of results
        count: how many, evenly spread over what ``<run>/pictures`` has

    Returns:
        their paths relative to the page; empty where the run has none
    """
    folder = Path(root) / FOLDER / _PICTURES
    for old in folder.glob(f"{name}_*.jpg"):
        if re.fullmatch(rf"{re.escape(name)}_\d+", old.stem):  # not those of <name>_more
            old.unlink()
    found = sorted((Path(run) / "pictures").glob("*.jpg"))
    if not found:
        return []
    chosen = np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))
    written = []
    for number, index in enumerate(chosen.tolist(), 1):
        path = folder / f"{name}_{number}.jpg"
        with replacing(path) as temporary:
            temporary.write_bytes(_small_jpeg(found[index]))
        written.append(f"{_PICTURES}/{path.name}")
    return written


def _small_jpeg(path: Path) -> bytes:
    """The picture under 60 kB."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    scale = min(1.0, _PICTURE_WIDTH / picture.width)
    while True:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=80)
        if buffer.tell() < _PICTURE_BYTES:
            return buffer.getvalue()
        scale *= 0.9
