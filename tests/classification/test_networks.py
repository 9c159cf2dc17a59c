"""Networks, scopes and first weights."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from det_transfer.classification.architecture import Architecture, Reading, grow
from det_transfer.classification.checkpoint import _LAYERS
from det_transfer.classification.classifier import ImageClassifier
from det_transfer.classification.growth import copy_units, fill_new
from det_transfer.classification.scopes import apply_scope
from det_transfer.errors import UserError

SMALL = Architecture.plain("compact_alexnet", {"width": 4, "stride": 2}, 192, (24, 16))


def filled(net, seed=0):
    torch.manual_seed(seed)
    model = ImageClassifier(net)
    fill_new(model, [name for name, _ in model.named_parameters()], seed)
    return model


def grown(kind="recursive", sizes=(6, 8), **options):
    """A network with a source task, then grown for a target."""
    model = filled(SMALL.with_task("source", 3))
    net = grow(model.architecture, kind, sizes, joined=Reading(True), **options)
    model.new = set(model.rewire(net.with_task("target", 5)))
    fill_new(model, sorted(model.new), 1)
    model.training_tasks = ("target",)
    return model


def batch(model, count=4, side=32):
    torch.manual_seed(5)
    tasks = list(model.classifiers)
    return [
        {"image": 255 * torch.rand(3, side, side), "task": tasks[k % len(tasks)], "label": k % 3}
        for k in range(count)
    ]


@pytest.mark.parametrize(("network", "side"), [("alexnet", 6), ("vgg16", 7)])
def test_names_and_shapes_are_torchvisions(network, side):
    """Every tensor of torchvision's, by the table by which its weights are loaded."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, network)().state_dict()
        width = 256 * 36 if network == "alexnet" else 512 * 49
        net = Architecture.plain(network, {}, width, (4096, 4096)).with_task("imagenet", 1000)
        ours = ImageClassifier(net).state_dict()
    renamed = {}
    for name, tensor in theirs.items():
        target = f"backbone.{name}"
        for prefix, layer in _LAYERS[network].items():
            if name.startswith(prefix):
                owner = f"layers.{layer}" if layer else "classifiers.imagenet"
                below = {"FC6": "pool5", "FC7": "FC6", "": "FC7"}[layer]
                kind = name.removeprefix(prefix)
                target = f"{owner}.{f'weights.{below}' if kind == 'weight' else kind}"
        renamed[target] = tuple(tensor.shape)
    assert renamed == {name: tuple(tensor.shape) for name, tensor in ours.items()}


def test_alexnet_computes_what_torchvisions_does():
    torch.manual_seed(0)
    theirs = torchvision.models.AlexNet(num_classes=7).eval()
    net = Architecture.plain("alexnet", {}, 9216, (4096, 4096)).with_task("t", 7)
    with torch.device("meta"):
        ours = ImageClassifier(net, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3).eval()
    state = theirs.state_dict()
    renamed = {f"backbone.{k}": v for k, v in state.items() if k.startswith("features")}
    for prefix, owner, below in [
        ("classifier.1", "layers.FC6", "pool5"),
        ("classifier.4", "layers.FC7", "FC6"),
        ("classifier.6", "classifiers.t", "FC7"),
    ]:
        renamed[f"{owner}.weights.{below}"] = state[f"{prefix}.weight"]
        renamed[f"{owner}.bias"] = state[f"{prefix}.bias"]
    ours.load_state_dict(renamed, assign=True)
    ours.pixel_mean, ours.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    images = torch.randn(2, 3, 100, 120)  # any size, by the pooling
    found = ours([{"image": image, "task": "t"} for image in images])
    torch.testing.assert_close(torch.stack([f["logits"] for f in found]), theirs(images))


def test_wwa_against_a_naive_version():
    """pool5 -> FC6, FC6+; FC6 -> FC7; (FC6, FC6+) -> FC7+; normalised, scaled -> classifier."""
    model = grown().eval()
    given = batch(model)
    images = torch.stack([s["image"] for s in given])
    images = (images - model.pixel_mean) / model.pixel_std
    weights = {k: v.detach() for k, v in model.state_dict().items()}

    def full(name, x, below):
        matrix = torch.cat([weights[f"layers.{name}.weights.{b}"] for b in below], 1)
        return F.relu(x @ matrix.T + weights[f"layers.{name}.bias"])

    pool5 = model.backbone(images)
    fc6, fc6p = full("FC6", pool5, ["pool5"]), full("FC6+", pool5, ["pool5"])
    fc7 = full("FC7", fc6, ["FC6"])
    fc7p = full("FC7+", torch.cat([fc6, fc6p], 1), ["FC6", "FC6+"])
    both = torch.cat(
        [fc7 / fc7.norm(dim=1, keepdim=True), fc7p / fc7p.norm(dim=1, keepdim=True)], 1
    )
    target = torch.cat([weights[f"classifiers.target.weights.{b}"] for b in ("FC7", "FC7+")], 1)
    expected = (20 * both) @ target.T + weights["classifiers.target.bias"]
    source = fc7 @ weights["classifiers.source.weights.FC7"].T + weights["classifiers.source.bias"]
    found = model(given)
    for k, sample in enumerate(given):
        wanted = expected[k] if sample["task"] == "target" else source[k]
        torch.testing.assert_close(found[k]["logits"], wanted, atol=1e-5, rtol=1e-5)


