"""VOC, YOLO and csv into COCO: mistakes in the files, and what is said of them."""

import pytest
from converter_files import CSV, LABELIMG, image, write

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
