"""Transferring layers: what is copied, what is drawn anew, what stands still."""

import numpy as np
import pytest
import torch
from torch import nn

from det_transfer import run_folder
from det_transfer.classification.building import layer_names
from det_transfer.classification.filters import FirstFilters
from det_transfer.classification.transfer import CLASSIFIER, TREATMENTS, cut
from det_transfer.config import load_config, validate
from det_transfer.errors import UserError
from det_transfer.reuse import frozen_tensors

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "FC6", "FC7", "classifier"]
ALL = len(LAYERS)
SHORT = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()"]
FROZEN = ["MODEL.TRANSFER.FROZEN", True, "MODEL.REUSE.DROPOUT", "kept"]


def up_to(n, *more):
    return ["MODEL.TRANSFER.UP_TO", n, *more]


@pytest.fixture
def base(train, tmp_path):
    """A base's trainer, and the options that take its weights."""
    trainer = train(*up_to(0), output="base")
    return trainer, ["MODEL.WEIGHTS", tmp_path / "base" / "model_final.pth"]


def layer_states(model):
    """Layer -> its tensors, copied."""
    return {
        name: [t.clone() for m in modules for t in m.state_dict().values()]
        for name, modules in cut(model).items()
    }


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def network(trainer):
    return trainer.checkpointer.model


def test_the_layers_of_a_network_in_order(build):
    model = network(build(*up_to(0)))
    assert list(cut(model)) == LAYERS
    merged = cut(model, ["conv2", "FC6"])
    assert list(merged) == ["conv2", "FC6", CLASSIFIER]
    parts = [m for modules in merged.values() for m in modules]
    assert parts == [m for modules in cut(model).values() for m in modules]
    assert layer_names(load_config(None).cfg) == LAYERS


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_copied_layers_are_the_sources_and_the_rest_is_drawn_anew(build, base, n, extra):
    trainer, weights = base
    source, begun = layer_states(network(trainer)), layer_states(network(build(*up_to(0))))
    made = network(build(*weights, *up_to(n, *FROZEN, "MODEL.TRANSFER.EXTRA", extra), output="b"))
    states = layer_states(made)
    assert all(equal(states[name], source[name]) for name in LAYERS[: n + extra])
    for name in LAYERS[n + extra :]:
        weight = max(range(len(states[name])), key=lambda k: states[name][k].dim())
        assert not torch.equal(states[name][weight], source[name][weight])
        # nor does it begin as the base of the same seed has begun
        assert not torch.equal(states[name][weight], begun[name][weight])
    again = layer_states(network(build(*weights, *up_to(n, *FROZEN), output="c")))
    assert all(equal(again[name], states[name]) for name in LAYERS[n + extra :])
    other = network(build(*weights, *up_to(n, *FROZEN), "SEED", 4, output="d"))
    assert not equal(layer_states(other)[CLASSIFIER], states[CLASSIFIER])


def test_frozen_layers_stand_still_to_the_bit_and_keep_their_dropout(build, base):
    _, weights = base
    trainer = build(*weights, *up_to(7, *FROZEN), *SHORT, output="frozen")
    model = network(trainer)
    before = layer_states(model)
    assert sorted(frozen_tensors(model)) == sorted(
        name for name in model.state_dict() if not name.startswith("classifiers.")
    )
    in_optimizer = {p for group in trainer.optimizer.param_groups for p in group["params"]}
    assert in_optimizer == set(model.classifiers.parameters())  # neither a rate nor a decay
    model.train()
    assert all(m.training for m in model.modules() if isinstance(m, nn.Dropout))
    trainer.train()
    after = layer_states(model)
    assert [name for name in LAYERS if not equal(before[name], after[name])] == [CLASSIFIER]


def test_with_extra_what_is_copied_above_is_trained(build, base):
    _, weights = base
    options = up_to(2, *FROZEN, "MODEL.TRANSFER.EXTRA", 1)
    trainer = build(*weights, *options, *SHORT, output="extra")
    before = layer_states(network(trainer))
    trainer.train()
    after = layer_states(network(trainer))
    assert [name for name in LAYERS if equal(before[name], after[name])] == LAYERS[:2]


def test_fine_tuned_layers_are_all_trained_at_one_rate(build, base):
    _, weights = base
    trainer = build(*weights, *up_to(5), *SHORT, output="tuned")
    assert len({group["lr"] for group in trainer.optimizer.param_groups}) == 1
    before = layer_states(network(trainer))
    trainer.train()
    after = layer_states(network(trainer))
    assert not any(equal(before[name], after[name]) for name in LAYERS)