def test_losses_are_those_of_each_task_weighted_by_its_images():
    model = grown().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # else it would be random
    given = batch(model, 5)
    losses = model(given)
    assert losses.keys() == {"loss_source", "loss_target"}
    found = model.eval()(given)
    each = [
        F.cross_entropy(f["logits"], torch.tensor(s["label"]))
        for f, s in zip(found, given, strict=True)
    ]
    torch.testing.assert_close(sum(losses.values()), torch.stack(each).mean())


ALL = {"conv", "FC6", "FC6+", "FC7", "FC7+", "target"}
SCOPES = {
    "Classifier": {"target"},
    "New": {"FC6+", "FC7+", "target"},
    "FC8-New": {"FC6+", "FC7+", "target"},
    "Grown": {"FC6+", "FC7+", "target"},
    "FC7-New": {"FC6+", "FC7", "FC7+", "target"},
    "FC6-New": ALL - {"conv"},
    "conv4-New": ALL,
    "All": ALL,
}


def group(name):
    table, owner = name.split(".")[:2]
    return "conv" if table == "backbone" else owner


@pytest.mark.parametrize("scope", SCOPES)
def test_scopes(scope):
    model = grown()
    apply_scope(model, scope)
    trained = {group(n) for n, p in model.named_parameters() if p.requires_grad}
    assert trained == SCOPES[scope]
    convs = [n for n, p in model.backbone.named_parameters() if p.requires_grad]
    assert len(convs) == {"All": 10, "conv4-New": 4}.get(scope, 0)


@pytest.mark.parametrize(("dropout", "alive"), [("off", False), ("kept", True)])
def test_dropout_of_what_is_frozen(dropout, alive):
    model = grown()
    apply_scope(model, "New", dropout=dropout)
    model.train()
    assert model.layers["FC7"].drop["FC6"].training is alive
    assert model.layers["FC7+"].drop["FC6"].training


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ("FC9-New", r"no layer FC9.*conv1, .*FC7\+"),
        ("all", r"is 'all'; it can be Classifier, New"),
    ],
)
def test_no_such_scope(scope, words):
    with pytest.raises(UserError, match=words):
        apply_scope(grown(), scope)


def test_parameters_that_are_new():
    model = grown("widen", [8])
    assert model.new == {
        "layers.FC7+.weights.FC6",
        "layers.FC7+.bias",
        *(
            f"classifiers.target.{kind}.{b}"
            for kind in ("weights", "scales")
            for b in ("FC7", "FC7+")
        ),
        "classifiers.target.bias",
    }


def test_copied_units():
    model = grown("recursive", (30, 8))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copy_units(model, 0.0, seed=2)
    old, new = (model.layers[n].weights["pool5"].detach() for n in ("FC6", "FC6+"))
    same = (old[None] == new[:, None]).all(dim=2)
    assert same.any(dim=1).all()  # each new unit is one of the old
    assert (same.sum(dim=0) >= 1).all()  # of 30, each of 24 at least once
    assert same.sum() == 30
    assert torch.equal(model.layers["FC7+"].weights["FC6+"], before["layers.FC7+.weights.FC6+"])
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items() if k not in model.new
    )
    copy_units(model, 0.1, seed=2)
    moved = new - old[same.float().argmax(dim=1)]
    assert moved.std().item() == pytest.approx(0.1 * old.std().item(), rel=0.1)


def test_a_deepened_copy_passes_units_on():
    model = grown("deepen", [16], deep="output")
    copy_units(model, 0.0, seed=2)
    activations = model.eval().activations(batch(model))
    assert torch.equal(activations["FCa"].sort(1).values, activations["FC7"].sort(1).values)


def test_timm_through_its_head():
    net = Architecture.plain("timm", {"name": "resnet10t"}, 512, ())
    model = ImageClassifier(net.with_task("t", 4))
    assert list(model.named_layers()) == [f"stage{k}" for k in range(1, 6)]
    assert model.backbone.timm_name == "resnet10t"
    apply_scope(model, "stage5-New")
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    with pytest.raises(UserError, match="'resnet10x' is not a model of timm"):
        ImageClassifier(Architecture.plain("timm", {"name": "resnet10x"}, 512, ()))


def test_images_of_two_sizes_are_said():
    model = grown()
    given = [*batch(model, 1), *batch(model, 1, side=40)]
    with pytest.raises(UserError, match=r"differ in size \(32 x 32 and 40 x 40\).*INPUT.VIEW.CROP"):
        model(given)
