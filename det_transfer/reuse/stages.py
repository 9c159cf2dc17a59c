"""Where the stages of a trunk end, and which of its modules come before."""

from collections.abc import Iterator

from torch import nn

from ..errors import UserError

__all__ = ["LOAD_STAGES", "REDRAWN", "first_stages", "stage_ends", "tensors_up_to"]

LOAD_STAGES = "MODEL.REUSE.LOAD_STAGES"  # of the config, for errors
# Added to a run's seed for what is drawn anew behind a cut, which must not begin as it did in the
# run whose first stages are taken: that may have the same seed. Any number that no user counts to.
REDRAWN = 1_000_003


def stage_ends(trunk: nn.Module) -> dict[int, str]:
    """Stage -> name of its last module. Stage k ends where features have stride 2**k.

    So the numbers are those of Detectron2's FREEZE_AT: 1 is the stem, 2 is up to res2, 5 is all.
    A trunk says it by a method ``stage_ends()``, as ``TimmBackbone`` does; Detectron2's ResNets
    (``stem`` and ``stage_names``) are known.

    Raises:
        UserError: the trunk does not say where its stages end
    """
    if hasattr(trunk, "stage_ends"):
        return trunk.stage_ends()
    if hasattr(trunk, "stem") and hasattr(trunk, "stage_names"):
        names = ["stem", *trunk.stage_names]
        return dict(enumerate(names, start=1))
    raise UserError(
        f"the trunk {type(trunk).__name__} does not say where its stages end, which is needed for "
        "MODEL.REUSE.STAGES and LOAD_STAGES; name what is to stay frozen by MODEL.REUSE.PATTERNS, "
        "or give the trunk a method stage_ends()"
    )


def first_stages(trunk: nn.Module, count: int, key: str = "MODEL.REUSE.STAGES") -> list[nn.Module]:
    """The modules, without those inside them, that make up a trunk up to the end of a stage.

    Modules are taken in the order in which the trunk registered them, which in every trunk that
    says where its stages end is the order in which they run.

    Args:
        key: of the config, for errors

    Raises:
        UserError: the trunk has no stage `count`
    """
    ends = stage_ends(trunk)
    if count not in ends:
        raise UserError(
            f"{key} is {count}, but the trunk's stages are "
            f"{', '.join(map(str, ends))} (stage k ends at stride 2**k)"
        )
    return list(_up_to(trunk, "", ends[count]))


def tensors_up_to(trunk: nn.Module, count: int) -> set[str]:
    """Names in the trunk's state dict of all that its first `count` stages hold.

    Up to the last stage that is the whole trunk, with what it may hold behind it.

    Raises:
        UserError: as :func:`first_stages`, of MODEL.REUSE.LOAD_STAGES
    """
    inside = set(first_stages(trunk, count, LOAD_STAGES))
    if count == max(stage_ends(trunk)):
        return set(trunk.state_dict())
    prefixes = tuple(f"{name}." for name, module in trunk.named_modules() if module in inside)
    return {name for name in trunk.state_dict() if name.startswith(prefixes)}


def _up_to(module: nn.Module, prefix: str, end: str) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if end.startswith(f"{full}."):
            yield from _up_to(child, f"{full}.", end)
            return
        yield child
        if full == end:
            return
