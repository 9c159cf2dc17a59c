"""The comparison of runs: what the sentence says, and that the numbers are the files'."""

import json
import shutil

import pytest
from made_up_runs import make_evaluated_run, make_run
from test_run_page import Tables, shown

from det_transfer import run_folder
from det_transfer.errors import UserError
from det_transfer.report.by_class import ClassRow, bins, smoothed
from det_transfer.report.comparison import compare
from det_transfer.report.comparison_page import comparison_page
from det_transfer.report.html import render
from det_transfer.report.paired import Interval
from det_transfer.report.results import render as results_page
from det_transfer.report.runs import read_run
from det_transfer.report.sides import Side
from det_transfer.report.verdict import verdict
from tools import compare_runs as program


@pytest.fixture
def no_drawings(monkeypatch):
    """Drawings, which take the time, are left out."""
    monkeypatch.setattr("det_transfer.report.charts.draw", lambda *_: "<svg></svg>")


FOUR = ("frozen_s1", "frozen_s2", "finetune_s1", "finetune_s2")


def read(folder, *names):
    return [read_run(folder / name) for name in names]


@pytest.fixture(scope="module")
def result(evaluated):
    return compare(read(evaluated, *FOUR), draws=100)


@pytest.fixture(scope="module")
def page(result):
    return render(comparison_page(result))


def ap(evaluated, name, metric="AP"):
    path = evaluated / name / "eval/drawn/results.json"
    return run_folder.read_json(path)["metrics"]["bbox"][metric]


def test_numbers_are_the_files(page, result, evaluated):
    tables = Tables(page)
    for side in ("frozen", "finetune"):
        seeds = [ap(evaluated, f"{side}_s{seed}") for seed in (1, 2)]
        mean = sum(seeds) / 2
        row = tables.row(side, "2")
        assert row[2] == f"{mean:.1f} ({min(seeds):.1f}, {max(seeds):.1f})"
    interval = result.differences["finetune"]["AP"]
    frozen, finetune = (
        sum(ap(evaluated, f"{side}_s{seed}") for seed in (1, 2)) / 2
        for side in ("frozen", "finetune")
    )
    assert interval.difference == pytest.approx(finetune - frozen, abs=1e-9)
    assert tables.row("finetune", "2")[3] == str(interval)
    for metric in ("APr", "APm", "APl"):
        means = [
            [ap(evaluated, f"{side}_s{seed}", metric) for seed in (1, 2)]
            for side in ("finetune", "frozen")
        ]
        if None not in means[0]:
            difference = sum(means[0]) / 2 - sum(means[1]) / 2
            found = result.differences["finetune"][metric].difference
            assert found == pytest.approx(difference, abs=1e-9), metric
    for name in FOUR:
        assert tables.row(name)[4] == shown(ap(evaluated, name))


def test_the_page_has_all_it_promises(page):
    for title in (
        "Sides",
        "Differences",
        "By size and frequency",
        "By class",
        "What it costs",
        "Curves",
        "Where one is right and the other wrong",
        "Every run",
    ):
        assert f"<h2>{title}</h2>" in page, title
    assert "AP against operations of a step" in page
    assert "AP against trained parameters" not in page  # they are the same for both
    assert len([link for link in Tables(page).links if link.startswith("data:image/")]) >= 9
    assert len(page) < 5_000_000


