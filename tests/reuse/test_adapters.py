"""What every adapter has to hold to, on every kind of trunk, as one suite."""

import copy
import pickle

import pytest
import torch
from torch import nn
from trunks import TRUNKS, images, trunk_of_kind

from det_transfer.errors import UserError
from det_transfer.reuse import (
    adapter_tensors,
    adapters_of,
    add_adapters,
    apply_mode,
    load_adapters,
    merge_adapters,
    save_adapters,
    without_adapters,
)
from det_transfer.reuse.adapters import base_state
from det_transfer.reuse.adapters.targets import target_layers


@torch.no_grad()  # Detectron2's FrozenBatchNorm2d takes another formula where it is differentiated
def features(trunk):
    return trunk(images())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a, b, tolerance):
    return all((a[k] - b[k]).abs().max() <= tolerance * b[k].abs().max() for k in b)


def move_adapters(trunk, scale=0.05):
    """Adapters as after a training, statistics of their norms included."""
    with torch.no_grad():
        for name, tensor in trunk.state_dict().items():
            if name in adapter_tensors(trunk) and tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
                tensor += scale * (noise.abs() if "running_var" in name else noise)


def step(trunk, n=3):
    trained = [p for p in trunk.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    trunk.train()
    for _ in range(n):
        optimizer.zero_grad()
        sum(f.pow(2).mean() for f in trunk(images()).values()).backward()
        optimizer.step()


@pytest.fixture(params=["parallel", "series"])
def kind(request):
    return request.param


@pytest.mark.parametrize("norm", ["none", "own"])
@pytest.mark.parametrize("name", TRUNKS)
class TestContract:
    def test_step_0_is_the_base_network_to_the_last_bit(self, name, kind, norm):
        trunk = trunk_of_kind(name)
        before, keys = features(trunk), list(trunk.state_dict())
        add_adapters(trunk, kind=kind, norm=norm)
        assert adapters_of(trunk)
        assert equal(features(trunk), before)
        assert [k for k in trunk.state_dict() if k not in adapter_tensors(trunk)] == keys

    def test_only_adapters_move_and_without_them_the_base_is_there(self, name, kind, norm):
        trunk = trunk_of_kind(name)
        before = features(trunk)
        state = copy.deepcopy(trunk.state_dict())
        apply_mode(trunk, "adapters", adapters={"kind": kind, "norm": norm})
        start = {k: v.clone() for k, v in trunk.state_dict().items()}
        step(trunk)
        trained = {n for n, p in trunk.named_parameters() if p.requires_grad}
        assert trained <= adapter_tensors(trunk)
        grown = {n for n in trained if not torch.equal(trunk.state_dict()[n], start[n])}
        # All but the first of two factors of which the second is still zero may move.
        assert len(grown) >= 0.5 * len(trained)
        assert all(p.grad is None for p in trunk.parameters() if not p.requires_grad)
        assert equal(base_state(trunk), state)
        trunk.eval()
        assert not equal(features(trunk), before)
        with without_adapters(trunk):
            assert equal(features(trunk), before)
        assert not equal(features(trunk), before)

    def test_save_and_load_alone(self, name, kind, norm, tmp_path):
        trunk = add_adapters(trunk_of_kind(name), kind=kind, norm=norm)
        move_adapters(trunk)
        save_adapters(trunk, tmp_path / "a.pth", kind=kind, norm=norm)
        other = load_adapters(trunk_of_kind(name), tmp_path / "a.pth")
        assert equal(features(other), features(trunk))
        assert equal(other.state_dict(), trunk.state_dict())

    def test_merged_equals_unmerged(self, name, kind, norm):
        trunk = trunk_of_kind(name)
        keys = set(trunk.state_dict())
        add_adapters(trunk.eval(), kind=kind, norm=norm)
        move_adapters(trunk)
        before, stay = features(trunk), merge_adapters(trunk)
        assert close(features(trunk), before, 1e-5)
        if norm == "own" and name == "convnext":  # LayerNorm looks at the image
            assert len(stay) == len(adapters_of(trunk)) == 6
            assert all("LayerNorm depends on the image" in reason for reason in stay.values())
            return
        assert not stay
        assert not adapters_of(trunk)
        assert set(trunk.state_dict()) - keys <= {k for k in trunk.state_dict() if "bias" in k}
        if norm == "none":
            assert set(trunk.state_dict()) == keys

    def test_copies_and_pickles(self, name, kind, norm):
        trunk = apply_mode(trunk_of_kind(name), "adapters", adapters={"kind": kind, "norm": norm})
        move_adapters(trunk)
        for other in (copy.deepcopy(trunk), pickle.loads(pickle.dumps(trunk))):
            assert equal(features(other), features(trunk))
            assert not any(
                m.training for m in other.train().modules() if not inside_adapter(other, m)
            )


def inside_adapter(trunk, module):
    return any(module in set(adapter.modules()) for adapter in adapters_of(trunk).values())


# More of each ------------------------------------------------------------------------------------


def naive_branch(kind, layer, x):
    """The formulas of the papers, written out for a plain convolution."""
    a = layer.adapter.pointwise.weight
    z = nn.functional.conv2d(x, layer.weight, None, layer.stride, layer.padding)
    if kind == "parallel":
        return z + nn.functional.conv2d(x, a, None, layer.stride)
    return z + nn.functional.conv2d(z, a)


def test_against_the_formulas(kind):
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False))
    add_adapters(block, kind=kind, patterns=["0"])
    move_adapters(block, 1.0)
    x = torch.randn(2, 4, 9, 9)
    assert torch.allclose(block(x), naive_branch(kind, block[0], x))


