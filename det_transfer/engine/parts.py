"""Learning rates and weight decay of parts of a model: MODEL.REUSE.LR_MULT and WEIGHT_DECAY."""

from collections.abc import Sequence

import torch
from detectron2.solver.build import reduce_param_groups
from torch import nn

from ..errors import UserError
from ..reuse import adapter_tensors, matching, trunk_of

__all__ = ["PARTS", "set_parts"]

PARTS = ("trunk", "adapters", "decoder", "heads")


def set_parts(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    lr_mult: Sequence[tuple[str, float]] = (),
    weight_decay: Sequence[tuple[str, float]] = (),
) -> None:
    """Change rates and decay of an optimizer's groups by part, in place, before the first step.

    Args:
        lr_mult: (part, factor on the rate that the optimizer was built with)
        weight_decay: (part, weight decay)

        A part is one of :data:`PARTS`, one that the model knows (its method ``parts()`` gives
        names of parameters by part) or a regular expression on whole names of parameters; the last
        entry that fits a parameter counts.

    Raises:
        UserError: a part has no trained parameter
    """
    if not lr_mult and not weight_decay:
        return
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    factors = _by_parameter(model, names, lr_mult, "MODEL.REUSE.LR_MULT")
    decays = _by_parameter(model, names, weight_decay, "MODEL.REUSE.WEIGHT_DECAY")
    single = [
        {
            **group,
            "params": [parameter],
            "lr": group["lr"] * factors.get(names[parameter], 1.0),
            "weight_decay": decays.get(names[parameter], group["weight_decay"]),
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    optimizer.param_groups[:] = reduce_param_groups(single)


def _by_parameter(
    model: nn.Module,
    names: dict[nn.Parameter, str],
    entries: Sequence[tuple[str, float]],
    key: str,
) -> dict[str, float]:
    members = _parts_of(model, names.values())
    values: dict[str, float] = {}
    for part, value in entries:
        found = members[part] if part in members else _matching(names, part, key)
        if not found:
            raise UserError(f"{key}: the part {part!r} has no parameter that is trained here")
        values |= dict.fromkeys(found, value)
    return values


def _matching(names: dict[nn.Parameter, str], pattern: str, key: str) -> list[str]:
    known = {name: name for name in names.values()}
    what = f"trained parameter (nor is it a part: {', '.join(PARTS)})"
    return list(matching(known, [pattern], key, what))


def _parts_of(model: nn.Module, names) -> dict[str, list[str]]:
    adapters = adapter_tensors(model)
    trunk = _prefix(model, trunk_of(model))
    decoder = _prefix(model, getattr(model, "backbone", trunk_of(model)))
    members: dict[str, list[str]] = {part: [] for part in PARTS}
    for name in names:
        if name in adapters:
            part = "adapters"
        elif name.startswith(trunk):
            part = "trunk"
        else:
            part = "decoder" if name.startswith(decoder) else "heads"
        members[part].append(name)
    if hasattr(model, "parts"):
        members |= {
            part: [n for n in own if n in set(names)] for part, own in model.parts().items()
        }
    return members


def _prefix(model: nn.Module, module: nn.Module) -> str:
    name = next(name for name, m in model.named_modules() if m is module)
    return f"{name}." if name else ""
