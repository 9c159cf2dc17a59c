"""Annotations in COCO and LVIS format, as training, evaluation and pages read them."""

import json
import sys
from pathlib import Path

import pytest
from damage import broken, damaged, many, told
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.data.checks import check_annotations, format_findings
from det_transfer.data.datasets.coco_format import JsonDataset, read_annotations
from det_transfer.report.dataset import DatasetFacts
from det_transfer.report.truth import mask_codes, read_truth
from det_transfer.testing import make_tiny_dataset

sys.path.append(str(Path(__file__).parents[2] / "datasets"))
from coco_to_lvis import convert, read_all


@pytest.fixture(scope="module", params=["coco", "lvis"])
def tiny(request, tmp_path_factory):
    """(style, content, json file to write, image folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    file, images = make_tiny_dataset(folder, style=request.param, images=3, classes=2)
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = {"size": [96, 128], "counts": [5, 20, 12263]}
    content["annotations"][1]["iscrowd"] = 1
    return request.param, content, file, images


def as_training(file, images, masks):
    dataset = JsonDataset("fuzzed", str(file), str(images), masks=masks)
    said = format_findings(dataset.check.findings)
    assert said or not dataset.check.findings
    if not dataset.check.fatal:  # the catalog stops there
        return dataset()
    return None


def as_checked(file, images):
    content = read_annotations(str(file))
    return format_findings(check_annotations(content, images).findings), DatasetFacts.of(content)


def as_page(file, style, masks):
    truth = read_truth(file, style, masks=masks)
    return truth.files, truth.codes(truth.images, truth.categories)


@many
@given(st.data())
def test_damaged(tiny, data):
    style, content, file, images = tiny
    file.write_text(json.dumps(data.draw(damaged(content))))
    masks = data.draw(st.booleans())
    told(as_training, file, images, masks)
    told(as_page, file, style, masks)
    told(as_checked, file, images)
    if style == "coco":
        told(lambda: convert(read_all([file]), None, 0))


@many
@given(st.data())
def test_broken(tiny, data):
    style, content, file, images = tiny
    file.write_bytes(data.draw(broken(json.dumps(content).encode())))
    told(as_training, file, images, True)
    told(as_page, file, style, True)


@many
@given(st.data())
def test_masks_of_a_page(tiny, data):
    """Of a file that training takes, those that its page draws."""
    style, content, file, images = tiny
    content = {**content, "annotations": data.draw(damaged(content["annotations"], most=1))}
    file.write_text(json.dumps(content))
    truth = told(read_truth, file, style, masks=True)
    if truth is not None and told(as_training, file, images, True):
        told(mask_codes, truth)
