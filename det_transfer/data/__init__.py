"""Datasets, mappers and loaders. Detectron2's dataset dicts throughout."""

from .catalog import check_datasets, describe, register_datasets, take_class_count
from .loader import build_test_loader, build_train_loader, build_validation_loader
from .mapper import TransferDatasetMapper

__all__ = [
    "TransferDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "build_validation_loader",
    "check_datasets",
    "describe",
    "register_datasets",
    "take_class_count",
]
