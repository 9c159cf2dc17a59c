"""A run folder as the pages read it: what is there, and in words what is not.

Nothing here raises because of a run that was interrupted, never evaluated or copied in part: what
can be read is shown, and :attr:`Run.missing` says the rest.
"""

import contextlib
import csv
import io
import re
import statistics
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import run_folder
from ..documents import read_yaml
from ..errors import UserError
from ..formats import FEATURES, RESULTS, RUN, Schema, misfits

__all__ = ["Evaluation", "Run", "read_config", "read_run", "recipe"]

# Runs that are seeds of one recipe may differ in these alone: none of them changes what is trained.
# What SOLVER.AMP came to is a run's precision, and that must be the same.
_FREE_KEYS = (
    "SEED",
    "OUTPUT_DIR",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.AMP.DTYPE",
    "SOLVER.AMP.ENABLED",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.WRITE_JSON",
    "TEST.WRITE_REPORT",
    "VIS_PERIOD",
)
# What a run of a plan needs is often another run of the same seed: {stage1}/model_final.pth.
_WEIGHTS_KEY = "MODEL.WEIGHTS"
_FREQUENCIES = {"r": "r", "c": "c", "f": "f", "": ""}
_NUMBERS = ("AP", "AP50", "AP75", "AR")
_ENDINGS = {
    "running": "the run has not ended, or was killed: what it had reached is shown",
    "interrupted": "the run was interrupted: what it had reached is shown",
    "failed": "the run failed: what it had reached is shown",
}


@dataclass
class Evaluation:
    """``eval/<dataset>`` of a run.

    Attributes:
        results: of results.json
        json_file, image_root: where the test set is, None where it is not known or not here
    """

    dataset: str
    folder: Path
    results: dict[str, Any]
    json_file: Path | None = None
    image_root: Path | None = None

    @property
    def tasks(self) -> list[str]:
        return list(self.results.get("metrics", ()))

    @property
    def protocol(self) -> str:
        return self.results.get("protocol", "coco")

    @property
    def max_dets(self) -> int:
        """Detections that count, of a category in an image; under LVIS of an image."""
        limits = self.results.get("max_dets") or [300 if self.protocol == "lvis" else 100]
        return int(limits[-1])

    def metrics(self, task: str) -> dict[str, float | None]:
        """Name -> value, times 100, None where the test set has no object for it."""
        return self.results.get("metrics", {}).get(task, {})

    def categories(self, task: str) -> list[dict[str, Any]]:
        """The rows of per_category.csv; a number that is not there is None."""
        path = self.folder / "per_category.csv"
        if not path.is_file():
            return []
        rows = []
        # Broken: no rows.
        with contextlib.suppress(ValueError, LookupError, TypeError, csv.Error):
            for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
                if row["task"] == task:
                    measured = {m: float(row[m]) if row[m] else None for m in _NUMBERS}
                    counts = {"id": int(row["id"]), "n_gt": int(row["n_gt"])}
                    words = {"name": str(row["name"]), "frequency": _FREQUENCIES[row["frequency"]]}
                    rows.append({**row, **counts, **measured, **words})
            return rows
        return []

    def curves(self) -> dict[str, np.ndarray]:
        """The arrays of curves.npz; empty where there is none, or it is broken."""
        path = self.folder / "curves.npz"
        if not path.is_file():
            return {}
        with (
            contextlib.suppress(ValueError, LookupError, EOFError, OSError, zipfile.BadZipFile),
            np.load(path, allow_pickle=False) as content,
        ):
            return dict(content)
        return {}


