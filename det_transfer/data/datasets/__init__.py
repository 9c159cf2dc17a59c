"""Readers that turn a dataset's files into Detectron2's dataset dicts."""

from .coco_format import JsonDataset

__all__ = ["JsonDataset"]
