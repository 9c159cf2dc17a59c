"""From a plan's section to runs, and carrying it out."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from det_transfer import run_folder
from det_transfer.classification.transfer_plan import SECTION, read_experiment
from det_transfer.engine.plan import Status, look_at, read_plan
from det_transfer.errors import UserError

ROOT = Path(__file__).parents[2]
TINY = str(Path(__file__).parent / "tiny_classifier.yaml")
SECTION_OF = {
    "train": ["images", "data", "train"],
    "test": ["images", "data", "test"],
    "splits": {"r": {"kind": "random", "seed": 0}},
    "layers": [1, 7, 8],
    "seeds": [0],
}


def section(**changes):
    return {**copy.deepcopy(SECTION_OF), **changes}


def experiment(**changes):
    return read_experiment(section(**changes), {"config": TINY})


def names(found):
    return [run.name for run in found.runs]


@pytest.fixture
def tool(monkeypatch):
    """tools/run_transferability.py as a module, without its page."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(ROOT)
    import run_transferability

    monkeypatch.setattr(run_transferability, "write_page", lambda folder: None)
    return run_transferability


@pytest.fixture
def plan(tmp_path, shapes):
    """Write a plan on the shapes; gives its path."""

    def write(options=None, **changes):
        sets = {part: ["images", str(shapes), part] for part in ("train", "test")}
        short = {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": [], "SOLVER.CHECKPOINT_PERIOD": 100}
        content = {
            "program": "tools/train_classifier.py",
            "config": TINY,
            "output": str(tmp_path / "runs"),
            "options": {**short, **(options or {})},
            SECTION: section(**{**sets, **changes}),
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


# What a section says -----------------------------------------------------------------------------


def test_all_treatments_in_both_directions():
    found = experiment()
    assert names(found)[:2] == ["r_baseA_s0", "r_baseB_s0"]
    assert sorted(run.label for run in found.runs) == sorted(
        ["baseA", "baseB"]
        + [f"{s}{n}{t}{plus}" for n in (1, 7) for s in "AB" for t in "AB" for plus in ("", "+")]
        + ["A8A", "B8B"]  # all layers: only as a check that it is the base
        + [f"R{n}{t}" for n in (1, 7) for t in "AB"]
    )
    assert found.layers[-1] == "classifier"
    assert len(found.layers) == 8
    first = next(run for run in found.runs if run.label == "A7B+")
    assert (first.source, first.base.name) == ("A", "r_baseA_s0")
    assert first.as_dict() == {
        "name": "r_A7B+_s0",
        "split": "r",
        "seed": 0,
        "treatment": "AnB+",
        "source": "A",
        "target": "B",
        "n": 7,
        "extra": 0,
        "shots": None,
        "label": "A7B+",
    }


def test_one_direction_has_the_bases_that_it_needs():
    found = names(experiment(directions=["B"], treatments=["AnB"], layers=[3]))
    assert found == ["r_baseB_s0", "r_baseA_s0", "r_A3B_s0"]


def test_fewer_examples_and_further_layers():
    found = experiment(treatments=["BnB", "AnB"], layers=[2], shots=[None, 5], extra=[0, 1])
    assert [name for name in names(found) if "B_" in name and "A2" in name] == [
        "r_A2B_s0",
        "r_A2B_s0_extra1",
        "r_A2B_s0_shots5",
        "r_A2B_s0_extra1_shots5",
    ]
    by_name = {run.name: run for run in found.runs}
    # The other half gives what it learned of all its images.
    assert by_name["r_A2B_s0_shots5"].base.name == "r_baseA_s0"
    assert by_name["r_B2B_s0_shots5"].base.name == "r_baseB_s0_shots5"
    options = by_name["r_A2B_s0_extra1_shots5"].options(
        Path("out"), ("r", "p", "t"), ("r", "p", "v")
    )
    assert options["DATASETS.TRAIN_SHOTS"] == 5
    assert options["MODEL.TRANSFER.EXTRA"] == 1
    assert options["MODEL.REUSE.DROPOUT"] == "kept"
    assert options["DATASETS.CLASSIFICATION"][0] == ["B_train", "r", "p", "t@out/splits/r.tsv=B"]


def test_further_layers_are_for_what_is_copied_and_frozen():
    found = names(experiment(layers=[2], extra=[1], directions=["B"]))
    copied = ["r_B2B_s0_extra1", "r_B2B+_s0", "r_A2B_s0_extra1", "r_A2B+_s0", "r_R2B_s0"]
    assert [name for name in found if "base" not in name] == copied


def test_of_fewer_examples_the_bases_alone():
    found = experiment(treatments=["base"], layers=[1], shots=[5], directions=["B"])
    assert names(found) == ["r_baseB_s0_shots5"]


def test_a_config_that_takes_a_part_of_the_images(tmp_path):
    path = tmp_path / "few.yaml"
    path.write_text(f"_BASE_: {TINY}\nDATASETS: {{TRAIN_FRACTION: 0.5}}\n")
    with pytest.raises(UserError, match=r"few\.yaml takes a part .* said by the section's shots"):
        read_experiment(section(), {"config": str(path)})


def test_the_runs_are_of_classifiers_whatever_the_plan_leaves_out():
    made = experiment(treatments=["BnB"], layers=[1]).templates(Path("out"))
    assert {run["program"] for run in made.values()} == {"tools/train_classifier.py"}


def test_a_split_may_have_its_own_treatments():
    splits = {
        "r": {"kind": "random", "seed": 0},
        "s": {"kind": "random", "seed": 1, "treatments": ["random"]},
    }
    found = experiment(splits=splits, treatments=["BnB"], layers=[1], directions=["A"])
    assert names(found) == ["r_baseA_s0", "r_A1A_s0", "s_baseA_s0", "s_R1A_s0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": [9]}, "layers has n = 9, but the network has 8 layers: 1 conv1, 2 conv2"),
        ({"layers": [0]}, "layers has 0; each is a whole number >= 1"),
        ({"layers": 3}, "layers is 3; it is a list"),
        ({"treatments": ["AnC"]}, "there is no treatment 'AnC'; there is base, BnB, BnB+"),
        ({"directions": ["C"]}, "directions has 'C'"),
        ({"depth": [1]}, "there is no key depth"),
        ({"seeds": [True]}, "seeds has True; each is a whole number >= 0"),
        ({"layers": [8], "treatments": ["AnB"]}, "layers has 8, which gives no run: with all 8"),
        ({"layers": [8], "treatments": ["BnB", "AnB"]}, "treatments has AnB, which gives no run"),
        ({"layers": [7], "extra": [0, 1]}, "extra has 1, which gives no run: n and the further"),
        ({"splits": {"x": {"kind": "random", "seed": 2**32}}}, "seed is 4294967296; it is a whole"),
        ({"splits": {"x": {"kind": "random", "seed": True}}}, "seed is True; it is a whole"),
        ({"train": None}, "train is missing"),
        ({"train": ["images"]}, "it is [reader, path, split]"),
        ({"test": ["images", "data", "test@a.txt"]}, "test chooses classes by itself, test@a.txt"),
        ({"splits": {"x": {"kind": "half"}}}, "split x: kind is 'half'"),
        ({"shots": [0]}, "shots has 0"),
        ({"splits": {"my half": {"kind": "random", "seed": 0}}}, "split my half: a name has"),
        ({"splits": {"a/b": {"kind": "random", "seed": 0}}}, "split a/b: a name has letters"),
        ({"splits": {"x": {"kind": ["random"]}}}, "split x: kind is ['random']"),
        ({"splits": {"x": {"kind": "random", "treatments": "BnB"}}}, "x: treatments is 'BnB'; it"),
        ({"treatments": [["BnB"]]}, "there is no treatment"),
        ({"treatments": []}, "treatments is empty; leave it out for all of them"),
        ({"splits": {"x": {"kind": "random", "treatments": []}}}, "split x: treatments is empty"),
        ({"layers": [7], "extra": [7]}, "extra has 7, which gives no run: n and the further"),
    ],
)
def test_a_section_that_is_wrong(changes, words):
    with pytest.raises(UserError) as caught:
        experiment(**changes)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"seeds": [0, 1, 2]}, "the plan's seeds beside this section say nothing of its runs"),
        ({"grid": {"lr": {"high": {}}}}, "the plan's grid beside this section"),
        ({"options": {"MODEL.CLASSIFIER.NETWORK": "alexnett"}}, "NETWORK is 'alexnett'"),
        ({"options": {"DATASETS.TRAIN_SHOTS": 3}}, "TRAIN_SHOTS; the section says it: shots"),
        (
            {"program": None, "options": {"SEED": 3}},
            "options have SEED; the section says it: seeds",
        ),
        ({"options": {"MODEL.REUSE.DROPOUT": "off"}}, "what is frozen keeps its dropout"),
        ({"program": "tools/train_net.py"}, "this section's runs are of tools/train_classifier.py"),
        (
            {
                "options": {
                    "MODEL.CLASSIFIER.NETWORK": "timm",
                    "MODEL.TIMM.NAME": "vit_tiny_patch16_224",
                }
            },
            "cannot be cut: net.cls_token, net.pos_embed",
        ),
    ],
)
def test_what_stands_beside_a_section_and_is_wrong(plan, words):
    with pytest.raises(UserError) as caught:
        read_experiment(section(), {"config": TINY, **plan})
    assert words in str(caught.value)


