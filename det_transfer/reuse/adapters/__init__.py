"""Residual adapters: small trained layers inside a pretrained network that stays as it is.

An adapter is a child, named ``adapter``, of the layer that it adapts. So no tensor of the base
network is renamed, and a new adapter, which begins at zero, leaves all outputs as they were to
the last bit. Source: Rebuffi et al. 2017 (series) and 2018 (parallel).
"""

from .files import adapter_state, base_state, load_adapters, save_adapters
from .insertion import Adapter, adapter_tensors, adapters_of, add_adapters, without_adapters
from .layers import KINDS
from .merging import merge_adapters
from .targets import LAYERS

__all__ = [
    "KINDS",
    "LAYERS",
    "Adapter",
    "adapter_state",
    "adapter_tensors",
    "adapters_of",
    "add_adapters",
    "base_state",
    "load_adapters",
    "merge_adapters",
    "save_adapters",
    "without_adapters",
]
