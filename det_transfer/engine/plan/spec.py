"""From the YAML of a plan to its runs."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from detectron2.config import CfgNode

from ...config import ConfigFile, validate
from ...documents import read_yaml
from ...errors import UserError, nearest, raise_all
from ...formats import PLAN_TEMPLATE, misfits

__all__ = ["Plan", "PlannedRun", "Section", "read_plan"]

_TEMPLATE_KEYS = ("config", "exclude", "grid", "needs", "options", "program", "seeds")
_PLAN_KEYS = (*_TEMPLATE_KEYS, "output", "runs")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
# Makes runs, as a plan's ``runs`` has them, of another section of a plan: function(the section, the
# plan's other keys, the plan's folder).
Section = Callable[[Any, Mapping[str, Any], Path], dict[str, Any]]
# {stage1} in an option: the folder of the run of that name that belongs to this one.
_REFERENCE = re.compile(r"\{([A-Za-z0-9_.+-]+)\}")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        name: of the run and of its folder below the plan's
        program: what is started, with Detectron2's flags
        config: a YAML, or None
        options: config keys and values, OUTPUT_DIR and SEED among them
        labels: axis -> label, and "seed"
        needs: names of the runs that must be finished before
        cfg: the complete config, before what follows from the data
    """

    name: str
    program: str
    config: str | None
    options: dict[str, Any]
    labels: dict[str, Any]
    needs: tuple[str, ...]
    cfg: CfgNode

    @property
    def folder(self) -> Path:
        return Path(self.options["OUTPUT_DIR"])

    def command(self, *, resume: bool) -> list[str]:
        """The arguments after the Python interpreter."""
        words = [self.program]
        words += ["--config-file", self.config] if self.config else []
        words += ["--resume"] if resume else []
        for key, value in self.options.items():
            words += [key, value if isinstance(value, str) else repr(value)]
        return words


@dataclass(frozen=True)
class Plan:
    """Attributes:
    output: the folder of the runs
    runs: each after those that it needs
    whole: of a part of a plan all its runs: what its tables are about
    """

    output: Path
    runs: tuple[PlannedRun, ...]
    whole: tuple[PlannedRun, ...] = ()

    @property
    def listed(self) -> tuple[PlannedRun, ...]:
        """The runs that have a row in its tables."""
        return self.whole or self.runs

    def only(self, *patterns: str) -> "Plan":
        """The runs whose name matches one of these shell patterns, and those that they need.

        Raises:
            UserError: a pattern matches none
        """
        by_name = {run.name: run for run in self.runs}
        for pattern in patterns:
            if not any(fnmatch(name, pattern) for name in by_name):
                near = nearest(pattern, by_name) or list(by_name)[:3]
                raise UserError(f"--only {pattern}: no such run; there is {', '.join(near)}")
        wanted = [name for name in by_name if any(fnmatch(name, p) for p in patterns)]
        for name in wanted:  # grows while it is walked
            wanted += [need for need in by_name[name].needs if need not in wanted]
        chosen = tuple(run for run in self.runs if run.name in wanted)
        return Plan(self.output, chosen, self.listed)


@dataclass(frozen=True)
class _Draft:
    """A run before others' folders are put into its options."""

    name: str
    template: str
    program: str
    config: str | None
    options: dict[str, Any]
    labels: dict[str, Any]
    needs: tuple[str, ...]  # templates


def read_plan(
    path: str | Path,
    output: str | Path | None = None,
    *,
    sections: Mapping[str, Section] = MappingProxyType({}),
) -> Plan:
    """Read and check a plan; nothing is built and nothing written.

    Args:
        output: replaces the plan's own output folder
        sections: name -> what makes runs of a section of that name, beside those in ``runs``
    Raises:
        UserError: all that is wrong with it
    """
    content = _read(Path(path), tuple(sections))
    folder = Path(output or content.get("output") or f"output/{Path(path).stem}")
    for name in (name for name in sections if name in content):
        try:
            made = sections[name](content.pop(name), content, folder)
        except UserError as error:
            raise_all(f"{path}: {name}: {line}" for line in str(error).splitlines())
        content["runs"] = {**(content.get("runs") or {}), **made}
    drafts = list(_drafts(content))
    twice = {d.name for d in drafts if sum(d.name == other.name for other in drafts) > 1}
    raise_all(f"{path}: two runs are called {name}" for name in sorted(twice))
    if not drafts:
        raise UserError(f"{path}: the plan has no runs")
    config_file = cache(ConfigFile)  # each is read once
    runs: dict[str, PlannedRun] = {}
    problems: dict[str, list[str]] = {}  # what is wrong -> with which runs
    for draft in drafts:
        try:
            runs[draft.name] = _finish(draft, drafts, folder, config_file)
        except UserError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, []).append(draft.name)
    raise_all(f"{path}: run {_first_of(names)}: {line}" for line, names in problems.items())
    try:
        order = TopologicalSorter({name: run.needs for name, run in runs.items()}).static_order()
        order = list(order)
    except CycleError as error:
        raise UserError(f"{path}: runs need each other: {' -> '.join(error.args[1])}") from error
    # As written, but for what is needed first.
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = 1 + max((depth[need] for need in runs[name].needs), default=-1)
    return Plan(folder, tuple(sorted(runs.values(), key=lambda run: depth[run.name])))


