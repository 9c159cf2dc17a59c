"""VOC, YOLO and csv into COCO, on files as the tools write them."""

import json

import pytest
from coco_json import Collector, image_size
from converter_files import CSV, CVAT, LABELIMG, VOC2007, image, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from yolo_to_coco import parse_row

from det_transfer.data.checks import format_problems
from det_transfer.data.datasets.coco_format import JsonDataset


def test_an_image_too_large_for_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"cannot be read: .*600 pixels.* exceeds limit"):
        image_size(image(tmp_path / "a.jpg", (30, 20)))


@pytest.mark.parametrize("name", ["voc_to_coco", "yolo_to_coco", "csv_to_coco"])
def test_each_is_a_program(script, name):
    done = script(f"{name}.py", "nowhere", *(("labels",) if name == "yolo_to_coco" else ()))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def objects(content):
    """(image, class, bbox, iscrowd) of each annotation."""
    images = {i["id"]: i["file_name"] for i in content["images"]}
    names = {c["id"]: c["name"] for c in content["categories"]}
    return [
        (images[a["image_id"]], names[a["category_id"]], a["bbox"], a["iscrowd"])
        for a in content["annotations"]
    ]


def test_labelimg(convert, tmp_path):
    write(tmp_path / "xml" / "street one.xml", LABELIMG)
    done, content = convert("voc_to_coco", tmp_path / "xml")
    assert done.returncode == 0, done.stderr
    assert objects(content) == [
        ("street one.jpg", "traffic light", [10, 20, 20, 40], 0),
        ("street one.jpg", "car", [1, 1, 99, 79], 1),
    ]
    assert [c["name"] for c in content["categories"]] == ["car", "traffic light"]
    assert "1 images (0 without objects), 2 objects, 2 classes" in done.stdout
    assert "difficult objects, written as crowds: 1, the first" in done.stdout


@pytest.mark.parametrize(("difficult", "crowds"), [("keep", [0, 0]), ("drop", [0])])
def test_what_becomes_of_difficult_objects(convert, tmp_path, difficult, crowds):
    write(tmp_path / "xml" / "a.xml", LABELIMG)
    _, content = convert("voc_to_coco", tmp_path / "xml", "--difficult", difficult)
    assert [a["iscrowd"] for a in content["annotations"]] == crowds


def test_a_crowd_is_left_out_of_training_and_of_evaluation(convert, tmp_path):
    """Why difficult is written as iscrowd: pycocotools overwrites a key "ignore"."""
    write(tmp_path / "xml" / "a.xml", LABELIMG)
    convert("voc_to_coco", tmp_path / "xml")
    from pycocotools.cocoeval import COCOeval

    truth = COCO(str(tmp_path / "out.json"))
    evaluation = COCOeval(truth, truth, "bbox")
    evaluation._prepare()
    ignored = [gt["ignore"] for gts in evaluation._gts.values() for gt in gts]
    assert sorted(ignored) == [0, 1]
    image(tmp_path / "street one.jpg")
    (sample,) = JsonDataset("voc", str(tmp_path / "out.json"), str(tmp_path))()
    assert [a["iscrowd"] for a in sample["annotations"]] == [0, 1]


def test_voc_itself_counts_from_one(convert, tmp_path):
    write(tmp_path / "Annotations" / "000001.xml", VOC2007)
    write(tmp_path / "Annotations" / "000002.xml", VOC2007.replace("000001", "000002"))
    split = write(tmp_path / "ImageSets" / "train.txt", "000001  1\n")
    done, content = convert(
        "voc_to_coco", tmp_path / "Annotations", "--one-based", "--split-file", split
    )
    assert done.returncode == 0, done.stderr
    assert objects(content) == [("000001.jpg", "person", [0, 10, 100, 70], 0)]


def test_cvat(convert, tmp_path):
    write(tmp_path / "xml" / "a.xml", CVAT)
    _, content = convert("voc_to_coco", tmp_path / "xml")
    assert objects(content) == [("day/frame_000001.PNG", "car", [10.25, 20.5, 20.5, 19.5], 0)]


