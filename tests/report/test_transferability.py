"""Differences within split, target and seed, their intervals, and the claims that they decide."""

import json
import shutil
import statistics

import numpy as np
import pytest
from made_up_transfer import make_experiment, top1_of, write_run

from det_transfer.errors import UserError
from det_transfer.report.transferability import paper, read_experiment
from det_transfer.report.transferability.claims import (
    COLLAPSE,
    MARGIN,
    NOT,
    OPEN,
    YES,
    _falls,
    _holds,
    claims,
    slope,
)
from det_transfer.report.transferability.differences import (
    Estimate,
    against,
    at_each_cut,
    student,
    welch,
)
from det_transfer.report.transferability.missing import missing
from det_transfer.report.transferability.tables import boosts, check_sentence, extra_table

FILE = "transferability.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two random splits and a dissimilar one, two seeds, both targets."""
    splits = ("random0", "random1", "dissimilar")
    return make_experiment(tmp_path_factory.mktemp("transfer") / "plan", splits)


@pytest.fixture(scope="module")
def experiment(folder):
    return read_experiment(folder)


@pytest.fixture(scope="module")
def accuracies(folder):
    """((split, target, seed), treatment, n) -> top-1, read without the code under test."""
    found = {}
    for entry in json.loads((folder / FILE).read_text())["runs"]:
        results = json.loads((folder / entry["name"] / "eval/test/results.json").read_text())
        unit = (entry["split"], entry["target"], entry["seed"])
        found[unit, entry["treatment"], entry["n"]] = results["metrics"]["accuracy"]["top1"]
    return found


def units(splits=("random0", "random1")):
    return [(split, target, seed) for split in splits for seed in (0, 1) for target in "AB"]


def interval(values):
    """Student's, by SciPy's own hand."""
    stats = pytest.importorskip("scipy.stats")
    scale = stats.sem(values)
    return stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=scale)


# Estimates ---------------------------------------------------------------------------------------


