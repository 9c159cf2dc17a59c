"""What can be wrong with MODEL.REUSE and MODEL.ADAPTERS, known from the config alone."""

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

__all__ = ["reuse_problems"]


def reuse_problems(cfg: CfgNode, explicit: frozenset[str]) -> Iterator[str]:
    """A line for each; `explicit` are the keys that the user named."""
    reuse = cfg.MODEL.REUSE
    mode = reuse.MODE
    freeze_at = cfg.MODEL.BACKBONE.FREEZE_AT
    all_frozen = mode == "frozen" and freeze_at >= 5
    if mode and "MODEL.BACKBONE.FREEZE_AT" in explicit and not all_frozen:
        yield (
            f"MODEL.BACKBONE.FREEZE_AT {freeze_at} contradicts MODEL.REUSE.MODE {mode!r}, which "
            "decides alone what is frozen; leave one of them out (mode 'partial' freezes "
            "MODEL.REUSE.STAGES)"
        )
    if "adapters" not in mode:
        adapters = sorted(key for key in explicit if key.startswith("MODEL.ADAPTERS."))
        if adapters and mode:
            yield f"{adapters[0]} is for modes with adapters; MODEL.REUSE.MODE is {mode!r}"
    if mode == "partial" and not (reuse.STAGES or reuse.PATTERNS):
        yield "MODEL.REUSE.MODE 'partial' needs MODEL.REUSE.STAGES or MODEL.REUSE.PATTERNS"
    for key in ("STAGES", "PATTERNS"):
        if reuse[key] and mode != "partial":
            yield f"MODEL.REUSE.{key} is for MODEL.REUSE.MODE 'partial'; the mode is {mode!r}"
    if reuse.FAST and (mode != "frozen" or reuse.DROPOUT != "off"):
        yield (
            f"MODEL.REUSE.FAST is for MODEL.REUSE.MODE 'frozen' with DROPOUT 'off'; here it is "
            f"{mode!r} with {reuse.DROPOUT!r}"
        )
    if reuse.COMPILE and not reuse.FAST:
        yield "MODEL.REUSE.COMPILE needs MODEL.REUSE.FAST True"
    if reuse.TRAIN_ONLY and not cfg.MODEL.WEIGHTS:
        yield (
            f"MODEL.REUSE.TRAIN_ONLY {reuse.TRAIN_ONLY} takes on a trained detector, but "
            "MODEL.WEIGHTS is empty; name a checkpoint, e.g. <run>/model_final.pth"
        )
    yield from _cut_problems(cfg)
    for key in ("LR_MULT", "WEIGHT_DECAY"):
        for entry in reuse[key]:
            if not _is_part_and_number(entry):
                yield (
                    f"MODEL.REUSE.{key} has {entry!r}; each entry is [part, number >= 0], e.g. "
                    "['trunk', 0.1]"
                )
    if cfg.MODEL.TRUNK.NAME == "build_timm_backbone" and not cfg.MODEL.TIMM.NAME:
        yield "MODEL.TIMM.NAME is empty; name a timm model, e.g. tf_efficientnet_lite0"


def _cut_problems(cfg: CfgNode) -> Iterator[str]:
    reuse = cfg.MODEL.REUSE
    cut = reuse.LOAD_STAGES
    key = f"MODEL.REUSE.LOAD_STAGES {cut}"
    if cut < -1:
        yield f"MODEL.REUSE.LOAD_STAGES is {cut}; it can be -1 (all), 0 (nothing) or a stage"
    if cut > 0 and not cfg.MODEL.WEIGHTS:
        yield f"{key} loads stages of MODEL.WEIGHTS, which is empty; name weights, or set it to 0"
    if cut > 0 and reuse.MODE == "scratch":
        yield f"{key} loads weights, but MODEL.REUSE.MODE 'scratch' has none; take 'finetune'"
    if 0 < cut < reuse.STAGES:
        yield (
            f"{key} leaves at random what MODEL.REUSE.STAGES {reuse.STAGES} freezes; freeze no "
            "more stages than are loaded"
        )
    if cut >= 0 and reuse.TRAIN_ONLY:
        yield (
            f"{key} takes a trunk out of MODEL.WEIGHTS, and MODEL.REUSE.TRAIN_ONLY takes on a "
            "whole detector; leave one of them out"
        )


def _is_part_and_number(entry: Any) -> bool:
    sound = isinstance(entry, list | tuple) and len(entry) == 2
    return (
        sound and isinstance(entry[0], str) and isinstance(entry[1], int | float) and entry[1] >= 0
    )
