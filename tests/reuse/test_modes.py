"""The modes of reuse: which tensors move, which stand still, for every kind of trunk."""

import pytest
import timm
import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling.backbone.timm import TimmBackbone
from det_transfer.reuse import (
    MODES,
    Mode,
    apply_mode,
    is_frozen,
    mode_of,
    stage_ends,
    train_norms,
    trunk_of,
)


def detectron2_resnet(norm="FrozenBN", freeze_at=2):
    stages = ResNet.make_default_stages(18, norm=norm)
    return ResNet(BasicStem(norm=norm), stages, out_features=["res2", "res5"], freeze_at=freeze_at)


TRUNKS = {
    "detectron2": detectron2_resnet,
    "resnet": lambda: TimmBackbone("resnet10t", ["res2", "res5"]),
    "efficientnet": lambda: TimmBackbone("efficientnet_lite0", ["res2", "res5"]),
    "regnet": lambda: TimmBackbone("regnety_002", ["res2", "res5"]),
    "convnext": lambda: TimmBackbone("convnext_atto", ["res2", "res5"]),
}


def images(n=4):
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def moved(trunk):
    """Names of the tensors that three steps of SGD change."""
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    trained = [p for p in trunk.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    trunk.train()
    for _ in range(3):
        optimizer.zero_grad()
        sum((f * f).mean() for f in trunk(images()).values()).backward()
        optimizer.step()
    after = trunk.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def tensors(trunk):
    return {name for name in trunk.state_dict() if not name.endswith("num_batches_tracked")}


# All is trained ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["finetune", "scratch"])
@pytest.mark.parametrize("kind", TRUNKS)
def test_every_tensor_is_trained(kind, mode):
    torch.manual_seed(0)
    trunk = apply_mode(TRUNKS[kind](), mode)
    moving = moved(trunk)
    assert all(p.requires_grad for p in trunk.parameters())
    # A bias before a batch norm, and a scale that is zero at the end of a branch, may stand.
    assert len(moving) > 0.9 * len(tensors(trunk))
    running = {name for name in tensors(trunk) if "running" in name}
    assert running <= moving


def test_detectron2s_own_recipe_is_another_thing():
    """What finetune undoes: two stages and all norms that stand still."""
    still = tensors(detectron2_resnet()) - moved(detectron2_resnet())
    assert any(name.startswith("stem") for name in still)
    assert any("res5" in name and "norm" in name for name in still)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "GN"])
@pytest.mark.parametrize("kind", ["detectron2", "resnet", "efficientnet"])
def test_norms_of_what_is_trained(kind, norm):
    trunk = apply_mode(TRUNKS[kind](), "finetune", norm=norm)
    classes = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "GN": nn.GroupNorm}
    found = [m for m in trunk.modules() if "Norm" in type(m).__name__]
    assert found
    assert all(isinstance(m, classes[norm]) for m in found)
    trunk(images())  # what was an activation inside the norm is one still


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
@pytest.mark.parametrize("kind", TRUNKS)
def test_what_the_norms_knew_goes_along(kind, norm):
    """In evaluation the same numbers come out, from statistics that are not the default ones."""
    torch.manual_seed(0)
    trunk = TRUNKS[kind]().eval()
    for name, tensor in trunk.state_dict().items():
        if "running_var" in name or "running_mean" in name:
            tensor.uniform_(0.5, 1.5)
    before = trunk(images())
    keys = tensors(trunk)
    train_norms(trunk, norm)
    after = trunk.eval()(images())
    assert tensors(trunk) == keys
    assert all(torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-5) for k in before)


def test_group_norm_keeps_scale_and_shift_and_the_activation():
    norm = timm.layers.BatchNormAct2d(24, act_layer=nn.SiLU)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    group = train_norms(nn.Sequential(norm), "GN")[0]
    assert torch.equal(group.weight, norm.weight)
    assert torch.equal(group.bias, norm.bias)
    assert group.num_groups == 12  # two channels each: 24 channels have no 32 groups
    x = torch.randn(2, 24, 3, 3)
    plain = nn.functional.group_norm(x, 12, norm.weight, norm.bias, norm.eps)
    assert torch.allclose(group(x), nn.functional.silu(plain), atol=1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (40, 20), (7, 1), (2, 1), (112, 28)])
def test_group_norm_takes_any_width(channels, groups):
    (group,) = train_norms(nn.Sequential(nn.BatchNorm2d(channels)), "GN")
    assert group.num_groups == groups


def test_an_unknown_norm():
    with pytest.raises(ValueError, match="'BN' or 'SyncBN' or 'GN'"):
        train_norms(nn.BatchNorm2d(2), "LN")


