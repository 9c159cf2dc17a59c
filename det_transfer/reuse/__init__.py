"""How pretrained weights are reused: modes, freezing, reading and matching weights.

Knows torch and timm, nothing of detection.
"""

from .files import read_checkpoint
from .freeze import freeze, is_frozen
from .loading import LoadReport, load_trunk
from .modes import MODES, Mode, apply_mode, mode_of, reuse, trunk_of
from .norms import train_norms
from .preprocessing import Preprocessing, check_preprocessing
from .stages import stage_ends
from .table import format_table, reuse_table, trainable_line
from .weights import Weights, read_weights

__all__ = [
    "MODES",
    "LoadReport",
    "Mode",
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
    "reuse",
    "reuse_table",
    "stage_ends",
    "train_norms",
    "trainable_line",
    "trunk_of",
]
