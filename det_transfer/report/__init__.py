"""Pictures and pages made from the files of run folders; needs neither torch nor Detectron2."""

from .pictures import draw_predictions

__all__ = ["draw_predictions"]
