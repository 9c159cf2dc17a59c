"""What of a classifier is trained: MODEL.CLASSIFIER.SCOPE."""

from torch import nn

from ..errors import UserError
from ..reuse import freeze
from .classifier import ImageClassifier

__all__ = ["apply_scope"]

_WORDS = ("Classifier", "New", "Grown", "All")


def apply_scope(model: ImageClassifier, scope: str, *, dropout: str = "off") -> None:
    """Freeze what lies outside a scope, in place, before the optimizer and DDP see the model.

    Source: Growing a Brain, section 4 (New, FC7-New, FC6-New, All).

    Args:
        scope: see MODEL.CLASSIFIER.SCOPE. Classifiers of tasks in ``model.training_tasks`` are in
            every scope, those of other tasks in none
        dropout: of frozen layers, see :func:`det_transfer.reuse.freeze`

    Raises:
        UserError: there is no such scope or layer
    """
    trained = {id(module) for module in _trained(model, scope)}
    tasks = model.training_tasks or tuple(model.classifiers)
    for name, module in model.classifiers.items():
        if name not in tasks:
            freeze(module, dropout=dropout)
    layers = [m for modules in model.named_layers().values() for m in modules]
    backbone = [m for modules in model.backbone.named_layers().values() for m in modules]
    if not trained & {id(module) for module in backbone}:
        # As a whole, with what may lie between its layers.
        layers = [model.backbone, *model.grown_modules().values()]
    for module in layers:
        if id(module) not in trained:
            freeze(module, dropout=dropout)


def _trained(model: ImageClassifier, scope: str) -> list[nn.Module]:
    """The modules below the classifiers that are in a scope."""
    layers = model.named_layers()
    if scope == "All":
        return [module for modules in layers.values() for module in modules]
    if scope == "Classifier":
        return []
    new = [m for name, m in model.grown_modules().items() if _is_new(model, name)]
    if scope in ("New", "FC8-New"):  # FC8 are the classifiers, which every scope trains
        return new
    if scope == "Grown":
        described = {**model.architecture.columns, **model.architecture.layers}
        return [m for name, m in model.grown_modules().items() if described[name].growth]
    if scope.endswith("-New") and len(scope) > len("-New"):
        try:
            return [*model.from_layer(scope.removesuffix("-New")), *new]
        except UserError as error:
            raise UserError(f"MODEL.CLASSIFIER.SCOPE {scope!r}: {error}") from error
    raise UserError(
        f"MODEL.CLASSIFIER.SCOPE is {scope!r}; it can be {', '.join(_WORDS)} or <layer>-New, e.g. "
        f"FC7-New, with a layer of {', '.join(layers)}"
    )


def _is_new(model: ImageClassifier, name: str) -> bool:
    prefixes = (f"layers.{name}.", f"columns.{name}.")
    return any(parameter.startswith(prefixes) for parameter in model.new)
