"""What stands in the pages' blocks is run, in a folder where the names that they use exist."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from markdown_pages import IDS, PAGES, ROOT, blocks, shell_lines

import det_transfer
from det_transfer.testing import make_tiny_dataset, make_tiny_images

NAME = "pages_blocks_tiny"


@pytest.fixture(scope="module", autouse=True)
def no_dataset_stays():
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train.json, val.json, labels.csv and images, photos, a street: all drawn."""
    folder = tmp_path_factory.mktemp("blocks")
    path, images = make_tiny_dataset(folder, images=10)
    content = json.loads(path.read_text())
    for name, part in (("train", content["images"][:7]), ("val", content["images"][7:])):
        ids = {image["id"] for image in part}
        found = [a for a in content["annotations"] if a["image_id"] in ids]
        (folder / f"{name}.json").write_text(
            json.dumps({**content, "images": part, "annotations": found})
        )
    names = {image["id"]: image["file_name"] for image in content["images"]}
    rows = ["filename,class,xmin,ymin,xmax,ymax"]
    for a in content["annotations"]:
        x, y, width, height = a["bbox"]
        corners = f"{x},{y},{x + width},{y + height}"
        rows.append(f"{names[a['image_id']]},shape_{a['category_id']},{corners}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "photos").mkdir()
    for picture in sorted(images.iterdir())[:2]:
        shutil.copy(picture, folder / "photos")
    shutil.copy(picture, folder / "street.jpg")
    make_tiny_images(folder / "tiny-imagenet", per_class=4)
    return folder


@pytest.fixture
def project(data, tmp_path, monkeypatch):
    """A checkout of a kind: our programs, data, and a tiny recipe that is named as ours is."""
    for path in data.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name in ("tools", "datasets", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "configs").mkdir()
    entry = [NAME, str(data / "train.json"), str(data / "images")]
    (tmp_path / "configs" / "quickstart.yaml").write_text(
        f"_BASE_: {ROOT}/tests/engine/tiny.yaml\n"
        f"DATASETS: {{CUSTOM: [{json.dumps(entry)}], TRAIN: [{NAME}], TEST: [{NAME}]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """A run folder, trained once."""
    folder = tmp_path_factory.mktemp("made") / "mine"
    entry = [[NAME, str(data / "train.json"), str(data / "images")]]
    det_transfer.train(
        ROOT / "tests" / "engine" / "tiny.yaml",
        {
            "OUTPUT_DIR": str(folder),
            "DATASETS.CUSTOM": entry,
            "DATASETS.TRAIN": (NAME,),
            "DATASETS.TEST": (NAME,),
        },
    )
    return folder


@pytest.fixture
def runs(project, made):
    """Run folders under the names that the pages use."""
    for name in ("mine", "cells", "rooms", "cars"):
        shutil.copytree(made, project / "output" / name)


def run_python(page):
    space = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), space)
    return space


def shell(line, project):
    path = f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def block_with(page, words):
    """The first block of a page that has these words."""
    return next(b.text for b in blocks(ROOT / page) if not b.language and words in b.text)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_is_python(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")


def test_python_of_the_readme(project):
    space = run_python(ROOT / "README.md")
    assert (project / "output" / "first" / "model_final.pth").is_file()
    assert len(space["instances"].pred_class_names) == len(space["instances"])


def test_python_of_other_projects(project):
    space = run_python(ROOT / "docs" / "other_projects.md")
    assert type(space["model"]).__name__ == "TransferRetinaNet"
    assert space["before"]


def test_one_trunk_many_detectors(project, runs):
    make = next(shell_lines(block_with("docs/compose.md", "compose.py make")))
    shell(make, project)
    space = run_python(ROOT / "docs" / "compose.md")
    assert set(space["model"]("street.jpg")) == {"cells", "cars"}


@pytest.mark.slow
def test_the_readme_on_your_own_data(project):
    for line in shell_lines(block_with("README.md", "check_dataset.py")):
        shell(line, project)
    assert list((project / "output" / "mine" / "eval").rglob("results.json"))
    assert (project / "output" / "found" / "predictions.json").is_file()


@pytest.mark.slow
def test_from_labels_to_a_detector(project):
    for line in shell_lines(block_with("datasets/README.md", "csv_to_coco.py labels.csv")):
        shell(line, project)
    assert (project / "mine" / "data.jpg").is_file()
    assert (project / "output" / "found" / "predictions.json").is_file()


@pytest.mark.slow
def test_programs_on_a_run(project, runs):
    shell(block_with("docs/features.md", "compare_features.py"), project)
    assert (project / "output" / "mine" / "features.json").is_file()
    shell("python tools/make_report.py output/mine", project)
    assert (project / "output" / "mine" / "report.html").is_file()


@pytest.mark.slow
def test_the_programs_of_a_composition(project, runs):
    for line in shell_lines(block_with("docs/compose.md", "compose.py eval")):
        shell(line, project)
    assert list((project / "shared").rglob("results.json"))
    assert list((project / "found").rglob("predictions.json"))


@pytest.mark.slow
def test_the_exports(project, runs):
    for line in shell_lines(block_with("docs/export.md", "export.py")):
        shell(line, project)
    assert {"trunk.pt2", "backbone.onnx", "cells.pt2"} <= {p.name for p in project.iterdir()}


@pytest.mark.slow
def test_two_processes(project):
    shell(block_with("docs/scale_out.md", "--num-gpus 2 OUTPUT_DIR"), project)
    assert (project / "output" / "two" / "model_final.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words", "made"),
    [
        ("docs/growth.md", "configs/classification/digits.yaml", "digits_grown/model_final.pth"),
        ("docs/transferability.md", "transferability_digits.yaml", "transferability_digits"),
    ],
)
def test_classifiers_of_digits(project, page, words, made):
    shutil.rmtree(project / "configs")
    (project / "configs").symlink_to(ROOT / "configs")
    lines = shell_lines(block_with(page, words))
    for line in (line for line in lines if "digits" in line):
        shell(line, project)
    assert (project / "output" / made).exists()
