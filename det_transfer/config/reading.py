"""From a YAML and a command line to a config that knows where its values come from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from ..errors import UserError, nearest, raise_all
from .keys import add_det_transfer_config

__all__ = ["Config", "differences", "leaves", "load_config", "scale_learning_rate"]


@dataclass(frozen=True)
class Config:
    """A config as read, and where its values come from."""

    cfg: CfgNode
    from_file: CfgNode  # the same before the command line and before what follows from the data
    explicit: frozenset[str]  # keys that the file, its bases or the command line name
    on_command_line: frozenset[str]


def load_config(config_file: str | None, opts: Sequence[str] = ()) -> Config:
    """Read a YAML with its bases and then the ``KEY VALUE`` pairs of a command line.

    Raises:
        UserError: the file is missing or no YAML, a key does not exist (all of them at once, with
            the nearest right ones), or a value has the wrong type.
    """
    cfg = get_cfg()
    add_det_transfer_config(cfg)
    known = dict(leaves(cfg))
    in_file: dict[str, Any] = {}
    if config_file:
        in_file = _read_yaml(config_file)
        _check_keys(in_file, known, f"config file {config_file}")
        _merge(cfg, f"config file {config_file}", lambda: cfg.merge_from_file(config_file))
    from_file = cfg.clone()
    flags = [word for word in opts if str(word).startswith("--")]
    if flags:
        raise UserError(f"{' '.join(flags)}: flags come before the KEY VALUE pairs")
    if len(opts) % 2:
        raise UserError(f"the options come in pairs KEY VALUE, but there are {len(opts)}: {opts}")
    on_command_line = dict(zip(opts[::2], opts[1::2], strict=True))
    _check_keys(on_command_line, known, "command line")
    _merge(cfg, "command line", lambda: cfg.merge_from_list(list(opts)))
    return Config(
        cfg=cfg,
        from_file=from_file,
        explicit=frozenset(in_file) | frozenset(on_command_line),
        on_command_line=frozenset(on_command_line),
    )


def _read_yaml(config_file: str) -> dict[str, Any]:
    if not Path(config_file).is_file():
        raise UserError(f"config file {config_file} does not exist")
    try:
        loaded = CfgNode.load_yaml_with_base(config_file)
    except (yaml.YAMLError, OSError, AssertionError, TypeError) as error:
        raise UserError(f"config file {config_file} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"config file {config_file} cannot be read: it holds no keys")
    # Old Detectron2 files are renamed on merging, so only current ones can be checked by key.
    return dict(leaves(loaded)) if loaded.get("VERSION", 2) == 2 else {}


def _merge(cfg: CfgNode, source: str, merge) -> None:
    try:
        merge()
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{source}: {error}") from error


def _check_keys(found: dict[str, Any], known: dict[str, Any], source: str) -> None:
    problems = []
    for key in found:
        is_group = any(name.startswith(key + ".") for name in known)
        if key in known or is_group:
            continue
        near = nearest(key, known) or [k for k in known if k.endswith("." + key.split(".")[-1])]
        hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
        problems.append(f"{source}: there is no config key {key}{hint}")
    raise_all(problems)


def leaves(node: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``("MODEL.REUSE.MODE", value)`` of every key that is no group."""
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(cfg: CfgNode, base: CfgNode) -> list[tuple[str, Any, Any]]:
    """``(key, base's value, cfg's value)`` of every key on which the two differ."""
    before = dict(leaves(base))
    return [(k, before.get(k), v) for k, v in leaves(cfg) if before.get(k) != v]


def scale_learning_rate(config: Config) -> str | None:
    """Let BASE_LR follow the batch from the recipe's reference batch; say so in one line.

    Linear scaling (Goyal et al. 2017, section 2.1). A BASE_LR given on the command line is taken
    at its word. REFERENCE_BATCH becomes the batch, so that a saved config is not scaled again.
    """
    solver = config.cfg.SOLVER
    batch, reference = solver.IMS_PER_BATCH, solver.REFERENCE_BATCH
    if not reference or batch == reference:
        return None
    solver.REFERENCE_BATCH = batch
    if "SOLVER.BASE_LR" in config.on_command_line:
        return f"SOLVER.BASE_LR {solver.BASE_LR:g} as given, batch {batch} (recipe: {reference})"
    before = solver.BASE_LR
    solver.BASE_LR = before * batch / reference
    solver.BASE_LR_END *= batch / reference  # of the cosine schedule
    return (
        f"SOLVER.BASE_LR {before:g} for batch {reference} becomes {solver.BASE_LR:g} for batch "
        f"{batch}; MAX_ITER stays {solver.MAX_ITER}"
    )
