"""One trunk for many detectors: the same answers, computed once; what is foreign is refused."""

import copy

import pytest
import torch
from small_detector import build
from torch import nn

from det_transfer.errors import UserError
from det_transfer.modeling import SharedBackboneDetector
from det_transfer.reuse import adapters_of, trunk_of

FROZEN = {"MODEL__REUSE__MODE": "frozen"}


def detector(seed, **options):
    """Heads by seed; the trunk is that of seed 0 in all."""
    model = build(seed, **{**FROZEN, **options}).eval()
    state = trunk_of(build(0, **FROZEN)).state_dict()
    unexpected = trunk_of(model).load_state_dict(state, strict=False).unexpected_keys
    assert not unexpected
    for adapter in adapters_of(trunk_of(model)).values():  # which begin at zero
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, std=0.05)
    return model


def inputs(*sizes):
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (3, *size), generator=generator) for size in sizes]
    return [{"image": im.float(), "height": 2 * im.shape[1], "width": 100} for im in images]


def padded_alike(model, divisibility):
    """The detector alone, fed with images padded as for all tasks."""

    class Padded(type(model.backbone)):
        size_divisibility = divisibility

    model = copy.deepcopy(model)
    model.backbone.__class__ = Padded
    return model


def same(one, other):
    assert len(one) == len(other)
    for first, second in zip(one, other, strict=True):
        a, b = first["instances"], second["instances"]
        assert a.image_size == b.image_size
        assert a.get_fields().keys() == b.get_fields().keys()
        assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.pred_classes, b.pred_classes)
    assert any(len(sample["instances"]) for sample in one)


KINDS = {
    "cascade": {},
    "masks": {"MODEL__MASK_ON": True},
    "nasfpn": {
        "MODEL__DECODER__NAME": "nasfpn",
        "MODEL__NASFPN__NORM": "BN",
        "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
    },
    "retinanet": {
        "MODEL__META_ARCHITECTURE": "TransferRetinaNet",
        "MODEL__RETINANET__IN_FEATURES": ["p3", "p4", "p5", "p6"],
        "MODEL__RETINANET__NUM_CLASSES": 3,
        "MODEL__RETINANET__SCORE_THRESH_TEST": 0.0,
        "MODEL__RETINANET__NUM_CONVS": 1,
    },
    "plain": {
        "MODEL__DECODER__NAME": "",
        "MODEL__RPN__IN_FEATURES": ["res4"],
        "MODEL__ROI_HEADS__IN_FEATURES": ["res4"],
        "MODEL__ANCHOR_GENERATOR__SIZES": [[32]],
    },
    "adapters": {"MODEL__REUSE__MODE": "adapters"},
}


def test_each_task_answers_as_its_detector_does():
    alone = {name: detector(seed, **options) for seed, (name, options) in enumerate(KINDS.items())}
    shared = SharedBackboneDetector(copy.deepcopy(alone))
    samples = inputs((70, 96), (64, 50))
    answers = shared(samples)
    assert list(answers) == list(KINDS)
    for name, model in alone.items():
        # 128: NAS-FPN's, which suits the others
        with torch.no_grad():
            same(answers[name], padded_alike(model, 128)(samples))
    with torch.no_grad():  # a task alone has its own padding
        alone_again = SharedBackboneDetector({"cascade": copy.deepcopy(alone["cascade"])})
        same(alone_again(samples)["cascade"], alone["cascade"](samples))


def test_the_trunk_runs_once_and_an_adapted_one_besides():
    shared = SharedBackboneDetector(
        {"a": detector(1), "b": detector(2), "c": detector(3, **KINDS["adapters"])}
    )
    passes = []
    own = trunk_of(shared.tasks["c"].detector)
    for name, trunk in (("shared", shared.trunk), ("own", own)):
        trunk.register_forward_hook(lambda *_, name=name: passes.append(name))
    shared(inputs((64, 64)))
    assert sorted(passes) == ["own", "shared"]
    passes.clear()
    shared(inputs((64, 64)), tasks=["c"])
    assert passes == ["own"]
    # One set of weights, but for the adapters.
    here = {p.data_ptr() for p in shared.trunk.parameters()}
    foreign = {n for n, p in own.named_parameters() if p.data_ptr() not in here}
    assert foreign == {n for n, _ in own.named_parameters() if ".adapter." in n}
    count = sum(p.numel() for p in shared.trunk.parameters())
    assert sum(p.numel() for p in shared.tasks["a"].parameters()) < count


def test_tasks_come_and_go():
    shared = SharedBackboneDetector({"a": detector(1)})
    samples = inputs((64, 64))
    before = shared(samples)
    shared.add("b", detector(2))
    both = shared(samples)
    same(both["a"], before["a"])
    assert set(both) == {"a", "b"}
    shared.remove("a")
    assert set(shared(samples)) == {"b"}
    with pytest.raises(UserError, match="there is no task a; there is b"):
        shared.remove("a")
    with pytest.raises(UserError, match="task b is there already"):
        shared.add("b", detector(2))


def test_any_module_on_features_is_a_task():
    class Head(nn.Module):
        def forward(self, features):
            return features["res5"].mean(dim=(2, 3)), features.images.image_sizes

    shared = SharedBackboneDetector({"a": detector(1), "head": Head()})
    pooled, sizes = shared(inputs((64, 80)))["head"]
    assert pooled.shape == (1, shared.trunk.output_shape()["res5"].channels)
    assert sizes == [(64, 80)]


def test_the_trunk_that_gives_most_serves_all():
    more = {"MODEL__TIMM__OUT_FEATURES": ["res2", "res3", "res4", "res5"]}
    shared = SharedBackboneDetector({"a": detector(1), "b": detector(2, **more)})
    assert "res2" in shared.trunk.output_shape()
    shared(inputs((64, 64)))
    with pytest.raises(UserError, match="task b takes res2, which the shared trunk does not give"):
        SharedBackboneDetector({"a": detector(1)}).add("b", detector(2, **more))


def test_the_same_tensors_at_another_stride():
    dilated = detector(2)
    trunk = trunk_of(dilated)
    trunk._out_feature_strides = {**trunk._out_feature_strides, "res4": 8}
    with pytest.raises(UserError, match=r"task b takes res4 at a stride of 8 px, .* at 16"):
        SharedBackboneDetector({"a": detector(1)}).add("b", dilated)


def finetuned():
    model = detector(2)
    next(trunk_of(model).parameters()).data += 1
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (finetuned, r"task b: its trunk is another one, fingerprint \w{12}, not \w{12}; 1 tensors"),
        (
            lambda: detector(2, MODEL__PIXEL_MEAN=[1.0, 2.0, 3.0]),
            r"task b: its pixel_mean is \[1\.0, 2\.0, 3\.0\]",
        ),
        (lambda: detector(2, INPUT__FORMAT="RGB"), "task b takes RGB images, .* with BGR"),
    ],
    ids=["trunk", "mean", "format"],
)
def test_what_does_not_belong(make, message):
    with pytest.raises(UserError, match=message):
        SharedBackboneDetector({"a": detector(1), "b": make()})


def test_without_a_trunk_to_share():
    with pytest.raises(UserError, match="one at least must be a detector"):
        SharedBackboneDetector({"head": nn.Identity()})


def test_it_is_for_inference():
    shared = SharedBackboneDetector({"a": detector(1)})
    with pytest.raises(ValueError, match="for inference"):
        shared.train()(inputs((64, 64)))
