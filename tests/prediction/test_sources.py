"""What is found in folders, how it is read, and what is left out."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from det_transfer.errors import UserError
from det_transfer.prediction import Reader, find_sources, sources
from det_transfer.prediction.sources import _different


def picture(path, size=(20, 10), colour="red", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def video(path, frames=5, size=(32, 24), fps=10.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 40 * number, np.uint8))
    writer.release()
    return path


def test_folders_are_searched_to_the_bottom_and_files_taken_as_they_are(tmp_path):
    folder = tmp_path / "in"
    for name in ("b.png", "deep/er/a.JPG", "deep/clip.mp4", "notes.txt", "out/pictures/b.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    odd = tmp_path / "photo.data"
    odd.touch()
    found = find_sources([folder, odd], folder / "out")
    assert [(s.name, s.drawn, s.is_video) for s in found] == [
        ("b.png", "b.jpg", False),
        ("deep/clip.mp4", "deep/clip.mp4", True),
        ("deep/er/a.JPG", "deep/er/a.jpg", False),
        ("photo.data", "photo.jpg", False),
    ]


@given(st.lists(st.sampled_from(["a.jpg", "a_2.jpg", "a_3.jpg", "b/a.jpg", "b.mp4"]), max_size=12))
def test_no_two_are_drawn_over_each_other(names):
    result = _different(names)
    assert len(set(result)) == len(names)
    for new, name in zip(result, names, strict=True):
        assert new.rsplit(".")[0].startswith(name.rsplit(".")[0])
        assert new.endswith(name[-4:])
    assert result[:1] == names[:1]


def test_what_is_not_there_is_said_all_at_once(tmp_path):
    with pytest.raises(UserError, match=r"(?s)nowhere does not exist\n.*nothing does not exist"):
        find_sources([tmp_path / "nowhere", tmp_path / "nothing"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no image and no video is there"):
        find_sources([tmp_path / "empty"], tmp_path / "out")


def test_what_cannot_be_read_is_said_and_left_out(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("no picture")
    whole = picture(tmp_path / "c.png", (300, 300)).read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    jpeg = picture(tmp_path / "d.jpg", (300, 300)).read_bytes()
    (tmp_path / "d.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "e.mp4").write_text("no video")
    (tmp_path / "f.jpg").touch()
    picture(tmp_path / "g.jpg")
    said = []
    reader = Reader(find_sources([tmp_path], tmp_path / "out"), said.append)
    assert [frame.source.name for frame in reader] == ["a.png", "g.jpg"]
    assert reader.skipped == 5
    assert [line.split("/")[-1].split(":")[0] for line in said] == [
        "b.jpg",
        "c.png",
        "d.jpg",
        "e.mp4",
        "f.jpg",
    ]
    assert all(line.startswith("skipped: ") and "\n" not in line for line in said)


def test_pictures_stand_upright_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it"
    picture(tmp_path / "a.jpg", (20, 10), exif=exif)
    (frame,) = Reader(find_sources([tmp_path], tmp_path / "out"))
    assert frame.picture.size == (10, 20)
    assert frame.picture.getexif().get(0x0112) is None  # the detector would turn it again


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    ending = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (8, 6)).save(tmp_path / f"a.{ending}")
    (frame,) = Reader(find_sources([tmp_path], tmp_path / "out"))
    assert (frame.picture.mode, frame.picture.size) == ("RGB", (8, 6))


def test_frames_of_a_video_in_their_order(tmp_path):
    video(tmp_path / "clip.mp4")
    picture(tmp_path / "z.jpg")
    reader = Reader(find_sources([tmp_path], tmp_path / "out"))
    assert reader.total() == 6
    frames = list(reader)
    assert [(f.source.name, f.number, f.fps) for f in frames] == [
        *(("clip.mp4", number, 10.0) for number in range(5)),
        ("z.jpg", 0, 0.0),
    ]
    greys = [np.asarray(f.picture).mean() for f in frames[:5]]
    assert greys == pytest.approx([0, 40, 80, 120, 160], abs=6)


def test_videos_are_red_where_they_are_red(tmp_path):
    writer = cv2.VideoWriter(
        str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, (32, 32)
    )
    writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))  # OpenCV's order is BGR
    writer.release()
    (frame,) = Reader(find_sources([tmp_path], tmp_path / "out"))
    red, green, blue = np.asarray(frame.picture).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(green, blue) < 50


def test_without_opencv_videos_are_left_out(tmp_path, monkeypatch):
    path = video(tmp_path / "clip.mp4")
    picture(tmp_path / "z.jpg")
    monkeypatch.setattr(sources, "cv2", None)
    said = []
    reader = Reader(find_sources([tmp_path], tmp_path / "out"), said.append)
    assert reader.total() == 1
    assert [frame.source.name for frame in reader] == ["z.jpg"]
    assert said == [f"skipped: {path}: a video needs OpenCV: pip install opencv-python-headless"]


def test_only_one_picture_is_held_at_a_time(tmp_path):
    """Reading is lazy: what comes later is opened later."""
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    frames = iter(Reader(find_sources([tmp_path], tmp_path / "out")))
    next(frames)
    (tmp_path / "1.png").unlink()
    assert [frame.source.name for frame in frames] == ["2.png"]
