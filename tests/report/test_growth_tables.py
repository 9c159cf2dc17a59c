"""A plan's results over seeds, with the paper's numbers beside them."""

import csv
import statistics
from pathlib import Path

import pytest

from det_transfer.errors import UserError
from det_transfer.report.conditions import Said
from det_transfer.report.growth import PAPER, gather, page, write_csv
from det_transfer.report.growth_relations import examine
from det_transfer.report.growth_results import collect_growth
from det_transfer.report.results import FOLDER, render
from det_transfer.run_folder import write_json


def results(path, rows):
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def table1(tmp_path):
    rows = [{"run": "source", "status": "finished", "accuracy/top1": 20.0}]
    for seed, value in ((1, 50.0), (2, 53.0)):
        for method, scope in (("FT", "New"), ("FT", "FC7-New"), ("DWA", "New")):
            rows.append(
                {
                    "run": f"target_{method}_{scope}_s{seed}",
                    "method": method,
                    "scope": scope,
                    "seed": seed,
                    "status": "finished",
                    "accuracy/top1": value + (scope == "FC7-New"),
                }
            )
    rows.append({"run": "target_WA_New_s1", "method": "WA", "scope": "New", "status": "to do"})
    return results(tmp_path / "results.csv", rows)


def test_over_seeds(table1, tmp_path):
    rows = gather(table1)
    found = {(row["row"], row["column"]): row for row in rows}
    assert found.keys() == {("source", ""), ("FT", "New"), ("FT", "FC7-New"), ("DWA", "New")}
    row = found["FT", "FC7-New"]
    assert (row["n"], row["mean"]) == (2, 52.5)
    assert row["std"] == pytest.approx(statistics.stdev([51, 54]))
    assert found["source", ""]["std"] is None
    write_csv(tmp_path / "table.csv", rows)
    assert len(list(csv.DictReader((tmp_path / "table.csv").open()))) == 4


def test_the_page(table1):
    text = page(gather(table1), 1, "Table 1")
    assert "| | New | FC7-New |" in text
    assert "| FT | 51.5 (2.1; 2) / 53.63 | 52.5 (2.1; 2) / 54.75 |" in text
    assert "| DWA | 51.5 (2.1; 2) / 56.07 | - / 56.41 |" in text
    assert "\nsource: 20.0 (1)\n" in text
    assert "| WA | - / 56.81 | - / 56.99 |" in text  # only the paper has it
    assert "| [1, 15] | - / 48.4 |  |" in text


def test_without_scopes_and_with_two_test_sets(tmp_path):
    rows = [
        {"run": "source", "accuracy/top1": 30.0},
        {"run": "back_WA_s1", "method": "WA", "seed": 1, "accuracy/top1": 25.0},
        {"run": "kept_LwF_s1", "method": "LwF", "seed": 1, "tiny_val/accuracy/top1": 28.0},
    ]
    text = page(gather(results(tmp_path / "r.csv", rows)), 4, "Table 4")
    assert "| source | 30.0 (1) / 56.9 |" in text
    assert "| back WA | 25.0 (1) / 51.5 |" in text
    assert "On tiny_val:" in text
    assert "| kept LwF | 28.0 (1) / 55.9 |" in text


def test_other_targets_than_the_papers(tmp_path):
    rows = [
        {"run": f"{m}_{d}_s1", "method": m, "target": d, "seed": 1, "accuracy/top1": 60.0}
        for m in ("FT", "WA")
        for d in ("digits", "grocery")
    ]
    text = page(gather(results(tmp_path / "r.csv", rows)), 5, "Table 5")
    assert "| | digits | grocery |" in text
    assert "| WA | 60.0 (1) | 60.0 (1) |" in text
    assert "| WA | 66.3 | 92.8 | 69.0 | 67.5 |" in text


def test_nothing_there_yet(tmp_path):
    with pytest.raises(UserError, match="carry out the plan first"):
        gather(tmp_path / "results.csv")
    empty = results(tmp_path / "r.csv", [{"run": "a", "accuracy/top1": ""}])
    with pytest.raises(UserError, match="no finished run yet"):
        gather(empty)