# Part of it is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRUNKS)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_the_first_stages_stand_and_nothing_else_does(kind, stages):
    """Against an independent meaning of "up to stage k": what the feature of stage k rests on."""
    torch.manual_seed(0)
    build = {
        "detectron2": detectron2_resnet,
        "resnet": lambda: TimmBackbone("resnet10t", ["res2", "res3", "res4", "res5"]),
    }.get(kind, TRUNKS[kind])
    trunk = build()
    if kind == "detectron2":
        trunk._out_features = ["res2", "res3", "res4", "res5"]
    elif kind != "resnet":
        trunk = TimmBackbone(trunk.timm_name, ["res2", "res3", "res4", "res5"])
    apply_mode(trunk, "finetune")
    trunk.eval()(images())[f"res{stages}"].sum().backward()
    below = {name for name, p in trunk.named_parameters() if p.grad is not None}

    trunk = build()
    apply_mode(trunk, "partial", stages=stages)
    still = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    assert below == still
    moving = moved(trunk)
    assert not moving & still
    running = {name for name in tensors(trunk) if "running" in name}
    prefixes = tuple({name.rsplit(".", 1)[0] for name in still})
    assert {n for n in running if n.startswith(prefixes)}.isdisjoint(moving)


def test_the_stem_alone():
    trunk = apply_mode(detectron2_resnet(), "partial", stages=1)
    still = {name.split(".")[0] for name, p in trunk.named_parameters() if not p.requires_grad}
    assert still == {"stem"}


def test_partial_equals_detectron2s_freeze_at():
    """Trained parameters are those of Detectron2's own FREEZE_AT, norms apart."""
    for stages in range(1, 6):
        theirs = detectron2_resnet(norm="BN", freeze_at=stages)
        ours = apply_mode(detectron2_resnet(norm="BN", freeze_at=0), "partial", stages=stages)
        trained = [
            {name for name, p in trunk.named_parameters() if p.requires_grad}
            for trunk in (theirs, ours)
        ]
        assert trained[0] == trained[1]


def test_patterns_freeze_what_they_match():
    trunk = TRUNKS["efficientnet"]()
    apply_mode(trunk, "partial", patterns=[r"net\.blocks\.[01]", r"net\.conv_stem"])
    still = {name for name, p in trunk.named_parameters() if not p.requires_grad}
    expected = ("net.blocks.0.", "net.blocks.1.", "net.conv_stem.")
    assert still == {n for n, _ in trunk.named_parameters() if n.startswith(expected)}
    assert not moved(trunk) & still


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ["net.blocks.99"]}, r"'net.blocks.99' matches no module.*net\.blocks\.\d"),
        ({"patterns": ["net.(blocks"]}, r"PATTERNS: 'net.\(blocks': "),
        ({"stages": 7}, r"STAGES is 7, but the trunk's stages are 1, 2, 3, 4, 5"),
    ],
)
def test_what_cannot_be_frozen(options, message):
    with pytest.raises(UserError, match=message):
        apply_mode(TRUNKS["efficientnet"](), "partial", **options)


def test_a_trunk_that_does_not_say_where_its_stages_end():
    with pytest.raises(UserError, match="Sequential does not say where its stages end"):
        apply_mode(nn.Sequential(nn.Conv2d(3, 4, 1)), "partial", stages=1)


def test_stages_without_a_stem_of_their_own():
    ends = stage_ends(TRUNKS["convnext"]())
    assert ends == {2: "net.stages_0", 3: "net.stages_1", 4: "net.stages_2", 5: "net.stages_3"}


# The table of modes ------------------------------------------------------------------------------


def test_modes_by_name():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5))
    assert apply_mode(trunk, "") is trunk
    assert not is_frozen(trunk)
    assert mode_of(trunk) == ""
    assert apply_mode(trunk, "frozen", dropout="kept") is trunk
    assert is_frozen(trunk)
    assert mode_of(trunk) == "frozen"
    frozen = type(trunk)
    apply_mode(trunk, "frozen", dropout="off")  # applied already: nothing changes
    assert type(trunk) is frozen
    with pytest.raises(ValueError, match="'frozen' already"):
        apply_mode(trunk, "")


def test_a_new_mode_is_a_new_entry(monkeypatch):
    seen = {}
    mode = Mode(lambda trunk, **options: seen.update(options))
    monkeypatch.setitem(MODES, "half", mode)
    apply_mode(nn.Linear(1, 1), "half", dropout="off", stages=2)
    assert seen == {"dropout": "off", "stages": 2}


def test_unknown_mode():
    with pytest.raises(UserError, match=r"MODEL.REUSE.MODE is 'freezed'.*'frozen'"):
        apply_mode(nn.Linear(1, 1), "freezed")


def test_trunk_of():
    model = nn.Module()
    assert trunk_of(model) is model
    model.backbone = nn.Module()
    assert trunk_of(model) is model.backbone
    model.backbone.bottom_up = nn.Module()
    assert trunk_of(model) is model.backbone.bottom_up
    assert trunk_of(model.backbone) is model.backbone.bottom_up