def test_students_interval_by_hand():
    """Of 1, 2, 3: s = 1, t(0.975, 2) = 4.3027 in any table."""
    found = student([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.high == pytest.approx(2 + 4.3026527 / 3**0.5, abs=1e-6)
    assert found.low == pytest.approx(2 - 4.3026527 / 3**0.5, abs=1e-6)


def test_intervals_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 2, 7).tolist(), rng.normal(0, 1, 4).tolist()
    found = student(first)
    assert (found.low, found.high) == pytest.approx(interval(first), abs=1e-12)
    both = welch(first, second)
    theirs = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert (both.low, both.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert both.count == 4


def test_one_value_has_no_interval():
    assert student([]) is None
    assert student([2.0]) == Estimate(2.0, 1)
    assert welch([1.0], [2.0, 3.0]) == Estimate(-1.5, 1)
    assert welch([], [1.0]) is None
    # Nor have equal ones: of 250 images an accuracy is a multiple of 0.4 points.
    assert student([-0.4, -0.4]) == Estimate(-0.4, 2)
    assert welch([1.0, 1.0], [0.0, 0.0]) == Estimate(1.0, 2)
    assert welch([1.0, 1.0], [0.0, 1.0]).low is not None


def test_estimates_in_words():
    assert Estimate(-1.94, 4, -3.04, -0.84).text() == "-1.9 (-3.0 to -0.8)"
    assert Estimate(3.0, 1).text(sign=False) == "3.0"
    assert Estimate(-0.01, 2, -0.04, 0.02).text() == "+0.0 (+0.0 to +0.0)"
    assert -Estimate(1.0, 2, 0.5, 1.5) == Estimate(-1.0, 2, -1.5, -0.5)


# Pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("treatment", ["BnB", "BnB+", "AnB", "AnB+", "random"])
def test_differences_to_the_own_base(experiment, accuracies, treatment):
    found = at_each_cut(against(experiment, treatment, "base", "random"), experiment)
    assert list(found) == [1, 2, 3, 5, 7]
    for n, estimate in found.items():
        values = [accuracies[u, treatment, n] - accuracies[u, "base", 0] for u in units()]
        assert estimate.count == len(values) == 8
        assert estimate.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx(interval(values), abs=1e-9)


def test_differences_at_the_same_cut(experiment, accuracies):
    found = at_each_cut(against(experiment, "AnB", "BnB", "dissimilar"), experiment)
    values = [accuracies[u, "AnB", 3] - accuracies[u, "BnB", 3] for u in units(["dissimilar"])]
    assert found[3].mean == pytest.approx(statistics.fmean(values), abs=1e-12)
    assert found[3].count == 4


def test_an_incomplete_design_does_not_mislead(tmp_path):
    """AnB+ on the easy target alone, BnB+ on the hard one: unpaired means would be 4 points off."""
    plan = make_experiment(tmp_path / "plan", ("random0",))
    content = json.loads((plan / FILE).read_text())
    for entry in content["runs"]:
        wrong = {"AnB+": "A", "BnB+": "B"}.get(entry["treatment"])
        if entry["target"] == wrong:
            (plan / entry["name"] / "run.json").unlink()
    experiment = read_experiment(plan)
    easy, hard = (experiment.of(t, "random") for t in ("AnB+", "BnB+"))
    assert statistics.fmean(r.top1 for r in easy) - statistics.fmean(r.top1 for r in hard) > 4
    found = [at_each_cut(against(experiment, t, "base", "random"), experiment)[3].mean
             for t in ("AnB+", "BnB+")]  # fmt: skip
    assert found == pytest.approx([1.5, 0.5], abs=0.4)
    assert against(experiment, "AnB+", "BnB+", "random") == []


def test_boosts(experiment, accuracies):
    """As in Table 1: means over cuts 1, 3 and 5 and above, of each pair, then over pairs."""
    found = {(b.kind, b.first): b for b in boosts(experiment)}
    assert found.keys() == {(k, f) for k in ("random", "dissimilar") for f in (1, 3, 5)}
    for first, cuts in ((1, (1, 2, 3, 5, 7)), (3, (3, 5, 7)), (5, (5, 7))):
        for other, got in (("base", "over_base"), ("BnB+", "over_self")):
            values = [
                statistics.fmean(
                    accuracies[u, "AnB+", n] - accuracies[u, other, n * (other != "base")]
                    for n in cuts
                )
                for u in units()
            ]
            estimate = getattr(found["random", first], got)
            assert estimate.mean == pytest.approx(statistics.fmean(values), abs=1e-12)
            assert (estimate.low, estimate.high) == pytest.approx(interval(values), abs=1e-9)


# Claims ------------------------------------------------------------------------------------------


def test_the_claims_of_runs_that_are_as_in_the_paper(experiment, accuracies):
    dip, fall, dissimilar, collapse, recovers, kept = claims(experiment)
    assert {c.verdict for c in (dip, fall, dissimilar, collapse, recovers, kept)} == {YES}

    def of(unit, treatment):
        base = accuracies[unit, "base", 0]
        return {n: accuracies[unit, treatment, n] - base for n in (1, 2, 3, 5, 7)}

    dips = []
    for unit in units():
        d = of(unit, "BnB")
        dips.append((d[3] + d[5]) / 2 - (d[1] + d[2] + d[7]) / 3)
    assert dip.estimate.mean == pytest.approx(statistics.fmean(dips), abs=1e-9)
    assert (dip.estimate.low, dip.estimate.high) == pytest.approx(interval(dips), abs=1e-9)
    slopes = {
        kind: [np.polyfit(*zip(*of(u, "AnB").items(), strict=True), 1)[0] for u in units(splits)]
        for kind, splits in (("near", ["random0", "random1"]), ("far", ["dissimilar"]))
    }
    assert fall.estimate.mean == pytest.approx(np.mean(slopes["near"]), abs=1e-9)
    gap = np.mean(slopes["far"]) - np.mean(slopes["near"])
    assert dissimilar.estimate.mean == pytest.approx(gap, abs=1e-9)
    left = [100 * accuracies[u, "random", 7] / accuracies[u, "base", 0] for u in units()]
    assert collapse.estimate.mean == pytest.approx(statistics.fmean(left), abs=1e-9)
    for claim, treatment in ((recovers, "BnB+"), (kept, "AnB+")):
        means = [statistics.fmean(of(u, treatment).values()) for u in units()]
        assert claim.estimate.mean == pytest.approx(statistics.fmean(means), abs=1e-9)


def test_the_rules():
    def of(low, high):
        return Estimate((low + high) / 2, 4, low, high)

    assert _falls(of(-3, -1), MARGIN) == YES
    assert _falls(of(-0.3, -0.1), MARGIN) == YES
    assert _falls(of(-0.5, 0.5), MARGIN) == NOT  # no room for a fall of a point
    assert _falls(of(-2, 0.5), MARGIN) == OPEN
    assert _falls(Estimate(-3.0, 1), MARGIN) == _falls(None, MARGIN) == OPEN
    assert _holds(of(-0.5, 0.5), MARGIN) == YES
    assert _holds(of(1, 2), MARGIN) == YES
    assert _holds(of(-3, -1.5), MARGIN) == NOT
    assert _holds(of(-3, 1), MARGIN) == OPEN
    assert _holds(Estimate(3.0, 1), MARGIN) == _holds(None, MARGIN) == OPEN


def test_claims_where_nothing_is_as_in_the_paper(tmp_path):
    """BnB flat, AnB flat, fine-tuning harmful, random features fine."""
    plan = make_experiment(tmp_path / "plan", ("random0", "random1"))
    rng = np.random.default_rng(5)
    above = {"base": 0.0, "BnB": 0.0, "AnB": 0.0, "BnB+": -4.0, "AnB+": -4.0, "random": -1.0}
    for entry in json.loads((plan / FILE).read_text())["runs"]:
        value = 50 + above[entry["treatment"]] + 0.1 * rng.standard_normal()
        path = plan / entry["name"] / "eval/test/results.json"
        path.write_text(json.dumps({"metrics": {"accuracy": {"top1": value}}}))
    dip, fall, dissimilar, collapse, recovers, kept = claims(read_experiment(plan))
    assert [c.verdict for c in (dip, fall, collapse, recovers, kept)] == [NOT] * 5
    assert dissimilar.verdict == OPEN
    assert "a dissimilar and on another split" in dissimilar.why


def test_a_half_run_plan_claims_nothing(tmp_path):
    """AnB+ loses from n = 3 on, which the n that are there do not show."""
    splits = ("random0", "random1")
    made = make_experiment(tmp_path / "plan", splits, treatments=("BnB+", "AnB+", "random"))
    content = json.loads((made / "transferability.json").read_text())
    for entry in content["runs"]:
        if entry["treatment"] == "AnB+":
            (made / entry["name"] / "eval/test/results.json").unlink()
            top1 = top1_of(entry, content["splits"]) - 6 * (entry["n"] >= 3)
            shutil.rmtree(made / entry["name"])
            write_run(made, entry, top1)
    *_, collapse, _, kept = claims(read_experiment(made))
    assert (collapse.verdict, kept.verdict) == (YES, NOT)
    for entry in content["runs"]:
        late = entry["n"] >= 3 if entry["treatment"] == "AnB+" else entry["n"] > 1
        if late and entry["treatment"] in ("AnB+", "random"):
            shutil.rmtree(made / entry["name"])
    half = read_experiment(made)
    *_, collapse, recovers, kept = claims(half)
    assert (collapse.verdict, kept.verdict) == (OPEN, OPEN)
    assert collapse.why.endswith(
        "runs on random features at the deepest n of the plan, with their base"
    )
    assert kept.why.endswith("it needs AnB+ at every n of the plan, with its base")
    assert recovers.verdict == YES  # its runs are all there
    assert not boosts(half)


def test_random_features_of_the_lower_half_cannot_collapse(tmp_path):
    made = make_experiment(tmp_path / "plan", ("random0", "random1"), cuts=(1, 2, 4))
    collapse = claims(read_experiment(made))[3]
    assert collapse.verdict == OPEN
    assert collapse.estimate.high < COLLAPSE
    assert collapse.why.startswith("the plan leaves no more than the lower half random")


def test_the_paper_beside_ours_is_of_the_same_kind_of_split(tmp_path):
    made = make_experiment(tmp_path / "plan", ("dissimilar0",), (0, 1, 2))
    dip, fall, *_ = claims(read_experiment(made))
    assert dip.paper is None  # the paper has BnB on random splits alone
    assert fall.paper == pytest.approx(
        slope(dict(enumerate(paper.DIFFERENCES["AnB", "dissimilar"], 1)))
    )


def test_claims_of_a_single_pair_are_open(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,))
    for entry in json.loads((plan / FILE).read_text())["runs"]:
        if entry["target"] == "B" or entry["treatment"] == "AnB+":
            (plan / entry["name"] / "run.json").unlink()
    experiment = read_experiment(plan)
    found = claims(experiment)
    assert {claim.verdict for claim in found} == {OPEN}
    assert found[0].number == f"{found[0].estimate.mean:+.1f}"
    assert "another seed or split" in found[0].why
    assert found[-1].number == "-"
    assert any("no interval" in sentence for sentence in missing(experiment))


def test_the_papers_numbers():
    """What was typed here against what the text of the paper and of its replication states."""
    found = [
        slope(dict(enumerate(paper.DIFFERENCES["AnB", k], 1))) for k in ("random", "dissimilar")
    ]
    assert found[1] < found[0] < 0
    bnb = dict(enumerate(paper.DIFFERENCES["BnB", "random"], 1))
    assert min(bnb, key=bnb.get) == 5
    assert paper.DIFFERENCES["AnB", "random"][-1] == pytest.approx(-8.3, abs=0.05)
    assert paper.DIFFERENCES["AnB", "dissimilar"][-1] == -25.0
    assert all(len(values) == 7 for values in paper.DIFFERENCES.values())
    assert all(len(values) == 8 for values in paper.TOP1.values())
    means = {first: statistics.fmean(paper.TOP1["AnB+"][first:]) for first in (1, 3, 5)}
    for first, (over_base, over_self) in paper.BOOST.items():
        assert means[first] - paper.TOP1["AnB+"][0] == pytest.approx(over_base, abs=0.1)
        selffer = statistics.fmean(paper.TOP1["BnB+"][first:])
        assert means[first] - selffer == pytest.approx(over_self, abs=0.2)


# Further runs ------------------------------------------------------------------------------------


def add(plan, **changed):
    """Another run, like the first of its treatment but for `changed`."""
    content = json.loads((plan / FILE).read_text())
    like = next(e for e in content["runs"] if e["treatment"] == changed["treatment"])
    entry = {**like, **changed}
    content["runs"].append(entry)
    (plan / FILE).write_text(json.dumps(content))
    return entry, content["splits"]


def test_a_network_that_is_all_copied_is_its_base(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("BnB",))
    assert check_sentence(read_experiment(plan)) == ""
    entry, _ = add(plan, name="random0_A8A_s0", treatment="BnB", n=8, label="A8A")
    base = json.loads((plan / "random0_baseA_s0/run.json").read_text())
    write_run(plan, entry, base["results"]["accuracy"]["top1"])
    experiment = read_experiment(plan)
    assert check_sentence(experiment).endswith("BnB must equal its base; it does (1 run).")
    assert experiment.cuts == [3]  # it is a check, and in no figure


def test_further_layers_and_fewer_examples_stay_out_of_the_figures(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), cuts=(3,), treatments=("BnB", "AnB"))
    before = at_each_cut(
        against(read_experiment(plan), "AnB", "base", "random"), read_experiment(plan)
    )
    for more in ({"extra": 2}, {"shots": 10}):
        entry, splits = add(plan, name=f"further{more}", treatment="AnB", **more)
        write_run(plan, entry, top1_of(entry, splits) + 2)
    experiment = read_experiment(plan)
    assert at_each_cut(against(experiment, "AnB", "base", "random"), experiment) == before
    table = extra_table(experiment)
    assert table.head == ["", "none", "2 more"]
    assert [row[0] for row in table.rows] == ["AnB - base, n = 3, random splits"]
    assert any("have no finished base" in sentence for sentence in missing(experiment))


