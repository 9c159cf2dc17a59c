"""Which runs are seeds of one recipe, what sides are called, and what is refused."""

import pytest
from made_up_runs import make_run

from det_transfer.errors import UserError
from det_transfer.report.runs import Evaluation, Run, read_run
from det_transfer.report.sides import common_dataset, comparable, differing, group


def runs_of(folder, *settings):
    return [read_run(make_run(folder / name, seed, **more)) for name, seed, more in settings]


def test_seeds_are_one_side_and_modes_are_names(tmp_path):
    settings = [(f"{mode}_s{s}", s, {"mode": mode}) for mode in ("frozen", "") for s in (1, 2)]
    sides = group(runs_of(tmp_path, *settings))
    assert [side.name for side in sides] == ["frozen", "as Detectron2"]
    assert [[run.record["seed"] for run in side.runs] for side in sides] == [[1, 2], [1, 2]]
    assert [side.colour for side in sides] == [0, 1]


def test_names_take_as_few_keys_as_tell_apart(tmp_path):
    settings = [
        ("a", 1, {"mode": "frozen", "lr": 0.1}),
        ("b", 1, {"mode": "frozen", "lr": 0.2}),
        ("c", 1, {"mode": "finetune", "lr": 0.2}),
    ]
    sides = group(runs_of(tmp_path, *settings))
    names = [side.name for side in sides]
    assert names == ["frozen / BASE_LR 0.1", "frozen / BASE_LR 0.2", "finetune / BASE_LR 0.2"]
    assert differing(sides) == ["MODEL.REUSE.MODE", "SOLVER.BASE_LR"]


def test_weights_of_the_same_seed_s_run_are_no_difference(tmp_path):
    """Of a plan whose runs begin with what another run of their seed has learnt."""
    runs = runs_of(tmp_path, ("x_s1", 1, {}), ("x_s12", 12, {}), ("y_s1", 1, {}), ("z_s2", 2, {}))
    starts = ["out/stage1_s1/model_final.pth", "out/stage1_s12/model_final.pth"]
    starts += ["out/other_s1/model_final.pth", "out/stage1_s1/model_final.pth"]
    for run, weights in zip(runs, starts, strict=True):
        run.config["MODEL.WEIGHTS"] = weights
    sides = group(runs)
    assert [[run.name for run in side.runs] for side in sides] == [
        ["x_s1", "x_s12"],
        ["y_s1"],
        ["z_s2"],
    ]
    assert differing(sides) == ["MODEL.WEIGHTS"]
    assert runs[0].config["MODEL.WEIGHTS"] == starts[0]  # what the page shows


def test_without_configs_every_run_stands_alone(tmp_path):
    runs = runs_of(tmp_path, ("x_s1", 1, {}), ("y_s1", 1, {}))
    for run in runs:
        run.config = {}
    assert [side.name for side in group(runs)] == ["x", "y"]


def test_sides_by_name(tmp_path):
    runs = runs_of(tmp_path, ("x_s1", 1, {}), ("x_s2", 2, {}), ("y", 1, {}))
    sides = group(runs, ["other=y", "first=x_s?"])
    assert [(side.name, len(side.runs)) for side in sides] == [("other", 1), ("first", 2)]
    with pytest.raises(UserError, match="y: no --side fits it"):
        group(runs, ["first=x_s?"])
    with pytest.raises(UserError, match="--side z: no run fits it"):
        group(runs, ["all=*", "z=nothing"])
    with pytest.raises(UserError, match="not of the form NAME=GLOB"):
        group(runs, ["all"])


def test_one_seed_twice_is_refused(tmp_path):
    runs = runs_of(tmp_path, ("a", 1, {}), ("again", 1, {}))
    with pytest.raises(UserError, match=r"are one recipe with the same seed \(1\)"):
        group(runs)


def evaluated(name, folder, *datasets, **results):
    run = Run(folder / name)
    content = {"metrics": {"bbox": {"AP": 1.0}}, "images": 5, "protocol": "coco", **results}
    run.evaluations = {d: Evaluation(d, folder / name / "eval" / d, content) for d in datasets}
    return run


def test_the_common_dataset(tmp_path):
    both, one = evaluated("both", tmp_path, "d", "e"), evaluated("one", tmp_path, "d")
    nothing = Run(tmp_path / "nothing")
    assert common_dataset([both, one, nothing]) == "d"
    assert common_dataset([both, both], "e") == "e"
    for runs, wanted, reason in (
        ([both, one], "e", "not all runs were evaluated on it"),
        ([both, both], "", "evaluated on d, e: choose one with --dataset"),
        ([one, evaluated("x", tmp_path, "f")], "", "evaluated on different datasets"),
        ([nothing], "", "none of these runs has an evaluation"),
    ):
        with pytest.raises(UserError, match=reason):
            common_dataset(runs, wanted)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"images": 6}, "images 5 against 6"),
        ({"protocol": "lvis"}, "protocol coco against lvis"),
        ({"max_dets": [300]}, None),  # the other does not say
        ({"json_sha256": "b"}, "the annotation files differ"),
        ({"metrics": {"segm": {"AP": 1.0}}}, "has no bbox metrics, it has segm"),
    ],
)
def test_what_cannot_be_compared(other, reason, tmp_path):
    first = evaluated("first", tmp_path, "d", json_sha256="a")
    runs = [first, evaluated("other", tmp_path, "d", **other)]
    if reason is None:
        comparable(runs, "d", "bbox")
        return
    with pytest.raises(UserError, match=f"cannot be compared on d: .*{reason}"):
        comparable(runs, "d", "bbox")


def test_other_classes_are_named(tmp_path):
    runs = [evaluated(name, tmp_path, "d") for name in ("a", "b", "c")]
    for run, classes in zip(runs, (["x", "y"], ["x", "z"], ["x"]), strict=True):
        rows = [f"bbox,{k},{name},f,,1,5,5,5,5" for k, name in enumerate(classes)]
        folder = run.evaluations["d"].folder
        folder.mkdir(parents=True)
        head = "task,id,name,frequency,image_count,n_gt,AP,AP50,AP75,AR"
        (folder / "per_category.csv").write_text("\n".join([head, *rows]))
    with pytest.raises(UserError, match="other classes \\('y' against 'z'\\)"):
        comparable(runs[:2], "d", "bbox")
    with pytest.raises(UserError, match="2 classes against 1"):
        comparable([runs[0], runs[2]], "d", "bbox")
