"""How pretrained weights are reused: modes, freezing, reading and matching weights.

Knows torch and timm, nothing of detection.
"""

from .adapters import (
    adapter_tensors,
    adapters_of,
    add_adapters,
    load_adapters,
    merge_adapters,
    save_adapters,
    without_adapters,
)
from .fast import channels_last
from .files import read_checkpoint
from .fingerprint import changed, digests, fingerprint
from .freeze import freeze, frozen_tensors, is_frozen
from .loading import LoadReport, load_trunk
from .matching import matching
from .mixin import mix_in
from .modes import MODES, Mode, apply_mode, mode_of, reuse, trunk_of
from .norms import train_norms
from .only import train_only
from .preprocessing import Preprocessing, check_preprocessing
from .stages import REDRAWN, stage_ends, tensors_up_to
from .table import format_table, reuse_table, trainable_line
from .weights import Weights, read_weights

__all__ = [
    "MODES",
    "REDRAWN",
    "LoadReport",
    "Mode",
    "Preprocessing",
    "Weights",
    "adapter_tensors",
    "adapters_of",
    "add_adapters",
    "apply_mode",
    "changed",
    "channels_last",
    "check_preprocessing",
    "digests",
    "fingerprint",
    "format_table",
    "freeze",
    "frozen_tensors",
    "is_frozen",
    "load_adapters",
    "load_trunk",
    "matching",
    "merge_adapters",
    "mix_in",
    "mode_of",
    "read_checkpoint",
    "read_weights",
    "reuse",
    "reuse_table",
    "save_adapters",
    "stage_ends",
    "tensors_up_to",
    "train_norms",
    "train_only",
    "trainable_line",
    "trunk_of",
    "without_adapters",
]
