"""VOC, YOLO and csv into COCO, on files as the tools write them."""

import importlib
import json
from types import SimpleNamespace

import pytest
from coco_json import Collector, image_size
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from yolo_to_coco import parse_row

from det_transfer.data.checks import format_problems
from det_transfer.data.datasets.coco_format import JsonDataset
from det_transfer.engine.launch import run

# As the tools write them -------------------------------------------------------------------------

LABELIMG = """<annotation>
\t<folder>images</folder>
\t<filename>street one.jpg</filename>
\t<path>C:\\Users\\me\\images\\street one.jpg</path>
\t<source>
\t\t<database>Unknown</database>
\t</source>
\t<size>
\t\t<width>100</width>
\t\t<height>80</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>traffic light</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>1</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>10</xmin>
\t\t\t<ymin>20</ymin>
\t\t\t<xmax>30</xmax>
\t\t\t<ymax>60</ymax>
\t\t</bndbox>
\t</object>
\t<object>
\t\t<name>car</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>1</difficult>
\t\t<bndbox>
\t\t\t<xmin>1</xmin>
\t\t\t<ymin>1</ymin>
\t\t\t<xmax>100</xmax>
\t\t\t<ymax>80</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""

# VOC 2007: coordinates from 1, parts of a person with boxes of their own.
VOC2007 = """<annotation>
  <folder>VOC2007</folder>
  <filename>000001.jpg</filename>
  <source><database>The VOC2007 Database</database><image>flickr</image></source>
  <owner><flickrid>x</flickrid><name>owner</name></owner>
  <size><width>100</width><height>80</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>person</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>11</ymin><xmax>100</xmax><ymax>80</ymax></bndbox>
    <part><name>head</name>
      <bndbox><xmin>40</xmin><ymin>20</ymin><xmax>50</xmax><ymax>30</ymax></bndbox></part>
  </object>
</annotation>
"""

# CVAT: fractions, subfolders, attributes and no <difficult>.
CVAT = """<annotation>
  <folder></folder>
  <filename>day/frame_000001.PNG</filename>
  <size><width>100</width><height>80</height><depth></depth></size>
  <segmented>0</segmented>
  <object>
    <name>car</name><occluded>0</occluded>
    <bndbox><xmin>10.25</xmin><ymin>20.5</ymin><xmax>30.75</xmax><ymax>40.0</ymax></bndbox>
    <attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>
  </object>
</annotation>
"""

# TensorFlow's xml_to_csv, with a class that has a comma in its name.
CSV = """filename,width,height,class,xmin,ymin,xmax,ymax
b.jpg,100,80,"cup, small",10,20,30,60
a.jpg,100,80,car,0,0,50,40
b.jpg,100,80,car,5,5,25,35
"""

DATA_YAML = """train: ../train/images
val: ../valid/images

nc: 2
names: ['cup', 'traffic light']

roboflow:
  license: CC BY 4.0