def test_all_layers_frozen_are_the_base_to_the_bit(train, base, tmp_path):
    """BnB at n = L."""
    _, weights = base
    train(*weights, *up_to(ALL, *FROZEN), output="BnB")
    record = run_folder.read_json(tmp_path / "BnB" / "run.json")
    assert (record["status"], record["frozen"]["verdict"]) == ("finished", "unchanged")
    parts = [
        dict(np.load(run_folder.eval_folder(tmp_path / run, "test") / "predictions/part-0.npz"))
        for run in ("base", "BnB")
    ]
    assert parts[0].keys() == parts[1].keys()
    for name in parts[0]:
        np.testing.assert_array_equal(parts[0][name], parts[1][name])
    accuracy = [run_folder.read_json(tmp_path / r / "run.json")["results"] for r in ("base", "BnB")]
    assert accuracy[0] == accuracy[1]


def test_random_layers_stay_random(train, build, tmp_path):
    trainer = build(*up_to(3, *FROZEN), *SHORT, output="random")
    before = layer_states(network(trainer))
    trainer.train()
    after = layer_states(network(trainer))
    assert [name for name in LAYERS if equal(before[name], after[name])] == LAYERS[:3]


def test_a_base_keeps_its_first_filters(build, base, tmp_path):
    trainer, _ = base
    with np.load(run_folder.filters_file(tmp_path / "base")) as found:
        initial, trained = found["initial"], found["trained"]
    weights = network(trainer).backbone.features[0].weight
    np.testing.assert_array_equal(trained, weights.detach().numpy())
    fresh = network(build(*up_to(0), output="other")).backbone.features[0].weight
    np.testing.assert_array_equal(initial, fresh.detach().numpy())
    assert initial.dtype == trained.dtype == np.float32
    assert not np.array_equal(initial, trained)


def test_what_breaks_before_training_is_not_hidden_by_the_filters(base, tmp_path):
    """Detectron2 ends hooks that have not begun, too."""
    hook = FirstFilters(network(base[0]).backbone, tmp_path / "never")
    hook.after_train()
    assert not (tmp_path / "never").exists()


def test_five_and_five_iterations_are_ten(build, train, base, monkeypatch):
    """A transfer that is broken off goes on as it was."""
    _, weights = base
    long = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 3]
    options = [*weights, *up_to(3, *FROZEN), *long]
    whole = network(train(*options, output="whole")).state_dict()
    broken = build(*options, output="broken")
    step = type(broken).after_step

    def stop(self):
        step(self)
        if self.iter == 4:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(type(broken), "after_step", stop)
        with pytest.raises(RuntimeError):
            broken.train()
    resumed = train(*options, output="broken", resume=True)
    assert resumed.start_iter == 3
    found = network(resumed).state_dict()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_stages_of_a_timm_network(build, train, tmp_path):
    net = ["MODEL.CLASSIFIER.NETWORK", "timm", "MODEL.TIMM.NAME", "resnet10t"]
    net += ["MODEL.CLASSIFIER.FC", "[]", *SHORT]
    source = network(train(*net, *up_to(0), output="source"))
    names = list(cut(source))
    assert names == ["stage1", "stage2", "stage3", "stage4", "stage5", CLASSIFIER]
    weights = ["MODEL.WEIGHTS", tmp_path / "source" / "model_final.pth"]
    trainer = build(*net, *weights, *up_to(2, *FROZEN), output="target")
    before, theirs = layer_states(network(trainer)), layer_states(source)
    assert [name for name in names if equal(before[name], theirs[name])] == names[:2]
    trainer.train()  # statistics of batch norms too
    after = layer_states(network(trainer))
    assert [name for name in names if equal(before[name], after[name])] == names[:2]


def test_a_pooling_by_itself_is_no_layer():
    """timm's VGG ends a stride with each of its poolings; layers that learn nothing have no n."""
    from det_transfer.classification.trunks import build_trunk

    trunk = build_trunk("timm", {"name": "vgg11_bn"})
    sizes = [
        sum(p.numel() for module in modules for p in module.parameters())
        for modules in trunk.named_layers().values()
    ]
    assert all(sizes)
    assert sum(sizes) == sum(p.numel() for p in trunk.parameters())


def test_layers_of_weights_that_others_have_trained(build, tmp_path):
    """As torchvision's AlexNet: no checkpoint of ours."""
    from det_transfer.classification.trunks import build_trunk

    torch.manual_seed(0)
    state = build_trunk("alexnet", {}).state_dict()  # has torchvision's names
    torch.save(state, tmp_path / "alexnet.pth")
    net = [
        "MODEL.CLASSIFIER.NETWORK",
        "alexnet",
        "MODEL.CLASSIFIER.FC",
        "[8]",
        "MODEL.WEIGHTS",
        tmp_path / "alexnet.pth",
    ]
    features = network(build(*net, *up_to(3, *FROZEN))).backbone.features.state_dict()
    copied = ("0.", "3.", "6.")  # conv1 to conv3
    for name, tensor in features.items():
        if name.endswith("weight"):
            assert torch.equal(tensor, state[f"features.{name}"]) == name.startswith(copied)
    with pytest.raises(UserError, match=r"MODEL\.TRANSFER\.UP_TO copies; copy fewer layers"):
        build(*net, *up_to(6, *FROZEN), output="six")


# Mistakes ----------------------------------------------------------------------------------------


