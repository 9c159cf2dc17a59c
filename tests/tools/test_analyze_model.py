"""tools/analyze_model.py: modes side by side, the paper's shares, mistakes."""

import json
import sys

import pytest
from detectron2.model_zoo import get_config_file

from det_transfer.engine.launch import run
from tools import analyze_model


def analyze(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["analyze_model.py", *map(str, words)])
    return run(lambda: analyze_model.main(analyze_model.parse()))


def test_modes_side_by_side(monkeypatch, capsys, tmp_path):
    path = tmp_path / "cost.json"
    words = ["--config-file", "configs/quickstart.yaml", "--size", 64, "--json", path]
    assert analyze(monkeypatch, *words, "--modes", "frozen", "adapters", "finetune") == 0
    out = capsys.readouterr().out
    assert "step G" in out
    modes = json.loads(path.read_text())["modes"]
    frozen, adapters, finetune = (modes[m] for m in ("frozen", "adapters", "finetune"))
    assert frozen["parts"]["trunk"][1] == 0
    assert frozen["trained"] < adapters["trained"]
    assert frozen["parameters"] == finetune["parameters"] == finetune["trained"]
    assert frozen["step"] < adapters["step"]
    assert frozen["forward"] == finetune["forward"]
    assert frozen["activations"] < 0.5 * finetune["activations"]
    for cost in modes.values():
        assert sum(part[0] for part in cost["parts"].values()) == cost["parameters"]
        assert sum(part[2] for part in cost["parts"].values()) == cost["forward"]


def test_a_stock_yaml(monkeypatch, capsys):
    """R-50 FPN as Detectron2 builds it: 41.3 M in its model zoo's tables of R-50 FPN."""
    path = get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    assert analyze(monkeypatch, "--config-file", path, "--size", 64, "--modes", "") == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.split()[:2] == ["as", "built"] and "41." in row for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modes", "frosen"], "--modes: 'frosen' does not exist; there is frozen,"),
        (["MODEL.FPN.OUT_CHANNEL", "3"], "there is no config key MODEL.FPN.OUT_CHANNEL;"),
    ],
)
def test_mistakes(monkeypatch, capsys, words, message):
    assert analyze(monkeypatch, "--config-file", "configs/quickstart.yaml", *words) == 2
    assert message in capsys.readouterr().err
