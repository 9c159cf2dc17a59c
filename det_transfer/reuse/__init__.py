"""How pretrained weights are reused: modes, freezing, reading and matching weights.

Knows torch and timm, nothing of detection.
"""

from .freeze import freeze, is_frozen
from .modes import MODES, apply_mode, mode_of, trunk_of

__all__ = ["MODES", "apply_mode", "freeze", "is_frozen", "mode_of", "trunk_of"]