def test_the_image_is_found_by_the_name_of_its_xml(convert, tmp_path):
    """LabelImg keeps the name an image had before; others leave out the suffix or the size."""
    renamed = LABELIMG.replace("<filename>street one.jpg", "<filename>IMG_0001")
    write(tmp_path / "xml" / "street.xml", renamed.replace("<width>100", "<width>0"))
    image(tmp_path / "images" / "street.JPG")
    done, content = convert("voc_to_coco", tmp_path / "xml", "--images", tmp_path / "images")
    assert done.returncode == 0, done.stderr
    assert [(i["file_name"], i["width"], i["height"]) for i in content["images"]] == [
        ("street.JPG", 100, 80)
    ]


def test_csv(convert, tmp_path):
    path = write(tmp_path / "labels.csv", CSV)
    done, content = convert("csv_to_coco", path)
    assert done.returncode == 0, done.stderr
    assert objects(content) == [
        ("a.jpg", "car", [0, 0, 50, 40], 0),
        ("b.jpg", "cup, small", [10, 20, 20, 40], 0),
        ("b.jpg", "car", [5, 5, 20, 30], 0),
    ]
    assert "objects by class: car 2, cup, small 1" in done.stdout
    assert "DATASETS.CUSTOM" in done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace('"cup, small"', "cup  small").replace(",", ";"),
        "Class,xmin,ymin,XMax,ymax,filename,width,height,note\n" + "car,0,0,50,40,a.jpg,100,80,x\n",
    ],
    ids=["byte-order mark", "windows", "semicolons", "columns in any order"],
)
def test_csv_of_other_tools(convert, tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    done, content = convert("csv_to_coco", path)
    assert done.returncode == 0, done.stderr
    assert objects(content)[0] == ("a.jpg", "car", [0, 0, 50, 40], 0)


def test_csv_with_images_without_objects_and_without_sizes(convert, tmp_path):
    path = write(tmp_path / "l.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,,,,,\n")
    image(tmp_path / "a.png", (7, 5))
    done, content = convert("csv_to_coco", path, "--images", tmp_path)
    assert done.returncode == 2  # nothing but an image without objects: no class at all
    assert "there are no classes" in done.stderr
    write(path, "filename,class,xmin,ymin,xmax,ymax\na.png,,,,,\na.png,x,1,1,3,3\n")
    done, content = convert("csv_to_coco", path, "--images", tmp_path)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (7, 5)


def test_yolo_with_a_data_yaml(convert, yolo, tmp_path):
    done, _ = convert("yolo_to_coco", yolo / "data.yaml", out="json")
    assert done.returncode == 0, done.stderr
    train, val = (
        json.loads((tmp_path / "json" / f"{s}.json").read_text()) for s in ("train", "val")
    )
    assert objects(train) == [
        ("train/images/a.jpg", "traffic light", pytest.approx([10, 20, 20, 40]), 0),
        ("train/images/a.jpg", "cup", [0, 0, 100, 80], 0),
    ]
    assert len(train["images"]) == 3
    assert "3 images (2 without objects)" in done.stdout
    assert "images without a label file: 1" in done.stdout
    (annotation,) = val["annotations"]
    assert annotation["bbox"] == pytest.approx([20, 10, 80, 50])
    assert annotation["segmentation"] == [pytest.approx([20, 10, 100, 10, 100, 60, 20, 60])]
    assert annotation["area"] == pytest.approx(4000)
    assert [c["name"] for c in val["categories"]] == ["cup", "traffic light"]


def test_yolo_with_a_dict_of_names_a_path_and_a_list_of_images(convert, yolo, tmp_path):
    listed = write(yolo / "train.txt", "train/images/a.jpg\ntrain/images/b.jpg\n")
    text = f"path: {yolo}\ntrain: {listed.name}\nnames:\n  0: cup\n  1: traffic light\n"
    done, _ = convert("yolo_to_coco", write(tmp_path / "d.yaml", text), out="json")
    assert done.returncode == 0, done.stderr
    train = json.loads((tmp_path / "json" / "train.json").read_text())
    assert [i["file_name"] for i in train["images"]] == ["train/images/a.jpg", "train/images/b.jpg"]


def test_yolo_with_two_folders(convert, yolo, tmp_path):
    write(yolo / "train" / "labels" / "ghost.txt", "0 0.5 0.5 0.1 0.1")
    names = write(tmp_path / "classes.txt", "cup\ntraffic light\n")
    folders = (yolo / "train" / "images", yolo / "train" / "labels")
    done, content = convert("yolo_to_coco", *folders, "--classes", names)
    assert done.returncode == 0, done.stderr
    assert len(content["annotations"]) == 2
    assert "label files without an image, left out: 1" in done.stdout


def test_sizes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert image_size(image(tmp_path / "a.jpg", (30, 20), exif=exif)) == (20, 30)
    assert image_size(image(tmp_path / "b.jpg", (30, 20))) == (30, 20)


# There and back ----------------------------------------------------------------------------------

sizes = st.integers(8, 4000)
shares = st.floats(0.0, 1.0, allow_nan=False)


@given(width=sizes, height=sizes, xs=st.tuples(shares, shares), ys=st.tuples(shares, shares))
@settings(max_examples=200, deadline=None)
def test_a_yolo_row_comes_back_as_its_box(width, height, xs, ys):
    (x0, x1), (y0, y1) = sorted(xs), sorted(ys)
    row = f"0 {(x0 + x1) / 2!r} {(y0 + y1) / 2!r} {x1 - x0!r} {y1 - y0!r}"
    name, corners, polygon = parse_row(row, ["thing"], (width, height))
    assert name == "thing"
    assert polygon is None
    expected = [x0 * width, y0 * height, x1 * width, y1 * height]
    assert corners == pytest.approx(expected, abs=1e-6)


@given(boxes=st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_what_is_taken_in_is_a_sound_coco_file(boxes):
    collector = Collector()
    collector.image("x", "a.jpg", (50, 50))
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        collector.object(k, "a.jpg", f"class {k % 3}", (x0, y0, x1, y1))
    content = collector.content()
    good = [b for b in boxes if b[2] > b[0] and b[3] > b[1]]
    assert len(content["annotations"]) == len(good)
    assert len(collector.problems) == len(boxes) - len(good)
    assert collector.content() == content  # asking changes nothing
    if good:
        assert not list(format_problems(content))
        for a, (x0, y0, x1, y1) in zip(content["annotations"], good, strict=True):
            assert a["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert a["area"] == (x1 - x0) * (y1 - y0)


def test_pycocotools_and_our_reader_take_it(convert, tmp_path):
    convert("csv_to_coco", write(tmp_path / "labels.csv", CSV))
    coco = COCO(str(tmp_path / "out.json"))
    assert len(coco.getAnnIds()) == 3
    for name in ("a.jpg", "b.jpg"):
        image(tmp_path / name)
    dataset = JsonDataset("csv", str(tmp_path / "out.json"), str(tmp_path))
    assert dataset.classes == ["car", "cup, small"]
    assert [len(d["annotations"]) for d in dataset()] == [1, 2]


def test_the_order_of_rows_does_not_matter(convert, tmp_path):
    header, *lines = CSV.splitlines()
    _, first = convert("csv_to_coco", write(tmp_path / "a.csv", CSV))
    turned = "\n".join([header, lines[1], lines[0], lines[2]])
    _, second = convert("csv_to_coco", write(tmp_path / "b.csv", turned), out="second.json")
    assert first == second


def test_a_val_part_that_stays_when_images_come(convert, tmp_path):
    def split(count):
        rows = [f"{k}.jpg,100,80,car,0,0,50,40" for k in range(count)]
        path = write(tmp_path / "l.csv", "\n".join([CSV.splitlines()[0], *rows]))
        done, _ = convert("csv_to_coco", path, "--val-fraction", "0.25")
        assert done.returncode == 0, done.stderr
        parts = [json.loads((tmp_path / f"out_{s}.json").read_text()) for s in ("train", "val")]
        for part in parts:
            ids = {i["id"] for i in part["images"]}
            assert {a["image_id"] for a in part["annotations"]} == ids
            assert len(part["categories"]) == 1
        return [{i["file_name"] for i in part["images"]} for part in parts]

    train, val = split(200)
    assert len(train) + len(val) == 200
    assert 30 < len(val) < 70
    more_train, more_val = split(300)
    assert train <= more_train
    assert val <= more_val
