"""Counts and measured rates, from the json files of docs/results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...formats import check
from ...run_folder import read_json
from .recipe import DATASETS, Recipe

__all__ = ["CpuRun", "Rates", "read_networks", "read_rates", "read_recipes", "read_zoo"]

_NUMBER = {"type": "number", "exclusiveMinimum": 0}
_LOADER = {"": "ours", "stream": "stream", "pool": "pool"}  # of Copy-Paste -> side
_LOADER_PX = 1024  # side of the images that tools/benchmarks/data_loading.py makes


@dataclass(frozen=True)
class CpuRun:
    """A mode's runs on a CPU: what they reached, and their memory against what is reckoned.

    Attributes:
        mode: of reuse
        flops: operations a second
        peak: bytes of the process, mean over runs
        counted: bytes of weights, gradients, momentum and activations, reckoned
    """

    mode: str
    flops: float
    peak: float
    counted: float


@dataclass(frozen=True)
class Rates:
    """Attributes:
    loaded: Copy-Paste -> images of 1,024 px with masks that a core loads in a second
    view: photos of 256 px that a core loads in a second for a classifier
    evaluator: (protocol, task) -> seconds of the evaluator for an image
    detection_bytes: with masks or without -> bytes of a detection on the disk
    cpu: runs on a CPU
    """

    loaded: dict[str, float]
    view: float
    evaluator: dict[tuple[str, str], float]
    detection_bytes: dict[bool, float]
    cpu: tuple[CpuRun, ...] = ()

    def loader(self, recipe: Recipe) -> float:
        """Images that a core loads in a second; what it does goes with their area."""
        return self.loaded[recipe.copy_paste] * (_LOADER_PX / recipe.size) ** 2


def read_rates(
    loading: Path, coco_evaluation: Path, lvis_evaluation: Path, counts: Path, runs: Path
) -> Rates:
    """From the json files of tools/benchmarks/data_loading.py, evaluation.py and scale.py, and a
    json of runs (tools/make_results.py collect).

    Raises:
        UserError: a file is missing, or is not what it should be
    """
    sides = {row["side"]: row for row in _read(loading, _LOADING)["results"]}
    missing = [side for side in _LOADER.values() if side not in sides]
    if missing:
        raise UserError(f"{loading}: it has no side {', '.join(missing)}")
    counted = _read(counts, _COUNTS)
    bytes_ = counted["results"]["bytes a detection:"]
    return Rates(
        loaded={key: _median(sides[side]["images_per_cpu_s"]) for key, side in _LOADER.items()},
        view=_median(counted["results"]["photos a CPU second, 256 px"]),
        evaluator=_evaluator(coco=coco_evaluation, lvis=lvis_evaluation),
        detection_bytes={False: bytes_["boxes"], True: bytes_["boxes and masks"]},
        cpu=_cpu_runs(runs, counted["runs"]),
    )


def _median(value: float | dict[str, float]) -> float:
    return value["median"] if isinstance(value, dict) else value


def _evaluator(**paths: Path) -> dict[tuple[str, str], float]:
    """Seconds an image of what a run waits for: reading its json and detections included.

    COCO's masks were not measured; they are taken to cost what LVIS' do.
    """
    found = {}
    for protocol, path in paths.items():
        content = _read(path, _EVALUATION)
        images = content["data"]["images"]
        for row in content["results"]:
            if row["protocol"] == protocol:
                found[protocol, row["task"]] = row["ours"]["end_to_end_s"]["median"] / images
        needed = ("bbox",) if protocol == "coco" else ("bbox", "segm")
        missing = [f"{protocol}/{task}" for task in needed if (protocol, task) not in found]
        if missing:
            raise UserError(f"{path}: it has no {', '.join(missing)}")
    found.setdefault(("coco", "segm"), found["lvis", "segm"])
    return found


def _cpu_runs(path: Path, counted: dict[str, Any]) -> tuple[CpuRun, ...]:
    by_mode: dict[str, list[dict[str, Any]]] = {}
    for run in _read(path, _RUNS)["runs"]:
        if run["reuse_mode"] in counted and run["group"] == _GROUPS.get(run["reuse_mode"]):
            by_mode.setdefault(run["reuse_mode"], []).append(run)
    if not by_mode:
        raise UserError(f"{path}: it has no run of the modes {', '.join(counted)}")
    return tuple(_cpu_run(mode, counted[mode], runs) for mode, runs in by_mode.items())


# Bytes of a trained number: its gradient, AdamW's two moments, its bf16 copy.
_ADAMW = 4 + 8 + 2
_GROUPS = {"frozen": "frozen", "adapters": "adapters", "finetune": "fine-tuned"}


def _cpu_run(mode: str, counted: dict[str, Any], runs: list[dict[str, Any]]) -> CpuRun:
    batch = runs[0]["batch"]
    fastest = min(run["step_median_ms"] for run in runs) / 1000  # least disturbed by other work
    return CpuRun(
        mode=mode,
        flops=batch * counted["step"] / fastest,
        peak=sum(run["peak_memory_gb"]["host"] for run in runs) / len(runs) * 1e9,
        counted=4 * counted["parameters"] + _ADAMW * counted["trained"] + batch * counted["kept"],
    )


def read_recipes(counts: Path) -> dict[str, Recipe]:
    """Path of a config -> what tools/benchmarks/scale.py has counted of it."""
    found = _read(counts, _COUNTS)["recipes"]
    return {name: Recipe(name=name, **entry) for name, entry in found.items()}


def read_networks(counts: Path) -> list[dict[str, Any]]:
    """CaffeNet with its first 0, 1, ... layers frozen, of one image."""
    return _read(counts, _COUNTS)["caffenet"]


def read_zoo(counts: Path) -> dict[str, dict[str, Any]]:
    """Published detectors, of one image in fp32."""
    return _read(counts, _COUNTS)["zoo"]


def _read(path: Path, schema: dict[str, Any]) -> Any:
    content = read_json(path)
    check(content, schema, str(path))
    return content


def _object(**fields: Any) -> dict[str, Any]:
    """All of these, and whatever else there is."""
    return {"type": "object", "properties": fields, "required": list(fields)}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def _each(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": item, "minProperties": 1}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
# Of one round, or of several.
_MEASURED = {**_object(median=_NUMBER), **_NUMBER, "type": ["number", "object"]}
_LOADING = _object(results=_list(_object(side=_TEXT, images_per_cpu_s=_MEASURED)))
_EVALUATION = _object(
    data=_object(images=_COUNT),
    results=_list(
        _object(
            protocol=_TEXT,
            task=_TEXT,
            ours=_object(end_to_end_s=_object(median=_NUMBER)),
        )
    ),
)
_RUNS = _object(
    runs=_list(
        _object(
            group=_TEXT,
            reuse_mode=_TEXT,
            batch=_COUNT,
            step_median_ms=_NUMBER,
            peak_memory_gb=_object(host=_NUMBER),
        )
    )
)
_MODEL = {
    "parameters": _COUNT,
    "trained": _COUNT,
    "forward": _NUMBER,
    "step": _NUMBER,
    "kept": {"type": "number", "minimum": 0},
}
_COUNTS = _object(
    results={
        "type": "object",
        "properties": {
            "photos a CPU second, 256 px": _MEASURED,
            "bytes a detection:": {
                "type": "object",
                "properties": {"boxes": _NUMBER, "boxes and masks": _NUMBER},
                "required": ["boxes", "boxes and masks"],
            },
        },
        "required": ["photos a CPU second, 256 px", "bytes a detection:"],
    },
    recipes=_each(
        {
            **_object(
                mode=_TEXT,
                dataset={"enum": list(DATASETS)},
                iterations=_COUNT,
                batch=_COUNT,
                checkpoint_period=_COUNT,
                size=_COUNT,
                masks={"type": "boolean"},
                copy_paste={"enum": list(_LOADER)},
                detections=_COUNT,
                inference=_NUMBER,
                **_MODEL,
            ),
            "additionalProperties": False,
        }
    ),
    runs=_each(_object(**_MODEL)),
    zoo=_each(_object(**_MODEL)),
    caffenet={**_list(_object(**_MODEL)), "minItems": 8, "maxItems": 8},
)