def test_before_the_norm_that_detectron2s_convolution_carries(kind):
    trunk = add_adapters(trunk_of_kind("detectron2"), kind=kind)
    move_adapters(trunk)
    layer = trunk.res2[0].conv2
    x = torch.randn(1, layer.in_channels, 8, 8)
    expected = layer.norm(naive_branch(kind, layer, x))
    assert layer.activation is None
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["detectron2 X", "regnet", "efficientnet", "convnext"])
def test_grouped_alike(name, kind):
    trunk = trunk_of_kind(name)
    before = features(trunk)
    add_adapters(trunk, kind=kind, grouped="alike")
    adapted = {n.rpartition(".")[0]: a for n, a in adapters_of(trunk).items()}
    groups = {trunk.get_submodule(n).groups: a.pointwise.groups for n, a in adapted.items()}
    assert all(a == b for a, b in groups.items())
    assert max(groups) > 1
    assert equal(features(trunk), before)
    move_adapters(trunk)
    moved = features(trunk)
    stay = merge_adapters(trunk)
    assert close(features(trunk), moved, 1e-5)
    # timm's tf_ networks pad a strided convolution by the size of the image.
    dynamic = kind == "parallel" and name == "efficientnet"
    assert set(stay) == {n for n in adapted if dynamic and trunk.get_submodule(n).stride != (1, 1)}
    assert bool(stay) == dynamic
    assert all("padding depends on the size" in reason for reason in stay.values())


@pytest.mark.parametrize("name", ["detectron2", "resnet", "regnet", "efficientnet"])
def test_task_norm(name, kind):
    """The copy starts where the base is, moves alone with its statistics, and merges."""
    trunk = trunk_of_kind(name)
    before = features(trunk)
    state = copy.deepcopy(trunk.state_dict())
    apply_mode(trunk, "adapters", adapters={"kind": kind, "norm": "task"})
    assert close(features(trunk.eval()), before, 1e-5)
    statistics = {
        n: t.clone() for n, t in trunk.state_dict().items() if "adapter.norm.running" in n
    }
    assert statistics
    step(trunk)
    assert all(not torch.equal(trunk.state_dict()[n], t) for n, t in statistics.items())
    assert equal(base_state(trunk), state)
    moved = features(trunk.eval())
    with without_adapters(trunk):
        assert equal(features(trunk), before)
    assert not merge_adapters(trunk)
    assert close(features(trunk), moved, 1e-5)
    assert set(trunk.state_dict()) == set(state)


def test_task_norms_of_another_form_stay():
    trunk = add_adapters(trunk_of_kind("detectron2"), norm="task", norm_type="GN")
    stay = merge_adapters(trunk)
    assert set(stay) == {
        "res2.0.conv2.norm",
        "res2.1.conv2.norm",
        "res3.0.conv2.norm",
        "res3.1.conv2.norm",
    }
    assert "has no statistics" in stay["res2.0.conv2.norm"]


def test_what_follows_is_initialised_alike():
    """A decoder built after the trunk begins the same with and without adapters."""
    drawn = []
    for mode in ["frozen", "adapters"]:
        torch.manual_seed(3)
        apply_mode(trunk_of_kind("detectron2"), mode)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_fine_tuned_with_adapters():
    trunk = apply_mode(trunk_of_kind("detectron2"), "finetune_adapters")
    start = {n: t.clone() for n, t in trunk.state_dict().items()}
    step(trunk)
    still = {n for n, t in trunk.state_dict().items() if torch.equal(t, start[n])}
    assert not still
    assert adapter_tensors(trunk)


