"""Where pasted objects come from: the stream, the pool, and what a mapper makes of them."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.structures import BitMasks, Boxes, Instances

from det_transfer.config import load_config, validate
from det_transfer.data import build_train_loader
from det_transfer.data.catalog import check_datasets, register, register_datasets
from det_transfer.data.loader import build_validation_loader
from det_transfer.data.mapper import TransferDatasetMapper
from det_transfer.data.pasting import CopyPasteMapper, PastePool, Paster, source_weights
from det_transfer.errors import UserError
from det_transfer.testing import make_tiny_dataset

OPTIONS = [
    *("INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 96, "INPUT.LSJ.MIN_SCALE", 0.5),
    *("MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"),
    *("INPUT.COPY_PASTE.ENABLED", True, "DATALOADER.ASPECT_RATIO_GROUPING", False),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 3, "SEED", 5),
]


def config(dataset, *opts):
    options = [*OPTIONS, "DATASETS.TRAIN", ("pasted",), "DATASETS.TEST", ()]
    options += ["DATASETS.CUSTOM", [["pasted", *map(str, dataset)]], *opts]
    cfg = load_config(None, [str(opt) for opt in options]).cfg
    validate(cfg)
    register_datasets(cfg)
    return cfg


def batches(cfg, count, start=0):
    loader = build_train_loader(cfg)
    loader.start_at(start)
    return list(itertools.islice(loader, count))


def same(first, second):
    a, b = first["instances"], second["instances"]
    return (
        first["position"] == second["position"]
        and torch.equal(first["image"], second["image"])
        and torch.equal(a.gt_boxes.tensor, b.gt_boxes.tensor)
        and torch.equal(a.gt_classes, b.gt_classes)
        and torch.equal(a.gt_masks.tensor, b.gt_masks.tensor)
    )


def all_same(first, second):
    pairs = zip(itertools.chain(*first), itertools.chain(*second), strict=True)
    return all(same(*pair) for pair in pairs)


@pytest.mark.parametrize("source", ["stream", "pool"])
def test_same_bytes_for_any_number_of_workers_and_after_resuming(tiny_coco, source):
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.POOL_SIZE", 5]
    whole = batches(config(tiny_coco, *opts), 6)
    assert sum(sample["pasted"] for sample in itertools.chain(*whole)) > 10
    for workers in (1, 3):
        other = config(tiny_coco, *opts, "DATALOADER.NUM_WORKERS", workers)
        assert all_same(batches(other, 6), whole)
    for start in (1, 2, 4):  # with pools that are not full yet, and full ones
        assert all_same(batches(config(tiny_coco, *opts), 6 - start, start), whole[start:])
        loader = build_train_loader(config(tiny_coco, *opts))
        loader.start_at(start)
        rest = list(itertools.chain(*whole[start:]))
        assert all_same([itertools.islice(loader.one_by_one(), len(rest))], [rest])
    assert not all_same(batches(config(tiny_coco, *opts, "SEED", 6), 6), whole)


@pytest.mark.parametrize("source", ["stream", "pool"])
def test_unpasted_samples_are_the_plain_mappers(tiny_coco, source):
    plain = batches(config(tiny_coco, "INPUT.COPY_PASTE.ENABLED", False), 3)
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.PROBABILITY"]
    assert all_same(batches(config(tiny_coco, *opts, 0.0), 3), plain)
    for before, after in zip(plain, batches(config(tiny_coco, *opts, 1.0), 3), strict=True):
        for old, new in zip(before, after, strict=True):
            if not new["pasted"]:
                assert same(old, new)
                continue
            left = len(new["instances"]) - new["pasted"]
            masks = new["instances"].gt_masks.tensor
            alpha = masks[left:].any(dim=0)
            assert alpha.any()
            # Outside of what was pasted nothing has changed, and nothing of the target is under it.
            assert torch.equal(old["image"][:, ~alpha], new["image"][:, ~alpha])
            assert not (masks[:left] & alpha).any()


def test_the_pool_holds_the_samples_just_before(tiny_coco):
    """With a pool of one, what is pasted are objects of the sample before, where they were."""
    plain = list(itertools.chain(*batches(config(tiny_coco, "INPUT.COPY_PASTE.ENABLED", False), 8)))
    opts = ["INPUT.COPY_PASTE.SOURCE", "pool", "INPUT.COPY_PASTE.POOL_SIZE", 1]
    pasted = list(itertools.chain(*batches(config(tiny_coco, *opts), 8)))
    assert pasted[0]["pasted"] == 0
    checked = 0
    for before, sample in zip(plain, pasted[1:], strict=False):
        if not sample["pasted"]:
            continue
        objects = sample["instances"][-sample["pasted"] :]
        known = [tuple(box) for box in before["instances"].gt_boxes.tensor.tolist()]
        assert all(tuple(box) in known for box in objects.gt_boxes.tensor.tolist())
        mask = objects.gt_masks.tensor.any(dim=0)
        assert torch.equal(sample["image"][:, mask], before["image"][:, mask])
        checked += 1
    assert checked > 10


def test_masks_that_served_the_pasting_alone_are_let_go(tiny_coco):
    (batch,) = batches(config(tiny_coco, "MODEL.MASK_ON", False), 1)
    assert any(sample["pasted"] for sample in batch)
    assert not any(sample["instances"].has("gt_masks") for sample in batch)


def test_boxes_are_pasted_where_there_are_no_masks(tmp_path):
    data = make_tiny_dataset(tmp_path, masks=False)
    opts = ["MODEL.MASK_ON", False]
    with pytest.raises(UserError, match=r"of image.*INPUT.COPY_PASTE.BOXES True"):
        check_datasets(config(data, *opts))
    cfg = config(data, *opts, "INPUT.COPY_PASTE.BOXES", True)
    assert check_datasets(cfg) == []
    samples = list(itertools.chain(*batches(cfg, 4)))
    assert sum(sample["pasted"] for sample in samples) > 5


def sample_of(count, size=8):
    """Of `count` objects of a pixel each."""
    instances = Instances((size, size))
    corners = torch.tensor([[n % size, n // size] for n in range(count)]).reshape(-1, 2).float()
    instances.gt_boxes = Boxes(torch.cat([corners, corners + 1], dim=1))
    instances.gt_classes = torch.arange(count)
    masks = torch.zeros(count, size, size, dtype=torch.bool)
    for n in range(count):
        masks[n, n // size, n % size] = True
    instances.gt_masks = BitMasks(masks)
    return {"image": torch.zeros(3, size, size, dtype=torch.uint8), "instances": instances}


def test_images_are_not_made_in_vain_and_the_draw_is_as_if_they_were():
    """Of images of 1 and 4 objects, which the crop may make fewer, against drawing naively."""
    sources = [{"annotations": [{"category_id": 0}] * n} for n in (1, 4)]
    made = Counter()

    def crop(record):
        count = len(record["annotations"])
        made[count] += 1
        return sample_of(np.random.randint(0, count + 1))

    mapper = CopyPasteMapper(crop, sources, Paster())
    np.random.seed(3)
    rng = np.random.default_rng(4)
    drawn, naive = Counter(), Counter()
    for _ in range(3000):
        source = mapper.paster._source(mapper._draw, rng)
        drawn[len(source)] += 1
    needed = sum(made.values())
    for _ in range(3000):
        number = 0
        while not number:
            number = rng.integers(0, len(crop(sources[rng.integers(2)])["instances"]) + 1)
        naive[int(number)] += 1
    assert needed < 0.85 * (sum(made.values()) - needed)
    for number in range(1, 5):
        assert drawn[number] == pytest.approx(naive[number], abs=4 * naive[number] ** 0.5 + 5)


def test_where_nothing_can_be_pasted_the_image_stays_as_it_is():
    crowd = {"annotations": [{"category_id": 0, "iscrowd": 1}]}
    mapper = CopyPasteMapper(lambda record: sample_of(record.get("n", 0)), [crowd], Paster())
    sample = mapper({"n": 3})
    assert sample["pasted"] == 0
    assert len(sample["instances"]) == 3

    def broken(record):
        if record.get("broken"):
            raise OSError("truncated")
        return sample_of(2)

    bad = {"annotations": [{"category_id": 0}] * 9, "broken": True}
    assert CopyPasteMapper(broken, [bad], Paster())({})["pasted"] == 0
    assert CopyPasteMapper(lambda record: None, [bad], Paster())({}) is None


def test_an_image_of_crowds_alone_is_a_sample_without_objects(tiny_coco):
    cfg = config(tiny_coco)
    records = DatasetCatalog.get("pasted")
    for annotation in records[0]["annotations"]:
        annotation["iscrowd"] = 1
    assert len(TransferDatasetMapper(cfg, True)(records[0])["instances"]) == 0


def test_a_small_dataset_fills_a_large_pool(tmp_path):
    data = make_tiny_dataset(tmp_path, images=1, classes=1)
    opts = ["INPUT.COPY_PASTE.SOURCE", "pool", "INPUT.COPY_PASTE.POOL_SIZE", 50]
    samples = list(itertools.chain(*batches(config(data, *opts), 4)))
    assert sum(sample["pasted"] for sample in samples) > 3


def records_of(*classes):
    return [
        {"file_name": f"{n}.png", "annotations": [{"category_id": c}]}
        for n, c in enumerate(classes)
    ]


@pytest.mark.parametrize("stream", ["TrainingSampler", "RepeatFactorTrainingSampler"])
@pytest.mark.parametrize("sources", ["uniform", "repeat_factor"])
def test_sources_are_drawn_as_asked_whatever_the_stream_brings(stream, sources):
    """Nine images of a frequent class and one of a rare one, whose factor is sqrt(0.4 / 0.1)."""
    records = records_of(*[0] * 9, 1)
    options = ["INPUT.COPY_PASTE.SAMPLER", sources, "DATALOADER.REPEAT_THRESHOLD", 0.4]
    cfg = load_config(None, [str(opt) for opt in options]).cfg
    factors = np.array([1.0] * 9 + [2.0])
    weights = source_weights(cfg, records, drawn_by=stream)
    wanted = factors if sources == "repeat_factor" else np.ones(10)
    brought = factors if stream.startswith("Repeat") else np.ones(10)
    share = brought * (1 if weights is None else weights)
    assert np.allclose(share / share[0], wanted)


def test_the_pool_draws_by_weight():
    pool = PastePool(2, Paster(), 0, np.array([1.0, 9.0, 1.0]))
    kept = [sample_of(1) | {"index": index} for index in (0, 1)]
    for label, sample in enumerate(kept):
        sample["instances"].gt_classes[:] = label
    target = sample_of(0) | {"index": 2}
    seen = [
        pool._paste({**target, "position": n}, kept)["instances"].gt_classes.item()
        for n in range(600)
    ]
    assert np.mean(seen) == pytest.approx(0.9, abs=0.05)


def test_detectron2s_own_loader_takes_the_mapper(tiny_coco):
    cfg = config(tiny_coco)
    register("pasted", *tiny_coco)
    records = DatasetCatalog.get("pasted")
    mapper = CopyPasteMapper(TransferDatasetMapper(cfg, True), records, Paster())
    loader = build_detection_train_loader(cfg, mapper=mapper)
    samples = [*next(iter(loader)), *next(iter(loader))]
    assert all(sample["image"].shape == (3, 96, 96) for sample in samples)
    assert any(sample["pasted"] for sample in samples)


def test_thresholds_count_in_pixels_of_the_original(tiny_coco):
    cfg = config(tiny_coco, "INPUT.LSJ.MIN_SCALE", 1.5, "INPUT.LSJ.MAX_SCALE", 1.5)
    record = DatasetCatalog.get("pasted")[0]
    assert (record["height"], record["width"]) == (96, 128)
    # 1.5 times 96 px on the longer side, 128.
    assert TransferDatasetMapper(cfg, True)(record)["resized"] == pytest.approx(144 / 128, rel=0.01)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["INPUT.LSJ.ENABLED", False], "needs images of one size: set INPUT.LSJ.ENABLED True"),
        (["INPUT.MASK_FORMAT", "polygon"], "set it to 'bitmask'"),
        (["INPUT.COPY_PASTE.BOXES", True], "is for data without masks"),
        (["INPUT.COPY_PASTE.PROBABILITY", 1.5], "PROBABILITY is 1.5; it must be from 0 to 1"),
        (["INPUT.COPY_PASTE.BLEND", -1.0], "BLEND is -1.0; it must be >= 0"),
        (["INPUT.COPY_PASTE.POOL_SIZE", 0], "POOL_SIZE is 0; it must be > 0"),
        (["INPUT.COPY_PASTE.SOURCE", "river"], "it can be 'stream' or 'pool'"),
        (["MODEL.KEYPOINT_ON", True], "MODEL.KEYPOINT_ON and INPUT.COPY_PASTE.ENABLED"),
    ],
)
def test_contradictions_are_one_line(tiny_coco, opts, message):
    with pytest.raises(UserError, match=message):
        config(tiny_coco, *opts)


def test_pasting_changes_nothing_of_what_is_validated(tiny_coco, tmp_path):
    """Test sets need no masks for it, and keep their objects."""
    content = json.loads(tiny_coco[0].read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(content))
    named = [["pasted", *map(str, tiny_coco)], ["tested", str(bare), str(tiny_coco[1])]]

    def objects(paste):
        opts = ["DATASETS.CUSTOM", named, "DATASETS.TEST", ("tested",), "MODEL.MASK_ON", False]
        cfg = config(tiny_coco, *opts, "INPUT.COPY_PASTE.ENABLED", paste)
        loader = build_validation_loader(cfg, "tested")
        return [batch[0]["instances"].gt_boxes.tensor.tolist() for batch in loader]

    assert objects(True) == objects(False)
    assert sum(map(len, objects(True))) > 8
