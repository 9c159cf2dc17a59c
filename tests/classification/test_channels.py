"""Growth of the last convolutional stage: MODEL.GROWTH.KIND channels."""

import itertools

import pytest
import torch

from det_transfer.classification.architecture import Architecture
from det_transfer.classification.classifier import Activations, ImageClassifier
from det_transfer.classification.growth import Growth, copy_units, count_parameters, fill_new
from det_transfer.classification.scopes import apply_scope
from det_transfer.classification.trunks import build_trunk
from det_transfer.errors import UserError

SMALL = Architecture.plain("compact_alexnet", {"width": 4, "stride": 2}, 192, (24, 16))
BELOW = 16  # channels of conv4: four times the width


def modern():
    """A small residual network with batch norms and no FC layer."""
    options = {"name": "test_resnet"}
    with torch.device("meta"):
        width = build_trunk("timm", options).width
    return Architecture.plain("timm", options, width, ())


def filled(net, seed=0):
    torch.manual_seed(seed)
    model = ImageClassifier(net)
    fill_new(model, [name for name, _ in model.named_parameters()], seed)
    return model.eval()


def widened(net, sizes, task="target"):
    return Growth("channels", sizes).of(net).with_task(task, 5)


def images(count=3):
    torch.manual_seed(1)
    return {"image": torch.randn(count, 3, 32, 32)}


def answers(model, task):
    return model.logits(activations(model), task)


def activations(model):
    return Activations(model, images())


def test_the_wiring_is_that_of_wwa_one_level_further_down():
    net = widened(SMALL.with_task("source", 3), (6, 10, 8))
    assert net.layers["FC6"].inputs == ("pool5",)
    assert net.layers["FC6+"].inputs == ("pool5", "pool5+")
    assert net.layers["FC7"].inputs == ("FC6",)
    assert net.layers["FC7+"].inputs == ("FC6", "FC6+")
    assert net.classifiers["target"].inputs == ("FC7", "FC7+")
    assert net.classifiers["target"].reading.normalize
    assert str(net) == "compact_alexnet: pool5 192, pool5+ 96; FC6 24, FC6+ 10; FC7 16, FC7+ 8"
    assert Architecture.from_dict(net.as_dict()) == net


def test_checkpoints_of_before_there_were_columns():
    values = SMALL.with_task("source", 3).as_dict()
    del values["columns"]
    assert Architecture.from_dict(values) == SMALL.with_task("source", 3)


@pytest.mark.parametrize(("k", "s6", "s7"), list(itertools.product((1, 5), (3, 7), (2, 9))))
def test_parameters_are_a_formula(k, s6, s7):
    """New parameters: a 3 x 3 convolution on conv4, 4 x 4 cells of it, and WWA's on top."""
    net = widened(SMALL, (k, s6, s7))
    added = k * (9 * BELOW + 1) + s6 * (192 + 16 * k + 1) + s7 * (24 + s6 + 1)
    added += 5 * (16 + s7 + 1) + (16 + s7)
    assert count_parameters(net) - count_parameters(SMALL) == added
    with torch.device("meta"):
        model = ImageClassifier(net)
    held = sum(p.numel() for p in model.parameters())
    assert held - sum(p.numel() for p in model.backbone.parameters()) == count_parameters(net)


@pytest.mark.parametrize("base", ["compact", "timm"])
def test_old_answers_stay_to_the_bit_and_it_grows_again(base):
    net = SMALL if base == "compact" else modern()
    sizes = (6, 10, 8) if base == "compact" else (6,)
    model = filled(net.with_task("source", 3))
    before = answers(model, "source").detach()
    for task, name in (("target", "pool5+"), ("another", "pool5+2")):
        grown = widened(model.architecture, sizes, task)
        new = model.rewire(grown)
        fill_new(model, new, 1)
        assert any(parameter.startswith(f"columns.{name}.") for parameter in new)
        assert torch.equal(answers(model.eval(), "source"), before)
        assert answers(model, task).shape == (3, 5)
        assert name in model.architecture.classifiers[task].inputs or base == "compact"
    first = model.architecture.layers if base == "compact" else model.architecture.classifiers
    reader = "FC6+2" if base == "compact" else "another"
    assert first[reader].inputs == ("pool5", "pool5+", "pool5+2")


def test_channels_of_a_modern_network():
    net = modern()
    grown = widened(net, (7,))
    model = filled(grown)
    conv, norm, *_ = [model.columns["pool5+"].conv, *model.columns["pool5+"].after]
    added = 7 * (conv.in_channels * 9 + 2) + 5 * (net.pool5 + 7 + 1) + (net.pool5 + 7)
    assert count_parameters(grown) == added
    assert norm.num_features == 7
    with torch.no_grad():
        plain = model.backbone.net(images()["image"])
        assert torch.allclose(activations(model)["pool5"], plain, atol=1e-6)
    # What stands beside the last stage has its cells.
    below = model.backbone.with_map(images()["image"])[1]
    last = model.backbone.net.forward_features(images()["image"])
    assert conv(below).shape[2:] == last.shape[2:]


