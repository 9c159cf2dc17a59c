"""Image classifiers that grow, on the engine that detection uses."""

from .architecture import Architecture, Layer, Reading, deepen, grow, widen
from .classifier import Activations, FeatureBatch, ImageClassifier
from .evaluator import ClassificationEvaluator
from .trainer import ClassificationTrainer, prepare

__all__ = [
    "Activations",
    "Architecture",
    "ClassificationEvaluator",
    "ClassificationTrainer",
    "FeatureBatch",
    "ImageClassifier",
    "Layer",
    "Reading",
    "deepen",
    "grow",
    "prepare",
    "widen",
]
