"""Where pasted objects come from: the stream, the pool, and what a mapper makes of them."""

import copy
import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from det_transfer.config import load_config, validate
from det_transfer.data import build_train_loader
from det_transfer.data.catalog import check_datasets, register, register_datasets
from det_transfer.data.loader import build_validation_loader
from det_transfer.data.mapper import TransferDatasetMapper
from det_transfer.data.pasting import CopyPasteMapper, PastePool, Paster, source_weights
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.errors import UserError
from det_transfer.stream import seeded
from det_transfer.testing import make_tiny_dataset

OPTIONS = [
    *("INPUT.LSJ.ENABLED", True, "INPUT.LSJ.SIZE", 96, "INPUT.LSJ.MIN_SCALE", 0.5),
    *("MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"),
    *("INPUT.COPY_PASTE.ENABLED", True, "DATALOADER.ASPECT_RATIO_GROUPING", False),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 3, "SEED", 5),
]


def config(dataset, *opts, base=None):
    options = [*OPTIONS, "DATASETS.TRAIN", ("pasted",), "DATASETS.TEST", ()]
    options += ["DATASETS.CUSTOM", [["pasted", *map(str, dataset)]], *opts]
    cfg = load_config(base, [str(opt) for opt in options]).cfg
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


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("source", ["stream", "pool"])
def test_unpasted_samples_are_the_plain_mappers(tiny_coco, source, masks):
    """Without masks in the detector but for the boxes, which are drawn anew from the masks."""
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.PROBABILITY"]
    without = batches(
        config(tiny_coco, "INPUT.COPY_PASTE.ENABLED", False, "MODEL.MASK_ON", masks), 3
    )
    plain = batches(config(tiny_coco, *opts, 0.0), 3)
    unpasted = batches(config(tiny_coco, *opts, 0.0, "MODEL.MASK_ON", masks), 3)
    assert not any(sample["pasted"] for sample in itertools.chain(*plain, *unpasted))
    if masks:
        assert all_same(without, plain)
    redrawn = 0
    sides = (itertools.chain(*side) for side in (without, plain, unpasted))
    for annotated, drawn, ours in zip(*sides, strict=True):
        for name in ("image", "position"):
            assert torch.equal(*(torch.as_tensor(s[name]) for s in (annotated, drawn)))
            assert torch.equal(*(torch.as_tensor(s[name]) for s in (drawn, ours)))
        boxes = [s["instances"].gt_boxes.tensor for s in (annotated, drawn, ours)]
        assert torch.equal(boxes[1], boxes[2])
        assert torch.equal(drawn["instances"].gt_classes, ours["instances"].gt_classes)
        redrawn += not torch.equal(boxes[0], boxes[2])
    assert bool(redrawn) != masks


@pytest.mark.parametrize("source", ["stream", "pool"])
def test_pasted_samples_are_the_plain_mappers_outside_of_what_is_pasted(tiny_coco, source):
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.PROBABILITY"]
    plain = batches(config(tiny_coco, *opts, 0.0), 3)
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


@pytest.mark.parametrize("source", ["stream", "pool"])
def test_with_probability_0_nothing_is_read_in_vain(tiny_coco, source):
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.POOL_SIZE", 6]
    read = []
    cfg = config(tiny_coco, *opts, "INPUT.COPY_PASTE.PROBABILITY", 0.0)
    mapper = TransferDatasetMapper(cfg, True)
    loader = build_train_loader(cfg, lambda record: read.append(1) or mapper(record))
    loader.start_at(4)  # nor to fill a pool after a resume
    list(itertools.islice(loader, 2))
    assert len(read) == 2 * cfg.SOLVER.IMS_PER_BATCH


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
    with pytest.raises(UserError, match=r"no object has a mask; set INPUT\.COPY_PASTE\.BOXES True"):
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


def test_a_mistake_met_in_a_source_is_said():
    """No broken image, which would be skipped."""

    def mapper(record):
        if record.get("wrong"):
            raise UserError("the data are wrong")
        return sample_of(2)

    wrong = {"annotations": [{"category_id": 0}] * 9, "wrong": True}
    with pytest.raises(UserError, match="the data are wrong"):
        CopyPasteMapper(mapper, [wrong], Paster())({})


def test_a_mapper_that_makes_images_of_several_sizes_is_refused(tiny_coco):
    cfg = config(tiny_coco)
    sizes = itertools.cycle([96, 80])

    def mapper(record):
        return sample_of(2, next(sizes))

    with pytest.raises(UserError, match=r"\(96, 96, 3\) and \(80, 80, 3\).*mapper make all of one"):
        list(itertools.islice(build_train_loader(cfg, mapper), 4))


