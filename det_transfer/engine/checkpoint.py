"""Checkpoints and pretrained weights, from whatever ``MODEL.WEIGHTS`` or ``--resume`` names.

A source is either a whole detector (a checkpoint of ours or of Detectron2) or the weights of the
trunk alone (timm, torchvision, a package, a local file); which of the two is seen from its keys.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from torch import nn

from ..errors import UserError
from ..reuse import (
    MODES,
    LoadReport,
    Preprocessing,
    Weights,
    adapter_tensors,
    check_preprocessing,
    frozen_tensors,
    load_trunk,
    read_checkpoint,
    read_weights,
    trunk_of,
)
from ..reuse.files import BrokenFileError
from ..reuse.slim import check_frozen, frozen_entry, is_slim, split, write_checkpoint, write_frozen
from ..run_folder import replacing

__all__ = [
    "TransferCheckpointer",
    "find_checkpoint",
    "last_checkpoint",
    "offering_the_one_before",
]

logger = logging.getLogger(__name__)

# Sources that hold a trunk and that Detectron2 alone would not know.
_TRUNK_SCHEMES = ("timm://", "torchvision://", "package://")

# Of a run's checkpoints, the one to use where none is named.
_PREFERRED = ("model_best.pth", "model_final_ema.pth", "model_final.pth")
_TAG = "last_checkpoint"  # the file that names it


def find_checkpoint(folder: Path, name: str = "") -> Path:
    """The checkpoint in a run folder.

    Args:
        name: its file name; default: the first there is of model_best.pth, model_final_ema.pth,
            model_final.pth and the last one

    Raises:
        UserError: there is none; the message says which there are
    """
    there = sorted(folder.glob("model_*.pth"))
    wanted = [name] if name else list(_PREFERRED)
    for path in (folder / file for file in wanted):
        if path in there:
            return path
    if not name and (last := last_checkpoint(folder)):
        return last
    found = ", ".join(path.name for path in there) or "no checkpoint"
    raise UserError(f"{folder} has no {' or '.join(wanted)}; it has {found}")


def last_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The checkpoint that a run goes on from; None where it has written none yet.

    Raises:
        BrokenFileError: what should name it is damaged, or names what is not there; the message
            says which checkpoint there is
    """
    tag = Path(folder) / _TAG
    if not tag.is_file():
        return None
    name = tag.read_bytes().decode(errors="replace").strip()
    if name and Path(name).name == name and tag.with_name(name).is_file():
        return tag.with_name(name)
    raise BrokenFileError(
        f"{tag} names {name[:80]!r}, and there is no such checkpoint; {_one_before(tag, name)}"
    )


@contextlib.contextmanager
def offering_the_one_before(last: Path | None) -> Iterator[None]:
    """Around what reads a run's last checkpoint: where it is broken, say what serves instead.

    Args:
        last: None where what is read is no checkpoint of the run
    """
    try:
        yield
    except BrokenFileError as error:
        if last is None:
            raise
        raise UserError(f"{error}; {_one_before(last.with_name(_TAG), last.name)}") from error


def _one_before(tag: Path, named: str) -> str:
    """A way out where the checkpoint that the file `tag` names cannot be used."""
    numbered = sorted(p.name for p in tag.parent.glob("model_[0-9]*.pth") if p.name != named)
    if not numbered:
        return f"there is no checkpoint before it: start anew in another folder than {tag.parent}"
    return (
        f"the checkpoint before it is {numbered[-1]}: write this name into {tag}, and --resume "
        "goes on from there"
    )


class TransferCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, for any source of weights, that never loads in silence.

    Args:
        model: the detector or classifier, or its DDP wrapper
        save_dir: the run folder
        cfg: gives MODEL.REUSE.MODE (whose entry in MODES says what the weights must give) and the
             preprocessing that the weights' metadata are checked against

    Attributes:
        origin (str): what was loaded, for the log and ``run.json``
        whole_model (bool): whether that was a whole detector, rather than the trunk alone
        trunk_report (LoadReport): of the trunk, where that was loaded alone; else None
    """

    def __init__(self, model: nn.Module, save_dir: str = "", *, cfg: CfgNode, **checkpointables):
        super().__init__(model, save_dir, **checkpointables)
        self._mode = cfg.MODEL.REUSE.MODE
        self._train_only = list(cfg.MODEL.REUSE.TRAIN_ONLY)
        self._cut = cfg.MODEL.REUSE.LOAD_STAGES
        self._weights_wanted = MODES[self._mode].weights
        self._input = Preprocessing(
            cfg.INPUT.FORMAT, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
        )
        self._slim = cfg.SOLVER.SLIM_CHECKPOINTS
        self._frozen_entry: dict[str, Any] | None = None
        self._frozen_origin = ""  # where what is frozen had come from at first; "": random
        self._frozen_damaged = False  # its file in the run folder, to be written anew
        self.origin = "random initialisation"
        self.whole_model = False
        self.trunk_report: LoadReport | None = None
        self._all_needed = ""  # why every tensor must be found, "" where some may be missing

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As its base; where a run's last checkpoint is broken, the error names the one before."""
        last = last_checkpoint(self.save_dir) if resume and self.save_dir else None
        with offering_the_one_before(last):
            return super().resume_or_load(path, resume=resume)

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Save under a temporary name and rename: a checkpoint that is there is whole.

        Args:
            tag: make it the one that ``--resume`` goes on from
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = self._model_content()
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        content |= {"preprocessing": self._input.as_dict(), **kwargs}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write_checkpoint(path, content)
        if tag:
            self.tag_last_checkpoint(os.path.basename(path))

    def _model_content(self) -> dict[str, Any]:
        """The model's part of a checkpoint, without its frozen tensors if it is a slim one."""
        state = self.model.state_dict()
        frozen = frozen_tensors(self.model)
        if not frozen:
            return {"model": state}
        if self._frozen_entry is None:  # a run's guard sees to it that they stay what they are
            self._frozen_entry = frozen_entry(frozen, self._frozen_origin)
        if not self._slim:
            return {"model": state, "frozen": {**self._frozen_entry, "joined": True}}
        trained, still = split(state, self._frozen_entry)
        write_frozen(self.save_dir, still, self._frozen_entry, anew=self._frozen_damaged)
        self._frozen_damaged = False
        return {"model": trained, "frozen": self._frozen_entry}

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(os.path.join(self.save_dir, _TAG), lasting=True) as temporary:
            temporary.write_text(last_filename_basename)

    def load_detector(self, path: str) -> None:
        """Load a trained detector, all of it, to evaluate or to use it.

        Raises:
            UserError: the source has other heads or classes, or only a trunk
        """
        self._all_needed = "its classes or heads are other ones: take the config of its own run"
        self._cut = -1  # it was cut when its training began
        self.load(path, checkpointables=[])
        if not self.whole_model:
            raise UserError(
                f"a trained detector is needed, but {path or 'MODEL.WEIGHTS'} has no weights for "
                "its heads; name one with MODEL.WEIGHTS <run>/model_final.pth, or take "
                "OUTPUT_DIR's last checkpoint with --resume"
            )

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load a detector or the trunk's weights.

        Args:
            path: see :func:`det_transfer.reuse.read_weights`; a run folder stands for its last
                checkpoint; "" leaves the random initialisation
            checkpointables: what to load beside the model; None: everything (resuming)

        Raises:
            UserError: the source is missing or of another architecture, tensors of a frozen trunk
                or of a resumed model are missing, or the weights want another preprocessing
        """
        if not path:
            return {}
        if checkpointables is None:
            self._all_needed = "resume with the config that the run was started with"
            self._cut = -1
        if self._cut == 0:
            logger.info("Trunk: nothing is loaded from %s (MODEL.REUSE.LOAD_STAGES 0)", path)
            return {}
        path = _checkpoint_of(path)
        self.origin = path
        self._frozen_entry, self._frozen_origin = None, path
        if path.startswith(_TRUNK_SCHEMES):
            self._load_trunk(read_weights(path, trunk=self._trunk()))
            return {}
        weights = read_weights(path, fetch=PathManager.get_local_path, trunk=self._trunk())
        if self._cut > 0 or not self._is_detector(weights):
            if self._cut < 0 and self._as_detectron2():
                return super().load(path, checkpointables)
            self._load_trunk(weights)
            return {}
        self._check_preprocessing(weights)
        self.whole_model = True
        if weights.frozen:
            self._load_frozen(weights)
        return super().load(path, checkpointables)

    def _load_frozen(self, weights: Weights) -> None:
        """Take the frozen part of a slim checkpoint from where the run once had it from.

        That serves where what lies beside it is not there, or is damaged: the fingerprint tells
        that it is the same.

        Raises:
            UserError: it is not to be had, or is another one
        """
        entry, begun = weights.frozen, weights.frozen["origin"]
        lacks = _lacks(weights)
        if not begun:
            raise UserError(
                f"{lacks}; it began at random and is nowhere else: bring {entry['file']} back from "
                "a copy of the run, or start anew in another folder"
            )
        try:
            original = read_weights(begun, fetch=PathManager.get_local_path, trunk=self._trunk())
            if self._is_detector(original):
                _unwrapped(self.model).load_state_dict(
                    {n: original.state[n] for n in entry["tensors"] if n in original.state},
                    strict=False,
                )
            else:
                load_trunk(self._trunk(), original, strict=True)
        except UserError as error:
            raise UserError(f"{lacks}; its origin does not serve either: {error}") from error
        state = _unwrapped(self.model).state_dict()
        here = {name: state[name] for name in entry["tensors"] if name in state}
        check_frozen(here, entry, f"{lacks}; its origin {begun}")
        self._frozen_damaged = "damaged" in entry
        level = logging.WARNING if self._frozen_damaged else logging.INFO
        logger.log(level, "Frozen part: taken from %s, as %s", begun, lacks)

    def _load_file(self, filename: str) -> dict[str, Any]:
        # Never through an open unpickler: what comes from elsewhere could run code.
        content = read_checkpoint(Path(filename), source=self.origin)
        if "matching_heuristics=True" in self._parsed_url_during_load.query:
            content["matching_heuristics"] = True
        if is_slim(content):  # the model has the rest already
            state = self.model.state_dict()
            content["model"] |= {name: state[name] for name in content["frozen"]["tensors"]}
        before = content.get("frozen", {})
        # A stage that freezes more has from this very file what it freezes.
        here = frozen_tensors(_unwrapped(self.model))
        if before and set(before["tensors"]) == set(here):
            self._frozen_origin = before["origin"]
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        incompatible = super()._load_model(checkpoint)
        missing = [*incompatible.missing_keys, *(k for k, *_ in incompatible.incorrect_shapes)]
        trunk = [name for name in missing if name.startswith(self._trunk_prefix())]
        # Adapters begin at zero in a trunk that was trained without.
        trunk = sorted(set(trunk) - adapter_tensors(self.model))
        if self._all_needed and missing:
            needs = self._all_needed
        elif still := self._untrained(missing):
            missing, needs = still, f"MODEL.REUSE.TRAIN_ONLY {self._train_only} trains others alone"
        elif self._weights_wanted == "all" and trunk:
            missing, needs = trunk, f"mode {self._mode!r} needs all of the trunk"
        else:
            return incompatible
        raise UserError(
            f"{self.origin} does not fit this model: {len(missing)} of "
            f"{len(self.model.state_dict())} tensors are missing or of another shape, e.g. "
            f"{', '.join(missing[:3])}; {needs}"
        )

    def _untrained(self, names: list[str]) -> list[str]:
        """Those of `names` that nothing will train, where a trained detector was to be taken on."""
        frozen = frozen_tensors(_unwrapped(self.model)) if self._train_only else {}
        return [name for name in names if name in frozen]

    def model_changed(self) -> None:
        """Another part of the model is frozen from now on."""
        self._frozen_entry = None

    def _as_detectron2(self) -> bool:
        """Whether a file that is no whole model is left to Detectron2's own matching of names."""
        trunk = self._trunk()
        ours = hasattr(trunk, "timm_name") or hasattr(trunk, "plain_name")
        return self._mode == "" and not ours

    def _needs_whole_trunk(self) -> bool:
        return self._weights_wanted == "all"

    def _trunk(self) -> nn.Module:
        return trunk_of(_unwrapped(self.model))

    def _trunk_prefix(self) -> str:
        trunk = self._trunk()
        return next(f"{name}." for name, m in self.model.named_modules() if m is trunk)

    def _is_detector(self, weights: Weights) -> bool:
        parts = {name for name, _ in _unwrapped(self.model).named_children()}
        names = [*weights.state, *(weights.frozen or {}).get("tensors", ())]
        return len(parts & {name.split(".")[0] for name in names}) > 1

    def _load_trunk(self, weights: Weights) -> None:
        if self._weights_wanted == "none":
            raise UserError(
                f"MODEL.REUSE.MODE {self._mode!r} begins at random, but MODEL.WEIGHTS names "
                f"{weights.origin}; set MODEL.WEIGHTS '', or MODEL.REUSE.MODE 'finetune'"
            )
        if self._train_only:
            raise UserError(
                f"MODEL.REUSE.TRAIN_ONLY {self._train_only} takes on a trained detector, but "
                f"{weights.origin} has weights for the trunk alone; name a checkpoint with "
                "MODEL.WEIGHTS <run>/model_final.pth"
            )
        self._check_preprocessing(weights)
        trunk = self._trunk()
        if weights.frozen:
            raise UserError(_lacks(weights))
        report = load_trunk(trunk, weights, strict=self._needs_whole_trunk(), stages=self._cut)
        self.trunk_report = report
        logger.info("Trunk: %s", report)

    def _check_preprocessing(self, weights: Weights) -> None:
        if weights.preprocessing is None:
            logger.info(
                "%s carries no word about its preprocessing: taken as the config says, %s",
                weights.origin,
                self._input,
            )
            return
        problem = check_preprocessing(weights.preprocessing, self._input)
        if problem:
            raise UserError(f"{weights.origin}: {problem}")


def _lacks(weights: Weights) -> str:
    """Why a slim checkpoint is not whole."""
    entry = weights.frozen
    beside = entry.get("damaged", "").removeprefix("MODEL.WEIGHTS ")
    return (
        f"{weights.origin} holds only what was trained, and "
        f"{beside or entry['file'] + ' is not beside it'}"
    )


def _checkpoint_of(source: str) -> str:
    """The last checkpoint of a run folder; any other source as it is."""
    return str(last_checkpoint(source) or source)


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