def test_the_papers_orders():
    """Relations that the text of the paper states, as a check of what was typed here."""
    one = PAPER[1]
    assert all(w > f for w, f in zip(one["WA"], one["FT"], strict=True))
    assert PAPER[3]["WA-with"] == one["WA"] == PAPER[2]["WA-2048"]
    assert PAPER[7]["WA-grow"] > PAPER[7]["WA-ori"] > PAPER[7]["CNN-FT"]
    assert all(len(row) == 4 for n in (1, 2, 3) for row in PAPER[n].values())


def test_as_results_of_the_project(tmp_path):
    folder = tmp_path / "output" / "growth_table8"
    values = {"one-step": 50.0, "two-steps": 60.0}
    names = [f"{row}_s{seed}" for row in values for seed in (1, 2)]
    results(
        write_finished(folder, names) / "results.csv",
        [
            {"run": n, "seed": n[-1], "status": "finished"}
            | {"accuracy/top1": values[n[:-3]] + int(n[-1]) / 10}
            for n in names
        ]
        + [{"run": "two-steps_s3", "seed": 3, "status": "to do"}],
    )
    content = collect_growth(
        folder, tmp_path, Said("Two steps", "Does it help?", command=f"x {folder}")
    )
    assert [run["run"] for run in content["runs"]] == [f"output/growth_table8/{n}" for n in names]
    assert content["runs"][0]["command"] == "train OUTPUT_DIR output/growth_table8/one-step_s1"
    assert content["collected_by"] == "x output/growth_table8"
    assert [(r["seeds"], r["verdict"]) for r in content["relations"]] == [(2, "reproduced")]
    write_json(tmp_path / "docs" / "results" / "growth_table8.json", content)
    text = render(tmp_path)[FOLDER / "README.md"].decode()
    assert "## Two steps\n\nDoes it help?" in text
    assert "| two-steps | 60.2 (0.1; 2) / 79.3 |" in text
    assert "- Relation 8, grown over two tasks is above grown once: reproduced." in text
    assert "| 8: two-steps > one-step | +10.0 | +10.0 to +10.0 | +13.0 | 2 | reproduced |" in text
    assert "Measured: 2026-01-02" in text
    assert str(tmp_path) not in text
    json = tmp_path / "docs" / "results" / "growth_table8.json"
    assert examine([json]) == examine([folder])
    (tmp_path / "docs" / "growth.md").write_text(
        "<!-- results:growth_relations -->\n<!-- /results -->\n"
    )
    text = render(tmp_path)[Path("docs/growth.md")].decode()
    said = "two-steps > one-step: +10.0 (+10.0 to +10.0; +13.0)"
    assert f"| 8. grown over two tasks is above grown once | reproduced | {said} |" in text
    assert text.count("| not measured |") == 8


def test_a_json_without_values(tmp_path):
    path = tmp_path / "growth_table8.json"
    write_json(path, {"title": "Two steps", "table": 8})
    with pytest.raises(UserError, match="'Two steps' has no values of seeds"):
        examine([path])


def test_what_cannot_be_collected(tmp_path):
    with pytest.raises(UserError, match="has no table of the paper in its name"):
        collect_growth(tmp_path, tmp_path, Said("", ""))
    folder = write_finished(tmp_path / "growth_table8", [])
    rows = [{"run": "one-step_s1", "seed": 1, "status": "finished", "accuracy/top1": 1.0}]
    results(folder / "results.csv", rows)
    with pytest.raises(UserError, match=r"one-step_s1 has no run.json"):
        collect_growth(folder, tmp_path, Said("", ""))


def write_finished(folder, names):
    """Run folders as far as they are collected."""
    for name in names:
        record = {
            "ended": "2026-01-02T03:04:05",
            "seed": int(name[-1]),
            "max_iteration": 300,
            "weights": "output/source/model_final.pth",
            "device": "cpu",
            "precision": "fp32",
            "processes": 1,
            "reuse": [],
            "peak_memory_bytes": {"host": 1},
            "results": {"accuracy": {"top1": 1.0}},
            "seconds": {"training": 12.0, "evaluation": 1.0, "step_median": 0.1},
            "versions": {"torch": "2.14.1"},
            "command": f"train OUTPUT_DIR {folder / name}",
        }
        write_json(folder / name / "run.json", record)
        (folder / name / "config.yaml").write_text("SEED: 1\n")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
