"""kill -9 at any moment of training and evaluation; what is resumed equals the unbroken run.

FAULT_KILLS says how many kills; `make faults` takes 30.
"""

import json
import os
import random
import time
from collections import Counter

import pytest
import torch
from programs import train, warm

from det_transfer import run_folder
from det_transfer.reuse import read_checkpoint

KILLS = int(os.environ.get("FAULT_KILLS", 3))
# Long enough that kills fall into steps, checkpoints and evaluations alike.
OPTIONS = ["SOLVER.MAX_ITER", 12, "SOLVER.STEPS", "(8,)", "SOLVER.CHECKPOINT_PERIOD", 3]
OPTIONS += ["TEST.EVAL_PERIOD", 4, "MODEL.REUSE.MODE", "adapters", "SOLVER.EMA.ENABLED", True]


@pytest.fixture(scope="module")
def unbroken(tiny_coco, tmp_path_factory):
    """The run folder of the unbroken run, and the seconds of its start and of what followed."""
    folder = tmp_path_factory.mktemp("unbroken")
    warm()
    start = time.monotonic()
    program = train(folder / "log", tiny_coco, folder / "run", *OPTIONS)
    program.until(lambda: trains(program))
    begun = time.monotonic()
    assert program.wait() == 0, program.said
    return folder / "run", begun - start, time.monotonic() - begun


def trains(program):
    return "Starting training from iteration" in program.said


def tensors(value, prefix=""):
    """All tensors and numbers of a checkpoint, by path."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from tensors(part, f"{prefix}/{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from tensors(part, f"{prefix}/{index}")
    else:
        yield prefix, value


def outcome(run):
    """What must be equal: the last checkpoints, every evaluation, the verdict on what is frozen."""
    found = {}
    for name in ("model_final.pth", "model_final_ema.pth"):
        found |= {f"{name}{k}": v for k, v in tensors(read_checkpoint(run / name))}
    results = run_folder.read_json(run / "eval/tiny/results.json")
    found["results"] = json.dumps(results["metrics"])
    record = run_folder.read_json(run / run_folder.RUN)
    found["status"] = record["status"]
    found["frozen"] = record["frozen"]["verdict"]
    found["evaluations"] = json.dumps(record["evaluations"])
    return found


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or a != a


def test_killed_at_any_moment(unbroken, tiny_coco, tmp_path):
    whole, start, training = unbroken
    expected = outcome(whole)
    rng = random.Random(0)
    kills = runs = 0
    met = Counter()  # checkpoints there when a kill came
    while kills < KILLS or runs == 0:
        run, runs = tmp_path / f"run{runs}", runs + 1
        while True:
            flags = ["--resume"] if run.exists() else []
            program = train(tmp_path / "log", tiny_coco, run, *OPTIONS, flags=flags)
            if kills == KILLS or not lives(program, rng, start, training):
                break
            program.kill()
            kills += 1
            met[len(list(run.glob("model_*[0-9].pth")))] += 1
        assert program.wait() == 0, f"after {kills} kills: {program.said[-3000:]}"
        found = outcome(run)
        different = [k for k in expected.keys() | found.keys() if not _equal(k, expected, found)]
        assert not different, f"after {kills} kills: {sorted(different)[:5]}"
    print(f"{kills} kills in {runs} runs, after checkpoints {dict(sorted(met.items()))}")  # noqa: T201
    assert kills < 20 or len(met) > 2, f"kills met {dict(met)} alone"


def lives(program, rng, start, training):
    """Whether a program lives at a random moment: one of four in its start, others behind it."""
    if rng.random() < 0.25:
        return program.alive_after(rng.uniform(0.0, start))
    while program.alive_after(0.01):
        if trains(program):
            return program.alive_after(rng.uniform(0.0, training))
    return False


def _equal(key, a, b):
    return key in a and key in b and same(a[key], b[key])
