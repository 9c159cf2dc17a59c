"""The sentence on top of a comparison: what the data shows, and what it does not."""

from collections.abc import Sequence

from .comparison import Comparison
from .html import number
from .parts import TASKS
from .sides import Side

__all__ = ["verdict"]

_SPELT_OUT = 2  # sides that have a sentence each


def verdict(result: Comparison) -> str:
    """What the data shows, and what it does not."""
    what = f"{TASKS.get(result.task, result.task)} AP"
    images = f" ({result.images} images)" if result.images else ""
    if not result.differences:
        means = ", ".join(f"{s.name} {number(result.mean(s, 'AP'))}" for s in result.sides)
        return (
            f"On {result.dataset}{images}: {what} {means}. Whether that is more than the choice of "
            "these images is not known: the intervals need the predictions and the annotation file."
        )
    known = [side for side in result.others if "AP" in result.differences[side.name]]
    if len(known) <= _SPELT_OUT:
        said = "; ".join(_one(result, side) for side in known)
    else:
        said = f"held to {result.base.name}, {_sorted_out(result, known)}"
    return f"On {result.dataset}{images}, {said}, in {what}. " + " ".join(_cautions(result))


def _one(result: Comparison, side: Side) -> str:
    interval = result.differences[side.name]["AP"]
    span = f"{interval.low:+.1f} to {interval.high:+.1f}"
    base = result.base.name
    if interval.decided:
        word = "better" if interval.difference > 0 else "worse"
        amount = abs(interval.difference)
        return f"{side.name} is {word} than {base} by {amount:.1f} (95 % interval {span})"
    return f"{side.name} against {base} is not decided ({interval.difference:+.1f}, {span})"


def _sorted_out(result: Comparison, sides: Sequence[Side]) -> str:
    """The same of many sides: which are better, which are worse, of which it is not known."""
    found: dict[str, list[str]] = {"better": [], "worse": [], "not decided": []}
    for side in sides:
        interval = result.differences[side.name]["AP"]
        word = "better" if interval.difference > 0 else "worse"
        found[word if interval.decided else "not decided"].append(f"{side.name} {interval}")
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in found.items() if names)


def _cautions(result: Comparison) -> list[str]:
    said = []
    if any(len(side.runs) == 1 for side in result.sides):
        said.append(
            "The interval is over test images; how much another seed of training would change "
            "is not in it, where a side is one run."
        )
    else:
        said.append("The interval is over test images, not over seeds of training.")
        mixed = [
            side.name
            for side in result.others
            if (found := result.differences[side.name].get("AP"))
            and found.decided
            and not _apart(result.values(side, "AP"), result.values(result.base, "AP"))
        ]
        if mixed:
            said.append(
                f"Single seeds of {', '.join(mixed)} and of {result.base.name} overlap: more seeds "
                "are needed."
            )
    if len(result.others) > 2:
        said.append(
            f"Of {len(result.others)} comparisons at 95 % each, one in twenty looks decided by "
            "chance."
        )
    return said


def _apart(a: Sequence[float], b: Sequence[float]) -> bool:
    return not a or not b or min(a) > max(b) or max(a) < min(b)