def wrong(build, base, *options):
    with pytest.raises(UserError) as caught:
        build(*base[1], *options, output="wrong")
    return str(caught.value)


def test_a_network_with_fewer_or_other_layers(build, base):
    assert wrong(build, base, *up_to(9)) == (
        "MODEL.TRANSFER.UP_TO is 9, but the network has 8 layers: " + ", ".join(LAYERS)
    )
    said = wrong(build, base, *up_to(7, *FROZEN, "MODEL.TRANSFER.EXTRA", 2))
    assert said.startswith("MODEL.TRANSFER.UP_TO is 7 and EXTRA 2, but the network has 8 layers")
    said = wrong(build, base, *up_to(1), "MODEL.TRANSFER.LAYERS", "['conv9']")
    assert said.startswith("MODEL.TRANSFER.LAYERS: there is no layer conv9; did you mean conv")
    assert said.endswith(", ".join(LAYERS))
    said = wrong(build, base, *up_to(1), "MODEL.TRANSFER.LAYERS", "['conv3', 'conv1']")
    assert "is not in the network's order" in said


def test_a_source_that_does_not_fit(build, base):
    said = wrong(build, base, *up_to(6), "MODEL.CLASSIFIER.FC", "[20, 16]")
    assert said.startswith("layer FC6 of ")
    assert "model_final.pth is not the one here: " in said
    said = wrong(build, base, *up_to(ALL, *FROZEN), "MODEL.CLASSIFIER.TASK", "other")
    assert "has one of shapes, and other is trained" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (up_to(2), "MODEL.TRANSFER.UP_TO 2 needs MODEL.WEIGHTS"),
        (up_to(0, "MODEL.WEIGHTS", "x.pth"), "copies nothing, but MODEL.WEIGHTS names x.pth"),
        (up_to(2, "MODEL.WEIGHTS", "x", "MODEL.TRANSFER.EXTRA", 1), "is for FROZEN True"),
        (up_to(0, "MODEL.CLASSIFIER.SCOPE", "New"), "SCOPE 'New' does not go with"),
        (up_to(-2), "UP_TO must be >= -1"),
    ],
)
def test_keys_that_contradict_each_other(options, words):
    config = load_config(None, [str(word) for word in options])
    with pytest.raises(UserError, match="UP_TO") as caught:
        validate(config.cfg, config.explicit)
    assert words in str(caught.value)


# The table of treatments, and the paper's network ------------------------------------------------


def test_the_papers_labels():
    found = [
        [treatment.label(target, 3) for treatment in TREATMENTS.values()] for target in ("A", "B")
    ]
    assert found == [
        ["baseA", "A3A", "A3A+", "B3A", "B3A+", "R3A"],
        ["baseB", "B3B", "B3B+", "A3B", "A3B+", "R3B"],
    ]


def test_caffenet_is_caffes():
    from det_transfer.classification.trunks import build_trunk

    trunk = build_trunk("caffenet", {})
    with torch.device("meta"):
        again = build_trunk("caffenet", {})
        assert again(torch.empty(1, 3, 227, 227)).shape == (1, 9216)
    # Weights and biases of conv1 to conv5. Source: bvlc_reference_caffenet.
    assert sum(p.numel() for p in trunk.parameters()) == 2_334_080
    convs = [m for m in trunk.features if isinstance(m, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, 2, 1, 2, 2]
    assert [conv.bias.unique().tolist() for conv in convs] == [[0.0], [1.0], [0.0], [1.0], [1.0]]
    assert all(abs(conv.weight.std().item() - 0.01) < 1e-3 for conv in convs)
    kinds = [type(m).__name__ for m in trunk.features][:4]
    assert kinds == ["Conv2d", "ReLU", "MaxPool2d", "LocalResponseNorm"]


# Views that runs share ------------------------------------------------------------------------


def test_kept_views_give_the_same_run_and_are_drawn_once(train, base, monkeypatch, tmp_path):
    _, weights = base
    cached = ["MODEL.CLASSIFIER.CACHE", True, "INPUT.VIEW.FIXED", 2, *SHORT]
    kept = [*cached, "MODEL.CLASSIFIER.CACHE_FOLDER", tmp_path / "views"]
    runs = {
        "tuned": [*weights, *up_to(3)],  # keeps the views themselves
        "frozen": [*weights, *up_to(5, *FROZEN)],  # and pool5
    }
    plain = {name: network(train(*options, *cached, output=name)) for name, options in runs.items()}
    train(*up_to(0), *kept, output="writes")
    assert len(list((tmp_path / "views").iterdir())) == 1
    from det_transfer.classification.data import ImageSet

    def nothing(self, index):
        raise AssertionError("an image was read")

    monkeypatch.setattr(ImageSet, "image", nothing)
    for name, options in runs.items():
        found = network(train(*options, *kept, output=f"kept_{name}")).state_dict()
        assert all(torch.equal(found[k], v) for k, v in plain[name].state_dict().items()), name
