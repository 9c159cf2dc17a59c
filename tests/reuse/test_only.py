"""Some modules go on learning and all others stand still, whatever was frozen before."""

import pytest
import torch
from torch import nn

from det_transfer.errors import UserError
from det_transfer.reuse import apply_mode, frozen_tensors, train_only


class Detector(nn.Module):
    """A model whose head behaves as Detectron2's: in training it gives losses."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
            *(nn.Dropout(0.5), nn.Conv2d(4, 4, 3, padding=1)),
        )
        self.head = nn.Sequential(
            *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
        )
        self.head.add_module("score", nn.Conv2d(4, 2, 1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        result = self.head(self.backbone(x))
        if not (self.training and self.head.training):
            return result
        self.seen += 1
        return result.square().mean()


@pytest.mark.parametrize("mode", ["", "frozen", "adapters", "finetune"])
def test_after_steps_only_the_named_have_changed(mode):
    torch.manual_seed(0)
    model = Detector()
    if mode:
        apply_mode(model.backbone, mode, adapters={"patterns": ["0", "3"]})
    train_only(model, [r"head\.score"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        model.train()
        optimizer.zero_grad()
        model(torch.randn(2, 3, 9, 9)).backward()
        optimizer.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.score.weight", "head.score.bias", "seen"}
    assert frozen_tensors(model).keys() == before.keys() - changed
    # Dropout inside is off, and the model itself follows the mode.
    model.train()
    assert model.training
    assert model.head.training
    assert not model.backbone[2].training
    model.eval()
    assert not any(module.training for module in model.modules())


def test_what_is_named_may_lie_inside_what_a_mode_froze():
    model = Detector()
    apply_mode(model.backbone, "frozen")
    train_only(model, [r"backbone\.1", r"head\.score"])
    model.train()
    assert model.backbone[1].training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"{module}.{name}" for module in ("backbone.1", "head.score") for name in ("weight", "bias")
    }


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(UserError, match=r"TRAIN_ONLY: 'head\.scor' matches no module of the model"):
        train_only(Detector(), [r"head.scor"])


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match=r"nothing can be trained in backbone\.2; name modules"):
        train_only(Detector(), [r"backbone\.2"])
