"""det_transfer: reuse pretrained backbones properly in Detectron2, and measure what it brings."""

__version__ = "0.1.0"