"""


@pytest.fixture
def convert(tmp_path, capsys):
    """Call a converter as its command line would; gives the outcome and the json it wrote."""

    def call(name, *args, out="out.json"):
        module = importlib.import_module(name)
        code = run(module.main, module.parse_args([*map(str, args), "--out", str(tmp_path / out)]))
        said = capsys.readouterr()
        path = tmp_path / out
        content = json.loads(path.read_text()) if path.is_file() else None
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err), content

    return call


@pytest.mark.parametrize("name", ["voc_to_coco", "yolo_to_coco", "csv_to_coco"])
def test_each_is_a_program(script, name):
    done = script(f"{name}.py", "nowhere", *(("labels",) if name == "yolo_to_coco" else ()))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def image(path, size=(100, 80), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path, **options)
    return path


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


@pytest.fixture
def yolo(tmp_path):
    """A set as Roboflow exports it: boxes, a polygon, an empty label file, one without."""
    root = tmp_path / "yolo"
    for name in ("a", "b", "c"):
        image(root / "train" / "images" / f"{name}.jpg")
    image(root / "valid" / "images" / "d.png", (200, 100))
    write(root / "train" / "labels" / "a.txt", "1 0.2 0.5 0.2 0.5\r\n0 0.5 0.5 1 1 \r\n")
    write(root / "train" / "labels" / "b.txt", "")
    write(root / "valid" / "labels" / "d.txt", "0 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6")
    write(root / "data.yaml", DATA_YAML)
    return root


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


# Mistakes ----------------------------------------------------------------------------------------

ROW = "a.jpg,100,80,car,0,0,50,40\n"
HEADER = CSV.splitlines()[0] + "\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEADER + "a.jpg,100,80,car,0,0,x,40\n", "labels.csv, line 2: xmax is 'x', no number"),
        (HEADER + "a.jpg,100,80,car,50,0,50,40\n", "line 2: the box (50, 0, 50, 40) has no area"),
        (HEADER + "a.jpg,100,80,car,0,0,150,40\n", "is outside of its image of 100 x 80 px"),
        (HEADER + "a.jpg,100,80,car,0,0,nan,40\n", "is not finite"),
        (HEADER + "a.jpg,100,80,cup, small,0,0,5,4\n", "1 fields more than the header"),
        (HEADER + ROW + "a.jpg,99,80,car,0,0,9,9\n", "line 3: a.jpg is 99 x 80 px here and 100 x"),
        (HEADER + "a.jpg,0,80,car,0,0,9,9\n", "a.jpg has the size 0 x 80 px"),
        (HEADER + "a.jpg,100,80,,0,0,9,9\n", "class is empty"),
        (HEADER + ",100,80,car,0,0,9,9\n", "filename is empty"),
        ("a.jpg,0,0,50,40,car\n", "line 1: no column filename, class, xmin"),
        (HEADER, "no image is left to write"),
    ],
)
def test_a_bad_csv_is_told_and_nothing_is_written(convert, tmp_path, text, line):
    done, content = convert("csv_to_coco", write(tmp_path / "labels.csv", text))
    assert done.returncode == 2
    assert line in done.stderr
    assert content is None
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("<xmax>30", "<xmax>", "object 1: <xmax> is '', no number"),
        ("<xmax>30", "<xmax>5", "object 1: the box (10, 20, 5, 60) has no area"),
        ("<name>car</name>", "", "object 2: has no <name>"),
        ("</annotation>", "", "is no xml"),
        ("<annotation>", "<!DOCTYPE a>\n<annotation>", "has a document type"),
        ("<filename>street one.jpg", "<filename>street one", "say --images FOLDER"),
        ("<width>100", "<width>0", "has no <size> of the image"),
    ],
)
def test_a_bad_voc_file(convert, tmp_path, old, new, line):
    write(tmp_path / "xml" / "a.xml", LABELIMG.replace(old, new))
    done, content = convert("voc_to_coco", tmp_path / "xml")
    assert done.returncode == 2
    assert line in done.stderr
    assert content is None
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("2 0.5 0.5 0.1 0.1", "a.txt, line 1: the class 2 is none of 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "the class 0.5 is none of"),
        ("0 0.5 0.5 0.1", "has 4 numbers; a box has 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "has 6 numbers: a prediction with its score"),
        ("cup 0.5 0.5 0.1 0.1", "is not a row of numbers"),
        ("0 50 50 10 10", "line 1: 50 is no share of the image, 0 to 1; is it in pixels?"),
        ("0 0.5 0.5 0.4 -0.1", "-0.1 is no share of the image"),
        ("0 nan 0.5 0.4 0.1", "nan is no share of the image"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "has 8 numbers"),
    ],
)
def test_a_bad_yolo_row(convert, yolo, row, line, tmp_path):
    write(yolo / "train" / "labels" / "a.txt", row)
    done, _ = convert("yolo_to_coco", yolo / "data.yaml", out="json")
    assert done.returncode == 2
    assert line in done.stderr
    assert not (tmp_path / "json").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: x\n", "it has no names"),
        ("names: [a, a]\ntrain: train/images\n", "'a' is there twice"),
        ("names: [a]\ntrain: nowhere\n", "nowhere does not exist"),
        ("names: [a]\n", "names no images"),
        ("names: {0: a, 2: b}\ntrain: train/images\n", "names has no entry 1"),
        ("names: [a\n", "cannot be read"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: train/images\n", "keypoints are not converted"),
    ],
)
def test_a_bad_data_yaml(convert, yolo, text, line):
    write(yolo / "data.yaml", text)
    done, _ = convert("yolo_to_coco", yolo / "data.yaml", out="json")
    assert done.returncode == 2
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_yolo_labels_that_are_elsewhere_or_shared(convert, yolo):
    image(yolo / "train" / "images" / "a.png")
    done, _ = convert("yolo_to_coco", yolo / "data.yaml", out="json")
    assert done.returncode == 2
    assert "a.txt: belongs to two images:" in done.stderr
    (yolo / "train" / "labels").rename(yolo / "train" / "annotations")
    done, _ = convert("yolo_to_coco", yolo / "data.yaml", out="json")
    assert done.returncode == 2
    assert "train: none of the 4 images has a label file; for " in done.stderr
    assert "train/labels/a.txt" in done.stderr


def test_bad_objects_can_be_left_out_and_are_counted(convert, tmp_path):
    text = HEADER + ROW + "a.jpg,100,80,car,50,0,50,40\nb.jpg,100,80,car,0,0,x,40\n"
    done, content = convert("csv_to_coco", write(tmp_path / "l.csv", text), "--skip-bad")
    assert done.returncode == 0
    assert len(content["annotations"]) == 1
    assert "left out as bad: 2, the first" in done.stdout


def test_many_problems_are_told_up_to_twenty(convert, tmp_path):
    rows = "".join(f"a.jpg,100,80,car,{k},0,{k},40\n" for k in range(30))
    done, _ = convert("csv_to_coco", write(tmp_path / "l.csv", HEADER + rows))
    assert done.stderr.count("has no area") == 20
    assert "and 10 more" in done.stderr


def test_a_class_list_is_held(convert, tmp_path):
    names = write(tmp_path / "classes.txt", "car\ncup small\n")
    path = write(tmp_path / "l.csv", CSV)
    done, _ = convert("csv_to_coco", path, "--classes", names)
    assert done.returncode == 2
    assert (
        "the class 'cup, small' is not among the classes; did you mean 'cup small'?" in done.stderr
    )
    write(names, "cup, small\nbus\ncar\n")
    _, content = convert("csv_to_coco", path, "--classes", names)
    assert [c["name"] for c in content["categories"]] == ["cup, small", "bus", "car"]


def test_a_pixel_beyond_the_edge_is_cut(convert, tmp_path):
    text = HEADER + "a.jpg,100,80,car,-1,0,100.5,40\n"
    done, content = convert("csv_to_coco", write(tmp_path / "l.csv", text))
    assert content["annotations"][0]["bbox"] == [0, 0, 100, 40]
    assert "boxes cut at the edge of their image by a pixel or less: 1" in done.stdout
