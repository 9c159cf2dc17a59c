"""Image classifiers that grow, on the engine that detection uses."""

from .architecture import Architecture, Layer, Reading, deepen, grow, widen
from .classifier import Activations, FeatureBatch, ImageClassifier
from .evaluator import ClassificationEvaluator
from .heads import ClassifierHead, TrainedHead, load_head
from .trainer import ClassificationTrainer, prepare

__all__ = [
    "Activations",
    "Architecture",
    "ClassificationEvaluator",
    "ClassificationTrainer",
    "ClassifierHead",
    "FeatureBatch",
    "ImageClassifier",
    "Layer",
    "Reading",
    "TrainedHead",
    "deepen",
    "grow",
    "load_head",
    "prepare",
    "widen",
]
