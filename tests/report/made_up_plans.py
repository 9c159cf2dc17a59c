"""Folders of plans of "Growing a Brain", made up: the paper's numbers less ten, with noise."""

import csv
import json
import random

from det_transfer.report.growth import COLUMNS, PAPER

AXES = {1: "scope", 2: "scope", 3: "scope", 5: "target"}


def write_results(folder, rows):
    """results.csv as tools/run_plan.py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (folder / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    return folder


def make_plan(root, number, *, spread=0.3, seeds=(1, 2, 3), runs=False):
    """The folder of one table.

    Args:
        spread: standard deviation over seeds
        runs: also run folders, with what curves are drawn from
    """
    rng = random.Random(number)
    folder = root / f"growth_table{number}"
    rows = [] if number == 4 else [{"run": "source", "status": "finished", "accuracy/top1": 24.2}]
    for row, numbers in PAPER[number].items():
        if "[" in row or None in numbers:  # others' methods
            continue
        shown = COLUMNS[number] if number in AXES else COLUMNS[number][:1]
        for column, paper in zip(shown, numbers, strict=False):
            for seed in seeds:
                rows.append(made_up(number, row, column, seed, paper - 10 + rng.gauss(0, spread)))
    write_results(folder, rows)
    for row in rows if runs else ():
        write_run(folder / row["run"], row["accuracy/top1"], rng)
    return folder


def made_up(number, row, column, seed, top1):
    stem, method = row.split() if " " in row else ("target", row)
    parts = [stem, method, column] if number in AXES else row.split()
    found = {"run": "_".join([*parts, f"s{seed}"]), "seed": seed, "status": "finished"}
    if number in AXES:
        found |= {"method": method, AXES[number]: column}
    elif number == 4:
        found["method"] = method
    found["accuracy/top1"] = top1
    if row == "WA-grow" and number == 7:
        found |= {"accuracy/top1_FC7": top1 - 6, "accuracy/top1_FC7+": top1 - 2 + seed / 10}
    return found


def write_run(folder, top1, rng):
    folder.mkdir(parents=True, exist_ok=True)
    blocks = {"accuracy/top1_FC7": -3.0, "accuracy/top1_FC7+": -1.0}
    evaluations = [
        {
            "iteration": iteration,
            "metrics": {
                "accuracy/top1": top1 - less,
                **{name: top1 - less + lower for name, lower in blocks.items()},
            },
        }
        for iteration, less in ((99, 9.0), (199, 0.0))
    ]
    record = {"status": "finished", "evaluations": evaluations}
    record["results"] = {"accuracy": {"top1": top1}}
    (folder / "run.json").write_text(json.dumps(record))
    losses = [
        {"iteration": i, "total_loss": 4 / (1 + i / 80) + abs(rng.gauss(0, 0.05))}
        for i in range(19, 200, 20)
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, losses)))
