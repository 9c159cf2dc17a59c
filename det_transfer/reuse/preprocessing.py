"""The preprocessing that pretrained weights were trained with, checked against the config's.

With a frozen trunk, swapped channels or another mean can never be learned away, and nothing else
would say so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Preprocessing", "check_preprocessing", "preprocessing_of_source"]

# How far apart two preprocessings may be and still be the same: timm says 127.5 where the authors
# of EfficientNet-Lite said 127, and 0.5 / 0.5 where others round to two digits.
_MEAN_TOLERANCE = 1.0  # grey levels of 255
_STD_TOLERANCE = 0.02  # relative


@dataclass(frozen=True)
class Preprocessing:
    """Channel order, mean and standard deviation in Detectron2's units: grey levels 0 to 255.

    The network sees ``(image - mean) / std``, channels in the order of ``format``.
    """

    format: str  # "RGB" or "BGR", as INPUT.FORMAT
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.format}, mean {_numbers(self.mean)}, std {_numbers(self.std)}"

    def as_dict(self) -> dict[str, Any]:
        """For a checkpoint's "preprocessing"; :meth:`from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        return cls(values["format"], tuple(values["mean"]), tuple(values["std"]))

    @classmethod
    def from_unit_range(cls, mean: Any, std: Any) -> "Preprocessing":
        """From the RGB mean and std of images in 0 to 1, as timm and torchvision have them."""
        return cls("RGB", tuple(255.0 * m for m in mean), tuple(255.0 * s for s in std))


def check_preprocessing(expected: Preprocessing, found: Preprocessing) -> str | None:
    """Compare what weights expect with what the config does.

    Args:
        expected: the weights' own
        found: INPUT.FORMAT, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD

    Returns:
        None where they agree, else what is wrong with the lines to paste into the config
    """
    if (
        expected.format == found.format
        and len(expected.mean) == len(found.mean) == len(found.std)
        and all(
            abs(a - b) <= _MEAN_TOLERANCE for a, b in zip(expected.mean, found.mean, strict=True)
        )
        and all(
            abs(a - b) <= _STD_TOLERANCE * a for a, b in zip(expected.std, found.std, strict=True)
        )
    ):
        return None
    return (
        f"these weights were trained with {expected}, but the config has {found}; put this into "
        "the config:\n"
        f'INPUT:\n  FORMAT: "{expected.format}"\n'
        f"MODEL:\n  PIXEL_MEAN: {_numbers(expected.mean)}\n  PIXEL_STD: {_numbers(expected.std)}"
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"


# Sources without metadata of their own ----------------------------------------------------------

# ImageNet mean and std in RGB. Source: torchvision.transforms._presets.ImageClassification.
TORCHVISION = Preprocessing("RGB", (123.675, 116.280, 103.530), (58.395, 57.120, 57.375))
# Source: detectron2/config/defaults.py, MODEL.PIXEL_MEAN and PIXEL_STD with their comments.
MSRA = Preprocessing("BGR", (103.530, 116.280, 123.675), (1.0, 1.0, 1.0))
# Source: detectron2 configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml.
FAIR_RESNEXT = Preprocessing("BGR", (103.530, 116.280, 123.675), (57.375, 57.120, 58.395))
# Source: tensorflow/tpu models/official/efficientnet/lite, "MEAN_RGB = [127.0] * 3",
# "STDDEV_RGB = [128.0] * 3".
EFFICIENTNET_LITE = Preprocessing("RGB", (127.0,) * 3, (128.0,) * 3)

# Part of Detectron2's addresses -> preprocessing, and whether a bottleneck's stride lies in its
# first 1x1 convolution (MODEL.RESNETS.STRIDE_IN_1X1). First match counts.
# Source: detectron2/checkpoint/catalog.py ("all models here uses PIXEL_STD=[1,1,1]", of catalog://)
# and the configs of its model zoo that use these weights.
_DETECTRON2: tuple[tuple[str, Preprocessing, bool], ...] = (
    ("ImageNetPretrained/MSRA/", MSRA, True),
    ("ImageNetPretrained/torchvision/", TORCHVISION, False),
    ("catalog://ImageNetPretrained/FAIR/", MSRA, False),
    ("ImageNetPretrained/FAIR/X-101-32x8d.pkl", FAIR_RESNEXT, False),
)


def preprocessing_of_source(source: str) -> tuple[Preprocessing | None, bool | None]:
    """What is known of one of Detectron2's addresses.

    Returns:
        preprocessing, and whether bottlenecks have their stride in the first 1x1 convolution;
        None for what is not known
    """
    for part, preprocessing, stride_in_1x1 in _DETECTRON2:
        if part in source:
            return preprocessing, stride_in_1x1
    return None, None
