"""From finished run folders to one json of results: what was asked, on what, and what came out.

Such a file (``docs/results/<name>.json``) holds everything that the page of results shows::

    kind          "runs"
    title, question, notes
    machine       cpu, cores, and the devices that the runs name
    versions      of the packages; several where the runs differ
    measured      the day on which the last run ended
    collected_by  the command that made the file
    groups        a label, n, and every number as n, mean, min, max, and std from 3 runs on
    runs          a row for each run
    pictures      file names beside the page

Paths in it are relative to the checkout: it is committed.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import raise_all
from ..formats import BY_DATASET, COLLECTED_CONFIG, FINISHED_RUN, check, misfits
from ..run_folder import CONFIG, RUN, read_json, read_metrics
from .conditions import Said, relative, shown, versions
from .runs import read_config, recipe

__all__ = ["KIND", "collect"]

KIND = "runs"
_MAX_POINTS = 60  # of a loss curve
_SAME = ("iterations", "batch", "reuse_mode", "weights", "parameters", "trainable")  # in a group


def collect(
    runs: Sequence[str | Path],
    root: str | Path,
    said: Said,
    *,
    groups: Sequence[str] = (),
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read run folders into the content of a json of results.

    Args:
        runs: run folders that are finished and evaluated
        root: the checkout; paths are written relative to it
        groups: "label=glob" each; the glob is held against a run's path and against its name, the
            first that fits counts. Without any, runs whose names differ in a seed at the end
            ("frozen_seed1", "frozen_s2") are a group.
        earlier: a content whose runs are kept, but for those that are read again (same group, same
            seed): evidence of many hours grows from machine to machine. New notes replace old ones.

    Raises:
        UserError: a run that is no run folder, is not finished or was not evaluated; a run that no
            glob fits, or a glob that fits no run; runs in a group with the same seed or with
            different configs
    """
    root = Path(root).resolve()
    folders = [Path(run) for run in runs]
    raise_all(problem for folder in folders for problem in _problems(folder))
    labels = _labels(folders, root, groups)
    configs = [read_config(folder) for folder in folders]
    records = [read_json(folder / RUN) for folder in folders]
    rows = [
        _row(folder, root, label, record, config)
        for folder, label, record, config in zip(folders, labels, records, configs, strict=True)
    ]
    order = dict.fromkeys([*(g.partition("=")[0] for g in groups), *labels])
    members = {label: [i for i, other in enumerate(labels) if other == label] for label in order}
    raise_all(
        problem
        for label, indices in members.items()
        for problem in _mixed(label, [rows[i] for i in indices], [configs[i] for i in indices])
    )
    content = {
        "kind": KIND,
        **said.head(records, root, runs),
        "groups": [_group(label, [rows[i] for i in members[label]]) for label in order],
        "runs": [rows[i] for label in order for i in members[label]],
        "pictures": [],
    }
    return _joined(earlier, content) if earlier else content


def _problems(folder: Path) -> Iterable[str]:
    """Why a folder cannot be collected; nothing where it can."""
    if not (folder / RUN).is_file() or not (folder / CONFIG).is_file():
        missing = RUN if not (folder / RUN).is_file() else CONFIG
        yield f"{folder} has no {missing}: it is not a run folder of tools/train_net.py"
        return
    record = read_json(folder / RUN)
    check(record, {"type": "object"}, str(folder / RUN))
    if record.get("status") != "finished":
        yield (
            f"{folder} is not finished (its status is {record.get('status')}): continue it with "
            "tools/train_net.py --resume, or leave it out"
        )
    elif not record.get("results"):
        yield (
            f"{folder} has no evaluation in its {RUN}: name a dataset in DATASETS.TEST before the "
            "run ends, or leave it out"
        )
    else:
        yield from (f"{folder / RUN}: {said}" for _, said in misfits(record, FINISHED_RUN))
        config = read_config(folder)
        yield from (f"{folder / CONFIG}: {said}" for _, said in misfits(config, COLLECTED_CONFIG))


# One run -----------------------------------------------------------------------------------------


