"""Checkpoints without their frozen part: how small, how they come together, what is refused."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import det_transfer
from det_transfer.config import load_config
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.reuse import frozen_tensors, read_checkpoint
from tools import convert_checkpoint

ADAPTERS = ["MODEL.REUSE.MODE", "adapters"]
PARTIAL = ["MODEL.REUSE.MODE", "partial", "MODEL.REUSE.STAGES", 2]


def elements(state):
    return sum(tensor.numel() for tensor in state.values())


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("opts", [[], ADAPTERS, PARTIAL], ids=["frozen", "adapters", "partial"])
def test_what_was_trained_and_no_more(train, tmp_path, opts):
    trainer = train(*opts)
    model, frozen = trainer.model, frozen_tensors(trainer.model)
    content = torch.load(tmp_path / "run" / "model_final.pth")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert elements(content["model"]) <= 1.01 * trained + 100  # cell anchors are buffers
    assert content["model"].keys() == model.state_dict().keys() - frozen.keys()
    (beside,) = (tmp_path / "run").glob("frozen-*.pth")  # one, whatever the number of checkpoints
    assert same(torch.load(beside)["model"], dict(frozen))
    assert same(read_checkpoint(tmp_path / "run" / "model_final.pth")["model"], model.state_dict())


def test_modes_without_anything_frozen_have_ordinary_checkpoints(train, tmp_path):
    trainer = train("MODEL.REUSE.MODE", "scratch")
    content = torch.load(tmp_path / "run" / "model_final.pth")
    assert same(content["model"], trainer.model.state_dict())
    assert "frozen" not in content


def test_full_checkpoints_on_demand(train, tmp_path):
    trainer = train(full=True)
    content = torch.load(tmp_path / "run" / "model_final.pth")
    assert same(content["model"], trainer.model.state_dict())
    assert not list((tmp_path / "run").glob("frozen-*"))
    train("SOLVER.MAX_ITER", 6, full=True, resume=True)


def test_a_checkpoint_of_another_run_starts_this_one(train, tmp_path):
    first = train(output="first")
    weights = ["MODEL.WEIGHTS", tmp_path / "first" / "model_final.pth", "SOLVER.BASE_LR", 1e-9]
    for mode in ["frozen", "adapters", "finetune"]:
        second = train(*weights, "MODEL.REUSE.MODE", mode, output=mode)
        state = second.model.state_dict()
        for name, tensor in frozen_tensors(first.model).items():
            if "running" not in name and not name.endswith("tracked"):
                assert torch.allclose(state[name], tensor, atol=1e-6), (mode, name)


@pytest.fixture
def donor(train, tmp_path):
    """A file of trunk weights, and a run that was trained on them."""
    trunk = train(output="donor").model.backbone.bottom_up.net
    path = tmp_path / "trunk.pth"
    torch.save({k: v + 0.01 * torch.rand(v.shape) for k, v in trunk.state_dict().items()}, path)
    return path, train("MODEL.WEIGHTS", path)


def test_without_its_frozen_part_it_is_taken_from_the_origin(donor, tmp_path):
    _, trainer = donor
    next((tmp_path / "run").glob("frozen-*")).unlink()
    model = det_transfer.load(tmp_path / "run").model
    counters = {n for n in model.state_dict() if n.endswith("num_batches_tracked")}
    expected = trainer.model.state_dict()
    assert all(
        torch.equal(t, expected[n]) for n, t in model.state_dict().items() if n not in counters
    )


def test_resumed_without_its_frozen_part(donor, train, tmp_path):
    path, _ = donor
    next((tmp_path / "run").glob("frozen-*")).unlink()
    resumed = train("MODEL.WEIGHTS", path, "SOLVER.MAX_ITER", 6, resume=True)
    assert resumed.start_iter == 4
    content = torch.load(tmp_path / "run" / "model_final.pth")
    assert content["frozen"]["origin"] == str(path)  # as it was, not the checkpoint's name


def test_neither_beside_nor_at_the_origin(donor, tmp_path):
    path, _ = donor
    (beside,) = (tmp_path / "run").glob("frozen-*")
    content = torch.load(beside)
    beside.unlink()
    path.rename(tmp_path / "gone.pth")
    with pytest.raises(UserError) as error:
        det_transfer.load(tmp_path / "run")
    assert f"{beside.name} is not beside it" in str(error.value)
    assert f"{path} does not exist" in str(error.value)
    # Others that have the same names are not taken for it.
    content["model"]["backbone.bottom_up.net.conv1.0.weight"] += 1
    torch.save(content, beside)
    with pytest.raises(UserError, match=r"not the frozen part that this checkpoint was trained w"):
        det_transfer.load(tmp_path / "run")
    beside.unlink()
    torch.save({k: torch.rand_like(v) for k, v in torch.load(tmp_path / "gone.pth").items()}, path)
    with pytest.raises(UserError, match=r"its origin .*trunk\.pth is not the frozen part"):
        det_transfer.load(tmp_path / "run")


def test_a_random_frozen_part_has_no_origin(train, tmp_path):
    train()
    next((tmp_path / "run").glob("frozen-*")).unlink()
    with pytest.raises(UserError, match="it began at random and is nowhere else"):
        det_transfer.load(tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def of_others(path):
    content = torch.load(path)
    name = next(iter(content["model"]))
    content["model"][name] = content["model"][name] + 1
    torch.save(content, path)


@pytest.mark.parametrize("damage", [cut, of_others])
def test_a_damaged_frozen_part_is_taken_from_the_origin_and_written_anew(
    damage, donor, train, tmp_path
):
    weights, trainer = donor
    (beside,) = (tmp_path / "run").glob("frozen-*")
    sound = torch.load(beside)["model"]
    damage(beside)
    expected = {n: t.clone() for n, t in frozen_tensors(trainer.model).items()}
    resumed = train("MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 6, resume=True)
    assert resumed.start_iter == 4
    log = (tmp_path / "run/log.txt").read_text()
    assert f"Frozen part: taken from {weights}, as" in log
    assert f"only what was trained, and {beside}" in log
    assert same(frozen_tensors(resumed.model), expected)
    found = torch.load(beside)["model"]
    assert found.keys() == sound.keys()
    assert all(torch.equal(sound[name], found[name]) for name in sound)


def test_a_damaged_frozen_part_that_nothing_replaces(train, tmp_path):
    """No other checkpoint of the run is offered: all of them lack the same."""
    train("SOLVER.CHECKPOINT_PERIOD", 2)
    (beside,) = (tmp_path / "run").glob("frozen-*")
    cut(beside)
    with pytest.raises(UserError) as caught:
        train("SOLVER.MAX_ITER", 6, resume=True)
    said = str(caught.value)
    assert f"{beside} cannot be read as weights" in said
    assert "it began at random and is nowhere else: bring frozen-" in said
    assert "the checkpoint before it" not in said


# For elsewhere -----------------------------------------------------------------------------------

RESNET = [
    *("MODEL.TRUNK.NAME", "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.PIXEL_STD", "[255.0, 255.0, 255.0]"),
    *(
        "MODEL.RESNETS.OUT_FEATURES",
        "['res4', 'res5']",
        "MODEL.FPN.IN_FEATURES",
        "['res4', 'res5']",
    ),
    *("MODEL.RPN.IN_FEATURES", "['p4', 'p5', 'p6']", "MODEL.ROI_HEADS.IN_FEATURES", "['p4', 'p5']"),
]


def convert(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["convert_checkpoint.py", *map(str, words)])
    return run(convert_checkpoint.main, convert_checkpoint.parse())


@pytest.mark.parametrize("opts", [[], ADAPTERS], ids=["frozen", "adapters"])
def test_stock_detectron2_loads_a_full_one(train, tmp_path, monkeypatch, opts, capsys):
    """Under its own builder and config: all tensors, the same losses and detections."""
    trainer = train(*RESNET, *opts)
    path = tmp_path / "full.pth"
    assert convert(monkeypatch, tmp_path / "run", "--full", path) == 0
    assert ("adapters merged" in capsys.readouterr().out) == bool(opts)
    cfg = load_config(str(tmp_path / "run" / "config.yaml")).cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = -1.0
    stock = build_model(cfg).eval()
    assert type(stock.backbone.bottom_up).__module__.startswith("detectron2.")
    found = DetectionCheckpointer(stock)._load_model(torch.load(path))
    assert not found.missing_keys
    assert not found.unexpected_keys
    image = {"image": torch.rand(3, 64, 64) * 255}
    trainer.model.roi_heads.box_predictor[0].test_score_thresh = -1.0
    a, b = (m([image])[0]["instances"] for m in (stock, trainer.model.eval()))
    assert len(a) == len(b) > 0
    assert torch.allclose(a.scores, b.scores, atol=1e-5)
    assert torch.allclose(a.pred_boxes.tensor, b.pred_boxes.tensor, atol=1e-3)
    pixels = image["image"][None]
    a, b = (m.backbone(pixels) for m in (stock, trainer.model))
    assert all((a[k] - b[k]).abs().max() <= 1e-5 * b[k].abs().max() for k in b)


def test_adapters_in_a_file_of_their_own(train, tmp_path, monkeypatch):
    trainer = train(*ADAPTERS, "MODEL.ADAPTERS.NORM", "own", "SOLVER.BASE_LR", 0.1)
    path = tmp_path / "adapters.pth"
    assert convert(monkeypatch, tmp_path / "run", "--adapters", path) == 0
    other = DetectionTrunk(trainer)
    det_transfer.reuse.load_adapters(other.trunk, path)
    assert same(other.trunk.state_dict(), trainer.model.backbone.bottom_up.state_dict())


class DetectionTrunk:
    """The trunk of a trainer as it was before it had adapters."""

    def __init__(self, trainer):
        from det_transfer.modeling import TimmBackbone

        self.trunk = TimmBackbone("resnet10t", ["res3", "res4"])
        state = trainer.model.backbone.bottom_up.state_dict()
        self.trunk.load_state_dict({k: state[k] for k in self.trunk.state_dict()})


def test_mistakes(train, tmp_path, monkeypatch, capsys):
    train()
    there = tmp_path / "there.pth"
    there.touch()
    for words, message in [
        (["run", "--full", there], "there.pth exists already"),
        (["run", "--adapters", tmp_path / "a.pth"], "has no adapters: MODEL.REUSE.MODE 'frozen'"),
        (["elsewhere", "--full", tmp_path / "a.pth"], "is no run folder"),
    ]:
        assert convert(monkeypatch, tmp_path / words[0], *words[1:]) == 2
        assert message in capsys.readouterr().err


def test_adapters_that_cannot_be_merged(train, tmp_path, monkeypatch, capsys):
    train(*ADAPTERS, "MODEL.ADAPTERS.NORM", "own", "MODEL.REUSE.NORM", "GN")
    assert convert(monkeypatch, tmp_path / "run", "--full", tmp_path / "a.pth") == 2
    assert "its GroupNorm depends on the image; --adapters" in capsys.readouterr().err
    assert not (tmp_path / "a.pth").exists()