def test_a_folder_that_no_dataset_can_name():
    with pytest.raises(UserError, match="output, out/lr=1, has a = in its name"):
        experiment().templates(Path("out/lr=1"))


def test_the_name_of_a_split_may_be_a_number():
    found = experiment(splits={0: {"kind": "random", "seed": 0}}, treatments=["BnB"], layers=[1])
    assert names(found)[0] == "0_baseA_s0"


def test_a_layer_that_the_network_lacks_is_named_with_the_plan(plan, tool):
    path = plan({"MODEL.TRANSFER.LAYERS": ["conv1", "fc6"]})
    with pytest.raises(UserError) as caught:
        tool.read(str(path), None)
    said = str(caught.value)
    assert said.startswith(f"{path}: {SECTION}: MODEL.TRANSFER.LAYERS: there is no layer fc6")
    assert "conv5, FC6, FC7, classifier" in said


def test_run_plan_knows_no_such_section(plan):
    with pytest.raises(UserError, match="there is no key transferability"):
        read_plan(plan())


@pytest.mark.parametrize("path", sorted((ROOT / "configs/plans").glob("transferability_*.yaml")))
def test_the_head_of_a_plan_counts_its_runs(path):
    content = yaml.safe_load(path.read_text())
    if SECTION not in content:
        return
    said = re.search(r"(\d+) runs\.", path.read_text())
    rest = {key: value for key, value in content.items() if key != SECTION}
    rest["config"] = str(ROOT / rest["config"])
    assert int(said[1]) == len(read_experiment(content[SECTION], rest).runs)


