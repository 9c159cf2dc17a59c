"""Every config key that det_transfer adds to Detectron2's, and how a config is read and checked.

Reading goes in this order: Detectron2's defaults, ours (:func:`add_det_transfer_config`), the YAML
with its ``_BASE_``, the command line; then what follows from the data and the batch
(:func:`scale_learning_rate`; the class count in ``data.catalog``); then :func:`validate`.
"""

from .keys import add_det_transfer_config
from .norms import NORMS, advice, group_problems
from .reading import Config, ConfigFile, differences, leaves, load_config, scale_learning_rate
from .validation import validate

__all__ = [
    "NORMS",
    "Config",
    "ConfigFile",
    "add_det_transfer_config",
    "advice",
    "differences",
    "group_problems",
    "leaves",
    "load_config",
    "scale_learning_rate",
    "validate",
]
