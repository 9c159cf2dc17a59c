"""tools/train_classifier.py and run_growth.py as a user starts them."""

from pathlib import Path

import pytest
import yaml
from programs import start

from det_transfer import run_folder
from det_transfer.testing import make_tiny_images

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "classification" / "tiny_classifier.yaml"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = str(make_tiny_images(tmp_path_factory.mktemp("shapes")))
    return [["train", "images", folder, "train"], ["test", "images", folder, "test"]]


def test_a_mistake_is_one_line_and_exit_code_2(sets, tmp_path):
    done = start(
        "tools/train_classifier.py",
        *("--config-file", TINY, "DATASETS.CLASSIFICATION", repr(sets)),
        *("MODEL.CLASSIFIER.SCOPE", "FC9-New", "OUTPUT_DIR", tmp_path / "run"),
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: MODEL.CLASSIFIER.SCOPE 'FC9-New': there is no layer FC9;")
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_experiment_from_a_plan(sets, tmp_path):
    """A source, two ways of growing it, and the table; started again, nothing is repeated."""
    plan = {
        "program": "tools/train_classifier.py",
        "config": str(TINY),
        "options": {"DATASETS.CLASSIFICATION": sets},
        "runs": {
            "source": None,
            "target": {
                "needs": "source",
                "seeds": [1, 2],
                "options": {
                    "MODEL.WEIGHTS": "{source}/model_final.pth",
                    "MODEL.CLASSIFIER.TASK": "other",
                },
                "grid": {
                    "method": {
                        "FT": {},
                        "WA": {"MODEL.GROWTH.KIND": "widen", "MODEL.GROWTH.SIZES": [8]},
                    },
                    "scope": {"New": {"MODEL.CLASSIFIER.SCOPE": "New"}},
                },
            },
        },
    }
    path, folder = tmp_path / "plan.yaml", tmp_path / "growth_table1"
    path.write_text(yaml.safe_dump(plan))
    for _ in range(2):
        done = start("tools/run_growth.py", path, "--output", folder)
        assert done.returncode == 0, done.stderr[-3000:]
        text = (folder / "table.md").read_text()
        assert "/ 53.63 |" in text
        assert "/ 56.81 |" in text
    record = run_folder.read_json(folder / "target_WA_New_s2" / "run.json")
    assert record["growths"] == ["widen 8"]
    runs = [f"--run={m}={folder}/target_{m}_New_s1" for m in ("FT", "WA")]
    runs.append(f"--run=source={folder}/source")
    where = ("--dataset", "test", "--output", tmp_path / "analysis")
    done = start("tools/analyze_growth.py", *runs, *where)
    assert done.returncode == 0, done.stderr[-3000:]
    content = run_folder.read_json(tmp_path / "analysis" / "analysis.json")
    found = content["runs"]
    assert found["WA"]["blocks"].keys() == {"all", "FC7", "FC7+"}
    assert found["source"]["blocks"].keys() == {"all", "FC7"}
    assert found["WA"]["movement"]["FC7"] == 0
    assert content["units"].keys() == {"FC7", "FC7+"}
    pictures = {file.name for file in (tmp_path / "analysis" / "pictures").iterdir()}
    assert pictures == {"tsne.jpg", "units_FT.jpg", "units_WA.jpg", "units_source.jpg"}
    said = ("--title", "Looking", "--question", "What?", "--growth-analysis")
    named = ("collect", "looked", *said, tmp_path / "analysis")
    done = start("tools/make_results.py", "--root", tmp_path, *named)
    assert done.returncode == 0, done.stderr[-3000:]
    content = run_folder.read_json(tmp_path / "docs" / "results" / "looked.json")
    rows = {row["side"]: row for row in content["results"]}
    assert rows["WA"]["top-1 of FC7+ alone"] == found["WA"]["blocks"]["FC7+"]
    assert rows["WA"]["moved, FC7"] == 0
    assert len(content["pictures"]) == 4
    done = start("tools/analyze_growth.py", *runs, *where, "--unit", "FC7:99")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: --unit FC7:99: there is FC7:0 to FC7:15, FC7+:0 to FC7+:7"
    )


@pytest.mark.slow
def test_two_processes_grow_alike(sets, tmp_path):
    """Grown on the way in two processes; both go on with one model."""
    done = start(
        *("tools/train_classifier.py", "--num-gpus", "2", "--dist-url", "auto"),
        *("--config-file", TINY, "DATASETS.CLASSIFICATION", repr(sets)),
        *("MODEL.GROWTH.KIND", "widen", "MODEL.GROWTH.SIZES", "[8]", "MODEL.GROWTH.AT", "3"),
        *("OUTPUT_DIR", tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = run_folder.read_json(tmp_path / "run" / "run.json")
    assert (record["processes"], record["growths"]) == (2, ["widen 8"])
    assert run_folder.read_json(tmp_path / "run" / "eval" / "test" / "results.json")["images"] == 24
