"""Datasets, mappers and loaders. Detectron2's dataset dicts throughout."""

from .catalog import check_datasets, describe, register_datasets, take_class_count
from .loader import build_test_loader, build_train_loader, build_validation_loader
from .mapper import TransferDatasetMapper
from .pasting import CopyPasteMapper, Paster
from .training_set import counted, hold_to_subset, set_image_counts

__all__ = [
    "CopyPasteMapper",
    "Paster",
    "TransferDatasetMapper",
    "build_test_loader",
    "build_train_loader",
    "build_validation_loader",
    "check_datasets",
    "counted",
    "describe",
    "hold_to_subset",
    "register_datasets",
    "set_image_counts",
    "take_class_count",
]