def test_images_too_large_for_pillow_are_counted(result, no_drawings, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    assert "images cannot be read: no picture" in comparison_page(result).missing[-1]
    assert not result.missing


def test_difference_by_class_is_that_of_the_means(result):
    rows = result.class_differences(result.others[0])
    base, other = (result.classes(side) for side in result.sides)
    assert [row.name for row in rows] == [f"shape_{k}" for k in (1, 2, 3, 4)]
    for row, a, b in zip(rows, base, other, strict=True):
        assert row.value == pytest.approx(b.value - a.value)
        assert row.images == a.images


def sentence(result, metric="AP", images=5000, **found):
    """The verdict with an interval of our own."""
    changed = type(result)(**{**vars(result), "images": images})
    changed.differences = {name: {metric: Interval(*i)} for name, i in found.items()}
    return verdict(changed)


def test_the_sentence_says_what_is_decided(result):
    assert "finetune is better than frozen by 2.0 (95 % interval +1.0 to +3.0)" in sentence(
        result, finetune=(2.0, 1.0, 3.0)
    )
    assert "finetune is worse than frozen by 2.0" in sentence(result, finetune=(-2.0, -3.0, -1.0))
    undecided = sentence(result, finetune=(2.0, -0.1, 3.0))
    assert "finetune against frozen is not decided (+2.0, -0.1 to +3.0)" in undecided
    assert "better" not in undecided
    assert "not over seeds of training" in undecided


def test_many_sides_are_sorted_out(result):
    """Three others: a list rather than a sentence each."""
    more = {"a": (2.0, 1.0, 3.0), "b": (-2.0, -3.0, -1.0), "c": (0.5, -1.0, 2.0)}
    changed = type(result)(**{**vars(result), "shown": {}})
    changed.sides = [result.base] + [Side(name, result.base.runs) for name in more]
    changed.differences = {name: {"AP": Interval(*i)} for name, i in more.items()}
    said = verdict(changed)
    assert "held to frozen, better: a +2.0 (+1.0 to +3.0); worse: b -2.0" in said
    assert "not decided: c +0.5 (-1.0 to +2.0)" in said
    assert "Of 3 comparisons at 95 % each" in said
    page = render(comparison_page(changed))
    assert "AP minus that of frozen" in page


def test_seeds_that_overlap_are_said(result, evaluated):
    overlap = "Single seeds of finetune and of frozen overlap"
    assert overlap not in sentence(result, finetune=(2.0, 1.0, 3.0))  # they are far apart
    run = result.sides[1].runs[0].evaluations["drawn"]
    before = run.results["metrics"]["bbox"]["AP"]
    try:
        run.results["metrics"]["bbox"]["AP"] = 99.0
        assert overlap in sentence(result, finetune=(2.0, 1.0, 3.0))
        assert overlap not in sentence(result, finetune=(2.0, -1.0, 3.0))
    finally:
        run.results["metrics"]["bbox"]["AP"] = before


def test_one_seed_a_side_is_said(evaluated):
    result = compare(read(evaluated, "frozen_s1", "finetune_s1"), draws=20)
    assert "how much another seed of training would change is not in it" in verdict(result)


def test_the_base_can_be_chosen(evaluated):
    result = compare(read(evaluated, *FOUR), base="finetune", draws=20)
    assert result.base.name == "finetune"
    with pytest.raises(UserError, match="no such side; there are frozen, finetune"):
        compare(read(evaluated, *FOUR), base="scratch", draws=20)


def test_a_run_without_evaluation_is_said_and_the_rest_shown(evaluated, tmp_path):
    bare = read_run(make_run(tmp_path / "bare", seed=3, mode="scratch"))
    result = compare([*read(evaluated, *FOUR), bare], draws=20)
    assert [side.name for side in result.sides] == ["frozen", "finetune"]
    assert any(line.startswith("bare: the run has no evaluation") for line in result.missing)
    with pytest.raises(UserError, match="only one side with an evaluation, frozen"):
        compare([*read(evaluated, "frozen_s1"), bare])


def test_an_interrupted_run_is_compared_and_said(evaluated, tmp_path):
    run = tmp_path / "frozen_s1"
    shutil.copytree(evaluated / "frozen_s1", run)
    record = run_folder.read_json(run / "run.json") | {"status": "interrupted"}
    run_folder.write_json(run / "run.json", record)
    result = compare([read_run(run), *read(evaluated, "finetune_s1")], draws=20)
    assert any("frozen_s1: the run was interrupted" in line for line in result.missing)


def test_without_predictions_there_are_tables_and_no_intervals(evaluated, tmp_path, no_drawings):
    run = tmp_path / "frozen_s1"
    shutil.copytree(evaluated / "frozen_s1", run)
    (run / "eval/drawn/predictions/part-0.npz").unlink()
    result = compare([read_run(run), *read(evaluated, "finetune_s1")], draws=20)
    assert result.differences == {}
    assert any("has no predictions" in line for line in result.missing)
    page = render(comparison_page(result))
    assert Tables(page).row("frozen", "1")[2] == shown(ap(evaluated, "frozen_s1"))
    assert "Whether that is more than the choice of these images is not known" in page


def test_what_all_runs_lack_is_said_once(evaluated):
    runs = read(evaluated, "frozen_s1", "finetune_s1")
    for run in runs:
        run.missing.append("no cake")
    runs[0].missing.append("no tea")
    assert compare(runs, draws=5).missing == ["all runs: no cake", "frozen_s1: no tea"]


def test_other_data_is_refused(evaluated, tmp_path):
    from det_transfer.testing import make_tiny_dataset

    data = make_tiny_dataset(tmp_path / "data", images=20, classes=4, style="lvis", seed=9)
    other = make_evaluated_run(tmp_path / "other", data, "finetune", 1, 2.0)
    with pytest.raises(UserError, match="the annotation files differ"):
        compare([*read(evaluated, "frozen_s1"), read_run(other)])
    data = make_tiny_dataset(tmp_path / "three", images=20, classes=3, style="lvis")
    other = make_evaluated_run(tmp_path / "more", data, "finetune", 1, 2.0)
    with pytest.raises(UserError, match="4 classes against 3"):
        compare([*read(evaluated, "frozen_s1"), read_run(other)])


def test_a_figure_of_factors(evaluated, no_drawings):
    """Two modes under two rates, as decoders under schedules in a paper."""
    runs = []
    for mode in ("frozen", "finetune"):
        for rate in (0.01, 0.02):
            source = read_run(evaluated / f"{mode}_s1")
            source.config |= {"SOLVER.BASE_LR": rate}
            runs.append(source)
    result = compare(runs, draws=10)
    page = render(comparison_page(result))
    assert "AP by mode, base_lr" in page
    numbers = next(t for t in Tables(page).tables if t[0][0] == "SOLVER.BASE_LR")
    assert numbers[0][1:] == ["frozen", "finetune"]
    assert numbers[1] == [
        "0.01",
        shown(ap(evaluated, "frozen_s1")),
        shown(ap(evaluated, "finetune_s1")),
    ]
    page = render(comparison_page(result, factors=["SOLVER.BASE_LR", "MODEL.REUSE.MODE"]))
    assert "AP by base_lr, mode" in page


def test_the_program(evaluated, tmp_path, capsys, monkeypatch, no_drawings):
    page, numbers = tmp_path / "page.html", tmp_path / "docs/results/numbers.json"
    words = [*(str(evaluated / name) for name in FOUR), "--draws", "50", "--output", str(page)]
    monkeypatch.setattr("sys.argv", ["compare_runs.py", *words])
    more = ["--output-json", str(numbers), "--title", "Two modes"]
    program.main(program.parse([*words, *more]))
    said = capsys.readouterr().out
    assert "finetune - frozen" in said
    assert "On drawn (24 images)" in said
    assert "<title>Two modes</title>" in page.read_text(encoding="utf-8")
    found = json.loads(numbers.read_text())
    assert found["results"]["finetune - frozen"]["AP"].keys() == {"median", "min", "max"}
    assert found["command"].startswith("python tools/compare_runs.py ")
    assert found["machine"]["devices"]  # those that the runs name
    shown = results_page(tmp_path)
    assert b"finetune - frozen" in next(iter(shown.values()))  # the page of results takes it
    with pytest.raises(UserError, match="--draws is 0"):
        program.main(program.parse([*words, "--draws", "0"]))


def test_the_same_runs_give_the_same_page(page, evaluated):
    again = compare(read(evaluated, *FOUR), draws=100)
    assert render(comparison_page(again)) == page


def test_smoothed_line():
    counts = [1, 10, 100, 1000]
    x, y = smoothed(counts, [2.0] * 4)
    assert y == pytest.approx(2.0)
    assert x[0] == pytest.approx(1)
    assert x[-1] == pytest.approx(1000)
    _, rising = smoothed(counts, [1.0, 2.0, 3.0, 4.0])
    assert (rising[1:] >= rising[:-1] - 1e-9).all()
    assert [len(part) for part in smoothed([5, 5], [1.0, 2.0])] == [0, 0]
    assert [len(part) for part in smoothed([5], [1.0])] == [0, 0]


def test_groups_by_frequency_or_by_count():
    rows = [
        ClassRow("a", 1.0, 500, 900, "r", 3),  # the json's word goes before the count
        ClassRow("b", 3.0, 10, 20, None, 3),
        ClassRow("c", 5.0, 11, 20, None, 3),
        ClassRow("d", 7.0, 101, 20, None, 3),
        ClassRow("e", None, 101, 20, None, 0),
        ClassRow("f", 9.0, None, None, None, 3),
    ]
    assert bins(rows) == [("rare", 2, 2.0, 2.0), ("common", 1, 5.0, 5.0), ("frequent", 1, 7.0, 7.0)]
