"""The guard: its verdict, and that it catches whatever moves a frozen tensor."""

import json

import pytest
import torch
from detectron2.engine import HookBase

from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.guard import FrozenChanged
from det_transfer.engine.setup import setup
from det_transfer.reuse import changed, digests, fingerprint, frozen_tensors


class Meddler(HookBase):
    """Changes one frozen tensor by the least there is, at one iteration."""

    def __init__(self, name, at):
        self._name = name
        self._at = at

    def after_step(self):
        if self.trainer.iter == self._at:
            tensor = self.trainer.model.state_dict()[self._name]
            flat = tensor.view(-1)
            flat[0] = torch.nextafter(flat[0], torch.tensor(torch.inf))


def verdict(folder):
    return json.loads((folder / "run.json").read_text())["frozen"]


@pytest.mark.parametrize("mode", ["frozen", "adapters"])
def test_the_verdict_stands_in_the_record(train, tmp_path, mode):
    trainer = train("MODEL.REUSE.MODE", mode)
    found = verdict(tmp_path / "run")
    assert found["verdict"] == "unchanged"
    assert found["iteration"] == 3
    now = digests(frozen_tensors(trainer.model))
    assert found["fingerprint"] == fingerprint(now)
    assert found["tensors"] == len(now) > 20


def test_nothing_frozen_nothing_guarded(train, tmp_path):
    train("MODEL.REUSE.MODE", "finetune")
    assert "frozen" not in json.loads((tmp_path / "run" / "run.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "backbone.bottom_up.net.layer1.0.conv1.weight",
        "backbone.bottom_up.net.layer2.0.bn1.running_var",
        "backbone.bottom_up.net.layer1.0.bn2.bias",
    ],
)
def test_a_change_of_one_bit_stops_the_run(arguments, tmp_path, name):
    trainer = DetectionTrainer(setup(arguments(), prepare))
    trainer._hooks.insert(1, Meddler(name, at=2))
    trainer._hooks[1].trainer = trainer
    with pytest.raises(FrozenChanged, match=rf"1 tensors .* by iteration 3, e\.g\. {name}"):
        trainer.train()
    found = verdict(tmp_path / "run")
    assert (found["verdict"], found["changed"]) == ("changed", [name])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "failed"
    assert "FrozenChanged" in record["reason"]
    # What was written before the change stays, nothing was written after it.
    assert (tmp_path / "run" / "model_0000001.pth").is_file()
    assert not (tmp_path / "run" / "model_final.pth").exists()


def test_fingerprints():
    tensors = {"a": torch.arange(4.0), "b.num_batches_tracked": torch.tensor(1)}
    start = digests(tensors)
    assert start.keys() == {"a"}
    assert fingerprint(start) == fingerprint(dict(reversed(start.items())))
    for other in [
        torch.arange(4.0).view(2, 2),
        torch.arange(4.0).double(),
        torch.tensor([-0.0, 1.0, 2.0, 3.0]),
    ]:
        assert changed(start, digests({"a": other})) == ["a"]
    assert changed(start, {}) == ["a"]
    assert not changed(start, digests({"a": torch.arange(8.0)[::2] / 2}))  # same bits elsewhere
    assert digests({"a": torch.ones(2, dtype=torch.bfloat16)})
