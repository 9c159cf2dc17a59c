"""What is wrong with a dataset: the one place that knows.

:func:`check_annotations` looks at the json and the names of the files, which training does before
it starts; :func:`check_images` decodes every image, which ``tools/check_dataset.py`` does.
"""

from .annotations import AnnotationCheck, check_annotations
from .findings import KINDS, Finding, Severity, format_findings, worst_first
from .format import format_problems
from .images import ImageCheck, check_images, shared_pictures

__all__ = [
    "KINDS",
    "AnnotationCheck",
    "Finding",
    "ImageCheck",
    "Severity",
    "check_annotations",
    "check_images",
    "format_findings",
    "format_problems",
    "shared_pictures",
    "worst_first",
]
