"""Scripts of tools/benchmarks write medians with extremes of what they measure in rounds."""

import argparse
import itertools
import sys

import cold_start
import data_loading
import dataset_check
import growth
import numpy as np
import plan_overhead
import pytest
import reports
import scale
from measurements import spread
from PIL import Image
from sides import Turns

from det_transfer.report.page import tables
from det_transfer.run_folder import read_json


def test_loading_goes_by_stretches_of_its_turns(monkeypatch):
    """Every other batch is twice as long, for the other side three times as long."""
    ours, theirs = [0.5, 1.0] * 6, [1.5, 3.0] * 6
    turns = {"detectron2": Turns(theirs, theirs, 10**6), "ours": Turns(ours, ours, 10**6)}
    monkeypatch.setattr(data_loading, "take_turns", lambda makers, rounds: turns)
    found = data_loading.speed(argparse.Namespace(batch=3, rounds=12, torchvision=None))
    assert found["ours"]["images_per_s"] == found["ours"]["images_per_cpu_s"] == spread([4])
    assert found["ours"]["wall_ratio"] == found["ours"]["cpu_ratio"] == spread([3])
    assert (found["ours"]["goal"], found["ours"]["peak_mb"]) == (1.0, 1.0)
    assert data_loading.stretches([1.0, 3.0]) == [1.0, 3.0]


def test_every_round_of_starts_begins_without_a_cache(tmp_path, monkeypatch):
    """The first of ours makes it, and takes longest."""
    asked = []

    def measured(folder, side, what, workers):
        cache = data_loading.Path(folder) / "cache"
        asked.append((side, what, workers, cache.exists()))
        cache.mkdir(exist_ok=True)
        return float(len(asked))

    monkeypatch.setattr(data_loading, "measured", measured)
    sizes = {"images": 2, "annotations": 3, "repeats": 2, "folder": tmp_path}
    found = data_loading.annotations(argparse.Namespace(**sizes))
    assert asked[:7] == asked[7:]
    assert [cached for *_, cached in asked[:7]] == [False] + [True] * 6
    assert [side for side, *_ in asked[:5]] == ["ours", *["ours", "detectron2"] * 2]
    assert found["ours"]["first_start_s"] == spread([1, 8])
    assert found["detectron2"]["mb_with_4_workers"] == spread([7, 14])
    assert found["detectron2"]["memory_ratio"] == spread([7 / 5, 14 / 12])
    assert "first_start_s" not in found["detectron2"]
    assert found["ours"]["goal_start_s"] == data_loading.MOST_SECONDS


def run(module, monkeypatch, path, *words):
    """What its main writes, and the table made of it."""
    monkeypatch.setattr("measurements.machine_rates", lambda device: {"GB/s": spread([9])})
    monkeypatch.setattr(sys, "argv", [module.__name__, "--output", str(path), *words])
    module.main()
    return read_json(path), tables(read_json(path))


def test_the_dataset_check(tmp_path, monkeypatch):
    seconds = itertools.count(1)
    made = {"findings": 0, "peak_mb": 5.0}
    monkeypatch.setattr(dataset_check, "in_a_process", lambda _: {"read_s": next(seconds), **made})
    sizes = ["--images", "2", "--annotations", "3", "--jpegs", "2", "--workers", "1"]
    content, table = run(dataset_check, monkeypatch, tmp_path / "a.json", *sizes)
    of_json, of_images = content["results"]
    assert of_json["read_s"] == spread([1, 2, 3])
    assert of_json["findings"] == 0
    assert of_images["check_over_decode"]["min"] > 0
    assert "| read s | 2 (1 to 3) | - |" in table
    assert "; 9 GB/s; " in table


def test_the_json_of_the_dataset_check(tmp_path):
    dataset_check.make_json(tmp_path / "data.json", images=2, annotations=3, seed=0)
    found = dataset_check.measure_json(tmp_path / "data.json")
    assert found["total_s"] == pytest.approx(found["read_s"] + found["check_s"])


def test_the_plan_runner(tmp_path, monkeypatch):
    taken = iter([11.0, 10.0, 12.0, 10.0, 16.0, 10.0])  # a plan, and its one run alone
    monkeypatch.setattr(plan_overhead, "seconds_of", lambda _: next(taken))
    content, table = run(plan_overhead, monkeypatch, tmp_path / "a.json", "--runs", "1")
    (row,) = content["results"]
    assert row["overhead_percent"] == spread([10, 20, 60])
    assert "| overhead s | 2 (1 to 6) |" in table


def test_the_growth_of_a_network():
    uncached, cached = Turns([0.5, 1.0], [0.5, 0.5], 7), Turns([0.125, 0.25], [0.125, 0.25], 8)
    sizes = argparse.Namespace(classes=2, images=4, batch=2)
    made = {"uncached": {"cpu_s": 1.0}, "cached": {"cpu_s": 3.0}}
    found = growth.summary(sizes, {"uncached": uncached, "cached": cached}, made)
    assert found["uncached"]["epoch_s"] == spread([2, 4])
    assert found["cached"]["step_ms"] == spread([125, 250])
    assert found["times_faster"] == spread([4, 4])
    assert found["times_faster_cpu"] == spread([4, 2])
    assert found["filling_the_cache_cpu_s"] == 2.0


def test_whole_runs_take_turns(tmp_path, monkeypatch):
    """The second round takes twice as long as the first."""
    outputs = []

    def whole_run(args, folder, output, scope, threads):
        outputs.append(output)
        assert len(set(outputs)) == len(outputs)
        return 60.0 * (1 + len(outputs) // 9), 30.0

    monkeypatch.setattr(growth, "whole_run", whole_run)
    found = growth.whole_runs(argparse.Namespace(run_rounds=2), tmp_path)
    assert found["New"]["run_s"] == spread([60, 120])
    runs = sum(growth.TABLE1.values())
    assert found["table1_min_on_two_cores"] == spread([runs / 2, runs])
    assert found["table1_cpu_min"] == spread([runs / 2])


def test_reports(monkeypatch):
    """Where the processes only tell how often they were asked."""
    asked = []

    def in_a_process(call, *args):
        asked.append(call)
        call(*args)
        return {"wall_s": float(len(asked))}

    monkeypatch.setattr(reports, "in_a_process", in_a_process)
    one, four = reports.measure_cost(images=4, classes=3, draws=2, rounds=2)
    assert asked == [reports.report, reports.comparison] * 2
    assert (one["what"], one["wall_s"]) == ("report of a run", spread([1, 3]))
    assert (four["what"], four["wall_s"]) == ("comparison of 4 runs, 2 draws", spread([2, 4]))
    assert min(one["page_mb"], four["page_mb"]) > 0


def test_photos_of_a_core(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for name in "abc":
        Image.fromarray(picture).save(tmp_path / f"{name}.jpg")
    found = scale.view_rate(tmp_path, most=2, rounds=2)
    assert 0 < found["min"] <= found["median"] <= found["max"]


def test_the_parts_of_a_start():
    assert cold_start.parts({"imports": 2.0, "step": 5.0, "model": 3.0}) == {
        "imports": 2.0,
        "model": 1.0,
        "step": 2.0,
    }
