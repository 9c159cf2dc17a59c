"""The report that ends a training, and that none can fail it."""

import csv

from det_transfer import run_folder


def test_a_run_ends_with_its_report(train, tmp_path, tiny_coco):
    train("TEST.WRITE_REPORT", True)
    run = tmp_path / "run"
    page = (run / "report.html").read_text(encoding="utf-8")
    record = run_folder.read_json(run / "run.json")
    assert f"Box AP {record['results']['bbox']['AP']:.1f} on tiny" in page
    assert "finished" in page
    assert record["step_operations"] > 1e6
    with (run / "train_classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == record["classes"]
    assert sum(int(row["objects"]) for row in rows) == record["train_objects"]
    assert all(0 < int(row["images"]) <= int(row["objects"]) for row in rows)
    results = run_folder.read_json(run / "eval/tiny/results.json")
    assert results["json_sha256"] == run_folder.sha256(tiny_coco[0])
    assert results["image_root"] == str(tiny_coco[1])
    assert run_folder.read_train_classes(run)[0][0] == record["classes"][0]


def test_a_report_that_fails_does_not_fail_the_run(train, tmp_path, monkeypatch):
    def broken(_):
        raise OSError("no space left")

    monkeypatch.setattr("det_transfer.report.run_page.make_report", broken)
    trainer = train("TEST.WRITE_REPORT", True, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,))
    assert trainer.iter + 1 >= trainer.max_iter
    run = tmp_path / "run"
    assert run_folder.read_json(run / "run.json")["status"] == "finished"
    assert not (run / "report.html").exists()
    said = (run / "log.txt").read_text()
    assert said.count("the report could not be made (OSError: no space left)") == 1


def test_a_run_can_do_without(train, tmp_path):
    train("TEST.WRITE_REPORT", False, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,))
    assert not (tmp_path / "run/report.html").exists()
