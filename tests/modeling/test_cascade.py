"""The cascade: Detectron2's where nothing is chosen, the authors' where it is."""

import pytest
import torch
from detectron2.structures import pairwise_iou
from small_detector import batch, build, gradients, losses

from det_transfer.errors import UserError
from det_transfer.modeling.roi_heads.cascade import ENSEMBLES, TransferCascadeROIHeads

MASKS = {"MODEL__MASK_ON": True}
HEAD = "MODEL__ROI_BOX_CASCADE_HEAD__"


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_with_defaults_it_is_detectron2s_to_the_last_bit(masks):
    options = {"MODEL__MASK_ON": masks}
    ours = build(**options)
    stock = build(MODEL__ROI_HEADS__NAME="CascadeROIHeads", **options)
    stock.load_state_dict(ours.state_dict())  # strict: the same names
    samples = batch(**options)
    a, b = losses(ours, samples), losses(stock, samples)
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = gradients(ours, samples), gradients(stock, samples)
    assert all(torch.equal(a[name], b[name]) for name in b)
    with torch.no_grad():
        found, expected = ours.eval()(samples), stock.eval()(samples)
    for one, other in zip(found, expected, strict=True):
        one, other = one["instances"], other["instances"]
        assert len(other)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert one.has("pred_masks") == other.has("pred_masks") == masks


def test_averaged_losses_teach_the_heads_a_third_and_the_features_alike():
    summed, averaged = build(), build(**{HEAD + "LOSS": "mean"})
    averaged.load_state_dict(summed.state_dict())
    samples = batch()
    a, b = losses(summed, samples), losses(averaged, samples)
    of_stages = [name for name in a if "_stage" in name]
    assert len(of_stages) == 6
    for name in a:
        expected = a[name] / 3 if name in of_stages else a[name]
        torch.testing.assert_close(b[name], expected)
    a, b = gradients(summed, samples), gradients(averaged, samples)
    for name in a:
        in_stages = name.startswith(("roi_heads.box_head", "roi_heads.box_predictor"))
        torch.testing.assert_close(
            b[name], a[name] / 3 if in_stages else a[name], rtol=1e-4, atol=1e-7, msg=name
        )


def stages_of(model, samples):
    with torch.no_grad():
        images = model.preprocess_image(samples)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        return model.roi_heads._cascade(features, proposals, None)


def test_ensembles_against_their_formulas():
    model = build().eval()
    for predictor in model.roi_heads.box_predictor:  # stages that disagree
        torch.nn.init.normal_(predictor.cls_score.weight)
    stages = stages_of(model, batch())
    counts = [len(image) for image in stages[0].proposals]
    logits = torch.stack([stage.predictions[0] for stage in stages])
    by_logits = torch.cat(ENSEMBLES["logits"](stages))
    by_probabilities = torch.cat(ENSEMBLES["probabilities"](stages))
    torch.testing.assert_close(by_logits, logits.mean(dim=0).softmax(dim=1))
    torch.testing.assert_close(by_probabilities, logits.softmax(dim=2).mean(dim=0))
    assert (by_logits - by_probabilities).abs().max() > 0.05
    assert [len(scores) for scores in ENSEMBLES["logits"](stages)] == counts


@pytest.mark.parametrize("sigmoid", [False, True])
def test_logits_are_what_is_detected_by(sigmoid):
    options = {HEAD + "ENSEMBLE": "logits", "MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": sigmoid}
    model = build(**options).eval()
    for predictor in model.roi_heads.box_predictor:
        torch.nn.init.normal_(predictor.cls_score.weight)
    samples = batch()
    scores = [scores[:, :-1].flatten() for scores in ENSEMBLES["logits"](stages_of(model, samples))]
    with torch.no_grad():
        outputs = model(samples)
    for output, possible in zip(outputs, scores, strict=True):
        assert len(output["instances"])
        for score in output["instances"].scores:
            assert (possible - score).abs().min() < 1e-6


