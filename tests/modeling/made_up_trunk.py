"""A trunk that hands its input on: decoders can be fed with any features."""

import torch
from detectron2.modeling import Backbone

CHANNELS = {"res2": 8, "res3": 12, "res4": 16, "res5": 20}


class MadeUpTrunk(Backbone):
    def __init__(self, channels=CHANNELS):
        super().__init__()
        self._out_features = list(channels)
        self._out_feature_channels = channels
        self._out_feature_strides = {name: 2 ** int(name[3:]) for name in channels}

    @property
    def size_divisibility(self):
        return 32

    def forward(self, features):
        return features


def features(height, width, channels=CHANNELS, images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(
            images,
            width_of,
            -(-height // 2 ** int(name[3:])),
            -(-width // 2 ** int(name[3:])),
            generator=generator,
        )
        for name, width_of in channels.items()
    }