# What is missing, and what is wrong --------------------------------------------------------------


def test_what_is_missing_and_why(tmp_path):
    """A base that diverged, what needs it, and a run that was stopped."""
    plan = make_experiment(tmp_path / "plan", ("random0",))
    reason = "FloatingPointError: Loss became infinite or NaN at iteration=3!"
    record = {"status": "failed", "reason": reason}
    (plan / "random0_baseA_s0/run.json").write_text(json.dumps(record))
    for entry in json.loads((plan / FILE).read_text())["runs"]:
        if entry["seed"] == 0 and entry["source"] == "A":
            for path in sorted((plan / entry["name"]).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    stopped = {"status": "interrupted"}
    (plan / "random0_R1B_s1/run.json").write_text(json.dumps(stopped))
    experiment = read_experiment(plan)
    said = missing(experiment)
    assert f"random0_baseA_s0: failed ({reason})" in said
    (needing,) = [sentence for sentence in said if "not run, for its base" in sentence]
    assert needing.startswith("20 runs, random0_A1A_s0, ")
    assert "and 16 more: not run, for its base random0_baseA_s0 failed" in needing
    assert "random0_R1B_s1: interrupted" in said
    assert any(s.startswith("15 finished runs have no finished base") for s in said)


def test_a_run_waits_for_the_base_that_it_copies_alone(tmp_path):
    """Layers of the other half are those of all its images, also for a target of few."""
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("AnB",))
    add(plan, name="few", treatment="base", target="B", shots=5)
    (plan / "few").mkdir()
    (plan / "few/run.json").write_text(json.dumps({"status": "failed", "reason": "diverged"}))
    add(plan, name="needing", treatment="AnB", target="A", source="B", shots=5)
    said = missing(read_experiment(plan))
    assert "few: failed (diverged)" in said
    assert "needing: not run yet" in said


