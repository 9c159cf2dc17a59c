"""Which datasets there are: the embedded one, the user's own, and Detectron2's."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..config import Config
from ..errors import UserError, nearest, raise_all
from .checks import Severity
from .datasets import JsonDataset
from .records import Content, content_of_file

__all__ = ["check_datasets", "content_of", "describe", "register_datasets", "take_class_count"]

logger = logging.getLogger(__name__)

# Where to get what is missing, by the start of a dataset's name.
_SOURCES = {
    "openmoji": "make it with: python datasets/prepare_openmoji.py",
    "coco": "get it from https://cocodataset.org/#download; datasets/README.md shows the tree",
    "lvis": "get it from https://www.lvisdataset.org/dataset; datasets/README.md shows the tree",
}

# The heads whose class count comes from the data.
_CLASS_COUNTS = ("ROI_HEADS", "RETINANET")


def datasets_root() -> Path:
    """The folder of all datasets: Detectron2's DETECTRON2_DATASETS, else ``datasets``."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def register_datasets(cfg: CfgNode) -> None:
    """Register the embedded dataset and DATASETS.CUSTOM; check that what the run needs is there.

    Raises:
        UserError: a name in DATASETS.TRAIN or TEST that nobody registered, or a file that is
            missing, with where it is to be had
    """
    root = datasets_root() / "openmoji"
    embedded = [
        (f"openmoji_{split}", root / f"openmoji_lvis_{split}.json", root / split)
        for split in ("train", "val")
    ]
    paste = cfg.INPUT.COPY_PASTE
    pasted_from = cfg.DATASETS.TRAIN if paste.ENABLED and not paste.BOXES else ()
    for name, json_file, image_root in [*embedded, *cfg.DATASETS.CUSTOM]:
        cache_dir = cfg.DATASETS.CACHE_DIR
        masks = cfg.MODEL.MASK_ON or name in pasted_from
        register(name, json_file, image_root, masks=masks, cache_dir=cache_dir)
    wanted = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    raise_all(problem for name in wanted for problem in _problems(name))


def register(
    name: str, json_file: str | os.PathLike, image_root: str | os.PathLike, **options: Any
) -> None:
    """Register one COCO- or LVIS-format dataset; its file is read when first asked for.

    Args:
        options: of :class:`~det_transfer.data.datasets.JsonDataset`

    Raises:
        UserError: the name is taken by a dataset that somebody else registered
    """
    if name in DatasetCatalog.list() and not isinstance(DatasetCatalog[name], JsonDataset):
        raise UserError(
            f"DATASETS.CUSTOM: the name {name} is taken by another dataset; choose another name"
        )
    dataset = JsonDataset(name, str(json_file), str(image_root), **options)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.pop(name)
    DatasetCatalog.register(name, dataset)
    MetadataCatalog.get(name).set(json_file=dataset.json_file, image_root=dataset.image_root)


def content_of(cfg: CfgNode, name: str) -> Content:
    """What a registered dataset holds; large files are kept in DATASETS.CACHE_DIR."""
    dataset, metadata = DatasetCatalog[name], MetadataCatalog.get(name)
    if isinstance(dataset, JsonDataset):
        return dataset.content
    readers = "detectron2.data.datasets."  # of whose results it is known what they depend on
    if not metadata.get("json_file") or not dataset.__module__.startswith(readers):
        return Content.of(DatasetCatalog.get(name))

    def read() -> tuple[list[dict], dict]:
        return DatasetCatalog.get(name), metadata.as_dict()

    content = content_of_file(
        metadata.json_file,
        read,
        cache_dir=cfg.DATASETS.CACHE_DIR,
        key=(dataset.__module__, name, os.path.abspath(metadata.image_root)),
    )
    metadata.set(**content.facts)  # that reading completes
    return content


def _problems(name: str) -> list[str]:
    if name not in DatasetCatalog.list():
        near = nearest(name, DatasetCatalog.list())
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        return [f"dataset {name} is not registered{hint} (own data goes into DATASETS.CUSTOM)"]
    metadata = MetadataCatalog.get(name)
    source = next((text for start, text in _SOURCES.items() if name.startswith(start)), "")
    missing = [
        path
        for path in (metadata.get("json_file"), metadata.get("image_root"))
        if path and not os.path.exists(path)
    ]
    return [f"dataset {name}: {path} is missing{'; ' * bool(source)}{source}" for path in missing]


