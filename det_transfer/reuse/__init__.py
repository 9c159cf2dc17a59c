"""How pretrained weights are reused: modes, freezing, reading and matching weights.

Knows torch and timm, nothing of detection.
"""

from .files import read_checkpoint
from .freeze import freeze, is_frozen
from .loading import LoadReport, load_trunk
from .modes import MODES, apply_mode, mode_of, trunk_of
from .preprocessing import Preprocessing, check_preprocessing
from .table import format_table, reuse_table, trainable_line
from .weights import Weights, read_weights

__all__ = [
    "MODES",
    "LoadReport",
    "Preprocessing",
    "Weights",
    "apply_mode",
    "check_preprocessing",
    "format_table",
    "freeze",
    "is_frozen",
    "load_trunk",
    "mode_of",
    "read_checkpoint",
    "read_weights",
    "reuse_table",
    "trainable_line",
    "trunk_of",
]
