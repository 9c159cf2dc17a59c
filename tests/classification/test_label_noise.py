"""DATASETS.LABEL_NOISE: how many labels, which, for what, and of which sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer import run_folder
from det_transfer.classification.data import Tasks, build_test_loader, build_train_loader, noise_of
from det_transfer.classification.data.noise import noisy
from det_transfer.classification.data.tasks import subset, training_images
from det_transfer.config import load_config
from det_transfer.errors import UserError


@pytest.fixture
def config(arguments):
    """A config of the tiny classifier with further options."""

    def make(*opts):
        args = arguments(*opts)
        return load_config(args.config_file, args.opts).cfg

    return make


def exchanged(share, labels, indices=None, seed=0, classes=5):
    indices = np.arange(len(labels)) if indices is None else indices
    return noisy(labels, indices, classes, share, seed)


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(0, 60),
    classes=st.integers(2, 7),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 5),
)
def test_an_exact_share_of_other_classes_nested(count, classes, shares, seed):
    labels = np.arange(count) * 3 % classes
    wrong = []
    for share in sorted(shares):
        found = exchanged(share, labels, seed=seed, classes=classes)
        assert np.array_equal(found, exchanged(share, labels, seed=seed, classes=classes))
        assert found.size == 0 or 0 <= found.min() <= found.max() < classes
        wrong.append({k: found[k] for k in np.flatnonzero(found != labels)})
        assert len(wrong[-1]) == round(share * count)
    assert wrong[0].items() <= wrong[1].items()


def test_all_other_classes_are_equally_likely():
    labels = np.repeat(np.arange(5), 4000)
    found = exchanged(1.0, labels)
    table = np.array([np.bincount(found[labels == k], minlength=5) for k in range(5)])
    assert table.trace() == 0
    others = table[~np.eye(5, dtype=bool)]
    # Of 4,000 drawn alike from four, five standard deviations are 137.
    assert abs(others - 1000).max() < 137
    assert not np.array_equal(found, exchanged(1.0, labels, seed=1))


def test_an_image_has_one_wrong_label_whatever_it_stands_among():
    labels = np.arange(200) % 5
    whole = exchanged(1.0, labels)
    part = np.flatnonzero(labels < 3)[::2]
    assert np.array_equal(exchanged(1.0, labels[part], part), whole[part])
    some = exchanged(0.3, labels[part], part)
    wrong = some != labels[part]
    assert wrong.sum() == round(0.3 * len(part))
    assert np.array_equal(some[wrong], whole[part][wrong])


def test_training_labels_alone_are_exchanged(config):
    cfg = config("DATASETS.LABEL_NOISE", 0.25, "DATASETS.TRAIN", "('train', 'test')")
    tasks = Tasks(cfg)
    records = build_train_loader(cfg).dataset.dicts
    clean = np.concatenate([tasks.images(name).labels for name in ("train", "test")])
    found = np.array([records[k]["label"] for k in range(len(records))])
    assert [(found != clean)[part].sum() for part in (slice(24), slice(24, None))] == [6, 6]
    tested = [s["label"] for batch in build_test_loader(cfg, "test") for s in batch]
    assert tested == tasks.images("test").labels.tolist()


def test_noise_on_a_part_of_the_data(config):
    cfg = config("DATASETS.LABEL_NOISE", 0.5, "DATASETS.TRAIN_FRACTION", 0.5)
    tasks = Tasks(cfg)
    part, clean = training_images(cfg, tasks, "train"), subset(cfg, tasks.images("train"))
    assert part.files == clean.files
    assert (part.labels != clean.labels).sum() == 6
    record = noise_of(cfg)
    assert record == {"share": 0.5, "seed": 0, "sets": {"train": {"exchanged": 6, "of": 12}}}


def test_noise_is_written_into_the_run(train, tmp_path):
    train("DATASETS.LABEL_NOISE", 0.5, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 1)
    record = run_folder.read_json(tmp_path / "run" / "run.json")
    assert record["label_noise"]["sets"] == {"train": {"exchanged": 12, "of": 24}}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_no_share(build, share):
    with pytest.raises(UserError, match=rf"LABEL_NOISE is {share}; it is a share, from 0 to 1"):
        build("DATASETS.LABEL_NOISE", share)
