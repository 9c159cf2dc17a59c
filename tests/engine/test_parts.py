"""Learning rates and weight decay by part, against the groups that Detectron2 makes."""

import pytest
import torch

from det_transfer.engine.detection import DetectionTrainer, prepare
from det_transfer.engine.optimizer import build_optimizer
from det_transfer.engine.parts import set_parts
from det_transfer.engine.setup import setup
from det_transfer.errors import UserError
from det_transfer.reuse import adapter_tensors


@pytest.fixture
def made(arguments):
    def make(*opts):
        cfg = setup(arguments(*opts), prepare)
        model = DetectionTrainer.build_model(cfg)
        optimizer = build_optimizer(cfg, model)
        names = {p: n for n, p in model.named_parameters()}
        found = {
            names[p]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups
            for p in group["params"]
        }
        return model, optimizer, found

    return make


ADAPTED = ["MODEL.REUSE.MODE", "finetune_adapters"]


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_each_part_has_its_own(made, kind):
    model, optimizer, found = made(
        *ADAPTED,
        "SOLVER.OPTIMIZER",
        kind,
        "MODEL.REUSE.LR_MULT",
        "[['trunk', 0.1], ['adapters', 2], [r'roi_heads\\..*bias', 0.5]]",
        "MODEL.REUSE.WEIGHT_DECAY",
        "[['adapters', 0.25], ['decoder', 0]]",
    )
    adapters = adapter_tensors(model)
    seen = set()
    for name, (rate, decay) in found.items():
        owner = model.get_submodule(name.rpartition(".")[0])
        if name in adapters:
            part, expected = "adapters", (0.02, 0.25)
        elif name.startswith("backbone.bottom_up."):
            part, expected = "trunk", (0.001, None)
        elif name.startswith("backbone."):
            part, expected = "decoder", (0.01, 0)
        elif name.startswith("roi_heads.") and name.endswith("bias"):
            part, expected = "biases", (0.005, 0.0001)
        else:
            part, expected = "heads", (0.01, 0.0001)
        seen.add(part)
        assert rate == pytest.approx(expected[0]), name
        if expected[1] is not None:
            assert decay == expected[1], name
        else:  # Detectron2's, which differs for norms
            assert decay == (0.0 if "Norm" in type(owner).__name__ else 0.0001), name
    assert seen == {"adapters", "trunk", "decoder", "biases", "heads"}
    assert len(found) == sum(p.requires_grad for p in model.parameters())
    assert len(optimizer.param_groups) < 10


def test_one_step_of_sgd_against_its_formula():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    set_parts(optimizer, model, lr_mult=[("trunk", 0.5)], weight_decay=[("heads", 0.2)])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model["head"](model["backbone"](torch.randn(3, 2))).sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        rate, decay = (0.05, 0.01) if name.startswith("backbone") else (0.1, 0.2)
        assert torch.allclose(p, before[name] - rate * (p.grad + decay * before[name]))


def test_without_entries_the_groups_are_left_alone():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    groups = [dict(group) for group in optimizer.param_groups]
    set_parts(optimizer, model)
    assert optimizer.param_groups == groups


def test_rates_follow_the_schedule_and_resume(train):
    opts = [*ADAPTED, "MODEL.REUSE.LR_MULT", "[['trunk', 0.1]]"]
    whole = train(*opts, output="whole")
    rates = {g["lr"] / whole.optimizer.param_groups[0]["lr"] for g in whole.optimizer.param_groups}
    assert any(rate == pytest.approx(0.1) or rate == pytest.approx(10) for rate in rates)
    train(*opts, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", output="part")
    resumed = train(*opts, output="part", resume=True)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.REUSE.LR_MULT", "[['trunk', 0.1]]"], "LR_MULT: the part 'trunk' has no parameter"),
        (["MODEL.REUSE.LR_MULT", "[['backbone.fpn_latral3.weight', 2]]"], "backbone.fpn_lateral3"),
        (["MODEL.REUSE.WEIGHT_DECAY", "[['heads', -1]]"], "each entry is [part, number >= 0]"),
        (["MODEL.REUSE.LR_MULT", "['trunk', 0.1]"], "has 'trunk'; each entry is [part, number"),
        (["MODEL.ADAPTERS.KIND", "series"], "MODEL.ADAPTERS.KIND is for modes with adapters"),
        ([*ADAPTED, "MODEL.ADAPTERS.KIND", "serial"], "it can be 'parallel' or 'series'"),
    ],
)
def test_mistakes(made, opts, message):
    with pytest.raises(UserError) as error:
        made(*opts)
    assert message in str(error.value)
