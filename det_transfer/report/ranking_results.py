"""From what tools/rank_backbones.py wrote to a json of results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..run_folder import read_json
from .conditions import Said, relative

__all__ = ["collect_ranking"]

# Key of an agreement -> its name as a column.
_AGREEMENTS = {
    "kendall": "Kendall's tau",
    "weighted_kendall": "weighted tau",
    "spearman": "Spearman's rho",
}


def collect_ranking(folder: str | Path, root: str | Path, said: Said) -> dict[str, Any]:
    """A column for each backbone, best first, and for each way in which orders agree.

    Args:
        folder: with ranking.json
        root: the checkout; paths are written relative to it

    Raises:
        UserError: it has no such json, or one of before what it was made with stood in it
    """
    path, root = Path(folder) / "ranking.json", Path(root).resolve()
    if not path.is_file():
        raise UserError(f"{path} does not exist: tools/rank_backbones.py writes it")
    found = read_json(path)
    if missing := {"versions", "device", "ended"} - found.keys():
        raise UserError(f"{path} has no {', '.join(sorted(missing))}: rank the backbones again")
    agreements = [
        {
            "side": title,
            **{name: a[key] for name, a in found["agreement"].items() if a is not None},
        }
        for key, title in _AGREEMENTS.items()
    ]
    return {
        **said.head([found], root, [folder]),
        "command": relative(found["command"], root, [str(folder)]),
        "data": {key: relative(str(value), root) for key, value in found["data"].items()},
        "results": [*map(_column, found["backbones"]), *agreements],
    }


def _column(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of a backbone; a score that it cannot have is left out."""
    numbers = {name: value for name, value in row["scores"].items() if isinstance(value, float)}
    if "accuracy" in row:
        numbers["accuracy"] = row["accuracy"]
    return {"side": row["backbone"], "features": row["features"], **numbers}
