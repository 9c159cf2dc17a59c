"""Norms of decoder and heads: which there are, and what a config can ask of them in vain."""

from collections.abc import Iterator
from typing import NamedTuple

from detectron2.config import CfgNode

from ..errors import nearest
from .reading import leaves

__all__ = ["NORMS", "advice", "group_problems", "norm_problems"]

# Of Detectron2's get_norm; a recipe of ours takes no other.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
_NORM_KEYS = (".NORM", "_NORM")
# Of Detectron2's "GN". Source: get_norm of detectron2/layers/batch_norm.py.
_GROUPS = 32
# Fewer images than this give batch norm poor statistics. Source: Wu and He 2018 (Group
# Normalization), figure 1: its error grows below 8.
_FEW_IMAGES = 8


class _HeadNorm(NamedTuple):
    """A norm of a head.

    Attributes:
        part: of MODEL
        norm: key in `part`
        channels: key in `part` of the channels that it norms; "" where they are the decoder's
        layers: key in `part` of the number of layers that it follows; "" where there always are
    """

    part: str
    norm: str
    channels: str = ""
    layers: str = ""


# RPN.CONV_DIMS may hold -1, the decoder's: those are looked at in modeling.levels.
_HEAD_NORMS = (
    _HeadNorm("RPN", "NORM", "CONV_DIMS"),
    _HeadNorm("ROI_BOX_HEAD", "NORM", "CONV_DIM", "NUM_CONV"),
    _HeadNorm("ROI_BOX_HEAD", "FC_NORM", "FC_DIM", "NUM_FC"),
    _HeadNorm("ROI_MASK_HEAD", "NORM", "CONV_DIM", "NUM_CONV"),
    _HeadNorm("ROI_MASK_HEAD", "DECONV_NORM", "CONV_DIM"),
    _HeadNorm("RETINANET", "NORM", layers="NUM_CONVS"),
)
# Part -> key of its class, and the classes of which the keys of the table above are known.
_CLASSES = {
    "RPN": ("HEAD_NAME", ("TransferRPNHead",)),
    "ROI_BOX_HEAD": ("NAME", ("FastRCNNConvFCHead", "TransferBoxHead")),
    "ROI_MASK_HEAD": ("NAME", ("MaskRCNNConvUpsampleHead", "TransferMaskHead")),
}
_DECODERS = {"fpn": "FPN", "nasfpn": "NASFPN", "conv": "CONV_DECODER"}


def norm_problems(cfg: CfgNode) -> Iterator[str]:
    """A line for each norm that does not exist, cannot run here, or cannot have its channels."""
    for key, value in leaves(cfg.MODEL, "MODEL."):
        # Of REUSE and ADAPTERS the choices are others, checked elsewhere.
        ours = key.startswith(("MODEL.REUSE", "MODEL.ADAPTERS")) or not isinstance(value, str)
        if key.endswith(_NORM_KEYS) and not ours and value not in NORMS:
            near = nearest(value, NORMS) or NORMS[1:]
            yield f"{key} is {value!r}; it can be {' or '.join(map(repr, near))}"
    yield from _channel_problems(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return
    for key, value in leaves(cfg.MODEL, "MODEL."):
        if key.endswith(".NORM") and value == "SyncBN":
            others = "'BN' or 'GN'" if key == "MODEL.REUSE.NORM" else "'naiveSyncBN_N' or 'GN'"
            yield f"{key} 'SyncBN' is torch's, which needs CUDA; on the CPU take {others}"


def group_problems(norm: str, channels: int, norm_key: str, key: str) -> Iterator[str]:
    """A line where Detectron2's group norm cannot take so many channels, named by `key`."""
    if norm == "GN" and channels % _GROUPS:
        yield f"{key} is {channels}; under {norm_key} 'GN' it must be a multiple of {_GROUPS}"


def _channel_problems(cfg: CfgNode) -> Iterator[str]:
    for part, norm, channels, _ in _norms_of_heads(cfg):
        name_key, known = _CLASSES.get(part, ("", ()))
        if not channels or cfg.MODEL[part][name_key] not in known:
            continue  # the decoder's, or a head of the user's own
        given = cfg.MODEL[part][channels]
        for width in given if isinstance(given, list | tuple) else [given]:
            if width != -1:
                keys = f"MODEL.{part}.{norm}", f"MODEL.{part}.{channels}"
                yield from group_problems(cfg.MODEL[part][norm], width, *keys)


def _norms_of_heads(cfg: CfgNode) -> Iterator[_HeadNorm]:
    """Those that the model will have."""
    model = cfg.MODEL
    retina = "RetinaNet" in model.META_ARCHITECTURE
    parts = ["RETINANET"] if retina else ["RPN", "ROI_BOX_HEAD"]
    if model.MASK_ON and not retina:
        parts.append("ROI_MASK_HEAD")
    for entry in _HEAD_NORMS:
        if entry.part in parts and (not entry.layers or model[entry.part][entry.layers]):
            yield entry


def advice(cfg: CfgNode, processes: int) -> list[str]:
    """A line for each norm of decoder and heads that takes its statistics over too few images."""
    decoder = _DECODERS.get(cfg.MODEL.DECODER.NAME)
    places = [(decoder, "NORM")] if decoder else []
    places += [(entry.part, entry.norm) for entry in _norms_of_heads(cfg)]
    total = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE
    lines = []
    for part, key in places:
        norm = cfg.MODEL[part][key]
        images = total if "Sync" in norm else total // processes
        if norm.endswith(("BN", "BN_N")) and norm != "FrozenBN" and images < _FEW_IMAGES:
            lines.append(
                f"MODEL.{part}.{key} {norm!r} takes its statistics over {images} images, which is "
                f"few: below {_FEW_IMAGES} 'GN' learns better"
            )
    return lines
