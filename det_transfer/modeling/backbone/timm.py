"""Any timm model with ``features_only`` behind Detectron2's Backbone contract."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from ...errors import UserError, nearest

__all__ = ["TimmBackbone", "build_timm_backbone"]

_KEY = "MODEL.TIMM.NAME"
# Pixels; longer than the 1,333 of the usual recipes: position tables that end before are found.
_LONG_SIDE = 1344


class TimmBackbone(Backbone):
    """The features of a timm model, named by stride: res2 (4 px), res3 (8), res4 (16), res5 (32).

    The network lies in ``net`` under timm's own names; it is randomly initialised. Images have to
    be padded to ``size_divisibility``.

    Args:
        name: a timm model, e.g. "tf_efficientnet_lite0"; a pretrained tag behind a dot is allowed
        out_features: the features to return, e.g. ["res3", "res4", "res5"]; layers that only
            others would need are left out (but HRNet's, whose levels all depend on each other)
        in_channels: of the images
        drop_path_rate: stochastic depth in training; 0 is without

    Raises:
        UserError: the model does not exist, has no feature maps or only one stride, takes images
            of one size only, or lacks a feature that is asked for
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str],
        *,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        options: dict[str, Any] = {"in_chans": in_channels}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        info = _feature_info(name, **options)
        stride_of = {f"res{int(math.log2(stride))}": stride for stride in info}
        if not out_features or set(out_features) - set(stride_of):
            raise UserError(
                f"MODEL.TIMM.OUT_FEATURES {list(out_features)}: {name} has {list(stride_of)}"
            )
        self._out_features = sorted(set(out_features), key=stride_of.get)
        self._out_feature_strides = {f: stride_of[f] for f in self._out_features}
        indices = tuple(info[stride] for stride in self._out_feature_strides.values())
        self.timm_name = name
        self.net = _without_rest(_create(name, options, out_indices=indices))
        channels = self.net.feature_info.channels()
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        # Of all strides: networks that fuse their levels need the coarsest one whole.
        self._size_divisibility = max(info)
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self._try_out(in_channels)

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def stage_ends(self) -> dict[int, str]:
        """Stage k -> name of the module that ends it, see :mod:`det_transfer.reuse.stages`."""
        modules = dict(self.named_modules())
        ends = {}
        for level in self.net.feature_info.info:
            name = level["module"]
            for known in (f"net.{name}", f"net.{name.replace('.', '_')}"):  # timm may flatten
                if known in modules:
                    ends[int(math.log2(level["reduction"]))] = known
        return ends

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: (N, C, H, W) float, H and W multiples of ``size_divisibility``

        Returns:
            feature name -> (N, channels, H / stride, W / stride), fine to coarse
        """
        features = self.net(images)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return dict(zip(self._out_features, features, strict=True))

    @torch.no_grad()
    def _try_out(self, in_channels: int) -> None:
        """Refuse a model whose features are not what its metadata promise."""
        unit = self._size_divisibility
        long_side = math.ceil(_LONG_SIDE / unit) * unit
        device = next(self.net.parameters()).device
        was_training = self.training
        self.eval()
        sizes = [(3 * unit, 2 * unit), (unit, long_side)]
        if device.type == "meta":  # where each operation takes its time, whatever the size
            sizes = [(3 * unit, long_side)]
        for height, width in sizes:
            try:
                outputs = self(torch.zeros(1, in_channels, height, width, device=device))
            except (RuntimeError, AssertionError, IndexError, ValueError, TypeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UserError(
                    f"{_KEY} {self.timm_name} cannot serve: it does not take images of "
                    f"{height} x {width} px ({reason}); a detector needs a model that takes any "
                    f"multiple of {unit}"
                ) from error
            for name, spec in self.output_shape().items():
                found = tuple(outputs[name].shape[1:])
                expected = (spec.channels, height // spec.stride, width // spec.stride)
                if found != expected:
                    raise UserError(
                        f"{_KEY} {self.timm_name} cannot serve: for images of {height} x {width} "
                        f"px its {name} is {found}, where stride {spec.stride} makes {expected}"
                    )
        self.train(was_training)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build ``MODEL.TIMM.NAME`` with ``MODEL.TIMM.{OUT_FEATURES, DROP_PATH_RATE}``."""
    return TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        cfg.MODEL.TIMM.OUT_FEATURES,
        in_channels=input_shape.channels,
        drop_path_rate=cfg.MODEL.TIMM.DROP_PATH_RATE,
    )


@cache  # of many detectors on one trunk the first pays for looking
def _feature_info(name: str, **options: Any) -> Mapping[int, int]:
    """Stride -> index of the deepest feature of timm's at that stride, fine to coarse."""
    if not timm.is_model(name):
        near = nearest(name, timm.list_models())
        hint = f"did you mean {' or '.join(near)}?" if near else "see timm.list_models()"
        raise UserError(f"{_KEY} {name!r} is not a model of timm {timm.__version__}; {hint}")
    try:
        with torch.device("meta"):  # no memory, no time: only the metadata are looked at
            net = _create(name, options)
    except UserError:  # an older timm reads numbers off tensors while it builds some; or a mistake
        with torch.random.fork_rng(devices=[]):  # the seed draws the same, looked at or known
            net = _create(name, options)
    strides = [level["reduction"] for level in net.feature_info.info]
    if len(set(strides)) < 2:
        raise UserError(
            f"{_KEY} {name} cannot serve: all its features have stride {strides[0]} (a plain "
            "transformer or mixer); a detector needs several, e.g. 4, 8, 16, 32"
        )
    if any(stride & (stride - 1) for stride in strides):
        raise UserError(f"{_KEY} {name} cannot serve: its strides {strides} are no powers of 2")
    return MappingProxyType({stride: index for index, stride in enumerate(strides)})


def _without_rest(net: nn.Module) -> nn.Module:
    """Drop the blocks behind the last feature of an EfficientNet or MobileNetV3.

    timm keeps and runs them there, for nothing: computed in vain in every step, and parameters
    without a gradient, which DistributedDataParallel would wait for.
    """
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features) and net.feature_hooks is None:
        net.blocks = net.blocks[: max(net._stage_out_idx)]
    return net


def _create(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    options = {**options, **more, "features_only": True, "pretrained": False}
    fixed_size = getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    # timm builds for one image size unless told otherwise; what cannot be told is tried out later.
    attempts = [{"strict_img_size": False}, {}] if fixed_size else [{}]
    for attempt in attempts:
        try:
            return timm.create_model(name, **options, **attempt)
        except TypeError as error:
            if attempt is not attempts[-1]:
                continue
            problem = error
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
            problem = error
    if "drop_path_rate" in str(problem):
        raise UserError(f"MODEL.TIMM.DROP_PATH_RATE: {name} has no drop-path; leave it at 0")
    raise UserError(f"{_KEY} {name} cannot serve: timm makes no feature maps of it ({problem})")