# What is chosen ----------------------------------------------------------------------------------


def chosen(name="detectron2", **options):
    return list(target_layers(trunk_of_kind(name), **options))


def test_layers_stages_and_patterns():
    conv2 = ["res2.0.conv2", "res2.1.conv2", "res3.0.conv2", "res3.1.conv2"]
    assert chosen() == conv2
    assert chosen(stages=[3]) == conv2[2:]
    assert chosen(stages=[1]) == ["stem.conv1"]
    assert chosen(patterns=[r"res2\..*shortcut", "stem.conv1"]) == ["stem.conv1", "res2.0.shortcut"]
    assert "res3.1.conv1" in chosen(layers="pointwise")
    assert "res3.1.conv2" not in chosen(layers="pointwise")
    assert set(chosen(layers="all")) == set(chosen(layers="pointwise")) | set(conv2)


def test_gates_and_patches_are_left_out():
    names = chosen("regnet", layers="all")
    assert names
    assert not any(".se." in name for name in names)
    assert not any("stem" in n or "downsample" in n for n in chosen("convnext", grouped="alike"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patterns": ["res2.0.conv7"]},
            "'res2.0.conv7' matches no convolution of the trunk; there is res2.0.conv",
        ),
        ({"patterns": ["res2.("]}, "MODEL.ADAPTERS.PATTERNS: 'res2.(': "),
        ({"stages": [2, 5]}, "MODEL.ADAPTERS.STAGES has 5, but the trunk's stages are 1, 2, 3"),
    ],
)
def test_what_matches_nothing_is_an_error(options, message):
    with pytest.raises(UserError) as error:
        chosen(**options)
    assert message in str(error.value)


def test_no_norm_to_copy_and_no_layer_to_adapt():
    with pytest.raises(UserError, match=r"no norm follows net.stages_0.blocks.0.mlp.fc1"):
        add_adapters(trunk_of_kind("convnext"), norm="task")
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    grouped.stage_ends = lambda: {2: "0"}
    with pytest.raises(UserError, match=r"follows the grouped convolution 0; set MODEL\.ADAPTERS"):
        add_adapters(grouped)
    plain = nn.Sequential(nn.Conv2d(4, 4, 2))
    plain.stage_ends = lambda: {2: "0"}
    with pytest.raises(UserError, match=r"'spatial' .* matches no layer"):
        add_adapters(plain)
    with pytest.raises(ValueError, match="adapters already"):
        add_adapters(add_adapters(trunk_of_kind("detectron2")))


# Files -------------------------------------------------------------------------------------------


def test_files_are_small_and_belong_to_one_base(tmp_path):
    path = tmp_path / "a.pth"
    trunk = add_adapters(trunk_of_kind("detectron2 basic"))
    save_adapters(trunk, path)
    assert path.stat().st_size < 0.4 * 4 * sum(p.numel() for p in trunk.parameters())
    other = trunk_of_kind("detectron2 basic")
    with torch.no_grad():
        other.stem.conv1.weight[0, 0, 0, 0] += 1e-7
    with pytest.raises(UserError, match="belong to another base network, with fingerprint"):
        load_adapters(other, path)
    assert not adapters_of(other)


def test_files_of_other_adapters(tmp_path):
    path = tmp_path / "a.pth"
    save_adapters(add_adapters(trunk_of_kind("detectron2"), kind="series"), path)
    own = add_adapters(trunk_of_kind("detectron2"), norm="own")
    with pytest.raises(UserError, match=r"tensors of the adapters are not alike here, e.g. res2"):
        load_adapters(own, path)
    with pytest.raises(ValueError, match="no adapters to save"):
        save_adapters(trunk_of_kind("detectron2"), path)
    torch.save({"model": {"a": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match="holds no adapters"):
        load_adapters(own, path)


# What cannot be merged ---------------------------------------------------------------------------


def test_layers_that_change_their_weight_keep_their_adapter():
    from timm.layers import StdConv2d

    trunk = nn.Sequential(StdConv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=0))
    add_adapters(trunk, kind="series", patterns=["0", "1"])
    stay = merge_adapters(trunk)
    assert stay == {"0": "a StdConv2d changes its weight before it uses it"}
    assert list(adapters_of(trunk)) == ["0.adapter"]