def test_a_base_at_chance_is_said(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("BnB",))
    path = plan / "random0_baseA_s0/eval/test/results.json"
    path.write_text(json.dumps({"metrics": {"accuracy": {"top1": 1.2}}}))
    (said,) = [s for s in missing(read_experiment(plan)) if "learned nothing" in s]
    assert said.startswith("random0_baseA_s0 has learned nothing: its accuracy is 1.2 %, chance")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: (plan / FILE).unlink(), "it is not a plan folder"),
        (lambda plan: (plan / FILE).write_text("{"), "is not json"),
        (lambda plan: (plan / FILE).write_text("[]"), "is of version None"),
        (lambda plan: edit(plan, version=2), "of version 2; this page reads version 1"),
        (lambda plan: edit(plan, layers=None), "layers: None is not of type 'array'"),
        (lambda plan: edit(plan, runs=[]), "names no run"),
        (
            lambda plan: edit(plan, runs=[{"name": "a"}]),
            r"runs\[0\]: 'split' is a required property",
        ),
        (
            lambda plan: edit(plan, first={"name": "random0_baseB_s0"}),
            "there are 2 runs of the name",
        ),
        (lambda plan: edit(plan, first={"treatment": "CnD"}), "a treatment is base, BnB"),
        (lambda plan: edit(plan, first={"split": "other"}), "is of split other, not in splits"),
        (lambda plan: edit(plan, splits={"random0": {"kind": "odd"}}), "there is random, file"),
    ],
)
def test_mistakes(tmp_path, change, message):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("BnB",))
    change(plan)
    with pytest.raises(UserError, match=message):
        read_experiment(plan)


