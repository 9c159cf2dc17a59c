"""Readers, views and loaders of labelled images."""

import itertools
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from det_transfer.classification.data import (
    Tasks,
    build_test_loader,
    build_train_loader,
    check_tasks,
    read_images,
)
from det_transfer.classification.data.archives import Archive
from det_transfer.classification.data.loader import FixedViews
from det_transfer.classification.data.tasks import subset
from det_transfer.classification.evaluator import ClassificationEvaluator, measure
from det_transfer.config import load_config
from det_transfer.errors import UserError


@pytest.fixture
def config(arguments):
    """A config of the tiny classifier with further options."""

    def make(*opts, **flags):
        args = arguments(*opts, **flags)
        return load_config(args.config_file, args.opts).cfg

    return make


def pack(folder, path):
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            tar.add(file, file.relative_to(folder))
    return path


def same(a, b):
    assert a.classes == b.classes
    assert a.labels.tolist() == b.labels.tolist()
    for k in range(len(a)):
        assert np.array_equal(a.image(k), b.image(k))


def test_a_folder_and_an_archive_read_in_place(shapes, tmp_path):
    folder = read_images("x", "images", str(shapes), "train")
    archive = read_images("x", "images", str(pack(shapes, tmp_path / "x.tar")), "train")
    assert folder.classes == ("shape_0", "shape_1", "shape_2", "shape_3")
    assert folder.counts().tolist() == [6] * 4
    same(folder, archive)
    assert archive.files[0].endswith("x.tar/train/shape_0/0.png")
    direct = np.asarray(Image.open(shapes / "train" / "shape_2" / "3.png").convert("RGB"))
    assert np.array_equal(archive.image(2 * 6 + 3), direct)