def check_datasets(cfg: CfgNode) -> list[str]:
    """Ask of each COCO- or LVIS-format dataset of the run what is wrong with it, images unopened.

    Returns:
        lines for the log: what is skipped, and what is worth a warning
    Raises:
        UserError: training or evaluation would fail, or more than DATASETS.MAX_SKIPPED would have
            to be skipped
    """
    problems, lines = [], []
    for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]):
        dataset = DatasetCatalog[name]
        if isinstance(dataset, JsonDataset):
            found = list(_dataset_problems(cfg, name, dataset))
            problems += found
            lines += [f"dataset {name}: {finding}" for finding in dataset.check.findings]
            if len(found) > dataset.check.without_masks:  # which that tool does not ask for
                problems.append(
                    "see all with: python tools/check_dataset.py "
                    f"{dataset.json_file} {dataset.image_root}"
                )
    raise_all(problems)
    return lines


def _dataset_problems(cfg: CfgNode, name: str, dataset: JsonDataset) -> Iterator[str]:
    check = dataset.check
    if check.without_masks:
        key = "MODEL.MASK_ON False" if cfg.MODEL.MASK_ON else "INPUT.COPY_PASTE.BOXES True"
        yield f"dataset {name}: no object has a mask; set {key}, or add masks"
    for finding in check.fatal:
        if name in cfg.DATASETS.TRAIN or finding.kind != "no object left":
            yield f"dataset {name}: {finding}"
    if name in cfg.DATASETS.TRAIN and check.skipped_share > cfg.DATASETS.MAX_SKIPPED:
        for finding in check.findings:
            if finding.severity is Severity.SKIPPED:
                yield f"dataset {name}: {finding}"
        yield (
            f"dataset {name}: {check.skipped_share:.1%} would be skipped, more than "
            f"DATASETS.MAX_SKIPPED {cfg.DATASETS.MAX_SKIPPED:.1%}"
        )
    elif name in cfg.DATASETS.TEST and check.skip_images:
        missing = next(f for f in check.findings if f.kind == "missing image")
        yield f"dataset {name}: {missing} (an evaluation needs them all)"
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and check.run_length:
        yield (
            f"dataset {name}: masks are run-length codes, which INPUT.MASK_FORMAT 'polygon' cannot "
            "take; set INPUT.MASK_FORMAT bitmask"
        )


def describe(name: str) -> list[str]:
    """The class names of a dataset, after its metadata were completed from its json."""
    metadata = MetadataCatalog.get(name)
    dataset = DatasetCatalog[name]
    if isinstance(dataset, JsonDataset):
        metadata.set(
            thing_classes=dataset.classes,
            thing_dataset_id_to_contiguous_id=dataset.contiguous_ids,
            evaluator_type=dataset.style,
        )
    return list(metadata.get("thing_classes", ()))


def take_class_count(config: Config) -> str | None:
    """Set the heads' class count from the training data where the config leaves it open.

    Open means: not named in the config, or named as 0. A count that is named must be right.

    Returns:
        a line that says what was set, None where nothing was
    Raises:
        UserError: the count, or the class names of two datasets, disagree
    """
    cfg = config.cfg
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    classes = {name: describe(name) for name in names}
    first = next((name for name in names if classes[name]), None)
    if first is None:
        return None
    raise_all(
        f"datasets {first} and {name} disagree: {_difference(classes[first], classes[name])}"
        for name in names
        if classes[name] and classes[name] != classes[first]
    )
    count = len(classes[first])
    said = []
    for head in _CLASS_COUNTS:
        key, node = f"MODEL.{head}.NUM_CLASSES", cfg.MODEL[head]
        if key in config.explicit and node.NUM_CLASSES not in (0, count):
            raise UserError(
                f"{key} is {node.NUM_CLASSES} but dataset {first} has {count} classes; "
                f"set it to {count}, or to 0 to take it from the data"
            )
        if count != node.NUM_CLASSES:
            node.NUM_CLASSES = count
            said.append(key)
    return f"{' and '.join(said)}: {count}, taken from dataset {first}" if said else None


def _difference(first: list[str], second: list[str]) -> str:
    if len(first) != len(second):
        return f"{len(first)} classes against {len(second)}"
    index = next(i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    return f"class {index} is {first[index]!r} in one and {second[index]!r} in the other"