@dataclass
class Run:
    """Attributes:
    config: dotted keys
    record: of run.json
    rows: of metrics.json
    missing: sentences
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, float]] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    features: dict[str, Any] | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def status(self) -> str:
        return str(self.record.get("status", "unknown"))

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The rows of the reuse table."""
        return list(self.record.get("reuse", ()))

    @property
    def parameters(self) -> int:
        return sum(part["parameters"] for part in self.parts)

    @property
    def trained(self) -> int:
        return sum(part["trainable"] for part in self.parts)

    @property
    def memory(self) -> int | None:
        """Peak bytes, of the GPU where there was one."""
        peaks = self.record.get("peak_memory_bytes") or {}
        return peaks.get("cuda", peaks.get("host"))

    @property
    def seconds(self) -> float | None:
        """Of training, without evaluation."""
        return self.record.get("seconds", {}).get("training") or None

    def curve(self, key: str, points: int = 80) -> tuple[list[int], list[float]]:
        """Iterations and values of one number in the log: medians of at most `points` parts."""
        known = [(int(r["iteration"]), r[key]) for r in self.rows if r.get(key) is not None]
        step = -(-len(known) // points) or 1
        parts = [known[k : k + step] for k in range(0, len(known), step)]
        return (
            [round(statistics.median(i for i, _ in part)) for part in parts],
            [statistics.median(value for _, value in part) for part in parts],
        )

    def evaluated(self, dataset: str, metric: str) -> tuple[list[int], list[float]]:
        """Iterations and values of a metric, e.g. "bbox/AP", of the evaluations on the way."""
        known = []
        for entry in self.record.get("evaluations", ()):
            metrics = entry["metrics"]
            # Detectron2 leaves the dataset's level out where there is one dataset.
            value = metrics.get(f"{dataset}/{metric}", metrics.get(metric))
            if value is not None:
                known.append((entry["iteration"] + 1, value))
        return [i for i, _ in known], [v for _, v in known]

    def training_classes(self) -> dict[str, tuple[int, int]]:
        """Class name -> images and objects in the training data; empty where it is not known."""
        with contextlib.suppress(ValueError, LookupError, TypeError, csv.Error):
            rows = run_folder.read_train_classes(self.folder)
            return {name: (images, objects) for name, images, objects in rows}
        return {}


def read_run(folder: str | Path, *, json_file: str = "", images: str = "") -> Run:
    """Read a run folder.

    Args:
        json_file, images: where the test set is now, if not where the run saw it

    Raises:
        UserError: there is no such folder, or nothing in it is of a run
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name a run folder, see docs/run_folder.md")
    run = Run(folder)
    run.record = _json(run, run_folder.RUN, RUN)
    try:
        run.config = read_config(folder)
    except FileNotFoundError:
        run.missing.append(f"{run_folder.CONFIG} is missing")
    except UserError as error:
        run.missing.append(str(error))
    run.rows = run_folder.read_metrics(folder)
    for results in sorted((folder / run_folder.EVAL).glob("*/results.json")):
        run.evaluations[results.parent.name] = _evaluation(run, results, json_file, images)
    if not (run.record or run.config or run.rows or run.evaluations):
        raise UserError(f"{folder} is no run folder: it has no {run_folder.RUN}")
    if (folder / run_folder.FEATURES).is_file():
        run.features = _json(run, run_folder.FEATURES, FEATURES) or None
    run.missing = [*_ending(run), *run.missing]
    if not run.rows:
        run.missing.append("metrics.json is missing or empty: no training curves")
    if not run.evaluations:
        run.missing.append(
            "the run has no evaluation: name a dataset in DATASETS.TEST and run "
            "tools/train_net.py --eval-only --resume"
        )
    return run


def _ending(run: Run) -> Iterable[str]:
    if run.status in _ENDINGS:
        reason = run.record.get("reason")
        yield _ENDINGS[run.status] + (f" ({reason})" if reason else "")


def _json(run: Run, name: str, schema: Schema) -> dict[str, Any]:
    try:
        content = run_folder.read_json(run.folder / name)
    except FileNotFoundError:
        run.missing.append(f"{name} is missing")
        return {}
    except UserError as error:
        run.missing.append(f"{name} is broken: {error}")
        return {}
    if not isinstance(content, dict):
        run.missing.append(f"{name} is no json object")
        return {}
    for (key, *_), said in misfits(content, schema):
        if content.pop(key, None) is not None:
            run.missing.append(f"{name} is not as it should be, so {key} is left out: {said}")
    return content


def _evaluation(run: Run, path: Path, json_file: str, images: str) -> Evaluation:
    relative = str(path.relative_to(run.folder))
    found = Evaluation(path.parent.name, path.parent, _json(run, relative, RESULTS))
    found.json_file = _there(run, json_file or found.results.get("json_file"), "annotation file")
    found.image_root = _there(run, images or found.results.get("image_root"), "image folder")
    return found


def _there(run: Run, name: str | None, what: str) -> Path | None:
    if not name:
        run.missing.append(f"the {what} of the test set is not known; it can be given")
        return None
    path = Path(name)
    if path.exists():
        return path
    run.missing.append(f"the {what} {name} of the test set is not here; another can be given")
    return None


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config of a run with dotted keys.

    Raises:
        UserError: config.yaml is no YAML
    """
    path = Path(folder) / run_folder.CONFIG
    tree = read_yaml(path) or {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no keys")
    return dict(_leaves(tree))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the seeds of one recipe have in common: all keys but the free ones.

    Weights of another run, whose folder ends in ``_s`` and the same seed, are those of any seed.
    """
    kept = {key: value for key, value in config.items() if key not in _FREE_KEYS}
    if kept.get(_WEIGHTS_KEY):
        of_seed = rf"_s{re.escape(str(config.get('SEED')))}(?=/|$)"
        kept[_WEIGHTS_KEY] = re.sub(of_seed, "_s*", str(kept[_WEIGHTS_KEY]))
    return kept