def test_an_empty_folder_is_a_class_without_images(config, shapes, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    for folder in ("shape_9", ".thumbnails", "__MACOSX"):
        (copy / "train" / folder).mkdir()
    for path in (copy, pack(copy, tmp_path / "copy.tar")):
        found = read_images("x", "images", str(path), "train")
        assert found.classes == ("shape_0", "shape_1", "shape_2", "shape_3", "shape_9")
        assert found.counts().tolist() == [6, 6, 6, 6, 0]
    with pytest.raises(UserError, match=r"1 of its 5 classes have no image, e.g. shape_9; remove"):
        check_tasks(config(data=copy))
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("shape_0\nshape_1\n")
    assert len(read_images("x", "images", str(copy), f"train@{chosen}").classes) == 2


def test_lists_of_images(shapes, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    (copy / "list.txt").write_text(
        "train/shape_3/0.png, 10, 1\ntrain/shape_1/2.png, 9, 0\n\ntest/shape_0/1.png, 10, 0\n"
    )
    for path in (copy, pack(copy, tmp_path / "copy.tar")):
        fine = read_images("x", "images", str(path), "list.txt")
        assert fine.classes == ("9", "10")  # as numbers
        assert fine.labels.tolist() == [1, 0, 1]
        coarse = read_images("x", "images", str(path), "list.txt:2")
        assert coarse.labels.tolist() == [1, 0, 0]
    spaced = tmp_path / "elsewhere.txt"
    spaced.write_text("train/shape_3/0.png 10\ntrain/gone.png 9\n")
    with pytest.raises(UserError, match=r"1 of 2 images of .*elsewhere.txt are not in .*gone.png"):
        read_images("x", "images", str(copy), str(spaced))
    spaced.write_text("train/shape_3/0.png\n")
    with pytest.raises(UserError, match="line 1 has no column 1"):
        read_images("x", "images", str(copy), str(spaced))


def test_some_of_the_classes(shapes, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    (copy / "kinds.tsv").write_text("shape_2\tround\nshape_0\tround\nshape_1\tpointed\n")
    whole = read_images("x", "images", str(copy), "train")
    for path in (copy, pack(copy, tmp_path / "copy.tar")):
        found = read_images("x", "images", str(path), "train@kinds.tsv=round")
        assert found.classes == ("shape_2", "shape_0")
        assert found.counts().tolist() == [6, 6]
        assert found.labels[0] == 1  # images stay in their order
        assert np.array_equal(found.image(6), whole.image(12))
    assert len(read_images("x", "images", str(copy), "train@kinds.tsv").classes) == 3
    with pytest.raises(UserError, match=r"kinds.tsv names no classes of blue"):
        read_images("x", "images", str(copy), "train@kinds.tsv=blue")
    other = tmp_path / "other.txt"
    other.write_text("shape_9\n")
    with pytest.raises(UserError, match=r"has no class shape_9; it has shape_0"):
        read_images("x", "images", str(copy), f"train@{other}")
    other.write_text("shape_1\nshape_1\n")
    with pytest.raises(UserError, match="a class is named twice"):
        read_images("x", "images", str(copy), f"train@{other}")
    with pytest.raises(UserError, match=r"the list gone.txt is neither in"):
        read_images("x", "images", str(copy), "train@gone.txt")


def test_what_is_not_there(shapes, tmp_path):
    with pytest.raises(UserError, match="no reader 'image'; there is images"):
        read_images("x", "image", str(shapes), "train")
    with pytest.raises(UserError, match="gone does not exist"):
        read_images("x", "images", str(tmp_path / "gone"), "train")
    with pytest.raises(UserError, match=r"there are no images in .*/vall/<class>/"):
        read_images("x", "images", str(shapes), "vall")
    with pytest.raises(UserError, match="each class needs a folder"):
        read_images("x", "images", str(shapes), "train/shape_0")
    broken = tmp_path / "x.tar"
    broken.write_bytes(b"no tar" * 1000)
    with pytest.raises(UserError, match="cannot be read as an uncompressed tar"):
        Archive(broken)


def test_digits_need_no_download():
    pytest.importorskip("sklearn")
    train, test = (read_images("d", "digits", "", split) for split in ("train", "test"))
    assert (len(train), len(test), len(train.classes)) == (1348, 449, 10)
    assert train.image(0).shape == (8, 8, 3)
    with pytest.raises(UserError, match="no split 'val'; there is train, test"):
        read_images("d", "digits", "", "val")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_official_splits(tmp_path):
    root = tmp_path / "sun"
    for name in ("a/abbey/sun_1.jpg", "b/bar/outdoor/sun_2.jpg"):
        picture(root / name)
    (root / "Partitions").mkdir()
    (root / "Partitions/ClassName.txt").write_text("/a/abbey\n/b/bar/outdoor\n")
    (root / "Partitions/Training_03.txt").write_text("/b/bar/outdoor/sun_2.jpg\n")
    found = read_images("s", "sun397", str(root), "train_03")
    assert found.classes == ("a/abbey", "b/bar/outdoor")
    assert found.labels.tolist() == [1]
    assert found.image(0).shape == (4, 4, 3)
    with pytest.raises(UserError, match=r"Testing_03.txt is missing"):
        read_images("s", "sun397", str(root), "test_03")

    root = tmp_path / "mit"
    picture(root / "Images/bar/1.jpg")
    for split in ("Test", "Train"):
        (root / f"{split}Images.txt").write_text("bar/1.jpg\n")
        found = read_images("m", "mit67", str(root), split.lower())
        assert (found.classes, found.files) == (("bar",), [f"{root}/Images/bar/1.jpg"])

    root = tmp_path / "cub"
    root.mkdir()
    (root / "images.txt").write_text("1 001.A/x.jpg\n2 002.B/y.jpg\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 2\n")
    (root / "train_test_split.txt").write_text("1 0\n2 1\n")
    (root / "classes.txt").write_text("1 001.A\n2 002.B\n")
    found = read_images("c", "cub200", str(root), "train")
    assert (found.files[0], found.labels.tolist()) == (f"{root}/images/002.B/y.jpg", [1])
    assert read_images("c", "cub200", str(root), "test").files == [f"{root}/images/001.A/x.jpg"]
    (root / "classes.txt").write_text("1 001.A\n")
    with pytest.raises(UserError, match=r"image_class_labels.txt has a class 2, which .*classes"):
        read_images("c", "cub200", str(root), "train")
    (root / "train_test_split.txt").write_text("1 0\n")
    with pytest.raises(UserError, match=r"train_test_split.txt is not of the images of images"):
        read_images("c", "cub200", str(root), "train")
    (root / "train_test_split.txt").write_text("1\n")
    with pytest.raises(UserError, match=r"train_test_split.txt: '1' is not two words"):
        read_images("c", "cub200", str(root), "train")

    root = tmp_path / "stanford"
    (root / "ImageSplits").mkdir(parents=True)
    (root / "ImageSplits/actions.txt").write_text("action_name\tcount\nreading\t3\nsmoking\t2\n")
    for action in ("reading", "smoking"):
        for number, split in enumerate(("train", "test"), start=1):
            file = root / f"ImageSplits/{action}_{split}.txt"
            file.write_text(f"{action}_00{number}.jpg\n")
    for number, split in enumerate(("train", "test"), start=1):
        found = read_images("s", "stanford40", str(root), split)
        assert found.files[1] == f"{root}/JPEGImages/smoking_00{number}.jpg"


def test_flowers(tmp_path):
    io_ = pytest.importorskip("scipy.io")
    io_.savemat(tmp_path / "imagelabels.mat", {"labels": [[77, 3, 102]]})
    io_.savemat(tmp_path / "setid.mat", {"trnid": [[3, 1]], "valid": [[2]], "tstid": [[2]]})
    found = read_images("f", "flowers102", str(tmp_path), "train")
    assert found.labels.tolist() == [101, 76]
    assert found.files[0].endswith("jpg/image_00003.jpg")
    assert len(found.classes) == 102
    io_.savemat(tmp_path / "setid.mat", {"trnid": [[4]]})
    with pytest.raises(UserError, match=r"setid.mat has an image 4; imagelabels.mat has 3"):
        read_images("f", "flowers102", str(tmp_path), "train")
    with pytest.raises(UserError, match=r"setid.mat cannot be read as Matlab's, with 'tstid'"):
        read_images("f", "flowers102", str(tmp_path), "test")
    (tmp_path / "setid.mat").write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"setid.mat cannot be read as Matlab's"):
        read_images("f", "flowers102", str(tmp_path), "train")


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100", "FashionMNIST"])
def test_torchvisions_sets(kind, monkeypatch, tmp_path):
    """As torchvision holds them once they are read: arrays, lists or tensors."""
    small = kind == "FashionMNIST"
    images = np.arange(2 * 4 * 4 * (1 if small else 3), dtype=np.uint8)
    images = images.reshape((2, 4, 4) if small else (2, 4, 4, 3))

    class Stand:
        classes = ("apple", "bear")

        def __init__(self, path, train):
            if path != "here":
                raise RuntimeError("Dataset not found or corrupted.")
            self.data = torch.from_numpy(images) if small else images
            self.targets = torch.tensor([1, 0]) if small else [1, 0]
            self.classes = self.classes if train else self.classes[::-1]

    monkeypatch.setattr(f"torchvision.datasets.{kind}", Stand)
    reader = {"FashionMNIST": "fashion_mnist"}.get(kind, kind.lower())
    found = read_images("x", reader, "here", "train")
    assert (found.labels.tolist(), found.classes) == ([1, 0], ("apple", "bear"))
    assert found.image(1).shape == (4, 4, 3)
    assert np.array_equal(found.image(1)[..., 0], images[1] if small else images[1][..., 0])
    assert read_images("x", reader, "here", "test").classes == ("bear", "apple")
    with pytest.raises(UserError, match=rf"elsewhere does not hold torchvision's {kind}"):
        read_images("x", reader, "elsewhere", "train")


# The stream --------------------------------------------------------------------------------------


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def pixels(batches):
    return [sample["image"] for batch in batches for sample in batch]


@pytest.mark.parametrize("views", [0, 2])
def test_same_for_any_number_of_workers_and_after_resuming(config, views):
    opts = ["INPUT.VIEW.FIXED", views, "INPUT.VIEW.CROP_KIND", "scaled", "INPUT.VIEW.JITTER", 0.2]
    expected = pixels(take(build_train_loader(config(*opts)), 6))
    workers = build_train_loader(config(*opts, "DATALOADER.NUM_WORKERS", 2))
    assert all(map(torch.equal, expected, pixels(take(workers, 6))))
    resumed = build_train_loader(config(*opts))
    resumed.start_at(3)
    assert all(map(torch.equal, expected[24:], pixels(take(resumed, 3))))
    assert expected[0].shape == (3, 32, 32)


def test_fixed_views_come_again(config):
    """24 images, 2 views, batches of 8: passes 0 and 2 show the same, pass 1 another view."""
    batches = take(build_train_loader(config("INPUT.VIEW.FIXED", 2)), 9)
    passes = [
        {s["image_id"]: s["image"] for batch in batches[k : k + 3] for s in batch}
        for k in (0, 3, 6)
    ]
    assert all(len(shown) == 24 for shown in passes)
    assert all(torch.equal(passes[0][k], passes[2][k]) for k in range(24))
    assert sum(torch.equal(passes[0][k], passes[1][k]) for k in range(24)) < 6


def test_the_view_is_the_config(config, shapes):
    cfg = config("INPUT.FORMAT", "BGR", "INPUT.VIEW.RESIZE", 0, "INPUT.VIEW.CROP", 0)
    sample = next(iter(build_test_loader(cfg, "test")))[0]
    image = np.asarray(Image.open(shapes / "test" / "shape_0" / "0.png").convert("RGB"))
    assert np.array_equal(sample["image"].numpy(), image[:, :, ::-1].transpose(2, 0, 1))
    cfg = config("INPUT.VIEW.RESIZE", 0, "INPUT.VIEW.CROP", 20)
    sample = next(iter(build_test_loader(cfg, "test")))[0]
    assert np.array_equal(sample["image"].numpy(), image[10:30, 10:30].transpose(2, 0, 1))
    cfg = config("INPUT.VIEW.RESIZE", 64, "INPUT.VIEW.WARP", True, "INPUT.VIEW.CROP", 0)
    assert next(iter(build_test_loader(cfg, "test")))[0]["image"].shape == (3, 64, 64)


def test_parts_of_the_training_set_lie_in_each_other(config):
    whole = Tasks(config()).images("train")

    def chosen(*opts):
        return set(subset(config(*opts), whole).files)

    third, half = (chosen("DATASETS.TRAIN_FRACTION", f) for f in (1 / 3, 0.5))
    assert third < half
    assert (len(third), len(half)) == (8, 12)
    one, three = (chosen("DATASETS.TRAIN_SHOTS", n) for n in (1, 3))
    assert one < three
    assert subset(config("DATASETS.TRAIN_SHOTS", 2), whole).counts().tolist() == [2] * 4
    assert chosen("DATASETS.TRAIN_SHOTS", 1, "DATASETS.SUBSET_SEED", 1) != one


# What is wrong -----------------------------------------------------------------------------------


def test_one_class_an_empty_class_a_strange_class(config, shapes, tmp_path):
    copy = tmp_path / "one"
    shutil.copytree(shapes / "train" / "shape_0", copy / "train" / "shape_0")
    with pytest.raises(UserError, match="dataset train has one class, shape_0"):
        check_tasks(config("DATASETS.TEST", "()", data=copy))
    copy = tmp_path / "two"
    for kind in ("shape_0", "shape_1"):
        shutil.copytree(shapes / "train" / kind, copy / "train" / kind)
    shutil.copytree(shapes / "test", copy / "test")
    with pytest.raises(UserError, match=r"dataset test: 2 of its classes are not .*shape_2"):
        check_tasks(config(data=copy))
    entries = [["a", "images", str(shapes), "train"], ["b", "images", str(copy), "train"]]
    cfg = config()
    cfg.DATASETS.CLASSIFICATION = entries
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a", "b"), ()
    with pytest.raises(
        UserError, match=r"dataset b: 2 of its 4 classes have no image, e.g. shape_2"
    ):
        check_tasks(cfg)


def test_images_that_do_not_decode(config, shapes, tmp_path, build):
    copy = tmp_path / "copy"
    shutil.copytree(shapes, copy)
    victim = copy / "train" / "shape_1" / "0.png"
    victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError, match=r"shape_1/0.png: .*1 of 24 images cannot be used"):
        take(build_train_loader(config(data=copy)), 3)
    allowed = ["DATASETS.MAX_SKIPPED", 0.1]
    assert len(pixels(take(build_train_loader(config(*allowed, data=copy)), 3))) == 24
    victim = copy / "test" / "shape_2" / "5.png"
    victim.write_bytes(b"no image")
    with pytest.raises(OSError, match=r"^in no format that Pillow knows$"):
        read_images("test", "images", str(copy), "test").image(2 * 6 + 5)
    trainer = build(*allowed, data=copy)
    found = trainer.test(trainer.cfg, trainer.model)
    assert found["accuracy"]["top1"] * 23 / 100 == pytest.approx(
        round(found["accuracy"]["top1"] * 23 / 100)
    )
    strict = build(data=copy, output="strict")
    with pytest.raises(UserError, match=r"test: 1 of 24 images do not decode.*shape_2/5.png"):
        strict.test(strict.cfg, strict.model)


def test_metrics_against_a_naive_count():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, 200)  # class 9 has no image
    top = np.stack([rng.permutation(10)[:5] for _ in labels])
    found = measure(top, labels, 10)
    hits = [t[0] == y for t, y in zip(top, labels, strict=True)]
    assert found["top1"] == pytest.approx(100 * sum(hits) / 200)
    assert found["top5"] == pytest.approx(
        100 * sum(y in t for t, y in zip(top, labels, strict=True)) / 200
    )
    means = [np.mean([h for h, y in zip(hits, labels, strict=True) if y == k]) for k in range(9)]
    assert found["class_mean"] == pytest.approx(100 * np.mean(means))
    assert "top5" not in measure(top[:, :3] % 5, labels % 5, 5)


def test_an_image_that_two_processes_saw_counts_once(config, tmp_path):
    images = Tasks(config()).images("test")
    evaluator = ClassificationEvaluator(images, tmp_path)
    samples = [{"image_id": k, "label": int(images.labels[k])} for k in range(24)]
    logits = [{"logits": torch.eye(4)[int(y)]} for y in images.labels]
    evaluator.process(samples, logits)
    evaluator.process(samples[:5], [{"logits": torch.ones(4)}] * 5)
    assert evaluator.evaluate()["accuracy"] == {"top1": 100.0, "class_mean": 100.0}


def test_a_fixed_view_does_not_depend_on_what_was_drawn_before():
    class Given(list):
        pass

    def mapper(record):
        return {"value": float(np.random.rand()), **record}

    data = FixedViews(Given([{"k": 0}, {"k": 1}]), mapper, 5, views=3)
    assert data[7, 1]["value"] == data[6, 1]["value"]  # both in pass 3, view 0
    assert data[0, 1]["value"] == data[7, 1]["value"]
    assert data[2, 1]["value"] != data[0, 1]["value"]