def test_channels_of_detectron2s_resnet():
    options = {"depth": 18, "stride_in_1x1": True, "norm": "BN"}
    net = Architecture.plain("resnet", options, 512, ())
    model = filled(widened(net, (7,)))
    pool5, below = model.backbone.with_map(images()["image"])
    assert torch.equal(pool5, model.backbone.net(images()["image"])["res5"].mean(dim=(2, 3)))
    assert below.shape[1] == model.columns["pool5+"].conv.in_channels == 256
    assert answers(model, "target").shape == (3, 5)
    assert activations(model)["pool5+"].shape == (3, 7)


def test_copies_of_filters_with_noise():
    model = filled(SMALL)
    model.new = set(model.rewire(widened(SMALL, (14, 10, 8))))
    copy_units(model, 0.0, 3)
    old, new = model.backbone.last_conv(), model.columns["pool5+"].conv
    rows = [old.weight[k].flatten().tolist() for k in range(12)]
    found = [rows.index(filter_.flatten().tolist()) for filter_ in new.weight]
    assert sorted(set(found)) == list(range(12))  # each once before any comes twice
    copy_units(model, 0.1, 3)
    assert 0.05 < (new.weight - old.weight[found]).std() / old.weight.std() < 0.2
    modern_one = filled(modern())
    modern_one.new = set(modern_one.rewire(widened(modern(), (6,))))
    with pytest.raises(UserError, match="is more than one convolution"):
        copy_units(modern_one, 0.1, 3)


@pytest.mark.parametrize(
    ("network", "options", "side"),
    [
        ("compact_alexnet", {"width": 4, "stride": 2, "norm": True}, 32),  # no bias, a batch norm
        ("caffenet", {"side": 1}, 127),  # two groups
    ],
)
def test_channels_beside_every_kind_of_convolution(network, options, side):
    with torch.device("meta"):
        trunk = build_trunk(network, options)
        old = trunk.last_conv()
    grown = widened(Architecture.plain(network, options, trunk.width, ()), (5,))
    model = filled(grown)
    assert sum(p.numel() for p in model.columns["pool5+"].parameters()) == (
        5 * (9 * old.in_channels + (2 if old.bias is None else 1))
    )
    model.new = {name for name, _ in model.named_parameters() if name.startswith("columns.")}
    copy_units(model, 0.0, 3)
    with torch.no_grad():
        pool5, below = model.backbone.with_map(torch.randn(2, 3, side, side))
        assert model.columns["pool5+"](below).shape == (2, 5 * pool5.shape[1] // old.out_channels)
        of_old = model.backbone.last_conv()(below).transpose(0, 1)
        for channel in model.columns["pool5+"].conv(below).transpose(0, 1):
            assert min((channel - other).abs().max() for other in of_old) < 1e-4


def test_what_the_scopes_train():
    def trained(scope):
        model = filled(SMALL)
        model.new = set(model.rewire(widened(SMALL, (6, 10, 8))))
        apply_scope(model, scope)
        names = model.grown_modules() | {"trunk": model.backbone}
        return {n for n, m in names.items() if all(p.requires_grad for p in m.parameters())}

    assert trained("New") == {"pool5+", "FC6+", "FC7+"}
    assert trained("FC7-New") == {"pool5+", "FC6+", "FC7", "FC7+"}
    assert trained("Classifier") == set()
    assert trained("All") == {"pool5+", "FC6", "FC6+", "FC7", "FC7+", "trunk"}


def test_wrong_numbers_of_sizes():
    with pytest.raises(UserError, match=r"has 2 numbers; 'channels' .* takes 3: pool5\+, FC6\+"):
        Growth("channels", (6, 10)).of(SMALL)


def test_training_resuming_and_the_cache(train, tmp_path):
    """Grown, trained, and loaded again: strictly, with or without cached views."""
    train("DATASETS.TEST", "()", output="source")
    grow = ["MODEL.WEIGHTS", tmp_path / "source" / "model_final.pth", "MODEL.CLASSIFIER.TASK"]
    grow += ["other", "MODEL.GROWTH.KIND", "channels", "MODEL.GROWTH.SIZES", "[3, 6, 4]"]
    grow += ["MODEL.CLASSIFIER.SCOPE", "New", "INPUT.VIEW.FIXED", 1, "DATASETS.TEST", "()"]
    plain = train(*grow, output="plain").model.state_dict()
    cached = train(*grow, "MODEL.CLASSIFIER.CACHE", True, output="cached")
    assert cached.data_loader.names == ["image"]  # the map that they read is not kept
    for name, tensor in cached.model.state_dict().items():
        assert torch.allclose(tensor, plain[name], atol=1e-5), name
    again = ["MODEL.WEIGHTS", tmp_path / "plain" / "model_final.pth", *grow[2:]]
    again[again.index("other")] = "third"
    last = train(*again, "MODEL.CLASSIFIER.CACHE", True, "MODEL.GROWTH.KIND", "recursive",
                 "MODEL.GROWTH.SIZES", "[5, 5]", output="again")  # fmt: skip
    assert last.data_loader.names[:2] == ["pool5", "pool5+"]
    assert last.model.architecture.layers["FC6+2"].inputs == ("pool5", "pool5+")
    for name in ("columns.pool5+.conv.weight", "layers.FC6+.bias"):
        assert torch.equal(last.model.state_dict()[name], plain[name])