def _first_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _read(path: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    content = read_yaml(path, "plan")
    if not isinstance(content, dict):
        raise UserError(f"plan {path} holds no keys")
    problems = list(_key_problems(content, (*_PLAN_KEYS, *sections), f"plan {path}"))
    templates = content.get("runs") or {}
    if not isinstance(templates, dict):
        problems.append(f"plan {path}: runs is not a mapping from names to runs")
        templates = {}
    for name, template in templates.items():
        where = f"plan {path}: run {name}"
        if not _NAME.fullmatch(str(name)):
            problems.append(f"{where}: a name has letters, digits, and _ . + - after the first")
        problems += _key_problems(template or {}, _TEMPLATE_KEYS, where)
    raise_all(problems)
    return content


def _key_problems(content: Any, known: Sequence[str], where: str) -> Iterator[str]:
    if not isinstance(content, dict):
        yield f"{where} is not a mapping but {content!r}"
        return
    for key in content:
        if key not in known:
            near = nearest(str(key), known) or known
            yield f"{where}: there is no key {key}; there is {', '.join(near)}"
    yield from (f"{where}: {said}" for _, said in misfits(content, PLAN_TEMPLATE))


# Expanding ---------------------------------------------------------------------------------------


def _drafts(content: Mapping[str, Any]) -> Iterator[_Draft]:
    common = {key: content[key] for key in _TEMPLATE_KEYS if key in content}
    templates = content.get("runs")
    if templates is None:
        yield from _expand("", common)
        return
    for name, template in templates.items():
        template = dict(template or {})
        options = {**(common.get("options") or {}), **(template.pop("options", None) or {})}
        yield from _expand(str(name), {**common, **template, "options": options})


def _expand(template: str, content: Mapping[str, Any]) -> Iterator[_Draft]:
    """All combinations of a template's grid and seeds."""
    grid = content.get("grid") or {}
    seeds = content.get("seeds") or [None]
    needs = content.get("needs") or ()
    needs = (needs,) if isinstance(needs, str) else tuple(needs)
    for *labels, seed in itertools.product(*grid.values(), seeds):
        axes = dict(zip(grid, map(str, labels), strict=True))
        if any(_matches(axes, pattern) for pattern in content.get("exclude") or ()):
            continue
        options = dict(content.get("options") or {})
        for axis, label in zip(grid, labels, strict=True):
            options |= grid[axis][label] or {}
        if seed is not None:
            options["SEED"] = seed
            axes["seed"] = seed
        parts = [template, *axes.values()] if seed is None else [template, *labels, f"s{seed}"]
        yield _Draft(
            name="_".join(str(part) for part in parts if str(part)) or "run",
            template=template,
            program=content.get("program", "tools/train_net.py"),
            config=content.get("config"),
            options=options,
            labels=axes,
            needs=needs,
        )


def _matches(axes: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    return all(axes.get(axis) == str(label) for axis, label in pattern.items())


def _finish(
    draft: _Draft,
    drafts: Sequence[_Draft],
    output: Path,
    config_file: Callable[[str | None], ConfigFile],
) -> PlannedRun:
    """Find the runs that a run needs, put their folders into its options, and check its config."""
    needed = {template: _partner(draft, template, drafts) for template in draft.needs}

    def folder(match: re.Match) -> str:
        if match[1] not in needed:
            raise UserError(f"{{{match[1]}}} is used but not in needs")
        return str(output / needed[match[1]].name)

    options = {
        key: _REFERENCE.sub(folder, value) if isinstance(value, str) else value
        for key, value in draft.options.items()
    }
    options["OUTPUT_DIR"] = str(output / draft.name)
    if not Path(draft.program).is_file():
        raise UserError(f"program {draft.program} does not exist")
    words = [word for pair in options.items() for word in pair]
    config = config_file(draft.config).with_options(words)
    cfg = config.cfg.clone()
    if cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"  # what runs without CUDA, as most plans are written for both
    validate(cfg, config.explicit)
    return PlannedRun(
        name=draft.name,
        program=draft.program,
        config=draft.config,
        options=options,
        labels=draft.labels,
        needs=tuple(run.name for run in needed.values()),
        cfg=config.cfg,
    )


def _partner(draft: _Draft, template: str, drafts: Sequence[_Draft]) -> _Draft:
    """The run of a template that agrees with `draft` on every axis that both have."""
    candidates = [other for other in drafts if other.template == template]
    if not candidates:
        names = {other.template for other in drafts if other.template}
        near = nearest(template, names) or sorted(names)
        raise UserError(f"needs {template}, which is no run; there is {', '.join(near)}")
    fitting = [
        other
        for other in candidates
        if all(
            other.labels[axis] == draft.labels.get(axis, other.labels[axis])
            for axis in other.labels
        )
    ]
    if len(fitting) != 1:
        raise UserError(
            f"needs {template}, of which {len(fitting)} runs fit; exactly one must: give both the "
            "same grid and seeds"
        )
    return fitting[0]
