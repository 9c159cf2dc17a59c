"""tools/check_dataset.py as a user starts it: exit codes, text, json and picture."""

import json
from pathlib import Path

import programs


def start(*words):
    return programs.start("tools/check_dataset.py", *words)


def test_sound_data(tiny_coco, tmp_path):
    done = start(*tiny_coco, "--json", tmp_path / "r.json", "--picture", tmp_path / "r.png")
    assert done.returncode == 0, done.stderr
    assert "8 images" in done.stdout
    assert isinstance(json.loads((tmp_path / "r.json").read_text()), dict)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_data_on_which_training_would_fail(tiny_coco, tmp_path):
    content = json.loads(Path(tiny_coco[0]).read_text())
    for annotation in content["annotations"]:
        annotation["category_id"] = 77
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(content))
    done = start(broken, tiny_coco[1])
    assert done.returncode == 2
    assert "77" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there(tiny_coco, tmp_path):
    done = start(tmp_path / "nowhere.json", tiny_coco[1])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "nowhere.json" in done.stderr