def _row(
    folder: Path, root: Path, label: str, record: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    seconds, memory = record["seconds"], record["peak_memory_bytes"]
    return {
        "group": label,
        "run": shown(folder, root),
        "seed": record["seed"],
        "iterations": record["max_iteration"],
        "batch": config["SOLVER.IMS_PER_BATCH"],
        "weights": relative(record["weights"], root),
        "reuse_mode": config["MODEL.REUSE.MODE"],
        "precision": record["precision"],
        "device": record["device"],
        "processes": record["processes"],
        "parameters": sum(part["parameters"] for part in record["reuse"]),
        "trainable": sum(part["trainable"] for part in record["reuse"]),
        "training_s": seconds["training"],
        "evaluation_s": seconds["evaluation"],
        "step_median_ms": 1000 * seconds["step_median"],
        "peak_memory_gb": {name: size / 1e9 for name, size in memory.items()},
        "results": _results(record["results"], config["DATASETS.TEST"]),
        "loss": _loss(folder),
        "command": relative(record["command"], root, (str(folder), str(folder.resolve()))),
    }


def _results(found: Mapping[str, Any], datasets: Sequence[str]) -> dict[str, dict[str, dict]]:
    """{dataset: {task: {metric: value or None}}}, without the AP of single categories.

    Detectron2 leaves the dataset's level out where there is one dataset.
    """
    by_dataset = {datasets[0]: found} if len(datasets) == 1 else found
    check(by_dataset, BY_DATASET, f"{RUN}: results")
    return {
        dataset: {
            task: {name: value for name, value in metrics.items() if not name.startswith("AP-")}
            for task, metrics in tasks.items()
        }
        for dataset, tasks in by_dataset.items()
    }


def _loss(folder: Path) -> dict[str, list[float]]:
    """The total loss over the iterations: medians of at most 60 equal parts of the run."""
    rows = [row for row in read_metrics(folder) if "total_loss" in row]
    step = -(-len(rows) // _MAX_POINTS) or 1
    parts = [rows[i : i + step] for i in range(0, len(rows), step)]
    return {
        "iteration": [round(statistics.median(row["iteration"] for row in p)) for p in parts],
        "total_loss": [
            float(f"{statistics.median(row['total_loss'] for row in p):.4g}") for p in parts
        ],
    }


# Groups ------------------------------------------------------------------------------------------


def _labels(folders: Sequence[Path], root: Path, groups: Sequence[str]) -> list[str]:
    """The group of each run."""
    if not groups:
        return [re.sub(r"[-_.]*(seed|s)[-_]?\d+$", "", f.resolve().name) or "runs" for f in folders]
    wrong = [group for group in groups if not all(group.partition("="))]
    raise_all(f"--group {group!r} is not of the form label=glob" for group in wrong)
    globs = [(label, glob) for label, _, glob in (group.partition("=") for group in groups)]
    found = [
        [i for i, (_, glob) in enumerate(globs) if _fits(folder, root, glob)] for folder in folders
    ]
    first = {fitting[0] for fitting in found if fitting}
    raise_all(
        [
            *(f"{f}: no --group fits it" for f, fit in zip(folders, found, strict=True) if not fit),
            *(f"--group {g!r} gets no run" for i, g in enumerate(groups) if i not in first),
        ]
    )
    return [globs[fitting[0]][0] for fitting in found]


def _fits(folder: Path, root: Path, glob: str) -> bool:
    return any(fnmatch(name, glob) for name in (str(folder), shown(folder, root), folder.name))


def _mixed(
    label: str, rows: Sequence[Mapping], configs: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    """Why a mean over these runs would be no mean over seeds."""
    by_seed: dict[int, str] = {}
    for row in rows:
        if row["seed"] in by_seed:
            yield (
                f"group {label}: {by_seed[row['seed']]} and {row['run']} have the same seed "
                f"({row['seed']}); leave one out"
            )
        by_seed[row["seed"]] = row["run"]
    first, *others = map(recipe, configs)
    for row, other in zip(rows[1:], others, strict=True):
        keys = [key for key in other if key in first and other[key] != first[key]]
        if row["precision"] != rows[0]["precision"]:
            keys.append("precision")
        if keys:
            yield (
                f"group {label}: {rows[0]['run']} and {row['run']} differ in {', '.join(keys)}; "
                "put them into groups of their own with --group label=glob"
            )


def _group(label: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of a group's runs, with their spread."""
    first = rows[0]
    return {
        "label": label,
        "n": len(rows),
        "seeds": [row["seed"] for row in rows],
        **{key: first[key] for key in _SAME},
        "precision": ", ".join(dict.fromkeys(row["precision"] for row in rows)),
        **{
            key: _spread(row[key] for row in rows)
            for key in ("training_s", "evaluation_s", "step_median_ms")
        },
        "peak_memory_gb": {
            name: _spread(row["peak_memory_gb"].get(name) for row in rows)
            for name in first["peak_memory_gb"]
        },
        "results": {
            dataset: {
                task: {
                    name: _spread(row["results"][dataset][task].get(name) for row in rows)
                    for name in metrics
                }
                for task, metrics in tasks.items()
            }
            for dataset, tasks in first["results"].items()
        },
    }


def _spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """n, mean, min, max, and the standard deviation (n - 1) from 3 values on; None of none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    result = {"n": len(known), "mean": statistics.fmean(known), "min": min(known)}
    result["max"] = max(known)
    if len(known) >= 3:
        result["std"] = statistics.stdev(known)
    return result


def _joined(earlier: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new`, with the runs of `earlier` that it does not hold."""
    again = {(row["group"], row["seed"]) for row in new["runs"]}
    kept = [row for row in earlier["runs"] if (row["group"], row["seed"]) not in again]
    labels = dict.fromkeys(group["label"] for group in [*earlier["groups"], *new["groups"]])
    rows = sorted(
        [*kept, *new["runs"]], key=lambda row: (list(labels).index(row["group"]), row["seed"])
    )
    members = {label: [row for row in rows if row["group"] == label] for label in labels}
    raise_all(p for label, group in members.items() for p in _unlike(label, group))
    devices = [d for content in (earlier, new) for d in content["machine"].get("devices", [])]
    cpus = [cpu for content in (earlier, new) for cpu in content["machine"]["cpu"].split(", ")]
    return {
        **new,
        "notes": new["notes"] or earlier["notes"],
        "machine": {
            **new["machine"],
            "cpu": ", ".join(dict.fromkeys(cpus)),
            "devices": list(dict.fromkeys(devices)),
        },
        "versions": versions([earlier["versions"], new["versions"]]),
        "measured": max(earlier["measured"], new["measured"]),
        "collected_by": f"{earlier['collected_by']}; {new['collected_by']}",
        "groups": [_group(label, group) for label, group in members.items()],
        "runs": rows,
        "pictures": earlier["pictures"],
    }


def _unlike(label: str, rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """As far as a row knows its config."""
    for row in rows[1:]:
        keys = [key for key in (*_SAME, "precision") if row[key] != rows[0][key]]
        if row["results"].keys() != rows[0]["results"].keys():
            keys.append("test sets")
        if keys:
            yield (
                f"group {label}: {row['run']} (seed {row['seed']}) differs in {', '.join(keys)} "
                f"from {rows[0]['run']} (seed {rows[0]['seed']}), which was collected before"
            )
