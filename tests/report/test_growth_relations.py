"""The nine order relations on made-up results, and the pages that show them."""

import csv
import random
import statistics

import pytest
from made_up_plans import make_plan, write_results
from scipy.stats import ttest_1samp

from det_transfer.errors import UserError
from det_transfer.report.growth_page import write_page, write_relations
from det_transfer.report.growth_relations import (
    RELATIONS,
    by_relation,
    examine,
    text,
    verdict_of,
    write_csv,
)


def two_rows(folder, left, right, seeds=None):
    """A Table 8 with these values of two-steps and of one-step."""
    rows = [
        {"run": f"{name}_s{seed}", "seed": seed, "accuracy/top1": value}
        for name, values in (("two-steps", left), ("one-step", right))
        for seed, value in enumerate(values, 1)
    ]
    return write_results(folder / "growth_table8", rows)


def of_table8(folder):
    return next(found for found in examine([folder]) if found.relation.number == 8)


def test_there_are_nine_and_the_paper_has_them():
    assert [relation.number for relation in RELATIONS] == list(range(1, 10))
    for relation in RELATIONS:
        for c in relation.comparisons:
            difference = c.left.paper - c.right.paper
            assert difference > 0 if c.order == "above" else abs(difference) < 2.5, str(c)


def test_all_are_reproduced_by_the_papers_own_numbers(tmp_path):
    folders = [make_plan(tmp_path, number, spread=0.0) for number in (1, 3, 4, 7, 8)]
    found = examine(folders)
    assert {verdict_of(group) for _, group in by_relation(found)} == {"reproduced"}
    assert all(f.difference == pytest.approx(f.paper) for f in found if not f.comparison.left.block)
    assert len(list(by_relation(found))) == 9


def test_the_interval_is_students(tmp_path):
    rng = random.Random(1)
    left, right = ([50 + rng.gauss(0, 2) for _ in range(5)] for _ in range(2))
    one = of_table8(two_rows(tmp_path, left, right))
    differences = [a - b for a, b in zip(left, right, strict=True)]
    reference = ttest_1samp(differences, 0).confidence_interval(0.95)
    assert one.difference == pytest.approx(statistics.fmean(differences))
    assert (one.low, one.high) == pytest.approx((reference.low, reference.high))
    assert one.n == 5


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        ([52.0, 52.1, 52.2], [50.0, 50.2, 50.1], "reproduced"),
        ([50.0, 50.2, 50.1], [52.0, 52.1, 52.2], "not reproduced"),
        ([50.0, 54.0, 50.0], [51.0, 50.0, 50.0], "not decided"),
        ([52.0], [50.0], "not decided"),
        ([], [50.0], "not measured"),
    ],
)
def test_verdicts(tmp_path, left, right, verdict):
    assert of_table8(two_rows(tmp_path, left, right)).verdict == verdict


def test_equal_and_at_least_have_a_margin(tmp_path):
    def verdicts(ft):
        """Of relation 3, DA-without not below FT, in scope New."""
        for name, row, value in (("1", "FT", ft), ("3", "DA-without", 50.0)):
            rows = [
                {"run": f"target_{row}_New_s{s}", "method": row, "scope": "New", "seed": s}
                | {"accuracy/top1": value + noise}
                for s, noise in ((1, 0.0), (2, 0.1))
            ]
            write_results(tmp_path / f"table{name}", rows)
        found = examine([tmp_path / "table1", tmp_path / "table3"])
        return next(f.verdict for f in found if f.relation.number == 3)

    assert verdicts(50.5) == "reproduced"  # half a point below is not below
    assert verdicts(52.0) == "not reproduced"


def test_one_comparison_against_it_decides(tmp_path):
    folder = make_plan(tmp_path, 1, spread=0.0)
    rows = list(csv.DictReader((folder / "results.csv").open()))
    for row in rows:
        if row["run"].startswith("target_WA_New"):
            row["accuracy/top1"] = 10.0
    write_results(folder, rows)
    verdicts = {r.number: verdict_of(group) for r, group in by_relation(examine([folder]))}
    assert verdicts[1] == "not reproduced"
    assert verdicts[3] == "not measured"


def test_folders_that_cannot_be_told_apart(tmp_path):
    folder = make_plan(tmp_path, 8)
    with pytest.raises(UserError, match="which table of the paper"):
        examine([write_results(tmp_path / "mine", [{"run": "a", "accuracy/top1": 1}])])
    with pytest.raises(UserError, match="both table 8"):
        examine([folder, folder])
    with pytest.raises(UserError, match="carry out the plan first"):
        examine([tmp_path / "growth_table1"])


def test_text_and_csv(tmp_path):
    found = examine([make_plan(tmp_path, 8, spread=0.0)])
    lines = text(found).splitlines()
    at = lines.index("8. grown over two tasks is above grown once: REPRODUCED")
    assert lines[at + 1] == (
        "     two-steps > one-step: +13.0 (+13.0 to +13.0), 3 seeds; paper +13.0; reproduced"
    )
    write_csv(tmp_path / "relations.csv", found)
    rows = list(csv.DictReader((tmp_path / "relations.csv").open()))
    assert len(rows) == sum(len(relation.comparisons) for relation in RELATIONS)
    eighth = next(row for row in rows if row["relation"] == "8")
    assert (eighth["left"], eighth["seeds"], eighth["paper"]) == ("two-steps", "3", "13.0")
    first = next(row for row in rows if row["relation"] == "1")
    assert (first["verdict"], first["difference"]) == ("not measured", "")


def test_the_page_of_a_plan(tmp_path):
    folder = make_plan(tmp_path, 1, runs=True)
    written = write_page(folder)
    assert [path.name for path in written] == ["table.csv", "table.md", "table.html"]
    page = written[-1].read_text()
    assert "Growing a Brain, table 1" in page
    assert "<td>53.63</td>" in page
    assert "source: 24.2" in page
    assert "Training loss, FC7-New" in page
    assert "Each block alone, WA, All" in page
    assert "order relations" in page


def test_pages_of_all_tables(tmp_path):
    folders = [make_plan(tmp_path, number, seeds=(1,)) for number in range(1, 9)]
    for folder in folders:
        assert write_page(folder)[-1].read_text().count("<svg") >= 1
    page = write_relations(folders, examine(folders), tmp_path / "new" / "place").read_text()
    assert "Of 9 order relations: 9 not decided" in page


def test_a_plan_of_ones_own(tmp_path):
    rows = [{"run": f"wide_s{s}", "seed": s, "accuracy/top1": 40.0 + s} for s in (1, 2)]
    page = write_page(write_results(tmp_path / "mine", rows))[-1].read_text()
    assert "Top-1 in percent, over 2 seeds." in page
    assert "<th>paper</th>" not in page
