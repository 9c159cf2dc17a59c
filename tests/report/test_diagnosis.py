"""Error types, calibration, confusion and scores of images, each against a second, naive way."""

import json

import numpy as np
import pytest
from evaluation_cases import make_case
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.report.diagnosis import (
    calibration,
    confusion,
    error_types,
    image_scores,
    operating_point,
)
from det_transfer.report.gallery import choose
from det_transfer.report.matching import match
from det_transfer.report.truth import Found, read_truth


def read_case(seed, folder, **options):
    content, d = make_case(seed, ties=False, **options)
    path = folder / "case.json"
    path.write_text(json.dumps(content))
    truth = read_truth(path)
    places = np.searchsorted(truth.image_ids, d.image_ids)
    kinds = np.searchsorted(truth.category_ids, d.category_ids)
    return truth, Found(places, kinds, d.scores.astype(float), d.boxes.astype(float))


def overlap(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def greedy(truth, found, same_class=True):
    """{detection: object} at IoU 0.5, the best detection first."""
    pairs, taken = {}, set()
    for d in np.argsort(-found.scores, kind="stable").tolist():
        best = None
        for g in np.flatnonzero(truth.images == found.images[d]).tolist():
            if g in taken or (same_class and truth.categories[g] != found.categories[d]):
                continue
            value = overlap(found.boxes[d], truth.boxes[g])
            if value >= 0.5 and (best is None or value > best[0]):
                best = value, g
        if best:
            pairs[d] = best[1]
            taken.add(best[1])
    return pairs


def naive_types(truth, found):
    """TIDE's decision for each false alarm, and the objects that nothing explains.

    Source: Bolya et al. 2020, section 2.2, with 0.5 and 0.1.
    """
    pairs = greedy(truth, found)
    counts = dict.fromkeys(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), 0)
    explained = set(pairs.values())
    for d in range(len(found)):
        if d in pairs:
            continue
        same, other = [(0.0, -1)], [(0.0, -1)]
        for g in np.flatnonzero(truth.images == found.images[d]).tolist():
            mine = truth.categories[g] == found.categories[d]
            (same if mine else other).append((overlap(found.boxes[d], truth.boxes[g]), g))
        (near, g_near), (across, g_across) = max(same), max(other)
        if 0.1 <= near < 0.5:
            counts["Loc"] += 1
            explained.add(g_near)
        elif across >= 0.5:
            counts["Cls"] += 1
            explained.add(g_across)
        elif near >= 0.5:
            counts["Dupe"] += 1
        elif max(near, across) < 0.1:
            counts["Bkg"] += 1
        else:
            counts["Both"] += 1
    counts["Miss"] = len(truth.images) - len(explained)
    return counts


@pytest.mark.parametrize("seed", range(5))
def test_error_types_as_tide_defines_them(seed, tmp_path):
    options = {"images": 6, "instances": 30, "detections": 80, "crowds": 0}
    truth, found = read_case(seed, tmp_path, **options)
    errors = error_types(truth, found, 100)
    expected = naive_types(truth, found)
    assert errors.counts == expected
    matches = match(truth, found, areas=("all",))
    assert all(gain >= -1e-9 for gain in errors.gains.values())
    assert 0 <= errors.ap50 <= 100
    assert matches.hits["all"][0].sum() == len(greedy(truth, found))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_of_images_and_the_operating_point(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("case")
    truth, found = read_case(seed, folder, images=4, instances=15, detections=40, crowds=0)
    matches = match(truth, found, areas=("all",))
    right = set(greedy(truth, found))
    objects = len(truth.images)

    def f1(chosen, total):
        hits = sum(d in right for d in chosen)
        return 1.0 if not chosen and not total else 2 * hits / (len(chosen) + total)

    by_score = {s: [d for d in range(len(found)) if found.scores[d] >= s] for s in found.scores}
    best = max(f1(chosen, objects) for chosen in by_score.values())
    score = operating_point(matches)
    assert f1(by_score[score], objects) == pytest.approx(best)
    for image, value in enumerate(image_scores(matches, score)):
        chosen = [d for d in by_score[score] if found.images[d] == image]
        assert value == pytest.approx(f1(chosen, int((truth.images == image).sum())))


def test_calibration_by_its_formula(tmp_path):
    truth, found = read_case(3, tmp_path, images=6, instances=40, detections=150, crowds=0)
    result = calibration(match(truth, found, areas=("all",)), min_score=0.05)
    right = set(greedy(truth, found))
    rows = [(found.scores[d], d in right) for d in range(len(found)) if found.scores[d] >= 0.05]
    gap = 0.0
    for low in np.arange(10) / 10:
        mine = [(s, hit) for s, hit in rows if low <= s < low + 0.1]
        if mine:
            scores, hits = zip(*mine, strict=True)
            gap += len(mine) / len(rows) * abs(np.mean(scores) - np.mean(hits))
    assert result.ece == pytest.approx(100 * gap)
    assert result.detections == len(rows) == sum(count for _, count, _, _ in result.bins)


def test_confusion_counts_every_object_once(tmp_path):
    truth, found = read_case(4, tmp_path, images=6, instances=30, detections=90, crowds=0)
    result = confusion(truth, found, 100, 0.2)
    objects = np.bincount(truth.categories, minlength=len(truth.names))
    assert result.matrix[:-1].sum(axis=1).tolist() == objects.tolist()
    shown = found.take(np.flatnonzero(found.scores >= 0.2))
    assert result.matrix[:, :-1].sum() == len(shown)
    matched = greedy(truth, shown, same_class=False)
    assert result.matrix[:-1, :-1].sum() == len(matched)
    for a, b, n, share in result.worst(3):
        assert a != b
        assert n == result.matrix[result.names.index(a), result.names.index(b)]
        assert share == pytest.approx(100 * n / objects[result.names.index(a)])


def test_nothing_found(tmp_path):
    truth, found = read_case(1, tmp_path, detections=0)
    matches = match(truth, found, areas=("all",))
    assert calibration(matches) is None
    assert operating_point(matches) == 0
    scores = image_scores(matches, 0.5)
    assert set(scores.tolist()) <= {0.0, 1.0}


def test_which_pictures():
    scores = np.array([0.9, 0.1, 0.5, 0.5, 1.0, 0.0])
    weight = np.array([3, 3, 3, 9, 1, 0])
    assert choose(scores, weight, 1) == {"best": [4], "typical": [3], "worst": [1]}
    assert choose(scores, weight, 9)["best"] == [
        4,
        0,
        3,
        2,
        1,
    ]  # none twice, the empty one left out
    assert choose(scores, np.zeros(6), 1)["best"] == [4]
