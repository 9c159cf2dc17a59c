"""The tables of docs/scale.md."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import UserError
from ..markdown import table
from .costs import disk, evaluation, memory, run_hours, step
from .crossovers import allreduce_limit, cores_a_gpu, evaluator_limit, loader_limit
from .estimate import Estimate
from .machine import ASSUMPTIONS, option
from .networks import network_costs
from .recipe import DATASETS, Recipe

__all__ = ["TABLES", "blocks", "fill"]

# Published rates that the counts are held to: (detector, by whom and on what, images a second of a
# GPU, its peak in TFLOP/s, GB of a GPU with two images or None). Sources: Detectron2's MODEL_ZOO.md
# (8 V100, fp32, batch 16: 0.210 and 0.261 s, 3.0 and 3.4 GB); NVIDIA's DeepLearningExamples, Mask
# R-CNN (one V100 of 32 GB, fp16, batch 16). Peaks of the V100 (15.7 in fp32, 125 in fp16): data
# sheet.
PUBLISHED = (
    ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "Detectron2, V100, fp32", 2 / 0.210, 15.7, 3.0),
    (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x",
        "Detectron2, V100, fp32",
        2 / 0.261,
        15.7,
        3.4,
    ),
    ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x", "NVIDIA, V100, fp16", 13.82, 125.0, None),
)
_COCO_IMAGES = 118_287 + 5_000  # of both datasets, which share them
# Shares of the peak that the conclusions are tried with.
SHARES = (0.05, 0.15, 0.4)
# Source: the paper, 9.5 days each on a K20 (3.52 TFLOP/s in fp32, data sheet).
K20_DAYS, K20_TFLOPS, NETWORK_COUNT = 9.5, 3.52, 163


def _assumed(of: Estimate) -> str:
    rows = [
        [
            f"`{option(a.name)}`",
            f"{getattr(of.machine, a.name):g}",
            a.text,
            "given" if a.name in of.given else a.source,
        ]
        for a in ASSUMPTIONS
    ]
    return table(["option", "value", "what", "source"], rows, numbers=False)


def _measured(of: Estimate) -> str:
    rates = of.rates
    sides = {"": "no Copy-Paste", "stream": "Copy-Paste", "pool": "Copy-Paste from the pool"}
    rows = [
        [
            f"images of 1,024 px a core loads in a second, {words}",
            _short(rates.loaded[key]),
            "loading",
        ]
        for key, words in sides.items()
    ]
    rows.append(["photos of 256 px a core loads in a second", _short(rates.view), "counts"])
    rows += [
        [
            f"milliseconds of the evaluator an image, {p.upper()} {task}",
            _short(1000 * s),
            f"{p}_evaluation" if (p, task) != ("coco", "segm") else "lvis_evaluation",
        ]
        for (p, task), s in sorted(rates.evaluator.items())
    ]
    rows += [
        [f"bytes of a detection, {'box and mask' if masks else 'box'}", _short(size), "counts"]
        for masks, size in rates.detection_bytes.items()
    ]
    rows += [
        [f"GFLOP/s of two CPU cores in a step, {run.mode}", _short(run.flops / 1e9), "runs"]
        for run in rates.cpu
    ]
    rows = [[what, value, f"`{of.sources[source]}`"] for what, value, source in rows]
    return table(["what", "value", "from"], rows)


def _counted(of: Estimate) -> str:
    rows = [
        [
            label,
            str(r.size),
            f"{r.parameters / 1e6:.1f}",
            f"{r.trained / 1e6:.1f}",
            f"{r.forward / 1e9:,.0f}",
            f"{r.step / 1e9:,.0f}",
            f"{r.inference / 1e9:,.0f}",
            f"{r.kept / 1e9:.2f}",
        ]
        for label, r in of.kinds()
    ]
    head = "recipe|px|M parameters|M trained|forward|step|inference|GB kept"
    return table(head.split("|"), rows)


def _time(of: Estimate) -> str:
    rows = []
    for label, recipe in of.rows():
        hours = [run_hours(recipe, of.rates, of.machine, n) for n in of.gpus]
        steps = [step(recipe, of.rates, of.machine, n) for n in of.gpus]
        cells = [f"{_hours(h)} ({s.limit})" for h, s in zip(hours, steps, strict=True)]
        gpu_hours = [_hours(n * h) for n, h in zip(of.gpus, hours, strict=True)]
        years = _cpu_seconds(of, recipe) / (365 * 86400)
        iterations = f"{recipe.iterations:,}"
        rows.append([label, iterations, *cells, " / ".join(gpu_hours), _short(years)])
    columns = [f"h, {name}" for name in _columns(of)]
    return table(["recipe", "iterations", *columns, "GPU-hours", "years, 2 CPU cores"], rows)


def _cpu_seconds(of: Estimate, recipe: Recipe) -> float:
    """Of its training at the rate that runs of its mode were measured at."""
    flops = next(run.flops for run in of.rates.cpu if run.mode == recipe.mode)
    return recipe.iterations * recipe.batch * recipe.step / flops


def _steps(of: Estimate) -> str:
    rows = []
    for label, recipe in of.kinds():
        for n in of.gpus[1:]:
            s = step(recipe, of.rates, of.machine, n)
            parts = (s.compute, s.backward, s.loader, s.allreduce, s.seconds)
            milliseconds = [_short(1000 * part) for part in parts]
            rows.append([label, str(n), *milliseconds, f"{s.sent / 1e6:,.0f}", s.limit])
    head = "recipe|GPUs|compute|of it backward|loader|all-reduce|step|MB sent a GPU|limit"
    return table(head.split("|"), rows)


def _limits(of: Estimate) -> str:
    rows = []
    for label, recipe in of.kinds():
        machine = of.machine
        inside = loader_limit(recipe, of.rates, machine)
        across = allreduce_limit(recipe, machine)
        rows.append(
            [
                label,
                _short(machine.rate / recipe.step),
                _short(cores_a_gpu(recipe, of.rates, machine)),
                _short(inside),
                _short(across),
                _short(evaluator_limit(recipe, of.rates, machine)),
            ]
        )
    head = (
        "recipe|images/s of a GPU|cores a GPU needs|loader: GPUs a machine|all-reduce: GPUs|"
        "evaluator: GPUs"
    )
    return table(head.split("|"), rows)


def _memory(of: Estimate) -> str:
    rows = []
    for label, recipe in of.kinds():
        cells = []
        for n in of.gpus:
            m = memory(recipe, of.machine, n)
            parts = -(-int(m.images) // int(m.at_a_time))
            words = f"{m.total / 1e9:.0f} GB, {m.images} image{'s' if m.images > 1 else ''}"
            cells.append(f"{words} in {parts}" if parts > 1 else words)
        m = memory(recipe, of.machine, of.gpus[-1])
        fixed = m.weights + m.gradients + m.momentum
        rows.append([label, f"{fixed / 1e9:.2f}", f"{recipe.kept / 1e9:.2f}", *cells])
    return table(["recipe", "GB, network", "GB, an image", *_columns(of)], rows)


def _disk(of: Estimate) -> str:
    rows = []
    for label, recipe in of.rows():
        d = disk(recipe)
        found = evaluation(recipe, of.rates, of.machine, 1).gathered
        rows.append(
            [
                label,
                _short(d["dataset"] / 1e9),
                f"{d['count']:.0f}",
                _short(d["full"] / 1e9),
                _short(d["checkpoints"] / 1e9),
                _short(found / 1e6),
                _short(_read_rate(of, recipe) / 1e6),
            ]
        )
    head = "recipe|GB, images|checkpoints|GB, full|GB, slim|MB, predictions|MB/s read"
    return table([*head.split("|")[:-1], f"MB/s read, {of.gpus[-1]} GPUs"], rows)


def _read_rate(of: Estimate, recipe: Recipe) -> float:
    """Bytes a second of images on the most GPUs; Copy-Paste from the stream reads two for one."""
    data = DATASETS[recipe.dataset]
    an_image = data.gigabytes * 1e9 / _COCO_IMAGES
    times = 2 if recipe.copy_paste == "stream" else 1
    seconds = step(recipe, of.rates, of.machine, of.gpus[-1]).seconds
    return times * recipe.batch * an_image / seconds


def _evaluation(of: Estimate) -> str:
    rows = []
    for label, recipe in of.kinds():
        all_ = [evaluation(recipe, of.rates, of.machine, n) for n in of.gpus]
        one = all_[0]
        rows.append(
            [
                label,
                f"{DATASETS[recipe.dataset].test_images:,}",
                " / ".join(_short(e.inference) for e in all_),
                _short(one.gathered / 1e6),
                _short(one.gather),
                _short(one.evaluator),
                " / ".join(f"{100 * (1 - e.inference / e.seconds):.0f}" for e in all_),
            ]
        )
    gpus = " / ".join(map(str, of.gpus))
    head = (
        f"recipe|images|s, inference on {gpus}|MB gathered|s, gather|s, evaluator|"
        f"% of it on one process, {gpus}"
    )
    return table(head.split("|"), rows)


def _freezing(of: Estimate) -> str:
    rows = []
    for label, frozen, tuned in of.pairs():
        cells = [
            _spared(run_hours(r, of.rates, of.machine, n) for r in (frozen, tuned)) for n in of.gpus
        ]
        last = of.gpus[-1]
        a, b = (memory(r, of.machine, last) for r in (frozen, tuned))
        rows.append(
            [
                label,
                _spared((frozen.step, tuned.step)),
                *cells,
                _spared((frozen.kept, tuned.kept)),
                _spared((a.total - a.reserve, b.total - b.reserve)),
                _spared((frozen.trained, tuned.trained)),
                _spared((disk(frozen)["checkpoints"], disk(tuned)["checkpoints"])),
            ]
        )
    times = [f"time, {name}" for name in _columns(of)]
    head = ["% spared", "operations", *times, "kept an image", f"memory, {of.gpus[-1]} GPUs"]
    return table([*head, "network", "checkpoints"], rows)


def _networks(of: Estimate) -> str:
    rows = []
    for n in of.gpus:
        cost = network_costs(of.caffenet, of.rates, of.machine, n)
        rows.append(
            [
                str(n),
                _hours(cost["seconds"] / 3600),
                _hours(cost["busy"] / 3600),
                f"{100 * (1 - cost['compute'] / cost['busy']):.0f}",
                f"{100 * cost['spared'] / (cost['operations'] + cost['spared']):.0f}",
                f"{100 * (1 - cost['busy'] / cost['tuned']):.0f}",
            ]
        )
    head = "GPUs|hours|GPU-hours|% of them without images|% of operations spared|% of time"
    return table(head.split("|"), rows)


def _published(of: Estimate) -> str:
    rows = []
    for name, what, rate, peak, gigabytes in PUBLISHED:
        counted = of.zoo[name]
        reached = rate * counted["step"] / 1e12
        memory_ = f"{_resident(counted) / 1e9:.1f}" if gigabytes else "-"
        rows.append(
            [
                name.split("/")[1],
                what,
                _short(rate),
                _short(counted["step"] / 1e9),
                _short(reached),
                f"{100 * reached / peak:.0f}",
                str(gigabytes or "-"),
                memory_,
            ]
        )
    network = of.caffenet[0]["step"] * 256 * 450_000 / (K20_DAYS * 86400) / 1e12
    rows.append(
        [
            "CaffeNet",
            "the paper, K20, fp32",
            _short(256 * 450_000 / (K20_DAYS * 86400)),
            _short(of.caffenet[0]["step"] / 1e9),
            _short(network),
            f"{100 * network / K20_TFLOPS:.0f}",
            "-",
            "-",
        ]
    )
    head = (
        "network|published by, on|images/s of a GPU|GFLOP an image, counted|TFLOP/s|% of peak|"
        "GB, published|GB, reckoned"
    )
    return table(head.split("|"), rows)


def _resident(counted: Mapping[str, Any], images: int = 2) -> float:
    """Bytes in fp32 of network, gradients with buckets, momentum and two images."""
    return 4 * counted["parameters"] + 12 * counted["trained"] + images * counted["kept"]


def _cpu(of: Estimate) -> str:
    base = of.rates.cpu[0]
    rows = [
        [
            run.mode,
            f"{run.peak / 1e9:.2f}",
            f"{run.counted / 1e9:.2f}",
            f"{(run.peak - base.peak) / 1e9:.2f}",
            f"{(run.counted - base.counted) / 1e9:.2f}",
        ]
        for run in of.rates.cpu
    ]
    head = f"mode|GB, measured|GB, reckoned|more than {base.mode}, measured|reckoned"
    return table(head.split("|"), rows)


def _shares(of: Estimate) -> str:
    rows = []
    for label, frozen, tuned in of.pairs():
        for share in SHARES:
            machine = replace(of.machine, reached=share)
            hours = [run_hours(r, of.rates, machine, 8) for r in (frozen, tuned)]
            rows.append(
                [
                    label,
                    f"{share:g}",
                    *map(_hours, hours),
                    _short(loader_limit(frozen, of.rates, machine)),
                    *(_short(allreduce_limit(r, machine)) for r in (frozen, tuned)),
                ]
            )
    head = (
        "recipe|share of peak|hours on 8, frozen|fine-tuned|loader: GPUs a machine|"
        "all-reduce: GPUs, frozen|fine-tuned"
    )
    return table(head.split("|"), rows)


_BLOCKS: dict[str, Callable[[Estimate], str]] = {
    "assumed": _assumed,
    "measured": _measured,
    "counted": _counted,
    "time": _time,
    "steps": _steps,
    "limits": _limits,
    "memory": _memory,
    "disk": _disk,
    "evaluation": _evaluation,
    "freezing": _freezing,
    "networks": _networks,
    "published": _published,
    "cpu": _cpu,
    "shares": _shares,
}


TABLES = tuple(_BLOCKS)


def blocks(of: Estimate) -> dict[str, str]:
    """Name -> table in Markdown."""
    return {name: make(of) for name, make in _BLOCKS.items()}


_MARKED = re.compile(r"(<!-- scale:([\w-]+) -->\n)(.*?)(<!-- /scale -->)", re.DOTALL)


def fill(text: str, tables: Mapping[str, str], page: str = "the page") -> str:
    """`text` with the tables between ``<!-- scale:NAME -->`` and ``<!-- /scale -->``.

    Raises:
        UserError: there is no table of a name
    """

    def one(match: re.Match) -> str:
        opening, name, _, closing = match.groups()
        if name not in tables:
            raise UserError(f"{page} asks for the table {name}; there are {', '.join(tables)}")
        return f"{opening}{tables[name]}\n{closing}"

    return _MARKED.sub(one, text)


def _columns(of: Estimate) -> list[str]:
    return [f"{n} GPU{'s' if n > 1 else ''}" for n in of.gpus]


def _spared(both) -> str:
    frozen, tuned = both
    return f"{100 * (1 - frozen / tuned):.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def _short(value: float) -> str:
    """Three digits, no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
