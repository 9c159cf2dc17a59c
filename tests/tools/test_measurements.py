"""What a benchmark writes: medians with extremes, and how near they come to the machine."""

import pytest
from measurements import (
    file_rates,
    machine_rates,
    ratios,
    spread,
    spreads,
    timed,
    write_measurements,
)
from sides import Turns, operations
from torch import nn, ones

from det_transfer.report.benchmarks import measured, write_page
from det_transfer.run_folder import read_json

PRODUCTS = "GFLOP/s of float32 products"


def test_several_rounds():
    assert spread([3, 1, 8]) == {"median": 3.0, "min": 1.0, "max": 8.0}
    assert spread(k for k in (5,)) == {"median": 5.0, "min": 5.0, "max": 5.0}
    rounds = [{"s": 2.0, "mb": 7}, {"s": 4.0, "mb": 9}]
    assert spreads(rounds) == {"s": spread([2, 4]), "mb": spread([7, 9])}


def test_ratios_go_round_by_round():
    """A disturbed round is three times as long on both sides."""
    assert ratios([2, 6, 2], [1, 3, 1]) == {"median": 2.0, "min": 2.0, "max": 2.0}
    with pytest.raises(ValueError, match="shorter"):
        ratios([1, 2], [1])


def test_rates_of_the_machine(tmp_path):
    found = machine_rates(size=32, repeats=3) | file_rates(tmp_path, megabytes=1, repeats=3)
    named = {"GB/s of copies", "GB/s of writing files", "GB/s of reading files", PRODUCTS}
    assert found.keys() - {"GFLOP/s of bfloat16 products"} == named
    assert all(0 < r["min"] <= r["median"] <= r["max"] for r in found.values())
    assert not list(tmp_path.iterdir())


def test_what_a_step_reaches():
    layer = nn.Linear(3, 4, bias=False)
    assert operations(lambda: layer(ones(2, 3))) == 2 * 2 * 3 * 4
    turns = Turns([0.5, 1.0, 2.0], [], 0)
    assert turns.gflops(4 * 10**9) == {"median": 4.0, "min": 2.0, "max": 8.0}
    assert timed(lambda: None) < 1


@pytest.fixture
def rates(monkeypatch):
    """Of a made-up machine, which has no bf16."""
    found = {PRODUCTS: spread([40, 50, 60]), "GB/s of copies": spread([10])}
    monkeypatch.setattr("measurements.machine_rates", lambda device: found)
    monkeypatch.setattr(
        "measurements.file_rates", lambda folder: {f"GB/s in {folder}": spread([2])}
    )
    return found


def test_percentages_join_the_results(tmp_path, rates):
    path = tmp_path / "benchmark.json"
    of_bf16 = {"GFLOP/s of bfloat16 products": {"ours, bf16": spread([1])}}
    reached = {PRODUCTS: {"ours": spread([20, 25, 30])}, **of_bf16}
    results = {"seconds:": {"ours": spread([1.0])}}
    write_measurements(path, "made up", results, folder="here", reached=reached, data={"n": 1})
    content = read_json(path)
    assert content["machine"]["rates"] == rates | {"GB/s in here": spread([2])}
    near = {"ours": {"median": 50.0, "min": 40.0, "max": 60.0}}
    shares = {f"percent of the machine's {PRODUCTS}:": near}
    assert content["results"] == results | shares
    assert list(results) == ["seconds:"]
    assert f"percent of the machine's {PRODUCTS}" in measured(content["results"])
    write_page(tmp_path / "page.html", {"made_up": content}, {})
    assert "what the machine can do" in (tmp_path / "page.html").read_text()


def test_rows_stay_rows(tmp_path, rates):
    path = tmp_path / "benchmark.json"
    write_measurements(path, "made up", [{"side": "ours", "start_s": 1.0}])
    assert read_json(path)["results"] == [{"side": "ours", "start_s": 1.0}]
    assert read_json(path)["machine"]["rates"] == rates


def test_nothing_is_measured_for_no_file(monkeypatch):
    monkeypatch.delattr("measurements.machine_rates")
    write_measurements(None, "made up", {})
