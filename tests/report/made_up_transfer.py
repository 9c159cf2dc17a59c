"""Plan folders of transferability experiments as their runs leave them, with made-up accuracies."""

import json

import numpy as np

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
CUTS = (1, 2, 3, 5, 7)
# Points above the base at n, much as in the paper; three times as much on dissimilar splits.
SHAPE = {
    "BnB": lambda n: -3.0 if n in (3, 4, 5) else 0.0,
    "BnB+": lambda n: 0.5,
    "AnB": lambda n: -1.0 * n,
    "AnB+": lambda n: 1.5,
}
ITERATIONS = (100, 200, 300)


def entries(splits, seeds, cuts=CUTS, treatments=("BnB", "BnB+", "AnB", "AnB+", "random")):
    """The runs of transferability.json: both directions, bases first."""
    found = []

    def add(split, seed, treatment, source, target, n, label, **more):
        extra, shots = more.get("extra", 0), more.get("shots")
        name = f"{split}_{label}_s{seed}" + f"_extra{extra}" * bool(extra)
        name += f"_shots{shots}" if shots else ""
        entry = {"name": name, "split": split, "seed": seed, "treatment": treatment, "n": n}
        entry |= {"source": source, "target": target, "extra": extra, "shots": shots}
        found.append({**entry, "label": label})

    for split in splits:
        for seed in seeds:
            for target in "AB":
                add(split, seed, "base", None, target, 0, f"base{target}")
            for target in "AB":
                other = "BA"["AB".index(target)]
                for treatment in treatments:
                    source = {"r": None, "B": target, "A": other}[treatment[0]]
                    plus = "+" * treatment.endswith("+")
                    for n in cuts:
                        label = f"{source or 'R'}{n}{target}{plus}"
                        add(split, seed, treatment, source, target, n, label)
    return found


def top1_of(entry, splits, noise=0.2, base=40.0):
    """A made-up accuracy: targets differ by 4 points, treatments as in SHAPE, a little noise."""
    rng = np.random.default_rng(list(entry["name"].encode()))
    kind = splits[entry["split"]]["kind"]
    level = base + 4.0 * (entry["target"] == "B") + 0.3 * entry["seed"]
    if entry["treatment"] == "random":
        return max(1.0, level * 0.6 ** entry["n"]) + noise * rng.random()
    if entry["treatment"] != "base":
        level += SHAPE[entry["treatment"]](entry["n"]) * (3 if kind == "dissimilar" else 1)
    return level + noise * rng.standard_normal()


def write_run(folder, entry, top1):
    """A finished run folder: run.json, the evaluation, and of a base its filters."""
    place = folder / entry["name"]
    (place / "eval/test").mkdir(parents=True)
    on_the_way = [
        {"iteration": i - 1, "metrics": {"accuracy/top1": top1 * i / ITERATIONS[-1]}}
        for i in ITERATIONS
    ]
    record = {
        "status": "finished",
        "seed": entry["seed"],
        "command": f"tools/train_classifier.py OUTPUT_DIR {place}",
        "device": "cpu, 1 threads",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "seconds": {"training": 60.0, "evaluation": 2.0, "step_median": 0.1},
        "ended": "2026-01-02T03:04:05+00:00",
        "max_iteration": ITERATIONS[-1],
        "evaluations": on_the_way,
        "results": {"accuracy": {"top1": top1}},
    }
    metrics = {"metrics": {"accuracy": {"top1": top1}}, "dataset": "test"}
    (place / "run.json").write_text(json.dumps(record))
    (place / "eval/test/results.json").write_text(json.dumps(metrics))
    if entry["treatment"] == "base":
        rng = np.random.default_rng(entry["seed"])
        initial = rng.standard_normal((12, 3, 5, 5)).astype(np.float32)
        angles = rng.uniform(0, np.pi, (12, 3, 1, 1))
        y, x = np.mgrid[-2:3, -2:3]
        waves = np.cos(np.cos(angles) * x + np.sin(angles) * y).astype(np.float32)
        np.savez(place / "filters.npz", trained=waves + 0.1 * initial, initial=initial)


def make_experiment(folder, splits=("random0", "random1"), seeds=(0, 1), *, skip=(), **chosen):
    """A plan folder; splits whose name begins with "dissimilar" are of that kind.

    Args:
        skip: names of runs that are not carried out
        chosen: of :func:`entries`
    """
    folder.mkdir(parents=True)
    side = {"classes": 100, "images": 8000}
    described = {
        split: {"kind": "dissimilar" if split.startswith("dis") else "random", "checksum": "0" * 8}
        | {"A": side, "B": side}
        for split in splits
    }
    runs = entries(splits, seeds, **chosen)
    content = {"version": 1, "title": "Made-up transfer", "layers": LAYERS, "splits": described}
    (folder / "transferability.json").write_text(json.dumps({**content, "runs": runs}))
    for entry in runs:
        if entry["name"] not in skip:
            write_run(folder, entry, top1_of(entry, described))
    return folder
