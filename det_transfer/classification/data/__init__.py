"""Labelled images: readers, tasks, views and loaders."""

from .image_set import ImageSet
from .loader import ClassificationMapper, build_test_loader, build_train_loader
from .readers import READERS, read_images
from .tasks import Tasks, check_tasks, image_set, noise_of

__all__ = [
    "READERS",
    "ClassificationMapper",
    "ImageSet",
    "Tasks",
    "build_test_loader",
    "build_train_loader",
    "check_tasks",
    "image_set",
    "noise_of",
    "read_images",
]