def test_rounding_of_pasted_on_boxes_is_no_movement():
    """Of an image made very small, where a box is rounded by more than 10 px of the original."""

    def sample(*box):
        instances = Instances((20, 20), gt_boxes=Boxes(torch.tensor([box])))
        instances.gt_classes = torch.tensor([0])
        image = torch.zeros(3, 20, 20, dtype=torch.uint8)
        return {"image": image, "instances": instances, "resized": 0.03}

    target, source = sample(2.4, 2.4, 9.6, 9.6), sample(4.0, 4.0, 6.0, 6.0)
    pasted = Paster(boxes=True)(target, lambda rng, share: source, 0)
    assert pasted["pasted"] == 1
    assert torch.equal(pasted["instances"].gt_boxes.tensor[:1], target["instances"].gt_boxes.tensor)


def small_objects(tiny_coco, folder):
    """Of each image one object is left, of 10 x 10 px near its corner, which most crops miss."""
    content = json.loads(tiny_coco[0].read_text())
    first = {a["image_id"]: a for a in reversed(content["annotations"])}
    for annotation in first.values():
        annotation["bbox"], annotation["area"] = [20, 16, 10, 10], 100
        annotation["segmentation"] = [[20, 16, 30, 16, 30, 26, 20, 26]]
    path = folder / "small.json"
    path.write_text(json.dumps({**content, "annotations": list(first.values())}))
    return path, tiny_coco[1]


@pytest.mark.parametrize("source", ["stream", "pool"])
def test_images_of_which_the_crop_leaves_nothing_are_trained_on(tiny_coco, tmp_path, source):
    """As targets, with something pasted or not, and as sources, of which another one is drawn."""
    opts = ["INPUT.COPY_PASTE.SOURCE", source, "INPUT.COPY_PASTE.PROBABILITY", 0.7]
    opts += ["INPUT.LSJ.MIN_SCALE", 1.6, "INPUT.LSJ.MAX_SCALE", 2.4]
    opts += ["MODEL.ROI_HEADS.NUM_CLASSES", 3]
    cfg = config(small_objects(tiny_coco, tmp_path), *opts, base="tests/engine/tiny.yaml")
    mapper, made = TransferDatasetMapper(cfg, True), []

    def watched(record):
        sample = mapper(record)
        made.append(len(sample["instances"]))
        return sample

    samples = list(itertools.chain(*itertools.islice(build_train_loader(cfg, watched), 40)))
    assert made.count(0) > 40
    assert made.count(1) > 10
    left = [(len(s["instances"]) - s["pasted"], s["pasted"]) for s in samples]
    assert {(0, 0), (0, 1), (1, 0), (1, 1)} <= set(left)
    assert all(sample["instances"].has("gt_masks") for sample in samples)
    model = DetectionTrainer.build_model(cfg).train()
    bare, pasted, both = (samples[left.index(kind)] for kind in ((0, 0), (0, 1), (1, 1)))
    for batch in ([bare, bare], [bare, pasted], [pasted, both]):
        with EventStorage():
            losses = model(batch)
        assert "loss_mask" in losses
        sum(losses.values()).backward()
        assert all(torch.isfinite(loss) for loss in losses.values())


def test_a_crowd_beside_objects_is_never_pasted(tiny_coco):
    """Its class is one that nothing else has."""
    cfg = config(tiny_coco, "INPUT.COPY_PASTE.MAX_OBJECTS", 0)
    records = copy.deepcopy(DatasetCatalog.get("pasted"))
    for record in records:
        crowds = [{**a, "iscrowd": 1, "category_id": 9} for a in record["annotations"]]
        record["annotations"] = [*crowds, *record["annotations"]]
    mapper = CopyPasteMapper(TransferDatasetMapper(cfg, True), records, Paster())
    classes, pasted = Counter(), 0
    for position, record in enumerate(records * 5):
        with seeded(1, position):
            sample = mapper(copy.deepcopy(record))
        classes.update(sample["instances"].gt_classes.tolist())
        pasted += sample["pasted"]
    assert pasted > 20
    assert not classes[9]


def test_the_pool_keeps_nothing_of_what_workers_share(tiny_coco, monkeypatch):
    """Each tensor of theirs would hold a file descriptor and room in /dev/shm."""
    seen = []
    paste_onto = PastePool._paste

    def watched(pool, sample, kept):
        seen.append((sample["image"].is_shared(), list(kept)))
        return paste_onto(pool, sample, kept)

    monkeypatch.setattr(PastePool, "_paste", watched)
    opts = ["INPUT.COPY_PASTE.SOURCE", "pool", "INPUT.COPY_PASTE.POOL_SIZE", 4]
    batches(config(tiny_coco, *opts, "DATALOADER.NUM_WORKERS", 1), 3, start=2)
    assert all(shared for shared, _ in seen)
    kept = [sample for _, samples in seen for sample in samples]
    assert len(kept) > 20
    for sample in kept:
        objects = sample["instances"]
        tensors = [sample["image"], objects.gt_boxes.tensor, objects.gt_classes]
        tensors += [objects.gt_masks.tensor] if objects.has("gt_masks") else []
        assert not any(tensor.is_shared() for tensor in tensors)


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