def test_masks_on_the_foreground_of_the_last_stage(monkeypatch):
    model = build(**MASKS, **{HEAD + "MASK_PROPOSALS": "last", HEAD + "IOUS": "(0.5, 0.55, 0.6)"})
    samples = batch(**MASKS)
    # As after training: stages that leave the ground truth, which is among the proposals, alone.
    for predictor in model.roi_heads.box_predictor:
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
    given = {}
    monkeypatch.setattr(
        model.roi_heads.mask_head,
        "forward",
        lambda x, instances: given.update(instances=instances) or {},
    )
    losses(model, samples)
    limit = 512 * 0.25
    for sample, image in zip(samples, given["instances"], strict=True):
        truth = sample["instances"]
        assert 0 < len(image) <= limit
        overlaps = pairwise_iou(truth.gt_boxes, image.proposal_boxes)
        best, matched = overlaps.max(dim=0)
        assert (best >= 0.6).all()
        assert torch.equal(image.gt_classes, truth.gt_classes[matched])
        expected = truth.gt_masks[matched]
        assert [p[0].tolist() for p in image.gt_masks.polygons] == [
            p[0].tolist() for p in expected.polygons
        ]


def test_masks_of_the_last_stage_train_where_an_image_has_no_object():
    model = build(**MASKS, **{HEAD + "MASK_PROPOSALS": "last"})
    samples = batch(**MASKS)
    samples[0]["instances"] = samples[0]["instances"][:0]
    found = losses(model, samples)
    assert torch.isfinite(sum(found.values()))
    for sample in samples:
        sample["instances"] = sample["instances"][:0]
    found = losses(model, samples)
    assert torch.isfinite(sum(found.values()))
    sum(found.values()).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({HEAD + "IOUS": "(0.5, 0.7, 0.6)"}, r"IOUS \(0.5, 0.7, 0.6\) must increase"),
        (
            {HEAD + "IOUS": "(0.6, 0.7, 0.8)"},
            r"must begin as MODEL.ROI_HEADS.IOU_THRESHOLDS \[0.5\].*set that to \[0.6\]",
        ),
        ({HEAD + "IOUS": "(0.5, 0.7)"}, "are 2 stages, .*BBOX_REG_WEIGHTS are for 3; give four"),
        ({"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False}, "CLS_AGNOSTIC.*set it to True"),
        ({HEAD + "LOSS": "avg"}, "LOSS is 'avg'; it can be 'sum' or 'mean'"),
        (
            {HEAD + "LOSS": "mean", "MODEL__ROI_HEADS__NAME": "CascadeROIHeads"},
            "LOSS 'mean' needs MODEL.ROI_HEADS.NAME TransferCascadeROIHeads",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"loss": "avg"}, "LOSS is 'avg'; it can be 'sum' or 'mean'"),
        ({"ensemble": "x"}, "ENSEMBLE is 'x'; it can be 'probabilities' or 'logits'"),
        ({"mask_proposals": "Last"}, "MASK_PROPOSALS is 'Last'; it can be 'first' or 'last'"),
    ],
)
def test_mistakes_in_python_are_said_too(option, message):
    made = build().roi_heads
    parts = {
        "box_in_features": made.box_in_features,
        "box_pooler": made.box_pooler,
        "box_heads": list(made.box_head),
        "box_predictors": list(made.box_predictor),
        "proposal_matchers": made.proposal_matchers,
        "num_classes": 5,
        "batch_size_per_image": 64,
        "positive_fraction": 0.25,
    }
    assert TransferCascadeROIHeads(**parts, loss="mean").loss == "mean"
    with pytest.raises(UserError, match=message):
        TransferCascadeROIHeads(**parts, **option)


def test_thresholds_of_the_copy_paste_recipe():
    options = {HEAD + "IOUS": "(0.6, 0.7, 0.8)", "MODEL__ROI_HEADS__IOU_THRESHOLDS": [0.6]}
    model = build(**options)
    assert [m.thresholds[1] for m in model.roi_heads.proposal_matchers] == [0.6, 0.7, 0.8]
