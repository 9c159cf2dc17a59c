"""Where the stages of a trunk end, and which of its modules come before."""

from collections.abc import Iterator

from torch import nn

from ..errors import UserError

__all__ = ["first_stages", "stage_ends"]


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
        f"the trunk {type(trunk).__name__} does not say where its stages end; name what is to "
        "stay frozen by MODEL.REUSE.PATTERNS, or give the trunk a method stage_ends()"
    )


def first_stages(trunk: nn.Module, count: int) -> list[nn.Module]:
    """The modules, without those inside them, that make up a trunk up to the end of a stage.

    Modules are taken in the order in which the trunk registered them, which in every trunk that
    says where its stages end is the order in which they run.

    Raises:
        UserError: the trunk has no stage `count`
    """
    ends = stage_ends(trunk)
    if count not in ends:
        raise UserError(
            f"MODEL.REUSE.STAGES is {count}, but the trunk's stages are "
            f"{', '.join(map(str, ends))} (stage k ends at stride 2**k)"
        )
    return list(_up_to(trunk, "", ends[count]))


def _up_to(module: nn.Module, prefix: str, end: str) -> Iterator[nn.Module]:
    for name, child in module.named_children():
        full = f"{prefix}{name}"
        if end.startswith(f"{full}."):
            yield from _up_to(child, f"{full}.", end)
            return
        yield child
        if full == end:
            return
