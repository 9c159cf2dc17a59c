"""From a YAML and a command line to a config that knows where its values come from."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from fvcore.common.config import BASE_KEY

from ..documents import read_yaml
from ..errors import UserError, nearest, raise_all
from .keys import add_det_transfer_config

__all__ = ["Config", "ConfigFile", "differences", "leaves", "load_config", "scale_learning_rate"]


@dataclass(frozen=True)
class Config:
    """A config as read, and where its values come from."""

    cfg: CfgNode
    from_file: CfgNode  # the same before the command line and before what follows from the data
    explicit: frozenset[str]  # keys that somebody named, in the file, its bases or the command line
    on_command_line: frozenset[str]


def load_config(config_file: str | None, opts: Sequence[str] = ()) -> Config:
    """Read a YAML with its bases and then the ``KEY VALUE`` pairs of a command line.

    Raises:
        UserError: the file is missing or no YAML, a key does not exist (all of them at once, with
            the nearest right ones), or a value has the wrong type.
    """
    return ConfigFile(config_file).with_options(opts)


class ConfigFile:
    """A YAML with its bases on top of the defaults, read once for many command lines.

    Raises:
        UserError: as of :func:`load_config`
    """

    def __init__(self, path: str | None):
        self._cfg = get_cfg()
        add_det_transfer_config(self._cfg)
        self._known = dict(leaves(self._cfg))
        in_file: dict[str, Any] = {}
        if path:
            in_file = _read_yaml(path)
            _check_keys(in_file, self._known, f"config file {path}")
            _merge(self._cfg, f"config file {path}", lambda: self._cfg.merge_from_file(path))
        self._named = _named(in_file, self._known)

    def with_options(self, opts: Sequence[str] = ()) -> Config:
        """The config of a command line, which shares nothing with that of another."""
        flags = [word for word in opts if str(word).startswith("--")]
        if flags:
            raise UserError(f"{' '.join(flags)}: flags come before the KEY VALUE pairs")
        if len(opts) % 2:
            raise UserError(
                f"the options come in pairs KEY VALUE, but there are {len(opts)}: {opts}"
            )
        on_command_line = dict(zip(opts[::2], opts[1::2], strict=True))
        _check_keys(on_command_line, self._known, "command line")
        cfg = self._cfg.clone()
        _merge(cfg, "command line", lambda: cfg.merge_from_list(deepcopy(list(opts))))
        raise_all(_value_problems(dict(leaves(cfg)), self._known))
        return Config(
            cfg=cfg,
            from_file=self._cfg.clone(),
            explicit=self._named | frozenset(on_command_line),
            on_command_line=frozenset(on_command_line),
        )


def _value_problems(now: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """A line for each value of another kind than its default, where yacs takes any."""
    for key, default in known.items():
        value = now.get(key, default)
        if value is None and default is not None:
            yield f"config key {key} is empty; its default is {default!r}"
        kinds = {_kind(entry) for entry in _entries(default)}
        inside = _entries(value) if any(map(_listed, _items(default))) else _items(value)
        odd = [entry for entry in inside if _kind(entry) not in kinds]
        if len(kinds) == 1 and odd:
            yield f"config key {key} holds {odd[0]!r}, no {kinds.pop()}; its default is {default!r}"


def _listed(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _items(value: Any) -> Sequence[Any]:
    """What is in a list; of anything else nothing."""
    return value if _listed(value) else ()


def _entries(value: Any) -> Iterator[Any]:
    """The same of lists in lists, however deep."""
    for entry in _items(value):
        yield from _entries(entry) if _listed(entry) else (entry,)


def _kind(value: Any) -> str:
    """Of a list's entry; a whole number stands for any."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    return {str: "text", bool: "truth value"}.get(type(value), type(value).__name__)


def _named(in_file: Mapping[str, Any], known: Mapping[str, Any]) -> frozenset[str]:
    """The keys that somebody wrote into a file.

    One that names nearly all keys is what a run has left behind (config.yaml). Nobody chose its
    defaults; but that a run began without weights somebody did.
    """
    if len(known.keys() & in_file.keys()) < 0.9 * len(known):
        return frozenset(in_file)
    chosen = (key for key, value in in_file.items() if value != known.get(key))
    return frozenset(chosen) | {"MODEL.WEIGHTS"}


_WRONG_TYPE = re.compile(  # as yacs says it
    r"Type mismatch \(<class '(\w+)'> vs\. <class '(\w+)'>\) with values \((.*) vs\. (.*)\) for "
    r"config key: (\S+)",
    re.DOTALL,
)
_LONGEST = 500  # characters of an error that quotes values


def _read_yaml(config_file: str) -> dict[str, Any]:
    _check_files(config_file)
    try:
        loaded = CfgNode.load_yaml_with_base(config_file)
    # The first two of a base on the web.
    except (yaml.YAMLError, OSError, AssertionError, TypeError) as error:
        raise UserError(f"config file {config_file} cannot be read: {error}") from error
    # Old Detectron2 files are renamed on merging, so only current ones can be checked by key.
    return dict(leaves(loaded)) if loaded.get("VERSION", 2) == 2 else {}


def _check_files(file: str, above: tuple[str, ...] = (), what: str = "config file") -> None:
    """See that a config and its bases, where fvcore looks for them, can be read.

    They are plain values after that: fvcore would let a tag of Python run code.
    """
    content = read_yaml(file, what)
    if not isinstance(content, dict):
        raise UserError(f"config file {file} cannot be read: it holds no keys")
    version = content.get("VERSION", 2)
    if type(version) is not int or version not in (1, 2):
        raise UserError(f"config file {file}: VERSION is {version!r}; it can be 1 or 2")
    odd = [key for key in content if not isinstance(key, str)]
    if odd:
        raise UserError(f"config file {file} cannot be read: {odd[0]!r} is no name of a key")
    bases = content.get(BASE_KEY, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise UserError(f"config file {file}: {BASE_KEY} is {base!r}, no path")
        path = os.path.normpath(os.path.join(os.path.dirname(file), os.path.expanduser(base)))
        if path in (file, *above):
            raise UserError(f"config file {file}: its {BASE_KEY} {base} has it as a base itself")
        if not base.startswith(("https://", "http://")):
            _check_files(path, (file, *above), f"config file {file}: its base")


def _merge(cfg: CfgNode, source: str, merge) -> None:
    try:
        merge()
    # yacs and Detectron2's upgrade of old configs; the last two where a value is of another kind.
    except (ValueError, KeyError, AssertionError, AttributeError, TypeError) as error:
        said = _WRONG_TYPE.sub(r"\5 \4 is of type \2; it must be of type \1, as '\3'", str(error))
        said = said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
        raise UserError(f"{source}: {said}") from error


def _check_keys(found: dict[str, Any], known: dict[str, Any], source: str) -> None:
    problems = []
    for key, value in found.items():
        inside = [name for name in known if name.startswith(key + ".")]
        if inside and not isinstance(value, dict):
            problems.append(f"{source}: {key} is a group of keys, such as {inside[0]}; not a value")
        if inside or key in known:
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
