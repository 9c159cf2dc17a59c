"""Batch norms that train, in place of those that stand still."""

from timm.layers import BatchNormAct2d, GroupNormAct, convert_sync_batchnorm, unfreeze_batch_norm_2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["NORMS", "train_norms"]

# At most so many groups. Source: Wu and He 2018 (Group Normalization), section 4.1.
_GROUPS = 32


def train_norms(module: nn.Module, norm: str) -> nn.Module:
    """Give every batch norm in `module` a form that is trained: affine part and statistics.

    What it knew goes along: scale, shift and running statistics (GN has none of the latter, so
    that a pretrained network starts from something else than it was). Layers that are no batch
    norms, such as LayerNorm, train anyway and stay.

    Args:
        norm: "BN", "SyncBN" (statistics over all processes; torch's needs CUDA) or "GN"

    Returns:
        `module`, changed in place; a replacement where it is a batch norm itself
    Raises:
        ValueError: another value of `norm`
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; it can be {' or '.join(map(repr, NORMS))}")
    if _is_batch_norm(module):
        return NORMS[norm](module)
    for name, child in module.named_children():
        trained = train_norms(child, norm)
        if trained is not child:
            setattr(module, name, trained)
    return module


def _is_batch_norm(module: nn.Module) -> bool:
    # Detectron2, torchvision and timm each have a FrozenBatchNorm2d of their own.
    return isinstance(module, _BatchNorm) or _is_frozen_norm(module)


def _is_frozen_norm(module: nn.Module) -> bool:
    return type(module).__name__.startswith("FrozenBatchNorm")


def _batch_norm(old: nn.Module) -> nn.Module:
    if not _is_frozen_norm(old):
        return old.requires_grad_(True)
    new = unfreeze_batch_norm_2d(old)
    if new is not old:  # timm's or torchvision's
        return new
    new = nn.BatchNorm2d(old.num_features, eps=old.eps)
    new.load_state_dict({**new.state_dict(), **old.state_dict()})
    return new.to(old.weight.device, old.weight.dtype).train(old.training)


def _sync_batch_norm(old: nn.Module) -> nn.Module:
    return convert_sync_batchnorm(_batch_norm(old))


def _group_norm(old: nn.Module) -> nn.Module:
    old = _batch_norm(old)
    channels = old.num_features
    groups = _groups(channels)
    if isinstance(old, BatchNormAct2d):
        new = GroupNormAct(channels, num_groups=groups, eps=old.eps, apply_act=False)
        new.drop, new.act = old.drop, old.act
    else:
        new = nn.GroupNorm(groups, channels, eps=old.eps)
    if old.affine:
        new.load_state_dict({"weight": old.weight, "bias": old.bias})
    return new.to(next(old.buffers()).device).train(old.training)


def _groups(channels: int) -> int:
    """The most groups up to 32 that have the same number of channels, two or more."""
    most = min(_GROUPS, channels // 2)
    return next((n for n in range(most, 1, -1) if channels % n == 0), 1)


# REUSE.NORM -> what becomes of a batch norm. A new norm is a new entry.
NORMS = {"BN": _batch_norm, "SyncBN": _sync_batch_norm, "GN": _group_norm}