def edit(plan, first=None, **changed):
    content = {**json.loads((plan / FILE).read_text()), **changed}
    if first:
        content["runs"][0] |= first
    (plan / FILE).write_text(json.dumps(content))


def test_no_finished_run_at_all(tmp_path):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("BnB",))
    for record in plan.glob("*/run.json"):
        record.unlink()
    with pytest.raises(UserError, match="none of its 4 runs is finished and evaluated"):
        read_experiment(plan)
    with pytest.raises(UserError, match="is no folder"):
        read_experiment(plan / "nothing")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not json: Expecting"),
        ('{"metrics": {"accuracy": {"top1": null}}}', "its accuracy is not a number"),
        ('{"metrics": {"bbox": {}}}', "cannot be read ('accuracy')"),
        (None, "evaluated on nothing, where one test set is expected"),
    ],
)
def test_a_broken_run_is_missing_and_the_rest_is_read(tmp_path, content, why):
    plan = make_experiment(tmp_path / "plan", ("random0",), (0,), cuts=(3,), treatments=("BnB",))
    path = plan / "random0_A3A_s0/eval/test/results.json"
    path.unlink() if content is None else path.write_text(content)
    experiment = read_experiment(plan)
    assert len(experiment.finished) == 3
    (run,) = [run for run in experiment.runs if run.top1 is None]
    assert why in run.why
