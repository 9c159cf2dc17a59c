"""The fast frozen path: the same features within a stated tolerance, and no trace of it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from trunks import TRUNKS, images, trunk_of_kind

from det_transfer.config import load_config, validate
from det_transfer.errors import UserError
from det_transfer.reuse import apply_mode, frozen_tensors, is_frozen
from det_transfer.reuse.fast import fold_norms


def frozen(kind, **options):
    return apply_mode(trunk_of_kind(kind), "frozen", **options)


def distance(a, b):
    """The largest difference over features, relative to the largest value."""
    assert a.keys() == b.keys()
    return max(
        ((a[k].float() - b[k].float()).abs().max() / b[k].float().abs().max()).item() for k in b
    )


@pytest.mark.parametrize("kind", TRUNKS)
def test_features_are_equal(kind):
    plain, fast = frozen(kind), frozen(kind, fast=True)
    for size in (64, 96):
        assert distance(fast(images(size=size)), plain(images(size=size))) < 1e-5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, expected = fast(images()), plain(images())
    exact = plain(images())
    assert {k: f.dtype for k, f in low.items()} == {k: f.dtype for k, f in expected.items()}
    # No further from the exact features than the plain path is in the same precision.
    assert distance(low, exact) < 1.5 * distance(expected, exact) + 1e-3


@pytest.mark.parametrize("kind", TRUNKS)
def test_norms_are_folded_where_there_are_any(kind):
    trunk = trunk_of_kind(kind)
    norms = [
        m for m in trunk.modules() if isinstance(getattr(m, "running_var", None), torch.Tensor)
    ]
    assert fold_norms(copy.deepcopy(trunk)) == len(norms)
    assert bool(norms) == (kind != "convnext")


@pytest.mark.parametrize("kind", ["detectron2", "efficientnet"])
def test_nothing_of_it_is_seen_from_outside(kind):
    plain, fast = frozen(kind), frozen(kind, fast=True)
    fast(images())
    assert is_frozen(fast)
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(fast.state_dict()[k], t) for k, t in plain.state_dict().items())
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in plain.named_modules()]
    assert frozen_tensors(fast).keys() == frozen_tensors(plain).keys()
    assert repr(fast) == repr(plain)
    assert not any(p.requires_grad for p in fast.parameters())
    assert not any(m.training for m in fast.train().modules())
    assert fast(images())["res3"].grad_fn is None
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert distance(other(images()), plain(images())) < 1e-5
        assert len(pickle.dumps(other)) < 1.1 * len(pickle.dumps(plain))


@pytest.mark.parametrize("kind", ["detectron2", "efficientnet"])
def test_weights_that_are_loaded_later_count(kind):
    """Also tensors written to one by one, and those that a cast puts in the place of others."""
    plain, fast = frozen(kind), frozen(kind, fast=True)
    first = fast(images())
    state = {k: v * 1.01 if v.is_floating_point() else v for k, v in plain.state_dict().items()}
    for trunk in (plain, fast):
        trunk.load_state_dict(state)
    assert distance(fast(images()), plain(images())) < 1e-5
    assert distance(fast(images()), first) > 1e-3
    with torch.no_grad():
        for trunk in (plain, fast):
            next(trunk.buffers()).add_(0.1)
    assert distance(fast(images()), plain(images())) < 1e-5
    for trunk in (plain, fast):
        trunk.load_state_dict(state, assign=True)
    assert distance(fast(images()), plain(images())) < 1e-5


def test_the_twin_is_made_once(monkeypatch):
    from det_transfer.reuse import fast as module

    made = []
    twin = module._twin
    monkeypatch.setattr(module, "_twin", lambda *args: made.append(args) or twin(*args))
    trunk = frozen("detectron2", fast=True)
    for _ in range(3):
        trunk(images())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            trunk(images())
    assert [dtype for _, dtype in made] == [torch.float32, torch.bfloat16]


class TwoReaders(nn.Module):
    """The convolution's outputs go into the norm, and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.last, self.last_bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        return {"f": self.last_bn(self.last(x + self.bn(x)))}


def test_where_folding_would_change_something_it_is_left():
    torch.manual_seed(0)
    network = TwoReaders().eval()
    network.bn.running_mean.fill_(0.5)
    before = network(images())
    assert fold_norms(network) == 0
    assert distance(network(images()), before) == 0
    assert isinstance(network.bn, nn.BatchNorm2d)


def test_without_a_compiler_it_runs_as_it_is(monkeypatch, caplog):
    def compile(network, **options):
        def fail(image):
            raise RuntimeError("no C++ compiler found\nsecond line")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    trunk = frozen("detectron2", fast=True, compile=True)
    with caplog.at_level("WARNING"):
        features = trunk(images())
    assert "torch.compile does not work here (no C++ compiler found)" in caplog.text
    assert distance(features, frozen("detectron2")(images())) < 1e-5


@pytest.mark.slow
def test_compiled():
    plain, fast = frozen("detectron2"), frozen("detectron2", fast=True, compile=True)
    for size in (64, 96, 128):
        assert distance(fast(images(size=size)), plain(images(size=size))) < 1e-5


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.REUSE.MODE", "finetune"], r"here it is 'finetune' with 'off'"),
        (["MODEL.REUSE.MODE", "frozen", "MODEL.REUSE.DROPOUT", "kept"], r"'frozen' with 'kept'"),
    ],
)
def test_for_what_is_not_wholly_frozen_it_is_refused(opts, message):
    config = load_config(None, [*opts, "MODEL.REUSE.FAST", "True"])
    with pytest.raises(UserError, match=message):
        validate(config.cfg, config.explicit)
    config = load_config(None, ["MODEL.REUSE.COMPILE", "True"])
    with pytest.raises(UserError, match=r"COMPILE needs MODEL\.REUSE\.FAST"):
        validate(config.cfg)
