"""What files of ours look like, as JSON Schemas, and what of a content is not like that.

A file may be of another version, cut off, or written by another hand. Nothing is required here but
what an entry cannot do without; keys that are not named are free.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

from .errors import raise_all

__all__ = [
    "ARCHITECTURE",
    "BY_DATASET",
    "CHECKPOINT",
    "COLLECTED_CONFIG",
    "DESCRIBED_CLASSIFIER",
    "FEATURES",
    "FINISHED_RUN",
    "PLAN_TEMPLATE",
    "RESULTS",
    "RUN",
    "TRANSFERABILITY",
    "Schema",
    "check",
    "misfits",
]

Schema = Mapping[str, Any]


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _exactly(**properties: Schema) -> Schema:
    """An object that has these keys, all of them, and no other."""
    return {**_object(*properties, **properties), "additionalProperties": False}


def _each(schema: Schema) -> Schema:
    """An object whose values are all alike."""
    return {"type": "object", "additionalProperties": schema}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_WHOLE = {"type": "integer"}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": ["number", "null"], "minimum": 0}
_MEASURED = {"type": ["number", "null"]}
_METRICS = {"$ref": "#/$defs/metrics"}

RUN = {  # run.json
    **_object(
        status=_TEXT,
        reason=_TEXT,
        command=_TEXT,
        seed=_WHOLE,
        processes=_COUNT,
        device=_TEXT,
        precision=_TEXT,
        weights=_TEXT,
        started=_TEXT,
        ended=_TEXT,
        start_iteration=_COUNT,
        max_iteration=_COUNT,
        versions=_each(_TEXT),
        reuse=_list(
            _object("module", "parameters", "trainable", parameters=_COUNT, trainable=_COUNT)
        ),
        seconds=_each(_AMOUNT),
        peak_memory_bytes=_each(_AMOUNT),
        step_operations=_AMOUNT,
        frozen=_object(
            "tensors", "verdict", "fingerprint", tensors=_COUNT, verdict=_TEXT, fingerprint=_TEXT
        ),
        results=_METRICS,
        evaluations=_list(
            _object("iteration", "metrics", iteration=_COUNT, metrics=_each(_MEASURED))
        ),
    ),
    "$defs": {"metrics": _each({"anyOf": [_MEASURED, _METRICS]})},
}

FINISHED_RUN = {  # run.json of one whose numbers are collected
    **RUN,
    "properties": {
        **RUN["properties"],
        "seconds": _object(
            "training",
            "evaluation",
            "step_median",
            training=_AMOUNT,
            evaluation=_AMOUNT,
            step_median={"type": "number"},
        ),
        "peak_memory_bytes": _each({"type": "number"}),
        "results": _each(_each({"anyOf": [_MEASURED, _each(_MEASURED)]})),
    },
    "required": [
        "seed",
        "max_iteration",
        "weights",
        "precision",
        "device",
        "processes",
        "reuse",
        "seconds",
        "peak_memory_bytes",
        "results",
        "command",
        "versions",
        "ended",
    ],
}
COLLECTED_CONFIG = _object(  # its config with dotted keys
    "SOLVER.IMS_PER_BATCH",
    "MODEL.REUSE.MODE",
    "DATASETS.TEST",
    **{
        "SOLVER.IMS_PER_BATCH": _COUNT,
        "MODEL.REUSE.MODE": _TEXT,
        "DATASETS.TEST": {**_list(_TEXT), "minItems": 1},
    },
)
BY_DATASET = _each(_each(_each(_MEASURED)))  # dataset -> task -> metric

RESULTS = _object(  # eval/<dataset>/results.json
    protocol=_TEXT,
    max_dets=_list(_COUNT),
    json_file=_TEXT,
    image_root=_TEXT,
    metrics=_each(_each(_MEASURED)),
)

FEATURES = _object(  # features.json
    data=_object(),
    stages=_list(
        _object(
            "stage",
            "cka",
            cka=_MEASURED,
            weights_distance=_MEASURED,
            knn=_each(_MEASURED),
            probe=_each(_MEASURED),
        )
    ),
)

_POSITIVE = {"type": "integer", "minimum": 1}
_READING = _exactly(
    normalize=_FLAG,
    scale={"type": "number"},
    dropout={"enum": ["before", "after", "none"]},
)
_LAYERS = _each(
    _exactly(name=_TEXT, width=_POSITIVE, inputs=_list(_TEXT), reading=_READING, growth=_COUNT)
)
ARCHITECTURE = _object(
    "network",
    "options",
    "pool5",
    "levels",
    "layers",
    "classifiers",
    "dropout",
    "dropped",
    "top_reading",
    "growths",
    network=_TEXT,
    options=_object(),
    pool5=_POSITIVE,
    levels=_list({**_list(_TEXT), "minItems": 1}),
    layers=_LAYERS,
    classifiers=_LAYERS,
    dropout={"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    dropped=_list(_TEXT),
    top_reading=_READING,
    growths=_list(_TEXT),
    columns=_each(
        _exactly(name=_TEXT, channels=_POSITIVE, width=_POSITIVE, parameters=_COUNT, growth=_COUNT)
    ),
)
# What a checkpoint of tools/train_classifier.py says of its classifier.
DESCRIBED_CLASSIFIER = _object(
    "architecture",
    "new",
    "classes",
    architecture=ARCHITECTURE,
    new=_list(_TEXT),
    classes=_each(_list(_TEXT)),
)

CHECKPOINT = {  # entry -> what it is where it has the first key of its "required"
    "frozen": _object(
        "tensors",
        "file",
        "fingerprint",
        "origin",
        tensors=_list(_TEXT),
        file=_TEXT,
        fingerprint=_TEXT,
        origin=_TEXT,
    ),
    "preprocessing": _exactly(
        format=_TEXT,
        mean=_list({"type": "number"}),
        std=_list({"type": "number", "exclusiveMinimum": 0}),
    ),
    "classifier": DESCRIBED_CLASSIFIER,
}

TRANSFERABILITY = _object(  # transferability.json
    "title",
    "layers",
    "splits",
    "runs",
    title=_TEXT,
    layers=_list(_TEXT),
    splits=_each(_object("kind", kind=_TEXT, A=_object(), B=_object())),
    runs=_list(
        _object(
            "name",
            "split",
            "seed",
            "treatment",
            "source",
            "target",
            "n",
            "extra",
            "shots",
            "label",
            name=_TEXT,
            split=_TEXT,
            seed=_COUNT,
            treatment=_TEXT,
            source={"type": ["string", "null"]},
            target=_TEXT,
            n=_COUNT,
            extra=_COUNT,
            shots={"type": ["integer", "null"], "minimum": 1},
            label=_TEXT,
        )
    ),
)


_OPTIONS = {"type": ["object", "null"], "propertyNames": _TEXT}
_AXIS = {**_each(_OPTIONS), "minProperties": 1}
PLAN_TEMPLATE = _object(  # a plan's runs, and what they have in common
    program=_TEXT,
    config={"type": ["string", "null"]},
    options=_OPTIONS,
    needs={"anyOf": [_TEXT, _list(_TEXT)]},
    grid={"type": ["object", "null"], "additionalProperties": _AXIS},
    seeds={"type": ["array", "null"], "items": _WHOLE},
    exclude=_list(_object()),
    output={"type": ["string", "null"]},
)


def misfits(content: Any, schema: Schema) -> Iterator[tuple[tuple, str]]:
    """What in plain values is not as a JSON Schema has it.

    A tuple counts as an array; a float is no integer, NaN and infinity are no numbers.

    Yields:
        where it is, as keys and indices, and what is wrong there in words
    """
    for error in _Validator(schema).iter_errors(content):
        short = len(error.message) <= _LONGEST
        said = error.message if short else f"it is not {error.validator} {error.validator_value}"
        where = error.json_path.removeprefix("$").removeprefix(".")
        yield tuple(error.absolute_path), f"{where}: {said}" if where else said


def check(content: Any, schema: Schema, what: str) -> None:
    """Raises: UserError with a line for each misfit, `what` before it."""
    raise_all(f"{what}: {said}" for _, said in misfits(content, schema))


_LONGEST = 200  # characters of a message, which may quote the whole value


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: Any, value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    # Larger ones do not become a float.
    return _is_integer(checker, value) and abs(value) < 1e300


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": _is_integer,
            "number": _is_number,
            "array": lambda _, value: isinstance(value, list | tuple),
        }
    ),
)
