"""The class-balanced loss: weights by hand, and losses against a plain computation."""

import math

import pytest
import torch
from small_detector import batch, build, gradients, losses

from det_transfer.errors import UserError
from det_transfer.modeling.roi_heads import balance_classes, class_weights


def test_weights_worked_out_by_hand():
    # beta 0.9: effective numbers of 1, 2 and 10 objects are 1, 1.9 and 6.513...
    inverse = [1.0, 1 / 1.9, 0.1 / (1 - 0.9**10), 0.1]
    mean = sum(inverse[:3]) / 3
    expected = torch.tensor(inverse) / mean
    assert torch.allclose(class_weights([1, 2, 10], 0.9), expected)
    assert pytest.approx(6.5132156) == (1 - 0.9**10) / 0.1


def test_the_ends_of_the_scale():
    assert class_weights([1, 50, 9000], 0.0).tolist() == [1, 1, 1, 1]
    # As beta goes to 1, the inverse of the number.
    weights = class_weights([10, 20, 40], 1 - 1e-9)
    assert torch.allclose(weights[0] / weights[1:3], torch.tensor([2.0, 4.0]), rtol=1e-4)
    # The background is a class of very many objects.
    weights = class_weights([1, 10**9], 0.99)
    assert weights[1] == pytest.approx(weights[2].item())


def test_classes_without_objects_change_no_weight_of_the_others():
    """They weigh as one of a single object, and are not in the mean."""
    some, more = class_weights([1, 20, 300], 0.99), class_weights([1, 0, 20, 0, 300], 0.99)
    assert torch.equal(more[[0, 2, 4, 5]], some)
    assert torch.equal(more[[1, 3]], some[[0, 0]])
    assert class_weights([5, 0, 0], 0.9)[0] == 1
    with pytest.raises(UserError, match=r"CLASS_BALANCE_BETA 0.9: .* no object"):
        class_weights([0, 0], 0.9)


def test_a_weight_for_the_background():
    counts = [1, 20, 300]
    assert class_weights(counts, 0.99, 1.0)[-1] == 1
    assert class_weights(counts, 0.99, 0.25)[-1] == 0.25
    assert torch.equal(class_weights(counts, 0.99, 0.25)[:-1], class_weights(counts, 0.99)[:-1])
    assert class_weights(counts, 0.99)[-1] < 0.1  # a class of one object weighs many times that
    model = build(MODEL__ROI_HEADS__NAME="StandardROIHeads")
    balance_classes(model, [1, 2, 3, 4, 5], 0.9, 0.5)
    assert model.roi_heads.box_predictor._class_weights[-1] == 0.5


