"""The run folder's files: streamed predictions come back equal, and nothing is half written."""

import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer import run_folder
from det_transfer.run_folder import PredictionWriter, read_predictions


def detections(rng, n, masks):
    rles = [
        {"size": [int(rng.integers(1, 99)), 7], "counts": rng.bytes(int(rng.integers(0, 9)))}
        for _ in range(n)
    ]
    return (
        rng.integers(1, 2000, n),
        rng.random(n, np.float32),
        rng.random((n, 4), np.float32) * 300,
        rles if masks else None,
    )


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), max_size=12),
    chunk=st.integers(1, 7),
    masks=st.booleans(),
    seed=st.integers(0, 9),
)
def test_predictions_round_trip(tmp_path_factory, counts, chunk, masks, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("parts") / "part-0.npz"
    rows = [detections(rng, n, masks) for n in counts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "_CHUNK", chunk)
        with PredictionWriter(path) as writer:
            for image_id, row in enumerate(rows):
                writer.add(image_id, *row)
    chunks = list(read_predictions(path))
    images = np.concatenate([c["images"] for c in chunks])
    assert images.tolist() == list(range(len(counts)))
    expected = np.repeat(np.arange(len(counts)), counts)
    assert np.concatenate([c["image_id"] for c in chunks]).tolist() == expected.tolist()
    for field, column in (("category_id", 0), ("score", 1), ("box", 2)):
        got = np.concatenate([c[field] for c in chunks])
        wanted = [row[column] for row in rows if len(row[1])]
        assert np.array_equal(got, np.concatenate(wanted) if wanted else got[:0])
    if masks:
        got = [rle for c in chunks for rle in c.get("rles", ())]
        assert got == [rle for row in rows for rle in row[3]]


def test_a_failed_writer_leaves_no_file(tmp_path):
    path = tmp_path / "part-0.npz"
    with contextlib.suppress(RuntimeError), PredictionWriter(path) as writer:
        writer.add(1, [1], [0.5], [[0, 0, 1, 1]])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_parts_in_order_of_rank(tmp_path):
    for rank in (10, 2, 0):
        (tmp_path / f"part-{rank}.npz").touch()
    parts = run_folder.prediction_parts(tmp_path)
    assert [p.name for p in parts] == ["part-0.npz", "part-2.npz", "part-10.npz"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    run_folder.write_json(path, {"ap": 1.0})
    with pytest.raises(TypeError):
        run_folder.write_json(path, {"ap": object()})
    assert run_folder.read_json(path) == {"ap": 1.0}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_what_has_to_last_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A power cut cannot be tried here: the calls can, and their order."""
    calls = []

    def fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append((path.name, path.stat().st_size if path.is_file() else "folder"))

    rename = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("renamed"), rename(a, b)))
    with run_folder.replacing(tmp_path / "page.html") as temporary:
        temporary.write_text("page")
    assert calls == ["renamed"]
    calls.clear()
    with run_folder.replacing(tmp_path / "last_checkpoint", lasting=True) as temporary:
        temporary.write_text("model_final.pth")
    assert calls == [(temporary.name, 15), "renamed", (tmp_path.name, "folder")]
    calls.clear()
    run_folder.write_json(tmp_path / "run.json", {})
    assert len(calls) == 3


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_drives_that_cannot_be_told_to_write(tmp_path, monkeypatch, number, fails):
    def fsync(descriptor):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no") if fails else contextlib.nullcontext():
        run_folder.write_json(tmp_path / "run.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ([] if fails else ["run.json"])


def test_leftovers_of_dead_processes_alone(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead = [tmp_path / f".model_0000003.pth.{ended.pid}.tmp"]
    dead.append(tmp_path / f"eval/val/predictions/.part-0.npz.{ended.pid}.tmp")
    dead.append(tmp_path / f".run.json.{os.getpid()}.tmp")  # of another process of this number
    others = [".model_0000005.pth.1.tmp", "model.pth", f"notes.{ended.pid}.tmp", ".mine.tmp"]
    living = [tmp_path / name for name in others]
    living.append(tmp_path / f".run.json.{10**30}.tmp")
    for path in (*dead, *living):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run_folder.remove_leftovers(tmp_path) == sorted(dead)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in living)
    assert run_folder.remove_leftovers(tmp_path / "nowhere") == []


def test_nan_becomes_null(tmp_path):
    path = tmp_path / "results.json"
    run_folder.write_json(path, {"AP": float("nan"), "list": (np.float32("inf"), np.int64(3))})
    assert run_folder.read_json(path) == {"AP": None, "list": [None, 3]}


def test_metrics_of_a_resumed_and_broken_log(tmp_path):
    rows = [{"iteration": 19, "loss": 2.0}, {"iteration": 39, "loss": 1.0}]
    again = [{"iteration": 39, "loss": 1.5}, {"iteration": 39, "bbox/AP": 3.0}]
    lines = [json.dumps(row) for row in rows + again] + ['{"iteration": 59, "lo']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    assert run_folder.read_metrics(tmp_path) == [
        {"iteration": 19, "loss": 2.0},
        {"iteration": 39, "loss": 1.5, "bbox/AP": 3.0},
    ]
    assert run_folder.read_metrics(tmp_path / "nowhere") == []
