"""All that the tables of docs/scale.md are made of, and the same numbers for a json."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .costs import disk, evaluation, memory, run_hours, step
from .crossovers import allreduce_limit, cores_a_gpu, evaluator_limit, loader_limit
from .inputs import Rates
from .machine import ASSUMPTIONS, Machine
from .networks import network_costs
from .recipe import Recipe

__all__ = ["PAIRS", "Estimate", "numbers"]

# Label -> what is frozen or adapted, what is fine-tuned; "" where there is no such recipe.
_CASCADE = "configs/coco/rcnn_resnetrs101_nasfpn_cascade"
_B7 = "configs/{}/mask_rcnn_efficientnetb7_nasfpn"
PAIRS = {
    "R101 Cascade, 72 epochs": (f"{_CASCADE}_frozen_72ep.yaml", f"{_CASCADE}_finetuned_72ep.yaml"),
    "R101 Cascade, 600 epochs": (
        f"{_CASCADE}_frozen_600ep.yaml",
        f"{_CASCADE}_finetuned_600ep.yaml",
    ),
    "R101 Cascade, adapters, 600 epochs": (f"{_CASCADE}_adapters_600ep.yaml", ""),
    "B7 Cascade, Copy-Paste, COCO": (
        f"{_B7.format('coco')}_cascade_copypaste_frozen.yaml",
        f"{_B7.format('coco')}_cascade_copypaste_finetuned.yaml",
    ),
    "B7, Copy-Paste, LVIS": (
        f"{_B7.format('lvis')}_copypaste_frozen.yaml",
        f"{_B7.format('lvis')}_copypaste_finetuned.yaml",
    ),
    "R50 Cascade, Copy-Paste, LVIS": ("configs/frozen_cascade_lvis.yaml", ""),
    "R50 Cascade, LVIS, second stage": ("configs/frozen_cascade_lvis_stage2.yaml", ""),
}


@dataclass(frozen=True)
class Estimate:
    """All that the tables are made of.

    Attributes:
        recipes: by path, all of :data:`PAIRS`
        caffenet: counts with 0, 1, ... layers frozen
        zoo: counts of published detectors, by name
        sources: what was measured -> the file
        given: names of assumptions that are not the defaults
        gpus: the columns
    """

    recipes: Mapping[str, Recipe]
    caffenet: Sequence[Mapping[str, Any]]
    zoo: Mapping[str, Mapping[str, Any]]
    rates: Rates
    machine: Machine
    sources: Mapping[str, str]
    given: frozenset[str] = frozenset()
    gpus: tuple[int, ...] = (1, 8, 64)

    def rows(self):
        """Label, recipe, of every side that there is."""
        for label, sides in PAIRS.items():
            for word, path in zip(("", "fine-tuned"), sides, strict=True):
                if path:
                    recipe = self.recipes[path]
                    how = word or ("" if "adapters" in label or "stage" in label else "frozen")
                    yield f"{label}, {how}" if how else label, recipe

    def kinds(self):
        """As :meth:`rows`, without those that differ in the number of iterations alone."""
        known = set()
        for label, recipe in self.rows():
            kind = replace(recipe, name="", iterations=0)
            if kind not in known:
                known.add(kind)
                yield re.sub(r", \d+ epochs", "", label), recipe

    def pairs(self):
        """Label, frozen, fine-tuned, where there are both."""
        for label, (frozen, finetuned) in PAIRS.items():
            if finetuned:
                yield label, self.recipes[frozen], self.recipes[finetuned]


def numbers(of: Estimate) -> dict[str, Any]:
    """All of it for a json; what is assumed apart from what is measured and what is counted."""
    return {
        "assumed": {
            a.name: {
                "value": getattr(of.machine, a.name),
                "what": a.text,
                "source": "given" if a.name in of.given else a.source,
            }
            for a in ASSUMPTIONS
        },
        "measured": {
            "images_a_core_s": of.rates.loaded,
            "photos_a_core_s": of.rates.view,
            "evaluator_s_an_image": {f"{p}/{t}": s for (p, t), s in of.rates.evaluator.items()},
            "bytes_a_detection": {
                "boxes and masks" if masks else "boxes": size
                for masks, size in of.rates.detection_bytes.items()
            },
            "cpu_runs": [asdict(run) for run in of.rates.cpu],
            "sources": dict(of.sources),
        },
        "recipes": {label: _recipe_numbers(of, recipe) for label, recipe in of.rows()},
        "networks": {n: network_costs(of.caffenet, of.rates, of.machine, n) for n in of.gpus},
    }


def _recipe_numbers(of: Estimate, recipe: Recipe) -> dict[str, Any]:
    return {
        "counted": asdict(recipe),
        "disk_bytes": disk(recipe),
        "limits": {
            "loader_gpus_a_machine": loader_limit(recipe, of.rates, of.machine),
            "allreduce_gpus": allreduce_limit(recipe, of.machine),
            "evaluator_gpus": evaluator_limit(recipe, of.rates, of.machine),
            "cores_a_gpu": cores_a_gpu(recipe, of.rates, of.machine),
        },
        "gpus": {n: _on(of, recipe, n) for n in of.gpus},
    }


def _on(of: Estimate, recipe: Recipe, gpus: int) -> dict[str, Any]:
    s, m = step(recipe, of.rates, of.machine, gpus), memory(recipe, of.machine, gpus)
    hours = run_hours(recipe, of.rates, of.machine, gpus)
    return {
        "hours": hours,
        "gpu_hours": gpus * hours,
        "step_s": {**asdict(s), "seconds": s.seconds, "limit": s.limit},
        "memory_bytes": {**asdict(m), "total": m.total},
        "evaluation_s": asdict(evaluation(recipe, of.rates, of.machine, gpus)),
    }