@pytest.mark.parametrize("cascade", ["TransferCascadeROIHeads", "StandardROIHeads"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_with_beta_0_it_is_detectron2s(cascade, sigmoid):
    options = {"MODEL__ROI_HEADS__NAME": cascade, "MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE": sigmoid}
    samples = batch()
    model = build(**options)
    before, expected = gradients(model, samples), losses(model, samples)
    balance_classes(model, [3, 1, 4, 1, 5], beta=0.0)
    after, found = gradients(model, samples), losses(model, samples)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5), name
    for name, value in before.items():
        assert torch.allclose(after[name], value, rtol=1e-3, atol=1e-7), name


def naive_loss(logits, classes, counts, beta, sigmoid):
    """Region by region, weights and all, as the paper and its code say it."""
    having = [n for n in counts if n]
    mean = sum((1 - beta) / (1 - beta**n) for n in having) / len(having)
    total = 0.0
    for row, label in zip(logits.tolist(), classes.tolist(), strict=True):
        if sigmoid:
            loss = sum(math.log1p(math.exp(-x if k == label else x)) for k, x in enumerate(row[:5]))
        else:
            loss = math.log(sum(math.exp(x) for x in row)) - row[label]
        number = counts[label] if label < len(counts) else math.inf
        total += (1 - beta) / (1 - beta**number) / mean * loss
    return total / len(classes)


@pytest.mark.parametrize("labels", [range(6), [0, 5], [0], [5]])  # 0 is rare, 5 the background
@pytest.mark.parametrize("sigmoid", [False, True])
def test_the_loss_is_the_weighted_sum_over_the_number_of_regions(sigmoid, labels):
    """Whatever is in the batch: the weights of one class alone are not divided away."""
    model = build(
        MODEL__ROI_HEADS__NAME="StandardROIHeads", MODEL__ROI_BOX_HEAD__USE_SIGMOID_CE=sigmoid
    )
    counts = [1, 3, 0, 100, 1000]
    balance_classes(model, counts, beta=0.99)
    loss = model.roi_heads.box_predictor._balanced_loss
    torch.manual_seed(3)
    labels = torch.tensor([label for label in labels if label != 2])
    logits, classes = torch.randn(40, 6), labels[torch.randint(len(labels), (40,))]
    expected = naive_loss(logits, classes, counts, 0.99, sigmoid)
    assert loss(logits, classes).item() == pytest.approx(expected, rel=1e-5)
    assert loss(logits[:0], classes[:0]).item() == 0


def test_the_federated_loss_looks_at_the_classes_that_detectron2_chooses():
    model = build(MODEL__ROI_HEADS__NAME="StandardROIHeads")
    predictor = model.roi_heads.box_predictor
    predictor.use_sigmoid_ce = predictor.use_fed_loss = True
    predictor.fed_loss_num_classes = 3
    predictor.register_buffer("fed_loss_cls_weights", torch.tensor([1.0, 2, 3, 4, 5]))
    torch.manual_seed(3)
    logits, classes = torch.randn(30, 6), torch.tensor([0, 5, 5] * 10)
    torch.manual_seed(8)
    expected = predictor.sigmoid_cross_entropy_loss(logits, classes)
    balance_classes(model, [1, 2, 3, 4, 5], beta=0.0)
    torch.manual_seed(8)
    assert torch.allclose(predictor._balanced_loss(logits, classes), expected)


def test_no_class_is_looked_at_twice_where_too_few_have_images():
    model = build(MODEL__ROI_HEADS__NAME="StandardROIHeads")
    predictor = model.roi_heads.box_predictor
    predictor.use_sigmoid_ce = predictor.use_fed_loss = True
    predictor.fed_loss_num_classes = 5
    predictor.register_buffer("fed_loss_cls_weights", torch.tensor([2.0, 0, 0, 0, 1]))
    torch.manual_seed(3)
    logits, classes = torch.randn(30, 6), torch.tensor([4, 5, 5] * 10)
    balance_classes(model, [2, 0, 0, 0, 1], beta=0.0)
    for seed in range(20):  # Detectron2 marks classes, where one drawn twice counts once
        torch.manual_seed(seed)
        expected = predictor.sigmoid_cross_entropy_loss(logits, classes)
        torch.manual_seed(seed)
        assert torch.allclose(predictor._balanced_loss(logits, classes), expected)


def test_saved_weights_and_inference_stay_as_they_are():
    model, samples = build(), batch()
    model.eval()
    with torch.no_grad():
        before = model(samples)[0]["instances"]
    keys = list(model.state_dict())
    balance_classes(model, [1, 2, 3, 4, 5], beta=0.9)
    with torch.no_grad():
        after = model(samples)[0]["instances"]
    assert list(model.state_dict()) == keys
    assert torch.equal(before.scores, after.scores)


def test_counts_of_other_classes_are_refused():
    with pytest.raises(UserError, match=r"CLASS_BALANCE_BETA 0.9: .*3 counts for 5 classes; set "):
        balance_classes(build(), [1, 2, 3], beta=0.9)
    with pytest.raises(UserError, match=r"CLASS_BALANCE_BETA 0.9: .*no FastRCNNOutputLayers.*to 0"):
        balance_classes(torch.nn.Linear(2, 2), [1, 2], beta=0.9)