# Carrying it out ---------------------------------------------------------------------------------


def test_an_experiment_from_its_plan(plan, tool, tmp_path, capsys):
    """Two forked at a time; what the whole is, and the run that equals the base."""
    path = plan(layers=[5, 8], directions=["B"], treatments=["BnB", "AnB+"])
    tool.main(tool.parse_args([str(path), "--dry-run"]))
    assert not (tmp_path / "runs").exists()
    tool.main(tool.parse_args([str(path), "--parallel", "2"]))
    folder = tmp_path / "runs"
    content = run_folder.read_json(folder / "transferability.json")
    assert content["version"] == 1
    assert content["layers"][-1] == "classifier"
    made = content["splits"]["r"]
    assert (made["kind"], made["A"]["classes"], made["B"]["classes"]) == ("random", 2, 2)
    assert made["A"]["images"] + made["B"]["images"] == 24
    assert len(made["checksum"]) == 64
    labels = [run["label"] for run in content["runs"]]
    assert labels == ["baseB", "B5B", "B8B", "baseA", "A5B+"]
    records = {
        run["label"]: run_folder.read_json(folder / run["name"] / "run.json")
        for run in content["runs"]
    }
    assert all(record["status"] == "finished" for record in records.values())
    assert records["B8B"]["results"] == records["baseB"]["results"]
    first, second = (np.load(run_folder.filters_file(folder / f"r_base{half}_s0")) for half in "AB")
    assert first["initial"].shape == second["initial"].shape
    assert not np.array_equal(first["initial"], second["initial"])  # two networks, not one
    classes = {half: set(records[f"base{half}"]["tasks"][half]) for half in "AB"}
    assert not classes["A"] & classes["B"]
    # Started again, nothing is repeated.
    before = (folder / "r_baseB_s0" / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    tool.main(tool.parse_args([str(path)]))
    assert "begins" not in capsys.readouterr().out
    assert (folder / "r_baseB_s0" / "run.json").stat().st_mtime_ns == before
    # Of another plan in the same folder nothing is written, not what the runs are either.
    plan({"SOLVER.MAX_ITER": 3}, layers=[8], directions=["B"], treatments=["BnB"])
    with pytest.raises(UserError, match=r"r_baseB_s0: SOLVER\.MAX_ITER was 2 and is 3"):
        tool.main(tool.parse_args([str(path)]))
    assert run_folder.read_json(folder / "transferability.json") == content


@pytest.mark.slow
def test_a_forked_run_is_a_spawned_one_to_the_bit(plan, tool, tmp_path):
    path = plan(layers=[3], directions=["A"], treatments=["BnB"])
    for how in ("fork", "spawn"):
        words = [
            str(path),
            "--output",
            str(tmp_path / how),
            *(["--spawn"] if how == "spawn" else []),
        ]
        tool.main(tool.parse_args([*words, "--only", "r_baseA_s0"]))
    states = [
        torch.load(tmp_path / how / "r_baseA_s0" / "model_final.pth", weights_only=True)["model"]
        for how in ("fork", "spawn")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_needs_a_diverged_base_is_not_run(plan, tool, tmp_path, capsys):
    path = plan({"SOLVER.BASE_LR": 1e30}, layers=[1], directions=["B"], treatments=["BnB", "AnB"])
    with pytest.raises(SystemExit) as ended:
        tool.main(tool.parse_args([str(path)]))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "not started: r_B1B_s0, which needs r_baseB_s0" in said
    assert "failed: r_baseB_s0: a mistake: error: the loss is not finite at iteration" in said
    plan_ = tool.read(str(path), None)[0]
    states = {run.name: look_at(run).status for run in plan_.runs}
    assert states == {
        "r_baseB_s0": Status.FAILED,
        "r_baseA_s0": Status.FAILED,
        "r_B1B_s0": Status.TODO,
        "r_A1B_s0": Status.TODO,
    }
    assert "not finite" in run_folder.read_json(tmp_path / "runs/r_baseB_s0/plan.json")["error"]


def test_data_that_do_not_serve_are_said_before_anything_is_trained(plan, tool, tmp_path):
    (tmp_path / "a.txt").write_text("shape_0\nshape_1\n")
    (tmp_path / "b.txt").write_text("shape_1\nshape_2\n")
    files = {half: str(tmp_path / f"{half.lower()}.txt") for half in "AB"}
    path = plan(splits={"mine": {"kind": "file", **files}})
    with pytest.raises(UserError, match="split mine: A and B overlap in 1 classes"):
        tool.main(tool.parse_args([str(path)]))
    (tmp_path / "b.txt").write_text("shape_2\n")
    with pytest.raises(UserError, match="B has the class shape_2 alone"):
        tool.main(tool.parse_args([str(path)]))
    assert not list((tmp_path / "runs").glob("*/plan.json"))


def test_a_class_without_images_is_named(plan, tool, tmp_path, shapes):
    files = [f.relative_to(shapes) for f in sorted(shapes.glob("test/*/*.png"))]
    lines = [f"{file}, {file.parent.name}" for file in files if file.parent.name != "shape_3"]
    (tmp_path / "few.txt").write_text("\n".join(lines))
    path = plan(test=["images", str(shapes), str(tmp_path / "few.txt")])
    with pytest.raises(UserError, match=r"have no image in the test set, e\.g\. shape_3"):
        tool.main(tool.parse_args([str(path)]))


def test_more_examples_than_a_class_has(plan, tool):
    words = {"shots": [None, 999], "layers": [1], "treatments": ["AnB"]}
    with pytest.raises(UserError) as caught:
        tool.main(tool.parse_args([str(plan(**words, directions=["A"]))]))
    (line,) = str(caught.value).splitlines()  # of B all images are taken
    assert "shots has 999, and 2 classes of A have fewer images, e.g. shape_" in line
