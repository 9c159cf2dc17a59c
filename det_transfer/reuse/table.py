"""What of a model is trained: a table by part, and one line."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .freeze import is_frozen

__all__ = ["format_table", "reuse_table", "trainable_line"]

# Normalisation layers by a word of their class's name, so that those of Detectron2 and timm are
# known without an import. First match counts.
_NORMS = (
    ("FrozenBatchNorm", "FrozenBN"),
    ("BatchNorm", "BN"),
    ("GroupNorm", "GN"),
    ("LayerNorm", "LN"),
    ("InstanceNorm", "IN"),
    ("RmsNorm", "RMS"),
    ("RMSNorm", "RMS"),
)


def reuse_table(model: nn.Module) -> list[dict[str, Any]]:
    """What each part of a model holds and trains.

    Parts are the stages of the trunk, the decoder on it as one, and below everything else the
    second level (e.g. ``roi_heads.box_head``). FrozenBatchNorm's scale and shift are buffers to
    torch; they count as parameters that are not trained, so that the total of a network does not
    depend on how its norms are kept still.

    Returns:
        rows with ``module``, ``parameters`` (numbers, not tensors), ``trainable`` and ``norm``
        ("BN", "BN frozen", "FrozenBN", "GN", "LN", several with a comma, or "-"); ready for json
    """
    parts = _parts(model)
    numbers: dict[str, list[int]] = {part: [0, 0] for part in parts}
    norms: dict[str, Counter] = {part: Counter() for part in parts}
    for name, tensor in _learned(model).items():
        row = numbers[_part_of(name, parts)]
        row[0] += tensor.numel()
        row[1] += tensor.numel() * tensor.requires_grad
    for name, kind in _norm_layers(model):
        norms[_part_of(name, parts)][kind] += 1
    decoders = {name for name, m in model.named_children() if hasattr(m, "bottom_up")}
    return [
        {
            "module": f"{part} (decoder)" if part in decoders else part or "(rest)",
            "parameters": total,
            "trainable": trainable,
            "norm": ", ".join(sorted(norms[part])) or "-",
        }
        for part, (total, trainable) in numbers.items()
        if total
    ]


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of :func:`reuse_table` as aligned text with a header."""
    cells = [["module", "parameters", "trainable", "norm"]]
    cells += [
        [row["module"], f"{row['parameters']:,}", f"{row['trainable']:,}", row["norm"]]
        for row in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip()
        for a, b, c, d in cells
    ]
    return "\n".join(lines)


def trainable_line(model: nn.Module) -> str:
    """E.g. "trainable 21.9 M of 83.5 M (26.1 %)", counted as in :func:`reuse_table`."""
    learned = _learned(model).values()
    total = sum(tensor.numel() for tensor in learned)
    trainable = sum(tensor.numel() for tensor in learned if tensor.requires_grad)
    share = 100 * trainable / total if total else 0.0
    return f"trainable {trainable / 1e6:.1f} M of {total / 1e6:.1f} M ({share:.1f} %)"


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, and the scale and shift of FrozenBatchNorm; shared ones once."""
    learned: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if "FrozenBatchNorm" in type(module).__name__:
            buffers = dict(module.named_buffers(recurse=False))
            learned |= {f"{name}.{k}": buffers[k] for k in ("weight", "bias") if k in buffers}
    return learned


def _norm_layers(model: nn.Module) -> Iterable[tuple[str, str]]:
    """(name, kind) of every normalisation layer."""
    frozen = [f"{name}." if name else "" for name, m in model.named_modules() if is_frozen(m)]
    for name, module in model.named_modules():
        classes = [cls.__name__ for cls in type(module).__mro__]
        kind = next((k for word, k in _NORMS if any(word in c for c in classes)), None)
        if kind is not None:
            stands_still = kind == "BN" and f"{name}.".startswith(tuple(frozen))
            yield name, "BN frozen" if stands_still else kind


def _parts(model: nn.Module) -> list[str]:
    """Names of the parts in the model's order; "" for what lies in none of the others."""
    parts: list[str] = []
    for name, module in model.named_children():
        trunk = getattr(module, "bottom_up", None)
        if isinstance(trunk, nn.Module):
            parts += [*_stages(f"{name}.bottom_up", trunk), name]
        elif name == "backbone":
            parts += _stages(name, module)
        else:
            parts += [f"{name}.{child}" for child, _ in module.named_children()] + [name]
    return [*parts, ""]


def _stages(name: str, trunk: nn.Module) -> list[str]:
    """The children of a trunk, looking through containers with a single child."""
    children = list(trunk.named_children())
    if len(children) == 1:
        child, module = children[0]
        return [*_stages(f"{name}.{child}", module), name]
    return [*(f"{name}.{child}" for child, _ in children), name]


def _part_of(name: str, parts: Iterable[str]) -> str:
    """The part with the longest name that `name` lies in."""
    return max(
        (p for p in parts if not p or name == p or name.startswith(f"{p}.")), key=len, default=""
    )
