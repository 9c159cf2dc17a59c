"""Run folders become one json: the right numbers, the right groups, no run that does not count."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import make_run

from det_transfer.errors import UserError
from det_transfer.report.collect import collect
from det_transfer.report.conditions import Said, relative, shown


@pytest.fixture
def root(tmp_path):
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def collected(runs, root, **options):
    of_collect = {name: options.pop(name) for name in ("groups", "earlier") if name in options}
    return collect(runs, root, Said("T", "Q?", **options), **of_collect)


def test_numbers_of_groups(root):
    aps = {"frozen_seed1": 10.0, "frozen_seed2": 12.0, "frozen_seed3": 17.0, "other_s7": 5.5}
    runs = [make_run(root / "output" / n, int(n[-1]), ap) for n, ap in aps.items()]
    content = collected(runs, root)
    frozen, other = content["groups"]
    assert (frozen["label"], frozen["n"], frozen["seeds"]) == ("frozen", 3, [1, 2, 3])
    ap = frozen["results"]["made_up"]["bbox"]["AP"]
    assert ap == {"n": 3, "mean": 13.0, "min": 10.0, "max": 17.0, "std": pytest.approx(13**0.5)}
    assert frozen["training_s"]["mean"] == 102.0
    assert frozen["step_median_ms"]["mean"] == 250.0
    assert frozen["peak_memory_gb"]["host"]["max"] == 2.0
    assert (frozen["parameters"], frozen["trainable"]) == (4_000_000, 1_000_000)
    alone = other["results"]["made_up"]["bbox"]["AP"]
    assert alone == {"n": 1, "mean": 5.5, "min": 5.5, "max": 5.5}
    assert frozen["results"]["made_up"]["bbox"]["APs"] is None  # there is no ground truth
    assert "AP-cat" not in frozen["results"]["made_up"]["bbox"]


def test_run_rows(root):
    content = collected([make_run(root / "output/a_seed2", 2, 31.5)], root)
    (row,) = content["runs"]
    assert row["run"] == "output/a_seed2"
    assert row["seed"] == 2
    assert row["iterations"] == 200
    assert row["batch"] == 4
    assert row["reuse_mode"] == "frozen"
    assert row["weights"] == "output/weights.pth"
    assert row["command"] == "tools/train_net.py OUTPUT_DIR output/a_seed2 SEED 2"
    assert row["results"]["made_up"]["bbox"]["AP"] == 31.5
    assert content["measured"] == "2026-01-02"
    assert content["versions"]["torch"] == "2.14.1"
    assert content["machine"]["devices"] == ["cpu, 1 threads"]
    assert str(root.parent) not in json.dumps(content)


def test_loss_is_thinned_by_medians(root):
    (row,) = collected([make_run(root / "a")], root)["runs"]
    iterations, losses = row["loss"]["iteration"], row["loss"]["total_loss"]
    assert len(iterations) == len(losses) == 50  # 200 rows in parts of 4
    assert iterations[0] == 2
    assert losses[0] == pytest.approx((100 / 2 + 100 / 3) / 2, rel=1e-3)
    assert losses == sorted(losses, reverse=True)


def test_results_on_several_datasets(root):
    run = make_run(root / "a", results={"one": {"bbox": {"AP": 1.0}}, "two": {"bbox": {"AP": 2.0}}})
    config = json.loads((run / "config.yaml").read_text())
    config["DATASETS"]["TEST"] = ["one", "two"]
    (run / "config.yaml").write_text(json.dumps(config))
    (group,) = collected([run], root)["groups"]
    assert group["results"]["two"]["bbox"]["AP"]["mean"] == 2.0


def test_refused_runs_are_all_named(root):
    good = make_run(root / "good")
    running = make_run(root / "running", status="running")
    unevaluated = make_run(root / "unevaluated", results={})
    with pytest.raises(UserError) as error:
        collected([good, running, unevaluated, root / "nowhere"], root)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert "running" in lines[0]
    assert "status" in lines[0]
    assert "unevaluated has no evaluation" in lines[1]
    assert "nowhere has no run.json" in lines[2]


def test_groups_by_glob(root):
    runs = [make_run(root / "output" / n, i) for i, n in enumerate(["a1", "a2", "b1"])]
    groups = ["B=*/b*", "the others=output/*"]
    content = collected(runs, root, groups=groups)
    assert [(g["label"], g["n"]) for g in content["groups"]] == [("B", 1), ("the others", 2)]
    assert [run["group"] for run in content["runs"]] == ["B", "the others", "the others"]


def test_groups_that_do_not_fit(root):
    runs = [make_run(root / "a1", 1), make_run(root / "b1", 2)]
    with pytest.raises(UserError, match=r"b1: no --group fits it\n.*'C=c\*' gets no run"):
        collected(runs, root, groups=["A=a*", "C=c*"])
    with pytest.raises(UserError, match="label=glob"):
        collected(runs, root, groups=["a*"])


def test_a_group_is_seeds_of_one_recipe(root):
    runs = [make_run(root / "a1", 1), make_run(root / "a2", 1), make_run(root / "a3", 2, lr=0.02)]
    with pytest.raises(UserError) as error:
        collected(runs, root, groups=["A=*"])
    same_seed, other_recipe = str(error.value).splitlines()
    assert "a1 and a2 have the same seed (1)" in same_seed
    assert "a1 and a3 differ in SOLVER.BASE_LR;" in other_recipe


def test_a_group_has_one_precision(root):
    runs = [make_run(root / "a1", 1), make_run(root / "a2", 2, precision="bf16")]
    with pytest.raises(UserError, match="a1 and a2 differ in precision;"):
        collected(runs, root, groups=["A=*"])


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("{root}/output/plan/a_s1", "output/plan/a_s1"),
        ("{root}/runs/a_s1", "runs/a_s1"),
        ("/mnt/output/older/output/plan/a_s1", "output/plan/a_s1"),
        ("/mnt/my_output/a_s1", "output/a_s1"),
    ],
)
def test_a_run_folder_without_the_machines_paths(root, folder, words):
    assert shown(Path(folder.format(root=root)), root) == words


def test_seeds_are_added_on_another_machine(root):
    first = [make_run(root / "output" / f"a_s{k}", k, 10.0 + k) for k in (1, 2)]
    later = [make_run(root / "output" / f"again_s{k}", k, 20.0 + k) for k in (2, 3)]
    before = collected(first, root, notes=["one"], machine="old", command="first")
    other = {"torch": "2.15.0"}
    later.append(make_run(root / "output" / "b_s1", 1, 5.0, versions=other))
    content = collected(
        later,
        root,
        notes=["two"],
        machine="new",
        command="second",
        earlier=before,
        groups=["a=*again*", "b=*b_s*"],
    )
    a, b = content["groups"]
    assert (a["label"], a["seeds"], b["seeds"]) == ("a", [1, 2, 3], [1])
    ap = a["results"]["made_up"]["bbox"]["AP"]
    assert (ap["min"], ap["max"], ap["n"]) == (11.0, 23.0, 3)
    assert [row["results"]["made_up"]["bbox"]["AP"] for row in content["runs"]] == [11, 22, 23, 5]
    assert content["notes"] == ["two"]
    assert content["machine"]["cpu"] == "old, new"
    assert content["collected_by"] == "first; second"
    assert content["versions"]["torch"] == "2.14.1, 2.15.0"


def test_what_is_added_was_measured_earlier_on_a_known_machine(root):
    runs = [make_run(root / f"a_s{k}", k) for k in (1, 2)]
    before = collected(runs[:1], root, machine="new")
    before |= {"measured": "2027-01-01", "machine": {"cpu": "old, new", "devices": ["x"]}}
    content = collected(runs[1:], root, machine="new", earlier=before)
    assert content["measured"] == "2027-01-01"
    assert content["machine"]["cpu"] == "old, new"


def test_other_test_sets_are_not_added(root):
    before = collected([make_run(root / "a_s1", 1)], root)
    for row in before["runs"]:
        row["results"] = {"another": row["results"]["made_up"]}
    with pytest.raises(UserError, match=r"a_s2 \(seed 2\) differs in test sets from a_s1"):
        collected([make_run(root / "a_s2", 2)], root, earlier=before)


def test_another_recipe_is_not_added(root):
    before = collected([make_run(root / "a_s1", 1)], root)
    with pytest.raises(UserError, match=r"a_s2 \(seed 2\) differs in precision from a_s1"):
        collected([make_run(root / "a_s2", 2, precision="bf16")], root, earlier=before)


def test_versions_that_differ_are_all_named(root):
    runs = [make_run(root / "a_seed1"), make_run(root / "a_seed2", 2, versions={"torch": "2.6.0"})]
    assert collected(runs, root)["versions"]["torch"] == "2.14.1, 2.6.0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/me/code/tools/x.py", "tools/x.py"),
        ("OUT /srv/me/code/output/a", "OUT output/a"),
        ("[['a','/srv/me/data/a.json']]", "[['a','../data/a.json']]"),
        ("W /mnt/big/w.pth", "W w.pth"),
        ("--x=/mnt/srv/me/code/w.pth", "--x=w.pth"),
        ("detectron2://a/b.pkl https://x.org/a", "detectron2://a/b.pkl https://x.org/a"),
        ("package://lite0 ../shared/w ~/w a/b", "package://lite0 ../shared/w ~/w a/b"),
    ],
)
def test_paths_of_the_machine_go(tmp_path, text, expected):
    assert relative(text, Path("/srv/me/code")) == expected


@given(st.lists(st.lists(st.sampled_from(["srv", "me", "code", "x.y", "a-b"]), min_size=1)))
def test_no_absolute_path_is_left(paths):
    text = " ".join("/" + "/".join(path) for path in paths)
    shown = relative(text, Path("/srv/me/code"), ["/srv/a-b"])
    assert not re.search(r"(^| )/", shown)
