"""COCO and LVIS evaluation of boxes and masks, and the files that it leaves in the run folder."""

from .backends import Accumulated, Backend, Detections, load_backend
from .evaluator import MAX_CATEGORIES_IN_RESULTS, TASKS, DetectionEvaluator
from .protocols import EVALUATORS, COCOEvaluator, LVISEvaluator, build_evaluator

__all__ = [
    "EVALUATORS",
    "MAX_CATEGORIES_IN_RESULTS",
    "TASKS",
    "Accumulated",
    "Backend",
    "COCOEvaluator",
    "DetectionEvaluator",
    "Detections",
    "LVISEvaluator",
    "build_evaluator",
    "load_backend",
]
